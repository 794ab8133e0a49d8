"""Updates of the items of a mini-batch and of a random sample of the other items."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from conftest import make, naming, seeded
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import skvaecf
from skvaecf import MultDAE, MultVAE
from skvaecf.datasets import make_interactions
from skvaecf.neural import InteractionBatch, _recommender
from skvaecf.neural._item_sampling import sample_items
from skvaecf.neural._layers import initialize
from skvaecf.neural._training import Game, move_average

SAMPLED = ["MultDAE", "MultVAE", "SIVAERecommender"]
# With 5 users of 2 items, a mini-batch has at most 10 of the 40 items.
FEW = {"n_sampled_items": 3, "batch_size": 5}


@pytest.fixture(scope="module")
def sparse_X():
    """Two or three items of each of 60 users, among 40 items."""
    random = np.random.RandomState(0)
    rows = [random.choice(40, 2 + user % 2, replace=False) for user in range(60)]
    users = np.repeat(np.arange(60), [len(row) for row in rows])
    return csr_array((np.ones(len(users)), (users, np.concatenate(rows))), (60, 40))


def make_few(name, **changes):
    # No user has 5 interactions, so no user is held out.
    return make(name, **FEW | changes)


def assert_same(model, other):
    parts = other.network_.state_dict()
    for name, tensor in model.network_.state_dict().items():
        assert torch.equal(tensor, parts[name]), name


def differ(model, other):
    parts = other.network_.state_dict()
    return any(not torch.equal(t, parts[name]) for name, t in model.network_.state_dict().items())


# --- the sample


def test_sample_by_hand():
    items, log_weights = sample_items(np.array([1, 2, 5]), 8, 2, 0)
    others = sorted({*items.tolist()} - {1, 2, 5})
    assert len(others) == 2
    assert {1, 2, 5} < {*items.tolist()} < {*range(8)}
    assert items.tolist() == sorted(items)
    expected = [0.0 if i in {1, 2, 5} else math.log(5 / 2) for i in items]
    assert_allclose(log_weights, expected, rtol=1e-6)


@pytest.mark.parametrize("present", [[], [0], [7], [0, 1, 7], [*range(8)]])
@pytest.mark.parametrize("n_sampled", [8, 10**9])
def test_a_large_sample_has_all_items(present, n_sampled):
    items, log_weights = sample_items(np.array(present, dtype=int), 8, n_sampled, 0)
    assert_array_equal(items, np.arange(8))
    assert_array_equal(log_weights, np.zeros(8))


def test_all_other_items_are_equally_probable():
    counts = np.zeros(9)
    for seed in range(3000):
        counts[sample_items(np.array([0, 3, 4, 8]), 9, 2, seed)[0]] += 1
    assert_array_equal(counts[[0, 3, 4, 8]], 3000)
    # 1200 expected, with a standard deviation of 27.
    assert np.abs(counts[[1, 2, 5, 6, 7]] - 1200).max() < 110


def test_the_normaliser_is_unbiased():
    scores = np.random.RandomState(0).normal(size=50)
    present = np.flatnonzero(scores > 0.5)
    estimates = []
    for seed in range(4000):
        items, log_weights = sample_items(present, 50, 4, seed)
        estimates.append(np.exp(scores[items] + log_weights).sum())
    error = np.std(estimates) / 4000**0.5
    assert 0.01 < error < 0.2  # it does vary
    assert abs(np.mean(estimates) - np.exp(scores).sum()) < 4 * error


# --- updates


def new_game(model, X, batch_size=5):
    x = InteractionBatch.from_csr(X)
    network = model._empty_network(X.shape, torch.device("cpu"))
    initialize(network, seeded(), x)
    network.train()
    sampling = model._sampling(network, x)
    return Game(model._players(network, x), x, batch_size, sampling=sampling), network


def averages_of(game, parameter):
    return game.optimizers["autoencoder"].state[parameter]


@pytest.mark.parametrize("name", SAMPLED)
def test_an_update_changes_only_its_items(name, sparse_X):
    model = make_few(name, l2=0.1)
    game, network = new_game(model, sparse_X)
    layer = network.decoder.logits
    encoder = network.encoder.from_items if name == "SIVAERecommender" else network.encoder.first
    axes = {layer.weight: 1, layer.bias: 0, encoder.weight: 0}
    used = []
    for step, users in enumerate(torch.arange(20).split(5)):
        before = {p: p.detach().clone() for p in network.parameters()}
        moments = {p: dict(averages_of(game, p)) for p in axes} if step else {}
        moments = {p: {n: t.clone() for n, t in of.items()} for p, of in moments.items()}
        game.update(game.players[0], 0.0, users, seeded())
        present = np.unique(sparse_X[users.numpy()].indices)
        changed = (layer.bias != before[layer.bias]).nonzero().squeeze(1)
        assert {*present} < {*changed.tolist()}
        assert len(changed) == len(present) + 3
        absent = torch.tensor(sorted({*range(40)} - {*changed.tolist()}))
        used.append(changed.tolist())
        for parameter, axis in axes.items():
            assert isinstance(parameter, nn.Parameter)
            same = (parameter == before[parameter]).movedim(axis, 0).reshape(40, -1)
            assert same[absent].all()
            assert not same[changed].all(dim=1).any()
            for key, average in moments.get(parameter, {}).items():
                if average.dim():
                    now = averages_of(game, parameter)[key]
                    same = (now == average).movedim(axis, 0).reshape(40, -1)
                    assert same[absent].all()
                    assert not same[changed].all(dim=1).any()
        others = [p for p in network.parameters() if p not in axes]
        assert all((p != before[p]).any() for p in others)
    assert layer.log_weights is None
    assert len({*map(tuple, used)}) == 4


def test_each_update_has_its_own_sample(sparse_X):
    game, network = new_game(make_few("MultVAE"), sparse_X)
    used = []
    for users in ([0, 1, 2], [0, 1, 2], [2, 1, 0]):
        before = network.decoder.logits.bias.detach().clone()
        game.update(game.players[0], 0.0, torch.tensor(users), seeded())
        used.append((network.decoder.logits.bias != before).nonzero().squeeze(1).tolist())
    assert len({*map(tuple, used)}) == 3


def test_updates_equal_those_of_a_network_of_these_items(sparse_X):
    """Compare with dense code: softmax over the items, Adam on a copy of their parameters."""
    model = make_few("MultDAE", l2=6.0, dropout=0.0)
    game, network = new_game(model, sparse_X)
    parts = {name: p.detach().clone() for name, p in network.named_parameters()}
    axes = {"encoder.first.weight": 0, "decoder.logits.weight": 1, "decoder.logits.bias": 0}
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in parts.items()}
    for step, users in enumerate(torch.arange(15).split(5), 1):
        present = np.unique(sparse_X[users.numpy()].indices)
        bias = network.decoder.logits.bias.detach().clone()
        game.update(game.players[0], 0.0, users, seeded())
        items = (network.decoder.logits.bias != bias).nonzero().squeeze(1)
        is_present = torch.isin(items, torch.tensor(present))
        shift = torch.where(is_present, 0.0, math.log((40 - len(present)) / 3))
        of = {n: p.index_select(axes[n], items) if n in axes else p for n, p in parts.items()}
        of = {name: part.clone().requires_grad_() for name, part in of.items()}
        x = torch.tensor(sparse_X[users.numpy()].toarray()[:, items], dtype=torch.float32)
        h = torch.tanh(F.normalize(x) @ of["encoder.first.weight"] + of["encoder.first.bias"])
        scores = h @ of["decoder.logits.weight"] + of["decoder.logits.bias"] + shift
        loss = -(x * F.log_softmax(scores, dim=1)).sum(dim=1).mean()
        norms = (of[f"{n}.weight"].square().sum() for n in ("encoder.first", "decoder.logits"))
        gradients = torch.autograd.grad(loss + 6.0 / 60 * sum(norms), [*of.values()])
        for (name, part), gradient in zip(of.items(), gradients, strict=True):
            index = items if name in axes else torch.arange(part.shape[0])
            first, second = (m.index_select(axes.get(name, 0), index) for m in moments[name])
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            size = (second / (1 - 0.999**step)).sqrt() + 1e-8
            new = part.detach() - 0.02 * first / (1 - 0.9**step) / size
            for whole, of_items in zip(
                [parts[name], *moments[name]], [new, first, second], strict=True
            ):
                whole.index_copy_(axes.get(name, 0), index, of_items)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), parts[name], rtol=1e-4, atol=2e-5)


class LargestTensor(TorchDispatchMode):
    """Records the largest number of entries of a new tensor."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        writes = function in (torch.ops.aten.index_copy_.default, torch.ops.aten.detach.default)
        if isinstance(out, torch.Tensor) and not writes:
            self.size = max(self.size, out.numel())
        return out


