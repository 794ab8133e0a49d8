"""SIVAE against a dense implementation of its objective, and limits that are known."""

from __future__ import annotations

import pickle

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
    sum_of_squared_weights,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax
from torch.nn import functional as F

from skvaecf import SIVAERecommender
from skvaecf.datasets import make_interactions
from skvaecf.neural import DiagonalNormal, InteractionBatch, SemiImplicitNormal
from skvaecf.neural._layers import set_precision

N_USERS, N_COMPONENTS, NOISE = 10, 3, 2


def build(X, **params):
    defaults = {
        "encoder_layer_sizes": (5,),
        "decoder_layer_sizes": (4,),
        "likelihood": "multinomial",
        "l2": 0.0,
        "noise_size": NOISE,
        "n_mixing_samples": 2,
        "dropout": 0.0,
        "anneal_steps": 0,
    }
    model = SIVAERecommender(N_COMPONENTS, **defaults | params)
    return model, new_network(model, X, 3, 0.05)


def draws_of(model, x_users):
    """The random numbers that the loss takes, in its order."""
    generator = seeded(1)
    n_layers = len(model.encoder_layer_sizes)
    n_draws = model.n_latent_samples + model.n_mixing_samples
    shape = (n_layers, n_draws, x_users, model.noise_size)
    if model.noise == "gaussian":
        noise = torch.randn(shape, generator=generator)
    else:
        noise = torch.where(torch.rand(shape, generator=generator) < 0.5, 1.0, -1.0)
    latent = torch.randn((model.n_latent_samples, x_users, N_COMPONENTS), generator=generator)
    return noise, latent


def dense_psi(model, network, X, noise):
    """Means and log-variances for one draw of the noise: (n_layers, n_users, noise_size)."""
    encoder = network.encoder
    x = F.normalize(torch.tensor(X.toarray()))
    blocks, last = [*model.encoder_layer_sizes, 2 * N_COMPONENTS], torch.zeros(len(x), 0)
    from_x = (x @ encoder.from_items.weight + encoder.from_items.bias).split(blocks, dim=1)
    for t in range(len(blocks) - 1):
        pre = from_x[t] + noise[t] @ encoder.from_noise[t].weight.T
        if t > 0:
            pre = pre + last @ encoder.from_below[t - 1].weight.T
        last = torch.tanh(pre)
    from_noise = last @ encoder.from_below[-1].weight.T
    mean, log_variance = from_x[-1].split(N_COMPONENTS, dim=1)
    mean = mean + from_noise[:, :N_COMPONENTS]
    if not model.shared_sigma:
        log_variance = log_variance + from_noise[:, N_COMPONENTS:]
    return mean, log_variance.clamp(-12, 4)


def dense_loss(model, network, X):
    """The objective written out, user by user and draw by draw."""
    noise, latent = draws_of(model, X.shape[0])
    n_samples, n_mixing = model.n_latent_samples, model.n_mixing_samples
    psi = [dense_psi(model, network, X, noise[:, i]) for i in range(n_samples + n_mixing)]
    x = torch.tensor(X.toarray())

    total = 0
    for j in range(n_samples):
        mean, log_variance = psi[j]
        z = mean + (log_variance / 2).exp() * latent[j]
        h = torch.tanh(
            F.linear(z, network.decoder.hidden[0].weight, network.decoder.hidden[0].bias)
        )
        logits = h @ network.decoder.logits.weight + network.decoder.logits.bias
        densities = log_normal(z, mean, log_variance).sum(dim=1).exp()
        for k in range(n_samples, n_samples + n_mixing):
            densities = densities + log_normal(z, *psi[k]).sum(dim=1).exp()
        log_h = (densities / (n_mixing + 1)).log()
        log_prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(dim=1)
        bound = log_likelihood(x, logits, model.likelihood) + model.kl_weight * (log_prior - log_h)
        total = total - bound / n_samples
    return total.mean() + model.l2 / X.shape[0] * sum_of_squared_weights(network)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"shared_sigma": True},
        {"likelihood": "bernoulli"},
        {"l2": 1.0},
        {"l2": 1.0, "shared_sigma": True},
        {"noise": "bernoulli"},
        {"kl_weight": 0.0},
        {"kl_weight": 1.0, "n_mixing_samples": 0},
        {"kl_weight": 1.0, "n_mixing_samples": 7},
        {"kl_weight": 1.0, "n_latent_samples": 3, "shared_sigma": True},
        {"kl_weight": 1.0, "n_latent_samples": 2, "n_mixing_samples": 0},
        {"kl_weight": 1.0, "encoder_layer_sizes": (5, 4), "n_latent_samples": 2},
        {"kl_weight": 1.0, "encoder_layer_sizes": (5, 4, 3), "noise_size": 6},
        {"kl_weight": 1.0, "encoder_layer_sizes": (5, 4), "shared_sigma": True},
    ],
    ids=str,
)
def test_loss_and_gradient_are_those_of_the_equations(small_X, params):
    model, network = build(small_X, **params)
    (player,) = players_of(model, network, small_X)
    expected = dense_loss(model, network, small_X)
    loss = player.loss(batch_of(small_X))
    assert_loss_and_gradients(loss, expected, player.parameters, least=1e-4)


