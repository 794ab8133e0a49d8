"""CDAE: a denoising autoencoder with a learned vector for each user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .._batch import InteractionBatch
from .._parameters import NonNegative, Positive, PositiveInt, Rate
from ..neural._layers import Autoencoder, Decoder, Encoder
from ..neural._likelihoods import LikelihoodLike, likelihood_class
from ..neural._objectives import weight_penalty
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Player

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda a: a,
}

FOLD_IN_STEPS = 10


class CDAE(TorchRecommender):
    r"""Collaborative denoising autoencoder.

    It is for users with few items but distinct tastes. Many papers use it as a baseline.

    In training, items are dropped from a user's row x, and the network learns to predict the whole
    row. A learned vector :math:`v_u` of the user is added to the hidden layer. Training minimises

    .. math::

        & \frac{1}{U} \Bigl\{ \sum_u \bigl[ - \log p(x_u | W'^\top h_u + b')
          + \lambda \|v_u\|^2 \bigr] + \lambda \|W\|_F^2 + \lambda \|W'\|_F^2 \Bigr\},

        & h_u = s(W^\top \tilde{x}_u + v_u + b),

    where U is the number of users and :math:`\tilde{x}_u` is the row after dropout. The
    log-likelihood is summed over the items. The ranking scores are :math:`W'^\top h + b'`, computed
    from the row without dropout. For this, ``predict`` computes the vector v of each row: it
    minimises the terms of the row, in square brackets, with all other parameters fixed. It does so
    for users in ``fit`` and for new users.

    Parameters
    ----------
    n_components : int, default=200
        Number of units of the hidden layer h, and number of components of the users' vectors.
    activation : {"sigmoid", "tanh", "linear"}, default="tanh"
        Activation function s of the hidden layer.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="n-choose-k"
        Distribution of a user's interactions given the scores of all items. With "bernoulli" the
        loss is the logistic loss of the paper. "n-choose-k" is the distribution of "bernoulli"
        given the number of the user's items. A custom likelihood is a subclass of
        :class:`skvaecf.neural.ItemLikelihood`.
    use_values : bool, default=False
        Whether the values of X weigh the interactions. If False, every positive value counts as 1.
    l2 : float, default=4.0
        Weight :math:`\lambda` of the squared norms of the users' vectors and of both weight
        matrices, next to the loss summed over all users. The biases are not penalised.
    dropout : float, default=0.5
        Probability q with which each of a user's items is dropped from the input of the encoder in
        training.
    learning_rate : float, default=1e-2
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
        Trained network with the parts ``encoder`` (W and b), ``decoder`` (W' and b') and ``users``.
        The latter are the vectors :math:`v_u` of the training users, shape (n_users, n_components),
        without the users that are held out for ``early_stopping``.
    history_ : list of dict
        One dict per epoch with the keys "epoch" (counted from 1), "autoencoder_loss" (mean over the
        updates), "validation_ndcg" (NDCG@100 of the validation users, if there are any) and
        "seconds".
    n_iter_ : int
        Number of epochs that were run.
    best_iter_ : int
        Number of the epoch whose parameters are kept, counted from 1.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    MultDAE : The same model without the users' vectors.
    MultVAE : A distribution over the latent vector instead of a vector of each user.

    Notes
    -----
    The network of the paper is ``CDAE(n_components=50, activation="sigmoid",
    likelihood="bernoulli", l2=1.0)``. The paper sums the loss over the user's items and a few
    sampled other items. This class sums over all items, without sampling. In the paper the penalty
    is not divided by the number U of users: a value :math:`\lambda` of this class is
    :math:`2 \lambda / U` in the paper. Rows are scaled to unit length before dropout. The paper
    does not do this; without it, the many items of an active user would saturate the hidden layer.
    The entries that dropout keeps are multiplied by 1 / (1 - q), so q must be less than 1.

    The paper has no rule for users that are not in ``fit``. The search for v starts from the mean
    of the trained vectors and makes 10 gradient steps with the step length of Barzilai and Borwein.
    The result is the point with the smallest gradient. ``predict`` computes v for the users in
    ``fit`` as well, so the scores of a row depend on the row alone. ``warm_start`` needs the same
    number of training users as in the previous fit.

    References
    ----------
    Wu, DuBois, Zheng and Ester, "Collaborative denoising auto-encoders for top-N recommender
    systems", WSDM 2016, section 3.

    Barzilai and Borwein, "Two-point step size gradient methods", IMA Journal of Numerical Analysis
    1988 (step length).

    Examples
    --------
    >>> from skvaecf import CDAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = CDAE(n_components=8, max_epochs=20, random_state=0).fit(X)
    >>> model.recommend(X[:2], k=3).shape
    (2, 3)
    """

    n_components: PositiveInt = 200
    _: KW_ONLY
    activation: Literal["sigmoid", "tanh", "linear"] = "tanh"
    likelihood: LikelihoodLike = "n-choose-k"
    use_values: bool = False
    l2: NonNegative = 4.0
    dropout: Rate = 0.5
    learning_rate: Positive = 1e-2

    _takes_further_users: ClassVar[bool] = False

    def _build(self, n_users: int, n_items: int) -> CollaborativeAutoencoder:
        return CollaborativeAutoencoder(
            Encoder(n_items, (), self.n_components),
            Decoder(self.n_components, (), n_items),
            n_users,
            self.n_components,
        )

    def _players(self, network: CollaborativeAutoencoder, x: InteractionBatch) -> list[Player]:
        def loss(batch: Batch) -> Tensor:
            """Mean of [- log p(x|h) + lambda ||v||^2] + lambda/U (||W||^2 + ||W'||^2)."""
            dropped = batch.x.normalized().dropout(self.dropout, batch.generator)
            v = network.users[batch.users]
            rows = self._objective(network, batch.x, network.encoder(dropped), v)
            return (batch.weights * rows).mean() + weight_penalty(
                self.l2 / x.n_users, network.encoder, network.decoder
            )

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _objective(
        self, network: CollaborativeAutoencoder, x: InteractionBatch, a: Tensor, v: Tensor
    ) -> Tensor:
        """- log p(x | W' h + b') + lambda ||v||^2 with h = s(a + v), shape (n_users,)."""
        h = ACTIVATIONS[self.activation](a + v)
        p = likelihood_class(self.likelihood)(network.decoder.factored(h))
        return self.l2 * v.square().sum(dim=1) - p.log_prob(x)

    def _latent(self, network: CollaborativeAutoencoder, x: InteractionBatch) -> Tensor:
        """Fold rows in: compute v and return h, shape (n_users, n_components)."""
        a = network.encoder(x.normalized()).detach()
        start = network.users.detach().mean(dim=0).expand(x.n_users, -1)
        v = descend(lambda v: self._objective(network, x, a, v), start, FOLD_IN_STEPS)
        return ACTIVATIONS[self.activation](a + v)


class CollaborativeAutoencoder(Autoencoder):
    """Autoencoder with one vector per training user."""

    def __init__(self, encoder: Encoder, decoder: Decoder, n_users: int, n_components: int) -> None:
        super().__init__(encoder, decoder)
        self.users = nn.Parameter(torch.empty(n_users, n_components))


def descend(objective: Callable[[Tensor], Tensor], start: Tensor, n_steps: int) -> Tensor:
    """Minimise a function of each row by gradient steps with the length of Barzilai and Borwein.

    The step length is d.d / d.y, where d is the previous step and y is the change of the gradient
    over this step. It is the inverse of the curvature along d. Each row has its own step length.

    Parameters
    ----------
    objective : callable
        Maps points (n_rows, n_components) to a value per row, shape (n_rows,).
    start : Tensor of shape (n_rows, n_components)
    n_steps : int

    Returns
    -------
    v : Tensor of shape (n_rows, n_components)
        The visited point of each row with the smallest gradient. The values of the function are
        not compared: near a minimum they are equal except for rounding.
    """

    def gradient(v: Tensor) -> Tensor:
        with torch.enable_grad():
            v = v.detach().requires_grad_()
            return torch.autograd.grad(objective(v).sum(), v)[0]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=1, keepdim=True)

    v, g = start, gradient(start)
    best, shortest = v, dot(g, g)
    length = 1 / (1 + shortest.sqrt())  # the first step is at most 1 long
    for _ in range(n_steps):
        d = -length * g
        v, last = v + d, g
        g = gradient(v)
        curvature = dot(d, g - last)
        length = torch.where(curvature > 0, dot(d, d) / curvature, length)
        shorter = dot(g, g) < shortest
        best, shortest = torch.where(shorter, v, best), torch.where(shorter, dot(g, g), shortest)
    return best
