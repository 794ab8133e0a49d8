"""The contract that all recommenders share."""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
import io
import os
import pickle
import random
import re
import subprocess
import sys
import unittest
from functools import cache, partial
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conftest import (
    CASES,
    CLOSED_AND_NEURAL,
    LATENT_RECOMMENDERS,
    NEURAL_RECOMMENDERS,
    RECOMMENDERS,
    VALUES,
    make,
    make_short,
    naming,
    plain_parameters,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, MaxAbsScaler
from sklearn.utils._param_validation import Interval
from sklearn.utils.estimator_checks import _generate_sparse_data, parametrize_with_checks

import skvaecf
from skvaecf import explain, recommend
from skvaecf.datasets import make_interactions

# --- the table of recommenders


def test_every_recommender_has_a_case():
    assert sorted(CASES) == RECOMMENDERS


def test_every_hyperparameter_has_values():
    assert {p for name in RECOMMENDERS for p in make(name).get_params(deep=False)} == set(VALUES)


# --- scikit-learn's own checks

NOT_ONE_VALUE_PER_ROW = "asserts that predict returns one value per row"
# Equivalence is tested in test_weights.py, for networks that of the losses.
NOT_TO_THE_BIT = {
    "WMF": "asserts that factors in float32 are equal to 1e-7",
    **dict.fromkeys(
        NEURAL_RECOMMENDERS,
        "asserts that mini-batches of weighted users have the same noise as repeated users",
    ),
}


def expected_failures(estimator):
    failures = {
        "check_estimator_sparse_array": NOT_ONE_VALUE_PER_ROW,
        "check_estimator_sparse_matrix": NOT_ONE_VALUE_PER_ROW,
    }
    reason = NOT_TO_THE_BIT.get(type(estimator).__name__)
    if reason:
        failures |= {
            f"check_sample_weight_equivalence_on_{kind}_data": reason
            for kind in ("dense", "sparse")
        }
    return failures


# scikit-learn allows the scores of a row to differ by 1e-7 among other rows or in another order,
# which is less than the rounding error of float32. These settings avoid rounding that depends on
# the place of a row: BLAS multiplies a single row in another way, which shows after several layers;
# torch computes exp and tanh of the last few numbers of a tensor without vector instructions, which
# shows in the gradients of CDAE's fold-in.
SETTINGS_OF_CHECKS = {
    "CDAE": {"activation": "linear", "likelihood": "multinomial"},
    "RecVAE": {"encoder_layer_sizes": (8,)},
}


@parametrize_with_checks(
    [make(name, **SETTINGS_OF_CHECKS.get(name, {})) for name in RECOMMENDERS],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_checks(estimator, check):
    try:
        check(estimator)
    except (unittest.SkipTest, pytest.skip.Exception) as skipped:
        raise AssertionError(f"skipped: {skipped}") from skipped


def test_sparse_formats_of_scikit_learns_checks(name):
    # What the two checks that are expected to fail would test.
    data = np.random.RandomState(0).uniform(size=(40, 3))
    data[data < 0.6] = 0
    for container in (sp.csr_array, sp.csr_matrix):
        for sparse_format, X in _generate_sparse_data(container(data)):
            with naming((container.__name__, sparse_format)):
                scores = make_short(name).fit(X).predict(X)
                assert scores.shape == (40, 3)
                assert scores.dtype == np.float32
                assert np.isfinite(scores).all()


# --- predict


def test_predict_scores_every_item_for_every_user(name, fitted, X):
    scores = fitted(name).predict(X)
    assert type(scores) is np.ndarray
    assert scores.shape == X.shape
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert_array_equal(fitted(name).decision_function(X), scores)


def test_scores_of_a_row_depend_on_that_row_alone(name, fitted, X):
    model = fitted(name)
    scores = model.predict(X)
    assert_array_equal(model.predict(X), scores)
    alone = np.vstack([model.predict(X[[u]]) for u in range(X.shape[0])])
    atol = 1e-6 * max(1, np.abs(scores).max())
    assert_allclose(alone, scores, rtol=0, atol=atol)
    order = np.random.RandomState(0).permutation(X.shape[0])
    assert_allclose(model.predict(X[order]), scores[order], rtol=0, atol=atol)


def test_scores_do_not_depend_on_the_blocks(name, fitted, X, monkeypatch):
    model = fitted(name)
    scores, lists = model.predict(X), model.recommend(X, 5, return_scores=True)
    monkeypatch.setattr("skvaecf.ranking.BLOCK_ROWS", 3)
    assert_allclose(model.predict(X), scores, rtol=1e-5, atol=1e-6)
    items, values = model.recommend(X, 5, return_scores=True)
    assert_allclose(values, lists[1], rtol=1e-5, atol=1e-6)
    assert (items == lists[0]).mean() > 0.98  # equal but for rounding
    chosen = model.predict(X)[np.arange(X.shape[0])[:, None], items]
    # WMF folds in more rows at a time for lists than for predict, and BLAS may round differently.
    assert_allclose(chosen, values, rtol=1e-6 if name == "WMF" else 0)
    if name in LATENT_RECOMMENDERS:
        Z = model.transform(X)
        monkeypatch.undo()
        assert_allclose(Z, model.transform(X), rtol=1e-5, atol=1e-6)


def test_new_users_and_users_without_interactions_are_scored(name, fitted):
    new = sp.vstack([make_interactions(4, 24, random_state=9), sp.csr_array((2, 24))]).tocsr()
    scores = fitted(name).predict(new)
    assert scores.shape == (6, 24)
    assert np.isfinite(scores).all()
    assert_allclose(scores[4], scores[5], rtol=1e-6, atol=1e-7)  # equal but for rounding


def test_users_without_interactions_can_be_fitted_on(name, X):
    padded = sp.vstack([X, sp.csr_array((5, 24), dtype=np.float32)]).tocsr()
    assert np.isfinite(make(name).fit(padded).predict(padded)).all()


def test_values_of_interactions_do_not_matter(name, fitted, X):
    model = fitted(name)
    rng = np.random.RandomState(0)
    weighted = X.copy()
    weighted.data = rng.uniform(1e-6, 1e6, X.nnz)
    assert_array_equal(model.predict(weighted), model.predict(X))
    assert_array_equal(make(name).fit(weighted).predict(X), model.predict(X))


# --- formats


def messy(X):
    """Return the same interactions, unsorted, some entries twice, explicit zeros elsewhere."""
    rng = np.random.RandomState(0)
    rows, columns = X.nonzero()
    twice = rng.rand(len(rows)) < 0.3
    zero_rows, zero_columns = np.nonzero((X.toarray() == 0) & (rng.rand(*X.shape) < 0.2))
    rows = np.concatenate([rows, rows[twice], zero_rows])
    columns = np.concatenate([columns, columns[twice], zero_columns])
    data = np.concatenate([np.ones(X.nnz + twice.sum()), np.zeros(len(zero_rows))])
    order = rng.permutation(len(rows))
    order = order[np.argsort(rows[order], kind="stable")]
    indptr = np.append(0, np.bincount(rows, minlength=X.shape[0]).cumsum())
    result = sp.csr_array((data[order], columns[order], indptr), shape=X.shape)
    assert result.nnz > X.nnz
    assert not result.has_sorted_indices
    return result


def int64_indices(X):
    X = X.copy()
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def frame(X):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame(X.toarray(), columns=[f"item {i}" for i in range(X.shape[1])])


FORMATS = {
    "csr_matrix": sp.csr_matrix,
    "csr_array of int64 indices": int64_indices,
    "csr_matrix of int64 indices": lambda X: int64_indices(sp.csr_matrix(X)),
    "csc": sp.csc_array,
    "coo": sp.coo_matrix,
    "lil": sp.lil_array,
    "dok": sp.dok_matrix,
    "dia": sp.dia_array,
    "bsr": sp.bsr_matrix,
    "int": lambda X: X.astype(np.int8),
    "bool": lambda X: X.astype(bool),
    "float64": lambda X: X.astype(np.float64),
    "float16": lambda X: X.toarray().astype(np.float16),
    "messy": messy,
    "dense": lambda X: X.toarray(),
    "Fortran order": lambda X: np.asfortranarray(X.toarray()),
    "list of lists": lambda X: X.toarray().astype(int).tolist(),
    "pandas": frame,
}


@pytest.fixture(scope="module")
def short_fits(X):
    return cache(lambda name: make_short(name).fit(X))


@pytest.mark.parametrize("as_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_formats_give_the_same_scores(name, as_format, short_fits, X):
    given = as_format(X)
    model, usual = make_short(name).fit(given), short_fits(name)
    assert_array_equal(model.predict(given), usual.predict(X))
    assert_array_equal(model.recommend(given, 4), usual.recommend(X, 4))
    assert model.score(given) == usual.score(X)


# The validation makes one of these forms of every format.
VALIDATED = {"messy CSR": messy, "dense": lambda X: X.toarray().astype(np.float64)}


def test_forms_of_validated_rows_give_the_same_scores(name, short_fits, X):
    usual = short_fits(name)
    for form, convert in VALIDATED.items():
        with naming(form):
            given = convert(X)
            model = make_short(name).fit(given)
            assert_array_equal(model.predict(given), usual.predict(X))
            assert_array_equal(model.recommend(given, 4), usual.recommend(X, 4))
            if name in LATENT_RECOMMENDERS:
                assert_array_equal(model.transform(given), usual.transform(X).astype(np.float64))


def test_given_arrays_are_not_changed(name, X):
    forms = {"CSR": messy, "CSC": lambda X: messy(X).tocsc(), "dense": lambda X: X.toarray()}
    for form, convert in forms.items():
        for writeable in (False, True):
            with naming((form, "writeable" if writeable else "read-only")):
                assert_unchanged_by_all_methods(name, convert(X), writeable)


def assert_unchanged_by_all_methods(name, given, writeable):
    arrays = [given] if isinstance(given, np.ndarray) else [given.data, given.indices, given.indptr]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = writeable
    model = make_short(name).fit(given)
    model.predict(given)
    model.recommend(given, 3, candidates=given)
    model.recommend(given, 3, exclude=given)
    recommend(model, given, 3)
    model.score(given)
    if name in LATENT_RECOMMENDERS:
        model.transform(given)
    for array, copied in zip(arrays, before, strict=True):
        assert_array_equal(array, copied)
    if sp.issparse(given):
        kept = given.data, given.indices, given.indptr
        assert all(now is then for now, then in zip(kept, arrays, strict=True))


@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_names_of_columns_are_kept_and_compared(name, X):
    named = frame(X)
    model = make_short(name).fit(named)
    assert model.feature_names_in_.tolist() == named.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        model.predict(named[named.columns[::-1]])


# --- recommend


def best_items(scores, eligible, k, counts=None):
    counts = np.zeros(scores.shape[1]) if counts is None else counts
    masked = np.where(eligible, scores, -np.inf)
    order = np.lexsort((np.broadcast_to(-counts, scores.shape), -masked), axis=1)[:, :k]
    items = np.full((len(scores), k), -1)
    items[:, : order.shape[1]] = np.where(np.take_along_axis(eligible, order, 1), order, -1)
    return items


def test_recommend_sorts_the_scores(name, fitted, X):
    model, scores, seen = fitted(name), fitted(name).predict(X), X.toarray() > 0
    counts = seen.sum(axis=0)
    for k in (1, 10, 24, 40):
        for exclude_seen in (True, False):
            with naming({"k": k, "exclude_seen": exclude_seen}):
                items, values = model.recommend(X, k, exclude_seen=exclude_seen, return_scores=True)
                assert items.dtype == np.int64
                assert values.dtype == np.float32
                eligible = ~seen if exclude_seen else np.ones_like(seen)
                assert_array_equal(items, best_items(scores, eligible, k, counts))
                there = items >= 0
                assert_array_equal(values[there], scores[np.nonzero(there)[0], items[there]])
                assert np.isneginf(values[~there]).all()
                assert_array_equal(model.recommend(X, k, exclude_seen=exclude_seen), items)
    assert_array_equal(model.recommend(X), model.recommend(X, 10))


# Exact scores, and approximate ones with factors of the exact ones.
WAYS_OF_RANKING = [*CLOSED_AND_NEURAL, "WMF"]


@pytest.mark.parametrize("name", WAYS_OF_RANKING)
def test_recommend_among_candidates(name, fitted, X):
    model, scores, seen = fitted(name), fitted(name).predict(X), X.toarray() > 0
    shared = np.array([20, 3, 7, 11, 2])
    eligible = np.isin(np.arange(24), shared) & ~seen
    expected = best_items(scores, eligible, 6)
    assert_array_equal(model.recommend(X, 6, candidates=shared), expected)
    assert_array_equal(model.recommend(X, 6, candidates=shared.tolist()), expected)
    mask = np.random.RandomState(0).rand(*X.shape) < 0.3
    expected = best_items(scores, mask & ~seen, 6)
    messy_mask = messy(sp.csr_array(mask, dtype=np.float32))
    for given in (mask, mask * 2.5, sp.csr_array(mask), sp.csc_matrix(mask), messy_mask):
        assert_array_equal(model.recommend(X, 6, candidates=given), expected)


@pytest.mark.parametrize("name", WAYS_OF_RANKING)
def test_recommend_without_excluded_items(name, fitted, X):
    model, scores, seen = fitted(name), fitted(name).predict(X), X.toarray() > 0
    mask = np.random.RandomState(0).rand(*X.shape) < 0.3
    shared = np.flatnonzero(mask[0])
    for given in (shared, shared.tolist(), mask[0]):
        expected = best_items(scores, ~mask[0] & ~seen, 6)
        assert_array_equal(model.recommend(X, 6, exclude=given), expected)
    messy_mask = messy(sp.csr_array(mask, dtype=np.float32))
    for given in (mask, mask * 2.5, sp.csr_array(mask), sp.csc_matrix(mask), messy_mask):
        expected = best_items(scores, ~mask & ~seen, 6)
        assert_array_equal(model.recommend(X, 6, exclude=given), expected)
        assert_array_equal(recommend(model, X, 6, exclude=given), expected)
    expected = best_items(scores, mask & seen, 6)
    items = model.recommend(X, 6, candidates=seen, exclude=~mask, exclude_seen=False)
    assert_array_equal(items, expected)


def test_a_user_who_has_every_item_gets_no_recommendation(name, fitted):
    items, values = fitted(name).recommend(np.ones((2, 24)), 3, return_scores=True)
    assert items.tolist() == [[-1, -1, -1]] * 2
    assert np.isneginf(values).all()


@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_explicit_zeros_are_not_seen(name, fitted):
    row = sp.csr_array((np.array([1.0, 0.0]), np.array([4, 9]), np.array([0, 2])), shape=(1, 24))
    items = fitted(name).recommend(row, 24)[0]
    assert sorted(items) == [-1] + [i for i in range(24) if i != 4]


class WithPredictOnly:
    """A model without its other methods."""

    def __init__(self, model):
        self.predict = lambda X: model.predict(X)


@pytest.mark.parametrize("name", WAYS_OF_RANKING)
def test_function_recommend_equals_the_method(name, fitted, X):
    model = fitted(name)
    for options in ({}, {"exclude_seen": False}, {"candidates": [1, 5, 9]}):
        for estimator in (model, WithPredictOnly(model)):
            with naming((type(estimator).__name__, options)):
                items, scores = recommend(estimator, X, 4, return_scores=True, **options)
                expected = model.recommend(X, 4, return_scores=True, **options)
                assert_array_equal(items, expected[0])
                assert_array_equal(scores, expected[1])


# --- rows without interactions, and equal scores


def popular_items(X, among=range(24)):
    counts = (X > 0).sum(axis=0)
    return sorted(among, key=lambda item: (-counts[item], item))


def test_users_of_the_items_are_counted(name, fitted, X):
    counts = fitted(name).item_counts_
    assert counts.dtype == np.int64
    assert_array_equal(counts, (X.toarray() > 0).sum(axis=0))


# WMF scores rows in blocks; with bfloat16 it has another way for blocks without empty rows.
EMPTY_ROWS = [(name, {}) for name in RECOMMENDERS] + [("WMF", {"precision": "bfloat16"})]


@pytest.mark.parametrize(("name", "changes"), EMPTY_ROWS)
def test_a_row_without_interactions_gets_the_most_popular_items(name, changes, X):
    model = make_short(name, **changes).fit(X)
    zero = sp.csr_array((np.zeros(1), np.array([7]), np.array([0, 1])), shape=(1, 24))
    mixed = sp.vstack([X[:20], sp.csr_array((1, 24)), X[20:30], zero]).tocsr()
    others = np.r_[:20, 21:31]
    popular, counts = popular_items(X), model.item_counts_
    scores = model.predict(mixed)
    assert_array_equal(scores[[20, 31]], [counts, counts])
    assert_allclose(scores[others], model.predict(X[:30]), rtol=1e-5, atol=1e-6)
    items, values = model.recommend(mixed, 24, return_scores=True)
    assert items[[20, 31]].tolist() == [popular] * 2
    assert_array_equal(values[[20, 31]], [counts[popular]] * 2)
    assert (items[others] == model.recommend(X[:30], 24)).mean() > 0.98  # equal but for rounding
    for k in (1, 5, 30):
        expected = (popular + [-1] * 6)[:k]
        for row in (zero, zero.toarray(), np.zeros((1, 24))):
            assert model.recommend(row, k).tolist() == [expected]
    filtered = model.recommend(zero, 4, candidates=popular[3:9], exclude=popular[4:5])
    assert filtered.tolist() == [[popular[3], *popular[5:8]]]


@pytest.mark.parametrize("name", ["EASE", "WMF", "MultVAE"])
def test_searches_and_pipelines_recommend_popular_items_too(name, ratings):
    pipeline = make_pipeline(Binarizer(threshold=3.5), make_short(name))
    search = GridSearchCV(pipeline, {"binarizer__threshold": [3.5]}, cv=2).fit(ratings)
    popular = popular_items(ratings >= 4, range(40))
    for estimator in (search, search.best_estimator_):
        # The last row is empty after the first step only.
        for row in (np.zeros((1, 40)), np.eye(1, 40)):
            items = recommend(estimator, row, 8, exclude_seen=False)
            assert items.tolist() == [popular[:8]]


@pytest.mark.parametrize("name", ["ItemKNN", "SLIM"])
def test_lists_of_sparse_models_are_filled_with_popular_items(name):
    # Items 0 and 1 share users; so do items 2 to 4. Item 3 has the most users, then 2, then 5.
    X = np.array(
        [[1, 1, 0, 0, 0, 0]] * 3 + [[0, 0, 1, 1, 1, 0]] * 4 + [[0, 0, 1, 1, 0, 0]] * 2
        + [[0, 0, 0, 1, 0, 0]] + [[0, 0, 0, 0, 0, 1]] * 6
    )  # fmt: skip
    model = make(name).fit(X)
    assert model.item_counts_.tolist() == [3, 3, 6, 7, 4, 6]
    items, scores = model.recommend([[1, 0, 0, 0, 0, 0]], 5, return_scores=True)
    assert items.tolist() == [[1, 3, 2, 5, 4]]
    assert scores[0, 0] > 0
    assert scores[0, 1:].tolist() == [0] * 4
    assert model.recommend([[1, 0, 0, 0, 0, 0]], 3).tolist() == [[1, 3, 2]]
    pipeline = make_pipeline(Binarizer(), make(name)).fit(X)
    assert_array_equal(recommend(pipeline, [[1, 0, 0, 0, 0, 0]], 5), items)


# --- what is learned


@pytest.mark.parametrize("name", [n for n in RECOMMENDERS if CASES[n].planted is not None])
def test_new_users_get_items_of_their_own_block(name):
    X, user_blocks, item_blocks = make_interactions(
        220, 60, n_blocks=4, random_state=1, return_blocks=True
    )
    model = make(name, **CASES[name].planted).fit(X[:160])
    new = X[160:]
    own = user_blocks[160:, None] == item_blocks
    items = model.recommend(new, 3)
    hits = np.take_along_axis(own, items, axis=1)
    left = own.sum(axis=1) - new.sum(axis=1)  # unseen items of the user's block
    places = np.arange(3) < left[:, None]
    assert places.sum() > 150
    assert hits[places].mean() >= 0.95


# --- reproducibility


def scores_hash(model, X):
    return hashlib.sha256(model.predict(X).tobytes()).hexdigest()


def test_fitting_twice_is_fitting_once(name, fitted, X):
    scores = fitted(name).predict(X)
    other = make_interactions(30, 24, random_state=5)
    assert_array_equal(make(name).fit(X).fit(X).predict(X), scores)
    assert_array_equal(make(name).fit(other).fit(X).predict(X), scores)
    assert_array_equal(clone(make(name).fit(other)).fit(X).predict(X), scores)


@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_labels_are_ignored(name, fitted, X):
    model = make(name).fit(X, np.arange(60))
    assert_array_equal(model.predict(X), fitted(name).predict(X))


IN_A_NEW_PROCESS = """
import numpy as np
import torch

def state():
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_num_interop_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
    )

torch.set_num_threads(1)  # as in the tests: sums in two threads are rounded differently
before = state()
import skvaecf
assert state() == before, "import changed global state"
import hashlib
from threadpoolctl import threadpool_limits
threadpool_limits(1)
from skvaecf.datasets import make_interactions
X = make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)
for name, params in CASES.items():
    model = getattr(skvaecf, name)(**params).fit(X)
    print(name, hashlib.sha256(model.predict(X).tobytes()).hexdigest())
"""


def test_scores_are_the_same_in_a_new_process_and_import_has_no_effects(fitted, X):
    # A blend's parameters are estimators, whose repr is no literal.
    cases = {name: case.cheap for name, case in CASES.items() if name != "Blend"}
    root = str(Path(skvaecf.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", f"CASES = {cases!r}\n{IN_A_NEW_PROCESS}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    hashes = dict(line.split() for line in done.stdout.splitlines())
    assert hashes == {name: scores_hash(fitted(name), X) for name in cases}


def global_state():
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_num_interop_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
        np.random.get_state()[1].tolist(),
    )


def test_global_state_is_left_alone(name, X):
    before = global_state()
    model = make(name).fit(X)
    model.predict(X)
    model.recommend(X)
    model.score(X)
    pickle.loads(pickle.dumps(model))
    assert global_state() == before


def test_global_state_does_not_matter(name, fitted, X):
    expected = fitted(name).predict(X)
    seeds = torch.get_rng_state()
    try:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(123)
        model = make(name).fit(X)
        scores, reloaded = model.predict(X), pickle.loads(pickle.dumps(model)).predict(X)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_rng_state(seeds)
    assert scores.dtype == np.float32
    assert_array_equal(scores, expected)
    assert_array_equal(reloaded, expected)


# --- similar items

WITH_SIMILAR_ITEMS = [n for n in RECOMMENDERS if hasattr(getattr(skvaecf, n), "similar_items")]


@pytest.mark.parametrize("name", WITH_SIMILAR_ITEMS)
def test_similar_items(name):
    X, _, blocks = make_interactions(150, 24, n_blocks=3, random_state=0, return_blocks=True)
    model = make(name, **CASES[name].planted).fit(X)
    similar, scores = model.similar_items(range(24), k=7, return_scores=True)
    assert similar.shape == scores.shape == (24, 7)
    assert similar.dtype == np.int64
    assert (blocks[similar[:, :3]] == blocks[:, None]).mean() > 0.9
    assert not (similar == np.arange(24)[:, None]).any()
    assert (np.diff(np.nan_to_num(scores), axis=1) <= 0).all()
    assert_array_equal(similar == -1, np.isneginf(scores))
    assert_array_equal(model.similar_items([5, 3], k=7), similar[[5, 3]])
    everything = model.similar_items(np.array([2]), k=30)[0].tolist()
    listed = [item for item in everything if item >= 0]
    assert everything == listed + [-1] * (30 - len(listed))
    # Sparse models list the items they store: ItemKNN the neighbours of an item, SLIM its weights.
    S = getattr(model, "item_similarity_", None)
    held = set(range(24)) - {2}
    if sp.issparse(S):
        held = set((S[:, [2]] if name == "ItemKNN" else S[[2]].T).nonzero()[0].tolist())
    assert sorted(listed) == sorted(held)
    assert model.similar_items([]).shape == (0, 10)


def test_similar_items_refuses_other_values(fitted):
    for items in ([24], [-2], [0.5], 3, [[1]], ["a"]):
        with naming(items), pytest.raises(ValueError, match="items must"):
            fitted("EASE").similar_items(items)


# --- hyperparameters

WITHOUT_EFFECT_ON_THE_FIT = {"device", "n_jobs", "verbose", "warm_start"}
TESTED_ELSEWHERE = {("WMF", "precision"), ("Blend", "estimators")}
# Settings in which a hyperparameter matters within few epochs.
SETTINGS = {
    # Mini-batches that leave items to sample from.
    **{(name, "n_sampled_items"): {"batch_size": 2} for name in NEURAL_RECOMMENDERS},
    ("CFGAN", "fold_in_l2"): {"mode": "item"},
    ("CFGAN", "unobserved_weight"): {"mode": "item"},
} | {(name, "n_iter_no_change"): {"max_epochs": 15} for name in NEURAL_RECOMMENDERS}


@pytest.fixture(scope="module")
def outcome(X):
    """Return a function from parameters to the number of epochs and the scores of a fit."""
    X = X * np.arange(1, X.shape[1] + 1)  # counts, which matter to WMF

    @cache
    def of(name, **changes):
        model = make(name, **changes).fit(X)
        return getattr(model, "n_iter_", None), scores_hash(model, X)

    return of


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        (name, parameter)
        for name in RECOMMENDERS
        for parameter in make(name).get_params(deep=False)
        if parameter not in WITHOUT_EFFECT_ON_THE_FIT and (name, parameter) not in TESTED_ELSEWHERE
    ],
)
def test_every_hyperparameter_matters(name, parameter, outcome):
    settings, other = SETTINGS.get((name, parameter), {}), VALUES[parameter].other
    assert getattr(make(name, **settings), parameter) != other
    assert outcome(name, **settings) != outcome(name, **settings | {parameter: other})


def test_parameters_are_kept_as_given(name):
    model = make(name)
    for parameter in model.get_params(deep=False):
        value = copy.deepcopy(VALUES[parameter].other)
        model.set_params(**{parameter: value})
        assert getattr(model, parameter) is value
        assert plain_parameters(clone(model)) == plain_parameters(model)
        shown, given = (re.sub(r"\s+", "", text) for text in (repr(model), repr(value)))
        assert f"{parameter}={given}" in shown or value == (
            inspect.signature(type(model)).parameters[parameter].default
        )


# Values that other models allow.
ALSO_INVALID = {
    ("CFGAN", "unobserved_weight"): (0.0, 1.0),
    ("RecVAE", "encoder_layer_sizes"): ((), (8, 9)),
}


def invalid_values(name, parameter):
    yield from VALUES[parameter].invalid
    yield from ALSO_INVALID.get((name, parameter), ())
    constraints = getattr(skvaecf, name)._parameter_constraints[parameter]
    if any(isinstance(constraint, Interval) for constraint in constraints):
        yield True  # which Python counts as the number 1


@pytest.mark.parametrize(
    ("name", "parameter"),
    [(name, parameter) for name in RECOMMENDERS for parameter in make(name).get_params(deep=False)],
)
def test_invalid_parameters_are_refused_before_anything_changes(
    name, parameter, fitted, X, unchanged
):
    for value in invalid_values(name, parameter):
        for model in (make(name), copy.copy(fitted(name))):
            with naming(repr(value)):
                model.set_params(**{parameter: value})
                check = unchanged(model)
                with pytest.raises(ValueError, match=parameter):
                    model.fit(X[:, :20])
                check()


def section(name, title):
    """Return the entries of a section of the class docstring, {name: (type, text)}."""
    doc = inspect.cleandoc(getattr(skvaecf, name).__doc__)
    match = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n---|\Z)", doc, flags=re.M | re.S)
    entries = {}
    for entry in re.split(r"\n(?=\w)", match[1].strip()) if match else []:
        head, *lines = entry.splitlines()
        names, _, kind = head.partition(" : ")
        for each in names.split(", "):
            entries[each] = kind, " ".join(line.strip() for line in lines).strip()
    return entries


def test_parameters_are_documented_with_their_defaults(name):
    documented = section(name, "Parameters")
    parameters = inspect.signature(getattr(skvaecf, name)).parameters
    assert set(documented) == set(parameters)
    for parameter, (kind, text) in documented.items():
        assert text, parameter
        required = parameters[parameter].default is inspect.Parameter.empty
        default = kind.rpartition("default=")[2]
        assert required or ast.literal_eval(default) == parameters[parameter].default, parameter


def test_parameters_are_documented_in_the_order_of_their_declaration(name):
    documented = list(section(name, "Parameters"))
    if "n_components" in documented:
        assert documented[0] == "n_components"
    for cls in getattr(skvaecf, name).__mro__:
        declared = [p for p in inspect.get_annotations(cls) if p in documented]
        order = [p for p in documented if p in declared]
        assert order == declared, cls.__name__


# Parameters whose meaning differs between models.
MODEL_SPECIFIC = {"dropout", "l1", "l2", "likelihood", "max_epochs", "n_components", "precision"}
MODEL_SPECIFIC |= {"kl_weight", "tol"}
# In these models the parameter has another meaning than in the others.
EXCEPTIONS = {
    ("Blend", "n_jobs"),
    ("Blend", "random_state"),
    ("Blend", "validation_fraction"),
    ("CFGAN", "unobserved_weight"),
    ("ELSA", "batch_size"),
    ("RecVAE", "encoder_layer_sizes"),
    ("VAEGANRecommender", "discriminator_learning_rate"),
}


def test_a_parameter_has_the_same_text_everywhere():
    texts = {}
    for name in RECOMMENDERS:
        for parameter, (kind, text) in section(name, "Parameters").items():
            if parameter not in MODEL_SPECIFIC and (name, parameter) not in EXCEPTIONS:
                without_default = kind.rpartition(", default=")[0], text
                texts.setdefault(parameter, {}).setdefault(without_default, []).append(name)
    assert {parameter: found for parameter, found in texts.items() if len(found) > 1} == {}


def test_fitted_attributes_are_documented(name, fitted):
    learned = {a for a in dir(fitted(name)) if a.endswith("_") and not a.startswith("_")}
    documented = set(section(name, "Attributes"))
    assert learned == documented


# --- invalid input


def corrupt(kind):
    container = sp.csc_array if "csc" in kind else sp.csr_array
    X = container(make_interactions(60, 24, random_state=0))
    if "out of range" in kind:
        X.indices[3] = 1000
    elif "negative" in kind:
        X.indices[3] = -1
    else:
        X.indptr[2] = X.indptr[3] + 1
    return X


def with_entry(value, dtype=np.float64, sparse=False):
    A = make_interactions(60, 24, random_state=0).toarray().astype(dtype)
    A[1, 2] = value
    return sp.csr_array(A) if sparse else A


BAD = {
    "NaN": (lambda: with_entry(np.nan), "Input X contains NaN"),
    "sparse NaN": (lambda: with_entry(np.nan, sparse=True), "Input X contains NaN"),
    "infinity": (lambda: with_entry(np.inf), "Input X contains infinity"),
    "sparse infinity": (lambda: with_entry(np.inf, sparse=True), "Input X contains infinity"),
    "negative": (lambda: with_entry(-1), "Negative values in data passed to X"),
    "sparse negative": (
        lambda: with_entry(-1, sparse=True),
        "Negative values in data passed to X",
    ),
    "no columns": (lambda: np.empty((60, 0)), r"0 feature\(s\)"),
    "1-D": (lambda: np.ones(24), "Expected 2D array"),
    "3-D": (lambda: np.ones((2, 24, 2)), "dim 3"),
    "sparse 1-D": (lambda: sp.coo_array(np.ones(24)), "X must be 2-D, users x items"),
    "strings": (lambda: np.full((60, 24), "a"), "numeric"),
    "objects": (lambda: np.full((60, 24), "a", dtype=object), "could not convert string"),
    "complex": (lambda: with_entry(1j, complex), "Complex data not supported"),
    "sparse complex": (lambda: with_entry(1j, complex, sparse=True), "Complex data"),
    "None": (lambda: None, "Expected 2D array"),
} | {
    f"{layout}, {kind}": (partial(corrupt, f"{layout} {kind}"), "X has corrupt sparse indices")
    for kind in ("index out of range", "negative index", "decreasing indptr")
    for layout in ("csr", "csc")
}


def methods_with_rows(model):
    """Return the public methods that take X, {name: function of X}."""
    names = [name for name in dir(type(model)) if name[0] != "_" and hasattr(model, name)]
    methods = {name: getattr(model, name) for name in names}
    further = {"explain": {"items": [0]}, "similar_users": {"users": [0]}}
    return {
        name: partial(method, **further.get(name, {}))
        for name, method in methods.items()
        if inspect.ismethod(method) and "X" in inspect.signature(method).parameters
    }


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_bad_input_is_refused_before_anything_changes(name, bad, fitted, X, unchanged):
    build, message = BAD[bad]
    given = build()
    new, old = make(name), fitted(name)
    scores = old.predict(X)
    methods = {"a first fit": new.fit} | methods_with_rows(old)
    if given is None:
        methods.pop("partial_fit", None)  # without X it computes the weights again
    for called, call in methods.items():
        checks = unchanged(new), unchanged(old)
        with naming(called), pytest.raises((ValueError, TypeError), match=message):
            call(given)
        for check in checks:
            check()
    assert_array_equal(old.predict(X), scores)


class RefusedError(ValueError):
    """What the validation raises in the next test."""


def test_every_method_validates_its_rows_first(name, fitted, unchanged, monkeypatch):
    new, old = make(name), fitted(name)
    given, validated = object(), []

    def refuse(X, name="X", min_rows=0):
        validated.append(X)
        raise RefusedError

    for module in (
        "_partial_fit",
        "base",
        "blend",
        "linear._sums",
        "neural._recommender",
        "ranking",
    ):
        monkeypatch.setattr(f"skvaecf.{module}.check_rows", refuse)
    methods = methods_with_rows(old)
    assert {"fit", "predict", "decision_function", "recommend", "score"} <= set(methods)
    assert ("transform" in methods) == (name in LATENT_RECOMMENDERS)
    functions = {
        "the function recommend": lambda X: recommend(old, X),
        "the function explain": lambda X: explain(old, X, [0]),
    }
    for called, call in ({"a first fit": new.fit} | methods | functions).items():
        checks = unchanged(new), unchanged(old)
        with naming(called), pytest.raises(RefusedError):
            call(given)
        assert validated.pop() is given, called
        for check in checks:
            check()


@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_another_number_of_items_is_refused(name, fitted, X, unchanged):
    model = fitted(name)
    check = unchanged(model)
    methods = methods_with_rows(model)
    for refitted in ("fit", "fit_transform"):
        methods.pop(refitted, None)
    for called, call in methods.items():
        wider = [] if called == "partial_fit" else [sp.hstack([X, X])]  # new items
        for given in (X[:, :23], X[:, :23].toarray(), *wider):
            message = r"X has \d+ features, but \w+ is expecting 24"
            with naming(called), pytest.raises(ValueError, match=message):
                call(given)
    check()


def test_methods_need_a_fitted_model(X):
    for name in RECOMMENDERS:
        for called, call in methods_with_rows(make(name)).items():
            if called not in ("fit", "fit_transform", "partial_fit"):
                with naming((name, called)), pytest.raises(NotFittedError, match=name):
                    call(X)


# --- scikit-learn's tools


@pytest.fixture(scope="module")
def ratings():
    """100 users, 40 items, values from 1 to 5."""
    X = make_interactions(100, 40, noise=0.2, random_state=2)
    X.data = np.random.RandomState(0).randint(1, 6, X.nnz).astype(np.float32)
    return X


def grid_of(name):
    """Return two values of one hyperparameter, if the model has one of these."""
    for parameter in ("l2", "dropout", "n_components"):
        if parameter in make(name).get_params():
            return {parameter: [getattr(make(name), parameter), VALUES[parameter].other]}
    return {}


def test_grid_search_needs_neither_scoring_nor_cv(name, ratings):
    grid = grid_of(name)
    search = GridSearchCV(make_short(name), grid).fit(ratings)
    results = search.cv_results_
    *_, (train, test) = KFold(5).split(ratings)
    for candidate, score in zip(results["params"], results["split4_test_score"], strict=True):
        model = make_short(name, **candidate).fit(ratings[train])
        assert score == skvaecf.ndcg_at_k(model, ratings[test])
    scores = results["mean_test_score"]
    of_splits = [results[f"split{i}_test_score"] for i in range(5)]
    assert_allclose(scores, np.mean(of_splits, axis=0), rtol=1e-12)
    assert 0 < search.best_score_ <= 1
    assert search.best_score_ == scores.max()
    model = make_short(name, **search.best_params_).fit(ratings)
    assert_array_equal(search.predict(ratings), model.predict(ratings))
    assert_array_equal(recommend(search, ratings, 5), model.recommend(ratings, 5))


@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_score_is_ndcg(name, fitted, X):
    score = fitted(name).score(X)
    assert type(score) is float
    assert score == skvaecf.ndcg_at_k(fitted(name), X)
    fold_in, heldout = skvaecf.split_interactions(X, random_state=3)
    assert fitted(name).score(fold_in, heldout) == skvaecf.ndcg_at_k(fitted(name), fold_in, heldout)


SCORERS = [
    skvaecf.ndcg_at_k,
    skvaecf.recall_at_k.at(5),
    skvaecf.mrr_at_k,
    skvaecf.precision_at_k.at(5),
    skvaecf.map_at_k,
    skvaecf.hit_rate_at_k.at(3),
    skvaecf.coverage_at_k.at(2),
]


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.metric)
def test_every_scorer_works_in_a_grid_search(scorer, ratings):
    cv = skvaecf.UserSplitter(3, random_state=0)
    search = GridSearchCV(make("EASE"), {"l2": [1.0, 50.0]}, scoring=scorer, cv=cv).fit(ratings)
    for candidate, score in zip((1.0, 50.0), search.cv_results_["mean_test_score"], strict=True):
        by_hand = [
            scorer(make("EASE", l2=candidate).fit(ratings[train]), ratings[test])
            for train, test in cv.split(ratings)
        ]
        assert 0 < score <= 1
        assert score == pytest.approx(np.mean(by_hand), rel=1e-12)


