"""The monitor of ranking scores, without a fit. ``tests/neural`` runs it in fits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone

from skvaecf import MultiRankingScorer, Popularity, RankingMonitor, ndcg_at_k, recall_at_k

EPOCH, FIT = SimpleNamespace(task_name="epoch"), SimpleNamespace(task_name="fit")


@pytest.fixture
def model():
    """Return a model that recommends item 2, then 1, then 0."""
    return Popularity().fit(np.array([[0, 1, 1], [0, 0, 1], [1, 1, 1]]))


# The user has item 2, so the list is [1, 0], and item 0 is held out.
FOLD_IN, HELDOUT = csr_array([[0, 0, 1]]), csr_array([[1, 0, 0]])


def test_the_log_has_one_entry_per_epoch(model):
    monitor = RankingMonitor(FOLD_IN, HELDOUT, scorer=recall_at_k.at(1))
    monitor.setup(model, FIT)
    assert monitor.log_ == []
    monitor.on_fit_task_begin(model, FIT)
    for _ in range(2):
        monitor.on_fit_task_begin(model, EPOCH)
        monitor.on_fit_task_end(model, EPOCH, fitted_estimator=model)
    monitor.on_fit_task_end(model, FIT, fitted_estimator=model)
    monitor.teardown(model, FIT)
    assert monitor.log_ == [{"epoch": 1, "recall@1": 0.0}, {"epoch": 2, "recall@1": 0.0}]
    monitor.setup(model, FIT)
    assert monitor.log_ == []


def test_several_scores(model):
    several = MultiRankingScorer((recall_at_k.at(1), recall_at_k.at(2)))
    monitor = RankingMonitor(FOLD_IN, HELDOUT, scorer=several)
    monitor.setup(model, FIT)
    monitor.on_fit_task_end(model, EPOCH, fitted_estimator=model)
    assert monitor.log_ == [{"epoch": 1, "recall@1": 0.0, "recall@2": 1.0}]


def test_the_scorer_holds_out_interactions_where_y_is_not_given(model):
    X = csr_array(np.ones((4, 8)))
    monitor = RankingMonitor(X)
    assert monitor.scorer == ndcg_at_k
    monitor.setup(model, FIT)
    fitted = Popularity().fit(X)
    monitor.on_fit_task_end(model, EPOCH, fitted_estimator=fitted)
    assert monitor.log_ == [{"epoch": 1, "ndcg@100": ndcg_at_k(fitted, X)}]


@pytest.mark.parametrize("scorer", [len, "ndcg", None])
def test_other_scorers_are_refused_before_training(scorer, model):
    monitor = RankingMonitor(FOLD_IN, HELDOUT, scorer=scorer)
    with pytest.raises(TypeError, match="scorer must be a RankingScorer or"):
        monitor.setup(model, FIT)


def test_a_monitor_is_a_callback_of_scikit_learn():
    callback = pytest.importorskip("sklearn.callback")
    monitor = RankingMonitor(FOLD_IN)
    assert isinstance(monitor, callback.FitCallback)
    assert monitor == monitor
    assert monitor != RankingMonitor(FOLD_IN)  # compared as objects: matrices have no truth value
    with pytest.raises(TypeError, match="positional"):
        RankingMonitor(FOLD_IN, HELDOUT, ndcg_at_k)
    with pytest.raises(TypeError):
        clone(monitor)  # it is not an estimator
