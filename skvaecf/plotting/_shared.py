"""What the figures have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._optional import require
from ..metrics import PerUser
from ..scorers import RankingScorer


def means_and_errors(values: PerUser) -> tuple[PerUser, PerUser]:
    """Mean of each row and its standard error, without the columns that hold NaN."""
    values = values[:, ~np.isnan(values).any(axis=0)]
    if values.shape[1] < 2:
        raise ValueError("Fewer than two users have anything held out.")
    return values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])


def with_a_value_per_user(scorers: Sequence[RankingScorer]) -> tuple[RankingScorer, ...]:
    """Refuse those that have none."""
    if any(scorer.metric == "coverage" for scorer in scorers):
        raise ValueError("scorer must have a value per user, which coverage has not.")
    return tuple(scorers)


def panels(n: int) -> NDArray[Any]:
    """Make a figure of n axes, at most three in a row."""
    plt = require("matplotlib.pyplot")
    n_rows, n_columns = ceil(n / 3), min(n, 3)
    size = (5.5, 4) if n == 1 else (3.6 * n_columns, 2.8 * n_rows)
    _, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    for unused in axes.flat[n:]:
        unused.set_visible(False)
    used: NDArray[Any] = axes.ravel()[:n]
    return used


def line_style(given: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Complete the arguments of a line, which may have been given by their short names."""
    given = require("matplotlib.cbook").normalize_kwargs(given, require("matplotlib.lines").Line2D)
    return defaults | given


def in_words(key: str) -> str:
    """Name a figure: "validation_ndcg" is "validation NDCG", "ndcg@20" is "NDCG@20"."""
    return re.sub(r"\b(ndcg|map|mrr)\b", lambda word: word[0].upper(), key.replace("_", " "))
