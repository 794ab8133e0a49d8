"""Lists of items: checks, hits, and the sparse matrix of their items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from .._checks import check_count
from ..interactions import binary_csr, check_rows, check_structure

PerUser = NDArray[np.float64]


def check_lists(ranked: Any, n_items: int, k: int, name: str = "ranked") -> NDArray[np.int64]:
    """Return the first k places of valid lists; otherwise raise a ValueError."""
    check_count("k", k)
    ranked = np.asarray(ranked)
    if ranked.ndim != 2 or not np.issubdtype(ranked.dtype, np.integer) or not ranked.shape[1]:
        raise ValueError(
            f"{name} must be item numbers of shape (n_users, n_places) with at least one place, got"
            f" an array of shape {ranked.shape} and dtype {ranked.dtype}."
        )
    lists: NDArray[np.int64] = ranked[:, :k]
    if lists.max(initial=-1) >= n_items:
        raise ValueError(f"{name} holds item {lists.max()}, but there are {n_items} items.")
    return lists


def check_same_users(ranked: Any, n_users: int, name: str) -> None:
    """Raise a ValueError if there is not one list per user of another argument."""
    if len(ranked) != n_users:
        raise ValueError(
            f"ranked and {name} must have one row per user, got {len(ranked)} and {n_users} rows."
        )


def find_hits(ranked: Any, heldout: Any, k: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which of the first k places are hits, and the number of held-out items per user."""
    heldout = binary_csr(check_structure(heldout, "heldout"))
    n_users, n_items = heldout.shape
    ranked = check_lists(ranked, n_items, k)
    check_same_users(ranked, n_users, "heldout")
    rows, columns = heldout.nonzero()
    # One number per (user, item) pair, ascending. The last number is larger than that of any pair.
    pairs = np.append(rows.astype(np.int64) * n_items + columns, n_users * n_items)
    wanted = np.arange(n_users, dtype=np.int64)[:, None] * n_items + ranked
    hits = pairs[np.searchsorted(pairs, wanted)] == wanted
    return hits & (ranked >= 0), np.diff(heldout.indptr).astype(np.int64)


def ratio(value: Any, best: NDArray[Any]) -> PerUser:
    """Return ``value / best``, or NaN where the best possible value is 0: no item is held out."""
    quotient = np.full(len(best), np.nan)
    np.divide(value, best, out=quotient, where=best > 0)
    return quotient


def as_matrix(lists: NDArray[np.int64], n_items: int) -> csr_array:
    """Return a matrix of shape (n_users, n_items) with a 1 for every item of a user's list."""
    listed = lists >= 0
    indptr = np.append(0, listed.sum(axis=1).cumsum())
    return binary_csr(
        csr_array((np.ones(indptr[-1]), lists[listed], indptr), shape=(len(lists), n_items))
    )


def check_popularity(item_popularity: Any) -> NDArray[np.float64]:
    """Return the shares of users as an array; raise a ValueError if they are none."""
    popularity = np.asarray(item_popularity, dtype=np.float64)
    if popularity.ndim != 1 or not popularity.size:
        raise ValueError(
            "item_popularity must be one number per item, of shape (n_items,), got shape"
            f" {popularity.shape}."
        )
    if not (popularity.min() >= 0 and popularity.max() <= 1):
        raise ValueError(
            "item_popularity must hold shares of users, from 0 to 1, got values from"
            f" {popularity.min():g} to {popularity.max():g}. item_popularity(X) returns the shares."
        )
    return popularity


def check_fold_in(fold_in: Any, n_items: int) -> csr_array:
    """Return the items that users have, as ones; raise a ValueError if they do not fit."""
    if np.shape(fold_in)[1:] != (n_items,):
        raise ValueError(
            f"fold_in must have the shape (n_users, {n_items}), got {np.shape(fold_in)}."
        )
    return binary_csr(check_rows(fold_in, "fold_in"))


def check_items(matrix: Any, name: str) -> Any:
    """Return a matrix with one row per item, CSR if it is sparse, else an array, in float64."""
    matrix = check_structure(matrix, name)
    matrix = csr_array(matrix) if issparse(matrix) else np.asarray(matrix)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be numbers with one row per item, got an array of shape {matrix.shape}"
            f" and dtype {matrix.dtype}."
        )
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix.data if issparse(matrix) else matrix).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    return matrix
