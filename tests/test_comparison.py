"""Comparisons of many models: statistics, splits, seeds, files, Ctrl-C."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import combinations
from math import erfc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import make
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import sem, ttest_rel, wilcoxon
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, FunctionTransformer

from skvaecf import (
    EASE,
    ItemKNN,
    MultiRankingScorer,
    Popularity,
    RankingScorer,
    UserSplitter,
    compare,
    coverage_at_k,
    mrr_at_k,
    ndcg_at_k,
    neg_gini_at_k,
    neg_mean_popularity_at_k,
    recall_at_k,
    split_interactions,
    strong_generalization_split,
)
from skvaecf._paired_tests import holm, paired_rows
from skvaecf.datasets import make_interactions

SCORING = (ndcg_at_k, recall_at_k.at(5))
FITS = []  # what every fit of a Noisy model was passed


class Noisy(BaseEstimator):
    """Score items by their popularity, with noise."""

    def __init__(self, noise=0.0, random_state=None, verbose=0, interrupt=False):
        self.noise = noise
        self.random_state = random_state
        self.verbose = verbose
        self.interrupt = interrupt

    def fit(self, X, y=None, X_val=None):
        FITS.append((self.noise, self.random_state, X, X_val))
        if self.interrupt:
            raise KeyboardInterrupt
        rng = np.random.RandomState(self.random_state or 0)
        counts = np.asarray(X.sum(axis=0)).ravel()
        self.scores_ = counts / counts.max() + self.noise * rng.normal(size=X.shape[1])
        return self

    def predict(self, X):
        return np.tile(self.scores_, (X.shape[0], 1))


@pytest.fixture(scope="module")
def X():
    return make_interactions(n_users=240, n_items=40, random_state=0)


@pytest.fixture(scope="module")
def split(X):
    return strong_generalization_split(X, 80)


@pytest.fixture(autouse=True)
def no_fits():
    FITS.clear()


def noisy(*names, **options):
    return {name: Noisy(noise, **options) for noise, name in zip((0, 0.3, 1, 3), names)}


def without_seconds(comparison):
    return pd.DataFrame(comparison.table).drop(columns=["fit_seconds", "recommend_seconds"])


def row_of(comparison, model, metric="ndcg@100"):
    table = pd.DataFrame(comparison.table).set_index(["metric", "model"])
    return table.loc[(metric, model)]


# --- the statistics


def holm_step_by_step(p, alpha):
    """Return which hypotheses Holm's procedure rejects, in the words of the paper."""
    rejected, remaining = [False] * len(p), list(range(len(p)))
    while remaining:
        smallest = min(remaining, key=lambda i: p[i])
        if p[smallest] > alpha / len(remaining):
            break
        rejected[smallest] = True
        remaining.remove(smallest)
    return rejected


def test_holm_by_hand():
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which must not be smaller than the one before.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, np.nan, 0.6])), [1, np.nan, 1])
    assert holm(np.array([])).shape == (0,)


@given(st.lists(st.sampled_from([0, 0.001, 0.004, 0.01, 0.012, 0.02, 0.03, 0.2, 1])))
def test_holm_rejects_what_the_procedure_rejects(p):
    adjusted = holm(np.array(p, dtype=float))
    for alpha in (0.0105, 0.0499, 0.101):  # not a multiple of one of the p-values
        assert (adjusted <= alpha).tolist() == holm_step_by_step(p, alpha)


