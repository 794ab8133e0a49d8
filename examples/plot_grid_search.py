"""
Tuning with a grid search
=========================

``GridSearchCV`` works with a recommender as with any scikit-learn estimator. ``UserSplitter`` holds
users out. The scorer holds out a fifth of the films of each of these users, and the model must find
them.

The second search is over a pipeline. Its parameter is the number of stars from which a rating
counts as an interaction. The scorer's ``relevance_threshold`` fixes which films must be found,
those with 4 stars or more, whatever the pipeline does with the ratings. Without it, each threshold
would be scored on different held-out films.
"""

# %%
# The ratings, in stars
# ---------------------
import numpy as np

from skvaecf.datasets import load_movielens_small

movielens = load_movielens_small()
known = np.bincount(movielens.data.indices) >= 20  # at least twenty ratings
ratings, titles = movielens.data[:, known], movielens.item_names[known]
print(f"{ratings.shape[0]} users, {ratings.shape[1]} films, {ratings.nnz} ratings")

# %%
# The weight of the KL term, and the dropout
# ------------------------------------------
from sklearn.model_selection import GridSearchCV

from skvaecf import MultVAE, RankingScorer, UserSplitter, ndcg_at_k, recommend

cv = UserSplitter(n_splits=2, test_size=0.2, random_state=0)
model = MultVAE(64, max_epochs=12, random_state=0)
search = GridSearchCV(
    model,
    {"kl_weight": [0.0, 0.2, 1.0], "dropout": [0.2, 0.5]},
    scoring=ndcg_at_k,
    cv=cv,
)
search.fit(ratings)
print(search.best_params_, round(search.best_score_, 3))

# %%
# The ratings that count as interactions
# --------------------------------------
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Binarizer

pipeline = Pipeline([("binarize", Binarizer()), ("model", model)])
liked = RankingScorer("ndcg", k=100, relevance_threshold=3.5)
threshold_search = GridSearchCV(
    pipeline, {"binarize__threshold": [0, 2.5, 3.5]}, scoring=liked, cv=cv
)
threshold_search.fit(ratings)
print(threshold_search.best_params_, round(threshold_search.best_score_, 3))

# %%
# Films that one user liked, and recommendations of the best pipeline for this user.
user = ratings[[14]]
seen = user.indices[user.data >= 5][:5]
print("liked:", ", ".join(titles[seen]))
new = recommend(threshold_search, user, k=5)[0]
print("new:  ", ", ".join(titles[new]))

# %%
# Both searches in one figure
# ---------------------------
# A point is the mean over the two splits, its bar the standard deviation.
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
results = search.cv_results_
for dropout, color in [(0.2, "#9fc3cf"), (0.5, "#1f6f8b")]:
    of = [p["dropout"] == dropout for p in results["params"]]
    axes[0].errorbar(
        [p["kl_weight"] for p, o in zip(results["params"], of, strict=True) if o],
        results["mean_test_score"][of],
        results["std_test_score"][of],
        marker="o",
        capsize=3,
        color=color,
        label=f"dropout {dropout}",
    )
axes[0].set(xlabel="kl_weight", ylabel="NDCG@100", title="Weight of the KL term, and dropout")
axes[0].legend(frameon=False)
results = threshold_search.cv_results_
axes[1].errorbar(
    [p["binarize__threshold"] for p in results["params"]],
    results["mean_test_score"],
    results["std_test_score"],
    marker="o",
    capsize=3,
    color="#1f6f8b",
)
axes[1].set(
    xlabel="ratings above this number of stars count",
    ylabel="NDCG@100 of films rated 4 and more",
    title="Threshold of the ratings",
)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_grid_search.png"
plt.show()
