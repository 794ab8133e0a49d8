r"""Likelihoods of a user's items.

They are exponential families in the scores :math:`\eta` of the items,

.. math:: \log p(x | \eta) = \sum_i x_i \eta_i - A(\eta), \qquad
          \nabla_\eta \log p(x | \eta) = x - \nabla A(\eta),

so each is its log-normaliser :math:`A` and the mean :math:`\nabla A` of its observations.
"""

from __future__ import annotations

import cmath
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .interactions import InteractionBatch
from .modules import FactoredLogits


class ItemLikelihood(ABC):
    """Distribution of one user's row of interactions, given the scores of all items.

    Parameters
    ----------
    logits : Tensor of shape (n_users, n_items) or FactoredLogits, float32 or bfloat16
        Scores of the items. Reductions over the items are made in float32 in any case. Factors
        are multiplied out for a part of the items at a time, and never all held, if the law
        allows it.

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
        """Compute A for rows with n interactions, and what ``mean`` wants to know again.

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
        of_parts = [_by_block(_logsumexp, logits) for logits in parts]
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
        of_parts = [_by_block(_sum_of_softplus, logits) for logits in parts]
        return torch.stack(of_parts).sum(dim=0), n

    @staticmethod
    def mean(logits: Tensor, n: Tensor, known: Tensor) -> Tensor:
        """Compute sigmoid(logits)."""
        return logits.sigmoid_()


class NChooseK(ItemLikelihood):
    r"""The user's N items are drawn as one of all sets of N items, by its total score.

    .. math:: \log p(x | \eta, N) = \sum_i x_i \eta_i - \log e_N(e^\eta), \qquad
              e_N(e^\eta) = \sum_{|c| = N} \exp \sum_{i \in c} \eta_i

    Independent items with probabilities :math:`p_i = \sigma(\eta_i + t)` have the same law once
    their number S is known to be N, whatever t is. So

    .. math:: \log e_N(e^\eta) = \sum_i \log(1 + e^{\eta_i + t}) - N t + \log P(S = N),

    which is evaluated at the t with :math:`\sum_i p_i = N`. There :math:`\log P(S = N)` is a
    saddle-point series in the cumulants of S, or, in rows where that series is too short, a sum
    over the unit circle.

    Attributes
    ----------
    tolerance : float, default=1e-3
        Rows with a last term of the series below this many nats are left to the series. 0 makes
        all rows exact.

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
        t, cumulants = _tilt(logits, n)
        bernoulli = cumulants[:, :1] - n * t
        log_p, coefficients, last_term = _saddle_point(cumulants)
        inner = (n > 0) & (n < logits.shape[1])
        series = inner & (cumulants[:, 2:3] >= 2) & (last_term.abs() < cls.tolerance)
        circle = inner & ~series
        rows = circle.squeeze(1).nonzero().squeeze(1)
        if len(rows):
            log_p[rows] = _by_block(_log_probability_of_count, logits[rows], t[rows], n[rows])
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
        marginals = _marginals(p[rows], n[rows]) if len(rows) else p[rows]
        # p + w (c_0 + c_1 r + ... + c_5 r^5) by Horner's rule, see _saddle_point.
        r = torch.rsub(p, 1, alpha=2)
        polynomial = (r * coefficients[5]).add_(coefficients[4])
        for coefficient in coefficients[3::-1]:
            torch.addcmul(coefficient, polynomial, r, out=polynomial)
        w = torch.addcmul(p, p, p, value=-1, out=r)
        return p.addcmul_(polynomial, w).index_copy_(0, rows, marginals)


# Cumulants 2 to 7 of a Bernoulli variable, over w = p (1 - p): polynomials in r = 1 - 2p. Each is
# the derivative of the one before with respect to the logit, where dr = -2w, dw = wr, 4w = 1 - r^2.
_CUMULANTS = (
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    (-0.5, 0.0, 1.5, 0.0, 0.0, 0.0),
    (0.0, -2.0, 0.0, 3.0, 0.0, 0.0),
    (1.0, 0.0, -7.5, 0.0, 7.5, 0.0),
    (0.0, 8.5, 0.0, -30.0, 0.0, 22.5),
)


def _tilt(logits: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Find the t with sum_i sigmoid(logits_i + t) = n; infinite for n = 0 and n = n_items.

    Newton's method on the log-odds of the share of items, inside a bracket that is halved where a
    step would leave it.

    Returns
    -------
    t : Tensor of shape (n_rows, 1)
    cumulants : Tensor of shape (n_rows, 8)
        See ``_cumulants``.
    """
    n_items, eps = logits.shape[1], torch.finfo(n.dtype).eps
    target = n.log() - (n_items - n).log()
    smallest, logsumexp, share = _by_block(_concentration, logits).chunk(3, dim=1)
    # exp(x) / (1 + exp(x)) is below exp(x), and summed over the items it is, by Jensen, above what
    # it is if all items in the sum of exp(x) are of their mean size. Rounding can put the root
    # just outside of these bounds.
    lower = n.log() - logsumexp
    upper = torch.where(n * share < 0.9, lower - torch.log1p(-n * share), target - smallest)
    t = torch.where(target.isinf(), target, torch.minimum(upper, lower + 0.7))
    lower, upper = lower - 1e-2, upper + 1e-2
    cumulants = _by_block(_cumulants, logits, t)
    found = target.isinf()
    delta = torch.zeros_like(t)
    for _ in range(100):
        count, variance = cumulants[:, 1:2], cumulants[:, 2:3]
        lower, upper = torch.where(count < n, t, lower), torch.where(count > n, t, upper)
        slope = n_items * variance / (count * (n_items - count))
        step = (target - count.log() + (n_items - count).log()) / slope
        inside = (t + step >= lower) & (t + step <= upper)
        # A row that is solved but for rounding must rest: its next step is noise, may leave the
        # bracket, and the halving would then take it far away.
        solved = (count - n).abs() <= 32 * eps * n
        close = ~found & ~solved & inside & (step.abs() <= eps**0.25)
        delta = torch.where(close, step, delta)
        found = found | solved | close
        rows = (~found).squeeze(1).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        t = torch.where(found, t, torch.where(inside, t + step, (lower + upper) / 2))
        cumulants[rows] = _by_block(_cumulants, logits[rows], t[rows])
    # The last step of each row needs no pass over its items: the cumulants are derivatives of one
    # another with respect to t.
    moved = cumulants
    for _ in range(3):
        moved = _taylor(cumulants, delta)
        delta = torch.where(delta == 0, 0, delta + (n - moved[:, 1:2]) / moved[:, 2:3])
    return t + delta, _taylor(cumulants, delta)


