"""Terms of the objectives, as pure functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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


def weight_penalty(network: nn.Module) -> Tensor:
    """Sum of the squared entries of all weight matrices; biases are free."""
    weights = [p for p in network.parameters() if p.dim() > 1]
    norms: list[Tensor] = [_SquaredNorm.apply(w) for w in weights]  # type: ignore[no-untyped-call]
    return torch.stack(norms).sum()


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
