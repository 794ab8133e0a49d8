"""aWAE against a dense implementation of its objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import (
    assert_loss_and_gradients,
    batch_of,
    log_likelihood,
    new_network,
    players_of,
    seeded,
)
from numpy.testing import assert_allclose
from torch.nn import functional as F

from skvaecf import AWAE, MultVAE
from skvaecf.datasets import make_interactions
from skvaecf.neural import InteractionBatch, mmd
from skvaecf.recommenders.awae import posterior

N_COMPONENTS = 3


def player_and_network(cls, X, **params):
    defaults = {
        "encoder_layer_sizes": (5,),
        "likelihood": "multinomial",
        "kl_weight": 0.5,
        "l2": 0.0,
        "dropout": 0.0,
        "anneal_steps": 0,
    }
    model = cls(N_COMPONENTS, **defaults | params)
    network = new_network(model, X, 3, 0.05)
    (player,) = players_of(model, network, X)
    return player, network


def dense_loss(network, X, mmd_weight, kl_weight, l1, likelihood):
    """Compute the objective from its definition, with the random numbers of the loss."""
    generator = seeded(1)
    noise = torch.randn(X.shape[0], N_COMPONENTS, generator=generator)
    prior = torch.randn(X.shape[0], N_COMPONENTS, generator=generator)
    x = torch.tensor(X.toarray())
    first, last = network.encoder.first, network.encoder.rest[1]
    hidden = torch.tanh(F.normalize(x) @ first.weight + first.bias)
    mean, log_variance = (hidden @ last.weight.T + last.bias).chunk(2, dim=1)
    z = mean + (log_variance / 2).exp() * noise
    logits = z @ network.decoder.logits.weight + network.decoder.logits.bias
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    rows = kl_weight * kl + l1 * z.abs().sum(dim=1) - log_likelihood(x, logits, likelihood)
    return rows.mean() + mmd_weight * mmd(z, prior)


@pytest.mark.parametrize(
    ("mmd_weight", "kl_weight", "l1", "likelihood"),
    [
        (0.0, 0.0, 0.0, "multinomial"),
        (10.0, 0.0, 0.0, "multinomial"),
        (0.0, 0.7, 0.0, "multinomial"),
        (0.0, 0.0, 2.0, "multinomial"),
        (10.0, 0.7, 2.0, "multinomial"),
        (10.0, 0.7, 2.0, "bernoulli"),
    ],
)
def test_loss_and_gradient_are_those_of_the_equations(
    small_X, mmd_weight, kl_weight, l1, likelihood
):
    weights = {"mmd_weight": mmd_weight, "kl_weight": kl_weight, "l1": l1, "likelihood": likelihood}
    player, network = player_and_network(AWAE, small_X, **weights)
    assert len(player.parameters) == len(list(network.parameters()))
    expected = dense_loss(network, small_X, **weights)
    assert_loss_and_gradients(player.loss(batch_of(small_X)), expected, player.parameters)


def test_without_the_new_terms_it_is_mult_vae(small_X):
    ours, _ = player_and_network(AWAE, small_X, mmd_weight=0.0, l1=0.0, dropout=0.5)
    theirs, _ = player_and_network(MultVAE, small_X, dropout=0.5)
    losses = [player.loss(batch_of(small_X)) for player in (ours, theirs)]
    assert losses[0].item() == losses[1].item()
    for a, b in zip(
        torch.autograd.grad(losses[0], ours.parameters),
        torch.autograd.grad(losses[1], theirs.parameters),
        strict=True,
    ):
        assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def fit(X, **params):
    params = {"kl_weight": 0.0, "l1": 0.0, "mmd_weight": 0.0, "learning_rate": 0.01} | params
    fixed = {"max_epochs": 60, "early_stopping": False, "device": "cpu", "random_state": 0}
    return AWAE(4, encoder_layer_sizes=(), **fixed, **params).fit(X)


@pytest.fixture(scope="module")
def blocks():
    return make_interactions(300, 40, n_blocks=2, random_state=0)


def test_the_discrepancy_brings_the_latent_vectors_to_the_prior(blocks):
    generator = seeded()
    x = InteractionBatch.from_csr(blocks).normalized()
    prior = torch.randn(300, 4, generator=generator)
    networks = (fit(blocks, mmd_weight=weight).network_ for weight in (0.0, 100.0))
    free, bound = (
        mmd(posterior(network, x).rsample(generator=generator), prior) for network in networks
    )
    assert free > 0.3
    assert bound < 0.1 * free


def test_l1_makes_latent_vectors_small(blocks):
    small, large = (np.abs(fit(blocks, l1=l1).transform(blocks)).mean() for l1 in (2.0, 0.0))
    assert small < 0.5 * large
