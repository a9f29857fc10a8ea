"""Latents are shown with the token that they fire on, in texts and in pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.evaluation.located_tokens import LocatedToken, TokenValue
from sae_features.evaluation.top_activations import TopItem
from sae_features.report.document import Example
from sae_features.report.latent_cards import SIDE, latent_cards

TEXT = "you have won a prize"


def examples(*top, items=None):
    (card,) = latent_cards([{"latent": 5, "top": list(top)}], items)
    return list(card.examples)


class TestCards:
    def test_title_and_facts(self):
        record = {
            "latent": 12, "label": "money", "class": "spam", "importance": -0.512, "coefficient": 2.0,
            "importance_std": 0.25, "active": 0.125, "odd": None,
        }  # fmt: skip
        (card,) = latent_cards([record])
        assert card.title == "latent 12: money"
        assert card.facts == (
            ("class", "spam"), ("importance", "−0.512"), ("coefficient", "+2"),
            ("active in", "12.5% of items"), ("importance_std", "0.25"),
        )  # fmt: skip
        assert card.examples == ()

    def test_without_label(self):
        assert latent_cards([{"latent": 0}])[0].title == "latent 0"

    def test_errors(self):
        with pytest.raises(InputTypeError, match="^Got int as latent 1; expected a dict"):
            latent_cards([{"latent": 1}, 2])
        with pytest.raises(InvalidInputError, match="^Got no 'latent' in latent 0; it has label"):
            latent_cards([{"label": "a"}])
        with pytest.raises(InputTypeError, match="^Got float in 'top' of latent 0; expected a text"):
            examples(3.5)
        with pytest.raises(
            InvalidInputError, match="^Got an example with value, word in 'top' of latent 0"
        ):
            examples({"value": 1, "word": "x"})


class TestTexts:
    @pytest.mark.parametrize(
        "entry",
        [
            {"text": TEXT, "start": 9, "end": 12, "value": 2.5},
            {"before": "you have ", "token": "won", "after": " a prize", "value": 2.5},
            {"tokens": ["you", " have ", "won", " a prize"], "position": 2, "value": 2.5},
        ],
    )
    def test_the_token_is_marked(self, entry):
        assert examples(entry) == [Example(2.5, "you have ", "won", " a prize")]

    def test_whole_texts(self):
        whole = [Example(None, TEXT)]
        assert (
            examples(TEXT)
            == examples({"text": TEXT})
            == examples({"tokens": ["you have", TEXT[8:]]})
            == whole
        )

    def test_long_texts_are_cut_around_the_token(self):
        text = "a" * 500 + "TOKEN" + "b" * 500
        (example,) = examples({"text": text, "start": 500, "end": 505})
        assert example.token == "TOKEN"
        assert example.before == "…" + "a" * 120
        assert example.after == "b" * 120 + "…"
        assert len(examples(text)[0].before) == 241

    def test_top_items(self):
        token = LocatedToken(2, "won", "you have ", " a prize", span=(9, 12))
        item = TopItem(0, 2.5, (TokenValue(token, 2.5),))
        expected = [Example(2.5, "you have ", "won", " a prize")]
        assert examples(item) == examples(item, items=[TEXT]) == expected
        longer = TEXT + " " * 10 + "or not" * 20
        assert examples(item, items=[longer])[0].after.startswith(" a prize          or not")
        assert examples(TopItem(0, 1.0, ()), items=[TEXT]) == [Example(1.0, TEXT)]


class TestPictures:
    picture = np.zeros((20, 40, 3), np.uint8)

    def check(self, example):
        shown = Image.open(io.BytesIO(example.png))
        assert shown.size == (SIDE, SIDE // 2)
        pixels = np.asarray(shown.convert("RGB"))
        coloured = np.argwhere((pixels == (0xD5, 0x5E, 0x00)).all(axis=2))
        # the frame of the patch from (10, 5) to (20, 10), four times as large
        assert coloured.min(axis=0).tolist() == pytest.approx([20, 40], abs=1)
        assert coloured.max(axis=0).tolist() == pytest.approx([40, 80], abs=1)

    def test_the_patch_is_framed(self):
        (example,) = examples({"image": self.picture, "box": (10, 5, 20, 10), "value": 3})
        assert (example.value, example.title) == (3.0, "picture, the patch framed")
        self.check(example)

    def test_top_items(self):
        token = LocatedToken(0, "", patch=(0, 1), box=(10, 5, 20, 10))
        item = TopItem(1, 3.0, (TokenValue(token, 3.0),))
        (example,) = examples(item, items=[self.picture + 9, self.picture])
        self.check(example)
        assert example.title == "item 1, the patch framed"
        assert examples(item)[0].before == f"item 1: {token}"

    def test_without_a_box(self):
        (example,) = examples({"image": Image.new("L", (10, 10)), "title": "grey"})
        assert (example.title, example.value) == ("grey", None)

    def test_what_is_no_picture(self, tmp_path):
        path = tmp_path / "x.png"
        path.write_text("no picture")
        with pytest.raises(
            InvalidInputError, match="^A picture in 'top' of latent 0 cannot be shown. The file"
        ):
            examples({"image": path})
        with pytest.raises(InputTypeError, match="^A picture in 'top' of latent 0 cannot be shown."):
            examples({"image": 7})
