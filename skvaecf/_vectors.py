"""``transform``, ``similar_users`` and ``similar_items``, by vectors of users and of items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn.functional import normalize

from ._devices import default_modes, device_or_cpu
from .base import user_of_last_item
from .ranking import check_item_numbers, rank, row_blocks


class LatentFactorMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """``transform`` for recommenders that represent a user by a latent vector.

    A subclass defines the hook ``_encoder()``. It returns a function that maps a block of rows, as
    :class:`~skvaecf.neural.BaseRecommender` describes them, to latent vectors: a tensor of shape
    (n_rows, n_components).
    """

    @abstractmethod
    def _encoder(self) -> Callable[[csr_array], Tensor]:
        """Return the function that computes the latent vectors of blocks of rows.

        Each public method calls ``_encoder`` once, and the function once per block.

        Returns
        -------
        encoder : callable
            Maps a csr_array of shape (n_rows, n_items), in canonical form with every value 1, to a
            tensor of shape (n_rows, n_components).
        """

    def transform(self, X: Any) -> np.ndarray:
        """Represent every user by a latent vector.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users, who may be in ``fit`` or not.

        Returns
        -------
        Z : ndarray of shape (n_users, n_components)
            It has the type of X if that is float32 or float64, else float32.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If X is invalid or has another number of items than in ``fit``.
        """
        check_is_fitted(self)
        return self._latent_vectors(self._check_rows(X))

    def similar_users(self, X: Any, users: Any, k: int = 10, *, return_scores: bool = False) -> Any:
        """Find the users of X whose latent vectors are most similar to those of the given users.

        The similarity of two users is the cosine of their vectors, which ``transform`` returns.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users, who may be in ``fit`` or not.
        users : array-like of int of shape (n,)
            Row numbers of X.
        k : int, default=10
            Length of the lists.
        return_scores : bool, default=False
            Whether to return the similarities, too.

        Returns
        -------
        similar : ndarray of shape (n, k), int64
            Row numbers of X without the user itself, most similar first; of users with equal
            similarities, the lower number comes first. -1 where there are no more users.
        scores : ndarray of shape (n, k), float32
            Only if ``return_scores``; ``-inf`` where similar is -1.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If X is invalid, an entry of users is not a row number of X, or k is below 1.
        """
        check_is_fitted(self)
        vectors = self._latent_vectors(self._check_rows(X)).astype(np.float32, copy=False)
        numbers = np.asarray(users)
        if numbers.size == 0:
            numbers = numbers.astype(np.int64)  # an empty list has no type
        is_list = numbers.ndim == 1 and numbers.dtype.kind in "iu"
        if not is_list or (numbers.size and not 0 <= numbers.min() <= numbers.max() < len(vectors)):
            raise ValueError(
                f"users must be a list of row numbers of X, in [0, {len(vectors)}), got {users!r}."
            )
        similar, scores = _most_similar(
            cosines(torch.from_numpy(vectors)),
            numbers,
            len(vectors),
            k,
            type(self).__name__,
            torch.device("cpu"),
        )
        return (similar, scores) if return_scores else similar

    @default_modes()
    def _latent_vectors(self, rows: Any) -> np.ndarray:
        """Return the latent vectors of validated rows as an array, whatever ``set_output`` says."""
        dtype = rows.dtype if rows.dtype in (np.float32, np.float64) else np.float32
        if rows.shape[0] == 0:
            return np.empty((0, self._n_features_out), dtype=dtype)
        with torch.no_grad():
            encode = self._encoder()
            for block in row_blocks(*rows.shape):
                latent = encode(self._interactions(rows[block])).cpu().numpy()
                if block.start == 0:
                    Z = np.empty((rows.shape[0], latent.shape[1]), dtype=dtype)
                Z[block] = latent
        return Z

    @property
    def _n_features_out(self) -> int:
        # The number of components when the model was fitted, whatever the parameter is now.
        return self._latent_of_a_user().shape[1]

    def _latent_of_a_user(self) -> Tensor:
        with torch.no_grad():
            return self._encoder()(user_of_last_item(self.n_features_in_))

    def _check_loaded(self) -> None:
        super()._check_loaded()
        latent = self._latent_of_a_user()
        if latent.ndim != 2 or len(latent) != 1:
            raise ValueError(f"its latent vectors of 1 user have shape {tuple(latent.shape)}")


class SimilarItemsMixin:
    """``similar_items`` for recommenders that have similarities or vectors of items.

    A subclass defines the hook ``_similarities()``. It returns a function that maps n item numbers,
    an ndarray, to their similarities to all items: a new tensor of shape (n, n_items).
    """

    @abstractmethod
    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        """Return the function that computes the similarities of items.

        Returns
        -------
        similarities : callable
            Maps n item numbers, an ndarray, to a new tensor of shape (n, n_items). A higher value
            means more similar.
        """

    @default_modes()
    def similar_items(self, items: Any, k: int = 10, *, return_scores: bool = False) -> Any:
        """Find the most similar items to each of the given items.

        Parameters
        ----------
        items : array-like of int of shape (n,)
            Item numbers.
        k : int, default=10
            Length of the lists.
        return_scores : bool, default=False
            Whether to return the similarities, too. They are the entries of ``item_similarity_`` if
            the model has this attribute, else the cosines of the vectors that score the items.

        Returns
        -------
        similar : ndarray of shape (n, k), int64
            Item numbers without the item itself, most similar first; of items with equal
            similarities, the lower number comes first. -1 where there are no more items, or no more
            items with an entry in ``item_similarity_``.
        scores : ndarray of shape (n, k), float32
            Only if ``return_scores``; ``-inf`` where similar is -1.

        Raises
        ------
        NotFittedError
            If the recommender is not fitted.
        ValueError
            If an entry of items is not an item number of ``fit``, or k is below 1.
        """
        check_is_fitted(self)
        n_items: int = self.n_features_in_  # type: ignore[attr-defined]
        numbers = check_item_numbers("items", items, n_items)
        similar, scores = _most_similar(
            self._similarities(),
            np.maximum(numbers, 0),
            n_items,
            k,
            type(self).__name__,
            device_or_cpu(getattr(self, "device", "cpu")),
        )
        similar[numbers < 0], scores[numbers < 0] = -1, -np.inf
        return (similar, scores) if return_scores else similar


def _most_similar(
    similarities: Callable[[np.ndarray], Tensor],
    numbers: np.ndarray,
    n: int,
    k: int,
    scored_by: str,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the n items, or users, by their similarities to the given ones, without themselves."""
    # Each of the given ones is treated as a user whose only seen item it is itself.
    itself = csr_array(
        (np.ones(len(numbers)), numbers, np.arange(len(numbers) + 1)), shape=(len(numbers), n)
    )
    return rank(
        lambda block: similarities(numbers[block]), itself, k, scored_by=scored_by, device=device
    )


def cosines(vectors: Tensor) -> Callable[[np.ndarray], Tensor]:
    """Return the function that maps row numbers to the cosines of these rows with all rows."""
    unit = normalize(vectors, dim=1)
    return lambda rows: unit[rows] @ unit.T
