"""
Serve factors from an index of neighbours
=========================================

A factor model scores an item by the product of two short vectors, so its best items are the nearest
neighbours of the user's vector. A NeighborIndex finds most of them without scoring all items. The
script serves test users one at a time, as a server does, with ``recommend`` of the model and with
that of the index, at increasing effort. It prints the users per second of processor time, and the
share of the exact ten items that the index finds::

    pip install ".[neighbors,examples]"
    python examples/serving/ann.py
    python examples/serving/ann.py --data FILE.npz --unobserved-weight 0.02 --l2 0.002
    python examples/serving/ann.py --n-items 100000 --n-components 128

``FILE.npz`` is a users x items matrix written by ``scipy.sparse.save_npz``. ``--n-items`` draws
clicks instead: every user takes items from four of 300 groups, popular ones more often.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, load_npz

from skvaecf import WMF, NeighborIndex, UserSplitter
from skvaecf.datasets import load_movielens_small

K = 10


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--data", type=Path, help="users x items matrix, .npz; default: MovieLens small"
    )
    parser.add_argument("--n-items", type=int, help="draw clicks on so many items")
    parser.add_argument("--n-components", type=int, default=64)
    parser.add_argument("--unobserved-weight", type=float, default=0.3)
    parser.add_argument("--l2", type=float, default=0.008)
    parser.add_argument("--max-epochs", type=int, default=5, help="enough to try the index")
    parser.add_argument("--n-users", type=int, default=1000, help="largest number of test users")
    return parser.parse_args()


def draw_clicks(n_items, n_users=20_000, n_clicks=80, n_groups=300):
    """Draw users with clicks on four groups of items each."""
    rng = np.random.RandomState(0)
    size = n_items // n_groups
    group = rng.randint(n_groups, size=(n_users, 4)).repeat(n_clicks // 4, axis=1)
    place = (size * rng.random_sample(group.shape) ** 3).astype(np.int64)  # the first most often
    rows = np.arange(n_users).repeat(n_clicks)
    clicks = (np.ones(rows.size, dtype=np.float32), (rows, (group * size + place).ravel()))
    return csr_array(clicks, shape=(n_users, n_items))


def serve(recommend, rows):
    """Recommend to one user at a time; return the lists and the users per second."""
    start = time.process_time()
    lists = [recommend(row, K)[0] for row in rows]
    return np.array(lists), len(rows) / (time.process_time() - start)


def main():
    arguments = parse_arguments()
    if arguments.n_items:
        X = draw_clicks(arguments.n_items)
    else:
        X = csr_array(load_npz(arguments.data)) if arguments.data else load_movielens_small().data
    train, test = next(UserSplitter(n_splits=1, test_size=0.1, random_state=0).split(X))
    rows = [X[[user]] for user in test[: arguments.n_users]]
    model = WMF(
        arguments.n_components,
        unobserved_weight=arguments.unobserved_weight,
        l2=arguments.l2,
        max_epochs=arguments.max_epochs,
        device="cpu",
        random_state=0,
    ).fit(X[train])

    start = time.process_time()
    index = NeighborIndex(model)
    seconds = time.process_time() - start
    n_items, n_components = model.item_factors_.shape
    print(f"index of {n_items:,} items x {n_components}, made in {seconds:.1f} s")

    exact, rate = serve(model.recommend, rows)
    print(f"exact        {rate:8,.0f} users/s")
    for index.expansion_search in (64, 128, 256, 512):
        found, rate = serve(index.recommend, rows)
        recall = (exact[:, :, None] == found[:, None, :]).any(axis=2).mean()
        print(f"effort {index.expansion_search:<6}{rate:8,.0f} users/s, {recall:.1%} found")


if __name__ == "__main__":
    main()
