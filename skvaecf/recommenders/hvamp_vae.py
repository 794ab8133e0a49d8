"""H+Vamp: a gated variational autoencoder with two latent vectors, one above the other."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributions import DiagonalNormal
from ..interactions import InteractionBatch
from ..latent import VampPrior
from ..likelihoods import LIKELIHOODS, ItemLikelihood, likelihood_of
from ..modules import FactoredLogits, ItemEmbedding, ItemLogits, OwnStart
from ..neural import TorchRecommender
from ..objectives import anneal, divergence
from ..training import Batch, Player


class HVampVAE(TorchRecommender):
    r"""Hierarchical variational autoencoder with gated layers and a VampPrior.

    A latent vector :math:`z_2` is drawn from a mixture of the posteriors of M pseudo-inputs, a
    second one :math:`z_1 \sim p_\theta(z_1|z_2)` from a normal that depends on it, and a user's
    items :math:`x` from both. The posterior goes the same way,
    :math:`q_\phi(z_2|x) \, q_\phi(z_1|x, z_2)`, of two normals with independent components.
    Training lowers, on average over the users,

    .. math::

        & - E_q \log p_\theta(x|z_1, z_2) + \beta \, E_q \bigl[
          \mathrm{KL}(q_\phi(z_1|x, z_2) \| p_\theta(z_1|z_2))
          + \log q_\phi(z_2|x) - \log p(z_2) \bigr],

        & p(z_2) = \frac{1}{M} \sum_{m=1}^M q_\phi(z_2|u_m),

    the likelihood being summed over the items, one pair of z drawn per user and update, and
    :math:`\beta` rising from 0 to ``kl_weight``. The rows :math:`u_m` are learned, see
    :class:`VampPrior`. The hidden layers are gated,

    .. math:: h \mapsto (W h + b) \odot \operatorname{sigmoid}(V h + c).

    Users are ranked by the scores that follow from the mean of :math:`q_\phi(z_2|x)` and the mean
    of :math:`q_\phi(z_1|x, z_2)` at it. ``transform`` gives the latter.

    Parameters
    ----------
    n_components : int, default=200
        Width of each of the two latent vectors.
    layer_size : int, default=600
        Width of each hidden layer.
    n_pseudo_inputs : int, default=100
        Number M of pseudo-inputs.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="multinomial"
        Distribution of a user's items given the scores. "n-choose-k" is Bernoulli's given their
        number. A class is one of your own, see :mod:`skvaecf.likelihoods`.
    kl_weight : float, default=0.3
        Final weight :math:`\beta` of the KL term. 0 leaves it out.
    anneal_steps : int or "auto", default="auto"
        Updates over which this weight rises linearly from 0 to its final value. "auto" takes 30
        epochs.
    dropout : float, default=0.5
        Probability in training to drop each of a user's items from the encoder's input.
    learning_rate : float, default=5e-4
        Step size of Adam.
    batch_size : int or "auto", default="auto"
        Users per update. "auto" is a twentieth of the users, but at least 100 and at most 500, so
        that small data sets get enough updates per epoch.
    max_epochs : int, default=200
        Passes over the users, at most.
    ema_decay : float, default=0.8
        Decay per epoch of the moving average of the parameters, which is what is validated and
        kept. 0 takes the parameters as they are.
    early_stopping : bool, default=True
        Hold out validation users, compute their NDCG@100 after each epoch, stop when it has not
        risen for ``n_iter_no_change`` epochs, and keep the best epoch. If no user has 5
        interactions, nobody can be held out and all epochs are run.
    validation_fraction : float, default=0.1
        Share of the users to hold out when ``early_stopping``, unless ``fit`` is given ``X_val``.
    n_iter_no_change : int, default=20
        Epochs without a better validation score before training stops.
    device : str or torch.device, default="auto"
        Where to compute: "auto" (CUDA if present, else MPS, else CPU) or any torch device.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Type of the large products in training. "auto" is bfloat16 where the hardware has it.
        Parameters, reductions and the products of ``predict`` are float32 in any case.
    random_state : int, RandomState instance or None, default=None
        Seed of all randomness; pass an int for the same result at every call.
    verbose : int, default=0
        1 shows a progress bar.
    warm_start : bool, default=False
        Start ``fit`` from the parameters of the previous one.

    Attributes
    ----------
    network_ : torch.nn.Module
        The trained network; its parts are named after their distributions.
    history_ : list of dict
        Per epoch: its number, the mean loss of each player, the validation NDCG@100, seconds.
    n_iter_ : int
        Epochs run.
    best_iter_ : int
        Epoch whose parameters are kept, counted from 1.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    MultVAE : With one latent vector; takes a VampPrior, too.

    Notes
    -----
    The constant terms of the likelihood are left out of the losses. Log-variances are kept in
    [-12, 4]. The KL term of :math:`z_1` is exact, given :math:`z_2`, the other one is that of the
    :math:`z_2` drawn. The paper has 1000 pseudo-inputs, whose dense rows cost most of the time of
    an update, raises :math:`\beta` for 100 epochs and has no moving average, ``ema_decay=0``.

    References
    ----------
    Kim and Suh, "Enhancing VAEs for collaborative filtering: flexible priors & gating mechanisms",
    RecSys 2019, sections 3.2 (hierarchical VampPrior) and 3.3 (gates).
    Tomczak and Welling, "VAE with a VampPrior", AISTATS 2018.
    Dauphin, Fan, Auli and Grangier, "Language modeling with gated convolutional networks", ICML
    2017.

    Examples
    --------
    >>> from skvaecf import HVampVAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = HVampVAE(8, layer_size=16, n_pseudo_inputs=20, max_epochs=10, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "layer_size": [Interval(Integral, 1, None, closed="left")],
        "n_pseudo_inputs": [Interval(Integral, 1, None, closed="left")],
        "likelihood": [StrOptions(set(LIKELIHOODS)), type],
        "kl_weight": [Interval(Real, 0, None, closed="left")],
        "anneal_steps": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 200,
        *,
        layer_size: int = 600,
        n_pseudo_inputs: int = 100,
        likelihood: str | type[ItemLikelihood] = "multinomial",
        kl_weight: float = 0.3,
        anneal_steps: int | Literal["auto"] = "auto",
        dropout: float = 0.5,
        learning_rate: float = 5e-4,
        batch_size: int | Literal["auto"] = "auto",
        max_epochs: int = 200,
        ema_decay: float = 0.8,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 20,
        device: str | torch.device = "auto",
        precision: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
        warm_start: bool = False,
    ) -> None:
        self.n_components = n_components
        self.layer_size = layer_size
        self.n_pseudo_inputs = n_pseudo_inputs
        self.likelihood = likelihood
        self.kl_weight = kl_weight
        self.anneal_steps = anneal_steps
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.ema_decay = ema_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start

    def _build(self, n_users: int, n_items: int) -> HierarchicalAutoencoder:
        return HierarchicalAutoencoder(
            n_items,
            self.n_components,
            self.layer_size,
            VampPrior(self.n_pseudo_inputs).build(n_items, self.n_components),
        )

    def _players(self, network: HierarchicalAutoencoder) -> list[Player]:
        likelihood = likelihood_of(self.likelihood)

        def loss(batch: Batch) -> Tensor:
            """- E log p(x|z1, z2) + beta E [KL(q(z1|x, z2) || p(z1|z2)) + log q(z2|x) / p(z2)]."""
            x = batch.x
            rows = x.l2_normalized().dropout(self.dropout, batch.generator)
            q2 = network.q2(rows)
            z2 = q2.rsample(generator=batch.generator)
            q1 = network.q1(rows, z2)
            z1 = q1.rsample(generator=batch.generator)
            p = likelihood(network.decoder.factored(z1, z2))
            beta = self.kl_weight * anneal(batch.step, batch.epoch, self.anneal_steps)
            kl = divergence(q1, network.p1(z2), z1) + divergence(q2, network.p2(z2), z2)
            return (beta * kl - p.log_prob(x)).mean()

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _latent(self, network: HierarchicalAutoencoder, x: InteractionBatch) -> Tensor:
        return network.means(x.l2_normalized())[0]

    def _logits(self, network: HierarchicalAutoencoder, x: InteractionBatch) -> Tensor:
        logits: Tensor = network.decoder(*network.means(x.l2_normalized()))
        return logits