@pytest.mark.parametrize(("step", "fraction"), [(0, 0.0), (5, 0.25), (20, 1.0), (99, 1.0)])
def test_the_weight_of_the_whole_difference_rises_with_the_steps(small_X, step, fraction):
    model, network = build(small_X, kl_weight=0.8, anneal_steps=20)
    (player,) = players_of(model, network, small_X)
    loss = player.loss(batch_of(small_X, step=step)).item()
    model.kl_weight = fraction * 0.8
    assert loss == pytest.approx(dense_loss(model, network, small_X).item(), rel=1e-5)


def test_one_dropout_mask_is_shared_by_all_draws(small_X):
    model, network = build(small_X, dropout=0.5, n_mixing_samples=4)
    inputs = recorded_inputs(network.encoder.from_items)
    (player,) = players_of(model, network, small_X)
    player.loss(batch_of(small_X))
    (rows,) = inputs
    assert_normalized_and_dropped(rows, small_X, 0.5)


@pytest.mark.parametrize("n_samples", [1, 3])
def test_without_weight_on_the_noise_the_bound_is_the_normal_density(small_X, n_samples):
    _, network = build(small_X)
    with torch.no_grad():
        network.encoder.from_noise[0].weight.zero_()
        generator = seeded(2)
        noise = network.encoder.draw(n_samples + 10, N_USERS, generator)
        psi = network.encoder(InteractionBatch.from_csr(small_X).normalized(), noise)
    h = SemiImplicitNormal(*psi, n_samples)
    z = h.rsample(generator=generator)
    assert_allclose(h.log_prob(z), DiagonalNormal(*(p[0] for p in psi)).log_prob(z), rtol=1e-5)


def test_the_noise_and_the_items_move_a_unit_alike_at_the_start():
    X = make_interactions(400, 300, random_state=1)
    for noise in ("gaussian", "bernoulli"):
        model = SIVAERecommender(50, encoder_layer_sizes=(200,), noise=noise)
        network, x = new_network(model, X), InteractionBatch.from_csr(X)
        with torch.no_grad():
            signal = network.encoder.from_items(x.normalized())[:, :200].std()
            draws = network.encoder.draw(1, 400, seeded())[0, 0]
            drawn = network.encoder.from_noise[0](draws).std()
        assert drawn.item() == pytest.approx(signal.item(), rel=0.1)


@pytest.mark.parametrize("noise", ["gaussian", "bernoulli"])
def test_noise_has_mean_0_and_variance_1(small_X, noise):
    _, network = build(small_X, noise=noise)
    draws = network.encoder.draw(1000, 50, seeded(0))
    assert draws.shape == (1, 1000, 50, NOISE)
    assert abs(draws.mean().item()) < 4 / np.sqrt(draws.numel())
    assert draws.var().item() == pytest.approx(1, abs=0.03)
    fourth = {"gaussian": 3.0, "bernoulli": 1.0}[noise]
    assert draws.pow(4).mean().item() == pytest.approx(fourth, rel=0.05)


def test_every_draw_of_psi_and_all_noise_weights_get_a_gradient(small_X):
    model, network = build(small_X, kl_weight=1.0, n_mixing_samples=3, encoder_layer_sizes=(5, 4))
    seen = []

    def keep(_, __, psi):
        for part in psi:
            part.retain_grad()
        seen.extend(psi)

    network.encoder.register_forward_hook(keep)
    (player,) = players_of(model, network, small_X)
    player.loss(batch_of(small_X)).backward()
    for psi in seen:
        assert psi.grad.abs().amax(dim=(1, 2)).min() > 1e-6  # of each draw
    for layer in network.encoder.from_noise:
        assert layer.weight.grad.abs().min() > 0


