"""Leading singular vectors of sparse rows, by subspace iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from .._batch import InteractionBatch
from ._least_squares import eigh

USERS_AT_ONCE = 32_768
OVERSAMPLING = 10
N_PASSES = 4


def leading_subspace(
    users: InteractionBatch, items: InteractionBatch, n_components: int, generator: torch.Generator
) -> Tensor:
    """Compute a basis near the leading right singular vectors of the normalised matrix.

    The method is two steps of subspace iteration on D_u^(-1/2) X D_i^(-1/2), starting from random
    vectors. D_u and D_i hold the sums of the rows and of the columns. The basis is orthonormal if
    it has full rank.
    """
    by_user = users.sum(users.values).clamp(min=1e-6).rsqrt()[:, None]
    by_item = items.sum(items.values).clamp(min=1e-6).rsqrt()[:, None]
    Q = _random_vectors(users, n_components, generator)
    for _ in range(2):
        Q = _orthonormal(by_item * (items @ (by_user.square() * (users @ (by_item * Q)))))
    return Q


def truncated_svd(
    x: InteractionBatch, n_components: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Compute the largest singular values and their right singular vectors.

    The method is subspace iteration from random vectors (Halko, Martinsson and Tropp, SIAM Review
    2011, algorithm 4.4). It takes users in blocks, so its memory grows with the items only.

    Parameters
    ----------
    x : InteractionBatch
    n_components : int
    generator : torch.Generator

    Returns
    -------
    singular_values : Tensor of shape (n,)
        Descending; n is at most the number of users, of items and ``n_components``.
    V : Tensor of shape (n_items, n)
    """
    n = min(n_components, x.n_users, x.n_items)
    V = _random_vectors(x, min(n + OVERSAMPLING, x.n_items), generator)
    for _ in range(N_PASSES):
        V = _orthonormal(_gram_product(x, V))
    squares, axes = eigh(V.T @ _gram_product(x, V))
    return squares.flip(0)[:n].clamp(min=0).sqrt(), V @ axes.flip(1)[:, :n]


def blocks_of_users(x: InteractionBatch) -> list[Tensor]:
    """Return the row numbers of blocks of users."""
    rows = torch.arange(x.n_users, device=x.offsets.device)
    return [*torch.split(rows, USERS_AT_ONCE)]


def _gram_product(x: InteractionBatch, V: Tensor) -> Tensor:
    """Compute X'X V."""
    total = torch.zeros_like(V)
    for users in blocks_of_users(x):
        rows = x.rows(users)
        total += rows.transposed() @ (rows @ V)
    return total


def _random_vectors(x: InteractionBatch, n: int, generator: torch.Generator) -> Tensor:
    device = x.values.device
    return torch.randn(x.n_items, n, dtype=torch.float32, device=device, generator=generator)


def _orthonormal(Q: Tensor) -> Tensor:
    """Return the orthonormal basis that is nearest to Q."""
    squared_lengths, axes = eigh(Q.T @ Q)
    least = 1e-6 * squared_lengths[-1].clamp(min=1e-30)  # all are 0 without interactions
    return Q @ (axes / squared_lengths.clamp(min=least).sqrt()) @ axes.T
