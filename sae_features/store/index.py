"""The index of a store: which item stands in which shard, and who computes what.

One connection per process and store, under a lock, and none is inherited: SQLite counts its file locks
in memory, which a forked child would take for locks of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import sqlite3
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from sae_features.errors import StoreError, warn
from sae_features.store.file_systems import file_system_of, is_networked
from sae_features.store.forks import guard
from sae_features.store.private import locked, make_private
from sae_features.store.shards import DamagedError, read_shard
from sae_features.store.tables import NAMES, SCHEMA, TABLES, add_shard, transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

BUSY_SECONDS: Final = 30.0
WAL_BYTES: Final = 2**24
"""To this size the write-ahead log is cut once it is checkpointed."""
NO_LOG: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
"""A read-only folder in which SQLite cannot make its log: the file is read as it is."""
DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
INDEX: Final = "index.sqlite"


class Index:
    """The file ``index.sqlite`` of a store.

    Parameters
    ----------
    folder : Path
        The store's folder.
    temporary : bool, default=False
        The folder is not made, and not made again when it is gone; nothing is meant to outlive a crash.
    """

    def __init__(self, folder: Path, *, temporary: bool = False) -> None:
        self.folder = folder
        self.path = folder / INDEX
        self.temporary = temporary
        self.is_read_only = False
        self.lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._opened: tuple[int, ...] | None = None
        guard(self)

    def run(self, work: Callable[[sqlite3.Connection], T], *, make: bool = True) -> T:
        """Return what ``work`` returns of the connection; a damaged index is built anew first.

        Parameters
        ----------
        work : callable
            May be called again.
        make : bool, default=True
            Whether an index is made where there is none.

        Raises
        ------
        StoreError
            If the store cannot be used at all.
        OSError, sqlite3.Error
            If it cannot be used for now: no space, no permission, locked.
        """
        with self.lock:
            try:
                return work(self._connection(make=make))
            except sqlite3.DatabaseError as error:
                if _code(error) not in DAMAGE or self.is_read_only:
                    raise
                self._replace(self._opened)
            return work(self._connection())

    def close(self) -> None:
        """Close the connection; the next use opens one."""
        with self.lock:
            if self._db is not None:
                self._db.close()
            self._db = self._opened = None

    def before_fork(self) -> None:
        """Be in the middle of nothing, and have no connection."""
        self.lock.acquire()
        with contextlib.suppress(sqlite3.Error):
            self.close()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on."""
        if in_child:
            self.lock = threading.RLock()
        else:
            self.lock.release()

    def __del__(self) -> None:
        # when Python ends, a thread that beats may have been stopped with the lock in its hands
        with contextlib.suppress(Exception):
            if self.lock.acquire(blocking=False):
                try:
                    self.close()
                finally:  # a fork of another thread may just have taken hold of this again
                    self.lock.release()

    def _connection(self, *, make: bool = True) -> sqlite3.Connection:
        stamp = _stamp(self.path, content=self.is_read_only)
        if self._db is not None and stamp == self._opened:
            if self._db.in_transaction:  # an interrupt came between two lines
                self._db.execute("ROLLBACK")
            return self._db
        self._let_go()
        kind = file_system_of(self.folder)
        if is_networked(kind):
            raise StoreError(
                f"The folder {self.folder} lies on a network file system ({kind}), where SQLite's "
                "write-ahead log does not work and processes could not share it. Name a folder on a "
                "local disk, or use cache=None, which keeps values in memory."
            )
        if stamp is None and not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        if stamp is None:
            self._build()
        self.is_read_only = not (os.access(self.folder, os.W_OK) and os.access(self.path, os.W_OK))
        stamp = _stamp(self.path, content=self.is_read_only)
        self._opened = stamp  # before: if it is damaged, this very file is
        self._db = self._open()
        return self._db

    def _open(self) -> sqlite3.Connection:
        # "rw" makes no file: ours are made private, and whole
        modes = ["mode=ro", "immutable=1"] if self.is_read_only else ["mode=rw"]
        for mode in modes:
            db = _connect(f"{self.path.absolute().as_uri()}?{mode}")
            try:
                self._check(db)
                if not self.is_read_only:
                    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
                    db.execute(f"PRAGMA synchronous = {'OFF' if self.temporary else 'NORMAL'}")
            except sqlite3.OperationalError as error:
                db.close()
                if mode == modes[-1] or _code(error) not in NO_LOG:
                    raise
            except BaseException:
                db.close()
                raise
            else:
                return db
        raise AssertionError

    def _check(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise StoreError(
                f"The store {self.folder} has schema {version}; this version of sae-features reads "
                f"schema {SCHEMA}. Upgrade sae-features, or name another folder."
            )
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if names >= NAMES and version == SCHEMA:
            return
        if names and not names & NAMES:
            raise StoreError(
                f"{self.path} is a database of another program (tables {', '.join(sorted(names))}). "
                "Name another folder."
            )
        error = sqlite3.DatabaseError("tables are missing")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    def _build(self) -> None:
        """Make the index of the shards that are there, whole before others see it."""
        if not self.temporary:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            make_private(self.folder)
        with locked(self.folder):
            if not self.path.exists():
                self._build_alone()

    def _build_alone(self, aside: str | None = None) -> None:
        """Build an index of the shards in the place of one that is damaged or gone."""
        draft = self.path.with_name(f"{self.path.name}.new-{secrets.token_hex(8)}")
        try:
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            draft.chmod(0o600)  # SQLite gives its other files the same mode
            with contextlib.closing(_connect(str(draft))) as db:
                db.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
                self._fill(db)
                db.execute("PRAGMA journal_mode = WAL")  # last: all else stands in the file itself
            for suffix in ("-wal", "-shm"):  # of another index: SQLite would replay it
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            if aside is not None:
                with contextlib.suppress(OSError):  # not every file system has links
                    self.path.with_name(aside).hardlink_to(self.path)
            draft.replace(self.path)  # there is an index at every moment
        finally:
            for suffix in ("", "-journal", "-wal", "-shm"):
                draft.with_name(draft.name + suffix).unlink(missing_ok=True)

    def _fill(self, db: sqlite3.Connection) -> None:
        with transaction(db):
            for path in sorted(self.folder.glob("shards/*/*.safetensors")):
                with contextlib.suppress(OSError, DamagedError):
                    with path.open("rb", buffering=0) as file:
                        shard = read_shard(file)
                    add_shard(db, path.name, path.stat().st_size, shard.contents, shard.digests)

    def _replace(self, stamp: tuple[int, ...] | None) -> None:
        """Set a damaged index aside, unless another process has, and build it of the shards."""
        self._let_go()
        aside = f"{self.path.name}.damaged-{secrets.token_hex(8)}"
        with locked(self.folder):
            if stamp is None or _stamp(self.path) != stamp:
                return
            self._build_alone(aside)
        message = (
            f"The index {self.path} was damaged; it was set aside as {aside} and built anew from the "
            "shards. Nothing needs to be done."
        )
        warn(message)

    def _let_go(self) -> None:
        """Close a connection to a file that may have another name now, or none.

        Closing deletes the write-ahead log by name, and that may be the log of another index.
        """
        db, opened = self._db, self._opened
        self._db = self._opened = None
        if db is None:
            return
        if opened is not None and _stamp(self.path) == opened[:2]:
            db.close()
        elif hasattr(db, "setconfig"):  # Python 3.12
            db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # type: ignore[attr-defined]  # noqa: FBT003
            db.close()
        else:  # it is never closed: not even when Python ends
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))


def _connect(place: str) -> sqlite3.Connection:
    return sqlite3.connect(
        place,
        uri=place.startswith("file:"),
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # under the lock
    )


def _stamp(path: Path, *, content: bool = False) -> tuple[int, ...] | None:
    """Return what tells a file from another of the same name; with ``content``, from a later state."""
    try:
        found = path.stat()
    except OSError:
        return None
    later = (found.st_size, found.st_mtime_ns) if content else ()
    return found.st_dev, found.st_ino, *later


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
