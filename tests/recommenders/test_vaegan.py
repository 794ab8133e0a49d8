"""VAEGAN against dense implementations of its objectives, and adversaries whose answer is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from torch.nn import functional as F

from skvaecf import VAEGANRecommender
from skvaecf.datasets import make_interactions
from skvaecf.interactions import InteractionBatch
from skvaecf.modules import initialize
from skvaecf.objectives import squared_jacobian, squared_jacobian_estimate
from skvaecf.recommenders import vaegan
from skvaecf.recommenders.vaegan import ImplicitEncoder, PosteriorAdversary, warn_of_adversaries
from skvaecf.training import Batch, Game, Player

N_USERS, N_ITEMS, N_COMPONENTS, NOISE, SIZE = 10, 24, 3, 2, 4


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, random_state=0)


def build(X, **params):
    defaults = {
        "encoder_layer_sizes": (5,),
        "decoder_layer_sizes": (4,),
        "noise_size": NOISE,
        "adversary_size": SIZE,
        "adversary_weight": 0.3,
        "data_adversary_weight": 0.7,
        "contractive_weight": 0.5,
        "l2": 0.0,
        "dropout": 0.0,
        "anneal_steps": 0,
    }
    model = VAEGANRecommender(N_COMPONENTS, **defaults | params)
    network = model._build(*X.shape)
    initialize(network, torch.Generator().manual_seed(0), InteractionBatch.from_csr(X))
    with torch.no_grad():  # small weights would hide errors
        for parameter in network.parameters():
            parameter.mul_(3).add_(0.05)
    return model, network


def batch(X, step=0, **fields):
    generator = torch.Generator().manual_seed(1)
    x = InteractionBatch.from_csr(X)
    return Batch(torch.arange(X.shape[0]), x, step, 0.0, generator, **fields)


class Dense:
    """The model's functions on dense rows, from the equations."""

    def __init__(self, model, network, X):
        self.x = torch.tensor(X.toarray())
        self.unit = F.normalize(self.x)
        self.input = self.unit if model.normalize else self.x
        self.network = network
        generator = torch.Generator().manual_seed(1)
        self.noise = torch.randn(N_USERS, NOISE, generator=generator)
        self.prior = torch.randn(N_USERS, N_COMPONENTS, generator=generator)

    def z(self, x, noise):
        encoder = self.network.encoder
        h = x @ encoder.from_items.weight + encoder.from_items.bias
        for t, layer in enumerate(encoder.from_below):
            h = torch.tanh(h + noise @ encoder.from_noise[t].weight.T)
            h = h @ layer.weight.T + layer.bias
        return h + noise @ encoder.from_noise[-1].weight.T

    def logits(self, z):
        first, last = self.network.decoder.hidden[0], self.network.decoder.logits
        return torch.tanh(z @ first.weight.T + first.bias) @ last.weight + last.bias

    def T(self, z):
        T = self.network.posterior_adversary
        x = F.leaky_relu(self.unit @ T.from_items.weight + T.from_items.bias, 0.2)
        h = F.leaky_relu(z @ T.from_latent.weight.T + T.from_latent.bias, 0.2)
        inner = (T.theta(x[:, :SIZE]) * T.s(h[:, :SIZE])).sum(dim=1)
        rest = T.a(x[:, SIZE:])[:, 0] + T.b(h[:, SIZE:])[:, 0]
        return inner + rest + (z**2).sum(dim=1) / 2

    def D(self, v):
        D = self.network.data_adversary
        z_c = torch.tanh(self.unit @ D.user.weight + D.user.bias)
        h = v @ D.from_items.weight + D.from_items.bias + z_c @ D.from_user.weight.T
        return (torch.tanh(h) @ D.last.weight.T + D.last.bias)[:, 0]

    def squares(self):
        def row(x, noise):
            return self.z(x[None], noise[None])[0]

        jacobians = [
            torch.autograd.functional.jacobian(lambda x, e=e: row(x, e), x, create_graph=True)
            for x, e in zip(self.input, self.noise, strict=True)
        ]
        return torch.stack([(J**2).sum() for J in jacobians])

    def losses(self, model):
        z = self.z(self.input, self.noise)
        logits = self.logits(z)
        fake = logits.sigmoid() * self.x
        if model.likelihood == "bernoulli":
            log_p = -F.binary_cross_entropy_with_logits(logits, self.x, reduction="none").sum(1)
        else:
            log_p = (self.x * F.log_softmax(logits, dim=1)).sum(dim=1)
        log = F.logsigmoid
        loss = -log_p + model.adversary_weight * self.T(z)
        if model.data_adversary_weight:
            loss = loss - model.data_adversary_weight * log(self.D(fake))
        if model.contractive_weight:
            loss = loss + model.contractive_weight * self.squares()
        weights = [*self.network.encoder.parameters(), *self.network.decoder.parameters()]
        loss = loss + model.l2 / N_USERS * sum((w**2).sum() for w in weights if w.dim() > 1)
        losses = {
            "posterior_adversary": -(log(self.T(z)) + log(-self.T(self.prior))),
            "autoencoder": loss,
        }
        if model.data_adversary_weight:
            losses["data_adversary"] = -(log(self.D(self.x)) + log(-self.D(fake)))
        return {name: loss.mean() for name, loss in losses.items()}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"normalize": False},
        {"likelihood": "multinomial"},
        {"l2": 2.0},
        {"encoder_layer_sizes": ()},
        {"encoder_layer_sizes": (6, 5)},
        {"contractive_weight": 0.0},
        {"contractive_weight": 0.0, "data_adversary_weight": 0.0},
    ],
    ids=str,
)
def test_losses_and_gradients_are_those_of_the_equations(X, params):
    model, network = build(X, **params)
    expected = Dense(model, network, X).losses(model)
    players = model._players(network)
    assert {p.name for p in players} == set(expected)
    for player in players:
        loss = player.loss(batch(X))
        assert loss.item() == pytest.approx(expected[player.name].item(), rel=1e-5)
        for ours, theirs in zip(
            torch.autograd.grad(loss, player.parameters),
            torch.autograd.grad(expected[player.name], player.parameters, retain_graph=True),
            strict=True,
        ):
            assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_l2_is_relative_to_all_users_whatever_the_batch(X):
    few = batch(X)._replace(users=torch.arange(4), x=batch(X).x.rows(torch.arange(4)))
    losses = []
    for l2 in (0.0, 2.0):
        model, network = build(X, l2=l2)
        few.generator.manual_seed(1)
        losses.append(model._players(network)[-1].loss(few).item())
    weights = [*network.encoder.parameters(), *network.decoder.parameters()]
    squares = sum((w**2).sum().item() for w in weights if w.dim() > 1)
    assert losses[1] - losses[0] == pytest.approx(2 / N_USERS * squares, rel=1e-4)


