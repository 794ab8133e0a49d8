"""H+Vamp against a dense implementation of its objective, its gates by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import (
    assert_loss_and_gradients,
    assert_normalized_and_dropped,
    batch_of,
    log_likelihood,
    log_normal,
    new_network,
    players_of,
    recorded_inputs,
    seeded,
)
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from skvaecf import HVampVAE
from skvaecf.neural import InteractionBatch
from skvaecf.neural._layers import initialize
from skvaecf.recommenders.hvamp_vae import Gated, gated

N_USERS, N_COMPONENTS, SIZE, N_PSEUDO_INPUTS = 10, 3, 4, 6


def build(X, **params):
    settings = {"dropout": 0.0, "anneal_steps": 0, "layer_size": SIZE} | params
    defaults = {"likelihood": "multinomial", "l2": 0.0}
    model = HVampVAE(N_COMPONENTS, n_pseudo_inputs=N_PSEUDO_INPUTS, **defaults | settings)
    network = new_network(model, X)
    with torch.no_grad():  # biases near 0 would hide errors
        for name, parameter in network.named_parameters():
            if name != "prior.rows":
                parameter.add_(0.05)
    return model, network


# --- the gates


def test_a_gated_layer_by_hand():
    linear = nn.Linear(2, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -3.0], [0.5, 0.0], [0.0, 0.0]]))
        linear.bias.copy_(torch.tensor([1.0, 0.0, 0.0, np.log(3.0)]))
    # h = (4, 1): W h + b = (7, -3), V h + c = (2, log 3); no tanh bounds the first.
    out = Gated(linear, 2)(torch.tensor([[4.0, 1.0]]))
    assert_allclose(out.detach(), [[7 / (1 + np.exp(-2)), -3 * 0.75]], rtol=1e-6)


def test_gated_layers_keep_the_variance_at_the_start():
    layers = nn.Sequential(*(gated(400, 400) for _ in range(5)))
    initialize(layers, seeded(1), None)
    h = torch.randn(200, 400, generator=seeded(1))
    for layer in layers:
        spread = h.std().item()
        h = layer(h).detach()
        assert 0.8 < h.std().item() / spread < 1.4


# --- the objective


def dense_gate(linear, h):
    weight = linear.weight if isinstance(linear, nn.Linear) else linear.weight.T
    pre = h @ weight.T + linear.bias
    size = pre.shape[1] // 2
    return pre[:, :size] * torch.sigmoid(pre[:, size:])


def dense_pair(pair, a, b):
    both = torch.cat((dense_gate(pair.first.linear, a), dense_gate(pair.second.linear, b)), dim=1)
    return dense_gate(pair.both.linear, both)


def dense_normal(linear, h):
    out = h @ linear.weight.T + linear.bias
    return out[:, :N_COMPONENTS], out[:, N_COMPONENTS:].clamp(-12, 4)


def dense_laws(network, rows, noise):
    """q2, q1, p1 and scores at z = mean + noise * scale, from the equations."""
    q2 = dense_normal(network.q2_out, dense_gate(network.q2_hidden.linear, rows))
    z2 = q2[0] + (q2[1] / 2).exp() * noise[0]
    q1 = dense_normal(network.q1_out, dense_pair(network.q1_hidden, rows, z2))
    z1 = q1[0] + (q1[1] / 2).exp() * noise[1]
    p1 = dense_normal(network.p1_out, dense_gate(network.p1_hidden.linear, z2))
    logits = network.decoder.logits
    scores = dense_pair(network.decoder.hidden, z1, z2) @ logits.weight + logits.bias
    return q2, z2, q1, z1, p1, scores


def dense_terms(network, X):
    """Negative log-likelihood and KL term of each user."""
    x = torch.tensor(X.toarray())
    generator = seeded(1)
    noise = [torch.randn(N_USERS, N_COMPONENTS, generator=generator) for _ in range(2)]
    q2, z2, q1, _, p1, scores = dense_laws(network, F.normalize(x), noise)
    kl1 = 0.5 * (p1[1] - q1[1] + (q1[1].exp() + (q1[0] - p1[0]) ** 2) / p1[1].exp() - 1).sum(dim=1)
    rows = F.normalize(network.prior.rows.clamp(0, 1))
    means, log_variances = dense_normal(network.q2_out, dense_gate(network.q2_hidden.linear, rows))
    parts = [log_normal(z2, *p).sum(dim=1) for p in zip(means, log_variances, strict=True)]
    log_p2 = torch.stack(parts).logsumexp(dim=0) - np.log(N_PSEUDO_INPUTS)
    nll = -log_likelihood(x, scores, "multinomial")
    return nll, kl1 + log_normal(z2, *q2).sum(dim=1) - log_p2


@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_loss_and_gradient_are_those_of_the_equations(small_X, kl_weight):
    model, network = build(small_X, kl_weight=kl_weight)
    (player,) = players_of(model, network, small_X)
    nll, kl = dense_terms(network, small_X)
    assert kl.abs().mean() > 0.1
    assert len(player.parameters) == len(list(network.parameters()))
    expected = (nll + kl_weight * kl).mean()
    assert_loss_and_gradients(player.loss(batch_of(small_X)), expected, player.parameters)


@pytest.mark.parametrize(("step", "fraction"), [(0, 0.0), (5, 0.25), (20, 1.0), (99, 1.0)])
def test_kl_weight_rises_with_the_steps(small_X, step, fraction):
    model, network = build(small_X, kl_weight=0.8, anneal_steps=20)
    (player,) = players_of(model, network, small_X)
    nll, kl = dense_terms(network, small_X)
    expected = (nll + fraction * 0.8 * kl).mean().item()
    assert player.loss(batch_of(small_X, step=step)).item() == pytest.approx(expected, rel=1e-5)


def test_the_prior_is_the_mixture_of_the_posteriors_of_the_pseudo_inputs(small_X):
    _, network = build(small_X)
    z2 = torch.randn(5, N_COMPONENTS, generator=seeded(1))
    with torch.no_grad():
        q = network.q2(F.normalize(network.prior.rows))
        ours = network.p2(z2).log_prob(z2)
    scale = (q.log_variance / 2).exp()
    parts = [norm.logpdf(z2, m, s).sum(axis=1) for m, s in zip(q.mean, scale, strict=True)]
    assert_allclose(ours, logsumexp(parts, axis=0) - np.log(N_PSEUDO_INPUTS), rtol=1e-5)


def test_one_dropout_mask_is_shared_by_both_posteriors(small_X):
    model, network = build(small_X, dropout=0.5)
    inputs = recorded_inputs(network.q2_hidden.linear, network.q1_hidden.first.linear)
    (player,) = players_of(model, network, small_X)
    player.loss(batch_of(small_X))
    q2, q1, pseudo = inputs
    assert q1 is q2
    assert_normalized_and_dropped(q2, small_X, 0.5)
    assert_allclose(pseudo.detach().norm(dim=1), 1, rtol=1e-5)


# --- the estimator


def test_transform_and_predict_go_through_the_means(small_X):
    model = HVampVAE(
        N_COMPONENTS,
        layer_size=SIZE,
        n_pseudo_inputs=N_PSEUDO_INPUTS,
        max_epochs=3,
        device="cpu",
        random_state=0,
    ).fit(small_X)
    rows = F.normalize(torch.tensor(small_X.toarray()))
    with torch.no_grad():
        _, _, _, z1, _, scores = dense_laws(model.network_, rows, (0.0, 0.0))
    assert_allclose(model.transform(small_X), z1, rtol=1e-4, atol=1e-6)
    assert_allclose(model.predict(small_X), scores, rtol=1e-4, atol=1e-6)


def test_log_variances_are_kept_in_range(small_X):
    _, network = build(small_X)
    x = InteractionBatch.from_csr(small_X)
    z2 = torch.zeros(N_USERS, N_COMPONENTS)
    for bias, bound in ((1000.0, 4.0), (-1000.0, -12.0)):
        with torch.no_grad():
            for out in (network.q2_out, network.q1_out, network.p1_out):
                out.bias[N_COMPONENTS:] = bias
            laws = network.q2(x), network.q1(x, z2), network.p1(z2)
        for law in laws:
            assert_allclose(law.log_variance, bound)