@pytest.mark.parametrize("name", ["ttest_rel", "wilcoxon"])
@pytest.mark.parametrize("reference", [None, "kNN"])
def test_five_models_by_hand(split, name, reference):
    models = {
        "popular": Popularity(),
        "kNN": ItemKNN(),
        "EASE": EASE(l2=10),
        "strong": EASE(l2=1000),
        "weak": EASE(l2=0.1),
    }
    comparison = compare(models, split, scoring=SCORING, test=name, reference=reference)
    test = {"ttest_rel": ttest_rel, "wilcoxon": wilcoxon}[name]
    for scorer in SCORING:
        values = {
            model: scorer.per_user(
                estimator.fit(split.train), split.test_fold_in, split.test_heldout
            )
            for model, estimator in models.items()
        }
        best = max(values, key=lambda model: values[model].mean())
        compared_with = reference or best
        pairs = [p for p in combinations(values, 2) if reference is None or reference in p]
        p_values = {frozenset(p): test(*(values[m] for m in p)).pvalue for p in pairs}
        for model, of_model in values.items():
            row = row_of(comparison, model, scorer.name)
            assert row["n_users"] == 80
            assert row["reference"] == compared_with
            np.testing.assert_allclose(row["mean"], of_model.mean())
            np.testing.assert_allclose(row["standard_error"], sem(of_model))
            np.testing.assert_array_equal(comparison.per_user[model][scorer.name], of_model)
            if model == compared_with:
                assert np.isnan(row["p_value"])
                assert not row["distinguishable"]
                continue
            gap = of_model - values[compared_with]
            np.testing.assert_allclose(row["difference"], gap.mean())
            np.testing.assert_allclose(row["difference_standard_error"], sem(gap))
            p = p_values[frozenset((model, compared_with))]
            np.testing.assert_allclose(row["p_value"], p)
            # The definition of an adjusted p-value, for p-values that differ.
            smaller = [q for q in p_values.values() if q <= p]
            adjusted = max(q * sum(r >= q for r in p_values.values()) for q in smaller)
            np.testing.assert_allclose(row["p_value_holm"], min(adjusted, 1))
            assert row["distinguishable"] == (adjusted <= 0.05)
        of_metric = comparison.table["metric"] == scorer.name
        means = comparison.table["mean"][of_metric]
        assert (np.diff(means) <= 0).all()
    assert set(comparison.table["distinguishable"]) == {True, False}


def test_another_reference_test_and_level_need_no_fit(split):
    models = noisy("a", "b", "c")
    comparison = compare(models, split)
    FITS.clear()
    other = replace(comparison, reference="b", test=wilcoxon, alpha=0.9)
    expected = compare(models, split, reference="b", test="wilcoxon", alpha=0.9)
    assert len(FITS) == 3
    pd.testing.assert_frame_equal(without_seconds(other), without_seconds(expected))
    with pytest.raises(ValueError, match=r"reference must be a name in .*, got 'd'"):
        replace(comparison, reference="d").table["mean"]


def test_equal_models_are_rarely_distinguished_from_the_best_of_them():
    # Ten equal models: with the correction for nine comparisons, one run in seven would call one of
    # them worse than the best.
    def z_test(a, b):
        z = (a - b).mean() / (a - b).std() * np.sqrt(len(a))
        return SimpleNamespace(pvalue=erfc(abs(z) / np.sqrt(2)))

    rng = np.random.RandomState(0)
    n_runs, n_wrong = 100, 0
    for _ in range(n_runs):
        users = rng.normal(size=200)
        values = {f"model {i}": users + rng.normal(size=200) for i in range(10)}
        n_wrong += any(row["distinguishable"] for row in paired_rows(values, test=z_test))
    assert n_wrong <= 0.09 * n_runs


def test_users_without_a_value():
    values = {
        "a": np.array([0.5, 0.7, 0.9, np.nan, np.nan]),
        "b": np.array([0.1, 0.6, np.nan, 0.4, np.nan]),
        "c": np.array([0.2, np.nan, np.nan, np.nan, np.nan]),
        "d": np.full(5, np.nan),
    }
    a, b, c, d = paired_rows(values)
    assert [row["model"] for row in (a, b, c, d)] == ["a", "b", "c", "d"]
    assert [row["n_users"] for row in (a, b, c, d)] == [3, 3, 1, 0]
    np.testing.assert_allclose(b["mean"], 1.1 / 3)
    np.testing.assert_allclose(b["difference"], (-0.4 - 0.1) / 2)
    np.testing.assert_allclose(b["p_value"], ttest_rel([0.5, 0.7], [0.1, 0.6]).pvalue)
    assert np.isnan([c["p_value"], c["standard_error"], d["mean"], d["p_value"]]).all()
    np.testing.assert_allclose(c["difference"], -0.3)