def _concentration(logits: Tensor) -> Tensor:
    """Give the smallest logit, logsumexp, and sum_i softmax_i^2, shape (n_rows, 3)."""
    largest = logits.amax(dim=1, keepdim=True)
    smallest = logits.amin(dim=1, keepdim=True)
    odds = logits.sub_(largest).exp_()
    total = odds.sum(dim=1, keepdim=True)
    share = torch.linalg.vector_norm(odds, dim=1, keepdim=True).div_(total).square_()
    return torch.cat((smallest, largest + total.log(), share), dim=1)


def _cumulants(logits: Tensor, t: Tensor) -> Tensor:
    """Sum the cumulants of items there with probability sigmoid(logits_i + t), shape (n_rows, 8).

    In front, as that of order 0, stands sum_i softplus(logits_i + t): with respect to t each is
    the derivative of the one before.
    """
    tilted = logits.add_(t)
    # torch's softplus takes twice the time, as it need not for scores that exp can bear.
    bearable = bool((tilted.amax(dim=1) < 80).all())
    softplus = tilted.exp().log1p_() if bearable else F.softplus(tilted)
    p = tilted.sigmoid_()
    sums = [softplus.sum(dim=1), p.sum(dim=1)]
    r = torch.sub(p.new_ones(()), p, alpha=2, out=softplus)
    w = p.addcmul_(p, p, value=-1)
    moments = [w.sum(dim=1)] + [w.mul_(r).sum(dim=1) for _ in range(5)]
    matrix = torch.tensor(_CUMULANTS, dtype=p.dtype, device=p.device)
    return torch.cat((torch.stack(sums, dim=1), torch.stack(moments, dim=1) @ matrix.T), dim=1)


def _taylor(cumulants: Tensor, delta: Tensor) -> Tensor:
    """Move t by delta: each cumulant is the derivative of the one before."""
    order = torch.arange(cumulants.shape[1], dtype=delta.dtype, device=delta.device)
    terms = delta**order / (order + 1).lgamma().exp()
    moved = [(cumulants[:, j:] * terms[:, : len(order) - j]).sum(dim=1) for j in range(len(order))]
    return torch.stack(moved, dim=1)


