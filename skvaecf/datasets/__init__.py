"""Real and synthetic user-item interactions, and conversions from and to long frames."""

from __future__ import annotations

from ._fetch import fetch_movielens, fetch_msd, fetch_netflix
from ._frames import interactions_from_frame, recommendations_to_frame
from ._generate import make_interactions
from ._movielens_small import load_movielens_small

__all__ = [
    "fetch_movielens",
    "fetch_msd",
    "fetch_netflix",
    "interactions_from_frame",
    "load_movielens_small",
    "make_interactions",
    "recommendations_to_frame",
]
