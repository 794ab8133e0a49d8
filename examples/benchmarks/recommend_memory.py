"""
Memory of recommend
===================

The script recommends 10 of 20,000 items to an increasing number of users, whose rows have none to
several hundred items. It prints the peak of the resident memory and the sizes of the inputs and
results.

Run it with ``python examples/benchmarks/recommend_memory.py``. With ``--users 1000000``, the dense
scores would take 80 GB; this takes about ten minutes on two cores with AVX2.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from machine import print_machine
from scipy.sparse import csr_array

from skvaecf import MultVAE

# The model of the figures in docs/benchmarks.rst.
LINEAR = {
    "encoder_layer_sizes": (),
    "likelihood": "multinomial",
    "kl_weight": 0.5,
    "l2": 0.0,
    "learning_rate": 1e-3,
    "init": "random",
    "learning_rate_schedule": "constant",
    "anneal_steps": "auto",
}


def make_rows(n_users, n_items, seed=0):
    """Draw rows: one user in ten has no item, the others have 1 to several hundred."""
    random = np.random.RandomState(seed)
    counts = random.geometric(1 / 30, n_users) * (random.rand(n_users) > 0.1)
    indptr = np.concatenate([[0], counts.cumsum()])
    items = random.randint(n_items, size=indptr[-1], dtype=np.int32)
    return csr_array((np.ones(len(items), np.float32), items, indptr), shape=(n_users, n_items))


def peak():
    """Return the peak of the resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--items", type=int, default=20_000)
    arguments = parser.parse_args()
    print_machine()
    X = make_rows(2_000, arguments.items)
    model = MultVAE(64, max_epochs=1, random_state=0, **LINEAR).fit(X)
    print(f"after fit: peak {peak():,.0f} MiB")
    for n_users in arguments.users:
        X = make_rows(n_users, arguments.items, seed=1)
        size = (X.data.nbytes + X.indices.nbytes + X.indptr.nbytes) / 2**20
        before, start = peak(), time.perf_counter()
        items = model.recommend(X, k=10)
        seconds = time.perf_counter() - start
        print(
            f"{n_users:>9,} users: X {size:,.0f} MiB, lists {items.nbytes / 2**20:,.0f} MiB,"
            f" peak before {before:,.0f} MiB, after {peak():,.0f} MiB, {seconds:,.0f} s"
            f" ({n_users / seconds:,.0f} users/s)"
        )


if __name__ == "__main__":
    main()
