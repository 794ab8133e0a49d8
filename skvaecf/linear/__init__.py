"""Solvers and item-item products of the linear models."""

from ._block_pivoting import BlockPivoting
from ._item_item import DenseGram, SparseGram, StoredGram
from ._least_squares import FixedFactors, LeastSquares

__all__ = [
    "BlockPivoting",
    "DenseGram",
    "FixedFactors",
    "LeastSquares",
    "SparseGram",
    "StoredGram",
]
