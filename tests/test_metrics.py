import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csc_array, csr_array, csr_matrix
from sklearn import config_context
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, MinMaxScaler

from skvaecf import Popularity, metrics, recommend, scorers
from skvaecf.model_selection import UserSplitter, split_interactions
from skvaecf.neural import BaseRecommender
from skvaecf.scorers import MultiRankingScorer, RankingScorer

SCORERS = {
    name: getattr(scorers, name)
    for name in (
        "ndcg_at_k",
        "recall_at_k",
        "precision_at_k",
        "mrr_at_k",
        "map_at_k",
        "hit_rate_at_k",
        "coverage_at_k",
    )
}
PER_USER = {
    "ndcg": metrics.ndcg,
    "recall": metrics.recall,
    "precision": metrics.precision,
    "mrr": metrics.mrr,
    "map": metrics.average_precision,
    "hit_rate": metrics.hit_rate,
}


class TinyPopularity(BaseRecommender):
    """Scores popularity times a factor: a negative one recommends the least popular."""

    factor: float = 1.0

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(X, y)

    def _fit(self, X):
        self.popularity_ = self.factor * X.sum(axis=0)

    def _scorer(self):
        popularity = torch.tensor(self.popularity_, dtype=torch.float32)
        return lambda X: popularity.repeat(X.shape[0], 1)


class FixedScores:
    """Predicts given scores for every user, and keeps the rows it was asked for."""

    def __init__(self, scores):
        self.scores = np.asarray(scores, dtype=np.float32)
        self.asked = []

    def predict(self, X):
        self.asked.append(X)
        return np.tile(self.scores, (X.shape[0], 1))


@pytest.fixture(scope="module")
def ratings():
    """Return ratings 1 to 5 of 120 users, in which some items are more popular."""
    rng = np.random.default_rng(0)
    present = rng.random((120, 40)) < np.linspace(0.8, 0.05, 40)
    return csr_array(present * rng.integers(1, 6, present.shape))


