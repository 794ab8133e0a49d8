"""A metric against the length of the lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..scorers import RankingScorer, ndcg_at_k
from ._shared import (
    Values,
    in_words,
    line_style,
    means_and_errors,
    panels,
    values_of_models,
    values_of_rankings,
)

K_VALUES = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class RankingCurve:
    """A metric of one model against the length k of the lists.

    Attributes
    ----------
    mean : ndarray of shape (n_k_values,)
        Mean over the users who have held-out interactions.
    standard_error : ndarray of shape (n_k_values,)
        Standard error of the mean.
    """

    mean: NDArray[np.float64]
    standard_error: NDArray[np.float64]


@dataclass(eq=False, repr=False)
class RankingCurveDisplay:
    """Display of a ranking metric against the length k of the lists, for one or several models.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    k_values : sequence of int
        Lengths of the lists.
    curves : dict of str to RankingCurve
        Means and standard errors of each model, by model name.
    metric : str
        Name of the metric, for the axis.
    lower_is_better : bool, default=False
        Whether lower values of the metric are better. The axis says so.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that hold the curves.
    lines_ : dict of str to matplotlib Line2D
        Curve of each model, by model name.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    RankingScorer : The metric at one k.
    BenchmarkDisplay : Several metrics of many models.
    TrainingHistoryDisplay : Losses and scores of each epoch of a fit.

    Notes
    -----
    Each band shows the uncertainty of the mean of one model. Users differ more than models, and all
    models are scored on the same held-out items. Two bands may therefore overlap although one model
    is better for nearly all users. To compare two models, compare the ``per_user`` values of a
    scorer, user by user.

    Examples
    --------
    >>> from skvaecf import EASE, Popularity, RankingCurveDisplay
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> models = {"EASE": EASE(l2=10).fit(X[:200]), "Popularity": Popularity().fit(X[:200])}
    >>> display = RankingCurveDisplay.from_estimator(models, X[200:], k_values=[1, 5, 10])
    >>> display.curves["EASE"].mean > display.curves["Popularity"].mean
    array([ True,  True,  True])
    """

    k_values: Sequence[int]
    curves: Mapping[str, RankingCurve]
    _: KW_ONLY
    metric: str
    lower_is_better: bool = False

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        scorer: RankingScorer = ndcg_at_k,
        k_values: Sequence[int] = K_VALUES,
        error_band: float | None = 1.96,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Score fitted models and draw their curves.

        Parameters
        ----------
        estimator : fitted estimator or dict of str to fitted estimator
            One model, or several by name. They need only ``predict``, so they may be Pipelines.
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users to score, as for a :class:`RankingScorer`.
        y : sparse matrix of shape (n_users, n_items) or None, default=None
            Held-out interactions of these users. With None, the scorer holds out part of each row
            of X: its ``test_size``, by default a fifth.
        scorer : RankingScorer, default=ndcg_at_k
            The metric and the settings of the split. Its ``k`` is not used.
        k_values : sequence of int, default=(1, 2, 5, 10, 20, 50, 100)
            Lengths of the lists.
        error_band : float or None, default=1.96
            Half the width of the bands, in standard errors of the mean over the users. With None,
            no bands are drawn.
        ax : matplotlib Axes or None, default=None
            Axes to draw in. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RankingCurveDisplay

        Raises
        ------
        ValueError
            If the metric has no value per user, as coverage, if an argument is invalid, or if fewer
            than two users have a value.
        """
        values = values_of_models(estimator, X, y, _at_each_k(scorer, k_values))
        display = cls._from_values(values, scorer, k_values)
        return display.plot(error_band=error_band, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        ranked: Any,
        heldout: Any,
        *,
        scorer: RankingScorer = ndcg_at_k,
        k_values: Sequence[int] = K_VALUES,
        name: str = "model",
        error_band: float | None = 1.96,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Score ranked lists and draw their curves.

        Parameters
        ----------
        ranked : ndarray of shape (n_users, n_places), int, or dict of str to such arrays
            Lists of one model, or of several by name: item numbers, best first, as returned by
            ``recommend``. If there are fewer than k places, the others count as empty.
        heldout : sparse matrix of shape (n_users, n_items)
            Held-out interactions.
        scorer : RankingScorer, default=ndcg_at_k
            The metric. Its ``k``, ``test_size`` and ``random_state`` are not used.
        k_values : sequence of int, default=(1, 2, 5, 10, 20, 50, 100)
            Lengths of the lists.
        name : str, default="model"
            Name of the model if ``ranked`` holds the lists of only one.
        error_band : float or None, default=1.96
            Half the width of the bands, in standard errors of the mean over the users. With None,
            no bands are drawn.
        ax : matplotlib Axes or None, default=None
            Axes to draw in. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RankingCurveDisplay

        Raises
        ------
        ValueError
            If the metric has no value per user, as coverage, if an argument is invalid, or if fewer
            than two users have a value.
        """
        values = values_of_rankings(ranked, heldout, _at_each_k(scorer, k_values), name)
        display = cls._from_values(values, scorer, k_values)
        return display.plot(error_band=error_band, ax=ax, **kwargs)

    @classmethod
    def _from_values(cls, values: Values, scorer: RankingScorer, k_values: Sequence[int]) -> Self:
        return cls(
            k_values,
            _curves(values),
            metric=scorer.name.partition("@")[0],
            lower_is_better=not scorer.greater_is_better,
        )

    def plot(self, *, error_band: float | None = 1.96, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        error_band : float or None, default=1.96
            Half the width of the bands, in standard errors of the mean over the users. With None,
            no bands are drawn.
        ax : matplotlib Axes or None, default=None
            Axes to draw in. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RankingCurveDisplay
            This display.
        """
        [ax] = panels(1, ax, size=(5.5, 4))
        ks = np.asarray(self.k_values)
        self.lines_ = {}
        for name, curve in self.curves.items():
            style = line_style(kwargs, label=name, marker="o", markersize=4)
            (line,) = ax.plot(ks, curve.mean, **style)
            self.lines_[name] = line
            if error_band is not None:
                half = error_band * curve.standard_error
                band = (curve.mean - half, curve.mean + half)
                ax.fill_between(ks, *band, color=line.get_color(), alpha=0.15, lw=0)
        better = " (lower is better)" if self.lower_is_better else ""
        ylabel = f"{in_words(self.metric)}@k{better}"
        ax.set(xscale="log", xlabel="k, length of the list", ylabel=ylabel)
        ax.set_xticks(ks, [str(k) for k in ks])
        ax.minorticks_off()
        ax.legend(frameon=False)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


def _at_each_k(scorer: RankingScorer, k_values: Sequence[int]) -> list[RankingScorer]:
    """Return the scorer at each k."""
    if not len(k_values) or list(k_values) != sorted(set(k_values)):
        raise ValueError(f"k_values must be one or more ascending numbers, got {k_values!r}.")
    return [scorer.at(k) for k in k_values]


def _curves(values: Values) -> dict[str, RankingCurve]:
    """Return the curve of each model from its values per user at each k."""
    curves = {}
    for model, at_each_k in values.items():
        per_user = np.array(list(at_each_k.values()))
        if per_user.ndim == 1:
            raise ValueError(
                f"scorer must have a value per user, which {next(iter(at_each_k))} does not have."
            )
        curves[model] = RankingCurve(*means_and_errors(per_user))
    return curves
