"""Which files a loaded SAE is from: its digest is theirs, whatever type it computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sae_features.errors import DigestMismatchError

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.saes.formats.header import SAEHeader

ATTRIBUTE = "_files"
"""Attribute of a loaded SAE; a changed copy lacks it, as it must."""


def remember_files(sae: SparseAutoencoder, header: SAEHeader) -> SparseAutoencoder:
    """Return the SAE with the digest of the files that it was read from, computed when asked for."""
    vars(sae)[ATTRIBUTE] = FilesRead(header, _state_of(header.weights))
    return sae


class FilesRead(NamedTuple):
    """The files that an SAE was read from, and their state then."""

    header: SAEHeader
    state: tuple[int, int, int] | None

    def digest(self) -> str:
        """Return the digest of the files; raise where they are no longer those that were read."""
        if not self.header.is_digest_known and _state_of(self.header.weights) != self.state:
            message = (
                f"{self.header.weights} has changed, or is gone, since this SAE was read from it: its "
                "digest can no longer be told. Load it again."
            )
            raise DigestMismatchError(message)
        return self.header.digest


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns, state.st_ino
