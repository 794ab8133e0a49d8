"""Rows of an interaction matrix as tensors on one device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from ._statistics import structure


@cache
def silence_sparse_csr_warnings() -> None:
    """Suppress the warnings about sparse CSR tensors, which torch gives once per process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0])


@dataclass(frozen=True)
class InteractionBatch:
    """Sparse rows of a users x items matrix, on one device.

    Row ``u`` holds the items ``items[offsets[u]:offsets[u + 1]]``. Their values are at the same
    positions of ``values``; for interactions, they are 1. Recommenders use only the methods and
    properties below. None of them builds a dense matrix of shape (n_users, n_items).
    ``x @ weight`` multiplies the rows by a dense tensor of shape (n_items, n_out).

    Attributes
    ----------
    items : Tensor of shape (n_entries,), int32 or int64
        Item number of each stored entry, row by row.
    values : Tensor of shape (n_entries,), float32
        Value of each stored entry.
    offsets : Tensor of shape (n_users + 1,), int64
        Positions at which the rows begin, followed by the number of entries.
    n_items : int
        Number of items, which is the number of columns.
    weights : Tensor of shape (n_users,), float32, or None, default=None
        Weights of the rows: the argument ``sample_weight`` of ``fit``. None stands for ones.
    """

    items: Tensor
    values: Tensor
    offsets: Tensor
    n_items: int
    weights: Tensor | None = None

    @classmethod
    def from_csr(
        cls,
        X: csr_array,
        device: torch.device | str = "cpu",
        weights: np.ndarray | None = None,
    ) -> InteractionBatch:
        """Return the rows of a canonical CSR matrix, copied to a device.

        Parameters
        ----------
        X : csr_array of shape (n_users, n_items)
        device : torch.device or str, default="cpu"
        weights : ndarray of shape (n_users,) or None, default=None
            Weights of the rows.

        Returns
        -------
        x : InteractionBatch
        """
        of_rows = None
        if weights is not None:
            of_rows = torch.tensor(weights, dtype=torch.float32, device=device)
        x = cls(
            weights=of_rows,
            items=torch.tensor(X.indices, dtype=torch.int32, device=device),
            values=torch.tensor(X.data, dtype=torch.float32, device=device),
            offsets=torch.tensor(X.indptr, dtype=torch.int64, device=device),
            n_items=X.shape[1],
        )
        vars(x)["host_offsets"] = X.indptr.astype(np.int64)
        return x

    @property
    def n_users(self) -> int:
        """Number of rows."""
        # Not len, here and below: torch.export would treat it as a constant.
        return self.offsets.shape[0] - 1

    @property
    def counts(self) -> Tensor:
        """Number of stored entries of each row, shape (n_users,), int64."""
        return self.offsets.diff()

    @cached_property
    def host_offsets(self) -> NDArray[np.int64]:
        """The offsets as an array, shape (n_users + 1,).

        The number of entries of some rows is computed from it: reading it from a GPU would make the
        program wait until the GPU has done all earlier work. A batch that is not built by
        ``from_csr`` copies it from the device once.
        """
        offsets: NDArray[np.int64] = self.offsets.cpu().numpy()
        return offsets

    @cached_property
    def host_items(self) -> NDArray[np.integer[Any]]:
        """The item numbers as an array, shape (n_entries,), copied from the device once."""
        items: NDArray[np.integer[Any]] = self.items.cpu().numpy()
        return items

    @cached_property
    def users(self) -> Tensor:
        """Row number of each stored entry, shape (n_entries,), int64."""
        return torch.repeat_interleave(self.counts, output_size=self.items.shape[0])

    @property
    def row_weights(self) -> Tensor:
        """Weights of the rows, shape (n_users,): ones if there are none."""
        return self.values.new_ones(self.n_users) if self.weights is None else self.weights

    @property
    def total_weight(self) -> float:
        """Sum of the weights of the rows; without weights, their number."""
        return self.n_users if self.weights is None else float(self.weights.double().sum())

    @property
    def n_interactions(self) -> float:
        """Number of stored entries; with weights of the rows, the sum of the entries' weights."""
        if self.weights is None:
            return len(self.items)
        return float((self.weights * self.offsets.diff()).double().sum())

    @cached_property
    def structure(self) -> float:
        """Structure S of the data (:ref:`structure-of-data`), computed on the CPU."""
        ones = torch.ones_like(self.values)
        arrays = (part.cpu().numpy() for part in (ones, self.items, self.offsets))
        weights = None if self.weights is None else self.weights.double().cpu().numpy()
        return structure(csr_array(tuple(arrays), shape=(self.n_users, self.n_items)), weights)

    def rows(self, users: Tensor) -> InteractionBatch:
        """Return the rows with the given numbers, in this order.

        Parameters
        ----------
        users : Tensor of shape (n,), int64
            Row numbers, on any device. If they are on the CPU, a GPU is not waited for.

        Returns
        -------
        x : InteractionBatch
            It has n rows.
        """
        numbers = users.cpu().numpy()
        starts = self.host_offsets[numbers]
        counts = self.host_offsets[numbers + 1] - starts
        offsets = np.append(0, counts.cumsum())
        # Entry e of the selection is entry starts[row] + (e - offsets[row]) of this batch.
        moved, repeats, of_rows = (
            torch.from_numpy(part).to(self.offsets.device, non_blocking=True)
            for part in (starts - offsets[:-1], counts, offsets)
        )
        entries = torch.arange(int(offsets[-1]), device=self.offsets.device)
        entries += moved.repeat_interleave(repeats, output_size=len(entries))
        x = replace(
            self,
            items=self.items[entries],
            values=self.values[entries],
            offsets=of_rows,
            weights=None if self.weights is None else self.weights[users.to(entries.device)],
        )
        vars(x)["host_offsets"] = offsets
        return x

    def items_of(self, users: Tensor) -> NDArray[np.integer[Any]]:
        """Return the numbers of all items of some rows, in ascending order.

        Parameters
        ----------
        users : Tensor of shape (n,), int64
            Row numbers, on the CPU. A GPU is not waited for.

        Returns
        -------
        items : ndarray of shape (n_different_items,)
        """
        starts, ends = self.host_offsets[users.numpy()], self.host_offsets[users.numpy() + 1]
        rows = [self.host_items[start:end] for start, end in zip(starts, ends, strict=True)]
        present = np.zeros(self.n_items, dtype=bool)  # faster than to sort the entries
        present[np.concatenate(rows)] = True
        return np.flatnonzero(present)

    def columns(self, items: Tensor) -> InteractionBatch:
        """Return the columns of some items, which include the items of all entries.

        Parameters
        ----------
        items : Tensor of shape (n,), int64
            Item numbers, in ascending order.

        Returns
        -------
        x : InteractionBatch
            Its item k is the item with the number ``items[k]`` of this batch.
        """
        numbers = torch.searchsorted(items, self.items.long())
        return replace_entries(self, items=numbers, n_items=len(items))

    def sum(self, entries: Tensor) -> Tensor:
        """Sum one number per stored entry over each row.

        Parameters
        ----------
        entries : Tensor of shape (n_entries,)

        Returns
        -------
        total : Tensor of shape (n_users,)
        """
        if entries.is_cuda and entries.is_floating_point() and entries.shape[0]:
            # index_add_ has no fixed order there, so the last bits would differ between fits.
            # index_put_ has one, but sorts the entries each time.
            return torch.segment_reduce(entries, "sum", offsets=self.offsets, initial=0)
        total = torch.zeros(self.n_users, dtype=entries.dtype, device=entries.device)
        return total.index_add_(0, self.users, entries)

    def gather(self, dense: Tensor) -> Tensor:
        """Return the elements of a dense tensor at the positions of the stored entries.

        Parameters
        ----------
        dense : Tensor of shape (n_users, n_items)

        Returns
        -------
        elements : Tensor of shape (n_entries,)
        """
        return dense[self.users, self.items]

    def products(self, P: Tensor, Q: Tensor) -> Tensor:
        """Compute the scalar product of P[user] and Q[item] for each stored entry.

        Parameters
        ----------
        P : Tensor of shape (n_users, n_components)
        Q : Tensor of shape (n_items, n_components)

        Returns
        -------
        products : Tensor of shape (n_entries,)
        """
        products: Tensor = torch.sparse.sampled_addmm(self._pattern, P, Q.T, beta=0).values()
        return products

    @cached_property
    def _pattern(self) -> Tensor:
        """The positions of the stored entries, as a sparse CSR tensor of torch."""
        silence_sparse_csr_warnings()
        return torch.sparse_csr_tensor(
            self.offsets.int(),
            self.items.int(),
            torch.zeros_like(self.values),
            (self.n_users, self.n_items),
            check_invariants=False,
        )

    def normalized(self) -> InteractionBatch:
        """Return the rows, each scaled to unit Euclidean length; an empty row stays empty."""
        length = self.sum(self.values.square()).sqrt().clamp(min=1e-6)
        return replace_entries(self, values=self.values / length[self.users])

    def with_values(self, values: Tensor) -> InteractionBatch:
        """Return the rows with other values of the stored entries.

        Parameters
        ----------
        values : Tensor of shape (n_entries,)

        Returns
        -------
        x : InteractionBatch
        """
        return replace_entries(self, values=values)

    def entries(self) -> InteractionBatch:
        """Return a batch of n_entries rows, each of which holds one of the stored entries."""
        return replace(
            self,
            offsets=torch.arange(len(self.items) + 1, device=self.items.device),
            weights=None if self.weights is None else self.weights[self.users],
        )

    def transposed(self) -> InteractionBatch:
        """Return the items x users matrix; the entries of a row are in the order of the users."""
        items, by_item = self.items.sort(stable=True)
        # Unlike bincount, this also runs on the meta device and is deterministic on CUDA.
        boundaries = torch.arange(self.n_items + 1, dtype=items.dtype, device=items.device)
        return InteractionBatch(
            items=self.users[by_item],
            values=self.values[by_item],
            offsets=torch.searchsorted(items, boundaries),
            n_items=self.n_users,
        )

    def restrict_to(self, items: slice) -> InteractionBatch:
        """Return the columns of a range of items.

        Every entry of another item becomes an entry with the value 0 in the first of these columns.

        Parameters
        ----------
        items : slice
            Range of item numbers.

        Returns
        -------
        x : InteractionBatch
            Its number of items is the length of the range.
        """
        if items == slice(0, self.n_items):
            return self
        columns = self.items - items.start
        n_items = items.stop - items.start
        inside = (columns >= 0) & (columns < n_items)
        entries = {"items": columns * inside, "values": self.values * inside}
        return replace_entries(self, **entries, n_items=n_items)

    def dropout(self, p: float, generator: torch.Generator | None) -> InteractionBatch:
        """Set each stored entry to 0 with probability p; scale the others by 1 / (1 - p).

        Parameters
        ----------
        p : float
            In [0, 1).
        generator : torch.Generator or None
            Source of the random numbers. None uses the global generator of torch.

        Returns
        -------
        x : InteractionBatch
        """
        if p == 0:
            return self
        draws = torch.rand(
            len(self.values), dtype=torch.float32, device=self.values.device, generator=generator
        )
        return replace_entries(self, values=self.values * (draws >= p) / (1 - p))

    def __matmul__(self, weight: Tensor) -> Tensor:
        """Multiply the rows by a dense matrix.

        Parameters
        ----------
        weight : Tensor of shape (n_items, n_out)

        Returns
        -------
        product : Tensor of shape (n_users, n_out)
        """
        product: Tensor = _SparseProduct.apply(weight, self.values, self)  # type: ignore[no-untyped-call]
        return product


