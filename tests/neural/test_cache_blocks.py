"""Reductions over the items in blocks of rows, and the threads that compute them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import seeded

from skvaecf._threads import in_threads
from skvaecf.datasets import make_interactions
from skvaecf.neural import InteractionBatch, likelihood_class
from skvaecf.neural._cache_blocks import by_block, cached_blocks, reduction_dtype
from skvaecf.neural._layers import FactoredLogits


@pytest.mark.parametrize(
    ("n_rows", "n_items", "n_blocks"),
    [
        (10, 100, 1),
        (6, 2**18, 6),
        (6, 2**18 // 4, 2),  # four rows, then two
        (3, 2**18 + 1, 3),  # a row alone is longer than a block
        (0, 100, 1),
    ],
)
def test_blocks_hold_at_most_a_mebibyte_and_cover_all_rows(n_rows, n_items, n_blocks):
    logits = torch.empty(1).expand(n_rows, n_items)  # takes no memory
    blocks = list(cached_blocks(logits))
    assert len(blocks) == n_blocks
    rows = [row for block in blocks for row in range(n_rows)[block]]
    assert rows == list(range(n_rows))
    assert all(len(range(n_rows)[b]) * n_items <= max(2**18, n_items) for b in blocks)


def test_other_devices_take_all_rows_at_once():
    assert list(cached_blocks(torch.empty(10_000, 2**18, device="meta"))) == [slice(0, 10_000)]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_reductions_are_made_in_float32_or_wider(dtype, expected):
    assert reduction_dtype(torch.empty(1, dtype=dtype)) == expected
    seen = []

    def add(block, column):
        seen.append(block.dtype)
        return block.add_(column).sum(dim=1, keepdim=True)

    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype)
    sums = by_block(add, logits, torch.tensor([[10.0], [20.0]]))
    assert seen == [expected]
    assert sums.tolist() == [[23.0], [47.0]]
    assert logits.tolist() == [[1.0, 2.0], [3.0, 4.0]]  # the block was a copy


def test_each_block_has_the_columns_of_its_rows(monkeypatch):
    def two_rows_each(logits):
        return (slice(start, start + 2) for start in range(0, len(logits), 2))

    monkeypatch.setattr("skvaecf.neural._cache_blocks.cached_blocks", two_rows_each)
    logits, column = torch.arange(10.0).reshape(5, 2), torch.arange(5.0)[:, None]
    products = by_block(lambda block, c: (block * c).sum(dim=1), logits, column)
    assert products.tolist() == [0.0, 5.0, 18.0, 39.0, 68.0]


def test_rows_are_selected():
    logits, column = torch.arange(10.0).reshape(5, 2), torch.arange(5.0)[:, None]
    rows = torch.tensor([4, 1])
    products = by_block(lambda block, c: (block * c).sum(dim=1), logits, column, rows=rows)
    assert products.tolist() == [68.0, 5.0]


# --- threads


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


CPU = torch.device("cpu")


def place(_):
    """Return the thread and the number of threads that torch uses in it."""
    return threading.get_ident(), torch.get_num_threads()


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_results_are_in_the_order_of_the_arguments(n_threads):
    torch.set_num_threads(n_threads)
    try:
        assert in_threads(lambda i: i**2, range(100), CPU) == [i**2 for i in range(100)]
        assert in_threads(place, [], CPU) == []
    finally:
        torch.set_num_threads(1)


def test_one_thread_is_the_calling_thread():
    assert set(in_threads(place, range(3), CPU)) == {(threading.get_ident(), 1)}


@pytest.mark.usefixtures("two_threads")
def test_one_argument_or_another_device_is_the_calling_thread():
    here = {(threading.get_ident(), 2)}
    assert set(in_threads(place, [0], CPU)) == here
    assert set(in_threads(place, range(3), torch.device("meta"))) == here


@pytest.mark.usefixtures("two_threads")
def test_two_threads_run_at_the_same_time_and_use_one_thread_each():
    both_are_here = threading.Barrier(2)

    def meet(i):
        both_are_here.wait(timeout=30)
        return place(i)

    (first, its_threads), (second, others_threads) = in_threads(meet, range(2), CPU)
    assert len({first, second, threading.get_ident()}) == 3
    assert its_threads == others_threads == 1
    # Neither this thread nor a new one has this limit.
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


@pytest.mark.usefixtures("two_threads")
def test_calls_inside_a_call_stay_in_its_thread():
    def outer(i):
        return {place(i), *in_threads(place, range(5), CPU)}

    assert [len(places) for places in in_threads(outer, range(8), CPU)] == [1] * 8


@pytest.mark.usefixtures("two_threads")
def test_several_threads_may_call_at_the_same_time():
    def call(start):
        return in_threads(lambda i: start + i, range(50), CPU)

    def in_two_threads(start):
        torch.set_num_threads(2)
        return call(start)

    with ThreadPoolExecutor(4) as pool:
        for start, results in enumerate(pool.map(in_two_threads, range(20))):
            assert results == [start + i for i in range(50)]


@pytest.mark.usefixtures("two_threads")
def test_an_exception_reaches_the_caller_and_ends_the_work():
    called = []

    def fail(i):
        called.append(i)
        if i == 3:
            raise ZeroDivisionError("of argument 3")
        time.sleep(1e-3)

    with pytest.raises(ZeroDivisionError, match="of argument 3"):
        in_threads(fail, range(1000), CPU)
    assert len(called) < 1000
    assert in_threads(abs, [-1, 2, -3], CPU) == [1, 2, 3]  # the threads work on


@pytest.mark.usefixtures("two_threads")
def test_modes_of_torch_are_those_of_the_caller():
    def modes(_):
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        )

    assert set(in_threads(modes, range(9), CPU)) == {(True, False, False)}
    with torch.no_grad():
        assert set(in_threads(modes, range(9), CPU)) == {(False, False, False)}
    with torch.inference_mode():
        assert set(in_threads(modes, range(9), CPU)) == {(False, True, False)}
    with torch.autocast("cpu"):
        assert set(in_threads(modes, range(9), CPU)) == {(True, False, True)}


@pytest.mark.usefixtures("two_threads")
def test_tensors_of_the_work_are_freed():
    tensor = torch.ones(3)
    alive = weakref.ref(tensor)
    in_threads(lambda i, tensor=tensor: tensor.sum() + i, range(9), CPU)
    del tensor
    gc.collect()
    assert alive() is None


IN_NEW_PROCESS = """
import os, threading, time, torch
from skvaecf._threads import in_threads