@pytest.mark.parametrize("test", ["ttest_rel", "wilcoxon"])
def test_equal_values_are_not_distinguishable(test):
    same = np.array([0.1, 0.4, 0.7])
    first, second = paired_rows({"b": same, "a": same.copy()}, test=test)
    assert (first["model"], second["model"]) == ("a", "b")
    assert (second["p_value"], second["distinguishable"]) == (1, False)
    # The same difference for every user: SciPy warns about its precision.
    (_, worse) = paired_rows({"a": np.linspace(0, 1, 30), "b": np.linspace(0, 1, 30) - 0.1})
    assert worse["distinguishable"]


def test_the_order_of_the_models_changes_no_number(split):
    models = noisy("a", "b", "c", "d") | {"e": Noisy(0)}  # "a" and "e" are equal
    expected = without_seconds(compare(models, split, scoring=SCORING))
    assert "ae" in "".join(expected["model"])
    for names in ("edcba", "cebad"):
        other = compare([(name, models[name]) for name in names], split, scoring=SCORING)
        pd.testing.assert_frame_equal(without_seconds(other), expected)


@pytest.mark.parametrize("greater_is_better", [True, False])
def test_the_lowest_mean_may_be_the_best(greater_is_better):
    values = {"a": np.array([1.0, 2, 3]), "b": np.array([2.0, 4, 3]), "c": np.array([3.0, 3, 6])}
    rows = paired_rows(values, greater_is_better=greater_is_better)
    # The differences b - a, c - a and c - b are 1, 2, 0 and 2, 1, 3 and 1, -1, 3. With two degrees
    # of freedom, the p-value of t is 1 - t / sqrt(2 + t^2), and t is sqrt(3), sqrt(12), sqrt(3/4).
    p = {"ab": 1 - (3 / 5) ** 0.5, "ac": 1 - (12 / 14) ** 0.5, "bc": 1 - (3 / 11) ** 0.5}
    best, order, gaps = ("c", "cba", [0, -1, -2]) if greater_is_better else ("a", "abc", [0, 1, 2])
    assert {row["reference"] for row in rows} == {best}
    assert [row["model"] for row in rows] == list(order)
    np.testing.assert_allclose([row["difference"] for row in rows], gaps)
    for row in rows[1:]:
        np.testing.assert_allclose(row["p_value"], p["".join(sorted((row["model"], best)))])
    holm = {"ac": 3 * p["ac"], "ab": 2 * p["ab"], "bc": p["bc"]}
    np.testing.assert_allclose(rows[2]["p_value_holm"], holm["ac"])
    np.testing.assert_allclose(rows[1]["p_value_holm"], holm["bc" if greater_is_better else "ab"])


class Order(BaseEstimator):
    """Recommend the first items of a list, the same list to everybody."""

    def __init__(self, items):
        self.items = items

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.tile(-np.argsort(self.items).astype(float), (X.shape[0], 1))