def replace_entries(x: InteractionBatch, **changes: Any) -> InteractionBatch:
    """Return rows of the same lengths with other entries."""
    new = replace(x, **changes)
    # These depend on the lengths of the rows only, so they are not computed again.
    vars(new).update({n: v for n, v in vars(x).items() if n in ("users", "host_offsets")})
    return new


def weighted_sums(rows: Tensor, numbers: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Sum weighted rows of a matrix, shape (n_sums, n_columns).

    Sum s adds the rows ``numbers[offsets[s]:offsets[s + 1]]``, times their weights.
    """
    return F.embedding_bag(
        numbers, rows, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class _SparseProduct(torch.autograd.Function):
    """rows @ weight, which reads and updates only the weights of the items in the rows.

    The backward of torch's ``embedding_bag`` adds the entries to the gradient one by one. With the
    entries sorted by item, the gradient is itself a bag sum, over users. This is about 1.3 times
    faster, and deterministic.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, x: InteractionBatch) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.x = x
        return weighted_sums(weight, x.items.long(), values, x.offsets)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (weight,), x = ctx.saved_tensors, ctx.x
        grad_weight = grad_values = None
        if ctx.needs_input_grad[0]:
            by_item = x.with_values(x.values.detach()).transposed()
            grad = grad.contiguous()
            grad_weight = weighted_sums(grad, by_item.items, by_item.values, by_item.offsets)
        if ctx.needs_input_grad[1]:
            grad_values = (grad[x.users] * weight[x.items]).sum(dim=1)
        return grad_weight, grad_values, None
