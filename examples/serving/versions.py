"""
Publish and load the versions of a model
========================================

Whatever belongs to a model is one version: a folder that never changes. A training job calls
``publish``, which writes a new folder and then points the link ``current`` to it, in one step.
``web_service.py`` loads what the link names. The old folder can be removed when no process serves
it any more. The arrays are memory maps: the processes of a machine share them.
"""

import json
from bisect import bisect_left
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

import skvaecf


def publish(folder, name, model, encoder, X, titles=None):
    """Write a version and make it the current one.

    X has a row for each of ``encoder.user_ids_``, the stored users. ``titles`` is None or has a
    string for each of ``encoder.item_ids_``.
    """
    version, link = Path(folder, name), Path(folder, "new")
    version.mkdir(parents=True)
    model.save(version / "model.safetensors")
    encoder.save(version / "encoder.safetensors")
    np.save(version / "indptr.npy", X.indptr)
    np.save(version / "indices.npy", X.indices)
    (version / "titles.json").write_text(json.dumps(titles and list(titles)))
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(Path(folder, "current"))


def current_name(folder):
    """Return the name of the current version."""
    return Path(folder, "current").readlink().name


class Version:
    """The current version: a model, its encoder, stored users and titles."""

    def __init__(self, folder):
        folder = Path(folder, "current").resolve(strict=True)  # all files are of one version
        self.name = folder.name
        self.model = skvaecf.load(folder / "model.safetensors", mmap=True)
        self.encoder = skvaecf.load(folder / "encoder.safetensors")
        self.indptr = np.load(folder / "indptr.npy", mmap_mode="r")
        self.indices = np.load(folder / "indices.npy", mmap_mode="r")
        self.titles = json.loads((folder / "titles.json").read_text())
        n_items, n_users = len(self.encoder.item_ids_), len(self.encoder.user_ids_)
        sizes = self.model.n_features_in_, len(self.titles or range(n_items)), len(self.indptr) - 1
        if sizes != (n_items, n_items, n_users):
            raise ValueError(
                f"The files of {self.name} do not belong together: the encoder has {n_items} items"
                f" and {n_users} users, but the model, the titles and the rows have {sizes}."
            )
        for items in ([], [0]):  # the first requests are slow, because they read the file
            self.model.recommend(self.row(items))

    def row(self, items):
        """Return the matrix of one user with these item numbers."""
        items = np.unique(np.array(items, dtype=np.int64))
        entries = np.ones(len(items), dtype=np.float32), items, [0, len(items)]
        return csr_array(entries, shape=(1, len(self.encoder.item_ids_)))

    def items_of(self, user):
        """Return the item numbers of a stored user, or None."""
        ids = self.encoder.user_ids_
        place = bisect_left(ids, user)
        if ids[place : place + 1].tolist() == [user]:
            return self.indices[self.indptr[place] : self.indptr[place + 1]]

    def entries(self, items, scores):
        """Return the ids, titles and scores of a list of item numbers; -1 is padding."""
        numbers, scores = items[items >= 0].tolist(), scores[items >= 0].tolist()
        ids = self.encoder.item_ids_[numbers].tolist()
        entries = [{"item": one, "score": score} for one, score in zip(ids, scores, strict=True)]
        for number, entry in zip(numbers, entries, strict=True):
            if self.titles:
                entry["title"] = self.titles[number]
        return entries
