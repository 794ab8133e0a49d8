"""VAEGAN: an autoencoder with an implicit posterior, trained against two adversaries."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn import functional as F

from ..interactions import InteractionBatch
from ..likelihoods import LIKELIHOODS, ItemLikelihood, likelihood_of
from ..modules import Autoencoder, Decoder, ItemEmbedding, Linear
from ..neural import Pair, TorchRecommender
from ..objectives import (
    anneal,
    density_ratio_loss,
    ratio_accuracy,
    squared_jacobian,
    squared_jacobian_estimate,
    weight_penalty,
)
from ..training import Batch, Player

# How ||dz/dx||_F^2 is found.
CONTRACTIONS = {"exact": squared_jacobian, "hutchinson": squared_jacobian_estimate}


class VAEGANRecommender(TorchRecommender):
    r"""Autoencoder with an implicit posterior, trained against adversaries (VAEGAN).

    The encoder draws a user's latent vector by feeding noise :math:`\epsilon \sim N(0, I)` to each
    of its layers,

    .. math:: h_t = \tanh(W_t h_{t-1} + E_t \epsilon + b_t), \qquad
              z = W h_M + E \epsilon + b, \qquad h_0 = x,

    so the posterior :math:`q_\phi(z|x)` can have any shape, but no density that could be written
    down. Adversaries stand for what is therefore missing, and three kinds of players take turns
    on each batch of users, each lowering its own loss, averaged over the users:

    .. math::

        T: \quad & - E_{q_\phi(z|x)} \log \sigma(T(x, z)) - E_{p(z)} \log(1 - \sigma(T(x, z)))

        D: \quad & - \log \sigma(D(x|z_c)) - E_{q_\phi(z|x)} \log(1 - \sigma(D(\hat x \odot x|z_c)))

        \theta, \phi: \quad & E_{q_\phi(z|x)} \Bigl[- \log p_\theta(x|z) + \alpha T(x, z)
            - \beta \log \sigma(D(\hat x \odot x|z_c))
            + \lambda \|\partial z / \partial x\|_F^2\Bigr] + \frac{\rho}{U} \sum_W \|W\|_F^2

    with the matrices W of encoder and decoder and U users. The best T is
    :math:`\log q_\phi(z|x) - \log p(z)` with :math:`p(z) = N(0, I)`, so :math:`\alpha T` stands for
    the KL term of a variational autoencoder, and :math:`\alpha` rises from 0 to
    ``adversary_weight``. D tells the row of a user from the probabilities
    :math:`\hat x = \sigma(f_\theta(z))` of the same items, knowing the user by :math:`z_c`. Users
    are ranked by :math:`f_\theta(z)` at :math:`\epsilon = 0`.

    ``data_adversary_weight=0`` and ``contractive_weight=0`` give the paper's AVB, the first above 0
    gives AVB+D, and both above 0 give AVB+D+C.

    Parameters
    ----------
    n_components : int, default=200
        Width of the latent vector.
    encoder_layer_sizes : tuple of int, default=()
        Widths of the encoder's hidden tanh layers; ``()`` makes it linear.
    decoder_layer_sizes : tuple of int, default=()
        Widths of the decoder's hidden tanh layers; ``()`` makes it linear.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="bernoulli"
        Distribution of a user's items given the scores. "n-choose-k" is Bernoulli's given their
        number. A class is one of your own, see :mod:`skvaecf.likelihoods`.
    normalize : bool, default=True
        Scale the encoder's input rows to length 1.
    noise_size : int, default=32
        Width of the noise that enters the layers of the encoder.
    adversary_weight : float, default=0.2
        Final weight :math:`\alpha` of T.
    anneal_steps : int or "auto", default="auto"
        Updates over which this weight rises linearly from 0 to its final value. "auto" takes 30
        epochs.
    data_adversary_weight : float, default=0.0
        Weight :math:`\beta` of D; 0.2 in the paper. 0 leaves D out.
    contractive_weight : float, default=0.0
        Weight :math:`\lambda` of the contractive penalty; 3e-4 in the paper. 0 leaves it out.
    contractive_estimator : {"exact", "hutchinson"}, default="exact"
        How the penalty is computed: exactly, at the cost of a product of n_items x (size of the
        first hidden layer)^2; or estimated with one random direction per user, at the cost of a
        backward pass.
    l2 : float, default=4.0
        Weight :math:`\rho` of the squared norms of all weight matrices of encoder and decoder,
        relative to the loss summed, not averaged, over the users.
    adversary_size : int, default=256
        Width of the hidden layers of T and D.
    adversary_learning_rate : float, default=3e-4
        Step size of Adam for T and D.
    dropout : float, default=0.5
        Probability in training to drop each of a user's items from the encoder's input.
    learning_rate : float, default=5e-3
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

    Warns
    -----
    ConvergenceWarning
        If in the epoch kept the loss of an adversary is above 10 (that of a guess is 1.39): it has
        diverged or, in the first epochs, not learned yet; or below 0.01: it has collapsed, as it
        tells all it sees apart.

    See Also
    --------
    MultVAE : The same with a normal posterior.
    SIVAERecommender : Another posterior of any shape, without adversaries.

    Notes
    -----
    The constant terms of the likelihood are left out of the losses. ``history_`` has, beside the
    losses of the players "posterior_adversary" (T), "data_adversary" (D) and "autoencoder", the
    accuracies of the adversaries.

    :math:`T(x, z) = \langle \theta(x), s(z) \rangle + a(x) + b(z) + \|z\|^2 / 2`, with networks
    of one hidden layer: the last term is :math:`- \log p(z)` up to a constant, which need not be
    learned. :math:`z_c` and the first layer of D are tanh layers. T and :math:`z_c` see x at length
    1 and without dropout, so dropout acts as noise of the posterior.

    Without hidden layers all other noise is normal, of rank ``noise_size``; the contractive penalty
    is a decay of the encoder's weights, the same for all users; and T learns little of how z
    depends on x (6 of 285 nats with 1,000 items of MovieLens 1M), so that :math:`\alpha T` compares
    the distribution of all users' z with :math:`p(z)` rather than each user's.

    :math:`\hat x` are probabilities if the likelihood is "bernoulli"; with the others the scores of
    a user may all be shifted, and D sees them at an arbitrary level.

    The paper's network is ``encoder_layer_sizes=(600,), decoder_layer_sizes=(600,),
    normalize=False, l2=0``; the defaults are what the validation users of MovieLens 1M chose. The
    paper prints :math:`z = f(f(\tilde x + \epsilon_1) + \epsilon_2)`; here, as in Mescheder et
    al., learned matrices lead the noise into the layers, and z is linear: a tanh could not match
    N(0, I). Its eq. 13 adds the penalty to what is maximised, where the text, and this code,
    subtract it.

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
    >>> model = VAEGANRecommender(8, encoder_layer_sizes=(16,), max_epochs=20, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "encoder_layer_sizes": ["array-like"],
        "decoder_layer_sizes": ["array-like"],
        "likelihood": [StrOptions(set(LIKELIHOODS)), type],
        "normalize": ["boolean"],
        "noise_size": [Interval(Integral, 1, None, closed="left")],
        "adversary_weight": [Interval(Real, 0, None, closed="left")],
        "anneal_steps": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "data_adversary_weight": [Interval(Real, 0, None, closed="left")],
        "contractive_weight": [Interval(Real, 0, None, closed="left")],
        "contractive_estimator": [StrOptions(set(CONTRACTIONS))],
        "l2": [Interval(Real, 0, None, closed="left")],
        "adversary_size": [Interval(Integral, 1, None, closed="left")],
        "adversary_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 200,
        *,
        encoder_layer_sizes: Sequence[int] = (),
        decoder_layer_sizes: Sequence[int] = (),
        likelihood: str | type[ItemLikelihood] = "bernoulli",
        normalize: bool = True,
        noise_size: int = 32,
        adversary_weight: float = 0.2,
        anneal_steps: int | Literal["auto"] = "auto",
        data_adversary_weight: float = 0.0,
        contractive_weight: float = 0.0,
        contractive_estimator: str = "exact",
        l2: float = 4.0,
        adversary_size: int = 256,
        adversary_learning_rate: float = 3e-4,
        dropout: float = 0.5,
        learning_rate: float = 5e-3,
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
        self.normalize = normalize
        self.noise_size = noise_size
        self.adversary_weight = adversary_weight
        self.anneal_steps = anneal_steps
        self.data_adversary_weight = data_adversary_weight
        self.contractive_weight = contractive_weight
        self.contractive_estimator = contractive_estimator
        self.l2 = l2
        self.adversary_size = adversary_size
        self.adversary_learning_rate = adversary_learning_rate
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

    def _fit(self, X: csr_array, X_val: csr_array | Pair | None = None, **options: Any) -> None:
        super()._fit(X, X_val, **options)
        warn_of_adversaries(self.history_[self.best_iter_ - 1])

    def _build(self, n_users: int, n_items: int) -> VAEGAN:
        return VAEGAN(
            ImplicitEncoder(n_items, self.encoder_layer_sizes, self.n_components, self.noise_size),
            Decoder(self.n_components, self.decoder_layer_sizes, n_items),
            PosteriorAdversary(n_items, self.n_components, self.adversary_size),
            DataAdversary(n_items, self.adversary_size) if self.data_adversary_weight else None,
            n_users,
        )

    def _players(self, network: Any) -> list[Player]:
        likelihood = likelihood_of(self.likelihood)
        encoder, decoder = network.encoder, network.decoder
        T, D = network.posterior_adversary, network.data_adversary

        def sample(batch: Batch) -> tuple[Tensor, list[Tensor]]:
            """Draw z, and give the hidden layers that led to it."""
            noise = batch.x.values.new_empty(batch.x.n_users, self.noise_size)
            noise.normal_(generator=batch.generator)
            x = self._input(batch.x).dropout(self.dropout, batch.generator)
            z, hidden = encoder(x, noise)
            return z, hidden

        def posterior_adversary_loss(batch: Batch) -> Tensor:
            """- E_q(z|x) log sigmoid T(x, z) - E_p(z) log(1 - sigmoid T(x, z)), eq. 4."""
            with torch.no_grad():
                z, _ = sample(batch)
            prior = torch.empty_like(z).normal_(generator=batch.generator)
            x = batch.x.l2_normalized()
            return _tell_apart(T(x, z), T(x, prior), batch)

        def data_adversary_loss(batch: Batch) -> Tensor:
            """- log sigmoid D(x|z_c) - log(1 - sigmoid D(x^ x|z_c)), eq. 9."""
            with torch.no_grad():
                fake = _clicks(batch.x, decoder(sample(batch)[0]))
            z_c = D.condition(batch.x)
            return _tell_apart(D(batch.x, z_c), D(fake, z_c), batch)

        def autoencoder_loss(batch: Batch) -> Tensor:
            """- log p(x|z) + alpha T - beta log sigmoid D + lambda ||dz/dx||^2 + rho/U ||W||^2."""
            x = batch.x
            z, hidden = sample(batch)
            logits = decoder(z)
            alpha = self.adversary_weight * anneal(batch.step, batch.epoch, self.anneal_steps)
            loss: Tensor = alpha * T(x.l2_normalized(), z) - likelihood(logits).log_prob(x)
            if self.data_adversary_weight:
                fooled = F.logsigmoid(D(_clicks(x, logits), D.condition(x)))
                loss = loss - self.data_adversary_weight * fooled
            if self.contractive_weight:
                slopes = [1 - h.square() for h in hidden]  # of tanh
                norm = CONTRACTIONS[self.contractive_estimator]
                squares = norm(encoder.weights, slopes, batch.generator)
                loss = loss + self.contractive_weight * squares
            return loss.mean() + weight_penalty(self.l2 / network.n_users, encoder, decoder)

        autoencoder = [*encoder.parameters(), *decoder.parameters()]
        rate = self.adversary_learning_rate
        players = [Player("posterior_adversary", [*T.parameters()], posterior_adversary_loss, rate)]
        if self.data_adversary_weight:
            players += [Player("data_adversary", [*D.parameters()], data_adversary_loss, rate)]
        return [*players, Player("autoencoder", autoencoder, autoencoder_loss, self.learning_rate)]

    def _input(self, x: InteractionBatch) -> InteractionBatch:
        return x.l2_normalized() if self.normalize else x

    def _latent(self, network: Any, x: InteractionBatch) -> Tensor:
        mean: Tensor = network.encoder.mean(self._input(x))
        return mean


def warn_of_adversaries(record: dict[str, float]) -> None:
    """Warn if an adversary has diverged or collapsed, by its record of an epoch."""
    for name in ("posterior_adversary", "data_adversary"):
        loss = record.get(f"{name}_loss", 1.0)
        if not 0.01 <= loss <= 10:
            collapsed = "collapsed: it tells all it sees apart"
            fate = collapsed if loss < 0.01 else "diverged or has not learned yet"
            warnings.warn(
                f"The {name} has {fate}; its loss in the epoch kept is {loss:.3g}, that of a guess"
                " is 1.39. Another adversary_learning_rate or adversary_size may help.",
                ConvergenceWarning,
                stacklevel=2,
            )


def _clicks(x: InteractionBatch, logits: Tensor) -> InteractionBatch:
    """x^ x: the user's items, each with the probability that the logits give it."""
    return x.with_values(x.gather(logits).float().sigmoid())


def _tell_apart(real: Tensor, fake: Tensor, batch: Batch) -> Tensor:
    batch.log("accuracy", ratio_accuracy(real, fake))
    return density_ratio_loss(real, fake)


class VAEGAN(Autoencoder):
    """An encoder and a decoder with their two adversaries."""

    def __init__(
        self,
        encoder: ImplicitEncoder,
        decoder: Decoder,
        posterior_adversary: PosteriorAdversary,
        data_adversary: DataAdversary | None,
        n_users: int,
    ) -> None:
        super().__init__(encoder, decoder)
        self.posterior_adversary = posterior_adversary
        self.data_adversary = data_adversary
        self.n_users = n_users  # of those trained on


class ImplicitEncoder(nn.Module):
    """Rows and noise -> z, a draw from a posterior whose density is not known."""

    def __init__(
        self, n_items: int, layer_sizes: Sequence[int], n_components: int, noise_size: int
    ) -> None:
        super().__init__()
        self.noise_size = noise_size
        sizes = (*layer_sizes, n_components)
        self.from_items = ItemEmbedding(n_items, sizes[0])
        self.from_noise = nn.ModuleList(Linear(noise_size, size) for size in sizes)
        self.from_below: Any = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: InteractionBatch, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map rows to z, shape (n_users, n_components), and what the hidden layers gave."""
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
        """What a layer does to the one below, from the items to z."""
        return [self.from_items.weight.T, *(layer.weight for layer in self.from_below)]


class PosteriorAdversary(nn.Module):
    """T(x, z) = <theta(x), s(z)> + a(x) + b(z) + ||z||^2 / 2 -> log q(z|x) - log p(z)."""

    def __init__(self, n_items: int, n_components: int, size: int) -> None:
        super().__init__()
        self.from_items = ItemEmbedding(n_items, 2 * size)
        self.from_latent = nn.Linear(n_components, 2 * size)
        self.theta, self.s = nn.Linear(size, size), nn.Linear(size, size)
        self.a, self.b = nn.Linear(size, 1), nn.Linear(size, 1)

    def forward(self, x: InteractionBatch, z: Tensor) -> Tensor:
        """Score rows with latent vectors, shape (n_users,)."""
        x1, x2 = F.leaky_relu(self.from_items(x), 0.2).chunk(2, dim=1)
        z1, z2 = F.leaky_relu(self.from_latent(z), 0.2).chunk(2, dim=1)
        T = (self.theta(x1) * self.s(z1)).sum(dim=1) + (self.a(x2) + self.b(z2)).squeeze(1)
        # - log p(z) is known, up to a constant: only log q remains to be learned.
        score: Tensor = T + z.square().sum(dim=1) / 2
        return score


class DataAdversary(nn.Module):
    """D(v|z_c): whether v is a user's row or the probabilities that stand in its place."""

    def __init__(self, n_items: int, size: int) -> None:
        super().__init__()
        self.user = ItemEmbedding(n_items, size)
        self.from_items = ItemEmbedding(n_items, size)
        self.from_user = nn.Linear(size, size, bias=False)
        self.last = nn.Linear(size, 1)

    def condition(self, x: InteractionBatch) -> Tensor:
        """Represent the users, z_c, shape (n_users, size)."""
        return torch.tanh(self.user(x.l2_normalized()))

    def forward(self, v: InteractionBatch, condition: Tensor) -> Tensor:
        """Score rows, shape (n_users,)."""
        h = torch.tanh(self.from_items(v) + self.from_user(condition))
        score: Tensor = self.last(h).squeeze(1)
        return score
