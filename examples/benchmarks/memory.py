"""
Memory of fit and recommend
===========================

Fits a linear ``MultVAE`` of 64 components in 10 updates at three sizes, recommends 10 items to
10,000 users, and prints the peak of the resident memory, without that of the loaded libraries,
beside the formulas of ``fit_bytes`` and ``recommend_bytes``. Each size has a process of its own.
Linux only.

Run it with ``python examples/benchmarks/memory.py``; with ``--large`` it takes a million users,
100,000 items and 50 million interactions instead, and 100 updates.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from skvaecf import MultVAE, neural

# Users, items, interactions per user, updates.
SIZES = [(10_000, 10_000, 30, 10), (50_000, 50_000, 40, 10), (200_000, 100_000, 50, 10)]
LARGE = (1_000_000, 100_000, 50, 100)


def fit_bytes(n_items, n_entries, n_parameters, batch_size=500):
    """Memory of a fit on a CPU, X counted in."""
    return (
        # Network, moving average, best epoch, gradients, and two averages of Adam.
        24 * n_parameters
        # X, its canonical form, the rows without validation users, and these as tensors.
        + 32 * n_entries
        # Scores of a batch that are kept for the backward pass, at most 2**25.
        + 4 * min(batch_size * n_items, 2**25)
        # A part of the scores on its way; while validating, a block of them.
        + 16 * max(2**23, 1024 * batch_size)
    )


def recommend_bytes(n_users, k, n_entries, n_parameters):
    """Memory of recommend on a CPU, X and the lists counted in."""
    # Scores of a block of users, at most 2**23, are the last term.
    return 4 * n_parameters + 8 * n_entries + 16 * k * n_users + 16 * 2**23


def make_rows(n_users, n_items, mean, seed=0):
    """Rows with a long-tailed popularity, about ``mean`` different items each."""
    random = np.random.default_rng(seed)
    counts, items = [], []
    for start in range(0, n_users, 20_000):
        n = min(20_000, n_users - start)
        draws = random.geometric(1 / (1.03 * mean), n)
        rows = np.arange(n).repeat(draws)
        drawn = (n_items * random.random(len(rows)) ** 3).astype(np.int64)
        places = np.sort(rows * n_items + drawn)
        rows, columns = np.divmod(places[np.diff(places, prepend=-1) > 0], n_items)
        counts.append(np.bincount(rows, minlength=n))
        items.append(columns.astype(np.int32))
    indptr = np.append(0, np.concatenate(counts).cumsum()).astype(np.int32)
    indices = np.concatenate(items)
    return csr_array((np.ones(len(indices), np.float32), indices, indptr), (n_users, n_items))


def resident(key):
    """Resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def first(n):
    """Cut every epoch after n mini-batches."""
    whole = neural.shuffled_minibatches

    def shuffled_minibatches(*arguments):
        minibatches = whole(*arguments)
        return lambda: islice(minibatches(), n)

    return shuffled_minibatches


def measure(n_users, n_items, mean, n_steps):
    small = make_rows(1000, 1000, 10)  # so that all libraries are loaded
    MultVAE(4, encoder_layer_sizes=(), max_epochs=1).fit(small).recommend(small)
    libraries = resident("VmRSS")
    print(f"{n_users:,} users, {n_items:,} items; libraries {libraries:,.0f} MiB", flush=True)
    X = make_rows(n_users, n_items, mean)
    neural.shuffled_minibatches = first(n_steps // 2)
    # The best epoch is kept from the second one on, so that one would not show all.
    model = MultVAE(64, encoder_layer_sizes=(), max_epochs=2, random_state=0)
    model.set_params(validation_fraction=0.01)
    seconds, peak = used(lambda: model.fit(X))
    n_parameters = sum(p.numel() for p in model.network_.parameters())
    print(f"  {X.nnz:,} interactions, {n_parameters:,} parameters")
    formula = fit_bytes(n_items, X.nnz, n_parameters)
    row = "  {:10}peak {:7,.0f} MiB, formula {:7,.0f} MiB, {:5,.0f} s"
    print(row.format("fit", peak - libraries, formula / 2**20, seconds), flush=True)
    X = X[:10_000]
    seconds, peak = used(lambda: model.recommend(X, k=10))
    formula = recommend_bytes(X.shape[0], 10, X.nnz, n_parameters)
    print(row.format("recommend", peak - libraries, formula / 2**20, seconds), flush=True)


def used(task):
    """Seconds of a task and peak of the process in MiB."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is no part of it
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak until here
    start = time.perf_counter()
    task()
    return time.perf_counter() - start, resident("VmHWM")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--size", type=int, nargs=4, help="one size, in this process")
    arguments = parser.parse_args()
    if arguments.size:
        measure(*arguments.size)
        return
    for size in [LARGE] if arguments.large else SIZES:
        subprocess.run([sys.executable, __file__, "--size", *map(str, size)], check=True)


if __name__ == "__main__":
    main()
