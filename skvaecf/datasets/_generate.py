"""Synthetic interactions whose best recommendations are known."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Annotated, Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils._param_validation import Interval

from .._parameters import AtLeastTwo, PositiveInt, RandomState, validated

# A fifth of five interactions is one interaction.
_MIN_INTERACTIONS = 5


@validated
def make_interactions(
    n_users: PositiveInt = 200,
    n_items: PositiveInt = 100,
    *,
    n_blocks: AtLeastTwo = 4,
    density: Annotated[float, Interval(Real, 0, 1, closed="right")] = 0.5,
    noise: Annotated[float, Interval(Real, 0, 0.5, closed="left")] = 0.0,
    random_state: RandomState = None,
    return_blocks: bool = False,
) -> Any:
    """Generate random binary interactions in blocks of users and items.

    Users and items are distributed evenly over the blocks, in random order. Most interactions of a
    user are with items of the user's own block, so a working recommender ranks the other items of
    that block first.

    Parameters
    ----------
    n_users : int, default=200
        Number of users, at least ``n_blocks``.
    n_items : int, default=100
        Number of items, at least 6 for each block.
    n_blocks : int, default=4
        Number of blocks, at least 2.
    density : float, default=0.5
        Expected number of interactions of a user, as a fraction of the number of items in the
        block, in (0, 1]. Every user has at least 5 interactions, but fewer than the
        number of items in the block.
    noise : float, default=0.0
        Probability that an interaction is with an item outside the user's block, in [0, 0.5).
    random_state : int, RandomState instance or None, default=None
        Source of the random numbers. With an int, every call returns the same result.
    return_blocks : bool, default=False
        Whether to return the blocks, too.

    Returns
    -------
    X : csr_array of shape (n_users, n_items), dtype float32
        1 if the user interacted with the item. The indices are sorted.
    user_blocks : ndarray of shape (n_users,), dtype int64
        Block of each user. Only if ``return_blocks`` is True.
    item_blocks : ndarray of shape (n_items,), dtype int64
        Block of each item. Only if ``return_blocks`` is True.

    Raises
    ------
    ValueError
        If a parameter is invalid.

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
    check_scalar(n_users, "n_users", Integral, min_val=n_blocks)
    check_scalar(n_items, "n_items", Integral, min_val=n_blocks * (_MIN_INTERACTIONS + 1))
    rng = check_random_state(random_state)

    user_blocks = rng.permutation(np.arange(n_users, dtype=np.int64) % n_blocks)
    item_blocks = rng.permutation(np.arange(n_items, dtype=np.int64) % n_blocks)
    sizes = np.bincount(item_blocks)[user_blocks]
    counts = np.clip(rng.binomial(sizes, density), _MIN_INTERACTIONS, sizes - 1)
    n_outside = rng.binomial(counts, noise)
    inside = [np.flatnonzero(item_blocks == block) for block in range(n_blocks)]
    outside = [np.flatnonzero(item_blocks != block) for block in range(n_blocks)]
    drawn = []
    for block, count, n_out in zip(user_blocks, counts, n_outside, strict=True):
        drawn.append(rng.choice(inside[block], count - n_out, replace=False))
        drawn.append(rng.choice(outside[block], n_out, replace=False))
    # SciPy keeps the type of the indices, and some scikit-learn estimators accept only int32.
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    indices = np.concatenate(drawn).astype(np.int32)
    ones = np.ones(len(indices), dtype=np.float32)
    X = csr_array((ones, indices, indptr), shape=(n_users, n_items)).sorted_indices()
    return (X, user_blocks, item_blocks) if return_blocks else X
