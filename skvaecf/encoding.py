"""From a log of events with ids to a users x items matrix, and from item numbers back to ids."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import narwhals as nw
import numpy as np
from scipy.sparse import coo_array, csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted

from ._columns import as_array, as_frame, library_of, unique_ids
from ._times import seconds_of_column
from .inspection import Explanation
from .interactions import check_structure, entries_at, select_entries
from .persistence import SaveMixin


class _Log(NamedTuple):
    """Distinct ids of users and items, and for each event their positions, its value and time."""

    user_ids: np.ndarray
    users: np.ndarray
    item_ids: np.ndarray
    items: np.ndarray
    values: np.ndarray
    times: np.ndarray | None


class InteractionEncoder(  # type: ignore[call-arg]
    SaveMixin, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None
):
    """Encode a long frame of interactions as a users x items matrix, and decode results to ids.

    The columns of the matrix are the items of the frame in ``fit``. Its rows are the users of the
    frame that is transformed, whether they were in ``fit`` or not: recommenders accept both. Rows
    and columns are in ascending order of the ids. ``partial_fit`` adds columns at the end.

    Parameters
    ----------
    user : str, default="user"
        Name of the column of user ids.
    item : str, default="item"
        Name of the column of item ids.
    value : str or None, default=None
        Name of a numeric column of ratings or counts. With None, every row of the frame has the
        value 1.
    time : str or None, default=None
        Name of a column of times: dates, numbers or strings in ISO format. Only
        ``transform_times`` reads it, so frames for the other methods need no times, unless they are
        tuples.

    Attributes
    ----------
    item_ids_ : ndarray of shape (n_items,)
        Id of each column of the matrix, ascending, followed by those of each ``partial_fit``.
    user_ids_ : ndarray of shape (n_users,)
        Ids of the users in the last ``fit`` or ``partial_fit``, ascending: the rows of the matrix
        of that frame.

    See Also
    --------
    TimeDecay : Transforms the times of interactions to weights.
    CountSaturation : Transforms counts to weights.
    load : Loads an encoder that ``save`` has written.

    Notes
    -----
    A frame is a pandas or polars DataFrame, a pyarrow Table or any other eager frame that narwhals
    supports, a dict of columns, or a tuple of columns: users, items, values and times, without
    those whose parameter is None. Frames that the encoder returns are of the same kind as the frame
    in ``fit``. If that was a dict or a tuple, the encoder returns dicts of arrays.

    If several rows of the frame have the same user and item, their values are added up. Without
    ``value``, the entry of a pair of user and item is thus its number of events. Recommenders use
    only whether a value is positive, unless ``use_values=True``. A total of zero is not an
    interaction and is not stored. To keep only some interactions, such as ratings of at least 4,
    filter the frame.

    Ids may be of any type that can be sorted and hashed, except times with a time zone. All ids of
    a column must be of one type. Unused categories of a categorical column are ignored. Strings are
    kept as Python objects, whatever their length. ``save`` supports ids that are numbers, strings
    or datetime64. If the ids are of another type, such as ``uuid.UUID``, convert them to strings
    first, or pickle the encoder.

    There is no ``set_output``, because the matrix is sparse. The rows of a log are not the rows of
    the matrix, so a search cannot split the input of a Pipeline that starts with the encoder.
    Encode first, then pass the matrix to the search or the recommender, as in the example.

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

    A frame of users who were not in ``fit``, and the user of each row of its matrix:

    >>> later = {"user": ["eve", "dan"], "item": [3, 7]}
    >>> encoder.transform(later).toarray()
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    >>> encoder.users(later).tolist()
    ['dan', 'eve']

    The item 5 is new. Its column is the last one, so the numbers of the other items stay:

    >>> encoder.partial_fit({"user": ["fay", "fay"], "item": [5, 7]}).item_ids_.tolist()
    [3, 7, 5]
    """

    _parameter_constraints: ClassVar[Any] = {
        "user": [str],
        "item": [str],
        "value": [str, None],
        "time": [str, None],
    }

    def __init__(
        self,
        user: str = "user",
        item: str = "item",
        value: str | None = None,
        time: str | None = None,
    ) -> None:
        self.user = user
        self.item = item
        self.value = value
        self.time = time

    def fit(self, frame: Any, y: Any = None) -> Self:
        """Learn the ids of the users and items.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        self : object
            The fitted encoder.

        Raises
        ------
        ValueError
            If a column is missing or holds missing values or ids of several types, if the values
            are not finite numbers, if there are no rows, or if a parameter is invalid.
        TypeError
            If ``frame`` is not a frame.
        """
        self._learn(frame)
        return self

    def fit_transform(self, frame: Any, y: Any = None) -> csr_array:
        """Learn the ids and return the matrix: ``fit(frame).transform(frame)`` in half the time.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        X : csr_array of shape (n_users, n_items), float32
            Row u belongs to the user ``user_ids_[u]``, column i to the item ``item_ids_[i]``. The
            indices are sorted and no zeros are stored.

        Raises
        ------
        ValueError
            As in ``fit``.
        TypeError
            If ``frame`` is not a frame.
        """
        log = self._learn(frame)
        return _matrix(log, np.arange(len(log.item_ids)), len(log.item_ids))

    def partial_fit(self, frame: Any, y: Any = None) -> Self:
        """Add the new items of a frame as the last columns; the numbers of known items stay.

        The first call is a ``fit``. ``partial_fit`` of a recommender accepts the wider matrices.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction.
        y : Ignored
            Present for scikit-learn's tools.

        Returns
        -------
        self : object
            The fitted encoder.

        Raises
        ------
        ValueError
            As in ``fit``, or if the ids of the items are of another type than those before.
        TypeError
            If ``frame`` is not a frame.
        """
        known = getattr(self, "item_ids_", None)
        if known is None:
            return self.fit(frame)
        log = self._learned_from(frame)
        new = log.item_ids[self._find(log.item_ids) < 0]
        try:
            item_ids = np.concatenate([known, new]) if len(new) else known
            numbers = unique_ids(item_ids, self.item)[1]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Column {self.item!r} must hold ids of the type of the known items, such as"
                f" {known.tolist()[0]!r}, got {new.tolist()[0]!r}."
            ) from error
        self._library, self.user_ids_, self.item_ids_ = library_of(frame), log.user_ids, item_ids
        self._by_id = np.argsort(numbers)
        return self

    def transform(self, frame: Any) -> csr_array:
        """Return the matrix of a frame.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction.

        Returns
        -------
        X : csr_array of shape (n_users, n_items), float32
            Row u belongs to the user ``users(frame)[u]``, column i to the item ``item_ids_[i]``.
            The indices are sorted and no zeros are stored.

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If a column is missing or holds missing values or ids of several types, or if the values
            are not finite numbers.
        TypeError
            If ``frame`` is not a frame.

        Warns
        -----
        UserWarning
            If the frame has items that were not in ``fit``. They are ignored. The row of a user
            with no other items is empty.
        """
        check_is_fitted(self)
        log = self._read(frame)
        numbers = self._find(log.item_ids)
        ignored = np.count_nonzero(numbers[log.items] < 0)
        if ignored:
            unknown = log.item_ids[numbers < 0].tolist()
            warnings.warn(
                f"{ignored} of {len(log.items)} interactions are ignored, because they are with"
                f" {len(unknown)} items unknown from fit, such as {unknown[0]!r}.",
                stacklevel=2,
            )
        return _matrix(log, numbers, len(self.item_ids_))

    def transform_times(self, frame: Any) -> csr_array:
        """Return the time of each interaction of ``transform(frame)``, for splits in time.

        Parameters
        ----------
        frame : frame, dict or tuple of columns
            One row per interaction, with the column that the parameter ``time`` names.

        Returns
        -------
        times : csr_array of shape (n_users, n_items), float64
            It has the stored entries of ``transform(frame)``. If several rows of the frame have the
            same user and item, the entry is the earliest of their times: later on, the pair is
            known. Numbers are kept. Dates become seconds since 1970-01-01 UTC, exact to the
            microsecond; dates without a time zone are in UTC. A time of 0 is a stored entry.

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If the parameter ``time`` is None, if the frame is invalid as in ``transform``, or if
            the column of times is missing or holds missing values or values that are not times.
        TypeError
            If ``frame`` is not a frame.

        See Also
        --------
        time_split : Split all interactions at one time.
        last_interactions_split : Hold out the last interactions of every user.

        Notes
        -----
        Items that were not in ``fit`` are ignored, without the warning of ``transform``.

        The values of ``transform(frame)`` are totals over all rows of the frame. After a split in
        time, the value of a training interaction includes later events of the same pair. This
        matters only with ``use_values=True``; then encode the log before the cut separately.

        Examples
        --------
        >>> from skvaecf import InteractionEncoder, time_split
        >>> log = {
        ...     "user": ["al", "al", "bo", "bo"],
        ...     "item": ["tea", "cup", "tea", "tea"],
        ...     "time": ["2024-12-30", "2025-01-02", "2024-12-31", "2025-01-05"],
        ... }
        >>> encoder = InteractionEncoder(time="time")
        >>> X, times = encoder.fit_transform(log), encoder.transform_times(log)
        >>> train, test = time_split(X, times, at="2025-01-01")
        >>> train.toarray(), test.toarray()
        (array([[0., 1.],
               [0., 2.]], dtype=float32), array([[1., 0.],
               [0., 0.]], dtype=float32))
        """
        check_is_fitted(self)
        if self.time is None:
            raise ValueError("time must name the column of times, got None.")
        log = self._read(frame, "time")
        return _times(log, self._find(log.item_ids), len(self.item_ids_))

    def item_numbers(self, ids: Any) -> np.ndarray:
        """Return the column number of each item id, for ``candidates``, ``exclude`` and others.

        Parameters
        ----------
        ids : array-like of shape (n,)
            Item ids, in any order.

        Returns
        -------
        numbers : ndarray of shape (n,), int64
            Item numbers: ``item_ids_[numbers]`` are the ids. The number of an id that was not in
            ``fit`` is -1. Recommenders ignore it with a warning.

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If ``ids`` is not a list, or holds missing values or ids of several types.

        Examples
        --------
        >>> from skvaecf import InteractionEncoder
        >>> log = {"user": ["al", "bo", "bo"], "item": [7, 3, 5]}
        >>> encoder = InteractionEncoder().fit(log)
        >>> encoder.item_numbers([7, 3, 100])
        array([ 2,  0, -1])
        """
        check_is_fitted(self)
        distinct, places = unique_ids(as_array(ids, "ids"), "ids")
        numbers: np.ndarray = self._find(distinct)[places]
        return numbers

    def users(self, frame: Any) -> np.ndarray:
        """Return the user id of each row of ``transform(frame)``.

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
            If the column is missing or holds missing values or ids of several types.
        TypeError
            If ``frame`` is not a frame.
        """
        return unique_ids(self._columns(frame, "user")["user"], self.user)[0]

    def inverse_transform(self, X: Any, users: Any = None) -> Any:
        """Return the long frame of a matrix.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions.
        users : array-like of shape (n_users,) or None, default=None
            Id of each row of X. None stands for the users of ``fit``; X must then have as many
            rows.

        Returns
        -------
        frame : frame or dict of arrays
            One row per nonzero entry, user by user. Its columns are the id of the user, the id of
            the item and the value. The column of values is "value" if the parameter ``value`` is
            None.

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If X or users has a wrong shape.
        """
        check_is_fitted(self)
        X = check_structure(X)
        entries = csr_array(check_array(X, accept_sparse="csr", input_name="X"))
        user_ids = self._row_ids(users, entries.shape[0])
        if entries.shape[1] != len(self.item_ids_):
            raise ValueError(
                f"X has {entries.shape[1]} columns; expected the {len(self.item_ids_)} items of"
                " fit."
            )
        rows, columns = entries.nonzero()
        values = entries.data[entries.data != 0]
        ids = [(self.user, user_ids[rows]), (self.item, self.item_ids_[columns])]
        return self._frame([*ids, (self.value or "value", values)])

    def to_frame(
        self,
        items: Any,
        scores: Any = None,
        *,
        users: Any = None,
        titles: Mapping[Any, Any] | None = None,
    ) -> Any:
        """Return a long frame of the recommendations that ``recommend`` returned.

        Parameters
        ----------
        items : array-like of int of shape (n_users, k)
            Item numbers, best first. -1 is padding and is left out.
        scores : array-like of shape (n_users, k) or None, default=None
            Scores of the items. With None, the frame has no scores.
        users : array-like of shape (n_users,) or None, default=None
            Id of each row of items. None stands for the users of ``fit``; items must then have as
            many rows.
        titles : mapping of item ids or None, default=None
            Title of each recommended item. With None, the frame has no titles.

        Returns
        -------
        frame : frame or dict of arrays
            One row per recommendation, user by user. Its columns are the id of the user, "rank"
            (from 1), the id of the item and, if they are given, "title" and "score".

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If a shape is wrong, an item number is out of range, the score of an item is NaN or
            infinite, or a title is missing.
        """
        check_is_fitted(self)
        numbers = self._check_numbers("items", items, "(n_users, k)")
        user_ids = self._row_ids(users, len(numbers))
        rows, places = np.nonzero(numbers >= 0)
        chosen = numbers[rows, places]
        item_ids = self.item_ids_[chosen]
        columns = [(self.user, user_ids[rows]), ("rank", places + 1), (self.item, item_ids)]
        if titles is not None:
            columns.append(("title", self._titles(chosen, titles)))
        if scores is not None:
            values = np.asarray(scores)
            if values.shape != numbers.shape:
                raise ValueError(f"scores has shape {values.shape}; expected {numbers.shape}.")
            values = values[rows, places]
            if not np.isfinite(values).all():
                raise ValueError("scores must be finite for all items but -1, got NaN or infinity.")
            columns.append(("score", values))
        return self._frame(columns)

    def explanation_to_frame(
        self,
        explanation: Explanation,
        *,
        users: Any = None,
        titles: Mapping[Any, Any] | None = None,
    ) -> Any:
        """Return a long frame of the reasons that ``explain`` returned.

        Parameters
        ----------
        explanation : Explanation
            Reasons of the items of n_users users.
        users : array-like of shape (n_users,) or None, default=None
            Id of each row of ``explanation.items``. None stands for the users of ``fit``; there
            must then be as many rows.
        titles : mapping of item ids or None, default=None
            Title of each item and of each reason. With None, the frame has no titles.

        Returns
        -------
        frame : frame or dict of arrays
            One row per reason: user by user, item by item, largest contribution first. Its columns
            are the id of the user; "rank" (from 1), the id and, with titles, "title" of the
            explained item; "reason", the id of an item of the user, and, with titles,
            "reason_title"; and "contribution", what the reason adds to the score. An item without
            reasons, as for a user without items, has no rows.

        Raises
        ------
        NotFittedError
            If the encoder is not fitted.
        ValueError
            If a shape is wrong, an item number is out of range, or a title is missing.

        Examples
        --------
        >>> from skvaecf import EASE, InteractionEncoder
        >>> log = {"user": ["al", "al", "bo", "bo", "cy"], "item": [7, 3, 7, 3, 7]}
        >>> encoder = InteractionEncoder()
        >>> X = encoder.fit_transform(log)
        >>> model = EASE(l2=1.0).fit(X)
        >>> explanation = model.explain(X, model.recommend(X, k=1), k=1)
        >>> titles = {3: "Solaris", 7: "Alien"}
        >>> because = encoder.explanation_to_frame(explanation, titles=titles)
        >>> [because[name].item() for name in ("user", "title", "reason_title")]
        ['cy', 'Solaris', 'Alien']
        """
        check_is_fitted(self)
        items = self._check_numbers("explanation.items", explanation.items, "(n_users, n)")
        reasons = self._check_numbers("explanation.reasons", explanation.reasons, "(n_users, n, k)")
        if reasons.shape[:2] != items.shape:
            raise ValueError(
                f"explanation has items of shape {items.shape} and reasons of shape"
                f" {reasons.shape}; expected k reasons for each item."
            )
        user_ids = self._row_ids(users, len(items))
        rows, places, _ = found = np.nonzero(reasons >= 0)
        explained, because = items[rows, places], reasons[found]
        columns = [(self.user, user_ids[rows]), ("rank", places + 1)]
        columns.append((self.item, self.item_ids_[explained]))
        if titles is not None:
            columns.append(("title", self._titles(explained, titles)))
        columns.append(("reason", self.item_ids_[because]))
        if titles is not None:
            columns.append(("reason_title", self._titles(because, titles)))
        columns.append(("contribution", np.asarray(explanation.contributions)[found]))
        return self._frame(columns)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the id of each column of the matrix.

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

    def _check_numbers(self, name: str, items: Any, shape: str) -> np.ndarray:
        """Return item numbers as an array of a shape such as "(n_users, k)"; -1 is padding."""
        numbers = np.asarray(items)
        if numbers.ndim != shape.count(",") + 1 or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"{name} has shape {numbers.shape} and dtype {numbers.dtype}; expected item numbers"
                f" of shape {shape}."
            )
        n_items = len(self.item_ids_)
        if numbers.size and not -1 <= numbers.min() <= numbers.max() < n_items:
            raise ValueError(
                f"{name} must lie in [0, {n_items}), or be -1 for padding, got values from"
                f" {numbers.min()} to {numbers.max()}."
            )
        return numbers

    def _titles(self, numbers: np.ndarray, titles: Mapping[Any, Any]) -> np.ndarray:
        """Return the title of each item number."""
        distinct, which = np.unique(numbers, return_inverse=True)
        try:
            found = [titles[i] for i in self.item_ids_[distinct].tolist()]
        except KeyError as error:
            raise ValueError(f"titles has no title of the item {error}.") from error
        return np.array(found, dtype=object)[which]

    def _find(self, ids: np.ndarray) -> np.ndarray:
        """Return the item number of each id, -1 for ids that were not in ``fit``."""
        wanted = ids
        if ids.dtype.kind == self.item_ids_.dtype.kind == "M":
            wanted = ids.astype(self.item_ids_.dtype)  # dates in another unit
        if 32 * len(wanted) < len(self.item_ids_):  # a table would cost more than a few searches
            found = (self._search(i) for i in wanted)
        else:
            number = {item: i for i, item in enumerate(self.item_ids_.tolist())}
            found = (number.get(i, -1) for i in wanted.tolist())
        numbers = np.fromiter(found, dtype=np.int64, count=len(wanted))
        numbers[wanted != ids] = -1  # the conversion has rounded the date
        return numbers

    def _search(self, wanted: Any) -> int:
        """Return the number of one item id, -1 if it is not known."""
        ids, by_id = self.item_ids_, self._by_id
        try:
            place = bisect_left(by_id, wanted, key=lambda number: ids[number])
            known = place < len(ids) and ids[by_id[place]] == wanted
        except TypeError:  # an id of another type, which cannot be compared
            known = False
        return int(by_id[place]) if known else -1

    def _learn(self, frame: Any) -> _Log:
        """Set the attributes that ``fit`` learns, and return the events."""
        log = self._learned_from(frame)
        self.user_ids_, self.item_ids_ = log.user_ids, log.item_ids
        self._library, self._by_id = library_of(frame), np.arange(len(log.item_ids))
        return log

    def _learned_from(self, frame: Any) -> _Log:
        """Return the events of a frame from which the encoder can learn."""
        self._validate_params()
        log = self._read(frame)
        if not len(log.values):
            raise ValueError("The frame has no rows; expected at least one interaction.")
        return log

    def _read(self, frame: Any, *further: str) -> _Log:
        """Return the events of a frame, with their times if ``further`` names them."""
        columns = self._columns(frame, "user", "item", "value", *further)
        lengths = {parameter: len(column) for parameter, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"The columns of the frame have different lengths: {lengths}.")
        values = columns.get("value", np.broadcast_to(1.0, lengths["user"]))
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise ValueError(
                f"Column {self.value!r} has dtype {values.dtype}; expected finite numbers only."
            )
        user_ids, users = unique_ids(columns["user"], self.user)
        item_ids, items = unique_ids(columns["item"], self.item)
        # SciPy keeps the type of the coordinates; some scikit-learn estimators accept only int32.
        places = users.astype(np.int32), items.astype(np.int32)
        return _Log(user_ids, places[0], item_ids, places[1], values, columns.get("time"))

    def _columns(self, frame: Any, *parameters: str) -> dict[str, np.ndarray]:
        """Return the column that each of these parameters names; some of them may name none."""
        given = {"user": self.user, "item": self.item, "value": self.value, "time": self.time}
        names = {parameter: name for parameter, name in given.items() if name is not None}
        if isinstance(frame, tuple):
            if len(frame) != len(names):
                columns = tuple(names.values())
                raise ValueError(
                    f"frame must have the columns {columns}, got a tuple of {len(frame)}."
                )
            frame = dict(zip(names.values(), frame, strict=True))
        elif not isinstance(frame, Mapping):
            frame = as_frame(frame).to_dict(as_series=True)
        names = {parameter: names[parameter] for parameter in parameters if parameter in names}
        for parameter, name in names.items():
            if name not in frame:
                raise ValueError(
                    f"{parameter}={name!r} is not a column of the frame; its columns are"
                    f" {list(frame)}."
                )
        return {
            parameter: (seconds_of_column if parameter == "time" else as_array)(frame[name], name)
            for parameter, name in names.items()
        }

    def _row_ids(self, users: Any, n_rows: int) -> np.ndarray:
        """Return the user id of each row; None stands for the users of ``fit``."""
        if users is None and n_rows != len(self.user_ids_):
            raise ValueError(
                f"There are {n_rows} rows, and fit saw {len(self.user_ids_)} users: pass"
                " users=encoder.users(frame), where frame is the frame that was transformed."
            )
        ids = self.user_ids_ if users is None else as_array(users, "users")
        if len(ids) != n_rows:
            raise ValueError(f"users has {len(ids)} ids; expected one for each of {n_rows} rows.")
        return ids

    def _frame(self, columns: list[tuple[str, np.ndarray]]) -> Any:
        """Return a frame of the kind of the frame in ``fit``."""
        names = [name for name, _ in columns]
        if len(set(names)) < len(names):
            raise ValueError(f"The frame would have two columns of one name: {names}.")
        if self._library is None:
            return dict(columns)
        # From a list of strings, each library makes its own type of string.
        lists = {name: v.tolist() if v.dtype.kind == "O" else v for name, v in columns}
        return nw.from_dict(lists, backend=self._library).to_native()

    def _check_loaded(self) -> None:
        n_items = len(self.item_ids_)
        if (np.sort(self._by_id) != np.arange(n_items)).any():
            raise ValueError("the order of its items is not a permutation")
        for ids in (self.user_ids_, self.item_ids_[self._by_id]):
            if ids.ndim != 1 or not len(ids) or not (ids[:-1] < ids[1:]).all():
                raise ValueError("its ids do not ascend")
        if self._library not in (None, *(member.value for member in nw.Implementation)):
            raise ValueError(f"there is no library of frames {self._library!r}")

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.dict = True
        return tags


def _search(ids: np.ndarray, wanted: Any) -> int:
    """Return the place of an id among ascending ids, -1 if it is not there."""
    try:
        place = bisect_left(ids, wanted)
        return place if place < len(ids) and ids[place] == wanted else -1
    except TypeError:  # an id of another type, which cannot be compared
        return -1


def _events(log: _Log, data: np.ndarray, columns: np.ndarray, n_items: int) -> coo_array:
    """Return one entry per event; ``columns`` is the column of each item, -1 to ignore the item."""
    column = columns.astype(np.int32)[log.items]
    known = column >= 0
    kept = slice(None) if known.all() else known  # a slice copies nothing
    coordinates = (log.users[kept], column[kept])
    values = data[kept].astype(np.float64, copy=False)
    return coo_array((values, coordinates), shape=(len(log.user_ids), n_items))


def _matrix(log: _Log, columns: np.ndarray, n_items: int) -> csr_array:
    """Return the sums of the values of the events."""
    X = _events(log, log.values, columns, n_items).tocsr()
    if np.abs(X.data).max(initial=0) > np.finfo(np.float32).max:
        raise ValueError("value must name a column whose sums do not exceed the range of float32.")
    X = X.astype(np.float32)
    X.eliminate_zeros()
    return X


def _times(log: _Log, columns: np.ndarray, n_items: int) -> csr_array:
    """Return the earliest time of the events of each entry of ``_matrix``."""
    assert log.times is not None
    events = _events(log, log.times, columns, n_items)
    events.has_canonical_format = True  # otherwise tocsr adds up the times of a pair
    rows = events.tocsr()
    rows.sort_indices()
    is_first = np.diff(rows.indices, prepend=-1) != 0
    is_first[rows.indptr[:-1][np.diff(rows.indptr) > 0]] = True
    times = select_entries(rows, is_first)
    if times.nnz:  # reduceat needs one or more places
        times.data = np.minimum.reduceat(rows.data, np.flatnonzero(is_first))
    if (log.values > np.finfo(np.float32).tiny).all():
        return times
    # The values of other pairs may add up to zero.
    return entries_at(_matrix(log, columns, n_items), times)
