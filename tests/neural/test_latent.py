"""Priors and posteriors against brute force, and in the recommender that takes them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from conftest import batch_of, new_network, players_of, seeded, sum_of_squared_weights
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch.autograd.functional import jacobian

from skvaecf import InverseAutoregressiveFlow, MultVAE, VampPrior
from skvaecf.datasets import make_interactions
from skvaecf.neural import Batch, DiagonalNormal, FlowPosterior, InteractionBatch, SelfInitialized
from skvaecf.neural._latent import AutoregressiveMap
from skvaecf.neural._layers import initialize

N_USERS, N_ITEMS = 12, 24


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, random_state=0)


def normals(n_users=4, n_components=3, seed=0):
    generator = seeded(seed)
    parts = (torch.randn(n_users, n_components, generator=generator) for _ in range(2))
    return DiagonalNormal(*(part.double() for part in parts))


def flow(n_components, n_flows=1, layer_size=20, seed=0):
    module = InverseAutoregressiveFlow(n_flows, layer_size).build(n_components).double()
    initialize(module, seeded(seed), None)
    with torch.no_grad():  # far from the identity
        for each in module.maps:
            each.out.weight.mul_(15)
            each.out.bias.copy_(torch.randn(2 * n_components, generator=seeded(seed)))
    return module


# --- the flow


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("n_components", [1, 2, 7])
def test_a_map_is_autoregressive_and_its_log_determinant_right(n_components, backwards):
    step = flow(n_components, 2).maps[int(backwards)]
    assert step.backwards is backwards
    z = torch.randn(n_components, generator=seeded(1)).double()
    full = jacobian(lambda z: step(z)[0], z)
    forbidden = torch.triu(full, 1) if not backwards else torch.tril(full, -1)
    assert forbidden.abs().max() == 0
    used = full - full.diag().diag()
    if n_components > 1:
        assert used.abs().max() > 0.01
    assert step(z)[1].item() == pytest.approx(torch.linalg.slogdet(full)[1].item(), rel=1e-6)


@pytest.mark.parametrize("backwards", [False, True])
def test_m_and_s_depend_on_all_entries_before_and_on_no_others(backwards):
    step = flow(6, 2, layer_size=40).maps[int(backwards)]
    z = torch.randn(6, generator=seeded(1)).double()
    for part in (0, 1):
        sees = jacobian(lambda z, part=part: step._shift_and_scale(z)[part], z) != 0
        expected = torch.ones(6, 6).tril(-1).bool()
        assert torch.equal(sees, expected.flip(0, 1) if backwards else expected)


def test_two_maps_together_are_not_triangular():
    module = flow(5, 2)
    z = torch.randn(5, generator=seeded(1)).double()
    full = jacobian(lambda z: FlowPosterior(None, list(module.maps))._push(z)[0], z)
    assert (full.abs() > 1e-6).all()


@pytest.mark.parametrize("n_flows", [1, 3])
def test_the_inverse_undoes_the_maps(n_flows):
    z_0 = torch.randn(8, 5, generator=seeded(1)).double()
    z = z_0
    module = flow(5, n_flows)
    for step in module.maps:
        z = step(z)[0]
    assert (z - z_0).abs().max() > 0.3
    for step in reversed(module.maps):
        z = step.inverse(z)
    assert_allclose(z.detach(), z_0, atol=1e-9)


def test_at_the_start_a_map_is_near_the_identity():
    step = AutoregressiveMap(50, 600, backwards=False)
    initialize(step, seeded(), None)
    z = torch.randn(100, 50, generator=seeded(1))
    mapped, log_det = step(z)
    sigma = 1 / (1 + np.exp(-2))
    assert_allclose(mapped.detach(), sigma * z, atol=0.1)
    assert log_det.mean().item() == pytest.approx(50 * np.log(sigma), rel=0.1)


def test_the_density_of_a_draw_is_that_of_any_equal_vector():
    q = flow(3, 2)(normals())
    z = q.rsample(generator=seeded(2))
    known = q.log_prob(z)
    again = q.log_prob(z.clone())  # by the inverse
    assert_allclose(known.detach(), again.detach(), rtol=1e-9)
    assert known.shape == (4,)


def test_draws_do_not_change_the_density_of_other_vectors():
    module = flow(3, 2)
    q = module(normals())
    other = q.rsample(generator=seeded(2)).detach() + 1
    assert_array_equal(q.log_prob(other).detach(), module(normals()).log_prob(other).detach())


def test_the_density_of_a_flow_integrates_to_one():
    base = DiagonalNormal(
        torch.tensor([[0.3, -0.5]]).double(), torch.tensor([[0.2, -1.0]]).double()
    )
    module = flow(2, 2)
    with torch.no_grad():  # gentle enough for the grid
        for each in module.maps:
            each.out.weight.mul_(0.3)
    q = module(base)
    side = torch.linspace(-9, 9, 500).double()
    grid = torch.cartesian_prod(side, side)[:, None]  # (n_points, 1, 2)
    with torch.no_grad():
        mass = q.log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-4)


def test_the_mean_of_a_flow_is_the_image_of_the_mean():
    base, module = normals(), flow(3, 2)
    z = base.mean
    for step in module.maps:
        z = step(z)[0]
    assert_array_equal(module(base).mean.detach(), z.detach())


# --- the prior of pseudo-inputs


def encode(rows):
    """A linear encoder of dense rows: two components."""
    weight = torch.randn(rows.shape[1], 4, generator=seeded(3)).to(rows.dtype)
    loc, log_variance = (rows @ weight).chunk(2, dim=1)
    return DiagonalNormal(loc, log_variance)


def test_vamp_density_by_brute_force():
    module = VampPrior(4).build(6, 2).double()
    with torch.no_grad():
        module.rows.copy_(1.5 * torch.randn(4, 6, generator=seeded()))
    z = torch.randn(5, 2, generator=seeded(1)).double()
    ours = module(z, encode).log_prob(z).detach()
    rows = np.clip(module.rows.detach().numpy(), 0, 1)
    assert (rows == 0).any()
    assert (rows == 1).any()
    rows = torch.tensor(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    q = encode(rows)
    for u in range(5):
        terms = [norm.logpdf(z[u], q.mean[m], q.variance[m].sqrt()).sum() for m in range(4)]
        assert ours[u].item() == pytest.approx(logsumexp(terms) - np.log(4), rel=1e-6)


@pytest.mark.parametrize("n_pseudo_inputs", [3, 30])
def test_pseudo_inputs_start_from_training_rows(n_pseudo_inputs):
    X = make_interactions(N_USERS, N_ITEMS, random_state=0)
    module = VampPrior(n_pseudo_inputs).build(N_ITEMS, 2)
    initialize(module, seeded(), InteractionBatch.from_csr(X))
    rows = module.rows.detach().numpy()
    assert_allclose(np.unique(rows), [0.02, 0.98], rtol=1e-6)
    users = {tuple(row) for row in X.toarray() > 0}
    chosen = [tuple(row) for row in rows > 0.5]
    assert set(chosen) <= users
    assert len(set(chosen)) == min(n_pseudo_inputs, len(users))


def test_pseudo_inputs_start_from_random_users():
    X = make_interactions(N_USERS, N_ITEMS, random_state=0)
    starts = set()
    for seed in (0, 0, 1):
        module = VampPrior(3).build(N_ITEMS, 2)
        initialize(module, seeded(seed), InteractionBatch.from_csr(X))
        starts.add(module.rows.detach().numpy().tobytes())
    assert len(starts) == 2


# --- in the recommender

VARIANTS = {
    "vamp": {"prior": "vamp"},
    "iaf": {"posterior": "iaf"},
    "two flows, vamp": {"prior": VampPrior(3), "posterior": InverseAutoregressiveFlow(2, 7)},
    "l2": {"l2": 0.1},
}


def player_and_network(X, **params):
    defaults = {"dropout": 0.0, "anneal_steps": 0, "kl_weight": 0.7, "encoder_layer_sizes": (5,)}
    model = MultVAE(3, **{"likelihood": "multinomial", "l2": 0.0} | defaults | params)
    network = new_network(model, X)
    with torch.no_grad():  # small weights would hide errors
        for parameter in network.encoder.parameters():
            parameter.mul_(3).add_(0.05)
    (player,) = players_of(model, network, X)
    return player, network


@pytest.mark.parametrize("variant", ["vamp", "iaf", "l2"])
def test_loss_is_that_of_the_equations(X, variant):
    player, network = player_and_network(X, **VARIANTS[variant])
    loss = player.loss(batch_of(X)).item()
    x = torch.tensor(X.toarray())
    with torch.no_grad():
        rows = torch.nn.functional.normalize(x)
        loc, log_variance = network.encoder(rows).chunk(2, dim=1)
        scale = (log_variance / 2).exp()
        noise = torch.randn(loc.shape, generator=seeded(1))
        z = loc + scale * noise
        log_q = torch.tensor(norm.logpdf(z, loc, scale).sum(axis=1))
        log_p = torch.tensor(norm.logpdf(z).sum(axis=1))
        kl = 0.5 * (loc**2 + scale**2 - 1 - log_variance).sum(dim=1)
        penalty = 0.0
        if variant == "vamp":
            u = torch.nn.functional.normalize(network.prior.rows)
            means, log_variances = network.encoder(u).chunk(2, dim=1)
            each = [
                norm.logpdf(z, m, (v / 2).exp()).sum(axis=1)
                for m, v in zip(means, log_variances, strict=True)
            ]
            kl = log_q - torch.tensor(logsumexp(each, axis=0) - np.log(5))
        elif variant == "iaf":
            (step,) = network.posterior.maps
            m, s = step._shift_and_scale(z)
            sigma = torch.sigmoid(s)
            z = sigma * z + (1 - sigma) * m
            kl = log_q - sigma.log().sum(dim=1) - torch.tensor(norm.logpdf(z).sum(axis=1))
        else:
            assert not torch.equal(log_q, log_p)
            penalty = 0.1 / N_USERS * sum_of_squared_weights(network.encoder, network.decoder)
        log_likelihood = (x * network.decoder(z).log_softmax(dim=1)).sum(dim=1)
        expected = (0.7 * kl - log_likelihood).mean() + penalty
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_l2_is_for_the_weights_of_encoder_and_decoder_alone(X):
    losses = []
    for l2 in (0.0, 6.0):
        player, network = player_and_network(X, prior="vamp", posterior="iaf", l2=l2)
        losses.append(player.loss(batch_of(X)).item())
    squares = sum_of_squared_weights(network.encoder, network.decoder)
    assert losses[1] - losses[0] == pytest.approx(6 / N_USERS * squares.item(), rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(X, variant):
    player, network = player_and_network(X, **VARIANTS[variant])
    gradients = torch.autograd.grad(player.loss(batch_of(X)), player.parameters)
    assert len(gradients) == len(list(network.parameters()))
    for gradient in gradients:
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 1e-7


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_number_comes_from_the_cpu(X, variant):
    model = MultVAE(3, **{"likelihood": "multinomial", "l2": 0.0} | VARIANTS[variant])
    with torch.device("meta"):
        network = model._build(*X.shape)
    x = InteractionBatch.from_csr(X, "meta")
    (player,) = model._players(network, x)
    users = torch.empty(N_USERS, dtype=torch.int64, device="meta")
    loss = player.loss(Batch(users, x, 0, 0.0, torch.Generator()))
    assert loss.device.type == "meta"
    assert model._logits(network, x).shape == X.shape


def test_predictions_go_through_the_flow(X):
    model = small(posterior=InverseAutoregressiveFlow(2, 7)).fit(X)
    with torch.no_grad():
        z = model.network_.normal(InteractionBatch.from_csr(X).normalized()).mean
        for step in model.network_.posterior.maps:
            z = step(z)[0]
        scores = model.network_.decoder(z)
    assert_allclose(model.transform(X), z, rtol=1e-4, atol=1e-6)
    assert_allclose(model.predict(X), scores, rtol=1e-4, atol=1e-6)


def small(**params):
    defaults = {"encoder_layer_sizes": (5,), "max_epochs": 3, "device": "cpu", "random_state": 0}
    return MultVAE(3, **defaults | params)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fits_are_repeatable_and_survive_pickles(X, variant):
    model = small(**VARIANTS[variant]).fit(X)
    scores = model.predict(X)
    assert np.isfinite(scores).all()
    assert_array_equal(clone(model).fit(X).predict(X), scores)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), scores)
    assert_allclose(model.predict(X[[3]])[0], scores[3], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(small().fit(X).predict(X), scores)


def test_a_string_stands_for_the_defaults_of_its_object(X):
    for one, other in (
        ({"prior": "vamp"}, {"prior": VampPrior(n_pseudo_inputs=5)}),
        ({"posterior": "iaf"}, {"posterior": InverseAutoregressiveFlow(n_flows=1)}),
    ):
        assert_array_equal(small(**one).fit(X).predict(X), small(**other).fit(X).predict(X))


def test_numbers_of_pseudo_inputs_and_flows_matter(X):
    scores = [
        small(**params).fit(X).predict(X).tobytes()
        for params in (
            {"prior": VampPrior(2)},
            {"prior": VampPrior(3)},
            {"posterior": InverseAutoregressiveFlow(1)},
            {"posterior": InverseAutoregressiveFlow(2)},
            {"posterior": InverseAutoregressiveFlow(1, 9)},
        )
    ]
    assert len(set(scores)) == 5


def test_priors_and_posteriors_can_be_searched(X):
    grid = {
        "prior": ["normal", "vamp", VampPrior(2)],
        "posterior": ["normal", InverseAutoregressiveFlow(1, 9)],
    }
    search = GridSearchCV(small(), grid, cv=2).fit(X)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert search.best_params_["prior"] in grid["prior"]


def test_a_custom_prior(X):
    class Shifted:
        def build(self, n_items, n_components):
            return Module()

    class Module(torch.nn.Module):
        def forward(self, z, encode):
            return DiagonalNormal(torch.full_like(z, 2.0), torch.zeros_like(z))

    settings = {"kl_weight": 50.0, "anneal_steps": 0, "max_epochs": 60, "learning_rate": 0.02}
    for prior, mean in (("normal", 0.0), (Shifted(), 2.0)):
        model = small(prior=prior, early_stopping=False, **settings).fit(X)
        assert_allclose(model.transform(X), mean, atol=0.3)


def test_buffers_of_a_custom_prior_are_set_in_initialize_or_refused(X):
    def prior_of(kind):
        class Module(kind):
            def __init__(self, n_components):
                super().__init__()
                self.register_buffer("loc", torch.full((n_components,), 2.0))

            def initialize(self, generator, x):
                self.loc.fill_(2.0)

            def forward(self, z, encode):
                return DiagonalNormal(self.loc.expand_as(z), torch.zeros_like(z))

        class Prior:
            def build(self, n_items, n_components):
                return Module(n_components)

        return Prior()

    assert_allclose(small(prior=prior_of(SelfInitialized)).fit(X).network_.prior.loc, 2.0)
    with pytest.raises(ValueError, match=r"The buffer 'prior\.loc' of the network has no values"):
        small(prior=prior_of(torch.nn.Module)).fit(X)


@pytest.mark.parametrize("value", [0, -1, 2.5, "five", True])
def test_bad_numbers_are_refused(value):
    with pytest.raises(ValueError, match="n_pseudo_inputs must be an integer of at least 1"):
        VampPrior(value)
    with pytest.raises(ValueError, match="n_flows must be an integer of at least 1"):
        InverseAutoregressiveFlow(value)
    with pytest.raises(ValueError, match="layer_size must be an integer of at least 1"):
        InverseAutoregressiveFlow(1, value)


def test_priors_and_posteriors_compare_by_value():
    assert VampPrior(5) == VampPrior() != VampPrior(6)
    assert InverseAutoregressiveFlow() == InverseAutoregressiveFlow(1, 600)
    assert len({VampPrior(), VampPrior(5), VampPrior(6)}) == 2
