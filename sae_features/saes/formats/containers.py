"""Files that hold named tensors: safetensors, npz and torch's zip files; none of them runs code.

What a file declares is checked against its size before any memory is taken for it, and nothing is read
twice: neither the weights for their checks, nor the header by two readers that could differ.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from sae_features.errors import SAEFormatError
from sae_features.saes.formats.archives import damage_named, read_member, read_members
from sae_features.saes.formats.pickles import MAX_BYTES as MAX_PICKLE_BYTES
from sae_features.saes.formats.pickles import StoredTensor, read_pickle
from sae_features.saes.json_files import naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import torch

    from sae_features.saes.formats.archives import Member

MIN_TORCH = (2, 10)
"""Earlier versions of torch have known holes in ``weights_only``."""
MAX_HEADER = 2**20
"""Bytes of names and shapes in a safetensors file that are believed."""
MAX_FIRST_LINE = 2**20
LFS_POINTER = b"version https://git-lfs"
MAX_NPY_HEADER = 1024
MAX_NAME = 256
MAX_DIMENSIONS = 8
CONVERT = (
    "load the file with the library that wrote it, and save its tensors with "
    "safetensors.torch.save_file."
)


class TensorInfo(NamedTuple):
    """What a file declares of a tensor."""

    shape: tuple[int, ...]
    dtype: str
    """``float32`` …, as torch and numpy say; the file's own word for a type that is not known."""


