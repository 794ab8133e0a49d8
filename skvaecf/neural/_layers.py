"""Layers and networks. Sizes are numbers of units, and item numbers start at 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._batch import InteractionBatch

__all__ = [
    "Autoencoder",
    "Decoder",
    "Encoder",
    "ItemEmbedding",
    "ItemLogits",
    "Linear",
    "SelfInitialized",
]


class ItemEmbedding(nn.Module):
    """Linear layer for sparse rows: a weighted sum of the vectors of a user's items, plus a bias.

    The weights of the sum are the values of the row.

    Parameters
    ----------
    n_items : int
        Number of items, which is the length of a row.
    n_out : int
        Number of output units.

    Attributes
    ----------
    weight : nn.Parameter of shape (n_items, n_out)
        Vectors of the items.
    bias : nn.Parameter of shape (n_out,)
    item_axes : dict of str to int
        Names of the parameters with a part for each item, and the axis of the items.
    """

    item_axes: ClassVar[Mapping[str, int]] = {"weight": 0}

    def __init__(self, n_items: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x: InteractionBatch | Tensor) -> Tensor:
        """Map rows to output units.

        Parameters
        ----------
        x : InteractionBatch or Tensor of shape (n_users, n_items)

        Returns
        -------
        h : Tensor of shape (n_users, n_out)
        """
        return x @ self.weight + self.bias


class FactoredLogits(NamedTuple):
    """Scores h W + b of all items, stored as factors.

    Attributes
    ----------
    h : Tensor of shape (n_users, n_in), float32 or bfloat16
        Inputs of the last layer. The product is computed in their type.
    weight : Tensor of shape (n_in, n_items), float32
        Weight W of the last layer.
    bias : Tensor of shape (n_items,), float32
        Bias b of the last layer.
    """

    h: Tensor
    weight: Tensor
    bias: Tensor

    def multiply_out(self, items: slice) -> Tensor:
        """Compute the scores of a range of items.

        Parameters
        ----------
        items : slice
            Range of item numbers.

        Returns
        -------
        scores : Tensor of shape (n_users, number of these items)
            They have the type of ``h``.
        """
        weight, bias = self.weight[:, items].to(self.h.dtype), self.bias[items].to(self.h.dtype)
        # In place: a second tensor of this size costs more than the addition.
        return (self.h @ weight).add_(bias)


class ItemLogits(nn.Module):
    """Linear layer that scores every item.

    Its product is the only large dense one of a model. In training, the product is computed in the
    type ``precision``, which the recommender sets. Parameters and gradients stay float32.

    Parameters
    ----------
    n_in : int
        Number of input units.
    n_items : int
        Number of items.

    Attributes
    ----------
    weight : nn.Parameter of shape (n_in, n_items)
        Vectors of the items, as columns: products in bfloat16 are fastest in this layout.
    bias : nn.Parameter of shape (n_items,)
    item_axes : dict of str to int
        Names of the parameters with a part for each item, and the axis of the items.
    precision : torch.dtype, default=torch.float32
        Type of the product in training.
    log_weights : Tensor of shape (n_items,) or None, default=None
        Numbers that are added to the scores. In an update of a sample of the items, these are the
        logarithms of the numbers of items that each item stands for.
    """

    item_axes: ClassVar[Mapping[str, int]] = {"weight": 1, "bias": 0}
    precision = torch.float32
    log_weights: Tensor | None = None

    def __init__(self, n_in: int, n_items: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_items))
        self.bias = nn.Parameter(torch.empty(n_items))

    def forward(self, h: Tensor) -> Tensor:
        """Score every item.

        Parameters
        ----------
        h : Tensor of shape (n_users, n_in)

        Returns
        -------
        scores : Tensor of shape (n_users, n_items)
        """
        return self.factored(h).multiply_out(slice(None))

    def factored(self, h: Tensor) -> FactoredLogits:
        """Return the scores as factors, which a likelihood multiplies out part by part.

        Parameters
        ----------
        h : Tensor of shape (n_users, n_in)

        Returns
        -------
        scores : FactoredLogits
        """
        dtype = self.precision if self.training else torch.float32
        bias = self.bias if self.log_weights is None else self.bias + self.log_weights
        return FactoredLogits(h.to(dtype), self.weight, bias)


class Linear(nn.Linear):
    """Linear layer without bias, for inputs with many rows per user.

    In training, its product is computed in the type ``precision``, as in
    :class:`~skvaecf.neural.ItemLogits`.

    Parameters
    ----------
    n_in : int
        Number of input units.
    n_out : int
        Number of output units.

    Attributes
    ----------
    precision : torch.dtype, default=torch.float32
        Type of the product in training.
    """

    precision = torch.float32

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Map inputs to output units.

        Parameters
        ----------
        h : Tensor of shape (..., n_in)

        Returns
        -------
        out : Tensor of shape (..., n_out)
            In training it has the type ``precision``, else float32.
        """
        dtype = self.precision if self.training else torch.float32
        return F.linear(h.to(dtype), self.weight.to(dtype))


