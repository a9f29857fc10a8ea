"""The page is whole, asks for nothing, and shows hostile texts as they are."""

from __future__ import annotations

import re
from html.parser import HTMLParser

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
)
from sae_features.report.html_page import as_html

VOID = {"meta", "img", "br"}
HOSTILE = (
    "</td><script>alert(\"1\")</script><img src=x onerror='a'>&lt;&amp; | `x` \x00\x1b\ud800 \u202e"
)


class Reader(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def document(text=HOSTILE, svg=b"<svg/>", png=b"png"):
    blocks = (
        Text(text),
        Code(text),
        Code(text, summary=text),
        Table(text, (text, text), ((Cell(text), Cell(text, text, is_best=True)),), text),
        Table(text, ("", ""), ((Cell(text), Cell(text)),), is_folded=True),
        Picture("p", svg, text, text),
        Notices((text, text)),
        LatentCard(text, ((text, text),), (Example(1.5, text, text, text), Example(None, text))),
        LatentCard(text, (), (Example(2.0, png=png, title=text),)),
    )
    return Document(text, (Section(text, blocks), Section("Second", ())))


def test_nothing_but_what_is_in_the_page():
    reader = Reader(as_html(document()))
    assert not {"script", "link", "iframe", "object", "embed", "form", "svg", "base"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name == "src":
            assert value.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,"))
        elif name == "href":
            assert re.fullmatch(r"#part-\d", value)
        assert name not in {"srcset", "action", "style"}
    page = as_html(document())
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src &#x27;none&#x27;" in page


def test_hostile_texts_are_shown_as_they_are():
    shown = HOSTILE.translate({0: "\ufffd", 0x1B: "\ufffd", 0xD800: "\ufffd"})
    reader = Reader(as_html(document()))
    # title and heading, link and heading of the section, paragraph, code 1 + 2, tables 7 + 3, caption,
    # notices 2, cards 7 + 1
    n = sum(text.count(shown) for text in reader.texts)
    n_in_attributes = sum(str(value).count(shown) for _, value in reader.attributes)
    assert n == 29
    assert n_in_attributes == 4


@given(st.text(st.characters(codec=None), max_size=30))
def test_any_text(text):
    page = as_html(document(text))
    page.encode("utf-8")
    Reader(page)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", page)


def test_structure():
    page = as_html(document("x"))
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert ("lang", "en") in reader.attributes
    assert ("content", "width=device-width, initial-scale=1") in reader.attributes
    assert "prefers-color-scheme: dark" in page
    ids = [value for name, value in reader.attributes if name == "id"]
    assert ids == ["part-1", "part-2"]
    assert [value for name, value in reader.attributes if name == "href"] == ["#part-1", "#part-2"]
    assert reader.tags.count("h1") == 1
    assert reader.tags.count("h2") == 2
    alts = [value for name, value in reader.attributes if name == "alt"]
    assert alts == ["x", "x"]


def test_tables():
    cells = ((Cell("a"), Cell("0.5", "0.4–0.6", is_best=True)), (Cell("b"), Cell("–")))
    table = Table("Scores.", ("method", "set"), cells, "How to read it.")
    page = as_html(Document("t", (Section("s", (table,)),)))
    assert '<thead><tr><th scope="col">method</th><th scope="col">set</th></tr></thead>' in page
    assert '<tr><th scope="row">a</th><td class="best">0.5 ★<small>0.4–0.6</small></td></tr>' in page
    assert '<tr><th scope="row">b</th><td>–</td></tr>' in page
    assert '<p class="caption"><strong>Scores.</strong> How to read it.</p>' in page
    assert "<details>" not in page


def test_tables_without_heads_and_folded_ones():
    table = Table("Facts.", ("", ""), ((Cell("a"), Cell("b")),), is_folded=True)
    page = as_html(Document("t", (Section("s", (table,)),)))
    assert "<details><summary>Facts.</summary>" in page
    assert "<thead>" not in page


def test_latents():
    card = LatentCard("latent 3", (("class", "spam"),), (Example(2.5, "you ", "won", " it"),))
    page = as_html(Document("t", (Section("s", (card,)),)))
    assert "<p>class: spam</p>" in page
    assert '<span class="value">2.5</span><span dir="auto">you <mark>won</mark> it</span>' in page


@pytest.mark.parametrize("text", ["نص عربي", "जीवन\u200d", "👩\u200d💻"])
def test_scripts_of_all_kinds_stay_as_they_are(text):
    assert f"<p>{text}</p>" in as_html(Document("t", (Section("s", (Text(text),)),)))
