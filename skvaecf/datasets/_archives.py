"""The archives of the data sets: downloads, checksums, the cache folder and the files inside."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .._optional import require

# Advice in the error of an archive that cannot be loaded.
ADVICE = "Delete it to get it again."


@dataclass(frozen=True)
class Source:
    """An archive: its name in the cache, its addresses and checks of its content.

    Parameters
    ----------
    filename : str
        Name of the archive in the cache folder.
    urls : tuple of str
        Addresses, in the order in which they are tried.
    known_hash : str or None
        Checksum, preceded by the name of its algorithm. None if no checksum is published.
    n_interactions : int
        Number of interactions in the archive, before any filter.
    """

    filename: str
    urls: tuple[str, ...]
    known_hash: str | None
    n_interactions: int


def cache_folder(data_home: str | os.PathLike[str] | None) -> Path:
    """Return the cache folder for archives, whether it exists or not.

    Parameters
    ----------
    data_home : path-like or None
        The folder. None stands for the value of the environment variable SKVAECF_DATA or, if that
        is not set, for the folder "skvaecf" in the operating system's cache folder.
    """
    chosen = data_home or os.environ.get("SKVAECF_DATA") or require("pooch").os_cache("skvaecf")
    return Path(chosen).expanduser()


def obtain(source: Source, folder: Path, download_if_missing: bool, n_retries: int) -> Path:
    """Return the path of an archive in the cache folder; download the archive if it is missing.

    Parameters
    ----------
    source : Source
        The archive.
    folder : pathlib.Path
        Cache folder.
    download_if_missing : bool
        Whether to download a missing archive.
    n_retries : int
        Number of retries of each address.

    Returns
    -------
    path : pathlib.Path
        Path of the archive. Its checksum has been verified if it is known.

    Raises
    ------
    OSError
        If the archive is not in the cache and cannot be downloaded.
    ValueError
        If the archive in the cache has another checksum. The archive is not changed.
    """
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
        except (OSError, ValueError) as error:  # pooch raises ValueError for another checksum
            failures.append(f"{url}: {error}")
            continue
        # Without a known checksum, the download may be an error page.
        if source.known_hash or zipfile.is_zipfile(path):
            path.chmod(0o644)  # pooch makes it readable for this user only
            return path
        path.unlink()
        failures.append(f"{url}: the downloaded file is not a zip archive")
    raise OSError(
        f"{source.filename} is not in the cache and could not be downloaded:\n  "
        + "\n  ".join(failures)
        + f"\nYou can download the file from {' or '.join(source.urls)} and save it as {path} "
        f"(expected checksum: {checksum})."
    )


def tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the base names and streams of the files of a tar archive, and of tar archives in it."""
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
