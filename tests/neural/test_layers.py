"""Layers of the networks: their products by hand, their initial values, their precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make, seeded
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from torch import nn

from skvaecf.neural import (
    Autoencoder,
    Decoder,
    Encoder,
    InteractionBatch,
    ItemEmbedding,
    ItemLogits,
    Linear,
    SelfInitialized,
)
from skvaecf.neural._layers import TopItems, initialize, set_precision

X = csr_array(np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=np.float32))


def fill(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


# --- products


def test_an_item_embedding_adds_the_vectors_of_the_items():
    layer = ItemEmbedding(3, 2)
    fill(layer.weight, [[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    fill(layer.bias, [0.5, 0.0])
    expected = [[101.5, 202.0], [0.5, 0.0]]
    assert layer(InteractionBatch.from_csr(X)).tolist() == expected
    assert layer(torch.tensor(X.toarray())).tolist() == expected


def test_item_logits_and_their_factors_are_the_same_scores():
    layer = ItemLogits(2, 3)
    fill(layer.weight, [[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    fill(layer.bias, [0.0, 0.5, 0.0])
    h = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    assert layer(h).tolist() == [[11.0, 22.5, 33.0], [2.0, 4.5, 6.0]]
    factored = layer.factored(h)
    assert factored.multiply_out(slice(1, 3)).tolist() == [[22.5, 33.0], [4.5, 6.0]]


def test_an_encoder_with_a_hidden_layer_by_hand():
    encoder = Encoder(3, (2,), 1)
    fill(encoder.first.weight, [[0.5, 0.0], [9.0, 9.0], [0.5, 1.0]])
    fill(encoder.first.bias, [0.0, -1.0])
    fill(encoder.rest[1].weight, [[2.0, 3.0]])
    fill(encoder.rest[1].bias, [1.0])
    out = encoder(InteractionBatch.from_csr(X)).squeeze(1)
    # tanh(1), tanh(0) for the first user; tanh(0), tanh(-1) for the one without items.
    assert_allclose(out.detach(), [2 * np.tanh(1) + 1, -3 * np.tanh(1) + 1], rtol=1e-6)


def test_an_encoder_takes_other_activations_and_no_hidden_layer():
    assert [type(layer) for layer in Encoder(3, (4, 5), 2, nn.Sigmoid).rest] == [
        nn.Sigmoid,
        nn.Linear,
        nn.Sigmoid,
        nn.Linear,
    ]
    assert len(Encoder(3, (), 2).rest) == 0


def test_a_decoder_with_a_hidden_layer_by_hand():
    decoder = Decoder(1, (1,), 2)
    fill(decoder.hidden[0].weight, [[2.0]])
    fill(decoder.hidden[0].bias, [0.0])
    fill(decoder.logits.weight, [[3.0, -1.0]])
    fill(decoder.logits.bias, [0.0, 1.0])
    z = torch.tensor([[0.5]])
    expected = [[3 * np.tanh(1), 1 - np.tanh(1)]]
    assert_allclose(decoder(z).detach(), expected, rtol=1e-6)
    assert_allclose(decoder.factored(z).multiply_out(slice(None)).detach(), expected, rtol=1e-6)
    network = Autoencoder(Encoder(2, (), 1), decoder)
    assert network.item_vectors().tolist() == [[3.0], [-1.0]]
    assert not network.item_vectors().requires_grad


# --- precision


def test_large_products_are_in_the_precision_of_training_only():
    network = nn.Sequential(Linear(4, 4), ItemLogits(4, 3))
    initialize(network, seeded(), None)
    h = torch.ones(2, 4)
    linear, logits = network
    assert linear(h).dtype == logits(h).dtype == torch.float32
    set_precision(network, torch.bfloat16)
    network.train()
    assert linear(h).dtype == logits(h).dtype == logits.factored(h).h.dtype == torch.bfloat16
    network.eval()
    assert linear(h).dtype == logits(h).dtype == logits.factored(h).h.dtype == torch.float32
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert linear.bias is None


# --- initial values


def test_weights_start_from_glorots_uniform_distribution_and_biases_near_0():
    network = make("MultVAE", n_components=50, encoder_layer_sizes=(300,))._build(1, 400)
    initialize(network, seeded(), None)
    for parameter in network.parameters():
        largest, spread = parameter.abs().max().item(), parameter.std().item()
        if parameter.dim() > 1:
            limit = np.sqrt(6 / sum(parameter.shape))
            assert 0.99 * limit < largest <= limit
            assert spread == pytest.approx(limit / np.sqrt(3), rel=0.02)
        else:
            assert largest <= 0.002
            assert spread == pytest.approx(0.00088, rel=0.15)  # cut at two standard deviations


class Scaled(SelfInitialized):
    """A module that starts from the popularity of the items and from ones."""

    def __init__(self, n_items):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(n_items))
        self.inner = nn.BatchNorm1d(n_items)  # with buffers
        self.register_buffer("popularity", torch.empty(n_items))

    def initialize(self, generator, x):
        with torch.no_grad():
            self.scale.fill_(1.0)
            self.popularity.copy_(x.transposed().counts)
            for buffer in self.inner.buffers():
                buffer.fill_(0)


def test_a_module_that_is_self_initialized_sets_its_values_last():
    network = nn.Sequential(nn.Linear(3, 3), Scaled(3))
    initialize(network, seeded(), InteractionBatch.from_csr(X))
    assert network[1].scale.tolist() == [1.0] * 3
    assert network[1].popularity.tolist() == [1.0, 0.0, 1.0]
    assert network[0].bias.abs().max() <= 0.002


def test_buffers_that_nobody_sets_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"The buffer '0\.running_mean' of the network has no value"
    ):
        initialize(nn.Sequential(nn.BatchNorm1d(3)), seeded(), InteractionBatch.from_csr(X))


def test_initial_values_repeat_with_the_seed():
    first, again, other = (nn.Linear(5, 5) for _ in range(3))
    for network, seed in ((first, 0), (again, 0), (other, 1)):
        initialize(network, seeded(seed), None)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


# --- lists


def test_top_items_by_hand():
    scores = torch.tensor([[5.0, 1.0, 3.0, 2.0], [5.0, 1.0, 3.0, 2.0], [5.0, 1.0, 3.0, 2.0]])
    counts = torch.tensor([1.0, 7.0, 8.0, 2.0])
    module = TopItems(nn.Identity(), lambda _, x: scores[: x.n_users].clone(), counts, 2)
    # The users have {0}, no items, and {0, 1, 3}.
    items, best = module(torch.tensor([0, 3, 0, 1]), torch.tensor([1, 0, 3]))
    assert items.tolist() == [[2, 3], [2, 1], [2, -1]]
    assert best.tolist() == [[3.0, 2.0], [8.0, 7.0], [3.0, -torch.inf]]
