"""CFGAN: a generator of vectors of interactions, trained with a discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._batch import InteractionBatch, replace_entries
from .._parameters import Fraction, LayerSizes, NonNegative, Positive, PositiveInt, Probability
from ..linear._least_squares import FixedFactors, LeastSquares, principal_axes
from ..neural._layers import Decoder, Encoder, SelfInitialized
from ..neural._objectives import density_ratio_loss, ratio_accuracy, weight_penalty
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Order, Player, by_epoch


class CFGAN(TorchRecommender):
    r"""Generative adversarial network on vectors of interactions (CFGAN).

    It is for comparison with its paper and for later work on it.

    The generator maps a row c of interactions, of a user or of an item, to a vector
    :math:`\hat{y} = G(c)` of real numbers. The discriminator D learns to distinguish c from
    :math:`\hat{y} \odot m`, given c. The mask m keeps the interactions and a random share of the
    other entries (*partial masking*). With :math:`\sigma^+(a) = \log(1 + e^a)`, the discriminator
    minimises, on average over the rows,

    .. math:: \sigma^+(-D(c, c)) + \sigma^+(D(c, \hat{y} \odot m))
              + \lambda_D \sum_W \|W\|_F^2

    and the generator minimises

    .. math:: \sigma^+(-D(c, \hat{y} \odot m)) + \alpha \sum_{j \in Z} \hat{y}_j^2
              + \lambda_G \sum_W \|W\|_F^2,

    where W are the weight matrices of the player, and Z is another random share of the entries
    without interaction. The term with Z (*zero reconstruction*) pulls these entries to 0. In user
    mode the ranking scores are :math:`\hat{y}`; the Notes describe those of the item mode.

    Parameters
    ----------
    n_components : int, default=400
        Width of the last hidden layer of the generator.
    mode : {"user", "item"}, default="user"
        What a row c holds: the items of one user, or the users of one item. Mini-batches and epochs
        consist of these rows.
    generator_layer_sizes : tuple of int, default=()
        Widths of the hidden sigmoid layers of the generator before the last one.
    discriminator_layer_sizes : tuple of int, default=(125,)
        Widths of the hidden sigmoid layers of the discriminator. With ``()`` the discriminator is
        linear.
    masking_ratio : float, default=0.7
        Probability with which an entry without interaction is shown to the discriminator (partial
        masking).
    reconstruction_ratio : float, default=0.7
        Probability with which an entry without interaction is in Z (zero reconstruction).
    reconstruction_weight : float, default=0.03
        Weight :math:`\alpha` of zero reconstruction. 0 removes the term.
    l2 : float, default=5e-5
        Weight :math:`\lambda_G` of the squared norms of the generator's weight matrices, next to
        the loss averaged over the rows.
    discriminator_l2 : float, default=0.0
        Weight :math:`\lambda_D` of the squared norms of the discriminator's weight matrices, next
        to the loss averaged over the rows.
    n_generator_passes : int, default=2
        Passes of the generator over the rows in each epoch.
    n_discriminator_passes : int, default=1
        Passes of the discriminator over the rows in each epoch, before those of the generator.
    unobserved_weight : float, default=0.5
        Only in item mode: weight of an item that the user does not have, in the fold-in of users.
        An item that the user has weighs 1. The value must be less than 1.
    fold_in_l2 : float, default=1.0
        Only in item mode: weight :math:`\mu` of the penalty in the fold-in of users. It is
        multiplied by the mean squared length of the items' vectors.
    learning_rate : float, default=3e-3
        Learning rate of the Adam optimizer.
    learning_rate_schedule : {"constant", "linear"}, default="constant"
        Course of the learning rate. "linear" lowers it from update to update, from its value at the
        beginning to 0 after ``max_epochs`` epochs.
    discriminator_learning_rate : float or None, default=None
        Learning rate of the Adam optimizer for the discriminator. With None it is
        ``learning_rate``.
    batch_size : int or "auto", default="auto"
        Number of users per mini-batch. "auto" is one twentieth of the training users, but at least
        50 and at most 500, so that small data sets have enough updates per epoch.
    max_epochs : int, default=200
        Maximum number of epochs. In each epoch, first the discriminator and then the generator is
        trained.
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
        Trained network with the parts ``encoder`` and ``decoder``, which form the generator, and
        ``discriminator``. In item mode, the buffer ``vectors`` holds the :math:`h_i` (see Notes),
        shape (n_items, n_components).
    history_ : list of dict
        One dict per epoch with the keys "epoch" (counted from 1), "discriminator_loss",
        "discriminator_accuracy" (share of the vectors that the discriminator classifies correctly),
        "generator_loss", "validation_ndcg" (NDCG@100 of the validation users, if there are any) and
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
    IRGAN : The generator draws single items.
    VAEGANRecommender : A variational autoencoder with discriminators.
    MultDAE : A similar network, trained with a likelihood instead of a discriminator.

    Notes
    -----
    The paper has three schemes. ``masking_ratio=0`` is CFGAN_ZR, and ``reconstruction_weight=0`` is
    CFGAN_PM. The default is CFGAN_ZP, which has both terms. The entries of m and Z are drawn
    independently of each other, so the ratios are expected shares of a row. They are drawn anew in
    every pass over the rows. The generator's loss is the non-saturating one. Biases are not
    penalised.

    The authors' setting for MovieLens 100K is ``CFGAN(mode="item", l2=5e-4, learning_rate=1e-4,
    n_generator_passes=4, n_discriminator_passes=2, batch_size=32, ema_decay=0)``. Their
    discriminator has mini-batches of 64, which this class cannot set separately. With twice the
    penalty, ``l2=1e-3``, the ranking of validation items was better.

    In user mode the generator maps the row of a user to the scores of all items. In item mode it
    maps the row of an item i to the scores of this item for all users u in ``fit``,
    :math:`\hat{y}_{ui} = w_u^\top h_i + b_u`, where :math:`h_i` is the last hidden layer. The paper
    ranks the items of these users by these scores. This class instead computes weights w of every
    user, in ``fit`` or not, by least squares with the :math:`h_i` fixed,

    .. math:: \min_w \sum_{i \in S} (w^\top h_i - 1)^2 + a \sum_{i \notin S} (w^\top h_i)^2
              + \mu s \|w\|^2,

    where S are the user's items, a is ``unobserved_weight``, :math:`\mu` is ``fold_in_l2`` and s is
    the mean of the :math:`\|h_i\|^2`. The scores :math:`w^\top h_i` ranked held-out items better
    than those of the generator. ``transform`` returns w in item mode, and the hidden layer in user
    mode. If the users of ``X_val`` are those of ``fit``, the validation score is already high after
    the first epoch and may need dozens of epochs to reach a new maximum. Choose a large
    ``n_iter_no_change`` in this case.

    References
    ----------
    Chae, Kang, Kim and Lee, "CFGAN: A generic collaborative filtering framework based on
    generative adversarial networks", CIKM 2018.

    Examples
    --------
    >>> from skvaecf import CFGAN
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = CFGAN(8, discriminator_layer_sizes=(8,), max_epochs=20, random_state=0)
    >>> model.fit(X).recommend(X[:2], k=3).shape
    (2, 3)
    """

    n_components: PositiveInt = 400
    _: KW_ONLY
    mode: Literal["user", "item"] = "user"
    generator_layer_sizes: LayerSizes = ()
    discriminator_layer_sizes: LayerSizes = (125,)
    masking_ratio: Probability = 0.7
    reconstruction_ratio: Probability = 0.7
    reconstruction_weight: NonNegative = 0.03
    l2: NonNegative = 5e-5
    discriminator_l2: NonNegative = 0.0
    n_generator_passes: PositiveInt = 2
    n_discriminator_passes: PositiveInt = 1
    unobserved_weight: Fraction = 0.5
    fold_in_l2: Positive = 1.0
    learning_rate: Positive = 3e-3
    discriminator_learning_rate: Positive | None = None

    _order: ClassVar[Order] = staticmethod(by_epoch)
    _takes_further_users: ClassVar[bool] = False  # in item mode, rows are those of the items

    def _build(self, n_users: int, n_items: int) -> UserGAN:
        sizes = self.n_components, self.generator_layer_sizes, self.discriminator_layer_sizes
        if self.mode == "item":
            return ItemGAN(n_users, n_items, *sizes, self.unobserved_weight, self.fold_in_l2)
        return UserGAN(n_items, *sizes)

    def _players(self, network: UserGAN, x: InteractionBatch) -> list[Player]:
        rows = network.training_rows(x)
        discriminator, generator = network.discriminator, (network.encoder, network.decoder)

        def masked(batch: Batch, y: Tensor) -> Tensor:
            """Compute y * m."""
            keep = unobserved(batch.x, self.masking_ratio, batch.generator)
            keep.index_put_((batch.x.users, batch.x.items), keep.new_ones(()))
            return y * keep

        def discriminator_loss(batch: Batch) -> Tensor:
            """softplus(-D(c, c)) + softplus(D(c, y * m)) + lambda_D sum ||W||^2."""
            with torch.no_grad():
                fake = masked(batch, network(batch.x))
            of_real, of_fake = discriminator(batch.x, batch.x), discriminator(batch.x, fake)
            batch.log("accuracy", ratio_accuracy(of_real, of_fake))
            ratio_loss = density_ratio_loss(of_real, of_fake, batch.weights)
            penalty = weight_penalty(self.discriminator_l2, discriminator)
            return ratio_loss + batch.weights.mean() * penalty

        def generator_loss(batch: Batch) -> Tensor:
            """softplus(-D(c, y * m)) + alpha sum_Z y^2 + lambda_G sum ||W||^2."""
            y = network(batch.x)
            zeros = y * unobserved(batch.x, self.reconstruction_ratio, batch.generator)
            to_zero = zeros.square().sum(dim=1, dtype=torch.float32)
            adversarial = F.softplus(-discriminator(batch.x, masked(batch, y)))
            terms = batch.weights * (adversarial + self.reconstruction_weight * to_zero)
            penalty = weight_penalty(self.l2, *generator)
            loss: Tensor = terms.mean() + batch.weights.mean() * penalty
            return loss

        D, rate_D = [*discriminator.parameters()], self.discriminator_learning_rate
        G, rate_G = [p for part in generator for p in part.parameters()], self.learning_rate
        n_D, n_G = self.n_discriminator_passes, self.n_generator_passes

        def after_epoch(averaged: UserGAN) -> None:
            averaged.keep_vectors(rows)

        return [
            Player("discriminator", D, discriminator_loss, rate_D or rate_G, n_D, rows),
            Player("generator", G, generator_loss, rate_G, n_G, rows, after_epoch=after_epoch),
        ]

    def _logits(self, network: UserGAN, x: InteractionBatch) -> Tensor:
        return network.score(network.represent(x))

    def _latent(self, network: UserGAN, x: InteractionBatch) -> Tensor:
        return network.represent(x)


class UserGAN(nn.Module):
    """Generator and discriminator of the rows of users; ``ItemGAN`` has the rows of items.

    Parameters
    ----------
    length : int
        Length of the rows.
    n_components : int
    generator_layer_sizes, discriminator_layer_sizes : sequence of int
    """

    def __init__(
        self,
        length: int,
        n_components: int,
        generator_layer_sizes: Sequence[int],
        discriminator_layer_sizes: Sequence[int],
    ) -> None:
        super().__init__()
        self.encoder = Encoder(length, generator_layer_sizes, n_components, nn.Sigmoid)
        self.decoder = Decoder(n_components, (), length)
        self.discriminator = Discriminator(length, discriminator_layer_sizes)

    def code(self, c: InteractionBatch) -> Tensor:
        """Compute the last hidden layer h of the generator, shape (n_rows, n_components)."""
        return torch.sigmoid(self.encoder(c))

    def forward(self, c: InteractionBatch) -> Tensor:
        """Generate y, shape (n_rows, length)."""
        y: Tensor = self.decoder(self.code(c))
        return y

    def training_rows(self, x: InteractionBatch) -> InteractionBatch:
        """Return the rows c that both players are trained on."""
        return x

    def keep_vectors(self, rows: InteractionBatch) -> None:
        """Store what ``represent`` needs from the training rows: nothing in user mode."""

    def represent(self, x: InteractionBatch) -> Tensor:
        """Return the latent vectors of users, shape (n_users, n_components)."""
        return self.code(x)

    def score(self, users: Tensor) -> Tensor:
        """Score all items for the latent vectors of users, shape (n_users, n_items)."""
        scores: Tensor = self.decoder(users)
        return scores

    def item_vectors(self) -> Tensor:
        """Return the vectors that score the items, shape (n_items, n_components)."""
        return self.decoder.logits.weight.detach().T


class ItemGAN(UserGAN, SelfInitialized):
    """Generator and discriminator of the rows of items; users are folded in by least squares.

    Parameters
    ----------
    n_users, n_items, n_components : int
    generator_layer_sizes, discriminator_layer_sizes : sequence of int
    unobserved_weight, fold_in_l2 : float
        a and mu of the least squares problems.
    """

    vectors: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_components: int,
        generator_layer_sizes: Sequence[int],
        discriminator_layer_sizes: Sequence[int],
        unobserved_weight: float,
        fold_in_l2: float,
    ) -> None:
        super().__init__(n_users, n_components, generator_layer_sizes, discriminator_layer_sizes)
        self.unobserved_weight = unobserved_weight
        self.fold_in_l2 = fold_in_l2
        self.register_buffer("vectors", torch.zeros(n_items, n_components))

    def initialize(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Store the h_i of the initial parameters."""
        self.keep_vectors(self.training_rows(x))

    def training_rows(self, x: InteractionBatch) -> InteractionBatch:
        """Return the rows of the items."""
        return x.transposed()

    @torch.no_grad()
    def keep_vectors(self, rows: InteractionBatch) -> None:
        """Store the h_i of all items."""
        self.vectors.copy_(self.code(rows))

    def represent(self, x: InteractionBatch) -> Tensor:
        """Fold users in: compute w, shape (n_users, n_components).

        w minimises sum_S (w . h_i - 1)^2 + a sum_not_S (w . h_i)^2 + mu s ||w||^2.
        """
        H = self.vectors
        identity = torch.eye(H.shape[1], dtype=torch.float32, device=H.device)
        axes, Q = principal_axes(identity, H)  # as ``solve`` requires
        x = replace_entries(x, items=x.items.long())
        weight = x.values - self.unobserved_weight
        ridge = self.fold_in_l2 * H.square().sum(dim=1).mean().expand(x.n_users, 1)
        fixed = FixedFactors.from_factors(Q)
        problem = LeastSquares(x, fixed, weight, self.unobserved_weight, ridge)
        return problem.solve() @ axes.T

    def score(self, users: Tensor) -> Tensor:
        """Compute w . h_i, shape (n_users, n_items)."""
        return users @ self.vectors.T

    def item_vectors(self) -> Tensor:
        """Return the h_i, shape (n_items, n_components)."""
        return self.vectors


class Discriminator(nn.Module):
    """Rows and vectors -> one logit per row, positive if the vector is classified as real."""

    def __init__(self, length: int, layer_sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = Encoder(2 * length, layer_sizes, 1, nn.Sigmoid)

    def forward(self, c: InteractionBatch, v: InteractionBatch | Tensor) -> Tensor:
        """Map rows c and vectors v, which are sparse or dense, to logits of shape (n_rows,)."""
        first = self.layers.first
        of_c, of_v = first.weight.chunk(2)
        # A dense v has the type of the large products of the generator.
        product = v @ of_v.to(v.values.dtype if isinstance(v, InteractionBatch) else v.dtype)
        logits: Tensor = self.layers.rest(c @ of_c + product.float() + first.bias)
        return logits.squeeze(1)


def unobserved(x: InteractionBatch, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw a random share of the entries without interaction, bool of shape (n_rows, n_items)."""
    shape = x.n_users, x.n_items
    device = x.values.device
    chosen = torch.rand(shape, dtype=torch.float32, device=device, generator=generator) < ratio
    chosen.index_put_((x.users, x.items), chosen.new_zeros(()))
    return chosen
