"""Fits on a GPU: ``pytest -m gpu`` runs them there.

The tests with the fixture ``device`` also run on the CPU, where most of them hold trivially: this
shows that the tests themselves work.
"""

from __future__ import annotations

import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from conftest import CASES, NEURAL_KINDS, NEURAL_RECOMMENDERS, RECOMMENDERS, make, seeded
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, vstack
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import skvaecf
from skvaecf import UserSplitter, ndcg_at_k
from skvaecf._devices import check_precision
from skvaecf.datasets import make_interactions
from skvaecf.linear._item_item import dense_gram
from skvaecf.neural import InteractionBatch
from skvaecf.neural._checkpoint import Checkpoint
from skvaecf.neural._layers import initialize, set_precision
from skvaecf.neural._training import Game

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
on_both = pytest.mark.parametrize("device", ["cpu", CUDA])
on_gpu = pytest.mark.parametrize("device", [CUDA])

# Recommenders with the parameter ``device``, without those that only pass it on.
ON_DEVICES = [name for name in RECOMMENDERS if "device" in make(name).get_params()]


@pytest.fixture(scope="module")
def others():
    """Validation users."""
    return make_interactions(40, 24, n_blocks=2, noise=0.3, random_state=1)


def with_an_empty_row(X):
    return csr_array(vstack([X, csr_array((1, X.shape[1]), dtype=X.dtype)]))


def losses_of(model):
    return [{n: v for n, v in record.items() if n != "seconds"} for record in model.history_]


# --- the same noise on both devices


class NoiseOfTheCPU(TorchFunctionMode):
    """Draws all random numbers on the CPU, so that they are the same for every device."""

    def __init__(self):
        super().__init__()
        self.generators = {}

    def twin(self, generator):
        """Return the generator of the CPU that stands for another one."""
        key = id(generator)
        if key not in self.generators:
            twin = torch.Generator().manual_seed(generator.initial_seed())
            self.generators[key] = twin, generator  # the second one keeps the id in use
        return self.generators[key][0]

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is None:
            return function(*args, **kwargs)
        kwargs["generator"] = self.twin(generator)
        if function in (torch.rand, torch.randn, torch.randint, torch.randperm):
            device = kwargs.pop("device", "cpu")
            return function(*args, **kwargs).to(device)
        if function in IN_PLACE:
            filled, *rest = args or (kwargs.pop("tensor"),)
            drawn = torch.empty_like(filled, device="cpu", memory_format=torch.contiguous_format)
            with torch.no_grad():
                function(drawn.detach(), *rest, **kwargs)
                filled.copy_(drawn)
            return filled
        raise NotImplementedError(f"{function} draws random numbers in a way that is new here")


IN_PLACE = [Tensor.uniform_, Tensor.normal_, Tensor.bernoulli_, nn.init.uniform_, nn.init.normal_]


def fit_with_noise_of_the_cpu(model, X):
    with NoiseOfTheCPU():
        return model.fit(X)


@pytest.mark.parametrize("name", NEURAL_RECOMMENDERS)
def test_the_noise_of_the_cpu_is_that_of_a_fit_on_the_cpu(name, X):
    expected = make(name).fit(X)
    model = fit_with_noise_of_the_cpu(make(name), X)
    assert_array_equal(model.predict(X), expected.predict(X))


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


SETTINGS = [
    *((name, {}) for name in NEURAL_RECOMMENDERS),
    ("CFGAN", {"mode": "item"}),
    ("MultVAE", {"likelihood": "n-choose-k", "init": "svd", "l2": "auto"}),
    ("MultVAE", {"likelihood": "bernoulli", "decoder_layer_sizes": (7,)}),
    ("MultVAE", {"prior": "vamp", "posterior": "iaf"}),
    ("MultVAE", {"n_sampled_items": 5}),
    ("SIVAERecommender", {"n_prediction_samples": 2, "likelihood": "n-choose-k"}),
    ("VAEGANRecommender", {"contractive_estimator": "hutchinson", "likelihood": "n-choose-k"}),
]
IDS = [" ".join([name, *map(str, changes.values())]) for name, changes in SETTINGS]


