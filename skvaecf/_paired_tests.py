"""Paired comparisons of the values per user of several models."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from sklearn.utils._param_validation import StrOptions

Numbers = NDArray[np.float64]
PairedTest = Annotated[
    str | Callable[..., Any], StrOptions({"ttest_rel", "wilcoxon"}), callable
]  # a function of scipy.stats by name, or a function like these


def best_first(values: Mapping[str, Numbers], greater_is_better: bool = True) -> list[str]:
    """Return the names in the order of the means; of equal means, in ascending order."""
    sign = -1 if greater_is_better else 1
    means = {name: mean_and_error(of_model)[0] for name, of_model in values.items()}
    return sorted(means, key=lambda name: (np.isnan(means[name]), sign * means[name], name))


def mean_and_error(values: Numbers) -> tuple[float, float]:
    """Return the mean and its standard error, without the values that are NaN.

    The standard error of fewer than two values is NaN, and so is the mean of none.
    """
    known = values[~np.isnan(values)]
    mean = float(known.mean()) if known.size else np.nan
    error = float(known.std(ddof=1) / np.sqrt(known.size)) if known.size > 1 else np.nan
    return mean, error


def p_value(a: Numbers, b: Numbers, test: str | Callable[..., Any]) -> float:
    """Return the p-value of a paired test; NaN if fewer than two users have both values.

    It is 1 if all differences are 0, for which a t statistic is not defined.
    """
    both = ~np.isnan(a - b)
    if both.sum() < 2:
        return np.nan
    a, b = a[both], b[both]
    if (a == b).all():
        return 1.0
    function = getattr(scipy.stats, test) if isinstance(test, str) else test
    with warnings.catch_warnings():
        # The precision of a difference that is the same for all users; its p-value is 0 or tiny.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return float(function(a, b).pvalue)


def holm(p: Numbers) -> Numbers:
    """Return p-values with Holm's correction; those that are NaN are not counted.

    The r-th smallest of m p-values is multiplied by m - r + 1, then replaced by the largest of
    these products so far, at most 1.
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN is sorted to the end
    products = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(products), 1)
    return adjusted


def paired_rows(
    values: Mapping[str, Numbers],
    reference: str | None = None,
    test: str | Callable[..., Any] = "ttest_rel",
    alpha: float = 0.05,
    *,
    greater_is_better: bool = True,
) -> list[dict[str, Any]]:
    """Compare models with a reference, user by user.

    Parameters
    ----------
    values : dict of str to ndarray of shape (n_users,)
        Values per user by model.
    reference : str or None, default=None
        With a name, Holm's correction counts the comparisons with this model. None stands for the
        model with the best mean. It is chosen by the same values, so any two models might have
        been compared, and the correction counts all pairs.
    test : {"ttest_rel", "wilcoxon"} or callable, default="ttest_rel"
        Paired test.
    alpha : float, default=0.05
        Level of the test.
    greater_is_better : bool, default=True
        Whether the best mean is the highest or the lowest.

    Returns
    -------
    rows : list of dict
        One per model, best first, with the columns that :class:`skvaecf.Comparison` documents.

    Raises
    ------
    ValueError
        If the reference is not the name of a model.
    """
    if reference is not None and reference not in values:
        raise ValueError(f"reference must be a name in {list(values)}, got {reference!r}.")
    order = best_first(values, greater_is_better)
    best = order[0] if reference is None else reference
    names = sorted(values)  # the order of a pair makes no difference, even by rounding
    pairs = [pair for pair in combinations(names, 2) if reference is None or reference in pair]
    p = np.array([p_value(values[a], values[b], test) for a, b in pairs])
    tests = {pair: both for pair, *both in zip(map(frozenset, pairs), p, holm(p), strict=True)}
    rows = []
    for name in order:
        difference = values[name] - values[best]
        mean, error = mean_and_error(values[name])
        gap, gap_error = mean_and_error(difference)
        raw, adjusted = tests.get(frozenset((name, best)), (np.nan, np.nan))
        rows.append(
            {
                "model": name,
                "mean": mean,
                "standard_error": error,
                "reference": best,
                "difference": gap,
                "difference_standard_error": gap_error if name != best else np.nan,
                "p_value": raw,
                "p_value_holm": adjusted,
                "distinguishable": bool(adjusted <= alpha),
                "n_users": int(np.count_nonzero(~np.isnan(values[name]))) * values[name].ndim,
            }
        )
    return rows
