"""Files of fitted estimators, which hold numbers and text, but no code.

A file has the format of safetensors. Its tensors are the arrays of the estimator. The entry
"skvaecf" of its metadata is JSON: ``{"format": 2, "version": ..., "model": node}``. A node is null,
a boolean, a number, a string, a list of nodes, or an object with one entry, whose key is its kind:

==============================  ==================================================================
``{"tuple": [node, ...]}``      a tuple
``{"dict": {name: node}}``      a dict
``{"float": "nan"}``            a number that JSON does not have
``{"device": "cuda:0"}``        a torch.device
``{"array": [name, t, s]}``     the tensor of this name, of type t and shape s
``{"dates": [node, t]}``        dates of type t, as integers
``{"strings": [node, node]}``   strings: their bytes in UTF-8 and the end of each of them
``{"csr": [node] * 3 + [s]}``   a csr_array of shape s: data, indices, indptr
``{"value": [c, {n: node}]}``   a dataclass named c of this package, by its fields
``{"estimator": [c, p, a]}``    an estimator named c of this package: parameters and attributes
==============================  ==================================================================

A checkpoint of an unfinished fit is such a file, too. Its model is a dict.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import secrets
import shutil
from dataclasses import fields
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

from ._checks import errors_name
from ._version import __version__

Tensors = dict[str, np.ndarray]

FORMAT = 2

# Attributes in which scikit-learn's tools store arbitrary objects. The version is saved elsewhere.
NOT_SAVED = {"_metadata_request", "_skl_callbacks", "_skvaecf_version"}


class SavedValue:
    """Base class of the frozen dataclasses that a file may hold as parameters of an estimator."""


class SaveMixin(BaseEstimator):
    """Base class of the estimators that a file may hold."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the fitted estimator to a file for :func:`skvaecf.load`.

        The file holds only arrays, numbers and text (safetensors and JSON). Unlike a pickle, it
        runs no code when it is loaded.

        Parameters
        ----------
        path : str or path-like
            File to write. An existing file is replaced in one step, after everything is written.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the class is not defined in skvaecf, or if a parameter or an attribute is of a type
            that cannot be saved, such as a RandomState instance.

        Notes
        -----
        The file holds the parameters and everything that ``fit`` has learned, feature names
        included. It does not hold callbacks and metadata requests. A ``random_state`` that is a
        RandomState instance must be replaced first: ``set_params(random_state=0)`` does not change
        what was learned.
        """
        check_is_fitted(self)
        path = Path(path)
        write_file(self, path, path.with_name(f".{path.name}.{secrets.token_hex(8)}"))

    def _check_loaded(self) -> None:
        """Raise an error if the loaded parameters and attributes do not fit together."""
        raise NotImplementedError


BASES = {"value": SavedValue, "estimator": SaveMixin}


def load(path: str | os.PathLike[str], *, mmap: bool = False) -> Any:
    """Load an estimator from a file that its method ``save`` has written.

    No code of the file is run. Only classes of skvaecf are instantiated. The parameters, the
    attributes and their arrays are validated, and the loaded estimator is tried on one row.

    Parameters
    ----------
    path : str or path-like
        File to read.
    mmap : bool, default=False
        Whether to map the file into memory instead of reading its arrays. Processes that map the
        same file share its memory, and an array is read from the file when it is used first.

    Returns
    -------
    estimator : object
        The fitted estimator. Its arrays are on the CPU if this machine does not have the device
        that they were on.

    Raises
    ------
    ValueError
        If the file is damaged, of another kind or of another version of the format.
    OSError
        If the file cannot be read.

    See Also
    --------
    InteractionEncoder : Has a method ``save``, too.

    Notes
    -----
    With ``mmap``, a change of an array is private to the process and does not change the file. The
    file must not be overwritten while it is mapped. ``save`` does not overwrite it: the new file
    takes its name, and the estimator keeps the old one. Windows does not replace mapped files. Ids
    and other strings are not mapped, nor are arrays that are copied to a GPU.

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
    with errors_name(path):
        model = read_file(path, mmap)
        if not isinstance(model, SaveMixin):
            raise ValueError(f"it holds a {type(model).__name__} instead of an estimator")
        model._check_loaded()
    return model


