"""Fitted estimators in files that hold numbers and text, and no code.

A file is one of safetensors. Its tensors are the arrays of the estimator; the entry "skvaecf" of
its metadata is JSON: ``{"format": 1, "version": ..., "model": node}``. A node is null, a boolean, a
number, a string, a list of nodes, or an object of one entry, which names what it stands for:

==============================  ==================================================================
``{"tuple": [node, ...]}``      a tuple
``{"dict": {name: node}}``      a dict
``{"float": "nan"}``            a number that JSON does not have
``{"device": "cuda:0"}``        a torch.device
``{"array": [name, t, s]}``     the tensor of this name, of type t and shape s
``{"dates": [node, t]}``        dates of type t, as integers
``{"strings": [node, node]}``   strings: their bytes in UTF-8 and where each of them ends
``{"csr": [node] * 3 + [s]}``   a csr_array of shape s: data, indices, indptr
``{"value": [c, {n: node}]}``   a dataclass named c of this package, by its fields
``{"estimator": [c, p, a]}``    an estimator named c of this package: parameters and attributes
==============================  ==================================================================

Checkpoints of unfinished fits (:mod:`skvaecf.checkpoint`) are such files, too, of a dict.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ._version import __version__

FORMAT = 1

# What scikit-learn's tools hang on an estimator, which may be any object; and what is noted anyway.
NOT_SAVED = {"_metadata_request", "_skl_callbacks", "_skvaecf_version"}

DTYPES = {f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)} | {
    "bool"
}


class SaveMixin:
    """``save`` for estimators."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the fitted estimator, to be read by :func:`skvaecf.load`.

        The file holds arrays, numbers and text only (safetensors and JSON): reading it runs no
        code, unlike reading a pickle.

        Parameters
        ----------
        path : str or path-like
            File to write. One that exists is replaced, at once and only when all is written.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the class is none of skvaecf's own, or a parameter or an attribute is of a type that
            cannot be saved, such as a RandomState instance.

        Notes
        -----
        Parameters and all that ``fit`` has learned are saved, names of features included;
        callbacks and metadata requests are not. A ``random_state`` that is a RandomState instance
        must be replaced first: ``set_params(random_state=0)`` changes nothing that is learned.
        """
        check_is_fitted(self)
        path = Path(path)
        write_file(self, path, path.with_name(f".{path.name}.{secrets.token_hex(8)}"))

    def _check_loaded(self) -> None:
        """Raise an error if what was loaded does not fit together."""
        raise NotImplementedError


def load(path: str | os.PathLike[str]) -> Any:
    """Load an estimator from a file of its method ``save``.

    No code of the file is run. Only classes that skvaecf exports are instantiated, the estimator
    last, after all that the file holds has been validated; then it is tried on one row.

    Parameters
    ----------
    path : str or path-like
        File to read.

    Returns
    -------
    estimator : object
        The fitted estimator. What was on a device that this machine does not have is on the CPU.

    Raises
    ------
    ValueError
        If the file is damaged, of another kind or of a newer version.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> import skvaecf
    >>> X = [[1, 1, 0], [0, 1, 0], [0, 1, 1]]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     skvaecf.Popularity().fit(X).save(path)
    ...     model = skvaecf.load(path)
    >>> model
    Popularity()
    >>> model.predict(X[:1])
    array([[1., 3., 1.]], dtype=float32)
    """
    with naming_the_file(path):
        model = read_file(path)
        if not isinstance(model, SaveMixin):
            raise ValueError(f"it holds a {type(model).__name__} instead of an estimator")
        model._check_loaded()
    return model


def write_file(value: Any, path: Path, folder: Path) -> None:
    """Write a value to a file, which is replaced at once and only when all is written.

    Parameters
    ----------
    value : object
        What the nodes above can stand for.
    path : Path
        File to write.
    folder : Path
        Temporary folder beside the file. It is removed in the end, and one that a killed process
        has left is removed first.
    """
    tensors: dict[str, np.ndarray] = {}
    node = _describe(value, "", tensors)
    description = {"format": FORMAT, "version": __version__, "model": node}
    metadata = {"skvaecf": json.dumps(description, allow_nan=False)}
    temporary = folder / path.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # of new files of this user, which safetensors changes
        save_file(tensors, temporary, metadata)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_file(path: str | os.PathLike[str]) -> Any:
    """Read the value that was written to a file."""
    with safe_open(path, framework="numpy") as file:
        node = _check_description((file.metadata() or {}).get("skvaecf"))
        _check_names(sorted(_tensor_names(node)), sorted(file.keys()))
        return _restore(node, file)


@contextmanager
def naming_the_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let every error but those of the system be a ValueError that names the file."""
    try:
        yield
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}.") from error
    except Exception as error:  # what a damaged file leads to cannot be listed
        raise ValueError(
            f"{os.fspath(path)} cannot be loaded, it is damaged: {type(error).__name__}: {error}"
        ) from error


