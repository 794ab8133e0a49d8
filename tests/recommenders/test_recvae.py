"""RecVAE against a dense implementation of its objective, its prior against SciPy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import norm
from torch.distributions import kl_divergence
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from skvaecf import RecVAE
from skvaecf.datasets import make_interactions
from skvaecf.distributions import DiagonalNormal, standard_normal
from skvaecf.interactions import InteractionBatch
from skvaecf.modules import initialize
from skvaecf.objectives import divergence
from skvaecf.recommenders import recvae
from skvaecf.recommenders.recvae import composite_prior
from skvaecf.training import Batch, Game

N_USERS, N_ITEMS, N_COMPONENTS = 10, 24, 3
PAPER = (0.15, 0.75, 0.1)


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, random_state=0)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def normals(n_users=4, seed=0):
    generator = seeded(seed)
    parts = (torch.randn(n_users, N_COMPONENTS, generator=generator) for _ in range(2))
    return DiagonalNormal(*(part.double() for part in parts))


def build(X, **params):
    model = RecVAE(N_COMPONENTS, layer_size=5, n_layers=3, **{"dropout": 0.0} | params)
    network = model._build(*X.shape)
    initialize(network, seeded(0), InteractionBatch.from_csr(X))
    with torch.no_grad():  # small weights would hide errors
        for parameter in network.parameters():
            parameter.mul_(3).add_(0.05)
    return model, network


def batch(X):
    return Batch(torch.arange(X.shape[0]), InteractionBatch.from_csr(X), 0, 0.0, seeded())


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
    z = many.rsample(generator=seeded())
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


def log_normal(z, mean, log_variance):
    return -0.5 * ((z - mean) ** 2 / log_variance.exp() + log_variance + np.log(2 * np.pi))


def dense_losses(model, network, old, X):
    x = torch.tensor(X.toarray())
    mean, log_variance = dense_encoder(network, X)
    z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=seeded())
    logits = z @ network.decoder.logits.weight + network.decoder.logits.bias
    nll = -(x * F.log_softmax(logits, dim=1)).sum(dim=1)
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
def test_losses_and_gradients_are_those_of_the_equations(X, params):
    model, network = build(X, **params)
    players = model._players(network)
    assert [player.name for player in players] == ["encoder", "decoder"]
    old = [part.detach() for part in dense_encoder(network, X)]
    change(network)  # the prior keeps what the encoder was
    assert not torch.allclose(old[0], dense_encoder(network, X)[0], atol=0.01)
    expected = dense_losses(model, network, old, X)
    for player in players:
        loss = player.loss(batch(X))
        assert loss.item() == pytest.approx(expected[player.name].item(), rel=1e-5)
        for ours, theirs in zip(
            torch.autograd.grad(loss, player.parameters),
            torch.autograd.grad(expected[player.name], player.parameters, retain_graph=True),
            strict=True,
        ):
            assert theirs.abs().max() > 1e-4
            assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


def test_layers_and_norms_start_as_they_should(X):
    network = RecVAE(N_COMPONENTS, layer_size=5, n_layers=4)._build(*X.shape)
    initialize(network, seeded(0), InteractionBatch.from_csr(X))
    assert len(network.encoder.rest) == 3
    assert len(network.encoder.norms) == 4
    for layer_norm in network.encoder.norms:
        assert_array_equal(layer_norm.weight.detach(), 1)
        assert layer_norm.bias.abs().max() < 0.01


def test_dropout_is_for_the_encoder_alone(X):
    model, network = build(X, dropout=0.5)
    inputs = []
    players = model._players(network)
    network.encoder.first.register_forward_hook(lambda _, args, __: inputs.append(args[0].values))
    for player in players:
        player.loss(batch(X))
    counts = np.diff(X.indptr)
    whole = np.repeat(1 / np.sqrt(counts), counts).astype(np.float32)
    dropped, undropped = inputs
    assert 0.3 < (dropped > 0).float().mean() < 0.7
    assert_allclose(dropped[dropped > 0], 2 * whole[(dropped > 0).numpy()], rtol=1e-5)
    assert_allclose(undropped, whole, rtol=1e-5)


class Lifts(TorchDispatchMode):
    """Count the tensors that are made of the host's numbers."""

    n = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.n += operation is torch.ops.aten.lift_fresh.default
        return operation(*args, **kwargs or {})


