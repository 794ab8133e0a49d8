"""The search for the weights of a blend: a bagged search over a grid on the simplex."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from ._top_k import top_k
from .base import Scorer
from .interactions import binary_csr
from .metrics import ndcg
from .ranking import row_blocks

K = 100  # NDCG@100, as in early stopping and ``score``
N_POINTS = 300
N_RESAMPLES = 500


def best_weights(
    scorers: Sequence[Scorer], fold_in: Any, heldout: Any, seed: int
) -> NDArray[np.float64]:
    """Choose the weights by bagging an exhaustive search on the held-out users."""
    heldout = binary_csr(heldout)
    users = np.flatnonzero(np.diff(heldout.indptr))
    fold_in, heldout = fold_in[users], heldout[users]
    grid = simplex_grid(len(scorers))
    values = []
    for block in row_blocks(*fold_in.shape):
        rows = fold_in[block]
        z = torch.stack([standard_scores(rows).cpu() for standard_scores in scorers])
        values.append(ndcg_on_grid(grid, z, binary_csr(rows), heldout[block]))
    per_user = np.concatenate(values, axis=1)
    rng = np.random.RandomState(seed)
    n_drawn, shares = max(len(users) // 40, 5), np.full(len(users), 1 / len(users))
    # Rounded, so that the order of the sums does not decide between points that are equally good.
    best = [
        (per_user @ rng.multinomial(n_drawn, shares)).round(9).argmax() for _ in range(N_RESAMPLES)
    ]
    weights: NDArray[np.float64] = grid[best].mean(axis=0)
    return weights


def simplex_grid(n: int) -> NDArray[np.float64]:
    """Return the finest grid of weights with at most N_POINTS points, in steps of 0.1 or more.

    More even weights come first.
    """
    n_steps = max((s for s in range(2, 11) if comb(n + s - 1, s) <= N_POINTS), default=1)
    points = [
        np.bincount(chosen, minlength=n) / n_steps
        for chosen in combinations_with_replacement(range(n), n_steps)
    ]
    return np.array(sorted(points, key=lambda weights: (weights**2).sum()))


def ndcg_on_grid(
    grid: NDArray[np.float64], z: Tensor, seen: csr_array, heldout: csr_array
) -> NDArray[np.float64]:
    """Compute the NDCG@100 of users for each point of a grid, shape (n_points, n_users).

    ``z`` holds the standard scores, shape (n_members, n_users, n_items).
    """
    relevant = torch.from_numpy(heldout.toarray() > 0)
    z[:, torch.from_numpy(seen.toarray() > 0)] = -1e30  # -inf times a weight of 0 would be NaN
    # Other items can be in the list of a blend only if several members rank them in middle places.
    taking_part = relevant.clone()
    for scores in z:
        taking_part.scatter_(1, scores.topk(min(2 * K, z.shape[2])).indices, True)
    n_columns = int(taking_part.sum(dim=1).max())
    columns = taking_part.byte().argsort(dim=1, descending=True, stable=True)[:, :n_columns]
    columns = columns.sort(dim=1).values
    z = z.gather(2, columns.expand(len(z), -1, -1))
    hits = csr_array(relevant.gather(1, columns).numpy())
    return np.stack(
        [
            ndcg(top_k(torch.tensordot(weights, z, 1), min(K, n_columns))[0], hits, K)
            for weights in torch.tensor(grid, dtype=torch.float32)
        ]
    )