@pytest.mark.parametrize("likelihood", ["multinomial", "n-choose-k"])
def test_an_update_has_no_tensor_of_all_items(likelihood, sparse_X):
    X = csr_array((sparse_X.data, sparse_X.indices, sparse_X.indptr), (60, 40_000))
    for n_sampled_items, is_small in [(3, True), (None, False)]:
        model = make_few("MultVAE", likelihood=likelihood, n_sampled_items=n_sampled_items)
        game, _ = new_game(model, X)
        game.update(game.players[0], 0.0, torch.arange(5), seeded())  # Adam creates its averages
        with LargestTensor() as largest:
            game.update(game.players[0], 0.0, torch.arange(5), seeded())
        assert (largest.size < 1000) == is_small


def test_a_failed_update_leaves_all_items(sparse_X, monkeypatch):
    model = make_few("MultVAE")
    game, network = new_game(model, sparse_X)
    game.update(game.players[0], 0.0, torch.arange(5), seeded())
    before = {name: p.clone() for name, p in network.state_dict().items()}
    moments = [t.clone() for t in game.state_dict()["players"]["autoencoder"]["adam"][0].values()]

    def fail(self, closure=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.Adam, "step", fail)
    with pytest.raises(KeyboardInterrupt):
        game.update(game.players[0], 0.0, torch.arange(5, 10), seeded())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    after = game.state_dict()["players"]["autoencoder"]["adam"][0].values()
    assert all(map(torch.equal, moments, after))
    assert network.decoder.logits.log_weights is None


