from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import WORDS

from sae_features.backbones import tokens
from sae_features.backbones.tokens import TokenPolicy, prompt_parts, tokenize
from sae_features.errors import InvalidParameterError

LONGEST = 64


@pytest.fixture(scope="module")
def wordpiece(bert):
    """``[CLS] text [SEP]``, without a BOS."""
    return bert.tokenizer


@pytest.fixture(scope="module")
def unigram(xlmr):
    """``<s> text </s>``, with spaces as ``▁``."""
    return xlmr.tokenizer


@pytest.fixture(scope="module")
def byte_level():
    """As RoBERTa's: ``<s> text </s>``, with the spans of spaces trimmed to nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(  # the processor takes a first space for one that was added
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def policy(**choices):
    return TokenPolicy(**{"max_length": LONGEST, **choices})


def shown(tokenizer, text, **choices):
    """Return the windows of a text as strings; a token that counts stands in braces."""
    windows = tokenize(tokenizer, [text], policy(**choices))
    assert set(windows.items) == {0}
    return [
        " ".join(
            f"{{{token}}}" if counts else token
            for token, counts in zip(tokenizer.convert_ids_to_tokens(ids), counted, strict=True)
        )
        for ids, counted in zip(windows.ids, windows.counted, strict=True)
    ]


class TestContent:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("the river flows", "[CLS] {the} {river} {flows} [SEP]"),
            ("The  rivers!", "[CLS] {the} {river} {##s} {!} [SEP]"),
            ("ж", "[CLS] {[UNK]} [SEP]"),
            ("the [SEP] river [CLS]", "[CLS] {the} [SEP] {river} [CLS] [SEP]"),
            ("[SEP] the", "[CLS] [SEP] {the} [SEP]"),
            ("[PAD] [MASK]", "[CLS] [PAD] {[MASK]} [SEP]"),
            ("", "[CLS] [SEP]"),
            ("  \n", "[CLS] [SEP]"),
        ],
    )
    def test_word_pieces(self, wordpiece, text, expected):
        assert shown(wordpiece, text) == [expected]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("the river", "<s> {▁the} {▁river} </s>"),
            ("the  river ", "<s> {▁the} {▁} {▁river} {▁} </s>"),
            ("the<s></s> a", "<s> {▁the} <s> </s> {▁a} </s>"),
            ("", "<s> </s>"),
        ],
    )
    def test_unigrams(self, unigram, text, expected):
        assert shown(unigram, text) == [expected]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (" a  ", "<s> {Ġ} {a} {Ġ} {Ġ} </s>"),
            (" ", "<s> {Ġ} </s>"),
            ("é", "<s> {Ã} {©} </s>"),
        ],
    )
    def test_spaces_of_byte_level_tokenizers(self, byte_level, text, expected):
        assert shown(byte_level, text) == [expected]

    def test_all_tokens(self, wordpiece, unigram):
        assert shown(wordpiece, "the [SEP]", tokens="all") == ["{[CLS]} {the} {[SEP]} {[SEP]}"]
        assert shown(unigram, "", tokens="all") == ["{<s>} {</s>}"]
        assert shown(wordpiece, "sea", tokens="all", prompt="query: {}") == [
            "{[CLS]} {query} {:} {sea} {[SEP]}"
        ]


class TestPrompts:
    @pytest.mark.parametrize(
        ("prompt", "text", "expected"),
        [
            ("query: {}", "the sea", "[CLS] query : {the} {sea} [SEP]"),
            ("{} answer:", "the sea", "[CLS] {the} {sea} answer : [SEP]"),
            ("query: {} answer:", "the sea", "[CLS] query : {the} {sea} answer : [SEP]"),
            ("query: {} answer:", "query: {}", "[CLS] query : {query} {:} {{} {}} answer : [SEP]"),
            ("query: {} answer:", "", "[CLS] query : answer : [SEP]"),
            ("{}", "the sea", "[CLS] {the} {sea} [SEP]"),
            ("the {}s", "river", "[CLS] the {river} ##s [SEP]"),
        ],
    )
    def test_they_are_context_and_never_content(self, wordpiece, prompt, text, expected):
        assert shown(wordpiece, text, prompt=prompt) == [expected]

    def test_spaces_belong_to_the_text_only_where_they_stand_in_it(self, byte_level):
        assert shown(byte_level, "a ", prompt="q {} q") == ["<s> q Ġ {a} {Ġ} Ġ q </s>"]
        assert shown(byte_level, "", prompt="q {} q") == ["<s> q Ġ Ġ q </s>"]

    @pytest.mark.parametrize("prompt", ["query:", "{} {}", ""])
    def test_what_is_no_prompt(self, prompt):
        with pytest.raises(InvalidParameterError) as raised:
            policy(prompt=prompt)
        assert str(raised.value) == (
            f"Got prompt={prompt!r}; expected 'chat' or a string with {{}} once for the text, such as "
            "'query: {}'."
        )


class TestChat:
    @staticmethod
    def with_template(tokenizer, template):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    def test_the_text_is_the_turn_of_the_user(self, unigram):
        template = "<s>{% for m in messages %} query: {{ m.content }} answer:{% endfor %}</s>"
        tokenizer = self.with_template(unigram, template)
        assert shown(tokenizer, "the sea", prompt="chat") == [
            "<s> ▁query : {▁the} {▁sea} ▁answer : </s>"
        ]
        assert shown(tokenizer, "", prompt="chat") == ["<s> ▁query : ▁ ▁answer : </s>"]

    def test_the_role_is_that_of_the_user(self, unigram):
        template = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}"
        assert prompt_parts(self.with_template(unigram, template), "chat") == ("user:", "")

    def test_the_text_is_not_rendered_nor_stripped(self, unigram):
        tokenizer = self.with_template(unigram, "query: {{ messages[0].content | trim }}")
        assert shown(tokenizer, " {{ sea }}", prompt="chat") == [
            "▁query : ▁ {▁} {<unk>} {▁sea} {▁} {<unk>}"
        ]

    def test_without_a_template(self, unigram):
        with pytest.raises(InvalidParameterError) as raised:
            tokenize(unigram, ["a"], policy(prompt="chat"))
        assert str(raised.value) == (
            "Got prompt='chat', but this model's tokenizer has no chat template. Give a prompt with {} "
            "instead, such as 'query: {}'."
        )

    @pytest.mark.parametrize(
        "template",
        [
            "query:",
            "{{ messages[0].content }} {{ messages[0].content }}",
            "{{ messages[0].content|upper }}",
        ],
    )
    def test_a_template_that_does_not_hold_the_text_once(self, unigram, template):
        with pytest.raises(InvalidParameterError, match="does not hold the user's text once, as it is"):
            tokenize(self.with_template(unigram, template), ["a"], policy(prompt="chat"))


class TestOverflow:
    def test_truncation_keeps_what_stands_around_the_text(self, wordpiece):
        text = "the river flows near the old stone mountain"
        assert shown(wordpiece, text, max_length=5) == ["[CLS] {the} {river} {flows} [SEP]"]
        assert shown(wordpiece, text, max_length=9, prompt="query: {} answer:") == [
            "[CLS] query : {the} {river} {flows} answer : [SEP]"
        ]

    def test_what_was_truncated_is_told(self, wordpiece):
        texts = ["the river", "the old river", "the old", "the very old river"]
        windows = tokenize(wordpiece, texts, policy(max_length=4))
        assert windows.truncated == [1, 3]
        assert windows.items == [0, 1, 2, 3]
        assert tokenize(wordpiece, texts, policy(max_length=6)).truncated == []

    def test_chunking_keeps_everything(self, wordpiece):
        text = "the river flows near the old stone"
        assert shown(wordpiece, text, max_length=5, overflow="chunk") == [
            "[CLS] {the} {river} {flows} [SEP]",
            "[CLS] {near} {the} {old} [SEP]",
            "[CLS] {stone} [SEP]",
        ]
        windows = tokenize(wordpiece, [text], policy(max_length=5, overflow="chunk"))
        assert (windows.truncated, windows.empty) == ([], [])

    @given(
        texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=30), min_size=1, max_size=5),
        room=st.integers(1, 12),
        prompt=st.sampled_from([None, "query: {}", "query: {} answer:"]),
    )
    def test_every_token_is_in_one_window(self, wordpiece, texts, room, prompt):
        around = {None: 2, "query: {}": 4, "query: {} answer:": 6}[prompt]
        joined = [" ".join(words) for words in texts]
        choices = policy(max_length=room + around, prompt=prompt, overflow="chunk")
        windows = tokenize(wordpiece, joined, choices)
        assert windows.items == sorted(windows.items)
        assert set(windows.items) == set(range(len(texts)))
        for item, words in enumerate(texts):
            own = [w for w in range(len(windows.ids)) if windows.items[w] == item]
            counted = [windows.ids[w][windows.counted[w]] for w in own]
            assert wordpiece.convert_ids_to_tokens(np.concatenate(counted)) == words
            assert all(len(windows.ids[w]) <= room + around for w in own)
            assert len(own) == max(1, -(-len(words) // room))
        assert windows.empty == [item for item, words in enumerate(texts) if not words]

    @pytest.mark.parametrize(
        ("prompt", "max_length", "around"), [(None, 2, 2), ("query: {}", 4, 4), (None, 1, 2)]
    )
    @pytest.mark.parametrize("text", ["the sea", ""])
    def test_no_room_for_text(self, wordpiece, prompt, max_length, around, text):
        with pytest.raises(InvalidParameterError) as raised:
            tokenize(wordpiece, [text], policy(prompt=prompt, max_length=max_length))
        assert str(raised.value) == (
            f"Got max_length={max_length}; the special tokens and the prompt alone take {around}, which "
            "leaves no room for text."
        )

    def test_literal_special_tokens_are_cut_as_text(self, wordpiece):
        assert shown(wordpiece, "the [SEP] sea sky", max_length=4, overflow="chunk") == [
            "[CLS] {the} [SEP] [SEP]",
            "[CLS] {sea} {sky} [SEP]",
        ]

    def test_a_long_run_of_spaces_is_text(self, byte_level):
        windows = tokenize(byte_level, [" " * 100], policy(max_length=20))
        assert (len(windows.ids[0]), windows.truncated) == (20, [0])


class TestBOS:
    @pytest.mark.parametrize(
        ("prepend_bos", "expected"),
        [
            (None, "<s> {▁the} {▁sea} </s>"),
            (True, "<s> {▁the} {▁sea} </s>"),
            (False, "{▁the} {▁sea} </s>"),
        ],
    )
    def test_of_a_tokenizer_that_adds_it(self, unigram, prepend_bos, expected):
        assert shown(unigram, "the sea", prepend_bos=prepend_bos) == [expected]

    def test_of_a_chat_template_that_lacks_it(self, unigram):
        tokenizer = TestChat.with_template(unigram, "{{ messages[0].content }}")
        assert shown(tokenizer, "the", prompt="chat") == ["{▁the}"]
        assert shown(tokenizer, "the", prompt="chat", prepend_bos=True) == ["<s> {▁the}"]
        assert shown(tokenizer, "<s> the", prompt="chat", prepend_bos=True) == ["<s> <s> {▁the}"]

    def test_it_takes_room(self, unigram):
        tokenizer = TestChat.with_template(unigram, "{{ messages[0].content }}")
        choices = {"prompt": "chat", "max_length": 2, "overflow": "chunk"}
        assert shown(tokenizer, "the sea", **choices, prepend_bos=True) == ["<s> {▁the}", "<s> {▁sea}"]

    @pytest.mark.parametrize("prepend_bos", [True, False])
    def test_a_tokenizer_without_one_is_left_alone(self, wordpiece, prepend_bos):
        assert shown(wordpiece, "sea", prepend_bos=prepend_bos) == ["[CLS] {sea} [SEP]"]


def test_texts_without_a_token_that_counts_are_told(wordpiece):
    texts = ["sea", "", "[SEP]", "[CLS] sea"]
    assert tokenize(wordpiece, texts, policy()).empty == [1, 2]
    assert tokenize(wordpiece, texts, policy(tokens="all")).empty == []


def test_a_tokenizer_that_gives_nothing_for_an_empty_text(unigram):
    tokenizer = TestChat.with_template(unigram, "{{ messages[0].content }}")
    windows = tokenize(tokenizer, ["", "the"], policy(prompt="chat"))
    assert windows.ids[0].tolist() == []
    assert (windows.ids[0].dtype, windows.empty, windows.items) == (np.int64, [0], [0, 1])


def test_many_texts_are_tokenised_in_parts(wordpiece, monkeypatch):
    texts = [" ".join(WORDS[:n]) for n in (3, 0, 9, 1, 12, 5, 2)]
    choices = policy(max_length=8)
    whole = tokenize(wordpiece, texts, choices)
    monkeypatch.setattr(tokens, "CHUNK_TEXTS", 2)
    parts = tokenize(wordpiece, texts, choices)
    assert [ids.tolist() for ids in parts.ids] == [ids.tolist() for ids in whole.ids]
    assert (parts.items, parts.truncated, parts.empty) == (whole.items, [2, 4], [1])


def test_padding_and_truncation_of_the_tokenizer_play_no_part(wordpiece):
    tokenizer = copy.deepcopy(wordpiece)
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=20)
    assert shown(tokenizer, "the river flows") == ["[CLS] {the} {river} {flows} [SEP]"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"tokens": "contents"}, "^Got tokens='contents'; expected one of content, all."),
        ({"overflow": "cut"}, "^Got overflow='cut'; expected one of truncate, chunk."),
    ],
)
def test_a_policy_that_cannot_be(choice, message):
    with pytest.raises(InvalidParameterError, match=message):
        policy(**choice)
