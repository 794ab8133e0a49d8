"""Users in chunks, new items and users who return: partial_fit compared with fit."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import RECOMMENDERS, make
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import skvaecf
from skvaecf import EASE, SLIM, WMF, InteractionEncoder, ItemKNN, Popularity
from skvaecf._statistics import structure, structure_of_gram
from skvaecf.datasets import make_interactions

GRAM_MODELS = {
    "EASE": EASE(),
    "EASE, all parameters": EASE(
        20.0, user_exponent=0.3, item_exponent=0.2, dropout=0.2, relaxation=0.1
    ),
    "EASE, weighted users": EASE(user_exponent=0.5),
    "ItemKNN": ItemKNN(15),
    "ItemKNN, bm25": ItemKNN(15, weighting="bm25"),
    "ItemKNN, Jaccard": ItemKNN(15, weighting=None, metric="jaccard", shrinkage=3.0),
    "SLIM": SLIM(),
    "SLIM, signed": SLIM(0.5, 9.0, nonnegative=False),
}
EXACT = GRAM_MODELS | {"Popularity": Popularity()}


@pytest.fixture(scope="module")
def X():
    return make_interactions(300, 50, n_blocks=3, noise=0.2, random_state=0)


@pytest.fixture(scope="module")
def fitted(X):
    return {name: clone(model).fit(X) for name, model in EXACT.items()}


@pytest.fixture(params=EXACT)
def exact(request):
    return request.param


@pytest.fixture(params=GRAM_MODELS)
def gram_model(request):
    return request.param


def assert_equal_models(model, expected, X):
    """Equal up to the rounding of float32, parameters that follow the data included."""
    scores = expected.predict(X)
    assert_allclose(model.predict(X), scores, rtol=0, atol=1e-6 * np.abs(scores).max())
    assert_array_equal(model.item_counts_, expected.item_counts_)
    for name in ("l1_", "l2_", "shrinkage_"):
        assert hasattr(model, name) == hasattr(expected, name)
        if hasattr(model, name):
            assert getattr(model, name) == pytest.approx(getattr(expected, name), rel=1e-6)


# --- chunks of users


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("sizes", [[300], [1, 299], [100, 0, 57, 143], [30] * 10])
def test_chunks_of_users_equal_one_fit(exact, sizes, seed, fitted, X):
    rows = np.arange(300) if seed is None else np.random.RandomState(seed).permutation(300)
    model = clone(EXACT[exact])
    later = {} if exact == "Popularity" else {"solve": False}
    *first, last = [part for part in np.split(rows, np.cumsum(sizes)[:-1]) if len(part)]
    for part in first:
        model.partial_fit(X[part], **later)
    assert_equal_models(model.partial_fit(X[last]), fitted[exact], X)


def test_every_call_gives_a_fitted_model(gram_model, X):
    model = clone(GRAM_MODELS[gram_model])
    for stop in (100, 101, 300):
        start = int(model._sums["n_users"]) if hasattr(model, "_sums") else 0
        model.partial_fit(X[start:stop])
        assert_equal_models(model, clone(model).fit(X[:stop]), X)


def test_fit_then_partial_fit(exact, fitted, X):
    model = clone(EXACT[exact]).fit(X[:170]).partial_fit(X[170:])
    assert_equal_models(model, fitted[exact], X)


def test_rows_of_fit_are_not_kept_beside_the_sums(gram_model, X):
    model = clone(GRAM_MODELS[gram_model]).fit(X[:20])
    assert model._rows[0].shape == (20, 50)
    assert not hasattr(model.partial_fit(X[20:]), "_rows")


def test_users_with_all_items_make_no_neighbours():
    """Their weight log(I / n_u) is 0; sums of its parts leave a rounding error."""
    halves = np.repeat(np.eye(2), 6, axis=0).repeat(6, axis=1)
    for n_full in range(3, 12):
        model = ItemKNN().partial_fit(np.vstack([np.ones((n_full, 12)), halves]))
        assert not model.item_similarity_[:6, 6:].nnz


def test_fit_starts_anew(exact, fitted, X):
    model = clone(EXACT[exact]).partial_fit(X[5:9]).fit(X)
    assert_array_equal(model.predict(X), fitted[exact].predict(X))
    half = clone(EXACT[exact]).fit(X[:150])
    assert_equal_models(model.fit(X[:100]).partial_fit(X[100:150]), half, X)


@pytest.mark.parametrize("rows", [np.asarray, sp.csr_matrix, sp.coo_array])
def test_forms_of_rows(rows, fitted, X):
    model = EASE()
    for part in (X[:100], X[100:]):
        model.partial_fit(rows(part.toarray() * 3))
    assert_equal_models(model, fitted["EASE"], X)


def test_without_solve_the_model_is_not_fitted(gram_model, fitted, X):
    model = clone(GRAM_MODELS[gram_model]).partial_fit(X[:100])
    model.partial_fit(X[100:], solve=False)
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert_equal_models(model.partial_fit(), fitted[gram_model], X)


def test_other_parameters_need_no_rows(X):
    model = EASE(5.0).partial_fit(X)
    assert_equal_models(model.set_params(l2=50.0).partial_fit(), EASE(50.0).fit(X), X)
    knn = ItemKNN(3).partial_fit(X).set_params(n_neighbors=9, metric="jaccard", shrinkage=1.0)
    assert_equal_models(knn.partial_fit(), clone(knn).fit(X), X)


def test_parameters_that_the_sums_depend_on_must_stay(X, unchanged):
    for model, change in (
        (EASE(), {"user_exponent": 0.5}),
        (ItemKNN(), {"weighting": "bm25"}),
        (ItemKNN(weighting=None), {"weighting": "tfidf"}),
    ):
        model.partial_fit(X[:200]).set_params(**change)
        check = unchanged(model)
        with pytest.raises(ValueError, match=f"{next(iter(change))} must be .*, as in the earlier"):
            model.partial_fit(X[200:])
        check()


@pytest.mark.parametrize("copy", ["pickle", "file"])
def test_copies_between_chunks_go_on(exact, copy, fitted, X, tmp_path):
    model = clone(EXACT[exact])
    for part in (X[:100], X[100:200], X[200:]):
        model.partial_fit(part)
        if copy == "pickle":
            model = pickle.loads(pickle.dumps(model))
        else:
            model.save(tmp_path / "model")
            model = skvaecf.load(tmp_path / "model")
    assert_equal_models(model, fitted[exact], X)


def test_sums_without_weights_can_be_pickled(gram_model, fitted, X):
    model = clone(GRAM_MODELS[gram_model]).partial_fit(X[:100], solve=False)
    model = pickle.loads(pickle.dumps(model)).partial_fit(X[100:])
    assert_equal_models(model, fitted[gram_model], X)


def test_files_of_fit_hold_no_rows(gram_model, fitted, X):
    loaded = pickle.loads(pickle.dumps(fitted[gram_model]))
    assert not hasattr(loaded, "_rows")
    with pytest.raises(
        ValueError, match="learned by fit and was copied or loaded without the rows"
    ):
        loaded.partial_fit(X)


def test_files_with_sums_that_do_not_fit_are_refused(X, tmp_path):
    def refused(model, **changes):
        model.partial_fit(X)._sums |= changes
        model.save(tmp_path / "model")
        with pytest.raises(ValueError, match="model cannot be loaded"):
            skvaecf.load(tmp_path / "model")

    refused(EASE(5.0), grams=[])
    refused(EASE(5.0), grams=[np.zeros((3, 3))])
    refused(EASE(5.0), n_users=0)
    refused(SLIM(), grams=[sp.csr_array((50, 49))])


def test_structure_of_gram_is_that_of_all_pairs_of_users(X):
    for rows in (X, X[:7], X[:, :1]):
        expected = structure(sp.csr_array(rows))
        gram = sp.csr_array(rows.T @ rows)
        assert structure_of_gram(gram) == pytest.approx(expected, rel=1e-9)
        assert structure_of_gram(gram.toarray()) == pytest.approx(expected, rel=1e-9)


# --- new items, and users who return


@pytest.fixture(scope="module")
def growing(X):
    """The rows of X in another order: those without the last 10 items first, and their number."""
    old = np.diff(X[:, 40:].indptr) == 0
    return X[np.argsort(~old, kind="stable")], int(old.sum())


def test_new_items_are_the_last_columns(exact, growing, fitted):
    X, n_old = growing
    assert 20 < n_old < 280
    model = clone(EXACT[exact]).partial_fit(X[:n_old, :40])
    assert model.predict(X[:2, :40]).shape == (2, 40)
    model.partial_fit(X[n_old:])
    assert_equal_models(model, clone(model).fit(X), X)
    with pytest.raises(ValueError, match=r"X has 40 features, but .* is expecting 50"):
        model.predict(X[:2, :40])


@pytest.mark.parametrize("name", [*EXACT, "WMF"])
def test_fewer_items_are_refused(name, X, unchanged):
    model = (EXACT | {"WMF": WMF(4)})[name]
    model = clone(model).partial_fit(X[:100])
    check = unchanged(model)
    with pytest.raises(ValueError, match=r"X has 49 features, but .* is expecting 50 features"):
        model.partial_fit(X[100:, :49])
    check()


@pytest.mark.parametrize("name", ["EASE", "Popularity", "WMF"])
def test_names_of_the_items(name, X, unchanged):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X.toarray()).add_prefix("i")
    model = make(name).partial_fit(frame.iloc[:100, :40])
    model.partial_fit(frame.iloc[100:])
    assert model.feature_names_in_.tolist() == [f"i{n}" for n in range(50)]
    check = unchanged(model)
    other = frame.rename(columns={"i3": "other"})
    for wider in (other.assign(new=1.0), np.ones((3, 51))):
        with pytest.raises(ValueError, match="must have the names of the items"):
            model.partial_fit(wider)
    with pytest.raises(ValueError, match="feature names should match"):
        model.partial_fit(other)
    check()


def test_rows_of_users_who_return_are_replaced(gram_model, fitted, X):
    r = np.random.RandomState(0)
    half = sp.csr_array((X.data * (r.rand(X.nnz) < 0.5), X.indices, X.indptr), shape=X.shape)
    model = clone(GRAM_MODELS[gram_model]).partial_fit(sp.vstack([X[:200], half[200:]]))
    model.partial_fit(X[200:], X_before=half[200:])
    assert_equal_models(model, fitted[gram_model], X)


def test_users_are_forgotten(gram_model, X):
    model = clone(GRAM_MODELS[gram_model]).partial_fit(X).partial_fit(X_before=X[100:250])
    rest = sp.vstack([X[:100], X[250:]])
    assert_equal_models(model, clone(model).fit(rest), X)


def test_only_rows_that_were_added_are_taken_back(X, unchanged):
    for model in (EASE(5.0), ItemKNN()):
        model.partial_fit(X[:100])
        check = unchanged(model)
        for wrong in (np.ones((2, 50)), X[:101]):
            with pytest.raises(ValueError, match="X_before must hold rows of earlier calls"):
                model.partial_fit(X_before=wrong)
        with pytest.raises(ValueError, match="X_before must have the columns of X"):
            model.partial_fit(np.ones((1, 51)), X_before=X[:1])
        with pytest.raises(ValueError, match="partial_fit needs users"):
            model.partial_fit(X_before=X[:100])
        with pytest.raises(ValueError, match="Negative values in data passed to X_before"):
            model.partial_fit(X[:5], X_before=-X[:5])
        check()


def test_without_users_there_is_nothing_to_solve():
    with pytest.raises(ValueError, match="partial_fit needs users"):
        EASE().partial_fit()


def test_a_failed_call_adds_nothing(unchanged):
    rows = np.eye(5)
    model = EASE(1e-30).partial_fit(rows)
    check, scores = unchanged(model), model.predict(rows)
    with pytest.raises(np.linalg.LinAlgError, match="increase l2"):
        model.partial_fit(np.ones((9, 5)), X_before=rows)  # X'X would have the rank 1
    check()
    assert_array_equal(model.partial_fit().predict(rows), scores)


# --- memory


def test_memory_of_one_chunk_and_the_sums():
    """60 chunks of 50,000 interactions need little more memory than two."""
    r = np.random.RandomState(0)

    def chunk():
        columns = r.randint(300, size=50_000)
        rows = np.repeat(np.arange(1000), 50)
        return sp.csr_array((np.ones(50_000, np.float32), (rows, columns)), shape=(1000, 300))

    def peak(model, n_chunks):
        tracemalloc.start()
        for _ in range(n_chunks):
            model.partial_fit(chunk(), solve=False)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    for model in (EASE(5.0), SLIM(1.0, 5.0)):
        one, many = peak(clone(model), 2), peak(clone(model), 60)
        assert many < 1.5 * one
    assert many < 60 * 8 * 50_000  # all chunks


# --- WMF


def make_wmf(**changes):
    params = {"l2": 0.02, "unobserved_weight": 0.3, "random_state": 0, "max_epochs": 30, "tol": 0.0}
    return WMF(6, **params | changes)


def test_first_partial_fit_of_wmf_is_fit(X):
    assert_array_equal(make_wmf().partial_fit(X).predict(X), make_wmf().fit(X).predict(X))


def test_wmf_minimises_the_objective_of_its_docstring():
    """The items' factors after a call with exact solutions, computed densely in float64."""
    X = make_interactions(120, 20, n_blocks=2, noise=0.2, random_state=0)
    old, new = X[:90, :18], X[90:]
    model = make_wmf(l2=0.05, cg_steps=50, frequency_exponent=0.7, confidence=1.5).fit(old)
    P, Q = model.user_factors_.astype(float), model.item_factors_.astype(float)
    Q = np.vstack([Q, np.zeros((2, 6))])
    a0, alpha, l2, nu = 0.3, 1.5, 0.05, 0.7
    R, w = new.toarray(), np.append(alpha * old.toarray().sum(axis=0), [0, 0])
    C = a0 + alpha * R
    folded_in = np.stack([
        np.linalg.solve(Q.T * c @ Q + l2 * c.sum() ** nu * np.eye(6), Q.T @ (c * x))
        for c, x in zip(C, R, strict=True)
    ])  # fmt: skip
    expected = []
    for i, q in enumerate(Q):
        ridge_of_new = l2 * C[:, i].sum() ** nu * np.eye(6)
        A = folded_in.T * C[:, i] @ folded_in + ridge_of_new
        downhill = folded_in.T @ (C[:, i] * R[:, i]) - A @ q
        hessian = (a0 + w[i] / 90) * P.T @ P + l2 * (90 * a0 + w[i]) ** nu * np.eye(6)
        hessian += w[i] / 90 * folded_in.T @ folded_in  # P'P is that of all users
        expected.append(q + np.linalg.solve(A + hessian, downhill))
    model.partial_fit(new)
    scores = np.vstack([P, folded_in]) @ np.array(expected).T
    assert_allclose(model.user_factors_ @ model.item_factors_.T, scores, rtol=1e-3, atol=1e-4)
    gram = model.item_factors_.T @ model.item_factors_
    assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-4 * gram.max())


