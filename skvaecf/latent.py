"""Priors and posteriors of a latent vector, as values of a constructor's argument.

A prior is an object whose ``build(n_items, n_components)`` returns a module. Called with latent
vectors and with the function that encodes rows to normal posteriors, the module gives a
distribution with ``log_prob``.

A posterior is an object whose ``build(n_components)`` returns a module. Called with the normal
that the encoder gives, it gives a distribution with ``rsample``, ``log_prob`` and ``mean``;
:class:`~skvaecf.distributions.FlowPosterior` makes it of invertible maps.

``log_prob`` gives one number per user: ``torch.distributions.Independent`` sums over components.
Of what ``build`` makes, the values are lost and drawn by :func:`~skvaecf.modules.initialize`; a
module that is an :class:`~skvaecf.modules.OwnStart` sets its own, buffers included. A frozen
dataclass is what such an object is best: it has a ``repr`` for checkpoints, and compares by value.
One of your own goes into files of pickle and skops, but not into those of ``save``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily
from torch.nn import functional as F

from ._checks import check_count
from .distributions import DiagonalNormal, FlowPosterior, standard_normal
from .interactions import InteractionBatch
from .modules import OwnStart

Encode = Callable[[InteractionBatch | Tensor], DiagonalNormal]


class Prior(Protocol):
    """Distribution of the latent vectors of all users."""

    def build(self, n_items: int, n_components: int) -> nn.Module:
        """Build the module (z, encode) -> distribution."""


class Posterior(Protocol):
    """Distribution of one user's latent vector, given the user's items."""

    def build(self, n_components: int) -> nn.Module:
        """Build the module normal -> distribution."""


@dataclass(frozen=True)
class NormalPrior:
    """The standard normal prior N(0, I)."""

    def build(self, n_items: int, n_components: int) -> nn.Module:
        """Build the module (z, encode) -> distribution."""
        return _StandardNormal()


class _StandardNormal(nn.Module):
    def forward(self, z: Tensor, encode: Encode) -> DiagonalNormal:
        return standard_normal(z)


@dataclass(frozen=True)
class VampPrior:
    r"""Variational mixture of posteriors: the prior is made of the posteriors of M pseudo-inputs.

    .. math:: p(z) = \frac{1}{M} \sum_{m=1}^M q_\phi(z | u_m)

    The pseudo-inputs :math:`u_m`, rows with entries in [0, 1], are learned with everything else;
    they start from users drawn at random from the training data. The encoder is that of the model.

    Parameters
    ----------
    n_pseudo_inputs : int, default=5
        Number M of pseudo-inputs.

    Raises
    ------
    ValueError
        If n_pseudo_inputs is not an integer of at least 1.

    References
    ----------
    Tomczak and Welling, "VAE with a VampPrior", AISTATS 2018.

    Examples
    --------
    >>> from skvaecf import MultVAE, VampPrior
    >>> MultVAE(prior=VampPrior(n_pseudo_inputs=20))
    MultVAE(prior=VampPrior(n_pseudo_inputs=20))
    """

    n_pseudo_inputs: int = 5

    def __post_init__(self) -> None:
        check_count("n_pseudo_inputs", self.n_pseudo_inputs)

    def build(self, n_items: int, n_components: int) -> nn.Module:
        """Build the module (z, encode) -> distribution."""
        return _PseudoInputs(self.n_pseudo_inputs, n_items)


class _PseudoInputs(OwnStart):
    """Rows in item space, clipped to [0, 1], and the mixture of their posteriors."""

    def __init__(self, n_rows: int, n_items: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(n_rows, n_items))

    def start(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Start from random training rows, inside of [0, 1]: at its ends the gradient is 0."""
        order = torch.randperm(x.n_users, generator=generator, device=generator.device)
        chosen = x.rows(order[torch.arange(len(self.rows), device=order.device) % x.n_users])
        with torch.no_grad():
            self.rows.fill_(0.02)
            self.rows[chosen.users, chosen.items.long()] = 0.98

    def forward(self, z: Tensor, encode: Encode) -> Distribution:
        # Normalised like the rows of users, but without dropout.
        components = encode(F.normalize(self.rows.clamp(0, 1), dim=1, eps=1e-6))
        weights = Categorical(logits=z.new_zeros(len(self.rows)), validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)


@dataclass(frozen=True)
class NormalPosterior:
    """The normal that the encoder gives, as it is."""

    def build(self, n_components: int) -> nn.Module:
        """Build the module normal -> distribution."""
        return nn.Identity()


