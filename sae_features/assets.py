"""Finding and fetching the files of models and SAEs, and their digests."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sae_features.errors import AssetNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text, computed once per process and content.

    Parameters
    ----------
    path : str or Path
        A file.  In a Hugging Face cache a large file is a link to a blob that is named by its
        SHA-256; that name is taken without reading the file.
    """
    place = os.fspath(path)
    state = os.stat(place)  # noqa: PTH116 called often, and several times faster
    return _sha256_of_state(place, state.st_size, state.st_mtime_ns, state.st_ino)


def known_sha256(path: str | Path) -> str | None:
    """Return the SHA-256 of a file where a Hugging Face cache names its blob by it, or None."""
    real = Path(path).resolve()
    is_blob = real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name)
    return real.name if is_blob else None


@lru_cache(maxsize=1024)
def _sha256_of_state(path: str, size: int, mtime_ns: int, inode: int) -> str:  # noqa: ARG001
    known = known_sha256(path)
    if known is not None:
        return known
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def package_folder(package: str, folder: str) -> Path | None:
    """Return a folder inside an installed package, or None; the package is not imported.

    Parameters
    ----------
    package : str
        Import name of the package.
    folder : str
        Path inside it, with ``/``.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for location in (spec and spec.submodule_search_locations) or ():
        place = Path(location, folder)
        if place.is_dir():
            return place
    return None


def hub_is_offline() -> bool:
    """Tell whether ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` forbids the network."""
    return any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def hub_folder(
    repo_id: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    is_complete: Callable[[Path], bool],
) -> Path:
    """Return the local folder of a repository's files, downloading what is missing.

    Parameters
    ----------
    repo_id : str
        ``owner/name`` on the Hugging Face hub.
    revision : str, optional
        Commit, tag or branch.  A full commit that is in the cache costs no request.
    patterns : sequence of str
        Which files.
    is_complete : callable
        Tells whether a folder in the cache has all that is needed; if so, nothing is asked of the
        network.

    Raises
    ------
    AssetNotFoundError
        With the next step, whatever went wrong.
    """
    from huggingface_hub import snapshot_download

    wanted = list(patterns)
    try:
        cached = snapshot_download(
            repo_id, revision=revision, allow_patterns=wanted, local_files_only=True
        )
        if is_complete(Path(cached)):
            return Path(cached)
    except Exception as error:  # noqa: BLE001 the hub's errors changed between versions
        logger.debug("%s is not in the cache: %s", repo_id, error)
    if hub_is_offline():
        message = (
            f"{_named(repo_id, revision)} is not in the local Hugging Face cache, and "
            "HF_HUB_OFFLINE forbids fetching it. Unset it (and log in with `hf auth login` if it is "
            "gated), or point to a local folder."
        )
        raise AssetNotFoundError(message)
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted))
    except Exception as error:
        message = (
            f"{_named(repo_id, revision)} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}) and is not in the local cache. Check the connection and the "
            "name; log in with `hf auth login` if it is gated or private; or point to a local folder."
        )
        raise AssetNotFoundError(message) from error


def _named(repo_id: str, revision: str | None) -> str:
    return f"{repo_id!r} at revision {revision}" if revision else repr(repo_id)
