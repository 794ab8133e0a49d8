"""SLIM: every item is an elastic net of the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from joblib import Parallel, delayed
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from .._devices import available_memory, check_device
from ..base import BaseRecommender, Scorer, SimilarItemsMixin
from ..item_item import (
    DenseGram,
    SparseGram,
    item_blocks,
    sparse_scorer,
    stored_similarities,
)
from ..least_squares import solve_positive

# Linear systems per item, at most; items left over are in a warning.
MAX_ROUNDS = 1000
# Rounds without progress after which items are exchanged one at a time.
PATIENCE = 10
# Items that may enter in a round, at least and at most: with many at once most would leave again.
MIN_NEW = 32
MAX_NEW = 128
# Numbers in the linear systems solved at once.
SYSTEM_ENTRIES = 2**22


class SLIM(SimilarItemsMixin, BaseRecommender):
    r"""Sparse linear method: each item is an elastic net regression on all others.

    .. math:: \min_{w_j} \tfrac{1}{2} \|x_j - X w_j\|^2 + \tfrac{\lambda_2}{2} \|w_j\|^2
              + \lambda_1 \|w_j\|_1 \quad \text{subject to} \quad w_{jj} = 0, \; w_j \geq 0

    for every item j, :math:`x_j` being its column of X; a user is scored by :math:`x W`.

    Parameters
    ----------
    l1 : float, default=5.0
        Weight :math:`\lambda_1`, in users: an item that shares no more than so many users with j
        gets no weight.
    l2 : float, default=200.0
        Weight :math:`\lambda_2`, in users.
    nonnegative : bool, default=True
        Whether :math:`w_j \geq 0` is asked for.
    tol : float, default=1e-5
        Largest violation of the optimality conditions (Karush, Kuhn, Tucker) allowed, as a share
        of the users who have item j: with :math:`g = X^\top (x_j - X w_j)`, the largest
        :math:`|g_i - \lambda_2 w_{ij} - \lambda_1 \operatorname{sign} w_{ij}|` where
        :math:`w_{ij} \neq 0`, and :math:`g_i - \lambda_1` (:math:`|g_i| - \lambda_1` without
        ``nonnegative``) elsewhere.
    device : str or torch.device, default="auto"
        Where to compute: "auto" (CUDA if present, else MPS, else CPU) or any torch device.
    n_jobs : int or None, default=None
        Threads that solve blocks of items side by side, -1 for one per processor. None is 1 unless
        in a ``joblib.parallel_config`` context. Each thread computes with torch's own threads, too.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    item_similarity_ : csr_array of shape (n_items, n_items), float32
        The matrix W; column j holds the weights that predict item j.
    n_iter_ : int
        Linear systems solved for one item, at most.
    n_features_in_ : int
        Number of items.

    Warns
    -----
    ConvergenceWarning
        If items violate their conditions by more than ``tol``; it says how many.

    See Also
    --------
    EASE : The same without ``l1`` and signs, solved at once for dense weights.
    ItemKNN : Similarities in place of weights.

    Notes
    -----
    The answer is exact but for rounding. Given which weights are not zero, and their signs, the
    problem is a linear system. As long as its solution contradicts that guess, the guess is
    changed: block principal pivoting [2]_. Time grows with the cube of the number of
    weights per item. For little l1, with which W is dense, :class:`~skvaecf.EASE` is the model.

    Scikit-learn's ``ElasticNet`` divides by the number of users n: l1 is n * alpha * l1_ratio and
    l2 is n * alpha * (1 - l1_ratio).

    References
    ----------
    .. [1] Ning and Karypis, "SLIM: sparse linear methods for top-n recommender systems", ICDM
       2011, eq. 4.
    .. [2] Portugal, Judice and Vicente, "A comparison of block pivoting and interior-point
       algorithms for linear least squares problems with nonnegative variables", Mathematics of
       Computation 63, 1994.

    Examples
    --------
    >>> from skvaecf import SLIM
    >>> X = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    >>> SLIM(l1=0.1, l2=1.0).fit(X).recommend([[1, 0, 0, 0], [0, 0, 1, 0]], k=1)
    array([[1],
           [3]])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "l1": [Interval(Real, 0, None, closed="left")],
        "l2": [Interval(Real, 0, None, closed="neither")],
        "nonnegative": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "device": [str, torch.device],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        l1: float = 5.0,
        l2: float = 200.0,
        *,
        nonnegative: bool = True,
        tol: float = 1e-5,
        device: str | torch.device = "auto",
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.l1 = l1
        self.l2 = l2
        self.nonnegative = nonnegative
        self.tol = tol
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _fit(self, X: csr_array) -> None:
        n_items = X.shape[1]
        device = check_device(self.device)
        # By popularity: items of like numbers of weights meet in a block, which saves padding, and
        # most weights are those of popular items, which then are near each other in memory.
        order = np.argsort(-np.bincount(X.indices, minlength=n_items), kind="stable")
        X = csr_array(X[:, order])
        # A quarter of the memory: the rest is for the user's data and what follows.
        fits = 4 * n_items**2 <= available_memory(device) / 4
        gram = DenseGram(X, device) if fits else SparseGram(X, device)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        n_violated = self.n_iter_ = 0

        def solve(block: slice) -> _Regressions:
            targets = torch.arange(block.start, block.stop, device=device)
            regressions = _Regressions(gram, targets, self)
            while len(regressions.targets) and regressions.n_rounds < MAX_ROUNDS:
                regressions.step()
            return regressions

        blocks = list(item_blocks(n_items))
        solved = Parallel(n_jobs=self.n_jobs, prefer="threads", return_as="generator")(
            delayed(solve)(block) for block in blocks
        )
        for regressions in tqdm(solved, "SLIM", len(blocks), disable=not self.verbose):
            found += regressions.found
            n_violated += regressions.n_inexact + len(regressions.targets)
            self.n_iter_ = max(self.n_iter_, regressions.n_rounds)
        rows, columns, weights = (
            torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True)
        )
        self.item_similarity_ = csr_array(
            (weights, (order[rows], order[columns])), shape=(n_items, n_items)
        )
        if n_violated:
            warnings.warn(
                f"{n_violated} of {n_items} items violate the optimality conditions of SLIM by"
                f" more than tol={self.tol}.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _scorer(self) -> Scorer:
        return sparse_scorer(self.item_similarity_)

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return stored_similarities(self.item_similarity_)

    def _validate_params(self) -> None:
        super()._validate_params()
        check_device(self.device)


class _Regressions:
    """The regressions of some target items that are not solved yet, one a row.

    ``items`` are those with a weight, padded with the number of all items, ``signs`` is what is
    guessed of their weights: two tensors of shape (n_targets, m).
    """

    def __init__(self, gram: DenseGram | SparseGram, targets: Tensor, model: SLIM) -> None:
        self.gram, self.model, self.targets = gram, model, targets
        self.items = targets.new_empty(len(targets), 0)
        self.signs = torch.empty_like(self.items, dtype=torch.float32)
        self.fewest = torch.full_like(targets, 2 * gram.n_items)  # contradictions ever seen
        self.patience = torch.full_like(targets, PATIENCE)
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []
        self.n_rounds = self.n_inexact = 0

    def step(self) -> None:
        """Solve with the guesses; keep the answers that agree, change the guesses that do not."""
        self.n_rounds += 1
        pad = self.gram.n_items
        weights = self._weights()
        wrong = weights * self.signs < 0
        # Where the guesses get no better, one item is exchanged at a time: that always ends.
        careful = self.patience <= 0
        leaving = wrong & ~careful[:, None]
        # Weights of the wrong sign leave before the other items are judged by their gradient.
        rows = (~leaving.any(dim=1)).nonzero().squeeze(1)
        g, error = self._gradient(rows, weights[rows])
        excess = (g if self.model.nonnegative else g.abs()) - self.model.l1
        tol = self.model.tol * self.gram.counts[self.targets[rows]]
        contradicts = excess > tol[:, None]  # (n_rows, n_items + 1)
        n_contradictions = contradicts.sum(dim=1) + wrong[rows].sum(dim=1)
        fewer = n_contradictions < self.fewest[rows]
        self.fewest[rows] = n_contradictions.minimum(self.fewest[rows])
        self.patience[rows] = torch.where(fewer, PATIENCE, self.patience[rows] - 1)

        agrees = n_contradictions == 0
        solved = rows[agrees]
        self.n_inexact += int((error > tol)[agrees].sum())
        kept, places = weights[solved].nonzero(as_tuple=True)
        kept = solved[kept]
        self.found.append((self.items[kept, places], self.targets[kept], weights[kept, places]))

        rows, g, contradicts = rows[~agrees], g[~agrees], contradicts[~agrees]
        # The items that would step furthest enter, at most as many as there are already.
        step = excess[~agrees].div_(self.gram.counts + self.model.l2)
        furthest, new = step.masked_fill_(~contradicts, -1).topk(min(MAX_NEW, pad), dim=1)
        places = torch.arange(new.shape[1], device=rows.device)
        n_new = (self.items[rows] < pad).sum(dim=1, keepdim=True).clamp_(min=MIN_NEW)
        new = new.masked_fill((furthest < 0) | (places >= n_new), pad)
        one = careful[rows]
        new[one] = pad
        new[one, 0], leaving[rows[one]] = self._last(rows[one], contradicts[one], wrong[rows[one]])
        entering = self.items.new_full((len(self.items), new.shape[1]), pad)
        entering[rows] = new
        signs = self.signs.new_zeros(entering.shape)
        signs[rows] = g.gather(1, new).sign()

        left = torch.ones_like(careful).index_fill_(0, solved, False)
        self.targets, self.fewest = self.targets[left], self.fewest[left]
        self.patience = self.patience[left]
        items = torch.cat([self.items.masked_fill(leaving, pad), entering], dim=1)[left]
        items, order = items.sort(dim=1)
        m = int((items < pad).sum(dim=1).max()) if len(items) else 0
        self.items = items[:, :m]
        signs = torch.cat([self.signs, signs], dim=1)[left].gather(1, order[:, :m])
        self.signs = signs.masked_fill_(self.items == pad, 0)

    def _last(self, rows: Tensor, contradicts: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """Of all items that contradict a row's guess the last: it enters, or it leaves.

        Returns
        -------
        entering : Tensor of shape (n_rows,)
            Padded where it leaves.
        leaving : Tensor of shape (n_rows, m), bool
        """
        numbers = torch.arange(contradicts.shape[1], device=rows.device)
        outside = numbers.where(contradicts, -1).amax(dim=1)
        within = self.items[rows].where(wrong, -1)
        inside = torch.cat([within, -torch.ones_like(rows)[:, None]], dim=1).amax(dim=1)
        entering = outside.where(outside > inside, self.gram.n_items)
        return entering, wrong & (within == inside[:, None]) & (inside > outside)[:, None]

    def _gradient(self, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Compute X'(x_j - X w_j).

        Returns
        -------
        g : Tensor of shape (n_rows, n_items + 1)
            0 for the target and the items with a weight.
        error : Tensor of shape (n_rows,)
            The largest violation among the items with a weight.
        """
        items, target = self.items[rows], self.targets[rows, None]
        own = torch.cat([items, target], dim=1)
        g = self.gram.weighted(own, torch.cat([-weights, weights.new_ones(target.shape)], dim=1))
        penalty = self.model.l2 * weights + self.model.l1 * self.signs[rows]
        error = (g.gather(1, items) - penalty).masked_fill_(items == self.gram.n_items, 0)
        g.scatter_(1, own, 0)
        return g, F.pad(error.abs_(), (0, 1)).amax(dim=1)

    def _weights(self) -> Tensor:
        """Solve (X'X + l2) w = X'x_j - l1 sign(w) among each row's items."""
        pad, model = self.gram.n_items, self.model
        weights = torch.zeros_like(self.signs)
        counts, order = (self.items < pad).sum(dim=1).sort(descending=True)
        order = order[: int((counts > 0).sum())]
        start = 0
        while start < len(order):
            m = int(counts[start])
            rows = order[start : start + max(1, SYSTEM_ENTRIES // m**2)]
            start += len(rows)
            own = torch.cat([self.items[rows, :m], self.targets[rows, None]], dim=1)
            products = self.gram.among(own)  # (n_rows, m + 1, m + 1)
            right = products[:, :-1, -1] - model.l1 * self.signs[rows, :m]
            system = products[:, :-1, :-1]
            system.diagonal(dim1=1, dim2=2).add_(model.l2)
            weights[rows, :m] = solve_positive(system, right)
        return weights
