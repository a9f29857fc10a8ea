"""Which files of a hub repository are an SAE: weights and their configuration, nothing of training."""

from __future__ import annotations

import glob
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from sae_features.errors import PluginError

if TYPE_CHECKING:
    from pathlib import Path

# The hub's patterns let * cross folders: names keep checkpoints and trainer states out.
CONFIGS = (
    "cfg.json",
    "config.json",
    "config.yaml",
    "hyperparams.json",
    "labels.json",
    "sae.json",
    "wanb-config.yaml",
    "wandb-config.yaml",
)
WEIGHTS = (
    "ae.pt",
    "checkpoints/final.safetensors",
    "n_images_*.pt",
    "params.npz",
    "params.safetensors",
    "sae.pt",
    "sae.safetensors",
    "sae_weights.safetensors",
    "weights.pt",
)
FILE_SUFFIXES = (".npz", ".pt", ".pth", ".safetensors")


def check_relative(path: str) -> str:
    """Return a path in a repository, with ``/``, if it cannot leave it.

    Raises
    ------
    PluginError
        If it is absolute or goes up.
    """
    outside = path.startswith(("/", "~")) or "\\" in path or PureWindowsPath(path).drive
    if outside or ".." in PurePosixPath(path).parts:
        raise PluginError(f"Got path={path!r}; expected a path inside the repository, without '..'.")
    return path


def patterns_of(path: str) -> tuple[str, ...]:
    """Return patterns, as the hub takes them, of the files of an SAE.

    Parameters
    ----------
    path : str
        A file or folder in a repository, ``""`` for its root.  Of a folder these are the files in
        it that SAE formats know; of a file, itself and the configurations beside it.
    """
    place = PurePosixPath(check_relative(path))
    names = [place / name for name in (*CONFIGS, *WEIGHTS)]
    if path:
        names += [place, place.parent / f"{place.stem}_cfg.json", place.parent / "config.json"]
        if place.suffix in FILE_SUFFIXES:  # of a file, or of a folder that is called so
            names += [place.parent / name for name in CONFIGS]
    escaped = (glob.escape(str(name)).replace("[*]", "*") for name in names)
    return tuple(dict.fromkeys(escaped))


def has_weights(snapshot: Path, path: str) -> bool:
    """Tell whether the weights of an SAE are in the local copy of a repository."""
    place = snapshot / path
    return place.is_file() or any(any(place.glob(name)) for name in WEIGHTS)
