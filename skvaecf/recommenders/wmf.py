"""WMF: weighted matrix factorisation by alternating least squares (iALS)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.utils import check_random_state
from torch import Tensor

from .._batch import InteractionBatch, replace_entries, silence_sparse_csr_warnings
from .._checks import check_finite
from .._devices import as_tensor, check_device, check_precision, device_or_cpu
from .._parameters import (
    Device,
    NonNegative,
    Positive,
    PositiveInt,
    Precision,
    RandomState,
    Verbose,
)
from .._partial_fit import PartialFitMixin, widened
from .._progress import ProgressBar
from .._statistics import number_of_components, structure, typical_count
from .._top_k import as_index
from .._vectors import LatentFactorMixin, SimilarItemsMixin, cosines
from ..base import BaseRecommender, SampleWeightMixin, Scorer
from ..inspection import Explainer, products_of_entries
from ..interactions import with_ones
from ..linear._least_squares import (
    FixedFactors,
    LeastSquares,
    principal_axes,
    weighted_rows,
)
from ..linear._subspace import leading_subspace
from ..ranking import Scores, rows_at_once

BFLOAT16_ROWS = 16  # for fewer rows, converting the items' factors takes longer than it saves


class WMF(
    SampleWeightMixin, SimilarItemsMixin, LatentFactorMixin, PartialFitMixin, BaseRecommender
):
    r"""Weighted matrix factorisation by alternating least squares (WMF, iALS).

    It is for counts instead of clicks, for training in seconds, and for short vectors of users and
    items in an index of nearest neighbours.

    The score of an item for a user is the product :math:`p_u^\top q_i` of two vectors. It is fitted
    to :math:`x_{ui} = 1` for interactions and, with a smaller weight, to :math:`x_{ui} = 0` for all
    other pairs:

    .. math:: \min_{P, Q} \sum_{u, i} c_{ui} (x_{ui} - p_u^\top q_i)^2
              + \lambda \Big( \sum_u C_u^\nu \|p_u\|^2 + \sum_i C_i^\nu \|q_i\|^2 \Big),
              \qquad c_{ui} = \alpha_0 + \alpha \, r_{ui}.

    The first sum is over all pairs of users and items. :math:`r_{ui}` is 1 for an interaction (with
    ``use_values``, its value, for example a count) and 0 otherwise, :math:`C_u = \sum_i c_{ui}` and
    :math:`C_i = \sum_u c_{ui}`. With Q fixed, each row of P is the solution of a separate least
    squares problem; with P fixed, each row of Q. No step builds a dense users x items matrix. New
    users are folded in by solving their problems. With ``sample_weight``, all terms of a user u are
    multiplied by the weight, those in :math:`C_i` included.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of components of the factors. "auto" is :math:`\sqrt{U I} / 30` for U users and I
        items, rounded up, but at least 128 and at most 400.
    unobserved_weight : float or "auto", default="auto"
        Weight :math:`\alpha_0` of a pair without an interaction. "auto" is :math:`I^{1/4}` times
        the mean of :math:`\alpha \, r_{ui}` over all pairs, where I is the number of items. So the
        pairs without an interaction together weigh :math:`I^{1/4}` times as much as the
        interactions, for example 10 times with 10,000 items.
    confidence : float, default=1.0
        Weight :math:`\alpha` that an interaction adds to the weight of its pair.
    l2 : float or "auto", default="auto"
        Weight :math:`\lambda` of the penalty on the factors. "auto" is
        :math:`2.75 / (N^{1/4} \sqrt{\bar n \rho})`, at most 0.1, where N is the number of
        interactions, and :math:`\bar n` and :math:`\rho` are the two parts of the structure of the
        data (:ref:`structure-of-data`). It is smaller, the more interactions the factors are fitted
        to, and the better a user's items predict the others. With another ``frequency_exponent``
        than 1, it is multiplied by :math:`(\bar C_U \bar C_I)^{(1 - \nu) / 2}`, where the two are
        the mean total weights of a user and of an item.
    frequency_exponent : float, default=1.0
        Exponent :math:`\nu` of the total weight of a user or an item in the penalty. With 0 the
        penalty is the same for all.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    solver : {"cg", "cholesky"}, default="cg"
        How the least squares problems are solved. "cg" makes ``cg_steps`` steps of preconditioned
        conjugate gradients from the previous factors. "cholesky" is exact.
    cg_steps : int, default=2
        Number of steps per problem with ``solver="cg"``.
    block_size : int or None, default=None
        Number of components for which the problems are solved at a time, one block of components
        after the other. None solves for all components at once. Blocks make ``solver="cholesky"``
        affordable with many components.
    max_epochs : int, default=15
        Maximum number of epochs. An epoch updates first all users' and then all items' factors.
    tol : float, default=1e-4
        Training stops when an epoch lowers the objective by less than this share of the objective.
    device : str or torch.device, default="auto"
        Device of the computations: "auto" (CUDA if available, otherwise MPS, otherwise the CPU) or
        any torch device.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Type of the products with which ``recommend`` searches for the best items. The scores of
        these items are then computed again in float32. All other computations are in float32.
        "auto" is bfloat16 if the hardware computes it natively, otherwise float32.
    random_state : int, RandomState instance or None, default=None
        Seed of all random numbers. Pass an int for reproducible results across multiple calls of
        ``fit``.
    verbose : int, default=0
        Verbosity level. With 1, a progress bar is shown.

    Attributes
    ----------
    user_factors_ : ndarray of shape (n_users, n_components), float32
        The matrix P of the users in ``fit``, followed by those of ``partial_fit``.
    item_factors_ : ndarray of shape (n_items, n_components), float32
        The matrix Q in principal axes: ``item_factors_.T @ item_factors_`` is diagonal.
    n_components_ : int
        The number of components that was used.
    unobserved_weight_, l2_ : float
        The weights :math:`\alpha_0` and :math:`\lambda` that were used.
    history_ : list of dict
        One dict per epoch with the keys "epoch" (counted from 1), "objective" (after the epoch) and
        "seconds".
    n_iter_ : int
        Number of epochs that were run.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    ELSA : Item vectors only; a user's vector is the sum of those of the user's items.
    MultVAE : An encoder computes the factors of the users.
    NeighborIndex : Approximate lists from the vectors of the items.

    Notes
    -----
    Hu et al. and Liang et al. give the weight w to ones and the weight 1 to zeros. This is
    ``WMF(unobserved_weight=1, confidence=w - 1, frequency_exponent=0)``. Rendle et al. minimise
    :math:`\sum_{x_{ui} = 1} (1 - p_u^\top q_i)^2 + \alpha_0 \sum_{u, i} (p_u^\top q_i)^2` plus the
    penalty. This is the objective above with the target :math:`1 / (1 + \alpha_0)` for
    interactions. ``WMF(unobserved_weight=a0, confidence=1, l2=(1 + a0) * l2_of_rendle)`` gives the
    same ranking.

    Each problem is solved for the change of the factors. The scores of the interactions are updated
    rather than computed again. The initial factors come from two steps of subspace iteration on the
    normalised matrix, which saves several epochs. The factors are kept in principal axes, where
    :math:`Q^\top Q` is diagonal. Conjugate gradients, preconditioned by the diagonal, then need
    few steps.

    ``partial_fit`` folds the further users in and then updates the items' factors once, without the
    rows of the earlier users. Their objective is replaced by a quadratic function of each item's
    change. Its minimum is at the factors so far, and its Hessian is
    :math:`(\alpha_0 + w_i / U) P^\top P + \lambda C_i^\nu I`, where :math:`w_i` is the sum of
    :math:`\alpha \, r_{ui}` over the U earlier users: as if all of them had the same share of it. A
    new item has no such sum, so its factors are the solution for the factors of all users. The
    factors of the earlier users are rotated only. ``unobserved_weight_``, ``l2_``, ``history_`` and
    ``n_iter_`` stay those of the first fit. The update makes ``cg_steps`` steps, whatever the
    ``solver``.

    References
    ----------
    Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008,
    eq. 3 to 5.

    Takacs, Pilaszy and Tikk, "Applications of the conjugate gradient method for implicit feedback
    collaborative filtering", RecSys 2011.

    Rendle, Krichene, Zhang and Koren, "Revisiting the performance of iALS on item recommendation
    benchmarks", RecSys 2022, eq. 1 to 4.

    Rendle, Krichene, Zhang and Koren, "iALS++: speeding up matrix factorization with subspace
    optimization", 2021 (blocks of components).

    Examples
    --------
    >>> from skvaecf import WMF
    >>> X = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    >>> model = WMF(n_components=2, l2=0.01, random_state=0).fit(X)
    >>> model.recommend([[1, 0, 0, 0], [0, 0, 1, 0]], k=1)
    array([[1],
           [3]])
    """

    n_components: PositiveInt | Literal["auto"] = "auto"
    _: KW_ONLY
    unobserved_weight: NonNegative | Literal["auto"] = "auto"
    confidence: Positive = 1.0
    l2: Positive | Literal["auto"] = "auto"
    frequency_exponent: NonNegative = 1.0
    use_values: bool = False
    solver: Literal["cg", "cholesky"] = "cg"
    cg_steps: PositiveInt = 2
    block_size: PositiveInt | None = None
    max_epochs: PositiveInt = 15
    tol: NonNegative = 1e-4
    device: Device = "auto"
    precision: Precision = "auto"
    random_state: RandomState = None
    verbose: Verbose = 0

    def _fit(self, X: csr_array, sample_weight: np.ndarray | None = None) -> None:
        device = check_device(self.device)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        generator = torch.Generator(device).manual_seed(seed)
        # Entry numbers, transposed with the matrix: the place of each entry in the other order.
        numbers = csr_array((np.arange(X.nnz), X.indices, X.indptr), shape=X.shape)
        by_item = torch.tensor(numbers.T.tocsr().data, device=device)
        by_user = torch.empty_like(by_item)
        by_user[by_item] = torch.arange(X.nnz, device=device)
        users, items = _rows(X, device), _rows(X.T.tocsr(), device)
        weights = self._weights(X, sample_weight)
        s = as_weights(sample_weight, device)
        if s is not None:
            items = items.with_values(items.values * s[items.items])

        n_users, n_items = X.shape
        n_components = number_of_components(self.n_components, n_users, n_items, least=128)
        Q = leading_subspace(users, items, n_components, generator)
        P = torch.zeros(n_users, n_components, dtype=torch.float32, device=device)
        # p_u . q_i at the interactions
        predicted = torch.zeros(X.nnz, dtype=torch.float32, device=device)
        history: list[dict[str, float]] = []
        try:
            with ProgressBar("WMF", self.max_epochs, self.verbose) as bar:
                for epoch in range(1, self.max_epochs + 1):
                    started = time.perf_counter()
                    P, Q = principal_axes(P, Q)
                    P, predicted = self._step(users, P, Q, predicted, weights)
                    bar.move_to(epoch - 0.5)
                    Q, P = principal_axes(Q, P, s)
                    Q, predicted = self._step(items, Q, P, predicted[by_item], weights, s)
                    fixed = FixedFactors.from_factors(P, s)
                    objective = self._problem(items, fixed, weights, s).objective(Q, predicted)
                    fixed = FixedFactors.from_factors(Q)
                    objective += self._problem(users, fixed, weights).penalty(P, s)
                    predicted = predicted[by_user]
                    seconds = time.perf_counter() - started
                    history.append({"epoch": epoch, "objective": objective, "seconds": seconds})
                    bar.move_to(epoch)
                    if epoch > 1 and history[-2]["objective"] - objective < self.tol * objective:
                        break
                bar.complete()
        except KeyboardInterrupt:
            if not history:
                raise KeyboardInterrupt(
                    "fit was interrupted in the first epoch, which is not complete: nothing is kept"
                ) from None
            warnings.warn(
                f"fit was interrupted in epoch {len(history) + 1}; the factors so far are kept.",
                stacklevel=4,
            )
        P, Q = principal_axes(P, Q)
        user_factors, item_factors = P.cpu().numpy(), Q.cpu().numpy()
        check_finite(self, user_factors)
        check_finite(self, item_factors)
        self.user_factors_, self.item_factors_ = user_factors, item_factors
        self.n_components_, (self.unobserved_weight_, self.l2_) = n_components, weights
        self._item_weights = (self.confidence * items.sum(items.values)).cpu().numpy()
        self._user_weights = None if sample_weight is None else sample_weight.astype(np.float32)
        self._item_gram = (Q.T @ Q).cpu().numpy()  # a request must not wait for this product
        self.history_, self.n_iter_ = history, len(history)

    def _partial_fit(self, X: csr_array, sample_weight: np.ndarray | None = None) -> None:
        """Fold the users in, and update the items' factors once."""
        device, weights = check_device(self.device), (self.unobserved_weight_, self.l2_)
        factors = (widened(self.item_factors_, X.shape[1]), self.user_factors_)
        Q, P = (as_tensor(array, device) for array in factors)
        before = as_tensor(widened(self._item_weights, X.shape[1]), device)  # w_i
        items, further = _rows(X.T.tocsr(), device), self._fold_in(X, FixedFactors.from_factors(Q))
        earlier = as_weights(self._user_weights, device)
        s = as_weights(sample_weight, device)
        if s is not None:
            items = items.with_values(items.values * s[items.items])
        # The objective of the further users, and that of all users around the factors so far.
        problem = self._problem(items, FixedFactors.from_factors(further, s), weights, s)
        residual = problem.residual(Q, items.products(Q, further))
        n_users = len(P) if earlier is None else float(earlier.double().sum())
        total = before + self.unobserved_weight_ * n_users
        everybody = FixedFactors(further, weighted_rows(P, earlier).T @ P + problem.fixed.gram)
        of_all = replace(
            problem,
            fixed=everybody,
            unobserved_weight=self.unobserved_weight_ + before[:, None] / n_users,
            ridge=problem.ridge + self.l2_ * total[:, None] ** self.frequency_exponent,
        )
        Q = Q + of_all.conjugate_gradients(residual, self.cg_steps)[0]
        P, Q = principal_axes(torch.cat([P, further]), Q)
        user_factors, item_factors = P.cpu().numpy(), Q.cpu().numpy()
        check_finite(self, item_factors)
        if earlier is not None or sample_weight is not None:
            parts = (self._user_weights, len(P) - len(further)), (sample_weight, len(further))
            of_all_users = [np.ones(n) if given is None else given for given, n in parts]
            self._user_weights = np.concatenate(of_all_users).astype(np.float32)
        self.user_factors_, self.item_factors_ = user_factors, item_factors
        self._item_gram = (Q.T @ Q).cpu().numpy()
        self._item_weights = (before + self.confidence * items.sum(items.values)).cpu().numpy()

    def _weights(
        self, X: csr_array, sample_weight: np.ndarray | None = None
    ) -> tuple[float, float]:
        """Return the weight of a pair without an interaction and that of the penalty."""
        a0, l2, s, n_items = self.unobserved_weight, self.l2, sample_weight, X.shape[1]
        values = X.data if s is None else X.data * s.repeat(np.diff(X.indptr))
        n_users = X.shape[0] if s is None else float(s.sum())
        observed = self.confidence * float(values.sum(dtype=np.float64))
        if isinstance(a0, str):
            a0 = n_items**0.25 * observed / (n_users * n_items)
        if isinstance(l2, str):
            totals = (observed + a0 * n_users * n_items) / np.array([n_users, n_items])
            scale = float(max(totals.prod(), 1e-12)) ** ((1 - self.frequency_exponent) / 2)
            n_u = np.diff(X.indptr)
            n_interactions = max(float(n_u.sum() if s is None else n_u @ s), 1)
            # The structure is n^(2/3) rho.
            n_rho = max(typical_count(n_u, s), 1) ** (1 / 3) * structure(with_ones(X), s)
            l2 = min(2.75 / (n_interactions**0.25 * n_rho**0.5), 0.1) * scale
        return float(a0), float(l2)

    def _problem(
        self,
        x: InteractionBatch,
        fixed: FixedFactors,
        weights: tuple[float, float],
        s: Tensor | None = None,
    ) -> LeastSquares:
        """Return the problems of rows; s are the weights of the columns, which the values have."""
        (a0, l2), weight = weights, self.confidence * x.values
        n_columns = x.n_items if s is None else float(s.double().sum())
        # Not 0: with unobserved_weight=0 an empty row would have no unique solution.
        total = (a0 * n_columns + x.sum(weight)).clamp(min=1e-6)
        ridge = l2 * total[:, None] ** self.frequency_exponent
        return LeastSquares(x, fixed, weight, a0, ridge, 1.0 if s is None else s[x.items])

    def _step(
        self,
        x: InteractionBatch,
        P: Tensor,
        Q: Tensor,
        predicted: Tensor,
        weights: tuple[float, float],
        s: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update P for a fixed Q, whose rows have the weights s, block by block of components."""
        P, problem = P.clone(), self._problem(x, FixedFactors.from_factors(Q, s), weights, s)
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

    def _items(self) -> FixedFactors:
        silence_sparse_csr_warnings()  # here, because filters of warnings belong to all threads
        device = device_or_cpu(self.device)
        return FixedFactors(*(as_tensor(a, device) for a in (self.item_factors_, self._item_gram)))

    def _fold_in(self, X: csr_array, items: FixedFactors) -> Tensor:
        weights = self.unobserved_weight_, self.l2_
        problem = self._problem(_rows(X, items.Q.device), items, weights)
        return problem.solve()

    def _scorer(self) -> Scorer:
        items = self._items()
        return lambda X: self._fold_in(X, items) @ items.Q.T

    def _explainer(self) -> Explainer:
        items, weights = self._items(), (self.unobserved_weight_, self.l2_)

        def contribute(X: csr_array, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
            x = _rows(X, items.Q.device)
            problem = self._problem(x, items, weights)
            # p = W^u sum_i c_i q_i, so item i contributes c_i q_i' W^u q_j to the score of item j.
            vectors = items.Q[as_index(numbers, items.Q)]
            vectors = problem.inverse_times(vectors)
            c = x.with_values(problem.unobserved_weight + problem.weight)
            parts = products_of_entries(c, vectors, items.Q)
            return parts, parts.new_zeros(numbers.shape)

        return contribute

    def _rankable_scores(self, X: Any) -> Callable[[slice], Scores]:
        items = self._items()
        n_rows = rows_at_once(items.Q.device)

        # All rows that a thread ranks, also if there are so many items that it scores fewer rows at
        # a time: the factors of a row need little memory.
        @lru_cache(maxsize=torch.get_num_threads())
        def folded_in(start: int) -> tuple[np.ndarray, Tensor]:
            rows = self._interactions(X[start : start + n_rows])
            return np.diff(rows.indptr), self._fold_in(rows, items)

        exact = check_precision(self.precision, items.Q.device) == torch.float32
        rough = items.Q if exact or X.shape[0] < BFLOAT16_ROWS else items.Q.bfloat16()
        one_row = X.shape[0] == 1 and items.Q.device.type == "cpu"
        products = _products_of_one_row if one_row else _products

        def score_rows(block: slice) -> Scores:
            start = block.start - block.start % n_rows
            inside = slice(block.start - start, block.stop - start)
            n_interactions, P = folded_in(start)
            n_interactions, P = n_interactions[inside], P[inside]
            # The scores of a row without interactions are not products of factors.
            if exact or not n_interactions.all():
                return self._popular_if_empty(n_interactions, products(P, items.Q))
            return products(P.to(rough.dtype), rough), P, items.Q

        return score_rows

    def _check_loaded(self) -> None:
        n_components = self.item_factors_.shape[1]
        if self._item_gram.shape != (n_components, n_components):
            raise ValueError(f"the products of its {n_components} components have another shape")
        super()._check_loaded()

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return cosines(self._items().Q)


def as_weights(sample_weight: np.ndarray | None, device: torch.device) -> Tensor | None:
    """Copy weights of users to a device; None stays None."""
    if sample_weight is None:
        return None
    return torch.tensor(sample_weight, dtype=torch.float32, device=device)


def _products(P: Tensor, Q: Tensor) -> Tensor:
    """Compute P Q^T."""
    return P @ Q.T


def _products_of_one_row(P: Tensor, Q: Tensor) -> Tensor:
    """Compute P Q^T on the CPU, where P has one row.

    If Q is larger than the cache, the product of MKL takes up to four times as long.
    """
    return torch.from_numpy(np.einsum("uc,ic->ui", P.numpy(), Q.numpy()))


def _rows(X: csr_array, device: torch.device) -> InteractionBatch:
    """Copy rows to a device, with item numbers of the type that all products accept."""
    x = InteractionBatch.from_csr(X, device)
    return replace_entries(x, items=x.items.long())
