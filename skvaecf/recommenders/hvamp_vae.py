"""H+Vamp: a gated variational autoencoder with a hierarchy of two latent vectors."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._batch import InteractionBatch
from .._parameters import NonNegative, NonNegativeInt, Positive, PositiveInt, Rate
from ..neural._distributions import DiagonalNormal
from ..neural._latent import VampPrior
from ..neural._layers import FactoredLogits, ItemEmbedding, ItemLogits, SelfInitialized
from ..neural._likelihoods import LikelihoodLike, likelihood_class
from ..neural._objectives import anneal, divergence, weight_penalty
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Player


class HVampVAE(TorchRecommender):
    r"""Hierarchical variational autoencoder with gated layers and a VampPrior.

    It is for research on priors and for comparison with its paper.

    The model has two latent vectors. The prior of :math:`z_2` is a mixture of the posteriors of M
    pseudo-inputs. The prior of :math:`z_1` given :math:`z_2` is a normal distribution,
    :math:`p_\theta(z_1|z_2)`. The distribution of a user's items :math:`x` depends on both. The
    posterior is :math:`q_\phi(z_2|x) \, q_\phi(z_1|x, z_2)`, a product of two normal distributions
    with independent components. Training minimises, on average over the users,

    .. math::

        & - E_q \log p_\theta(x|z_1, z_2) + \beta \, E_q \bigl[
          \mathrm{KL}(q_\phi(z_1|x, z_2) \| p_\theta(z_1|z_2))

        & + \log q_\phi(z_2|x) - \log p(z_2) \bigr] + \frac{\lambda}{U} \sum_W \|W\|_F^2,

        & p(z_2) = \frac{1}{M} \sum_{m=1}^M q_\phi(z_2|u_m),

    where U is the number of users, and W are the weight matrices of all layers. The log-likelihood
    is summed over the items, one pair :math:`(z_1, z_2)` is drawn per user and update, and
    :math:`\beta` increases from 0 to ``kl_weight``. The pseudo-inputs :math:`u_m` are learned rows,
    see :class:`VampPrior`. The hidden layers are gated,

    .. math:: h \mapsto (W h + b) \odot \operatorname{sigmoid}(V h + c).

    The ranking scores are computed from the mean of :math:`q_\phi(z_2|x)` and from the mean of
    :math:`q_\phi(z_1|x, z_2)` at this :math:`z_2`. ``transform`` returns the latter.

    Parameters
    ----------
    n_components : int, default=200
        Number of components of each of the two latent vectors.
    layer_size : int, default=600
        Width of each hidden layer.
    n_pseudo_inputs : int, default=100
        Number M of pseudo-inputs.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="n-choose-k"
        Distribution of a user's interactions given the scores of all items. "n-choose-k" is the
        distribution of "bernoulli" given the number of the user's items. A custom likelihood is a
        subclass of :class:`skvaecf.neural.ItemLikelihood`.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    kl_weight : float, default=0.2
        Final weight :math:`\beta` of the KL term. 0 removes the term.
    anneal_steps : int or "auto", default="auto"
        Number of updates over which the weight above increases linearly from 0 to its final value.
        "auto" is the number of updates in 30 epochs, or in half of ``max_epochs`` if that is
        fewer. With 0 the weight is constant.
    l2 : float or "auto", default="auto"
        Weight :math:`\lambda` of the squared norms of the weight matrices of all layers, next to
        the loss summed over all users. "auto" is :math:`0.45 \, N^{1/3} / S` for N
        interactions, where S is the structure of the data (:ref:`structure-of-data`). The
        pseudo-inputs are not penalised.
    dropout : float, default=0.5
        Probability with which each of a user's items is dropped from the input of the encoder in
        training.
    learning_rate : float, default=2e-3
        Learning rate of the Adam optimizer.
    learning_rate_schedule : {"constant", "linear"}, default="constant"
        Course of the learning rate. "linear" lowers it from update to update, from its value at the
        beginning to 0 after ``max_epochs`` epochs.
    batch_size : int or "auto", default="auto"
        Number of users per mini-batch. "auto" is one twentieth of the training users, but at least
        50 and at most 500, so that small data sets have enough updates per epoch.
    max_epochs : int, default=200
        Maximum number of epochs. An epoch is one pass over the training users.
    ema_decay : float, default=0.8
        Decay per epoch of the exponential moving average of the parameters. The averages are
        validated, and they are the parameters of the fitted model. With 0 the parameters are not
        averaged.
    early_stopping : bool, default=True
        Whether to validate the model after each epoch and to keep the best epoch. The validation
        score is the NDCG@100 of the users in ``X_val`` or, without ``X_val``, of users that are
        held out. Training stops when the score has not reached a new maximum for
        ``n_iter_no_change`` epochs. If no user has ``min_interactions`` interactions, no user is
        held out, and all epochs are run. With False the last epoch is kept.
    validation_fraction : float, default=0.1
        Share of the users with ``min_interactions`` interactions that is held out if
        ``early_stopping=True`` and ``fit`` is called without ``X_val``.
    min_interactions : int, default=5
        Number of interactions, at least 2, that a validation user needs: users with fewer are
        training users.
    n_iter_no_change : int, default=20
        Number of epochs without a new maximum of the validation score after which training stops.
    device : str or torch.device, default="auto"
        Device of the computations: "auto" (CUDA if available, otherwise MPS, otherwise the CPU) or
        any torch device.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Type of the large matrix products in training. "auto" is bfloat16 if the hardware computes
        it natively, otherwise float32. Parameters, reductions and the products of ``predict`` are
        always float32.
    random_state : int, RandomState instance or None, default=None
        Seed of all random numbers. Pass an int for reproducible results across multiple calls of
        ``fit``.
    verbose : int, default=0
        Verbosity level. With 1, a progress bar is shown.
    warm_start : bool, default=False
        Whether ``fit`` starts from the parameters of the previous call of ``fit``.

    Attributes
    ----------
    network_ : torch.nn.Module
        Trained network. Its parts have the names of the distributions that they compute:
        ``q1_...``, ``q2_...``, ``p1_...``, ``prior`` and ``decoder``.
    history_ : list of dict
        One dict per epoch with the keys "epoch" (counted from 1), "autoencoder_loss" (mean over the
        updates), "validation_ndcg" (NDCG@100 of the validation users, if there are any) and
        "seconds".
    n_iter_ : int
        Number of epochs that were run.
    best_iter_ : int
        Number of the epoch whose parameters are kept, counted from 1.
    l2_ : float
        The weight :math:`\lambda` that was used.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    MultVAE : One latent vector. Its prior can be a VampPrior, too.
    RecVAE : Another learned prior.
    VampPrior : The prior of this model, as a parameter of MultVAE.

    Notes
    -----
    The losses omit the constant terms of the likelihood. Log-variances are clipped to [-12, 4]. The
    KL term of :math:`z_1` given :math:`z_2` is computed in closed form. That of :math:`z_2` is
    computed at the :math:`z_2` that was drawn. The paper has 1000 pseudo-inputs, whose dense rows
    cost most of the time of an update. The model of the paper is ``HVampVAE(n_pseudo_inputs=1000,
    likelihood="multinomial", l2=0, learning_rate=5e-4, ema_decay=0)``; it increases :math:`\beta`
    during 100 epochs.

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

    n_components: PositiveInt = 200
    _: KW_ONLY
    layer_size: PositiveInt = 600
    n_pseudo_inputs: PositiveInt = 100
    likelihood: LikelihoodLike = "n-choose-k"
    use_values: bool = False
    kl_weight: NonNegative = 0.2
    anneal_steps: NonNegativeInt | Literal["auto"] = "auto"
    l2: NonNegative | Literal["auto"] = "auto"
    dropout: Rate = 0.5
    learning_rate: Positive = 2e-3

    _auto_l2: ClassVar[float] = 0.45

    def _build(self, n_users: int, n_items: int) -> HierarchicalAutoencoder:
        return HierarchicalAutoencoder(
            n_items,
            self.n_components,
            self.layer_size,
            VampPrior(self.n_pseudo_inputs).build(n_items, self.n_components),
        )

    def _players(self, network: HierarchicalAutoencoder, x: InteractionBatch) -> list[Player]:
        likelihood, l2 = likelihood_class(self.likelihood), self._l2_of(x) / x.n_users
        layers = [part for name, part in network.named_children() if name != "prior"]

        def loss(batch: Batch) -> Tensor:
            """- E log p(x|z1, z2) + beta E [KL(q1 || p1) + log q2 / p2] + lambda/U ||W||^2."""
            x = batch.x
            rows = x.normalized().dropout(self.dropout, batch.generator)
            q2 = network.q2(rows)
            z2 = q2.rsample(generator=batch.generator)
            q1 = network.q1(rows, z2)
            z1 = q1.rsample(generator=batch.generator)
            p = likelihood(network.decoder.factored(z1, z2))
            beta = self.kl_weight * anneal(batch, self.anneal_steps, self.max_epochs)
            kl = divergence(q1, network.p1(z2), z1) + divergence(q2, network.p2(z2), z2)
            terms = batch.weights * (beta * kl - p.log_prob(x))
            return terms.mean() + weight_penalty(l2, *layers)

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _latent(self, network: HierarchicalAutoencoder, x: InteractionBatch) -> Tensor:
        return network.means(x.normalized())[0]

    def _logits(self, network: HierarchicalAutoencoder, x: InteractionBatch) -> Tensor:
        logits: Tensor = network.decoder(*network.means(x.normalized()))
        return logits