class TestFunctions:
    # Three items are held out; two of them are in places 2 and 4 of 5.
    ranked = np.array([[4, 1, 5, 2, 6]])
    heldout = csr_array([[0, 1, 1, 1, 0, 0, 0]])

    @pytest.mark.parametrize(
        ("metric", "k", "expected"),
        [
            ("ndcg", 1, 0),
            ("ndcg", 2, (1 / math.log2(3)) / (1 + 1 / math.log2(3))),
            ("ndcg", 5, (1 / math.log2(3) + 1 / math.log2(5)) / (1.5 + 1 / math.log2(3))),
            ("recall", 2, 1 / 2),
            ("recall", 5, 2 / 3),
            ("precision", 2, 1 / 2),
            ("precision", 5, 2 / 5),
            ("precision", 10, 2 / 10),
            ("mrr", 1, 0),
            ("mrr", 5, 1 / 2),
            ("map", 1, 0),
            ("map", 2, (1 / 2) / 2),
            ("map", 5, (1 / 2 + 2 / 4) / 3),
            ("hit_rate", 1, 0),
            ("hit_rate", 2, 1),
        ],
    )
    def test_by_hand(self, metric, k, expected):
        assert_allclose(PER_USER[metric](self.ranked, self.heldout, k), [expected], rtol=1e-15)

    def test_uncapped(self):
        assert_allclose(metrics.recall(self.ranked, self.heldout, 2, capped=False), [1 / 3])
        value = metrics.average_precision(self.ranked, self.heldout, 2, capped=False)
        assert_allclose(value, [(1 / 2) / 3])

    @pytest.mark.parametrize("metric", PER_USER)
    def test_k_beyond_the_catalogue(self, metric):
        for k in (7, 100):
            padded = np.pad(self.ranked, ((0, 0), (0, k - 5)), constant_values=-1)
            expected = PER_USER[metric](padded, self.heldout, k)
            assert_array_equal(PER_USER[metric](self.ranked, self.heldout, k), expected)

    @pytest.mark.parametrize("metric", PER_USER)
    def test_nothing_held_out_and_empty_lists(self, metric):
        heldout = csr_array([[0, 0, 0], [1, 0, 0]])
        values = PER_USER[metric](np.array([[0, 1], [-1, -1]]), heldout, 2)
        assert_array_equal(values, [np.nan, 0])
        assert values.dtype == np.float64
        assert np.isnan(PER_USER[metric]([[0, 1]], csr_array((1, 3)), 2)).all()

    @pytest.mark.parametrize("metric", PER_USER)
    def test_perfect_list_is_exactly_one(self, metric):
        heldout = csr_array(np.tri(50))
        ranked = np.tile(np.arange(50), (50, 1))
        k = 1 if metric == "precision" else 50
        assert_array_equal(PER_USER[metric](ranked, heldout, k), np.ones(50))

    def test_heldout_values_do_not_matter(self):
        messy = csr_array(([3.0, 0, 2, 5, 1], [3, 0, 1, 2, 1], [0, 5]), shape=(1, 7))
        for name in PER_USER:
            expected = PER_USER[name](self.ranked, self.heldout, 5)
            assert_array_equal(PER_USER[name](self.ranked, messy, 5), expected)
        assert messy.nnz == 5

    def test_coverage(self):
        ranked = np.array([[3, 0, -1], [3, 1, 2]])
        assert metrics.coverage(ranked, 8, 1) == 1 / 8
        assert metrics.coverage(ranked, 8, 2) == 3 / 8
        assert metrics.coverage(ranked, 8) == 4 / 8
        assert metrics.coverage(np.full((2, 2), -1), 8) == 0

    @pytest.mark.parametrize(
        ("ranked", "k", "argument"),
        [
            ([[1, 2]], 0, "k"),
            ([[1, 2]], 2.0, "k"),
            ([1, 2], 2, "ranked"),
            ([[1.0, 2.0]], 2, "ranked"),
            ([[1, 7]], 2, "ranked"),
            ([[]], 2, "ranked"),
            ([[1, 2], [1, 2]], 2, "ranked"),
        ],
    )
    def test_invalid(self, ranked, k, argument):
        with pytest.raises(ValueError, match=argument):
            metrics.ndcg(ranked, self.heldout, k)

    @given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 8), st.integers(1, 8))
    @settings(deadline=None, max_examples=50)
    def test_by_brute_force(self, seed, k, n_items, n_places):
        rng = np.random.default_rng(seed)
        n_places = min(n_places, n_items)
        relevant = rng.random((4, n_items)) < rng.random()
        ranked = np.array([rng.permutation(n_items)[:n_places] for _ in range(4)])
        ranked[:, rng.integers(1, n_places + 1) :] = -1
        for user in range(4):
            n = relevant[user].sum()
            hits = [int(i >= 0 and relevant[user, i]) for i in ranked[user][:k]]
            if not n:
                expected = dict.fromkeys(PER_USER, np.nan)
            else:
                gains = [1 / math.log2(r + 2) for r in range(min(k, n))]
                places = [r + 1 for r, hit in enumerate(hits) if hit]
                expected = {
                    "ndcg": sum(1 / math.log2(r + 1) for r in places) / sum(gains),
                    "recall": sum(hits) / min(k, n),
                    "precision": sum(hits) / k,
                    "mrr": 1 / places[0] if places else 0,
                    "map": sum((j + 1) / r for j, r in enumerate(places)) / min(k, n),
                    "hit_rate": float(any(hits)),
                }
            for name, value in expected.items():
                found = PER_USER[name](ranked, csr_array(relevant), k)[user]
                assert_allclose(found, value, rtol=1e-12)

    def test_by_trec_eval(self):
        pytrec_eval = pytest.importorskip("pytrec_eval")
        rng = np.random.default_rng(0)
        relevant = rng.random((60, 50)) < 0.2
        ranked = np.array([rng.permutation(50)[:20] for _ in range(60)])
        qrels = {str(u): {str(i): int(relevant[u, i]) for i in range(50)} for u in range(60)}
        for k in (1, 5, 20):
            run = {
                str(u): {str(i): float(-r) for r, i in enumerate(ranked[u, :k])} for u in range(60)
            }
            measures = {
                f"ndcg_cut.{k}": PER_USER["ndcg"],
                f"recall.{k}": lambda *a: metrics.recall(*a, capped=False),
                f"P.{k}": PER_USER["precision"],
                f"map_cut.{k}": lambda *a: metrics.average_precision(*a, capped=False),
                "recip_rank": PER_USER["mrr"],
                f"success.{k}": PER_USER["hit_rate"],
            }
            results = pytrec_eval.RelevanceEvaluator(qrels, set(measures)).evaluate(run)
            for measure, function in measures.items():
                key = measure.replace(".", "_")
                expected = [results[str(u)][key] for u in range(60)]
                assert_allclose(function(ranked, csr_array(relevant), k), expected, rtol=1e-6)
        # The map of trec_eval divides by n. If n <= k, the cap makes no difference.
        few = csr_array(relevant * (relevant.cumsum(axis=1) <= 5))
        assert_array_equal(
            metrics.average_precision(ranked, few, 5),
            metrics.average_precision(ranked, few, 5, capped=False),
        )


