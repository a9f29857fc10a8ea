"""SmolLM2's answers to easy questions, beside what transformers alone gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_features.evaluation.behaviour import answer_by_likelihood
from sae_features.packaged_assets import fetch

QUESTIONS = [
    ("The capital of France is", ["Paris", "London", "Berlin"], 0),
    ("The opposite of hot is", ["wet", "cold", "loud"], 1),
    ("Question: How many legs does a spider have?\nAnswer:", ["two", "four", "eight"], 2),
    ("A baby cat is called a", ["puppy", "kitten", "calf"], 1),
    ("Snow is white, and grass is", ["a bright shade of green", "black"], 0),
    ("The sun rises in the", ["east", "morning of the week of the month"], 0),
]


@torch.inference_mode()
def by_transformers(prompts, choices):
    """Sums of log-probabilities, one sequence at a time: prompt and choice, and the prompt alone."""
    folder = fetch("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums, counts = [], []
    for prompt, of_item in zip(prompts, choices, strict=True):
        n_context = len(tokenizer(prompt).input_ids)
        of_choices = []
        for choice in of_item:
            ids = tokenizer(f"{prompt} {choice}", return_tensors="pt").input_ids
            logs = model(ids).logits[0, n_context - 1 : -1].double().log_softmax(dim=-1)
            of_choices.append(logs.gather(1, ids[0, n_context:, None])[:, 0])
        sums.append([float(logs.sum()) for logs in of_choices])
        counts.append([len(logs) for logs in of_choices])
    return sums, counts


@pytest.fixture(scope="module")
def questions():
    prompts, choices, right = zip(*QUESTIONS, strict=True)
    return list(prompts), list(choices), list(right)


@pytest.fixture(scope="module")
def answers(questions):
    return answer_by_likelihood("smollm2", *questions[:2])


def test_likelihoods_are_those_of_transformers(answers, questions):
    sums, counts = by_transformers(*questions[:2])
    for item, (expected, of_item) in enumerate(zip(sums, counts, strict=True)):
        np.testing.assert_allclose(answers.log_likelihoods[item], expected, rtol=1e-4)
        assert answers.n_tokens[item].tolist() == of_item
        means = np.divide(expected, of_item)
        np.testing.assert_allclose(answers.scores[item], means, rtol=1e-4)
        assert answers.chosen[item] == means.argmax()


def test_easy_questions_are_answered(answers, questions):
    assert answers.is_right(questions[2]).sum() >= 5
    assert (answers.margins > 0).all()
