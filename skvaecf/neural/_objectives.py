"""Terms of objectives, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn import functional as F

from ._training import Batch

__all__ = [
    "anneal",
    "density_ratio_loss",
    "divergence",
    "mmd",
    "ratio_accuracy",
    "squared_jacobian",
    "squared_jacobian_estimate",
    "weight_penalty",
]


def anneal(batch: Batch, n_steps: int | str, max_epochs: int) -> float:
    """Return the current weight of a term as a fraction of its final weight.

    The fraction rises linearly from 0 to 1.

    Parameters
    ----------
    batch : Batch
        Its ``step`` and ``epoch`` are the numbers of updates and of epochs so far.
    n_steps : int or "auto"
        Number of updates after which the fraction is 1. With 0 it is 1 from the beginning. "auto"
        is the number of updates in 30 epochs, because small data sets have few updates per epoch,
        or in half of ``max_epochs`` if that is fewer.
    max_epochs : int
        Maximum number of epochs of the fit.

    Returns
    -------
    fraction : float
        In [0, 1].
    """
    if n_steps == "auto":
        return min(1.0, batch.epoch / min(30, max_epochs / 2))
    return min(1.0, batch.step / int(n_steps)) if n_steps else 1.0


def divergence(q: Any, p: Any, z: Tensor) -> Tensor:
    """Compute KL(q || p), in closed form if there is one, else from a sample.

    The estimate from a sample z of q is log q(z) - log p(z).

    Parameters
    ----------
    q : distribution
        Posteriors of the users: any object with a method ``log_prob``.
    p : distribution
        Prior: any object with a method ``log_prob``.
    z : Tensor of shape (n_users, n_components)
        Sample of q.

    Returns
    -------
    kl : Tensor of shape (n_users,)
        The estimate from a sample is unbiased and may be negative.
    """
    try:
        kl: Tensor = kl_divergence(q, p)
    except NotImplementedError:
        kl = q.log_prob(z) - p.log_prob(z)
    return kl


def mmd(z: Tensor, p: Tensor) -> Tensor:
    r"""Estimate the squared maximum mean discrepancy of two distributions from samples.

    .. math:: \mathrm{MMD}^2 = \frac{1}{n (n - 1)} \sum_{a \ne b} k(z_a, z_b)
              + \frac{1}{m (m - 1)} \sum_{a \ne b} k(p_a, p_b)
              - \frac{2}{n m} \sum_{a, b} k(z_a, p_b),

    where k is a sum of inverse multiquadratic kernels,
    :math:`k(a, b) = \sum_s C_s / (C_s + \|a - b\|^2)`, with :math:`C_s = 2 s` ``n_components`` and
    s in {0.1, 0.2, 0.5, 1, 2, 5, 10}. The mean squared distance of two draws from N(0, I) is
    2 ``n_components``.

    Parameters
    ----------
    z : Tensor of shape (n, n_components)
        Sample of the first distribution.
    p : Tensor of shape (m, n_components)
        Sample of the second distribution.

    Returns
    -------
    mmd : Tensor of shape ()
        It is unbiased and may be negative. The first or second term is 0 if its sample has only one
        row, because there are no pairs.

    References
    ----------
    Tolstikhin, Bousquet, Gelly and Schoelkopf, "Wasserstein auto-encoders", ICLR 2018, algorithm 2
    and section 4.
    """
    return _mean_of_pairs(z) + _mean_of_pairs(p) - 2 * _kernel(z, p).mean()


def _mean_of_pairs(z: Tensor) -> Tensor:
    """Compute the mean of the kernel over all pairs of different rows."""
    k, n = _kernel(z, z), len(z)
    return (k.sum() - k.diagonal().sum()) / max(n * (n - 1), 1)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Compute the kernel of every row of a with every row of b, shape (n, m)."""
    distance = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
    scales = [2 * a.shape[1] * s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]
    return torch.stack([c / (c + distance.clamp(min=0)) for c in scales]).sum(dim=0)


