"""l2 is the weight of squared norms next to the loss summed over all training users."""

from __future__ import annotations

import pytest
import torch
from conftest import batch_of, make, new_network, players_of, sum_of_squared_weights
from scipy.sparse import vstack

L2 = 100.0
USERS = [4, 1, 7]


def penalty_of_a_batch(name, X):
    """Return what l2 adds to the loss of three users, and the network."""
    losses = []
    for l2 in (0.0, L2):
        model = make(name, l2=l2)
        network = new_network(model, X)
        with torch.no_grad():  # the same weights for every number of users, biases that are not 0
            for parameter in network.parameters():
                parameter.copy_(torch.linspace(-0.3, 0.5, parameter.numel()).view_as(parameter))
        (player,) = [p for p in players_of(model, network, X) if p.name == "autoencoder"]
        losses.append(player.loss(batch_of(X, USERS)).item())
    return losses[1] - losses[0], network


def penalty_of_user_vectors(name, network):
    """Return the part of CDAE's users; it is their own, so it is averaged like their losses."""
    if name != "CDAE":
        return 0.0
    return L2 * network.users[USERS].square().sum(dim=1).mean().item()


@pytest.mark.parametrize(
    "name", ["CDAE", "MultDAE", "MultVAE", "SIVAERecommender", "VAEGANRecommender"]
)
def test_the_penalty_of_a_batch_is_that_of_one_user(name, X):
    shared_penalties = []
    for rows in (X, vstack([X, X]).tocsr()):
        penalty, network = penalty_of_a_batch(name, rows)
        shared = penalty - penalty_of_user_vectors(name, network)
        squares = sum_of_squared_weights(network.encoder, network.decoder).item()
        assert shared == pytest.approx(L2 / rows.shape[0] * squares, rel=1e-4)
        shared_penalties.append(shared)
    assert shared_penalties[1] == pytest.approx(shared_penalties[0] / 2, rel=1e-3)
