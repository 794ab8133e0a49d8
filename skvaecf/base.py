"""What every recommender shares: validation, fit, predict, recommend, score."""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, InvalidParameterError
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import normalize

from ._version import __version__
from .interactions import binary_csr, check_rows
from .persistence import SaveMixin
from .ranking import Scores, rank, row_blocks

Scorer = Callable[[csr_array], Tensor]


class BaseRecommender(SaveMixin, BaseEstimator, metaclass=ABCMeta):
    """Base of all recommenders.

    A subclass writes two hooks: ``_fit`` learns from a matrix, ``_scorer`` says how to
    score rows. Both get canonical binary CSR: sorted, no duplicates, no zeros, every value 1.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    @abstractmethod
    def _fit(self, X: csr_array) -> None:
        """Learn from all users."""

    @abstractmethod
    def _scorer(self) -> Scorer:
        """Make the function that scores blocks of rows.

        It returns a new float32 tensor of shape (n_rows, n_items). A public method makes it once
        per call: what is costly, such as a copy to the device, belongs here, not into it.
        """

    def _row_scorer(self, X: Any) -> Callable[[slice], Tensor]:
        """Make the function that scores blocks of these validated rows."""
        scorer = self._scorer()
        return lambda block: scorer(self._interactions(X[block]))

    def _ranking_scorer(self, X: Any) -> Callable[[slice], Scores]:
        """Do the same for ``recommend``, which takes rough scores with exact factors, too."""
        return self._row_scorer(X)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from an interaction matrix.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. A stored positive value is an interaction, whatever its size.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If X holds NaN, infinity or negative values, is empty or corrupt, or if a
            parameter is invalid.
        """
        self._validate_params()
        rows = check_rows(X)
        self._fit(self._interactions(rows))
        validate_data(self, X, skip_check_array=True)  # records the names and number of items
        return self

    def _validate_params(self) -> None:
        super()._validate_params()
        for name, value in self.get_params(deep=False).items():
            # scikit-learn takes True for the number 1.
            constraints = self._parameter_constraints.get(name, [])
            is_number = any(isinstance(constraint, Interval) for constraint in constraints)
            if isinstance(value, bool) and is_number and "boolean" not in constraints:
                raise InvalidParameterError(
                    f"The {name!r} parameter of {type(self).__name__} must be a number. Got"
                    f" {value!r} instead."
                )

    def predict(self, X: Any) -> np.ndarray:
        """Score every item for every user.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions to start from, of users seen in ``fit`` or not.

        Returns
        -------
        scores : ndarray of shape (n_users, n_items), float32
            Higher is better. Items that the user has already are scored like any other.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If X is invalid or has another number of items than in ``fit``.
        """
        check_is_fitted(self)
        X = self._check_rows(X)
        score_rows = self._row_scorer(X)
        scores = np.empty(X.shape, dtype=np.float32)
        for block in row_blocks(*X.shape):
            scores[block] = score_rows(block).cpu().numpy()
        return scores

    def decision_function(self, X: Any) -> np.ndarray:
        """Score every item for every user: the same as ``predict``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions to start from.

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
        return_scores: bool = False,
    ) -> Any:
        """Recommend the best k items to every user.

        Users are scored in blocks, so memory does not grow with their number.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions to start from, of users seen in ``fit`` or not.
        k : int, default=10
            Length of the lists.
        exclude_seen : bool, default=True
            Leave out the items that the user has in X.
        candidates : array-like of int, {array-like, sparse matrix} of shape (n_users, n_items) \
