"""Why an item is recommended: what each of a user's own items adds to the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._batch import InteractionBatch
from ._checks import check_count
from ._devices import default_modes
from ._top_k import as_index, top_k
from .interactions import binary_csr, check_rows, rows_of_entries
from .ranking import row_blocks, row_scorer

# Maps rows and n item numbers per row, shape (n_rows, n), to what each stored entry of the rows
# adds to the scores of these items, shape (n_entries, n), and to the base, shape (n_rows, n).
Explainer = Callable[[Any, np.ndarray], tuple[Tensor, Tensor]]


class Explanation(NamedTuple):
    """Result of :func:`~skvaecf.explain`: the reasons of recommendations.

    Attributes
    ----------
    items : ndarray of shape (n_users, n), int64
        The explained items; -1 is padding.
    reasons : ndarray of shape (n_users, n, k), int64
        For each of the n items of a user, the k items of the user that contribute most to its
        score, largest contribution first; of items with equal contributions, the lower number comes
        first. -1 where the user has no more items.
    contributions : ndarray of shape (n_users, n, k), float32
        Their contributions; 0 where reasons is -1. They may be negative.
    base : ndarray of shape (n_users, n), float32
        Part of the score that belongs to no single item. The base plus the contributions of all
        items of the user is the score. ``-inf`` where the explained item is -1, as in the scores
        of ``recommend``.

    See Also
    --------
    explain : Computes the contributions.
    """

    items: np.ndarray
    reasons: np.ndarray
    contributions: np.ndarray
    base: np.ndarray


@default_modes()
def explain(estimator: Any, X: Any, items: Any, k: int = 5) -> Explanation:
    r"""Find the items of each user that contribute most to the scores of given items.

    The score of item j for a user with the items S is divided into a base and one contribution per
    item of the user, :math:`s_j = \text{base}_j + \sum_{i \in S} \text{contribution}_{ij}`.

    Parameters
    ----------
    estimator : fitted estimator
        Its ``predict(X)`` returns scores of shape (n_users, n_items); higher is better.
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions of users, who may be in ``fit`` or not. A user's own items are those with a
        positive value in this X, before any step of a Pipeline.
    items : array-like of int of shape (n_users, n) or (n,)
        Item numbers to explain, such as ``recommend`` returns them: n for each user, or the same n
        for all users. -1 is padding.
    k : int, default=5
        Number of reasons per item.

    Returns
    -------
    explanation : Explanation
        Named tuple of the arrays ``items``, ``reasons``, ``contributions`` and ``base``. With a k
        of at least the number of the user's items, ``base + contributions.sum(axis=2)`` is the
        score.

    Raises
    ------
    ValueError
        If X is invalid, items are not item numbers of X or not those of its users, k is below 1, or
        a score is not finite.
    TypeError
        If estimator has no ``predict``.

    See Also
    --------
    Explanation : The result.
    ItemKNN, SLIM : Models whose weights are short lists of items.

    Notes
    -----
    For models whose score is a sum over the user's items, the contributions are its terms.
    Except for rounding, they are exact:

    * :class:`~skvaecf.EASE`, :class:`~skvaecf.SLIM`, :class:`~skvaecf.ItemKNN`: the entry
      :math:`B_{ij}` of ``item_similarity_``. The base is 0.
    * :class:`~skvaecf.WMF`: :math:`c_{ui} \, q_j^\top W^u q_i` with
      :math:`W^u = (Q^\top C^u Q + \lambda C_u^\nu I)^{-1}`, in the symbols of the class (section 5
      of [1]_). The base is 0.
    * :class:`~skvaecf.ELSA`: the entry :math:`a_i^\top a_j - [i = j]` of :math:`A A^\top - I`,
      where :math:`a_i` are the rows of ``item_factors_``. The base is 0.
    * Autoencoders with a linear encoder and a linear decoder: :math:`w_i^\top v_j / \sqrt{|S|}`,
      where :math:`w_i` are the weights of item i in the encoder (in that of the mean, if there is a
      variance) and :math:`v_j` those of item j in the decoder. The base is the score for an empty
      row, to which the biases add up. These are :class:`~skvaecf.MultVAE` with its defaults
      and, without hidden layers, :class:`~skvaecf.SIVAERecommender`, :class:`~skvaecf.AWAE` and
      :class:`~skvaecf.VAEGANRecommender`.
    * :class:`~skvaecf.Blend`: :math:`\sum_m w_m \, c_{mij} / \sigma_{mu}`, in the symbols of the
      class, where :math:`c_{mij}` is the contribution to the score of member m. The base is
      :math:`\sum_m w_m \, (b_{mj} - \mu_{mu}) / \sigma_{mu}`, where :math:`b_{mj}` is the base of
      member m. The contributions to a member for which this list has no formula are differences, as
      below.

    For all other estimators, the contribution of an item is the score minus the score without this
    item (leave-one-out). These differences alone need not add up to the score, because the effects
    of items depend on each other. The base is what remains. A user with m items takes m + 1 rows of
    ``predict``. A search is explained by its ``best_estimator_``, and a Pipeline by leave-one-out.

    A user without items has no contributions, and the base is the score of ``predict``, the number
    of users of the item in ``fit``. For a user with one item, the score is compared with the one
    that the model itself computes from an empty row. A Pipeline returns the number of users for
    this row, too, so the difference is not useful then.

    Users are processed in blocks, so memory does not grow with their number.

    References
    ----------
    .. [1] Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM
       2008, section 5.

    Examples
    --------
    >>> from skvaecf import SLIM, explain
    >>> X = [[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1]]
    >>> model = SLIM(l1=0.1, l2=1.0).fit(X)
    >>> user = [[1, 1, 0, 0]]
    >>> items, scores = model.recommend(user, k=1, return_scores=True)
    >>> explanation = explain(model, user, items, k=2)
    >>> items, explanation.reasons  # item 2 is recommended, first because of item 0
    (array([[2]]), array([[[0, 1]]]))
    >>> total = explanation.base + explanation.contributions.sum(axis=2)
    >>> total.round(2) == scores.round(2)
    array([[ True]])
    """
    if not hasattr(estimator, "predict"):
        raise TypeError(f"estimator must have a predict method, got {type(estimator).__name__}.")
    check_count("k", k)
    estimator = getattr(estimator, "best_estimator_", estimator)
    if getattr(estimator.predict, "scores_by_block", False):
        check_is_fitted(estimator)
        given = rows = estimator._check_rows(X)
    else:
        rows = check_rows(X)
        given = rows if issparse(X) else X
    contribute = row_explainer(estimator)
    n_users, n_items = rows.shape
    numbers = _check_items(items, (n_users, n_items))
    n = numbers.shape[1]
    reasons = np.full((n_users, n, int(k)), -1, dtype=np.int64)
    contributions = np.zeros(reasons.shape, dtype=np.float32)
    base = np.zeros((n_users, n), dtype=np.float32)
    longest = np.diff(rows.indptr).max(initial=0) if issparse(rows) else n_items
    for block in row_blocks(n_users, max(n_items, int(longest) * n)):
        own = binary_csr(rows[block])
        parts, rest = contribute(_safe_indexing(given, block), np.maximum(numbers[block], 0))
        if not (torch.isfinite(parts).all() and torch.isfinite(rest).all()):
            raise ValueError(
                f"{type(estimator).__name__} returned scores that are NaN or infinite; the items to"
                " explain must have finite scores."
            )
        places, values = _largest_of_each_row(own, parts, int(k))
        found = values > -np.inf
        at = np.minimum(own.indptr[:-1, None, None] + places, max(own.nnz - 1, 0))
        kept = slice(None), slice(None), slice(places.shape[2])
        reasons[block][kept] = np.where(found, own.indices[at] if own.nnz else -1, -1)
        contributions[block][kept] = np.where(found, values, 0)
        base[block] = rest.cpu().numpy()
    unknown = numbers < 0
    reasons[unknown], contributions[unknown], base[unknown] = -1, 0, -np.inf
    return Explanation(numbers.astype(np.int64), reasons, contributions, base)


def row_explainer(estimator: Any) -> Explainer:
    """Return the function that explains rows with anything that has ``predict``.

    It maps rows as they are given, without a change of format or values, and item numbers to the
    contributions of their interactions, row by row in ascending order of the items, and the bases.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if getattr(estimator.predict, "scores_by_block", False):
        explain_rows: Explainer = estimator._row_explainer()
        return explain_rows
    score = row_scorer(estimator)

    def compare_rows(X: Any, items: np.ndarray) -> tuple[Tensor, Tensor]:
        as_given = _in_format_of(X)
        return leave_one_out(lambda rows: score(as_given(rows)))(_canonical(check_rows(X)), items)

    return compare_rows