class Encoder(nn.Module):
    """Network from sparse rows through hidden layers to linear units.

    Parameters
    ----------
    n_items : int
        Number of items, which is the length of a row.
    layer_sizes : sequence of int
        Widths of the hidden layers; ``()`` makes the network linear.
    n_out : int
        Number of linear output units. For a normal posterior this is twice the number of
        components: ``DiagonalNormal.from_layer`` reads means and log-variances.
    activation : callable, default=nn.Tanh
        Returns the module that is applied to the units of a hidden layer.

    Attributes
    ----------
    first : ItemEmbedding
        First layer, without its activation.
    rest : nn.Sequential
        All further layers.
    """

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

    @property
    def item_weights(self) -> Tensor:
        """Weights of a user's items in the first layer, shape (n_items, n_units)."""
        return self.first.weight

    def forward(self, x: InteractionBatch | Tensor) -> Tensor:
        """Map rows to output units.

        Parameters
        ----------
        x : InteractionBatch or Tensor of shape (n_users, n_items)

        Returns
        -------
        h : Tensor of shape (n_users, n_out)
        """
        h: Tensor = self.rest(self.first(x))
        return h


class Decoder(nn.Module):
    """Network from latent vectors through hidden tanh layers to the scores of all items.

    Parameters
    ----------
    n_components : int
        Number of components of a latent vector.
    layer_sizes : sequence of int
        Widths of the hidden layers; ``()`` makes the network linear.
    n_items : int
        Number of items.

    Attributes
    ----------
    n_components : int
        As the parameter.
    hidden : nn.Sequential
        Hidden layers.
    logits : ItemLogits
        Last layer.
    """

    def __init__(self, n_components: int, layer_sizes: Sequence[int], n_items: int) -> None:
        super().__init__()
        self.n_components = n_components
        sizes = (n_components, *layer_sizes)
        self.hidden = nn.Sequential(
            *(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh()))
        )
        self.logits = ItemLogits(sizes[-1], n_items)

    def forward(self, z: Tensor) -> Tensor:
        """Score every item.

        Parameters
        ----------
        z : Tensor of shape (n_users, n_components)

        Returns
        -------
        scores : Tensor of shape (n_users, n_items)
        """
        logits: Tensor = self.logits(self.hidden(z))
        return logits

    def factored(self, z: Tensor) -> FactoredLogits:
        """Return the scores as factors, which a likelihood multiplies out part by part.

        Parameters
        ----------
        z : Tensor of shape (n_users, n_components)

        Returns
        -------
        scores : FactoredLogits
        """
        return self.logits.factored(self.hidden(z))