def test_metrics_of_which_lower_values_are_better(tmp_path):
    # Items 0 to 4 have the shares 3/4, 1/2, 1/4, 1/4 and 0 of the four users.
    fold_in = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0]])
    heldout = np.eye(5)[[1, 4, 4, 1]]
    models = {
        "common": Order([0, 1, 2, 3, 4]),  # recommends items 1, 2, 3 and 0
        "mixed": Order([1, 4, 0, 2, 3]),  # 1, 4, 4 and 1
        "rare": Order([4, 3, 2, 1, 0]),  # 4 to everybody
    }
    scoring = [neg_mean_popularity_at_k.at(1), neg_gini_at_k.at(1), ndcg_at_k.at(1)]
    path = tmp_path / "table.csv"
    comparison = compare(models, fold_in, X_test=(fold_in, heldout), scoring=scoring, path=path)
    table = pd.DataFrame(comparison.table)
    expected = {
        "mean_popularity@1": {"rare": 0, "mixed": 0.25, "common": 1.75 / 4},
        "gini@1": {"common": 0.25, "mixed": 0.75, "rare": 1},
        "ndcg@1": {"mixed": 1, "rare": 0.5, "common": 0.25},
    }
    assert table["metric"].tolist() == [metric for metric in expected for _ in models]
    for metric, means in expected.items():
        rows = table[table["metric"] == metric]
        assert rows["model"].tolist() == list(means)
        np.testing.assert_allclose(rows["mean"], list(means.values()))
        assert set(rows["reference"]) == {next(iter(means))}
        gaps = np.array(list(means.values())) - next(iter(means.values()))
        np.testing.assert_allclose(rows["difference"], gaps)
    assert list(comparison.per_user) == ["rare", "mixed", "common"]  # by the first metric
    np.testing.assert_allclose(comparison.per_user["mixed"]["mean_popularity@1"], [0.5, 0, 0, 0.5])
    # The deviations of these differences from their mean are 1/4.
    np.testing.assert_allclose(
        row_of(comparison, "mixed", "mean_popularity@1")["difference_standard_error"],
        (4 / 16 / 3) ** 0.5 / 2,
    )
    gini = table[table["metric"] == "gini@1"]
    assert gini[["standard_error", "difference_standard_error", "p_value"]].isna().all(axis=None)
    lines = str(comparison).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["rare", "mixed", "common"]
    assert lines[-1] == "Lower is better: mean_popularity@1, gini@1."
    # The direction is that of the scorer, also with another reference and from a file.
    other = replace(comparison, reference="common").table
    assert other["model"].tolist() == table["model"].tolist()
    np.testing.assert_allclose(other["difference"][:3], [-1.75 / 4, 0.25 - 1.75 / 4, 0])
    again = compare(models, fold_in, X_test=(fold_in, heldout), scoring=scoring, path=path)
    pd.testing.assert_frame_equal(pd.DataFrame(again.table), table)


def test_a_custom_metric_says_whether_lower_is_better(split):
    def worst_place(ranked, heldout):
        return np.nanmax(np.where(ranked >= 0, ranked, np.nan), axis=1)

    for greater_is_better in (True, False):
        scorer = RankingScorer(worst_place, 3, greater_is_better=greater_is_better)
        means = compare(noisy("a", "b", "c"), split, scoring=scorer).table["mean"]
        assert (np.diff(means) < 0).all() if greater_is_better else (np.diff(means) > 0).all()


def test_coverage_has_no_standard_error(split):
    models = {"popular": Popularity(), "EASE": EASE(l2=10)}
    comparison = compare(models, split, scoring=[coverage_at_k.at(5), ndcg_at_k])
    row = row_of(comparison, "popular", "coverage@5")
    model = Popularity().fit(split.train)
    covered = np.unique(model.recommend(split.test_fold_in, k=5)).size / split.train.shape[1]
    np.testing.assert_allclose(row["mean"], covered)
    assert np.isnan([row["standard_error"], row["p_value"], row["p_value_holm"]]).all()
    assert (row["distinguishable"], row["n_users"]) == (False, 0)
    assert "EASE" in str(comparison).splitlines()[1]
    with_folds = compare(models, split.train, scoring=coverage_at_k.at(5), cv=2)
    assert with_folds.per_user["popular"]["coverage@5"].shape == ()


# --- the data


def test_folds_test_every_user_once(X):
    comparison = compare({"popular": Popularity()}, X, scoring=SCORING, cv=3)
    for scorer in SCORING:
        expected = np.full(X.shape[0], np.nan)
        for train, test in UserSplitter(3, random_state=0).split(X):
            expected[test] = scorer.per_user(Popularity().fit(X[train]), X[test])
        np.testing.assert_array_equal(comparison.per_user["popular"][scorer.name], expected)
    assert compare(noisy("a"), X).per_user["a"]["ndcg@100"].shape == (X.shape[0],)
    assert len(FITS) == 5  # the default number of splits


