"""
All models side by side
=======================

Which model ranks best, and how long does its fit take? Every recommender is trained on the same
users and makes lists for the same test users. The networks are small and are trained for at most 24
epochs, and no settings are searched for. :doc:`/benchmarks` has results on larger data and of
searches.
``examples/benchmark.py`` runs the comparison on your data.
"""

# %%
# The users
# ---------
# The films are those that at least twenty users rated. A fifth of the films of each test user is
# held out. The neural models use the validation users to stop early.
import matplotlib.pyplot as plt
import numpy as np

from skvaecf import (
    AWAE,
    CDAE,
    CFGAN,
    EASE,
    IRGAN,
    SLIM,
    WMF,
    BenchmarkDisplay,
    HVampVAE,
    ItemKNN,
    MultDAE,
    MultVAE,
    Popularity,
    RecVAE,
    SIVAERecommender,
    VAEGANRecommender,
    compare,
    ndcg_at_k,
    recall_at_k,
    strong_generalization_split,
)
from skvaecf.datasets import load_movielens_small

X = load_movielens_small().data
X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 20]
X = X[np.diff(X.indptr) >= 5]
split = strong_generalization_split(X, 120)
print(f"{split.train.shape[0]} training users, {split.train.shape[1]} films")

# %%
# The models
# ----------
short = {"max_epochs": 20, "random_state": 0}
models = {
    "Popularity": Popularity(),
    "ItemKNN": ItemKNN(),
    "EASE": EASE(),
    "SLIM": SLIM(),
    "WMF": WMF(32, random_state=0),
    "MultDAE": MultDAE(200, random_state=0),
    "MultVAE": MultVAE(64, random_state=0),
    "RecVAE": RecVAE(
        64, encoder_layer_sizes=(100,) * 5, learning_rate=3e-3, **short | {"max_epochs": 12}
    ),
    "HVampVAE": HVampVAE(64, layer_size=100, learning_rate=3e-3, **short),
    "SIVAE": SIVAERecommender(64, random_state=0),
    "AWAE": AWAE(64, random_state=0),
    "CDAE": CDAE(50, **short),
    "VAEGAN": VAEGANRecommender(64, random_state=0),
    "CFGAN": CFGAN(100, **short),
    "IRGAN": IRGAN(32, n_pretraining_epochs=15, **short | {"max_epochs": 3}),
}
comparison = compare(models, split, scoring=(ndcg_at_k, recall_at_k.at(20)))
print(comparison)

# %%
# The figure
# ----------
# The best model is on top. A bar is the 95 % confidence interval of the mean of one model. All
# models have the same users, so differences between models are more certain than the bars suggest.
# A model has the strong colour if a comparison user by user finds no significant difference from
# the best model (:doc:`/comparing`).
display = BenchmarkDisplay.from_comparison(comparison)
display.figure_.suptitle(
    f"{split.train.shape[0]} training users; strong colour: not distinguishable from the best"
)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_benchmark.png"
plt.show()
