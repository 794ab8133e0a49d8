"""Files of fitted estimators: a loaded model predicts the same, and no file is trusted."""

from __future__ import annotations

import json
import os
import pickle
import stat
import uuid
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from conftest import (
    CASES,
    LATENT_RECOMMENDERS,
    NEURAL_RECOMMENDERS,
    RECOMMENDERS,
    make,
    naming,
    plain_parameters,
    run_python,
)
from frames import LOG, columns_of, frame_of
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import skvaecf
from skvaecf import (
    EASE,
    WMF,
    InteractionEncoder,
    InverseAutoregressiveFlow,
    ItemKNN,
    MultVAE,
    Popularity,
    RankingMonitor,
    VampPrior,
)
from skvaecf.persistence import _restore

# Models whose files hold a dense matrix, a sparse matrix, and the parameters of a network.
KINDS_OF_FILES = ["EASE", "ItemKNN", "MultVAE"]


def same(a, b):
    """Return whether two values are equal, in type and to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "indptr"):
        parts = ("data", "indices", "indptr", "shape")
        return all(same(getattr(a, part), getattr(b, part)) for part in parts)
    if isinstance(a, float) and np.isnan(a):
        return np.isnan(b)
    if hasattr(a, "get_params"):
        return same(a.__getstate__(), b.__getstate__())
    return a == b


def saved(model, folder):
    path = folder / "model.safetensors"
    model.save(path)
    return path


def reload(model, folder):
    return skvaecf.load(saved(model, folder))


# --- save and load


def test_nothing_is_pickled(fitted, tmp_path, monkeypatch):
    models = {name: fitted(name) for name in RECOMMENDERS}

    def refuse(*_, **__):
        raise AssertionError("a pickle")

    for function in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, function, refuse)
    for function in ("load", "save"):
        monkeypatch.setattr(torch, function, refuse)
    for name, model in models.items():
        with naming(name):
            assert same(reload(model, tmp_path).__getstate__(), model.__getstate__())


def test_everything_comes_back(name, fitted, X, tmp_path, unchanged):
    model = fitted(name)
    check = unchanged(model)
    loaded = reload(model, tmp_path)
    check()
    assert type(loaded) is type(model)
    assert same(loaded.get_params(), model.get_params())
    assert same(loaded.__getstate__(), model.__getstate__())
    assert_array_equal(loaded.predict(X), model.predict(X))
    for arrays in zip(
        loaded.recommend(X, 4, return_scores=True),
        model.recommend(X, 4, return_scores=True),
        strict=True,
    ):
        assert_array_equal(*arrays)
    if name in LATENT_RECOMMENDERS:
        assert_array_equal(loaded.transform(X), model.transform(X))


LOAD = """
import pickle, sys
import numpy as np

def refuse(*_, **__):
    raise AssertionError("a pickle")

pickle.load = pickle.loads = pickle.Unpickler = refuse
import skvaecf

X = np.load(sys.argv[1] + "/X.npy")
for name in sys.argv[2:]:
    scores = skvaecf.load(f"{sys.argv[1]}/{name}").predict(X)
    np.save(f"{sys.argv[1]}/{name}.npy", scores)
