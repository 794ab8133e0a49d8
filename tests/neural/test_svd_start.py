"""The truncated SVD, the initial values computed from it, and the course of the learning rate."""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from conftest import NEURAL_RECOMMENDERS, make, seeded
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn.base import clone

import skvaecf
from skvaecf import Popularity, ndcg_at_k, strong_generalization_split
from skvaecf.datasets import make_interactions
from skvaecf.linear import _subspace
from skvaecf.linear._subspace import truncated_svd
from skvaecf.neural import InteractionBatch, _recommender, _svd_start, _training
from skvaecf.neural._checkpoint import Checkpoint
from skvaecf.neural._layers import initialize
from skvaecf.neural._svd_start import start_from_svd
from skvaecf.recommenders import irgan

STARTED = ["AWAE", "MultDAE", "MultVAE", "SIVAERecommender", "VAEGANRecommender"]


def batch(dense):
    """Return the nonzero entries of a dense matrix as rows with these values."""
    rows = csr_array(np.asarray(dense, dtype=np.float32))
    rows.sum_duplicates()
    return InteractionBatch.from_csr(rows)


def with_singular_values(values, n_users, n_items, seed=0):
    """Return a random matrix with the given singular values."""
    random = np.random.RandomState(seed)
    P, V = (np.linalg.qr(random.normal(size=(n, len(values))))[0] for n in (n_users, n_items))
    return P * values @ V.T


# --- truncated_svd

MATRICES = {
    "a spectral gap": with_singular_values([9, 7, 4, 0.2, 0.1, 0.05], 60, 40),
    "fewer users than components": with_singular_values([5, 3], 2, 40),
    "fewer items than components": with_singular_values([5, 3], 60, 2),
    "a rank below the number of components": with_singular_values([5, 3], 50, 30),
    "empty rows and columns": np.pad(with_singular_values([6, 5, 4], 20, 10), ((3, 5), (4, 2))),
}


@pytest.mark.parametrize("users_at_once", [32_768, 7])
@pytest.mark.parametrize("A", MATRICES.values(), ids=MATRICES)
def test_truncated_svd_agrees_with_numpy(A, users_at_once, monkeypatch):
    monkeypatch.setattr(_subspace, "USERS_AT_ONCE", users_at_once)
    sigma, V = truncated_svd(batch(A), 3, seeded())
    n = min(3, *A.shape)
    assert (sigma.shape, V.shape) == ((n,), (A.shape[1], n))
    _, expected, rows = np.linalg.svd(A, full_matrices=False)
    # The squares of the values are those of the products: a 0 is below sqrt(eps) of the largest.
    assert_allclose(sigma, expected[:n], rtol=1e-4, atol=1e-3 * expected[0])
    # The signs, and the directions of the values 0, are arbitrary; the projector is not.
    kept = np.flatnonzero(expected[:n] > 1)
    axes = V.numpy()[:, kept]
    assert_allclose(axes @ axes.T, rows[kept].T @ rows[kept], atol=2e-4)
    assert V.isfinite().all()


def test_truncated_svd_needs_its_passes_where_the_values_decay_slowly():
    """The largest values of noise are found to within some percent, never overestimated."""
    A = np.random.RandomState(0).normal(size=(300, 200))
    sigma, V = truncated_svd(batch(A), 5, seeded())
    expected = np.linalg.svd(A, compute_uv=False)[:5]
    assert (sigma.numpy() <= expected * (1 + 1e-4)).all()
    assert (sigma.numpy() >= 0.93 * expected).all()
    assert_allclose(V.T @ V, np.eye(5), atol=1e-4)


def test_truncated_svd_without_interactions_is_zero():
    sigma, V = truncated_svd(batch(np.zeros((6, 5))), 3, seeded())
    assert torch.equal(sigma, torch.zeros(3))
    assert V.isfinite().all()


# --- start_from_svd


def blocks(noise=0.05, n_users=300, seed=0):
    """Return interactions with four planted blocks of users and items."""
    return make_interactions(n_users, 60, n_blocks=4, noise=noise, random_state=seed)


def without_structure(X, seed=0):
    """Return rows of the same lengths whose items are drawn by their popularity alone."""
    random = np.random.RandomState(seed)
    popularity = 1 / (5 + np.arange(X.shape[1]))
    popularity /= popularity.sum()
    items = [
        np.sort(random.choice(X.shape[1], n, replace=False, p=popularity))
        for n in np.diff(X.indptr)
    ]
    return csr_array((X.data, np.concatenate(items), X.indptr), X.shape)


