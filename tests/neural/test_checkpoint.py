"""Interrupted fits: they end like others, and a file of another fit is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NEURAL_RECOMMENDERS, VALUES, make, run_python
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer

import skvaecf
from skvaecf import InverseAutoregressiveFlow, MultVAE, RankingMonitor, VampPrior
from skvaecf.datasets import make_interactions
from skvaecf.neural import _recommender
from skvaecf.neural._checkpoint import Checkpoint, digest_rows
from skvaecf.neural._training import Game, move_average

# With a running average, and with epochs after the best one.
LONG = {"max_epochs": 6, "ema_decay": 0.8, "n_iter_no_change": 4}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def kill(monkeypatch):
    """Return a function that lets the process end in an epoch, counted from the call."""

    def at(epoch, error=Killed):
        epochs = []

        def until_then(*args):
            move_average(*args)
            epochs.append(args[-1])
            if len(epochs) == epoch:
                monkeypatch.undo()
                raise error

        monkeypatch.setattr(_recommender, "move_average", until_then)
        return epochs

    return at


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.checkpoint"


@pytest.fixture
def begun(kill, path, X):
    """Return a function that lets a fit be killed in an epoch and returns the path of its file."""

    def begin(model, epoch=3, X=X, **options):
        kill(epoch)
        with pytest.raises(Killed):
            model.fit(X, checkpoint_path=path, **options)
        assert os.listdir(path.parent) == [path.name]
        return path

    return begin


def assert_same(model, expected, X):
    """Check that two fits learned the same, to the bit."""
    parts = model.network_.state_dict(), expected.network_.state_dict()
    assert list(parts[0]) == list(parts[1])
    for name in parts[0]:
        assert torch.equal(parts[0][name], parts[1][name]), name
    assert (model.n_iter_, model.best_iter_) == (expected.n_iter_, expected.best_iter_)
    histories = ([dict(r, seconds=0) for r in m.history_] for m in (model, expected))
    assert next(histories) == next(histories)
    assert_array_equal(model.predict(X), expected.predict(X))


# --- resuming


def test_a_resumed_fit_ends_like_one_without_interruption(neural, begun, path, X):
    expected = make(neural, **LONG).fit(X)
    # Killed in the first epoch, and in the third of those that are left.
    begun(make(neural, **LONG), 1)
    begun(make(neural, **LONG), 3)
    model = make(neural, **LONG)
    assert model.fit(X, checkpoint_path=path) is model
    assert_same(model, expected, X)
    assert not os.listdir(path.parent)


@pytest.fixture
def kill_after(monkeypatch):
    """Return a function that lets the fit that follows be killed after some updates."""

    def after(n_updates, error=Killed):
        save, updates = Checkpoint.save_within_epoch, []

        def save_and_stop(*args):
            save(*args)
            updates.append(1)
            if len(updates) == n_updates:
                monkeypatch.undo()
                raise error

        monkeypatch.setattr(Checkpoint, "save_within_epoch", save_and_stop)

    return after


@pytest.mark.parametrize(("batch_size", "kills"), [(7, (1, 2, 3, 23, 1)), ("auto", (1, 2, 1))])
def test_a_fit_is_resumed_within_an_epoch(batch_size, kills, neural, kill_after, path, X):
    model = make(neural, **LONG, batch_size=batch_size)
    expected = clone(model).fit(X)
    for n_updates in kills:
        kill_after(n_updates)
        with pytest.raises(Killed):
            clone(model).fit(X, checkpoint_path=path, checkpoint_seconds=0)
    assert_same(model.fit(X, checkpoint_path=path, checkpoint_seconds=0), expected, X)
    assert not os.listdir(path.parent)


def test_the_state_is_written_by_time(begun, path, X, monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoint, "_save", lambda self, when, state: written.append(when))
    model = make("MultVAE", **LONG | {"early_stopping": False}, batch_size=10)
    for seconds in (None, 1e9):
        model.fit(X, checkpoint_path=path, checkpoint_seconds=seconds)
        assert "within an epoch" not in written
    written.clear()
    model.fit(X, checkpoint_path=path, checkpoint_seconds=0)
    n_updates = model.n_iter_ * -(-X.shape[0] // 10)
    assert written.count("within an epoch") == n_updates
    with pytest.raises(ValueError, match="checkpoint_seconds == -1, must be >= 0"):
        model.fit(X, checkpoint_path=path, checkpoint_seconds=-1)


def test_ctrl_c_in_the_first_epoch_keeps_its_updates(neural_kind, kill_after, X, unchanged):
    model = make(neural_kind, **LONG, batch_size=7)
    kill_after(2, KeyboardInterrupt)
    with pytest.warns(UserWarning, match="interrupted in epoch 1; its first 2 updates are kept"):
        model.fit(X)
    assert (model.n_iter_, model.best_iter_, model.history_) == (0, 0, [])
    assert model.recommend(X, k=3).shape == (X.shape[0], 3)
    started = make(neural_kind, **LONG, batch_size=7, warm_start=True)
    started.__dict__.update(vars(model) | {"warm_start": True})
    assert started.fit(X).n_iter_ > 0


def test_ctrl_c_before_the_first_update_says_that_nothing_is_kept(X, monkeypatch, unchanged):
    def stop(*args):
        raise KeyboardInterrupt

    models = make("MultVAE").fit(X), make("IRGAN").fit(X)  # which has a pretraining
    monkeypatch.setattr(Game, "play", stop)
    for model in models:
        check = unchanged(model)
        with pytest.raises(KeyboardInterrupt, match="there is nothing to keep"):
            model.fit(X)
        check()


def test_a_file_changes_nothing(neural_kind, path, X):
    model = make(neural_kind, **LONG).fit(X, checkpoint_path=path, checkpoint_every=2)
    assert_same(model, make(neural_kind, **LONG).fit(X), X)
    assert not os.listdir(path.parent)


SETTINGS = {
    "bfloat16": ("MultVAE", {"precision": "bfloat16"}),
    "learned prior": ("MultVAE", {"prior": VampPrior(3)}),
    "flow": ("MultVAE", {"posterior": InverseAutoregressiveFlow(2, 5)}),
    "without early stopping": ("MultVAE", {"early_stopping": False}),
    "stopping early": (
        "MultVAE",
        {"max_epochs": 40, "n_iter_no_change": 2, "learning_rate": 0.1},
    ),
    "another likelihood": ("MultVAE", {"likelihood": "n-choose-k"}),
    "buffers that change": ("CFGAN", {"mode": "item"}),
}


@pytest.mark.parametrize(("name", "changes"), SETTINGS.values(), ids=SETTINGS)
def test_fits_with_other_settings_are_resumed(name, changes, begun, path, X):
    model = make(name, **LONG | changes)
    expected = clone(model).fit(X)
    begun(clone(model), 3)
    assert_same(model.fit(X, checkpoint_path=path), expected, X)


@pytest.mark.parametrize("pair", [False, True])
def test_fits_with_validation_users_are_resumed(pair, begun, path, X):
    others = make_interactions(40, 24, n_blocks=2, noise=0.3, random_state=1)
    X_val = skvaecf.split_interactions(others, random_state=0) if pair else others
    expected = make("MultVAE", **LONG).fit(X, X_val=X_val)
    begun(make("MultVAE", **LONG), 3, X_val=X_val)
    model = make("MultVAE", **LONG).fit(X, X_val=X_val, checkpoint_path=path)
    assert_same(model, expected, X)


def test_only_the_epochs_after_the_last_state_are_run_again(kill, path, X):
    model = make("MultVAE", **LONG, early_stopping=False)
    expected = clone(model).fit(X)
    for begins, killed in ((1, 4), (3, 2), (3, 3)):  # after epochs 4, 4 and 5
        epochs = kill(killed)
        with pytest.raises(Killed):
            clone(model).fit(X, checkpoint_path=path, checkpoint_every=2)
        assert epochs[0] == begins
    assert epochs == [3, 4, 5]
    epochs = kill(99)
    assert_same(model.fit(X, checkpoint_path=path, checkpoint_every=2), expected, X)
    assert epochs == [5, 6]


def test_killed_before_the_first_epoch_is_done_and_after_the_last(begun, path, X, monkeypatch):
    model = make("MultVAE", **LONG, early_stopping=False)
    expected = clone(model).fit(X)
    begun(clone(model), 1)
    with monkeypatch.context() as patch:
        patch.setattr(_recommender.Checkpoint, "remove", lambda _: None)
        assert_same(clone(model).fit(X, checkpoint_path=path), expected, X)
    assert path.exists()
    assert_same(model.fit(X, checkpoint_path=path), expected, X)
    assert not path.exists()


def test_a_fit_without_a_seed_resumes_with_the_seed_it_began_with(begun, path, X, monkeypatch):
    begun(make("MultVAE", **LONG, random_state=None), 3)
    seeds = []
    hold_out = MultVAE._hold_out

    def note(self, X, X_val, sample_weight, seed):
        seeds.append(seed)
        return hold_out(self, X, X_val, sample_weight, seed)

    monkeypatch.setattr(MultVAE, "_hold_out", note)
    model = make("MultVAE", **LONG, random_state=None).fit(X, checkpoint_path=path)
    other = make("MultVAE", **LONG, random_state=None).fit(X)
    assert seeds[0] != seeds[1]

    class FixedSeed(np.random.RandomState):
        def randint(self, *_):
            return seeds[0]

    assert_same(model, make("MultVAE", **LONG, random_state=FixedSeed()).fit(X), X)
    assert not np.array_equal(model.predict(X), other.predict(X))


def test_random_state_instances_must_be_as_they_were(begun, path, X):
    def model(seed):
        return make("MultVAE", **LONG, random_state=np.random.RandomState(seed))

    expected = model(3).fit(X)
    begun(model(3), 3)
    with pytest.raises(ValueError, match="differs in random_state"):
        model(4).fit(X, checkpoint_path=path)
    assert_same(model(3).fit(X, checkpoint_path=path), expected, X)


def test_warm_starts_are_resumed(begun, path, X):
    first = make("MultVAE", **LONG, warm_start=True).fit(X)
    copied = pickle.loads(pickle.dumps(first))
    expected = pickle.loads(pickle.dumps(first)).fit(X)
    begun(first, 3)
    assert_same(copied.fit(X, checkpoint_path=path), expected, X)


def test_a_warm_start_from_another_network_is_another_fit(begun, path, X):
    first = make("MultVAE", **LONG, warm_start=True).fit(X)
    other = make("MultVAE", **LONG, warm_start=True).fit(X[::-1])
    begun(first, 3)
    with pytest.raises(ValueError, match="differs in warm_start"):
        other.fit(X, checkpoint_path=path)


def test_an_interrupt_from_the_keyboard_leaves_the_file(kill, path, X):
    expected = make("MultVAE", **LONG).fit(X)
    model = make("MultVAE", **LONG)
    kill(4, KeyboardInterrupt)
    with pytest.warns(UserWarning, match="interrupted in epoch 4"):
        model.fit(X, checkpoint_path=path)
    assert model.n_iter_ == 3
    assert_same(model.fit(X, checkpoint_path=path), expected, X)


def test_an_interrupt_right_after_resuming(kill, begun, path, X):
    begun(make("MultVAE", **LONG), 4)
    model = make("MultVAE", **LONG)
    kill(1, KeyboardInterrupt)
    with pytest.warns(UserWarning, match="interrupted in epoch 4"):
        model.fit(X, checkpoint_path=path)
    assert_same(model, make("MultVAE", **LONG | {"max_epochs": 3}).fit(X), X)


def test_callbacks_see_the_epochs_that_are_left(begun, path, X):
    pytest.importorskip("sklearn.callback")
    begun(make("MultVAE", **LONG, early_stopping=False), 4)
    monitor = RankingMonitor(X)
    make("MultVAE", **LONG, early_stopping=False).set_callbacks(monitor).fit(
        X, checkpoint_path=path
    )
    assert len(monitor.log_) == 3


def test_pipelines_pass_the_path(begun, path, X):
    begun(make("MultVAE", **LONG), 3)
    pipeline = make_pipeline(Binarizer(), make("MultVAE", **LONG))
    pipeline.fit(X, multvae__checkpoint_path=str(path))
    assert_array_equal(pipeline.predict(X), make("MultVAE", **LONG).fit(X).predict(X))
    assert not path.exists()


KILLS = """
import os, random, signal, sys, time
import numpy as np
import torch
torch.set_num_threads(1)
import skvaecf
from skvaecf.datasets import make_interactions

