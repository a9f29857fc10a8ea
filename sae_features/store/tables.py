"""What stands in the index of a store, and what is asked of it, in SQL."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sae_features.store.shards import Contents

SCHEMA: Final = 1
LOOKUP: Final = 900
"""Variables in one statement: 999 at most in old SQLite."""
TABLES: Final = """
CREATE TABLE meta (generation INTEGER NOT NULL, tick INTEGER NOT NULL, nbytes INTEGER NOT NULL);
INSERT INTO meta VALUES (0, 0, 0);
CREATE TABLE identities (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, who TEXT NOT NULL,
    kind TEXT NOT NULL);
CREATE TABLE shards (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    identity_id INTEGER NOT NULL, nbytes INTEGER NOT NULL, used INTEGER NOT NULL);
CREATE INDEX by_use ON shards (used);
CREATE TRIGGER shard_came AFTER INSERT ON shards
    BEGIN UPDATE meta SET nbytes = nbytes + new.nbytes; END;
CREATE TRIGGER shard_went AFTER DELETE ON shards
    BEGIN UPDATE meta SET nbytes = nbytes - old.nbytes; END;
CREATE TABLE items (identity_id INTEGER NOT NULL, digest BLOB NOT NULL, shard_id INTEGER NOT NULL,
    position INTEGER NOT NULL, PRIMARY KEY (identity_id, digest)) WITHOUT ROWID;
CREATE INDEX by_shard ON items (shard_id);
CREATE TABLE claimants (id TEXT PRIMARY KEY, pid INTEGER NOT NULL, start TEXT NOT NULL,
    host TEXT NOT NULL, beat INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE claims (scope TEXT NOT NULL, digest BLOB NOT NULL, claimant TEXT NOT NULL,
    PRIMARY KEY (scope, digest)) WITHOUT ROWID;
CREATE INDEX by_claimant ON claims (claimant);
"""
NAMES: Final = {"meta", "identities", "shards", "items", "claimants", "claims"}


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do all or nothing, as the only writer."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have rolled it back
            db.execute("ROLLBACK")
        raise


def add_shard(
    db: sqlite3.Connection, name: str, nbytes: int, shard: Contents, digests: Sequence[bytes]
) -> int:
    """Add a shard, within a transaction; return how many of its items are new."""
    db.execute(
        "INSERT INTO identities (identity, who, kind) VALUES (?, ?, ?) "
        "ON CONFLICT (identity) DO UPDATE SET who = excluded.who WHERE who = ''",
        shard,
    )
    db.execute("UPDATE meta SET tick = tick + 1")
    shard_id = db.execute(
        "INSERT INTO shards (name, identity_id, nbytes, used) "
        "SELECT ?, id, ?, tick FROM identities, meta WHERE identity = ?",
        (name, nbytes, shard.identity),
    ).lastrowid
    before = db.total_changes
    db.executemany(
        "INSERT OR IGNORE INTO items SELECT identity_id, ?, id, ? FROM shards WHERE id = ?",
        ((digest, position, shard_id) for position, digest in enumerate(digests)),
    )
    return db.total_changes - before


def batches(digests: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], str]]:
    """Yield as many digests as one statement may take, and question marks for them."""
    for start in range(0, len(digests), LOOKUP):
        batch = digests[start : start + LOOKUP]
        yield batch, ",".join("?" * len(batch))


def present_of(db: sqlite3.Connection, identity: str, digests: Sequence[bytes]) -> set[bytes]:
    """Return which of these items there are."""
    return {
        digest
        for batch, marks in batches(list(digests))
        for (digest,) in db.execute(
            "SELECT digest FROM items WHERE identity_id = "  # noqa: S608
            f"(SELECT id FROM identities WHERE identity = ?) AND digest IN ({marks})",
            (identity, *batch),
        ).fetchall()
    }


def places_of(
    db: sqlite3.Connection, identity: str, digests: Sequence[bytes]
) -> dict[str, list[tuple[int, bytes]]]:
    """Return by shard where items stand; the shards count as used."""
    places: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    (tick,) = db.execute("SELECT tick FROM meta").fetchone()
    outdated = set()
    for batch, marks in batches(list(dict.fromkeys(digests))):
        for digest, position, name, used in db.execute(
            "SELECT digest, position, name, used FROM items JOIN shards ON shards.id = shard_id "  # noqa: S608
            "WHERE items.identity_id = (SELECT id FROM identities WHERE identity = ?) "
            f"AND digest IN ({marks})",
            (identity, *batch),
        ).fetchall():
            places[name].append((position, digest))
            if used < tick:
                outdated.add(name)
    if outdated:
        with contextlib.suppress(sqlite3.Error), transaction(db):  # a matter of order only
            db.executemany(
                "UPDATE shards SET used = ? WHERE name = ?", ((tick, name) for name in outdated)
            )
    return places


def evict(db: sqlite3.Connection, max_bytes: int) -> list[str]:
    """Take shards out of the index, the least recently used first, until the rest fits."""
    names = []
    while row := db.execute(
        "SELECT id, name FROM shards, meta WHERE meta.nbytes > ? ORDER BY used, id LIMIT 1", (max_bytes,)
    ).fetchone():
        db.execute("DELETE FROM items WHERE shard_id = ?", row[:1])
        db.execute("DELETE FROM shards WHERE id = ?", row[:1])
        names.append(row[1])
    return names


def drop_items(
    db: sqlite3.Connection, identity: str, name: str, digests: Sequence[bytes]
) -> tuple[int, bool]:
    """Take items of a shard out of the index; return how many were there, and if nothing is left."""
    with transaction(db):
        count = sum(
            db.execute(
                "DELETE FROM items WHERE digest = ? "
                "AND identity_id = (SELECT id FROM identities WHERE identity = ?) "
                "AND shard_id = (SELECT id FROM shards WHERE name = ?)",
                (digest, identity, name),
            ).rowcount
            for digest in digests
        )
        emptied = db.execute(
            "DELETE FROM shards WHERE name = ? "
            "AND NOT EXISTS (SELECT 1 FROM items WHERE shard_id = shards.id)",
            (name,),
        ).rowcount
    return count, emptied > 0
