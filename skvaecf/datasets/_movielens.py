"""MovieLens data sets, from the archives of GroupLens."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from typing import IO, Literal

import numpy as np
from sklearn.utils import Bunch

from .._checks import errors_name
from .._parameters import NonNegativeInt, Number, validated
from ._archives import ADVICE, Source, cache_folder, obtain
from ._logs import Filter, assemble, names_of, read_lines, split_lines

GROUPLENS = "files.grouplens.org/datasets/movielens/"


def grouplens(filename: str, md5: str, n_interactions: int) -> Source:
    """Return the source of an archive of GroupLens."""
    # The http address is for machines that cannot verify the certificate. The checksum is verified.
    urls = (f"https://{GROUPLENS}{filename}", f"http://{GROUPLENS}{filename}")
    return Source(filename, urls, f"md5:{md5}", n_interactions)


SOURCES = {
    "100k": grouplens("ml-100k.zip", "0e33842e24a9c977be4e0107933c0723", 100_000),
    "1m": grouplens("ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906", 1_000_209),
    "10m": grouplens("ml-10m.zip", "ce571fd55effeba0271552578f2648bd", 10_000_054),
    "20m": grouplens("ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3", 20_000_263),
}


@dataclass(frozen=True)
class Format:
    """The format of an edition, and its default filter."""

    ratings: str
    titles: str
    separator: str
    titles_separator: str
    encoding: str
    header: bool = False
    min_rating: float | None = None
    min_user_interactions: int = 0


FORMATS = {
    "100k": Format("ml-100k/u.data", "ml-100k/u.item", "\t", "|", "latin-1"),
    "1m": Format("ml-1m/ratings.dat", "ml-1m/movies.dat", "::", "::", "latin-1"),
    "10m": Format("ml-10M100K/ratings.dat", "ml-10M100K/movies.dat", "::", "::", "utf-8"),
    "20m": Format("ml-20m/ratings.csv", "ml-20m/movies.csv", ",", ",", "utf-8", True, 4.0, 5),
}


def read_titles(stream: IO[bytes], form: Format) -> dict[int, str]:
    """Return the title of each movie by its id."""
    rows: Iterator[list[str]]
    if form.header:
        rows = csv.reader(TextIOWrapper(stream, form.encoding, newline=""))
        next(rows)
    else:
        rows = split_lines(stream, form.encoding, form.titles_separator)
    return {int(row[0]): row[1] for row in rows}


@validated
def fetch_movielens(
    version: Literal["100k", "1m", "10m", "20m"] = "20m",
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_rating: Number | Literal["auto"] | None = "auto",
    min_user_interactions: NonNegativeInt | Literal["auto"] = "auto",
    min_item_users: NonNegativeInt = 0,
    download_if_missing: bool = True,
    n_retries: NonNegativeInt = 2,
) -> Bunch:
    """Load the MovieLens ratings; download them if they are not in the cache.

    The archive is downloaded from GroupLens. Its published MD5 checksum and its number of ratings
    are verified. This table shows the values of "auto" and the result of the defaults:

    =======  ==========  =====================  ==========  =======  ======
    version  min_rating  min_user_interactions        data    users  movies
    =======  ==========  =====================  ==========  =======  ======
    "100k"   None        0                         100,000      943   1,682
    "1m"     None        0                       1,000,209    6,040   3,706
    "10m"    None        0                      10,000,054   69,878  10,677
    "20m"    4.0         5                       9,990,682  136,677  20,720
    =======  ==========  =====================  ==========  =======  ======

    The defaults of "20m" are the preprocessing of [1]_. The other defaults keep every rating.

    Parameters
    ----------
    version : {"100k", "1m", "10m", "20m"}, default="20m"
        Edition, named after its number of ratings.
    data_home : path-like or None, default=None
        Folder of the archive. None stands for the value of the environment variable SKVAECF_DATA
        or, if that is not set, for the folder "skvaecf" in the operating system's cache folder.
        An archive that you have saved there (ml-100k.zip, ml-1m.zip, ml-10m.zip or ml-20m.zip) is
        used without a download.
    min_rating : float, None or "auto", default="auto"
        Only ratings of at least this many stars are kept. None keeps all ratings.
    min_user_interactions : int or "auto", default="auto"
        Users with fewer remaining ratings are dropped, after the movies.
    min_item_users : int, default=0
        Movies with fewer remaining ratings are dropped, before the users.
    download_if_missing : bool, default=True
        Whether to download an archive that is not in the cache.
    n_retries : int, default=2
        Number of further attempts for each address.

    Returns
    -------
    movielens : Bunch
        It has these attributes:

        data : csr_array of shape (n_users, n_items), dtype float32
            The ratings in stars. The entries of a row are stored in the order of the file, so
            the indices may be unsorted.
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
    .. [2] Harper and Konstan, "The MovieLens datasets: history and context", ACM
       Transactions on Interactive Intelligent Systems 5(4), 2015.

    Examples
    --------
    >>> from skvaecf.datasets import fetch_movielens
    >>> movielens = fetch_movielens("20m")  # doctest: +SKIP
    >>> movielens.data.shape  # doctest: +SKIP
    (136677, 20720)
    """
    form, source = FORMATS[version], SOURCES[version]
    filters = Filter(
        form.min_rating if min_rating == "auto" else min_rating,
        form.min_user_interactions if min_user_interactions == "auto" else min_user_interactions,
        min_item_users,
    )
    path = obtain(source, cache_folder(data_home), download_if_missing, n_retries)
    with errors_name(path, ADVICE), zipfile.ZipFile(path) as archive:
        with archive.open(form.ratings) as stream:
            if form.header:
                stream.readline()
            lines = read_lines(stream, form.separator, 4)
            movielens = assemble(lines, source, filters, np.int64)
        with archive.open(form.titles) as stream:
            titles = read_titles(stream, form)
    movielens.item_names = names_of(movielens.item_ids, titles)
    movielens.DESCR = (
        f"MovieLens {version}, ratings of movies in stars, collected by GroupLens Research "
        f"(https://grouplens.org/datasets/movielens/{version}/).\nFilter: {filters._asdict()}."
    )
    return movielens