def test_an_update_copies_no_numbers_to_the_device(X):
    model, network = build(X, dropout=0.5)
    given = batch(X)
    for player in model._players(network):
        with Lifts() as lifts:
            player.loss(given)
        assert lifts.n == 0


def test_the_prior_knows_the_whole_row(X, monkeypatch):
    seen = []

    def record(old, weights):
        seen.append(old.mean.detach())
        return composite_prior(old, weights)

    monkeypatch.setattr(recvae, "composite_prior", record)
    model, network = build(X, dropout=0.5)
    model._players(network)[0].loss(batch(X))
    whole = network.encoder(InteractionBatch.from_csr(X).l2_normalized()).mean
    assert_allclose(seen[0], whole.detach(), rtol=1e-5, atol=1e-6)


# --- the turns


def test_each_player_changes_its_own_part_and_the_prior_is_the_encoder_of_the_epochs_start(X):
    model, network = build(X, n_encoder_moves=2, n_decoder_moves=1, kl_weight=0.5)
    players = model._players(network)
    reached = [id(parameter) for player in players for parameter in player.parameters]
    assert sorted(reached) == sorted(id(parameter) for parameter in network.parameters())
    log, losses = [], {}

    def parts():
        return {
            name: torch.cat([p.detach().flatten().clone() for p in part.parameters()])
            for name, part in (("encoder", network.encoder), ("decoder", network.decoder))
        }

    def recorded(player):
        def loss(each):
            log.append((player.name, parts()))
            if player.name == "encoder" and len(log) == 3:
                # In the second pass, under the encoder of the start of this epoch.
                losses["ours"] = player.loss(batch(X)).item()
                losses["dense"] = dense_losses(model, network, start, X)["encoder"].item()
            return player.loss(each)

        return loss

    game = Game([replace(p, loss=recorded(p)) for p in players], type(model)._order)

    def minibatches():
        return [(0.0, torch.arange(0, 5)), (0.5, torch.arange(5, 10))]

    for _ in range(2):
        start = [part.detach() for part in dense_encoder(network, X)]
        log.clear()
        game.play(InteractionBatch.from_csr(X), minibatches, seeded())
        log.append(("end", parts()))
        assert [name for name, _ in log] == ["encoder"] * 4 + ["decoder"] * 2 + ["end"]
        for (name, before), (_, after) in pairwise(log):
            for part in before:
                assert torch.equal(before[part], after[part]) == (part != name)
        assert losses["ours"] == pytest.approx(losses["dense"], rel=1e-5)


def test_what_the_prior_remembers_is_not_learned_and_not_kept(X):
    model, network = build(X, kl_weight=0.5)
    encoder, _ = model._players(network)
    before = {name: p.clone() for name, p in network.state_dict().items()}
    loss = encoder.loss(batch(X))
    leaves, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    assert leaves == {id(parameter) for parameter in network.parameters()}
    assert {name.split(".")[0] for name in before} == {"encoder", "decoder"}


# --- the estimator


def fit(X, **params):
    defaults = {"layer_size": 5, "n_layers": 3, "max_epochs": 3, "device": "cpu"}
    return RecVAE(N_COMPONENTS, **defaults | {"random_state": 0} | params).fit(X)


def test_transform_is_the_mean_and_predict_its_linear_decoding(X):
    model = fit(X)
    with torch.no_grad():
        mean, _ = dense_encoder(model.network_, X)
        logits = model.network_.decoder.logits
        scores = mean @ logits.weight + logits.bias
    assert_allclose(model.transform(X), mean, rtol=1e-4, atol=1e-6)
    assert_allclose(model.predict(X), scores, rtol=1e-4, atol=1e-6)


def test_a_prior_of_the_standard_normal_alone_pulls_there(X):
    settings = {"kl_weight": 50.0, "max_epochs": 60, "learning_rate": 0.02}
    model = fit(X, early_stopping=False, prior_weights=(1, 0, 0), **settings)
    assert_allclose(model.transform(X), 0, atol=0.3)


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.5), (1.0, 0.0), [[0.2, 0.4, 0.4]], (np.nan,) * 3])
def test_bad_weights_are_refused(X, weights):
    with pytest.raises(ValueError, match="prior_weights must be 3 numbers of at least 0"):
        fit(X, prior_weights=weights)
