"""Weighted least squares, one problem per row: the half-steps of matrix factorisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._devices import exact
from .interactions import InteractionBatch


@dataclass(frozen=True)
class Fixed:
    """The factors that a half-step keeps, with what all its problems need of them."""

    Q: Tensor  # (n_columns, n_components)
    gram: Tensor  # (n_components, n_components), Q'Q
    squares: Tensor  # (n_columns, n_components)

    @classmethod
    def of(cls, Q: Tensor) -> Fixed:
        """Compute what follows from Q."""
        return cls(Q, Q.T @ Q, Q.square())


@dataclass(frozen=True)
class LeastSquares:
    r"""One least squares problem per row of P, with Q fixed.

    .. math:: f(p) = \sum_{i \in S} c_i (1 - p^\top q_i)^2 - \alpha_0 (p^\top q_i)^2
              + \alpha_0 \sum_i (p^\top q_i)^2 + \rho \|p\|^2

    over the row's interactions S and, in the third term, all columns. Setting the gradient to zero
    gives :math:`(\alpha_0 Q^\top Q + \sum_{i \in S} w_i q_i q_i^\top + \rho I) \, p
    = \sum_{i \in S} c_i q_i`, with :math:`w_i = c_i - \alpha_0`. Below, A is the matrix of that
    system.
    """

    x: InteractionBatch
    fixed: Fixed
    weight: Tensor  # (n_entries,), w
    unobserved_weight: float
    ridge: Tensor  # (n_rows, 1), rho

    def block(self, columns: slice) -> LeastSquares:
        """Build the problems of some components, the others being fixed."""
        fixed = Fixed(
            self.fixed.Q[:, columns].contiguous(),
            self.fixed.gram[columns, columns],
            self.fixed.squares[:, columns].contiguous(),
        )
        return replace(self, fixed=fixed)

    def penalty(self, P: Tensor) -> float:
        """Sum of rho times the squared norms of the rows."""
        return float((self.ridge * P.square()).sum(dtype=exact(P.device)))

    def objective(self, P: Tensor, predicted: Tensor) -> float:
        """Sum of f over the rows, ``predicted`` being p . q at the interactions."""
        a0 = self.unobserved_weight
        observed = (a0 + self.weight) * (1 - predicted).square() - a0 * predicted.square()
        everywhere = a0 * ((P.T @ P) * self.fixed.gram).sum(dtype=exact(P.device))
        return float(observed.sum(dtype=exact(P.device)) + everywhere) + self.penalty(P)

    def residual(self, P: Tensor, predicted: Tensor) -> Tensor:
        """Right side minus A p: half the negative gradient of f, shape of P."""
        values = self.unobserved_weight + self.weight - self.weight * predicted
        return self._spread(values) - self._dense(P)

    def _dense(self, P: Tensor) -> Tensor:
        """Compute the part of A p that all columns have a share in."""
        return self.unobserved_weight * (P @ self.fixed.gram) + self.ridge * P

    def _spread(self, values: Tensor) -> Tensor:
        """Sum q over the interactions of each row, each times its value, shape of P."""
        return replace(self.x, values=values) @ self.fixed.Q

    def conjugate_gradients(self, residual: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Solve A change = residual approximately; f falls at every step.

        A row stops when its residual has shrunk by the precision of float32.

        Returns
        -------
        change : Tensor of shape (n_rows, n_components)
        moved : Tensor of shape (n_entries,)
            Products of ``change`` and Q at the interactions.
        """
        change, moved = torch.zeros_like(residual), torch.zeros_like(self.weight)
        # The diagonal of A: a good preconditioner in the principal axes of Q.
        diagonal = self.unobserved_weight * self.fixed.gram.diagonal() + self.ridge
        diagonal = diagonal + replace(self.x, values=self.weight) @ self.fixed.squares
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
            if step == n_steps - 1 or not length.any():
                break
            residual = residual - length * image
            scaled = residual / diagonal
            previous, size = size, (residual * scaled).sum(dim=1, keepdim=True)
            direction = scaled + torch.where(previous > 0, size / previous, 0) * direction
        return change, moved

    def cholesky(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Solve A change = residual exactly; returns as ``conjugate_gradients``."""
        change = torch.empty_like(residual)
        dense = self.unobserved_weight * self.fixed.gram
        identity = torch.eye(len(dense), dtype=dense.dtype, device=dense.device)
        for rows, entries, filled in self._rows_of_similar_length(len(self.weight)):
            q = self.fixed.Q[self.x.items[entries]]  # (n_rows, longest, n_components)
            weight = self.weight[entries] * filled
            A = q.mT @ (weight[..., None] * q) + dense + self.ridge[rows, :, None] * identity
            change[rows] = solve_positive(A, residual[rows])
        return change, self.x.products(change, self.fixed.Q)

    def solve(self) -> Tensor:
        r"""Solve A p = right side to the precision of float32, Q being in principal axes.

        There :math:`D = \alpha_0 Q^\top Q + \rho I` is diagonal, and a row with few interactions
        takes a system of the size of their number: with :math:`B = W^{1/2} Q_S D^{-1/2}`,
        :math:`p = D^{-1/2} B^\top y`, where :math:`(I + B B^\top) \, y = W^{-1/2} c`. Longer rows
        take conjugate gradients.
        """
        n_components = self.fixed.Q.shape[1]
        few = n_components // 2  # from here on, conjugate gradients are faster
        P = self.fixed.Q.new_zeros(self.x.n_users, n_components)
        diagonal = self.unobserved_weight * self.fixed.gram.diagonal() + self.ridge
        for rows, entries, filled in self._rows_of_similar_length(few):
            root = self.weight[entries].sqrt()
            scale = diagonal[rows].rsqrt()
            B = self.fixed.Q[self.x.items[entries]]  # (n_rows, longest, n_components)
            B *= (root * filled)[..., None]
            B *= scale[:, None]
            system = B @ B.mT
            system.diagonal(dim1=1, dim2=2).add_(1)
            right = (self.unobserved_weight + root.square()) / root * filled
            y = solve_positive(system, right)
            P[rows] = (y[:, None] @ B).squeeze(1) * scale
        long = (self.x.counts > few).nonzero().squeeze(1)
        if len(long):
            x = replace(self.x, values=self.weight).rows(long)
            problem = replace(self, x=x, weight=x.values, ridge=self.ridge[long])
            residual = problem.residual(torch.zeros_like(P[long]), torch.zeros_like(x.values))
            P[long] = problem.conjugate_gradients(residual, 10 * n_components)[0]
        return P

    def _rows_of_similar_length(self, longest: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Group rows up to a length, so that a group takes a few MiB, at most half of it filling.

        Yields
        ------
        rows : Tensor of shape (n_rows,)
        entries : Tensor of shape (n_rows, longest in the group)
            Numbers of their entries.
        filled : Tensor of bool, of the same shape
            False where a shorter row has no entry.
        """
        n_components = self.fixed.Q.shape[1]
        counts, order = self.x.counts.sort(descending=True, stable=True)
        start = int((counts > longest).sum())
        while start < len(order):
            length = int(counts[start])
            size = max(1, 2**20 // (n_components * max(n_components, length)))
            size = int((2 * counts[start : start + size] >= length).sum())
            rows = order[start : start + size]
            place = torch.arange(length, device=order.device)
            filled = place < counts[start : start + size, None]
            yield rows, torch.where(filled, self.x.offsets[rows, None] + place, 0), filled
            start += size


def solve_positive(A: Tensor, b: Tensor) -> Tensor:
    """Solve positive definite systems A x = b, of shapes (n, m, m) and (n, m).

    Not by ``torch.linalg.solve``: for many systems of 150 or more it may hang after
    ``torch.set_num_threads``. Only systems that Cholesky finds singular go to ``solve_ex``, one
    by one; where that fails, too, the answer is 0.
    """
    factor, failed = torch.linalg.cholesky_ex(A)
    x = torch.cholesky_solve(b[..., None], factor).squeeze(2)
    for row in failed.nonzero().squeeze(1):
        x[row] = torch.linalg.solve_ex(A[row], b[row])[0].nan_to_num(0)
    return x


def principal_axes(P: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate both, which changes no product of theirs, so that Q'Q is diagonal and ascending."""
    axes = eigh(Q.T @ Q)[1]
    return P @ axes, Q @ axes


def eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose Q'Q into eigenvalues, ascending, and eigenvectors.

    Entries far below the rounding error are taken for 0: LAPACK gives NaN for some matrices that
    hold denormal numbers.
    """
    least = (1e-14 * gram.diagonal().max()).clamp(min=1e-30)
    values, vectors = torch.linalg.eigh(gram.where(gram.abs() > least, 0))
    return values, vectors