folder, names = sys.argv[1], sys.argv[2:]
X = make_interactions(60, 24, n_blocks=2, noise=0.3, random_state=0)
random.seed(0)

def attempt(name):
    path = f"{folder}/{name}"
    child = os.fork()
    if child == 0:
        model = getattr(skvaecf, name)(**CASES[name])
        model.fit(X, checkpoint_path=path)
        np.save(f"{folder}/done.npy", model.predict(X))
        os._exit(0)
    return child

for name in names:
    seconds = 3600.0
    for _ in range(4):  # the shortest: the first fit, or one on a busy machine, takes longer
        started = time.monotonic()
        model = getattr(skvaecf, name)(**CASES[name]).fit(X, checkpoint_path=f"{folder}/{name}")
        seconds = min(seconds, time.monotonic() - started)
    expected = model.predict(X)
    kills = 0
    while True:
        child = attempt(name)
        if kills < 6:
            time.sleep(random.uniform(0, seconds / 3))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, status
            break
        kills += 1
    assert (np.load(f"{folder}/done.npy") == expected).all(), name
    os.remove(f"{folder}/done.npy")
    print(name, kills, os.listdir(folder))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 and fork")
def test_kill_9_at_random_moments(tmp_path):
    names = ["MultVAE", "VAEGANRecommender"]
    cases = {name: make(name, max_epochs=30, early_stopping=False).get_params() for name in names}
    lines = run_python(f"CASES = {cases!r}\n{KILLS}", str(tmp_path), *names).splitlines()
    assert [line.split()[0] for line in lines] == names
    for line in lines:
        _, kills, left = line.split(maxsplit=2)
        assert int(kills) >= 3, "most attempts ended before they were killed"
        assert left == "[]"


