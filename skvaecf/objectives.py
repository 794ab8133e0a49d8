"""Terms of the objectives, as pure functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence


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
