"""The k largest entries of each row, in the order of a ranking."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ._batch import InteractionBatch

FEW_SCORES = 2**16  # of which torch finds the largest faster without groups


def top_k(
    scores: Tensor, k: int, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k largest entries of each row, largest first.

    Of equal entries, the column with the largest count comes first, then the lower column.
    ``torch.topk`` does not define their order.

    Parameters
    ----------
    scores : Tensor of shape (n_rows, n_columns), float32
    k : int, at most n_columns
    counts : ndarray of shape (n_columns,), int64, default=None
        Integers from 0 to 2**31 - 1. With None, they are all 0.

    Returns
    -------
    columns : ndarray of shape (n_rows, k), int64
    values : ndarray of shape (n_rows, k), float32
    """
    if counts is None:
        counts = np.zeros(scores.shape[1], dtype=np.int64)
    values, columns = _largest(scores, min(k + 1, scores.shape[1]), ordered=True)
    kept = columns[:, :k]
    if values.shape[1] > k:
        # Rows where the k-th and the next score are equal: take all larger entries, then the first
        # of the equal ones. Their keys are all different, a pair of a count and a column.
        cut = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        if len(cut):
            rows, least = scores[cut], values[cut, k - 1, None]
            pairs = counts << 32 | np.arange(len(counts))[::-1]
            keys = torch.where(rows == least, as_index(pairs, scores), -1)
            keys.masked_fill_(rows > least, torch.iinfo(keys.dtype).max)
            kept[cut] = _largest(keys, k)[1]
    return _best_first(kept, scores.gather(1, kept), counts)


def _best_first(
    columns: Tensor, scores: Tensor, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sort columns and their scores by descending score, then descending count, then column.

    Each pair of a score and a column is packed into one integer: sorting these takes a tenth of the
    time of two stable sorts. Only rows with equal scores are sorted again.
    """
    bits = (scores.float() + 0.0).cpu().numpy().view(np.int32)  # + 0.0 turns -0.0 into 0.0
    keys = (~_ordinal(bits)).astype(np.int64) << 32 | columns.cpu().numpy()
    keys.sort(axis=1)
    best, values = keys & 0xFFFFFFFF, _ordinal(~(keys >> 32).astype(np.int32)).view(np.float32)
    tied = (values[:, 1:] == values[:, :-1]).any(axis=1).nonzero()[0]
    if len(tied):
        order = np.lexsort((-counts[best[tied]], -values[tied]))
        best[tied] = np.take_along_axis(best[tied], order, axis=1)
    return best, values


def _ordinal(bits: np.ndarray) -> np.ndarray:
    """Map the bits of floats to integers of the same order; applied twice it is the identity.

    The bits of negative floats, read as integers, are in the reverse order.
    """
    flipped: np.ndarray = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return flipped


def _largest(scores: Tensor, k: int, *, ordered: bool = False) -> tuple[Tensor, Tensor]:
    """Find the k largest entries of each row, like ``torch.topk``, faster in wide rows.

    The columns are divided into groups of 8. A group that holds one of the k largest entries has
    one of the k largest maxima, so only k groups need to be searched.
    """
    n_columns = scores.shape[1]
    if n_columns <= 16 * k or scores.numel() <= FEW_SCORES:
        return scores.topk(k, dim=1, sorted=ordered)
    n_groups = n_columns // 8
    # Group g holds the columns g, g + n_groups, g + 2 n_groups... The last few are in no group.
    grouped = scores[:, : n_groups * 8].view(-1, 8, n_groups)
    _, groups = _largest(grouped.amax(dim=1), k)
    members = torch.arange(0, n_groups * 8, n_groups, device=scores.device)
    rest = torch.arange(n_groups * 8, n_columns, device=scores.device)
    columns = (groups[:, :, None] + members).flatten(1)
    columns = torch.cat([columns, rest.expand(len(scores), -1)], dim=1)
    values, order = scores.gather(1, columns).topk(k, dim=1, sorted=ordered)
    return values, columns.gather(1, order)


def largest_positive(rows: csr_array, k: int) -> csr_array:
    """Return a copy with only the k largest positive entries of each row.

    Of equal entries, the lower column is kept. Each pair of an entry and its column is packed into
    one integer. No two of these are equal, so the result does not depend on the order of the
    entries in ``rows``, which a sparse product does not define.

    Parameters
    ----------
    rows : csr_array, float32, without negative entries
    k : int

    Returns
    -------
    kept : csr_array of the same shape, float32
        The entries of a row are not sorted.
    """
    n_entries, last = np.diff(rows.indptr), rows.shape[1] - 1
    keys = np.zeros((rows.shape[0], n_entries.max()), dtype=np.int64)
    # The bits of positive floats, read as integers, have the same order as the floats.
    bits = rows.data.view(np.int32).astype(np.int64)
    keys[np.arange(keys.shape[1]) < n_entries[:, None]] = bits << 32 | (last - rows.indices)
    if k < keys.shape[1]:
        keys.partition(-k, axis=1)
        keys = keys[:, -k:]
    positive = keys >> 32 > 0
    indptr = np.append(0, positive.sum(axis=1).cumsum())
    keys = keys[positive]
    data = (keys >> 32).astype(np.int32).view(np.float32)
    return csr_array((data, last - (keys & 0xFFFFFFFF), indptr), shape=rows.shape)


def top_k_rescored(
    rough: Tensor, P: Tensor, Q: Tensor, k: int, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k largest entries of P Q^T in each row, among the largest approximate entries.

    Parameters
    ----------
    rough : Tensor of shape (n_rows, n_columns)
        Approximate entries of P Q^T. Columns with the value ``-inf`` are never chosen.
    P : Tensor of shape (n_rows, n)
    Q : Tensor of shape (n_columns, n)
    k : int, at most n_columns
    counts : ndarray of shape (n_columns,), int64, default=None
        See ``top_k``.

    Returns
    -------
    columns : ndarray of shape (n_rows, k), int64
    values : ndarray of shape (n_rows, k), float32
        Exact entries of P Q^T.
    """
    if counts is None:
        counts = np.zeros(rough.shape[1], dtype=np.int64)
    values, columns = _largest(rough, min(k + max(k // 2, 32), rough.shape[1]))
    scores = _products(P, Q, columns).masked_fill_(values == -torch.inf, -torch.inf)
    best, best_scores = _best_first(columns, scores, counts)
    least = best_scores[:, k - 1 : k]
    # Where several columns share the k-th score, those that come first may be missing.
    shared = (best_scores[:, k : k + 1] == least) & (least > -np.inf)
    rows = shared.any(axis=1).nonzero()[0]
    if len(rows):
        among = as_index(rows, rough)
        exact = (P[among] @ Q.T).masked_fill_(rough[among] == -torch.inf, -torch.inf)
        best[rows, :k], best_scores[rows, :k] = top_k(exact, k, counts)
    return best[:, :k], best_scores[:, :k]


def _products(P: Tensor, Q: Tensor, columns: Tensor) -> Tensor:
    """Compute the entries of P Q^T in these columns of each row, shape (n_rows, n_columns)."""
    values = torch.ones(columns.numel(), device=columns.device)
    offsets = torch.arange(0, columns.numel() + 1, columns.shape[1], device=columns.device)
    chosen = InteractionBatch(columns.flatten(), values, offsets, len(Q))
    return chosen.products(P, Q).view_as(columns)


def as_index(numbers: np.ndarray, like: Tensor) -> Tensor:
    """Copy item or row numbers to the device of ``like``, as an index."""
    return torch.as_tensor(numbers, dtype=torch.int64, device=like.device)
