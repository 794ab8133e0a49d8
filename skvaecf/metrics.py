r"""Ranking metrics, one value per user.

The functions compare ranked lists with held-out interactions. In the formulas for one user,
:math:`h_r` is 1 if the item in place :math:`r` is held out (a hit) and 0 otherwise, and :math:`n`
is the number of held-out items. The value is NaN for a user without held-out items; the mean of
:class:`~skvaecf.RankingScorer` excludes such users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import check_count
from .interactions import binary_csr, check_structure

PerUser = NDArray[np.float64]


def ndcg(ranked: NDArray[np.int64], heldout: Any, k: int = 100) -> PerUser:
    r"""Compute the normalised discounted cumulative gain of the first k places.

    .. math::

        \mathrm{NDCG@}k = \sum_{r=1}^{k} \frac{h_r}{\log_2(r + 1)} \Bigg/
        \sum_{r=1}^{\min(k, n)} \frac{1}{\log_2(r + 1)}

    Parameters
    ----------
    ranked : ndarray of shape (n_users, n_places), int
        Item numbers, best first, each item at most once per row; -1 is an empty place. If there are
        fewer than k places, the others count as empty.
    heldout : sparse matrix of shape (n_users, n_items)
        Held-out interactions. Every stored positive value is one, whatever its size.
    k : int, default=100
        Number of places to consider.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1]; NaN for users without held-out items.

    References
    ----------
    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.

    Examples
    --------
    The first place holds one of the two held-out items. The other is not in the list:

    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import ndcg
    >>> ndcg([[3, 0]], csr_array([[0, 1, 0, 1]]), k=2).round(4)
    array([0.6131])
    """
    hits, n = _hits(ranked, heldout, k)
    gain = 1 / np.log2(np.arange(2, 2 + max(hits.shape[1], n.max(initial=0))))
    ideal = np.append(0, gain.cumsum())[np.minimum(n, k)]
    # Both sums are computed in the same order, so that the value of a perfect list is exactly 1.
    return _ratio((hits * gain[: hits.shape[1]]).cumsum(axis=1)[:, -1], ideal)


def recall(
    ranked: NDArray[np.int64], heldout: Any, k: int = 100, *, capped: bool = True
) -> PerUser:
    r"""Compute the share of the held-out items that are in the first k places.

    .. math:: \mathrm{Recall@}k = \frac{1}{\min(k, n)} \sum_{r=1}^{k} h_r

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`.
    capped : bool, default=True
        True divides by min(k, n), as Liang et al. do, so that the maximum is always 1. False
        divides by n, which is the usual definition.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1]; NaN for users without held-out items.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, "Variational Autoencoders for Collaborative Filtering",
    WWW 2018, section 4.2.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import recall
    >>> heldout = csr_array([[0, 1, 1, 1]])
    >>> recall([[3, 0]], heldout, k=2), recall([[3, 0]], heldout, k=2, capped=False).round(2)
    (array([0.5]), array([0.33]))
    """
    hits, n = _hits(ranked, heldout, k)
    return _ratio(hits.sum(axis=1), np.minimum(n, k) if capped else n)


def precision(ranked: NDArray[np.int64], heldout: Any, k: int = 100) -> PerUser:
    r"""Compute the share of the first k places that are hits.

    .. math:: \mathrm{Precision@}k = \frac{1}{k} \sum_{r=1}^{k} h_r

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`. Empty places count as misses.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1]; NaN for users without held-out items.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import precision
    >>> precision([[3, 0]], csr_array([[0, 1, 1, 1]]), k=2)
    array([0.5])
    """
    hits, n = _hits(ranked, heldout, k)
    return _ratio(hits.sum(axis=1), k * (n > 0))


def mrr(ranked: NDArray[np.int64], heldout: Any, k: int = 100) -> PerUser:
    r"""Compute the reciprocal rank of the first hit; 0 without a hit in the first k places.

    .. math:: \mathrm{MRR@}k = \max_{r \le k} \frac{h_r}{r}

    The name stands for the mean reciprocal rank: the mean of these values over the users.

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1]; NaN for users without held-out items.

    References
    ----------
    Voorhees, "The TREC-8 Question Answering Track Report", TREC 1999.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import mrr
    >>> mrr([[0, 3]], csr_array([[0, 1, 1, 1]]), k=2)
    array([0.5])
    """
    hits, n = _hits(ranked, heldout, k)
    return _ratio((hits / np.arange(1, 1 + hits.shape[1])).max(axis=1), n > 0)


def average_precision(
    ranked: NDArray[np.int64], heldout: Any, k: int = 100, *, capped: bool = True
) -> PerUser:
    r"""Compute the mean precision at the hits in the first k places; its user mean is MAP@k.

    .. math::

        \mathrm{AP@}k = \frac{1}{\min(k, n)} \sum_{r=1}^{k} h_r \frac{\sum_{s=1}^{r} h_s}{r}

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`.
    capped : bool, default=True
        True divides by min(k, n), so that the maximum is always 1. False divides by n, as
        ``map_cut`` of trec_eval does. Both values are the same for users with n <= k.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1]; NaN for users without held-out items.

    References
    ----------
    Buckley and Voorhees, "Evaluating evaluation measure stability", SIGIR 2000.

    Examples
    --------
    The hits in places 1 and 3 have precision 1 and 2/3:

    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import average_precision
    >>> average_precision([[3, 0, 1]], csr_array([[0, 1, 0, 1]]), k=3).round(4)
    array([0.8333])
    """
    hits, n = _hits(ranked, heldout, k)
    precision_there = hits.cumsum(axis=1) / np.arange(1, 1 + hits.shape[1])
    return _ratio((hits * precision_there).sum(axis=1), np.minimum(n, k) if capped else n)


def hit_rate(ranked: NDArray[np.int64], heldout: Any, k: int = 100) -> PerUser:
    r"""Return 1 for each user with a hit in the first k places, otherwise 0.

    .. math:: \mathrm{HR@}k = \max_{r \le k} h_r

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        0 or 1; NaN for users without held-out items.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import hit_rate
    >>> hit_rate([[0, 3], [0, 3]], csr_array([[0, 1, 1, 1], [0, 1, 1, 0]]), k=2)
    array([1., 0.])
    """
    hits, n = _hits(ranked, heldout, k)
    return _ratio(hits.any(axis=1), n > 0)


def coverage(ranked: NDArray[np.int64], n_items: int, k: int = 100) -> float:
    r"""Compute the share of all items that are in the first k places of at least one user.

    .. math:: \mathrm{Coverage@}k = \frac{1}{n_\mathrm{items}} \Big| \bigcup_u L_u \Big|

    where :math:`L_u` are the first k items of user u.

    Parameters
    ----------
    ranked : ndarray of shape (n_users, n_places), int
        Item numbers, best first; -1 is an empty place.
    n_items : int
        Number of all items.
    k : int, default=100
        Number of places to consider.

    Returns
    -------
    value : float
        In [0, 1]; one number for all users.

    References
    ----------
    Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy: evaluating recommender systems by
    coverage and serendipity", RecSys 2010.

    Examples
    --------
    >>> from skvaecf.metrics import coverage
    >>> coverage([[0, 3], [3, 0]], n_items=4, k=2)
    0.5
    """
    ranked = _check_lists(ranked, n_items, k)
    return float(len(np.unique(ranked[ranked >= 0])) / n_items)


def _check_lists(ranked: Any, n_items: int, k: int) -> NDArray[np.int64]:
    """Return the first k places of valid lists; otherwise raise a ValueError."""
    check_count("k", k)
    ranked = np.asarray(ranked)
    if ranked.ndim != 2 or not np.issubdtype(ranked.dtype, np.integer) or not ranked.shape[1]:
        raise ValueError(
            "ranked must be item numbers of shape (n_users, n_places) with at least one place, got"
            f" an array of shape {ranked.shape} and dtype {ranked.dtype}."
        )
    lists: NDArray[np.int64] = ranked[:, :k]
    if lists.max(initial=-1) >= n_items:
        raise ValueError(f"ranked holds item {lists.max()}, but there are {n_items} items.")
    return lists


def _hits(ranked: Any, heldout: Any, k: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which of the first k places are hits, and the number of held-out items per user."""
    heldout = binary_csr(check_structure(heldout, "heldout"))
    n_users, n_items = heldout.shape
    ranked = _check_lists(ranked, n_items, k)
    if len(ranked) != n_users:
        raise ValueError(
            f"ranked and heldout must have one row per user, got {len(ranked)} and {n_users} rows."
        )
    rows, columns = heldout.nonzero()
    # One number per (user, item) pair, ascending. The last number is larger than that of any pair.
    pairs = np.append(rows.astype(np.int64) * n_items + columns, n_users * n_items)
    wanted = np.arange(n_users, dtype=np.int64)[:, None] * n_items + ranked
    hits = pairs[np.searchsorted(pairs, wanted)] == wanted
    return hits & (ranked >= 0), np.diff(heldout.indptr).astype(np.int64)


def _ratio(value: Any, best: NDArray[Any]) -> PerUser:
    """Return ``value / best``, or NaN where the best possible value is 0: no item is held out."""
    ratio = np.full(len(best), np.nan)
    np.divide(value, best, out=ratio, where=best > 0)
    return ratio
