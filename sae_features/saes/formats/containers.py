"""Files that hold named tensors: safetensors, npz and torch's zip files; none of them runs code.

What a file declares is checked against its size before any memory is taken for it, and nothing is read
twice: neither the weights for their checks, nor the header by two readers that could differ.
"""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from sae_features.errors import SAEFormatError
from sae_features.saes.formats.archives import damage_named, read_members

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import torch

    from sae_features.saes.formats.archives import Member

MAX_HEADER = 2**20
"""Bytes of names and shapes in a safetensors file that are believed."""
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


def checked_infos(path: Path, infos: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
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
    from sae_features.saes.formats.torch_files import TorchFile

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
        self.infos = checked_infos(path, infos)

    def read(self, name: str, *, framework: str = "pt") -> torch.Tensor:
        """Return one tensor, mapped from the file: its pages are read when they are used."""
        from safetensors import safe_open

        with _whole_safetensors(self._path), safe_open(self._path, framework=framework) as file:
            tensor = file.get_tensor(name)
            return aligned(tensor) if framework == "pt" else tensor

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
        self.infos = checked_infos(path, infos)

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


def aligned(tensor: torch.Tensor) -> torch.Tensor:
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
