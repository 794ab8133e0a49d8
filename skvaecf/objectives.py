"""Terms of the objectives, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn import functional as F


def anneal(step: int, epoch: float, n_steps: int | str) -> float:
    """Fraction of its final weight that a term has, rising linearly from 0 to 1.

    Parameters
    ----------
    step : int
        Updates made so far.
    epoch : float
        Passes over the users made so far.
    n_steps : int or "auto"
        Updates until 1 is reached. "auto" takes 30 epochs, whatever number of updates these are:
        small data make few.
    """
    if n_steps == "auto":
        return min(1.0, epoch / 30)
    return min(1.0, step / int(n_steps)) if n_steps else 1.0


def divergence(q: Any, p: Any, z: Tensor) -> Tensor:
    """Compute KL(q || p): in closed form if there is one, else as log q(z) - log p(z), z from q.

    Parameters
    ----------
    q, p : objects with ``log_prob``
        Posteriors of the users and their prior.
    z : Tensor of shape (n_users, n_components)
        Drawn from q.

    Returns
    -------
    kl : Tensor of shape (n_users,)
        The sampled one is right on average, and may be negative.
    """
    try:
        kl: Tensor = kl_divergence(q, p)
    except NotImplementedError:
        kl = q.log_prob(z) - p.log_prob(z)
    return kl


def mmd(z: Tensor, p: Tensor) -> Tensor:
    r"""Estimate the squared maximum mean discrepancy of two distributions from draws of them.

    .. math:: \mathrm{MMD}^2 = \frac{1}{n (n - 1)} \sum_{a \ne b} k(z_a, z_b)
              + \frac{1}{m (m - 1)} \sum_{a \ne b} k(p_a, p_b)
              - \frac{2}{n m} \sum_{a, b} k(z_a, p_b),

    with inverse multiquadratic kernels, :math:`k(a, b) = \sum_s C_s / (C_s + \|a - b\|^2)`,
    :math:`C_s = 2 s` ``n_components``, s in {0.1, 0.2, 0.5, 1, 2, 5, 10}. 2 ``n_components`` is the
    mean squared distance of two draws of N(0, I).

    Parameters
    ----------
    z : Tensor of shape (n, n_components)
    p : Tensor of shape (m, n_components)

    Returns
    -------
    mmd : Tensor of shape ()
        Right on average, and may be negative. The term of a sample of one, without pairs, is 0.

    References
    ----------
    Tolstikhin, Bousquet, Gelly and Schoelkopf, "Wasserstein auto-encoders", ICLR 2018, algorithm 2
    and section 4.
    """
    return _mean_of_pairs(z) + _mean_of_pairs(p) - 2 * _kernel(z, p).mean()


def _mean_of_pairs(z: Tensor) -> Tensor:
    """Average the kernel over the pairs of different rows."""
    k, n = _kernel(z, z), len(z)
    return (k.sum() - k.diagonal().sum()) / max(n * (n - 1), 1)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Sum the inverse multiquadratic kernels of all rows a with all rows b, shape (n, m)."""
    distance = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
    scales = [2 * a.shape[1] * s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]
    return torch.stack([c / (c + distance.clamp(min=0)) for c in scales]).sum(dim=0)


def weight_penalty(l2: float, *networks: nn.Module) -> Tensor | float:
    """Compute l2 times the sum of the squared entries of all weight matrices; biases are free."""
    if l2 == 0:
        return 0.0  # without the passes over all weights
    weights = [p for network in networks for p in network.parameters() if p.dim() > 1]
    norms: list[Tensor] = [_SquaredNorm.apply(w) for w in weights]  # type: ignore[no-untyped-call]
    return l2 * torch.stack(norms).sum()


class _SquaredNorm(torch.autograd.Function):
    """||w||^2 in one pass each way; torch's own backward of a norm takes four."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        ctx.save_for_backward(w)
        norm: Tensor = torch.linalg.vector_norm(w)
        return norm.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (w,) = ctx.saved_tensors
        gradient: Tensor = w * (2 * grad)
        return gradient


def density_ratio_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the mean of - log sigmoid(real) - log(1 - sigmoid(fake)).

    Lowest where the scores are the log-ratio of the two densities.
    """
    return (F.softplus(-real) + F.softplus(fake)).mean()


def ratio_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the share of the samples on whose side the scores are."""
    return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2


def squared_jacobian(
    weights: Sequence[Tensor], slopes: Sequence[Tensor], generator: Any = None
) -> Tensor:
    r"""Compute ||dz/dx||_F^2 of a network z = W_L s(... s(W_1 x)), exactly.

    With :math:`S_1 = W_1 W_1^T` and :math:`S_{l + 1} = W_{l + 1} D_l S_l D_l W_{l + 1}^T` it is
    the trace of :math:`S_L`. With one hidden layer all that is large is shared by the users.

    Parameters
    ----------
    weights : sequence of Tensor
        W_l, of shape (size of layer l, size of the layer before).
    slopes : sequence of Tensor
        Derivatives s' at each hidden layer, the diagonals of D_l, of shape (n_users, size).
    generator : Ignored
        As nothing is random here.

    Returns
    -------
    squares : Tensor of shape (n_users,) or, without hidden layers, (1,)
    """
    first, *rest = weights
    S = (first @ first.T)[None]  # (1, size, size), per user from the second hidden layer on
    if not rest:
        return S.diagonal(dim1=1, dim2=2).sum(dim=1)
    *middle, last = rest
    for d, weight in zip(slopes[:-1], middle, strict=True):
        S = weight @ (d[:, :, None] * S * d[:, None, :]) @ weight.T
    d = slopes[-1]
    return ((d[:, None, :] @ (S * (last.T @ last))).squeeze(1) * d).sum(dim=1)


def squared_jacobian_estimate(
    weights: Sequence[Tensor], slopes: Sequence[Tensor], generator: torch.Generator
) -> Tensor:
    r"""Estimate ||dz/dx||_F^2 as :math:`\|J^T v\|^2`, right on average over random signs v.

    Parameters
    ----------
    weights, slopes
        As of :func:`squared_jacobian`.
    generator : torch.Generator
        Draws v for each user.

    Returns
    -------
    squares : Tensor of shape (n_users,) or, without hidden layers, (1,)

    References
    ----------
    Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990.
    """
    *_, last = weights
    n_users = len(slopes[0]) if slopes else 1
    v = (last.new_empty(n_users, len(last)).bernoulli_(generator=generator) * 2 - 1) @ last
    for d, weight in zip(reversed(slopes), reversed(weights[:-1]), strict=True):
        v = (v * d) @ weight
    return v.square().sum(dim=1)
