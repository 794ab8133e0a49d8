"""Functions shared by the displays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._optional import require
from ..interactions import stored_interactions
from ..metrics import PerUser
from ..scorers import MultiRankingScorer, RankingScorer, score_lists

Scorers = Sequence[RankingScorer]
Values = Mapping[str, Mapping[str, Any]]
TOO_FEW_USERS = (
    "Fewer than two users have a value, for instance because they have no held-out interactions."
)


def values_of_models(estimator: Any, X: Any, y: Any, scorers: Scorers) -> Values:
    """Compute the values per user of one or several models, by model and scorer name."""
    together = MultiRankingScorer(tuple(scorers))
    models = estimator if isinstance(estimator, Mapping) else {type(estimator).__name__: estimator}
    return {name: together.per_user(model, X, y) for name, model in models.items()}


def values_of_rankings(ranked: Any, heldout: Any, scorers: Scorers, name: str) -> Values:
    """Compute the values per user of the lists of one or several models, by the same names."""
    heldout = stored_interactions(heldout, "heldout")
    lists = ranked if isinstance(ranked, Mapping) else {name: ranked}
    return {
        model: {scorer.name: score_lists(scorer, of_model, heldout) for scorer in scorers}
        for model, of_model in lists.items()
    }


def means_and_errors(values: PerUser) -> tuple[PerUser, PerUser]:
    """Return the mean of each row and its standard error, without the columns that hold NaN."""
    values = values[:, ~np.isnan(values).any(axis=0)]
    if values.shape[1] < 2:
        raise ValueError(TOO_FEW_USERS)
    return values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])


def panels(
    n: int, ax: Any, size: tuple[float, float], n_columns: int = 3, **options: Any
) -> NDArray[Any]:
    """Return n axes: those of the caller, or those of a new figure with panels of this size."""
    axes = np.ravel(ax)
    if ax is None:
        n_columns = min(n, n_columns)
        n_rows = ceil(n / n_columns)
        _, grid = require("matplotlib.pyplot").subplots(
            n_rows,
            n_columns,
            figsize=(size[0] * n_columns, size[1] * n_rows),
            layout="constrained",
            squeeze=False,
            **options,
        )
        for unused in grid.flat[n:]:
            unused.set_visible(False)
        axes = grid.flat[:n]
    if len(axes) != n:
        raise ValueError(f"ax must have {n} axes, one per panel, got {len(axes)}.")
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return axes


def line_style(given: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Return the arguments of a line: those given, by short or full names, and the defaults."""
    given = require("matplotlib.cbook").normalize_kwargs(given, require("matplotlib.lines").Line2D)
    return defaults | given


def in_words(key: str) -> str:
    """Return a title: "validation NDCG" for "validation_ndcg", "NDCG@20" for "ndcg@20"."""
    return re.sub(r"\b(ndcg|map|mrr)\b", lambda word: word[0].upper(), key.replace("_", " "))
