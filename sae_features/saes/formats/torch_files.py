"""Files of ``torch.save``: checkpoints of tensors by name, opened with ``weights_only=True``."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError
from sae_features.saes.formats.archives import damage_named, read_member, read_members
from sae_features.saes.formats.containers import CONVERT, TensorInfo, aligned, checked_infos
from sae_features.saes.formats.pickles import MAX_BYTES as MAX_PICKLE_BYTES
from sae_features.saes.formats.pickles import StoredTensor, read_pickle
from sae_features.saes.json_files import naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

    from sae_features.saes.formats.archives import Member

MIN_TORCH = (2, 10)
"""Earlier versions of torch have known holes in ``weights_only``."""
MAX_FIRST_LINE = 2**20


class TorchFile:
    """Tensors of a file that ``torch.save`` wrote, opened with ``weights_only=True`` and nothing else.

    Before that its pickle is read, and compared with the records that hold the numbers: torch itself
    does not compare them, and would give a tensor what stands after its own record.

    Parameters
    ----------
    path : Path
    skip_first_line : bool, default=False
        A line of text stands before torch's own content; it is kept as ``first_line``.
    """

    _MEMBER = re.compile(
        r"([^/]+)/(?:(?P<pickle>data\.pkl)|byteorder|version|data/(?P<key>\d+)|\.[\w./-]+)", re.ASCII
    )

    def __init__(self, path: Path, *, skip_first_line: bool = False) -> None:
        self._path = path
        self.first_line = b""
        if skip_first_line:
            with path.open("rb") as stream:
                self.first_line = stream.readline(MAX_FIRST_LINE)
        members = read_members(path, start=len(self.first_line))
        tensors, values = self._read_declared(members)
        self.values: Mapping[str, Any] = values
        """Plain values by name, those of nested dictionaries too, as they stand."""
        self._check_sizes(tensors, members)
        infos = {
            name: TensorInfo(tensor.shape, tensor.storage.dtype) for name, tensor in tensors.items()
        }
        self.infos = checked_infos(path, infos)
        """What is declared of each tensor."""

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor."""
        tensor = self._tensors[name]
        found = TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        if found != self.infos[name]:
            message = f"{self._path}: got {name!r} as {found}; expected {self.infos[name]}, as declared."
            raise SAEFormatError(message)
        return aligned(tensor.detach())

    def _read_declared(
        self, members: Mapping[str, Member]
    ) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
        matches = {name: self._MEMBER.fullmatch(name) for name in members}
        roots = {match[1] if match else name for name, match in matches.items()}
        pickles = [name for name, match in matches.items() if match and match["pickle"]]
        if len(roots) != 1 or len(pickles) != 1 or None in matches.values():
            other = next((name for name, match in matches.items() if match is None), "no data.pkl")
            message = f"{self._path}: got a zip file with {other[:100]!r}; expected one of torch.save."
            raise SAEFormatError(message)
        (root,) = roots
        size = members[pickles[0]].info.file_size
        if size > MAX_PICKLE_BYTES:
            message = f"{self._path}: got a pickle of {size} bytes; expected at most {MAX_PICKLE_BYTES}."
            raise SAEFormatError(message)
        order = f"{root}/byteorder"
        if order in members and (
            members[order].info.file_size != 6 or read_member(self._path, order) != b"little"
        ):
            raise SAEFormatError(f"{self._path}: got numbers with another byteorder; expected 'little'.")
        content = read_member(self._path, pickles[0])
        with naming(self._path):
            declared = read_pickle(content)
        return self._split(declared)

    def _split(self, declared: dict[Any, Any]) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
        """Return tensors and other values by name; those of a ``state_dict`` as if they stood alone."""
        if _has_state_dict(declared):
            inner = declared["state_dict"]
            outer = {name: value for name, value in declared.items() if name != "state_dict"}
            if set(outer) & set(inner):
                raise SAEFormatError(f"{self._path}: got names twice, in state_dict and beside it.")
            declared = outer | inner
        if not all(isinstance(name, str) for name in declared):
            raise SAEFormatError(f"{self._path}: got names that are no text; expected tensors by name.")
        tensors = {name: value for name, value in declared.items() if isinstance(value, StoredTensor)}
        return tensors, {name: value for name, value in declared.items() if name not in tensors}

    def _check_sizes(self, tensors: Mapping[str, StoredTensor], members: Mapping[str, Member]) -> None:
        """Raise where tensors and the records of the file do not say the same."""
        root = next(iter(members)).split("/")[0]
        stored = {tensor.storage for tensor in (*tensors.values(), *_tensors_in(self.values))}
        keys = [storage.key for storage in stored]
        records = {name for name in members if name.startswith(f"{root}/data/")}
        if len(set(keys)) != len(keys) or {f"{root}/data/{key}" for key in keys} != records:
            message = f"{self._path}: got {len(records)} records of numbers; expected one per storage."
            raise SAEFormatError(message)
        for storage in stored:
            found = members[f"{root}/data/{storage.key}"].info.file_size
            if found != storage.nbytes:
                message = (
                    f"{self._path}: got {found} bytes in data/{storage.key}; expected {storage.nbytes}, "
                    "as its tensor declares. Get the file again."
                )
                raise SAEFormatError(message)
        needed, size = sum(tensor.nbytes for tensor in tensors.values()), self._path.stat().st_size
        if needed > 2 * size:  # a storage that several tensors share is copied for each
            message = f"{self._path}: got tensors of {needed} bytes in a file of {size}; expected fewer."
            raise SAEFormatError(message)

    @cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        import torch

        version = tuple(int(part) for part in torch.__version__.split(".")[:2])
        if version < MIN_TORCH:
            message = (
                f"{self._path}: got torch {torch.__version__}; expected "
                f"{'.'.join(map(str, MIN_TORCH))} or newer to open .pt files, whose reader has known "
                f"holes before it. Update torch, or convert the file elsewhere: {CONVERT}"
            )
            raise SAEFormatError(message)
        with damage_named(self._path):
            if not self.first_line:
                loaded = torch.load(  # noqa: TID251 this is the audited reader
                    self._path, map_location="cpu", weights_only=True, mmap=True
                )
            else:
                with self._path.open("rb") as stream:
                    stream.seek(len(self.first_line))
                    loaded = torch.load(stream, map_location="cpu", weights_only=True)  # noqa: TID251
            return {**loaded, **loaded["state_dict"]} if _has_state_dict(loaded) else loaded


def _has_state_dict(content: Mapping[Any, Any]) -> bool:
    return isinstance(content.get("state_dict"), dict)


def _tensors_in(value: Any) -> Iterator[StoredTensor]:
    if isinstance(value, StoredTensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(part)
