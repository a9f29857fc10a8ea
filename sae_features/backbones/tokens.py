"""Texts to windows of token ids, with the content tokens marked.

Every window is ``prefix + a piece of the text's tokens + suffix``: prefix and suffix are what the
tokenizer (BOS, CLS, SEP) and the prompt add.  Truncation keeps the first piece only; chunking keeps
all of them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.backbones.windows import Windows
from sae_features.errors import InvalidParameterError
from sae_features.parameters import OVERFLOWS, TOKENS, check_choice, check_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK_TEXTS = 1024
"""Texts tokenised at a time."""
SENTINEL = "\ue000sae\ue001"
"""Stands for the text while a chat template is rendered."""


@dataclass(frozen=True)
class TokenPolicy:
    """Which tokens a model sees, and which of them count.

    Attributes
    ----------
    tokens : {"content", "all"}
        Count content tokens only, or all but padding.
    prompt : str, optional
        A string with ``{}``, or ``"chat"``.
    max_length : int
        Largest number of tokens in a window, context included.
    overflow : {"truncate", "chunk"}
        What happens to longer texts.
    prepend_bos : bool, optional
        Whether a BOS stands first; as the tokenizer does it if not given.

    Raises
    ------
    InvalidParameterError
        If one of them has a value that it cannot have.
    """

    max_length: int
    tokens: str = "content"
    prompt: str | None = None
    overflow: str = "truncate"
    prepend_bos: bool | None = None

    def __post_init__(self) -> None:
        check_choice("tokens", self.tokens, TOKENS)
        check_choice("overflow", self.overflow, OVERFLOWS)
        check_prompt(self.prompt)


def tokenize(
    tokenizer: Any, texts: Sequence[str], policy: TokenPolicy, *, first_token_is_sink: bool = False
) -> Windows:
    """Tokenise texts.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The model's own.
    texts : sequence of str
        Any length.
    policy : TokenPolicy
        Prompt, limits and what counts.
    first_token_is_sink : bool, default=False
        Whether the first token of a window without a BOS is context, not content, unless it is the
        only one; a piece after the first then begins with the last token before it, so that no other
        token is lost.

    Raises
    ------
    InvalidParameterError
        If the prompt leaves no room for text, or the tokenizer has no chat template.
    """
    before, after = prompt_parts(tokenizer, policy.prompt)
    has_context = bool(before or after)
    uncounted = _special_ids(tokenizer)
    windows = Windows()
    for start in range(0, len(texts), CHUNK_TEXTS):
        chunk = texts[start : start + CHUNK_TEXTS]
        encoded = tokenizer(
            [before + text + after for text in chunk],
            add_special_tokens=policy.prompt != "chat",
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=has_context,
            return_special_tokens_mask=True,
            padding=False,
            truncation=False,
            verbose=False,
        )
        for i, text in enumerate(chunk):
            ids = np.asarray(encoded["input_ids"][i], np.int64)
            is_text = ~np.asarray(encoded["special_tokens_mask"][i], bool)
            if has_context:
                is_text &= _overlap(
                    np.asarray(encoded["offset_mapping"][i], np.int64).reshape(-1, 2),
                    len(before) or -1,
                    len(before) + len(text) if after else sys.maxsize,
                )
            is_text = _filled(is_text)
            ids, is_text = _with_bos(ids, is_text, tokenizer.bos_token_id, prepend=policy.prepend_bos)
            _add_windows(
                windows,
                start + i,
                ids=ids,
                is_text=is_text,
                uncounted=uncounted,
                policy=policy,
                has_sink=first_token_is_sink,
            )
    return windows


def prompt_parts(tokenizer: Any, prompt: str | None) -> tuple[str, str]:
    """Return what a prompt puts before and after the text."""
    if prompt is None:
        return "", ""
    if prompt != "chat":
        before, _, after = prompt.partition("{}")
        return before, after
    if not getattr(tokenizer, "chat_template", None):
        message = (
            "Got prompt='chat', but this model's tokenizer has no chat template. Give a prompt with "
            "{} instead, such as 'query: {}'."
        )
        raise InvalidParameterError(message)
    turn = [{"role": "user", "content": SENTINEL}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False)
    before, found, after = rendered.partition(SENTINEL)
    if not found or SENTINEL in after:
        message = "This tokenizer's chat template does not hold the user's text once, as it is."
        raise InvalidParameterError(message)
    return before, after


def _special_ids(tokenizer: Any) -> list[int]:
    names = ("bos", "eos", "cls", "sep", "pad")
    ids = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    return sorted(i for i in ids if i is not None)


def _overlap(spans: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return which tokens hold some of the characters ``start:stop``."""
    first, last = spans.T
    # Byte-level tokenizers trim the span of a space to nothing, at its end.
    overlaps: np.ndarray = (last > start) & ((first < stop) | ((first == last) & (last == stop)))
    return overlaps


def _filled(is_text: np.ndarray) -> np.ndarray:
    """Return the mask with what lies between its first and its last token."""
    where = np.flatnonzero(is_text)
    filled = np.zeros(len(is_text), bool)
    if len(where):
        filled[where[0] : where[-1] + 1] = True
    return filled


def _with_bos(
    ids: np.ndarray, is_text: np.ndarray, bos: int | None, *, prepend: bool | None
) -> tuple[np.ndarray, np.ndarray]:
    if prepend is None or bos is None:
        return ids, is_text
    has_bos = len(ids) > 0 and ids[0] == bos and not is_text[0]
    if prepend and not has_bos:
        return np.append(np.int64(bos), ids), np.append(np.False_, is_text)
    if has_bos and not prepend:
        return ids[1:], is_text[1:]
    return ids, is_text


def _add_windows(
    windows: Windows,
    item: int,
    *,
    ids: np.ndarray,
    is_text: np.ndarray,
    uncounted: Sequence[int],
    policy: TokenPolicy,
    has_sink: bool,
) -> None:
    where = np.flatnonzero(is_text)
    start, stop = (where[0], where[-1] + 1) if len(where) else (len(ids), len(ids))
    room = policy.max_length - (len(ids) - (stop - start))
    if room < 1:
        message = (
            f"Got max_length={policy.max_length}; the special tokens and the prompt alone take "
            f"{len(ids) - (stop - start)}, which leaves no room for text."
        )
        raise InvalidParameterError(message)
    counts_all = policy.tokens == "all"
    counted = np.ones(len(ids), bool) if counts_all else is_text.copy()
    for special in () if counts_all else uncounted:
        counted &= ids != special
    # Without anything before the text, its first token takes the part of a BOS.
    has_sink = has_sink and start == 0 and stop - start > 1 and room > 1
    pieces = range(start, max(stop - has_sink, start + 1), room - has_sink)
    if len(pieces) > 1 and policy.overflow == "truncate":
        windows.truncated.append(item)
        pieces = pieces[:1]
    for first in pieces:
        last = min(first + room, stop)
        if first == start and last == stop:
            chosen, counts = ids, counted
        else:
            kept = np.r_[0:start, first:last, stop : len(ids)]
            chosen, counts = ids[kept], counted[kept]
        is_repeated = first > start  # it stands in the piece before, too
        if has_sink and (is_repeated or (not counts_all and counts[1:].any())):
            counts[0] = False
        windows.ids.append(chosen)
        windows.counted.append(counts)
        windows.items.append(item)
    if not any(mask.any() for mask in windows.counted[-len(pieces) :]):
        windows.empty.append(item)
