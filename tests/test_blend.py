"""Blends: the weighted sum, its weights, and what members may be."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conftest import make
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, MinMaxScaler

import skvaecf
from skvaecf import EASE, WMF, Blend, ItemKNN, MultVAE, Popularity, RankingMonitor, recommend
from skvaecf._blend_weights import N_POINTS, best_weights, ndcg_on_grid, simplex_grid
from skvaecf.blend import _standard_scorer
from skvaecf.datasets import make_interactions
from skvaecf.metrics import ndcg


class Scores(BaseEstimator):
    """Return the given scores, one row per user."""

    def __init__(self, scores):
        self.scores = scores

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.asarray(self.scores)[: X.shape[0]]


class Noise(BaseEstimator):
    """Return random scores, which depend on the row alone."""

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        rows = np.asarray(sp.csr_array(X).toarray() > 0)
        return np.stack([np.random.RandomState(r.nonzero()[0].sum()).rand(len(r)) for r in rows])


@pytest.fixture(scope="module")
def many():
    return make_interactions(400, 60, n_blocks=4, noise=0.2, random_state=1)


def vae(**changes):
    params = {"likelihood": "multinomial", "max_epochs": 2, "random_state": 0}
    return MultVAE(4, device="cpu", **params | changes)


def small_blend(**params):
    members = [("ease", EASE(5.0)), ("wmf", WMF(6, max_epochs=3, random_state=0))]
    return Blend(**{"estimators": members, "random_state": 0} | params)


# --- the sum


def test_scores_by_hand():
    # Row 0 of "a" has mean 2 and variance 2/3, of "b" mean 0 and variance 2; row 1 is constant in
    # "a", and (1, 1, 4) in "b": mean 2, variance 2.
    a, b = [[1, 2, 3], [7, 7, 7]], [[1, -2 + 1, 0], [1, 1, 4]]
    b[0] = [np.sqrt(3), -np.sqrt(3), 0]
    blend = Blend([("a", Scores(a)), ("b", Scores(b))], weights=[1, 3]).fit(np.eye(2, 3))
    assert_allclose(blend.weights_, [0.25, 0.75])
    u, v = np.sqrt(1.5), np.sqrt(2)
    expected = [
        [-0.25 * u + 0.75 * u, -0.75 * u, 0.25 * u],
        [-0.75 / v, -0.75 / v, 1.5 / v],
    ]
    assert_allclose(blend.predict(np.eye(2, 3)), expected, rtol=1e-6, atol=1e-7)
    assert blend.predict(np.eye(2, 3)).dtype == np.float32


@pytest.mark.parametrize("constant", [0.1, 1e8 + 8, -3e-30])
@pytest.mark.parametrize("n_items", [1, 3, 1000, 3706, 100_003])
def test_equal_scores_become_zeros(constant, n_items):
    member = Scores(np.full((5, n_items), constant))
    scores = _standard_scorer("a", member)(np.zeros((5, n_items)))
    assert_array_equal(scores, np.zeros((5, n_items), dtype=np.float32))


def test_scale_and_offset_of_a_member_do_not_matter(many):
    scores = np.random.RandomState(0).randn(400, 60)
    other = ("wmf", WMF(6, random_state=0))
    plain = Blend([("a", Scores(scores)), other]).fit(many)
    moved = Blend([("a", Scores(1000 * scores - 300)), other]).fit(many)
    assert_allclose(moved.predict(many), plain.predict(many), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", [None, [2.0], "auto"])
def test_one_member_alone_gives_its_ranking(weights, many):
    member = WMF(6, random_state=0)
    blend = Blend([("wmf", member)], weights=weights, random_state=0).fit(many)
    assert blend.weights_.tolist() == [1.0]
    expected = clone(member).fit(many)
    assert_array_equal(blend.recommend(many, 10), expected.recommend(many, 10))
    assert blend.score(many) == pytest.approx(expected.score(many), rel=1e-9)


def test_a_member_without_weight_does_not_score(many):
    failing = Scores(np.full(many.shape, np.nan))
    blend = Blend([("a", failing), ("ease", EASE())], weights=[0, 2]).fit(many)
    assert_array_equal(blend.recommend(many, 5), EASE().fit(many).recommend(many, 5))


def test_weights_of_dropped_members_are_left_out(many):
    blend = small_blend(weights=[3, 1, 4])
    blend.estimators = [*blend.estimators, ("knn", ItemKNN())]
    blend.set_params(wmf="drop").fit(many)
    assert_allclose(blend.weights_, [3 / 7, 4 / 7])
    assert list(blend.named_estimators_) == ["ease", "knn"]
    assert blend.named_estimators_.knn is blend.estimators_[1]
    assert_array_equal(
        blend.predict(many),
        Blend([("a", EASE(5.0)), ("b", ItemKNN())], weights=[3, 4]).fit(many).predict(many),
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_name_the_member(bad):
    scores = np.zeros((4, 6))
    scores[2, 3] = bad
    blend = Blend([("fine", EASE()), ("broken", Scores(scores))]).fit(np.eye(4, 6))
    for call in (blend.predict, blend.recommend):
        with pytest.raises(ValueError, match="member 'broken' returned scores that are NaN or inf"):
            call(np.eye(4, 6))


@pytest.mark.parametrize("scores", [np.zeros(4), np.zeros((4, 5)), np.zeros((3, 6))])
def test_scores_of_another_shape_name_the_member(scores):
    blend = Blend([("flat", Scores(scores))]).fit(np.eye(4, 6))
    with pytest.raises(ValueError, match=r"member 'flat' returned scores of shape .* \(4, 6\)"):
        blend.predict(np.eye(4, 6))


# --- members


def test_members_get_the_stored_values(many):
    ratings = many * np.random.RandomState(0).randint(1, 6, many.shape)
    ratings = sp.csr_array(ratings)
    liked = sp.csr_array(ratings > 3).astype(np.float32)
    pipeline = make_pipeline(Binarizer(threshold=3.5), EASE(5.0))
    for given in (ratings, ratings.toarray()):
        blend = Blend([("liked", pipeline), ("counts", WMF(4, use_values=True, random_state=0))])
        blend.fit(given)
        z = [
            _standard_scorer("", model.fit(X))(X).numpy()
            for model, X in ((EASE(5.0), liked), (WMF(4, use_values=True, random_state=0), ratings))
        ]
        assert_allclose(blend.predict(given), (z[0] + z[1]) / 2, rtol=1e-5, atol=1e-5)


def test_members_that_take_only_dense_rows(many):
    dense = many.toarray()
    blend = Blend([("a", make_pipeline(MinMaxScaler(), EASE(5.0)))], weights="auto").fit(dense)
    assert_array_equal(blend.recommend(dense, 4), EASE(5.0).fit(dense).recommend(dense, 4))


def test_searches_and_blends_are_members(many):
    search = GridSearchCV(EASE(), {"l2": [1.0, 50.0]}, cv=2)
    blend = Blend([("search", search), ("blend", small_blend(weights="auto"))]).fit(many)
    outer = Blend([("ease", search.fit(many).best_estimator_), ("b", small_blend(weights="auto"))])
    assert_array_equal(blend.predict(many), outer.fit(many).predict(many))
    assert_array_equal(
        recommend(make_pipeline(Binarizer(), blend), many, 3), blend.recommend(many, 3)
    )


def test_frozen_members_are_not_fitted_again(many):
    ease = EASE(5.0).fit(many[:300])
    blend = Blend([("ease", FrozenEstimator(ease)), ("wmf", WMF(6, random_state=0))]).fit(many)
    assert blend.estimators_[0].estimator is ease
    fitted = Blend([("ease", EASE(5.0)), ("wmf", WMF(6, random_state=0))]).fit(many)
    fitted.estimators_[0] = ease
    assert_array_equal(blend.predict(many), fitted.predict(many))


def test_given_members_are_not_fitted(many):
    members = [("ease", EASE()), ("wmf", WMF(4, random_state=0))]
    Blend(members, weights="auto").fit(many)
    assert not any(hasattr(member, "n_features_in_") for _, member in members)


def test_parameters_of_members_can_be_searched(many):
    grid = {"ease__l2": [1.0, 50.0], "wmf": ["drop", ItemKNN()], "weights": [None, (1, 3)]}
    search = GridSearchCV(small_blend(), grid, cv=2).fit(many)
    assert len(search.cv_results_["params"]) == 8
    by_hand = small_blend().set_params(**search.best_params_).fit(many)
    assert_array_equal(search.predict(many), by_hand.predict(many))
    assert len({round(score, 9) for score in search.cv_results_["mean_test_score"]}) > 4


def test_get_params_names_members_and_their_parameters():
    blend = small_blend()
    params = blend.get_params()
    assert params["ease"] is blend.estimators[0][1]
    assert params["ease__l2"] == 5.0
    assert "ease" not in blend.get_params(deep=False)
    copied = clone(blend).set_params(ease__l2=7.0)
    assert (copied.get_params()["ease__l2"], blend.get_params()["ease__l2"]) == (7.0, 5.0)


def test_validation_users_reach_the_members_that_take_them(many):
    X, X_val = many[:320], many[320:]
    pair = skvaecf.split_interactions(X_val, random_state=3)
    for given in (X_val.toarray(), pair):
        blend = Blend([("vae", vae()), ("ease", EASE())]).fit(X, X_val=given)
        expected = vae().fit(X, X_val=given)
        assert_array_equal(blend.estimators_[0].predict(X), expected.predict(X))
        assert blend.weights_.tolist() == [0.5, 0.5]


def test_callbacks_of_members_run(many):
    pytest.importorskip("sklearn.callback")
    monitor = RankingMonitor(many[350:])
    member = vae().set_callbacks(monitor)
    Blend([("vae", member), ("ease", EASE())]).fit(many[:350])
    assert [entry["epoch"] for entry in monitor.log_] == [1, 2]


def test_set_output_of_a_member_is_kept(many):
    pd = pytest.importorskip("pandas")
    member = WMF(4, random_state=0).set_output(transform="pandas")
    blend = Blend([("wmf", member)]).fit(many)
    assert isinstance(blend.named_estimators_.wmf.transform(many), pd.DataFrame)


# --- the choice of the weights


def with_noise(**params):
    members = [("ease", EASE(5.0)), ("noise", Noise()), ("other", Noise())]
    return Blend(members, weights="auto", **params)


@pytest.mark.parametrize("seed", range(3))
def test_noise_gets_hardly_any_weight(seed):
    X = make_interactions(800, 300, n_blocks=10, noise=0.1, random_state=1)
    blend = with_noise(random_state=seed).fit(X[:600])
    # Samples of 12 users do not tell weights of 0 and 0.1 apart.
    assert blend.weights_[0] > 0.7
    alone = EASE(5.0).fit(X[:600])
    assert blend.score(X[600:]) > 0.96 * alone.score(X[600:])
    equal = with_noise().set_params(weights=None).fit(X[:600])
    assert equal.score(X[600:]) < 0.9 * alone.score(X[600:])


def test_equal_members_get_similar_weights(many):
    members = [("a", EASE(5.0)), ("b", EASE(5.0)), ("c", EASE(5.0))]
    blend = Blend(members, weights="auto", random_state=0).fit(many)
    # All points are equally good, and the most even one is chosen: 0.3, 0.3 and 0.4 in some order.
    assert sorted(blend.weights_.round(12).tolist()) == [0.3, 0.3, 0.4]


def test_weights_lie_on_the_simplex_and_do_not_depend_on_n_jobs_or_blocks(many, monkeypatch):
    blend = small_blend(weights="auto").fit(many)
    assert blend.weights_.dtype == np.float64
    assert blend.weights_.min() >= 0
    assert blend.weights_.sum() == pytest.approx(1, abs=1e-12)
    parallel = small_blend(weights="auto", n_jobs=2).fit(many)
    monkeypatch.setattr("skvaecf.ranking.BLOCK_ROWS", 16)
    blocks = small_blend(weights="auto").fit(many)
    for other in (parallel, blocks, small_blend(weights="auto").fit(many)):
        assert_array_equal(other.weights_, blend.weights_)
    assert_array_equal(parallel.predict(many), blend.predict(many))


def test_weights_are_chosen_by_held_out_users_and_all_users_are_fitted(many):
    blend = small_blend(weights="auto").fit(many)
    assert len(blend.named_estimators_.wmf.user_factors_) == 400
    assert_array_equal(
        blend.named_estimators_.ease.predict(many), EASE(5.0).fit(many).predict(many)
    )
    # By hand: the same users are held out, and the members are fitted on the others.
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    splitter = skvaecf.UserSplitter(1, test_size=0.2, random_state=seed)
    [(train, heldout)] = splitter.split(many)
    pair = skvaecf.split_interactions(many[heldout], random_state=seed)
    members = [clone(member).fit(many[train]) for _, member in small_blend().estimators]
    scorers = [_standard_scorer("", member) for member in members]
    assert_array_equal(blend.weights_, best_weights(scorers, *pair, seed))
    given = small_blend(weights="auto").fit(many[train], X_val=pair)
    assert_array_equal(given.weights_, blend.weights_)
    assert len(given.named_estimators_.wmf.user_factors_) == len(train)
    of_rows = small_blend(weights="auto").fit(many[train], X_val=many[heldout])
    assert_array_equal(of_rows.weights_, blend.weights_)


def test_labels_do_not_matter(many):
    blend = small_blend(weights="auto")
    scores = blend.fit(many).predict(many)
    assert_array_equal(blend.fit(many, np.arange(400)).predict(many), scores)


def test_users_without_heldout_interactions_do_not_matter(many):
    fold_in, heldout = skvaecf.split_interactions(many, random_state=0)
    empty = sp.csr_array((7, 60))
    padded = sp.vstack([fold_in, fold_in[:7]]).tocsr(), sp.vstack([heldout, empty]).tocsr()
    blends = [
        small_blend(weights="auto").fit(many, X_val=pair) for pair in ((fold_in, heldout), padded)
    ]
    assert_array_equal(blends[0].weights_, blends[1].weights_)


def test_without_users_to_choose_by_the_weights_are_equal():
    X = np.eye(6, 8)
    message = r"weights='auto' has no users .* min_interactions=5 interactions: they are equal"
    with pytest.warns(UserWarning, match=message):
        blend = small_blend(weights="auto").fit(X)
    assert blend.weights_.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 23, 24, 40])
def test_grid_of_weights(n):
    grid = simplex_grid(n)
    n_steps = round(1 / grid[grid > 0].min())
    assert grid.shape == (comb(n + n_steps - 1, n_steps), n)
    assert len(grid) <= max(N_POINTS, n)
    assert len(np.unique(grid, axis=0)) == len(grid)
    assert grid.min() >= 0
    assert_allclose(grid.sum(axis=1), 1)
    assert (np.diff((grid**2).sum(axis=1)) > -1e-12).all()
    assert any((grid == corner).all(axis=1).any() for corner in np.eye(n))
    if n > 1 and n_steps < 10:
        assert comb(n + n_steps, n_steps + 1) > N_POINTS


def test_ndcg_on_the_grid_is_that_of_the_lists():
    rng = np.random.RandomState(0)
    z = torch.tensor(rng.randn(3, 20, 1000), dtype=torch.float32)
    X = sp.csr_array((rng.rand(20, 1000) < 0.1).astype(np.float32))
    # The scores of held-out items are higher, as those of a model are.
    seen, heldout = skvaecf.split_interactions(X, 0.3, random_state=0)
    z[:, torch.tensor(heldout.toarray() > 0)] += 1
    grid = simplex_grid(3)
    found = ndcg_on_grid(grid, z.clone(), seen, heldout)
    for weights, values in zip(grid, found, strict=True):
        scores = np.tensordot(weights.astype(np.float32), z.numpy(), 1)
        scores[seen.nonzero()] = -np.inf
        expected = ndcg(np.argsort(-scores, axis=1, kind="stable")[:, :100], heldout)
        # Items in middle places of all members are left out.
        assert_allclose(values, expected, rtol=0, atol=0.02)
    corners = [grid.tolist().index(corner) for corner in np.eye(3).tolist()]
    for member, point in enumerate(corners):  # where the lists are exact
        scores = z[member].numpy().copy()
        scores[seen.nonzero()] = -np.inf
        expected = ndcg(np.argsort(-scores, axis=1, kind="stable")[:, :100], heldout)
        assert_allclose(found[point], expected, rtol=1e-12)


# --- files


def test_a_blend_of_a_network_comes_back(many, tmp_path):
    blend = Blend([("vae", vae()), ("inner", small_blend()), ("gone", "drop")], weights="auto")
    blend.set_params(random_state=0).fit(many)
    blend.save(tmp_path / "blend")
    loaded = skvaecf.load(tmp_path / "blend")
    assert_array_equal(loaded.predict(many), blend.predict(many))
    assert_array_equal(loaded.weights_, blend.weights_)
    assert list(loaded.named_estimators_) == ["vae", "inner"]
    assert repr(loaded) == repr(blend)
    assert_array_equal(loaded.fit(many).predict(many), blend.predict(many))


def test_a_blend_with_other_members_cannot_be_saved(many, tmp_path):
    blend = Blend([("liked", make_pipeline(Binarizer(), Popularity()))]).fit(many)
    with pytest.raises(ValueError, match=r"estimators.0.1 is a sklearn.pipeline.Pipeline, which"):
        blend.save(tmp_path / "blend")


def test_a_file_whose_parts_do_not_fit_is_refused(many, tmp_path):
    path = tmp_path / "blend"
    good = small_blend().fit(many)
    changes = {
        "weights_": [np.array([1.0]), np.array([0.5, np.nan]), np.array([2.0, -1.0]), np.zeros(2)],
        "estimators_": [[good.estimators_[0]], [good, EASE().fit(many[:, :30])], [EASE(), EASE()]],
        "_names": [["a"]],
    }
    for name, values in changes.items():
        for value in values:
            blend = small_blend().fit(many)
            setattr(blend, name, value)
            blend.save(path)
            with pytest.raises(ValueError, match="blend cannot be loaded"):
                skvaecf.load(path)


# --- rows without interactions, and excluded items


@pytest.mark.parametrize("rows", [np.asarray, sp.csr_array, sp.csr_matrix, sp.coo_array])
def test_a_row_without_interactions_gets_the_popular_items(rows, many):
    blend = small_blend().fit(many)
    counts = many.toarray().sum(axis=0)
    assert_array_equal(blend.item_counts_, counts)
    X = many[:3].toarray()
    X[1] = 0
    scores = blend.predict(rows(X))
    assert_array_equal(scores[1], counts)
    assert_allclose(scores[[0, 2]], blend.predict(many[[0, 2]]), rtol=1e-5, atol=1e-6)
    by_count = np.lexsort((np.arange(60), -counts))
    assert_array_equal(blend.recommend(rows(X), 10)[1], by_count[:10])
    assert_array_equal(blend.recommend(rows(X), 10, exclude=by_count[:5])[1], by_count[5:15])


def test_a_stored_zero_is_not_an_interaction(many):
    blend = small_blend().fit(many)
    zero = sp.csr_array(([0.0], ([0], [3])), shape=(1, 60))
    assert_array_equal(blend.predict(zero), blend.item_counts_[None])


def test_a_row_that_only_a_member_sees_as_empty_is_scored_by_the_others(many):
    ones, stars = 2 * many[[0]].toarray(), 5 * many
    binary = make_pipeline(Binarizer(threshold=3), EASE(5.0))
    blend = Blend([("stars", binary), ("ease", EASE(5.0))]).fit(stars)
    z = [_standard_scorer("", member)(ones).numpy() for member in blend.estimators_]
    assert_allclose(blend.predict(ones), (z[0] + z[1]) / 2, atol=1e-6)
    popular = blend.item_counts_ - blend.item_counts_.mean()
    assert_allclose(z[0][0], popular / popular.std(), atol=1e-5)


# --- errors


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"estimators": []}, r"estimators must be a list of one or more"),
        ({"estimators": [()]}, r"estimators must be a list of one or more"),
        ({"estimators": ["ease"]}, r"estimators must be a list of one or more"),
        ({"estimators": [(1, EASE())]}, r"estimators must be a list of one or more"),
        ({"estimators": [("a", EASE()), ("a", WMF())]}, r"not unique"),
        ({"estimators": [("a__b", EASE())]}, r"must not contain __"),
        ({"estimators": [("weights", EASE())]}, r"conflict with constructor arguments"),
        ({"estimators": [("a", EASE)]}, r"instances .* for 'a'"),
        ({"estimators": [("a", Binarizer())]}, r"methods fit and predict, got Binarizer\(\)"),
        ({"estimators": [("a", "drop")]}, r"a member that is not 'drop'"),
        ({"weights": [1]}, r"one number for each of the 2 estimators, got \[1\]"),
        ({"weights": [[1, 1]]}, r"one number for each of the 2 estimators"),
        ({"weights": ["a", "b"]}, r"one number for each of the 2 estimators"),
        ({"weights": [1, -1]}, r"finite and not negative"),
        ({"weights": [np.inf, 1]}, r"finite and not negative"),
        ({"weights": [0, 0]}, r"must be positive"),
        ({"weights": [1, 0], "estimators": [("a", "drop"), ("b", EASE())]}, r"must be positive"),
        ({"weights": "best"}, r"'weights' parameter"),
        ({"validation_fraction": 1.0}, r"'validation_fraction' parameter"),
    ],
)
def test_invalid_parameters(params, message, many):
    with pytest.raises(ValueError, match=message):
        small_blend(**params).fit(many)


def test_invalid_validation_users(many):
    for X_val, message in (
        (many[:5, :10], "X_val must have the 60 items of X, got 10"),
        (np.eye(3, 60), "X_val must hold a user with at least 5 interactions"),
        ((many[:5], many[:4]), "second matrix of X_val"),
        (-many[:5], "Negative values"),
    ):
        blend = small_blend(weights="auto")
        with pytest.raises(ValueError, match=message):
            blend.fit(many, X_val=X_val)
        assert not hasattr(blend, "estimators_")


# --- partial_fit


def test_partial_fit_updates_the_members(X):
    members = [("ease", EASE(5.0)), ("vae", make("MultVAE"))]
    blend = Blend(members, weights=(2, 1)).partial_fit(X[:30, :20])
    alone = [clone(member).fit(X[:30, :20]) for _, member in members]
    returning, fitted_first = X[20:30].toarray(), blend.estimators_
    returning[:, 20:] = 0  # new items
    blend.partial_fit(X[20:], X_before=returning)
    for member, expected in zip(blend.estimators_, alone, strict=True):
        expected.partial_fit(X[20:], X_before=returning)
        assert_array_equal(member.predict(X), expected.predict(X))
        assert_array_equal(blend.item_counts_, expected.item_counts_)
    assert blend.n_features_in_ == 24
    assert_array_equal(blend.weights_, [2 / 3, 1 / 3])
    assert fitted_first[0].n_features_in_ == 20  # the former members are unchanged
    assert blend.recommend(X, 3).shape == (60, 3)


def test_partial_fit_needs_it_in_every_member(X, unchanged):
    pipeline = make_pipeline(Binarizer(), EASE())
    assert not hasattr(Blend([("ease", EASE()), ("pipe", pipeline)]), "partial_fit")
    assert not hasattr(Blend([("ease", EASE()), ("cdae", make("CDAE"))]), "partial_fit")
    assert hasattr(Blend([("ease", EASE()), ("pipe", "drop")]), "partial_fit")
    blend = Blend([("ease", EASE()), ("wmf", make("WMF"))]).fit(X)
    check = unchanged(blend)
    with pytest.raises(ValueError, match="X_before must be None: partial_fit of the member 'wmf'"):
        blend.partial_fit(X, X_before=X)
    check()
