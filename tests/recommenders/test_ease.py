"""EASE against its closed form in float64 and against ridge regressions."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge

from skvaecf import EASE
from skvaecf._devices import available_memory
from skvaecf.datasets import make_interactions
from skvaecf.recommenders.ease import _inverse_by_torch, inverse


@pytest.fixture(scope="module")
def X():
    return make_interactions(80, 30, noise=0.3, random_state=0).toarray().astype(np.float64)


@pytest.mark.parametrize("l2", [0.5, 20.0, 500.0])
def test_weights_are_the_closed_form(X, l2):
    P = np.linalg.inv(X.T @ X + l2 * np.eye(30))
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    model = EASE(l2=l2).fit(X)
    assert model.item_similarity_.dtype == np.float32
    assert_allclose(model.item_similarity_, B, rtol=1e-3, atol=1e-5)
    assert_allclose(model.predict(X), X @ B, rtol=1e-3, atol=1e-4)


def test_each_item_is_a_ridge_regression_on_all_others(X):
    B = EASE(l2=10.0).fit(X).item_similarity_
    for item in range(30):
        others = np.arange(30) != item
        ridge = Ridge(alpha=10.0, fit_intercept=False).fit(X[:, others], X[:, item])
        assert_allclose(B[others, item], ridge.coef_, rtol=1e-3, atol=1e-5)


def test_users_are_weighted_by_a_power_of_their_number_of_items(X):
    model = EASE(l2=10.0, user_exponent=0.7).fit(X)
    rows = X / X.sum(axis=1, keepdims=True) ** 0.35  # the square root of the weight
    for item in (0, 7, 29):
        others = np.arange(30) != item
        ridge = Ridge(alpha=10.0, fit_intercept=False).fit(rows[:, others], rows[:, item])
        assert_allclose(model.item_similarity_[others, item], ridge.coef_, rtol=1e-3, atol=1e-5)


def test_items_are_scaled_by_a_power_of_their_counts(X):
    c = X.sum(axis=0) ** 0.3
    B = EASE(l2=10.0).fit(X).item_similarity_
    model = EASE(l2=10.0, item_exponent=0.3).fit(X)
    assert_allclose(model.item_similarity_, c[:, None] * B / c, rtol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_relaxation_allows_a_weight_of_an_item_for_itself(X, dropout):
    # Where ridge regression on all items, the item itself included, has a larger weight than xi,
    # the others are the regression of what xi leaves: (1 - xi) times those of EASE.
    l2 = 10.0
    penalty = l2 + dropout / (1 - dropout) * X.sum(axis=0)
    ridge = np.linalg.solve(X.T @ X + np.diag(penalty), X.T @ X)
    xi = float(np.median(np.diag(ridge)))
    ease = EASE(l2=l2, dropout=dropout).fit(X).item_similarity_
    free = np.diag(ridge) <= xi
    assert 0 < free.sum() < 30
    expected = np.where(free, ridge, (1 - xi) * ease)
    np.fill_diagonal(expected, 0)
    model = EASE(l2=l2, dropout=dropout, relaxation=xi).fit(X)
    assert_allclose(model.item_similarity_, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_items", [1, 30, 2100])  # one block and several
@pytest.mark.parametrize("inverse", [inverse, _inverse_by_torch])  # on a CPU and on a GPU
def test_inverse_is_made_in_place(n_items, inverse):
    factor = np.random.RandomState(0).standard_normal((n_items, 20))
    A = factor @ factor.T + 50 * np.eye(n_items)
    given = torch.tensor(A, dtype=torch.float32)
    P = inverse(given, lambda: None)
    assert P.data_ptr() == given.data_ptr()
    assert P.is_contiguous()
    assert_allclose(P, np.linalg.inv(A), atol=1e-6)
    assert_array_equal(P, P.T)


def test_a_singular_system_is_an_error_that_names_l2():
    with pytest.raises(np.linalg.LinAlgError, match="increase l2"):
        EASE(l2=1e-9).fit([[1, 1]] * 4)


def test_no_item_predicts_itself(X):
    assert np.diag(EASE(l2=10.0).fit(X).item_similarity_).tolist() == [0.0] * 30


def test_two_items_by_hand():
    # X'X = [[3, 2], [2, 2]]; the ridge of item 1 on item 0 is 2 / (3 + 1), of 0 on 1 2 / (2 + 1).
    model = EASE(l2=1.0).fit([[1, 1], [1, 1], [1, 0]])
    assert_allclose(model.item_similarity_, [[0, 1 / 2], [2 / 3, 0]], rtol=1e-6)
    assert_allclose(model.predict([[0, 1], [1, 0]]), [[2 / 3, 0], [0, 1 / 2]], rtol=1e-6)


def test_similar_items_are_those_that_an_item_has_weights_for():
    # The weights of the test above: that of item 0 for 1 is 1 / 2.
    model = EASE(l2=1.0).fit([[1, 1], [1, 1], [1, 0]])
    similar, scores = model.similar_items([0, 1], k=1, return_scores=True)
    assert similar.tolist() == [[1], [0]]
    assert_allclose(scores, [[1 / 2], [2 / 3]], rtol=1e-6)


def test_dropout_is_the_mean_over_all_draws(X):
    """The Gram matrix of dropped-out rows, scaled by 1 / (1 - p), has the mean X'X + p / (1 - p) D.

    With the target kept whole, the mean loss of one item is a ridge with that Gram matrix.
    """
    p, l2 = 0.3, 10.0
    G = X.T @ X
    mean = G + p / (1 - p) * np.diag(np.diag(G)) + l2 * np.eye(30)
    B = EASE(l2=l2, dropout=p).fit(X).item_similarity_
    for item in range(30):
        others = np.arange(30) != item
        weights = np.linalg.solve(mean[np.ix_(others, others)], G[others, item])
        assert_allclose(B[others, item], weights, rtol=1e-3, atol=1e-5)


def test_too_many_items_for_the_memory_are_refused_before_anything_changes(X, monkeypatch):
    monkeypatch.setattr("skvaecf._devices.available_memory", lambda device: 2**10)
    model = EASE(l2=1.0)
    with pytest.raises(MemoryError, match=r"30 items .* GiB .* available.*SLIM, ItemKNN"):
        model.fit(X)
    assert not hasattr(model, "item_similarity_")


def test_available_memory_is_that_of_this_machine():
    available = available_memory(torch.device("cpu"))
    assert 2**20 < available <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
