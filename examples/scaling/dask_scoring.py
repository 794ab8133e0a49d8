"""Recommend items to all users, and run a grid search, on the workers of a Dask cluster.

``python examples/scaling/dask_scoring.py`` starts a cluster of two processes on this machine. With
``--scheduler tcp://HOST:8786`` it uses an existing cluster. It compares the lists and scores, bit
by bit, with those of this process.
"""

import argparse
import time

import joblib
import numpy as np
import torch
from distributed import Client, LocalCluster
from scipy.sparse import vstack
from sklearn.model_selection import GridSearchCV

from skvaecf import EASE, MultVAE, UserSplitter, ndcg_at_k
from skvaecf.datasets import load_movielens_small

BLOCK_ROWS = 512  # the block size of recommend: other blocks round sums in another way


def recommend_on(client, model, X, k):
    """Return the best k items for every row of X, computed block by block."""
    sent = client.scatter(model, broadcast=True)  # once per worker, not once per block
    blocks = [X[start : start + BLOCK_ROWS] for start in range(0, X.shape[0], BLOCK_ROWS)]
    lists = client.map(lambda block, model: model.recommend(block, k), blocks, model=sent)
    return np.concatenate(client.gather(lists))


def compare(name, here, there):
    results = []
    for where, compute in (("here", here), ("on the cluster", there)):
        started = time.perf_counter()
        results.append(compute())
        print(f"{name} {where}: {time.perf_counter() - started:.1f} s")
    print(f"{name}: equal to the bit: {np.array_equal(*results)}")


def search(X):
    model = MultVAE(64, learning_rate=3e-3, batch_size=60, max_epochs=10, random_state=0)
    cv = UserSplitter(n_splits=2, test_size=0.2, random_state=0)
    grid = {"dropout": [0.3, 0.6], "kl_weight": [0.2, 1.0]}
    search = GridSearchCV(model, grid, scoring=ndcg_at_k, cv=cv, refit=False)
    return search.fit(X).cv_results_["mean_test_score"]


def search_on_cluster(X):
    with joblib.parallel_config("dask"):
        return search(X)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheduler", help="address of a cluster; default: a new local one")
    parser.add_argument("--copies", type=int, default=4, help="number of copies of the users")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker: two threads round sums in another way

    X = load_movielens_small(min_rating=4).data
    X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 10]
    X = X[np.diff(X.indptr) >= 5]
    many = vstack([X] * options.copies, format="csr")
    model = EASE(l2=100).fit(X)
    with Client(options.scheduler or LocalCluster(2, threads_per_worker=1)) as client:
        client.wait_for_workers(1)
        compare(
            f"{many.shape[0]} lists",
            lambda: model.recommend(many, 10),
            lambda: recommend_on(client, model, many, 10),
        )
        compare("search", lambda: search(X), lambda: search_on_cluster(X))


if __name__ == "__main__":
    main()
