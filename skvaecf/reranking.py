"""Change lists that ``recommend`` returned: limits per group, and diversity."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.preprocessing import normalize
from sklearn.utils import check_array

from ._checks import check_count
from ._columns import as_array, unique_ids
from .interactions import check_structure

# Numbers of a block of lists that are in memory at once.
BLOCK_ENTRIES = 2**22


def limit_groups(items: Any, groups: Any, n: int, *, scores: Any = None) -> Any:
    r"""Keep at most n items of each group in every list.

    The item at place p of a list, :math:`i_p`, is kept if fewer than n items before it are of its
    group g:

    .. math:: \left| \{ q < p : g(i_q) = g(i_p) \} \right| < n.

    The items that are kept move up, in the same order.

    Parameters
    ----------
    items : array-like of int of shape (n_users, m)
        Item numbers, best first, as ``recommend`` returns them. -1 is padding.
    groups : array-like of shape (n_items,)
        Group of each item, such as its category or artist: numbers or strings. Two items of one
        group have equal values. An item that is not to be limited needs a group of its own.
    n : int
        Largest number of items of a group in a list.
    scores : array-like of shape (n_users, m) or None, default=None
        Scores of the items.

    Returns
    -------
    items : ndarray of shape (n_users, m), int64
        Item numbers; -1 in the places that become free.
    scores : ndarray of shape (n_users, m)
        Only if ``scores`` is given: the scores of these items; ``-inf`` where items is -1.

    Raises
    ------
    ValueError
        If n is below 1, if groups is not one-dimensional or has missing values, if an item has no
        group, or if scores have another shape than items or are NaN or infinite.

    See Also
    --------
    maximal_marginal_relevance : Chooses items that are unlike those before.
    recommend : Computes the lists.

    Notes
    -----
    Request longer lists from ``recommend`` than are shown, because the lists become shorter.

    Examples
    --------
    >>> from skvaecf import limit_groups
    >>> limit_groups([[3, 0, 2, 1]], ["jazz", "folk", "jazz", "jazz"], n=2)
    array([[ 3,  0,  1, -1]])
    >>> limit_groups([[3, 0, 2, 1]], ["jazz", "folk", "jazz", "jazz"], n=1)[:, :2]
    array([[3, 1]])
    """
    check_count("n", n)
    group = unique_ids(as_array(groups, "groups"), "groups")[1]
    numbers, values = _check_lists(items, scores, len(group))
    of_place = np.where(numbers >= 0, group[numbers], -1)
    # Sorted by group, the places of a group are next to each other, in their order.
    order = of_place.argsort(axis=1, kind="stable")
    in_order = np.take_along_axis(of_place, order, axis=1)
    number = np.broadcast_to(np.arange(numbers.shape[1]), numbers.shape)
    begins = np.diff(in_order, axis=1, prepend=-2) != 0
    first = np.maximum.accumulate(np.where(begins, number, 0), axis=1)
    kept = (in_order >= 0) & (number - first < n)
    # The places that are kept, ascending, and then -1.
    places = np.sort(np.where(kept, order, numbers.shape[1]), axis=1)
    return _take(numbers, values, np.where(places < numbers.shape[1], places, -1))


def maximal_marginal_relevance(
    items: Any, scores: Any, item_vectors: Any, k: int = 10, *, trade_off: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    r"""Choose k items of every list, one after the other: relevant and unlike those before.

    From the items R of a list and the items S that are already chosen, the next one is [1]_

    .. math:: \operatorname*{arg\,max}_{i \in R \setminus S} \Bigl[ \lambda \, r_i
              - (1 - \lambda) \max_{j \in S} \cos(v_i, v_j) \Bigr],
              \qquad r_i = \frac{s_i - \min_R s}{\max_R s - \min_R s}.

    The relevance :math:`r_i` is the score :math:`s_i`, scaled to [0, 1] within the list, because
    the scores of most models have no unit. It is 0 if all scores of the list are equal. The maximum
    over no items is 0.

    Parameters
    ----------
    items : array-like of int of shape (n_users, m)
        Item numbers, as ``recommend`` returns them. -1 is padding. The lists should be longer than
        k, for example 5 k.
    scores : array-like of shape (n_users, m)
        Scores :math:`s_i` of the items.
    item_vectors : {array-like, sparse matrix} of shape (n_items, n_features)
        Vectors :math:`v_i` of the items: ``item_factors_`` of a model, X.T (similar items have
        common users), or attributes such as genres. The similarity to a vector of zeros is 0.
    k : int, default=10
        Length of the new lists.
    trade_off : float, default=0.5
        The weight :math:`\lambda`, in [0, 1]. 1 gives the order of the scores; with 0, only the
        similarity to the items before counts. Of equally good items, the one that is earlier in
        the list is chosen.

    Returns
    -------
    items : ndarray of shape (n_users, k), int64
        Item numbers in the order in which they were chosen; -1 where a list has no more items.
    scores : ndarray of shape (n_users, k)
        Scores of these items; ``-inf`` where items is -1.

    Raises
    ------
    ValueError
        If k is below 1, if trade_off is not in [0, 1], if an item has no vector, if vectors are NaN
        or infinite, or if scores have another shape than items or are NaN or infinite.

    See Also
    --------
    limit_groups : Keeps at most n items of each group.
    recommend : Computes the lists.

    References
    ----------
    .. [1] Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering
       documents and producing summaries", SIGIR 1998.

    Examples
    --------
    Items 0 and 1 are alike:

    >>> from skvaecf import maximal_marginal_relevance
    >>> vectors = [[1, 0], [1, 0], [0, 1]]
    >>> maximal_marginal_relevance([[0, 1, 2]], [[4.0, 3.0, 2.0]], vectors, k=2)
    (array([[0, 2]]), array([[4., 2.]]))
    """
    check_count("k", k)
    if not (isinstance(trade_off, Real) and 0 <= trade_off <= 1):
        raise ValueError(f"trade_off must be a number in [0, 1], got {trade_off!r}.")
    vectors = check_array(
        check_structure(item_vectors, "item_vectors"),
        accept_sparse="csr",
        dtype=[np.float64, np.float32],
        input_name="item_vectors",
    )
    numbers, values = _check_lists(items, scores, vectors.shape[0])
    relevance = _scaled(values, numbers >= 0)
    places = np.full((len(numbers), k), -1)
    for block, cosines in _cosines_in_lists(normalize(vectors), numbers):
        left, rows = numbers[block] >= 0, np.arange(len(cosines))
        nearest = np.zeros(left.shape)
        for step in range(min(k, left.shape[1])):
            worth = trade_off * relevance[block] - (1 - trade_off) * nearest
            best = np.where(left, worth, -np.inf).argmax(axis=1)
            places[block, step] = np.where(left[rows, best], best, -1)
            left[rows, best] = False
            to_best = cosines[rows, best]
            nearest = np.maximum(nearest, to_best) if step else to_best
    return _take(numbers, values, places)


def _check_lists(items: Any, scores: Any, n_items: int) -> tuple[np.ndarray, Any]:
    """Return validated item numbers, and scores if there are any, as arrays."""
    numbers = np.asarray(items)
    if numbers.ndim != 2 or not numbers.shape[1] or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"items must be item numbers of shape (n_users, m), got shape {numbers.shape} and type"
            f" {numbers.dtype}."
        )
    if numbers.size and not -1 <= numbers.min() <= numbers.max() < n_items:
        raise ValueError(
            f"items must lie in [0, {n_items}), or be -1 for padding, got values from"
            f" {numbers.min()} to {numbers.max()}."
        )
    numbers = numbers.astype(np.int64)
    if scores is None:
        return numbers, None
    values = np.asarray(scores)
    if values.shape != numbers.shape or values.dtype.kind not in "biuf":
        raise ValueError(
            f"scores must have the shape {numbers.shape} of items and hold numbers, got shape"
            f" {values.shape} and type {values.dtype}."
        )
    if not np.isfinite(values[numbers >= 0]).all():
        raise ValueError("scores must be finite for all items but -1, got NaN or infinity.")
    return numbers, values.astype(np.result_type(values, np.float32))


def _take(numbers: np.ndarray, values: Any, places: np.ndarray) -> Any:
    """Return the items at these places of each list, with their scores; -1 stands for no item."""
    none, places = places < 0, np.maximum(places, 0)
    taken = np.where(none, -1, np.take_along_axis(numbers, places, axis=1))
    if values is None:
        return taken
    lowest = values.dtype.type(-np.inf)
    return taken, np.where(none, lowest, np.take_along_axis(values, places, axis=1))


def _scaled(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Scale the scores of each list to [0, 1], float64; 0 where all are equal or no item is."""
    values = values.astype(np.float64)
    least = values.min(axis=1, where=there, initial=np.inf, keepdims=True)
    span = values.max(axis=1, where=there, initial=-np.inf, keepdims=True) - least
    scaled = np.zeros(values.shape)
    np.divide(values - least, span, out=scaled, where=there & (span > 0))
    return scaled


def _cosines_in_lists(unit: Any, numbers: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of lists with the cosines of all pairs of their items, shape (n, m, m)."""
    n_users, m = numbers.shape
    width = m if issparse(unit) else m + unit.shape[1]
    size = max(1, BLOCK_ENTRIES // (m * width))
    for start in range(0, n_users, size):
        block = slice(start, min(start + size, n_users))
        if issparse(unit):
            rows = (unit[items] for items in numbers[block])
            yield block, np.stack([(own @ own.T).toarray() for own in rows])
        else:
            own = unit[numbers[block]]
            yield block, own @ own.transpose(0, 2, 1)
