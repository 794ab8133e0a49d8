"""partial_fit of networks: further users, new items, and what does not change."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conftest import NEURAL_RECOMMENDERS, make, naming
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

import skvaecf
from skvaecf import MultDAE, MultVAE, ndcg_at_k
from skvaecf.datasets import make_interactions
from skvaecf.neural import InteractionBatch
from skvaecf.neural._growth import load_grown, neighbour_shares
from skvaecf.neural._training import Game
from skvaecf.recommenders.elsa import UnitVectors

WITHOUT = {"CDAE", "CFGAN", "IRGAN"}
WITH = [name for name in NEURAL_RECOMMENDERS if name not in WITHOUT]


def test_networks_with_parameters_of_users_have_no_partial_fit():
    assert {n for n in NEURAL_RECOMMENDERS if not hasattr(make(n), "partial_fit")} == WITHOUT


@pytest.mark.parametrize("neural", WITH)
def test_the_first_call_is_a_fit(neural, fitted, X):
    model = make(neural).partial_fit(X)
    assert_array_equal(model.predict(X), fitted(neural).predict(X))
    with pytest.raises(ValueError, match="X_before must hold rows of earlier calls"):
        make(neural).partial_fit(X, X_before=X)


@pytest.mark.parametrize("neural", WITH)
def test_new_items_and_copies(neural, X, tmp_path):
    model = make(neural).fit(X[:40, :20])
    model.save(tmp_path / "model")
    model.partial_fit(X)
    loaded = skvaecf.load(tmp_path / "model").partial_fit(X)
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    expected = np.bincount(X.indices, minlength=24) + np.pad(
        make(neural).fit(X[:40, :20]).item_counts_, (0, 4)
    )
    assert_array_equal(model.item_counts_, expected)
    assert model.n_features_in_ == 24
    assert model.similar_items([23], 3).shape == (1, 3)
    n_epochs = 2 + (2 if neural == "ELSA" else 3)
    assert model.n_iter_ == model.best_iter_ == len(model.history_) == n_epochs
    assert [figures["epoch"] for figures in model.history_] == [*range(1, n_epochs + 1)]
    again = make(neural).fit(X[:40, :20]).partial_fit(X)
    assert_array_equal(again.predict(X), model.predict(X))
    with pytest.raises(ValueError, match=r"X has 20 features, but .* is expecting 24"):
        model.partial_fit(X[:, :20])


def test_passes_over_no_news_change_little(X):
    """Three small steps of Adam change every parameter by at most thrice the learning rate."""
    model = make("MultVAE", learning_rate=1e-5, batch_size=1000).fit(X)
    before = {n: p.clone() for n, p in model.network_.state_dict().items()}
    model.partial_fit(X)
    for name, parameter in model.network_.state_dict().items():
        change = (parameter - before[name]).abs().max()
        assert 1e-5 < change <= 3.03e-5, name


def test_vectors_of_new_items_are_means_of_their_neighbours():
    X = sp.csr_array(np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 0], [1, 0, 0, 0, 1.0]]))
    X.resize(3, 6)
    assert_allclose(neighbour_shares(X, 3).toarray(), [[1 / 4, 1 / 2, 1 / 4], [1, 0, 0], [0, 0, 0]])
    counts = np.array([2, 20, 5, 2, 1, 0])

    def network(n_items):
        module = nn.Module()
        module.rows, module.columns = (
            nn.Parameter(torch.zeros(n_items, 2)),
            nn.Parameter(torch.zeros(2, n_items)),
        )
        module.bias, module.other = nn.Parameter(torch.zeros(n_items)), nn.Parameter(torch.zeros(2))
        module.register_buffer("lengths", torch.ones(n_items))
        return module

    known = {
        "rows": torch.tensor([[1.0, 2], [3, 4], [5, 6]]),
        "columns": torch.tensor([[1.0, 3, 5], [2, 4, 6]]),
        "bias": torch.tensor(np.log(counts[:3] + 0.5) - 7, dtype=torch.float32),
        "other": torch.tensor([8.0, 9.0]),
        "lengths": torch.tensor([1.0, 2.0, 3.0]),
    }
    grown = network(6)
    load_grown(grown, known, 3, X, counts)
    means = [[1, 2], [3, 4], [5, 6], [3, 4], [1, 2], [3, 4]]
    assert_allclose(grown.rows.detach(), means)
    assert_allclose(grown.columns.detach(), np.transpose(means))
    assert_allclose(grown.bias.detach(), np.log(counts + 0.5) - 7, rtol=1e-6)
    assert grown.other.tolist() == [8, 9]
    assert grown.lengths.tolist() == [1, 2, 3, 2, 1, 2]
    with pytest.raises(ValueError, match=r"rows had the shape \(3, 2\) and would have \(6, 2\)"):
        load_grown(network(6), known, 4, X, counts)


@pytest.mark.parametrize(
    ("n_users", "batch_size", "n_updates"),
    [(60, "auto", 3), (160, "auto", 6), (2000, "auto", 21), (9000, "auto", 54), (60, 20, 9)],
)
def test_mini_batches_of_an_update(n_users, batch_size, n_updates, X, monkeypatch):
    """Three passes; "auto" is three twentieths of the rows, at least 150 and at most 500."""
    sizes = []
    update = Game.update

    def note(self, player, progress, users, generator):
        sizes.append(len(users))
        update(self, player, progress, users, generator)

    model = make("MultVAE", batch_size=batch_size).fit(X)
    monkeypatch.setattr(Game, "update", note)
    model.partial_fit(X[np.arange(n_users) % 60])
    assert len(sizes) == n_updates
    assert sum(sizes) == 3 * n_users


def test_new_items_of_elsa_start_from_a_ridge_regression():
    """Item 6 has the users of item 5, item 7 one user with popular items, item 8 nobody."""
    r = np.random.RandomState(0)
    X = (r.rand(50, 9) < 0.3).astype(np.float32)
    X[:, 0] = 1
    X[:, 6], X[:, 7:] = X[:, 5], 0
    X[3, 7] = 1
    weights = r.rand(50).astype(np.float32) + 0.5
    network = UnitVectors(9, 4)
    with torch.no_grad():
        network.weight.copy_(torch.tensor(r.randn(9, 4)))
    network.measure()
    A = network.item_vectors().numpy()[:6].astype(float)
    x = InteractionBatch.from_csr(sp.csr_array(X), torch.device("cpu"), weights)
    network.start_new_items(6, torch.Generator().manual_seed(0), x)
    found = network.item_vectors().numpy()
    assert_allclose(found[:6], A, rtol=1e-6)
    assert_allclose(np.linalg.norm(network.weight.detach()[6:], axis=1), 1, rtol=1e-6)
    H, W = X[:, :6] @ A, np.diag(weights)
    gram = H.T @ W @ H
    expected = np.linalg.solve(gram + 1e-3 * np.trace(gram) / 4 * np.eye(4), H.T @ W @ X[:, 6:8]).T
    expected /= np.linalg.norm(expected, axis=1)[:, None]
    assert_allclose(found[6:8], expected, atol=1e-4)


def test_elsa_does_not_recommend_new_items_of_one_user_to_everybody():
    r = np.random.RandomState(0)
    X = make_interactions(400, 40, n_blocks=4, noise=0.1, random_state=0).toarray()
    X[:, :8] = r.rand(400, 8) < 0.7  # popular items
    new = np.eye(400, 20)
    model = make("ELSA", n_components=8, max_epochs=10).fit(X)
    model.partial_fit(np.hstack([X, new]), X_before=np.hstack([X, 0 * new]))
    share_of_new = (model.recommend(np.hstack([X, 0 * new]), 5) >= 40).mean()
    assert share_of_new < 0.025  # 0.046 from means over the neighbours


def test_rows_that_return_are_subtracted_from_the_counts(X, unchanged):
    model = make("MultVAE").fit(X[:40])
    model.partial_fit(X[30:], X_before=X[30:40])
    assert_array_equal(model.item_counts_, make("MultVAE").fit(X).item_counts_)
    n_validation = 40 - int(model._shape[0])
    assert model._total_weight == 60 - n_validation
    check = unchanged(model)
    with pytest.raises(ValueError, match="X_before must hold rows of earlier calls"):
        model.partial_fit(X, X_before=np.ones((70, 24)))
    with pytest.raises(ValueError, match="X_before must have the columns of X"):
        model.partial_fit(X, X_before=X[:, :20])
    check()


def test_the_penalty_is_that_of_all_users(X, monkeypatch):
    used = []
    players = MultVAE._players

    def note(self, network, x):
        used.append((self.l2, self.anneal_steps, x.n_users))
        return players(self, network, x)

    model = make("MultVAE", l2="auto", anneal_steps="auto", early_stopping=False).fit(X[:40])
    l2 = model.l2_
    monkeypatch.setattr(MultVAE, "_players", note)
    model.partial_fit(X[40:])
    model.set_params(l2=9.0).partial_fit(X[:30], X_before=X[:30])
    assert used == [(pytest.approx(l2 * 20 / 60), 0, 20), (pytest.approx(9.0 / 2), 0, 30)]
    assert model.l2_ == l2


def test_components_stay_those_of_the_first_call(X):
    model = make("ELSA", n_components="auto").fit(X[:4])
    n_components = model.n_components_
    model.partial_fit(X)
    assert model.transform(X).shape == (60, n_components)
    assert pickle.loads(pickle.dumps(model)).transform(X).shape == (60, n_components)
    model = make("MultDAE").fit(X).set_params(n_components=9)
    with pytest.raises(ValueError, match="partial_fit needs the layer sizes of before"):
        model.partial_fit(X)


def test_weights_of_further_users(X):
    model, expected = make("MultDAE").fit(X), make("MultDAE").fit(X)
    weights = np.repeat([1.0, 0.0], 30)
    model.partial_fit(X, sample_weight=weights)
    expected.partial_fit(X[:30])
    scores = [m.predict(X) for m in (model, expected)]
    assert_allclose(scores[0], scores[1], rtol=1e-5, atol=1e-6)
    assert_array_equal(model.item_counts_, expected.item_counts_)


def test_passes_over_all_users_keep_the_quality_of_a_fit():
    items = np.random.RandomState(0).permutation(40)  # the last ten come later
    X = make_interactions(400, 40, n_blocks=4, noise=0.1, random_state=0)[:, items]
    test = make_interactions(200, 40, n_blocks=4, noise=0.1, random_state=1)[:, items]
    model = MultDAE(8, max_epochs=12, random_state=0, device="cpu").fit(X[:200, :30])
    earlier = X[:200].toarray()
    earlier[:, 30:] = 0
    model.partial_fit(X, X_before=earlier).partial_fit(X, X_before=X)
    refit = MultDAE(8, max_epochs=12, random_state=0, device="cpu").fit(X)
    assert ndcg_at_k(model, test) > 0.93 * ndcg_at_k(refit, test)
    assert_array_equal(model.item_counts_, refit.item_counts_)


@pytest.mark.parametrize("interrupted", [KeyboardInterrupt, FloatingPointError])
def test_errors_leave_the_model_as_it_was(interrupted, X, unchanged, monkeypatch):
    model = make("MultVAE").fit(X)
    check, scores = unchanged(model), model.predict(X)

    def play(*_):
        raise interrupted

    monkeypatch.setattr("skvaecf.neural._recommender.Game.play", play)
    with naming(interrupted), pytest.raises(interrupted):
        model.partial_fit(X)
    check()
    assert_array_equal(model.predict(X), scores)
