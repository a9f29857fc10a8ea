"""`sae-features sweep`, `transfer` and `report`, from a file to a page."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from sae_features.cli import main
from sae_features.datasets import load_movie_snippets

N = 24
SWEEP = """
title = "Snippets"
baselines = ["tfidf_word", "chance"]
cv = 2
strengths = [1.0]

[[data]]
path = "snippets.csv"
"""
LANGUAGES = """
protocol = "cross_lingual"
name = "pairs"
models = ["minilm"]
baselines = ["chance"]
cv = 2
strengths = [1.0]
permuted = false

[[data]]
name = "one"
path = "snippets.csv"
where = {half = "a"}

[[data]]
name = "other"
path = "snippets.csv"
where = {half = "b"}
"""


@pytest.fixture
def folder(tmp_path):
    movies = load_movie_snippets()
    with (tmp_path / "snippets.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label", "half"))
        for i in range(N):
            half = "a" if i < N // 2 else "b"
            writer.writerow((movies.data[i], movies.target_names[movies.target[i]], half))
    return tmp_path


def said(capsys):
    return json.loads(capsys.readouterr().out)


def test_a_sweep_writes_tables_and_a_page(folder, capsys):
    (folder / "movies.toml").write_text(SWEEP)
    assert main(["sweep", str(folder / "movies.toml"), "--quiet", "--json"]) == 0
    found = said(capsys)
    assert found["output"] == str(folder / "movies")
    with (folder / "movies" / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == found["n_rows"] == 10  # three methods and two controls, two folds
    means = {each["method"]: each["mean"] for each in found["means"]}
    for method, mean in means.items():
        own = [
            float(row["macro_f1"]) for row in rows if (row["method"], row["control"]) == (method, "none")
        ]
        assert mean == pytest.approx(sum(own) / len(own))
    page = (folder / "movies" / "report.html").read_text(encoding="utf-8")
    assert "<title>Snippets" in page
    assert "TF-IDF words" in page
    assert found["warnings"] == []
    assert found["control"].startswith("at chance: mean macro-F1 0.")
    assert found["control"] in page


def test_what_must_not_be_missed_is_said(folder, capsys, monkeypatch):
    table = folder / "snippets.csv"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join([*lines, *lines[1:4]]), encoding="utf-8")
    (folder / "movies.toml").write_text(SWEEP)
    assert main(["sweep", str(folder / "movies.toml"), "--quiet"]) == 0
    printed = capsys.readouterr().out
    warning = "warning: snippets: 3 of 27 items repeat others; equal items stay on one side of a split."
    assert warning in printed
    assert "permuted labels: at chance: mean macro-F1 0." in printed
    assert "pictures" not in printed
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    assert main(["report", str(folder / "movies")]) == 0
    assert 'report.html (no pictures: they need `pip install "sae-features[plot]"`)' in (
        capsys.readouterr().out
    )


def test_again_it_finds_what_was_done_and_writes_where_it_is_told(folder, capsys, monkeypatch):
    (folder / "movies.toml").write_text(SWEEP)
    command = ["sweep", str(folder / "movies.toml"), "-o", str(folder / "there"), "--quiet", "--json"]
    assert main(command) == 0
    first = said(capsys)
    monkeypatch.setattr("sae_features.evaluation.sweep.fit", None)  # to fit is an error now
    assert main([*command, "--no-report"]) == 0
    second = said(capsys)
    assert second["report"] is None
    assert second["means"] == first["means"]


def test_a_transfer_and_its_report(folder, capsys):
    (folder / "pairs.toml").write_text(LANGUAGES)
    assert main(["transfer", str(folder / "pairs.toml"), "--quiet", "--json", "--no-report"]) == 0
    found = said(capsys)
    assert {each["setting"] for each in found["means"]} == {"in_language", "zero_shot"}
    assert main(["report", str(folder / "pairs"), "--title", "Two halves", "--json"]) == 0
    page = said(capsys)["report"]
    assert page == str(folder / "pairs" / "report.html")
    assert "Two halves" in (folder / "pairs" / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(folder / "pairs")]) == 0
    printed = capsys.readouterr().out
    assert "macro_f1, and in brackets the validation score" in printed
    assert "<title>pairs" in (folder / "pairs" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("verb", "text", "message"),
    [
        ("sweep", 'poolngs = ["max"]', "Got key='poolngs'; expected one of"),
        ("sweep", 'poolngs = ["max"]', "Did you mean 'poolings'?"),
        ("sweep", 'poolings = "max"', "got poolings = 'max'; expected a list: ['max']."),
        ("sweep", "", "names no data; add a table [[data]] with path = …"),
        ("sweep", '[[data]]\npath = "nothing.csv"', "expected a file there."),
        ("sweep", '[[data]]\npth = "snippets.csv"', "Got key='pth'"),
        ("transfer", 'protocol = "cross_lingal"', "Did you mean 'cross_lingual'?"),
        (
            "transfer",
            'protocol = "moved_probe"\nmodels = ["minilm"]',
            "Got one model; expected at least two",
        ),
        ("transfer", 'protocol = "cross_lingual"\n[[translated]]\nfro = "en"', "Got key='fro'"),
        ("transfer", '[[data]]\npath = "snippets.csv"', "has no protocol; expected protocol = one of"),
        ("sweep", 'protocol = "cross_lingual"', "run it by `sae-features transfer"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(folder, capsys, verb, text, message):
    (folder / "wrong.toml").write_text(text)
    assert main([verb, str(folder / "wrong.toml"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_report_of_nothing(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "expected a folder with results.csv in it." in capsys.readouterr().err