def start(model, X, seed=0):
    """Return a network that starts from the SVD, its random encoder before, and the rows."""
    network, x = model._build(*X.shape), InteractionBatch.from_csr(X)
    initialize(network, seeded(seed), x)
    random = network.encoder.item_weights.detach().clone()
    latent = partial(model._latent, network)
    start_from_svd(network.encoder.item_weights, network.decoder, latent, seeded(seed + 1), x)
    return network, random, x


@pytest.fixture
def exact(monkeypatch):
    """Replace the truncated SVD by NumPy's; return its calls: rows, all values and vectors."""
    calls = []

    def svd(x, n_components, generator):
        A = csr_array((x.values, x.items, x.offsets), (x.n_users, x.n_items)).toarray()
        _, sigma, V = np.linalg.svd(A.astype(float), full_matrices=False)
        calls.append((x, sigma, V.T))
        n = min(n_components, len(sigma))
        return torch.tensor(sigma[:n]).float(), torch.tensor(V.T[:, :n].copy()).float()

    monkeypatch.setattr(_svd_start, "truncated_svd", svd)
    return calls


class Documented:
    """The formulas of ``start_from_svd`` in float64, without its code."""

    def __init__(self, X, n_units, tau, like):
        x = X.toarray().astype(float)
        self.rows = x / np.sqrt(x.sum(axis=1, keepdims=True))
        scale = x.sum(axis=0)[:, None] ** (-1 / 3)
        _, sigma, V = np.linalg.svd(self.rows * scale.T, full_matrices=False)
        sigma, V = sigma[:n_units], V[:n_units].T
        V *= np.sign((V * like[:, :n_units]).sum(axis=0))  # the sign of a vector is arbitrary
        tau, strength = max(tau, sigma[1] / 5), np.minimum(sigma / sigma[1], 1)
        self.trust = np.maximum(0, 1 - ((tau / sigma[1]) ** 2 / strength) ** 2)
        self.W = 0.6 * np.sqrt(len(x)) / tau * scale * V
        size = 0.075 * sigma[1] / tau * np.sqrt(x.shape[1])
        self.scores = size * (self.rows @ self.W * strength * self.trust**2) @ V.T


@pytest.mark.parametrize("name", ["MultDAE", "SIVAERecommender", "VAEGANRecommender"])
def test_the_weights_are_those_of_the_formulas(name, exact):
    X = blocks()
    model = make(name, n_components=7, encoder_layer_sizes=())
    network, random, x = start(model, X)
    (_, _, V), (_, noise, _) = exact
    expected = Documented(X, 7, noise[1], V)
    # The mean, three contrasts of the four blocks, and noise.
    assert (expected.trust[:4] > 0.9).all()
    assert (expected.trust[4:] < 0.9).all()
    weights = network.encoder.item_weights.detach().double().numpy()
    between = expected.W * expected.trust + random.numpy() * (1 - expected.trust)
    assert_allclose(weights, between, atol=1e-4 * np.abs(between).max())

    with torch.no_grad():
        h = network.decoder.hidden(model._latent(network, x)).double().numpy()
    scores = h @ network.decoder.logits.weight.detach().double().numpy()
    ridge = 1e-3 * np.trace(h.T @ h) / 7 * np.eye(7)
    D = np.linalg.solve(h.T @ h + ridge, h.T @ expected.scores)
    shortened = h @ (D / np.sqrt(1 + (D**2).sum(axis=0) / 4))
    assert_allclose(scores, shortened, atol=1e-3 * np.abs(shortened).max())
    assert np.abs(scores - h @ D).max() > 5e-3 * np.abs(shortened).max()
    # The latent vectors of MultDAE are not linear in the rows.
    error = np.linalg.norm(scores - expected.scores) / np.linalg.norm(expected.scores)
    assert error < (0.15 if name == "MultDAE" else 0.05)


@pytest.mark.parametrize("shared_sigma", [False, True])
def test_sivae_starts_the_means_alone(shared_sigma):
    model = make("SIVAERecommender", encoder_layer_sizes=(8,), shared_sigma=shared_sigma)
    X = blocks()
    network, random, _ = start(model, X)
    assert random.shape == (60, 6)
    fresh = model._build(*X.shape)
    initialize(fresh, seeded(), InteractionBatch.from_csr(X))
    changed = (network.encoder.from_items.weight != fresh.encoder.from_items.weight).any(dim=0)
    # 8 hidden units, 6 means, 6 log-variances.
    assert changed.tolist() == [False] * 8 + [True] * 6 + [False] * 6


