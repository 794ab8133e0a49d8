"""CDAE: a denoising autoencoder with a vector of its own for each user."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from ..interactions import InteractionBatch
from ..likelihoods import LIKELIHOODS, ItemLikelihood, likelihood_of
from ..modules import Autoencoder, Decoder, Encoder
from ..neural import TorchRecommender
from ..objectives import weight_penalty
from ..training import Batch, Player

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda a: a,
}

FOLD_IN_STEPS = 10


class CDAE(TorchRecommender):
    r"""Collaborative denoising autoencoder.

    Items are dropped from a user's row x, and the network must give the whole row a high
    likelihood, with the help of a vector :math:`v_u` that belongs to the user. Training lowers

    .. math::

        & \frac{1}{U} \Bigl\{ \sum_u \bigl[ - \log p(x_u | W'^\top h_u + b')
          + \lambda \|v_u\|^2 \bigr] + \lambda \|W\|_F^2 + \lambda \|W'\|_F^2 \Bigr\},

        & h_u = s(W^\top \tilde{x}_u + v_u + b),

    the likelihood being summed over the items. Users are ranked by :math:`W'^\top h + b'` of their
    undropped rows. Any row, of a user in ``fit`` or not, gets the vector v that lowers the row's
    own terms, in square brackets, all else being fixed.

    Parameters
    ----------
    n_components : int, default=50
        Width of the hidden layer h, and of the users' vectors.
    activation : {"sigmoid", "tanh", "linear"}, default="sigmoid"
        Function s of the hidden layer.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="bernoulli"
        Distribution of a user's items given the scores. With "bernoulli" the loss is the paper's
        logistic one. "n-choose-k" is Bernoulli's given the number of the user's items.
        A class is one of your own, see :mod:`skvaecf.likelihoods`.
    l2 : float, default=1.0
        Weight :math:`\lambda` of the squared norms of the user's vector and of both weight
        matrices. The biases are free.
    dropout : float, default=0.5
        Probability q in training to drop each of a user's items from the encoder's input.
    learning_rate : float, default=1e-2
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
        The trained ``encoder`` (W and b), ``decoder`` (W' and b') and ``users``, the vectors
        :math:`v_u` of the rows trained on, shape (n_users, n_components). Users set apart by
        ``early_stopping`` are not among them.
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
    MultDAE : The same without the users' vectors.

    Notes
    -----
    The paper sums the loss over a user's items and a few sampled others; here it is over all
    items, without sampling. The paper's :math:`\lambda`, which stands before a penalty that is
    not divided by the number U of users, is :math:`2 \lambda / U` here. Rows are scaled to unit
    length before items are dropped, which the paper does not do: the many items of an active user
    would saturate the hidden layer. What is kept is scaled by 1 / (1 - q), so q must be below 1.

    The paper has no rule for users that are not in ``fit``. The search for v starts from the mean
    of the trained vectors and makes 10 gradient steps of Barzilai and Borwein's length; the point
    of the least gradient is taken. ``predict`` does this for the users in ``fit`` too, so that a
    row's scores depend on the row alone. ``warm_start`` needs as many training users as before.

    References
    ----------
    Wu, DuBois, Zheng and Ester, "Collaborative denoising auto-encoders for top-N recommender
    systems", WSDM 2016, section 3.

    Barzilai and Borwein, "Two-point step size gradient methods", IMA Journal of Numerical Analysis
    1988, for the length of the steps.

    Examples
    --------
    >>> from skvaecf import CDAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = CDAE(n_components=8, max_epochs=20, random_state=0).fit(X)
    >>> model.recommend(X[:2], k=3).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "likelihood": [StrOptions(set(LIKELIHOODS)), type],
        "l2": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 50,
        *,
        activation: str = "sigmoid",
        likelihood: str | type[ItemLikelihood] = "bernoulli",
        l2: float = 1.0,
        dropout: float = 0.5,
        learning_rate: float = 1e-2,
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
        self.activation = activation
        self.likelihood = likelihood
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

    def _build(self, n_users: int, n_items: int) -> CollaborativeAutoencoder:
        return CollaborativeAutoencoder(
            Encoder(n_items, (), self.n_components),
            Decoder(self.n_components, (), n_items),
            n_users,
            self.n_components,
        )

    def _players(self, network: CollaborativeAutoencoder) -> list[Player]:
        def loss(batch: Batch) -> Tensor:
            """Mean of - log p(x|h) + lambda ||v||^2, + lambda / U (||W||^2 + ||W'||^2)."""
            dropped = batch.x.l2_normalized().dropout(self.dropout, batch.generator)
            v = network.users[batch.users]
            rows = self._objective(network, batch.x, network.encoder(dropped), v)
            share = self.l2 / len(network.users)
            return rows.mean() + weight_penalty(share, network.encoder, network.decoder)

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _objective(
        self, network: CollaborativeAutoencoder, x: InteractionBatch, a: Tensor, v: Tensor
    ) -> Tensor:
        """- log p(x | W' h + b') + lambda ||v||^2 with h = s(a + v), shape (n_users,)."""
        h = ACTIVATIONS[self.activation](a + v)
        p = likelihood_of(self.likelihood)(network.decoder.factored(h))
        return self.l2 * v.square().sum(dim=1) - p.log_prob(x)

    def _latent(self, network: CollaborativeAutoencoder, x: InteractionBatch) -> Tensor:
        """Fold rows in: find v and compute h, shape (n_users, n_components)."""
        a = network.encoder(x.l2_normalized()).detach()
        start = network.users.detach().mean(dim=0).expand(x.n_users, -1)
        v = descend(lambda v: self._objective(network, x, a, v), start, FOLD_IN_STEPS)
        return ACTIVATIONS[self.activation](a + v)


class CollaborativeAutoencoder(Autoencoder):
    """An autoencoder with a vector per training user."""

    def __init__(self, encoder: Encoder, decoder: Decoder, n_users: int, n_components: int) -> None:
        super().__init__(encoder, decoder)
        self.users = nn.Parameter(torch.empty(n_users, n_components))


def descend(objective: Callable[[Tensor], Tensor], start: Tensor, n_steps: int) -> Tensor:
    """Lower a function of each row, by gradient steps of Barzilai and Borwein's length.

    The length d.d / d.y, for the last step d and the change y of the gradient over it, is the
    inverse of the curvature met on the way. Rows do not meet: each has its own length.

    Parameters
    ----------
    objective : callable
        Maps points (n_rows, n_components) to a value per row, shape (n_rows,).
    start : Tensor of shape (n_rows, n_components)
    n_steps : int

    Returns
    -------
    v : Tensor of shape (n_rows, n_components)
        Of each row, the point with the shortest gradient. Values are too coarse to choose by:
        near a minimum they are all equal but for rounding.
    """

    def gradient(v: Tensor) -> Tensor:
        with torch.enable_grad():
            v = v.detach().requires_grad_()
            return torch.autograd.grad(objective(v).sum(), v)[0]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=1, keepdim=True)

    v, g = start, gradient(start)
    best, shortest = v, dot(g, g)
    length = 1 / (1 + shortest.sqrt())  # at first no farther than 1
    for _ in range(n_steps):
        d = -length * g
        v, last = v + d, g
        g = gradient(v)
        curvature = dot(d, g - last)
        length = torch.where(curvature > 0, dot(d, d) / curvature, length)
        shorter = dot(g, g) < shortest
        best, shortest = torch.where(shorter, v, best), torch.where(shorter, dot(g, g), shortest)
    return best
