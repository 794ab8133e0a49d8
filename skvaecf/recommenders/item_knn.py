"""ItemKNN: similarities of items by their common users."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY
from math import log
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from .._checks import check_finite
from .._parameters import NonNegative, PositiveInt
from .._statistics import structure, structure_of_gram, typical_count
from .._threads import in_threads
from .._top_k import largest_positive
from ..base import Scorer
from ..inspection import Explainer
from ..interactions import count_users, with_ones
from ..linear._item_item import (
    blocks_of_rows,
    sparse_explainer,
    sparse_item_blocks,
    sparse_scorer,
    stored_similarities,
)
from ..linear._sums import GramRecommender, Sums, added_products

# Common values of the two constants of BM25 (Robertson and Zaragoza, section 3.5).
BM25_SATURATION = 1.2
BM25_LENGTH = 0.75


class ItemKNN(GramRecommender):
    r"""Item-based nearest neighbours (ItemKNN): similarities of items by their common users.

    It is a baseline that is easy to understand. Recommendations are explained by short lists of
    similar items.

    The vector :math:`a_i` represents item i by its users. The similarity of two items is

    .. math:: s_{ij} = \frac{a_i^\top a_j}{\|a_i\| \|a_j\| + h} \quad \text{(cosine)}, \qquad
              s_{ij} = \frac{a_i^\top a_j}
                            {\|a_i\|^2 + \|a_j\|^2 - a_i^\top a_j + h} \quad \text{(Jaccard)},

    and the ranking score of item j for a user with the row x is
    :math:`\sum_{i \in N(j)} x_i s_{ij}`, where :math:`N(j)` are the items most similar to j.

    With ``use_values``, :math:`a_{ui}` is multiplied by the value of X, and :math:`x_i` is the
    value in the row that is scored instead of 1. With ``sample_weight``, the products
    :math:`a_i^\top a_j` are sums over the users that are multiplied by the weights.

    Parameters
    ----------
    n_neighbors : int or "auto", default="auto"
        Number of items in :math:`N(j)`. Of equally similar items, those with the lower numbers are
        taken. "auto" is :math:`150 \, h'^{1/4}`, rounded down and at least 200, where :math:`h'` is
        the shrinkage h divided by the mean of :math:`a_{ui}^2` over the interactions: the less a
        single similarity is worth, the more of them are summed.
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
        :math:`a_{ui}^2` over the interactions times :math:`(500 / (S \kappa^{2/3}))^3`, at most
        1000 times. S is the structure of the data (:ref:`structure-of-data`), and
        :math:`\kappa = \sum_i c_i^2 / \sum_i c_i` is the mean number of users of the item of an
        interaction. So it is small, unless a user's items hardly predict the others or the items
        have few users.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.

    Attributes
    ----------
    item_similarity_ : csr_array of shape (n_items, n_items), float32
        Column j holds the similarities of item j to its neighbours :math:`N(j)`.
    n_neighbors_ : int
        The number of neighbours that was used.
    shrinkage_ : float
        The term h that was used.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    SLIM : Weights learned by regression instead of similarities.
    EASE : Dense weights learned by ridge regression.
    Popularity : The baseline without any personalisation.

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

    n_neighbors: PositiveInt | Literal["auto"] = "auto"
    _: KW_ONLY
    metric: Literal["cosine", "jaccard"] = "cosine"
    weighting: Literal["tfidf", "bm25"] | None = "tfidf"
    shrinkage: NonNegative | Literal["auto"] = "auto"
    use_values: bool = False

    _sums_depend_on = ("weighting", "use_values")

    def _fit_rows(self, X: csr_array, weights: np.ndarray) -> None:
        n_u, n_items, counts = np.diff(X.indptr), X.shape[1], count_users(X, weights)
        of_user, of_item = self._largest(n_items) - self._term(n_u), self._of_item(counts)
        factors = of_user.repeat(n_u) * of_item[X.indices]
        A = csr_array((factors * X.data, X.indices, X.indptr), X.shape)
        weighted = csr_array((weights.repeat(n_u) * A.data, A.indices, A.indptr), A.shape)
        items = csr_array(weighted.T)
        squared = np.bincount(A.indices, weighted.data * A.data, minlength=n_items)  # |a_i|^2
        self._solve(
            sparse_item_blocks(A),
            lambda block: items[block] @ A,
            squared,
            counts,
            lambda: structure(with_ones(X), weights),
        )

    # a_ui is the product of a weight of the user and one of the item. The weight of a user is the
    # difference L - m_u of a number that depends on the number of items and one that does not, so
    # the products a_i.a_j are L^2 G_0 - 2 L G_1 + G_2 times the weights of the items, with sums
    # G_k of m_u^k over the users who have both items.

    def _largest(self, n_items: int) -> float:
        """Return L."""
        largest = {"tfidf": log(n_items), "bm25": log(n_items + 1)}
        return largest.get(self.weighting or "", 1.0)

    def _term(self, n_u: np.ndarray) -> np.ndarray:
        """Return m_u of users with these numbers of items."""
        terms: np.ndarray = np.zeros(len(n_u))
        if self.weighting == "tfidf":
            terms = np.log(n_u.clip(1))
        elif self.weighting == "bm25":
            terms = np.log(n_u + 0.5)  # log(1 + (I - n + 1/2) / (n + 1/2)) is L minus this
        return terms

    def _of_item(self, counts: np.ndarray) -> np.ndarray:
        """Return the weights of items with these numbers of users."""
        if self.weighting != "bm25":
            return np.ones(len(counts))
        length = counts / max(counts.mean(), 1e-9)
        saturated = 1 + BM25_SATURATION * (1 - BM25_LENGTH + BM25_LENGTH * length)
        weights: np.ndarray = (BM25_SATURATION + 1) / saturated
        return weights

    def _added(self, grams: list[csr_array], X: csr_array, weights: np.ndarray) -> list[csr_array]:
        m = self._term(np.diff(X.indptr))
        powers = [weights, weights * m, weights * m**2] if self.weighting else [weights]
        first = [(with_ones(X), weights)] if self.use_values else []
        return added_products(grams, [*first, *((X, power) for power in powers)])

    def _solve_sums(self, sums: Sums) -> None:
        grams, counts = sums.grams[int(self.use_values) :], sums.grams[0].diagonal()
        L, of_item = self._largest(len(counts)), self._of_item(counts)
        coefficients = [L**2, -2 * L, 1] if self.weighting else [1]
        mean_square = grams[0].diagonal().sum() / max(counts.sum(), 1)

        def products_of(block: np.ndarray) -> csr_array:
            parts = [c * gram[block] for c, gram in zip(coefficients, grams, strict=True)]
            products = sum(parts[1:], start=parts[0])
            # Users with all items have the weight 0; what rounding leaves of it is no similarity.
            products.data[products.data < 1e-13 * L**2 * mean_square] = 0
            rows = block.repeat(np.diff(products.indptr))
            products.data *= of_item[rows] * of_item[products.indices]
            return products

        squared = of_item**2 * np.dot(coefficients, [gram.diagonal() for gram in grams])
        self._solve(
            blocks_of_rows(np.diff(grams[0].indptr)),
            products_of,
            squared,
            counts,
            lambda: structure_of_gram(sums.grams[0]),
        )

    def _solve(
        self,
        blocks: Iterable[np.ndarray],
        products_of: Callable[[np.ndarray], csr_array],
        squared: np.ndarray,
        counts: np.ndarray,
        measure_structure: Callable[[], float],
    ) -> None:
        """Find the neighbours of all items, block by block of their products with the others."""
        mean_square = squared.sum() / max(counts.sum(), 1)
        h, k = self.shrinkage, self.n_neighbors
        if isinstance(h, str):
            h = auto_shrinkage(measure_structure(), counts) * mean_square
        if isinstance(k, str):
            k = max(int(150 * min(h / max(mean_square, 1e-9), 1e12) ** 0.25), 200)
        blocks = list(blocks)

        # s_ij = a_i.a_j / (|a_i| |a_j| + h) or a_i.a_j / (|a_i|^2 + |a_j|^2 - a_i.a_j + h)
        def neighbors_of(block: np.ndarray) -> csr_array:
            shared = products_of(block)
            i, j = block.repeat(np.diff(shared.indptr)), shared.indices
            if self.metric == "cosine":
                scale = np.sqrt(squared[i] * squared[j])
            else:
                scale = squared[i] + squared[j] - shared.data
            scale += h
            similarity = np.divide(shared.data, scale, out=np.zeros(len(i)), where=scale > 0)
            similarity[i == j] = 0
            shared.data = similarity.astype(np.float32)
            return largest_positive(shared, int(k))

        nearest = in_threads(neighbors_of, blocks, torch.device("cpu"))
        place = np.argsort(np.concatenate(blocks))
        similarity = csr_array(vstack(nearest, format="csr")[place].T)
        check_finite(self, similarity.data)
        self.item_similarity_ = similarity
        self.n_neighbors_, self.shrinkage_ = int(k), float(h)

    def _scorer(self) -> Scorer:
        return sparse_scorer(self.item_similarity_)

    def _explainer(self) -> Explainer:
        return sparse_explainer(self.item_similarity_)

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return stored_similarities(csr_array(self.item_similarity_.T))  # rows of N(j)


def auto_shrinkage(S: float, counts: np.ndarray) -> float:
    """Return the shrinkage in the unit of the mean of a_ui^2, from the items' numbers of users."""
    information: float = S * max(typical_count(counts), 1e-9) ** (2 / 3)
    return min((500 / information) ** 3, 1000)
