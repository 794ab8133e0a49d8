"""The Poisson binomial distribution: the size S of a random set of items.

Each item is in the set with probability sigmoid(logits + t), independently of the others. This
module computes what the likelihood ``NChooseK`` needs: the t for which the mean of S is n,
log P(S = n), and the probability of each item given that S = n.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ._cache_blocks import by_block

# Cumulants 2 to 7 of a Bernoulli variable, divided by w = p (1 - p), as polynomials in r = 1 - 2p.
# Each cumulant is the derivative of the previous one with respect to the logit, where dr = -2w,
# dw = wr and 4w = 1 - r^2.
_CUMULANTS = (
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    (-0.5, 0.0, 1.5, 0.0, 0.0, 0.0),
    (0.0, -2.0, 0.0, 3.0, 0.0, 0.0),
    (1.0, 0.0, -7.5, 0.0, 7.5, 0.0),
    (0.0, 8.5, 0.0, -30.0, 0.0, 22.5),
)


def tilt(logits: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Find the t for which sum_i sigmoid(logits_i + t) = n.

    It uses Newton's method for the log-odds of the share of items, inside a bracket. Where a step
    would leave the bracket, t is set to the middle of the bracket.

    Parameters
    ----------
    logits : Tensor of shape (n_rows, n_items)
    n : Tensor of shape (n_rows, 1)

    Returns
    -------
    t : Tensor of shape (n_rows, 1)
        It is infinite for n = 0 and n = n_items.
    cumulants : Tensor of shape (n_rows, 8)
        See ``_cumulants``.
    """
    n_items, eps = logits.shape[1], torch.finfo(n.dtype).eps
    target = n.log() - (n_items - n).log()
    smallest, logsumexp, share = by_block(_concentration, logits).chunk(3, dim=1)
    # Let y_i = exp(logits_i + t). The sum of y_i / (1 + y_i) is below the sum of y_i, which gives
    # the lower bound of t. By Jensen's inequality it is at least the sum of y_i / (1 + y), where y
    # is the mean of the y_i with the weights y_i, which gives the upper bound. Where this bound
    # does not exist or is far off, the smallest logit gives another one. Rounding can put the root
    # just outside of the bounds.
    lower = n.log() - logsumexp
    upper = torch.where(n * share < 0.9, lower - torch.log1p(-n * share), target - smallest)
    t = torch.where(target.isinf(), target, torch.minimum(upper, lower + 0.7))
    lower, upper = lower - 1e-2, upper + 1e-2
    cumulants = by_block(_cumulants, logits, t)
    found = target.isinf()
    delta = torch.zeros_like(t)
    for _ in range(100):
        count, variance = cumulants[:, 1:2], cumulants[:, 2:3]
        lower, upper = torch.where(count < n, t, lower), torch.where(count > n, t, upper)
        slope = n_items * variance / (count * (n_items - count))
        step = (target - count.log() + (n_items - count).log()) / slope
        inside = (t + step >= lower) & (t + step <= upper)
        # A row that is solved up to rounding must not change any more. Its next step would be
        # noise. If this step left the bracket, t would move to the middle of the bracket, which
        # may be far away.
        solved = (count - n).abs() <= 32 * eps * n
        close = ~found & ~solved & inside & (step.abs() <= eps**0.25)
        delta = torch.where(close, step, delta)
        found = found | solved | close
        rows = (~found).squeeze(1).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        t = torch.where(found, t, torch.where(inside, t + step, (lower + upper) / 2))
        cumulants[rows] = by_block(_cumulants, logits[rows], t[rows])
    # The last step of each row needs no pass over its items, because each cumulant is the
    # derivative of the previous one with respect to t.
    moved = cumulants
    for _ in range(3):
        moved = _taylor(cumulants, delta)
        delta = torch.where(delta == 0, 0, delta + (n - moved[:, 1:2]) / moved[:, 2:3])
    return t + delta, _taylor(cumulants, delta)


def _concentration(logits: Tensor) -> Tensor:
    """Return the smallest logit, logsumexp and sum_i softmax_i^2 of each row, shape (n_rows, 3)."""
    largest = logits.amax(dim=1, keepdim=True)
    smallest = logits.amin(dim=1, keepdim=True)
    odds = logits.sub_(largest).exp_()
    total = odds.sum(dim=1, keepdim=True)
    share = torch.linalg.vector_norm(odds, dim=1, keepdim=True).div_(total).square_()
    return torch.cat((smallest, largest + total.log(), share), dim=1)


def _cumulants(logits: Tensor, t: Tensor) -> Tensor:
    """Compute the cumulants 0 to 7 of S, shape (n_rows, 8), and overwrite the logits.

    The first column, called cumulant 0, is sum_i softplus(logits_i + t). Each column is the
    derivative of the previous one with respect to t.
    """
    tilted = logits.add_(t)
    # torch's softplus takes twice the time. It is needed only if exp may overflow.
    exp_is_finite = bool((tilted.amax(dim=1) < 80).all())
    softplus = tilted.exp().log1p_() if exp_is_finite else F.softplus(tilted)
    p = tilted.sigmoid_()
    sums = [softplus.sum(dim=1), p.sum(dim=1)]
    r = torch.sub(p.new_ones(()), p, alpha=2, out=softplus)
    w = p.addcmul_(p, p, value=-1)
    moments = [w.sum(dim=1)] + [w.mul_(r).sum(dim=1) for _ in range(5)]
    matrix = torch.tensor(_CUMULANTS, dtype=p.dtype, device=p.device)
    return torch.cat((torch.stack(sums, dim=1), torch.stack(moments, dim=1) @ matrix.T), dim=1)


