"""Shared parts of the item-item models: products of items, scores by a sparse matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from .._batch import InteractionBatch, weighted_sums
from ..base import Scorer
from ..inspection import Explainer
from ..interactions import rows_of_entries
from ..ranking import row_blocks

# Numbers of a block of items that are in memory at once.
BLOCK_ENTRIES = 2**22
# Numbers that are added in one float32 sum.
SUMMANDS = 64
# Pairs that a dense product multiplies while a sparse product on the CPU multiplies one.
DENSE_SPEED = 300
GPU_DENSE_SPEED = 100_000  # by the number of operations; it was not measured

# Columns of a dense matrix that are multiplied at a time, if its items have READS users on average.
CACHED_COLUMNS, READS = 256, 4
# Entries that a dense product adds while a sparse product adds one.
SPARSE_COST = 20


def item_blocks(n_items: int) -> Iterator[slice]:
    """Yield blocks of items, each with about BLOCK_ENTRIES entries of an items x items matrix."""
    size = max(16, BLOCK_ENTRIES // n_items)
    for start in range(0, n_items, size):
        yield slice(start, min(start + size, n_items))


def sparse_item_blocks(X: csr_array) -> Iterator[np.ndarray]:
    """Yield blocks of items whose rows of the sparse matrix X'X fit into BLOCK_ENTRIES numbers."""
    n_u = np.diff(X.indptr)
    # The number of items of all users of an item bounds the number of entries in its row.
    yield from blocks_of_rows(np.bincount(X.indices, n_u.repeat(n_u), minlength=X.shape[1]))