def test_users_of_several_test_sets_have_the_mean_of_their_values(X):
    cv = [(np.arange(100), np.arange(100, 110)), (np.arange(50), np.arange(105, 120))]
    values = compare(noisy("a"), X, cv=cv).per_user["a"]["ndcg@100"]
    first, second = (ndcg_at_k.per_user(Noisy().fit(X[a]), X[b]) for a, b in cv)
    expected = np.full(X.shape[0], np.nan)
    expected[100:110], expected[110:120] = first, second[5:]
    expected[105:110] = (first[5:] + second[:5]) / 2
    np.testing.assert_allclose(values, expected)


def test_test_users_of_the_caller(X, split):
    rows = compare(noisy("a"), X[:160], X_test=X[160:], scoring=SCORING)
    model = Noisy().fit(X[:160])
    for scorer in SCORING:
        np.testing.assert_array_equal(
            rows.per_user["a"][scorer.name], scorer.per_user(model, X[160:])
        )
    # The same users in training and test, as for weak generalization and splits by time.
    fold_in, heldout = split_interactions(X, random_state=0)
    weak = compare(noisy("a"), fold_in, X_test=(fold_in, heldout))
    expected = ndcg_at_k.per_user(Noisy().fit(fold_in), fold_in, heldout)
    np.testing.assert_array_equal(weak.per_user["a"]["ndcg@100"], expected)
    FITS.clear()
    parts = compare(noisy("a"), split, scoring=MultiRankingScorer(SCORING))
    explicit = compare(
        noisy("a"),
        split.train,
        X_test=(split.test_fold_in, split.test_heldout),
        X_val=(split.validation_fold_in, split.validation_heldout),
        scoring=SCORING,
    )
    pd.testing.assert_frame_equal(without_seconds(parts), without_seconds(explicit))
    for _, _, train, validation in FITS:
        assert train is split.train
        assert validation[0] is split.validation_fold_in


def test_dense_arrays_and_frames(X):
    expected = without_seconds(compare(noisy("a", "b"), X, cv=2))
    for other in (X.toarray(), pd.DataFrame(X.toarray())):
        models = {name: make_pipeline(Binarizer(), EASE(l2=10)) for name in "a"}
        assert compare(models, other, cv=2).table["n_users"].tolist() == [240]
    pd.testing.assert_frame_equal(
        without_seconds(compare(noisy("a", "b"), X.tocsc(), cv=2)), expected
    )


def test_models_are_cloned_and_pipelines_are_models(split):
    models = {"pipeline": make_pipeline(Binarizer(), EASE(l2=10)), "EASE": EASE(l2=10)}
    comparison = compare(models, split)
    assert not hasattr(models["EASE"], "item_similarity_")
    np.testing.assert_array_equal(*(v["ndcg@100"] for v in comparison.per_user.values()))


def test_validation_users_choose_the_epoch(split):
    model = make("MultDAE", max_epochs=3)
    row = row_of(compare({"net": model}, split), "net")
    validation = split.validation_fold_in, split.validation_heldout
    expected = model.fit(split.train, X_val=validation)
    np.testing.assert_allclose(
        row["mean"], ndcg_at_k(expected, split.test_fold_in, split.test_heldout)
    )
    assert row["best_iter"] == expected.best_iter_


# --- seeds


