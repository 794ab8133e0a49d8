"""Ways to hold out users, and to hold out part of what a user has."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, validate_parameter_constraints

from .interactions import binary_csr, check_rows, stored_interactions

_SHARE = Interval(Real, 0, 1, closed="neither")
_POSITIVE = Interval(Integral, 1, None, closed="left")


def split_interactions(
    X: Any,
    test_size: float = 0.2,
    *,
    random_state: int | np.random.RandomState | None = None,
    min_interactions: int = 5,
) -> tuple[csr_array, csr_array]:
    """Hold out a random part of every user's interactions.

    Which items of a row are held out depends on ``random_state`` and on the row's own set of
    items, and on nothing else: the order and number of the other rows, the stored values, the
    format of X and the machine make no difference. Two rows with the same items are cut alike.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. A stored positive value is an interaction. Repeated entries are added up.
    test_size : float, default=0.2
        Share of each row to hold out, strictly between 0 and 1. A row with n interactions loses
        ``floor(test_size * n)`` of them, and at least one.
    random_state : int, RandomState instance or None, default=None
        Seed of the cut. None gives another cut on every call.
    min_interactions : int, default=5
        A row with fewer interactions stays whole in ``fold_in``; at least 2.

    Returns
    -------
    fold_in : csr_array of shape (n_users, n_items)
        What the model may see, with the values of X.
    heldout : csr_array of shape (n_users, n_items)
        The rest, with the values of X. ``fold_in + heldout`` is X.

    Raises
    ------
    ValueError
        If X holds NaN, infinity or negative values or is corrupt, or a parameter is invalid.

    See Also
    --------
    UserSplitter : Hold out users rather than interactions.
    strong_generalization_split : Both at once, as in the published benchmarks.

    Examples
    --------
    The first user has 5 items and loses one of them, the second has too few to be cut:

    >>> from skvaecf import split_interactions
    >>> X = [[5, 4, 0, 3, 5, 1], [4, 4, 0, 0, 0, 0]]
    >>> fold_in, heldout = split_interactions(X, random_state=0)
    >>> fold_in.sum(axis=1) + heldout.sum(axis=1)
    array([18,  8])
    >>> (heldout > 0).sum(axis=1)
    array([1, 0])
    """
    validate_parameter_constraints(
        {
            "test_size": [_SHARE],
            "random_state": ["random_state"],
            "min_interactions": [Interval(Integral, 2, None, closed="left")],
        },
        {
            "test_size": test_size,
            "random_state": random_state,
            "min_interactions": min_interactions,
        },
        caller_name="split_interactions",
    )
    X = stored_interactions(X)
    X.sum_duplicates()
    counts = np.diff(X.indptr)
    n_heldout = np.maximum(_floor(test_size * counts), 1)
    n_heldout[counts < min_interactions] = 0

    seed = check_random_state(random_state).randint(2**63 - 1, dtype=np.int64)
    entry_rows = np.repeat(np.arange(X.shape[0]), counts)
    order = np.lexsort((_random_keys(X, entry_rows, seed), entry_rows))
    # In this order entry e is number e - indptr[row] of its row, and the first ones are held out.
    place = np.arange(X.nnz) - X.indptr[entry_rows]
    held = np.empty(X.nnz, dtype=bool)
    held[order] = place < n_heldout[entry_rows]
    return _entries(X, ~held), _entries(X, held)


class UserSplitter(BaseCrossValidator):
    """Cross-validation over users: models are scored on users they were not fitted on.

    This is strong generalization. A scorer such as ``ndcg_at_k`` then cuts the rows of the test
    users into what the model sees and what it has to find.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits; at least 2 where ``test_size`` is None.
    test_size : float, int or None, default=None
        None partitions the eligible users into ``n_splits`` test sides of nearly equal size.
        Otherwise each split draws its own test side: a share of the eligible users (float;
        rounded down, but one user at least) or a number of users (int).
    min_interactions : int, default=5
        Users with fewer interactions are on the train side of every split.
    shuffle : bool, default=True
        Partition the users in random order. False cuts them as they come.
    random_state : int, RandomState instance or None, default=None
        Seed of the order. An int gives the same splits on every call.

    See Also
    --------
    split_interactions : Hold out part of every row.

    Examples
    --------
    Five users, of whom the fourth has too few interactions to be tested on:

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

    def __init__(
        self,
        n_splits: int = 5,
        *,
        test_size: float | int | None = None,
        min_interactions: int = 5,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.test_size = test_size
        self.min_interactions = min_interactions
        self.shuffle = shuffle
        self.random_state = random_state
        least_splits = 2 if test_size is None else 1
        validate_parameter_constraints(
            {
                "n_splits": [Interval(Integral, least_splits, None, closed="left")],
                "test_size": [_SHARE, _POSITIVE, None],
                "min_interactions": [Interval(Integral, 0, None, closed="left")],
                "shuffle": ["boolean"],
                "random_state": ["random_state"],
            },
            vars(self),
            caller_name="UserSplitter",
        )
        if test_size is not None and not shuffle:
            raise ValueError(
                "shuffle must be True where test_size is given, got False: every split would be"
                " the same."
            )

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Tell the number of splits.

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
        """Generate the rows of the train and test users.

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
        # The base class turns the test rows found below into pairs; counts will do for that.
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
            n_test = max(int(_floor(n_test * len(eligible))), 1)
        if n_test > min(len(eligible), len(counts) - 1):
            raise ValueError(
                f"test_size={self.test_size} asks for {n_test} test users and one train user or"
                f" more, but X has {len(counts)} users, {available}."
            )
        for _ in range(self.n_splits):
            yield rng.permutation(eligible)[:n_test]


def strong_generalization_split(
    X: Any,
    n_heldout: int,
    *,
    min_interactions: int = 5,
    test_size: float = 0.2,
    random_state: int = 98765,
) -> Bunch:
    """Split into train, validation and test users as Liang et al. (2018) did.

    With the default seed this draws the very numbers of the authors' notebook, so the users and
    held-out interactions are those of the published MovieLens-20M, Netflix and Million Song
    results. That needs their input: rows in sorted order of the user ids, the stored entries of
    a row in the order of the file (CSR whose indices are NOT sorted), and their filters applied
    before, which the ``fetch_*`` functions do.

    Users are permuted; the last ``n_heldout`` are for the test, as many before them for
    validation. Items without an interaction of a training user are dropped. Of each held-out
    user with ``min_interactions`` items or more left, ``int(test_size * n)`` are held out.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. A stored positive value is an interaction. Formats other than CSR are
        converted, with the items of a row in ascending order.
    n_heldout : int
        Number of validation users, and of test users.
    min_interactions : int, default=5
        A held-out user with fewer interactions on the training items stays whole in the fold-in
        part. Nobody is dropped for it.
    test_size : float, default=0.2
        Share of a held-out user's interactions to hold out, strictly between 0 and 1.
    random_state : int, default=98765
        Seed, used for the permutation and, set anew, for validation and for test.

    Returns
    -------
    data : Bunch
        The matrices have one column for each of ``train_items`` and the values of X.

        train : csr_array of shape (n_users - 2 * n_heldout, n_train_items)
            All interactions of the training users.
        validation_fold_in, validation_heldout : csr_array of shape (n_heldout, n_train_items)
            What a model may see of the validation users, and what it must find.
        test_fold_in, test_heldout : csr_array of shape (n_heldout, n_train_items)
            Likewise of the test users.
        train_users, validation_users, test_users : ndarray of int
            Rows of X that the rows of these matrices are, in permuted order.
        train_items : ndarray of shape (n_train_items,)
            Columns of X that their columns are: the items of the training users, in order of
            first appearance when X is read row by row.

    Raises
    ------
    ValueError
        If X holds NaN, infinity, negative values or an entry twice or is corrupt, or if a
        parameter is invalid.

    Notes
    -----
    The authors number the items in order of first appearance in the file. For a file in order of
    the user ids (MovieLens) that is the order of ``train_items``; for others (Netflix: movie by
    movie) the same columns come in another order, which changes no score but through ties.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, "Variational Autoencoders for Collaborative Filtering",
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
    """
    validate_parameter_constraints(
        {
            "n_heldout": [_POSITIVE],
            "min_interactions": [_POSITIVE],
            "test_size": [_SHARE],
            "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
        },
        {
            "n_heldout": n_heldout,
            "min_interactions": min_interactions,
            "test_size": test_size,
            "random_state": random_state,
        },
        caller_name="strong_generalization_split",
    )
    X = stored_interactions(X)
    n_users, n_items = X.shape
    if 2 * n_heldout >= n_users:
        raise ValueError(
            f"n_heldout={n_heldout} must be less than half of the {n_users} users of X."
        )
    if binary_csr(X).nnz < X.nnz:
        raise ValueError("X must not hold an entry twice: the order of its entries matters here.")

    users = np.random.RandomState(random_state).permutation(n_users)
    train_users, validation_users, test_users = np.split(
        users, [n_users - 2 * n_heldout, n_users - n_heldout]
    )
    seen, first = np.unique(X[np.sort(train_users)].indices, return_index=True)
    items = seen[np.argsort(first)].astype(np.int64)
    column = np.full(n_items, -1)
    column[items] = np.arange(len(items))

    def on_items(rows: NDArray[np.int64]) -> csr_array:
        part = X[rows]
        part = _entries(part, column[part.indices] >= 0)
        return csr_array(
            (part.data, column[part.indices], part.indptr), shape=(len(rows), len(items))
        )

    def cut(rows: NDArray[np.int64]) -> tuple[csr_array, csr_array]:
        # The authors draw user by user in the order of the ids and renumber afterwards.
        ascending = np.sort(rows)
        part = on_items(ascending)
        held = np.zeros(part.nnz, dtype=bool)
        rng = np.random.RandomState(random_state)
        for start, stop in pairwise(part.indptr):
            n = stop - start
            if n >= min_interactions:
                held[start + rng.choice(n, size=int(test_size * n), replace=False)] = True
        back = np.searchsorted(ascending, rows)
        return _sorted(_entries(part, ~held)[back]), _sorted(_entries(part, held)[back])

    validation_fold_in, validation_heldout = cut(validation_users)
    test_fold_in, test_heldout = cut(test_users)
    return Bunch(
        train=_sorted(on_items(train_users)),
        validation_fold_in=validation_fold_in,
        validation_heldout=validation_heldout,
        test_fold_in=test_fold_in,
        test_heldout=test_heldout,
        train_users=train_users,
        validation_users=validation_users,
        test_users=test_users,
        train_items=items,
    )


def _entries(X: csr_array, keep: NDArray[np.bool_]) -> csr_array:
    """Those of the stored entries that a mask selects, as a matrix of the same shape."""
    kept_before = np.append(0, keep.cumsum())
    return csr_array((X.data[keep], X.indices[keep], kept_before[X.indptr]), shape=X.shape)


def _sorted(X: csr_array) -> csr_array:
    X.sort_indices()
    return X


def _floor(x: Any) -> Any:
    """Round down, but take 0.29 * 100 = 28.999999999999996 for the 29 that it means."""
    return np.floor(np.round(x, 9)).astype(np.int64)


def _random_keys(X: csr_array, entry_rows: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Random number of each stored entry that depends on the seed, the item and its row's items.

    A hash rather than a generator: a generator gives a row other numbers when other rows go
    before it.
    """
    items = _mix(X.indices.astype(np.uint64) + _mix(np.array([seed], dtype=np.uint64)))
    # Sums wrap around, so a row's sum is a difference of running sums, whatever their size.
    running = np.append(np.uint64(0), items.cumsum(dtype=np.uint64))
    rows = running[X.indptr[1:]] - running[X.indptr[:-1]]
    return _mix(items + _mix(rows)[entry_rows])


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers with the splitmix64 finalizer (Steele et al., OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
