"""Which store ``cache`` means, and what the environment says of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from sae_features.errors import InvalidParameterError
from sae_features.parameters import check_choice

if TYPE_CHECKING:
    from sae_features.store.disk import DiskStore
    from sae_features.store.protocol import Store

CACHE_VARIABLE: Final = "SAE_FEATURES_CACHE"
SIZE_VARIABLE: Final = "SAE_FEATURES_CACHE_SIZE"
LEAST_BYTES: Final = 10**6
DTYPE_VARIABLE: Final = "SAE_FEATURES_CACHE_DTYPE"
KEPT_DTYPES: Final = ("float32", "float16")
ON: Final = frozenset({"1", "true", "on", "yes"})
OFF: Final = frozenset({"0", "false", "off", "no"})
UNITS: Final = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip

_stores: dict[tuple[str, int], DiskStore] = {}


def default_folder() -> Path:
    """Return ``codes`` in the user's cache folder: what ``cache=True`` means."""
    return Path(platformdirs.user_cache_dir("sae-features")) / "codes"


def cache_folder() -> Path:
    """Return the folder that the environment names, or else the default one."""
    said = os.environ.get(CACHE_VARIABLE, "").strip()
    is_folder = said and said.lower() not in ON | OFF
    return Path(said).expanduser() if is_folder else default_folder()


def cache_size() -> int:
    """Return how many bytes a store on disk may hold: ``SAE_FEATURES_CACHE_SIZE``, or 20 GiB.

    Raises
    ------
    InvalidParameterError
        If the variable holds no size.
    """
    from sae_features.store.disk import MAX_BYTES

    said = os.environ.get(SIZE_VARIABLE, "").strip()
    if not said:
        return MAX_BYTES
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", said, re.IGNORECASE | re.ASCII)
    if match is None or match[2].upper() not in UNITS:
        raise InvalidParameterError(
            f"Got {SIZE_VARIABLE}={said!r}; expected a size like 20GB, 500MB, 4GiB or a number of bytes."
        )
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if size < LEAST_BYTES:
        raise InvalidParameterError(
            f"Got {SIZE_VARIABLE}={said!r}, which is {size:,} bytes; expected at least 1MB."
        )
    return size


def kept_dtype() -> str:
    """Return the type in which codes are kept: ``SAE_FEATURES_CACHE_DTYPE``, or float32.

    float16 saves a third of the space; values are then right to 2**-11 of themselves.

    Raises
    ------
    InvalidParameterError
        If the variable holds something else.
    """
    said = os.environ.get(DTYPE_VARIABLE, "").strip() or "float32"
    check_choice(DTYPE_VARIABLE, said, KEPT_DTYPES)
    return said


def store_for(cache: bool | str | os.PathLike[str] | None) -> Store | None:  # noqa: FBT001
    """Return the store that a parameter ``cache`` means; None where nothing is kept.

    Parameters
    ----------
    cache : bool, str, path-like or None
        A folder; True for the default folder; False for none. None is what ``SAE_FEATURES_CACHE``
        says (a folder, ``on`` or ``off``), or else memory, which a search shares with its workers.

    Raises
    ------
    InvalidParameterError
        If it is something else, or not a folder.
    """
    if cache is None:
        said = os.environ.get(CACHE_VARIABLE, "").strip()
        if not said:
            from sae_features.store import session

            return session.store()
        return store_for(said if said.lower() not in ON | OFF else said.lower() in ON)
    if cache is False:
        return None
    if isinstance(cache, str) and cache.strip().lower() in ON | OFF | {"none"}:
        raise InvalidParameterError(
            f"Got cache={cache!r}; expected a folder, True or False (or, in {CACHE_VARIABLE}, on or "
            f"off). A folder of that name is './{cache}'."
        )
    place: object = default_folder() if cache is True else cache
    if not isinstance(place, (str, os.PathLike)) or place == "":
        raise InvalidParameterError(
            f"Got cache={cache!r}; expected a folder, True (the default folder), False (nothing is "
            "kept) or None (memory)."
        )
    return disk_store(Path(place).expanduser())


def disk_store(folder: Path) -> DiskStore:
    """Return the store of a folder, the same one whenever this process asks.

    Raises
    ------
    InvalidParameterError
        If it is a file.
    """
    from sae_features.store.disk import DiskStore

    try:
        resolved = Path(os.path.realpath(folder))
        place = next(p for p in (resolved, *resolved.parents) if p.exists())
    except (OSError, ValueError) as error:
        raise InvalidParameterError(f"Got cache={str(folder)!r}; expected a folder: {error}.") from error
    if not place.is_dir():
        raise InvalidParameterError(
            f"Got cache={str(folder)!r}, where {place} is a file; expected a folder."
        )
    key = str(resolved), cache_size()
    return _stores.setdefault(key, DiskStore(resolved, max_bytes=key[1]))
