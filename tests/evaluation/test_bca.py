"""Ends of intervals are those that scipy computes of the same resamples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from sae_features.evaluation.bca import Correction, correction_of, ends, p_of_zero
from sae_features.evaluation.resampling import draw, figure_of, units_of
from sae_features.evaluation.scores import judged, scores


def drawn(metric, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1], [60, 20])
    predicted = np.where(rng.random(80) < 0.8, truth, 1 - truth)
    units = units_of((judged(truth, predicted, metric, 2),), metric, None)
    return truth, predicted, units, np.round(draw(units, 1999, rng), 12)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_equal_to_scipy(metric, level):
    truth, predicted, units, figures = drawn(metric)

    def statistic(positions):
        chosen = positions.astype(int)
        return round(getattr(scores(truth[chosen], predicted[chosen], n_classes=2), metric), 12)

    expected = stats.bootstrap(
        (np.arange(80),), statistic, n_resamples=0, method="BCa", confidence_level=level,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=figures), vectorized=False,
    ).confidence_interval  # fmt: skip
    found = ends(figures, correction_of(figures, figure_of(units), units), level)
    assert found == pytest.approx(tuple(expected), abs=1e-12)


def test_without_a_correction_ends_are_quantiles():
    figures = np.random.default_rng(0).random(1000)
    found = ends(figures, Correction(0.0, 0.0), 0.9)
    assert found == pytest.approx(tuple(np.quantile(figures, [0.05, 0.95])), abs=1e-9)


@pytest.mark.parametrize("correction", [Correction(0, 0), Correction(0.3, 0.1), Correction(-0.2, -0.05)])
def test_p_is_the_level_at_which_an_end_is_zero(correction):
    figures = np.random.default_rng(0).normal(0.8, 0.5, 100_000)
    p = p_of_zero(figures, correction)
    assert 0.001 < p < 0.5
    assert min(map(abs, ends(figures, correction, 1 - p))) < 0.005
    assert p_of_zero(-figures, Correction(-correction.bias, -correction.acceleration)) == pytest.approx(
        p
    )


def test_p_is_never_smaller_than_can_be_told():
    figures = np.linspace(0.5, 1, 999)
    assert p_of_zero(figures, Correction(0, 0)) >= 1 / 1000
    assert p_of_zero(figures, Correction(2, 0.1)) >= 1 / 1000
    assert p_of_zero(np.zeros(999), Correction(0, 0)) == 1


def test_a_figure_that_never_varies():
    units = units_of((judged([0, 1, 1], [0, 1, 1], "accuracy", 2),), "accuracy", None)
    correction = correction_of(np.ones(100), 1.0, units)
    assert correction == (0, 0)
    assert ends(np.ones(100), correction, 0.95) == (1, 1)


def test_extreme_corrections_end_at_the_extremes():
    figures = np.linspace(0, 1, 100)
    low, high = ends(figures, Correction(3.0, 0.17), 0.999)
    assert 0 <= low <= high == 1
    low, high = ends(figures, Correction(-3.0, -0.17), 0.999)
    assert low == 0 <= high <= 1
