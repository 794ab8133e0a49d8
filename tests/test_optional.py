"""Imports of optional packages."""

from __future__ import annotations

import json
import sys

import pytest

from skvaecf._optional import require


def test_an_installed_package_is_imported():
    assert require("json") is json
    assert require("json.decoder") is json.decoder


@pytest.mark.parametrize("module", ["pooch", "matplotlib.pyplot", "no_such_package"])
def test_a_missing_package_says_how_to_install_it(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    message = rf"needs the optional package {package}\. Install it with: pip install {package}$"
    with pytest.raises(ImportError, match=message) as raised:
        require(module)
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_an_error_of_the_package_itself_is_raised(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        require("broken_package")
