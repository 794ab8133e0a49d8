"""Base of all recommenders: validation, fit, predict, recommend, score."""

from __future__ import annotations

import inspect
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, dataclass_transform

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, InvalidParameterError
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ._devices import check_device, default_modes
from ._parameters import constraints_of
from ._threads import FEW_TO_RANK, threads_for
from ._top_k import as_index
from ._version import __version__
from .inspection import Explainer, Explanation, explain, leave_one_out
from .interactions import (
    binary_csr,
    check_rows,
    check_user_weights,
    count_users,
    take_rows,
    value_csr,
)
from .persistence import SaveMixin
from .ranking import Scores, recommend, row_blocks
from .scorers import ndcg_at_k

Scorer = Callable[[csr_array], Tensor]


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class BaseRecommender(SaveMixin, BaseEstimator, metaclass=ABCMeta):
    """Base of all recommenders.

    A subclass declares its parameters as annotated class attributes. The constructor is built from
    them, as in a dataclass. ``_parameter_constraints`` may add constraints that ``fit`` checks, as
    in scikit-learn. A subclass defines two methods, its hooks:

    * ``_fit(X)`` learns from the matrix of all users.
    * ``_scorer()`` returns a function that maps a block of rows to their ranking scores: a new
      float32 tensor of shape (n_rows, n_items).

    ``_fit`` and this function get a ``scipy.sparse.csr_array`` in canonical form: sorted, without
    duplicates, without stored zeros, with every value 1. A subclass that declares the parameter
    ``use_values`` gets the values of X instead of ones if it is True.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}
    # Whether several threads may call the function that _scorer returns at the same time.
    _scores_in_threads: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        try:
            hints = inspect.get_annotations(cls, eval_str=True)
        except NameError:  # a name for type checkers only, or one that is local to a function
            hints = inspect.get_annotations(cls)
        if hints:  # else the constructor of the base class is used
            dataclass(eq=False, repr=False, match_args=False)(cls)
            found = {n: constraint for n, h in hints.items() if (constraint := constraints_of(h))}
            cls._parameter_constraints = cls._parameter_constraints | found

    @abstractmethod
    def _fit(self, X: csr_array) -> None:
        """Learn from all users and set the fitted attributes.

        Parameters
        ----------
        X : csr_array of shape (n_users, n_items), float32
            Rows of the training users, in canonical form with every value 1.
        """

    @abstractmethod
    def _scorer(self) -> Scorer:
        """Return the function that scores blocks of rows.

        Each public method calls ``_scorer`` once, and the function once per block. Expensive
        preparations, such as a copy to the device, therefore belong in ``_scorer`` itself. On a CPU
        several threads call the function at the same time, unless the class attribute
        ``_scores_in_threads`` is False.

        Returns
        -------
        scorer : callable
            Maps a csr_array of shape (n_rows, n_items), in canonical form with every value 1, to a
            new float32 tensor of the same shape. A higher score is better.
        """

    def _row_scorer(self) -> Callable[[Any], Tensor]:
        """Return the function that scores validated rows, also those without interactions."""
        scorer = self._scorer()

        def score_rows(X: Any) -> Tensor:
            rows = self._interactions(X)
            return self._popular_if_empty(np.diff(rows.indptr), scorer(rows))

        return score_rows

    def _popular_if_empty(
        self, n_interactions: np.ndarray, scores: Tensor, items: np.ndarray | None = None
    ) -> Tensor:
        """Replace the scores of the rows without interactions by the numbers of users.

        The scores are those of all items or of these items of each row, shape (n_rows, n).
        """
        empty = np.flatnonzero(n_interactions == 0)
        if len(empty):
            counts = self.item_counts_ if items is None else self.item_counts_[items[empty]]
            scores[as_index(empty, scores)] = torch.tensor(
                counts, dtype=torch.float32, device=scores.device
            )
        return scores

    def _rankable_scores(self, X: Any) -> Callable[[slice], Scores]:
        """Return the function that scores a block of these validated rows for ``recommend``.

        It may return approximate scores together with factors of the exact scores, see ``Scores``
        in ``skvaecf.ranking``.
        """
        score_rows = self._row_scorer()
        return lambda block: score_rows(take_rows(X, block))

    def _explainer(self) -> Explainer:
        """Return the function that divides the scores of a block of rows among the users' items.

        By default, it compares the scores with those without one item. A model whose score is a sum
        over the user's items overrides this method and returns the terms.

        Returns
        -------
        explainer : callable
            Maps a csr_array of shape (n_rows, n_items), as the scorer gets it, and item numbers of
            shape (n_rows, n) to two tensors: what each stored entry adds to the scores of these
            items, shape (n_entries, n), and the rest of the scores, shape (n_rows, n).
        """
        return leave_one_out(self._scorer())

    def _row_explainer(self) -> Explainer:
        """Return the function that explains validated rows, also those without interactions."""
        contribute = self._explainer()

        def explain_rows(X: Any, items: np.ndarray) -> tuple[Tensor, Tensor]:
            rows = self._interactions(X)
            parts, base = contribute(rows, items)
            return parts, self._popular_if_empty(np.diff(rows.indptr), base, items)

        return explain_rows

    @default_modes()
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from an interaction matrix.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. A stored positive value is an interaction, whatever its size: a rating of
            1 star counts like one of 5. To keep those of 4 and more, pass ``X >= 4``.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        self : object
            The fitted recommender.

        Raises
        ------
        ValueError
            If X holds NaN, infinity or negative values, is empty or corrupt, or if a
            parameter is invalid.
        """
        return self._fit_valid(X)

    def _fit_valid(self, X: Any, sample_weight: Any = None) -> Self:
        """Validate everything, fit, and record what all recommenders know about the items."""
        self._validate_params()
        rows = check_rows(X, min_rows=1)
        weights = check_user_weights(sample_weight, rows)
        interactions = self._interactions(rows)
        self._fit(interactions, *([] if weights is None else [weights]))
        self.item_counts_ = count_users(interactions, weights)
        validate_data(self, X, skip_check_array=True)  # records the number and names of the items
        return self

    def _validate_params(self) -> None:
        super()._validate_params()
        if hasattr(self, "device"):
            check_device(self.device)
        for name, value in self.get_params(deep=False).items():
            # scikit-learn accepts True as the number 1.
            constraints = self._parameter_constraints.get(name, [])
            is_number = any(isinstance(constraint, Interval) for constraint in constraints)
            if isinstance(value, bool) and is_number and "boolean" not in constraints:
                raise InvalidParameterError(
                    f"The {name!r} parameter of {type(self).__name__} must be a number. Got"
                    f" {value!r} instead."
                )

    @default_modes()
    def predict(self, X: Any) -> np.ndarray:
        """Score every item for every user.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users, who may be in ``fit`` or not.

        Returns
        -------
        scores : ndarray of shape (n_users, n_items), float32
            Higher is better. Seen items are scored like all other items. For a row without
            interactions, the score of an item is its number of users in ``fit``.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If X is invalid or has another number of items than in ``fit``.
        """
        check_is_fitted(self)
        X = self._check_rows(X)
        score_rows = self._row_scorer()
        scores = np.empty(X.shape, dtype=np.float32)
        with threads_for(scores.size, FEW_TO_RANK):
            for block in row_blocks(*X.shape):
                scores[block] = score_rows(X[block]).cpu().numpy()
        return scores

    # ``skvaecf.recommend`` reads this mark. A ``predict`` that a subclass overrides does not have
    # it, so the items are ranked by the result of that method.
    predict.scores_by_block = True  # type: ignore[attr-defined]

    def decision_function(self, X: Any) -> np.ndarray:
        """Score every item for every user, as ``predict`` does.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users, who may be in ``fit`` or not.

        Returns
        -------
        scores : ndarray of shape (n_users, n_items), float32
            Higher is better.
        """
        return self.predict(X)

    def recommend(
        self,
        X: Any,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Any = None,
        exclude: Any = None,
        return_scores: bool = False,
    ) -> Any:
        """Recommend the best k items to every user.

        Users are scored in blocks, so memory does not grow with their number.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users, who may be in ``fit`` or not.
        k : int, default=10
            Length of the lists.
        exclude_seen : bool, default=True
            Whether to leave out the items that the user has in X.
        candidates : array-like of int, {array-like, sparse matrix} of shape (n_users, n_items) \
or None, default=None
            Items that may be recommended: item numbers or a boolean array of shape (n_items,), for
            all users, or a users x items mask whose positive entries are allowed. None allows every
            item. The number -1, which an encoder returns for an unknown item, is ignored with a
            warning.
        exclude : array-like of int, {array-like, sparse matrix} of shape (n_users, n_items) or \
None, default=None
            Items that must not be recommended, in the forms of ``candidates``: item numbers or a
            boolean array for all users, or a users x items matrix whose positive entries are
            excluded.
        return_scores : bool, default=False
            Whether to return the scores, too.

        Returns
        -------
        items : ndarray of shape (n_users, k), int64
            Item numbers, best first. Of items with equal scores, the one with more users in ``fit``
            comes first, then the one with the lower number. A user without interactions gets the
            items with the most users. If a user has fewer than k eligible items, the remaining
            places hold -1.
        scores : ndarray of shape (n_users, k), float32
            Only if ``return_scores``; ``-inf`` where items is -1.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If X is invalid, if k is below 1, if candidates or exclude hold a number that is not an
            item number of X or have another shape, or if scores are NaN or infinite.
        """
        return recommend(
            self,
            X,
            k,
            exclude_seen=exclude_seen,
            candidates=candidates,
            exclude=exclude,
            return_scores=return_scores,
        )

    def explain(self, X: Any, items: Any, k: int = 5) -> Explanation:
        """Find the items of each user that contribute most to the scores of given items.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users, who may be in ``fit`` or not.
        items : array-like of int of shape (n_users, n) or (n,)
            Item numbers to explain, such as ``recommend`` returns them: n for each user, or the
            same n for all users. -1 is padding.
        k : int, default=5
            Number of reasons per item.

        Returns
        -------
        explanation : Explanation
            Named tuple of the arrays ``items``, ``reasons``, ``contributions`` and ``base``, see
            :func:`skvaecf.explain`.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If X is invalid, items are not item numbers of ``fit`` or not those of the users of X,
            or k is below 1.
        """
        return explain(self, X, items, k)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean NDCG@100 on held-out interactions, as ``skvaecf.ndcg_at_k`` computes it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. Without ``y``, a fifth of each row is held out.
        y : sparse matrix of shape (n_users, n_items), ignored if 1-D, default=None
            Held-out interactions of the same users. Labels, which scikit-learn's tools may pass,
            are ignored, as in ``fit``.

        Returns
        -------
        score : float
            In [0, 1].
        """
        check_is_fitted(self)
        self._check_rows(X)
        return ndcg_at_k(self, X, y)

    def _check_rows(self, X: Any) -> Any:
        """Validate and return rows for a fitted recommender."""
        rows = check_rows(X)
        validate_data(self, X, reset=False, skip_check_array=True)
        return rows

    def _interactions(self, X: Any) -> csr_array:
        """Return validated rows in the form that the hooks get. A subclass may override it."""
        return value_csr(X) if getattr(self, "use_values", False) else binary_csr(X)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with the version of skvaecf."""
        return {**super().__getstate__(), "_skvaecf_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_skvaecf_version", __version__)
        if version != __version__:
            warnings.warn(
                f"A {type(self).__name__} of skvaecf {version} is unpickled by {__version__}. This"
                " may fail or change results. Files of its method save do not have this problem.",
                stacklevel=2,
            )
        super().__setstate__(state)

    def _check_loaded(self) -> None:
        n_items = self.n_features_in_
        names = getattr(self, "feature_names_in_", None)
        if names is not None and names.shape != (n_items,):
            raise ValueError(f"it has the names of {len(names)} items instead of {n_items}")
        counts = self.item_counts_
        if counts.shape != (n_items,) or counts.dtype.kind not in "if" or not counts.min() >= 0:
            raise ValueError(f"its numbers of users are not {n_items} numbers of at least 0")
        # Score a user with one item: this fails if the arrays do not fit together.
        scores = self._scorer()(user_of_last_item(n_items))
        if scores.shape != (1, n_items) or scores.dtype != torch.float32:
            raise ValueError(
                f"its scores of {n_items} items for 1 user have shape {tuple(scores.shape)} and"
                f" type {scores.dtype}"
            )

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags


