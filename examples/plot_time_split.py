"""
Random and temporal splits
==========================

Which model is the best can depend on the split. A random split holds out old interactions from
models that are trained on later ones. With a temporal split the models predict the future, as in a
service. This example scores the same models in both ways.
"""

# %%
# The splits
# ----------
# An interaction is a rating of at least 4 stars. A fifth of the films of each user is held out. The
# first two splits train on the other films of the same users. The held-out films are random or the
# last ones. The other two splits train on all interactions before a date and score the users who
# came later. The models get the other films of these users. Here, too, the held-out films are
# random or the last ones.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skvaecf import (
    EASE,
    WMF,
    ItemKNN,
    Popularity,
    compare,
    last_interactions_split,
    ndcg_at_k,
    split_interactions,
    time_split,
)
from skvaecf.datasets import load_movielens_small

movielens = load_movielens_small(min_rating=4)
X, times = movielens.data, movielens.times
films = np.bincount(X.indices) >= 10
X, times = X[:, films], times[:, films]

at_random = split_interactions(X, test_size=0.2, random_state=0)
in_time = last_interactions_split(X, times, test_size=0.2)
past, later = time_split(X, times, test_size=0.3, new_users="only")
splits = {  # training data, fold-in and held-out films
    "all users\nrandom films": (at_random[0], *at_random),
    "all users\nlast films": (in_time[0], *in_time),
    "new users\nrandom films": (past, *split_interactions(later, 0.2, random_state=0)),
    "new users\nlast films": (past, *last_interactions_split(later, times, 0.2)),
}

# %%
# The scores
# ----------
# The models have their default parameters, except for the width of WMF. They are compared with
# EASE.
models = {
    "Popularity": Popularity(),
    "ItemKNN": ItemKNN(),
    "EASE": EASE(),
    "WMF": WMF(32, random_state=0),
}
tables = {}
for split, (train, fold_in, heldout) in splits.items():
    comparison = compare(
        models, train, X_test=(fold_in, heldout), scoring=ndcg_at_k.at(20), reference="EASE"
    )
    tables[split] = pd.DataFrame(comparison.table).set_index("model")
    columns = ["mean", "standard_error", "difference", "p_value_holm", "n_users"]
    print(split.replace("\n", ", "), tables[split][columns].round(3), sep="\n", end="\n\n")

# %%
# Random films are easier to find than the last ones: all scores fall by half or more. In the last
# two splits, the training data and the users are the same. With random films, EASE is better than
# ItemKNN and WMF. With the last films, its score is lower than theirs, by less than the error. A
# random split would have favoured a model that is not better at predicting the future.
#
# The figure
# ----------
# Bars are 95 % intervals over users. The differences are computed user by user, so their intervals
# are narrower than those of the scores (:doc:`/comparing`).
colors = dict(zip(models, ["#999999", "#d9822b", "#12566e", "#7a5195"], strict=True))
figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for place, (name, color) in enumerate(colors.items()):
    x = np.arange(len(splits)) + 0.12 * (place - 1.5)
    rows = pd.DataFrame([table.loc[name] for table in tables.values()])
    style = {"fmt": "o", "ms": 5, "color": color, "label": name}
    axes[0].errorbar(x, rows["mean"], 1.96 * rows["standard_error"], **style)
    if name in ("ItemKNN", "WMF"):
        error = 1.96 * rows["difference_standard_error"]
        axes[1].errorbar(x, rows["difference"], error, **style)
axes[0].set(ylabel="NDCG@20", ylim=(0, None), title="Scores")
axes[1].axhline(0, color=colors["EASE"], lw=1)
axes[1].set(ylabel="difference of NDCG@20", title="Difference from EASE")
for ax in axes:
    ax.set_xticks(range(len(splits)), splits)
    ax.legend(frameon=False, loc="upper right" if ax is axes[0] else "lower right")
    ax.spines[["top", "right"]].set_visible(False)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_time_split.png"
plt.show()
