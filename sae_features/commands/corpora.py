"""A corpus in a file or folder, in two parts: items to train on, and items to evaluate on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.input_files import read_items, source_of
from sae_features.items import check_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_features.architectures import Modality


class Corpus(NamedTuple):
    """Items in two parts."""

    trained: list[Any]
    """What is trained on, in the order of the file."""
    held_out: list[Any]
    """What is not, in random order: any first part is a sample."""
    record: dict[str, Any]
    """Name, digest and numbers of items, as plain values."""


def read_corpus(
    path: str | Path,
    column: str | None = None,
    *,
    modalities: Sequence[Modality] = ("text",),
    held_out: float = 0.0,
    seed: int = 0,
) -> Corpus:
    """Read a corpus and set a share of its items aside; equal items are on the same side.

    Parameters
    ----------
    path, column
        As :func:`sae_features.extract.read_items` takes them.
    modalities : sequence of {"text", "image"}
        What the model takes.
    held_out : float, default=0
        Share of the different items, 0 or more and less than 1; of a share above 0 at least one.
    seed : int, default=0
        Decides which.

    Returns
    -------
    Corpus

    Raises
    ------
    AssetNotFoundError, InvalidParameterError, InvalidInputError, InputTypeError
        If there is nothing, an item cannot be read or is not what the model takes, or there are too
        few; the message says which.
    """
    if not 0 <= held_out < 1:
        message = f"Got held_out={held_out}; expected a share of the items, 0 or more and less than 1."
        raise InvalidParameterError(message)
    items = read_items(path, column)
    name = Path(path).resolve().name
    if not items:
        raise InvalidInputError(f"{name} has no items; expected at least one.")
    check_items(items, modalities)
    different = list(dict.fromkeys(items))
    if held_out and len(different) < 2:
        message = f"{name} has one item only, of which none can be held out; expected more items, or "
        raise InvalidInputError(f"{message}--held-out 0.")
    n_held_out = 0
    if held_out:
        n_held_out = min(len(different) - 1, max(1, round(held_out * len(different))))
    order = np.random.default_rng(seed).permutation(len(different))[:n_held_out]
    aside = [different[i] for i in order]
    is_aside = set(aside)
    trained = [item for item in items if item not in is_aside] if aside else items
    record = {k: v for k, v in source_of(path, column).items() if k != "images"}
    numbers = {"n_items": len(items), "n_trained": len(trained), "n_held_out": len(aside)}
    return Corpus(trained, aside, record | numbers)
