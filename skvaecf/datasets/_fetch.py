"""Downloads of the public data sets of the papers, read in their original formats."""

from __future__ import annotations

import contextlib
import csv
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from numbers import Integral, Real
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.utils import Bunch, check_scalar

from ._frames import require

_BLOCK_BYTES = 1 << 23
_GROUPLENS = "files.grouplens.org/datasets/movielens/"


@dataclass(frozen=True)
class Source:
    """One archive: its name in the cache, where it comes from and what it must hold.

    Parameters
    ----------
    filename : str
        Name of the archive in the cache folder.
    urls : tuple of str
        Addresses, tried in this order.
    known_hash : str or None
        Checksum with the name of its algorithm, or None if none is published.
    n_interactions : int
        Number of interactions in the archive before any filter.
    """

    filename: str
    urls: tuple[str, ...]
    known_hash: str | None
    n_interactions: int


def _grouplens(filename: str, md5: str, n_interactions: int) -> Source:
    # The plain address serves where the certificate cannot be checked; the checksum still holds.
    urls = (f"https://{_GROUPLENS}{filename}", f"http://{_GROUPLENS}{filename}")
    return Source(filename, urls, f"md5:{md5}", n_interactions)


SOURCES = {
    "100k": _grouplens("ml-100k.zip", "0e33842e24a9c977be4e0107933c0723", 100_000),
    "1m": _grouplens("ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906", 1_000_209),
    "10m": _grouplens("ml-10m.zip", "ce571fd55effeba0271552578f2648bd", 10_000_054),
    "20m": _grouplens("ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3", 20_000_263),
    "netflix": Source(
        "nf_prize_dataset.tar.gz",
        ("https://archive.org/download/nf_prize_dataset.tar/nf_prize_dataset.tar.gz",),
        "md5:a8f23d2d76461211c6b4c0ca6df2547d",
        100_480_507,
    ),
    "netflix-kaggle": Source("netflix-prize-data.zip", (), None, 100_480_507),
    "msd": Source(
        "train_triplets.txt.zip",
        (
            "http://millionsongdataset.com/sites/default/files/challenge/train_triplets.txt.zip",
            "http://labrosa.ee.columbia.edu/~dpwe/tmp/train_triplets.txt.zip",
        ),
        None,
        48_373_586,
    ),
}


@dataclass(frozen=True)
class _MovieLensFormat:
    ratings: str
    titles: str
    separator: str
    titles_separator: str
    encoding: str
    header: bool = False
    min_rating: float | None = None
    min_user_interactions: int = 0


_MOVIELENS = {
    "100k": _MovieLensFormat("ml-100k/u.data", "ml-100k/u.item", "\t", "|", "latin-1"),
    "1m": _MovieLensFormat("ml-1m/ratings.dat", "ml-1m/movies.dat", "::", "::", "latin-1"),
    "10m": _MovieLensFormat("ml-10M100K/ratings.dat", "ml-10M100K/movies.dat", "::", "::", "utf-8"),
    "20m": _MovieLensFormat(
        "ml-20m/ratings.csv", "ml-20m/movies.csv", ",", ",", "utf-8", True, 4.0, 5
    ),
}


def cache_folder(data_home: str | os.PathLike[str] | None) -> Path:
    """Return the folder where archives are kept.

    Parameters
    ----------
    data_home : path-like or None
        The folder. None stands for the environment variable SKVAECF_DATA and, where that is not
        set, for the folder "skvaecf" in the operating system's folder for caches.

    Returns
    -------
    folder : pathlib.Path
        The folder, which need not exist.
    """
    chosen = data_home or os.environ.get("SKVAECF_DATA") or require("pooch").os_cache("skvaecf")
    return Path(chosen).expanduser()


