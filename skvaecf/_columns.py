"""The columns of a frame of any library as arrays, and their distinct ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import narwhals as nw
import numpy as np


def as_frame(frame: Any) -> nw.DataFrame[Any]:
    """Return a frame of narwhals, or raise a TypeError if the argument is not an eager frame."""
    try:
        return nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise TypeError(
            "frame must be an eager frame (pandas, polars, pyarrow), a dict of columns or a tuple"
            f" of columns, got {type(frame)}: {error}"
        ) from error


def library_of(frame: Any) -> Any:
    """Return the name of the library of a frame; None for dicts and tuples."""
    is_plain = isinstance(frame, (Mapping, tuple))
    return None if is_plain else as_frame(frame).implementation.value


def as_array(column: Any, name: str) -> np.ndarray:
    """Return a column as an array of shape (n_rows,), with strings as Python objects.

    Raises
    ------
    ValueError
        If the column has more than one dimension, missing values or a type that NumPy lacks.
    """
    n_missing = 0
    series = nw.from_native(column, allow_series=True, pass_through=True)
    if isinstance(series, nw.Series):
        if series.dtype.is_nested() or getattr(series.dtype, "time_zone", None):
            raise ValueError(
                f"Column {name!r} has dtype {series.dtype}, which has no NumPy equivalent: convert"
                " it first, for instance to strings."
            )
        n_missing = int(series.is_null().sum())
        values = series.to_numpy()
    elif isinstance(column, list) and tuple in set(map(type, column)):
        values = np.fromiter(column, dtype=object, count=len(column))  # a tuple is one id
    else:
        values = np.asarray(column)
    # NumPy converts numbers beside strings to strings, drops zeros at the end of strings, and
    # rounds large integers to floats.
    integers = values.dtype.kind == "f" and not isinstance(column, np.ndarray)
    if values.dtype.kind in "US" or (integers and all(isinstance(v, int) for v in column)):
        values = np.array(column, dtype=object)
    if values.ndim != 1:
        raise ValueError(f"Column {name!r} has shape {values.shape}; expected one dimension.")
    # is_null does not count the NaN of polars and pyarrow.
    n_missing = n_missing or _count_missing(values)
    if n_missing:
        raise ValueError(f"Column {name!r} has {n_missing} missing values; expected none.")
    return values


def _count_missing(values: np.ndarray) -> int:
    """Return the number of values that are None, NaN, NaT or pandas.NA."""
    try:
        missing = values != values
        if values.dtype.kind == "O":
            missing |= values == np.array(None)
    except TypeError:  # raised by pandas.NA, whose comparisons are neither true nor false
        return sum(value is None or _differs_from_itself(value) for value in values)
    return int(np.count_nonzero(missing))


def _differs_from_itself(value: Any) -> bool:
    """Return whether a value is NaN, NaT or pandas.NA."""
    try:
        return bool(value != value)
    except TypeError:
        return True


def unique_ids(ids: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct ids, sorted, and the position of each id among them.

    For Python objects and for integers from a narrow range this is faster than ``numpy.unique``,
    which sorts the ids.
    """
    if ids.dtype.kind in "iu" and len(ids) and int(ids.max()) - int(ids.min()) < len(ids):
        lowest = ids.min()
        steps = np.subtract(ids, lowest, dtype=np.int64, casting="same_kind")
        present = np.bincount(steps) > 0
        distinct = np.flatnonzero(present).astype(ids.dtype) + lowest
        return distinct, (present.cumsum() - 1)[steps]
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
        # When clocks are set back, two different instants are equal. They would be one id.
        raise ValueError(f"Column {name!r} holds times with a time zone: convert them to strings.")
    order = np.empty(len(place), dtype=np.int64)
    order[[place[value] for value in distinct]] = np.arange(len(place))
    return np.fromiter(distinct, dtype=object, count=len(distinct)), order[places]
