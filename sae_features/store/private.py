"""Folders and files that only this user may read, whatever the umask, and locks on folders."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder that only this user may enter; one that is there stays."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        folder.chmod(0o700)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears with all that is in it, or not at all."""
    draft = path.with_suffix(".draft")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            draft.chmod(0o600)
            file.write(data)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a folder, which ends with the process at the latest and leaves no file.

    Parameters
    ----------
    folder : Path
        Must exist.
    shared : bool, default=False
        Others may share it, but then nobody has it alone.
    wait : bool, default=True
        Whether to wait for it.

    Yields
    ------
    bool
        Whether it is held.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where a file that is open can neither be replaced nor removed
        yield shared or wait
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        is_held = True
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            is_held = False
        yield is_held
    finally:
        os.close(handle)
