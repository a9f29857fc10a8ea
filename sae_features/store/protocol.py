"""What every store can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Store(Protocol):
    """Values by who computed them (``identity``) and by the item (``digest``).

    What stands under a key is right, whoever put it, and the first value stays. Several threads and
    processes may call at the same time. Claims settle who computes: a thread that holds claims does
    not wait, and looks again at what it was granted, since another may just have finished that.
    """

    @property
    def max_bytes(self) -> int:
        """Size of all values together; what was not used for longest goes first."""

    def get_many(self, identity: str, digests: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the values that are there, by digest; damaged ones are not."""

    def has_many(self, identity: str, digests: Sequence[bytes]) -> set[bytes]:
        """Return the digests of values that are there, from the index alone."""

    def put_many(self, identity: str, values: Mapping[bytes, Any], who: str = "") -> None:
        """Keep values; ``who`` is the text whose digest ``identity`` is. Lack of space only warns."""

    def claim(self, scope: str, digests: Sequence[bytes]) -> list[bytes]:
        """Return those digests, in order, that this thread now has to compute in ``scope``."""

    def release(self, scope: str, digests: Sequence[bytes]) -> None:
        """Give back what this thread claimed."""

    def wait(self, scope: str, digests: Sequence[bytes], timeout: float) -> None:
        """Wait until a claim of others on one of these may have ended, or for ``timeout`` seconds."""
