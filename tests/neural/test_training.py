"""The training game: players, orders, mini-batches, running averages."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from conftest import game_on, seeded
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from torch import nn

from skvaecf import MultDAE
from skvaecf.datasets import make_interactions
from skvaecf.neural import Batch, InteractionBatch, Player, by_batch, by_epoch
from skvaecf.neural._training import BestEpoch, Game, move_average


def identity_rows(n_users=5, n_items=4):
    """User u has item u; the users beyond the last item have none."""
    return InteractionBatch.from_csr(csr_array(np.eye(n_users, n_items, dtype=np.float32)))


def scalar(value):
    return nn.Parameter(torch.tensor(float(value)))


def player(name, *parameters, loss=None, learning_rate=0.1, **options):
    return Player(name, list(parameters), loss, learning_rate, **options)


ONE_MINIBATCH = [(0.0, torch.tensor([0]))]
TWO_MINIBATCHES = [(0.0, torch.tensor([0, 1])), (0.5, torch.tensor([2]))]


def recording_player(name, record, **options):
    """Return a player that appends its mini-batches to a list."""
    parameter = scalar(0)

    def loss(batch):
        record.append((name, batch))
        return parameter.clone()

    return player(name, parameter, loss=loss, **options)


# --- updates


def test_an_update_changes_only_the_players_own_parameters():
    a, b = scalar(1), scalar(2)
    seen = []

    def loss_a(batch):
        seen.append(("a", a.item(), b.item()))
        return a * b  # depends on both, and lowers a only

    def loss_b(batch):
        seen.append(("b", a.item(), b.item()))
        return -a * b

    players = [player("a", a, loss=loss_a), player("b", b, loss=loss_b)]
    game_on(ONE_MINIBATCH, players, identity_rows()).play(0, seeded())
    # Adam's first step has the length of the learning rate.
    assert seen[0] == ("a", 1.0, 2.0)
    assert seen[1] == ("b", pytest.approx(0.9), 2.0)
    assert a.item() == pytest.approx(0.9)
    assert b.item() == pytest.approx(2.1)


@pytest.mark.parametrize(
    "loss",
    [
        lambda w: w.sum(),  # its gradient is one number in memory, for all entries
        lambda w: (w.T[[0, 1, 2]] * torch.arange(12.0).reshape(3, 4).cos()).sum(),  # transposed
    ],
    ids=["expanded", "transposed"],
)
def test_gradients_may_have_any_layout_in_memory(loss):
    w = nn.Parameter(torch.arange(12.0).reshape(4, 3))
    players = [player("a", w, loss=lambda batch: loss(w))]
    game = game_on(TWO_MINIBATCHES, players, identity_rows())
    game.play(0, seeded())
    expected = torch.arange(12.0, requires_grad=True)
    optimizer = torch.optim.Adam([expected], lr=0.1, fused=False)
    for _ in TWO_MINIBATCHES:
        (expected.grad,) = torch.autograd.grad(loss(expected.view(4, 3)), expected)
        optimizer.step()
    torch.testing.assert_close(w.flatten(), expected, rtol=0, atol=1e-6)


def test_no_gradient_is_left_behind():
    a, b = scalar(1), scalar(2)
    players = [player("a", a, loss=lambda batch: a * b)]
    game_on(TWO_MINIBATCHES, players, identity_rows()).play(0, seeded())
    assert a.grad is None
    assert b.grad is None


def test_players_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"players must differ in their names, got \['a', 'a'\]"):
        Game([player("a", scalar(1)), player("a", scalar(2))], identity_rows())


def test_each_player_has_its_own_learning_rate():
    a, b = scalar(0), scalar(0)
    players = [
        player("a", a, loss=lambda batch: a.clone(), learning_rate=0.1),
        player("b", b, loss=lambda batch: b.clone(), learning_rate=0.001),
    ]
    game_on(ONE_MINIBATCH, players, identity_rows()).play(0, seeded())
    assert a.item() == pytest.approx(-0.1)
    assert b.item() == pytest.approx(-0.001)


@pytest.mark.parametrize(("n_items", "n_threads"), [(2**19, 1), (2**19 + 1, 3)])
def test_an_update_of_few_scores_uses_one_thread(n_items, n_threads):
    rows = InteractionBatch.from_csr(csr_array((2, n_items), dtype=np.float32))
    seen, weight = [], scalar(1)

    def loss(batch):
        seen.append(torch.get_num_threads())
        return weight * 2

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        game = Game([Player("a", [weight], loss, 0.1)], rows, batch_size=2)
        game.play(0, seeded(), lambda: seen.append(torch.get_num_threads()))
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert seen == [n_threads] * 2
    assert after == 3


def test_steps_are_counted_per_player_and_through_epochs():
    record = []
    players = [recording_player("a", record), recording_player("b", record, n_passes=2)]
    game = game_on(TWO_MINIBATCHES, players, identity_rows())
    for epoch in range(2):
        game.play(epoch, seeded())
    steps = {name: [b.step for who, b in record if who == name] for name in ("a", "b")}
    assert steps == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3, 4, 5, 6, 7]}
    assert dict(game.steps) == {"a": 4, "b": 8}


def test_a_loss_gets_the_rows_of_its_users():
    record, generator = [], seeded()
    minibatches = [(0.25, torch.tensor([3, 1])), (0.75, torch.tensor([4]))]
    game_on(minibatches, [recording_player("a", record)], identity_rows()).play(0, generator)
    batches = [batch for _, batch in record]
    assert [type(batch) for batch in batches] == [Batch, Batch]
    assert [batch.users.tolist() for batch in batches] == [[3, 1], [4]]
    assert [batch.epoch for batch in batches] == [0.25, 0.75]
    assert [batch.x.items.tolist() for batch in batches] == [[3, 1], []]
    assert all(batch.generator is generator for batch in batches)


# --- orders


def made_updates(order, players):
    made = order(players, lambda _: iter(TWO_MINIBATCHES))
    return [(player.name, epoch, users.tolist()) for player, epoch, users in made]


def test_by_batch_takes_turns_on_every_minibatch():
    assert made_updates(by_batch, [player("f"), player("g", n_passes=2)]) == [
        ("f", 0.0, [0, 1]),
        ("g", 0.0, [0, 1]),
        ("g", 0.0, [0, 1]),
        ("f", 0.5, [2]),
        ("g", 0.5, [2]),
        ("g", 0.5, [2]),
    ]


def test_by_epoch_takes_turns_on_all_users():
    assert made_updates(by_epoch, [player("f"), player("g", n_passes=2)]) == [
        ("f", 0.0, [0, 1]),
        ("f", 0.5, [2]),
        ("g", 0.0, [0, 1]),
        ("g", 0.5, [2]),
        ("g", 0.0, [0, 1]),
        ("g", 0.5, [2]),
    ]


def test_by_epoch_makes_each_pass_of_each_player_anew():
    passes = []
    players = [player("f"), player("g", n_passes=2)]
    list(by_epoch(players, lambda who: passes.append(who.name) or iter(TWO_MINIBATCHES)))
    assert passes == ["f", "g", "g"]


@pytest.mark.parametrize(
    ("options", "expected"), [({}, "abab"), ({"order": by_epoch}, "aabb")], ids=["default", "given"]
)
def test_a_game_plays_in_its_order(options, expected):
    record = []
    players = [recording_player("a", record), recording_player("b", record)]
    Game(players, identity_rows(4), batch_size=2, **options).play(0, seeded())
    assert [name for name, _ in record] == list(expected)


# --- figures


def test_losses_are_averaged_over_the_updates():
    a, b = scalar(0), scalar(0)
    values = {"a": iter([1.0, 4.0]), "b": iter([1.0, 2.0, 3.0, 6.0])}

    def announce(name, parameter):
        return lambda batch: 0 * parameter + next(values[name])

    players = [
        player("a", a, loss=announce("a", a)),
        player("b", b, loss=announce("b", b), n_passes=2),
    ]
    losses = game_on(TWO_MINIBATCHES, players, identity_rows()).play(0, seeded())
    assert losses == {"a_loss": 2.5, "b_loss": 3.0}
    assert all(type(loss) is float for loss in losses.values())


def test_figures_that_a_player_logs_are_averaged():
    a, values = scalar(0), iter([1.0, 4.0])

    def loss(batch):
        batch.log("accuracy", torch.tensor(next(values)))
        return 0 * a

    players = [player("discriminator", a, loss=loss)]
    figures = game_on(TWO_MINIBATCHES, players, identity_rows()).play(0, seeded())
    assert figures == {"discriminator_accuracy": 2.5, "discriminator_loss": 0.0}


def test_the_player_whose_loss_was_not_finite_first_is_named():
    a, b = scalar(0), scalar(1)
    players = [player("a", a, loss=lambda _: a / b * b), player("b", b, loss=lambda _: b * np.nan)]
    with pytest.raises(FloatingPointError, match="loss of the b became nan in epoch 1"):
        game_on(TWO_MINIBATCHES, players, identity_rows()).play(0, seeded())
    assert a.isnan()


# --- options of players


def test_before_epoch_is_called_before_the_updates_of_every_epoch():
    record = []
    parts = [recording_player(name, record) for name in ("a", "b")]
    players = [
        replace(part, before_epoch=lambda name=part.name: record.append((name, "before")))
        for part in parts
    ]
    game = game_on(ONE_MINIBATCH, players, identity_rows())
    for epoch in range(2):
        game.play(epoch, seeded())
    assert [f"{name} {'before' if what == 'before' else 'update'}" for name, what in record] == [
        *("a before", "b before", "a update", "b update"),
    ] * 2


def test_a_player_learns_from_its_own_rows():
    record = []
    own = identity_rows(6, 9)
    players = [
        recording_player("a", record),
        recording_player("b", record, rows=own, batch_size=3),
    ]
    Game(players, identity_rows(4), batch_size=2, order=by_epoch).play(7, seeded())
    users = {name: [b.users.tolist() for who, b in record if who == name] for name in ("a", "b")}
    assert [*map(len, users["a"])] == [2, 2]
    assert [*map(len, users["b"])] == [3, 3]
    assert sorted(user for part in users["a"] for user in part) == [*range(4)]
    assert sorted(user for part in users["b"] for user in part) == [*range(6)]
    for name, batch in record:
        assert batch.x.n_items == {"a": 4, "b": 9}[name]
        assert batch.x.items.tolist() == batch.users.tolist()  # user u has item u
    assert [b.epoch for name, b in record if name == "b"] == [7.0, 7.5]


@pytest.mark.parametrize("given", [2, 4])
def test_the_batch_size_of_a_player_has_priority(given):
    record = []
    players = [recording_player("a", record, batch_size=3), recording_player("b", record)]
    Game(players, identity_rows(6), batch_size=given, order=by_epoch).play(0, seeded())
    sizes = {name: [len(b.users) for who, b in record if who == name] for name in ("a", "b")}
    assert sizes == {"a": [3, 3], "b": {2: [2, 2, 2], 4: [4, 2]}[given]}


class GameOfThree(MultDAE):
    """A recommender that notes when its players make updates and when they are called."""

    def _players(self, network, x):
        self.calls = []

        def note(name):
            def loss(batch):
                self.calls.append((name, batch.epoch, len(batch.users)))
                return sum(p.square().sum() for p in network.parameters())

            return loss

        def after(name):
            return lambda averaged: self.calls.append((name, "after", averaged))

        parameters = [*network.parameters()]
        return [
            Player("main", parameters, note("main"), 0.1, after_epoch=after("main")),
            Player("other", parameters, note("other"), 0.1, after_epoch=after("other")),
            Player(
                "first",
                parameters,
                note("first"),
                0.1,
                n_passes=2,
                rows=x.entries(),
                batch_size=30,
                moves_first=True,
                after_epoch=after("first"),
            ),
        ]


GAME = {"batch_size": 10, "max_epochs": 2, "early_stopping": False, "random_state": 0}


def test_a_player_that_moves_first_makes_its_passes_once_before_the_first_epoch():
    X = make_interactions(20, 24, random_state=0)
    model = GameOfThree(2, device="cpu", **GAME).fit(X)
    updates = [(name, n) for name, epoch, n in model.calls if epoch != "after"]
    sizes = [30, 30, 30, X.nnz - 90]
    assert 0 < sizes[-1] < 30
    assert updates[:8] == [("first", n) for n in sizes * 2]
    assert updates[8:] == [("main", 10), ("other", 10)] * 4
    assert "first_loss" not in model.history_[0]
    assert {"main_loss", "other_loss"} < set(model.history_[0])


def test_a_player_that_moves_first_makes_no_update_in_a_warm_start():
    X = make_interactions(20, 24, random_state=0)
    model = GameOfThree(2, device="cpu", **GAME, warm_start=True).fit(X)
    assert model.calls[0][0] == "first"
    model.fit(X)
    assert "first" not in {name for name, *_ in model.calls}


def test_after_epoch_gets_the_averaged_network_before_it_is_validated():
    X = make_interactions(20, 24, random_state=0)
    model = GameOfThree(2, device="cpu", **GAME)
    validate = model._validate
    model._validate = lambda network, *pair: (
        model.calls.append(("validation", "of", network)) or validate(network, *pair)
    )
    model.set_params(early_stopping=True, batch_size=20).fit(X)
    calls = [(name, what) for name, what, _ in model.calls if not isinstance(what, float)]
    assert calls == [("main", "after"), ("other", "after"), ("validation", "of")] * 2
    assert all(n is model.network_ for _, what, n in model.calls if not isinstance(what, float))


# --- mini-batches


def passes(n_users, batch_size, epoch=0, seed=0, n=1):
    game = Game([player("a", scalar(0))], identity_rows(n_users), batch_size)
    generator = seeded(seed)
    numbers = count()
    return [list(game._pass(epoch, generator, numbers, game.players[0])) for _ in range(n)]


def test_minibatches_are_a_permutation_with_a_smaller_last_one():
    (minibatches,) = passes(10, 4, epoch=3)
    epochs, users = zip(*minibatches, strict=True)
    assert epochs == pytest.approx((3.0, 3.4, 3.8))
    assert [len(u) for u in users] == [4, 4, 2]
    order = torch.cat(users).tolist()
    assert sorted(order) == list(range(10))
    assert order != list(range(10))


def test_minibatches_are_drawn_anew_at_every_pass():
    ((_, first),), ((_, second),) = passes(50, 50, n=2)
    assert first.tolist() != second.tolist()


def test_minibatches_repeat_with_the_seed():
    drawn = [
        [users.tolist() for _, users in minibatches]
        for seed in (7, 7, 8)
        for minibatches in passes(9, 2, seed=seed)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_a_batch_size_above_the_number_of_users_makes_one_minibatch():
    (minibatches,) = passes(3, 100)
    assert [len(users) for _, users in minibatches] == [3]


@pytest.mark.parametrize(
    ("n_users", "batch_size"), [(30, 30), (300, 50), (4_200, 210), (30_000, 500)]
)
def test_automatic_batches_grow_with_the_users(n_users, batch_size):
    (minibatches,) = passes(n_users, "auto")
    assert len(minibatches[0][1]) == batch_size


@pytest.mark.parametrize(("batch_size", "sizes"), [(7, [7, 7, 6]), ("auto", [20])])
def test_a_fit_has_minibatches_of_the_batch_size_of_the_model(batch_size, sizes):
    X = make_interactions(20, 24, random_state=0)
    model = GameOfThree(2, device="cpu", **GAME | {"batch_size": batch_size}).fit(X)
    assert [n for name, epoch, n in model.calls if name == "main" and epoch != "after"] == 2 * sizes


# --- averages


def test_moving_average_by_hand():
    network, averaged = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    values, expected = [1.0, 3.0, 5.0], 0.0
    nn.init.zeros_(averaged.weight)
    for epoch, value in enumerate(values, start=1):
        nn.init.constant_(network.weight, value)
        move_average(averaged, network, 0.2, epoch)
        decay = min(0.2, (1 + epoch) / (10 + epoch))  # 2/11, then 0.2
        expected = decay * expected + (1 - decay) * value
    assert averaged.weight.item() == pytest.approx(expected)
    assert expected == pytest.approx(4.5127272727)
    move_average(averaged, network, 0.0, 4)
    assert averaged.weight.item() == 5.0


def test_the_average_has_the_buffers_of_the_network():
    network, averaged = nn.Module(), nn.Module()
    network.register_buffer("count", torch.tensor(3))
    averaged.register_buffer("count", torch.tensor(0))
    move_average(averaged, network, 0.9, 1)
    assert averaged.count == 3


def test_the_best_epoch_is_the_first_with_the_highest_score():
    network, best = nn.Linear(1, 1), BestEpoch()
    for epoch, score in enumerate([0.1, 0.5, 0.5, 0.4], start=1):
        nn.init.constant_(network.weight, epoch)
        best.update(score, epoch, network)
    assert (best.epoch, best.score) == (2, 0.5)
    assert_array_equal(best.parameters["weight"], [[2.0]])  # a copy