def test_wmf_learns_new_items_and_keeps_the_others():
    """Two kinds of users with 8 items each; items 16 and 17 are new items of these kinds."""
    r = np.random.RandomState(0)
    X = np.zeros((120, 18))
    kinds = np.arange(120) % 2
    for row, kind in zip(X, kinds, strict=True):
        row[8 * kind + r.permutation(8)[:5]] = 1
    X[100:, 16:][np.arange(20), kinds[100:]] = 1
    model = make_wmf().fit(X[:100, :16])
    before = model.predict(X[:100, :16])
    for rows in (X[100:105], X[105:]):
        model.partial_fit(rows)
    assert model.recommend(X[:100], 1, candidates=[16, 17])[:, 0].tolist() == [16, 17] * 50
    scores = model.predict(X[:100])
    assert_allclose(scores[:, :16], before, atol=0.2 * before.max())
    assert scores[:, 16:].max() < before.max()
    assert model.user_factors_.shape == (120, 6)
    assert_array_equal(model.item_counts_, X.sum(axis=0))


def test_wmf_with_counts_and_copies(X, tmp_path):
    X = X.copy()
    X.data = np.random.RandomState(0).randint(1, 5, X.nnz).astype(np.float32)
    model = make_wmf(use_values=True).fit(X[:200])
    model.save(tmp_path / "model")
    loaded = skvaecf.load(tmp_path / "model")
    scores = model.partial_fit(X[200:]).predict(X)
    assert_array_equal(loaded.partial_fit(X[200:]).predict(X), scores)
    assert_allclose(model._item_weights, X.sum(axis=0), rtol=1e-6)
    assert np.isfinite(scores).all()


