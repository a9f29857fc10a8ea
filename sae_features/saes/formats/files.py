"""The files of one SAE, as evidence of their format: names, configurations, declared tensors."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError
from sae_features.parameters import DTYPES
from sae_features.saes.formats.containers import (
    Container,
    TensorInfo,
    number_in,
    open_container,
    other_kind,
)
from sae_features.saes.json_files import Config, naming, read_json, read_yaml
from sae_features.saes.links import check_inside

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
SIDECARS = {
    "sparsity.safetensors",
    "activations_store_state.safetensors",
    "activation_whitening.safetensors",
    "trainer_state.pt",
    "optimizer.pt",
    "log_feature_sparsity.pt",
    "log_feature_sparsity.safetensors",
}
"""Files beside an SAE that are not its weights."""
CHECKPOINTS = "checkpoints"
ABOVE_CHECKPOINTS = "hyperparams.json"
"""Llama Scope's configuration, which stands above the folder of the weights."""
INTEGERS = ("int64", "int32", "int16", "int8", "uint8")


class SAEFiles:
    """What stands at a path; each part is read when it is asked for, and once.

    Parameters
    ----------
    path : Path
        A weights file, a configuration beside it, or the folder of both.
    known : mapping, optional
        What a release table knows besides: ``k`` and ``norm_scale``, used where the files do not say;
        ``config``, values that its configuration should hold, and that go before what it does; and
        ``centred``, whether it reads activations less their mean over dimensions.

    Attributes
    ----------
    folder : Path
        Where configurations are looked for.
    """

    def __init__(self, path: Path, known: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.known = dict(known or {})
        self.folder = path if path.is_dir() else path.parent
        parent = self.folder.parent
        if self.folder.name == CHECKPOINTS and (parent / ABOVE_CHECKPOINTS).is_file():
            self.folder = parent

    @cached_property
    def weights(self) -> Path:
        """The file that holds the weights.

        Raises
        ------
        SAEFormatError
            If there is none, or more than one.
        """
        if self.path.is_file() and self.path.suffix in WEIGHT_SUFFIXES:
            return self.path
        if not self.path.is_dir() and self.path.suffix not in (".json", ".yaml"):
            raise SAEFormatError(other_kind(self.path))
        has_checkpoints = (self.folder / ABOVE_CHECKPOINTS).is_file()
        found = weights_in(self.folder / CHECKPOINTS if has_checkpoints else self.folder)
        if len(found) == 1:
            return check_inside(found[0], self.folder)
        got = f"{len(found)} files of weights ({_some(found)})" if found else "no file of weights"
        below = sorted(place for place in self.folder.iterdir() if place.is_dir() and weights_in(place))
        hint = f" There are some in {_some(below)}." if below and not found else ""
        message = (
            f"{self.folder}: got {got}; expected one {', '.join(WEIGHT_SUFFIXES)}. "
            f"Give the path of the file.{hint}"
        )
        raise SAEFormatError(message)

    @property
    def has_neighbours(self) -> bool:
        """Whether the weights of other SAEs stand beside these."""
        return len(weights_in(self.weights.parent)) > 1

    def summary(self) -> str:
        """Return what is there, for messages: the file and its tensors."""
        return f"{str(self.weights)!r} with tensors {_listed(self.names)}"

    @cached_property
    def container(self) -> Container:
        """The weights, opened."""
        return open_container(self.weights)

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Shape and type of each tensor by name."""
        return self.container.infos

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self.infos)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises
        ------
        SAEFormatError
            If there is none of that name.
        """
        if name not in self.infos:
            message = f"{self.weights}: got tensors {_listed(self.names)}; expected {name!r} among them."
            raise SAEFormatError(message)
        return self.infos[name].shape

    def matrix(self, name: str) -> tuple[int, int]:
        """Return the shape of a tensor that must have two dimensions, neither 0."""
        shape = self.shape(name)
        if len(shape) != 2 or 0 in shape:
            raise SAEFormatError(f"{self.weights}: got {name} of shape {shape}; expected a matrix.")
        return shape[0], shape[1]

    def scalar(self, name: str) -> float:
        """Return the value of a tensor that holds one finite number.

        Raises
        ------
        SAEFormatError
            If it holds several, or something else.
        """
        number = float(self._one(name, DTYPES))
        if not math.isfinite(number):
            message = f"{self.weights}: got {name} with the value {number}; expected one finite number."
            raise SAEFormatError(message)
        return number

    def count(self, name: str) -> int:
        """Return the value of a tensor that holds one integer.

        Raises
        ------
        SAEFormatError
            If it holds several, or something else.
        """
        return int(self._one(name, INTEGERS))

    def _one(self, name: str, dtypes: tuple[str, ...]) -> float:
        shape, dtype = self.shape(name), self.infos[name].dtype
        if any(size != 1 for size in shape) or dtype not in dtypes:
            message = (
                f"{self.weights}: got {name} of shape {shape} and type {dtype}; expected one number"
            )
            raise SAEFormatError(f"{message} of type {', '.join(dtypes)}.")
        return number_in(self.container, name)

    def has(self, *names: str) -> bool:
        """Tell whether all of these tensors are there."""
        return set(names) <= self.names

    def config(self, *names: str) -> Config | None:
        """Return the first of these configuration files that is there, or None.

        Raises
        ------
        SAEFormatError
            If it cannot be read, or is a link to somewhere else.
        """
        for name in names:
            path = self.folder / name
            if path.is_file():
                stated = self._read_config(check_inside(path, self.folder))
                return Config({**stated, **self.known.get("config", {})}, path)
        return None

    def needed_config(self, *names: str) -> Config:
        """Return the first of these configuration files.

        Raises
        ------
        SAEFormatError
            If none is there.
        """
        config = self.config(*names)
        if config is None:
            message = (
                f"{self.folder}: got no {' or '.join(names)}; expected it beside {self.weights.name}."
            )
            raise SAEFormatError(message)
        return config

    def _read_config(self, path: Path) -> dict[str, Any]:
        known: dict[Path, dict[str, Any]] = self.__dict__.setdefault("_configs", {})
        if path not in known:
            with naming(path):
                known[path] = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
        return known[path]


def weights_in(folder: Path, *, but: Collection[str] = SIDECARS) -> list[Path]:
    """Return the files of a folder that may hold the weights of an SAE, less some names."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES and file.is_file())
    return sorted(file for file in files if file.name not in but)


def _some(places: list[Path]) -> str:
    return ", ".join(place.name for place in places[:5]) + (" …" if len(places) > 5 else "")


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:12]
    return f"{', '.join(map(repr, shown))}{' …' if len(names) > len(shown) else ''}" or "none"
