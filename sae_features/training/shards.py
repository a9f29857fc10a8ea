"""Activations on disk: safetensors files of rows and an index, written so that a kill loses little."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors.torch import save

from sae_features.errors import InvalidInputError, SAEFormatError, StoreError
from sae_features.parameters import check_choice, check_count
from sae_features.progress import Progress
from sae_features.saes.formats.containers import SafetensorsFile
from sae_features.store.private import locked
from sae_features.training.shard_index import TENSOR, Shard, ShardIndex, shard_name, write_whole
from sae_features.training.sources import check_finite_rows, cut, row_batches, rows_in_order, spread_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sae_features.hook_point import HookPoint
    from sae_features.training.sources import ActivationSource

DTYPES: Final = ("float32", "float16", "bfloat16")
SHARD_ROWS: Final = 32_768
BATCH_ROWS: Final = 4096
"""Rows that are taken of a source at a time."""
READ_BYTES: Final = 2**20


def write_activations(
    source: ActivationSource,
    folder: str | Path,
    *,
    dtype: str = "float32",
    shard_rows: int = SHARD_ROWS,
    verbose: bool = False,
) -> ShardSource:
    """Write the activations of a source into a folder; call it again to go on after an interruption.

    Each shard appears as a whole or not at all.  What was written before a kill stays; a second call
    with the same source goes on behind the last whole shard, and the files become the same to the byte.

    Parameters
    ----------
    source : ActivationSource
        Such as a :class:`~sae_features.training.streams.BackboneSource`.
    folder : str or Path
        Made if it is not there; empty, or one that a call with the same source has begun.
    dtype : {"float32", "float16", "bfloat16"}, default="float32"
        Type on disk; what is read is float32.
    shard_rows : int, default=32_768
        About how many rows a file has; twice as many are in memory at a time.
    verbose : bool, default=False
        Whether to show progress.

    Returns
    -------
    ShardSource
        Of all that was written.

    Raises
    ------
    InvalidParameterError
        If ``dtype`` or ``shard_rows`` cannot be.
    InvalidInputError
        If activations are not finite, or are not in ``dtype``.
    StoreError
        If the folder holds anything else, another process writes it, or the disk is full.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from sae_features.training.sources import ArraySource
    >>> source = ArraySource(np.ones((10, 4), np.float32))
    >>> with TemporaryDirectory() as folder:
    ...     write_activations(source, folder, shard_rows=5)
    ShardSource(10 rows, d_in=4, 2 shards of float32)
    """
    check_choice("dtype", dtype, DTYPES)
    check_count("shard_rows", shard_rows)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"Got {str(folder)!r}, which is a file; expected a folder to write to.")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=False) as is_held:
        if not is_held:
            message = f"Another process writes activations to {str(folder)!r}; wait for it, or stop it."
            raise StoreError(message)
        _write(source, folder, dtype, int(shard_rows), verbose=verbose)
    return ShardSource(folder)


def _write(
    source: ActivationSource, folder: Path, dtype: str, shard_rows: int, *, verbose: bool
) -> None:
    for draft in folder.glob("activations*.draft"):  # of a process that was killed
        draft.unlink()
    index = ShardIndex.begin(source, folder, dtype, shard_rows)
    if index.is_complete:
        return
    index.write(folder)  # whatever follows, the folder says whose it is
    batch_rows = min(BATCH_ROWS, shard_rows)
    per_shard = max(1, shard_rows // batch_rows)
    number = len(index.shards) * per_shard
    n_batches = source.n_batches(batch_rows)
    batches = source.in_order(batch_rows, start=number)
    with Progress("activations", "batch", n_batches, is_shown=verbose) as bar:
        bar.tell(number)
        while number < n_batches:
            parts = []
            for batch in batches:
                parts.append(_in_type(batch, number, dtype))
                number += 1
                bar.tell(1, len(batch))
                if len(parts) == per_shard:
                    break
            rows = torch.cat(parts)
            data = save({TENSOR: rows})
            write_whole(folder / shard_name(len(index.shards)), data, n_whole=len(index.shards))
            shard = Shard(len(rows), len(data), hashlib.sha256(data).hexdigest())
            index = index.with_shard(shard, is_last=number >= n_batches)
            index.write(folder)


def _in_type(batch: torch.Tensor, number: int, dtype: str) -> torch.Tensor:
    check_finite_rows(batch, number)
    stored = batch.to(getattr(torch, dtype))
    if not bool(torch.isfinite(stored).all()):
        message = (
            f"Got activations up to {float(batch.abs().max()):.3g} in batch {number}, which {dtype} "
            "cannot hold; expected dtype='bfloat16' or 'float32'."
        )
        raise InvalidInputError(message)
    return stored


class ShardSource:
    """Activations that :func:`write_activations` wrote, read through memory maps.

    Sizes and headers of all files are checked at once; :meth:`verify` reads everything.

    Parameters
    ----------
    folder : str or Path

    Attributes
    ----------
    folder : Path
    index : ShardIndex
        What the folder says of itself.

    Raises
    ------
    StoreError
        If there is no index, it is of another version or damaged, writing was not finished, or a file
        is missing, of another size, or holds something else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = ShardIndex.read(self.folder)
        if not self.index.is_complete:
            message = (
                f"{str(self.folder)!r} is not finished: {len(self.index.shards)} shards are written. "
                "Call write_activations again with the same source."
            )
            raise StoreError(message)
        for number, shard in enumerate(self.index.shards):
            self._check(number, shard)
        rows = [shard.n_rows for shard in self.index.shards]
        self._bounds = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._maps: dict[int, torch.Tensor] = {}

    def __repr__(self) -> str:
        n_shards = len(self.index.shards)
        return (
            f"ShardSource({self.n_rows} rows, d_in={self.d_in}, {n_shards} shards of {self.index.dtype})"
        )

    @property
    def n_rows(self) -> int:
        """Rows in one pass."""
        return int(self._bounds[-1])

    @property
    def d_in(self) -> int:
        """Size of a row."""
        return self.index.d_in

    @property
    def hook_point(self) -> HookPoint | None:
        """Where the rows were read."""
        return self.index.hook_point

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What made the rows."""
        return self.index.metadata

    @property
    def digest(self) -> str:
        """SHA-256 of the digests of all shards, as the index says them."""
        digests = [shard.sha256 for shard in self.index.shards]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()

    def verify(self) -> None:
        """Read all shards, and compare their digests with what was written.

        Raises
        ------
        StoreError
            If one has changed; the message names the first.
        """
        for number, shard in enumerate(self.index.shards):
            self._check(number, shard)
            digest = hashlib.sha256()
            with (self.folder / shard_name(number)).open("rb") as stream:
                while block := stream.read(READ_BYTES):
                    digest.update(block)
            if digest.hexdigest() != shard.sha256:
                raise StoreError(self._damage(number, "its content has changed"))

    def n_batches(self, batch_size: int) -> int:
        """Return how many batches one pass has."""
        return len(cut(self.n_rows, batch_size)) - 1

    def sample(self, n_rows: int) -> torch.Tensor:
        """Return at most ``n_rows`` rows, float32, always the same, spread over the data."""
        return self._rows(spread_rows(self.n_rows, n_rows))

    def batches(self, batch_size: int, *, seed: int = 0, start: int = 0) -> Iterator[torch.Tensor]:
        """Yield batches for ever, as :meth:`ActivationSource.batches` says.

        Within a batch rows stand as on disk.
        """
        return map(self._rows, row_batches(self.n_rows, batch_size, seed=seed, start=start))

    def in_order(self, batch_size: int, *, start: int = 0) -> Iterator[torch.Tensor]:
        """Yield each row once, in a fixed order, without the first ``start`` batches."""
        return map(self._rows, rows_in_order(self.n_rows, batch_size, start=start))

    def _rows(self, rows: np.ndarray) -> torch.Tensor:
        """Return some rows, given in ascending order."""
        found = torch.empty(len(rows), self.d_in)
        places = np.searchsorted(rows, self._bounds)
        for number in np.flatnonzero(np.diff(places)).tolist():
            first, last = int(places[number]), int(places[number + 1])
            local = torch.from_numpy(rows[first:last] - self._bounds[number])
            found[first:last] = self._map(number)[local]
        return found

    def _map(self, number: int) -> torch.Tensor:
        if number not in self._maps:
            try:
                self._maps[number] = SafetensorsFile(self.folder / shard_name(number)).read(TENSOR)
            except SAEFormatError as error:
                raise StoreError(self._damage(number, str(error))) from error
        return self._maps[number]

    def _check(self, number: int, shard: Shard) -> None:
        path = self.folder / shard_name(number)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise StoreError(self._damage(number, "it is missing")) from error
        if size != shard.n_bytes:
            complaint = f"it has {size:,} bytes; expected {shard.n_bytes:,}"
            raise StoreError(self._damage(number, complaint))
        try:
            infos = dict(SafetensorsFile(path).infos)
        except SAEFormatError as error:
            raise StoreError(self._damage(number, str(error))) from error
        expected = {TENSOR: ((shard.n_rows, self.d_in), self.index.dtype)}
        if infos != expected:
            complaint = f"it holds {infos}; expected {expected}"
            raise StoreError(self._damage(number, complaint))

    def _damage(self, number: int, complaint: str) -> str:
        return (
            f"The shard {shard_name(number)} in {str(self.folder)!r} is damaged: {complaint}. Copy the "
            "folder again, or remove it and write the activations anew."
        )
