"""What stands in a log of any library: its columns as arrays, and their distinct ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import narwhals as nw
import numpy as np


def as_frame(frame: Any) -> nw.DataFrame[Any]:
    """Take what is no dict and no tuple as a frame, or raise a TypeError."""
    try:
        return nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise TypeError(
            "frame must be an eager frame (pandas, polars, pyarrow), a dict of columns or a tuple"
            f" of columns, got {type(frame)}: {error}"
        ) from error


def library_of(frame: Any) -> Any:
    """Name the library of a frame; None for dicts and tuples."""
    if isinstance(frame, (Mapping, tuple)):
        return None
    return as_frame(frame).implementation.value


def as_array(column: Any, name: str) -> np.ndarray:
    """Take a column as an array of shape (n_rows,); strings as objects. Nothing may be missing."""
    n_missing = 0
    series = nw.from_native(column, allow_series=True, pass_through=True)
    if isinstance(series, nw.Series):
        if series.dtype.is_nested() or getattr(series.dtype, "time_zone", None):
            raise ValueError(
                f"Column {name!r} has dtype {series.dtype}, which has no NumPy equivalent: change"
                " it first, for instance to strings."
            )
        n_missing = int(series.is_null().sum())
        values = series.to_numpy()
    elif isinstance(column, list) and tuple in set(map(type, column)):
        values = np.fromiter(column, dtype=object, count=len(column))  # not a row per tuple
    else:
        values = np.asarray(column)
    # NumPy cuts strings, of which a list may hold numbers as well, and rounds large integers.
    integers = values.dtype.kind == "f" and not isinstance(column, np.ndarray)
    if values.dtype.kind in "US" or (integers and all(isinstance(v, int) for v in column)):
        values = np.array(column, dtype=object)
    if values.ndim != 1:
        raise ValueError(f"Column {name!r} has shape {values.shape}; expected one dimension.")
    if not n_missing:  # polars and pyarrow tell NaN from null
        try:
            missing = values != values
            if values.dtype.kind == "O":
                missing |= values == np.array(None)
        except TypeError:  # pandas.NA is neither equal to anything nor not
            missing = np.array([v is None or _differs_from_itself(v) for v in values])
        n_missing = int(np.count_nonzero(missing))
    if n_missing:
        raise ValueError(f"Column {name!r} has {n_missing} missing values; expected none.")
    return values


def _differs_from_itself(value: Any) -> bool:
    """Tell NaN, NaT and pandas.NA."""
    try:
        return bool(value != value)
    except TypeError:
        return True


def unique_ids(ids: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Sort the distinct ids; also give the place of each id among them.

    Like ``numpy.unique``, which takes seconds to sort a million Python strings.
    """
    if ids.dtype.kind != "O":
        return np.unique(ids, return_inverse=True)
    place: defaultdict[Any, int] = defaultdict()
    place.default_factory = place.__len__
    try:
        places = np.fromiter(map(place.__getitem__, ids.tolist()), dtype=np.int64, count=len(ids))
        distinct = sorted(place)
    except TypeError as error:
        raise ValueError(
            f"Column {name!r} must hold ids of one type, such as integers or strings: {error}"
        ) from error
    if any(getattr(value, "tzinfo", None) for value in distinct):
        # Two instants of the hour that a zone repeats are equal, and would be one id.
        raise ValueError(f"Column {name!r} holds times with a time zone: change them to strings.")
    order = np.empty(len(place), dtype=np.int64)
    order[[place[value] for value in distinct]] = np.arange(len(place))
    return np.fromiter(distinct, dtype=object, count=len(distinct)), order[places]
