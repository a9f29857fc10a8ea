"""A bounded store in the memory of this process, shared by all estimators in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from sae_features.store.forks import guard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        self.n_put = 0  # ever: who looks again sees by it whether there is something new
        self._values: OrderedDict[tuple[str, bytes], Any] = OrderedDict()
        self._who: dict[str, str] = {}
        self._claims: dict[tuple[str, bytes], int] = {}
        self._changed = threading.Condition(threading.Lock())
        guard(self)

    def get_many(self, identity: str, digests: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the values that are there, by digest."""
        found = {}
        with self._changed:
            for digest in digests:
                key = (identity, digest)
                if key in self._values:
                    self._values.move_to_end(key)
                    found[digest] = self._values[key]
        return found

    def has_many(self, identity: str, digests: Sequence[bytes]) -> set[bytes]:
        """Return the digests of values that are there; they do not count as used."""
        with self._changed:
            return {digest for digest in digests if (identity, digest) in self._values}

    def put_many(self, identity: str, values: Mapping[bytes, Any], who: str = "") -> None:
        """Keep values (each with ``nbytes``); one that is there already stays as it is.

        One that is larger than the whole store is not kept.
        """
        with self._changed:
            self._who[identity] = who or self._who.get(identity, "")
            for digest, value in values.items():
                key = (identity, digest)
                size = value.nbytes + ENTRY_BYTES
                if key not in self._values and size <= self.max_bytes:
                    self._values[key] = value
                    self.nbytes += size
                    self.n_put += 1
            while self.nbytes > self.max_bytes:
                _, dropped = self._values.popitem(last=False)
                self.nbytes -= dropped.nbytes + ENTRY_BYTES

    def claim(self, scope: str, digests: Sequence[bytes]) -> list[bytes]:
        """Return those digests, in order, that no other thread has claimed; they are this one's now."""
        me = threading.get_ident()
        with self._changed:
            return [
                digest
                for digest in dict.fromkeys(digests)
                if self._claims.setdefault((scope, digest), me) == me
            ]

    def release(self, scope: str, digests: Sequence[bytes]) -> None:
        """Give back what this thread claimed."""
        me = threading.get_ident()
        with self._changed:
            for digest in digests:
                if self._claims.get((scope, digest)) == me:
                    del self._claims[scope, digest]
            self._changed.notify_all()

    def others(self, scope: str, digests: Sequence[bytes]) -> dict[tuple[str, bytes], int]:
        """Return the claims of other threads on these."""
        me = threading.get_ident()
        claims = {(scope, digest): self._claims.get((scope, digest), me) for digest in digests}
        return {key: owner for key, owner in claims.items() if owner != me}

    def wait(self, scope: str, digests: Sequence[bytes], timeout: float) -> None:
        """Wait until a claim of another thread on one of these has ended, or for ``timeout`` seconds."""
        with self._changed:
            if others := self.others(scope, digests):
                self._changed.wait_for(
                    lambda: any(self._claims.get(key) != owner for key, owner in others.items()),
                    timeout,
                )

    def snapshot(self) -> dict[str, tuple[str, dict[bytes, Any]]]:
        """Return all there is: by identity, who computed and the values."""
        held: dict[str, tuple[str, dict[bytes, Any]]] = {}
        with self._changed:
            for (identity, digest), value in self._values.items():
                held.setdefault(identity, (self._who.get(identity, ""), {}))[1][digest] = value
        return held

    def clear(self) -> None:
        """Forget all values."""
        with self._changed:
            self._values.clear()
            self._who.clear()
            self.nbytes = 0

    def before_fork(self) -> None:
        """Be in the middle of nothing."""
        self._changed.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; a child has none of its parent's threads, so none of their claims."""
        if in_child:
            self._changed = threading.Condition(threading.Lock())
            self._claims.clear()
        else:
            self._changed.release()

    def __len__(self) -> int:
        return len(self._values)


SHARED = MemoryStore()
"""The store of this process."""
