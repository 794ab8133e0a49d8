"""VAEGAN against dense implementations of its objectives; discriminators with a known optimum."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from conftest import (
    assert_changes_only_its_parameters,
    assert_loss_and_gradients,
    assert_normalized_and_dropped,
    batch_of,
    game_on,
    log_likelihood,
    new_network,
    players_of,
    recorded_inputs,
    seeded,
    sum_of_squared_weights,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from torch.nn import functional as F

from skvaecf import VAEGANRecommender
from skvaecf.neural import (
    InteractionBatch,
    Player,
    squared_jacobian,
    squared_jacobian_estimate,
)
from skvaecf.neural._layers import initialize
from skvaecf.recommenders import vaegan
from skvaecf.recommenders.vaegan import (
    ImplicitEncoder,
    PosteriorDiscriminator,
    warn_of_discriminators,
)

N_USERS, N_ITEMS, N_COMPONENTS, NOISE, SIZE = 10, 24, 3, 2, 4


def build(X, **params):
    defaults = {
        "encoder_layer_sizes": (5,),
        "decoder_layer_sizes": (4,),
        "likelihood": "bernoulli",
        "noise_size": NOISE,
        "discriminator_layer_size": SIZE,
        "adversary_weight": 0.3,
        "data_adversary_weight": 0.7,
        "contractive_weight": 0.5,
        "l2": 0.0,
        "dropout": 0.0,
        "anneal_steps": 0,
    }
    model = VAEGANRecommender(N_COMPONENTS, **defaults | params)
    return model, new_network(model, X, 3, 0.05)


class Dense:
    """The model's functions on dense rows, from the equations."""

    def __init__(self, model, network, X):
        self.x = torch.tensor(X.toarray())
        self.unit = F.normalize(self.x)
        self.input = self.unit if model.normalize else self.x
        self.network = network
        generator = seeded(1)
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
        T = self.network.posterior_discriminator
        x = F.leaky_relu(self.unit @ T.from_items.weight + T.from_items.bias, 0.2)
        h = F.leaky_relu(z @ T.from_latent.weight.T + T.from_latent.bias, 0.2)
        inner = (T.theta(x[:, :SIZE]) * T.s(h[:, :SIZE])).sum(dim=1)
        rest = T.a(x[:, SIZE:])[:, 0] + T.b(h[:, SIZE:])[:, 0]
        return inner + rest + (z**2 - 1).sum(dim=1) / 2

    def D(self, v):
        D = self.network.data_discriminator
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
        log = F.logsigmoid
        loss = model.adversary_weight * self.T(z) - log_likelihood(self.x, logits, model.likelihood)
        if model.data_adversary_weight:
            loss = loss - model.data_adversary_weight * log(self.D(fake))
        if model.contractive_weight:
            loss = loss + model.contractive_weight * self.squares()
        penalty = sum_of_squared_weights(self.network.encoder, self.network.decoder)
        loss = loss + model.l2 / N_USERS * penalty
        losses = {
            "posterior_discriminator": -(log(self.T(z)) + log(-self.T(self.prior))),
            "autoencoder": loss,
        }
        if model.data_adversary_weight:
            losses["data_discriminator"] = -(log(self.D(self.x)) + log(-self.D(fake)))
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
def test_losses_and_gradients_are_those_of_the_equations(small_X, params):
    model, network = build(small_X, **params)
    expected = Dense(model, network, small_X).losses(model)
    players = players_of(model, network, small_X)
    assert {player.name for player in players} == set(expected)
    for player in players:
        loss = player.loss(batch_of(small_X))
        assert_loss_and_gradients(loss, expected[player.name], player.parameters)


