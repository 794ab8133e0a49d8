"""Logs of interactions: from the text of a file to the filtered matrix of users and items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from numbers import Integral, Real
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.utils import Bunch, check_scalar

from ._archives import Source

BLOCK_BYTES = 1 << 23


class Codes(dict[bytes, int]):
    """Numbers of distinct tokens, in the order of their first appearance."""

    def __missing__(self, token: bytes) -> int:
        self[token] = code = len(self)
        return code

    def encode(self, tokens: list[bytes]) -> NDArray[np.int32]:
        return np.fromiter(map(self.__getitem__, tokens), np.int32, len(tokens))

    def decode(self, dtype: type) -> NDArray[Any]:
        return np.array(list(self), dtype=np.bytes_).astype(dtype)


# Users, items and ratings of some lines, as they are written in the file.
Tokens = tuple[list[bytes], list[bytes], list[bytes]]


def blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield blocks of whole lines, so that memory stays bounded."""
    while block := stream.read(BLOCK_BYTES):
        yield block + stream.readline()


def read_lines(stream: IO[bytes], separator: str, n_columns: int) -> Iterator[Tokens]:
    """Read lines of user, item, rating and columns that are not needed."""
    for block in blocks(stream):
        tokens = block.replace(separator.encode(), b" ").split()
        yield tokens[0::n_columns], tokens[1::n_columns], tokens[2::n_columns]


def split_lines(stream: IO[bytes], encoding: str, separator: str) -> Iterator[list[str]]:
    """Split lines into three columns, of which only the last may hold the separator."""
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
    """Drop interactions the way of Liang et al. (2018).

    Low ratings go first, then rare items, then users who have few interactions left. Each
    minimum is applied once: items may end below `min_item_users` when users have gone.

    Parameters
    ----------
    users, items : ndarray of shape (n_interactions,), dtype int32
        Codes from 0.
    ratings : ndarray of shape (n_interactions,), dtype float32
        Ratings or counts.
    min_rating : float or None, default=None
        Least rating to keep. None keeps every rating.
    min_user_interactions : int, default=0
        Least number of interactions of a user to keep.
    min_item_users : int, default=0
        Least number of interactions of an item to keep.

    Returns
    -------
    users, items, ratings : ndarray of shape (n_kept,)
        What is kept, in the order given.
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
    """Renumber codes by ascending id, leaving out the ids that no longer occur."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    order = used[np.argsort(ids[used])]
    renumbered = np.zeros(len(ids), dtype=np.int32)
    renumbered[order] = np.arange(len(order), dtype=np.int32)
    return renumbered[codes], ids[order]


def assemble(
    tokens: Iterable[Tokens],
    path: Path,
    source: Source,
    *,
    id_dtype: type,
    min_rating: float | None,
    min_user_interactions: int,
    min_item_users: int,
) -> Bunch:
    """Encode, count and filter the tokens, and build the matrix in file order."""
    user_codes, item_codes, rating_codes = Codes(), Codes(), Codes()
    n_interactions = 0
    parts = []
    for user_tokens, item_tokens, rating_tokens in tokens:
        codes = rating_codes.encode(rating_tokens)
        n_interactions += len(codes)
        parts.append(
            filter_interactions(
                user_codes.encode(user_tokens),
                item_codes.encode(item_tokens),
                rating_codes.decode(np.float32)[codes],
                min_rating=min_rating,
            )
        )
    if n_interactions != source.n_interactions:
        raise ValueError(
            f"{path} holds {n_interactions:,} interactions; expected {source.n_interactions:,}. "
            "It is damaged or another edition; delete it to get it again."
        )
    users, items, values = filter_interactions(
        *(np.concatenate(arrays) for arrays in zip(*parts, strict=True)),
        min_user_interactions=min_user_interactions,
        min_item_users=min_item_users,
    )
    del parts
    rows, user_ids = compact(users, user_codes.decode(id_dtype))
    columns, item_ids = compact(items, item_codes.decode(id_dtype))
    # SciPy's own way from coordinates sorts the indices, which would lose the file order.
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(user_ids))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    data = csr_array((values[order], columns[order], indptr), shape=(len(user_ids), len(item_ids)))
    return Bunch(data=data, user_ids=user_ids, item_ids=item_ids)


def check_filter(
    min_rating: float | None, min_user_interactions: int, min_item_users: int
) -> dict[str, Any]:
    """Check the arguments of the filter and return them."""
    if min_rating is not None:
        check_scalar(min_rating, "min_rating", Real)
    check_scalar(min_user_interactions, "min_user_interactions", Integral, min_val=0)
    check_scalar(min_item_users, "min_item_users", Integral, min_val=0)
    return {
        "min_rating": min_rating,
        "min_user_interactions": min_user_interactions,
        "min_item_users": min_item_users,
    }


def names_of(item_ids: NDArray[Any], titles: dict[int, str]) -> NDArray[np.str_]:
    """Look up the title of each item, empty where there is none."""
    return np.array([titles.get(int(item), "") for item in item_ids], dtype=np.str_)
