"""Train a model with two processes, and with one process for comparison.

``torchrun --nproc-per-node 2 examples/scaling/data_parallel.py --out model.skvaecf`` distributes
the rows of every mini-batch over the processes and averages their gradients. The process of rank 0
saves the model, trains it again alone, and prints the NDCG@100 of the test users for both fits.
"""

import argparse
import time

import numpy as np
import torch
from torch import distributed

from skvaecf import MultVAE, ndcg_at_k, strong_generalization_split
from skvaecf.datasets import load_movielens_small


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="model.skvaecf")
    options = parser.parse_args()

    X = load_movielens_small(min_rating=4).data
    X = X[:, np.bincount(X.indices, minlength=X.shape[1]) >= 10]
    split = strong_generalization_split(X[np.diff(X.indptr) >= 5], 120)
    validation = split.validation_fold_in, split.validation_heldout

    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, n_ranks = distributed.get_rank(), distributed.get_world_size()
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    # The output in docs/scaling_out.rst is of this model.
    model = MultVAE(
        100,
        likelihood="multinomial",
        kl_weight=0.5,
        l2=0,
        learning_rate=3e-3,
        batch_size=60,
        init="random",
        learning_rate_schedule="constant",
        max_epochs=200,
        anneal_steps="auto",
        random_state=0,
    )

    def fit_and_score():
        started = time.perf_counter()
        model.fit(split.train, X_val=validation)
        seconds = time.perf_counter() - started
        ndcg = ndcg_at_k(model, split.test_fold_in, split.test_heldout)
        return f"NDCG@100 {ndcg:.4f} (epoch {model.best_iter_}), {seconds:.1f} s"

    together = fit_and_score()
    distributed.destroy_process_group()
    if rank == 0:
        model.save(options.out)
        print(f"{n_ranks} processes: {together}")
        print(f"alone: {fit_and_score()}")


if __name__ == "__main__":
    main()
