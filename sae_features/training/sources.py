"""Where rows of activations come from: the protocol of sources, and arrays in memory or mapped."""

from __future__ import annotations

import hashlib
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch

from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError
from sae_features.hook_point import HookPoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHUNK_ROWS: Final = 64
"""Rows side by side in a file that are shuffled together: a disk reads them at once."""
GROUP_ROWS: Final = 262_144
"""Rows among which single ones are shuffled; up to so many, every order is possible."""
DIGEST_ROWS: Final = 4096


class ActivationSource(Protocol):
    """Rows of activations at one place of a model, in an order that a seed decides."""

    @property
    def d_in(self) -> int:
        """Size of a row."""

    @property
    def n_rows(self) -> int:
        """Rows in one pass."""

    @property
    def hook_point(self) -> HookPoint | None:
        """Where the rows were read; goes into the SAE."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What made the rows: model, tokens, corpus …, in plain JSON; goes into the SAE."""

    def n_batches(self, batch_size: int) -> int:
        """Return how many batches one pass has."""

    def sample(self, n_rows: int) -> torch.Tensor:
        """Return at most ``n_rows`` rows, float32, always the same, spread over the data."""

    def batches(self, batch_size: int, *, seed: int = 0, start: int = 0) -> Iterator[torch.Tensor]:
        """Yield about ``batch_size`` rows a time for ever, pass after pass, each row once in a pass.

        They are float32 tensors of shape (rows, d_in) on the CPU that the caller may change.  Seed and
        number of the pass decide the order.  The first ``start`` batches are skipped, cheaply; what
        follows is equal to the bit to what would have followed.
        """

    def in_order(self, batch_size: int, *, start: int = 0) -> Iterator[torch.Tensor]:
        """Yield each row once, in a fixed order, without the first ``start`` batches."""


