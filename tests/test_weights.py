"""Weights: values of interactions, weights of users, and the transformers that compute them."""

from __future__ import annotations

import pickle
import unittest
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import torch
from conftest import (
    NEURAL_RECOMMENDERS,
    RECOMMENDERS,
    assert_loss_and_gradients,
    batch_of,
    make,
    naming,
    new_network,
    players_of,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import ElasticNet, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_partial_fit import EXACT, GRAM_MODELS, assert_equal_models

import skvaecf
from skvaecf import (
    EASE,
    SLIM,
    WMF,
    Blend,
    CountSaturation,
    InteractionEncoder,
    ItemKNN,
    MultDAE,
    MultVAE,
    Popularity,
    TimeDecay,
    ndcg_at_k,
)
from skvaecf.datasets import make_interactions
from skvaecf.linear._item_item import SparseGram, dense_gram
from skvaecf.neural import Bernoulli, InteractionBatch, ItemLikelihood, Multinomial, Player
from skvaecf.neural._layers import FactoredLogits

USE_VALUES = [name for name in RECOMMENDERS if "use_values" in make(name).get_params()]


def with_values(name, **changes):
    """Build a recommender that uses values, with a likelihood that allows it."""
    model = make(name, **changes)
    likelihood = {"likelihood": "multinomial"} if hasattr(model, "likelihood") else {}
    return model.set_params(use_values=True, **{**likelihood, **changes})


@pytest.fixture(scope="module")
def weighted():
    """Interactions of 60 users with 24 items, with values between 0.1 and 4."""
    X = make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)
    X.data = np.random.RandomState(0).uniform(0.1, 4, X.nnz).astype(np.float32)
    return X


@pytest.fixture(scope="module")
def sample_weight():
    return np.random.RandomState(1).randint(0, 4, 60).astype(float)


# --- weights of users


def test_ones_change_nothing(name, fitted, X):
    model = make(name)
    if name == "CFGAN":
        model.set_params(mode="user")
    model.fit(X, sample_weight=np.ones(60))
    assert_array_equal(model.predict(X), fitted(name).predict(X))
    assert_array_equal(model.item_counts_, fitted(name).item_counts_)


@pytest.mark.parametrize("exact", EXACT)
@pytest.mark.parametrize("use_values", [False, True])
def test_a_weight_is_a_number_of_users_with_the_same_row(
    exact, use_values, weighted, sample_weight
):
    model = sklearn.base.clone(EXACT[exact])
    if use_values and exact != "Popularity":
        model.set_params(use_values=True)
    repeated = weighted[np.arange(60).repeat(sample_weight.astype(int))]
    expected = sklearn.base.clone(model).fit(repeated)
    assert_equal_models(model.fit(weighted, sample_weight=sample_weight), expected, weighted)
    assert model.item_counts_.dtype == np.int64


def test_many_items_with_weights(weighted, sample_weight, monkeypatch):
    """SLIM without a dense matrix of products."""
    expected = SLIM(use_values=True).fit(weighted, sample_weight=sample_weight).predict(weighted)
    monkeypatch.setattr("skvaecf.recommenders.slim.fits", lambda *_: False)
    scores = SLIM(use_values=True).fit(weighted, sample_weight=sample_weight).predict(weighted)
    assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("speed", [0, np.inf], ids=["dense product", "sparse product"])
def test_weighted_products(speed, weighted, sample_weight, monkeypatch):
    monkeypatch.setattr("skvaecf.linear._item_item.DENSE_SPEED", speed)
    A = weighted.toarray().astype(float)
    G = A.T @ np.diag(sample_weight) @ A
    gram = dense_gram(weighted, torch.device("cpu"), weights=sample_weight)
    assert_allclose(gram, G, rtol=1e-5)
    sparse = SparseGram(weighted, torch.device("cpu"), sample_weight)
    items = torch.tensor([[0, 3], [23, 24]])
    assert_allclose(sparse.counts[:-1], np.diag(G), rtol=1e-5)
    G = np.pad(G, (0, 1))
    among = G[items.numpy()[:, :, None], items.numpy()[:, None, :]]
    assert_allclose(sparse.among(items), among, rtol=1e-5)
    products = sparse.weighted(items, torch.tensor([[1.0, 2.0], [0.5, 0.0]]))
    assert_allclose(products, np.stack([G[0] + 2 * G[3], G[23] / 2]), rtol=1e-5)


