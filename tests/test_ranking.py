"""Lists of the best items of every user."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skvaecf import EASE, WMF, ItemKNN, Popularity, recommend
from skvaecf._batch import InteractionBatch
from skvaecf.interactions import binary_csr
from skvaecf.linear._item_item import dense_scores, sparse_scorer
from skvaecf.ranking import BLOCK_ROWS, rank, row_blocks


def test_the_best_by_approximate_scores_are_ranked_by_exact_ones():
    exact = torch.from_numpy(np.random.RandomState(0).randint(0, 40, (30, 500)) / 4.0).float()
    noise = np.random.RandomState(1).uniform(-0.1, 0.1, (30, 500)).astype(np.float32)
    X = csr_array(np.random.RandomState(2).rand(30, 500) < 0.1)

    def score_rows(block):
        approximate = exact[block] + torch.from_numpy(noise[block])
        return approximate, exact[block], torch.eye(500)

    counts = np.arange(500) % 10
    for options in (
        {},
        {"exclude_seen": False},
        {"candidates": [3, 4, 400]},
        {"exclude": range(1, 499)},
        {"item_counts": counts},
    ):
        expected = rank(lambda block: exact[block].clone(), X, 10, **options)
        assert_array_equal(rank(score_rows, X, 10, **options), expected)


@given(st.integers(0, 40 * BLOCK_ROWS), st.integers(1, 200_000), st.sampled_from(["cpu", "cuda"]))
def test_row_blocks_cover_all_rows_once(n_rows, n_items, device):
    blocks = list(row_blocks(n_rows, n_items, torch.device(device)))
    rows = np.concatenate([np.arange(n_rows)[b] for b in blocks] or [[]])
    assert_array_equal(rows, np.arange(n_rows))
    times = {"cpu": 1, "cuda": 16}[device]
    sizes = [b.stop - b.start for b in blocks]
    assert all(0 < size <= times * BLOCK_ROWS for size in sizes)
    assert all(size * n_items <= max(times * 2**23, 16 * n_items) for size in sizes)
    assert sizes[:-1] == [size for size in sizes[:-1] if times * BLOCK_ROWS % size == 0]


def rank_dense(scores, X, k, **options):
    def score_rows(block):
        return torch.tensor(scores[block], dtype=torch.float32)

    return rank(score_rows, X, k, **options)


# Each form of candidates and exclude, as a function of a users x items mask.
FORMS = {
    "numbers": lambda mask: np.flatnonzero(mask[0]),
    "boolean array": lambda mask: mask[0],
    "dense": lambda mask: mask * 2.0,
    "sparse": csr_array,
}
forms = st.sampled_from([None, *FORMS])


@given(st.integers(0, 10**6), st.integers(1, 15), st.booleans(), forms, forms)
def test_rank_is_brute_force_over_the_eligible_items(seed, k, exclude_seen, allow, bar):
    rng = np.random.RandomState(seed)
    scores = rng.randint(0, 4, (6, 10)).astype(np.float32)
    counts = rng.randint(0, 3, 10)
    seen = rng.rand(6, 10) < 0.4
    allowed, barred = rng.rand(6, 10) < 0.6, rng.rand(6, 10) < 0.3
    items, values = rank_dense(
        scores,
        csr_array(seen * 2.0),
        k,
        exclude_seen=exclude_seen,
        candidates=FORMS[allow](allowed) if allow else None,
        exclude=FORMS[bar](barred) if bar else None,
        item_counts=counts,
    )
    assert items.dtype == np.int64
    assert values.dtype == np.float32
    for u in range(6):
        eligible = ~(seen[u] & exclude_seen)
        if allow:
            eligible &= allowed[0 if allow in ("numbers", "boolean array") else u]
        if bar:
            eligible &= ~barred[0 if bar in ("numbers", "boolean array") else u]
        best = sorted(np.flatnonzero(eligible), key=lambda i: (-scores[u, i], -counts[i], i))[:k]
        assert items[u].tolist() == best + [-1] * (k - len(best))
        assert values[u].tolist() == [*scores[u, best]] + [-np.inf] * (k - len(best))


class Constant:
    """Predicts the same scores for every user."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, X):
        return np.repeat(np.array([self.scores]), X.shape[0], axis=0)


