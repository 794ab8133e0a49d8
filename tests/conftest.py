"""Settings, fixtures and helpers that the tests share."""

from __future__ import annotations

import os

# Before SciPy is imported: scikit-learn skips its array API check otherwise.
os.environ["SCIPY_ARRAY_API"] = "1"

import inspect
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

import skvaecf
from skvaecf.datasets import make_interactions
from skvaecf.neural import (
    BaseRecommender,
    Batch,
    InteractionBatch,
    Order,
    Player,
    TorchRecommender,
    by_batch,
)
from skvaecf.neural._layers import initialize
from skvaecf.neural._training import Game

try:
    from hypothesis import settings
except ModuleNotFoundError:  # the tests of examples/benchmarks/gpu.py need only what skvaecf needs
    pass
else:
    settings.register_profile("skvaecf", deadline=None, derandomize=True, max_examples=100)
    settings.load_profile("skvaecf")

# The matrices are small: a second thread would take more time than it saves.
torch.set_num_threads(1)
threadpool_limits(1)
# Otherwise a warning that torch shows once is an error only in the test that comes first.
torch.set_warn_always(True)


@dataclass(frozen=True)
class Case:
    """Settings of one recommender."""

    # A fit in a fraction of a second in which every hyperparameter matters.
    cheap: dict[str, Any]
    # Changes of these for a fit that learns planted blocks; None if it is not personalised.
    planted: dict[str, Any] | None = field(default_factory=dict)


NEURAL = {
    "n_components": 6,
    "learning_rate": 0.02,
    "learning_rate_schedule": "constant",
    "ema_decay": 0.0,
    "batch_size": 32,
    "max_epochs": 2,
    "validation_fraction": 0.25,
    "precision": "float32",
    "device": "cpu",
    "random_state": 0,
}

# Of the autoencoders that can start from an SVD: with it, there would be little to learn.
RANDOM = NEURAL | {"init": "random"}

# The likelihood of the papers, and no decay.
OF_PAPER = {"likelihood": "multinomial", "l2": 0.0}

# Few and large steps, which are enough for most to learn planted blocks.
LARGE_STEPS = {"learning_rate": 0.05, "batch_size": 40, "max_epochs": 10}

# A new recommender needs an entry here, and one in VALUES for each new hyperparameter.
CASES = {
    "AWAE": Case(
        RANDOM
        | OF_PAPER
        | {"encoder_layer_sizes": (8,), "mmd_weight": 1.0, "kl_weight": 0.5, "anneal_steps": 2},
        LARGE_STEPS | {"max_epochs": 15},
    ),
    "Blend": Case(
        {
            "estimators": [
                ("ease", skvaecf.EASE(5.0, device="cpu")),
                ("knn", skvaecf.ItemKNN(n_neighbors=5)),
            ],
            "weights": "auto",
            "validation_fraction": 0.25,
            "random_state": 0,
        }
    ),
    "CDAE": Case(
        NEURAL | {"activation": "sigmoid", "likelihood": "bernoulli", "l2": 0.1},
        {"batch_size": 16, "max_epochs": 60},
    ),
    "CFGAN": Case(
        NEURAL | {"mode": "user", "generator_layer_sizes": (7,), "discriminator_layer_sizes": (5,)},
        {
            "generator_layer_sizes": (),
            "learning_rate": 0.01,
            "batch_size": 16,
            "max_epochs": 40,
        },
    ),
    "EASE": Case({"l2": 5.0, "device": "cpu"}),
    "ELSA": Case(NEURAL, LARGE_STEPS),
    "IRGAN": Case(
        NEURAL | {"n_pretraining_epochs": 4, "l2": 0.01},
        {
            "n_pretraining_epochs": 40,
            "learning_rate": 0.003,
            "batch_size": 16,
            "max_epochs": 3,
        },
    ),
    "HVampVAE": Case(
        NEURAL
        | OF_PAPER
        | {"layer_size": 8, "n_pseudo_inputs": 4, "kl_weight": 0.5, "anneal_steps": 2},
        {"batch_size": 16, "max_epochs": 30},
    ),
    "ItemKNN": Case({"n_neighbors": 5}),
    "MultDAE": Case(RANDOM | {"likelihood": "multinomial", "l2": 0.05}, LARGE_STEPS),
    "MultVAE": Case(
        RANDOM
        | OF_PAPER
        | {
            "encoder_layer_sizes": (8,),
            "kl_weight": 0.5,
            "anneal_steps": 2,
        },
        LARGE_STEPS,
    ),
    "RecVAE": Case(
        NEURAL | OF_PAPER | {"encoder_layer_sizes": (8, 8), "kl_weight": 0.3},
        LARGE_STEPS | {"max_epochs": 15, "learning_rate": 0.04},
    ),
    "SIVAERecommender": Case(
        RANDOM
        | OF_PAPER
        | {
            "encoder_layer_sizes": (8,),
            "noise_size": 4,
            "n_mixing_samples": 2,
            "kl_weight": 0.5,
            "anneal_steps": 2,
        },
        LARGE_STEPS,
    ),
    "Popularity": Case({}, None),
    "VAEGANRecommender": Case(
        RANDOM
        | {
            "encoder_layer_sizes": (8,),
            "likelihood": "multinomial",
            "noise_size": 4,
            "adversary_weight": 0.2,
            "discriminator_layer_size": 8,
            "discriminator_learning_rate": 0.02,
            "contractive_weight": 0.02,
            "l2": 0.1,
            "data_adversary_weight": 0.2,
            "anneal_steps": 2,
        },
        LARGE_STEPS | {"max_epochs": 25, "learning_rate": 0.02},
    ),
    "WMF": Case(
        {
            "n_components": 6,
            "l2": 0.02,
            "solver": "cg",
            "cg_steps": 2,
            "max_epochs": 3,
            "tol": 0.0,
            "precision": "float32",
            "device": "cpu",
            "random_state": 0,
        }
    ),
    "SLIM": Case({"l1": 0.5, "l2": 5.0, "device": "cpu"}),
}


