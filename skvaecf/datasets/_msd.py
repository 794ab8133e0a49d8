"""The Taste Profile of the Million Song Dataset."""

from __future__ import annotations

import os
import zipfile

import numpy as np
from sklearn.utils import Bunch

from .._checks import errors_name
from .._parameters import NonNegativeInt, validated
from ._archives import ADVICE, Source, cache_folder, obtain
from ._logs import Filter, assemble, read_lines

SOURCE = Source(
    "train_triplets.txt.zip",
    (
        "http://millionsongdataset.com/sites/default/files/challenge/train_triplets.txt.zip",
        "http://labrosa.ee.columbia.edu/~dpwe/tmp/train_triplets.txt.zip",
    ),
    None,
    48_373_586,
)


@validated
def fetch_msd(
    *,
    data_home: str | os.PathLike[str] | None = None,
    min_user_interactions: NonNegativeInt = 20,
    min_item_users: NonNegativeInt = 200,
    download_if_missing: bool = True,
    n_retries: NonNegativeInt = 2,
) -> Bunch:
    """Load the Taste Profile of the Million Song Dataset; download it if it is not in the cache.

    The defaults are the preprocessing of [1]_: songs with fewer than 200 listeners are dropped
    first, then users with fewer than 20 songs. 33,633,450 pairs of 571,355 users and 41,140 songs
    are kept. The numbers of plays are not used.

    No checksum of the archive (train_triplets.txt.zip, 500 MB) is published. Instead, the checksum
    inside the zip archive and the number of lines, 48,373,586, are verified.

    Parameters
    ----------
    data_home : path-like or None, default=None
        Folder of the archive. None stands for the value of the environment variable SKVAECF_DATA
        or, if that is not set, for the folder "skvaecf" in the operating system's cache folder.
        An archive that you have saved there is used without a download.
    min_user_interactions : int, default=20
        Users with fewer remaining songs are dropped, after the songs.
    min_item_users : int, default=200
        Songs with fewer listeners are dropped, before the users.
    download_if_missing : bool, default=True
        Whether to download an archive that is not in the cache.
    n_retries : int, default=2
        Number of further attempts for each address.

    Returns
    -------
    msd : Bunch
        It has these attributes:

        data : csr_array of shape (n_users, n_items), dtype float32
            1 if the user played the song. The entries of a row are stored in the order of the file,
            so the indices may be unsorted.
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
    .. [2] Bertin-Mahieux, Ellis, Whitman and Lamere, "The million song dataset", ISMIR 2011.

    Examples
    --------
    >>> from skvaecf.datasets import fetch_msd
    >>> fetch_msd().data.shape  # doctest: +SKIP
    (571355, 41140)
    """
    filters = Filter(None, min_user_interactions, min_item_users)
    path = obtain(SOURCE, cache_folder(data_home), download_if_missing, n_retries)
    with (
        errors_name(path, ADVICE),
        zipfile.ZipFile(path) as archive,
        archive.open("train_triplets.txt") as stream,
    ):
        msd = assemble(read_lines(stream, "\t", 3), SOURCE, filters, np.str_)
    msd.data.data[:] = 1.0
    msd.item_names = None
    msd.DESCR = (
        "Taste Profile subset of the Million Song Dataset, songs that users played "
        f"(http://millionsongdataset.com/tasteprofile/).\nFilter: {filters._asdict()}."
    )
    return msd
