"""Reductions over the items, in blocks of rows that fit into the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def cached_blocks(logits: Tensor) -> Iterator[slice]:
    """Yield blocks of rows: about 1 MiB of float32 on a CPU, all rows at once elsewhere."""
    n_rows, n_items = logits.shape
    size = max(1, 2**18 // n_items) if logits.device.type == "cpu" else max(1, n_rows)
    for start in range(0, max(1, n_rows), size):
        yield slice(start, start + size)


def reduction_dtype(logits: Tensor) -> torch.dtype:
    """Return the type for reductions over the items: float32, or a wider type of the logits."""
    return torch.promote_types(logits.dtype, torch.float32)


def by_block(function: Callable[..., Tensor], logits: Tensor, *columns: Tensor) -> Tensor:
    """Apply a reduction over the items to one block of rows after another.

    Parameters
    ----------
    function : callable
        Maps a block of the logits, and the same rows of the columns, to a tensor with one row per
        row of the block. The block is a copy in the type ``reduction_dtype``, which the function
        may overwrite.
    logits : Tensor of shape (n_rows, n_items)
    *columns : Tensor of shape (n_rows, 1)
        Further arguments of the function.

    Returns
    -------
    result : Tensor of shape (n_rows, ...)
    """
    parts = [
        function(
            logits[b].to(reduction_dtype(logits), copy=True), *(column[b] for column in columns)
        )
        for b in cached_blocks(logits)
    ]
    return torch.cat(parts)
