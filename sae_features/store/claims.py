"""Who computes what: claims of threads and processes on items, in the index of a store.

A claim ends when it is released, or when whoever holds it has died: its process is gone, or it has not
been heard of for a while by the waiting process's own count of seconds. No clock on the wall decides.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sqlite3
import threading
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sae_features.errors import StoreError
from sae_features.store.reaper import is_alive, start_of
from sae_features.store.tables import batches, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sae_features.store.index import Index

BEAT_SECONDS: Final = 2.0
"""How often a process that holds claims is heard of."""
SILENT_SECONDS: Final = 30.0
"""After so long without a word a process is taken for dead."""
ATTENTION_SECONDS: Final = 1.0
"""What counts at most between two looks: who was suspended has not watched meanwhile."""
FIRST_POLL, LAST_POLL = 0.005, 0.1

Key = tuple[str, bytes, str]
"""Scope, digest and claimant."""


class Claims:
    """Claims in an index.

    Parameters
    ----------
    index : Index
        Of the store.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._local = threading.local()
        self._silence: dict[str, tuple[int, float, float]] = {}
        self._held: set[Key] = set()  # in the index, by threads of this process
        self._owed: set[Key] = set()  # to be released as soon as that can be written
        self._beating = 0  # number of the process whose thread beats

    def claim(self, scope: str, digests: Sequence[bytes]) -> list[bytes]:
        """Return those digests, in order, that nobody else has claimed; they are this thread's now."""
        me, wanted = self._me(), list(dict.fromkeys(digests))

        def work(db: sqlite3.Connection) -> list[bytes]:
            with transaction(db):
                holders = _holders(db, scope, wanted)
                everyone = {name for (name,) in db.execute("SELECT id FROM claimants").fetchall()}
                dead = self._dead(db, everyone.union(holders.values()) - {me})
                for claimant in dead:
                    db.execute("DELETE FROM claims WHERE claimant = ?", (claimant,))
                    db.execute("DELETE FROM claimants WHERE id = ?", (claimant,))
                free = [d for d in wanted if d not in holders or holders[d] in dead]
                if free:
                    db.execute(
                        "INSERT OR IGNORE INTO claimants VALUES (?, ?, ?, ?, 0)",
                        (me, os.getpid(), start_of(os.getpid()), host()),
                    )
                    db.executemany("INSERT INTO claims VALUES (?, ?, ?)", ((scope, d, me) for d in free))
                granted = {*free, *(d for d, holder in holders.items() if holder == me)}
            if granted:
                keys = {(scope, digest, me) for digest in granted}
                self._held |= keys
                self._owed -= keys
                self._beat()
            return [digest for digest in wanted if digest in granted]

        try:
            return self._index.run(work)
        except Exception:
            raise
        except BaseException:  # an interrupt: it may have come after they were granted
            self._owe({(scope, digest, me) for digest in wanted})
            raise

    def release(self, scope: str, digests: Sequence[bytes]) -> None:
        """Give back what this thread claimed; what cannot be written now, a full disk, say, is later."""
        keys = self._held.intersection((scope, digest, self._me()) for digest in digests)
        try:
            if keys:
                self._index.run(partial(_delete, keys=keys))
        except BaseException:
            self._owe(keys)
            raise
        finally:
            self._held -= keys

    def wait(self, scope: str, digests: Sequence[bytes], timeout: float) -> None:
        """Return once a claim of others on one of these may have ended, or after ``timeout`` seconds."""
        me, wanted = self._me(), list(dict.fromkeys(digests))
        end, pause = time.monotonic() + timeout, FIRST_POLL

        def look(db: sqlite3.Connection) -> tuple[dict[bytes, str], set[str]]:
            holders = {d: holder for d, holder in _holders(db, scope, wanted).items() if holder != me}
            return holders, self._dead(db, set(holders.values()))

        first, dead = self._index.run(look)
        now = first
        while first and not dead and all(now.get(digest) == held for digest, held in first.items()):
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(pause, left))
            pause = min(LAST_POLL, pause * 1.5)
            now, dead = self._index.run(look)

    def living(self, db: sqlite3.Connection) -> int:
        """Return how many claims there are of those that live."""
        claimants = [claimant for (claimant,) in db.execute("SELECT DISTINCT claimant FROM claims")]
        dead = self._dead(db, claimants)
        counts = [
            db.execute("SELECT count(*) FROM claims WHERE claimant = ?", (claimant,)).fetchone()[0]
            for claimant in claimants
            if claimant not in dead
        ]
        return sum(counts)

    def _me(self) -> str:
        """Return the name of this thread of this process; no other has had it."""
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.pid, self._local.name = os.getpid(), secrets.token_hex(8)
        name: str = self._local.name
        return name

    def _dead(self, db: sqlite3.Connection, claimants: Iterable[str]) -> set[str]:
        return {claimant for claimant in claimants if self._is_dead(db, claimant)}

    def _is_dead(self, db: sqlite3.Connection, claimant: str) -> bool:
        row = db.execute(
            "SELECT pid, start, host, beat FROM claimants WHERE id = ?", (claimant,)
        ).fetchone()
        if row is None:
            return True
        pid, start, where, beat = row
        if where == host():
            if not is_alive(pid, start):
                return True
            if pid == os.getpid():
                return False
        now = time.monotonic()
        known, silent, last = self._silence.get(claimant, (beat, 0.0, now))
        silent = silent + min(now - last, ATTENTION_SECONDS) if known == beat else 0.0
        if len(self._silence) > 1000:
            self._silence.clear()
        self._silence[claimant] = (beat, silent, now)
        return silent >= SILENT_SECONDS

    def _owe(self, keys: set[Key]) -> None:
        with self._index.lock:
            self._owed |= keys
            self._beat()

    def _beat(self) -> None:
        """Let a thread of this process be heard of until it has no claims; under the index's lock."""
        if self._beating != os.getpid():
            self._beating = os.getpid()
            threading.Thread(target=self._keep_beating, name="sae-features claims", daemon=True).start()

    def _keep_beating(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            # a full disk or a busy index: it is tried again
            with contextlib.suppress(sqlite3.Error, OSError, StoreError):
                try:
                    if not self._index.run(self._beat_once, make=False):
                        return
                except FileNotFoundError:  # the claims went with the index
                    self._beating = 0
                    return

    def _beat_once(self, db: sqlite3.Connection) -> bool:
        if self._owed:
            _delete(db, self._owed)
            self._owed.clear()
        count = db.execute(
            "UPDATE claimants SET beat = beat + 1 WHERE pid = ? AND start = ? AND host = ?",
            (os.getpid(), start_of(os.getpid()), host()),
        ).rowcount
        if not count:
            self._beating = 0
        return count > 0


@cache
def host() -> str:
    """Return what tells apart machines, their boots, and spaces in which processes are numbered."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _delete(db: sqlite3.Connection, keys: set[Key]) -> None:
    with transaction(db):
        db.executemany("DELETE FROM claims WHERE scope = ? AND digest = ? AND claimant = ?", keys)
        db.executemany(
            "DELETE FROM claimants WHERE id = ? AND NOT EXISTS "
            "(SELECT 1 FROM claims WHERE claimant = claimants.id)",
            {(me,) for _, _, me in keys},
        )


def _holders(db: sqlite3.Connection, scope: str, digests: Sequence[bytes]) -> dict[bytes, str]:
    holders: dict[bytes, str] = {}
    for batch, marks in batches(digests):
        holders |= db.execute(
            f"SELECT digest, claimant FROM claims WHERE scope = ? AND digest IN ({marks})",  # noqa: S608
            (scope, *batch),
        ).fetchall()
    return holders
