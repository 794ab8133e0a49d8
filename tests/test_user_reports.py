"""Faults that users of comparable libraries reported, each tried on all recommenders it can hit."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LATENT_RECOMMENDERS, make, make_short, naming, run_python
from numpy.testing import assert_array_equal
from scipy.sparse import coo_array
from sklearn.model_selection import cross_val_score

import skvaecf
from skvaecf import EASE, ItemKNN, MultVAE, Popularity, RankingScorer, ndcg_at_k, recommend

# --- forked processes

FORK = """
import multiprocessing
import torch
torch.set_num_threads(2)
import scipy.sparse as sp
import skvaecf
X = sp.random_array((300, 40_000), density=2e-3, format="csr", random_state=0).astype(bool)
settings = {"max_epochs": 1, "random_state": 0, "n_components": 16}
models = [
    skvaecf.Popularity(),
    skvaecf.ItemKNN(),
    skvaecf.WMF(**settings),
    skvaecf.MultVAE(**settings, encoder_layer_sizes=(32,)),
]
expected = [model.fit(X).recommend(X, 10) for model in models]  # the threads of torch have worked

def lists(number):
    return models[number].recommend(X, 10)

with multiprocessing.get_context("fork").Pool(1) as pool:
    for number, items in enumerate(expected):
        found = pool.map_async(lists, [number]).get(timeout=300)[0]
        print((found == items).all(), torch.get_num_threads())
"""


def test_a_forked_process_recommends_after_its_parent_did():
    # Without the cure the child waits for threads that do not exist.
    assert run_python(FORK) == "True 2\n" * 4


# --- scores that are not finite


class Scores:
    """An estimator with the same scores for every user."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, X):
        return np.tile(np.asarray(self.scores, dtype=float), (X.shape[0], 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_an_error_that_names_the_estimator(bad):
    X = np.zeros((2, 5))
    with pytest.raises(ValueError, match="Scores returned scores that are NaN or infinite"):
        recommend(Scores([0, bad, 3, 2, 1]), X, 4)
    with pytest.raises(ValueError, match="Scores returned scores"):
        ndcg_at_k(Scores([0, bad, 3, 2, 1]), X, np.eye(2, 5))
    assert recommend(Scores([0, -np.inf, 3, 2, 1]), X, 5)[0].tolist() == [2, 3, 4, 0, -1]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("EASE", {"l2": 1e39}),
        ("WMF", {"confidence": 1e38}),
        ("WMF", {"unobserved_weight": 1e38}),
    ],
)
def test_a_fit_does_not_end_with_values_that_are_not_finite(name, params, X):
    model = make(name).set_params(**params)
    with pytest.raises(ValueError, match=rf"{name}.*cannot be fitted in float32"):
        model.fit(X)
    assert not hasattr(model, "n_features_in_")


# --- modes of torch that the caller has set

MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}


def results(name, X):
    model = make_short(name).fit(X)
    found = [model.predict(X), model.recommend(X, 4)]
    if name in LATENT_RECOMMENDERS:
        found.append(model.transform(X))
    if hasattr(model, "similar_items"):
        found.append(model.similar_items([0, 3], 4))
    return found


def test_modes_of_the_caller_change_nothing(name, X):
    expected = results(name, X)
    for mode, enter in MODES.items():
        with naming(mode), enter():
            for one, other in zip(results(name, X), expected, strict=True):
                assert_array_equal(one, other)


def test_the_default_dtype_changes_nothing(name, X):
    expected = results(name, X)
    torch.set_default_dtype(torch.float64)
    try:
        for one, other in zip(results(name, X), expected, strict=True):
            assert_array_equal(one, other)
    finally:
        torch.set_default_dtype(torch.float32)


# --- input


def test_float16_in_every_container():
    dense = np.tril(np.ones((6, 6)))
    expected = Popularity().fit(dense).predict(dense)
    for given in (dense.astype(np.float16), pd.DataFrame(dense.astype(np.float16))):
        assert_array_equal(Popularity().fit(given).predict(given), expected)


def test_a_log_is_recognised_by_its_columns(name):
    log = pd.DataFrame({"userId": [1, 1, 2], "movieId": [3, 4, 3], "rating": [5, 1, 4]})
    with pytest.raises(ValueError, match="InteractionEncoder"):
        make(name).fit(log)
    with pytest.raises(ValueError, match="InteractionEncoder"):
        make(name).fit(log.rename(columns={"userId": "customer_id", "movieId": "product"}))
    items = pd.DataFrame(np.tril(np.ones((6, 3))), columns=["user manual", "item", "lamp"])
    assert Popularity().fit(items).n_features_in_ == 3


