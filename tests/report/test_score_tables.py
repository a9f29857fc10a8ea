"""Tables of scores: means with intervals, and what validation prefers is marked."""

from __future__ import annotations

import numpy as np
import pytest

from sae_features.report.intervals import score
from sae_features.report.rows import chosen_by_validation, without_controls
from sae_features.report.score_tables import (
    column_groups,
    interval_text,
    kinds_table,
    matrix_table,
    methods_table,
)


@pytest.fixture(scope="module")
def real(sweep):
    return without_controls(sweep)


def column(table, name):
    return [row[table.columns.index(name)] for row in table.rows]


def names_of_marked(table, name):
    return [
        row[0].text for row, cell in zip(table.rows, column(table, name), strict=True) if cell.is_best
    ]


def line(table, name):
    return next(row for row in table.rows if row[0].text == name)


class TestKinds:
    def test_cells_are_means_of_what_validation_chooses(self, real):
        table = kinds_table(real, "macro_f1")
        assert [row[0].text for row in table.rows] == [
            "SAE features", "random SAE", "hidden states", "TF-IDF, words", "TF-IDF, letters",
            "bag of words", "chance",
        ]  # fmt: skip
        here = [r for r in real if r["dataset"] == "bbc-news" and r["kind"] == "sae"]
        expected = score(chosen_by_validation(here), "macro_f1")
        cell = column(table, "bbc-news")[0]
        assert (cell.text, cell.note) == (f"{expected.mean:.3f}", interval_text(expected))

    def test_the_mean_is_over_data_sets(self, real):
        table = kinds_table(real, "macro_f1")
        for row in table.rows:
            assert float(row[4].text) == pytest.approx(
                np.mean([float(c.text) for c in row[1:4]]), abs=1e-3
            )

    def test_the_mark_follows_validation_not_the_test(self, real):
        rows = [r | {"validation": 0.99} if r["kind"] == "bag_of_words" else r for r in real]
        table = kinds_table(rows, "macro_f1")
        for name in ("bbc-news", "movie-snippets"):
            marked = names_of_marked(table, name)
            assert marked == ["bag of words"]

    def test_what_is_chosen_most_often(self, real):
        table = kinds_table(real, "macro_f1")
        assert line(table, "TF-IDF, words")[-1].text == "TF-IDF words"
        chosen = chosen_by_validation([r for r in real if r["kind"] == "states"])
        names = [r["method"] for r in chosen]
        most = max(dict.fromkeys(names), key=names.count)
        assert line(table, "hidden states")[-1].text == f"{most} ({names.count(most)} of 15 folds)"

    def test_many_data_sets_are_rows(self, real):
        rows = [
            r | dict.fromkeys(("dataset", "train_on", "test_on"), f"set {i:02}")
            for i in range(12)
            for r in real
            if r["dataset"] == "bbc-news" and r["fold"] < 2
        ]
        table = kinds_table(rows, "macro_f1")
        assert table.columns[:3] == ("data set", "SAE features", "random SAE")
        assert [row[0].text for row in table.rows][-3:] == ["set 11", "mean", "chosen most often"]

    def test_a_kind_that_lacks_a_data_set_has_no_mean(self, real):
        rows = [r for r in real if r["kind"] != "tfidf_word" or r["dataset"] != "bbc-news"]
        row = line(kinds_table(rows, "macro_f1"), "TF-IDF, words")
        assert (row[1].text, row[4].text) == ("–", "–")
        assert float(row[2].text) > 0


class TestMethods:
    def test_all_are_there_best_validation_first(self, real):
        table = methods_table(real, "auroc")
        names = [row[0].text for row in table.rows]
        assert sorted(names) == sorted({r["method"] for r in real})
        validation = [score([r for r in real if r["method"] == n], "validation").mean for n in names]
        assert validation == sorted(validation, reverse=True)
        assert [cell.text for cell in column(table, "validation")] == [f"{v:.3f}" for v in validation]
        assert table.is_folded

    def test_marks_and_active_features(self, real):
        table = methods_table(real, "macro_f1")
        for name in ("bbc-news", "movie-snippets"):
            here = [r for r in real if r["dataset"] == name]
            means = {m: np.mean([r["validation"] for r in here if r["method"] == m])
                     for m in {r["method"] for r in here}}  # fmt: skip
            marked = [
                row[0].text for row, c in zip(table.rows, column(table, name), strict=True) if c.is_best
            ]
            assert marked == [max(means, key=means.get)]
        assert set(column(table, "active")) == {("–", "", False), ("120", "", False), ("60", "", False)}

    def test_without_validation_nothing_is_marked(self, real):
        rows = [r | {"validation": None} for r in real]
        table = methods_table(rows, "macro_f1")
        assert not any(cell.is_best for row in table.rows for cell in row)


class TestTransfer:
    def test_columns_are_settings(self, transfer):
        names = [group.name for group in column_groups(transfer)]
        assert names == ["same language", "zero-shot", "few-shot, 16", "few-shot, 256"]
        table = methods_table(transfer, "macro_f1")
        assert table.columns == ("method", "kind", *names, "validation", "active")
        here = [r for r in transfer if r["kind"] == "states" and r["setting"] == "zero_shot"]
        mean = np.mean([r["macro_f1"] for r in here])
        assert line(table, "e5-small layer 7 states mean")[3].text == f"{mean:.3f}"

    def test_matrices(self, transfer):
        here = [
            r for r in transfer if r["kind"] == "sae" and r["setting"] in {"zero_shot", "in_language"}
        ]
        holes = [r for r in here if (r["train_on"], r["test_on"]) != ("hindi", "german")]
        table = matrix_table(holes, "macro_f1", "SAE features")
        assert table.columns == ("trained on", *sorted({r["test_on"] for r in here}))
        pair = [r["macro_f1"] for r in here if (r["train_on"], r["test_on"]) == ("english", "french")]
        assert line(table, "english")[table.columns.index("french")].text == f"{np.mean(pair):.3f}"
        assert line(table, "hindi")[table.columns.index("german")].text == "–"