def test_the_weight_of_the_posterior_adversary_rises_from_0(X):
    model, network = build(X, anneal_steps=20, adversary_weight=0.8)
    autoencoder = model._players(network)[-1]
    losses = [autoencoder.loss(batch(X, step)).item() for step in (0, 5, 20, 99)]
    dense = Dense(model, network, X)
    whole = 0.8 * dense.T(dense.z(dense.input, dense.noise)).mean().item()
    assert np.subtract(losses, losses[0]) == pytest.approx(
        whole * np.array([0, 0.25, 1, 1]), rel=1e-4
    )


def test_a_move_of_a_player_changes_its_own_parameters_only(X):
    model, network = build(X)
    players = model._players(network)
    parts = {
        "posterior_adversary": [network.posterior_adversary],
        "data_adversary": [network.data_adversary],
        "autoencoder": [network.encoder, network.decoder],
    }
    assert [player.name for player in players] == list(parts)
    for player in players:
        before = {name: p.clone() for name, p in network.named_parameters()}
        x = InteractionBatch.from_csr(X)
        Game([player]).play(x, lambda: [(0.0, torch.arange(N_USERS))], torch.Generator())
        own = {id(p) for module in parts[player.name] for p in module.parameters()}
        for name, parameter in network.named_parameters():
            moved = not torch.equal(parameter, before[name])
            assert moved == (id(parameter) in own), (player.name, name)


