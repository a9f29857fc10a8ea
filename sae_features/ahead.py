"""One step ahead: what comes next is prepared in a thread while the last one is used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Given = TypeVar("Given")
Prepared = TypeVar("Prepared")


def ahead(
    given: Iterable[Given], prepare: Callable[[Given], Prepared]
) -> Iterator[tuple[Given, Prepared]]:
    """Yield what is given, with what is prepared of it; the next one is prepared meanwhile.

    An error of ``prepare`` comes when it is the turn of what it was for.

    Examples
    --------
    >>> list(ahead([1, 2, 3], lambda number: number**2))
    [(1, 1), (2, 4), (3, 9)]
    """
    with ThreadPoolExecutor(1, "sae-features-ahead") as thread:
        waiting: tuple[Given, Future[Prepared]] | None = None
        for one in given:
            ready, waiting = waiting, (one, thread.submit(prepare, one))
            if ready is not None:
                yield ready[0], ready[1].result()
        if waiting is not None:
            yield waiting[0], waiting[1].result()
