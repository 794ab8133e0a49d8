"""Scorers: ranking metrics as values of scikit-learn's ``scoring=``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metadata_routing import MetadataRequest

from ._checks import check_count
from ._parameters import AtLeastTwo, Fraction, NonNegative, PositiveInt, Seed, check_values
from .interactions import stored_interactions
from .metrics import (
    PerUser,
    auc,
    average_precision,
    coverage,
    entropy,
    gini,
    hit_rate,
    item_popularity,
    mean_popularity,
    miscalibration,
    mrr,
    ndcg,
    novelty,
    popularity_lift,
    precision,
    r_precision,
    recall,
    tail_recall,
    unbiased_recall,
)
from .model_selection import split_interactions
from .ranking import recommend

_METRICS: dict[str, Callable[..., Any]] = {
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
    "mrr": mrr,
    "map": average_precision,
    "hit_rate": hit_rate,
    "coverage": coverage,
    "r_precision": r_precision,
    "auc": auc,
    "tail_recall": tail_recall,
    "unbiased_recall": unbiased_recall,
    "novelty": novelty,
    "mean_popularity": mean_popularity,
    "popularity_lift": popularity_lift,
    "gini": gini,
    "entropy": entropy,
}
_LOWER_IS_BETTER = {gini, mean_popularity, miscalibration, popularity_lift}
# What a scorer can pass to a metric, by the names of its parameters.
_SUPPLIED = {"heldout", "k", "capped", "n_items", "fold_in", "scores", "item_popularity"}

Metric = Annotated[str | Callable[..., PerUser], StrOptions(set(_METRICS)), callable]


@dataclass(frozen=True)
class RankingScorer:
    """Scorer of a fitted model by held-out interactions: ``scorer(estimator, X, y=None)``.

    It needs only the estimator's ``predict``, so it also scores pipelines and searches. It is a
    valid ``scoring=`` of scikit-learn's tools. Without ``y``, it holds out part of each row of X
    with :func:`split_interactions`. The split of a row depends only on ``random_state`` and on that
    row, so it is the same for every candidate of a search, in any order and any process.

    The estimator's input is the remaining part of X, the fold-in part, with its raw values: sparse
    if X is sparse, otherwise an array or a frame. The items of that part are not recommended.

    As scikit-learn's tools maximise scores, the score of a metric of which lower values are better
    is negative, and its name in results begins with ``neg_``. :meth:`per_user` returns the values
    of the metric itself.

    Parameters
    ----------
    metric : str or callable
        One of ``"ndcg"``, ``"recall"``, ``"precision"``, ``"mrr"``, ``"map"``, ``"hit_rate"``,
        ``"r_precision"``, ``"auc"``, ``"tail_recall"``, ``"unbiased_recall"``, ``"novelty"``,
        ``"mean_popularity"``, ``"popularity_lift"``, ``"coverage"``, ``"gini"`` and ``"entropy"``,
        which are names of functions of :mod:`skvaecf.metrics`; ``"map"`` is
        :func:`~skvaecf.metrics.average_precision`. Or a function ``metric(ranked, ...)`` that
        returns one number per user, or a single number as coverage does. After the lists, it gets
        those of the following arguments that it has as parameters: ``heldout``, ``k``, ``capped``,
        ``n_items``, ``fold_in``, ``scores`` (of the places) and ``item_popularity`` (the share of
        the rows of ``fold_in`` that have each item). ``functools.partial`` binds other values,
        or other arguments, such as ``item_vectors`` of
        :func:`~skvaecf.metrics.intra_list_diversity`.
    k : int, default=100
        Length of the lists.
    test_size : float, default=0.2
        Share of each row to hold out if ``y`` is not given.
    min_interactions : int, default=5
        In rows with fewer interactions, at least 2, nothing is held out if ``y`` is not given.
    random_state : int, default=0
        Seed of the split.
    relevance_threshold : float, default=0
        Held-out interactions count as relevant if their value in the raw X (or y) is larger than
        this. Scores then stay comparable in a search for the threshold of a step that drops
        interactions, such as ``Binarizer(threshold=3.5)``.
    capped : bool, default=True
        For the recalls and MAP: True divides by min(k, n), where n is the number of held-out
        interactions; False divides by n.
    greater_is_better : bool or None, default=None
        Whether higher values of the metric are better. None means False for ``"gini"``,
        ``"mean_popularity"``, ``"popularity_lift"`` and :func:`~skvaecf.metrics.miscalibration`,
        and True for all others. The attribute is True or False. With False, the score is the
        negative mean.
    requests_heldout : bool, default=False
        Whether scikit-learn's tools pass the metadata ``heldout``, see :meth:`set_score_request`.

    Raises
    ------
    ValueError
        If a parameter is invalid, or if the metric has a parameter without a default that is
        neither supplied nor bound.

    See Also
    --------
    MultiRankingScorer : Several metrics from one prediction.
    compare : Scores many models on the same users.
    RankingCurveDisplay : Plots a metric against k.

    Examples
    --------
    >>> import numpy as np
    >>> from skvaecf import Popularity, RankingScorer, ndcg_at_k
    >>> X = np.tril(np.ones((8, 8), dtype=int))
    >>> model = Popularity().fit(X)
    >>> RankingScorer("hit_rate", k=1)(model, X)
    1.0
    >>> ndcg_at_k.at(20).name
    'ndcg@20'

    The genres of the items are bound to this metric, of which lower values are better:

    >>> from functools import partial
    >>> from skvaecf.metrics import miscalibration
    >>> genres = np.eye(8)[:, ::2] + np.eye(8)[:, 1::2]
    >>> scorer = RankingScorer(partial(miscalibration, categories=genres), k=2)
    >>> scorer.name, scorer.greater_is_better, round(scorer(model, X), 2)
    ('miscalibration@2', False, -3.08)
    """

    metric: Metric
    k: PositiveInt = 100
    _: KW_ONLY
    test_size: Fraction = 0.2
    min_interactions: AtLeastTwo = 5
    random_state: Seed = 0
    relevance_threshold: NonNegative = 0
    capped: bool = True
    greater_is_better: bool | None = None
    requests_heldout: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        check_values(RankingScorer, vars(self))
        check_count("k", self.k)  # the check above accepts True as the number 1
        missing = {name for name, required in _parameters(self).items() if required} - _SUPPLIED
        if missing:
            raise ValueError(
                f"metric needs {', '.join(sorted(missing))}, which a scorer cannot supply: bind it"
                " with functools.partial."
            )
        if self.greater_is_better is None:
            greater_is_better = _unbound(_function(self)) not in _LOWER_IS_BETTER
            object.__setattr__(self, "greater_is_better", greater_is_better)

    @property
    def name(self) -> str:
        """Metric and k, as in ``"ndcg@100"``, followed by the settings that are not the default."""
        metric = _unbound(self.metric)
        uncapped = "_uncapped" if "capped" in _parameters(self) and not self.capped else ""
        above = f"_above_{self.relevance_threshold:g}" if self.relevance_threshold else ""
        return f"{getattr(metric, '__name__', metric)}@{self.k}{uncapped}{above}"

    @property
    def __name__(self) -> str:
        """Name of the score: the name of the metric, after ``neg_`` if the score is negative."""
        return self.name if self.greater_is_better else f"neg_{self.name}"

    def at(self, k: int) -> RankingScorer:
        """Return the same scorer with another k.

        Parameters
        ----------
        k : int
            Length of the lists.

        Returns
        -------
        scorer : RankingScorer
        """
        return replace(self, k=k)

    def set_score_request(self, *, heldout: bool = True) -> Any:
        """Return the same scorer, which gets held-out interactions as metadata.

        This is for tools that refuse a sparse ``y``, and for an estimator that is itself a search:
        unlike ``y``, the metadata do not reach it.

        Parameters
        ----------
        heldout : bool, default=True
            Whether scikit-learn's tools pass the rows of their metadata ``heldout`` to the scorer.
            They do so only after ``sklearn.set_config(enable_metadata_routing=True)``.

        Returns
        -------
        scorer : object
            Scorers cannot be changed, so this one stays as it is.

        Examples
        --------
        >>> import numpy as np, sklearn
        >>> from sklearn.model_selection import cross_validate
        >>> from skvaecf import EASE, ndcg_at_k, stack_splits, time_split
        >>> times = np.random.default_rng(0).permutation(600).reshape(30, 20) + 1
        >>> pair = stack_splits([time_split(np.ones((30, 20)), times, test_size=0.2)])
        >>> scorer = ndcg_at_k.set_score_request(heldout=True)
        >>> with sklearn.config_context(enable_metadata_routing=True):
        ...     result = cross_validate(
        ...         EASE(), pair.X, cv=pair.cv, scoring=scorer, params={"heldout": pair.y}
        ...     )
        >>> result["test_score"].shape
        (1,)
        """
        return replace(self, requests_heldout=heldout)

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what scikit-learn's tools need to know about metadata.

        Returns
        -------
        routing : MetadataRequest
        """
        routing = MetadataRequest(owner=type(self).__name__)
        routing.score.add_request(param="heldout", alias=self.requests_heldout)
        return routing

    def per_user(self, estimator: Any, X: Any, y: Any = None) -> PerUser:
        """Compute a score for each user, for standard errors and paired tests.

        Parameters
        ----------
        estimator, X, y
            See :meth:`__call__`.

        Returns
        -------
        values : ndarray of shape (n_users,), float64
            Values of the metric, also if lower is better. NaN for users without a value, as for
            NDCG without held-out interactions. Metrics of the catalogue, such as coverage, are one
            number, of shape ().
        """
        return MultiRankingScorer((self,)).per_user(estimator, X, y)[self.name]

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, *, heldout: Any = None, k: None = None
    ) -> float:
        """Compute the score of a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator
            Its ``predict(X)`` returns scores of shape (n_users, n_items); higher is better.
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users to score.
        y : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
            Held-out interactions of the same users. The estimator's input is then all of X. Labels,
            one per user, are ignored.
        heldout : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
            The same as ``y``, which is then ignored, see :meth:`set_score_request`.
        k : None
            Not accepted here: the cut-off belongs to the scorer, see :meth:`at`.

        Returns
        -------
        score : float
            Mean over the users that have a value, negative if lower is better. If there are no such
            users, the score is NaN and an ``UndefinedMetricWarning`` is issued.

        Raises
        ------
        ValueError
            If X or y is invalid, or if their shapes differ.
        """
        if k is not None:
            raise TypeError(
                f"The cut-off is part of a scorer: {self.metric}_at_k.at({k!r}) has it."
            )
        values = self.per_user(estimator, X, y if heldout is None else heldout)
        return _mean(values, self)

    def _accept_sample_weight(self) -> bool:
        """Return False: scikit-learn calls this method if ``fit`` is passed sample weights."""
        return False


