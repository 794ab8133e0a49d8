"""What item-item models share: products of items with items, and scoring by a sparse matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from .base import Scorer
from .interactions import InteractionBatch
from .ranking import row_blocks

BLOCK_ENTRIES = 2**22
SUMMANDS = 64
DENSE_SPEED = 300


def item_blocks(n_items: int) -> Iterator[slice]:
    """Cut items into blocks of which n_items numbers each may be held at once."""
    size = max(16, BLOCK_ENTRIES // n_items)
    for start in range(0, n_items, size):
        yield slice(start, min(start + size, n_items))


def sparse_item_blocks(X: csr_array) -> Iterator[np.ndarray]:
    """Cut items into blocks whose rows of X'X, being short, may be held at once.

    The bounds of the rows of a block differ by less than a factor of two, so that a rectangle as
    wide as the longest row takes little more.
    """
    n_items = X.shape[1]
    n_u = np.diff(X.indptr)
    # A row has at most as many entries as the item's users have items.
    at_most = np.bincount(X.indices, n_u.repeat(n_u), minlength=n_items).clip(1, n_items)
    order = np.argsort(-at_most)
    rising = -at_most[order]
    start = 0
    while start < n_items:
        longest = -rising[start]
        # A quarter, as an entry takes several numbers of 8 bytes.
        size = max(1, int(BLOCK_ENTRIES // 4 // longest))
        stop = min(start + size, np.searchsorted(rising, -longest / 2))
        yield order[start:stop]
        start = stop


def dense_gram(X: csr_array, device: torch.device, padding: int = 0) -> Tensor:
    """X'X, float32, with rows and columns of zeros behind it, in blocks of little memory.

    Counts of users are exact either way. A sparse product multiplies the pairs of items that a user
    has; a dense one multiplies all pairs, each in a DENSE_SPEED-th of the time.
    """
    n_users, n_items = X.shape
    gram = torch.zeros((n_items + padding,) * 2, dtype=torch.float32, device=device)
    pairs = float((np.diff(X.indptr).astype(float) ** 2).sum())
    if n_users * n_items**2 < DENSE_SPEED * pairs:
        for rows in row_blocks(n_users, n_items):
            dense = torch.from_numpy(X[rows].toarray()).to(device)
            gram[:n_items, :n_items].addmm_(dense.T, dense)
        return gram
    users = csr_array(X.T)
    for block in item_blocks(n_items):
        gram[block, :n_items] = torch.from_numpy((users[block] @ X).toarray()).to(device)
    return gram


class DenseGram:
    """X'X as a dense matrix; item n_items is one that nobody has."""

    def __init__(self, X: csr_array, device: torch.device) -> None:
        self.n_items = X.shape[1]
        self.values = dense_gram(X, device, padding=1)
        self.counts = self.values.diagonal().clone()

    def among(self, items: Tensor) -> Tensor:
        """Products of all pairs of each row's items, shape (n_rows, m, m)."""
        return self.values[items[:, :, None], items[:, None, :]]

    def weighted(self, items: Tensor, weights: Tensor) -> Tensor:
        """Products of all items with each row's weighted items, shape (n_rows, n_items + 1)."""
        kept = items < self.n_items
        counts = kept.sum(dim=1)
        return F.embedding_bag(
            items[kept],
            self.values,
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=weights[kept],
        )


class SparseGram:
    """The same, each time from X itself: slower, with memory that does not grow as n_items^2."""

    def __init__(self, X: csr_array, device: torch.device) -> None:
        self.n_items = X.shape[1]
        n_users = X.shape[0]
        transposed = csr_array(X.T)
        indptr = np.append(transposed.indptr, transposed.indptr[-1])
        self.users = csr_array(
            (transposed.data, transposed.indices, indptr), shape=(self.n_items + 1, n_users)
        )
        # Adding thousands of like numbers one by one drifts in float32: an item's users are added
        # in parts of at most SUMMANDS, and then the parts.
        n_parts = -(-np.diff(indptr) // SUMMANDS)
        first = np.append(0, n_parts.cumsum())
        place = np.arange(first[-1]) - first[:-1].repeat(n_parts)
        by_item = InteractionBatch.from_csr(self.users, device)
        starts = np.append(indptr[:-1].repeat(n_parts) + place * SUMMANDS, indptr[-1])
        self.by_part = replace(by_item, offsets=torch.tensor(starts, device=device).long())
        parts = (np.ones(first[-1], dtype=np.float32), np.arange(first[-1]), first)
        self.by_item = InteractionBatch.from_csr(csr_array(parts), device)
        self.by_user = InteractionBatch.from_csr(X, device)
        self.counts = torch.tensor(np.diff(indptr), dtype=torch.float32, device=device)

    def among(self, items: Tensor) -> Tensor:
        """Products of all pairs of each row's items, shape (n_rows, m, m)."""
        n_rows, m = items.shape
        users = self.users[items.flatten().cpu().numpy()]
        # Each row's users are a range of columns of their own, so rows meet themselves only.
        entry_row = np.repeat(np.arange(n_rows * m) // m, np.diff(users.indptr))
        columns = users.indices + entry_row.astype(np.int64) * users.shape[1]
        columns = np.unique(columns, return_inverse=True)[1]
        own = csr_array(
            (users.data, columns, users.indptr), shape=(n_rows * m, columns.max(initial=0) + 1)
        )
        products = (own @ own.T).tocoo()
        first, second = products.coords
        result = np.zeros((n_rows, m, m), dtype=np.float32)
        result[first // m, first % m, second % m] = products.data
        return torch.from_numpy(result).to(items.device)

    def weighted(self, items: Tensor, weights: Tensor) -> Tensor:
        """Products of all items with each row's weighted items, shape (n_rows, n_items + 1)."""
        dense = weights.new_zeros(self.n_items + 1, len(items)).scatter_(0, items.T, weights.T)
        per_user = self.by_user @ dense[:-1]  # (n_users, n_rows)
        return (self.by_item @ (self.by_part @ per_user)).T.contiguous()


def stored_similarities(item_similarity: csr_array) -> Callable[[np.ndarray], Tensor]:
    """Look rows of S up, S being a sparse items x items matrix; -inf where it holds nothing."""

    def similarities(items: np.ndarray) -> Tensor:
        rows = item_similarity[items].tocoo()
        dense = np.full(rows.shape, -np.inf, dtype=np.float32)
        dense[rows.coords] = rows.data
        return torch.from_numpy(dense)

    return similarities


def sparse_scorer(item_similarity: csr_array) -> Scorer:
    """Score rows x by x S, S being a sparse items x items matrix.

    On the host, where the sparse product touches stored entries only and adds up a row's scores
    in the order of its items, whatever the other rows are.
    """
    return lambda X: torch.from_numpy((X @ item_similarity).toarray())
