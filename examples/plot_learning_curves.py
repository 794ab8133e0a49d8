"""
Learning curves
===============

Which epoch is kept, and is a model worth its training? A variational autoencoder and a denoising
autoencoder learn from the same users; after each epoch the validation users tell how good they are.
Then their lists are compared with those of EASE and of the most popular films, at every length.
"""

# %%
# Users of three kinds
# --------------------
# Films that ten people liked, four stars and more. Of the test users a fifth of the films is
# hidden.
import matplotlib.pyplot as plt
import numpy as np

from skvaecf import (
    EASE,
    MultDAE,
    MultVAE,
    Popularity,
    RankingCurveDisplay,
    TrainingHistoryDisplay,
    ndcg_at_k,
    strong_generalization_split,
)
from skvaecf.datasets import load_movielens_small

X = load_movielens_small(min_rating=4).data
X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 10]
X = X[np.diff(X.indptr) >= 5]
split = strong_generalization_split(X, 120)
validation = split.validation_fold_in, split.validation_heldout
print(f"{split.train.shape[0]} training users, {split.train.shape[1]} films")

# %%
# What the training recorded
# --------------------------
# The dotted line is the epoch that was kept: the validation users say when to stop, not the loss,
# which is that of the training users. The weight of the KL term rises for 30 epochs, and the loss
# of a variational autoencoder contains it.
# All 100 epochs are run here, to see what comes after the best one.
training = {
    "learning_rate": 3e-3,
    "batch_size": 60,
    "max_epochs": 100,
    "n_iter_no_change": 100,
    "random_state": 0,
}
vae = MultVAE(100, encoder_layer_sizes=(), **training)
vae.fit(split.train, X_val=validation)
TrainingHistoryDisplay.from_estimator(vae)

# %%
dae = MultDAE(200, l2=1e-4, **training)
dae.fit(split.train, X_val=validation)
TrainingHistoryDisplay.from_estimator(dae)

# %%
# Lists of every length
# ---------------------
# The test users were not looked at until now. The bands are 95 % intervals of each mean; as all
# models have the same users, their differences are surer than the bands suggest.
models = {
    "EASE": EASE(l2=100).fit(split.train),
    "MultDAE": dae,
    "MultVAE": vae,
    "Popularity": Popularity().fit(split.train),
}
display = RankingCurveDisplay.from_estimator(
    models, split.test_fold_in, split.test_heldout, scorer=ndcg_at_k
)
display.ax_.set_title("120 test users")
plt.show()

# %%
# User by user
# ------------
# The mean gain over EASE, with its standard error.
ease = ndcg_at_k.per_user(models["EASE"], split.test_fold_in, split.test_heldout)
for name in ("MultDAE", "MultVAE"):
    gain = ndcg_at_k.per_user(models[name], split.test_fold_in, split.test_heldout) - ease
    gain = gain[~np.isnan(gain)]
    print(f"{name}: {gain.mean():+.3f} ± {gain.std(ddof=1) / np.sqrt(len(gain)):.3f}")