@pytest.mark.parametrize("gram_model", GRAM_MODELS)
def test_chunks_of_weighted_users(gram_model, weighted, sample_weight):
    w = sample_weight + 0.25
    model = sklearn.base.clone(GRAM_MODELS[gram_model]).set_params(use_values=True)
    expected = sklearn.base.clone(model).fit(weighted, sample_weight=w)
    chunks = model.partial_fit(weighted[:25], sample_weight=w[:25])
    chunks.partial_fit(weighted[20:], sample_weight=w[20:], solve=False)
    chunks.partial_fit(X_before=weighted[20:25], sample_weight_before=w[20:25])
    assert_allclose(chunks.predict(weighted), expected.predict(weighted), rtol=2e-5, atol=2e-5)
    assert_allclose(chunks.item_counts_, expected.item_counts_, rtol=1e-5)
    fitted_first = sklearn.base.clone(model).fit(weighted[:25], sample_weight=w[:25])
    fitted_first.partial_fit(weighted[25:], sample_weight=w[25:])
    assert_allclose(
        fitted_first.predict(weighted), expected.predict(weighted), rtol=2e-5, atol=2e-5
    )
    with pytest.raises(ValueError, match="X_before must hold rows of earlier calls"):
        chunks.partial_fit(X_before=weighted[:25], sample_weight_before=w[:25] + 1)


def test_popularity_counts_weighted_users():
    X, more = [[1, 0, 2], [1, 1, 0]], [[0, 0, 1]]
    model = Popularity().fit(X, sample_weight=[0.5, 2.0])
    assert model.item_counts_.tolist() == [2.5, 2.0, 0.5]
    assert model.predict([[0, 0, 0]]).tolist() == [[2.5, 2.0, 0.5]]
    model.partial_fit(more, sample_weight=[3.5])
    assert model.item_counts_.tolist() == [2.5, 2.0, 4.0]


def wmf(**changes):
    return WMF(
        4,
        l2=0.05,
        solver="cholesky",
        cg_steps=10,  # where few steps end depends on rounding
        max_epochs=60,
        tol=0.0,
        random_state=0,
        device="cpu",
    ).set_params(**changes)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_wmf_of_weighted_users_is_that_of_repeated_users(solver, exponent, weighted, sample_weight):
    model = wmf(solver=solver, frequency_exponent=exponent, use_values=True, max_epochs=4)
    repeated = weighted[np.arange(60).repeat(sample_weight.astype(int))]
    expected = sklearn.base.clone(model).fit(repeated)
    model.fit(weighted, sample_weight=sample_weight)
    assert_allclose(model.predict(weighted), expected.predict(weighted), atol=2e-4)
    objectives = [[epoch["objective"] for epoch in m.history_] for m in (model, expected)]
    assert_allclose(objectives[0], objectives[1], rtol=1e-4)
    assert model.unobserved_weight_ == pytest.approx(expected.unobserved_weight_, rel=1e-6)
    auto = wmf(l2="auto").fit(weighted, sample_weight=sample_weight).l2_
    assert auto == pytest.approx(wmf(l2="auto").fit(repeated).l2_, rel=1e-6)


def test_wmf_minimises_the_weighted_objective(weighted, sample_weight):
    """The gradient of the objective of the docstring is 0 at the factors."""
    w = sample_weight + 0.5
    model = wmf(use_values=True, confidence=0.7).fit(weighted, sample_weight=w)
    P, Q = (
        torch.tensor(a, dtype=torch.float64) for a in (model.user_factors_, model.item_factors_)
    )
    P.requires_grad_()
    Q.requires_grad_()
    r = torch.tensor(weighted.toarray(), dtype=torch.float64)
    s, x, c = torch.tensor(w)[:, None], (r > 0).double(), model.unobserved_weight_ + 0.7 * r
    loss = (s * c * (x - P @ Q.T) ** 2).sum()
    loss = loss + 0.05 * (s * c.sum(1, keepdim=True) * P**2).sum()
    loss = loss + 0.05 * ((s * c).sum(0)[:, None] * Q**2).sum()
    gradients = torch.autograd.grad(loss, [P, Q])
    assert model.history_[-1]["objective"] == pytest.approx(loss.item(), rel=1e-4)
    for gradient in gradients:
        assert gradient.abs().max() < 1e-3 * loss


