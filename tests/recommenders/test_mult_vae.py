"""Mult-VAE against a dense implementation of its objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional as F

from skvaecf import InverseAutoregressiveFlow, MultVAE, VampPrior
from skvaecf.datasets import make_interactions
from skvaecf.interactions import InteractionBatch
from skvaecf.modules import initialize
from skvaecf.objectives import anneal
from skvaecf.training import Batch

N_ITEMS, N_COMPONENTS = 24, 3


@pytest.fixture(scope="module")
def X():
    return make_interactions(10, N_ITEMS, random_state=0)


def player_and_network(**params):
    params = {"dropout": 0.0, "anneal_steps": 0} | params
    model = MultVAE(N_COMPONENTS, encoder_layer_sizes=(5,), decoder_layer_sizes=(4,), **params)
    network = model._build(10, N_ITEMS)
    initialize(network, torch.Generator().manual_seed(0), None)
    with torch.no_grad():  # small weights would hide errors
        for parameter in network.parameters():
            parameter.mul_(3).add_(0.05)
    (player,) = model._players(network)
    return player, network


def batch(X, step=0, epoch=0.0):
    return Batch(
        users=torch.arange(X.shape[0]),
        x=InteractionBatch.from_csr(X),
        step=step,
        epoch=epoch,
        generator=torch.Generator().manual_seed(1),
    )


def dense_terms(network, X, likelihood="multinomial"):
    """Negative log-likelihood and KL term of each user, from the equations."""
    x = torch.tensor(X.toarray())
    encoder, decoder = network.encoder, network.decoder
    h = torch.tanh(F.normalize(x) @ encoder.first.weight + encoder.first.bias)
    h = F.linear(h, encoder.rest[1].weight, encoder.rest[1].bias)
    mean, log_variance = h[:, :N_COMPONENTS], h[:, N_COMPONENTS:]
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    z = mean + (log_variance / 2).exp() * noise
    h = torch.tanh(F.linear(z, decoder.hidden[0].weight, decoder.hidden[0].bias))
    logits = h @ decoder.logits.weight + decoder.logits.bias
    if likelihood == "multinomial":
        log_prob = (x * F.log_softmax(logits, dim=1)).sum(dim=1)
    else:
        log_prob = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=1)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return -log_prob, kl


@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli"])
@pytest.mark.parametrize("kl_weight", [0.0, 0.2, 1.0])
def test_loss_and_gradient_are_those_of_the_equations(X, likelihood, kl_weight):
    player, network = player_and_network(likelihood=likelihood, kl_weight=kl_weight)
    loss = player.loss(batch(X))
    nll, kl = dense_terms(network, X, likelihood)
    expected = (nll + kl_weight * kl).mean()
    assert kl.min() > 0.01
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(player.parameters) == len(list(network.parameters())) == 8
    for ours, theirs in zip(
        torch.autograd.grad(loss, player.parameters),
        torch.autograd.grad(expected, player.parameters),
        strict=True,
    ):
        assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("step", "fraction"), [(0, 0.0), (5, 0.25), (20, 1.0), (99, 1.0)])
def test_kl_weight_rises_with_the_steps(X, step, fraction):
    player, network = player_and_network(kl_weight=0.8, anneal_steps=20)
    nll, kl = dense_terms(network, X)
    expected = (nll + fraction * 0.8 * kl).mean().item()
    assert player.loss(batch(X, step)).item() == pytest.approx(expected, rel=1e-5)


def test_annealing_in_a_number_of_steps():
    weights = [anneal(step, 0.0, 40) for step in range(100)]
    assert weights[:3] == [0.0, 1 / 40, 2 / 40]
    assert weights[40:] == [1.0] * 60
    assert_array_equal(np.diff(weights[:41]) > 0, True)


def test_annealing_in_no_steps_is_the_whole_weight():
    assert anneal(0, 0.0, 0) == 1.0


def test_automatic_annealing_ends_after_30_epochs_whatever_the_updates():
    for updates_per_epoch in (1, 1000):
        weights = [anneal(epoch * updates_per_epoch, float(epoch), "auto") for epoch in range(60)]
        assert weights[:31] == pytest.approx([epoch / 30 for epoch in range(31)])
        assert weights[30:] == [1.0] * 30


def test_dropout_falls_on_the_normalised_input(X):
    player, network = player_and_network(dropout=0.5, kl_weight=0.0)
    inputs = []
    network.encoder.first.register_forward_hook(lambda _, args, __: inputs.append(args[0].values))
    player.loss(batch(X))
    counts = np.diff(X.indptr)
    kept = inputs[0] > 0
    assert 0.3 < kept.float().mean() < 0.7
    expected = np.repeat(2 / np.sqrt(counts), counts).astype(np.float32)
    assert_allclose(inputs[0][kept], expected[kept.numpy()], rtol=1e-5)


def test_transform_is_the_mean_and_predict_its_decoding(X):
    model = MultVAE(
        N_COMPONENTS,
        encoder_layer_sizes=(5,),
        decoder_layer_sizes=(4,),
        max_epochs=2,
        device="cpu",
        random_state=0,
    ).fit(X)
    parameters = {n: p.detach().numpy() for n, p in model.network_.named_parameters()}
    rows = X.toarray() / np.sqrt(X.sum(axis=1))[:, None]
    h = np.tanh(rows @ parameters["encoder.first.weight"] + parameters["encoder.first.bias"])
    h = h @ parameters["encoder.rest.1.weight"].T + parameters["encoder.rest.1.bias"]
    mean = h[:, :N_COMPONENTS]
    assert_allclose(model.transform(X), mean, rtol=1e-4, atol=1e-6)
    h = np.tanh(
        mean @ parameters["decoder.hidden.0.weight"].T + parameters["decoder.hidden.0.bias"]
    )
    scores = h @ parameters["decoder.logits.weight"] + parameters["decoder.logits.bias"]
    assert_allclose(model.predict(X), scores, rtol=1e-4, atol=1e-6)


def test_log_variances_are_kept_in_range(X):
    player, network = player_and_network(kl_weight=1.0)
    with torch.no_grad():
        network.encoder.rest[1].weight.zero_()
        network.encoder.rest[1].bias.fill_(0.0)
        network.encoder.rest[1].bias[N_COMPONENTS:] = 1000.0
    nll = player_and_network(kl_weight=0.0)
    with torch.no_grad():
        nll[1].load_state_dict(network.state_dict())
    kl = player.loss(batch(X)) - nll[0].loss(batch(X))
    assert kl.item() == pytest.approx(N_COMPONENTS * 0.5 * (np.exp(4) - 1 - 4), rel=1e-4)


@pytest.mark.parametrize(
    "params",
    [
        {"prior": VampPrior},
        {"prior": InverseAutoregressiveFlow()},
        {"posterior": VampPrior()},
        {"posterior": InverseAutoregressiveFlow},
    ],
)
def test_what_builds_no_prior_or_posterior_is_named(params, X):
    (name,) = params
    with pytest.raises(ValueError, match=f"{name} cannot be built, got .*(Vamp|Flow)"):
        MultVAE(2, encoder_layer_sizes=(), max_epochs=1, **params).fit(X)
