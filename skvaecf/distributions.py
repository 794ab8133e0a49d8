r"""Likelihoods of a user's items, and posteriors of a user's latent vector.

The likelihoods are exponential families in the scores :math:`\eta` of the items,

.. math:: \log p(x | \eta) = \sum_i x_i \eta_i - A(\eta), \qquad
          \nabla_\eta \log p(x | \eta) = x - \nabla A(\eta),

so each is its log-normaliser :math:`A` and the mean :math:`\nabla A` of its observations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from .interactions import InteractionBatch


class ItemLikelihood(ABC):
    """Distribution of one user's row of interactions, given the scores of all items.

    Parameters
    ----------
    logits : Tensor of shape (n_users, n_items), float32 or bfloat16
        Scores of the items. Reductions over the items are made in float32 in any case.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, x: InteractionBatch) -> Tensor:
        """Log-likelihood of each row, summed over the items, shape (n_users,), float32.

        Terms that do not depend on the logits are left out.
        """
        log_prob: Tensor = _LogProb.apply(  # type: ignore[no-untyped-call]
            self.logits, x, type(self)
        )
        return log_prob

    @staticmethod
    @abstractmethod
    def log_normalizer(logits: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """Compute A for rows with n interactions, and what ``mean`` wants to know again.

        Shapes: logits (n_rows, n_items), everything else (n_rows, 1).
        """

    @staticmethod
    @abstractmethod
    def mean(logits: Tensor, n: Tensor, known: Tensor) -> Tensor:
        """Compute the gradient of A, overwriting the logits: the expected interactions."""


class Multinomial(ItemLikelihood):
    r"""The user's N clicks fall on the items with probability softmax(logits).

    .. math:: \log p(x | \eta, N) = \sum_i x_i \eta_i - N \log \sum_i e^{\eta_i} + \text{const}

    References
    ----------
    Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018, eq. 2.
    """

    @staticmethod
    def log_normalizer(logits: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """Compute N logsumexp(logits)."""
        logsumexp = logits.logsumexp(dim=1, keepdim=True)
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
    def log_normalizer(logits: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """Sum softplus(logits) over the items."""
        return F.softplus(logits).sum(dim=1, keepdim=True), n

    @staticmethod
    def mean(logits: Tensor, n: Tensor, known: Tensor) -> Tensor:
        """Compute sigmoid(logits)."""
        return logits.sigmoid_()


LIKELIHOODS: dict[str, type[ItemLikelihood]] = {
    "multinomial": Multinomial,
    "bernoulli": Bernoulli,
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
        n = x.sum(x.values)[:, None]  # (n_users, 1)
        parts = [likelihood.log_normalizer(logits[b].float(), n[b]) for b in _blocks(logits)]
        normalizer, known = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(logits, n, known)
        ctx.x, ctx.likelihood = x, likelihood
        return x.sum(x.values * x.gather(logits).float()) - normalizer.squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, n, known = ctx.saved_tensors
        x, scale = ctx.x, grad[:, None]
        grad_logits = torch.empty_like(logits)
        for b in _blocks(logits):
            # A copy that `mean` may overwrite, also where the logits are float32 already.
            block = logits[b].to(torch.float32, copy=True)
            grad_logits[b] = ctx.likelihood.mean(block, n[b], known[b]).mul_(-scale[b])
        users = x.users
        observed = (x.values * grad[users]).to(grad_logits.dtype)
        grad_logits.index_put_((users, x.items.long()), observed, accumulate=True)
        return grad_logits, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Blocks of rows: about 2 MiB of float32 on a CPU, all rows at once elsewhere."""
    n_rows, n_items = logits.shape
    size = max(1, 2**19 // n_items) if logits.device.type == "cpu" else max(1, n_rows)
    for start in range(0, max(1, n_rows), size):
        yield slice(start, start + size)


class DiagonalNormal(Independent):  # type: ignore[type-arg]
    """Normal posterior of the latent vectors, with independent components.

    Parameters
    ----------
    loc, log_variance : Tensor of shape (n_users, n_components)
    """

    def __init__(self, loc: Tensor, log_variance: Tensor) -> None:
        scale = (0.5 * log_variance).exp()
        self.log_variance = log_variance
        super().__init__(Normal(loc, scale, validate_args=False), 1, validate_args=False)

    def rsample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw loc + scale * noise, differentiable, with noise from the generator given."""
        loc: Tensor = self.base_dist.loc
        scale: Tensor = self.base_dist.scale
        noise = torch.randn(
            (*sample_shape, *loc.shape), generator=generator, dtype=loc.dtype, device=loc.device
        )
        return loc + scale * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, summed over the components, in fewer passes than torch's own."""
        standardized = (z - self.mean) * (-0.5 * self.log_variance).exp()
        squares = torch.linalg.vecdot(standardized, standardized)
        constant = z.shape[-1] * math.log(2 * math.pi)
        log_prob: Tensor = -0.5 * (squares + self.log_variance.sum(dim=-1) + constant)
        return log_prob


class FlowPosterior:
    r"""Posterior of z = T(z_0), where z_0 is normal and T invertible.

    .. math:: \log q(z) = \log q_0(z_0) - \log |\det \partial T(z_0) / \partial z_0|

    Parameters
    ----------
    base : DiagonalNormal
        Law of z_0.
    maps : sequence of nn.Module
        The parts of T in their order. A call returns the mapped vectors and the log-determinants,
        shapes (..., n_components) and (...); ``inverse`` goes back.
    """

    def __init__(self, base: DiagonalNormal, maps: Sequence[Any]) -> None:
        self.base = base
        self.maps = maps
        self._drawn: tuple[Tensor, Tensor] | None = None

    @property
    def mean(self) -> Tensor:
        """T of the mean of z_0, which stands for the mean."""
        return self._push(self.base.mean)[0]

    def rsample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw T(z_0), differentiable."""
        z_0 = self.base.rsample(generator=generator)
        z, log_det = self._push(z_0)
        self._drawn = z, self.base.log_prob(z_0) - log_det
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density. Of the vectors drawn last it is known; others have to be mapped back."""
        if self._drawn is not None and z is self._drawn[0]:
            return self._drawn[1]
        for each in reversed(self.maps):
            z = each.inverse(z)
        return self.base.log_prob(z) - self._push(z)[1]

    def _push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(z[..., 0])
        for each in self.maps:
            z, log_det = each(z)
            total = total + log_det
        return z, total


class SemiImplicitNormal:
    r"""Posterior z ~ N(psi) of which psi = (mu, Sigma) is itself random, known by draws only.

    The density of z, an integral over psi, has no closed form. In its place stands

    .. math:: \log h_K(z) = \log \frac{1}{K + 1}
              \Bigl[q(z | \psi) + \sum_{k=1}^K q(z | \psi^{(k)})\Bigr],

    with the psi that z was drawn from and K others of the same user. Its expectation falls to
    that of the log-density as K grows, so an evidence lower bound made with it rises to the true
    one.

    Parameters
    ----------
    loc, log_variance : Tensor of shape (n_samples + K, n_users, n_components)
        Draws of psi. One z is drawn from each of the first n_samples; the other K are those to
        compare with.
    n_samples : int

    References
    ----------
    Yin and Zhou, "Semi-implicit variational inference", ICML 2018.
    """

    def __init__(self, loc: Tensor, log_variance: Tensor, n_samples: int) -> None:
        self.n_samples = n_samples
        self.own = DiagonalNormal(loc[:n_samples], log_variance[:n_samples])
        self.every = DiagonalNormal(loc[:, None], log_variance[:, None])

    def rsample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw vectors of shape (n_samples, n_users, n_components)."""
        return self.own.rsample(generator=generator)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute log h_K of what ``rsample`` has drawn, shape (n_samples, n_users)."""
        log_q = self.every.log_prob(z)  # (n_samples + K, n_samples, n_users)
        own, others = log_q.tensor_split([self.n_samples])
        own = own.diagonal().T[None]  # of the psi that each z was drawn from
        log_sum: Tensor = torch.cat([own, others]).logsumexp(dim=0)
        return log_sum - math.log(len(others) + 1)


def standard_normal(like: Tensor) -> DiagonalNormal:
    """Build the N(0, I) prior of latent vectors of the same shape."""
    return DiagonalNormal(torch.zeros_like(like), torch.zeros_like(like))
