"""
Tuning with a grid search
=========================

A recommender is searched like any scikit-learn estimator. ``UserSplitter`` holds users out, the
scorer hides a fifth of each held-out user's films and asks for them back.

The second search is over a pipeline: from how many stars on does a rating count as an
interaction? The scorer's ``relevance_threshold`` fixes what must be found, 4 stars and more,
whatever the pipeline makes of the ratings; otherwise each threshold would be given another exam.
"""

# %%
# The ratings, in stars
# ---------------------
import numpy as np

from skvaecf.datasets import load_movielens_small

movielens = load_movielens_small()
known = np.bincount(movielens.data.indices) >= 20  # films that twenty people have rated
ratings, titles = movielens.data[:, known], movielens.item_names[known]
print(f"{ratings.shape[0]} users, {ratings.shape[1]} films, {ratings.nnz} ratings")

# %%
# How much KL, how much dropout?
# ------------------------------
from sklearn.model_selection import GridSearchCV

from skvaecf import MultVAE, RankingScorer, UserSplitter, ndcg_at_k, recommend

cv = UserSplitter(n_splits=2, test_size=0.2, random_state=0)
model = MultVAE(64, encoder_layer_sizes=(200,), max_epochs=25, random_state=0)
search = GridSearchCV(
    model,
    {"kl_weight": [0.0, 0.2, 1.0], "dropout": [0.2, 0.5]},
    scoring=ndcg_at_k,
    cv=cv,
)
search.fit(ratings)
print(search.best_params_, round(search.best_score_, 3))

# %%
# Which ratings are interactions?
# -------------------------------
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
# Recommendations of the best pipeline for one user: liked before, and new.
user = ratings[[14]]
seen = user.indices[user.data >= 5][:5]
print("liked:", ", ".join(titles[seen]))
new = recommend(threshold_search, user, k=5)[0]
print("new:  ", ", ".join(titles[new]))

# %%
# Both searches in one figure
# ---------------------------
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
axes[0].set(xlabel="kl_weight", ylabel="NDCG@100", title="MultVAE")
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
axes[1].set(xlabel="stars above which a rating counts", title="NDCG@100 of films rated 4 and more")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
