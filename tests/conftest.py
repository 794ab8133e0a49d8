"""What the tests share: cheap settings of every recommender, and tables of parameter values."""

from __future__ import annotations

import os

# Before SciPy is imported: scikit-learn skips its array API check otherwise.
os.environ["SCIPY_ARRAY_API"] = "1"

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.testing import assert_array_equal
from threadpoolctl import threadpool_limits

import skvaecf
from skvaecf.base import BaseRecommender
from skvaecf.datasets import make_interactions
from skvaecf.neural import TorchRecommender

settings.register_profile("skvaecf", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("skvaecf")

# Small matrices: a second thread would only make the first one wait.
torch.set_num_threads(1)
threadpool_limits(1)
# A warning that torch gives once is an error in one test and silence in the next.
torch.set_warn_always(True)


@dataclass(frozen=True)
class Case:
    """How to try one recommender."""

    # A fit in a fraction of a second in which every hyperparameter matters.
    cheap: dict[str, Any]
    # What differs from that in a fit that learns planted blocks; None if it is not personalised.
    planted: dict[str, Any] | None = field(default_factory=dict)


NEURAL = {
    "n_components": 6,
    "learning_rate": 0.02,
    "ema_decay": 0.0,
    "batch_size": 32,
    "max_epochs": 2,
    "validation_fraction": 0.25,
    "precision": "float32",
    "device": "cpu",
    "random_state": 0,
}

# Few and large steps, which are enough for most to learn planted blocks.
LARGE_STEPS = {"learning_rate": 0.05, "batch_size": 40, "max_epochs": 10}

# A new recommender needs an entry here, and one in VALUES for each new hyperparameter.
CASES = {
    "AWAERecommender": Case(
        NEURAL | {"encoder_layer_sizes": (8,), "mmd_weight": 1.0, "anneal_steps": 2},
        LARGE_STEPS | {"max_epochs": 15},
    ),
    "CDAE": Case(NEURAL | {"l2": 0.1}, {"batch_size": 16, "max_epochs": 60}),
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
        NEURAL | {"layer_size": 8, "n_pseudo_inputs": 4, "kl_weight": 0.5, "anneal_steps": 2},
        {"batch_size": 16, "max_epochs": 30},
    ),
    "ItemKNN": Case({"n_neighbors": 5}),
    "MultDAE": Case(NEURAL | {"l2": 1e-3}, LARGE_STEPS),
    "MultVAE": Case(
        NEURAL | {"encoder_layer_sizes": (8,), "kl_weight": 0.5, "anneal_steps": 2},
        LARGE_STEPS,
    ),
    "RecVAE": Case(
        NEURAL | {"layer_size": 8, "n_layers": 2, "kl_weight": 0.3},
        LARGE_STEPS | {"max_epochs": 15, "learning_rate": 0.04},
    ),
    "SIVAERecommender": Case(
        NEURAL
        | {"encoder_layer_sizes": (8,), "noise_size": 4, "n_mixing_samples": 2, "anneal_steps": 2},
        LARGE_STEPS,
    ),
    "Popularity": Case({}, None),
    "VAEGANRecommender": Case(
        NEURAL
        | {
            "encoder_layer_sizes": (8,),
            "likelihood": "multinomial",
            "noise_size": 4,
            "adversary_size": 8,
            "adversary_learning_rate": 0.02,
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
            "max_iter": 3,
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
    "adversary_learning_rate": Values(0.001, (0, -0.1, "auto")),
    "adversary_size": Values(5, (0, -1, 2.5)),
    "adversary_weight": Values(0.0, (-0.1, None)),
    "activation": Values("tanh", ("relu", None)),
    "discriminator_l2": Values(0.1, (-1.0, None, "much")),
    "discriminator_layer_sizes": Values((), (3, "3", None, (0,), (-1,), ("a",), (2.5,), (True,))),
    "discriminator_learning_rate": Values(0.001, (0, -0.1, "auto")),
    "fold_in_l2": Values(7.0, (0.0, -1.0, None)),
    "fold_in_weight": Values(0.2, (0.0, 1.0, -1.0, None)),
    "generator_layer_sizes": Values((), (3, "3", None, (0,), (-1,), ("a",), (2.5,), (True,))),
    "masking_ratio": Values(0.0, (-0.1, 1.1, None)),
    "mode": Values("item", ("both", None)),
    "n_discriminator_steps": Values(3, (0, -1, 2.5)),
    "n_generator_steps": Values(5, (0, -1, 2.5)),
    "n_pretraining_epochs": Values(0, (-1, 2.5, None)),
    "pretraining_learning_rate": Values(0.001, (0, -0.1, None)),
    "reconstruction_ratio": Values(0.2, (-0.1, 1.1, None)),
    "reconstruction_weight": Values(1.0, (-0.1, None)),
    "temperature": Values(3.0, (0.0, -1.0, None)),
    "anneal_steps": Values(1000, (-1, 2.5, "always")),
    "block_size": Values(4, (0, -1, 2.5, "auto")),
    "n_jobs": Values(2, (1.5, "all")),
    "cg_steps": Values(1, (0, 2.5, None)),
    "confidence": Values(3.0, (0.0, -1.0, None)),
    "contractive_estimator": Values("hutchinson", ("ones", None)),
    "contractive_weight": Values(0.0, (-0.1, None)),
    "counts": Values(True, ("yes", None)),
    "batch_size": Values(7, (0, -1, 2.5)),
    "data_adversary_weight": Values(0.0, (-0.1, None)),
    "decoder_layer_sizes": Values((5,), (3, "3", None, (0,), (-1,), ("a",), (2.5,), (True,))),
    "device": Values("cpu:0", ("quantum", "meta", 3.5, None)),
    "dropout": Values(0.1, (1.0, -0.1, "half")),
    "early_stopping": Values(False, ("yes", None)),
    "encoder_layer_sizes": Values((9,), (3, "3", None, (0,), (-1,), ("a",), (2.5,), (True,))),
    "frequency_exponent": Values(0.0, (-0.1, None)),
    "kl_weight": Values(0.0, (-0.1, None)),
    "kl_weight_per_item": Values(0.1, (-0.1, None)),
    "layer_size": Values(9, (0, -1, 2.5)),
    "l1": Values(4.0, (-1.0, None, "much")),
    "l2": Values(77.0, (-1.0, None, "much")),
    "learning_rate": Values(0.001, (0, -0.1, "auto")),
    "likelihood": Values("n-choose-k", ("gauss", None)),
    "ema_decay": Values(0.8, (1.0, -0.1, "much")),
    "max_iter": Values(1, (0, 2.5, None)),
    "max_epochs": Values(1, (0, -1, 2.5, None)),
    "metric": Values("jaccard", ("euclid", None)),
    "mmd_weight": Values(0.0, (-0.1, None)),
    "n_components": Values(3, (0, -1, 2.5)),
    "n_decoder_moves": Values(2, (0, 2.5)),
    "n_encoder_moves": Values(1, (0, 2.5)),
    "n_latent_samples": Values(2, (0, -1, 2.5)),
    "n_layers": Values(1, (0, -1, 2.5)),
    "n_mixing_samples": Values(0, (-1, 2.5)),
    "n_prediction_samples": Values(3, (-1, 2.5)),
    "n_pseudo_inputs": Values(3, (0, -1, 2.5)),
    "noise": Values("bernoulli", ("loud", None)),
    "noise_size": Values(3, (0, -1, 2.5)),
    "n_iter_no_change": Values(1, (0, 2.5)),
    "posterior": Values("iaf", ("gauss", None)),
    "prior": Values("vamp", ("gauss", None)),
    "prior_weights": Values((0.5, 0.25, 0.25), (0.5, None, (0.5, 0.5), (1.5, -0.5, 0), ("a",) * 3)),
    "precision": Values("bfloat16", ("float16", None)),
    "random_state": Values(1, (-1, "seed", 2.5)),
    "solver": Values("cholesky", ("lu", None)),
    "unobserved_weight": Values(2.0, (-0.1, None)),
    "shared_sigma": Values(True, ("yes", None)),
    "n_neighbors": Values(2, (0, 2.5, None)),
    "normalize": Values(False, ("yes", None)),
    "nonnegative": Values(False, ("yes", None)),
    "shrinkage": Values(3.0, (-1.0, None)),
    "tol": Values(0.5, (-1.0, None)),
    "validation_fraction": Values(0.4, (0, 1.0, -0.5)),
    "verbose": Values(1, (-1, "loud")),
    "warm_start": Values(True, ("yes", None)),
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


def make(name: str, **changes: Any) -> Any:
    """Build a recommender with its cheap settings."""
    case = CASES.get(name, Case({}))
    return getattr(skvaecf, name)(**case.cheap | changes)


def make_short(name: str, **changes: Any) -> Any:
    """Build a recommender of a single epoch: for tests of what is around learning."""
    short = {"max_epochs": 1, "batch_size": 64} if name in NEURAL_RECOMMENDERS else {}
    return make(name, **short | changes)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the argument ``name``, ``neural`` or ``latent`` for every recommender."""
    taken = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    taken = [name for names in taken for name in ([names] if isinstance(names, str) else names)]
    for argument, names in {
        "name": RECOMMENDERS,
        "neural": NEURAL_RECOMMENDERS,
        "latent": LATENT_RECOMMENDERS,
    }.items():
        if argument in metafunc.fixturenames and argument not in taken:
            metafunc.parametrize(argument, names)


@pytest.fixture(scope="session")
def X() -> Any:
    """Noisy interactions of 60 users with 24 items; nobody may change them."""
    data = make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)
    for array in (data.data, data.indices, data.indptr):
        array.flags.writeable = False
    return data


@pytest.fixture(scope="session")
def fitted(X: Any) -> Any:
    """Give one fitted recommender of each kind, for tests that do not change it."""
    models: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in models:
            models[name] = make(name).fit(X)
        return models[name]

    return get


@pytest.fixture
def unchanged() -> Any:
    """Give a function that says whether an estimator is as it was."""

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
