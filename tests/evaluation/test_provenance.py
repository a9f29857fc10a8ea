from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.labelled import LabelledItems
from sae_features.evaluation.provenance import about_labels, check_data_sets


def test_repeats_and_contradictions_are_counted():
    data = LabelledItems("reviews", ["a", "a", "a", "b", "b", "c"], [0, 1, 1, 1, 1, 0])
    assert about_labels(data, data.digests()) == {
        "n_items": 6, "n_different": 3, "n_conflicting": 1, "n_groups": None,
        "classes": {"0": 2, "1": 4},
    }  # fmt: skip
    grouped = LabelledItems("reviews", ["a", "b", "c"], [0, 1, 1], groups=["x", "y", "x"])
    assert about_labels(grouped, grouped.digests())["n_groups"] == 2
    assert repr(grouped) == "LabelledItems('reviews': 3 items, 2 classes)"


def test_runs_say_what_was_run_and_name_no_place(swept, matrix):
    for run in (swept, matrix):
        text = (run.folder / "provenance.json").read_text(encoding="utf-8")
        found = json.loads(text)
        assert found == run.results.provenance
        assert {"sae-features", "torch", "scikit-learn"} <= set(found["versions"])
        for place in (str(Path.home()), str(run.folder.parent), str(Path.cwd())):
            assert place not in text
            assert place not in (run.folder / "results.csv").read_text(encoding="utf-8")
    about = swept.results.provenance["data"]["reviews"]
    assert about["digest"] == swept.data.digest()
    assert (about["n_items"], about["classes"]) == (24, {"negative": 12, "positive": 12})
    about = matrix.results.provenance
    assert list(about["data"]) == ["en", "de", "it"]
    assert [(each["from"], each["into"]) for each in about["translated"]] == [("en", "de")]


def test_what_cannot_be_compared():
    one = LabelledItems("reviews", ["a", "b"], [0, 1])
    assert check_data_sets(one) == [one]
    assert check_data_sets(iter([one])) == [one]
    with pytest.raises(InvalidParameterError, match="Got no data set; expected at least one."):
        check_data_sets([])
    with pytest.raises(InvalidParameterError, match="Got two data sets called 'reviews'"):
        check_data_sets([one, one])
    with pytest.raises(InvalidInputError, match="mine has the one label '1'; expected at least two."):
        check_data_sets([one, LabelledItems("mine", ["a", "b"], [1, 1])])
