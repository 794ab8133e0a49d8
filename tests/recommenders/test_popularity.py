"""Popularity by hand."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from skvaecf import Popularity

X = np.array(
    [
        [5.0, 1.0, 0.0, 0.0],
        [0.0, 2.0, 0.0, 1.0],
        [0.0, 9.0, 0.0, 0.5],
    ]
)


def test_counts_users_not_values():
    model = Popularity().fit(X)
    assert model.item_counts_.dtype == np.int64
    assert model.item_counts_.tolist() == [1, 3, 0, 2]


def test_scores_are_the_counts_for_everybody():
    model = Popularity().fit(csr_array(X))
    assert model.predict(np.zeros((2, 4))).tolist() == [[1.0, 3.0, 0.0, 2.0]] * 2


def test_recommends_the_most_popular_item_that_is_new():
    model = Popularity().fit(X)
    assert model.recommend(X, k=3).tolist() == [[3, 2, -1], [0, 2, -1], [0, 2, -1]]
    assert model.recommend(X, k=2, exclude_seen=False).tolist() == [[1, 3]] * 3
