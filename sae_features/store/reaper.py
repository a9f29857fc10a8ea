"""The end of a process: whether it has come; run as a script, what is removed then.

``python -I reaper.py FOLDER PID START`` waits for a process and removes the folder of its session.
Needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any

OWNER = "owner.json"
"""In a session's folder: whose it is."""
GONE = ".gone"
NAME = re.compile(r"[0-9a-f]{32}")
LEFT = re.compile(r"[0-9a-f]{32}(\.gone|\.new-[0-9a-f]{16})")
"""What is left where somebody was killed while making or removing a folder."""
LEFT_SECONDS = 3600


def start_of(pid: int) -> str:
    """Return when a process started, in ticks since the machine did; "" if it cannot be found.

    The number of a process that ended may be given to another one, but not with the same start.
    """
    try:
        stat_line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat_line.rpartition(")")[2].split()  # a program's name may hold anything
    has_ended = fields[0] in {"Z", "X"}  # nobody has asked for its status yet
    return "" if has_ended else fields[19]


def is_alive(pid: int, start: str) -> bool:
    """Tell whether a process of this machine runs; True where nobody can tell."""
    found = start_of(pid)
    if found or Path(f"/proc/{pid}").exists():
        return bool(found) and found == start
    if os.name == "nt":  # os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Return whose session a folder is; None if it is none, or not one of this user."""
    is_one = NAME.fullmatch(folder.name) and folder.parent.name == root_name()
    if not (is_one and is_private(folder) and is_private(folder.parent)):
        return None
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return {key: owner[key] for key in ("pid", "start", "host")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def root_name() -> str:
    """Return what the folder of all sessions of this user is called."""
    return f"sae-features-{os.getuid() if hasattr(os, 'getuid') else 'sessions'}"


def is_private(folder: Path) -> bool:
    """Tell whether this is a real folder that belongs to this user and that nobody else may enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    if not hasattr(os, "getuid"):
        return True
    return found.st_uid == os.getuid() and found.st_mode & 0o777 == 0o700


def remove(folder: Path) -> None:
    """Remove a session's folder, which others may still be writing into; anything else stays."""
    if owner_of(folder) is None:
        return
    gone = folder.with_name(folder.name + GONE)
    with contextlib.suppress(OSError):  # somebody else removes it
        folder.rename(gone)
        for _ in range(5):
            shutil.rmtree(gone, ignore_errors=True)
            if not gone.exists():
                return
            time.sleep(0.1)


def sweep(root: Path, here: str) -> None:
    """Remove the sessions of owners that have ended, and what is left of their removal.

    Parameters
    ----------
    root : Path
        The folder of all sessions of this user.
    here : str
        Host, boot and space of processes: elsewhere nobody can tell who lives.
    """
    for folder in root.iterdir():
        owner = owner_of(folder)
        if owner is not None:
            is_of_an_earlier_boot = str(owner["host"]).split()[1:2] != here.split()[1:2]
            is_here = owner["host"] == here
            if is_of_an_earlier_boot or (is_here and not is_alive(owner["pid"], owner["start"])):
                remove(folder)
        elif LEFT.fullmatch(folder.name) and root.name == root_name() and is_private(folder):
            with contextlib.suppress(OSError):
                if time.time() - folder.lstat().st_mtime > LEFT_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)


def wait_for_end(pid: int, start: str) -> None:
    """Return when a process has ended."""
    with contextlib.suppress(AttributeError, OSError):  # another system, or an old kernel
        handle = os.pidfd_open(pid)
        if is_alive(pid, start):  # so the handle is of this very process
            waiting = select.poll()
            waiting.register(handle, select.POLLIN)
            waiting.poll()
    while is_alive(pid, start):
        time.sleep(1)


def main(folder: str, pid: str, start: str) -> None:
    """Wait, then remove; in a process that nobody waits for."""
    if hasattr(os, "fork") and os.fork():
        os._exit(0)
    wait_for_end(int(pid), start)
    path = Path(folder)
    owner = owner_of(path)
    if owner is not None and (owner["pid"], owner["start"]) == (int(pid), start):
        remove(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