class HierarchicalAutoencoder(nn.Module):
    """The distributions q(z2|x), q(z1|x, z2), p(z2), p(z1|z2) and the scores of the items."""

    def __init__(self, n_items: int, n_components: int, layer_size: int, prior: nn.Module) -> None:
        super().__init__()
        n_out = 2 * n_components
        self.q2_hidden = gated_items(n_items, layer_size)
        self.q2_out = nn.Linear(layer_size, n_out)
        self.q1_hidden = GatedPair(
            gated_items(n_items, layer_size), gated(n_components, layer_size), layer_size
        )
        self.q1_out = nn.Linear(layer_size, n_out)
        self.p1_hidden = gated(n_components, layer_size)
        self.p1_out = nn.Linear(layer_size, n_out)
        self.prior = prior
        self.decoder = GatedDecoder(n_components, layer_size, n_items)

    def q2(self, x: InteractionBatch | Tensor) -> DiagonalNormal:
        """Give the posterior q(z2|x)."""
        return DiagonalNormal.from_layer(self.q2_out(self.q2_hidden(x)))

    def q1(self, x: InteractionBatch, z2: Tensor) -> DiagonalNormal:
        """Give the posterior q(z1|x, z2)."""
        return DiagonalNormal.from_layer(self.q1_out(self.q1_hidden(x, z2)))

    def p2(self, z2: Tensor) -> Any:
        """Give the prior p(z2)."""
        return self.prior(z2, self.q2)

    def p1(self, z2: Tensor) -> DiagonalNormal:
        """Give the prior p(z1|z2)."""
        return DiagonalNormal.from_layer(self.p1_out(self.p1_hidden(z2)))

    def means(self, x: InteractionBatch) -> tuple[Tensor, Tensor]:
        """Give z1 and z2 without randomness."""
        z2 = self.q2(x).mean
        return self.q1(x, z2).mean, z2


