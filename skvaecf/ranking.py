"""The best k items of every user, in blocks of rows: memory does not grow with the users."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._checks import check_count
from ._devices import default_modes, device_or_cpu
from ._threads import FEW_TO_RANK, in_threads, threads_for
from ._top_k import as_index, top_k, top_k_rescored
from .interactions import binary_csr, check_rows, check_structure, seen_items, take_rows

BLOCK_ROWS = 512

# Scores of the items; or approximate scores with factors of shapes (n_rows, n) and (n_items, n)
# whose products are the exact scores.
Scores = Tensor | tuple[Tensor, Tensor, Tensor]


def rows_at_once(device: torch.device | None = None) -> int:
    """Return the number of rows that are ranked at once: more on a GPU, which waits after them."""
    return BLOCK_ROWS if device is None or device.type == "cpu" else 16 * BLOCK_ROWS


def row_blocks(n_rows: int, n_items: int, device: torch.device | None = None) -> Iterator[slice]:
    """Cut rows into consecutive blocks.

    On a CPU, which None stands for, a block has at most BLOCK_ROWS rows, and its scores take at
    most 32 MiB. Larger blocks leave the processor's cache, and the system maps fresh pages for each
    of them. On other devices the blocks are 16 times as large.
    """
    at_most = rows_at_once(device)
    n_scores = 2**23 * at_most // BLOCK_ROWS
    # A power of two: products in bfloat16 take half of the time then.
    size = min(max(1 << (n_scores // n_items).bit_length() >> 1, 16), at_most)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def rank(
    score_rows: Callable[[slice], Scores],
    X: Any,
    k: int,
    *,
    exclude_seen: bool = True,
    candidates: Any = None,
    exclude: Any = None,
    item_counts: np.ndarray | None = None,
    scored_by: str = "The estimator",
    device: torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the items of every row of X.

    Each thread of a CPU scores and ranks its own BLOCK_ROWS rows at a time. Their number does not
    depend on the number of threads, so the results do not either. On a GPU the blocks are larger.

    Parameters
    ----------
    score_rows : callable
        Returns the scores of a block of rows as a new tensor of shape (n_rows, n_items); or
        approximate scores with factors of the exact ones, see ``Scores``. Then the k best items
        are chosen by their exact scores: among the 1.5 k items (k + 32 at least) of the highest
        approximate scores, or among all items where several share the last place.
    X : sparse or dense matrix of shape (n_users, n_items)
        Seen items of the users. Rows are selected by slices.
    k, exclude_seen, candidates, exclude
        See :func:`recommend`.
    item_counts : ndarray of shape (n_items,), int64, default=None
        Number of users of each item: of items with equal scores, the one with more users comes
        first, then the one with the lower number. With None, only the lower number decides.
    scored_by : str, default="The estimator"
        Name of the estimator in errors.
    device : torch.device, default=None
        Device of the scores. On a CPU several threads call ``score_rows`` at the same time. With
        None, only the calling thread does.

    Returns
    -------
    items : ndarray of shape (n_users, k), int64
    scores : ndarray of shape (n_users, k), float32

    Raises
    ------
    ValueError
        If the scores have another shape, or if the best of them are NaN or infinite. The score of
        an item that must not be recommended may be -inf.
    """
    n_users, n_items = X.shape
    allowed = _check_items("candidates", candidates, (n_users, n_items))
    excluded = _check_items("exclude", exclude, (n_users, n_items))
    check_count("k", k)
    k = int(k)
    ranked = np.full((n_users, k), -1, dtype=np.int64)
    best = np.full((n_users, k), -np.inf, dtype=np.float32)

    def rank_block(block: slice) -> None:
        scored = score_rows(block)
        scores, factors = (scored[0], scored[1:]) if isinstance(scored, tuple) else (scored, None)
        shape = (block.stop - block.start, n_items)
        if tuple(scores.shape) != shape:
            raise ValueError(
                f"{scored_by}'s predict returned scores of shape {tuple(scores.shape)} for rows of"
                f" X of shape {shape}: it must return one score per user and item."
            )
        if exclude_seen:
            rows, columns = seen_items(take_rows(X, block))
            scores[as_index(rows, scores), as_index(columns, scores)] = -torch.inf
        if allowed is not None:
            scores.masked_fill_(~_rows_of(allowed, block).to(scores.device), -torch.inf)
        if excluded is not None:
            scores.masked_fill_(_rows_of(excluded, block).to(scores.device), -torch.inf)
        if factors is None:
            items, values = top_k(scores, min(k, n_items), item_counts)
        else:
            items, values = top_k_rescored(scores, *factors, min(k, n_items), item_counts)
        if not (values < np.inf).all():  # NaN comes first in the order of torch
            raise ValueError(
                f"{scored_by} returned scores that are NaN or infinite. A score must be finite, or"
                " -inf for an item that must not be recommended."
            )
        items[np.isneginf(values)] = -1
        ranked[block, : items.shape[1]] = items
        best[block, : items.shape[1]] = values

    def rank_rows(rows: slice) -> None:
        for block in row_blocks(rows.stop - rows.start, n_items, device):
            rank_block(slice(rows.start + block.start, rows.start + block.stop))

    size = rows_at_once(device)
    tasks = [slice(start, min(start + size, n_users)) for start in range(0, n_users, size)]
    with threads_for(n_users * n_items, FEW_TO_RANK):
        if device is None:
            for rows in tasks:
                rank_rows(rows)
        else:
            in_threads(rank_rows, tasks, device)
    return ranked, best