class HierarchicalAutoencoder(nn.Module):
    """Layers of q(z2|x), q(z1|x, z2), p(z2), p(z1|z2) and of the scores of the items."""

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
        """Return the posterior q(z2|x)."""
        return DiagonalNormal.from_layer(self.q2_out(self.q2_hidden(x)))

    def q1(self, x: InteractionBatch, z2: Tensor) -> DiagonalNormal:
        """Return the posterior q(z1|x, z2)."""
        return DiagonalNormal.from_layer(self.q1_out(self.q1_hidden(x, z2)))

    def p2(self, z2: Tensor) -> Any:
        """Return the prior p(z2)."""
        return self.prior(z2, self.q2)

    def p1(self, z2: Tensor) -> DiagonalNormal:
        """Return the prior p(z1|z2)."""
        return DiagonalNormal.from_layer(self.p1_out(self.p1_hidden(z2)))

    def item_vectors(self) -> Tensor:
        """Return the vectors that score the items, shape (n_items, layer_size)."""
        return self.decoder.logits.weight.detach().T

    def means(self, x: InteractionBatch) -> tuple[Tensor, Tensor]:
        """Return the means of z1 and z2, the former at the mean of z2."""
        z2 = self.q2(x).mean
        return self.q1(x, z2).mean, z2


