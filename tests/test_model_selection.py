import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import coo_array, csc_matrix, csr_array, vstack
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import BaseCrossValidator, GridSearchCV, check_cv

from skvaecf.model_selection import (
    UserSplitter,
    split_interactions,
    strong_generalization_split,
)


def interactions(n_users=200, n_items=40, density=0.3, seed=0, dtype=np.int32):
    rng = np.random.default_rng(seed)
    present = rng.random((n_users, n_items)) < density
    return csr_array((present * rng.integers(1, 6, present.shape)).astype(dtype))


def n_per_user(X):
    return (X > 0).sum(axis=1)


def same(a, b):
    return a.shape == b.shape and (a != b).nnz == 0


class TestSplitInteractions:
    def test_parts_make_up_the_whole(self):
        X = interactions()
        fold_in, heldout = split_interactions(X, random_state=0)
        assert same(fold_in + heldout, X)
        assert fold_in.multiply(heldout).nnz == 0
        assert fold_in.dtype == heldout.dtype == X.dtype

    @pytest.mark.parametrize("test_size", [0.05, 0.2, 0.29, 0.3, 0.7, 0.999])
    def test_counts(self, test_size):
        X = csr_array(np.tril(np.ones((120, 120))))
        _, heldout = split_interactions(X, test_size, random_state=1)
        hundredths = round(1000 * test_size)
        expected = [max(n * hundredths // 1000, 1) if n >= 5 else 0 for n in range(1, 121)]
        assert_array_equal(np.diff(heldout.indptr), expected)

    def test_short_rows_stay_whole(self):
        X = np.tril(np.ones((6, 6)))
        for least in (2, 4, 7):
            _, heldout = split_interactions(X, random_state=0, min_interactions=least)
            assert_array_equal(n_per_user(heldout), np.arange(1, 7) >= least)

    def test_depends_on_the_items_of_the_row_alone(self):
        X = interactions()
        _, heldout = split_interactions(X, random_state=3)
        rows = np.random.default_rng(0).permutation(X.shape[0])[:50]
        assert same(split_interactions(X[rows], random_state=3)[1], heldout[rows])
        doubled = vstack([X, X], format="csr")
        assert same(split_interactions(doubled, random_state=3)[1], vstack([heldout, heldout]))
        other_values = X.copy()
        other_values.data[:] = np.arange(1, X.nnz + 1)
        other = split_interactions(other_values, random_state=3)[1]
        assert same(other > 0, heldout > 0)

    @pytest.mark.parametrize(
        "convert",
        [
            lambda X: X.toarray(),
            lambda X: X.toarray().tolist(),
            csc_matrix,
            coo_array,
            lambda X: X.astype(np.float32),
            lambda X: X.astype(np.uint8),
        ],
    )
    def test_the_format_does_not_matter(self, convert):
        X = interactions(n_users=30)
        fold_in, heldout = split_interactions(X, random_state=3)
        other_fold_in, other_heldout = split_interactions(convert(X), random_state=3)
        assert same(fold_in, other_fold_in)
        assert same(heldout, other_heldout)

    def test_messy_rows_and_unchanged_input(self):
        # One row with an explicit zero, a repeated entry and items out of order.
        data, items = np.array([1.0, 2, 0, 1, 1, 3, 4]), np.array([5, 0, 7, 2, 2, 1, 3])
        X = csr_array((data, items, [0, 7]), shape=(1, 8))
        before = X.data.copy(), X.indices.copy()
        tidy = csr_array([[2.0, 3, 2, 4, 0, 1, 0, 0]])
        for part, tidy_part in zip(
            split_interactions(X, random_state=0),
            split_interactions(tidy, random_state=0),
            strict=True,
        ):
            assert same(part, tidy_part)
        assert_array_equal(X.data, before[0])
        assert_array_equal(X.indices, before[1])

    def test_random_state(self):
        X = interactions()
        first = split_interactions(X, random_state=0)[1]
        assert same(first, split_interactions(X, random_state=0)[1])
        assert not same(first, split_interactions(X, random_state=1)[1])
        assert same(first, split_interactions(X, random_state=np.random.RandomState(0))[1])
        assert not same(split_interactions(X)[1], split_interactions(X)[1])

    def test_uniform_and_independent(self):
        # 4000 rows of 20 items each: 10 items that all rows have and 10 random ones.
        rng = np.random.default_rng(0)
        n = 4000
        own = 10 + rng.permuted(np.tile(np.arange(90), (n, 1)), axis=1)[:, :10]
        items = np.hstack([np.tile(np.arange(10), (n, 1)), own])
        X = csr_array((np.ones(20 * n), items.ravel(), 20 * np.arange(n + 1)), shape=(n, 100))
        held = [split_interactions(X, random_state=seed)[1].toarray() for seed in (0, 1)]
        first, second = (part[:, :10] for part in held)

        five_sigma = 5 * np.sqrt(0.2 * 0.8 / n)
        np.testing.assert_allclose(first.mean(axis=0), 0.2, atol=five_sigma)
        own_share = held[0][:, 10:].sum(axis=0) / (X.toarray()[:, 10:].sum(axis=0))
        np.testing.assert_allclose(own_share, 0.2, atol=five_sigma * 3)
        # Of 20 items, 4 are held out. Two given items are both among them with probability
        # 4 * 3 / (20 * 19).
        together = (first.T @ first / n)[np.triu_indices(10, 1)]
        np.testing.assert_allclose(together, 12 / 380, atol=5 * np.sqrt(12 / 380 / n))
        # Two seeds, or two rows with the same items, are independent: 0.2 * 0.2.
        tolerance = 5 * np.sqrt(0.04 * 0.96 / n)
        np.testing.assert_allclose((first * second).mean(axis=0), 0.04, atol=tolerance)
        np.testing.assert_allclose((first[1:] * first[:-1]).mean(axis=0), 0.04, atol=tolerance)

    @pytest.mark.parametrize(
        "parameters", [{"test_size": 0.0}, {"test_size": 1}, {"min_interactions": 1}]
    )
    def test_invalid_parameters(self, parameters):
        with pytest.raises(ValueError, match=f"'{next(iter(parameters))}' parameter of split_int"):
            split_interactions(np.ones((3, 6)), **parameters)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1])
    def test_invalid_values(self, value):
        with pytest.raises(ValueError, match="X"):
            split_interactions(csr_array([[1.0, value]]))

    def test_empty_rows(self):
        fold_in, heldout = split_interactions(csr_array((3, 4)), random_state=0)
        assert fold_in.nnz == heldout.nnz == 0


