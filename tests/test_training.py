"""The training loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from skvaecf.interactions import InteractionBatch
from skvaecf.training import (
    Batch,
    Game,
    Player,
    by_batch,
    by_epoch,
    move_average,
    shuffled_minibatches,
)


def rows(n_users=5, n_items=4):
    return InteractionBatch.from_csr(csr_array(torch.eye(n_users, n_items).numpy()))


def player(name, *parameters, loss=None, n_moves=1, learning_rate=0.1):
    return Player(name, list(parameters), loss, learning_rate, n_moves)


def scalar(value):
    return nn.Parameter(torch.tensor(float(value)))


def two_minibatches():
    yield 0.0, torch.tensor([0, 1])
    yield 0.5, torch.tensor([2])


def test_a_move_changes_only_the_players_own_parameters():
    a, b = scalar(1), scalar(2)
    seen = []

    def loss_a(batch):
        seen.append(("a", a.item(), b.item()))
        return a * b  # depends on both, and lowers a only

    def loss_b(batch):
        seen.append(("b", a.item(), b.item()))
        return -a * b

    game = Game([player("a", a, loss=loss_a), player("b", b, loss=loss_b)])
    game.play(rows(), lambda: [(0.0, torch.tensor([0]))], torch.Generator())
    # Adam's first step has the length of the learning rate.
    assert seen[0] == ("a", 1.0, 2.0)
    assert seen[1] == ("b", pytest.approx(0.9), 2.0)
    assert a.item() == pytest.approx(0.9)
    assert b.item() == pytest.approx(2.1)


def test_no_gradient_is_left_behind():
    a, b = scalar(1), scalar(2)
    game = Game([player("a", a, loss=lambda batch: a * b)])
    game.play(rows(), two_minibatches, torch.Generator())
    assert a.grad is None
    assert b.grad is None


def test_players_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"players must differ in their names, got \['a', 'a'\]"):
        Game([player("a", scalar(1)), player("a", scalar(2))])


def test_each_player_has_its_own_learning_rate():
    a, b = scalar(0), scalar(0)
    game = Game(
        [
            player("a", a, loss=lambda batch: a.clone(), learning_rate=0.1),
            player("b", b, loss=lambda batch: b.clone(), learning_rate=0.001),
        ]
    )
    game.play(rows(), lambda: [(0.0, torch.tensor([0]))], torch.Generator())
    assert a.item() == pytest.approx(-0.1)
    assert b.item() == pytest.approx(-0.001)


def test_by_batch_takes_turns_on_every_minibatch():
    players = [player("f"), player("g", n_moves=2)]
    moves = [(p.name, e, u.tolist()) for p, e, u in by_batch(players, two_minibatches)]
    assert moves == [
        ("f", 0.0, [0, 1]),
        ("g", 0.0, [0, 1]),
        ("g", 0.0, [0, 1]),
        ("f", 0.5, [2]),
        ("g", 0.5, [2]),
        ("g", 0.5, [2]),
    ]


def test_by_epoch_takes_turns_on_all_users():
    players = [player("f"), player("g", n_moves=2)]
    moves = [(p.name, e, u.tolist()) for p, e, u in by_epoch(players, two_minibatches)]
    assert moves == [
        ("f", 0.0, [0, 1]),
        ("f", 0.5, [2]),
        ("g", 0.0, [0, 1]),
        ("g", 0.5, [2]),
        ("g", 0.0, [0, 1]),
        ("g", 0.5, [2]),
    ]


def test_a_game_plays_in_the_order_it_is_given():
    played = []
    a, b = scalar(0), scalar(0)

    def record(name, parameter):
        def loss(batch):
            played.append(name)
            return parameter.clone()

        return loss

    players = [player("a", a, loss=record("a", a)), player("b", b, loss=record("b", b))]
    Game(players).play(rows(), two_minibatches, torch.Generator())
    Game(players, by_epoch).play(rows(), two_minibatches, torch.Generator())
    assert played == list("abab") + list("aabb")


def test_steps_are_counted_per_player_and_through_epochs():
    a, b = scalar(0), scalar(0)
    steps = {"a": [], "b": []}

    def record(name, parameter):
        def loss(batch):
            steps[name].append(batch.step)
            return parameter.clone()

        return loss

    game = Game(
        [
            player("a", a, loss=record("a", a)),
            player("b", b, loss=record("b", b), n_moves=2),
        ]
    )
    for _ in range(2):
        game.play(rows(), two_minibatches, torch.Generator())
    assert steps == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3, 4, 5, 6, 7]}
    assert dict(game.steps) == {"a": 4, "b": 8}


def test_a_loss_gets_the_rows_of_its_users():
    batches = []
    a = scalar(0)

    def loss(batch):
        batches.append(batch)
        return a.clone()

    generator = torch.Generator()
    x = rows()
    Game([player("a", a, loss=loss)]).play(
        x, lambda: [(0.25, torch.tensor([3, 1])), (0.75, torch.tensor([4]))], generator
    )
    assert [type(batch) for batch in batches] == [Batch, Batch]
    assert [batch.users.tolist() for batch in batches] == [[3, 1], [4]]
    assert [batch.epoch for batch in batches] == [0.25, 0.75]
    assert [batch.x.items.tolist() for batch in batches] == [[3, 1], []]
    assert all(batch.generator is generator for batch in batches)


def test_losses_are_averaged_over_the_moves():
    a, b = scalar(0), scalar(0)
    values = {"a": iter([1.0, 4.0]), "b": iter([1.0, 2.0, 3.0, 6.0])}

    def announce(name, parameter):
        def loss(batch):
            return 0 * parameter + next(values[name])

        return loss

    game = Game(
        [
            player("a", a, loss=announce("a", a)),
            player("b", b, loss=announce("b", b), n_moves=2),
        ]
    )
    losses = game.play(rows(), two_minibatches, torch.Generator())
    assert losses == {"a_loss": 2.5, "b_loss": 3.0}
    assert all(type(loss) is float for loss in losses.values())


def test_a_player_can_log_and_hears_that_an_epoch_starts():
    a, started, values = scalar(0), [], iter([1.0, 4.0])

    def loss(batch):
        batch.log("accuracy", torch.tensor(next(values)))
        return 0 * a

    judge = Player("judge", [a], loss, 0.1, start_epoch=lambda: started.append(1))
    figures = Game([judge]).play(rows(), two_minibatches, torch.Generator())
    assert figures == {"judge_accuracy": 2.5, "judge_loss": 0.0}
    assert started == [1]


def test_the_player_that_failed_first_is_named():
    a, b = scalar(0), scalar(1)
    players = [player("a", a, loss=lambda _: a / b * b), player("b", b, loss=lambda _: b * np.nan)]
    with pytest.raises(FloatingPointError, match="loss of the b became nan in epoch 1"):
        Game(players).play(rows(), two_minibatches, torch.Generator())
    assert a.isnan()


def test_shuffled_minibatches_are_a_permutation_with_a_smaller_last_one():
    minibatches = shuffled_minibatches(10, 4, 3, torch.Generator().manual_seed(0))
    epochs, users = zip(*minibatches(), strict=True)
    assert epochs == pytest.approx((3.0, 3.4, 3.8))
    assert [len(u) for u in users] == [4, 4, 2]
    order = torch.cat(users).tolist()
    assert sorted(order) == list(range(10))
    assert order != list(range(10))


def test_shuffled_minibatches_draw_anew_at_every_pass():
    minibatches = shuffled_minibatches(50, 50, 0, torch.Generator().manual_seed(0))
    (_, first), (_, second) = [*minibatches(), *minibatches()]
    assert first.tolist() != second.tolist()


def test_shuffled_minibatches_repeat_with_the_seed():
    passes = [
        [u.tolist() for _, u in shuffled_minibatches(9, 2, 0, torch.Generator().manual_seed(s))()]
        for s in (7, 7, 8)
    ]
    assert passes[0] == passes[1]
    assert passes[0] != passes[2]


def test_a_batch_larger_than_the_users_is_one_batch():
    minibatches = shuffled_minibatches(3, 100, 0, torch.Generator())
    assert [len(u) for _, u in minibatches()] == [3]


def test_moving_average_by_hand():
    network, averaged = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    values, expected = [1.0, 3.0, 5.0], 0.0
    torch.nn.init.zeros_(averaged.weight)
    for epoch, value in enumerate(values, start=1):
        torch.nn.init.constant_(network.weight, value)
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
