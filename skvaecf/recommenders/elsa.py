"""ELSA: EASE with low rank, for catalogues whose items x items matrix does not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from .._batch import InteractionBatch
from .._parameters import Positive, PositiveInt
from .._top_k import as_index
from ..inspection import Explainer, products_of_entries
from ..linear._subspace import blocks_of_users, leading_subspace
from ..neural._layers import SelfInitialized
from ..neural._recommender import TorchRecommender
from ..neural._training import Batch, Player

# Numbers of a block of item vectors, which stays in the processor's cache: 1 MiB of float32.
BLOCK_ENTRIES = 2**18


class ELSA(TorchRecommender):
    r"""Linear autoencoder whose item-item weights are products of item vectors of length 1.

    It is for catalogues that are too large for :class:`~skvaecf.EASE`, up to millions of items.

    The model scores items like :class:`~skvaecf.EASE`, by an items x items matrix with a zero
    diagonal. Here this matrix is :math:`A A^\top - I`, where the rows of A have length 1. It is
    never computed: memory and time grow linearly with the number of items. Training minimises the
    mean over the users of

    .. math::

        \Big\| \frac{x}{\|x\|} - \frac{\hat x}{\|\hat x\|} \Big\|^2
        = 2 - 2 \, \frac{x^\top \hat x}{\|x\| \, \|\hat x\|},
        \qquad \hat x = A A^\top x - x,
        \qquad \|a_i\| = 1 .

    With :math:`h = A^\top x`, the sum of the vectors of the user's n items, all terms have a closed
    form without :math:`\hat x` itself:

    .. math::

        \|x\|^2 = n, \qquad
        x^\top \hat x = \|h\|^2 - n, \qquad
        \|\hat x\|^2 = h^\top (A^\top A) \, h - 2 \|h\|^2 + n .

    The ranking scores are :math:`\hat x`.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of components d of an item vector. "auto" is :math:`5 \sqrt{U}`, rounded up, for U
        training users, but at most the number of items and at most 1024.
    learning_rate : float, default=3e-3
        Learning rate of the Adam optimizer.
    learning_rate_schedule : {"constant", "linear"}, default="constant"
        Course of the learning rate. "linear" lowers it from update to update, from its value at the
        beginning to 0 after ``max_epochs`` epochs.
    batch_size : int or "auto", default="auto"
        Number of users per mini-batch. "auto" is one twentieth of the training users, but at most
        the number of items and at least 100.
    max_epochs : int, default=50
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
    n_iter_no_change : int, default=3
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
        Trained network. Its ``weight`` holds the rows of A times their ``lengths``.
    history_ : list of dict
        One dict per epoch with the keys "epoch" (counted from 1), "autoencoder_loss" (mean over the
        updates), "validation_ndcg" (NDCG@100 of the validation users, if there are any) and
        "seconds".
    n_iter_ : int
        Number of epochs that were run.
    best_iter_ : int
        Number of the epoch whose parameters are kept, counted from 1.
    n_components_ : int
        Number of components that was used.
    item_factors_ : ndarray of shape (n_items, n_components), float32
        The matrix A, computed from ``network_``.
    item_counts_ : ndarray of shape (n_items,), int64
        Number of users of each item in ``fit``: the scores of a row without interactions.
    n_features_in_ : int
        Number of items.

    See Also
    --------
    EASE : A full items x items matrix in closed form, if it fits into memory.
    SLIM : Sparse weights, which can be inspected.
    WMF : Item vectors of any length, and a least squares problem for each user.

    Notes
    -----
    An update takes :math:`O(m d + I d^2)` for I items and a mini-batch with m interactions, because
    only :math:`A^\top A` depends on all items. The paper computes :math:`\hat x` for all items. A
    fit on a CPU needs the memory of six float32 matrices of n_items x n_components, and that of the
    mini-batch.

    The rows of A are those of a weight W, divided by their lengths. W starts near the leading
    singular vectors of the normalised matrix X, so few epochs are needed; items without users start
    from random vectors. The loss does not depend on the lengths, so an update is orthogonal to the
    row on average, and the rows become longer. A step of the same size then turns a row by a
    smaller angle: this replaces the decaying learning rate of the paper.

    A mini-batch of users with one item each has no gradient, because no other item is predicted.

    References
    ----------
    Vancura, Alves, Kasalicky and Kordik, "Scalable linear shallow autoencoder for collaborative
    filtering", RecSys 2022.

    Examples
    --------
    >>> from skvaecf import ELSA
    >>> from skvaecf.datasets import make_interactions
    >>> X = make_interactions(n_users=300, n_items=40, random_state=0)
    >>> model = ELSA(n_components=8, random_state=0).fit(X)
    >>> model.recommend(X[:2], k=3).shape
    (2, 3)
    >>> model.item_factors_.shape
    (40, 8)
    """

    n_components: PositiveInt | Literal["auto"] = "auto"
    _: KW_ONLY
    learning_rate: Positive = 3e-3
    max_epochs: PositiveInt = 50
    n_iter_no_change: PositiveInt = 3

    _further_epochs: ClassVar[int] = 2  # a fit has about ten

    def _build(self, n_users: int, n_items: int) -> UnitVectors:
        return UnitVectors(n_items, self._n_components_of(n_users, n_items))

    def _n_components_of(self, n_users: int, n_items: int) -> int:
        auto = min(math.ceil(5 * math.sqrt(n_users)), n_items, 1024)
        return auto if isinstance(self.n_components, str) else self.n_components

    def _players(self, network: UnitVectors, x: InteractionBatch) -> list[Player]:
        def loss(batch: Batch) -> Tensor:
            """|| x/|x| - y/|y| ||^2 = 2 - 2 x.y / (|x| |y|) for y = h A' - x and h = x A."""
            h, gram = network.project(batch.x)
            n, squares = batch.x.counts, h.square().sum(dim=1)
            xy = squares - n
            yy = ((h @ gram) * h).sum(dim=1) - 2 * squares + n
            terms = 2 - 2 * xy / (n * yy).clamp(min=1e-6).sqrt()
            return (batch.weights * terms).mean()

        auto = max(100, min(x.n_users // 20, x.n_items))
        return [
            Player(
                "autoencoder",
                [network.weight],
                loss,
                self.learning_rate,
                batch_size=auto if self.batch_size == "auto" else None,
                after_epoch=lambda averaged: averaged.measure(),
            )
        ]

    def _start_new_items(
        self, network: UnitVectors, n_known: int, generator: torch.Generator, x: InteractionBatch
    ) -> None:
        network.start_new_items(n_known, generator, x)

    def _latent(self, network: UnitVectors, x: InteractionBatch) -> Tensor:
        return network.encode(x)

    def _logits(self, network: UnitVectors, x: InteractionBatch) -> Tensor:
        scores = (network.encode(x) @ network.weight.T).div_(network.lengths)
        return scores.index_put_((x.users, x.items.long()), -x.values, accumulate=True)

    def _explainer(self) -> Explainer:
        A = self.network_.item_vectors()

        def contribute(X: csr_array, items: np.ndarray) -> tuple[Tensor, Tensor]:
            x, numbers = InteractionBatch.from_csr(X, A.device), as_index(items, A)
            itself = x.items[:, None] == numbers[x.users]
            parts = products_of_entries(x, A[numbers], A) - itself.float()
            return parts, parts.new_zeros(items.shape)

        return contribute

    @property
    def item_factors_(self) -> np.ndarray:
        """Matrix A, computed from ``network_``."""
        factors: np.ndarray = self.network_.item_vectors().cpu().numpy()
        return factors


class UnitVectors(SelfInitialized):
    """Matrix A of item vectors of length 1: the rows of a weight, divided by their lengths.

    Parameters
    ----------
    n_items : int
    n_components : int

    Attributes
    ----------
    weight : nn.Parameter of shape (n_items, n_components)
        Vectors of any length.
    lengths : Tensor of shape (n_items,)
        Lengths of the rows of ``weight``, as of the last call of ``measure``. Training does not
        use them.
    precision : torch.dtype, default=torch.float32
        Type of the products of item vectors in training.
    """

    precision = torch.float32

    def __init__(self, n_items: int, n_components: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, n_components))
        self.register_buffer("lengths", torch.empty(n_items))
        self.lengths: Tensor

    @torch.no_grad()
    def initialize(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Start near the leading singular vectors; items without users get random vectors."""
        items = x.transposed()
        items = items.with_values(items.values * x.row_weights[items.items])
        Q = leading_subspace(x, items, self.weight.shape[1], generator)
        self.weight.mul_(1e-6).add_(Q)
        self.weight.div_(row_lengths(self.weight)[:, None])
        self.measure()

    @torch.no_grad()
    def start_new_items(
        self, n_known: int, generator: torch.Generator, x: InteractionBatch
    ) -> None:
        r"""Start the vectors of new items from a ridge regression on the vectors of the users.

        With :math:`H = X A` for the known items, the vector of a new item with the column x is
        :math:`(H^\top H + r I)^{-1} H^\top x`, divided by its length. The number r is a thousandth
        of the mean of the diagonal of :math:`H^\top H`. The mean of the vectors of the neighbours,
        :math:`H^\top x`, points to what all users share. With the length 1, however few users the
        new item has, the model would recommend it to everybody. Items without users get random
        vectors.
        """
        n_components = self.weight.shape[1]
        self.weight[n_known:] = 0
        gram = self.weight.new_zeros(n_components, n_components)
        moments = torch.zeros_like(self.weight[n_known:])
        for users in blocks_of_users(x):
            rows = x.rows(users)
            h = self.encode(rows)
            weighted = h * rows.row_weights[:, None]
            gram += h.T @ weighted
            is_new = rows.items >= n_known
            new = rows.items[is_new].long() - n_known
            moments.index_add_(0, new, weighted[rows.users[is_new]])
        gram.diagonal().add_(1e-3 * gram.trace() / n_components + 1e-6)
        vectors = torch.linalg.solve(gram, moments.T).T
        vectors = vectors / row_lengths(vectors)[:, None]
        noise = torch.empty_like(vectors).normal_(generator=generator)
        vectors = vectors + 1e-6 * noise
        self.weight[n_known:] = vectors / row_lengths(vectors)[:, None]
        self.measure()

    @torch.no_grad()
    def measure(self) -> None:
        """Compute ``lengths``."""
        self.lengths.copy_(row_lengths(self.weight))

    def encode(self, x: InteractionBatch) -> Tensor:
        """Compute h = x A by the current ``lengths``, shape (n_users, n_components)."""
        return x.with_values(x.values / self.lengths[x.items]) @ self.weight

    def project(self, x: InteractionBatch) -> tuple[Tensor, Tensor]:
        """Compute h = x A and the products A' A of the components."""
        h, gram = _Project.apply(self.weight, x, self.precision)  # type: ignore[no-untyped-call]
        return h, gram

    def item_vectors(self) -> Tensor:
        """Return the matrix A.

        Returns
        -------
        vectors : Tensor of shape (n_items, n_components)
        """
        vectors: Tensor = self.weight.detach() / self.lengths[:, None]
        return vectors


def row_lengths(weight: Tensor) -> Tensor:
    """Compute the Euclidean lengths of rows: a tiny number for zeros, NaN after an overflow."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1).clamp(min=1e-12)
    return lengths.masked_fill(lengths == torch.inf, torch.nan)


class _Project(torch.autograd.Function):
    """x A and A' A, where A holds the rows of a weight W divided by their lengths.

    One pass over W in each direction, block by block. A as a whole is never stored, and the only
    new matrix of the size of W is its gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, W: Tensor, x: InteractionBatch, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        lengths, gram = row_lengths(W), W.new_zeros(W.shape[1], W.shape[1])
        for b in _blocks(W):
            A = (W[b] / lengths[b, None]).to(dtype)
            gram += A.T @ A
        x = x.with_values(x.values / lengths[x.items])
        ctx.save_for_backward(W, lengths)
        ctx.x, ctx.dtype = x, dtype
        return x @ W, gram

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_gram: Tensor) -> tuple[Tensor, None, None]:
        # The gradient in A is x' grad_h + A (grad_gram + grad_gram'). That in W is the part of it
        # that is orthogonal to the row, divided by the length of the row.
        W, lengths = ctx.saved_tensors
        gradient = ctx.x.transposed() @ grad_h  # x holds 1 / length
        S = (grad_gram + grad_gram.T).to(ctx.dtype)
        for b in _blocks(W):
            A, g = W[b] / lengths[b, None], gradient[b]
            g += (A.to(ctx.dtype) @ S) / lengths[b, None]
            g -= A * (A * g).sum(dim=1, keepdim=True)
        return gradient, None, None


def _blocks(W: Tensor) -> Iterator[slice]:
    """Yield blocks of rows that fit into the cache of a CPU, or all rows elsewhere."""
    n_rows, n_components = W.shape
    size = max(n_components, BLOCK_ENTRIES // n_components) if W.device.type == "cpu" else n_rows
    for start in range(0, n_rows, size):
        yield slice(start, start + size)
