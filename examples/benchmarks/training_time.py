"""
Training time by the number of users
====================================

How long does a fit with the defaults take for 10,000, 100,000 or a million users? The items are
10,000, and a user has 20 of them on average. The time is processor time of one thread, so other
programs change it little. Networks are trained for one epoch; the table has the time before the
first epoch ("start") and the time of the epoch, and the time of a fit is that of the start plus the
number of epochs times that of an epoch.

Run it with ``OMP_NUM_THREADS=1 python examples/benchmarks/training_time.py``. It takes several
minutes; ``--users`` and ``--models`` choose a part of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import print_machine
from scipy.sparse import vstack

from skvaecf import EASE, ELSA, SLIM, WMF, ItemKNN, MultDAE, MultVAE, Popularity, RecVAE
from skvaecf.datasets import make_interactions

MODELS = {cls.__name__: cls for cls in (Popularity, ItemKNN, EASE, SLIM, WMF)}
NETWORKS = {cls.__name__: cls for cls in (ELSA, MultDAE, MultVAE, RecVAE)}
N_ITEMS = 10_000


def interactions(n_users):
    """Return rows of 20 items on average; beyond 10,000 users, the rows are repeated."""
    X = make_interactions(
        min(n_users, 10_000), N_ITEMS, n_blocks=100, density=0.2, noise=0.2, random_state=0
    )
    return vstack([X] * (n_users // X.shape[0]), format="csr")


def fit(name, X):
    """Return a fitted model and the seconds of the whole fit or of the start, and of an epoch."""
    begin = time.process_time()
    if name in MODELS:
        model = MODELS[name]()
        model.fit(X)
        return model, time.process_time() - begin, None
    epochs = []
    model = NETWORKS[name](max_epochs=1, early_stopping=False, random_state=0)
    players = model._players

    def timed(*arguments):
        epochs.append(time.process_time())
        return players(*arguments)

    model._players = timed
    model.fit(X)
    end = time.process_time()
    del model._players
    return model, epochs[0] - begin, end - epochs[0]


def request_ms(model, X):
    """Return the median milliseconds of a request for ten items, of one user."""
    times = []
    for user in range(32):
        begin = time.process_time()
        model.recommend(X[[user]], k=10)
        times.append(time.process_time() - begin)
    return 1e3 * np.median(times[1:])


def file_mb(model):
    """Return the size of the model's file, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return path.stat().st_size / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    names = [*MODELS, *NETWORKS]
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_machine()
    print(f"{N_ITEMS:,} items; seconds of processor time, one thread")
    heads = ("fit or start", "an epoch", "epochs", "request, ms", "file, MB")
    print(f"{'model':12}{'users':>11}" + "".join(f"{head:>14}" for head in heads))
    for n_users in arguments.users:
        X = interactions(n_users)
        for name in arguments.models:
            model, start, epoch = fit(name, X)
            epoch = "" if epoch is None else f"{epoch:.2f}"
            epochs = getattr(model, "n_iter_", "")
            print(
                f"{name:12}{n_users:>11,}{start:>14.2f}{epoch:>14}{epochs:>14}"
                f"{request_ms(model, X):>14.2f}{file_mb(model):>14.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