def obtain(source: Source, folder: Path, *, download_if_missing: bool, n_retries: int) -> Path:
    """Find an archive in the cache folder, or download it there.

    Parameters
    ----------
    source : Source
        The archive.
    folder : pathlib.Path
        Cache folder.
    download_if_missing : bool
        Whether to download.
    n_retries : int
        Number of retries of each address.

    Returns
    -------
    path : pathlib.Path
        Path of the archive, with a verified checksum where one is known.

    Raises
    ------
    OSError
        If the archive is neither in the cache nor can be downloaded.
    ValueError
        If the archive in the cache has another checksum. It is left as it is.
    """
    check_scalar(n_retries, "n_retries", Integral, min_val=0)
    pooch = require("pooch")
    path = folder / source.filename
    checksum = source.known_hash or "none is published"
    if path.exists():
        if source.known_hash and not pooch.hashes.hash_matches(path, source.known_hash):
            raise ValueError(
                f"{path} has another checksum than expected ({checksum}). "
                "Delete it to download it again."
            )
        return path
    failures = [] if download_if_missing else ["download_if_missing=False"]
    for url in source.urls if download_if_missing else ():
        archive = pooch.create(
            path=folder,
            base_url="",
            registry={source.filename: source.known_hash},
            urls={source.filename: url},
            retry_if_failed=n_retries,
        )
        try:
            return Path(archive.fetch(source.filename))
        except (OSError, ValueError) as error:  # ValueError: pooch found another checksum
            failures.append(f"{url}: {error}")
    raise OSError(
        f"{source.filename} is not in the cache and could not be downloaded:\n  "
        + "\n  ".join(failures)
        + f"\nYou can put the file there by hand, as {path}, from {' or '.join(source.urls)} "
        f"(expected checksum: {checksum})."
    )


class _Codes(dict[bytes, int]):
    """Numbers of distinct tokens, in the order of their first appearance."""

    def __missing__(self, token: bytes) -> int:
        self[token] = code = len(self)
        return code

    def encode(self, tokens: list[bytes]) -> NDArray[np.int32]:
        return np.fromiter(map(self.__getitem__, tokens), np.int32, len(tokens))

    def decode(self, dtype: type) -> NDArray[Any]:
        return np.array(list(self), dtype=np.bytes_).astype(dtype)


# Users, items and ratings of some lines, as they are written in the file.
_Tokens = tuple[list[bytes], list[bytes], list[bytes]]


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield blocks of whole lines, so that memory stays bounded."""
    while block := stream.read(_BLOCK_BYTES):
        yield block + stream.readline()


def _read_lines(stream: IO[bytes], separator: str, n_columns: int) -> Iterator[_Tokens]:
    """Read lines of user, item, rating and columns that are not needed."""
    for block in _blocks(stream):
        tokens = block.replace(separator.encode(), b" ").split()
        yield tokens[0::n_columns], tokens[1::n_columns], tokens[2::n_columns]


def _read_netflix(
    members: Iterable[tuple[str, IO[bytes]]], titles: dict[int, str]
) -> Iterator[_Tokens]:
    """Read "item:" lines, each followed by lines of user, rating and date; fill in `titles`."""
    for name, stream in members:
        if name.startswith("movie_titles"):
            titles.update({int(row[0]): row[2] for row in _split_lines(stream, "latin-1", ",")})
        elif name.startswith(("mv_", "combined_data_")):
            item = b""
            for block in _blocks(stream):
                # A colon ends the line of an item, so the item ends the piece before it.
                *pieces, last = block.split(b":")
                for piece in pieces:
                    lines, _, next_item = piece.rpartition(b"\n")
                    yield _netflix_lines(lines, item)
                    item = next_item
                yield _netflix_lines(last, item)


def _netflix_lines(lines: bytes, item: bytes) -> _Tokens:
    tokens = lines.replace(b",", b" ").split()
    users = tokens[0::3]
    return users, [item] * len(users), tokens[1::3]


def _split_lines(stream: IO[bytes], encoding: str, separator: str) -> Iterator[list[str]]:
    """Split lines into three columns, of which only the last may hold the separator."""
    for line in TextIOWrapper(stream, encoding):
        if line.strip():
            yield line.rstrip("\n").split(separator, 2)


def _read_titles(stream: IO[bytes], form: _MovieLensFormat) -> dict[int, str]:
    """Read the title of each movie."""
    rows: Iterator[list[str]]
    if form.header:
        rows = csv.reader(TextIOWrapper(stream, form.encoding, newline=""))
        next(rows)
    else:
        rows = _split_lines(stream, form.encoding, form.titles_separator)
    return {int(row[0]): row[1] for row in rows}


def _tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the base names and streams of the files of a tar archive and of those inside it."""
    for member in archive:
        stream = archive.extractfile(member)
        if stream is not None and member.name.endswith(".tar"):
            with tarfile.open(fileobj=stream, mode="r|") as inner:
                yield from _tar_members(inner)
        elif stream is not None:
            yield Path(member.name).name, stream


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the base names and streams of the files of a zip or tar archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    yield Path(name).name, stream
    else:
        with tarfile.open(path) as tar:
            yield from _tar_members(tar)


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


