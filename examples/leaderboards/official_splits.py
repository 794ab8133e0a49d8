"""
Public leaderboards
===================

Papers on graph networks print recall@20 and NDCG@20 on splits that their authors published:
Gowalla, Yelp2018 and Amazon-book as split by LightGCN's authors, and MovieLens 1M as split by
UltraGCN's authors. The script fits models on the published training part. It prints their values on
the published test part below those of the papers. Recall@20 is the number of hits, divided by the
number of the user's test items::

    python examples/leaderboards/official_splits.py gowalla --train train.npz --test test.npz
    python examples/leaderboards/official_splits.py ml-1m --train TRAIN --test TEST --seeds 0 1 2

Each file is a users x items matrix written by ``scipy.sparse.save_npz``, or a text file of the
authors: a line per user, with the number of the user and those of the items. The settings below,
and in each run the weights of the blend, are chosen on a tenth of every training row, and nothing
on the test part. With these weights the members are fitted again on the whole training part.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, load_npz

from skvaecf import (
    EASE,
    ELSA,
    WMF,
    Blend,
    MultiRankingScorer,
    MultVAE,
    ndcg_at_k,
    recall_at_k,
    split_interactions,
)

SCORERS = (replace(recall_at_k, k=20, capped=False), ndcg_at_k.at(20))

# Recall@20 and NDCG@20. The numbers are those of the papers, or of UltraGCN (Mao et al., CIKM 2021)
# and BSPM (Choi et al., SIGIR 2023) for the models that they compare with.
PUBLISHED = {
    "gowalla": {
        "Mult-VAE": (0.1641, 0.1335),
        "EASE": (0.1765, 0.1467),
        "LightGCN": (0.1820, 0.1547),
        "GF-CF": (0.1849, 0.1518),
        "UltraGCN": (0.1862, 0.1580),
        "SimpleX": (0.1872, 0.1557),
        "BSPM": (0.1920, 0.1597),
    },
    "yelp2018": {
        "EASE": (0.0657, 0.0552),
        "UltraGCN": (0.0683, 0.0561),
        "SimpleX": (0.0701, 0.0575),
        "XSimGCL": (0.0723, 0.0604),
    },
    "amazon-book": {
        "LightGCN": (0.0411, 0.0318),
        "UltraGCN": (0.0681, 0.0556),
        "EASE": (0.0710, 0.0567),
        "ItemCF": (0.0736, 0.0606),
        "SLIM": (0.0755, 0.0602),
        "SANSA": (0.0768, 0.0637),
    },
    "ml-1m": {"UltraGCN": (0.2787, 0.2642)},
}


def read(path):
    """Read a matrix, or a text file with a line per user."""
    if path.suffix == ".npz":
        return csr_array(load_npz(path))
    rows = [np.array(line.split(), dtype=np.int64) for line in path.open()]
    users = np.concatenate([np.full(len(row) - 1, row[0]) for row in rows])
    items = np.concatenate([row[1:] for row in rows])
    return csr_array((np.ones(len(users), dtype=np.float32), (users, items)))


def same_shape(*matrices):
    """Return the matrices, resized to the same number of rows and of columns."""
    shape = np.max([X.shape for X in matrices], axis=0)
    for X in matrices:
        X.resize(tuple(shape))
    return matrices


def make_members(n_items):
    """Return the models by name, with settings that were chosen on a tenth of each training row."""
    members = {"WMF": WMF(), "MultVAE": MultVAE(early_stopping=False)}
    # The matrix of EASE takes 6.7 GB for 41,000 items.
    if n_items < 50_000:
        members["EASE"] = EASE(dropout=0.3, user_exponent=0.25, item_exponent=0.1, relaxation=0.2)
    else:
        members["ELSA"] = ELSA(512, early_stopping=False)
    return members


def popularity(X, asked):
    """Compute the mean number of users of the items of some interactions, relative to X's own."""
    counts = np.bincount(X.indices, minlength=X.shape[1])
    return counts[asked.indices].mean() / counts[X.indices].mean()


def print_row(name, values):
    print(f"{name:24}" + "".join(f"{value:10.4f}" for value in values), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("data", choices=PUBLISHED)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    train, test = same_shape(read(arguments.train), read(arguments.test))
    members = make_members(train.shape[1])

    fold_in, heldout = split_interactions(train, 0.1, random_state=0)
    # About 1 if the items are a random sample. Then what is chosen on the one part suits the other.
    of_tenth, of_test = popularity(fold_in, heldout), popularity(train, test)
    print(f"popularity of the held-out items: {of_tenth:.2f} (the tenth), {of_test:.2f} (test)")
    blend = Blend(list(members.items()), weights="auto", random_state=0)
    chosen = blend.fit(fold_in, X_val=(fold_in, heldout)).weights_
    print("weights:", dict(zip(members, chosen.round(2), strict=True)), flush=True)

    for name, values in PUBLISHED[arguments.data].items():
        print_row(f"{name}, published", values)
    score = MultiRankingScorer(SCORERS)
    for seed in arguments.seeds:
        blend = Blend(list(members.items()), weights=chosen)
        blend.set_params(**{name: seed for name in blend.get_params() if "__random_state" in name})
        blend.fit(train)
        for name, model in {**blend.named_estimators_, "Blend": blend}.items():
            print_row(f"{name}, seed {seed}", score(model, train, test).values())


if __name__ == "__main__":
    main()
