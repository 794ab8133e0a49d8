"""
Serve factors from an index of neighbours
=========================================

A factor model scores an item by the product of two short vectors, so its best items are the nearest
neighbours of the user's vector. An approximate index finds most of them without scoring all items.
The script serves test users one at a time, as a server does, with exact scores and with the index,
at increasing effort. It prints the users per second of processor time, and the share of the exact
ten items that the index finds::

    pip install ".[serving]"
    python examples/serving/ann.py
    python examples/serving/ann.py --data FILE.npz --unobserved-weight 0.02 --l2 0.002

``FILE.npz`` is a users x items matrix written by ``scipy.sparse.save_npz``.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, load_npz
from usearch.index import Index

from skvaecf import WMF, UserSplitter
from skvaecf.datasets import load_movielens_small

K = 10


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--data", type=Path, help="users x items matrix, .npz; default: MovieLens small"
    )
    parser.add_argument("--n-components", type=int, default=64)
    parser.add_argument("--unobserved-weight", type=float, default=0.3)
    parser.add_argument("--l2", type=float, default=0.008)
    parser.add_argument("--n-users", type=int, default=1000, help="largest number of test users")
    return parser.parse_args()


def exact(items, user, seen):
    """Return the best K items that the user does not have, from the scores of all items."""
    scores = items @ user
    scores[seen] = -np.inf
    best = np.argpartition(-scores, K)[:K]
    return best[np.argsort(-scores[best])]


def approximate(index, user, seen):
    """Return the best K items from the index, without the user's items, which it finds, too."""
    found = index.search(user, K + len(seen)).keys
    return found[~np.isin(found, seen)][:K]


def serve(find, users, X):
    """Find the lists of all users, one user at a time; return them and the users per second."""
    seen = np.split(X.indices, X.indptr[1:-1])
    start = time.process_time()
    lists = [find(*user) for user in zip(users, seen, strict=True)]
    return lists, len(users) / (time.process_time() - start)


def recall(lists, expected):
    """Return the share of the expected items that are in the lists."""
    return np.mean([len(np.intersect1d(*pair)) for pair in zip(lists, expected, strict=True)]) / K


def main():
    arguments = parse_arguments()
    X = csr_array(load_npz(arguments.data)) if arguments.data else load_movielens_small().data
    train, test = next(UserSplitter(n_splits=1, test_size=0.1, random_state=0).split(X))
    test = test[: arguments.n_users]
    model = WMF(
        arguments.n_components,
        unobserved_weight=arguments.unobserved_weight,
        l2=arguments.l2,
        max_epochs=5,  # enough to try the index
        random_state=0,
    ).fit(X[train])
    items, users = model.item_factors_, model.transform(X[test])

    start = time.process_time()
    index = Index(ndim=items.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(items)), items, threads=1)
    seconds = time.process_time() - start
    print(f"index of {len(items):,} items x {items.shape[1]}, made in {seconds:.1f} s")

    best, rate = serve(partial(exact, items), users, X[test])
    print(
        f"exact        {rate:8,.0f} users/s, {recall(best, model.recommend(X[test], K)):.1%} found"
    )
    for index.expansion_search in (16, 32, 64, 128, 256):
        found, rate = serve(partial(approximate, index), users, X[test])
        effort = f"effort {index.expansion_search}"
        print(f"{effort:12} {rate:8,.0f} users/s, {recall(found, best):.1%} found")


if __name__ == "__main__":
    main()
