"""What is dear to make and shared in a process: made once, also among threads, and bounded in number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class Shared:
    """A small least-recently-used cache that makes each value once, also among threads.

    Parameters
    ----------
    size : int
        Values kept at a time.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the value of a key, made if there is none; the least recently used one goes first."""
        with self._lock:
            if key not in self._values:
                while len(self._values) >= self.size:
                    self._values.popitem(last=False)
                self._values[key] = make()
            self._values.move_to_end(key)
            return self._values[key]

    def clear(self) -> int:
        """Let go of all values and return how many there were."""
        with self._lock:
            count = len(self._values)
            self._values.clear()
            return count

    def __len__(self) -> int:
        return len(self._values)