def test_the_posterior_adversary_learns_log_q_over_p():
    # Two kinds of users, whose posteriors are N(m, s^2 I): the best T is known.
    means, s = torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.5
    X = csr_array(np.eye(2, dtype=np.float32))
    model = VAEGANRecommender(2, noise_size=2, adversary_size=32, dropout=0.0)
    network = model._build(2, 2)
    initialize(network, torch.Generator().manual_seed(0), InteractionBatch.from_csr(X))
    network.encoder = Planted(means, s)
    loss = model._players(network)[0].loss
    x, users = InteractionBatch.from_csr(X), torch.arange(1000) % 2
    generator = torch.Generator().manual_seed(0)
    for learning_rate in (1e-2, 1e-3, 1e-4):
        player = Player("T", [*network.posterior_adversary.parameters()], loss, learning_rate)
        Game([player]).play(x, lambda: [(0.0, users) for _ in range(300)], generator)
    # Where there are samples of both: elsewhere nothing is asked of T.
    q = torch.distributions.Normal(means[users], s)
    z = means[users] + s * torch.randn(1000, 2, generator=generator)
    with torch.no_grad():
        learned = network.posterior_adversary(x.rows(users), z)
    known = (q.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z)).sum(dim=1)
    assert learned.mean().item() == pytest.approx(
        known.mean().item(), abs=0.1
    )  # alpha T estimates alpha KL
    assert np.corrcoef(learned, known)[0, 1] > 0.95
    assert (learned - known).abs().mean() < 0.25


class Planted(torch.nn.Module):
    """An encoder that draws from normal posteriors."""

    def __init__(self, means, s):
        super().__init__()
        self.means, self.s = means, s

    def forward(self, x, noise):
        return x @ self.means + self.s * noise, []


@pytest.mark.parametrize("layer_sizes", [(), (6,), (6, 5), (4, 6, 5)])
def test_the_contractive_penalty_is_that_of_the_jacobian(X, layer_sizes):
    encoder = ImplicitEncoder(N_ITEMS, layer_sizes, N_COMPONENTS, NOISE)
    initialize(encoder, torch.Generator().manual_seed(0), None)
    x = InteractionBatch.from_csr(X)
    noise = torch.randn(N_USERS, NOISE, generator=torch.Generator().manual_seed(1))
    _, hidden = encoder(x, noise)
    slopes = [1 - h**2 for h in hidden]

    def z(row, e):
        h = row @ encoder.from_items.weight + encoder.from_items.bias
        for t, layer in enumerate(encoder.from_below):
            h = layer(torch.tanh(h + encoder.from_noise[t](e)))
        return h

    rows = torch.tensor(X.toarray())
    jacobians = [
        torch.autograd.functional.jacobian(lambda row, e=e: z(row, e), row)
        for row, e in zip(rows, noise, strict=True)
    ]
    expected = torch.stack([(J**2).sum() for J in jacobians])
    exact = squared_jacobian(encoder.weights, slopes).expand(N_USERS)
    assert_allclose(exact.detach(), expected, rtol=1e-5)
    # The estimate is |J^T v|^2, whose mean over all signs is the exact value.
    mean = (
        sum(
            torch.stack([(torch.tensor(v) @ J).square().sum() for J in jacobians])
            for v in product((-1.0, 1.0), repeat=N_COMPONENTS)
        )
        / 2**N_COMPONENTS
    )
    assert_allclose(mean, expected, rtol=1e-5)
    generator = torch.Generator().manual_seed(0)
    estimates = torch.stack(
        [
            squared_jacobian_estimate(encoder.weights, slopes, generator).expand(N_USERS)
            for _ in range(2000)
        ]
    )
    error = estimates.std(dim=0) / 2000**0.5
    assert ((estimates.mean(dim=0) - expected).abs() < 5 * error + 1e-5).all()