@on_both
@pytest.mark.parametrize(("name", "changes"), SETTINGS, ids=IDS)
def test_a_fit_is_close_to_that_on_the_cpu(name, changes, device, X):
    options = changes | {"max_epochs": 3, "precision": "float32"}
    expected = fit_with_noise_of_the_cpu(make(name, **options), X)
    model = fit_with_noise_of_the_cpu(make(name, device=device, **options), X)
    assert {p.device.type for p in model.network_.parameters()} == {device}
    # Rounding may change a sampled item of IRGAN and CFGAN, and the sign of a gradient near 0.
    for record, of_cpu in zip(losses_of(model), losses_of(expected), strict=True):
        for key, value in record.items():
            if key != "validation_ndcg":
                assert value == pytest.approx(of_cpu[key], rel=0.01, abs=0.01), key
    assert correlation(model.predict(X), expected.predict(X)) > 0.995


# --- all methods of a fitted model


@on_both
@pytest.mark.parametrize("name", ON_DEVICES)
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_fitted_model_has_the_same_results_on_every_device(
    name, precision, device, X, others, tmp_path
):
    precisions = {"precision": precision} if "precision" in make(name).get_params() else {}
    model = make(name, device=device, **precisions).fit(X)
    again = clone(model).fit(X)
    rows = with_an_empty_row(X)
    scores = model.predict(rows)
    assert np.isfinite(scores).all()
    assert_array_equal(again.predict(rows), scores)
    items, best = model.recommend(rows, 5, return_scores=True)
    assert_allclose(best, np.take_along_axis(scores, items, axis=1), rtol=1e-4, atol=1e-5)
    seen = np.take_along_axis(rows.toarray(), items, axis=1)
    assert not seen.any()

    model.save(tmp_path / "model")
    for reloaded in (pickle.loads(pickle.dumps(model)), skvaecf.load(tmp_path / "model")):
        assert_array_equal(reloaded.predict(rows), scores)
    moved = pickle.loads(pickle.dumps(model.set_params(device="cpu")))
    close = partial(assert_allclose, rtol=1e-3, atol=2e-3)
    close(moved.predict(rows), scores)
    close(again.score(others), moved.score(others))
    close(ndcg_at_k.at(5)(again, others), ndcg_at_k.at(5)(moved, others))
    for method in ("transform", "similar_items"):
        if hasattr(moved, method):
            given = rows if method == "transform" else [3]
            of_device, of_cpu = (getattr(m, method)(given) for m in (again, moved))
            assert np.shape(of_device) == np.shape(of_cpu)
            if method == "transform":
                close(of_device, of_cpu)


OF_ALTERNATING_LEAST_SQUARES = [
    {},
    {"confidence": 0.3, "precision": "bfloat16"},
    {"solver": "cholesky", "block_size": 4},
]


@on_both
@pytest.mark.parametrize("changes", OF_ALTERNATING_LEAST_SQUARES)
def test_factors_are_close_to_those_of_the_cpu(changes, device, X):
    expected = fit_with_noise_of_the_cpu(make("WMF", **changes), X)
    model = fit_with_noise_of_the_cpu(make("WMF", device=device, **changes), X)
    objectives = ([record["objective"] for record in m.history_] for m in (model, expected))
    assert_allclose(*objectives, rtol=1e-3)
    # The factors themselves may be rotated.
    assert_allclose(model.predict(X), expected.predict(X), rtol=1e-2, atol=1e-2)


@on_both
@pytest.mark.parametrize("name", ["EASE", "SLIM"])
def test_weights_are_those_of_the_cpu(name, device, X):
    rows = with_an_empty_row(X)
    model, expected = (make(name, device=d).fit(X) for d in (device, "cpu"))
    assert_allclose(model.predict(rows), expected.predict(rows), rtol=1e-3, atol=1e-3)
    part, rest = X[:40], X[40:]
    if hasattr(model, "partial_fit"):
        updated = make(name, device=device).partial_fit(part).partial_fit(rest)
        assert_allclose(updated.predict(rows), expected.predict(rows), rtol=1e-3, atol=1e-3)


@on_both
@pytest.mark.parametrize("speed", [0, np.inf], ids=["sparse products", "dense products"])
def test_counts_of_pairs_of_items_are_exact(speed, device, X, monkeypatch):
    for name in ("DENSE_SPEED", "GPU_DENSE_SPEED"):
        monkeypatch.setattr(f"skvaecf.linear._item_item.{name}", speed)
    gram = dense_gram(X, torch.device(device), padding=1)
    assert gram.device.type == device
    assert_array_equal(gram.cpu()[:24, :24], (X.T @ X).toarray())


@on_both
def test_a_search_fits_on_the_device(device, X):
    grid = {"l2": [0.0, 1.0], "kl_weight": [0.1, 0.2]}
    search = GridSearchCV(make("MultVAE", device=device), grid, cv=UserSplitter(2, random_state=0))
    search.fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert {p.device.type for p in search.best_estimator_.network_.parameters()} == {device}


