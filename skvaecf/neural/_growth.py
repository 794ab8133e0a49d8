"""Parameters of a network that gets new items, from those of the known items."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from .._batch import InteractionBatch
from ..interactions import with_ones


@torch.no_grad()
def load_grown(
    network: nn.Module,
    known: Mapping[str, Tensor],
    n_known: int,
    X: csr_array,
    counts: np.ndarray,
) -> None:
    r"""Copy the parameters of a network with fewer items; new items start from their neighbours.

    The neighbours of a new item are the known items of its users. A vector of the new item is the
    mean of the vectors of the neighbours, where each counts by its number of common users. A bias
    is a log-odds of an item, so it depends on the number of users :math:`c_i` of the item:

    .. math:: b_i = \log(c_i + \tfrac12) + \operatorname{mean}_j (b_j - \log(c_j + \tfrac12))

    An item without neighbours gets the mean over all known items.

    Parameters
    ----------
    network : nn.Module
        Its parameters and buffers are overwritten.
    known : mapping of str to Tensor
        Parameters and buffers of the network without the new items.
    n_known : int
        Number of its items.
    X : csr_array of shape (n_users, n_items)
        Rows of users. The new items are the last columns.
    counts : ndarray of shape (n_items,)
        Number of users of each item in all calls.

    Raises
    ------
    ValueError
        If the two networks differ in other sizes than the number of items.
    """
    parameters, log_counts = dict(network.named_parameters()), np.log(counts + 0.5)
    shares = neighbour_shares(X, n_known)
    for name, value in network.state_dict().items():
        before = known[name].to(value.device)
        changed = [axis for axis, size in enumerate(before.shape) if size != value.shape[axis]]
        if any((before.shape[a], value.shape[a]) != (n_known, X.shape[1]) for a in changed):
            raise ValueError(
                f"partial_fit needs the layer sizes of before: {name} had the shape"
                f" {tuple(before.shape)} and would have {tuple(value.shape)}."
            )
        for axis in changed:
            is_bias = value.dim() == 1 and name in parameters
            shift = torch.tensor(log_counts * is_bias, dtype=torch.float32, device=value.device)
            neighbours = InteractionBatch.from_csr(shares, value.device)
            vectors = before.movedim(axis, 0).flatten(1) if before.dim() > 1 else before[:, None]
            vectors = vectors - shift[:n_known, None]
            new = neighbours @ vectors
            new[neighbours.counts == 0] = vectors.mean(dim=0)
            new = (new + shift[n_known:, None]).view(-1, *before.movedim(axis, 0).shape[1:])
            before = torch.cat([before, new.movedim(0, axis)], dim=axis)
        value.copy_(before)


def neighbour_shares(X: csr_array, n_known: int) -> csr_array:
    """Return the shares of the known items in those that the users of each new item have.

    Parameters
    ----------
    X : csr_array of shape (n_users, n_items)
    n_known : int

    Returns
    -------
    shares : csr_array of shape (n_items - n_known, n_known), float32
        Rows add up to 1, or to 0 if the item has no neighbours.
    """
    ones = with_ones(X)
    common = csr_array(ones[:, n_known:].T @ ones[:, :n_known])
    totals = np.maximum(common.sum(axis=1), 1)
    data = (common.data / totals.repeat(np.diff(common.indptr))).astype(np.float32)
    return csr_array((data, common.indices, common.indptr), shape=common.shape)
