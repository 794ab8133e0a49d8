"""IRGAN: a generator that draws items, trained with a discriminator of user-item pairs."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._batch import InteractionBatch
from .._devices import widest_float_dtype
from .._parameters import NonNegativeInt, Positive, PositiveInt
from ..neural._layers import ItemLogits
from ..neural._objectives import ratio_accuracy
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Order, Player, by_epoch

POSITIVE_SHARE = 0.2  # share of the generator's draws that come from the user's items
N_CANDIDATES = 5  # items drawn in the pretraining; the best one is the negative item
PRETRAINING_BATCH = 1000  # interactions per mini-batch


class IRGAN(TorchRecommender):
    r"""Minimax game of two matrix factorisations (IRGAN).

    It is for comparison with its paper.

    The generator G and the discriminator D score items by :math:`s(u, i) = p_u^\top q_i + b_i`.
    Each of them has its own parameters. The generator draws items with the probabilities
    :math:`p_\theta(i | u) = \operatorname{softmax}_i s_G(u, i)`. The discriminator learns to
    distinguish these items from the user's items S. It minimises, on average over the users,

    .. math:: \sum_{i \in S} \log(1 + e^{-s_D(u, i)}) + \log(1 + e^{s_D(u, j_i)})
              + \lambda \big( 2 \|p_u\|^2 + \|q_i\|^2 + b_i^2 + \|q_{j_i}\|^2 + b_{j_i}^2 \big)

    where the items :math:`j_i` are drawn from :math:`\operatorname{softmax}_j s_G(u, j) / \tau`.
    The generator maximises the expected reward,

    .. math:: J = E_{i \sim p_\theta(i | u)} \big[ R_i \big], \qquad
              R_i = 2 \sigma(s_D(u, i)) - 1,

    by a policy gradient with importance weights. The estimate uses items that are drawn from
    :math:`0.8 \, p_\theta` + 0.2 uniform(S). The ranking scores are :math:`s_G`.

    Parameters
    ----------
    n_components : int, default=10
        Number of components of the vectors of users and items.
    temperature : float, default=0.2
        Temperature :math:`\tau` of the distribution from which the items :math:`j_i` are drawn.
    n_pretraining_epochs : int, default=30
        Passes over the interactions in the pretraining of the generator, before the first epoch. 0
        leaves the pretraining out.
    l2 : float, default=0.01
        Weight :math:`\lambda` of the squared norms of the vectors and biases, per interaction. It
        applies to the pretraining, to the discriminator and to the fold-in of users.
    n_generator_passes : int, default=1
        Passes of the generator over the rows in each epoch.
    n_discriminator_passes : int, default=2
        Passes of the discriminator over the rows in each epoch, before those of the generator.
    learning_rate : float, default=1e-3
        Learning rate of the Adam optimizer.
    learning_rate_schedule : {"constant", "linear"}, default="constant"
        Course of the learning rate. "linear" lowers it from update to update, from its value at the
        beginning to 0 after ``max_epochs`` epochs.
    discriminator_learning_rate : float or None, default=None
        Learning rate of the Adam optimizer for the discriminator. With None it is
        ``learning_rate``.
    pretraining_learning_rate : float, default=0.01
        Learning rate of the Adam optimizer in the pretraining.
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
        Trained network with the parts ``generator`` and ``discriminator``.
    history_ : list of dict
        One dict per epoch with the keys "epoch" (counted from 1), "discriminator_loss",
        "discriminator_accuracy" (share of the items that the discriminator classifies correctly),
        "generator_loss", "validation_ndcg" (NDCG@100 of the validation users, if there are any) and
        "seconds".
    n_iter_ : int
        Number of epochs that were run, without the passes of the pretraining.
    best_iter_ : int
        Number of the epoch whose parameters are kept, counted from 1.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    CFGAN : The generator computes whole vectors of interactions.
    WMF : A matrix factorisation with one loss.

    Notes
    -----
    The loss of the generator is the estimate
    :math:`-\frac{1}{2|S|} \sum_k R_{i_k} \, p_\theta(i_k | u) / \pi(i_k)` from :math:`2 |S|` items
    :math:`i_k` that are drawn from the proposal distribution :math:`\pi`. Its gradient is that of
    REINFORCE, because :math:`\nabla p = p \nabla \log p`. Its expectation is -J.

    In the pretraining the generator learns to rank by BPR. For every interaction it minimises
    :math:`\log(1 + e^{s(u, j) - s(u, i)})` plus the penalty. The item j has the highest score among
    5 items that are drawn from all items, without those that the user has. All updates are those of
    Adam; the authors make plain gradient steps.

    The user vectors learned in ``fit`` are not used for prediction. Every user is folded in: with
    the items' vectors fixed, the vector of the user is

    .. math:: \hat{p} = \arg\max_p \frac{1}{|S|} \sum_{i \in S} \log \operatorname{softmax}_i
              (p^\top q_i + b_i) - \lambda \|p\|^2.

    ``warm_start`` needs the same number of training users as in the previous fit. The pretraining
    is then not repeated.

    References
    ----------
    Wang et al., "IRGAN: A minimax game for unifying generative and discriminative information
    retrieval models", SIGIR 2017, eq. 1 to 6 and 10.

    Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009
    (pretraining).

    Zhang, Chen, Wang and Yu, "Optimizing top-n collaborative filtering via dynamic negative item
    sampling", SIGIR 2013 (pretraining).

    Examples
    --------
    >>> from skvaecf import IRGAN
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = IRGAN(n_components=8, max_epochs=5, random_state=0)
    >>> model.fit(X).transform(X[:2]).shape
    (2, 8)
    """

    n_components: PositiveInt = 10
    _: KW_ONLY
    temperature: Positive = 0.2
    n_pretraining_epochs: NonNegativeInt = 30
    l2: Positive = 0.01
    n_generator_passes: PositiveInt = 1
    n_discriminator_passes: PositiveInt = 2
    discriminator_learning_rate: Positive | None = None
    pretraining_learning_rate: Positive = 0.01

    _order: ClassVar[Order] = staticmethod(by_epoch)

    _takes_further_users: ClassVar[bool] = False

    def _build(self, n_users: int, n_items: int) -> MinimaxGame:
        return MinimaxGame(*(Factors(n_users, n_items, self.n_components) for _ in range(2)))

    def _players(self, network: MinimaxGame, x: InteractionBatch) -> list[Player]:
        generator, discriminator = network.generator, network.discriminator
        taken = x.users * x.n_items + x.items  # ascending: one number per interaction

        def pretraining_loss(batch: Batch) -> Tensor:
            """softplus(s(u, j) - s(u, i)) + lambda (norms), where j is the best of some items."""
            users, items = x.users[batch.users], batch.x.items
            j, some = best_negative(generator, users, taken, batch.generator)
            margin = generator.pairs(users, items) - generator.pairs(users, j)
            norms = generator.norms(users, items) + generator.norms(users, j)
            # The loss is 0 if the user has all candidates.
            return (batch.weights * (F.softplus(-margin) + self.l2 * norms) * some).mean()

        def discriminator_loss(batch: Batch) -> Tensor:
            """Sum softplus(-s_D(i)) + softplus(s_D(j)) + lambda (norms), j ~ softmax(s_G / tau)."""
            x = batch.x
            with torch.no_grad():
                p = torch.softmax(generator(batch.users) / self.temperature, dim=1)
                drawn = draw(p, x.users, batch.generator)
            scores = discriminator(batch.users)
            of_real, of_drawn = x.gather(scores), scores[x.users, drawn]
            batch.log("accuracy", ratio_accuracy(of_real, of_drawn))
            ratio_loss = F.softplus(-of_real) + F.softplus(of_drawn)
            users = batch.users[x.users]
            norms = discriminator.norms(users, x.items) + discriminator.norms(users, drawn)
            pairs = batch.weights[x.users] * (ratio_loss + self.l2 * norms)
            loss: Tensor = pairs.sum() / x.n_users
            return loss

        def generator_loss(batch: Batch) -> Tensor:
            """- E R_i, from items drawn in proportion to 0.8 p(i) + 0.2 [i in S] / |S|."""
            x = batch.x
            p = torch.softmax(generator(batch.users), dim=1)
            proposal = (1 - POSITIVE_SHARE) * p.detach()
            proposal[x.users, x.items] += POSITIVE_SHARE / x.counts[x.users].float()
            users = torch.cat((x.users, x.users))
            drawn = draw(proposal, users, batch.generator)
            with torch.no_grad():
                reward = 2 * torch.sigmoid(discriminator(batch.users)[users, drawn]) - 1
                weight = reward / proposal[users, drawn] / (2 * x.counts[users])
            return -(batch.weights[users] * weight * p[users, drawn]).sum() / x.n_users

        D, rate_D = [*discriminator.parameters()], self.discriminator_learning_rate
        G, rate_G = [*generator.parameters()], self.learning_rate
        n_D, n_G = self.n_discriminator_passes, self.n_generator_passes
        first = Player(
            "pretraining",
            G,
            pretraining_loss,
            self.pretraining_learning_rate,
            self.n_pretraining_epochs,
            rows=x.entries(),
            batch_size=PRETRAINING_BATCH,
            moves_first=True,
        )
        return [
            Player("discriminator", D, discriminator_loss, rate_D or rate_G, n_D),
            Player("generator", G, generator_loss, rate_G, n_G),
            *([first] if self.n_pretraining_epochs else []),
        ]

    def _latent(self, network: MinimaxGame, x: InteractionBatch) -> Tensor:
        return fold_in(network.generator.items, x, self.l2)

    def _logits(self, network: MinimaxGame, x: InteractionBatch) -> Tensor:
        scores: Tensor = network.generator.items(self._latent(network, x))
        return scores


class Factors(nn.Module):
    """Vectors p of the users, vectors q and biases b of the items."""

    def __init__(self, n_users: int, n_items: int, n_components: int) -> None:
        super().__init__()
        self.users = nn.Parameter(torch.empty(n_users, n_components))
        self.items = ItemLogits(n_components, n_items)

    def forward(self, users: Tensor) -> Tensor:
        """Score all items for some users, float32 of shape (n_users, n_items)."""
        scores: Tensor = self.items(self.users[users])
        return scores.float()

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Score pairs of users and items, whose shapes are broadcast."""
        products = self.users[users] * self.items.weight.T[items]
        return products.sum(dim=-1) + self.items.bias[items]

    def norms(self, users: Tensor, items: Tensor) -> Tensor:
        """Compute |p|^2 + |q|^2 + b^2 of pairs, shape (n_pairs,)."""
        of_items = self.items.weight.square().sum(dim=0) + self.items.bias.square()
        return self.users.square().sum(dim=1)[users] + of_items[items]


