"""Work on the scores, in blocks that fit into the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .._threads import in_threads


def cached_blocks(logits: Tensor) -> Iterator[slice]:
    """Yield blocks of rows: about 1 MiB of float32 on a CPU, all rows at once elsewhere."""
    n_rows, n_items = logits.shape
    size = max(1, 2**18 // n_items) if logits.device.type == "cpu" else max(1, n_rows)
    for start in range(0, max(1, n_rows), size):
        yield slice(start, start + size)


def reduction_dtype(logits: Tensor) -> torch.dtype:
    """Return the type for reductions over the items: float32, or a wider type of the logits."""
    return torch.promote_types(logits.dtype, torch.float32)


def by_block(
    function: Callable[..., Tensor],
    logits: Tensor,
    *columns: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """Apply a reduction over the items to blocks of rows.

    Parameters
    ----------
    function : callable
        Maps a block of the logits, and the same rows of the columns, to a tensor with one row per
        row of the block. The block is a copy in the type ``reduction_dtype``, which the function
        may overwrite. It is called by several threads at the same time.
    logits : Tensor of shape (n_rows, n_items)
    *columns : Tensor of shape (n_rows, ...)
        Further arguments of the function.
    rows : Tensor of shape (n,), int64, default=None
        Numbers of the rows that are reduced. None stands for all rows.

    Returns
    -------
    result : Tensor of shape (n_rows, ...) or (n, ...)
    """
    dtype = reduction_dtype(logits)

    def reduce(block: slice) -> Tensor:
        own = block if rows is None else rows[block]
        return function(logits[own].to(dtype, copy=True), *(column[own] for column in columns))

    shape = logits if rows is None else rows[:, None].expand(-1, logits.shape[1])
    return torch.cat(in_threads(reduce, cached_blocks(shape), logits.device))