@pytest.mark.parametrize("name", ["EASE", "MultVAE"])
def test_several_scorers_at_once(name, ratings):
    scoring = {scorer.metric: scorer for scorer in SCORERS}
    search = GridSearchCV(make(name), grid_of(name), scoring=scoring, refit="ndcg", cv=2)
    search.fit(ratings)
    single = GridSearchCV(make(name), grid_of(name), scoring=skvaecf.ndcg_at_k, cv=2).fit(ratings)
    assert_array_equal(search.cv_results_["mean_test_ndcg"], single.cv_results_["mean_test_score"])
    assert {f"mean_test_{metric}" for metric in scoring} <= set(search.cv_results_)


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("name", ["EASE", "MultVAE"])
def test_parallel_searches_give_the_serial_scores(name, backend, ratings):
    def search(n_jobs):
        return GridSearchCV(make(name), grid_of(name), cv=3, n_jobs=n_jobs, refit=False)

    serial = search(1).fit(ratings).cv_results_
    with joblib.parallel_config(backend=backend):
        parallel = search(2).fit(ratings).cv_results_
    for split in range(3):
        key = f"split{split}_test_score"
        assert_array_equal(parallel[key], serial[key])


@pytest.mark.parametrize("name", ["MultVAE", "WMF"])
def test_epochs_are_a_resource_of_halving(name, ratings):
    search = HalvingGridSearchCV(
        make(name),
        {"l2": [0.1, 0.2, 0.3, 0.4]},
        resource="max_epochs",
        min_resources=1,
        max_resources=4,
        factor=2,
        cv=2,
        random_state=0,
    ).fit(ratings)
    assert search.n_resources_ == [1, 2, 4]
    assert search.n_candidates_ == [4, 2, 1]
    assert search.best_estimator_.max_epochs == 4
    assert 0 < search.best_score_ <= 1