def test_no_rows_get_no_lists(name, fitted, X):
    model, none = fitted(name), X[:0]
    assert model.predict(none).shape == (0, 24)
    assert model.recommend(none, 3).shape == (0, 3)
    assert recommend(model, none.toarray(), 3).shape == (0, 3)
    if name in LATENT_RECOMMENDERS:
        assert len(model.transform(none)) == 0
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        make(name).fit(none)


def test_labels_as_y_are_ignored_by_scorers(X):
    labels = np.arange(60) % 2
    expected = cross_val_score(EASE(), X, scoring=ndcg_at_k, cv=3)
    for given in (labels, labels.tolist(), pd.Series(labels)):
        assert ndcg_at_k(EASE().fit(X), X, given) == ndcg_at_k(EASE().fit(X), X)
    scores = cross_val_score(EASE(), X, labels, scoring=ndcg_at_k, cv=3)
    assert np.isfinite(scores).all()
    assert scores.shape == expected.shape


def test_boolean_masks_of_the_items_are_candidates(name, fitted, X):
    model, mask = fitted(name), np.arange(24) % 3 == 0
    for given in (mask, mask.tolist()):
        found = model.recommend(X, 4, candidates=given)
        assert_array_equal(found, model.recommend(X, 4, candidates=mask.nonzero()[0]))


# --- users with few interactions


def short_rows():
    X = np.zeros((40, 12), dtype=int)
    for user in range(40):
        X[user, [user % 12, (user + 1) % 12, (user + 2) % 12]] = 1
    return X


def test_early_stopping_without_validation_users_is_said(neural):
    with pytest.warns(UserWarning, match=r"no validation users.*min_interactions=5"):
        model = make(neural, early_stopping=True).fit(short_rows())
    assert "validation_ndcg" not in model.history_[0]
    model.set_params(min_interactions=3).fit(short_rows())
    assert "validation_ndcg" in model.history_[0]


def test_a_scorer_holds_out_of_short_rows_if_it_may():
    X = short_rows()
    model = ItemKNN().fit(X)
    with pytest.warns(UserWarning, match="no user has"):
        assert np.isnan(ndcg_at_k(model, X))
    assert RankingScorer("ndcg", min_interactions=3)(model, X) > 0.5


# --- messages


def test_messages_name_the_cure(X, tmp_path):
    with pytest.raises(
        ValueError, match=r"one of \['bernoulli', 'multinomial', 'n-choose-k'\] or a"
    ):
        MultVAE(likelihood="multinomal").fit(X)
    with pytest.raises(TypeError, match=r"ndcg_at_k\.at\(10\)"):
        ndcg_at_k(EASE().fit(X), X, k=10)
    with pytest.raises(ValueError, match=r"X\[\[0\]\], not X\[0\]"):
        EASE().fit(X).recommend(coo_array(np.ones(24)))
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(ValueError, match="skvaecf did not write it"):
        skvaecf.load(tmp_path / "notes.txt")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        skvaecf.load(tmp_path)


# --- one request


def test_ids_are_found_without_a_table_of_all_items():
    n_items = 100_000
    encoder = skvaecf.InteractionEncoder().fit(
        {"user": np.zeros(n_items, dtype=int), "item": np.arange(n_items) * 2}
    )

    class NoTable(np.ndarray):
        def tolist(self):
            raise AssertionError("the ids of all items were listed")

    encoder.item_ids_ = encoder.item_ids_.view(NoTable)
    assert encoder.item_numbers([4, 3, 199_998, 200_000]).tolist() == [2, -1, 99_999, -1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert encoder.transform({"user": [1, 1], "item": [10, 11]}).indices.tolist() == [5]


@pytest.mark.parametrize("kind", ["int32", "str", "float", "datetime64[s]"])
def test_few_ids_are_found_like_many(kind):
    ids = np.arange(1000).astype(kind)
    ids = ids.astype(object) if kind == "str" else ids
    encoder = skvaecf.InteractionEncoder().fit({"user": np.zeros(1000, dtype=int), "item": ids})
    every = encoder.item_numbers(ids)
    for place in (0, 7, 500, 999):
        assert encoder.item_numbers(ids[[place]]).tolist() == [every[place]]
    assert encoder.item_numbers(["no such id"]).tolist() == [-1]
