"""The control is told of by numbers, and fails where it fails."""

from __future__ import annotations

import pytest

from sae_features.report.controls import control_blocks, is_at_chance
from sae_features.report.intervals import Estimate


def permuted(make_row, aurocs, **values):
    given = {"dataset": "a", "kind": "sae", "method": "m", "control": "permuted"} | values
    return [make_row(fold=i, auroc=x, macro_f1=0.3, **given) for i, x in enumerate(aurocs)]


CHANCE, LEAKS = [0.48, 0.52, 0.50, 0.51], [0.70, 0.72, 0.71, 0.69]


def test_passed(make_row):
    text, table = control_blocks(permuted(make_row, CHANCE))
    assert text.text.endswith("1 of 1 intervals hold 0.5: the control is passed.")
    assert [cell.text for cell in table.rows[0]] == [
        "a", "m", "SAE features", "0.502", "yes", "0.300", "–",
    ]  # fmt: skip
    assert table.columns[4] == "holds 0.5"


def test_failed(make_row):
    rows = [row for i in range(4) for row in permuted(make_row, LEAKS if i else CHANCE, dataset=str(i))]
    text, table = control_blocks(rows)
    assert "Only 1 of 4 intervals hold 0.5: something leaks" in text.text
    assert [row[4].text for row in table.rows] == ["yes", "no", "no", "no"]


def test_one_in_twenty_misses_by_chance(make_row):
    rows = [row for i in range(20) for row in permuted(make_row, CHANCE if i else LEAKS, dataset=str(i))]
    assert "19 of 20 intervals hold 0.5. About one interval in twenty" in control_blocks(rows)[0].text


@pytest.mark.parametrize("aurocs", [[0.9], [None, None]])
def test_too_little_to_tell(make_row, aurocs):
    text, table = control_blocks(permuted(make_row, aurocs))
    assert "There are too few folds, or no probabilities, to tell." in text.text
    assert table.rows[0][4].text == "–"


def test_settings_of_a_transfer_are_apart(make_row):
    pair = {"train_on": "en", "test_on": "fr"}
    rows = permuted(make_row, CHANCE, setting="zero_shot", **pair)
    rows += permuted(make_row, CHANCE, setting="in_language", train_on="en", test_on="en")
    table = control_blocks(rows)[1]
    assert [row[0].text for row in table.rows] == ["a, zero-shot", "a, same language"]


def test_without_controls_there_is_nothing(make_row):
    assert control_blocks([make_row(control="none", auroc=0.9)]) == []


def test_ends_count_as_inside():
    assert is_at_chance(Estimate(0.55, 0.5, 0.6)) is True
    assert is_at_chance(Estimate(0.55, 0.501, 0.6)) is False
    assert is_at_chance(Estimate(0.5)) is None
