"""Many models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._optional import require
from ..interactions import stored_interactions
from ..scorers import (
    MultiRankingScorer,
    RankingScorer,
    ndcg_at_k,
    recall_at_k,
    values_of_lists,
)
from ._shared import in_words, line_style, means_and_errors, with_a_value_per_user

SCORERS = (ndcg_at_k, recall_at_k.at(20))


class BenchmarkDisplay:
    """Metrics of many models, and the time of their fits: a row per model, the best on top.

    In each panel, the models that cannot be distinguished from the best are dark: the mean of
    their differences from it, user by user, is less than 1.96 of its standard errors.

    Make it with :meth:`from_estimator` or :meth:`from_predictions`; or of values of your own, such
    as the scores of a cross-validation.

    Parameters
    ----------
    values : dict of str to dict of str to array-like of shape (n_values,)
        For each model, by its name, the values of each metric, by its name: one per user, or one
        per split, of the same users or splits for all models. NaN are left out.
    fit_seconds : dict of str to float or None, default=None
        Seconds that the fit of each model took, for a panel of their own.

    Attributes
    ----------
    models_ : list of str
        Names of the models, the best by the first metric first.
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        A panel per metric, and one for the seconds.
    figure_ : matplotlib Figure
        Figure that holds the panels.

    See Also
    --------
    RankingCurveDisplay : One metric against the length of the lists.

    Notes
    -----
    The bars are those of each model's own mean. Users differ more than models do, so bars may
    overlap although one model is better for nearly all users; the colour tells. Among many models
    one in twenty is distinguished by chance.

    Examples
    --------
    >>> from skvaecf import EASE, BenchmarkDisplay, Popularity
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> models = {"popular": Popularity().fit(X[:200]), "EASE": EASE(l2=10).fit(X[:200])}
    >>> BenchmarkDisplay.from_estimator(models, X[200:]).models_
    ['EASE', 'popular']

    Scores of splits:

    >>> from sklearn.model_selection import cross_val_score
    >>> from skvaecf import UserSplitter
    >>> cv = UserSplitter(n_splits=3, random_state=0)
    >>> scores = {name: {"NDCG@100": cross_val_score(m, X, cv=cv)} for name, m in models.items()}
    >>> BenchmarkDisplay(scores).plot().models_
    ['EASE', 'popular']
    """

    def __init__(
        self,
        values: Mapping[str, Mapping[str, Any]],
        *,
        fit_seconds: Mapping[str, float] | None = None,
    ) -> None:
        self.values = values
        self.fit_seconds = fit_seconds

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        scorers: Sequence[RankingScorer] = SCORERS,
        fit_seconds: Mapping[str, float] | None = None,
        error_bar: float | None = 1.96,
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
        scorers : sequence of RankingScorer, default=(ndcg_at_k, recall_at_k.at(20))
            The metrics; the first one ranks the models.
        fit_seconds : dict of str to float or None, default=None
            Seconds that the fit of each model took, for a panel of their own.
        error_bar : float or None, default=1.96
            Half the width of the bars, in standard errors of the mean. None draws no bars.
        ax : matplotlib Axes, array-like of them or None, default=None
            Where to draw, one for each panel. None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : BenchmarkDisplay

        Raises
        ------
        ValueError
            If a metric has no value per user (coverage), an argument is invalid, or fewer than
            two users have anything held out.
        """
        together = MultiRankingScorer(with_a_value_per_user(scorers))
        one = not isinstance(estimator, Mapping)
        models = {type(estimator).__name__: estimator} if one else estimator
        values = {name: together.per_user(model, X, y) for name, model in models.items()}
        return cls(values, fit_seconds=fit_seconds).plot(error_bar=error_bar, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        ranked: Any,
        heldout: Any,
        *,
        scorers: Sequence[RankingScorer] = SCORERS,
        fit_seconds: Mapping[str, float] | None = None,
        name: str = "model",
        error_bar: float | None = 1.96,
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
        scorers : sequence of RankingScorer, default=(ndcg_at_k, recall_at_k.at(20))
            The metrics; the first one ranks the models.
        fit_seconds : dict of str to float or None, default=None
            Seconds that the fit of each model took, for a panel of their own.
        name : str, default="model"
            Name of the model, if ``ranked`` are the lists of one.
        error_bar : float or None, default=1.96
            Half the width of the bars, in standard errors of the mean. None draws no bars.
        ax : matplotlib Axes, array-like of them or None, default=None
            Where to draw, one for each panel. None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : BenchmarkDisplay

        Raises
        ------
        ValueError
            If a metric has no value per user (coverage), an argument is invalid, or fewer than
            two users have anything held out.
        """
        scorers = with_a_value_per_user(scorers)
        heldout = stored_interactions(heldout, "heldout")
        lists = ranked if isinstance(ranked, Mapping) else {name: ranked}
        values = {
            model: {scorer.name: values_of_lists(scorer, of_model, heldout) for scorer in scorers}
            for model, of_model in lists.items()
        }
        return cls(values, fit_seconds=fit_seconds).plot(error_bar=error_bar, ax=ax, **kwargs)

    def plot(self, *, error_bar: float | None = 1.96, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the panels.

        Parameters
        ----------
        error_bar : float or None, default=1.96
            Half the width of the bars, in standard errors of the mean. None draws no bars.
        ax : matplotlib Axes, array-like of them or None, default=None
            Where to draw, one for each panel. None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : BenchmarkDisplay
            Itself.

        Raises
        ------
        ValueError
            If there are no models, they have not the same metrics with as many values each, two at
            least, or not a time above 0 each; or another number of axes.
        """
        if not self.values:
            raise ValueError("values must hold one model or more, got none.")
        metrics = list(next(iter(self.values.values())))
        if any(list(of_model) != metrics for of_model in self.values.values()):
            raise ValueError(f"values must hold the metrics {metrics} for every model.")
        table = {
            metric: np.array([of_model[metric] for of_model in self.values.values()], dtype=float)
            for metric in metrics
        }  # (n_models, n_values) each
        timed = self.fit_seconds
        if timed is not None and not all(timed.get(model, 0) > 0 for model in self.values):
            raise ValueError(f"fit_seconds must be above 0 for every model, got {timed!r}.")
        order = np.argsort(-means_and_errors(table[metrics[0]])[0], kind="stable")
        self.models_ = [list(self.values)[model] for model in order]
        panels = metrics if self.fit_seconds is None else [*metrics, "fit, seconds"]
        axes = _beside(len(panels), len(order)) if ax is None else np.ravel(ax)
        if len(axes) != len(panels):
            raise ValueError(f"ax must have {len(panels)} axes, one per panel, got {len(axes)}.")

        for panel, metric in zip(axes, metrics, strict=False):
            values = table[metric][order]
            means, errors = means_and_errors(values)
            behind, its_error = means_and_errors(values[means.argmax()] - values)
            half = None if error_bar is None else error_bar * errors
            _dots(panel, means, half, behind > 1.96 * its_error, "{:.3f}", **kwargs)
        if self.fit_seconds is not None:
            seconds = np.array([self.fit_seconds[model] for model in self.models_], dtype=float)
            _dots(axes[-1], seconds, None, seconds > seconds.min(), "{:.3g}", **kwargs)
            axes[-1].set(xscale="log")
        for panel, title in zip(axes, panels, strict=True):
            panel.set(ylim=(len(order) - 0.5, -0.5), title=in_words(title))
            panel.set_yticks(range(len(order)), self.models_)
            panel.tick_params(axis="y", length=0, labelleft=panel is axes[0])
            panel.margins(x=0.2)
            panel.grid(axis="y", color="0.9")
            panel.set_axisbelow(True)
            panel.spines[["top", "right", "left"]].set_visible(False)
        self.axes_ = axes
        self.figure_ = axes[0].figure
        return self


def _dots(
    panel: Any,
    values: NDArray[np.float64],
    half: NDArray[np.float64] | None,
    pale: NDArray[np.bool_],
    label: str,
    **kwargs: Any,
) -> None:
    """Draw a dot with its bar and its value for every row."""
    rows = np.arange(len(values))
    for group, color in ((~pale, "#12566e"), (pale, "#8fbccb")):
        style = line_style(kwargs, marker="o", linestyle="none", color=color)
        xerr = None if half is None else half[group]
        panel.errorbar(values[group], rows[group], xerr=xerr, **style)
    ends = values if half is None else values + half
    for row, value, right in zip(rows, values, ends, strict=True):
        panel.annotate(
            label.format(value),
            (right, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )


def _beside(n: int, n_rows: int) -> NDArray[Any]:
    """Make a figure of n axes in a row that share their y axis of n_rows lines."""
    plt = require("matplotlib.pyplot")
    size = (1.5 + 2.6 * n, 1 + 0.3 * n_rows)
    _, axes = plt.subplots(1, n, figsize=size, sharey=True, layout="constrained", squeeze=False)
    panels: NDArray[Any] = axes[0]
    return panels
