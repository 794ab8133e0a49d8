"""
Cost of a training step
=======================

The script times one update of ``MultVAE`` with a hidden layer in encoder and decoder, and two
baselines:

* *products*: only the dense products of the item-wide layers, forward and backward, which a
  straightforward implementation cannot avoid;
* *plain torch*: the same network on dense float32 rows with ``torch.optim.Adam``.

It also compares two pairs of models with a hidden layer in the encoder and a linear decoder: the
n-choose-k and the multinomial likelihood, and ``SIVAERecommender`` and ``MultVAE`` with the
multinomial likelihood. Two further updates are those of ``MultVAE()`` and ``SIVAERecommender()``,
with their defaults.

Run it with ``python examples/benchmarks/training_step.py``. All updates run in one process, in
turn. The figures are medians. Products are computed in float32 and, where the CPU has instructions
for it, in bfloat16. The ratios at the end are those of the fastest precision.

With ``--catalogues 20108 200000 1000000`` it times updates of ``MultVAE(64)`` in catalogues of
these sizes instead, with and without ``n_sampled_items=2000``. All catalogues have the same
interactions, with 20,108 items; the further items have none. Updates of all items are left out
above 200,000 items, because they need much memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import numpy as np
import torch
from machine import precisions, print_machine
from scipy.sparse import csr_array
from torch import nn
from torch.nn import functional as F

from skvaecf import MultVAE, SIVAERecommender
from skvaecf._devices import check_precision
from skvaecf.interactions import binary_csr
from skvaecf.neural import InteractionBatch
from skvaecf.neural._layers import initialize, set_precision
from skvaecf.neural._training import Game

HIDDEN, LATENT = 600, 200
# The model of the figures in docs/performance.rst.
HIDDEN_LAYER = {
    "encoder_layer_sizes": (HIDDEN,),
    "likelihood": "multinomial",
    "kl_weight": 0.5,
    "l2": 0.0,
    "learning_rate": 1e-3,
    "anneal_steps": "auto",
}


def make_rows(n_users, n_items, density, seed=0):
    """Draw rows with a long-tailed popularity, about ``density`` items each."""
    random = np.random.RandomState(seed)
    popularity = 1 / np.arange(1, n_items + 1) ** 0.8
    popularity /= popularity.sum()
    n = np.minimum(random.geometric(1 / density, n_users) + 5, n_items // 4)
    columns = np.concatenate(
        [random.choice(n_items, size, replace=False, p=popularity) for size in n]
    )
    indptr = np.concatenate([[0], n.cumsum()])
    return binary_csr(csr_array((np.ones(len(columns)), columns, indptr), (n_users, n_items)))


def new_game(model, X, precision):
    """Return a game whose mini-batches are all rows of X, and its random generator."""
    device, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
    network = model._empty_network(X.shape, device)
    x = InteractionBatch.from_csr(X)
    initialize(network, generator, x)
    set_precision(network, check_precision(precision, device))
    players, sampling = model._players(network, x), model._sampling(network, x)
    return Game(players, x, batch_size=x.n_users, sampling=sampling), generator


def skvaecf_step(model, X, precision):
    """Return a function that makes one update of the model's only player, on all rows of X."""
    game, generator = new_game(model, X, precision)
    return lambda: game.play(0, generator)


def plain_step(X):
    """Return a function that makes one plain update: dense float32 rows, default Adam."""
    n_items = X.shape[1]
    encoder = nn.Sequential(nn.Linear(n_items, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, n_items))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])

    def step():
        x = torch.from_numpy(X.toarray())
        mu, log_variance = encoder(F.dropout(F.normalize(x), 0.5)).chunk(2, dim=1)
        z = mu + (log_variance / 2).exp() * torch.randn_like(mu)
        log_likelihood = (F.log_softmax(decoder(z), dim=1) * x).sum(dim=1)
        kl = 0.5 * (log_variance.exp() + mu**2 - 1 - log_variance).sum(dim=1)
        loss = (0.1 * kl - log_likelihood).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def bare_products(n_users, n_items, dtype):
    """Return a function that makes the five products of the item-wide layers."""
    x = torch.randn(n_users, n_items).to(dtype)
    h = torch.randn(n_users, HIDDEN).to(dtype)
    w = torch.randn(HIDDEN, n_items).to(dtype)

    def step():
        x @ w.T  # encoder, forward
        h.T @ x  # encoder, gradient of the weight
        h @ w  # decoder, forward
        x @ w.T  # decoder, gradient of its input
        h.T @ x  # decoder, gradient of the weight

    return step