def leave_one_out(score: Callable[[csr_array], Tensor]) -> Explainer:
    """Return the explainer that compares the scores of rows with those without one item.

    Parameters
    ----------
    score : callable
        Maps rows to scores, a tensor of shape (n_rows, n_items).
    """

    def contribute(X: csr_array, items: np.ndarray) -> tuple[Tensor, Tensor]:
        def scores_of(rows: csr_array, columns: np.ndarray) -> Tensor:
            scores = score(rows)
            return scores.gather(1, as_index(columns, scores))

        users = rows_of_entries(X)
        complete = scores_of(X, items)
        without = complete.new_empty(X.nnz, items.shape[1])
        for block in row_blocks(X.nnz, X.shape[1]):
            rows = X[users[block]]
            place = np.arange(block.start, block.stop) - X.indptr[users[block]]
            rows.data[rows.indptr[:-1] + place] = 0
            rows.eliminate_zeros()
            without[block] = scores_of(rows, items[users[block]])
        parts = complete[as_index(users, complete)] - without
        total = torch.zeros_like(complete).index_add_(0, as_index(users, complete), parts)
        return parts, complete - total

    return contribute


def products_of_entries(x: InteractionBatch, vectors: Tensor, weight: Tensor) -> Tensor:
    """Compute x_ui w_i . v_ut for each stored entry and each of the n vectors of its user.

    Parameters
    ----------
    x : InteractionBatch of shape (n_users, n_items)
    vectors : Tensor of shape (n_users, n, n_components)
    weight : Tensor of shape (n_items, n_components)

    Returns
    -------
    products : Tensor of shape (n_entries, n)
    """
    products = vectors.new_empty(len(x.values), vectors.shape[1])
    for t in range(vectors.shape[1]):
        products[:, t] = x.values * x.products(vectors[:, t].contiguous(), weight)
    return products


