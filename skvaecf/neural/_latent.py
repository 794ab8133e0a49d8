"""Priors and posteriors of the latent vectors, as values of the parameters of a recommender.

The protocols :class:`Prior` and :class:`Posterior` say how to write a custom one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
from sklearn.utils._param_validation import HasMethods, StrOptions
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily
from torch.nn import functional as F

from .._batch import InteractionBatch
from .._checks import check_count
from ..persistence import SavedValue
from ._distributions import DiagonalNormal, FlowPosterior, standard_normal
from ._layers import SelfInitialized

__all__ = [
    "InverseAutoregressiveFlow",
    "NormalPosterior",
    "NormalPrior",
    "Posterior",
    "PosteriorLike",
    "Prior",
    "PriorLike",
    "VampPrior",
]

Encode = Callable[[InteractionBatch | Tensor], DiagonalNormal]


class Prior(Protocol):
    """Protocol of priors: distributions of the latent vectors of all users.

    A custom prior is an object with the method ``build``. Write its class as a frozen dataclass. It
    then compares by value, and a checkpoint can store its ``repr``. The object can be pickled and
    saved with skops, but not with ``save``.
    """

    def build(self, n_items: int, n_components: int) -> nn.Module:
        """Return the module that computes the prior.

        Networks are built without storage, so values that the constructor of the module writes into
        a tensor are lost. The parameters are drawn afterwards. A module with other initial values,
        or with buffers, must be a :class:`~skvaecf.neural.SelfInitialized`.

        Parameters
        ----------
        n_items : int
            Number of items.
        n_components : int
            Number of components of a latent vector.

        Returns
        -------
        module : nn.Module
            It is called as ``module(z, encode)`` and returns a distribution. ``z`` holds latent
            vectors, shape (n_users, n_components). ``encode`` is a function that maps rows, given
            as an :class:`~skvaecf.neural.InteractionBatch` or as a dense tensor of shape
            (n_rows, n_items), to their normal posteriors, a
            :class:`~skvaecf.neural.DiagonalNormal`. The distribution has a method ``log_prob(z)``
            that returns one number per user, shape (n_users,). For this,
            ``torch.distributions.Independent`` sums over the components.
        """


class Posterior(Protocol):
    """Protocol of posteriors: distributions of a user's latent vector, given the user's items.

    A custom posterior is an object with the method ``build``. Write its class as a frozen
    dataclass. It then compares by value, and a checkpoint can store its ``repr``. The object can be
    pickled and saved with skops, but not with ``save``.
    """

    def build(self, n_components: int) -> nn.Module:
        """Return the module that computes the posteriors.

        Its parameters are drawn as described at :class:`~skvaecf.neural.Prior`.

        Parameters
        ----------
        n_components : int
            Number of components of a latent vector.

        Returns
        -------
        module : nn.Module
            It is called with the normal posteriors that the encoder computes, a
            :class:`~skvaecf.neural.DiagonalNormal`, and returns a distribution. The distribution
            has a method ``rsample(generator=...)`` that draws z, shape (n_users, n_components); a
            method ``log_prob(z)`` that returns one number per user, shape (n_users,); and an
            attribute ``mean``, shape (n_users, n_components).
            :class:`~skvaecf.neural.FlowPosterior` is such a distribution, built from invertible
            maps.
        """


@dataclass(frozen=True)
class NormalPrior(SavedValue):
    """The standard normal prior N(0, I)."""

    def build(self, n_items: int, n_components: int) -> nn.Module:
        """Return the module of this prior, see :class:`~skvaecf.neural.Prior`."""
        return _StandardNormal()


class _StandardNormal(nn.Module):
    def forward(self, z: Tensor, encode: Encode) -> DiagonalNormal:
        return standard_normal(z)


@dataclass(frozen=True)
class VampPrior(SavedValue):
    r"""Variational mixture of posteriors: a mixture of the posteriors of M pseudo-inputs.

    .. math:: p(z) = \frac{1}{M} \sum_{m=1}^M q_\phi(z | u_m)

    The pseudo-inputs :math:`u_m` are rows with entries in [0, 1]. They are learned together with
    the other parameters and start from training users that are drawn at random. The encoder that
    gives :math:`q_\phi` is that of the model.

    Parameters
    ----------
    n_pseudo_inputs : int, default=5
        Number M of pseudo-inputs.

    Raises
    ------
    ValueError
        If n_pseudo_inputs is not an integer of at least 1.

    See Also
    --------
    MultVAE : The model that takes it as ``prior``.
    InverseAutoregressiveFlow : A posterior other than the normal one.
    HVampVAE : A model of two latent vectors with this prior.

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
        """Return the module of this prior, see :class:`~skvaecf.neural.Prior`."""
        return _PseudoInputs(self.n_pseudo_inputs, n_items)


