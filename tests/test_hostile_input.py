"""Matrices of any structure: the results of the same interactions in plain form, or a ValueError.

``python tests/test_hostile_input.py --examples 10000`` tries more matrices than the tests.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import LATENT_RECOMMENDERS, RECOMMENDERS, make
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning

import skvaecf
from skvaecf import recommend
from skvaecf.datasets import make_interactions
from skvaecf.neural import TorchRecommender

N_ITEMS = 24  # of the models that are fitted once

SCORERS = [
    skvaecf.ndcg_at_k,
    skvaecf.recall_at_k.at(3),
    skvaecf.precision_at_k.at(1),
    skvaecf.mrr_at_k,
    skvaecf.map_at_k,
    skvaecf.hit_rate_at_k.at(5),
    skvaecf.coverage_at_k.at(2),
]

# --- matrices

CONTAINERS = [
    *(sp.csr_array, sp.csr_matrix, sp.csc_array, sp.csc_matrix, sp.coo_array, sp.coo_matrix),
    *(sp.lil_array, sp.lil_matrix, sp.dok_array, sp.dok_matrix, sp.dia_array, sp.dia_matrix),
    *(sp.bsr_array, sp.bsr_matrix),
]
TYPES = ["bool", "int8", "uint8", "int32", "int64", "uint64", "float32", "float64"]
ODD_VALUES = [0, 1, 1, 1, 3, 100, 127, 2**24, 2**31 - 1, 2**40, 1e-40, 1e-300, 0.5, 1e30, 1e300]


def values_of(dtype: str) -> list[Any]:
    """Return values that do not become negative or infinite in a type."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return [False, True]
    if kind.kind in "iu":
        return [
            value for value in ODD_VALUES if value <= np.iinfo(kind).max and value == int(value)
        ]
    return [value for value in ODD_VALUES if value <= float(np.finfo(kind).max)]


@st.composite
def entries(draw, n_items):
    """Draw shape, rows, columns and values: unsorted, with duplicates, zeros and empty rows."""
    n_users = draw(st.one_of(st.just(1), st.integers(2, 9)))
    if n_items is None:
        n_items = draw(st.one_of(st.just(1), st.integers(2, 9)))
    dtype = draw(st.sampled_from(TYPES))
    everything = draw(st.integers(0, 9)) == 0
    if everything:
        rows, columns = np.divmod(np.arange(n_users * n_items), n_items)
    else:
        pairs = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
        drawn = draw(st.lists(pairs, max_size=40))
        rows, columns = np.array(drawn, dtype=np.int64).reshape(-1, 2).T
    size = len(rows)
    values = draw(st.lists(st.sampled_from(values_of(dtype)), min_size=size, max_size=size))
    return (n_users, n_items), rows, columns, np.array(values, dtype=dtype)


def raw_csr(shape, rows, columns, values, index_dtype, container=sp.csr_array):
    """Return a matrix of unsorted entries and duplicates, which a conversion would change."""
    order = np.argsort(rows, kind="stable")
    indptr = np.append(0, np.bincount(rows, minlength=shape[0]).cumsum()).astype(index_dtype)
    X = container(shape, dtype=values.dtype)
    X.data, X.indices, X.indptr = values[order], columns[order].astype(index_dtype), indptr
    return X


def plain(shape, rows, columns, values):
    """Return the same interactions as a dense array of ones and zeros."""
    A = np.zeros(shape, dtype=np.float32)
    A[rows[values > 0], columns[values > 0]] = 1
    return A


def mapped(array):
    """Return a read-only memory map of an array."""
    if not array.size:
        return array
    with tempfile.NamedTemporaryFile() as file:
        array.tofile(file)
        file.flush()
        return np.memmap(file.name, dtype=array.dtype, mode="r", shape=array.shape)