def fit(X, **params):
    defaults = {"encoder_layer_sizes": (5,), "noise_size": NOISE, "max_epochs": 3}
    return SIVAERecommender(
        N_COMPONENTS, **defaults | {"device": "cpu", "random_state": 0} | params
    ).fit(X)


def test_transform_is_the_mean_without_noise_and_predict_its_decoding(small_X):
    model = fit(small_X, encoder_layer_sizes=(5, 4))
    with torch.no_grad():
        mean, _ = dense_psi(model, model.network_, small_X, torch.zeros(2, N_USERS, NOISE))
        decoder = model.network_.decoder.logits
        scores = mean @ decoder.weight + decoder.bias
    assert_allclose(model.transform(small_X), mean, rtol=1e-4, atol=1e-6)
    assert_allclose(model.predict(small_X), scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli"])
def test_averaged_predictions_are_mean_probabilities(small_X, likelihood):
    model = fit(small_X, n_prediction_samples=4, likelihood=likelihood)
    network = model.network_
    decoder = network.decoder.logits
    noise, latent = network.encoder.fixed_noise, network.encoder.fixed_latent_noise
    assert noise.shape == (1, 4, 1, NOISE)
    assert noise.std() > 0.3
    total = np.zeros(small_X.shape)
    for s in range(4):
        with torch.no_grad():
            draw = noise[:, s].expand(1, N_USERS, NOISE)
            mean, log_variance = dense_psi(model, network, small_X, draw)
            z = mean + (log_variance / 2).exp() * latent[s]
            logits = (z @ decoder.weight + decoder.bias).double().numpy()
        total += softmax(logits, axis=1) if likelihood == "multinomial" else expit(logits)
    assert_allclose(model.predict(small_X), total / 4, rtol=1e-4)


def test_averaged_predictions_are_deterministic_and_depend_on_the_row_alone(small_X):
    model = fit(small_X, n_prediction_samples=4)
    scores = model.predict(small_X)
    assert_array_equal(model.predict(small_X), scores)
    assert_array_equal(fit(small_X, n_prediction_samples=4).predict(small_X), scores)
    assert not np.allclose(
        fit(small_X, n_prediction_samples=4, random_state=1).predict(small_X), scores
    )
    for u in range(N_USERS):
        assert_allclose(model.predict(small_X[[u]])[0], scores[u], rtol=1e-5)


def test_a_model_of_averages_survives_a_pickle(small_X):
    model = fit(small_X, n_prediction_samples=4)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(small_X), model.predict(small_X))


def test_without_hidden_layers_there_is_no_noise(small_X):
    model = fit(small_X, encoder_layer_sizes=(), n_mixing_samples=2, n_latent_samples=2)
    assert {name for name, _ in model.network_.encoder.named_parameters()} == {
        "from_items.weight",
        "from_items.bias",
    }
    assert np.isfinite(model.predict(small_X)).all()


def test_large_products_are_made_in_the_precision_asked_for(small_X):
    _, network = build(small_X)
    set_precision(network, torch.bfloat16)
    kinds = []
    network.encoder.from_below[0].register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
    x = InteractionBatch.from_csr(small_X)
    network.train()
    loc, log_variance = network.encoder(x, torch.zeros(1, 2, N_USERS, NOISE))
    network.eval()
    network.encoder.mean(x)
    assert kinds == [torch.bfloat16, torch.float32]
    assert loc.dtype == log_variance.dtype == torch.float32


def test_the_fit_decides_over_how_many_samples_are_averaged(small_X):
    for n in (0, 4):
        model = fit(small_X, n_prediction_samples=n)
        scores = model.predict(small_X)
        assert_array_equal(model.set_params(n_prediction_samples=8).predict(small_X), scores)


def test_log_variances_are_kept_in_range(small_X):
    _, network = build(small_X)
    x = InteractionBatch.from_csr(small_X)
    for bias, bound in ((1000.0, 4.0), (-1000.0, -12.0)):
        with torch.no_grad():
            network.encoder.from_items.bias[-N_COMPONENTS:] = bias
        _, log_variance = network.encoder(x, torch.zeros(1, 1, 1, NOISE))
        assert_array_equal(log_variance.detach(), bound)


def test_samples_to_predict_by_have_the_law_of_the_noise(small_X):
    model = fit(small_X, noise="bernoulli", n_prediction_samples=4)
    assert_array_equal(model.network_.encoder.fixed_noise.abs(), 1)
