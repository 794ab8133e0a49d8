"""Columns of frames as arrays, and their distinct ids."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from conftest import naming
from frames import KINDS, LIBRARIES, LOG, frame_of
from numpy.testing import assert_array_equal

from skvaecf._columns import as_array, as_frame, library_of, unique_ids

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def column_of(values, kind):
    """Return values as a column of a frame of some kind."""
    frame = frame_of({"a": values}, kind)
    return frame[0] if kind == "tuple" else frame["a"]


# --- frames


@pytest.mark.parametrize("library", LIBRARIES)
def test_frames_are_read_by_narwhals(library):
    frame = frame_of(LOG, library)
    assert as_frame(frame).columns == ["user", "item", "plays"]
    assert library_of(frame) == library


def test_plain_frames_have_no_library():
    assert library_of(LOG) is None
    assert library_of(([1], [2])) is None


@pytest.mark.parametrize("frame", [np.zeros((3, 2)), [[1, 2]], None, "log.csv"])
def test_other_objects_are_no_frames(frame):
    with pytest.raises(TypeError, match=r"frame must be an eager frame .* got <class"):
        as_frame(frame)


def test_a_lazy_frame_must_be_collected():
    pl = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"frame must be an eager frame.*LazyFrame"):
        as_frame(pl.LazyFrame(LOG))


# --- columns


def test_columns_of_all_kinds_are_the_same_array(kind):
    for values in ([3, 1, 3], [0.5, 2.0, 1e300], ["b", "", "a\0"], [True, False, True]):
        array = as_array(column_of(values, kind), "a")
        # An array of NumPy strings has lost the zero at the end.
        expected = np.array(values).tolist() if kind == "dict of arrays" else values
        assert array.tolist() == expected
        assert array.shape == (3,)
        if isinstance(values[0], str):
            assert array.dtype == object


def test_missing_values(kind):
    for values, n_missing in {
        (1.0, None): 1,
        (1.0, float("nan")): 1,
        (1, None, 3): 1,
        ("a", None, None): 2,
    }.items():
        message = f"Column 'a' has {n_missing} missing values; expected none"
        with naming(values), pytest.raises(ValueError, match=message):
            as_array(column_of(list(values), kind), "a")


def test_missing_values_of_pandas():
    pd = pytest.importorskip("pandas")
    for column, n_missing in [
        (np.array(["a", pd.NA, None, float("nan")], dtype=object), 3),
        (pd.Series(pd.Categorical(["a", None])), 1),
        (pd.Series([3, None, 1], dtype="Int64"), 1),
        (pd.Series(["a", None], dtype="string"), 1),
        (pd.Series(pd.to_datetime(["2020-01-01", None])), 1),
        (np.array(["2020-01-01", "NaT"], dtype="M8[D]"), 1),
    ]:
        with naming(column), pytest.raises(ValueError, match=f"'a' has {n_missing} missing"):
            as_array(column, "a")


def test_large_integers_in_lists_are_not_rounded():
    values = [-1, 2**63, 2**63 + 1]
    assert as_array(values, "a").tolist() == values


def test_tuples_in_lists_are_ids():
    for values in ([(1, 2), (0, 1)], [("b", 1), ("a",)]):
        assert as_array(values, "a").tolist() == values
        with pytest.raises(ValueError, match="Column 'a' has 1 missing values"):
            as_array([None, *values], "a")


def test_columns_with_other_dimensions():
    for column, shape in [
        (30, r"\(\)"),
        ("abc", r"\(\)"),
        ({10, 20}, r"\(\)"),
        ([[10], [20]], r"\(2, 1\)"),
        (np.zeros((2, 3)), r"\(2, 3\)"),
    ]:
        message = f"Column 'a' has shape {shape}; expected one dimension"
        with naming(column), pytest.raises(ValueError, match=message):
            as_array(column, "a")


def test_types_without_an_equivalent_in_numpy():
    pl = pytest.importorskip("polars")
    for column, dtype in [
        (pl.Series([[1, 2], [2]]), "List"),
        (pl.Series([{"a": 1}, {"a": 2}]), "Struct"),
    ]:
        with naming(dtype), pytest.raises(ValueError, match=f"Column 'a' has dtype {dtype}"):
            as_array(column, "a")


@pytest.mark.parametrize("library", LIBRARIES)
def test_times_with_a_time_zone(library):
    times = [datetime(2020, 1, day, tzinfo=BERLIN) for day in (1, 2)]
    message = r"Column 'a' has dtype Datetime.*Berlin.*to strings"
    with pytest.raises(ValueError, match=message):
        as_array(column_of(times, library), "a")


# --- distinct ids


@pytest.mark.parametrize(
    "ids",
    [
        np.array([3, 1, 3, 2]),
        np.array([0.5, -1.0, 0.5]),
        np.array(["2020-01-02", "2020-01-01", "2020-01-02"], dtype="M8[D]"),
        np.array(["b", "", "b\0", "b"], dtype=object),
        np.array([2**70, 1, 2**70], dtype=object),
        as_array([(1, 2), (0, 1), (1, 2)], "a"),
    ],
    ids=lambda ids: str(ids[0]),
)
def test_distinct_ids_are_sorted(ids):
    distinct, places = unique_ids(ids, "a")
    assert distinct.tolist() == sorted(set(ids.tolist()))
    assert distinct.dtype == ids.dtype
    assert places.dtype == np.int64
    assert_array_equal(distinct[places], ids)


def test_ids_without_an_order_or_a_hash():
    lists = np.empty(2, dtype=object)
    lists[:] = [[1, 2], [2]]
    sets = np.array([{10}, {20}], dtype=object)
    for ids, text in [(np.array([1, "a"], dtype=object), "'str'"), (lists, "list"), (sets, "set")]:
        message = f"Column 'a' must hold ids of one type, such as integers or strings: .*{text}"
        with naming(ids), pytest.raises(ValueError, match=message):
            unique_ids(ids, "a")


def test_ids_with_a_time_zone():
    ids = np.array([datetime(2020, 1, day, tzinfo=BERLIN) for day in (1, 2)], dtype=object)
    with pytest.raises(ValueError, match="Column 'a' holds times with a time zone"):
        unique_ids(ids, "a")
