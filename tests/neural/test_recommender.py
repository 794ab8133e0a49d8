"""Training of the recommenders that have a network.

Tests with the argument ``neural`` run for every such recommender: each can fail them alone. Tests
with the argument ``neural_kind`` run for one recommender of each way of training, and the others
for a single one: they test code that all recommenders share.
"""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import (
    CASES,
    NEURAL_RECOMMENDERS,
    VALUES,
    batch_of,
    make,
    make_short,
    new_network,
    players_of,
    seeded,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, vstack
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skvaecf
from skvaecf import (
    MultiRankingScorer,
    RankingMonitor,
    ndcg_at_k,
    recall_at_k,
    split_interactions,
)
from skvaecf.datasets import make_interactions
from skvaecf.interactions import binary_csr
from skvaecf.metrics import ndcg
from skvaecf.neural import Batch, InteractionBatch, TorchRecommender
from skvaecf.neural._likelihoods import LIKELIHOODS
from skvaecf.neural._training import Game


@pytest.fixture(scope="module")
def others():
    """Validation users."""
    return make_interactions(40, 24, n_blocks=2, noise=0.3, random_state=1)


def scores_of(model):
    return [record["validation_ndcg"] for record in model.history_]


def losses_of(model):
    return [
        {name: value for name, value in record.items() if name.endswith("_loss")}
        for record in model.history_
    ]


# Models with one player: with several, the loss of a player may rise because of the others.
SINGLE_PLAYER = [
    name
    for name in NEURAL_RECOMMENDERS
    if name not in ("CFGAN", "IRGAN", "RecVAE", "VAEGANRecommender")
]


def moves_first(game):
    """Return whether a game is the one before the first epoch."""
    return all(player.moves_first for player in game.players)


# --- early stopping


def test_the_epoch_that_validates_best_is_kept(neural_kind, X, others):
    settings = {"learning_rate": 0.1, "ema_decay": 0.8}
    model = make(neural_kind, max_epochs=15, n_iter_no_change=4, **settings)
    model.fit(X, X_val=others)
    scores = scores_of(model)
    assert model.best_iter_ == 1 + int(np.argmax(scores))
    assert model.n_iter_ == len(scores)
    # The score is that of the split that the seed gives.
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    fold_in, heldout = split_interactions(others, random_state=seed)
    score = np.nanmean(ndcg(model.recommend(fold_in, 24), heldout, 100))
    assert score == pytest.approx(max(scores), rel=1e-6)
    # A fit that ends at that epoch is the same model.
    again = make(neural_kind, max_epochs=model.best_iter_, **settings).fit(X, X_val=others)
    assert_array_equal(again.predict(X), model.predict(X))


def test_the_first_of_equal_epochs_is_kept(X, monkeypatch):
    monkeypatch.setattr(TorchRecommender, "_validate", lambda *_: 0.5)
    model = make("MultVAE", max_epochs=20, n_iter_no_change=3).fit(X)
    assert (model.best_iter_, model.n_iter_) == (1, 4)


def test_training_stops_after_n_iter_no_change(X, others):
    model = make("MultVAE", max_epochs=60, n_iter_no_change=2, learning_rate=0.1)
    model.fit(X, X_val=others)
    assert model.n_iter_ < 60
    assert model.n_iter_ == model.best_iter_ + 2


def test_without_early_stopping_all_epochs_are_run_and_the_last_is_kept(X):
    model = make("MultVAE", max_epochs=5, n_iter_no_change=1, early_stopping=False).fit(X)
    assert (model.n_iter_, model.best_iter_) == (5, 5)
    assert all("validation_ndcg" not in record for record in model.history_)


def test_users_are_either_trained_on_or_validate(neural_kind, X, monkeypatch):
    trained, validating = [], []
    play, validate = Game.play, TorchRecommender._validate

    def record_training(self, *args):
        if not moves_first(self):
            trained.extend(map(tuple, dense(self.x).tolist()))
        return play(self, *args)

    def record_validation(self, network, fold_in, heldout):
        validating.extend(map(tuple, (fold_in + heldout).toarray().tolist()))
        return validate(self, network, fold_in, heldout)

    monkeypatch.setattr(Game, "play", record_training)
    monkeypatch.setattr(TorchRecommender, "_validate", record_validation)
    everybody = sorted(map(tuple, X.toarray().tolist()))
    make(neural_kind, max_epochs=1, validation_fraction=0.25).fit(X)
    assert len(trained) == 45
    assert sorted(trained + validating) == everybody
    trained.clear()
    make(neural_kind, max_epochs=1, early_stopping=False).fit(X)
    assert sorted(trained) == everybody
    trained.clear()
    make(neural_kind, max_epochs=1).fit(X, X_val=X)
    assert sorted(trained) == everybody


def dense(x):
    A = torch.zeros(x.n_users, x.n_items)
    A[x.users, x.items.long()] = 1
    return A


@pytest.mark.parametrize(("n_users", "n_validating"), [(3, 1), (14, 1), (16, 2), (27, 3)])
def test_the_share_of_validation_users_is_rounded(n_users, n_validating):
    X = csr_array(np.ones((n_users, 6), dtype=np.float32))
    train, (fold_in, heldout) = make("MultVAE", validation_fraction=0.1)._hold_out(
        X, None, None, seed=0
    )
    assert train.n_users == n_users - n_validating
    assert fold_in.shape == heldout.shape == (n_validating, 6)


def test_validation_users_are_drawn_by_the_seed(X):
    trained = [
        make("MultVAE")._hold_out(X, None, None, seed)[0].items.tolist() for seed in (0, 0, 1)
    ]
    assert trained[0] == trained[1] != trained[2]


def test_the_validation_score_is_ndcg_at_100_of_users_with_held_out_items():
    X = make_interactions(120, 400, n_blocks=2, noise=0.3, random_state=0)
    model = make("MultVAE", max_epochs=1)
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    fold_in, heldout = split_interactions(X[60:], random_state=seed)
    score = model.fit(X[:60], X_val=X[60:]).history_[0]["validation_ndcg"]
    assert score == pytest.approx(
        np.nanmean(ndcg(model.recommend(fold_in, 100), heldout, 100)), rel=1e-6
    )
    # Of users with one item nothing can be held out.
    more = vstack([X[60:], csr_array(np.eye(3, 400, dtype=np.float32))]).tocsr()
    assert model.fit(X[:60], X_val=more).history_[0]["validation_ndcg"] == pytest.approx(score)


def test_validation_rows_change_the_choice_of_the_epoch_only(neural_kind, X, others):
    free = make(neural_kind, early_stopping=False).fit(X)
    chosen = make(neural_kind).fit(X, X_val=others)
    assert losses_of(chosen) == losses_of(free)[: chosen.n_iter_]


def test_validation_rows_may_be_cut_already(X, others):
    model = make("MultVAE")
    _, whole = model._hold_out(X, binary_csr(others), None, seed=0)
    cut = model.fit(X, X_val=split_interactions(others, random_state=0))
    assert cut.history_[-1]["validation_ndcg"] > 0
    _, pair = model._hold_out(X, whole, None, seed=1)
    assert pair is whole


def test_history_has_a_record_per_epoch(neural, X):
    model = make(neural, max_epochs=4).fit(X)
    assert len(model.history_) == model.n_iter_ == 4
    assert [record["epoch"] for record in model.history_] == [1, 2, 3, 4]
    players = [p.name for p in players_of(model, model.network_, X) if not p.moves_first]
    for record in model.history_:
        of_players = {key for key in record if key.startswith(tuple(f"{p}_" for p in players))}
        assert of_players >= {f"{p}_loss" for p in players}
        assert set(record) == {"epoch", "validation_ndcg", "seconds"} | of_players
        assert all(type(value) in (int, float) for value in record.values())
        assert 0 <= record["validation_ndcg"] <= 1
        assert 0 < record["seconds"] < 3600


def test_all_epochs_are_run_if_no_user_has_enough_interactions_to_validate(neural):
    for n_items_each in (0, 1, 4):
        A = np.zeros((20, 24))
        for user in range(20):
            A[user, (user + np.arange(n_items_each)) % 24] = 1
        model = make(neural, max_epochs=4, n_iter_no_change=1).fit(A)
        assert (model.n_iter_, model.best_iter_) == (4, 4)
        assert all("validation_ndcg" not in record for record in model.history_)
        assert np.isfinite(model.predict(A)).all()


def assert_one_user_is_enough(model):
    model.fit(np.ones((1, 6)))
    assert model.n_iter_ == 2
    assert np.isfinite(model.predict(np.ones((1, 6)))).all()


def test_one_user_is_enough(neural):
    assert_one_user_is_enough(make(neural))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda V: V[:, :20], "X_val must have the 24 items of X, got 20"),
        (lambda V: V * np.nan, "Input X_val contains NaN"),
        (lambda V: -V, "Negative values in data passed to X_val"),
        (lambda V: V.toarray()[0], "Expected 2D array"),
        (lambda V: 0 * V, "X_val must hold a user with at least 5 interactions"),
        (lambda V: np.eye(24), "X_val must hold a user with at least 5 interactions"),
        (lambda V: corrupted(V), "X_val has corrupt sparse indices"),
        (lambda V: (V, V, V), "X_val must be a matrix or a pair of them, got 3 values"),
        (lambda V: (V, V[:, :20]), "X_val must have the 24 items of X, got 20"),
        (lambda V: (V, V[:5]), r"the 40 users of the first, got shape \(5, 24\) with"),
        (lambda V: (V, 0 * V), r"got shape \(40, 24\) with 0 interactions"),
    ],
)
def test_bad_validation_rows_are_refused_before_anything_changes(
    bad, message, fitted, X, others, unchanged
):
    for model in (make("MultVAE"), fitted("MultVAE")):
        check = unchanged(model)
        with pytest.raises(ValueError, match=message):
            model.fit(X, X_val=bad(others))
        check()


