r"""Likelihoods of a user's items.

They are exponential families in the scores :math:`\eta` of the items,

.. math:: \log p(x | \eta) = \sum_i x_i \eta_i - A(\eta), \qquad
          \nabla_\eta \log p(x | \eta) = x - \nabla A(\eta),

so each is its log-normaliser :math:`A` and the mean :math:`\nabla A` of its observations. One of
your own is a subclass of :class:`ItemLikelihood` that gives these two, or writes ``log_prob``
itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from . import poisson_binomial
from .blocks import by_block, cached_blocks, wide
from .interactions import InteractionBatch
from .modules import FactoredLogits


class ItemLikelihood(ABC):
    """Distribution of one user's row of interactions, given the scores of all items.

    Parameters
    ----------
    logits : Tensor of shape (n_users, n_items) or FactoredLogits, float32 or bfloat16
        Scores of the items. Reductions over the items are made in float32 or wider. If
        ``has_parts``, factors are multiplied out for a part of the items at a time.

    Attributes
    ----------
    has_parts : bool
        Whether A of all items follows from reductions over parts of them.
    """

    has_parts: ClassVar[bool] = True

    def __init__(self, logits: Tensor | FactoredLogits) -> None:
        self.logits = logits

    def log_prob(self, x: InteractionBatch) -> Tensor:
        """Log-likelihood of each row, summed over the items, shape (n_users,), float32.

        Terms that do not depend on the logits are left out.
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
        """Compute A for rows with n interactions, and what ``mean`` needs of it.

        The logits come in parts, of any type, each of shape (n_rows, n_items of the part); all in
        one if not ``has_parts``. Further shapes: n and A (n_rows, 1); known (n_rows, ...).
        """

    @staticmethod
    @abstractmethod
    def mean(logits: Tensor, n: Tensor, known: Tensor) -> Tensor:
        """Compute the gradient of A, the expected interactions, for rows and items of a block.

        The logits are float32 or wider, and may be overwritten.
        """


class Multinomial(ItemLikelihood):
    r"""The user's N clicks fall on the items with probability softmax(logits).

    .. math:: \log p(x | \eta, N) = \sum_i x_i \eta_i - N \log \sum_i e^{\eta_i} + \text{const}

    References
    ----------
    Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018, eq. 2.
    """

    @staticmethod
    def log_normalizer(parts: Iterable[Tensor], n: Tensor) -> tuple[Tensor, Tensor]:
        """Compute N logsumexp(logits)."""
        of_parts = [by_block(_logsumexp, logits) for logits in parts]
        logsumexp = _logsumexp(torch.cat(of_parts, dim=1))
        return n * logsumexp, logsumexp

    @staticmethod
    def mean(logits: Tensor, n: Tensor, known: Tensor) -> Tensor:
        """Compute N softmax(logits)."""
        return logits.sub_(known).exp_().mul_(n)


class Bernoulli(ItemLikelihood):
    r"""The user clicks each item or not, independently, with probability sigmoid(logits).

    .. math:: \log p(x | \eta) = \sum_i x_i \eta_i - \sum_i \log(1 + e^{\eta_i})

    References
    ----------
    Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018, eq. 4.
    """

    @staticmethod
    def log_normalizer(parts: Iterable[Tensor], n: Tensor) -> tuple[Tensor, Tensor]:
        """Sum softplus(logits) over the items."""
        of_parts = [by_block(_sum_of_softplus, logits) for logits in parts]
        return torch.stack(of_parts).sum(dim=0), n

    @staticmethod
    def mean(logits: Tensor, n: Tensor, known: Tensor) -> Tensor:
        """Compute sigmoid(logits)."""
        return logits.sigmoid_()


