"""What rows have in common, and how messages name them."""

from __future__ import annotations

import numpy as np
import pytest

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.cells import (
    FOLD,
    TASK,
    Task,
    check_unit,
    described,
    figure_in,
    grouped_by,
    task_of,
    unit_means,
    without_controls,
)


def test_the_task_of_a_row():
    row = {"protocol": "cross_lingual", "dataset": "hate", "train_on": "en", "test_on": "de", "fold": 3}
    assert task_of(row) == Task("cross_lingual", "hate", "en", "de", None)
    assert TASK == ("protocol", "dataset", "train_on", "test_on", "setting")


def test_descriptions_leave_out_what_says_nothing():
    assert (
        described(FOLD, ("sweep", "a", "a", "a", None, 0, 1))
        == "protocol='sweep', dataset='a', seed=0, fold=1"
    )
    transfer = described(FOLD, ("cross_lingual", "hate", "en", "de", "zero_shot", 0, 0))
    assert "train_on='en', test_on='de', setting='zero_shot'" in transfer


def test_rows_of_controls_are_left_out():
    rows = [{"control": "none"}, {"control": "permuted"}, {"control": None}, {}]
    assert without_controls(rows) == [rows[0], rows[2], rows[3]]
    with pytest.raises(InvalidInputError, match="^Got no rows but controls; "):
        without_controls(rows[1:2])


def test_figures():
    assert figure_in({"auroc": 1}, "auroc") == 1.0
    assert figure_in({"auroc": None}, "auroc") is None
    assert figure_in({"auroc": np.nan}, "auroc") is None
    message = (
        r"^Got a row without 'auroc' \(method='sae', dataset='a', fold=2\); expected rows of results"
    )
    with pytest.raises(InvalidInputError, match=message):
        figure_in({"method": "sae", "dataset": "a", "fold": 2}, "auroc")


def test_groups_keep_the_order():
    rows = [{"a": 2, "i": 0}, {"a": 1, "i": 1}, {"a": 2, "i": 2}, {"i": 3}]
    groups = grouped_by(rows, ("a",))
    assert [(key, [row["i"] for row in group]) for key, group in groups.items()] == [
        ((2,), [0, 2]), ((1,), [1]), ((None,), [3]),
    ]  # fmt: skip


def test_units_are_tasks_or_means_of_them():
    tasks = [Task("t", "d", a, b, None) for a in "xyz" for b in "xyz"]
    values = [(task, float(i)) for i, task in enumerate(tasks)]
    assert unit_means(values, TASK) == list(range(9))
    assert unit_means(values, ("train_on",)) == [1, 4, 7]
    assert unit_means(values, ("test_on",)) == [3, 4, 5]


@pytest.mark.parametrize("unit", [(), "dataset", ("method",)])
def test_units_that_cannot_be(unit):
    with pytest.raises(InvalidParameterError, match="^Got unit="):
        check_unit(unit)
