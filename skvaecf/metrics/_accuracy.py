"""Metrics of accuracy: how many held-out items are in the lists, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ..interactions import binary_csr, check_structure
from ._lists import PerUser, find_hits, ratio


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

    See Also
    --------
    recall : Counts hits without regard to their places.
    average_precision : Another weighting of the places.
    skvaecf.ndcg_at_k : The scorer of this metric.

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
    hits, n = find_hits(ranked, heldout, k)
    gain = 1 / np.log2(np.arange(2, 2 + max(hits.shape[1], n.max(initial=0))))
    ideal = np.append(0, gain.cumsum())[np.minimum(n, k)]
    # Both sums are computed in the same order, so that the value of a perfect list is exactly 1.
    return ratio((hits * gain[: hits.shape[1]]).cumsum(axis=1)[:, -1], ideal)


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

    See Also
    --------
    precision : Divides by the length of the list.
    hit_rate : Whether there is a hit at all.
    skvaecf.recall_at_k : The scorer of this metric.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative filtering",
    WWW 2018, section 4.2.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import recall
    >>> heldout = csr_array([[0, 1, 1, 1]])
    >>> recall([[3, 0]], heldout, k=2), recall([[3, 0]], heldout, k=2, capped=False).round(2)
    (array([0.5]), array([0.33]))
    """
    hits, n = find_hits(ranked, heldout, k)
    return ratio(hits.sum(axis=1), np.minimum(n, k) if capped else n)


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

    See Also
    --------
    recall : Divides by the number of held-out items.
    r_precision : Precision of as many places as there are held-out items.
    skvaecf.precision_at_k : The scorer of this metric.

    References
    ----------
    Herlocker, Konstan, Terveen and Riedl, "Evaluating collaborative filtering recommender systems",
    TOIS 2004.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import precision
    >>> precision([[3, 0]], csr_array([[0, 1, 1, 1]]), k=2)
    array([0.5])
    """
    hits, n = find_hits(ranked, heldout, k)
    return ratio(hits.sum(axis=1), k * (n > 0))


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

    See Also
    --------
    hit_rate : Whether there is a hit, without its place.
    skvaecf.mrr_at_k : The scorer of this metric.

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
    hits, n = find_hits(ranked, heldout, k)
    return ratio((hits / np.arange(1, 1 + hits.shape[1])).max(axis=1), n > 0)


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

    See Also
    --------
    ndcg : Another weighting of the places.
    skvaecf.map_at_k : The scorer of this metric.

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
    hits, n = find_hits(ranked, heldout, k)
    precision_there = hits.cumsum(axis=1) / np.arange(1, 1 + hits.shape[1])
    return ratio((hits * precision_there).sum(axis=1), np.minimum(n, k) if capped else n)


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

    See Also
    --------
    mrr : The place of the first hit.
    recall : The share of the held-out items that are hits.
    skvaecf.hit_rate_at_k : The scorer of this metric.

    References
    ----------
    Deshpande and Karypis, "Item-based top-N recommendation algorithms", TOIS 2004.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import hit_rate
    >>> hit_rate([[0, 3], [0, 3]], csr_array([[0, 1, 1, 1], [0, 1, 1, 0]]), k=2)
    array([1., 0.])
    """
    hits, n = find_hits(ranked, heldout, k)
    return ratio(hits.any(axis=1), n > 0)


def r_precision(ranked: NDArray[np.int64], heldout: Any, k: int = 100) -> PerUser:
    r"""Compute the precision of the first n places, where n is the number of held-out items.

    .. math:: \mathrm{RPrec@}k = \frac{1}{m} \sum_{r=1}^{m} h_r, \qquad m = \min(k, n)

    For users with n <= k it is the usual R-precision, at which precision and recall are equal.

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`. Empty places count as misses.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1]; NaN for users without held-out items.

    See Also
    --------
    precision : The same number of places for all users.
    skvaecf.r_precision_at_k : The scorer of this metric.

    References
    ----------
    Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, section 8.4.

    Examples
    --------
    Two items are held out, so only the first two of the three places count:

    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import r_precision
    >>> r_precision([[3, 0, 1]], csr_array([[0, 1, 0, 1]]), k=3)
    array([0.5])
    """
    hits, n = find_hits(ranked, heldout, k)
    m = np.minimum(n, k)
    return ratio((hits & (np.arange(hits.shape[1]) < m[:, None])).sum(axis=1), m)


