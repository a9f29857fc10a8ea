"""Nothing of a text, a label or a class becomes markup, and every character of the text is there."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sae_features.evaluation.explanation import Explanation, LatentContribution
from sae_features.evaluation.explanation_html import AGAINST, FOR, as_html
from sae_features.evaluation.located_tokens import LocatedToken, TokenValue

EVIL = "<script>alert('x')</script> & <b>\"bold\"</b>"


def token(text, start, stop):
    return LocatedToken(0, text[start:stop], text[:start], text[stop:], (start, stop))


def explanation(text=EVIL, label="<i>label</i>", target="<u>pos</u>", spans=((0, 8), (8, 15))):
    parts = [
        TokenValue(token(text, *span), value)
        for span, value in zip(spans, (0.5, -0.25, 0.1), strict=False)
    ]
    latents = (
        LatentContribution(3, label, 1.0, 0.5, 0.5, tuple(parts[:1])),
        LatentContribution(7, None, 0.5, -0.5, -0.25, tuple(parts[1:2])),
    )
    return Explanation(
        item=text, predicted=target, target=target, other="neg", has_two_classes=True, decision=0.35,
        intercept=0.1, latents=latents, tokens=tuple(parts),
    )  # fmt: skip


class Reader(HTMLParser):
    """Tags that are there, and the text of the first marked paragraph."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.open = [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "p":
            self.open = "pre-wrap" in dict(attrs).get("style", "")

    def handle_endtag(self, tag):
        if tag == "p":
            self.open = False

    def handle_data(self, data):
        if self.open:
            self.text += data


OURS = {"div", "p", "span", "table", "thead", "tbody", "tr", "th", "td", "br", "img"}


def test_tags_in_texts_labels_and_classes_are_escaped():
    html = explanation()._repr_html_()
    reader = Reader(html)
    assert set(reader.tags) <= OURS
    assert reader.text == EVIL
    assert "&lt;i&gt;label&lt;/i&gt;" in html
    assert "&lt;u&gt;pos&lt;/u&gt;" in html
    assert "<script" not in html


@given(
    text=st.text(alphabet="ab<>&\"' é", min_size=1, max_size=20),
    cuts=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), max_size=3),
)
def test_the_text_is_whole_whatever_its_tokens(text, cuts):
    spans = [(start, min(start + n, len(text))) for start, n in cuts if start < len(text)]
    assert Reader(as_html(explanation(text, spans=spans))).text == text


def test_colours_tell_the_sides_and_their_strength():
    html = as_html(explanation())
    marks = re.findall(r'<span title="([^"]*)" style="background:rgba\(([\d,]+),([\d.]+)\)"', html)
    assert marks == [
        ("+0.5", ",".join(map(str, FOR)), "0.600"),
        ("-0.25", ",".join(map(str, AGAINST)), "0.300"),
    ]
    key = html.split("</p>")[2]
    assert [unescape(words) for words in re.findall(r">([^<]+)</span>", key)] == [
        "for '<u>pos</u>'", "for 'neg'",
    ]  # fmt: skip


def test_bytes_of_one_character_are_marked_once():
    html = as_html(explanation("a猫b", spans=((1, 2), (1, 2), (2, 3))))
    assert re.findall(r'<span title="([^"]*)"[^>]*>([^<]*)</span>', html) == [
        ("+0.25", "猫"),
        ("+0.1", "b"),
    ]


def test_what_is_shown_and_what_is_left():
    whole = explanation()
    html = as_html(replace(whole, n=1))
    assert html.count("<tr>") == 2  # a head and a row
    assert "1 more latent, together -0.25" in html
    assert "more latent" not in as_html(whole)
    nothing = as_html(replace(whole, latents=(), tokens=()))
    assert Reader(nothing).text == EVIL


@pytest.mark.parametrize("has_class_token", [False, True])
def test_pictures_are_drawn_for_and_against(has_class_token):
    image = np.full((20, 40, 3), 128, np.uint8)
    boxes = {
        (r, c): (c * 20.0, r * 10.0, c * 20.0 + 20, r * 10.0 + 10) for r in range(2) for c in range(2)
    }
    values = dict(zip(boxes, (0.0, 1.0, -1.0, 0.0), strict=True))
    parts = [TokenValue(LocatedToken(0, "", patch=p, box=boxes[p]), values[p]) for p in boxes]
    if has_class_token:
        parts.insert(0, TokenValue(LocatedToken(0, "(no patch)"), 5.0))
    html = as_html(replace(explanation(), item=image, tokens=tuple(parts)))
    drawn = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    ]
    assert [picture.shape for picture in drawn] == [(20, 40, 3)] * 2
    for picture, (row, column), color in zip(drawn, ((0, 1), (1, 0)), (FOR, AGAINST), strict=True):
        distance = np.abs(picture - np.array(color)).sum(axis=2)
        marked = distance < distance.max() / 2
        expected = np.zeros((20, 40), bool)
        expected[row * 10 : row * 10 + 10, column * 20 : column * 20 + 20] = True
        np.testing.assert_array_equal(marked, expected)
