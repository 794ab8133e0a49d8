"""Types of parameters, each with the constraint that its values must satisfy.

A parameter is declared once, with its name, type and default: as an annotated class attribute of a
recommender or dataclass, or as an argument of a function that is ``validated``.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Integral, Real
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints

P = ParamSpec("P")
R = TypeVar("R")

PositiveInt = Annotated[int, Interval(Integral, 1, None, closed="left")]
NonNegativeInt = Annotated[int, Interval(Integral, 0, None, closed="left")]
AtLeastTwo = Annotated[int, Interval(Integral, 2, None, closed="left")]
Seed = Annotated[int, Interval(Integral, 0, 2**32 - 1, closed="both")]
Positive = Annotated[float, Interval(Real, 0, None, closed="neither")]
NonNegative = Annotated[float, Interval(Real, 0, None, closed="left")]
Fraction = Annotated[float, Interval(Real, 0, 1, closed="neither")]
Rate = Annotated[float, Interval(Real, 0, 1, closed="left")]
Number = Annotated[float, Real]
Probability = Annotated[float, Interval(Real, 0, 1, closed="both")]
LayerSizes = Annotated[Sequence[int], "array-like"]
Device = Annotated[str | torch.device, str, torch.device]
Precision = Literal["auto", "float32", "bfloat16"]
RandomState = Annotated[int | np.random.RandomState | None, "random_state"]
Verbose = Annotated[int, "verbose"]


def constraints_of(hint: Any) -> list[Any]:
    """Return scikit-learn's constraints for a type; an empty list if it allows every value."""
    if get_origin(hint) is Annotated:
        return list(hint.__metadata__)
    if get_origin(hint) is Literal:
        return [StrOptions(set(get_args(hint)))]
    if get_origin(hint) in (Union, types.UnionType):
        parts = [constraints_of(part) for part in get_args(hint)]
        return [constraint for part in parts for constraint in part] if all(parts) else []
    constraints: dict[Any, list[Any]] = {bool: ["boolean"], type(None): [None]}
    return constraints.get(hint, [])


def check_values(declared: Any, values: Mapping[str, Any]) -> None:
    """Raise a ValueError if a value violates what a function or class declares for its name."""
    hints = inspect.get_annotations(declared, eval_str=True).items()
    constraints = {name: found for name, hint in hints if (found := constraints_of(hint))}
    validate_parameter_constraints(constraints, values, declared.__name__)


def validated(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that arguments are checked by :func:`check_values` in every call."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_values(function, inspect.signature(function).bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return checked
