"""Posteriors of the latent vectors, and the standard normal prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

__all__ = ["DiagonalNormal", "FlowPosterior", "SemiImplicitNormal", "standard_normal"]


class DiagonalNormal(Independent):  # type: ignore[type-arg]
    """Normal distributions of latent vectors with independent components.

    Parameters
    ----------
    loc : Tensor of shape (..., n_components)
        Means.
    log_variance : Tensor of shape (..., n_components)
        Logarithms of the variances.
    """

    def __init__(self, loc: Tensor, log_variance: Tensor) -> None:
        scale = (0.5 * log_variance).exp()
        self.log_variance = log_variance
        super().__init__(Normal(loc, scale, validate_args=False), 1, validate_args=False)

    @classmethod
    def from_layer(cls, h: Tensor) -> DiagonalNormal:
        """Return the distributions whose parameters are the output of a layer.

        Parameters
        ----------
        h : Tensor of shape (..., 2 * n_components)
            The means, followed by the log-variances, which are clamped to [-12, 4].

        Returns
        -------
        normal : DiagonalNormal
        """
        loc, log_variance = h.chunk(2, dim=-1)
        return cls(loc, log_variance.clamp(-12, 4))

    def rsample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``loc + scale * noise``, with a gradient for the parameters.

        Parameters
        ----------
        sample_shape : tuple of int, default=()
            Leading dimensions of the sample.
        generator : torch.Generator or None, default=None
            Source of the noise. None uses the global generator of torch.

        Returns
        -------
        z : Tensor of shape sample_shape + (..., n_components)
        """
        loc: Tensor = self.base_dist.loc
        scale: Tensor = self.base_dist.scale
        noise = torch.randn(
            (*sample_shape, *loc.shape), generator=generator, dtype=loc.dtype, device=loc.device
        )
        return loc + scale * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute the log-density, summed over the components.

        It makes fewer passes over the data than torch's own method.

        Parameters
        ----------
        z : Tensor of shape (..., n_components)

        Returns
        -------
        log_prob : Tensor of shape (...,)
        """
        standardized = (z - self.mean) * (-0.5 * self.log_variance).exp()
        squares = torch.linalg.vecdot(standardized, standardized)
        constant = z.shape[-1] * math.log(2 * math.pi)
        log_prob: Tensor = -0.5 * (squares + self.log_variance.sum(dim=-1) + constant)
        return log_prob


class FlowPosterior:
    r"""Posterior of z = T(z_0), where z_0 is normal and T is an invertible map.

    .. math:: \log q(z) = \log q_0(z_0) - \log |\det \partial T(z_0) / \partial z_0|

    Parameters
    ----------
    base : DiagonalNormal
        Distribution of z_0.
    maps : sequence of nn.Module
        The maps whose composition is T, in the order in which they are applied. A call returns the
        mapped vectors, of shape (..., n_components), and the logarithms of the Jacobian
        determinants, of shape (...). The method ``inverse`` maps vectors back.
    """

    def __init__(self, base: DiagonalNormal, maps: Sequence[Any]) -> None:
        self.base = base
        self.maps = maps
        self._drawn: tuple[Tensor, Tensor] | None = None

    @property
    def mean(self) -> Tensor:
        """T of the mean of z_0, which is used in place of the mean of z."""
        return self._push(self.base.mean)[0]

    def rsample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw z = T(z_0), with a gradient for the parameters.

        Parameters
        ----------
        generator : torch.Generator or None, default=None
            Source of the noise. None uses the global generator of torch.

        Returns
        -------
        z : Tensor of shape (n_users, n_components)
        """
        z_0 = self.base.rsample(generator=generator)
        z, log_det = self._push(z_0)
        self._drawn = z, self.base.log_prob(z_0) - log_det
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute the log-density.

        For the tensor that ``rsample`` returned last, it was computed by ``rsample``. Other vectors
        are mapped back to z_0 first.

        Parameters
        ----------
        z : Tensor of shape (n_users, n_components)

        Returns
        -------
        log_prob : Tensor of shape (n_users,)
        """
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
    r"""Posterior z ~ N(mu, Sigma), where psi = (mu, Sigma) is random.

    Only draws of psi are available. The density of z is an integral over psi and has no closed
    form. Its logarithm is replaced by

    .. math:: \log h_K(z) = \log \frac{1}{K + 1}
              \Bigl[q(z | \psi) + \sum_{k=1}^K q(z | \psi^{(k)})\Bigr],

    where :math:`\psi` is the draw that z was drawn from, and the :math:`\psi^{(k)}` are K other
    draws for the same user. The expectation of :math:`\log h_K` falls to that of the log-density
    as K grows. An evidence lower bound that is computed with :math:`\log h_K` therefore rises to
    the exact evidence lower bound.

    Parameters
    ----------
    loc, log_variance : Tensor of shape (n_samples + K, n_users, n_components)
        Draws of psi: mu and the logarithms of the diagonal of Sigma. One z is drawn from each of
        the first n_samples draws. The other K draws are the :math:`\psi^{(k)}`.
    n_samples : int
        Number of z that are drawn for each user.

    References
    ----------
    Yin and Zhou, "Semi-implicit variational inference", ICML 2018.
    """

    def __init__(self, loc: Tensor, log_variance: Tensor, n_samples: int) -> None:
        self.n_samples = n_samples
        self.own = DiagonalNormal(loc[:n_samples], log_variance[:n_samples])
        self.every = DiagonalNormal(loc[:, None], log_variance[:, None])

    def rsample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n_samples vectors z for each user, with a gradient for the parameters.

        Parameters
        ----------
        generator : torch.Generator or None, default=None
            Source of the noise. None uses the global generator of torch.

        Returns
        -------
        z : Tensor of shape (n_samples, n_users, n_components)
        """
        return self.own.rsample(generator=generator)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute log h_K for the vectors that ``rsample`` has drawn.

        Parameters
        ----------
        z : Tensor of shape (n_samples, n_users, n_components)

        Returns
        -------
        log_prob : Tensor of shape (n_samples, n_users)
        """
        log_q = self.every.log_prob(z)  # (n_samples + K, n_samples, n_users)
        own, others = log_q.tensor_split([self.n_samples])
        own = own.diagonal().T[None]  # for the psi that each z was drawn from
        log_sum: Tensor = torch.cat([own, others]).logsumexp(dim=0)
        return log_sum - math.log(len(others) + 1)


def standard_normal(like: Tensor) -> DiagonalNormal:
    """Return the prior N(0, I) of latent vectors.

    Parameters
    ----------
    like : Tensor of shape (..., n_components)
        The prior has the shape, type and device of this tensor.

    Returns
    -------
    prior : DiagonalNormal
    """
    return DiagonalNormal(torch.zeros_like(like), torch.zeros_like(like))