def test_recommend_with_anything_that_predicts():
    X = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 1]])
    items, scores = recommend(Constant([3.0, 2.0, 1.0]), X, 2, return_scores=True)
    assert items.tolist() == [[1, 2], [0, 1], [-1, -1]]
    assert scores.tolist() == [[2.0, 1.0], [3.0, 2.0], [-np.inf, -np.inf]]


def test_recommenders_prepare_once_for_all_blocks(monkeypatch):
    X = np.eye(BLOCK_ROWS + 3, 5)
    model = EASE().fit(X)
    expected = recommend(Constant(model.predict(X)[0]), X[:1], 3)
    prepared = []
    scorer = EASE._scorer
    monkeypatch.setattr(EASE, "_scorer", lambda self: prepared.append(self) or scorer(self))
    items = recommend(model, X, 3)
    assert prepared == [model]
    assert_array_equal(items, model.recommend(X, 3))
    assert_array_equal(items[:1], expected)


@pytest.mark.parametrize(("n_users", "n_threads"), [(1, 1), (4, 1), (5, 3)])
def test_few_scores_are_computed_by_one_thread(n_users, n_threads):
    X, seen = np.eye(8, 2**15), []

    class Watching(Popularity):
        _scores_in_threads = False  # else there is a thread for each block

        def _scorer(self):
            score = super()._scorer()
            return lambda rows: seen.append(torch.get_num_threads()) or score(rows)

    model = Watching().fit(X)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model.predict(X[:n_users])
        model.recommend(X[:n_users], 1)
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert seen == [n_threads] * 2
    assert after == 3


def test_recommend_uses_a_predict_that_a_subclass_overrides():
    class Reversed(EASE):
        def predict(self, X):
            return -super().predict(X)

    X = np.triu(np.ones((6, 6)))
    usual = EASE().fit(X).recommend(X[:1], 3, exclude_seen=False)
    model = Reversed().fit(X)
    assert usual.tolist() == [[5, 4, 3]]
    assert recommend(model, X[:1], 3, exclude_seen=False).tolist() == [[0, 1, 2]]
    assert model.recommend(X[:1], 3, exclude_seen=False).tolist() == [[0, 1, 2]]


def test_recommend_does_not_overwrite_what_predict_returned():
    kept = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)

    class Kept:
        def predict(self, X):
            return kept

    recommend(Kept(), np.array([[1, 0, 0]]), 1)
    assert kept.tolist() == [[3.0, 2.0, 1.0]]


def test_recommend_refuses_scores_of_another_shape():
    with pytest.raises(ValueError, match=r"predict returned scores of shape \(2, 3\).*\(2, 4\)"):
        recommend(Constant([3.0, 2.0, 1.0]), np.ones((2, 4)), 1)


def test_recommend_refuses_objects_without_predict():
    with pytest.raises(TypeError, match="estimator must have a predict method, got str"):
        recommend("EASE", np.ones((2, 4)), 1)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3", None])
def test_recommend_refuses_k(k):
    for call in (partial(recommend, Constant([1.0, 2.0])), EASE().fit(np.eye(2)).recommend):
        with pytest.raises(ValueError, match="k must be an integer of at least 1"):
            call(np.ones((1, 2)), k)


def corrupt_mask():
    mask = csr_array(np.ones((2, 3)))
    mask.indices[1] = -1
    return mask


@pytest.mark.parametrize("argument", ["candidates", "exclude"])
@pytest.mark.parametrize(
    "value",
    [
        [-2],
        [0, 3],
        [[0], [1, 2]],
        [0.5],
        ["a"],
        np.ones((2, 2), dtype=bool),
        csr_array(np.ones((1, 3))),
        [True, False],
        corrupt_mask(),
    ],
)
def test_recommend_refuses_filters(argument, value):
    X = np.tri(2, 3)
    for call in (partial(recommend, Constant([1.0, 2.0, 3.0])), EASE().fit(X).recommend):
        with pytest.raises(ValueError, match=argument):
            call(X, 1, **{argument: value})


def test_unknown_items_in_filters_are_ignored_with_one_warning_each():
    call = partial(recommend, Constant([1.0, 2.0, 3.0]), np.zeros((2, 3)), 3)
    with pytest.warns(UserWarning, match="2 of 3 exclude are -1") as warned:
        assert call(exclude=[-1, 2, -1]).tolist() == [[1, 0, -1]] * 2
    assert len(warned) == 1
    with pytest.warns(UserWarning, match="-1") as warned:
        assert call(candidates=[2, 1, -1], exclude=[-1, 2]).tolist() == [[1, -1, -1]] * 2
    assert [str(w.message).split(" are ")[0] for w in warned] == [
        "1 of 3 candidates",
        "1 of 2 exclude",
    ]


