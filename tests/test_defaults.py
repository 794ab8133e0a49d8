"""Recommenders with their defaults, as a newcomer calls them."""

import pytest
from conftest import CASES

import skvaecf
from skvaecf import Popularity, ndcg_at_k, strong_generalization_split
from skvaecf.datasets import make_interactions

SHORTER = {"HVampVAE": {"max_epochs": 5}, "RecVAE": {"max_epochs": 2}}  # to save time


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"Blend", "Popularity"}))
def test_defaults_find_the_items_of_a_users_block(name):
    X = make_interactions(400, 120, density=0.3, noise=0.1, random_state=0)
    split = strong_generalization_split(X, 80, random_state=0)
    model = getattr(skvaecf, name)(**SHORTER.get(name, {}))
    if "random_state" in model.get_params():
        model.set_params(random_state=0)
    scores = [
        ndcg_at_k(m.fit(split.train), split.test_fold_in, split.test_heldout)
        for m in (model, Popularity())
    ]
    assert scores[0] > 1.3 * scores[1]
