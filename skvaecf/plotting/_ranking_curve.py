"""A metric against the length of the lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..interactions import stored_interactions
from ..metrics import PerUser
from ..scorers import MultiRankingScorer, RankingScorer, ndcg_at_k, values_of_lists
from ._shared import (
    in_words,
    line_style,
    means_and_errors,
    panels,
    with_a_value_per_user,
)

K_VALUES = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class RankingCurve:
    """A metric of one model against the length k of the lists.

    Attributes
    ----------
    mean : ndarray of shape (n_k_values,)
        Mean over the users who have something held out.
    standard_error : ndarray of shape (n_k_values,)
        Its standard error.
    """

    mean: NDArray[np.float64]
    standard_error: NDArray[np.float64]

    @classmethod
    def of(cls, values: Iterable[PerUser]) -> Self:
        """Compute them from the values per user at each k; NaN are left out."""
        return cls(*means_and_errors(np.array(list(values))))


class RankingCurveDisplay:
    """A ranking metric against the length k of the lists, for one model or several.

    Make it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    k_values : sequence of int
        Lengths of the lists.
    curves : dict of str to RankingCurve
        Means and standard errors of each model, by its name.
    metric : str
        Name of the metric, for the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the curves.
    lines_ : dict of str to matplotlib Line2D
        The curve of each model.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    RankingScorer : The metric at one k.
    BenchmarkDisplay : Several metrics of many models.
    TrainingHistoryDisplay : What happened in the training of one model.

    Notes
    -----
    The bands are those of each model's own mean. Users differ more than models do, and all models
    are asked for the same items, so two bands may overlap although one model is better for nearly
    all users: compare ``per_user`` values of a scorer, user by user, to tell.

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

    def __init__(
        self, k_values: Sequence[int], curves: Mapping[str, RankingCurve], *, metric: str
    ) -> None:
        self.k_values = k_values
        self.curves = curves
        self.metric = metric

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
        """Score fitted models and draw.

        Parameters
        ----------
        estimator : fitted estimator or dict of str to fitted estimator
            One model, or several by name. They need ``predict`` only, so Pipelines will do.
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users to score, as for a :class:`RankingScorer`.
        y : sparse matrix of shape (n_users, n_items) or None, default=None
            Their held-out interactions. None holds out a fifth of each row of X.
        scorer : RankingScorer, default=ndcg_at_k
            The metric and the way of the cut; its ``k`` is of no account.
        k_values : sequence of int, default=(1, 2, 5, 10, 20, 50, 100)
            Lengths of the lists.
        error_band : float or None, default=1.96
            Half the width of the bands, in standard errors of the mean over the users. None draws
            no bands.
        ax : matplotlib Axes or None, default=None
            Where to draw. None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RankingCurveDisplay

        Raises
        ------
        ValueError
            If the metric has no value per user (coverage), an argument is invalid, or fewer than
            two users have anything held out.
        """
        scorers = MultiRankingScorer(_at_all(scorer, k_values))
        one = not isinstance(estimator, Mapping)
        models = {type(estimator).__name__: estimator} if one else estimator
        curves = {
            name: RankingCurve.of(scorers.per_user(model, X, y).values())
            for name, model in models.items()
        }
        display = cls(k_values, curves, metric=scorer.name.partition("@")[0])
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
        """Score ranked lists and draw.

        Parameters
        ----------
        ranked : ndarray of shape (n_users, n_places), int, or dict of str to such
            Lists of one model, or of several by name: item numbers, best first, as ``recommend``
            gives them. Places that are missing up to a k count as empty.
        heldout : sparse matrix of shape (n_users, n_items)
            Held-out interactions.
        scorer : RankingScorer, default=ndcg_at_k
            The metric; its ``k`` and cut are of no account.
        k_values : sequence of int, default=(1, 2, 5, 10, 20, 50, 100)
            Lengths of the lists.
        name : str, default="model"
            Name of the model, if ``ranked`` are the lists of one.
        error_band : float or None, default=1.96
            Half the width of the bands, in standard errors of the mean over the users. None draws
            no bands.
        ax : matplotlib Axes or None, default=None
            Where to draw. None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RankingCurveDisplay

        Raises
        ------
        ValueError
            If the metric has no value per user (coverage), an argument is invalid, or fewer than
            two users have anything held out.
        """
        scorers = _at_all(scorer, k_values)
        heldout = stored_interactions(heldout, "heldout")
        lists = ranked if isinstance(ranked, Mapping) else {name: ranked}
        curves = {
            model: RankingCurve.of(values_of_lists(s, of_model, heldout) for s in scorers)
            for model, of_model in lists.items()
        }
        display = cls(k_values, curves, metric=scorer.name.partition("@")[0])
        return display.plot(error_band=error_band, ax=ax, **kwargs)

    def plot(self, *, error_band: float | None = 1.96, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        error_band : float or None, default=1.96
            Half the width of the bands, in standard errors of the mean over the users. None draws
            no bands.
        ax : matplotlib Axes or None, default=None
            Where to draw. None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RankingCurveDisplay
            Itself.
        """
        ax = panels(1)[0] if ax is None else ax
        ks = np.asarray(self.k_values)
        self.lines_ = {}
        for name, curve in self.curves.items():
            style = line_style(kwargs, label=name, marker="o", markersize=4)
            (line,) = ax.plot(ks, curve.mean, **style)
            if error_band is not None:
                half = error_band * curve.standard_error
                ax.fill_between(
                    ks,
                    curve.mean - half,
                    curve.mean + half,
                    color=line.get_color(),
                    alpha=0.15,
                    lw=0,
                )
            self.lines_[name] = line
        ax.set(xscale="log", xlabel="k, length of the list", ylabel=f"{in_words(self.metric)}@k")
        ax.set_xticks(ks, [str(k) for k in ks])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


def _at_all(scorer: RankingScorer, k_values: Sequence[int]) -> tuple[RankingScorer, ...]:
    if not len(k_values) or list(k_values) != sorted(set(k_values)):
        raise ValueError(f"k_values must be one or more ascending numbers, got {k_values!r}.")
    return with_a_value_per_user([scorer.at(k) for k in k_values])