def test_the_held_out_items_never_change():
    # Published figures, checkpoints and scores depend on them.
    _, heldout = split_interactions(np.triu(np.ones((2, 20))), 0.3, random_state=0)
    items = [sorted(heldout[[u]].indices.tolist()) for u in (0, 1)]
    assert items == [[1, 3, 4, 10, 12, 18], [5, 7, 12, 13, 14]]


class TestUserSplitter:
    X = np.tril(np.ones((30, 30)))  # user u has u + 1 interactions

    def test_is_a_partition_of_the_eligible(self):
        splitter = UserSplitter(4, min_interactions=7, random_state=0)
        tests = []
        for train, test in splitter.split(self.X):
            assert_array_equal(np.sort(np.append(train, test)), np.arange(30))
            assert_array_equal(test, np.sort(test))
            tests.append(test)
        assert_array_equal(np.sort(np.concatenate(tests)), np.arange(6, 30))
        assert {len(test) for test in tests} == {6}
        assert len(tests) == splitter.get_n_splits() == 4

    @pytest.mark.parametrize(("test_size", "n_test"), [(0.29, 7), (0.001, 1), (5, 5), (25, 25)])
    def test_shuffle_split(self, test_size, n_test):
        splitter = UserSplitter(3, test_size=test_size, min_interactions=6, random_state=0)
        splits = list(splitter.split(csr_array(self.X)))
        assert len(splits) == 3
        for train, test in splits:
            assert len(test) == n_test
            assert min(test) >= 5
            assert_array_equal(np.sort(np.append(train, test)), np.arange(30))

    def test_one_hold_out(self):
        [(train, test)] = UserSplitter(1, test_size=0.2, random_state=0).split(self.X)
        assert (len(train), len(test)) == (25, 5)

    def test_order(self):
        unshuffled = UserSplitter(3, shuffle=False, min_interactions=0)
        assert_array_equal(next(unshuffled.split(self.X))[1], np.arange(10))
        splits = [
            np.concatenate([test for _, test in splitter.split(self.X)])
            for seed in (0, 0, 1, None, None)
            for splitter in [UserSplitter(random_state=seed)]
        ]
        assert_array_equal(splits[0], splits[1])
        assert not np.array_equal(splits[0], splits[2])
        assert not np.array_equal(splits[3], splits[4])
        splitter = UserSplitter(random_state=5)
        for once, again in zip(splitter.split(self.X), splitter.split(self.X), strict=True):
            assert_array_equal(once[1], again[1])

    def test_counts_interactions_not_entries(self):
        # Explicit zeros and repeated entries do not make a user eligible.
        X = csr_array(([1, 0, 0, 1, 1, 1, 1, 1], [0, 1, 2, 0, 0, 0, 1, 2], [0, 3, 5, 8]), (3, 3))
        splitter = UserSplitter(1, test_size=1, min_interactions=3, random_state=0)
        assert_array_equal(next(splitter.split(X))[1], [2])
        assert X.nnz == 8

    def test_behaves_as_a_scikit_learn_splitter(self):
        splitter = UserSplitter(random_state=0)
        assert repr(splitter) == (
            "UserSplitter(min_interactions=5, n_splits=5, random_state=0, shuffle=True,\n"
            "       test_size=None)"
        )
        assert isinstance(splitter, BaseCrossValidator)
        assert check_cv(splitter) is splitter
        assert clone(GridSearchCV(LinearRegression(), {}, cv=splitter)).cv.random_state == 0

    @pytest.mark.parametrize(
        ("parameters", "argument"),
        [
            ({"n_splits": 1}, "n_splits"),
            ({"n_splits": 0, "test_size": 1}, "n_splits"),
            ({"test_size": 1.5}, "test_size"),
            ({"test_size": 0}, "test_size"),
            ({"min_interactions": -1}, "min_interactions"),
            ({"shuffle": "yes"}, "shuffle"),
            ({"shuffle": False, "test_size": 2}, "shuffle"),
            ({"random_state": "a"}, "random_state"),
        ],
    )
    def test_invalid_parameters(self, parameters, argument):
        with pytest.raises(ValueError, match=argument):
            UserSplitter(**parameters)

    @pytest.mark.parametrize(
        ("splitter", "argument"),
        [
            (UserSplitter(5, min_interactions=27), "n_splits"),
            (UserSplitter(5, min_interactions=27, test_size=5), "test_size"),
            (UserSplitter(5, min_interactions=0, test_size=30), "test_size"),
            (UserSplitter(5, min_interactions=31, test_size=0.5), "test_size"),
        ],
    )
    def test_too_few_users(self, splitter, argument):
        with pytest.raises(ValueError, match=argument):
            list(splitter.split(self.X))