# --- fits


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("likelihood", ["multinomial", "n-choose-k", "bernoulli"])
def test_a_sample_of_all_other_items_is_no_sample(name, likelihood, sparse_X):
    settings = {"likelihood": likelihood, "l2": 0.5, "batch_size": 5}
    model = make(name, **settings, n_sampled_items=40).fit(sparse_X)
    full = make(name, **settings).fit(sparse_X)
    assert_same(model, full)
    for figures, of_full in zip(model.history_, full.history_, strict=True):
        assert figures | {"seconds": 0} == of_full | {"seconds": 0}
    assert differ(make(name, **settings, n_sampled_items=3).fit(sparse_X), full)


@pytest.mark.parametrize("name", SAMPLED)
def test_fits_are_deterministic(name, sparse_X):
    model = make_few(name).fit(sparse_X)
    assert_same(make_few(name).fit(sparse_X), model)
    assert differ(make_few(name, random_state=1).fit(sparse_X), model)
    assert np.isfinite(model.predict(sparse_X)).all()
    assert differ(make_few(name).fit(sparse_X, sample_weight=np.arange(1.0, 61.0)), model)
    # Without a penalty, weights that are equal change nothing but the rounding.
    model = make_few(name, l2=0.0).fit(sparse_X)
    weighted = make_few(name, l2=0.0).fit(sparse_X, sample_weight=np.full(60, 2.0))
    assert_allclose(weighted.predict(sparse_X), model.predict(sparse_X), rtol=1e-3, atol=1e-4)


