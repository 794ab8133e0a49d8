"""Long frames as matrices, and matrices as frames with ids."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import sys

import narwhals as nw
import numpy as np
import pytest
import sklearn
from conftest import naming, run_python
from frames import KINDS, LIBRARIES, LOG, columns_of, frame_of
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csc_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from skvaecf import WMF, InteractionEncoder, ItemKNN, Popularity
from skvaecf._columns import unique_ids
from skvaecf.datasets import make_interactions


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=LIBRARIES)
def library(request):
    pytest.importorskip(request.param)
    return request.param


# --- fit and transform


def test_values_of_a_pair_are_added(kind):
    encoder = InteractionEncoder(value="plays")
    X = encoder.fit_transform(frame_of(LOG, kind))
    assert_array_equal(X.toarray(), [[4, 5, 0], [3, 0, 3]])
    assert X.dtype == np.float32
    assert X.indices.dtype == np.int32
    assert X.indptr.dtype == np.int32
    assert X.has_canonical_format
    assert encoder.user_ids_.tolist() == ["al", "bo"]
    assert encoder.item_ids_.tolist() == [10, 20, 30]
    assert encoder.get_feature_names_out().tolist() == [10, 20, 30]
    assert encoder.get_feature_names_out().dtype == object


def test_without_value_events_are_counted(kind):
    log = {name: LOG[name] for name in ("user", "item")}
    X = InteractionEncoder().fit_transform(frame_of(log, kind))
    assert_array_equal(X.toarray(), [[1, 1, 0], [1, 0, 2]])


def test_wmf_can_use_the_counts():
    X = InteractionEncoder().fit_transform(LOG)
    scores = [
        WMF(3, use_values=c, device="cpu", random_state=0).fit(X).predict(X) for c in (False, True)
    ]
    assert not np.allclose(*scores)


def test_transform_after_fit_is_fit_transform(kind):
    encoder = InteractionEncoder(value="plays")
    X = encoder.fit_transform(frame_of(LOG, kind))
    again = InteractionEncoder(value="plays").fit(frame_of(LOG, kind))
    assert_array_equal(again.transform(frame_of(LOG, kind)).toarray(), X.toarray())
    assert_array_equal(again.item_ids_, encoder.item_ids_)
    assert_array_equal(again.user_ids_, encoder.user_ids_)


def test_rows_are_the_users_of_the_transformed_frame(kind):
    encoder = InteractionEncoder().fit(LOG)
    later = {"user": ["zoe", "al", "zoe", "cy"], "item": [10, 30, 20, 30]}
    frame = frame_of(later, kind)
    assert_array_equal(encoder.transform(frame).toarray(), [[0, 0, 1], [0, 0, 1], [1, 1, 0]])
    assert encoder.users(frame).tolist() == ["al", "cy", "zoe"]
    assert encoder.user_ids_.tolist() == ["al", "bo"]  # transform learns nothing


def test_unknown_items_are_ignored_with_one_warning(kind):
    encoder = InteractionEncoder().fit(LOG)
    later = {"user": ["al", "al", "cy", "cy", "di"], "item": [99, 20, 98, 99, 30]}
    with pytest.warns(UserWarning, match="3 of 5 .* 2 items unknown from fit, such as 98") as seen:
        X = encoder.transform(frame_of(later, kind))
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert_array_equal(X.toarray(), [[0, 1, 0], [0, 0, 0], [0, 0, 1]])


def test_a_frame_of_unknown_items_only():
    encoder = InteractionEncoder().fit(LOG)
    with pytest.warns(UserWarning, match="1 of 1 interactions .* such as '30'"):
        X = encoder.transform({"user": ["al"], "item": ["30"]})  # a string is not a number
    assert X.shape == (1, 3)
    assert X.nnz == 0


def test_a_frame_without_rows(library):
    encoder = InteractionEncoder().fit(LOG)
    frame = nw.from_native(frame_of(LOG, library))
    frame = frame.filter(nw.col("user") == "nobody").to_native()
    assert encoder.transform(frame).shape == (0, 3)
    with pytest.raises(ValueError, match="The frame has no rows"):
        InteractionEncoder().fit(frame)


def test_a_total_of_zero_is_not_stored(kind):
    log = {"user": [1, 1], "item": [1, 2], "plays": [0, 3]}
    X = InteractionEncoder(value="plays").fit_transform(frame_of(log, kind))
    assert X.shape == (1, 2)
    assert X.nnz == 1


def test_other_names_of_columns(kind):
    frame = frame_of({"who": [2, 1], "what": ["x", "y"]}, kind)
    encoder = InteractionEncoder("who", "what")
    assert_array_equal(encoder.fit_transform(frame).toarray(), [[0, 1], [1, 0]])
    back = encoder.inverse_transform(encoder.transform(frame))
    assert list(columns_of(back)) == ["who", "what", "value"]


def test_frames_of_all_kinds_agree():
    matrix = make_interactions(30, 24, noise=0.2, random_state=0)
    rows, items = matrix.nonzero()
    long = {"user": rows, "item": items + 100, "value": np.arange(len(rows)) % 5 + 1}
    encoder = InteractionEncoder(value="value").fit(long)
    for kind in KINDS:
        frame = frame_of(long, kind)
        X = InteractionEncoder(value="value").fit_transform(frame)
        assert_array_equal(X.toarray() > 0, matrix.toarray() > 0)
        assert_array_equal(encoder.transform(frame).toarray(), X.toarray())


# --- times

TIMES = {
    "user": ["bo", "al", "bo", "al", "bo"],
    "item": [30, 20, 30, 10, 10],
    "plays": [1.0, 5.0, 2.0, 4.0, 3.0],
    "time": [8, 0, 5, -2, 9],
}
START = dt.datetime(2016, 2, 29, 23, 59, 59, 250_000)


def test_the_time_of_a_pair_is_its_earliest(kind):
    frame = frame_of(TIMES, kind)
    encoder = InteractionEncoder(value="plays", time="time")
    X = encoder.fit_transform(frame)
    times = encoder.transform_times(frame)
    assert_array_equal(X.toarray(), [[4, 5, 0], [3, 0, 3]])
    assert_array_equal(times.toarray(), [[-2, 0, 0], [9, 0, 5]])
    assert_array_equal(times.indices, X.indices)  # the time 0 of a pair is stored
    assert_array_equal(times.indptr, X.indptr)
    assert times.dtype == np.float64
    assert times.indices.dtype == times.indptr.dtype == np.int32
    assert times.has_canonical_format


def test_dates_are_seconds_since_1970(kind):
    dates = [START + dt.timedelta(hours=n) for n in (3, 0, 1, 2, 4)]
    frame = frame_of(TIMES | {"time": dates}, kind)
    encoder = InteractionEncoder(value="plays", time="time").fit(frame)
    seconds = START.replace(tzinfo=dt.UTC).timestamp()
    hours = (encoder.transform_times(frame).data - seconds) / 3600
    assert_array_equal(hours, [2, 0, 4, 1])


@pytest.mark.parametrize(
    "column",
    [
        ["1970-01-02", "1970-01-01T12:00+06:00"],
        [dt.date(1970, 1, 2), dt.datetime(1970, 1, 1, 6)],
        [dt.datetime(1970, 1, 2, tzinfo=dt.UTC), "1970-01-01 06"],
        np.array(["1970-01-02", "1970-01-01T06"], dtype="M8[h]"),
        np.array([86400, 21600], dtype=np.uint32),
        np.array([86400, 21600], dtype=np.float32),
    ],
)
def test_types_of_times(column):
    log = {"user": [1, 2], "item": [5, 5], "time": column}
    times = InteractionEncoder(time="time").fit(log).transform_times(log)
    assert_array_equal(times.data, [86400, 21600])


def test_times_with_a_time_zone(library):
    dates = [dt.datetime(1970, 1, 2, hour, tzinfo=dt.UTC) for hour in (0, 5)]
    frame = nw.from_native(frame_of({"user": [1, 2], "item": [5, 5], "time": dates}, library))
    there = nw.col("time").dt.convert_time_zone("Asia/Tokyo")
    log = frame.with_columns(there).to_native()
    times = InteractionEncoder(time="time").fit(log).transform_times(log)
    assert_array_equal(times.data, [86400, 86400 + 5 * 3600])


def test_microseconds_are_exact():
    times = np.array(["2100-01-01T00:00:00.000001", "2100-01-01T00:00:00.000002"], dtype="M8[us]")
    log = {"user": [1, 2], "item": [5, 5], "time": times}
    first, second = InteractionEncoder(time="time").fit(log).transform_times(log).data
    assert first < second
    assert_array_equal((np.array([first, second]) * 1e6).round().astype("M8[us]"), times)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-1, 1), st.integers(-3, 3)),
        min_size=1,
    )
)
def test_times_have_the_entries_of_the_matrix(events):
    users, items, values, times = map(list, zip(*events, strict=True))
    log = {"user": users, "item": items, "value": values, "time": times}
    encoder = InteractionEncoder(value="value", time="time")
    X, found = encoder.fit_transform(log), encoder.transform_times(log)
    assert_array_equal(found.indices, X.indices)  # pairs whose values add up to 0 are not stored
    assert_array_equal(found.indptr, X.indptr)
    rows, columns = X.tocoo().coords
    pairs = zip(encoder.user_ids_[rows], encoder.item_ids_[columns], strict=True)
    earliest = [min(t for u, i, _, t in events if (u, i) == pair) for pair in pairs]
    assert_array_equal(found.data, earliest)


def test_times_of_later_users_and_unknown_items():
    encoder = InteractionEncoder(time="time").fit(LOG)  # fit needs no times
    later = {"user": ["zoe", "cy", "cy"], "item": [10, 30, 99], "time": [4, 5, 6]}
    assert_array_equal(encoder.transform_times(later).toarray(), [[0, 0, 5], [4, 0, 0]])
    nothing = {"user": ["zoe"], "item": [99], "time": [4]}
    assert encoder.transform_times(nothing).shape == (1, 3)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1, 2], "different lengths"),
        ([1, 2, None], "Column 'time' has 1 missing values"),
        ([1, 2, np.nan], "Column 'time' has 1 missing values"),
        ([1, 2, np.inf], "Column 'time' .* finite"),
        ([True, False, True], "Column 'time' has dtype bool"),
        (np.array(["2020", "NaT", "2021"], dtype="M8[D]"), "missing"),
        (
            ["2020-01-01", "yesterday", "2020-01-02"],
            "'time' must hold numbers, dates or .* 'yesterday'",
        ),
        ([dt.date(2020, 1, 1), (1, 2), 3], "Column 'time'"),
    ],
)
def test_invalid_times(times, message):
    log = {"user": [1, 2, 3], "item": [5, 6, 7], "time": times}
    encoder = InteractionEncoder(time="time").fit(log)
    with pytest.raises(ValueError, match=message):
        encoder.transform_times(log)


def test_times_need_a_column():
    encoder = InteractionEncoder().fit(LOG)
    with pytest.raises(ValueError, match="time must name the column"):
        encoder.transform_times(LOG)
    with pytest.raises(ValueError, match="time='when' is not a column"):
        InteractionEncoder(time="when").fit(LOG).transform_times(LOG)
    with pytest.raises(NotFittedError):
        InteractionEncoder(time="plays").transform_times(LOG)


def test_integer_ids_of_all_widths():
    # A narrow range of integers is numbered by a table.
    rng = np.random.default_rng(0)
    for dtype in (np.int8, np.uint8, np.int64, np.uint64):
        limits = np.iinfo(dtype)
        for lowest in (int(limits.min), int(limits.max) - 200, 0 if limits.min == 0 else -100):
            ids = rng.integers(0, 200, 1000).astype(np.uint64) + np.uint64(lowest % 2**64)
            ids = ids.astype(dtype)
            distinct, places = unique_ids(ids, "user")
            expected, expected_places = np.unique(ids, return_inverse=True)
            assert_array_equal(distinct, expected)
            assert_array_equal(places, expected_places)
            assert distinct.dtype == dtype


# --- ids


def test_types_of_numbers_do_not_matter(library):
    encoder = InteractionEncoder().fit({"user": [1, 2], "item": [7, 9]})
    for dtype in ("int8", "uint16", "int64", "uint64", "float64"):
        log = {"user": np.array([5, 6], dtype=dtype), "item": np.array([9, 7], dtype=dtype)}
        with naming(dtype):
            X = encoder.transform(frame_of(log, library))
            assert_array_equal(X.toarray(), [[0, 1], [1, 0]])


def test_python_integers_in_an_array_of_objects():
    log = {"user": np.array([2**70, 1], dtype=object), "item": np.array([4, 3], dtype=object)}
    encoder = InteractionEncoder()
    assert_array_equal(encoder.fit_transform(log).toarray(), [[1, 0], [0, 1]])
    assert encoder.user_ids_.tolist() == [1, 2**70]


@pytest.mark.parametrize("values", [["b", "a", "b"], [3, 1, 3]])
def test_unused_categories_of_pandas_get_no_column(values):
    pd = pytest.importorskip("pandas")
    unused = ["zz", *"cba"] if values[0] == "b" else [9, 3, 2, 1]
    column = pd.Categorical(values, categories=unused)
    encoder = InteractionEncoder()
    X = encoder.fit_transform(pd.DataFrame({"user": column, "item": column}))
    assert_array_equal(X.toarray(), [[1, 0], [0, 2]])
    assert encoder.item_ids_.tolist() == sorted(set(values))
    assert encoder.user_ids_.tolist() == sorted(set(values))


def test_categories_of_polars_and_pyarrow():
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    enum = pl.Series(["b", "a", "b"], dtype=pl.Enum(["c", "b", "a"]))
    categorical = pl.Series(["b", "a", "b"], dtype=pl.Categorical)
    encoded = pa.array(["b", "a", "b"]).dictionary_encode()
    for frame in (
        pl.DataFrame({"user": enum, "item": categorical}),
        pa.table({"user": encoded, "item": encoded}),
    ):
        encoder = InteractionEncoder()
        assert_array_equal(encoder.fit_transform(frame).toarray(), [[1, 0], [0, 2]])
        assert encoder.item_ids_.tolist() == ["a", "b"]


def test_extension_types_of_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "user": pd.array(["b", "a", "b"], dtype="string"),
            "item": pd.array([3, 3, 1], dtype="Int64"),
            "stars": pd.array([4, 5, 3], dtype="Int8"),
        }
    )
    encoder = InteractionEncoder(value="stars")
    assert_array_equal(encoder.fit_transform(frame).toarray(), [[0, 5], [3, 4]])
    assert encoder.item_ids_.tolist() == [1, 3]


def test_index_of_a_pandas_frame_does_not_matter():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(LOG, index=[3, 3, 1, 0, 2])
    X = InteractionEncoder(value="plays").fit_transform(frame)
    assert_array_equal(X.toarray(), [[4, 5, 0], [3, 0, 3]])


# --- invalid input


def test_every_method_refuses_missing_values_in_every_column():
    log = {"user": [1.0, 2.0], "item": [1.0, 2.0], "plays": [1.0, 2.0]}
    encoder = InteractionEncoder(value="plays").fit(log)
    for column in log:
        for call in (encoder.fit, encoder.fit_transform, encoder.transform):
            message = f"Column '{column}' has 1 missing values"
            with naming((column, call.__name__)), pytest.raises(ValueError, match=message):
                call(log | {column: [1.0, None]})


def test_every_method_refuses_ids_of_two_types():
    encoder = InteractionEncoder().fit(LOG)
    for column in ("user", "item"):
        log = {"user": [1, 2], "item": [1, 2]} | {column: [1, "a"]}
        for call in (encoder.fit, encoder.fit_transform, encoder.transform):
            message = f"Column '{column}' must hold ids of one type"
            with naming((column, call.__name__)), pytest.raises(ValueError, match=message):
                call(log)


def test_not_a_frame():
    for frame in (np.zeros((3, 2)), None):
        with pytest.raises(TypeError, match="frame must be an eager frame"):
            InteractionEncoder().fit(frame)


@pytest.mark.parametrize("argument", ["user", "item", "value"])
def test_a_missing_column(argument):
    for kind in (*LIBRARIES, "dict of lists"):
        message = f"{argument}='absent' is not a column .*'plays'"
        with naming(kind), pytest.raises(ValueError, match=message):
            InteractionEncoder(**{argument: "absent"}).fit(frame_of(LOG, kind))


def test_values_must_be_finite_numbers(kind):
    for values in (["3", "4"], [1.0, float("inf")]):
        frame = frame_of({"user": [1, 2], "item": [1, 2], "stars": values}, kind)
        message = r"Column 'stars' has dtype .* finite numbers"
        with naming(values), pytest.raises(ValueError, match=message):
            InteractionEncoder(value="stars").fit(frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (([1, 2],), r"columns \('user', 'item'\), got a tuple of 1"),
        (([1], [2], [3]), "got a tuple of 3"),
        (([1, 2], [1, 2, 3]), "different lengths: {'user': 2, 'item': 3}"),
        (([[1, 2]], [1]), r"Column 'user' has shape \(1, 2\)"),
    ],
)
def test_columns_of_wrong_number_or_shape(frame, message):
    with pytest.raises(ValueError, match=message):
        InteractionEncoder().fit(frame)


def test_a_failed_fit_changes_nothing():
    encoder = InteractionEncoder().fit(LOG)
    before = dict(vars(encoder))
    with pytest.raises(ValueError, match="missing values"):
        encoder.fit({"user": ["a"], "item": [None]})
    assert vars(encoder) == before


def test_parameters_are_validated():
    with pytest.raises(ValueError, match="'value' parameter"):
        InteractionEncoder(value=3).fit(LOG)


@pytest.mark.parametrize("call", ["transform", "item_numbers", "inverse_transform", "to_frame"])
def test_unfitted(call):
    with pytest.raises(NotFittedError):
        getattr(InteractionEncoder(), call)(LOG)
    with pytest.raises(NotFittedError):
        InteractionEncoder().get_feature_names_out()


# --- from ids to item numbers


def test_item_numbers(kind):
    encoder = InteractionEncoder().fit(frame_of(LOG, kind) if kind != "tuple" else LOG)
    wanted = {"item": [30, 99, 10, 30, 20]}
    ids = frame_of(wanted, kind)
    numbers = encoder.item_numbers(ids[0] if kind == "tuple" else ids["item"])
    assert numbers.tolist() == [2, -1, 0, 2, 1]
    assert numbers.dtype == np.int64
    assert encoder.item_numbers([]).tolist() == []
    assert encoder.item_numbers(["10"]).tolist() == [-1]  # a string is not a number
    assert encoder.item_numbers(encoder.item_ids_).tolist() == [0, 1, 2]


def test_a_time_between_two_dates_is_another_id():
    days = np.array(["2020-01-01", "2020-01-02"], "M8[D]")
    encoder = InteractionEncoder().fit({"user": [1, 2], "item": days})
    assert encoder.item_numbers(days.astype("M8[h]")).tolist() == [0, 1]
    assert encoder.item_numbers(days + np.timedelta64(12, "h")).tolist() == [-1, -1]


def test_recommenders_take_item_numbers():
    encoder = InteractionEncoder()
    X = encoder.fit_transform(LOG | {"item": ["c", "b", "c", "a", "a"]})
    model = ItemKNN().fit(X)
    assert model.similar_items(encoder.item_numbers(["b"]), k=1).tolist() == [[0]]
    among = encoder.item_numbers(["c", "b"])
    assert model.recommend(X, k=1, candidates=among).tolist() == [[2], [1]]
    # Ids that were not in fit are ignored with one warning.
    with pytest.warns(UserWarning, match="1 of 3 candidates are -1") as warned:
        found = model.recommend(X, k=1, candidates=encoder.item_numbers(["c", "unknown", "b"]))
    assert found.tolist() == [[2], [1]]
    assert len(warned) == 1
    with pytest.warns(UserWarning, match="1 of 2 exclude are -1") as warned:
        found = model.recommend(X, k=2, exclude=encoder.item_numbers(["unknown", "b"]))
    assert found.tolist() == [[2, -1], [-1, -1]]
    assert len(warned) == 1
    with pytest.warns(UserWarning, match="1 of 2 items are -1"):
        found = model.similar_items(encoder.item_numbers(["unknown", "b"]), k=1)
    assert found.tolist() == [[-1], [0]]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (30, r"Column 'ids' has shape \(\)"),
        ([10, None], "Column 'ids' has 1 missing values"),
        ([10, "a"], "Column 'ids' must hold ids of one type"),
    ],
)
def test_item_numbers_refuses_other_values(ids, message):
    with pytest.raises(ValueError, match=message):
        InteractionEncoder().fit(LOG).item_numbers(ids)


def test_lists_of_tuples():
    ids = [("b", 1), ("a",), ("b", 1)]
    encoder = InteractionEncoder()
    X = encoder.fit_transform({"user": ids, "item": [1, 2, 2]})
    assert_array_equal(X.toarray(), [[0, 1], [1, 1]])
    assert encoder.user_ids_.tolist() == [("a",), ("b", 1)]
    back = encoder.to_frame([[0]], users=ids[:1])
    assert back["user"].tolist() == ids[:1]


# --- back to ids


def test_inverse_transform_returns_a_frame_of_the_kind_of_fit(kind):
    encoder = InteractionEncoder(value="plays")
    X = encoder.fit_transform(frame_of(LOG, kind))
    for matrix in (X, X.toarray(), csc_matrix(X)):
        frame = encoder.inverse_transform(matrix)
        library = type(frame).__module__.split(".")[0]
        assert library == (kind if kind in LIBRARIES else "builtins")
        assert columns_of(frame) == {
            "user": ["al", "al", "bo", "bo"],
            "item": [10, 20, 10, 30],
            "plays": [4, 5, 3, 3],
        }


def test_inverse_transform_of_other_users(kind):
    encoder = InteractionEncoder().fit(frame_of(LOG, kind) if kind != "tuple" else LOG)
    later = {"user": ["zoe", "cy", "al"], "item": [10, 30, 10]}
    X = encoder.transform(later)
    frame = encoder.inverse_transform(X, encoder.users(later))
    assert columns_of(frame) == {
        "user": ["al", "cy", "zoe"],
        "item": [10, 30, 10],
        "value": [1, 1, 1],
    }
    with pytest.raises(ValueError, match="3 rows, and fit saw 2 users: pass users="):
        encoder.inverse_transform(X)
    with pytest.raises(ValueError, match="users has 1 ids; expected one for each of 3 rows"):
        encoder.inverse_transform(X, ["al"])
    with pytest.raises(ValueError, match="X has 2 columns; expected the 3 items"):
        encoder.inverse_transform(X[:2, :2])


IDS = st.one_of(
    *(
        st.tuples(st.lists(user, min_size=n, max_size=n), st.lists(item, min_size=n, max_size=n))
        for user in (st.text(max_size=4), st.integers(-(2**63), 2**63 - 1))
        for item in (st.text(max_size=4), st.integers(-5, 5))
        for n in (1, 2, 13)
    )
)


# Strings of NumPy drop the zeros at the end.
NULS = (["a", "a\0", "a\0\0"], ["", "\0", "x"])


@given(IDS, st.sampled_from(["pandas", "polars", "pyarrow", "dict of lists"]))
@example(NULS, "pandas")
@example(NULS, "polars")
@example(NULS, "pyarrow")
@example(NULS, "dict of lists")
def test_round_trip(columns, kind):
    users, items = columns
    frame = frame_of({"user": users, "item": items}, kind)
    encoder = InteractionEncoder()
    X = encoder.fit_transform(frame)
    back = columns_of(encoder.inverse_transform(X))
    counted = {}
    for pair in zip(users, items, strict=True):
        counted[pair] = counted.get(pair, 0) + 1
    pairs = list(zip(back["user"], back["item"], strict=True))
    assert dict(zip(pairs, back["value"], strict=True)) == counted
    assert pairs == sorted(counted)
    again = InteractionEncoder(value="value").fit_transform(encoder.inverse_transform(X))
    assert_array_equal(again.toarray(), X.toarray())


# --- recommendations


@pytest.fixture
def recommended():
    return {
        "items": np.array([[2, 0], [-1, -1], [1, -1]]),
        "scores": np.array([[0.75, 0.5], [-np.inf, -np.inf], [0.25, -np.inf]], dtype=np.float32),
        "users": ["al", "bo", "cy"],
        "titles": {10: "Ten", 20: "Twenty", 30: "Thirty", 40: "Forty"},
    }


def test_padding_is_not_in_the_frame(kind, recommended):
    encoder = InteractionEncoder(value="plays").fit(frame_of(LOG, kind))
    frame = encoder.to_frame(**recommended)
    assert list(columns_of(frame)) == ["user", "rank", "item", "title", "score"]
    assert columns_of(frame) == {
        "user": ["al", "al", "cy"],
        "rank": [1, 2, 1],
        "item": [30, 10, 20],
        "title": ["Thirty", "Ten", "Twenty"],
        "score": [0.75, 0.5, 0.25],
    }


def test_recommendations_for_the_users_of_fit(kind):
    encoder = InteractionEncoder(value="plays").fit(frame_of(LOG, kind))
    frame = encoder.to_frame([[1], [0]])
    assert columns_of(frame) == {"user": ["al", "bo"], "rank": [1, 1], "item": [20, 10]}


def test_no_recommendations(kind):
    encoder = InteractionEncoder(value="plays").fit(frame_of(LOG, kind))
    frame = encoder.to_frame(np.full((2, 3), -1), titles={})
    assert columns_of(frame) == {"user": [], "rank": [], "item": [], "title": []}


def test_requests_without_items_users_or_rows(kind):
    encoder = InteractionEncoder(value="plays").fit(frame_of(LOG, kind))
    log = encoder.transform(LOG)
    model = ItemKNN().fit(log)
    # A new user with unknown items only, and nobody.
    new = {"user": ["eve"], "item": [99], "plays": [1]}
    with pytest.warns(UserWarning, match="1 of 1 interactions are ignored"):
        row = encoder.transform(new)
    items, scores = model.recommend(row, k=5, return_scores=True)
    frame = columns_of(encoder.to_frame(items, scores, users=["eve"]))
    popular = np.argsort(-model.item_counts_, kind="stable")
    assert frame["user"] == ["eve"] * 3
    assert frame["rank"] == [1, 2, 3]
    assert frame["item"] == encoder.item_ids_[popular].tolist()
    assert frame["score"] == model.item_counts_[popular].tolist()
    items, scores = model.recommend(log[:0], k=5, return_scores=True)
    assert items.shape == scores.shape == (0, 5)
    frame = columns_of(encoder.to_frame(items, scores, users=[]))
    assert frame == {"user": [], "rank": [], "item": [], "score": []}


def test_titles_of_a_pandas_series():
    pd = pytest.importorskip("pandas")
    encoder = InteractionEncoder().fit(LOG)
    titles = pd.Series(["Ten", "Twenty", "Thirty"], index=[10, 20, 30])
    frame = encoder.to_frame([[0], [2]], titles=titles)
    assert frame["title"].tolist() == ["Ten", "Thirty"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": [0, 1]}, r"items has shape \(2,\)"),
        ({"items": [[0.0, 1.0]]}, "dtype float64"),
        ({"items": [[0, 3], [1, 1]]}, "got values from 0 to 3"),
        ({"items": [[0, -2], [1, 1]]}, "got values from -2 to 1"),
        ({"users": ["a"]}, "users has 1 ids; expected one for each of 2 rows"),
        ({"users": ["a", None]}, "Column 'users' has 1 missing values"),
        ({"items": [[1]], "users": None}, "1 rows, and fit saw 2 users"),
        ({"scores": [[1.0]]}, r"scores has shape \(1, 1\); expected \(2, 2\)"),
        ({"scores": [[1.0, np.nan], [0.5, -np.inf]]}, "scores must be finite for all items"),
        ({"scores": [[1.0, -np.inf], [0.5, -np.inf]]}, "scores must be finite for all items"),
        ({"titles": {10: "Ten"}}, "titles has no title of the item 20"),
    ],
)
def test_invalid_recommendations(changes, message):
    encoder = InteractionEncoder().fit(LOG)
    arguments = {"items": [[0, 1], [2, -1]], "users": ["a", "b"]}
    with pytest.raises(ValueError, match=message):
        encoder.to_frame(**arguments | changes)


@pytest.mark.parametrize("encoder", [InteractionEncoder("rank"), InteractionEncoder("x", "x")])
def test_two_columns_of_one_name(encoder):
    encoder.fit({"rank": [1], "item": [1], "x": [1]})
    with pytest.raises(ValueError, match="two columns of one name"):
        encoder.to_frame([[0]])


# --- from a log to titles, and scikit-learn's tools


def test_from_a_log_to_titles(library):
    blocks = make_interactions(60, 24, n_blocks=2, random_state=0)
    rows, columns = blocks.nonzero()
    log = {"user": [f"u{u:02}" for u in rows], "item": [f"i{i:02}" for i in columns]}
    encoder = InteractionEncoder()
    X = encoder.fit_transform(frame_of(log, library))
    model = ItemKNN().fit(X)
    later = {"user": ["new"] * 3, "item": ["i00", "i03", "unknown"]}
    with pytest.warns(UserWarning, match="1 of 3 interactions"):
        row = encoder.transform(later)
    items, scores = model.recommend(row, k=4, return_scores=True)
    titles = {f"i{i:02}": f"Title {i}" for i in range(24)}
    lists = columns_of(encoder.to_frame(items, scores, users=encoder.users(later), titles=titles))
    assert lists["user"] == ["new"] * 4
    assert lists["title"] == [f"Title {i}" for i in items[0]]
    assert lists["item"] == [f"i{i:02}" for i in items[0]]
    assert not {"i00", "i03"} & set(lists["item"])


def test_first_step_of_a_pipeline():
    pipeline = make_pipeline(InteractionEncoder(), Popularity()).fit(LOG)
    later = {"user": ["zoe", "al"], "item": [10, 30]}
    assert_array_equal(pipeline.predict(later), [[2, 1, 1]] * 2)
    assert pipeline[:1].get_feature_names_out().tolist() == [10, 20, 30]


def test_the_encoder_has_no_set_output():
    encoder = InteractionEncoder()
    assert not hasattr(encoder, "set_output")
    with sklearn.config_context(transform_output="pandas"):
        assert encoder.fit_transform(LOG).format == "csr"
        assert encoder.transform(LOG).format == "csr"
    with pytest.raises(ValueError, match="set_output"):
        make_pipeline(encoder, Popularity()).set_output(transform="pandas")


def test_estimator_of_scikit_learn(kind):
    encoder = InteractionEncoder("user", value="plays")
    assert repr(encoder) == "InteractionEncoder(value='plays')"
    assert clone(encoder.fit(frame_of(LOG, kind))).get_params() == encoder.get_params()
    for copied in (pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        assert_array_equal(copied.transform(LOG).toarray(), encoder.transform(LOG).toarray())
        assert columns_of(copied.to_frame([[0], [1]])) == columns_of(encoder.to_frame([[0], [1]]))


def test_frames_are_not_changed():
    frame = frame_of(LOG, "pandas")
    before = frame.copy()
    encoder = InteractionEncoder(value="plays")
    encoder.inverse_transform(encoder.fit_transform(frame))
    assert frame.equals(before)


def test_dicts_need_no_library():
    code = f"""