def notebook(frame, n_heldout, seed=98765):
    """Return the result of the authors' preprocessing of a long frame (user, item)."""
    import pandas as pd

    users = np.asarray(frame.groupby("user").size().index)
    np.random.seed(seed)
    users = users[np.random.permutation(len(users))]
    n_train = len(users) - 2 * n_heldout
    groups = users[:n_train], users[n_train : n_train + n_heldout], users[n_train + n_heldout :]
    train = frame[frame["user"].isin(groups[0])]
    items = pd.unique(train["item"])

    def halves(ids):
        plays = frame[frame["user"].isin(ids) & frame["item"].isin(items)]
        kept, held = [], []
        np.random.seed(seed)
        for _, group in plays.groupby("user"):
            chosen = np.zeros(len(group), dtype=bool)
            if len(group) >= 5:
                size = int(0.2 * len(group))
                chosen[np.random.choice(len(group), size=size, replace=False)] = True
            kept.append(group[~chosen])
            held.append(group[chosen])
        return pd.concat(kept), pd.concat(held)

    return groups, items, train, *halves(groups[1]), *halves(groups[2])


def pairs(matrix, users, items, user_ids):
    rows, columns = matrix.nonzero()
    return set(zip(user_ids[users[rows]], items[columns], strict=True))


class TestStrongGeneralizationSplit:
    def test_permutation_anchor(self):
        users = np.random.RandomState(98765).permutation(136677)[:5]
        assert_array_equal(users, [104323, 11053, 111295, 50587, 126873])
        X = csr_array((np.ones(136677), (np.arange(136677), np.zeros(136677, dtype=int))))
        data = strong_generalization_split(X, n_heldout=10000)
        assert_array_equal(data.train_users[:5], users)
        assert data.train.shape == (116677, 1)

    @pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32])
    @pytest.mark.parametrize("n_heldout", [1, 30])
    def test_the_result_is_that_of_the_authors_notebook(self, n_heldout, dtype):
        pd = pytest.importorskip("pandas")
        rng = np.random.default_rng(0)
        n_users, n_items = 150, 2000
        user_ids = np.sort(rng.choice(10_000, n_users, replace=False))
        counts = rng.integers(1, 40, n_users)
        columns = [np.sort(rng.choice(n_items, n))[rng.permutation(n)] for n in counts]
        columns = [pd.unique(row) for row in columns]
        indptr = np.append(0, np.cumsum([len(row) for row in columns]))
        indices = np.concatenate(columns)
        ratings = rng.integers(1, 6, len(indices)).astype(dtype)
        X = csr_array((ratings, indices, indptr), (n_users, n_items))
        assert not X.has_sorted_indices
        stored = indices.copy()
        frame = pd.DataFrame({"user": np.repeat(user_ids, np.diff(indptr)), "item": indices})

        data = strong_generalization_split(X, n_heldout)
        state = np.random.get_state()
        groups, items, *parts = notebook(frame, n_heldout)
        np.random.set_state(state)

        names = ["train", "validation", "test"]
        for name, ids in zip(names, groups, strict=True):
            assert_array_equal(user_ids[data[f"{name}_users"]], ids)
        assert_array_equal(data.train_items, items)
        assert len(items) < n_items
        matrices = ["train", *(f"{n}_{p}" for n in names[1:] for p in ("fold_in", "heldout"))]
        for name, part in zip(matrices, parts, strict=True):
            users = data[f"{name.split('_')[0]}_users"]
            assert data[name].shape == (len(users), len(items))
            assert data[name].has_canonical_format
            expected = set(zip(part["user"], part["item"], strict=True))
            assert pairs(data[name], users, data.train_items, user_ids) == expected
        whole = data.test_fold_in + data.test_heldout
        assert same(whole, csr_array(X.toarray()[data.test_users][:, data.train_items]))
        assert_array_equal(X.indices, stored)

    def test_parameters_of_the_cut(self):
        X = interactions(100, 30, density=0.5)
        data = strong_generalization_split(
            X, 20, min_interactions=12, test_size=0.5, random_state=1
        )
        n = n_per_user(data.test_fold_in + data.test_heldout)
        expected = np.where(n >= 12, n // 2, 0)
        assert_array_equal(n_per_user(data.test_heldout), expected)
        assert 0 in expected

    def test_the_size_of_the_cut_is_truncated_as_the_authors_do(self):
        # 0.29 * 100 is 28.999999999999996, which split_interactions rounds to 29.
        data = strong_generalization_split(np.ones((5, 100)), 1, test_size=0.29)
        assert data.validation_heldout.nnz == data.test_heldout.nnz == 28

    def test_explicit_zeros_do_not_count(self):
        X = csr_array(np.ones((9, 10)))
        padded = csr_array(np.hstack([X.toarray(), np.full((9, 2), 7.0)]))
        padded.data[padded.data == 7] = 0
        expected = strong_generalization_split(X, 2)
        found = strong_generalization_split(padded, 2)
        assert same(found.test_heldout, expected.test_heldout)
        assert padded.nnz == 108

    def test_repeated_entry(self):
        X = csr_array(([1, 1, 1, 1], [0, 0, 1, 1], [0, 2, 3, 4]), shape=(3, 2))
        with pytest.raises(ValueError, match="entry twice"):
            strong_generalization_split(X, 1)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"n_heldout": 0},
            {"n_heldout": 5},
            {"n_heldout": 1, "test_size": 1.0},
            {"n_heldout": 1, "min_interactions": 0},
            {"n_heldout": 1, "random_state": None},
        ],
    )
    def test_invalid_parameters(self, parameters):
        name = list(parameters)[-1]
        with pytest.raises(ValueError, match=name):
            strong_generalization_split(np.ones((10, 6)), **parameters)
