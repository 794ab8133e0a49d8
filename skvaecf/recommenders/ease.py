"""EASE and EDLAE: linear item-item models with a solution in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Literal

import numpy as np
import torch
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array
from torch import Tensor

from .._batch import InteractionBatch
from .._checks import check_finite
from .._devices import as_tensor, check_device, check_memory, device_or_cpu
from .._parameters import Device, NonNegative, Positive, Rate, Verbose
from .._progress import ProgressBar
from .._statistics import structure, structure_of_gram
from .._top_k import as_index
from ..base import Scorer
from ..inspection import Explainer
from ..interactions import count_users, with_ones
from ..linear._item_item import (
    dense_gram,
    dense_scores,
    item_blocks,
    item_item_explainer,
    sums_of_squares,
    unless_ones,
    with_row_factors,
)
from ..linear._sums import GramRecommender, Sums


class EASE(GramRecommender):
    r"""Embarrassingly shallow autoencoder (EASE): ridge regression of each item on all others.

    Try it first with up to some ten thousand items: the weights have a closed form, and no search
    is needed to start.

    .. math:: \min_B \|X - XB\|_F^2 + \|\Lambda^{1/2} B\|_F^2
              \quad \text{subject to} \quad \operatorname{diag}(B) = 0,

    where :math:`\Lambda = \lambda I + \tfrac{p}{1-p} \operatorname{diag}(X^\top X)`. The solution
    is :math:`B_{ij} = -P_{ij} / P_{jj}` for :math:`i \neq j`, with
    :math:`P = (X^\top X + \Lambda)^{-1}`. The ranking scores of a user with the row x are
    :math:`x B`.

    Three further parameters, 0 by default, complete the family. With the weights
    :math:`n_u^{-\beta}` of the users, where :math:`n_u` is the number of a user's items, the Gram
    matrix is :math:`X^\top \operatorname{diag}(n_u^{-\beta}) X`. With the relaxation :math:`\xi`,
    the constraint is :math:`B_{jj} \leq \xi`. With the counts :math:`c_i` of the items, the
    weights are :math:`c_i^\alpha B_{ij} c_j^{-\alpha}`, which lowers the scores of popular items.

    With ``use_values``, the entries of X are its values instead of ones, in ``fit`` and in the rows
    that are scored. :math:`n_u` and :math:`c_i` remain numbers of items and of users. With
    ``sample_weight``, the squared error of a user is multiplied by the weight.

    Parameters
    ----------
    l2 : float or "auto", default="auto"
        Weight :math:`\lambda` of the penalty on B. Like the entries of :math:`X^\top X`, it is a
        number of users. "auto" is :math:`1300 \, U^{1/4} / S` for U users, where S is the structure
        of the data (:ref:`structure-of-data`): the better a user's items predict the others, the
        smaller the penalty. With ``use_values`` or ``user_exponent``, it is multiplied by the mean
        of :math:`n_u^{-\beta} x_{ui}^2` over the interactions.
    dropout : float, default=0.0
        Probability p of dropping an interaction of the input. 0 gives EASE [1]_. A larger value
        gives EDLAE [2]_: the objective is the mean, over all random draws, of that of a denoising
        autoencoder. The penalty on the weights of an item then grows with the number of its users.
    user_exponent : float, default=0.0
        Exponent :math:`\beta` of the weights of the users. With a larger value, users with many
        items count less [3]_.
    item_exponent : float, default=0.0
        Exponent :math:`\alpha` of the counts of the items. With a larger value, popular items have
        lower scores [3]_.
    relaxation : float, default=0.0
        Largest weight :math:`\xi` of an item for itself, in [0, 1). These weights are not used for
        scores, but they make the others smaller [4]_.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    device : str or torch.device, default="auto"
        Device of the computations: "auto" (CUDA if available, otherwise MPS, otherwise the CPU) or
        any torch device.
    verbose : int, default=0
        Verbosity level. With 1, a progress bar is shown.

    Attributes
    ----------
    item_similarity_ : ndarray of shape (n_items, n_items), float32
        The matrix B. Column j holds the weights that predict item j.
    l2_ : float
        The weight of the penalty that was used.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    ELSA : A matrix of low rank, if there are too many items for a dense matrix.
    SLIM : Sparse weights, if there are too many items for a dense matrix.
    ItemKNN : Similarities instead of weights: faster to fit, easier to explain.

    Notes
    -----
    With its defaults this is EASE [1]_. ``EASE(dropout=0.3, user_exponent=0.25, item_exponent=0.1,
    relaxation=0.2)`` ranked better than ``EASE()`` on five of five data sets
    (:ref:`ease-family`).

    ``fit`` needs the memory of 1.2 dense float32 matrices of n_items x n_items on a CPU, and of 3
    on a GPU. If this is more than the available memory, it raises a MemoryError.
    ``partial_fit`` needs two more, or four with ``user_exponent``.
    :class:`~skvaecf.SLIM` and :class:`~skvaecf.ItemKNN` use sparse matrices instead. The time is
    cubic in n_items. The progress bar moves after each of three steps: the products, the Cholesky
    factorisation and the inverse, which takes twice as long as the factorisation.

    References
    ----------
    .. [1] Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019, eq. 2 and 8.
    .. [2] Steck, "Autoencoders that don't overfit towards the identity", NeurIPS 2020.
    .. [3] Park et al., "Why is normalization necessary for linear recommenders?", SIGIR 2025.
    .. [4] Moon, Kim and Lee, "It's enough: relaxing diagonal constraints in linear autoencoders for
       recommendation", SIGIR 2023.

    Examples
    --------
    >>> from skvaecf import EASE
    >>> X = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    >>> EASE(l2=1.0).fit(X).recommend([[1, 0, 0, 0], [0, 0, 1, 0]], k=1)
    array([[1],
           [3]])
    """

    l2: Positive | Literal["auto"] = "auto"
    _: KW_ONLY
    dropout: Rate = 0.0
    user_exponent: NonNegative = 0.0
    item_exponent: NonNegative = 0.0
    relaxation: Rate = 0.0
    use_values: bool = False
    device: Device = "auto"
    verbose: Verbose = 0

    _sums_depend_on = ("user_exponent", "use_values")

    def _fit_rows(self, X: csr_array, weights: np.ndarray) -> None:
        device = self._device_for(X.shape[1])
        l2 = self.l2
        if isinstance(l2, str):
            n_u, squares = np.diff(X.indptr), sums_of_squares(X)
            total = (weights * squares * self._weights(n_u)).sum()
            mean_square = total / max((weights * n_u).sum(), 1)
            l2 = 1300 * weights.sum() ** 0.25 / structure(with_ones(X), weights) * mean_square
        with ProgressBar("EASE", 3, self.verbose, unit="steps") as bar:
            gram = dense_gram(self._weighted(X), device, weights=unless_ones(weights))
            bar.move_to(1)
            self._solve(gram, count_users(X, weights), l2, bar)

    def _device_for(self, n_items: int, n_kept: int = 0) -> torch.device:
        """Return the device, if it has memory for a fit and ``n_kept`` matrices besides."""
        device = check_device(self.device)
        copies = (1.2 if device.type == "cpu" else 3) + n_kept
        what, instead = f"EASE with {n_items} items", "ELSA, SLIM, ItemKNN and WMF need less"
        check_memory(copies * 4 * n_items**2, device, what, instead)
        return device

    def _weights(self, n_u: np.ndarray) -> np.ndarray:
        """Return the weights of users with these numbers of items."""
        weights: np.ndarray = np.maximum(n_u, 1.0) ** -self.user_exponent
        return weights

    def _weighted(self, X: csr_array) -> csr_array:
        """Return the rows, multiplied by the roots of the weights of the users."""
        return with_row_factors(X, self._weights(np.diff(X.indptr)) ** 0.5)

    def _added(
        self, grams: list[np.ndarray], X: csr_array, weights: np.ndarray
    ) -> list[np.ndarray]:
        # The first one is of ones, for the structure; the second one has values or weights.
        second = [self._weighted(X)] if self.user_exponent or self.use_values else []
        parts, n_items = [with_ones(X), *second], X.shape[1]
        device = self._device_for(n_items, 2 * len(parts))
        totals = []
        for place, part in enumerate(parts):
            total = np.zeros((n_items, n_items), dtype=np.float32)
            if grams:
                n_before = len(grams[place])
                total[:n_before, :n_before] = grams[place]
            out = torch.from_numpy(total).to(device)
            dense_gram(part, device, out=out, weights=unless_ones(weights))
            totals.append(out.cpu().numpy())
        return totals

    def _solve_sums(self, sums: Sums) -> None:
        gram, counts = sums.grams[-1], sums.grams[0].diagonal()
        device, l2 = self._device_for(len(gram)), self.l2
        if isinstance(l2, str):
            mean_square = gram.trace(dtype=np.float64) / max(counts.sum(dtype=np.float64), 1)
            l2 = 1300 * sums.n_users**0.25 / structure_of_gram(sums.grams[0]) * mean_square
        with ProgressBar("EASE", 3, self.verbose, unit="steps") as bar:
            bar.move_to(1)
            self._solve(torch.tensor(gram, device=device), counts, l2, bar)

    def _solve(self, gram: Tensor, counts: np.ndarray, l2: float, bar: ProgressBar) -> None:
        """Compute the weights from the Gram matrix, which is overwritten."""
        diagonal = gram.diagonal()
        penalty = diagonal * (self.dropout / (1 - self.dropout)) + l2  # Lambda
        diagonal.add_(penalty)
        P = inverse(gram, after_factor=lambda: bar.move_to(2))
        bar.move_to(3)
        # B_ij = -P_ij max(Lambda_jj, (1 - xi) / P_jj): where the ridge regression without a
        # constraint has a B_jj above xi, a multiplier lowers it to xi.
        scale = torch.maximum(penalty, (1 - self.relaxation) / P.diagonal())
        B = P.mul_(-scale)
        if self.item_exponent:
            c = counts.clip(1) ** self.item_exponent
            power = torch.as_tensor(c, dtype=torch.float32, device=B.device)
            B.mul_(power[:, None]).div_(power)
        similarity = B.fill_diagonal_(0).cpu().numpy()
        check_finite(self, similarity)
        self.item_similarity_, self.l2_ = similarity, float(l2)

    def _scorer(self) -> Scorer:
        B = as_tensor(self.item_similarity_, device_or_cpu(self.device))
        return lambda X: dense_scores(InteractionBatch.from_csr(X, B.device), B)

    def _explainer(self) -> Explainer:
        B = as_tensor(self.item_similarity_, device_or_cpu(self.device))
        return item_item_explainer(lambda own, others: B[as_index(own, B), as_index(others, B)])

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return lambda items: torch.tensor(self.item_similarity_[items])


def inverse(A: Tensor, after_factor: Callable[[], None] = lambda: None) -> Tensor:
    """Return the inverse of a positive definite matrix, which is overwritten.

    ``after_factor`` is called after the Cholesky factorisation, a third of the work.

    Raises
    ------
    LinAlgError
        If the matrix is singular in float32.
    """
    if A.device.type != "cpu":
        return _inverse_by_torch(A, after_factor)
    # On a CPU, SciPy's LAPACK takes three quarters of the time of torch and no second matrix.
    L, failed = spotrf(A.numpy().T, lower=True, overwrite_a=True, clean=False)
    _check_factor(failed)
    after_factor()
    P = torch.from_numpy(spotri(L, lower=True, overwrite_c=True)[0].T)
    # Only the upper triangle holds the inverse; copy it to the lower triangle.
    for block in item_blocks(len(P)):
        P[block.stop :, block] = P[block, block.stop :].T
        corner = P[block, block]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return P


def _inverse_by_torch(A: Tensor, after_factor: Callable[[], None]) -> Tensor:
    L, failed = torch.linalg.cholesky_ex(A)
    _check_factor(failed)
    after_factor()
    # torch writes the result by columns. Without ``out`` it would allocate a fourth matrix, whose
    # rows (the weights of one item) would not be contiguous in memory.
    torch.cholesky_inverse(L, out=A.mT)
    return A


def _check_factor(failed: int | Tensor) -> None:
    if failed:
        raise np.linalg.LinAlgError(
            "The regularised matrix X'X is singular in float32: increase l2."
        )
