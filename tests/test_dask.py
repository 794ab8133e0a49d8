"""A Dask cluster computes the same results as one process."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from conftest import make
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV

distributed = pytest.importorskip("distributed")


def test_searches_and_lists_are_those_of_one_process(fitted, X):
    def scores(name, parameter):
        search = GridSearchCV(make(name), {parameter: [0.01, 0.1]}, cv=3, refit=False).fit(X)
        return [search.cv_results_[f"split{split}_test_score"] for split in range(3)]

    searches = [("EASE", "l2"), ("MultVAE", "learning_rate")]
    expected = [scores(*search) for search in searches]
    blocks = [X[:20], X[20:40], X[40:]]
    model = fitted("MultVAE")
    with distributed.Client(n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        with joblib.parallel_config("dask"):
            assert_array_equal([scores(*search) for search in searches], expected)
        sent = client.scatter(model, broadcast=True)
        lists = client.map(lambda rows, model: model.recommend(rows, 5), blocks, model=sent)
        lists = np.concatenate(client.gather(lists))
    assert_array_equal(lists, np.concatenate([model.recommend(rows, 5) for rows in blocks]))
