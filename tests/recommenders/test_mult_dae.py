"""Mult-DAE against a dense implementation of its objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import (
    assert_loss_and_gradients,
    assert_normalized_and_dropped,
    batch_of,
    log_likelihood,
    new_network,
    players_of,
    recorded_inputs,
    sum_of_squared_weights,
)
from numpy.testing import assert_allclose
from torch.nn import functional as F

from skvaecf import MultDAE

N_COMPONENTS = 3


def player_and_network(X, **params):
    defaults = {"likelihood": "multinomial", "dropout": 0.0}
    model = MultDAE(N_COMPONENTS, decoder_layer_sizes=(4,), **defaults | params)
    network = new_network(model, X, 3, 0.05)
    (player,) = players_of(model, network, X)
    return player, network


def dense_loss(network, X, likelihood, l2):
    x = torch.tensor(X.toarray())
    encoder, decoder = network.encoder, network.decoder
    z = torch.tanh(F.normalize(x) @ encoder.first.weight + encoder.first.bias)
    h = torch.tanh(F.linear(z, decoder.hidden[0].weight, decoder.hidden[0].bias))
    logits = h @ decoder.logits.weight + decoder.logits.bias
    penalty = l2 / X.shape[0] * sum_of_squared_weights(network)
    return penalty - log_likelihood(x, logits, likelihood).mean()


@pytest.mark.parametrize(
    ("likelihood", "l2"), [("multinomial", 0.0), ("multinomial", 10.0), ("bernoulli", 0.1)]
)
def test_loss_and_gradient_are_those_of_the_equations(small_X, likelihood, l2):
    player, network = player_and_network(small_X, likelihood=likelihood, l2=l2)
    weights = {name for name, parameter in network.named_parameters() if parameter.dim() > 1}
    assert weights == {
        "decoder.hidden.0.weight",
        "decoder.logits.weight",
        "encoder.first.weight",
    }
    assert len(player.parameters) == len(list(network.parameters())) == 6
    expected = dense_loss(network, small_X, likelihood, l2)
    assert_loss_and_gradients(player.loss(batch_of(small_X)), expected, player.parameters)


def test_biases_are_not_penalised(small_X):
    losses = []
    for l2 in (0.0, 1.0):
        player, network = player_and_network(small_X, l2=l2)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.fill_(10.0 if name.endswith("bias") else 0.0)
        losses.append(player.loss(batch_of(small_X)).item())
    assert losses[0] == losses[1]


def test_dropout_drops_items_of_the_input_only(small_X):
    player, network = player_and_network(small_X, dropout=0.5, l2=0.0)
    inputs, outputs = recorded_inputs(network.encoder.first), []
    factored = network.decoder.factored
    network.decoder.factored = lambda z: outputs.append(network.decoder(z)) or factored(z)
    loss = player.loss(batch_of(small_X))
    assert_normalized_and_dropped(inputs[0], small_X, 0.5)
    # The likelihood is that of all items.
    x = torch.tensor(small_X.toarray())
    nll = -log_likelihood(x, outputs[0], "multinomial").mean()
    assert loss.item() == pytest.approx(nll.item(), rel=1e-5)


def test_transform_is_the_hidden_layer_and_predict_its_decoding(small_X):
    model = MultDAE(N_COMPONENTS, max_epochs=2, device="cpu", random_state=0).fit(small_X)
    parameters = {n: p.detach().numpy() for n, p in model.network_.named_parameters()}
    rows = small_X.toarray() / np.sqrt(small_X.sum(axis=1))[:, None]
    z = np.tanh(rows @ parameters["encoder.first.weight"] + parameters["encoder.first.bias"])
    assert_allclose(model.transform(small_X), z, rtol=1e-4, atol=1e-6)
    scores = z @ parameters["decoder.logits.weight"] + parameters["decoder.logits.bias"]
    assert_allclose(model.predict(small_X), scores, rtol=1e-4, atol=1e-6)
