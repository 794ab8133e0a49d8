"""IRGAN against its objective written out, exact expectations, and stationary points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make
from numpy.testing import assert_allclose
from scipy.optimize import brentq, minimize
from scipy.sparse import csr_array
from scipy.special import expit, logsumexp, softmax

from skvaecf import IRGAN
from skvaecf.datasets import make_interactions
from skvaecf.interactions import InteractionBatch, binary_csr
from skvaecf.modules import ItemLogits, initialize
from skvaecf.recommenders.irgan import draw, fold_in
from skvaecf.training import Batch, Game

N_USERS, N_ITEMS = 5, 7


@pytest.fixture(scope="module")
def X():
    return binary_csr(np.random.RandomState(0).rand(N_USERS, N_ITEMS) < 0.4)


def build(X, **params):
    model = IRGAN(3, **{"n_pretraining_epochs": 0, "l2": 0.1} | params)
    network = model._build(*X.shape)
    x = InteractionBatch.from_csr(X)
    initialize(network, torch.Generator().manual_seed(0), x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.05)
    batch = Batch(torch.arange(X.shape[0]), x, 0, 0.0, torch.Generator().manual_seed(1))
    return model, network, model._players(network), batch


def arrays(factors):
    """P, Q and b in numpy."""
    items = factors.items
    return [p.detach().double().numpy() for p in (factors.users, items.weight.T, items.bias)]


def scores_of(factors):
    P, Q, b = arrays(factors)
    return P @ Q.T + b


# --- the discriminator


def test_the_discriminators_loss_is_that_of_the_equation_on_average(X):
    _, network, (judge, _), batch = build(X, temperature=0.7)
    P, Q, b = arrays(network["discriminator"])
    s = P @ Q.T + b
    chance = softmax(scores_of(network["generator"]) / 0.7, axis=1)
    of_items = (Q**2).sum(axis=1) + b**2
    expected = 0.0
    for u, row in enumerate(X.toarray()):
        for i in np.flatnonzero(row):
            expected += np.logaddexp(0, -s[u, i]) + chance[u] @ np.logaddexp(0, s[u])
            norms = 2 * (P[u] ** 2).sum() + of_items[i] + chance[u] @ of_items
            expected += 0.1 * norms
    users = torch.arange(N_USERS).repeat(20_000)
    loss = judge.loss(batch._replace(users=users, x=batch.x.rows(users)))
    assert loss.item() == pytest.approx(expected / N_USERS, rel=0.003)


def test_accuracy_counts_both_kinds(X):
    _, network, (judge, _), batch = build(X)
    with torch.no_grad():
        network["discriminator"].users.zero_()
        network["discriminator"].items.bias.fill_(1.0)  # everything is taken as real
    log = {}
    judge.loss(batch._replace(log=log.__setitem__))
    assert log["accuracy"] == 0.5


# --- the generator


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward(X):
    # Many users with the same vector: their mean is that of a large sample.
    n = 20_000
    _, network, (_, picker), batch = build(X)
    users = torch.full((n,), 1)
    batch = batch._replace(users=users, x=batch.x.rows(users))
    loss = picker.loss(batch)
    estimate = torch.autograd.grad(loss, picker.parameters)

    p = torch.softmax(network["generator"](users[:1]), dim=1)[0]
    reward = torch.tensor(2 * expit(scores_of(network["discriminator"])[1]) - 1).float()
    exact = -(p * reward).sum()
    assert loss.item() == pytest.approx(exact.item(), abs=0.005)
    for ours, theirs in zip(estimate, torch.autograd.grad(exact, picker.parameters), strict=True):
        assert theirs.abs().max() > 0.01
        assert_allclose(ours, theirs, atol=0.005)


@pytest.mark.parametrize("mover", [0, 1])
def test_a_players_step_leaves_the_other_alone(X, mover):
    _, _, players, batch = build(X)
    before = [[p.detach().clone() for p in player.parameters] for player in players]
    minibatches = [(0.0, torch.arange(N_USERS))]
    Game([players[mover]]).play(batch.x, lambda: minibatches, batch.generator)
    for number, player in enumerate(players):
        for parameter, old in zip(player.parameters, before[number], strict=True):
            assert torch.equal(parameter, old) == (number != mover)


def test_players_have_learning_rates_of_their_own(X):
    assert [p.learning_rate for p in build(X, learning_rate=0.1)[2]] == [0.1, 0.1]
    players = build(X, learning_rate=0.1, discriminator_learning_rate=0.01)[2]
    assert [(p.name, p.learning_rate) for p in players] == [
        ("discriminator", 0.01),
        ("generator", 0.1),
    ]


# --- draws


def test_draws_follow_their_rows():
    p = torch.tensor([[0.5, 0.0, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
    rows = torch.arange(3).repeat_interleave(40_000)
    drawn = draw(p, rows, torch.Generator().manual_seed(0))
    for row in range(3):
        shares = np.bincount(drawn[rows == row], minlength=4) / 40_000
        assert_allclose(shares, p[row], atol=0.01)
        assert (shares[p[row] == 0] == 0).all()


def test_draws_are_right_in_the_last_of_many_rows():
    p = torch.full((5_000, 400), 1 / 400)
    drawn = draw(p, torch.full((80_000,), 4_999), torch.Generator().manual_seed(0))
    counts = np.bincount(drawn, minlength=400)
    assert len(counts) == 400
    assert ((counts - 200) ** 2 / 200).sum() < 500  # chi-square, 399 degrees of freedom
    broken = draw(p * torch.nan, torch.arange(5_000), torch.Generator())
    assert 0 <= broken.min() <= broken.max() < 400


# --- the pretraining


def test_bpr_of_a_pair_by_hand():
    # Of 3 items the user has all but the last: the one candidate that counts.
    model = IRGAN(2, l2=0.5)
    start = model._build(1, 3)["generator"]
    with torch.no_grad():
        start.users.copy_(torch.tensor([[1.0, 2.0]]))
        start.items.weight.copy_(torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, -1.0]]))
        start.items.bias.copy_(torch.tensor([0.5, 0.0, 0.25]))
    users, items, taken = torch.zeros(1, dtype=torch.int64), torch.tensor([0]), torch.tensor([0, 1])
    # s = 1.5, 2, 1.25; norms 5 + 1 + 0.25 and 5 + 10 + 0.0625
    expected = np.log1p(np.exp(1.25 - 1.5)) + 0.5 * (6.25 + 15.0625)
    generator = torch.Generator().manual_seed(0)
    losses = {round(start.bpr(users, items, taken, generator).item(), 5) for _ in range(50)}
    # 0 where no candidate was the last item.
    assert losses == {0.0, round(expected, 5)}


def test_the_negative_is_the_best_of_five():
    model = IRGAN(2)
    start = model._build(1, 40)["generator"]
    with torch.no_grad():
        start.users.zero_()
        start.items.weight.zero_()
        start.items.bias.copy_(torch.arange(40) / 10)
    n = 4000
    seen = []
    start.norms = lambda users, items: seen.append(items) or torch.zeros(len(items))
    taken = torch.arange(30, 40)
    start.bpr(torch.zeros(n, dtype=torch.int64), taken.repeat(n // 10), taken, torch.Generator())
    negatives = seen[1].numpy()[seen[1].numpy() < 30]  # where not all five were taken
    # P(max <= m) for five draws of 40, those above 29 not counting.
    at_most = (10 + np.arange(1, 31)) / 40
    law = np.diff(at_most**5, prepend=(10 / 40) ** 5) / (1 - (10 / 40) ** 5)
    assert_allclose(np.bincount(negatives, minlength=30) / len(negatives), law, atol=0.015)


def test_pretraining_ranks_items_before_the_game():
    X, user_blocks, item_blocks = make_interactions(
        120, 40, n_blocks=4, random_state=1, return_blocks=True
    )
    own = user_blocks[:, None] == item_blocks

    def share(n_epochs):
        model = make("IRGAN", n_pretraining_epochs=n_epochs)
        network = model._build(*X.shape)
        initialize(network, torch.Generator().manual_seed(0), InteractionBatch.from_csr(X))
        assert all(p.grad is None for p in network.parameters())
        best = scores_of(network["generator"]).argmax(axis=1)
        return own[np.arange(120), best].mean()

    assert share(0) < 0.6
    assert share(40) > 0.95


# --- users who are folded in


def problem(Q, b, row, l2):
    def objective(p):
        s = Q @ p + b
        return -(row @ s / row.sum() - logsumexp(s) - l2 * p @ p)

    return objective


@pytest.mark.parametrize("l2", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_folded_in_users_are_the_maximum(l2, scale):
    rng = np.random.RandomState(0)
    X = make_interactions(8, 30, n_blocks=3, random_state=0)
    items = ItemLogits(4, 30)
    with torch.no_grad():
        items.weight.copy_(torch.tensor(scale * rng.randn(4, 30)))
        items.bias.copy_(torch.tensor(rng.randn(30)))
    p = fold_in(items, InteractionBatch.from_csr(X), l2).double().numpy()
    Q, b = items.weight.T.detach().double().numpy(), items.bias.detach().double().numpy()
    for row, ours in zip(X.toarray(), p, strict=True):
        objective = problem(Q, b, row, l2)
        best = minimize(objective, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
        assert objective(ours) <= best.fun + 1e-5
        s = Q @ ours + b
        gradient = row @ Q / row.sum() - softmax(s) @ Q - 2 * l2 * ours
        assert np.abs(gradient).max() < 1e-4 * scale


def test_folding_in_does_not_jump_over_the_maximum():
    # At p = 0 the item is so unlikely that Newton's own steps go to 500 and back, for ever.
    items = ItemLogits(1, 2)
    with torch.no_grad():
        items.weight.copy_(torch.tensor([[0.0, 10.0]]))
        items.bias.copy_(torch.tensor([0.0, -20.0]))
    p = fold_in(items, InteractionBatch.from_csr(csr_array([[0.0, 1.0]])), 0.01).item()
    # 10 (1 - sigmoid(10 p - 20)) - 0.02 p = 0
    assert p == pytest.approx(brentq(lambda p: 10 * expit(20 - 10 * p) - 0.02 * p, 0, 10), rel=1e-5)


def test_folding_in_does_not_amplify_rounding():
    # All items have the same second number, about which a user's row says nothing.
    items = ItemLogits(2, 50)
    with torch.no_grad():
        items.weight.copy_(torch.stack((torch.linspace(-1, 1, 50), torch.ones(50))))
        items.bias.copy_(torch.linspace(0, 1, 50).sin())
    X = make_interactions(20, 50, n_blocks=3, random_state=0)
    p = fold_in(items, InteractionBatch.from_csr(X), 1e-5)
    assert p[:, 1].abs().max() < 1e-6 < p[:, 0].abs().min()


def test_folding_in_by_items_whose_products_are_singular_to_rounding():
    items = ItemLogits(6, 40)
    with torch.no_grad():
        items.weight.copy_(100 * torch.linspace(-1, 1, 40) + torch.arange(6)[:, None])
        items.bias.zero_()
    X = make_interactions(20, 40, n_blocks=3, random_state=0)
    p = fold_in(items, InteractionBatch.from_csr(X), 1e-9)
    assert torch.isfinite(p).all()


def test_a_user_without_items_gets_the_biases():
    X = make_interactions(60, 24, random_state=0)
    model = make("IRGAN").fit(X)
    nobody = np.zeros((1, 24))
    assert (model.transform(nobody) == 0).all()
    bias = model.network_["generator"].items.bias.detach()
    assert_allclose(model.predict(nobody)[0], bias, rtol=1e-6)


def test_scores_are_products_with_the_vectors():
    X = make_interactions(60, 24, random_state=0)
    model = make("IRGAN").fit(X)
    _, Q, b = arrays(model.network_["generator"])
    assert_allclose(model.predict(X), model.transform(X) @ Q.T + b, rtol=1e-4, atol=1e-5)
