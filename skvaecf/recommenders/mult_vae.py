"""Mult-VAE: a variational autoencoder of a user's items."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch import Tensor, nn

from ..distributions import DiagonalNormal
from ..interactions import InteractionBatch
from ..latent import POSTERIORS, PRIORS, Posterior, Prior, build_posterior, build_prior
from ..likelihoods import LIKELIHOODS, ItemLikelihood, likelihood_of
from ..modules import Autoencoder, Decoder, Encoder
from ..neural import TorchRecommender
from ..objectives import anneal, divergence, weight_penalty
from ..training import Batch, Player


class MultVAE(TorchRecommender):
    r"""Variational autoencoder with a multinomial likelihood.

    A user's items :math:`x` are drawn from a latent vector :math:`z \sim N(0, I)` through the
    scores :math:`\eta = f_\theta(z)` of all items. The encoder gives the posterior
    :math:`q_\phi(z|x) = N(\mu_\phi(x), \operatorname{diag} \sigma^2_\phi(x))`. Training lowers,
    on average over the users,

    .. math:: \mathcal{L}_\beta = - E_{q_\phi(z|x)} \log p_\theta(x|z)
              + \beta \, \mathrm{KL}(q_\phi(z|x) \| p(z)), \qquad p(z) = N(0, I),

    the likelihood being summed over the items, one z drawn per user and update, and
    :math:`\beta` rising from 0 to ``kl_weight``. Users are ranked by :math:`f_\theta(\mu_\phi(x))`.

    A ``prior`` and a ``posterior`` of other shapes may stand for :math:`p(z)` and
    :math:`q_\phi(z|x)`; their KL term is :math:`\log q_\phi(z|x) - \log p(z)` of the z drawn where
    no closed form exists.

    Parameters
    ----------
    n_components : int, default=200
        Width of the latent vector.
    encoder_layer_sizes : tuple of int, default=(600,)
        Widths of the encoder's hidden tanh layers; ``()`` makes it linear.
    decoder_layer_sizes : tuple of int, default=()
        Widths of the decoder's hidden tanh layers; ``()`` makes it linear.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="multinomial"
        Distribution of a user's items given the scores. With "bernoulli" the model is the paper's
        logistic VAE. "n-choose-k" is Bernoulli's given the number of the user's items.
        A class is one of your own, see :mod:`skvaecf.likelihoods`.
    prior : {"normal", "vamp"} or object, default="normal"
        Distribution p(z) of the latent vectors: N(0, I); or a mixture of posteriors, as "vamp" or
        as a :class:`VampPrior` with its number of components; or one of your own, see
        :mod:`skvaecf.latent`.
    posterior : {"normal", "iaf"} or object, default="normal"
        Distribution q(z|x) of a user's latent vector: a normal with independent components; or one
        carried through a flow, as "iaf" or as an :class:`InverseAutoregressiveFlow`; or one of
        your own, see :mod:`skvaecf.latent`.
    kl_weight : float, default=0.5
        Final weight :math:`\beta` of the KL term. 0 leaves it out.
    anneal_steps : int or "auto", default="auto"
        Updates over which this weight rises linearly from 0 to its final value. "auto" takes 30
        epochs.
    l2 : float, default=0.0
        Weight :math:`\lambda` of the squared norm of all weight matrices of encoder and decoder.
        It is added once per update to the mean loss of the users.
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
    MultDAE : The same without a distribution over z.

    Notes
    -----
    The constant terms of the likelihood are left out of the losses. Log-variances are kept
    in [-12, 4]. The paper's own setting, a mirrored network and no moving average, is
    ``MultVAE(decoder_layer_sizes=(600,), kl_weight=0.2, anneal_steps=40_000, ema_decay=0)``.

    With ``kl_weight=0`` the reconstruction alone is trained: the variants without KL term of the
    SIVAE paper, section 4.4, "Multinomial" and (``likelihood="bernoulli"``) "Logistic". Its
    further variants, section 4.5, are ``prior="vamp"``, ``posterior="iaf"`` and ``l2=0.01``.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative filtering",
    WWW 2018, eq. 2 (multinomial), 4 (logistic), 7 (objective).

    Examples
    --------
    >>> from skvaecf import MultVAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = MultVAE(n_components=8, encoder_layer_sizes=(), max_epochs=20, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "encoder_layer_sizes": ["array-like"],
        "decoder_layer_sizes": ["array-like"],
        "likelihood": [StrOptions(set(LIKELIHOODS)), type],
        "prior": [StrOptions(set(PRIORS)), HasMethods("build")],
        "posterior": [StrOptions(set(POSTERIORS)), HasMethods("build")],
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
        prior: str | Prior = "normal",
        posterior: str | Posterior = "normal",
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
        self.prior = prior
        self.posterior = posterior
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

    def _build(self, n_users: int, n_items: int) -> VariationalAutoencoder:
        return VariationalAutoencoder(
            Encoder(n_items, self.encoder_layer_sizes, 2 * self.n_components),
            Decoder(self.n_components, self.decoder_layer_sizes, n_items),
            build_posterior(self.posterior, self.n_components),
            build_prior(self.prior, n_items, self.n_components),
        )

    def _players(self, network: VariationalAutoencoder) -> list[Player]:
        likelihood = likelihood_of(self.likelihood)

        def loss(batch: Batch) -> Tensor:
            """- E_q log p(x|z) + beta KL(q(z|x) || p(z)) + lambda sum ||W||^2, eq. 7."""
            x = batch.x
            q = network.q(x.l2_normalized().dropout(self.dropout, batch.generator))
            z = q.rsample(generator=batch.generator)
            p = likelihood(network.decoder.factored(z))  # multiplied out part by part
            beta = self.kl_weight * anneal(batch.step, batch.epoch, self.anneal_steps)
            kl = divergence(q, network.p(z), z)
            penalty = weight_penalty(self.l2, network.encoder, network.decoder)
            return (beta * kl - p.log_prob(x)).mean() + penalty

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _latent(self, network: VariationalAutoencoder, x: InteractionBatch) -> Tensor:
        mean: Tensor = network.q(x.l2_normalized()).mean
        return mean


class VariationalAutoencoder(Autoencoder):
    """An encoder and a decoder with a posterior and a prior of what is between them."""

    def __init__(
        self, encoder: Encoder, decoder: Decoder, posterior: nn.Module, prior: nn.Module
    ) -> None:
        super().__init__(encoder, decoder)
        self.posterior = posterior
        self.prior = prior

    def normal(self, x: InteractionBatch | Tensor) -> DiagonalNormal:
        """Read the encoder's last layer."""
        return DiagonalNormal.from_layer(self.encoder(x))

    def q(self, x: InteractionBatch) -> Any:
        """Give the posterior q(z|x)."""
        return self.posterior(self.normal(x))

    def p(self, z: Tensor) -> Any:
        """Give the prior p(z)."""
        return self.prior(z, self.normal)
