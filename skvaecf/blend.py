"""Weighted sums of the standardised scores of several recommenders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, field
from inspect import signature
from numbers import Integral
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import clone
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.metaestimators import _BaseComposition, available_if
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import has_fit_parameter, validate_data
from torch import Tensor

from ._blend_weights import best_weights
from ._devices import default_modes
from ._parameters import AtLeastTwo, Fraction, RandomState
from ._partial_fit import grown_columns, widened
from .base import BaseRecommender, Scorer
from .inspection import Explainer, row_explainer
from .interactions import (
    as_counts,
    binary_csr,
    check_rows,
    check_user_weights,
    count_users,
    rows_of_entries,
)
from .model_selection import UserSplitter, split_interactions
from .neural._recommender import check_X_val
from .ranking import row_scorer


class Blend(_BaseComposition, BaseRecommender):
    r"""Weighted sum of the standardised scores of several recommenders.

    It often ranks better than each of its members; its memory and time are the sums of theirs.

    The members are fitted on the same users. With the score :math:`s_{mui}` of member m for user u
    and item i, the blend's score is

    .. math:: s_{ui} = \sum_m w_m \frac{s_{mui} - \mu_{mu}}{\sigma_{mu}},
              \qquad w_m \geq 0, \quad \sum_m w_m = 1,

    where :math:`\mu_{mu}` and :math:`\sigma_{mu}` are the mean and the standard deviation of the
    user's scores over all items. If all scores of a member are equal, its term is 0.

    Parameters
    ----------
    estimators : list of (str, estimator) tuples
        Names and members. A member is anything that learns from ``fit(X)`` and returns scores of
        shape (n_users, n_items) from ``predict(X)``: a recommender, a pipeline, a search or another
        blend. Clones of the members are fitted. The string "drop" instead of an estimator leaves
        this member out.
    weights : array-like of shape (n_estimators,), "auto" or None, default=None
        Weights :math:`w_m`, divided by their sum. None gives equal weights. "auto" chooses the
        weights that rank best for held-out users, see the notes.
    validation_fraction : float, default=0.2
        Share of the users that is set aside to choose the weights. It is used only with
        ``weights="auto"``, if ``fit`` is called without ``X_val``.
    min_interactions : int, default=5
        Number of interactions, at least 2, that a validation user needs: users with fewer are
        training users.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice of the weights. The members have their own seeds. With an int, results
        are reproducible if those of the members are.
    n_jobs : int or None, default=None
        Number of threads that fit members in parallel. -1 uses one thread per processor. None means
        1 unless in a ``joblib.parallel_config`` context. Each of these threads also uses the
        threads of torch.

    Attributes
    ----------
    estimators_ : list of estimators
        The fitted members, without dropped ones.
    named_estimators_ : Bunch
        The fitted members by name.
    weights_ : ndarray of shape (n_fitted_estimators,), float64
        The weights of the members in ``estimators_``. Their sum is 1.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    Warns
    -----
    UserWarning
        If ``weights="auto"`` finds no user to choose the weights by. They are equal then.

    See Also
    --------
    EASE, WMF, MultVAE : Models of three kinds, which are good members of one blend.

    Notes
    -----
    With ``weights="auto"``, ``fit`` holds out a share of the users and a fifth of the interactions
    of each of them. It fits the members on the other users, chooses the weights by the NDCG\@100 of
    the held-out users, and fits the members again, on all users. This takes twice the time of equal
    weights. ``fit(X, X_val=...)`` fits the members once, on all users of X, and chooses the weights
    by the users of ``X_val``.

    The weights are chosen by bagging [1]_ a search over a grid on the simplex, which has at most
    300 points. The best point is searched for 500 samples, each of a fortieth of the held-out
    users, at least 5, drawn with replacement. ``weights_`` is the mean of these best points. The
    best point for all held-out users, or for larger samples, differs more between seeds
    (:ref:`quality-of-blends`). To save time, only items that a member ranks among its best 200, and
    held-out items, take part in the search.

    The composition is that of scikit-learn's ``VotingRegressor``: nested parameters have the names
    ``name__parameter``, and ``set_params(name="drop")`` leaves a member out.

    A member with the weight 0 is not used for scores. A blend has neither ``transform`` nor
    ``similar_items``, because the spaces of its members differ; ``named_estimators_`` has the
    members that have these methods. Callbacks of the members run in each of their fits.

    References
    ----------
    .. [1] Caruana et al., "Ensemble selection from libraries of models", ICML 2004, section 2.3.

    Examples
    --------
    >>> from skvaecf import EASE, WMF, Blend
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> members = [("ease", EASE()), ("wmf", WMF(8, random_state=0))]
    >>> blend = Blend(members, weights=[3, 1]).fit(X)
    >>> blend.weights_
    array([0.75, 0.25])
    >>> blend.recommend(X[:2], k=3).shape
    (2, 3)
    >>> blend.set_params(ease__l2=10.0, wmf="drop").fit(X).named_estimators_
    {'ease': EASE(l2=10.0)}
    """

    estimators: Annotated[Sequence[tuple[str, Any]], list]
    _: KW_ONLY
    weights: Annotated[ArrayLike, "array-like"] | Literal["auto"] | None = None
    validation_fraction: Fraction = 0.2
    min_interactions: AtLeastTwo = 5
    random_state: RandomState = None
    n_jobs: Annotated[int | None, Integral, None] = None

    _scores_in_threads: ClassVar[bool] = False  # members may be of other packages

    estimators_: list[Any] = field(init=False)
    _names: list[str] = field(init=False)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return the members, by name, and their parameters, as ``name__parameter``,
            too.

        Returns
        -------
        params : dict
            Values by name.
        """
        params: dict[str, Any] = self._get_params("estimators", deep=deep)
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the blend, a member by its name, or parameters of a member.

        Parameters
        ----------
        **params : object
            Values by name. ``name="drop"`` leaves a member out. ``name__parameter`` is a parameter
            of a member.

        Returns
        -------
        self : object
            The blend.
        """
        self._set_params("estimators", **params)
        return self

    @default_modes()
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, X_val: Any = None) -> Self:
        """Fit the members and, with ``weights="auto"``, choose the weights.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. The members get the stored values of X. The recommenders of this package
            treat every positive value as an interaction, whatever its size, unless
            ``use_values=True``.
        y : Ignored
            Present for scikit-learn's tools.
        sample_weight : array-like of shape (n_users,) or None, default=None
            Weights of the users, at least 0. They are passed to the members. The users by whom
            ``weights="auto"`` chooses the weights of the members are not weighted.
        X_val : {array-like, sparse matrix} of shape (n_val_users, n_items), pair of them, or \
