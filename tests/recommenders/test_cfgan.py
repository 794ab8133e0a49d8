"""CFGAN against its objective written out densely, and the two modes against each other."""

from __future__ import annotations

import pickle
from dataclasses import replace

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
    sum_of_squared_weights,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from skvaecf import CFGAN
from skvaecf.datasets import make_interactions
from skvaecf.neural import InteractionBatch
from skvaecf.recommenders.cfgan import unobserved

N_USERS, N_ITEMS = 10, 24


def build(X, **params):
    """Return the network, its two players, and a batch of all rows of its game."""
    defaults = {"mode": "user", "discriminator_layer_sizes": (5,), "l2": 0.1}
    model = CFGAN(4, **defaults | params)
    network = new_network(model, X, 2, 0.1)
    rows = X if model.mode == "user" else X.T.tocsr()
    return network, players_of(model, network, X), batch_of(rows)


def layer(weight, bias, v):
    return v @ weight.detach().numpy() + bias.detach().numpy()


def dense_generator(network, c):
    first, decoder = network.encoder.first, network.decoder.logits
    h = layer(first.weight, first.bias, c)
    for linear in network.encoder.rest[1::2]:
        h = layer(linear.weight.T, linear.bias, expit(h))
    return layer(decoder.weight, decoder.bias, expit(h))


def dense_discriminator(network, c, v):
    layers = network.discriminator.layers
    h = layer(layers.first.weight, layers.first.bias, np.hstack([c, v]))
    for linear in layers.rest[1::2]:
        h = layer(linear.weight.T, linear.bias, expit(h))
    return h[:, 0]


@pytest.mark.parametrize("mode", ["user", "item"])
@pytest.mark.parametrize(
    ("layer_sizes", "shown", "reconstructed"),
    [
        ((5,), 0.0, 1.0),
        ((5,), 1.0, 0.0),
        ((), 1.0, 1.0),
        ((5, 3), 1.0, 1.0),
    ],
)
def test_losses_are_those_of_the_equations(small_X, mode, layer_sizes, shown, reconstructed):
    # With shares of 0 and 1 the masks are not random.
    network, (discriminator, generator), batch = build(
        small_X,
        mode=mode,
        generator_layer_sizes=layer_sizes,
        discriminator_layer_sizes=layer_sizes,
        masking_ratio=shown,
        reconstruction_ratio=reconstructed,
        reconstruction_weight=0.7,
        discriminator_l2=0.2,
    )
    c = small_X.toarray() if mode == "user" else small_X.toarray().T
    y = dense_generator(network, c)
    fake = dense_discriminator(network, c, y if shown else y * c)
    real = dense_discriminator(network, c, c)
    log = {}
    loss = discriminator.loss(batch._replace(log=log.__setitem__))
    expected = np.logaddexp(0, -real).mean() + np.logaddexp(0, fake).mean()
    expected += 0.2 * sum_of_squared_weights(network.discriminator).item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert log["accuracy"].item() == pytest.approx(((real > 0).mean() + (fake < 0).mean()) / 2)
    zeros = (y**2 * (1 - c)).sum(axis=1).mean() if reconstructed else 0.0
    expected = np.logaddexp(0, -fake).mean() + 0.7 * zeros
    expected += 0.1 * sum_of_squared_weights(network.encoder, network.decoder).item()
    assert generator.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_masks_have_their_rates_and_leave_interactions_alone():
    X = make_interactions(300, 80, random_state=0)
    x = InteractionBatch.from_csr(X)
    generator = seeded()
    first, second = (unobserved(x, 0.3, generator).numpy() for _ in range(2))
    free = X.toarray() == 0
    for mask in (first, second):
        assert not mask[~free].any()
        assert mask[free].mean() == pytest.approx(0.3, abs=0.02)
    assert (first & second)[free].mean() == pytest.approx(0.09, abs=0.01)  # independent
    assert not unobserved(x, 0.0, generator).any()
    assert_array_equal(unobserved(x, 1.0, generator), free)


def test_partial_masking_shows_the_discriminator_a_share_of_the_rest(small_X, monkeypatch):
    network, (discriminator, _), batch = build(small_X, masking_ratio=0.5)
    seen = []

    def record(c, v):
        seen.append(v)
        return torch.zeros(N_USERS)

    monkeypatch.setattr(network.discriminator, "forward", record)
    for _ in range(200):
        discriminator.loss(batch)
    shown = np.mean([v.numpy() != 0 for v in seen[1::2]], axis=0)
    observed = small_X.toarray() > 0
    assert (shown[observed] == 1).all()
    assert shown[~observed].mean() == pytest.approx(0.5, abs=0.02)
    assert_allclose(seen[1][observed], network(batch.x).detach()[observed], rtol=1e-6)


def test_an_update_of_a_player_changes_its_own_parameters_only(small_X):
    network, players, batch = build(small_X)
    own = [network.discriminator.parameters(), [*network.encoder.parameters()]]
    own[1] += network.decoder.parameters()
    for player, parameters in zip(players, own, strict=True):
        assert [id(p) for p in player.parameters] == [id(p) for p in parameters]
        assert_changes_only_its_parameters(player, network, batch.x)


