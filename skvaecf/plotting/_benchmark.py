"""Display of several metrics of many models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from .._paired_tests import paired_rows
from ..comparison import Comparison
from ..metrics import PerUser
from ..scorers import RankingScorer, ndcg_at_k, recall_at_k
from ._shared import (
    TOO_FEW_USERS,
    Values,
    in_words,
    line_style,
    panels,
    values_of_models,
    values_of_rankings,
)

SCORERS = (ndcg_at_k, recall_at_k.at(20))


@dataclass(eq=False, repr=False)
class BenchmarkDisplay:
    """Display of metrics of many models and the time of their fits; the best model is on top.

    The models of each panel that are not distinguishable from the best one are dark: the p-value of
    a paired test, with Holm's correction, is above ``alpha``.

    Create it with :meth:`from_comparison`, :meth:`from_estimator` or :meth:`from_predictions`, or
    from custom values, such as the scores of a cross-validation.

    Parameters
    ----------
    values : dict of str to dict of str to array-like of shape (n_values,)
        For each model name, the values of each metric by metric name: one value per user or one per
        split. The users or splits must be the same for all models. NaN values are left out.
    fit_seconds : dict of str to float or None, default=None
        Seconds that the fit of each model took. They get a separate panel.
    reference : str or None, default=None
        Name of the model with which the others are compared. With None, it is the best model of
        each metric.
    test : {"ttest_rel", "wilcoxon"} or callable, default="ttest_rel"
        Paired test, see :func:`compare`.
    alpha : float, default=0.05
        Level of the test.
    lower_is_better : collection of str, default=()
        Names of the metrics of which lower values are better. Their panels say so.

    Attributes
    ----------
    models_ : list of str
        Names of the models, those with the best means of the first metric first.
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        One panel per metric and, if they are given, one for the seconds.
    figure_ : matplotlib Figure
        Figure that holds the panels.

    See Also
    --------
    compare : Fits and scores the models.
    Comparison : The result of ``compare``, which it plots.
    RankingCurveDisplay : A metric against the length of the lists.

    Notes
    -----
    Each bar shows the uncertainty of the mean of one model. Users differ more than models, so bars
    may overlap although one model is better for nearly all users. The colour shows such a
    difference. Metrics of the catalogue, such as coverage, have no bars, and all their dots are
    dark.

    Examples
    --------
    >>> from skvaecf import EASE, BenchmarkDisplay, Popularity
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> models = {"popular": Popularity().fit(X[:200]), "EASE": EASE(l2=10).fit(X[:200])}
    >>> BenchmarkDisplay.from_estimator(models, X[200:]).models_
    ['EASE', 'popular']

    One value per split:

    >>> from sklearn.model_selection import cross_val_score
    >>> from skvaecf import UserSplitter
    >>> cv = UserSplitter(n_splits=3, random_state=0)
    >>> scores = {
    ...     name: {"NDCG@100": cross_val_score(model, X, cv=cv)} for name, model in models.items()
    ... }
    >>> BenchmarkDisplay(scores).plot().models_
    ['EASE', 'popular']
    """

    values: Values
    _: KW_ONLY
    fit_seconds: Mapping[str, float] | None = None
    reference: str | None = None
    test: str | Callable[..., Any] = "ttest_rel"
    alpha: float = 0.05
    lower_is_better: Collection[str] = ()

    @classmethod
    def from_comparison(
        cls,
        comparison: Comparison,
        *,
        error_bar: float | None = 1.96,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the result of :func:`compare`, with its reference, test and alpha.

        Parameters
        ----------
        comparison : Comparison
            The result.
        error_bar : float or None, default=1.96
            Half the width of the bars, in standard errors of the mean. With None, no bars are
            drawn.
        ax : matplotlib Axes, array-like of Axes or None, default=None
            Axes to draw in, one for each panel. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : BenchmarkDisplay

        Raises
        ------
        ValueError
            If an argument is invalid, or if fewer than two users have a value.
        """
        seconds = {model: fit["fit_seconds"] for model, fit in comparison.fits.items()}
        display = cls(
            comparison.per_user,
            fit_seconds=seconds,
            reference=comparison.reference,
            test=comparison.test,
            alpha=comparison.alpha,
            lower_is_better=comparison.lower_is_better,
        )
        return display.plot(error_bar=error_bar, ax=ax, **kwargs)

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
        """Score fitted models and draw the panels.

        Parameters
        ----------
        estimator : fitted estimator or dict of str to fitted estimator
            One model, or several by name. They need only ``predict``, so they may be Pipelines.
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users to score, as for a :class:`RankingScorer`.
        y : sparse matrix of shape (n_users, n_items) or None, default=None
            Held-out interactions of these users. With None, the scorers hold out part of each row
            of X: their ``test_size``, by default a fifth.
        scorers : sequence of RankingScorer, default=(ndcg_at_k, recall_at_k.at(20))
            The metrics. The first one determines the order of the models.
        fit_seconds : dict of str to float or None, default=None
            Seconds that the fit of each model took. They get a separate panel.
        error_bar : float or None, default=1.96
            Half the width of the bars, in standard errors of the mean. With None, no bars are
            drawn.
        ax : matplotlib Axes, array-like of Axes or None, default=None
            Axes to draw in, one for each panel. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : BenchmarkDisplay

        Raises
        ------
        ValueError
            If an argument is invalid, or if fewer than two users have a value.
        """
        values = values_of_models(estimator, X, y, scorers)
        lower = [scorer.name for scorer in scorers if not scorer.greater_is_better]
        display = cls(values, fit_seconds=fit_seconds, lower_is_better=lower)
        return display.plot(error_bar=error_bar, ax=ax, **kwargs)

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
        """Score ranked lists and draw the panels.

        Parameters
        ----------
        ranked : ndarray of shape (n_users, n_places), int, or dict of str to such arrays
            Lists of one model, or of several by name: item numbers, best first, as returned by
            ``recommend``. If there are fewer than k places, the others count as empty.
        heldout : sparse matrix of shape (n_users, n_items)
            Held-out interactions.
        scorers : sequence of RankingScorer, default=(ndcg_at_k, recall_at_k.at(20))
            The metrics. The first one determines the order of the models.
        fit_seconds : dict of str to float or None, default=None
            Seconds that the fit of each model took. They get a separate panel.
        name : str, default="model"
            Name of the model if ``ranked`` holds the lists of only one.
        error_bar : float or None, default=1.96
            Half the width of the bars, in standard errors of the mean. With None, no bars are
            drawn.
        ax : matplotlib Axes, array-like of Axes or None, default=None
            Axes to draw in, one for each panel. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : BenchmarkDisplay

        Raises
        ------
        ValueError
            If an argument is invalid, or if fewer than two users have a value.
        """
        values = values_of_rankings(ranked, heldout, scorers, name)
        lower = [scorer.name for scorer in scorers if not scorer.greater_is_better]
        display = cls(values, fit_seconds=fit_seconds, lower_is_better=lower)
        return display.plot(error_bar=error_bar, ax=ax, **kwargs)

    def plot(self, *, error_bar: float | None = 1.96, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the panels.

        Parameters
        ----------
        error_bar : float or None, default=1.96
            Half the width of the bars, in standard errors of the mean. With None, no bars are
            drawn.
        ax : matplotlib Axes, array-like of Axes or None, default=None
            Axes to draw in, one for each panel. With None, a new figure is created.
        **kwargs : dict
            Passed to matplotlib's ``errorbar``.

        Returns
        -------
        display : BenchmarkDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no models, if they do not all have the same metrics, the same number of
            values (two or more) and a time above 0, if the reference is not one of them, if
            ``lower_is_better`` holds another name than those of the metrics, or if the number of
            axes is wrong.
        """
        if not self.values:
            raise ValueError("values must hold one model or more, got none.")
        models = list(self.values.values())
        metrics = list(models[0])
        if any(list(model) != metrics for model in models):
            raise ValueError(f"values must hold the metrics {metrics} for every model.")
        if not {*self.lower_is_better} <= {*metrics}:
            raise ValueError(
                f"lower_is_better must hold names in {metrics}, got {self.lower_is_better!r}."
            )
        table = {metric: self._rows(metric) for metric in metrics}
        timed = self.fit_seconds
        if timed is not None and not all(timed.get(model, 0) > 0 for model in self.values):
            raise ValueError(f"fit_seconds must be above 0 for every model, got {timed!r}.")
        self.models_ = [*table[metrics[0]]]
        titles = metrics if timed is None else [*metrics, "fit, seconds"]
        n, n_models = len(titles), len(models)
        axes = panels(n, ax, (2.6 + 1.5 / n, 1 + 0.3 * n_models), n_columns=n, sharey=True)

        for panel, metric in zip(axes, metrics, strict=False):
            rows = [table[metric][model] for model in self.models_]
            means, errors = np.array([(row["mean"], row["standard_error"]) for row in rows]).T
            half = None if error_bar is None else error_bar * np.nan_to_num(errors)
            pale = np.array([row["distinguishable"] for row in rows])
            _dots(panel, means, half, pale, "{:.3f}", **kwargs)
            panel.set(xlabel="lower is better" if metric in self.lower_is_better else None)
        if timed is not None:
            seconds = np.array([timed[model] for model in self.models_], dtype=float)
            _dots(axes[-1], seconds, None, seconds > seconds.min(), "{:.3g}", **kwargs)
            axes[-1].set(xscale="log")
        for panel, title in zip(axes, titles, strict=True):
            panel.set(ylim=(n_models - 0.5, -0.5), title=in_words(title))
            panel.set_yticks(range(n_models), self.models_)
            panel.tick_params(axis="y", length=0, labelleft=panel is axes[0])
            panel.margins(x=0.2)
            panel.grid(axis="y", color="0.9")
            panel.set_axisbelow(True)
            panel.spines["left"].set_visible(False)
        self.axes_ = axes
        self.figure_ = axes[0].figure
        return self

    def _rows(self, metric: str) -> dict[str, dict[str, Any]]:
        """Return the row of each model in the comparison of one metric, the best model first."""
        values = {name: np.asarray(of[metric], dtype=float) for name, of in self.values.items()}
        shapes = [of_model.shape for of_model in values.values()]
        if len(set(shapes)) > 1:
            raise ValueError(f"values must have equal shapes, got those of {metric}: {shapes}.")
        if any(v.ndim and np.count_nonzero(~np.isnan(v)) < 2 for v in values.values()):
            raise ValueError(TOO_FEW_USERS)
        rows = paired_rows(
            values,
            self.reference,
            self.test,
            self.alpha,
            greater_is_better=metric not in self.lower_is_better,
        )
        return {row["model"]: row for row in rows}


def _dots(
    panel: Any, values: PerUser, half: PerUser | None, pale: Any, label: str, **kwargs: Any
) -> None:
    """Draw a dot with its bar and its value in every row."""
    rows = np.arange(len(values))
    for group, color in ((~pale, "#12566e"), (pale, "#8fbccb")):
        style = line_style(kwargs, marker="o", linestyle="none", color=color)
        xerr = None if half is None else half[group]
        panel.errorbar(values[group], rows[group], xerr=xerr, **style)
    ends = values if half is None else values + half
    style = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
    for row, value, end in zip(rows, values, ends, strict=True):
        panel.annotate(label.format(value), (end, row), xytext=(6, 0), **style)