# --- encoders


def test_an_encoder_adds_new_items_at_the_end():
    encoder = InteractionEncoder().fit({"user": ["bo", "al"], "item": ["k", "c"]})
    encoder.partial_fit({"user": ["eve", "al", "al"], "item": ["x", "a", "k"]})
    assert encoder.item_ids_.tolist() == ["c", "k", "a", "x"]
    assert encoder.user_ids_.tolist() == ["al", "eve"]
    encoder.partial_fit({"user": ["al"], "item": ["b"]})
    assert encoder.item_ids_.tolist() == ["c", "k", "a", "x", "b"]
    X = encoder.transform({"user": ["al", "al", "bo"], "item": ["b", "c", "x"]})
    assert X.toarray().tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 1, 0]]
    assert encoder.item_numbers(["x", "b", "z", "c"]).tolist() == [3, 4, -1, 0]


def test_first_partial_fit_of_an_encoder_is_fit():
    log = {"user": [2, 1], "item": [7, 3]}
    encoder = InteractionEncoder().partial_fit(log)
    assert encoder.item_ids_.tolist() == [3, 7]
    assert encoder.user_ids_.tolist() == [1, 2]
    assert encoder.fit({"user": [1], "item": [9]}).item_ids_.tolist() == [9]


@pytest.mark.parametrize("kind", ["numbers", "strings", "dates"])
def test_single_items_of_a_grown_catalogue_are_found(kind, tmp_path):
    """One id of many is found by bisection, in a file, too."""
    numbers = np.random.RandomState(0).permutation(1000)
    ids = {
        "numbers": numbers,
        "strings": np.array([f"item {n}" for n in numbers], dtype=object),
        "dates": numbers.astype("datetime64[D]"),
    }[kind]
    encoder = InteractionEncoder()
    for part in np.split(ids, [400, 401, 950]):
        encoder.partial_fit({"user": np.zeros(len(part), dtype=int), "item": part})
    encoder.save(tmp_path / "encoder")
    for e in (encoder, skvaecf.load(tmp_path / "encoder")):
        assert sorted(e.item_ids_.tolist()) == sorted(ids.tolist())
        for wanted in ids[::37]:
            [number] = e.item_numbers(np.array([wanted]))
            assert e.item_ids_[number] == wanted
        assert e.item_numbers(np.array([3.5])).tolist() == [-1]