def test_seeds(X, split):
    models = {"noisy": Noisy(1), "pipeline": make_pipeline(Binarizer(), Noisy(1))}
    comparison = compare(models | {"popular": Popularity()}, split, random_state=[3, 4, 5])
    assert [seed for _, seed, _, _ in FITS] == [3, 4, 5] * 2
    values = [
        ndcg_at_k.per_user(
            Noisy(1, random_state=seed).fit(split.train), split.test_fold_in, split.test_heldout
        )
        for seed in (3, 4, 5)
    ]
    row = row_of(comparison, "noisy")
    np.testing.assert_allclose(comparison.per_user["noisy"]["ndcg@100"], np.mean(values, axis=0))
    np.testing.assert_allclose(row["mean"], np.mean(values))
    np.testing.assert_allclose(row["seed_std"], np.std(np.mean(values, axis=1), ddof=1))
    assert np.isnan(row_of(comparison, "popular")["seed_std"])
    FITS.clear()
    one = compare(models, split, random_state=4)
    assert [seed for _, seed, _, _ in FITS] == [4, 4]
    np.testing.assert_allclose(one.per_user["noisy"]["ndcg@100"], values[1])
    assert np.isnan(one.table["seed_std"]).all()


# --- files and Ctrl-C


def test_a_resumed_comparison_equals_an_uninterrupted_one(split, tmp_path):
    models = noisy("a", "b", "c", random_state=2)
    expected = compare(models, split, scoring=SCORING)
    path = tmp_path / "table.csv"
    FITS.clear()
    with pytest.warns(UserWarning, match="interrupted: 2 of 3 models are finished"):
        part = compare(models | {"c": Noisy(1, interrupt=True)}, split, scoring=SCORING, path=path)
    assert not part.finished
    assert part.missing == ("c",)
    assert "2 of 3 models are finished" in str(part)
    assert len(FITS) == 3
    rest = compare(models, split, scoring=SCORING, path=path)
    assert len(FITS) == 4  # only the last one was fitted again
    assert rest.finished
    pd.testing.assert_frame_equal(without_seconds(rest), without_seconds(expected))
    for name in models:
        for metric, values in expected.per_user[name].items():
            np.testing.assert_array_equal(rest.per_user[name][metric], values)
    written = pd.read_csv(path)
    pd.testing.assert_frame_equal(written, pd.DataFrame(rest.table), check_exact=True)
    # A third call fits nothing; another test or reference changes only the table.
    compare(models, split, scoring=SCORING, path=path, test="wilcoxon", reference="b")
    assert len(FITS) == 4
    assert set(pd.read_csv(path)["reference"]) == {"b"}


def test_every_finished_model_is_written_at_once(split, tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    fit, rows = Noisy.fit, []

    def reading_fit(self, X, y=None):
        rows.append(len(pd.read_csv(path)) if path.exists() else 0)
        return fit(self, X)

    monkeypatch.setattr(Noisy, "fit", reading_fit)
    compare(noisy("a", "b", "c"), split, reference="c", path=path)
    assert rows == [0, 1, 2]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["table.csv", "table.safetensors"]


def test_what_was_changed_is_fitted_again(X, split, tmp_path):
    options = {"X_test": X[160:], "path": tmp_path / "table.csv"}

    def n_fits(models, X, **changed):
        FITS.clear()
        compare(models, X, **options | changed)
        return len(FITS)

    models = {"a": Noisy(0.5, random_state=1)}
    train = X[:160].astype(np.float32)
    assert n_fits(models, train) == 1
    assert n_fits(models, train) == 0
    assert n_fits({"a": Noisy(0.5, random_state=1, verbose=1)}, train) == 0
    unsorted = train.copy()
    unsorted.indices = unsorted.indices.astype(np.int64)
    unsorted.has_sorted_indices  # SciPy keeps the answer in the matrix
    assert n_fits(models, unsorted.astype(float)) == 0
    assert n_fits({"b": models["a"]}, train) == 1
    assert n_fits({"a": Noisy(0.4, random_state=1)}, train) == 1
    assert n_fits(models, train, random_state=2) == 1
    assert n_fits(models, train, random_state=[2, 3]) == 2
    assert n_fits(models, X[:159]) == 1
    other_values = train.copy()
    other_values.data[0] = 7
    assert n_fits(models, other_values) == 1
    assert n_fits(models, train, X_test=X[170:]) == 1
    assert n_fits(models, train, X_val=X[170:]) == 1
    for heldout in (X[100:180], X[101:181]):
        assert n_fits(models, train, X_test=(X[160:], heldout)) == 1
    assert n_fits(models, train, scoring=recall_at_k) == 1
    assert n_fits(models, train, X_test=None, cv=2) == 2
    assert n_fits(models, train, X_test=None, cv=UserSplitter(2, random_state=9)) == 2
    assert n_fits(models, train) == 0  # what was first is still there


def test_an_epoch_that_is_kept_after_ctrl_c_is_marked(split, tmp_path, monkeypatch):
    model = make("MultVAE", max_epochs=3)
    validate, calls = type(model)._validate, []

    def interrupted(self, *arguments):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(self, *arguments)

    models = {"a": Noisy(), "net": model, "b": Noisy()}
    path = tmp_path / "table.csv"
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "_validate", interrupted)
        with pytest.warns(UserWarning, match="interrupted: 1 of 3 models are finished"):
            part = compare(models, split, path=path)
    assert (row_of(part, "a")["finished"], row_of(part, "net")["finished"]) == (True, False)
    assert row_of(part, "net")["best_iter"] == 1
    assert part.missing == ("b",)
    assert "net (cut)" in str(part)
    assert dict(pd.read_csv(path)[["model", "finished"]].values) == {"a": True, "net": False}
    whole = compare(models, split, path=path)
    assert whole.finished
    assert (
        row_of(whole, "net")["best_iter"]
        == model.fit(
            split.train, X_val=(split.validation_fold_in, split.validation_heldout)
        ).best_iter_
    )