def test_validation_rows_are_ignored_without_early_stopping(X):
    model = make_short("MultVAE", early_stopping=False)
    assert_array_equal(model.fit(X, X_val=np.eye(24)).predict(X), model.fit(X).predict(X))


def corrupted(V):
    V = V.copy()
    V.indices[0] = 1000
    return V


# --- training


def assert_training_lowers_the_loss(model, X):
    first, *_, last = losses_of(model.set_params(max_epochs=15, early_stopping=False).fit(X))
    (name,) = first
    assert last[name] < 0.97 * first[name]


@pytest.mark.parametrize("neural", SINGLE_PLAYER)
def test_training_lowers_the_loss(neural, X):
    assert_training_lowers_the_loss(make(neural), X)


def test_each_player_lowers_its_loss_while_the_others_make_no_updates(neural, X):
    model, x = make(neural), InteractionBatch.from_csr(X)
    for number in range(len(players_of(model, new_network(model, X), X))):
        player = players_of(model, new_network(model, X), X)[number]
        game, generator = Game([player], x, batch_size=16), seeded()
        first, *_, last = (
            game.play(epoch, generator)[f"{player.name}_loss"] for epoch in range(15)
        )
        assert last < first - 0.03 * abs(first), player.name


def assert_every_parameter_gets_a_gradient(model, X):
    network = new_network(model, X)
    of_all_users = batch_of(X, step=1000, epoch=100.0)
    reached = set()
    for player in players_of(model, network, X):
        rows = of_all_users.x if player.rows is None else player.rows
        batch = of_all_users._replace(users=torch.arange(rows.n_users), x=rows)
        gradients = torch.autograd.grad(player.loss(batch), player.parameters)
        for parameter, gradient in zip(player.parameters, gradients, strict=True):
            assert torch.isfinite(gradient).all()
            assert gradient.abs().max() > 1e-7
            reached.add(id(parameter))
    assert reached == {id(parameter) for parameter in network.parameters()}


