"""Declarations of parameters: constructors, constraints and the errors of invalid values."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import KW_ONLY, field
from typing import Any, ClassVar, Literal, Optional

import numpy as np
import pytest
import torch
from conftest import naming
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import InvalidParameterError, StrOptions, make_constraint

from skvaecf import MultDAE, _parameters, load
from skvaecf._parameters import (
    NonNegative,
    PositiveInt,
    check_values,
    constraints_of,
    validated,
)
from skvaecf.neural import BaseRecommender

# --- types


def test_annotations_that_cannot_be_evaluated_declare_parameters_without_constraints():
    namespace = {}
    source = (
        "from __future__ import annotations\n"
        "from skvaecf import Popularity\n"
        "class Model(Popularity):\n"
        "    extra: OnlyForTypeCheckers = 3\n"
    )
    exec(compile(source, "<model>", "exec", dont_inherit=True), namespace)
    model = namespace["Model"](extra="any value")
    assert model.get_params() == {"extra": "any value"}
    assert model.fit([[1, 0], [1, 1]]).predict([[1, 0]]).tolist() == [[2, 1]]


def test_constraints_of_each_kind_of_type():
    positive, non_negative = PositiveInt.__metadata__[0], NonNegative.__metadata__[0]
    for hint, expected in [
        # Annotated: the constraints are part of the type.
        (PositiveInt, [positive]),
        (NonNegative, [non_negative]),
        (_parameters.LayerSizes, ["array-like"]),
        (_parameters.RandomState, ["random_state"]),
        (_parameters.Device, [str, torch.device]),
        (bool, ["boolean"]),
        (None | PositiveInt, [None, positive]),
        (Optional[PositiveInt], [positive, None]),  # noqa: UP045
        # A union allows every value if one of its types does.
        (PositiveInt | str, []),
        # Types without constraints.
        (int, []),
        (float, []),
        (Any, []),
        (KW_ONLY, []),
        (ClassVar[PositiveInt], []),
    ]:
        with naming(hint):
            assert constraints_of(hint) == expected
    assert options_of(Literal["a", "b"]) == [{"a", "b"}]
    assert options_of(PositiveInt | Literal["auto"]) == [positive, {"auto"}]


def options_of(hint):
    """Return the constraints of a type, those of literals as sets."""
    constraints = constraints_of(hint)
    return [c.options if isinstance(c, StrOptions) else c for c in constraints]


VALUES_OF_TYPES = {
    "PositiveInt": ((1, 2, np.int64(3)), (0, -1, 1.0, "1", None)),
    "NonNegativeInt": ((0, 1), (-1, 0.5, None)),
    "Positive": ((1e-9, 1, np.float32(0.5)), (0, -0.1, "much", None)),
    "NonNegative": ((0, 0.0, 7), (-0.1, "much", None)),
    "Fraction": ((0.1, 0.9), (0, 1, 1.0, -0.1, None)),
    "Rate": ((0, 0.9), (1, 1.0, -0.1, None)),
    "Probability": ((0, 0.5, 1), (1.1, -0.1, None)),
    "LayerSizes": (((), (3,), [4, 5]), (3, None, "3")),
    "Device": (("cpu", torch.device("cpu")), (3, None)),
    "Precision": (("auto", "float32", "bfloat16"), ("float16", None)),
    "RandomState": ((None, 0, np.random.RandomState(0)), ("seed", -1, 0.5)),
    "Verbose": ((0, 1, True), (-1, "loud", None)),
}


@pytest.mark.parametrize("name", VALUES_OF_TYPES)
def test_values_that_a_type_allows(name):
    constraints = [make_constraint(c) for c in constraints_of(getattr(_parameters, name))]
    valid, invalid = VALUES_OF_TYPES[name]
    for value in valid + invalid:
        with naming(repr(value)):
            allowed = any(constraint.is_satisfied_by(value) for constraint in constraints)
            assert allowed == any(value is each for each in valid)


# --- functions


@validated
def cut(X: Any, size: NonNegative = 0.5, *, how: Literal["head", "tail"] = "head") -> Any:
    """Return the arguments."""
    return X, size, how


def test_arguments_of_a_validated_function():
    assert cut([1]) == ([1], 0.5, "head")
    assert cut(None, 2, how="tail") == (None, 2, "tail")
    assert cut.__name__ == "cut"
    assert cut.__doc__ == "Return the arguments."
    assert list(inspect.signature(cut).parameters) == ["X", "size", "how"]
    message = r"The 'size' parameter of cut must be a float in the range \[0.0, inf\). Got -1 inst"
    with pytest.raises(InvalidParameterError, match=message):
        cut([1], -1)
    with pytest.raises(InvalidParameterError, match="The 'how' parameter of cut must be a str amo"):
        cut([1], how="middle")
    with pytest.raises(TypeError, match="unexpected keyword argument 'where'"):
        cut([1], where=3)


def test_check_values_ignores_names_and_types_without_constraints():
    class Declared:
        size: PositiveInt
        anything: Any
        number: float

    check_values(Declared, {"size": 1, "anything": object(), "number": "three", "other": -1})
    with pytest.raises(InvalidParameterError, match="The 'size' parameter of Declared must be"):
        check_values(Declared, {"size": 0})


# --- recommenders


class Constant(BaseRecommender):
    """Scores every item by one number."""

    value: NonNegative = 1.0
    _: KW_ONLY
    kind: Literal["sum", "mean"] = "sum"
    anything: Any = None
    of_all: ClassVar[int] = 3

    def _fit(self, X):
        self.n_users_ = X.shape[0]

    def _scorer(self):
        return lambda X: torch.full(X.shape, float(self.value))


class Shifted(Constant):
    """Adds a parameter to those of its base class."""

    shift: PositiveInt | None = None

    def _scorer(self):
        return lambda X: torch.full(X.shape, float(self.value + (self.shift or 0)))


class Narrowed(Shifted):
    """Changes a default and the values that are allowed."""

    kind: Literal["mean"] = "mean"


class Unchanged(Narrowed):
    """Declares nothing."""


class OwnConstructor(Constant):
    """Has annotations and a constructor of its own, as estimators of scikit-learn have."""

    shift: NonNegative = 2.0

    def __init__(self, value=7.0, shift=2.0):
        super().__init__(value, kind="mean")
        self.shift = shift


class WithoutAnnotations(BaseRecommender):
    """Is written like an estimator of scikit-learn."""

    _parameter_constraints: ClassVar = {"value": PositiveInt.__metadata__}

    def __init__(self, value=1):
        self.value = value

    def _fit(self, X):
        self.n_users_ = X.shape[0]

    def _scorer(self):
        return lambda X: torch.full(X.shape, float(self.value))


class DeepDAE(MultDAE):
    """Adds a parameter to those of a model with a network."""

    depth: PositiveInt = 2


ROWS = np.eye(4, 3) + np.eye(4, 3, -1)  # no row is empty


def test_the_constructor_has_the_declared_parameters():
    model = Constant(3.0, kind="mean")
    assert model.get_params() == {"value": 3.0, "kind": "mean", "anything": None}
    assert_array_equal(model.fit(ROWS).predict(ROWS), np.full((4, 3), 3.0))
    with pytest.raises(TypeError, match="positional argument"):
        Constant(3.0, "mean")  # a keyword, as it is declared after KW_ONLY
    with pytest.raises(TypeError, match="unexpected keyword argument 'of_all'"):
        Constant(of_all=4)


def test_parameters_of_a_subclass_follow_those_of_its_base():
    assert list(inspect.signature(Shifted).parameters) == ["value", "shift", "kind", "anything"]
    assert_array_equal(Shifted(2.0, 5).fit(ROWS).predict(ROWS), np.full((4, 3), 7.0))
    assert Narrowed().kind == Unchanged().kind == "mean"
    assert Shifted().kind == "sum"
    assert inspect.signature(Unchanged) == inspect.signature(Narrowed)


def test_invalid_values_are_refused_with_the_text_of_scikit_learn():
    number = r"must be a float in the range \[0.0, inf\). Got -1 instead."
    for model, message in {
        Constant(-1): f"The 'value' parameter of Constant {number}",
        Shifted(-1): f"The 'value' parameter of Shifted {number}",
        Shifted(shift=0): r"The 'shift' parameter of Shifted must be an int in the range \[1, inf",
        Constant(kind="max"): "The 'kind' parameter of Constant must be a str among .*'max' inst",
        Narrowed(kind="sum"): "The 'kind' parameter of Narrowed must be a str among {'mean'}",
        Unchanged(kind="sum"): "The 'kind' parameter of Unchanged must be a str among {'mean'}",
        OwnConstructor(-1): f"The 'value' parameter of OwnConstructor {number}",
        OwnConstructor(shift=-1): f"The 'shift' parameter of OwnConstructor {number}",
        WithoutAnnotations(0): "The 'value' parameter of WithoutAnnotations must be an int in the",
        DeepDAE(depth=0): "The 'depth' parameter of DeepDAE must be an int in the range",
        DeepDAE(n_components=0): "The 'n_components' parameter of DeepDAE must be an int in the",
        DeepDAE(max_epochs=0): "The 'max_epochs' parameter of DeepDAE must be an int in the range",
        Constant(True): "The 'value' parameter of Constant must be a number. Got True instead",
    }.items():
        with naming(model), pytest.raises(InvalidParameterError, match=message):
            model.fit(ROWS)
    # No other value of these parameters is refused.
    Constant(anything=object()).fit(ROWS)
    Shifted(shift=None).fit(ROWS)


@pytest.mark.parametrize(
    "model",
    [
        Constant(2.0, anything=[1]),
        Shifted(2.0, 3),
        Narrowed(2.0),
        Unchanged(2.0),
        OwnConstructor(2.0, 1.0),
        WithoutAnnotations(2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_custom_recommenders_are_estimators_of_scikit_learn(model):
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert copied is not model
    assert repr(copied) == repr(model)
    assert hash(copied) != hash(model)  # two models are equal only if they are the same object
    fitted = copied.fit(ROWS)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(ROWS), fitted.predict(ROWS))
    search = GridSearchCV(model, {"value": [1, 2]}, cv=2, scoring=lambda model, X: model.value)
    assert search.fit(ROWS).best_params_ == {"value": 2}


def test_a_constructor_in_the_class_is_used():
    assert OwnConstructor().get_params() == {"value": 7.0, "shift": 2.0}
    assert OwnConstructor().kind == "mean"
    assert WithoutAnnotations(5).value == 5


def test_a_subclass_of_a_neural_model(X):
    assert "depth" in inspect.signature(DeepDAE).parameters
    model = DeepDAE(4, depth=3, encoder_layer_sizes=(), max_epochs=1, random_state=0).fit(X)
    assert model.get_params()["depth"] == 3
    usual = MultDAE(4, encoder_layer_sizes=(), max_epochs=1, random_state=0).fit(X)
    assert_array_equal(model.predict(X), usual.predict(X))
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), usual.predict(X))


def test_fitted_attributes_may_be_annotated(tmp_path):
    class Counting(Constant):
        n_users_: int = field(init=False)

    assert "n_users_" not in inspect.signature(Counting).parameters
    assert not hasattr(Counting(), "n_users_")
    assert Counting().fit(ROWS).n_users_ == 4
    with pytest.raises(ValueError, match="Counting"):
        Counting().fit(ROWS).save(tmp_path / "model")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "model")
