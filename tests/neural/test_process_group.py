"""The functions of a process group in a single process; test_data_parallel.py has two."""

from __future__ import annotations

import pytest
import torch
from conftest import seeded
from torch import distributed, nn

from skvaecf.neural._process_group import (
    broadcast_from_rank_0,
    check_equal_on_ranks,
    copy_from_rank_0,
    n_ranks,
    own_generator,
    own_rank,
    own_rows,
    sum_over_ranks,
)


def test_without_a_group_there_is_one_rank():
    assert not distributed.is_initialized()
    assert n_ranks() == 1
    assert own_rank() == 0


def test_without_a_group_everything_is_returned_as_it_is():
    users, generator, value = torch.arange(5), seeded(), {"figures": 1.0}
    rows, weight = own_rows(users)
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert weight == 1.0
    assert own_generator(generator) is generator
    assert sum_over_ranks(users) is users
    assert broadcast_from_rank_0(value) is value
    check_equal_on_ranks({"X": "a", "l2": "b"})
    network = nn.Linear(2, 2)
    before = network.weight.clone()
    copy_from_rank_0(network)
    assert torch.equal(network.weight, before)


@pytest.fixture
def rank(monkeypatch):
    """Return a function that makes this process one of several ranks."""

    def become(number, n):
        monkeypatch.setattr("skvaecf.neural._process_group.n_ranks", lambda: n)
        monkeypatch.setattr("skvaecf.neural._process_group.own_rank", lambda: number)

    return become


@pytest.mark.parametrize("n_users", [3, 7, 9])
def test_weighted_means_of_the_ranks_add_up_to_the_mean(n_users, rank):
    users, losses = torch.arange(n_users), torch.arange(n_users) ** 2.0
    total, seen = 0.0, []
    for number in range(3):
        rank(number, 3)
        rows, weight = own_rows(users)
        total += weight * losses[rows].mean()
        seen += rows.tolist()
    assert sorted(seen) == users.tolist()
    assert total.item() == pytest.approx(losses.mean().item(), rel=1e-6)


def test_every_rank_has_all_rows_of_a_minibatch_that_is_too_small(rank):
    for number in range(3):
        rank(number, 3)
        rows, weight = own_rows(torch.tensor([4, 2]))
        assert rows.tolist() == [4, 2]
        assert weight == pytest.approx(1 / 3)


def test_each_rank_has_a_generator_of_its_own_and_leaves_the_common_one(rank):
    generator, draws = seeded(), []
    before = generator.get_state()
    for number in (0, 1, 1):
        rank(number, 2)
        own = own_generator(generator)
        assert own is not generator
        draws.append(torch.rand(3, generator=own).tolist())
    assert draws[0] != draws[1] == draws[2]
    assert torch.equal(generator.get_state(), before)