def test_more_pairs_than_the_largest_int32():
    n = 70_000
    numbers = np.arange(n + 1, dtype=np.int32)
    heldout = csr_array((np.ones(n), numbers[:-1], numbers), shape=(n, n))
    assert (metrics.ndcg(np.arange(n)[:, None], heldout, 1) == 1).all()


@pytest.mark.parametrize("cut", [{"test_size": 0.5}, {"random_state": 3}])
def test_test_size_and_random_state_of_a_scorer(cut, ratings):
    model = TinyPopularity().fit(ratings)
    fold_in, heldout = split_interactions(
        ratings, cut.get("test_size", 0.2), random_state=cut.get("random_state", 0)
    )
    ranked = recommend(model, fold_in, 5)
    expected = metrics.ndcg(ranked, heldout, 5)
    assert_array_equal(RankingScorer("ndcg", 5, **cut).per_user(model, ratings), expected)


class TestScorer:
    def test_scorers_are_compared_by_value(self):
        scorer = RankingScorer("ndcg", 20, test_size=0.3, random_state=1, relevance_threshold=3.5)
        assert eval(repr(scorer)) == scorer
        assert hash(copy.deepcopy(scorer)) == hash(scorer)
        assert scorer.at(5) == RankingScorer(
            "ndcg", 5, test_size=0.3, random_state=1, relevance_threshold=3.5
        )
        for scorer in [*SCORERS.values(), MultiRankingScorer(tuple(SCORERS.values()))]:
            assert pickle.loads(pickle.dumps(scorer)) == scorer
            assert len({scorer, copy.copy(scorer)}) == 1
        with pytest.raises(AttributeError):
            scorer.k = 3

    @pytest.mark.parametrize(
        "parameters",
        [
            {"metric": "hits"},
            {"k": 0},
            {"test_size": 1.0},
            {"random_state": None},
            {"relevance_threshold": -1},
            {"capped": "no"},
        ],
    )
    def test_invalid_parameters(self, parameters):
        with pytest.raises(ValueError, match=f"'{next(iter(parameters))}' parameter of RankingS"):
            RankingScorer(**{"metric": "ndcg", **parameters})

    def test_true_is_not_a_valid_k(self):
        with pytest.raises(ValueError, match="k must be an integer of at least 1, got True"):
            RankingScorer("ndcg", True)

    @pytest.mark.parametrize("metric", PER_USER)
    def test_with_y_by_hand(self, metric):
        # Item 0 is seen. Items 1 and 2 have equal scores, so the lower number comes first.
        X = csr_array([[1, 0, 0, 0, 0]])
        y = csr_array([[0, 0, 2, 1, 0]])
        expected = PER_USER[metric]([[1, 2]], y, 2)
        scorer = RankingScorer(metric, 2)
        assert scorer(FixedScores([9, 5, 5, 1, 2]), X, y) == expected
        assert scorer(FixedScores([9, 5, 5, 1, 2]), X.toarray(), y.toarray()) == expected
        assert scorer(FixedScores([9, 5, 5, 1, 2]), csr_matrix(X), csc_array(y)) == expected

    def test_predicts_from_the_raw_fold_in_rows(self, ratings):
        model = FixedScores(np.arange(40))
        values = scorers.ndcg_at_k.per_user(model, ratings)
        fold_in, heldout = split_interactions(ratings, random_state=0)
        [asked] = model.asked
        assert (asked != fold_in).nnz == 0
        assert asked.nnz == fold_in.nnz
        seen = fold_in.toarray() > 0
        order = np.argsort(np.where(seen, np.inf, -np.arange(40.0)), axis=1)
        unseen = np.take_along_axis(seen, order, axis=1)
        assert_array_equal(values, metrics.ndcg(np.where(unseen, -1, order), heldout))

    def test_x_and_y_are_not_changed(self):
        X = csr_array(([1.0, 1, 0, 2, 1, 3, 1], [3, 1, 0, 7, 5, 6, 7], [0, 7]), shape=(1, 9))
        y = csr_array(([1.0, 0, 2, 1], [8, 0, 2, 2], [0, 4]), shape=(1, 9))
        copies = [part.copy() for matrix in (X, y) for part in (matrix.data, matrix.indices)]
        scorers.ndcg_at_k(FixedScores(np.arange(9)), X)
        scorers.ndcg_at_k(FixedScores(np.arange(9)), X, y)
        after = [part for matrix in (X, y) for part in (matrix.data, matrix.indices)]
        for before, now in zip(copies, after, strict=True):
            assert_array_equal(before, now)

    def test_users_without_held_out_items_do_not_count(self, ratings):
        model = TinyPopularity().fit(ratings)
        more = csr_array(np.vstack([ratings.toarray(), np.zeros((5, 40)), np.eye(40)[:3]]))
        for scorer in set(SCORERS.values()) - {scorers.coverage_at_k}:
            assert scorer(model, more) == scorer(model, ratings)
        values = scorers.ndcg_at_k.per_user(model, more)
        assert np.isnan(values[-8:]).all()
        assert scorers.ndcg_at_k(model, more) == pytest.approx(np.nanmean(values))

    def test_no_users_to_score(self, ratings):
        model = TinyPopularity().fit(ratings)
        with pytest.warns(UndefinedMetricWarning, match="ndcg@100"):
            assert np.isnan(scorers.ndcg_at_k(model, csr_array((3, 40))))

    def test_everything_seen(self):
        X = csr_array(np.ones((2, 6)))
        for scorer in SCORERS.values():
            assert scorer(FixedScores(np.arange(6)), X, X) == 0

    def test_relevance_threshold_is_strict(self):
        X, y = csr_array([[1, 0, 0, 0]]), csr_array([[0, 3, 4, 5]])
        recall = RankingScorer("recall", 1, capped=False)
        model = FixedScores([0, 1, 3, 2])
        shares = [1 / 3, 1 / 2, 0]
        for threshold, share in zip([0, 3, 4], shares, strict=True):
            scorer = RankingScorer("recall", 1, capped=False, relevance_threshold=threshold)
            assert scorer(model, X, y) == pytest.approx(share)
        assert recall(model, X, y) == shares[0]

    def test_coverage(self, ratings):
        model = TinyPopularity().fit(ratings)
        value = scorers.coverage_at_k.at(3)(model, ratings)
        fold_in, _ = split_interactions(ratings, random_state=0)
        assert value == len(np.unique(model.recommend(fold_in, 3))) / 40
        assert scorers.coverage_at_k.per_user(model, ratings).shape == ()

    @pytest.mark.parametrize("y", [np.ones((3, 5)), csr_array(np.ones((2, 4)))])
    def test_wrong_y(self, y):
        with pytest.raises(ValueError, match="y must hold"):
            scorers.ndcg_at_k(FixedScores(np.arange(4)), np.ones((3, 4)), y)

    @pytest.mark.parametrize("value", [np.nan, -1])
    def test_wrong_values_in_y(self, value):
        with pytest.raises(ValueError, match="y"):
            scorers.ndcg_at_k(FixedScores(np.arange(3)), np.ones((1, 3)), np.array([[0, 1, value]]))

    @pytest.mark.parametrize("library", ["pandas", "polars"])
    def test_frames_keep_their_columns(self, library, ratings):
        frames = pytest.importorskip(library)
        names = [f"item {i}" for i in range(40)]
        frame = frames.DataFrame(dict(zip(names, ratings.toarray().T, strict=True)))
        model = TinyPopularity().fit(frame)
        expected = scorers.ndcg_at_k(TinyPopularity().fit(ratings), ratings)
        assert scorers.ndcg_at_k(model, frame) == expected

    def test_dense_rows_stay_dense(self, ratings):
        # MinMaxScaler refuses sparse rows.
        model = make_pipeline(MinMaxScaler(clip=True), TinyPopularity()).fit(ratings.toarray())
        expected = scorers.ndcg_at_k(TinyPopularity().fit(ratings), ratings)
        assert scorers.ndcg_at_k(model, ratings.toarray()) > expected / 2

    def test_several_at_once(self, ratings):
        several = (*SCORERS.values(), scorers.recall_at_k.at(5), RankingScorer("map", capped=False))
        model = TinyPopularity().fit(ratings)
        values = MultiRankingScorer(several)(model, ratings)
        assert values == {scorer.name: scorer(model, ratings) for scorer in several}
        assert "recall@5" in values
        assert "map@100_uncapped" in values
        assert RankingScorer("ndcg", 5, relevance_threshold=3.5).name == "ndcg@5_above_3.5"
        once = FixedScores(np.arange(40))
        MultiRankingScorer(several)(once, ratings)
        assert len(once.asked) == 1

    @pytest.mark.parametrize(
        "several",
        [
            (),
            (scorers.ndcg_at_k, RankingScorer("recall", random_state=1)),
            (scorers.ndcg_at_k, RankingScorer("ndcg", capped=False)),
            ("ndcg", "recall"),
            [scorers.ndcg_at_k],
            scorers.ndcg_at_k,
        ],
    )
    def test_scorers_that_cannot_be_combined(self, several):
        with pytest.raises(ValueError, match="scorers must"):
            MultiRankingScorer(several)


