"""The best k items of every user, in row blocks, so that memory does not grow with the users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._checks import check_count
from .interactions import InteractionBatch, binary_csr, check_rows, check_structure

BLOCK_ROWS = 512

# Scores of the items; or cheap ones, and factors of shapes (n_rows, n) and (n_items, n) whose
# products are the exact ones.
Scores = Tensor | tuple[Tensor, Tensor, Tensor]


def row_blocks(n_rows: int, n_items: int) -> Iterator[slice]:
    """Cut rows into consecutive blocks of at most BLOCK_ROWS, whose scores take at most 32 MiB.

    More would leave the processor's cache, and come as fresh pages from the system every time.
    """
    # A power of two, with which products in bfloat16 take half of the time.
    size = min(max(1 << (2**23 // n_items).bit_length() >> 1, 16), BLOCK_ROWS)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def top_k(scores: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k largest entries of each row, best first, ties to the lower column.

    ``torch.topk`` alone leaves the order of equal scores open.

    Parameters
    ----------
    scores : Tensor of shape (n_rows, n_columns), float32
    k : int, at most n_columns

    Returns
    -------
    columns : ndarray of shape (n_rows, k), int64
    values : ndarray of shape (n_rows, k), float32
    """
    values, columns = _largest(scores, min(k + 1, scores.shape[1]), ordered=True)
    kept = columns[:, :k]
    if values.shape[1] > k:
        # Rows where the k-th and the next score are equal: take all that is larger, then fill
        # up with the lowest columns among the equal.
        cut = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        if len(cut):
            rows, least = scores[cut], values[cut, k - 1, None]
            larger, equal = rows > least, rows == least
            room = k - larger.sum(dim=1, keepdim=True)
            chosen = larger | (equal & (equal.cumsum(dim=1) <= room))
            kept[cut] = chosen.nonzero()[:, 1].reshape(-1, k)
    return _best_first(kept, scores.gather(1, kept))


