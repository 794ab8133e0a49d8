"""Initial values from a truncated singular value decomposition (SVD) of the interactions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .._batch import InteractionBatch
from ..linear._subspace import blocks_of_users, truncated_svd
from ._layers import Decoder


@torch.no_grad()
def start_from_svd(
    item_weights: Tensor,
    decoder: Decoder,
    latent: Callable[[InteractionBatch], Tensor],
    generator: torch.Generator,
    x: InteractionBatch,
) -> None:
    r"""Set an encoder and a decoder to initial values that already rank the items well.

    Let U be the number of users, I that of items, :math:`n_u` the number of items of user u and
    :math:`c_i` the number of users of item i. The truncated SVD of the scaled interactions is

    .. math:: N^{-1/2} X C^{-1/3} \approx P \Sigma V^\top, \qquad
              N = \operatorname{diag}(n_u), \quad C = \operatorname{diag}(c_i).

    The strength of a component is :math:`s_k = \min(\sigma_k / \sigma_2, 1)`. The second singular
    value of the same matrix with shuffled items, :math:`\tau`, tells how large singular values are
    without any structure but the counts (parallel analysis); values below :math:`\sigma_2 / 5` are
    replaced by it. A component is trusted by the factor
    :math:`t_k = \max(0, 1 - (\tau^2 / \sigma_2^2 s_k)^2)`. The weights of the encoder become

    .. math:: W t + W_0 (1 - t), \qquad
              W = 0.6 \, \frac{\sqrt U}{\tau} \, C^{-1/3} V,

    where :math:`W_0` are random weights. The last layer of the decoder gets the log-odds of the
    items as biases, :math:`\log (c_i + 1/2) - \log (U - c_i + 1/2)`. Its weights predict the scores

    .. math:: 0.075 \, \frac{\sigma_2}{\tau} \sqrt I \; N^{-1/2} X W \, s \, t^2 \, V^\top

    from the latent vectors that the encoder computes, by ridge regression. The latent vectors of a
    linear encoder whose components are all trusted are the rows of :math:`N^{-1/2} X W`. The more
    noise there is, the smaller the weights are, because noise of the start remains after training.
    With weights of the users, the rows of :math:`N^{-1/2} X C^{-1/3}` are multiplied by the roots
    of the weights, U is their sum and :math:`c_i` the sum over the users of item i; so are the rows
    of the regression. At last, the weights :math:`d_i` of each item are divided by :math:`(1 +
    \|d_i\|^2 / 4)^{1/2}`, so that their length is below 2: where items are many, singular vectors
    are concentrated in few items, whose scores would follow the noise of the latent vectors. The
    constants were chosen on the validation users of ten data sets.

    Parameters
    ----------
    item_weights : Tensor of shape (n_items, n_units)
        Weights of the encoder, for rows of unit length. They are changed in place.
    decoder : Decoder
        It is changed in place.
    latent : callable
        Maps rows to the latent vectors that the encoder computes for them.
    generator : torch.Generator
    x : InteractionBatch
        Rows of the training users.

    References
    ----------
    Horn, "A rationale and test for the number of factors in factor analysis", Psychometrika 1965
    (parallel analysis).
    """
    n_users = x.total_weight
    counts = x.values.new_zeros(x.n_items)
    counts.index_add_(0, x.items.long(), x.row_weights[x.users])
    others = (n_users - counts).clamp(min=0)
    decoder.logits.bias.copy_((counts + 0.5).log() - (others + 0.5).log())

    scale = counts.clamp(min=1) ** (-1 / 3)

    def scaled(x: InteractionBatch) -> InteractionBatch:
        rows, root = x.normalized(), x.row_weights.sqrt()
        return rows.with_values(rows.values * scale[rows.items.long()] * root[rows.users])

    M = scaled(x)
    sigma, V = truncated_svd(M, item_weights.shape[1], generator)
    if sigma.square().sum() < M.values.square().sum() / 6:
        return
    shuffled = torch.randperm(len(x.items), generator=generator, device=x.items.device)
    noise, _ = truncated_svd(scaled(replace(x, items=x.items[shuffled])), 2, generator)
    typical = sigma[:2][-1:].clamp(min=1e-6)
    tau = noise[-1:].maximum(typical / 5)
    strength = (sigma / typical).clamp(min=1e-6, max=1)
    trust = (1 - ((tau / typical) ** 2 / strength) ** 2).clamp(min=0)

    encoder = 0.6 * n_users**0.5 / tau * V
    columns = item_weights[:, : len(sigma)]
    columns.mul_(1 - trust).add_(scale[:, None] * encoder * trust)

    n_hidden = decoder.logits.weight.shape[0]
    gram, moments = V.new_zeros(n_hidden, n_hidden), V.new_zeros(n_hidden, len(sigma))
    for users in blocks_of_users(x):
        rows = x.rows(users)
        h = decoder.hidden(latent(rows)) * rows.row_weights.sqrt()[:, None]
        gram += h.T @ h
        moments += h.T @ (scaled(rows) @ encoder)
    gram.diagonal().add_(1e-3 * gram.trace() / n_hidden + 1e-6)
    factors = torch.linalg.solve(gram, moments) * strength * trust**2
    D = 0.075 * x.n_items**0.5 * typical / tau * factors @ V.T
    decoder.logits.weight.copy_(D / (1 + D.square().sum(dim=0) / 4).sqrt())
