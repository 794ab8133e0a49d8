"""RecVAE against a dense implementation of its objective, its prior against SciPy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import (
    assert_loss_and_gradients,
    assert_normalized_and_dropped,
    batch_of,
    game_on,
    log_likelihood,
    log_normal,
    new_network,
    players_of,
    recorded_inputs,
    seeded,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import norm
from torch.distributions import kl_divergence
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from skvaecf import RecVAE
from skvaecf.neural import DiagonalNormal, InteractionBatch, divergence, standard_normal
from skvaecf.recommenders import recvae
from skvaecf.recommenders.recvae import composite_prior

N_COMPONENTS, LAYERS = 3, (5, 5, 5)
PAPER = (0.15, 0.75, 0.1)


def normals(n_users=4, seed=0):
    generator = seeded(seed)
    parts = (torch.randn(n_users, N_COMPONENTS, generator=generator) for _ in range(2))
    return DiagonalNormal(*(part.double() for part in parts))


def build(X, **params):
    defaults = {"likelihood": "multinomial", "l2": 0.0, "dropout": 0.0}
    model = RecVAE(N_COMPONENTS, encoder_layer_sizes=LAYERS, **defaults | params)
    return model, new_network(model, X, 3, 0.05)


def change(network):
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.mul_(0.8)


# --- the prior


@pytest.mark.parametrize("weights", [PAPER, (0.5, 0.0, 0.5), (0.0, 1.0, 0.0), (1, 0, 0)])
def test_density_of_the_mixture_by_scipy(weights):
    old, z = normals(), 4 * normals(seed=1).mean
    ours = composite_prior(old, torch.tensor(weights)).log_prob(z)
    assert ours.shape == (4,)
    parts = [
        norm.logpdf(z),
        norm.logpdf(z, old.mean, (old.log_variance / 2).exp()),
        norm.logpdf(z, 0, np.exp(5)),
    ]
    b = np.reshape(weights, (3, 1, 1))
    # A mixture in each component, not one of whole vectors.
    assert_allclose(ours, logsumexp(parts, b=b, axis=0).sum(axis=1), rtol=1e-6)


def test_gradient_of_the_mixture_without_one_of_its_parts():
    z = normals(seed=1).mean.requires_grad_()
    (gradient,) = torch.autograd.grad(
        composite_prior(normals(), torch.tensor([0.0, 1.0, 0.0])).log_prob(z).sum(), z
    )
    assert_allclose(gradient, (normals().mean - z.detach()) / normals().variance, rtol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_sampled_divergence_is_the_closed_form_on_average(weights):
    n = 50_000
    q, old = normals(), normals(seed=1)
    many = DiagonalNormal(q.mean.repeat(n, 1), q.log_variance.repeat(n, 1))
    many_old = DiagonalNormal(old.mean.repeat(n, 1), old.log_variance.repeat(n, 1))
    z = many.rsample(generator=seeded(1))
    sampled = divergence(many, composite_prior(many_old, torch.tensor(weights)), z).view(n, 4)
    exact = kl_divergence(q, standard_normal(q.mean) if weights[0] else old)
    error = sampled.std(dim=0) / np.sqrt(n)
    assert (abs(sampled.mean(dim=0) - exact) < 4 * error).all()


# --- the objective


def dense_encoder(network, X):
    """Mean and log-variance of each user, from the equations."""
    encoder = network.encoder
    rows = F.normalize(torch.tensor(X.toarray()))
    pre = rows @ encoder.first.weight + encoder.first.bias
    outputs = []
    for layer, scale_and_shift in enumerate(encoder.norms):
        if layer > 0:
            linear = encoder.rest[layer - 1]
            pre = outputs[-1] @ linear.weight.T + linear.bias + sum(outputs)
        h = pre * torch.sigmoid(pre)
        centred = h - h.mean(dim=1, keepdim=True)
        h = centred / (centred.square().mean(dim=1, keepdim=True) + 0.1).sqrt()
        outputs.append(h * scale_and_shift.weight + scale_and_shift.bias)
    out = outputs[-1] @ encoder.out.weight.T + encoder.out.bias
    return out[:, :N_COMPONENTS], out[:, N_COMPONENTS:].clamp(-12, 4)


def dense_losses(model, network, old, X):
    x = torch.tensor(X.toarray())
    mean, log_variance = dense_encoder(network, X)
    z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=seeded(1))
    logits = z @ network.decoder.logits.weight + network.decoder.logits.bias
    nll = -log_likelihood(x, logits, "multinomial")
    w, zero = model.prior_weights, torch.zeros_like(z)
    density = (
        w[0] * log_normal(z, zero, zero).exp()
        + w[1] * log_normal(z, *old).exp()
        + w[2] * log_normal(z, zero, zero + 10).exp()
    )
    kl = (log_normal(z, mean, log_variance) - density.log()).sum(dim=1)
    weight = model.kl_weight + model.kl_weight_per_item * x.sum(dim=1)
    return {"encoder": (nll + weight * kl).mean(), "decoder": nll.mean()}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"kl_weight_per_item": 0.1},
        {"kl_weight": 0.7, "kl_weight_per_item": 0.0},
        {"kl_weight": 0.2, "kl_weight_per_item": 0.05, "prior_weights": (0.3, 0.3, 0.4)},
    ],
    ids=str,
)
def test_losses_and_gradients_are_those_of_the_equations(small_X, params):
    model, network = build(small_X, **params)
    players = players_of(model, network, small_X)
    assert [player.name for player in players] == ["encoder", "decoder"]
    old = [part.detach() for part in dense_encoder(network, small_X)]
    change(network)  # the prior keeps what the encoder was
    assert not torch.allclose(old[0], dense_encoder(network, small_X)[0], atol=0.01)
    expected = dense_losses(model, network, old, small_X)
    for player in players:
        loss = player.loss(batch_of(small_X))
        assert_loss_and_gradients(loss, expected[player.name], player.parameters, least=1e-4)


def test_layers_and_norms_start_as_they_should(small_X):
    network = new_network(RecVAE(N_COMPONENTS, encoder_layer_sizes=(5,) * 4), small_X)
    assert len(network.encoder.rest) == 3
    assert len(network.encoder.norms) == 4
    for layer_norm in network.encoder.norms:
        assert_array_equal(layer_norm.weight.detach(), 1)
        assert layer_norm.bias.abs().max() < 0.01


@pytest.mark.parametrize("sizes", [(), (5, 6), (5, 5, 4)])
def test_layers_of_different_widths_are_refused(sizes, small_X):
    with pytest.raises(ValueError, match=r"encoder_layer_sizes must hold .*equal"):
        fit(small_X, encoder_layer_sizes=sizes)


def test_dropout_is_for_the_encoder_alone(small_X):
    model, network = build(small_X, dropout=0.5)
    players = players_of(model, network, small_X)
    inputs = recorded_inputs(network.encoder.first)
    for player in players:
        player.loss(batch_of(small_X))
    dropped, undropped = inputs
    assert_normalized_and_dropped(dropped, small_X, 0.5)
    assert_normalized_and_dropped(undropped, small_X, 0.0)


class Lifts(TorchDispatchMode):
    """Count the tensors that are made of the host's numbers."""

    n = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.n += operation is torch.ops.aten.lift_fresh.default
        return operation(*args, **kwargs or {})


