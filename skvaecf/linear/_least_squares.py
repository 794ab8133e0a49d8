"""Weighted least squares problems, one per row: the half-steps of matrix factorisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .._batch import InteractionBatch, replace_entries
from .._devices import widest_float_dtype
from .._top_k import as_index


@dataclass(frozen=True)
class FixedFactors:
    """Fixed factors of a half-step, with the products that all its problems share."""

    Q: Tensor  # (n_columns, n_components)
    gram: Tensor  # (n_components, n_components), Q' diag(s) Q

    @classmethod
    def from_factors(cls, Q: Tensor, weights: Tensor | None = None) -> FixedFactors:
        """Compute the products of Q, with weights s of the columns; None stands for ones."""
        return cls(Q, weighted_rows(Q, weights).T @ Q)

    @cached_property
    def squares(self) -> Tensor:
        """Squares of the entries of Q, shape (n_columns, n_components)."""
        return self.Q.square()


@dataclass(frozen=True)
class LeastSquares:
    r"""One least squares problem per row of P, with Q fixed.

    .. math:: f(p) = \sum_{i \in S} c_i (1 - p^\top q_i)^2 - \alpha_0 s_i (p^\top q_i)^2
              + \alpha_0 \sum_i s_i (p^\top q_i)^2 + \rho \|p\|^2

    where S are the interactions of the row; the third term is a sum over all columns. The weights
    :math:`s_i` of the columns are 1, or those of the users in the problems of the items. The
    gradient is zero if :math:`(\alpha_0 Q^\top \operatorname{diag}(s) Q
    + \sum_{i \in S} w_i q_i q_i^\top + \rho I) \, p = \sum_{i \in S} c_i q_i`, with
    :math:`w_i = c_i - \alpha_0 s_i`. In the methods below, A is the matrix of this system.
    """

    x: InteractionBatch
    fixed: FixedFactors
    weight: Tensor  # (n_entries,), w
    unobserved_weight: float | Tensor  # alpha_0; of each row in conjugate_gradients: (n_rows, 1)
    ridge: Tensor  # (n_rows, 1), rho
    column_weight: float | Tensor = 1.0  # s at the entries; a number in ``solve``

    @property
    def unobserved_at_entries(self) -> float | Tensor:
        """Weights alpha_0 s of the entries if they were not interactions."""
        return self.unobserved_weight * self.column_weight

    def block(self, columns: slice) -> LeastSquares:
        """Return the problems for some components, with the others fixed."""
        Q, gram = self.fixed.Q[:, columns].contiguous(), self.fixed.gram[columns, columns]
        return replace(self, fixed=FixedFactors(Q, gram))

    def of_present_columns(self) -> LeastSquares:
        """Return the same problems without the columns in which no row has an interaction.

        Their share of Q'Q stays in ``fixed.gram``. The cost of a few rows then does not grow with
        the number of columns.
        """
        present, items = torch.unique(self.x.items, return_inverse=True)
        x = replace_entries(self.x, items=items, n_items=len(present))
        return replace(self, x=x, fixed=replace(self.fixed, Q=self.fixed.Q[present]))

    def penalty(self, P: Tensor, weights: Tensor | None = None) -> float:
        """Compute the sum of rho times the squared norms of the rows, times their weights."""
        terms = weighted_rows(self.ridge * P.square(), weights)
        return float(terms.sum(dtype=widest_float_dtype(P.device)))

    def objective(self, P: Tensor, predicted: Tensor) -> float:
        """Compute the sum of f over the rows; ``predicted`` is p . q at the interactions."""
        a0, dtype = self.unobserved_at_entries, widest_float_dtype(P.device)
        observed = (a0 + self.weight) * (1 - predicted).square() - a0 * predicted.square()
        everywhere = self.unobserved_weight * ((P.T @ P) * self.fixed.gram).sum(dtype=dtype)
        return float(observed.sum(dtype=dtype) + everywhere) + self.penalty(P)

    def residual(self, P: Tensor, predicted: Tensor) -> Tensor:
        """Compute the right side minus A p, half the negative gradient of f, shape of P."""
        values = self.unobserved_at_entries + self.weight - self.weight * predicted
        return self._spread(values) - self._dense(P)

    def _dense(self, P: Tensor) -> Tensor:
        """Compute the part of A p that does not depend on the interactions."""
        return self.unobserved_weight * (P @ self.fixed.gram) + self.ridge * P

    def _spread(self, values: Tensor) -> Tensor:
        """Compute the sum of values times q over the interactions of each row, shape of P."""
        return self.x.with_values(values) @ self.fixed.Q

    def conjugate_gradients(self, residual: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Solve A change = residual approximately; f decreases in every step.

        A row stops when its residual has decreased to the precision of float32.

        Returns
        -------
        change : Tensor of shape (n_rows, n_components)
        moved : Tensor of shape (n_entries,)
            Products of ``change`` and Q at the interactions.
        """
        change, moved = torch.zeros_like(residual), torch.zeros_like(self.weight)
        # The diagonal of A: a good preconditioner in the principal axes of Q.
        diagonal = self.unobserved_weight * self.fixed.gram.diagonal() + self.ridge
        diagonal = diagonal + self.x.with_values(self.weight) @ self.fixed.squares
        direction = residual / diagonal
        size = (residual * direction).sum(dim=1, keepdim=True)
        enough = 1e-12 * size
        for step in range(n_steps):
            along = self.x.products(direction, self.fixed.Q)
            image = self._spread(self.weight * along) + self._dense(direction)  # A direction
            curvature = (direction * image).sum(dim=1, keepdim=True)
            length = torch.where(size > enough, size / curvature, 0)
            change += length * direction
            moved += length[self.x.users, 0] * along
            # The few steps of a fit are not worth the wait for a GPU; a step of length 0 changes
            # nothing.
            if step == n_steps - 1 or (step > 1 and not length.any()):
                break
            residual = residual - length * image
            scaled = residual / diagonal
            previous, size = size, (residual * scaled).sum(dim=1, keepdim=True)
            direction = scaled + torch.where(previous > 0, size / previous, 0) * direction
        return change, moved

    def cholesky(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Solve A change = residual exactly; return the same as ``conjugate_gradients``."""
        change = self.inverse_times(residual[:, None])[:, 0]
        return change, self.x.products(change, self.fixed.Q)

    def inverse_times(self, vectors: Tensor) -> Tensor:
        """Compute the product of the inverse of A with the n vectors of each row.

        Parameters
        ----------
        vectors : Tensor of shape (n_rows, n, n_components)

        Returns
        -------
        products : Tensor of the same shape
        """
        products = torch.empty_like(vectors)
        dense = self.unobserved_weight * self.fixed.gram
        identity = torch.eye(len(dense), dtype=dense.dtype, device=dense.device)
        for rows, entries, filled in self._rows_of_similar_length(len(self.weight)):
            q = self.fixed.Q[self.x.items[entries]]  # (n_rows, longest, n_components)
            weight = self.weight[entries] * filled
            A = q.mT @ (weight[..., None] * q) + dense + self.ridge[rows, :, None] * identity
            products[rows] = solve_positive(A, vectors[rows].mT).mT
        return products

    def solve(self) -> Tensor:
        r"""Solve A p = right side to the precision of float32; Q must be in principal axes.

        In principal axes, :math:`D = \alpha_0 Q^\top Q + \rho I` is diagonal. For a row with few
        interactions, the size of the system is their number: with
        :math:`B = W^{1/2} Q_S D^{-1/2}`, the solution is :math:`p = D^{-1/2} B^\top y`, where
        :math:`(I + B B^\top) \, y = W^{-1/2} c`. Longer rows are solved by conjugate gradients.
        """
        n_components = self.fixed.Q.shape[1]
        few = n_components // 2  # for longer rows, conjugate gradients are faster
        P = self.fixed.Q.new_zeros(self.x.n_users, n_components)
        diagonal = self.unobserved_weight * self.fixed.gram.diagonal() + self.ridge
        for rows, entries, filled in self._rows_of_similar_length(few):
            root = self.weight[entries].sqrt()
            scale = diagonal.index_select(0, rows).rsqrt()
            B = self.fixed.Q[self.x.items[entries]]  # (n_rows, longest, n_components)
            B *= (root * filled)[..., None]
            B *= scale[:, None]
            system = B @ B.mT
            system.diagonal(dim1=1, dim2=2).add_(1)
            right = (self.unobserved_weight + root.square()) / root * filled
            y = solve_positive(system, right[..., None])
            P.index_copy_(0, rows, (y.mT @ B).squeeze(1) * scale)
        numbers = np.flatnonzero(np.diff(self.x.host_offsets) > few)
        if len(numbers):
            x = self.x.with_values(self.weight).rows(torch.from_numpy(numbers))
            long = as_index(numbers, P)
            problem = replace(self, x=x, weight=x.values, ridge=self.ridge[long])
            problem = problem.of_present_columns()
            residual = problem.residual(torch.zeros_like(P[long]), torch.zeros_like(x.values))
            P[long] = problem.conjugate_gradients(residual, 10 * n_components)[0]
        return P

    def _rows_of_similar_length(self, longest: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield groups of rows of a similar length, up to the length ``longest``.

        A group takes a few MiB, on a GPU 16 times as much; at most half of it is padding.

        Yields
        ------
        rows : Tensor of shape (n_rows,)
        entries : Tensor of shape (n_rows, longest in the group)
            Numbers of the entries of the rows.
        filled : Tensor of bool, of the same shape
            False at the padding of shorter rows.
        """
        n_components, Q = self.fixed.Q.shape[1], self.fixed.Q
        numbers = 2**20 if Q.device.type == "cpu" else 2**24
        counts = np.diff(self.x.host_offsets)
        order = np.argsort(-counts, kind="stable")
        counts = counts[order]
        # The host decides on the groups; a GPU is not asked for the counts.
        of_rows, all_rows = as_index(counts, Q)[:, None], as_index(order, Q)
        start = int(np.count_nonzero(counts > longest))
        while start < len(order):
            length = int(counts[start])
            size = max(1, numbers // (n_components * max(n_components, length)))
            size = int(np.count_nonzero(2 * counts[start : start + size] >= length))
            rows = all_rows[start : start + size]
            place = torch.arange(length, device=Q.device)
            filled = place < of_rows[start : start + size]
            yield rows, torch.where(filled, self.x.offsets[rows][:, None] + place, 0), filled
            start += size


def solve_positive(A: Tensor, b: Tensor) -> Tensor:
    """Solve positive definite systems A x = b, of shapes (n, m, m) and (n, m, n_right).

    ``torch.linalg.solve`` is not used: with many systems of size 150 or more it may hang after
    ``torch.set_num_threads``. Systems that are singular for the Cholesky factorisation are solved
    one by one by ``solve_ex``. If this fails as well, the solution is 0.
    """
    factor, failed = torch.linalg.cholesky_ex(A)
    x = torch.cholesky_solve(b, factor)
    for row in failed.nonzero().squeeze(1):
        x[row] = torch.linalg.solve_ex(A[row], b[row])[0].nan_to_num(0, 0, 0)
    return x


def principal_axes(P: Tensor, Q: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rotate P and Q so that Q'Q is diagonal and ascending; the products P Q' do not change.

    With weights s of the rows of Q, Q' diag(s) Q becomes diagonal.
    """
    axes = eigh(weighted_rows(Q, weights).T @ Q)[1]
    return P @ axes, Q @ axes


def weighted_rows(Q: Tensor, weights: Tensor | None) -> Tensor:
    """Multiply the rows by their weights; None stands for ones."""
    return Q if weights is None else Q * weights[:, None]


def eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose Q'Q into eigenvalues, ascending, and eigenvectors.

    Entries far below the rounding error are set to 0, because LAPACK returns NaN for some matrices
    with denormal numbers.
    """
    least = (1e-14 * gram.diagonal().max()).clamp(min=1e-30)
    values, vectors = torch.linalg.eigh(gram.where(gram.abs() > least, 0))
    return values, vectors
