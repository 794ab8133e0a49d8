"""Reasons of recommendations and similar users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from conftest import LATENT_RECOMMENDERS, make, make_short, naming
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer

import skvaecf
from skvaecf import Blend, InteractionEncoder, UserSplitter, explain, ndcg_at_k
from skvaecf.datasets import make_interactions

N_ITEMS = 24


def contributions_of_all(model, X, items):
    """Return what each item of X adds to the scores of the items, shape (n_users, n_items, n)."""
    explanation = explain(model, X, items, k=N_ITEMS)
    n_users, n, _ = explanation.reasons.shape
    result = np.zeros((n_users, N_ITEMS, n), dtype=np.float32)
    for u, t, r in np.argwhere(explanation.reasons >= 0):
        result[u, explanation.reasons[u, t, r], t] = explanation.contributions[u, t, r]
    return result


def leave_one_out(model, X, items):
    """Return the same by the scores of rows without one item."""
    X = sp.csr_array(X).toarray()
    result = np.zeros((len(X), N_ITEMS, items.shape[1]), dtype=np.float32)
    scores = model.predict(X)
    for u, i in np.argwhere(X > 0):
        row = X[[u]]
        row[0, i] = 0
        result[u, i] = (scores[[u]] - model.predict(row))[0, items[u]]
    return result


# --- every estimator


def test_the_base_and_the_contributions_add_up_to_the_score(name, fitted, X):
    model, rows = fitted(name), X[:8]
    items, scores = model.recommend(rows, 20, return_scores=True)
    assert (items == -1).any()
    explanation = model.explain(rows, items, k=N_ITEMS)
    assert explanation.reasons.shape == explanation.contributions.shape == (8, 20, N_ITEMS)
    assert explanation.reasons.dtype == explanation.items.dtype == np.int64
    assert explanation.contributions.dtype == explanation.base.dtype == np.float32
    total = explanation.base + explanation.contributions.sum(axis=2)
    assert_allclose(total, scores, rtol=1e-5, atol=1e-6)
    assert_array_equal(explanation.items, items)
    assert_array_equal(np.isneginf(explanation.base), items == -1)
    # The reasons are the user's items, each of them once.
    for row, listed, of_items in zip(rows.toarray(), items, explanation.reasons, strict=True):
        own = np.flatnonzero(row)
        for item, reasons in zip(listed, of_items, strict=True):
            expected = own if item >= 0 else []
            assert_array_equal(np.sort(reasons[: len(expected)]), expected)
            assert (reasons[len(expected) :] == -1).all()


def test_the_largest_contributions_come_first(name, fitted, X):
    model = fitted(name)
    items = model.recommend(X[:5], 3)
    all_reasons = model.explain(X[:5], items, k=N_ITEMS)
    padding = all_reasons.reasons == -1
    assert not all_reasons.contributions[padding].any()
    descending = np.where(padding, -np.inf, all_reasons.contributions)
    assert (descending[:, :, 1:] <= descending[:, :, :-1]).all()
    few = model.explain(X[:5], items, k=2)
    assert_array_equal(few.reasons, all_reasons.reasons[:, :, :2])
    assert_array_equal(few.contributions, all_reasons.contributions[:, :, :2])
    assert_array_equal(few.base, all_reasons.base)


def test_reasons_do_not_depend_on_the_other_rows(name, fitted, X):
    model = fitted(name)
    few = model.explain(X[:3], [4, 7], k=4)
    many = model.explain(sp.vstack([X[:3]] * 180), [4, 7], k=4)  # more than one block
    for first, second in zip(few, many, strict=True):
        assert_allclose(second[:3], first, rtol=1e-4, atol=1e-6)
        assert_allclose(second[-3:], first, rtol=1e-4, atol=1e-6)


def test_the_base_of_users_without_items_is_the_number_of_users(name, fitted, X):
    model, nobody = fitted(name), sp.csr_array((1, N_ITEMS), dtype=np.float32)
    rows, items = sp.vstack([nobody, X[:2], nobody]).tocsr(), [[3, 5], [1, 2], [8, 9], [0, -1]]
    found = model.explain(rows, items, k=2)
    assert (found.reasons[[0, 3]] == -1).all()
    assert not found.contributions[[0, 3]].any()
    counts = X.toarray().sum(axis=0)
    assert_array_equal(found.base[[0, 3]], [counts[[3, 5]], [counts[0], -np.inf]])
    others = model.explain(X[:2], items[1:3], k=2)
    assert_array_equal(found.reasons[1:3], others.reasons)
    assert_allclose(found.base[1:3], others.base, rtol=1e-4, atol=1e-6)


# --- exact contributions


@pytest.mark.parametrize("name", ["EASE", "SLIM", "ItemKNN"])
def test_contributions_of_item_item_models_are_entries_of_their_matrix(name, fitted, X):
    model, rows = fitted(name), X[:6]
    B = sp.csr_array(model.item_similarity_).toarray()
    items = model.recommend(rows, 4)
    expected = rows.toarray()[:, :, None] * B.T[items].transpose(0, 2, 1)
    assert expected.any()
    assert_array_equal(contributions_of_all(model, rows, items), expected)
    assert not model.explain(rows, items).base.any()


def test_contributions_of_elsa_are_products_of_item_vectors(fitted, X):
    model, rows = fitted("ELSA"), X[:6]
    A = model.item_factors_.astype(np.float64)
    own = rows.indices[rows.indptr[:6]]
    items = np.column_stack([model.recommend(rows, 4), own])  # with an item that the user has
    B = A @ A.T - np.eye(N_ITEMS)
    expected = rows.toarray()[:, :, None] * B.T[items].transpose(0, 2, 1)
    assert_allclose(contributions_of_all(model, rows, items), expected, rtol=1e-4, atol=1e-6)
    assert not model.explain(rows, items).base.any()


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("frequency_exponent", [0.0, 1.0])
def test_contributions_of_wmf_have_the_closed_form(counts, frequency_exponent, X):
    rng = np.random.RandomState(0)
    X = sp.csr_array(X * rng.randint(1, 4, size=X.shape))
    model = make(
        "WMF",
        use_values=counts,
        confidence=2.0,
        unobserved_weight=0.3,
        frequency_exponent=frequency_exponent,
    ).fit(X)
    rows = X[:6]
    items = model.recommend(rows, 4)
    r = rows.toarray() if counts else (rows.toarray() > 0)
    C = 0.3 + 2.0 * r
    Q = model.item_factors_.astype(np.float64)
    expected = np.zeros((6, N_ITEMS, 4))
    for u, c in enumerate(C):
        penalty = 0.02 * c.sum() ** frequency_exponent * np.eye(6)
        W = np.linalg.inv(Q.T * c @ Q + penalty)
        expected[u] = np.where(r[u] > 0, c, 0)[:, None] * (Q @ W @ Q[items[u]].T)
    assert_allclose(contributions_of_all(model, rows, items), expected, rtol=1e-4, atol=1e-5)
    assert not model.explain(rows, items).base.any()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("AWAE", {}),
        ("MultVAE", {}),
        ("SIVAERecommender", {}),
        ("SIVAERecommender", {"shared_sigma": True}),
        ("VAEGANRecommender", {}),
    ],
)
def test_contributions_of_linear_networks_are_products_of_weights(name, changes, X):
    model, rows = make_short(name, encoder_layer_sizes=(), **changes).fit(X), X[:6]
    encoder = model.network_.encoder
    first = encoder.first if hasattr(encoder, "first") else encoder.from_items
    W = first.weight.detach().numpy()[:, :6]
    V = model.network_.decoder.logits.weight.detach().numpy()
    items = model.recommend(rows, 4)
    x = rows.toarray()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = x[:, :, None] * (W @ V).T[items].transpose(0, 2, 1)
    assert_allclose(contributions_of_all(model, rows, items), expected, rtol=1e-4, atol=1e-6)
    # The biases.
    base = first.bias.detach().numpy()[:6] @ V + model.network_.decoder.logits.bias.detach().numpy()
    assert_allclose(model.explain(rows, items).base, base[items], rtol=1e-5, atol=1e-6)


# --- blends


class OnlyDense(skvaecf.EASE):
    """EASE that refuses sparse rows."""

    def predict(self, X):
        assert isinstance(X, np.ndarray)
        return super().predict(X)


class Constant(skvaecf.Popularity):
    """One score for all items, which depends on the row."""

    def predict(self, X):
        return np.tile(np.asarray(X.sum(axis=1)).reshape(-1, 1), X.shape[1])


@pytest.mark.parametrize("rows_of", [sp.csr_array, sp.coo_array, np.asarray])
def test_contributions_of_a_blend_are_sums_of_standardised_contributions(rows_of, X):
    rng = np.random.RandomState(0)
    stars = X.toarray() * rng.randint(1, 6, size=X.shape)
    search = GridSearchCV(make("EASE"), {"l2": [1.0, 50.0]}, cv=2)
    members = {
        "knn": make("ItemKNN"),
        "wmf": make("WMF", use_values=True),  # uses the values
        "liked": make_pipeline(Binarizer(threshold=2), make("EASE")),
        "search": search,
        "frozen": FrozenEstimator(make("ELSA").fit(X)),
        "dae": make_short("MultDAE"),
        "inner": Blend([("ease", make("EASE")), ("elsa", make_short("ELSA"))]),
        **({"dense": OnlyDense(5.0)} if rows_of is np.asarray else {}),
    }
    weights = rng.rand(len(members))
    blend = Blend([*members.items()], weights=weights).fit(rows_of(stars))
    rows = rows_of(stars[:5])
    items, scores = blend.recommend(rows, 3, return_scores=True)
    parts, base = np.zeros((5, N_ITEMS, 3)), np.zeros((5, 3))
    for weight, member in zip(blend.weights_, blend.estimators_, strict=True):
        of_member = member.predict(sp.csr_array(rows) if rows_of is sp.coo_array else rows)
        std, mean = of_member.std(axis=1, keepdims=True), of_member.mean(axis=1, keepdims=True)
        parts += weight * contributions_of_all(member, rows, items) / std[..., None]
        base += weight * (explain(member, rows, items).base - mean) / std
    found = contributions_of_all(blend, rows, items)
    assert_allclose(found, parts, rtol=1e-4, atol=1e-5)
    assert_allclose(blend.explain(rows, items).base, base, rtol=1e-4, atol=1e-5)
    assert_allclose(base + parts.sum(axis=1), scores, rtol=1e-4, atol=1e-5)


def test_contributions_of_a_blend_by_hand():
    # "a" scores the items by (0, 3, 1) + (1, 0, 4) = (1, 3, 5): the mean is 3, the std sqrt(8 / 3).
    a = make("EASE").fit(np.ones((4, 3)))
    a.item_similarity_ = np.array([[0, 3, 1], [1, 0, 4], [0, 0, 0]], dtype=np.float32)
    blend = Blend([("a", FrozenEstimator(a)), ("b", Constant())], weights=[3, 1]).fit(np.eye(3))
    found = blend.explain([[1, 1, 0]], [2], k=2)
    std = np.sqrt(8 / 3)
    assert found.reasons.tolist() == [[[1, 0]]]
    assert_allclose(found.contributions, [[[0.75 * 4 / std, 0.75 / std]]], rtol=1e-6)
    assert_allclose(found.base, [[-0.75 * 3 / std]], rtol=1e-6)


def test_members_of_a_blend_without_weight_or_variance_contribute_nothing(X):
    class Broken(skvaecf.Popularity):
        def predict(self, X):
            return np.full(X.shape, np.nan)

    members = [("ease", make("EASE")), ("equal", Constant()), ("broken", Broken())]
    blend, alone = Blend(members, weights=[1, 1, 0]).fit(X), Blend(members[:1]).fit(X)
    found, expected = (model.explain(X[:4], [1, 2]) for model in (blend, alone))
    assert_array_equal(found.reasons, expected.reasons)
    assert_allclose(2 * found.contributions, expected.contributions, rtol=1e-6)
    assert_allclose(2 * found.base, expected.base, rtol=1e-6)
    blend.set_params(weights=[1, 1, 1]).fit(X)
    with pytest.raises(ValueError, match="member 'broken' returned scores that are NaN"):
        blend.explain(X[:4], [1])


# --- leave-one-out


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("MultVAE", {}),
        ("MultVAE", {"encoder_layer_sizes": (), "decoder_layer_sizes": (5,)}),
        ("MultVAE", {"encoder_layer_sizes": (), "posterior": "iaf"}),
        ("MultDAE", {}),
        ("SIVAERecommender", {"encoder_layer_sizes": (), "n_prediction_samples": 2}),
        ("VAEGANRecommender", {"encoder_layer_sizes": (), "normalize": False}),
        ("CFGAN", {"mode": "item"}),
        ("Popularity", {}),
    ],
)
def test_other_contributions_are_the_loss_without_the_item(name, changes, X):
    model, rows = make_short(name, **changes).fit(X), X[:4]
    items = model.recommend(rows, 3)
    expected = leave_one_out(model, rows, items)
    assert expected.any() == (name != "Popularity")
    assert_allclose(contributions_of_all(model, rows, items), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["MultDAE", "RecVAE", "CDAE"])
def test_the_loss_of_the_only_item_is_not_a_difference_to_popularity(name, X):
    model = make_short(name).fit(X)
    only, nothing = sp.csr_array(np.eye(3, N_ITEMS)), sp.csr_array((3, N_ITEMS), dtype=np.float32)
    found = model.explain(only, [8, 9], k=1)
    assert_array_equal(found.reasons[:, :, 0], np.arange(3)[:, None].repeat(2, axis=1))
    base = model._scorer()(nothing).numpy()[:, [8, 9]]
    assert_allclose(found.base, base, rtol=1e-5, atol=1e-6)


def test_a_pipeline_is_explained_by_its_raw_input(X):
    rng = np.random.RandomState(0)
    ratings = sp.csr_array(X * rng.randint(1, 6, size=X.shape))
    model = make_pipeline(Binarizer(threshold=2), make("EASE")).fit(ratings)
    items = skvaecf.recommend(model, ratings[:5], 3)
    inner = contributions_of_all(model[-1], ratings[:5] > 2, items)
    assert_allclose(contributions_of_all(model, ratings[:5], items), inner, rtol=1e-4, atol=1e-6)
    # Reasons include the items below the threshold, which add nothing.
    own = np.diff(ratings[:5].indptr)
    reasons = explain(model, ratings[:5], items, k=N_ITEMS).reasons
    assert_array_equal((reasons[:, 0] >= 0).sum(axis=1), own)


def test_values_of_a_pipeline_are_kept(X):
    rng = np.random.RandomState(0)
    ratings = sp.csr_array(X * rng.randint(1, 6, size=X.shape))

    class Weighted(skvaecf.Popularity):
        """Scores that depend on the values."""

        def predict(self, X):
            return sp.csr_array(X).toarray() @ (np.arange(N_ITEMS**2).reshape(N_ITEMS, -1) % 7)

    model = make_pipeline(TfidfTransformer(norm=None), Weighted()).fit(ratings)
    items = np.tile([2, 9], (4, 1))
    expected = leave_one_out(model, ratings[:4], items)
    assert_allclose(contributions_of_all(model, ratings[:4], items), expected, rtol=1e-4, atol=1e-4)


def test_a_search_is_explained_by_its_best_estimator(X):
    cv = UserSplitter(n_splits=2, random_state=0)
    search = GridSearchCV(make("WMF"), {"l2": [0.01, 0.1]}, scoring=ndcg_at_k, cv=cv)
    with pytest.raises(NotFittedError):
        explain(search, X[:2], [0])
    search.fit(X)
    for found, expected in zip(
        explain(search, X[:4], [1, 2]), search.best_estimator_.explain(X[:4], [1, 2]), strict=True
    ):
        assert_array_equal(found, expected)


def test_every_format_of_the_rows_has_the_same_reasons(X):
    names = [f"item {i}" for i in range(N_ITEMS)]
    dense = X[:30].toarray()
    for frame in (pd.DataFrame(dense, columns=names), pl.DataFrame(dense, schema=names)):
        pipeline = make_pipeline(Binarizer(), make("EASE")).fit(frame)
        for model in (pipeline, pipeline[-1]):
            given = frame if model is pipeline else dense
            with naming((type(frame), model)):
                expected = explain(make("EASE").fit(X[:30]), X[:30], [3, 4])
                found = explain(model, given, [3, 4])
                assert_array_equal(found.reasons[:, :, :2], expected.reasons[:, :, :2])
                assert_allclose(found.contributions, expected.contributions, atol=1e-6)
    model = make("EASE").fit(X)
    expected = model.explain(X, [3, 4])
    for given in (X.toarray(), X.tocsc(), sp.csr_matrix(X), X.tocoo(), 3 * X):
        for found, value in zip(model.explain(given, [3, 4]), expected, strict=True):
            assert_array_equal(found, value)


# --- arguments


def test_items_of_all_users_and_of_each_user(fitted, X):
    model = fitted("EASE")
    shared, each = model.explain(X[:3], [5, 1]), model.explain(X[:3], [[5, 1]] * 3)
    for first, second in zip(shared, each, strict=True):
        assert_array_equal(first, second)
    padded = model.explain(X[:2], [[5, -1], [-1, 1]])
    assert_array_equal(padded.reasons[0, 0], shared.reasons[0, 0])
    assert_array_equal(padded.reasons[1, 1], shared.reasons[1, 1])
    assert (padded.reasons[[0, 1], [1, 0]] == -1).all()
    assert not padded.contributions[[0, 1], [1, 0]].any()
    for items, shape in [([], (3, 0, 2)), (np.zeros((3, 0), dtype=int), (3, 0, 2))]:
        for name in ("EASE", "SLIM", "WMF", "MultDAE"):
            assert fitted(name).explain(X[:3], items, k=2).reasons.shape == shape
    assert model.explain(X[:0], [1], k=2).reasons.shape == (0, 1, 2)


def test_equal_contributions_are_in_the_order_of_the_items():
    model = make("EASE").fit(np.ones((4, 5)))
    assert model.explain([[0, 1, 1, 0, 1]], [0], k=2).reasons.tolist() == [[[1, 2]]]


def test_refuses_wrong_arguments(fitted, X):
    model, rows = fitted("EASE"), X[:3]
    for items in ([24], [-2], [0.5], 3, [[1], [2]], [[[1]]], ["a"], [True]):
        with naming(items), pytest.raises(ValueError, match="items must"):
            model.explain(rows, items)
    for k in (0, 1.5, None):
        with naming(k), pytest.raises(ValueError, match="k must"):
            model.explain(rows, [1], k)
    with pytest.raises(ValueError, match="features"):
        model.explain(X[:, :5], [1])
    with pytest.raises(NotFittedError):
        make("EASE").explain(rows, [1])
    with pytest.raises(TypeError, match="predict method, got Binarizer"):
        explain(Binarizer(), rows, [1])


def test_tiny_counts_are_interactions(X):
    model = make("WMF", use_values=True).fit(X)
    row = np.zeros((1, N_ITEMS))
    row[0, [3, 7]] = 1, 1e-60
    assert_array_equal(np.sort(model.explain(row, [1], k=3).reasons), [[[-1, 3, 7]]])


def test_scores_that_are_not_finite_are_an_error(X):
    class Broken(skvaecf.Popularity):
        def predict(self, X):
            return np.full(X.shape, np.nan)

    with pytest.raises(ValueError, match="Broken returned scores that are NaN"):
        explain(Broken().fit(X), X[:2], [1])


# --- frames


def test_a_frame_of_reasons_has_ids_and_titles():
    X = sp.csr_array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]])
    users, items = X.nonzero()
    ids = np.array(["a", "b", "c", "d"], dtype=object)
    log = pd.DataFrame({"user": users + 10, "item": ids[items]})
    encoder = InteractionEncoder()
    model = make("EASE").fit(encoder.fit_transform(log))
    recommended = model.recommend(X, 2)
    explanation = model.explain(X, recommended, k=1)
    frame = encoder.explanation_to_frame(explanation, titles={i: i.upper() for i in ids})
    assert frame.columns.tolist() == [
        "user", "rank", "item", "title", "reason", "reason_title", "contribution",
    ]  # fmt: skip
    assert frame["user"].tolist() == [10, 10, 11, 12, 12]
    assert frame["rank"].tolist() == [1, 2, 1, 1, 2]
    kept = recommended >= 0
    assert frame["item"].tolist() == ids[recommended[kept]].tolist()
    assert frame["title"].tolist() == [i.upper() for i in frame["item"]]
    assert frame["reason"].tolist() == ids[explanation.reasons[:, :, 0][kept]].tolist()
    assert frame["reason_title"].tolist() == [i.upper() for i in frame["reason"]]
    assert_array_equal(frame["contribution"], explanation.contributions[:, :, 0][kept])
    plain = encoder.explanation_to_frame(explanation, users=["x", "y", "z"])
    assert plain.columns.tolist() == ["user", "rank", "item", "reason", "contribution"]
    assert plain["user"].tolist() == ["x", "x", "y", "z", "z"]


def test_a_frame_of_reasons_refuses_other_explanations():
    encoder = InteractionEncoder().fit(([1, 2], [1, 2]))
    given = skvaecf.Explanation(
        np.array([[0]]), np.array([[[1]]]), np.array([[[0.5]]]), np.array([[0.0]])
    )
    for changes, text in [
        ({"items": np.array([[2]])}, r"explanation.items must lie in \[0, 2\)"),
        ({"reasons": np.array([[1]])}, "explanation.reasons has shape"),
        ({"reasons": np.array([[[1], [0]]])}, "expected k reasons for each item"),
    ]:
        with naming(changes), pytest.raises(ValueError, match=text):
            encoder.explanation_to_frame(given._replace(**changes), users=[1])
    with pytest.raises(ValueError, match="no title of the item"):
        encoder.explanation_to_frame(given, users=[1], titles={1: "one"})
    with pytest.raises(ValueError, match="There are 1 rows"):
        encoder.explanation_to_frame(given)


# --- similar users


@pytest.mark.parametrize("name", LATENT_RECOMMENDERS)
def test_similar_users_have_similar_latent_vectors(name, fitted, X):
    model = fitted(name)
    Z = model.transform(X).astype(np.float64)
    Z /= np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-12)
    cosine = Z @ Z.T
    np.fill_diagonal(cosine, -np.inf)
    users = [7, 0, 7]
    similar, scores = model.similar_users(X, users, k=5, return_scores=True)
    assert similar.dtype == np.int64
    assert_allclose(scores, -np.sort(-cosine[users], axis=1)[:, :5], rtol=1e-5, atol=1e-5)
    chosen = np.take_along_axis(cosine[users], similar, axis=1)
    assert_allclose(chosen, scores, rtol=1e-5, atol=1e-5)
    assert_array_equal(model.similar_users(X, users, k=5), similar)
    everybody = model.similar_users(X, [3], k=70)[0]
    assert sorted(everybody[:59]) == [u for u in range(60) if u != 3]
    assert (everybody[59:] == -1).all()


def test_similar_users_are_those_of_the_same_block():
    X, _, blocks = make_interactions(90, 24, n_blocks=3, random_state=0, return_blocks=True)
    model = make("WMF", n_components=3).fit(X)
    of_block = sp.csr_array((np.ones(24), (np.arange(24), blocks)))
    of_user = (X @ of_block).toarray().argmax(axis=1)
    similar = model.similar_users(X, range(90), k=5)
    assert (of_user[similar] == of_user[:, None]).mean() > 0.9


def test_similar_users_take_arrays_whatever_transform_returns(X):
    model = make("WMF").fit(X)
    expected = model.similar_users(X, [1, 2])
    model.set_output(transform="pandas")
    assert_array_equal(model.similar_users(X.toarray().astype(np.float64), [1, 2]), expected)
    with torch.no_grad():
        assert_array_equal(model.similar_users(X, [1, 2]), expected)
    assert model.similar_users(X, []).shape == (0, 10)


def test_similar_users_refuse_other_values(fitted, X):
    model = fitted("WMF")
    for users in ([60], [-1], [0.5], 3, [[1]], ["a"]):
        with naming(users), pytest.raises(ValueError, match="users must be a list of row numbers"):
            model.similar_users(X, users)
    with pytest.raises(ValueError, match="k must"):
        model.similar_users(X, [1], k=0)
    with pytest.raises(NotFittedError):
        make("WMF").similar_users(X, [1])
