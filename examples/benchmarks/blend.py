"""Compare a blend of three or four models with its members and with equal weights.

    python examples/benchmarks/blend.py --data ml-100k.npz --n-heldout 150 --seeds 0 1 2

Without ``--data``, the MovieLens sample of the package is used. A blend of the first kind chooses
its weights on a fifth of the training users, one of the second kind on the validation users.
``MultVAE`` starts from random weights, as in the figures of docs/benchmarks.rst. ``--four`` takes
``SIVAERecommender`` and ``ELSA`` with their defaults instead of ``MultVAE``.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import print_machine
from scipy.sparse import csr_array, load_npz

from skvaecf import (
    EASE,
    ELSA,
    WMF,
    Blend,
    MultVAE,
    SIVAERecommender,
    ndcg_at_k,
    strong_generalization_split,
)
from skvaecf.datasets import load_movielens_small

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("--data", type=Path, help="users x items matrix, .npz")
parser.add_argument("--n-heldout", type=int, default=100, help="number of test users")
parser.add_argument("--seeds", type=int, nargs="+", default=[0])
parser.add_argument("--max-epochs", type=int, default=60)
parser.add_argument("--four", action="store_true", help="four members")
args = parser.parse_args()
print_machine()

X = csr_array(load_npz(args.data)) if args.data else load_movielens_small().data
data = strong_generalization_split(X, args.n_heldout)
X_val = data.validation_fold_in, data.validation_heldout
training = {
    "init": "random",
    "learning_rate_schedule": "constant",
    "anneal_steps": "auto",
    "batch_size": "auto" if data.train.shape[0] >= 3000 else 100,
    "max_epochs": args.max_epochs,
}
for seed in args.seeds:
    networks = [("mvae", MultVAE(random_state=seed, **training))]
    if args.four:
        sivae, elsa = SIVAERecommender(random_state=seed), ELSA(random_state=seed)
        networks = [("sivae", sivae), ("elsa", elsa)]
    ease = EASE(dropout=0.3, user_exponent=0.25, item_exponent=0.1, relaxation=0.2)
    members = [("ease", ease), ("wmf", WMF(random_state=seed)), *networks]
    blend = Blend(members, weights="auto", random_state=seed)
    for name, options in (("training users", {}), ("validation users", {"X_val": X_val})):
        blend.fit(data.train, **options)
        chosen = blend.weights_
        models = dict(blend.named_estimators_)
        scores = {
            model: ndcg_at_k(models[model], data.test_fold_in, data.test_heldout)
            for model in models
        }
        scores["auto"] = blend.score(data.test_fold_in, data.test_heldout)
        blend.weights_ = np.full(len(members), 1 / len(members))
        scores["equal"] = blend.score(data.test_fold_in, data.test_heldout)
        figures = ", ".join(f"{model} {score:.4f}" for model, score in scores.items())
        print(f"seed {seed}, {name}: {figures}, weights {chosen.round(2)}", flush=True)
