"""Splits in time: the held-out interactions are later than those of the training."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.utils import check_array

from .._parameters import AtLeastTwo, Fraction, PositiveInt, validated
from .._times import seconds_of
from ..interactions import check_structure, entries_at, select_entries, stored_interactions
from ._shares import floor

New = Literal["keep", "drop", "only"]
Pair = tuple[csr_array, csr_array]


@validated
def time_split(
    X: Any,
    times: Any,
    at: Any = None,
    *,
    test_size: Fraction = 0.2,
    new_users: New = "keep",
    new_items: New = "keep",
) -> Pair:
    """Split all interactions at one time: train on the past, test on the future.

    The training part holds the interactions before the cut, the test part those at the cut and
    later. Every test interaction is thus later than every training interaction, of all users.

    A user is new if there is no training interaction of that user, and an item is new if there is
    none of that item. By default both parts together are X. A model cannot recommend a new item,
    and has no fold-in of a new user, so choose explicitly what happens to their interactions.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. A stored positive value is an interaction. Repeated entries are added up.
    times : sparse matrix of shape (n_users, n_items)
        Time of each interaction, as :meth:`InteractionEncoder.transform_times` returns it: numbers
        in any unit, or seconds since 1970-01-01 UTC for dates. There must be one stored entry for
        each interaction of X; other entries are ignored. A stored 0 is a time.
    at : number, date, datetime64, str in ISO format or None, default=None
        Time of the cut. A date stands for its seconds since 1970-01-01 UTC, so it needs times in
        this unit. A date without a time zone is in UTC. With None, ``test_size`` decides.
    test_size : float, default=0.2
        Share of the interactions to hold out if ``at`` is None: of n interactions, the latest
        ``floor(test_size * n)``, but at least one. Interactions that are as old as the oldest of
        them are held out, too.
    new_users, new_items : {"keep", "drop", "only"}, default="keep"
        Which test interactions to keep. "drop" drops those of new users (items). "only" drops the
        others. To count them, call the function with "only".

    Returns
    -------
    train : csr_array of shape (n_users, n_items)
        Training interactions and the fold-in of the test users, with the values of X. The rows of
        new users are empty.
    test : csr_array of shape (n_users, n_items)
        Held-out interactions, with the values of X.

    Raises
    ------
    ValueError
        If X or times is invalid, if times lacks an interaction of X, if there is nothing
        before the cut or nothing after it, or if a parameter is invalid.

    See Also
    --------
    rolling_time_splits : Several cuts, one after the other.
    last_interactions_split : Hold out the last interactions of every user.
    stack_splits : Pass splits to scikit-learn's searches.

    Examples
    --------
    Two films of 2015 are held out at the turn of the year. The third user and the last film are
    new:

    >>> import numpy as np
    >>> from skvaecf import time_split
    >>> years = np.array([[2013, 2015,    0,    0],
    ...                   [2014,    0, 2013, 2015],
    ...                   [   0, 2015,    0,    0],
    ...                   [2012, 2014, 2014,    0]])
    >>> X = (years > 0).astype(int)
    >>> train, test = time_split(X, years, at=2015)
    >>> train.toarray()
    array([[1, 0, 0, 0],
           [1, 0, 1, 0],
           [0, 0, 0, 0],
           [1, 1, 1, 0]])
    >>> test.toarray()
    array([[0, 1, 0, 0],
           [0, 0, 0, 1],
           [0, 1, 0, 0],
           [0, 0, 0, 0]])

    Only items and users of the training part:

    >>> train, test = time_split(X, years, at=2015, new_users="drop", new_items="drop")
    >>> test.toarray()
    array([[0, 1, 0, 0],
           [0, 0, 0, 0],
           [0, 0, 0, 0],
           [0, 0, 0, 0]])

    Only the new items, for a model that can recommend them:

    >>> train, test = time_split(X, years, at=2015, new_items="only")
    >>> test.toarray()
    array([[0, 0, 0, 0],
           [0, 0, 0, 1],
           [0, 0, 0, 0],
           [0, 0, 0, 0]])
    """
    return rolling_time_splits(
        X,
        times,
        None if at is None else [at],
        n_splits=1,
        test_size=test_size,
        new_users=new_users,
        new_items=new_items,
    )[0]


@validated
def rolling_time_splits(
    X: Any,
    times: Any,
    at: Iterable[Any] | None = None,
    *,
    n_splits: PositiveInt = 5,
    test_size: Fraction | None = None,
    new_users: New = "keep",
    new_items: New = "keep",
) -> list[Pair]:
    r"""Split the interactions into several pairs of past and future, forward in time.

    The test windows follow each other without gaps. The training part of a pair holds everything
    before its test window, as in scikit-learn's ``TimeSeriesSplit``.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. A stored positive value is an interaction. Repeated entries are added up.
    times : sparse matrix of shape (n_users, n_items)
        Time of each interaction, as in :func:`time_split`.
    at : sequence of numbers or dates, or None, default=None
        Ascending times at which the test windows begin, each as in :func:`time_split`. A window
        ends where the next one begins, and the last one holds all later interactions. With None,
        ``n_splits`` and ``test_size`` decide.
    n_splits : int, default=5
        Number of pairs if ``at`` is None.
    test_size : float or None, default=None
        Share of the interactions in each test window if ``at`` is None. None stands for
        ``1 / (n_splits + 1)``. Interactions that are as old as the oldest of a window are in this
        window, so that equal times are never in two of them.
    new_users, new_items : {"keep", "drop", "only"}, default="keep"
        Which test interactions to keep, as in :func:`time_split`. A user (item) is new if there is
        no interaction in the training part of the same pair.

    Returns
    -------
    splits : list of (train, test)
        Pairs of matrices (csr_array) of shape (n_users, n_items), the oldest first, with the values
        of X.

    Raises
    ------
    ValueError
        If X or times is invalid, if times lacks an interaction of X, if there is nothing
        before the first window or nothing in a window, or if a parameter is invalid.

    See Also
    --------
    time_split : One pair of past and future.
    last_interactions_split : The last interactions of every user.
    stack_splits : Passes the pairs to scikit-learn's searches.

    Examples
    --------
    Train on the past of 2014 and test on 2014, then train on the past of 2015 and test on 2015:

    >>> import numpy as np
    >>> from skvaecf import rolling_time_splits
    >>> years = np.array([[2013, 2014, 2015],
    ...                   [2014, 2013,    0],
    ...                   [2012, 2014, 2015]])
    >>> X = (years > 0).astype(int)
    >>> for train, test in rolling_time_splits(X, years, at=[2014, 2015]):
    ...     print(train.toarray(), test.toarray(), sep="\n", end="\n\n")
    [[1 0 0]
     [0 1 0]
     [1 0 0]]
    [[0 1 0]
     [1 0 0]
     [0 1 0]]
    <BLANKLINE>
    [[1 1 0]
     [1 1 0]
     [1 1 0]]
    [[0 0 1]
     [0 0 0]
     [0 0 1]]
    <BLANKLINE>
    """
    X, t = timed_interactions(X, times)
    if not X.nnz:
        raise ValueError("X has no interactions to split.")
    if at is None:
        starts = _starts(t, n_splits, 1 / (n_splits + 1) if test_size is None else test_size)
    else:
        starts = _given_starts(t, at)
    splits = []
    for start, end in pairwise([*starts, np.inf]):
        train, test = select_entries(X, t < start), select_entries(X, (t >= start) & (t < end))
        if not test.nnz:
            raise ValueError(f"at has no interactions between {start:.15g} and {end:.15g}.")
        splits.append((train, _keep(train, test, new_users, new_items)))
    return splits


@validated
def last_interactions_split(
    X: Any,
    times: Any,
    test_size: Fraction | PositiveInt = 1,
    *,
    min_interactions: AtLeastTwo = 5,
) -> Pair:
    """Split off the last interactions of every user (leave-last-out).

    Within a user, every held-out interaction is later than every other one. Between users, the
    order is not kept: a model may be trained on interactions of other users that are later than a
    user's held-out ones. :func:`time_split` does not allow this.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. A stored positive value is an interaction. Repeated entries are added up.
    times : sparse matrix of shape (n_users, n_items)
        Time of each interaction, as in :func:`time_split`.
    test_size : int or float, default=1
        Number of interactions of each user to hold out, or a share of them: of n interactions,
        ``floor(test_size * n)``, but at least one. Interactions that are as old as the oldest of
        them are held out, too.
    min_interactions : int, default=5
        A row with fewer interactions is not split: all of it is in ``fold_in``. At least 2. A row
        of which nothing would be left in ``fold_in`` is not split either, for instance if all its
        times are equal.

    Returns
    -------
    fold_in : csr_array of shape (n_users, n_items)
        The earlier interactions, with the values of X.
    heldout : csr_array of shape (n_users, n_items)
        The later interactions, with the values of X. ``fold_in + heldout`` is X.

    Raises
    ------
    ValueError
        If X or times is invalid, if times lacks an interaction of X, or if a parameter is
        invalid.

    See Also
    --------
    split_interactions : Holds out random interactions of every user.
    time_split : One time for all users.
    rolling_time_splits : Several times, one after the other.

    Examples
    --------
    The last film of each user. The first user saw two on one day. The last user has too few:

    >>> import numpy as np
    >>> from skvaecf import last_interactions_split
    >>> days = np.array([[3, 1, 3, 2],
    ...                  [5, 0, 4, 7],
    ...                  [0, 6, 0, 9]])
    >>> X = (days > 0).astype(int)
    >>> fold_in, heldout = last_interactions_split(X, days, min_interactions=3)
    >>> fold_in.toarray()
    array([[0, 1, 0, 1],
           [1, 0, 1, 0],
           [0, 1, 0, 1]])
    >>> heldout.toarray()
    array([[1, 0, 1, 0],
           [0, 0, 0, 1],
           [0, 0, 0, 0]])

    Strong generalization in time: all interactions of the training users, and of the test users the
    first ones as fold-in and the last ones as held-out items:

    >>> train, test = [0, 2], [1]
    >>> fold_in[test].toarray(), heldout[test].toarray()
    (array([[1, 0, 1, 0]]), array([[0, 0, 0, 1]]))
    """
    X, t = timed_interactions(X, times)
    counts = np.diff(X.indptr)
    n_heldout = (
        np.minimum(test_size, counts)
        if isinstance(test_size, Integral)
        else np.maximum(floor(test_size * counts), 1)
    )
    split = np.flatnonzero(counts >= min_interactions)
    ascending = t.copy()
    for row in np.split(ascending, X.indptr[1:-1]):  # many times faster than np.lexsort
        row.sort()
    first, oldest = ascending[X.indptr[split]], ascending[(X.indptr[1:] - n_heldout)[split]]
    cut = np.full(X.shape[0], np.inf)
    cut[split] = np.where(oldest > first, oldest, np.inf)
    held = t >= np.repeat(cut, counts)
    return select_entries(X, ~held), select_entries(X, held)


def timed_interactions(X: Any, times: Any) -> tuple[csr_array, NDArray[Any]]:
    """Return a canonical copy of X, and the time of each of its stored entries."""
    X = stored_interactions(X)
    X.sum_duplicates()
    given = check_array(check_structure(times, "times"), accept_sparse="csr", input_name="times")
    given = csr_array(given)
    if not given.has_sorted_indices:
        given = given.sorted_indices()
    if X.shape != given.shape:
        raise ValueError(f"times has shape {given.shape}; expected the shape {X.shape} of X.")
    if not given.has_canonical_format:
        raise ValueError("times must not hold an entry twice: an interaction has one time.")
    given = entries_at(X, given)
    if given.nnz < X.nnz:
        raise ValueError(
            f"times lacks {X.nnz - given.nnz} of the {X.nnz} interactions of X; expected a stored"
            " entry for each of them. In a dense array, a 0 is not a time."
        )
    return X, given.data


def _starts(t: NDArray[Any], n_splits: int, test_size: float) -> list[Any]:
    """Return the times at which windows with this share of the interactions begin."""
    if n_splits * test_size >= 1:
        raise ValueError(
            f"n_splits={n_splits} windows with the share test_size={test_size} leave no"
            " interactions for the training."
        )
    sizes = np.maximum(floor(test_size * len(t) * np.arange(n_splits, 0, -1)), 1)
    places = len(t) - sizes
    starts: list[Any] = np.partition(t, places)[places].tolist()
    if t.min() == starts[0] or len(set(starts)) < n_splits:
        raise ValueError(
            f"n_splits={n_splits} windows with the share test_size={test_size} cannot be cut,"
            " because too many interactions have the same time. Use at, or fewer windows."
        )
    return starts


def _given_starts(t: NDArray[Any], at: Iterable[Any]) -> list[float]:
    """Return the numbers of these dates or numbers, at which windows begin."""
    try:
        starts = [seconds_of(time) for time in at]
    except (TypeError, ValueError) as error:
        raise ValueError(f"at must hold numbers or dates, got {at!r}: {error}") from error
    if not starts or not (np.diff(starts) > 0).all():
        raise ValueError(f"at must have one or more ascending times, got {at!r}.")
    if not t.min() < starts[0] <= starts[-1] <= t.max():
        raise ValueError(
            f"at={at!r} is {starts} in numbers. It must be later than the first time,"
            f" {t.min():.15g}, and not later than the last one, {t.max():.15g}. Dates stand for"
            " seconds since 1970-01-01 UTC."
        )
    return starts


def _keep(train: csr_array, test: csr_array, new_users: New, new_items: New) -> csr_array:
    """Return the test interactions that are asked for."""
    users_are_new = np.diff(train.indptr) == 0
    items_are_new = np.bincount(train.indices, minlength=train.shape[1]) == 0
    keep = np.ones(test.nnz, dtype=bool)
    if new_users != "keep":
        keep &= np.repeat(users_are_new, np.diff(test.indptr)) == (new_users == "only")
    if new_items != "keep":
        keep &= items_are_new[test.indices] == (new_items == "only")
    return select_entries(test, keep)