class _PseudoInputs(SelfInitialized):
    """The pseudo-inputs, clipped to [0, 1], and the mixture of their posteriors."""

    def __init__(self, n_rows: int, n_items: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(n_rows, n_items))

    def initialize(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Set the rows to training rows drawn at random, with .02 in place of 0 and .98 of 1.

        The gradient of an entry that leaves [0, 1] is 0.
        """
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
class NormalPosterior(SavedValue):
    """The normal posterior that the encoder computes, unchanged."""

    def build(self, n_components: int) -> nn.Module:
        """Return the module of this posterior, see :class:`~skvaecf.neural.Posterior`."""
        return nn.Identity()


@dataclass(frozen=True)
class InverseAutoregressiveFlow(SavedValue):
    r"""Normal posterior that is transformed by invertible autoregressive maps.

    T maps are applied to :math:`z^{(0)} \sim N(\mu_\phi(x), \operatorname{diag}
    \sigma^2_\phi(x))`,

    .. math::

        & z^{(t)} = \sigma^{(t)} \odot z^{(t-1)} + (1 - \sigma^{(t)}) \odot m^{(t)},

        & \log q(z^{(T)}|x) = \log q(z^{(0)}|x) - \sum_t \sum_k \log \sigma^{(t)}_k,

    where :math:`m^{(t)}` and :math:`s^{(t)}`, with :math:`\sigma^{(t)} =
    \operatorname{sigmoid}(s^{(t)})`, are the outputs of a network with one hidden tanh layer. The
    weights of this network are masked, so that the k-th outputs depend only on the entries of
    :math:`z^{(t-1)}` before the k-th. In every second map the order of the entries is reversed.

    Parameters
    ----------
    n_flows : int, default=1
        Number T of maps.
    layer_size : int, default=600
        Width of the hidden layer of each map.

    Raises
    ------
    ValueError
        If a parameter is not an integer of at least 1.

    See Also
    --------
    MultVAE : The model that takes it as ``posterior``.
    VampPrior : A prior other than the normal one.
    SIVAERecommender : A posterior of any shape without a flow.

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
        """Return the module of this posterior, see :class:`~skvaecf.neural.Posterior`."""
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


class AutoregressiveMap(SelfInitialized):
    """The map z -> sigma z + (1 - sigma) m; the k-th sigma and m depend on z_1, ..., z_(k-1) only.

    Parameters
    ----------
    n_components : int
        Number of components of z.
    layer_size : int
        Width of the hidden layer.
    backwards : bool
        Whether the order of the components is reversed.
    """

    def __init__(self, n_components: int, layer_size: int, *, backwards: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_components, layer_size)
        self.out = nn.Linear(layer_size, 2 * n_components)
        self.backwards = backwards

    def initialize(self, generator: torch.Generator, x: InteractionBatch) -> None:
        """Set the output layer so that the map is close to the identity: sigma is about 0.88."""
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias[self.hidden.in_features :] = 2.0

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mapped vectors and the logarithms of the Jacobian determinants.

        The shapes are (..., n_components) and (...).
        """
        m, s = self._shift_and_scale(z)
        sigma = s.sigmoid()
        return sigma * z + (1 - sigma) * m, -F.softplus(-s).sum(dim=-1)

    def inverse(self, z: Tensor) -> Tensor:
        """Return the vectors that are mapped to z. They are found component by component."""
        found = torch.zeros_like(z)
        for _ in range(z.shape[-1]):  # each pass completes one more component
            m, s = self._shift_and_scale(found)
            sigma = s.sigmoid()
            found = (z - (1 - sigma) * m) / sigma
        return found

    def _shift_and_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # A hidden unit of degree g depends on the inputs 1 to g. The k-th output depends on the
        # hidden units of degrees below k.
        degree = torch.arange(1, z.shape[-1] + 1, device=z.device)
        below = torch.arange(self.hidden.out_features, device=z.device)
        hidden_degree = 1 + below % max(1, len(degree) - 1)
        if self.backwards:
            degree = degree.flip(0)
        hidden_mask = hidden_degree[:, None] >= degree
        out_mask = (degree[:, None] > hidden_degree).repeat(2, 1)
        h = torch.tanh(F.linear(z, self.hidden.weight * hidden_mask, self.hidden.bias))
        m, s = F.linear(h, self.out.weight * out_mask, self.out.bias).chunk(2, dim=-1)
        return m, s


PRIORS: dict[str, Prior] = {"normal": NormalPrior(), "vamp": VampPrior()}
POSTERIORS: dict[str, Posterior] = {
    "normal": NormalPosterior(),
    "iaf": InverseAutoregressiveFlow(),
}
PriorLike = Annotated[str | Prior, StrOptions(set(PRIORS)), HasMethods("build")]
PosteriorLike = Annotated[str | Posterior, StrOptions(set(POSTERIORS)), HasMethods("build")]


def build_part(parameter: str, value: Any, *sizes: int) -> nn.Module:
    """Build the module of a prior or posterior, which is given by its name or as an object."""
    named: Any = {"prior": PRIORS, "posterior": POSTERIORS}[parameter]
    try:
        module: nn.Module = (named[value] if isinstance(value, str) else value).build(*sizes)
    except TypeError as error:
        raise ValueError(f"{parameter} cannot be built, got {value!r}: {error}") from error
    return module
