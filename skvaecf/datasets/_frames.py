"""Long frames of interactions to a CSR matrix, and recommendations to a long frame."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from sklearn.utils import Bunch

_BACKENDS = ("pandas", "polars", "pyarrow")


def require(module: str) -> Any:
    """Import an optional package, or say how to install it.

    Parameters
    ----------
    module : str
        Name of the module.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"This function needs the optional package {module}. "
            'Install it with: pip install "skvaecf[examples]"'
        ) from error


def matrix_from_pairs(
    users: NDArray[Any], items: NDArray[Any], values: NDArray[np.float32]
) -> tuple[csr_array, NDArray[Any], NDArray[Any]]:
    """Build the user-item matrix of parallel arrays, one element per interaction.

    Parameters
    ----------
    users, items : ndarray of shape (n_interactions,)
        Ids of any sortable type.
    values : ndarray of shape (n_interactions,), dtype float32
        Values; those of a repeated pair are added up.

    Returns
    -------
    data : csr_array of shape (n_users, n_items), dtype float32
        Rows and columns in ascending order of the ids, sorted indices, no stored zeros.
    user_ids : ndarray of shape (n_users,)
        Id of each row.
    item_ids : ndarray of shape (n_items,)
        Id of each column.
    """
    user_ids, rows = np.unique(users, return_inverse=True)
    item_ids, columns = np.unique(items, return_inverse=True)
    # SciPy keeps the type of the coordinates, and some scikit-learn estimators take int32 only.
    coordinates = (rows.astype(np.int32), columns.astype(np.int32))
    data = coo_array((values, coordinates), shape=(len(user_ids), len(item_ids))).tocsr()
    data.eliminate_zeros()
    return data, user_ids, item_ids


def _column(frame: Any, name: str, argument: str) -> NDArray[Any]:
    """Take one column of a narwhals frame without missing values as a NumPy array."""
    if name not in frame.columns:
        raise ValueError(
            f"{argument}={name!r} is not a column of the frame; its columns are {frame.columns}."
        )
    values: NDArray[Any] = frame[name].to_numpy()
    n_missing = int(frame[name].is_null().sum())
    if values.dtype.kind == "f":  # polars and pyarrow tell NaN from null
        n_missing = int(np.isnan(values).sum())
    if n_missing:
        raise ValueError(
            f"Column {name!r} ({argument}) has {n_missing} missing values; expected none."
        )
    return values


def interactions_from_frame(
    frame: Any,
    *,
    user: str = "user",
    item: str = "item",
    rating: str | None = None,
    min_rating: float | None = None,
) -> Bunch:
    """Turn a long frame of interactions into a user-item matrix.

    Parameters
    ----------
    frame : pandas.DataFrame, polars.DataFrame or pyarrow.Table
        One row per interaction. Any eager frame that narwhals knows is accepted.
    user : str, default="user"
        Name of the column of user ids.
    item : str, default="item"
        Name of the column of item ids.
    rating : str or None, default=None
        Name of a numeric column of ratings or counts. With None every pair of user and item
        that occurs gets the value 1.0, however often it occurs.
    min_rating : float or None, default=None
        Only frame rows whose rating is at least this are kept, in the units of `rating`.
        None keeps all of them. Needs `rating`.

    Returns
    -------
    interactions : :class:`~sklearn.utils.Bunch`
        With the attributes

        data : csr_array of shape (n_users, n_items), dtype float32
            The user-item matrix.
        user_ids : ndarray of shape (n_users,)
            Id of each row, ascending.
        item_ids : ndarray of shape (n_items,)
            Id of each column, ascending.

    Raises
    ------
    ValueError
        If a column is missing, holds missing values or (the ratings) is not numeric and finite,
        or if `min_rating` is given without `rating`.
    ImportError
        If narwhals is not installed.

    Notes
    -----
    With `rating`, the ratings of a repeated pair are added up, as SciPy does for repeated
    coordinates: the result then does not depend on the order of the frame's rows. `min_rating`
    is applied to each frame row before that. Users and items of which no row is kept get no row
    or column, and a total of zero is not stored.

    Examples
    --------
    >>> import pandas as pd
    >>> from skvaecf.datasets import interactions_from_frame
    >>> frame = pd.DataFrame({"user": ["b", "a", "b"], "item": [7, 7, 3]})
    >>> interactions = interactions_from_frame(frame)
    >>> interactions.data.toarray()
    array([[0., 1.],
           [1., 1.]], dtype=float32)
    >>> interactions.item_ids
    array([3, 7])
    """
    if min_rating is not None and rating is None:
        raise ValueError(
            f"min_rating={min_rating!r} needs the name of a column of ratings, got rating=None."
        )
    narwhals = require("narwhals")
    long = narwhals.from_native(frame, eager_only=True)
    users, items = _column(long, user, "user"), _column(long, item, "item")
    if rating is None:
        values = np.ones(len(users), dtype=np.float32)
    else:
        ratings = _column(long, rating, "rating")
        if ratings.dtype.kind not in "biuf" or not np.isfinite(ratings).all():
            raise ValueError(
                f"Column {rating!r} (rating) has dtype {ratings.dtype}; "
                "expected finite numbers only."
            )
        keep = np.full(len(ratings), True) if min_rating is None else ratings >= min_rating
        users, items, values = users[keep], items[keep], ratings[keep].astype(np.float32)
    data, user_ids, item_ids = matrix_from_pairs(users, items, values)
    if rating is None:
        data.data[:] = 1.0
    # Some libraries give text as arrays of objects.
    if long[user].dtype == narwhals.String:
        user_ids = user_ids.astype(np.str_)
    if long[item].dtype == narwhals.String:
        item_ids = item_ids.astype(np.str_)
    return Bunch(data=data, user_ids=user_ids, item_ids=item_ids)


