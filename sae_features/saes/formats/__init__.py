"""Formats of SAE files, and the seam at which a third party adds one.

A format is registered under the entry-point group ``sae_features.sae_formats``; ours are too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sae_features.discovery import load_entry_point, load_working, names_of_group, warn_once
from sae_features.errors import AssetNotFoundError, SAEFormatError, expected_one_of
from sae_features.saes.conventions import check_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.hook_point import HookPoint
    from sae_features.saes.autoencoder import SparseAutoencoder

GROUP = "sae_features.sae_formats"


@dataclass(frozen=True)
class SAEHeader:
    """What can be said of an SAE without reading its weights.

    Raises
    ------
    SAEFormatError
        If metadata that are acted on (model, ``max_length``, ``prepend_bos``) cannot be.
    """

    format: str
    """Name of the format."""
    path: Path
    """File or folder that it was read from."""
    architecture: str
    """``relu``, ``topk`` or ``jumprelu``."""
    d_in: int
    """Size of the activations that go in."""
    n_latents: int
    """Number of latents."""
    digest: str
    """SHA-256 of weights and conventions."""
    dtype: str
    """Type of the weights on disk."""
    conventions: Mapping[str, Any] = field(default_factory=dict)
    """What beside the tensors determines the numbers (``k``, ``subtract_b_dec`` …)."""
    hook_point: HookPoint | None = None
    """Where in the model the inputs were read."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Model, context and what else the files say."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """Names of latents."""
    nbytes: int = 0
    """Size of the weights on disk."""

    def __post_init__(self) -> None:
        check_metadata(self.metadata)


class SAEFormat(Protocol):
    """What an entry point of the group ``sae_features.sae_formats`` gives."""

    def detect(self, path: Path) -> bool:
        """Tell from the files' own evidence whether they are of this format."""

    def read_header(self, path: Path) -> SAEHeader:
        """Read everything but the weights; raise SAEFormatError if the files are damaged."""

    def load(
        self, path: Path, *, device: str, dtype: str, decoder: bool, **overrides: Any
    ) -> SparseAutoencoder:
        """Read the weights; ``overrides`` are what the caller adds where the files are silent."""


def find_format(path: str | Path, name: str | None = None) -> tuple[str, SAEFormat]:
    """Return name and reader of the format of the files at ``path``.

    Parameters
    ----------
    path : str or Path
        A file or a folder.
    name : str, optional
        The format; detected if not given.

    Raises
    ------
    AssetNotFoundError
        If nothing is there.
    SAEFormatError
        If no format, or more than one, recognises the files.
    PluginError
        If the format that was named is of a plugin that is broken; others are left out.

    Warns
    -----
    SAEFeaturesWarning
        Once of each format that fails at looking; it is left out.
    """
    place = Path(path)
    if not place.exists():
        raise AssetNotFoundError(f"Got {str(path)!r}; expected a file or folder of an SAE there.")
    known = names_of_group(GROUP)
    if name is not None:
        if name not in known:
            raise SAEFormatError(expected_one_of("format", name, known))
        return name, load_entry_point(GROUP, name)
    readers = load_working(GROUP)
    found = [candidate for candidate, reader in readers.items() if _detects(candidate, reader, place)]
    if len(found) != 1:
        claim = f"more than one does: {', '.join(found)}" if found else "none does"
        message = (
            f"Got {str(path)!r}; expected files that one of the formats {', '.join(known)} "
            f"recognises, but {claim}. Name it with format=."
        )
        raise SAEFormatError(message)
    return found[0], readers[found[0]]


def _detects(name: str, reader: SAEFormat, path: Path) -> bool:
    try:
        return bool(reader.detect(path))
    except Exception as error:  # noqa: BLE001 whatever a plugin does wrong
        warn_once(
            f"The SAE format {name!r} could not look at the files and is left out: "
            f"{type(error).__name__}: {error}"
        )
        return False
