"""Metrics beyond hits, by hand, by plain loops and by other libraries, and their scorers."""

import math
import pickle
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csc_array, csr_array
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

import skvaecf
from skvaecf import (
    EASE,
    BenchmarkDisplay,
    ItemKNN,
    MultiRankingScorer,
    Popularity,
    RankingCurveDisplay,
    RankingScorer,
    UserSplitter,
    recommend,
    split_interactions,
)
from skvaecf.metrics import (
    auc,
    coverage,
    entropy,
    gini,
    intra_list_diversity,
    item_popularity,
    mean_popularity,
    miscalibration,
    novelty,
    popularity_lift,
    precision,
    r_precision,
    recall,
    serendipity,
    tail_recall,
    unbiased_recall,
)

# Six users x six items, and lists and held-out items of four other users.
TRAIN = np.array(
    [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 0, 0, 1, 0, 1],
        [0, 1, 1, 0, 0, 0],
    ]
)
SHARE = np.array([5, 4, 3, 2, 1, 1]) / 6
RANKED = np.array([[2, 3, 4], [3, 0, 4], [1, 4, 0], [5, 0, 2]])
HELDOUT = np.array([[0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1]])
FEATURES = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]])


class TestByHand:
    def test_item_popularity(self):
        assert_allclose(item_popularity(TRAIN), SHARE)
        # A stored zero is no interaction, and a repeated entry is one.
        messy = csr_array(([2.0, 0, 1, 1], [0, 1, 2, 2], [0, 4, 4]), shape=(2, 3))
        assert_array_equal(item_popularity(messy), [0.5, 0, 0.5])
        assert_array_equal(item_popularity(csr_array((3, 2))), [0, 0])

    def test_novelty(self):
        share = [1, 1 / 2, 1 / 8, 0]
        lists = [[0, 1, 2], [0, 0, -1], [3, 2, -1], [-1, -1, -1]]
        lists[1] = [1, -1, -1]
        # Nobody has item 3, which counts as one with the smallest positive share, 1 / 8.
        assert_allclose(novelty(lists, share, 3), [(0 + 1 + 3) / 3, 1, 3, np.nan])
        assert_allclose(novelty(lists, share, 1), [0, 1, 3, np.nan])
        assert not np.signbit(novelty([[0]], share, 1)).any()

    def test_mean_popularity_and_lift(self):
        lists = [[0, 1], [2, -1], [-1, -1], [0, 1]]
        assert_allclose(mean_popularity(lists, SHARE, 2), [4.5 / 6, 3 / 6, np.nan, 4.5 / 6])
        own = csr_array([[0, 0, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6])
        # (4.5 - 3) / 3 and (3 - 3.5) / 3.5
        lift = popularity_lift(lists, SHARE, 2, fold_in=own)
        assert_allclose(lift, [1.5 / 3, -0.5 / 3.5, np.nan, np.nan])

    def test_lift_of_a_group(self):
        q, p = mean_popularity(RANKED, SHARE, 3), csr_array(TRAIN[:4]) @ SHARE / [2, 3, 3, 3]
        lift = popularity_lift(RANKED, SHARE, 3, fold_in=TRAIN[:4])
        assert np.average(lift, weights=p) == pytest.approx(q.mean() / p.mean() - 1)

    def test_catalogue(self):
        lists = [[0, 1], [0, 1], [0, 2], [0, -1]]  # counts 4, 2, 1, 0
        assert coverage(lists, 4, 2) == 3 / 4
        # (-3 * 0 - 1 * 1 + 1 * 2 + 3 * 4) / (3 * 7)
        assert gini(lists, 4, 2) == pytest.approx(13 / 21)
        expected = -sum(q * math.log(q) for q in (4 / 7, 2 / 7, 1 / 7)) / math.log(4)
        assert entropy(lists, 4, 2) == pytest.approx(expected)
        for metric, one_item, all_items in [(gini, 1, 0), (entropy, 0, 1)]:
            assert metric(lists, 4, 1) == pytest.approx(one_item)
            assert metric([[0, 1], [2, 3]], 4, 2) == pytest.approx(all_items)
            assert np.isnan(metric([[-1]], 4, 1))
            assert isinstance(metric(lists, 4, 2), float)
        assert gini([[0]], 1, 1) == 0

    def test_tail_recall(self):
        # Interactions of the items, ascending: 1, 1, 2, 3, 4, 5 of 16. The middles of their blocks
        # of the sum: 1, 1, 3, 5.5, 9, 13.5. Items 1 to 5 are below 2/3 of 16 = 10.7.
        tail = tail_recall(RANKED, HELDOUT + np.eye(4, 6), 3, item_popularity=SHARE)
        assert_allclose(tail, [1, 1 / 3, 1 / 2, 2 / 3])
        head = partial(tail_recall, item_popularity=SHARE, quantiles=(2 / 3, 1))
        assert_allclose(head(RANKED, np.eye(4, 6), 3), [0, np.nan, np.nan, np.nan])
        assert_allclose(head(RANKED, np.eye(6)[[0, 0, 0, 0]], 3), [0, 1, 1, 1])
        middle = tail_recall(RANKED, HELDOUT, 3, item_popularity=SHARE, quantiles=(1 / 16, 4 / 16))
        assert_allclose(middle, [1, 0.5, np.nan, 0.5])  # items 4, 5 and 3
        capped = [tail_recall(RANKED, HELDOUT, 1, item_popularity=SHARE, capped=c) for c in (1, 0)]
        assert_allclose(capped, [[1, 1, 1, 1], [1 / 2, 1 / 2, 1, 1 / 3]])

    def test_items_that_nobody_has_are_in_the_tail(self):
        ranges = [(0, 0.3), (0.3, 1)]
        found = [
            tail_recall([[3]], [[0, 0, 0, 1]], 1, item_popularity=[1, 0.5, 0.5, 0], quantiles=r)
            for r in ranges
        ]
        assert_array_equal(found, [[1], [np.nan]])
        assert_array_equal(tail_recall([[0]], [[1, 0]], 1, item_popularity=[0, 0]), [1])

    def test_unbiased_recall(self):
        share = [1, 1 / 4, 1 / 9, 0]
        heldout = [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
        lists = [[0, 2], [3, 1], [0, 1]]
        # With gamma = 0 the weights are 1, 2 and 3; item 3 has none.
        weighted = unbiased_recall(lists, heldout, 2, item_popularity=share, gamma=0)
        assert_allclose(weighted, [4 / 6, np.nan, np.nan])
        # With gamma = 1.7 they are the powers -1.35 of the shares.
        weighted = unbiased_recall(lists, heldout, 1, item_popularity=share)
        assert weighted[0] == pytest.approx(1 / (1 + 4**1.35 + 9**1.35))
        plain = unbiased_recall(RANKED, HELDOUT, 2, item_popularity=SHARE, gamma=-1)
        assert_allclose(plain, recall(RANKED, HELDOUT, 2, capped=False))
        perfect = unbiased_recall([np.arange(6)], np.ones((1, 6)), 6, item_popularity=SHARE)
        assert_array_equal(perfect, [1])

    def test_intra_list_diversity(self):
        lists = [[0, 1, 3], [0, 2, -1], [0, -1, -1]]
        # Cosines of vectors of length sqrt(1), sqrt(2), sqrt(2)
        expected = [1 - (1 / math.sqrt(2) + 0 + 1 / 2) / 3, 1, np.nan]
        assert_allclose(intra_list_diversity(lists, FEATURES, 3), expected)
        assert_allclose(intra_list_diversity(lists, csc_array(FEATURES * 5.0), 3), expected)
        assert_allclose(intra_list_diversity(lists, FEATURES, 2)[0], 1 - 1 / math.sqrt(2))
        # An item without categories is as far from the others as one with other categories.
        assert_allclose(intra_list_diversity([[0, 1]], [[1, 1], [0, 0]], 2), [1])

    def test_diversity_from_similarities(self):
        similarity = np.array([[9, 0.5, 0.2], [0.1, 9, 0], [0.4, 0, 9]])
        expected = [1 - (0.5 + 0.1 + 0.2 + 0.4 + 0 + 0) / 6, 1 - (0.2 + 0.4) / 2]
        lists = [[2, 0, 1], [0, 2, -1]]
        for S in (similarity, csr_array(similarity)):
            assert_allclose(intra_list_diversity(lists, k=3, item_similarity=S), expected)
        unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
        assert_allclose(
            intra_list_diversity(RANKED, k=3, item_similarity=unit @ unit.T),
            intra_list_diversity(RANKED, FEATURES, 3),
        )

    def test_serendipity(self):
        baseline = np.array([[2, 0, 1], [0, 1, 2], [0, 2, 1], [-1, -1, -1]])
        # The hits are 2 and 4; 3; 1; 5 and 2.
        assert_allclose(
            serendipity(RANKED, HELDOUT, 3, baseline=baseline), [1 / 3, 1 / 3, 0, 2 / 3]
        )
        # Item 1 is in the third place of the baseline's list.
        assert_allclose(serendipity(RANKED, HELDOUT, 2, baseline=baseline)[2], 1 / 2)
        assert_array_equal(
            serendipity(RANKED, HELDOUT, 3, baseline=np.full((4, 1), -1)),
            precision(RANKED, HELDOUT, 3),
        )
        assert np.isnan(serendipity([[0]], [[0, 0]], 1, baseline=[[0]])).all()

    def test_serendipity_against_a_model(self):
        model, fold_in = Popularity().fit(TRAIN), TRAIN[[3, 3, 3, 3]]
        by_model = serendipity(RANKED, HELDOUT, 3, baseline=model, fold_in=fold_in)
        lists = model.recommend(fold_in, 3)
        assert_array_equal(by_model, serendipity(RANKED, HELDOUT, 3, baseline=lists))
        assert by_model.max() > 0

    def test_miscalibration(self):
        # Two comedies and a drama that is also a comedy: p = (2.5 / 3, 0.5 / 3).
        genres = np.array([[1, 0], [1, 0], [2, 2], [0, 3], [0, 0]])
        own = [[1, 1, 1, 0, 1]] * 2 + [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
        lists = [[0, 3], [4, -1], [0, 3], [0, 3]]
        p, q = (2.5 / 3, 0.5 / 3), (1 / 2, 1 / 2)
        expected = sum(a * math.log(a / (0.99 * b + 0.01 * a)) for a, b in zip(p, q, strict=True))
        for kind in (np.asarray, csr_array):
            values = miscalibration(lists, own, 2, categories=kind(genres))
            assert_allclose(values, [expected, np.nan, np.nan, np.nan])
        # Other categories only: the smoothed q is alpha times p.
        value = miscalibration([[1]], [[1, 0]], 1, categories=np.eye(2), alpha=0.2)
        assert_allclose(value, [math.log(5)])

    def test_r_precision(self):
        assert_allclose(r_precision(RANKED, HELDOUT, 3), [1 / 2, 1 / 2, 1, 2 / 3])
        assert_allclose(r_precision(RANKED, HELDOUT, 2), [1 / 2, 1 / 2, 1, 1 / 2])
        assert_allclose(r_precision([[1, -1]], [[1, 1, 1]], 5), [1 / 3])
        assert np.isnan(r_precision([[0]], [[0, 0]], 1)).all()

    def test_auc(self):
        heldout, lists = [[0, 1, 0, 1, 0]], [[1, 0, 3, 4, 2]]
        # Item 1 is above 3 of the 3 others, item 3 above 2.
        assert_allclose(auc(lists, heldout, 5), [5 / 6])
        # Item 3 and the items 2 and 4 are not listed.
        assert_allclose(auc(lists, heldout, 2), [(3 + 2 / 2) / 6])
        # Items 0, 3 and 4 are equal: item 3 is above 2 and equal to 0 and 4.
        assert_allclose(auc(lists, heldout, 5, scores=[[9, 5, 5, 5, 1]]), [(3 + 1 + 2 / 2) / 6])
        # Items 0 and 2 are seen, so only item 4 counts, wherever they are.
        seen = [[1, 0, 1, 0, 0]]
        for places in ([1, 0, 3, 4, 2], [1, 3, 4, -1, -1], [2, 0, 3, 1, 4]):
            assert_array_equal(auc([places], heldout, 5, fold_in=seen), [1])
        assert np.isnan(auc(lists, [[0] * 5], 5)).all()
        assert np.isnan(auc(lists, [[1] * 5], 5)).all()


class TestByOtherLibraries:
    """The constants are what these libraries returned for the same lists."""

    def test_rectools(self):  # RecTools 0.19.0
        expected = {
            2: [1.292481250360578, 0.923998453277475, 1.584962500721156, 1.423998453277475],
            3: [1.723308333814104, 1.4776531357587022, 1.1443198024253687, 1.2826656355183166],
        }
        for k in expected:  # MeanInvUserFreq; also recmetrics 0.1.5: novelty
            assert_allclose(novelty(RANKED, item_popularity(TRAIN), k), expected[k])
        expected = {2: [2.5, 3.5, 2.5, 3.0], 3: [2.0, 2.6666666666666665, 3.3333333333333335, 3.0]}
        for k in expected:  # AvgRecPopularity, which counts users
            assert_allclose(6 * mean_popularity(RANKED, item_popularity(TRAIN), k), expected[k])
        expected = {2: [1.0, 3.0, 3.0, 1.0], 3: [1.3333333333333333, 2.0, 2.0, 2.0]}
        similarity = 1 - 3 * cdist(FEATURES, FEATURES, "hamming")
        for k in expected:  # IntraListDiversity, PairwiseHammingDistanceCalculator
            found = intra_list_diversity(RANKED, k=k, item_similarity=similarity)
            assert_allclose(found, expected[k])

    def test_recmetrics(self):  # recmetrics 0.1.5, the parts of intra_list_similarity
        cosines = [
            0.4714045207910316,
            0.2357022603955158,
            0.2357022603955158,
            0.2357022603955158,
        ]
        assert_allclose(1 - intra_list_diversity(RANKED, FEATURES, 3), cosines)

    def test_implicit(self):  # implicit 0.7.3, ranking_metrics_at_k, user by user
        expected = {2: [0.6875, 0.6875, 1, 0.5555555555555556], 3: [0.875, 0.625, 1, 2 / 3]}
        for k in expected:
            assert_allclose(auc(RANKED, HELDOUT, k), expected[k])

    def test_lenskit(self):  # LensKit 2025.8.1, stats.gini and ListGini, which divide by n
        for k, expected in {2: 0.16666666666666666, 3: 0.2222222222222222}.items():
            assert gini(RANKED, 6, k) * 5 / 6 == pytest.approx(expected)

    def test_trec_eval(self):
        pytrec_eval = pytest.importorskip("pytrec_eval")
        rng = np.random.default_rng(0)
        relevant = rng.random((40, 30)) < 0.2
        ranked = np.array([rng.permutation(30)[:25] for _ in range(40)])
        qrels = {str(u): {str(i): int(relevant[u, i]) for i in range(30)} for u in range(40)}
        run = {str(u): {str(i): float(-r) for r, i in enumerate(ranked[u])} for u in range(40)}
        results = pytrec_eval.RelevanceEvaluator(qrels, {"Rprec"}).evaluate(run)
        expected = [results[str(u)]["Rprec"] for u in range(40)]
        assert_allclose(r_precision(ranked, relevant, 25), expected)

    def test_scikit_learn(self):
        rng = np.random.default_rng(0)
        scores = rng.integers(0, 6, (30, 20)).astype(np.float32)  # with many ties
        seen, heldout = rng.random((2, 30, 20)) < 0.2
        heldout &= ~seen
        heldout[:, :2], seen[:, :2] = [True, False], False  # one of each kind
        model = FixedScores(scores)
        scorer = RankingScorer("auc", 20)
        expected = [roc_auc_score(heldout[u][~seen[u]], scores[u][~seen[u]]) for u in range(30)]
        assert_allclose(scorer.per_user(model, seen * 1.0, heldout * 1.0), expected)
        assert scorer(model, seen * 1.0, heldout * 1.0) == pytest.approx(np.mean(expected))


class FixedScores:
    """Predicts given scores."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, X):
        assert X.shape == self.scores.shape
        return self.scores


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 8), st.integers(1, 8))
@settings(max_examples=40)
def test_by_plain_loops(seed, k, n_items, n_places):
    rng = np.random.default_rng(seed)
    lists = np.array([rng.permutation(n_items)[:n_places] for _ in range(4)])
    for user in range(4):
        lists[user, rng.integers(0, n_places + 1) :] = -1
    share = rng.integers(0, 5, n_items) / 4
    heldout, own = rng.random((2, 4, n_items)) < rng.random()
    vectors = rng.integers(0, 2, (n_items, 3)).astype(float)
    baseline = np.array([rng.permutation(n_items)[:n_places] for _ in range(4)])
    low, high = np.sort(rng.random(2))
    least = min([p for p in share if p > 0], default=1)

    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else np.nan

    def cosine(i, j):
        norms = math.sqrt(sum(vectors[i] ** 2) * sum(vectors[j] ** 2))
        return sum(vectors[i] * vectors[j]) / norms if norms else 0

    def shares(items):
        items = [i for i in items if vectors[i].any()]
        return [mean(vectors[i][c] / sum(vectors[i]) for i in items) for c in range(3)]

    def quantile(i):
        less = sum(p for p in share if p < share[i])
        equal = sum(p for p in share if p == share[i])
        return (less + equal / 2) / (sum(share) or 1)

    def weight(i):
        return share[i] ** -1.5 if share[i] else 0

    def divided(a, b):
        return a / b if b else np.nan

    found = {
        "novelty": novelty(lists, share, k),
        "mean_popularity": mean_popularity(lists, share, k),
        "lift": popularity_lift(lists, share, k, fold_in=own),
        "diversity": intra_list_diversity(lists, vectors, k),
        "similarity": intra_list_diversity(lists, k=k, item_similarity=vectors @ vectors.T),
        "miscalibration": miscalibration(lists, own, k, categories=vectors, alpha=0.1),
        "serendipity": serendipity(lists, heldout, k, baseline=baseline),
        "unbiased": unbiased_recall(lists, heldout, k, item_popularity=share, gamma=2),
        "r_precision": r_precision(lists, heldout, k),
        "auc": auc(lists, heldout, k, fold_in=own),
    }
    if low < high:
        found["tail"] = tail_recall(
            lists, heldout, k, item_popularity=share, quantiles=(low, high), capped=False
        )
    for user in range(4):
        L = [int(i) for i in lists[user][:k] if i >= 0]
        H, S = np.flatnonzero(heldout[user]), np.flatnonzero(own[user])
        N = [i for i in range(n_items) if i not in H and i not in S]
        p, q = shares(S), shares(L)
        q_mean, p_mean = mean(share[i] for i in L), mean(share[i] for i in S)
        pairs = [(i, j) for i in L for j in L if i != j]
        tail = [i for i in H if low <= quantile(i) < high]
        place = {i: L.index(i) if i in L else k for i in range(n_items)}
        better = sum((place[i] < place[j]) + (place[i] == place[j]) / 2 for i in H for j in N)
        m = min(k, len(H))
        expected = {
            "novelty": mean(-math.log2(max(share[i], least)) for i in L),
            "mean_popularity": q_mean,
            "lift": divided(q_mean, p_mean) - 1,
            "diversity": mean(1 - cosine(i, j) for i, j in pairs),
            "similarity": mean(1 - sum(vectors[i] * vectors[j]) for i, j in pairs),
            "miscalibration": sum(
                a * math.log(a / (0.9 * b + 0.1 * a)) if a else b * 0
                for a, b in zip(p, q, strict=True)
            ),
            "serendipity": divided(sum(i in H and i not in baseline[user][:k] for i in L), k)
            if len(H)
            else np.nan,
            "unbiased": divided(sum(weight(i) for i in L if i in H), sum(map(weight, H))),
            "r_precision": divided(sum(i in H for i in L[:m]), m),
            "auc": divided(better, len(H) * len(N)),
            "tail": divided(sum(i in tail for i in L), len(tail)),
        }
        for name, values in found.items():
            assert_allclose(values[user], expected[name], rtol=1e-12, atol=1e-12, err_msg=name)

    counts = Counter(int(i) for user in lists for i in user[:k] if i >= 0)
    c = [counts[i] for i in range(n_items)]
    if sum(c):
        pairs = sum(abs(a - b) for a in c for b in c)  # the mean difference of two items
        # Each pair of items counts twice, and the largest value is 2 (n - 1) times the sum.
        expected = pairs / (2 * (n_items - 1) * sum(c))
        assert gini(lists, n_items, k) == pytest.approx(expected, abs=1e-12)
        bits = -sum(a / sum(c) * math.log(a / sum(c)) for a in c if a)
        assert entropy(lists, n_items, k) == pytest.approx(bits / math.log(n_items), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: novelty(RANKED, TRAIN.sum(axis=0)), "item_popularity must hold shares of users"),
        (lambda: novelty(RANKED, TRAIN), "item_popularity must be one number per item"),
        (lambda: novelty(RANKED, [0.5, np.nan] * 3), "item_popularity must hold"),
        (lambda: novelty(RANKED, SHARE[:4]), "ranked holds item 5"),
        (lambda: popularity_lift(RANKED, SHARE, fold_in=TRAIN), "ranked and fold_in"),
        (lambda: popularity_lift(RANKED, SHARE, fold_in=np.ones((4, 5))), "fold_in must have"),
        (lambda: tail_recall(RANKED, HELDOUT, item_popularity=[1]), "item_popularity must have"),
        (
            lambda: tail_recall(RANKED, HELDOUT, item_popularity=SHARE, quantiles=(0.5, 0.2)),
            r"quantiles must be two ascending numbers from 0 to 1, got \(0.5, 0.2\)",
        ),
        (lambda: unbiased_recall([[0]], HELDOUT, item_popularity=SHARE), "ranked and heldout"),
        (lambda: intra_list_diversity(RANKED), "Exactly one of item_vectors and item_similarity"),
        (lambda: intra_list_diversity(RANKED, FEATURES * np.nan), "item_vectors must be finite"),
        (lambda: intra_list_diversity(RANKED, ["a"] * 6), "item_vectors must be numbers"),
        (lambda: intra_list_diversity(RANKED, item_similarity=FEATURES), "must be square"),
        (lambda: serendipity(RANKED, HELDOUT, baseline=[[0]]), "ranked and baseline"),
        (lambda: serendipity(RANKED, HELDOUT, baseline=[[9]] * 4), "baseline holds item 9"),
        (lambda: serendipity(RANKED, HELDOUT, baseline=Popularity()), "fold_in must be given"),
        (lambda: miscalibration(RANKED, HELDOUT, categories=-FEATURES), "categories must not be"),
        (lambda: miscalibration(RANKED, HELDOUT, categories=FEATURES, alpha=0), "alpha must be"),
        (lambda: miscalibration(RANKED, TRAIN, categories=FEATURES), "ranked and fold_in"),
        (lambda: auc(RANKED, HELDOUT, scores=[[1, 2, 3]]), "scores must have the shape of ranked"),
        (lambda: entropy([[0]], 1), "n_items must be at least 2, got 1"),
        (lambda: gini(RANKED, 6, 0), "k must be an integer"),
    ],
)
def test_invalid(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture(scope="module")
def X():
    """Return interactions of 80 users with 24 items, of which some are popular."""
    rng = np.random.default_rng(0)
    return csr_array((rng.random((80, 24)) < np.linspace(0.8, 0.2, 24)).astype(np.float64))


GENRES = np.eye(4)[np.arange(24) % 4]
NAMED = {
    name: getattr(skvaecf, name)
    for name in skvaecf.__all__
    if isinstance(getattr(skvaecf, name), RankingScorer)
}
BEYOND = {
    "auc",
    "entropy",
    "gini",
    "mean_popularity",
    "novelty",
    "popularity_lift",
    "r_precision",
    "tail_recall",
    "unbiased_recall",
}
LOWER = {"gini", "mean_popularity", "popularity_lift"}
BOUND = (
    RankingScorer(partial(intra_list_diversity, item_vectors=GENRES), 5),
    RankingScorer(partial(miscalibration, categories=GENRES), 5),
    RankingScorer(partial(novelty, item_popularity=np.linspace(0.9, 0.1, 24)), 5),
)


class TestScorers:
    def test_named_values_say_their_direction(self):
        assert len(NAMED) == 16
        for name, scorer in NAMED.items():
            assert scorer.greater_is_better is (scorer.metric not in LOWER)
            assert name.removesuffix("_at_k") == scorer.__name__.removesuffix("@100")
            assert scorer.name == f"{scorer.metric}@100"
            assert eval(repr(scorer)) == pickle.loads(pickle.dumps(scorer)) == scorer

    @pytest.mark.parametrize("name", [n for n, s in NAMED.items() if s.metric in BEYOND])
    def test_the_score_of_each_is_the_mean_of_the_function(self, name, X):
        model, (fold_in, heldout) = EASE().fit(X), split_interactions(X, random_state=0)
        ranked, scores = recommend(model, fold_in, 5, return_scores=True)
        share = item_popularity(fold_in)
        calls = {
            "auc": lambda: auc(ranked, heldout, 5, fold_in=fold_in, scores=scores),
            "tail_recall": lambda: tail_recall(ranked, heldout, 5, item_popularity=share),
            "unbiased_recall": lambda: unbiased_recall(ranked, heldout, 5, item_popularity=share),
            "r_precision": lambda: r_precision(ranked, heldout, 5),
            "novelty": lambda: novelty(ranked, share, 5),
            "mean_popularity": lambda: mean_popularity(ranked, share, 5),
            "popularity_lift": lambda: popularity_lift(ranked, share, 5, fold_in=fold_in),
            "gini": lambda: gini(ranked, 24, 5),
            "entropy": lambda: entropy(ranked, 24, 5),
        }
        scorer = NAMED[name].at(5)
        expected = calls[scorer.metric]()
        values = scorer.per_user(model, X)
        assert_array_equal(values, expected)
        sign = -1 if name.startswith("neg_") else 1
        assert scorer(model, X) == pytest.approx(sign * np.nanmean(expected), rel=1e-12)

    def test_bound_arguments_win(self, X):
        model, (fold_in, _) = EASE().fit(X), split_interactions(X, random_state=0)
        ranked = model.recommend(fold_in, 5)
        diversity, calibration, news = (scorer.per_user(model, X) for scorer in BOUND)
        assert_array_equal(diversity, intra_list_diversity(ranked, GENRES, 5))
        assert_array_equal(calibration, miscalibration(ranked, fold_in, 5, categories=GENRES))
        assert_array_equal(news, novelty(ranked, np.linspace(0.9, 0.1, 24), 5))
        assert [s.name for s in BOUND] == [
            "intra_list_diversity@5",
            "miscalibration@5",
            "novelty@5",
        ]
        assert [s.greater_is_better for s in BOUND] == [True, False, True]

    def test_frames_and_arrays(self, X):
        pd = pytest.importorskip("pandas")
        dense = X.toarray()
        frame = pd.DataFrame(dense, columns=[f"i{i}" for i in range(24)])
        several = MultiRankingScorer((*(s.at(5) for s in NAMED.values()), *BOUND[:2]))
        expected = several(EASE().fit(X), X)
        for form in (dense, frame):
            assert several(EASE().fit(form), form) == pytest.approx(expected, rel=1e-5)

    def test_names_of_scores_and_of_values(self, X):
        several = MultiRankingScorer((NAMED["neg_gini_at_k"].at(5), *BOUND))
        model = Popularity().fit(X)
        scores, values = several(model, X), several.per_user(model, X)
        assert list(values) == ["gini@5", *(s.name for s in BOUND)]
        assert list(scores) == [
            "neg_gini@5",
            "intra_list_diversity@5",
            "neg_miscalibration@5",
            "novelty@5",
        ]
        assert scores["neg_gini@5"] == -values["gini@5"] < 0
        assert scores["novelty@5"] == values["novelty@5"].mean() > 0

    def test_serendipity_scorer(self, X):
        baseline, model = Popularity().fit(X), EASE().fit(X)
        scorer = RankingScorer(partial(serendipity, baseline=baseline), 5)
        fold_in, heldout = split_interactions(X, random_state=0)
        lists = [m.recommend(fold_in, 5) for m in (model, baseline)]
        expected = serendipity(lists[0], heldout, 5, baseline=lists[1])
        assert_array_equal(scorer.per_user(model, X), expected)
        assert scorer(baseline, X) == 0 < scorer(model, X)

    def test_searches(self, X):
        # The fewer neighbours, the less popular the recommendations.
        grid = {"n_neighbors": [1, 3, 20]}
        several = MultiRankingScorer((NAMED["neg_mean_popularity_at_k"].at(5), *BOUND))
        several = pickle.loads(pickle.dumps(several))
        search = GridSearchCV(
            ItemKNN(shrinkage=0),
            grid,
            scoring=several,
            cv=UserSplitter(2, random_state=0),
            refit="neg_mean_popularity@5",
            error_score="raise",
        )
        serial = search.fit(X).cv_results_
        popularity = -serial["mean_test_neg_mean_popularity@5"]
        assert len(set(popularity)) == 3
        assert search.best_index_ == popularity.argmin()
        with parallel_config("threading", n_jobs=2):
            parallel = search.fit(X).cv_results_
        for scorer in several.scorers:
            key = f"mean_test_{scorer.__name__}"
            assert_array_equal(serial[key], parallel[key])

    def test_direction_of_a_custom_metric(self, X):
        def length(ranked, k):
            return (ranked[:, :k] >= 0).sum(axis=1)

        model = Popularity().fit(X)
        assert RankingScorer(length, 3)(model, X) == 3
        scorer = RankingScorer(length, 3, greater_is_better=False)
        assert scorer(model, X) == -3
        assert scorer.at(2)(model, X) == -2
        assert_array_equal(scorer.per_user(model, X), np.full(80, 3))
        assert scorer.__name__ == "neg_length@3"
        with pytest.raises(ValueError, match="'greater_is_better' parameter of RankingScorer"):
            RankingScorer("ndcg", greater_is_better="no")

    def test_arguments_that_nobody_supplies(self):
        message = "metric needs item_vectors, weight, which a scorer cannot supply"
        with pytest.raises(ValueError, match=message):
            RankingScorer(lambda ranked, item_vectors, weight: ranked)
        with pytest.raises(ValueError, match="metric needs categories"):
            RankingScorer(miscalibration)

    def test_displays_show_values_of_lists(self, X):
        pytest.importorskip("matplotlib").use("agg")
        fold_in, heldout = split_interactions(X, random_state=0)
        lists = {"knn": ItemKNN().fit(X).recommend(fold_in, 5)}
        shown = BenchmarkDisplay.from_predictions(lists, heldout, scorers=[BOUND[2]]).values
        expected = novelty(lists["knn"], np.linspace(0.9, 0.1, 24), 5)
        assert_array_equal(shown["knn"]["novelty@5"], expected)
        with pytest.raises(ValueError, match="novelty@100 of given lists needs item_popularity"):
            BenchmarkDisplay.from_predictions(lists, heldout, scorers=[NAMED["novelty_at_k"]])
        scorer = NAMED["neg_gini_at_k"].at(5)
        shown = BenchmarkDisplay.from_predictions(lists, heldout, scorers=[scorer]).values
        assert shown["knn"]["gini@5"] == gini(lists["knn"], 24, 5)
        with pytest.raises(ValueError, match="value per user, which gini@1 does not have"):
            RankingCurveDisplay.from_predictions(lists, heldout, scorer=scorer)
