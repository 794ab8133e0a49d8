"""Ranks: the processes of a torch.distributed group, which share the rows of every mini-batch.

Without a group there is one rank, and everything here gives back what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn


def n_ranks() -> int:
    """Count the ranks."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def own_rank() -> int:
    """Give the number of this one, from 0."""
    return distributed.get_rank() if n_ranks() > 1 else 0


def own_rows(users: Tensor) -> tuple[Tensor, float]:
    """Give this rank's rows of a mini-batch, and its weight in the mean over them.

    Where there are fewer rows than ranks, every rank takes all.
    """
    if len(users) < n_ranks():
        return users, 1 / n_ranks()
    rows = users[own_rank() :: n_ranks()]
    return rows, len(rows) / len(users)


def own_generator(generator: torch.Generator) -> torch.Generator:
    """Branch a generator of this rank's own off one of all ranks, which is left as it is."""
    if n_ranks() == 1:
        return generator
    own = torch.Generator(generator.device)
    own.set_state(generator.get_state())
    seed = torch.randint(2**31, (), generator=own, device=own.device)
    return own.manual_seed(int(seed) + own_rank())


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor over the ranks."""
    if n_ranks() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(x)
    return x


def of_first_rank(value: Any) -> Any:
    """Give the value that rank 0 has."""
    values = [value]
    if n_ranks() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def copy_from_first_rank(network: nn.Module) -> None:
    """Overwrite parameters and buffers by those of rank 0."""
    if n_ranks() > 1:
        for tensor in network.state_dict().values():
            distributed.broadcast(tensor, 0)


def check_equal_on_ranks(what: Mapping[str, str]) -> None:
    """Refuse, on all ranks, what differs between them."""
    if n_ranks() == 1:
        return
    everywhere: list[Any] = [None] * n_ranks()
    distributed.all_gather_object(everywhere, what)
    names = sorted({name for there in everywhere for name in there})
    differing = [name for name in names if len({there.get(name) for there in everywhere}) > 1]
    if differing:
        raise ValueError(
            "The ranks of torch.distributed must fit the same model to the same data, but they"
            f" differ in {', '.join(differing)}."
        )
