"""Weighted least squares problems by hand and against dense solutions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import seeded
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from skvaecf.linear import FixedFactors, LeastSquares
from skvaecf.linear._least_squares import eigh, principal_axes, solve_positive
from skvaecf.neural import InteractionBatch


def problem_of(X, Q, weight=None, unobserved=0.5, ridge=0.1):
    x = InteractionBatch.from_csr(csr_array(np.asarray(X, dtype=np.float32)))
    weight = x.values if weight is None else torch.tensor(weight)
    ridge = torch.full((x.n_users, 1), ridge)
    return LeastSquares(x, FixedFactors.from_factors(Q), weight, unobserved, ridge)


def random_problem(n_components=4, n_rows=6, n_items=12, share=0.4):
    X = np.random.RandomState(0).rand(n_rows, n_items) < share
    Q = torch.randn(n_items, n_components, generator=seeded())
    return problem_of(X, Q * torch.arange(1.0, n_components + 1) ** 0.5)


def systems(problem):
    """The matrices A and the right sides of all rows, in float64."""
    Q = problem.fixed.Q.double().numpy()
    matrices, right_sides = [], []
    for u in range(problem.x.n_users):
        entries = slice(*problem.x.offsets[u : u + 2].tolist())
        q, w = Q[problem.x.items[entries].numpy()], problem.weight[entries].double().numpy()
        ridge = problem.ridge[u].item() * np.eye(Q.shape[1])
        matrices.append(problem.unobserved_weight * Q.T @ Q + q.T @ (w[:, None] * q) + ridge)
        right_sides.append(q.T @ (w + problem.unobserved_weight))
    return np.stack(matrices), np.stack(right_sides)


# --- one problem by hand

# Two items with the vectors 1 and 2; the user has the second with the weight w = 3, so c = 3.5.
# f(p) = 3.5 (1 - 2p)^2 - 0.5 (2p)^2 + 0.5 (p^2 + (2p)^2) + 0.1 p^2, A = 2.5 + 3 * 4 + 0.1 = 14.6,
# right side 3.5 * 2 = 7.
BY_HAND = problem_of([[0, 1]], torch.tensor([[1.0], [2.0]]), weight=[3.0])


def test_objective_and_residual_by_hand():
    for p in (0.0, 0.3):
        P, predicted = torch.tensor([[p]]), torch.tensor([2 * p])
        f = 3.5 * (1 - 2 * p) ** 2 + 0.5 * p**2 + 0.1 * p**2
        assert BY_HAND.objective(P, predicted) == pytest.approx(f, rel=1e-6)
        assert BY_HAND.penalty(P) == pytest.approx(0.1 * p**2)
        assert BY_HAND.residual(P, predicted).item() == pytest.approx(7 - 14.6 * p, rel=1e-6)


def test_every_solver_finds_the_solution_by_hand():
    residual = BY_HAND.residual(torch.zeros(1, 1), torch.zeros(1))
    for change, moved in (
        BY_HAND.cholesky(residual),
        BY_HAND.conjugate_gradients(residual, 1),
    ):
        assert change.item() == pytest.approx(7 / 14.6, rel=1e-6)
        assert moved.item() == pytest.approx(2 * 7 / 14.6, rel=1e-6)
    assert BY_HAND.solve().item() == pytest.approx(7 / 14.6, rel=1e-6)


# --- solvers


def test_the_residual_is_the_right_side_minus_A_p():
    problem = random_problem()
    P = torch.randn(6, 4, generator=seeded(1))
    predicted = problem.x.products(P, problem.fixed.Q)
    A, b = systems(problem)
    expected = b - np.einsum("uij,uj->ui", A, P.double().numpy())
    assert_allclose(problem.residual(P, predicted), expected, rtol=1e-4, atol=1e-4)


def test_cholesky_solves_the_dense_systems():
    problem = random_problem()
    residual = torch.randn(6, 4, generator=seeded(1))
    change, moved = problem.cholesky(residual)
    expected = np.linalg.solve(systems(problem)[0], residual.double().numpy()[..., None])[..., 0]
    assert_allclose(change, expected, rtol=1e-3, atol=1e-5)
    assert_allclose(moved, problem.x.products(change, problem.fixed.Q), rtol=1e-5)


def test_as_many_conjugate_gradients_as_components_are_exact():
    problem = random_problem()
    residual = torch.randn(6, 4, generator=seeded(1))
    exact, moved_exactly = problem.cholesky(residual)
    change, moved = problem.conjugate_gradients(residual, 4)
    assert_allclose(change, exact, rtol=1e-3, atol=1e-5)
    assert_allclose(moved, moved_exactly, rtol=1e-3, atol=1e-5)
    assert not np.allclose(problem.conjugate_gradients(residual, 3)[0], exact, rtol=1e-2)


def test_the_preconditioner_is_the_diagonal():
    counts = np.array([[1, 0, 5, 2], [0, 3, 0, 0]])
    problem = problem_of(counts, torch.eye(4))
    # The systems are diagonal, so one step is exact.
    change, _ = problem.conjugate_gradients(torch.ones(2, 4), 1)
    assert_allclose(change, 1 / (0.6 + counts), rtol=1e-5)


def test_solve_takes_short_and_long_rows():
    # 6 components: rows of up to 3 interactions are small systems, longer ones gradient steps.
    rng = np.random.RandomState(0)
    X = np.zeros((8, 20))
    for row, n in zip(X, [0, 1, 2, 3, 4, 7, 15, 20], strict=True):
        row[rng.permutation(20)[:n]] = 1
    _, Q = principal_axes(torch.zeros(1, 6), torch.randn(20, 6, generator=seeded()))
    problem = problem_of(X, Q)
    A, b = systems(problem)
    assert_allclose(problem.solve(), np.linalg.solve(A, b[..., None])[..., 0], rtol=1e-3, atol=1e-5)
    assert not problem.solve()[0].any()


def test_a_block_has_the_system_of_its_components():
    problem = random_problem()
    residual = torch.randn(6, 2, generator=seeded(1))
    block = problem.block(slice(1, 3))
    A = systems(problem)[0][:, 1:3, 1:3]
    expected = np.linalg.solve(A, residual.double().numpy()[..., None])[..., 0]
    assert_allclose(block.cholesky(residual)[0], expected, rtol=1e-3, atol=1e-5)


# --- linear algebra


def test_positive_systems_are_solved_and_singular_ones_are_finite():
    A = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 0.5]]])
    b = torch.tensor([[3.0, 3.0], [1.0, 1.0], [0.0, 1.0]])
    x = solve_positive(A, b[..., None])[..., 0].numpy()
    assert_allclose(x[0], [1, 1], rtol=1e-6)
    assert_allclose(A[2].numpy() @ x[2], [0, 1], atol=1e-6)  # not positive: by another method
    assert np.isfinite(x).all()


def test_a_system_without_any_solution_gets_zeros():
    # torch.linalg.solve_ex gives infinity here, which must not become the largest float32.
    x = solve_positive(torch.zeros(1, 2, 2), torch.ones(1, 2, 1))
    assert x.tolist() == [[[0.0], [0.0]]]


def test_principal_axes_keep_the_products_and_make_the_gram_diagonal():
    P, Q = torch.randn(5, 3, generator=seeded()), torch.randn(7, 3, generator=seeded(1))
    rotated_P, rotated_Q = principal_axes(P, Q)
    assert_allclose(rotated_P @ rotated_Q.T, P @ Q.T, rtol=1e-4, atol=1e-5)
    gram = (rotated_Q.T @ rotated_Q).numpy()
    assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-5)
    assert (np.diff(np.diag(gram)) > 0).all()


def test_eigenvectors_of_matrices_with_denormal_numbers_are_finite():
    gram = torch.tensor([[4.0, 1e-40, 0.0], [1e-40, 1e-42, 1e-45], [0.0, 1e-45, 1.0]])
    values, vectors = eigh(gram)
    assert_allclose(values, [0, 1, 4], atol=1e-6)
    assert_allclose(vectors.abs(), [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-6)
    assert eigh(torch.zeros(2, 2))[0].tolist() == [0.0, 0.0]