def test_interrupted_folds_keep_their_users(X):
    fit, calls = Noisy.fit, []

    class Slow(Noisy):
        def fit(self, X, y=None):
            calls.append(None)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return fit(self, X)

    with pytest.warns(UserWarning, match="0 of 2 models"):
        part = compare({"slow": Slow(), "a": Noisy()}, X, cv=4, reference="a")
    assert part.table["n_users"].tolist() == [120]
    assert part.reference is None  # it was not fitted
    assert not part.finished


def test_ctrl_c_before_there_is_any_value(split):
    with pytest.raises(KeyboardInterrupt, match="there is no result"):
        compare({"a": Noisy(interrupt=True), "b": Noisy()}, split)


def test_warnings_of_fits_are_shown(split):
    class Warns(Noisy):
        def fit(self, X, y=None):
            warnings.warn("look at the data", UserWarning, stacklevel=1)
            return super().fit(X)

    with pytest.warns(UserWarning, match="look at the data"):
        assert compare({"a": Warns()}, split).finished


def test_a_full_disk_does_not_lose_the_result(split, tmp_path, monkeypatch):
    def full(*arguments):
        if FITS:
            raise OSError("No space left on device")

    monkeypatch.setattr("skvaecf._comparison_files.write_file", full)
    with pytest.warns(UserWarning, match="could not be written: No space left"):
        assert compare(noisy("a", "b"), split, path=tmp_path / "table.csv").finished


# --- what is shown


def test_the_printed_table(split, capsys):
    scoring = (ndcg_at_k, recall_at_k.at(20), recall_at_k.at(50), mrr_at_k.at(10))
    models = {"VAEGANRecommender": EASE(l2=10), "a": Popularity()}
    comparison = compare(models, split, scoring=scoring, verbose=1)
    lines = str(comparison).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == [*(scorer.name for scorer in scoring), "fit,", "s"]
    best = row_of(comparison, "VAEGANRecommender")
    assert f"{best['mean']:.4f} ±{best['standard_error']:.4f}=" in lines[1]
    assert "=" not in lines[2]
    assert lines[4] == "=: not distinguishable from VAEGANRecommender in ndcg@100,"
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == ["ndcg@100", *models]
    assert "compare: 100%" in shown.err
    compare(models, split)
    assert capsys.readouterr() == ("", "")


