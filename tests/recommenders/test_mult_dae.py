"""Mult-DAE against a dense implementation of its objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from skvaecf import MultDAE
from skvaecf.datasets import make_interactions
from skvaecf.interactions import InteractionBatch
from skvaecf.modules import initialize
from skvaecf.training import Batch

N_ITEMS, N_COMPONENTS = 24, 3


@pytest.fixture(scope="module")
def X():
    return make_interactions(10, N_ITEMS, random_state=0)


def player_and_network(**params):
    model = MultDAE(N_COMPONENTS, decoder_layer_sizes=(4,), **{"dropout": 0.0} | params)
    network = model._build(10, N_ITEMS)
    initialize(network, torch.Generator().manual_seed(0), None)
    with torch.no_grad():  # small weights would hide errors
        for parameter in network.parameters():
            parameter.mul_(3).add_(0.05)
    (player,) = model._players(network)
    return player, network


def batch(X, generator):
    return Batch(torch.arange(X.shape[0]), InteractionBatch.from_csr(X), 0, 0.0, generator)


def dense_loss(network, X, likelihood, l2):
    x = torch.tensor(X.toarray())
    weights = {n: p for n, p in network.named_parameters() if n.endswith("weight")}
    assert sorted(weights) == [
        "decoder.hidden.0.weight",
        "decoder.logits.weight",
        "encoder.first.weight",
    ]
    encoder, decoder = network.encoder, network.decoder
    z = torch.tanh(F.normalize(x) @ encoder.first.weight + encoder.first.bias)
    h = torch.tanh(F.linear(z, decoder.hidden[0].weight, decoder.hidden[0].bias))
    logits = h @ decoder.logits.weight + decoder.logits.bias
    if likelihood == "multinomial":
        nll = -(x * F.log_softmax(logits, dim=1)).sum(dim=1)
    else:
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=1)
    return nll.mean() + l2 * sum((w**2).sum() for w in weights.values())


@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli"])
@pytest.mark.parametrize("l2", [0.0, 0.01, 1.0])
def test_loss_and_gradient_are_those_of_the_equations(X, likelihood, l2):
    player, network = player_and_network(likelihood=likelihood, l2=l2)
    loss = player.loss(batch(X, torch.Generator()))
    expected = dense_loss(network, X, likelihood, l2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(player.parameters) == len(list(network.parameters())) == 6
    for ours, theirs in zip(
        torch.autograd.grad(loss, player.parameters),
        torch.autograd.grad(expected, player.parameters),
        strict=True,
    ):
        assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_penalty_leaves_the_biases_free(X):
    losses = []
    for l2 in (0.0, 1.0):
        player, network = player_and_network(l2=l2)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.fill_(10.0 if name.endswith("bias") else 0.0)
        losses.append(player.loss(batch(X, torch.Generator())).item())
    assert losses[0] == losses[1]


def test_dropout_drops_items_of_the_input_only(X):
    player, network = player_and_network(dropout=0.5, l2=0.0)
    inputs, outputs = [], []
    network.encoder.first.register_forward_hook(lambda _, args, __: inputs.append(args[0].values))
    factored = network.decoder.factored
    network.decoder.factored = lambda z: outputs.append(network.decoder(z)) or factored(z)
    loss = player.loss(batch(X, torch.Generator().manual_seed(0)))
    counts = np.diff(X.indptr)
    kept = inputs[0] > 0
    assert 0.3 < kept.float().mean() < 0.7
    expected = np.repeat(2 / np.sqrt(counts), counts).astype(np.float32)
    assert_allclose(inputs[0][kept], expected[kept.numpy()], rtol=1e-5)
    # The likelihood is that of all items.
    x = torch.tensor(X.toarray())
    nll = -(x * F.log_softmax(outputs[0], dim=1)).sum(dim=1).mean()
    assert loss.item() == pytest.approx(nll.item(), rel=1e-5)


def test_transform_is_the_hidden_layer(X):
    model = MultDAE(N_COMPONENTS, max_epochs=2, device="cpu", random_state=0).fit(X)
    parameters = {n: p.detach().numpy() for n, p in model.network_.named_parameters()}
    rows = X.toarray() / np.sqrt(X.sum(axis=1))[:, None]
    z = np.tanh(rows @ parameters["encoder.first.weight"] + parameters["encoder.first.bias"])
    assert_allclose(model.transform(X), z, rtol=1e-4, atol=1e-6)
    scores = z @ parameters["decoder.logits.weight"] + parameters["decoder.logits.bias"]
    assert_allclose(model.predict(X), scores, rtol=1e-4, atol=1e-6)
