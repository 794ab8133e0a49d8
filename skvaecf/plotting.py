"""Displays: figures of training and of ranking, in scikit-learn's manner.

matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .metrics import PerUser
from .scorers import (
    MultiRankingScorer,
    RankingScorer,
    ndcg_at_k,
    recall_at_k,
    values_of_lists,
)

K_VALUES = (1, 2, 5, 10, 20, 50, 100)
BENCHMARK_SCORERS = (ndcg_at_k, recall_at_k.at(20))

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
            raise TypeError(f"estimator must have history_, which {_class(estimator)} has not.")
        name = _class(estimator) if name is None else name
        best_iter = getattr(estimator, "best_iter_", None)
        display = cls(estimator.history_, best_iter=best_iter, name=name)
        return display.plot(figures=figures, ax=ax)

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
        recorded = [key for key in self.history[0] if key not in _NO_FIGURES]
        names = recorded if figures is None else list(figures)
        unknown = [key for key in names if key not in recorded]
        if unknown or not names:
            raise ValueError(f"figures must be among {recorded}, got {figures!r}.")
        axes = _panels(len(names)) if ax is None else np.ravel(ax)
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
            panel.set(xlabel="epoch" if count == "epoch" else "sweep", title=_in_words(key))
            panel.spines[["top", "right"]].set_visible(False)
        self.axes_ = axes
        self.figure_ = axes[0].figure
        if ax is None and self.name is not None:
            kept = "" if self.best_iter is None else f", epoch {self.best_iter} kept"
            self.figure_.suptitle(f"{self.name}{kept}")
        return self


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
        return cls(*_means_and_errors(np.array(list(values))))


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
        models = estimator if isinstance(estimator, Mapping) else {_class(estimator): estimator}
        curves = {
            name: RankingCurve.of(scorers.per_user(model, X, y).values())
            for name, model in models.items()
        }
        display = cls(k_values, curves, metric=scorer.metric)
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
        lists = ranked if isinstance(ranked, Mapping) else {name: ranked}
        curves = {
            model: RankingCurve.of(values_of_lists(s, of_model, heldout) for s in scorers)
            for model, of_model in lists.items()
        }
        display = cls(k_values, curves, metric=scorer.metric)
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
        ax = _panels(1)[0] if ax is None else ax
        ks = np.asarray(self.k_values)
        self.lines_ = {}
        for name, curve in self.curves.items():
            (line,) = ax.plot(ks, curve.mean, **{"label": name, "marker": "o", "ms": 4} | kwargs)
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
        ax.set(xscale="log", xlabel="k, length of the list", ylabel=f"{_in_words(self.metric)}@k")
        ax.set_xticks(ks, [str(k) for k in ks])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


class BenchmarkDisplay:
    """Metrics of many models, and the time of their fits: a row per model, the best on top.

    Of each metric, those models are dark that cannot be told from the best: user by user, their
    mean difference from it is less than 1.96 of its standard errors.

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
    one in twenty is told apart by chance.

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
        scorers: Sequence[RankingScorer] = BENCHMARK_SCORERS,
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
        together = MultiRankingScorer(_with_a_value_per_user(scorers))
        models = estimator if isinstance(estimator, Mapping) else {_class(estimator): estimator}
        values = {name: together.per_user(model, X, y) for name, model in models.items()}
        return cls(values, fit_seconds=fit_seconds).plot(error_bar=error_bar, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        ranked: Any,
        heldout: Any,
        *,
        scorers: Sequence[RankingScorer] = BENCHMARK_SCORERS,
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
        scorers = _with_a_value_per_user(scorers)
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
            If the models have not the same metrics with as many values each, two at least; or
            another number of axes.
        """
        metrics = list(next(iter(self.values.values())))
        if any(list(of_model) != metrics for of_model in self.values.values()):
            raise ValueError(f"values must hold the metrics {metrics} for every model.")
        table = {
            metric: np.array([of_model[metric] for of_model in self.values.values()], dtype=float)
            for metric in metrics
        }  # (n_models, n_values) each
        order = np.argsort(-_means_and_errors(table[metrics[0]])[0], kind="stable")
        self.models_ = [list(self.values)[model] for model in order]
        panels = metrics if self.fit_seconds is None else [*metrics, "fit, seconds"]
        axes = _beside(len(panels), len(order)) if ax is None else np.ravel(ax)
        if len(axes) != len(panels):
            raise ValueError(f"ax must have {len(panels)} axes, one per panel, got {len(axes)}.")

        for panel, metric in zip(axes, metrics, strict=False):
            values = table[metric][order]
            means, errors = _means_and_errors(values)
            behind, its_error = _means_and_errors(values[means.argmax()] - values)
            half = np.zeros_like(errors) if error_bar is None else error_bar * errors
            _dots(panel, means, half, behind > 1.96 * its_error, "{:.3f}", **kwargs)
        if self.fit_seconds is not None:
            seconds = np.array([self.fit_seconds[model] for model in self.models_], dtype=float)
            _dots(axes[-1], seconds, 0 * seconds, seconds > seconds.min(), "{:.3g}", **kwargs)
            axes[-1].set(xscale="log")
        for panel, title in zip(axes, panels, strict=True):
            panel.set(ylim=(len(order) - 0.5, -0.5), title=_in_words(title))
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
    half: NDArray[np.float64],
    pale: NDArray[np.bool_],
    label: str,
    **kwargs: Any,
) -> None:
    """Draw a dot with its bar and its value for every row."""
    rows = np.arange(len(values))
    for group, color in ((~pale, "#12566e"), (pale, "#8fbccb")):
        style = {"marker": "o", "linestyle": "none", "color": color} | kwargs
        panel.errorbar(values[group], rows[group], xerr=half[group], **style)
    for row, value, right in zip(rows, values, values + half, strict=True):
        panel.annotate(
            label.format(value),
            (right, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )


def _means_and_errors(values: PerUser) -> tuple[PerUser, PerUser]:
    """Mean of each row and its standard error, without the columns that hold NaN."""
    values = values[:, ~np.isnan(values).any(axis=0)]
    if values.shape[1] < 2:
        raise ValueError("Fewer than two users have anything held out.")
    return values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])


def _with_a_value_per_user(scorers: Sequence[RankingScorer]) -> tuple[RankingScorer, ...]:
    if any(scorer.metric == "coverage" for scorer in scorers):
        raise ValueError("scorer must have a value per user, which coverage has not.")
    return tuple(scorers)


def _at_all(scorer: RankingScorer, k_values: Sequence[int]) -> tuple[RankingScorer, ...]:
    if not len(k_values) or list(k_values) != sorted(set(k_values)):
        raise ValueError(f"k_values must be one or more ascending numbers, got {k_values!r}.")
    return _with_a_value_per_user([scorer.at(k) for k in k_values])


def _panels(n: int) -> NDArray[Any]:
    """Make a figure of n axes, at most three in a row."""
    import matplotlib.pyplot as plt

    n_rows, n_columns = ceil(n / 3), min(n, 3)
    size = (5.5, 4) if n == 1 else (3.6 * n_columns, 2.8 * n_rows)
    _, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    for unused in axes.flat[n:]:
        unused.set_visible(False)
    panels: NDArray[Any] = axes.ravel()[:n]
    return panels


def _beside(n: int, n_rows: int) -> NDArray[Any]:
    """Make a figure of n axes in a row that share their y axis of n_rows lines."""
    import matplotlib.pyplot as plt

    size = (1.5 + 2.6 * n, 1 + 0.3 * n_rows)
    _, axes = plt.subplots(1, n, figsize=size, sharey=True, layout="constrained", squeeze=False)
    panels: NDArray[Any] = axes[0]
    return panels


def _class(estimator: Any) -> str:
    return type(estimator).__name__


def _in_words(key: str) -> str:
    """Name a figure: "validation_ndcg" is "validation NDCG", "ndcg@20" is "NDCG@20"."""
    return re.sub(r"\b(ndcg|map|mrr)\b", lambda word: word[0].upper(), key.replace("_", " "))
