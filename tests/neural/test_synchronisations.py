"""An update must not read a value from the device, because the program would wait for a GPU.

Two stand-ins for a GPU show such reads: a count of the operations that return a value, or a tensor
whose shape depends on values; and the meta device, where tensors have no values at all.
"""

from __future__ import annotations

import pytest
import torch
from conftest import NEURAL_RECOMMENDERS, make, seeded
from torch.utils._python_dispatch import TorchDispatchMode

from skvaecf.datasets import make_interactions
from skvaecf.neural import InteractionBatch
from skvaecf.neural._layers import initialize
from skvaecf.neural._training import Game

aten = torch.ops.aten

# Operations that wait for a GPU, whatever their arguments are.
READS = {
    aten._local_scalar_dense.default,  # float(x), int(x), bool(x), x.item()
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
}
# Operations that wait if an index is a mask.
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class CountReads(TorchDispatchMode):
    """Counts the operations that would make the program wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        by_mask = function in INDEXING and any(map(is_mask, args[1]))
        repeat = function is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if function in READS or by_mask or repeat:
            self.reads.append(str(function))
        return function(*args, **kwargs)


def is_mask(index):
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def new_game(model, X, device="cpu"):
    """Return a game with the players of a model on the rows of X."""
    network = model._empty_network(X.shape, torch.device(device))
    x = InteractionBatch.from_csr(X, device)
    if device == "cpu":
        initialize(network, seeded(), x)
    network.train()
    sampling = model._sampling(network, x)
    return Game(model._players(network, x), x, batch_size=20, sampling=sampling)


def new_game_without_values(model, X):
    """Return a game on the meta device."""
    game, on_cpu = new_game(model, X, "meta"), new_game(model, X)
    for player, twin in zip(game.players, on_cpu.players, strict=True):
        # Rows copy their offsets and items from the device once in a fit.
        for name in ("host_offsets", "host_items"):
            vars(game._rows(player))[name] = getattr(on_cpu._rows(twin), name)
    return game


def update_all(game):
    """Run two updates of every player, on two mini-batches."""
    for player in game.players:
        n_rows = game._rows(player).n_users
        for users in torch.arange(n_rows).split(20)[:2]:
            game.update(player, 0.25, users, seeded())


@pytest.fixture(scope="module")
def X():
    return make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)


def likelihoods(name):
    """Return the settings of the likelihood; "n-choose-k" still reads values in Newton's method."""
    if "likelihood" not in make(name).get_params():
        return [{}]
    return [{"likelihood": "multinomial"}, {"likelihood": "bernoulli"}]


SETTINGS = [
    *((name, changes) for name in NEURAL_RECOMMENDERS for changes in likelihoods(name)),
    ("MultVAE", {"likelihood": "multinomial", "prior": "vamp", "posterior": "iaf"}),
    ("MultVAE", {"likelihood": "multinomial", "n_sampled_items": 3}),
    ("CFGAN", {"mode": "item"}),
    ("VAEGANRecommender", {"likelihood": "bernoulli", "contractive_estimator": "hutchinson"}),
]
IDS = [" ".join([name, *map(str, changes.values())]) for name, changes in SETTINGS]


def assign_by_mask(x):
    x[x > 1] = torch.zeros(2)


@pytest.mark.parametrize(
    ("function", "n_reads"),
    [
        (lambda x: float(x[0]), 1),
        (lambda x: x[0].item(), 1),
        (lambda x: bool(x[0]), 1),
        (lambda x: x[x > 1], 1),
        (assign_by_mask, 1),
        (lambda x: x.nonzero(), 1),
        (torch.unique, 1),
        (lambda x: x.repeat_interleave(x.long()), 1),
        (lambda x: x.repeat_interleave(x.long(), output_size=6), 0),
        (lambda x: x[x.long().clamp(max=2)] + torch.where(x > 1, x, 0), 0),
    ],
)
def test_reads_are_counted(function, n_reads):
    with CountReads() as counter:
        function(torch.tensor([1.0, 2.0, 3.0]))
    assert len(counter.reads) == n_reads


@pytest.mark.parametrize(("name", "changes"), SETTINGS, ids=IDS)
def test_an_update_reads_no_value(name, changes, X):
    game = new_game(make(name, **changes), X)
    with CountReads() as counter:
        update_all(game)
    assert counter.reads == []


@pytest.mark.parametrize(("name", "changes"), SETTINGS, ids=IDS)
def test_an_update_runs_without_values(name, changes, X):
    game = new_game_without_values(make(name, **changes), X)
    update_all(game)
    logged = [value for values in game.figures.values() for value in values]
    assert {value.device.type for value in logged} == {"meta"}
    assert all(value.shape == () for value in logged)