def test_wmf_adds_weighted_users(weighted, sample_weight, tmp_path):
    w = sample_weight + 0.5
    model = wmf(max_epochs=4).fit(weighted[:30], sample_weight=w[:30])
    repeated = wmf(max_epochs=4).fit(weighted[:30].toarray().repeat(2, axis=0))
    doubled = wmf(max_epochs=4).fit(weighted[:30], sample_weight=np.full(30, 2.0))
    for earlier, further in ((doubled, weighted[30:]), (repeated, weighted[30:])):
        earlier.partial_fit(further)
    assert_allclose(doubled.predict(weighted), repeated.predict(weighted), atol=1e-5)
    model.save(tmp_path / "model")
    model.partial_fit(weighted[30:], sample_weight=w[30:])
    loaded = skvaecf.load(tmp_path / "model").partial_fit(weighted[30:], sample_weight=w[30:])
    assert_array_equal(loaded.predict(weighted), model.predict(weighted))
    expected = wmf(max_epochs=4).fit(weighted, sample_weight=w)
    stale = wmf(max_epochs=4).fit(weighted[:30], sample_weight=w[:30])
    errors = [
        np.abs(m.predict(weighted) - expected.predict(weighted)).mean() for m in (model, stale)
    ]
    assert errors[0] < errors[1]
    assert_allclose(model._user_weights, w, rtol=1e-6)


@pytest.mark.parametrize("neural", NEURAL_RECOMMENDERS)
def test_users_with_the_weight_0_are_absent(neural, X, sample_weight):
    kept = sample_weight > 0
    model = make(neural, max_epochs=1).fit(X, sample_weight=sample_weight)
    expected = make(neural, max_epochs=1).fit(X[kept], sample_weight=sample_weight[kept])
    assert_array_equal(model.predict(X), expected.predict(X))
    assert_array_equal(model.item_counts_, expected.item_counts_)


@pytest.mark.parametrize("neural", NEURAL_RECOMMENDERS)
def test_losses_are_sums_of_weighted_terms_of_users(neural, small_X):
    """The loss is linear in the weights, and without them it does not depend on the users."""
    model = make(neural)
    network = new_network(model, small_X, 1.5, 0.02)
    w = np.random.RandomState(0).uniform(0, 2, 10)
    for player in players_of(model, network, small_X):

        def loss(weights, X=small_X, player=player):
            x = InteractionBatch.from_csr(X, weights=weights)
            batch = batch_of(X)._replace(x=x if player.rows is None else x.entries())
            users = torch.arange(batch.x.n_users)
            with torch.no_grad():
                return float(player.loss(batch._replace(users=users)))

        nothing = loss(np.zeros(10))
        of_each = np.array([loss(row) for row in np.eye(10)]) - nothing
        assert np.abs(of_each).min() > 1e-4
        assert loss(w) - nothing == pytest.approx(w @ of_each, rel=1e-3, abs=1e-4)
        assert loss(np.ones(10)) == pytest.approx(float(of_each.sum()) + nothing, rel=1e-4)


def test_the_weighted_loss_is_that_of_repeated_users(small_X):
    model = MultDAE(4, dropout=0.0, l2=3.0, init="random", likelihood="multinomial")
    k = np.array([1, 2, 3, 1, 2, 1, 4, 1, 1, 2])
    network = new_network(model, small_X, 3.0, 0.1)
    [player] = players_of(model, network, small_X)
    x = InteractionBatch.from_csr(small_X, weights=k)
    loss = player.loss(batch_of(small_X)._replace(x=x)) / (k.sum() / 10)
    repeated = small_X[np.arange(10).repeat(k)]
    [player] = players_of(model, network, repeated)
    expected = player.loss(batch_of(repeated))
    assert_loss_and_gradients(loss, expected, player.parameters)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_scale_of_the_weights_does_not_change_the_steps(scale, X):
    w = np.random.RandomState(0).uniform(0.5, 2, 60)
    model, expected = (
        make("MultVAE", max_epochs=3).fit(X, sample_weight=weights) for weights in (scale * w, w)
    )
    assert_allclose(model.predict(X), expected.predict(X), rtol=1e-3, atol=1e-4)