def test_every_parameter_gets_a_gradient(neural, X):
    assert_every_parameter_gets_a_gradient(make(neural), X)


def test_the_objective_runs_on_another_device_without_help_from_the_cpu(neural, X):
    # Nothing on the meta device mixes with a CPU tensor.
    model = make(neural)
    with torch.device("meta"):
        network = model._build(*X.shape)
    x = InteractionBatch.from_csr(X, "meta")
    for player in model._players(network, x):
        rows = x if player.rows is None else player.rows
        users = torch.empty(rows.n_users, dtype=torch.int64, device="meta")
        loss = player.loss(Batch(users, rows, 0, 0.0, torch.Generator()))
        assert loss.shape == ()
        assert loss.device.type == "meta"
        for parameter, gradient in zip(
            player.parameters, torch.autograd.grad(loss, player.parameters), strict=True
        ):
            assert gradient.device.type == "meta"
            assert gradient.shape == parameter.shape
    scores = model._logits(network, x)
    assert (scores.device.type, scores.shape) == ("meta", X.shape)


def test_predict_after_fit_is_not_in_training_mode(X):
    model = make("MultVAE").fit(X)
    assert not any(module.training for module in model.network_.modules())


def assert_bfloat16_learns_the_same(name, **params):
    X, user_blocks, item_blocks = make_interactions(
        160, 60, n_blocks=4, random_state=1, return_blocks=True
    )
    own = user_blocks[:, None] == item_blocks
    models = [
        make(name, **CASES[name].planted, precision=precision, **params).fit(X)
        for precision in ("float32", "bfloat16")
    ]
    exact, rounded = (model.predict(X) for model in models)
    assert not np.array_equal(exact, rounded)
    assert rounded.dtype == np.float32
    for scores in (exact, rounded):
        assert np.take_along_axis(own, scores.argmax(axis=1)[:, None], 1).mean() >= 0.95
    # Players that react to each other amplify rounding.
    alone = name in SINGLE_PLAYER
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > (0.99 if alone else 0.95)
    assert {p.dtype for p in models[1].network_.parameters()} == {torch.float32}
    finals = [list(losses_of(model)[-1].values()) for model in models]
    tolerance = {"rtol": 0.02} if alone else {"rtol": 0.2, "atol": 1e-3}
    assert_allclose(finals[1], finals[0], **tolerance)