or None, default=None
            Items that may be recommended: item numbers shared by all users, or a mask whose
            positive entries are allowed. None allows every item.
        return_scores : bool, default=False
            Also return the scores.

        Returns
        -------
        items : ndarray of shape (n_users, k), int64
            Item numbers, best first, ties to the lower number. A user with fewer than k eligible
            items has -1 in the places left.
        scores : ndarray of shape (n_users, k), float32
            Only if ``return_scores``; ``-inf`` where items is -1.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If X is invalid, k < 1, or candidates lie outside of the items.
        """
        check_is_fitted(self)
        X = self._check_rows(X)
        items, scores = rank(
            self._ranking_scorer(X), X, k, exclude_seen=exclude_seen, candidates=candidates
        )
        return (items, scores) if return_scores else items

    def score(self, X: Any, y: Any = None) -> float:
        """Mean NDCG@100 on held-out interactions, as ``skvaecf.ndcg_at_k`` computes it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions. Without ``y``, a fifth of each row is held out.
        y : sparse matrix of shape (n_users, n_items), ignored if 1-D, default=None
            Held-out interactions of the same users. Labels, which scikit-learn's tools pass on,
            are ignored as in ``fit``.

        Returns
        -------
        score : float
            In [0, 1].
        """
        from .scorers import ndcg_at_k

        check_is_fitted(self)
        self._check_rows(X)
        return ndcg_at_k(self, X, None if np.ndim(y) < 2 else y)

    def _check_rows(self, X: Any) -> Any:
        """Validate rows for a fitted recommender."""
        rows = check_rows(X)
        validate_data(self, X, reset=False, skip_check_array=True)
        return rows

    def _interactions(self, X: Any) -> csr_array:
        """Give validated rows the form that the hooks take."""
        return binary_csr(X)

    def __getstate__(self) -> dict[str, Any]:
        """Note the version."""
        return {**super().__getstate__(), "_skvaecf_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_skvaecf_version", __version__)
        if version != __version__:
            warnings.warn(
                f"A {type(self).__name__} of skvaecf {version} is unpickled by {__version__}, which"
                " may fail or give other results; files of its method save are safe.",
                stacklevel=2,
            )
        super().__setstate__(state)

    def _check_loaded(self) -> None:
        n_items = self.n_features_in_
        names = getattr(self, "feature_names_in_", None)
        if names is not None and names.shape != (n_items,):
            raise ValueError(f"it has names of {len(names)} items, not of {n_items}")
        # Scores of a user of one item: arrays that do not fit together show themselves here.
        scores = self._scorer()(_user_of_last_item(n_items))
        if scores.shape != (1, n_items) or scores.dtype != torch.float32:
            raise ValueError(
                f"it scores {n_items} items by {scores.dtype} of shape {tuple(scores.shape)}"
            )

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags


def _user_of_last_item(n_items: int) -> csr_array:
    return csr_array(([1.0], ([0], [n_items - 1])), shape=(1, n_items), dtype=np.float32)


class LatentFactorMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """``transform`` for recommenders that represent a user by ``n_components`` numbers."""

    @abstractmethod
    def _encoder(self) -> Callable[[csr_array], Tensor]:
        """Make the function that represents blocks of rows, shape (n_rows, n_components).

        Like ``_scorer``, it is asked for once per call of a public method.
        """

    def transform(self, X: Any) -> np.ndarray:
        """Represent every user by a latent vector.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions, of users seen in ``fit`` or not.

        Returns
        -------
        Z : ndarray of shape (n_users, n_components)
            Of the type of X if that is float32 or float64, else float32.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If X is invalid or has another number of items than in ``fit``.
        """
        check_is_fitted(self)
        rows = self._check_rows(X)
        dtype = rows.dtype if rows.dtype in (np.float32, np.float64) else np.float32
        Z = np.empty((rows.shape[0], self._n_features_out), dtype=dtype)
        with torch.no_grad():
            encode = self._encoder()
            for block in row_blocks(*rows.shape):
                Z[block] = encode(self._interactions(rows[block])).cpu().numpy()
        return Z

    @property
    def _n_features_out(self) -> int:
        # As it was when the model was fitted.
        return self._latent_of_a_user().shape[1]

    def _latent_of_a_user(self) -> Tensor:
        with torch.no_grad():
            return self._encoder()(_user_of_last_item(self.n_features_in_))

    def _check_loaded(self) -> None:
        super()._check_loaded()
        latent = self._latent_of_a_user()
        if latent.ndim != 2 or len(latent) != 1:
            raise ValueError(f"it represents a user by numbers of shape {tuple(latent.shape)}")


class SimilarItemsMixin:
    """``similar_items`` for recommenders that represent items."""

    @abstractmethod
    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        """Make the function from n item numbers to new similarities, shape (n, n_items)."""

    def similar_items(self, items: Any, k: int = 10, *, return_scores: bool = False) -> Any:
        """Find the items most similar to each of some items.

        Parameters
        ----------
        items : array-like of int of shape (n,)
            Item numbers.
        k : int, default=10
            Length of the lists.
        return_scores : bool, default=False
            Also return the similarities: what ``item_similarity_`` holds for models that have
            it, else cosines of the vectors that score the items.

        Returns
        -------
        similar : ndarray of shape (n, k), int64
            Item numbers, most similar first, ties to the lower number, without the item itself.
            -1 where there are no more items, or none of which ``item_similarity_`` holds a
            similarity.
        scores : ndarray of shape (n, k), float32
            Only if ``return_scores``; ``-inf`` where similar is -1.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If items lie outside of those in ``fit``, or k < 1.
        """
        check_is_fitted(self)
        n_items: int = self.n_features_in_  # type: ignore[attr-defined]
        numbers = np.asarray(items)
        if numbers.size == 0:
            numbers = numbers.astype(np.int64)  # an empty list has no type
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"items must be a list of item numbers, got {items!r}.")
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= n_items):
            raise ValueError(
                f"items must lie in [0, {n_items}), got values from {numbers.min()} to"
                f" {numbers.max()}."
            )
        # As if each item were a user who has seen only this item.
        itself = csr_array(
            (np.ones(len(numbers)), numbers, np.arange(len(numbers) + 1)),
            shape=(len(numbers), n_items),
        )
        similarities = self._similarities()
        similar, scores = rank(lambda block: similarities(numbers[block]), itself, k)
        return (similar, scores) if return_scores else similar


def cosines(vectors: Tensor) -> Callable[[np.ndarray], Tensor]:
    """Make the function from row numbers to their cosines with all rows of ``vectors``."""
    unit = normalize(vectors, dim=1)
    return lambda rows: unit[rows] @ unit.T
