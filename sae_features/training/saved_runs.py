"""Training kept on disk: one safetensors file with all tensors and, as its metadata, all numbers.

The file is written beside the old one and put in its place when it is whole, so that a kill at any
moment, or a full disk, leaves one of the two.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sae_features.errors import CheckpointError, DigestMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from sae_features.training.run import Run

NAME = "training.safetensors"
SCHEMA = 1


def save_runs(folder: Path, runs: Sequence[Run], facts: Mapping[str, Any]) -> None:
    """Write the state of runs, and what the trainer remembers, in place of what was there.

    Raises
    ------
    CheckpointError
        If it cannot be written; what was there before is left as it was.
    """
    tensors = {
        f"{i}.{name}": tensor.detach().cpu().contiguous()
        for i, run in enumerate(runs)
        for name, tensor in run.tensors().items()
    }
    numbers = {"schema": SCHEMA, "runs": [run.numbers() for run in runs], **facts}
    draft = folder / f".{NAME}.draft"  # one name: what a kill leaves is written over
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, draft, metadata={"training": json.dumps(numbers)})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(folder / NAME)
    except KeyboardInterrupt:
        draft.unlink(missing_ok=True)
        raise
    except (OSError, SafetensorError, MemoryError) as error:
        draft.unlink(missing_ok=True)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        message = (
            f"The training could not be saved to {str(folder)!r}: {error}. It needs {size:,} bytes "
            f"beside the last one, and {free:,} are free. What was saved before is whole: make room, "
            "then train with the same folder to go on from there."
        )
        raise CheckpointError(message) from error


def saved_numbers(folder: Path) -> dict[str, Any] | None:
    """Return what :func:`save_runs` kept beside tensors, or None where nothing was saved.

    Raises
    ------
    CheckpointError
        If the file is damaged, or of a newer version.
    """
    file = folder / NAME
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            numbers: dict[str, Any] = json.loads((opened.metadata() or {})["training"])
        schema = numbers["schema"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        message = f"Got {str(file)!r}, which holds no whole training: {error}. Delete it to begin anew."
        raise CheckpointError(message) from error
    if schema != SCHEMA:
        message = (
            f"Got {str(file)!r} of schema {schema}; expected {SCHEMA}. It was written by another "
            "version of sae-features: go on with that one, or choose another folder."
        )
        raise CheckpointError(message)
    return numbers


def check_same(saved: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raise where a folder holds another training than the one that is asked for.

    Raises
    ------
    DigestMismatchError
    """
    for name, value in wanted.items():
        if saved.get(name) != value:
            message = (
                f"The folder {str(folder)!r} holds a training with {name}={_short(saved.get(name))}, "
                f"but {_short(value)} is asked for. Choose another folder, or bring back what it was."
            )
            raise DigestMismatchError(message)


def restore_runs(folder: Path, runs: Sequence[Run], numbers: Mapping[str, Any]) -> None:
    """Put what was saved into runs."""
    of_runs: list[dict[str, torch.Tensor]] = [{} for _ in runs]
    try:
        with safe_open(folder / NAME, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 it is no mapping
                number, _, name = key.partition(".")
                of_runs[int(number)][name] = opened.get_tensor(key)
        for run, tensors, kept in zip(runs, of_runs, numbers["runs"], strict=True):
            run.restore(tensors, kept)
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, RuntimeError) as error:
        file = str(folder / NAME)
        message = f"Got {file!r}, which holds no whole training: {error}. Delete it to begin anew."
        raise CheckpointError(message) from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
