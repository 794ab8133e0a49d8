"""Updates of the items of a mini-batch and of a random sample of the other items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._batch import InteractionBatch

# Maps the rows of a player, the users of a mini-batch, the number of updates so far and the
# player's optimizer to a context. In this context, network and optimizer have only the parameters
# of some items. Its value is a function that returns the columns of these items.
Sampling = Callable[
    [InteractionBatch, Tensor, int, torch.optim.Optimizer],
    AbstractContextManager[Callable[[InteractionBatch], InteractionBatch]],
]


def all_items(*args: Any) -> AbstractContextManager[Callable[[InteractionBatch], InteractionBatch]]:
    """Return a context in which network and optimizer have all items."""
    return nullcontext(lambda x: x)


class ItemSampling:
    """Contexts in which a network has only the items of a mini-batch and a sample of the others.

    In this context, a row of :class:`~skvaecf.neural.ItemEmbedding` and a column of
    :class:`~skvaecf.neural.ItemLogits` exist only for these items, as do Adam's averages of them.
    At its end they are copied back. So an update takes no time and no memory for the other items,
    whose parameters and averages do not change ("lazy" Adam). If the sample has all other items,
    the update is that of the whole network.

    Parameters
    ----------
    network : nn.Module
        All its tensors whose shape depends on the number of items belong to such layers, see
        ``other_tensors_of_items``.
    n_sampled_items : int
        Number of items that are drawn among those that are not in the mini-batch, or fewer if there
        are fewer.
    """

    def __init__(self, network: nn.Module, n_sampled_items: int) -> None:
        self.n_sampled_items = n_sampled_items
        self.axes = item_axes(network)
        self.parts: dict[tuple[nn.Parameter, str], Tensor] = {}  # of the last update
        modules: list[Any] = list(network.modules())
        self.scores = [module for module in modules if hasattr(type(module), "log_weights")]

    @contextmanager
    def __call__(
        self, rows: InteractionBatch, users: Tensor, step: int, optimizer: torch.optim.Optimizer
    ) -> Iterator[Callable[[InteractionBatch], InteractionBatch]]:
        """Let network and optimizer have only some items.

        Parameters
        ----------
        rows : InteractionBatch
            Rows of the player.
        users : Tensor of shape (n_rows,), int64
            Numbers of the rows in the mini-batch, on the CPU.
        step : int
            Number of updates that the player has made.
        optimizer : Optimizer
            Adam's averages of the player's parameters.

        Yields
        ------
        restrict : callable
            Maps rows of the mini-batch to their columns of these items.
        """
        # The users are in random order, so they are a seed. It is the same on all ranks, and a
        # checkpoint needs no other. No value is read from a GPU.
        seed = np.append(users.numpy(), step).astype(np.uint32)
        drawn = sample_items(rows.items_of(users), rows.n_items, self.n_sampled_items, seed)
        items, log_weights = (
            torch.from_numpy(part).to(rows.items.device, non_blocking=True) for part in drawn
        )
        whole = {parameter: parameter.data for parameter in self.axes}
        averages = {p: _averages(optimizer, p) for p in self.axes}
        try:
            for parameter in self.axes:
                parameter.data = self._part("value", parameter, parameter.data, items)
                for name, average in averages[parameter].items():
                    part = self._part(name, parameter, average, items)
                    optimizer.state[parameter][name] = part
            for layer in self.scores:
                layer.log_weights = log_weights
            yield lambda x: x.columns(items)
            for parameter, axis in self.axes.items():
                for name, part in _averages(optimizer, parameter).items():
                    if name not in averages[parameter]:  # Adam creates them in its first update
                        averages[parameter][name] = torch.zeros_like(whole[parameter])
                    averages[parameter][name].index_copy_(axis, items, part)
                if parameter in optimizer.state:  # else the player does not update it
                    whole[parameter].index_copy_(axis, items, parameter.data)
        finally:  # also after Ctrl-C: the parameters before the update are kept then
            for layer in self.scores:
                layer.log_weights = None
            for parameter in self.axes:
                parameter.data = whole[parameter]
                if parameter in optimizer.state:
                    optimizer.state[parameter] |= averages[parameter]

    def _part(self, name: str, parameter: nn.Parameter, whole: Tensor, items: Tensor) -> Tensor:
        """Return the part of some items in memory of an earlier update, if it is large enough."""
        # On a CPU, new memory of this size takes longer than the copy.
        part = self.parts.setdefault((parameter, name), whole.new_empty(0))
        axis = self.axes[parameter]
        part.resize_(*whole.shape[:axis], len(items), *whole.shape[axis + 1 :])
        return torch.index_select(whole, axis, items, out=part)


def item_axes(network: nn.Module) -> dict[nn.Parameter, int]:
    """Return the axis of the items of each parameter of item embeddings and item logits."""
    axes: dict[nn.Parameter, int] = {}
    for module in network.modules():
        of_module = getattr(type(module), "item_axes", {})
        axes |= {getattr(module, name): axis for name, axis in of_module.items()}
    return axes


def other_tensors_of_items(network: nn.Module, larger: nn.Module, n_items: int) -> list[str]:
    """Return the names of other tensors whose shape depends on the number of items.

    Parameters
    ----------
    network : nn.Module
    larger : nn.Module
        The same network with one item more; it may be on the meta device.
    n_items : int
        Number of items of ``network``.

    Returns
    -------
    names : list of str
        If there are any, ``ItemSampling`` cannot be used.
    """
    axes = item_axes(network)
    sizes = {name: tensor.shape for name, tensor in larger.state_dict().items()}
    tensors = network.state_dict(keep_vars=True).items()
    return [
        name
        for name, tensor in tensors
        if tensor not in axes
        and (n_items, n_items + 1) in zip(tensor.shape, sizes[name], strict=True)
    ]


def _averages(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return the tensors in Adam's state that have the shape of the parameter."""
    state = optimizer.state.get(parameter, {})
    return {name: value for name, value in state.items() if value.shape == parameter.shape}


def sample_items(
    present: NDArray[np.integer[Any]], n_items: int, n_sampled: int, seed: Any
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draw items without replacement among those that are not present.

    Parameters
    ----------
    present : ndarray of shape (n_present,)
        Different item numbers, in ascending order.
    n_items : int
        Number of all items.
    n_sampled : int
        Number of items to draw.
    seed : int or array of int

    Returns
    -------
    items : ndarray of shape (n_present + n_drawn,), int64
        The items that are present and those that were drawn, in ascending order.
    log_weights : ndarray of the same shape, float32
        Logarithm of the number of items that each one stands for: 0 for an item that is present.
    """
    n_others = n_items - len(present)
    n_drawn = min(n_sampled, n_others)
    drawn = np.random.default_rng(seed).choice(n_others, n_drawn, replace=False, shuffle=False)
    # The k-th other item has the number k plus the number of present items before it.
    drawn += np.searchsorted(present - np.arange(len(present)), drawn, side="right")
    items = np.concatenate((present, drawn))
    order = items.argsort()
    log_weight = np.log(n_others / max(n_drawn, 1)) if n_others else 0.0
    log_weights = np.repeat([0.0, log_weight], [len(present), n_drawn])
    return items[order].astype(np.int64), log_weights[order].astype(np.float32)
