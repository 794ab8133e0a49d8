"""Imports of optional packages."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str) -> Any:
    """Return a module of an optional package, or raise an error that says how to install it.

    Parameters
    ----------
    module : str
        Name of the module.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"This function needs the optional package {module.partition('.')[0]}. Install it with:"
            f" pip install {module.partition('.')[0]}"
        ) from error
