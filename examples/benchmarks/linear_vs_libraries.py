r"""
Linear recommenders and other libraries
=======================================

The script fits the linear recommenders of skvaecf and those of implicit, irspack and fastslim, as
far as these are installed, on one split of the users. All run in one process, in turn. For every
matrix factorisation the setting with the best validation NDCG@100 is chosen, and only this setting
is scored on the test users::

    pip install implicit irspack fastslim
    python examples/benchmarks/linear_vs_libraries.py --data ml-1m.npz --n-heldout 1000
    python examples/benchmarks/linear_vs_libraries.py --data gowalla.npz --n-heldout 3000 \
        --tasks wmf recommend

``--data`` is a users x items matrix written by ``scipy.sparse.save_npz``. Without it, the script
runs on a synthetic matrix, as a test. Times are medians of ``--repeat`` runs, without the
evaluation. Memory is the peak of the first run of each model, minus the memory of the process
before it (Linux).
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from pathlib import Path

import numpy as np
from machine import precisions, print_machine
from scipy.sparse import csr_array, csr_matrix, load_npz

from skvaecf import EASE, SLIM, WMF, strong_generalization_split
from skvaecf.datasets import make_interactions
from skvaecf.metrics import ndcg, recall

EPOCHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
K = 100


# --- matrix factorisation: each generator yields, for each number of epochs, the seconds of fitting
# and a function that recommends


def ours_wmf(X, n_components, unobserved_weight, l2, epochs):
    for n_epochs in epochs:
        model = WMF(
            n_components,
            unobserved_weight=unobserved_weight,
            l2=l2,
            max_epochs=n_epochs,
            tol=0,
            random_state=0,
        )
        start = time.perf_counter()
        model.fit(X)  # from the start each time
        yield time.perf_counter() - start, lambda rows, model=model: model.recommend(rows, K)


def implicit_als(X, n_components, alpha, regularization, epochs):
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        n_components, regularization=regularization, alpha=alpha, random_state=0
    )
    X, seconds, done = csr_matrix(X), 0.0, 0

    def recommend(rows):
        users = np.arange(rows.shape[0])
        return model.recommend(users, csr_matrix(rows), N=K, recalculate_user=True)[0]

    for n_epochs in epochs:
        model.iterations, done = n_epochs - done, n_epochs
        start = time.perf_counter()
        model.fit(X, show_progress=False)  # continues with the factors of the last call
        seconds += time.perf_counter() - start
        yield seconds, recommend


def irspack_ials(X, n_components, alpha0, reg, epochs):
    from irspack.recommenders import IALSRecommender

    start = time.perf_counter()
    model = IALSRecommender(
        csr_matrix(X, dtype=np.float64), n_components, alpha0=alpha0, reg=reg, n_threads=2
    )
    model.start_learning()
    seconds, done = time.perf_counter() - start, 0

    def recommend(rows):
        rows = csr_matrix(rows, dtype=np.float64)
        return best(model.get_score_cold_user_remove_seen(rows))

    for n_epochs in epochs:
        start = time.perf_counter()
        for _ in range(n_epochs - done):
            model.run_epoch()
        seconds, done = seconds + time.perf_counter() - start, n_epochs
        yield seconds, recommend


def best(scores):
    items = np.argpartition(-scores, K, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(scores, items, axis=1), axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1)


FACTORISATIONS = {
    "skvaecf WMF": (
        ours_wmf,
        [(0.3, 0.005), (0.3, 0.008), (0.5, 0.008), (0.05, 0.003), (0.02, 0.003), (0.02, 0.002)],
    ),
    "implicit ALS": (
        implicit_als,
        [(3.0, 20.0), (3.0, 40.0), (5.0, 60.0), (30.0, 60.0), (50.0, 100.0), (100.0, 100.0)],
    ),
    "irspack iALS": (
        irspack_ials,
        [(0.3, 0.003), (0.5, 0.005), (1.0, 0.003), (0.03, 0.003), (0.02, 0.003), (0.02, 0.002)],
    ),
}


def evaluate(recommend, fold_in, heldout):
    items = recommend(fold_in)
    return np.nanmean(ndcg(items, heldout, K)), np.nanmean(recall(items, heldout, 20))


def curve(name, split, n_components, setting, epochs=EPOCHS):
    """Return seconds and validation NDCG@100 by the number of epochs, and the last recommender."""
    points = []
    factorise = FACTORISATIONS[name][0]
    for seconds, recommend in factorise(split.train, n_components, *setting, epochs):
        found = evaluate(recommend, split.validation_fold_in, split.validation_heldout)
        points.append((seconds, found[0]))
    return np.array(points), recommend


def compare_wmf(split, names, n_components, repeat):
    chosen = {}
    for name in names:
        finals = {}
        for setting in FACTORISATIONS[name][1]:
            points, _ = curve(name, split, n_components, setting, EPOCHS[-1:])
            finals[setting] = points[-1, 1]
            print(f"  {name} {setting}: validation {points[-1, 1]:.4f}", flush=True)
        chosen[name] = max(finals, key=finals.get)
    times, quality = {name: [] for name in names}, {}
    for _ in range(repeat):
        for name in names:
            points, recommend = curve(name, split, n_components, chosen[name])
            first = int(np.argmax(points[:, 1] >= points[-1, 1] - 0.001))
            times[name].append((points[first, 0], EPOCHS[first], points[-1, 0]))
            test = evaluate(recommend, split.test_fold_in, split.test_heldout)
            quality[name] = (points[-1, 1], *test)
    for name in names:
        seconds, epochs, total = np.median(times[name], axis=0)
        validation, test, recall20 = quality[name]
        print(
            f"{name:14} {chosen[name]!s:14} validation {validation:.4f}  test NDCG@100 {test:.4f}"
            f"  R@20 {recall20:.4f}  to within .001: {seconds:.2f} s, {epochs:.0f} epochs;"
            f" {EPOCHS[-1]} epochs {total:.2f} s"
        )


# --- item-item models


def irspack_similarity(kind, X, **settings):
    from irspack import recommenders

    model = getattr(recommenders, kind)(csr_matrix(X, dtype=np.float64), **settings)
    model.learn()
    return model.W


def fastslim_similarity(X, l1, l2):
    import fastslim

    return fastslim.SLIM(lambd=l1, beta=l2, n_threads=2).fit(csr_matrix(X)).fitted_weights()


def dense(similarity):
    return similarity.toarray() if hasattr(similarity, "toarray") else np.asarray(similarity)


def kkt_violation(X, W, l1, l2):
    """Compute the largest violation of the optimality conditions of SLIM, in users."""
    X, W, worst = csr_array(X, dtype=np.float64), csr_array(W, dtype=np.float64), 0.0
    for start in range(0, X.shape[1], 256):
        items = np.arange(start, min(start + 256, X.shape[1]))
        w = W[:, items].toarray()
        g = X.T @ (X[:, items].toarray() - X @ w) - l2 * w - l1
        g[items, items - start] = 0
        worst = max(worst, np.abs(g[w > 0]).max(initial=0), g[w == 0].max(initial=0))
    return worst


def peak_memory():
    """Return the peak memory of the process in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def compare_item_item(split, fits, repeat, measure):
    times, memory, results = {}, {}, {}
    for _ in range(repeat):
        for name, fit in fits.items():
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the current size
            before = peak_memory()
            start = time.perf_counter()
            results[name] = fit(split.train)
            times.setdefault(name, []).append(time.perf_counter() - start)
            memory.setdefault(name, peak_memory() - before)
    first = next(iter(fits))  # of skvaecf
    for name, W in results.items():
        seconds = np.median(times[name])
        print(
            f"{name:14} {seconds:7.2f} s  skvaecf / library {np.median(times[first]) / seconds:.2f}"
            f"  peak +{memory[name]:.0f} MiB  {measure(W)}"
        )


