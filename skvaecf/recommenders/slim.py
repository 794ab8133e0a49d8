"""SLIM: an elastic net regression of each item on all other items."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY
from numbers import Integral
from typing import Annotated, Literal

import numpy as np
import torch
from joblib import Parallel, delayed
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from tqdm.auto import tqdm

from .._checks import check_finite
from .._devices import available_memory, check_device
from .._parameters import Device, NonNegative, Positive, Verbose
from .._statistics import structure, structure_of_gram, typical_count
from ..base import Scorer
from ..inspection import Explainer
from ..interactions import count_users, with_ones
from ..linear._block_pivoting import BlockPivoting
from ..linear._item_item import (
    DenseGram,
    SparseGram,
    StoredGram,
    dense_gram,
    item_blocks,
    sparse_explainer,
    sparse_scorer,
    stored_similarities,
    sums_of_squares,
    unless_ones,
)
from ..linear._sums import GramRecommender, Sums, added_products


class SLIM(GramRecommender):
    r"""Sparse linear method (SLIM): elastic net regression of each item on all others.

    It is for recommendations that must be explained: each item has a short list of weights.

    .. math:: \min_{w_j} \tfrac{1}{2} \|x_j - X w_j\|^2 + \tfrac{\lambda_2}{2} \|w_j\|^2
              + \lambda_1 \|w_j\|_1 \quad \text{subject to} \quad w_{jj} = 0, \; w_j \geq 0

    for every item j, where :math:`x_j` is the column of item j in X [1]_. The ranking scores of a
    user with the row x are :math:`x W`.

    With ``use_values``, the entries of X are its values instead of ones, in ``fit`` and in the rows
    that are scored. With ``sample_weight``, the squared error of a user is multiplied by the
    weight.

    Parameters
    ----------
    l1 : float or "auto", default="auto"
        Weight :math:`\lambda_1`. Like the entries of :math:`X^\top X`, it is a number of users.
        With ``nonnegative``, an item that shares at most this number of users with item j has the
        weight 0. "auto" is :math:`0.15 \sqrt{\bar c}`, where
        :math:`\bar c = \sum_i c_i^2 / \sum_i c_i` is the mean number of users of the item of an
        interaction, because chance changes a count by about its square root. :math:`c_i` is
        the number of users of item i.
    l2 : float or "auto", default="auto"
        Weight :math:`\lambda_2`, in the same unit. "auto" is :math:`500 \, U^{1/4} / S` for U
        users, where S is the structure of the data (:ref:`structure-of-data`). With
        ``use_values``, both values of "auto" are multiplied by the mean of the squared values.
    nonnegative : bool, default=True
        Whether the weights must satisfy :math:`w_j \geq 0`.
    tol : float, default=1e-5
        Largest allowed violation of the optimality conditions (Karush, Kuhn, Tucker), as a share of
        :math:`x_j^\top x_j`, the number of users who have item j. With
        :math:`g = X^\top (x_j - X w_j)`, the violation by an item i is
        :math:`|g_i - \lambda_2 w_{ij} - \lambda_1 \operatorname{sign} w_{ij}|` if
        :math:`w_{ij} \neq 0`. Otherwise it is :math:`g_i - \lambda_1` or, without ``nonnegative``,
        :math:`|g_i| - \lambda_1`.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    device : str or torch.device, default="auto"
        Device of the computations: "auto" (CUDA if available, otherwise MPS, otherwise the CPU) or
        any torch device.
    n_jobs : int or None, default=None
        Number of threads that solve blocks of items in parallel. -1 uses one thread per processor.
        None means 1 unless in a ``joblib.parallel_config`` context. Each of these threads also uses
        the threads of torch.
    verbose : int, default=0
        Verbosity level. With 1, a progress bar is shown.

    Attributes
    ----------
    item_similarity_ : csr_array of shape (n_items, n_items), float32
        The matrix W. Column j holds the weights that predict item j.
    l1_, l2_ : float
        The weights :math:`\lambda_1` and :math:`\lambda_2` that were used.
    n_iter_ : int
        Largest number of linear systems that were solved for one item.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    Warns
    -----
    ConvergenceWarning
        If items violate their optimality conditions by more than ``tol``. The message contains the
        number of these items.

    See Also
    --------
    EASE : Dense weights in closed form, without ``l1`` and without a constraint on the signs.
    ELSA : A matrix of low rank, which is never computed.
    ItemKNN : Similarities instead of weights.

    Notes
    -----
    The solution is exact except for rounding. If it is known which weights are not zero, and which
    signs they have, the problem is a linear system. The solver starts from a guess of these and
    changes it as long as the solution of the system contradicts the guess (block principal
    pivoting [2]_). The time grows with the cube of the number of weights per item. With a small
    ``l1``, W is dense; use :class:`~skvaecf.EASE` in this case.

    ``ElasticNet`` of scikit-learn divides the squared error by the number n of users. Its
    parameters correspond to ``l1 = n * alpha * l1_ratio`` and
    ``l2 = n * alpha * (1 - l1_ratio)``.

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

    l1: NonNegative | Literal["auto"] = "auto"
    l2: Positive | Literal["auto"] = "auto"
    _: KW_ONLY
    nonnegative: bool = True
    tol: Positive = 1e-5
    use_values: bool = False
    device: Device = "auto"
    n_jobs: Annotated[int | None, Integral, None] = None
    verbose: Verbose = 0

    def _fit_rows(self, X: csr_array, weights: np.ndarray) -> None:
        device, counts, l2 = check_device(self.device), count_users(X, weights), self.l2
        if isinstance(l2, str):
            l2 = 500 * weights.sum() ** 0.25 / structure(with_ones(X), weights)
        mean_square = (weights * sums_of_squares(X)).sum() / max(counts.sum(), 1)
        order = by_popularity(counts)
        X = csr_array(X[:, order])
        gram: DenseGram | SparseGram
        if fits(X.shape[1], device):
            gram = DenseGram(dense_gram(X, device, padding=1, weights=unless_ones(weights)))
        else:
            gram = SparseGram(X, device, weights)
        self._solve(gram, order, counts, l2, mean_square, device)

    def _added(self, grams: list[csr_array], X: csr_array, weights: np.ndarray) -> list[csr_array]:
        second = [(X, weights)] if self.use_values else []
        return added_products(grams, [(with_ones(X), weights), *second])

    def _solve_sums(self, sums: Sums) -> None:
        device, products, l2 = check_device(self.device), sums.grams[-1], self.l2
        if isinstance(l2, str):
            l2 = 500 * sums.n_users**0.25 / structure_of_gram(sums.grams[0])
        counts, n_items = sums.grams[0].diagonal(), products.shape[0]
        mean_square = products.diagonal().sum() / max(counts.sum(), 1)
        order = by_popularity(counts)
        values = csr_array(products[order][:, order], dtype=np.float32)
        values.resize(n_items + 1, n_items + 1)  # for padding
        gram: DenseGram | StoredGram
        if fits(n_items, device):
            gram = DenseGram(torch.from_numpy(values.toarray()).to(device))
        else:
            gram = StoredGram(values, device)
        self._solve(gram, order, counts, l2, mean_square, device)

    def _solve(
        self,
        gram: DenseGram | SparseGram | StoredGram,
        order: np.ndarray,
        counts: np.ndarray,
        l2: float,
        mean_square: float,
        device: torch.device,
    ) -> None:
        """Compute the weights from products of the items in this order."""
        n_items, l1 = len(order), self.l1
        if isinstance(l1, str):
            l1 = 0.15 * typical_count(counts) ** 0.5 * mean_square
        if isinstance(self.l2, str):
            l2 = l2 * mean_square
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        n_violated = n_rounds = 0

        def solve(block: slice) -> BlockPivoting:
            targets = torch.arange(block.start, block.stop, device=device)
            regressions = BlockPivoting(
                gram, targets, l1=l1, l2=l2, nonnegative=self.nonnegative, tol=self.tol
            )
            regressions.solve()
            return regressions

        blocks = list(item_blocks(n_items))
        solved = Parallel(n_jobs=self.n_jobs, prefer="threads", return_as="generator")(
            delayed(solve)(block) for block in blocks
        )
        for regressions in tqdm(solved, "SLIM", len(blocks), disable=not self.verbose):
            found += regressions.found
            n_violated += regressions.n_violated
            n_rounds = max(n_rounds, regressions.n_rounds)
        rows, columns, weights = (
            torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True)
        )
        check_finite(self, weights)
        self.l1_, self.l2_, self.n_iter_ = float(l1), float(l2), n_rounds
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

    def _explainer(self) -> Explainer:
        return sparse_explainer(self.item_similarity_)

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return stored_similarities(self.item_similarity_)


def by_popularity(counts: np.ndarray) -> np.ndarray:
    """Return the item numbers, most popular first.

    In this order, items with similar numbers of weights are in the same block, which saves padding.
    Most weights are those of popular items, which are then close in memory.
    """
    return np.argsort(-counts, kind="stable")


def fits(n_items: int, device: torch.device) -> bool:
    """Return whether X'X may be a dense matrix.

    It takes at most a quarter of the memory: the rest is for the user's data and the solver.
    """
    return 4 * n_items**2 <= available_memory(device) / 4
