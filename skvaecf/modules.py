"""Building blocks of the networks. Sizes are in units, items count from 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .interactions import InteractionBatch


class ItemEmbedding(nn.Module):
    """Linear layer on sparse rows: the sum of the vectors of a user's items, plus a bias."""

    def __init__(self, n_items: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x: InteractionBatch | Tensor) -> Tensor:
        """Map rows, sparse or dense, to (n_users, n_out)."""
        return x @ self.weight + self.bias


class FactoredLogits(NamedTuple):
    """Scores h W + b of all items, not multiplied out. The product is made in the type of h."""

    h: Tensor  # (n_users, n_in)
    weight: Tensor  # (n_in, n_items), float32
    bias: Tensor  # (n_items,), float32

    def of(self, items: slice) -> Tensor:
        """Multiply out the scores of some items, shape (n_users, number of them)."""
        weight, bias = self.weight[:, items].to(self.h.dtype), self.bias[items].to(self.h.dtype)
        # In place: a second tensor of this size costs more than the addition.
        return (self.h @ weight).add_(bias)


class ItemLogits(nn.Module):
    """Linear layer that scores every item: the one large dense product of a model.

    In training its product is made in ``precision``; parameters and gradients stay float32. The
    weight is stored as (n_in, n_items), the order that bfloat16 products read fastest.
    """

    precision = torch.float32

    def __init__(self, n_in: int, n_items: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_items))
        self.bias = nn.Parameter(torch.empty(n_items))

    def forward(self, h: Tensor) -> Tensor:
        """Map (n_users, n_in) to scores of shape (n_users, n_items)."""
        return self.factored(h).of(slice(None))

    def factored(self, h: Tensor) -> FactoredLogits:
        """Give the same scores as factors."""
        dtype = self.precision if self.training else torch.float32
        return FactoredLogits(h.to(dtype), self.weight, self.bias)


class Linear(nn.Linear):
    """Linear layer without bias, for inputs of many rows per user.

    In training its product is made in ``precision``, like that of :class:`ItemLogits`.
    """

    precision = torch.float32

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out), of the type of ``precision``."""
        dtype = self.precision if self.training else torch.float32
        return F.linear(h.to(dtype), self.weight.to(dtype))


class Encoder(nn.Module):
    """Sparse rows -> hidden layers, of tanh units by default -> n_out linear units."""

    def __init__(
        self,
        n_items: int,
        layer_sizes: Sequence[int],
        n_out: int,
        activation: Callable[[], nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        sizes = (*layer_sizes, n_out)
        self.first = ItemEmbedding(n_items, sizes[0])
        self.rest = nn.Sequential(
            *(layer for a, b in pairwise(sizes) for layer in (activation(), nn.Linear(a, b)))
        )

    def forward(self, x: InteractionBatch | Tensor) -> Tensor:
        """Map rows, sparse or dense, to (n_users, n_out)."""
        h: Tensor = self.rest(self.first(x))
        return h


class Decoder(nn.Module):
    """Latent vectors -> hidden tanh layers -> scores of all items."""

    def __init__(self, n_components: int, layer_sizes: Sequence[int], n_items: int) -> None:
        super().__init__()
        sizes = (n_components, *layer_sizes)
        self.hidden = nn.Sequential(
            *(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh()))
        )
        self.logits = ItemLogits(sizes[-1], n_items)

    def forward(self, z: Tensor) -> Tensor:
        """Map (n_users, n_components) to scores of shape (n_users, n_items)."""
        logits: Tensor = self.logits(self.hidden(z))
        return logits

    def factored(self, z: Tensor) -> FactoredLogits:
        """Give the same scores as factors."""
        return self.logits.factored(self.hidden(z))


class Autoencoder(nn.Module):
    """An encoder and a decoder."""

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder


class OwnStart(nn.Module):
    """A module that chooses its initial values itself, where the common rule does not suit it."""

    def start(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Set parameters and buffers, which the common rule has filled; x are the training rows."""
        raise NotImplementedError


def initialize(network: nn.Module, generator: torch.Generator, x: InteractionBatch) -> None:
    """Draw weights from Glorot's uniform distribution and biases from a narrow truncated normal.

    Networks are built without storage, so whatever a constructor wrote into a tensor is lost: a
    vector of ones, such as the weight of a ``LayerNorm``, is drawn like a bias. A module that is,
    or is part of, an :class:`OwnStart` sets its own values after that.

    Raises
    ------
    ValueError
        If there are buffers that nobody sets.
    """
    set_by_start = {
        id(buffer)
        for module in network.modules()
        if isinstance(module, OwnStart)
        for buffer in module.buffers()
    }
    for name, buffer in network.named_buffers():
        if id(buffer) not in set_by_start:
            raise ValueError(
                f"The buffer {name!r} of the network has no values, because networks are built"
                " without storage: let its module be an OwnStart, and set it in start."
            )
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.trunc_normal_(parameter, std=0.001, a=-0.002, b=0.002, generator=generator)
    for module in network.modules():
        if isinstance(module, OwnStart):
            module.start(generator, x)


def set_precision(network: nn.Module, dtype: torch.dtype) -> None:
    """Choose the type of the large products in training."""
    for module in network.modules():
        if isinstance(module, (ItemLogits, Linear)):
            module.precision = dtype


class TopItems(nn.Module):
    """What users have, to the best of the other items and their scores."""

    def __init__(
        self,
        network: nn.Module,
        logits: Callable[[Any, InteractionBatch], Tensor],
        n_items: int,
        k: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.logits = logits
        self.n_items = n_items
        self.k = k

    @torch.no_grad()
    def forward(self, items: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Rank, both of shape (n_users, k); -1 and -inf where there are no more items."""
        values = torch.ones_like(items, dtype=torch.float32)
        x = InteractionBatch(items, values, F.pad(counts.cumsum(0), (1, 0)), self.n_items)
        scores = self.logits(self.network, x)
        scores[x.users, items] = -torch.inf
        best, ranked = scores.topk(self.k)
        return ranked.masked_fill(best == -torch.inf, -1), best