def test_the_signs_of_the_estimate_are_each_users_own_and_from_the_generator():
    # Users without differences: what differs is their signs.
    weights = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])]
    slopes = [torch.ones(100, 2)]
    state = torch.get_rng_state()
    first, again = (
        squared_jacobian_estimate(weights, slopes, torch.Generator().manual_seed(0))
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    # J = [[1, 2], [4, 6]], and |J^T v|^2 is 25 + 64 or 9 + 16.
    assert set(first.tolist()) == {89.0, 25.0}


def test_accuracies_are_logged(X):
    model, network = build(X)
    dense = Dense(model, network, X)
    z = dense.z(dense.input, dense.noise)
    fake = dense.logits(z).sigmoid() * dense.x
    pairs = {
        "posterior_adversary": (dense.T(z), dense.T(dense.prior)),
        "data_adversary": (dense.D(dense.x), dense.D(fake)),
    }
    for player in model._players(network)[:2]:
        logged = {}
        player.loss(batch(X, log=logged.__setitem__))
        real, fake = pairs[player.name]
        assert logged["accuracy"] == pytest.approx(
            (((real > 0).float().mean() + (fake < 0).float().mean()) / 2).item()
        )


def test_history_tells_how_the_adversaries_do(X):
    model = VAEGANRecommender(
        2,
        encoder_layer_sizes=(4,),
        adversary_size=4,
        data_adversary_weight=0.1,
        max_epochs=2,
        random_state=0,
    )
    for record in model.fit(X).history_:
        for adversary in ("posterior_adversary", "data_adversary"):
            assert 0 <= record[f"{adversary}_accuracy"] <= 1
            assert record[f"{adversary}_loss"] > 0


@pytest.mark.parametrize(
    ("loss", "fate"), [(0.5, None), (9.9, None), (10.1, "diverged"), (0.005, "collapsed")]
)
def test_adversaries_that_diverge_or_collapse_are_reported(loss, fate):
    record = {"posterior_adversary_loss": 1.0, "data_adversary_loss": loss, "autoencoder_loss": 9}
    if fate is None:
        warn_of_adversaries(record)
    else:
        with pytest.warns(ConvergenceWarning, match=f"The data_adversary has {fate}.* {loss:.3g}"):
            warn_of_adversaries(record)


def test_transform_is_z_without_noise_and_predict_its_decoding(X):
    model = VAEGANRecommender(
        2,
        encoder_layer_sizes=(4,),
        decoder_layer_sizes=(3,),
        adversary_size=4,
        max_epochs=2,
        device="cpu",
        random_state=0,
    ).fit(X)
    network, x = model.network_, F.normalize(torch.tensor(X.toarray()))
    encoder = network.encoder
    with torch.no_grad():
        h = torch.tanh(x @ encoder.from_items.weight + encoder.from_items.bias)
        z = encoder.from_below[0](h)
        scores = network.decoder(z)
    assert_allclose(model.transform(X), z, rtol=1e-5, atol=1e-6)
    assert_allclose(model.predict(X), scores, rtol=1e-5, atol=1e-6)
    assert_array_equal(model.predict(X), model.predict(X))


def test_the_posterior_adversary_starts_from_the_known_prior():
    T = PosteriorAdversary(N_ITEMS, N_COMPONENTS, SIZE)
    for parameter in T.parameters():
        torch.nn.init.zeros_(parameter)
    z = torch.randn(2, N_COMPONENTS, generator=torch.Generator().manual_seed(0))
    score = T(InteractionBatch.from_csr(csr_array((2, N_ITEMS), dtype=np.float32)), z)
    assert_allclose(score.detach(), (z**2).sum(dim=1) / 2)


def test_the_epoch_kept_is_the_one_that_is_warned_of(X, monkeypatch):
    seen = []
    monkeypatch.setattr(vaegan, "warn_of_adversaries", seen.append)
    model = VAEGANRecommender(2, adversary_size=4, max_epochs=4, early_stopping=False).fit(X)
    assert seen == [model.history_[model.best_iter_ - 1]]


def test_dropout_falls_on_the_normalised_input(X):
    model, network = build(X, dropout=0.5)
    inputs = []
    network.encoder.from_items.register_forward_hook(
        lambda _, args, __: inputs.append(args[0].values)
    )
    model._players(network)[-1].loss(batch(X))
    counts = np.diff(X.indptr)
    kept = (inputs[0] > 0).numpy()
    assert 0.3 < kept.mean() < 0.7
    assert_allclose(inputs[0][kept], np.repeat(2 / np.sqrt(counts), counts)[kept], rtol=1e-5)


def test_adversaries_know_users_by_whole_rows(X):
    model, network = build(X, dropout=0.5)
    inputs = []
    for layer in (network.posterior_adversary.from_items, network.data_adversary.user):
        layer.register_forward_hook(lambda _, args, __: inputs.append(args[0].values))
    for player in model._players(network):
        player.loss(batch(X))
    counts = np.diff(X.indptr)
    assert len(inputs) == 5  # T of z and of the prior, z_c; T and z_c of the autoencoder
    for values in inputs:
        assert_allclose(values, np.repeat(1 / np.sqrt(counts), counts), rtol=1e-5)
