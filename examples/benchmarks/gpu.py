"""Everything that is to be known about a GPU, by one command of under eight minutes.

    python examples/benchmarks/gpu.py --out gpu.json --gowalla gowalla.npz

The script runs the tests of a GPU. Then it measures MultVAE, SIVAE, VAEGAN, WMF and EASE on
synthetic interactions of the size of MovieLens 20M (136,677 users, 20,108 items, 10 million) and of
Gowalla (29,858 users, 40,981 items, 1 million): the time of an update, the time of a fit, the peak
of the GPU's memory, and the users per second of ``recommend``. Beside the time of an update stand
two lower bounds: the bare dense products of the same shapes, and a floor, which adds the time that
the GPU's memory needs for the parameters and the scores. With ``--gowalla``, a matrix written by
``scipy.sparse.save_npz``, it also records the quality by time. The results are printed and written
to a JSON file after every part.

The parts run in a second process. A part that fails leaves its error in the file. A part that takes
too long is stopped. ``--device cpu --quick`` runs the same parts on a CPU, with small matrices.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

# The source tree need not be installed.
sys.path.append(str(Path(__file__).parents[2]))

import numpy as np
import torch
from machine import machine, print_machine
from scipy.sparse import csr_array, load_npz
from sklearn.model_selection import GridSearchCV, PredefinedSplit

import skvaecf
from skvaecf import (
    EASE,
    WMF,
    MultVAE,
    SIVAERecommender,
    VAEGANRecommender,
    ndcg_at_k,
    strong_generalization_split,
)
from skvaecf._devices import check_precision
from skvaecf._statistics import number_of_components
from skvaecf.neural import InteractionBatch, by_batch
from skvaecf.neural._item_sampling import all_items
from skvaecf.neural._layers import initialize, set_precision
from skvaecf.neural._training import Game

Report = Callable[[str, Any], None]

# Users, items, interactions.
SIZES = {"ML-20M": (136_677, 20_108, 10_000_000), "Gowalla": (29_858, 40_981, 1_000_000)}
QUICK_SIZES = {"ML-20M": (1_500, 400, 30_000), "Gowalla": (600, 800, 12_000)}
ALL_ITEMS = {"n_components": 200, "n_sampled_items": None}
MODELS = {
    "MultVAE, all items": partial(MultVAE, **ALL_ITEMS),
    "MultVAE": MultVAE,
    "MultVAE, multinomial": partial(MultVAE, likelihood="multinomial", **ALL_ITEMS),
    "SIVAE, all items": partial(SIVAERecommender, **ALL_ITEMS),
    "SIVAE": SIVAERecommender,
    "VAEGAN": VAEGANRecommender,
    "WMF": WMF,
    "EASE": EASE,
}
NEURAL = tuple(name for name in MODELS if name not in ("WMF", "EASE"))
WAITED = "called a synchronizing CUDA operation"


# --- data


@lru_cache(maxsize=1)
def synthetic(n_users: int, n_items: int, n_interactions: int) -> csr_array:
    """Draw interactions with a long-tailed popularity, long-tailed rows and 20 groups of users."""
    random = np.random.default_rng(0)
    length = random.lognormal(sigma=1.1, size=n_users).clip(0.1, 60)
    # A fifth more than needed, because draws that are repeated count once.
    counts = np.maximum(5, length * 1.35 * n_interactions / length.sum()).astype(np.int64)
    counts = np.minimum(counts, n_items // 2)
    rows = np.arange(n_users).repeat(counts)
    items = (n_items * random.random(len(rows), dtype=np.float32) ** 2.5).astype(np.int64)
    own = random.random(len(rows), dtype=np.float32) < 0.3  # items of the user's group
    items = (items + own * (rows % 20) * (n_items // 20)) % n_items
    keys = np.sort(rows * n_items + items)
    keys = keys[np.diff(keys, prepend=-1) > 0]
    if len(keys) > n_interactions:
        draws = random.random(len(keys))
        keys = keys[draws <= np.partition(draws, n_interactions - 1)[n_interactions - 1]]
    rows, items = np.divmod(keys, n_items)
    indptr = np.append(0, np.bincount(rows, minlength=n_users).cumsum()).astype(np.int32)
    values = np.ones(len(items), np.float32)
    return csr_array((values, items.astype(np.int32), indptr), shape=(n_users, n_items))


# --- clocks


class Clock:
    """Times repeated calls on a device, and counts what they need there."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.on_gpu = self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done all work."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(
        self, function: Callable[[], Any], n: int, warm_up: int = 3, at_most: float = 10.0
    ) -> dict[str, float]:
        """Return the mean time of a call.

        Parameters
        ----------
        function : callable
        n : int
            Number of calls, fewer if they would take longer than ``at_most`` seconds.
        warm_up : int, default=3
            Number of calls before, which are not timed.
        at_most : float, default=10.0

        Returns
        -------
        times : dict
            "ms" is the time from the start of the first to the end of the last call, divided by
            their number. "host ms" is the part in which the program queued the work: if it is
            nearly as long, the GPU waits for the program.
        """
        for _ in range(warm_up):
            function()
        self.wait()
        began = time.perf_counter()
        function()
        self.wait()
        one = time.perf_counter() - began
        n = max(1, min(n, int(at_most / max(one, 1e-6))))
        if not self.on_gpu:
            began = time.perf_counter()
            for _ in range(n):
                function()
            ms = 1e3 * (time.perf_counter() - began) / n
            return {"ms": ms, "host ms": ms, "calls": n}
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began = time.perf_counter()
        start.record()
        for _ in range(n):
            function()
        end.record()
        host = time.perf_counter() - began
        self.wait()
        return {"ms": start.elapsed_time(end) / n, "host ms": 1e3 * host / n, "calls": n}

    def seconds(self, function: Callable[[], Any]) -> float:
        """Return the time of one call."""
        self.wait()
        began = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - began

    def waits(self, function: Callable[[], Any]) -> dict[str, int] | None:
        """Count the calls that made the program wait for the GPU, by the place in the source."""
        if not self.on_gpu:
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [f"{w.filename}:{w.lineno}" for w in caught if WAITED in str(w.message)]
        root = str(Path(skvaecf.__file__).parents[1])
        return dict(Counter(place.removeprefix(root) for place in places))

    def kernels(self, function: Callable[[], Any]) -> dict[str, Any] | None:
        """Return the number of kernels of a call, their time, and those that take the longest."""
        if not self.on_gpu:
            return None
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
            function()
            self.wait()
        total, n = Counter(), Counter()
        for event in profiler.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                total[event.name[:90]] += event.time_range.elapsed_us()
                n[event.name[:90]] += 1
        longest = {name: [round(us, 1), n[name]] for name, us in total.most_common(15)}
        return {"number": sum(n.values()), "ms": sum(total.values()) / 1e3, "us, number": longest}

    def begin_peak(self) -> None:
        """Forget the peak of the memory so far."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """Return the peak of the memory since then, in MiB."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.on_gpu else None


