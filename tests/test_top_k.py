"""The k largest entries of each row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skvaecf._top_k import as_index, largest_positive, top_k, top_k_rescored


def brute_force_top_k(scores, k):
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def brute_force_with_counts(scores, k, counts):
    columns = range(scores.shape[1])
    return [sorted(columns, key=lambda c: (-row[c], -counts[c], c))[:k] for row in scores]


@st.composite
def scores_and_k(draw):
    values = st.sampled_from([-np.inf, -2.0, -0.0, 0.0, 1.0, 1.5, 3.0])
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 12)))
    return draw(arrays(np.float32, shape, elements=values)), draw(st.integers(1, shape[1]))


@given(scores_and_k())
def test_top_k_is_a_stable_sort(drawn):
    scores, k = drawn
    columns, values = top_k(torch.from_numpy(scores), k)
    assert columns.dtype == np.int64
    assert values.dtype == np.float32
    assert_array_equal(columns, brute_force_top_k(scores, k))
    assert_array_equal(values, np.take_along_axis(scores, columns, axis=1))


@given(scores_and_k(), st.integers(0, 9))
def test_the_largest_count_comes_first_among_equal_scores(drawn, seed):
    scores, k = drawn
    counts = np.random.RandomState(seed).choice([0, 1, 2, 2**31 - 1], scores.shape[1])
    columns, values = top_k(torch.from_numpy(scores), k, counts)
    assert columns.tolist() == brute_force_with_counts(scores, k, counts)
    assert_array_equal(values, np.take_along_axis(scores, columns, axis=1))


def test_counts_by_hand():
    scores = torch.tensor([[0.0, 2.0, 0.0, 0.0, 2.0, 0.0]])
    counts = np.array([1, 3, 5, 0, 4, 5])
    assert top_k(scores, 6, counts)[0].tolist() == [[4, 1, 2, 5, 0, 3]]
    assert top_k(scores, 4, counts)[0].tolist() == [[4, 1, 2, 5]]
    assert top_k(scores, 3, counts)[0].tolist() == [[4, 1, 2]]
    assert top_k(scores, 1, counts)[0].tolist() == [[4]]


@pytest.mark.parametrize("few_scores", [0, 2**16])
@pytest.mark.parametrize("n_columns", [3000, 3001, 3007])
def test_top_k_of_wide_rows(n_columns, few_scores, monkeypatch):
    monkeypatch.setattr("skvaecf._top_k.FEW_SCORES", few_scores)
    scores = np.random.RandomState(0).standard_normal((40, n_columns)).astype(np.float32)
    scores[:, ::7] = -np.inf
    for k in (1, 2, 10, 23, 186, 500):  # one, two and three levels of groups
        assert_array_equal(top_k(torch.from_numpy(scores), k)[0], brute_force_top_k(scores, k))


@pytest.mark.parametrize("few_scores", [0, 2**16])
def test_top_k_of_wide_rows_with_many_ties(few_scores, monkeypatch):
    monkeypatch.setattr("skvaecf._top_k.FEW_SCORES", few_scores)
    scores = np.random.RandomState(0).randint(0, 7, (50, 3000)).astype(np.float32)
    counts = np.random.RandomState(1).randint(0, 90, 3000)
    for k in (1, 10, 500, 3000):
        assert_array_equal(top_k(torch.from_numpy(scores), k)[0], brute_force_top_k(scores, k))
        found = top_k(torch.from_numpy(scores[:9]), k, counts)[0]
        assert_array_equal(found, brute_force_with_counts(scores[:9], k, counts))


@pytest.mark.parametrize("value", [0.0, -np.inf, np.inf])
def test_top_k_of_equal_scores_takes_the_lowest_columns(value):
    assert_array_equal(top_k(torch.full((2, 9), value), 4)[0], [[0, 1, 2, 3]] * 2)


def test_top_k_does_not_change_the_scores():
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    top_k(scores, 2)
    assert scores.tolist() == [[1.0, 3.0, 2.0]]


@given(scores_and_k(), st.integers(0, 9))
def test_largest_positive_is_a_stable_sort_of_entries_in_any_order(drawn, seed):
    scores, k = drawn
    scores = np.maximum(scores, 0)
    columns = np.random.RandomState(seed).rand(*scores.shape).argsort(axis=1)
    data = np.take_along_axis(scores, columns, axis=1)
    indptr = np.arange(len(scores) + 1) * scores.shape[1]
    unordered = csr_array((data.ravel(), columns.ravel(), indptr), shape=scores.shape)
    expected = np.zeros_like(scores)
    best = brute_force_top_k(scores, k)
    np.put_along_axis(expected, best, np.take_along_axis(scores, best, axis=1), axis=1)
    kept = largest_positive(unordered, k)
    assert kept.dtype == np.float32
    assert kept.nnz == (expected > 0).sum()
    assert_array_equal(kept.toarray(), expected)


# --- approximate scores and factors of the exact scores


def test_approximate_scores_are_replaced_by_exact_ones():
    # P Q^T is [[1, 2, 3, 4]]; the approximate scores prefer the second column.
    P, Q = torch.tensor([[1.0]]), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    columns, values = top_k_rescored(torch.tensor([[1.0, 9.0, 3.0, 4.0]]), P, Q, 2)
    assert columns.tolist() == [[3, 2]]
    assert values.tolist() == [[4.0, 3.0]]
    # Excluded columns stay excluded.
    columns, values = top_k_rescored(torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]]), P, Q, 3)
    assert columns[:, :2].tolist() == [[1, 0]]
    assert values.tolist() == [[2.0, 1.0, -np.inf]]


def test_equal_exact_scores_beyond_the_rescored_columns():
    # Of 500 columns with k=5, 37 are rescored: those with the highest numbers.
    exact = torch.zeros(3, 500)
    exact[1, 400:] = 1
    exact[2, :4] = torch.arange(4)
    rough = exact + torch.linspace(0, 0.1, 500)
    rough[1, 401] = -torch.inf
    columns, values = top_k_rescored(rough, exact, torch.eye(500), 5)
    assert_array_equal(columns, [[0, 1, 2, 3, 4], [400, 402, 403, 404, 405], [3, 2, 1, 0, 4]])
    assert values.tolist() == [[0.0] * 5, [1.0] * 5, [3.0, 2.0, 1.0, 0.0, 0.0]]
    counts = np.arange(500) % 100
    columns, _ = top_k_rescored(rough, exact, torch.eye(500), 5, counts)
    assert_array_equal(
        columns, [[99, 199, 299, 399, 499], [499, 498, 497, 496, 495], [3, 2, 1, 99, 199]]
    )
    # Equal scores before the last place.
    exact[1, [450, 460]] = 2
    columns, _ = top_k_rescored(exact.clone(), exact, torch.eye(500), 2, counts)
    assert columns[1].tolist() == [460, 450]


def test_as_index():
    index = as_index(np.array([2, 0], dtype=np.int32), torch.ones(3))
    assert index.dtype == torch.int64
    assert torch.tensor([5.0, 6.0, 7.0])[index].tolist() == [7.0, 5.0]
