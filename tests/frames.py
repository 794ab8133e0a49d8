"""Frames of all supported libraries, for tests."""

from __future__ import annotations

import narwhals as nw
import numpy as np
import pytest

LIBRARIES = ["pandas", "polars", "pyarrow"]
KINDS = [*LIBRARIES, "dict of lists", "dict of arrays", "dict of series", "tuple"]

LOG = {
    "user": ["bo", "al", "bo", "al", "bo"],
    "item": [30, 20, 30, 10, 10],
    "plays": [1.0, 5.0, 2.0, 4.0, 3.0],
}


def frame_of(columns, kind):
    """Return a frame of some kind with these columns."""
    if kind in LIBRARIES:
        pytest.importorskip(kind)
        return nw.from_dict(columns, backend=kind).to_native()
    if kind == "dict of series":
        pd = pytest.importorskip("pandas")
        return {name: pd.Series(column) for name, column in columns.items()}
    if kind == "dict of arrays":
        return {name: np.array(column) for name, column in columns.items()}
    return tuple(columns.values()) if kind == "tuple" else dict(columns)


def columns_of(frame):
    """Return the columns of a frame as lists, {name: column}."""
    if isinstance(frame, dict):
        return {name: column.tolist() for name, column in frame.items()}
    return nw.from_native(frame).to_dict(as_series=False)
