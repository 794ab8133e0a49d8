"""
Learning curves
===============

Which epoch is kept, and is a neural model better than a linear one? A variational autoencoder and a
denoising autoencoder are trained on the same users. After each epoch they are scored on the
validation users. Then their lists are compared, at every length, with those of EASE and with the
most popular films.
"""

# %%
# Training, validation and test users
# -----------------------------------
# A user likes a film if the rating is four stars or more. The films are those that at least ten
# users liked. A fifth of the films of each test user is held out.
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
# The history of the training
# ---------------------------
# The dotted line is the epoch that was kept. It is the epoch with the best score of the validation
# users, not the one with the lowest loss, which is computed on the training users. The weights
# start from a singular value decomposition, so the first epoch ranks well already, and the learning
# rate falls to 0 in 24 epochs (:ref:`start-from-svd`).
vae = MultVAE(100, random_state=0)
vae.fit(split.train, X_val=validation)
TrainingHistoryDisplay.from_estimator(vae)

# %%
dae = MultDAE(200, random_state=0)
dae.fit(split.train, X_val=validation)
TrainingHistoryDisplay.from_estimator(dae)

# %%
# A random start and a constant learning rate
# -------------------------------------------
# The score of the same autoencoder with random initial weights starts much lower. With a constant
# learning rate it rises for about 40 epochs and then varies. All 100 epochs are run here, to show
# what follows the best one. With as few users as here, the longer training can be the better one.
longer = MultVAE(
    100,
    init="random",
    learning_rate_schedule="constant",
    anneal_steps="auto",
    max_epochs=100,
    n_iter_no_change=100,
    random_state=0,
)
longer.fit(split.train, X_val=validation)
TrainingHistoryDisplay.from_estimator(longer)

# %%
# Lists of every length
# ---------------------
# The test users were not used until now. The bands are 95 % intervals of the mean of one model. All
# models have the same users, so differences between models are more certain than the bands suggest.
models = {
    "EASE": EASE(l2=100).fit(split.train),
    "MultDAE": dae,
    "MultVAE": vae,
    "MultVAE, random start": longer,
    "Popularity": Popularity().fit(split.train),
}
display = RankingCurveDisplay.from_estimator(
    models, split.test_fold_in, split.test_heldout, scorer=ndcg_at_k
)
display.ax_.set(title="NDCG@k of 120 test users", ylim=(0, None))
display.ax_.legend(frameon=False, loc="lower center", ncols=2)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_learning_curves.png"
plt.show()

# %%
# User by user
# ------------
# This is the mean gain over EASE, with its standard error.
ease = ndcg_at_k.per_user(models["EASE"], split.test_fold_in, split.test_heldout)
for name in ("MultDAE", "MultVAE", "MultVAE, random start"):
    gain = ndcg_at_k.per_user(models[name], split.test_fold_in, split.test_heldout) - ease
    gain = gain[~np.isnan(gain)]
    print(f"{name}: {gain.mean():+.3f} ± {gain.std(ddof=1) / np.sqrt(len(gain)):.3f}")
