"""Mult-DAE: a denoising autoencoder of a user's set of items."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .._batch import InteractionBatch
from .._parameters import LayerSizes, NonNegative, Positive, PositiveInt, Rate
from ..neural._layers import Autoencoder, Decoder, Encoder
from ..neural._likelihoods import LikelihoodLike, likelihood_class
from ..neural._objectives import weight_penalty
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Player


class MultDAE(TorchRecommender):
    r"""Denoising autoencoder of a user's set of items (Mult-DAE).

    It is the simplest neural model, with fewer parameters to search than
    :class:`~skvaecf.MultVAE`.

    In training, items are dropped from a user's row x, and the network learns to predict the whole
    row. Training minimises, on average over the users,

    .. math:: - \log p_\theta(x | z) + \frac{\lambda}{U} \sum_W \|W\|_F^2,
              \qquad z = \tanh(g_\phi(\tilde{x})),

    where :math:`\tilde{x}` is the row after dropout, :math:`g_\phi` is the encoder, U is the number
    of users, and W are the weight matrices of encoder and decoder. The log-likelihood is summed
    over the items. The ranking scores are the output :math:`f_\theta(z)` of the decoder, computed
    from the row without dropout.

    Parameters
    ----------
    n_components : int, default=600
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
    l2 : float or "auto", default="auto"
        Weight :math:`\lambda` of the squared norms of the weight matrices of encoder and decoder,
        next to the loss summed over all users. "auto" is :math:`1.25 \, N^{1/3} / S` for N
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
        The weight :math:`\lambda` that was used.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    MultVAE : The same model with a distribution over z.
    CDAE : The same model with a vector of each user.

    Notes
    -----
    The losses omit the constant terms of the likelihood.

    The model of the paper is ``MultDAE(n_components=200, likelihood="multinomial", l2=2.3,
    learning_rate=1e-3, learning_rate_schedule="constant", init="random", n_sampled_items=None,
    max_epochs=200, ema_decay=0)`` (the decay is that of 0.01 / 500 per update on MovieLens 20M).

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative filtering",
    WWW 2018, eq. 2 (multinomial), 10 (objective).

    Examples
    --------
    >>> from skvaecf import MultDAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = MultDAE(n_components=8, max_epochs=20, random_state=0)
    >>> model.fit(X).transform(X[:2]).shape
    (2, 8)
    """

    n_components: PositiveInt = 600
    _: KW_ONLY
    encoder_layer_sizes: LayerSizes = ()
    decoder_layer_sizes: LayerSizes = ()
    likelihood: LikelihoodLike = "n-choose-k"
    use_values: bool = False
    l2: NonNegative | Literal["auto"] = "auto"
    dropout: Rate = 0.5
    learning_rate: Positive = 7.5e-3
    learning_rate_schedule: Literal["constant", "linear"] = "linear"
    init: Literal["svd", "random"] = "svd"
    n_sampled_items: PositiveInt | Literal["auto"] | None = "auto"
    max_epochs: PositiveInt = 24

    _auto_l2: ClassVar[float] = 1.25

    def _build(self, n_users: int, n_items: int) -> Autoencoder:
        return Autoencoder(
            Encoder(n_items, self.encoder_layer_sizes, self.n_components),
            Decoder(self.n_components, self.decoder_layer_sizes, n_items),
        )

    def _players(self, network: Autoencoder, x: InteractionBatch) -> list[Player]:
        likelihood, l2 = likelihood_class(self.likelihood), self._l2_of(x) / x.n_users

        def loss(batch: Batch) -> Tensor:
            """- log p(x|z) + lambda/U sum ||W||^2, eq. 10."""
            x = batch.x
            z = encode(network, x.normalized().dropout(self.dropout, batch.generator))
            p = likelihood(network.decoder.factored(z))
            return -(batch.weights * p.log_prob(x)).mean() + weight_penalty(l2, network)

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _latent(self, network: Autoencoder, x: InteractionBatch) -> Tensor:
        return encode(network, x.normalized())


def encode(network: Autoencoder, x: InteractionBatch) -> Tensor:
    """Return the latent vectors tanh(g(x)) of rows."""
    return torch.tanh(network.encoder(x))
