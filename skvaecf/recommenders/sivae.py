"""SIVAE: a variational autoencoder with noise in every layer of the encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._batch import InteractionBatch
from .._parameters import LayerSizes, NonNegative, NonNegativeInt, Positive, PositiveInt, Rate
from .._statistics import number_of_components
from ..neural._distributions import SemiImplicitNormal, standard_normal
from ..neural._layers import Autoencoder, Decoder, ItemEmbedding, Linear, SelfInitialized
from ..neural._likelihoods import ItemLikelihood, LikelihoodLike, likelihood_class
from ..neural._objectives import anneal, weight_penalty
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Player


def gaussian(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from N(0, 1)."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def coin(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw -1 or 1 with equal probabilities."""
    draws = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    return (draws < 0.5) * 2.0 - 1


# Distributions with mean 0 and variance 1.
NOISES = {"gaussian": gaussian, "bernoulli": coin}


class SIVAERecommender(TorchRecommender):
    r"""Variational autoencoder with a semi-implicit posterior (SIVAE).

    It is for research on posteriors, and for users whose tastes one normal distribution does not
    describe.

    Noise :math:`\epsilon_t` and the user's items :math:`x` enter every layer of the encoder,

    .. math::

        & \ell_t = \tanh(H_t \ell_{t-1} + E_t \epsilon_t + X_t x + b_t), \quad t = 1, \dots, M,

        & \psi = (\mu, \log \sigma^2) = A \ell_M + S x + c,

    so :math:`\psi` is random. Given :math:`\psi`, the posterior is
    :math:`z \sim N(\mu, \operatorname{diag} \sigma^2)`. Over all draws of :math:`\psi` it can have
    any shape, but its density is not known. For each user, J vectors :math:`z_j` are drawn, each
    with its own draw :math:`\psi_j`, and K more draws :math:`\psi^{(k)}` are made. Training
    minimises, on average over the users,

    .. math::

        & \mathcal{L}_K = - \frac{1}{J} \sum_{j=1}^J \bigl\{ \log p_\theta(x|z_j)
          + \beta \, [\log p(z_j) - \log h_K(z_j)] \bigr\}
          + \frac{\lambda}{U} \sum_W \|W\|_F^2,

        & h_K(z_j) = \frac{1}{K+1} \Bigl(q(z_j|\psi_j) + \sum_{k=1}^K q(z_j|\psi^{(k)})\Bigr).

    Here :math:`p(z) = N(0, I)`, U is the number of users, and W are the weight matrices of encoder
    and decoder. The log-likelihood is summed over the items. :math:`\beta` is ``kl_weight``; with
    ``anneal_steps`` it increases from 0 to this value. The decoder :math:`f_\theta` computes the
    ranking scores :math:`f_\theta(\mu)` at :math:`\epsilon = 0`.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of components of the latent vector. "auto" is :math:`\sqrt{U I} / 30` for U users and
        I items, rounded up, at least 200 and at most 400: the more users and items, the more
        components pay.
    encoder_layer_sizes : tuple of int, default=(100,)
        Widths of the hidden tanh layers of the encoder. With ``()`` the encoder is linear.
    decoder_layer_sizes : tuple of int, default=()
        Widths of the hidden tanh layers of the decoder. With ``()`` the decoder is linear.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="n-choose-k"
        Distribution of a user's interactions given the scores of all items. "n-choose-k" is the
        distribution of "bernoulli" given the number of the user's items. A custom likelihood is a
        subclass of :class:`skvaecf.neural.ItemLikelihood`.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    noise : {"gaussian", "bernoulli"}, default="gaussian"
        Distribution of the noise: standard normal, or -1 and 1 with equal probabilities. Both have
        the mean 0 and the variance 1.
    noise_size : int, default=100
        Number of components of the noise that enters the layers of the encoder.
    shared_sigma : bool, default=False
        Whether the log-variances depend on x alone, so that they are the same for all draws.
    n_mixing_samples : int, default=10
        Number K of further draws of the posterior's parameters per user and update. With 0, only
        :math:`q(z_j|\psi_j)` remains of the mixture.
    n_latent_samples : int, default=1
        Number J of draws of z per user and update.
    n_prediction_samples : int, default=0
        Number of draws of the noise and of z over which ``predict`` averages the probabilities of
        the items. The draws of the noise are made once per fit and shared by all users. With 0, the
        scores are :math:`f_\theta(\mu)` at :math:`\epsilon = 0`.
    kl_weight : float, default=0.2
        Final weight :math:`\beta` of the KL term. 0 removes the term.
    anneal_steps : int or "auto", default=0
        Number of updates over which the weight above increases linearly from 0 to its final value.
        "auto" is the number of updates in 30 epochs, or in half of ``max_epochs`` if that is
        fewer. With 0 the weight is constant.
    l2 : float or "auto", default="auto"
        Weight :math:`\lambda` of the squared norms of the weight matrices of encoder and decoder,
        next to the loss summed over all users. "auto" is :math:`0.45 \, N^{1/3} / S` for N
        interactions, where S is the structure of the data (:ref:`structure-of-data`).
    dropout : float, default=0.5
        Probability with which each of a user's items is dropped from the input of the encoder in
        training.
    learning_rate : float, default=5e-3
        Learning rate of the Adam optimizer.
    learning_rate_schedule : {"constant", "linear"}, default="linear"
        Course of the learning rate. "linear" lowers it from update to update, from its value at the
        beginning to 0 after ``max_epochs`` epochs.
    init : {"svd", "random"}, default="svd"
        Initial weights. "svd" computes those of the encoder and of the last layer of the decoder
        from a truncated singular value decomposition of X (:ref:`start-from-svd`), so that few
        epochs are needed. "random" draws them from Glorot's uniform distribution.
    n_sampled_items : int, "auto" or None, default="auto"
        Number of items that each update uses besides those of its mini-batch. They are drawn at
        random, and each of them stands for several items (:ref:`sampled-items`). The time of an
        update then does not depend on the number of all items. None uses all items. "auto" is 2000
        if there are more than 15,000 items, otherwise None.
    batch_size : int or "auto", default="auto"
        Number of users per mini-batch. "auto" is one twentieth of the training users, but at least
        50 and at most 500, so that small data sets have enough updates per epoch.
    max_epochs : int, default=24
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
        Trained network with the parts ``encoder`` and ``decoder``.
    history_ : list of dict
        One dict per epoch with the keys "epoch" (counted from 1), "autoencoder_loss" (mean over the
        updates), "validation_ndcg" (NDCG@100 of the validation users, if there are any) and
        "seconds".
    n_iter_ : int
        Number of epochs that were run.
    best_iter_ : int
        Number of the epoch whose parameters are kept, counted from 1.
    n_components_ : int
        Number of components that was used.
    l2_ : float
        The weight :math:`\lambda` that was used.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    MultVAE : The same model with a normal posterior.
    VAEGANRecommender : Another posterior of any shape, with discriminators.

    Notes
    -----
    The losses omit the constant terms of the likelihood. All draws for a user in an update have the
    same dropout mask. Log-variances are clipped to [-12, 4]. The number M of layers with noise is
    the length of ``encoder_layer_sizes``. With ``()`` the posterior is normal. At the start of
    training, the noise changes a hidden unit by as much as the user's items do.

    The paper has a factor N/M before the log-likelihood. This factor belongs to latent variables
    that all data share. Here every user has a separate z, so the factor is 1.

    The network of the paper is ``SIVAERecommender(n_components=200, encoder_layer_sizes=(600,),
    decoder_layer_sizes=(600,), likelihood="multinomial", kl_weight=0.2, anneal_steps=40_000, l2=0,
    learning_rate=1e-3, learning_rate_schedule="constant", init="random", n_sampled_items=None,
    max_epochs=200, ema_decay=0)``.

    References
    ----------
    The SIVAE paper, which relates Mult-VAE to the binary n-choose-k model, eq. 12 and algorithm 1.

    Yin and Zhou, "Semi-implicit variational inference", ICML 2018.

    Examples
    --------
    >>> from skvaecf import SIVAERecommender
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = SIVAERecommender(8, encoder_layer_sizes=(16,), max_epochs=20, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    n_components: PositiveInt | Literal["auto"] = "auto"
    _: KW_ONLY
    encoder_layer_sizes: LayerSizes = (100,)
    decoder_layer_sizes: LayerSizes = ()
    likelihood: LikelihoodLike = "n-choose-k"
    use_values: bool = False
    noise: Literal["gaussian", "bernoulli"] = "gaussian"
    noise_size: PositiveInt = 100
    shared_sigma: bool = False
    n_mixing_samples: NonNegativeInt = 10
    n_latent_samples: PositiveInt = 1
    n_prediction_samples: NonNegativeInt = 0
    kl_weight: NonNegative = 0.2
    anneal_steps: NonNegativeInt | Literal["auto"] = 0
    l2: NonNegative | Literal["auto"] = "auto"
    dropout: Rate = 0.5
    learning_rate: Positive = 5e-3
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    init: Literal["svd", "random"] = "svd"
    n_sampled_items: PositiveInt | Literal["auto"] | None = "auto"
    max_epochs: PositiveInt = 24

    _auto_l2: ClassVar[float] = 0.45

    def _build(self, n_users: int, n_items: int) -> Autoencoder:
        n_components = self._n_components_of(n_users, n_items)
        return Autoencoder(
            SemiImplicitEncoder(
                n_items,
                self.encoder_layer_sizes,
                n_components,
                NOISES[self.noise],
                self.noise_size,
                shared_sigma=self.shared_sigma,
                n_fixed_draws=self.n_prediction_samples,
            ),
            Decoder(n_components, self.decoder_layer_sizes, n_items),
        )

    def _n_components_of(self, n_users: int, n_items: int) -> int:
        return number_of_components(self.n_components, n_users, n_items, least=200)

    def _players(self, network: Any, x: InteractionBatch) -> list[Player]:
        likelihood, l2 = likelihood_class(self.likelihood), self._l2_of(x) / x.n_users
        n_draws = self.n_latent_samples + self.n_mixing_samples

        def loss(batch: Batch) -> Tensor:
            """- 1/J sum_j {log p(x|z_j) + beta [log p(z_j) - log h_K(z_j)]} + lambda/U ||W||^2."""
            x = batch.x
            loc, log_variance = network.encoder(
                x.normalized().dropout(self.dropout, batch.generator),
                network.encoder.draw(n_draws, x.n_users, batch.generator),
            )
            h = SemiImplicitNormal(loc, log_variance, self.n_latent_samples)
            z = h.rsample(generator=batch.generator)  # (n_latent_samples, n_users, n_components)
            log_p = torch.stack(
                [likelihood(network.decoder.factored(z_j)).log_prob(x) for z_j in z]
            )
            beta = self.kl_weight * anneal(batch, self.anneal_steps, self.max_epochs)
            bound = log_p + beta * (standard_normal(z).log_prob(z) - h.log_prob(z))
            penalty = weight_penalty(l2, network.encoder, network.decoder)
            return penalty - (batch.weights * bound).mean()

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _linear_encoder(self, network: Any) -> Tensor | None:
        encoder = network.encoder
        is_linear = not len(encoder.from_below) and not len(encoder.fixed_latent_noise)
        return encoder.from_items.weight if is_linear else None

    def _latent(self, network: Any, x: InteractionBatch) -> Tensor:
        mean: Tensor = network.encoder.mean(x.normalized())
        return mean

    def _logits(self, network: Any, x: InteractionBatch) -> Tensor:
        n_samples = len(network.encoder.fixed_latent_noise)
        if n_samples == 0:
            return super()._logits(network, x)
        likelihood = likelihood_class(self.likelihood)
        total = torch.zeros((), device=x.values.device)
        for z in network.encoder.fixed_samples(x.normalized()):
            total = total + probabilities(likelihood, network.decoder(z))
        return total / n_samples


class SemiImplicitEncoder(SelfInitialized):
    """Rows and noise -> psi, the means and log-variances of z, eq. 12.

    Parameters
    ----------
    n_items, n_components, noise_size : int
    layer_sizes : sequence of int
        Widths of the M hidden layers.
    noise : callable
        Distribution of the noise.
    shared_sigma : bool
        Whether the log-variances depend on the rows alone.
    n_fixed_draws : int
        Number of draws of all noise that are stored for ``fixed_samples``.
    """

    fixed_noise: Tensor
    fixed_latent_noise: Tensor

    def __init__(
        self,
        n_items: int,
        layer_sizes: Sequence[int],
        n_components: int,
        noise: Callable[[Sequence[int], Tensor, torch.Generator], Tensor],
        noise_size: int,
        *,
        shared_sigma: bool,
        n_fixed_draws: int,
    ) -> None:
        super().__init__()
        sizes = (*layer_sizes, n_components if shared_sigma else 2 * n_components)
        # With a shared sigma, a separate layer computes the log-variances from x alone.
        self.sizes = (*sizes, n_components) if shared_sigma else sizes
        self.shared_sigma = shared_sigma
        self.noise = noise
        self.noise_size = noise_size
        # What x adds to all layers: one sparse product for any number of draws.
        self.from_items = ItemEmbedding(n_items, sum(self.sizes))
        self.from_noise = nn.ModuleList(Linear(noise_size, size) for size in layer_sizes)
        self.from_below = nn.ModuleList(Linear(a, b) for a, b in pairwise(sizes))
        self.register_buffer(
            "fixed_noise", torch.empty(len(layer_sizes), n_fixed_draws, 1, noise_size)
        )
        self.register_buffer("fixed_latent_noise", torch.empty(n_fixed_draws, 1, n_components))

    @property
    def item_weights(self) -> Tensor:
        """Weights of a user's items in the means of z, shape (n_items, n_components)."""
        n_hidden = sum(self.sizes[: len(self.from_noise)])
        n_components = self.fixed_latent_noise.shape[2]
        return self.from_items.weight[:, n_hidden : n_hidden + n_components]

    def initialize(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Scale the weights of the noise; draw the noise of ``fixed_samples``."""
        # The noise is to change a unit by as much as the items do. A row has length 1, the noise
        # about sqrt(noise_size); with Glorot's rule its effect would be much larger.
        limit = math.sqrt(6 / sum(self.from_items.weight.shape) / self.noise_size)
        for weight in self.from_noise.parameters():
            nn.init.uniform_(weight, -limit, limit, generator=generator)
        self.fixed_noise.copy_(self.noise(self.fixed_noise.shape, self.fixed_noise, generator))
        self.fixed_latent_noise.normal_(generator=generator)

    def draw(self, n_draws: int, n_users: int, generator: torch.Generator) -> Tensor:
        """Draw noise for all layers, shape (M, n_draws, n_users, noise_size)."""
        shape = (len(self.from_noise), n_draws, n_users, self.noise_size)
        return self.noise(shape, self.from_items.bias, generator)

    def forward(self, x: InteractionBatch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Map rows and noise to mu and log sigma^2, shapes (n_draws, n_users, n_components)."""
        h, *skips = self.from_items(x)[None].split(self.sizes, dim=2)
        log_variance = skips.pop() if self.shared_sigma else None
        for noise_layer, layer, eps, skip in zip(
            self.from_noise, self.from_below, noise, skips, strict=True
        ):
            e = noise_layer(eps)
            h = layer(torch.tanh(h.to(e.dtype) + e)) + skip  # (n_draws, n_users, size)
        loc, log_variance = h.chunk(2, dim=2) if log_variance is None else (h, log_variance)
        log_variance = F.hardtanh(log_variance, -12, 4)  # a clamp with a faster backward
        shape = (noise.shape[1], -1, -1)
        return loc.expand(shape), log_variance.expand(shape)

    def mean(self, x: InteractionBatch) -> Tensor:
        """Compute mu with the noise at its mean, shape (n_users, n_components)."""
        noise = self.from_items.bias.new_zeros(len(self.from_noise), 1, 1, self.noise_size)
        loc: Tensor = self(x, noise)[0]
        return loc[0]

    def fixed_samples(self, x: InteractionBatch) -> Tensor:
        """Draw z with the same noise for all users, shape (n_fixed_draws, n_users, ...)."""
        loc, log_variance = self(x, self.fixed_noise)
        z: Tensor = loc + (0.5 * log_variance).exp() * self.fixed_latent_noise
        return z


def probabilities(likelihood: type[ItemLikelihood], logits: Tensor) -> Tensor:
    """Compute the probabilities of the items for one click; the logits are overwritten."""
    one = logits.new_ones(len(logits), 1)
    _, saved = likelihood.log_normalizer([logits], one)
    return likelihood.mean(logits, one, saved)
