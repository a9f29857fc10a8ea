"""Labels of a model's behaviour: prompts that it answers right or wrong, answered once and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InvalidInputError
from sae_features.evaluation.behaviour import answer_by_likelihood
from sae_features.evaluation.labelled import LabelledItems
from sae_features.evaluation.results import write_whole
from sae_features.models import find_model
from sae_features.progress import Progress
from sae_features.training.language_models import load_language_model

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK = 64
"""Items answered at a time; what an interruption loses at most."""
NAMES = ("wrong", "right")


def label_behaviour(
    model: str | Path,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    right: Sequence[int],
    *,
    name: str = "behaviour",
    normalise: str = "tokens",
    max_length: int | None = None,
    device: str | None = None,
    folder: str | Path | None = None,
    verbose: bool = False,
) -> LabelledItems:
    """Return prompts, labelled by whether a causal language model's answer to them is right.

    Parameters
    ----------
    model, prompts, choices, normalise, max_length, device
        As :func:`~sae_features.evaluation.behaviour.answer_by_likelihood` takes them.
    right : sequence of int
        Which choice is right, from 0.
    name : str
        What results call the data.
    folder : str or Path, optional
        Where answers are kept, so that no item is answered twice.
    verbose : bool, default=False
        Whether to show progress.

    Returns
    -------
    LabelledItems
        With the labels ``"right"`` and ``"wrong"``.

    Raises
    ------
    InvalidInputError
        If numbers differ, a choice that is right does not exist, or all answers are right, or all wrong.
    """
    if not len(prompts) == len(choices) == len(right):
        message = (
            f"{name}: got {len(prompts)} prompts, {len(choices)} lists of choices and {len(right)} "
            "right answers; expected equally many."
        )
        raise InvalidInputError(message)
    found = find_model(model)
    who = {
        "model": found.weights_digest, "tokenizer": found.processor_digest, "normalise": normalise,
        "max_length": max_length,
    }  # fmt: skip
    keys = [
        _digest([who, prompt, list(of_item)]) for prompt, of_item in zip(prompts, choices, strict=True)
    ]
    file = None if folder is None else Path(folder) / "behaviour" / f"{_digest(who)[:32]}.json"
    chosen = _read(file)
    lacking = [i for i, key in enumerate(keys) if key not in chosen]
    lm = load_language_model(model, device=device) if lacking else None
    with Progress(f"answers of {found.name}", "item", len(keys), is_shown=verbose) as bar:
        bar.tell(len(keys) - len(lacking))
        for start in range(0, len(lacking), CHUNK):
            some = lacking[start : start + CHUNK]
            answers = answer_by_likelihood(
                lm or model, [prompts[i] for i in some], [choices[i] for i in some],
                normalise=normalise, max_length=max_length,
            )  # fmt: skip
            chosen |= {keys[i]: int(choice) for i, choice in zip(some, answers.chosen, strict=True)}
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, json.dumps(chosen).encode())
            bar.tell(len(some))
    is_right = []
    for i, (key, goal) in enumerate(zip(keys, right, strict=True)):
        if not 0 <= goal < len(choices[i]):
            message = f"{name}: got right={goal} for item {i}; expected 0 to {len(choices[i]) - 1}."
            raise InvalidInputError(message)
        is_right.append(chosen[key] == goal)
    if len(set(is_right)) < 2:
        message = (
            f"{name}: {found.name} answers all {len(is_right)} items {NAMES[is_right[0]]}; there is "
            "nothing to predict. Take harder or easier items."
        )
        raise InvalidInputError(message)
    source = {"answers of": found.name, "normalise": normalise, "share right": float(np.mean(is_right))}
    return LabelledItems(name, list(prompts), [NAMES[each] for each in is_right], source=source)


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(file: Path | None) -> dict[str, int]:
    """Return the choices that were kept; what is damaged is answered again."""
    if file is None or not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        return {}
    is_whole = isinstance(found, dict) and all(isinstance(value, int) for value in found.values())
    return found if is_whole else {}
