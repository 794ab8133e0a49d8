"""Metrics of the catalogue: one number for the lists of all users."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ._lists import check_lists


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

    See Also
    --------
    gini : How unequally the items are recommended.
    entropy : Another measure of this.
    skvaecf.coverage_at_k : The scorer of this metric.

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
    ranked = check_lists(ranked, n_items, k)
    return float(len(np.unique(ranked[ranked >= 0])) / n_items)


def gini(ranked: NDArray[np.int64], n_items: int, k: int = 100) -> float:
    r"""Compute the Gini index of the numbers of recommendations of the items.

    .. math:: G = \frac{1}{n_\mathrm{items} - 1} \sum_{j=1}^{n_\mathrm{items}}
              (2 j - n_\mathrm{items} - 1) \frac{c_{(j)}}{\sum_i c_i}

    where :math:`c_i` is the number of users with item i in the first k places, and
    :math:`c_{(1)} \le c_{(2)} \le \dots` are these numbers in ascending order.

    Parameters
    ----------
    ranked, n_items, k
        See :func:`coverage`.

    Returns
    -------
    value : float
        In [0, 1], lower is better: 0 if all items are recommended equally often, 1 if all
        recommendations are of one item. NaN if there are no recommendations.

    See Also
    --------
    entropy : Higher if the items are recommended more equally.
    coverage : Whether an item is recommended at all.
    skvaecf.neg_gini_at_k : The scorer of this metric.

    Notes
    -----
    Some libraries divide by :math:`n_\mathrm{items}` instead; their largest value is
    :math:`1 - 1 / n_\mathrm{items}`.

    References
    ----------
    Shani and Gunawardana, "Evaluating recommendation systems", Recommender Systems Handbook 2011,
    section 8.3.3.

    Examples
    --------
    >>> from skvaecf.metrics import gini
    >>> round(gini([[0, 3], [3, 0], [3, 1]], n_items=4, k=2), 4)
    0.5556
    """
    counts = np.sort(_counts(ranked, n_items, k))
    total = max(n_items - 1, 1) * counts.sum()
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ counts / total) if total else float("nan")


def entropy(ranked: NDArray[np.int64], n_items: int, k: int = 100) -> float:
    r"""Compute the normalised Shannon entropy of the numbers of recommendations of the items.

    .. math:: H = -\frac{1}{\log n_\mathrm{items}} \sum_{i} q_i \log q_i, \qquad
              q_i = \frac{c_i}{\sum_j c_j}

    where :math:`c_i` is the number of users with item i in the first k places.

    Parameters
    ----------
    ranked, n_items, k
        See :func:`coverage`. There must be at least two items.

    Returns
    -------
    value : float
        In [0, 1], higher is better: 1 if all items are recommended equally often, 0 if all
        recommendations are of one item. NaN if there are no recommendations.

    See Also
    --------
    gini : Lower if the items are recommended more equally.
    coverage : Whether an item is recommended at all.
    skvaecf.entropy_at_k : The scorer of this metric.

    References
    ----------
    Shani and Gunawardana, "Evaluating recommendation systems", Recommender Systems Handbook 2011,
    section 8.3.3. Their value is not divided by the logarithm.

    Examples
    --------
    Two of four items are recommended, equally often:

    >>> from skvaecf.metrics import entropy
    >>> entropy([[0, 3], [3, 0]], n_items=4, k=2)
    0.5
    """
    counts = _counts(ranked, n_items, k)
    if n_items < 2:
        raise ValueError(f"n_items must be at least 2, got {n_items!r}.")
    return float(stats.entropy(counts, base=n_items)) if counts.any() else float("nan")


def _counts(ranked: Any, n_items: int, k: int) -> NDArray[np.int64]:
    """Return the number of recommendations of each item."""
    lists = check_lists(ranked, n_items, k)
    return np.bincount(lists[lists >= 0], minlength=n_items)
