"""Mult-DAE: a denoising autoencoder of a user's items."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from ..interactions import InteractionBatch
from ..likelihoods import LIKELIHOODS, ItemLikelihood, likelihood_of
from ..modules import Autoencoder, Decoder, Encoder
from ..neural import TorchRecommender
from ..objectives import weight_penalty
from ..training import Batch, Player


class MultDAE(TorchRecommender):
    r"""Denoising autoencoder with a multinomial likelihood.

    Items are dropped from a user's row x, and the network must give the whole row a high
    likelihood. Training lowers, on average over the users,

    .. math:: - \log p_\theta(x | z) + \lambda \sum_W \|W\|_F^2,
              \qquad z = \tanh(g_\phi(\tilde{x})),

    the likelihood being summed over the items and the penalty over the weight matrices. Users
    are ranked by the scores :math:`f_\theta(z)` of their undropped rows.

    Parameters
    ----------
    n_components : int, default=600
        Width of the latent vector z.
    encoder_layer_sizes : tuple of int, default=()
        Widths of the encoder's hidden tanh layers; ``()`` makes it linear.
    decoder_layer_sizes : tuple of int, default=()
        Widths of the decoder's hidden tanh layers; ``()`` makes it linear.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="multinomial"
        Distribution of a user's items given the scores. "n-choose-k" is Bernoulli's given their
        number. A class is one of your own, see :mod:`skvaecf.likelihoods`.
    l2 : float, default=2e-5
        Weight :math:`\lambda` of the penalty on the weight matrices, per user.
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
    MultVAE : The same with a distribution over z.

    Notes
    -----
    The constant terms of the likelihood are left out of the losses. The paper's own setting is
    ``MultDAE(n_components=200, ema_decay=0)``.

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "encoder_layer_sizes": ["array-like"],
        "decoder_layer_sizes": ["array-like"],
        "likelihood": [StrOptions(set(LIKELIHOODS)), type],
        "l2": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 600,
        *,
        encoder_layer_sizes: Sequence[int] = (),
        decoder_layer_sizes: Sequence[int] = (),
        likelihood: str | type[ItemLikelihood] = "multinomial",
        l2: float = 2e-5,
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
            Encoder(n_items, self.encoder_layer_sizes, self.n_components),
            Decoder(self.n_components, self.decoder_layer_sizes, n_items),
        )

    def _players(self, network: Autoencoder) -> list[Player]:
        likelihood = likelihood_of(self.likelihood)

        def loss(batch: Batch) -> Tensor:
            """- log p(x|z) + lambda sum ||W||^2."""
            x = batch.x
            z = encode(network, x.l2_normalized().dropout(self.dropout, batch.generator))
            p = likelihood(network.decoder.factored(z))
            return -p.log_prob(x).mean() + weight_penalty(self.l2, network)

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _latent(self, network: Autoencoder, x: InteractionBatch) -> Tensor:
        return encode(network, x.l2_normalized())


def encode(network: Autoencoder, x: InteractionBatch) -> Tensor:
    """Map rows to the latent vectors tanh(g(x))."""
    return torch.tanh(network.encoder(x))
