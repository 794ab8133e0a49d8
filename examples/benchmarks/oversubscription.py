"""Whether parallel searches start more threads than there are processors.

``python examples/benchmarks/oversubscription.py`` fits EASE in a grid search, serially and with as
many jobs as there are processors, and shows the seconds, and the threads that each process of the
search computes with.
"""

import argparse
import os
import time

import joblib
import torch
from sklearn.model_selection import GridSearchCV

from skvaecf import EASE
from skvaecf.datasets import make_interactions


class CountingEASE(EASE):
    """EASE whose score is the number of threads that torch computes with, in its process."""

    def score(self, X, y=None):
        """Count the threads."""
        return float(torch.get_num_threads())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1000)
    options = parser.parse_args()
    n_processors = joblib.cpu_count()
    X = make_interactions(4000, options.items, random_state=0)
    print(f"{n_processors} processors, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    for backend, n_jobs in (("serial", 1), ("loky", n_processors), ("threading", n_processors)):
        search = GridSearchCV(CountingEASE(), {"l2": [1.0, 10.0, 100.0, 1000.0]}, cv=3, refit=False)
        with joblib.parallel_config("loky" if backend == "serial" else backend, n_jobs=n_jobs):
            search.fit(X)  # starts the processes
            started = time.perf_counter()
            search.fit(X)
            seconds = time.perf_counter() - started
        threads = search.cv_results_["mean_test_score"].max()
        print(f"{backend}: {n_jobs} jobs of {threads:.0f} threads, {seconds:.1f} s")


if __name__ == "__main__":
    main()