def _largest_of_each_row(X: csr_array, parts: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k largest of the numbers of the entries of each row, for each of the n columns.

    Parameters
    ----------
    X : csr_array of shape (n_rows, n_items)
    parts : Tensor of shape (n_entries, n)
    k : int

    Returns
    -------
    places : ndarray of shape (n_rows, n, at most k)
        Places of the entries within their rows. The lower of equal ones comes first.
    values : ndarray of the same shape
        ``-inf`` where the row has no more entries.
    """
    n_rows, n = X.shape[0], parts.shape[1]
    users = rows_of_entries(X)
    width = max(int(np.diff(X.indptr).max(initial=0)), 1)
    padded = parts.new_full((n_rows, n, width), -torch.inf)
    place = np.arange(X.nnz) - X.indptr[users]
    padded[as_index(users, padded), :, as_index(place, padded)] = parts
    places, values = top_k(padded.reshape(n_rows * n, width), min(k, width))
    shape = (n_rows, n, places.shape[1])
    return places.reshape(shape), values.reshape(shape)


def _canonical(X: Any) -> csr_array:
    """Return a copy in canonical CSR with the values of X, without stored zeros."""
    rows = csr_array(X, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def _in_format_of(X: Any) -> Callable[[csr_array], Any]:
    """Return the function that converts rows to the format of X: sparse, array or frame."""
    if issparse(X):
        return lambda rows: rows
    names = getattr(X, "columns", None)
    if names is None or not all(isinstance(name, str) for name in names):
        return lambda rows: rows.toarray()
    library = nw.from_native(X, eager_only=True).implementation
    return lambda rows: nw.from_numpy(rows.toarray(), [*names], backend=library).to_native()


def _check_items(items: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return the item numbers of each user, or raise a ValueError."""
    n_users, n_items = shape
    numbers = np.asarray(items)
    if numbers.size == 0:
        numbers = numbers.astype(np.int64)  # an empty list has no type
    of_users = numbers.ndim == 2 and len(numbers) == n_users
    if not (of_users or numbers.ndim == 1) or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"items must be item numbers of shape ({n_users}, n) or (n,), got an array of shape"
            f" {numbers.shape} and type {numbers.dtype}."
        )
    if numbers.size and not -1 <= numbers.min() <= numbers.max() < n_items:
        raise ValueError(
            f"items must lie in [0, {n_items}), or be -1 for padding, got values from"
            f" {numbers.min()} to {numbers.max()}."
        )
    return np.broadcast_to(numbers, (n_users, numbers.shape[-1]))