# --- refusals


def refuse(model, path, match, X, unchanged, **options):
    """Check that fit ends before anything changes, the file included."""
    content = path.read_bytes()
    check = unchanged(model)
    with pytest.raises(ValueError, match=match):
        model.fit(X, checkpoint_path=path, **options)
    check()
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["CFGAN", "MultVAE"])
def test_other_parameters_are_refused_by_name(name, begun, path, X, unchanged):
    base = make(name)
    begun(base, 2)
    for parameter in base.get_params():
        changed = clone(base).set_params(**{parameter: VALUES[parameter].other})
        if parameter in ("device", "verbose"):  # cpu:0 is cpu
            continue
        refuse(changed, path, rf"differs in {parameter} \(", X, unchanged)


def test_the_error_shows_both_values(begun, path, X, unchanged):
    begun(make("MultVAE"), 2)
    message = r"differs in kl_weight \(0.5 there, 0.25 here\), l2 \(.*\. Remove it, or name another"
    refuse(make("MultVAE", kl_weight=0.25, l2=3.0), path, message, X, unchanged)


def test_verbose_does_not_matter(begun, path, X, capsys):
    settings = LONG | {"early_stopping": False}
    begun(make("MultVAE", **settings), 2)
    make("MultVAE", **settings, verbose=1).fit(X, checkpoint_path=path)
    assert "5/5" in capsys.readouterr().err  # epochs that were left