def write_file(value: Any, path: Path, folder: Path) -> None:
    """Write a value to a file, which is replaced in one step, after everything is written.

    Parameters
    ----------
    value : object
        A value that the nodes above can describe.
    path : Path
        File to write.
    folder : Path
        Temporary folder beside the file, which is removed in the end. If it exists, because a
        process was killed, it is removed first.
    """
    tensors: Tensors = {}
    node = _describe(value, "", tensors)
    description = {"format": FORMAT, "version": __version__, "model": node}
    metadata = {"skvaecf": json.dumps(description, allow_nan=False)}
    temporary = folder / path.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # the usual mode of new files, which safetensors changes
        save_file(tensors, temporary, metadata)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_file(path: str | os.PathLike[str], mmap: bool = False) -> Any:
    """Return the value that a file holds. With ``mmap``, its arrays are memory maps of the file."""
    if os.path.isdir(path):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder, not a file.")
    try:
        # The tensors of torch share one private map of the file: their changes stay in memory.
        with safe_open(path, framework="pt" if mmap else "numpy") as file:
            node = _model_node((file.metadata() or {}).get("skvaecf"))
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
            tensors = {name: a.numpy() for name, a in arrays.items()} if mmap else arrays
    except SafetensorError as error:
        raise ValueError(f"skvaecf did not write it, or it is damaged: {error}") from error
    value = _restore(node, tensors)
    if tensors:
        raise ValueError(f"it has tensors that it does not describe: {sorted(tensors)}")
    return value


def _describe(value: Any, name: str, tensors: Tensors) -> Any:
    """Return the node of a value, and add its arrays to ``tensors``."""

    def node_of(part: Any, key: Any) -> Any:
        return _describe(part, f"{name}.{key}" if name else str(key), tensors)

    def nodes_of(parts: dict[str, Any]) -> dict[str, Any]:
        return {key: node_of(part, key) for key, part in parts.items()}

    if isinstance(value, np.generic):
        value = value.item()
    cls = type(value)
    match value:
        case float() if not math.isfinite(value):
            return {"float": str(value)}
        case None | int() | float() | str():
            return value
        case list():
            return [node_of(part, i) for i, part in enumerate(value)]
        case tuple():
            return {"tuple": [node_of(part, i) for i, part in enumerate(value)]}
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": nodes_of(value)}
        case torch.device():
            return {"device": str(value)}
        case np.ndarray() if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            if name in tensors:
                raise ValueError(f"Two arrays would be saved by the name {name!r}.")
            tensors[name] = value.astype(value.dtype.newbyteorder("="), order="C", copy=False)
            return {"array": [name, value.dtype.name, list(value.shape)]}
        case np.ndarray() if value.dtype.kind == "M":
            return {"dates": [_describe(value.astype(np.int64), name, tensors), value.dtype.name]}
        case np.ndarray() if value.ndim == 1 and _is_text(value):
            encoded = [text.encode() for text in value.tolist()]
            ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
            letters = np.frombuffer(b"".join(encoded), dtype=np.uint8)
            return {"strings": [node_of(letters, "utf8"), node_of(ends, "ends")]}
        case csr_array():
            arrays = (node_of(getattr(value, key), key) for key in ("data", "indices", "indptr"))
            return {"csr": [*arrays, list(value.shape)]}
        case _ if cls in _own_classes(SavedValue).values():
            parts = {field.name: getattr(value, field.name) for field in fields(cls)}
            return {"value": [cls.__name__, nodes_of(parts)]}
        case _ if cls in _own_classes(SaveMixin).values():
            params = value.get_params(deep=False)
            state = value.__getstate__().items()
            learned = {k: v for k, v in state if k not in params and k not in NOT_SAVED}
            return {"estimator": [cls.__name__, nodes_of(params), nodes_of(learned)]}
    dtype = f" of dtype {value.dtype}" if isinstance(value, np.ndarray) else ""
    raise ValueError(
        f"{name or 'The estimator'} is a {cls.__module__}.{cls.__qualname__}{dtype}, which cannot"
        " be saved. Classes of skvaecf and arrays of numbers, strings or datetime64 can be saved;"
        " use pickle for other types."
    )


def _is_text(values: np.ndarray) -> bool:
    return values.dtype.kind == "O" and all(isinstance(value, str) for value in values.tolist())


