"""Operations of InteractionBatch that the networks and the players use, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skvaecf.neural import InteractionBatch


@pytest.fixture
def matrix():
    """Rows with values, an empty row, an empty first and last column."""
    rng = np.random.RandomState(0)
    dense = rng.randint(1, 9, (6, 8)) * (rng.rand(6, 8) < 0.4)
    dense[3] = 0
    dense[:, [0, 7]] = 0
    return csr_array(dense.astype(np.float32))


def to_csr(x):
    parts = (x.values.numpy(), x.items.numpy(), x.offsets.numpy())
    return csr_array(parts, shape=(x.n_users, x.n_items))


def assert_same_rows(x, expected):
    """Compare the entries and their order with those of a canonical CSR matrix."""
    assert (x.n_users, x.n_items) == expected.shape
    assert_array_equal(x.offsets, expected.indptr)
    assert_array_equal(x.items, expected.indices)
    assert_array_equal(x.values, expected.data)


def test_transposed_is_the_transposed_matrix(matrix):
    x = InteractionBatch.from_csr(matrix)
    by_item = x.transposed()
    expected = csr_array(matrix.T)
    expected.sort_indices()
    assert_same_rows(by_item, expected)
    assert_same_rows(by_item.transposed(), matrix)
    assert_array_equal(to_csr(by_item).toarray(), matrix.toarray().T)


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 5)])
def test_transposed_without_entries(shape):
    x = InteractionBatch.from_csr(csr_array(shape, dtype=np.float32)).transposed()
    assert (x.n_users, x.n_items) == shape[::-1]
    assert x.offsets.tolist() == [0] * (shape[1] + 1)
    assert len(x.items) == len(x.values) == 0


def test_entries_are_rows_of_one_item_each(matrix):
    x = InteractionBatch.from_csr(matrix)
    entries = x.entries()
    coo = matrix.tocoo()
    expected = csr_array(
        (coo.data, coo.coords[1], np.arange(matrix.nnz + 1)), shape=(matrix.nnz, matrix.shape[1])
    )
    assert_same_rows(entries, expected)
    # Entry e stands in the row x.users[e].
    assert_array_equal(x.users, coo.coords[0])
    picked = entries.rows(torch.tensor([4, 0]))
    assert_array_equal(picked.items, coo.coords[1][[4, 0]])


def test_items_and_columns_of_some_rows(matrix):
    x = InteractionBatch.from_csr(matrix)
    users = torch.tensor([4, 0, 3, 4])
    dense = matrix.toarray()
    items = x.items_of(users)
    assert_array_equal(items, np.flatnonzero(dense[[0, 4]].any(axis=0)))
    assert 0 < len(items) < 8
    for chosen in (items, np.union1d(items, [0, 7]), np.arange(8)):
        columns = x.rows(users).columns(torch.from_numpy(chosen.astype(np.int64)))
        assert_array_equal(to_csr(columns).toarray(), dense[users.numpy()][:, chosen])
    assert x.items_of(torch.tensor([3])).tolist() == []


def test_entries_of_no_interactions():
    entries = InteractionBatch.from_csr(csr_array((3, 4), dtype=np.float32)).entries()
    assert (entries.n_users, entries.n_items) == (0, 4)


def test_both_run_on_the_meta_device(matrix):
    # Tensors without storage: nothing may be read back to the host.
    x = InteractionBatch.from_csr(matrix, "meta")
    for rows, n_users, n_items in [(x.transposed(), 8, 6), (x.entries(), matrix.nnz, 8)]:
        assert (rows.n_users, rows.n_items) == (n_users, n_items)
        assert {part.device.type for part in (rows.items, rows.values, rows.offsets)} == {"meta"}


def test_products_are_those_of_the_stored_entries():
    X = csr_array(np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=np.float32))
    P, Q = torch.arange(6.0).reshape(3, 2), torch.arange(6.0).reshape(3, 2) - 1
    products = InteractionBatch.from_csr(X).products(P, Q)
    assert products.tolist() == [2.0, 4.0, -5.0 + 1.0]
    assert products.dtype == torch.float32
    nothing = InteractionBatch.from_csr(csr_array((3, 3), dtype=np.float32))
    assert nothing.products(P, Q).tolist() == []
