"""
Defaults and the best of a grid
===============================

Does a recommender need a search? The script fits each model with its defaults and with a small grid
around them, on each data set, and prints the NDCG@100 of the defaults, the best found value and
their ratio. The best of the grid is the one with the highest NDCG@100 of the validation users. The
ratios of the validation users and of the test users are printed; nothing is chosen on test users::

    python examples/reproduce/defaults.py --data ml-100k.npz ml-1m.npz
    python examples/reproduce/defaults.py --data FILE.npz --models EASE WMF --reshape thin short

``FILE.npz`` is a users x items matrix written by ``scipy.sparse.save_npz``. ``--reshape`` adds
versions of each file: "thin" keeps 15 % of the interactions, "short" keeps 8 of each user, and
"few" keeps 600 users. Every finished fit is a line of ``defaults.csv``. A second run reads them and
fits what is missing. ``--table FILE`` writes the printed table to a CSV file.
"""

from __future__ import annotations

import argparse
import csv
from itertools import product
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, load_npz

import skvaecf
from skvaecf import ndcg_at_k, strong_generalization_split
from skvaecf.datasets import load_movielens_small

LIKELIHOODS = ("n-choose-k", "multinomial")
# "x" stands for multiples of the fitted default.
GRIDS = {
    "EASE": {"l2": "x"},
    "ItemKNN": {"weighting": (None, "tfidf", "bm25"), "n_neighbors": (50, 200, 500)},
    "MultDAE": {"l2": "x", "likelihood": LIKELIHOODS},
    "MultVAE": {"l2": "x", "likelihood": LIKELIHOODS, "kl_weight": (0.2, 0.5)},
    "Popularity": {},
    "SIVAERecommender": {"l2": "x", "encoder_layer_sizes": ((), (100,), (300,))},
    "SLIM": {"l1": "x", "l2": "x"},
    "VAEGANRecommender": {"l2": "x", "adversary_weight": (0.05, 0.2)},
    "WMF": {"l2": "x", "unobserved_weight": "x"},
}
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
FIELDS = ("data", "model", "setting", "validation", "test")
COLUMNS = ("data", "model", "seed", "default test NDCG@100", "best found test NDCG@100", "ratio")
COLUMNS += ("best settings", "validation ratio")


def entries(X, keep):
    """Keep some of the stored entries."""
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    return csr_array((X.data[keep], (rows[keep], X.indices[keep])), shape=X.shape)


def thin(X, random):
    """Keep 15 % of the interactions."""
    return entries(X, random.rand(X.nnz) < 0.15)


def short(X, random):
    """Keep 8 interactions of each user."""
    order = np.lexsort((random.rand(X.nnz), np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))))
    place = np.arange(X.nnz) - np.repeat(X.indptr[:-1], np.diff(X.indptr))
    return entries(X, np.isin(np.arange(X.nnz), order[place < 8]))


def few(X, random):
    """Keep 600 users."""
    return X[np.sort(random.permutation(X.shape[0])[:600])]


RESHAPES = {"thin": thin, "short": short, "few": few}


def load(path, reshape):
    """Split a file, or a reshaped version of it, into training, validation and test users."""
    X = csr_array(load_npz(path)) if path else load_movielens_small().data
    if reshape:
        X = RESHAPES[reshape](X, np.random.RandomState(0))
    X = X[np.diff(X.indptr) >= 5]
    return strong_generalization_split(X, min(3000, X.shape[0] // 6))


def settings(name, default):
    """Yield the settings of the grid; "x" stands for multiples of the fitted default."""
    grid = {
        parameter: [factor * getattr(default, f"{parameter}_") for factor in FACTORS]
        if values == "x"
        else values
        for parameter, values in GRIDS[name].items()
    }
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def fit(name, setting, split):
    """Fit a model; return it with the NDCG@100 of the validation and of the test users."""
    model = getattr(skvaecf, name)(**setting)
    if "random_state" in model.get_params():
        model.set_params(random_state=0)
    validation = split.validation_fold_in, split.validation_heldout
    chooses = "early_stopping" in model.get_params()
    model.fit(split.train, **({"X_val": validation} if chooses else {}))
    test = ndcg_at_k(model, split.test_fold_in, split.test_heldout)
    return model, ndcg_at_k(model, *validation), test


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--data", type=Path, nargs="+", default=[None], help="default: MovieLens")
    parser.add_argument("--models", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--reshape", nargs="+", choices=RESHAPES, default=[])
    parser.add_argument("--out", type=Path, default=Path("defaults.csv"))
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = list(csv.DictReader(arguments.out.open())) if arguments.out.exists() else []
    done = {(row["data"], row["model"], row["setting"]): row for row in rows}

    def run(data, name, setting, split):
        key = (data, name, repr(setting))
        if key in done and setting:
            return None, done[key]
        model, validation, test = fit(name, setting, split)
        row = dict(zip(FIELDS, (*key, validation, test), strict=True))
        if key not in done:
            new = not arguments.out.exists()
            with arguments.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                if new:
                    writer.writeheader()
                writer.writerow(row)
        return model, row

    table = []
    print(f"{'data':28}{'model':20}{'default':>9}{'best':>9}{'ratio':>8}{'test':>8}  best setting")
    for path, reshape in product(arguments.data, [None, *arguments.reshape]):
        data = (path.stem if path else "MovieLens small") + (f", {reshape}" if reshape else "")
        split = load(path, reshape)
        for name in arguments.models:
            default, of_default = run(data, name, {}, split)
            found = [run(data, name, setting, split)[1] for setting in settings(name, default)]
            best = max([of_default, *found], key=lambda row: float(row["validation"]))
            default_values, best_values = (
                [float(row[part]) for part in ("validation", "test")] for row in (of_default, best)
            )
            ratios = [a / b for a, b in zip(default_values, best_values, strict=True)]
            print(
                f"{data:28}{name:20}{default_values[0]:>9.4f}{best_values[0]:>9.4f}"
                f"{ratios[0]:>8.3f}{ratios[1]:>8.3f}  {best['setting']}",
                flush=True,
            )
            values = (default_values[1], best_values[1], ratios[1], best["setting"], ratios[0])
            table.append((data, name, 0, *values))
            if arguments.table:
                with arguments.table.open("w", newline="") as file:
                    csv.writer(file).writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
