"""The index of neighbours against the exact lists."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import make, make_short, naming
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

import skvaecf
from skvaecf import NeighborIndex
from skvaecf.datasets import make_interactions

index_module = pytest.importorskip("usearch.index")


# Scores of these models are products of vectors; the others are refused.
BILINEAR = [
    "AWAE", "CDAE", "CFGAN", "ELSA", "IRGAN", "MultDAE", "MultVAE", "RecVAE", "SIVAERecommender",
    "VAEGANRecommender", "WMF",
]  # fmt: skip


@pytest.mark.parametrize("name", BILINEAR)
def test_a_search_that_visits_every_item_is_exact(name, fitted, X):
    model = fitted(name)
    X = sp.vstack([X, sp.csr_array((2, 24), dtype=np.float32)]).tocsr()  # two empty rows
    index = NeighborIndex(model, precision="float32")
    for k in (1, 5, 30):
        for exclude_seen in (True, False):
            options = {"exclude_seen": exclude_seen, "return_scores": True}
            items, scores = index.recommend(X, k, **options)
            expected, expected_scores = model.recommend(X, k, **options)
            assert items.dtype == np.int64
            assert scores.dtype == np.float32
            assert_array_equal(items, expected)
            assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)
    # However few items are compared, the seen items leave enough.
    index.expansion_search = 1
    assert_array_equal(index.recommend(X, 3) >= 0, model.recommend(X, 3) >= 0)
    assert_array_equal(index.recommend(X[:3]), index.recommend(X.toarray()[:3], 10))
    assert index.recommend(X[:0]).shape == (0, 10)


@pytest.mark.parametrize("name", ["ELSA", "MultVAE", "WMF"])
def test_a_catalogue_of_one_item(name, tmp_path):
    X = np.array([[1], [0], [1], [1]], dtype=np.float32)
    model = make_short(name).fit(X)
    NeighborIndex(model, precision="float32").save(tmp_path / "index")
    index = NeighborIndex.load(tmp_path / "index", model)
    for exclude_seen in (True, False):
        options = {"exclude_seen": exclude_seen, "return_scores": True}
        for found, expected in zip(
            index.recommend(X, 2, **options), model.recommend(X, 2, **options), strict=True
        ):
            assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_most_of_the_best_items_are_found(precision):
    X = make_interactions(600, 4000, density=0.01, noise=0.3, random_state=0)
    model = make("WMF", n_components=32).fit(X)
    index = NeighborIndex(model, precision=precision, expansion_search=64)
    rows, exact = X[:100], model.recommend(X[:100], 10)

    def recall():
        found = index.recommend(rows, 10)
        assert not rows[np.arange(100)[:, None], np.maximum(found, 0)].sum()  # no seen items
        return (exact[:, :, None] == found[:, None, :]).any(axis=2).mean()

    of_64 = recall()
    index.expansion_search = 1000
    of_1000 = recall()
    index.expansion_search = 1
    assert recall() <= of_64 <= of_1000
    assert of_64 > 0.9
    assert of_1000 > 0.99


def test_building_twice_gives_the_same_index(fitted, X):
    first, second = (NeighborIndex(fitted("WMF"), connectivity=2, expansion_add=2) for _ in "ab")
    first.expansion_search = second.expansion_search = 1
    assert_array_equal(first.recommend(X), second.recommend(X))


def test_the_more_popular_one_of_items_with_equal_scores_comes_first(X):
    model = make("WMF").fit(X)
    model.item_factors_[[4, 11, 20]] = model.item_factors_[2]
    model.item_counts_[[2, 4, 11, 20]] = 5, 9, 5, 30
    index = NeighborIndex(model)
    lists = index.recommend(X, 24, exclude_seen=False)
    assert_array_equal(lists, model.recommend(X, 24, exclude_seen=False))
    tied = lists[np.isin(lists, [2, 4, 11, 20])].reshape(len(lists), 4)
    assert_array_equal(tied, np.tile([20, 4, 2, 11], (len(lists), 1)))


def test_rows_without_interactions_get_the_popular_items(fitted, X):
    model, rows = fitted("MultVAE"), X[:3].toarray()
    rows[1] = 0
    index, counts = NeighborIndex(model), X.toarray().sum(axis=0)
    popular = np.lexsort((np.arange(24), -counts))
    for exclude_seen in (True, False):
        items, scores = index.recommend(rows, 30, exclude_seen=exclude_seen, return_scores=True)
        assert_array_equal(items[1], [*popular, *[-1] * 6])
        assert_array_equal(scores[1], [*counts[popular], *[-np.inf] * 6])
        assert_array_equal(
            items[[0, 2]], index.recommend(rows[[0, 2]], 30, exclude_seen=exclude_seen)
        )


def test_a_model_of_a_frame_needs_no_names_to_be_indexed(X):
    frame = pd.DataFrame(X.toarray(), columns=[f"item {i}" for i in range(24)])
    model = make("WMF").fit(frame)
    assert_array_equal(NeighborIndex(model).recommend(frame, 3), model.recommend(frame, 3))


def test_set_output_does_not_matter(X):
    model = make("WMF").fit(X)
    index = NeighborIndex(model)
    expected = index.recommend(X)
    model.set_output(transform="pandas")
    assert_array_equal(index.recommend(X), expected)
    assert_array_equal(NeighborIndex(model).recommend(X), expected)


def test_save_and_load(fitted, X, tmp_path):
    model = fitted("MultVAE")
    for precision in ("float32", "bfloat16"):
        path = tmp_path / precision
        index = NeighborIndex(model, precision=precision)
        index.save(path)
        loaded = NeighborIndex.load(path, model)
        assert loaded.expansion_search == 512
        assert loaded.model is model
        for found, expected in zip(
            loaded.recommend(X, return_scores=True), index.recommend(X, return_scores=True),
            strict=True,
        ):  # fmt: skip
            assert_array_equal(found, expected)
    assert NeighborIndex.load(path, model, expansion_search=7).expansion_search == 7


def test_load_refuses_other_files(fitted, X, tmp_path):
    path = tmp_path / "index"
    NeighborIndex(fitted("WMF")).save(path)
    for model, message in [
        (make_short("MultVAE").fit(X), "its vectors are those of another model"),
        (make("WMF", n_components=3).fit(X), "24 vectors of length 7, and the model has 24 of len"),
        (make("WMF").fit(X[:, :20]), "24 vectors of length 7, and the model has 20 of length 7"),
    ]:
        with naming(message), pytest.raises(ValueError, match=f"index cannot be loaded.*{message}"):
            NeighborIndex.load(path, model)
    with pytest.raises(ValueError, match="expansion_search must be"):
        NeighborIndex.load(path, fitted("WMF"), expansion_search=0)
    with pytest.raises(FileNotFoundError):
        NeighborIndex.load(tmp_path / "nothing", fitted("WMF"))
    path.write_bytes(b"rubbish" * 100)
    with pytest.raises(ValueError, match="index cannot be loaded"):
        NeighborIndex.load(path, fitted("WMF"))


def test_refuses_models_whose_scores_are_not_such_products(fitted, X):
    hidden = make_short("MultVAE", decoder_layer_sizes=(5,)).fit(X)
    same_width = make_short("MultVAE", decoder_layer_sizes=(6,)).fit(X)
    sampled = make_short("SIVAERecommender", n_prediction_samples=2).fit(X)
    for model in (fitted("HVampVAE"), hidden, same_width, sampled):
        with naming(model), pytest.raises(ValueError, match="are not products of the vectors"):
            NeighborIndex(model)
    for model in (fitted("EASE"), None):
        with naming(model), pytest.raises(TypeError, match="must be a recommender with transform"):
            NeighborIndex(model)
    with pytest.raises(NotFittedError):
        NeighborIndex(make("WMF"))


def test_refuses_wrong_numbers(fitted, X):
    model = fitted("WMF")
    for name in ("connectivity", "expansion_add", "expansion_search"):
        for value in (0, -1, 2.5, None, True):
            with naming((name, value)), pytest.raises(ValueError, match=f"{name} must be"):
                NeighborIndex(model, **{name: value})
    with pytest.raises(ValueError, match="precision"):
        NeighborIndex(model, precision="float16")
    index = NeighborIndex(model)
    with pytest.raises(ValueError, match="k must"):
        index.recommend(X, 0)
    with pytest.raises(ValueError, match="features"):
        index.recommend(X[:, :5])


def test_a_missing_package_is_named(fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ImportError, match="pip install usearch"):
        skvaecf.NeighborIndex(fitted("WMF"))
