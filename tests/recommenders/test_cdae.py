"""CDAE against a dense implementation of its objective, and its fold-in against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import (
    assert_loss_and_gradients,
    assert_normalized_and_dropped,
    batch_of,
    log_likelihood,
    new_network,
    players_of,
    recorded_inputs,
    seeded,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit
from torch.nn import functional as F

from skvaecf import CDAE
from skvaecf.datasets import make_interactions
from skvaecf.recommenders.cdae import descend

N_USERS, N_COMPONENTS = 10, 3
ACTIVATIONS = {"sigmoid": expit, "tanh": np.tanh, "linear": lambda a: a}
INVERSES = {"sigmoid": logit, "tanh": np.arctanh, "linear": lambda h: h}


def player_and_network(X, **params):
    defaults = {"activation": "sigmoid", "likelihood": "bernoulli", "l2": 1.0, "dropout": 0.0}
    model = CDAE(N_COMPONENTS, **defaults | params)
    network = new_network(model, X, 3, 0.05)
    (player,) = players_of(model, network, X)
    return player, network


def arrays(network):
    names = {
        "encoder.first.weight": "W",
        "encoder.first.bias": "b",
        "decoder.logits.weight": "V",
        "decoder.logits.bias": "c",
        "users": "users",
    }
    return {names[n]: p.detach().double().numpy() for n, p in network.named_parameters()}


def row_objective(x, v, p, activation, likelihood, l2):
    """- log p(x|h) + l2 ||v||^2 of one row, in numpy."""
    h = ACTIVATIONS[activation](x / np.sqrt(x.sum()) @ p["W"] + v + p["b"])
    scores = h @ p["V"] + p["c"]
    if likelihood == "multinomial":
        log_p = x @ log_softmax(scores)
    else:
        log_p = x @ np.log(expit(scores)) + (1 - x) @ np.log(expit(-scores))
    return l2 * (v**2).sum() - log_p


@pytest.mark.parametrize(
    ("activation", "likelihood", "l2"),
    [
        ("sigmoid", "bernoulli", 0.0),
        ("sigmoid", "bernoulli", 0.7),
        ("tanh", "multinomial", 0.7),
        ("linear", "bernoulli", 0.7),
    ],
)
def test_loss_is_that_of_the_equations(small_X, activation, likelihood, l2):
    params = {"activation": activation, "likelihood": likelihood, "l2": l2}
    player, network = player_and_network(small_X, **params)
    p, users = arrays(network), [7, 2, 5]
    rows = [
        row_objective(x, p["users"][u], p, activation, likelihood, l2)
        for u, x in zip(users, small_X[users].toarray().astype(float), strict=True)
    ]
    weights = l2 * ((p["W"] ** 2).sum() + (p["V"] ** 2).sum())
    expected = np.mean(rows) + weights / N_USERS
    assert player.loss(batch_of(small_X, users)).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_is_that_of_the_equations(small_X):
    player, network = player_and_network(small_X, l2=0.7)
    x = torch.tensor(small_X.toarray())
    encoder, logits = network.encoder.first, network.decoder.logits
    h = torch.sigmoid(F.normalize(x) @ encoder.weight + network.users + encoder.bias)
    log_p = log_likelihood(x, h @ logits.weight + logits.bias, "bernoulli")
    squares = [(w**2).sum() for w in (network.users, encoder.weight, logits.weight)]
    expected = (0.7 * sum(squares) - log_p.sum()) / N_USERS
    assert len(player.parameters) == len(list(network.parameters())) == 5
    assert_loss_and_gradients(player.loss(batch_of(small_X)), expected, player.parameters)


def test_a_batch_changes_the_vectors_of_its_own_users_only(small_X):
    player, network = player_and_network(small_X, l2=0.7)
    loss = player.loss(batch_of(small_X, [4, 1]))
    (gradient,) = torch.autograd.grad(loss, network.users)
    changed = gradient.abs().sum(dim=1) > 0
    assert changed.nonzero().squeeze().tolist() == [1, 4]


def test_items_are_dropped_from_the_input_only(small_X):
    player, network = player_and_network(small_X, dropout=0.4, l2=0.0)
    inputs, outputs = recorded_inputs(network.encoder.first), []
    factored = network.decoder.factored
    network.decoder.factored = lambda z: outputs.append(network.decoder(z)) or factored(z)
    loss = player.loss(batch_of(small_X))
    assert_normalized_and_dropped(inputs[0], small_X, 0.4)
    # The likelihood is that of all items.
    x = torch.tensor(small_X.toarray())
    nll = -log_likelihood(x, outputs[0], "bernoulli").mean()
    assert loss.item() == pytest.approx(nll.item(), rel=1e-5)


# --- users that are folded in


@pytest.fixture(scope="module")
def data():
    return make_interactions(80, 40, n_blocks=2, noise=0.2, random_state=1)


def fit(data, **params):
    training = {"max_epochs": 40, "early_stopping": False, "device": "cpu", "random_state": 0}
    training["batch_size"] = 100
    defaults = training | {"activation": "sigmoid", "likelihood": "bernoulli", "l2": 1.0}
    return CDAE(4, **defaults | params).fit(data)


@pytest.mark.parametrize(
    ("activation", "likelihood", "l2", "atol"),
    [  # with l2=0.1 the minimum is flat, with l2=1.0 it is not
        ("sigmoid", "bernoulli", 0.1, 0.05),
        ("sigmoid", "bernoulli", 1.0, 0.005),
        ("sigmoid", "multinomial", 1.0, 0.005),
        ("tanh", "bernoulli", 0.1, 0.05),
        ("tanh", "multinomial", 1.0, 0.005),
        ("linear", "bernoulli", 1.0, 0.005),
        ("linear", "multinomial", 0.1, 0.05),
    ],
)
def test_a_row_gets_the_vector_that_lowers_its_objective(data, activation, likelihood, l2, atol):
    model = fit(data, activation=activation, likelihood=likelihood, l2=l2)
    p = arrays(model.network_)
    new = make_interactions(6, 40, n_blocks=2, random_state=5)
    for x, z, scores in zip(
        new.toarray().astype(float), model.transform(new), model.predict(new), strict=True
    ):
        others = (p, activation, likelihood, l2)
        a = x / np.sqrt(x.sum()) @ p["W"] + p["b"]
        start = p["users"].mean(axis=0)
        best = minimize(lambda v: row_objective(x, v, *others), start, tol=1e-9)
        ours = row_objective(x, INVERSES[activation](z.astype(float)) - a, *others)
        gain = row_objective(x, start, *others) - best.fun
        assert gain > 0.01
        assert ours - best.fun < 0.01 * gain + 1e-4  # but for float32
        assert_allclose(z, ACTIVATIONS[activation](a + best.x), atol=atol)
        assert_allclose(scores, z @ p["V"] + p["c"], atol=1e-5)


def test_vectors_of_training_users_are_those_that_a_fold_in_finds(data):
    model = fit(data, l2=0.1, dropout=0.0, max_epochs=600)
    p = arrays(model.network_)
    assert p["users"].shape == (80, 4)
    rows = data.toarray()
    a = rows / np.sqrt(rows.sum(axis=1))[:, None] @ p["W"] + p["b"]
    trained, folded_in = expit(a + p["users"]), model.transform(data)
    assert np.abs(folded_in - trained).max() < 0.1 * trained.std(axis=0).min()
    # Without them the hidden layer would be another.
    assert np.abs(expit(a) - trained).max() > 0.1


def test_a_heavy_penalty_leaves_no_vector(data):
    model = fit(data).set_params(l2=1e6)
    p = arrays(model.network_)
    rows = data.toarray()
    a = rows / np.sqrt(rows.sum(axis=1))[:, None] @ p["W"] + p["b"]
    assert_allclose(model.transform(data), expit(a), atol=1e-4)


def test_validation_users_have_no_vector(data):
    model = fit(data, early_stopping=True, validation_fraction=0.25)
    assert model.network_.users.shape == (60, 4)


# --- the descent


def quadratic(curvatures, minima):
    return lambda v: 0.5 * (curvatures * (v - minima) ** 2).sum(dim=1)


def test_descent_finds_minima_of_any_curvature():
    generator = seeded()
    scales = torch.tensor([1e-3, 1.0, 1e3])[:, None].double()
    curvatures = scales * (1 + 4 * torch.rand(3, 5, generator=generator, dtype=torch.float64))
    minima = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    v = descend(quadratic(curvatures, minima), torch.zeros(3, 5, dtype=torch.float64), 60)
    assert_allclose(v, minima, atol=1e-6)


def test_descent_of_a_row_does_not_depend_on_the_others():
    generator = seeded()
    curvatures = 1 + 10 * torch.rand(6, 5, generator=generator)
    minima = torch.randn(6, 5, generator=generator)
    together = descend(quadratic(curvatures, minima), torch.zeros(6, 5), 7)
    for r in range(6):
        row = slice(r, r + 1)
        alone = descend(quadratic(curvatures[row], minima[row]), torch.zeros(1, 5), 7)
        assert_allclose(alone[0], together[r], rtol=1e-5)


def test_the_first_step_of_a_descent_is_no_longer_than_1():
    visited = []
    downhill = torch.tensor([[30.0, 40.0], [0.3, 0.4]])  # gradients of the lengths 50 and 0.5
    descend(lambda v: visited.append(v.detach()) or (v * downhill).sum(dim=1), 0 * downhill, 1)
    lengths = (visited[1] - visited[0]).norm(dim=1)
    assert_allclose(lengths, [50 / 51, 0.5 / 1.5], rtol=1e-6)


def test_descent_stays_where_nothing_is_to_gain():
    start = torch.tensor([[1.0, -2.0]])
    assert_array_equal(descend(lambda v: 0 * v.sum(dim=1), start, 5), start)
    assert_array_equal(descend(quadratic(torch.ones(1, 2), start), start, 5), start)


def test_descent_keeps_the_shortest_gradient():
    # Uphill on both sides of a narrow pit, where curvature is negative.
    def pit(v):
        return -torch.exp(-(v**2).sum(dim=1))

    start = torch.tensor([[0.9, 0.0], [0.3, 0.3], [5.0, 0.0]])

    def length(v):
        v = v.requires_grad_()
        return torch.autograd.grad(pit(v).sum(), v)[0].norm(dim=1)

    lengths = [length(descend(pit, start.clone(), n)) for n in range(12)]
    assert (torch.stack(lengths).diff(dim=0) <= 0).all()
    assert lengths[-1][1] < 1e-5
