"""
The distribution of a set, and its two bounds
=============================================

A user has a set of N items, each item once. Given scores of the items, the distribution of such a
set is

    log p(x | scores, N) = sum of the scores of the N items - log e_N(exp(scores)),

where e_N sums over all sets of N items. Autoencoders are trained with the multinomial or the
Bernoulli likelihood. Both are lower bounds of it, because they are upper bounds of log e_N:

* multinomial: log e_N <= N logsumexp(scores). This also holds after subtracting log N! on the
  right, because the N-th power of the sum contains every set N! times.
* Bernoulli: log e_N <= sum softplus(scores + t) - N t, for any offset t. The smallest bound is that
  of the best intercept t of the user.

How large are the gaps, for which users, and do they matter? ``likelihood="n-choose-k"`` trains with
the distribution itself.
"""

# %%
# The gaps, on known scores
# -------------------------
# The bounds are compared with log e_N for scores of increasing spread. The constant log N! has no
# gradient, so it is subtracted first.
import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import expit, gammaln, log_expit, logsumexp

from skvaecf.neural import NChooseK


class Exact(NChooseK):
    """The exact likelihood: without the series, whose error is up to a thousandth of a nat."""

    tolerance = 0.0


def log_e_and_marginals(scores, n):
    """Compute log e_n(exp(scores)) and the probability that each item is in the set."""
    logits, n = torch.tensor(scores)[None], torch.tensor([[float(n)]], dtype=torch.float64)
    value, saved = Exact.log_normalizer([logits], n)
    return value.item(), Exact.mean(logits.clone(), n, saved)[0].numpy()


def gaps(scores, n):
    """Compute the gaps of the two bounds, in nats."""
    exact, _ = log_e_and_marginals(scores, n)
    multinomial = n * logsumexp(scores) - gammaln(n + 1)
    t = brentq(lambda t: expit(scores + t).sum() - n, -60 - scores.max(), 60 - scores.min())
    bernoulli = -log_expit(-scores - t).sum() - n * t
    return multinomial - exact, bernoulli - exact


rng = np.random.RandomState(0)
sizes = np.unique(np.geomspace(2, 300, 16).astype(int))
by_spread = {}
for spread in (0.5, 1, 2, 3):
    scores = spread * rng.normal(size=2000)
    by_spread[spread] = np.array([gaps(scores, n) for n in sizes])
    print(f"spread {spread}: at N = {sizes[-1]}, {by_spread[spread][-1].round(2)} nats")

# %%
# The multinomial draws with replacement. With N draws it expects N softmax(scores) clicks on an
# item. If N is large and the scores are peaked, this is more than one click, which is the maximum.
scores = 3 * rng.normal(size=2000)
_, marginals = log_e_and_marginals(scores, 200)
expected = 200 * np.exp(scores - logsumexp(scores))
top = np.argsort(-scores)
print(f"expected clicks on the best item: {expected.max():.1f}, probability {marginals.max():.3f}")

# %%
# The gaps, on films
# ------------------
# A model is trained with each likelihood. The gaps are computed for each user, at the scores of the
# model with the n-choose-k likelihood.
from skvaecf import MultVAE, UserSplitter, ndcg_at_k
from skvaecf.datasets import load_movielens_small

X = load_movielens_small(min_rating=4).data
train, test = next(UserSplitter(n_splits=1, test_size=0.25, random_state=0).split(X))
quality, on_films = {}, {}
for likelihood in ("multinomial", "bernoulli", "n-choose-k"):
    model = MultVAE(50, likelihood=likelihood, learning_rate=1e-3, random_state=0)
    model.set_params(max_epochs=40).fit(X[train])
    quality[likelihood] = ndcg_at_k(model, X[test])
    print(f"{likelihood:12} NDCG@100 of new users {quality[likelihood]:.3f}")
    if likelihood == "n-choose-k":
        counts = np.diff(X[test].indptr)
        films = model.predict(X[test]).astype(float)
        on_films = np.array([gaps(row, n) for row, n in zip(films, counts, strict=True)])

# %%
# The figure
# ----------
# Left: the multinomial bound is tight for users with few items. For users with many items its gap
# is tens of nats, and it grows as the scores get more peaked. The gap of the Bernoulli bound, with
# an intercept for each user, is 1/2 log(2 pi variance) for all scores. Middle: the expected numbers
# of each item, which explain the gap of the multinomial bound. Right: the gaps on films.
import matplotlib.pyplot as plt

colors = ["#c9dfe6", "#8fbccb", "#4a93ab", "#12566e"]
figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained")
for color, (spread, gap) in zip(colors, by_spread.items(), strict=True):
    axes[0].plot(sizes, gap[:, 0], color=color, lw=2, label=f"{spread}")
    axes[0].plot(sizes, gap[:, 1], color=color, lw=2, ls=(0, (2, 1.5)))
axes[0].set(
    xscale="log",
    yscale="log",
    ylim=(1e-3, 1e3),
    xlabel="N, number of items of the user",
    ylabel="nats above log e$_N$",
    title="Gaps for 2,000 normal scores",
)
axes[0].legend(title="spread of scores", frameon=False, loc="upper left", ncols=2)
axes[0].text(2, 4.5, "Bernoulli, dashed", fontsize=9)

axes[1].axhline(1, color="0.8", lw=1)
ranks = np.arange(1, 401)
axes[1].plot(ranks, expected[top][:400], color="#c2703d", lw=2, label="multinomial")
axes[1].plot(ranks, marginals[top][:400], color="#12566e", lw=2, label="n-choose-k")
axes[1].set(
    xscale="log",
    yscale="log",
    xlabel="position of the item",
    ylabel="expected number in the user's set",
    title="Expected numbers, spread 3, N = 200",
)
axes[1].text(1, 0.75, "at most 1", fontsize=9, color="0.4", va="top")
axes[1].legend(frameon=False)

axes[2].scatter(counts, on_films[:, 0], s=14, color="#c2703d", label="multinomial", lw=0)
axes[2].scatter(counts, on_films[:, 1], s=14, color="#12566e", label="Bernoulli", lw=0)
axes[2].set(
    xscale="log",
    yscale="log",
    xlabel="N, number of films that the user liked",
    ylabel="nats above log e$_N$",
    title=f"Gaps for {len(counts)} new users of MovieLens",
)
axes[2].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
# sphinx_gallery_thumbnail_path = "thumbnails/plot_n_choose_k.png"
plt.show()
