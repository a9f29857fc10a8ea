from __future__ import annotations

import json
import math
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from sae_features.errors import AssetNotFoundError, InvalidInputError, MissingDependencyError
from sae_features.evaluation import results as module
from sae_features.evaluation.fitting import figures_of
from sae_features.evaluation.results import (
    COLUMNS,
    Cell,
    Predictions,
    Results,
    cell_file,
    gather,
    key_of,
    read_cell,
    write_cell,
)


def predicted(seed, n=6):
    rng = np.random.default_rng(seed)
    return Predictions(rng.permutation(50)[:n], rng.integers(0, 3, n), rng.random((n, 3), np.float32))


def cell_of(name, n_rows=2, **values):
    key = key_of({"name": name})
    rows = [
        {"method": name, "cell": key, "train_on": "en", "test_on": "en", "seed": 0, "fold": i, **values}
        for i in range(n_rows)
    ]
    return Cell(key, rows, [predicted(i) for i in range(n_rows)])


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


ROW = {
    "layer": 3, "threshold": 0.1 + 0.2, "binarize": False, "prompt": 'say "{}",\nplease', "width": 4096,
    "n_train": 12, "active": 1 / 3, "validation": None, "accuracy": 1.0, "auroc": None,
    "chosen": {"C": 0.1, "scale": "max_abs", "top_latents": [3, 1]}, "setting": "few_shot_4",
}  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    cells = [cell_of("a", **ROW), cell_of("b", 1, binarize=True, chosen={})]
    about = {"protocol": "sweep", "data": {"é": 1}}
    results = gather(cells, None, about)
    results.write(tmp_path)
    found = Results.read(tmp_path)
    assert found.rows == results.rows
    assert found.provenance == about
    assert [set(row) for row in found.rows] == [set(COLUMNS)] * 3
    for row, expected in zip(found.rows, [*cells[0].predictions, *cells[1].predictions], strict=True):
        assert same(found.predictions(row), expected)
        assert same(results.predictions(row), expected)
    assert found.where(method="b", fold=0) == [found.rows[2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cells", "provenance.json", "results.csv", "results.parquet",
    ]  # fmt: skip


def test_the_tables_agree(tmp_path):
    results = gather([cell_of("a", **ROW), cell_of("b")], None, {})
    results.write(tmp_path)
    table = pq.read_table(tmp_path / "results.parquet")
    assert tuple(table.column_names) == COLUMNS
    rows = table.to_pylist()
    for row in rows:
        row["chosen"] = None if row["chosen"] is None else json.loads(row["chosen"])
    assert rows == Results.read(tmp_path).rows
    frame = results.to_frame()
    assert frame["threshold"].tolist()[:2] == [0.1 + 0.2] * 2


def test_a_table_without_pyarrow_leaves_no_older_one(tmp_path, monkeypatch):
    gather([cell_of("a")], None, {}).write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    gather([cell_of("b")], None, {}).write(tmp_path)
    assert not (tmp_path / "results.parquet").exists()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="A data frame needs pandas; install it with `pip"):
        Results([]).to_frame()


def test_numbers_of_numpy_are_numbers(tmp_path):
    numpy = {
        "layer": np.int64(3), "threshold": np.float32(0.5), "binarize": np.True_, "width": np.int32(7),
        "accuracy": np.float64(0.25), "chosen": {"C": np.float32(0.5), "max_depth": np.int64(4)},
    }  # fmt: skip
    gather([cell_of("a", 1, **numpy)], None, {"seed": np.int64(1)}).write(tmp_path)
    (row,) = Results.read(tmp_path).rows
    assert {name: row[name] for name in numpy} == {
        "layer": 3, "threshold": 0.5, "binarize": True, "width": 7, "accuracy": 0.25,
        "chosen": {"C": 0.5, "max_depth": 4},
    }  # fmt: skip
    assert read_cell(tmp_path, row["cell"]).rows[0]["chosen"] == row["chosen"]


def test_rows_that_are_tested_on_the_same_language_keep_their_own_predictions(tmp_path):
    key = key_of({"name": "matrix"})
    told = [(a, b, s, 0, f) for a in "ab" for b in "ab" for s in ("few", "target") for f in (0, 1)]
    names = ("train_on", "test_on", "setting", "seed", "fold")
    rows = [{"cell": key} | dict(zip(names, each, strict=True)) for each in told]
    cell = Cell(key, rows, [predicted(i) for i in range(len(rows))])
    held = gather([cell], None, {})
    held.write(tmp_path)
    read = Results.read(tmp_path)
    some = Results(read.rows[::-3], folder=tmp_path)
    for row, expected in zip(read.rows, cell.predictions, strict=True):
        for results in (held, read, some):
            assert same(results.predictions(row), expected)


