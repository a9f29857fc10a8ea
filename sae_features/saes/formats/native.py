"""Our own format: a folder with ``sae.safetensors`` and ``sae.json``.

``sae.json`` holds the conventions, the hook point, the model and the SHA-256 of the weights, so that
an SAE can be described and identified without reading them, and so that damage is noticed.
``labels.json`` beside it, if there, names latents: ``{"17": "praise"}``.
"""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidParameterError, SAEFormatError
from sae_features.parameters import DTYPES
from sae_features.saes.conventions import (
    ARCHITECTURES,
    OPTIONAL_TENSORS,
    WITH_K,
    check_conventions,
    check_input_norm,
    expected_shapes,
)
from sae_features.saes.formats.conversion import Piece, Plan, read_tensors
from sae_features.saes.formats.facts import parse_hook_point
from sae_features.saes.formats.header import SAEHeader
from sae_features.saes.json_files import Config, naming, read_json, write_json
from sae_features.saes.labels import find_labels
from sae_features.saes.links import check_inside

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.saes.formats.files import SAEFiles

NAME = "sae-features"
SCHEMA = 1
WEIGHTS = "sae.safetensors"
HEADER = "sae.json"

_FIELDS = {
    "format",
    "schema",
    "architecture",
    "d_in",
    "d_out",
    "n_latents",
    "dtype",
    "k",
    "topk_relu",
    "subtract_b_dec",
    "input_norm",
    "norm_scale",
    "denormalize",
    "tensors",
    "hook_point",
    "hook_point_out",
    "weights_sha256",
    "metadata",
}


class NativeFormat:
    """Reader and writer of the format that :meth:`SparseAutoencoder.save` writes."""

    def detect(self, files: SAEFiles) -> bool:
        """Tell whether ``sae.json`` of ours stands in the folder."""
        path = files.path
        if not (path.is_dir() or path.name in (HEADER, WEIGHTS)):
            return False
        header = _folder_of(path) / HEADER
        try:
            return header.is_file() and read_json(header).get("format") == NAME
        except SAEFormatError:
            return True  # named as ours but damaged: reading it says how

    def read_header(self, files: SAEFiles, **overrides: Any) -> SAEHeader:
        """Read ``sae.json``."""
        for name, value in overrides.items():
            if value is not None:
                message = f"Got {name}={value!r}; the files of format {NAME!r} say all of it already."
                raise InvalidParameterError(message)
        folder = _folder_of(files.path)
        for name in (HEADER, WEIGHTS):
            check_inside(folder / name, folder)
        with naming(folder / HEADER):
            header = _parse_header(read_json(folder / HEADER), folder)
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise SAEFormatError(f"{folder}: {WEIGHTS} is missing beside {HEADER}.")
        with naming(weights):
            nbytes = weights.stat().st_size
            _check_size(nbytes, header)
        return replace(header, labels_file=find_labels(folder), nbytes=nbytes)

    def load(
        self, files: SAEFiles, *, device: str, dtype: str, decoder: bool, **overrides: Any
    ) -> SparseAutoencoder:
        """Read the weights, checking shapes, digest and finiteness."""
        from sae_features.saes.autoencoder import SparseAutoencoder
        from sae_features.saes.formats.files import SAEFiles as Files
        from sae_features.saes.provenance import remember_files

        header = self.read_header(files, **overrides)
        _check_digest(header)
        weights = Files(header.weights)
        _check_tensors(weights, header)
        plan = Plan(
            header.architecture,
            header.d_in,
            header.n_latents,
            {name: Piece(name) for name in weights.names},
            d_out=header.d_out,
        )
        tensors: dict[str, Any] = read_tensors(
            plan, weights, device=device, dtype=dtype, decoder=decoder
        )
        sae = SparseAutoencoder(
            **tensors,
            **header.conventions,
            hook_point=header.hook_point,
            hook_point_out=header.hook_point_out,
            metadata=header.metadata,
            labels=header.labels,
        )
        return remember_files(sae, header)

    def write(self, sae: SparseAutoencoder, folder: Path, dtype: str | None) -> Path:
        """Write an SAE; nothing in the folder changes before all files are written and checked."""
        from sae_features.saes.formats.writing import labels_on_disk, tensors_on_disk, write_files

        tensors = tensors_on_disk(sae, dtype)
        header: dict[str, Any] = {
            "format": NAME,
            "schema": SCHEMA,
            "d_in": sae.d_in,
            **({"d_out": sae.d_out} if sae.d_out != sae.d_in else {}),
            "n_latents": sae.n_latents,
            "dtype": dtype or str(sae.dtype).removeprefix("torch."),
            **sae.conventions(),
            "hook_point": sae.hook_point and sae.hook_point._asdict(),
            **({"hook_point_out": sae.hook_point_out._asdict()} if sae.hook_point_out else {}),
            "metadata": dict(sae.metadata),
        }
        optional = [name for name in OPTIONAL_TENSORS if name in tensors]
        if optional != ["W_dec"]:
            header["tensors"] = optional

        def complete(draft: Path) -> None:
            header["weights_sha256"] = _sha256_of(draft / WEIGHTS)
            write_json(draft / HEADER, header)
            _parse_header(read_json(draft / HEADER), draft)  # what could not be read is not written

        return write_files(
            folder, {WEIGHTS: tensors}, {HEADER: header, **labels_on_disk(sae)}, check=complete
        )


FORMAT = NativeFormat()


def _folder_of(path: Path) -> Path:
    if path.is_dir():
        return path
    if path.name not in (HEADER, WEIGHTS):
        raise SAEFormatError(f"Got {str(path)!r}; expected a folder with {HEADER} and {WEIGHTS}.")
    return path.parent


