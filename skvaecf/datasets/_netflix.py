"""The Netflix Prize, from either of its two archives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
from sklearn.utils import Bunch

from ._archives import Source, blame, cache_folder, members, obtain
from ._logs import Tokens, assemble, blocks, check_filter, names_of, split_lines

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
    """Read "item:" lines, each followed by lines of user, rating and date; fill in `titles`."""
    for name, stream in files:
        if name.startswith("movie_titles"):
            titles.update({int(row[0]): row[2] for row in split_lines(stream, "latin-1", ",")})
        elif name.startswith(("mv_", "combined_data_")):
            item = b""
            for block in blocks(stream):
                # A colon ends the line of an item, so the item ends the piece before it.
                *pieces, last = block.split(b":")
                for piece in pieces:
                    lines, _, next_item = piece.rpartition(b"\n")
                    yield tokens_of_item(lines, item)
                    item = next_item
                yield tokens_of_item(last, item)


def tokens_of_item(lines: bytes, item: bytes) -> Tokens:
    """Split lines of user, rating and date, all of one item."""
    tokens = lines.replace(b",", b" ").split()
    users = tokens[0::3]
    return users, [item] * len(users), tokens[1::3]


def fetch_netflix(
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_rating: float | None = 4.0,
    min_user_interactions: int = 5,
    min_item_users: int = 0,
    download_if_missing: bool = True,
    n_retries: int = 2,
) -> Bunch:
    """Load the ratings of the Netflix Prize, downloading them the first time.

    The defaults are the preprocessing of [1]_: 56,880,037 ratings of 4 or 5 stars of 17,769
    movies by 463,435 users are kept.

    Two archives are read, from the folder `data_home`:

    - netflix-prize-data.zip, the form of Kaggle (combined_data_1.txt to combined_data_4.txt and
      movie_titles.csv), if it has been put there by hand. No checksum of it is published, so its
      number of ratings, 100,480,507, is checked.
    - nf_prize_dataset.tar.gz, the original form, which is otherwise downloaded from the Internet
      Archive (665 MB). Its MD5 checksum, which several public projects state alike, and its
      number of ratings are checked.

    Parameters
    ----------
    data_home : path-like or None, default=None
        Folder where the archive is kept. None stands for the environment variable SKVAECF_DATA
        and, where that is not set, for the folder "skvaecf" in the operating system's folder for
        caches.
    min_rating : float or None, default=4.0
        Only ratings of at least this many stars are kept. None keeps all.
    min_user_interactions : int, default=5
        Users with fewer ratings left are dropped, after the items.
    min_item_users : int, default=0
        Movies with fewer ratings left are dropped, before the users.
    download_if_missing : bool, default=True
        Whether to download an archive that is not in the cache.
    n_retries : int, default=2
        Number of times that each address is tried again.

    Returns
    -------
    netflix : :class:`~sklearn.utils.Bunch`
        With the attributes

        data : csr_array of shape (n_users, n_items), dtype float32
            The ratings in stars. Both forms list the ratings movie by movie, so the entries of a
            row are stored by ascending movie, and the indices are sorted.
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
        If the archive is not in the cache and cannot be downloaded. The message says where to
        put it by hand.
    ValueError
        If a parameter is invalid, or the archive in the cache is damaged.
    ImportError
        If pooch is not installed.

    References
    ----------
    .. [1] D. Liang, R. G. Krishnan, M. D. Hoffman and T. Jebara, "Variational Autoencoders for
       Collaborative Filtering", WWW 2018.
    .. [2] J. Bennett and S. Lanning, "The Netflix Prize", KDD Cup and Workshop, 2007.

    Examples
    --------
    >>> from skvaecf.datasets import fetch_netflix
    >>> fetch_netflix().data.shape  # doctest: +SKIP
    (463435, 17769)
    """
    filters = check_filter(min_rating, min_user_interactions, min_item_users)
    folder = cache_folder(data_home)
    source = KAGGLE if (folder / KAGGLE.filename).exists() else ORIGINAL
    path = obtain(source, folder, download_if_missing=download_if_missing, n_retries=n_retries)
    titles: dict[int, str] = {}
    with blame(path):
        tokens = read_ratings(members(path), titles)
        netflix = assemble(tokens, path, source, id_dtype=np.int64, **filters)
    netflix.data.sort_indices()  # the files of an archive need not come by ascending movie
    netflix.item_names = names_of(netflix.item_ids, titles)
    netflix.DESCR = f"Netflix Prize, ratings of movies in stars, 1998 to 2005.\nFilter: {filters}."
    return netflix
