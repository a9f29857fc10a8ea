"""What holds locks or connections when a process forks lets go of them first."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something that must not be in the middle of anything while the process forks."""

    def before_fork(self) -> None:
        """Take the lock; close what a child must not inherit."""

    def after_fork(self, *, in_child: bool) -> None:
        """Give the lock back, or in the child, make a new one."""


_guarded: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[Forkable] = []
_lock = threading.Lock()


def guard(owner: Forkable) -> None:
    """Let an object know of every fork of this process, as long as it lives."""
    with _lock:
        _guarded.add(owner)


def _before() -> None:
    _lock.acquire()  # to the end of the fork: nothing comes, and no other thread forks
    for owner in list(_guarded):
        owner.before_fork()
        _held.append(owner)


def _after(*, in_child: bool) -> None:
    while _held:
        _held.pop().after_fork(in_child=in_child)
    _lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before,
        after_in_parent=lambda: _after(in_child=False),
        after_in_child=lambda: _after(in_child=True),
    )