def _check_items(name: str, items: Any, shape: tuple[int, int]) -> Any:
    """Return a boolean array of shape (n_items,) for a list, or a CSR matrix for a matrix."""
    if items is None:
        return None
    if not issparse(items):
        try:
            items = np.asarray(items)
        except ValueError as error:
            raise ValueError(
                f"{name} must be item numbers or a mask, one for all users or a row for each:"
                f" {error}"
            ) from error
    if items.ndim == 2:
        if not issparse(items):
            items = items > 0
        if items.shape != shape:
            raise ValueError(
                f"{name} must be a mask of the shape of X, {shape}, got {items.shape}."
            )
        return binary_csr(check_structure(items, name))
    if items.shape == (shape[1],) and items.dtype == bool:
        return items.copy()  # torch warns about a read-only array
    mask = np.zeros(shape[1] + 1, dtype=bool)  # the last entry is that of the number -1
    mask[check_item_numbers(name, items, shape[1])] = True
    return mask[:-1]


def _rows_of(mask: Any, block: slice) -> Tensor:
    """Return a block of rows of a mask, or the one row of all users, as a boolean tensor."""
    return torch.from_numpy(mask[block].toarray() > 0 if issparse(mask) else mask)


def check_item_numbers(name: str, items: Any, n_items: int) -> np.ndarray:
    """Return item numbers as an array; raise a ValueError that names the argument."""
    numbers = np.asarray(items)
    if numbers.size == 0:
        numbers = numbers.astype(np.int64)  # an empty list has no type
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            f"{name} must be a list of item numbers, got an array of shape {numbers.shape} and type"
            f" {numbers.dtype}."
        )
    if numbers.size and (numbers.min() < -1 or numbers.max() >= n_items):
        raise ValueError(
            f"{name} must lie in [0, {n_items}), got values from {numbers.min()} to"
            f" {numbers.max()}."
        )
    if (unknown := np.count_nonzero(numbers == -1)) and len(numbers):
        warnings.warn(
            f"{unknown} of {len(numbers)} {name} are -1, the number of an unknown item, and are"
            " ignored.",
            stacklevel=4,
        )
    return numbers


def row_scorer(estimator: Any) -> Callable[[Any], Tensor]:
    """Return the function that scores rows with anything that has ``predict``.

    It maps rows of X to a new float32 tensor. Expensive preparations of the recommenders of this
    package, such as a copy to the device, are made once.
    """
    if getattr(estimator.predict, "scores_by_block", False):
        score_rows: Callable[[Any], Tensor] = estimator._row_scorer()
        return score_rows
    return lambda X: torch.tensor(np.asarray(estimator.predict(X)), dtype=torch.float32)


