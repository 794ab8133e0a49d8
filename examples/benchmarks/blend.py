"""Compare a blend of four models with its members and with equal weights.

    python examples/benchmarks/blend.py --data ml-100k.npz --n-heldout 150 --seeds 0 1 2

Without ``--data``, the MovieLens sample of the package is used. A blend of the first kind chooses
its weights on a fifth of the training users, one of the second kind on the validation users.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import print_machine
from scipy.sparse import csr_array, load_npz

from skvaecf import EASE, ELSA, WMF, Blend, SIVAERecommender, strong_generalization_split
from skvaecf.datasets import load_movielens_small

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("--data", type=Path, help="users x items matrix, .npz")
parser.add_argument("--n-heldout", type=int, default=100, help="number of test users")
parser.add_argument("--seeds", type=int, nargs="+", default=[0])
args = parser.parse_args()
print_machine()

X = csr_array(load_npz(args.data)) if args.data else load_movielens_small().data
data = strong_generalization_split(X, args.n_heldout)
X_val = data.validation_fold_in, data.validation_heldout
for seed in args.seeds:
    members = {
        "ease": EASE(dropout=0.3, user_exponent=0.25, item_exponent=0.1, relaxation=0.2),
        "wmf": WMF(random_state=seed),
        "sivae": SIVAERecommender(random_state=seed),
        "elsa": ELSA(random_state=seed),
    }
    blend = Blend(list(members.items()), weights="auto", random_state=seed)
    for users, options in (("training users", {}), ("validation users", {"X_val": X_val})):
        blend.fit(data.train, **options)
        chosen = blend.weights_
        models = blend.named_estimators_ | {"auto": blend}
        test = data.test_fold_in, data.test_heldout
        scores = {name: model.score(*test) for name, model in models.items()}
        blend.weights_ = np.full(len(members), 1 / len(members))
        scores["equal"] = blend.score(*test)
        figures = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        print(f"seed {seed}, {users}: {figures}, weights {chosen.round(2)}", flush=True)
