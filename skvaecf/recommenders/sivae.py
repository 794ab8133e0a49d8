"""SIVAE: a variational autoencoder whose encoder is fed with noise in every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributions import SemiImplicitNormal, standard_normal
from ..interactions import InteractionBatch
from ..likelihoods import LIKELIHOODS, ItemLikelihood, likelihood_of
from ..modules import Autoencoder, Decoder, ItemEmbedding, Linear, OwnStart
from ..neural import TorchRecommender
from ..objectives import anneal, weight_penalty
from ..training import Batch, Player


def gaussian(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from N(0, 1)."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def coin(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw -1 or 1, each half of the time."""
    draws = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    return (draws < 0.5) * 2.0 - 1


# Laws of mean 0 and variance 1.
NOISES = {"gaussian": gaussian, "bernoulli": coin}


class SIVAERecommender(TorchRecommender):
    r"""Variational autoencoder with a semi-implicit posterior (SIVAE).

    Noise :math:`\epsilon_t` and the user's items :math:`x` enter every layer of the encoder,

    .. math:: \ell_t = \tanh(H_t \ell_{t-1} + E_t \epsilon_t + X_t x + b_t), \quad
              t = 1, \dots, M, \qquad
              \psi = (\mu, \log \sigma^2) = A \ell_M + S x + c,

    so :math:`\psi` is random, and the posterior, :math:`z \sim N(\mu, \operatorname{diag}
    \sigma^2)` given :math:`\psi`, can have any shape. Its density is not known; with J draws
    :math:`z_j` of their own :math:`\psi_j` and K more draws :math:`\psi^{(k)}` for the same user,
    training lowers, on average over the users,

    .. math:: \mathcal{L}_K = - \frac{1}{J} \sum_{j=1}^J \Bigl\{ \log p_\theta(x|z_j)
              + \beta \Bigl[\log p(z_j) - \log \frac{1}{K+1} \Bigl(q(z_j|\psi_j)
              + \sum_{k=1}^K q(z_j|\psi^{(k)})\Bigr)\Bigr] \Bigr\},

    the likelihood being summed over the items, :math:`p(z) = N(0, I)`, and :math:`\beta` rising
    from 0 to ``kl_weight``. Users are ranked by :math:`f_\theta(\mu)` at :math:`\epsilon = 0`.

    Parameters
    ----------
    n_components : int, default=200
        Width of the latent vector.
    encoder_layer_sizes : tuple of int, default=(600,)
        Widths of the encoder's hidden tanh layers; ``()`` makes it linear.
    decoder_layer_sizes : tuple of int, default=()
        Widths of the decoder's hidden tanh layers; ``()`` makes it linear.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="multinomial"
        Distribution of a user's items given the scores. "n-choose-k" is Bernoulli's given their
        number. A class is one of your own, see :mod:`skvaecf.likelihoods`.
    noise : {"gaussian", "bernoulli"}, default="gaussian"
        Distribution of the noise, of mean 0 and variance 1: standard normal, or -1 and 1 with even
        odds.
    noise_size : int, default=100
        Width of the noise that enters the layers of the encoder.
    shared_sigma : bool, default=False
        Make the log-variances a function of x alone, the same for all draws.
    n_mixing_samples : int, default=10
        Number K of further draws of the posterior's parameters per user and update. 0 leaves the
        density of z given its own.
    n_latent_samples : int, default=1
        Number J of draws of z per user and update.
    n_prediction_samples : int, default=0
        Draws of noise and z over which ``predict`` averages the probabilities of the items; they
        are made once per fit and shared by all users. 0 scores by the decoded mean without noise.
    kl_weight : float, default=0.5
        Final weight :math:`\beta` of the KL term. 0 leaves it out.
    anneal_steps : int or "auto", default="auto"
        Updates over which this weight rises linearly from 0 to its final value. "auto" takes 30
        epochs.
    l2 : float, default=0.0
        Weight :math:`\lambda` of the squared norms of all weight matrices of encoder and decoder,
        which are added to the loss, as in :class:`MultVAE`.
    dropout : float, default=0.5
        Probability in training to drop each of a user's items from the encoder's input.
    learning_rate : float, default=1e-3
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
        The trained ``encoder`` and ``decoder``.
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
    MultVAE : The same with a normal posterior.

    Notes
    -----
    The constant terms of the likelihood are left out of the losses; one dropout mask per user and
    update is shared by all draws. Log-variances are kept in [-12, 4]. The number M of noisy layers
    is that of ``encoder_layer_sizes``; without any, the posterior is normal. At the start the
    noise moves a hidden unit as much as a user's items do.

    The paper prints a factor N/M before the log-likelihood. It belongs to latent variables shared
    by all data; here z is a user's own and the factor is 1.

    References
    ----------
    Eq. 12 and Algorithm 1 of the paper that relates Mult-VAE to the binary n-choose-k model; after
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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "encoder_layer_sizes": ["array-like"],
        "decoder_layer_sizes": ["array-like"],
        "likelihood": [StrOptions(set(LIKELIHOODS)), type],
        "noise": [StrOptions(set(NOISES))],
        "noise_size": [Interval(Integral, 1, None, closed="left")],
        "shared_sigma": ["boolean"],
        "n_mixing_samples": [Interval(Integral, 0, None, closed="left")],
        "n_latent_samples": [Interval(Integral, 1, None, closed="left")],
        "n_prediction_samples": [Interval(Integral, 0, None, closed="left")],
        "kl_weight": [Interval(Real, 0, None, closed="left")],
        "anneal_steps": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "l2": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 200,
        *,
        encoder_layer_sizes: Sequence[int] = (600,),
        decoder_layer_sizes: Sequence[int] = (),
        likelihood: str | type[ItemLikelihood] = "multinomial",
        noise: str = "gaussian",
        noise_size: int = 100,
        shared_sigma: bool = False,
        n_mixing_samples: int = 10,
        n_latent_samples: int = 1,
        n_prediction_samples: int = 0,
        kl_weight: float = 0.5,
        anneal_steps: int | Literal["auto"] = "auto",
        l2: float = 0.0,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
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
        self.encoder_layer_sizes = encoder_layer_sizes
        self.decoder_layer_sizes = decoder_layer_sizes
        self.likelihood = likelihood
        self.noise = noise
        self.noise_size = noise_size
        self.shared_sigma = shared_sigma
        self.n_mixing_samples = n_mixing_samples
        self.n_latent_samples = n_latent_samples
        self.n_prediction_samples = n_prediction_samples
        self.kl_weight = kl_weight
        self.anneal_steps = anneal_steps
        self.l2 = l2
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

    def _build(self, n_users: int, n_items: int) -> Autoencoder:
        return Autoencoder(
            SemiImplicitEncoder(
                n_items,
                self.encoder_layer_sizes,
                self.n_components,
                NOISES[self.noise],
                self.noise_size,
                shared_sigma=self.shared_sigma,
                n_fixed_draws=self.n_prediction_samples,
            ),
            Decoder(self.n_components, self.decoder_layer_sizes, n_items),
        )

    def _players(self, network: Any) -> list[Player]:
        likelihood = likelihood_of(self.likelihood)
        n_draws = self.n_latent_samples + self.n_mixing_samples

        def loss(batch: Batch) -> Tensor:
            """- 1/J sum_j {log p(x|z_j) + beta [log p(z_j) - log h_K(z_j)]} + lambda ||W||^2."""
            x = batch.x
            loc, log_variance = network.encoder(
                x.l2_normalized().dropout(self.dropout, batch.generator),
                network.encoder.draw(n_draws, x.n_users, batch.generator),
            )
            h = SemiImplicitNormal(loc, log_variance, self.n_latent_samples)
            z = h.rsample(generator=batch.generator)  # (n_latent_samples, n_users, n_components)
            log_p = torch.stack(
                [likelihood(network.decoder.factored(z_j)).log_prob(x) for z_j in z]
            )
            beta = self.kl_weight * anneal(batch.step, batch.epoch, self.anneal_steps)
            bound = log_p + beta * (standard_normal(z).log_prob(z) - h.log_prob(z))
            return weight_penalty(self.l2, network.encoder, network.decoder) - bound.mean()

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _latent(self, network: Any, x: InteractionBatch) -> Tensor:
        mean: Tensor = network.encoder.mean(x.l2_normalized())
        return mean

    def _logits(self, network: Any, x: InteractionBatch) -> Tensor:
        n_samples = len(network.encoder.fixed_latent_noise)
        if n_samples == 0:
            return super()._logits(network, x)
        likelihood = likelihood_of(self.likelihood)
        total = torch.zeros((), device=x.values.device)
        for z in network.encoder.fixed_samples(x.l2_normalized()):
            total = total + probabilities(likelihood, network.decoder(z))
        return total / n_samples


class SemiImplicitEncoder(OwnStart):
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
        Draws of all noise to keep for ``fixed_samples``.
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
        # With a shared sigma, x alone gives the log-variances, by a layer of their own.
        self.sizes = (*sizes, n_components) if shared_sigma else sizes
        self.shared_sigma = shared_sigma
        self.noise = noise
        self.noise_size = noise_size
        # What x adds to all layers: one sparse product, whatever the number of draws.
        self.from_items = ItemEmbedding(n_items, sum(self.sizes))
        self.from_noise = nn.ModuleList(Linear(noise_size, size) for size in layer_sizes)
        self.from_below = nn.ModuleList(Linear(a, b) for a, b in pairwise(sizes))
        self.register_buffer(
            "fixed_noise", torch.empty(len(layer_sizes), n_fixed_draws, 1, noise_size)
        )
        self.register_buffer("fixed_latent_noise", torch.empty(n_fixed_draws, 1, n_components))

    def start(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Make noise and items move a unit alike; fix the draws for ``fixed_samples``."""
        # A row has length 1, the noise about sqrt(noise_size): by Glorot's rule, which looks at
        # widths only, it would drown the row.
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
        """Make samples of z by the same draws for all users, shape (n_fixed_draws, ...)."""
        loc, log_variance = self(x, self.fixed_noise)
        z: Tensor = loc + (0.5 * log_variance).exp() * self.fixed_latent_noise
        return z


def probabilities(likelihood: type[ItemLikelihood], logits: Tensor) -> Tensor:
    """Compute the probability of each item to be a user's one click, overwriting the logits."""
    one = logits.new_ones(len(logits), 1)
    _, known = likelihood.log_normalizer([logits], one)
    return likelihood.mean(logits, one, known)
