"""Synthetic interactions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skvaecf.datasets import make_interactions


def test_shape_and_type():
    X = make_interactions(random_state=0)
    assert isinstance(X, csr_array)
    assert X.shape == (200, 100)
    assert X.dtype == np.float32
    assert X.indices.dtype == np.int32
    assert X.has_sorted_indices
    assert X.has_canonical_format
    assert_array_equal(X.data, 1.0)


def test_without_noise_users_stay_inside_their_block():
    X, user_blocks, item_blocks = make_interactions(n_blocks=5, random_state=0, return_blocks=True)
    assert user_blocks.dtype == item_blocks.dtype == np.int64
    assert np.bincount(user_blocks).tolist() == [40] * 5
    assert np.bincount(item_blocks).tolist() == [20] * 5
    own_block = user_blocks[:, None] == item_blocks
    assert not X.toarray()[~own_block].any()
    assert X.nnz / own_block.sum() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("density", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_number_of_interactions_of_each_user(density, noise):
    X = make_interactions(61, 27, density=density, noise=noise, random_state=1)
    counts = np.diff(X.indptr)
    assert counts.min() >= 5
    assert counts.max() <= 6  # the blocks have 7, 7, 7 and 6 items, and one is always left


def test_never_the_entire_block():
    X, user_blocks, item_blocks = make_interactions(density=1.0, random_state=0, return_blocks=True)
    assert_array_equal(np.diff(X.indptr), np.bincount(item_blocks)[user_blocks] - 1)


def test_noise_is_the_share_outside_the_block():
    X, user_blocks, item_blocks = make_interactions(
        2000, 200, noise=0.25, random_state=0, return_blocks=True
    )
    rows, columns = X.nonzero()
    outside = user_blocks[rows] != item_blocks[columns]
    assert outside.mean() == pytest.approx(0.25, abs=0.01)


def test_neighbours_find_the_block():
    X, user_blocks, item_blocks = make_interactions(noise=0.2, random_state=0, return_blocks=True)
    X = X.toarray()
    scores = np.where(X > 0, -np.inf, X @ (X.T @ X))
    best = scores.argmax(axis=1)
    assert (item_blocks[best] == user_blocks).mean() > 0.98


def test_random_state():
    first = make_interactions(noise=0.1, random_state=3).toarray()
    assert_array_equal(make_interactions(noise=0.1, random_state=3).toarray(), first)
    generator = np.random.RandomState(3)
    assert_array_equal(make_interactions(noise=0.1, random_state=generator).toarray(), first)
    assert (make_interactions(noise=0.1, random_state=generator).toarray() != first).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_users": 3}, "n_users == 3, must be >= 4"),
        ({"n_items": 23}, "n_items == 23, must be >= 24"),
        ({"n_blocks": 1}, "'n_blocks' parameter of make_interactions must be an int in the ran"),
        ({"density": 0.0}, r"'density' parameter .* must be a float in the range \(0.0, 1.0\]"),
        ({"density": 1.5}, r"'density' parameter .* must be a float in the range \(0.0, 1.0\]"),
        ({"noise": -0.1}, r"'noise' parameter .* must be a float in the range \[0.0, 0.5\)"),
        ({"noise": 0.5}, r"'noise' parameter .* must be a float in the range \[0.0, 0.5\)"),
    ],
)
def test_invalid_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_interactions(**arguments)
