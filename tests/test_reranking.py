"""Limits per group and diversity in ranked lists."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import naming
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import coo_matrix, csr_array

import skvaecf.reranking
from skvaecf import EASE, limit_groups, maximal_marginal_relevance


@st.composite
def lists(draw, n_items=12):
    """Draw lists of different items and falling scores; -1 and -inf are padding."""
    seed, n_users, m = draw(st.integers(0, 10**6)), draw(st.integers(0, 4)), draw(st.integers(1, 9))
    rng = np.random.RandomState(seed)
    items = rng.rand(n_users, n_items).argsort(axis=1)[:, :m]
    scores = -np.sort(-rng.randint(-5, 6, (n_users, m)) / 2.0, axis=1)
    none = np.arange(m) >= rng.randint(0, m + 1, (n_users, 1))
    return np.where(none, -1, items), np.where(none, -np.inf, scores), rng


# --- groups


def limited(items, groups, n):
    found = []
    for item in items:
        if item >= 0 and [groups[other] for other in found].count(groups[item]) < n:
            found.append(item)
    return found + [-1] * (len(items) - len(found))


@given(lists(), st.integers(1, 4), st.integers(1, 5))
def test_limit_groups_is_brute_force(drawn, n, n_groups):
    items, scores, rng = drawn
    groups = rng.randint(0, n_groups, 12)
    expected = np.array([limited(own, groups, n) for own in items]).reshape(items.shape)
    assert_array_equal(limit_groups(items, groups, n), expected)
    found, values = limit_groups(items, groups, n, scores=scores)
    assert_array_equal(found, expected)
    for own, of_own, given_items, given_scores in zip(found, values, items, scores, strict=True):
        score = dict(zip(given_items, given_scores, strict=True)) | {-1: -np.inf}
        assert of_own.tolist() == [score[item] for item in own]


def test_limit_groups_by_hand():
    items = [[5, 3, 1, 0, 2, 4], [0, 1, -1, -1, -1, -1]]
    groups = np.array(["a", "b", "a", "a", "b", "a"])  # of list 1: a a b a a b
    assert limit_groups(items, groups, 1).tolist() == [[5, 1] + [-1] * 4, [0, 1] + [-1] * 4]
    assert limit_groups(items, groups, 2)[0].tolist() == [5, 3, 1, 4, -1, -1]
    assert limit_groups(items, groups, 9).tolist() == items


def test_groups_of_any_kind():
    pd = pytest.importorskip("pandas")
    items = [[2, 1, 0]]
    for groups in (["x", "y", "x"], pd.Series(["x", "y", "x"]), [7, 8, 7], [0.5, 1.5, 0.5]):
        with naming(groups):
            assert limit_groups(items, groups, 1).tolist() == [[2, 1, -1]]


# --- diversity


def chosen_by_definition(items, scores, vectors, k, trade_off):
    left = {item: score for item, score in zip(items, scores, strict=True) if item >= 0}
    low, high = min(left.values(), default=0), max(left.values(), default=0)
    relevance = {i: (s - low) / (high - low) if high > low else 0.0 for i, s in left.items()}
    found = []
    while left and len(found) < k:

        def worth(item):
            similar = [float(vectors[item] @ vectors[other]) for other in found]
            return trade_off * relevance[item] - (1 - trade_off) * max(similar, default=0.0)

        best = max(left, key=lambda item: round(worth(item), 9))  # the first of equal ones
        found.append(best)
        del left[best]
    return found + [-1] * (k - len(found))


# Vectors of length 1 whose products are exact in floating point, some of them negative.
UNIT = np.array([v for v in itertools.product([-1.0, 0.0, 1.0], repeat=2) if np.abs(v).sum() == 1])


@given(lists(), st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans())
def test_mmr_is_its_definition(drawn, k, trade_off, sparse):
    items, scores, rng = drawn
    vectors = UNIT[rng.randint(0, 4, 12)]
    given_vectors = csr_array(3 * vectors) if sparse else 3 * vectors  # only directions matter
    found, values = maximal_marginal_relevance(items, scores, given_vectors, k, trade_off=trade_off)
    assert found.shape == values.shape == (len(items), k)
    for user, own in enumerate(items):
        expected = chosen_by_definition(own, scores[user], vectors, k, trade_off)
        assert found[user].tolist() == expected
        score = dict(zip(own, scores[user], strict=True)) | {-1: -np.inf}
        assert values[user].tolist() == [score[item] for item in expected]


def test_mmr_by_hand():
    # Relevance 1, 0.9, 0.5, 0. Items 0 and 1 point the same way, 2 is orthogonal to them, and
    # cos(v_3, v_0) = 0.6, cos(v_3, v_2) = 0.8.
    vectors = np.array([[2, 0], [5, 0], [0, 1], [3, 4]])
    items, scores = [[0, 1, 2, 3]], [[11.0, 10.0, 6.0, 1.0]]

    def chosen(trade_off, k=4):
        found, values = maximal_marginal_relevance(items, scores, vectors, k, trade_off=trade_off)
        assert values.tolist() == [[scores[0][item] for item in found[0]]]
        return found[0].tolist()

    assert chosen(1.0) == [0, 1, 2, 3]
    # After 0: item 1 has 0.45 - 0.5, item 2 has 0.25 - 0, item 3 has 0 - 0.3.
    # After 2: item 1 has 0.45 - 0.5, item 3 has 0 - 0.4.
    assert chosen(0.5) == [0, 2, 1, 3]
    # After 0: 0.81 - 0.1, 0.45, -0.06. After 1: 0.45, -0.06.
    assert chosen(0.9) == [0, 1, 2, 3]
    # After 0: -1, 0, -0.6. After 2: item 1 has -1, item 3 has -0.8.
    assert chosen(0.0) == [0, 2, 3, 1]
    assert chosen(0.0, k=2) == [0, 2]


def test_equal_scores_and_vectors_of_zeros_keep_the_order():
    items, scores = [[3, 0, 2, -1]], np.array([[1, 1, 1, -np.inf]], dtype=np.float32)
    found, values = maximal_marginal_relevance(items, scores, np.zeros((4, 2)), 5)
    assert found.tolist() == [[3, 0, 2, -1, -1]]
    assert values.dtype == np.float32
    assert values.tolist() == [[1, 1, 1, -np.inf, -np.inf]]


def test_results_do_not_depend_on_the_blocks(monkeypatch):
    rng = np.random.RandomState(0)
    items, scores = rng.rand(9, 20).argsort(axis=1), -np.sort(rng.rand(9, 20), axis=1)
    for vectors in (rng.randn(20, 5), csr_array(rng.randn(20, 5))):
        expected = maximal_marginal_relevance(items, scores, vectors, 6)
        monkeypatch.setattr(skvaecf.reranking, "BLOCK_ENTRIES", 20 * 25 * 2)
        found = maximal_marginal_relevance(items, scores, vectors, 6)
        monkeypatch.undo()
        assert_array_equal(found[0], expected[0])
        assert_array_equal(found[1], expected[1])


def test_lists_of_a_model_become_more_diverse(X):
    model = EASE(l2=5.0).fit(X)
    items, scores = model.recommend(X, 10, return_scores=True)
    unit = X.toarray().T / np.linalg.norm(X.toarray(), axis=0)[:, None]

    def similarity(lists):
        cosines = np.stack([unit[own] @ unit[own].T for own in lists])
        return cosines.sum(axis=(1, 2)).mean()

    of_lists = []
    for trade_off in (1.0, 0.5, 0.0):
        found, values = maximal_marginal_relevance(items, scores, X.T, 5, trade_off=trade_off)
        assert_allclose(values, np.take_along_axis(model.predict(X), found, axis=1))
        of_lists.append(similarity(found))
    assert_array_equal(
        maximal_marginal_relevance(items, scores, X.T, 5, trade_off=1)[0], items[:, :5]
    )
    assert of_lists[0] > of_lists[1] > of_lists[2]


# --- invalid input

GROUPED = {"items": [[0, 2, -1]], "groups": ["a", "b", "a"], "n": 1}
DIVERSE = {"items": [[0, 2, -1]], "scores": [[2.0, 1.0, -np.inf]], "item_vectors": np.eye(3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"items": [0, 1]},
            r"items must be item numbers of shape \(n_users, m\), got shape \(2,\)",
        ),
        ({"items": [[]]}, r"got shape \(1, 0\)"),
        ({"items": [[0.0, 1.0]]}, "type float64"),
        ({"items": [[0, 3, 1]]}, "items must lie in .0, 3.*from 0 to 3"),
        ({"items": [[0, -2, 1]]}, "from -2 to 1"),
        ({"scores": [[1.0]]}, r"scores must have the shape \(1, 3\).*got shape \(1, 1\)"),
        ({"scores": [["a", "b", "c"]]}, "scores must have the shape"),
        ({"scores": [[np.nan, 1.0, 0.0]]}, "scores must .*finite"),
        ({"scores": [[-np.inf, 1.0, 0.0]]}, "scores must .*finite"),
    ],
)
def test_invalid_lists(changes, message):
    with pytest.raises(ValueError, match=message):
        limit_groups(**GROUPED | changes)
    with pytest.raises(ValueError, match=message):
        maximal_marginal_relevance(**DIVERSE | changes)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None])
def test_invalid_numbers(n):
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        limit_groups(**GROUPED | {"n": n})
    with pytest.raises(ValueError, match="k must be an integer of at least 1"):
        maximal_marginal_relevance(**DIVERSE, k=n)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", None, "b"], "groups.* has 1 missing values"),
        ([["a"], ["b"]], "groups.* has shape"),
        (["a", "b"], "items must lie in"),
        (["a", 1, "b"], "groups.* must hold ids of one type"),
    ],
)
def test_invalid_groups(groups, message):
    with pytest.raises(ValueError, match=message):
        limit_groups(**GROUPED | {"groups": groups})


@pytest.mark.parametrize("trade_off", [-0.1, 1.1, np.nan, "0.5", None])
def test_invalid_trade_off(trade_off):
    with pytest.raises(ValueError, match="trade_off must be a number in"):
        maximal_marginal_relevance(**DIVERSE, trade_off=trade_off)


def test_invalid_vectors():
    bad = np.eye(3)
    bad[0, 0] = np.nan
    corrupt = coo_matrix(np.eye(3)).tocsr()
    corrupt.indices[0] = 10**6
    for vectors, message in (
        (bad, "item_vectors contains NaN"),
        (csr_array(bad), "item_vectors contains NaN"),
        (np.ones(3), "Expected 2D array"),
        (np.eye(2), "items must lie in"),
        (corrupt, "item_vectors has corrupt sparse indices"),
    ):
        with naming(message), pytest.raises(ValueError, match=message):
            maximal_marginal_relevance(**DIVERSE | {"item_vectors": vectors})