# --- checkpoints


class Killed(BaseException):
    """Stands for the end of the process."""


@on_both
@pytest.mark.parametrize("name", NEURAL_KINDS)
@pytest.mark.parametrize("n_updates", [1, 3])
def test_a_fit_is_resumed_within_an_epoch(name, n_updates, device, X, tmp_path, monkeypatch):
    model = make(name, device=device, max_epochs=3, batch_size=20)
    expected, path = clone(model).fit(X), tmp_path / "fit.checkpoint"
    save, updates = Checkpoint.save_within_epoch, []

    def save_and_stop(*args):
        save(*args)
        updates.append(1)
        if len(updates) == n_updates:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save_within_epoch", save_and_stop)
        with pytest.raises(Killed):
            clone(model).fit(X, checkpoint_path=path, checkpoint_seconds=0)
    resumed = clone(model).fit(X, checkpoint_path=path)
    assert_array_equal(resumed.predict(X), expected.predict(X))
    assert losses_of(resumed) == losses_of(expected)


# --- precision, sums and waiting


@on_gpu
def test_the_precision_is_bfloat16_where_the_gpu_has_it(device):
    native = torch.cuda.get_device_capability() >= (8, 0)
    expected = torch.bfloat16 if native else torch.float32
    assert check_precision("auto", torch.device(device)) == expected
    assert check_precision("float32", torch.device(device)) == torch.float32


@on_both
def test_sums_of_rows_have_a_fixed_order(device):
    X = make_interactions(300, 200, random_state=0)
    on_cpu, x = InteractionBatch.from_csr(X), InteractionBatch.from_csr(X, device)
    entries = torch.rand(X.nnz, generator=seeded())
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        sums = [x.sum(entries.to(device, dtype)) for _ in range(5)]
        assert all(torch.equal(sums[0], other) for other in sums)
        assert_allclose(sums[0].cpu(), on_cpu.sum(entries.to(dtype)), rtol=tolerance)
    nothing = InteractionBatch.from_csr(csr_array((3, 4), dtype=np.float32), device)
    assert nothing.sum(nothing.values).tolist() == [0.0, 0.0, 0.0]


@on_both
def test_rows_and_products_are_those_of_the_cpu(device):
    X = make_interactions(300, 200, random_state=0)
    on_cpu, x = InteractionBatch.from_csr(X), InteractionBatch.from_csr(X, device)
    users = torch.tensor([5, 0, 299, 5])
    W = torch.randn(200, 6, generator=seeded())
    for given in (users, users.to(device)):
        rows = x.rows(given)
        assert_array_equal(rows.offsets.cpu(), on_cpu.rows(users).offsets)
        assert_array_equal(rows.items.cpu(), on_cpu.rows(users).items)
    assert_allclose((x @ W.to(device)).cpu(), on_cpu @ W, rtol=1e-4, atol=1e-4)
    P = torch.randn(300, 6, generator=seeded(1))
    products = x.products(P.to(device), W.to(device)).cpu()
    assert_allclose(products, on_cpu.products(P, W), rtol=1e-4, atol=1e-4)
    by_item = x.transposed()
    assert_array_equal(by_item.items.cpu(), on_cpu.transposed().items)


WAITED = "called a synchronizing CUDA operation"


@on_gpu
@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in NEURAL_RECOMMENDERS), ("MultVAE", {"n_sampled_items": 5})],
)
def test_no_update_waits_for_the_gpu(name, changes, device, X):
    changes = changes | ({"likelihood": "multinomial"} if "likelihood" in CASES[name].cheap else {})
    model = make(name, device=device, precision="auto", **changes)
    network = model._empty_network(X.shape, torch.device(device))
    x, generator = InteractionBatch.from_csr(X, device), torch.Generator(device).manual_seed(0)
    initialize(network, generator, x)
    set_precision(network, check_precision("auto", torch.device(device)))
    network.train()
    sampling = model._sampling(network, x)
    game = Game(model._players(network, x), x, batch_size=20, sampling=sampling)

    def update_all():
        for player in game.players:
            users = torch.arange(min(20, game._rows(player).n_users))
            game.update(player, 0.25, users, generator)

    update_all()  # allocates what is kept
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            update_all()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [f"{w.filename}:{w.lineno}" for w in caught if WAITED in str(w.message)] == []