class MinimaxGame(nn.Module):
    """Network with the factors of the generator and of the discriminator."""

    def __init__(self, generator: Factors, discriminator: Factors) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator

    def item_vectors(self) -> Tensor:
        """Return the generator's vectors of the items, shape (n_items, n_components)."""
        return self.generator.items.weight.detach().T


@torch.no_grad()
def best_negative(
    factors: Factors, users: Tensor, taken: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw some items for each user and return the best one that the user does not have.

    Parameters
    ----------
    factors : Factors
    users : Tensor of shape (n,)
    taken : Tensor of shape (n_interactions,), ascending
        Numbers ``user * n_items + item`` of all interactions.
    generator : torch.Generator

    Returns
    -------
    items : Tensor of shape (n,)
    some : Tensor of shape (n,), bool
        False if the user has all the items that were drawn.
    """
    n_items = len(factors.items.bias)
    shape = len(users), N_CANDIDATES
    candidates = torch.randint(n_items, shape, device=users.device, generator=generator)
    keys = users[:, None] * n_items + candidates
    place = torch.searchsorted(taken, keys).clamp(max=len(taken) - 1)
    scores = factors.pairs(users[:, None], candidates)
    best, chosen = scores.masked_fill(taken[place] == keys, -torch.inf).max(dim=1)
    return candidates.gather(1, chosen[:, None]).squeeze(1), best > -torch.inf


def draw(p: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one column for each entry of ``rows``, with the probabilities in this row of p.

    Parameters
    ----------
    p : Tensor of shape (n_rows, n_columns)
    rows : Tensor of shape (n,)

    Returns
    -------
    columns : Tensor of shape (n,), int64
    """
    # Integers, so that one search covers all rows without loss of precision.
    cumulated = (p.cumsum(dim=1) * 2**30).long()
    uniform = torch.rand(len(rows), dtype=torch.float32, device=p.device, generator=generator)
    places = rows * 2**31 + (uniform * cumulated[:, -1][rows]).long()
    starts = torch.arange(len(p), device=p.device)[:, None] * 2**31
    found = torch.searchsorted((starts + cumulated).flatten(), places, right=True)
    return (found - rows * p.shape[1]).clamp(0, p.shape[1] - 1)


@torch.no_grad()
def fold_in(items: ItemLogits, x: InteractionBatch, l2: float, n_steps: int = 15) -> Tensor:
    r"""Compute argmax_p mean_S log softmax(Qp + b) - l2 |p|^2 for every row, by Newton's method.

    Let r be the range of the changes of the scores in a step. Along the step, the third derivative
    is at most r times the second. The step is therefore multiplied by log(1 + r) / r. This
    guarantees that the objective increases. The factor tends to 1 near the maximum.

    Parameters
    ----------
    items : ItemLogits
        Q and b.
    x : InteractionBatch
    l2 : float
    n_steps : int, default=15

    Returns
    -------
    p : Tensor of shape (n_rows, n_components)
        0 for rows without interactions.
    """
    Q = items.weight.T.contiguous()  # (n_items, n_components)
    n_components = Q.shape[1]
    outer = (Q[:, :, None] * Q[:, None, :]).flatten(1)
    # At least the rounding error of the covariance, so that a Cholesky factor exists.
    least = 1e-5 * Q.square().sum(dim=1).max()
    ridge = least.clamp(min=2 * l2) * torch.eye(n_components, dtype=Q.dtype, device=Q.device)
    some = (x.counts > 0)[:, None]
    # Only the gradient needs double precision: it is a difference of nearly equal numbers.
    dtype = widest_float_dtype(Q.device)
    exact_Q, bias = Q.to(dtype), items.bias.to(dtype)
    observed = (x @ Q).to(dtype) / x.counts.clamp(min=1)[:, None]
    p = torch.zeros_like(observed)
    for _ in range(n_steps):
        probability = torch.softmax(p @ exact_Q.T + bias, dim=1)
        expected = probability @ exact_Q
        gradient = torch.where(some, observed - expected - 2 * l2 * p, 0).float()
        covariance = (probability.float() @ outer).view(-1, n_components, n_components)
        mean = expected.float()
        covariance -= mean[:, :, None] * mean[:, None, :]
        # Not torch.linalg.solve: with large systems it may hang after torch.set_num_threads.
        factor = torch.linalg.cholesky(covariance + ridge)
        step = torch.cholesky_solve(gradient[..., None], factor).squeeze(2)
        change = step @ Q.T
        r = (change.amax(dim=1) - change.amin(dim=1)).clamp(min=1e-6)[:, None]
        p = p + torch.log1p(r) / r * step
    return p.float()
