"""
Memory of fit and recommend
===========================

The script fits a linear ``MultVAE`` of 64 components, with the multinomial likelihood and without
decay, in 10 updates at three sizes, and recommends 10 items to 10,000 users. It prints the peak of
the resident memory, without that of the loaded libraries, and the values of the formulas in
``fit_bytes`` and ``recommend_bytes``. Each size runs in a new process. It works on Linux only.

Run it with ``python examples/benchmarks/memory.py``. With ``--large`` it has a million users,
100,000 items, 50 million interactions and 100 updates instead.
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
from machine import print_machine
from scipy.sparse import csr_array

from skvaecf import MultVAE
from skvaecf.neural._training import Game

# Users, items, interactions per user, updates.
SIZES = [(10_000, 10_000, 30, 10), (50_000, 50_000, 40, 10), (200_000, 100_000, 50, 10)]
LARGE = (1_000_000, 100_000, 50, 100)
# The model of the figures in docs/benchmarks.rst.
LINEAR = {
    "encoder_layer_sizes": (),
    "likelihood": "multinomial",
    "kl_weight": 0.5,
    "l2": 0.0,
    "learning_rate": 1e-3,
    "init": "random",
    "n_sampled_items": None,
    "learning_rate_schedule": "constant",
    "anneal_steps": "auto",
}


def fit_bytes(n_items, n_entries, n_parameters, batch_size=500):
    """Return the memory of a fit on a CPU, X included."""
    return (
        # Network, moving average, best epoch, gradients and the two averages of Adam.
        24 * n_parameters
        # X, its canonical form, the rows without the validation users, and these rows as tensors.
        + 32 * n_entries
        # Scores of a batch that are kept for the backward pass, at most 2**25.
        + 4 * min(batch_size * n_items, 2**25)
        # The part of the scores that is being computed; in validation, a block of scores.
        + 16 * max(2**23, 1024 * batch_size)
    )


def recommend_bytes(n_users, k, n_entries, n_parameters):
    """Return the memory of recommend on a CPU, X and the lists included."""
    # The last term is for the scores of a block of users, at most 2**23.
    return 4 * n_parameters + 8 * n_entries + 16 * k * n_users + 16 * 2**23


def make_rows(n_users, n_items, mean, seed=0):
    """Draw rows with a long-tailed popularity, about ``mean`` different items each."""
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
    """Return an entry of this process's memory status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def first(n):
    """Return a method for ``Game`` that ends every pass after n mini-batches."""
    whole = Game._pass
    return lambda *arguments: islice(whole(*arguments), n)


def measure(n_users, n_items, mean, n_steps):
    small = make_rows(1000, 1000, 10)  # loads all libraries
    MultVAE(4, max_epochs=1, **LINEAR).fit(small).recommend(small)
    libraries = resident("VmRSS")
    print(f"{n_users:,} users, {n_items:,} items; libraries {libraries:,.0f} MiB", flush=True)
    X = make_rows(n_users, n_items, mean)
    Game._pass = first(n_steps // 2)
    # Two epochs, because the copy of the best epoch is still there in the second one.
    model = MultVAE(64, max_epochs=2, random_state=0, **LINEAR)
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
    """Run a task; return its seconds and the peak memory of the process in MiB."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # returns freed memory to the system
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start = time.perf_counter()
    task()
    return time.perf_counter() - start, resident("VmHWM")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--large", action="store_true", help="a million users, 100 updates")
    parser.add_argument("--size", type=int, nargs=4, help="one size, in this process")
    arguments = parser.parse_args()
    if arguments.size:
        measure(*arguments.size)
        return
    print_machine()
    for size in [LARGE] if arguments.large else SIZES:
        subprocess.run([sys.executable, __file__, "--size", *map(str, size)], check=True)


if __name__ == "__main__":
    main()
