r"""Likelihoods of a user's items.

A likelihood is an exponential family in the scores :math:`\eta` of the items,

.. math:: \log p(x | \eta) = \sum_i x_i \eta_i - A(\eta), \qquad
          \nabla_\eta \log p(x | \eta) = x - \nabla A(\eta),

so it is defined by its log-normaliser :math:`A` and by the gradient :math:`\nabla A`, which is the
expected row. A custom likelihood is a subclass of :class:`ItemLikelihood` with these two functions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from sklearn.utils._param_validation import StrOptions
from torch import Tensor
from torch.nn import functional as F

from .._batch import InteractionBatch
from .._threads import in_threads, one_thread
from . import _poisson_binomial as poisson_binomial
from ._cache_blocks import by_block, cached_blocks, reduction_dtype
from ._layers import FactoredLogits

__all__ = [
    "Bernoulli",
    "ItemLikelihood",
    "LikelihoodLike",
    "Multinomial",
    "NChooseK",
    "likelihood_class",
]


class ItemLikelihood(ABC):
    r"""Distribution of a user's row of interactions, given the scores of all items.

    It is an exponential family in the scores :math:`\eta`,

    .. math:: \log p(x | \eta) = \sum_i x_i \eta_i - A(\eta), \qquad
              \nabla_\eta \log p(x | \eta) = x - \nabla A(\eta).

    A subclass defines two static methods: ``log_normalizer`` computes :math:`A`, and ``mean``
    computes :math:`\nabla A`, which is the expected row. A recommender takes the subclass itself as
    its parameter ``likelihood``.

    Parameters
    ----------
    logits : Tensor of shape (n_users, n_items) or FactoredLogits, float32 or bfloat16
        Scores of the items, or the factors that a decoder's method ``factored`` returns.
        Reductions over the items are computed in float32 or a wider type.

    Attributes
    ----------
    takes_values : bool, default=False
        Whether the entries of x may be other positive numbers than 1, so that recommenders with
        ``use_values=True`` accept the likelihood. N is then the sum of the entries.
    has_parts : bool, default=True
        Whether ``log_normalizer`` may get the items in parts. If True, factors are multiplied out
        for one part of the items at a time. A subclass whose A needs all items at once sets it to
        False.

    Notes
    -----
    On a CPU several threads call ``mean`` at the same time, each for other rows and items. So it
    must not change any state. Inside it torch uses one thread.
    """

    takes_values: ClassVar[bool] = False
    has_parts: ClassVar[bool] = True

    def __init__(self, logits: Tensor | FactoredLogits) -> None:
        self.logits = logits

    def log_prob(self, x: InteractionBatch) -> Tensor:
        """Compute the log-likelihood of each row, summed over the items.

        Terms that do not depend on the logits are left out.

        Parameters
        ----------
        x : InteractionBatch
            The users' rows.

        Returns
        -------
        log_prob : Tensor of shape (n_users,), float32
        """
        log_prob: Tensor
        if isinstance(self.logits, Tensor):
            log_prob = _LogProb.apply(self.logits, x, type(self))  # type: ignore[no-untyped-call]
        else:
            log_prob = _FactoredLogProb.apply(*self.logits, x, type(self))  # type: ignore[no-untyped-call]
        return log_prob

    @staticmethod
    @abstractmethod
    def log_normalizer(parts: Iterable[Tensor], n: Tensor) -> tuple[Tensor, Tensor]:
        """Compute A of each row, and a tensor that ``mean`` gets.

        Parameters
        ----------
        parts : iterable of Tensor of shape (n_rows, n_items of the part)
            Logits of one part of the items after another, of any floating-point type. If
            ``has_parts`` is False, there is one part with all items.
        n : Tensor of shape (n_rows, 1)
            Number of interactions of each row: the sum of its entries.

        Returns
        -------
        A : Tensor of shape (n_rows, 1)
        saved : Tensor of shape (n_rows, ...)
            Values that ``mean`` needs.
        """

    @staticmethod
    @abstractmethod
    def mean(logits: Tensor, n: Tensor, saved: Tensor) -> Tensor:
        """Compute the gradient of A, which is the expected row, for some rows and items.

        The result for a row and an item depends only on its logit, n and saved.

        Parameters
        ----------
        logits : Tensor of shape (n_rows, n_items), float32 or a wider type
            Logits of a block of rows and a part of the items. The method may overwrite them.
        n : Tensor of shape (n_rows, 1)
            Number of interactions of each row.
        saved : Tensor of shape (n_rows, ...)
            These rows of the tensor that ``log_normalizer`` returned.

        Returns
        -------
        mean : Tensor of shape (n_rows, n_items)
            The caller overwrites it.
        """

    @staticmethod
    def observed(x: InteractionBatch, logits: Tensor) -> Tensor:
        """Compute the terms of the stored entries, by default x_i eta_i, shape (n_entries,)."""
        return x.values * x.gather(logits).to(reduction_dtype(logits))

    @staticmethod
    def observed_slope(x: InteractionBatch, logits: Tensor) -> Tensor:
        """Compute the derivatives of these terms, by default x_i, shape (n_entries,)."""
        return x.values


class Multinomial(ItemLikelihood):
    r"""Multinomial: each of the user's N interactions is item i with probability softmax(logits)_i.

    .. math:: \log p(x | \eta, N) = \sum_i x_i \eta_i - N \log \sum_i e^{\eta_i} + \text{const}

    With weighted interactions, x holds the weights, and N is their sum.

    References
    ----------
    Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018, eq. 2.
    """

    takes_values = True

    @staticmethod
    def log_normalizer(parts: Iterable[Tensor], n: Tensor) -> tuple[Tensor, Tensor]:
        """Compute N logsumexp(logits)."""
        of_parts = [by_block(_logsumexp, logits) for logits in parts]
        logsumexp = torch.cat(of_parts, dim=1).logsumexp(dim=1, keepdim=True)
        return n * logsumexp, logsumexp

    @staticmethod
    def mean(logits: Tensor, n: Tensor, saved: Tensor) -> Tensor:
        """Compute N softmax(logits)."""
        # exp(x) for x <= 0. torch's exp takes twice the time of its sigmoid on a CPU.
        shift = 40.0 if n.dtype == torch.float64 else 20.0
        return logits.sub_(saved + shift).sigmoid_().mul_(n * math.exp(shift))


class Bernoulli(ItemLikelihood):
    r"""Bernoulli: each item is in the row with probability sigmoid(logits), independently.

    .. math:: \log p(x | \eta) = \sum_i x_i \eta_i - \sum_i \log(1 + e^{\eta_i})

    With weighted interactions, the terms of the user's items S are multiplied by the weights
    :math:`x_i`, and those of the other items are not:
    :math:`\sum_{i \in S} x_i \log \sigma(\eta_i) + \sum_{i \notin S} \log(1 - \sigma(\eta_i))`.

    References
    ----------
    Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018, eq. 4.
    """

    takes_values = True

    @staticmethod
    def log_normalizer(parts: Iterable[Tensor], n: Tensor) -> tuple[Tensor, Tensor]:
        """Sum softplus(logits) over the items."""
        of_parts = [by_block(_sum_of_softplus, logits) for logits in parts]
        return torch.stack(of_parts).sum(dim=0), n

    @staticmethod
    def mean(logits: Tensor, n: Tensor, saved: Tensor) -> Tensor:
        """Compute sigmoid(logits)."""
        return logits.sigmoid_()

    # x log sigmoid(eta) = x eta - softplus(eta) - (x - 1) softplus(eta); A has the second term.

    @staticmethod
    def observed(x: InteractionBatch, logits: Tensor) -> Tensor:
        """Compute x_i eta_i - (x_i - 1) softplus(eta_i)."""
        eta = x.gather(logits).to(reduction_dtype(logits))
        return x.values * eta - _excess(x) * F.softplus(eta)

    @staticmethod
    def observed_slope(x: InteractionBatch, logits: Tensor) -> Tensor:
        """Compute x_i - (x_i - 1) sigmoid(eta_i)."""
        eta = x.gather(logits).to(reduction_dtype(logits))
        return x.values - _excess(x) * eta.sigmoid()


class NChooseK(ItemLikelihood):
    r"""N-choose-k: a set of N items has a probability proportional to exp(its total score).

    .. math:: \log p(x | \eta, N) = \sum_i x_i \eta_i - \log e_N(e^\eta), \qquad
              e_N(e^\eta) = \sum_{|c| = N} \exp \sum_{i \in c} \eta_i

    Let each item be in a set independently, with probability :math:`p_i = \sigma(\eta_i + t)`, and
    let S be the size of the set. For any t, the set has the same distribution, given that S = N. So

    .. math:: \log e_N(e^\eta) = \sum_i \log(1 + e^{\eta_i + t}) - N t + \log P(S = N),

    which is evaluated at the t for which :math:`\sum_i p_i = N`. There :math:`\log P(S = N)` is
    computed by a saddle-point series in the cumulants of S. In rows for which this series is not
    accurate enough, it is computed as a sum over the unit circle.

    Attributes
    ----------
    tolerance : float, default=1e-3
        The series is used for rows in which its last term is below this many nats and the variance
        of S is at least 2. This last term is part of the value, but not of the gradient: the errors
        of a row's gradient, summed over the items, are below 0.2 % of N. The sum over the circle is
        used for the other rows. 0 makes all rows exact.

    Notes
    -----
    The interactions must be 0 or 1. A row of only zeros, or of only ones, has the likelihood 1. For
    N = 1 and N = 2 there are closed forms.

    References
    ----------
    Swersky et al., "Probabilistic n-choose-k models for classification and ranking", NIPS 2012.

    Daniels, "Saddlepoint approximations in statistics", Annals of Mathematical Statistics 1954.
    """

    has_parts = False
    tolerance: ClassVar[float] = 1e-3

    @classmethod
    def log_normalizer(cls, parts: Iterable[Tensor], n: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log e_N(exp(logits))."""
        (logits,) = parts
        if logits.device.type == "cpu":
            return cls._log_normalizer(logits, n)
        with one_thread():
            results = cls._log_normalizer(logits, n.cpu())
            return results[0].to(logits.device), results[1].to(logits.device)

    @classmethod
    def _log_normalizer(cls, logits: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the same with n and the results on the CPU."""
        moments = poisson_binomial.reduce_rows(poisson_binomial.concentration, logits)
        _, logsumexp, share = moments.chunk(3, dim=1)
        none, full = n == 0, n == logits.shape[1]
        # 1 - share is not accurate where one item has almost all of the softmax.
        few = ((n == 1) | (n == 2) & (share < 0.9)) & ~full
        tilted = ~(none | full | few)
        t, cumulants = poisson_binomial.tilt(logits, n, moments, tilted)
        log_p, coefficients, last_term = poisson_binomial.saddle_point(cumulants)
        inaccurate = (cumulants[:, 2:3] < 2) | (last_term.abs() >= cls.tolerance)
        rows = (tilted & inaccurate).squeeze(1).nonzero().squeeze(1)
        angles = n.new_zeros(len(n), 0)
        if len(rows):
            deviation = float(cumulants[rows, 2].max()) ** 0.5
            circle = partial(poisson_binomial.circle, n_angles=math.ceil(5 * deviation + 7))
            of_circle = poisson_binomial.reduce_rows(circle, logits, t, n, rows=rows)
            log_p[rows], of_angles = of_circle.tensor_split([1], dim=1)
            angles = n.new_zeros(len(n), of_angles.shape[1]).index_copy_(0, rows, of_angles)
        log_e, numbers = cumulants[:, :1] - n * t + log_p, torch.cat((t, coefficients), dim=1)
        log_e_of_few, numbers_of_few = poisson_binomial.few_items(n, logsumexp, share)
        log_e = torch.where(few, log_e_of_few, torch.where(none, 0, log_e))
        numbers = torch.where(few, numbers_of_few, numbers)
        # There is only one set without items, and only one with all items. With an infinite t, each
        # p is 0 or 1.
        rows = full.squeeze(1).nonzero().squeeze(1)
        if len(rows):
            log_e[rows] = poisson_binomial.reduce_rows(_sum, logits, rows=rows)
        infinite = (2 * n - logits.shape[1]) * torch.inf
        of_ends = F.pad(torch.cat((infinite, torch.ones_like(n)), dim=1), (0, 4))
        numbers = torch.where(none | full, of_ends, numbers)
        return log_e, torch.cat((numbers, angles), dim=1)

    @staticmethod
    def mean(logits: Tensor, n: Tensor, saved: Tensor) -> Tensor:
        """Compute the probability that each item is in the set."""
        return poisson_binomial.marginals(logits, saved)


LIKELIHOODS: dict[str, type[ItemLikelihood]] = {
    "multinomial": Multinomial,
    "bernoulli": Bernoulli,
    "n-choose-k": NChooseK,
}
LikelihoodLike = Annotated[str | type[ItemLikelihood], StrOptions(set(LIKELIHOODS)), type]


def likelihood_class(value: Any) -> type[ItemLikelihood]:
    """Return the class called ``value``; classes pass through.

    Parameters
    ----------
    value : {"multinomial", "bernoulli", "n-choose-k"} or class

    Returns
    -------
    likelihood : class
        Subclass of :class:`~skvaecf.neural.ItemLikelihood`.

    Raises
    ------
    ValueError
        If ``value`` is a class, but not a subclass of :class:`~skvaecf.neural.ItemLikelihood`.
    """
    likelihood = LIKELIHOODS[value] if isinstance(value, str) else value
    if not issubclass(likelihood, ItemLikelihood):
        raise ValueError(f"likelihood must be a subclass of ItemLikelihood, got {likelihood!r}.")
    return likelihood


class _LogProb(torch.autograd.Function):
    """x . logits - A(logits), with the gradient x - A'(logits) computed in place.

    Passes over the logits run over blocks of rows that stay in the processor's cache. On a CPU this
    is three times faster than passes over the whole matrix. Each thread has its own blocks. The
    gradient has the type of the logits, because the next product needs this type.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, x: InteractionBatch, likelihood: type[ItemLikelihood]
    ) -> Tensor:
        n = _counts(x, logits)
        normalizer, saved = likelihood.log_normalizer([logits], n)
        ctx.save_for_backward(logits, n, saved)
        ctx.x, ctx.likelihood = x, likelihood
        return _observed(likelihood, x, logits) - normalizer.squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, n, saved = ctx.saved_tensors
        return _gradient(ctx.likelihood, logits, ctx.x, n, saved, grad), None, None


