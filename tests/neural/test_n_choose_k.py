"""The n-choose-k likelihood against enumeration, the recursion over the items, and bounds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from scipy.special import expit, gammaln, log_expit, logsumexp
from torch.distributions import Bernoulli

from skvaecf.neural import InteractionBatch, NChooseK
from skvaecf.neural import _poisson_binomial as poisson_binomial


class Exact(NChooseK):
    tolerance = 0.0


def enumerate_sets(scores, n):
    """log e_n(exp(scores)) and the marginals, over all sets."""
    sets = list(combinations(range(len(scores)), n))
    totals = np.array([scores[list(chosen)].sum() for chosen in sets])
    log_normalizer = logsumexp(totals)
    marginals = np.zeros(len(scores))
    for chosen, total in zip(sets, totals, strict=True):
        marginals[list(chosen)] += np.exp(total - log_normalizer)
    return log_normalizer, marginals


def recursion(scores, n):
    """log e_0, ..., log e_n after each item: one more item is in the set or not."""
    table = np.full((len(scores) + 1, n + 1), -np.inf)
    table[0, 0] = 0
    for i, score in enumerate(scores):
        table[i + 1] = table[i]
        table[i + 1, 1:] = np.logaddexp(table[i, 1:], table[i, :-1] + score)
    return table


def log_e(scores, n):
    return recursion(scores, n)[-1, n]


def recursive_marginals(scores, n):
    """Sum over the sets with an item: some of the others are before it, the rest after it."""
    before = recursion(scores, n)
    after = recursion(scores[::-1], n)[::-1]
    inner = [
        logsumexp(before[i, :n] + after[i + 1, :n][::-1]) if n else -np.inf
        for i in range(len(scores))
    ]
    return np.exp(scores + inner - before[-1, n])


def log_normalizer(scores, n, likelihood=NChooseK, dtype=torch.float64):
    """Value and marginals of one row."""
    logits = torch.tensor(scores, dtype=dtype)[None]
    n = torch.full((1, 1), float(n), dtype=dtype)
    value, saved = likelihood.log_normalizer([logits], n)
    return value.item(), likelihood.mean(logits.clone(), n, saved)[0].double().numpy()


def uses_the_circle(scores, n):
    _, saved = NChooseK.log_normalizer([torch.tensor(scores)[None]], torch.tensor([[n]]).double())
    return saved.shape[1] > 6  # there are numbers of the angles


def tilt(logits, n):
    moments = poisson_binomial.concentration(logits.clone())
    return poisson_binomial.tilt(logits, n, moments, torch.ones_like(n, dtype=torch.bool))


def scores_of(kind, n_items, n, rng):
    """Scores with a standard deviation, or with n of them far above the others."""
    if kind.startswith("std"):
        return float(kind[4:]) * rng.normal(size=n_items)
    scores = rng.normal(size=n_items)
    scores[:n] += float(kind[10:])
    return scores


KINDS = [f"std {s}" for s in (0.1, 1, 3, 6, 8)] + [f"separated {a}" for a in (4, 8, 10, 12)]


@pytest.mark.parametrize("likelihood", [NChooseK, Exact])
@pytest.mark.parametrize(("n_items", "std"), [(1, 1.0), (2, 3.0), (9, 0.1), (9, 6.0), (12, 2.0)])
def test_all_sets(likelihood, n_items, std):
    scores = std * np.random.RandomState(0).normal(size=n_items)
    for n in range(n_items + 1):
        expected, expected_marginals = enumerate_sets(scores, n)
        value, marginals = log_normalizer(scores, n, likelihood)
        # The series may be used for rows of similar scores and a medium n.
        atol = 1e-3 if likelihood is NChooseK and not uses_the_circle(scores, n) else 1e-11
        assert_allclose(value, expected, rtol=1e-11, atol=atol)
        assert_allclose(marginals, expected_marginals, rtol=0, atol=atol)


def test_three_items_by_hand():
    # exp of the scores is 1, 2, 3; the pairs weigh 2, 3 and 6.
    value, marginals = log_normalizer(np.log([1.0, 2.0, 3.0]), 2)
    assert value == pytest.approx(np.log(11))
    assert_allclose(marginals, [5 / 11, 8 / 11, 9 / 11], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_recursion(kind):
    rng = np.random.RandomState(1)
    counts = [
        (n_items, n)
        for n_items in (40, 400, 2000)
        for n in (1, 2, 3, 5, 20, n_items // 5, n_items // 2)
    ]
    for n_items, n in counts:
        scores = scores_of(kind, n_items, n, rng)
        expected = log_e(scores, n)
        value, marginals = log_normalizer(scores, n)
        exact, exact_marginals = log_normalizer(scores, n, Exact)
        single, single_marginals = log_normalizer(scores, n, dtype=torch.float32)
        assert abs(value - expected) < 1e-3
        assert_allclose(exact, expected, rtol=1e-11, atol=1e-11)
        assert abs(single - expected) < 1e-3 + 1e-6 * abs(expected)
        assert_allclose(marginals, exact_marginals, rtol=0, atol=2e-3)
        assert_allclose(single_marginals, marginals, rtol=0, atol=5e-5)
        assert marginals.sum() == pytest.approx(n, rel=1e-5)
        assert exact_marginals.sum() == pytest.approx(n, rel=1e-11)
        assert single_marginals.sum() == pytest.approx(n, rel=1e-4)


@pytest.mark.parametrize("kind", ["std 1", "std 6", "separated 10"])
def test_marginals_of_the_recursion(kind):
    scores = scores_of(kind, 300, 12, np.random.RandomState(2))
    expected = recursive_marginals(scores, 12)
    assert_allclose(log_normalizer(scores, 12, Exact)[1], expected, rtol=0, atol=1e-11)
    assert_allclose(log_normalizer(scores, 12)[1], expected, rtol=0, atol=1e-3)


def test_the_series_and_the_circle_are_both_used():
    rng = np.random.RandomState(3)
    assert not uses_the_circle(rng.normal(size=500), 5)
    assert not uses_the_circle(rng.normal(size=500), 100)
    assert uses_the_circle(rng.normal(size=500), 499)
    assert uses_the_circle(scores_of("separated 12", 500, 30, rng), 30)


@st.composite
def rows(draw):
    rng = np.random.RandomState(draw(st.integers(0, 2**31)))
    n_items = draw(st.integers(6, 300))
    scores = draw(st.floats(0.1, 8)) * rng.normal(size=n_items)
    scores[: draw(st.integers(0, n_items))] += draw(st.floats(0, 12))
    return scores, draw(st.integers(1, n_items - 1))


@settings(max_examples=40)
@given(rows())
def test_error_is_below_a_thousandth(row):
    scores, n = row
    expected = log_e(scores, n)
    assert abs(log_normalizer(scores, n)[0] - expected) < 1e-3
    assert_allclose(log_normalizer(scores, n, Exact)[0], expected, rtol=1e-11, atol=1e-10)


@settings(max_examples=40)
@given(rows())
def test_bounds_of_theorems_2_and_3_and_of_maclaurin(row):
    scores, n = row
    exact = log_normalizer(scores, n, Exact)[0]
    multinomial = n * logsumexp(scores)
    assert multinomial >= exact - 1e-9
    assert -log_expit(-scores).sum() >= exact - 1e-9
    # Each set is counted n! times in (sum_i exp(score_i))^n.
    assert multinomial - gammaln(n + 1) >= exact - 1e-9


@settings(max_examples=40)
@given(rows(), st.floats(-50, 50))
def test_a_shift_of_all_scores_changes_no_probability(row, shift):
    scores, n = row
    value, marginals = log_normalizer(scores, n)
    shifted, shifted_marginals = log_normalizer(scores + shift, n)
    # A row at the border may be computed in either way.
    assert shifted == pytest.approx(value + n * shift, rel=1e-9, abs=1e-3)
    assert_allclose(shifted_marginals, marginals, rtol=0, atol=1e-3)


@pytest.mark.parametrize("likelihood", [NChooseK, Exact])
def test_no_item_one_item_and_all_items(likelihood):
    scores = np.random.RandomState(4).normal(size=30)
    value, marginals = log_normalizer(scores, 0, likelihood)
    assert (value, marginals.tolist()) == (0, [0.0] * 30)
    value, marginals = log_normalizer(scores, 30, likelihood)
    assert (value, marginals.tolist()) == (pytest.approx(scores.sum()), [1.0] * 30)
    value, marginals = log_normalizer(scores, 1, likelihood)
    assert value == pytest.approx(logsumexp(scores), rel=1e-12)
    assert_allclose(marginals, np.exp(scores - logsumexp(scores)), rtol=1e-11)
    value, marginals = log_normalizer(scores, 29, likelihood)
    assert value == pytest.approx(scores.sum() + logsumexp(-scores), rel=1e-12)
    assert_allclose(1 - marginals, np.exp(-scores - logsumexp(-scores)), rtol=1e-10)


def batch(n_items=14, counts=(0, 1, 6, 7, 13, 14), seed=0):
    rng = np.random.RandomState(seed)
    dense = np.zeros((len(counts), n_items), dtype=np.float32)
    for row, n in zip(dense, counts, strict=True):
        row[rng.permutation(n_items)[:n]] = 1
    logits = torch.tensor(
        rng.normal(size=dense.shape) * np.array([[1], [2], [0.2], [0.5], [3], [1]])
    )
    return logits, dense, InteractionBatch.from_csr(csr_array(dense))


@pytest.mark.parametrize(("likelihood", "atol"), [(NChooseK, 5e-4), (Exact, 2e-6)])
def test_gradient_is_that_of_the_value(likelihood, atol):
    # The last term of the series is not in the gradient.
    logits, dense, x = batch()
    counts = torch.tensor(dense.sum(axis=1, keepdims=True)).double()
    _, saved = NChooseK.log_normalizer([logits], counts)
    assert (saved[:, 6] != 0).tolist() == [False] * 4 + [True, False]  # both ways are used
    assert torch.autograd.gradcheck(
        lambda eta: likelihood(eta).log_prob(x), logits.requires_grad_(), eps=1e-5, atol=atol
    )


def test_coefficients_are_the_gradient_of_the_series_without_its_last_term():
    rng = np.random.RandomState(9)
    logits = torch.tensor(rng.normal(size=(4, 20)) * [[0.3], [1], [2], [3]] - 1)
    t = torch.zeros(4, 1, dtype=torch.float64)
    cumulants = poisson_binomial._cumulants(logits.clone(), t).requires_grad_()
    log_p, coefficients, last_term = poisson_binomial.saddle_point(cumulants)
    (by,) = torch.autograd.grad((log_p - last_term).sum(), cumulants)
    # An item adds its own cumulants, and moves the tilt, which holds the mean.
    k = cumulants.detach()[:, None]
    own = poisson_binomial._cumulants(logits.view(-1, 1).clone(), torch.zeros(80, 1).double())
    own = own.view(4, 20, 7)
    w = own[:, :, 2]
    change = own[:, :, 3:] - k[:, :, 3:] * (w / k[:, :, 2])[:, :, None]
    expected = (by[:, None, 2:-1] * change).sum(dim=2)
    numbers = torch.cat((t, coefficients.detach()), dim=1)
    ours = poisson_binomial.marginals(logits.clone(), numbers) - logits.sigmoid()
    assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_log_probabilities_of_all_sets_sum_to_one():
    scores = torch.tensor(np.random.RandomState(5).normal(size=7))
    sets = list(combinations(range(7), 3))
    dense = np.zeros((len(sets), 7), dtype=np.float32)
    for row, chosen in zip(dense, sets, strict=True):
        row[list(chosen)] = 1
    x = InteractionBatch.from_csr(csr_array(dense))
    log_prob = NChooseK(scores.repeat(len(sets), 1)).log_prob(x)
    assert log_prob.logsumexp(dim=0).item() == pytest.approx(0, abs=1e-9)


def test_it_is_the_distribution_of_independent_items_given_their_number():
    generator = seeded()
    scores = torch.tensor([-1.0, 0.5, 0.0, 2.0, -0.5])
    p = Bernoulli(logits=scores).probs
    draws = torch.rand(200_000, 5, generator=generator) < p
    kept = draws[draws.sum(dim=1) == 2].double()
    marginals = log_normalizer(scores.numpy(), 2)[1]
    error = np.sqrt(marginals * (1 - marginals) / len(kept))
    assert (abs(kept.mean(dim=0).numpy() - marginals) < 4 * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solved_rows_stay_while_others_are_searched(dtype):
    # Hard rows (a step leaves the bracket) beside easy ones that are solved at once.
    rng = np.random.RandomState(6)
    n_items = 500
    counts = np.array([3, 50, 250, 480, 20, 499, 1, 100])
    scores = rng.normal(size=(8, n_items)) * np.array([[0.0], [0.1], [1], [8], [8], [3], [8], [0]])
    scores[4, :20] += 40
    scores[7, :100] += 30
    n = torch.tensor(counts[:, None], dtype=dtype)
    logits = torch.tensor(scores, dtype=dtype)
    t, cumulants = tilt(logits, n)
    alone = [tilt(logits[[u]], n[[u]])[0].item() for u in range(8)]
    assert_allclose(t[:, 0], alone, rtol=1e-6)
    accuracy = 1e-4 if dtype == torch.float32 else 1e-9
    for row, shift, count in zip(scores, t[:, 0].tolist(), counts, strict=True):
        assert expit(row + shift).sum() == pytest.approx(count, rel=accuracy)
    assert_allclose(cumulants[:, 1], counts, rtol=accuracy)


def test_few_passes_over_the_items(monkeypatch):
    rows = {"_cumulants": [], "_mean_and_variance": []}

    def counted(name):
        function = getattr(poisson_binomial, name)

        def count(logits, t):
            rows[name].append(len(logits))
            return function(logits, t)

        return count

    for name in rows:
        monkeypatch.setattr(poisson_binomial, name, counted(name))
    generator = seeded()
    for std, most in [(0.1, 0), (1, 0), (3, 2), (8, 4)]:
        for counts in rows.values():
            counts.clear()
        logits = std * torch.randn(20, 5000, generator=generator)
        tilt(logits, torch.full((20, 1), 70.0))
        assert sum(rows["_mean_and_variance"]) <= 20 * most
        assert sum(rows["_cumulants"]) == 20


def test_cumulants_are_derivatives_of_one_another():
    rng = np.random.RandomState(7)
    logits, t = torch.tensor(rng.normal(size=(3, 40))), torch.zeros(3, 1, dtype=torch.float64)
    here = poisson_binomial._cumulants(logits.clone(), t)
    ahead, behind = (poisson_binomial._cumulants(logits.clone(), t + d) for d in (1e-5, -1e-5))
    assert_allclose((ahead - behind)[:, :-1] / 2e-5, here[:, 1:], rtol=1e-8, atol=1e-8)
    assert_allclose(
        poisson_binomial._taylor(here, t + 0.01)[:, :4],
        poisson_binomial._cumulants(logits.clone(), t + 0.01)[:, :4],
        rtol=1e-8,
    )


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_huge_scores(scale):
    scores = scale * np.random.RandomState(8).normal(size=100)
    for n in (1, 10, 50, 99):
        value, marginals = log_normalizer(scores, n, dtype=torch.float32)
        assert value == pytest.approx(log_e(scores, n), rel=1e-5)
        assert np.isfinite(marginals).all()
        assert marginals.sum() == pytest.approx(n, rel=1e-4)


def test_one_or_two_items_need_no_angles():
    # Also in float32, where exp(20) scales the probabilities, and where one score is far above.
    rng = np.random.RandomState(10)
    for kind in ("std 0.1", "std 3", "separated 1", "separated 4"):
        for n in (1, 2):
            scores = scores_of(kind, 40, 1, rng)
            assert not uses_the_circle(scores, n) or kind == "separated 4"
            expected = recursive_marginals(scores, n)
            value, marginals = log_normalizer(scores, n, dtype=torch.float32)
            assert value == pytest.approx(log_e(scores, n), rel=2e-6, abs=2e-6)
            assert_allclose(marginals, expected, rtol=2e-5, atol=1e-7)
    # Then the difference of two nearly equal numbers is not used.
    assert uses_the_circle(scores_of("separated 12", 40, 1, rng), 2)


@settings(max_examples=40)
@given(st.integers(1, 70), st.floats(0, 1))
def test_logarithm_of_a_product(n_items, largest):
    v = largest / 2 * torch.rand(3, n_items, generator=seeded(), dtype=torch.float64)
    expected = torch.log1p(-v).sum(dim=1)
    assert_allclose(poisson_binomial._log_of_product(v), expected, rtol=1e-12)


def test_probabilities_of_some_items_need_no_other_items():
    # The gradient is computed for one range of items at a time, in rows of all kinds.
    logits, dense, _ = batch()
    n = torch.tensor(dense.sum(axis=1, keepdims=True)).double()
    for likelihood in (NChooseK, Exact):
        _, saved = likelihood.log_normalizer([logits], n)
        whole = likelihood.mean(logits.clone(), n, saved)
        parts = [likelihood.mean(p.clone(), n, saved) for p in logits.split(5, dim=1)]
        assert_allclose(torch.cat(parts, dim=1), whole, rtol=1e-12)
        assert_allclose(whole.sum(dim=1), n[:, 0], rtol=1e-12)


def test_scores_that_are_nan_make_only_their_row_nan():
    logits, _, x = batch()
    expected = NChooseK(logits).log_prob(x)
    logits[2:4, 5] = torch.nan
    value = NChooseK(logits).log_prob(x)
    assert value.isnan().tolist() == [False, False, True, True, False, False]
    assert_allclose(value[[0, 1, 4, 5]], expected[[0, 1, 4, 5]], rtol=1e-12)


def test_every_tensor_is_made_on_the_device_of_the_logits():
    logits, _, x = batch()
    logits = logits.float().requires_grad_()
    # What is made without a device is made on meta, and does not mix with the rest.
    with torch.device("meta"):
        value = NChooseK(logits).log_prob(x)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
