"""Checks of counts, and errors that name a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import naming

from skvaecf._checks import check_count, errors_name, is_count


def test_counts_are_integers_of_at_least_1():
    for value in (1, 7, 2**70, np.int8(3), np.uint64(2**63)):
        with naming(repr(value)):
            assert is_count(value)
            check_count("k", value)
    for value in (0, -1, 1.0, 2.5, "3", None, True, np.True_, np.float32(1), [1], torch.ones(1)):
        message = "k must be an integer of at least 1, got "
        with naming(repr(value)), pytest.raises(ValueError, match=message) as raised:
            check_count("k", value)
        assert not is_count(value)
        assert str(raised.value) == f"{message}{value!r}."


@pytest.mark.parametrize("path", ["folder/model", Path("folder/model")])
def test_errors_name_the_file(path):
    for error, message in [
        (ValueError("it is empty"), "it is empty."),
        (KeyError("a"), "it is damaged: KeyError: 'a'."),
        (RuntimeError("no"), "it is damaged: RuntimeError: no."),
    ]:
        with naming(repr(error)):
            with pytest.raises(ValueError, match="cannot be loaded") as raised, errors_name(path):
                raise error
            start = f"{Path(path)} cannot be loaded"
            assert str(raised.value) in (f"{start}: {message}", f"{start}, {message}")
            assert raised.value.__cause__ is error


def test_advice_ends_the_message():
    with pytest.raises(ValueError, match="cannot be loaded") as raised, errors_name("a", "Do b."):
        raise ValueError("it is empty")
    assert str(raised.value) == "a cannot be loaded: it is empty. Do b."


@pytest.mark.parametrize("error", [FileNotFoundError("a"), MemoryError("b"), KeyboardInterrupt()])
def test_errors_of_the_system_stay_as_they_are(error):
    with pytest.raises(type(error)) as raised, errors_name("a"):
        raise error
    assert raised.value is error


def test_no_error_without_an_error():
    with errors_name("a"):
        value = 3
    assert value == 3
