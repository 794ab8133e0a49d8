"""RecVAE: a variational autoencoder whose prior contains the posterior of the last epoch."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import KW_ONLY
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from torch.nn import functional as F

from .._batch import InteractionBatch
from .._parameters import LayerSizes, NonNegative, Positive, PositiveInt, Rate
from ..neural._distributions import DiagonalNormal
from ..neural._layers import Autoencoder, Decoder, ItemEmbedding, SelfInitialized
from ..neural._likelihoods import LikelihoodLike, likelihood_class
from ..neural._objectives import divergence, weight_penalty
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Order, Player, by_epoch


class RecVAE(TorchRecommender):
    r"""Variational autoencoder with a composite prior and alternating training (RecVAE).

    It is for data on which a variational autoencoder is better than simpler models, if there is
    time for a search.

    As in :class:`MultVAE`, the decoder maps a latent vector :math:`z` to the scores
    :math:`f_\theta(z)` of all items, and a user's items :math:`x` are drawn according to these
    scores. The decoder is linear. The encoder computes the posterior
    :math:`q_\phi(z|x) = N(\mu_\phi(x), \operatorname{diag} \sigma^2_\phi(x))`. In every epoch,
    the encoder is trained first, in ``n_encoder_passes`` passes over the users. It minimises, on
    average over the users,

    .. math:: - E_{q_\phi(z|\tilde x)} \log p_\theta(x|z)
              + (\beta + \gamma N_u) \, \mathrm{KL}(q_\phi(z|\tilde x) \| p(z|x))
              + \frac{\lambda}{U} \sum_W \|W\|_F^2,

    where :math:`\tilde x` is the row after dropout, :math:`N_u` is the number of the user's items,
    U is the number of users, and W are the weight matrices of the encoder. Then the decoder is
    trained, in ``n_decoder_passes`` passes and without dropout. It minimises
    :math:`- E_{q_\phi(z|x)} \log p_\theta(x|z)` plus the penalty on its own weight matrix. The
    log-likelihood is summed over the items. The prior keeps the encoder close to its parameters
    :math:`\phi_{old}` at the start of the epoch. For each component k of z, independently, it is
    the mixture

    .. math:: p(z_k|x) = w_1 N(0, 1) + w_2 \, q_{\phi_{old}}(z_k|x) + w_3 N(0, e^{10}).

    One z is drawn per user and update. The KL term is computed as
    :math:`\log q_\phi(z|\tilde x) - \log p(z|x)` at this z. The ranking scores are
    :math:`f_\theta(\mu_\phi(x))`.

    Parameters
    ----------
    n_components : int, default=200
        Number of components of the latent vector.
    encoder_layer_sizes : tuple of int, default=(600, 600, 600, 600, 600)
        Widths of the hidden layers of the encoder. There must be at least one layer, and all widths
        must be equal. The sum of the outputs of all previous layers is added to each layer before
        its activation function.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="n-choose-k"
        Distribution of a user's interactions given the scores of all items. "n-choose-k" is the
        distribution of "bernoulli" given the number of the user's items. A custom likelihood is a
        subclass of :class:`skvaecf.neural.ItemLikelihood`.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    prior_weights : tuple of 3 floats, default=(0.15, 0.75, 0.1)
        Weights w of the standard normal distribution, of the old posterior and of the wide normal
        distribution in the prior. They must be non-negative and add up to 1.
    kl_weight : float, default=0.0
        Part :math:`\beta` of the weight of the KL term that is the same for all users.
    kl_weight_per_item : float, default=0.005
        Part :math:`\gamma` of the weight of the KL term that is multiplied by the number of the
        user's items.
    l2 : float or "auto", default="auto"
        Weight :math:`\lambda` of the squared norms of the weight matrices of encoder and decoder,
        next to the loss summed over all users. "auto" is :math:`0.45 \, N^{1/3} / S` for N
        interactions, where S is the structure of the data (:ref:`structure-of-data`).
    dropout : float, default=0.5
        Probability with which each of a user's items is dropped from the input of the encoder when
        the encoder is trained.
    n_encoder_passes : int, default=3
        Passes of the encoder over the users in each epoch.
    n_decoder_passes : int, default=1
        Passes of the decoder over the users in each epoch, after those of the encoder.
    learning_rate : float, default=2e-3
        Learning rate of the Adam optimizer.
    learning_rate_schedule : {"constant", "linear"}, default="constant"
        Course of the learning rate. "linear" lowers it from update to update, from its value at the
        beginning to 0 after ``max_epochs`` epochs.
    batch_size : int or "auto", default="auto"
        Number of users per mini-batch. "auto" is one twentieth of the training users, but at least
        50 and at most 500, so that small data sets have enough updates per epoch.
    max_epochs : int, default=200
        Maximum number of epochs. In each epoch, first the encoder and then the decoder is trained.
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
        One dict per epoch with the keys "epoch" (counted from 1), "encoder_loss", "decoder_loss"
        (means over the updates), "validation_ndcg" (NDCG@100 of the validation users, if there are
        any) and "seconds".
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
    MultVAE : A fixed prior; encoder and decoder are trained together.
    HVampVAE : Another learned prior, with one loss.

    Notes
    -----
    The losses omit the constant terms of the likelihood. Log-variances are clipped to [-12, 4]; the
    paper does not clip them. The model of the paper is ``RecVAE(likelihood="multinomial", l2=0,
    learning_rate=5e-4, ema_decay=0)``.

    References
    ----------
    Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko, "RecVAE: a new variational autoencoder for
    top-N recommendations with implicit feedback", WSDM 2020, section 3.

    Examples
    --------
    >>> from skvaecf import RecVAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = RecVAE(8, encoder_layer_sizes=(16, 16), max_epochs=10, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    n_components: PositiveInt = 200
    _: KW_ONLY
    encoder_layer_sizes: LayerSizes = (600, 600, 600, 600, 600)
    likelihood: LikelihoodLike = "n-choose-k"
    use_values: bool = False
    prior_weights: Annotated[Sequence[float], "array-like"] = (0.15, 0.75, 0.1)
    kl_weight: NonNegative = 0.0
    kl_weight_per_item: NonNegative = 0.005
    l2: NonNegative | Literal["auto"] = "auto"
    dropout: Rate = 0.5
    n_encoder_passes: PositiveInt = 3
    n_decoder_passes: PositiveInt = 1
    learning_rate: Positive = 2e-3

    _auto_l2: ClassVar[float] = 0.45
    _order: ClassVar[Order] = staticmethod(by_epoch)

    def _validate_params(self) -> None:
        super()._validate_params()
        if len(set(self.encoder_layer_sizes)) != 1:
            raise ValueError(
                "encoder_layer_sizes must hold at least one width, all of them equal, got"
                f" {self.encoder_layer_sizes!r}."
            )
        weights = np.asarray(self.prior_weights)
        numbers = weights.shape == (3,) and weights.dtype.kind in "fiu"
        if not numbers or not (weights >= 0).all() or not np.isclose(weights.sum(), 1):
            raise ValueError(
                "prior_weights must be 3 numbers of at least 0 that add up to 1, got"
                f" {self.prior_weights!r}."
            )

    def _build(self, n_users: int, n_items: int) -> Autoencoder:
        return Autoencoder(
            DenselyConnectedEncoder(n_items, self.encoder_layer_sizes, self.n_components),
            Decoder(self.n_components, (), n_items),
        )

    def _players(self, network: Any, x: InteractionBatch) -> list[Player]:
        likelihood, l2 = likelihood_class(self.likelihood), self._l2_of(x) / x.n_users
        old_encoder = deepcopy(network.encoder).requires_grad_(False)
        # Copied to the device once: a copy in every step would make the device wait.
        prior_weights = network.decoder.logits.bias.new_tensor(self.prior_weights)

        def remember() -> None:
            old_encoder.load_state_dict(network.encoder.state_dict())

        def encoder_loss(batch: Batch) -> Tensor:
            """- E_q log p(x|z) + (beta + gamma N_u) KL(q(z|x) || p(z|x)) + lambda/U ||W||^2."""
            x, rows = batch.x, batch.x.normalized()
            q = network.encoder(rows.dropout(self.dropout, batch.generator))
            z = q.rsample(generator=batch.generator)
            kl = divergence(q, composite_prior(old_encoder(rows), prior_weights), z)
            weight = self.kl_weight + self.kl_weight_per_item * x.sum(x.values)
            # Not as factors, which would also compute the gradient of the decoder's weights.
            log_p = likelihood(network.decoder(z)).log_prob(x)
            terms = batch.weights * (weight * kl - log_p)
            return terms.mean() + weight_penalty(l2, network.encoder)

        def decoder_loss(batch: Batch) -> Tensor:
            """- E_q log p(x|z) + lambda/U ||W||^2: all terms that depend on the decoder."""
            with torch.no_grad():
                z = network.encoder(batch.x.normalized()).rsample(generator=batch.generator)
            log_p = likelihood(network.decoder(z)).log_prob(batch.x)
            return weight_penalty(l2, network.decoder) - (batch.weights * log_p).mean()

        encoder, decoder = [*network.encoder.parameters()], [*network.decoder.parameters()]
        rate, times = self.learning_rate, (self.n_encoder_passes, self.n_decoder_passes)
        return [
            Player(
                "encoder",
                encoder,
                encoder_loss,
                rate,
                times[0],
                before_epoch=remember,
                memory=old_encoder,
            ),
            Player("decoder", decoder, decoder_loss, rate, times[1]),
        ]

    def _latent(self, network: Autoencoder, x: InteractionBatch) -> Tensor:
        mean: Tensor = network.encoder(x.normalized()).mean
        return mean


class DenselyConnectedEncoder(SelfInitialized):
    """Rows -> h_1 ... h_n -> q(z|x), h_l = norm(swish(W_l h_{l-1} + h_1 + ... + h_{l-1}))."""

    def __init__(self, n_items: int, layer_sizes: Sequence[int], n_components: int) -> None:
        super().__init__()
        layer_size, n_layers = layer_sizes[0], len(layer_sizes)
        self.first = ItemEmbedding(n_items, layer_size)
        self.rest = nn.ModuleList(nn.Linear(layer_size, layer_size) for _ in range(n_layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(layer_size, eps=0.1) for _ in range(n_layers))
        self.out = nn.Linear(layer_size, 2 * n_components)

    def initialize(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Set the scales of the layer norms to 1."""
        for name, parameter in self.norms.named_parameters():
            if name.endswith("weight"):
                nn.init.ones_(parameter)

    def forward(self, x: InteractionBatch) -> DiagonalNormal:
        """Return the posteriors of the latent vectors of rows."""
        first, *norms = self.norms
        h = first(F.silu(self.first(x)))
        total = h
        for layer, norm in zip(self.rest, norms, strict=True):
            h = norm(F.silu(layer(h) + total))
            total = total + h
        return DiagonalNormal.from_layer(self.out(h))


def composite_prior(old: DiagonalNormal, weights: Tensor) -> Distribution:
    """Return the mixture of N(0, 1), the old posterior and N(0, e^10) for each component of z."""
    zeros = torch.zeros_like(old.mean)
    loc = torch.stack((zeros, old.mean, zeros), dim=-1)  # (n_users, n_components, 3)
    log_variance = torch.stack((zeros, old.log_variance, zeros + 10), dim=-1)
    mixture = MixtureSameFamily(
        Categorical(logits=weights.log(), validate_args=False),
        Normal(loc, (0.5 * log_variance).exp(), validate_args=False),
        validate_args=False,
    )
    return Independent(mixture, 1, validate_args=False)
