"""Likelihoods against torch.distributions and plain autograd."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import seeded
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn.base import clone
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Multinomial as TorchMultinomial
from torch.distributions import Normal as TorchNormal
from torch.nn import functional as F

import skvaecf
from skvaecf.datasets import make_interactions
from skvaecf.neural import (
    Bernoulli,
    InteractionBatch,
    ItemLikelihood,
    Multinomial,
    NChooseK,
    likelihood_class,
)
from skvaecf.neural._layers import FactoredLogits
from skvaecf.neural._likelihoods import _KEPT, LIKELIHOODS, _parts, _pieces


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
    # A value multiplies the term of its interaction.
    of_items = F.logsigmoid(torch.where(dense > 0, logits, -logits))
    return torch.where(dense > 0, dense * of_items, of_items).sum(dim=1)


def plain(name, logits, dense, upstream):
    """Log-likelihood and its gradient in float64."""
    logits = logits.detach().double().requires_grad_()
    value = plain_log_prob(name, logits, dense.double())
    (gradient,) = torch.autograd.grad(value, logits, upstream.double())
    return value.detach(), gradient


def problem(n_users=7, n_items=11, seed=0, scale=3.0, weights=False):
    generator = seeded(seed)
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


def test_likelihoods_have_names():
    by_name = {"bernoulli": Bernoulli, "multinomial": Multinomial, "n-choose-k": NChooseK}
    assert by_name == LIKELIHOODS
    for name, cls in by_name.items():
        assert likelihood_class(name) is likelihood_class(cls) is cls
    with pytest.raises(ValueError, match="likelihood must be a subclass of ItemLikelihood"):
        likelihood_class(dict)


@pytest.fixture(params=[2**19, 25, 1], ids=["one block", "two rows a block", "a row a block"])
def blocks(request, monkeypatch):
    def cut(logits):
        size = max(1, request.param // logits.shape[1])
        return (slice(s, s + size) for s in range(0, max(1, len(logits)), size))

    monkeypatch.setattr("skvaecf.neural._cache_blocks.cached_blocks", cut)
    monkeypatch.setattr("skvaecf.neural._likelihoods.cached_blocks", cut)


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


# n-choose-k is a distribution of sets, without weights.
LIKELIHOODS_AND_WEIGHTS = [
    *((name, False) for name in sorted(LIKELIHOODS)),
    ("bernoulli", True),
    ("multinomial", True),
]


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("likelihood", "weights"), LIKELIHOODS_AND_WEIGHTS)
def test_value_and_gradient_are_those_of_plain_autograd(likelihood, weights):
    logits, dense, x, upstream = problem(weights=weights)
    ours = logits.clone().requires_grad_()
    value = LIKELIHOODS[likelihood](ours).log_prob(x)
    (gradient,) = torch.autograd.grad(value, ours, upstream)
    exact_value, exact_gradient = plain(likelihood, logits, dense, upstream)
    assert value.dtype == gradient.dtype == torch.float32
    assert_allclose(value.detach(), exact_value, rtol=2e-6, atol=2e-6)
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
    exact_value, exact_gradient = plain(likelihood, logits, dense, upstream)
    assert_allclose(value.detach(), exact_value, rtol=1e-5)
    # The gradient is x - mean, times upstream. Where the two cancel, their rounding errors remain.
    x_part = upstream[:, None].double() * dense
    terms = x_part.abs() + (exact_gradient - x_part).abs()
    assert ((gradient - exact_gradient).abs() <= 2e-5 * terms).all()


def test_bfloat16_scores_are_reduced_in_float32(likelihood):
    # The recursion of n-choose-k is slow.
    n_items = 500 if likelihood == "n-choose-k" else 2000
    logits, dense, x, upstream = problem(5, n_items, scale=1.0)
    rounded = logits.bfloat16().requires_grad_()
    value = LIKELIHOODS[likelihood](rounded).log_prob(x)
    (gradient,) = torch.autograd.grad(value, rounded, upstream)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    exact_value, exact_gradient = plain(likelihood, rounded, dense, upstream)
    # The value has float32's error, the gradient bfloat16's (8 bits, two roundings).
    assert_allclose(value.detach(), exact_value, rtol=1e-5)
    assert_allclose(gradient.float(), exact_gradient, rtol=2**-6, atol=2**-7)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_multinomial_is_stable_and_unchanged_by_a_shift(shift):
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


# --- scores that are never all multiplied out


def factors(dtype, n_users=7, n_in=3, n_items=11):
    generator = seeded(1)
    shapes = (n_users, n_in), (n_in, n_items), (n_items,)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


@pytest.fixture(params=[(11, 11, 11), (8, 4, 4), (4, 4, 2), (4, 1, 1), (0, 4, 2), (0, 1, 1)])
def parts(request, monkeypatch):
    """All, some or no scores are kept; the others are in parts, of one or more pieces."""
    kept, part, piece = request.param

    def cut(h, n_items, likelihood):
        first = kept if likelihood.has_parts else n_items
        stops = sorted({0, first, *range(first, n_items, part), n_items})
        return (slice(a, b) for a, b in pairwise(stops))

    def cut_further(h, items):
        starts = range(items.start, items.stop, piece)
        return (slice(s, min(s + piece, items.stop)) for s in starts)

    monkeypatch.setattr("skvaecf.neural._likelihoods._parts", cut)
    monkeypatch.setattr("skvaecf.neural._likelihoods._pieces", cut_further)
    monkeypatch.setattr("skvaecf.neural._likelihoods._KEPT", 7 * kept)
    monkeypatch.setattr("skvaecf.neural._likelihoods._SUMS", 2)


@pytest.mark.usefixtures("parts")
def test_factored_scores_have_the_value_and_gradients_of_dense_ones(likelihood):
    for dtype, rtol in [(torch.float32, 2e-5), (torch.float64, 1e-9)]:
        compare_factored_with_dense_scores(likelihood, dtype, rtol)


def compare_factored_with_dense_scores(likelihood, dtype, rtol):
    _, dense, x, upstream = problem()
    ours, exact = factors(dtype), factors(torch.float64)
    value = LIKELIHOODS[likelihood](FactoredLogits(*ours)).log_prob(x)
    h, weight, bias = exact
    exact_value = plain_log_prob(likelihood, h @ weight + bias, dense.double())
    # n-choose-k is a series, exact to 1e-3 nats at worst.
    rtol = max(rtol, 1e-3 * (likelihood == "n-choose-k"))
    assert value.dtype == dtype
    assert_allclose(value.detach(), exact_value.detach(), rtol=rtol, atol=rtol)
    for gradient, exact_gradient in zip(
        torch.autograd.grad(value, ours, upstream.to(dtype)),
        torch.autograd.grad(exact_value, exact, upstream.double()),
        strict=True,
    ):
        assert gradient.dtype == dtype
        assert_allclose(gradient, exact_gradient, rtol=rtol, atol=5 * rtol)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("parts", [(4, 4, 2)], indirect=True)
@pytest.mark.parametrize("likelihood", ["bernoulli", "multinomial"])
def test_gradients_of_factored_scores_are_those_of_finite_differences(likelihood):
    _, _, x, _ = problem()

    def log_prob(*factors):
        return LIKELIHOODS[likelihood](FactoredLogits(*factors)).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, factors(torch.float64), atol=1e-6)


@pytest.mark.usefixtures("parts")
def test_factored_scores_in_bfloat16(likelihood):
    _, dense, x, upstream = problem()
    h, weight, bias = factors(torch.float32)
    inputs = (h, weight, bias)
    value = LIKELIHOODS[likelihood](FactoredLogits(h.bfloat16(), weight, bias)).log_prob(x)
    exact_value = plain_log_prob(likelihood, h @ weight + bias, dense)
    assert value.dtype == torch.float32
    assert_allclose(value.detach(), exact_value.detach(), rtol=0.02, atol=0.1)
    for gradient, exact in zip(
        torch.autograd.grad(value, inputs, upstream),
        torch.autograd.grad(exact_value, inputs, upstream),
        strict=True,
    ):
        assert gradient.dtype == torch.float32
        assert_allclose(gradient, exact, atol=0.02 * exact.abs().max().item())


def test_fixed_weights_get_no_gradient():
    _, _, x, _ = problem()
    h, weight, bias = factors(torch.float32)
    fixed = FactoredLogits(h, weight.detach(), bias.detach())
    (ours,) = torch.autograd.grad(LIKELIHOODS["multinomial"](fixed).log_prob(x).sum(), h)
    free = FactoredLogits(h, weight, bias)
    (same,) = torch.autograd.grad(LIKELIHOODS["multinomial"](free).log_prob(x).sum(), h)
    assert torch.equal(ours, same)


def test_parts_and_pieces_cover_all_items_once():
    for n_users, n_items in [(1, 1), (500, 20_108), (10_000, 100_001), (7, 5_000_000), (0, 9)]:
        h = torch.empty(n_users, 2, device="meta")
        for likelihood in LIKELIHOODS.values():
            parts = list(_parts(h, n_items, likelihood))
            pieces = list(_pieces(h, slice(0, n_items)))
            for ranges in (parts, pieces):
                items = [slice(0, 0), *ranges]
                assert all(a.stop == b.start < b.stop for a, b in pairwise(items))
                assert items[-1].stop == n_items
            # A piece is kept, or it is not.
            assert {part.stop for part in parts} <= {piece.stop for piece in pieces}


def test_the_first_part_is_all_that_is_kept_and_the_rest_is_small():
    multinomial = LIKELIHOODS["multinomial"]
    first, *rest = _parts(torch.empty(1000, 2), 100_000, multinomial)
    assert 1000 * first.stop <= _KEPT < 1000 * (first.stop + 1024)
    assert [part.stop - part.start for part in rest[:-1]] == [4096] * (len(rest) - 1)
    assert list(_parts(torch.empty(500, 2), 20_108, multinomial)) == [slice(0, 20_108)]
    assert list(_parts(torch.empty(10, 2), 10**8, NChooseK)) == [slice(0, 10**8)]


class Gaussian(ItemLikelihood):
    """A custom likelihood: - ||x - logits||^2 / 2, without what does not depend on the logits."""

    @staticmethod
    def log_normalizer(parts, n):
        return sum(logits.float().square().sum(dim=1, keepdim=True) for logits in parts) / 2, n

    @staticmethod
    def mean(logits, n, saved):
        return logits


def test_a_custom_likelihood():
    logits, dense, x, upstream = problem()
    logits.requires_grad_()
    value = Gaussian(logits).log_prob(x)
    expected = TorchNormal(logits, 1).log_prob(dense).sum(dim=1)
    nothing = TorchNormal(0.0, 1).log_prob(dense).sum(dim=1)
    assert_allclose(value.detach(), (expected - nothing).detach(), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(value, logits, upstream)
    (plain_gradient,) = torch.autograd.grad(expected, logits, upstream)
    assert_allclose(gradient, plain_gradient, rtol=1e-5, atol=1e-6)


MODELS = [
    model
    for model in (getattr(skvaecf, name) for name in skvaecf.__all__)
    if "likelihood" in getattr(model, "_parameter_constraints", {})
]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_takes_a_custom_likelihood(model):
    X = make_interactions(n_users=60, n_items=24, random_state=0)
    settings = {"n_components": 3, "max_epochs": 2, "random_state": 0}

    def scores(likelihood):
        return clone(model(likelihood=likelihood, **settings)).fit(X).predict(X)

    # A class has the scores of its name; a custom class has other scores than all of these.
    assert_allclose(scores(Bernoulli), scores("bernoulli"), rtol=0, atol=0)
    own = scores(Gaussian)
    for name in LIKELIHOODS:
        assert np.abs(own - scores(name)).max() > 1e-6
    with pytest.raises(ValueError, match="likelihood must be a subclass of ItemLikelihood"):
        scores(dict)