def test_other_data_are_refused(begun, path, X, unchanged):
    begun(make("MultVAE"), 2)
    less = X.copy()
    less.data[7] = 0
    for other in (less, X[::-1], X[:, ::-1], X[:50], less.toarray()):
        refuse(make("MultVAE"), path, r"differs in X \(", other, unchanged)
    refuse(make("MultVAE"), path, r"differs in X_val \(None there", X, unchanged, X_val=X)
    refuse(make("MultVAE"), path, "X_val", X, unchanged, X_val=skvaecf.split_interactions(X))


def test_equal_items_of_other_users_are_other_data():
    # The same items in the same order, of other users or among more items.
    rows = [[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]], [[1, 1], [0, 0]]
    assert len({digest_rows(csr_array(np.array(X))) for X in rows}) == 3
    one, other = (csr_array(np.array(X)) for X in rows[:2])
    assert digest_rows(one, other) != digest_rows(other, one)


def test_the_same_data_in_another_form_are_not_other_data(begun, path, X):
    begun(make("MultVAE", **LONG), 3)
    model = make("MultVAE", **LONG).fit(3 * X.toarray(), checkpoint_path=path)
    assert_same(model, make("MultVAE", **LONG).fit(X), X)


def test_another_class_is_refused(begun, path, X, unchanged):
    begun(make("MultVAE"), 2)
    for name in NEURAL_RECOMMENDERS:
        if name != "MultVAE":
            refuse(make(name), path, r"class \(MultVAE there", X, unchanged)