def _best_first(columns: Tensor, scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Order columns and their scores by falling score, ties to the lower column.

    A score and its column make one integer: these are sorted in a tenth of the time that two
    stable sorts take.
    """
    bits = (scores.float() + 0.0).cpu().numpy().view(np.int32)  # + 0.0 makes 0.0 of -0.0
    keys = (~_ordinal(bits)).astype(np.int64) << 32 | columns.cpu().numpy()
    keys.sort(axis=1)
    bits = _ordinal(~(keys >> 32).astype(np.int32))
    return keys & 0xFFFFFFFF, bits.view(np.float32)


def _ordinal(bits: np.ndarray) -> np.ndarray:
    """Make integers that grow as the floats of these bits do, or the bits of these integers.

    The bits of a negative number, read as an integer, grow as it falls.
    """
    flipped: np.ndarray = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return flipped


def _largest(scores: Tensor, k: int, *, ordered: bool = False) -> tuple[Tensor, Tensor]:
    """Find the k largest entries of each row, like ``torch.topk``, faster in wide rows.

    The columns are cut into groups of 8. A group that holds one of the k largest entries has one of
    the k largest maxima, so only k groups need be searched.
    """
    n_columns = scores.shape[1]
    if n_columns <= 16 * k:
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
    """Keep the k largest of each row's positive entries, ties to the lower column.

    An entry and its column make one integer, so that none are equal and the order of the entries
    in ``rows``, which a sparse product leaves open, is of no account.

    Parameters
    ----------
    rows : csr_array, float32, without negative entries
    k : int

    Returns
    -------
    kept : csr_array of the same shape, float32
        The entries of a row are in no order.
    """
    n_entries, last = np.diff(rows.indptr), rows.shape[1] - 1
    keys = np.zeros((rows.shape[0], n_entries.max()), dtype=np.int64)
    # The bits of a positive number, read as an integer, grow as it does.
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


def rank(
    score_rows: Callable[[slice], Scores],
    X: Any,
    k: int,
    *,
    exclude_seen: bool = True,
    candidates: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the items of every row of X.

    Parameters
    ----------
    score_rows : callable
        Scores of a block of rows as a new tensor of shape (n_rows, n_items); or cheap ones with
        factors of the exact ones, see ``Scores``. Then the k best are chosen by their exact scores
        among half as many again, at least 32 more, or among all where the last place is shared.
    X : sparse or dense matrix of shape (n_users, n_items)
        What the users have seen, sliceable by rows.
    k, exclude_seen, candidates
        See :func:`recommend`.

    Returns
    -------
    items : ndarray of shape (n_users, k), int64
    scores : ndarray of shape (n_users, k), float32
    """
    n_users, n_items = X.shape
    allowed = _check_candidates(candidates, (n_users, n_items))
    check_count("k", k)
    k = int(k)
    ranked = np.full((n_users, k), -1, dtype=np.int64)
    best = np.full((n_users, k), -np.inf, dtype=np.float32)
    for block in row_blocks(n_users, n_items):
        scored = score_rows(block)
        scores, factors = (scored[0], scored[1:]) if isinstance(scored, tuple) else (scored, None)
        shape = (block.stop - block.start, n_items)
        if tuple(scores.shape) != shape:
            raise ValueError(
                f"The estimator's predict returned scores of shape {tuple(scores.shape)} for rows"
                f" of X of shape {shape}: it must give one score per user and item."
            )
        if exclude_seen:
            rows, columns = binary_csr(X[block]).nonzero()
            scores[_index(rows, scores), _index(columns, scores)] = -torch.inf
        if isinstance(allowed, csr_array):
            mask = torch.from_numpy(allowed[block].toarray() > 0).to(scores.device)
            scores.masked_fill_(~mask, -torch.inf)
        elif allowed is not None:
            elsewhere = torch.ones(n_items, dtype=torch.bool, device=scores.device)
            elsewhere[_index(allowed, scores)] = False
            scores.masked_fill_(elsewhere, -torch.inf)
        if factors is None:
            items, values = top_k(scores, min(k, n_items))
        else:
            items, values = _rescore(scores, *factors, min(k, n_items))
        items[np.isneginf(values)] = -1
        ranked[block, : items.shape[1]] = items
        best[block, : items.shape[1]] = values
    return ranked, best


def _rescore(rough: Tensor, P: Tensor, Q: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k largest entries of P Q^T in each row, among somewhat more of the rough ones."""
    values, columns = _largest(rough, min(k + max(k // 2, 32), rough.shape[1]))
    scores = _products(P, Q, columns).masked_fill_(values == -torch.inf, -torch.inf)
    best, best_scores = _best_first(columns, scores)
    least = best_scores[:, k - 1 : k]
    # Where several columns share the k-th score, lower ones may be missing.
    shared = (best_scores[:, k : k + 1] == least) & (least > -np.inf)
    rows = shared.any(axis=1).nonzero()[0]
    if len(rows):
        among = _index(rows, rough)
        exact = (P[among] @ Q.T).masked_fill_(rough[among] == -torch.inf, -torch.inf)
        best[rows, :k], best_scores[rows, :k] = top_k(exact, k)
    return best[:, :k], best_scores[:, :k]


def _products(P: Tensor, Q: Tensor, columns: Tensor) -> Tensor:
    """Compute the entries of P Q^T in these columns of each row, shape (n_rows, n_columns)."""
    values = torch.ones(columns.numel(), device=columns.device)
    offsets = torch.arange(0, columns.numel() + 1, columns.shape[1], device=columns.device)
    chosen = InteractionBatch(columns.flatten(), values, offsets, len(Q))
    return chosen.products(P, Q).view_as(columns)


def _index(numbers: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.int64, device=like.device)


def _check_candidates(candidates: Any, shape: tuple[int, int]) -> np.ndarray | csr_array | None:
    """Sorted item numbers for a shared list, a canonical CSR for a users x items mask."""
    if candidates is None:
        return None
    if issparse(candidates) or np.ndim(candidates) == 2:
        if not issparse(candidates):
            candidates = np.asarray(candidates) > 0
        if candidates.shape != shape:
            raise ValueError(
                f"candidates must be a mask of the shape of X, {shape}, got {candidates.shape}."
            )
        return binary_csr(check_structure(candidates, "candidates"))
    items = np.asarray(candidates)
    if items.size == 0:
        return np.empty(0, dtype=np.int64)
    if items.ndim != 1 or not np.issubdtype(items.dtype, np.integer):
        raise ValueError(
            "candidates must be item numbers or a users x items mask, got an array of shape"
            f" {items.shape} and type {items.dtype}."
        )
    if items.min() < 0 or items.max() >= shape[1]:
        raise ValueError(
            f"candidates must lie in [0, {shape[1]}), the items of X, got values from"
            f" {items.min()} to {items.max()}."
        )
    return np.unique(items).astype(np.int64)


def recommend(
    estimator: Any,
    X: Any,
    k: int = 10,
    *,
    exclude_seen: bool = True,
    candidates: Any = None,
    return_scores: bool = False,
) -> Any:
    """Recommend the best k items to every user with anything that has ``predict``.

    The same as the recommenders' own method, for estimators that wrap one: a Pipeline does not
    pass ``recommend`` on, nor does a grid search.

    Parameters
    ----------
    estimator : fitted estimator
        Its ``predict(X)`` gives scores of shape (n_users, n_items), higher is better.
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions to start from. They are passed to the estimator as they are, and the items
        counted as seen are those of this X, whatever a Pipeline makes of it.
    k : int, default=10
        Length of the lists.
    exclude_seen : bool, default=True
        Leave out the items that the user has in X.
    candidates : array-like of int, {array-like, sparse matrix} of shape (n_users, n_items) or \
None, default=None
        Items that may be recommended: item numbers shared by all users, or a mask whose positive
        entries are allowed. None allows every item.
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
    ValueError
        If k < 1, candidates lie outside of the items, or ``predict`` gives another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import Binarizer
    >>> from skvaecf import Popularity, recommend
    >>> ratings = np.array([[5, 4, 0], [0, 5, 0], [1, 4, 5]])
    >>> model = make_pipeline(Binarizer(threshold=3), Popularity()).fit(ratings)
    >>> recommend(model, ratings, k=2)
    array([[ 2, -1],
           [ 0,  2],
           [-1, -1]])
    """
    from .base import BaseRecommender

    if not hasattr(estimator, "predict"):
        raise TypeError(f"estimator must have a predict method, got {type(estimator).__name__}.")
    seen = check_rows(X)
    rows = seen if issparse(X) else X

    def predict_rows(block: slice) -> Tensor:
        scores = estimator.predict(_safe_indexing(rows, block))
        return torch.tensor(np.asarray(scores), dtype=torch.float32)

    # Recommenders predict block by block as well, and do once what comes before.
    score_rows: Callable[[slice], Scores] = predict_rows
    if getattr(type(estimator), "predict", None) is BaseRecommender.predict:
        check_is_fitted(estimator)
        score_rows = estimator._ranking_scorer(estimator._check_rows(X))
    items, scores = rank(score_rows, seen, k, exclude_seen=exclude_seen, candidates=candidates)
    return (items, scores) if return_scores else items
