"""The best k of every row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skvaecf import EASE, recommend
from skvaecf.ranking import BLOCK_ROWS, largest_positive, rank, row_blocks, top_k


def brute_force_top_k(scores, k):
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


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


@pytest.mark.parametrize("n_columns", [3000, 3001, 3007])
def test_top_k_of_wide_rows(n_columns):
    scores = np.random.RandomState(0).standard_normal((40, n_columns)).astype(np.float32)
    scores[:, ::7] = -np.inf
    for k in (1, 2, 10, 23, 186, 500):  # one, two and three levels of groups
        assert_array_equal(top_k(torch.from_numpy(scores), k)[0], brute_force_top_k(scores, k))


def test_best_of_cheap_scores_are_ranked_by_exact_ones():
    exact = torch.from_numpy(np.random.RandomState(0).randint(0, 40, (30, 500)) / 4.0).float()
    noise = np.random.RandomState(1).uniform(-0.1, 0.1, (30, 500)).astype(np.float32)
    X = csr_array(np.random.RandomState(2).rand(30, 500) < 0.1)

    def score_rows(block):
        cheap = exact[block] + torch.from_numpy(noise[block])
        return cheap, exact[block], torch.eye(500)

    for options in ({}, {"exclude_seen": False}, {"candidates": [3, 4, 400]}):
        expected = rank(lambda block: exact[block].clone(), X, 10, **options)
        assert_array_equal(rank(score_rows, X, 10, **options), expected)


def test_ties_of_exact_scores_go_to_the_lower_number_beyond_those_looked_at():
    exact = torch.zeros(3, 500)
    exact[1, 400:] = 1
    exact[2, :4] = torch.arange(4)
    cheap = exact + torch.linspace(0, 0.1, 500)  # prefers high numbers
    X = csr_array(([1.0], ([1], [401])), shape=(3, 500))
    items, _ = rank(lambda block: (cheap[block], exact[block], torch.eye(500)), X, 5)
    assert_array_equal(items, [[0, 1, 2, 3, 4], [400, 402, 403, 404, 405], [3, 2, 1, 0, 4]])


def test_top_k_of_wide_rows_with_many_ties():
    scores = np.random.RandomState(0).randint(0, 7, (50, 3000)).astype(np.float32)
    for k in (1, 10, 500, 3000):
        assert_array_equal(top_k(torch.from_numpy(scores), k)[0], brute_force_top_k(scores, k))


@pytest.mark.parametrize("value", [0.0, -np.inf, np.inf])
def test_top_k_of_equal_scores_takes_the_lowest_columns(value):
    assert_array_equal(top_k(torch.full((2, 9), value), 4)[0], [[0, 1, 2, 3]] * 2)


def test_top_k_does_not_change_the_scores():
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    top_k(scores, 2)
    assert scores.tolist() == [[1.0, 3.0, 2.0]]


@given(st.integers(0, 4 * BLOCK_ROWS), st.integers(1, 200_000))
def test_row_blocks_cover_all_rows_once(n_rows, n_items):
    blocks = list(row_blocks(n_rows, n_items))
    rows = np.concatenate([np.arange(n_rows)[b] for b in blocks] or [[]])
    assert_array_equal(rows, np.arange(n_rows))
    assert all(0 < b.stop - b.start <= BLOCK_ROWS for b in blocks)
    assert all((b.stop - b.start) * n_items <= max(2**23, 16 * n_items) for b in blocks)


def rank_dense(scores, X, k, **options):
    def score_rows(block):
        return torch.tensor(scores[block], dtype=torch.float32)

    return rank(score_rows, X, k, **options)


@given(
    st.integers(0, 10**6),
    st.integers(1, 15),
    st.booleans(),
    st.sampled_from(["none", "list", "mask"]),
)
def test_rank_is_brute_force_over_the_eligible_items(seed, k, exclude_seen, kind):
    rng = np.random.RandomState(seed)
    scores = rng.randint(0, 4, (6, 10)).astype(np.float32)
    seen = rng.rand(6, 10) < 0.4
    allowed = np.ones((6, 10), dtype=bool)
    candidates = None
    if kind == "list":
        candidates = rng.choice(10, rng.randint(1, 10), replace=False)
        allowed = np.isin(np.arange(10), candidates)[None].repeat(6, axis=0)
    elif kind == "mask":
        candidates = allowed = rng.rand(6, 10) < 0.5
    items, values = rank_dense(
        scores, csr_array(seen * 2.0), k, exclude_seen=exclude_seen, candidates=candidates
    )
    assert items.dtype == np.int64
    assert values.dtype == np.float32
    for u in range(6):
        eligible = np.flatnonzero(allowed[u] & ~(seen[u] & exclude_seen))
        best = sorted(eligible, key=lambda i: (-scores[u, i], i))[:k]
        assert items[u].tolist() == best + [-1] * (k - len(best))
        assert values[u].tolist() == [*scores[u, best]] + [-np.inf] * (k - len(best))


class Constant:
    """Predicts the same scores for everybody."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, X):
        return np.repeat(np.array([self.scores]), X.shape[0], axis=0)


