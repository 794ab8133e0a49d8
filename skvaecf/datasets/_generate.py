"""Synthetic interactions with a known best answer."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import check_random_state, check_scalar

# Five is the least number of which one fifth is a whole interaction.
_MIN_INTERACTIONS = 5


def make_interactions(
    n_users: int = 200,
    n_items: int = 100,
    *,
    n_blocks: int = 4,
    density: float = 0.5,
    noise: float = 0.0,
    random_state: int | np.random.RandomState | None = None,
    return_blocks: bool = False,
) -> Any:
    """Generate binary interactions with planted blocks of users and items.

    Users and items are spread evenly, in random order, over blocks. A user interacts mostly with
    items of the user's own block, so a working recommender ranks the rest of that block first.

    Parameters
    ----------
    n_users : int, default=200
        Number of users, at least `n_blocks`.
    n_items : int, default=100
        Number of items, at least 6 for each block.
    n_blocks : int, default=4
        Number of blocks, at least 2.
    density : float, default=0.5
        Expected number of interactions of a user as a fraction of the size of a block, in (0, 1].
        Every user gets at least 5 interactions, and fewer than the block has items.
    noise : float, default=0.0
        Probability that an interaction is with an item outside the user's block, in [0, 0.5).
    random_state : int, RandomState instance or None, default=None
        Source of the random numbers. Pass an int for the same result at every call.
    return_blocks : bool, default=False
        Whether to return the blocks as well.

    Returns
    -------
    X : csr_array of shape (n_users, n_items), dtype float32
        1 where the user interacted with the item; indices are sorted.
    user_blocks : ndarray of shape (n_users,), dtype int64
        Block of each user. Only if `return_blocks` is True.
    item_blocks : ndarray of shape (n_items,), dtype int64
        Block of each item. Only if `return_blocks` is True.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    TypeError
        If a parameter is of the wrong type.

    Examples
    --------
    >>> from skvaecf.datasets import make_interactions
    >>> X, user_blocks, item_blocks = make_interactions(random_state=0, return_blocks=True)
    >>> X.shape
    (200, 100)
    >>> own_block = user_blocks[:, None] == item_blocks
    >>> bool((X.toarray() <= own_block).all())
    True
    """
    check_scalar(n_blocks, "n_blocks", Integral, min_val=2)
    check_scalar(n_users, "n_users", Integral, min_val=n_blocks)
    check_scalar(n_items, "n_items", Integral, min_val=n_blocks * (_MIN_INTERACTIONS + 1))
    check_scalar(density, "density", Real, min_val=0, max_val=1, include_boundaries="right")
    check_scalar(noise, "noise", Real, min_val=0, max_val=0.5, include_boundaries="left")
    rng = check_random_state(random_state)

    user_blocks = rng.permutation(np.arange(n_users, dtype=np.int64) % n_blocks)
    item_blocks = rng.permutation(np.arange(n_items, dtype=np.int64) % n_blocks)
    sizes = np.bincount(item_blocks)[user_blocks]
    counts = np.clip(rng.binomial(sizes, density), _MIN_INTERACTIONS, sizes - 1)
    n_outside = rng.binomial(counts, noise)
    inside = [np.flatnonzero(item_blocks == block) for block in range(n_blocks)]
    outside = [np.flatnonzero(item_blocks != block) for block in range(n_blocks)]
    drawn = [
        draw
        for block, count, n_out in zip(user_blocks, counts, n_outside, strict=True)
        for draw in (
            rng.choice(inside[block], count - n_out, replace=False),
            rng.choice(outside[block], n_out, replace=False),
        )
    ]
    # SciPy keeps the type of the indices, and some scikit-learn estimators take int32 only.
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    indices = np.concatenate(drawn).astype(np.int32)
    interactions = csr_array(
        (np.ones(len(indices), dtype=np.float32), indices, indptr), shape=(n_users, n_items)
    )
    interactions.sort_indices()
    return (interactions, user_blocks, item_blocks) if return_blocks else interactions
