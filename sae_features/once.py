"""Each item once: what the store has is taken from it, only the rest runs through a model."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from sae_features.errors import SAEFeaturesWarning
from sae_features.items import Items
from sae_features.notices import Notices
from sae_features.weights import backbone_of, shared_sae

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sae_features.architectures import Modality
    from sae_features.extraction import Reader
    from sae_features.store.memory import MemoryStore
    from sae_features.targets import Target

Rows = TypeVar("Rows")

SCHEMA = 1
CHUNK_ITEMS = 4096
CHUNK_CHARACTERS = 1_000_000
IMAGE_CHARACTERS = 1000
"""What an image counts as: a text of about as many tokens as it has patches."""


@dataclass(frozen=True)
class Computation:
    """Who computes: all that the values of an item depend on, but the item.

    Attributes
    ----------
    target : Target
        Model, hook point and SAE.
    tokens, prompt, max_length, overflow, dtype
        As in :class:`sae_features.SAEFeaturizer`.
    modality : {"text", "image"}
        What the items are.
    """

    target: Target
    tokens: str
    prompt: str | None
    max_length: int | None
    overflow: str
    dtype: str
    modality: Modality = "text"

    @property
    def identity(self) -> str:
        """SHA-256 of everything that the values depend on; batch size and device are not in it."""
        model, sae = self.target.model, self.target.sae
        parts = [
            SCHEMA,
            *self.model_run,
            list(self.target.point),
            sae and sae.digest(model.width(self.target.point)),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def model_run(self) -> tuple[Any, ...]:
        """What determines the activations: computations with the same one share a run."""
        model = self.target.model
        return (
            model.family.name,
            model.family.compute_version,
            model.weights_digest,
            model.processor_digest,
            self.tokens,
            self.prompt,
            self.longest,
            self.overflow,
            self.prepend_bos,
            self.dtype,
            self.modality,
        )

    @property
    def longest(self) -> int | None:
        """``max_length`` as given, or else the least that model, tokenizer and SAE say of themselves.

        None for images, whose number of tokens the model decides.
        """
        if self.modality == "image":
            return None if self.max_length is None else int(self.max_length)
        if self.max_length is not None:
            return int(self.max_length)  # may be numpy's
        context = self.target.sae.metadata.get("max_length") if self.target.sae else None
        says = self.target.model.context
        return min(says, context) if isinstance(context, int) else says

    @property
    def prepend_bos(self) -> bool | None:
        """Whether a BOS stands first, as the SAE's metadata say."""
        says = self.target.sae.metadata.get("prepend_bos") if self.target.sae else None
        return says if isinstance(says, bool) else None