@dataclass(frozen=True)
class Values:
    """Values of one hyperparameter."""

    other: Any  # valid, unlike those in CASES
    invalid: tuple[Any, ...]


VALUES = {
    "activation": Values("tanh", ("relu", None)),
    "adversary_weight": Values(0.0, (-0.1, None)),
    "anneal_steps": Values(1000, (-1, 2.5, "always")),
    "batch_size": Values(7, (0, -1, 2.5)),
    "block_size": Values(4, (0, -1, 2.5, "auto")),
    "cg_steps": Values(1, (0, 2.5, None)),
    "confidence": Values(3.0, (0.0, -1.0, None)),
    "contractive_estimator": Values("hutchinson", ("ones", None)),
    "contractive_weight": Values(0.0, (-0.1, None)),
    "data_adversary_weight": Values(0.0, (-0.1, None)),
    "decoder_layer_sizes": Values((5,), (3, "3", None, (0,), (-1,), ("a",), (2.5,), (True,))),
    "device": Values("cpu:0", ("quantum", "meta", 3.5, None)),
    "discriminator_l2": Values(0.1, (-1.0, None, "much")),
    "discriminator_layer_size": Values(5, (0, -1, 2.5)),
    "discriminator_layer_sizes": Values((), (3, "3", None, (0,), (-1,), ("a",), (2.5,), (True,))),
    "discriminator_learning_rate": Values(0.001, (0, -0.1, "auto")),
    "dropout": Values(0.1, (1.0, -0.1, "half")),
    "early_stopping": Values(False, ("yes", None)),
    "ema_decay": Values(0.8, (1.0, -0.1, "much")),
    "encoder_layer_sizes": Values((9,), (3, "3", None, (0,), (-1,), ("a",), (2.5,), (True,))),
    "estimators": Values(
        [("ease", skvaecf.EASE(77.0)), ("wmf", "drop")],
        (None, [], {}, [("ease", None)], [("ease", skvaecf.EASE)], [("a", "drop")]),
    ),
    "fold_in_l2": Values(7.0, (0.0, -1.0, None)),
    "frequency_exponent": Values(0.0, (-0.1, None)),
    "generator_layer_sizes": Values((), (3, "3", None, (0,), (-1,), ("a",), (2.5,), (True,))),
    "init": Values("svd", ("pca", None)),
    "item_exponent": Values(0.3, (-0.1, None, "much")),
    "kl_weight": Values(0.0, (-0.1, None)),
    "kl_weight_per_item": Values(0.1, (-0.1, None)),
    "l1": Values(4.0, (-1.0, None, "much")),
    "l2": Values(77.0, (-1.0, None, "much")),
    "layer_size": Values(9, (0, -1, 2.5)),
    "learning_rate": Values(0.001, (0, -0.1, "auto")),
    "learning_rate_schedule": Values("linear", ("cosine", None)),
    "likelihood": Values("n-choose-k", ("gauss", None)),
    "masking_ratio": Values(0.0, (-0.1, 1.1, None)),
    "max_epochs": Values(1, (0, -1, 2.5, None)),
    "metric": Values("jaccard", ("euclid", None)),
    "min_interactions": Values(12, (1, 0, 2.5, None)),
    "mmd_weight": Values(0.0, (-0.1, None)),
    "mode": Values("item", ("both", None)),
    "n_components": Values(3, (0, -1, 2.5)),
    "n_decoder_passes": Values(2, (0, 2.5)),
    "n_discriminator_passes": Values(3, (0, -1, 2.5)),
    "n_encoder_passes": Values(1, (0, 2.5)),
    "n_generator_passes": Values(5, (0, -1, 2.5)),
    "n_iter_no_change": Values(1, (0, 2.5)),
    "n_jobs": Values(2, (1.5, "all")),
    "n_latent_samples": Values(2, (0, -1, 2.5)),
    "n_mixing_samples": Values(0, (-1, 2.5)),
    "n_neighbors": Values(2, (0, 2.5, None)),
    "n_prediction_samples": Values(3, (-1, 2.5)),
    "n_pretraining_epochs": Values(0, (-1, 2.5, None)),
    "n_pseudo_inputs": Values(3, (0, -1, 2.5)),
    "n_sampled_items": Values(1, (0, -1, 2.5, "all")),
    "noise": Values("bernoulli", ("loud", None)),
    "noise_size": Values(3, (0, -1, 2.5)),
    "nonnegative": Values(False, ("yes", None)),
    "normalize": Values(False, ("yes", None)),
    "posterior": Values("iaf", ("gauss", None)),
    "precision": Values("bfloat16", ("float16", None)),
    "pretraining_learning_rate": Values(0.001, (0, -0.1, None)),
    "prior": Values("vamp", ("gauss", None)),
    "prior_weights": Values((0.5, 0.25, 0.25), (0.5, None, (0.5, 0.5), (1.5, -0.5, 0), ("a",) * 3)),
    "random_state": Values(1, (-1, "seed", 2.5)),
    "relaxation": Values(0.9, (1.0, -0.1, None)),
    "reconstruction_ratio": Values(0.2, (-0.1, 1.1, None)),
    "reconstruction_weight": Values(1.0, (-0.1, None)),
    "shared_sigma": Values(True, ("yes", None)),
    "shrinkage": Values(3.0, (-1.0, None)),
    "solver": Values("cholesky", ("lu", None)),
    "temperature": Values(3.0, (0.0, -1.0, None)),
    "tol": Values(0.5, (-1.0, None)),
    "unobserved_weight": Values(0.7, (-0.1, None)),
    "use_values": Values(True, ("yes", None)),
    "validation_fraction": Values(0.4, (0, 1.0, -0.5)),
    "user_exponent": Values(0.5, (-0.1, None, "much")),
    "verbose": Values(1, (-1, "loud")),
    "warm_start": Values(True, ("yes", None)),
    "weights": Values(
        (3.0, 1.0), ("equal", 0.5, (1.0,), (1.0, -1.0), (0, 0), (np.nan, 1.0), ("a", "b"))
    ),
    "weighting": Values("bm25", ("idf", 1)),
}

