"""The tables of differences hold what the tests of significance say."""

from __future__ import annotations

import pytest

from sae_features.evaluation.significance import adjust, wilcoxon
from sae_features.report.comparisons import compare, compare_overall
from sae_features.report.differences import difference_blocks, p_text, record_table
from sae_features.report.rows import of_method, without_controls


@pytest.fixture(scope="module")
def real(sweep):
    return without_controls(sweep)


def test_mean_differences_from_each_kind(real):
    _, table, each = difference_blocks(real, "macro_f1")
    kinds = ["random_sae", "states", "tfidf_word", "tfidf_char", "bag_of_words"]
    ours = of_method(real, "sae")
    records = [compare_overall(ours, of_method(real, kind)) for kind in kinds]
    assert [row[1].text for row in table.rows] == [
        f"{record['difference']:+.3f}".replace("-", "−") for record in records
    ]
    assert [row[2].text for row in table.rows] == [p_text(record["p"]) for record in records]
    adjusted = adjust([record["p"] for record in records])
    assert [row[3].text for row in table.rows] == [p_text(float(p)) for p in adjusted]
    assert table.rows[0][4].text == "3 of 3"
    assert each.columns == (
        "where", "random SAE", "hidden states", "TF-IDF, words", "TF-IDF, letters", "bag of words",
    )  # fmt: skip


def test_each_data_set_with_p_adjusted_for_the_whole_table(real):
    table = difference_blocks(real, "macro_f1")[2]
    ours = of_method(real, "sae")
    kinds = ["random_sae", "states", "tfidf_word", "tfidf_char", "bag_of_words"]
    records = [record for kind in kinds for record in compare(ours, of_method(real, kind))]
    adjusted = adjust([record["p"] for record in records])
    names = [row[0].text for row in table.rows]
    for record, p in zip(records, adjusted, strict=True):
        number = kinds[records.index(record) // 3]
        cell = table.rows[names.index(record["dataset"])][1 + kinds.index(number)]
        assert cell.text == f"{record['difference']:+.3f}".replace("-", "−")
        assert cell.note.endswith(f"p {p_text(float(p))}")


def test_wilcoxon_over_enough_data_sets(real):
    rows = [
        r
        | dict.fromkeys(("dataset", "train_on", "test_on"), f"set {i}")
        | {"macro_f1": r["macro_f1"] * s}
        for i, s in enumerate([1, 0.9, 0.8, 0.7, 0.6, 0.5])
        for r in real
        if r["dataset"] == "bbc-news" and r["kind"] in {"sae", "states"}
    ]
    table = difference_blocks(rows, "macro_f1")[1]
    assert table.columns[-1] == "p, Wilcoxon over data sets"
    records = compare(of_method(rows, "sae"), of_method(rows, "states"))
    assert table.rows[0][-1].text == p_text(wilcoxon([r["difference"] for r in records]).p)


def test_transfers_by_setting(transfer):
    table = difference_blocks(transfer, "macro_f1")[1]
    assert [(row[0].text, row[1].text) for row in table.rows] == [
        (kind, setting)
        for setting in ("same language", "zero-shot", "few-shot, 16", "few-shot, 256")
        for kind in ("hidden states", "TF-IDF, letters")
    ]
    assert [row[5].text.split(" of ")[1] for row in table.rows[::2]] == ["8", "56", "56", "56"]


def test_without_sae_features_or_baselines_there_is_nothing(real):
    assert difference_blocks([r for r in real if r["kind"] != "sae"], "macro_f1") == []
    assert difference_blocks([r for r in real if r["kind"] in {"sae", "chance"}], "macro_f1") == []


def test_records_from_elsewhere():
    table = record_table(
        [
            {"dataset": "a", "method": "sae", "reference": "words", "difference": 0.0123, "low": -0.01,
             "high": 0.03, "p": 0.0004, "n": 5, "test": "bootstrap", "quiver": True},
            {"dataset": "b", "difference": -0.5, "p": float("nan")},
        ]
    )  # fmt: skip
    assert table.columns == (
        "where", "method", "reference", "difference", "p", "folds", "test", "quiver",
    )  # fmt: skip
    assert [cell.text for cell in table.rows[0]] == [
        "a", "SAE features", "words", "+0.012", "< 0.001", "5", "bootstrap", "yes",
    ]  # fmt: skip
    assert table.rows[0][3].note == "−0.010 to +0.030"
    assert [cell.text for cell in table.rows[1]] == ["b", "–", "–", "−0.500", "–", "–", "–", "–"]
