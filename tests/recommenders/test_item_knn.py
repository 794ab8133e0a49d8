"""ItemKNN against dense numpy loops."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from skvaecf import ItemKNN
from skvaecf.datasets import make_interactions


@pytest.fixture(scope="module")
def X():
    return make_interactions(50, 24, noise=0.3, random_state=0)


def vectors(X, weighting):
    """Columns as the docstring has them, entry by entry."""
    n_items = X.shape[1]
    A = np.zeros(X.shape)
    for u, i in zip(*X.nonzero(), strict=True):
        n_u, n_i = X[u].sum(), X[:, i].sum()
        if weighting is None:
            A[u, i] = 1
        elif weighting == "tfidf":
            A[u, i] = np.log(n_items / n_u)
        else:
            idf = np.log(1 + (n_items - n_u + 0.5) / (n_u + 0.5))
            A[u, i] = idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * n_i / (X.sum() / n_items)))
    return A


def brute_force(X, n_neighbors, metric, weighting, shrinkage):
    A = vectors(X.toarray(), weighting)
    n_items = X.shape[1]
    S = np.zeros((n_items, n_items))
    for j in range(n_items):
        similar = np.zeros(n_items)
        for i in range(n_items):
            dot, squares = A[:, i] @ A[:, j], (A[:, i] @ A[:, i], A[:, j] @ A[:, j])
            scale = np.sqrt(squares[0] * squares[1]) if metric == "cosine" else sum(squares) - dot
            similar[i] = 0 if i == j else dot / (scale + shrinkage)
        # Rounded as stored, so that ties are ties.
        best = np.argsort(-similar.astype(np.float32), kind="stable")[:n_neighbors]
        S[best, j] = similar[best]
    return S


def plain(n_neighbors, **settings):
    return ItemKNN(n_neighbors, **{"weighting": None, "shrinkage": 0.0} | settings)


def test_similar_items_are_the_neighbours(X):
    model = plain(5).fit(X)
    S = brute_force(X, 5, "cosine", None, 0.0)
    similar, scores = model.similar_items(range(24), k=6, return_scores=True)
    for j in range(24):
        # Column j holds the neighbours of j; row j holds the items that have j as a neighbour.
        assert sorted(similar[j, :5]) == sorted(S[:, j].nonzero()[0])
        assert_allclose(scores[j, :5], S[similar[j, :5], j], rtol=1e-5)
    assert (similar[:, 5] == -1).all()


def test_an_item_that_shares_no_users_has_no_similar_items():
    # Items 3 and 4 share their users, two of whom have item 2. Items 0 and 1 share no users.
    X = [[0, 0, 1, 1, 1]] * 2 + [[0, 0, 0, 1, 1]] * 3 + [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    model = plain(1).fit(X)
    assert model.similar_items([0, 2, 3], k=2).tolist() == [[-1, -1], [3, -1], [4, -1]]


@pytest.mark.parametrize("metric", ["cosine", "jaccard"])
@pytest.mark.parametrize(
    ("weighting", "n_neighbors", "shrinkage"),
    [(None, 3, 0.0), ("tfidf", 100, 2.0), ("tfidf", 3, 0.0), ("bm25", 7, 5.0)],
)
def test_similarities_are_the_formula(X, n_neighbors, metric, weighting, shrinkage):
    model = ItemKNN(n_neighbors, metric=metric, weighting=weighting, shrinkage=shrinkage).fit(X)
    S = brute_force(X, n_neighbors, metric, weighting, shrinkage)
    assert isinstance(model.item_similarity_, csr_array)
    assert model.item_similarity_.dtype == np.float32
    assert_allclose(model.item_similarity_.toarray(), S, rtol=1e-5, atol=1e-7)
    assert_allclose(model.predict(X), X.toarray() @ S, rtol=1e-5, atol=1e-5)


def test_the_mean_length_is_that_of_all_items(X):
    padded = csr_array(np.hstack([X.toarray(), np.zeros((50, 6))]))
    model = ItemKNN(5, weighting="bm25", shrinkage=1.0).fit(padded)
    S = brute_force(padded, 5, "cosine", "bm25", 1.0)
    assert_allclose(model.item_similarity_.toarray(), S, rtol=1e-5)


def test_three_items_by_hand():
    X = [[1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0]]
    # Users in common: 2, 2, 1 of 4, 2, 2; the tie of item 0 goes to item 1.
    S = plain(1).fit(X).item_similarity_.toarray()
    assert_allclose(S, [[0, 2 / 8**0.5, 2 / 8**0.5], [2 / 8**0.5, 0, 0], [0, 0, 0]], rtol=1e-6)
    S = plain(2, metric="jaccard", shrinkage=1.0).fit(X).item_similarity_.toarray()
    assert_allclose(S, [[0, 2 / 5, 2 / 5], [2 / 5, 0, 1 / 4], [2 / 5, 1 / 4, 0]], rtol=1e-6)


def test_a_user_with_every_item_has_no_tfidf_weight():
    S = ItemKNN(weighting="tfidf").fit([[1, 1, 1], [1, 1, 1]]).item_similarity_
    assert S.nnz == 0


def test_blocks_do_not_change_the_similarities(X, monkeypatch):
    whole = ItemKNN(5, weighting="bm25").fit(X).item_similarity_
    monkeypatch.setattr("skvaecf.linear._item_item.BLOCK_ENTRIES", 1)
    blocks = ItemKNN(5, weighting="bm25").fit(X).item_similarity_
    assert (whole != blocks).nnz == 0


def test_only_items_that_share_users_take_memory(X):
    S = ItemKNN().fit(X).item_similarity_.tocoo()
    spread = csr_array((X.data, X.indices * 8000 + 7, X.indptr), shape=(50, 200_000))
    tracemalloc.start()
    wide = ItemKNN().fit(spread).item_similarity_.tocoo()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 2**20
    assert_array_equal(wide.coords, [c * 8000 + 7 for c in S.coords])
    assert_array_equal(wide.data, S.data)
