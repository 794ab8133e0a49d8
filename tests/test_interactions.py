"""Validation of interactions, and sparse rows compared with dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import (
    coo_array,
    coo_matrix,
    csc_array,
    csr_array,
    csr_matrix,
    lil_array,
    random_array,
)

from skvaecf import WMF, Popularity, recall_at_k, split_interactions
from skvaecf._batch import InteractionBatch
from skvaecf.interactions import binary_csr, check_structure, seen_items, take_rows
from skvaecf.metrics import ndcg


def dense(x):
    out = torch.zeros(x.n_users, x.n_items)
    return out.index_put((x.users, x.items.long()), x.values, accumulate=True).numpy()


@pytest.fixture
def matrix():
    """Return rows of weights, of which rows 2 and 5 are empty."""
    rng = np.random.default_rng(0)
    A = random_array((6, 9), density=0.5, random_state=rng, dtype=np.float32).toarray()
    A[[2, 5]] = 0
    return A


@pytest.fixture
def x(matrix):
    return InteractionBatch.from_csr(csr_array(matrix))


def test_from_csr_copies(matrix):
    X = csr_array(matrix)
    x = InteractionBatch.from_csr(X)
    assert (x.items.dtype, x.values.dtype) == (torch.int32, torch.float32)
    assert x.offsets.dtype == torch.int64
    assert (x.n_users, x.n_items) == (6, 9)
    assert_array_equal(dense(x), matrix)
    x.values.zero_(), x.items.zero_(), x.offsets.zero_()
    assert_array_equal(X.toarray(), matrix)


def test_counts_and_users(x, matrix):
    assert x.counts.tolist() == (matrix > 0).sum(axis=1).tolist()
    assert x.users.tolist() == np.nonzero(matrix)[0].tolist()


@pytest.mark.parametrize("users", [[0, 1, 2, 3, 4, 5], [4, 0, 4, 4], [2], [5, 2, 2], [3, 2, 0], []])
def test_rows_with_repeats_and_empty_rows(x, matrix, users):
    part = x.rows(torch.tensor(users, dtype=torch.int64))
    assert part.n_users == len(users)
    assert_array_equal(dense(part), matrix[users])
    assert_array_equal(dense(x), matrix)


def test_sum_over_rows(x, matrix):
    assert_allclose(x.sum(x.values), matrix.sum(axis=1), rtol=1e-6)
    assert_allclose(x.sum(x.values.double() ** 3), (matrix**3).sum(axis=1), rtol=1e-6)


class OnGPU(torch.Tensor):
    """A tensor whose ``is_cuda`` is true."""

    is_cuda = True

    def index_add_(self, *_):
        raise AssertionError("the order of the sum is not defined")


def test_the_order_of_a_sum_is_defined_on_a_gpu(x):
    entries = torch.linspace(0, 1, len(x.values))
    zeros = torch.zeros
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", lambda *a, **k: zeros(*a, **k).as_subclass(OnGPU))
        on_gpu = x.sum(entries.as_subclass(OnGPU))
    assert_array_equal(on_gpu, x.sum(entries))


def test_gather_picks_the_stored_entries(x, matrix):
    scores = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    assert_array_equal(x.gather(scores), scores.numpy()[np.nonzero(matrix)])


def test_normalized_rows_have_unit_length(x, matrix):
    lengths = np.sqrt((matrix**2).sum(axis=1, keepdims=True))
    expected = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    assert_allclose(dense(x.normalized()), expected, rtol=1e-6)


def test_dropout_drops_whole_entries_and_scales_the_rest():
    ones = InteractionBatch.from_csr(csr_array(np.ones((200, 100), dtype=np.float32)))
    p = 0.3
    dropped = ones.dropout(p, torch.Generator().manual_seed(0)).values
    kept = dropped > 0
    assert_allclose(dropped[kept], 1 / (1 - p), rtol=1e-6)
    # Four standard errors of 20,000 draws.
    tolerance = 4 * np.sqrt(p * (1 - p) / 20_000)
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=tolerance)
    assert dropped.mean().item() == pytest.approx(1.0, abs=tolerance / (1 - p))
    assert ones.values.tolist() == [1.0] * 20_000


def test_dropout_draws_from_the_generator():
    ones = InteractionBatch.from_csr(csr_array(np.ones((5, 50), dtype=np.float32)))
    draws = [
        ones.dropout(0.5, torch.Generator().manual_seed(seed)).values.tolist() for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_no_dropout_draws_nothing(x):
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert_array_equal(x.dropout(0.0, generator).values, x.values)
    assert torch.equal(generator.get_state(), before)


def test_product_is_the_dense_product(x, matrix):
    weight = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert_allclose(x @ weight, matrix @ weight.numpy(), rtol=1e-5, atol=1e-6)


def test_gradient_of_the_product_is_the_dense_gradient(x, matrix):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(9, 4, generator=generator, requires_grad=True)
    upstream = torch.randn(6, 4, generator=generator)
    (grad,) = torch.autograd.grad(x @ weight, weight, upstream)
    assert_allclose(grad, matrix.T @ upstream.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("users", [[0, 1, 2, 3, 4, 5], [1, 1, 2]])
def test_gradient_of_the_product_by_finite_differences(x, users):
    part = x.rows(torch.tensor(users))
    part = InteractionBatch(part.items, part.values.double(), part.offsets, part.n_items)
    weight = torch.randn(
        9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    values = part.values.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w, v: part.with_values(v) @ w, (weight, values))


def test_product_of_rows_that_are_all_empty():
    x = InteractionBatch.from_csr(csr_array((3, 5), dtype=np.float32))
    weight = torch.ones(5, 2, requires_grad=True)
    product = x @ weight
    assert product.tolist() == [[0.0, 0.0]] * 3
    (grad,) = torch.autograd.grad(product.sum(), weight)
    assert grad.tolist() == [[0.0, 0.0]] * 5


def messy_csr():
    """Return an unsorted matrix with a duplicate, explicit zeros and an empty row."""
    indptr = np.array([0, 4, 4, 6], dtype=np.int64)
    indices = np.array([2, 0, 2, 1, 3, 0], dtype=np.int64)
    data = np.array([1.0, 7.0, 2.0, 0.0, 0.0, 0.5])
    return csr_array((data, indices, indptr), shape=(3, 4))


def test_binary_csr_is_canonical():
    X = messy_csr()
    before = [a.copy() for a in (X.data, X.indices, X.indptr)]
    B = binary_csr(X)
    assert isinstance(B, csr_array)
    assert B.dtype == np.float32
    assert B.indices.tolist() == [0, 2, 0]
    assert B.indptr.tolist() == [0, 2, 2, 3]
    assert B.data.tolist() == [1.0, 1.0, 1.0]
    assert B.has_canonical_format
    for now, then in zip((X.data, X.indices, X.indptr), before, strict=True):
        assert_array_equal(now, then)
    assert not any(
        np.shares_memory(a, b)
        for a, b in zip((X.data, X.indices, X.indptr), (B.data, B.indices, B.indptr), strict=True)
    )


@pytest.mark.parametrize(
    "container", [csr_matrix, csc_array, coo_array, np.asarray, lambda A: A.astype(bool)]
)
def test_binary_csr_of_other_containers(container):
    A = np.array([[0, 3, 0], [1, 0, 250]])
    assert_array_equal(binary_csr(container(A)).toarray(), [[0, 1, 0], [1, 0, 1]])


def corrupt(kind, container):
    X = container(np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0], [5.0, 0.0, 6.0]]))
    if kind == "index out of range":
        X.indices[1] = 99
    elif kind == "negative index":
        X.indices[1] = -1
    elif kind == "decreasing indptr":
        X.indptr[1] = 5
    return X


@pytest.mark.parametrize("container", [csr_array, csr_matrix, csc_array])
@pytest.mark.parametrize("kind", ["index out of range", "negative index", "decreasing indptr"])
def test_corrupt_indices_are_refused(kind, container):
    with pytest.raises(ValueError, match="corrupt sparse indices"):
        check_structure(corrupt(kind, container))


def test_valid_matrices_are_not_changed():
    for X in (messy_csr(), messy_csr().tocsc(), np.eye(2), [[1, 0]], messy_csr().tocoo()):
        check_structure(X)
    X = messy_csr()
    indices = X.indices
    check_structure(X)
    assert X.indices is indices
    assert indices.tolist() == [2, 0, 2, 1, 3, 0]


# --- found by tests/test_hostile_input.py


@pytest.mark.parametrize("part", ["row", "col"])
@pytest.mark.parametrize("container", [coo_array, coo_matrix])
def test_corrupt_coordinates_do_not_reach_compiled_code(part, container):
    X = container(np.eye(3))
    getattr(X, part)[1] = 2**30
    with pytest.raises(ValueError, match="X has corrupt sparse indices"):
        Popularity().fit(X)


def test_uneven_lists_are_refused():
    X = lil_array(np.eye(3))
    X.data[0] = [1.0, 1.0]
    with pytest.raises(ValueError, match="X has corrupt sparse indices: rows and data"):
        Popularity().fit(X)


# The difference of a pointer and the lowest number of int32 exceeds int32.
@pytest.mark.parametrize("last", [0, -1, -(2**31)])
def test_pointers_that_decrease_are_refused(last):
    X = csr_array(np.eye(3))
    X.indptr[3] = last
    with pytest.raises(ValueError, match="X has corrupt sparse indices: indptr must not"):
        Popularity().fit(X)


@pytest.mark.parametrize(
    "half", [np.uint8(128), np.int8(64), np.int64(2**62), np.uint64(2**63)], ids=repr
)
@pytest.mark.parametrize("container", [coo_array, coo_matrix])
def test_sums_of_duplicates_may_exceed_the_type(container, half):
    X = container((np.array([half, half]), ([0, 0], [1, 1])), shape=(1, 3))
    model = Popularity().fit(X)
    assert model.predict(X).tolist() == [[0, 1, 0]]
    assert 1 not in model.recommend(X)[0]
    assert model.recommend(np.zeros((1, 3)), 2, candidates=X).tolist() == [[1, -1]]
    assert recall_at_k(model, np.zeros((1, 3)), X) == 1
    assert ndcg([[1]], X).tolist() == [1]
    whole, _ = split_interactions(X)
    assert whole.toarray().tolist() == [[0, 2 * float(half), 0]]


def test_counts_above_2_to_the_24_are_refused():
    X = np.array([[2.0**24, 0, 1], [1, 3, 0]])
    model = WMF(2, use_values=True, random_state=0).fit(X)
    assert np.isfinite(model.predict(X)).all()
    with pytest.raises(ValueError, match=r"X holds the value 1e\+300; with use_values=True"):
        model.predict(np.where(X == 3, 1e300, X))


def test_no_interactions_at_all():
    for model in (WMF(2, random_state=0), WMF(2, solver="cholesky", random_state=0)):
        assert_array_equal(model.fit(np.zeros((3, 4))).predict(np.ones((2, 4))), np.zeros((2, 4)))


def test_one_interaction_in_many_rows():
    # Its Gram matrices hold denormal numbers, for which LAPACK returns NaN.
    X = np.zeros((8, 8))
    X[0, 3] = 1
    for seed in range(10):
        model = WMF(6, l2=0.02, random_state=seed).fit(X)
        assert np.isfinite(model.item_factors_).all()
        assert model.recommend(np.zeros((1, 8)), 1).shape == (1, 1)
        assert model.predict(X)[0].argmax() == 3


def test_a_mask_of_candidates_may_be_lists():
    model = Popularity().fit(np.eye(3))
    assert model.recommend(np.zeros((1, 3)), 2, candidates=[[0, 0, 1]]).tolist() == [[2, -1]]


def test_entries_below_zero_are_no_interactions():
    # Matrices of users have none, but a custom held-out matrix may.
    binary = binary_csr(csr_array([[-1.0, 2.0, 0.0], [0.0, -3.0, 0.5]]))
    assert binary.toarray().tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
@pytest.mark.parametrize("kind", [csr_array, csr_matrix, np.asarray])
def test_seen_items_are_the_positive_entries(kind, dtype):
    X = kind(np.array([[0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, 0]], dtype=dtype))
    rows, items = seen_items(X)
    assert [rows.tolist(), items.tolist()] == [[0, 0, 2], [1, 3, 0]]
    rows, items = seen_items(take_rows(X, slice(1, 3)))
    assert [rows.tolist(), items.tolist()] == [[1], [0]]
    assert take_rows(X, slice(0, 3)) is X


def test_a_stored_zero_is_not_a_seen_item():
    X = csr_array(([0.0, 1.0, 1.0], [2, 1, 1], [0, 1, 3]), shape=(2, 3))  # and a duplicate
    rows, items = seen_items(X)
    assert {*zip(rows.tolist(), items.tolist(), strict=True)} == {(1, 1)}