# Number of scores that are kept from the forward to the backward pass. In bfloat16 they take
# 64 MiB. These are all scores of 500 users and 67,000 items. Further scores are computed again in
# the backward pass.
_KEPT = 2**25
# Number of sums over the items whose sum is the gradient of h: at most this many threads work on
# the backward pass.
_SUMS = 32


class _FactoredLogProb(torch.autograd.Function):
    """The same for logits h W + b, with gradients for h, W and b.

    The logits are multiplied out for one part of the items at a time. In the backward pass each
    thread computes the gradients of its own pieces of the items.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        x: InteractionBatch,
        likelihood: type[ItemLikelihood],
    ) -> Tensor:
        factored, n = FactoredLogits(h, weight, bias), _counts(x, h)
        observed, kept = torch.zeros_like(n[:, 0]), h.new_empty(len(h), 0)

        def parts() -> Iterator[Tensor]:
            nonlocal kept
            for items in _parts(h, x.n_items, likelihood):
                logits = _multiply_out(factored, items)
                observed.add_(_observed(likelihood, x.restrict_to(items), logits))
                if items.start == 0 and logits.numel() <= _KEPT:
                    kept = logits
                yield logits

        normalizer, saved = likelihood.log_normalizer(parts(), n)
        ctx.save_for_backward(h, weight, bias, n, saved, kept)
        ctx.x, ctx.likelihood = x, likelihood
        return observed - normalizer.squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, bias, n, saved, kept = ctx.saved_tensors
        factored, x = FactoredLogits(h, weight, bias), ctx.x
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)

        def grad_of_h(pieces: Sequence[slice]) -> Tensor:
            """Sum the gradient of h over some pieces of the items; set that of W and b."""
            grad_h = torch.zeros_like(h, dtype=n.dtype)
            for items in pieces:
                is_kept = items.stop <= kept.shape[1]
                logits = kept[:, items] if is_kept else factored.multiply_out(items)
                gradient = _gradient(ctx.likelihood, logits, x.restrict_to(items), n, saved, grad)
                grad_h += gradient @ weight[:, items].to(h.dtype).T
                if grad_weight is not None and grad_bias is not None:
                    grad_weight[:, items] = h.T @ gradient
                    grad_bias[items] = gradient.sum(dim=0)
            return grad_h

        pieces = list(_pieces(h, slice(0, x.n_items)))
        # Their number does not depend on the number of threads, so the roundings do not, either.
        groups = [pieces[i::_SUMS] for i in range(min(_SUMS, len(pieces)))]
        grad_h = torch.stack(in_threads(grad_of_h, groups, h.device)).sum(dim=0)
        return grad_h.to(h.dtype), grad_weight, grad_bias, None, None


def _counts(x: InteractionBatch, logits: Tensor) -> Tensor:
    """Return the number of interactions of each user, shape (n_users, 1)."""
    return x.sum(x.values).to(reduction_dtype(logits))[:, None]


def _observed(likelihood: type[ItemLikelihood], x: InteractionBatch, logits: Tensor) -> Tensor:
    """Compute the sum of the terms of the stored entries, shape (n_users,)."""
    return x.sum(likelihood.observed(x, logits))


def _excess(x: InteractionBatch) -> Tensor:
    """Return x_i - 1 for interactions, and 0 for entries of items outside of a part."""
    return torch.where(x.values > 0, x.values - 1, 0)


def _gradient(
    likelihood: type[ItemLikelihood],
    logits: Tensor,
    x: InteractionBatch,
    n: Tensor,
    saved: Tensor,
    scale: Tensor,
) -> Tensor:
    """Compute the gradient x - A'(logits), multiplied by the user's entry of ``scale``."""
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)

    def subtract_mean(b: slice) -> None:
        # A copy that `mean` may overwrite, even if the logits are float32 already.
        block = logits[b].to(n.dtype, copy=True)
        gradient[b] = likelihood.mean(block, n[b], saved[b]).mul_(-scale[b, None])

    in_threads(subtract_mean, cached_blocks(logits), logits.device)
    users = x.users
    observed = (likelihood.observed_slope(x, logits) * scale[users]).to(gradient.dtype)
    # At most one of the terms that are added to a score is not 0, so their order does not matter.
    gradient.view(-1).index_add_(0, users * x.n_items + x.items, observed)
    return gradient


def _multiply_out(factored: FactoredLogits, items: slice) -> Tensor:
    """Compute the scores of a range of items, of which each thread multiplies out some pieces."""
    h, weight, bias = factored
    scores = h.new_empty(len(h), items.stop - items.start)

    def multiply(piece: slice) -> None:
        out = scores[:, piece.start - items.start : piece.stop - items.start]
        torch.mm(h, weight[:, piece].to(h.dtype), out=out).add_(bias[piece].to(h.dtype))

    in_threads(multiply, _pieces(h, items), h.device)
    return scores


def _parts(h: Tensor, n_items: int, likelihood: type[ItemLikelihood]) -> Iterator[slice]:
    """Yield parts of the items for ``log_normalizer``: the kept scores, then four pieces at a time.

    On devices other than the CPU, a part is one piece.
    """
    width = _piece_width(h)
    first = _KEPT // max(1, len(h)) // width * width if likelihood.has_parts else n_items
    rest = width * (4 if h.device.type == "cpu" else 1)
    starts = [0] * (first > 0) + [*range(first, n_items, rest)]
    yield from (slice(a, b) for a, b in pairwise([*starts, n_items]))


def _pieces(h: Tensor, items: slice) -> Iterator[slice]:
    """Yield pieces of a range of items, each of which one thread multiplies out."""
    width = _piece_width(h)
    for start in range(items.start, items.stop, width):
        yield slice(start, min(start + width, items.stop))


def _piece_width(h: Tensor) -> int:
    """Return the number of items of a piece: about a million scores on a CPU, but at least 1,024.

    Products of narrower pieces are slow. On other devices the pieces are larger, because each of
    them costs several calls.
    """
    scores = 2**20 if h.device.type == "cpu" else 2**25
    # A power of two, because products of other widths are slower.
    return max(1024, 1 << (scores // max(1, len(h))).bit_length() >> 1)


def _logsumexp(logits: Tensor) -> Tensor:
    """Compute logsumexp by a softmax, which takes half the time of torch's logsumexp on a CPU."""
    largest = logits.amax(dim=1, keepdim=True)
    return largest - logits.softmax(dim=1).amax(dim=1, keepdim=True).log()


def _sum(logits: Tensor) -> Tensor:
    return logits.sum(dim=1, keepdim=True)


def _sum_of_softplus(logits: Tensor) -> Tensor:
    return F.softplus(logits).sum(dim=1, keepdim=True)
