"""Posteriors against torch.distributions, SciPy and plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import seeded
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from skvaecf.neural import DiagonalNormal, SemiImplicitNormal, standard_normal


def posterior():
    generator = seeded()
    return torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)


def test_kl_divergence_in_closed_form_and_by_sampling():
    loc, log_variance = posterior()
    q = DiagonalNormal(loc, log_variance)
    p = standard_normal(q.mean)
    kl = kl_divergence(q, p)
    by_hand = 0.5 * (loc**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    assert_allclose(kl, by_hand, rtol=1e-5)
    z = q.rsample((100_000,), generator=seeded(1))
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
    z = q.rsample((n,), generator=seeded(2))
    variance = log_variance.exp()
    assert z.shape == (n, 3, 4)
    assert_allclose(q.mean, loc)
    assert_allclose(q.variance, variance, rtol=1e-5)
    assert (abs(z.mean(dim=0) - loc) < 4.5 * (variance / n).sqrt()).all()
    assert (abs(z.var(dim=0) - variance) < 4.5 * variance * np.sqrt(2 / n)).all()


def test_samples_come_from_the_generator():
    q = DiagonalNormal(*posterior())
    draws = [q.rsample(generator=seeded(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_gradient_of_a_sample():
    loc, log_variance = (p.clone().requires_grad_() for p in posterior())
    z = DiagonalNormal(loc, log_variance).rsample(generator=seeded(5))
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
    generator = seeded()
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
    z = h.rsample(generator=seeded())
    assert z.shape == (2, 40_000, 1)
    for j, (mean, variance) in enumerate([(0, 1.0), (1, np.exp(-2))]):
        assert z[j].mean().item() == pytest.approx(mean, abs=4 * np.sqrt(variance / 40_000))
        assert z[j].var().item() == pytest.approx(variance, rel=0.04)


def test_semi_implicit_bound_falls_to_the_true_density_as_draws_are_added():
    # mu ~ N(0, 2^2) and z | mu ~ N(mu, 1), so that z ~ N(0, 5).
    generator, n = seeded(), 20_000
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
    generator = seeded()
    psi = [torch.randn(4, 3, 2, generator=generator).double().requires_grad_() for _ in range(2)]
    z = torch.randn(1, 3, 2, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z, loc, log_variance: SemiImplicitNormal(loc, log_variance, 1).log_prob(z),
        (z, *psi),
    )


def test_log_variances_of_a_layer_are_kept_in_range():
    layer = torch.tensor([[0.0, 0.0, -1e3, 1e3]])
    assert DiagonalNormal.from_layer(layer).log_variance.tolist() == [[-12, 4]]
