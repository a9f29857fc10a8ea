"""Tokens are where the tokenizer, asked alone, says that they are, and as many as codes have rows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import BERT, MAX_POSITIONS, WORDS

from sae_features import ActivationFeaturizer, SAEFeaturizer, load_backbone
from sae_features.architectures import Architecture, Patches, Text
from sae_features.errors import SAEFeaturesWarning
from sae_features.evaluation.located_tokens import LocatedToken, locate_tokens, token_values
from sae_features.families import ModelFamily
from sae_features.parameters import POOLINGS
from sae_features.testing import write_tiny

LLAMA = Architecture("llama", (Text(first_token_is_sink=True),))
VIT = Architecture("vit", (Patches(),), final_norm=False)
TEXTS = ["A calm RIVER", "", "the sea, and rivers", "snow"]
LONG = " ".join(WORDS[i % len(WORDS)] for i in range(2 * MAX_POSITIONS))


def shown(tokens):
    return [token.text for token in tokens]


def spans_by_tokenizer(model, text):
    """Characters of each token, special ones left out."""
    offsets = load_backbone(model).tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return [tuple(span) for span in offsets if span[0] < span[1]]


class TestTexts:
    def test_tokens_have_the_characters_of_the_text(self, tiny_bert):
        calm, empty, sea, snow = locate_tokens(ActivationFeaturizer(tiny_bert), TEXTS)
        assert shown(calm) == ["A", "calm", "RIVER"]  # as written, though the tokenizer lowers them
        assert [token.span for token in calm] == [(0, 1), (2, 6), (7, 12)]
        assert empty == []
        assert shown(sea) == ["the", "sea", ",", "and", "river", "s"]
        assert str(sea[-1]) == "the sea, and river[s]"
        assert snow == [LocatedToken(0, "snow", span=(0, 4))]

    def test_context_is_cut_at_40_characters(self, tiny_bert):
        text = " ".join(["stone"] * 7 + ["river"] + ["stone"] * 7)
        token = locate_tokens(ActivationFeaturizer(tiny_bert), [text])[0][7]
        assert (token.text, token.span) == ("river", (42, 47))
        assert token.before == "…" + text[2:42]
        assert token.after == text[47:87] + "…"

    def test_a_prompt_is_no_part_of_the_text(self, tiny_bert):
        featurizer = ActivationFeaturizer(tiny_bert, prompt="query: {} answer")
        assert locate_tokens(featurizer, TEXTS) == locate_tokens(ActivationFeaturizer(tiny_bert), TEXTS)

    def test_all_tokens(self, tiny_bert):
        featurizer = ActivationFeaturizer(tiny_bert, prompt="query: {}", tokens="all")
        (tokens,) = locate_tokens(featurizer, ["a sea"])
        assert shown(tokens) == ["[CLS]", "query", ":", "a", "sea", "[SEP]"]
        assert [token.span for token in tokens] == [None, None, None, (0, 1), (2, 5), None]
        assert [token.position for token in tokens] == list(range(6))

    def test_a_special_token_within_a_text_does_not_shift_the_others(self, tiny_bert):
        (tokens,) = locate_tokens(ActivationFeaturizer(tiny_bert), ["a [SEP] calm sea"])
        assert [(token.text, token.span) for token in tokens] == [
            ("a", (0, 1)), ("calm", (8, 12)), ("sea", (13, 16)),
        ]  # fmt: skip

    @pytest.mark.parametrize("overflow", ["truncate", "chunk"])
    def test_long_texts(self, tiny_bert, overflow):
        (tokens,) = locate_tokens(ActivationFeaturizer(tiny_bert, overflow=overflow), [LONG])
        expected = spans_by_tokenizer(tiny_bert, LONG)
        n = MAX_POSITIONS - 2 if overflow == "truncate" else len(expected)
        assert [token.span for token in tokens] == expected[:n]
        assert [token.position for token in tokens] == list(range(n))

    @pytest.mark.parametrize("overflow", ["truncate", "chunk"])
    @pytest.mark.parametrize("text", ["the quick fox", "猫 ü", "x" * 30, "a"])
    def test_bytes_of_a_character_share_it_and_sinks_are_left_out(
        self, tmp_path, use_families, text, overflow
    ):
        use_families(ModelFamily("tiny-llama", (LLAMA,)))
        folder = write_tiny(LLAMA, tmp_path / "llama", template="plain")
        featurizer = ActivationFeaturizer(folder, max_length=8, overflow=overflow)
        (tokens,) = locate_tokens(featurizer, [text])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAEFeaturesWarning)
            (states,) = token_values(featurizer, [text])
        expected = [
            (character, (at, at + 1)) if character != " " else ("Ġ", None)
            for at, character in enumerate(text)
            for _ in character.encode()
        ][1 if len(text) > 1 else 0 :]  # the first is a sink, unless it is alone
        if overflow == "truncate":
            expected = expected[:7]
        assert [(token.text, token.span) for token in tokens] == expected
        assert len(states) == len(expected)

    def test_an_embedding_is_one_token(self):
        featurizer = ActivationFeaturizer(site="embedding")
        assert locate_tokens(featurizer, ["a sea"]) == [[LocatedToken(0, "a sea", span=(0, 5))]]
        assert token_values(featurizer, ["a sea"])[0].shape == (1, 384)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(alphabet=" aseaé[]SEP.x\n", max_size=90), min_size=1, max_size=3),
    tokens=st.sampled_from(["content", "all"]),
    prompt=st.sampled_from([None, "query: {}", "{} a sea"]),
    overflow=st.sampled_from(["truncate", "chunk"]),
)
def test_there_is_a_token_for_each_row_of_codes(tiny_bert, texts, tokens, prompt, overflow):
    featurizer = SAEFeaturizer(
        tiny_bert, layer=1, sae="random:20:3", tokens=tokens, prompt=prompt, overflow=overflow,
        max_length=24, cache=False,
    )  # fmt: skip
    located = locate_tokens(featurizer, texts)
    assert [len(of_text) for of_text in located] == [
        len(rows.toarray()) for rows in token_values(featurizer, texts)
    ]
    for of_text, text in zip(located, texts, strict=True):
        assert [token.position for token in of_text] == list(range(len(of_text)))
        assert all(text[slice(*token.span)] == token.text for token in of_text if token.span)
        if tokens == "content":  # in order, and none twice
            starts = [token.span[0] for token in of_text if token.span]
            assert starts == sorted(set(starts))


class TestValues:
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("token_top_n", [None, 2])
    def test_pooled_they_are_the_features(self, tiny_bert, tiny_sae_folder, pooling, token_top_n):
        featurizer = SAEFeaturizer(
            tiny_bert, sae=tiny_sae_folder(), pooling=pooling, token_top_n=token_top_n
        )
        texts = [TEXTS[0], TEXTS[2]]
        pool = {
            "max": lambda v: v.max(axis=0), "mean": lambda v: v.mean(axis=0),
            "sum": lambda v: v.sum(axis=0), "first": lambda v: v[0], "last": lambda v: v[-1],
            "count": lambda v: (v != 0).sum(axis=0),
        }[pooling]  # fmt: skip
        expected = [pool(values.toarray()) for values in token_values(featurizer, texts)]
        np.testing.assert_allclose(featurizer.transform(texts).toarray(), expected, rtol=1e-6)

    def test_hidden_states(self, tiny_bert):
        featurizer = ActivationFeaturizer(
            tiny_bert, layer=2, tokens="all", prompt="query: {}", pooling="mean"
        )
        values = token_values(featurizer, TEXTS)
        assert [len(of_text) for of_text in values] == [7, 4, 10, 5]
        expected = [of_text.mean(axis=0) for of_text in values]
        np.testing.assert_allclose(featurizer.transform(TEXTS), expected, rtol=1e-5, atol=1e-6)


class TestImages:
    @pytest.fixture
    def vit(self, tmp_path, use_families):
        use_families(ModelFamily("tiny-vit", architectures=(VIT, BERT)))
        return write_tiny(VIT, tmp_path / "vit")

    def test_a_patch_is_where_the_picture_differs(self, vit):
        featurizer = ActivationFeaturizer(vit, layer=0, site="resid_pre")
        dark = np.zeros((28, 56, 3), np.uint8)  # comes out at 28 x 28: patches of 14 x 7 pixels
        marked = dark.copy()
        marked[14:21, 42:56] = 255
        (tokens, _) = locate_tokens(featurizer, [marked, dark])
        with_mark, without = token_values(featurizer, [marked, dark])
        changed = np.abs(with_mark - without).max(axis=1).argmax()  # neighbours change at their rims
        assert tokens[changed] == LocatedToken(11, "", patch=(2, 3), box=(42.0, 14.0, 56.0, 21.0))
        assert str(tokens[changed]) == "patch in row 2, column 3: pixels (42, 14) to (56, 21)"
        assert [token.patch for token in tokens] == [
            (row, column) for row in range(4) for column in range(4)
        ]

    def test_what_is_no_patch_says_so(self, vit):
        image = np.zeros((28, 28), np.uint8)
        (everything,) = locate_tokens(ActivationFeaturizer(vit, tokens="all"), [image])
        (content,) = locate_tokens(ActivationFeaturizer(vit), [image])
        assert everything[0] == LocatedToken(0, "(no patch)")
        assert [(token.patch, token.box) for token in everything[1:]] == [
            (token.patch, token.box) for token in content
        ]
        assert [token.position for token in everything] == list(range(17))