@default_modes()
def recommend(
    estimator: Any,
    X: Any,
    k: int = 10,
    *,
    exclude_seen: bool = True,
    candidates: Any = None,
    exclude: Any = None,
    return_scores: bool = False,
) -> Any:
    """Recommend the best k items to every user with anything that has ``predict``.

    It does the same as the method ``recommend`` of the recommenders, for estimators that wrap one:
    a Pipeline and a grid search do not have this method.

    Parameters
    ----------
    estimator : fitted estimator
        Its ``predict(X)`` returns scores of shape (n_users, n_items); higher is better.
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions of users. They are passed to the estimator unchanged. The seen items are those
        of this X, before any step of a Pipeline.
    k : int, default=10
        Length of the lists.
    exclude_seen : bool, default=True
        Whether to leave out the items that the user has in X.
    candidates : array-like of int, {array-like, sparse matrix} of shape (n_users, n_items) or \
None, default=None
        Items that may be recommended: item numbers or a boolean array of shape (n_items,), for all
        users, or a users x items mask whose positive entries are allowed. None allows every item.
        The number -1, which an encoder returns for an unknown item, is ignored with a warning.
    exclude : array-like of int, {array-like, sparse matrix} of shape (n_users, n_items) or None, \
default=None
        Items that must not be recommended, in the forms of ``candidates``: item numbers or a
        boolean array for all users, or a users x items matrix whose positive entries are excluded.
    return_scores : bool, default=False
        Whether to return the scores, too.

    Returns
    -------
    items : ndarray of shape (n_users, k), int64
        Item numbers, best first. Of items with equal scores, the one with more users in ``fit``
        comes first, then the one with the lower number. If a user has fewer than k eligible items,
        the remaining places hold -1.
    scores : ndarray of shape (n_users, k), float32
        Only if ``return_scores``; ``-inf`` where items is -1.

    Raises
    ------
    ValueError
        If X is invalid, if k is below 1, if candidates or exclude hold a number that is not an item
        number of X or have another shape, or if ``predict`` returns scores of another shape, NaN or
        infinity.

    See Also
    --------
    explain : Finds the reasons of recommendations.
    limit_groups : Keeps at most n items of each group.
    maximal_marginal_relevance : Chooses items that differ from each other.
    NeighborIndex : Recommends without scoring all items.

    Notes
    -----
    The number of users of each item is the attribute ``item_counts_`` of the recommender, also
    behind a Pipeline or a search. For other estimators, the lower number decides between items with
    equal scores.

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
    if not hasattr(estimator, "predict"):
        raise TypeError(f"estimator must have a predict method, got {type(estimator).__name__}.")
    if getattr(estimator.predict, "scores_by_block", False):
        # Recommenders of this package score block by block; expensive preparations are made once.
        check_is_fitted(estimator)
        seen = estimator._check_rows(X)
        score_rows = estimator._rankable_scores(seen)
        threads = estimator._scores_in_threads
        device = device_or_cpu(getattr(estimator, "device", "cpu")) if threads else None
    else:
        seen = check_rows(X)
        rows, score, device = seen if issparse(X) else X, row_scorer(estimator), None

        def score_rows(block: slice) -> Tensor:
            return score(_safe_indexing(rows, block))

    items, scores = rank(
        score_rows,
        seen,
        k,
        exclude_seen=exclude_seen,
        candidates=candidates,
        exclude=exclude,
        item_counts=_item_counts(estimator, seen.shape[1]),
        scored_by=type(estimator).__name__,
        device=device,
    )
    return (items, scores) if return_scores else items


def _item_counts(estimator: Any, n_items: int) -> np.ndarray | None:
    """Return the counts of the recommender that a Pipeline or a search ends with, if any."""
    while not hasattr(estimator, "item_counts_"):
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            return None
    counts: np.ndarray = estimator.item_counts_
    return counts if len(counts) == n_items else None