@st.composite
def matrices(draw, n_items=None):
    """Draw interactions in some form, and return them in plain form, too."""
    shape, rows, columns, values = draw(entries(n_items))
    A = plain(shape, rows, columns, values)
    index_dtype = draw(st.sampled_from([np.int32, np.int64]))
    form = draw(st.sampled_from(["raw", "raw", "raw", "sliced", "converted", "dense", "lists"]))
    if form == "dense":
        # A dense array has no duplicates.
        dense = np.zeros(shape, dtype=values.dtype)
        dense[rows, columns] = values
        A = (dense > 0).astype(np.float32)
        order = draw(st.sampled_from(["C", "F"]))
        byte_order = draw(st.sampled_from("<>"))
        X = np.array(dense, order=order, dtype=dense.dtype.newbyteorder(byte_order))
        X.flags.writeable = draw(st.booleans())
    elif form == "lists":
        X = A.astype(int).tolist()
    elif form == "converted":
        # Conversions add up duplicates, which may exceed the range of a type.
        X = draw(st.sampled_from(CONTAINERS))(sp.csr_array(A.astype(values.dtype)))
    else:
        container = draw(st.sampled_from([sp.csr_array, sp.csr_matrix]))
        X = raw_csr(shape, rows, columns, values, index_dtype, container)
        layout = draw(st.sampled_from(["csr", "csr", "csc", "coo"]))
        if layout == "csc":
            X = raw_csr(shape[::-1], columns, rows, values, index_dtype).T
            if draw(st.booleans()):
                X = sp.csc_matrix(X)
        elif layout == "coo":
            X = draw(st.sampled_from([sp.coo_array, sp.coo_matrix]))(
                (values, (rows, columns)), shape=shape
            )
        elif form == "sliced":
            X = X[::-1][:, : shape[1]][::-1]
        if layout != "coo" and form != "sliced" and draw(st.booleans()):
            X.data, X.indices, X.indptr = (mapped(a) for a in (X.data, X.indices, X.indptr))
    note(f"{type(X).__name__} of {form}")
    return X, A


def contents(X):
    """Return all arrays of a matrix."""
    if isinstance(X, list):
        return [np.array(X)]
    if isinstance(X, np.ndarray):
        return [X]
    if X.format == "dok":
        return [np.array(sorted((*key, value) for key, value in X.items()))]
    parts = {"coo": ("data", "row", "col"), "lil": ("data", "rows"), "dia": ("data", "offsets")}
    return [getattr(X, part) for part in parts.get(X.format, ("data", "indices", "indptr"))]


class Unchanged:
    """Check at the end of a block that matrices have not changed."""

    def __init__(self, *given):
        self.given = given

    def __enter__(self):
        self.before = [[part.copy() for part in contents(X)] for X in self.given]

    def __exit__(self, kind, *_):
        if kind is None:
            for X, before in zip(self.given, self.before, strict=True):
                for part, was in zip(contents(X), before, strict=True):
                    assert part.dtype == was.dtype
                    assert_array_equal(part, was)


# --- models and results

MODELS = {name: (name, {}) for name in RECOMMENDERS} | {
    "WMF of values": ("WMF", {"use_values": True})
}
models, recommenders, scorers = map(st.sampled_from, (sorted(MODELS), RECOMMENDERS, SCORERS))


def new(key):
    name, changes = MODELS[key]
    if issubclass(getattr(skvaecf, name), TorchRecommender):
        changes = changes | {"max_epochs": 1, "n_components": 3}
    return make(name, **changes)


@cache
def fitted_once(key):
    return new(key).fit(make_interactions(40, N_ITEMS, n_blocks=2, noise=0.3, random_state=0))


def reference(key, X, A):
    """Return the form to compare with: the plain one, unless values matter to the model."""
    if key != "WMF of values" or isinstance(X, (list, np.ndarray)):
        return A if key != "WMF of values" else np.asarray(X, dtype=np.float64)
    return None  # sums of duplicates are tested elsewhere


def refused(key, X):
    """Return whether a count is too large, the only reason to refuse a valid matrix."""
    if key != "WMF of values":
        return False
    values = np.asarray(X, float) if isinstance(X, (list, np.ndarray)) else X.astype(float).tocsr()
    return sp.csr_array(values).toarray().max() > 2**24


def assert_lists(items, scores, A, k):
    """Check ranges, order and padding, and that no item with an entry in A is recommended."""
    n_users, n_items = A.shape
    assert items.shape == scores.shape == (n_users, k)
    assert ((items >= -1) & (items < n_items)).all()
    there = items >= 0
    assert_array_equal(there.sum(axis=1), np.minimum(k, (A == 0).sum(axis=1)))
    assert (there[:, :-1] >= there[:, 1:]).all()
    assert np.isfinite(scores[there]).all()
    assert np.isneginf(scores[~there]).all()
    for user in range(n_users):
        own = items[user, there[user]]
        assert len(set(own)) == len(own)
        assert not A[user, own].any()
        assert (np.diff(scores[user, there[user]]) <= 0).all()