class NChooseK(ItemLikelihood):
    r"""The user's N items are drawn as one of all sets of N items, by its total score.

    .. math:: \log p(x | \eta, N) = \sum_i x_i \eta_i - \log e_N(e^\eta), \qquad
              e_N(e^\eta) = \sum_{|c| = N} \exp \sum_{i \in c} \eta_i

    Independent items with probabilities :math:`p_i = \sigma(\eta_i + t)` have the same distribution
    once their number S is known to be N, whatever t is. So

    .. math:: \log e_N(e^\eta) = \sum_i \log(1 + e^{\eta_i + t}) - N t + \log P(S = N),

    which is evaluated at the t with :math:`\sum_i p_i = N`. There :math:`\log P(S = N)` is a
    saddle-point series in the cumulants of S, or, in rows where that series is too short, a sum
    over the unit circle.

    Attributes
    ----------
    tolerance : float, default=1e-3
        The series is used for rows in which its last term is below this many nats, the circle for
        the others. 0 makes all rows exact.

    Notes
    -----
    The interactions must be 0 or 1. A row of zeros, or of ones, has the likelihood 1.

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
        t, cumulants = poisson_binomial.tilt(logits, n)
        bernoulli = cumulants[:, :1] - n * t
        log_p, coefficients, last_term = poisson_binomial.saddle_point(cumulants)
        inner = (n > 0) & (n < logits.shape[1])
        series = inner & (cumulants[:, 2:3] >= 2) & (last_term.abs() < cls.tolerance)
        circle = inner & ~series
        rows = circle.squeeze(1).nonzero().squeeze(1)
        if len(rows):
            log_p[rows] = by_block(poisson_binomial.log_probability, logits[rows], t[rows], n[rows])
        # There is one set of no items, and one of all.
        ends = torch.zeros_like(n)
        rows = (n == logits.shape[1]).squeeze(1).nonzero().squeeze(1)
        ends[rows] = logits[rows].to(n.dtype).sum(dim=1, keepdim=True)
        known = torch.cat((t, circle.to(t.dtype), torch.where(series, coefficients, 0)), dim=1)
        return torch.where(inner, bernoulli + log_p, ends), known

    @staticmethod
    def mean(logits: Tensor, n: Tensor, known: Tensor) -> Tensor:
        """Compute the probability of each item to be in the set."""
        coefficients = known[:, 2:].chunk(6, dim=1)
        p = logits.add_(known[:, :1]).sigmoid_()
        rows = known[:, 1].nonzero().squeeze(1)
        marginals = poisson_binomial.marginals(p[rows], n[rows]) if len(rows) else p[rows]
        # p + w (c_0 + c_1 r + ... + c_5 r^5) by Horner's rule, see saddle_point.
        r = torch.rsub(p, 1, alpha=2)
        polynomial = (r * coefficients[5]).add_(coefficients[4])
        for coefficient in coefficients[3::-1]:
            torch.addcmul(coefficient, polynomial, r, out=polynomial)
        w = torch.addcmul(p, p, p, value=-1, out=r)
        return p.addcmul_(polynomial, w).index_copy_(0, rows, marginals)


LIKELIHOODS: dict[str, type[ItemLikelihood]] = {
    "multinomial": Multinomial,
    "bernoulli": Bernoulli,
    "n-choose-k": NChooseK,
}


def likelihood_of(value: Any) -> type[ItemLikelihood]:
    """Give the class of a name; a class of one's own is given back, or refused by a ValueError."""
    likelihood = LIKELIHOODS[value] if isinstance(value, str) else value
    if not issubclass(likelihood, ItemLikelihood):
        raise ValueError(f"likelihood must be a subclass of ItemLikelihood, got {likelihood!r}.")
    return likelihood


