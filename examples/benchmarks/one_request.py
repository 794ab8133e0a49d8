"""
Time of one request
===================

A service gets the events of one user and returns ten items: ``encoder.transform(events)``,
``recommend(X, k=10)``, ``encoder.to_frame(items)``. The script times each part and the bare
arithmetic of ``recommend``: the matrix-vector product of the scores and the choice of the ten
largest. The time of all parts should hardly exceed it.

Run it with ``python examples/benchmarks/one_request.py``. The matrix of EASE is filled with random
numbers, because a fit would take long. The other models are fitted for one epoch. A model that
needs more memory than there is, is left out: EASE needs 10 GB for 50,000 items. ``--busy 2`` lets
two other processes compute at the same time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from machine import print_machine
from scipy.sparse import csr_array

from skvaecf import EASE, WMF, InteractionEncoder, MultVAE

N_USERS, N_EVENTS = 1000, 20
PARTS = ("transform", "recommend", "to_frame", "arithmetic")


def make_log(n_items):
    """Return an encoder, the matrix of a log with three events per item, and one user's items."""
    random = np.random.default_rng(0)
    names = np.array([f"item-{i}" for i in range(n_items)])
    log = {"user": random.integers(N_USERS, size=3 * n_items), "item": np.tile(names, 3)}
    encoder = InteractionEncoder().fit(log)
    return encoder, encoder.transform(log), random.choice(names, N_EVENTS)


def ease(X, row):
    """Return an EASE with a random matrix, and its products for the user."""
    n_items = X.shape[1]
    matrix = np.empty((n_items, n_items), np.float32)
    np.random.default_rng(0).random(out=matrix, dtype=np.float32)
    model = EASE().fit(csr_array(X[:, :2]))
    model.item_similarity_, model.n_features_in_ = matrix, n_items
    rows, numbers = torch.from_numpy(matrix), torch.from_numpy(row.indices).long()[None]
    return model, lambda: torch.nn.functional.embedding_bag(numbers, rows, mode="sum")


def wmf(X, row):
    """Return a WMF, and its products for the user, by NumPy: MKL takes three times as long."""
    model = WMF(128, max_epochs=1, random_state=0).fit(X)
    p, Q = np.ones((1, 128), np.float32), model.item_factors_
    return model, lambda: torch.from_numpy(np.einsum("uc,ic->ui", p, Q))


def mult_vae(X, row):
    """Return a small Mult-VAE, and its products for the user."""
    model = MultVAE(64, init="random", max_epochs=1, early_stopping=False, random_state=0).fit(X)
    p, W = torch.ones(1, 64), model.network_.item_vectors().T.contiguous()
    return model, lambda: p @ W


MODELS = {"EASE": ease, "WMF": wmf, "MultVAE": mult_vae}


def median_ms(functions, n_runs=31):
    """Return the median time of each function, in milliseconds; they are called in turn."""
    times = [[] for _ in functions]
    for i in range(n_runs + 1):
        for function, of_function in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if i:  # the first round is not timed
                of_function.append(time.perf_counter() - start)
    return [1e3 * np.median(of_function) for of_function in times]


def request(name, n_items):
    """Time the parts of a request of one user."""
    encoder, X, items = make_log(n_items)
    events = {"user": np.zeros(N_EVENTS, int), "item": items}
    row = encoder.transform(events)
    model, products = MODELS[name](X, row)
    lists, scores = model.recommend(row, k=10, return_scores=True)
    calls = (
        partial(encoder.transform, events),
        partial(model.recommend, row, k=10),
        partial(encoder.to_frame, lists, scores, users=[0]),
        lambda: products().topk(10),
    )
    return median_ms(calls)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--items", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--busy", type=int, default=0, help="number of processes in endless loops")
    arguments = parser.parse_args()
    print_machine()
    print("milliseconds")
    with ExitStack() as loops:
        for _ in range(arguments.busy):
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            loops.callback(loop.kill)
        print_times(arguments)


def print_times(arguments):
    """Print a row of each model and number of items."""
    print(f"{'model':10}{'items':>11}" + "".join(f"{part:>12}" for part in PARTS))
    for n_items in arguments.items:
        for name in arguments.models:
            try:
                times = request(name, n_items)
            except MemoryError:
                print(f"{name:10}{n_items:>11,}  needs more memory than there is", flush=True)
                continue
            cells = "".join(f"{ms:>12.2f}" for ms in times)
            print(f"{name:10}{n_items:>11,}{cells}", flush=True)


if __name__ == "__main__":
    main()