class GatedDecoder(nn.Module):
    """Two latent vectors -> gated layers -> scores of all items."""

    def __init__(self, n_components: int, layer_size: int, n_items: int) -> None:
        super().__init__()
        one, other = (gated(n_components, layer_size) for _ in range(2))
        self.hidden = GatedPair(one, other, layer_size)
        self.logits = ItemLogits(layer_size, n_items)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Map two tensors of (n_users, n_components) to scores of shape (n_users, n_items)."""
        logits: Tensor = self.logits(self.hidden(z1, z2))
        return logits

    def factored(self, z1: Tensor, z2: Tensor) -> FactoredLogits:
        """Return the same scores as factors."""
        return self.logits.factored(self.hidden(z1, z2))


class GatedPair(nn.Module):
    """One gated layer for each of two inputs, then one for both."""

    def __init__(self, first: Gated, second: Gated, layer_size: int) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.both = gated(2 * layer_size, layer_size)

    def forward(self, first: InteractionBatch | Tensor, second: Tensor) -> Tensor:
        """Map the two inputs to shape (n_users, layer_size)."""
        h: Tensor = self.both(torch.cat((self.first(first), self.second(second)), dim=1))
        return h


class Gated(SelfInitialized):
    """Gated layer (W h + b) * sigmoid(V h + c), where one linear layer computes both parts."""

    def __init__(self, linear: ItemEmbedding | nn.Linear, n_in: int) -> None:
        super().__init__()
        self.linear = linear
        self.n_in = n_in

    def initialize(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Draw weights of variance 4 / n_in: a half-open gate divides the output variance by 4."""
        limit = math.sqrt(12 / self.n_in)
        nn.init.uniform_(self.linear.weight, -limit, limit, generator=generator)

    def forward(self, h: InteractionBatch | Tensor) -> Tensor:
        """Map (n_users, n_in) to half the number of units of the linear layer."""
        return F.glu(self.linear(h), dim=1)


def gated_items(n_items: int, layer_size: int) -> Gated:
    """Build a gated layer whose inputs are rows of interactions."""
    return Gated(ItemEmbedding(n_items, 2 * layer_size), n_items)


def gated(n_in: int, layer_size: int) -> Gated:
    """Build a gated layer whose inputs are hidden units."""
    return Gated(nn.Linear(n_in, 2 * layer_size), n_in)