def _taylor(cumulants: Tensor, delta: Tensor) -> Tensor:
    """Compute the cumulants at t + delta: each cumulant is the derivative of the previous one."""
    order = torch.arange(cumulants.shape[1], dtype=delta.dtype, device=delta.device)
    terms = delta**order / (order + 1).lgamma().exp()
    moved = [(cumulants[:, j:] * terms[:, : len(order) - j]).sum(dim=1) for j in range(len(order))]
    return torch.stack(moved, dim=1)


def saddle_point(cumulants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Approximate log P(S = E S) from the cumulants k_0, ..., k_7 of S.

    Let k_ji be cumulant j of item i. If a logit changes, t changes so that E S stays the same. The
    derivative of log P with respect to logit i is therefore the sum over j of
    dlogP/dk_j (k_{j+1,i} - k_{j+1} w_i / k_2). It is w_i times a polynomial in r_i.

    Parameters
    ----------
    cumulants : Tensor of shape (n_rows, 8)

    Returns
    -------
    log_p : Tensor of shape (n_rows, 1)
    coefficients : Tensor of shape (n_rows, 6)
        Coefficients of the polynomial, from the constant term on.
    last_term : Tensor of shape (n_rows, 1)
        Last term of the series for log_p.
    """
    k2, k3, k4, k5, k6, k7 = cumulants[:, 2:].chunk(6, dim=1)
    k2 = k2.clamp(min=1e-6)
    u, a, b, c, d = 1 / k2, k3 / k2, k4 / k2, k5 / k2, k6 / k2
    second = u * (b / 8 - 5 * a**2 / 24)
    third = u**2 * (5 * a**4 / 16 - 25 * a**2 * b / 48 + 7 * a * c / 48 + b**2 / 12 - d / 48)
    log_p = -0.5 * (2 * math.pi * k2).log() + second + third
    # Derivatives with respect to k_3, ..., k_6. The derivative with respect to k_2 follows from
    # Euler's theorem, because the terms are homogeneous of the degrees -1 and -2.
    by_k3 = u**3 * (5 * a**3 / 4 - 25 * a * b / 24 + 7 * c / 48) - u**2 * 5 * a / 12
    by_k4 = u**3 * (b / 6 - 25 * a**2 / 48) + u**2 / 8
    by_k5, by_k6 = u**3 * 7 * a / 48, -(u**3) / 48
    by_k2 = -u * (0.5 + second + 2 * third) - a * by_k3 - b * by_k4 - c * by_k5 - d * by_k6
    tilt = -(by_k2 * a + by_k3 * b + by_k4 * c + by_k5 * d + by_k6 * k7 / k2)
    matrix = torch.tensor(_CUMULANTS, dtype=k2.dtype, device=k2.device)
    by = torch.cat((tilt, by_k2, by_k3, by_k4, by_k5, by_k6), dim=1)
    return log_p, by @ matrix, third


def _circle(p: Tensor, n: Tensor) -> Iterator[tuple[Tensor, complex, Tensor]]:
    """Yield the terms of P(S = n) = 1/M sum_k E exp(i a_k (S - n)), where a_k = 2 pi k / M.

    The sum over k equals P(S = n) + P(S = n + M) + P(S = n - M) + ..., so M needs only to be larger
    than the spread of S. M is odd. Otherwise one angle would be pi, where a factor can be 0.

    Parameters
    ----------
    p : Tensor of shape (n_rows, n_items)
        Probabilities of the items.
    n : Tensor of shape (n_rows, 1)

    Yields
    ------
    term : Tensor of shape (n_rows, 1), complex
        Term k. Only one of two conjugate terms is yielded, multiplied by 2. P(S = n) is the real
        part of the sum of the terms.
    turn : complex
        exp(i a_k).
    factors : Tensor of shape (n_rows, n_items), complex
        1 - p + p exp(i a_k). The caller may overwrite them.
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


def log_probability(logits: Tensor, t: Tensor, n: Tensor) -> Tensor:
    """Compute log P(S = n) by the sum over the circle, and overwrite the logits."""
    total = torch.zeros_like(n)
    for term, _, _ in _circle(logits.add_(t).sigmoid_(), n):
        total += term.real
    return total.log()


def marginals(p: Tensor, n: Tensor) -> Tensor:
    """Compute the probability that each item is in the set, given that S = n."""
    total, marginals = torch.zeros_like(n), torch.zeros_like(p)
    for term, turn, factors in _circle(p, n):
        total += term.real
        marginals += (factors.reciprocal_() * (term * turn)).real
    return marginals.mul_(p).div_(total)
