"""Checks of numbers, and errors that name a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np


def is_count(value: Any) -> bool:
    """Return whether a value is an integer of at least 1; True is not an integer here."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_count(name: str, value: Any) -> None:
    """Raise a ValueError that names the argument if it is not an integer of at least 1."""
    if not is_count(value):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def check_finite(estimator: Any, learned: Any) -> None:
    """Raise a ValueError that names the estimator if an array that it learned is not finite."""
    # The smallest and the largest entry need no array of the size of this one.
    if learned.size and not (np.isfinite(learned.min()) and np.isfinite(learned.max())):
        raise ValueError(
            f"{type(estimator).__name__} cannot be fitted in float32 with these parameters: some of"
            " its weights would be NaN or infinite. Parameters of a more usual size may help."
        )


@contextmanager
def errors_name(path: str | os.PathLike[str], advice: str = "") -> Iterator[None]:
    """Turn every error of a damaged file into a ValueError that names the file.

    An OSError and a MemoryError are not changed: they are errors of the system, not of the file.

    Parameters
    ----------
    path : str or path-like
        The file.
    advice : str, default=""
        What the user can do. It ends the message.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the errors that a damaged file can cause cannot be listed
        damage = "" if isinstance(error, ValueError) else f", it is damaged: {type(error).__name__}"
        message = f"{os.fspath(path)} cannot be loaded{damage}: {error}. {advice}"
        raise ValueError(message.rstrip()) from error