def test_heavy_users_have_more_influence():
    """Item 0 goes with item 1 for some users, and with item 2 for others."""
    X = np.repeat([[1, 1, 0, 0, 1], [1, 0, 1, 0, 1]], 40, axis=0)
    for name in ("EASE", "SLIM", "ItemKNN", "WMF", "MultVAE", "MultDAE", "ELSA", "CDAE", "RecVAE"):
        model = make(name)
        if name in NEURAL_RECOMMENDERS:
            model.set_params(early_stopping=False, max_epochs=20)
        for heavy in (0, 1):
            weights = np.repeat([1.0, 9.0] if heavy else [9.0, 1.0], 40)
            scores = model.fit(X, sample_weight=weights).predict([[1, 0, 0, 0, 0]])[0]
            with naming((name, heavy)):
                assert (scores[2] > scores[1]) == bool(heavy)


def test_invalid_weights_are_refused(name, X, unchanged):
    model = make(name)
    check = unchanged(model)
    for bad, message in (
        (np.ones(59), "sample_weight.shape"),
        (np.ones((60, 2)), "[Ss]ample.weight"),
        (np.full(60, np.nan), "sample_weight contains NaN"),
        (-np.ones(60), "Negative values in data passed to `sample_weight`"),
        (
            np.zeros(60),
            "(sample_weight must be positive for a user|Sample weights must contain at least one)",
        ),
    ):
        with naming(bad[:1]), pytest.raises(ValueError, match=message):
            model.fit(X, sample_weight=bad)
        check()


class Unweighted(MultDAE):
    """Its loss takes the mean without weights."""

    def _players(self, network, x):
        [player] = super()._players(network, x)

        def loss(batch):
            return player.loss(batch._replace(x=batch.x.with_values(batch.x.values)))

        def ignoring(batch):
            x = batch.x
            return loss(batch._replace(x=InteractionBatch(x.items, x.values, x.offsets, x.n_items)))

        return [Player("autoencoder", player.parameters, ignoring, 0.01)]


@pytest.mark.parametrize(
    "model", [Unweighted(4), make("CFGAN", mode="item")], ids=["custom", "item"]
)
def test_losses_without_weights_refuse_them(model, X, unchanged):
    check = unchanged(model)
    with pytest.raises(ValueError, match="sample_weight must be None: the loss of the"):
        model.fit(X, sample_weight=np.full(60, 2.0))
    check()


def test_blend_passes_weights_to_its_members(X, sample_weight):
    members = [("ease", EASE(5.0)), ("knn", ItemKNN(5))]
    blend = Blend(members).fit(X, sample_weight=sample_weight)
    for name, member in members:
        alone = sklearn.base.clone(member).fit(X, sample_weight=sample_weight)
        assert_array_equal(blend.named_estimators_[name].predict(X), alone.predict(X))
    auto = make("Blend").fit(X, sample_weight=sample_weight + 1)
    assert_array_equal(
        auto.estimators_[0].predict(X), EASE(5.0).fit(X, sample_weight=sample_weight + 1).predict(X)
    )
    pipeline = make_pipeline(CountSaturation(), EASE())
    with pytest.raises(ValueError, match="fit of the member 'pipe' does not support it"):
        Blend([("pipe", pipeline)]).fit(X, sample_weight=sample_weight)


def test_metadata_routing(X, sample_weight):
    w = sample_weight + 0.5
    with sklearn.config_context(enable_metadata_routing=True):
        ease = EASE(5.0).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(CountSaturation(), ease).fit(X, sample_weight=w)
        search = GridSearchCV(ease, {"l2": [1.0, 50.0]}, cv=2)
        search.fit(X, sample_weight=w)
    expected = EASE(5.0).fit(X, sample_weight=w)
    assert_array_equal(pipeline.predict(X), expected.predict(X))
    for part, (train, test) in enumerate(([slice(30, 60), slice(30)], [slice(30), slice(30, 60)])):
        model = EASE(1.0).fit(X[train], sample_weight=w[train])
        assert search.cv_results_[f"split{part}_test_score"][0] == ndcg_at_k(model, X[test])


