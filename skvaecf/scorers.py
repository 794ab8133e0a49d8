"""Scorers: ranking metrics in the form that scikit-learn's ``scoring=`` takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

from ._checks import check_count
from .interactions import stored_interactions
from .metrics import (
    PerUser,
    average_precision,
    coverage,
    hit_rate,
    mrr,
    ndcg,
    precision,
    recall,
)
from .model_selection import split_interactions
from .ranking import recommend

_METRICS: dict[str, Callable[..., PerUser]] = {
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
    "mrr": mrr,
    "map": average_precision,
    "hit_rate": hit_rate,
    "coverage": lambda ranked, heldout, k: np.array(coverage(ranked, heldout.shape[1], k)),
}
_CAPPED = {"recall", "map"}


@dataclass(frozen=True)
class RankingScorer:
    """Scorer that asks a fitted model for held-out interactions: ``scorer(estimator, X, y=None)``.

    It needs the estimator's ``predict`` only, so it scores pipelines and searches too, and goes
    wherever scikit-learn takes ``scoring=``. Without ``y`` it holds out part of each row of X
    with :func:`split_interactions`: the cut of a row depends on ``random_state`` and the row
    alone, hence is the same for every candidate of a search, in any order and any process.

    The estimator gets the raw rest of X, with its values: sparse if X is sparse, else an array
    or a frame. Items of that rest are not recommended.

    Parameters
    ----------
    metric : {"ndcg", "recall", "precision", "mrr", "map", "hit_rate", "coverage"} or callable
        The function of :mod:`skvaecf.metrics`; ``"map"`` is
        :func:`~skvaecf.metrics.average_precision`. Or one of your own, ``metric(ranked, heldout,
        k)``, which gives a number per user like those, or one of shape () like coverage.
    k : int, default=100
        Length of the lists.
    heldout : float, default=0.2
        Share of each row to hold out where ``y`` is not given. Rows with fewer than 5
        interactions are not cut.
    random_state : int, default=0
        Seed of the cut.
    relevance_threshold : float, default=0
        Held-out interactions count if their value in the raw X (or y) is larger than this. It
        keeps scores comparable when a step of a pipeline, such as
        ``Binarizer(threshold=3.5)``, drops some and that threshold is searched.
    capped : bool, default=True
        For recall and MAP: divide by min(k, n). False divides by n, the number held out.

    Raises
    ------
    ValueError
        If a parameter is invalid.

    See Also
    --------
    MultiRankingScorer : Several metrics for one prediction.

    Examples
    --------
    >>> import numpy as np
    >>> from skvaecf import Popularity, RankingScorer, ndcg_at_k
    >>> X = np.tril(np.ones((8, 8), dtype=int))
    >>> model = Popularity().fit(X)
    >>> RankingScorer("hit_rate", k=1)(model, X)
    1.0
    >>> ndcg_at_k.at(20)
    RankingScorer(metric='ndcg', k=20, heldout=0.2, random_state=0, relevance_threshold=0, \
capped=True)
    """

    metric: str | Callable[..., PerUser]
    k: int = 100
    _: KW_ONLY
    heldout: float = 0.2
    random_state: int = 0
    relevance_threshold: float = 0
    capped: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        validate_parameter_constraints(
            {
                "metric": [StrOptions(set(_METRICS)), callable],
                "k": [Interval(Integral, 1, None, closed="left")],
                "heldout": [Interval(Real, 0, 1, closed="neither")],
                "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
                "relevance_threshold": [Interval(Real, 0, None, closed="left")],
                "capped": ["boolean"],
            },
            vars(self),
            caller_name="RankingScorer",
        )
        check_count("k", self.k)  # above, True is the number 1

    @property
    def name(self) -> str:
        """Metric and cut-off, as in ``"ndcg@100"``, with what differs from the default."""
        uncapped = "_uncapped" if self.metric in _CAPPED and not self.capped else ""
        above = f"_above_{self.relevance_threshold:g}" if self.relevance_threshold else ""
        return f"{getattr(self.metric, '__name__', self.metric)}@{self.k}{uncapped}{above}"

    __name__ = name  # by which scikit-learn's displays call a scorer

    def at(self, k: int) -> RankingScorer:
        """Make the same scorer with another cut-off.

        Parameters
        ----------
        k : int
            Length of the lists.

        Returns
        -------
        scorer : RankingScorer
        """
        return replace(self, k=k)

    def per_user(self, estimator: Any, X: Any, y: Any = None) -> PerUser:
        """Score every user, for standard errors and paired tests.

        Parameters
        ----------
        estimator, X, y
            See :meth:`__call__`.

        Returns
        -------
        values : ndarray of shape (n_users,), float64
            NaN for users with nothing held out. Coverage is one number, of shape ().
        """
        return MultiRankingScorer((self,)).per_user(estimator, X, y)[self.name]

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> float:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator
            Its ``predict(X)`` gives scores of shape (n_users, n_items), higher is better.
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users to score.
        y : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
            Held-out interactions of the same users. The estimator then gets all of X.

        Returns
        -------
        score : float
            Mean over the users that have something held out; NaN, with an
            ``UndefinedMetricWarning``, if there are none.

        Raises
        ------
        ValueError
            If X or y is invalid, or y has another shape than X.
        """
        return _mean(self.per_user(estimator, X, y), self.name)

    def _accept_sample_weight(self) -> bool:
        """Answer scikit-learn, which asks when ``fit`` is given sample weights."""
        return False