@dataclass(frozen=True)
class MultiRankingScorer:
    """Scorer of several metrics from one prediction: a dict of floats, ``{"ndcg@100": 0.4, ...}``.

    As the ``scoring=`` of a search it predicts once, whereas a dict of scorers predicts once per
    scorer. The ``refit`` parameter of the search must then be one of the names.

    Parameters
    ----------
    scorers : tuple of RankingScorer
        Scorers that may differ in ``metric``, ``k``, ``relevance_threshold`` and ``capped``, but
        not in ``test_size`` and ``random_state``.
    requests_heldout : bool, default=False
        Whether scikit-learn's tools pass the metadata ``heldout``, see
        :meth:`RankingScorer.set_score_request`.

    Raises
    ------
    ValueError
        If scorers is not a tuple of one or more RankingScorer, if they differ in ``test_size`` or
        ``random_state``, or if two have the same name.

    See Also
    --------
    RankingScorer : A scorer of one metric.
    compare : Scores many models by several metrics.

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
    requests_heldout: bool = field(default=False, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        scorers = self.scorers
        given = scorers if isinstance(scorers, tuple) else ()
        if not given or not all(isinstance(scorer, RankingScorer) for scorer in given):
            requirement = "a tuple of one or more RankingScorer"
        elif len({(scorer.test_size, scorer.random_state) for scorer in scorers}) > 1:
            requirement = "equal in test_size and random_state"
        elif len({scorer.name for scorer in scorers}) < len(scorers):
            requirement = "different in their names"
        else:
            return
        raise ValueError(f"scorers must be {requirement}, got {scorers!r}.")

    def per_user(self, estimator: Any, X: Any, y: Any = None) -> dict[str, PerUser]:
        """Compute a score for each user, for standard errors and paired tests.

        Parameters
        ----------
        estimator, X, y
            See :meth:`RankingScorer.__call__`.

        Returns
        -------
        values : dict of str to ndarray of shape (n_users,), float64
            By the ``name`` of the scorers. See :meth:`RankingScorer.per_user`.
        """
        fold_in, heldout = _hold_out(X, y, self.scorers[0])
        k = min(max(scorer.k for scorer in self.scorers), heldout.shape[1])
        ranked, scores = recommend(estimator, fold_in, k, return_scores=True)
        return {
            scorer.name: score_lists(scorer, ranked, heldout, fold_in=fold_in, scores=scores)
            for scorer in self.scorers
        }

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, *, heldout: Any = None
    ) -> dict[str, float]:
        """Compute the scores of a fitted estimator.

        Parameters
        ----------
        estimator, X, y, heldout
            See :meth:`RankingScorer.__call__`.

        Returns
        -------
        scores : dict of str to float
            By scorer name, after ``neg_`` if lower values of the metric are better.
        """
        values = self.per_user(estimator, X, y if heldout is None else heldout)
        return {scorer.__name__: _mean(values[scorer.name], scorer) for scorer in self.scorers}

    set_score_request = RankingScorer.set_score_request
    get_metadata_routing = RankingScorer.get_metadata_routing
    _accept_sample_weight = RankingScorer._accept_sample_weight


def _hold_out(X: Any, y: Any, scorer: RankingScorer) -> tuple[Any, csr_array]:
    if y is not None and np.ndim(y) != 1:  # labels, which scikit-learn passes on, are ignored
        if np.shape(y) != np.shape(X):
            raise ValueError(
                f"y must hold held-out interactions in the shape {np.shape(X)} of X, got shape"
                f" {np.shape(y)}. Without y, the scorer holds out part of X."
            )
        heldout = stored_interactions(y, "y")
        heldout.sum_duplicates()
        return X, heldout
    fold_in, heldout = split_interactions(
        X,
        scorer.test_size,
        random_state=scorer.random_state,
        min_interactions=scorer.min_interactions,
    )
    # The estimator may accept only the kind of X that it was fitted on.
    if issparse(X):
        return fold_in, heldout
    fold_in = fold_in.toarray()
    if hasattr(X, "columns") and hasattr(X, "dtypes"):  # pandas or polars
        fold_in = type(X)(dict(zip(X.columns, fold_in.T, strict=True)))
    return fold_in, heldout


def score_lists(scorer: RankingScorer, ranked: Any, heldout: Any, **supplied: Any) -> PerUser:
    """Compute the metric of ranked lists of items from the raw held-out values.

    ``supplied`` may hold ``fold_in`` and ``scores``, for metrics that have these parameters.
    """
    parameters = _parameters(scorer)
    supplied |= {
        "heldout": heldout > scorer.relevance_threshold,
        "k": scorer.k,
        "capped": scorer.capped,
        "n_items": heldout.shape[1],
    }
    if "item_popularity" in parameters and "fold_in" in supplied:
        supplied["item_popularity"] = item_popularity(supplied["fold_in"])
    missing = {name for name, required in parameters.items() if required} - set(supplied)
    if missing:
        raise ValueError(
            f"{scorer.name} of given lists needs {', '.join(sorted(missing))}: bind it with"
            " functools.partial."
        )
    arguments = {name: supplied[name] for name in parameters if name in supplied}
    return np.asarray(_function(scorer)(ranked, **arguments))


def _function(scorer: RankingScorer) -> Callable[..., Any]:
    """Return the metric of a scorer as a function."""
    return _METRICS[scorer.metric] if isinstance(scorer.metric, str) else scorer.metric


def _unbound(metric: Any) -> Any:
    """Return the function to which functools.partial has bound arguments."""
    return metric.func if isinstance(metric, partial) else metric


def _parameters(scorer: RankingScorer) -> dict[str, bool]:
    """Return the parameters after the lists that are not bound: whether each has no default."""
    metric = _function(scorer)
    bound = metric.keywords if isinstance(metric, partial) else {}
    _, *parameters = inspect.signature(metric).parameters.values()
    return {
        parameter.name: parameter.default is parameter.empty
        for parameter in parameters
        if parameter.name not in bound
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _mean(values: PerUser, scorer: RankingScorer) -> float:
    scored = values[~np.isnan(values)]
    if not len(scored):
        warnings.warn(
            f"{scorer.name} is undefined and set to NaN: it has no value for any user, for instance"
            " because no user has held-out interactions.",
            UndefinedMetricWarning,
            stacklevel=3,
        )
        return float("nan")
    return float(scored.mean() if scorer.greater_is_better else -scored.mean())


ndcg_at_k = RankingScorer("ndcg")
recall_at_k = RankingScorer("recall")
precision_at_k = RankingScorer("precision")
mrr_at_k = RankingScorer("mrr")
map_at_k = RankingScorer("map")
hit_rate_at_k = RankingScorer("hit_rate")
coverage_at_k = RankingScorer("coverage")
r_precision_at_k = RankingScorer("r_precision")
auc_at_k = RankingScorer("auc")
tail_recall_at_k = RankingScorer("tail_recall")
unbiased_recall_at_k = RankingScorer("unbiased_recall")
novelty_at_k = RankingScorer("novelty")
neg_mean_popularity_at_k = RankingScorer("mean_popularity")
neg_popularity_lift_at_k = RankingScorer("popularity_lift")
neg_gini_at_k = RankingScorer("gini")
entropy_at_k = RankingScorer("entropy")
