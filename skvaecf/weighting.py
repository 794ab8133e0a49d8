"""Transformers of times and counts to weights of interactions, for ``use_values=True``."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from .interactions import check_structure

DURATION = re.compile(r"(\d+\.?\d*) ?([WDhms])")
UNITS = {"W": 604_800, "D": 86_400, "h": 3_600, "m": 60, "s": 1}  # seconds


class _ValueTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of transformers that replace the values of interactions one by one."""

    _parameter_constraints: ClassVar[Any] = {}

    def _validated(self, X: Any, *, reset: bool) -> Any:
        """Return X as float64, sparse (CSR or CSC) or dense."""
        given = check_structure(X)
        valid = validate_data(
            self, given, reset=reset, accept_sparse=("csr", "csc"), dtype=np.float64
        )
        return check_structure(valid)

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _with_values(X: Any, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Any:
    """Return X with other values of its interactions: the stored entries, or those that are not 0.

    Sparse matrices keep their class and their stored entries.
    """
    if issparse(X):
        return type(X)((change(X.data), X.indices, X.indptr), shape=X.shape, copy=True)
    return np.where(X == 0, 0.0, change(X))


class TimeDecay(_ValueTransformer):
    r"""Transform the times of interactions to weights that halve with age.

    .. math:: w_{ui} = 2^{-(T - t_{ui}) / h}

    :math:`t_{ui}` is the time of the interaction, T the latest time in ``fit`` and h the half-life.
    An interaction at T has the weight 1, one that is older by h the weight 1/2.

    Parameters
    ----------
    half_life : float, timedelta or str, default="30D"
        Age at which the weight is 1/2. A number has the unit of the times. A timedelta, or a string
        of a number and one of the units W, D, h, m and s (weeks, days, hours, minutes, seconds), is
        a duration for times in seconds, the unit that :class:`InteractionEncoder` uses for dates.

    Attributes
    ----------
    latest_time_ : float
        The time T.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    CountSaturation : Weights from counts.
    InteractionEncoder : ``transform_times`` returns the times of a log.

    Notes
    -----
    The input is a matrix of times: users x items, with a stored entry for each interaction. In a
    sparse matrix a stored 0 is a time. In a dense array, a 0 is no interaction.

    Times after T have the weight 1. Weights are at least 1e-37, so that an old interaction is still
    one: float32 cannot represent much smaller numbers. The scores of users who have only old
    interactions are small, but the order of their items is not affected in models whose scores are
    proportional to the row, such as :class:`EASE`.

    A recommender uses the weights if it has the parameter ``use_values`` and this is True.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skvaecf import WMF, InteractionEncoder, TimeDecay
    >>> log = {
    ...     "user": ["al", "al", "bo", "bo"],
    ...     "item": ["tea", "cup", "tea", "mug"],
    ...     "time": ["2024-12-02", "2025-01-01", "2024-11-02", "2025-01-01"],
    ... }
    >>> times = InteractionEncoder(time="time").fit(log).transform_times(log)
    >>> TimeDecay(half_life="30D").fit_transform(times).toarray()
    array([[1.  , 0.  , 0.5 ],
           [0.  , 1.  , 0.25]])
    >>> wmf = WMF(2, use_values=True, random_state=0)
    >>> model = make_pipeline(TimeDecay(half_life="30D"), wmf)
    >>> model.fit(times).predict(times).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[Any] = {
        "half_life": [timedelta, np.timedelta64, str, Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, half_life: float | timedelta | str = "30D") -> None:
        self.half_life = half_life

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the latest time.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Times of interactions.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        self : object
            The fitted transformer.

        Raises
        ------
        ValueError
            If X holds NaN or infinity, is empty or corrupt, or if ``half_life`` is not a positive
            duration.
        """
        self._validate_params()
        self._seconds()
        times = self._validated(X, reset=True)
        times = times.data if issparse(times) else times[times != 0]
        self.latest_time_ = float(times.max()) if times.size else 0.0
        return self

    def transform(self, X: Any) -> Any:
        """Return the weights of interactions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Times of interactions of users, who may be in ``fit`` or not.

        Returns
        -------
        weights : {ndarray, sparse matrix} of shape (n_users, n_items), float64
            In (0, 1], at the places of the interactions. It is sparse if X is.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        ValueError
            If X is invalid or has another number of items than in ``fit``.
        """
        check_is_fitted(self)
        half_life = self._seconds()

        def decay(times: NDArray[np.float64]) -> NDArray[np.float64]:
            age = (self.latest_time_ - times) / half_life
            return np.maximum(np.exp2(-np.maximum(age, 0)), 1e-37)

        return _with_values(self._validated(X, reset=False), decay)

    def _seconds(self) -> float:
        """Return the half-life as a number."""
        h: Any = self.half_life
        if isinstance(h, str):
            match = DURATION.fullmatch(h)
            seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
        elif isinstance(h, timedelta):
            seconds = h.total_seconds()
        elif isinstance(h, np.timedelta64):
            seconds = float(h / np.timedelta64(1, "s"))
        else:
            seconds = float(h)
        if not 0 < seconds < np.inf:
            raise ValueError(
                "half_life must be a positive number, a positive timedelta, or a string such as"
                f" '30D' or '12h', got {h!r}."
            )
        return seconds


class CountSaturation(_ValueTransformer):
    r"""Transform counts of events to weights that grow more slowly than the counts.

    A user who played a song 100 times does not like it 100 times as much as one who played it once.
    For a count c, the weight is

    .. math:: \log_2(1 + c) \quad \text{("log")}, \qquad
              \frac{c \, (k_1 + 1)}{c + k_1} \quad \text{("bm25")}.

    A count of 1 has the weight 1 in both.

    Parameters
    ----------
    method : {"log", "bm25"}, default="log"
        Function of the count. "log" grows without a limit [1]_. "bm25" is the term frequency
        saturation of BM25 [2]_. It tends to :math:`k_1 + 1`.
    k1 : float, default=1.2
        The constant :math:`k_1` of "bm25". The larger it is, the more large counts weigh.

    Attributes
    ----------
    n_features_in_ : int
        Number of items.

    See Also
    --------
    TimeDecay : Weights from times instead of counts.
    InteractionEncoder : Computes the matrix of counts from a log.

    Notes
    -----
    The transformer is stateless: ``fit`` validates the input only. A recommender uses the weights
    if it has the parameter ``use_values`` and this is True.

    References
    ----------
    .. [1] Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM
       2008, eq. 6.
    .. [2] Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond", 2009.

    Examples
    --------
    >>> from skvaecf import CountSaturation
    >>> CountSaturation().fit_transform([[0, 1, 3, 15]])
    array([[0., 1., 2., 4.]])
    >>> CountSaturation("bm25", k1=3.0).fit_transform([[0, 1, 3, 9]])
    array([[0., 1., 2., 3.]])
    """

    _parameter_constraints: ClassVar[Any] = {
        "method": [StrOptions({"log", "bm25"})],
        "k1": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, method: str = "log", k1: float = 1.2) -> None:
        self.method = method
        self.k1 = k1

    def fit(self, X: Any, y: Any = None) -> Self:
        """Validate the input; nothing is learned.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Counts.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        self : object
            The fitted transformer.

        Raises
        ------
        ValueError
            If X holds NaN, infinity or negative values, is empty or corrupt, or if a parameter is
            invalid.
        """
        self._validate_params()
        self._validated(X, reset=True)
        return self

    def transform(self, X: Any) -> Any:
        """Return the weights of interactions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Counts of users, who may be in ``fit`` or not.

        Returns
        -------
        weights : {ndarray, sparse matrix} of shape (n_users, n_items), float64
            It is sparse if X is.

        Raises
        ------
        ValueError
            If X is invalid or has another number of items than in ``fit``.
        """
        k1 = self.k1

        def saturate(counts: NDArray[np.float64]) -> NDArray[np.float64]:
            if self.method == "log":
                return np.log2(1 + counts)
            return counts * ((k1 + 1) / (counts + k1))

        return _with_values(self._validated(X, reset=False), saturate)

    def _validated(self, X: Any, *, reset: bool) -> Any:
        counts = super()._validated(X, reset=reset)
        check_non_negative(counts, type(self).__name__)
        return counts

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.requires_fit = False
        return tags