class _LogProb(torch.autograd.Function):
    """x . logits - A(logits), with the gradient x - A'(logits) formed in place.

    Passes over the logits go through blocks of rows that stay in the processor's cache: three
    times faster than whole-matrix passes on a CPU. The gradient has the logits' own type, ready
    for the product that follows.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, x: InteractionBatch, likelihood: type[ItemLikelihood]
    ) -> Tensor:
        n = _counts(x, logits)
        normalizer, known = likelihood.log_normalizer([logits], n)
        ctx.save_for_backward(logits, n, known)
        ctx.x, ctx.likelihood = x, likelihood
        return _observed(x, logits) - normalizer.squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, n, known = ctx.saved_tensors
        return _gradient(ctx.likelihood, logits, ctx.x, n, known, grad), None, None


# Scores that are kept from the forward to the backward pass, 64 MiB in bfloat16: all of 500 users
# and 67,000 items. Those beyond are computed again.
_KEPT = 2**25


class _FactoredLogProb(torch.autograd.Function):
    """The same for logits h W + b, a part of the items at a time, with the gradients of h, W, b."""

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
        observed, kept = torch.zeros_like(n[:, 0]), []

        def parts() -> Iterator[Tensor]:
            for items in _parts(h, x.n_items, likelihood):
                logits = factored.of(items)
                observed.add_(_observed(x.of(items), logits))
                if len(h) * items.stop <= _KEPT:
                    kept.append(logits)
                yield logits

        normalizer, known = likelihood.log_normalizer(parts(), n)
        ctx.save_for_backward(h, weight, bias, n, known, *kept)
        ctx.x, ctx.likelihood = x, likelihood
        return observed - normalizer.squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, bias, n, known, *kept = ctx.saved_tensors
        factored, x = FactoredLogits(h, weight, bias), ctx.x
        grad_h = torch.zeros_like(h, dtype=n.dtype)
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
        for i, items in enumerate(_parts(h, x.n_items, ctx.likelihood)):
            logits = kept[i] if i < len(kept) else factored.of(items)
            gradient = _gradient(ctx.likelihood, logits, x.of(items), n, known, grad)
            grad_h += gradient @ weight[:, items].to(h.dtype).T
            if grad_weight is not None and grad_bias is not None:
                grad_weight[:, items] = h.T @ gradient
                grad_bias[items] = gradient.sum(dim=0)
        return grad_h.to(h.dtype), grad_weight, grad_bias, None, None


def _counts(x: InteractionBatch, logits: Tensor) -> Tensor:
    """Give the users' numbers of interactions, shape (n_users, 1)."""
    return x.sum(x.values).to(wide(logits))[:, None]


def _observed(x: InteractionBatch, logits: Tensor) -> Tensor:
    """Compute x . logits, shape (n_users,)."""
    return x.sum(x.values * x.gather(logits).to(wide(logits)))


def _gradient(
    likelihood: type[ItemLikelihood],
    logits: Tensor,
    x: InteractionBatch,
    n: Tensor,
    known: Tensor,
    scale: Tensor,
) -> Tensor:
    """Compute the gradient x - A'(logits), times a number for each user."""
    gradient = torch.empty_like(logits)
    for b in cached_blocks(logits):
        # A copy that `mean` may overwrite, also where the logits are float32 already.
        block = logits[b].to(n.dtype, copy=True)
        gradient[b] = likelihood.mean(block, n[b], known[b]).mul_(-scale[b, None])
    users = x.users
    observed = (x.values * scale[users]).to(gradient.dtype)
    return gradient.index_put_((users, x.items.long()), observed, accumulate=True)


def _parts(h: Tensor, n_items: int, likelihood: type[ItemLikelihood]) -> Iterator[slice]:
    """Parts of the items: about 2 million scores each on a CPU, but wide enough for fast products.

    Elsewhere they are larger, as a part costs some calls.
    """
    scores = 2**21 if h.device.type == "cpu" else 2**25
    # A power of two: a ragged width costs the products time.
    width = max(1024, 1 << (scores // max(1, len(h))).bit_length() >> 1)
    if not likelihood.has_parts:
        width = n_items
    for start in range(0, n_items, width):
        yield slice(start, min(start + width, n_items))


def _logsumexp(logits: Tensor) -> Tensor:
    return logits.logsumexp(dim=1, keepdim=True)


def _sum_of_softplus(logits: Tensor) -> Tensor:
    return F.softplus(logits).sum(dim=1, keepdim=True)
