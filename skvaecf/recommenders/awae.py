"""aWAE: a Wasserstein autoencoder with further penalties on the latent vectors."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal

from torch import Tensor

from .._batch import InteractionBatch
from .._parameters import LayerSizes, NonNegative, NonNegativeInt, Positive, PositiveInt, Rate
from ..neural._distributions import DiagonalNormal, standard_normal
from ..neural._layers import Autoencoder, Decoder, Encoder
from ..neural._likelihoods import LikelihoodLike, likelihood_class
from ..neural._objectives import anneal, divergence, mmd, weight_penalty
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Player


class AWAE(TorchRecommender):
    r"""Wasserstein autoencoder with a sparse latent vector (aWAE), a reconstruction.

    **The formulas of the paper were not available to the authors of this class.** The class is
    based on the abstract of the paper and on the paper about Wasserstein autoencoders. The abstract
    names the parts of the objective: a Wasserstein autoencoder of the user's items with one of two
    losses, a term that compares the latent vectors with their assumed distribution, and an L1
    penalty on the latent vectors. The class may differ from the model of the paper, and its results
    are not those of the paper.

    The encoder computes the posterior
    :math:`q(z|x) = N(\mu(x), \operatorname{diag} \sigma^2(x))`. The decoder f maps a latent vector
    to the scores of all items. Training minimises, on average over the users,

    .. math:: - E_{q(z|x)} \log p(x | f(z)) + \beta \, \mathrm{KL}(q(z|x) \| p(z))
              + \rho \, E_{q(z|x)} \|z\|_1, \qquad p(z) = N(0, I),

    plus :math:`\lambda \, \mathrm{MMD}^2(q(z), p(z))` and
    :math:`\frac{\gamma}{U} \sum_W \|W\|_F^2`. The MMD compares the latent vectors of all users of a
    mini-batch with the prior. It is estimated from one draw of z per user and an equal number of
    draws of p(z). U is the number of users, and W are the weight matrices of encoder and decoder.
    The log-likelihood is summed over the items. :math:`\beta` is ``kl_weight``; with
    ``anneal_steps`` it increases from 0 to this value. The ranking scores are :math:`f(\mu(x))`.

    Parameters
    ----------
    n_components : int, default=200
        Number of components of the latent vector.
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
    mmd_weight : float, default=10.0
        Weight :math:`\lambda` of the MMD between the latent vectors of a mini-batch and draws from
        the prior. 0 removes the term.
    kl_weight : float, default=0.2
        Final weight :math:`\beta` of the KL term. 0 removes the term.
    anneal_steps : int or "auto", default=0
        Number of updates over which the weight above increases linearly from 0 to its final value.
        "auto" is the number of updates in 30 epochs, or in half of ``max_epochs`` if that is
        fewer. With 0 the weight is constant.
    l2 : float or "auto", default="auto"
        Weight :math:`\gamma` of the squared norms of the weight matrices of encoder and decoder,
        next to the loss summed over all users. "auto" is :math:`0.45 \, N^{1/3} / S` for N
        interactions, where S is the structure of the data (:ref:`structure-of-data`).
    l1 : float, default=1e-3
        Weight :math:`\rho` of the L1 norm of a user's latent vector.
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
    l2_ : float
        The weight :math:`\gamma` that was used.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    MultVAE : The same model without the L1 and MMD terms.
    SIVAERecommender : Another change of the distribution of the latent vectors.
    skvaecf.neural.mmd : The estimate of the MMD and its kernel.

    Notes
    -----
    The losses omit the constant terms of the likelihood. Log-variances are clipped to [-12, 4]. The
    L1 term is minimised by its subgradient, so the components of the latent vectors become small,
    but not exactly 0.

    References
    ----------
    Zhong and Zhang, "Wasserstein autoencoders for collaborative filtering", arXiv:1809.05662, 2018
    (abstract).

    Tolstikhin, Bousquet, Gelly and Schoelkopf, "Wasserstein auto-encoders", ICLR 2018, algorithm 2
    (WAE-MMD).

    Examples
    --------
    >>> from skvaecf import AWAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = AWAE(n_components=8, max_epochs=20, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    n_components: PositiveInt = 200
    _: KW_ONLY
    encoder_layer_sizes: LayerSizes = ()
    decoder_layer_sizes: LayerSizes = ()
    likelihood: LikelihoodLike = "n-choose-k"
    use_values: bool = False
    mmd_weight: NonNegative = 10.0
    kl_weight: NonNegative = 0.2
    anneal_steps: NonNegativeInt | Literal["auto"] = 0
    l2: NonNegative | Literal["auto"] = "auto"
    l1: NonNegative = 1e-3
    dropout: Rate = 0.5
    learning_rate: Positive = 7.5e-3
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    init: Literal["svd", "random"] = "svd"
    max_epochs: PositiveInt = 24

    _auto_l2: ClassVar[float] = 0.45

    def _build(self, n_users: int, n_items: int) -> Autoencoder:
        return Autoencoder(
            Encoder(n_items, self.encoder_layer_sizes, 2 * self.n_components),
            Decoder(self.n_components, self.decoder_layer_sizes, n_items),
        )

    def _players(self, network: Autoencoder, x: InteractionBatch) -> list[Player]:
        likelihood, l2 = likelihood_class(self.likelihood), self._l2_of(x) / x.n_users

        def loss(batch: Batch) -> Tensor:
            """- E log p(x|z) + beta KL(q || p) + rho E ||z||_1 + lambda MMD^2 + gamma/U ||W||^2."""
            x = batch.x
            q = posterior(network, x.normalized().dropout(self.dropout, batch.generator))
            z = q.rsample(generator=batch.generator)
            p = standard_normal(z)
            beta = self.kl_weight * anneal(batch, self.anneal_steps, self.max_epochs)
            kl = divergence(q, p, z)
            l1: Tensor = self.l1 * z.abs().sum(dim=1)
            discrepancy = mmd(z, p.rsample(generator=batch.generator))
            log_p = likelihood(network.decoder.factored(z)).log_prob(x)
            penalty = weight_penalty(l2, network.encoder, network.decoder)
            terms = batch.weights * (beta * kl + l1 - log_p)
            mmd_weight = self.mmd_weight * batch.weights.mean()
            return terms.mean() + mmd_weight * discrepancy + penalty

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _linear_encoder(self, network: Any) -> Tensor | None:
        return None if len(network.encoder.rest) else network.encoder.first.weight

    def _latent(self, network: Autoencoder, x: InteractionBatch) -> Tensor:
        mean: Tensor = posterior(network, x.normalized()).mean
        return mean


def posterior(network: Autoencoder, x: InteractionBatch) -> DiagonalNormal:
    """Return q(z|x), computed by the encoder."""
    return DiagonalNormal.from_layer(network.encoder(x))
