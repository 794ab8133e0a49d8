"""The parts of examples/benchmarks/gpu.py run on a CPU, on tiny matrices."""

from __future__ import annotations

import json

import gpu
import numpy as np
import pytest
import torch
from scipy.sparse import save_npz

from skvaecf.datasets import make_interactions

TINY = {"ML-20M": (150, 40, 1500), "Gowalla": (80, 60, 700)}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs parts in this process and returns what they report."""
    monkeypatch.setattr(gpu, "QUICK_SIZES", TINY)
    milliseconds = gpu.Clock.milliseconds
    monkeypatch.setattr(
        gpu.Clock, "milliseconds", lambda self, function, n, **_: milliseconds(self, function, 2, 1)
    )
    path = tmp_path / "gowalla.npz"
    save_npz(path, make_interactions(400, 60, random_state=0))

    class Connection:
        def __init__(self, *names):
            self.names, self.results, self.sent = iter([*names, None]), [], {}

        def recv(self):
            return next(self.names)

        def send(self, message):
            if message is None:
                self.results.append(self.sent)
                self.sent = {}
            else:
                key, value = message
                self.sent[key] = value

    def run_parts(*names):
        connection = Connection(*names)
        gpu.work(connection, "cpu", True, str(path))
        json.dumps(gpu.plain(connection.results), allow_nan=False)
        return connection.results

    return run_parts


def errors(results):
    return [part[key] for part in results for key in part if key.endswith("error")]


def test_synthetic_interactions_have_the_size_that_is_asked_for():
    X = gpu.synthetic(800, 2000, 12_000)
    assert X.shape == (800, 2000)
    assert X.nnz == 12_000
    assert X.has_canonical_format
    popularity = np.sort(np.bincount(X.indices))[::-1]
    assert popularity[:200].sum() > 1.2 * popularity[-1000:].sum()


@pytest.mark.parametrize(
    "names",
    [
        ["MultVAE, multinomial, Gowalla"],
        ["alternatives, Gowalla", "WMF, ML-20M", "EASE, Gowalla"],
        ["quality of MultVAE", "quality of EASE"],
    ],
    ids=["networks", "closed forms", "quality"],
)
def test_the_parts_run(names, run):
    results = run(*names)
    assert len(results) == len(names)
    assert errors(results) == []
    for name, part in zip(names, results, strict=True):
        assert gpu.one_line(name, part | {"seconds of the part": 1.0}).startswith(name)
        if "MultVAE, multi" in name:
            # The encoder has n_items x 400 + 400, the decoder 200 x n_items + n_items numbers.
            assert part["parameters"] == 60 * 400 + 400 + 200 * 60 + 60
            assert part["update"]["ms"] > 0
            assert part["bounds"]["floor, ms"] > part["bounds"]["products, ms"]
        if name.startswith("quality"):
            assert 0 < part["test NDCG@100"] < 1


def test_an_error_of_a_part_is_reported_and_the_next_part_runs(run, monkeypatch):
    monkeypatch.setattr(gpu, "bandwidth", lambda *_: 1 / 0)
    of_wmf, of_ease = run("WMF, Gowalla", "EASE, Gowalla")
    assert "ZeroDivisionError" in of_wmf["error"]
    assert of_wmf["fit, s"] > 0
    assert errors([of_ease]) == []


def test_an_error_of_one_figure_does_not_hide_the_others():
    reported = {}
    assert gpu.attempt(reported.__setitem__, "half", lambda: 1 / 2) == 0.5
    assert gpu.attempt(reported.__setitem__, "none", lambda: 1 / 0) is None
    assert reported["half"] == 0.5
    assert "ZeroDivisionError" in reported["none, error"]

    def fail():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError):  # so that a new process is started
        gpu.attempt(reported.__setitem__, "lost", fail)


def test_results_can_be_written():
    value = {"a": np.float32(0.5), "b": [float("nan"), (1, np.int64(2))], 3: None}
    assert gpu.plain(value) == {"a": 0.5, "b": ["nan", [1, 2]], "3": None}
    assert torch.float32 not in gpu.plain(value).values()
