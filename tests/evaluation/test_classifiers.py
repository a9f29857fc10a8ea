from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from sae_features import ActivationFeaturizer
from sae_features.errors import InvalidParameterError
from sae_features.evaluation.classifiers import Classifier, classifiers_of, named_choices
from sae_features.evaluation.methods import Method

WORDS = Method("words", "bag_of_words")
STATES = Method("states", "states", ActivationFeaturizer())


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        ("logistic", "C", [0.5, 2.0]),
        ("linear_svc", "C", [0.5, 2.0]),
        ("ridge", "alpha", [2.0, 0.5]),
        ("tree", "max_depth", [2, 4, 8, 16]),
    ],
)
def test_strengths_mean_the_same_for_all_kinds(kind, name, values):
    learner = Classifier(kind, (0.5, 2.0)).learner(WORDS, n_classes=2)
    assert learner.grid[f"classify__{name}"] == values
    assert ("scale" in learner.grid) == (kind != "tree")
    assert dict(learner.steps)["classify"].get_params()[name] == values[0]


def test_only_dense_rows_are_centred():
    sparse, dense = (
        Classifier().learner(method, n_classes=2).grid["scale"] for method in (WORDS, STATES)
    )
    assert [type(scaler) for scaler in sparse] == [MaxAbsScaler, StandardScaler]
    assert (sparse[1].with_mean, dense[1].with_mean) == (False, True)
    one = Classifier(scalings=("none",)).learner(STATES, n_classes=2)
    assert (dict(one.steps)["scale"], list(one.grid)) == ("passthrough", ["classify__C"])
    raw = Method("raw", "states_raw", ActivationFeaturizer(), scalings=("standard",))
    assert dict(Classifier().learner(raw, n_classes=2).steps)["scale"].with_mean is True


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("kind", ["logistic", "linear_svc", "ridge", "tree"])
def test_fits_do_not_depend_on_what_was_drawn_before(kind, n_classes):
    rng = np.random.default_rng(0)
    X, y = sp.csr_matrix(rng.random((30, 60)) * (rng.random((30, 60)) < 0.3)), np.arange(30) % n_classes
    found = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002 what estimators without a seed draw from
        learner = Classifier(kind, (100.0,), ("max_abs",)).learner(WORDS, n_classes=n_classes)
        fitted = Pipeline(learner.steps).fit(X, y)
        found.append(getattr(fitted[-1], "coef_", None))
        if kind == "tree":
            found[-1] = fitted[-1].tree_.threshold
    np.testing.assert_array_equal(*found)


def test_chance_learns_the_shares_of_classes():
    learner = Classifier().learner(Method("chance", "chance"), n_classes=2)
    fitted = Pipeline(learner.steps).fit(["a", "b", "c", "d"], [0, 1, 1, 1])
    np.testing.assert_array_equal(fitted.predict_proba(["e", "f"]), [[0.25, 0.75]] * 2)
    assert learner.grid == {}


def test_what_was_chosen_is_plain():
    assert named_choices({"scale": StandardScaler(), "classify__max_depth": 4}) == {
        "max_depth": 4, "scale": "standard",
    }  # fmt: skip
    assert named_choices({"scale": "passthrough"}) == {"scale": "none"}


def test_what_cannot_be():
    with pytest.raises(
        InvalidParameterError, match="Got classifier='logstic'.* Did you mean 'logistic'?"
    ):
        Classifier("logstic")
    with pytest.raises(InvalidParameterError, match="Got scaling='std'"):
        Classifier(scalings=("std",))
    with pytest.raises(InvalidParameterError, match="Got no strengths; expected at least one."):
        Classifier(strengths=())
    for value in (0, -1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(InvalidParameterError, match="expected numbers above 0"):
            Classifier(strengths=(1.0, value))
    assert [each.strengths for each in classifiers_of(["tree", "ridge"], [3])] == [(3,), (3,)]
