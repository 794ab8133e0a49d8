"""Posteriors of a user's latent vector, and the normal prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal


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

    @classmethod
    def from_layer(cls, h: Tensor) -> DiagonalNormal:
        """Read a layer: first the means, then the log-variances, which are kept in [-12, 4]."""
        loc, log_variance = h.chunk(2, dim=-1)
        return cls(loc, log_variance.clamp(-12, 4))

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
        Distribution of z_0.
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
