"""A report has its parts, is the same each time, and is whole without matplotlib."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError
from sae_features.report import write_report

LATENTS = [
    {"latent": 7, "label": "prizes", "class": "spam", "importance": 0.4,
     "top": [{"text": "you won a prize", "start": 4, "end": 7, "value": 2.0}]},
    {"latent": 9, "top": [{"image": np.zeros((8, 8, 3), np.uint8), "box": (0, 0, 4, 4), "value": 1.0}]},
]  # fmt: skip


@pytest.fixture(scope="module")
def small(sweep):
    """Return one data set of a sweep, two folds, with its control."""
    return [r for r in sweep if r["dataset"] == "bbc-news" and r["fold"] < 2]


@pytest.fixture
def no_pictures(monkeypatch):
    """Let pictures be none, as where matplotlib is not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def headings(page):
    return re.findall(r'<h2 id="part-\d+">(.*?)</h2>', page.read_text(encoding="utf-8"))


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestParts:
    def test_all(self, small, tmp_path):
        provenance = {"command": "sae-features sweep x.toml", "warnings": ["look out"]}
        page = write_report(
            SimpleNamespace(rows=small, provenance=provenance), tmp_path, title="A & B", latents=LATENTS
        )
        assert page == tmp_path / "report.html"
        assert headings(page) == [
            "What was run", "Warnings", "Scores: classification", "Paired differences: classification",
            "Control: permuted labels", "Latents",
        ]  # fmt: skip
        text = page.read_text(encoding="utf-8")
        assert "<title>A &amp; B</title>" in text
        assert "sae-features sweep x.toml" in text
        assert "<li>look out</li>" in text
        assert "you <mark>won</mark> a prize" in text
        assert text.count("data:image/svg+xml;base64,") == 6
        assert text.count("data:image/png;base64,") == 1
        assert "://" not in text

    def test_the_markdown_has_the_same_and_its_pictures_beside_it(self, small, tmp_path):
        page = write_report(small, tmp_path / "deep" / "run.html", title="t", latents=LATENTS)
        text = page.with_suffix(".md").read_text(encoding="utf-8")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == headings(page)
        links = re.findall(r"!\[[^\]]*\]\((.*?)\)", text)
        assert len(links) == 7
        assert sorted(links) == sorted(name for name in files(page.parent) if "/" in name)
        assert all(link.startswith("run_pictures/") for link in links)

    def test_transfers(self, transfer, tmp_path):
        names = {"english", "hindi"}
        rows = [r for r in transfer if r["train_on"] in names and r["test_on"] in names]
        page = write_report(rows, tmp_path, title="t")
        assert headings(page) == [
            "What was run", "Scores: transfer across languages",
            "Paired differences: transfer across languages",
        ]  # fmt: skip
        text = page.read_text(encoding="utf-8")
        assert "<summary>Macro-F1: SAE features, few-shot, 256.</summary>" in text

    def test_protocols_and_data_sets_of_transfers_are_apart(
        self, small, transfer, tmp_path, no_pictures
    ):
        rows = [*small, *transfer[:300], *(r | {"dataset": "hate"} for r in transfer[:300])]
        page = write_report(rows, tmp_path, title="t")
        assert [name for name in headings(page) if name.startswith("Scores")] == [
            "Scores: classification", "Scores: transfer across languages, tweet sentiment",
            "Scores: transfer across languages, hate",
        ]  # fmt: skip

    def test_comparisons_from_elsewhere_are_shown_in_place_of_own(self, small, tmp_path, no_pictures):
        records = [{"dataset": "bbc-news", "difference": 0.1234, "p": 0.03, "method": "quiver"}]
        page = write_report(small, tmp_path, title="t", comparisons=records)
        assert headings(page)[2:4] == ["Paired differences", "Control: permuted labels"]
        assert "+0.123" in page.read_text(encoding="utf-8")

    def test_provenance_given_goes_before_that_of_results(self, small, tmp_path, no_pictures):
        results = SimpleNamespace(rows=small, provenance={"command": "replaced"})
        page = write_report(results, tmp_path, title="t", provenance={"command": "new"})
        assert "<code>new</code>" in page.read_text(encoding="utf-8")
        assert "replaced" not in page.read_text(encoding="utf-8")

    def test_a_hundred_methods(self, small, tmp_path, no_pictures):
        rows = [r | {"method": f"{r['method']} {i}"} for i in range(3) for r in small]
        page = write_report(rows, tmp_path, title="t")
        n = len({r["method"] for r in rows if r["control"] == "none"})
        assert n > 100
        text = page.read_text(encoding="utf-8")
        assert f"<details><summary>Macro-F1 of all {n} methods.</summary>" in text


class TestSameEachTime:
    def test_to_the_byte(self, small, tmp_path):
        for name in ("a", "b"):
            write_report(small, tmp_path / name, title="t", latents=LATENTS)
        assert files(tmp_path / "a") == files(tmp_path / "b")

    def test_written_over(self, small, tmp_path, no_pictures):
        first = write_report(small, tmp_path, title="one").read_bytes()
        assert write_report(small, tmp_path, title="two").read_bytes() != first


class TestWithoutMatplotlib:
    def test_the_page_is_there_and_says_so(self, small, tmp_path, no_pictures):
        page = write_report(small, tmp_path, title="t")
        text = page.read_text(encoding="utf-8")
        assert (
            "matplotlib is not installed. With it (pip install &quot;sae-features[plot]&quot;)" in text
        )
        assert "data:image" not in text
        assert sorted(files(tmp_path)) == ["report.html", "report.md"]

    def test_importing_needs_neither_matplotlib_nor_torch(self):
        program = "import sys, sae_features.report; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert not {"matplotlib", "torch", "transformers"} & set(done.stdout.split())


class TestDegenerate:
    def test_one_row(self, tmp_path, make_row):
        page = write_report([make_row(macro_f1=0.5, dataset="a", method="m")], tmp_path, title="t")
        assert headings(page) == ["What was run", "Warnings", "Scores"]

    def test_plain_rows(self, tmp_path):
        rows = [{"dataset": "a", "method": "m", "fold": i, "accuracy": 0.5 + i / 10} for i in (0, 1)]
        page = write_report(rows, tmp_path, title="t", metric="accuracy")
        assert "0.550" in page.read_text(encoding="utf-8")


class TestErrors:
    def test_rows(self, tmp_path):
        with pytest.raises(InputTypeError, match="^Got results of type int"):
            write_report(3, tmp_path, title="t")
        with pytest.raises(InvalidInputError, match="^Got no 'macro_f1' in any row"):
            write_report([{"accuracy": 0.1}], tmp_path, title="t")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["report.md", "report.pdf", "there.txt"])
    def test_places(self, tmp_path, name, small):
        (tmp_path / "there.txt").touch()
        with pytest.raises(
            InvalidParameterError, match="expected a folder, or a file that ends in .html"
        ):
            write_report(small, tmp_path / name, title="t")

    def test_a_folder_with_a_point(self, tmp_path, small, no_pictures):
        assert write_report(small, tmp_path / "v1.2", title="t") == tmp_path / "v1.2" / "report.html"
