"""SLIM against scikit-learn's elastic net and the optimality conditions."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import run_python
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet

from skvaecf import SLIM
from skvaecf.datasets import make_interactions

N_USERS, N_ITEMS = 80, 30


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, noise=0.3, random_state=0)


@pytest.fixture(params=["dense", "sparse"])
def gram(request, monkeypatch):
    """Provide memory for a dense Gram matrix, or none."""
    memory = {"dense": np.inf, "sparse": 0}[request.param]
    monkeypatch.setattr("skvaecf.recommenders.slim.available_memory", lambda device: memory)


def elastic_nets(X, l1, l2, nonnegative):
    """Fit one net per item, with the conversion of the docstring."""
    X = X.toarray().astype(np.float64)
    W = np.zeros((N_ITEMS, N_ITEMS))
    for item in range(N_ITEMS):
        others = np.arange(N_ITEMS) != item
        net = ElasticNet(
            alpha=(l1 + l2) / N_USERS,
            l1_ratio=l1 / (l1 + l2),
            fit_intercept=False,
            positive=nonnegative,
            tol=1e-12,
            max_iter=100_000,
        )
        W[others, item] = net.fit(X[:, others], X[:, item]).coef_
    return W


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize(("l1", "l2"), [(1.0, 3.0), (0.1, 0.5), (3.0, 20.0)])
def test_each_item_is_an_elastic_net_on_all_others(X, l1, l2, nonnegative, gram):
    model = SLIM(l1, l2, nonnegative=nonnegative).fit(X)
    W = model.item_similarity_
    expected = elastic_nets(X, l1, l2, nonnegative)
    assert isinstance(W, csr_array)
    assert W.dtype == np.float32
    assert_allclose(W.toarray(), expected, atol=2e-6)
    assert_array_equal(W.toarray() != 0, expected != 0)
    assert_allclose(model.predict(X), X.toarray() @ expected, atol=1e-5)


def test_two_items_by_hand():
    # X'X = [[3, 2], [2, 2]]: the weight of item 0 for 1 is (2 - l1) / (3 + l2), that of 1 for 0
    # (2 - l1) / (2 + l2).
    model = SLIM(0.5, 1.0).fit([[1, 1], [1, 1], [1, 0]])
    assert_allclose(model.item_similarity_.toarray(), [[0, 1.5 / 4], [1.5 / 3, 0]], rtol=1e-6)
    assert_allclose(model.predict([[0, 1], [1, 0]]), [[1.5 / 3, 0], [0, 1.5 / 4]], rtol=1e-6)
    assert SLIM(2.0, 1.0).fit([[1, 1], [1, 1], [1, 0]]).item_similarity_.nnz == 0


def test_similar_items_are_those_that_an_item_has_weights_for():
    # The weights of the test above: that of item 0 for 1 is 1.5 / 4.
    model = SLIM(0.5, 1.0).fit([[1, 1], [1, 1], [1, 0]])
    similar, scores = model.similar_items([0, 1], k=1, return_scores=True)
    assert similar.tolist() == [[1], [0]]
    assert_allclose(scores, [[1.5 / 4], [1.5 / 3]], rtol=1e-6)


def test_three_items_by_hand():
    # The users of item 2 have exactly one of the items 0 and 1, which share one user.
    X = [[1, 1, 0], [1, 0, 1], [0, 1, 1]]
    # By symmetry both weights are a, with (2 + l2 + 1) a = 1 - l1.
    W = SLIM(0.2, 1.0).fit(X).item_similarity_.toarray()
    assert_allclose(W[:2, 2], [0.8 / 4, 0.8 / 4], rtol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("l1", "l2"), [(0.5, 1e-6), (0.0, 1e-7)])
def test_systems_that_only_rounding_makes_regular(X, l1, l2):
    X = np.hstack([X.toarray()[:, :10]] * 3)
    W = SLIM(l1, l2).fit(X).item_similarity_.toarray()
    assert np.isfinite(W).all()
    if l1:
        # Every item has two copies, which share its weight, less what l1 takes of it.
        assert_allclose(W.sum(axis=0), 1 - l1 / X.sum(axis=0), atol=1e-3)


def test_jobs_do_not_change_the_weights(X):
    one, two = (SLIM(0.5, 5.0, n_jobs=n).fit(X).item_similarity_ for n in (None, 2))
    assert abs(one - two).max() == 0


MANY_LARGE_SYSTEMS = """
import numpy as np, torch
from skvaecf import EASE, SLIM, WMF
torch.set_num_threads(2)
X = np.random.default_rng(0).random((100, 200)) < 0.8
# Without l1 every regression has all items, and the answer is that of EASE.
W = SLIM(0, 5.0, nonnegative=False).fit(X).item_similarity_.toarray()
assert np.abs(W - EASE(5.0).fit(X).item_similarity_).max() < 1e-4
model = WMF(400, max_epochs=2, random_state=0).fit(X)
ones = model.unobserved_weight_ + model.confidence * X
A = np.einsum("ui,if,ig->ufg", ones[:2], *[model.item_factors_.astype(float)] * 2)
A += model.l2_ * ones[:2].sum(axis=1)[:, None, None] * np.eye(400)
P = np.linalg.solve(A, ((ones * X)[:2] @ model.item_factors_)[..., None])[..., 0]
assert np.abs(model.transform(X)[:2] - P).max() < 1e-3 * np.abs(P).max()
"""


def test_many_large_systems_and_two_threads():
    # After torch.set_num_threads, torch.linalg.solve hangs there, or gives wrong answers.
    run_python(MANY_LARGE_SYSTEMS)


def test_blocks_do_not_change_the_weights(X, gram, monkeypatch):
    # The last block, of items without users, needs the fewest rounds.
    X = csr_array(np.hstack([X.toarray(), np.zeros((N_USERS, 18))]))
    whole = SLIM(0.5, 5.0).fit(X)
    monkeypatch.setattr("skvaecf.linear._item_item.BLOCK_ENTRIES", 1)
    monkeypatch.setattr("skvaecf.linear._block_pivoting.SYSTEM_ENTRIES", 1)
    blocks = SLIM(0.5, 5.0).fit(X)
    assert_allclose(blocks.item_similarity_.toarray(), whole.item_similarity_.toarray(), atol=1e-6)
    assert blocks.n_iter_ == whole.n_iter_


def test_items_without_users_get_no_weight(X, gram):
    padded = csr_array(np.hstack([X.toarray(), np.zeros((N_USERS, 2))]))
    W = SLIM(0.5, 5.0).fit(padded).item_similarity_.toarray()
    assert_allclose(W[:N_ITEMS, :N_ITEMS], SLIM(0.5, 5.0).fit(X).item_similarity_.toarray())
    assert not W[N_ITEMS:].any()
    assert not W[:, N_ITEMS:].any()


def test_too_few_rounds_and_too_small_a_tolerance_are_warned_of(X, monkeypatch):
    message = re.escape(f"of {N_ITEMS} items violate the optimality conditions")
    with pytest.warns(ConvergenceWarning, match=message):
        SLIM(0.5, 5.0, tol=1e-12).fit(X)
    monkeypatch.setattr("skvaecf.linear._block_pivoting.MAX_ROUNDS", 2)
    with pytest.warns(ConvergenceWarning, match=message):
        model = SLIM(0.1, 0.5).fit(X)
    assert model.n_iter_ == 2
    assert np.isfinite(model.predict(X)).all()


def test_progress_is_shown(X, capsys):
    SLIM(verbose=1).fit(X)
    assert "SLIM" in capsys.readouterr().err
    SLIM().fit(X)
    assert capsys.readouterr().err == ""