None, default=None
            Interactions of the validation users. They are passed to the members whose ``fit`` has a
            parameter of this name, for early stopping. ``weights="auto"`` chooses the weights by
            these users. A matrix holds the interactions of users who are not in X. A fifth of
            each row with ``min_interactions`` interactions is held out. A pair of matrices holds
            the fold-in and the held-out interactions of the same users.

        Returns
        -------
        self : object
            The fitted blend.

        Raises
        ------
        ValueError
            If X or X_val holds NaN, infinity or negative values, or is empty or corrupt, if
            sample_weight is not one finite number of at least 0 per user or a member does not
            support it, if a parameter is invalid, or if a member returns scores of another shape,
            NaN or infinity.
        """
        self._validate_params()
        rows = check_rows(X, min_rows=1)
        sample_weight = check_user_weights(sample_weight, rows)
        for name, member in self._members():
            if sample_weight is not None and not has_fit_parameter(member, "sample_weight"):
                raise ValueError(
                    f"sample_weight must be None: fit of the member {name!r} does not support it."
                )
        if X_val is not None:
            check_X_val(X_val, rows.shape[1])
        self._fit(rows, X_val, sample_weight)
        self.item_counts_ = count_users(binary_csr(rows), sample_weight)
        validate_data(self, X, skip_check_array=True)  # records the number and names of the items
        return self

    @available_if(lambda self: all(hasattr(m, "partial_fit") for _, m in self._members()))
    @default_modes()
    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, X_before: Any = None
    ) -> Self:
        """Update the members with further users; the weights of the members stay.

        The first call is a ``fit``. The method exists if all members have it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. X may have more columns than before: the last ones are new items.
        y : Ignored
            Present for scikit-learn's tools.
        sample_weight : array-like of shape (n_users,) or None, default=None
            Weights of the users of X, as in ``fit``.
        X_before : {array-like, sparse matrix} of shape (n_known_users, n_items) or None, \
