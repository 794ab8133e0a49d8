"""Products of items with items, in blocks, dense and sparse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grams import KINDS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from skvaecf.linear import SparseGram
from skvaecf.linear._item_item import (
    _spread,
    dense_gram,
    item_blocks,
    sparse_item_blocks,
    sparse_scorer,
    stored_similarities,
)

CPU = torch.device("cpu")

# --- blocks


@pytest.mark.parametrize(("n_items", "n_blocks"), [(1, 1), (2048, 1), (2049, 2), (100_000, 2440)])
def test_item_blocks_cover_all_items(n_items, n_blocks):
    blocks = list(item_blocks(n_items))
    assert len(blocks) == n_blocks
    assert [i for block in blocks for i in range(n_items)[block]] == list(range(n_items))
    assert blocks[0].stop * n_items <= 2**22


def test_work_grows_with_the_pairs_of_items_that_users_have():
    r = np.random.RandomState(0)
    columns = np.minimum(r.zipf(1.3, 9000) - 1, 199_999)
    X = csr_array((np.ones(9000), (r.randint(300, size=9000), columns)), shape=(300, 200_000))
    blocks = list(sparse_item_blocks(X))
    assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(200_000))
    lengths = np.diff((csr_array(X.T) @ X).indptr)
    n_u = np.diff(X.indptr)
    bound = np.maximum(np.bincount(X.indices, n_u.repeat(n_u), minlength=200_000), 1)
    for block in blocks:
        assert bound[block].max() < 2 * bound[block].min()
    held = [len(block) * max(1, lengths[block].max()) for block in blocks]
    assert max(held) <= 2**20
    pairs = int((np.diff(X.indptr) ** 2).sum())
    assert sum(held) < 2 * (pairs + 200_000)


def test_blocks_of_long_rows_are_small():
    X = csr_array(np.ones((2, 3000)))
    assert max(map(len, sparse_item_blocks(X))) == 2**20 // 3000


# --- Gram matrices


@pytest.fixture(scope="module")
def X():
    """Interactions with 31 items, the last of which has no users."""
    dense = (np.random.RandomState(0).rand(80, 31) < 0.3).astype(np.float32)
    dense[:, -1] = 0
    return csr_array(dense)


@pytest.mark.parametrize("speed", [0, np.inf], ids=["dense product", "sparse product"])
def test_sparse_and_dense_products_count_the_same_users(X, speed, monkeypatch):
    # 0 takes a dense product for arbitrarily slow, infinity for arbitrarily fast.
    monkeypatch.setattr("skvaecf.linear._item_item.DENSE_SPEED", speed)
    gram = dense_gram(X, CPU, padding=1)
    assert_array_equal(gram[:31, :31], (X.T @ X).toarray())
    assert not gram[31].any()
    assert not gram[:, 31].any()


def test_entries_are_spread_over_a_dense_matrix_on_a_gpu(X):
    assert_array_equal(_spread(X * 0.5, CPU), X.toarray() * 0.5)
    assert _spread(csr_array((2, 3), dtype=np.float32), CPU).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_items_with_weighted_items(X, kind, monkeypatch):
    monkeypatch.setattr("skvaecf.linear._item_item.SUMMANDS", 4)
    G = np.zeros((32, 32))  # the last item is padding
    G[:-1, :-1] = (X.T @ X).toarray()
    gram = kind(X, CPU)
    items = np.array([[0, 7, 29, 31], [30, 4, 31, 31], [5, 6, 2, 1]])
    weights = np.where(items == 31, 0, np.random.RandomState(0).normal(size=items.shape))
    assert gram.n_items == 31
    assert_array_equal(gram.counts, np.diag(G))
    assert_array_equal(gram.among(torch.tensor(items)), G[items[:, :, None], items[:, None, :]])
    products = gram.weighted(torch.tensor(items), torch.tensor(weights, dtype=torch.float32))
    expected = [w @ G[i] for i, w in zip(items, weights, strict=True)]
    assert_allclose(products, expected, rtol=1e-5, atol=1e-5)


def test_many_users_add_up_without_drift():
    # 30,000 equal summands: one by one, float32 is off by more than 1e-4.
    X = csr_array(np.ones((30_000, 2), dtype=np.float32))
    products = SparseGram(X, CPU).weighted(torch.tensor([[1]]), torch.tensor([[0.0123]]))
    assert_allclose(products[0, :2], 369.0, rtol=2e-6)


# --- sparse similarities

S = csr_array(np.array([[0, 0.5, 0], [2.0, 0, 0], [0, 0, 0]], dtype=np.float32))


def test_rows_are_scored_by_the_stored_similarities():
    rows = csr_array(np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32))
    scores = sparse_scorer(S)(rows)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[2.0, 0.5, 0.0], [0.0] * 3, [0.0] * 3]


def test_similarities_that_are_not_stored_are_minus_infinity():
    similar = stored_similarities(S)(np.array([1, 2, 1]))
    none = -np.inf
    assert similar.tolist() == [[2.0, none, none], [none] * 3, [2.0, none, none]]
