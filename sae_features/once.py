"""Each item once: what the store has is taken from it, only the rest runs through a model."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from sae_features.computation import sha256
from sae_features.model_run import Lost, ModelRun, cost_of
from sae_features.pooled import PooledCodes
from sae_features.store.disk import DiskStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from sae_features.computation import Computation, Means, Wish
    from sae_features.items import Items
    from sae_features.notices import Notices
    from sae_features.store import Store

Rows = TypeVar("Rows")

CHUNK_ITEMS = 4096
CHUNK_CHARACTERS = 1_000_000
"""What is held at a time."""
WAIT_SECONDS = 1.0
"""After so long what others compute is looked for again."""


def rows_of(
    computation: Computation,
    items: Items,
    pool: Callable[[Mapping[bytes, Any]], Rows],
    stack: Callable[[list[Rows]], Rows],
    *,
    wish: Wish,
    means: Means,
    notices: Notices,
    derived: Callable[[list[bytes]], dict[bytes, Any]] = lambda _: {},
    take: Callable[[Rows, np.ndarray], Rows] | None = None,
) -> Rows:
    """Return one row per item, in order; the model sees each different item at most once.

    Parameters
    ----------
    computation : Computation
        Who computes.
    items : Items
        May repeat.
    pool : callable
        Turns values by digest, in order (see :class:`Wish`; PooledItem where the target has no SAE),
        into rows.
    stack : callable
        Lays rows one below the other.
    wish : Wish
        What is wanted of each item.
    means : Means
        How to compute.
    notices : Notices
        Is told of texts that were truncated or empty.
    derived : callable, optional
        Gives what this process has already made of values, by digest: those are not looked up.
    take : callable, optional
        Takes the rows of some items, by their numbers, where an index does not.
    """
    digests = items.digests()
    first = _first_positions(digests)
    unique = list(first)
    means.tell(len(items) - len(unique))
    parts, needed, lost = [], 0, Lost()
    for start, stop in chunks([items.values[position] for position in first.values()]):
        wanted = {digest: first[digest] for digest in unique[start:stop]}
        values = derived(list(wanted))
        lost.n_found += len(values)
        means.tell(len(values))
        rest = {digest: position for digest, position in wanted.items() if digest not in values}
        if rest:
            (found,) = _values([computation], items, rest, wish=wish, means=means, lost=lost)
            values |= found
        if lost.ran:  # otherwise all is kept
            needed += sum(value.nbytes for value in values.values())
        parts.append(pool({digest: values[digest] for digest in wanted}))
    _note(notices, items, lost, needed, means)
    rows: Any = parts[0] if len(parts) == 1 else stack(parts)
    if len(unique) < len(items):
        number = {digest: i for i, digest in enumerate(unique)}
        chosen = np.array([number[digest] for digest in digests])
        rows = rows[chosen] if take is None else take(rows, chosen)
    return cast("Rows", rows)


def fill_store(
    computations: Sequence[Computation],
    items: Items,
    *,
    wish: Wish,
    means: Means,
    notices: Notices,
) -> None:
    """Compute what several computations lack; those that see the same tokens share a model run.

    Parameters
    ----------
    computations : sequence of Computation
        Who computes.
    items, wish, means, notices
        As in :func:`rows_of`; progress counts each item once per model run.
    """
    together: dict[str, list[Computation]] = defaultdict(list)
    for computation in computations:
        together[computation.model_run].append(computation)
    first = _first_positions(items.digests())
    unique = list(first)
    needed, lost = 0, Lost()
    for sharing in together.values():
        means.tell(len(items) - len(unique))
        for start, stop in chunks([items.values[position] for position in first.values()]):
            wanted = {digest: first[digest] for digest in unique[start:stop]}
            found = _values(sharing, items, wanted, wish=wish, means=means, lost=lost, reads=False)
            needed += sum(value.nbytes for values in found for value in values.values() if value)
    _note(notices, items, lost, needed, means)


def _note(notices: Notices, items: Items, lost: Lost, needed: int, means: Means) -> None:
    notices.add(
        items.values,
        lost.truncated,
        lost.empty,
        longest=lost.longest,
        first=means.first,
        are_all=lost.n_found == 0,
    )
    if means.store is not None:
        notices.add_size(needed, means.store.max_bytes, on_disk=isinstance(means.store, DiskStore))


def _values(
    computations: Sequence[Computation],
    items: Items,
    wanted: Mapping[bytes, int],
    *,
    wish: Wish,
    means: Means,
    lost: Lost,
    reads: bool = True,
) -> list[dict[bytes, Any]]:
    """Return the values of a chunk of items, for each computation: from the store, or computed now.

    Without ``reads``, None stands for a value that is in the store.
    """
    found: list[dict[bytes, Any]] = [{} for _ in computations]
    lookups = [_Lookup(means.store, who, wish, reads=reads) for who in computations]

    def lacking(of: Iterable[bytes]) -> list[bytes]:
        """Look for values that are not yet found, and return what still lacks some."""
        asked = list(of)
        for values, lookup in zip(found, lookups, strict=True):
            values.update(lookup.get([digest for digest in asked if digest not in values]))
        return [digest for digest in asked if any(digest not in values for values in found)]

    missing = lacking(wanted)
    lost.n_found += len(wanted) - len(missing)
    means.tell(len(wanted) - len(missing))
    run = ModelRun(computations, items, wanted, wish=wish, means=means, lost=lost)
    while missing:
        with _Claims(means.store, computations[0].model_run) as claims:
            for block, windows in run.tokenised(_granted(claims, run.blocks(missing), lacking)):
                fresh = run.values(block, windows)
                for values, lookup, new in zip(found, lookups, fresh, strict=True):
                    values.update({d: value for d, value in new.items() if d not in values})
                    lookup.put(new)
                claims.give_back(block)
            if not claims.were_granted:
                claims.wait(missing)
        left = lacking(missing)
        means.tell(len(missing) - len(left) - run.take_finished())
        missing = left
    return found


def _granted(
    claims: _Claims, blocks: Iterable[list[bytes]], lacking: Callable[[list[bytes]], list[bytes]]
) -> Iterator[list[bytes]]:
    """Yield what could be claimed of blocks, less what others have finished meanwhile."""
    for block in blocks:
        mine = claims.take(block)
        left = lacking(mine)
        done = set(mine).difference(left)
        claims.give_back([digest for digest in mine if digest in done])
        if left:
            yield left


class _Lookup:
    """What a store holds for one computation; without a store, nothing."""

    def __init__(
        self, store: Store | None, computation: Computation, wish: Wish, *, reads: bool
    ) -> None:
        self.store = store
        self.reads = reads
        self.who = computation.who
        has_codes = computation.target.sae is not None
        self.who_pools = computation.who_pools if has_codes else None
        self.takes_pooled = has_codes and not wish.needs_codes

    def get(self, digests: list[bytes]) -> dict[bytes, Any]:
        """Return the values that are there."""
        if self.store is None or not digests:
            return {}
        found = self._of(self.who, digests)
        rest = [digest for digest in digests if digest not in found]
        if rest and self.takes_pooled and self.who_pools is not None:
            found |= self._of(self.who_pools, rest)
        return found

    def _of(self, who: str, digests: list[bytes]) -> dict[bytes, Any]:
        if self.store is None:
            return {}
        if self.reads:
            return self.store.get_many(sha256(who), digests)
        return dict.fromkeys(self.store.has_many(sha256(who), digests))

    def put(self, values: Mapping[bytes, Any]) -> None:
        """Keep values."""
        if self.store is None:
            return
        pooled = {digest: v for digest, v in values.items() if isinstance(v, PooledCodes)}
        others = {digest: v for digest, v in values.items() if digest not in pooled}
        if others:
            self.store.put_many(sha256(self.who), others, self.who)
        if pooled and self.who_pools is not None:
            self.store.put_many(sha256(self.who_pools), pooled, self.who_pools)


class _Claims:
    """What this call has claimed to compute, and has not given back."""

    def __init__(self, store: Store | None, scope: str) -> None:
        self.store = store
        self.scope = scope
        self.held: set[bytes] = set()
        self.were_granted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(list(self.held))

    def take(self, digests: list[bytes]) -> list[bytes]:
        """Claim items, and return those that were free."""
        granted = digests if self.store is None else self.store.claim(self.scope, digests)
        self.held.update(granted)
        self.were_granted |= bool(granted)
        return granted

    def give_back(self, digests: list[bytes]) -> None:
        """Let others have items, or find that they are done."""
        if self.store is not None and digests:
            self.store.release(self.scope, digests)
        self.held.difference_update(digests)

    def wait(self, digests: list[bytes]) -> None:
        """Wait until another one may have finished some of the items."""
        if self.store is not None:
            self.store.wait(self.scope, digests, WAIT_SECONDS)


def _first_positions(digests: Sequence[bytes]) -> dict[bytes, int]:
    """Return where each different item comes first."""
    first: dict[bytes, int] = {}
    for position, digest in enumerate(digests):
        first.setdefault(digest, position)
    return first


def chunks(items: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Yield bounds of consecutive items, few enough to hold their codes in memory."""
    start = characters = 0
    for position, item in enumerate(items):
        characters += cost_of(item)
        is_last = position + 1 == len(items)
        if is_last or position + 1 - start >= CHUNK_ITEMS or characters >= CHUNK_CHARACTERS:
            yield start, position + 1
            start, characters = position + 1, 0