class GatedDecoder(nn.Module):
    """Pairs of latent vectors -> gated layers -> scores of all items."""

    def __init__(self, n_components: int, layer_size: int, n_items: int) -> None:
        super().__init__()
        one, other = (gated(n_components, layer_size) for _ in range(2))
        self.hidden = GatedPair(one, other, layer_size)
        self.logits = ItemLogits(layer_size, n_items)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Map two of (n_users, n_components) to scores of shape (n_users, n_items)."""
        logits: Tensor = self.logits(self.hidden(z1, z2))
        return logits

    def factored(self, z1: Tensor, z2: Tensor) -> FactoredLogits:
        """Give the same scores as factors."""
        return self.logits.factored(self.hidden(z1, z2))


class GatedPair(nn.Module):
    """Gated layers of two inputs, one each, then one of both."""

    def __init__(self, first: Gated, second: Gated, layer_size: int) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.both = gated(2 * layer_size, layer_size)

    def forward(self, first: InteractionBatch | Tensor, second: Tensor) -> Tensor:
        """Map the two to (n_users, layer_size)."""
        h: Tensor = self.both(torch.cat((self.first(first), self.second(second)), dim=1))
        return h


class Gated(OwnStart):
    """(W h + b) * sigmoid(V h + c), of a linear layer with twice as many units."""

    def __init__(self, linear: ItemEmbedding | nn.Linear, n_in: int) -> None:
        super().__init__()
        self.linear = linear
        self.n_in = n_in

    def start(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Start with the variance 4 / n_in: a gate half open leaves a quarter of the output's."""
        limit = math.sqrt(12 / self.n_in)
        nn.init.uniform_(self.linear.weight, -limit, limit, generator=generator)

    def forward(self, h: InteractionBatch | Tensor) -> Tensor:
        """Map (n_users, n_in) to half as many units as the linear layer has."""
        return F.glu(self.linear(h), dim=1)


def gated_items(n_items: int, layer_size: int) -> Gated:
    """Make a gated layer of rows."""
    return Gated(ItemEmbedding(n_items, 2 * layer_size), n_items)


def gated(n_in: int, layer_size: int) -> Gated:
    """Make a gated layer of hidden units."""
    return Gated(nn.Linear(n_in, 2 * layer_size), n_in)
