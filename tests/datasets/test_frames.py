"""Long frames to matrices and back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skvaecf.datasets import interactions_from_frame, make_interactions, recommendations_to_frame

nw = pytest.importorskip("narwhals")
BACKENDS = ["pandas", "polars", "pyarrow"]

COLUMNS = {
    "user": ["bo", "al", "bo", "al", "bo"],
    "item": [30, 20, 30, 10, 10],
    "plays": [1.0, 5.0, 2.0, 4.0, 3.0],
}


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def frame(backend):
    return nw.from_dict(COLUMNS, backend=backend).to_native()


def test_without_rating_repeated_pairs_count_once(frame):
    interactions = interactions_from_frame(frame)
    assert_array_equal(interactions.data.toarray(), [[1, 1, 0], [1, 0, 1]])
    assert interactions.data.dtype == np.float32
    assert interactions.data.indices.dtype == np.int32
    assert interactions.data.has_canonical_format
    assert interactions.user_ids.tolist() == ["al", "bo"]
    assert interactions.item_ids.tolist() == [10, 20, 30]
    assert interactions.user_ids.dtype.kind == "U"
    assert interactions.item_ids.dtype == np.int64


def test_ratings_of_repeated_pairs_are_added(frame):
    interactions = interactions_from_frame(frame, rating="plays")
    assert_array_equal(interactions.data.toarray(), [[4, 5, 0], [3, 0, 3]])


def test_min_rating_applies_to_each_row_and_drops_what_is_left_empty(frame):
    interactions = interactions_from_frame(frame, rating="plays", min_rating=4)
    assert_array_equal(interactions.data.toarray(), [[4, 5]])
    assert interactions.user_ids.tolist() == ["al"]
    assert interactions.item_ids.tolist() == [10, 20]


def test_a_total_of_zero_is_not_stored(backend):
    columns = {"user": [1, 1], "item": [1, 2], "plays": [0, 3]}
    frame = nw.from_dict(columns, backend=backend).to_native()
    data = interactions_from_frame(frame, rating="plays").data
    assert data.shape == (1, 2)
    assert data.nnz == 1


def test_other_column_names(backend):
    frame = nw.from_dict({"who": [2, 1], "what": ["x", "y"]}, backend=backend).to_native()
    interactions = interactions_from_frame(frame, user="who", item="what")
    assert_array_equal(interactions.data.toarray(), [[0, 1], [1, 0]])
    assert interactions.item_ids.tolist() == ["x", "y"]


@pytest.mark.parametrize("column", ["user", "item", "plays"])
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_values(backend, column, missing):
    columns = {"user": [1.0, 2.0], "item": [1.0, 2.0], "plays": [1.0, 2.0], column: [1.0, missing]}
    frame = nw.from_dict(columns, backend=backend).to_native()
    with pytest.raises(ValueError, match=f"Column '{column}'.* has 1 missing values"):
        interactions_from_frame(frame, rating="plays")


def test_missing_text(backend):
    frame = nw.from_dict({"user": ["a", None], "item": [1, 2]}, backend=backend).to_native()
    with pytest.raises(ValueError, match=r"Column 'user' \(user\) has 1 missing values"):
        interactions_from_frame(frame)


@pytest.mark.parametrize("argument", ["user", "item", "rating"])
def test_missing_column(frame, argument):
    with pytest.raises(ValueError, match=f"{argument}='absent' is not a column"):
        interactions_from_frame(frame, **{argument: "absent"})


@pytest.mark.parametrize("values", [["3", "4"], [1.0, float("inf")]])
def test_ratings_must_be_finite_numbers(backend, values):
    columns = {"user": [1, 2], "item": [1, 2], "stars": values}
    frame = nw.from_dict(columns, backend=backend).to_native()
    with pytest.raises(ValueError, match=r"Column 'stars' \(rating\).*finite numbers"):
        interactions_from_frame(frame, rating="stars")


def test_min_rating_needs_ratings(frame):
    with pytest.raises(ValueError, match="min_rating=4 needs the name of a column"):
        interactions_from_frame(frame, min_rating=4)


def test_pandas_extension_types():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "user": pd.Categorical(["b", "a", "b"]),
            "item": pd.array([3, 3, 1], dtype="Int64"),
            "stars": pd.array([4, 5, 3], dtype="Int8"),
        }
    )
    interactions = interactions_from_frame(frame, rating="stars")
    assert_array_equal(interactions.data.toarray(), [[0, 5], [3, 4]])
    assert interactions.user_ids.tolist() == ["a", "b"]
    assert interactions.item_ids.tolist() == [1, 3]
    frame["item"] = pd.array([3, None, 1], dtype="Int64")
    with pytest.raises(ValueError, match=r"Column 'item' \(item\) has 1 missing values"):
        interactions_from_frame(frame)


def columns_of(frame):
    return nw.from_native(frame).to_dict(as_series=False)


def test_recommendations_drop_padding(backend):
    frame = recommendations_to_frame(
        np.array([[2, 0], [-1, -1], [1, -1]]),
        item_ids=np.array([10, 20, 30]),
        user_ids=np.array(["a", "b", "c"]),
        scores=np.array([[0.9, 0.5], [-np.inf, -np.inf], [0.25, -np.inf]], dtype=np.float32),
        item_names=np.array(["Ten", "Twenty", "Thirty"]),
        backend=backend,
    )
    assert type(frame).__module__.split(".")[0] == backend
    assert columns_of(frame) == {
        "user": ["a", "a", "c"],
        "rank": [1, 2, 1],
        "item": [30, 10, 20],
        "title": ["Thirty", "Ten", "Twenty"],
        "score": pytest.approx([0.9, 0.5, 0.25]),
    }


def test_recommendations_without_the_optional_columns(backend):
    frame = recommendations_to_frame([[1], [0]], item_ids=["x", "y"], backend=backend)
    assert columns_of(frame) == {"user": [0, 1], "rank": [1, 1], "item": ["y", "x"]}


def test_no_recommendations(backend):
    frame = recommendations_to_frame(np.full((2, 3), -1), item_ids=["x"], backend=backend)
    assert columns_of(frame) == {"user": [], "rank": [], "item": []}


def test_round_trip(frame, backend):
    interactions = interactions_from_frame(frame)
    data = interactions.data
    items = np.full((2, 3), -1)
    for row in range(2):
        stored = data.indices[data.indptr[row] : data.indptr[row + 1]]
        items[row, : len(stored)] = stored
    back = interactions_from_frame(
        recommendations_to_frame(
            items,
            item_ids=interactions.item_ids,
            user_ids=interactions.user_ids,
            backend=backend,
        )
    )
    assert_array_equal(back.data.toarray(), data.toarray())
    assert back.user_ids.tolist() == interactions.user_ids.tolist()
    assert back.item_ids.tolist() == interactions.item_ids.tolist()


def test_backends_agree():
    for backend in BACKENDS:
        pytest.importorskip(backend)
    X = make_interactions(30, 24, noise=0.2, random_state=0)
    rows, columns = X.nonzero()
    long = {"user": rows, "item": columns, "rating": np.arange(len(rows)) % 5 + 1}
    results = [
        interactions_from_frame(nw.from_dict(long, backend=backend).to_native(), rating="rating")
        for backend in BACKENDS
    ]
    for result in results[1:]:
        assert_array_equal(result.data.toarray(), results[0].data.toarray())
        assert_array_equal(result.user_ids, results[0].user_ids)
        assert_array_equal(result.item_ids, results[0].item_ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": [0, 1]}, r"items has shape \(2,\)"),
        ({"items": [[0.0, 1.0]]}, "dtype float64"),
        ({"items": [[0, 3]]}, "values from 0 to 3"),
        ({"items": [[0, -2]]}, "values from -2 to 0"),
        ({"user_ids": ["a", "b"]}, r"user_ids has shape \(2,\); expected \(1,\)"),
        ({"scores": [[1.0]]}, r"scores has shape \(1, 1\); expected \(1, 2\)"),
        ({"item_names": ["x"]}, r"item_names has shape \(1,\); expected \(3,\)"),
        ({"backend": "excel"}, "backend='excel' is unknown"),
    ],
)
def test_invalid_recommendations(arguments, message):
    with pytest.raises(ValueError, match=message):
        recommendations_to_frame(**{"items": [[0, 1]], "item_ids": [1, 2, 3], **arguments})


@pytest.mark.parametrize("module", ["narwhals", "polars"])
def test_missing_package_says_how_to_install_it(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{module}. Install it with: pip install "skvaecf\['):
        recommendations_to_frame([[0]], item_ids=[1], backend="polars")