class ArraySource:
    """Activations in an array or a tensor; of a memory-mapped one only what is used is read.

    Parameters
    ----------
    activations : ndarray, memmap or tensor of shape (n_rows, d_in)
        float16, bfloat16, float32 or float64; made float32 batch by batch, never copied as a whole.
    hook_point : HookPoint or (int, str), optional
        Where they were read.
    metadata : mapping, optional
        What made them, in plain JSON: goes into the SAE.

    Raises
    ------
    InputTypeError
        If it is no array or tensor of floating-point numbers.
    InvalidInputError
        If it is not two-dimensional, or empty.

    Examples
    --------
    >>> import numpy as np
    >>> source = ArraySource(np.arange(10, dtype=np.float32).reshape(5, 2))
    >>> [len(batch) for batch in source.in_order(2)]
    [2, 3]
    >>> next(source.batches(5)).sum(dim=0)
    tensor([20., 25.])
    """

    def __init__(
        self,
        activations: np.ndarray | torch.Tensor,
        *,
        hook_point: HookPoint | tuple[int, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        _check_array(activations)
        self.activations = activations
        self.hook_point = None if hook_point is None else HookPoint(*hook_point)
        self.metadata: Mapping[str, Any] = dict(metadata or {})

    def __repr__(self) -> str:
        return f"ArraySource({self.n_rows} rows, d_in={self.d_in})"

    @property
    def n_rows(self) -> int:
        """Rows in one pass."""
        return int(self.activations.shape[0])

    @property
    def d_in(self) -> int:
        """Size of a row."""
        return int(self.activations.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows as float32; all of them are read for it."""
        digest = hashlib.sha256(f"{self.n_rows} {self.d_in}\0".encode())
        for batch in self.in_order(DIGEST_ROWS):
            digest.update(batch.numpy().data)
        return digest.hexdigest()

    def n_batches(self, batch_size: int) -> int:
        """Return how many batches one pass has."""
        return len(cut(self.n_rows, batch_size)) - 1

    def sample(self, n_rows: int) -> torch.Tensor:
        """Return at most ``n_rows`` rows, float32, always the same, spread over the data."""
        return self._rows(spread_rows(self.n_rows, n_rows))

    def batches(self, batch_size: int, *, seed: int = 0, start: int = 0) -> Iterator[torch.Tensor]:
        """Yield batches for ever, as :meth:`ActivationSource.batches` says.

        Within a batch rows stand as in the array.
        """
        return map(self._rows, row_batches(self.n_rows, batch_size, seed=seed, start=start))

    def in_order(self, batch_size: int, *, start: int = 0) -> Iterator[torch.Tensor]:
        """Yield each row once, in a fixed order, without the first ``start`` batches."""
        return map(self._rows, rows_in_order(self.n_rows, batch_size, start=start))

    def _rows(self, rows: np.ndarray) -> torch.Tensor:
        if isinstance(self.activations, torch.Tensor):
            chosen = torch.from_numpy(rows).to(self.activations.device)
            return self.activations.detach()[chosen].to("cpu", torch.float32)
        part = np.asarray(self.activations[rows])  # a copy: of a map, too
        return torch.from_numpy(part.astype(part.dtype.newbyteorder("="), copy=False)).float()


def cut(n_rows: int, batch_size: int) -> np.ndarray:
    """Return where the batches of a pass begin, and its end: none differ by more than one row.

    There are ``n_rows / batch_size`` batches, rounded, and at least one.

    Returns
    -------
    ndarray of shape (n_batches + 1,), int64

    Raises
    ------
    InvalidParameterError
        If ``batch_size`` is no integer above 0.

    Examples
    --------
    >>> cut(10, 4).tolist(), cut(3, 100).tolist()
    ([0, 5, 10], [0, 3])
    """
    if not _is_integer(batch_size, 1):
        raise InvalidParameterError(f"Got batch_size={batch_size!r}; expected an integer above 0.")
    return cut_into(n_rows, max(1, round(n_rows / batch_size)))


def cut_into(n_rows: int, n_batches: int) -> np.ndarray:
    """Return where ``n_batches`` parts of about the same size begin, and the end."""
    return np.arange(n_batches + 1, dtype=np.int64) * n_rows // n_batches


def check_finite_rows(batch: torch.Tensor, number: int) -> None:
    """Raise InvalidInputError where a batch has values that are not finite.

    ``number`` is what the message calls the batch, a tensor of shape (rows, d_in).
    """
    if bool(torch.isfinite(batch.sum())):  # one pass, and no array of truth values
        return
    is_broken = ~torch.isfinite(batch).all(dim=1)
    n_broken = int(is_broken.sum())
    if n_broken:
        row = int(is_broken.nonzero()[0])
        message = (
            f"Got activations that are not finite in batch {number} (row {row} of it; {n_broken} of its "
            f"{len(batch)} rows); expected finite numbers. Leave such rows out, or compute them anew: "
            "float16 cannot hold large ones, float32 and bfloat16 can."
        )
        raise InvalidInputError(message)


def check_order(seed: object, start: object) -> None:
    """Raise InvalidParameterError unless both are integers of at least 0."""
    for name, value in (("seed", seed), ("start", start)):
        if not _is_integer(value, 0):
            message = f"Got {name}={value!r}; expected an integer of at least 0."
            raise InvalidParameterError(message)


def row_batches(n_rows: int, batch_size: int, *, seed: int, start: int) -> Iterator[np.ndarray]:
    """Return the rows of each batch, sorted, pass after pass without end; parameters are checked.

    Chunks are shuffled over all the data, then single rows within groups of chunks: a disk reads many
    rows at once, and no array of the length of the data is made.
    """
    bounds = cut(n_rows, batch_size)
    check_order(seed, start)

    def endless() -> Iterator[np.ndarray]:
        number, first = divmod(start, len(bounds) - 1)
        while True:
            yield from _one_pass(n_rows, bounds[first:], [int(seed), number])
            number, first = number + 1, 0

    return endless()


def rows_in_order(n_rows: int, batch_size: int, *, start: int) -> Iterator[np.ndarray]:
    """Return the rows of each batch of one pass in order; parameters are checked."""
    bounds = cut(n_rows, batch_size)
    check_order(0, start)
    parts = zip(bounds[start:-1].tolist(), bounds[start + 1 :].tolist(), strict=True)
    return (np.arange(first, stop) for first, stop in parts)


def spread_rows(n_rows: int, wanted: int) -> np.ndarray:
    """Return at most ``wanted`` row numbers, ascending: one at random of each of as many stretches."""
    if not _is_integer(wanted, 1):
        raise InvalidParameterError(f"Got n_rows={wanted!r}; expected an integer above 0.")
    if wanted >= n_rows:
        return np.arange(n_rows)
    bounds = cut_into(n_rows, wanted)
    return bounds[:-1] + np.random.default_rng(0).integers(0, np.diff(bounds))


def _one_pass(n_rows: int, bounds: np.ndarray, seeds: list[int]) -> Iterator[np.ndarray]:
    """Yield the rows of those batches of a pass that lie within bounds."""
    groups = _groups(n_rows, int(bounds[0]), seeds)
    pool = np.empty(0, np.int64)
    for size in np.diff(bounds).tolist():
        while len(pool) < size:
            pool = np.concatenate([pool, next(groups)])
        yield np.sort(pool[:size])
        pool = pool[size:]


def _groups(n_rows: int, first: int, seeds: list[int]) -> Iterator[np.ndarray]:
    """Yield all rows shuffled, group by group, without the first ones."""
    chunks = np.random.default_rng(seeds).permutation(-(-n_rows // CHUNK_ROWS))
    size = GROUP_ROWS // CHUNK_ROWS
    for number, begin in enumerate(range(0, len(chunks), size), 1):
        starts = chunks[begin : begin + size] * CHUNK_ROWS
        count = int(np.minimum(n_rows - starts, CHUNK_ROWS).sum())
        if first >= count:
            first -= count
            continue
        rows = (starts[:, None] + np.arange(CHUNK_ROWS)).reshape(-1)
        shuffled = np.random.default_rng([*seeds, number]).permutation(rows[rows < n_rows])
        yield shuffled[first:]
        first = 0


def _check_array(activations: object) -> None:
    is_tensor = isinstance(activations, torch.Tensor)
    if not is_tensor and not isinstance(activations, np.ndarray):
        message = (
            f"Got activations of type {type(activations).__name__}; expected an array or a tensor of "
            "shape (n_rows, d_in): np.asarray(…) makes one of lists."
        )
        raise InputTypeError(message)
    array: Any = activations
    is_float = array.is_floating_point() if is_tensor else array.dtype.kind == "f"
    if not is_float or array.dtype.itemsize not in {2, 4, 8}:
        kind = str(array.dtype).removeprefix("torch.")
        message = f"Got activations of type {kind}; expected float16, bfloat16, float32 or float64."
        raise InputTypeError(message)
    if array.ndim != 2 or 0 in array.shape:
        message = (
            f"Got activations of shape {tuple(array.shape)}; expected (n_rows, d_in), both above 0: "
            "one row per token."
        )
        raise InvalidInputError(message)


def _is_integer(value: object, least: int) -> bool:
    is_number = isinstance(value, Integral) and not isinstance(value, bool)
    return is_number and int(value) >= least  # type: ignore[call-overload]
