"""
Serve an autoencoder with onnxruntime
=====================================

The script writes a fitted model to an ONNX file, which a server runs without torch. The inputs are
the items of one or more users; the outputs are the best other items and their scores. Then the
script compares the lists of onnxruntime with those of ``recommend``, for all test users::

    pip install ".[serving]"
    python examples/serving/export_onnx.py
    python examples/serving/export_onnx.py --model MultDAE --data FILE.npz --out dae.onnx

``FILE.npz`` is a users x items matrix written by ``scipy.sparse.save_npz``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from scipy.sparse import csr_array, load_npz

import skvaecf
from skvaecf import UserSplitter
from skvaecf.datasets import load_movielens_small

MODELS = ["MultVAE", "MultDAE", "RecVAE", "HVampVAE"]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--data", type=Path, help="users x items matrix, .npz; default: MovieLens small"
    )
    parser.add_argument("--model", choices=MODELS, default="MultVAE")
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--k", type=int, default=10, help="length of the lists")
    parser.add_argument("--out", type=Path, default=Path("model.onnx"))
    return parser.parse_args()


def export(model, k, path):
    """Write the file. Its inputs may have any number of users and items."""
    # An example input: the users {0, 1} and {2}.
    two_users = torch.tensor([0, 1, 2]), torch.tensor([2, 1])
    any_length = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        model.to_module(k), two_users, dynamic_shapes={"items": any_length, "counts": any_length}
    )
    torch.onnx.export(program, output_names=["ranked", "scores"], verbose=False).save(path)


def recommend(session, X):
    """Return the lists and the scores of all rows of X."""
    counts = np.diff(X.indptr).astype(np.int64)
    return session.run(None, {"items": X.indices.astype(np.int64), "counts": counts})


def main():
    arguments = parse_arguments()
    X = csr_array(load_npz(arguments.data)) if arguments.data else load_movielens_small().data
    train, test = next(UserSplitter(n_splits=1, test_size=0.2, random_state=0).split(X))
    model = getattr(skvaecf, arguments.model)(max_epochs=arguments.max_epochs, random_state=0)
    model.fit(X[train])
    export(model, arguments.k, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")

    session = onnxruntime.InferenceSession(arguments.out)
    ranked, scores = recommend(session, X[test])
    expected, expected_scores = model.recommend(X[test], arguments.k, return_scores=True)
    print(
        f"the same lists for {(ranked == expected).all(axis=1).mean():.1%} of {len(test)} users,"
        f" scores differ by {np.abs(scores - expected_scores).max():.1e} at most"
    )


if __name__ == "__main__":
    main()
