"""Hold out users, or part of the interactions of each user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import Bunch, check_random_state

from .._parameters import (
    AtLeastTwo,
    Fraction,
    NonNegativeInt,
    PositiveInt,
    RandomState,
    Seed,
    check_values,
    validated,
)
from ..interactions import binary_csr, check_rows, select_entries, stored_interactions
from ._shares import floor
from ._time import last_interactions_split, timed_interactions


@validated
def split_interactions(
    X: Any,
    test_size: Fraction = 0.2,
    *,
    random_state: RandomState = None,
    min_interactions: AtLeastTwo = 5,
) -> tuple[csr_array, csr_array]:
    """Split every user's interactions at random into a fold-in and a held-out part.

    Which items of a row are held out depends only on ``random_state`` and on the set of items in
    the row. The order and number of the other rows, the stored values, the format of X and the
    machine make no difference. Two rows with the same items are split in the same way.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. A stored positive value is an interaction. Repeated entries are added up.
    test_size : float, default=0.2
        Share of each row to hold out, strictly between 0 and 1. Of a row with n interactions,
        ``floor(test_size * n)`` are held out, but at least one.
    random_state : int, RandomState instance or None, default=None
        Seed of the split. With None, every call returns another split.
    min_interactions : int, default=5
        A row with fewer interactions is not split: all of it is in ``fold_in``. At least 2.

    Returns
    -------
    fold_in : csr_array of shape (n_users, n_items)
        The interactions that the model may use, with the values of X.
    heldout : csr_array of shape (n_users, n_items)
        The other interactions, with the values of X. ``fold_in + heldout`` is X.

    Raises
    ------
    ValueError
        If X holds NaN, infinity or negative values or is corrupt, or if a parameter is invalid.

    See Also
    --------
    last_interactions_split : Holds out the last interactions instead of random ones.
    UserSplitter : Holds out users.
    strong_generalization_split : Holds out users, and interactions of these users.

    Examples
    --------
    The first user has 5 items, of which one is held out. The second has too few to hold one out:

    >>> from skvaecf import split_interactions
    >>> X = [[5, 4, 0, 3, 5, 1], [4, 4, 0, 0, 0, 0]]
    >>> fold_in, heldout = split_interactions(X, random_state=0)
    >>> fold_in.sum(axis=1) + heldout.sum(axis=1)
    array([18,  8])
    >>> (heldout > 0).sum(axis=1)
    array([1, 0])
    """
    X = stored_interactions(X)
    X.sum_duplicates()
    counts = np.diff(X.indptr)
    n_heldout = np.maximum(floor(test_size * counts), 1)
    n_heldout[counts < min_interactions] = 0

    seed = check_random_state(random_state).randint(2**63 - 1, dtype=np.int64)
    entry_rows = np.repeat(np.arange(X.shape[0]), counts)
    order = np.lexsort((_random_keys(X, entry_rows, seed), entry_rows))
    # In this order entry e is number e - indptr[row] of its row, and the first ones are held out.
    place = np.arange(X.nnz) - X.indptr[entry_rows]
    held = np.empty(X.nnz, dtype=bool)
    held[order] = place < n_heldout[entry_rows]
    return select_entries(X, ~held), select_entries(X, held)


@dataclass(eq=False, repr=False)
class UserSplitter(BaseCrossValidator):
    """Cross-validation over users: models are scored on users who were not in their fit.

    This is strong generalization. A scorer such as ``ndcg_at_k`` splits the rows of the test users
    further, into a part that the model may use and a part that it must predict.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits; at least 2 if ``test_size`` is None.
    test_size : float, int or None, default=None
        With None, the eligible users are partitioned into ``n_splits`` test sets of nearly equal
        size. Otherwise each split draws its own test set: a share of the eligible users (float,
        rounded down to at least one user) or a number of users (int).
    min_interactions : int, default=5
        Users with fewer interactions are not eligible: they are training users in every split.
    shuffle : bool, default=True
        Whether to partition the users in random order. False keeps the order of the rows.
    random_state : int, RandomState instance or None, default=None
        Seed of the order. With an int, every call returns the same splits.

    See Also
    --------
    strong_generalization_split : One split into training, validation and test users.
    split_interactions : Holds out interactions instead of users.
    time_split : Holds out the future.

    Examples
    --------
    Of these five users, the fourth has too few interactions to be a test user:

    >>> import numpy as np
    >>> from skvaecf import UserSplitter
    >>> X = np.array([[1, 1, 0, 1],
    ...               [0, 1, 1, 0],
    ...               [1, 1, 1, 1],
    ...               [0, 0, 1, 0],
    ...               [1, 0, 0, 1]])
    >>> splitter = UserSplitter(n_splits=2, min_interactions=2, shuffle=False)
    >>> for train, test in splitter.split(X):
    ...     print("train", train, "test", test)
    train [2 3 4] test [0 1]
    train [0 1 3] test [2 4]
    >>> X[test]
    array([[1, 1, 1, 1],
           [1, 0, 0, 1]])
    """

    n_splits: PositiveInt = 5
    _: KW_ONLY
    test_size: Fraction | PositiveInt | None = None
    min_interactions: NonNegativeInt = 5
    shuffle: bool = True
    random_state: RandomState = None

    def __post_init__(self) -> None:
        check_values(UserSplitter, vars(self))
        if self.test_size is None and self.n_splits < 2:
            raise ValueError(
                f"n_splits must be at least 2 if test_size is None, got {self.n_splits}."
            )
        if self.test_size is not None and not self.shuffle:
            raise ValueError(
                "shuffle must be True if test_size is given, got False: all splits would be equal."
            )

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits.

        Parameters
        ----------
        X, y, groups : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        n_splits : int
        """
        return self.n_splits

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the row numbers of the training users and of the test users of each split.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions.
        y, groups : Ignored
            Present for scikit-learn's tools.

        Yields
        ------
        train : ndarray of shape (n_train_users,)
            Row numbers, ascending.
        test : ndarray of shape (n_test_users,)
            Row numbers, ascending.

        Raises
        ------
        ValueError
            If there are too few eligible users.
        """
        # The base class passes its X to the method below, which needs only the counts.
        yield from super().split(np.diff(binary_csr(check_rows(X)).indptr))

    def _iter_test_indices(self, X: Any, y: Any, groups: Any) -> Iterator[NDArray[np.int64]]:
        rng = check_random_state(self.random_state)
        counts = X
        eligible = np.flatnonzero(counts >= self.min_interactions)
        available = f"{len(eligible)} users with at least {self.min_interactions} interactions"
        if self.test_size is None:
            if self.n_splits > len(eligible):
                raise ValueError(f"n_splits={self.n_splits} is more than the {available}.")
            users = rng.permutation(eligible) if self.shuffle else eligible
            yield from np.array_split(users, self.n_splits)
            return
        n_test = self.test_size
        if not isinstance(n_test, Integral):
            n_test = max(int(floor(n_test * len(eligible))), 1)
        if n_test > min(len(eligible), len(counts) - 1):
            raise ValueError(
                f"test_size={self.test_size} needs {n_test} test users and at least one training"
                f" user, but X has {len(counts)} users, {available}."
            )
        for _ in range(self.n_splits):
            yield rng.permutation(eligible)[:n_test]


@validated
def strong_generalization_split(
    X: Any,
    n_heldout: PositiveInt,
    *,
    times: Any = None,
    min_interactions: PositiveInt = 5,
    test_size: Fraction = 0.2,
    random_state: Seed = 98765,
) -> Bunch:
    """Split into training, validation and test users as Liang et al. (2018) did.

    With the default seed, this function draws the same random numbers as the authors' notebook. The
    users and the held-out interactions are then those of the published results on MovieLens-20M,
    Netflix and Million Song. X must be the authors' input: the rows in sorted order of the user
    ids, the stored entries of a row in the order of the file (CSR whose indices are NOT sorted),
    after the authors' filters. The ``fetch_*`` functions return such an X.

    The users are permuted. The last ``n_heldout`` of them are the test users, and the ``n_heldout``
    before those the validation users. Items without an interaction of a training user are dropped.
    Of each held-out user who still has n >= ``min_interactions`` items, ``int(test_size * n)`` are
    held out.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. A stored positive value is an interaction. Formats other than CSR are
        converted, with the items of a row in ascending order.
    n_heldout : int
        Number of validation users, and of test users.
    times : sparse matrix of shape (n_users, n_items) or None, default=None
        Time of each interaction, as in :func:`time_split`. The held-out interactions of a user are
        then the last ones, chosen by :func:`last_interactions_split`, instead of random ones. The
        users are permuted as without times.
    min_interactions : int, default=5
        Of a held-out user with fewer interactions on the training items, nothing is held out: all
        are in the fold-in part. No user is dropped.
    test_size : float, default=0.2
        Share of a held-out user's interactions to hold out, strictly between 0 and 1.
    random_state : int, default=98765
        Seed of the permutation. The same seed is set again for the validation users and again for
        the test users.

    Returns
    -------
    data : Bunch
        The matrices have one column for each of ``train_items`` and hold the values of X.

        train : csr_array of shape (n_users - 2 * n_heldout, n_train_items)
            All interactions of the training users.
        validation_fold_in, validation_heldout : csr_array of shape (n_heldout, n_train_items)
            The interactions of the validation users that a model may use, and those that it must
            predict.
        test_fold_in, test_heldout : csr_array of shape (n_heldout, n_train_items)
            The same for the test users.
        train_users, validation_users, test_users : ndarray of int
            The row of X of each row of these matrices, in permuted order.
        train_items : ndarray of shape (n_train_items,)
            The column of X of each column of these matrices: the items of the training users, in
            the order in which they first appear when X is read row by row.

    Raises
    ------
    ValueError
        If X holds NaN, infinity, negative values or a repeated entry or is corrupt, or if a
        parameter is invalid.

    See Also
    --------
    UserSplitter : Several splits, for scikit-learn's searches.
    split_interactions : Splits the rows of all users.
    time_split : Holds out the future instead of users.

    Notes
    -----
    The authors number the items in the order in which they first appear in the file. In a file that
    is sorted by user id (MovieLens), this is the order of ``train_items``. In other files (Netflix
    is sorted by movie), the same columns are in another order, which changes scores only through
    ties.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative filtering",
    WWW 2018, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skvaecf import strong_generalization_split
    >>> X = np.ones((7, 10), dtype=int)
    >>> data = strong_generalization_split(X, n_heldout=2)
    >>> data.train_users, data.validation_users, data.test_users
    (array([2, 0, 6]), array([1, 4]), array([3, 5]))
    >>> data.test_fold_in.sum(axis=1), data.test_heldout.sum(axis=1)
    (array([8, 8]), array([2, 2]))

    Every user consumed the items in the order of their numbers, so the last ones are held out:

    >>> times = np.tile(np.arange(1, 11), (7, 1))
    >>> data = strong_generalization_split(X, n_heldout=2, times=times)
    >>> data.test_heldout.toarray()
    array([[0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
           [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]])
    """
    X = stored_interactions(X)
    n_users, n_items = X.shape
    n_train = n_users - 2 * n_heldout
    if n_train < 1:
        raise ValueError(
            f"n_heldout={n_heldout} must be less than half of the {n_users} users of X."
        )
    if binary_csr(X).nnz < X.nnz:
        raise ValueError("X must not hold an entry twice: the order of its entries matters here.")
    if times is not None:
        sorted_X, t = timed_interactions(X, times)
        times = csr_array((t, sorted_X.indices, sorted_X.indptr), shape=X.shape)

    users = np.random.RandomState(random_state).permutation(n_users)
    train_users, validation_users, test_users = np.split(users, [n_train, n_train + n_heldout])
    seen, first = np.unique(X[np.sort(train_users)].indices, return_index=True)
    items = seen[np.argsort(first)].astype(np.int64)
    column = np.full(n_items, -1)
    column[items] = np.arange(len(items))
    X = select_entries(X, column[X.indices] >= 0)
    X = csr_array((X.data, column[X.indices], X.indptr), shape=(n_users, len(items)))

    data = Bunch(train=X[train_users].sorted_indices(), train_users=train_users, train_items=items)
    for name, users in (("validation", validation_users), ("test", test_users)):
        part = X[users]
        if times is None:
            held = _draw(part, users, test_size, min_interactions, random_state)
            fold_in, heldout = select_entries(part, ~held), select_entries(part, held)
        else:
            fold_in, heldout = last_interactions_split(
                part, times[users][:, items], test_size, min_interactions=max(min_interactions, 2)
            )
        data[f"{name}_users"] = users
        data[f"{name}_fold_in"] = fold_in.sorted_indices()
        data[f"{name}_heldout"] = heldout.sorted_indices()
    return data


def _draw(
    X: csr_array, ids: NDArray[np.int64], test_size: float, min_interactions: int, seed: int
) -> NDArray[np.bool_]:
    """Draw the entries to hold out as the authors did, user by user in the order of the ids."""
    held = np.zeros(X.nnz, dtype=bool)
    rng = np.random.RandomState(seed)
    for row in np.argsort(ids):
        start, stop = X.indptr[row : row + 2]
        n = stop - start
        if n >= min_interactions:
            held[start + rng.choice(n, size=int(test_size * n), replace=False)] = True
    return held


def _random_keys(X: csr_array, entry_rows: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Compute a random number of each stored entry from the seed, the item and its row's items.

    This is a hash, because the numbers that a generator draws for a row depend on the rows before.
    """
    items = _mix(X.indices.astype(np.uint64) + _mix(np.array([seed], dtype=np.uint64)))
    # Sums are modulo 2**64, so a row's sum is a difference of running sums even after overflow.
    running = np.append(np.uint64(0), items.cumsum(dtype=np.uint64))
    rows = running[X.indptr[1:]] - running[X.indptr[:-1]]
    return _mix(items + _mix(rows)[entry_rows])


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers with the splitmix64 finalizer (Steele et al., OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
