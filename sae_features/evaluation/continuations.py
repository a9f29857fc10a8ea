"""What may follow a prompt: its tokens, and how likely a causal language model finds them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from sae_features.backbones.batches import GPU_TOKEN_BUDGET, TOKEN_BUDGET, batches_of
from sae_features.backbones.windows import Windows
from sae_features.errors import InvalidInputError, SAEFeaturesWarning
from sae_features.progress import Progress
from sae_features.training.splicing import LOGIT_BYTES

if TYPE_CHECKING:
    from sae_features.training.language_models import LanguageModel


class Sequence(NamedTuple):
    """A prompt and what follows it, as tokens."""

    ids: np.ndarray
    """Prompt and choice, int64."""
    start: int
    """Where what is scored begins."""
    item: int
    """Whose choice it is."""


def sequences_of(
    lm: LanguageModel, prompts: list[str], options: list[list[str]], separator: str, longest: int
) -> list[Sequence]:
    """Return prompt and choice for each choice of each item, no longer than the model takes.

    Parameters
    ----------
    lm : LanguageModel
        Its tokenizer is used.
    prompts : list of str
        One for each item.
    options : list of list of str
        The choices of each.
    separator : str
        Between a prompt and a choice, where neither has white space there.
    longest : int
        Tokens that the model can read.

    Returns
    -------
    list of Sequence
        Choice after choice, item after item; ``start`` is the same for all choices of an item.

    Raises
    ------
    InvalidInputError
        If a choice adds no token, or nothing is left that precedes it.

    Warns
    -----
    SAEFeaturesWarning
        If prompts were cut.
    """
    alone = _encoded(lm, prompts)
    joined = _encoded(
        lm,
        [
            _joined(prompt, choice, separator)
            for prompt, of_item in zip(prompts, options, strict=True)
            for choice in of_item
        ],
    )
    sequences: list[Sequence] = []
    cut_items = []
    for item, ((context, n_first), of_item) in enumerate(zip(alone, options, strict=True)):
        ids = [joined[len(sequences) + i][0] for i in range(len(of_item))]
        start = min(_common(context, one) for one in ids)
        for choice, one in zip(of_item, ids, strict=True):
            if len(one) <= start:
                message = (
                    f"Got the choice {choice!r} for item {item}, which adds no token to its prompt."
                )
                raise InvalidInputError(message)
        # The last token is predicted, not read.
        excess = max(0, max(len(one) for one in ids) - 1 - longest)
        if start - excess < max(n_first, 1):
            message = (
                f"Got prompt and choices as item {item} of which the model can see no token before the "
                f"choice (it takes {longest}); expected a prompt, and choices that fit."
            )
            raise InvalidInputError(message)
        if excess:
            cut_items.append(item)
            ids = [np.concatenate([one[:n_first], one[n_first + excess :]]) for one in ids]
        sequences += [Sequence(one, start - excess, item) for one in ids]
    if cut_items:
        message = (
            f"{len(cut_items)} of {len(prompts)} prompts are longer than {longest} tokens with their "
            f"choices and lost their beginning (the first is item {cut_items[0]})."
        )
        warnings.warn(message, SAEFeaturesWarning, stacklevel=3)  # of answer_by_likelihood
    return sequences


def _encoded(lm: LanguageModel, texts: list[str]) -> list[tuple[np.ndarray, int]]:
    """Return the tokens of texts without special ones at the end, and how many stand first."""
    encoded = lm.backbone.tokenizer(
        texts,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        padding=False,
        truncation=False,
        verbose=False,
    )
    found = []
    for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        is_text = np.flatnonzero(~np.asarray(special, bool))
        n_first = int(is_text[0]) if len(is_text) else len(ids)
        stop = int(is_text[-1]) + 1 if len(is_text) else len(ids)
        found.append((np.asarray(ids[:stop], np.int64), n_first))
    return found


def _joined(prompt: str, choice: str, separator: str) -> str:
    is_apart = not prompt or prompt[-1:].isspace() or choice[:1].isspace()
    return prompt + ("" if is_apart else separator) + choice


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many tokens two sequences begin with in common."""
    n = min(len(first), len(second))
    different = np.flatnonzero(first[:n] != second[:n])
    return int(different[0]) if len(different) else n


def log_likelihoods(
    lm: LanguageModel,
    sequences: list[Sequence],
    batch_size: int | None = None,
    *,
    is_shown: bool = False,
) -> np.ndarray:
    """Return how likely the model finds what follows each prompt.

    Parameters
    ----------
    lm : LanguageModel
        Causal.
    sequences : list of Sequence
        Those with equal tokens, but for the last one, are run once.
    batch_size : int, optional
        Sequences at a time; by their length if not given.
    is_shown : bool, default=False
        Whether there is a progress bar.

    Returns
    -------
    ndarray of shape (n_sequences,), float64
        The sum of the log-probabilities of the tokens from ``start`` on, in nats.

    Raises
    ------
    InvalidInputError
        If one is not finite.
    """
    of_inputs: dict[bytes, list[int]] = {}
    for i, sequence in enumerate(sequences):  # equal ones are run once
        of_inputs.setdefault(sequence.ids[:-1].tobytes(), []).append(i)
    members = list(of_inputs.values())
    ids = [sequences[of_input[0]].ids[:-1] for of_input in members]
    windows = Windows(
        ids=ids, counted=[np.ones(len(one), bool) for one in ids], items=list(range(len(ids)))
    )
    rows = batch_size or _rows_at_a_time(lm, windows)
    sums = np.empty(len(sequences))
    with Progress("answers", "sequence", len(ids), is_shown=is_shown) as progress:
        for chosen in batches_of(windows, np.ones(len(ids), bool), lambda *_: (), rows):
            inputs = lm.backbone.inputs["text"].model_inputs(windows, chosen, None)
            placed = {name: value.to(lm.model.device) for name, value in inputs.items()}
            with torch.inference_mode():
                logits = lm.model(**placed).logits
            for row, window in enumerate(chosen):
                for i in members[window]:
                    sums[i] = _scored(logits[row], sequences[i])
            progress.tell(len(chosen), int(windows.lengths[chosen].sum()))
    wrong = np.flatnonzero(~np.isfinite(sums))
    if len(wrong):
        message = (
            f"Got a log-likelihood of {sums[wrong[0]]} from the model {lm.files.name!r} for item "
            f"{sequences[wrong[0]].item}; expected a finite one. Its weights may be damaged."
        )
        raise InvalidInputError(message)
    return sums


def _scored(logits: torch.Tensor, sequence: Sequence) -> float:
    targets = torch.from_numpy(sequence.ids[sequence.start :]).to(logits.device)
    # float64, since a sum over the vocabulary is taken
    of_targets = logits[sequence.start - 1 : len(sequence.ids) - 1].double()
    chosen = of_targets.gather(1, targets[:, None])[:, 0]
    return float((chosen - of_targets.logsumexp(dim=-1)).sum())


def _rows_at_a_time(lm: LanguageModel, windows: Windows) -> int:
    """Return how many sequences are run together."""
    n_vocabulary = int(lm.model.get_output_embeddings().weight.shape[0])
    budget = GPU_TOKEN_BUDGET if lm.model.device.type == "cuda" else TOKEN_BUDGET
    n_tokens = min(budget, LOGIT_BYTES // (4 * n_vocabulary))
    return max(1, n_tokens // int(windows.lengths.max()))
