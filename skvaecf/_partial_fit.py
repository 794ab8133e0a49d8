"""``partial_fit``: further users and new items for a recommender that has learned already."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from ._devices import default_modes
from .interactions import as_counts, check_rows, check_user_weights, count_users


class PartialFitMixin:
    """``partial_fit`` for recommenders that can add users to what they have learned.

    A subclass defines the hook ``_partial_fit(X, weights=None)``. It gets the rows of further users
    and their weights, as ``_fit`` gets those of all users. If there are new items, they are the
    last columns.
    """

    @abstractmethod
    def _partial_fit(self, X: csr_array, weights: np.ndarray | None = None) -> None:
        """Add users and set the fitted attributes.

        Parameters
        ----------
        X : csr_array of shape (n_users, n_items), float32
            Rows of the further users, in canonical form. ``item_counts_`` and ``n_features_in_``
            are still those before these users.
        weights : ndarray of shape (n_users,), float64, or None, default=None
            Weights of the users.
        """

    @default_modes()
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from further users and keep what was learned before.

        The first call is a ``fit``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users who were in no earlier call. X may have more columns than before:
            the last ones are new items, which no earlier user has.
        y : Ignored
            Present for scikit-learn's tools.
        sample_weight : array-like of shape (n_users,) or None, default=None
            Weights of the users, as in ``fit``.

        Returns
        -------
        self : object
            The fitted recommender.

        Raises
        ------
        ValueError
            If X holds NaN, infinity or negative values, is empty or corrupt, if it has fewer
            columns than before or columns of other names, if sample_weight is not one finite number
            of at least 0 per user, or if a parameter is invalid.
        """
        self._validate_params()  # type: ignore[attr-defined]
        rows = check_rows(X, min_rows=1)
        columns = grown_columns(self, X)
        weights = check_user_weights(sample_weight, rows)
        interactions = self._interactions(rows)  # type: ignore[attr-defined]
        counts = count_users(interactions, weights)
        before: np.ndarray | None = getattr(self, "item_counts_", None)
        if before is None:
            self._fit(interactions, weights)  # type: ignore[attr-defined]
        else:
            self._partial_fit(interactions, weights)
            counts = as_counts(counts + widened(before, len(counts)))
        self.item_counts_ = counts
        self.__dict__.update(columns)
        return self


def grown_columns(estimator: Any, X: Any) -> dict[str, Any]:
    """Return the number and names of the columns of X, which may have new columns at the end.

    Raises
    ------
    ValueError
        If X has fewer columns than the estimator knows, or if these have other names.
    """
    columns = BaseEstimator()
    validate_data(columns, X, skip_check_array=True)  # records their number and names
    n_known = getattr(estimator, "n_features_in_", None)
    if n_known is None:
        return dict(vars(columns))
    if columns.n_features_in_ <= n_known:
        validate_data(estimator, X, reset=False, skip_check_array=True)
        return {}
    names, known = (getattr(e, "feature_names_in_", None) for e in (columns, estimator))
    if known is None:
        return {"n_features_in_": columns.n_features_in_}
    if names is None or (names[:n_known] != known).any():
        raise ValueError(
            f"X has {columns.n_features_in_} columns, and the first {n_known} of them must have the"
            f" names of the items of {type(estimator).__name__}, in the same order: new items are"
            " the last columns."
        )
    return dict(vars(columns))


def widened(values: np.ndarray, n_items: int) -> np.ndarray:
    """Return the values with zeros for new items at the end of the first axis."""
    return np.pad(values, [(0, n_items - len(values))] + [(0, 0)] * (values.ndim - 1))