def test_bfloat16_learns_the_same(neural):
    assert_bfloat16_learns_the_same(neural)


@pytest.mark.parametrize("likelihood", ["bernoulli", "n-choose-k"])
def test_bfloat16_learns_the_same_by_other_likelihoods(likelihood):
    assert_bfloat16_learns_the_same("MultVAE", likelihood=likelihood)


# --- warm start


def test_a_warm_start_continues_from_the_parameters(neural_kind, X, monkeypatch):
    model = make(neural_kind, max_epochs=8, early_stopping=False, warm_start=True)
    cold_losses, cold_scores = losses_of(model.fit(X)), model.predict(X)
    kept, started = list(model.network_.parameters()), []
    play = Game.play

    def record(self, *args):
        started.append([p.detach().clone() for who in self.players for p in who.parameters])
        return play(self, *args)

    monkeypatch.setattr(Game, "play", record)
    warm_losses = losses_of(model.fit(X))
    assert len(started[0]) == len(kept)
    assert all(any(torch.equal(now, then) for now in started[0]) for then in kept)
    if neural_kind in SINGLE_PLAYER:
        (name,) = cold_losses[0]
        cold, warm = ([losses[name] for losses in fit] for fit in (cold_losses, warm_losses))
        assert warm[0] < 0.98 * cold[0]
        assert np.mean(warm) < np.mean(cold)
    assert not np.array_equal(model.predict(X), cold_scores)
    assert model.n_iter_ == 8


def test_the_first_warm_start_is_a_cold_one(neural_kind, fitted, X):
    model = make(neural_kind, warm_start=True).fit(X)
    assert_array_equal(model.predict(X), fitted(neural_kind).predict(X))


def test_a_warm_start_after_unpickling_is_the_same(neural_kind, X):
    model = make(neural_kind, warm_start=True).fit(X)
    copied = pickle.loads(pickle.dumps(model))
    assert_array_equal(copied.fit(X).predict(X), model.fit(X).predict(X))


def test_warm_start_refuses_other_layer_sizes(neural_kind, X, unchanged):
    model = make(neural_kind, warm_start=True).fit(X)
    scores = model.predict(X)
    n_components = model.n_components
    model.set_params(n_components=n_components + 1)
    check = unchanged(model)
    with pytest.raises(ValueError, match="warm_start needs a network of the same layer sizes"):
        model.fit(X)
    check()
    assert_array_equal(model.set_params(n_components=n_components).predict(X), scores)


def test_warm_start_refuses_another_number_of_items(X, unchanged):
    model = make("MultVAE", warm_start=True).fit(X)
    check = unchanged(model)
    with pytest.raises(ValueError, match="X has 20 features"):
        model.fit(X[:, :20])
    check()


# --- interruptions


def interrupt(monkeypatch, epoch, result):
    """Let an epoch fail: raise ``result``, or let all losses have this value."""
    play = Game.play
    calls = []

    def spoil(player):
        return replace(player, loss=lambda batch: player.loss(batch) * 0 + result)

    def broken(self, *args):
        if moves_first(self):
            return play(self, *args)
        calls.append(1)
        if len(calls) == epoch and not isinstance(result, BaseException):
            self.players = [spoil(player) for player in self.players]
        figures = play(self, *args)
        if len(calls) == epoch:
            raise result
        return figures

    monkeypatch.setattr(Game, "play", broken)


