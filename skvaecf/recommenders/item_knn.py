"""ItemKNN: similarities of items by their common users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Literal

import numpy as np
from scipy.sparse import csr_array, vstack
from torch import Tensor

from .._checks import check_finite
from .._parameters import NonNegative, PositiveInt
from .._statistics import structure
from .._top_k import largest_positive
from ..base import BaseRecommender, Scorer, SimilarItemsMixin
from ..inspection import Explainer
from ..linear._item_item import (
    sparse_explainer,
    sparse_item_blocks,
    sparse_scorer,
    stored_similarities,
)

# Common values of the two constants of BM25 (Robertson and Zaragoza, section 3.5).
BM25_SATURATION = 1.2
BM25_LENGTH = 0.75


class ItemKNN(SimilarItemsMixin, BaseRecommender):
    r"""Item-based nearest neighbours (ItemKNN).

    The vector :math:`a_i` represents item i by its users. The similarity of two items is

    .. math:: s_{ij} = \frac{a_i^\top a_j}{\|a_i\| \|a_j\| + h} \quad \text{(cosine)}, \qquad
              s_{ij} = \frac{a_i^\top a_j}
                            {\|a_i\|^2 + \|a_j\|^2 - a_i^\top a_j + h} \quad \text{(Jaccard)},

    and the ranking score of item j for a user with the row x is
    :math:`\sum_{i \in N(j)} x_i s_{ij}`, where :math:`N(j)` are the items most similar to j.

    Parameters
    ----------
    n_neighbors : int, default=200
        Number of items in :math:`N(j)`. Of equally similar items, those with the lower numbers are
        taken.
    metric : {"cosine", "jaccard"}, default="cosine"
        Similarity of two items [1]_. With a ``weighting``, "jaccard" is its extension to real
        numbers, the Tanimoto similarity.
    weighting : {"tfidf", "bm25"} or None, default="tfidf"
        Entries :math:`a_{ui}` of the vector of an item. With None they are 1 for the users of the
        item. With "tfidf" they are :math:`\log(I / n_u)`, where :math:`n_u` is the number of the
        user's items and I the number of all items; users with many items have small weights. With
        "bm25" [2]_ they are :math:`\log(1 + (I - n_u + \frac12) / (n_u + \frac12))` times a factor
        that decreases with the number of users of the item (constants k1 = 1.2 and b = 0.75).
    shrinkage : float or "auto", default="auto"
        The term h, in the unit of :math:`a_i^\top a_j` (without ``weighting``, a number of users).
        It reduces similarities that are based on few users [3]_. "auto" is the mean of
        :math:`a_{ui}^2` over the interactions times :math:`(25 / S)^5`, at most 1000 times, where S
        is the structure of the data (:ref:`structure-of-data`): little, unless a user's items tell
        little about the others.

    Attributes
    ----------
    item_similarity_ : csr_array of shape (n_items, n_items), float32
        Column j holds the similarities of item j to its neighbours :math:`N(j)`.
    shrinkage_ : float
        The term h that was used.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    SLIM : Weights learned by regression instead of similarities.

    References
    ----------
    .. [1] Sarwar, Karypis, Konstan and Riedl, "Item-based collaborative filtering recommendation
       algorithms", WWW 2001; for implicit feedback: Aiolli, "Efficient top-n recommendation for
       very large scale binary rated datasets", RecSys 2013.
    .. [2] Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond", 2009.
    .. [3] Bell and Koren, "Improved neighborhood-based collaborative filtering", KDD Cup 2007.

    Examples
    --------
    >>> from skvaecf import ItemKNN
    >>> X = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    >>> ItemKNN(n_neighbors=1).fit(X).recommend([[1, 0, 0, 0], [0, 0, 1, 0]], k=1)
    array([[1],
           [3]])
    """

    n_neighbors: PositiveInt = 200
    _: KW_ONLY
    metric: Literal["cosine", "jaccard"] = "cosine"
    weighting: Literal["tfidf", "bm25"] | None = "tfidf"
    shrinkage: NonNegative | Literal["auto"] = "auto"

    def _fit(self, X: csr_array) -> None:
        A = _weighted(X, self.weighting)
        h = self.shrinkage
        if isinstance(h, str):
            h = min((25 / structure(X)) ** 5, 1000) * (A.data**2).sum() / max(A.nnz, 1)
        items = csr_array(A.T)
        squared = np.bincount(A.indices, A.data**2, minlength=X.shape[1])  # |a_i|^2
        blocks, nearest = list(sparse_item_blocks(A)), []
        # s_ij = a_i.a_j / (|a_i| |a_j| + h) or a_i.a_j / (|a_i|^2 + |a_j|^2 - a_i.a_j + h)
        for block in blocks:
            shared = items[block] @ A
            i, j = block.repeat(np.diff(shared.indptr)), shared.indices
            if self.metric == "cosine":
                scale = np.sqrt(squared[i] * squared[j])
            else:
                scale = squared[i] + squared[j] - shared.data
            scale += h
            similarity = np.divide(shared.data, scale, out=np.zeros(len(i)), where=scale > 0)
            similarity[i == j] = 0
            shared.data = similarity.astype(np.float32)
            nearest.append(largest_positive(shared, int(self.n_neighbors)))
        place = np.argsort(np.concatenate(blocks))
        similarity = csr_array(vstack(nearest, format="csr")[place].T)
        check_finite(self, similarity.data)
        self.item_similarity_, self.shrinkage_ = similarity, float(h)

    def _scorer(self) -> Scorer:
        return sparse_scorer(self.item_similarity_)

    def _explainer(self) -> Explainer:
        return sparse_explainer(self.item_similarity_)

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return stored_similarities(csr_array(self.item_similarity_.T))  # rows of N(j)


def _weighted(X: csr_array, weighting: str | None) -> csr_array:
    """Return the users x items matrix with the vectors of the items as columns, float64."""
    n_items = X.shape[1]
    per_user, per_item = np.diff(X.indptr), np.bincount(X.indices, minlength=n_items)
    n_u = per_user.repeat(per_user)  # of the user of each entry
    if weighting == "tfidf":
        weights = np.log(n_items / n_u)
    elif weighting == "bm25":
        length = per_item[X.indices] / per_item.mean()
        saturated = 1 + BM25_SATURATION * (1 - BM25_LENGTH + BM25_LENGTH * length)
        weights = np.log1p((n_items - n_u + 0.5) / (n_u + 0.5)) * (BM25_SATURATION + 1) / saturated
    else:
        weights = np.ones(X.nnz)
    return csr_array((weights, X.indices, X.indptr), shape=X.shape)
