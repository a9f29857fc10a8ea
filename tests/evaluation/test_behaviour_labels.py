"""Labels of behaviour: answered once, kept, and checked."""

from __future__ import annotations

import numpy as np
import pytest

from sae_features.errors import InvalidInputError
from sae_features.evaluation import behaviour_labels
from sae_features.evaluation.behaviour_labels import label_behaviour

PROMPTS = [f"question {i}" for i in range(6)]
CHOICES = [["a", "b"]] * 6


class Model:
    """What `find_model` gives, and answers without a model: the first choice of even questions."""

    name, weights_digest, processor_digest = "tiny", "w", "p"

    def __init__(self):
        self.asked = []

    def answer(self, model, prompts, choices, **_):
        self.asked += prompts
        chosen = [int(prompt.split()[1]) % 2 for prompt in prompts]
        return type("Answers", (), {"chosen": np.array(chosen)})()


@pytest.fixture
def model(monkeypatch):
    found = Model()
    monkeypatch.setattr(behaviour_labels, "find_model", lambda _: found)
    monkeypatch.setattr(behaviour_labels, "answer_by_likelihood", found.answer)
    monkeypatch.setattr(behaviour_labels, "load_language_model", lambda name, device: name)
    monkeypatch.setattr(behaviour_labels, "CHUNK", 2)
    return found


def test_labels_are_whether_the_answer_is_right(model):
    data = label_behaviour("tiny", PROMPTS, CHOICES, [0, 0, 0, 1, 1, 1])
    assert data.items == PROMPTS
    assert data.labels.tolist() == ["right", "wrong", "right", "right", "wrong", "right"]
    assert data.source["share right"] == pytest.approx(4 / 6)


def test_answers_are_kept_and_an_interrupted_run_goes_on(model, tmp_path, monkeypatch):
    answer = model.answer

    def interrupted(*args, **options):
        if len(model.asked) >= 4:
            raise KeyboardInterrupt
        return answer(*args, **options)

    monkeypatch.setattr(behaviour_labels, "answer_by_likelihood", interrupted)
    with pytest.raises(KeyboardInterrupt):
        label_behaviour("tiny", PROMPTS, CHOICES, [0] * 6, folder=tmp_path)
    monkeypatch.setattr(behaviour_labels, "answer_by_likelihood", answer)
    label_behaviour("tiny", PROMPTS, CHOICES, [0] * 6, folder=tmp_path)
    assert model.asked == PROMPTS  # each once
    label_behaviour("tiny", PROMPTS[::-1], CHOICES, [1] * 6, folder=tmp_path)  # other keys, no question
    assert model.asked == PROMPTS


def test_other_choices_other_ways_and_damage_are_asked_again(model, tmp_path):
    label_behaviour("tiny", PROMPTS, CHOICES, [0] * 6, folder=tmp_path)
    label_behaviour("tiny", PROMPTS, [["a", "c"]] * 6, [0] * 6, folder=tmp_path)
    label_behaviour("tiny", PROMPTS, CHOICES, [0] * 6, folder=tmp_path, normalise="none")
    assert len(model.asked) == 18
    for file in (tmp_path / "behaviour").iterdir():
        file.write_text("{")
    label_behaviour("tiny", PROMPTS, CHOICES, [0] * 6, folder=tmp_path)
    assert len(model.asked) == 24


@pytest.mark.parametrize(
    ("right", "message"),
    [
        ([0], "got 6 prompts, 6 lists of choices and 1 right answers; expected equally many."),
        ([0, 2, 0, 0, 0, 0], "got right=2 for item 1; expected 0 to 1."),
        ([0, 1, 0, 1, 0, 1], "answers all 6 items right; there is nothing to predict."),
    ],
)
def test_what_cannot_be(model, right, message):
    with pytest.raises(InvalidInputError, match=message.replace("(", r"\(")):
        label_behaviour("tiny", PROMPTS, CHOICES, right)
