"""
Cold and warm users
===================

How many films of a user must be known before a model is better than a list of the most popular
films? The models get none, one, two and more films of the same users. The held-out films are always
the same, so only the number of known films differs.
"""

# %%
# Users with an increasing number of films
# ----------------------------------------
# The test users liked 40 films or more. A fifth of these films is held out. The other films are put
# in a random order, and the models get the first n of them.
import numpy as np
from scipy.sparse import csr_array

from skvaecf import EASE, WMF, ItemKNN, MultVAE, Popularity, split_interactions
from skvaecf.datasets import load_movielens_small
from skvaecf.metrics import ndcg

X = load_movielens_small(min_rating=4).data
X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 10]
rng = np.random.RandomState(0)
n_liked = np.diff(X.indptr)
test = rng.permutation(np.flatnonzero(n_liked >= 40))[:150]
train = np.setdiff1d(np.flatnonzero(n_liked >= 5), test)
known, heldout = split_interactions(X[test], random_state=0)
print(f"{len(train)} training users, {len(test)} test users, {X.shape[1]} films")

N_SHOWN = (0, 1, 2, 3, 5, 10, 20, 32)
place = np.concatenate([rng.permutation(n) for n in np.diff(known.indptr)])


def show(n):
    """Return the rows with n films of each user, the first n of the user's random order."""
    return csr_array((place < n, known.indices, known.indptr), shape=known.shape)


# %%
# Lists for all users
# -------------------
models = {
    "EASE": EASE(l2=100),
    "WMF": WMF(32, random_state=0),
    "MultVAE": MultVAE(64, random_state=0),
    "ItemKNN": ItemKNN(50, weighting="bm25"),
    "Popularity": Popularity(),
}
quality = {}
for name, model in models.items():
    model.fit(X[train])
    lists = [model.recommend(show(n), k=20) for n in N_SHOWN]
    quality[name] = np.array([ndcg(ranked, heldout, 20) for ranked in lists])
    print(f"{name:10}", *(f"{mean:.3f}" for mean in quality[name].mean(axis=1)))

# %%
# Few and many known films
# ------------------------
# Without a film every model recommends the most popular films. EASE, WMF and ItemKNN add up
# contributions of the user's films, so with one or two films the scores are noisy. The decoder of
# an autoencoder has a bias for each film, which reflects its popularity. With few known films, the
# encoder changes these scores little. So the autoencoder is never much worse than the others. For
# users with many films the linear models are as good.
#
# The figure
# ----------
# The right panel has the gain over Popularity, computed user by user, with its 95 % interval.
import matplotlib.pyplot as plt

COLORS = {
    "EASE": "#12566e",
    "WMF": "#7a5195",
    "MultVAE": "#d9822b",
    "ItemKNN": "#8fbccb",
    "Popularity": "#777777",
}
figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharex=True)
places = np.arange(len(N_SHOWN))
for shift, (name, values) in enumerate(quality.items()):
    style = {"color": COLORS[name], "marker": "o", "markersize": 4, "label": name}
    axes[0].plot(places, values.mean(axis=1), ls=":" if name == "Popularity" else "-", **style)
    if name != "Popularity":
        gain = values - quality["Popularity"]
        error = gain.std(axis=1, ddof=1) / np.sqrt(len(test))
        axes[1].errorbar(places + 0.06 * (shift - 1.5), gain.mean(axis=1), 1.96 * error, **style)
axes[1].axhline(0, color=COLORS["Popularity"], ls=":", zorder=0)
axes[0].set(
    ylim=(0, None),
    ylabel="NDCG@20 of the same held-out films",
    title="With one or two films, the autoencoder is best",
)
axes[1].set(ylabel="gain over Popularity", title="With five films or more, three models are better")
axes[0].legend(frameon=False)
for ax in axes:
    ax.set_xticks(places, N_SHOWN)
    ax.set_xlabel("number of known films of the user")
    ax.spines[["top", "right"]].set_visible(False)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_cold_and_warm_users.png"
plt.show()