def rows_of(
    computation: Computation,
    items: Items,
    pool: Callable[[list[Any]], Rows],
    stack: Callable[[list[Rows]], Rows],
    *,
    store: MemoryStore | None,
    device: str | None,
    batch_size: int | None,
    progress: Callable[[int], Any] | None = None,
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
        Turns values (TokenCodes; PooledItem where the target has no SAE) into rows.
    stack : callable
        Lays rows one below the other.
    store : MemoryStore, optional
        Where values are looked up and kept.
    device : str, optional
        Where the model runs.
    batch_size : int, optional
        Windows in a batch.
    progress : callable, optional
        Called with numbers of items that were finished.
    take : callable, optional
        Takes the rows of some items, by their numbers, where an index does not.
    """
    identity = computation.identity
    notices = Notices(items.values)
    needed = 0
    all_digests, first = _first_positions(items)
    unique = list(first)
    if progress:
        progress(len(items) - len(unique))
    parts = []
    for start, stop in _chunks([items.values[position] for position in first.values()]):
        digests = unique[start:stop]
        values = store.get_many(identity, digests) if store is not None else {}
        missing = [digest for digest in digests if digest not in values]
        if progress:
            progress(len(digests) - len(missing))
        if missing:
            wanted = {first[digest]: items.values[first[digest]] for digest in missing}
            (fresh,) = _compute(
                [computation],
                wanted,
                notices,
                device=device,
                batch_size=batch_size,
                progress=progress,
            )
            computed = dict(zip(missing, fresh, strict=True))
            values |= computed
            if store is not None:
                store.put_many(identity, computed)
        needed += sum(value.nbytes for value in values.values())
        parts.append(pool([values[digest] for digest in digests]))
    notices.warn(stacklevel=5)
    if store is not None:
        _warn_if_too_large(needed, store)
    rows: Any = parts[0] if len(parts) == 1 else stack(parts)
    if len(unique) < len(items):
        number = {digest: i for i, digest in enumerate(unique)}
        chosen = np.array([number[digest] for digest in all_digests])
        rows = rows[chosen] if take is None else take(rows, chosen)
    return cast("Rows", rows)


def fill_store(
    computations: Sequence[Computation],
    items: Items,
    *,
    store: MemoryStore,
    device: str | None,
    batch_size: int | None,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Compute what several computations lack; those that see the same tokens share a model run.

    Parameters
    ----------
    computations : sequence of Computation
        Who computes.
    items, store, device, batch_size, progress
        As in :func:`rows_of`; ``progress`` counts each item once per model run.
    """
    together: dict[tuple[Any, ...], list[Computation]] = defaultdict(list)
    for computation in computations:
        together[computation.model_run].append(computation)
    notices = Notices(items.values)
    needed = 0
    _, first = _first_positions(items)
    unique = list(first)
    for sharing in together.values():
        for start, stop in _chunks([items.values[position] for position in first.values()]):
            digests = unique[start:stop]
            found = [store.get_many(c.identity, digests) for c in sharing]
            lacking = [d for d in digests if not all(d in values for values in found)]
            if progress:
                progress(len(digests) - len(lacking))
            if lacking:
                wanted = {first[digest]: items.values[first[digest]] for digest in lacking}
                fresh = _compute(
                    sharing,
                    wanted,
                    notices,
                    device=device,
                    batch_size=batch_size,
                    progress=progress,
                )
                for computation, values in zip(sharing, fresh, strict=True):
                    store.put_many(computation.identity, dict(zip(lacking, values, strict=True)))
                    needed += sum(value.nbytes for value in values)
    notices.warn(stacklevel=3)
    _warn_if_too_large(needed, store)


def _first_positions(items: Items) -> tuple[list[bytes], dict[bytes, int]]:
    """Return the digest of each item, and where each different one comes first."""
    digests = items.digests()
    first: dict[bytes, int] = {}
    for position, digest in enumerate(digests):
        first.setdefault(digest, position)
    return digests, first


def _compute(
    computations: Sequence[Computation],
    items: dict[int, Any],
    notices: Notices,
    *,
    device: str | None,
    batch_size: int | None,
    progress: Callable[[int], Any] | None,
) -> list[list[Any]]:
    """Run the model once over items, given by their positions in ``X``, for all computations."""
    from sae_features.extraction import extract

    shared = computations[0]
    backbone = backbone_of(shared.target.model, device=device, dtype=shared.dtype)
    longest = shared.longest
    if shared.max_length is None and longest is not None:
        longest = min(longest, backbone.max_length)
    policy = backbone.token_policy(
        shared.modality,
        tokens=shared.tokens,
        prompt=shared.prompt,
        max_length=longest,
        overflow=shared.overflow,
        prepend_bos=shared.prepend_bos,
    )
    positions = list(items)
    extracted = extract(
        backbone,
        Items(shared.modality, list(items.values())),
        policy,
        [_reader(computation.target, device) for computation in computations],
        batch_size=batch_size,
        positions=positions,
        progress=progress,
    )
    notices.longest = policy.max_length
    notices.truncated += [positions[i] for i in extracted.truncated]
    notices.empty += [positions[i] for i in extracted.empty]
    return extracted.values


def _warn_if_too_large(needed: int, store: MemoryStore) -> None:
    if needed > store.max_bytes:
        message = (
            f"What is kept of these items takes {needed / 2**20:,.0f} MiB, more than the "
            f"{store.max_bytes / 2**20:,.0f} MiB of the store in memory: another setting will run the "
            "model again. Search on fewer items, or with a smaller max_length."
        )
        warnings.warn(message, SAEFeaturesWarning, stacklevel=5)


def _reader(target: Target, device: str | None) -> Reader:
    from sae_features.extraction import CodesReader, PooledReader

    width, found = target.model.width(target.point), target.sae
    if found is None:
        return PooledReader(target.point, width)
    sae = shared_sae(found.digest(width), device, lambda place: found.load(width, place))
    return CodesReader(target.point, sae)


def _chunks(items: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Yield bounds of consecutive items, few enough to hold their codes in memory."""
    start = characters = 0
    for position, item in enumerate(items):
        characters += len(item) if isinstance(item, str) else IMAGE_CHARACTERS
        is_last = position + 1 == len(items)
        if is_last or position + 1 - start >= CHUNK_ITEMS or characters >= CHUNK_CHARACTERS:
            yield start, position + 1
            start, characters = position + 1, 0
