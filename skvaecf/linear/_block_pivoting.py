r"""Block principal pivoting for elastic net regressions of items on items.

The regression of item j, with the weight :math:`w_i` of item i, minimises

.. math:: \tfrac{1}{2} \|x_j - X w\|^2 + \tfrac{\lambda_2}{2} \|w\|^2 + \lambda_1 \|w\|_1
          \quad \text{subject to} \quad w_j = 0 \; (\text{and} \; w \geq 0).

With :math:`g = X^\top (x_j - X w)`, a vector w is the solution if and only if it satisfies the
optimality conditions (Karush, Kuhn, Tucker) for all :math:`i \neq j`:

.. math::

    g_i - \lambda_2 w_i &= \lambda_1 \operatorname{sign} w_i  && \text{where} \; w_i \neq 0, \\
    |g_i| &\leq \lambda_1 && \text{where} \; w_i = 0
    \quad (g_i \leq \lambda_1 \; \text{if} \; w \geq 0 \; \text{is required}).

The solver guesses which items have a weight, and the signs s of these weights. The first line is
then the linear system :math:`(X^\top X + \lambda_2) w = X^\top x_j - \lambda_1 s` among these
items. The solution of the system contradicts the guess if a weight has another sign than s, or if
an item without a weight violates the second line. In this case the guess changes: weights of the
wrong sign leave, and the items with the largest violations enter. If the number of contradictions
does not decrease for some rounds, only one item at a time enters or leaves, in the order of the
item numbers. This ends after a finite number of rounds.

References
----------
Portugal, Judice and Vicente, "A comparison of block pivoting and interior-point algorithms for
linear least squares problems with nonnegative variables", Mathematics of Computation 63, 1994.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ._item_item import DenseGram, SparseGram, StoredGram
from ._least_squares import solve_positive

# Maximum number of linear systems per item.
MAX_ROUNDS = 1000
# Rounds without progress after which only one item at a time enters or leaves.
PATIENCE = 10
# Bounds of the number of items that enter in a round: of too many, most would leave again.
MIN_NEW = 32
MAX_NEW = 128
# Entries of the linear systems that are solved at once.
SYSTEM_ENTRIES = 2**22


class Comparison(NamedTuple):
    """Where the solutions of one round contradict the guesses from which they were computed."""

    wrong: Tensor  # (n_targets, m), bool: weights of the wrong sign
    single: Tensor  # (n_targets,), bool: only one item at a time enters or leaves
    leaving: Tensor  # (n_targets, m), bool: weights that leave before other items are compared
    rows: Tensor  # (n_rows,): targets without such weights, the rows of the tensors below
    g: Tensor  # (n_rows, n_items + 1)
    excess: Tensor  # (n_rows, n_items + 1): g (or |g|, without w >= 0) minus lambda_1
    contradicts: Tensor  # (n_rows, n_items + 1), bool: items that should have a weight
    agrees: Tensor  # (n_rows,), bool: targets that are solved
    inexact: Tensor  # (n_rows,), bool: rounding errors violate the first line by more than tol


class BlockPivoting:
    """The regressions of some target items; each row is a target that is not solved yet.

    Parameters
    ----------
    gram : DenseGram, SparseGram or StoredGram
        Products X'X of the items.
    targets : Tensor of shape (n_targets,)
        Numbers of the items j.
    l1, l2 : float
        Weights of the penalties.
    nonnegative : bool
        Whether w >= 0 is required.
    tol : float
        Largest allowed violation of the conditions, as a share of the users of item j.

    Attributes
    ----------
    found : list of tuple of three Tensors
        Items i, targets j and weights of the solutions, without zeros.
    n_rounds : int
        Largest number of linear systems that were solved for a target.
    n_violated : int
        Number of targets whose conditions are violated by more than ``tol``.
    """

    def __init__(
        self,
        gram: DenseGram | SparseGram | StoredGram,
        targets: Tensor,
        *,
        l1: float,
        l2: float,
        nonnegative: bool,
        tol: float,
    ) -> None:
        self.gram, self.targets = gram, targets
        self.l1, self.l2, self.nonnegative, self.tol = l1, l2, nonnegative, tol
        # The guesses, shape (n_targets, m): items with a weight, padded with n_items, and the
        # signs of the weights.
        self.items = targets.new_empty(len(targets), 0)
        self.signs = torch.empty_like(self.items, dtype=torch.float32)
        self.fewest = torch.full_like(targets, 2 * gram.n_items)  # fewest contradictions so far
        self.patience = torch.full_like(targets, PATIENCE)
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []
        self.n_rounds = self.n_violated = 0

    def solve(self) -> None:
        """Change the guesses until they agree with the solutions."""
        while len(self.targets) and self.n_rounds < MAX_ROUNDS:
            self.n_rounds += 1
            weights = self._weights()
            comparison = self._compare(weights)
            self._keep(weights, comparison)
            self._exchange(comparison)
        self.n_violated += len(self.targets)

    def _weights(self) -> Tensor:
        """Solve (X'X + l2) w = X'x_j - l1 s among the items of each row."""
        weights = torch.zeros_like(self.signs)
        counts, order = (self.items < self.gram.n_items).sum(dim=1).sort(descending=True)
        order = order[: int((counts > 0).sum())]
        start = 0
        while start < len(order):
            m = int(counts[start])
            rows = order[start : start + max(1, SYSTEM_ENTRIES // m**2)]
            start += len(rows)
            own = torch.cat([self.items[rows, :m], self.targets[rows, None]], dim=1)
            products = self.gram.among(own)  # (n_rows, m + 1, m + 1)
            right = products[:, :-1, -1] - self.l1 * self.signs[rows, :m]
            system = products[:, :-1, :-1]
            system.diagonal(dim1=1, dim2=2).add_(self.l2)
            weights[rows, :m] = solve_positive(system, right[..., None]).squeeze(2)
        return weights

    def _compare(self, weights: Tensor) -> Comparison:
        """Compare the solutions with the guesses."""
        wrong = weights * self.signs < 0
        single = self.patience <= 0
        leaving = wrong & ~single[:, None]
        # Weights of the wrong sign leave before the gradients of the other items are compared.
        rows = (~leaving.any(dim=1)).nonzero().squeeze(1)
        g, error = self._gradient(rows, weights[rows])
        excess = (g if self.nonnegative else g.abs()) - self.l1
        tol = self.tol * self.gram.counts[self.targets[rows]]
        contradicts = excess > tol[:, None]
        n_contradictions = contradicts.sum(dim=1) + wrong[rows].sum(dim=1)
        fewer = n_contradictions < self.fewest[rows]
        self.fewest[rows] = n_contradictions.minimum(self.fewest[rows])
        self.patience[rows] = torch.where(fewer, PATIENCE, self.patience[rows] - 1)
        agrees, inexact = n_contradictions == 0, error > tol
        return Comparison(wrong, single, leaving, rows, g, excess, contradicts, agrees, inexact)

    def _gradient(self, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Compute g = X'(x_j - X w).

        Returns
        -------
        g : Tensor of shape (n_rows, n_items + 1)
            0 at the target and at the items with a weight.
        error : Tensor of shape (n_rows,)
            Largest violation of an item with a weight.
        """
        items, target = self.items[rows], self.targets[rows, None]
        own = torch.cat([items, target], dim=1)
        g = self.gram.weighted(own, torch.cat([-weights, weights.new_ones(target.shape)], dim=1))
        penalty = self.l2 * weights + self.l1 * self.signs[rows]
        error = (g.gather(1, items) - penalty).masked_fill_(items == self.gram.n_items, 0)
        g.scatter_(1, own, 0)
        return g, F.pad(error.abs_(), (0, 1)).amax(dim=1)

    def _keep(self, weights: Tensor, comparison: Comparison) -> None:
        """Append the weights of the solved targets to ``found``."""
        solved = comparison.rows[comparison.agrees]
        self.n_violated += int(comparison.inexact[comparison.agrees].sum())
        kept, places = weights[solved].nonzero(as_tuple=True)
        kept = solved[kept]
        self.found.append((self.items[kept, places], self.targets[kept], weights[kept, places]))

    def _exchange(self, comparison: Comparison) -> None:
        """Change the guesses of the targets that are not solved; drop the solved targets."""
        pad, leaving, unsolved = self.gram.n_items, comparison.leaving, ~comparison.agrees
        rows, g = comparison.rows[unsolved], comparison.g[unsolved]
        contradicts = comparison.contradicts[unsolved]
        # The items with the largest steps enter, in general no more than have a weight already.
        step = comparison.excess[unsolved].div_(self.gram.counts + self.l2)
        furthest, new = step.masked_fill_(~contradicts, -1).topk(min(MAX_NEW, pad), dim=1)
        places = torch.arange(new.shape[1], device=rows.device)
        n_new = (self.items[rows] < pad).sum(dim=1, keepdim=True).clamp_(min=MIN_NEW)
        new = new.masked_fill((furthest < 0) | (places >= n_new), pad)
        one = comparison.single[rows]
        new[one] = pad
        new[one, 0], leaving[rows[one]] = self._last(
            rows[one], contradicts[one], comparison.wrong[rows[one]]
        )
        entering = self.items.new_full((len(self.items), new.shape[1]), pad)
        entering[rows] = new
        signs = self.signs.new_zeros(entering.shape)
        signs[rows] = g.gather(1, new).sign()

        left = torch.ones_like(comparison.single)
        left[comparison.rows[comparison.agrees]] = False
        self.targets, self.fewest = self.targets[left], self.fewest[left]
        self.patience = self.patience[left]
        items = torch.cat([self.items.masked_fill(leaving, pad), entering], dim=1)[left]
        items, order = items.sort(dim=1)
        m = int((items < pad).sum(dim=1).max()) if len(items) else 0
        self.items = items[:, :m]
        signs = torch.cat([self.signs, signs], dim=1)[left].gather(1, order[:, :m])
        self.signs = signs.masked_fill_(self.items == pad, 0)

    def _last(self, rows: Tensor, contradicts: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """Find the contradiction with the highest item number in each row: it enters or leaves.

        Returns
        -------
        entering : Tensor of shape (n_rows,)
            n_items if the item leaves.
        leaving : Tensor of shape (n_rows, m), bool
        """
        numbers = torch.arange(contradicts.shape[1], device=rows.device)
        outside = numbers.where(contradicts, -1).amax(dim=1)
        within = self.items[rows].where(wrong, -1)
        inside = torch.cat([within, -torch.ones_like(rows)[:, None]], dim=1).amax(dim=1)
        entering = outside.where(outside > inside, self.gram.n_items)
        return entering, wrong & (within == inside[:, None]) & (inside > outside)[:, None]