# --- values of interactions


@pytest.mark.parametrize("name", USE_VALUES)
def test_values_of_1_change_nothing(name, X):
    changes = {"likelihood": "multinomial"} if hasattr(make(name), "likelihood") else {}
    expected = make(name, **changes).fit(X)
    assert_array_equal(with_values(name).fit(X).predict(X), expected.predict(X))


@pytest.mark.parametrize("name", USE_VALUES)
def test_values_count_in_fit_and_in_predict(name, weighted, X):
    model, ones = with_values(name).fit(weighted), sp.csr_array(weighted.astype(bool))
    assert not np.allclose(model.predict(weighted), with_values(name).fit(ones).predict(weighted))
    assert not np.allclose(model.predict(weighted), model.predict(ones))
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(copied.predict(weighted), model.predict(weighted))
    assert_array_equal(model.item_counts_, make(name).fit(X).item_counts_)
    binary = make(name).fit(weighted)
    assert_array_equal(binary.predict(weighted), binary.predict(ones))


def test_ease_is_a_ridge_regression_of_the_values(weighted, sample_weight):
    model = EASE(7.0, use_values=True).fit(weighted, sample_weight=sample_weight)
    A = weighted.toarray().astype(float)
    others = np.arange(24) != 5
    ridge = Ridge(7.0, fit_intercept=False)
    ridge.fit(A[:, others], A[:, 5], sample_weight=sample_weight)
    assert_allclose(model.item_similarity_[others, 5], ridge.coef_, atol=1e-5)
    assert_allclose(model.predict(weighted), A @ model.item_similarity_, atol=1e-4)


def test_slim_is_an_elastic_net_of_the_values(weighted, sample_weight):
    l1, l2 = 4.0, 7.0
    model = SLIM(l1, l2, use_values=True, tol=1e-6).fit(weighted, sample_weight=sample_weight)
    A = weighted.toarray().astype(float) * sample_weight[:, None] ** 0.5
    others = np.arange(24) != 5
    net = ElasticNet(
        (l1 + l2) / 60, l1_ratio=l1 / (l1 + l2), fit_intercept=False, positive=True, tol=1e-10
    ).fit(A[:, others], A[:, 5])
    assert_allclose(model.item_similarity_.toarray()[others, 5], net.coef_, atol=1e-4)


@pytest.mark.parametrize("weighting", [None, "tfidf"])
def test_item_knn_compares_vectors_of_values(weighting, weighted, sample_weight):
    model = ItemKNN(24, weighting=weighting, shrinkage=2.0, use_values=True)
    model.fit(weighted, sample_weight=sample_weight)
    A = weighted.toarray().astype(float)
    if weighting:
        A *= np.log(24 / (A > 0).sum(axis=1, keepdims=True))
    products = A.T @ np.diag(sample_weight) @ A
    lengths = np.diag(products) ** 0.5
    S = products / (np.outer(lengths, lengths) + 2)
    np.fill_diagonal(S, 0)
    assert_allclose(model.item_similarity_.toarray(), S, rtol=1e-4)
    assert_allclose(model.predict(weighted), weighted @ S, rtol=1e-3)


def test_auto_values_have_the_unit_of_the_products(weighted):
    """Larger values scale products and penalties alike, so the weights of items stay."""
    larger = sp.csr_array(4 * weighted)
    for model in (EASE(use_values=True), SLIM(use_values=True), ItemKNN(use_values=True)):
        similarity = [
            sp.csr_array(sklearn.base.clone(model).fit(A).item_similarity_).toarray()
            for A in (weighted, larger)
        ]
        with naming(model):
            assert_allclose(similarity[0], similarity[1], atol=1e-4)


