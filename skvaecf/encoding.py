"""A log of events with ids to a users x items matrix, and item numbers back to ids."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import narwhals as nw
import numpy as np
from scipy.sparse import coo_array, csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted

from .columns import as_array, as_frame, library_of, unique_ids
from .interactions import check_structure
from .persistence import SaveMixin


class _Log(NamedTuple):
    """Events: the number of each one's user and item among the distinct ids, and its value."""

    user_ids: np.ndarray
    users: np.ndarray
    item_ids: np.ndarray
    items: np.ndarray
    values: np.ndarray


class InteractionEncoder(  # type: ignore[call-arg]
    SaveMixin, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None
):
    """Turn a long frame of interactions into a users x items matrix, and results back into ids.

    The columns of the matrix are the items of ``fit``. Its rows are the users of the frame that is
    transformed, known from ``fit`` or not: recommenders take both. Both stand in ascending order
    of their ids.

    Parameters
    ----------
    user : str, default="user"
        Name of the column of user ids.
    item : str, default="item"
        Name of the column of item ids.
    value : str or None, default=None
        Name of a numeric column of ratings or counts. None: every row of the frame counts 1.

    Attributes
    ----------
    item_ids_ : ndarray of shape (n_items,)
        Id of each column of the matrix, ascending.
    user_ids_ : ndarray of shape (n_users,)
        Ids of the users in ``fit``, ascending: the rows that ``fit_transform`` gives.

    Notes
    -----
    A frame is a pandas or polars DataFrame, a pyarrow Table or any other eager frame that narwhals
    knows, a dict of columns, or a tuple of columns (users, items) or (users, items, values). What
    the encoder itself makes is of the same kind as the frame in ``fit``, or a dict of arrays.

    The values of a pair of user and item that stands in several rows are added up, so that without
    ``value`` a pair has the number of its events. Recommenders ask for positive values only, but
    for ``WMF(counts=True)``. A total of zero is no interaction and is not stored. To keep, say,
    ratings of at least 4 only, filter the frame.

    Ids may be of any type that can be sorted and hashed, one per column, except times with a
    time zone. Unused categories of a categorical column are ignored. Strings are kept as Python
    objects, whatever their length. ``save`` takes numbers, strings and datetime64; with ids of any
    other type, such as ``uuid.UUID``, change them to strings first or pickle the encoder.

    There is no ``set_output``: the matrix is sparse. Rows of a log are not rows of the matrix, so a
    search cannot cut a Pipeline that starts with the encoder: encode first, then go on with the
    matrix, as in the example.

    Examples
    --------
    >>> from skvaecf import InteractionEncoder, Popularity
    >>> log = {"user": ["bo", "al", "bo", "cy"], "item": [7, 7, 3, 7]}
    >>> encoder = InteractionEncoder()
    >>> X = encoder.fit_transform(log)
    >>> X.toarray()
    array([[0., 1.],
           [1., 1.],
           [0., 1.]], dtype=float32)
    >>> items, scores = Popularity().fit(X).recommend(X, k=1, return_scores=True)
    >>> lists = encoder.to_frame(items, scores, titles={3: "Solaris", 7: "Alien"})
    >>> [column.tolist() for column in lists.values()]
    [['al', 'cy'], [1, 1], [3, 3], ['Solaris', 'Solaris'], [1.0, 1.0]]

    Users who came later, and the row of each:

    >>> later = {"user": ["eve", "dan"], "item": [3, 7]}
    >>> encoder.transform(later).toarray()
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    >>> encoder.users(later).tolist()
    ['dan', 'eve']
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "user": [str],
        "item": [str],
        "value": [str, None],
    }

    def __init__(self, user: str = "user", item: str = "item", value: str | None = None) -> None:
        self.user = user
        self.item = item
        self.value = value

    def fit(self, frame: Any, y: Any = None) -> Self:
        """Learn the ids.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a column is missing, holds missing values or ids of several types, if the values
            are not finite numbers, if there are no rows, or if a parameter is invalid.
        TypeError
            If it is no frame.
        """
        self._validate_params()
        self._learn(self._read(frame), frame)
        return self

    def fit_transform(self, frame: Any, y: Any = None) -> csr_array:
        """Learn the ids and make the matrix: ``fit(frame).transform(frame)`` in half the time.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        X : csr_array of shape (n_users, n_items), float32
            Row u is of the user ``user_ids_[u]``, column i of the item ``item_ids_[i]``. Sorted
            indices, no stored zeros.

        Raises
        ------
        ValueError
            As in ``fit``.
        TypeError
            If it is no frame.
        """
        self._validate_params()
        log = self._read(frame)
        self._learn(log, frame)
        return _matrix(log, np.arange(len(log.item_ids)), len(log.item_ids))

    def transform(self, frame: Any) -> csr_array:
        """Make the matrix of a frame.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction.

        Returns
        -------
        X : csr_array of shape (n_users, n_items), float32
            Row u is of the user ``users(frame)[u]``, column i of the item ``item_ids_[i]``. Sorted
            indices, no stored zeros.

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If a column is missing, holds missing values or ids of several types, or if the values
            are not finite numbers.
        TypeError
            If it is no frame.

        Warns
        -----
        UserWarning
            If there are items unknown from ``fit``: they are ignored. A user who has no others
            gets an empty row.
        """
        check_is_fitted(self)
        log = self._read(frame)
        numbers = self._find(log.item_ids)
        ignored = np.count_nonzero(numbers[log.items] < 0)
        if ignored:
            unknown = log.item_ids[numbers < 0].tolist()
            warnings.warn(
                f"{ignored} of {len(log.items)} interactions are ignored: they are with"
                f" {len(unknown)} items unknown from fit, such as {unknown[0]!r}.",
                stacklevel=2,
            )
        return _matrix(log, numbers, len(self.item_ids_))

    def item_numbers(self, ids: Any) -> np.ndarray:
        """Find the column of each id: what ``similar_items`` and ``candidates`` take.

        Parameters
        ----------
        ids : array-like of shape (n,)
            Item ids, in any order.

        Returns
        -------
        numbers : ndarray of shape (n,), int64
            Item numbers, of which ``item_ids_[numbers]`` are the ids. -1 for ids that were not in
            ``fit``; recommenders refuse it.

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If ids are no list, or hold missing values or ids of several types.

        Examples
        --------
        >>> from skvaecf import InteractionEncoder
        >>> encoder = InteractionEncoder().fit({"user": ["al", "bo", "bo"], "item": [7, 3, 5]})
        >>> encoder.item_numbers([7, 3, 100])
        array([ 2,  0, -1])
        """
        check_is_fitted(self)
        distinct, places = unique_ids(as_array(ids, "ids"), "ids")
        numbers: np.ndarray = self._find(distinct)[places]
        return numbers

    def users(self, frame: Any) -> np.ndarray:
        """Tell which user each row of ``transform(frame)`` is.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction.

        Returns
        -------
        user_ids : ndarray of shape (n_users,)
            The distinct user ids, ascending.

        Raises
        ------
        ValueError
            If the column is missing, holds missing values or ids of several types.
        TypeError
            If it is no frame.
        """
        return unique_ids(self._take(frame, 1)[0], self.user)[0]

    def inverse_transform(self, X: Any, users: Any = None) -> Any:
        """Make the long frame of a matrix.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions.
        users : array-like of shape (n_users,) or None, default=None
            Id of each row. None means those of ``fit``, and X must then have as many rows.

        Returns
        -------
        frame : frame or dict of arrays
            One row per entry that is not zero, user by user: the id of the user, that of the item,
            and the value, as "value" if the parameter ``value`` is None.

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If a shape does not fit.
        """
        check_is_fitted(self)
        X = check_structure(X)
        entries = csr_array(check_array(X, accept_sparse="csr", input_name="X"))
        ids = self._row_ids(users, entries.shape[0])
        if entries.shape[1] != len(self.item_ids_):
            raise ValueError(
                f"X has {entries.shape[1]} columns; expected the {len(self.item_ids_)} items of"
                " fit."
            )
        rows, columns = entries.nonzero()
        values = entries.data[entries.data != 0]
        return self._frame(
            {self.user: ids[rows], self.item: self.item_ids_[columns]},
            {self.value or "value": values},
        )

    def to_frame(
        self,
        items: Any,
        scores: Any = None,
        *,
        users: Any = None,
        titles: Mapping[Any, Any] | None = None,
    ) -> Any:
        """Make a long frame of what ``recommend`` gives.

        Parameters
        ----------
        items : array-like of int of shape (n_users, k)
            Item numbers, best first. -1 is padding and is left out.
        scores : array-like of shape (n_users, k) or None, default=None
            Their scores. None leaves them out.
        users : array-like of shape (n_users,) or None, default=None
            Id of each row. None means those of ``fit``, and items must then have as many rows.
        titles : mapping of item ids or None, default=None
            Title of each item that is recommended. None leaves the titles out.

        Returns
        -------
        frame : frame or dict of arrays
            One row per recommendation, user by user: the id of the user, "rank" (from 1), the id
            of the item and, where given, "title" and "score".

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If a shape does not fit, an item number is out of range, or a title is missing.
        """
        check_is_fitted(self)
        numbers = np.asarray(items)
        if numbers.ndim != 2 or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"items has shape {numbers.shape} and dtype {numbers.dtype}; expected item numbers"
                " of shape (n_users, k)."
            )
        n_items = len(self.item_ids_)
        if numbers.size and not -1 <= numbers.min() <= numbers.max() < n_items:
            raise ValueError(
                f"items must lie in [0, {n_items}), or be -1 for padding, got values from"
                f" {numbers.min()} to {numbers.max()}."
            )
        ids = self._row_ids(users, len(numbers))
        rows, places = np.nonzero(numbers >= 0)
        chosen = numbers[rows, places]
        optional = {}
        if titles is not None:
            distinct, which = np.unique(chosen, return_inverse=True)
            try:
                of = [titles[i] for i in self.item_ids_[distinct].tolist()]
            except KeyError as error:
                raise ValueError(f"titles has no title of the item {error}.") from error
            optional["title"] = np.array(of, dtype=object)[which]
        if scores is not None:
            values = np.asarray(scores)
            if values.shape != numbers.shape:
                raise ValueError(f"scores has shape {values.shape}; expected {numbers.shape}.")
            optional["score"] = values[rows, places]
        return self._frame(
            {self.user: ids[rows]},
            {"rank": places + 1},
            {self.item: self.item_ids_[chosen]},
            optional,
        )

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Give the id of each column of the matrix.

        Parameters
        ----------
        input_features : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        item_ids : ndarray of shape (n_items,), object
        """
        check_is_fitted(self)
        return self.item_ids_.astype(object)

    def _find(self, ids: np.ndarray) -> np.ndarray:
        """Find the item number of each id, -1 for those unknown from ``fit``."""
        # By hash, so that ids of another integer type are found, too.
        number = dict(zip(self.item_ids_.tolist(), range(len(self.item_ids_)), strict=True))
        wanted = ids
        if ids.dtype.kind == self.item_ids_.dtype.kind == "M":
            wanted = ids.astype(self.item_ids_.dtype)  # dates in another unit
        numbers = np.array([number.get(i, -1) for i in wanted.tolist()], dtype=np.int64)
        numbers[wanted != ids] = -1  # noon is not its day
        return numbers

    def _read(self, frame: Any) -> _Log:
        users, items, values = self._columns(frame)
        return _Log(*unique_ids(users, self.user), *unique_ids(items, self.item), values)

    def _learn(self, log: _Log, frame: Any) -> None:
        if not len(log.values):
            raise ValueError("The frame has no rows; expected at least one interaction.")
        self.user_ids_, self.item_ids_ = log.user_ids, log.item_ids
        self._library = library_of(frame)

    @property
    def _names(self) -> list[str]:
        return [self.user, self.item, *([] if self.value is None else [self.value])]

    def _take(self, frame: Any, n_columns: int) -> list[np.ndarray]:
        """Take the first of the columns user, item and, if there is one, value."""
        names = self._names
        if isinstance(frame, tuple):
            if len(frame) != len(names):
                raise ValueError(
                    f"frame must have the columns {tuple(names)}, got a tuple of {len(frame)}."
                )
            frame = dict(zip(names, frame, strict=True))
        elif not isinstance(frame, Mapping):
            frame = as_frame(frame)
        present = list(frame.keys() if isinstance(frame, Mapping) else frame.columns)
        names = names[:n_columns]
        for argument, name in zip(("user", "item", "value"), names, strict=False):
            if name not in present:
                raise ValueError(
                    f"{argument}={name!r} is not a column of the frame; its columns are {present}."
                )
        return [as_array(frame[name], name) for name in names]

    def _columns(self, frame: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take users, items and values out of a frame, all of shape (n_rows,)."""
        users, items, *rest = self._take(frame, 3)
        values = rest[0] if rest else np.ones(len(users))
        if len({len(users), len(items), len(values)}) > 1:
            raise ValueError(
                f"Columns {self._names} have {len(users)}, {len(items)} and {len(values)} rows;"
                " expected the same number."
            )
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise ValueError(
                f"Column {self.value!r} has dtype {values.dtype}; expected finite numbers only."
            )
        return users, items, values.astype(np.float64)

    def _row_ids(self, users: Any, n_rows: int) -> np.ndarray:
        if users is None and n_rows != len(self.user_ids_):
            raise ValueError(
                f"There are {n_rows} rows, and fit saw {len(self.user_ids_)} users: pass"
                " users=encoder.users(frame) with the frame that was transformed."
            )
        ids = self.user_ids_ if users is None else as_array(users, "users")
        if len(ids) != n_rows:
            raise ValueError(f"users has {len(ids)} ids; expected one for each of {n_rows} rows.")
        return ids

    def _frame(self, *parts: dict[str, Any]) -> Any:
        """Make a frame of columns, of the kind of that in ``fit``."""
        columns = {name: values for part in parts for name, values in part.items()}
        if len(columns) < sum(map(len, parts)):
            names = [name for part in parts for name in part]
            raise ValueError(f"The frame would have two columns of one name: {names}.")
        if self._library is None:
            return columns
        # Of a list of strings every library makes its own type of string.
        lists = {n: v.tolist() if v.dtype.kind == "O" else v for n, v in columns.items()}
        return nw.from_dict(lists, backend=self._library).to_native()

    def _check_loaded(self) -> None:
        for ids in (self.user_ids_, self.item_ids_):
            if ids.ndim != 1 or not len(ids) or not (ids[:-1] < ids[1:]).all():
                raise ValueError("its ids do not ascend")
        if self._library not in (None, *(member.value for member in nw.Implementation)):
            raise ValueError(f"there is no library of frames {self._library!r}")

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.dict = True
        return tags


def _matrix(log: _Log, columns: np.ndarray, n_items: int) -> csr_array:
    """Add events up; ``columns`` holds the column of each distinct item, -1 to leave it out."""
    column = columns[log.items]
    known = column >= 0
    # SciPy keeps the type of the coordinates, and some scikit-learn estimators take int32 only.
    coordinates = (log.users[known].astype(np.int32), column[known].astype(np.int32))
    shape = (len(log.user_ids), n_items)
    X = coo_array((log.values[known], coordinates), shape=shape).tocsr()
    if np.abs(X.data).max(initial=0) > np.finfo(np.float32).max:
        raise ValueError("value must name a column whose sums are numbers of float32.")
    X = X.astype(np.float32)
    X.eliminate_zeros()
    return X