def test_the_table_becomes_a_frame(split):
    comparison = compare(noisy("a", "b"), split, scoring=SCORING)
    frame = pl.DataFrame(comparison.table)
    assert frame.columns == list(pd.DataFrame(comparison.table).columns)
    assert frame["finished"].dtype == pl.Boolean
    assert frame.shape[0] == 4
    assert frame["params"][0] == "Noisy(noise=0)"


# --- bad input


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "models must be a dict .* with at least one"),
        ([], "models must be a dict .* with at least one"),
        (
            [("a", EASE()), ("a", EASE(l2=2))],
            r"different names, which are strings, got \['a', 'a'\]",
        ),
        ({1: EASE()}, r"different names, which are strings, got \[1\]"),
        ([EASE()], "models must be a dict"),
        ({"a": EASE}, "models must be estimators with fit and predict, got .*EASE.* as 'a'"),
        ({"a": Binarizer()}, "models must be estimators with fit and predict"),
    ],
)
def test_invalid_models(split, models, message):
    with pytest.raises(ValueError, match=message):
        compare(models, split)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scoring": "ndcg"}, "scoring must be a RankingScorer.*got 'ndcg'"),
        ({"scoring": ()}, r"scoring must be a RankingScorer.*got \(\)"),
        ({"scoring": (ndcg_at_k, ndcg_at_k)}, "different in their names"),
        ({"reference": "d"}, r"reference must be a name in \['a', 'b'\], got 'd'"),
        ({"test": "anova"}, "'test' parameter of compare must be"),
        ({"alpha": 5}, "'alpha' parameter of compare must be"),
        ({"random_state": -1}, "'random_state' parameter of compare must be"),
        ({"random_state": []}, "random_state must hold one seed or more"),
        ({"path": "table.txt"}, r"path must end in .csv, got 'table.txt'"),
        ({"cv": 3}, "cv must be None if X_test is given, got 3"),
        ({"X_test": make_interactions(9, 30)}, r"X_test must have the 40 items of X.*\(9, 30\)"),
        ({"X_test": (make_interactions(9, 40),) * 3}, "X_test must be a matrix or a pair.*3"),
        (
            {"X_test": (make_interactions(9, 40), make_interactions(8, 40))},
            r"same users in both matrices, got the shapes \[\(9, 40\), \(8, 40\)\]",
        ),
        ({"X_test": np.zeros((9, 40))}, "No test user has held-out interactions"),
    ],
)
def test_invalid_arguments(split, options, message):
    with pytest.raises(ValueError, match=message):
        compare(noisy("a", "b"), split, **options)
    assert len(FITS) == ("No test user" in message)


def test_invalid_data(X):
    with pytest.raises(ValueError, match="X must be a matrix or a Bunch with"):
        compare(noisy("a"), {"train": X})
    rows = np.arange(240)
    with pytest.raises(ValueError, match="cv must not yield the same users for training and test"):
        compare(noisy("a"), X, cv=[(rows[:200], rows[200:]), (rows, rows[100:])])
    with pytest.raises(ValueError, match="X contains NaN"):
        compare(noisy("a"), np.full((9, 9), np.nan))
    with pytest.raises(ValueError, match="n_splits=500 is more than"):
        compare(noisy("a"), X, cv=500)


def test_files_that_cannot_be_used(split, tmp_path):
    local = {"a": make_pipeline(FunctionTransformer(lambda X: X), Noisy())}
    with pytest.raises(
        ValueError, match="path must be None for 'a', because it or a scorer cannot"
    ):
        compare(local, split, path=tmp_path / "table.csv")
    with pytest.raises(FileNotFoundError):
        compare(noisy("a"), split, path=tmp_path / "missing" / "table.csv")
    damaged = tmp_path / "table.safetensors"
    damaged.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"table.safetensors cannot be loaded.*Remove it"):
        compare(noisy("a"), split, path=tmp_path / "table.csv")
    EASE(l2=1).fit(split.train).save(damaged)
    with pytest.raises(ValueError, match="it holds something else than the values of a comp"):
        compare(noisy("a"), split, path=tmp_path / "table.csv")
    assert not FITS
