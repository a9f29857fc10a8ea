"""A store on disk that processes share: shards of values, and an index that says where each is."""

from __future__ import annotations

import contextlib
import errno
import secrets
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sae_features.errors import StoreError, warn
from sae_features.store import upkeep
from sae_features.store.claims import Claims
from sae_features.store.codec import encode
from sae_features.store.index import Index
from sae_features.store.private import locked, make_private, write_whole
from sae_features.store.shards import DIGEST_BYTES, Contents, DamagedError, pack, read_items, read_shard
from sae_features.store.tables import add_shard, drop_items, evict, places_of, present_of, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sae_features.store.codec import Encoded

T = TypeVar("T")

MAX_BYTES: Final = 20 * 2**30
SHARD_BYTES: Final = 2**25
"""About how large a shard becomes."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
UNUSABLE: Final = (OSError, sqlite3.Error)
"""What a full disk, a read-only folder or a busy index raise."""


class DiskStore:
    """Values in a folder, shared by threads and processes; a value is right or it is not there.

    Parameters
    ----------
    folder : Path
        Made on first use.
    max_bytes : int, default=20 GiB
        Size of all shards; those that were not used for longest go first.
    temporary : bool, default=False
        The folder must exist, and is not made again when it is gone.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, temporary: bool = False) -> None:
        self.folder = Path(folder).absolute()  # wherever the process goes
        self.max_bytes = max_bytes
        self.is_temporary = temporary
        self.index = Index(self.folder, temporary=temporary)
        self.claims = Claims(self.index)
        self._has_told = False
        self._has_swept = False
        self._lost: set[tuple[str, bytes]] = set()  # damaged, in an index that cannot be written

    def __repr__(self) -> str:
        return f"DiskStore({str(self.folder)!r})"

    def get_many(self, identity: str, digests: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the values that are there and undamaged, by digest."""
        found: dict[bytes, Any] = {}
        try:
            places = self.index.run(lambda db: places_of(db, identity, digests))
        except UNUSABLE:
            return found
        for name, wanted in places.items():
            found |= self._read(identity, name, wanted)
        return found

    def has_many(self, identity: str, digests: Sequence[bytes]) -> set[bytes]:
        """Return the digests of values that are there, from the index alone."""
        try:
            present = self.index.run(lambda db: present_of(db, identity, digests))
        except UNUSABLE:
            return set()
        return {digest for digest in present if (identity, digest) not in self._lost}

    def put_many(self, identity: str, values: Mapping[bytes, Any], who: str = "") -> None:
        """Keep values; the first one of a key stays, and what finds no space is warned of once."""
        if any(len(digest) != DIGEST_BYTES for digest in values):
            raise ValueError(f"A digest must have {DIGEST_BYTES} bytes.")
        try:
            present = self.index.run(lambda db: present_of(db, identity, list(values)))
        except UNUSABLE as error:
            self._tell(error)
            return
        items = [(digest, encode(value)) for digest, value in values.items() if digest not in present]
        problem: Exception | None = None
        for kind, part in _parts(items, min(SHARD_BYTES, self.max_bytes // 4)):
            try:
                self._put(Contents(identity, who, kind), part)
            except UNUSABLE as error:
                problem = error
        if problem is not None:
            self._tell(problem)

    def claim(self, scope: str, digests: Sequence[bytes]) -> list[bytes]:
        """Return those digests, in order, that this thread now has to compute.

        All of them where claims cannot be written: better twice than never.
        """
        try:
            return self.claims.claim(scope, digests)
        except UNUSABLE:
            return list(dict.fromkeys(digests))

    def release(self, scope: str, digests: Sequence[bytes]) -> None:
        """Give back what this thread claimed."""
        with contextlib.suppress(*UNUSABLE):
            self.claims.release(scope, digests)

    def wait(self, scope: str, digests: Sequence[bytes], timeout: float) -> None:
        """Wait until a claim of others on one of these may have ended, or for ``timeout`` seconds."""
        with contextlib.suppress(*UNUSABLE):
            self.claims.wait(scope, digests, timeout)

    @property
    def generation(self) -> int:
        """How often the store was cleared; 0 where that cannot be read."""
        try:
            return int(
                self.index.run(lambda db: db.execute("SELECT generation FROM meta").fetchone()[0])
            )
        except UNUSABLE:
            return 0

    def stats(self) -> dict[str, Any]:
        """Return what the store holds, by who computed it.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        return upkeep.stats(self)

    def verify(self) -> dict[str, int]:
        """Read all there is, remove what is damaged or belongs to nothing, and return counts.

        Raises
        ------
        StoreError
            If the index cannot be read.
        """
        return upkeep.verify(self)

    def clear(self) -> dict[str, int]:
        """Remove all values, also for processes that use the store now, and return counts.

        Raises
        ------
        StoreError
            If the index cannot be written.
        """
        return upkeep.clear(self)

    def close(self) -> None:
        """Close the index; the next use opens it again."""
        self.index.close()

    def path_of(self, name: str) -> Path:
        """Return where a shard is."""
        return self.folder / "shards" / name[:2] / name

    def _tell(self, error: Exception) -> None:
        if self._has_told:
            return
        self._has_told = True
        reason = getattr(error, "strerror", None) or str(error)
        is_full = getattr(error, "errno", None) in FULL or "full" in str(error)
        advice = "Make room there" if is_full else "See to it that it can be written"
        message = (
            f"Values could not be kept in {self.folder}: {reason}. They are used now and computed "
            f"again another time. {advice}, or name another folder as the cache."
        )
        warn(message)

    def _put(self, contents: Contents, items: Sequence[tuple[bytes, Encoded]]) -> None:
        data = pack(contents, items)
        if len(data) > self.max_bytes:
            raise OSError(errno.EFBIG, f"the store may hold {self.max_bytes:,} bytes")
        name = f"{secrets.token_hex(16)}.safetensors"
        path = self.path_of(name)
        for folder in (path.parent.parent, path.parent):
            make_private(folder)

        def work(db: sqlite3.Connection) -> list[str]:
            with transaction(db):
                if db.execute("SELECT 1 FROM shards WHERE name = ?", (name,)).fetchone():
                    return []  # a damaged index was just built anew, of this shard, too
                if not add_shard(db, name, len(data), contents, [digest for digest, _ in items]):
                    db.execute("DELETE FROM shards WHERE name = ?", (name,))  # others were faster
                    return [name]
                return evict(db, self.max_bytes)

        with locked(path.parent.parent, shared=True):  # nobody takes the file for an orphan
            write_whole(path, data)
            try:
                evicted = self.index.run(work)
            except Exception:
                path.unlink(missing_ok=True)
                raise
        for gone in evicted:
            self.path_of(gone).unlink(missing_ok=True)
        if evicted and not self._has_swept:
            self._has_swept = True
            with contextlib.suppress(StoreError):
                upkeep.sweep(self)

    def _read(self, identity: str, name: str, wanted: Sequence[tuple[int, bytes]]) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        try:
            with self.path_of(name).open("rb", buffering=0) as file:
                shard = read_shard(file)
                if shard.contents.identity == identity:
                    found.update(read_items(file, shard, wanted))
        except (DamagedError, FileNotFoundError):
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # too many open files, say: the shard may be as it was
                return found
        lost = [digest for _, digest in wanted if digest not in found]
        n_lost = self.forget(identity, name, lost) if lost else 0
        if n_lost:
            message = (
                f"{n_lost} of {len(wanted)} values in {self.path_of(name)} were damaged or missing and "
                "are computed again."
            )
            warn(message)
        return found

    def forget(self, identity: str, name: str, digests: Sequence[bytes]) -> int:
        """Let damaged items of a shard be missing; return how many were not so already."""
        try:
            count, is_empty = self.index.run(lambda db: drop_items(db, identity, name, digests))
            if is_empty:
                self.path_of(name).unlink(missing_ok=True)
        except UNUSABLE:  # they stay in an index that cannot be written, but are not served
            self._lost.update((identity, digest) for digest in digests)
            return len(digests)
        return count


def _parts(
    items: Sequence[tuple[bytes, Encoded]], limit: int
) -> Iterator[tuple[str, list[tuple[bytes, Encoded]]]]:
    """Yield items of one layout, about as many as ``limit`` bytes hold."""
    groups: dict[tuple[str, ...], list[tuple[bytes, Encoded]]] = defaultdict(list)
    for digest, value in items:
        groups[value.layout].append((digest, value))
    for (kind, *_), group in groups.items():
        part: list[tuple[bytes, Encoded]] = []
        nbytes = 0
        for digest, value in group:
            size = sum(array.nbytes for array in value.arrays)
            if part and nbytes + size > limit:
                yield kind, part
                part, nbytes = [], 0
            part.append((digest, value))
            nbytes += size
        if part:
            yield kind, part
