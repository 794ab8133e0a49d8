"""Popularity: recommends the most popular items to everybody."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array

from .._partial_fit import PartialFitMixin
from ..base import BaseRecommender, SampleWeightMixin, Scorer


class Popularity(SampleWeightMixin, PartialFitMixin, BaseRecommender):
    r"""Baseline: recommends the most popular items to everybody.

    The ranking score of an item is the number of users who have it,

    .. math:: \text{score}(u, i) = \sum_v x_{vi}.

    The model is deterministic, so it is also useful to check an evaluation.

    Attributes
    ----------
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    ItemKNN : The simplest model whose lists differ between users.
    compare : Scores many models on the same users.

    Examples
    --------
    >>> from skvaecf import Popularity
    >>> X = [[1, 1, 0], [0, 1, 0], [0, 1, 1]]
    >>> Popularity().fit(X).recommend(X, k=1)
    array([[2],
           [0],
           [0]])
    """

    def _fit(self, X: csr_array, weights: np.ndarray | None = None) -> None:
        """Learn nothing else: ``fit`` of every recommender sets ``item_counts_``."""

    def _partial_fit(self, X: csr_array, weights: np.ndarray | None = None) -> None:
        """Learn nothing else: ``partial_fit`` adds to ``item_counts_``."""

    def _scorer(self) -> Scorer:
        counts = torch.tensor(self.item_counts_, dtype=torch.float32)
        return lambda X: counts.repeat(X.shape[0], 1)
