"""Quality and time of ten updates by ``partial_fit``, compared with a fit on all data after each.

    python examples/benchmarks/daily_updates.py log.parquet --share 0.5

The log has the columns user, item and timestamp (in seconds). A quarter of the users is held out.
The last ten days of the others, or with ``--share`` the last share of their interactions in ten
equal parts, are ten batches. After each batch, one model is fitted on all interactions so far, and
one is updated. Times are CPU seconds of the ten fits and of the ten updates, which alternate. EASE
and ItemKNN get the whole rows of the users of a batch, and take their former rows back. WMF gets
the interactions of the batch only. ELSA and MultVAE get the rows of all users so far; with
``--batch-only``, the whole rows of the users of the batch. Quality is the NDCG@100 of the held-out
users.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from machine import print_machine

from skvaecf import EASE, ELSA, WMF, InteractionEncoder, ItemKNN, MultVAE, ndcg_at_k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log")
    parser.add_argument("--share", type=float, help="share of the interactions in the batches")
    names = ["EASE", "ItemKNN", "WMF", "ELSA", "MultVAE"]
    parser.add_argument("--models", nargs="+", default=names)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-only", action="store_true")
    arguments = parser.parse_args()
    print_machine()
    log = pd.read_parquet(arguments.log).sort_values("timestamp", kind="stable")
    users = np.random.RandomState(0).permutation(log["user"].unique())
    heldout = log["user"].isin(users[: len(users) // 4])
    log, test = log[~heldout], log[heldout]
    if arguments.share is None:
        day = log["timestamp"] // 86_400
        batch = day.map({d: n for n, d in enumerate(sorted(day.unique())[-10:])}).fillna(-1)
    else:
        place = np.arange(len(log)) / len(log)
        batch = np.floor((place - 1 + arguments.share) / arguments.share * 10).clip(-1)
    batch = np.asarray(batch, dtype=int)
    print(f"interactions: {(batch < 0).sum()}, then {np.bincount(batch[batch >= 0]).tolist()}")
    networks = [model(random_state=arguments.seed) for model in (ELSA, MultVAE)]
    for model in (EASE(), ItemKNN(), WMF(random_state=arguments.seed), *networks):
        if type(model).__name__ in arguments.models:
            replay = model in networks and not arguments.batch_only
            run(model, log, batch, test, replay=replay)


def run(
    model: Any, log: pd.DataFrame, batch: np.ndarray, test: pd.DataFrame, *, replay: bool
) -> None:
    encoder, first = InteractionEncoder(), log[batch < 0]
    encoder.fit(first)
    model.partial_fit(encoder.transform(first))
    seconds = {"fits": 0.0, "updates": 0.0}

    def timed(name: str, task: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = task()
        seconds[name] += time.process_time() - started
        return result

    refitted = model
    for number in range(10):
        new, before = log[batch == number], log[batch < number]
        encoder.partial_fit(new)
        X = encoder.transform(log[batch <= number])
        refitted = timed("fits", lambda X=X: type(model)(**model.get_params()).fit(X))
        if isinstance(model, WMF):
            X_new = encoder.transform(new)
            timed("updates", lambda X=X_new: model.partial_fit(X))
            continue
        known = before if replay else before[before["user"].isin(new["user"])]
        whole = encoder.transform(pd.concat([known, new]))
        taken_back = {"X_before": encoder.transform(known)} if len(known) else {}
        timed("updates", lambda X=whole, old=taken_back: model.partial_fit(X, **old))
    encoder_of_first = InteractionEncoder().fit(first)
    stale = type(model)(**model.get_params()).fit(encoder_of_first.transform(first))
    Y = encoder.transform(test[test["item"].isin(encoder.item_ids_)])
    Z = Y[:, encoder.item_numbers(encoder_of_first.item_ids_)]
    print(
        f"{type(model).__name__:8} NDCG@100: fit {ndcg_at_k(refitted, Y):.4f}, updated"
        f" {ndcg_at_k(model, Y):.4f}, first fit only {ndcg_at_k(stale, Z):.4f}; CPU seconds:"
        f" fits {seconds['fits']:.2f}, updates {seconds['updates']:.2f}"
    )


if __name__ == "__main__":
    main()
