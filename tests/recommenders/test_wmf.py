"""WMF against dense normal equations in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import seeded
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from skvaecf import WMF, recommend
from skvaecf.datasets import make_interactions
from skvaecf.neural import InteractionBatch
from skvaecf.recommenders.wmf import leading_subspace

SETTINGS = [
    {},
    {"unobserved_weight": 1.0, "confidence": 9.0, "frequency_exponent": 0.0},
    {"unobserved_weight": 0.1, "frequency_exponent": 0.5, "use_values": True},
    {"unobserved_weight": 0.0, "l2": 0.3},
]


@pytest.fixture(scope="module")
def X():
    rows = make_interactions(30, 20, n_blocks=2, noise=0.3, random_state=0).toarray()
    rows[3] = 0  # a user and an item without interactions
    rows[:, 5] = 0
    return rows * np.random.RandomState(0).randint(1, 5, rows.shape)


def wmf(**settings):
    defaults = {"unobserved_weight": 0.5, "l2": 0.05, "device": "cpu", "random_state": 0}
    return WMF(**{"n_components": 5} | defaults | settings)


def weights(model, X):
    r = X.astype(np.float64) if model.use_values else (X > 0).astype(np.float64)
    return model.unobserved_weight_ + model.confidence * r


def objective(model, X, P, Q):
    """Write the objective of the class docstring over all pairs."""
    c, nu = weights(model, X), model.frequency_exponent
    P, Q = np.asarray(P, np.float64), np.asarray(Q, np.float64)
    penalty = (c.sum(1) ** nu * (P**2).sum(1)).sum() + (c.sum(0) ** nu * (Q**2).sum(1)).sum()
    return (c * ((X > 0) - P @ Q.T) ** 2).sum() + model.l2_ * penalty


def normal_equations(model, X, Q):
    """Solve for each user by a dense ridge regression over all items."""
    c, Q = weights(model, X), np.asarray(Q, np.float64)
    ridge = model.l2_ * c.sum(1) ** model.frequency_exponent
    return np.stack(
        [
            np.linalg.pinv(Q.T @ (c_u[:, None] * Q) + r * np.eye(Q.shape[1])) @ Q.T @ (c_u * x_u)
            for c_u, x_u, r in zip(c, (X > 0), ridge, strict=True)
        ]
    )


def half_steps(model, X):
    """Record P and Q, with the products at the interactions, after every half-step of a fit."""
    states, step = [], model._step

    def recording(x, P, Q, predicted, *weights):
        P, predicted = step(x, P, Q, predicted, *weights)
        P_, Q_ = (P, Q) if x.n_items == X.shape[1] else (Q, P)
        assert_allclose(predicted, x.products(P, Q), rtol=1e-3, atol=1e-5)
        states.append((P_.clone(), Q_.clone(), x.n_items == X.shape[1]))
        return P, predicted

    model._step = recording
    model.fit(X)
    return states


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("solver", "block_size"), [("cg", None), ("cg", 2), ("cholesky", None), ("cholesky", 2)]
)
def test_objective_falls_at_every_half_step(X, settings, solver, block_size):
    model = wmf(**settings, solver=solver, block_size=block_size, max_epochs=6, tol=0)
    values = [objective(model, X, P, Q) for P, Q, _ in half_steps(model, X)]
    assert len(values) == 12
    assert np.all(np.diff(values) < 1e-6 * values[0])
    assert values[-1] < 0.95 * values[0]
    assert_allclose([h["objective"] for h in model.history_], values[1::2], rtol=1e-4)
    assert objective(model, X, model.user_factors_, model.item_factors_) == pytest.approx(
        values[-1]
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_exact_half_step_solves_the_normal_equations(X, settings):
    model = wmf(**settings, solver="cholesky", max_epochs=2, tol=0)
    for P, Q, users_moved in half_steps(model, X):
        if users_moved:
            assert_allclose(P, normal_equations(model, X, Q), rtol=2e-3, atol=1e-4)
        else:
            assert_allclose(Q, normal_equations(model, X.T, P), rtol=2e-3, atol=1e-4)


def test_an_epoch_that_lowers_the_objective_by_less_than_a_share_of_it_is_the_last(X):
    model = wmf(tol=0.003, max_epochs=50).fit(X)
    objectives = np.array([record["objective"] for record in model.history_])
    shares = -np.diff(objectives) / objectives[1:]
    assert len(shares) > 1
    assert shares[-1] < 0.003 <= shares[:-1].min()
    assert np.diff(objectives)[-1] < -0.003


def test_many_steps_of_conjugate_gradients_are_exact(X):
    exact = wmf(solver="cholesky").fit(X)
    assert_allclose(wmf(cg_steps=50).fit(X).item_factors_, exact.item_factors_, atol=2e-3)
    assert not np.allclose(wmf(cg_steps=1).fit(X).item_factors_, exact.item_factors_, atol=2e-3)


def test_blocks_reach_the_same_minimum(X):
    together = wmf(solver="cholesky", max_epochs=300, tol=1e-7).fit(X)
    blocks = wmf(solver="cholesky", block_size=2, max_epochs=300, tol=1e-7).fit(X)
    assert blocks.history_[-1]["objective"] == pytest.approx(
        together.history_[-1]["objective"], rel=1e-3
    )


def test_rows_of_all_lengths_are_solved_in_groups():
    # 600 rows of 0 to 99 interactions: several groups, with little filled up.
    rows = np.random.RandomState(0).rand(600, 100) < np.linspace(0, 1, 600)[:, None] ** 2
    model = wmf(n_components=64, solver="cholesky", max_epochs=1)
    (P, Q, _), _ = half_steps(model, rows)
    assert_allclose(P, normal_equations(model, rows, Q), rtol=1e-2, atol=1e-3)
    # Folding in takes small systems for short rows and conjugate gradients for the others.
    P = normal_equations(model, rows, model.item_factors_)
    assert_allclose(model.transform(rows), P, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_fold_in_solves_the_normal_equations(X, settings):
    model = wmf(**settings).fit(X)
    P = normal_equations(model, X, model.item_factors_)
    assert_allclose(model.transform(X), P, rtol=1e-3, atol=1e-4)
    some = X.any(axis=1)
    assert_allclose(model.predict(X)[some], (P @ model.item_factors_.T)[some], rtol=1e-3, atol=1e-3)


def test_an_interrupted_fit_keeps_its_factors(X, monkeypatch):
    n_epochs, steps, step = 2, [], WMF._step

    def interrupted(self, *arguments):
        steps.append(None)
        if len(steps) > 2 * n_epochs:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(WMF, "_step", interrupted)
    with pytest.warns(UserWarning, match="interrupted in epoch 3"):
        model = wmf(max_epochs=5, tol=0).fit(X)
    monkeypatch.undo()
    assert model.n_iter_ == n_epochs
    expected = wmf(max_epochs=n_epochs, tol=0).fit(X)
    assert_allclose(model.predict(X), expected.predict(X), atol=1e-5)
    monkeypatch.setattr(WMF, "_step", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match=r"in the first epoch.*nothing is kept"):
        wmf().fit(X)


def test_the_objectives_of_hu_and_rendle_have_the_same_ranking():
    # The targets of Rendle et al. are 1 / (1 + a0): all factors shrink, no rank changes.
    X = make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)
    a0, l2 = 0.2, 0.01
    ours = wmf(unobserved_weight=a0, l2=(1 + a0) * l2, max_epochs=500, tol=1e-9).fit(X)
    Q = ours.item_factors_.astype(np.float64) / np.sqrt(1 + a0)
    x = X.toarray().astype(np.float64)
    n = x.sum(1)
    P = np.stack(
        [
            np.linalg.solve(
                a0 * Q.T @ Q + Q.T @ (x_u[:, None] * Q) + l2 * (n_u + a0 * 24) * np.eye(5),
                Q.T @ x_u,
            )
            for x_u, n_u in zip(x, n, strict=True)
        ]
    )
    assert_allclose((1 + a0) * P @ Q.T, ours.predict(X), atol=2e-3)


def test_one_component_by_hand():
    # One user, one item: (1 + a0)(1 - p q)^2 + l2 (1 + a0)(p^2 + q^2) has p = q = sqrt(1 - l2).
    model = wmf(n_components=1, l2=0.36, max_epochs=500, tol=0).fit([[1]])
    assert abs(model.item_factors_[0, 0]) == pytest.approx(0.8, rel=1e-3)
    assert model.user_factors_[0, 0] == pytest.approx(model.item_factors_[0, 0], rel=1e-3)
    assert model.history_[-1]["objective"] == pytest.approx(
        1.5 * ((1 - 0.64) ** 2 + 0.36 * 2 * 0.64), rel=1e-4
    )


def test_counts_weigh_interactions():
    X = [[5, 1, 0, 0], [5, 1, 0, 0], [0, 0, 1, 5], [0, 0, 1, 5]]
    binary, counted = (wmf(n_components=2, use_values=values).fit(X) for values in (False, True))
    assert_array_equal(binary.predict(X), binary.predict(np.sign(X)))
    gaps = [model.predict(X)[0, 0] - model.predict(X)[0, 1] for model in (binary, counted)]
    assert gaps[1] > gaps[0] + 0.01


def test_a_user_without_items_has_no_preference(X):
    model = wmf().fit(X)
    assert_array_equal(model.transform(X)[3], np.zeros(5))
    assert_array_equal(model.user_factors_[3], np.zeros(5))


def test_users_are_folded_in_some_at_a_time_and_not_for_a_bad_call(X, monkeypatch):
    model = wmf().fit(X)
    expected = model.recommend(X, 5)
    sizes, fold_in = [], WMF._fold_in

    def counting(self, rows, items):
        sizes.append(rows.shape[0])
        return fold_in(self, rows, items)

    monkeypatch.setattr(WMF, "_fold_in", counting)
    monkeypatch.setattr("skvaecf.ranking.BLOCK_ROWS", 8)
    with pytest.raises(ValueError, match="k must"):
        model.recommend(X, 0)
    assert sizes == []
    assert_array_equal(model.recommend(X, 5), expected)
    assert sorted(sizes) == [6, 8, 8, 8]


def test_bfloat16_finds_the_same_items():
    X = make_interactions(200, 2000, n_blocks=4, random_state=0)
    model = wmf(n_components=16, precision="float32").fit(X)
    items, scores = model.recommend(X, 20, return_scores=True)
    model.set_params(precision="bfloat16")
    found, values = model.recommend(X, 20, return_scores=True)
    assert_allclose(values, scores, rtol=1e-4, atol=1e-5)  # exact, not rounded to 3 digits
    assert (found == items).mean() > 0.95  # equal but for ties within rounding
    lists = [model.recommend(X[[row]], 20, return_scores=True) for row in range(40)]
    one_by_one, of_one = map(np.vstack, zip(*lists, strict=True))
    assert (found[:40] == one_by_one).mean() > 0.95
    assert_allclose(of_one, scores[:40], rtol=1e-4, atol=1e-5)


def test_a_user_without_items_gets_the_same_list_in_bfloat16():
    X = make_interactions(100, 400, n_blocks=4, random_state=0)
    model = wmf(precision="bfloat16").fit(X)
    nobody = csr_array((2, 400))
    popular = np.argsort(-X.sum(axis=0), kind="stable")[:5]
    assert_array_equal(model.recommend(nobody, 5), [popular] * 2)
    assert_array_equal(recommend(model, nobody, 5), [popular] * 2)


def test_the_function_gives_the_scores_of_the_method():
    X = make_interactions(100, 400, n_blocks=4, random_state=0)
    model = wmf(precision="bfloat16").fit(X)
    of_method = model.recommend(X, 5, return_scores=True)
    assert_array_equal(recommend(model, X, 5, return_scores=True), of_method)


def test_factors_stand_in_principal_axes(X):
    gram = (lambda Q: Q.T @ Q)(wmf().fit(X).item_factors_)
    assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-4 * gram.max())
    assert np.all(np.diff(np.diag(gram)) >= 0)


def test_similarities_are_cosines_of_the_factors(X):
    model = wmf().fit(X)
    Q = model.item_factors_.astype(np.float64)
    items, scores = model.similar_items([0, 7], k=4, return_scores=True)
    lengths = np.linalg.norm(Q, axis=1)
    for item, similar, found in zip([0, 7], items, scores, strict=True):
        cosines = Q[similar] @ Q[item] / lengths[similar] / lengths[item]
        assert_allclose(found, cosines, rtol=1e-5)
    assert lengths[[0, 7]].min() != pytest.approx(1, abs=0.01)


def test_start_spans_the_leading_singular_vectors():
    # Three separate blocks: the three leading vectors are known, each constant on a block.
    X = csr_array(np.kron(np.eye(3), np.ones((20, 8))).astype(np.float32))
    users, items = (InteractionBatch.from_csr(csr_array(M)) for M in (X, X.T))
    Q = leading_subspace(users, items, 3, seeded())
    blocks = np.kron(np.eye(3), np.ones((8, 1))) / np.sqrt(8)
    assert_allclose(Q.T @ Q, np.eye(3), atol=1e-4)
    assert_allclose(np.linalg.svd(blocks.T @ Q.numpy())[1], np.ones(3), atol=1e-4)


def test_systems_that_rounding_makes_singular_are_solved_too(X):
    settings = {"solver": "cholesky", "unobserved_weight": 0.0, "l2": 1e-9}
    model = wmf(n_components=40, **settings).fit(X)
    assert np.isfinite(model.predict(X)).all()


def test_start_is_subspace_iteration_on_the_normalised_matrix():
    share = np.linspace(0.1, 0.9, 40)[:, None]
    A = (np.random.RandomState(0).rand(40, 15) < share).astype(np.float32)
    A[:, 0] = 1
    users, items = (InteractionBatch.from_csr(csr_array(M)) for M in (A, A.T))
    Q = leading_subspace(users, items, 3, seeded()).numpy()
    N = A / np.sqrt(A.sum(axis=1, keepdims=True)) / np.sqrt(A.sum(axis=0))
    start = torch.randn(15, 3, generator=seeded()).numpy()
    E = np.linalg.qr(N.T @ (N @ (N.T @ (N @ start))))[0]
    assert_allclose(Q @ Q.T, E @ E.T, atol=1e-3)
