"""WMF: weighted matrix factorisation by alternating least squares (iALS)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor
from tqdm.auto import tqdm

from .._devices import check_device, check_precision, device_or_cpu
from ..base import BaseRecommender, LatentFactorMixin, Scorer, SimilarItemsMixin, cosines
from ..interactions import InteractionBatch, binary_csr, count_csr
from ..least_squares import Fixed, LeastSquares, eigh, principal_axes
from ..ranking import Scores

FOLD_IN_ROWS = 2048  # a multiple of the rows that are scored at a time


class WMF(SimilarItemsMixin, LatentFactorMixin, BaseRecommender):
    r"""Weighted matrix factorisation, trained by alternating least squares.

    A user's score of an item is the product of two vectors, fitted to the presence
    :math:`x_{ui} = 1` of interactions and, with less weight, to the absence of all others:

    .. math:: \min_{P, Q} \sum_{u, i} c_{ui} (x_{ui} - p_u^\top q_i)^2
              + \lambda \Big( \sum_u C_u^\nu \|p_u\|^2 + \sum_i C_i^\nu \|q_i\|^2 \Big),
              \qquad c_{ui} = \alpha_0 + \alpha \, r_{ui},

    over all pairs of users and items, where :math:`r_{ui}` is 1 for an interaction (or its count)
    and 0 elsewhere, :math:`C_u = \sum_i c_{ui}` and :math:`C_i = \sum_u c_{ui}`. With Q fixed,
    each row of P is a least squares problem of its own, and the other way round; neither builds a
    matrix of users x items. New users are folded in by solving theirs.

    Parameters
    ----------
    n_components : int, default=128
        Width of the latent vector.
    unobserved_weight : float, default=0.3
        Weight :math:`\alpha_0` of every pair without an interaction. The more items there are, the
        less: it should be searched for together with l2.
    confidence : float, default=1.0
        Weight :math:`\alpha` that an interaction adds to its pair.
    l2 : float, default=0.008
        Weight :math:`\lambda` of the penalty on the factors.
    frequency_exponent : float, default=1.0
        Power :math:`\nu` of a user's or item's total weight that scales its penalty. 0 gives all
        the same.
    counts : bool, default=False
        Take the values in X as counts :math:`r_{ui}`, up to 2**24. By default every interaction
        counts 1.
    solver : {"cg", "cholesky"}, default="cg"
        How the least squares problems are solved: by ``cg_steps`` steps of preconditioned
        conjugate gradients from the previous factors, or exactly.
    cg_steps : int, default=2
        Steps per problem of the solver "cg".
    block_size : int or None, default=None
        Components solved for at a time, block after block. None solves for all together. Blocks
        make the solver "cholesky" affordable for many components.
    max_iter : int, default=15
        Sweeps over users and items, at most.
    tol : float, default=1e-4
        Stop when a sweep lowers the objective by less than this share of it.
    device : str or torch.device, default="auto"
        Where to compute: "auto" (CUDA if present, else MPS, else CPU) or any torch device.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Type of the products in which ``recommend`` looks for the best items; what it finds is
        scored again in float32, as is everything else. "auto" is bfloat16 where the hardware has
        it.
    random_state : int, RandomState instance or None, default=None
        Seed of all randomness; pass an int for the same result at every call.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    user_factors_ : ndarray of shape (n_users, n_components), float32
        The matrix P of the users in ``fit``.
    item_factors_ : ndarray of shape (n_items, n_components), float32
        The matrix Q, in principal axes: ``item_factors_.T @ item_factors_`` is diagonal.
    history_ : list of dict
        Per sweep: its number, the objective after it, seconds.
    n_iter_ : int
        Sweeps run.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    MultVAE : Factors of the items, and an encoder in place of the users' factors.

    Notes
    -----
    Hu et al. and Liang et al. weight ones with w and zeros with 1: ``WMF(unobserved_weight=1,
    confidence=w - 1, frequency_exponent=0)``. Rendle et al. penalise :math:`\sum_{x_{ui} = 1}
    (1 - p_u^\top q_i)^2 + \alpha_0 \sum_{u, i} (p_u^\top q_i)^2`, which is the objective above
    with the target :math:`1 / (1 + \alpha_0)`: ``WMF(unobserved_weight=a0, confidence=1,
    l2=(1 + a0) * l2_of_rendle)`` gives the same ranking.

    The defaults are those that validation users chose on MovieLens 1M (3,700 items); on Gowalla
    (41,000 items) they chose ``unobserved_weight=0.02, l2=0.002``.

    Each problem is solved for the change of the factors, given the scores of the interactions,
    which are updated rather than computed anew. Factors start from two steps of subspace
    iteration on the normalised matrix, which saves several sweeps. They are kept in principal axes,
    where :math:`Q^\top Q` is diagonal and conjugate gradients, preconditioned by the diagonal, need
    few steps.

    References
    ----------
    Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008,
    eq. 3 to 5.

    Takacs, Pilaszy and Tikk, "Applications of the conjugate gradient method for implicit feedback
    collaborative filtering", RecSys 2011.

    Rendle, Krichene, Zhang and Koren, "Revisiting the performance of iALS on item recommendation
    benchmarks", RecSys 2022, eq. 1 to 4; "iALS++: speeding up matrix factorization with subspace
    optimization", 2021, for the blocks.

    Examples
    --------
    >>> from skvaecf import WMF
    >>> X = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    >>> model = WMF(n_components=2, l2=0.01, random_state=0).fit(X)
    >>> model.recommend([[1, 0, 0, 0], [0, 0, 1, 0]], k=1)
    array([[1],
           [3]])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "unobserved_weight": [Interval(Real, 0, None, closed="left")],
        "confidence": [Interval(Real, 0, None, closed="neither")],
        "l2": [Interval(Real, 0, None, closed="neither")],
        "frequency_exponent": [Interval(Real, 0, None, closed="left")],
        "counts": ["boolean"],
        "solver": [StrOptions({"cg", "cholesky"})],
        "cg_steps": [Interval(Integral, 1, None, closed="left")],
        "block_size": [Interval(Integral, 1, None, closed="left"), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "device": [str, torch.device],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int = 128,
        *,
        unobserved_weight: float = 0.3,
        confidence: float = 1.0,
        l2: float = 0.008,
        frequency_exponent: float = 1.0,
        counts: bool = False,
        solver: str = "cg",
        cg_steps: int = 2,
        block_size: int | None = None,
        max_iter: int = 15,
        tol: float = 1e-4,
        device: str | torch.device = "auto",
        precision: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.unobserved_weight = unobserved_weight
        self.confidence = confidence
        self.l2 = l2
        self.frequency_exponent = frequency_exponent
        self.counts = counts
        self.solver = solver
        self.cg_steps = cg_steps
        self.block_size = block_size
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, X: csr_array) -> None:
        device = check_device(self.device)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        generator = torch.Generator(device).manual_seed(seed)
        # Entry numbers transposed like the matrix: where each entry stands in the other order.
        numbers = csr_array((np.arange(X.nnz), X.indices, X.indptr), shape=X.shape)
        by_item = torch.tensor(numbers.T.tocsr().data, device=device)
        by_user = torch.empty_like(by_item)
        by_user[by_item] = torch.arange(X.nnz, device=device)
        users, items = _rows(X, device), _rows(X.T.tocsr(), device)

        Q = leading_subspace(users, items, self.n_components, generator)
        P = torch.zeros(X.shape[0], self.n_components, dtype=torch.float32, device=device)
        # p_u . q_i at the interactions
        predicted = torch.zeros(X.nnz, dtype=torch.float32, device=device)
        history: list[dict[str, float]] = []
        try:
            for sweep in tqdm(range(1, self.max_iter + 1), "WMF", disable=not self.verbose):
                started = time.perf_counter()
                P, Q = principal_axes(P, Q)
                P, predicted = self._step(users, P, Q, predicted)
                Q, P = principal_axes(Q, P)
                Q, predicted = self._step(items, Q, P, predicted[by_item])
                objective = self._problem(items, Fixed.of(P)).objective(Q, predicted)
                objective += self._problem(users, Fixed.of(Q)).penalty(P)
                predicted = predicted[by_user]
                seconds = time.perf_counter() - started
                history.append({"iter": sweep, "objective": objective, "seconds": seconds})
                if sweep > 1 and history[-2]["objective"] - objective < self.tol * objective:
                    break
        except KeyboardInterrupt:
            if not history:
                raise
            warnings.warn(
                f"fit was interrupted in sweep {len(history) + 1}; its factors are kept.",
                stacklevel=3,
            )
        P, Q = principal_axes(P, Q)
        self.user_factors_ = P.cpu().numpy()
        self.item_factors_ = Q.cpu().numpy()
        self.history_ = history
        self.n_iter_ = len(history)

    def _problem(self, x: InteractionBatch, fixed: Fixed) -> LeastSquares:
        a0, weight = self.unobserved_weight, self.confidence * x.values
        # Not 0: without unobserved weight an empty row would have no unique solution.
        total = (a0 * x.n_items + x.sum(weight)).clamp(min=1e-6)
        ridge = self.l2 * total[:, None] ** self.frequency_exponent
        return LeastSquares(x, fixed, weight, a0, ridge)

    def _step(
        self, x: InteractionBatch, P: Tensor, Q: Tensor, predicted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Improve P given Q, one block of components after the other."""
        P, problem = P.clone(), self._problem(x, Fixed.of(Q))
        n_components = P.shape[1]
        size = self.block_size or n_components
        for columns in (slice(i, i + size) for i in range(0, n_components, size)):
            residual = problem.residual(P, predicted)[:, columns]
            block = problem.block(columns)
            if self.solver == "cg":
                change, moved = block.conjugate_gradients(residual, self.cg_steps)
            else:
                change, moved = block.cholesky(residual)
            P[:, columns] += change
            predicted = predicted + moved
        return P, predicted

    def _encoder(self) -> Callable[[csr_array], Tensor]:
        return partial(self._fold_in, items=self._items())

    def _items(self) -> Fixed:
        # A read-only array, from a memory map, is copied: torch takes writable ones only.
        factors = np.require(self.item_factors_, requirements="W")
        return Fixed.of(torch.as_tensor(factors, device=device_or_cpu(self.device)))

    def _fold_in(self, X: csr_array, items: Fixed) -> Tensor:
        return self._problem(_rows(X, items.Q.device), items).solve()

    def _scorer(self) -> Scorer:
        items = self._items()
        return lambda X: self._fold_in(X, items) @ items.Q.T

    def _ranking_scorer(self, X: Any) -> Callable[[slice], Scores]:
        items = self._items()

        # More rows at a time than are scored at a time: each takes little memory here.
        @lru_cache(maxsize=1)
        def folded_in(start: int) -> Tensor:
            rows = X[start : start + FOLD_IN_ROWS]
            return self._fold_in(self._interactions(rows), items)

        def factors(block: slice) -> Tensor:
            start = block.start - block.start % FOLD_IN_ROWS
            return folded_in(start)[block.start - start : block.stop - start]

        if check_precision(self.precision, items.Q.device) == torch.float32:
            return lambda block: factors(block) @ items.Q.T
        rough = items.Q.T.to(torch.bfloat16, memory_format=torch.contiguous_format)

        def score_rows(block: slice) -> Scores:
            P = factors(block)
            return P.bfloat16() @ rough, P, items.Q

        return score_rows

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return cosines(self._items().Q)

    def _interactions(self, X: Any) -> csr_array:
        return count_csr(X) if self.counts else binary_csr(X)

    def _validate_params(self) -> None:
        super()._validate_params()
        check_device(self.device)


def _rows(X: csr_array, device: torch.device) -> InteractionBatch:
    """Put rows on a device with the item numbers in the type that every product wants."""
    x = InteractionBatch.from_csr(X, device)
    return replace(x, items=x.items.long())


def leading_subspace(
    users: InteractionBatch, items: InteractionBatch, n_components: int, generator: torch.Generator
) -> Tensor:
    """Find a basis near the leading right singular vectors of the normalised matrix.

    Two steps of subspace iteration from random vectors on D_u^(-1/2) X D_i^(-1/2), the D being
    row and column sums. The basis is orthonormalised, as far as it has full rank.
    """
    device = users.values.device
    by_user = users.sum(users.values).clamp(min=1e-6).rsqrt()[:, None]
    by_item = items.sum(items.values).clamp(min=1e-6).rsqrt()[:, None]
    Q = torch.randn(
        users.n_items, n_components, dtype=torch.float32, device=device, generator=generator
    )
    for _ in range(2):
        Q = by_item * (items @ (by_user.square() * (users @ (by_item * Q))))
        squared_lengths, axes = eigh(Q.T @ Q)
        least = 1e-6 * squared_lengths[-1].clamp(min=1e-30)  # without interactions all are 0
        Q = Q @ (axes / squared_lengths.clamp(min=least).sqrt()) @ axes.T
    return Q