def quality(split, W):
    def recommend(rows):
        scores = rows @ dense(W)
        scores[rows.nonzero()] = -np.inf
        return best(scores)

    return evaluate(recommend, split.test_fold_in, split.test_heldout)[0]


def compare_slim(split, libraries, repeat, l1=5.0, l2=200.0):
    n = split.train.shape[0]
    fits = {"skvaecf": lambda X: SLIM(l1, l2).fit(X).item_similarity_}
    if "irspack" in libraries:
        share = {"alpha": (l1 + l2) / n, "l1_ratio": l1 / (l1 + l2)}
        fits["irspack"] = lambda X: irspack_similarity("SLIMRecommender", X, n_threads=2, **share)
    if "fastslim" in libraries:
        fits["fastslim"] = lambda X: fastslim_similarity(X, l1, l2)
    reference = SLIM(l1, l2).fit(split.train).item_similarity_.toarray()

    def measure(W):
        difference = np.abs(dense(W) - reference).max()
        return (
            f"NDCG@100 {quality(split, W):.4f}  KKT {kkt_violation(split.train, W, l1, l2):.4f}"
            f"  weights {np.count_nonzero(dense(W)):,}  largest difference {difference:.5f}"
        )

    compare_item_item(split, fits, repeat, measure)


def compare_ease(split, libraries, repeat, l2=800.0, dropout=0.2):
    fits = {
        "skvaecf EASE": lambda X: EASE(l2).fit(X).item_similarity_,
        "skvaecf EDLAE": lambda X: EASE(l2, dropout=dropout).fit(X).item_similarity_,
    }
    if "irspack" in libraries:
        fits["irspack EASE"] = lambda X: irspack_similarity("DenseSLIMRecommender", X, reg=l2)
        fits["irspack EDLAE"] = lambda X: irspack_similarity(
            "EDLAERecommender", X, reg=l2, dropout_p=dropout
        )
    compare_item_item(split, fits, repeat, lambda W: f"NDCG@100 {quality(split, W):.4f}")


