"""One search, several processes: what ``cache=None`` keeps is shared by a process and its workers.

Values stay in memory until a worker appears. Then they are shared through a temporary store, in a
folder that goes when its owner ends: the process that began. The folder's name travels with estimators
when they are pickled; whoever needs the folder first makes it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sae_features.errors import StoreError
from sae_features.store import reaper
from sae_features.store.claims import host
from sae_features.store.disk import DiskStore
from sae_features.store.file_systems import file_system_of, is_networked
from sae_features.store.memory import SHARED
from sae_features.store.private import make_private

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.store.protocol import Store


SESSION_BYTES: Final = 2**32
"""Size of a session's store: the temporary folder may lie in memory."""


class Session(NamedTuple):
    """Where values are shared, and whose folder that is."""

    folder: str
    """"" where there is no place."""
    pid: int
    start: str
    host: str

    @property
    def is_alive(self) -> bool:
        """Whether the owner runs, on this machine."""
        return self.host == host() and reaper.is_alive(self.pid, self.start)


@dataclass
class _State:
    """What this process knows; a forked child inherits it, and so is a worker of the owner's session."""

    owner: int = field(default_factory=os.getpid)
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    adopted: Session | None = None
    disk: DiskStore | None = None
    n_spilled: int = 0
    """How many values had ever been put in memory when it was last written out."""


_state = _State()
_lock = threading.Lock()


