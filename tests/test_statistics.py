"""Statistics of the data, and the parameters that are computed from them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import NEURAL_RECOMMENDERS, make, make_short
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array, vstack
from sklearn.base import clone

import skvaecf
from skvaecf import EASE, SLIM, WMF, ItemKNN
from skvaecf._statistics import number_of_components, structure
from skvaecf.datasets import make_interactions


def rows(dense):
    return csr_array(np.asarray(dense, dtype=np.float32))


def brute_force(X):
    """Write the formula of the docstring over all pairs of items."""
    X = X.toarray().astype(np.float64)
    n, c = X.sum(axis=1), X.sum(axis=0)
    G = X.T @ X
    E = np.outer(c, c) * (n * (n - 1)).sum() / n.sum() ** 2
    pairs = ~np.eye(len(c), dtype=bool)
    lift = (G**2 - G)[pairs].sum() / (E**2)[pairs].sum()
    return ((n**2).sum() / n.sum()) ** (2 / 3) * lift


def test_structure_by_hand():
    # G_12 = 2, G_23 = 1, G_13 = 0; counts 2, 3, 1; all users have 2 items.
    # The sum of G^2 - G is 2 (4 - 2) = 4, that of E^2 is 2 (1 + 1/4 + 1/9).
    X = rows([[1, 1, 0], [1, 1, 0], [0, 1, 1]])
    assert structure(X) == pytest.approx(2 ** (2 / 3) * 4 / (2 * (1 + 1 / 4 + 1 / 9)))


def test_structure_is_the_formula_over_pairs_of_items():
    X = csr_array(make_interactions(700, 60, n_blocks=3, noise=0.3, random_state=0))
    assert structure(X) == pytest.approx(brute_force(X), rel=1e-6)


def test_the_lift_is_one_where_only_popularity_counts():
    # Poisson draws in proportion to the items' counts, few enough that no item is drawn twice.
    random = np.random.default_rng(0)
    p = random.dirichlet(np.full(2000, 5.0))
    X = rows(random.poisson(p * 20, size=(3000, 2000)) > 0)
    n = X.sum(axis=1)
    typical = ((n**2).sum() / n.sum()) ** (2 / 3)
    assert structure(X) == pytest.approx(typical, rel=0.1)
    blocks = csr_array(make_interactions(3000, 200, n_blocks=4, noise=0.1, random_state=0))
    n = blocks.sum(axis=1)
    assert structure(blocks) > 1.5 * ((n**2).sum() / n.sum()) ** (2 / 3)


@pytest.mark.parametrize("n_users", [8_000, 50_000])
def test_a_sample_of_many_users_is_enough(n_users):
    X = csr_array(make_interactions(n_users, 60, n_blocks=3, noise=0.3, random_state=0))
    assert structure(X) == pytest.approx(brute_force(X), rel=0.1)


@pytest.mark.parametrize("X", [np.zeros((3, 4)), np.ones((1, 4)), np.ones((4, 1)), np.eye(5)])
def test_structure_of_data_that_do_not_tell(X):
    assert 0 < structure(rows(X)) < np.inf


# --- parameters with the value "auto"

AUTO = {
    "AWAE": ("l2",),
    "EASE": ("l2",),
    "HVampVAE": ("l2",),
    "ItemKNN": ("shrinkage",),
    "MultDAE": ("l2",),
    "MultVAE": ("l2",),
    "RecVAE": ("l2",),
    "SIVAERecommender": ("l2",),
    "SLIM": ("l1", "l2"),
    "VAEGANRecommender": ("l2",),
    "WMF": ("l2", "unobserved_weight"),
}


def make_auto(name):
    return make(name, **dict.fromkeys(AUTO[name], "auto"))


@pytest.mark.parametrize("name", AUTO)
def test_auto_is_the_value_in_the_fitted_attribute(name, X):
    model = make_auto(name).fit(X)
    values = {parameter: getattr(model, f"{parameter}_") for parameter in AUTO[name]}
    assert all(isinstance(value, float) and value > 0 for value in values.values())
    given = clone(model).set_params(**values).fit(X)
    assert {parameter: getattr(given, f"{parameter}_") for parameter in AUTO[name]} == values
    assert_array_equal(given.predict(X), model.predict(X))


@pytest.mark.parametrize("name", AUTO)
def test_auto_follows_the_data_and_not_the_parameters_of_later(name, X, tmp_path):
    model = make_auto(name).fit(X)
    before = model.predict(X)
    values = {parameter: getattr(model, f"{parameter}_") for parameter in AUTO[name]}
    model.save(tmp_path / "model")
    loaded = skvaecf.load(tmp_path / "model")
    assert {parameter: getattr(loaded, f"{parameter}_") for parameter in AUTO[name]} == values
    assert clone(loaded).get_params() == clone(model).get_params()  # still "auto"
    model.set_params(**dict.fromkeys(AUTO[name], 0.5))
    assert_array_equal(model.predict(X), before)
    other = make_auto(name).fit(X[:20])
    assert {parameter: getattr(other, f"{parameter}_") for parameter in AUTO[name]} != values


def test_the_formulas(X):
    n_users, n_items = X.shape
    S = structure(csr_array(X, dtype=np.float32))
    assert EASE().fit(X).l2_ == pytest.approx(1300 * n_users**0.25 / S)
    wmf = WMF(4, random_state=0).fit(X)
    assert wmf.unobserved_weight_ == pytest.approx(n_items**0.25 * X.nnz / (n_users * n_items))
    n = X.sum(axis=1)
    n_bar = (n**2).sum() / n.sum()
    rho = S / n_bar ** (2 / 3)
    assert wmf.l2_ == pytest.approx(min(2.75 / (X.nnz**0.25 * (n_bar * rho) ** 0.5), 0.1))
    c = X.sum(axis=0)
    users_of_item = (c**2).sum() / c.sum()
    knn = ItemKNN(weighting=None).fit(X)
    h = min((500 / (S * users_of_item ** (2 / 3))) ** 3, 1000)
    assert knn.shrinkage_ == pytest.approx(h)
    assert knn.n_neighbors_ == int(150 * h**0.25) > 200
    dense = ItemKNN(shrinkage=0.0).fit(X)
    assert dense.n_neighbors_ == 200
    assert ItemKNN(7).fit(X).n_neighbors_ == 7
    slim = SLIM().fit(X)
    assert slim.l1_ == pytest.approx(0.15 * users_of_item**0.5)
    assert slim.l2_ == pytest.approx(500 * n_users**0.25 / S)


def test_number_of_components_by_hand():
    expected = {(450, 7500): 128, (12_092, 10_000): 367, (24_000, 41_000): 400}
    assert {shape: number_of_components("auto", *shape, 128) for shape in expected} == expected
    assert number_of_components("auto", 450, 7500, 200) == 200
    assert number_of_components(7, 24_000, 41_000, 128) == 7


@pytest.mark.parametrize(
    ("name", "least"),
    [("MultVAE", 200), ("SIVAERecommender", 200), ("VAEGANRecommender", 200), ("WMF", 128)],
)
def test_number_of_components_is_in_the_fitted_attribute(name, least, X):
    model = make_short(name, n_components="auto").fit(X)
    assert model.n_components_ == model.transform(X).shape[1] == least
    given = make_short(name, n_components=least).fit(X)
    assert_array_equal(given.predict(X), model.predict(X))
    assert make_short(name, n_components=5).fit(X).n_components_ == 5


def test_the_formulas_of_the_autoencoders(X):
    S = structure(csr_array(X, dtype=np.float32))
    factors = {"MultDAE": 1.25, "VAEGANRecommender": 0.65}
    for name in set(AUTO) & set(NEURAL_RECOMMENDERS):
        # All users are training users.
        model = make_short(name, l2="auto", early_stopping=False).fit(X)
        l2 = factors.get(name, 0.45) * X.nnz ** (1 / 3) / S
        assert model.l2_ == pytest.approx(l2), name


def test_two_copies_of_the_users_and_weights_of_two_have_the_same_penalty(X):
    n_users = X.shape[0]
    model = make_short("MultVAE", l2="auto", early_stopping=False)
    weighted = model.fit(X, sample_weight=np.full(n_users, 2.0)).l2_
    repeated = model.fit(vstack([X, X])).l2_
    assert weighted == pytest.approx(repeated, rel=1e-6)


def test_auto_of_wmf_does_not_depend_on_the_unit_of_the_weights(X):
    # With every weight multiplied by 3, the same penalty is 3^(1 - nu) times as large.
    for exponent in (0.0, 0.5, 1.0):
        settings = {"frequency_exponent": exponent, "random_state": 0, "tol": 0}
        one, three = (WMF(4, confidence=c, **settings).fit(X) for c in (1.0, 3.0))
        assert three.unobserved_weight_ == pytest.approx(3 * one.unobserved_weight_)
        assert three.l2_ == pytest.approx(3 ** (1 - exponent) * one.l2_)
        np.testing.assert_allclose(three.predict(X), one.predict(X), atol=1e-3)
