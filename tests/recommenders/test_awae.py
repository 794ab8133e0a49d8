"""The aWAE: its discrepancy against a double loop, its objective against a dense one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from skvaecf import AWAERecommender, MultVAE
from skvaecf.datasets import make_interactions
from skvaecf.interactions import InteractionBatch
from skvaecf.modules import initialize
from skvaecf.objectives import mmd
from skvaecf.recommenders.awae import posterior
from skvaecf.training import Batch

N_USERS, N_ITEMS, N_COMPONENTS = 10, 24, 3

# --- the discrepancy


def kernel(a, b):
    c = 2 * len(a) * np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
    return (c / (c + ((a - b) ** 2).sum())).sum()


def double_loop(z, p):
    def within(x):
        pairs = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
        return np.mean(pairs) if pairs else 0.0

    return within(z) + within(p) - 2 * np.mean([kernel(a, b) for a in z for b in p])


@pytest.mark.parametrize(("n", "m", "width"), [(7, 7, 4), (5, 9, 1), (2, 3, 30), (1, 4, 2)])
def test_mmd_is_the_double_loop(n, m, width):
    rng = np.random.RandomState(0)
    z, p = 2 * rng.randn(n, width) + 0.5, rng.randn(m, width)
    estimate = mmd(torch.tensor(z), torch.tensor(p))
    assert estimate.item() == pytest.approx(double_loop(z, p), rel=1e-10)


def test_mmd_worked_by_hand():
    # Kernels of a distance 0 are 7. With d = 1 and ||a - b||^2 = 2 they are s / (s + 1).
    a, b = [0.0], [2**0.5]
    k = sum(s / (s + 1) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))
    both = torch.tensor([a, b], dtype=torch.float64)
    # k + k - 2 / 4 (7 + 7 + k + k)
    assert mmd(both, both).item() == pytest.approx(k - 7)
    assert mmd(both[:1], both[1:]).item() == pytest.approx(-2 * k)


def draws(generator, shift=0.0, scale=1.0):
    z = torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    return mmd(z[0] * scale + shift, z[1]).item()


def test_mmd_of_equal_laws_is_0_on_average():
    generator = torch.Generator().manual_seed(0)
    values = np.array([draws(generator) for _ in range(500)])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(500)
    assert values.min() < 0 < values.max()


@pytest.mark.parametrize("difference", [{"shift": 1.0}, {"scale": 0.3}, {"scale": 3.0}])
def test_mmd_of_different_laws_is_positive(difference):
    generator = torch.Generator().manual_seed(0)
    equal = [draws(generator) for _ in range(50)]
    assert min(draws(generator, **difference) for _ in range(50)) > max(equal)


def test_gradient_of_mmd():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    p = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mmd, (z, p))


# --- the objective


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, random_state=0)


def loss_and_gradient(cls, X, **params):
    defaults = {"encoder_layer_sizes": (5,), "dropout": 0.0, "anneal_steps": 0}
    model = cls(N_COMPONENTS, **defaults | params)
    network = model._build(*X.shape)
    initialize(network, torch.Generator().manual_seed(0), None)
    with torch.no_grad():  # small weights would hide errors
        for parameter in network.parameters():
            parameter.mul_(3).add_(0.05)
    (player,) = model._players(network)
    generator = torch.Generator().manual_seed(1)
    x = InteractionBatch.from_csr(X)
    loss = player.loss(Batch(torch.arange(N_USERS), x, 0, 0.0, generator))
    return loss, torch.autograd.grad(loss, player.parameters), network


def dense_loss(network, X, mmd_weight, kl_weight, l1, likelihood):
    """The objective written out, with the random numbers of the loss."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(N_USERS, N_COMPONENTS, generator=generator)
    prior = torch.randn(N_USERS, N_COMPONENTS, generator=generator)
    x = torch.tensor(X.toarray())
    first, last = network.encoder.first, network.encoder.rest[1]
    hidden = torch.tanh(F.normalize(x) @ first.weight + first.bias)
    mean, log_variance = (hidden @ last.weight.T + last.bias).chunk(2, dim=1)
    z = mean + (log_variance / 2).exp() * noise
    scores = z @ network.decoder.logits.weight + network.decoder.logits.bias
    if likelihood == "multinomial":
        nll = -(x * F.log_softmax(scores, dim=1)).sum(dim=1)
    else:
        nll = F.binary_cross_entropy_with_logits(scores, x, reduction="none").sum(dim=1)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    rows = nll + kl_weight * kl + l1 * z.abs().sum(dim=1)
    return rows.mean() + mmd_weight * mmd(z, prior)


@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli"])
@pytest.mark.parametrize(
    ("mmd_weight", "kl_weight", "l1"),
    [(0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (0.0, 0.7, 0.0), (0.0, 0.0, 2.0), (10.0, 0.7, 2.0)],
)
def test_loss_and_gradient_are_those_of_the_equations(X, likelihood, mmd_weight, kl_weight, l1):
    weights = {"mmd_weight": mmd_weight, "kl_weight": kl_weight, "l1": l1, "likelihood": likelihood}
    loss, gradients, network = loss_and_gradient(AWAERecommender, X, **weights)
    expected = dense_loss(network, X, **weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    others = torch.autograd.grad(expected, list(network.parameters()))
    for ours, theirs in zip(gradients, others, strict=True):
        assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


def test_without_the_new_terms_it_is_mult_vae(X):
    ours, gradients, _ = loss_and_gradient(AWAERecommender, X, mmd_weight=0.0, l1=0.0, dropout=0.5)
    theirs, others, _ = loss_and_gradient(MultVAE, X, dropout=0.5)
    assert ours.item() == theirs.item()
    for a, b in zip(gradients, others, strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def fit(X, **params):
    params = {"kl_weight": 0.0, "l1": 0.0, "mmd_weight": 0.0, "learning_rate": 0.01} | params
    fixed = {"max_epochs": 60, "early_stopping": False, "device": "cpu", "random_state": 0}
    return AWAERecommender(4, encoder_layer_sizes=(), **fixed, **params).fit(X)


@pytest.fixture(scope="module")
def blocks():
    return make_interactions(300, 40, n_blocks=2, random_state=0)


def test_the_discrepancy_brings_the_latent_vectors_to_the_prior(blocks):
    generator = torch.Generator().manual_seed(0)
    x = InteractionBatch.from_csr(blocks).l2_normalized()
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