def test_an_interrupted_fit_keeps_its_best_epoch(neural, X, monkeypatch):
    expected = make(neural, max_epochs=3).fit(X)
    interrupt(monkeypatch, 4, KeyboardInterrupt())
    model = make(neural, max_epochs=50)
    message = f"interrupted in epoch 4; epoch {expected.best_iter_} is kept"
    with pytest.warns(UserWarning, match=message):
        assert model.fit(X) is model
    assert (model.n_iter_, model.best_iter_) == (3, expected.best_iter_)
    assert_array_equal(model.predict(X), expected.predict(X))


def test_an_interruption_in_the_first_epoch_goes_through(neural_kind, X, monkeypatch):
    interrupt(monkeypatch, 1, KeyboardInterrupt())
    model = make(neural_kind)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert not hasattr(model, "network_")


@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (np.nan, FloatingPointError)]
)
def test_a_refit_that_fails_in_its_first_epoch_leaves_the_old_model(error, raised, X, monkeypatch):
    model = make("MultVAE").fit(X)
    scores = model.predict(X)
    interrupt(monkeypatch, 1, error)
    with pytest.raises(raised):
        model.fit(X[:, :20])
    assert_array_equal(model.predict(X), scores)


@pytest.mark.parametrize(
    ("neural", "loss"), [*((name, np.nan) for name in NEURAL_RECOMMENDERS), ("MultVAE", np.inf)]
)
def test_a_loss_that_is_not_finite_is_an_error_and_the_best_epoch_is_kept(
    neural, loss, X, monkeypatch
):
    expected = make(neural, max_epochs=2).fit(X)
    interrupt(monkeypatch, 3, loss)
    model = make(neural, max_epochs=50)
    player = players_of(model, expected.network_, X)[0].name
    with pytest.raises(FloatingPointError, match=f"loss of the {player} became {loss} in epoch 3"):
        model.fit(X)
    assert (model.n_iter_, model.best_iter_) == (2, expected.best_iter_)
    assert_array_equal(model.predict(X), expected.predict(X))


def test_a_huge_learning_rate_is_reported_by_name(neural, X):
    model = make(neural, learning_rate=1e30, max_epochs=20)
    with pytest.raises(FloatingPointError, match="learning_rate below 1e\\+30"):
        model.fit(X)


# --- progress


def test_verbose_shows_a_bar(X, capsys):
    make("MultVAE", verbose=1).fit(X)
    shown = capsys.readouterr()
    assert "MultVAE" in shown.err
    assert "2/2" in shown.err
    assert "validation_ndcg" in shown.err
    assert shown.out == ""


def test_a_fit_prints_nothing_by_default(neural_kind, X, capsys):
    make(neural_kind).fit(X)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


class StopAfter:
    """Callback that ends training, and records its calls."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs
        self.calls = []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, **_):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None, **_):
        self.calls.append(f"end {context.task_name}")
        return self.calls.count("end epoch") == self.n_epochs


class ScoreEachEpoch(StopAfter):
    """Callback that predicts after each epoch."""

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator, **_):
        if context.task_name == "epoch":
            self.calls.append(fitted_estimator.predict(X))
        return False


@pytest.fixture
def callbacks():
    return pytest.importorskip("sklearn.callback")


@pytest.mark.usefixtures("callbacks")
def test_a_callback_can_stop_training(X):
    callback = StopAfter(2)
    model = make("MultVAE", max_epochs=10).set_callbacks(callback).fit(X)
    assert model.n_iter_ == 2
    assert callback.calls == [
        "setup",
        "begin fit",
        "begin epoch",
        "end epoch",
        "begin epoch",
        "end epoch",
        "end fit",
        "teardown",
    ]
    assert_array_equal(model.predict(X), make("MultVAE", max_epochs=2).fit(X).predict(X))


@pytest.mark.usefixtures("callbacks")
def test_callbacks_get_the_model_of_their_epoch(neural_kind, X):
    callback = ScoreEachEpoch(0)
    make(neural_kind, early_stopping=False).set_callbacks(callback).fit(X)
    epochs = [scores for scores in callback.calls if isinstance(scores, np.ndarray)]
    assert len(epochs) == 2
    for n, scores in enumerate(epochs, start=1):
        expected = make(neural_kind, early_stopping=False, max_epochs=n).fit(X)
        assert_array_equal(scores, expected.predict(X))


class CopyHistory(StopAfter):
    """Callback that records the history after each epoch."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None, **_):
        if context.task_name == "epoch":
            self.calls.append((fitted_estimator.n_iter_, fitted_estimator.history_))