def auc(
    ranked: NDArray[np.int64],
    heldout: Any,
    k: int = 100,
    *,
    fold_in: Any = None,
    scores: Any = None,
) -> PerUser:
    r"""Compute the area under the ROC curve: how often a held-out item is above another item.

    .. math::

        \mathrm{AUC@}k = \frac{1}{n |N|} \sum_{i \in H} \sum_{j \in N}
        \Big( [i \succ j] + \tfrac{1}{2} [i \sim j] \Big)

    :math:`H` are the n held-out items, :math:`N` all other items that the user has not seen,
    :math:`i \succ j` means that the list has i before j, or only i, and :math:`i \sim j` that
    neither is listed or that their scores are equal. This is the AUC over all items if the lists
    hold all items, ``k = n_items``. With shorter lists it is the limited AUC of Schröder et al.

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`.
    fold_in : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
        Seen items of the users, which are not in N. None means that the users have none.
    scores : array-like of shape (n_users, n_places) or None, default=None
        Scores of the places, not ascending. Neighbours with equal scores are tied. With None there
        are no ties within a list.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1], 0.5 for a random order; NaN for users without held-out items, or without others.

    See Also
    --------
    ndcg : Counts the first places most.
    skvaecf.auc_at_k : The scorer of this metric.

    References
    ----------
    Rendle, Freudenthaler, Gantner and Schmidt-Thieme, "BPR: Bayesian personalized ranking from
    implicit feedback", UAI 2009, section 3.2.

    Schröder, Thiele and Lehner, "Setting goals and choosing metrics for recommender system
    evaluations", UCERSTI workshop at RecSys 2011.

    Examples
    --------
    Item 1 is held out. It is above two of the three other items:

    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import auc
    >>> auc([[3, 1, 0, 2]], csr_array([[0, 1, 0, 0]]), k=4).round(4)
    array([0.6667])

    If it has the same score as one of these two, half of this pair counts:

    >>> auc([[3, 1, 0, 2]], csr_array([[0, 1, 0, 0]]), k=4, scores=[[9, 5, 5, 1]])
    array([0.5])
    """
    hits, n = find_hits(ranked, heldout, k)
    lists = np.asarray(ranked)[:, :k]
    heldout = binary_csr(check_structure(heldout))
    if fold_in is None:
        fold_in = csr_array(heldout.shape)
    seen, _ = find_hits(lists, fold_in, k)
    others = (lists >= 0) & ~hits & ~seen
    n_others = heldout.shape[1] - np.diff(binary_csr(heldout + binary_csr(fold_in)).indptr)
    if scores is None:
        scores = np.broadcast_to(-np.arange(lists.shape[1]), lists.shape)
    scores = np.asarray(scores)[:, :k]
    if scores.shape != lists.shape:
        raise ValueError(
            f"scores must have the shape of ranked, {np.shape(ranked)}, got {scores.shape}."
        )
    # Each group of equal scores reaches from the place ``first`` to the place before ``end``.
    places = np.arange(lists.shape[1])
    changes = scores[:, 1:] != scores[:, :-1]
    edge = np.ones((len(lists), 1), dtype=bool)
    first = np.maximum.accumulate(np.hstack([edge, changes]) * places, axis=1)
    ends = np.where(np.hstack([changes, edge]), places + 1, len(places))
    end = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    above = np.pad(others.cumsum(axis=1), ((0, 0), (1, 0)))
    of_first, of_end = (np.take_along_axis(above, place, axis=1) for place in (first, end))
    below = n_others[:, None] - (of_first + of_end) / 2
    unlisted = (n - hits.sum(axis=1)) * (n_others - others.sum(axis=1)) / 2
    return ratio((below * hits).sum(axis=1) + unlisted, n * n_others)