def test_components_that_explain_little_are_not_used():
    """7 of 40 separate blocks of equal size explain a sixth, 6 explain less."""
    X = csr_array(np.kron(np.eye(40), np.ones((5, 4))))
    for n_components, used in ((6, False), (7, True)):
        model = make("MultDAE", n_components=n_components, encoder_layer_sizes=())
        network, random, x = start(model, X)
        fresh = model._build(*X.shape)
        initialize(fresh, seeded(), x)
        assert torch.equal(network.encoder.item_weights, random) != used
        assert torch.equal(network.decoder.logits.weight, fresh.decoder.logits.weight) != used
        assert_allclose(network.decoder.logits.bias.detach(), np.log(5.5 / 195.5), rtol=1e-5)


def test_noise_is_measured_on_shuffled_items(exact):
    X = blocks()
    start(make("MultDAE"), X)
    (scaled, _, _), (noisy, _, _) = exact
    assert torch.equal(noisy.offsets, scaled.offsets)
    assert_allclose(np.bincount(noisy.items), np.bincount(X.indices))
    same = (noisy.items == scaled.items).float().mean()
    assert same < 0.1
    # Each value belongs to its item: 1 / sqrt(n_u) / c_i^(1/3).
    counts, users = np.bincount(X.indices), noisy.users.numpy()
    expected = np.diff(X.indptr)[users] ** -0.5 * counts[noisy.items.numpy()] ** (-1 / 3)
    assert_allclose(noisy.values, expected, rtol=1e-5)


def test_the_truncated_svd_gives_almost_the_same_scores_as_an_exact_one(request):
    X, model = blocks(), make("MultDAE", encoder_layer_sizes=())
    network, _, x = start(model, X)
    request.getfixturevalue("exact")
    reference, _, _ = start(model, X)
    with torch.no_grad():
        scores, expected = (
            n.decoder(model._latent(n, x)) - n.decoder.logits.bias for n in (network, reference)
        )
    assert (scores - expected).norm() < 0.1 * expected.norm()


def test_users_in_blocks_give_the_same_start(monkeypatch):
    X, model = blocks(), make("SIVAERecommender", encoder_layer_sizes=())
    whole, _, _ = start(model, X)
    monkeypatch.setattr(_subspace, "USERS_AT_ONCE", 32)
    in_blocks, _, _ = start(model, X)
    for parts in zip(whole.parameters(), in_blocks.parameters(), strict=True):
        scale = parts[0].detach().abs().max().item()
        assert_allclose(*(part.detach() for part in parts), atol=1e-3 * scale)


