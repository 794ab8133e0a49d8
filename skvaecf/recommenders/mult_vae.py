"""Mult-VAE: a variational autoencoder of a user's set of items."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from .._batch import InteractionBatch
from .._parameters import LayerSizes, NonNegative, NonNegativeInt, Positive, PositiveInt, Rate
from .._statistics import number_of_components
from ..neural._distributions import DiagonalNormal
from ..neural._latent import PosteriorLike, PriorLike, build_part
from ..neural._layers import Autoencoder, Decoder, Encoder
from ..neural._likelihoods import LikelihoodLike, likelihood_class
from ..neural._objectives import anneal, divergence, weight_penalty
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Player


class MultVAE(TorchRecommender):
    r"""Variational autoencoder of a user's set of items (Mult-VAE).

    It is the first neural model to try, and the model that most papers compare with.

    The decoder maps a latent vector :math:`z \sim N(0, I)` to the scores :math:`f_\theta(z)` of all
    items, and a user's items :math:`x` are drawn according to these scores. The encoder computes
    the posterior :math:`q_\phi(z|x) = N(\mu_\phi(x), \operatorname{diag} \sigma^2_\phi(x))`.
    Training minimises, on average over the users,

    .. math:: \mathcal{L}_\beta = - E_{q_\phi(z|x)} \log p_\theta(x|z)
              + \beta \, \mathrm{KL}(q_\phi(z|x) \| p(z))
              + \frac{\lambda}{U} \sum_W \|W\|_F^2

    with the prior :math:`p(z) = N(0, I)`. U is the number of users, and W are the weight matrices
    of encoder and decoder. The log-likelihood is summed over the items, and one z is drawn per user
    and update. :math:`\beta` is ``kl_weight``; with ``anneal_steps`` it increases from 0 to this
    value. The ranking scores are :math:`f_\theta(\mu_\phi(x))`.

    The parameters ``prior`` and ``posterior`` replace :math:`p(z)` and :math:`q_\phi(z|x)` by other
    distributions. If the KL term has no closed form, it is computed as
    :math:`\log q_\phi(z|x) - \log p(z)` at the z that was drawn.

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
        Distribution of a user's interactions given the scores of all items. With "bernoulli" the
        model is the logistic VAE of the paper. "n-choose-k" is the distribution of "bernoulli"
        given the number of the user's items. A custom likelihood is a subclass of
        :class:`skvaecf.neural.ItemLikelihood`.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    prior : {"normal", "vamp"} or object, default="normal"
        Distribution p(z) of the latent vectors. "normal" is N(0, I). "vamp" is a mixture of
        posteriors; a :class:`VampPrior` sets the number of its components. A custom prior is an
        object with the method of :class:`skvaecf.neural.Prior`.
    posterior : {"normal", "iaf"} or object, default="normal"
        Distribution q(z|x) of the latent vector of a user. "normal" is a normal distribution with
        independent components. "iaf" transforms it by a flow; an :class:`InverseAutoregressiveFlow`
        sets the size of the flow. A custom posterior is an object with the method of
        :class:`skvaecf.neural.Posterior`.
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
    learning_rate : float, default=7.5e-3
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
        Trained network with the parts ``encoder``, ``decoder``, ``posterior`` and ``prior``.
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
    MultDAE : The same model without a distribution over z.
    RecVAE : A prior that follows the encoder, and training of encoder and decoder in turn.
    SIVAERecommender : A posterior of any shape, from noise in the encoder.
    VAEGANRecommender : A posterior of any shape, trained with a discriminator.
    HVampVAE : Two latent vectors and gated layers.

    Notes
    -----
    The losses omit the constant terms of the likelihood. Log-variances are clipped to [-12, 4].

    The model of the paper, with a multinomial likelihood and a hidden layer of 600 in encoder and
    decoder, is ``MultVAE(n_components=200, encoder_layer_sizes=(600,), decoder_layer_sizes=(600,),
    likelihood="multinomial", kl_weight=0.2, anneal_steps=40_000, l2=0, learning_rate=1e-3,
    learning_rate_schedule="constant", init="random", n_sampled_items=None, max_epochs=200,
    ema_decay=0)``. The defaults, a linear encoder and decoder with a penalty and the n-choose-k
    likelihood, rank better on every data set of :doc:`/benchmarks`.

    With ``n_sampled_items``, the items P of a mini-batch are exact. Each of the sampled items R
    stands for :math:`w = (I - |P|) / |R|` items: :math:`\log w` is added to its score. For the
    multinomial likelihood, this is the estimate

    .. math:: \hat{Z} = \sum_{i \in P} e^{\eta_i} + w \sum_{i \in R} e^{\eta_i}, \qquad
              E[\hat{Z}] = \sum_i e^{\eta_i},

    of the normaliser. The estimate is unbiased. Its logarithm is too small by about half the
    variance of :math:`\hat{Z} / E[\hat{Z}]`, so the log-likelihood is too large by N times this
    number. For the other likelihoods, a sampled item with the odds :math:`u = e^{\eta_i}` counts as
    one item with the odds :math:`w u` instead of w items. For "bernoulli", its term of the
    normaliser is :math:`\log(1 + w u)` instead of :math:`w \log(1 + u)`, which is too small by
    about :math:`w (w - 1) u^2 / 2`. For "n-choose-k", too, this error is of second order in the
    probabilities of the sampled items.

    With ``kl_weight=0`` only the reconstruction term is trained. These are the variants in section
    4.4 of the SIVAE paper (see :class:`SIVAERecommender`): "Multinomial" and, with
    ``likelihood="bernoulli"``, "Logistic". The variants in section 4.5 are ``prior="vamp"``,
    ``posterior="iaf"``, and an ``l2`` of 0.01 times the number of users.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative filtering",
    WWW 2018, eq. 2 (multinomial), 4 (logistic), 7 (objective).

    Jean, Cho, Memisevic and Bengio, "On using very large target vocabulary for neural machine
    translation", ACL 2015 (sampled items). Bengio and Senecal, "Adaptive importance sampling to
    accelerate training of a neural probabilistic language model", IEEE Transactions on Neural
    Networks 2008 (bias).

    Examples
    --------
    >>> from skvaecf import MultVAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = MultVAE(n_components=8, max_epochs=20, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    n_components: PositiveInt | Literal["auto"] = "auto"
    _: KW_ONLY
    encoder_layer_sizes: LayerSizes = ()
    decoder_layer_sizes: LayerSizes = ()
    likelihood: LikelihoodLike = "n-choose-k"
    use_values: bool = False
    prior: PriorLike = "normal"
    posterior: PosteriorLike = "normal"
    kl_weight: NonNegative = 0.2
    anneal_steps: NonNegativeInt | Literal["auto"] = 0
    l2: NonNegative | Literal["auto"] = "auto"
    dropout: Rate = 0.5
    learning_rate: Positive = 7.5e-3
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    init: Literal["svd", "random"] = "svd"
    n_sampled_items: PositiveInt | Literal["auto"] | None = "auto"
    max_epochs: PositiveInt = 24

    _auto_l2: ClassVar[float] = 0.45

    def _build(self, n_users: int, n_items: int) -> VariationalAutoencoder:
        n_components = self._n_components_of(n_users, n_items)
        return VariationalAutoencoder(
            Encoder(n_items, self.encoder_layer_sizes, 2 * n_components),
            Decoder(n_components, self.decoder_layer_sizes, n_items),
            build_part("posterior", self.posterior, n_components),
            build_part("prior", self.prior, n_items, n_components),
        )

    def _n_components_of(self, n_users: int, n_items: int) -> int:
        return number_of_components(self.n_components, n_users, n_items, least=200)

    def _players(self, network: VariationalAutoencoder, x: InteractionBatch) -> list[Player]:
        likelihood, l2 = likelihood_class(self.likelihood), self._l2_of(x) / x.n_users

        def loss(batch: Batch) -> Tensor:
            """- E_q log p(x|z) + beta KL(q(z|x) || p(z)) + lambda/U sum ||W||^2, eq. 7."""
            x = batch.x
            q = network.q(x.normalized().dropout(self.dropout, batch.generator))
            z = q.rsample(generator=batch.generator)
            p = likelihood(network.decoder.factored(z))  # which computes the scores part by part
            beta = self.kl_weight * anneal(batch, self.anneal_steps, self.max_epochs)
            kl = divergence(q, network.p(z), z)
            penalty = weight_penalty(l2, network.encoder, network.decoder)
            return (batch.weights * (beta * kl - p.log_prob(x))).mean() + penalty

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _linear_encoder(self, network: Any) -> Tensor | None:
        is_linear = not len(network.encoder.rest) and isinstance(network.posterior, nn.Identity)
        return network.encoder.first.weight if is_linear else None

    def _latent(self, network: VariationalAutoencoder, x: InteractionBatch) -> Tensor:
        mean: Tensor = network.q(x.normalized()).mean
        return mean


class VariationalAutoencoder(Autoencoder):
    """Autoencoder with a posterior and a prior of its latent vectors."""

    def __init__(
        self, encoder: Encoder, decoder: Decoder, posterior: nn.Module, prior: nn.Module
    ) -> None:
        super().__init__(encoder, decoder)
        self.posterior = posterior
        self.prior = prior

    def normal(self, x: InteractionBatch | Tensor) -> DiagonalNormal:
        """Return the normal distribution that the encoder computes."""
        return DiagonalNormal.from_layer(self.encoder(x))

    def q(self, x: InteractionBatch) -> Any:
        """Return the posterior q(z|x)."""
        return self.posterior(self.normal(x))

    def p(self, z: Tensor) -> Any:
        """Return the prior p(z)."""
        return self.prior(z, self.normal)
