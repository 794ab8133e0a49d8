"""CFGAN: a generator of purchase vectors against a discriminator that has seen the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn import functional as F

from ..base import cosines
from ..interactions import InteractionBatch
from ..least_squares import Fixed, LeastSquares, principal_axes
from ..modules import Decoder, Encoder, OwnStart
from ..neural import TorchRecommender
from ..objectives import density_ratio_loss, ratio_accuracy, weight_penalty
from ..training import Batch, Order, Player, by_epoch


class CFGAN(TorchRecommender):
    r"""Collaborative filtering by a generative adversarial network on vectors of interactions.

    From a row c of interactions, of a user or of an item, the generator makes a vector
    :math:`\hat{y} = G(c)` of real numbers, and the discriminator tells c from
    :math:`\hat{y} \odot m`, knowing c. The mask m keeps the interactions and, by *partial
    masking*, a random share of the other entries. With :math:`\sigma^+(a) = \log(1 + e^a)` the
    discriminator lowers, on average over the rows,

    .. math:: \sigma^+(-D(c, c)) + \sigma^+(D(c, \hat{y} \odot m))
              + \lambda_D \sum_W \|W\|_F^2

    and the generator

    .. math:: \sigma^+(-D(c, \hat{y} \odot m)) + \alpha \sum_{j \in Z} \hat{y}_j^2
              + \lambda_G \sum_W \|W\|_F^2,

    where Z is another random share of the entries without interaction, which *zero
    reconstruction* pulls to 0. Items are ranked by :math:`\hat{y}`.

    Parameters
    ----------
    n_components : int, default=400
        Width of the generator's last hidden layer.
    mode : {"user", "item"}, default="user"
        Whether a row is what one user has, or who has one item. Batches and epochs are of rows.
    generator_layer_sizes : tuple of int, default=()
        Widths of the generator's sigmoid layers before the last one.
    discriminator_layer_sizes : tuple of int, default=(125,)
        Widths of the discriminator's hidden sigmoid layers; ``()`` makes it linear.
    masking_ratio : float, default=0.7
        Probability of an entry without interaction to be shown to the discriminator (partial
        masking).
    reconstruction_ratio : float, default=0.7
        Probability of an entry without interaction to be in Z (zero reconstruction).
    reconstruction_weight : float, default=0.03
        Weight :math:`\alpha` of zero reconstruction.
    l2 : float, default=5e-5
        Weight :math:`\lambda_G` of the penalty on the generator's weight matrices, per row.
    discriminator_l2 : float, default=0.0
        Weight :math:`\lambda_D` of the penalty on the discriminator's weight matrices, per row.
    n_generator_steps : int, default=2
        Times in a row that the generator goes through all rows.
    n_discriminator_steps : int, default=1
        Times in a row that the discriminator goes through all rows before that.
    fold_in_weight : float, default=0.5
        In item mode, weight of an item that the user does not have, where one that the user has
        weighs 1, when users are folded in; less than 1.
    fold_in_l2 : float, default=1.0
        In item mode, weight of the penalty on the weights of a user who is folded in, where the
        items' vectors have a mean square length of 1.
    learning_rate : float, default=3e-3
        Step size of Adam.
    discriminator_learning_rate : float or None, default=None
        Step size of Adam for the discriminator. None takes ``learning_rate``.
    batch_size : int or "auto", default="auto"
        Users per update. "auto" is a twentieth of the users, but at least 100 and at most 500, so
        that small data sets get enough updates per epoch.
    max_epochs : int, default=200
        Alternations of discriminator and generator, at most.
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
        The trained ``encoder`` and ``decoder``, which make up the generator, and
        ``discriminator``.
    history_ : list of dict
        Per epoch: its number, the mean loss of each player, the share of vectors that the
        discriminator classified correctly, the validation NDCG@100, seconds. An epoch has
        ``n_discriminator_steps`` and ``n_generator_steps`` passes over the rows.
    n_iter_ : int
        Epochs run.
    best_iter_ : int
        Epoch whose parameters are kept, counted from 1.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    IRGAN : A generator of single items.
    MultDAE : The generator's network, trained by the likelihood of its input.

    Notes
    -----
    The paper's schemes are settings of the two shares: ``masking_ratio=0`` is its CFGAN_ZR,
    ``reconstruction_weight=0`` its CFGAN_PM; both are in CFGAN_ZP, the default. Here entries are
    drawn independently of each other, so that a row's share is a mean, and anew at every pass
    over the rows. The generator's loss is the non-saturating one. Biases are not penalised.

    The authors' setting for MovieLens 100K is ``CFGAN(mode="item", l2=5e-4, learning_rate=1e-4,
    n_generator_steps=4, n_discriminator_steps=2, batch_size=32, ema_decay=0)``, but for batches of
    64 that their discriminator has. Twice the decay, ``l2=1e-3``, ranked validation items better.

    In user mode a user's row is the input. In item mode the vector of item i is
    :math:`\hat{y}_{ui} = w_u^\top h_i + b_u`, with :math:`h_i` the last hidden layer and weights
    of each user u in ``fit``, by which the paper ranks these users. Here a user, in ``fit`` or
    not, gets weights by least squares with the :math:`h_i` fixed,

    .. math:: \min_w \sum_{i \in S} (w^\top h_i - 1)^2 + a \sum_{i \notin S} (w^\top h_i)^2
              + \mu s \|w\|^2,

    a being ``fold_in_weight``, :math:`\mu` ``fold_in_l2`` and s the mean of the
    :math:`\|h_i\|^2`. They ranked held-out items better than the generator's own weights
    did. ``transform`` gives w there, and the hidden layer in user mode. Where the users of
    ``X_val`` are those of ``fit``, the validation score is high after the first epoch already and
    may need dozens more to rise above that: ``n_iter_no_change`` should be large then.

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "mode": [StrOptions({"user", "item"})],
        "generator_layer_sizes": ["array-like"],
        "discriminator_layer_sizes": ["array-like"],
        "masking_ratio": [Interval(Real, 0, 1, closed="both")],
        "reconstruction_ratio": [Interval(Real, 0, 1, closed="both")],
        "reconstruction_weight": [Interval(Real, 0, None, closed="left")],
        "l2": [Interval(Real, 0, None, closed="left")],
        "discriminator_l2": [Interval(Real, 0, None, closed="left")],
        "n_generator_steps": [Interval(Integral, 1, None, closed="left")],
        "n_discriminator_steps": [Interval(Integral, 1, None, closed="left")],
        "fold_in_weight": [Interval(Real, 0, 1, closed="neither")],
        "fold_in_l2": [Interval(Real, 0, None, closed="neither")],
        "discriminator_learning_rate": [Interval(Real, 0, None, closed="neither"), None],
    }

    _order: ClassVar[Order] = staticmethod(by_epoch)

    def __init__(
        self,
        n_components: int = 400,
        *,
        mode: str = "user",
        generator_layer_sizes: Sequence[int] = (),
        discriminator_layer_sizes: Sequence[int] = (125,),
        masking_ratio: float = 0.7,
        reconstruction_ratio: float = 0.7,
        reconstruction_weight: float = 0.03,
        l2: float = 5e-5,
        discriminator_l2: float = 0.0,
        n_generator_steps: int = 2,
        n_discriminator_steps: int = 1,
        fold_in_weight: float = 0.5,
        fold_in_l2: float = 1.0,
        learning_rate: float = 3e-3,
        discriminator_learning_rate: float | None = None,
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
        self.mode = mode
        self.generator_layer_sizes = generator_layer_sizes
        self.discriminator_layer_sizes = discriminator_layer_sizes
        self.masking_ratio = masking_ratio
        self.reconstruction_ratio = reconstruction_ratio
        self.reconstruction_weight = reconstruction_weight
        self.l2 = l2
        self.discriminator_l2 = discriminator_l2
        self.n_generator_steps = n_generator_steps
        self.n_discriminator_steps = n_discriminator_steps
        self.fold_in_weight = fold_in_weight
        self.fold_in_l2 = fold_in_l2
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate
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

    def _game_rows(self, X: csr_array) -> csr_array:
        return X.T.tocsr() if self.mode == "item" else X

    def _build(self, n_users: int, n_items: int) -> UserGAN:
        sizes = self.n_components, self.generator_layer_sizes, self.discriminator_layer_sizes
        if self.mode == "item":
            return ItemGAN(n_users, n_items, *sizes, self.fold_in_weight, self.fold_in_l2)
        return UserGAN(n_items, *sizes)

    def _players(self, network: UserGAN) -> list[Player]:
        judge = network.discriminator

        def masked(batch: Batch, y: Tensor) -> Tensor:
            """Compute y * m."""
            keep = unobserved(batch.x, self.masking_ratio, batch.generator)
            keep[batch.x.users, batch.x.items] = True
            return y * keep

        def discriminate(batch: Batch) -> Tensor:
            """softplus(-D(c, c)) + softplus(D(c, y * m)) + lambda_D sum ||W||^2."""
            with torch.no_grad():
                fake = masked(batch, network(batch.x))
            of_real, of_fake = judge(batch.x, batch.x), judge(batch.x, fake)
            batch.log("accuracy", ratio_accuracy(of_real, of_fake))
            told_apart = density_ratio_loss(of_real, of_fake)
            return told_apart + weight_penalty(self.discriminator_l2, judge)

        def generate(batch: Batch) -> Tensor:
            """softplus(-D(c, y * m)) + alpha sum_Z y^2 + lambda_G sum ||W||^2."""
            y = network(batch.x)
            zeros = y * unobserved(batch.x, self.reconstruction_ratio, batch.generator)
            to_zero = zeros.square().sum(dim=1, dtype=torch.float32)
            deceived = F.softplus(-judge(batch.x, masked(batch, y)))
            objective = (deceived + self.reconstruction_weight * to_zero).mean()
            loss: Tensor = objective + weight_penalty(self.l2, *generator)
            return loss

        generator = network.encoder, network.decoder
        return [
            Player(
                "discriminator",
                list(judge.parameters()),
                discriminate,
                self.discriminator_learning_rate or self.learning_rate,
                self.n_discriminator_steps,
            ),
            Player(
                "generator",
                [parameter for part in generator for parameter in part.parameters()],
                generate,
                self.learning_rate,
                self.n_generator_steps,
            ),
        ]

    def _settle(self, network: UserGAN, x: InteractionBatch) -> None:
        network.settle(x)

    def _logits(self, network: UserGAN, x: InteractionBatch) -> Tensor:
        return network.score(network.represent(x))

    def _latent(self, network: UserGAN, x: InteractionBatch) -> Tensor:
        return network.represent(x)

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return cosines(self.network_.item_vectors())


class UserGAN(nn.Module):
    """Generator and discriminator of vectors that users are represented by.

    Parameters
    ----------
    length : int
        Length of the vectors.
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

    def settle(self, x: InteractionBatch) -> None:
        """Take notice of the rows of the game."""

    def represent(self, x: InteractionBatch) -> Tensor:
        """Represent users by what ``score`` takes."""
        return self.code(x)

    def score(self, users: Tensor) -> Tensor:
        """Score all items, shape (n_users, n_items)."""
        scores: Tensor = self.decoder(users)
        return scores

    def item_vectors(self) -> Tensor:
        """Give the vectors that score the items, shape (n_items, n_components)."""
        return self.decoder.logits.weight.detach().T


class ItemGAN(UserGAN, OwnStart):
    """The game on the items' vectors; users are folded in by fitting weights to them.

    Parameters
    ----------
    n_users, n_items, n_components : int
    generator_layer_sizes, discriminator_layer_sizes : sequence of int
    fold_in_weight, fold_in_l2 : float
        The a and mu of the least squares problems.
    """

    codes: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_components: int,
        generator_layer_sizes: Sequence[int],
        discriminator_layer_sizes: Sequence[int],
        fold_in_weight: float,
        fold_in_l2: float,
    ) -> None:
        super().__init__(n_users, n_components, generator_layer_sizes, discriminator_layer_sizes)
        self.fold_in_weight = fold_in_weight
        self.fold_in_l2 = fold_in_l2
        self.register_buffer("codes", torch.zeros(n_items, n_components))

    def start(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Keep the h_i of the first parameters."""
        self.settle(x)

    @torch.no_grad()
    def settle(self, x: InteractionBatch) -> None:
        """Keep the h_i of all items."""
        self.codes.copy_(self.code(x))

    def represent(self, x: InteractionBatch) -> Tensor:
        """Fold users in: find w, shape (n_users, n_components).

        It minimises sum_S (w . h_i - 1)^2 + a sum_not_S (w . h_i)^2 + mu s ||w||^2.
        """
        H = self.codes
        identity = torch.eye(H.shape[1], dtype=torch.float32, device=H.device)
        axes, Q = principal_axes(identity, H)  # which ``solve`` asks for
        x = replace(x, items=x.items.long())
        weight = x.values - self.fold_in_weight
        ridge = self.fold_in_l2 * H.square().sum(dim=1).mean().expand(x.n_users, 1)
        return LeastSquares(x, Fixed.of(Q), weight, self.fold_in_weight, ridge).solve() @ axes.T

    def score(self, users: Tensor) -> Tensor:
        """Compute w . h_i, shape (n_users, n_items)."""
        return users @ self.codes.T

    def item_vectors(self) -> Tensor:
        """Give the h_i, shape (n_items, n_components)."""
        return self.codes


class Discriminator(nn.Module):
    """Rows and vectors -> a logit each, positive for what is taken as real."""

    def __init__(self, length: int, layer_sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = Encoder(2 * length, layer_sizes, 1, nn.Sigmoid)

    def forward(self, c: InteractionBatch, v: InteractionBatch | Tensor) -> Tensor:
        """Map the rows c, with vectors v that are sparse or dense, to shape (n_rows,)."""
        first = self.layers.first
        of_c, of_v = first.weight.chunk(2)
        # A dense v is of the type in which the generator makes large products.
        product = v @ of_v.to(v.values.dtype if isinstance(v, InteractionBatch) else v.dtype)
        logits: Tensor = self.layers.rest(c @ of_c + product.float() + first.bias)
        return logits.squeeze(1)


def unobserved(x: InteractionBatch, ratio: float, generator: torch.Generator) -> Tensor:
    """Choose a random share of the entries without interaction, bool of shape (n_rows, n_items)."""
    shape = x.n_users, x.n_items
    device = x.values.device
    chosen = torch.rand(shape, dtype=torch.float32, device=device, generator=generator) < ratio
    chosen[x.users, x.items] = False
    return chosen