def user_of_last_item(n_items: int) -> csr_array:
    """Return the row of a user whose only item is the last one."""
    return csr_array(([1.0], ([0], [n_items - 1])), shape=(1, n_items), dtype=np.float32)


class SampleWeightMixin:
    """``fit`` with weights of the users.

    The hook ``_fit`` of a subclass gets the weights as its second argument, a float64 array of
    shape (n_users,), if the user passes any.
    """

    @default_modes()
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from an interaction matrix.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. A stored positive value is an interaction. Its size counts only for a
            recommender that has a parameter ``use_values`` and if this is True: otherwise, a rating
            of 1 star counts like one of 5. To keep those of 4 and more, pass ``X >= 4``.
        y : Ignored
            Present for scikit-learn's tools.
        sample_weight : array-like of shape (n_users,) or None, default=None
            Weights of the users, at least 0. A user with the weight 2 counts as two users with the
            same interactions, a user with the weight 0 is left out. With None, all weights are 1.

        Returns
        -------
        self : object
            The fitted recommender.

        Raises
        ------
        ValueError
            If X holds NaN, infinity or negative values, is empty or corrupt, if sample_weight is
            not one finite number of at least 0 per user, if all weights are 0, or if a parameter is
            invalid.
        """
        return self._fit_valid(X, sample_weight)  # type: ignore[attr-defined, no-any-return]
