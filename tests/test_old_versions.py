"""Files that earlier releases have saved can be loaded, and the models have the same scores.

``python tests/test_old_versions.py`` writes the files of a new release. It is run once per release.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import RECOMMENDERS, make
from numpy.testing import assert_allclose

import skvaecf
from skvaecf.datasets import make_interactions

FOLDER = Path(__file__).parent / "old_versions"
RELEASES = sorted(path.name for path in FOLDER.iterdir())
FILES = sorted(FOLDER.glob("*/*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_models_of_earlier_releases_score_as_they_did(path):
    saved = np.load(path.parent / "scores.npz")
    model = skvaecf.load(path)
    assert type(model).__name__ == path.stem
    assert_allclose(model.predict(saved["X"]), saved[path.stem], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("release", RELEASES)
def test_every_file_of_a_release_is_there(release):
    models = {path.stem for path in FILES if path.parent.name == release}
    assert models == set(np.load(FOLDER / release / "scores.npz")) - {"X"}


def test_this_version_has_its_files():
    assert skvaecf.__version__ in RELEASES


def write(folder: Path) -> None:
    """Save every recommender, and its scores for some users."""
    folder.mkdir()
    X = make_interactions(40, 16, n_blocks=2, noise=0.3, random_state=0).toarray()
    scores = {"X": X[:5].astype(np.uint8)}
    for name in RECOMMENDERS:
        model = make(name).fit(X)
        model.save(folder / f"{name}.safetensors")
        scores[name] = model.predict(X[:5])
    np.savez_compressed(folder / "scores.npz", **scores)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
    write(FOLDER / skvaecf.__version__)