def weight_penalty(l2: float, *networks: nn.Module) -> Tensor | float:
    """Compute l2 times the sum of the squared entries of all weight matrices.

    Biases and other vectors are not penalised.

    Parameters
    ----------
    l2 : float
        Weight of the penalty. The losses of players are means over users. To penalise the loss
        summed over all users with the weight l2, pass ``l2 / x.n_users``, where ``x`` holds the
        rows of all training users.
    *networks : nn.Module
        Modules whose weight matrices are penalised.

    Returns
    -------
    penalty : Tensor of shape () or float
        The number 0.0 if l2 is 0.
    """
    if l2 == 0:
        return 0.0  # without any pass over the weights
    weights = [p for network in networks for p in network.parameters() if p.dim() > 1]
    norms: list[Tensor] = [_SquaredNorm.apply(w) for w in weights]  # type: ignore[no-untyped-call]
    return l2 * torch.stack(norms).sum()


class _SquaredNorm(torch.autograd.Function):
    """||w||^2, with one pass over w in each direction; the backward of torch's norm needs four."""

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


def density_ratio_loss(real: Tensor, fake: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """Compute the mean of - log sigmoid(real) - log(1 - sigmoid(fake)).

    The loss is lowest if the scores are the logarithm of the density of the real samples divided by
    that of the fake samples.

    Parameters
    ----------
    real : Tensor
        Scores that the discriminator gives to real samples.
    fake : Tensor of the same shape
        Scores that the discriminator gives to fake samples.
    weights : Tensor of the same shape or float, default=1.0
        Factors of the terms: ``Batch.weights``.

    Returns
    -------
    loss : Tensor of shape ()
    """
    return (weights * (F.softplus(-real) + F.softplus(fake))).mean()


def ratio_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the share of the samples that the discriminator classifies correctly.

    Real samples are classified correctly if their score is positive, fake samples if it is
    negative.

    Parameters
    ----------
    real : Tensor
        Scores that the discriminator gives to real samples.
    fake : Tensor
        Scores that the discriminator gives to fake samples.

    Returns
    -------
    accuracy : Tensor of shape ()
        Mean of the two shares.
    """
    return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2


def squared_jacobian(
    weights: Sequence[Tensor], slopes: Sequence[Tensor], generator: Any = None
) -> Tensor:
    r"""Compute ||dz/dx||_F^2 of a network z = W_L s(... s(W_1 x)), exactly.

    Let :math:`S_1 = W_1 W_1^T` and :math:`S_{l + 1} = W_{l + 1} D_l S_l D_l W_{l + 1}^T`. The
    result is the trace of :math:`S_L`. With one hidden layer, all large matrices are the same for
    all users.

    Parameters
    ----------
    weights : sequence of Tensor
        W_l, of shape (size of layer l, size of layer l - 1).
    slopes : sequence of Tensor
        Derivatives s' at each hidden layer, which are the diagonals of D_l, of shape
        (n_users, size of layer l).
    generator : Ignored
        Present so that :func:`~skvaecf.neural.squared_jacobian_estimate` can replace this function.

    Returns
    -------
    squares : Tensor of shape (n_users,) or, without hidden layers, (1,)
        The squared Frobenius norms.
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
    r"""Estimate ||dz/dx||_F^2 by :math:`\|J^T v\|^2`, where v is a vector of random signs.

    The estimate is unbiased.

    Parameters
    ----------
    weights : sequence of Tensor
        See :func:`~skvaecf.neural.squared_jacobian`.
    slopes : sequence of Tensor
        See :func:`~skvaecf.neural.squared_jacobian`.
    generator : torch.Generator
        Source of the random signs. One v is drawn for each user.

    Returns
    -------
    squares : Tensor of shape (n_users,) or, without hidden layers, (1,)
        Estimates of the squared Frobenius norms.

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
