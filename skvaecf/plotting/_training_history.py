"""Display of the losses and scores of each epoch of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

from sklearn.utils.validation import check_is_fitted

from ._shared import in_words, panels

# Entries of ``history_`` that have no panel.
NO_PANEL = {"epoch", "seconds"}


@dataclass(eq=False, repr=False)
class TrainingHistoryDisplay:
    """Display of the values that a recommender recorded in each epoch, one panel per value.

    Create it with :meth:`from_estimator` or from a saved ``history_``.

    Parameters
    ----------
    history : list of dict
        One record per epoch, as in ``history_``: its number as "epoch", and losses or scores by
        name.
    best_iter : int or None, default=None
        Epoch whose parameters were kept. It is marked in every panel.
    name : str or None, default=None
        Name of the recommender, for the title.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        The panels.
    lines_ : dict of str to matplotlib Line2D
        Curve of each recorded value, by name.
    figure_ : matplotlib Figure
        Figure that holds the panels.

    See Also
    --------
    RankingCurveDisplay : Metrics of fitted models against the length of the lists.
    RankingMonitor : Records further scores in each epoch.

    Examples
    --------
    >>> from skvaecf import WMF, TrainingHistoryDisplay
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = WMF(n_components=8, max_epochs=5, tol=0, random_state=0).fit(X)
    >>> display = TrainingHistoryDisplay.from_estimator(model)
    >>> len(display.lines_["objective"].get_xdata())
    5
    """

    history: Sequence[Mapping[str, float]]
    _: KW_ONLY
    best_iter: int | None = None
    name: str | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        figures: Sequence[str] | None = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the history of a fitted recommender.

        Parameters
        ----------
        estimator : fitted recommender
            A recommender that has ``history_``.
        figures : sequence of str or None, default=None
            Names in ``history_`` of the values to draw. With None, all are drawn.
        name : str or None, default=None
            Name for the title. None stands for the name of the class.
        ax : matplotlib Axes, array-like of Axes or None, default=None
            Axes to draw in, one for each value. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : TrainingHistoryDisplay

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        TypeError
            If the recommender has no ``history_``.
        ValueError
            If a name is not in ``history_``, or if the number of axes is wrong.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "history_"):
            raise TypeError(
                f"estimator must have history_, which {type(estimator).__name__} does not have."
            )
        name = type(estimator).__name__ if name is None else name
        best_iter = getattr(estimator, "best_iter_", None)
        display = cls(estimator.history_, best_iter=best_iter, name=name)
        return display.plot(figures=figures, ax=ax, **kwargs)

    def plot(self, *, figures: Sequence[str] | None = None, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the panels.

        Parameters
        ----------
        figures : sequence of str or None, default=None
            Names in the history of the values to draw. With None, all are drawn.
        ax : matplotlib Axes, array-like of Axes or None, default=None
            Axes to draw in, one for each value. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : TrainingHistoryDisplay
            This display.

        Raises
        ------
        ValueError
            If a name is not in the history, or if the number of axes is wrong.
        """
        if not self.history:
            raise ValueError("history must hold one epoch or more, got none.")
        recorded = [key for key in self.history[0] if key not in NO_PANEL]
        names = recorded if figures is None else list(figures)
        if isinstance(figures, str) or not names or not set(names) <= set(recorded):
            raise ValueError(f"figures must be a list of names in {recorded}, got {figures!r}.")
        axes = panels(len(names), ax, (3.6, 2.8) if len(names) > 1 else (5.5, 4))

        epochs = [record["epoch"] for record in self.history]
        self.lines_ = {}
        for panel, key in zip(axes, names, strict=True):
            values = [record[key] for record in self.history]
            (self.lines_[key],) = panel.plot(epochs, values, **kwargs)
            if self.best_iter is not None:
                panel.axvline(self.best_iter, color="0.6", linestyle=":", zorder=0)
            panel.set(xlabel="epoch", title=in_words(key))
        self.axes_ = axes
        self.figure_ = axes[0].figure
        if ax is None and self.name is not None:
            kept = "" if self.best_iter is None else f", epoch {self.best_iter} kept"
            self.figure_.suptitle(f"{self.name}{kept}")
        return self