def _describe(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """Make the node of a value; put its arrays into ``tensors``."""

    def node_of(part: Any, key: Any) -> Any:
        return _describe(part, f"{name}.{key}" if name else str(key), tensors)

    def nodes_of(parts: dict[str, Any]) -> dict[str, Any]:
        return {key: node_of(part, key) for key, part in parts.items()}

    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [node_of(part, i) for i, part in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [node_of(part, i) for i, part in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": nodes_of(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, np.ndarray) and value.dtype.name in DTYPES:
        if name in tensors:
            raise ValueError(f"Two arrays would be saved by the name {name!r}.")
        tensors[name] = value.astype(value.dtype.newbyteorder("="), order="C", copy=False)
        return {"array": [name, value.dtype.name, list(value.shape)]}
    if isinstance(value, np.ndarray) and value.dtype.kind == "M":
        return {"dates": [_describe(value.astype(np.int64), name, tensors), value.dtype.name]}
    if isinstance(value, np.ndarray) and value.ndim == 1 and _all_text(value):
        encoded = [text.encode() for text in value.tolist()]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        letters = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return {"strings": [node_of(letters, "utf8"), node_of(ends, "ends")]}
    if isinstance(value, csr_array):
        arrays = (node_of(getattr(value, key), key) for key in ("data", "indices", "indptr"))
        return {"csr": [*arrays, list(value.shape)]}
    if _exported(type(value).__name__) is type(value):
        if isinstance(value, BaseEstimator):
            params = value.get_params(deep=False)
            state = value.__getstate__().items()
            learned = {k: v for k, v in state if k not in params and k not in NOT_SAVED}
            return {"estimator": [type(value).__name__, nodes_of(params), nodes_of(learned)]}
        if is_dataclass(value):
            parts = {field.name: getattr(value, field.name) for field in fields(value)}
            return {"value": [type(value).__name__, nodes_of(parts)]}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, np.ndarray):
        kind += f" of dtype {value.dtype}"
    raise ValueError(
        f"{name or 'The estimator'} is a {kind}, which cannot be saved. Classes of skvaecf and"
        " arrays of numbers, strings or datetime64 can; pickle takes others."
    )


def _all_text(values: np.ndarray) -> bool:
    return values.dtype.kind == "O" and all(isinstance(value, str) for value in values.tolist())


def _exported(name: str) -> Any:
    """Find a class that this package exports; None if there is none of the name."""
    import skvaecf

    found = getattr(skvaecf, name) if name in skvaecf.__all__ else None
    return found if isinstance(found, type) else None


def _check_description(text: str | None) -> Any:
    if text is None:
        raise ValueError("skvaecf did not write it")
    description = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(description, dict) or set(description) != {"format", "version", "model"}:
        raise ValueError("its description must have the entries format, version and model")
    if description["format"] != FORMAT:
        raise ValueError(
            f"it has the format {description['format']!r} of skvaecf {description['version']!r};"
            f" this is skvaecf {__version__}, which reads the format {FORMAT}"
        )
    return description["model"]


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _tensor_names(node: Any) -> Iterator[str]:
    """Find the names of all arrays in a description."""
    if isinstance(node, dict) and "array" in node:
        yield str(node["array"][0])
    elif isinstance(node, (dict, list)):
        for part in node.values() if isinstance(node, dict) else node:
            yield from _tensor_names(part)


def _check_names(described: list[str], present: list[str]) -> None:
    missing, extra = set(described) - set(present), set(present) - set(described)
    if missing:
        raise ValueError(f"it lacks the tensors {sorted(missing)}")
    if extra:
        raise ValueError(f"it has tensors that it does not describe: {sorted(extra)}")
    if len(set(described)) < len(described):
        raise ValueError("it describes a tensor twice")


def _restore(node: Any, file: Any) -> Any:
    """Make the value of a node."""
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, list):
        return [_restore(part, file) for part in node]
    [(kind, content)] = node.items()
    if kind == "tuple":
        return tuple(_restore(part, file) for part in content)
    if kind == "dict":
        return _restore_all(content, file)
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device(content)
    if kind == "array":
        name, dtype, shape = content
        return _restore_array(file.get_tensor(name), name, dtype, shape)
    if kind == "dates":
        numbers, dtype = content
        if np.dtype(dtype).kind != "M":
            raise ValueError(f"dates cannot be of type {dtype!r}")
        return _restore(numbers, file).view(dtype)
    if kind == "strings":
        return _restore_strings(*(_restore(part, file) for part in content))
    if kind == "csr":
        *parts, shape = content
        data, indices, indptr = (_restore(part, file) for part in parts)
        matrix = csr_array((data, indices, indptr), shape=shape)
        matrix.check_format(full_check=True)  # compiled code trusts the indices
        return matrix
    if kind == "value":
        class_name, parts = content
        return _restore_value(class_name, _restore_all(parts, file))
    if kind == "estimator":
        class_name, params, learned = content
        return _restore_estimator(
            class_name, _restore_all(params, file), _restore_all(learned, file)
        )
    raise ValueError(f"its description has an entry of the unknown kind {kind!r}")


def _restore_all(nodes: dict[str, Any], file: Any) -> dict[str, Any]:
    return {name: _restore(node, file) for name, node in nodes.items()}


def _restore_array(array: np.ndarray, name: str, dtype: str, shape: list[int]) -> np.ndarray:
    if (array.dtype.name, list(array.shape)) != (dtype, shape):
        raise ValueError(
            f"the tensor {name!r} is of type {array.dtype.name} and shape {list(array.shape)}, and"
            f" described to be of type {dtype} and shape {shape}"
        )
    return array


def _restore_strings(letters: np.ndarray, ends: np.ndarray) -> np.ndarray:
    text, last = letters.tobytes(), [0, *ends.tolist()]
    if last != sorted(last) or last[-1] != len(text):
        raise ValueError("the ends of its strings are out of order")
    strings = [text[start:end].decode() for start, end in pairwise(last)]
    return np.array(strings, dtype=object)


def _restore_value(class_name: str, parts: dict[str, Any]) -> Any:
    made = _exported(class_name)
    if made is None or not is_dataclass(made):
        raise ValueError(f"skvaecf has no values of a class {class_name!r}")
    _check_arguments(class_name, set(parts), {field.name for field in fields(made)})
    value: Any = made(**parts)  # type: ignore[operator]
    return value


def _restore_estimator(class_name: str, params: dict[str, Any], learned: dict[str, Any]) -> Any:
    made = _exported(class_name)
    if made is None or not issubclass(made, BaseEstimator):
        raise ValueError(f"skvaecf has no estimator {class_name!r}")
    _check_arguments(class_name, set(params), set(made._get_param_names()))
    for name in learned:
        if (
            not name.isidentifier()
            or name.startswith("__")
            or hasattr(made, name)
            or name in params
        ):
            raise ValueError(f"{name!r} cannot be an attribute that {class_name} has learned")
    estimator = made(**params)
    # The checks of a subclass include that its device is here.
    BaseEstimator._validate_params(estimator)
    estimator.__setstate__(learned)
    return estimator


def _check_arguments(class_name: str, given: set[str], known: set[str]) -> None:
    """Refuse unknown parameters. Those that a later version brought take their defaults."""
    if not given <= known:
        raise ValueError(f"{class_name} has no parameters {sorted(given - known)}")
