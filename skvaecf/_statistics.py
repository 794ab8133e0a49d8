"""Statistics of the data: what the parameters with the value "auto" are computed from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from ._threads import in_threads

SAMPLED_USERS, PARTNERS = 1_000, 20_000  # estimates of other samples differ by 3 to 15 %
ROWS_AT_ONCE = 50
ENTRIES_AT_ONCE = 2**20
LEAST_LIFT = 0.1  # where users share too few items to tell, as in toy data


def evenly_spaced(numbers: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return n of the numbers, or all of them."""
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, n).astype(np.int64))]


def number_of_components(n_components: int | str, n_users: int, n_items: int, least: int) -> int:
    """Return ``n_components``; for "auto" sqrt(U I) / 30, rounded up, from ``least`` to 400."""
    auto = min(max(math.ceil(math.sqrt(n_users * n_items) / 30), least), 400)
    return auto if isinstance(n_components, str) else n_components


def typical_count(counts: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> float:
    r"""Compute the mean number of users of the item of an interaction, sum c_i^2 / sum c_i.

    With the numbers of items of the users, it is the mean number of items of the user of an
    interaction. Weights are those of the users: sum w_u n_u^2 / sum w_u n_u.
    """
    c = counts.astype(np.float64)
    of_all = c if weights is None else weights * c
    return float(of_all @ c / max(of_all.sum(), 1))


def structure(X: csr_array, weights: NDArray[np.float64] | None = None) -> float:
    r"""Measure how well some of a user's items predict the user's other items.

    .. math:: S = \bar n^{2/3} \rho, \qquad
              \bar n = \frac{\sum_u n_u^2}{\sum_u n_u}, \qquad
              \rho = \frac{\sum_{i \neq j} (G_{ij}^2 - G_{ij})}{\sum_{i \neq j} E_{ij}^2}

    :math:`n_u` is the number of items of user u, and :math:`G_{ij}` the number of users who have
    both i and j. :math:`E_{ij} = c_i c_j \sum_u n_u (n_u - 1) / N^2` is the expected number if
    every user drew items with probabilities that are proportional to their counts
    :math:`c_i`, whose sum is N. So :math:`\rho` is the mean squared lift of pairs of items: about 1
    where only the popularity of items counts. :math:`G_{ij}` is subtracted because a Poisson
    variable with the mean E has :math:`\mathrm{E}[G^2 - G] = E^2`.

    Parameters
    ----------
    X : csr_array of shape (n_users, n_items), float32
        Interactions in canonical form with every value 1.
    weights : ndarray of shape (n_users,) or None, default=None
        Weights of the users: a user with the weight 2 counts as two users.

    Returns
    -------
    structure : float
        Positive.

    Notes
    -----
    The sum over pairs of items equals the sum of o (o - 1) over pairs of users, where o is the
    number of items that the two users share. It is estimated from the pairs of 1,000 users and
    20,000 users, both evenly spaced. :func:`structure_of_gram` computes it from G.
    """
    n_users, n_items = X.shape
    n_u = np.diff(X.indptr).astype(np.float64)
    w = np.ones(n_users) if weights is None else weights
    c = np.bincount(X.indices, w.repeat(np.diff(X.indptr)), n_items).astype(np.float64)
    partners = evenly_spaced(np.arange(n_users), PARTNERS)
    sampled = evenly_spaced(partners, SAMPLED_USERS)
    items = csr_array(X[partners].T)

    def pairs_shared(start: int) -> float:
        rows = sampled[start : start + ROWS_AT_ONCE]
        shared = csr_array(X[rows] @ items, dtype=np.float64)
        shared.data = shared.data**2 - shared.data
        itself = n_u[rows] ** 2 - n_u[rows]
        return float(w[rows] @ (shared @ w[partners] - itself))

    starts = range(0, len(sampled), ROWS_AT_ONCE)
    shared_pairs = sum(in_threads(pairs_shared, starts, torch.device("cpu")))
    pairs, of_sample = (a.sum() * (b.sum() - 1) for a, b in ((w, w), (w[sampled], w[partners])))
    of_all = pairs / of_sample if of_sample > 0 else 1.0
    return _structure(c, (w * n_u**2).sum(), shared_pairs * of_all)


def structure_of_gram(G: Any) -> float:
    r"""Compute the structure of :func:`structure` from :math:`G = X^\top X`, without samples.

    Parameters
    ----------
    G : {ndarray, csr_array} of shape (n_items, n_items)
        Numbers of users who have both items; on the diagonal, of users who have the item.

    Returns
    -------
    structure : float
        Positive.
    """
    c, entries = G.diagonal().astype(np.float64), G.data if issparse(G) else G.reshape(-1)
    squares = all_pairs = 0.0  # the sum of the entries of G is that of n_u^2 over the users
    for start in range(0, len(entries), ENTRIES_AT_ONCE):
        g = entries[start : start + ENTRIES_AT_ONCE].astype(np.float64)
        squares += g.sum()
        all_pairs += (g**2 - g).sum()
    return _structure(c, squares, all_pairs - (c**2 - c).sum())


def _structure(c: NDArray[np.float64], squares: float, shared_pairs: float) -> float:
    """Compute the structure from the counts of the items, sum n_u^2 and the numerator of rho."""
    N = max(c.sum(), 1)
    expected = ((c**2).sum() ** 2 - (c**4).sum()) * ((squares - c.sum()) / N**2) ** 2
    lift = shared_pairs / max(expected, 1e-9)
    return float(max(squares / N, 1) ** (2 / 3) * max(lift, LEAST_LIFT))