def _saddle_point(cumulants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Approximate log P(S = E S), where S counts items, from its cumulants k_0, ..., k_7.

    With the cumulants k_ji of item i, the gradient with respect to the logits, E S being held by
    the tilt, is the sum over j of dlogP/dk_j (k_{j+1,i} - k_{j+1} w_i / k_2): w_i times a
    polynomial in r_i.

    Returns
    -------
    log_p : Tensor of shape (n_rows, 1)
    coefficients : Tensor of shape (n_rows, 6)
        Of the polynomial, from the constant on.
    last_term : Tensor of shape (n_rows, 1)
        Of the series for log_p.
    """
    k2, k3, k4, k5, k6, k7 = cumulants[:, 2:].chunk(6, dim=1)
    k2 = k2.clamp(min=1e-6)
    u, a, b, c, d = 1 / k2, k3 / k2, k4 / k2, k5 / k2, k6 / k2
    second = u * (b / 8 - 5 * a**2 / 24)
    third = u**2 * (5 * a**4 / 16 - 25 * a**2 * b / 48 + 7 * a * c / 48 + b**2 / 12 - d / 48)
    log_p = -0.5 * (2 * math.pi * k2).log() + second + third
    # Derivatives with respect to k_3, ..., k_6. That for k_2 follows from Euler's theorem: the
    # terms are homogeneous, of the degrees -1 and -2.
    by_k3 = u**3 * (5 * a**3 / 4 - 25 * a * b / 24 + 7 * c / 48) - u**2 * 5 * a / 12
    by_k4 = u**3 * (b / 6 - 25 * a**2 / 48) + u**2 / 8
    by_k5, by_k6 = u**3 * 7 * a / 48, -(u**3) / 48
    by_k2 = -u * (0.5 + second + 2 * third) - a * by_k3 - b * by_k4 - c * by_k5 - d * by_k6
    tilt = -(by_k2 * a + by_k3 * b + by_k4 * c + by_k5 * d + by_k6 * k7 / k2)
    matrix = torch.tensor(_CUMULANTS, dtype=k2.dtype, device=k2.device)
    by = torch.cat((tilt, by_k2, by_k3, by_k4, by_k5, by_k6), dim=1)
    return log_p, by @ matrix, third


def _circle(p: Tensor, n: Tensor) -> Iterator[tuple[Tensor, complex, Tensor]]:
    """Sum P(S = n) = 1/M sum_k E exp(i a_k (S - n)) over the angles a_k = 2 pi k / M, exactly.

    More exactly the sum is that of P(S = n), P(S = n + M), P(S = n - M) ..., so it needs an M
    beyond the spread of S only. M is odd, so that no angle is pi, where a factor can vanish.

    Yields
    ------
    term : Tensor of shape (n_rows, 1), complex
        Term k; of a pair of conjugate terms one is given, twice. The sum is their real part.
    turn : complex
        exp(i a_k)
    factors : Tensor of shape (n_rows, n_items), complex
        1 - p + p exp(i a_k), to be overwritten.
    """
    half = math.ceil(5 * float((p - p * p).sum(dim=1).max()) ** 0.5 + 6) if len(p) else 0
    angle = 2 * math.pi / (2 * half + 1)
    complex_p = torch.complex(p, torch.zeros_like(p))
    one = complex_p.new_ones(())
    factors = torch.empty_like(complex_p)
    for k in range(half + 1):
        turn = cmath.rect(1, angle * k)
        torch.add(one, complex_p, alpha=turn - 1, out=factors)
        weight = torch.full_like(n, (1 if k == 0 else 2) / (2 * half + 1))
        back = torch.polar(weight, -angle * (n * k % (2 * half + 1)))
        yield factors.prod(dim=1, keepdim=True) * back, turn, factors


def _log_probability_of_count(logits: Tensor, t: Tensor, n: Tensor) -> Tensor:
    """Compute log P(S = n), where S counts items there with probability sigmoid(logits + t)."""
    total = torch.zeros_like(n)
    for term, _, _ in _circle(logits.add_(t).sigmoid_(), n):
        total += term.real
    return total.log()


def _marginals(p: Tensor, n: Tensor) -> Tensor:
    """Compute the probability of each item to be there, given that S = n."""
    total, marginals = torch.zeros_like(n), torch.zeros_like(p)
    for term, turn, factors in _circle(p, n):
        total += term.real
        marginals += (factors.reciprocal_() * (term * turn)).real
    return marginals.mul_(p).div_(total)


LIKELIHOODS: dict[str, type[ItemLikelihood]] = {
    "multinomial": Multinomial,
    "bernoulli": Bernoulli,
    "n-choose-k": NChooseK,
}


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
    return x.sum(x.values).to(_wide(logits))[:, None]


def _observed(x: InteractionBatch, logits: Tensor) -> Tensor:
    """Compute x . logits, shape (n_users,)."""
    return x.sum(x.values * x.gather(logits).to(_wide(logits)))


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
    for b in _blocks(logits):
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


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Blocks of rows: about 1 MiB of float32 on a CPU, all rows at once elsewhere."""
    n_rows, n_items = logits.shape
    size = max(1, 2**18 // n_items) if logits.device.type == "cpu" else max(1, n_rows)
    for start in range(0, max(1, n_rows), size):
        yield slice(start, start + size)


def _wide(logits: Tensor) -> torch.dtype:
    """Give the type that reductions over the items are made in."""
    return torch.promote_types(logits.dtype, torch.float32)


def _by_block(function: Callable[..., Tensor], logits: Tensor, *columns: Tensor) -> Tensor:
    """Apply a reduction over the items to blocks of the rows, copies that it may overwrite.

    The columns hold a number for each row.
    """
    parts = [
        function(logits[b].to(_wide(logits), copy=True), *(column[b] for column in columns))
        for b in _blocks(logits)
    ]
    return torch.cat(parts)


def _logsumexp(logits: Tensor) -> Tensor:
    return logits.logsumexp(dim=1, keepdim=True)


def _sum_of_softplus(logits: Tensor) -> Tensor:
    return F.softplus(logits).sum(dim=1, keepdim=True)
