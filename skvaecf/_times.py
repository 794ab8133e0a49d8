"""Dates and numbers as times: seconds since 1970-01-01 UTC for dates, numbers as they are."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from ._columns import as_array


def seconds_of(value: Any) -> float:
    """Return a time as a number.

    Parameters
    ----------
    value : number, datetime, date, datetime64 or str
        A string is a date in ISO format. A date without a time zone is in UTC.

    Raises
    ------
    TypeError, ValueError
        If the value is not a time.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, date | np.datetime64):
        return float(_seconds(np.array([value], dtype="datetime64[us]"))[0])
    return float(value)


def seconds_of_column(column: Any, name: str) -> NDArray[np.float64]:
    """Return a column of times as numbers.

    Raises
    ------
    ValueError
        If the column has missing values or values that are not times.
    """
    series = nw.from_native(column, allow_series=True, pass_through=True)
    if isinstance(series, nw.Series) and getattr(series.dtype, "time_zone", None):
        column = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_native()
    times = as_array(column, name)
    if times.dtype.kind == "M":
        return _seconds(times)
    if times.dtype.kind == "O":
        try:
            times = np.fromiter(map(seconds_of, times.tolist()), np.float64, len(times))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Column {name!r} must hold numbers, dates or strings in ISO format: {error}"
            ) from error
    if times.dtype.kind not in "iuf" or not np.isfinite(times).all():
        raise ValueError(
            f"Column {name!r} has dtype {times.dtype}; expected dates or finite numbers only."
        )
    return times.astype(np.float64, copy=False)


def _seconds(dates: NDArray[Any]) -> NDArray[np.float64]:
    """Return the seconds since 1970 of each date, exactly to the microsecond."""
    return dates.astype("datetime64[us]").astype(np.int64) / 1e6