def recommendations_to_frame(
    items: ArrayLike,
    *,
    item_ids: ArrayLike,
    user_ids: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    item_names: ArrayLike | None = None,
    backend: str = "pandas",
) -> Any:
    """Turn an array of recommended item indices into a long frame.

    Parameters
    ----------
    items : array-like of shape (n_users, k), dtype int64
        Column indices of the recommended items, the best first. -1 is padding and is dropped.
    item_ids : array-like of shape (n_items,)
        Id of each column of the user-item matrix.
    user_ids : array-like of shape (n_users,) or None, default=None
        Id of each row of `items`. None numbers the users from 0.
    scores : array-like of shape (n_users, k) or None, default=None
        Scores of the recommended items, in the units of the model. None leaves them out.
    item_names : array-like of shape (n_items,) or None, default=None
        Name of each column of the user-item matrix. None leaves the titles out.
    backend : {"pandas", "polars", "pyarrow"}, default="pandas"
        Library of the returned frame.

    Returns
    -------
    frame : pandas.DataFrame, polars.DataFrame or pyarrow.Table
        One row per recommendation, user by user, with the columns "user" (id), "rank" (from 1),
        "item" (id) and, where given, "title" and "score".

    Raises
    ------
    ValueError
        If a shape does not fit, an index is out of range or `backend` is unknown.
    ImportError
        If narwhals or the library of `backend` is not installed.

    Examples
    --------
    >>> from skvaecf.datasets import recommendations_to_frame
    >>> recommendations_to_frame([[2, 0], [1, -1]], item_ids=[10, 20, 30], user_ids=["a", "b"])
      user  rank  item
    0    a     1    30
    1    a     2    10
    2    b     1    20
    """
    if backend not in _BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; expected one of {_BACKENDS}.")
    indices = np.asarray(items)
    if indices.ndim != 2 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"items has shape {indices.shape} and dtype {indices.dtype}; "
            "expected integers of shape (n_users, k)."
        )
    n_users = len(indices)
    ids = np.asarray(item_ids)
    if indices.size and not -1 <= indices.min() <= indices.max() < len(ids):
        raise ValueError(
            f"items has values from {indices.min()} to {indices.max()}; expected indices into "
            f"the {len(ids)} item_ids, or -1 for padding."
        )
    users = np.arange(n_users) if user_ids is None else np.asarray(user_ids)
    if users.shape != (n_users,):
        raise ValueError(f"user_ids has shape {users.shape}; expected {(n_users,)}.")
    rows, positions = np.nonzero(indices >= 0)
    chosen = indices[rows, positions]
    columns = {"user": users[rows], "rank": positions + 1, "item": ids[chosen]}
    if item_names is not None:
        names = np.asarray(item_names)
        if names.shape != ids.shape:
            raise ValueError(f"item_names has shape {names.shape}; expected {ids.shape}.")
        columns["title"] = names[chosen]
    if scores is not None:
        values = np.asarray(scores)
        if values.shape != indices.shape:
            raise ValueError(f"scores has shape {values.shape}; expected {indices.shape}.")
        columns["score"] = values[rows, positions]
    require(backend)
    return require("narwhals").from_dict(columns, backend=backend).to_native()
