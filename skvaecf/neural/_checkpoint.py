"""The state of an unfinished fit in a file, from which another process can resume.

The file has the format of :mod:`skvaecf.persistence`; reading it runs no code. It exists while a
fit is unfinished. It always holds a complete state, because a new file replaces the old one in one
step.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from .._checks import errors_name
from ..persistence import read_file, write_file
from ._process_group import broadcast_from_rank_0, n_ranks, own_rank


class Checkpoint:
    """The checkpoint file of one fit.

    The constructor opens the file. It writes a new file immediately, so a path that cannot be
    written raises an error before the training begins.

    Parameters
    ----------
    path : str, path-like or None
        With None no checkpoint is written. In a process group, only rank 0 reads and writes.
    every : int
        Number of epochs from one state in the file to the next.
    seconds : float or None
        Number of seconds after which a state is written within an epoch. With None, or in a process
        group, none is.
    identity : dict of str to str
        Everything that the learned numbers depend on, by name. The file of a fit with another
        identity is refused.
    seed : int
        Seed of this fit.

    Attributes
    ----------
    seed : int
        Seed of the fit that created the file. It is that of this fit if there was no file.
    state : dict or None
        State to resume from. None if there is no file, or no state in it.

    Raises
    ------
    OSError
        If the file cannot be read or written.
    ValueError
        If the file is damaged, is not a checkpoint, or belongs to another fit.
    """

    def __init__(
        self, path: Any, every: int, seconds: float | None, identity: dict[str, str], seed: int
    ) -> None:
        self.path = Path(path) if path is not None and own_rank() == 0 else None
        self.every = every
        # The state of each rank's own random numbers would be needed within an epoch.
        self.seconds = math.inf if seconds is None or n_ranks() > 1 else seconds
        self.identity = identity
        self.seed = seed
        self.state: Any = None
        self.written = time.monotonic()
        if self.path is not None:
            self._open(self.path)
        self.seed, self.state = broadcast_from_rank_0((self.seed, self.state))

    def _open(self, path: Path) -> None:
        if path.is_dir():
            raise IsADirectoryError(f"checkpoint_path must be a file, but {path} is a folder.")
        if not path.exists():
            self._write(path, None)
        else:
            with errors_name(path):
                content = read_file(path)
                if not isinstance(content, dict) or set(content) != {"identity", "seed", "state"}:
                    raise ValueError("it holds something else than a checkpoint")
            self._check_identity(path, content["identity"])
            self.seed, self.state = content["seed"], content["state"]

    def _check_identity(self, path: Path, there: dict[str, str]) -> None:
        differing = [
            f"{name} ({there.get(name)} there, {self.identity.get(name)} here)"
            for name in sorted({*there, *self.identity})
            if there.get(name) != self.identity.get(name)
        ]
        if differing:
            raise ValueError(
                f"{path} is the checkpoint of another fit, which differs in {', '.join(differing)}."
                " Remove it, or name another checkpoint_path."
            )

    def _write(self, path: Path, state: Any) -> None:
        content = {"identity": self.identity, "seed": self.seed, "state": state}
        write_file(content, path, path.with_name(f".{path.name}.partial"))
        self.written = time.monotonic()

    def resume(self, load: Callable[[Any], None]) -> None:
        """Pass the state to ``load``, if there is one, and write it again.

        Writing it again raises an OSError before the training begins, if the file can be read but
        not written.
        """
        if self.state is None:
            return
        with errors_name(self.path or "The checkpoint of rank 0"):
            load(tensors(self.state))
        if self.path is not None:
            self._write(self.path, self.state)
        self.state = None

    def save_epoch(self, epoch: int, state: Callable[[], Any]) -> None:
        """Write the state, if the number of the epoch is a multiple of ``every``."""
        if epoch % self.every == 0:
            self._save(f"after epoch {epoch}", state)

    def save_within_epoch(self, state: Callable[[], Any]) -> None:
        """Write the state, if the last one was written ``seconds`` ago."""
        if time.monotonic() - self.written >= self.seconds:
            self._save("within an epoch", state)

    def _save(self, when: str, state: Callable[[], Any]) -> None:
        """Write the state; an OSError, such as that of a full disk, becomes a warning."""
        if self.path is None:
            return
        try:
            self._write(self.path, arrays(state()))
        except OSError as error:
            self.written = time.monotonic()
            warnings.warn(
                f"The checkpoint {when} could not be written; the one before is kept: {error}",
                stacklevel=2,
            )

    def remove(self) -> None:
        """Remove the file when the fit is complete."""
        if self.path is None:
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"fit is done, but its checkpoint is left: {error}", stacklevel=2)


def arrays(state: Any) -> Any:
    """Convert the tensors in dicts and lists to arrays."""
    return _map(state, Tensor, lambda tensor: tensor.cpu().numpy())


def tensors(state: Any) -> Any:
    """Convert the arrays in dicts and lists to tensors."""
    return _map(state, np.ndarray, torch.tensor)


def _map(state: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    if isinstance(state, dict):
        return {name: _map(part, kind, convert) for name, part in state.items()}
    if isinstance(state, list):
        return [_map(part, kind, convert) for part in state]
    return convert(state) if isinstance(state, kind) else state


def digest_rows(*matrices: csr_array) -> str:
    """Return a hash of canonical matrices."""
    parts = (part for m in matrices for part in (m.shape, m.indptr, m.indices))
    values = (m.data for m in matrices)
    return digest(*(np.asarray(part, dtype=np.int64) for part in parts), *values)


def digest(*parts: np.ndarray) -> str:
    """Return a hash of the values and shapes of arrays."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(str(part.shape).encode())
        sha.update(np.ascontiguousarray(part).data)
    return sha.hexdigest()[:16]
