"""Shares of a number of users or interactions."""

from __future__ import annotations

from typing import Any

import numpy as np


def floor(x: Any) -> Any:
    """Round down, after rounding errors are removed: 0.29 * 100 = 28.999999999999996 is 29."""
    return np.floor(np.round(x, 9)).astype(np.int64)
