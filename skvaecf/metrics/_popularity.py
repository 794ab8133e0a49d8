"""Metrics of popularity: how many users already have the items of the lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..interactions import binary_csr, check_rows, check_structure
from ._accuracy import recall
from ._lists import (
    PerUser,
    as_matrix,
    check_fold_in,
    check_lists,
    check_popularity,
    check_same_users,
    ratio,
)


def item_popularity(X: Any) -> NDArray[np.float64]:
    r"""Compute the share of users who have each item.

    .. math:: p_i = \frac{1}{n_\mathrm{users}} \big| \{ u : x_{ui} > 0 \} \big|

    The other metrics take this array as the argument ``item_popularity``. X should be the training
    data.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions.

    Returns
    -------
    popularity : ndarray of shape (n_items,), float64
        In [0, 1].

    See Also
    --------
    mean_popularity, novelty, popularity_lift : Metrics that take its result.

    Examples
    --------
    >>> from skvaecf.metrics import item_popularity
    >>> item_popularity([[5, 0, 1], [3, 0, 0]])
    array([1. , 0. , 0.5])
    """
    X = binary_csr(check_rows(X))
    share: NDArray[np.float64] = np.bincount(X.indices, minlength=X.shape[1]) / max(X.shape[0], 1)
    return share


def novelty(ranked: NDArray[np.int64], item_popularity: Any, k: int = 100) -> PerUser:
    r"""Compute the mean self-information of the recommended items, in bits.

    .. math:: \mathrm{Novelty@}k = -\frac{1}{|L|} \sum_{i \in L} \log_2 p_i

    where :math:`p_i` is the share of users who have item i.

    Parameters
    ----------
    ranked : ndarray of shape (n_users, n_places), int
        Item numbers, best first; -1 is an empty place.
    item_popularity : array-like of shape (n_items,)
        Share of the training users who have each item, see
        :func:`~skvaecf.metrics.item_popularity`. An item that nobody has counts as one with the
        smallest positive share. A scorer to which no ``item_popularity`` is bound takes the shares
        from the fold-in part of the rows that it scores.
    k : int, default=100
        Number of places to consider.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        At least 0, higher is better; NaN for users without recommendations.

    See Also
    --------
    mean_popularity : The popularity itself instead of its logarithm.
    skvaecf.novelty_at_k : The scorer of this metric.

    References
    ----------
    Vargas and Castells, "Rank and relevance in novelty and diversity metrics for recommender
    systems", RecSys 2011, section 4.

    Zhou, Kuscsik, Liu, Medo, Wakeling and Zhang, "Solving the apparent diversity-accuracy dilemma
    of recommender systems", PNAS 2010.

    Examples
    --------
    One of two and one of eight users have these items, which is 1 and 3 bits:

    >>> from skvaecf.metrics import novelty
    >>> novelty([[0, 1]], [1 / 2, 1 / 8, 1], k=2)
    array([2.])
    """
    popularity = check_popularity(item_popularity)
    least = popularity[popularity > 0].min(initial=1)
    return _mean(ranked, -np.log2(np.maximum(popularity, least)), k)


def mean_popularity(ranked: NDArray[np.int64], item_popularity: Any, k: int = 100) -> PerUser:
    r"""Compute the mean share of users who have a recommended item.

    .. math:: \mathrm{Popularity@}k = \frac{1}{|L|} \sum_{i \in L} p_i

    Parameters
    ----------
    ranked, k
        See :func:`novelty`.
    item_popularity : array-like of shape (n_items,)
        Share of the training users who have each item, see
        :func:`~skvaecf.metrics.item_popularity`. A scorer to which none is bound takes the shares
        from the fold-in part of the rows that it scores.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1], lower is better; NaN for users without recommendations.

    See Also
    --------
    novelty : The logarithm of the popularity.
    popularity_lift : Compares with the user's own items.
    skvaecf.neg_mean_popularity_at_k : The scorer of this metric.

    Notes
    -----
    Abdollahpouri et al. use the number of users instead of the share.

    References
    ----------
    Abdollahpouri, Burke and Mobasher, "Managing popularity bias in recommender systems with
    personalized re-ranking", FLAIRS 2019, equation 8 (ARP).

    Examples
    --------
    >>> from skvaecf.metrics import mean_popularity
    >>> mean_popularity([[0, 1]], [0.5, 0.25, 1], k=2)
    array([0.375])
    """
    return _mean(ranked, check_popularity(item_popularity), k)


def popularity_lift(
    ranked: NDArray[np.int64], item_popularity: Any, k: int = 100, *, fold_in: Any
) -> PerUser:
    r"""Compute how much more popular the recommended items are than the user's own items.

    .. math:: \mathrm{Lift@}k = \frac{q - p}{p}, \qquad
              q = \frac{1}{|L|} \sum_{i \in L} p_i, \qquad p = \frac{1}{|S|} \sum_{i \in S} p_i

    where :math:`S` are the items that the user has in ``fold_in``.

    Parameters
    ----------
    ranked, item_popularity, k
        See :func:`mean_popularity`.
    fold_in : {array-like, sparse matrix} of shape (n_users, n_items)
        Items that the users have. A scorer passes the fold-in part of the rows that it scores.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        At least -1, lower is better: 0 if the recommended items are as popular as the user's own,
        1 if they are twice as popular. NaN for users without recommendations, or without items
        that anybody has.

    See Also
    --------
    mean_popularity : Without a comparison with the user's own items.
    skvaecf.neg_popularity_lift_at_k : The scorer of this metric.

    Notes
    -----
    The paper computes one value for a group of users, from the means of q and p over the group. It
    is the mean of these values with the weights p.

    References
    ----------
    Abdollahpouri, Mansoury, Burke and Mobasher, "The connection between popularity bias,
    calibration, and fairness in recommendation", RecSys 2020, section 3.

    Examples
    --------
    The user's only item has the share 0.25, and the mean share of the recommended items is 0.75:

    >>> from skvaecf.metrics import popularity_lift
    >>> popularity_lift([[0, 1]], [0.5, 1, 0.25], k=2, fold_in=[[0, 0, 1]])
    array([2.])
    """
    popularity = check_popularity(item_popularity)
    own = check_fold_in(fold_in, len(popularity))
    check_same_users(ranked, own.shape[0], "fold_in")
    of_own = ratio(own @ popularity, np.diff(own.indptr))
    return ratio(_mean(ranked, popularity, k), of_own) - 1


def tail_recall(
    ranked: NDArray[np.int64],
    heldout: Any,
    k: int = 100,
    *,
    item_popularity: Any,
    quantiles: tuple[float, float] = (0, 2 / 3),
    capped: bool = True,
) -> PerUser:
    r"""Compute the recall of the held-out items that are unpopular.

    .. math:: \mathrm{TailRecall@}k = \frac{|T \cap L|}{\min(k, |T|)}, \qquad
              T = \{ i \in H : a \le F_i < b \}

    It is :func:`recall` of those of the held-out items :math:`H` that belong to the tail, with

    .. math:: F_i = \Big( \sum_{j : p_j < p_i} p_j + \tfrac{1}{2} \sum_{j : p_j = p_i} p_j \Big)
              \Big/ \sum_j p_j

    where :math:`p_i` is the share of users who have item i. :math:`F_i` is the share of all
    interactions that belongs to less popular items, with half of those of equally popular items.

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`.
    item_popularity : array-like of shape (n_items,)
        See :func:`mean_popularity`.
    quantiles : tuple of two floats, default=(0, 2/3)
        a and b. The default is the tail of Cremonesi et al.: all items but the most popular ones,
        to which a third of the interactions belong. ``(2/3, 1)`` are these popular items. The
        ranges ``(0, b)``, ``(b, c)`` and ``(c, 1)`` hold each item once.
    capped : bool, default=True
        See :func:`recall`.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1]; NaN for users without such held-out items.

    See Also
    --------
    recall : All held-out items.
    unbiased_recall : Weights all items instead of choosing some.
    skvaecf.tail_recall_at_k : The scorer of this metric.

    References
    ----------
    Cremonesi, Koren and Turrin, "Performance of recommender algorithms on top-n recommendation
    tasks", RecSys 2010, section 2.

    Examples
    --------
    Items 1 and 3 are held out. Of these, only item 3 is in the tail, and it is recommended:

    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import tail_recall
    >>> heldout = csr_array([[0, 1, 0, 1]])
    >>> tail_recall([[3, 0]], heldout, k=2, item_popularity=[0.2, 0.9, 0.6, 0.3])
    array([1.])
    """
    heldout, popularity = _heldout_and_popularity(heldout, item_popularity)
    low, high = quantiles
    if not 0 <= low < high <= 1:
        raise ValueError(f"quantiles must be two ascending numbers from 0 to 1, got {quantiles!r}.")
    ascending = np.sort(popularity)
    below = np.append(0, ascending.cumsum())
    less, at_most = (
        below[np.searchsorted(ascending, popularity, side)] for side in ("left", "right")
    )
    F = (less + at_most) / max(2 * below[-1], np.finfo(float).tiny)
    chosen = heldout.multiply((low <= F) & (high > F))
    return recall(ranked, chosen, k, capped=capped)


def unbiased_recall(
    ranked: NDArray[np.int64],
    heldout: Any,
    k: int = 100,
    *,
    item_popularity: Any,
    gamma: float = 1.7,
) -> PerUser:
    r"""Estimate the recall of data that are not biased towards popular items.

    .. math:: \hat R = \sum_{i \in H \cap L} w_i \Big/ \sum_{i \in H} w_i, \qquad
              w_i = p_i^{-(\gamma + 1) / 2}

    where :math:`H` are the held-out items. The weight of an item is proportional to the inverse of
    its propensity, the probability that an interaction that a user would like is observed. The
    estimator is self-normalised (SNIPS).

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`.
    item_popularity : array-like of shape (n_items,)
        See :func:`mean_popularity`. Held-out items that nobody has are ignored, because they have
        no weight; the authors' code does the same.
    gamma : float, default=1.7
        Exponent of the power law of the popularity. The authors estimate it for their data; in
        their code it is 1.55 to 1.89. With -1 all items have the same weight, and the value is
        ``recall(..., capped=False)``.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1]; NaN for users without held-out items that anybody has.

    See Also
    --------
    recall : Without weights.
    tail_recall : Only the unpopular items.
    skvaecf.unbiased_recall_at_k : The scorer of this metric.

    References
    ----------
    Yang, Cui, Xuan, Wang, Belongie and Estrin, "Unbiased offline recommender evaluation for
    missing-not-at-random implicit feedback", RecSys 2018.

    Examples
    --------
    Of the two held-out items, the popular one is found. With gamma = 1 its weight is 1, and that of
    the other item is 4:

    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import unbiased_recall
    >>> heldout = csr_array([[0, 1, 1, 0]])
    >>> unbiased_recall([[1]], heldout, k=1, item_popularity=[0.5, 1, 0.25, 0.5], gamma=1)
    array([0.2])
    """
    heldout, popularity = _heldout_and_popularity(heldout, item_popularity)
    check_same_users(ranked, heldout.shape[0], "heldout")
    weights = np.zeros(len(popularity))
    np.power(popularity, -(gamma + 1) / 2, out=weights, where=popularity > 0)
    found = heldout * as_matrix(check_lists(ranked, len(popularity), k), len(popularity))
    return ratio(found @ weights, heldout @ weights)


def _mean(ranked: Any, values: NDArray[np.float64], k: int) -> PerUser:
    """Compute the mean of the values of the items of each list."""
    lists = as_matrix(check_lists(ranked, len(values), k), len(values))
    return ratio(lists @ values, np.diff(lists.indptr))


def _heldout_and_popularity(heldout: Any, item_popularity: Any) -> tuple[Any, NDArray[np.float64]]:
    """Return both, checked; raise a ValueError if their numbers of items differ."""
    heldout = binary_csr(check_structure(heldout, "heldout"))
    popularity = check_popularity(item_popularity)
    if len(popularity) != heldout.shape[1]:
        raise ValueError(
            f"item_popularity must have one number for each of the {heldout.shape[1]} items of"
            f" heldout, got {len(popularity)}."
        )
    return heldout, popularity
