"""The index of a folder of activations: what made them, and which files hold them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sae_features.errors import InvalidParameterError, SAEFormatError, StoreError
from sae_features.hook_point import HookPoint
from sae_features.saes.json_files import read_json
from sae_features.store.disk import FULL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from sae_features.training.sources import ActivationSource

INDEX: Final = "activations.json"
TENSOR: Final = "activations"
SCHEMA: Final = 1
MAX_BYTES: Final = 2**26
UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError)
"""What a damaged index makes Python raise."""


class Shard(NamedTuple):
    """A file of rows."""

    n_rows: int
    n_bytes: int
    """Size of the file."""
    sha256: str
    """Digest of the file."""


@dataclass(frozen=True)
class ShardIndex:
    """What a folder of activations says of itself.

    Attributes
    ----------
    origin : dict
        All that the files follow from: ``d_in``, ``dtype``, ``hook_point``, ``metadata``, ``n_rows`` and
        ``digest`` of the source, ``shard_rows``.
    shards : tuple of Shard
        Those that are whole, in order.
    is_complete : bool
        Whether no further ones will come.
    """

    origin: Mapping[str, Any]
    shards: tuple[Shard, ...] = field(default=(), repr=False)
    is_complete: bool = False

    @property
    def d_in(self) -> int:
        """Size of a row."""
        return int(self.origin["d_in"])

    @property
    def dtype(self) -> str:
        """Type on disk."""
        return str(self.origin["dtype"])

    @property
    def hook_point(self) -> HookPoint | None:
        """Where the rows were read."""
        given = self.origin["hook_point"]
        return None if given is None else HookPoint(given["layer"], given["site"])

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What made the rows."""
        return dict(self.origin["metadata"])

    @property
    def identity(self) -> str:
        """SHA-256 of the origin."""
        return hashlib.sha256(_canonical(self.origin).encode()).hexdigest()

    def with_shard(self, shard: Shard, *, is_last: bool) -> ShardIndex:
        """Return an index with one shard more."""
        return replace(self, shards=(*self.shards, shard), is_complete=is_last)

    def write(self, folder: Path) -> None:
        """Write the index into its folder, in place of the one that is there."""
        content = {
            "schema": SCHEMA,
            "identity": self.identity,
            "origin": self.origin,
            "is_complete": self.is_complete,
            "shards": [shard._asdict() for shard in self.shards],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(folder / INDEX, f"{text}\n".encode(), n_whole=len(self.shards))

    @classmethod
    def begin(cls, source: ActivationSource, folder: Path, dtype: str, shard_rows: int) -> ShardIndex:
        """Return the index of what is to be written: a new one, or one that was begun.

        Raises
        ------
        InvalidParameterError
            If the source's metadata are not plain JSON.
        StoreError
            If the folder holds activations of another origin, or anything else.
        """
        point = source.hook_point
        origin = {
            "d_in": source.d_in,
            "n_rows": source.n_rows,
            "hook_point": None if point is None else point._asdict(),
            "metadata": dict(source.metadata),
            "digest": getattr(source, "digest", None),
            "dtype": dtype,
            "shard_rows": shard_rows,
        }
        try:
            wanted = cls(json.loads(_canonical(origin)))
        except (TypeError, ValueError) as error:
            message = f"Got metadata that are not plain JSON values: {error}. Give strings and numbers."
            raise InvalidParameterError(message) from error
        if not (folder / INDEX).exists():
            _check_empty(folder)
            return wanted
        begun = cls.read(folder)
        for name in sorted(wanted.origin, key="digest".__eq__):  # the digest says least
            found, value = begun.origin.get(name), wanted.origin[name]
            if found != value:
                raise StoreError(_other_origin(folder, name, found, value))
        return begun

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the index that lies in a folder.

        Raises
        ------
        StoreError
            If there is none, it is of another version, or damaged.
        """
        path = folder / INDEX
        if not path.is_file():
            message = (
                f"Got {str(folder)!r}, which holds no activations (no {INDEX}); expected a folder that "
                "write_activations wrote."
            )
            raise StoreError(message)
        damage = f"{path} is damaged: {{}}. Copy the folder again, or write the activations anew."
        try:
            content = read_json(path, max_bytes=MAX_BYTES)
        except SAEFormatError as error:
            raise StoreError(damage.format(error)) from error
        if content.get("schema") != SCHEMA:
            message = (
                f"{path} is of schema {content.get('schema')!r}; this version of sae_features reads "
                f"{SCHEMA}. Use the version that wrote it, or write the activations anew."
            )
            raise StoreError(message)
        try:
            return cls._checked(content)
        except UNREADABLE as error:
            raise StoreError(damage.format(f"{type(error).__name__}: {error}")) from error

    @classmethod
    def _checked(cls, content: dict[str, Any]) -> Self:
        shards = tuple(Shard(**entry) for entry in content["shards"])
        index = cls(dict(content["origin"]), shards, content["is_complete"])
        if index.identity != content["identity"]:
            raise ValueError("its identity is not that of its origin")
        sizes = [index.origin["d_in"], *(n for shard in shards for n in shard[:2])]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"sizes {sizes[:5]}, expected integers above 0")
        if content["is_complete"] not in ((True, False) if shards else (False,)):
            raise ValueError(f"is_complete={index.is_complete!r} with {len(shards)} shards")
        index.hook_point, index.metadata, index.dtype  # noqa: B018 whether they can be read
        return index


def shard_name(number: int) -> str:
    """Return the name of a file of rows, counted from 0."""
    return f"activations-{number:05}.safetensors"


def write_whole(path: Path, data: bytes, *, n_whole: int) -> None:
    """Write a file that appears with all that is in it, or not at all.

    Raises
    ------
    StoreError
        If the disk is full; the message says how many shards are whole, ``n_whole``.
    """
    draft = path.with_name(f"{path.name}.draft")
    try:
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())  # a name may reach the disk before what it names
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        message = (
            f"No space is left for {path.name} ({len(data):,} bytes) in {str(path.parent)!r}: {free:,} "
            f"bytes are free. {n_whole} shards are whole and stay; make space and call "
            "write_activations again, which goes on behind them."
        )
        raise StoreError(message) from error


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _check_empty(folder: Path) -> None:
    others = sorted(path.name for path in folder.iterdir())
    if others:
        message = (
            f"Got {str(folder)!r}, which holds {others[0]!r} and no index of activations; expected an "
            "empty folder, or one that write_activations has begun. Choose another one."
        )
        raise StoreError(message)


def _other_origin(folder: Path, name: str, found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        name, found, wanted = f"{name}[{keys[0]!r}]", found.get(keys[0]), wanted.get(keys[0])
    return (
        f"{str(folder)!r} holds activations of another origin: {name} is {found!r} there, and "
        f"{wanted!r} of what is to be written. Choose another folder, or remove this one."
    )
