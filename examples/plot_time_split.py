"""
Random and temporal splits
==========================

Which model is the best can depend on the split. A random split hides old interactions from models
that are trained on later ones. A temporal split lets the models predict the future, as a service
does. This example scores the same models in both ways.
"""

# %%
# The splits
# ----------
# An interaction is a rating of at least 4 stars. A fifth of the films of each user is held out. The
# first two splits train on the other films of the same users and differ in whether the held-out
# films are random or the last ones. The other two splits train on all interactions before a date
# and score the users who came later; the models see the other films of these users. Here, too, the
# held-out films are random or the last ones.
import matplotlib.pyplot as plt
import numpy as np

from skvaecf import (
    EASE,
    WMF,
    ItemKNN,
    Popularity,
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
splits = {  # training data, what the models see, and what they must find
    "all users\nrandom films": (at_random[0], *at_random),
    "all users\nlast films": (in_time[0], *in_time),
    "new users\nrandom films": (past, *split_interactions(later, 0.2, random_state=0)),
    "new users\nlast films": (past, *last_interactions_split(later, times, 0.2)),
}

# %%
# The scores
# ----------
# The models have their default parameters, except for the width of WMF.
models = {
    "Popularity": Popularity(),
    "ItemKNN": ItemKNN(),
    "EASE": EASE(),
    "WMF": WMF(32, random_state=0),
}
scores = {}
for split, (train, fold_in, heldout) in splits.items():
    for name, model in models.items():
        per_user = ndcg_at_k.at(20).per_user(model.fit(train), fold_in, heldout)
        scores[split, name] = per_user[~np.isnan(per_user)]


def mean_and_error(values):
    """Return the mean, and half of its 95 % interval."""
    return values.mean(), 1.96 * values.std(ddof=1) / np.sqrt(len(values))


for split in splits:
    ranking = sorted(models, key=lambda name: -scores[split, name].mean())
    line = "   ".join(f"{name} {scores[split, name].mean():.3f}" for name in ranking)
    print(f"{split.replace(chr(10), ', '):24}{len(scores[split, 'EASE']):4} users   {line}")

# %%
# Random films are easier to find than the last ones: all scores fall by half or more. In the last
# two splits, the training data and the users are the same. With random films, EASE is better than
# ItemKNN and WMF. With the last films, its score is lower than theirs, by less than the error. A
# random split would have favoured a model that is not better at predicting the future.
#
# The figure
# ----------
# Bars are 95 % intervals over users. The differences are computed user by user, so their intervals
# are narrower than those of the scores.
colors = dict(zip(models, ["#999999", "#d9822b", "#12566e", "#7a5195"], strict=True))
figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for place, (name, color) in enumerate(colors.items()):
    x = np.arange(len(splits)) + 0.12 * (place - 1.5)
    style = {"fmt": "o", "ms": 5, "color": color, "label": name}
    means, errors = zip(*(mean_and_error(scores[split, name]) for split in splits), strict=True)
    axes[0].errorbar(x, means, errors, **style)
    if name in ("ItemKNN", "WMF"):
        gains = [scores[split, name] - scores[split, "EASE"] for split in splits]
        means, errors = zip(*map(mean_and_error, gains), strict=True)
        axes[1].errorbar(x, means, errors, **style)
axes[0].set(ylabel="NDCG@20", ylim=(0, None), title="Scores")
axes[1].axhline(0, color=colors["EASE"], lw=1)
axes[1].set(ylabel="difference of NDCG@20", title="Difference from EASE")
for ax in axes:
    ax.set_xticks(range(len(splits)), splits)
    ax.legend(frameon=False, loc="upper right" if ax is axes[0] else "lower right")
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
