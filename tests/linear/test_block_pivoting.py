"""Elastic net regressions of items on items, by hand and by their optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grams import KINDS
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from skvaecf.datasets import make_interactions
from skvaecf.linear import BlockPivoting

CPU = torch.device("cpu")
# X'X = [[3, 1, 2], [1, 2, 0], [2, 0, 2]]
BY_HAND = csr_array(np.array([[1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 1, 0]], dtype=np.float32))


@pytest.fixture(params=KINDS)
def gram_of(request):
    return lambda X: request.param(X, CPU)


@pytest.fixture(scope="module")
def X():
    return make_interactions(80, 30, noise=0.3, random_state=0)


def solved(gram, l1, l2, nonnegative=True, tol=1e-5, targets=None):
    """Return the solver when it is done, and the weights as a dense matrix."""
    targets = torch.arange(gram.n_items) if targets is None else torch.tensor(targets)
    regressions = BlockPivoting(gram, targets, l1=l1, l2=l2, nonnegative=nonnegative, tol=tol)
    regressions.solve()
    W = np.zeros((gram.n_items, gram.n_items))
    for items, of_targets, weights in regressions.found:
        assert (W[items, of_targets] == 0).all()  # each weight is found once
        W[items, of_targets] = weights
    return regressions, W


def violations(X, W, l1, l2, nonnegative):
    """Largest violation of the conditions of each item, as a share of its users, in float64."""
    X = X.toarray().astype(np.float64)
    g = X.T @ (X - X @ W)
    at_weights = np.abs(g - l2 * W - l1 * np.sign(W))
    elsewhere = np.maximum((g if nonnegative else np.abs(g)) - l1, 0)
    violation = np.where(W == 0, elsewhere, at_weights)
    np.fill_diagonal(violation, 0)
    return violation.max(axis=0) / np.maximum(X.sum(axis=0), 1)


# --- by hand: the regression of item 2 on the items 0 and 1


def test_a_weight_of_either_sign_by_hand(gram_of):
    # (3 + 1) a + b = 2 - 0.1 and a + (2 + 1) b = 0 + 0.1, as b is negative.
    _, W = solved(gram_of(BY_HAND), 0.1, 1.0, nonnegative=False, targets=[2])
    assert_allclose(W[:, 2], [5.6 / 11, -1.5 / 11, 0], rtol=1e-6)


def test_a_negative_weight_is_0_where_it_is_not_allowed(gram_of):
    _, W = solved(gram_of(BY_HAND), 0.1, 1.0, nonnegative=True, targets=[2])
    assert_allclose(W[:, 2], [1.9 / 4, 0, 0], rtol=1e-6)


def test_a_weight_of_the_wrong_sign_leaves_the_guess(gram_of):
    # With both items b would be (4 * 0.5 - 1.5) / 11 > 0, against its sign.
    _, W = solved(gram_of(BY_HAND), 0.5, 1.0, nonnegative=False, targets=[2])
    assert_allclose(W[:, 2], [1.5 / 4, 0, 0], rtol=1e-6)


def test_a_large_l1_leaves_no_weight(gram_of):
    regressions, W = solved(gram_of(BY_HAND), 2.0, 1.0)
    assert not W.any()
    assert regressions.n_rounds == 1
    assert regressions.n_violated == 0


# --- optimality


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 1.0), (2.0, 0.1), (5.0, 50.0)])
def test_optimality_conditions_hold_to_the_tolerance(gram_of, l1, l2, nonnegative):
    X = make_interactions(300, 120, n_blocks=4, noise=0.2, random_state=1)
    regressions, W = solved(gram_of(X), l1, l2, nonnegative)
    # The solver judges by conditions that it computes in float32: their rounding errors are up to
    # a tenth of the tolerance of 1e-5 for items of few users.
    assert violations(X, W, l1, l2, nonnegative).max() <= 1.1e-5
    assert regressions.n_violated == 0
    assert not np.diag(W).any()
    assert not nonnegative or (W >= 0).all()


def test_a_loose_tolerance_is_used_and_kept(gram_of, X):
    _, W = solved(gram_of(X), 0.5, 5.0, tol=0.02)
    assert 1e-4 < violations(X, W, 0.5, 5.0, True).max() <= 0.02


@pytest.mark.parametrize("nonnegative", [True, False])
def test_one_exchange_at_a_time_ends_at_the_same_weights(gram_of, X, nonnegative, monkeypatch):
    usual, W = solved(gram_of(X), 0.1, 0.5, nonnegative)
    monkeypatch.setattr("skvaecf.linear._block_pivoting.PATIENCE", 0)
    careful, same = solved(gram_of(X), 0.1, 0.5, nonnegative)
    assert careful.n_rounds > usual.n_rounds
    assert_allclose(same, W, atol=1e-6)


def test_some_targets_have_the_weights_that_they_have_among_all(gram_of, X):
    _, all_weights = solved(gram_of(X), 0.5, 5.0)
    _, some_weights = solved(gram_of(X), 0.5, 5.0, targets=[7, 3])
    assert_allclose(some_weights[:, [7, 3]], all_weights[:, [7, 3]], atol=1e-6)
    assert np.flatnonzero(some_weights.any(axis=0)).tolist() == [3, 7]


def test_systems_solved_one_by_one_have_the_same_weights(gram_of, X, monkeypatch):
    _, together = solved(gram_of(X), 0.5, 5.0)
    monkeypatch.setattr("skvaecf.linear._block_pivoting.SYSTEM_ENTRIES", 1)
    _, one_by_one = solved(gram_of(X), 0.5, 5.0)
    assert_allclose(one_by_one, together, atol=1e-6)


# --- what is reported


def test_targets_that_are_not_solved_in_the_last_round_are_counted(gram_of, X, monkeypatch):
    monkeypatch.setattr("skvaecf.linear._block_pivoting.MAX_ROUNDS", 2)
    regressions, _ = solved(gram_of(X), 0.1, 0.5)
    assert regressions.n_rounds == 2
    assert 0 < len(regressions.targets) == regressions.n_violated <= 30


def test_a_tolerance_below_rounding_is_counted_as_violated(gram_of, X):
    regressions, _ = solved(gram_of(X), 0.5, 5.0, tol=1e-12)
    assert 0 < regressions.n_violated <= 30
    assert len(regressions.targets) == 0
