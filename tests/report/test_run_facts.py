"""What was run is told by numbers that are in the rows or the provenance."""

from __future__ import annotations

import json

import pytest

from sae_features.report.document import Code, Table
from sae_features.report.rows import without_controls
from sae_features.report.run_facts import run_blocks


def facts_of(blocks):
    table = next(block for block in blocks if isinstance(block, Table))
    return {row[0].text: row[1].text for row in table.rows}


def data_of(blocks):
    return [block for block in blocks if isinstance(block, Table)][1]


def test_counts(sweep):
    facts = facts_of(run_blocks(sweep, {}))
    assert facts["protocol"] == "classification"
    assert facts["data sets"] == "bbc-news, movie-snippets, spam or ham, short messages"
    assert facts["models"] == "e5-small, minilm"
    assert facts["layers"] == "1, 3, 5, 7, 11"
    assert facts["methods"] == str(len({r["method"] for r in without_controls(sweep)}))
    assert facts["folds per data set"] == "5"
    assert facts["rows of results"] == f"{len(sweep):,}"
    assert "languages or models" not in facts


def test_provenance(sweep):
    provenance = {
        "command": "sae-features sweep sweep.toml", "versions": {"torch": "2.6.0", "numpy": "2.2"},
        "python": "3.12.1", "settings": {"cv": 5}, "started": "2026-01-01",
        "data": {"bbc-news": {"n_items": 1200, "n_different": 1190, "digest": "ab" * 32,
                              "classes": {"sport": 700, "tech": 500}, "folds": "5 folds"}},
    }  # fmt: skip
    blocks = run_blocks(sweep, provenance)
    facts = facts_of(blocks)
    assert blocks[0] == Code("sae-features sweep sweep.toml")
    assert facts["versions"] == "torch 2.6.0, numpy 2.2"
    assert (facts["python"], facts["started"]) == ("3.12.1", "2026-01-01")
    table = data_of(blocks)
    assert dict(zip(table.columns, (cell.text for cell in table.rows[0]), strict=True)) == {
        "data set": "bbc-news", "items": "1,200", "different": "1,190", "classes": "2",
        "items of each class": "sport: 700, tech: 500", "trained on": "640", "tested on": "160",
        "folds": "5 folds", "digest of items and labels": "abababababab",
    }  # fmt: skip
    assert table.rows[1][1].text == "–"
    assert json.loads(blocks[-1].text) == provenance
    assert blocks[-1].summary
    assert table.note.startswith("Equal items stand on one side")
    provenance["data"]["bbc-news"]["n_groups"] = 223
    grouped = data_of(run_blocks(sweep, provenance))
    assert [row[grouped.columns.index("groups")].text for row in grouped.rows[:2]] == ["223", "–"]
    assert grouped.note.startswith("Equal items, and all items of a group, stand on one side")


@pytest.mark.parametrize(
    ("provenance", "is_said"),
    [
        ({"data": {"a": {"n_items": 9, "n_leaking": 2, "on_leak": "warn"}}}, False),
        ({"data": {"a": {"n_items": 9, "n_leaking": 2, "on_leak": "drop"}}}, True),
        ({"data": {"a": {"n_items": 9, "n_leaking": 0, "on_leak": "warn"}}}, True),
        ({"data": {"a": {"n_items": 9}}, "n_leaking": 2, "settings": {"on_leak": "warn"}}, False),
        ({"data": {"a": {"n_items": 9}}, "n_leaking": 2, "settings": {"on_leak": "drop"}}, True),
        ({}, False),
    ],
)
def test_one_side_is_claimed_where_it_is_so(sweep, provenance, is_said):
    note = data_of(run_blocks(sweep, provenance)).note
    assert ("one side" in note) == is_said
    assert note.endswith("Sizes of training and test parts are those of a fold.")


def test_languages(transfer):
    blocks = run_blocks(transfer, {"command": ["sae-features", "transfer", "x.toml"]})
    assert blocks[0].text == "sae-features transfer x.toml"
    assert facts_of(blocks)["languages or models"].startswith("arabic, english")
    table = data_of(blocks)
    assert table.columns == ("data set", "classes", "trained on", "tested on")
    assert [cell.text for cell in table.rows[0]] == ["arabic", "3", "1,600 to 1,856", "800"]


def test_many_names_are_counted(make_row):
    rows = [make_row(dataset=f"set {i:02}", method="m", fold=0, macro_f1=0.5) for i in range(30)]
    facts = facts_of(run_blocks(rows, {}))
    assert facts["data sets"].startswith("30: set 00, set 01")
    assert facts["data sets"].endswith("set 11 …")
