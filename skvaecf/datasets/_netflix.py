"""The Netflix Prize data set, from either of its two archives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
from sklearn.utils import Bunch

from .._checks import errors_name
from .._parameters import NonNegativeInt, Number, validated
from ._archives import ADVICE, Source, cache_folder, members, obtain
from ._logs import Filter, Tokens, assemble, blocks, names_of, split_lines

ORIGINAL = Source(
    "nf_prize_dataset.tar.gz",
    ("https://archive.org/download/nf_prize_dataset.tar/nf_prize_dataset.tar.gz",),
    "md5:a8f23d2d76461211c6b4c0ca6df2547d",
    100_480_507,
)
KAGGLE = Source("netflix-prize-data.zip", (), None, 100_480_507)


def read_ratings(
    files: Iterable[tuple[str, IO[bytes]]], titles: dict[int, str]
) -> Iterator[Tokens]:
    """Yield the tokens of the ratings that follow each "item:" line; add titles to `titles`."""
    for name, stream in files:
        if name.startswith("movie_titles"):
            titles.update({int(row[0]): row[2] for row in split_lines(stream, "latin-1", ",")})
        elif name.startswith(("mv_", "combined_data_")):
            item = b""
            for block in blocks(stream):
                # A colon ends the line of an item, so the item is at the end of the piece before.
                *pieces, last = block.split(b":")
                for piece in pieces:
                    lines, _, next_item = piece.rpartition(b"\n")
                    yield tokens_of_item(lines, item)
                    item = next_item
                yield tokens_of_item(last, item)


def tokens_of_item(lines: bytes, item: bytes) -> Tokens:
    """Return the tokens of the lines of one item: user, rating and date."""
    tokens = lines.replace(b",", b" ").split()
    users = tokens[0::3]
    return users, [item] * len(users), tokens[1::3]


@validated
def fetch_netflix(
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_rating: Number | None = 4.0,
    min_user_interactions: NonNegativeInt = 5,
    min_item_users: NonNegativeInt = 0,
    download_if_missing: bool = True,
    n_retries: NonNegativeInt = 2,
) -> Bunch:
    """Load the ratings of the Netflix Prize; download them if they are not in the cache.

    The defaults are the preprocessing of [1]_: 56,880,037 ratings of 4 or 5 stars of 17,769
    movies by 463,435 users are kept.

    The folder ``data_home`` may hold one of two archives:

    - netflix-prize-data.zip, the archive of Kaggle (combined_data_1.txt to combined_data_4.txt and
      movie_titles.csv), if you have saved it there. No checksum of it is published, so its number
      of ratings, 100,480,507, is verified.
    - nf_prize_dataset.tar.gz, the original archive. It is used if the other one is missing, and
      downloaded from the Internet Archive if necessary (665 MB). Its number of ratings and its MD5
      checksum, which is the same in several public projects, are verified.

    Parameters
    ----------
    data_home : path-like or None, default=None
        Folder of the archive. None stands for the value of the environment variable SKVAECF_DATA
        or, if that is not set, for the folder "skvaecf" in the operating system's cache folder.
    min_rating : float or None, default=4.0
        Only ratings of at least this many stars are kept. None keeps all ratings.
    min_user_interactions : int, default=5
        Users with fewer remaining ratings are dropped, after the movies.
    min_item_users : int, default=0
        Movies with fewer remaining ratings are dropped, before the users.
    download_if_missing : bool, default=True
        Whether to download an archive that is not in the cache.
    n_retries : int, default=2
        Number of further attempts for each address.

    Returns
    -------
    netflix : Bunch
        It has these attributes:

        data : csr_array of shape (n_users, n_items), dtype float32
            The ratings in stars. The entries of a row are stored in ascending order of the movies,
            so the indices are sorted. This is the order of both archives, which list the ratings
            movie by movie.
        user_ids : ndarray of shape (n_users,), dtype int64
            Netflix id of each row, ascending.
        item_ids : ndarray of shape (n_items,), dtype int64
            Netflix id of each column, ascending.
        item_names : ndarray of shape (n_items,), dtype str
            Title of each column.
        DESCR : str
            Description of the data set.

    Raises
    ------
    OSError
        If the archive is not in the cache and cannot be downloaded. The message names the
        path where you can save a copy of it.
    ValueError
        If a parameter is invalid, or the archive in the cache is damaged.
    ImportError
        If pooch is not installed.

    References
    ----------
    .. [1] Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative
       filtering", WWW 2018.
    .. [2] Bennett and Lanning, "The Netflix Prize", KDD Cup and Workshop, 2007.

    Examples
    --------
    >>> from skvaecf.datasets import fetch_netflix
    >>> fetch_netflix().data.shape  # doctest: +SKIP
    (463435, 17769)
    """
    filters = Filter(min_rating, min_user_interactions, min_item_users)
    folder = cache_folder(data_home)
    source = KAGGLE if (folder / KAGGLE.filename).exists() else ORIGINAL
    path = obtain(source, folder, download_if_missing, n_retries)
    titles: dict[int, str] = {}
    with errors_name(path, ADVICE):
        tokens = read_ratings(members(path), titles)
        netflix = assemble(tokens, source, filters, np.int64)
    netflix.data.sort_indices()  # the files of an archive may be in another order
    netflix.item_names = names_of(netflix.item_ids, titles)
    netflix.DESCR = (
        f"Netflix Prize, ratings of movies in stars, 1998 to 2005.\nFilter: {filters._asdict()}."
    )
    return netflix
