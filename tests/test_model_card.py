"""The model card of the examples."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from scipy.sparse import csr_array

pytest.importorskip("skops.card")

import skvaecf
from skvaecf import EASE, MultVAE, Popularity
from skvaecf.datasets import make_interactions

PATH = Path(__file__).parents[1] / "examples/serving/model_card.py"


def test_a_card_has_what_the_model_and_its_matrix_say():
    model_card = runpy.run_path(str(PATH))["model_card"]
    X = make_interactions(100, 40, random_state=0)
    model = MultVAE(max_epochs=2, random_state=0).fit(X)
    card = model_card(model, X, {"NDCG@100": 0.25}, data="Planted blocks.", limits="A toy.")
    text = card.render()
    rows = {tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in text.splitlines()}
    assert {("users", "100"), ("items", "40"), ("interactions", str(X.nnz))} <= rows
    assert {("n_iter_", "2"), ("l2_", f"{model.l2_:.6g}"), ("max_epochs", "2")} <= rows
    assert ("NDCG@100", "0.25") in rows
    for words in (f"skvaecf {skvaecf.__version__}", "Planted blocks.", "A toy.", "Liang, Krishnan"):
        assert words in text
    assert ">>>" not in text


@pytest.mark.parametrize("model", [EASE(), Popularity()])
def test_the_texts_that_are_missing_are_marked(model):
    model_card = runpy.run_path(str(PATH))["model_card"]
    X = make_interactions(100, 40, random_state=0)
    text = model_card(model.fit(X), X, {}).render()
    n_missing = 3 + isinstance(model, Popularity)  # its class names no paper
    assert text.count("To be written") == n_missing


def test_half_of_the_interactions():
    model_card = runpy.run_path(str(PATH))["model_card"]
    X = csr_array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    text = model_card(Popularity().fit(X), X, {}).render()
    assert "Half of the training interactions are with 2 items" in text
