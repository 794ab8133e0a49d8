"""Splits in time, and searches that score models by them."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
import sklearn
from hypothesis import assume, given
from hypothesis import strategies as st
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_validate

from skvaecf import (
    EASE,
    InteractionEncoder,
    MultiRankingScorer,
    Popularity,
    UserSplitter,
    last_interactions_split,
    ndcg_at_k,
    recall_at_k,
    rolling_time_splits,
    stack_splits,
    strong_generalization_split,
    time_split,
)


def matrices(log, shape):
    """Return X and times of {(user, item): time}; the values of X are 1, 2, 3 and so on."""
    users, items = np.array(list(log), dtype=int).reshape(-1, 2).T
    values = np.arange(1, len(log) + 1)
    X = coo_array((values, (users, items)), shape=shape).tocsr()
    times = coo_array((np.array(list(log.values()), dtype=float), (users, items)), shape=shape)
    return X, times.tocsr()


def entries(X):
    """Return {(user, item): value} of the stored entries."""
    X = X.tocoo()
    return dict(zip(zip(*map(np.ndarray.tolist, X.coords), strict=True), X.data, strict=True))


def times_of(part, log):
    return [log[place] for place in entries(part)]


N_USERS, N_ITEMS = 5, 6
PLACES = st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1))
# Few distinct times, so that there are many ties, and zeros, which are times.
LOGS = st.dictionaries(PLACES, st.integers(-2, 6), min_size=2)
SHARES = st.floats(0.01, 0.99)


def brute_force_cut(log, share):
    """Return the time of the oldest of the latest interactions."""
    times = sorted(log.values())
    n = max(int(np.floor(round(share * len(times), 9))), 1)
    return times[-n]


def check_pair(train, test, X):
    """Assert that a pair has no common interactions, and the values of X."""
    assert train.shape == test.shape == X.shape
    assert train.has_canonical_format
    assert test.has_canonical_format
    assert train.indptr.dtype == train.indices.dtype == test.indices.dtype == X.indices.dtype
    assert not entries(train).keys() & entries(test).keys()
    assert (entries(train) | entries(test)).items() <= entries(X).items()


# Users 0 and 1 are known before the time 10, user 2 is new, and user 3 has nothing later.
LOG = {
    (0, 0): 1.0,
    (0, 1): 10,
    (0, 3): 12,
    (1, 0): 0,
    (1, 2): 9.5,
    (1, 1): 11,
    (2, 2): 10,
    (2, 3): 13,
    (3, 1): -4,
}


class TestTimeSplit:
    def parts(self, **options):
        X, times = matrices(LOG, (4, 4))
        return tuple(set(entries(part)) for part in time_split(X, times, 10, **options))

    def test_by_hand(self):
        before = {(0, 0), (1, 0), (1, 2), (3, 1)}
        assert self.parts() == (before, set(LOG) - before)
        assert self.parts(new_users="drop") == (before, {(0, 1), (0, 3), (1, 1)})
        assert self.parts(new_users="only") == (before, {(2, 2), (2, 3)})
        assert self.parts(new_items="drop") == (before, {(0, 1), (1, 1), (2, 2)})
        assert self.parts(new_items="only") == (before, {(0, 3), (2, 3)})
        assert self.parts(new_users="drop", new_items="only") == (before, {(0, 3)})
        assert self.parts(new_users="only", new_items="only") == (before, {(2, 3)})

    def test_the_quantile_is_that_of_the_interactions(self):
        log = {(u, i): 10 * u + i for u in range(4) for i in range(5)}
        _, test = time_split(*matrices(log, (4, 5)), test_size=0.15)
        assert set(entries(test)) == {(3, 4), (3, 3), (3, 2)}
        _, test = time_split(*matrices(log, (4, 5)), test_size=0.001)
        assert set(entries(test)) == {(3, 4)}

    @given(LOGS, st.integers(-1, 6))
    def test_no_test_interaction_is_as_old_as_the_last_of_the_training(self, log, at):
        X, times = matrices(log, (N_USERS, N_ITEMS))
        if not min(log.values()) < at <= max(log.values()):
            with pytest.raises(ValueError, match="at="):
                time_split(X, times, at)
            return
        train, test = time_split(X, times, at)
        check_pair(train, test, X)
        assert max(times_of(train, log)) < at <= min(times_of(test, log))
        assert entries(train) | entries(test) == entries(X)

    @given(
        LOGS,
        SHARES,
        st.sampled_from(["keep", "drop", "only"]),
        st.sampled_from(["keep", "drop", "only"]),
    )
    def test_a_share_by_brute_force(self, log, share, new_users, new_items):
        X, times = matrices(log, (N_USERS, N_ITEMS))
        cut = brute_force_cut(log, share)
        if cut == min(log.values()):
            with pytest.raises(ValueError, match="have the same time"):
                time_split(X, times, test_size=share)
            return
        options = {"new_users": new_users, "new_items": new_items}
        train, test = time_split(X, times, test_size=share, **options)
        check_pair(train, test, X)
        past = {place for place, time in log.items() if time < cut}
        wanted = {"keep": {True, False}, "drop": {False}, "only": {True}}
        users, items = {u for u, _ in past}, {i for _, i in past}
        future = {
            (u, i)
            for u, i in log.keys() - past
            if (u not in users) in wanted[new_users] and (i not in items) in wanted[new_items]
        }
        assert (set(entries(train)), set(entries(test))) == (past, future)

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9)), min_size=2),
        st.integers(1, 9),
    )
    def test_no_event_of_a_held_out_pair_is_before_the_cut(self, events, at):
        users, items, times = map(list, zip(*events, strict=True))
        log = {"user": users, "item": items, "time": times}
        encoder = InteractionEncoder(time="time")
        X, earliest = encoder.fit_transform(log), encoder.transform_times(log)
        assume(earliest.data.min() < at <= earliest.data.max())
        train, test = time_split(X, earliest, at)
        user_ids, item_ids = encoder.user_ids_.tolist(), encoder.item_ids_.tolist()
        past, future = (
            {(user_ids[u], item_ids[i]) for u, i in entries(part)} for part in (train, test)
        )
        assert past == {(user, item) for user, item, time in events if time < at}
        assert future == {(user, item) for user, item, _ in events} - past

    @pytest.mark.parametrize(
        "at",
        [
            "2015-03-01",
            "2015-03-01T01:00:00+01:00",
            dt.date(2015, 3, 1),
            dt.datetime(2015, 3, 1),
            dt.datetime(2015, 2, 28, 23, tzinfo=dt.timezone(dt.timedelta(hours=-1))),
            np.datetime64("2015-03"),
            np.datetime64("2015-03-01T00:00:00", "ns"),
            1425168000,
            np.float32(1425168000),
        ],
    )
    def test_dates(self, at):
        start = dt.datetime(2015, 3, 1, tzinfo=dt.UTC).timestamp()
        log = {(0, 0): start - 1e-6, (0, 1): start, (0, 2): start + 1e-6}
        train, test = time_split(*matrices(log, (1, 3)), at)
        assert (set(entries(train)), set(entries(test))) == ({(0, 0)}, {(0, 1), (0, 2)})

    def test_dates_of_pandas(self):
        pd = pytest.importorskip("pandas")
        log = {(0, 0): 0, (0, 1): 86400}
        for zone in (None, "UTC"):
            _, test = time_split(*matrices(log, (1, 2)), pd.Timestamp("1970-01-02", tz=zone))
            assert set(entries(test)) == {(0, 1)}

    @pytest.mark.parametrize("convert", [np.asarray, csr_matrix, csc_array])
    @pytest.mark.parametrize("dtype", [np.int64, np.float32])
    def test_formats(self, convert, dtype):
        dense = np.array([[3, 1, 0], [0, 2, 4]])
        X, times = convert((dense > 0).astype(dtype)), convert(dense.astype(dtype))
        before = times.copy()
        train, test = time_split(X, times, 3)
        assert_array_equal(train.toarray(), [[0, 1, 0], [0, 1, 0]])
        assert_array_equal(test.toarray(), [[1, 0, 0], [0, 0, 1]])
        assert train.dtype == dtype
        assert (before != times).sum() == 0

    def test_unsorted_entries_and_stored_zeros(self):
        X = csr_array(([1.0, 2, 0, 3], [3, 0, 1, 2], [0, 4]), shape=(1, 4))
        times = csr_array(([0.0, 5, 1], [2, 0, 3], [0, 3]), shape=(1, 4))
        indices = times.indices.copy()
        train, test = time_split(X, times, 1)
        assert_array_equal(train.toarray(), [[0, 0, 3, 0]])
        assert_array_equal(test.toarray(), [[2, 0, 0, 1]])
        assert_array_equal(times.indices, indices)

    def test_other_times_are_ignored(self):
        times = csr_array(([0.0, 5, 9, -1], [0, 1, 2, 1], [0, 3, 4]), shape=(2, 3))
        train, test = time_split(np.array([[1, 0, 2], [0, 3, 0]]), times, 1)
        assert entries(train) == {(0, 0): 1, (1, 1): 3}
        assert entries(test) == {(0, 2): 2}

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            ([[1, 0, 2], [4, 0, 0]], "times lacks 1 of the 3 interactions"),
            ([[0, 0, 0], [0, 0, 0]], "times lacks 3 of the 3"),
            ([[1, 2], [4, 0]], r"times has shape \(2, 2\); expected the shape \(2, 3\) of X"),
            ([[1, np.nan, 0], [4, 0, 0]], "times contains NaN"),
            ([[1, np.inf, 0], [4, 0, 0]], "times contains infinity"),
            (csr_array(([1.0, 2, 3, 4], [0, 1, 1, 0], [0, 3, 4]), shape=(2, 3)), "entry twice"),
            (csr_array(([1, 2], [0, 1], [0, 2, 2]), shape=(2, 3)), "times lacks 1"),
        ],
    )
    def test_times_of_other_interactions(self, times, message):
        for split in (
            lambda *a: time_split(*a, 2),
            rolling_time_splits,
            last_interactions_split,
        ):
            with pytest.raises(ValueError, match=message):
                split(np.array([[1, 1, 0], [1, 0, 0]]), times)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"at": 0}, "later than the first time, 1, and not later than the last one, 3"),
            ({"at": 1}, "later than the first time"),
            ({"at": 3.5}, "not later than the last one"),
            ({"at": "2015-01-01"}, r"\[1420070400.0\] in numbers"),
            ({"at": np.nan}, "at="),
            ({"at": "yesterday"}, "at must hold numbers or dates, got .'yesterday'."),
            ({"at": [1, 2]}, "at must hold numbers or dates"),
            ({"at": np.datetime64("NaT")}, "at="),
            ({"test_size": 1.0}, "test_size"),
            ({"test_size": 0}, "test_size"),
            ({"test_size": 0.9}, "have the same time"),
            ({"new_users": "ignore"}, "new_users"),
            ({"new_items": True}, "new_items"),
        ],
    )
    def test_invalid_arguments(self, arguments, message):
        times = np.array([[1, 1, 3]])
        with pytest.raises(ValueError, match=message):
            time_split(np.ones((1, 3)), times, **arguments)

    def test_no_interactions(self):
        with pytest.raises(ValueError, match="X has no interactions"):
            time_split(csr_array((2, 3)), csr_array((2, 3)))


class TestRollingTimeSplits:
    @given(LOGS, st.integers(1, 4), st.none() | st.floats(0.01, 0.5))
    def test_windows_follow_each_other(self, log, n_splits, share):
        X, times = matrices(log, (N_USERS, N_ITEMS))
        size = 1 / (n_splits + 1) if share is None else share
        if n_splits * size < 1:
            cuts = [brute_force_cut(log, k * size) for k in range(1, n_splits + 1)]
            possible = len({*cuts, min(log.values())}) == n_splits + 1
        if n_splits * size >= 1 or not possible:
            with pytest.raises(ValueError, match="n_splits"):
                rolling_time_splits(X, times, n_splits=n_splits, test_size=share)
            return
        splits = rolling_time_splits(X, times, n_splits=n_splits, test_size=share)
        assert len(splits) == n_splits
        known = entries(splits[0][0])
        for k, (train, test) in enumerate(splits):
            check_pair(train, test, X)
            assert max(times_of(train, log)) < min(times_of(test, log))
            assert entries(train) == known  # everything before, the test windows included
            assert min(times_of(test, log)) == brute_force_cut(log, (n_splits - k) * size)
            known = known | entries(test)
        assert known == entries(X)

    def test_given_dates(self):
        days = np.array([[1, 4, 5, 9], [2, 0, 8, 7]])
        at = [dt.date(1970, 1, 1) + dt.timedelta(int(day)) for day in (4, 8)]
        X = (days > 0).astype(int)
        (train, test), (later_train, later_test) = rolling_time_splits(X, days * 86400, at)
        assert_array_equal(train.toarray(), [[1, 0, 0, 0], [1, 0, 0, 0]])
        assert_array_equal(test.toarray(), [[0, 1, 1, 0], [0, 0, 0, 1]])
        assert_array_equal(later_train.toarray(), [[1, 1, 1, 0], [1, 0, 0, 1]])
        assert_array_equal(later_test.toarray(), [[0, 0, 0, 1], [0, 0, 1, 0]])

    def test_users_and_items_are_new_for_their_own_pair(self):
        years = np.array([[1, 0, 0], [2, 3, 0], [0, 2, 0]])
        splits = rolling_time_splits(
            (years > 0).astype(int), years, [2, 3], new_users="drop", new_items="drop"
        )
        assert [set(entries(test)) for _, test in splits] == [set(), {(1, 1)}]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n_splits": 0}, "n_splits"),
            ({"n_splits": 4, "test_size": 0.25}, "n_splits=4 .* test_size=0.25 leave no"),
            ({"n_splits": 5, "test_size": 0.02}, "n_splits=5 .* the same time"),
            ({"at": []}, "one or more ascending"),
            ({"at": [3, 2]}, "one or more ascending"),
            ({"at": [3, 3]}, "one or more ascending"),
            ({"at": 3}, "numbers or dates"),
            ({"at": [2, 9]}, "not later than the last one"),
            ({"at": [2, 3.2, 3.5]}, "no interactions between 3.2 and 3.5"),
        ],
    )
    def test_invalid_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            rolling_time_splits(np.ones((2, 2)), np.array([[1, 2], [3, 4]]), **arguments)


class TestLastInteractionsSplit:
    @given(LOGS, st.integers(1, 4) | SHARES, st.integers(2, 4))
    def test_by_brute_force(self, log, test_size, least):
        X, times = matrices(log, (N_USERS, N_ITEMS))
        fold_in, heldout = last_interactions_split(X, times, test_size, min_interactions=least)
        check_pair(fold_in, heldout, X)
        assert entries(fold_in) | entries(heldout) == entries(X)
        for user in range(N_USERS):
            row = {item: time for (u, item), time in log.items() if u == user}
            held = {item for u, item in entries(heldout) if u == user}
            expected = set()
            if len(row) >= least:
                n = test_size if isinstance(test_size, int) else None
                if n is None or n < len(row):
                    cut = brute_force_cut(row, test_size) if n is None else sorted(row.values())[-n]
                    expected = {item for item, time in row.items() if time >= cut}
            if len(expected) == len(row):
                expected = set()
            assert held == expected
            if held:
                assert max(row[i] for i in row.keys() - held) < min(row[i] for i in held)

    def test_counts(self):
        times = csr_array(
            np.tril(np.random.default_rng(0).permutation(120 * 120).reshape(120, 120) + 1)
        )
        for test_size, expected in (
            (3, lambda n: min(3, n)),
            (0.29, lambda n: max(29 * n // 100, 1)),
        ):
            _, heldout = last_interactions_split(times > 0, times, test_size)
            counts = [expected(n) if n >= 5 else 0 for n in range(1, 121)]
            assert_array_equal(np.diff(heldout.indptr), counts)

    def test_empty_rows(self):
        fold_in, heldout = last_interactions_split(csr_array((3, 4)), csr_array((3, 4)))
        assert fold_in.nnz == heldout.nnz == 0

    @pytest.mark.parametrize(
        "parameters",
        [{"test_size": 0}, {"test_size": -1}, {"test_size": 1.5}, {"min_interactions": 1}],
    )
    def test_invalid_parameters(self, parameters):
        with pytest.raises(ValueError, match=f"'{next(iter(parameters))}' parameter of last_int"):
            last_interactions_split(np.ones((3, 6)), np.ones((3, 6)), **parameters)


class TestStrongGeneralizationInTime:
    def test_first_interactions_are_the_fold_in(self):
        rng = np.random.default_rng(0)
        X = csr_array((rng.random((60, 30)) < 0.4) * rng.integers(1, 6, (60, 30)))
        for row in range(60):  # as in a file: the items of a row are in no order
            part = slice(*X.indptr[row : row + 2])
            order = rng.permutation(part.stop - part.start)
            X.indices[part], X.data[part] = X.indices[part][order], X.data[part][order]
        X.has_sorted_indices = False
        times = csr_array((rng.integers(0, 40, X.nnz) - 5, X.indices, X.indptr), shape=X.shape)
        found = strong_generalization_split(X, 15, times=times, test_size=0.3)
        usual = strong_generalization_split(X, 15, test_size=0.3)
        for name in ("train_users", "validation_users", "test_users", "train_items"):
            assert_array_equal(found[name], usual[name])
        assert (found.train != usual.train).nnz == 0
        log = entries(times)
        for name in ("validation", "test"):
            fold_in, heldout = found[f"{name}_fold_in"], found[f"{name}_heldout"]
            whole = usual[f"{name}_fold_in"] + usual[f"{name}_heldout"]
            assert entries(fold_in) | entries(heldout) == entries(whole)
            assert not entries(fold_in).keys() & entries(heldout).keys()
            n_held = 0
            for row, user in enumerate(found[f"{name}_users"]):
                first = [log[user, found.train_items[i]] for i in fold_in[[row]].indices]
                last = [log[user, found.train_items[i]] for i in heldout[[row]].indices]
                n = len(first) + len(last)
                cut = sorted(first + last)[-max(int(np.floor(round(0.3 * n, 9))), 1)]
                assert sorted(last) == sorted(t for t in first + last if t >= cut)
                assert not last or max(first) < min(last)
                n_held += bool(last)
            assert n_held == 15

    def test_times_of_other_interactions(self):
        with pytest.raises(ValueError, match="times has shape"):
            strong_generalization_split(np.ones((5, 3)), 1, times=np.ones((5, 2)))


class Recorder(EASE):
    """EASE that refuses held-out interactions in ``fit``."""

    def fit(self, X, y=None):
        assert y is None
        assert set(X.data.tolist()) == {1.0}
        return super().fit(X)


@pytest.fixture(scope="module")
def log():
    """X and times of 40 users, whose tastes follow the items from left to right."""
    rng = np.random.default_rng(0)
    present = rng.random((40, 25)) < 0.5
    times = np.where(present, rng.permutation(1000).reshape(40, 25) + 40 * np.arange(25) + 1, 0)
    return csr_array(present.astype(np.float32)), csr_array(times)


GRID = {"l2": [1.0, 30.0, 1000.0]}


def scores_of(search):
    keys = [key for key in search.cv_results_ if key.startswith("split")]
    return np.array([search.cv_results_[key] for key in sorted(keys)])


class TestStackSplits:
    def test_pairs_and_triples(self):
        A, B = csr_array([[1, 0], [0, 1]]), csr_array([[0, 2], [2, 0]])
        C, D = csr_array([[3, 0]]), csr_array([[0, 4]])
        stacked = stack_splits([(A, B), (A, C, D)])
        assert_array_equal(stacked.X.toarray(), [[1, 0], [0, 1], [1, 0], [0, 1], [3, 0]])
        assert_array_equal(stacked.y.toarray(), [[0, 2], [2, 0], [0, 0], [0, 0], [0, 4]])
        rows = [(train.tolist(), test.tolist()) for train, test in stacked.cv]
        assert rows == [([0, 1], [0, 1]), ([2, 3], [4])]

    @pytest.mark.parametrize(
        ("splits", "message"),
        [
            ([], "one or more splits"),
            ((np.ones((2, 2)), np.ones((2, 2))), "list of pairs"),
            ([(np.ones((2, 2)),)], "list of pairs"),
            ([(np.ones((2, 2)), np.ones((3, 2)))], r"shapes \[\(2, 2\), \(3, 2\)\]"),
            ([(np.ones((3, 2)), np.ones((2, 2)), np.ones((3, 2)))], "shape of their fold-in"),
            ([(np.ones((2, 2)), np.ones((2, 2))), (np.ones((2, 3)), np.ones((2, 3)))], "columns"),
            ([(np.ones((2, 3)), np.ones((2, 2)), np.ones((2, 2)))], "columns"),
            ([(np.ones((2, 2)), -np.ones((2, 2)))], "Negative"),
        ],
    )
    def test_invalid_splits(self, splits, message):
        with pytest.raises(ValueError, match=message):
            stack_splits(splits)

    def test_a_search_is_a_loop_over_the_splits(self, log):
        splits = rolling_time_splits(*log, n_splits=3)
        windows = stack_splits(splits)
        for scoring in (None, ndcg_at_k):  # score() is NDCG@100, too
            search = GridSearchCV(EASE(), GRID, cv=windows.cv, scoring=scoring, refit=False)
            search.fit(windows.X, windows.y)
            loop = [
                [ndcg_at_k(EASE(l2).fit(train), train, test) for l2 in GRID["l2"]]
                for train, test in splits
            ]
            assert_allclose(scores_of(search), loop, rtol=1e-6)
        assert len(set(scores_of(search).ravel())) > 3  # the parameters make a difference

    def test_refit_with_a_single_pair_is_a_fit_on_the_training_part(self, log):
        train, test = time_split(*log)
        pair = stack_splits([(train, test)])
        search = GridSearchCV(EASE(), GRID, cv=pair.cv).fit(pair.X, pair.y)
        alone = EASE(**search.best_params_).fit(train)
        assert_array_equal(search.best_estimator_.predict(train), alone.predict(train))

    def test_strong_generalization(self, log):
        data = strong_generalization_split(log[0], 10, times=log[1])
        stacked = stack_splits([(data.train, data.validation_fold_in, data.validation_heldout)])
        search = GridSearchCV(EASE(), {"l2": [3.0]}, cv=stacked.cv, refit=False)
        search.fit(stacked.X, stacked.y)
        model = EASE(3.0).fit(data.train)
        alone = ndcg_at_k(model, data.validation_fold_in, data.validation_heldout)
        assert search.best_score_ == pytest.approx(alone, rel=1e-6)

    def test_folds_of_users_in_time(self, log):
        X, times = log
        fold_in, heldout = last_interactions_split(X, times, 0.3)
        cv = UserSplitter(3, random_state=0)
        folds = stack_splits((X[a], fold_in[b], heldout[b]) for a, b in cv.split(X))
        search = GridSearchCV(Popularity(), {}, cv=folds.cv, scoring=recall_at_k.at(5), refit=False)
        loop = [
            recall_at_k.at(5)(Popularity().fit(X[a]), fold_in[b], heldout[b])
            for a, b in cv.split(X)
        ]
        assert_allclose(scores_of(search.fit(folds.X, folds.y)).ravel(), loop)

    @pytest.mark.parametrize("backend", ["loky", "threading"])
    def test_parallel_searches_have_the_same_scores(self, log, backend):
        windows = stack_splits(rolling_time_splits(*log, n_splits=2))
        search = GridSearchCV(EASE(), GRID, cv=windows.cv, refit=False)
        serial = scores_of(search.fit(windows.X, windows.y))
        with parallel_config(backend, n_jobs=2):
            assert_array_equal(scores_of(search.fit(windows.X, windows.y)), serial)

    def test_halving(self, log):
        windows = stack_splits(rolling_time_splits(*log, n_splits=2))
        search = HalvingGridSearchCV(
            EASE(), GRID, cv=windows.cv, min_resources=60, random_state=0, refit=False
        )
        best = search.fit(windows.X, windows.y).best_params_
        again = search.fit(windows.X, windows.y)
        assert again.best_params_ == best
        assert best["l2"] in GRID["l2"]
        assert np.isfinite(again.cv_results_["mean_test_score"]).all()


class TestHeldoutAsMetadata:
    @pytest.fixture(autouse=True)
    def _routing(self):
        with sklearn.config_context(enable_metadata_routing=True):
            yield

    def test_cross_validate(self, log):
        splits = rolling_time_splits(*log, n_splits=3)
        windows = stack_splits(splits)
        with pytest.raises(ValueError, match="'y' parameter of cross_validate"):
            cross_validate(EASE(), windows.X, windows.y, cv=windows.cv)
        result = cross_validate(
            Recorder(3.0),
            windows.X,
            cv=windows.cv,
            scoring=ndcg_at_k.set_score_request(heldout=True),
            params={"heldout": windows.y},
            error_score="raise",
        )
        loop = [ndcg_at_k(EASE(3.0).fit(train), train, test) for train, test in splits]
        assert_allclose(result["test_score"], loop, rtol=1e-6)

    def test_several_metrics(self, log):
        train, test = time_split(*log)
        pair = stack_splits([(train, test)])
        scorer = MultiRankingScorer((ndcg_at_k.at(5), recall_at_k.at(5)))
        result = cross_validate(
            Recorder(3.0),
            pair.X,
            cv=pair.cv,
            scoring=scorer.set_score_request(),
            params={"heldout": pair.y},
            error_score="raise",
        )
        for name, value in scorer(EASE(3.0).fit(train), train, test).items():
            assert_allclose(result[f"test_{name}"], value, rtol=1e-6)

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_a_nested_search_does_not_see_the_held_out_part(self, log, n_jobs):
        splits = rolling_time_splits(*log, n_splits=2)
        windows = stack_splits(splits)
        inner = UserSplitter(2, random_state=0)
        search = GridSearchCV(Recorder(), GRID, cv=inner, scoring=ndcg_at_k, error_score="raise")
        with parallel_config("threading", n_jobs=n_jobs):
            result = cross_validate(
                search,
                windows.X,
                cv=windows.cv,
                scoring=ndcg_at_k.set_score_request(heldout=True),
                params={"heldout": windows.y},
                return_estimator=True,
                error_score="raise",
            )
        for (train, test), found, score in zip(
            splits, result["estimator"], result["test_score"], strict=True
        ):
            alone = GridSearchCV(EASE(), GRID, cv=inner, scoring=ndcg_at_k).fit(train)
            assert_array_equal(scores_of(found), scores_of(alone))
            assert score == ndcg_at_k(alone, train, test)

    def test_a_search_by_metadata(self, log):
        windows = stack_splits(rolling_time_splits(*log, n_splits=2))
        scorer = ndcg_at_k.set_score_request(heldout=True)
        search = GridSearchCV(Recorder(), GRID, cv=windows.cv, scoring=scorer, refit=False)
        by_y = GridSearchCV(EASE(), GRID, cv=windows.cv, refit=False).fit(windows.X, windows.y)
        assert_array_equal(scores_of(search.fit(windows.X, heldout=windows.y)), scores_of(by_y))

    def test_requests_stay_with_the_scorer(self):
        scorer = recall_at_k.set_score_request(heldout=True)
        for one in (scorer, scorer.at(3)):
            assert one.get_metadata_routing().score.requests == {"heldout": True}
        assert recall_at_k.get_metadata_routing().score.requests == {"heldout": False}
        assert scorer.set_score_request(heldout=False) == recall_at_k
        assert recall_at_k != scorer