def test_results_move_with_their_predictions(tmp_path):
    cell = cell_of("a")
    gather([cell], None, {}).write(tmp_path / "one")
    moved = Results.read(tmp_path / "one")
    moved.write(tmp_path / "two")
    again = Results.read(tmp_path / "two")
    for row, expected in zip(again.rows, cell.predictions, strict=True):
        assert same(again.predictions(row), expected)


def test_predictions_that_are_not_there(tmp_path):
    results = gather([cell_of("a")], None, {})
    results.write(tmp_path)
    key = results.rows[0]["cell"]
    cell_file(tmp_path, key).unlink()
    with pytest.raises(AssetNotFoundError, match=f"of cell {key[:12]} are not there; run it again."):
        Results.read(tmp_path).predictions(results.rows[0])
    for row in (results.rows[0] | {"fold": 7}, {"method": "a"}):
        with pytest.raises(AssetNotFoundError, match="are not there; run it again."):
            results.predictions(row)


def test_damage_of_any_kind_is_a_cell_that_is_not_there(tmp_path):
    cell = cell_of("a", **ROW)
    write_cell(tmp_path, cell)
    path = cell_file(tmp_path, cell.key)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for position in [*range(0, len(whole), 7), *range(len(whole) - 60, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        found = read_cell(tmp_path, cell.key)
        outcomes.add(found is None)
        if found is not None:  # what no checksum covers decides nothing
            assert found.rows == cell.rows
            assert all(map(same, found.predictions, cell.predictions))
    assert True in outcomes
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert read_cell(tmp_path, cell.key) is None
    path.write_bytes(whole)
    assert read_cell(tmp_path, cell.key).rows == cell.rows
    other = cell.key[:32] + "0" * 32  # the name of its file is the same
    assert read_cell(tmp_path, other) is None
    assert read_cell(tmp_path, key_of({"name": "b"})) is None


def test_figures_of_what_is_kept_are_those_of_the_rows(swept, matrix):
    for run in (swept, matrix):
        read = Results.read(run.folder)
        assert read.rows == run.results.rows
        for row in read.rows:
            found = read.predictions(row)
            assert len(found.items) == row["n_test"]
            assert figures_of(found, row["n_classes"]) == {
                name: row[name] for name in ("accuracy", "macro_f1", "auroc")
            }


def test_keys_tell_parts_apart_and_know_their_schema(monkeypatch):
    one = key_of({"a": 1, "b": [0.5, None]})
    assert one == key_of({"b": [0.5, None], "a": np.int64(1)})
    assert one != key_of({"a": 1, "b": [0.5, 0]})
    with pytest.raises(TypeError, match="Got object; expected a plain value."):
        key_of({"a": object()})
    monkeypatch.setattr(module, "SCHEMA", module.SCHEMA + 1)
    assert one != key_of({"a": 1, "b": [0.5, None]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda text: text.replace("macro_f1", "f1", 1),
            "has no column 'macro_f1'; expected a table of",
        ),
        (lambda text: text.replace(",4096,", ",wide,", 1), "results.csv is damaged: invalid literal"),
        (lambda text: text.replace("{", "<", 2), "results.csv is damaged"),
        (lambda text: text.partition("\n")[0] + "\na,b", "results.csv is damaged"),
    ],
)
def test_a_table_that_is_none(tmp_path, damage, message):
    gather([cell_of("a", **ROW | {"prompt": None})], None, {}).write(tmp_path)
    table = tmp_path / "results.csv"
    table.write_text(damage(table.read_text()))
    with pytest.raises(InvalidInputError, match=message):
        Results.read(tmp_path)


def test_a_folder_without_results(tmp_path):
    with pytest.raises(AssetNotFoundError, match="expected a folder with results.csv in it."):
        Results.read(tmp_path)
    gather([cell_of("a")], None, {}).write(tmp_path)
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(InvalidInputError, match="provenance.json is not JSON"):
        Results.read(tmp_path)
    (tmp_path / "provenance.json").unlink()
    assert Results.read(tmp_path).provenance == {}


def test_no_score_is_nan(swept, matrix):
    for row in (*swept.results.rows, *matrix.results.rows):
        for name in ("validation", "accuracy", "macro_f1", "auroc", "active"):
            assert row[name] is None or math.isfinite(row[name])