@pytest.mark.usefixtures("callbacks")
def test_callbacks_get_the_history_up_to_their_epoch(X):
    callback = CopyHistory(0)
    history = make("MultVAE").set_callbacks(callback).fit(X).history_
    seen = [call for call in callback.calls if isinstance(call, tuple)]
    assert seen == [(1, history[:1]), (2, history)]


@pytest.mark.usefixtures("callbacks")
def test_callbacks_survive_clone_and_grid_search(X):
    callback = StopAfter(1)
    model = make("MultVAE", max_epochs=10).set_callbacks(callback)
    assert clone(model).fit(X).n_iter_ == 1
    stopping = make("MultVAE", max_epochs=10).set_callbacks(StopAfter(1))
    search = GridSearchCV(stopping, {"learning_rate": [0.02]}, cv=2).fit(X)
    assert 0 < search.best_score_ <= 1


def test_progress_bar_of_scikit_learn(X, callbacks, capsys):
    pytest.importorskip("rich")
    model = make("MultVAE").set_callbacks(callbacks.ProgressBar()).fit(X)
    assert_array_equal(model.predict(X), make("MultVAE").fit(X).predict(X))
    shown = capsys.readouterr().out
    assert "MultVAE" in shown
    assert "100%" in shown


# --- export


def flat(X):
    """The items of all users, user by user, and how many each has."""
    X = binary_csr(X)
    return torch.tensor(X.indices, dtype=torch.int64), torch.tensor(np.diff(X.indptr)).long()


def with_an_empty_row(X):
    return vstack([X[:3], csr_array((1, X.shape[1])), X[3:9]]).tocsr()


def assert_recommends(module, model, X, k):
    items, scores = module(*flat(X))
    expected, expected_scores = model.recommend(X, k, return_scores=True)
    assert_allclose(scores.numpy(), expected_scores, rtol=1e-5, atol=1e-6)
    # Equal scores may have any order, as those of an empty row in a model without biases.
    differ = np.ptp(model.predict(X), axis=1) > 0
    assert differ.sum() >= X.shape[0] - 1
    assert_array_equal(np.sort(items.numpy())[differ], np.sort(expected)[differ])


def test_the_module_recommends(neural, fitted, X):
    model = fitted(neural)
    for k in (1, X.shape[1]):
        assert_recommends(model.to_module(k), model, with_an_empty_row(X), k)
    for k in (0, X.shape[1] + 1, 2.5):
        with pytest.raises(ValueError, match="k must be an integer in"):
            model.to_module(k)


def test_the_exported_module_recommends_to_any_number_of_users(fitted, X):
    model = fitted("MultVAE")
    rows = {0: torch.export.Dim.DYNAMIC}
    shapes = {"items": rows, "counts": rows}
    program = torch.export.export(model.to_module(5), flat(X[:2]), dynamic_shapes=shapes)
    for asked in (X, X[:1], with_an_empty_row(X)):
        assert_recommends(program.module(), model, asked, 5)


# --- devices


def test_a_device_may_be_an_object(fitted, X):
    model = make("MultVAE", device=torch.device("cpu")).fit(X)
    assert_array_equal(model.predict(X), fitted("MultVAE").predict(X))


def test_a_model_of_a_device_that_is_not_here_loads_on_the_cpu(neural_kind, fitted, X):
    state = fitted(neural_kind).__getstate__() | {"device": "cuda:7"}
    model = make(neural_kind)
    model.__setstate__(state)
    assert {p.device.type for p in model.network_.parameters()} == {"cpu"}
    assert_array_equal(model.predict(X), fitted(neural_kind).predict(X))


@pytest.mark.usefixtures("callbacks")
def test_ranking_monitor_logs_the_score_after_every_epoch(X, others):
    monitor = RankingMonitor(others, scorer=ndcg_at_k.at(5))
    model = make("MultVAE", max_epochs=4, early_stopping=False).set_callbacks(monitor)
    model.fit(X).fit(X)  # the log is that of the latest fit
    assert [entry["epoch"] for entry in monitor.log_] == [1, 2, 3, 4]
    # Without early stopping the last epoch is the one that is kept.
    assert monitor.log_[-1]["ndcg@5"] == ndcg_at_k.at(5)(model, others)
    assert len({entry["ndcg@5"] for entry in monitor.log_}) > 1


