"""A bounded store in the memory of this process, shared by all estimators in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

MAX_BYTES = 512 * 2**20
"""Size of the shared store; what was not used for longest goes first."""
ENTRY_BYTES = 1024
"""Rough cost of an entry beside its arrays."""


class MemoryStore:
    """Values by (identity, item digest), the least recently used ones dropped beyond ``max_bytes``.

    Parameters
    ----------
    max_bytes : int
        Size of all values together.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._values: OrderedDict[tuple[str, bytes], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get_many(self, identity: str, digests: list[bytes]) -> dict[bytes, Any]:
        """Return the values that are there, by digest."""
        found = {}
        with self._lock:
            for digest in digests:
                key = (identity, digest)
                if key in self._values:
                    self._values.move_to_end(key)
                    found[digest] = self._values[key]
        return found

    def put_many(self, identity: str, values: dict[bytes, Any]) -> None:
        """Keep values (each with ``nbytes``); one that is there already stays as it is.

        One that is larger than the whole store is not kept.
        """
        with self._lock:
            for digest, value in values.items():
                key = (identity, digest)
                size = value.nbytes + ENTRY_BYTES
                if key not in self._values and size <= self.max_bytes:
                    self._values[key] = value
                    self.nbytes += size
            while self.nbytes > self.max_bytes:
                _, dropped = self._values.popitem(last=False)
                self.nbytes -= dropped.nbytes + ENTRY_BYTES

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self.nbytes = 0

    def __len__(self) -> int:
        return len(self._values)


SHARED = MemoryStore()
"""The store of this process."""
