"""Rules are the paths of a tree, and what they say of items is counted here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.tree import DecisionTreeClassifier

from sae_features import SAEFeaturizer
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.latent_names import latent_labels
from sae_features.evaluation.rules import Condition, decision_rules, latent_rules

MOVIES = ["a moving film", "a dull film", "moving and wise", "dull and empty"]


def data(n=200, width=10, seed=0):
    """Features, and classes that latents 2 and 5 decide by: both, one, none."""
    generator = np.random.default_rng(seed)
    X = generator.random((n, width)) * (generator.random((n, width)) < 0.4)
    X[:, 9] = 0
    X[:, 8] = 1
    y = np.where(X[:, 2] > 0, np.where(X[:, 5] > 0, "refund", "praise"), "other")
    return sp.csr_matrix(X.astype(np.float32)), y


def holding(rule, X, threshold=0.0):
    """Which items a rule's conditions hold for."""
    fires = X.toarray() > threshold
    held = np.ones(X.shape[0], bool)
    for condition in rule.conditions:
        held &= fires[:, condition.latent] == condition.fires
    return held


def test_rules_that_data_obey_are_found():
    X, y = data()
    rules = decision_rules(X, y, {2: "money back", 5: "angry"})
    expected = {
        'if "money back" (latent 2) does not fire -> other': (y == "other").sum(),
        'if "money back" (latent 2) fires and "angry" (latent 5) does not fire -> praise': (
            y == "praise"
        ).sum(),
        'if "money back" (latent 2) fires and "angry" (latent 5) fires -> refund': (y == "refund").sum(),
    }
    by_support = sorted(expected.items(), key=lambda pair: -pair[1])
    assert str(rules).splitlines() == [f"{text} (n={n}, purity 1.00)" for text, n in by_support]


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_support_and_purity_are_counted(threshold):
    X, _ = data()
    y = np.random.default_rng(3).integers(0, 3, 200)
    rules = decision_rules(X, y, threshold=threshold, max_depth=4, min_items=3)
    assert len(rules) > 4
    covered = np.zeros(200, int)
    for rule in rules:
        held = holding(rule, X, threshold)
        covered += held
        assert rule.n == held.sum() >= 3
        assert rule.purity == pytest.approx(np.mean(y[held] == rule.prediction))
        assert (rules.predict(X)[held] == rule.prediction).all()
        assert len(rule.conditions) <= 4
        flags = [condition.fires for condition in rule.conditions]
        assert flags == sorted(flags, reverse=True)  # what fires comes first
    assert (covered == 1).all()
    supports = [rule.n for rule in rules]
    assert supports == sorted(supports, reverse=True)


def test_they_are_the_same_each_time_and_of_dense_rows():
    X, y = data(seed=5)
    assert (
        str(decision_rules(X, y))
        == str(decision_rules(X.toarray(), y))
        == str(decision_rules(sp.csc_array(X), y))
    )


def test_held_out_items():
    (X, y), (other, _) = data(), data(seed=1)
    truth = np.where(np.arange(200) % 4 == 0, "other", data(seed=1)[1])
    rules = decision_rules(X, y)
    measured = rules.on(other, truth)
    assert sorted(rule.leaf for rule in measured) == sorted(rule.leaf for rule in rules)
    for rule in measured:
        held = holding(rule, other)
        assert rule.n == held.sum()
        assert rule.purity == pytest.approx(np.mean(truth[held] == rule.prediction))
    silent = other[:, [2]].toarray().ravel() == 0
    first, *rest = rules.on(other[silent], truth[silent])
    assert first.n == silent.sum()
    assert [rule.n for rule in rest] == [0, 0]
    assert all(math.isnan(rule.purity) for rule in rest)
    assert str(rest[0]).endswith("(n=0, purity nan)")


def test_numbers_of_selected_latents():
    X, y = data()
    kept = [2, 5, 7]
    names = ["money back (latent_2)", "latent_5", "rain"]
    rules = decision_rules(X[:, kept], y, names, latents=kept)
    assert str(rules) == str(decision_rules(X, y, {2: "money back"}))
    assert {c.latent for rule in rules for c in rule.conditions} == {2, 5}


def test_another_tree():
    X, y = data()
    rules = decision_rules(X, y, tree=DecisionTreeClassifier(max_leaf_nodes=2, random_state=1))
    assert len(rules) == 2
    assert rules[0].conditions == (Condition(2, None, False),)


def test_labels_of_the_default_sae():
    featurizer = SAEFeaturizer(feature_names="label")
    y = ["good", "bad", "good", "bad"]
    rules = latent_rules(featurizer, MOVIES, y, min_items=1, max_depth=1)
    assert [rule.purity for rule in rules] == [1, 1]
    (condition,) = rules[0].conditions
    labels = latent_labels(featurizer)
    assert condition.label == labels.get(condition.latent)
    assert rules.predict(featurizer.transform(MOVIES)).tolist() == y
    names = featurizer.get_feature_names_out()
    by_names = decision_rules(featurizer.transform(MOVIES), y, names, min_items=1, max_depth=1)
    assert str(by_names) == str(rules)


def test_wrong_arguments():
    X, y = data()
    with pytest.raises(
        InvalidInputError, match=r"^Got 200 items and 199 classes; expected one class each"
    ):
        decision_rules(X, y[1:])
    with pytest.raises(
        InvalidInputError, match=r"^Got y with one class, .*other.*; expected at least two"
    ):
        decision_rules(X[:3], ["other"] * 3)
    with pytest.raises(InvalidParameterError, match=r"^Got 2 names; expected 10, one for each column"):
        decision_rules(X, y, ["a", "b"])
    with pytest.raises(InvalidParameterError, match=r"^Got latents of shape \(2,\); expected \(10,\)"):
        decision_rules(X, y, latents=[1, 2])
    with pytest.raises(InvalidParameterError, match=r"^Got threshold=-1; expected a number >= 0"):
        decision_rules(X, y, threshold=-1)
    with pytest.raises(InvalidParameterError, match=r"^Got max_depth=0; "):
        decision_rules(X, y, max_depth=0)
    with pytest.raises(
        InvalidInputError, match=r"^Got no latent that fires for some items and not for o"
    ):
        decision_rules(X[:, [8, 9]], y)
