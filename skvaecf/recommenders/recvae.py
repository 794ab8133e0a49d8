"""RecVAE: a variational autoencoder whose prior remembers its encoder of the last epoch."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from torch.nn import functional as F

from ..distributions import DiagonalNormal
from ..interactions import InteractionBatch
from ..likelihoods import LIKELIHOODS, ItemLikelihood, likelihood_of
from ..modules import Autoencoder, Decoder, ItemEmbedding, OwnStart
from ..neural import TorchRecommender
from ..objectives import divergence
from ..training import Batch, Order, Player, by_epoch


class RecVAE(TorchRecommender):
    r"""Variational autoencoder with a composite prior, whose encoder and decoder take turns.

    As in :class:`MultVAE`, a user's items :math:`x` are drawn from a latent vector :math:`z`
    through the scores :math:`f_\theta(z)` of all items, which are linear in z, and the encoder
    gives :math:`q_\phi(z|x) = N(\mu_\phi(x), \operatorname{diag} \sigma^2_\phi(x))`. In every
    epoch, the encoder first goes ``n_encoder_moves`` times through the users and lowers

    .. math:: - E_{q_\phi(z|\tilde x)} \log p_\theta(x|z)
              + (\beta + \gamma N_u) \, \mathrm{KL}(q_\phi(z|\tilde x) \| p(z|x)),

    where items are dropped from :math:`\tilde x` and :math:`N_u` is the number of the user's
    items. Then the decoder goes ``n_decoder_moves`` times through them and lowers
    :math:`- E_{q_\phi(z|x)} \log p_\theta(x|z)`, without dropout. The prior holds the encoder
    near :math:`\phi_{old}`, what it was at the start of the epoch. It is, independently for each
    component k of z, the mixture

    .. math:: p(z_k|x) = w_1 N(0, 1) + w_2 \, q_{\phi_{old}}(z_k|x) + w_3 N(0, e^{10}).

    One z is drawn per user and update, and the KL term is :math:`\log q(z|x) - \log p(z|x)` of
    it. Users are ranked by :math:`f_\theta(\mu_\phi(x))`.

    Parameters
    ----------
    n_components : int, default=200
        Width of the latent vector.
    layer_size : int, default=600
        Width of each hidden layer.
    n_layers : int, default=5
        Number of hidden layers, all of the encoder. Each gets, besides the one before, the sum of
        all before.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="multinomial"
        Distribution of a user's items given the scores. "n-choose-k" is Bernoulli's given their
        number. A class is one of your own, see :mod:`skvaecf.likelihoods`.
    prior_weights : tuple of 3 floats, default=(0.15, 0.75, 0.1)
        Shares :math:`w` of the standard normal, of the old posterior and of the wide normal in the
        prior. They must add up to 1.
    kl_weight : float, default=0.0
        Part :math:`\beta` of the KL term's weight that is the same for all users.
    kl_weight_per_item : float, default=0.005
        Part :math:`\gamma` of the KL term's weight that each of the user's items adds.
    dropout : float, default=0.5
        Probability in the encoder's training to drop each of a user's items from its input.
    n_encoder_moves : int, default=3
        Passes over the users in which the encoder learns, per epoch.
    n_decoder_moves : int, default=1
        Passes over the users in which the decoder learns, per epoch.
    learning_rate : float, default=5e-4
        Step size of Adam.
    batch_size : int or "auto", default="auto"
        Users per update. "auto" is a twentieth of the users, but at least 100 and at most 500, so
        that small data sets get enough updates per epoch.
    max_epochs : int, default=200
        Alternations of encoder and decoder, at most.
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
    MultVAE : With a fixed prior, and encoder and decoder learning at once.

    Notes
    -----
    The constant terms of the likelihood are left out of the losses. Log-variances are kept in
    [-12, 4]; the paper's are free. It has no moving average, ``ema_decay=0``.

    References
    ----------
    Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko, "RecVAE: a new variational autoencoder for
    top-N recommendations with implicit feedback", WSDM 2020, section 3.

    Examples
    --------
    >>> from skvaecf import RecVAE
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = RecVAE(n_components=8, layer_size=16, max_epochs=10, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "layer_size": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "likelihood": [StrOptions(set(LIKELIHOODS)), type],
        "prior_weights": ["array-like"],
        "kl_weight": [Interval(Real, 0, None, closed="left")],
        "kl_weight_per_item": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "n_encoder_moves": [Interval(Integral, 1, None, closed="left")],
        "n_decoder_moves": [Interval(Integral, 1, None, closed="left")],
    }

    _order: ClassVar[Order] = staticmethod(by_epoch)

    def __init__(
        self,
        n_components: int = 200,
        *,
        layer_size: int = 600,
        n_layers: int = 5,
        likelihood: str | type[ItemLikelihood] = "multinomial",
        prior_weights: Sequence[float] = (0.15, 0.75, 0.1),
        kl_weight: float = 0.0,
        kl_weight_per_item: float = 0.005,
        dropout: float = 0.5,
        n_encoder_moves: int = 3,
        n_decoder_moves: int = 1,
        learning_rate: float = 5e-4,
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
        self.layer_size = layer_size
        self.n_layers = n_layers
        self.likelihood = likelihood
        self.prior_weights = prior_weights
        self.kl_weight = kl_weight
        self.kl_weight_per_item = kl_weight_per_item
        self.dropout = dropout
        self.n_encoder_moves = n_encoder_moves
        self.n_decoder_moves = n_decoder_moves
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

    def _validate_params(self) -> None:
        super()._validate_params()
        weights = np.asarray(self.prior_weights)
        numbers = weights.shape == (3,) and weights.dtype.kind in "fiu"
        if not numbers or not (weights >= 0).all() or not np.isclose(weights.sum(), 1):
            raise ValueError(
                "prior_weights must be 3 numbers of at least 0 that add up to 1, got"
                f" {self.prior_weights!r}."
            )

    def _build(self, n_users: int, n_items: int) -> Autoencoder:
        return Autoencoder(
            DenselyConnectedEncoder(n_items, self.layer_size, self.n_layers, self.n_components),
            Decoder(self.n_components, (), n_items),
        )

    def _players(self, network: Any) -> list[Player]:
        likelihood = likelihood_of(self.likelihood)
        # It belongs to the training, like the state of an optimizer, and not to the model.
        old_encoder = deepcopy(network.encoder).requires_grad_(False)
        # Once: to copy numbers to the device at every step would make it wait.
        prior_weights = network.decoder.logits.bias.new_tensor(self.prior_weights)

        def remember() -> None:
            old_encoder.load_state_dict(network.encoder.state_dict())

        def encoder_loss(batch: Batch) -> Tensor:
            """- E_q log p(x|z) + (beta + gamma N_u) KL(q(z|x) || p(z|x))."""
            x, rows = batch.x, batch.x.l2_normalized()
            q = network.encoder(rows.dropout(self.dropout, batch.generator))
            z = q.rsample(generator=batch.generator)
            kl = divergence(q, composite_prior(old_encoder(rows), prior_weights), z)
            weight = self.kl_weight + self.kl_weight_per_item * x.sum(x.values)
            # Multiplied out: factors would compute the gradient of the decoder's weights as well.
            return (weight * kl - likelihood(network.decoder(z)).log_prob(x)).mean()

        def decoder_loss(batch: Batch) -> Tensor:
            """- E_q log p(x|z), which is all that depends on the decoder."""
            with torch.no_grad():
                z = network.encoder(batch.x.l2_normalized()).rsample(generator=batch.generator)
            return -likelihood(network.decoder(z)).log_prob(batch.x).mean()

        encoder, decoder = (list(part.parameters()) for part in (network.encoder, network.decoder))
        rate = self.learning_rate
        return [
            Player("encoder", encoder, encoder_loss, rate, self.n_encoder_moves, remember),
            Player("decoder", decoder, decoder_loss, rate, self.n_decoder_moves),
        ]

    def _latent(self, network: Autoencoder, x: InteractionBatch) -> Tensor:
        mean: Tensor = network.encoder(x.l2_normalized()).mean
        return mean


class DenselyConnectedEncoder(OwnStart):
    """Rows -> h_1 ... h_n -> q(z|x), h_l = norm(swish(W_l h_{l-1} + h_1 + ... + h_{l-1}))."""

    def __init__(self, n_items: int, layer_size: int, n_layers: int, n_components: int) -> None:
        super().__init__()
        self.first = ItemEmbedding(n_items, layer_size)
        self.rest = nn.ModuleList(nn.Linear(layer_size, layer_size) for _ in range(n_layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(layer_size, eps=0.1) for _ in range(n_layers))
        self.out = nn.Linear(layer_size, 2 * n_components)

    def start(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Start the layer norms from the scale 1."""
        for name, parameter in self.norms.named_parameters():
            if name.endswith("weight"):
                nn.init.ones_(parameter)

    def forward(self, x: InteractionBatch) -> DiagonalNormal:
        """Map rows to the posteriors of their latent vectors."""
        first, *norms = self.norms
        h = first(F.silu(self.first(x)))
        total = h
        for layer, norm in zip(self.rest, norms, strict=True):
            h = norm(F.silu(layer(h) + total))
            total = total + h
        return DiagonalNormal.from_layer(self.out(h))


def composite_prior(old: DiagonalNormal, weights: Tensor) -> Distribution:
    """Mix, for each component, N(0, 1), the old posterior and N(0, e^10); z ~ (n_users, ...)."""
    zeros = torch.zeros_like(old.mean)
    loc = torch.stack((zeros, old.mean, zeros), dim=-1)  # (n_users, n_components, 3)
    log_variance = torch.stack((zeros, old.log_variance, zeros + 10), dim=-1)
    mixture = MixtureSameFamily(
        Categorical(logits=weights.log(), validate_args=False),
        Normal(loc, (0.5 * log_variance).exp(), validate_args=False),
        validate_args=False,
    )
    return Independent(mixture, 1, validate_args=False)
