"""Whether a causal language model answers right: labels of its behaviour, by likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.continuations import log_likelihoods, sequences_of
from sae_features.items import check_texts
from sae_features.parameters import check_choice, check_count
from sae_features.training.language_models import LanguageModel, load_language_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NORMALISATIONS = ("tokens", "characters", "none")


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answers to each of ``n`` items.

    Attributes
    ----------
    log_likelihoods : tuple of ndarray of shape (n_choices,), float64
        For each item the log-probability of each choice after the prompt, in nats: the sum over the
        choice's tokens.
    scores : tuple of ndarray of shape (n_choices,), float64
        The same divided by what was asked for; by which the answer is chosen.
    n_tokens : tuple of ndarray of shape (n_choices,), int64
        Tokens that each choice was scored by.
    chosen : ndarray of shape (n,), int64
        The choice with the largest score, of equals the first.
    margins : ndarray of shape (n,), float64
        By how much its score exceeds the second largest.
    """

    log_likelihoods: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]
    n_tokens: tuple[np.ndarray, ...]
    chosen: np.ndarray
    margins: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def is_right(self, right: Any) -> np.ndarray:
        """Return whether the choice is the right one: labels of the model's behaviour.

        Parameters
        ----------
        right : array-like of shape (n,), int
            Which choice is right, from 0.

        Returns
        -------
        ndarray of shape (n,), bool

        Raises
        ------
        InvalidInputError
            If there are not as many, or one is not among the choices of its item.
        """
        keys = np.asarray(right)
        if keys.shape != (len(self),) or keys.dtype.kind not in "iu":
            message = (
                f"Got right of shape {keys.shape} and type {keys.dtype}; expected {len(self)} integers, "
                "one for each item."
            )
            raise InvalidInputError(message)
        for item, (key, scores) in enumerate(zip(keys, self.scores, strict=True)):
            if not 0 <= key < len(scores):
                message = (
                    f"Got right={key} for item {item}; expected 0 to {len(scores) - 1}, its choices."
                )
                raise InvalidInputError(message)
        return np.asarray(self.chosen == keys)


def answer_by_likelihood(
    model: str | Path | LanguageModel,
    prompts: Any,
    choices: Sequence[str] | Sequence[Sequence[str]],
    *,
    normalise: str = "tokens",
    separator: str = " ",
    max_length: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    verbose: bool = False,
) -> Answers:
    """Let a causal language model choose among answers by their likelihood after a prompt [1]_.

    Prompt and choice are tokenised together.  Those tokens are scored that follow what all choices of
    the item, and the prompt alone, have in common.  Where the end of the prompt, often white space, is
    one token with the beginning of a choice, it is scored with all choices of the item: what precedes
    is always the same.

    Parameters
    ----------
    model : str, Path or LanguageModel
        As in :func:`sae_features.load_backbone`, from files that hold the language-model head; or what
        :func:`~sae_features.training.language_models.load_language_model` gives, loaded once for many
        calls.  It computes in float32.
    prompts : sequence of str
        One for each item, whole: with instructions, examples and the question.
    choices : sequence of str, or of sequences of str
        The same for all items, or those of each; at least two.
    normalise : {"tokens", "characters", "none"}, default="tokens"
        What a log-likelihood is divided by: the number of tokens [2]_ or of the choice's characters,
        white space around it left out, or nothing, which favours short choices.
    separator : str, default=" "
        What stands between a prompt and a choice, unless the prompt is empty or ends, or the choice
        begins, with white space.
    max_length : int, optional
        Tokens that the model sees at a time; as its files say if not given.  Longer prompts lose their
        beginning, which is warned of; what the tokenizer puts first (BOS) stays.
    batch_size : int, optional
        Sequences at a time; by their length if not given.  Of no influence but by rounding.
    device : str, optional
        As in :func:`sae_features.load_backbone`.
    verbose : bool, default=False
        Whether to show progress.

    Returns
    -------
    Answers

    Raises
    ------
    InvalidParameterError
        If the model is not causal, or a parameter cannot be.
    InvalidInputError, InputTypeError
        If prompts or choices are none, do not fit together or into the model, a choice adds no token, or
        nothing precedes it.
    CheckpointError
        If the model's files lack the head.

    Warns
    -----
    SAEFeaturesWarning
        If prompts were cut.

    Notes
    -----
    Choices of one token, such as letters, cost one run of the model for all of an item.

    References
    ----------
    .. [1] Gao et al., "A framework for few-shot language model evaluation" (lm-evaluation-harness).
    .. [2] Brown et al., "Language models are few-shot learners", arXiv 2005.14165, section 2.4.

    Examples
    --------
    >>> from sae_features.evaluation.behaviour import answer_by_likelihood
    >>> prompts = ["The capital of France is", "Two plus two is"]
    >>> choices = [["Paris", "Rome"], ["four", "nine"]]
    >>> answers = answer_by_likelihood("smollm2", prompts, choices)  # doctest: +SKIP
    >>> answers.is_right([0, 0])  # doctest: +SKIP
    array([ True,  True])
    """
    check_choice("normalise", normalise, NORMALISATIONS)
    check_count("batch_size", batch_size)
    check_count("max_length", max_length)
    texts = check_texts(prompts)
    options = _checked_choices(choices, len(texts))
    lm = model if isinstance(model, LanguageModel) else load_language_model(model, device=device)
    if lm.is_masked:
        message = (
            f"Got model={lm.files.name!r}, which fills in masked tokens; expected a causal language "
            "model, which predicts what follows."
        )
        raise InvalidParameterError(message)
    longest = lm.backbone.token_policy(max_length=max_length).max_length
    sequences = sequences_of(lm, texts, options, separator, longest)
    sums = log_likelihoods(lm, sequences, batch_size, is_shown=verbose)
    bounds = np.cumsum([len(of_item) for of_item in options])[:-1]
    counts = np.array([len(sequence.ids) - sequence.start for sequence in sequences], np.int64)
    divisors = {
        "tokens": counts,
        "characters": np.array([len(text.strip()) or 1 for of_item in options for text in of_item]),
        "none": np.ones(len(sums)),
    }
    scores = np.split(sums / divisors[normalise], bounds)
    best = [np.sort(of_item)[-2:] for of_item in scores]
    return Answers(
        tuple(np.split(sums, bounds)),
        tuple(scores),
        tuple(np.split(counts, bounds)),
        np.array([of_item.argmax() for of_item in scores], np.int64),
        np.array([second_and_first[1] - second_and_first[0] for second_and_first in best]),
    )


def _checked_choices(choices: Any, n_items: int) -> list[list[str]]:
    """Return the choices of each item."""
    given = [choices] * n_items if all(isinstance(one, str) for one in choices) else list(choices)
    if len(given) != n_items:
        message = (
            f"Got choices of {len(given)} items for {n_items} prompts; expected those of each, or one "
            "sequence of str for all."
        )
        raise InvalidInputError(message)
    checked = []
    for item, of_item in enumerate(given):
        texts = list(of_item) if not isinstance(of_item, str) else []
        if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
            message = f"Got choices {of_item!r} for item {item}; expected two or more texts."
            raise InvalidInputError(message)
        checked.append(texts)
    return checked
