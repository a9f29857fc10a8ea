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
from sae_features.items import text_digest
from sae_features.notices import Notices
from sae_features.weights import backbone_of, shared_sae

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sae_features.extraction import Reader
    from sae_features.store.memory import MemoryStore
    from sae_features.targets import Target

Rows = TypeVar("Rows")

SCHEMA = 1
CHUNK_ITEMS = 4096
CHUNK_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Computation:
    """Who computes: all that the values of an item depend on, but the item.

    Attributes
    ----------
    target : Target
        Model, hook point and SAE.
    tokens, prompt, max_length, overflow, dtype
        As in :class:`sae_features.SAEFeaturizer`.
    """

    target: Target
    tokens: str
    prompt: str | None
    max_length: int | None
    overflow: str
    dtype: str

    @property
    def identity(self) -> str:
        """SHA-256 of everything that the values depend on; batch size and device are not in it."""
        model, sae = self.target.model, self.target.sae
        parts = [
            SCHEMA,
            *self.model_run,
            list(self.target.point),
            sae and sae.digest(model.d_model),
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
        )

    @property
    def longest(self) -> int:
        """``max_length`` as given, or else the least that model, tokenizer and SAE say of themselves."""
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
    texts: Sequence[str],
    pool: Callable[[list[Any]], Rows],
    stack: Callable[[list[Rows]], Rows],
    *,
    store: MemoryStore | None,
    device: str | None,
    batch_size: int | None,
    progress: Callable[[int], Any] | None = None,
) -> Rows:
    """Return one row per text, in order; the model sees each different text at most once.

    Parameters
    ----------
    computation : Computation
        Who computes.
    texts : sequence of str
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
        Called with numbers of texts that were finished.
    """
    identity = computation.identity
    notices = Notices(texts)
    needed = 0
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        first.setdefault(text, position)
    unique = list(first)
    if progress:
        progress(len(texts) - len(unique))
    parts = []
    for start, stop in _chunks(unique):
        chunk = unique[start:stop]
        digests = [text_digest(text) for text in chunk]
        values = store.get_many(identity, digests) if store is not None else {}
        missing = [i for i, digest in enumerate(digests) if digest not in values]
        if progress:
            progress(len(chunk) - len(missing))
        if missing:
            wanted = {first[chunk[i]]: chunk[i] for i in missing}
            (fresh,) = _compute(
                [computation],
                wanted,
                notices,
                device=device,
                batch_size=batch_size,
                progress=progress,
            )
            computed = dict(zip((digests[i] for i in missing), fresh, strict=True))
            values |= computed
            if store is not None:
                store.put_many(identity, computed)
        needed += sum(value.nbytes for value in values.values())
        parts.append(pool([values[digest] for digest in digests]))
    notices.warn(stacklevel=5)
    if store is not None:
        _warn_if_too_large(needed, store)
    rows: Any = parts[0] if len(parts) == 1 else stack(parts)
    if len(unique) < len(texts):
        number = {text: i for i, text in enumerate(unique)}
        rows = rows[np.array([number[text] for text in texts])]
    return cast("Rows", rows)


def fill_store(
    computations: Sequence[Computation],
    texts: Sequence[str],
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
    texts, store, device, batch_size, progress
        As in :func:`rows_of`; ``progress`` counts each text once per model run.
    """
    together: dict[tuple[Any, ...], list[Computation]] = defaultdict(list)
    for computation in computations:
        together[computation.model_run].append(computation)
    notices = Notices(texts)
    needed = 0
    first = {text: position for position, text in reversed(list(enumerate(texts)))}
    unique = sorted(first, key=first.__getitem__)
    for sharing in together.values():
        for start, stop in _chunks(unique):
            chunk = {text_digest(text): text for text in unique[start:stop]}
            found = [store.get_many(c.identity, list(chunk)) for c in sharing]
            lacking = [d for d in chunk if not all(d in values for values in found)]
            if progress:
                progress(len(chunk) - len(lacking))
            if lacking:
                wanted = {first[chunk[digest]]: chunk[digest] for digest in lacking}
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


def _compute(
    computations: Sequence[Computation],
    texts: dict[int, str],
    notices: Notices,
    *,
    device: str | None,
    batch_size: int | None,
    progress: Callable[[int], Any] | None,
) -> list[list[Any]]:
    """Run the model once over texts, given by their positions in ``X``, for all computations."""
    from sae_features.extraction import extract

    shared = computations[0]
    backbone = backbone_of(shared.target.model, device=device, dtype=shared.dtype)
    longest = shared.longest
    if shared.max_length is None:
        longest = min(longest, backbone.max_length)
    policy = backbone.token_policy(
        tokens=shared.tokens,
        prompt=shared.prompt,
        max_length=longest,
        overflow=shared.overflow,
        prepend_bos=shared.prepend_bos,
    )
    positions = list(texts)
    extracted = extract(
        backbone,
        list(texts.values()),
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
            f"What is kept of these texts takes {needed / 2**20:,.0f} MiB, more than the "
            f"{store.max_bytes / 2**20:,.0f} MiB of the store in memory: another setting will run the "
            "model again. Search on fewer texts, or with a smaller max_length."
        )
        warnings.warn(message, SAEFeaturesWarning, stacklevel=5)


def _reader(target: Target, device: str | None) -> Reader:
    from sae_features.extraction import CodesReader, PooledReader

    d_model, found = target.model.d_model, target.sae
    if found is None:
        return PooledReader(target.point, d_model)
    sae = shared_sae(found.digest(d_model), device, lambda place: found.load(d_model, place))
    return CodesReader(target.point, sae)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield bounds of consecutive texts, few enough to hold their codes in memory."""
    start = characters = 0
    for position, text in enumerate(texts):
        characters += len(text)
        is_last = position + 1 == len(texts)
        if is_last or position + 1 - start >= CHUNK_ITEMS or characters >= CHUNK_CHARACTERS:
            yield start, position + 1
            start, characters = position + 1, 0