# --- top 100 for all users


def compare_recommend(split, libraries, n_components, repeat):
    X = split.train
    model = WMF(n_components, unobserved_weight=0.3, l2=0.008, max_epochs=2, random_state=0).fit(X)
    methods = {
        f"skvaecf, {precision}": lambda p=precision: model.set_params(precision=p).recommend(X, K)
        for precision in precisions()
    }
    if "implicit" in libraries:
        from implicit.cpu.als import AlternatingLeastSquares

        library = AlternatingLeastSquares(n_components)
        library.user_factors, library.item_factors = model.transform(X), model.item_factors_
        users, rows = np.arange(X.shape[0]), csr_matrix(X)
        methods["implicit, factors given"] = lambda: library.recommend(users, rows, N=K)[0]
        methods["implicit, fold-in"] = lambda: library.recommend(
            users, rows, N=K, recalculate_user=True
        )[0]
    times, lists = {}, {}
    for _ in range(repeat):
        for name, method in methods.items():
            start = time.perf_counter()
            lists[name] = method()
            times.setdefault(name, []).append(time.perf_counter() - start)
    for name, of in times.items():
        same = (lists[name] == lists["skvaecf, float32"]).mean()
        print(
            f"{name:22} {X.shape[0] / np.median(of):,.0f} users/s  places equal to those of"
            f" float32: {same:.5f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="users x items matrix, .npz")
    parser.add_argument("--n-heldout", type=int, default=100)
    parser.add_argument("--n-components", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    tasks = ("wmf", "slim", "ease", "recommend")
    parser.add_argument("--tasks", nargs="+", default=tasks, choices=tasks)
    arguments = parser.parse_args()
    # Other libraries warn about thread settings and future changes.
    warnings.simplefilter("ignore")
    print_machine()
    X = load_npz(arguments.data) if arguments.data else make_interactions(600, 300, random_state=0)
    split = strong_generalization_split(csr_array(X), arguments.n_heldout)
    libraries = [n for n in ("implicit", "irspack", "fastslim") if importlib.util.find_spec(n)]
    print(f"{split.train.shape} {split.train.nnz:,} interactions; installed: {libraries}")
    for task in arguments.tasks:
        print(f"--- {task}", flush=True)
        if task == "wmf":
            names = [n for n in FACTORISATIONS if n.split()[0] in ("skvaecf", *libraries)]
            compare_wmf(split, names, arguments.n_components, arguments.repeat)
        elif task == "slim":
            compare_slim(split, libraries, arguments.repeat)
        elif task == "ease":
            compare_ease(split, libraries, arguments.repeat)
        else:
            compare_recommend(split, libraries, arguments.n_components, arguments.repeat)


if __name__ == "__main__":
    main()
