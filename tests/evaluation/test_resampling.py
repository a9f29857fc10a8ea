"""Figures of weighted units are those of the repeated items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_features.errors import InvalidInputError
from sae_features.evaluation.resampling import draw, figure_of, units_of
from sae_features.evaluation.scores import has_all_classes, judged, scores

METRICS = ("accuracy", "macro_f1", "auroc")
quick = settings(deadline=None, max_examples=50)


@st.composite
def predictions(draw):
    """Truth, scores with ties, and groups; every class occurs."""
    n_classes = draw(st.integers(2, 4))
    n = draw(st.integers(n_classes, 15))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    columns = rng.integers(0, 4, (n, n_classes)) / 4 + rng.random((n, 1)) / 8
    return truth, columns, np.concatenate([[0, 1], rng.integers(0, 5, n - 2)])


def by_repetition(truth, columns, metric, weights):
    """The figure of items, each as often as its weight says, by scikit-learn; NaN if undefined."""
    n_classes = columns.shape[1]
    y, p = np.repeat(truth, weights), np.repeat(columns, weights, axis=0)
    if metric == "auroc" and not has_all_classes(y, n_classes):
        return np.nan
    return getattr(scores(y, p.argmax(axis=1), p, n_classes=n_classes), metric)


@quick
@given(predictions(), st.integers(0, 2**32))
def test_groups_by_their_weights(data, seed):
    truth, columns, groups = data
    units = units_of((judged(truth, columns, "auroc", None),), "auroc", groups)
    names = np.unique(groups)
    weights = np.random.default_rng(seed).integers(0, 3, (4, names.size))
    weights[:, 0] += weights.sum(axis=1) == 0
    expected = [
        by_repetition(truth, columns, "auroc", w[np.searchsorted(names, groups)]) for w in weights
    ]
    np.testing.assert_allclose(units.figure(weights), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@quick
@given(data=predictions(), seed=st.integers(0, 2**32))
def test_groups_of_one_kind_stand_once(metric, data, seed):
    truth, columns, groups = data
    doubled = tuple(np.concatenate([each, each]) for each in (truth, columns))
    both = np.concatenate([groups, groups + 100])  # each group twice
    items = (judged(*doubled, metric, None),)
    units = units_of(items, metric, both)
    assert (units.multiplicity % 2 == 0).all()
    weights = np.random.default_rng(seed).integers(0, 3, units.multiplicity.size)
    weights[0] += 1
    one_by_one = units_of((judged(truth, columns, metric, None),), metric, groups)
    np.testing.assert_allclose(
        units.figure(weights[None]), one_by_one.figure(weights[None]), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@quick
@given(data=predictions(), seed=st.integers(0, 2**32))
def test_kinds_of_items_by_their_weights(metric, data, seed):
    truth, columns, _ = data
    items = judged(truth, columns, metric, None)
    units = units_of((items,), metric, None)
    kinds, kind_of, counts = np.unique(
        np.stack([items.truth, items.predicted], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    assert units.multiplicity.tolist() == counts.tolist()
    weights = np.random.default_rng(seed).integers(0, 4, len(kinds))
    weights[0] += 1
    first = [int(np.flatnonzero(kind_of.ravel() == k)[0]) for k in range(len(kinds))]
    expected = by_repetition(truth[first], columns[first], metric, weights)
    assert units.figure(weights[None])[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("with_groups", [False, True])
@quick
@given(data=predictions())
def test_the_figure_of_all_units_is_that_of_all_items(metric, with_groups, data):
    truth, columns, groups = data
    units = units_of((judged(truth, columns, metric, None),), metric, groups if with_groups else None)
    expected = getattr(
        scores(truth, columns.argmax(axis=1), columns, n_classes=columns.shape[1]), metric
    )
    assert figure_of(units) == pytest.approx(expected, abs=1e-12)
    assert units.multiplicity.sum() == (np.unique(groups).size if with_groups else truth.size)


@pytest.mark.parametrize("metric", METRICS)
@quick
@given(data=predictions(), seed=st.integers(0, 2**32))
def test_two_methods_are_subtracted_on_the_same_items(metric, data, seed):
    truth, columns, _ = data
    other = np.random.default_rng(seed).random(columns.shape)
    both = tuple(judged(truth, given, metric, None) for given in (columns, other))
    one, two = (figure_of(units_of((items,), metric, None)) for items in both)
    assert figure_of(units_of(both, metric, None)) == pytest.approx(one - two, abs=1e-12)
    same = units_of((both[0], both[0]), metric, None)
    found = draw(same, 100, np.random.default_rng(0))
    assert np.nanmax(np.abs(found)) <= 1e-12


@quick
@given(predictions())
def test_influence_on_auroc_is_its_derivative(data):
    truth, columns, groups = data
    units = units_of((judged(truth, columns, "auroc", None),), "auroc", groups)
    n = units.multiplicity.size
    step = 1e-6
    rise = (units.figure(1 + step * np.eye(n)) - units.figure(1 - step * np.eye(n))) / (2 * step)
    np.testing.assert_allclose(units.influence, rise, rtol=0, atol=1e-7)


def test_influence_on_counts_is_the_jackknife():
    truth, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    units = units_of((judged(truth, predicted, "macro_f1", 2),), "macro_f1", None)
    whole = scores(truth, predicted, n_classes=2).macro_f1
    for k, left_out in enumerate([0, 2, 3]):  # one item of each kind: right 0, wrong 0, right 1
        rest = np.delete(np.arange(5), left_out)
        without = scores(truth[rest], predicted[rest], n_classes=2).macro_f1
        assert units.influence[k] == pytest.approx(whole - without, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_resamples_are_those_of_items_drawn_one_by_one(metric):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 40)
    columns = rng.random((40, 2)) + 0.3 * np.eye(2)[truth]
    found = draw(units_of((judged(truth, columns, metric, None),), metric, None), 4000, rng)
    one_by_one = [
        by_repetition(truth, columns, metric, np.bincount(rng.integers(0, 40, 40), minlength=40))
        for _ in range(225)
    ]
    assert found.mean() == pytest.approx(np.mean(one_by_one), abs=4 * np.std(one_by_one) / 15)
    assert found.std() == pytest.approx(np.std(one_by_one), rel=0.2)


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_do_not_change_what_is_drawn(metric, monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 50)
    units = units_of((judged(truth, rng.random((50, 3)), metric, None),), metric, None)
    expected = draw(units, 111, np.random.default_rng(7))
    monkeypatch.setattr("sae_features.evaluation.resampling.BLOCK", 500)
    np.testing.assert_array_equal(draw(units, 111, np.random.default_rng(7)), expected)


def test_a_resample_without_a_class_is_undefined():
    items = judged([0, 1], [[0.9, 0.1], [0.2, 0.8]], "auroc", None)
    found = draw(units_of((items,), "auroc", None), 400, np.random.default_rng(0))
    assert 0.4 < np.isnan(found).mean() < 0.6
    assert np.nanmax(found) == np.nanmin(found) == 1


class TestErrors:
    def test_groups(self):
        items = judged([0, 1, 1], [0, 1, 0], "accuracy", 2)
        with pytest.raises(
            InvalidInputError, match=r"^Got groups of shape \(2,\); expected \(3,\), one an item"
        ):
            units_of((items,), "accuracy", ["a", "b"])
        with pytest.raises(
            InvalidInputError, match="^Got 1 group; expected at least 2, of which resamples"
        ):
            units_of((items,), "accuracy", ["a", "a", "a"])

    def test_one_item(self):
        with pytest.raises(InvalidInputError, match="^Got 1 item; expected at least 2"):
            units_of((judged([0], [0], "accuracy", 2),), "accuracy", None)
