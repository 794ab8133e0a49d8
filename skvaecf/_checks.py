"""What constructors and methods ask of numbers."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def is_count(value: Any) -> bool:
    """Tell an integer of at least 1; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_count(name: str, value: Any) -> None:
    """Raise a ValueError that names the argument if it is no integer of at least 1."""
    if not is_count(value):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