def test_biases_are_log_odds():
    X = csr_array(np.array([[1, 1, 0], [1, 0, 0]], np.float32))
    network, _, _ = start(make("MultVAE"), X)
    # Of two users, 2, 1 and 0 have the items.
    expected = np.log([2.5 / 0.5, 1.5 / 1.5, 0.5 / 2.5])
    assert_allclose(network.decoder.logits.bias.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_data_without_structure_are_not_trusted(seed):
    X = blocks(seed=seed)
    for name in STARTED:
        model = make(name, encoder_layer_sizes=())
        sizes = []
        for rows in (X, without_structure(X, seed)):
            network, _, _ = start(model, rows, seed)
            sizes.append(network.decoder.logits.weight.norm().item())
        assert sizes[1] < 0.05 * sizes[0]


@pytest.mark.parametrize("shape", [(1, 4), (3, 40), (40, 3), (12, 1)])
def test_small_data_give_finite_weights(shape):
    random = np.random.RandomState(0)
    for density in (0, 0.5, 1):
        X = csr_array((random.rand(*shape) < density).astype(np.float32))
        for name in STARTED:
            network, _, _ = start(make(name), X)
            assert all(p.isfinite().all() for p in network.parameters()), (name, density)


def test_latent_vectors_of_zero_give_finite_weights(small_X):
    network = make("MultDAE")._build(*small_X.shape)
    initialize(network, seeded(), InteractionBatch.from_csr(small_X))

    def latent(rows):
        return torch.zeros(rows.n_users, 6)

    arguments = network.encoder.item_weights, network.decoder, latent, seeded()
    start_from_svd(*arguments, InteractionBatch.from_csr(small_X))
    assert torch.equal(network.decoder.logits.weight, torch.zeros(6, small_X.shape[1]))


# --- fits

UNTRAINED = {
    "learning_rate": 1e-9,
    "max_epochs": 1,
    "ema_decay": 0.0,
    "early_stopping": False,
    "precision": "float32",
    "device": "cpu",
    "random_state": 0,
}


@pytest.fixture(scope="module")
def split():
    return strong_generalization_split(blocks(), 60)


CHANGES = [{}, {"encoder_layer_sizes": (8,)}, {"decoder_layer_sizes": (8,)}]


@pytest.mark.parametrize(
    ("name", "changes"),
    [*product(STARTED, CHANGES), ("VAEGANRecommender", {"normalize": False})],
)
def test_planted_blocks_are_ranked_well_before_training(name, changes, split):
    scorer = ndcg_at_k.at(10)

    def ndcg(model):
        return scorer(model.fit(split.train), split.test_fold_in, split.test_heldout)

    model = getattr(skvaecf, name)(8, **UNTRAINED | changes)
    score, popularity = ndcg(model), ndcg(Popularity())
    random = ndcg(clone(model).set_params(init="random"))
    assert score > 2 * max(popularity, random)


def test_only_init_svd_of_a_new_fit_computes_an_svd(X, monkeypatch):
    calls = []
    monkeypatch.setattr(_recommender, "start_from_svd", lambda *args: calls.append(args))
    for name in NEURAL_RECOMMENDERS:
        model = make(name, max_epochs=1, **{"init": "svd"} if name in STARTED else {})
        assert hasattr(model, "init") == (name in STARTED)
        model.fit(X)
        assert len(calls) == (name in STARTED)
        if name in STARTED:
            model.set_params(warm_start=True).fit(X)
            clone(model).set_params(init="random").fit(X)
            assert len(calls) == 1
        calls.clear()


# --- the course of the learning rate

# 60 users, none held out: the mini-batches begin at the users 0, 25 and 50.
LINEAR = {"learning_rate_schedule": "linear", "batch_size": 25, "early_stopping": False}
FACTORS = 1 - np.array([0, 25 / 60, 50 / 60, 1, 1 + 25 / 60, 1 + 50 / 60]) / 2


@pytest.fixture
def rates(monkeypatch):
    """Return a dict that gets the learning rate of each update, by player."""
    made, recorded = _training._adam, defaultdict(list)

    def recording(player):
        optimizer = made(player)
        step = optimizer.step

        def record_and_step():
            (group,) = optimizer.param_groups
            recorded[player.name].append(group["lr"])
            step()

        optimizer.step = record_and_step
        return optimizer

    monkeypatch.setattr(_training, "_adam", recording)
    return recorded


def test_the_learning_rate_falls_to_zero_or_is_constant(rates, X):
    for schedule, factors in (("linear", FACTORS), ("constant", np.ones(6))):
        make("MultDAE", **LINEAR | {"learning_rate_schedule": schedule}).fit(X)
        assert_allclose(rates.pop("autoencoder"), 0.02 * factors)


def test_the_learning_rates_of_all_players_fall(rates, X):
    make("VAEGANRecommender", **LINEAR, discriminator_learning_rate=0.3).fit(X)
    assert_allclose(rates.pop("autoencoder"), 0.02 * FACTORS)
    for of_discriminator in rates.values():
        assert_allclose(of_discriminator, 0.3 * FACTORS)
    assert len(rates) == 2
    rates.clear()
    # Several passes of an epoch: each pass goes through the epoch from its beginning to its end.
    make("RecVAE", **LINEAR, n_encoder_passes=2).fit(X)
    assert_allclose(rates["encoder"], 0.02 * FACTORS[[0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]])
    assert_allclose(rates["decoder"], 0.02 * FACTORS)


def test_pretraining_has_a_constant_learning_rate(rates, X, monkeypatch):
    monkeypatch.setattr(irgan, "PRETRAINING_BATCH", 25)
    make("IRGAN", **LINEAR, pretraining_learning_rate=0.07).fit(X)
    (pretraining,) = (of for of in rates.values() if 0.07 in of)
    assert set(pretraining) == {0.07}
    assert len(rates) == 3


@pytest.mark.parametrize("name", STARTED)
def test_a_resumed_fit_continues_the_schedule(name, rates, X, tmp_path, monkeypatch):
    save = Checkpoint.save_within_epoch
    model = make(name, **LINEAR, init="svd")
    for warm in (False, True):  # a warm start begins the schedule again
        model.set_params(warm_start=warm)
        interrupted = deepcopy(model)
        expected = model.fit(X)
        whole = dict(rates)
        rates.clear()
        n_updates = []

        def save_and_stop(*args, n_updates=n_updates):
            save(*args)
            n_updates.append(1)
            if len(n_updates) == 5 * len(whole):  # within the second epoch
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save_within_epoch", save_and_stop)
        arguments = {"checkpoint_path": tmp_path / "fit.checkpoint", "checkpoint_seconds": 0}
        resumed = deepcopy(interrupted)
        with pytest.warns(UserWarning, match="interrupted in epoch 2"):
            interrupted.fit(X, **arguments)
        monkeypatch.setattr(Checkpoint, "save_within_epoch", save)
        resumed.fit(X, **arguments)
        assert dict(rates) == whole
        assert_allclose(whole["autoencoder"], 0.02 * FACTORS)
        for parts in zip(*(m.network_.parameters() for m in (resumed, expected)), strict=True):
            assert torch.equal(*parts)
        rates.clear()