@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_binarizer_in_a_pipeline_drops_low_ratings(name, ratings):
    pipeline = make_pipeline(Binarizer(threshold=3.5), make(name)).fit(ratings)
    liked = sp.csr_array((ratings.toarray() > 3.5).astype(np.float32))
    model = make(name).fit(liked)
    assert_array_equal(pipeline.predict(ratings), model.predict(liked))
    # Items with a low rating count as seen, too.
    unrated = ratings.toarray() == 0
    items = recommend(pipeline, ratings, 5)
    assert_array_equal(items, model.recommend(liked, 5, candidates=unrated))
    assert not (ratings.toarray()[np.arange(100)[:, None], items] > 0)[items >= 0].any()


@pytest.mark.parametrize("name", CLOSED_AND_NEURAL)
def test_steps_that_keep_the_interactions_change_nothing(name, ratings):
    for step in (Binarizer(threshold=0.5), TfidfTransformer(), MaxAbsScaler()):
        with naming(step):
            pipeline = make_pipeline(step, make_short(name)).fit(ratings)
            model = make_short(name).fit(ratings)
            assert_array_equal(pipeline.predict(ratings), model.predict(ratings))
            assert_array_equal(recommend(pipeline, ratings, 5), model.recommend(ratings, 5))
            assert pipeline.score(ratings) == pytest.approx(model.score(ratings), rel=1e-12)
            for scorer in SCORERS:
                assert scorer(pipeline, ratings) == scorer(model, ratings), scorer


