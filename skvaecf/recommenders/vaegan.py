"""VAEGAN: an autoencoder with an implicit posterior, trained with two discriminators."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.nn import functional as F

from .._batch import InteractionBatch
from .._parameters import LayerSizes, NonNegative, NonNegativeInt, Positive, PositiveInt, Rate
from .._statistics import number_of_components
from ..neural._layers import Autoencoder, Decoder, ItemEmbedding, Linear
from ..neural._likelihoods import LikelihoodLike, likelihood_class
from ..neural._objectives import (
    anneal,
    density_ratio_loss,
    ratio_accuracy,
    squared_jacobian,
    squared_jacobian_estimate,
    weight_penalty,
)
from ..neural._recommender import Pair, TorchRecommender
from ..neural._training import Batch, Player

# Functions that compute ||dz/dx||_F^2.
CONTRACTIONS = {"exact": squared_jacobian, "hutchinson": squared_jacobian_estimate}


class VAEGANRecommender(TorchRecommender):
    r"""Autoencoder with an implicit posterior, trained with two discriminators (VAEGAN).

    It is for research on implicit posteriors and for comparison with its paper.

    Noise :math:`\epsilon \sim N(0, I)` enters every layer of the encoder,

    .. math:: h_t = \tanh(W_t h_{t-1} + E_t \epsilon + b_t), \qquad
              z = W h_M + E \epsilon + b, \qquad h_0 = x,

    so the posterior :math:`q_\phi(z|x)` can have any shape, but its density has no closed form. A
    discriminator T therefore takes the place of the KL term. A second discriminator D compares the
    row with its reconstruction. On each mini-batch, T, D and the autoencoder are updated in turn.
    Each of them minimises its own loss, on average over the users:

    .. math::

        T: \quad & - E_{q_\phi(z|x)} \log \sigma(T(x, z)) - E_{p(z)} \log(1 - \sigma(T(x, z)))

        D: \quad & - \log \sigma(D(x|z_c)) - E_{q_\phi(z|x)} \log(1 - \sigma(D(\hat x \odot x|z_c)))

        \theta, \phi: \quad & E_{q_\phi(z|x)} \Bigl[- \log p_\theta(x|z) + \alpha T(x, z)
            - \beta \log \sigma(D(\hat x \odot x|z_c))

        & + \lambda \|\partial z / \partial x\|_F^2\Bigr] + \frac{\rho}{U} \sum_W \|W\|_F^2

    where W are the weight matrices of encoder and decoder, and U is the number of users. The
    optimal T is :math:`\log q_\phi(z|x) - \log p(z)` with :math:`p(z) = N(0, I)`, so
    :math:`\alpha T` is an estimate of the KL term of a variational autoencoder. :math:`\alpha` is
    ``adversary_weight``; with ``anneal_steps`` it increases from 0 to this value. D learns to
    distinguish the row of a user from the probabilities :math:`\hat x = \sigma(f_\theta(z))` of
    the same items, given a vector :math:`z_c` of the user; :math:`f_\theta` is the decoder. The
    ranking scores are :math:`f_\theta(z)` at :math:`\epsilon = 0`.

    With ``data_adversary_weight=0`` and ``contractive_weight=0`` the model is the paper's AVB. With
    the first above 0 it is AVB+D, and with both above 0 it is AVB+D+C.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of components of the latent vector. "auto" is :math:`\sqrt{U I} / 30` for U users and
        I items, rounded up, at least 200 and at most 400: the more users and items, the more
        components pay.
    encoder_layer_sizes : tuple of int, default=()
        Widths of the hidden tanh layers of the encoder. With ``()`` the encoder is linear.
    decoder_layer_sizes : tuple of int, default=()
        Widths of the hidden tanh layers of the decoder. With ``()`` the decoder is linear.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="n-choose-k"
        Distribution of a user's interactions given the scores of all items. "n-choose-k" is the
        distribution of "bernoulli" given the number of the user's items. A custom likelihood is a
        subclass of :class:`skvaecf.neural.ItemLikelihood`.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    normalize : bool, default=True
        Whether to scale the input rows of the encoder to length 1.
    noise_size : int, default=32
        Number of components of the noise that enters the layers of the encoder.
    adversary_weight : float, default=0.05
        Final weight :math:`\alpha` of T.
    anneal_steps : int or "auto", default=0
        Number of updates over which the weight above increases linearly from 0 to its final value.
        "auto" is the number of updates in 30 epochs, or in half of ``max_epochs`` if that is
        fewer. With 0 the weight is constant.
    data_adversary_weight : float, default=0.0
        Weight :math:`\beta` of D. The paper uses 0.2. 0 removes D.
    contractive_weight : float, default=0.0
        Weight :math:`\lambda` of the contractive penalty. The paper uses 3e-4. 0 removes the
        penalty.
    contractive_estimator : {"exact", "hutchinson"}, default="exact"
        How the contractive penalty is computed. "exact" computes it exactly and costs a product of
        the size n_items x (width of the first hidden layer)^2. "hutchinson" estimates it with one
        random direction per user and costs one backward pass.
    l2 : float or "auto", default="auto"
        Weight :math:`\rho` of the squared norms of the weight matrices of encoder and decoder,
        next to the loss summed over all users. "auto" is :math:`0.65 \, N^{1/3} / S` for N
        interactions, where S is the structure of the data (:ref:`structure-of-data`).
    discriminator_layer_size : int, default=256
        Width of the hidden layers of T and D.
    discriminator_learning_rate : float, default=3e-3
        Learning rate of the Adam optimizer for T and D.
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
        Trained network with the parts ``encoder``, ``decoder``, ``posterior_discriminator`` (T) and
        ``data_discriminator`` (D, or None).
    history_ : list of dict
        One dict per epoch with the keys "epoch" (counted from 1), "posterior_discriminator_loss"
        and "posterior_discriminator_accuracy" (T), "data_discriminator_loss" and
        "data_discriminator_accuracy" (D, if it is used), "autoencoder_loss", "validation_ndcg"
        (NDCG@100 of the validation users, if there are any) and "seconds".
    n_iter_ : int
        Number of epochs that were run.
    best_iter_ : int
        Number of the epoch whose parameters are kept, counted from 1.
    n_components_ : int
        Number of components that was used.
    l2_ : float
        The weight :math:`\rho` that was used.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    Warns
    -----
    ConvergenceWarning
        If the loss of a discriminator in the epoch that is kept is above 10 or below 0.01. The loss
        of a random guess is 1.39. Above 10, the discriminator has diverged or, in the first epochs,
        has not learned yet. Below 0.01, it has collapsed: it classifies nearly all samples
        correctly.

    See Also
    --------
    MultVAE : A normal posterior with a KL term.
    SIVAERecommender : Another posterior of any shape, without discriminators.
    CFGAN : A generative adversarial network without latent vectors.

    Notes
    -----
    The losses omit the constant terms of the likelihood.

    T has the form

    .. math:: T(x, z) = \langle \theta(x), s(z) \rangle + a(x) + b(z) + (\|z\|^2 - d) / 2,

    where :math:`\theta`, s, a and b are networks with one hidden layer. The last term is
    :math:`- \log p(z)` up to a constant, so T does not have to learn it. :math:`z_c` and the first
    layer of D are tanh layers. T and :math:`z_c` are computed from the row at length 1 and without
    dropout. Dropout therefore acts as noise of the posterior.

    Without hidden layers, the noise other than dropout is normal, with the rank ``noise_size``. The
    contractive penalty is then a penalty on the encoder's weights that is the same for all users.
    T learns only a small part of the dependence of z on x (6 of 285 nats with 1,000 items of
    MovieLens 1M). Thus :math:`\alpha T` compares the distribution of the z of all users with
    :math:`p(z)`, rather than that of each user.

    :math:`\hat x` are probabilities if the likelihood is "bernoulli". The other likelihoods do not
    change if a constant is added to all scores of a user. With these, the level of the
    :math:`\hat x` in D is arbitrary.

    The network of the paper is ``VAEGANRecommender(n_components=200, encoder_layer_sizes=(600,),
    decoder_layer_sizes=(600,), likelihood="bernoulli", normalize=False, adversary_weight=0.2,
    anneal_steps="auto", l2=0, learning_rate=1e-3, learning_rate_schedule="constant",
    init="random", max_epochs=200, ema_decay=0)``. The paper gives the encoder
    :math:`z = f(f(\tilde x + \epsilon_1) + \epsilon_2)`. Here, as in Mescheder et al., learned
    matrices map the noise to the layers, and z is linear, because a tanh could not match N(0, I).
    Eq. 13 of the paper adds the penalty to the objective that is maximised. The text of the paper,
    and this code, subtract it.

    References
    ----------
    Yu, Zhang, Cao and Xia, "VAEGAN: a collaborative filtering framework based on adversarial
    variational autoencoders", IJCAI 2019, eq. 4, 9, 11 and 13.

    Mescheder, Nowozin and Geiger, "Adversarial variational Bayes", ICML 2017.

    Examples
    --------
    >>> from skvaecf import VAEGANRecommender
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = VAEGANRecommender(8, noise_size=8, max_epochs=20, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    n_components: PositiveInt | Literal["auto"] = "auto"
    _: KW_ONLY
    encoder_layer_sizes: LayerSizes = ()
    decoder_layer_sizes: LayerSizes = ()
    likelihood: LikelihoodLike = "n-choose-k"
    use_values: bool = False
    normalize: bool = True
    noise_size: PositiveInt = 32
    adversary_weight: NonNegative = 0.05
    anneal_steps: NonNegativeInt | Literal["auto"] = 0
    data_adversary_weight: NonNegative = 0.0
    contractive_weight: NonNegative = 0.0
    contractive_estimator: Literal["exact", "hutchinson"] = "exact"
    l2: NonNegative | Literal["auto"] = "auto"
    discriminator_layer_size: PositiveInt = 256
    discriminator_learning_rate: Positive = 3e-3
    dropout: Rate = 0.5
    learning_rate: Positive = 5e-3
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    init: Literal["svd", "random"] = "svd"
    max_epochs: PositiveInt = 24

    _auto_l2: ClassVar[float] = 0.65

    def _fit(self, X: csr_array, X_val: csr_array | Pair | None = None, **options: Any) -> None:
        super()._fit(X, X_val, **options)
        if self.best_iter_:  # else the fit was interrupted in the first epoch
            warn_of_discriminators(self.history_[self.best_iter_ - 1])

    def _build(self, n_users: int, n_items: int) -> VAEGAN:
        n_components = self._n_components_of(n_users, n_items)
        return VAEGAN(
            ImplicitEncoder(n_items, self.encoder_layer_sizes, n_components, self.noise_size),
            Decoder(n_components, self.decoder_layer_sizes, n_items),
            PosteriorDiscriminator(n_items, n_components, self.discriminator_layer_size),
            DataDiscriminator(n_items, self.discriminator_layer_size)
            if self.data_adversary_weight
            else None,
        )

    def _n_components_of(self, n_users: int, n_items: int) -> int:
        return number_of_components(self.n_components, n_users, n_items, least=200)

    def _players(self, network: Any, x: InteractionBatch) -> list[Player]:
        likelihood, l2 = likelihood_class(self.likelihood), self._l2_of(x) / x.n_users
        encoder, decoder = network.encoder, network.decoder
        T, D = network.posterior_discriminator, network.data_discriminator

        def sample(batch: Batch) -> tuple[Tensor, list[Tensor]]:
            """Draw z; also return the outputs of the hidden layers."""
            noise = batch.x.values.new_empty(batch.x.n_users, self.noise_size)
            noise.normal_(generator=batch.generator)
            x = self._input(batch.x).dropout(self.dropout, batch.generator)
            z, hidden = encoder(x, noise)
            return z, hidden

        def loss_of_T(batch: Batch) -> Tensor:
            """- E_q(z|x) log sigmoid T(x, z) - E_p(z) log(1 - sigmoid T(x, z)), eq. 4."""
            with torch.no_grad():
                z, _ = sample(batch)
            prior = torch.empty_like(z).normal_(generator=batch.generator)
            x = batch.x.normalized()
            return _discriminate(T(x, z), T(x, prior), batch)

        def loss_of_D(batch: Batch) -> Tensor:
            """- log sigmoid D(x|z_c) - log(1 - sigmoid D(x^ x|z_c)), eq. 9."""
            with torch.no_grad():
                fake = _clicks(batch.x, decoder(sample(batch)[0]))
            z_c = D.condition(batch.x)
            real = batch.x.with_values(torch.ones_like(batch.x.values))
            return _discriminate(D(real, z_c), D(fake, z_c), batch)

        def autoencoder_loss(batch: Batch) -> Tensor:
            """- log p(x|z) + alpha T - beta log sigmoid D + lambda ||dz/dx||^2 + rho/U ||W||^2."""
            x = batch.x
            z, hidden = sample(batch)
            logits = decoder(z)
            alpha = self.adversary_weight * anneal(batch, self.anneal_steps, self.max_epochs)
            loss: Tensor = alpha * T(x.normalized(), z) - likelihood(logits).log_prob(x)
            if self.data_adversary_weight:
                adversarial = F.logsigmoid(D(_clicks(x, logits), D.condition(x)))
                loss = loss - self.data_adversary_weight * adversarial
            if self.contractive_weight:
                slopes = [1 - h.square() for h in hidden]  # of tanh
                norm = CONTRACTIONS[self.contractive_estimator]
                squares = norm(encoder.weights, slopes, batch.generator)
                loss = loss + self.contractive_weight * squares
            return (batch.weights * loss).mean() + weight_penalty(l2, encoder, decoder)

        autoencoder = [*encoder.parameters(), *decoder.parameters()]
        rate = self.discriminator_learning_rate
        players = [
            Player("posterior_discriminator", [*T.parameters()], loss_of_T, rate),
            Player("autoencoder", autoencoder, autoencoder_loss, self.learning_rate),
        ]
        if self.data_adversary_weight:
            players.insert(1, Player("data_discriminator", [*D.parameters()], loss_of_D, rate))
        return players

    def _input(self, x: InteractionBatch) -> InteractionBatch:
        return x.normalized() if self.normalize else x

    def _linear_encoder(self, network: Any) -> Tensor | None:
        encoder = network.encoder
        is_linear = self.normalize and not len(encoder.from_below)
        return encoder.from_items.weight if is_linear else None

    def _latent(self, network: Any, x: InteractionBatch) -> Tensor:
        mean: Tensor = network.encoder.mean(self._input(x))
        return mean


def warn_of_discriminators(record: dict[str, float]) -> None:
    """Warn if a discriminator has diverged or collapsed, given the figures of an epoch."""
    for name in ("posterior_discriminator", "data_discriminator"):
        loss = record.get(f"{name}_loss", 1.0)
        # With few users, a working discriminator has not yet learned at the end and has a loss of
        # 20 to 80. A diverged one has thousands.
        if not 0.01 <= loss <= 200:
            collapsed = "collapsed: it classifies nearly all samples correctly"
            state = collapsed if loss < 0.01 else "diverged"
            warnings.warn(
                f"The {name} has {state}. Its loss in the epoch that is kept is {loss:.3g}; the"
                " loss of a random guess is 1.39. Another discriminator_learning_rate or"
                " discriminator_layer_size may help.",
                ConvergenceWarning,
                stacklevel=2,
            )


def _clicks(x: InteractionBatch, logits: Tensor) -> InteractionBatch:
    """Compute x^ x: the user's items with their probabilities according to the logits."""
    return x.with_values(x.gather(logits).float().sigmoid())


def _discriminate(real: Tensor, fake: Tensor, batch: Batch) -> Tensor:
    batch.log("accuracy", ratio_accuracy(real, fake))
    return density_ratio_loss(real, fake, batch.weights)


class VAEGAN(Autoencoder):
    """Autoencoder with its two discriminators."""

    def __init__(
        self,
        encoder: ImplicitEncoder,
        decoder: Decoder,
        posterior_discriminator: PosteriorDiscriminator,
        data_discriminator: DataDiscriminator | None,
    ) -> None:
        super().__init__(encoder, decoder)
        self.posterior_discriminator = posterior_discriminator
        self.data_discriminator = data_discriminator


class ImplicitEncoder(nn.Module):
    """Rows and noise -> z, drawn from a posterior whose density is not known."""

    def __init__(
        self, n_items: int, layer_sizes: Sequence[int], n_components: int, noise_size: int
    ) -> None:
        super().__init__()
        self.noise_size = noise_size
        sizes = (*layer_sizes, n_components)
        self.from_items = ItemEmbedding(n_items, sizes[0])
        self.from_noise = nn.ModuleList(Linear(noise_size, size) for size in sizes)
        self.from_below: Any = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    @property
    def item_weights(self) -> Tensor:
        """Weights of a user's items in the first layer, shape (n_items, n_units)."""
        return self.from_items.weight

    def forward(self, x: InteractionBatch, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return z, shape (n_users, n_components), and the outputs of the hidden layers."""
        first, *others = self.from_noise
        h, hidden = self.from_items(x) + first(noise), []
        for layer, from_noise in zip(self.from_below, others, strict=True):
            hidden.append(torch.tanh(h))
            h = layer(hidden[-1]) + from_noise(noise)
        return h, hidden

    def mean(self, x: InteractionBatch) -> Tensor:
        """Compute z with the noise at its mean, shape (n_users, n_components)."""
        z: Tensor = self(x, self.from_items.bias.new_zeros(1, self.noise_size))[0]
        return z

    @property
    def weights(self) -> list[Tensor]:
        """Weight matrices of the layers, from the items to z, without those of the noise."""
        return [self.from_items.weight.T, *(layer.weight for layer in self.from_below)]


class PosteriorDiscriminator(nn.Module):
    """T(x, z) = <theta(x), s(z)> + a(x) + b(z) + (||z||^2 - d) / 2 -> log q(z|x) - log p(z)."""

    def __init__(self, n_items: int, n_components: int, size: int) -> None:
        super().__init__()
        self.from_items = ItemEmbedding(n_items, 2 * size)
        self.from_latent = nn.Linear(n_components, 2 * size)
        self.theta, self.s = nn.Linear(size, size), nn.Linear(size, size)
        self.a, self.b = nn.Linear(size, 1), nn.Linear(size, 1)

    def forward(self, x: InteractionBatch, z: Tensor) -> Tensor:
        """Score pairs of rows and latent vectors, shape (n_users,)."""
        x1, x2 = F.leaky_relu(self.from_items(x), 0.2).chunk(2, dim=1)
        z1, z2 = F.leaky_relu(self.from_latent(z), 0.2).chunk(2, dim=1)
        T = (self.theta(x1) * self.s(z1)).sum(dim=1) + (self.a(x2) + self.b(z2)).squeeze(1)
        # - log p(z) is known up to a constant, so only log q has to be learned. With this constant
        # it is 0 on average for a z that is drawn from the prior.
        score: Tensor = T + (z.square() - 1).sum(dim=1) / 2
        return score


class DataDiscriminator(nn.Module):
    """D(v|z_c): classifies v as the row of a user or as probabilities of the same items."""

    def __init__(self, n_items: int, size: int) -> None:
        super().__init__()
        self.user = ItemEmbedding(n_items, size)
        self.from_items = ItemEmbedding(n_items, size)
        self.from_user = nn.Linear(size, size, bias=False)
        self.last = nn.Linear(size, 1)

    def condition(self, x: InteractionBatch) -> Tensor:
        """Compute z_c of the users, shape (n_users, size)."""
        return torch.tanh(self.user(x.normalized()))

    def forward(self, v: InteractionBatch, condition: Tensor) -> Tensor:
        """Score rows, shape (n_users,)."""
        h = torch.tanh(self.from_items(v) + self.from_user(condition))
        score: Tensor = self.last(h).squeeze(1)
        return score
