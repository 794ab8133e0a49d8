"""Splits into matrices, in the form that scikit-learn's searches expect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack
from sklearn.utils import Bunch

from ..interactions import stored_interactions


def stack_splits(splits: Iterable[tuple[Any, ...]]) -> Bunch:
    """Stack splits so that scikit-learn's searches score models by their held-out interactions.

    The matrices of the splits become blocks of rows of one matrix. ``cv`` holds the numbers of
    these rows. For each split, a search fits the model on the training matrix, passes the fold-in
    matrix to ``predict``, and scores the recommendations against the held-out matrix, which it
    passes to the scorer as ``y``. Recommenders do not use the ``y`` of ``fit``.

    Parameters
    ----------
    splits : iterable of (train, heldout) or of (train, fold_in, heldout)
        Pairs of matrices, such as the result of :func:`rolling_time_splits` or ``[time_split(X,
        times)]``: the fold-in is then the training matrix itself. Or triples, in which other users
        are scored than those of the training matrix. All matrices must have the same columns.
        Held-out and fold-in matrix of a split must have the same rows.

    Returns
    -------
    stacked : Bunch
        X : csr_array of shape (n_rows, n_items)
            The training and fold-in matrices.
        y : csr_array of shape (n_rows, n_items)
            The held-out interactions of the same rows. The rows of training users who are not
            scored are empty.
        cv : list of (train, test)
            Row numbers of the training matrix and of the fold-in matrix of each split. For a pair
            they are the same.

    Raises
    ------
    ValueError
        If the splits or their shapes are invalid.

    See Also
    --------
    rolling_time_splits : Several pairs of past and future.
    time_split : One pair of past and future.
    last_interactions_split : The last interactions of every user.
    UserSplitter : Splits of users, which need no stacking.

    Notes
    -----
    Pass ``refit=False`` to the search unless there is a single pair, and fit the best parameters on
    all interactions: ``EASE(**search.best_params_).fit(X)``. With ``refit=True`` a search fits the
    best model on all rows of the stacked matrix. For a single pair, this is the training matrix.
    For several pairs, the older interactions are in it several times.

    Tools that refuse a sparse ``y``, such as ``cross_validate``, pass
    the matrix to the scorer as metadata (:meth:`RankingScorer.set_score_request`). Do the same if
    the estimator is itself a search: it would otherwise choose its parameters by the ``y`` by which
    it is scored.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvaecf import EASE, rolling_time_splits, stack_splits
    >>> rng = np.random.default_rng(0)
    >>> times = rng.permuted(np.arange(600)).reshape(30, 20) * (rng.random((30, 20)) < 0.5)
    >>> X = (times > 0).astype(int)
    >>> windows = stack_splits(rolling_time_splits(X, times, n_splits=2))
    >>> windows.X.shape, windows.y.shape
    ((60, 20), (60, 20))
    >>> search = GridSearchCV(EASE(), {"l2": [1, 100]}, cv=windows.cv, refit=False)
    >>> best = search.fit(windows.X, windows.y).best_params_
    >>> model = EASE(**best).fit(X)
    """
    X: list[csr_array] = []
    y: list[csr_array] = []
    cv = []
    n_rows = 0
    for split in splits:
        if not isinstance(split, tuple) or len(split) not in (2, 3):
            raise ValueError(
                "splits must be a list of pairs (train, heldout) or of triples (train, fold_in,"
                f" heldout), got {split!r} in it."
            )
        train, *fold_in, heldout = map(stored_interactions, split)
        blocks = [train, *fold_in]
        if heldout.shape != blocks[-1].shape or len({X.shape[1] for X in [*X, *blocks]}) > 1:
            raise ValueError(
                "splits must have held-out matrices in the shape of their fold-in, and matrices"
                f" with the same columns, got the shapes {[part.shape for part in split]}."
            )
        first_rows = np.arange(n_rows, n_rows + train.shape[0])
        n_rows += sum(block.shape[0] for block in blocks)
        X += blocks
        y += [csr_array(train.shape, dtype=heldout.dtype) for _ in fold_in] + [heldout]
        cv.append((first_rows, np.arange(n_rows - heldout.shape[0], n_rows)))
    if not cv:
        raise ValueError("splits must have one or more splits, got none.")
    return Bunch(X=vstack(X, format="csr"), y=vstack(y, format="csr"), cv=cv)