def test_a_pipelines_step_can_be_searched(ratings):
    pipeline = make_pipeline(Binarizer(), make("EASE"))
    grid = {"binarizer__threshold": [0.5, 3.5], "ease__l2": [1.0, 50.0]}
    scorer = skvaecf.RankingScorer("ndcg", relevance_threshold=3.5)
    search = GridSearchCV(pipeline, grid, scoring=scorer, cv=2).fit(ratings)
    assert (search.cv_results_["mean_test_score"] > 0).all()
    assert_array_equal(recommend(search, ratings, 5), recommend(search.best_estimator_, ratings, 5))


# --- transform


def test_transform_gives_one_vector_per_user(latent, fitted, X):
    model = fitted(latent)
    Z = model.transform(X)
    assert Z.shape == (60, model.n_components)
    assert Z.dtype == np.float32
    assert Z.std(axis=0).min() > 0
    assert model.transform(X.astype(np.float64)).dtype == np.float64
    assert model.transform(X.astype(np.int64)).dtype == np.float32
    assert_allclose(model.transform(X[[7]])[0], Z[7], rtol=1e-5, atol=1e-6)
    assert_array_equal(make(latent).fit_transform(X), Z)


def test_transform_names_its_columns(latent, X):
    pytest.importorskip("pandas")
    named = frame(X)
    model = make(latent).fit(named)
    columns = [f"{latent.lower()}{i}" for i in range(model.n_components)]
    assert model.get_feature_names_out().tolist() == columns
    Z = model.set_output(transform="pandas").transform(named)
    assert Z.columns.tolist() == columns
    assert_array_equal(Z.to_numpy(), make(latent).fit(X).transform(X))