def blocks_of_rows(n_entries: np.ndarray) -> Iterator[np.ndarray]:
    """Yield blocks of rows of a sparse items x items matrix that fit into BLOCK_ENTRIES numbers.

    The lengths of the rows in a block differ by less than a factor of two. An array that is as wide
    as the longest row is therefore little larger.

    Parameters
    ----------
    n_entries : ndarray of shape (n_items,)
        Upper bounds of the numbers of entries of the rows.
    """
    n_items = len(n_entries)
    at_most = n_entries.clip(1, n_items)
    order = np.argsort(-at_most)
    rising = -at_most[order]
    start = 0
    while start < n_items:
        longest = -rising[start]
        # A quarter, because an entry takes several numbers of 8 bytes.
        size = max(1, int(BLOCK_ENTRIES // 4 // longest))
        stop = min(start + size, np.searchsorted(rising, -longest / 2))
        yield order[start:stop]
        start = stop


def dense_gram(
    X: csr_array,
    device: torch.device,
    padding: int = 0,
    *,
    out: Tensor | None = None,
    weights: np.ndarray | None = None,
) -> Tensor:
    """Compute X'X in float32, followed by ``padding`` rows and columns of zeros.

    It is added to ``out``, if that is given. With weights of the rows, it is X' diag(weights) X.

    The products are computed in blocks, which need little memory. A sparse product multiplies the
    pairs of items that a user has. A dense product multiplies all pairs, but takes a DENSE_SPEED-th
    of the time per pair. The faster one is chosen; the counts of users are exact in both. Only
    sparse matrices are copied to a GPU.
    """
    n_users, n_items = X.shape
    gram = out
    if gram is None:
        gram = torch.zeros((n_items + padding,) * 2, dtype=torch.float32, device=device)
    weighted = X if weights is None else with_row_factors(X, weights)
    pairs = float((np.diff(X.indptr).astype(float) ** 2).sum())
    speed = DENSE_SPEED if device.type == "cpu" else GPU_DENSE_SPEED
    if n_users * n_items**2 < speed * pairs:
        for rows in row_blocks(n_users, n_items):
            dense = _to_dense(X[rows], device)
            if weights is None:
                gram[:n_items, :n_items].addmm_(dense.T, dense)
                continue
            factors = torch.tensor(weights[rows, None], dtype=torch.float32, device=device)
            gram[:n_items, :n_items].addmm_(dense.T, dense * factors)
        return gram
    users = csr_array(X.T)
    for block in item_blocks(n_items):
        gram[block, :n_items] += _to_dense(users[block] @ weighted, device)
    return gram


def _to_dense(rows: csr_array, device: torch.device) -> Tensor:
    """Return a dense matrix on a device; the stored entries must be at different places."""
    return torch.from_numpy(rows.toarray()) if device.type == "cpu" else _spread(rows, device)


def _spread(rows: csr_array, device: torch.device) -> Tensor:
    x = InteractionBatch.from_csr(rows, device)
    dense = torch.zeros(rows.shape, dtype=torch.float32, device=device)
    return dense.index_put_((x.users, x.items.long()), x.values)


def with_row_factors(X: csr_array, factors: np.ndarray) -> csr_array:
    """Return rows multiplied by one factor each, float32; they share the indices."""
    data = X.data * factors.astype(np.float32).repeat(np.diff(X.indptr))
    return csr_array((data, X.indices, X.indptr), shape=X.shape)


def sums_of_squares(X: csr_array) -> np.ndarray:
    """Return the sum of the squared values of each row, float64."""
    squares = X.data.astype(np.float64) ** 2
    return np.bincount(rows_of_entries(X), squares, X.shape[0])


def unless_ones(weights: np.ndarray) -> np.ndarray | None:
    """Return None for weights that are all 1, which need no multiplication."""
    return None if (weights == 1).all() else weights


class DenseGram:
    """X'X as a dense matrix, with an additional item n_items that has no users."""

    def __init__(self, values: Tensor) -> None:
        self.n_items = len(values) - 1
        self.values = values
        self.counts = values.diagonal().clone()

    def among(self, items: Tensor) -> Tensor:
        """Compute the products of all pairs of each row's items, shape (n_rows, m, m)."""
        return self.values[items[:, :, None], items[:, None, :]]

    def weighted(self, items: Tensor, weights: Tensor) -> Tensor:
        """Compute X'X w for the weights w of each row's items, shape (n_rows, n_items + 1)."""
        kept = items < self.n_items
        offsets = F.pad(kept.sum(dim=1).cumsum(0), (1, 0))
        return weighted_sums(self.values, items[kept], weights[kept], offsets)


class SparseGram:
    """Parts of X'X, computed from X at every call.

    It is slower than ``DenseGram``, but its memory does not grow with n_items^2. With weights of
    the rows, it is X' diag(weights) X.
    """

    def __init__(
        self, X: csr_array, device: torch.device, weights: np.ndarray | None = None
    ) -> None:
        self.n_items = X.shape[1]
        n_users = X.shape[0]
        transposed = csr_array(X.T)
        indptr = np.append(transposed.indptr, transposed.indptr[-1])
        self.users = csr_array(
            (transposed.data, transposed.indices, indptr), shape=(self.n_items + 1, n_users)
        )
        self.weights = np.ones(n_users, dtype=np.float32)
        if weights is not None:
            self.weights = weights.astype(np.float32)
        of_entries = transposed.data * self.weights[transposed.indices]
        weighted = csr_array((of_entries, transposed.indices, indptr), shape=self.users.shape)
        # Sums of thousands of similar numbers are inaccurate in float32. The users of an item are
        # therefore added in parts of at most SUMMANDS, and then the parts are added.
        n_parts = -(-np.diff(indptr) // SUMMANDS)
        first = np.append(0, n_parts.cumsum())
        place = np.arange(first[-1]) - first[:-1].repeat(n_parts)
        by_item = InteractionBatch.from_csr(weighted, device)
        starts = np.append(indptr[:-1].repeat(n_parts) + place * SUMMANDS, indptr[-1])
        self.by_part = replace(by_item, offsets=torch.tensor(starts, device=device).long())
        parts = (np.ones(first[-1], dtype=np.float32), np.arange(first[-1]), first)
        self.by_item = InteractionBatch.from_csr(csr_array(parts), device)
        self.by_user = InteractionBatch.from_csr(X, device)
        squares = (of_entries * transposed.data).astype(np.float64)
        items = np.arange(self.n_items + 1).repeat(np.diff(indptr))
        counts = np.bincount(items, squares, self.n_items + 1)
        self.counts = torch.tensor(counts, dtype=torch.float32, device=device)

    def among(self, items: Tensor) -> Tensor:
        """Compute the products of all pairs of each row's items, shape (n_rows, m, m)."""
        n_rows, m = items.shape
        users = self.users[items.flatten().cpu().numpy()]
        # The users of each row have separate columns, so the products of different rows are 0.
        entry_row = np.repeat(np.arange(n_rows * m) // m, np.diff(users.indptr))
        columns = users.indices + entry_row.astype(np.int64) * users.shape[1]
        columns = np.unique(columns, return_inverse=True)[1]
        own = csr_array(
            (users.data, columns, users.indptr), shape=(n_rows * m, columns.max(initial=0) + 1)
        )
        weighted = csr_array(
            (own.data * self.weights[users.indices], columns, own.indptr), own.shape
        )
        products = (weighted @ own.T).tocoo()
        first, second = products.coords
        result = np.zeros((n_rows, m, m), dtype=np.float32)
        result[first // m, first % m, second % m] = products.data
        return torch.from_numpy(result).to(items.device)

    def weighted(self, items: Tensor, weights: Tensor) -> Tensor:
        """Compute X'X w for the weights w of each row's items, shape (n_rows, n_items + 1)."""
        dense = weights.new_zeros(self.n_items + 1, len(items)).scatter_(0, items.T, weights.T)
        per_user = self.by_user @ dense[:-1]  # (n_users, n_rows)
        return (self.by_item @ (self.by_part @ per_user)).T.contiguous()


class StoredGram:
    """X'X as a sparse matrix, with an additional item n_items that has no users."""

    def __init__(self, values: csr_array, device: torch.device) -> None:
        self.n_items = values.shape[0] - 1
        self.values = values
        self.counts = torch.from_numpy(values.diagonal()).to(device)

    def among(self, items: Tensor) -> Tensor:
        """Compute the products of all pairs of each row's items, shape (n_rows, m, m)."""
        n_rows, m = items.shape
        numbers = items.cpu().numpy()
        first, second = numbers.repeat(m, axis=1).ravel(), np.tile(numbers, m).ravel()
        products = np.asarray(self.values[first, second]).astype(np.float32)
        return torch.from_numpy(products.reshape(n_rows, m, m)).to(items.device)

    def weighted(self, items: Tensor, weights: Tensor) -> Tensor:
        """Compute X'X w for the weights w of each row's items, shape (n_rows, n_items + 1)."""
        n_rows, m = items.shape
        own = csr_array(
            (weights.cpu().numpy().ravel(), items.cpu().numpy().ravel(), np.arange(n_rows + 1) * m),
            shape=(n_rows, self.n_items + 1),
        )
        sums = (own @ self.values).toarray().astype(np.float32)
        return torch.from_numpy(sums).to(items.device)


def stored_similarities(item_similarity: csr_array) -> Callable[[np.ndarray], Tensor]:
    """Return the function that reads rows of a sparse items x items matrix; -inf if not stored."""

    def similarities(items: np.ndarray) -> Tensor:
        rows = item_similarity[items].tocoo()
        dense = np.full(rows.shape, -np.inf, dtype=np.float32)
        dense[rows.coords] = rows.data
        return torch.from_numpy(dense)

    return similarities


def dense_scores(x: InteractionBatch, B: Tensor) -> Tensor:
    """Compute the scores x B with a dense items x items matrix B.

    On a CPU some columns of B are multiplied at a time, if all rows together read its rows so often
    that the copy of these columns takes little time: the copy stays in the cache.
    """
    if B.device.type != "cpu" or len(x.items) < READS * len(B):
        return x @ B
    scores = torch.empty(x.n_users, B.shape[1], dtype=torch.float32)
    for start in range(0, B.shape[1], CACHED_COLUMNS):
        columns = slice(start, start + CACHED_COLUMNS)
        scores[:, columns] = x @ B[:, columns].contiguous()
    return scores


def sparse_scorer(item_similarity: csr_array) -> Scorer:
    """Return the function that computes the scores x S with a sparse items x items matrix S.

    It runs on the CPU. The sparse product visits only stored entries, and it adds the scores of a
    row in the order of its items, so they do not depend on the other rows. If S is small and has
    few zeros, many rows are multiplied by a dense copy of it: the sums have the same summands in
    the same order, and thus the same bits.
    """
    S, n_items = item_similarity, item_similarity.shape[1]
    dense = cache(lambda: torch.from_numpy(S.toarray()))
    prefers_dense = n_items**2 <= min(BLOCK_ENTRIES * 4, SPARSE_COST * S.nnz)

    def score(X: csr_array) -> Tensor:
        if prefers_dense and X.nnz >= READS * n_items:
            return dense_scores(InteractionBatch.from_csr(X), dense())
        return torch.from_numpy((X @ S).toarray())

    return score


def item_item_explainer(entries: Callable[[np.ndarray, np.ndarray], Tensor]) -> Explainer:
    """Return the explainer of the scores x B: item i contributes x_i B_ij to the score of j.

    Parameters
    ----------
    entries : callable
        Maps row numbers of B, shape (n_entries, 1), and column numbers, shape (n_entries, n), to
        the entries of B, shape (n_entries, n).
    """

    def contribute(X: csr_array, items: np.ndarray) -> tuple[Tensor, Tensor]:
        parts = entries(X.indices[:, None], items.repeat(np.diff(X.indptr), axis=0))
        parts = parts * torch.as_tensor(X.data, device=parts.device)[:, None]
        return parts, parts.new_zeros(items.shape)

    return contribute


def sparse_explainer(item_similarity: csr_array) -> Explainer:
    """Return the explainer of the scores x S with a sparse items x items matrix S."""
    return item_item_explainer(
        lambda own, others: torch.from_numpy(item_similarity[own, others].toarray())
    )
