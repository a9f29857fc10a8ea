"""The Markdown is what the page is, and shows hostile texts as they are."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_features.report.document import (
    Cell,
    Code,
    Document,
    Example,
    LatentCard,
    Notices,
    Picture,
    Section,
    Table,
    Text,
    printable,
)
from sae_features.report.markdown_page import as_markdown

HOSTILE = (
    "|a|\n# <script>*x*</script> _y_ [l](http://e.vil) ![i](u) `c` ~~s~~ $m$ <!-- & &lt; \\ www.e.vil"
)


def page(*blocks, title="t"):
    return as_markdown(Document(title, (Section("s", blocks),)), "pictures")


def as_html(text):
    markdown_it = pytest.importorskip("markdown_it")
    return (
        markdown_it.MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(text)
    )


def one_line(text):
    return " ".join(printable(text).split())


class TestBlocks:
    def test_tables(self):
        cells = ((Cell("a"), Cell("0.5", "0.4–0.6", is_best=True)), (Cell("b"), Cell("–")))
        text, _ = page(Table("Scores.", ("method", "set"), cells, "How to read it."))
        assert text == (
            "# t\n\n## s\n\n**Scores.** How to read it.\n\n| method | set |\n| --- | --- |\n"
            "| a | **0.5 (0.4–0.6)** ★ |\n| b | – |\n"
        )

    def test_folded_tables(self):
        text, _ = page(Table("A_b <i>", ("x",), ((Cell("a"),),), is_folded=True))
        assert "<details>\n<summary>A_b &lt;i&gt;</summary>\n\n| x |" in text
        assert text.endswith("\n\n</details>\n")

    def test_pictures_are_files(self):
        text, files = page(Picture("p", b"<svg/>", "what [it] shows", "A caption."))
        assert "![what \\[it\\] shows](pictures/p.svg)\n\nA caption." in text
        assert files == {"p.svg": b"<svg/>"}

    def test_latents(self):
        top = (Example(2.5, "you ", "won", " it"), Example(None, "", "", "", b"png", "item 3"))
        text, files = page(LatentCard("latent 3", (("class", "spam"),), top))
        assert "### latent 3\n\nclass: spam\n\n![item 3](pictures/patch_001.png)\n\n" in text
        assert "- 2.5: “you <b>won</b> it”" in text
        assert files == {"patch_001.png": b"png"}

    def test_code_with_backticks(self):
        text, _ = page(Code("a ```` b\nc"))
        assert "`````\na ```` b\nc\n`````" in text

    def test_notices(self):
        assert page(Notices(("one", "two")))[0].endswith("- one\n- two\n")


STARTS = ["# ", "- ", "+ ", "1. ", "123456789) ", "> ", "    ", "===", "---", "~~~", "```"]


class TestHostile:
    def test_it_is_text_wherever_it_stands(self):
        blocks = (
            Text(HOSTILE), Notices((HOSTILE,)),
            Table(HOSTILE, (HOSTILE, "b"), ((Cell(HOSTILE), Cell(HOSTILE, HOSTILE)),), HOSTILE),
            LatentCard(HOSTILE, ((HOSTILE, HOSTILE),), (Example(1.0, HOSTILE, HOSTILE, HOSTILE),)),
        )  # fmt: skip
        shown = as_html(page(*blocks, title=HOSTILE)[0])
        tags = set(re.findall(r"</?([a-z0-9]+)", shown))
        assert tags == {*"h1 h2 h3 p ul li table thead tbody tr th td strong b".split()}
        # title, paragraph, notice, table 6, card 6
        assert html.unescape(re.sub(r"<[^>]*>", "", shown)).count(one_line(HOSTILE)) == 15
        assert shown.count("<td>") == 2

    @pytest.mark.parametrize("start", STARTS)
    def test_beginnings_of_lines(self, start):
        shown = as_html(page(Text(f"{start}x"))[0])
        assert re.fullmatch(r"<h1>t</h1>\n<h2>s</h2>\n<p>[^<]*x</p>\n", shown)
        assert html.unescape(shown).split("<p>")[1].startswith(start.strip())

    @given(st.text(st.characters(codec=None), max_size=40))
    def test_any_text_in_a_cell(self, text):
        shown = as_html(page(Table("T.", ("a", "b"), ((Cell(text), Cell("end")),)))[0])
        cells = re.findall(r"<td>(.*?)</td>", shown, re.DOTALL)
        assert len(cells) == 2
        assert cells[1] == "end"
        assert one_line(html.unescape(cells[0])) == one_line(text)