def attempt(report: Report, name: str, function: Callable[[], Any]) -> Any:
    """Report the result of a function, or its error."""
    try:
        result = function()
    except Exception:
        error = traceback.format_exc()
        report(f"{name}, error", error[-3000:])
        if "CUDA error" in error or "AcceleratorError" in error:
            raise  # the process cannot use the GPU any more
        return None
    report(name, result)
    return result


# --- lower bounds


def bandwidth(clock: Clock, n_bytes: int) -> float:
    """Return the bytes per second that a copy reads and writes."""
    source = torch.empty(n_bytes // 4, dtype=torch.float32, device=clock.device).fill_(1)
    target = torch.empty_like(source)
    ms = clock.milliseconds(lambda: target.copy_(source), 20, at_most=1.0)["ms"]
    return 2 * source.numel() * 4 / (ms / 1e3)


def bounds(
    clock: Clock, shape: tuple[int, int, int, int], dtype: torch.dtype, n_parameters: int
) -> dict[str, float]:
    """Return the lower bounds of an update.

    Parameters
    ----------
    clock : Clock
    shape : tuple of int
        Rows of a mini-batch, items, units before the scores, units after the rows.
    dtype : torch.dtype
        Type of the products.
    n_parameters : int
        Number of parameters that are updated.

    Returns
    -------
    bounds : dict
        "products, ms": the three products of the scores (forward, and both gradients).
        "dense rows, ms": the two products of dense rows and the first layer, which the sparse rows
        replace. "floor, ms": the products of the scores, 32 bytes of memory traffic per parameter
        (Adam reads four numbers and writes three; the gradient is written), and 6 passes over the
        scores (the product writes them, the likelihood reads them, the gradient reads and writes
        them, two products read it).
    """
    rows, items, before, after = shape
    new = partial(torch.randn, device=clock.device, dtype=torch.float32)
    h, weight, scores = (
        new(*s).to(dtype) for s in ((rows, before), (before, items), (rows, items))
    )
    first, latent = (new(*s).to(dtype) for s in ((items, after), (rows, after)))

    def products() -> None:
        h @ weight
        scores @ weight.T
        h.T @ scores

    def of_rows() -> None:
        scores @ first
        scores.T @ latent

    n_bytes = 2**20 if clock.device.type == "cpu" else 2**30
    per_second = bandwidth(clock, n_bytes)
    ms = clock.milliseconds(products, 30, at_most=1.0)["ms"]
    traffic = 32 * n_parameters + 6 * scores.numel() * scores.element_size()
    return {
        "products, ms": ms,
        "dense rows, ms": clock.milliseconds(of_rows, 30, at_most=1.0)["ms"],
        "bandwidth, GB/s": per_second / 1e9,
        "floor, ms": ms + 1e3 * traffic / per_second,
    }


# --- updates of networks


class Updates:
    """The updates of a network on mini-batches of X, without validation."""

    def __init__(self, model: Any, X: csr_array, device: str) -> None:
        self.generator = torch.Generator(device).manual_seed(0)
        self.network = model._empty_network(X.shape, torch.device(device))
        self.x = InteractionBatch.from_csr(X, device)
        initialize(self.network, self.generator, self.x)
        self.dtype = check_precision("auto", torch.device(device))
        set_precision(self.network, self.dtype)
        self.network.train()
        self.sampling = model._sampling(self.network, self.x)
        players = model._players(self.network, self.x)
        self.game = Game(players, self.x, sampling=self.sampling)
        rows = torch.from_numpy(np.random.RandomState(0).permutation(X.shape[0]))
        self.size = self.game._starts(self.game.players[0]).step
        self.batches = [b for b in rows.split(self.size) if len(b) == self.size] or [rows]
        self.number = 0

    def make_one(self) -> None:
        """Let every player make its updates on the next mini-batch."""
        users = self.batches[self.number % len(self.batches)]
        self.number += 1
        for player, progress, own in by_batch(self.game.players, lambda _: iter([(0.5, users)])):
            self.game.update(player, progress, own, self.generator)
        self.game._begin_epoch()  # else the logged values would fill the memory

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sizes of the large products, see ``bounds``."""
        before = self.network.decoder.logits.weight.shape[0]
        encoder = self.network.encoder
        first = encoder.first if hasattr(encoder, "first") else encoder.from_items
        return len(self.batches[0]), self.n_items, before, first.weight.shape[1]

    @property
    def n_items(self) -> int:
        """Number of items in an update."""
        if self.sampling is all_items:
            return self.x.n_items
        n_present = len(self.x.items_of(self.batches[0]))
        return min(self.x.n_items, n_present + self.sampling.n_sampled_items)

    @property
    def n_parameters(self) -> int:
        """Number of parameters that the players update on a mini-batch."""
        of_items = getattr(self.sampling, "axes", {})
        parameters = [p for player in self.game.players for p in player.parameters]
        shares = [self.n_items / self.x.n_items if p in of_items else 1 for p in parameters]
        return int(sum(s * p.numel() for s, p in zip(shares, parameters, strict=True)))

    def captured(self, clock: Clock) -> dict[str, float] | None:
        """Time an update of the last player that was captured as a CUDA graph, on one mini-batch.

        It has no work of the program between the kernels, so it is what a step would take if its
        shapes did not change.
        """
        if not clock.on_gpu:
            return None
        from skvaecf.neural import Batch

        player = self.game.players[-1]
        users = self.batches[0]
        x = self.x.rows(users)
        own = users.to(self.x.offsets.device)
        optimizer = torch.optim.Adam(
            player.parameters, lr=player.learning_rate, fused=True, capturable=True
        )

        def step() -> None:
            # The rows anew, so that nothing computed from them is kept from an earlier step.
            rows = InteractionBatch(x.items, x.values, x.offsets, x.n_items)
            loss = player.loss(Batch(own, rows, 1, 0.5, self.generator))
            gradients = torch.autograd.grad(loss, player.parameters)
            for parameter, gradient in zip(player.parameters, gradients, strict=True):
                if gradient.stride() != parameter.stride():
                    gradient = torch.empty_like(parameter).copy_(gradient)
                parameter.grad = gradient
            optimizer.step()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph):
            step()
        return clock.milliseconds(graph.replay, 50, at_most=3.0)


def updates(name: str, X: csr_array, device: str, report: Report, seconds: float = 3.0) -> None:
    """Measure the updates of a network."""
    clock = Clock(device)
    clock.begin_peak()
    model = MODELS[name](device=device, random_state=0)
    steps = Updates(model, X, device)
    report("rows per update", len(steps.batches[0]))
    report("items per update", steps.n_items)
    report("components", model._n_components_of(*X.shape))
    report("updates per epoch", -(-X.shape[0] // steps.size))
    report("parameters", steps.n_parameters)
    report("type of the products", str(steps.dtype))
    attempt(report, "update", lambda: clock.milliseconds(steps.make_one, 60, at_most=seconds))
    report("peak of updates, MiB", clock.peak())
    waits = attempt(report, "waits in an update", lambda: clock.waits(steps.make_one))
    limits = partial(bounds, clock, steps.shape, steps.dtype, steps.n_parameters)
    attempt(report, "bounds", limits)
    attempt(report, "kernels of an update", lambda: clock.kernels(steps.make_one))
    if waits:
        report("update as a CUDA graph", "not possible: the update waits for the GPU")
    elif steps.sampling is not all_items:
        report("update as a CUDA graph", "not possible: the number of items changes")
    else:  # at last, because an error in it may leave the GPU in a bad state
        attempt(report, "update as a CUDA graph", lambda: steps.captured(clock))


# --- fits


def fit(name: str, X: csr_array, device: str, report: Report, n_epochs: int, n_users: int) -> None:
    """Measure a fit of a few epochs, and lists for some users."""
    clock = Clock(device)
    clock.begin_peak()
    epochs = {"EASE": {}}.get(name, {"max_epochs": n_epochs, "random_state": 0})
    if name in NEURAL:
        # As many validation users as Liang et al. have.
        epochs["validation_fraction"] = min(0.1, 10_000 / X.shape[0])
    model = MODELS[name](device=device, **epochs)
    seconds = clock.seconds(lambda: model.fit(X))
    history = getattr(model, "history_", [])
    report("fit, s", seconds)
    report("peak of the fit, MiB", clock.peak())
    report("epochs, s", [record["seconds"] for record in history])
    report("fit without epochs, s", seconds - sum(record["seconds"] for record in history))
    report("losses", [{k: v for k, v in r.items() if k != "seconds"} for r in history])

    def recommend() -> dict[str, float]:
        clock.begin_peak()
        rows = X[:n_users]
        model.recommend(rows[:600], k=100)
        took = clock.seconds(lambda: model.recommend(rows, k=100))
        return {"users/s": rows.shape[0] / took, "peak, MiB": clock.peak(), "s": took}

    attempt(report, "recommend", recommend)
    attempt(report, "waits in recommend", lambda: clock.waits(lambda: model.recommend(X[:600])))


def measure_neural(name: str, X: csr_array, device: str, report: Report, n_users: int) -> None:
    """Measure updates, and a fit of two epochs."""
    fit(name, X, device, report, 2, n_users)
    if Clock(device).on_gpu:
        torch.cuda.empty_cache()
    updates(name, X, device, report)


def measure_wmf(X: csr_array, device: str, report: Report, n_users: int) -> None:
    """Measure a fit of three epochs, beside the floor of its memory traffic."""
    fit("WMF", X, device, report, 3, n_users)
    clock = Clock(device)
    per_second = bandwidth(clock, 2**20 if device == "cpu" else 2**30)
    # Six passes over the entries on each side read a row of factors per entry: the residual, the
    # diagonal, and two in each of the two steps of conjugate gradients.
    n_components = number_of_components("auto", *X.shape, least=128)
    traffic = 2 * 6 * X.nnz * n_components * 4
    report("floor of an epoch, s", traffic / per_second)


def measure_ease(X: csr_array, device: str, report: Report, n_users: int) -> None:
    """Measure a fit, beside the time of its bare products."""
    fit("EASE", X, device, report, 0, n_users)
    clock, n = Clock(device), min(8192, X.shape[1])
    if clock.on_gpu:
        torch.cuda.empty_cache()
    A = torch.randn(n, n, device=clock.device)
    ms = clock.milliseconds(lambda: A @ A, 5, at_most=2.0)["ms"]
    report("product of 8192 x 8192, TFLOP/s", 2 * n**3 / ms / 1e9)
    # The factorisation and the inverse need n^3 multiplications, like one product.
    report("products of the fit, s", ms / 1e3 * (X.shape[1] / n) ** 3)


# --- other ways of computing the parts of an update


def alternatives(X: csr_array, device: str, report: Report) -> None:
    """Time the parts of an update that could be computed in another way on a GPU."""
    clock = Clock(device)
    size = min(500, X.shape[0])
    rows = X[np.random.RandomState(0).permutation(X.shape[0])[:size]]
    x = InteractionBatch.from_csr(rows, device)
    n_items, n_out = X.shape[1], 400
    W = torch.randn(n_items, n_out, device=device)
    g = torch.randn(size, n_out, device=device)
    report("entries", rows.nnz)
    report("longest row", int(np.diff(rows.indptr).max()))
    report("most users of an item", int(np.bincount(rows.indices).max()))

    def dense(dtype: torch.dtype) -> torch.Tensor:
        out = torch.zeros(size, n_items, dtype=dtype, device=device)
        return out.index_put_((x.users, x.items.long()), x.values.to(dtype))

    csr = torch.sparse_csr_tensor(x.offsets, x.items.long(), x.values, (size, n_items))
    by_item = x.transposed()
    transposed = torch.sparse_csr_tensor(
        by_item.offsets, by_item.items.long(), by_item.values, (n_items, size)
    )
    narrow = check_precision("auto", torch.device(device))
    fresh = lambda: InteractionBatch(x.items, x.values, x.offsets, x.n_items)  # noqa: E731
    users = torch.arange(size)
    whole = InteractionBatch.from_csr(X, device)
    ones = torch.zeros(size, device=device)
    functions = {
        "rows of a mini-batch": lambda: whole.rows(users),
        "row numbers": lambda: fresh().users,
        "sums of rows": lambda: x.sum(x.values),
        "sums of rows, index_put": lambda: ones.clone().index_put_(
            (x.users,), x.values, accumulate=True
        ),
        "sums of rows, index_add": lambda: ones.clone().index_add_(0, x.users, x.values),
        "first layer": lambda: x @ W,
        "first layer, sparse CSR": lambda: csr @ W,
        "first layer, dense float32": lambda: dense(torch.float32) @ W,
        f"first layer, dense {narrow}": lambda: dense(narrow) @ W.to(narrow),
        "transposed": x.transposed,
        "gradient of the first layer": lambda: by_item @ g,
        "gradient of the first layer, sparse CSR": lambda: transposed @ g,
        "gradient of the first layer, dense float32": lambda: dense(torch.float32).T @ g,
        f"gradient of the first layer, dense {narrow}": lambda: dense(narrow).T @ g.to(narrow),
    }
    for name, function in functions.items():
        attempt(report, name, lambda f=function: clock.milliseconds(f, 50, at_most=0.5)["ms"])


# --- searches and quality


def search(X: csr_array, device: str, report: Report, n_epochs: int) -> None:
    """Fit eight settings of MultVAE to 50,000 users in a grid search and watch the memory."""
    X, clock = X[:50_000], Clock(device)
    clock.begin_peak()
    before = torch.cuda.memory_allocated() / 2**20 if clock.on_gpu else None
    fold = np.full(X.shape[0], -1)
    fold[: X.shape[0] // 10] = 0
    model = MultVAE(device=device, max_epochs=n_epochs, early_stopping=False, random_state=0)
    grid = {"kl_weight": [0.1, 0.2, 0.3, 0.4], "dropout": [0.3, 0.5]}
    cv = PredefinedSplit(fold)
    searching = GridSearchCV(model, grid, scoring=ndcg_at_k, cv=cv, refit=False)
    report("8 settings, s", clock.seconds(lambda: searching.fit(X)))
    report("peak, MiB", clock.peak())
    report("memory before, MiB", before)
    if clock.on_gpu:
        report("memory after, MiB", torch.cuda.memory_allocated() / 2**20)
    report("scores", searching.cv_results_["mean_test_score"].tolist())
    report("seconds of each fit", searching.cv_results_["mean_fit_time"].tolist())
    report("seconds of each score", searching.cv_results_["mean_score_time"].tolist())


def quality(
    X: csr_array, device: str, report: Report, name: str, n_heldout: int, **params: Any
) -> None:
    """Record the validation score by time, and the test score."""
    data = strong_generalization_split(X, n_heldout)
    given = {"X_val": (data.validation_fold_in, data.validation_heldout)} if name in NEURAL else {}
    if name != "EASE":
        params["random_state"] = 0
    model, clock = MODELS[name](device=device, **params), Clock(device)
    seconds = clock.seconds(lambda: model.fit(data.train, **given))
    history = getattr(model, "history_", [])
    report("fit, s", seconds)
    report("epochs", len(history))
    before = seconds - sum(record["seconds"] for record in history)
    times = (before + np.cumsum([record["seconds"] for record in history])).tolist()
    report("seconds after each epoch", times)
    scores = [record.get("validation_ndcg") for record in history]
    report("validation NDCG@100", scores)
    if given:
        first = next(i for i, score in enumerate(scores) if score >= 0.995 * max(scores))
        report("seconds to .995 of the best", times[first])
    report("test NDCG@100", float(ndcg_at_k(model, data.test_fold_in, data.test_heldout)))


# --- the tests


def tests(report: Report, seconds: float) -> None:
    """Run the tests of a GPU in a process of their own."""
    root = Path(__file__).parents[2]
    files = ["tests/neural/test_on_a_gpu.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--tb=short", "-rfE", "--maxfail=25", "--durations=5", *files]
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=root, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        try:
            report("exit status", process.wait(timeout=seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            report("exit status", f"stopped after {seconds:.0f} s")
        report("seconds", time.perf_counter() - began)
        output.seek(0)
        lines = output.read()
    report("last line", lines.strip().splitlines()[-1] if lines.strip() else "")
    report("output", lines[-20_000:])


# --- the parts and the process that runs them

# Name of each part, its function, and the seconds after which it is stopped.
Parts = dict[str, tuple[Callable[[Report], None], float]]


def all_parts(device: str, quick: bool, gowalla: str | None) -> Parts:
    """Return the parts in the order in which they run: the most important ones first."""
    sizes = QUICK_SIZES if quick else SIZES
    n_users = 600 if quick else 20_000

    def on(size: str, function: Callable[..., None], *arguments: Any) -> Callable[[Report], None]:
        def run(report: Report) -> None:
            report("interactions", synthetic(*sizes[size]).nnz)
            function(*arguments, X=synthetic(*sizes[size]), device=device, report=report)

        return run

    def of_gowalla(report: Report, name: str) -> None:
        X = csr_array(load_npz(gowalla))
        if quick:
            few = {"max_epochs": 2} if name in NEURAL else {}
            quality(csr_array(X[:600, :300]), device, report, name, 100, **few)
        else:
            quality(X, device, report, name, 3000)

    parts: Parts = {"tests": (lambda report: tests(report, 118), 125)}
    for size in sizes:
        for name in NEURAL:
            function = partial(measure_neural, n_users=n_users)
            parts[f"{name}, {size}"] = on(size, function, name), 45
        parts[f"alternatives, {size}"] = on(size, alternatives), 25
        parts[f"WMF, {size}"] = on(size, partial(measure_wmf, n_users=n_users)), 40
        parts[f"EASE, {size}"] = on(size, partial(measure_ease, n_users=n_users)), 50
        if size == "ML-20M":
            parts[f"search, {size}"] = on(size, partial(search, n_epochs=1)), 60
            if gowalla:
                parts["quality of MultVAE"] = partial(of_gowalla, name="MultVAE"), 60
    if gowalla:
        for name in ("WMF", "EASE", "SIVAE", "VAEGAN", "MultVAE, all items"):
            parts[f"quality of {name}"] = partial(of_gowalla, name=name), 60
    return parts


def work(connection: Any, device: str, quick: bool, gowalla: str | None) -> None:
    """Run the parts whose names come through a connection, and send what they report."""
    warnings.filterwarnings("ignore", category=UserWarning)
    parts = all_parts(device, quick, gowalla)
    while (name := connection.recv()) is not None:
        try:
            parts[name][0](lambda key, value: connection.send((key, value)))
        except Exception:
            connection.send(("error", traceback.format_exc()[-4000:]))
        connection.send(None)


class Worker:
    """A process that runs parts; a new one is started if it does not answer."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.process: Any = None

    def run(self, name: str, seconds: float, report: Report) -> None:
        """Run a part, at most for some seconds."""
        context = multiprocessing.get_context("spawn")
        if self.process is None:
            self.connection, other = context.Pipe()
            self.process = context.Process(target=work, args=(other, *self.arguments), daemon=False)
            self.process.start()
            other.close()
        until = time.monotonic() + seconds
        failed = False
        try:
            self.connection.send(name)
            while True:
                if not self.connection.poll(max(0.0, until - time.monotonic())):
                    report("error", f"stopped after {seconds:.0f} s")
                    self.stop()
                    return
                message = self.connection.recv()
                if message is None:
                    break
                report(*message)
                failed |= message[0] == "error"
        except (EOFError, OSError) as error:
            report("error", f"the process ended: {error!r}")
            failed = True
        if failed:  # a part after an error of CUDA needs a new process
            self.stop()

    def end(self) -> None:
        """Let the process end."""
        if self.process is not None:
            self.connection.send(None)
            self.process.join(20)
            self.stop()

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def one_line(name: str, of: dict[str, Any]) -> str:
    """Return what is most important about a part."""
    cells = [f"{name:32} {of['seconds of the part']:6.1f} s "]
    if "update" in of and "bounds" in of:
        update, limits = of["update"], of["bounds"]
        cells.append(
            f"update {update['ms']:.2f} ms (host {update['host ms']:.2f}), products"
            f" {limits['products, ms']:.2f}, floor {limits['floor, ms']:.2f}, ratio"
            f" {update['ms'] / limits['floor, ms']:.2f}"
        )
    graph, waits = of.get("update as a CUDA graph"), of.get("waits in an update")
    if isinstance(graph, dict):
        cells.append(f"as a graph {graph['ms']:.2f} ms")
    if waits is not None:
        cells.append(f"{sum(waits.values())} waits")
    if of.get("epochs, s"):
        cells.append(f"epoch {statistics.median(of['epochs, s']):.2f} s")
    for key, unit in (("fit, s", "s"), ("8 settings, s", "s"), ("peak of the fit, MiB", "MiB")):
        if isinstance(of.get(key), float):
            cells.append(f"{key.split(',')[0]} {of[key]:,.1f} {unit}")
    if of.get("recommend"):
        cells.append(f"recommend {of['recommend']['users/s']:,.0f} users/s")
    for key in ("seconds to .995 of the best", "test NDCG@100", "last line"):
        if key in of:
            value = of[key]
            cells.append(f"{key} {value:.4f}" if isinstance(value, float) else str(value))
    errors = [key for key in of if key.endswith("error")]
    if errors:
        cells.append("ERROR: " + of[errors[0]].strip().splitlines()[-1][:150])
    return "; ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON file to write")
    parser.add_argument("--gowalla", help="users x items matrix, .npz")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small matrices")
    parser.add_argument("--parts", nargs="+", help="parts to run, by the beginning of their names")
    parser.add_argument("--seconds", type=float, default=460, help="time of all parts")
    arguments = parser.parse_args()
    began = time.monotonic()
    torch.zeros(1, device=arguments.device)  # an error if there is no such device
    print_machine(arguments.device)
    parts = all_parts(arguments.device, arguments.quick, arguments.gowalla)
    if arguments.device == "cpu":
        del parts["tests"]
    if arguments.parts:
        parts = {n: p for n, p in parts.items() if n.startswith(tuple(arguments.parts))}
    results: dict[str, Any] = {"machine": machine(arguments.device), "parts": {}}
    worker = Worker(arguments.device, arguments.quick, arguments.gowalla)
    for name, (_, at_most) in parts.items():
        results["parts"][name] = of_part = {}
        left = arguments.seconds - (time.monotonic() - began)
        if left < 5:
            of_part["error"] = "not run: no time was left"
        else:
            started = time.monotonic()
            worker.run(name, min(at_most, left), of_part.__setitem__)
        of_part["seconds of the part"] = time.monotonic() - started if left >= 5 else 0.0
        print(one_line(name, of_part), flush=True)
        arguments.out.write_text(json.dumps(plain(results), indent=1))
    worker.end()
    print(f"{time.monotonic() - began:.0f} s; all results are in {arguments.out}")


if __name__ == "__main__":
    main()
