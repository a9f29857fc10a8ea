"""Cells are kept, found again and computed, each once; the sums are made up."""

from __future__ import annotations

import numpy as np
import pytest

from sae_features.evaluation.classifiers import Classifier
from sae_features.evaluation.methods import Method
from sae_features.evaluation.results import Predictions, cell_file, key_of, read_cell
from sae_features.evaluation.tasks import Task, run_tasks

ITEMS = ["a", "b", "c"]


class Computed:
    """Counts what is computed; stops where it is told to."""

    def __init__(self):
        self.keys = []
        self.stop_before = None

    def __call__(self, learner, X, columns, *, add):
        if columns["cell"] == self.stop_before:
            raise KeyboardInterrupt
        self.keys.append(columns["cell"])
        assert X == ITEMS
        row = columns | {"n_test": len(X) + add}
        return [row], [Predictions(np.arange(3), np.arange(3), np.eye(3, dtype=np.float32))]


@pytest.fixture
def tasks():
    methods = [Method(name, "bag_of_words") for name in ("one", "two")]
    return [
        Task(key_of({"method": method.name, "n": n}), method, Classifier(), {"n_classes": 3, "n": n})
        for n in range(2)
        for method in methods
    ]


def run(tasks, compute, folder):
    methods = list({task.method.name: task.method for task in tasks}.values())
    return run_tasks(
        tasks, methods, ITEMS, compute, arguments={"add": 4}, title="cells", folder=folder, n_jobs=1,
        is_shown=False,
    )  # fmt: skip


def test_cells_come_in_order_with_what_their_method_is(tasks, tmp_path):
    compute = Computed()
    cells = run(tasks, compute, tmp_path)
    assert [cell.key for cell in cells] == [task.key for task in tasks]
    assert sorted(compute.keys) == sorted(task.key for task in tasks)
    assert cells[1].rows == [
        {
            "method": "two", "kind": "bag_of_words", "width": None, "active": None, "n": 0,
            "n_classes": 3, "classifier": "logistic", "cell": tasks[1].key, "n_test": 7,
        }
    ]  # fmt: skip


def test_what_is_kept_is_not_computed_again(tasks, tmp_path):
    compute = Computed()
    first = run(tasks[:3], compute, tmp_path)
    compute.keys.clear()
    second = run(tasks, compute, tmp_path)
    assert compute.keys == [tasks[3].key]
    assert [cell.rows for cell in second[:3]] == [cell.rows for cell in first]
    path = cell_file(tmp_path, tasks[1].key)
    path.write_bytes(path.read_bytes()[:-30])
    compute.keys.clear()
    third = run(tasks, compute, tmp_path)
    assert compute.keys == [tasks[1].key]
    assert [cell.rows for cell in third] == [cell.rows for cell in second]


def test_it_goes_on_where_it_was_interrupted(tasks, tmp_path):
    compute = Computed()
    compute.stop_before = tasks[1].key  # methods are computed one by one: the third
    with pytest.raises(KeyboardInterrupt):
        run(tasks, compute, tmp_path)
    done = list(compute.keys)
    assert done == [tasks[0].key, tasks[2].key]
    assert all(read_cell(tmp_path, key) is not None for key in done)
    compute.stop_before = None
    assert len(run(tasks, compute, tmp_path)) == 4
    assert sorted(compute.keys) == sorted(task.key for task in tasks)
    assert not list((tmp_path / "cells").glob(".*"))


def test_without_a_folder_nothing_is_kept(tasks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compute = Computed()
    run(tasks, compute, None)
    run(tasks, compute, None)
    assert len(compute.keys) == 8
    assert not list(tmp_path.iterdir())