def test_a_resumed_fit_ends_like_one_without_interruption(sparse_X, tmp_path, monkeypatch):
    expected = make_few("MultVAE", max_epochs=4).fit(sparse_X)
    model = make_few("MultVAE", max_epochs=4)
    epochs = iter([move_average] * 2)
    monkeypatch.setattr(_recommender, "move_average", lambda *args: next(epochs)(*args))
    with pytest.raises(StopIteration):
        model.fit(sparse_X, checkpoint_path=tmp_path / "checkpoint")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["checkpoint"]
    with pytest.raises(ValueError, match="n_sampled_items"):
        make_few("MultVAE", max_epochs=4, n_sampled_items=4).fit(
            sparse_X, checkpoint_path=tmp_path / "checkpoint"
        )
    assert_same(model.fit(sparse_X, checkpoint_path=tmp_path / "checkpoint"), expected)


@pytest.mark.parametrize("name", SAMPLED)
def test_further_fits_and_copies(name, sparse_X, tmp_path):
    model = make_few(name, warm_start=True).fit(sparse_X[:, :35])
    before = model.predict(sparse_X[:, :35])
    assert np.abs(model.fit(sparse_X[:, :35]).predict(sparse_X[:, :35]) - before).max() > 1e-3
    model.save(tmp_path / "model")
    loaded = skvaecf.load(tmp_path / "model")
    assert loaded.n_sampled_items == 3
    model.partial_fit(sparse_X)
    assert_array_equal(loaded.partial_fit(sparse_X).predict(sparse_X), model.predict(sparse_X))
    model.set_params(n_sampled_items=40)
    full = loaded.set_params(n_sampled_items=None)
    assert_array_equal(
        model.partial_fit(sparse_X).predict(sparse_X), full.partial_fit(sparse_X).predict(sparse_X)
    )


def test_a_sample_learns_planted_blocks():
    X = make_interactions(400, 200, n_blocks=10, noise=0.1, density=0.05, random_state=0)
    settings = {"precision": "float32", "random_state": 0, "device": "cpu"}
    settings |= {"batch_size": 20, "max_epochs": 12, "early_stopping": False}
    full = MultVAE(10, **settings).fit(X[:200])
    model = MultVAE(10, n_sampled_items=30, **settings).fit(X[:200])
    popularity = skvaecf.Popularity().fit(X[:200])
    # On held-out users. A mini-batch has about 83 of the 200 items.
    scores = [skvaecf.ndcg_at_k(each, X[200:]) for each in (model, full, popularity)]
    assert scores[0] > 0.9 * scores[1] > 1.3 * scores[2], scores


# --- networks without a part for each item


class OwnBias(MultDAE):
    def _build(self, n_users, n_items):
        network = super()._build(n_users, n_items)
        network.decoder.own = nn.Parameter(torch.empty(2, n_items))
        return network


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (make_few("MultVAE", prior="vamp"), r"prior\.\w+"),
        (OwnBias(**FEW, max_epochs=1), r"decoder\.own"),
    ],
)
def test_other_parameters_of_items_are_refused(model, name, sparse_X):
    with pytest.raises(ValueError, match=f"n_sampled_items must be None: {name} has a part for"):
        model.fit(sparse_X)
    assert not hasattr(model, "network_")


def test_a_width_may_be_the_number_of_items(sparse_X):
    for name in SAMPLED:
        with naming(name):
            make_few(name, n_components=40).fit(sparse_X)


# --- "auto"


def test_auto_samples_from_very_many_items_only(sparse_X, monkeypatch):
    monkeypatch.setattr(_recommender, "SAMPLED_ITEMS", 3)
    all_items, sampled = (make_few("MultVAE", n_sampled_items=n).fit(sparse_X) for n in (None, 3))
    for many, expected in ((40, all_items), (39, sampled)):
        monkeypatch.setattr(_recommender, "MANY_ITEMS", many)
        assert_same(make_few("MultVAE", n_sampled_items="auto").fit(sparse_X), expected)


def test_auto_uses_all_items_of_networks_that_cannot_be_sampled(sparse_X, monkeypatch):
    monkeypatch.setattr(_recommender, "MANY_ITEMS", 0)
    models = [make_few("MultVAE", prior="vamp", n_sampled_items=n) for n in ("auto", None)]
    assert_same(*[model.fit(sparse_X) for model in models])
