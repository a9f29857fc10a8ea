"""What is done with a store as a whole: counted, verified, cleared."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sae_features.errors import StoreError
from sae_features.store.private import locked
from sae_features.store.shards import DamagedError, read_items, read_shard
from sae_features.store.tables import SCHEMA, TABLES, transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_features.store.disk import DiskStore

T = TypeVar("T")

TRIES: Final = 50
"""How often a moment is looked for in which nobody writes."""


def stats(store: DiskStore) -> dict[str, Any]:
    """Return what a store holds."""

    def work(db: sqlite3.Connection) -> dict[str, Any]:
        generation, nbytes = db.execute("SELECT generation, nbytes FROM meta").fetchone()
        rows = db.execute(
            "SELECT identity, who, kind, "
            "(SELECT count(*) FROM items WHERE identity_id = identities.id), "
            "count(shards.id), coalesce(sum(nbytes), 0) FROM identities "
            "LEFT JOIN shards ON identity_id = identities.id GROUP BY identities.id"
        ).fetchall()
        names = ("identity", "who", "kind", "items", "shards", "bytes")
        identities = [dict(zip(names, row, strict=True)) for row in rows]
        return {
            "folder": str(store.folder),
            "schema": SCHEMA,
            "generation": generation,
            "items": sum(row["items"] for row in identities),
            "shards": sum(row["shards"] for row in identities),
            "bytes": nbytes,
            "max_bytes": store.max_bytes,
            "claims": store.claims.living(db),
            "identities": [row | {"who": _who(row["who"])} for row in identities],
        }

    return _run(store, work)


def verify(store: DiskStore) -> dict[str, int]:
    """Read all there is; what is damaged, and files that belong to nothing, are removed."""
    shards = _run(
        store,
        lambda db: db.execute(
            "SELECT shards.id, name, identity FROM shards JOIN identities ON identities.id = identity_id"
        ).fetchall(),
    )
    counts = dict.fromkeys(("shards", "items", "damaged", "missing_files", "orphans"), 0)
    for shard_id, name, identity in shards:
        path = store.path_of(name)
        wanted = _run(store, partial(_items_of, shard_id=shard_id))
        found, is_there = set(), path.exists()
        with contextlib.suppress(DamagedError, OSError), path.open("rb", buffering=0) as file:
            shard = read_shard(file)
            if shard.contents.identity == identity:
                found = {digest for digest, _ in read_items(file, shard, wanted)}
        lost = [digest for _, digest in wanted if digest not in found]
        gone = store.forget(identity, name, lost)
        counts["shards"] += is_there
        counts["items"] += len(found)
        counts["damaged"] += gone if is_there else 0
        counts["missing_files"] += gone > 0 and not is_there
    counts["orphans"] = sweep(store)
    return counts


def clear(store: DiskStore) -> dict[str, int]:
    """Remove all values, of processes that run as well; the index stays, since they have it open."""

    def work(db: sqlite3.Connection) -> tuple[dict[str, int], list[str]]:
        with transaction(db):
            names = [name for (name,) in db.execute("SELECT name FROM shards").fetchall()]
            (n_items,) = db.execute("SELECT count(*) FROM items").fetchone()
            (nbytes,) = db.execute("SELECT nbytes FROM meta").fetchone()
            # claims stay: what they are on is being computed
            for table in ("items", "shards", "identities"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608
            db.execute("UPDATE meta SET generation = generation + 1")
        return {"items": n_items, "shards": len(names), "bytes": nbytes}, names

    counts, names = _run(store, work)
    for name in names:
        store.path_of(name).unlink(missing_ok=True)
    sweep(store)
    return counts


def sweep(store: DiskStore) -> int:
    """Remove files of shards that are in no index, and return how many; none while somebody writes."""
    shards, count = store.folder / "shards", 0
    if not shards.is_dir():
        return 0
    for _ in range(TRIES):
        with locked(shards, wait=False) as is_alone:
            if is_alone:
                rows = _run(store, lambda db: db.execute("SELECT name FROM shards").fetchall())
                known = {name for (name,) in rows}
                for path in shards.glob("??/*"):
                    is_ours = path.suffix in {".safetensors", ".draft"} and len(path.stem) == 32
                    if is_ours and path.name not in known:
                        path.unlink(missing_ok=True)
                        count += 1
                return count
        time.sleep(0.01)
    return count


def _run(store: DiskStore, work: Callable[[sqlite3.Connection], T]) -> T:
    try:
        if not store.folder.exists():  # nothing is made only to be counted
            with contextlib.closing(sqlite3.connect(":memory:")) as empty:
                empty.executescript(TABLES)
                return work(empty)
        return store.index.run(work)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"The store {store.folder} cannot be used: {error}. Check its permissions and the space "
            "on its disk, or name another folder."
        ) from error


def _items_of(db: sqlite3.Connection, shard_id: int) -> list[tuple[int, bytes]]:
    return db.execute("SELECT position, digest FROM items WHERE shard_id = ?", (shard_id,)).fetchall()


def _who(text: str) -> dict[str, Any]:
    """Return who computes, as far as it is known."""
    try:
        who = json.loads(text)
    except ValueError:
        return {}
    return who if isinstance(who, dict) else {}