def test_an_update_copies_no_numbers_to_the_device(small_X):
    model, network = build(small_X, dropout=0.5)
    batch = batch_of(small_X)
    for player in players_of(model, network, small_X):
        with Lifts() as lifts:
            player.loss(batch)
        assert lifts.n == 0


def test_the_prior_knows_the_whole_row(small_X, monkeypatch):
    seen = []

    def record(old, weights):
        seen.append(old.mean.detach())
        return composite_prior(old, weights)

    monkeypatch.setattr(recvae, "composite_prior", record)
    model, network = build(small_X, dropout=0.5)
    players_of(model, network, small_X)[0].loss(batch_of(small_X))
    whole = network.encoder(InteractionBatch.from_csr(small_X).normalized()).mean
    assert_allclose(seen[0], whole.detach(), rtol=1e-5, atol=1e-6)


# --- the turns


def test_each_player_changes_its_own_part_and_the_prior_is_the_encoder_of_the_epochs_start(small_X):
    X = small_X
    model, network = build(X, n_encoder_passes=2, n_decoder_passes=1, kl_weight=0.5)
    players = players_of(model, network, X)
    reached = [id(parameter) for player in players for parameter in player.parameters]
    assert sorted(reached) == sorted(id(parameter) for parameter in network.parameters())
    log, losses = [], {}

    def parts():
        return {
            name: torch.cat([p.detach().flatten().clone() for p in part.parameters()])
            for name, part in (("encoder", network.encoder), ("decoder", network.decoder))
        }

    def recorded(player):
        def loss(batch):
            log.append((player.name, parts()))
            if player.name == "encoder" and len(log) == 3:
                # In the second pass, under the encoder of the start of this epoch.
                losses["ours"] = player.loss(batch_of(X)).item()
                losses["dense"] = dense_losses(model, network, start, X)["encoder"].item()
            return player.loss(batch)

        return loss

    game = game_on(
        [(0.0, torch.arange(0, 5)), (0.5, torch.arange(5, 10))],
        [replace(player, loss=recorded(player)) for player in players],
        InteractionBatch.from_csr(X),
        type(model)._order,
    )
    for epoch in range(2):
        start = [part.detach() for part in dense_encoder(network, X)]
        log.clear()
        game.play(epoch, seeded(1))
        log.append(("end", parts()))
        assert [name for name, _ in log] == ["encoder"] * 4 + ["decoder"] * 2 + ["end"]
        for (name, before), (_, after) in pairwise(log):
            for part in before:
                assert torch.equal(before[part], after[part]) == (part != name)
        assert losses["ours"] == pytest.approx(losses["dense"], rel=1e-5)


