"""The files of a comparison of models: its table, and the models that are finished."""

from __future__ import annotations

import csv
import pickle
import warnings
from pathlib import Path
from typing import Any

import joblib

from ._checks import errors_name
from ._version import __version__
from .persistence import read_file, write_file

Record = dict[str, Any]  # what is known of one model: its values per user, and its fits


class ComparisonFiles:
    """The files of a comparison: the table, and the records of the models that are finished.

    Parameters
    ----------
    path : str, path-like or None
        The CSV file. With None, nothing is read or written.

    Attributes
    ----------
    records : dict of str to dict
        Record of each finished model by its key.

    Raises
    ------
    OSError
        If a file cannot be read or written.
    ValueError
        If the path does not end in .csv, or if the file of the records is damaged.
    """

    def __init__(self, path: Any) -> None:
        self.records: dict[str, Record] = {}
        self.table = None if path is None else Path(path)
        if self.table is None:
            return
        if self.table.suffix != ".csv":
            raise ValueError(f"path must end in .csv, got {str(path)!r}.")
        self.values = self.table.with_suffix(".safetensors")
        if self.values.exists():
            with errors_name(self.values, "Remove it, or name another path."):
                self.records = _checked_records(read_file(self.values))
        self._write_records()  # an error of the system is raised before the first fit

    def key(self, name: str, model: Any, data: str, scorer: Any) -> str:
        """Return a hash of everything that the values of a model depend on."""
        if self.table is None:
            return name
        try:
            return str(joblib.hash((name, model, data, scorer, __version__)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"path must be None for {name!r}, because it or a scorer cannot be pickled, so that"
                f" a change would not be noticed: {error}"
            ) from error

    def write(self, comparison: Any) -> None:
        """Write both files; an OSError, such as that of a full disk, becomes a warning."""
        if self.table is None:
            return
        try:
            self._write_records()
            partial = self.table.with_name(f".{self.table.name}.partial")
            with partial.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(comparison.table)
                writer.writerows(zip(*comparison.table.values(), strict=True))
            partial.replace(self.table)
        except OSError as error:
            warnings.warn(f"The comparison could not be written: {error}", stacklevel=3)

    def _write_records(self) -> None:
        write_file(self.records, self.values, self.values.with_name(f".{self.values.name}.partial"))


def _checked_records(records: Any) -> dict[str, Record]:
    """Return what a file holds; raise a ValueError if it is not records."""
    if not isinstance(records, dict) or any(set(r) != {"values", "fit"} for r in records.values()):
        raise ValueError("it holds something else than the values of a comparison")
    return records
