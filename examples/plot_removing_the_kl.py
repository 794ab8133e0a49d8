"""
Does a variational autoencoder need its KL term?
================================================

The SIVAE paper (section 4.4, table 2) trains Mult-VAE with its reconstruction term alone and loses
little accuracy. With a Bernoulli likelihood ("logistic") it loses almost nothing. This example
repeats the comparison on the small MovieLens data, with both likelihoods, a KL term of weight 0,
0.2 and 1, and several splits of the users.
"""

# %%
# Splits of the users
# -------------------
# The epoch is chosen on the validation users; the scores are those of the test users.
import numpy as np

from skvaecf import MultVAE, ndcg_at_k, strong_generalization_split
from skvaecf.datasets import load_movielens_small

X = load_movielens_small().data
X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 20]  # at least twenty ratings
X = X[np.diff(X.indptr) >= 5]
SEEDS = range(3)
splits = [strong_generalization_split(X, 120, random_state=seed) for seed in SEEDS]
print(f"{X.shape[0]} users, {X.shape[1]} films, {len(splits)} splits")

# %%
# A fit for each likelihood, weight and split
# -------------------------------------------
# The weights have no penalty, so with a KL term of weight 0 only the reconstruction term remains.
WEIGHTS = [0, 0.2, 1]
LIKELIHOODS = {"multinomial": "#1f6f8b", "bernoulli": "#d9822b"}


def ndcg(likelihood, kl_weight, split, seed):
    model = MultVAE(
        64,
        encoder_layer_sizes=(200,),
        likelihood=likelihood,
        kl_weight=kl_weight,
        l2=0,
        learning_rate=5e-3,
        max_epochs=25,
        random_state=seed,
    )
    model.fit(split.train, X_val=split.validation_fold_in + split.validation_heldout)
    return ndcg_at_k(model, split.test_fold_in, split.test_heldout)


scores = {
    likelihood: np.array(
        [
            [ndcg(likelihood, weight, *of) for of in zip(splits, SEEDS, strict=True)]
            for weight in WEIGHTS
        ]
    )
    for likelihood in LIKELIHOODS
}

# %%
# The gain of the KL term
# -----------------------
# The splits differ more than the models do. So the gain over the same likelihood without a KL term
# is computed for each split. The error is the standard error over the splits.


def mean_and_error(values):
    return values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])


for likelihood, values in scores.items():
    for weight, mean, gain, error in zip(
        WEIGHTS, values.mean(axis=1), *mean_and_error(values - values[0]), strict=True
    ):
        print(
            f"{likelihood:12} kl_weight {weight:<4} NDCG@100 {mean:.3f}"
            f"   gain {gain:+.4f} ± {error:.4f}"
        )

# %%
# The figure
# ----------
# A point is the mean over the splits, its bar the standard error.
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained", sharex=True)
for shift, (likelihood, color) in enumerate(LIKELIHOODS.items()):
    values = scores[likelihood]
    for ax, shown in ((axes[0], values), (axes[1], values - values[0])):
        mean, error = mean_and_error(shown)
        places = np.arange(len(WEIGHTS)) + 0.08 * shift
        ax.errorbar(places, mean, error, marker="o", capsize=3, color=color, label=likelihood)
axes[0].set(xlabel="kl_weight", ylabel="NDCG@100", title="Scores of the test users")
axes[0].set_xticks(range(len(WEIGHTS)), WEIGHTS)
axes[1].set(
    xlabel="kl_weight", ylabel="gain in NDCG@100", title="Gain over kl_weight = 0, per split"
)
axes[1].axhline(0, color="#999999", linewidth=0.8)
axes[0].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_removing_the_kl.png"
plt.show()
