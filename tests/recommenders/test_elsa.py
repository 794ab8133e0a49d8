"""ELSA against a dense implementation of its objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import batch_of, new_network, players_of, seeded
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from torch.nn import functional as F

from skvaecf import EASE, ELSA, Popularity
from skvaecf.datasets import make_interactions
from skvaecf.neural import InteractionBatch
from skvaecf.recommenders import elsa

N_COMPONENTS = 4


def dense_loss(weight, x):
    """Compute || x/|x| - y/|y| ||^2 of each row, where y = x (A A' - I)."""
    A = F.normalize(weight)
    y = x @ (A @ A.T - torch.eye(len(A), dtype=A.dtype))
    return (F.normalize(x) - F.normalize(y)).square().sum(dim=1)


def in_float64(X, seed=0):
    """Return a player, its weight, and all rows as a mini-batch, in float64."""
    model = ELSA(N_COMPONENTS)
    network = new_network(model, X).double()
    network.precision = torch.float64
    with torch.no_grad():  # rows of different lengths, far from the start of a fit
        network.weight.copy_(torch.randn(network.weight.shape, generator=seeded(seed)))
        network.weight.mul_(torch.linspace(0.1, 7, X.shape[1])[:, None])
    (player,) = players_of(model, network, X)
    batch = batch_of(X)
    rows = batch.x.with_values(batch.x.values.double())
    return player, network, batch._replace(x=rows)


@pytest.mark.parametrize("block_entries", [1, 28, 2**18])
def test_loss_and_gradient_are_those_of_the_dense_formula(small_X, block_entries, monkeypatch):
    monkeypatch.setattr(elsa, "BLOCK_ENTRIES", block_entries)
    player, network, batch = in_float64(small_X)
    expected = dense_loss(network.weight, torch.tensor(small_X.toarray()).double()).mean()
    loss = player.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, [network.weight])
    (reference,) = torch.autograd.grad(expected, [network.weight])
    assert reference.abs().max() > 1e-3
    assert_allclose(gradient, reference, rtol=1e-10, atol=1e-14)


def test_gradients_of_the_two_products_are_those_of_finite_differences(small_X):
    _, network, batch = in_float64(small_X)
    assert torch.autograd.gradcheck(
        lambda W: elsa._Project.apply(W, batch.x, torch.float64), [network.weight]
    )


def test_loss_by_hand():
    # A = [[1, 0], [0.6, 0.8], [0, 1]] and x = (1, 1, 0): h = (1.6, 0.8), A h = (1.6, 1.6, 0.8).
    X = csr_array([[1.0, 1.0, 0.0]], dtype=np.float32)
    model = ELSA(2)
    network = new_network(model, X)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, 0.0], [0.3, 0.4], [0.0, 5.0]]))
        network.measure()
    (player,) = players_of(model, network, X)
    x = batch_of(X).x
    assert_allclose(model._latent(network, x).detach(), [[1.6, 0.8]], rtol=1e-6)
    assert_allclose(model._logits(network, x).detach(), [[0.6, 0.6, 0.8]], rtol=1e-6)
    # x.y = 1.2, |x|^2 = 2, |y|^2 = 0.36 + 0.36 + 0.64 = 1.36
    assert player.loss(batch_of(X)).item() == pytest.approx(2 - 2.4 / (2 * 1.36) ** 0.5)


def test_scores_are_those_of_the_dense_formula(fitted, X):
    model = fitted("ELSA")
    A, x = model.item_factors_.astype(np.float64), X.toarray()
    assert_allclose(model.predict(X), x @ (A @ A.T - np.eye(len(A))), rtol=1e-4, atol=1e-5)
    assert_allclose(model.transform(X), x @ A, rtol=1e-4, atol=1e-5)
    _, similarity = model.similar_items([3], k=23, return_scores=True)
    assert_allclose(similarity[0], np.sort(np.delete(A @ A[3], 3))[::-1], atol=1e-5)


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_item_vectors_have_length_1_after_fit(X, ema_decay):
    model = ELSA(5, ema_decay=ema_decay, learning_rate=0.1, max_epochs=4, random_state=0).fit(X)
    assert not np.allclose(model.network_.lengths, 1, atol=0.1)
    assert_allclose(np.linalg.norm(model.item_factors_, axis=1), 1, rtol=1e-5)


def test_there_are_no_item_vectors_before_fit():
    assert not hasattr(ELSA(), "item_factors_")


def test_users_without_items_or_with_one_item_have_no_gradient():
    X = csr_array(np.eye(3, 8, dtype=np.float32)[[0, 1, 2, 2]])
    X = csr_array(np.vstack([X.toarray(), np.zeros((1, 8), dtype=np.float32)]))
    player, network, batch = in_float64(X)
    loss = player.loss(batch)
    assert loss.item() == pytest.approx(2)
    (gradient,) = torch.autograd.grad(loss, [network.weight])
    assert gradient.abs().max() < 1e-12


def test_items_without_users_start_from_vectors_of_length_1():
    X = make_interactions(40, 24, random_state=0).toarray()
    X[:, [2, 5]] = 0
    network = new_network(ELSA(N_COMPONENTS), csr_array(X))
    assert_allclose(network.item_vectors().norm(dim=1), 1, rtol=1e-5)
    assert_allclose(network.lengths, 1, rtol=1e-5)
    assert abs(float(network.item_vectors()[2] @ network.item_vectors()[5])) < 0.99


def test_planted_blocks_are_the_clusters_of_the_item_vectors():
    X, _, item_blocks = make_interactions(
        300, 60, n_blocks=4, noise=0.05, random_state=1, return_blocks=True
    )
    model = ELSA(4, learning_rate=0.05, max_epochs=20, early_stopping=False, random_state=0)
    A = model.fit(X).item_factors_
    same = item_blocks[:, None] == item_blocks
    cosines = A @ A.T
    assert cosines[same].min() > cosines[~same].max()


def test_with_few_components_it_is_as_good_as_ease_on_planted_blocks():
    X = make_interactions(600, 40, n_blocks=4, noise=0.3, random_state=0)
    ours, ease, popularity = (
        model.fit(X[:400]).score(X[400:])
        for model in (ELSA(4, learning_rate=0.02, random_state=0), EASE(), Popularity())
    )
    assert ours > 0.98 * ease > 1.1 * popularity


def test_automatic_batch_size_follows_users_and_items():
    def size(n_users, n_items, **parameters):
        x = InteractionBatch.from_csr(csr_array((n_users, n_items), dtype=np.float32))
        (player,) = ELSA(2, **parameters)._players(ELSA(2)._build(n_users, n_items), x)
        return player.batch_size

    assert size(50, 10) == size(50_000, 10) == size(1_000, 1_000) == 100
    assert size(100_000, 3_000) == 3_000
    assert size(100_000, 30_000) == 5_000
    assert size(100_000, 30_000, batch_size=7) is None  # the value of the recommender


def test_automatic_number_of_components_follows_users_and_items(X):
    sizes = {(100, 1000): 50, (101, 1000): 51, (100, 30): 30, (10**6, 10**6): 1024}
    assert {shape: ELSA()._n_components_of(*shape) for shape in sizes} == sizes
    model = ELSA(max_epochs=1, early_stopping=False).fit(X)  # 60 users, 24 items
    assert model.n_components_ == model.item_factors_.shape[1] == 24
    assert ELSA(5, max_epochs=1).fit(X).n_components_ == 5
