"""The archives of the data sets: downloads, checksums, the cache folder and what is inside."""

from __future__ import annotations

import contextlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import IO

from sklearn.utils import check_scalar

from .._optional import require


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
            archive.fetch(source.filename)
        except (OSError, ValueError) as error:  # ValueError: pooch found another checksum
            failures.append(f"{url}: {error}")
            continue
        # Without a checksum the page of an error may have come in its place.
        if source.known_hash is None and not zipfile.is_zipfile(path):
            path.unlink()
            failures.append(f"{url}: what came is no zip archive")
            continue
        path.chmod(0o644)  # pooch lets nobody but this user read it
        return path
    raise OSError(
        f"{source.filename} is not in the cache and could not be downloaded:\n  "
        + "\n  ".join(failures)
        + f"\nYou can put the file there by hand, as {path}, from {' or '.join(source.urls)} "
        f"(expected checksum: {checksum})."
    )


def tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the base names and streams of the files of a tar archive and of those inside it."""
    for member in archive:
        stream = archive.extractfile(member)
        if stream is not None and member.name.endswith(".tar"):
            with tarfile.open(fileobj=stream, mode="r|") as inner:
                yield from tar_members(inner)
        elif stream is not None:
            yield Path(member.name).name, stream


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the base names and streams of the files of a zip or tar archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    yield Path(name).name, stream
    else:
        with tarfile.open(path) as tar:
            yield from tar_members(tar)


@contextlib.contextmanager
def blame(path: Path) -> Iterator[None]:
    """Say which archive is at fault if it cannot be read."""
    try:
        yield
    except (KeyError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. It is damaged or another file; "
            "delete it to get it again."
        ) from error
