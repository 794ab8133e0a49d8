"""Metrics of variety: how different the items of a list are from each other and from others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, issparse
from scipy.special import rel_entr
from sklearn.preprocessing import normalize

from ..ranking import recommend, row_blocks
from ._lists import (
    PerUser,
    as_matrix,
    check_fold_in,
    check_items,
    check_lists,
    check_same_users,
    find_hits,
    ratio,
)


def intra_list_diversity(
    ranked: NDArray[np.int64],
    item_vectors: Any = None,
    k: int = 100,
    *,
    item_similarity: Any = None,
) -> PerUser:
    r"""Compute the mean distance of two items of a list.

    .. math:: \mathrm{ILD@}k = \frac{1}{|L| (|L| - 1)} \sum_{i \in L} \sum_{j \in L, j \neq i}
              (1 - s_{ij})

    where :math:`s_{ij}` is the cosine of the vectors of items i and j, or the given similarity.

    Parameters
    ----------
    ranked : ndarray of shape (n_users, n_places), int
        Item numbers, best first; -1 is an empty place.
    item_vectors : {array-like, sparse matrix} of shape (n_items, n_features) or None, default=None
        Vectors of the items: features, a 1 for each category of the item, or the ``item_factors_``
        of a model. The cosine of a vector of zeros with any other vector counts as 0.
    k : int, default=100
        Number of places to consider.
    item_similarity : {array-like, sparse matrix} of shape (n_items, n_items) or None, default=None
        Similarities, instead of vectors; 1 means equal. The diagonal is not used. An example is the
        ``item_similarity_`` of :class:`~skvaecf.ItemKNN`.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        Higher is better. In [0, 1] if no similarity is negative. NaN for users with fewer than two
        recommendations.

    Raises
    ------
    ValueError
        If not exactly one of item_vectors and item_similarity is given.

    See Also
    --------
    skvaecf.maximal_marginal_relevance : Makes lists more diverse.

    References
    ----------
    Smyth and McClave, "Similarity vs. diversity", ICCBR 2001.

    Ziegler, McNee, Konstan and Lausen, "Improving recommendation lists through topic
    diversification", WWW 2005. Their intra-list similarity is a sum over the pairs.

    Examples
    --------
    Items 0 and 1 have the same category, and item 2 has another:

    >>> from skvaecf.metrics import intra_list_diversity
    >>> categories = [[1, 0], [1, 0], [0, 1]]
    >>> intra_list_diversity([[0, 1, -1], [0, 2, -1], [0, 1, 2]], categories, k=3).round(4)
    array([0.    , 1.    , 0.6667])
    """
    if (item_vectors is None) == (item_similarity is None):
        raise ValueError("Exactly one of item_vectors and item_similarity must be given.")
    # The similarities are the products of the rows of A and B.
    if item_similarity is None:
        A = B = normalize(check_items(item_vectors, "item_vectors"))
    else:
        A = check_items(item_similarity, "item_similarity")
        if A.shape[0] != A.shape[1]:
            raise ValueError(f"item_similarity must be square, got shape {A.shape}.")
        B = eye_array(A.shape[0], format="csr")
    n_items, width = A.shape
    itself = (A * B).sum(axis=1)
    lists = as_matrix(check_lists(ranked, n_items, k), n_items)
    total = np.empty(lists.shape[0])
    # A block of users at a time: the products may be dense.
    for block in row_blocks(lists.shape[0], width):
        chosen = lists[block]
        total[block] = ((chosen @ A) * (chosen @ B)).sum(axis=1) - chosen @ itself
    n = np.diff(lists.indptr).astype(np.int64)
    n_pairs = n * (n - 1)
    return ratio(n_pairs - total, n_pairs)


def serendipity(
    ranked: NDArray[np.int64],
    heldout: Any,
    k: int = 100,
    *,
    baseline: Any,
    fold_in: Any = None,
) -> PerUser:
    r"""Compute the share of the first k places that are hits which a baseline does not recommend.

    .. math:: \mathrm{Serendipity@}k = \frac{1}{k} \sum_{r=1}^{k} h_r \, [i_r \notin B]

    where :math:`B` are the first k items of the baseline's list for the same user.

    Parameters
    ----------
    ranked, heldout, k
        See :func:`ndcg`. Empty places count as misses.
    baseline : ndarray of shape (n_users, n_places), int, or fitted estimator
        Lists of the expected items, or a model that recommends them from ``fold_in``, for instance
        a fitted :class:`~skvaecf.Popularity`.
    fold_in : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
        Interactions from which the estimator recommends; not used if ``baseline`` is an array. A
        scorer passes the fold-in part of the rows that it scores.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, 1], higher is better; NaN for users without held-out items.

    See Also
    --------
    precision : All hits, whether a baseline recommends them or not.

    References
    ----------
    Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy: evaluating recommender systems by
    coverage and serendipity", RecSys 2010, section 3.2.

    Examples
    --------
    Both places are hits, and the baseline recommends one of them:

    >>> from scipy.sparse import csr_array
    >>> from skvaecf.metrics import serendipity
    >>> serendipity([[3, 1]], csr_array([[0, 1, 0, 1]]), k=2, baseline=[[1, 2]])
    array([0.5])
    """
    hits, n = find_hits(ranked, heldout, k)
    n_items = np.shape(heldout)[1]
    if hasattr(baseline, "predict"):
        if fold_in is None:
            raise ValueError("fold_in must be given if baseline is an estimator.")
        baseline = recommend(baseline, fold_in, min(k, n_items))
    expected = as_matrix(check_lists(baseline, n_items, k, "baseline"), n_items)
    check_same_users(ranked, expected.shape[0], "baseline")
    return ratio((hits & ~find_hits(ranked, expected, k)[0]).sum(axis=1), k * (n > 0))


def miscalibration(
    ranked: NDArray[np.int64],
    fold_in: Any,
    k: int = 100,
    *,
    categories: Any,
    alpha: float = 0.01,
) -> PerUser:
    r"""Compute how far the categories of the list are from those of the user's own items.

    .. math::

        & C_\mathrm{KL} = \sum_c p(c) \log \frac{p(c)}{(1 - \alpha) q(c) + \alpha p(c)},

        & p(c) = \frac{1}{|S|} \sum_{i \in S} p(c | i), \qquad
        q(c) = \frac{1}{|L|} \sum_{i \in L} p(c | i)

    This is the Kullback-Leibler divergence, in nats. :math:`S` are the items that the user has in
    ``fold_in``, and :math:`p(c | i)` is ``categories[i]``, divided by its sum.

    Parameters
    ----------
    ranked : ndarray of shape (n_users, n_places), int
        Item numbers, best first; -1 is an empty place.
    fold_in : {array-like, sparse matrix} of shape (n_users, n_items)
        Items that the users have. A scorer passes the fold-in part of the rows that it scores.
    k : int, default=100
        Number of places to consider.
    categories : {array-like, sparse matrix} of shape (n_items, n_categories)
        Weights of the categories of each item, for instance a 1 for each genre of a film. Items
        without a category are ignored.
    alpha : float, default=0.01
        Share of p that is mixed into q, in (0, 1). It keeps the divergence finite: the largest
        value is :math:`\log(1 / \alpha)`.

    Returns
    -------
    values : ndarray of shape (n_users,), float64
        In [0, log(1 / alpha)], lower is better: 0 if the shares of all categories are equal. NaN
        for users without an item that has a category, in the list or in ``fold_in``.

    See Also
    --------
    intra_list_diversity : How different the items of a list are.

    Notes
    -----
    Steck also allows weights of the interactions and of the places; here, all are equal.

    References
    ----------
    Steck, "Calibrated recommendations", RecSys 2018, equations 2, 3, 6 and 7.

    Examples
    --------
    The user has one film of each genre. The first list has one of each, too, the second only one
    genre:

    >>> from skvaecf.metrics import miscalibration
    >>> genres, own = [[1, 0], [0, 1], [1, 0], [0, 1]], [[1, 1, 0, 0]] * 2
    >>> miscalibration([[2, 3], [2, -1]], own, k=2, categories=genres).round(4)
    array([0.    , 1.9585])
    """
    categories = check_items(categories, "categories")
    if categories.min() < 0:
        raise ValueError(f"categories must not be negative, got {categories.min():g}.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha!r}.")
    n_items = categories.shape[0]
    own = check_fold_in(fold_in, n_items)
    check_same_users(ranked, own.shape[0], "fold_in")
    lists = as_matrix(check_lists(ranked, n_items, k), n_items)
    p, q = (_shares(items, categories) for items in (own, lists))
    defined = p.any(axis=1) & q.any(axis=1)
    divergence: PerUser = rel_entr(p, (1 - alpha) * q + alpha * p).sum(axis=1)
    # Rounding can make the divergence of equal shares negative.
    return np.where(defined, np.maximum(divergence, 0), np.nan)


def _shares(items: csr_array, categories: Any) -> NDArray[np.float64]:
    """Return the shares of the categories in the items of each user; zeros if there are none."""
    totals = items @ normalize(categories, norm="l1")
    shares: NDArray[np.float64] = normalize(
        totals.toarray() if issparse(totals) else totals, norm="l1"
    )
    return shares
