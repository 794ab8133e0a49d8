"""IRGAN: a generator that picks items against a discriminator of pairs."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from .._devices import exact
from ..base import cosines
from ..interactions import InteractionBatch
from ..modules import ItemLogits, OwnStart
from ..neural import TorchRecommender
from ..objectives import ratio_accuracy
from ..training import Batch, Order, Player, by_epoch, shuffled_minibatches

POSITIVE_SHARE = 0.2  # of the generator's draws that come from the user's items
N_CANDIDATES = 5  # that a negative item of the pretraining is the best of
PRETRAINING_BATCH = 1000  # interactions per update


class IRGAN(TorchRecommender):
    r"""Minimax game of two matrix factorisations.

    Generator and discriminator score items by :math:`s(u, i) = p_u^\top q_i + b_i`, each with
    parameters of its own. The generator picks items, :math:`p_\theta(i | u) = \operatorname{
    softmax}_i s_G(u, i)`; the discriminator tells them from those that the user has, S, and
    lowers, on average over the users,

    .. math:: \sum_{i \in S} \log(1 + e^{-s_D(u, i)}) + \log(1 + e^{s_D(u, j_i)})
              + \lambda \big( 2 \|p_u\|^2 + \|q_i\|^2 + b_i^2 + \|q_{j_i}\|^2 + b_{j_i}^2 \big)

    with the :math:`j_i` drawn from :math:`\operatorname{softmax}_j s_G(u, j) / \tau`. The
    generator raises the reward that it expects,

    .. math:: J = E_{i \sim p_\theta(i | u)} \big[ R_i \big], \qquad
              R_i = 2 \sigma(s_D(u, i)) - 1,

    estimated from items drawn from :math:`0.8 \, p_\theta` + 0.2 uniform(S), by policy gradient
    with importance weights. Items are ranked by :math:`s_G`.

    Parameters
    ----------
    n_components : int, default=10
        Width of the vectors of users and items.
    temperature : float, default=0.2
        Temperature :math:`\tau` of the items that are drawn for the discriminator.
    n_pretraining_epochs : int, default=30
        Passes over the interactions in which the generator is trained by itself at first.
    l2 : float, default=0.01
        Weight :math:`\lambda` of the penalty on the vectors, per interaction: in the pretraining,
        for the discriminator, and where users are folded in.
    n_generator_steps : int, default=1
        Times in a row that the generator goes through all rows.
    n_discriminator_steps : int, default=2
        Times in a row that the discriminator goes through all rows before that.
    learning_rate : float, default=1e-3
        Step size of Adam.
    discriminator_learning_rate : float or None, default=None
        Step size of Adam for the discriminator. None takes ``learning_rate``.
    pretraining_learning_rate : float, default=0.01
        Step size of Adam in the pretraining.
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
        The trained ``generator`` and ``discriminator``.
    history_ : list of dict
        Per epoch: its number, the mean loss of each player, the share of items that the
        discriminator classified correctly, the validation NDCG@100, seconds. An epoch has
        ``n_discriminator_steps`` and ``n_generator_steps`` passes over the users.
    n_iter_ : int
        Epochs run, without those of the pretraining.
    best_iter_ : int
        Epoch whose parameters are kept, counted from 1.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    CFGAN : A generator of whole vectors of interactions.

    Notes
    -----
    The generator's loss is the estimate :math:`-\frac{1}{2|S|} \sum_k R_{i_k} \, p_\theta(i_k | u)
    / \pi(i_k)` from :math:`2 |S|` draws out of the proposal :math:`\pi`. Its gradient is that of
    REINFORCE, as :math:`\nabla p = p \nabla \log p`, and its mean is -J.

    In the pretraining the generator learns to rank by BPR: it lowers :math:`\log(1 + e^{s(u, j) -
    s(u, i)})` plus the penalty for every interaction and an item j that scores best among 5 that
    were drawn from all; those that the user has are not taken. Updates are Adam's throughout, the
    authors' are plain gradient steps.

    The user vectors learned in ``fit`` are not used for prediction. Every user is folded in: with
    the items' vectors fixed, by the vector that makes the row most likely,

    .. math:: \hat{p} = \arg\max_p \frac{1}{|S|} \sum_{i \in S} \log \operatorname{softmax}_i
              (p^\top q_i + b_i) - \lambda \|p\|^2.

    ``warm_start`` needs the number of training users to stay the same.

    References
    ----------
    Wang et al., "IRGAN: A minimax game for unifying generative and discriminative information
    retrieval models", SIGIR 2017, eq. 1 to 6 and 10.

    Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009; Zhang,
    Chen, Wang and Yu, "Optimizing top-n collaborative filtering via dynamic negative item
    sampling", SIGIR 2013, for the pretraining.

    Examples
    --------
    >>> from skvaecf import IRGAN
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = IRGAN(n_components=8, max_epochs=5, random_state=0)
    >>> model.fit(X).transform(X[:2]).shape
    (2, 8)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TorchRecommender._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "n_pretraining_epochs": [Interval(Integral, 0, None, closed="left")],
        "l2": [Interval(Real, 0, None, closed="neither")],
        "n_generator_steps": [Interval(Integral, 1, None, closed="left")],
        "n_discriminator_steps": [Interval(Integral, 1, None, closed="left")],
        "discriminator_learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "pretraining_learning_rate": [Interval(Real, 0, None, closed="neither")],
    }

    _order: ClassVar[Order] = staticmethod(by_epoch)

    def __init__(
        self,
        n_components: int = 10,
        *,
        temperature: float = 0.2,
        n_pretraining_epochs: int = 30,
        l2: float = 0.01,
        n_generator_steps: int = 1,
        n_discriminator_steps: int = 2,
        learning_rate: float = 1e-3,
        discriminator_learning_rate: float | None = None,
        pretraining_learning_rate: float = 0.01,
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
        self.temperature = temperature
        self.n_pretraining_epochs = n_pretraining_epochs
        self.l2 = l2
        self.n_generator_steps = n_generator_steps
        self.n_discriminator_steps = n_discriminator_steps
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate
        self.pretraining_learning_rate = pretraining_learning_rate
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

    def _build(self, n_users: int, n_items: int) -> nn.Module:
        shape = n_users, n_items, self.n_components
        pretraining = self.n_pretraining_epochs, self.pretraining_learning_rate, self.l2
        return nn.ModuleDict(
            {"generator": Generator(*shape, *pretraining), "discriminator": Factors(*shape)}
        )

    def _players(self, network: Any) -> list[Player]:
        picks, judge = network["generator"], network["discriminator"]

        def discriminate(batch: Batch) -> Tensor:
            """Sum softplus(-s_D(i)) + softplus(s_D(j)) + lambda (norms), j ~ softmax(s_G / tau)."""
            x = batch.x
            with torch.no_grad():
                p = torch.softmax(picks(batch.users) / self.temperature, dim=1)
                drawn = draw(p, x.users, batch.generator)
            scores = judge(batch.users)
            of_real, of_drawn = x.gather(scores), scores[x.users, drawn]
            batch.log("accuracy", ratio_accuracy(of_real, of_drawn))
            told_apart = F.softplus(-of_real) + F.softplus(of_drawn)
            users = batch.users[x.users]
            norms = judge.norms(users, x.items) + judge.norms(users, drawn)
            loss: Tensor = (told_apart + self.l2 * norms).sum() / x.n_users
            return loss

        def generate(batch: Batch) -> Tensor:
            """- E R_i, from items drawn in proportion to 0.8 p(i) + 0.2 [i in S] / |S|."""
            x = batch.x
            p = torch.softmax(picks(batch.users), dim=1)
            proposal = (1 - POSITIVE_SHARE) * p.detach()
            proposal[x.users, x.items] += POSITIVE_SHARE / x.counts[x.users].float()
            users = torch.cat((x.users, x.users))
            drawn = draw(proposal, users, batch.generator)
            with torch.no_grad():
                reward = 2 * torch.sigmoid(judge(batch.users)[users, drawn]) - 1
                weight = reward / proposal[users, drawn] / (2 * x.counts[users])
            return -(weight * p[users, drawn]).sum() / x.n_users

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
                list(picks.parameters()),
                generate,
                self.learning_rate,
                self.n_generator_steps,
            ),
        ]

    def _latent(self, network: Any, x: InteractionBatch) -> Tensor:
        return fold_in(network["generator"].items, x, self.l2)

    def _logits(self, network: Any, x: InteractionBatch) -> Tensor:
        scores: Tensor = network["generator"].items(self._latent(network, x))
        return scores

    def _similarities(self) -> Callable[[np.ndarray], Tensor]:
        return cosines(self.network_["generator"].items.weight.detach().T)


class Factors(nn.Module):
    """Vectors p of users, vectors q and biases b of items."""

    def __init__(self, n_users: int, n_items: int, n_components: int) -> None:
        super().__init__()
        self.users = nn.Parameter(torch.empty(n_users, n_components))
        self.items = ItemLogits(n_components, n_items)

    def forward(self, users: Tensor) -> Tensor:
        """Score all items for some users, float32 of shape (n_users, n_items)."""
        scores: Tensor = self.items(self.users[users])
        return scores.float()

    def norms(self, users: Tensor, items: Tensor) -> Tensor:
        """Compute |p|^2 + |q|^2 + b^2 of pairs, shape (n_pairs,)."""
        of_items = self.items.weight.square().sum(dim=0) + self.items.bias.square()
        return self.users.square().sum(dim=1)[users] + of_items[items]


class Generator(Factors, OwnStart):
    """Factors that are trained by themselves before the game.

    Parameters
    ----------
    n_users, n_items, n_components : int
    n_epochs : int
        Passes over the interactions.
    learning_rate, l2 : float
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_components: int,
        n_epochs: int,
        learning_rate: float,
        l2: float,
    ) -> None:
        super().__init__(n_users, n_items, n_components)
        self.n_epochs = n_epochs
        self.learning_rate = learning_rate
        self.l2 = l2

    def start(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Learn to rank, by BPR with dynamic negative sampling."""
        adam = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        taken = x.users * x.n_items + x.items  # ascending
        for epoch in range(self.n_epochs):
            minibatches = shuffled_minibatches(len(taken), PRETRAINING_BATCH, epoch, generator)
            for _, entries in minibatches():
                loss = self.bpr(x.users[entries], x.items[entries], taken, generator)
                torch.autograd.backward(loss)
                adam.step()
                adam.zero_grad(set_to_none=True)

    def bpr(
        self, users: Tensor, items: Tensor, taken: Tensor, generator: torch.Generator
    ) -> Tensor:
        """softplus(s(u, j) - s(u, i)) + lambda (norms), j being the best of some items."""
        n_items = len(self.items.bias)
        with torch.no_grad():
            shape = len(users), N_CANDIDATES
            candidates = torch.randint(n_items, shape, device=users.device, generator=generator)
            keys = users[:, None] * n_items + candidates
            place = torch.searchsorted(taken, keys).clamp(max=len(taken) - 1)
            scores = self.pairs(users[:, None], candidates)
            best, chosen = scores.masked_fill(taken[place] == keys, -torch.inf).max(dim=1)
            negatives = candidates.gather(1, chosen[:, None]).squeeze(1)
        margin = self.pairs(users, items) - self.pairs(users, negatives)
        norms = self.norms(users, items) + self.norms(users, negatives)
        # Nothing is learned where the user has all candidates.
        return ((F.softplus(-margin) + self.l2 * norms) * (best > -torch.inf)).mean()

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Score pairs, of the common shape of users and items."""
        products = self.users[users] * self.items.weight.T[items]
        return products.sum(dim=-1) + self.items.bias[items]


def draw(p: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a column for every entry of ``rows``, with the probabilities in that row of p.

    Parameters
    ----------
    p : Tensor of shape (n_rows, n_columns)
    rows : Tensor of shape (n,)

    Returns
    -------
    columns : Tensor of shape (n,), int64
    """
    # Whole numbers, so that all rows can be searched as one without loss of precision.
    cumulated = (p.cumsum(dim=1) * 2**30).long()
    uniform = torch.rand(len(rows), dtype=torch.float32, device=p.device, generator=generator)
    places = rows * 2**31 + (uniform * cumulated[:, -1][rows]).long()
    starts = torch.arange(len(p), device=p.device)[:, None] * 2**31
    found = torch.searchsorted((starts + cumulated).flatten(), places, right=True)
    return (found - rows * p.shape[1]).clamp(0, p.shape[1] - 1)


@torch.no_grad()
def fold_in(items: ItemLogits, x: InteractionBatch, l2: float, n_steps: int = 15) -> Tensor:
    r"""Find argmax_p mean_S log softmax(Qp + b) - l2 |p|^2 for every row, by Newton's method.

    Along a step by which the scores change in a range r, the third derivative is at most r times
    the second. The step is therefore scaled by log(1 + r) / r, which guarantees an increase and
    tends to 1 near the maximum.

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
    # Not less than the covariance's rounding error, so that its sum with the ridge has a factor.
    least = 1e-5 * Q.square().sum(dim=1).max()
    ridge = least.clamp(min=2 * l2) * torch.eye(n_components, dtype=Q.dtype, device=Q.device)
    some = (x.counts > 0)[:, None]
    # The gradient is a difference of nearly equal numbers: in double precision, unlike the step.
    dtype = exact(Q.device)
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
        # Not torch.linalg.solve, which may hang after torch.set_num_threads if these are large.
        factor = torch.linalg.cholesky(covariance + ridge)
        step = torch.cholesky_solve(gradient[..., None], factor).squeeze(2)
        change = step @ Q.T
        r = (change.amax(dim=1) - change.amin(dim=1)).clamp(min=1e-6)[:, None]
        p = p + torch.log1p(r) / r * step
    return p.float()