RECOMMENDERS = sorted(
    name
    for name in skvaecf.__all__
    if inspect.isclass(getattr(skvaecf, name))
    and issubclass(getattr(skvaecf, name), BaseRecommender)
)
NEURAL_RECOMMENDERS = [
    name for name in RECOMMENDERS if issubclass(getattr(skvaecf, name), TorchRecommender)
]
LATENT_RECOMMENDERS = [
    name for name in RECOMMENDERS if hasattr(getattr(skvaecf, name), "transform")
]
# A closed form and a network, for tests of the code that all models share.
CLOSED_AND_NEURAL = ["EASE", "MultVAE"]
# One model for each way of training, for tests of the code that all models share: a single player;
# players that take turns on each mini-batch; players that take turns by epoch, with a copy of the
# network's parameters; a player that moves before all others, and a vector for each user.
NEURAL_KINDS = ["MultVAE", "VAEGANRecommender", "RecVAE", "IRGAN"]


def make(name: str, **changes: Any) -> Any:
    """Build a recommender with its cheap settings and some changes."""
    case = CASES.get(name, Case({}))
    return getattr(skvaecf, name)(**case.cheap | changes)


def make_short(name: str, **changes: Any) -> Any:
    """Build a recommender that trains for one epoch, for tests in which learning is not needed."""
    short = {"max_epochs": 1, "batch_size": 64} if name in NEURAL_RECOMMENDERS else {}
    return make(name, **short | changes)