@dataclass(frozen=True)
class MultiRankingScorer:
    """Scorer of several metrics for one prediction: a dict of floats, ``{"ndcg@100": 0.4, ...}``.

    As ``scoring=`` of a search it predicts once, where a dict of scorers predicts once for each.
    A search then needs ``refit`` set to one of the names.

    Parameters
    ----------
    scorers : tuple of RankingScorer
        Scorers that differ in metric, cut-off, threshold or cap, but not in how they cut X.

    Raises
    ------
    ValueError
        If scorers is not a tuple of one or more RankingScorer, if they differ in ``heldout`` or
        ``random_state``, or two have the same name.

    Examples
    --------
    >>> import numpy as np
    >>> from skvaecf import MultiRankingScorer, Popularity, ndcg_at_k, recall_at_k
    >>> X = np.tril(np.ones((8, 8), dtype=int))
    >>> model = Popularity().fit(X)
    >>> scorer = MultiRankingScorer((ndcg_at_k, recall_at_k.at(1), recall_at_k.at(8)))
    >>> sorted(scorer(model, X))
    ['ndcg@100', 'recall@1', 'recall@8']
    """

    scorers: tuple[RankingScorer, ...]

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not isinstance(self.scorers, tuple) or not all(
            isinstance(scorer, RankingScorer) for scorer in self.scorers
        ):
            raise ValueError(f"scorers must be a tuple of RankingScorer, got {self.scorers!r}.")
        if len({(scorer.heldout, scorer.random_state) for scorer in self.scorers}) != 1:
            raise ValueError(
                "scorers must be one or more that agree in heldout and random_state, got"
                f" {self.scorers}."
            )
        if len({scorer.name for scorer in self.scorers}) < len(self.scorers):
            raise ValueError(f"scorers must differ in their names, got {self.scorers}.")

    def per_user(self, estimator: Any, X: Any, y: Any = None) -> dict[str, PerUser]:
        """Score every user, for standard errors and paired tests.

        Parameters
        ----------
        estimator, X, y
            See :meth:`RankingScorer.__call__`.

        Returns
        -------
        values : dict of str to ndarray of shape (n_users,), float64
            By scorer name. NaN for users with nothing held out. Coverage has shape ().
        """
        fold_in, heldout = _hold_out(X, y, self.scorers[0])
        k = min(max(scorer.k for scorer in self.scorers), heldout.shape[1])
        ranked = recommend(estimator, fold_in, k)
        return {scorer.name: values_of_lists(scorer, ranked, heldout) for scorer in self.scorers}

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> dict[str, float]:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator, X, y
            See :meth:`RankingScorer.__call__`.

        Returns
        -------
        scores : dict of str to float
            By scorer name.
        """
        values = self.per_user(estimator, X, y)
        return {name: _mean(values[name], name) for name in values}

    _accept_sample_weight = RankingScorer._accept_sample_weight


def _hold_out(X: Any, y: Any, scorer: RankingScorer) -> tuple[Any, csr_array]:
    if y is not None:
        if np.shape(y) != np.shape(X):
            raise ValueError(
                f"y must hold interactions held out of X, in its shape {np.shape(X)}, got shape"
                f" {np.shape(y)}. Leave y out to let the scorer hold out part of X."
            )
        heldout = stored_interactions(y, "y")
        heldout.sum_duplicates()
        return X, heldout
    fold_in, heldout = split_interactions(X, scorer.heldout, random_state=scorer.random_state)
    # The estimator may take no other kind of X than it was fitted on.
    if issparse(X):
        return fold_in, heldout
    fold_in = fold_in.toarray()
    if hasattr(X, "columns") and hasattr(X, "dtypes"):  # pandas or polars
        fold_in = type(X)(dict(zip(X.columns, fold_in.T, strict=True)))
    return fold_in, heldout


def values_of_lists(scorer: RankingScorer, ranked: Any, heldout: Any) -> PerUser:
    """Score lists, best item first, by what is held out of the raw X."""
    options = {"capped": scorer.capped} if scorer.metric in _CAPPED else {}
    hits = heldout > scorer.relevance_threshold
    metric = _METRICS[scorer.metric] if isinstance(scorer.metric, str) else scorer.metric
    return metric(ranked, hits, scorer.k, **options)


def _mean(values: PerUser, name: str) -> float:
    scored = values[~np.isnan(values)]
    if not len(scored):
        warnings.warn(
            f"{name} is undefined, and NaN, because no user has anything held out.",
            UndefinedMetricWarning,
            stacklevel=3,
        )
        return float("nan")
    return float(scored.mean())


ndcg_at_k = RankingScorer("ndcg")
recall_at_k = RankingScorer("recall")
precision_at_k = RankingScorer("precision")
mrr_at_k = RankingScorer("mrr")
map_at_k = RankingScorer("map")
hit_rate_at_k = RankingScorer("hit_rate")
coverage_at_k = RankingScorer("coverage")
