"""``partial_fit`` of the models that are functions of sums over users, such as X'X."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from scipy.sparse import csr_array, vstack

from .._devices import default_modes
from .._partial_fit import grown_columns
from .._vectors import SimilarItemsMixin
from ..base import BaseRecommender, SampleWeightMixin
from ..interactions import as_counts, check_rows, check_user_weights


class Sums(NamedTuple):
    """Sums over users: all that a model needs to know about them."""

    n_users: float  # the sum of their weights
    # Sums of x_ui x_uj, and of such products times weights of the users, for all pairs of items.
    # The first one is the number of users who have both items.
    grams: list[Any]


class GramRecommender(SampleWeightMixin, SimilarItemsMixin, BaseRecommender):
    r"""Base of the models that are functions of :math:`X^\top X` and of weighted forms of it.

    A subclass defines, besides ``_scorer`` and ``_similarities``, three hooks:

    * ``_fit_rows(X, weights)`` learns from the rows of all users.
    * ``_added(grams, X, weights)`` returns the sums over the users of X, added to ``grams``.
    * ``_solve_sums(sums)`` learns from the sums. It changes no attribute if it fails.
    """

    # The parameters that the sums depend on, which must not change between calls.
    _sums_depend_on: ClassVar[tuple[str, ...]] = ("use_values",)

    @abstractmethod
    def _fit_rows(self, X: csr_array, weights: np.ndarray) -> None:
        """Set the fitted attributes from the rows of all users and the weights of the users."""

    @abstractmethod
    def _added(self, grams: list[Any], X: csr_array, weights: np.ndarray) -> list[Any]:
        """Return ``grams``, which is empty at first, plus the sums over the users of X.

        The summands are multiplied by the weights of the users, which are negative for users who
        are taken back. In the first sum, every value of X counts as 1. The matrices in ``grams`` do
        not change. X may have more items than they.
        """

    @abstractmethod
    def _solve_sums(self, sums: Sums) -> None:
        """Set the fitted attributes from the sums over all users."""

    def _fit(self, X: csr_array, weights: np.ndarray | None = None) -> None:
        if weights is None:
            weights = np.ones(X.shape[0])
        if not weights.all():
            X, weights = csr_array(X[weights > 0]), weights[weights > 0]
        self._fit_rows(X, weights)
        self.__dict__.pop("_sums", None)
        # Much smaller than the sums, which partial_fit computes if it is called.
        self._rows = X, weights

    @default_modes()
    def partial_fit(
        self,
        X: Any = None,
        y: Any = None,
        sample_weight: Any = None,
        *,
        X_before: Any = None,
        sample_weight_before: Any = None,
        solve: bool = True,
    ) -> Self:
        """Add users to those of the earlier calls; the result is that of a ``fit`` on all of them.

        The recommender keeps sums over the users, such as X'X. The memory therefore does not grow
        with the number of users, who may come in chunks of any size. After ``fit``, the sums are
        computed from its rows, which the recommender keeps in memory, but not in files. To
        update a recommender after loading it, fit it by ``partial_fit`` from the first call on.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
            Interactions of users who were in no earlier call. X may have more columns than before:
            the last ones are new items, which no earlier user has. With None, the weights are
            computed for the users of the earlier calls, for example with other parameters.
        y : Ignored
            Present for scikit-learn's tools.
        sample_weight : array-like of shape (n_users,) or None, default=None
            Weights of the users of X, as in ``fit``.
        X_before : {array-like, sparse matrix} of shape (n_known_users, n_items) or None, \