def test_ids_of_another_type_are_refused(unchanged):
    encoder = InteractionEncoder().fit({"user": [1, 1], "item": [7, 3]})
    check = unchanged(encoder)
    with pytest.raises(ValueError, match="'item' must hold ids of the type of the known items"):
        encoder.partial_fit({"user": [1], "item": ["a"]})
    with pytest.raises(ValueError, match="no rows"):
        encoder.partial_fit({"user": [], "item": []})
    check()


def test_a_file_with_a_wrong_order_of_ids_is_refused(tmp_path):
    for order in ([0, 0, 2], [1, 0, 2], [0, 1]):
        encoder = InteractionEncoder().fit({"user": [1, 1, 1], "item": [7, 3, 5]})
        encoder._by_id = np.array(order)
        encoder.save(tmp_path / "encoder")
        with pytest.raises(ValueError, match="cannot be loaded"):
            skvaecf.load(tmp_path / "encoder")


@pytest.mark.parametrize("name", ["EASE", "ItemKNN", "SLIM", "WMF", "Popularity"])
def test_a_model_and_its_encoder_grow_together(name):
    r = np.random.RandomState(0)
    days = [{"user": r.randint(20, size=99), "item": r.randint(n, size=99)} for n in (9, 12, 30)]
    encoder, model = InteractionEncoder(), make(name)
    for day in days:
        model.partial_fit(encoder.partial_fit(day).transform(day))
    row = encoder.transform({"user": [0], "item": [25]})
    assert model.recommend(row, 3).shape == (1, 3)
    other = InteractionEncoder().fit(days[0])
    with pytest.warns(UserWarning, match="unknown from fit"):
        narrow = other.transform(days[2])
    with pytest.raises(ValueError, match=f"features, but {name} is expecting"):
        model.recommend(narrow)


def test_the_recommenders_with_partial_fit():
    found = [name for name in RECOMMENDERS if hasattr(make(name), "partial_fit")]
    assert found == sorted(set(RECOMMENDERS) - {"CDAE", "CFGAN", "IRGAN"})
