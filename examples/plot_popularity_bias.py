"""
Accuracy and popularity
=======================

A list of the most popular films is often accurate and seldom useful. How popular are the films that
the models recommend, and how much accuracy is lost if they are less popular?
"""

# %%
# Users and models
# ----------------
import numpy as np

from skvaecf import (
    EASE,
    WMF,
    ItemKNN,
    MultDAE,
    MultVAE,
    Popularity,
    UserSplitter,
    split_interactions,
)
from skvaecf.datasets import load_movielens_small
from skvaecf.metrics import coverage, ndcg

X = load_movielens_small(min_rating=4).data
X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 5]
X = X[np.diff(X.indptr) >= 5]
train, test = next(UserSplitter(n_splits=1, test_size=0.3, random_state=0).split(X))
fold_in, heldout = split_interactions(X[test], random_state=0)

models = {
    "Popularity": Popularity(),
    "EASE": EASE(l2=100),
    "EDLAE": EASE(l2=20, dropout=0.3),
    "ItemKNN": ItemKNN(50, weighting="bm25"),
    "MultDAE": MultDAE(100, random_state=0),
    "MultVAE": MultVAE(50, random_state=0),
}
# The smaller the weight of the films that a user has not liked, the less popular the
# recommendations.
WEIGHTS = (1, 0.3, 0.1, 0.03, 0.01)
models |= {f"WMF {w}": WMF(32, unobserved_weight=w, random_state=0) for w in WEIGHTS}
lists = {name: model.fit(X[train]).recommend(fold_in, k=20) for name, model in models.items()}

# %%
# Three metrics of the lists of each model
# ----------------------------------------
# NDCG measures the accuracy. "Fans" is the mean number of training users who liked a recommended
# film. Coverage is the share of all films that are recommended to at least one user.
n_fans = np.bincount(X[train].indices, minlength=X.shape[1])
table = {
    name: (
        ndcg(ranked, heldout, 20).mean(),
        n_fans[ranked].mean(),
        coverage(ranked, X.shape[1], 20),
    )
    for name, ranked in lists.items()
}
for name, (quality, fans, covered) in table.items():
    print(f"{name:16} NDCG@20 {quality:.3f}   {fans:5.1f} fans   {covered:.0%} of the films")

# %%
# The mean number of fans of the held-out films is a reference: it shows how popular the films are
# that the test users like.
reference = n_fans[heldout.indices].mean()
print(f"held-out films: {reference:.1f} fans")

# %%
# The figure
# ----------
import matplotlib.pyplot as plt

shown = ("Popularity", "EASE", "ItemKNN", "WMF 0.01")
colors = dict(zip(shown, ["#999999", "#12566e", "#d9822b", "#7a5195"], strict=True))
beside = {"EDLAE": (-6, 5), "ItemKNN": (-8, -3), "MultDAE": (5, 11), "MultVAE": (7, -3)}
beside["WMF 0.3"] = (-18, 2)

figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
path = np.array([table[f"WMF {w}"][:2] for w in WEIGHTS])
axes[0].plot(path[:, 1], path[:, 0], color="#7a5195", lw=1, zorder=1)
for name, (quality, fans, _) in table.items():
    factors = name.startswith("WMF")
    color = "#7a5195" if factors else colors.get(name, "#4a93ab")
    axes[0].scatter(fans, quality, s=20 if factors else 45, color=color, zorder=2)
    right, up = beside.get(name, (-5, -11) if factors else (6, 4))
    axes[0].annotate(
        name.removeprefix("WMF ") if factors and name != "WMF 0.01" else name,
        (fans, quality),
        xytext=(right, up),
        textcoords="offset points",
        ha="left" if right > 0 or factors else "right",
        fontsize=9,
        color=color if factors else "black",
    )
axes[0].axvline(reference, color="0.6", ls=":", zorder=0)
bottom = axes[0].get_ylim()[0]
axes[0].text(reference, bottom, " held-out films", color="0.4", fontsize=9, va="bottom")
axes[0].set(
    xlabel="mean number of fans of a recommended film",
    ylabel="NDCG@20",
    title="Accuracy and popularity",
)

tenth = np.minimum(np.argsort(np.argsort(-n_fans, kind="stable")) * 10 // len(n_fans), 9)
places = np.arange(1, 11)
for name in shown:
    share = np.bincount(tenth[lists[name].ravel()], minlength=10) / lists[name].size
    axes[1].plot(places, share.cumsum(), marker="o", ms=4, color=colors[name], label=name)
share = np.bincount(tenth[heldout.indices], minlength=10) / heldout.nnz
axes[1].plot(places, share.cumsum(), color="0.4", ls=":", label="held-out films")
axes[1].set(
    xlabel="tenths of the films, the most popular first",
    xticks=places,
    ylabel="cumulative share of all recommendations",
    title="Popularity of the recommended films",
)
axes[1].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_popularity_bias.png"
plt.show()