def squares():
    torch.set_num_threads(2)
    return in_threads(lambda i: i**2, range(9), torch.device("cpu"))

expected = [i**2 for i in range(9)]
assert squares() == expected
"""
FORKED = """
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(squares() != expected)
"""
AFTER_THE_MAIN_THREAD = """
def later():
    threading.main_thread().join()
    print(squares())

threading.Thread(target=later).start()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_starts_its_own_threads():
    subprocess.run([sys.executable, "-c", IN_NEW_PROCESS + FORKED], check=True, timeout=60)


def test_a_thread_that_outlives_the_main_thread_can_use_others():
    code = IN_NEW_PROCESS + AFTER_THE_MAIN_THREAD
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.strip() == str([i**2 for i in range(9)])


@pytest.mark.parametrize("likelihood", ["bernoulli", "multinomial", "n-choose-k"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_likelihoods_are_the_same_in_any_number_of_threads(likelihood, dtype):
    X = make_interactions(n_users=300, n_items=4000, random_state=0)
    x, generator = InteractionBatch.from_csr(X), seeded()
    h, weight = (torch.randn(s, generator=generator) for s in [(300, 8), (8, 4000)])
    factors = [p.requires_grad_() for p in (h.to(dtype), weight, torch.zeros(4000))]
    dense = (3 * torch.randn(300, 4000, generator=generator)).to(dtype).requires_grad_()
    results = []
    for n_threads in (1, 2, 4):
        torch.set_num_threads(n_threads)
        try:
            for logits, inputs in [(FactoredLogits(*factors), factors), (dense, [dense])]:
                value = likelihood_class(likelihood)(logits).log_prob(x)
                results.append([value, *torch.autograd.grad(value.sum(), inputs)])
        finally:
            torch.set_num_threads(1)
    of_factors, of_dense = results[::2], results[1::2]
    for first, *others in (of_factors, of_dense):
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
