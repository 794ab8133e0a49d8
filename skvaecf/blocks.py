"""Passes over the scores of many items, in blocks of rows that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def cached_blocks(logits: Tensor) -> Iterator[slice]:
    """Blocks of rows: about 1 MiB of float32 on a CPU, all rows at once elsewhere."""
    n_rows, n_items = logits.shape
    size = max(1, 2**18 // n_items) if logits.device.type == "cpu" else max(1, n_rows)
    for start in range(0, max(1, n_rows), size):
        yield slice(start, start + size)


def wide(logits: Tensor) -> torch.dtype:
    """Give the type that reductions over the items are made in."""
    return torch.promote_types(logits.dtype, torch.float32)


def by_block(function: Callable[..., Tensor], logits: Tensor, *columns: Tensor) -> Tensor:
    """Apply a reduction over the items block by block; each is a copy that it may overwrite.

    The columns hold a number for each row.
    """
    parts = [
        function(logits[b].to(wide(logits), copy=True), *(column[b] for column in columns))
        for b in cached_blocks(logits)
    ]
    return torch.cat(parts)