def test_the_weight_of_the_posterior_discriminator_rises_from_0(small_X):
    model, network = build(small_X, anneal_steps=20, adversary_weight=0.8)
    autoencoder = players_of(model, network, small_X)[-1]
    losses = [autoencoder.loss(batch_of(small_X, step=step)).item() for step in (0, 5, 20, 99)]
    dense = Dense(model, network, small_X)
    whole = 0.8 * dense.T(dense.z(dense.input, dense.noise)).mean().item()
    assert np.subtract(losses, losses[0]) == pytest.approx(
        whole * np.array([0, 0.25, 1, 1]), rel=1e-4
    )


def test_an_update_of_a_player_changes_its_own_parameters_only(small_X):
    model, network = build(small_X)
    players = players_of(model, network, small_X)
    parts = {
        "posterior_discriminator": [network.posterior_discriminator],
        "data_discriminator": [network.data_discriminator],
        "autoencoder": [network.encoder, network.decoder],
    }
    assert [player.name for player in players] == list(parts)
    for player in players:
        own = [id(p) for module in parts[player.name] for p in module.parameters()]
        assert [id(p) for p in player.parameters] == own
        assert_changes_only_its_parameters(player, network, InteractionBatch.from_csr(small_X))


def test_the_posterior_discriminator_learns_log_q_over_p():
    # Two kinds of users, whose posteriors are N(m, s^2 I): the best T is known.
    means, s = torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.5
    X = csr_array(np.eye(2, dtype=np.float32))
    model = VAEGANRecommender(2, noise_size=2, discriminator_layer_size=32, dropout=0.0)
    network = new_network(model, X)
    network.encoder = Planted(means, s)
    loss = players_of(model, network, X)[0].loss
    x, users = InteractionBatch.from_csr(X), torch.arange(1000) % 2
    generator = seeded()
    for learning_rate in (1e-2, 1e-3, 1e-4):
        player = Player("T", [*network.posterior_discriminator.parameters()], loss, learning_rate)
        game_on([(0.0, users)] * 300, [player], x).play(0, generator)
    # Compared where there are samples of both: elsewhere T is not determined.
    q = torch.distributions.Normal(means[users], s)
    z = means[users] + s * torch.randn(1000, 2, generator=generator)
    with torch.no_grad():
        learned = network.posterior_discriminator(x.rows(users), z)
    known = (q.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z)).sum(dim=1)
    # The mean of T estimates the KL divergence.
    assert learned.mean().item() == pytest.approx(known.mean().item(), abs=0.1)
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
def test_the_contractive_penalty_is_that_of_the_jacobian(small_X, layer_sizes):
    encoder = ImplicitEncoder(N_ITEMS, layer_sizes, N_COMPONENTS, NOISE)
    initialize(encoder, seeded(0), None)
    x = InteractionBatch.from_csr(small_X)
    noise = torch.randn(N_USERS, NOISE, generator=seeded(1))
    _, hidden = encoder(x, noise)
    slopes = [1 - h**2 for h in hidden]

    def z(row, e):
        h = row @ encoder.from_items.weight + encoder.from_items.bias
        for t, layer in enumerate(encoder.from_below):
            h = layer(torch.tanh(h + encoder.from_noise[t](e)))
        return h

    rows = torch.tensor(small_X.toarray())
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
    generator = seeded(0)
    estimates = torch.stack(
        [
            squared_jacobian_estimate(encoder.weights, slopes, generator).expand(N_USERS)
            for _ in range(2000)
        ]
    )
    error = estimates.std(dim=0) / 2000**0.5
    assert ((estimates.mean(dim=0) - expected).abs() < 5 * error + 1e-5).all()


def test_accuracies_are_logged(small_X):
    model, network = build(small_X)
    dense = Dense(model, network, small_X)
    z = dense.z(dense.input, dense.noise)
    fake = dense.logits(z).sigmoid() * dense.x
    pairs = {
        "posterior_discriminator": (dense.T(z), dense.T(dense.prior)),
        "data_discriminator": (dense.D(dense.x), dense.D(fake)),
    }
    for player in players_of(model, network, small_X)[:2]:
        logged = {}
        player.loss(batch_of(small_X, log=logged.__setitem__))
        real, fake = pairs[player.name]
        assert logged["accuracy"] == pytest.approx(
            (((real > 0).float().mean() + (fake < 0).float().mean()) / 2).item()
        )


