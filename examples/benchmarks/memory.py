"""
Memory of fit and recommend
===========================

Fits ``MultVAE`` at three sizes, recommends 10 items to 10,000 of its users, and prints the peak of
the resident memory of the process beside the formulas of ``fit_bytes`` and ``recommend_bytes``.
Each size has a process of its own. Linux only.

Run it with ``python examples/benchmarks/memory.py``; with ``--large`` it takes a million users,
100,000 items and 50 million interactions instead, and 100 updates.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from skvaecf import MultVAE, neural

# Users, items, interactions per user, components, updates.
SIZES = [(10_000, 10_000, 30, 32, 10), (50_000, 50_000, 50, 64, 10), (200_000, 100_000, 50, 64, 10)]
LARGE = (1_000_000, 100_000, 50, 64, 100)
BATCH = 1000


def fit_bytes(n_items, n_entries, n_parameters, batch_size):
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
    return 4 * n_parameters + 8 * n_entries + 16 * k * n_users + 12 * 2**23


def make_rows(n_users, n_items, mean, seed=0):
    """Rows with a long-tailed popularity, about ``mean`` different items each."""
    random = np.random.default_rng(seed)
    law = (np.arange(1, n_items + 1) ** -0.8).cumsum()
    counts, items = [], []
    for start in range(0, n_users, 20_000):
        n = min(20_000, n_users - start)
        draws = random.geometric(1 / (1.1 * mean), n)
        rows = np.arange(n).repeat(draws)
        drawn = np.searchsorted(law / law[-1], random.random(len(rows)))
        rows, columns = np.divmod(np.unique(rows * n_items + drawn), n_items)
        counts.append(np.bincount(rows, minlength=n))
        items.append(columns.astype(np.int32))
    indptr = np.append(0, np.concatenate(counts).cumsum()).astype(np.int32)
    indices = np.concatenate(items)
    return csr_array((np.ones(len(indices), np.float32), indices, indptr), (n_users, n_items))


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def resident(key="VmHWM"):
    """Resident memory of this process in MiB, at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def first(n):
    """Give the first n mini-batches of an epoch only."""
    whole = neural.shuffled_minibatches

    def shuffled_minibatches(*arguments):
        minibatches = whole(*arguments)
        return lambda: islice(minibatches(), n)

    return shuffled_minibatches


def measure(n_users, n_items, mean, n_components, n_steps):
    small = make_rows(1000, 1000, 10)  # so that all libraries are loaded
    MultVAE(4, encoder_layer_sizes=(), max_epochs=1).fit(small).recommend(small)
    libraries = resident("VmRSS")
    X = make_rows(n_users, n_items, mean)
    neural.shuffled_minibatches = first(n_steps)
    model = MultVAE(
        n_components,
        encoder_layer_sizes=(),
        batch_size=BATCH,
        max_epochs=1,
        validation_fraction=0.01,
        random_state=0,
    )
    n_parameters = n_items * (3 * n_components + 1) + 2 * n_components
    print(f"{n_users:,} users, {n_items:,} items, {X.nnz:,} interactions,")
    print(f"{n_parameters:,} parameters; {libraries:,.0f} MiB are the libraries, to be added")
    forget_peak()
    start = time.perf_counter()
    model.fit(X)
    report("fit", fit_bytes(n_items, X.nnz, n_parameters, BATCH), start)
    X = X[:10_000]
    forget_peak()
    start = time.perf_counter()
    model.recommend(X, k=10)
    report("recommend", recommend_bytes(X.shape[0], 10, X.nnz, n_parameters), start)


def report(what, formula, start):
    seconds = time.perf_counter() - start
    print(f"  {what:10}peak {resident():8,.0f} MiB, formula {formula / 2**20:8,.0f} MiB,", end="")
    print(f" {seconds:5,.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--size", type=int, nargs=5, help="one size, in this process")
    arguments = parser.parse_args()
    if arguments.size:
        measure(*arguments.size)
        return
    for size in [LARGE] if arguments.large else SIZES:
        subprocess.run([sys.executable, __file__, "--size", *map(str, size)], check=True)


if __name__ == "__main__":
    main()
