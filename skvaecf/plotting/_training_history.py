"""What happened in the training of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._shared import in_words, panels

# Columns of ``history_`` that are not figures of the training.
_NO_FIGURES = {"epoch", "iter", "seconds"}


class TrainingHistoryDisplay:
    """What an iterative recommender recorded of its training, one panel per figure.

    Make it with :meth:`from_estimator`, or of a saved ``history_``.

    Parameters
    ----------
    history : list of dict
        A record per epoch, as in ``history_``: its number, as "epoch" or "iter", and figures.
    best_iter : int or None, default=None
        Epoch whose parameters were kept; it is marked in every panel.
    name : str or None, default=None
        Name of the recommender, for the title.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_figures,)
        The panels.
    lines_ : dict of str to matplotlib Line2D
        The curve of each figure.
    figure_ : matplotlib Figure
        Figure that holds the panels.

    See Also
    --------
    RankingCurveDisplay : Metrics of fitted models against the length of the lists.

    Examples
    --------
    >>> from skvaecf import WMF, TrainingHistoryDisplay
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = WMF(n_components=8, max_iter=5, tol=0, random_state=0).fit(X)
    >>> display = TrainingHistoryDisplay.from_estimator(model)
    >>> len(display.lines_["objective"].get_xdata())
    5
    """

    def __init__(
        self,
        history: Sequence[Mapping[str, float]],
        *,
        best_iter: int | None = None,
        name: str | None = None,
    ) -> None:
        self.history = history
        self.best_iter = best_iter
        self.name = name

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
            One that has ``history_``.
        figures : sequence of str or None, default=None
            Which figures to draw, by their names in ``history_``. None draws all.
        name : str or None, default=None
            Name for the title. None takes that of the class.
        ax : matplotlib Axes, array-like of them or None, default=None
            Where to draw, one for each figure. None makes a new matplotlib figure.
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
            If it does not train by epochs.
        ValueError
            If there is no such figure, or another number of axes.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "history_"):
            raise TypeError(
                f"estimator must have history_, which {type(estimator).__name__} has not."
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
            Which figures to draw, by their names in the history. None draws all.
        ax : matplotlib Axes, array-like of them or None, default=None
            Where to draw, one for each figure. None makes a new matplotlib figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : TrainingHistoryDisplay
            Itself.

        Raises
        ------
        ValueError
            If there is no such figure, or another number of axes.
        """
        if isinstance(figures, str):
            raise ValueError(f"figures must be a list of names, got {figures!r}.")
        if not self.history:
            raise ValueError("history must hold one epoch or more, got none.")
        recorded = [key for key in self.history[0] if key not in _NO_FIGURES]
        names = recorded if figures is None else list(figures)
        unknown = [key for key in names if key not in recorded]
        if unknown or not names:
            raise ValueError(f"figures must be among {recorded}, got {figures!r}.")
        axes = panels(len(names)) if ax is None else np.ravel(ax)
        if len(axes) != len(names):
            raise ValueError(f"ax must have {len(names)} axes, one per figure, got {len(axes)}.")

        count = "epoch" if "epoch" in self.history[0] else "iter"
        epochs = [record[count] for record in self.history]
        self.lines_ = {}
        for panel, key in zip(axes, names, strict=True):
            values = [record[key] for record in self.history]
            (self.lines_[key],) = panel.plot(epochs, values, **kwargs)
            if self.best_iter is not None:
                panel.axvline(self.best_iter, color="0.6", linestyle=":", zorder=0)
            panel.set(xlabel="epoch" if count == "epoch" else "sweep", title=in_words(key))
            panel.spines[["top", "right"]].set_visible(False)
        self.axes_ = axes
        self.figure_ = axes[0].figure
        if ax is None and self.name is not None:
            kept = "" if self.best_iter is None else f", epoch {self.best_iter} kept"
            self.figure_.suptitle(f"{self.name}{kept}")
        return self
