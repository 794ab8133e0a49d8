"""Approximate lists of the best items, from an index of the items' vectors."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import torch
from joblib import effective_n_jobs
from sklearn.utils._param_validation import StrOptions, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from ._checks import check_count, errors_name
from ._devices import check_precision, default_modes
from ._optional import require
from ._vectors import LatentFactorMixin
from .interactions import binary_csr
from .ranking import row_scorer


class NeighborIndex:
    r"""Index of the item vectors of a fitted model, for ``recommend`` without scoring all items.

    Factor models, and autoencoders with a linear decoder, score item j for a user by
    :math:`z^\top v_j + b_j`, where z is the user's vector, which ``transform`` returns.
    :class:`~skvaecf.ELSA` subtracts 1 at the items that the user has. The items with the highest
    scores are the neighbours of z by the inner product. The index is a graph of the item vectors
    (HNSW) [1]_ that finds most of these items without visiting the others. It requires the package
    usearch.

    Parameters
    ----------
    model : recommender
        Fitted recommender with ``transform``, such as :class:`~skvaecf.WMF`,
        :class:`~skvaecf.ELSA` or :class:`~skvaecf.MultVAE`. The index keeps it: it computes the
        vectors of the users.
    connectivity : int, default=16
        Number of links per item. More links take more memory and find more of the best items.
    expansion_add : int, default=128
        Number of items that are compared when an item is added. More take more time to build the
        index and find more of the best items.
    expansion_search : int, default=512
        Number of items that are compared in a search. More take more time and find more of the best
        items. It may be changed at any time.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Type of the vectors in the index. "auto" is bfloat16 if the hardware computes it natively,
        otherwise float32. bfloat16 takes half the memory and about half the time. The scores of the
        items that are found are always computed in float32.
    n_jobs : int or None, default=None
        Number of threads that build the index. -1 uses one thread per processor. None means 1
        unless in a ``joblib.parallel_config`` context. With more than one thread, the graph differs
        from one time to the next.

    Raises
    ------
    NotFittedError
        If the model is not fitted.
    ValueError
        If the scores of the model are not products of such vectors, or a number is below 1.
    TypeError
        If the model is not a recommender with ``transform``.
    ImportError
        If usearch is not installed.

    See Also
    --------
    WMF : Its method ``recommend`` computes the exact lists.
    skvaecf.recommend : The exact lists of any estimator.

    References
    ----------
    .. [1] Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
       hierarchical navigable small world graphs", IEEE TPAMI 42, 2020.

    Examples
    --------
    >>> from skvaecf import WMF, NeighborIndex
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = WMF(n_components=8, random_state=0).fit(X)
    >>> index = NeighborIndex(model)  # doctest: +SKIP
    >>> index.recommend(X[:2], k=3).shape  # doctest: +SKIP
    (2, 3)
    """

    def __init__(
        self,
        model: Any,
        *,
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 512,
        precision: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        check_count("connectivity", connectivity)
        check_count("expansion_add", expansion_add)
        validate_parameter_constraints(
            {"precision": [StrOptions({"auto", "float32", "bfloat16"})]},
            {"precision": precision},
            type(self).__name__,
        )
        vectors = self._of_model(model)
        is_wide = check_precision(precision, torch.device("cpu")) == torch.float32
        index = require("usearch.index").Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="f32" if is_wide else "bf16",
            connectivity=connectivity,
            expansion_add=expansion_add,
        )
        index.add(np.arange(len(vectors)), vectors, threads=effective_n_jobs(n_jobs))
        self._index, self.expansion_search = index, expansion_search

    @default_modes()
    def _of_model(self, model: Any) -> np.ndarray:
        """Keep a model; return the vectors that are indexed: those of the items with the biases."""
        if not isinstance(model, LatentFactorMixin):
            raise TypeError(
                f"model must be a recommender with transform, got {type(model).__name__}."
            )
        check_is_fitted(model)
        if hasattr(model, "item_factors_"):
            vectors = model.item_factors_
        else:
            vectors = model.network_.item_vectors().contiguous().cpu().numpy()
        # Whether the scores are products shows at any two users. This holds for custom models, too.
        # Of a single item, one user shows all: every user with an interaction has it.
        # Both have an item, because the scores of other users are the numbers of users. ELSA has
        # lower scores at the items of a user, so a bias is taken from the user without the item.
        users = np.eye(min(2, len(vectors)), len(vectors), dtype=np.float32)
        latent, scores = model._latent_vectors(users), row_scorer(model)(users).cpu().numpy()
        of_vectors = latent.shape[1] == vectors.shape[1]
        rest = scores - latent @ vectors.T if of_vectors else scores
        biases = np.where(users[-1] == 1, rest[0], rest[-1])
        of_seen = (rest - biases)[users == 1]
        tolerance = 1e-4 * np.abs(scores).max()
        of_seen = of_seen.mean() if np.abs(of_seen).max() > tolerance else 0.0  # not of rounding
        if not of_vectors or np.abs(rest - biases - of_seen * users).max() > tolerance:
            raise ValueError(
                f"The scores of this {type(model).__name__} are not products of the vectors of"
                " transform and of the items, so an index of neighbours cannot find the best."
            )
        self.model = model
        self._vectors, self._biases = vectors, biases
        self._of_seen = of_seen
        return np.column_stack([vectors, self._biases])

    @property
    def expansion_search(self) -> int:
        """Number of items that are compared in a search."""
        return int(self._index.expansion_search)

    @expansion_search.setter
    def expansion_search(self, value: int) -> None:
        check_count("expansion_search", value)
        self._index.expansion_search = int(value)

    def recommend(
        self, X: Any, k: int = 10, *, exclude_seen: bool = True, return_scores: bool = False
    ) -> Any:
        """Recommend the best k items that the index finds to every user.

        The index returns as many neighbours as it compares, and at least k + m for a user with m
        seen items, because these are among them. The best k are chosen by their exact scores.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users, who may be in ``fit`` or not.
        k : int, default=10
            Length of the lists.
        exclude_seen : bool, default=True
            Whether to leave out the items that the user has in X.
        return_scores : bool, default=False
            Whether to return the scores, too.

        Returns
        -------
        items : ndarray of shape (n_users, k), int64
            Item numbers, best first. Of items with equal scores, the one with more users in ``fit``
            comes first, then the one with the lower number. A user without interactions gets the
            items with the most users. If fewer than k items are found, the remaining places hold
            -1.
        scores : ndarray of shape (n_users, k), float32
            Only if ``return_scores``; ``-inf`` where items is -1. They are the scores of the model,
            apart from rounding.

        Raises
        ------
        ValueError
            If X is invalid or k is below 1.
        """
        check_count("k", k)
        checked = self.model._check_rows(X)
        latent = self.model._latent_vectors(checked).astype(np.float32, copy=False)
        rows, counts = binary_csr(checked), self.model.item_counts_
        items = np.full((len(latent), int(k)), -1, dtype=np.int64)
        scores = np.full(items.shape, -np.inf, dtype=np.float32)
        for user, z in enumerate(latent):
            seen = rows.indices[rows.indptr[user] : rows.indptr[user + 1]]
            # All that were compared: their order in the index has the rounding of its precision.
            wanted = min(max(int(k) + len(seen), self.expansion_search), len(self._vectors))
            found = self._index.search(np.append(z, np.float32(1)), wanted, threads=1).keys
            found = np.sort(found.astype(np.int64))
            is_seen = np.isin(found, seen)
            values = self._vectors[found] @ z + self._biases[found] + self._of_seen * is_seen
            if exclude_seen:
                found, values = found[~is_seen], values[~is_seen]
            best = np.lexsort((-counts[found], -values))[: int(k)]
            items[user, : len(best)], scores[user, : len(best)] = found[best], values[best]
        empty = np.diff(rows.indptr) == 0
        popular = np.argsort(-counts, kind="stable")[: int(k)]
        items[empty, : len(popular)], scores[empty, : len(popular)] = popular, counts[popular]
        return (items, scores) if return_scores else items

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the index to a file for ``load``. The model is not in it: save the model, too.

        Parameters
        ----------
        path : str or path-like
            File to write. An existing file is replaced.
        """
        self._index.save(os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any, *, expansion_search: int = 512) -> Self:
        """Load an index from a file that ``save`` has written.

        The file is read by the compiled code of usearch. Load only files that you trust.

        Parameters
        ----------
        path : str or path-like
            File to read.
        model : recommender
            The recommender that the index was built for, for example from :func:`skvaecf.load`.
        expansion_search : int, default=512
            Number of items that are compared in a search, which the file does not hold.

        Returns
        -------
        index : NeighborIndex

        Raises
        ------
        ValueError
            If the file is not an index, is the index of another model, or a number is below 1.
        OSError
            If there is no such file.
        """
        self = cls.__new__(cls)
        vectors = self._of_model(model)
        path = os.fspath(path)
        with errors_name(path), open(path, "rb"):  # usearch returns None if there is no file
            index = require("usearch.index").Index.restore(path)
            if (len(index), index.ndim) != vectors.shape:
                raise ValueError(
                    f"it has {len(index)} vectors of length {index.ndim}, and the model has"
                    f" {len(vectors)} of length {vectors.shape[1]}"
                )
            some = np.linspace(0, len(vectors) - 1, 100).astype(np.int64)
            if not np.allclose(
                index.get(some), vectors[some], rtol=0.01
            ):  # the rounding of bfloat16
                raise ValueError("its vectors are those of another model")
        self._index, self.expansion_search = index, expansion_search
        return self
