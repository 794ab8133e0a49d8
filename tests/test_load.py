"""Many threads and processes that use one fitted recommender get the lists of a single caller."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from conftest import RECOMMENDERS, make
from numpy.testing import assert_array_equal

from skvaecf.datasets import make_interactions


def lists_of(models, X):
    return [model.recommend(X, 5, return_scores=True) for model in models]


def assert_all_equal(found, expected):
    for lists in zip(found, expected, strict=True):
        for one, other in zip(*lists, strict=True):
            assert_array_equal(one, other)


def test_eight_threads_get_what_one_gets(name, fitted, X):
    model = fitted(name)
    blocks = [X[start : start + 30] for start in range(0, 31, 2)]
    expected = [model.recommend(block, 5, return_scores=True) for block in blocks]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(2):
            found = threads.map(lambda b: model.recommend(b, 5, return_scores=True), blocks)
            assert_all_equal(found, expected)


def test_threads_can_fit_their_own_estimators(name, fitted, X):
    with ThreadPoolExecutor(4) as threads:
        for scores in threads.map(lambda _: make(name).fit(X).predict(X), range(4)):
            assert_array_equal(scores, fitted(name).predict(X))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_get_what_the_parent_gets(method, fitted, X):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    models = [fitted(name) for name in RECOMMENDERS]
    expected = lists_of(models, X)  # the parent has computed before it forks
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        for found in processes.map(lists_of, [models] * 2, [X] * 2, timeout=900):
            assert_all_equal(found, expected)


def test_the_matrix_is_shared_by_threads_unchanged(fitted):
    X = make_interactions(64, 24, random_state=3)
    for start, end in zip(X.indptr, X.indptr[1:], strict=False):  # not sorted: SciPy would sort
        X.indices[start:end] = X.indices[start:end][::-1].copy()
    X.has_sorted_indices = False
    before = [part.copy() for part in (X.data, X.indices, X.indptr)]
    model = fitted("EASE")
    expected = model.recommend(X.copy(), 5)
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: model.recommend(X, 5), range(16)):
            assert_array_equal(found, expected)
    for part, was in zip((X.data, X.indices, X.indptr), before, strict=True):
        assert_array_equal(part, was)
    assert not np.array_equal(X.indices, np.sort(X.indices))
