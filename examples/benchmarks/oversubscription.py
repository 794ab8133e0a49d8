"""Count the threads of parallel searches: are there more than processors?

``python examples/benchmarks/oversubscription.py`` fits EASE in a grid search: serially, under each
of joblib's backends with one job per processor, and on a Dask cluster of this machine. It prints
the seconds, which are medians of ``--rounds`` rounds, and the number of threads that each job
computes with.
"""

import argparse
import os
import time

import joblib
import numpy as np
import torch
from distributed import Client, LocalCluster
from machine import print_machine
from sklearn.model_selection import GridSearchCV

from skvaecf import EASE
from skvaecf.datasets import make_interactions


class CountingEASE(EASE):
    """EASE with the number of threads that torch uses in the process as its score."""

    def score(self, X, y=None):
        """Return the number of threads."""
        return float(torch.get_num_threads())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print_machine()
    n_processors, n_threads = joblib.cpu_count(), torch.get_num_threads()
    X = make_interactions(4000, options.items, random_state=0)
    grid = {"l2": [1.0, 10.0, 100.0, 1000.0]}
    settings = {  # backend, jobs, threads that torch may use in this process
        "serial": ("threading", 1, n_threads),
        "loky": ("loky", n_processors, n_threads),
        "threading": ("threading", n_processors, n_threads),
        "threading, torch.set_num_threads(1)": ("threading", n_processors, 1),
        "dask": ("dask", n_processors, n_threads),
    }
    seconds = {name: [] for name in settings}
    threads = {}
    print(f"{n_processors} processors, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    with Client(LocalCluster(n_processors, threads_per_worker=1, dashboard_address=None)):
        for _ in range(options.rounds + 1):  # the first round starts processes and is left out
            for name, (backend, n_jobs, allowed) in settings.items():
                torch.set_num_threads(allowed)
                search = GridSearchCV(CountingEASE(), grid, cv=3, refit=False)
                started = time.perf_counter()
                with joblib.parallel_config(backend, n_jobs=n_jobs):
                    search.fit(X)
                seconds[name].append(time.perf_counter() - started)
                threads[name] = search.cv_results_["mean_test_score"].max()
    for name, (_, n_jobs, _) in settings.items():
        median = np.median(seconds[name][1:])
        print(f"{name}: {n_jobs} x {threads[name]:.0f} threads, {median:.1f} s")


if __name__ == "__main__":
    main()
