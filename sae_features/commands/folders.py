"""The folders that a training writes: what may lie in them, what does, and whether there is room."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final

from sae_features.errors import DigestMismatchError, InvalidParameterError, StoreError
from sae_features.saes.formats.files import weights_in
from sae_features.saes.formats.native import HEADER
from sae_features.saes.formats.writing import WRITTEN
from sae_features.training.saved_runs import NAME, saved_numbers
from sae_features.training.shard_index import INDEX, ShardIndex

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sae_features.commands.request import TrainingRequest
    from sae_features.training.settings import TrainingSettings
    from sae_features.training.sources import ActivationSource

CHECKPOINT: Final = "training"
"""Folder of the checkpoint, inside that of the SAEs."""
HEAD_ROOM: Final = 1.05


def check_folders(request: TrainingRequest) -> None:
    """Raise InvalidParameterError where something else is in the folders that will be written."""
    places = dict.fromkeys([request.folder, *request.folders()])
    is_begun = (request.folder / CHECKPOINT / NAME).exists() and not request.keep_checkpoint
    for place in places:
        if place.exists() and not place.is_dir():
            message = f"Got --output {str(place)!r}, which is a file; expected a folder to write to."
            raise InvalidParameterError(message)
        others = weights_in(place, but=WRITTEN)
        if others:
            message = (
                f"Got --output {str(place)!r}, which holds {others[0].name}; expected a folder without "
                "weights of something else. Choose another one."
            )
            raise InvalidParameterError(message)
        if (place / HEADER).exists() and not (request.overwrite or is_begun):
            message = (
                f"{str(place)!r} already holds an SAE. Choose another folder, or replace it with "
                "--overwrite."
            )
            raise InvalidParameterError(message)


def check_space(folder: Path, n_bytes: float) -> None:
    """Raise StoreError where the disk of a folder, which need not be there yet, is too small."""
    free = free_bytes(folder)
    if HEAD_ROOM * n_bytes > free:
        message = (
            f"The training needs about {n_bytes:,.0f} bytes in {str(folder)!r}, and {free:,} are free. "
            "Make room, or choose another folder."
        )
        raise StoreError(message)


def free_bytes(folder: Path) -> int:
    """Return how much room the disk of a folder has, which need not be there yet."""
    there = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    return shutil.disk_usage(there).free


def saved_steps(
    checkpoint: Path,
    settings: Sequence[TrainingSettings],
    source: ActivationSource,
    *,
    may_differ: bool,
) -> int:
    """Return how many steps of a training a checkpoint has; 0 where it has none of this one.

    Raises
    ------
    DigestMismatchError
        If it is of another training, unless that may be.
    CheckpointError
        If it is damaged.
    """
    numbers = saved_numbers(checkpoint)
    if numbers is None:
        return 0
    kept = _together(numbers["settings"]) | numbers["data"]
    asked = _together([each.asdict() for each in settings]) | dict(source.metadata)
    other = next((name for name, value in asked.items() if kept.get(name) != value), None)
    if other is None:
        return int(numbers["step"])
    if may_differ:
        return 0
    are_short = all(not isinstance(values[other], dict) for values in (kept, asked))
    named = (
        f"{other}={kept[other]}, but {asked[other]} is asked for" if are_short else f"another {other}"
    )
    message = (
        f"{str(checkpoint)!r} holds an unfinished training with {named}. Go on with the command "
        "that it was begun with, choose another --output, or begin anew with --overwrite."
    )
    raise DigestMismatchError(message)


def _together(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Return settings by name, with all values where they differ."""
    values = {name: [each[name] for each in settings] for name in settings[0]}
    return {name: v[0] if all(other == v[0] for other in v) else v for name, v in values.items()}


def rows_written(folder: Path | None) -> int:
    """Return how many rows of activations a folder holds."""
    if folder is None or not (folder / INDEX).is_file():
        return 0
    return sum(shard.n_rows for shard in ShardIndex.read(folder).shards)
