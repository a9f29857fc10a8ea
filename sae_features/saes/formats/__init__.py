"""Formats of SAE files, and the seam at which a third party adds one.

A format is registered under the entry-point group ``sae_features.sae_formats``; ours are too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sae_features.discovery import load_entry_point, load_working, names_of_group, warn_once
from sae_features.errors import AssetNotFoundError, SAEFormatError, expected_one_of
from sae_features.saes.formats.files import SAEFiles
from sae_features.saes.formats.header import SAEHeader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sae_features.saes.autoencoder import SparseAutoencoder

GROUP = "sae_features.sae_formats"

__all__ = ["GROUP", "SAEFiles", "SAEFormat", "SAEHeader", "find_format", "writer_of"]


class SAEFormat(Protocol):
    """What an entry point of the group ``sae_features.sae_formats`` gives.

    A format that can be saved to also has ``write(sae, folder, dtype)``, which returns the folder.
    """

    def detect(self, files: SAEFiles) -> bool:
        """Tell from the files' own evidence whether they are of this format."""

    def read_header(self, files: SAEFiles, **overrides: Any) -> SAEHeader:
        """Read everything but the weights; raise SAEFormatError if the files are damaged."""

    def load(
        self, files: SAEFiles, *, device: str, dtype: str, decoder: bool, **overrides: Any
    ) -> SparseAutoencoder:
        """Read the weights; ``overrides`` are what the caller adds where the files are silent."""


def find_format(
    path: str | Path, name: str | None = None, *, known: Mapping[str, Any] | None = None
) -> tuple[str, SAEFormat, SAEFiles]:
    """Return name and reader of the format of the files at ``path``, and the files.

    Parameters
    ----------
    path : str or Path
        A file or a folder.
    name : str, optional
        The format; detected if not given.
    known : mapping, optional
        What is known besides the files; see :class:`SAEFiles`.

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
    files = SAEFiles(place, {**(known or {}), **({"format": name} if name is not None else {})})
    formats = names_of_group(GROUP)
    if name is not None:
        if name not in formats:
            raise SAEFormatError(expected_one_of("format", name, formats))
        return name, load_entry_point(GROUP, name), files
    readers = load_working(GROUP)
    complaints: dict[str, None] = {}
    found = []
    for candidate, reader in readers.items():
        try:
            if _detects(candidate, reader, files):
                found.append(candidate)
        except SAEFormatError as error:  # the files, not the format: they are damaged
            complaints[str(error)] = None
    if len(found) == 1:
        return found[0], readers[found[0]], files
    if found:
        message = f"Got {str(path)!r}, which several formats recognise: {', '.join(found)}."
        raise SAEFormatError(f"{message} Name one with format=.")
    if complaints:
        raise SAEFormatError(" ".join(complaints))
    message = (
        f"Got {files.summary()}, which none of the formats recognises: {', '.join(formats)}. Put the "
        "configuration beside the weights, or name the format with format=, which says what it lacks."
    )
    raise SAEFormatError(message)


def writer_of(name: str) -> Callable[[SparseAutoencoder, Path, str | None], Path]:
    """Return what writes an SAE in a format.

    Raises
    ------
    SAEFormatError
        If there is no such format, or it cannot be written.
    """
    known = names_of_group(GROUP)
    if name not in known:
        raise SAEFormatError(expected_one_of("format", name, known))
    writer = getattr(load_entry_point(GROUP, name), "write", None)
    if writer is None:
        able = [other for other, reader in load_working(GROUP).items() if getattr(reader, "write", None)]
        message = (
            f"Got format={name!r}, which can only be read; those that can be written: {', '.join(able)}."
        )
        raise SAEFormatError(message)
    return writer


def _detects(name: str, reader: SAEFormat, files: SAEFiles) -> bool:
    try:
        return bool(reader.detect(files))
    except SAEFormatError:
        raise
    except Exception as error:  # noqa: BLE001 whatever a plugin does wrong
        warn_once(
            f"The SAE format {name!r} could not look at the files and is left out: "
            f"{type(error).__name__}: {error}"
        )
        return False
