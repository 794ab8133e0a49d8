"""Logs of interactions: from the text of a file to the filtered users x items matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from ._archives import Source

BLOCK_BYTES = 1 << 23


class Filter(NamedTuple):
    """Least rating, number of interactions per user and number of users per item to keep."""

    min_rating: float | None
    min_user_interactions: int
    min_item_users: int


class Codes(dict[bytes, int]):
    """Numbers of distinct tokens, in the order in which they first appear."""

    def __missing__(self, token: bytes) -> int:
        self[token] = code = len(self)
        return code

    def encode(self, tokens: list[bytes]) -> NDArray[np.int32]:
        return np.fromiter(map(self.__getitem__, tokens), np.int32, len(tokens))

    def decode(self, dtype: type) -> NDArray[Any]:
        return np.array(list(self), dtype=np.bytes_).astype(dtype)


# The users, items and ratings of several lines, as they are written in the file.
Tokens = tuple[list[bytes], list[bytes], list[bytes]]


def blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield blocks of whole lines. The memory is then that of one block."""
    while block := stream.read(BLOCK_BYTES):
        yield block + stream.readline()


def read_lines(stream: IO[bytes], separator: str, n_columns: int) -> Iterator[Tokens]:
    """Yield the tokens of lines of user, item, rating and columns that are ignored."""
    for block in blocks(stream):
        tokens = block.replace(separator.encode(), b" ").split()
        yield tokens[0::n_columns], tokens[1::n_columns], tokens[2::n_columns]


def split_lines(stream: IO[bytes], encoding: str, separator: str) -> Iterator[list[str]]:
    """Yield the three columns of each line. Only the last one may hold the separator."""
    for line in TextIOWrapper(stream, encoding):
        if line.strip():
            yield line.rstrip("\n").split(separator, 2)


def filter_interactions(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    ratings: NDArray[np.float32],
    *,
    min_rating: float | None = None,
    min_user_interactions: int = 0,
    min_item_users: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Return the interactions that remain after the filter of Liang et al. (2018).

    Low ratings are dropped first, then rare items, then users with few remaining interactions. Each
    minimum is applied once, so an item may have fewer than `min_item_users` users in the end.

    Parameters
    ----------
    users, items : ndarray of shape (n_interactions,), dtype int32
        Codes, counted from 0.
    ratings : ndarray of shape (n_interactions,), dtype float32
        Ratings or counts.
    min_rating : float or None, default=None
        Lowest rating to keep. None keeps every rating.
    min_user_interactions : int, default=0
        Users with fewer interactions are dropped.
    min_item_users : int, default=0
        Items with fewer interactions are dropped.

    Returns
    -------
    users, items, ratings : ndarray of shape (n_kept,)
        The remaining interactions, in the same order.
    """
    if min_rating is not None:
        keep = ratings >= min_rating
        users, items, ratings = users[keep], items[keep], ratings[keep]
    for axis, least in ((1, min_item_users), (0, min_user_interactions)):
        codes = (users, items)[axis]
        keep = (np.bincount(codes) >= least)[codes]
        users, items, ratings = users[keep], items[keep], ratings[keep]
    return users, items, ratings


def compact(codes: NDArray[np.int32], ids: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Return codes in the order of the ids, and the sorted ids, without ids that do not occur."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    order = used[np.argsort(ids[used])]
    renumbered = np.zeros(len(ids), dtype=np.int32)
    renumbered[order] = np.arange(len(order), dtype=np.int32)
    return renumbered[codes], ids[order]


def assemble(tokens: Iterable[Tokens], source: Source, filters: Filter, id_dtype: type) -> Bunch:
    """Return the filtered matrix, with the entries of a row in the order of the file, and its ids.

    Raises
    ------
    ValueError
        If the number of interactions before the filter is not that of the source.
    """
    user_codes, item_codes, rating_codes = Codes(), Codes(), Codes()
    n_interactions = 0
    parts = []
    for user_tokens, item_tokens, rating_tokens in tokens:
        users = user_codes.encode(user_tokens)
        items = item_codes.encode(item_tokens)
        codes = rating_codes.encode(rating_tokens)
        ratings = rating_codes.decode(np.float32)[codes]
        parts.append(filter_interactions(users, items, ratings, min_rating=filters.min_rating))
        n_interactions += len(codes)
    if n_interactions != source.n_interactions:
        raise ValueError(
            f"it holds {n_interactions:,} interactions; expected {source.n_interactions:,}. It is"
            " damaged or another edition"
        )
    users, items, values = filter_interactions(
        *(np.concatenate(arrays) for arrays in zip(*parts, strict=True)),
        min_user_interactions=filters.min_user_interactions,
        min_item_users=filters.min_item_users,
    )
    del parts
    rows, user_ids = compact(users, user_codes.decode(id_dtype))
    columns, item_ids = compact(items, item_codes.decode(id_dtype))
    # SciPy's conversion from coordinates sorts the indices, which loses the order of the file.
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(user_ids))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    data = csr_array((values[order], columns[order], indptr), shape=(len(user_ids), len(item_ids)))
    return Bunch(data=data, user_ids=user_ids, item_ids=item_ids)


def names_of(item_ids: NDArray[Any], titles: dict[int, str]) -> NDArray[np.str_]:
    """Return the title of each item; an empty string if there is no title."""
    return np.array([titles.get(int(item), "") for item in item_ids], dtype=np.str_)