def test_what_the_prior_remembers_is_not_learned_and_not_kept(small_X):
    model, network = build(small_X, kl_weight=0.5)
    encoder, _ = players_of(model, network, small_X)
    loss = encoder.loss(batch_of(small_X))
    leaves, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    assert leaves == {id(parameter) for parameter in network.parameters()}
    assert {name.split(".")[0] for name in network.state_dict()} == {"encoder", "decoder"}


# --- the estimator


def fit(X, **params):
    defaults = {"encoder_layer_sizes": LAYERS, "max_epochs": 3, "device": "cpu"}
    return RecVAE(N_COMPONENTS, **defaults | {"random_state": 0} | params).fit(X)


def test_transform_is_the_mean_and_predict_its_linear_decoding(small_X):
    model = fit(small_X)
    with torch.no_grad():
        mean, _ = dense_encoder(model.network_, small_X)
        logits = model.network_.decoder.logits
        scores = mean @ logits.weight + logits.bias
    assert_allclose(model.transform(small_X), mean, rtol=1e-4, atol=1e-6)
    assert_allclose(model.predict(small_X), scores, rtol=1e-4, atol=1e-6)


def test_a_prior_of_the_standard_normal_alone_pulls_there(small_X):
    settings = {"kl_weight": 50.0, "max_epochs": 60, "learning_rate": 0.02}
    model = fit(small_X, early_stopping=False, prior_weights=(1, 0, 0), **settings)
    assert_allclose(model.transform(small_X), 0, atol=0.3)


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.5), (1.0, 0.0), [[0.2, 0.4, 0.4]], (np.nan,) * 3])
def test_bad_weights_are_refused(small_X, weights):
    with pytest.raises(ValueError, match="prior_weights must be 3 numbers of at least 0"):
        fit(small_X, prior_weights=weights)
