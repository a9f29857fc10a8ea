"""Tokens of real tokenizers are where their characters are."""

from __future__ import annotations

import pytest

from sae_features import ActivationFeaturizer
from sae_features.evaluation.located_tokens import locate_tokens, token_values

TEXTS = ["The Ünïcode नमस्ते 猫 test\nof <b>it</b>!", "Is it 5 o'clock?", " two  spaces ", "Hello"]


@pytest.mark.parametrize("model", ["e5", "smollm2"])
@pytest.mark.parametrize(
    "options", [{}, {"prompt": "query: {}"}, {"max_length": 14, "overflow": "chunk"}], ids=str
)
def test_spans_cover_each_visible_character(model, options):
    featurizer = ActivationFeaturizer(model, layer=1, **options)
    located = locate_tokens(featurizer, TEXTS)
    assert [len(tokens) for tokens in located] == [len(v) for v in token_values(featurizer, TEXTS)]
    has_sink = model == "smollm2" and "prompt" not in options
    for tokens, text in zip(located, TEXTS, strict=True):
        covered = set()
        for token in tokens:
            if token.span is not None:
                assert text[slice(*token.span)] == token.text
                covered.update(range(*token.span))
        visible = {at for at, character in enumerate(text) if not character.isspace()}
        missing = "".join(text[at] for at in sorted(visible - covered))
        sink = text.split()[0] if has_sink and len(text.split()) > 1 else ""
        assert missing == sink


def test_the_sink_of_a_decoder_is_no_token_unless_it_is_alone():
    featurizer = ActivationFeaturizer("smollm2", layer=1)
    located = locate_tokens(featurizer, ["The cat sat", "Hello"])
    assert [[token.text for token in tokens] for tokens in located] == [["cat", "sat"], ["Hello"]]