def _unlock() -> None:
    """Let a forked child not wait for a thread that it does not have."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


class OwnerStore:
    """What the owner of a session uses: memory, and the session's folder once there is one."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def max_bytes(self) -> int:
        """Size of the store in memory."""
        return SHARED.max_bytes

    @property
    def _shared(self) -> Store | None:
        return _disk(self.session) if os.path.isdir(self.session.folder) else None  # noqa: PTH112

    def get_many(self, identity: str, digests: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the values that are there; those of workers come into memory, too."""
        found = SHARED.get_many(identity, digests)
        rest = [digest for digest in digests if digest not in found]
        if rest and (shared := self._shared):
            fresh = shared.get_many(identity, rest)
            SHARED.put_many(identity, fresh)
            found |= fresh
        return found

    def has_many(self, identity: str, digests: Sequence[bytes]) -> set[bytes]:
        """Return the digests of values that are there."""
        found = SHARED.has_many(identity, digests)
        return found | shared.has_many(identity, digests) if (shared := self._shared) else found

    def put_many(self, identity: str, values: Mapping[bytes, Any], who: str = "") -> None:
        """Keep values in memory, and where there is a folder, for workers that wait for them."""
        SHARED.put_many(identity, values, who)
        if shared := self._shared:
            shared.put_many(identity, values, who)

    def claim(self, scope: str, digests: Sequence[bytes]) -> list[bytes]:
        """Return those digests, in order, that this thread now has to compute."""
        granted = kept = SHARED.claim(scope, digests)
        try:
            if granted and (shared := self._shared):
                kept = []
                kept = shared.claim(scope, granted)
        finally:
            if len(kept) < len(granted):
                SHARED.release(scope, list(set(granted).difference(kept)))
        return kept

    def release(self, scope: str, digests: Sequence[bytes]) -> None:
        """Give back what this thread claimed."""
        SHARED.release(scope, digests)
        if shared := self._shared:
            shared.release(scope, digests)

    def wait(self, scope: str, digests: Sequence[bytes], timeout: float) -> None:
        """Wait until a claim of others on one of these may have ended, or for ``timeout`` seconds."""
        shared = self._shared
        if shared is None or SHARED.others(scope, digests):
            SHARED.wait(scope, digests, timeout)
        else:
            shared.wait(scope, digests, timeout)


def announce() -> dict[str, Any]:
    """Return what another process needs to share the session; goes into pickles.

    In a thread that is not the main one, which is where pools pickle what they send to workers, values
    in memory are written out for them.
    """
    session = _current()
    is_for_workers = threading.current_thread() is not threading.main_thread()
    is_new = len(SHARED) > 0 and SHARED.n_put != _state.n_spilled
    if is_for_workers and is_new and session.pid == os.getpid():
        with contextlib.suppress(OSError, StoreError):
            _spill(session)
    return session._asdict()


def adopt(record: Mapping[str, Any]) -> None:
    """Share the session that came with a pickle, if its owner lives and this process began with it.

    Anything else is ignored: an estimator may be loaded from a file long after.
    """
    try:
        session = Session(**record)
    except TypeError:
        return
    if [type(part) for part in session] != [str, int, str, str] or session.pid <= 0:
        return
    folder = Path(session.folder)
    if (
        session.pid != os.getpid()
        and not (_state.owner == os.getpid() and len(SHARED))  # it began on its own
        and folder.is_absolute()
        and reaper.NAME.fullmatch(folder.name)
        and folder.parent.name == reaper.root_name()
        and all(reaper.is_private(place) for place in (folder, folder.parent) if os.path.lexists(place))
        and session.is_alive
    ):
        _state.adopted = session


def store() -> Store:
    """Return the store that ``cache=None`` means in this process."""
    session = _current()
    if session.pid == os.getpid():
        return OwnerStore(session)
    try:
        _make(session)
    except OSError:  # no space, no place: this worker is on its own
        return SHARED
    return _disk(session)


def check_owner() -> None:
    """Raise StoreError where this process works for another one that has ended."""
    session = _state.adopted or _own()
    if session.pid != os.getpid() and not session.is_alive:
        raise StoreError(
            f"The process {session.pid}, for which this worker computes, has ended; nothing more is "
            "computed."
        )


def is_worker() -> bool:
    """Return whether this process shares the session of another one."""
    return _current().pid != os.getpid()


def release() -> None:
    """Leave the session and remove its folder if it is this process's own; the next is a new one."""
    _leave()
    _state.owner, _state.name = os.getpid(), secrets.token_hex(16)
    _state.adopted, _state.n_spilled = None, 0


def _current() -> Session:
    """Return the session of this process: one that it adopted or inherited, or else its own."""
    adopted = _state.adopted
    if adopted is not None and adopted.is_alive:
        return adopted
    _state.adopted = None
    own = _own()
    if own.pid != os.getpid() and not own.is_alive:
        _state.owner, _state.name = os.getpid(), secrets.token_hex(16)
        return _own()
    return own


def _own() -> Session:
    root = _root()
    folder = str(root / reaper.root_name() / _state.name) if root else ""
    return Session(folder, _state.owner, reaper.start_of(_state.owner), host())


@cache
def _root() -> Path | None:
    """Return a place for temporary files that processes can share."""
    with contextlib.suppress(OSError):
        for place in (tempfile.gettempdir(), "/dev/shm", "/var/tmp"):  # noqa: S108 a private folder in it
            is_usable = Path(place).is_dir() and os.access(place, os.W_OK)
            if is_usable and not is_networked(file_system_of(Path(place))):
                return Path(place).absolute()
    return None


def _disk(session: Session) -> DiskStore:
    """Return the one store of a session: claims belong to the store through which they were made."""
    with _lock:
        disk = _state.disk
        if disk is None or str(disk.folder) != session.folder:
            disk = _state.disk = DiskStore(Path(session.folder), max_bytes=SESSION_BYTES, temporary=True)
        return disk


def _spill(session: Session) -> None:
    n_put = SHARED.n_put
    _make(session)
    for identity, (who, values) in SHARED.snapshot().items():
        _disk(session).put_many(identity, values, who)
    _state.n_spilled = n_put


def _make(session: Session) -> None:
    """Make a session's folder, whole with the name of its owner; who is first also starts the reaper."""
    folder = Path(session.folder)
    if folder.is_dir() and session.folder:
        return
    make_private(folder.parent)
    if not session.folder or not reaper.is_private(folder.parent):
        raise PermissionError(f"{folder.parent} is not a private folder of this user")
    draft = folder.with_name(f"{folder.name}.new-{secrets.token_hex(8)}")
    draft.mkdir(mode=0o700)
    try:
        draft.chmod(0o700)
        (draft / reaper.OWNER).write_text(json.dumps(session._asdict()), encoding="utf-8")
        draft.rename(folder)  # fails where another one is
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not folder.is_dir():
            raise
        return
    _start_reaper(session)
    reaper.sweep(folder.parent, host())


def _start_reaper(session: Session) -> None:
    """Let a process outlive the owner, which may be killed, and remove the folder then."""
    if getattr(sys, "frozen", False) or not sys.executable:  # no Python that could be started
        return
    if os.name == "nt":  # where it is not told whether the owner lives; what is left is swept later
        return
    command = [
        sys.executable,
        "-I",
        "-S",
        reaper.__file__,
        session.folder,
        str(session.pid),
        session.start,
    ]
    with contextlib.suppress(OSError):
        process = subprocess.Popen(  # noqa: S603 our own script
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(session.folder).anchor,
            start_new_session=True,
        )
        if hasattr(os, "fork"):  # then it goes on in a child of its own
            process.wait()


def _leave() -> None:
    disk, _state.disk = _state.disk, None
    if disk is not None:
        with contextlib.suppress(Exception):
            disk.close()
    own = _own()
    if own.folder and own.pid == os.getpid():
        reaper.remove(Path(own.folder))


atexit.register(_leave)
