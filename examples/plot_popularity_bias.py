"""
Accuracy and popularity
=======================

A list of what everybody likes is often right and seldom of use. How much do the models lean on
popular films, and what does leaning less cost?
"""

# %%
# Users and models
# ----------------
import numpy as np

from skvaecf import (
    EASE,
    SLIM,
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
    "SLIM": SLIM(l1=2, l2=50),
    "ItemKNN": ItemKNN(50),
    "ItemKNN, TF-IDF": ItemKNN(50, weighting="tfidf"),
    "ItemKNN, BM25": ItemKNN(50, weighting="bm25"),
    "WMF": WMF(32, unobserved_weight=0.3, random_state=0),
    "WMF, 0.01": WMF(32, unobserved_weight=0.01, random_state=0),
    "MultDAE": MultDAE(100, l2=1e-4, max_epochs=60, random_state=0),
    "MultVAE": MultVAE(50, encoder_layer_sizes=(200,), max_epochs=60, random_state=0),
}
lists = {name: model.fit(X[train]).recommend(fold_in, k=20) for name, model in models.items()}

# %%
# Three figures of each model's lists
# -----------------------------------
# NDCG: are they right? Fans: how many training users liked a film that is recommended, on average?
# Coverage: how much of the catalogue is shown to somebody?
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
# What the test users hid themselves is the mark: their own taste for popular films.
own = n_fans[heldout.indices].mean()
print(f"hidden films: {own:.1f} fans")

# %%
# The figure
# ----------
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
shown = ("Popularity", "EASE", "ItemKNN, BM25", "WMF, 0.01")
colors = dict(zip(shown, ["#999999", "#12566e", "#d9822b", "#7a5195"], strict=True))
for name, (quality, fans, _) in table.items():
    axes[0].scatter(fans, quality, s=45, color=colors.get(name, "#8fbccb"), zorder=2)
    axes[0].annotate(name, (fans, quality), xytext=(6, 4), textcoords="offset points", fontsize=9)
axes[0].axvline(own, color="0.6", ls=":", zorder=0)
axes[0].text(own, axes[0].get_ylim()[0], " what users hid", color="0.4", fontsize=9, va="bottom")
axes[0].set(
    xlabel="mean number of fans of a recommended film",
    ylabel="NDCG@20",
    title="Right, and popular?",
)

tenth = np.minimum(np.argsort(np.argsort(-n_fans, kind="stable")) * 10 // len(n_fans), 9)
places = np.arange(1, 11)
for name in shown:
    share = np.bincount(tenth[lists[name].ravel()], minlength=10) / lists[name].size
    axes[1].plot(places, share.cumsum(), marker="o", ms=4, color=colors[name], label=name)
share = np.bincount(tenth[heldout.indices], minlength=10) / heldout.nnz
axes[1].plot(places, share.cumsum(), color="0.4", ls=":", label="what users hid")
axes[1].set(
    xlabel="tenths of the films, the most popular first",
    xticks=places,
    ylabel="share of all recommendations",
    title="Where the recommendations come from",
)
axes[1].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
