"""The state of an unfinished fit in a file, for another process to go on from.

The file is one of :mod:`skvaecf.persistence`, which runs no code. It exists while a fit is
unfinished, and always holds a whole state: a new one replaces the old one at once.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ._ranks import of_first_rank, own_rank
from .persistence import naming_the_file, read_file, write_file


class Checkpoint:
    """The file of one fit; it is written at once, so a path that cannot be written fails early.

    Parameters
    ----------
    path : Path or None
        None is no file, and nothing is done. Of several ranks, the first reads and writes.
    every : int
        Epochs between two states.
    identity : dict of str to str
        What the numbers depend on, by name. The file of a fit with another identity is refused.
    seed : int

    Attributes
    ----------
    seed : int
        That of the fit which began the file.
    state : dict or None
        What to go on from; None at the beginning.
    """

    def __init__(self, path: Path | None, every: int, identity: dict[str, str], seed: int) -> None:
        self.path = path if own_rank() == 0 else None
        self.every = every
        self.identity = identity
        self.seed = seed
        self.state: Any = None
        if self.path is not None:
            self._open(self.path)
        self.seed, self.state = of_first_rank((self.seed, self.state))

    def _open(self, path: Path) -> None:
        if path.is_dir():
            raise IsADirectoryError(f"checkpoint_path must be a file, and {path} is a folder.")
        if not path.exists():
            self._write(path, None)
        else:
            with naming_the_file(path):
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
        write_file(content, path, self._folder(path))

    def _folder(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.partial")

    def resume(self, load: Callable[[Any], None]) -> None:
        """Hand the state over, if there is one; write it again, to see that this can be done."""
        if self.state is None:
            return
        with naming_the_file(self.path or "The checkpoint of the first rank"):
            load(tensors(self.state))
        if self.path is not None:
            self._write(self.path, self.state)
        self.state = None

    def save(self, epoch: int, state: Callable[[], Any]) -> None:
        """Write the state after an epoch, if it is time; a full disk must not stop the fit."""
        if self.path is None or epoch % self.every:
            return
        try:
            self._write(self.path, arrays(state()))
        except OSError as error:
            warnings.warn(
                f"The checkpoint after epoch {epoch} could not be written; the one before is kept:"
                f" {error}",
                stacklevel=2,
            )

    def remove(self) -> None:
        """Remove the file of a fit that is done."""
        if self.path is None:
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"fit is done, but its checkpoint is left: {error}", stacklevel=2)


def arrays(state: Any) -> Any:
    """Make arrays of the tensors in dicts and lists."""
    return _map(state, Tensor, lambda tensor: tensor.cpu().numpy())


def tensors(state: Any) -> Any:
    """Make tensors of the arrays in dicts and lists."""
    return _map(state, np.ndarray, torch.tensor)


def _map(state: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    if isinstance(state, dict):
        return {name: _map(part, kind, convert) for name, part in state.items()}
    if isinstance(state, list):
        return [_map(part, kind, convert) for part in state]
    return convert(state) if isinstance(state, kind) else state


def digest_rows(*matrices: csr_array) -> str:
    """Hash canonical binary matrices."""
    parts = (part for m in matrices for part in (m.shape, m.indptr, m.indices))
    return digest(*(np.asarray(part, dtype=np.int64) for part in parts))


def digest(*parts: np.ndarray) -> str:
    """Hash arrays."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(str(part.shape).encode())
        sha.update(np.ascontiguousarray(part).data)
    return sha.hexdigest()[:16]