def plain_parameters(model: Any) -> dict[str, Any]:
    """Return the parameters of an estimator, and of its members instead of the members."""
    params = model.get_params().items()
    return {n: v for n, v in params if n != "estimators" and not hasattr(v, "get_params")}


@contextmanager
def naming(case: Any) -> Iterator[None]:
    """Add the name of a case, in a loop over cases, to the message of an error."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        error.add_note(f"case: {case}")
        raise


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with one of these arguments for every recommender of the list."""
    taken = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    taken = [name for names in taken for name in ([names] if isinstance(names, str) else names)]
    for argument, names in {
        "name": RECOMMENDERS,
        "neural": NEURAL_RECOMMENDERS,
        "neural_kind": NEURAL_KINDS,
        "latent": LATENT_RECOMMENDERS,
    }.items():
        if argument in metafunc.fixturenames and argument not in taken:
            metafunc.parametrize(argument, names)


@pytest.fixture(scope="session")
def X() -> Any:
    """Return noisy interactions of 60 users with 24 items, in read-only arrays."""
    data = make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)
    for array in (data.data, data.indices, data.indptr):
        array.flags.writeable = False
    return data


@pytest.fixture(scope="session")
def small_X() -> Any:
    """Return interactions of 10 users with 24 items, for dense computations of an objective."""
    return make_interactions(10, 24, random_state=0)


@pytest.fixture(scope="session")
def fitted(X: Any) -> Any:
    """Return a function from a name to a fitted recommender, for tests that do not change it."""
    models: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in models:
            models[name] = make(name).fit(X)
        return models[name]

    return get


@pytest.fixture
def unchanged() -> Any:
    """Return a function from an estimator to a function that checks that it did not change."""

    def snapshot(estimator: Any) -> Any:
        before = dict(vars(estimator))
        copies = {k: np.copy(v) for k, v in before.items() if isinstance(v, np.ndarray)}

        def check() -> None:
            after = vars(estimator)
            assert sorted(after) == sorted(before)
            for attribute, value in before.items():
                assert after[attribute] is value, attribute
            for attribute, value in copies.items():
                assert_array_equal(after[attribute], value, err_msg=attribute)

        return check

    return snapshot


# --- networks, players and losses


def seeded(seed: int = 0) -> torch.Generator:
    """Return a random generator with a seed."""
    return torch.Generator().manual_seed(seed)


def new_network(model: Any, X: Any, factor: float = 1.0, shift: float = 0.0) -> Any:
    """Return the network that a fit starts from, each parameter times ``factor`` plus ``shift``.

    In tests of a formula, the small weights and the biases near 0 of a new network would hide
    errors.
    """
    network = model._build(*X.shape)
    initialize(network, seeded(), InteractionBatch.from_csr(X))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(factor).add_(shift)
    return network


