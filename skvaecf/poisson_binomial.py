"""The distribution of the number S of items, when each is there with a probability of its own.

The items have the probabilities sigmoid(logits + t), independently. What :class:`NChooseK` asks of
it: the t at which S is n on average, log P(S = n), and who is there if S is n.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import by_block

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


def tilt(logits: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
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
    smallest, logsumexp, share = by_block(_concentration, logits).chunk(3, dim=1)
    # exp(x) / (1 + exp(x)) is below exp(x), and summed over the items it is, by Jensen, above what
    # it is if all items in the sum of exp(x) are of their mean size. Rounding can put the root
    # just outside of these bounds.
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
        cumulants[rows] = by_block(_cumulants, logits[rows], t[rows])
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


def saddle_point(cumulants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


def log_probability(logits: Tensor, t: Tensor, n: Tensor) -> Tensor:
    """Compute log P(S = n), where S counts items there with probability sigmoid(logits + t)."""
    total = torch.zeros_like(n)
    for term, _, _ in _circle(logits.add_(t).sigmoid_(), n):
        total += term.real
    return total.log()


def marginals(p: Tensor, n: Tensor) -> Tensor:
    """Compute the probability of each item to be there, given that S = n."""
    total, marginals = torch.zeros_like(n), torch.zeros_like(p)
    for term, turn, factors in _circle(p, n):
        total += term.real
        marginals += (factors.reciprocal_() * (term * turn)).real
    return marginals.mul_(p).div_(total)