def _parse_header(raw: Mapping[str, Any], folder: Path) -> SAEHeader:
    """Return what ``sae.json`` alone says."""
    if raw.get("format") != NAME:
        raise SAEFormatError(f"got format {_short(raw.get('format'))}; expected {NAME!r}.")
    config = Config(raw, folder / HEADER, named=False)
    schema = config.integer("schema", low=0)
    unknown = sorted(set(raw) - _FIELDS)
    if schema != SCHEMA or unknown:
        message = (
            f"got schema {_short(schema)} with unknown fields {_short(unknown)}; "
            f"this version reads schema {SCHEMA}. Update sae-features."
        )
        raise SAEFormatError(message)
    architecture: Any = config.choice("architecture", ARCHITECTURES)
    d_in, n_latents = config.integer("d_in"), config.integer("n_latents")
    conventions = _conventions(config, architecture, d_in, n_latents)
    weights_sha256 = config.text("weights_sha256")
    if not re.fullmatch(r"[0-9a-f]{64}", weights_sha256):
        raise SAEFormatError(f"got weights_sha256={_short(weights_sha256)}; expected 64 hex digits.")
    return SAEHeader(
        format=NAME,
        path=folder,
        weights=folder / WEIGHTS,
        architecture=architecture,
        d_in=d_in,
        d_out=config.integer("d_out", d_in),
        n_latents=n_latents,
        dtype=config.choice("dtype", DTYPES),
        conventions=conventions,
        has_decoder="W_dec" in _optional(raw.get("tensors", ["W_dec"])),
        hook_point=parse_hook_point(raw.get("hook_point")),
        hook_point_out=parse_hook_point(raw.get("hook_point_out")),
        metadata=config.section("metadata").values,
        weights_sha256=weights_sha256,
    )


def _conventions(config: Config, architecture: str, d_in: int, n_latents: int) -> dict[str, Any]:
    """Return conventions as :meth:`SparseAutoencoder.conventions` gives them, checked."""
    conventions: dict[str, Any] = {
        "architecture": architecture,
        "subtract_b_dec": config.flag("subtract_b_dec"),
    }
    check_conventions(architecture, config.get("k"), n_latents)
    if architecture in WITH_K:
        conventions["k"] = config.integer("k")
    if architecture == "topk":
        conventions["topk_relu"] = config.flag("topk_relu")
    input_norm, norm_scale = config.get("input_norm", "none"), config.get("norm_scale")
    check_input_norm(input_norm, norm_scale, d_in)
    if input_norm != "none":
        conventions |= {"input_norm": input_norm, "denormalize": config.flag("denormalize")}
    if norm_scale is not None:
        conventions["norm_scale"] = norm_scale
    return conventions


def _optional(raw: object) -> list[str]:
    if isinstance(raw, list) and all(name in OPTIONAL_TENSORS for name in raw):
        return raw
    message = f"got tensors={_short(raw)}; expected some of {', '.join(OPTIONAL_TENSORS)}."
    raise SAEFormatError(message)


def _shapes_of(header: SAEHeader) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors that the weights may hold."""
    return expected_shapes(header.architecture, header.d_in, header.n_latents, header.d_out)


def _check_size(nbytes: int, header: SAEHeader) -> None:
    """Raise if a file is too small for what encoding needs: a header alone promises any width."""
    shapes = _shapes_of(header).items()
    sizes = (math.prod(shape) for name, shape in shapes if name not in OPTIONAL_TENSORS)
    needed = sum(sizes) * int(re.sub(r"\D", "", header.dtype)) // 8  # float32 has 32 bits
    if nbytes < needed:
        message = (
            f"got {nbytes} bytes; expected at least {needed} for d_in={header.d_in}, "
            f"n_latents={header.n_latents} in {header.dtype}, as {HEADER} says. Get both files again."
        )
        raise SAEFormatError(message)


def _check_digest(header: SAEHeader) -> None:
    found = _sha256_of(header.weights)
    if found != header.weights_sha256:
        message = (
            f"{header.weights}: got a file with SHA-256 {found[:12]}…, which is not what {HEADER} says: "
            "it was damaged or exchanged. Get both files again."
        )
        raise SAEFormatError(message)


def _check_tensors(files: SAEFiles, header: SAEHeader) -> None:
    """Raise where the weights are not those that the header describes."""
    stated = read_json(header.weights.with_name(HEADER)).get("tensors")
    shapes = _shapes_of(header)
    required = set(shapes) - set(OPTIONAL_TENSORS)
    infos = files.infos
    with naming(header.weights):
        if not required <= files.names <= set(shapes):
            found = reprlib.repr(sorted(files.names))
            raise SAEFormatError(f"got tensors {found}; expected {sorted(shapes)}.")
        optional = files.names & set(OPTIONAL_TENSORS)
        if stated is not None and optional != set(stated):
            raise SAEFormatError(f"got {sorted(optional)}; expected {sorted(stated)}, as {HEADER} says.")
        for name, info in infos.items():
            if info.shape != shapes[name]:
                raise SAEFormatError(f"got {name} of shape {info.shape}; expected {shapes[name]}.")
            if info.dtype != header.dtype:
                message = (
                    f"got {name} of type {info.dtype}; expected {header.dtype}, as the header says."
                )
                raise SAEFormatError(message)


def _sha256_of(path: Path) -> str:
    """Return the digest of what is in the file now; no name of a blob in a cache stands for it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _short(value: object) -> str:
    """Return what is shown of a value in a message, however large it is."""
    return reprlib.repr(value)