def test_recommend_with_anything_that_predicts():
    X = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 1]])
    items, scores = recommend(Constant([3.0, 2.0, 1.0]), X, 2, return_scores=True)
    assert items.tolist() == [[1, 2], [0, 1], [-1, -1]]
    assert scores.tolist() == [[2.0, 1.0], [3.0, 2.0], [-np.inf, -np.inf]]


def test_recommenders_are_asked_once_for_what_comes_before_the_blocks(monkeypatch):
    X = np.eye(BLOCK_ROWS + 3, 5)
    model = EASE().fit(X)
    expected = recommend(Constant(model.predict(X)[0]), X[:1], 3)
    asked = []
    scorer = EASE._scorer
    monkeypatch.setattr(EASE, "_scorer", lambda self: asked.append(self) or scorer(self))
    items = recommend(model, X, 3)
    assert asked == [model]
    assert_array_equal(items, model.recommend(X, 3))
    assert_array_equal(items[:1], expected)


def test_a_predict_of_ones_own_is_what_recommend_asks():
    class Upside(EASE):
        def predict(self, X):
            return -super().predict(X)

    X = np.triu(np.ones((6, 6)))
    model = Upside().fit(X)
    expected = recommend(Constant(model.predict(X[:1])[0]), X[:1], 3, exclude_seen=False)
    assert_array_equal(recommend(model, X[:1], 3, exclude_seen=False), expected)
    assert expected.tolist() != model.recommend(X[:1], 3, exclude_seen=False).tolist()


def test_recommend_does_not_overwrite_what_predict_returned():
    kept = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)

    class Kept:
        def predict(self, X):
            return kept

    recommend(Kept(), np.array([[1, 0, 0]]), 1)
    assert kept.tolist() == [[3.0, 2.0, 1.0]]


def test_recommend_refuses_scores_of_another_shape():
    with pytest.raises(ValueError, match=r"predict returned scores of shape \(2, 3\).*\(2, 4\)"):
        recommend(Constant([3.0, 2.0, 1.0]), np.ones((2, 4)), 1)


def test_recommend_refuses_what_has_no_predict():
    with pytest.raises(TypeError, match="estimator must have a predict method, got str"):
        recommend("EASE", np.ones((2, 4)), 1)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3", None])
def test_recommend_refuses_k(k):
    with pytest.raises(ValueError, match="k must be an integer of at least 1"):
        recommend(Constant([1.0, 2.0]), np.ones((1, 2)), k)


@pytest.mark.parametrize(
    "candidates",
    [
        [-1],
        [0, 3],
        [0.5],
        ["a"],
        np.ones((2, 2), dtype=bool),
        csr_array(np.ones((1, 3))),
        [True, False, True],
    ],
)
def test_recommend_refuses_candidates(candidates):
    with pytest.raises(ValueError, match="candidates"):
        recommend(Constant([1.0, 2.0, 3.0]), np.ones((2, 3)), 1, candidates=candidates)


def test_no_candidates_give_no_recommendations():
    items, scores = recommend(
        Constant([1.0, 2.0]), np.zeros((2, 2)), 2, candidates=[], return_scores=True
    )
    assert items.tolist() == [[-1, -1]] * 2
    assert np.isneginf(scores).all()


def test_repeated_candidates_are_recommended_once():
    items = recommend(Constant([1.0, 2.0, 3.0]), np.zeros((1, 3)), 3, candidates=[1, 2, 1])
    assert items.tolist() == [[2, 1, -1]]