"""


def test_predictions_are_the_same_in_a_new_process(fitted, X, tmp_path):
    np.save(tmp_path / "X.npy", X.toarray())
    for name in RECOMMENDERS:
        fitted(name).save(tmp_path / name)
    run_python(LOAD, str(tmp_path), *RECOMMENDERS)
    for name in RECOMMENDERS:
        assert_array_equal(np.load(tmp_path / f"{name}.npy"), fitted(name).predict(X), name)


@pytest.mark.parametrize("name", KINDS_OF_FILES)
def test_names_of_features_come_back(name, X, tmp_path):
    pd = pytest.importorskip("pandas")
    names = [f"Füße {i}" if i % 2 else "" for i in range(24)]
    named = pd.DataFrame(X.toarray(), columns=[f"{i}{text}" for i, text in enumerate(names)])
    model = make(name).fit(named)
    loaded = reload(model, tmp_path)
    assert same(loaded.feature_names_in_, model.feature_names_in_)
    assert_array_equal(loaded.predict(named), model.predict(named))
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(named[named.columns[::-1]])


def test_a_loaded_model_can_be_fitted_again(name, fitted, X, tmp_path):
    assert_array_equal(
        reload(fitted(name), tmp_path).fit(X).predict(X), make(name).fit(X).predict(X)
    )


def test_a_loaded_model_is_saved_as_the_same_bytes(fitted, tmp_path):
    for name in RECOMMENDERS:
        with naming(name):
            path = saved(fitted(name), tmp_path)
            content = path.read_bytes()
            skvaecf.load(path).save(path)
            assert path.read_bytes() == content


@pytest.mark.parametrize(
    "changes",
    [
        {"prior": VampPrior(4), "posterior": InverseAutoregressiveFlow(2, layer_size=5)},
        {"prior": "vamp", "posterior": "iaf"},
        {"likelihood": "bernoulli", "decoder_layer_sizes": [7, 5], "encoder_layer_sizes": ()},
        {"device": torch.device("cpu"), "learning_rate": np.float32(0.01)},
        {"max_epochs": np.int64(2), "verbose": False},
    ],
)
def test_parameters_that_are_objects(changes, X, tmp_path):
    model = make("MultVAE", **changes).fit(X)
    loaded = reload(model, tmp_path)
    assert loaded.get_params() == model.get_params()
    assert type(loaded.prior) is type(model.prior)
    assert type(loaded.decoder_layer_sizes) is type(model.decoder_layer_sizes)
    assert_array_equal(loaded.predict(X), model.predict(X))


def test_warm_start_after_load(neural_kind, X, tmp_path):
    model = make(neural_kind, warm_start=True).fit(X)
    loaded = reload(model, tmp_path)
    assert_array_equal(loaded.fit(X).predict(X), model.fit(X).predict(X))


def test_nan_and_infinity_come_back(fitted, tmp_path):
    model = make("MultVAE")
    model.__setstate__(fitted("MultVAE").__getstate__())
    model.history_ = [{"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 0.1 + 0.2}]
    assert same(reload(model, tmp_path).history_, model.history_)


@pytest.mark.parametrize("dtype", [">f4", "<i2", "?", "u8", "f8", "f2"])
def test_arrays_of_all_layouts(dtype, tmp_path):
    model = Popularity().fit(np.eye(4))
    for array in (
        np.arange(12).reshape(3, 4).astype(dtype),
        np.asfortranarray(np.arange(12).reshape(3, 4)).astype(dtype),
        np.arange(24).reshape(4, 6)[::2, ::-3].astype(dtype),
        np.arange(24).astype(dtype)[::-5],
        np.array(7).astype(dtype),
        np.empty((0, 3), dtype=dtype),
    ):
        array.flags.writeable = False
        model.extra_ = array
        extra = reload(model, tmp_path).extra_
        assert extra.dtype == array.dtype.newbyteorder("=")
        assert_array_equal(extra, array)
        assert extra.shape == array.shape
        assert extra.flags.writeable


def test_what_was_on_a_device_that_is_not_here_is_on_the_cpu(fitted, X, tmp_path):
    for name in NEURAL_RECOMMENDERS:
        with naming(name):
            model = make(name)
            model.__setstate__(fitted(name).__getstate__())
            loaded = reload(model.set_params(device="cuda:7"), tmp_path)
            assert loaded.device == "cuda:7"
            assert {p.device.type for p in loaded.network_.parameters()} == {"cpu"}
            assert_array_equal(loaded.predict(X), fitted(name).predict(X))


def test_a_model_that_holds_other_models(fitted, X, tmp_path):
    model = Popularity().fit(X)
    model.others_ = [fitted("SLIM"), (fitted("MultVAE"),), {"unfitted": make("MultDAE")}]
    slim, (vae,), unfitted = reload(model, tmp_path).others_
    assert_array_equal(slim.predict(X), fitted("SLIM").predict(X))
    assert_array_equal(vae.predict(X), fitted("MultVAE").predict(X))
    assert same(unfitted["unfitted"].get_params(), make("MultDAE").get_params())
    assert not hasattr(unfitted["unfitted"], "network_")


@pytest.mark.parametrize("name", KINDS_OF_FILES)
def test_a_memory_mapped_model_can_be_saved(name, fitted, X, tmp_path):
    joblib.dump(fitted(name), tmp_path / "pickle")
    model = joblib.load(tmp_path / "pickle", mmap_mode="r")
    assert_array_equal(reload(model, tmp_path).predict(X), fitted(name).predict(X))


def test_a_mapped_file_gives_the_same_model(name, fitted, X, tmp_path):
    path = saved(fitted(name), tmp_path)
    content, mapped = path.read_bytes(), skvaecf.load(path, mmap=True)
    assert same(mapped.__getstate__(), fitted(name).__getstate__())
    assert_array_equal(mapped.predict(X), fitted(name).predict(X))
    assert_array_equal(mapped.recommend(X, 4), fitted(name).recommend(X, 4))
    assert same(pickle.loads(pickle.dumps(mapped)).__getstate__(), mapped.__getstate__())
    assert_array_equal(mapped.fit(X).predict(X), fitted(name).predict(X))
    assert path.read_bytes() == content


LARGEST_ARRAYS = {
    "EASE": lambda model: model.item_similarity_,
    "ItemKNN": lambda model: model.item_similarity_.data,
    "WMF": lambda model: model.item_factors_,
    "MultVAE": lambda model: model.network_.decoder.logits.weight.detach().numpy(),
}


@pytest.mark.parametrize("name", LARGEST_ARRAYS)
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux")
def test_arrays_of_a_mapped_file_are_not_copied(name, fitted, tmp_path):
    path = saved(fitted(name), tmp_path)

    def is_mapped(model):
        address = LARGEST_ARRAYS[name](model).__array_interface__["data"][0]
        maps = Path("/proc/self/maps").read_text().splitlines()
        ranges = [line.split()[0].split("-") for line in maps if line.endswith(str(path))]
        return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)

    assert is_mapped(skvaecf.load(path, mmap=True))
    assert not is_mapped(skvaecf.load(path))


@pytest.mark.parametrize("name", LARGEST_ARRAYS)
def test_a_change_of_a_mapped_model_is_its_own(name, fitted, X, tmp_path):
    path, array_of = saved(fitted(name), tmp_path), LARGEST_ARRAYS[name]
    content, first, second = (
        path.read_bytes(),
        skvaecf.load(path, mmap=True),
        skvaecf.load(path, mmap=True),
    )
    array_of(first)[:] = 7.0
    assert (array_of(first) == 7.0).all()
    assert path.read_bytes() == content
    assert_array_equal(second.predict(X), fitted(name).predict(X))


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace mapped files")
def test_a_mapped_file_can_be_replaced(fitted, X, tmp_path):
    path = saved(fitted("EASE"), tmp_path)
    old = skvaecf.load(path, mmap=True)
    EASE(l2=1e6).fit(X).save(path)
    assert_array_equal(old.predict(X), fitted("EASE").predict(X))
    assert skvaecf.load(path, mmap=True).l2 == 1e6


def test_callbacks_and_metadata_requests_are_not_saved(X, tmp_path):
    model = make("MultVAE").fit(X)
    model._skl_callbacks = [RankingMonitor(X)]
    model._metadata_request = object()
    loaded = reload(model, tmp_path)
    assert sorted(vars(loaded)) == sorted(
        set(vars(model)) - {"_skl_callbacks", "_metadata_request"}
    )


def test_set_output_is_saved(X, tmp_path):
    pd = pytest.importorskip("pandas")
    loaded = reload(make("WMF").fit(X).set_output(transform="pandas"), tmp_path)
    assert isinstance(loaded.transform(X), pd.DataFrame)


@pytest.mark.parametrize("kind", ["pandas", "polars", "dict of lists"])
def test_encoders(kind, tmp_path):
    log = LOG | {"user": ["", "ä", "", "a\0", "🜁"]}
    encoder = InteractionEncoder(value="plays").fit(frame_of(log, kind))
    loaded = reload(encoder, tmp_path)
    assert same(vars(loaded), vars(encoder))
    items = [[0], [1], [2], [-1]]
    assert columns_of(loaded.to_frame(items)) == columns_of(encoder.to_frame(items))


def test_encoders_with_times(tmp_path):
    log = LOG | {"time": [8, 0, 5, -2, 9]}
    loaded = reload(InteractionEncoder(time="time").fit(log), tmp_path)
    assert loaded.time == "time"
    assert_array_equal(loaded.transform_times(log).data, [-2, 0, 9, 5])


def test_encoders_that_were_saved_before_they_had_times(tmp_path):
    path = saved(InteractionEncoder().fit(LOG), tmp_path)
    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        text = file.metadata()["skvaecf"]
    assert '"time": null' in text
    save_file(tensors, path, {"skvaecf": text.replace(', "time": null', "")})
    assert skvaecf.load(path).get_params() == InteractionEncoder().get_params()


@pytest.mark.parametrize("dtype", ["M8[D]", "M8[ns]", ">M8[us]"])
def test_dates(dtype, tmp_path):
    dates = np.array(["1969-12-31", "2026-01-02"], dtype=dtype)
    encoder = InteractionEncoder().fit({"user": dates, "item": [1, 2]})
    loaded = reload(encoder, tmp_path)
    assert_array_equal(loaded.user_ids_, dates)
    assert loaded.user_ids_.dtype == dates.dtype.newbyteorder("=")
    with pytest.raises(ValueError, match="dates cannot be of type 'float64'"):
        _restore({"dates": [0, "float64"]}, None)


# --- writing


def test_the_file_can_be_read_without_skvaecf(fitted, tmp_path):
    path = saved(fitted("SLIM"), tmp_path)
    tensors = load_file(path)
    of_matrix = [f"item_similarity_.{n}" for n in ("data", "indices", "indptr")]
    assert sorted(tensors) == ["item_counts_", *of_matrix]
    with safe_open(path, framework="numpy") as file:
        description = json.loads(file.metadata()["skvaecf"])
    assert description["format"] == 2
    assert description["version"] == skvaecf.__version__
    assert description["model"]["estimator"][0] == "SLIM"
    assert description["model"]["estimator"][1]["l1"] == CASES["SLIM"].cheap["l1"]


@pytest.mark.parametrize("name", KINDS_OF_FILES)
def test_pickles_hold_their_version(name, fitted, X):
    state = fitted(name).__getstate__()
    assert state["_skvaecf_version"] == skvaecf.__version__
    other = clone(fitted(name))
    with pytest.warns(UserWarning, match=r"of skvaecf 0\.0 is unpickled by"):
        other.__setstate__(state | {"_skvaecf_version": "0.0"})
    assert_array_equal(other.predict(X), fitted(name).predict(X))


def test_a_failed_save_leaves_the_old_file(fitted, tmp_path, monkeypatch):
    path = saved(fitted("EASE"), tmp_path)
    content = path.read_bytes()

    def full(tensors, temporary, metadata):
        Path(temporary).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("skvaecf.persistence.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        fitted("WMF").save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name]


def test_a_file_is_replaced_and_nothing_else_is_left(fitted, tmp_path):
    saved(fitted("EASE"), tmp_path)
    path = saved(fitted("Popularity"), tmp_path)
    assert isinstance(skvaecf.load(path), Popularity)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_file_has_the_usual_mode(fitted, tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    assert stat.S_IMODE(saved(fitted("EASE"), tmp_path).stat().st_mode) == stat.S_IMODE(
        usual.stat().st_mode
    )


def test_paths(fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted("Popularity").save("a.bin")
    fitted("Popularity").save(str(tmp_path / "b.bin"))
    assert Path("a.bin").read_bytes() == Path("b.bin").read_bytes()
    with pytest.raises(FileNotFoundError):
        skvaecf.load("absent")
    with pytest.raises(FileNotFoundError):
        fitted("Popularity").save(tmp_path / "absent" / "model")


def test_unfitted_models_are_not_saved(tmp_path):
    for name in RECOMMENDERS:
        with naming(name), pytest.raises(NotFittedError):
            make(name).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


class Custom(Popularity):
    pass


def of_the_same_name():
    class EASE(Popularity):
        pass

    return EASE()


@pytest.mark.parametrize("model", [Custom(), of_the_same_name()])
def test_only_classes_of_the_package_are_saved(model, X, tmp_path):
    with pytest.raises(ValueError, match=f"The estimator is a .*{type(model).__name__}, which can"):
        model.fit(X).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value",
    [
        np.random.RandomState(0),
        np.array([1, None]),
        {1: 2},
        object(),
        print,
        1j,
        b"bytes",
        np.zeros(2, dtype=complex),
    ],
)
def test_what_cannot_be_saved_is_named(value, X, tmp_path):
    model = make("MultVAE").fit(X)
    model.random_state = [0, value]
    with pytest.raises(ValueError, match=r"random_state\.1 is a .*, which cannot be saved"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_two_arrays_of_one_name(tmp_path):
    model = Popularity().fit(np.eye(3))
    model.extra_ = {"a.b": np.zeros(1), "a": {"b": np.ones(1)}}
    with pytest.raises(ValueError, match=r"Two arrays would be saved by the name 'extra_\.a\.b'"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ids", [[b"a", b"b"], [uuid.UUID(int=1), uuid.UUID(int=2)]])
def test_ids_that_cannot_be_saved(ids, tmp_path):
    encoder = InteractionEncoder().fit({"user": ids, "item": [1, 2]})
    message = "user_ids_ is a .*ndarray of dtype object, which .*strings .*pickle"
    with pytest.raises(ValueError, match=message):
        encoder.save(tmp_path / "encoder")


# --- damaged and tampered files


@pytest.fixture
def tamper(fitted, tmp_path):
    """Return a function that saves a model and writes the file again with a change."""

    def write(name, change):
        path = saved(fitted(name), tmp_path)
        tensors = load_file(path)
        with safe_open(path, framework="numpy") as file:
            description = json.loads(file.metadata()["skvaecf"])
        change(description, tensors)
        save_file(tensors, path, {"skvaecf": json.dumps(description)})
        return path

    return write


def refused(path, message):
    with pytest.raises(ValueError, match=message) as raised:
        skvaecf.load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", KINDS_OF_FILES)
def test_a_file_written_again_without_a_change_is_loaded(name, fitted, tamper, X):
    model = skvaecf.load(tamper(name, lambda description, tensors: None))
    assert_array_equal(model.predict(X), fitted(name).predict(X))


def test_a_file_cut_anywhere(fitted, tmp_path):
    for name in RECOMMENDERS:
        path = saved(fitted(name), tmp_path)
        content = path.read_bytes()
        for length in (0, 1, 7, 8, 9, 200, len(content) // 2, len(content) - 1):
            with naming((name, length)):
                path.write_bytes(content[:length])
                refused(path, "cannot be loaded")
        with naming((name, "a byte more")):
            path.write_bytes(content + b"\0")
            refused(path, "cannot be loaded")


def test_other_files(tmp_path, fitted):
    path = tmp_path / "other"
    path.write_bytes(b"\x80\x04\x95not a pickle")
    refused(path, "skvaecf did not write it, or it is damaged")
    save_file({"a": np.zeros(2)}, path)
    refused(path, "skvaecf did not write it")
    save_file({"a": np.zeros(2)}, path, {"skvaecf": "[1, 2"})
    refused(path, "cannot be loaded")
    save_file({"a": np.zeros(2)}, path, {"skvaecf": "[" * 100_000})
    refused(path, "cannot be loaded")
    save_file({"a": np.zeros(2)}, path, {"skvaecf": "{}"})
    refused(path, "entries format, version and model")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        skvaecf.load(tmp_path)


@pytest.mark.parametrize("number", [1, 3])
def test_another_format(tamper, number):
    def change(description, tensors):
        description.update(format=number, version="9.1.0")

    refused(tamper("EASE", change), rf"format {number} of skvaecf '9\.1\.0'; this is skvaecf")


@pytest.mark.parametrize(
    "class_name",
    ["Unknown", "recommend", "__version__", "BaseRecommender", "VampPrior", "os.system", "object"],
)
def test_unknown_classes(tamper, class_name):
    def change(description, tensors):
        description["model"]["estimator"][0] = class_name

    refused(tamper("EASE", change), f"no estimator '{class_name}'")


def test_another_class(tamper):
    def change(description, tensors):
        description["model"]["estimator"][0] = "SLIM"

    refused(tamper("EASE", change), "SLIM has no parameters")


@pytest.mark.parametrize(
    "value", [5, [1], None, {"tuple": []}, {"value": ["VampPrior", {"n_pseudo_inputs": 5}]}]
)
def test_a_file_without_an_estimator(tamper, value):
    def change(description, tensors):
        description["model"] = value
        tensors.clear()
        tensors["a"] = np.zeros(1)
        description["model"] = {"dict": {"a": {"array": ["a", "float64", [1]]}, "b": value}}

    refused(tamper("EASE", change), "it holds a dict instead of an estimator")


@pytest.mark.parametrize("name", KINDS_OF_FILES)
def test_missing_and_extra_tensors(name, tamper):
    def drop(description, tensors):
        del tensors[max(tensors)]
        tensors["extra"] = np.zeros(1)

    def add(description, tensors):
        tensors["extra"] = np.zeros(1)

    def describe_twice(description, tensors):
        learned = description["model"]["estimator"][2]
        learned["extra_"] = {"array": next(arrays_of(learned))}

    refused(tamper(name, drop), "it lacks the tensor '.*' or describes it twice")
    refused(tamper(name, describe_twice), "it lacks the tensor '.*' or describes it twice")
    refused(tamper(name, add), r"tensors that it does not describe: \['extra'\]")


@pytest.mark.parametrize("name", KINDS_OF_FILES)
def test_shapes_and_types_are_compared_with_the_description(name, tamper):
    def reshape(description, tensors):
        key = max(tensors, key=lambda key: tensors[key].size)
        tensors[key] = tensors[key].ravel()[:-1]

    def retype(description, tensors):
        key = max(tensors, key=lambda key: tensors[key].size)
        tensors[key] = tensors[key].astype(np.float16)

    refused(tamper(name, reshape), "is of type .* described to be of type")
    refused(tamper(name, retype), "is of type float16 .* described to be of type")


def arrays_of(node):
    """Yield all descriptions of arrays."""
    if isinstance(node, dict) and "array" in node:
        yield node["array"]
    elif isinstance(node, (dict, list)):
        for part in node.values() if isinstance(node, dict) else node:
            yield from arrays_of(part)


def change_all(change):
    """Return a function that changes each tensor and its description in the same way."""

    def both(description, tensors):
        for array in arrays_of(description):
            tensors[array[0]] = np.ascontiguousarray(change(tensors[array[0]]))
            array[1:] = tensors[array[0]].dtype.name, list(tensors[array[0]].shape)

    return both


CHANGES_OF_SHAPE = {
    "a row less": lambda a: a[:-1],
    "a column less": lambda a: a[..., :-1],
    "a dimension more": lambda a: a[None],
    "twice the columns": lambda a: np.repeat(a, 2, axis=-1),
}


def test_arrays_that_do_not_fit_together_are_refused(name, tamper):
    for changed, change in CHANGES_OF_SHAPE.items():
        with naming(changed):
            refused(tamper(name, change_all(change)), "cannot be loaded")


def test_wrong_indices_of_a_sparse_matrix(tamper):
    for name in ("ItemKNN", "SLIM"):
        for position, value in ((0, 24), (-1, 10**9), (0, -1)):

            def change(description, tensors, position=position, value=value):
                tensors["item_similarity_.indices"][position] = value

            refused(tamper(name, change), "ind")

        def change(description, tensors):
            tensors["item_similarity_.indptr"][3] = 10**9

        refused(tamper(name, change), "ind")


def test_wrong_number_of_items(name, tamper):
    for n_items in (0, -1, 12, 25, 10**9, 2.5, "24", None, True):

        def change(description, tensors, n_items=n_items):
            description["model"]["estimator"][2]["n_features_in_"] = n_items

        with naming(repr(n_items)):
            refused(tamper(name, change), "cannot be loaded")

    def drop(description, tensors):
        del description["model"]["estimator"][2]["n_features_in_"]

    refused(tamper(name, drop), "cannot be loaded, it is damaged: AttributeError")


def test_wrong_numbers_of_users(tamper):
    for name in RECOMMENDERS:
        for wrong in (np.zeros(23, dtype=np.int64), np.full(24, np.nan), np.full(24, -1)):

            def change(description, tensors, wrong=wrong):
                node = description["model"]["estimator"][2]["item_counts_"]
                node["array"][1:] = [wrong.dtype.name, list(wrong.shape)]
                tensors["item_counts_"] = wrong

            with naming((name, wrong)):
                refused(tamper(name, change), "numbers of users")

        def drop(description, tensors):
            del description["model"]["estimator"][2]["item_counts_"]
            del tensors["item_counts_"]

        with naming(name):
            refused(tamper(name, drop), "cannot be loaded, it is damaged: AttributeError")


def test_unknown_parameters_are_refused(tamper):
    def add(description, tensors):
        description["model"]["estimator"][1]["unknown"] = 1

    for name in RECOMMENDERS:
        with naming(name):
            refused(tamper(name, add), rf"{name} has no parameters \['unknown'\]")


def test_a_parameter_that_was_added_later_has_its_default(tamper):
    def drop(description, tensors):
        del description["model"]["estimator"][1]["l2"]

    assert skvaecf.load(tamper("EASE", drop)).l2 == skvaecf.EASE().l2 != make("EASE").l2


@pytest.mark.parametrize("value", ["much", None, -1.0, {"tuple": [1]}, {"device": "cpu"}])
def test_values_of_parameters_are_checked(tamper, value):
    def change(description, tensors):
        description["model"]["estimator"][1]["l2"] = value

    refused(tamper("EASE", change), "The 'l2' parameter of EASE must be")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("encoder_layer_sizes", {"tuple": [9]}),
        ("encoder_layer_sizes", {"tuple": ["a"]}),
        ("encoder_layer_sizes", {"tuple": [10**14]}),
        ("n_components", 10**13),
        ("prior", {"value": ["VampPrior", {"n_pseudo_inputs": -1}]}),
        ("prior", {"value": ["VampPrior", {}]}),
        ("prior", {"value": ["EASE", {}]}),
        ("prior", {"value": ["os.system", {"command": "true"}]}),
        ("device", {"device": "quantum"}),
    ],
)
def test_parameters_of_a_network_are_checked(tamper, parameter, value):
    def change(description, tensors):
        _, params, learned = description["model"]["estimator"]
        for known in (params, learned["_built_with"]["dict"]):
            if parameter in known:
                known[parameter] = value

    refused(tamper("MultVAE", change), "cannot be loaded")


@pytest.mark.parametrize(
    "attribute", ["predict", "__class__", "__dict__", "_scorer", "l2", "not a name", ""]
)
def test_names_of_attributes_are_checked(tamper, attribute):
    def change(description, tensors):
        description["model"]["estimator"][2][attribute] = 1

    refused(tamper("EASE", change), "cannot be an attribute that EASE has learned")


@pytest.mark.parametrize(
    "node",
    [
        {},
        {"tuple": [1], "dict": {}},
        {"code": "print()"},
        {"tuple": 5},
        {"dict": [1]},
        {"array": 5},
        {"array": []},
        {"array": ["item_similarity_", "float32", [24, 24]]},
        {"csr": []},
        {"csr": [1, 2, 3, [1, 1]]},
        {"strings": [1, 2]},
        {"estimator": ["EASE"]},
        {"estimator": [["EASE"], {}, {}]},
        {"value": 5},
        {"float": "one"},
        {"device": 5.5},
    ],
)
def test_malformed_nodes(tamper, node):
    def change(description, tensors):
        description["model"]["estimator"][2]["extra_"] = node

    refused(tamper("EASE", change), "cannot be loaded")


def test_numbers_that_json_does_not_allow(fitted, tmp_path):
    path = saved(fitted("EASE"), tmp_path)
    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        text = file.metadata()["skvaecf"].replace('"l2": 5.0', '"l2": Infinity')
    save_file(tensors, path, {"skvaecf": text})
    refused(path, "Infinity is not valid JSON")


@pytest.mark.parametrize("ends", [[3, 2], [1, 9], [-1, 2], [1]])
def test_strings_out_of_order(ends, tmp_path):
    encoder = InteractionEncoder().fit({"user": ["a", "bc"], "item": [1, 2]})
    path = saved(encoder, tmp_path)
    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        text = file.metadata()["skvaecf"]
    text = text.replace(
        '"user_ids_.ends", "int64", [2]', f'"user_ids_.ends", "int64", [{len(ends)}]'
    )
    save_file(tensors | {"user_ids_.ends": np.array(ends)}, path, {"skvaecf": text})
    refused(path, "ends of its strings are out of order")


def test_ids_that_do_not_ascend(tmp_path):
    path = saved(InteractionEncoder().fit(LOG), tmp_path)
    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        text = file.metadata()["skvaecf"]
    save_file(tensors | {"item_ids_": np.array([1, 3, 3])}, path, {"skvaecf": text})
    refused(path, "ids do not ascend")
    save_file(tensors, path, {"skvaecf": text.replace('"_library": null', '"_library": "os"')})
    refused(path, "no library of frames 'os'")


@pytest.mark.parametrize(
    "model", [EASE(l2=5.0, device="cpu"), ItemKNN(), WMF(3, device="cpu"), "VAE"]
)
def test_any_changed_bit_of_the_header_is_an_error_or_a_model(model, X, tmp_path):
    model = make("MultVAE") if model == "VAE" else model
    path = saved(model.fit(X), tmp_path)
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    rng = np.random.RandomState(0)
    loaded = 0
    for place in rng.randint(8 + header, size=150):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randint(8)
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                scores = skvaecf.load(path).predict(X)
            except ValueError as raised:
                error = str(raised)
            else:
                error = None
        if error is None:
            assert scores.shape == X.shape
            loaded += 1
        else:
            assert str(path) in error
    assert loaded < 100


# --- skops, which writes no pickles either


def test_skops(name, fitted, X):
    io = pytest.importorskip("skops.io")
    content = io.dumps(fitted(name))
    trusted = io.get_untrusted_types(data=content)
    ours = {f"{getattr(skvaecf, each).__module__}.{each}" for each in RECOMMENDERS}
    assert set(trusted) <= ours | {"scipy.sparse._csr.csr_array"}, trusted
    assert name == "Blend" or len(set(trusted) & ours) == 1
    loaded = io.loads(content, trusted=trusted)
    assert_array_equal(loaded.predict(X), fitted(name).predict(X))
    assert plain_parameters(loaded) == plain_parameters(fitted(name))


def test_skops_of_a_model_with_a_prior(X):
    io = pytest.importorskip("skops.io")
    model = MultVAE(4, prior=VampPrior(3), device="cpu", max_epochs=1, random_state=0).fit(X)
    content = io.dumps(model)
    trusted = io.get_untrusted_types(data=content)
    assert trusted == ["skvaecf.neural._latent.VampPrior", "skvaecf.recommenders.mult_vae.MultVAE"]
    assert_array_equal(io.loads(content, trusted=trusted).predict(X), model.predict(X))
