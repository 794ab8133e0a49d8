"""Users x items matrices: canonical SciPy matrices, and sparse batches on a device."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight


def check_structure(X: Any, name: str = "X") -> Any:
    """Raise an error if the index arrays of a sparse matrix are corrupt.

    scikit-learn checks only the stored values. Compiled code that does not check the indices would
    read or write outside of its arrays.

    Parameters
    ----------
    X : object
        Input of a user. Only sparse matrices and arrays are checked.
    name : str, default="X"
        Name of X in the error.

    Returns
    -------
    X : object
        X in native byte order, with a type in which duplicate entries can be summed.

    Raises
    ------
    ValueError
        If the index arrays are corrupt.
    """
    if isinstance(X, np.ndarray) and X.dtype.kind == "f" and X.dtype.itemsize == 2:
        return X.astype(np.float32)  # SciPy has no float16 matrices
    if isinstance(X, np.ndarray) and not X.dtype.isnative:
        return X.astype(X.dtype.newbyteorder("="))
    if not issparse(X) or len(X.shape) != 2:
        return X
    try:
        if X.format == "lil" and [*map(len, X.rows)] != [*map(len, X.data)]:
            raise ValueError("rows and data must have the same lengths")
        # check_format replaces attributes of the matrix, so a new matrix with the same arrays is
        # checked. LIL, DOK and DIA matrices do not have these arrays.
        of_arrays = X.format in ("csr", "csc", "bsr", "coo")
        shell = _with_data(X, X.data) if of_arrays else X.tocsr()
        if X.format != "coo":  # a COO matrix is checked when it is built
            shell.check_format(full_check=True)
            # SciPy checks differences, which may overflow, and only if the last entry is positive.
            if (shell.indptr[1:] < shell.indptr[:-1]).any():
                raise ValueError("indptr must not decrease")
    except (ValueError, IndexError) as error:
        raise ValueError(f"{name} has corrupt sparse indices: {error}") from error
    if X.dtype.kind not in "biu" or shell.has_canonical_format:
        return X
    return _with_data(shell, shell.data.astype(np.float64))


def _with_data(X: Any, data: np.ndarray) -> Any:
    """Return a matrix with other values at the same positions, in the same order."""
    places = ((X.row, X.col),) if X.format == "coo" else (X.indices, X.indptr)
    return type(X)((data, *places), shape=X.shape)


def check_rows(X: Any, name: str = "X", *, min_rows: int = 0) -> Any:
    """Validate interactions; return them as CSR or, if dense, as an array. X stays unchanged."""
    X = check_structure(_check_frame(X, name), name)
    if issparse(X) and X.ndim == 1:
        raise ValueError(
            f"{name} must be 2-D, users x items. One row of a matrix is X[[0]], not X[0]."
        )
    rows = check_array(
        X,
        accept_sparse="csr",
        # No rows have no minimum.
        ensure_non_negative=getattr(X, "shape", ())[:1] != (0,),
        ensure_min_samples=min_rows,
        input_name=name,
    )
    return rows if rows is X else check_structure(rows)  # X itself is checked above


USER_COLUMN = re.compile("(user|customer|client|member|visitor)s?([ _-]?(id|no|name|number))?|uid")
ITEM_COLUMN = re.compile(
    "(item|movie|film|product|article|song|track|book|sku)s?([ _-]?(id|no|name|number))?|iid"
)


def _check_frame(X: Any, name: str) -> Any:
    """Refuse a frame that is a log; change columns of float16, which SciPy does not have."""
    columns = getattr(X, "columns", None)
    if columns is None or not hasattr(X, "dtypes"):
        return X
    named = [str(column).lower() for column in columns]
    users = any(map(USER_COLUMN.fullmatch, named))
    if len(named) <= 20 and users and any(map(ITEM_COLUMN.fullmatch, named)):
        raise ValueError(
            f"{name} has the columns {[*columns]} of a log of interactions. It must be a users x"
            " items matrix: InteractionEncoder().fit_transform(log) returns it."
        )
    narrow = [c for c, t in zip(columns, X.dtypes, strict=True) if "float16" in str(t).lower()]
    return X.astype(dict.fromkeys(narrow, "float32")) if narrow else X


def stored_interactions(X: Any, name: str = "X") -> csr_array:
    """Return a CSR copy without stored zeros; values and the order of entries are kept."""
    X = csr_array(check_rows(X, name), copy=True)
    X.eliminate_zeros()
    return X


def select_entries(X: csr_array, keep: NDArray[np.bool_]) -> csr_array:
    """Return a matrix of the same shape that holds only the selected stored entries."""
    kept_before = np.append(0, keep.cumsum())
    # SciPy would convert all indices to the widest type among them.
    indptr = kept_before[X.indptr].astype(X.indptr.dtype)
    return csr_array((X.data[keep], X.indices[keep], indptr), shape=X.shape)


def entries_at(places: csr_array, X: csr_array) -> csr_array:
    """Return the stored entries of X at the places of the stored entries of another matrix.

    Both are canonical and of one shape. Where X has no entry, the result has none.
    """
    if np.array_equal(places.indptr, X.indptr) and np.array_equal(places.indices, X.indices):
        return X
    wanted, stored = (np.ravel_multi_index(Y.tocoo().coords, Y.shape) for Y in (places, X))
    return select_entries(X, np.isin(stored, wanted, assume_unique=True))


def binary_csr(X: Any) -> csr_array:
    """Return a copy in canonical CSR: sorted, without duplicates, every stored value 1.

    A positive entry is an interaction, whatever its size. Stored zeros are removed.
    """
    given = X.tocsr() if issparse(X) else csr_array(X)
    present = (given.data > 0).astype(np.float32)
    binary = csr_array((present, given.indices.copy(), given.indptr.copy()), shape=given.shape)
    binary.sum_duplicates()
    binary.eliminate_zeros()
    binary.data[:] = 1
    return binary


def value_csr(X: Any) -> csr_array:
    """Return a copy in canonical CSR: sorted, duplicates summed, every stored value positive.

    Raises
    ------
    ValueError
        If a value is above 2**24. Up to this number float32 represents all integers exactly.
    """
    weighted = csr_array(X, dtype=np.float64, copy=True)
    weighted.sum_duplicates()
    if weighted.data.max(initial=0) > 2**24:
        raise ValueError(
            f"X holds the value {weighted.data.max():.3g}; with use_values=True, values must be up"
            " to 2**24."
        )
    weighted.eliminate_zeros()
    # A value that float32 would round to 0 stays an interaction, as in binary_csr.
    weighted.data = np.maximum(weighted.data, np.finfo(np.float32).tiny)
    return csr_array(weighted, dtype=np.float32)


def with_ones(X: csr_array) -> csr_array:
    """Return canonical rows with every value 1; they share the indices."""
    return csr_array((np.ones_like(X.data), X.indices, X.indptr), shape=X.shape)


def take_rows(X: Any, rows: slice) -> Any:
    """Return consecutive rows of a matrix; if these are all its rows, the matrix itself."""
    return X if rows == slice(0, X.shape[0]) else X[rows]


def seen_items(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the item number of each positive entry of a CSR or dense matrix.

    Duplicates of an entry are returned, too.
    """
    if not issparse(X):
        rows, items = (X > 0).nonzero()
        return rows, items
    positive = X.data > 0
    return rows_of_entries(X)[positive], X.indices[positive]


