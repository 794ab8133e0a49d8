"""EASE: a linear item-item model in closed form."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array
from sklearn.utils._param_validation import Interval
from torch import Tensor

from .._devices import check_device, check_memory, device_or_cpu
from ..base import BaseRecommender, Scorer, SimilarItemsMixin
from ..interactions import InteractionBatch
from ..item_item import dense_gram, item_blocks


class EASE(SimilarItemsMixin, BaseRecommender):
    r"""Embarrassingly shallow autoencoder: each item is regressed on all others.

    .. math:: \min_B \|X - XB\|_F^2 + \|\Lambda^{1/2} B\|_F^2
              \quad \text{subject to} \quad \operatorname{diag}(B) = 0,

    where :math:`\Lambda = \lambda I + \tfrac{p}{1-p} \operatorname{diag}(X^\top X)`, solved by
    :math:`B_{ij} = -P_{ij} / P_{jj}` for :math:`i \neq j`, with
    :math:`P = (X^\top X + \Lambda)^{-1}`; a user is scored by :math:`x B`.

    Parameters
    ----------
    l2 : float, default=500.0
        Weight :math:`\lambda` of the penalty on B, in users.
    dropout : float, default=0.0
        Probability p of dropping an interaction of the input, in [0, 1). 0 is EASE [1]_; above it
        is EDLAE [2]_, the mean over all draws of a denoising autoencoder: the penalty of an item's
        weights grows with the number of its users.
    device : str or torch.device, default="auto"
        Where to compute: "auto" (CUDA if present, else MPS, else CPU) or any torch device.

    Attributes
    ----------
    item_similarity_ : ndarray of shape (n_items, n_items), float32
        The matrix B; column j holds the weights that predict item j.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    SLIM : Sparse weights, for more items than a dense matrix can have.

    Notes
    -----
    Memory is a dense float32 matrix of n_items x n_items and a fifth of one, on a GPU three, and
    time is cubic in n_items. Where that is more than the device has, ``fit`` raises a MemoryError;
    :class:`~skvaecf.SLIM` and :class:`~skvaecf.ItemKNN` hold sparse matrices.

    References
    ----------
    .. [1] Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019, eq. 2 and 8.
    .. [2] Steck, "Autoencoders that don't overfit towards the identity", NeurIPS 2020.

    Examples
    --------
    >>> from skvaecf import EASE
    >>> X = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    >>> EASE(l2=1.0).fit(X).recommend([[1, 0, 0, 0], [0, 0, 1, 0]], k=1)
    array([[1],
           [3]])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "l2": [Interval(Real, 0, None, closed="neither")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "device": [str, torch.device],
    }

    def __init__(
        self,
        l2: float = 500.0,
        *,
        dropout: float = 0.0,
        device: str | torch.device = "auto",
    ) -> None:
        self.l2 = l2
        self.dropout = dropout
        self.device = device

    def _fit(self, X: csr_array) -> None:
        device = check_device(self.device)
        n_items = X.shape[1]
        copies = 1.2 if device.type == "cpu" else 3
        check_memory(
            copies * 4 * n_items**2,
            device,
            f"EASE of {n_items} items",
            "SLIM, ItemKNN and WMF need less",
        )
        gram = dense_gram(X, device)
        diagonal = gram.diagonal()
        diagonal.mul_(1 + self.dropout / (1 - self.dropout)).add_(self.l2)
        P = inverse(gram)
        B = P.div_(-P.diagonal().clone())  # column j divided by -P_jj
        self.item_similarity_ = B.fill_diagonal_(0).cpu().numpy()

    def _scorer(self) -> Scorer:
        # A read-only array, from a memory map, is copied: torch takes writable ones only.
        B = torch.as_tensor(
            np.require(self.item_similarity_, requirements="W"), device=device_or_cpu(self.device)
        )
        return lambda X: InteractionBatch.from_csr(X, B.device) @ B

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return lambda items: torch.tensor(self.item_similarity_[items])

    def _validate_params(self) -> None:
        super()._validate_params()
        check_device(self.device)


def inverse(A: Tensor) -> Tensor:
    """Invert a positive definite matrix, which is overwritten.

    Raises
    ------
    LinAlgError
        If the matrix is singular to the precision of float32.
    """
    if A.device.type != "cpu":
        return _inverse_by_torch(A)
    # On hosts SciPy's LAPACK takes three quarters of the time of torch's, and no second matrix.
    L, failed = spotrf(A.numpy().T, lower=True, overwrite_a=True, clean=False)
    _check_factor(failed)
    P = torch.from_numpy(spotri(L, lower=True, overwrite_c=True)[0].T)
    # Above the diagonal is the inverse; the rest is its mirror image.
    for block in item_blocks(len(P)):
        P[block.stop :, block] = P[block, block.stop :].T
        corner = P[block, block]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return P


def _inverse_by_torch(A: Tensor) -> Tensor:
    L, failed = torch.linalg.cholesky_ex(A)
    _check_factor(failed)
    # torch writes by columns: by itself it would take a fourth matrix, whose rows, the weights of
    # one item, would be scattered over the memory.
    torch.cholesky_inverse(L, out=A.mT)
    return A


def _check_factor(failed: int | Tensor) -> None:
    if failed:
        raise np.linalg.LinAlgError(
            "The items' products are singular to the precision of float32: increase l2."
        )