def _compact(codes: NDArray[np.int32], ids: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Renumber codes by ascending id, leaving out the ids that no longer occur."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    order = used[np.argsort(ids[used])]
    renumbered = np.zeros(len(ids), dtype=np.int32)
    renumbered[order] = np.arange(len(order), dtype=np.int32)
    return renumbered[codes], ids[order]


def _assemble(
    tokens: Iterable[_Tokens],
    path: Path,
    source: Source,
    *,
    id_dtype: type,
    min_rating: float | None,
    min_user_interactions: int,
    min_item_users: int,
) -> Bunch:
    """Encode, count and filter the tokens, and build the matrix in file order."""
    user_codes, item_codes, rating_codes = _Codes(), _Codes(), _Codes()
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
    rows, user_ids = _compact(users, user_codes.decode(id_dtype))
    columns, item_ids = _compact(items, item_codes.decode(id_dtype))
    # SciPy's own way from coordinates sorts the indices, which would lose the file order.
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(user_ids))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    data = csr_array((values[order], columns[order], indptr), shape=(len(user_ids), len(item_ids)))
    return Bunch(data=data, user_ids=user_ids, item_ids=item_ids)


@contextlib.contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Say which archive is at fault if it cannot be read."""
    try:
        yield
    except (KeyError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. It is damaged or another file; "
            "delete it to get it again."
        ) from error


def _check_filter(
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


def _names(item_ids: NDArray[Any], titles: dict[int, str]) -> NDArray[np.str_]:
    return np.array([titles.get(int(item), "") for item in item_ids], dtype=np.str_)


def fetch_movielens(
    version: Literal["100k", "1m", "10m", "20m"] = "20m",
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_rating: float | Literal["auto"] | None = "auto",
    min_user_interactions: int | Literal["auto"] = "auto",
    min_item_users: int = 0,
    download_if_missing: bool = True,
    n_retries: int = 2,
) -> Bunch:
    """Load the MovieLens ratings, downloading them the first time.

    The archive comes from GroupLens and is checked against its published MD5 checksum and its
    number of ratings. What "auto" stands for, and the result of the defaults:

    =======  ==========  =====================  ==========  =======  ======
    version  min_rating  min_user_interactions        data    users  movies
    =======  ==========  =====================  ==========  =======  ======
    "100k"   None        0                         100,000      943   1,682
    "1m"     None        0                       1,000,209    6,040   3,706
    "10m"    None        0                      10,000,054   69,878  10,677
    "20m"    4.0         5                       9,990,682  136,677  20,720
    =======  ==========  =====================  ==========  =======  ======

    The defaults of "20m" are the preprocessing of [1]_; those of the others keep every rating.

    Parameters
    ----------
    version : {"100k", "1m", "10m", "20m"}, default="20m"
        Edition, named by its number of ratings.
    data_home : path-like or None, default=None
        Folder where the archive is kept. None stands for the environment variable SKVAECF_DATA
        and, where that is not set, for the folder "skvaecf" in the operating system's folder for
        caches. An archive put there by hand (ml-100k.zip, ml-1m.zip, ml-10m.zip or ml-20m.zip) is
        used without a download.
    min_rating : float, None or "auto", default="auto"
        Only ratings of at least this many stars are kept. None keeps all.
    min_user_interactions : int or "auto", default="auto"
        Users with fewer ratings left are dropped, after the items.
    min_item_users : int, default=0
        Movies with fewer ratings left are dropped, before the users.
    download_if_missing : bool, default=True
        Whether to download an archive that is not in the cache.
    n_retries : int, default=2
        Number of times that each address is tried again.

    Returns
    -------
    movielens : :class:`~sklearn.utils.Bunch`
        With the attributes

        data : csr_array of shape (n_users, n_items), dtype float32
            The ratings in stars. The entries of a row are stored in the order of the file, so
            the indices need not be sorted.
        user_ids : ndarray of shape (n_users,), dtype int64
            MovieLens id of each row, ascending.
        item_ids : ndarray of shape (n_items,), dtype int64
            MovieLens id of each column, ascending.
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
    .. [2] F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context",
       ACM Transactions on Interactive Intelligent Systems 5(4), 2015.

    Examples
    --------
    >>> from skvaecf.datasets import fetch_movielens
    >>> movielens = fetch_movielens("20m")  # doctest: +SKIP
    >>> movielens.data.shape  # doctest: +SKIP
    (136677, 20720)
    """
    if version not in _MOVIELENS:
        raise ValueError(f"version={version!r} is unknown; expected one of {list(_MOVIELENS)}.")
    form, source = _MOVIELENS[version], SOURCES[version]
    filters = _check_filter(
        form.min_rating if min_rating == "auto" else min_rating,
        form.min_user_interactions if min_user_interactions == "auto" else min_user_interactions,
        min_item_users,
    )
    path = obtain(
        source,
        cache_folder(data_home),
        download_if_missing=download_if_missing,
        n_retries=n_retries,
    )
    with _blame(path), zipfile.ZipFile(path) as archive:
        with archive.open(form.ratings) as stream:
            if form.header:
                stream.readline()
            lines = _read_lines(stream, form.separator, 4)
            movielens = _assemble(lines, path, source, id_dtype=np.int64, **filters)
        with archive.open(form.titles) as stream:
            titles = _read_titles(stream, form)
    movielens.item_names = _names(movielens.item_ids, titles)
    movielens.DESCR = (
        f"MovieLens {version}, ratings of movies in stars, collected by GroupLens Research "
        f"(https://grouplens.org/datasets/movielens/{version}/).\nFilter: {filters}."
    )
    return movielens


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
    filters = _check_filter(min_rating, min_user_interactions, min_item_users)
    folder = cache_folder(data_home)
    source = SOURCES["netflix-kaggle"]
    if not (folder / source.filename).exists():
        source = SOURCES["netflix"]
    path = obtain(source, folder, download_if_missing=download_if_missing, n_retries=n_retries)
    titles: dict[int, str] = {}
    with _blame(path):
        tokens = _read_netflix(_members(path), titles)
        netflix = _assemble(tokens, path, source, id_dtype=np.int64, **filters)
    netflix.data.sort_indices()  # the files of an archive need not come by ascending movie
    netflix.item_names = _names(netflix.item_ids, titles)
    netflix.DESCR = f"Netflix Prize, ratings of movies in stars, 1998 to 2005.\nFilter: {filters}."
    return netflix


def fetch_msd(
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_user_interactions: int = 20,
    min_item_users: int = 200,
    download_if_missing: bool = True,
    n_retries: int = 2,
) -> Bunch:
    """Load the Taste Profile of the Million Song Dataset, downloading it the first time.

    The defaults are the preprocessing of [1]_: songs with fewer than 200 listeners are dropped
    first, then users with fewer than 20 songs. 33,633,450 pairs of 571,355 users and 41,140 songs
    are kept. The numbers of plays are not used.

    No checksum of the archive (train_triplets.txt.zip, 500 MB) is published. The checksum inside
    the zip format and the number of lines, 48,373,586, are checked.

    Parameters
    ----------
    data_home : path-like or None, default=None
        Folder where the archive is kept. None stands for the environment variable SKVAECF_DATA
        and, where that is not set, for the folder "skvaecf" in the operating system's folder for
        caches. An archive put there by hand is used without a download.
    min_user_interactions : int, default=20
        Users with fewer songs left are dropped, after the items.
    min_item_users : int, default=200
        Songs with fewer listeners are dropped, before the users.
    download_if_missing : bool, default=True
        Whether to download an archive that is not in the cache.
    n_retries : int, default=2
        Number of times that each address is tried again.

    Returns
    -------
    msd : :class:`~sklearn.utils.Bunch`
        With the attributes

        data : csr_array of shape (n_users, n_items), dtype float32
            1 where the user played the song. The entries of a row are stored in the order of the
            file, so the indices need not be sorted.
        user_ids : ndarray of shape (n_users,), dtype str
            Id of each row, in lexicographic order.
        item_ids : ndarray of shape (n_items,), dtype str
            Song id of each column, in lexicographic order.
        item_names : None
            The archive has no titles.
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
    .. [2] T. Bertin-Mahieux, D. P. W. Ellis, B. Whitman and P. Lamere, "The Million Song
       Dataset", ISMIR 2011.

    Examples
    --------
    >>> from skvaecf.datasets import fetch_msd
    >>> fetch_msd().data.shape  # doctest: +SKIP
    (571355, 41140)
    """
    filters = _check_filter(None, min_user_interactions, min_item_users)
    source = SOURCES["msd"]
    path = obtain(
        source,
        cache_folder(data_home),
        download_if_missing=download_if_missing,
        n_retries=n_retries,
    )
    with (
        _blame(path),
        zipfile.ZipFile(path) as archive,
        archive.open("train_triplets.txt") as stream,
    ):
        lines = _read_lines(stream, "\t", 3)
        msd = _assemble(lines, path, source, id_dtype=np.str_, **filters)
    msd.data.data[:] = 1.0
    msd.item_names = None
    msd.DESCR = (
        "Taste Profile subset of the Million Song Dataset, songs that users played "
        f"(http://millionsongdataset.com/tasteprofile/).\nFilter: {filters}."
    )
    return msd
