"""The Poisson binomial distribution: the size S of a random set of items.

Each item is in the set with probability p = sigmoid(logit + t), independently of the others. This
module computes what the likelihood ``NChooseK`` needs: log e_n, which is the sum of softplus(logit
+ t) over the items, minus n t, plus log P(S = n), and the probability of each item given that
S = n. The t may be any number. There are three ways, and all of them have one result: numbers of
each row from which ``marginals`` computes the probabilities item by item.

The numbers of the rows are kept on the CPU, also if the scores are on a GPU: work on so few numbers
takes a GPU longer to start than a CPU to do.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ._cache_blocks import by_block

# Cumulants 2 to 5 of a Bernoulli variable, divided by p, as polynomials in p. Each cumulant is the
# derivative of the previous one with respect to the logit, where dp = p (1 - p).
_OF_ITEM = (
    (1.0, -1.0, 0.0, 0.0, 0.0),
    (1.0, -3.0, 2.0, 0.0, 0.0),
    (1.0, -7.0, 12.0, -6.0, 0.0),
    (1.0, -15.0, 50.0, -60.0, 24.0),
)
# Cumulants 2 to 6 as combinations of w, w p, w^2, w^2 p and w^3, where w = p (1 - p).
_OF_MOMENTS = (
    (1.0, 0.0, 0.0, 0.0, 0.0),
    (1.0, -2.0, 0.0, 0.0, 0.0),
    (1.0, 0.0, -6.0, 0.0, 0.0),
    (1.0, -2.0, -12.0, 24.0, 0.0),
    (1.0, 0.0, -30.0, 0.0, 120.0),
)


def concentration(logits: Tensor) -> Tensor:
    """Compute the smallest logit, logsumexp and sum_i softmax_i^2, shape (n_rows, 3)."""
    largest, smallest = logits.amax(dim=1, keepdim=True), logits.amin(dim=1, keepdim=True)
    # torch's logsumexp takes twice the time of its softmax.
    softmax = torch.softmax(logits, dim=1)
    logsumexp = largest - softmax.amax(dim=1, keepdim=True).log()
    share = torch.linalg.vector_norm(softmax, dim=1, keepdim=True).square()
    return torch.cat((smallest, logsumexp, share), dim=1)


def reduce_rows(
    function: Callable[..., Tensor], logits: Tensor, *columns: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Apply a reduction over the items like ``by_block``, to scores on any device.

    The other arguments and the result are on the CPU. If ``rows`` are all rows, they are not
    copied.
    """
    rows = None if rows is None or len(rows) == len(logits) else rows.to(logits.device)
    moved = (column.to(logits.device) for column in columns)
    return by_block(function, logits, *moved, rows=rows).cpu()