@pytest.mark.parametrize("likelihood", [Multinomial, Bernoulli])
@pytest.mark.parametrize("factored", [False, True])
def test_likelihoods_of_values(likelihood, factored, weighted, monkeypatch):
    monkeypatch.setattr(
        "skvaecf.neural._likelihoods._parts", lambda *_: [slice(0, 10), slice(10, 24)]
    )
    x = InteractionBatch.from_csr(weighted)
    dense = torch.tensor(weighted.toarray())
    r = np.random.RandomState(0)
    h, W, b = (
        torch.tensor(r.normal(size=shape), dtype=torch.float32, requires_grad=True)
        for shape in ((60, 3), (3, 24), (24,))
    )
    eta = h @ W + b
    if likelihood is Multinomial:
        expected = (dense * torch.log_softmax(eta, dim=1)).sum(dim=1)
    else:
        of_others = torch.where(dense > 0, 0, torch.nn.functional.logsigmoid(-eta))
        expected = (dense * torch.nn.functional.logsigmoid(eta) + of_others).sum(dim=1)
    log_prob = likelihood(FactoredLogits(h, W, b) if factored else h @ W + b).log_prob(x)
    assert_allclose(log_prob.detach(), expected.detach(), rtol=1e-4, atol=1e-4)
    scale = torch.tensor(r.uniform(size=60), dtype=torch.float32)
    gradients, references = (
        torch.autograd.grad((scale * value).sum(), (h, W, b), retain_graph=True)
        for value in (log_prob, expected)
    )
    for ours, theirs in zip(gradients, references, strict=True):
        assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


class SetLikelihood(ItemLikelihood):
    """A custom likelihood, which does not say that it takes values."""

    log_normalizer = Bernoulli.log_normalizer
    mean = Bernoulli.mean


@pytest.mark.parametrize("likelihood", ["n-choose-k", SetLikelihood])
def test_likelihoods_of_sets_refuse_values(likelihood, X, unchanged):
    model = MultVAE(4, use_values=True, likelihood=likelihood)
    check = unchanged(model)
    with pytest.raises(ValueError, match=r"use_values=True needs a likelihood .* Got likelihood="):
        model.fit(X)
    check()


def test_validation_users_have_values(weighted):
    model = with_values("MultVAE", max_epochs=2)
    fold_in, heldout = skvaecf.split_interactions(weighted, random_state=0)
    history = [
        sklearn.base.clone(model).fit(weighted, X_val=(rows, heldout)).history_
        for rows in (fold_in, sp.csr_array(fold_in.astype(bool)))
    ]
    scores = [[epoch["validation_ndcg"] for epoch in epochs] for epochs in history]
    assert scores[0] != scores[1]


@pytest.mark.parametrize("name", ["EASE", "SLIM", "ItemKNN", "MultVAE"])
def test_reasons_add_up_to_scores_of_values(name, weighted):
    changes = {"encoder_layer_sizes": ()} if name == "MultVAE" else {}
    model = with_values(name, **changes).fit(weighted)
    items, scores = model.recommend(weighted, 3, return_scores=True)
    reasons = model.explain(weighted, items, k=24)
    assert_allclose(reasons.base + reasons.contributions.sum(axis=2), scores, rtol=1e-3, atol=1e-4)


def test_modules_take_values(weighted):
    model = with_values("MultDAE").fit(weighted)
    items, counts = (
        torch.tensor(weighted.indices).long(),
        torch.tensor(np.diff(weighted.indptr)).long(),
    )
    listed, scores = model.to_module(4)(items, counts, torch.tensor(weighted.data))
    expected = model.recommend(weighted, 4, return_scores=True)
    assert_array_equal(listed, expected[0])
    assert_allclose(scores, expected[1], rtol=1e-5, atol=1e-6)


# --- transformers

TRANSFORMERS = [TimeDecay(10.0), CountSaturation(), CountSaturation("bm25")]


@parametrize_with_checks(TRANSFORMERS)
def test_scikit_learn_checks(estimator, check):
    try:
        check(estimator)
    except unittest.SkipTest as skipped:
        raise AssertionError(f"skipped: {skipped}") from skipped


