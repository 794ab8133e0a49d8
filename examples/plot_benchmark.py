"""
All models side by side
=======================

Which model is worth its fit? Every recommender learns from the same users and makes lists for the
same others. Networks are small and train for 20 epochs at most, and no settings are searched for:
:doc:`/benchmarks` has the figures of larger data and of searches, and ``examples/benchmark.py``
takes yours.
"""

# %%
# The users
# ---------
# Films that twenty people rated. Of the test users a fifth of the films is hidden; validation users
# tell the neural models when to stop.
import time

import matplotlib.pyplot as plt
import numpy as np

from skvaecf import (
    CDAE,
    CFGAN,
    EASE,
    IRGAN,
    SLIM,
    WMF,
    AWAERecommender,
    BenchmarkDisplay,
    HVampVAE,
    ItemKNN,
    MultDAE,
    MultVAE,
    Popularity,
    RecVAE,
    SIVAERecommender,
    VAEGANRecommender,
    strong_generalization_split,
)
from skvaecf.datasets import load_movielens_small

X = load_movielens_small().data
X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 20]
X = X[np.diff(X.indptr) >= 5]
split = strong_generalization_split(X, 120)
validation = split.validation_fold_in, split.validation_heldout
print(f"{split.train.shape[0]} training users, {split.train.shape[1]} films")

# %%
# The models
# ----------
short = {"batch_size": 50, "max_epochs": 20, "random_state": 0}
training = short | {"learning_rate": 3e-3}
models = {
    "Popularity": Popularity(),
    "ItemKNN": ItemKNN(50, weighting="bm25"),
    "EASE": EASE(l2=200),
    "SLIM": SLIM(),
    "WMF": WMF(32, random_state=0),
    "MultDAE": MultDAE(200, l2=1e-4, **training),
    "MultVAE": MultVAE(64, encoder_layer_sizes=(), kl_weight=0.2, **training),
    "RecVAE": RecVAE(64, layer_size=100, **training | {"max_epochs": 12}),
    "HVampVAE": HVampVAE(64, layer_size=100, **training),
    "SIVAE": SIVAERecommender(64, encoder_layer_sizes=(200,), **training),
    "AWAE": AWAERecommender(64, encoder_layer_sizes=(), **training),
    "CDAE": CDAE(**short),
    "VAEGAN": VAEGANRecommender(64, **short),
    "CFGAN": CFGAN(100, **short),
    "IRGAN": IRGAN(32, n_pretraining_epochs=15, **short | {"max_epochs": 3}),
}
fit_seconds = {}
for name, model in models.items():
    start = time.perf_counter()
    # Neural models are those that learn in epochs.
    model.fit(split.train, **({"X_val": validation} if hasattr(model, "max_epochs") else {}))
    fit_seconds[name] = time.perf_counter() - start

# %%
# The figure
# ----------
# The best on top. A bar is the 95 % interval of a model's own mean; as all models have the same
# users, their differences are surer than that: a model is dark if it cannot be told from the best,
# user by user.
display = BenchmarkDisplay.from_estimator(
    models, split.test_fold_in, split.test_heldout, fit_seconds=fit_seconds
)
display.figure_.suptitle("Of 431 users, two linear models learn most, and in a second")
plt.show()