class Autoencoder(nn.Module):
    """Network that consists of an encoder and a decoder.

    Parameters
    ----------
    encoder : nn.Module
        Module that encodes rows. It is called only by the hooks of the recommender, so its output
        may have any form.
    decoder : Decoder
        Network that scores all items.
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def item_vectors(self) -> Tensor:
        """Return the vectors that score the items: the weight of the decoder's last layer.

        Returns
        -------
        vectors : Tensor of shape (n_items, n_in)
        """
        return self.decoder.logits.weight.detach().T


class SelfInitialized(nn.Module):
    """Base of modules that set their own initial values.

    Networks are built without storage, so values that a constructor writes into a tensor are lost.
    Afterwards a common rule draws the parameters: matrices from Glorot's uniform distribution, and
    vectors from a narrow truncated normal distribution. A module with other initial values, or with
    buffers, must be a subclass of this class.
    """

    def initialize(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Set the parameters and buffers that need other values than those of the common rule.

        It is called after the common rule, which sets all parameters and no buffers.

        Parameters
        ----------
        generator : torch.Generator
            Source of all random numbers. It is on the device of the module.
        x : InteractionBatch
            Rows of the training users.
        """
        raise NotImplementedError


def initialize(network: nn.Module, generator: torch.Generator, x: InteractionBatch) -> None:
    """Draw weights from Glorot's uniform distribution and biases from a narrow truncated normal.

    Networks are built without storage, so values that a constructor writes into a tensor are lost.
    Every vector is drawn like a bias, for example the weight of a ``LayerNorm``, which torch sets
    to ones. After that, each :class:`SelfInitialized` sets the values of itself and of its
    submodules.

    Parameters
    ----------
    network : nn.Module
    generator : torch.Generator
        On the device of the network.
    x : InteractionBatch
        Rows of the training users.

    Raises
    ------
    ValueError
        If a buffer does not belong to a :class:`SelfInitialized`.
    """
    special = [module for module in network.modules() if isinstance(module, SelfInitialized)]
    set_by_module = {id(buffer) for module in special for buffer in module.buffers()}
    for name, buffer in network.named_buffers():
        if id(buffer) not in set_by_module:
            raise ValueError(
                f"The buffer {name!r} of the network has no values, because networks are built"
                " without storage. Make its module a subclass of SelfInitialized whose initialize"
                " sets the buffer."
            )
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.trunc_normal_(parameter, std=0.001, a=-0.002, b=0.002, generator=generator)
    for module in special:
        module.initialize(generator, x)


def set_precision(network: nn.Module, dtype: torch.dtype) -> None:
    """Set the type of the large products in training."""
    module: Any
    for module in network.modules():
        if hasattr(type(module), "precision"):
            module.precision = dtype


class TopItems(nn.Module):
    """The k best unseen items of each user, as a module.

    Parameters
    ----------
    network : nn.Module
    logits : callable
        Maps the network and rows to the scores of all items, shape (n_users, n_items).
    item_counts : Tensor of shape (n_items,), float32
        Scores of the items for a user without interactions.
    k : int
        Length of the lists, at most n_items.
    """

    item_counts: Tensor

    def __init__(
        self,
        network: nn.Module,
        logits: Callable[[Any, InteractionBatch], Tensor],
        item_counts: Tensor,
        k: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.logits = logits
        self.register_buffer("item_counts", item_counts)
        self.k = k

    @torch.no_grad()
    def forward(
        self, items: Tensor, counts: Tensor, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find the k best unseen items of each user.

        Parameters
        ----------
        items : Tensor of shape (n_interactions,), int64
            Item numbers of the seen items of all users, user by user.
        counts : Tensor of shape (n_users,), int64
            Number of seen items of each user.
        values : Tensor of shape (n_interactions,), float32, or None, default=None
            Values of the interactions, for ``use_values=True``. None stands for ones.

        Returns
        -------
        items : Tensor of shape (n_users, k), int64
            Item numbers, best first; -1 where there are no more unseen items.
        scores : Tensor of shape (n_users, k), float32
            ``-inf`` where items is -1.
        """
        if values is None:
            values = torch.ones_like(items, dtype=torch.float32)
        n_items = self.item_counts.shape[0]
        x = InteractionBatch(items, values, F.pad(counts.cumsum(0), (1, 0)), n_items)
        scores = self.logits(self.network, x)
        scores = torch.where(counts[:, None] == 0, self.item_counts, scores)
        scores[x.users, items] = -torch.inf
        best, ranked = scores.topk(self.k)
        return ranked.masked_fill(best == -torch.inf, -1), best