def test_scorers_have_a_name_for_scikit_learns_displays():
    assert scorers.ndcg_at_k.__name__ == scorers.ndcg_at_k.name == "ndcg@100"
    assert RankingScorer.__name__ == "RankingScorer"


GRID = {"factor": [-1.0, 1.0]}
CV = UserSplitter(3, random_state=0)


class TestInScikitLearn:
    @pytest.mark.parametrize("metric", SCORERS)
    def test_grid_search(self, metric, ratings):
        search = GridSearchCV(TinyPopularity(), GRID, scoring=SCORERS[metric].at(10), cv=CV)
        search.fit(ratings)
        if metric != "coverage_at_k":
            assert search.best_params_ == {"factor": 1.0}
        assert search.score(ratings) == SCORERS[metric].at(10)(search.best_estimator_, ratings)

    def test_default_score(self, ratings):
        search = GridSearchCV(TinyPopularity(), GRID, cv=CV).fit(ratings)
        explicit = GridSearchCV(TinyPopularity(), GRID, cv=CV, scoring=scorers.ndcg_at_k)
        assert search.best_score_ == explicit.fit(ratings).best_score_

    @pytest.mark.parametrize("form", [dict, MultiRankingScorer])
    def test_several_metrics(self, form, ratings):
        several = (scorers.ndcg_at_k.at(10), scorers.recall_at_k.at(10))
        scoring = {s.name: s for s in several} if form is dict else form(several)
        search = GridSearchCV(TinyPopularity(), GRID, scoring=scoring, cv=CV, refit="ndcg@10")
        search.fit(ratings)
        for scorer in several:
            alone = cross_val_score(TinyPopularity(), ratings, scoring=scorer, cv=CV)
            assert search.cv_results_[f"mean_test_{scorer.name}"][1] == alone.mean()

    def test_halving(self, ratings):
        search = HalvingGridSearchCV(
            TinyPopularity(), GRID, scoring=scorers.ndcg_at_k.at(10), cv=CV, random_state=0
        )
        search.fit(ratings)
        assert search.best_params_ == {"factor": 1.0}

    @pytest.mark.parametrize("backend", ["loky", "threading"])
    def test_backends_agree(self, backend, ratings):
        scoring = scorers.ndcg_at_k.at(10)
        serial = cross_val_score(TinyPopularity(), ratings, scoring=scoring, cv=CV)
        with parallel_config(backend, n_jobs=2):
            parallel = cross_val_score(TinyPopularity(), ratings, scoring=scoring, cv=CV)
        assert_array_equal(serial, parallel)

    def test_order_of_users_makes_no_difference(self, ratings):
        rows = np.random.default_rng(0).permutation(120)
        model = TinyPopularity().fit(ratings)
        values = scorers.ndcg_at_k.per_user(model, ratings)
        assert_array_equal(scorers.ndcg_at_k.per_user(model, ratings[rows]), values[rows])

    def test_sparse_y(self, ratings):
        fold_in, heldout = split_interactions(ratings, random_state=1)
        scorer = scorers.recall_at_k.at(10)
        search = GridSearchCV(TinyPopularity(), GRID, scoring=scorer, cv=CV)
        search.fit(fold_in, heldout)
        assert search.score(fold_in, heldout) == scorer(search, fold_in, heldout)

    def test_pipeline_is_scored_on_the_raw_ratings(self, ratings):
        steps = Binarizer(), TinyPopularity()
        thresholds = {"binarizer__threshold": [0.5, 3.5, 4.5]}
        scorer = RankingScorer("recall", 10, relevance_threshold=3.5)
        search = GridSearchCV(make_pipeline(*steps), thresholds, scoring=scorer, cv=CV)
        search.fit(ratings)

        train, test = next(CV.split(ratings))
        fold_in, heldout = split_interactions(ratings[test], random_state=0)
        relevant = heldout > 3.5
        assert relevant.nnz < heldout.nnz
        for number, threshold in enumerate(thresholds["binarizer__threshold"]):
            model = TinyPopularity().fit(ratings[train] > threshold)
            # The items of the raw fold-in rows count as seen, also those with a low rating.
            expected = metrics.recall(model.recommend(fold_in, 10), relevant, 10)
            found = search.cv_results_["split0_test_score"][number]
            assert found == pytest.approx(np.nanmean(expected), abs=1e-15)
            other = metrics.recall(model.recommend(fold_in, 10), heldout, 10)
            assert found != pytest.approx(np.nanmean(other), abs=1e-6)

    @pytest.mark.parametrize("routing", [False, True])
    @pytest.mark.parametrize("kind", ["one", "dict", "several"])
    def test_sample_weight(self, routing, kind, ratings):
        several = (scorers.ndcg_at_k, scorers.recall_at_k)
        scoring = {
            "one": scorers.ndcg_at_k,
            "dict": {s.name: s for s in several},
            "several": MultiRankingScorer(several),
        }[kind]
        with config_context(enable_metadata_routing=routing):
            model = TinyPopularity()
            if routing:
                model.set_fit_request(sample_weight=True)
            search = GridSearchCV(model, GRID, scoring=scoring, cv=CV, refit=False)
            weights = np.ones(120)
            if routing:
                search.fit(ratings, sample_weight=weights)
            else:
                with pytest.warns(UserWarning, match="does not support sample_weight"):
                    search.fit(ratings, sample_weight=weights)
        key = "mean_test_score" if kind == "one" else "mean_test_ndcg@100"
        assert np.isfinite(search.cv_results_[key]).all()


def longest_number(ranked, heldout, k):
    """Return the largest item number of each list."""
    return ranked[:, :k].max(axis=1).astype(float)


def test_a_custom_metric(X):
    scorer = RankingScorer(longest_number, k=3)
    assert scorer.name == "longest_number@3"
    model = Popularity().fit(X)
    scores = MultiRankingScorer((scorer, scorers.ndcg_at_k))(model, X)
    fold_in, _ = split_interactions(X, random_state=0)
    expected = model.recommend(fold_in, k=3).max(axis=1).mean()
    assert scores == {"longest_number@3": expected, "ndcg@100": scorers.ndcg_at_k(model, X)}
    assert pickle.loads(pickle.dumps(scorer)) == scorer
