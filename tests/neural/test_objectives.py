"""Terms of the objectives against numbers worked by hand and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import seeded
from torch import nn
from torch.distributions import Normal, kl_divergence

from skvaecf.neural import (
    Batch,
    DiagonalNormal,
    FlowPosterior,
    anneal,
    density_ratio_loss,
    divergence,
    mmd,
    ratio_accuracy,
    squared_jacobian,
    squared_jacobian_estimate,
    standard_normal,
    weight_penalty,
)

# --- annealing


def batch_at(step, epoch):
    return Batch(torch.empty(0), None, step, epoch, seeded())


def test_annealing_in_a_number_of_steps():
    weights = [anneal(batch_at(step, 0.0), 40, 200) for step in range(100)]
    assert weights[:41] == pytest.approx([step / 40 for step in range(41)])
    assert weights[40:] == [1.0] * 60


def test_annealing_in_no_steps_is_the_whole_weight():
    assert anneal(batch_at(0, 0.0), 0, 200) == 1.0


@pytest.mark.parametrize(("max_epochs", "n_epochs"), [(200, 30), (60, 30), (24, 12), (1, 0.5)])
def test_automatic_annealing_ends_after_30_epochs_or_half_of_all(max_epochs, n_epochs):
    for updates_per_epoch in (1, 1000):
        weights = [
            anneal(batch_at(int(epoch * updates_per_epoch), epoch), "auto", max_epochs)
            for epoch in (0.0, n_epochs / 3, n_epochs, 2 * n_epochs)
        ]
        assert weights == pytest.approx([0, 1 / 3, 1, 1])


# --- the divergence


def normals(n_users=4, n_components=3):
    generator = seeded()
    parts = (torch.randn(n_users, n_components, generator=generator) for _ in range(2))
    return DiagonalNormal(*(part.double() for part in parts))


def test_divergence_of_normals_is_the_closed_form_whatever_was_drawn():
    q = normals()
    p = standard_normal(q.mean)
    for z in (q.mean, q.mean + 7):
        assert torch.equal(divergence(q, p, z), kl_divergence(q, p))


def test_sampled_divergence_by_hand():
    # Without closed form: log N(1; 0, 1) - log N(1; 2, 2^2) = log 2 - 1/2 + 1/8.
    class Unknown:
        def __init__(self, mean, std):
            self.log_prob = Normal(mean, std).log_prob

    kl = divergence(Unknown(0.0, 1.0), Unknown(2.0, 2.0), torch.tensor([1.0]))
    assert kl.item() == pytest.approx(np.log(2) - 1 / 2 + 1 / 8, rel=1e-6)


def test_sampled_divergence_of_normals_is_the_closed_form_on_average():
    loc, log_variance = normals().mean, normals().log_variance
    n = 50_000
    many = DiagonalNormal(loc.repeat(n, 1), log_variance.repeat(n, 1))
    unknown = FlowPosterior(many, [])  # the same distribution, but torch has no closed form of it
    z = unknown.rsample(generator=seeded(1))
    sampled = divergence(unknown, standard_normal(z), z).view(n, 4)
    exact = kl_divergence(DiagonalNormal(loc, log_variance), standard_normal(loc))
    error = sampled.std(dim=0) / np.sqrt(n)
    assert (abs(sampled.mean(dim=0) - exact) < 4 * error).all()
    assert (sampled < 0).any()


# --- the maximum mean discrepancy


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


def test_mmd_by_hand():
    # Kernels of a distance 0 are 7. With d = 1 and ||a - b||^2 = 2 they are s / (s + 1).
    a, b = [0.0], [2**0.5]
    k = sum(s / (s + 1) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))
    both = torch.tensor([a, b], dtype=torch.float64)
    # k + k - 2 / 4 (7 + 7 + k + k)
    assert mmd(both, both).item() == pytest.approx(k - 7)
    assert mmd(both[:1], both[1:]).item() == pytest.approx(-2 * k)


def drawn_mmd(generator, shift=0.0, scale=1.0):
    z = torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    return mmd(z[0] * scale + shift, z[1]).item()


def test_mmd_of_equal_distributions_is_0_on_average():
    generator = seeded()
    values = np.array([drawn_mmd(generator) for _ in range(500)])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(500)
    assert values.min() < 0 < values.max()


@pytest.mark.parametrize("difference", [{"shift": 1.0}, {"scale": 0.3}, {"scale": 3.0}], ids=str)
def test_mmd_of_different_distributions_is_positive(difference):
    generator = seeded()
    equal = [drawn_mmd(generator) for _ in range(50)]
    assert min(drawn_mmd(generator, **difference) for _ in range(50)) > max(equal)


def test_gradient_of_mmd():
    generator = seeded()
    z = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    p = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mmd, (z, p))


# --- the penalty of the weights


def test_weight_penalty_by_hand():
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        second.weight.copy_(torch.tensor([[5.0, 6.0]]))
        first.bias.fill_(100.0)
        second.bias.fill_(100.0)
    penalty = weight_penalty(0.5, first, second)
    assert penalty.item() == pytest.approx(0.5 * (1 + 4 + 9 + 16 + 25 + 36))
    parameters = [first.weight, second.weight, first.bias]
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    assert gradients[0].tolist() == [[1.0, 2.0], [3.0, 4.0]]  # 2 * 0.5 * w
    assert gradients[1].tolist() == [[5.0, 6.0]]
    assert gradients[2] is None
    assert weight_penalty(0.0, first) == 0.0


# --- the density ratio


def test_density_ratio_loss_by_hand():
    # - log sigmoid(log 3) = log(4 / 3); - log(1 - sigmoid(0)) = log 2
    loss = density_ratio_loss(torch.tensor([3.0]).log(), torch.tensor([0.0]))
    assert loss.item() == pytest.approx(np.log(4 / 3) + np.log(2), rel=1e-6)
    # A score of 0 for everything is a guess; huge scores do not overflow.
    assert density_ratio_loss(*torch.zeros(2, 5)).item() == pytest.approx(2 * np.log(2))
    assert density_ratio_loss(*torch.tensor([[-1e4], [1e4]])).item() == pytest.approx(2e4)


def test_ratio_accuracy_by_hand():
    real, fake = torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([-1.0, 1.0, 0.0, 2.0])
    assert ratio_accuracy(real, fake).item() == pytest.approx((3 / 4 + 1 / 4) / 2)


# --- the contractive penalty

# J = W_2 W_1 = [[1, 2], [4, 6]] where the slopes are 1.
WEIGHTS = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])]


def test_squared_jacobian_by_hand():
    assert squared_jacobian(WEIGHTS[:1], []).tolist() == [1 + 4 + 9 + 16]
    # The second user's slopes are 1/2 and 2: J = [[1/2, 1], [1/2 + 6, 1 + 8]].
    slopes = torch.tensor([[1.0, 1.0], [0.5, 2.0]])
    expected = [1 + 4 + 16 + 36, 0.25 + 1 + 6.5**2 + 81]
    assert squared_jacobian(WEIGHTS, [slopes]).tolist() == pytest.approx(expected)


def test_the_signs_of_the_estimate_are_each_users_own_and_from_the_generator():
    slopes = [torch.ones(100, 2)]  # what differs between the users is their signs
    state = torch.get_rng_state()
    first, again = (squared_jacobian_estimate(WEIGHTS, slopes, seeded()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    # |J^T v|^2 is 25 + 64 or 9 + 16.
    assert set(first.tolist()) == {89.0, 25.0}
