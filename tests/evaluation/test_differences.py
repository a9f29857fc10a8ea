"""Differences over units, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sae_features.evaluation.cells import TASK, Task
from sae_features.evaluation.differences import over_units


def tasks(n):
    return [Task("sweep", f"d{i}", f"d{i}", f"d{i}", None) for i in range(n)]


def test_over_tasks():
    d = np.random.default_rng(0).normal(0.02, 0.05, 20)
    d[3] = 0
    found = over_units(zip(tasks(20), d.tolist(), strict=True), TASK, 0.9)
    assert found.difference == pytest.approx(d.mean())
    assert found.error == pytest.approx(stats.sem(d))
    assert (found.low, found.high) == pytest.approx(stats.t(19, d.mean(), stats.sem(d)).interval(0.9))
    assert (found.wins, found.ties, found.losses) == ((d > 0).sum(), 1, (d < 0).sum())
    assert found.p == pytest.approx(stats.wilcoxon(d, zero_method="pratt", method="asymptotic").pvalue)
    assert found.p_method == "normal"


def test_dependent_tasks_count_as_one_unit():
    matrix = [Task("cross_lingual", "hate", a, b, None) for a in "xyz" for b in "xyz"]
    values = [0.1 if task.test_on == "x" else 0.2 if task.test_on == "y" else 0.3 for task in matrix]
    found = over_units(zip(matrix, values, strict=True), ("test_on",), 0.95)
    assert (found.n_units, found.wins, found.p) == (3, 3, 0.25)
    assert over_units(zip(matrix, values, strict=True), TASK, 0.95).p < 0.01


def test_one_unit_has_no_interval():
    found = over_units([(tasks(1)[0], 0.1)], TASK, 0.95)
    assert (found.n_units, found.difference, found.error, found.low, found.high) == (
        1,
        0.1,
        None,
        None,
        None,
    )
    assert found.p == 1


def test_equal_differences_have_no_interval_but_ranks():
    found = over_units([(task, 0.1) for task in tasks(6)], TASK, 0.95)
    assert (found.error, found.low, found.high) == (0, None, None)
    assert found.p == pytest.approx(2 / 2**6)


def test_rounding_is_no_win():
    found = over_units([(tasks(1)[0], 0.1 + 0.2 - 0.3)], TASK, 0.95)
    assert (found.wins, found.ties, found.losses) == (0, 1, 0)