@pytest.mark.usefixtures("callbacks")
def test_ranking_monitor_logs_several_scores(X, others):
    scorer = MultiRankingScorer((ndcg_at_k.at(5), recall_at_k.at(7)))
    monitor = RankingMonitor(others, scorer=scorer)
    model = make_short("MultVAE", early_stopping=False).set_callbacks(monitor).fit(X)
    assert monitor.log_ == [{"epoch": 1, **scorer(model, others)}]
    with pytest.raises(TypeError, match="scorer must be a RankingScorer"):
        make_short("MultVAE").set_callbacks(RankingMonitor(others, scorer=len)).fit(X)


# --- the other likelihoods

OTHER_LIKELIHOODS = [
    (name, likelihood)
    for name in NEURAL_RECOMMENDERS
    for likelihood in sorted(LIKELIHOODS)
    if make(name).get_params().get("likelihood", likelihood) != likelihood
]


@pytest.mark.parametrize(("neural", "likelihood"), OTHER_LIKELIHOODS)
def test_every_model_trains_by_the_other_likelihoods(neural, likelihood, X):
    model = make(neural, likelihood=likelihood)
    assert_every_parameter_gets_a_gradient(model, X)
    if neural in SINGLE_PLAYER:
        assert_training_lowers_the_loss(clone(model), X)
    assert_one_user_is_enough(clone(model))
    # Users with no items and users with all items.
    A = np.eye(12, 8)
    A[8:10] = 1
    model.fit(A)
    assert np.isfinite([list(losses.values()) for losses in losses_of(model)]).all()
    assert np.isfinite(model.predict(A)).all()


# --- parameters that are set after the fit


def own_parameters(name):
    """Return the parameters that are not those of training, with other values than in CASES."""
    of_training = set(TorchRecommender._parameter_constraints)
    return {n: VALUES[n].other for n in make(name).get_params() if n not in of_training}


def test_a_fitted_model_is_copied_whatever_its_parameters_are_set_to(neural, X, tmp_path):
    model = make(neural, max_epochs=1).fit(X)
    for parameter, value in own_parameters(neural).items():
        changed = deepcopy(model).set_params(**{parameter: value})
        scores = changed.predict(X)
        path = tmp_path / parameter
        changed.save(path)
        for copied in (pickle.loads(pickle.dumps(changed)), skvaecf.load(path)):
            assert copied.get_params()[parameter] == changed.get_params()[parameter]
            assert_array_equal(copied.predict(X), scores, err_msg=parameter)
    # A later fit uses the new parameters.
    assert_array_equal(copied.fit(X).predict(X), clone(changed).fit(X).predict(X))


def test_latent_vectors_have_the_width_of_the_fit(neural, X):
    model = make(neural, n_components=1).fit(X)
    Z, names = model.transform(X), model.get_feature_names_out()
    model.set_params(n_components=3)
    assert_array_equal(model.transform(X), Z)
    assert_array_equal(model.get_feature_names_out(), names)
    assert Z.shape == (60, 1)


@pytest.mark.usefixtures("callbacks")
def test_callbacks_see_the_names_of_this_fit(X, others):
    pd = pytest.importorskip("pandas")
    names = [f"film {i}" for i in range(24)]

    def frames(prefix):
        columns = [prefix + name for name in names]
        return [pd.DataFrame(A.toarray(), columns=columns) for A in (X, others)]

    first, of_others = frames("")
    model = make("MultVAE")
    model.set_callbacks(RankingMonitor(of_others)).fit(first)
    assert model.feature_names_in_.tolist() == names
    again, of_others = frames("new ")
    model.set_callbacks(RankingMonitor(of_others)).fit(again)
    assert model.feature_names_in_.tolist() == list(again.columns)
    # Of another width, so that the copies of earlier networks cannot be of use.
    model.set_params(n_components=3).set_callbacks(RankingMonitor(others)).fit(X)
    assert not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize("n_users", [2, 3, 5])
def test_of_few_users_one_is_held_out(n_users):
    X = make_interactions(n_users, 24, n_blocks=2, noise=0.3, random_state=0)
    assert (np.diff(X.indptr) >= 5).all()
    model = make("MultVAE", validation_fraction=0.1).fit(X)
    assert "validation_ndcg" in model.history_[0]
