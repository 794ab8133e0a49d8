"""Progress bars: they move within an epoch and end full."""

from __future__ import annotations

import pytest
from conftest import make

from skvaecf import EASE, IRGAN, SLIM, WMF
from skvaecf._progress import ProgressBar


def last_line(capsys):
    return capsys.readouterr().err.replace("\n", "\r").rstrip("\r ").split("\r")[-1]


def test_the_bar_of_a_network_moves_after_every_update(neural_kind, X, monkeypatch):
    moves, update = [], ProgressBar.update

    def remember(bar, n=1):
        moves.append((bar.desc, bar.n + n))
        return update(bar, n)

    monkeypatch.setattr(ProgressBar, "update", remember)
    model = make(neural_kind, verbose=1, batch_size=10, max_epochs=2, early_stopping=False).fit(X)
    places = [place for name, place in moves if name == type(model).__name__]
    n_updates = len(places) // 2
    assert n_updates >= 6
    assert places == pytest.approx([(i + 1) / n_updates for i in range(2 * n_updates)])


def test_a_bar_that_ends_early_is_full(X, capsys):
    model = WMF(4, tol=0.5, verbose=1, random_state=0).fit(X)
    n_epochs = model.n_iter_
    assert n_epochs < 15
    assert f"100%|██████████| {n_epochs}/{n_epochs} epochs" in last_line(capsys)
    model = make("MultVAE", max_epochs=50, n_iter_no_change=1, verbose=1).fit(X)
    assert model.n_iter_ < 50
    assert f"{model.n_iter_}/{model.n_iter_} epochs" in last_line(capsys)


def test_an_interrupted_fit_does_not_end_with_a_full_bar(X, capsys, monkeypatch):
    step, steps = WMF._step, []

    def interrupted(self, *arguments):
        steps.append(None)
        if len(steps) > 4:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(WMF, "_step", interrupted)
    with pytest.warns(UserWarning, match="interrupted in epoch 3"):
        WMF(4, tol=0, verbose=1).fit(X)
    assert " 2/15 epochs" in last_line(capsys)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        (EASE(verbose=1), "EASE: 100%|██████████| 3/3 steps"),
        (SLIM(verbose=1), "SLIM: 100%"),
        (IRGAN(verbose=1, max_epochs=1), "IRGAN, before the first epoch: 100%"),
    ],
)
def test_every_long_part_of_a_fit_has_a_bar(model, shown, X, capsys):
    model.fit(X)
    assert shown in capsys.readouterr().err