@dataclass(frozen=True)
class InverseAutoregressiveFlow:
    r"""A normal carried through invertible autoregressive maps.

    From :math:`z^{(0)} \sim N(\mu_\phi(x), \operatorname{diag} \sigma^2_\phi(x))`, T maps

    .. math:: z^{(t)} = \sigma^{(t)} \odot z^{(t-1)} + (1 - \sigma^{(t)}) \odot m^{(t)}, \qquad
              \log q(z^{(T)}|x) = \log q(z^{(0)}|x) - \sum_t \sum_k \log \sigma^{(t)}_k,

    where :math:`m^{(t)}` and :math:`\sigma^{(t)} = \operatorname{sigmoid}(s^{(t)})` come from a
    network of one hidden tanh layer that is masked such that their k-th entries depend on the
    entries of :math:`z^{(t-1)}` before the k-th alone. Every second map goes through the entries
    backwards.

    Parameters
    ----------
    n_flows : int, default=1
        Number T of maps.
    layer_size : int, default=600
        Width of the hidden layer of each.

    Raises
    ------
    ValueError
        If a parameter is not an integer of at least 1.

    References
    ----------
    Kingma et al., "Improved variational inference with inverse autoregressive flow", NIPS 2016.
    Germain et al., "MADE: Masked autoencoder for distribution estimation", ICML 2015.

    Examples
    --------
    >>> from skvaecf import InverseAutoregressiveFlow, MultVAE
    >>> MultVAE(posterior=InverseAutoregressiveFlow(n_flows=2))
    MultVAE(posterior=InverseAutoregressiveFlow(n_flows=2, layer_size=600))
    """

    n_flows: int = 1
    layer_size: int = 600

    def __post_init__(self) -> None:
        check_count("n_flows", self.n_flows)
        check_count("layer_size", self.layer_size)

    def build(self, n_components: int) -> nn.Module:
        """Build the module normal -> distribution."""
        return _Flow(self.n_flows, n_components, self.layer_size)


class _Flow(nn.Module):
    def __init__(self, n_flows: int, n_components: int, layer_size: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            AutoregressiveMap(n_components, layer_size, backwards=t % 2 == 1)
            for t in range(n_flows)
        )

    def forward(self, normal: DiagonalNormal) -> FlowPosterior:
        return FlowPosterior(normal, list(self.maps))


class AutoregressiveMap(OwnStart):
    """z -> sigma z + (1 - sigma) m, where the k-th m and sigma see the z before the k-th only."""

    def __init__(self, n_components: int, layer_size: int, *, backwards: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_components, layer_size)
        self.out = nn.Linear(layer_size, 2 * n_components)
        self.backwards = backwards

    def start(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Start near the identity: sigma is about 0.88."""
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias[self.hidden.in_features :] = 2.0

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map vectors; also give the log-determinant of the Jacobian of each."""
        m, s = self._shift_and_scale(z)
        sigma = s.sigmoid()
        return sigma * z + (1 - sigma) * m, -F.softplus(-s).sum(dim=-1)

    def inverse(self, z: Tensor) -> Tensor:
        """Find what is mapped to z, one component after the other."""
        found = torch.zeros_like(z)
        for _ in range(z.shape[-1]):  # each pass makes one more component right
            m, s = self._shift_and_scale(found)
            sigma = s.sigmoid()
            found = (z - (1 - sigma) * m) / sigma
        return found

    def _shift_and_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # A unit of degree g sees the inputs up to the g-th; the k-th output, units below k.
        degree = torch.arange(1, z.shape[-1] + 1, device=z.device)
        below = torch.arange(self.hidden.out_features, device=z.device)
        hidden_degree = 1 + below % max(1, len(degree) - 1)
        if self.backwards:
            degree = degree.flip(0)
        sees = hidden_degree[:, None] >= degree
        seen = (degree[:, None] > hidden_degree).repeat(2, 1)
        h = torch.tanh(F.linear(z, self.hidden.weight * sees, self.hidden.bias))
        m, s = F.linear(h, self.out.weight * seen, self.out.bias).chunk(2, dim=-1)
        return m, s


PRIORS: dict[str, Prior] = {"normal": NormalPrior(), "vamp": VampPrior()}
POSTERIORS: dict[str, Posterior] = {
    "normal": NormalPosterior(),
    "iaf": InverseAutoregressiveFlow(),
}


def build_prior(prior: str | Prior, n_items: int, n_components: int) -> nn.Module:
    """Build the module of a prior or of the one of this name."""
    chosen = PRIORS[prior] if isinstance(prior, str) else prior
    return _built("prior", chosen, n_items, n_components)


def build_posterior(posterior: str | Posterior, n_components: int) -> nn.Module:
    """Build the module of a posterior or of the one of this name."""
    chosen = POSTERIORS[posterior] if isinstance(posterior, str) else posterior
    return _built("posterior", chosen, n_components)


def _built(parameter: str, value: Any, *sizes: int) -> nn.Module:
    try:
        module: nn.Module = value.build(*sizes)
    except TypeError as error:
        raise ValueError(f"{parameter} cannot be built, got {value!r}: {error}") from error
    return module
