"""What must not be missed is told, and nothing else."""

from __future__ import annotations

import pytest

from sae_features.report.notices import notice_blocks


def notices(rows, provenance=None):
    blocks = notice_blocks(rows, provenance or {})
    return list(blocks[0].texts) if blocks else []


@pytest.fixture
def rows(make_row):
    return [
        make_row(protocol="sweep", dataset=d, method=m, fold=f, validation=0.5, macro_f1=0.5)
        for d in "ab"
        for m in ("x", "y")
        for f in (0, 1)
    ]


def test_nothing(rows):
    assert notices(rows, {"data": {"a": {"n_items": 9, "n_different": 9, "n_leaking": 0}}}) == []


FATES = [("drop", "left out"), ("warn", "kept, so that scores may be too high"), (None, "found")]


@pytest.mark.parametrize(("on_leak", "fate"), FATES)
def test_leaks(rows, on_leak, fate):
    about = {"n_leaking": 1200, "on_leak": on_leak}
    assert notices(rows, {"data": {"a": about}}) == [
        f"a: 1,200 test items that are also trained on were {fate}."
    ]
    assert notices(rows, {"n_leaking": 7, "settings": {"on_leak": on_leak}}) == [
        "Up to 7 test items of a fold that are also trained on in some language, or belong to a group "
        f"that is, were {fate}."
    ]


def test_data(rows):
    about = {"n_items": 1000, "n_different": 960, "n_conflicting": 3}
    assert notices(rows, {"data": {"a": about}}) == [
        "a: 40 of 1,000 items repeat others; equal items stay on one side of a split.",
        "a: 3 different items have several labels.",
    ]
    leaking = {"n_items": 1000, "n_different": 960, "n_leaking": 40, "on_leak": "warn"}
    assert notices(rows, {"data": {"a": leaking}})[1] == "a: 40 of 1,000 items repeat others."


def test_what_was_noted(rows):
    assert notices(rows, {"warnings": ["one", "two"], "notes": "three"}) == ["one", "two", "three"]


def test_unfinished_runs(rows):
    (text,) = notices(rows[:-1])
    assert text.startswith("1 method lacks folds or data sets that others have")
    (text,) = notices([r for r in rows if (r["dataset"], r["method"]) != ("b", "y")])
    assert text.startswith("1 method lacks folds or data sets")


def test_unfinished_controls_are_no_matter(rows):
    assert notices([*rows, rows[0] | {"method": "z", "control": "permuted"}]) == []


def test_no_validation(rows):
    (text,) = notices([r | {"validation": None} if r["method"] == "x" else r for r in rows])
    assert text.startswith("1 of 2 methods have rows without a validation score")
