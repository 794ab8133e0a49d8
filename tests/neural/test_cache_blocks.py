"""Reductions over the items in blocks of rows."""

from __future__ import annotations

import pytest
import torch

from skvaecf.neural._cache_blocks import by_block, cached_blocks, reduction_dtype


@pytest.mark.parametrize(
    ("n_rows", "n_items", "n_blocks"),
    [
        (10, 100, 1),
        (6, 2**18, 6),
        (6, 2**18 // 4, 2),  # four rows, then two
        (3, 2**18 + 1, 3),  # a row alone is longer than a block
        (0, 100, 1),
    ],
)
def test_blocks_hold_at_most_a_mebibyte_and_cover_all_rows(n_rows, n_items, n_blocks):
    logits = torch.empty(1).expand(n_rows, n_items)  # takes no memory
    blocks = list(cached_blocks(logits))
    assert len(blocks) == n_blocks
    rows = [row for block in blocks for row in range(n_rows)[block]]
    assert rows == list(range(n_rows))
    assert all(len(range(n_rows)[b]) * n_items <= max(2**18, n_items) for b in blocks)


def test_other_devices_take_all_rows_at_once():
    assert list(cached_blocks(torch.empty(10_000, 2**18, device="meta"))) == [slice(0, 10_000)]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_reductions_are_made_in_float32_or_wider(dtype, expected):
    assert reduction_dtype(torch.empty(1, dtype=dtype)) == expected
    seen = []

    def add(block, column):
        seen.append(block.dtype)
        return block.add_(column).sum(dim=1, keepdim=True)

    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype)
    sums = by_block(add, logits, torch.tensor([[10.0], [20.0]]))
    assert seen == [expected]
    assert sums.tolist() == [[23.0], [47.0]]
    assert logits.tolist() == [[1.0, 2.0], [3.0, 4.0]]  # the block was a copy


def test_each_block_has_the_columns_of_its_rows(monkeypatch):
    def two_rows_each(logits):
        return (slice(start, start + 2) for start in range(0, len(logits), 2))

    monkeypatch.setattr("skvaecf.neural._cache_blocks.cached_blocks", two_rows_each)
    logits, column = torch.arange(10.0).reshape(5, 2), torch.arange(5.0)[:, None]
    products = by_block(lambda block, c: (block * c).sum(dim=1), logits, column)
    assert products.tolist() == [0.0, 5.0, 18.0, 39.0, 68.0]