def assert_answers(key, model, X, A, k):
    """Check all results of a fitted model for X, whose plain form is A."""
    scores = model.predict(X)
    assert scores.shape == A.shape
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    lists = model.recommend(X, k, return_scores=True)
    assert_lists(*lists, A, k)
    expected = reference(key, X, A)
    if expected is not None:
        assert_array_equal(scores, model.predict(expected))
        assert_array_equal(lists[0], model.recommend(expected, k))
    assert_array_equal(recommend(model, X, k), lists[0])
    if MODELS[key][0] in LATENT_RECOMMENDERS:
        Z = model.transform(X)
        assert len(Z) == len(A)
        assert np.isfinite(Z).all()


def assert_scored(scorer, model, X, y=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        score = scorer(model, X, y)
    assert np.isnan(score) or 0 <= score <= 1


@pytest.fixture(autouse=True)
def _no_convergence_warnings():
    # Tiny fits may not converge, and then warn.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@given(models, matrices(), st.integers(1, 12))
def test_fit_and_all_that_follows(key, matrix, k):
    X, A = matrix
    if refused(key, X):
        with pytest.raises(ValueError, match="X holds the count"):
            new(key).fit(X)
        return
    with Unchanged(X):
        model = new(key).fit(X)
        assert model.n_features_in_ == A.shape[1]
        assert_answers(key, model, X, A, k)
    expected = reference(key, X, A)
    if expected is not None:
        assert_array_equal(model.predict(A), new(key).fit(expected).predict(A))


@given(models, matrices(N_ITEMS), st.integers(1, 30))
def test_users_of_a_fitted_model(key, matrix, k):
    X, A = matrix
    if refused(key, X):
        with pytest.raises(ValueError, match="X holds the count"):
            fitted_once(key).predict(X)
        return
    with Unchanged(X):
        assert_answers(key, fitted_once(key), X, A, k)


@given(
    st.sampled_from(RECOMMENDERS), st.sampled_from(SCORERS), matrices(N_ITEMS), matrices(N_ITEMS)
)
def test_scorers(key, scorer, matrix, other):
    model = fitted_once(key)
    (X, A), (y, B) = matrix, other
    with Unchanged(X, y):
        assert_scored(scorer, model, X)
        if A.shape == B.shape:
            assert_scored(scorer, model, X, y)
        else:
            with pytest.raises(ValueError, match="shape"):
                scorer(model, X, y)


@given(recommenders, matrices(N_ITEMS), matrices(N_ITEMS), st.integers(1, 30))
def test_matrices_of_excluded_items(key, matrix, other, k):
    model = fitted_once(key)
    (X, A), (excluded, E) = matrix, other
    with Unchanged(X, excluded):
        if A.shape == E.shape:
            lists = model.recommend(X, k, exclude=excluded, return_scores=True)
            assert_lists(*lists, A + E, k)
            items = model.recommend(X, k, exclude=excluded, exclude_seen=False)
            assert_array_equal(items, model.recommend(X, k, candidates=1 - E, exclude_seen=False))
        else:
            with pytest.raises(ValueError, match="exclude"):
                model.recommend(X, k, exclude=excluded)


@given(recommenders, matrices(N_ITEMS), matrices(N_ITEMS))
def test_masks_of_candidates(key, matrix, other):
    model = fitted_once(key)
    (X, A), (mask, M) = matrix, other
    with Unchanged(X, mask):
        if A.shape == M.shape:
            items = model.recommend(X, 5, candidates=mask)
            for user, own in enumerate(items):
                assert M[user, own[own >= 0]].all()
            allowed = (M > 0) & (A == 0)
            assert_array_equal((items >= 0).sum(axis=1), np.minimum(5, allowed.sum(axis=1)))
        else:
            with pytest.raises(ValueError, match="candidates"):
                model.recommend(X, 5, candidates=mask)


# --- broken matrices


def broken_index(X, place, n):
    X.indices[place % X.indices.size] = n


def broken_pointer(X, place, n):
    # A number up to X.nnz could be a valid pointer.
    X.indptr[place % X.indptr.size] = n if n < 0 or n > X.nnz else 1000


def no_last_pointer(X, place, n):
    X.indptr[-1] = 0


def cut(part):
    def shorten(X, place, n):
        setattr(X, part, getattr(X, part)[: place % max(1, len(getattr(X, part)) - 1)])

    return shorten


def broken_value(value):
    def change(X, place, n):
        X.data[np.unravel_index(place % X.data.size, X.data.shape)] = value

    return change


def broken_row(X, place, n):
    X.row[place % len(X.row)] = n


def broken_column(X, place, n):
    X.col[place % len(X.col)] = n


def broken_list(X, place, n):
    X.rows[place % len(X.rows)] = [n]
    X.data[place % len(X.data)] = [1.0]


def uneven_lists(X, place, n):
    X.data[place % len(X.data)] = [1.0] * (len(X.rows[place % len(X.rows)]) + 1)


def broken_key(X, place, n):
    X._dict[(place % X.shape[0], n)] = 1.0


COMPRESSED = {
    "index": broken_index,
    "pointer": broken_pointer,
    "no last pointer": no_last_pointer,
    "short data": cut("data"),
    "short indices": cut("indices"),
    "short pointers": cut("indptr"),
}
VALUE = {f"value {value}": broken_value(value) for value in (np.nan, np.inf, -np.inf, -1.0)}
BREAKS = {
    **{sparse_format: COMPRESSED | VALUE for sparse_format in ("csr", "csc")},
    "bsr": {"index": broken_index, "pointer": broken_pointer} | VALUE,
    "coo": {"row": broken_row, "column": broken_column, "short data": cut("data")} | VALUE,
    "lil": {"list": broken_list, "uneven lists": uneven_lists},
    "dok": {"key": broken_key},
}
OUTSIDE = st.sampled_from([-1, -(2**31), N_ITEMS, N_ITEMS + 1, 1000, 2**30, 2**31 - 1])
ways = st.sampled_from([(f, how) for f in BREAKS for how in BREAKS[f]])


def broken(way, matrix_type, place, n):
    sparse_format, how = way
    X = sp.random_array((6, N_ITEMS), density=0.4, random_state=0, dtype=np.float64)
    X = getattr(sp, f"{sparse_format}_{matrix_type}")(X)
    BREAKS[sparse_format][how](X, place, n)
    return X


@given(models, ways, st.sampled_from(["array", "matrix"]), st.integers(0, 10**6), OUTSIDE)
def test_broken_matrices_are_refused_by_everything(key, way, matrix_type, place, n):
    model = fitted_once(key)
    calls = {
        "fit": new(key).fit,
        "predict": model.predict,
        "recommend": model.recommend,
        "the function recommend": lambda X: recommend(model, X),
        "explain": lambda X: model.explain(X, [0]),
        "score": model.score,
        "a scorer": lambda X: skvaecf.recall_at_k(model, X),
        "split_interactions": skvaecf.split_interactions,
    }
    if MODELS[key][0] in LATENT_RECOMMENDERS:
        calls["transform"] = model.transform
    if not way[1].startswith("value"):
        calls["candidates"] = lambda X: model.recommend(np.zeros(X.shape), candidates=X)
        calls["exclude"] = lambda X: model.recommend(np.zeros(X.shape), exclude=X)
    for name, call in calls.items():
        note(name)
        X = broken(way, matrix_type, place, n)
        with pytest.raises(ValueError, match=r"\bX\b|candidates|exclude"):
            call(X)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="per test")
    parser.add_argument("--only", default="", help="part of the names of the tests")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    for message in (
        "Sparse CSR tensor support is in beta state",
        "The given NumPy array is not writable",
        "early_stopping has no validation users",
    ):
        warnings.filterwarnings("ignore", message)
    further = settings(
        max_examples=options.examples,
        derandomize=False,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    for name, test in list(globals().items()):
        if name.startswith("test_") and options.only in name:
            started = time.monotonic()
            further(test)()
            seconds = time.monotonic() - started
            print(f"{name}: {options.examples} examples, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