def _own_classes(base: type) -> dict[str, type]:
    """Return the concrete subclasses of ``base`` in this package, by name."""
    found: dict[str, type] = {}
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        if cls.__module__.startswith(f"{__package__}.") and not inspect.isabstract(cls):
            found[cls.__name__] = cls
        found |= _own_classes(cls)
    return found


def _model_node(text: str | None) -> Any:
    """Return the node of the model, or raise a ValueError if the description is not valid."""
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
    raise ValueError(f"{text} is not valid JSON")


def _restore(node: Any, tensors: Tensors) -> Any:
    """Return the value of a node, and remove its arrays from ``tensors``."""

    def values_of(nodes: dict[str, Any]) -> dict[str, Any]:
        return {name: _restore(part, tensors) for name, part in nodes.items()}

    if isinstance(node, list):
        return [_restore(part, tensors) for part in node]
    if not isinstance(node, dict):
        return node
    [(kind, content)] = node.items()
    match kind, content:
        case "tuple", list():
            return tuple(_restore(content, tensors))
        case "dict", dict():
            return values_of(content)
        case "float", str():
            return float(content)
        case "device", str():
            return torch.device(content)
        case "array", [name, dtype, shape]:
            return _take_array(tensors, name, dtype, shape)
        case "dates", [numbers, dtype]:
            if np.dtype(dtype).kind != "M":
                raise ValueError(f"dates cannot be of type {dtype!r}")
            return _restore(numbers, tensors).view(dtype)
        case "strings", [letters, ends]:
            return _split_text(_restore(letters, tensors), _restore(ends, tensors))
        case "csr", [*parts, shape]:
            data, indices, indptr = _restore(parts, tensors)
            matrix = csr_array((data, indices, indptr), shape=shape)
            matrix.check_format(full_check=True)  # compiled code does not check the indices
            return matrix
        case "value", [name, dict(parts)]:
            return _construct(kind, name, values_of(parts))
        case "estimator", [name, dict(params), dict(learned)]:
            estimator = _construct(kind, name, values_of(params))
            _set_learned(estimator, values_of(learned))
            return estimator
    raise ValueError(f"its description has an unknown or malformed entry of the kind {kind!r}")


def _take_array(tensors: Tensors, name: str, dtype: str, shape: list[int]) -> np.ndarray:
    """Remove an array from ``tensors`` and return it."""
    if name not in tensors:
        raise ValueError(f"it lacks the tensor {name!r} or describes it twice")
    array = tensors.pop(name)
    if (array.dtype.name, list(array.shape)) != (dtype, shape):
        raise ValueError(
            f"the tensor {name!r} is of type {array.dtype.name} and shape {list(array.shape)}, but"
            f" described to be of type {dtype} and shape {shape}"
        )
    return array


def _split_text(letters: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the strings that end at these places of the text."""
    text, places = letters.tobytes(), [0, *ends.tolist()]
    if places != sorted(places) or places[-1] != len(text):
        raise ValueError("the ends of its strings are out of order")
    strings = [text[start:end].decode() for start, end in pairwise(places)]
    return np.array(strings, dtype=object)


def _construct(kind: str, name: str, arguments: dict[str, Any]) -> Any:
    """Return an instance of a class of this package.

    Parameters that a later version has added take their defaults.
    """
    cls = _own_classes(BASES[kind]).get(name)
    if cls is None:
        raise ValueError(f"skvaecf has no {kind} {name!r}")
    unknown = arguments.keys() - inspect.signature(cls).parameters
    if unknown:
        raise ValueError(f"{name} has no parameters {sorted(unknown)}")
    return cls(**arguments)


def _set_learned(estimator: Any, learned: dict[str, Any]) -> None:
    """Validate the parameters of an estimator and set the attributes that it has learned."""
    cls = type(estimator)
    for name in learned:
        taken = name in vars(estimator) or hasattr(cls, name)
        if taken or not name.isidentifier() or name.startswith("__"):
            raise ValueError(f"{name!r} cannot be an attribute that {cls.__name__} has learned")
    # A subclass also checks that this machine has its device, which is not required here.
    BaseEstimator._validate_params(estimator)
    estimator.__setstate__(learned)
