"""Training shared by the ranks of torch.distributed."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from conftest import NEURAL_RECOMMENDERS, game_on, make, new_network, seeded
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from torch import distributed, nn

from skvaecf.datasets import make_interactions
from skvaecf.neural import Batch, InteractionBatch, Player, _recommender
from skvaecf.neural._training import Game

# 45 training users: the last mini-batch has one row, which is less than a row per rank.
UNEVEN = {"batch_size": 11, "ema_decay": 0.8}
NOISELESS = UNEVEN | {"dropout": 0.0, "l2": 0.5}


def constant(*shape, generator=None, **options):
    return torch.full(shape[0] if isinstance(shape[0], tuple) else shape, 0.3, **options)


def test_gradients_of_parts_average_to_that_of_the_batch(neural, X, monkeypatch):
    model = make(neural, **{"mmd_weight": 0.0} if neural == "AWAE" else {})
    x, generator, network = InteractionBatch.from_csr(X), seeded(), new_network(model, X)
    for name in ("rand", "randn"):  # a row has the same noise, whatever rows are beside it
        monkeypatch.setattr(torch, name, constant)
    for name in ("normal_", "bernoulli_"):
        monkeypatch.setattr(torch.Tensor, name, lambda self, *_, **__: self.fill_(0.3))
    monkeypatch.setattr(torch, "randint", lambda high, shape, **_: torch.full(shape, high // 3))
    for player in model._players(network, x):
        rows = x if player.rows is None else player.rows

        def gradients(users, player=player, rows=rows):
            loss = player.loss(Batch(users, rows.rows(users), 3, 0.5, generator))
            return torch.autograd.grad(loss, player.parameters)

        users = torch.arange(7)
        whole = gradients(users)
        parts = zip(gradients(users[::2]), gradients(users[1::2]), strict=True)
        for mean, (four, three) in zip(whole, parts, strict=True):
            torch.testing.assert_close((4 * four + 3 * three) / 7, mean, rtol=1e-4, atol=1e-6)


def test_two_ranks_train_one_model(tmp_path):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        other = processes.submit(train_on_a_rank, 1, tmp_path)
        try:
            train_on_a_rank(0, tmp_path)
        finally:
            other.result(timeout=900)  # for a process that hangs


# --- what each of the two ranks does


def train_on_a_rank(rank, folder):
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        compare_the_ranks(rank, folder)
    finally:
        distributed.destroy_process_group()


def compare_the_ranks(rank, folder):
    X = make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)
    ranks_share_rows_and_not_noise()
    for name in NEURAL_RECOMMENDERS:
        ranks_hold_the_same(make(name, **UNEVEN).fit(X))
    ranks_hold_the_same(make("CFGAN", mode="item").fit(X))
    ranks_hold_the_same(make("MultVAE", random_state=None, max_epochs=1).fit(X))
    ranks_learn_what_one_process_does(X)
    users = np.arange(60)
    items = np.column_stack([users % 80, (users + 40) % 80]).ravel()
    sparse_X = csr_array((np.ones(120), (users.repeat(2), items)), (60, 80))
    ranks_learn_what_one_process_does(sparse_X, n_sampled_items=10)
    a_killed_fit_is_resumed(f"{folder}/checkpoint", X)
    a_loss_that_is_not_finite_ends_all_ranks(rank)
    ranks_with_other_data_are_refused(X if rank == 0 else X[:-1])


def gathered(value):
    everywhere = [None, None]
    distributed.all_gather_object(everywhere, value)
    return everywhere


def ranks_share_rows_and_not_noise():
    a, updates = nn.Parameter(torch.zeros(2)), []

    def loss(batch):
        updates.append((batch.users.tolist(), torch.rand(1, generator=batch.generator).item()))
        return a.sum()

    generator, x = seeded(), InteractionBatch.from_csr(csr_array(np.eye(9, 5)))
    Game([Player("a", [a], loss, 0.1)], x, batch_size=4).play(0, generator)
    first, second = gathered(updates)
    for (rows, noise), (other_rows, other_noise) in zip(first[:2], second[:2], strict=True):
        assert len(rows) == len(other_rows) == 2
        assert noise != other_noise
    last = first[2][0]
    assert last == second[2][0]  # one row is left, and both take it
    seen = [user for made in (first[:2], second[:2]) for users, _ in made for user in users]
    assert sorted(seen + last) == list(range(9))
    assert len({*map(tuple, gathered(generator.get_state().tolist()))}) == 1


def ranks_hold_the_same(model):
    parts = {name: tensor.tolist() for name, tensor in model.network_.state_dict().items()}
    first, second = gathered((parts, model.history_, model.n_iter_, model.best_iter_))
    assert first == second, type(model)


def ranks_learn_what_one_process_does(X, **changes):
    model = make("MultDAE", **NOISELESS, **changes).fit(X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "is_initialized", lambda: False)
        alone = make("MultDAE", **NOISELESS, **changes).fit(X)
    assert model.n_iter_ == alone.n_iter_
    for found, expected in zip(model.history_, alone.history_, strict=True):
        assert list(found) == list(expected)
        for name in set(found) - {"seconds"}:
            assert_allclose(found[name], expected[name], rtol=1e-5)
    parameters = alone.network_.state_dict()
    for name, tensor in model.network_.state_dict().items():
        torch.testing.assert_close(tensor, parameters[name], rtol=1e-4, atol=1e-5)


def a_killed_fit_is_resumed(path, X):
    model = make("MultVAE", ema_decay=0.8, max_epochs=4)
    expected = model.fit(X).network_.state_dict()
    with pytest.MonkeyPatch.context() as patch:
        epochs = iter([_recommender.move_average] * 2)  # and an error in the third
        patch.setattr(_recommender, "move_average", lambda *args: next(epochs)(*args))
        with pytest.raises(StopIteration):
            model.fit(X, checkpoint_path=path)
    assert os.path.exists(path)
    model.fit(X, checkpoint_path=path)
    for name, tensor in model.network_.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    distributed.barrier()
    assert not os.path.exists(path)


def a_loss_that_is_not_finite_ends_all_ranks(rank):
    a = nn.Parameter(torch.zeros(2))
    player = Player("a", [a], lambda batch: a.sum() + (torch.nan if rank else 0.0), 0.1)
    x = InteractionBatch.from_csr(csr_array(np.eye(4)))
    with pytest.raises(FloatingPointError, match="loss of the a became nan"):
        game_on([(0.0, torch.arange(4))], [player], x).play(0, seeded())


def ranks_with_other_data_are_refused(X):
    with pytest.raises(ValueError, match="they differ in X"):
        make("MultDAE").fit(X)
