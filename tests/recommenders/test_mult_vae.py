"""Mult-VAE against a dense implementation of its objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import (
    assert_loss_and_gradients,
    assert_normalized_and_dropped,
    batch_of,
    log_likelihood,
    new_network,
    players_of,
    recorded_inputs,
    seeded,
    sum_of_squared_weights,
)
from numpy.testing import assert_allclose
from torch.nn import functional as F

from skvaecf import InverseAutoregressiveFlow, MultVAE, VampPrior

N_COMPONENTS = 3
LAYERS = {"encoder_layer_sizes": (5,), "decoder_layer_sizes": (4,)}


def player_and_network(X, **params):
    defaults = {"likelihood": "multinomial", "dropout": 0.0, "anneal_steps": 0, "l2": 0.0}
    model = MultVAE(N_COMPONENTS, **LAYERS | defaults | params)
    network = new_network(model, X, 3, 0.05)
    (player,) = players_of(model, network, X)
    return player, network


def dense_terms(network, X, likelihood="multinomial"):
    """Negative log-likelihood and KL term of each user, from the equations."""
    x = torch.tensor(X.toarray())
    encoder, decoder = network.encoder, network.decoder
    h = torch.tanh(F.normalize(x) @ encoder.first.weight + encoder.first.bias)
    h = F.linear(h, encoder.rest[1].weight, encoder.rest[1].bias)
    mean, log_variance = h[:, :N_COMPONENTS], h[:, N_COMPONENTS:]
    noise = torch.randn(mean.shape, generator=seeded(1))
    z = mean + (log_variance / 2).exp() * noise
    h = torch.tanh(F.linear(z, decoder.hidden[0].weight, decoder.hidden[0].bias))
    logits = h @ decoder.logits.weight + decoder.logits.bias
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return -log_likelihood(x, logits, likelihood), kl


@pytest.mark.parametrize(
    ("likelihood", "kl_weight", "l2"),
    [
        ("multinomial", 0.0, 0.0),
        ("multinomial", 0.2, 0.0),
        ("multinomial", 1.0, 5.0),
        ("bernoulli", 0.2, 0.0),
    ],
)
def test_loss_and_gradient_are_those_of_the_equations(small_X, likelihood, kl_weight, l2):
    player, network = player_and_network(small_X, likelihood=likelihood, kl_weight=kl_weight, l2=l2)
    nll, kl = dense_terms(network, small_X, likelihood)
    expected = (nll + kl_weight * kl).mean() + l2 / 10 * sum_of_squared_weights(network)
    assert kl.min() > 0.01
    assert len(player.parameters) == len(list(network.parameters())) == 8
    assert_loss_and_gradients(player.loss(batch_of(small_X)), expected, player.parameters)


@pytest.mark.parametrize(("step", "fraction"), [(0, 0.0), (5, 0.25), (20, 1.0), (99, 1.0)])
def test_kl_weight_rises_with_the_steps(small_X, step, fraction):
    player, network = player_and_network(small_X, kl_weight=0.8, anneal_steps=20)
    nll, kl = dense_terms(network, small_X)
    expected = (nll + fraction * 0.8 * kl).mean().item()
    assert player.loss(batch_of(small_X, step=step)).item() == pytest.approx(expected, rel=1e-5)


def test_kl_weight_rises_with_the_epochs(small_X):
    player, network = player_and_network(small_X, kl_weight=0.8, anneal_steps="auto", max_epochs=60)
    nll, kl = dense_terms(network, small_X)
    loss = player.loss(batch_of(small_X, step=1000, epoch=6.0)).item()
    assert loss == pytest.approx((nll + 6 / 30 * 0.8 * kl).mean().item(), rel=1e-5)


def test_dropout_is_applied_to_the_normalised_input(small_X):
    player, network = player_and_network(small_X, dropout=0.5, kl_weight=0.0)
    inputs = recorded_inputs(network.encoder.first)
    player.loss(batch_of(small_X))
    assert_normalized_and_dropped(inputs[0], small_X, 0.5)


def test_transform_is_the_mean_and_predict_its_decoding(small_X):
    model = MultVAE(N_COMPONENTS, **LAYERS, max_epochs=2, device="cpu", random_state=0)
    model.fit(small_X)
    parameters = {n: p.detach().numpy() for n, p in model.network_.named_parameters()}
    rows = small_X.toarray() / np.sqrt(small_X.sum(axis=1))[:, None]
    h = np.tanh(rows @ parameters["encoder.first.weight"] + parameters["encoder.first.bias"])
    h = h @ parameters["encoder.rest.1.weight"].T + parameters["encoder.rest.1.bias"]
    mean = h[:, :N_COMPONENTS]
    assert_allclose(model.transform(small_X), mean, rtol=1e-4, atol=1e-6)
    h = np.tanh(
        mean @ parameters["decoder.hidden.0.weight"].T + parameters["decoder.hidden.0.bias"]
    )
    scores = h @ parameters["decoder.logits.weight"] + parameters["decoder.logits.bias"]
    assert_allclose(model.predict(small_X), scores, rtol=1e-4, atol=1e-6)


def test_log_variances_are_kept_in_range(small_X):
    losses = []
    for kl_weight in (0.0, 1.0):
        player, network = player_and_network(small_X, kl_weight=kl_weight)
        with torch.no_grad():
            network.encoder.rest[1].weight.zero_()
            network.encoder.rest[1].bias.fill_(0.0)
            network.encoder.rest[1].bias[N_COMPONENTS:] = 1000.0
        losses.append(player.loss(batch_of(small_X)).item())
    kl = N_COMPONENTS * 0.5 * (np.exp(4) - 1 - 4)
    assert losses[1] - losses[0] == pytest.approx(kl, rel=1e-4)


@pytest.mark.parametrize(
    "params",
    [
        {"prior": VampPrior},
        {"prior": InverseAutoregressiveFlow()},
        {"posterior": VampPrior()},
        {"posterior": InverseAutoregressiveFlow},
    ],
)
def test_values_that_build_no_prior_or_posterior_are_named(params, small_X):
    (name,) = params
    with pytest.raises(ValueError, match=f"{name} cannot be built, got .*(Vamp|Flow)"):
        MultVAE(2, encoder_layer_sizes=(), max_epochs=1, **params).fit(small_X)