import sys
class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("pandas", "polars", "pyarrow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing)
from skvaecf import InteractionEncoder
encoder = InteractionEncoder()
X = encoder.fit_transform({LOG!r})
print(encoder.inverse_transform(X)["user"].tolist())
"""
    assert run_python(code) == "['al', 'al', 'bo', 'bo']\n"


def test_rows_are_not_looped_over_in_python():
    # A loop would call a function of Python once per row.
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    rng = np.random.RandomState(0)
    n = 100_000
    log = {"user": rng.randint(0, 500, n), "item": [f"i{i}" for i in rng.randint(0, 300, n)]}
    sys.setprofile(count)
    try:
        InteractionEncoder().fit_transform(log)
    finally:
        sys.setprofile(None)
    assert calls < 5000


def test_users_needs_only_the_column_of_users():
    encoder = InteractionEncoder()
    assert encoder.users({"user": [2, 1, 2]}).tolist() == [1, 2]
    with pytest.raises(ValueError, match="user='user' is not a column"):
        encoder.users({"item": [2, 1, 2]})


def test_dates_in_another_unit_are_the_same_items():
    dates = np.array(["2026-01-02", "2026-01-01"], dtype="datetime64[ns]")
    encoder = InteractionEncoder().fit({"user": [1, 1], "item": dates})
    X = encoder.transform({"user": [5, 5], "item": dates.astype("datetime64[us]")})
    assert X.toarray().tolist() == [[1, 1]]


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_sums_beyond_float32_are_refused(value):
    log = {"user": [1, 1], "item": [2, 2], "plays": [value, value]}
    with pytest.raises(ValueError, match="value must name a column whose sums"):
        InteractionEncoder(value="plays").fit_transform(log)