def test_another_version_is_refused(begun, path, X, unchanged, monkeypatch):
    begun(make("MultVAE"), 2)
    monkeypatch.setattr("skvaecf.neural._recommender.__version__", "9.9")
    refuse(make("MultVAE"), path, "differs in version", X, unchanged)


def test_models_and_checkpoints_are_not_confused(begun, path, fitted, X, unchanged):
    begun(make("MultVAE"), 2)
    with pytest.raises(ValueError, match="holds a dict instead of an estimator"):
        skvaecf.load(path)
    fitted("MultVAE").save(path)
    refuse(make("MultVAE"), path, "holds something else than a checkpoint", X, unchanged)


def test_a_file_cut_anywhere_is_refused(begun, path, X, unchanged):
    content = begun(make("MultVAE"), 2).read_bytes()
    for size in [0, 5, 100, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        refuse(make("MultVAE"), path, f"{path.name} cannot be loaded", X, unchanged)


def test_wrong_shapes_are_refused(begun, path, X, unchanged):
    begun(make("MultDAE"), 2)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    assert {name.split(".")[1] for name in arrays} == {
        *("network", "averaged", "game", "generator", "best")
    }
    for name, array in arrays.items():
        shape = str(list(array.shape))
        node = f'{{"array": ["{name}", "{array.dtype}", '
        assert node + shape in metadata["skvaecf"]
        for wrong in (np.stack([array, array]), array.reshape(-1)[:0]):
            text = metadata["skvaecf"].replace(node + shape, node + str(list(wrong.shape)))
            save_file(arrays | {name: wrong}, path, metadata | {"skvaecf": text})
            refuse(make("MultDAE"), path, "cannot be loaded", X, unchanged)


def test_a_missing_player_is_refused(begun, path, X, unchanged):
    begun(make("MultVAE"), 2)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    text = metadata["skvaecf"].replace('"autoencoder"', '"stranger"')
    save_file(load_file(path), path, metadata | {"skvaecf": text})
    refuse(make("MultVAE"), path, "cannot be loaded", X, unchanged)


@pytest.mark.parametrize("every", [0, -1, 1.5, None, "1"])
def test_checkpoint_every_is_checked(every, path, X):
    with pytest.raises(ValueError, match="checkpoint_every must be an integer of at least 1"):
        make("MultVAE").fit(X, checkpoint_path=path, checkpoint_every=every)
    assert not path.exists()


# --- disks


@pytest.mark.parametrize("place", ["absent/fit", "file/fit", "."])
def test_a_path_that_cannot_be_written_fails_before_training(place, tmp_path, X, unchanged):
    (tmp_path / "file").touch()
    model = make("MultVAE")
    check = unchanged(model)
    model._begin = lambda *_: pytest.fail("training has begun")
    with pytest.raises(OSError, match=r"directory|is a folder"):
        model.fit(X, checkpoint_path=tmp_path / place)
    del model._begin
    check()
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_at_the_beginning_leaves_the_old_file(begun, path, X, monkeypatch, unchanged):
    content = begun(make("MultVAE"), 2).read_bytes()
    monkeypatch.setattr("skvaecf.persistence.save_file", full)
    model = make("MultVAE")
    check = unchanged(model)
    with pytest.raises(OSError, match="No space left"):
        model.fit(X, checkpoint_path=path)
    check()
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def full(tensors, temporary, metadata):
    Path(temporary).write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_costs_neither_the_fit_nor_the_last_state(kill, path, X, monkeypatch):
    expected = make("MultVAE", **LONG).fit(X)
    states = []

    def until_epoch_2(tensors, temporary, metadata):
        states.append(tensors)
        (save_file if len(states) <= 3 else full)(tensors, temporary, metadata)

    monkeypatch.setattr("skvaecf.persistence.save_file", until_epoch_2)
    message = r"checkpoint after epoch \d could not be written; the one before is kept: .* No space"
    with pytest.warns(UserWarning, match=message) as caught:
        assert_same(make("MultVAE", **LONG).fit(X, checkpoint_path=path), expected, X)
    assert "epoch 3" in str(caught[0].message)
    assert len(caught) == len(states) - 3
    assert not os.listdir(path.parent)
    # A fit that is killed after that is resumed from epoch 2.
    states.clear()
    kill(4)
    monkeypatch.setattr("skvaecf.persistence.save_file", until_epoch_2)
    with pytest.warns(UserWarning, match=message), pytest.raises(Killed):
        make("MultVAE", **LONG).fit(X, checkpoint_path=path)
    epochs = kill(99)
    assert_same(make("MultVAE", **LONG).fit(X, checkpoint_path=path), expected, X)
    assert epochs[0] == 3


def test_a_real_limit_of_the_system(path, X):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = make("MultVAE").fit(X)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        with pytest.warns(UserWarning, match="could not be written.*File too large"):
            model = make("MultVAE").fit(X, checkpoint_path=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(model, expected, X)


def test_what_a_killed_process_left_half_written_is_removed(path, X):
    left = path.with_name(f".{path.name}.partial")
    left.mkdir()
    (left / ".tmpabc").write_bytes(b"half")
    make("MultVAE").fit(X, checkpoint_path=path)
    assert not os.listdir(path.parent)


def test_a_file_that_cannot_be_removed_is_a_warning(path, X, monkeypatch):
    def fail(*_, **__):
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.warns(UserWarning, match="fit is done, but its checkpoint is left: not yours"):
            model = make("MultVAE").fit(X, checkpoint_path=path)
    assert path.exists()
    assert_same(model, make("MultVAE").fit(X), X)


def test_nothing_is_pickled(neural_kind, begun, path, X, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle")

    with monkeypatch.context() as patch:
        for function in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
            patch.setattr(pickle, function, refuse)
        for function in ("load", "save"):
            patch.setattr(torch, function, refuse)
        make(neural_kind).fit(X, checkpoint_path=path)
    begun(make(neural_kind), 2)
    with monkeypatch.context() as patch:
        for function in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, function, refuse)
        make(neural_kind).fit(X, checkpoint_path=path)


def test_size_of_the_file(begun, path):
    X = make_interactions(60, 400, random_state=0)
    model = make("MultVAE", n_components=100)
    begun(model, 2, X)
    n_parameters = sum(p.numel() for p in model._build(*X.shape).parameters())
    assert 5 <= path.stat().st_size / (4 * n_parameters) < 5.1


def test_a_failed_game_leaves_the_file(path, X, monkeypatch):
    play = Game.play
    calls = []

    def diverge(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise FloatingPointError("infinite")
        return play(self, *args)

    monkeypatch.setattr(Game, "play", diverge)
    model = make("MultVAE", **LONG)
    with pytest.raises(FloatingPointError):
        model.fit(X, checkpoint_path=path)
    assert model.n_iter_ == 2
    assert path.exists()


def test_a_custom_model_without_the_parameter_verbose(X, path):
    class Quiet(MultVAE):
        def __init__(self, max_epochs=2):
            super().__init__(6, max_epochs=max_epochs, random_state=0)

    assert Quiet().fit(X, checkpoint_path=path).n_iter_ == 2
