"""Real and synthetic user-item interactions."""

from __future__ import annotations

from ._generate import make_interactions
from ._movielens import fetch_movielens
from ._movielens_small import load_movielens_small
from ._msd import fetch_msd
from ._netflix import fetch_netflix

__all__ = [
    "fetch_movielens",
    "fetch_msd",
    "fetch_netflix",
    "load_movielens_small",
    "make_interactions",
]
