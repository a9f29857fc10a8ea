"""Files of a folder that are in it, and not only links to somewhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_features.errors import SAEFormatError

if TYPE_CHECKING:
    from pathlib import Path


def check_inside(path: Path, folder: Path) -> Path:
    """Return the path of a file that was found in a folder, if it is there.

    The hub's cache is made of links: from a snapshot to the blobs of the same repository.  These are
    followed, and whatever a caller names himself; a link that came with the files of others is not.

    Raises
    ------
    SAEFormatError
        If it is a link that leaves the folder.
    """
    try:
        target, place = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:
        raise SAEFormatError(f"{path}: got a link that leads to itself; expected a file.") from error
    parents = (*folder.absolute().parents, *place.parents)
    blobs = [parent.parent.resolve() / "blobs" for parent in parents if parent.name == "snapshots"]
    if not any(target.is_relative_to(allowed) for allowed in (place, *blobs)):
        message = (
            f"{path}: got a link to {str(target)!r}, outside the folder; expected the file itself. Copy "
            "it there, or give the path of the weights."
        )
        raise SAEFormatError(message)
    return path