def test_turns_are_taken_by_epoch():
    X = make_interactions(40, 24, random_state=0)
    model = make("CFGAN", n_generator_passes=3, n_discriminator_passes=2, max_epochs=1)
    turns = []

    def recorded(player):
        return replace(player, loss=lambda b: turns.append(player.name) or player.loss(b))

    players = model._players
    model._players = lambda network, x: [recorded(player) for player in players(network, x)]
    model.set_params(batch_size=20, early_stopping=False).fit(X)
    assert turns == ["discriminator"] * 4 + ["generator"] * 6


@pytest.mark.parametrize(
    ("params", "rates"),
    [
        ({"learning_rate": 0.1}, [0.1, 0.1]),
        ({"learning_rate": 0.1, "discriminator_learning_rate": 0.01}, [0.01, 0.1]),
    ],
)
def test_learning_rates_are_the_players_own(small_X, params, rates):
    assert [player.learning_rate for player in build(small_X, **params)[1]] == rates


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_weight_of_unobserved_items_must_be_between_0_and_1(small_X, weight):
    with pytest.raises(ValueError, match="The 'unobserved_weight' parameter of CFGAN must be"):
        make("CFGAN", mode="item", unobserved_weight=weight).fit(small_X)


# --- item mode


def test_item_mode_plays_the_game_of_user_mode_on_the_transposed_matrix(small_X):
    params = {"max_epochs": 4, "early_stopping": False}
    by_item = make("CFGAN", mode="item", **params).fit(small_X)
    by_user = make("CFGAN", mode="user", **params).fit(small_X.T.tocsr())
    for ours, theirs in zip(by_item.history_, by_user.history_, strict=True):
        for key in theirs.keys() - {"seconds"}:
            assert ours[key] == theirs[key], key
    # The representations of the items there are what users are folded in on here.
    assert_allclose(by_item.network_.vectors, by_user.transform(small_X.T), rtol=1e-6)


def test_users_are_folded_in_by_least_squares(small_X):
    model = make("CFGAN", mode="item", unobserved_weight=0.3, fold_in_l2=0.2).fit(small_X)
    new = make_interactions(7, N_ITEMS, random_state=3).toarray()
    new[3] = 0
    new[4] = small_X[[0]].toarray()  # users of fit are no exception
    H = model.network_.vectors.double().numpy()
    ridge = 0.2 * np.square(H).sum(axis=1).mean() * np.eye(model.n_components)
    for row, scores, w in zip(new, model.predict(new), model.transform(new), strict=True):
        weight = np.where(row > 0, 1, 0.3)
        solution = np.linalg.solve(H.T @ (weight[:, None] * H) + ridge, H.T @ row)
        expected = H @ solution if row.any() else model.item_counts_
        assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
        assert_allclose(w, solution, rtol=1e-3, atol=1e-3)


def test_latent_vectors_of_item_mode_have_the_width_of_the_fit(small_X):
    model = make("CFGAN", mode="item", n_components=2).fit(small_X)
    Z = model.transform(small_X)
    assert Z.shape == (N_USERS, 2)
    for n_components in (1, 3, 9):
        assert_array_equal(model.set_params(n_components=n_components).transform(small_X), Z)


def test_validation_sees_the_current_network():
    X = make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)
    pair = X[:40], X[20:]
    model = make("CFGAN", mode="item", max_epochs=6).fit(X, X_val=pair)
    best = model._validate(model.network_, *pair)
    assert best == model.history_[model.best_iter_ - 1]["validation_ndcg"]
    x = InteractionBatch.from_csr(X.T.tocsr())
    assert_allclose(model.network_.vectors, model.network_.code(x).detach(), rtol=1e-6)


def test_item_mode_learns_blocks_and_is_kept_whole():
    X, user_blocks, item_blocks = make_interactions(
        160, 60, n_blocks=4, random_state=1, return_blocks=True
    )
    settings = {"generator_layer_sizes": (), "batch_size": 16, "max_epochs": 20}
    model = make("CFGAN", mode="item", **settings).fit(X[:120])
    own = user_blocks[120:, None] == item_blocks
    items = model.recommend(X[120:], 1)
    assert np.take_along_axis(own, items, axis=1).mean() > 0.95
    similar = model.similar_items(range(60), k=3)
    assert (item_blocks[similar] == item_blocks[:, None]).mean() > 0.9
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(copied.predict(X), model.predict(X))


def test_new_users_are_folded_in_where_rounding_makes_their_problems_singular(small_X):
    settings = {"mode": "item", "generator_layer_sizes": (), "n_components": 60}
    model = make("CFGAN", **settings, fold_in_l2=1e-9, unobserved_weight=1e-9).fit(small_X)
    scores = model.predict(small_X[:, ::-1])
    assert np.isfinite(scores).all()
