"""Answers by likelihood equal those computed by hand: one sequence at a time, without padding."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from tiny import BERT
from tokenizers import Tokenizer, models, pre_tokenizers

from sae_features.architectures import Architecture, Text
from sae_features.errors import (
    InputTypeError,
    InvalidInputError,
    InvalidParameterError,
    SAEFeaturesWarning,
)
from sae_features.evaluation.behaviour import Answers, answer_by_likelihood
from sae_features.families import ModelFamily
from sae_features.testing.tiny import write_tiny
from sae_features.training.language_models import load_language_model

LLAMA = Architecture("llama", (Text(first_token_is_sink=True),))
FAMILY = ModelFamily("any", (LLAMA, BERT))
PROMPTS = ["the river is", "Q: who? A:", "a", "in the old valley there was a", "snow"]
CHOICES = [
    ["near", "far away"], ["I", "you", "nobody at all"], ["b", "c"], ["stone", "brook", "x"],
    ["is falling", "melts"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def _families(use_families):
    use_families(FAMILY)


def with_head(folder):
    torch.manual_seed(3)
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = {"llama": transformers.AutoModelForCausalLM, "bert": transformers.AutoModelForMaskedLM}
    model = kind[config.model_type].from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (1.5 / parameter[0].numel() ** 0.5))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["plain", "bos", "eos"])
def folder(request, tmp_path_factory):
    """A random Llama whose tokens are bytes; with a BOS, an EOS that it adds to texts, or neither."""
    path = tmp_path_factory.mktemp("models") / request.param
    return with_head(write_tiny(LLAMA, path, template=request.param))


@pytest.fixture
def lm(folder):
    return load_language_model(folder)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "plain"
    return with_head(write_tiny(LLAMA, folder, template="plain"))


@pytest.fixture
def plain(plain_folder):
    return load_language_model(plain_folder)


@pytest.fixture(scope="module")
def merging_folder(tmp_path_factory):
    """The same with a tokenizer that merges "b" and "c"."""
    folder = tmp_path_factory.mktemp("models") / "merging"
    write_tiny(LLAMA, folder, template="plain", vocab_size=300)
    alphabet = ["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "bc"]
    vocabulary = {token: i for i, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("b", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=96
    ).save_pretrained(folder)
    return with_head(folder)


@pytest.fixture
def merging(merging_folder):
    return load_language_model(merging_folder)


@torch.inference_mode()
def by_hand(lm, ids, n_scored):
    """The log-probability of the last tokens of a sequence, in float64."""
    logs = lm.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    positions = range(len(ids) - n_scored, len(ids))
    return sum(float(logs[position - 1, ids[position]]) for position in positions)


def bytes_of(lm, text):
    """Token ids as the tiny tokenizer gives them, without an EOS at the end."""
    ids = lm.backbone.tokenizer(text)["input_ids"]
    return ids[:-1] if ids and ids[-1] == lm.backbone.tokenizer.eos_token_id else ids


def expected_sums(lm, separator=" "):
    return [
        [
            by_hand(lm, bytes_of(lm, prompt + separator + choice), len(separator + choice))
            for choice in of_item
        ]
        for prompt, of_item in zip(PROMPTS, CHOICES, strict=True)
    ]


class TestLikelihoods:
    def test_they_are_those_of_one_sequence_at_a_time(self, lm):
        answers = answer_by_likelihood(lm, PROMPTS, CHOICES, normalise="none")
        assert len(answers) == 5
        for found, scores, expected in zip(
            answers.log_likelihoods, answers.scores, expected_sums(lm), strict=True
        ):
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, expected, rtol=1e-5)
            np.testing.assert_array_equal(scores, found)
        lengths = [[len(choice) + 1 for choice in of_item] for of_item in CHOICES]
        assert [counts.tolist() for counts in answers.n_tokens] == lengths

    def test_the_size_of_a_batch_is_of_no_influence(self, lm):
        expected = answer_by_likelihood(lm, PROMPTS, CHOICES, batch_size=1)
        for batch_size in (2, 8, None):
            found = answer_by_likelihood(lm, PROMPTS, CHOICES, batch_size=batch_size)
            for one, other in zip(found.log_likelihoods, expected.log_likelihoods, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)

    @pytest.mark.parametrize(
        ("normalise", "length"),
        [("tokens", lambda choice: len(choice) + 1), ("characters", len)],
    )
    def test_they_are_divided_by_tokens_or_characters(self, lm, normalise, length):
        answers = answer_by_likelihood(lm, PROMPTS, CHOICES, normalise=normalise)
        for scores, sums, of_item in zip(answers.scores, answers.log_likelihoods, CHOICES, strict=True):
            np.testing.assert_allclose(scores, sums / [length(choice) for choice in of_item])

    def test_white_space_may_stand_on_either_side(self, lm):
        expected = answer_by_likelihood(lm, PROMPTS, CHOICES, normalise="none")
        spaced = [[f" {choice}" for choice in of_item] for of_item in CHOICES]
        found = answer_by_likelihood(lm, PROMPTS, spaced, normalise="none")
        for one, other in zip(found.scores, expected.scores, strict=True):
            np.testing.assert_array_equal(one, other)
        found = answer_by_likelihood(lm, [f"{prompt} " for prompt in PROMPTS], CHOICES, normalise="none")
        for one, other in zip(found.scores, expected.scores, strict=True):  # all less that of the space
            np.testing.assert_allclose(one - one[0], other - other[0], atol=1e-4)
            assert (one > other).all()
        lines = answer_by_likelihood(lm, PROMPTS, CHOICES, separator="\n", normalise="none")
        for found, sums in zip(lines.log_likelihoods, expected_sums(lm, "\n"), strict=True):
            np.testing.assert_allclose(found, sums, rtol=1e-5)

    def test_the_same_choices_for_all(self, lm):
        found = answer_by_likelihood(lm, PROMPTS, ("yes", "no"))
        expected = answer_by_likelihood(lm, PROMPTS, [["yes", "no"]] * 5)
        np.testing.assert_array_equal(np.stack(found.scores), np.stack(expected.scores))

    def test_where_a_choice_merges_with_the_prompt_all_are_scored_from_there(self, merging):
        vocabulary = merging.backbone.tokenizer.get_vocab()
        a, b, bc, d, x = (vocabulary[token] for token in ("a", "b", "bc", "d", "x"))
        found = answer_by_likelihood(merging, ["ab"], [["c", "d", "cx"]], separator="", normalise="none")
        expected = [
            by_hand(merging, ids, n) for ids, n in (([a, bc], 1), ([a, b, d], 2), ([a, bc, x], 2))
        ]
        np.testing.assert_allclose(found.scores[0], expected, rtol=1e-5)
        assert found.n_tokens[0].tolist() == [1, 2, 2]
        alone = answer_by_likelihood(merging, ["ab"], [["d", "x"]], separator="", normalise="none")
        expected = [by_hand(merging, ids, 1) for ids in ([a, b, d], [a, b, x])]
        np.testing.assert_allclose(alone.scores[0], expected, rtol=1e-5)

    def test_choices_of_one_token_cost_one_run(self, plain):
        seen = []
        handle = plain.model.register_forward_pre_hook(
            lambda _module, _args, inputs: seen.append(tuple(inputs["input_ids"].shape)),
            with_kwargs=True,
        )
        answer_by_likelihood(plain, ["Q: who? A: "] * 2, ["I", "you", "u"])
        handle.remove()
        assert sum(rows for rows, _ in seen) == 2  # up to the space, and up to "yo"

    def test_they_are_shares_of_what_may_follow(self, plain):
        ascii_letters = [chr(i) for i in range(33, 127)]
        found = answer_by_likelihood(plain, ["ab"], ascii_letters, separator="", normalise="none")
        ids = [plain.backbone.tokenizer(letter)["input_ids"][0] for letter in ascii_letters]
        with torch.inference_mode():
            inputs = torch.tensor([bytes_of(plain, "ab")])
            shares = plain.model(input_ids=inputs).logits[0, -1].double().softmax(dim=-1)
        np.testing.assert_allclose(np.exp(found.scores[0]), shares[ids].numpy(), rtol=1e-5)


class TestAnswers:
    def test_the_largest_score_is_chosen(self, lm):
        answers = answer_by_likelihood(lm, PROMPTS, CHOICES)
        for item, scores in enumerate(answers.scores):
            first, second = sorted(scores, reverse=True)[:2]
            assert answers.chosen[item] == list(scores).index(first)
            assert answers.margins[item] == first - second
        assert answers.chosen.dtype == np.int64

    def test_of_equals_the_first_is_chosen(self, plain):
        answers = answer_by_likelihood(plain, ["a"], ["b", "b"])
        assert (answers.chosen[0], answers.margins[0]) == (0, 0.0)

    def test_what_is_right(self):
        scores = (np.array([-1.0, -2.0]), np.array([-3.0, -2.0, -5.0]))
        answers = Answers(scores, scores, scores, np.array([0, 1]), np.array([1.0, 1.0]))
        assert answers.is_right([0, 2]).tolist() == [True, False]
        assert answers.is_right(np.array([1, 1])).dtype == bool
        with pytest.raises(InvalidInputError, match=r"^Got right=2 for item 0; expected 0 to 1, its"):
            answers.is_right([2, 0])
        with pytest.raises(
            InvalidInputError, match=r"^Got right of shape \(1,\) and type int64; expected 2"
        ):
            answers.is_right([1])
        with pytest.raises(InvalidInputError, match="^Got right of shape .* and type float64"):
            answers.is_right([1.0, 0.0])


class TestLongPrompts:
    def test_they_lose_their_beginning_but_not_what_stands_first(self, lm):
        long = "a long story of an old river " * 3
        with pytest.warns(
            SAEFeaturesWarning, match="^1 of 2 prompts are longer than 20 tokens with their"
        ):
            found = answer_by_likelihood(
                lm, ["a", long], [["b", "c"], ["ends", "x"]], max_length=20, normalise="none"
            )
        has_bos = (
            bytes_of(lm, "a")[0] == lm.backbone.tokenizer.bos_token_id and len(bytes_of(lm, "a")) > 1
        )
        for choice, score in zip(("ends", "x"), found.scores[1], strict=True):
            ids = bytes_of(lm, long + choice)
            cut = len(bytes_of(lm, long + "ends")) - 21  # the same for both; the last is not read
            kept = ids[:1] + ids[1 + cut :] if has_bos else ids[cut:]
            assert score == pytest.approx(by_hand(lm, kept, len(choice)), rel=1e-5)

    def test_what_the_model_takes_is_the_most(self, plain):
        longest = plain.backbone.max_length
        with pytest.raises(InvalidParameterError, match=f"this model takes at most {longest} tokens"):
            answer_by_likelihood(plain, PROMPTS, CHOICES, max_length=longest + 1)
        prompt = "x" * longest
        with pytest.warns(SAEFeaturesWarning, match=f"longer than {longest} tokens"):
            answer_by_likelihood(plain, [prompt], ["bb", "c"], separator="")
        answer_by_likelihood(plain, [prompt], ["b", "c"], separator="")  # the last token is not read

    def test_choices_must_fit(self, plain):
        choices = [["c", "d"], ["c" * 12, "d"]]
        with pytest.raises(InvalidInputError, match="^Got prompt and choices as item 1 of which the"):
            answer_by_likelihood(plain, ["a", "b"], choices, max_length=11, separator="\n")


class TestBadInput:
    def test_nothing_precedes_a_choice(self, lm):
        if bytes_of(lm, "") and lm.backbone.tokenizer.bos_token_id is not None:
            found = answer_by_likelihood(lm, [""], ["a", "b"], normalise="none")  # the BOS does
            expected = [by_hand(lm, bytes_of(lm, choice), 1) for choice in ("a", "b")]
            np.testing.assert_allclose(found.scores[0], expected, rtol=1e-5)
            return
        with pytest.raises(
            InvalidInputError, match="^Got prompt and choices as item 0 of which the model"
        ):
            answer_by_likelihood(lm, [""], ["a", "b"])

    @pytest.mark.parametrize(
        ("choices", "message"),
        [
            ([["a", "b"]], "Got choices of 1 items for 2 prompts; expected those of each, or one"),
            ([["a", "b"], ["a"]], "Got choices ['a'] for item 1; expected two or more texts."),
            (["a"], "Got choices ['a'] for item 0; expected two or more texts."),
            ([["a", "b"], "ab"], "Got choices 'ab' for item 1; expected two or more texts."),
            ([["a", "b"], ["a", None]], "Got choices ['a', None] for item 1; expected two or more"),
            (
                [["a", "b"], ["a", ""]],
                "Got the choice '' for item 1, which adds no token to its prompt.",
            ),
        ],
    )
    def test_choices_that_cannot_be_are_named(self, plain, choices, message):
        with pytest.raises(InvalidInputError, match="^" + re.escape(message)):
            answer_by_likelihood(plain, ["q", "r"], choices, separator="")

    def test_parameters_and_prompts_are_checked_first(self):
        with pytest.raises(InvalidParameterError, match="^Got normalise='sum'; expected one of tokens"):
            answer_by_likelihood("nowhere", ["a"], ["b", "c"], normalise="sum")
        with pytest.raises(InvalidParameterError, match="^Got batch_size=0; expected None or"):
            answer_by_likelihood("nowhere", ["a"], ["b", "c"], batch_size=0)
        with pytest.raises(InputTypeError, match="expected"):
            answer_by_likelihood("nowhere", "a prompt", ["b", "c"])

    def test_a_masked_model_does_not_answer(self, tiny_bert, tmp_path):
        folder = tmp_path / "masked"
        shutil.copytree(tiny_bert, folder)
        with pytest.raises(
            InvalidParameterError, match="which fills in masked tokens; expected a causal"
        ):
            answer_by_likelihood(with_head(folder), ["a"], ["b", "c"])

    def test_what_is_not_finite_is_named(self, plain):
        with torch.no_grad():
            plain.model.lm_head.weight.fill_(torch.nan)
        with pytest.raises(
            InvalidInputError, match="^Got a log-likelihood of nan from the model .* item 0"
        ):
            answer_by_likelihood(plain, PROMPTS, CHOICES)
