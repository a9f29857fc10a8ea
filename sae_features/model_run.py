"""One run of a model over items, for several computations: in blocks, tokenised ahead."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sae_features.ahead import ahead
from sae_features.errors import warn
from sae_features.items import Items
from sae_features.store import session
from sae_features.store.disk import DiskStore
from sae_features.weights import AUTO_DEVICE, backbone_of, choose_device, shared_sae

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sae_features.backbones.windows import Windows
    from sae_features.computation import Computation, Means, Wish
    from sae_features.readers import Reader

IMAGE_CHARACTERS = 1000
"""What an image counts as: a text of about as many tokens as it has patches."""
BLOCK_CHARACTERS = (16_000, 250_000)
"""What is claimed and computed at a time, least and most: from one batch of a model to some dozen."""
BLOCKS = 8
"""Into as many blocks is divided what is lacking, so that processes share the work."""


class Lost:
    """Which texts lost tokens or have none that counts, by their positions."""

    def __init__(self) -> None:
        self.ran = False
        self.n_found = 0  # of which nothing is known
        self.truncated: list[int] = []
        self.empty: list[int] = []
        self.longest: int | None = None


class ModelRun:
    """Runs of one model over items of ``X``, for several computations."""

    def __init__(
        self,
        computations: Sequence[Computation],
        items: Items,
        positions: Mapping[bytes, int],
        *,
        wish: Wish,
        means: Means,
        lost: Lost,
    ) -> None:
        self.computations = computations
        self.items = items
        self.positions = positions
        self.wish = wish
        self.means = means
        self.lost = lost
        self._finished = 0

    def blocks(self, digests: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Yield items in blocks, the longest first: alike in length, few enough to share."""
        costs = {digest: cost_of(self.items.values[self.positions[digest]]) for digest in digests}
        least, size = BLOCK_CHARACTERS
        if isinstance(self.means.store, DiskStore):
            size = min(size, max(least, sum(costs.values()) // BLOCKS))
        block: list[bytes] = []
        room = size
        for digest in sorted(digests, key=costs.__getitem__, reverse=True):
            block.append(digest)
            room -= costs[digest]
            if room <= 0:
                yield block
                block, room = [], size
        if block:
            yield block

    def tokenised(self, blocks: Iterable[list[bytes]]) -> Iterator[tuple[list[bytes], Windows]]:
        """Yield blocks and their windows; those of the next one are made meanwhile, in a thread."""

        def loaded() -> Iterator[list[bytes]]:
            for block in blocks:
                self.policy  # noqa: B018 loads the model here and not in the thread
                yield block

        yield from ahead(loaded(), self._windows)

    def _windows(self, block: list[bytes]) -> Windows:
        windows: Windows = self.backbone.windows(self._items(block), self.policy, self._names(block))
        return windows

    def _items(self, block: list[bytes]) -> Items:
        values = [self.items.values[self.positions[digest]] for digest in block]
        return Items(self.items.modality, values)

    def values(self, block: list[bytes], windows: Windows) -> list[dict[bytes, Any]]:
        """Run the model once over a block, and return the values for each computation."""
        from sae_features.extraction import extract

        session.check_owner()
        extracted = extract(
            self.backbone,
            self._items(block),
            self.policy,
            [self._reader(computation) for computation in self.computations],
            windows=windows,
            batch_size=self.means.batch_size,
            positions=self._names(block),
            progress=self._tell,
        )
        self.lost.ran = True
        self.lost.longest = self.policy.max_length
        self.lost.truncated += [self.positions[block[i]] for i in extracted.truncated]
        self.lost.empty += [self.positions[block[i]] for i in extracted.empty]
        return [dict(zip(block, values, strict=True)) for values in extracted.values]

    def take_finished(self) -> int:
        """Return how many items were reported since the last time."""
        finished, self._finished = self._finished, 0
        return finished

    def _tell(self, n_items: int, n_tokens: int) -> None:
        self._finished += n_items
        self.means.tell(n_items, n_tokens)

    def _names(self, block: list[bytes]) -> list[int]:
        """Return what messages call the items."""
        return [self.means.first + self.positions[digest] for digest in block]

    @cached_property
    def backbone(self) -> Any:
        """The model, loaded on first use."""
        shared = self.computations[0]
        _warn_of_many_models(self.means.device)
        return backbone_of(shared.target.model, device=self.means.device, dtype=shared.dtype)

    @cached_property
    def policy(self) -> Any:
        """Which tokens the model sees, and which count."""
        shared = self.computations[0]
        longest = shared.longest
        if shared.max_length is None and longest is not None:
            longest = min(longest, self.backbone.max_length)
        return self.backbone.token_policy(
            shared.modality,
            tokens=shared.tokens,
            prompt=shared.prompt,
            max_length=longest,
            overflow=shared.overflow,
            prepend_bos=shared.prepend_bos,
        )

    def _reader(self, computation: Computation) -> Reader:
        from sae_features.readers import CodesOrPooledReader, CodesReader, PooledReader, RowReader

        target = computation.target
        width, found, wish = target.model.width(target.point), target.sae, self.wish
        if found is None:
            return PooledReader(target.point, width)
        sae = shared_sae(
            found.digest(width),
            self.means.device,
            computation.dtype,
            lambda place: found.load(width, place),
        )
        if wish.needs_codes:
            return CodesReader(target.point, sae, computation.kept_dtype)
        if self.means.store is None and wish.pooling is not None:
            return RowReader(target.point, sae, wish.pooling, wish.token_top_n)
        return CodesOrPooledReader(target.point, sae, computation.kept_dtype)


def cost_of(item: Any) -> int:
    """Return about how many characters' work an item is."""
    return len(item) if isinstance(item, str) else IMAGE_CHARACTERS


def _warn_of_many_models(device: str | None) -> None:
    """Say so where each of several worker processes puts a model onto a GPU."""
    place = choose_device(None if device == AUTO_DEVICE else device)
    if place.startswith("cuda") and session.is_worker():
        message = (
            f"This worker process loads a model onto {place}, as its siblings may. To load one for all: "
            "n_jobs=1, or featurizer.warm(X) before the search."
        )
        warn(message)
