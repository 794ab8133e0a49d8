"""aWAE: a Wasserstein autoencoder of a user's items with further terms on the latent vector."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from ..distributions import DiagonalNormal, standard_normal
from ..interactions import InteractionBatch
from ..likelihoods import LIKELIHOODS, ItemLikelihood, likelihood_of
from ..modules import Autoencoder, Decoder, Encoder
from ..neural import TorchRecommender
from ..objectives import anneal, divergence, mmd
from ..training import Batch, Player


class AWAERecommender(TorchRecommender):
    r"""Wasserstein autoencoder with a sparse latent vector (aWAE), a reconstruction.

    **The formulas of the paper were not available to the authors of this class.** It is built from
    the paper's abstract, which names the parts of the objective (a Wasserstein autoencoder of the
    user's items with one of two losses, a term that compares the latent vectors with their
    assumed distribution, an L1 penalty on them), and from the Wasserstein autoencoder's own paper.
    It may differ from the authors' model, and its figures are not theirs.

    The encoder gives :math:`q(z|x) = N(\mu(x), \operatorname{diag} \sigma^2(x))`. Training lowers,
    on average over the users,

    .. math:: - E_{q(z|x)} \log p(x | f(z)) + \beta \, \mathrm{KL}(q(z|x) \| p(z))
              + \rho \, E_{q(z|x)} \|z\|_1, \qquad p(z) = N(0, I),

    plus :math:`\lambda \, \mathrm{MMD}^2(q(z), p(z))` of the users of a batch as a whole, estimated
    from one z of each and as many draws of p(z). The likelihood is summed over the items, and
    :math:`\beta` rises from 0 to ``kl_weight``. Users are ranked by :math:`f(\mu(x))`.

    Parameters
    ----------
    n_components : int, default=200
        Width of the latent vector.
    encoder_layer_sizes : tuple of int, default=(600,)
        Widths of the encoder's hidden tanh layers; ``()`` makes it linear.
    decoder_layer_sizes : tuple of int, default=()
        Widths of the decoder's hidden tanh layers; ``()`` makes it linear.
    likelihood : {"multinomial", "bernoulli", "n-choose-k"} or class, default="multinomial"
        Distribution of a user's items given the scores. "n-choose-k" is Bernoulli's given their
        number. A class is one of your own, see :mod:`skvaecf.likelihoods`.
    mmd_weight : float, default=10.0
        Weight :math:`\lambda` of the discrepancy between the latent vectors of a batch and draws
        of the prior. 0 leaves it out.
    kl_weight : float, default=0.5
        Final weight :math:`\beta` of the KL term. 0 leaves it out.
    anneal_steps : int or "auto", default="auto"
        Updates over which this weight rises linearly from 0 to its final value. "auto" takes 30
        epochs.
    l1 : float, default=1e-3
        Weight :math:`\rho` of the sum of the absolute values of a user's latent vector.
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
    MultVAE : The same without the last two terms.
    skvaecf.objectives.mmd : The estimate of the discrepancy and its kernel.

    Notes
    -----
    The constant terms of the likelihood are left out of the losses. Log-variances are kept
    in [-12, 4]. The L1 term is lowered by its subgradient like all others, so latent vectors
    become small rather than exactly sparse.

    References
    ----------
    Zhong and Zhang, "Wasserstein autoencoders for collaborative filtering", arXiv:1809.05662, 2018
    (abstract).

    Tolstikhin, Bousquet, Gelly and Schoelkopf, "Wasserstein auto-encoders", ICLR 2018, algorithm 2
    (WAE-MMD).

    Examples
    --------
    >>> from skvaecf import AWAERecommender
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = AWAERecommender(n_components=8, max_epochs=20, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "encoder_layer_sizes": ["array-like"],
        "decoder_layer_sizes": ["array-like"],
        "likelihood": [StrOptions(set(LIKELIHOODS)), type],
        "mmd_weight": [Interval(Real, 0, None, closed="left")],
        "kl_weight": [Interval(Real, 0, None, closed="left")],
        "anneal_steps": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "l1": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 200,
        *,
        encoder_layer_sizes: Sequence[int] = (600,),
        decoder_layer_sizes: Sequence[int] = (),
        likelihood: str | type[ItemLikelihood] = "multinomial",
        mmd_weight: float = 10.0,
        kl_weight: float = 0.5,
        anneal_steps: int | Literal["auto"] = "auto",
        l1: float = 1e-3,
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
        self.mmd_weight = mmd_weight
        self.kl_weight = kl_weight
        self.anneal_steps = anneal_steps
        self.l1 = l1
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
            Encoder(n_items, self.encoder_layer_sizes, 2 * self.n_components),
            Decoder(self.n_components, self.decoder_layer_sizes, n_items),
        )

    def _players(self, network: Autoencoder) -> list[Player]:
        likelihood = likelihood_of(self.likelihood)

        def loss(batch: Batch) -> Tensor:
            """- E_q log p(x|z) + beta KL(q(z|x) || p(z)) + rho E_q ||z||_1 + lambda MMD^2."""
            x = batch.x
            q = posterior(network, x.l2_normalized().dropout(self.dropout, batch.generator))
            z = q.rsample(generator=batch.generator)
            p = standard_normal(z)
            beta = self.kl_weight * anneal(batch.step, batch.epoch, self.anneal_steps)
            kl = divergence(q, p, z)
            l1: Tensor = self.l1 * z.abs().sum(dim=1)
            discrepancy = mmd(z, p.rsample(generator=batch.generator))
            log_p = likelihood(network.decoder.factored(z)).log_prob(x)
            return (beta * kl + l1 - log_p).mean() + self.mmd_weight * discrepancy

        return [Player("autoencoder", list(network.parameters()), loss, self.learning_rate)]

    def _latent(self, network: Autoencoder, x: InteractionBatch) -> Tensor:
        mean: Tensor = posterior(network, x.l2_normalized()).mean
        return mean


def posterior(network: Autoencoder, x: InteractionBatch) -> DiagonalNormal:
    """Read q(z|x) from the encoder's last layer."""
    return DiagonalNormal.from_layer(network.encoder(x))
