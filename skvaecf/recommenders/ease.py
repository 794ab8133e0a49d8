"""EASE: a linear item-item model in closed form."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.utils._param_validation import Interval
from torch import Tensor

from .._devices import check_device, device_or_cpu
from ..base import BaseRecommender, Scorer, SimilarItemsMixin
from ..interactions import InteractionBatch


class EASE(SimilarItemsMixin, BaseRecommender):
    r"""Embarrassingly shallow autoencoder: each item is regressed on all others.

    .. math:: \min_B \|X - XB\|_F^2 + \lambda \|B\|_F^2
              \quad \text{subject to} \quad \operatorname{diag}(B) = 0,

    solved by :math:`B_{ij} = -P_{ij} / P_{jj}` for :math:`i \neq j`, with
    :math:`P = (X^\top X + \lambda I)^{-1}`; a user is scored by :math:`x B`.

    Parameters
    ----------
    l2 : float, default=500.0
        Weight :math:`\lambda` of the penalty on B, in users.
    device : str or torch.device, default="auto"
        Where to compute: "auto" (CUDA if present, else MPS, else CPU) or any torch device.

    Attributes
    ----------
    item_similarity_ : ndarray of shape (n_items, n_items), float32
        The matrix B; column j holds the weights that predict item j.
    n_features_in_ : int
        Number of items.

    Notes
    -----
    Memory is three dense float32 matrices of n_items x n_items, time is cubic in n_items.

    References
    ----------
    Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019, eq. 2 and 8.

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
        "device": [str, torch.device],
    }

    def __init__(self, l2: float = 500.0, *, device: str | torch.device = "auto") -> None:
        self.l2 = l2
        self.device = device

    def _fit(self, X: csr_array) -> None:
        device = check_device(self.device)
        gram = torch.tensor((X.T @ X).toarray(), dtype=torch.float32, device=device)
        gram.diagonal().add_(self.l2)
        P = torch.cholesky_inverse(torch.linalg.cholesky(gram, out=gram), out=gram)
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