@pytest.mark.parametrize("make_times", [np.asarray, sp.csr_array, sp.csr_matrix, sp.csc_array])
def test_weights_halve_with_age(make_times):
    times = make_times(np.array([[0.0, 100, 90], [80, 0, 60]]))
    decay = TimeDecay(half_life=10).fit(times)
    assert decay.latest_time_ == 100
    weights = decay.transform(times)
    assert type(weights) is type(times)
    dense = weights.toarray() if sp.issparse(weights) else weights
    assert_allclose(dense, [[0, 1, 0.5], [0.25, 0, 1 / 16]], rtol=1e-12)
    later = decay.transform(make_times(np.array([[150.0, 0, 0]])))
    assert later[0, 0] == 1
    old = decay.transform(make_times(np.array([[-1e7, 0, 0]])))
    assert old[0, 0] == 1e-37


def test_a_stored_0_is_a_time():
    times = sp.csr_array(([0.0, 10.0], [0, 2], [0, 2]), shape=(1, 3))
    weights = TimeDecay(10).fit_transform(times)
    assert weights.data.tolist() == [0.5, 1.0]
    assert weights.indices.tolist() == [0, 2]
    assert times.data.tolist() == [0.0, 10.0]


@pytest.mark.parametrize(
    "half_life",
    [86_400, 86_400.0, "1D", "24h", "1440 m", "86400s", timedelta(1), np.timedelta64(24, "h")],
)
def test_units_of_the_half_life(half_life):
    times = np.array([[1.0, 86_401.0]])
    assert_allclose(TimeDecay(half_life).fit_transform(times), [[0.5, 1.0]], rtol=1e-12)


@pytest.mark.parametrize(
    "half_life", [0, -1.0, np.inf, "0D", "-3D", "D", "3 months", "3M", timedelta(0), None]
)
def test_invalid_half_lives(half_life):
    with pytest.raises(ValueError, match="half_life"):
        TimeDecay(half_life).fit([[1.0, 2.0]])


def test_saturation():
    counts = sp.csr_array(np.array([[1, 3, 0, 100]]))
    assert_allclose(
        CountSaturation().fit_transform(counts).toarray(), [[1, 2, 0, np.log2(101)]], rtol=1e-12
    )
    bm25 = CountSaturation("bm25", k1=2.0).fit_transform(counts)
    assert_allclose(bm25.toarray(), [[1, 9 / 5, 0, 300 / 102]], rtol=1e-12)
    assert CountSaturation().fit(counts).get_feature_names_out().tolist() == [
        "x0",
        "x1",
        "x2",
        "x3",
    ]
    for changes in ({"method": "root"}, {"k1": 0.0}, {"k1": "much"}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            CountSaturation(**changes).fit(counts)


def test_a_pipeline_holds_the_recipe():
    """Two tastes; the users move from the first to the second, and the recent one counts."""
    days = np.array([[1.0, 2, 3, 0, 0, 0], [0, 0, 0, 98, 99, 100], [1, 2, 0, 98, 0, 0]])
    users = np.repeat(np.arange(3), 12)
    items = [[0, 1, 2], [3, 4, 5], [0, 1, 3]]
    log = {
        "user": np.arange(36).repeat(3),
        "item": np.array(items)[users].ravel(),
        "time": np.concatenate([86_400 * days[u][days[u] > 0] for u in users]),
    }
    times = InteractionEncoder(time="time").fit(log).transform_times(log)
    mixed = times[[35]]
    scorer = replace(ndcg_at_k, min_interactions=2)
    for model in (WMF(3, use_values=True, random_state=0), EASE(1.0, use_values=True)):
        recent = make_pipeline(TimeDecay("10D"), model).fit(times)
        usual = make_pipeline(TimeDecay(1e12), model).fit(times)
        gain = [m.predict(mixed)[0, 4] - m.predict(mixed)[0, 2] for m in (usual, recent)]
        with naming(model):
            assert gain[0] < gain[1] - 0.005
            assert skvaecf.recommend(usual, mixed, 1).tolist() == [[2]]
            assert 0 < scorer(recent, times) <= 1
    assert set(skvaecf.recommend(recent, mixed, 2)[0]) == {4, 5}
    search = GridSearchCV(
        make_pipeline(TimeDecay(), EASE(use_values=True)),
        {"timedecay__half_life": ["1D", 1e9]},
        scoring=scorer,
        cv=2,
    )
    assert search.fit(times).best_score_ > 0