def time_catalogues(X, sizes, n_rounds, precision):
    """Print the processor time of an update of all items and of a sample, in each catalogue."""
    users, n_known = torch.arange(X.shape[0]), X.shape[1]
    n_present = len({*X.indices.tolist()})
    print(f"{X.shape[0]} users with {n_present} different items, {X.nnz} interactions; {precision}")
    games, seconds = {}, defaultdict(list)
    for n_items in sizes:
        # The known items are spread over the catalogue.
        indices = X.indices.astype(np.int64) * (n_items // n_known)
        grown = csr_array((X.data, indices, X.indptr), (X.shape[0], n_items))
        for n_sampled in (None, 2000):
            if n_sampled is not None or n_items <= 200_000:
                model = MultVAE(64, init="random", l2=1.0, n_sampled_items=n_sampled)
                games[n_items, n_sampled] = new_game(model, grown, precision)
    for i in range(n_rounds + 2):
        for key, (game, generator) in games.items():
            start = time.process_time()
            game.update(game.players[0], 0.0, users, generator)
            if i >= 2:  # the first two rounds are not timed
                seconds[key].append(time.process_time() - start)
    for (n_items, n_sampled), values in seconds.items():
        used = "all items" if n_sampled is None else f"{n_sampled} sampled items"
        low, median, high = (f(values) * 1e3 for f in (min, statistics.median, max))
        print(f"{n_items:10,} items, {used:20}{median:8.0f} ms   ({low:.0f} to {high:.0f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--items", type=int, default=20108)
    parser.add_argument("--density", type=int, default=70, help="mean interactions per user")
    parser.add_argument("--repeat", type=int, default=11)
    parser.add_argument(
        "--seconds", type=float, default=200, help="time after which no further round begins"
    )
    parser.add_argument(
        "--catalogues", type=int, nargs="+", help="numbers of items, at least --items"
    )
    arguments = parser.parse_args()
    print_machine()
    X = make_rows(arguments.users, arguments.items, arguments.density)
    if arguments.catalogues:
        time_catalogues(X, arguments.catalogues, arguments.repeat, [*precisions()][-1])
        return
    mirrored = MultVAE(LATENT, decoder_layer_sizes=(HIDDEN,), **HIDDEN_LAYER)
    multinomial, sivae = MultVAE(**HIDDEN_LAYER), SIVAERecommender(**HIDDEN_LAYER)
    n_choose_k = MultVAE(**HIDDEN_LAYER | {"likelihood": "n-choose-k"})
    steps = {"plain torch, dense float32": plain_step(X)}
    for precision in precisions():
        dtype = getattr(torch, precision)
        steps[f"products, {precision}"] = bare_products(*X.shape, dtype)
        steps[f"skvaecf, {precision}"] = skvaecf_step(mirrored, X, precision)
    models = {
        "multinomial": multinomial,
        "n-choose-k": n_choose_k,
        "SIVAE": sivae,
        "MultVAE()": MultVAE(),
        "SIVAE()": SIVAERecommender(),
    }
    for name, model in models.items():
        steps[f"{name}, {precision}"] = skvaecf_step(model, X, precision)
    seconds = {name: [] for name in steps}
    began = time.perf_counter()
    for i in range(arguments.repeat + 2):
        if i > 2 and time.perf_counter() - began > arguments.seconds:
            break
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if i >= 2:  # the first two rounds are not timed
                seconds[name].append(time.perf_counter() - start)
    n_rounds = len(seconds["plain torch, dense float32"])
    size = f"{arguments.users} users x {arguments.items} items, {X.nnz} interactions"
    print(f"{size}; {n_rounds} rounds")
    median = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
    for name, value in median.items():
        low, high = min(seconds[name]) * 1e3, max(seconds[name]) * 1e3
        print(f"{name:28}{value:9.1f} ms   ({low:.1f} to {high:.1f})")
    ours, products = median[f"skvaecf, {precision}"], median[f"products, {precision}"]
    print(f"Ratios, {precision}:")
    print(f"skvaecf / products:          {ours / products:.2f}")
    print(f"plain torch / skvaecf:       {median['plain torch, dense float32'] / ours:.2f}")
    for name in ("n-choose-k", "SIVAE"):
        ratio = median[f"{name}, {precision}"] / median[f"multinomial, {precision}"]
        print(f"{name + ' / multinomial:':28} {ratio:.2f}")


if __name__ == "__main__":
    main()