default=None
            Rows of earlier calls that X replaces, for members that take them.

        Returns
        -------
        self : object
            The fitted blend.

        Raises
        ------
        ValueError
            If X or X_before is invalid for a member or has fewer columns than before, or if a
            member does not take sample_weight or X_before.

        Notes
        -----
        The members are updated one after the other. After an error in one of them, the blend is
        unchanged.
        """
        if not hasattr(self, "estimators_"):
            if X_before is not None:
                raise ValueError("X_before must hold rows of earlier calls.")
            fitted: Self = self.fit(X, y, sample_weight)
            return fitted
        self._validate_params()
        rows = check_rows(X, min_rows=1)
        columns, weights = grown_columns(self, X), check_user_weights(sample_weight, rows)
        counts = count_users(binary_csr(rows), weights) + widened(self.item_counts_, rows.shape[1])
        given = {"sample_weight": weights, "X_before": X_before}
        options = {name: value for name, value in given.items() if value is not None}
        if X_before is not None:
            counts = counts - count_users(binary_csr(check_rows(X_before, "X_before")))
        for name, member in zip(self._names, self.estimators_, strict=True):
            for option in options.keys() - signature(member.partial_fit).parameters.keys():
                raise ValueError(
                    f"{option} must be None: partial_fit of the member {name!r} does not take it."
                )
        updated = [deepcopy(member) for member in self.estimators_]
        for member, before in zip(updated, self.estimators_, strict=True):
            # A copy lacks the rows of fit, from which a Gram model computes its sums.
            if hasattr(before, "_rows"):
                member._rows = before._rows
            member.partial_fit(rows, None, **options)
        self.estimators_, self.item_counts_ = updated, as_counts(counts)
        self.__dict__.update(columns)
        return self

    def _validate_params(self) -> None:
        super()._validate_params()
        if not self.estimators or not all(map(_is_named, self.estimators)):
            raise ValueError(
                "estimators must be a list of one or more (name, estimator) tuples, got"
                f" {self.estimators!r}."
            )
        self._validate_names([name for name, _ in self.estimators])
        if not self._members():
            raise ValueError("estimators must have a member that is not 'drop'.")
        for name, member in self._members():
            if isinstance(member, type) or not (
                hasattr(member, "fit") and hasattr(member, "predict")
            ):
                raise ValueError(
                    f"estimators must be instances with the methods fit and predict, got {member!r}"
                    f" for {name!r}."
                )
        if self.weights is not None and not isinstance(self.weights, str):
            self._given_weights()

    def _members(self) -> list[tuple[str, Any]]:
        """Return names and members, without dropped ones."""
        return [(name, member) for name, member in self.estimators if not _is_dropped(member)]

    def _given_weights(self) -> NDArray[np.float64]:
        """Return the weights of the members that the parameter sets; equal ones if it sets none."""
        given = self.weights
        if given is None or isinstance(given, str):
            given = np.ones(len(self.estimators))
        weights = np.asarray(given)
        if weights.shape != (len(self.estimators),) or weights.dtype.kind not in "biuf":
            raise ValueError(
                f"weights must hold one number for each of the {len(self.estimators)} estimators,"
                f" got {self.weights!r}."
            )
        kept = [not _is_dropped(member) for _, member in self.estimators]
        weights = weights[kept].astype(np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError(
                "weights must be finite and not negative, and that of a member must be positive,"
                f" got {self.weights!r}."
            )
        normalized: NDArray[np.float64] = weights / weights.sum()
        return normalized

    def _fit(self, X: Any, X_val: Any = None, sample_weight: Any = None) -> None:
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        names, members = zip(*self._members(), strict=True)
        weights, rows, validation = self._given_weights(), slice(None), None
        if isinstance(self.weights, str):
            validation = X_val
            if X_val is None:
                rows, validation = self._hold_out(X, seed)
        of_rows = sample_weight if sample_weight is None else sample_weight[rows]
        if validation is not None and not isinstance(validation, tuple):
            validation = self._split(check_rows(validation), seed)
        fitted = self._fit_members(members, X[rows], X_val, of_rows)
        if validation is not None:
            fold_in, heldout = map(check_rows, validation)
            scorers = [*map(_standard_scorer, names, fitted)]
            weights = best_weights(scorers, fold_in, heldout, seed)
        if not isinstance(rows, slice):
            fitted = self._fit_members(members, X, None, sample_weight)
        self.estimators_, self.weights_, self._names = fitted, weights, list(names)

    def _fit_members(
        self, members: Sequence[Any], X: Any, X_val: Any, sample_weight: Any
    ) -> list[Any]:
        fitted: list[Any] = Parallel(n_jobs=self.n_jobs, prefer="threads")(
            delayed(_fit_clone)(member, X, X_val, sample_weight) for member in members
        )
        return fitted

    def _hold_out(self, X: Any, seed: int) -> tuple[Any, Any]:
        """Return the row numbers of the users to fit on, and the rows of the held-out users."""
        counts = np.diff(binary_csr(X).indptr)
        if len(counts) < 2 or counts.max() < self.min_interactions:
            warnings.warn(
                "weights='auto' has no users to choose the weights by, because no two users or more"
                f" have min_interactions={self.min_interactions} interactions: they are equal.",
                stacklevel=4,
            )
            return slice(None), None
        splitter = UserSplitter(
            1,
            test_size=self.validation_fraction,
            min_interactions=self.min_interactions,
            random_state=seed,
        )
        [(train, heldout)] = splitter.split(X)
        return train, X[heldout]

    def _split(self, X: Any, seed: int) -> tuple[Any, csr_array]:
        """Hold out a part of each row; the rest is sparse or dense, as X is."""
        fold_in, heldout = split_interactions(
            X, random_state=seed, min_interactions=self.min_interactions
        )
        if not heldout.nnz:
            raise ValueError(
                f"X_val must hold a user with at least {self.min_interactions} interactions."
            )
        return fold_in if issparse(X) else fold_in.toarray(), heldout

    @property
    def named_estimators_(self) -> Bunch:
        """The fitted members by name."""
        return Bunch(**dict(zip(self._names, self.estimators_, strict=True)))

    def _row_scorer(self) -> Callable[[Any], Tensor]:
        score_rows = self._scorer()  # of the rows as they are: each member converts them itself
        return lambda X: self._popular_if_empty(np.diff(binary_csr(X).indptr), score_rows(X))

    def _scorer(self) -> Scorer:
        members = zip(self.weights_.tolist(), self._names, self.estimators_, strict=True)
        used = [
            (weight, _standard_scorer(name, member)) for weight, name, member in members if weight
        ]
        (first_weight, first), *others = used

        def score(X: Any) -> Tensor:
            total = first(X).mul_(first_weight)
            for weight, standard_scores in others:
                total.add_(standard_scores(X).to(total.device), alpha=weight)
            return total

        return score

    def _row_explainer(self) -> Explainer:
        members = zip(self.weights_.tolist(), self._names, self.estimators_, strict=True)
        used = [
            (weight, _scorer_with_moments(name, member), row_explainer(member))
            for weight, name, member in members
            if weight
        ]

        def explain_rows(X: Any, items: np.ndarray) -> tuple[Tensor, Tensor]:
            interactions = binary_csr(X)
            parts, base = torch.zeros(interactions.nnz, items.shape[1]), torch.zeros(items.shape)
            users = rows_of_entries(interactions)
            for weight, score_rows, contribute in used:
                mean, std = (moment.cpu() for moment in score_rows(X)[1:])
                of_member, rest = (part.cpu() for part in contribute(X, items))
                parts += weight * of_member / std[users]
                base += weight * (rest - mean) / std
            return parts, self._popular_if_empty(np.diff(interactions.indptr), base, items)

        return explain_rows

    def _check_loaded(self) -> None:
        if not (self.weights_ >= 0).all() or not np.isclose(self.weights_.sum(), 1):
            raise ValueError(f"its weights {self.weights_} are not the shares of a sum")
        for member in self.estimators_:
            member._check_loaded()
        super()._check_loaded()


def _is_named(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)


def _is_dropped(member: Any) -> bool:
    return isinstance(member, str) and member == "drop"


def _fit_clone(member: Any, X: Any, X_val: Any, sample_weight: Any) -> Any:
    options = {} if sample_weight is None else {"sample_weight": sample_weight}
    if X_val is not None and has_fit_parameter(member, "X_val"):
        options["X_val"] = X_val
    return clone(member).fit(X, None, **options)  # FrozenEstimator needs y


def _standard_scorer(name: str, member: Any) -> Scorer:
    """Return the function that scores blocks of rows, with mean 0 and variance 1 in each row."""
    score_rows = _scorer_with_moments(name, member)

    def standard_scores(X: Any) -> Tensor:
        scores, mean, std = score_rows(X)
        return scores.sub_(mean).div_(std)

    return standard_scores


def _scorer_with_moments(name: str, member: Any) -> Callable[[Any], tuple[Tensor, Tensor, Tensor]]:
    """Return the function that scores blocks of rows, with the mean and the std of each row.

    Where all scores of a row are equal, the std is infinity, so that standard scores are 0.
    """
    score_rows = row_scorer(member)

    def scores_and_moments(X: Any) -> tuple[Tensor, Tensor, Tensor]:
        scores = score_rows(X)
        if tuple(scores.shape) != X.shape:
            raise ValueError(
                f"The member {name!r} returned scores of shape {tuple(scores.shape)} for rows of"
                f" shape {X.shape}: predict must return one score per user and item."
            )
        # torch updates the mean by the deviations from it, so equal scores have a std of exactly 0.
        std, mean = torch.std_mean(scores, dim=1, correction=0, keepdim=True)
        if not std.isfinite().all():
            raise ValueError(
                f"The member {name!r} returned scores that are NaN or infinite. A blend needs a"
                " finite score of every item."
            )
        return scores, mean, std.where(std > 0, torch.inf)

    return scores_and_moments
