"""Memory of fit and recommend, counted by torch's allocator and by Python's."""

from __future__ import annotations

import runpy
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import seeded
from torch.profiler import ProfilerActivity, profile

from skvaecf import MultVAE
from skvaecf.neural import InteractionBatch, likelihood_class
from skvaecf.neural._layers import FactoredLogits

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples/benchmarks/memory.py"))
MIB = 2**20


def peak(task):
    """Return the most bytes that tensors, and that Python objects, held at one time, added up."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        tracemalloc.start()
        task()
        _, arrays = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return int(np.cumsum([e.nbytes() for e in events]).max()) + arrays


def test_peak_counts_memory_that_is_held_at_the_same_time():
    def task():
        for _ in range(3):
            a = torch.zeros(MIB)
            b = a + 1
            del a, b
        np.zeros(3 * MIB, dtype=np.int8)

    assert peak(task) == pytest.approx(11 * MIB, rel=0.01)


@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_by_all_items_is_never_held(likelihood, dtype, monkeypatch):
    monkeypatch.setattr("skvaecf.neural._likelihoods._KEPT", 0)
    X = EXAMPLE["make_rows"](500, 40_000, 10)
    x = InteractionBatch.from_csr(X)
    generator = seeded()
    h, weight = (torch.randn(s, generator=generator) for s in [(500, 2), (2, 40_000)])
    inputs = [p.requires_grad_() for p in (h, weight, torch.zeros(40_000))]

    def step():
        factored = FactoredLogits(h.to(dtype), *inputs[1:])
        value = likelihood_class(likelihood)(factored).log_prob(x)
        torch.autograd.grad(value.sum(), inputs)

    # 2 million of the 20 million scores are held at a time, with their gradients and copies.
    assert peak(step) < 4 * 2**21 * dtype.itemsize < 500 * 40_000 * dtype.itemsize


def test_fit_and_recommend_stay_within_the_formulas():
    for n_items, n_components in [(2_000, 10), (20_000, 10), (20_000, 90)]:
        X = EXAMPLE["make_rows"](200, n_items, 20)
        # The best epoch is kept from the second one on.
        model = MultVAE(n_components, max_epochs=2, random_state=0)
        model.set_params(likelihood="multinomial", n_sampled_items=None)
        of_fit = peak(lambda: model.fit(X))
        n_parameters = sum(p.numel() for p in model.network_.parameters())
        assert of_fit < EXAMPLE["fit_bytes"](n_items, X.nnz, n_parameters)
        of_recommend = 4 * n_parameters + peak(lambda: model.recommend(X))
        assert of_recommend < EXAMPLE["recommend_bytes"](200, 10, X.nnz, n_parameters)
    # Where the parameters need almost all of the memory there are six copies of them, not seven. (A
    # penalty needs the gradient of one weight matrix more.)
    of_fit = peak(lambda: model.set_params(l2=0.0).fit(X))
    assert 24 * n_parameters < of_fit < 26 * n_parameters
    # An update of a sample holds four copies of the parameters of its items, and no gradient. The
    # 50 users of a mini-batch have at most 1,200 different items.
    of_fit = peak(lambda: model.set_params(n_sampled_items=500).fit(X))
    assert of_fit < (20 + 16 * 1_700 / X.shape[1] + 0.5) * n_parameters
