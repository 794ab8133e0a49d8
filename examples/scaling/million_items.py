"""
A million items and a million users
===================================

The script draws interactions of a million users with a million items, about 20 each. Users and
items belong to clusters: half of a user's interactions are with items of the user's own cluster,
the others with any items. ``ELSA`` trains on these users and recommends 100 items to 1,000 others.
The script prints the history of the fit, the users per second of ``recommend``, the NDCG@100 beside
that of the popular items, and the peak of the resident memory. A float32 matrix of items x items
would take 4 TB.

Run it with ``OMP_NUM_THREADS=2 python examples/scaling/million_items.py``. It works on Linux only.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from scipy.sparse import csr_array

from skvaecf import ELSA, Popularity, ndcg_at_k, split_interactions

N_HELDOUT = 1_000


def make_clusters(n_users, n_items, n_clusters, mean, seed=0):
    """Draw rows of about ``mean`` items, with int32 indices and a long-tailed popularity."""
    random = np.random.default_rng(seed)
    size = n_items // n_clusters
    parts, counts = [], []
    for start in range(0, n_users, 50_000):
        n = min(50_000, n_users - start)
        draws = 5 + random.geometric(1 / (mean - 5), n)
        rows = np.arange(n).repeat(draws)
        rank = random.random(len(rows)) ** 2
        # Item number i belongs to the cluster i % n_clusters.
        cluster = random.integers(n_clusters, size=n)[rows]
        own = (rank * size).astype(np.int64) * n_clusters + cluster
        anywhere = (rank * n_items).astype(np.int64)
        item = np.where(random.random(len(rows)) < 0.5, own, anywhere)
        places = np.unique(rows * n_items + item)
        rows, items = np.divmod(places, n_items)
        counts.append(np.bincount(rows, minlength=n))
        parts.append(items.astype(np.int32))
    indptr = np.append(0, np.concatenate(counts).cumsum()).astype(np.int32)
    indices = np.concatenate(parts)
    return csr_array((np.ones(len(indices), np.float32), indices, indptr), (n_users, n_items))


def peak():
    """Return the peak of the resident memory in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=1_000)
    parser.add_argument("--components", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()

    X = make_clusters(options.users + N_HELDOUT, options.items, options.clusters, mean=20)
    train, others = X[: options.users], X[options.users :]
    fold_in, heldout = split_interactions(others, random_state=0)
    del X
    print(f"{train.shape[0]:,} users, {train.shape[1]:,} items, {train.nnz:,} interactions")
    print(f"peak memory after drawing them: {peak():.1f} GiB", flush=True)

    model = ELSA(options.components, max_epochs=options.epochs, random_state=0)
    started = time.perf_counter()
    model.fit(train, X_val=(fold_in, heldout))
    print(f"fit: {time.perf_counter() - started:.0f} s, peak memory {peak():.1f} GiB")
    for record in model.history_:
        print({name: round(value, 4) for name, value in record.items()})

    started = time.perf_counter()
    model.recommend(fold_in, k=100)
    seconds = time.perf_counter() - started
    print(f"recommend: {N_HELDOUT / seconds:.0f} users per second")
    print(f"NDCG@100: {ndcg_at_k(model, fold_in, heldout):.4f}")
    print(f"NDCG@100 of Popularity: {ndcg_at_k(Popularity().fit(train), fold_in, heldout):.4f}")
    print(f"peak memory: {peak():.1f} GiB")


if __name__ == "__main__":
    main()
