"""
The gain of each part of VAEGAN
===============================

The VAEGAN paper adds three parts to an autoencoder with a noisy encoder: a discriminator T that
replaces the KL term (AVB), a second discriminator D that compares the reconstruction with the data
(+D), and a contractive penalty (+C). The weight of T rises from 0. Figures 3 and 4 of the paper
show the gain of each part. This example repeats the comparison on the small MovieLens data.
"""

# %%
# Splits of the users
# -------------------
# The epoch is chosen on the validation users; the scores are those of the test users.
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skvaecf import VAEGANRecommender, ndcg_at_k, strong_generalization_split
from skvaecf.datasets import load_movielens_small

X = load_movielens_small().data
X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 30]  # at least thirty ratings
X = X[np.diff(X.indptr) >= 5]
SEEDS = range(3)
splits = [strong_generalization_split(X, 120, random_state=seed) for seed in SEEDS]
print(f"{X.shape[0]} users, {X.shape[1]} films, {len(splits)} splits")

# %%
# A fit for each form and split
# -----------------------------
# A fit warns if a discriminator distinguishes everything correctly. This is easy for D: the row of
# a user consists of ones, and the probabilities that D must distinguish from it are smaller. The
# likelihood and the weights of both discriminators are those of the paper.
warnings.simplefilter("ignore", ConvergenceWarning)

AVB = {"adversary_weight": 0.2, "anneal_steps": "auto"}
FORMS = {
    "no discriminator": {"adversary_weight": 0},
    "AVB": AVB,
    "AVB, not annealed": AVB | {"anneal_steps": 0},
    "AVB+D": AVB | {"data_adversary_weight": 0.2},
    "AVB+D+C": AVB | {"data_adversary_weight": 0.2, "contractive_weight": 3e-4},
}


def fit(weights, split, seed):
    model = VAEGANRecommender(
        32,
        likelihood="bernoulli",
        l2=4.0,
        discriminator_layer_size=32,
        learning_rate=3e-2,
        max_epochs=20,
        random_state=seed,
        **weights,
    )
    return model.fit(split.train, X_val=(split.validation_fold_in, split.validation_heldout))


models = {
    form: [fit(weights, split, seed) for split, seed in zip(splits, SEEDS, strict=True)]
    for form, weights in FORMS.items()
}
scores = {
    form: np.array(
        [
            ndcg_at_k(model, split.test_fold_in, split.test_heldout)
            for model, split in zip(of, splits, strict=True)
        ]
    )
    for form, of in models.items()
}

# %%
# The gain of the parts
# ---------------------
# The splits differ more than the models do. So the gain over the form without a discriminator is
# computed for each split. The error is the standard error over the splits.


def mean_and_error(values):
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


for form, values in scores.items():
    gain, error = mean_and_error(values - scores["no discriminator"])
    print(f"{form:18} NDCG@100 {values.mean():.3f}   gain {gain:+.4f} ± {error:.4f}")

# %%
# The figure
# ----------
# Left: the score of the validation users of the first split after each epoch. Right: the gains.
import matplotlib.pyplot as plt

COLORS = ["#888888", "#1f6f8b", "#7fb7c9", "#6a4c93", "#b5838d"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for place, ((form, of), color) in enumerate(zip(models.items(), COLORS, strict=True)):
    curve = [record["validation_ndcg"] for record in of[0].history_]
    left.plot(range(1, len(curve) + 1), curve, color=color, label=form)
    gain, error = mean_and_error(scores[form] - scores["no discriminator"])
    right.errorbar(gain, place, xerr=error, marker="o", capsize=3, color=color)
left.set(xlabel="epoch", ylabel="NDCG@100", title="Score of the validation users")
left.legend(frameon=False, fontsize="small")
left.locator_params(axis="x", integer=True)
right.set_yticks(range(len(models)), list(models))
right.invert_yaxis()
right.locator_params(axis="x", nbins=5)
right.axvline(0, color="#999999", linewidth=0.8)
right.set(xlabel="gain in NDCG@100 of the test users", title="Gain over no discriminator")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_vaegan_components.png"
plt.show()
