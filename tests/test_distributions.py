"""Likelihoods and posteriors against torch.distributions and plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from scipy.special import logsumexp
from scipy.stats import norm
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Multinomial as TorchMultinomial
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from skvaecf.distributions import (
    LIKELIHOODS,
    DiagonalNormal,
    SemiImplicitNormal,
    standard_normal,
)
from skvaecf.interactions import InteractionBatch


def log_elementary_symmetric(logits, counts):
    """log e_N(exp(logits)), item by item: the next one is in the set or not."""
    n_users, most = len(logits), int(counts.max())
    log_e = torch.full((n_users, most + 1), -1e30, dtype=logits.dtype)
    log_e[:, 0] = 0
    for score in logits.T:
        log_e = torch.cat(
            (log_e[:, :1], torch.logaddexp(log_e[:, 1:], log_e[:, :-1] + score[:, None])), dim=1
        )
    return log_e[torch.arange(n_users), counts.long()]


def plain_log_prob(name, logits, dense):
    if name == "multinomial":
        return (dense * F.log_softmax(logits, dim=1)).sum(dim=1)
    if name == "n-choose-k":
        log_e = log_elementary_symmetric(logits, dense.sum(dim=1))
        return (dense * logits).sum(dim=1) - log_e
    return (dense * logits - F.softplus(logits)).sum(dim=1)


def problem(n_users=7, n_items=11, seed=0, scale=3.0, weights=False):
    generator = torch.Generator().manual_seed(seed)
    dense = (torch.rand(n_users, n_items, generator=generator) < 0.4).float()
    dense[2] = 0  # a user without interactions
    if weights:
        dense *= 0.5 + torch.rand(n_users, n_items, generator=generator)
    logits = scale * torch.randn(n_users, n_items, generator=generator)
    upstream = torch.randn(n_users, generator=generator)
    return logits, dense, InteractionBatch.from_csr(csr_array(dense.numpy())), upstream


@pytest.fixture(params=sorted(LIKELIHOODS))
def likelihood(request):
    return request.param


@pytest.fixture(params=[2**19, 25, 1], ids=["one block", "two rows a block", "a row a block"])
def blocks(request, monkeypatch):
    def cut(logits):
        size = max(1, request.param // logits.shape[1])
        return (slice(s, s + size) for s in range(0, max(1, len(logits)), size))

    monkeypatch.setattr("skvaecf.distributions._blocks", cut)


def test_multinomial_is_torchs_without_the_coefficient():
    logits, dense, x, _ = problem()
    for u in range(len(dense)):
        n = int(dense[u].sum())
        torchs = TorchMultinomial(total_count=n, logits=logits[u]).log_prob(dense[u])
        coefficient = torch.lgamma(torch.tensor(n + 1.0))  # the x_i! are 1
        ours = LIKELIHOODS["multinomial"](logits).log_prob(x)[u]
        assert ours.item() == pytest.approx((torchs - coefficient).item(), rel=1e-5, abs=1e-5)


def test_bernoulli_is_torchs():
    logits, dense, x, _ = problem()
    torchs = TorchBernoulli(logits=logits).log_prob(dense).sum(dim=1)
    assert_allclose(LIKELIHOODS["bernoulli"](logits).log_prob(x), torchs, rtol=1e-5)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("weights", [False, True])
def test_value_and_gradient_are_those_of_plain_autograd(likelihood, weights):
    if weights and likelihood == "n-choose-k":
        return  # a law of sets
    logits, dense, x, upstream = problem(weights=weights)
    ours = logits.clone().requires_grad_()
    value = LIKELIHOODS[likelihood](ours).log_prob(x)
    (gradient,) = torch.autograd.grad(value, ours, upstream)
    exact = logits.double().requires_grad_()
    exact_value = plain_log_prob(likelihood, exact, dense.double())
    (exact_gradient,) = torch.autograd.grad(exact_value, exact, upstream.double())
    assert value.dtype == gradient.dtype == torch.float32
    assert_allclose(value.detach(), exact_value.detach(), rtol=2e-6, atol=2e-6)
    assert_allclose(gradient, exact_gradient, rtol=1e-5, atol=2e-6)
    assert torch.equal(ours, logits)


# The recursion of n-choose-k would take minutes.
@pytest.mark.parametrize("likelihood", ["bernoulli", "multinomial"])
def test_blocks_of_the_real_size(likelihood):
    # Wider than a quarter of a block, so that six rows need two.
    logits, dense, x, upstream = problem(6, 130_000)
    ours = logits.clone().requires_grad_()
    value = LIKELIHOODS[likelihood](ours).log_prob(x)
    (gradient,) = torch.autograd.grad(value, ours, upstream)
    exact = logits.double().requires_grad_()
    exact_value = plain_log_prob(likelihood, exact, dense.double())
    (exact_gradient,) = torch.autograd.grad(exact_value, exact, upstream.double())
    assert_allclose(value.detach(), exact_value.detach(), rtol=1e-5)
    assert_allclose(gradient, exact_gradient, rtol=1e-4, atol=1e-5)


def test_bfloat16_scores_are_reduced_in_float32(likelihood):
    # The recursion of n-choose-k is slow.
    n_items = 500 if likelihood == "n-choose-k" else 2000
    logits, dense, x, upstream = problem(5, n_items, scale=1.0)
    rounded = logits.bfloat16().requires_grad_()
    value = LIKELIHOODS[likelihood](rounded).log_prob(x)
    (gradient,) = torch.autograd.grad(value, rounded, upstream)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    exact = rounded.detach().double().requires_grad_()
    exact_value = plain_log_prob(likelihood, exact, dense.double())
    (exact_gradient,) = torch.autograd.grad(exact_value, exact, upstream.double())
    # The value has float32's error, the gradient bfloat16's (8 bits, two roundings).
    assert_allclose(value.detach(), exact_value.detach(), rtol=1e-5)
    assert_allclose(gradient.float(), exact_gradient, rtol=2**-6, atol=2**-7)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_multinomial_is_stable_and_blind_to_a_shift(shift):
    logits, _, x, _ = problem()
    shifted = (logits + shift).requires_grad_()
    value = LIKELIHOODS["multinomial"](shifted).log_prob(x)
    (gradient,) = torch.autograd.grad(value.sum(), shifted)
    assert_allclose(
        value.detach(), LIKELIHOODS["multinomial"](logits).log_prob(x), rtol=1e-2, atol=1e-2
    )
    assert torch.isfinite(gradient).all()


def test_bernoulli_is_stable_far_from_zero():
    x = InteractionBatch.from_csr(csr_array(np.array([[1.0, 0.0, 1.0]])))
    logits = torch.tensor([[200.0, 200.0, -200.0]], requires_grad=True)
    value = LIKELIHOODS["bernoulli"](logits).log_prob(x)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.item() == -400.0
    assert gradient.tolist() == [[0.0, -1.0, 1.0]]


def test_user_without_interactions():
    x = InteractionBatch.from_csr(csr_array((1, 4), dtype=np.float32))
    logits = torch.zeros(1, 4, requires_grad=True)
    multinomial = LIKELIHOODS["multinomial"](logits).log_prob(x)
    assert multinomial.tolist() == [0.0]
    assert torch.autograd.grad(multinomial.sum(), logits)[0].tolist() == [[0.0] * 4]
    bernoulli = LIKELIHOODS["bernoulli"](logits).log_prob(x)
    assert bernoulli.item() == pytest.approx(-4 * np.log(2))
    assert torch.autograd.grad(bernoulli.sum(), logits)[0].tolist() == [[-0.5] * 4]


def posterior():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)


def test_kl_divergence_in_closed_form_and_by_sampling():
    loc, log_variance = posterior()
    q = DiagonalNormal(loc, log_variance)
    p = standard_normal(q.mean)
    kl = kl_divergence(q, p)
    by_hand = 0.5 * (loc**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    assert_allclose(kl, by_hand, rtol=1e-5)
    z = q.rsample((100_000,), generator=torch.Generator().manual_seed(1))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std(dim=0) / np.sqrt(len(z))
    assert (abs(ratio.mean(dim=0) - kl) < 4 * error).all()


def test_log_prob_sums_the_components():
    loc, log_variance = posterior()
    q = DiagonalNormal(loc, log_variance)
    z = torch.zeros(3, 4)
    expected = Normal(loc, log_variance.exp().sqrt()).log_prob(z).sum(dim=1)
    assert q.log_prob(z).shape == (3,)
    assert_allclose(q.log_prob(z), expected, rtol=1e-5)


def test_samples_have_the_mean_and_the_variance():
    loc, log_variance = posterior()
    q = DiagonalNormal(loc, log_variance)
    n = 100_000
    z = q.rsample((n,), generator=torch.Generator().manual_seed(2))
    variance = log_variance.exp()
    assert z.shape == (n, 3, 4)
    assert_allclose(q.mean, loc)
    assert_allclose(q.variance, variance, rtol=1e-5)
    assert (abs(z.mean(dim=0) - loc) < 4.5 * (variance / n).sqrt()).all()
    assert (abs(z.var(dim=0) - variance) < 4.5 * variance * np.sqrt(2 / n)).all()


def test_samples_come_from_the_generator():
    q = DiagonalNormal(*posterior())
    draws = [q.rsample(generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_gradient_of_a_sample():
    loc, log_variance = (p.clone().requires_grad_() for p in posterior())
    z = DiagonalNormal(loc, log_variance).rsample(generator=torch.Generator().manual_seed(5))
    to_loc, to_log_variance = torch.autograd.grad(z.sum(), (loc, log_variance))
    # z = loc + exp(log_variance / 2) * noise
    assert to_loc.tolist() == [[1.0] * 4] * 3
    assert_allclose(to_log_variance, (z - loc).detach() / 2, rtol=1e-4, atol=1e-6)


def test_standard_normal_has_the_shape_of_the_posterior():
    q = DiagonalNormal(*(p.double() for p in posterior()))
    p = standard_normal(q.mean)
    assert p.mean.tolist() == [[0.0] * 4] * 3
    assert p.variance.tolist() == [[1.0] * 4] * 3
    assert p.mean.dtype == torch.float64


# --- semi-implicit posteriors


def test_semi_implicit_bound_by_hand():
    # z = 0 under N(0, 1) and N(2, 1)
    loc = torch.tensor([0.0, 2.0]).view(2, 1, 1)
    h = SemiImplicitNormal(loc, torch.zeros(2, 1, 1), 1)
    by_hand = np.log((1 + np.exp(-2)) / 2 / np.sqrt(2 * np.pi))
    assert h.log_prob(torch.zeros(1, 1, 1)).item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("n_others", [0, 1, 6])
@pytest.mark.parametrize("n_samples", [1, 3])
def test_semi_implicit_bound_by_brute_force(n_samples, n_others):
    generator = torch.Generator().manual_seed(0)
    shape = (n_samples + n_others, 5, 2)  # draws, users, components
    loc, log_variance = (torch.randn(shape, generator=generator) for _ in range(2))
    h = SemiImplicitNormal(loc, log_variance, n_samples)
    z = h.rsample(generator=generator)
    assert z.shape == (n_samples, 5, 2)
    ours = h.log_prob(z)
    assert ours.shape == (n_samples, 5)
    scale = np.exp(log_variance.double().numpy() / 2)
    for j in range(n_samples):
        for u in range(5):
            terms = [
                norm.logpdf(z[j, u], loc[i, u], scale[i, u]).sum()
                for i in (j, *range(n_samples, n_samples + n_others))
            ]
            by_hand = logsumexp(terms) - np.log(n_others + 1)
            assert ours[j, u].item() == pytest.approx(by_hand, rel=1e-4, abs=1e-5)


def test_semi_implicit_samples_come_from_their_own_psi():
    loc = torch.arange(3.0).view(3, 1, 1).expand(3, 40_000, 1)
    log_variance = torch.tensor([0.0, -2.0, 3.0]).view(3, 1, 1).expand(3, 40_000, 1)
    h = SemiImplicitNormal(loc, log_variance, 2)
    z = h.rsample(generator=torch.Generator().manual_seed(0))
    assert z.shape == (2, 40_000, 1)
    for j, (mean, variance) in enumerate([(0, 1.0), (1, np.exp(-2))]):
        assert z[j].mean().item() == pytest.approx(mean, abs=4 * np.sqrt(variance / 40_000))
        assert z[j].var().item() == pytest.approx(variance, rel=0.04)


def test_semi_implicit_bound_falls_to_the_true_density_as_draws_are_added():
    # mu ~ N(0, 2^2) and z | mu ~ N(mu, 1), so that z ~ N(0, 5).
    generator, n = torch.Generator().manual_seed(0), 20_000
    loc = 2 * torch.randn(101, n, 1, generator=generator)
    own = DiagonalNormal(loc[:1], torch.zeros(1, n, 1))
    z = own.rsample(generator=generator)
    true = torch.tensor(norm.logpdf(z[0, :, 0], scale=np.sqrt(5)))
    gaps = []
    for n_others in (0, 1, 3, 10, 100):
        psi = loc[: n_others + 1]
        bound = SemiImplicitNormal(psi, torch.zeros_like(psi), 1).log_prob(z)[0]
        gaps.append(bound - true)
    means = [gap.mean().item() for gap in gaps]
    errors = [gap.std().item() / np.sqrt(n) for gap in gaps]
    # Without others it is the density given mu: the gap is 1/2 log 5, the mutual information.
    assert means[0] == pytest.approx(0.5 * np.log(5), abs=4 * errors[0])
    for more, fewer, error in zip(means[1:], means, errors, strict=False):
        assert more < fewer - 4 * error
    assert 0 < means[-1] < 0.03


def test_semi_implicit_gradients_are_those_of_plain_autograd():
    generator = torch.Generator().manual_seed(0)
    psi = [torch.randn(4, 3, 2, generator=generator).double().requires_grad_() for _ in range(2)]
    z = torch.randn(1, 3, 2, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z, loc, log_variance: SemiImplicitNormal(loc, log_variance, 1).log_prob(z),
        (z, *psi),
    )
