"""Data-parallel training in a process group of torch.distributed.

A rank is one process of the group. The ranks share the rows of every mini-batch. Without a group
there is one rank, and the functions of this module return their arguments unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn


def n_ranks() -> int:
    """Return the number of ranks."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def own_rank() -> int:
    """Return the number of this rank, counted from 0."""
    return distributed.get_rank() if n_ranks() > 1 else 0


def own_rows(users: Tensor) -> tuple[Tensor, float]:
    """Return the rows of a mini-batch that this rank uses, and the weight of their mean.

    The mean over the mini-batch is the sum over the ranks of these weighted means. If there are
    fewer rows than ranks, every rank uses all rows.
    """
    if len(users) < n_ranks():
        return users, 1 / n_ranks()
    rows = users[own_rank() :: n_ranks()]
    return rows, len(rows) / len(users)


def own_generator(generator: torch.Generator) -> torch.Generator:
    """Return a new generator for this rank, from a generator that is equal on all ranks.

    The given generator is not changed. Without a group it is returned itself.
    """
    if n_ranks() == 1:
        return generator
    own = torch.Generator(generator.device)
    own.set_state(generator.get_state())
    seed = torch.randint(2**31, (), generator=own, device=own.device)
    return own.manual_seed(int(seed) + own_rank())


def sum_over_ranks(x: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks."""
    if n_ranks() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(x)
    return x


def broadcast_from_rank_0(value: Any) -> Any:
    """Return the value of rank 0 on all ranks."""
    values = [value]
    if n_ranks() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def copy_from_rank_0(network: nn.Module) -> None:
    """Overwrite parameters and buffers with those of rank 0."""
    if n_ranks() > 1:
        for tensor in network.state_dict().values():
            distributed.broadcast(tensor, 0)


def check_equal_on_ranks(what: Mapping[str, str]) -> None:
    """Raise a ValueError on all ranks if a value differs between the ranks."""
    if n_ranks() == 1:
        return
    everywhere: list[Any] = [None] * n_ranks()
    distributed.all_gather_object(everywhere, what)
    names = sorted({name for there in everywhere for name in there})
    differing = [name for name in names if len({there.get(name) for there in everywhere}) > 1]
    if differing:
        raise ValueError(
            "All ranks of the process group must fit the same model to the same data, but they"
            f" differ in {', '.join(differing)}."
        )