default=None
            Rows of earlier calls that are removed: those of users who return, whose whole new rows
            are in X, or of users who are to be forgotten. They have the columns of X.
        sample_weight_before : array-like of shape (n_known_users,) or None, default=None
            Weights that the users of X_before had in the earlier calls.
        solve : bool, default=True
            Whether to compute the weights, which may take longer than adding a chunk. With False,
            users are added only. The recommender is then not fitted until a call with
            ``solve=True``.

        Returns
        -------
        self : object
            The recommender, fitted unless ``solve=False``.

        Raises
        ------
        ValueError
            If X or X_before holds NaN, infinity or negative values, is empty or corrupt, if it has
            fewer columns than before or columns of other names, if X_before has interactions that
            were not added, if weights are not one finite number of at least 0 per user, if a
            parameter is invalid, if there are no users, or if the recommender was loaded after a
            ``fit``.

        Notes
        -----
        A value "auto" is computed from the sums of all users. ``fit`` estimates the structure of
        the data from a sample if there are more than 1,000 users, so the two may differ by the
        error of the sample. Files of ``save`` and pickles contain the sums.
        """
        self._validate_params()
        columns: dict[str, Any] = {}
        parts, weights = [], []
        for name, given, sign, of_users in (
            ("X", X, 1.0, sample_weight),
            ("X_before", X_before, -1.0, sample_weight_before),
        ):
            if given is not None:
                rows = check_rows(given, name, min_rows=1)
                columns |= grown_columns(self, given)
                parts.append(self._interactions(rows))
                checked = check_user_weights(of_users, rows)
                weights.append(sign * (np.ones(rows.shape[0]) if checked is None else checked))
        if len({rows.shape[1] for rows in parts}) > 1:
            raise ValueError("X_before must have the columns of X.")
        sums = self._sums_so_far()
        if parts:
            added = np.concatenate(weights)
            grams = self._added(sums.grams, vstack(parts, format="csr"), added)
            sums = Sums(sums.n_users + added.sum(), grams)
        if X_before is not None:
            # Sums of weights that are not integers have rounding errors.
            counts = as_counts(sums.grams[0].diagonal())
            least = 0 if counts.dtype.kind == "i" else -1e-5 * counts.max()
            if sums.n_users < least or sums.grams[0].min() < least:
                raise ValueError("X_before must hold rows of earlier calls.")
        if sums.n_users <= 1e-9:
            raise ValueError("partial_fit needs users, in X or in earlier calls of partial_fit.")
        if solve:
            self._solve_sums(sums)
            self.item_counts_ = as_counts(sums.grams[0].diagonal().clip(min=0))
        else:
            names = [n for n in vars(self) if n.endswith("_") and "feature" not in n]
            for name in names:
                delattr(self, name)
        made_with = {name: getattr(self, name) for name in self._sums_depend_on}
        self._sums = {"n_users": float(sums.n_users), "grams": sums.grams, "made_with": made_with}
        self.__dict__.update(columns)
        self.__dict__.pop("_rows", None)
        return self

    def _sums_so_far(self) -> Sums:
        kept = getattr(self, "_sums", None)
        if kept is None and hasattr(self, "_rows"):
            X, weights = self._rows
            return Sums(weights.sum(), self._added([], X, weights))
        if kept is None and hasattr(self, "item_counts_"):
            raise ValueError(
                f"This {type(self).__name__} learned by fit and was copied or loaded without the"
                " rows of fit, so partial_fit has nothing to add to. Learn by partial_fit from the"
                " first user on."
            )
        if kept is None:
            return Sums(0.0, [])
        for name, value in kept["made_with"].items():
            if value != getattr(self, name):
                raise ValueError(
                    f"{name} must be {value!r}, as in the earlier calls of partial_fit, got"
                    f" {getattr(self, name)!r}: the sums depend on it."
                )
        return Sums(kept["n_users"], kept["grams"])

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the rows of the users."""
        return {name: value for name, value in super().__getstate__().items() if name != "_rows"}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "item_similarity_")

    def _check_loaded(self) -> None:
        kept = getattr(self, "_sums", None)
        if kept is not None:
            shapes = {gram.shape for gram in kept["grams"]}
            if shapes != {(self.n_features_in_,) * 2} or not kept["n_users"] > 0:
                raise ValueError(f"its sums over {kept['n_users']} users have the shapes {shapes}")
        super()._check_loaded()


def added_products(
    grams: list[csr_array], parts: list[tuple[csr_array, np.ndarray]]
) -> list[csr_array]:
    """Return ``grams`` plus X'X for these rows and weights of users, sparse and in float64."""
    totals = []
    for place, (X, weight) in enumerate(parts):
        n_u, n_items = np.diff(X.indptr), X.shape[1]
        values = csr_array((weight.repeat(n_u) * X.data, X.indices, X.indptr), shape=X.shape)
        total = csr_array(X.T, dtype=np.float64) @ values
        total.sort_indices()  # sums of sorted matrices are faster
        if grams:
            total = with_new_items(grams[place], n_items) + total
        totals.append(csr_array(total))
    return totals


def with_new_items(gram: csr_array, n_items: int) -> csr_array:
    """Return the matrix with empty rows and columns at the end; it shares the stored entries."""
    indptr = np.pad(gram.indptr, (0, n_items - gram.shape[0]), mode="edge")
    return csr_array((gram.data, gram.indices, indptr), shape=(n_items, n_items))