def test_what_is_excluded_may_be_read_only_and_stays_as_it_is():
    mask = np.array([False, False, True])
    mask.flags.writeable = False
    call = partial(recommend, Constant([1.0, 2.0, 3.0]), np.zeros((1, 3)), 3)
    for argument, expected in (("exclude", [1, 0, -1]), ("candidates", [2, -1, -1])):
        for form in (mask, mask[None], csr_array(mask[None])):
            assert call(**{argument: form}).tolist() == [expected]
    assert mask.tolist() == [False, False, True]


def test_nothing_excluded_and_everything_excluded():
    call = partial(recommend, Constant([1.0, 2.0]), np.zeros((2, 2)), 2)
    assert call(exclude=[]).tolist() == [[1, 0]] * 2
    assert call(exclude=[0, 1]).tolist() == [[-1, -1]] * 2
    assert call(candidates=[0], exclude=[0]).tolist() == [[-1, -1]] * 2
    for none in (np.zeros((0, 2)), csr_array((0, 2))):
        assert recommend(Constant([1.0, 2.0]), none, 3, exclude=none).shape == (0, 3)


def test_no_candidates_give_no_recommendations():
    items, scores = recommend(
        Constant([1.0, 2.0]), np.zeros((2, 2)), 2, candidates=[], return_scores=True
    )
    assert items.tolist() == [[-1, -1]] * 2
    assert np.isneginf(scores).all()


def test_repeated_candidates_are_recommended_once():
    items = recommend(Constant([1.0, 2.0, 3.0]), np.zeros((1, 3)), 3, candidates=[1, 2, 1])
    assert items.tolist() == [[2, 1, -1]]


@pytest.mark.parametrize("model", [EASE(), ItemKNN(), WMF(8, max_epochs=1, random_state=0)])
def test_lists_do_not_depend_on_the_number_of_threads(model):
    X = csr_array(np.random.RandomState(0).rand(1300, 90) < 0.1)
    model.fit(X)
    expected = model.recommend(X, 7, return_scores=True)
    alone = [model.recommend(X[u : u + 512], 7) for u in (0, 512, 1024)]
    assert_array_equal(np.concatenate(alone), expected[0])
    for n_threads in (2, 3):
        torch.set_num_threads(n_threads)
        try:
            items, scores = model.recommend(X, 7, return_scores=True)
        finally:
            torch.set_num_threads(1)
        assert_array_equal(items, expected[0])
        assert_array_equal(scores, expected[1])


def test_other_estimators_are_called_by_one_thread():
    called = set()

    class Recording(Constant):
        def predict(self, X):
            called.add(threading.get_ident())
            return super().predict(X)

    torch.set_num_threads(2)
    try:
        recommend(Recording([1.0, 2.0]), np.zeros((2000, 2)), 1)
    finally:
        torch.set_num_threads(1)
    assert called == {threading.get_ident()}


@pytest.mark.parametrize(("n_items", "density"), [(600, 0.2), (600, 0.01)])
def test_sparse_scores_of_many_rows_have_the_bits_of_those_of_one(n_items, density):
    random = np.random.RandomState(0)
    S = csr_array(random.rand(n_items, n_items) * (random.rand(n_items, n_items) < density))
    S.data = S.data.astype(np.float32)
    X = binary_csr(csr_array(random.rand(100, n_items) < 0.05))
    score = sparse_scorer(S)
    rows = torch.cat([score(X[[u]]) for u in range(100)])
    assert torch.equal(score(X), rows)
    assert_array_equal(rows, (X @ S).toarray())


def test_dense_scores_by_columns_have_the_bits_of_the_whole_product():
    random = np.random.RandomState(0)
    x = InteractionBatch.from_csr(binary_csr(csr_array(random.rand(100, 700) < 0.05)))
    B = torch.from_numpy(random.randn(700, 700).astype(np.float32))
    assert len(x.items) > 4 * 700
    assert torch.equal(dense_scores(x, B), x @ B)