def few_items(n: Tensor, logsumexp: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Compute log e_n for n = 1 and n = 2, and the numbers for ``marginals``.

    Let y be the softmax of the logits, and t so low that p = y / s, with a large s. Then e_1 and
    e_2 are exp(n logsumexp) times 1 and (1 - sum_i y_i^2) / 2. The probability of an item is y for
    n = 1 and 2 y (1 - y) / (1 - sum_i y_i^2) for n = 2.

    Parameters
    ----------
    n, logsumexp, share : Tensor of shape (n_rows, 1)
        ``share`` is sum_i y_i^2.

    Returns
    -------
    log_e : Tensor of shape (n_rows, 1)
    numbers : Tensor of shape (n_rows, 6)
    """
    shift = 40.0 if n.dtype == torch.float64 else 20.0
    two = n > 1
    others = torch.where(two, 1 - share, 1)
    log_e = n * logsumexp + torch.where(two, (others / 2).log(), 0)
    constant = math.exp(shift) * n / others
    linear = torch.where(two, -math.exp(shift) * constant, 0)
    rest = torch.zeros_like(n).expand(-1, 3)
    return log_e, torch.cat((-logsumexp - shift, constant, linear, rest), dim=1)


def tilt(logits: Tensor, n: Tensor, moments: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Find the t for which the mean of S is n.

    It uses Newton's method for the log-odds of the share of items, inside a bracket. Where a step
    would leave the bracket, t is set to the middle of the bracket. The last step is made by a
    Taylor series, from all cumulants. The others need only the mean and the variance of S.

    Parameters
    ----------
    logits : Tensor of shape (n_rows, n_items)
        On any device. The other arguments and the results are on the CPU.
    n : Tensor of shape (n_rows, 1)
    moments : Tensor of shape (n_rows, 3)
        See ``concentration``.
    wanted : Tensor of shape (n_rows, 1), bool
        Rows whose t is computed. In them n is neither 0 nor n_items.

    Returns
    -------
    t : Tensor of shape (n_rows, 1)
    cumulants : Tensor of shape (n_rows, 7)
        See ``_cumulants``. They are ones in the rows that are not wanted.
    """
    n_items, eps = logits.shape[1], torch.finfo(n.dtype).eps
    target = n.log() - (n_items - n).log()
    smallest, logsumexp, share = moments.chunk(3, dim=1)
    # Let y_i = exp(logits_i + t). The sum of y_i / (1 + y_i) is below the sum of y_i, which gives
    # the lower bound of t. By Jensen's inequality it is at least the sum of y_i / (1 + y), where y
    # is the mean of the y_i with the weights y_i, which gives the upper bound. Where this bound
    # does not exist or is far off, the smallest logit gives another one. Rounding can put the root
    # just outside of the bounds.
    lower = n.log() - logsumexp
    upper = torch.where(n * share < 0.9, lower - torch.log1p(-n * share), target - smallest)
    # After a last step d, the Taylor series has an error of about n d^6 / 720 in the mean.
    last = (720 * eps) ** (1 / 6)
    near = upper - lower <= last
    t = torch.where(wanted, torch.minimum(upper, lower + 0.7), 0)
    lower, upper = lower - 1e-2, upper + 1e-2
    cumulants = torch.ones_like(n).repeat(1, 7)
    rows = wanted.squeeze(1).nonzero().squeeze(1)
    for _ in range(100):
        far = rows[~near[rows, 0]]
        if len(far):
            mean, variance = reduce_rows(_mean_and_variance, logits, t, rows=far).chunk(2, dim=1)
            goal, at = n[far], t[far]
            low = torch.where(mean < goal, at, lower[far])
            high = torch.where(mean > goal, at, upper[far])
            slope = n_items * variance / (mean * (n_items - mean))
            step = (target[far] - mean.log() + (n_items - mean).log()) / slope
            inside = (at + step >= low) & (at + step <= high)
            # The next step of a row that is solved up to rounding would be noise. A row with NaN
            # needs no further step, either.
            solved = ~((mean - goal).abs() > 32 * eps * goal)
            # A step d leaves an error of about d^2 / 2.
            near[far] = solved | inside & (step.abs() <= (2 * last) ** 0.5)
            moved = torch.where(inside, at + step, (low + high) / 2)
            t[far] = torch.where(solved, at, moved)
            lower[far], upper[far] = low, high
        elif len(rows):
            cumulants[rows] = of = reduce_rows(_cumulants, logits, t, rows=rows)
            accepted = torch.maximum(last * of[:, 2:3], 32 * eps * n[rows])
            near[rows] = ~((of[:, 1:2] - n[rows]).abs() > accepted)
            rows = rows[~near[rows, 0]]
        else:
            break
    delta, moved = torch.zeros_like(t), cumulants
    for _ in range(3):
        delta = delta + torch.where(wanted, (n - moved[:, 1:2]) / moved[:, 2:3], 0)
        delta = delta.clamp(-last, last)
        moved = _taylor(cumulants, delta)
    return t + delta, moved


def _mean_and_variance(logits: Tensor, t: Tensor) -> Tensor:
    """Compute the mean and the variance of S, shape (n_rows, 2), and overwrite the logits."""
    p = logits.add_(t).sigmoid_()
    mean = p.sum(dim=1, keepdim=True)
    variance = mean - torch.linalg.vector_norm(p, dim=1, keepdim=True).square()
    # It is a difference, whose sign may be wrong if all p are near 0 or 1.
    return torch.cat((mean, variance.maximum(torch.finfo(p.dtype).eps * mean)), dim=1)


def _cumulants(logits: Tensor, t: Tensor) -> Tensor:
    """Compute the cumulants 0 to 6 of S, shape (n_rows, 7), and overwrite the logits.

    The first column, called cumulant 0, is sum_i softplus(logits_i + t). Each column is the
    derivative of the previous one with respect to t.
    """
    # Three buffers are reused: more of them would not stay in the cache.
    tilted, q, buffer = logits.add_(t), torch.empty_like(logits), torch.empty_like(logits)
    # softplus(x) = max(x, 0) - log(1 - v), where v is the smaller one of p and 1 - p.
    softplus = torch.clamp(tilted, min=0, out=buffer).sum(dim=1)
    p = tilted.sigmoid_()
    torch.sub(p.new_ones(()), p, out=q)
    softplus -= _log_of_product(torch.minimum(p, q, out=buffer))
    sums = [softplus, p.sum(dim=1)]
    w = q.mul_(p)
    moments = [
        w.sum(dim=1),
        torch.mul(w, p, out=buffer).sum(dim=1),
        torch.mul(w, w, out=p).sum(dim=1),
        buffer.mul_(w).sum(dim=1),
        p.mul_(w).sum(dim=1),
    ]
    matrix = torch.tensor(_OF_MOMENTS, dtype=w.dtype, device=w.device)
    return torch.cat((torch.stack(sums, dim=1), torch.stack(moments, dim=1) @ matrix.T), dim=1)


def _log_of_product(v: Tensor) -> Tensor:
    """Compute sum_i log(1 - v_i) for v in [0, 1/2], shape (n_rows,), and overwrite v.

    A logarithm takes ten times the time of a product, so it is taken of products of eight.
    """
    for _ in range(3):
        half = (v.shape[1] + 1) // 2
        a, b = v[:, : v.shape[1] - half], v[:, half:]
        # 1 - (1 - a) (1 - b), which is exact for small a and b.
        a.add_(torch.addcmul(b, a, b, value=-1))
        v = v[:, :half]
    return v.neg().log1p_().sum(dim=1)


def _taylor(cumulants: Tensor, delta: Tensor) -> Tensor:
    """Compute the cumulants at t + delta: each cumulant is the derivative of the previous one."""
    order = torch.arange(7, dtype=delta.dtype, device=delta.device)
    terms = delta**order / delta.new_tensor([1, 1, 2, 6, 24, 120, 720])
    later = F.pad(cumulants, (0, 6)).unfold(1, 7, 1)  # cumulant j + m at [row, j, m]
    return (later * terms[:, None]).sum(dim=2)


def saddle_point(cumulants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Approximate log P(S = E S) from the cumulants k_0, ..., k_6 of S.

    Let k_ji be cumulant j of item i. If a logit changes, t changes so that E S stays the same. The
    derivative of log P with respect to logit i is therefore the sum over j of
    dlogP/dk_j (k_{j+1,i} - k_{j+1} w_i / k_2). The probability of an item is p_i plus this
    derivative, which is p_i times a polynomial in p_i. The last term of the series is left out of
    it.

    Parameters
    ----------
    cumulants : Tensor of shape (n_rows, 7)

    Returns
    -------
    log_p : Tensor of shape (n_rows, 1)
    coefficients : Tensor of shape (n_rows, 5)
        Coefficients of the polynomial, from the constant term on.
    last_term : Tensor of shape (n_rows, 1)
        Last term of the series for log_p.
    """
    k2, k3, k4, k5, k6 = cumulants[:, 2:].chunk(5, dim=1)
    k2 = k2.clamp(min=1e-6)
    u, a, b, c, d = 1 / k2, k3 / k2, k4 / k2, k5 / k2, k6 / k2
    second = u * (b / 8 - 5 * a**2 / 24)
    third = u**2 * (5 * a**4 / 16 - 25 * a**2 * b / 48 + 7 * a * c / 48 + b**2 / 12 - d / 48)
    log_p = -0.5 * (2 * math.pi * k2).log() + second + third
    # Derivatives of the first two terms with respect to k_3 and k_4. The derivative with respect to
    # k_2 follows from Euler's theorem, because the second term is homogeneous of degree -1.
    by_k3, by_k4 = -(u**2) * 5 * a / 12, u**2 / 8
    by_k2 = -u * (0.5 + second) - a * by_k3 - b * by_k4
    by_w = -(by_k2 * a + by_k3 * b + by_k4 * c)
    matrix = torch.tensor(_OF_ITEM, dtype=k2.dtype, device=k2.device)
    coefficients = torch.cat((by_w, by_k2, by_k3, by_k4), dim=1) @ matrix
    coefficients[:, 0] += 1
    return log_p, coefficients, third


def circle(logits: Tensor, t: Tensor, n: Tensor, n_angles: int) -> Tensor:
    """Compute log P(S = n) by a sum over the unit circle, and overwrite the logits.

    P(S = n) = 1/M sum_k E exp(i a_k (S - n)), where a_k = 2 pi k / M. The sum over k equals
    P(S = n) + P(S = n + M) + P(S = n - M) + ..., so M needs only to be larger than the spread of S.
    M is odd. Otherwise one angle would be pi, where a factor can be 0. Terms k and M - k are
    conjugate, so only the first (M + 1) / 2 are computed.

    Parameters
    ----------
    logits : Tensor of shape (n_rows, n_items)
    t, n : Tensor of shape (n_rows, 1)
    n_angles : int
        (M + 1) / 2.

    Returns
    -------
    numbers : Tensor of shape (n_rows, 1 + 3 n_angles)
        log P(S = n), and three numbers of each angle. The probability of an item is p times the sum
        over the angles of (first + second p) / (1 - third p (1 - p)).
    """
    p = logits.add_(t).sigmoid_()
    complex_p = torch.complex(p, torch.zeros_like(p))
    one, factors = complex_p.new_ones(()), torch.empty_like(complex_p)
    M, terms, turns = 2 * n_angles - 1, [], []
    for k in range(n_angles):
        turn = cmath.rect(1, 2 * math.pi * k / M)
        torch.add(one, complex_p, alpha=turn - 1, out=factors)  # E exp(i a_k) of each item
        weight = torch.full_like(n, (1 if k == 0 else 2) / M)
        back = torch.polar(weight, -2 * math.pi / M * (n * k % M))
        terms.append(factors.prod(dim=1, keepdim=True) * back)
        turns.append(turn)
    term, at = torch.cat(terms, dim=1), torch.tensor(turns, dtype=factors.dtype, device=p.device)
    total = term.real.sum(dim=1, keepdim=True)
    # The derivative of term k is term turn / factor, and 1 / factor = conj(factor) / |factor|^2.
    by = term * at / total
    versine = (1 - at.real).expand_as(by.real)
    numbers = torch.stack((by.real, by.imag * at.imag - by.real * versine, 2 * versine), dim=2)
    return torch.cat((total.log(), numbers.flatten(1)), dim=1)


def marginals(logits: Tensor, numbers: Tensor) -> Tensor:
    """Compute the probability of each item given that S = n, and overwrite the logits.

    Parameters
    ----------
    logits : Tensor of shape (n_rows, n_items)
    numbers : Tensor of shape (n_rows, 6 + 3 n_angles)
        t, the five coefficients of a polynomial in p, and the numbers of ``circle``, which are
        zeros in rows that do not need them.
    """
    t, *coefficients = numbers[:, :6].chunk(6, dim=1)
    p = logits.add_(t).sigmoid_()
    polynomial = (p * coefficients[4]).add_(coefficients[3])  # by Horner's rule
    for coefficient in coefficients[2::-1]:
        torch.addcmul(coefficient, polynomial, p, out=polynomial)
    if numbers.shape[1] > 6:
        rows, n_angles = numbers[:, 6].nonzero().squeeze(1), (numbers.shape[1] - 6) // 3
        own = p[rows]
        sums, w, one = torch.zeros_like(own), own - own * own, own.new_ones(())
        for first, second, third in numbers[rows, 6:].T[:, :, None].chunk(n_angles):
            sums.addcdiv_(torch.addcmul(first, second, own), torch.addcmul(one, third, w, value=-1))
        polynomial[rows] = sums
    return polynomial.mul_(p)