def test_history_has_the_figures_of_the_discriminators(small_X):
    model = VAEGANRecommender(
        2,
        encoder_layer_sizes=(4,),
        discriminator_layer_size=4,
        data_adversary_weight=0.1,
        max_epochs=2,
        random_state=0,
    )
    for record in model.fit(small_X).history_:
        for name in ("posterior_discriminator", "data_discriminator"):
            assert 0 <= record[f"{name}_accuracy"] <= 1
            assert record[f"{name}_loss"] > 0


@pytest.mark.parametrize(
    ("loss", "fate"), [(0.5, None), (199.0, None), (201.0, "diverged"), (0.005, "collapsed")]
)
def test_discriminators_that_diverge_or_collapse_are_reported(loss, fate):
    record = {
        "posterior_discriminator_loss": 1.0,
        "data_discriminator_loss": loss,
        "autoencoder_loss": 9,
    }
    if fate is None:
        warn_of_discriminators(record)
        return
    with pytest.warns(ConvergenceWarning, match=f"The data_discriminator has {fate}.* {loss:.3g}"):
        warn_of_discriminators(record)


def test_transform_is_z_without_noise_and_predict_its_decoding(small_X):
    model = VAEGANRecommender(
        2,
        encoder_layer_sizes=(4,),
        decoder_layer_sizes=(3,),
        discriminator_layer_size=4,
        max_epochs=2,
        device="cpu",
        random_state=0,
    ).fit(small_X)
    network, x = model.network_, F.normalize(torch.tensor(small_X.toarray()))
    encoder = network.encoder
    with torch.no_grad():
        h = torch.tanh(x @ encoder.from_items.weight + encoder.from_items.bias)
        z = encoder.from_below[0](h)
        scores = network.decoder(z)
    assert_allclose(model.transform(small_X), z, rtol=1e-5, atol=1e-6)
    assert_allclose(model.predict(small_X), scores, rtol=1e-5, atol=1e-6)
    assert_array_equal(model.predict(small_X), model.predict(small_X))


def test_the_posterior_discriminator_starts_from_the_known_prior():
    T = PosteriorDiscriminator(N_ITEMS, N_COMPONENTS, SIZE)
    for parameter in T.parameters():
        torch.nn.init.zeros_(parameter)
    z = torch.randn(2, N_COMPONENTS, generator=seeded(0))
    score = T(InteractionBatch.from_csr(csr_array((2, N_ITEMS), dtype=np.float32)), z)
    assert_allclose(score.detach(), (z**2 - 1).sum(dim=1) / 2)


def test_the_epoch_kept_is_the_one_that_is_warned_of(small_X, monkeypatch):
    seen = []
    monkeypatch.setattr(vaegan, "warn_of_discriminators", seen.append)
    model = VAEGANRecommender(
        2, discriminator_layer_size=4, max_epochs=4, early_stopping=False
    ).fit(small_X)
    assert seen == [model.history_[model.best_iter_ - 1]]


def test_dropout_is_applied_to_the_normalised_input(small_X):
    model, network = build(small_X, dropout=0.5)
    inputs = recorded_inputs(network.encoder.from_items)
    players_of(model, network, small_X)[-1].loss(batch_of(small_X))
    assert_normalized_and_dropped(inputs[0], small_X, 0.5)


def test_discriminators_know_users_by_whole_rows(small_X):
    model, network = build(small_X, dropout=0.5)
    inputs = recorded_inputs(
        network.posterior_discriminator.from_items, network.data_discriminator.user
    )
    for player in players_of(model, network, small_X):
        player.loss(batch_of(small_X))
    assert len(inputs) == 5  # T of z and of the prior, z_c; T and z_c of the autoencoder
    for rows in inputs:
        assert_normalized_and_dropped(rows, small_X, 0.0)