# --- persistence


class WithoutTorch(pickle.Unpickler):
    """Refuse every class and function of torch."""

    def find_class(self, module, name):
        assert module.partition(".")[0] in {"numpy", "scipy", "skvaecf", "builtins"}, (module, name)
        return super().find_class(module, name)


def pickled_without_torch(model, _):
    return WithoutTorch(io.BytesIO(pickle.dumps(model))).load()


def joblib_mapped(model, folder):
    joblib.dump(model, folder / "model.joblib")
    return joblib.load(folder / "model.joblib", mmap_mode="r")


COPIES = {
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "pickle protocol 2": lambda model, _: pickle.loads(pickle.dumps(model, protocol=2)),
    "pickle without classes of torch": pickled_without_torch,
    "joblib, memory-mapped": joblib_mapped,
    "cloudpickle": lambda model, _: pickle.loads(cloudpickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "copy": lambda model, _: copy.copy(model),
}


def test_copies_predict_the_same(name, fitted, X, tmp_path):
    model = fitted(name)
    for way, make_copy in COPIES.items():
        with naming(way):
            copied = make_copy(model, tmp_path)
            assert_array_equal(copied.predict(X), model.predict(X))
            assert_array_equal(copied.recommend(X, 4), model.recommend(X, 4))
            if name in LATENT_RECOMMENDERS:
                assert_array_equal(copied.transform(X), model.transform(X))
            assert plain_parameters(copied) == plain_parameters(model)
            # Copies do not have the rows of users that partial_fit may need.
            assert sorted(vars(copied)) == sorted(vars(model).keys() - {"_rows"})
            assert getattr(copied, "history_", None) == getattr(model, "history_", None)
            unfitted = make_copy(make(name), tmp_path)
            assert plain_parameters(unfitted) == plain_parameters(make(name))
            assert not hasattr(unfitted, "n_features_in_")


def test_a_copy_is_independent(name, fitted, X):
    model = fitted(name)
    scores = model.predict(X)
    copied = copy.deepcopy(model).fit(make_interactions(40, 24, random_state=8))
    assert not np.array_equal(copied.predict(X), scores)
    assert_array_equal(model.predict(X), scores)