def _checked_infos(path: Path, infos: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    """Return what a file declares, if names and shapes are of a length that messages can show."""
    for name, info in infos.items():
        if len(name) > MAX_NAME or len(info.shape) > MAX_DIMENSIONS:
            message = (
                f"{path}: got {name[:60]!r} with {len(info.shape)} dimensions; expected a name of at "
                f"most {MAX_NAME} characters and at most {MAX_DIMENSIONS} dimensions."
            )
            raise SAEFormatError(message)
    return infos


class Container(Protocol):
    """Tensors of a file by name, read one at a time."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """What is declared of each, without reading it."""

    @property
    def values(self) -> Mapping[str, Any]:
        """What else stands in the file: plain values by name."""

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, on the CPU, as it is stored."""


def open_container(path: Path) -> Container:
    """Return the tensors of a file.

    Raises
    ------
    SAEFormatError
        If it is not whole, is of no known kind, or holds more than tensors and plain values.
    """
    with damage_named(path), path.open("rb") as stream:
        start = stream.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        message = f"{path}: got a pointer of Git LFS; expected the file itself. Run `git lfs pull`."
        raise SAEFormatError(message)
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix == ".npz":
        return NpzFile(path)
    if path.suffix in (".pt", ".pth") and start.startswith(b"PK"):
        return TorchFile(path)
    if path.suffix == ".pt" and start.startswith(b"{"):
        return TorchFile(path, skip_first_line=True)
    raise SAEFormatError(other_kind(path))


def number_in(container: Container, name: str) -> float:
    """Return the number that a tensor of one element holds; torch is imported only where it must be."""
    if isinstance(container, SafetensorsFile) and container.infos[name].dtype != "bfloat16":
        return container.read(name, framework="numpy").item()
    return container.read(name).item()


def other_kind(path: Path) -> str:
    """Return what is to be said of a file that holds no tensors as we take them."""
    return (
        f"{path}: got a file of another kind; expected .safetensors, .npz, or a .pt or .pth file "
        "written by torch.save since torch 1.6. Pickles (.pkl, older .pt) could run code and are not "
        f"opened: {CONVERT}"
    )


class SafetensorsFile:
    """Tensors of a ``.safetensors`` file, mapped into memory."""

    values: ClassVar[Mapping[str, Any]] = {}
    _DTYPES: ClassVar[Mapping[str, str]] = {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U8": "uint8",
        "BOOL": "bool",
    }

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._path = path
        _check_names(path)
        with _whole_safetensors(path), safe_open(path, framework="numpy") as file:  # needs no torch
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 no mapping
            infos = {
                name: TensorInfo(tuple(part.get_shape()), self._dtype(part.get_dtype()))
                for name, part in slices.items()
            }
        self.infos = _checked_infos(path, infos)

    def read(self, name: str, *, framework: str = "pt") -> torch.Tensor:
        """Return one tensor, mapped from the file: its pages are read when they are used."""
        from safetensors import safe_open

        with _whole_safetensors(self._path), safe_open(self._path, framework=framework) as file:
            tensor = file.get_tensor(name)
            return _aligned(tensor) if framework == "pt" else tensor

    def _dtype(self, stored: str) -> str:
        return self._DTYPES.get(stored, stored)


class NpzFile:
    """Arrays of an ``.npz`` file; pickled objects are refused."""

    values: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, path: Path) -> None:
        self._path = path
        members = read_members(path, compressed=True)
        for name in members:
            if not name.endswith(".npy"):
                raise SAEFormatError(f"{path}: got {name[:100]!r} inside; expected .npy arrays.")
        infos = {
            name.removesuffix(".npy"): self._read_info(name, member) for name, member in members.items()
        }
        self.infos = _checked_infos(path, infos)

    def read(self, name: str) -> torch.Tensor:
        """Return one array as a tensor."""
        import zipfile

        import numpy as np
        import torch

        with (
            damage_named(self._path),
            zipfile.ZipFile(self._path) as archive,
            archive.open(f"{name}.npy") as stream,
        ):
            array = np.lib.format.read_array(stream, allow_pickle=False, max_header_size=MAX_NPY_HEADER)
            stream.read()  # to the end of the member, where its checksum is compared
            return torch.from_numpy(array)

    def _read_info(self, name: str, member: Member) -> TensorInfo:
        import zipfile

        with (
            damage_named(self._path),
            zipfile.ZipFile(self._path) as archive,
            archive.open(name) as stream,
        ):
            shape, dtype = self._read_header(name, stream)
            place = stream.tell()
        expected = math.prod(shape) * dtype.itemsize + place
        if min(shape, default=0) < 0 or expected != member.info.file_size:
            message = (
                f"{self._path}: got {member.info.file_size} bytes for {name[:100]!r}; expected "
                f"{str(expected)[:30]}, as its own header says. Get the file again."
            )
            raise SAEFormatError(message)
        return TensorInfo(shape, dtype.name if dtype.isnative else str(dtype))

    def _read_header(self, name: str, stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
        import numpy as np

        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_NPY_HEADER)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(stream, max_header_size=MAX_NPY_HEADER)
        else:
            message = f"{self._path}: got version {version} of the npy format; expected 1.0 or 2.0."
            raise SAEFormatError(message)
        shape, _, dtype = header
        if dtype.kind not in "biufc" or dtype.itemsize == 0:
            message = f"{self._path}: got {name[:100]!r} of type {str(dtype)[:60]}; expected numbers."
            raise SAEFormatError(message)
        return tuple(map(int, shape)), dtype


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
        self.infos = _checked_infos(path, infos)
        """What is declared of each tensor."""

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor."""
        tensor = self._tensors[name]
        found = TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        if found != self.infos[name]:
            message = f"{self._path}: got {name!r} as {found}; expected {self.infos[name]}, as declared."
            raise SAEFormatError(message)
        return _aligned(tensor.detach())

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
        inner = declared.get("state_dict")
        if isinstance(inner, dict):
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
            return {**loaded, **loaded["state_dict"]} if "state_dict" in loaded else loaded


def _tensors_in(value: Any) -> Iterator[StoredTensor]:
    if isinstance(value, StoredTensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(part)


def _check_names(path: Path) -> None:
    """Raise where a safetensors file has too large a header, or a name twice: readers take the last."""

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise SAEFormatError(f"{path}: got a name twice in its header; expected each once.")
        return dict(pairs)

    with _whole_safetensors(path), path.open("rb") as stream:
        size = path.stat().st_size
        nbytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or nbytes > min(MAX_HEADER, size - 8):
            message = (
                f"{path}: not a whole safetensors file: got a header of {nbytes} bytes in a file of "
                f"{size}; expected at most {MAX_HEADER}. Get it again."
            )
            raise SAEFormatError(message)
        json.loads(stream.read(nbytes), object_pairs_hook=checked)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that starts where its type may, whatever place it has in a file."""
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


@contextmanager
def _whole_safetensors(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SAEFormatError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        message = f"{path}: not a whole safetensors file: {error!s:.200}. Get it again."
        raise SAEFormatError(message) from error