def rows_of_entries(X: csr_array) -> np.ndarray:
    """Return the row number of each stored entry, shape (n_entries,)."""
    rows: np.ndarray = np.arange(X.shape[0]).repeat(np.diff(X.indptr))
    return rows


def count_users(X: csr_array, weights: np.ndarray | None = None) -> np.ndarray:
    """Count the users of each item of canonical rows, shape (n_items,): see ``as_counts``."""
    if weights is None:
        return np.bincount(X.indices, minlength=X.shape[1])
    return as_counts(np.bincount(X.indices, weights[rows_of_entries(X)], X.shape[1]))


def as_counts(totals: np.ndarray) -> np.ndarray:
    """Return sums of the weights of users: int64 if all are integers, else float64."""
    rounded = np.rint(totals)
    if (totals == rounded).all():
        totals = rounded.astype(np.int64)
    return totals


def check_user_weights(sample_weight: Any, X: Any) -> np.ndarray | None:
    """Return the weights of the rows, float64 of shape (n_users,); None stays None.

    Raises
    ------
    ValueError
        If it is not one finite number of at least 0 per user, or if all are 0.
    """
    if sample_weight is None:
        return None
    weights: np.ndarray = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    if not weights.any():
        raise ValueError("sample_weight must be positive for a user, but all weights are zero.")
    return weights
