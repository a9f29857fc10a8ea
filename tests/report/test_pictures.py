"""Pictures are chosen by the rows, and the same rows give the same bytes."""

from __future__ import annotations

import hashlib
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from sae_features.report.pictures import (
    can_draw,
    comparison_pictures,
    difference_pictures,
    references_of,
    score_pictures,
)
from sae_features.report.rows import without_controls


@pytest.fixture(scope="module")
def small(sweep):
    """Return one data set of a sweep, two folds."""
    return [r for r in without_controls(sweep) if r["dataset"] == "bbc-news" and r["fold"] < 2]


@pytest.fixture(scope="module")
def languages(transfer):
    names = {"english", "hindi", "french"}
    return [r for r in transfer if r["train_on"] in names and r["test_on"] in names]


def test_of_a_sweep(small):
    pictures = score_pictures(small, "macro_f1", "part_1")
    assert [picture.name for picture in pictures] == [
        "part_1_layer_pooling_sae", "part_1_layer_pooling_states", "part_1_threshold",
    ]  # fmt: skip
    for picture in pictures:
        assert ET.fromstring(picture.svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "Macro-F1" in picture.caption
        assert picture.alt
    assert plt.get_fignums() == []  # pyplot is not used


def test_width_within_a_model(make_row):
    rows = [
        make_row(kind="sae", method=f"{m} {w}", model=m, width=w, dataset="a", fold=0, macro_f1=0.5)
        for m, w in [("x", 1024), ("y", 2048)]
    ]
    assert score_pictures(rows, "macro_f1", "p") == []  # two models are no curve
    rows.append(rows[0] | {"width": 4096, "method": "x 4096"})
    assert [picture.name for picture in score_pictures(rows, "macro_f1", "p")] == ["p_width"]


def test_numbers_of_training_items(make_row):
    rows = [
        make_row(kind="sae", method="m", dataset="a", fold=f, n_train=n + f, macro_f1=0.5)
        for n in (100, 800)
        for f in (0, 1)
    ]
    assert [picture.name for picture in score_pictures(rows, "macro_f1", "p")] == ["p_n_train"]
    assert score_pictures(rows[:2], "macro_f1", "p") == []  # folds of different sizes are no curve


def test_of_a_transfer(languages):
    names = [picture.name for picture in score_pictures(languages, "accuracy", "p")]
    assert names == ["p_matrix_sae", "p_matrix_states", "p_matrix_tfidf_char", "p_shots"]
    zero_shot = [r for r in languages if "few" not in r["setting"]]
    assert "p_shots" not in [picture.name for picture in score_pictures(zero_shot, "accuracy", "p")]


def test_differences(small, languages):
    names = [picture.name for picture in difference_pictures(small, "macro_f1", "p")]
    assert names == ["p_sae_minus_states", "p_sae_minus_tfidf_word", "p_sae_minus_random_sae"]
    names = [picture.name for picture in difference_pictures(languages, "macro_f1", "p")]
    assert names == ["p_sae_minus_states", "p_sae_minus_tfidf_char"]
    assert difference_pictures([r for r in small if r["kind"] != "sae"], "macro_f1", "p") == []


def test_the_best_other_baseline_is_the_one_that_validation_prefers(small):
    rows = [r | {"validation": 0.99} if r["kind"] == "bag_of_words" else r for r in small]
    assert references_of(rows) == ["states", "bag_of_words", "random_sae"]
    blind = [r | {"validation": None} for r in small]
    assert references_of(blind) == ["states", "tfidf_word", "random_sae"]


def test_comparisons(make_row):
    records = [{"dataset": d, "reference": r, "difference": 0.1} for d in "ab" for r in ("x", "y")]
    assert [picture.name for picture in comparison_pictures(records)] == ["comparison_1", "comparison_2"]


def test_the_same_rows_give_the_same_bytes_whatever_the_style(languages):
    def digests():
        pictures = score_pictures(languages, "macro_f1", "p")
        return [hashlib.sha256(picture.svg).hexdigest() for picture in pictures]

    first = digests()
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none"}):
        assert digests() == first
    assert len(set(first)) == len(first)


def test_no_date_and_nothing_from_elsewhere(small):
    for picture in score_pictures(small, "macro_f1", "p"):
        assert b"<dc:date>" not in picture.svg
        root = ET.fromstring(picture.svg)
        links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)


@pytest.mark.parametrize("text", ["$\\frac{", "_x", "<b>&", "中文 हिन्दी", "a\nb"])
def test_any_name_can_be_drawn(languages, text):
    rows = [r | {"model": text, "train_on": r["train_on"] + text, "test_on": r["test_on"] + text}
            for r in languages if r["setting"] != "few_shot_16"]  # fmt: skip
    for picture in score_pictures(rows, "macro_f1", "p"):
        ET.fromstring(picture.svg)


def test_without_matplotlib(monkeypatch):
    assert can_draw()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not can_draw()