def players_of(model: Any, network: Any, X: Any) -> list[Player]:
    """Return the players of a game in which the rows of X are those of the training users."""
    players: list[Player] = model._players(network, InteractionBatch.from_csr(X))
    return players


def batch_of(
    X: Any, users: Any = None, step: int = 0, epoch: float = 0.0, seed: int = 1, **fields: Any
) -> Batch:
    """Return some rows of X as a mini-batch; all of them by default."""
    x = InteractionBatch.from_csr(X)
    users = torch.arange(x.n_users) if users is None else torch.as_tensor(users)
    return Batch(users, x.rows(users), step, epoch, seeded(seed), **fields)


def game_on(
    minibatches: Iterable[tuple[float, torch.Tensor]],
    players: Sequence[Player],
    x: InteractionBatch,
    order: Order = by_batch,
) -> Game:
    """Return a game in which each pass over the rows goes through the given mini-batches.

    A mini-batch is a pair of the epoch, with its fraction, and the numbers of the rows.
    """
    given = list(minibatches)
    return Game(players, x, order=lambda players, _: order(players, lambda _: iter(given)))


def assert_changes_only_its_parameters(player: Player, network: Any, x: InteractionBatch) -> None:
    """Check that an update of one player changes all of its parameters and no others."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    game_on([(0.0, torch.arange(x.n_users))], [player], x).play(0, seeded())
    own = {id(parameter) for parameter in player.parameters}
    for name, parameter in network.named_parameters():
        changed = not torch.equal(parameter, before[name])
        assert changed == (id(parameter) in own), (player.name, name)


def assert_loss_and_gradients(
    loss: torch.Tensor,
    expected: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    *,
    atol: float = 2e-5,
    least: float = 0.0,
) -> None:
    """Compare a loss and its gradients with those of a reference implementation.

    The largest entry of each gradient must be at least ``least``, so that the comparison says
    something about every parameter.
    """
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    references = torch.autograd.grad(
        expected, parameters, retain_graph=True, materialize_grads=True
    )
    for ours, theirs in zip(gradients, references, strict=True):
        assert theirs.abs().max() >= least
        assert_allclose(ours, theirs, rtol=1e-3, atol=atol)


def sum_of_squared_weights(*modules: torch.nn.Module) -> torch.Tensor:
    """Return the sum of the squared entries of all weight matrices, without the biases."""
    weights = [p for module in modules for p in module.parameters() if p.dim() > 1]
    return torch.stack([weight.square().sum() for weight in weights]).sum()


def log_likelihood(x: torch.Tensor, logits: torch.Tensor, likelihood: str) -> torch.Tensor:
    """Compute the multinomial or Bernoulli log-likelihood of dense rows, shape (n_users,)."""
    if likelihood == "multinomial":
        return (x * F.log_softmax(logits, dim=1)).sum(dim=1)
    assert likelihood == "bernoulli"
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=1)


def log_normal(z: torch.Tensor, mean: Any, log_variance: Any) -> torch.Tensor:
    """Compute the log-density of a normal distribution at each entry of z."""
    quadratic = (z - mean) ** 2 / log_variance.exp()
    return -0.5 * (quadratic + log_variance + np.log(2 * np.pi))


def recorded_inputs(*layers: torch.nn.Module) -> list[Any]:
    """Return a list to which each later call of the layers appends its first argument."""
    inputs: list[Any] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, args, __: inputs.append(args[0]))
    return inputs


def assert_normalized_and_dropped(rows: InteractionBatch, X: Any, p: float) -> None:
    """Check that rows of X were scaled to unit length and dropout with probability p followed."""
    counts = np.diff(X.indptr)
    whole = np.repeat(1 / np.sqrt(counts), counts)
    kept = rows.values.detach().numpy() > 0
    assert abs(kept.mean() - (1 - p)) <= 0.2 * (p > 0)
    assert_allclose(rows.values.detach()[kept], whole[kept] / (1 - p), rtol=1e-5)


# --- processes


def run_python(code: str, *arguments: str, timeout: float = 900) -> str:
    """Run code in a new Python process; return what it printed.

    The time limit only ends processes that hang: it is long enough for a busy machine.
    """
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(skvaecf.__file__).parents[1])},
        check=False,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
