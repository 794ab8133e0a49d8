"""ItemKNN: similar items, by the users whom they share."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_array, vstack
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from ..base import BaseRecommender, Scorer, SimilarItemsMixin
from ..item_item import sparse_item_blocks, sparse_scorer, stored_similarities
from ..ranking import largest_positive

# Robertson and Zaragoza, section 3.5: common values of the two constants of BM25.
BM25_SATURATION = 1.2
BM25_LENGTH = 0.75


class ItemKNN(SimilarItemsMixin, BaseRecommender):
    r"""Item-based nearest neighbours.

    An item is the vector :math:`a_i` of its users. Two items are as similar as

    .. math:: s_{ij} = \frac{a_i^\top a_j}{\|a_i\| \|a_j\| + h} \quad \text{(cosine)}, \qquad
              s_{ij} = \frac{a_i^\top a_j}
                            {\|a_i\|^2 + \|a_j\|^2 - a_i^\top a_j + h} \quad \text{(Jaccard)},

    and a user is scored by :math:`\sum_{i \in N(j)} x_i s_{ij}`, where :math:`N(j)` are the items
    most similar to j.

    Parameters
    ----------
    n_neighbors : int, default=100
        Size of :math:`N(j)`; of equally similar items the lower one is taken.
    metric : {"cosine", "jaccard"}, default="cosine"
        The similarity [1]_. With weights, "jaccard" is its extension named after Tanimoto.
    weighting : {"tfidf", "bm25"} or None, default=None
        Entries :math:`a_{ui}` of an item's vector. None: 1 for each of its users. "tfidf":
        :math:`\log(I / n_u)`, so that a user with many (:math:`n_u` of all I) items says less of
        each, as a common word does of a text. "bm25" [2]_: :math:`\log(1 + (I - n_u + \frac12) /
        (n_u + \frac12))`, and less for items of many users, with the constants k1 = 1.2, b = 0.75.
    shrinkage : float, default=0.0
        The term h, in units of :math:`a_i^\top a_j` (users, without weights): takes away from
        similarities that rest on few users [3]_.

    Attributes
    ----------
    item_similarity_ : csr_array of shape (n_items, n_items), float32
        Column j holds the similarities of item j to its neighbours.
    n_features_in_ : int
        Number of items.

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "metric": [StrOptions({"cosine", "jaccard"})],
        "weighting": [StrOptions({"tfidf", "bm25"}), None],
        "shrinkage": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_neighbors: int = 100,
        *,
        metric: str = "cosine",
        weighting: str | None = None,
        shrinkage: float = 0.0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.weighting = weighting
        self.shrinkage = shrinkage

    def _fit(self, X: csr_array) -> None:
        A = _weighted(X, self.weighting)
        items = csr_array(A.T)
        squared = np.bincount(A.indices, A.data**2, minlength=X.shape[1])  # |a_i|^2
        blocks, nearest = list(sparse_item_blocks(A)), []
        for block in blocks:
            shared = items[block] @ A
            i, j = block.repeat(np.diff(shared.indptr)), shared.indices
            if self.metric == "cosine":
                scale = np.sqrt(squared[i] * squared[j])
            else:
                scale = squared[i] + squared[j] - shared.data
            scale += self.shrinkage
            similarity = np.divide(shared.data, scale, out=np.zeros(len(i)), where=scale > 0)
            similarity[i == j] = 0
            shared.data = similarity.astype(np.float32)
            nearest.append(largest_positive(shared, int(self.n_neighbors)))
        place = np.argsort(np.concatenate(blocks))
        self.item_similarity_ = csr_array(vstack(nearest, format="csr")[place].T)

    def _scorer(self) -> Scorer:
        return sparse_scorer(self.item_similarity_)

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return stored_similarities(csr_array(self.item_similarity_.T))  # rows of N(j)


def _weighted(X: csr_array, weighting: str | None) -> csr_array:
    """Users x items, an item's vector in its column, float64."""
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
