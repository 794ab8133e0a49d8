"""IRGAN against its objective written out, exact expectations, and stationary points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import (
    assert_changes_only_its_parameters,
    batch_of,
    make,
    new_network,
    players_of,
    seeded,
)
from numpy.testing import assert_allclose
from scipy.optimize import brentq, minimize
from scipy.sparse import csr_array
from scipy.special import expit, logsumexp, softmax

from skvaecf import IRGAN
from skvaecf.datasets import make_interactions
from skvaecf.interactions import binary_csr
from skvaecf.neural import InteractionBatch, ItemLogits
from skvaecf.recommenders.irgan import best_negative, draw, fold_in

N_USERS, N_ITEMS = 5, 7


@pytest.fixture(scope="module")
def X():
    return binary_csr(np.random.RandomState(0).rand(N_USERS, N_ITEMS) < 0.4)


def build(X, **params):
    """Return the network, its players, and a batch of all rows."""
    model = IRGAN(**{"n_components": 3, "n_pretraining_epochs": 0, "l2": 0.1} | params)
    network = new_network(model, X, 1.5, 0.05)
    return network, players_of(model, network, X), batch_of(X)


def arrays(factors):
    """P, Q and b in numpy."""
    items = factors.items
    return [p.detach().double().numpy() for p in (factors.users, items.weight.T, items.bias)]


def scores_of(factors):
    P, Q, b = arrays(factors)
    return P @ Q.T + b


# --- the discriminator


def test_the_loss_of_the_discriminator_is_that_of_the_equation_on_average(X):
    network, (discriminator, _), batch = build(X, temperature=0.7)
    P, Q, b = arrays(network.discriminator)
    s = P @ Q.T + b
    chance = softmax(scores_of(network.generator) / 0.7, axis=1)
    of_items = (Q**2).sum(axis=1) + b**2
    expected = 0.0
    for u, row in enumerate(X.toarray()):
        for i in np.flatnonzero(row):
            expected += np.logaddexp(0, -s[u, i]) + chance[u] @ np.logaddexp(0, s[u])
            norms = 2 * (P[u] ** 2).sum() + of_items[i] + chance[u] @ of_items
            expected += 0.1 * norms
    users = torch.arange(N_USERS).repeat(20_000)
    loss = discriminator.loss(batch._replace(users=users, x=batch.x.rows(users)))
    assert loss.item() == pytest.approx(expected / N_USERS, rel=0.003)


def test_accuracy_counts_both_kinds(X):
    network, (discriminator, _), batch = build(X)
    with torch.no_grad():
        network.discriminator.users.zero_()
        network.discriminator.items.bias.fill_(1.0)  # every item is classified as real
    log = {}
    discriminator.loss(batch._replace(log=log.__setitem__))
    assert log["accuracy"] == 0.5


# --- the generator


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward(X):
    # Many users with the same vector: their mean is that of a large sample.
    n = 20_000
    network, (_, generator), batch = build(X)
    users = torch.full((n,), 1)
    batch = batch._replace(users=users, x=batch.x.rows(users))
    loss = generator.loss(batch)
    estimate = torch.autograd.grad(loss, generator.parameters)

    p = torch.softmax(network.generator(users[:1]), dim=1)[0]
    reward = torch.tensor(2 * expit(scores_of(network.discriminator)[1]) - 1).float()
    exact = -(p * reward).sum()
    assert loss.item() == pytest.approx(exact.item(), abs=0.005)
    for ours, theirs in zip(
        estimate, torch.autograd.grad(exact, generator.parameters), strict=True
    ):
        assert theirs.abs().max() > 0.01
        assert_allclose(ours, theirs, atol=0.005)


def test_an_update_of_a_player_changes_its_own_parameters_only(X):
    network, players, batch = build(X, n_pretraining_epochs=2)
    parts = {
        "discriminator": network.discriminator,
        "generator": network.generator,
        "pretraining": network.generator,
    }
    assert [player.name for player in players] == list(parts)
    for player in players:
        own = [id(p) for p in parts[player.name].parameters()]
        assert [id(p) for p in player.parameters] == own
        x = batch.x if player.rows is None else player.rows
        assert_changes_only_its_parameters(player, network, x)


@pytest.mark.parametrize(
    ("params", "rates"),
    [
        ({"learning_rate": 0.1}, [0.1, 0.1]),
        ({"learning_rate": 0.1, "discriminator_learning_rate": 0.01}, [0.01, 0.1]),
    ],
)
def test_learning_rates_are_the_players_own(X, params, rates):
    players = build(X, **params)[1]
    assert [player.name for player in players] == ["discriminator", "generator"]
    assert [player.learning_rate for player in players] == rates


# --- draws


def test_draws_follow_their_rows():
    p = torch.tensor([[0.5, 0.0, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
    rows = torch.arange(3).repeat_interleave(40_000)
    drawn = draw(p, rows, seeded())
    for row in range(3):
        shares = np.bincount(drawn[rows == row], minlength=4) / 40_000
        assert_allclose(shares, p[row], atol=0.01)
        assert (shares[p[row] == 0] == 0).all()


def test_draws_are_right_in_the_last_of_many_rows():
    p = torch.full((5_000, 400), 1 / 400)
    drawn = draw(p, torch.full((80_000,), 4_999), seeded())
    counts = np.bincount(drawn, minlength=400)
    assert len(counts) == 400
    assert ((counts - 200) ** 2 / 200).sum() < 500  # chi-square, 399 degrees of freedom
    broken = draw(p * torch.nan, torch.arange(5_000), seeded())
    assert 0 <= broken.min() <= broken.max() < 400


# --- the pretraining


def test_the_pretraining_moves_first_on_single_interactions(X):
    _, (*_, player), _ = build(X, n_pretraining_epochs=3, pretraining_learning_rate=0.7)
    assert (player.name, player.moves_first) == ("pretraining", True)
    assert (player.n_passes, player.learning_rate) == (3, 0.7)
    assert player.rows.n_users == X.nnz
    assert player.rows.items.tolist() == X.indices.tolist()
    assert player.rows.counts.tolist() == [1] * X.nnz


def test_bpr_of_a_pair_by_hand():
    # Of 3 items the user has all but the last: the one candidate that counts.
    X = csr_array(np.array([[1, 1, 0]], dtype=np.float32))
    network, (*_, player), _ = build(X, n_components=2, l2=0.5, n_pretraining_epochs=1)
    factors = network.generator
    with torch.no_grad():
        factors.users.copy_(torch.tensor([[1.0, 2.0]]))
        factors.items.weight.copy_(torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, -1.0]]))
        factors.items.bias.copy_(torch.tensor([0.5, 0.0, 0.25]))
    # s = 1.5, 2, 1.25; norms 5 + 1 + 0.25 and 5 + 10 + 0.0625
    expected = np.log1p(np.exp(1.25 - 1.5)) + 0.5 * (6.25 + 15.0625)
    interaction = torch.tensor([0])  # user 0 and item 0
    batch = batch_of(X)._replace(users=interaction, x=player.rows.rows(interaction))
    losses = {round(player.loss(batch).item(), 5) for _ in range(50)}
    # 0 where no candidate was the last item.
    assert losses == {0.0, round(expected, 5)}


def test_the_negative_is_the_best_of_five():
    network = new_network(IRGAN(2), csr_array((1, 40)))
    with torch.no_grad():
        network.generator.users.zero_()
        network.generator.items.bias.copy_(torch.arange(40) / 10)
    taken = torch.arange(30, 40)
    users = torch.zeros(4000, dtype=torch.int64)
    items, some = best_negative(network.generator, users, taken, seeded())
    negatives = items[some].numpy()
    assert negatives.max() < 30
    # P(max <= m) for five draws of 40, those above 29 not counting.
    at_most = (10 + np.arange(1, 31)) / 40
    law = np.diff(at_most**5, prepend=(10 / 40) ** 5) / (1 - (10 / 40) ** 5)
    assert_allclose(np.bincount(negatives, minlength=30) / len(negatives), law, atol=0.015)
    # Only where all five were taken there is none.
    assert (~some).double().mean().item() == pytest.approx((10 / 40) ** 5, abs=0.001)


def test_a_users_negatives_are_items_that_this_user_lacks():
    X = make_interactions(20, 30, random_state=0)
    network, _, batch = build(X)
    taken = batch.x.users * 30 + batch.x.items
    users = torch.arange(20).repeat(200)
    items, some = best_negative(network.generator, users, taken, seeded())
    assert not X.toarray()[users[some], items[some]].any()


def test_pretraining_ranks_items_before_the_game():
    X, user_blocks, item_blocks = make_interactions(
        120, 40, n_blocks=4, random_state=1, return_blocks=True
    )
    own = user_blocks[:, None] == item_blocks

    def share(n_epochs):
        # The game itself changes nothing at this learning rate.
        settings = {"early_stopping": False, "max_epochs": 1, "learning_rate": 1e-9}
        model = make("IRGAN", n_pretraining_epochs=n_epochs, **settings)
        shares = []
        for seed in range(3):
            factors = model.set_params(random_state=seed).fit(X).network_.generator
            shares.append(own[np.arange(120), scores_of(factors).argmax(axis=1)].mean())
        return np.mean(shares)

    assert share(0) < 0.6
    assert share(40) > 0.9


# --- fold-in


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
    bias = model.network_.generator.items.bias.detach()
    scores = model._scorer()(csr_array(nobody))  # predict has the numbers of users instead
    assert_allclose(scores[0], bias, rtol=1e-6)


def test_scores_are_products_with_the_vectors():
    X = make_interactions(60, 24, random_state=0)
    model = make("IRGAN").fit(X)
    _, Q, b = arrays(model.network_.generator)
    assert_allclose(model.predict(X), model.transform(X) @ Q.T + b, rtol=1e-4, atol=1e-5)
