"""Our own format: a folder with ``sae.safetensors`` and ``sae.json``.

``sae.json`` holds the conventions, the hook point, the model and the SHA-256 of the weights, so that
an SAE can be described and identified without reading them, and so that damage is noticed.
``labels.json`` beside it, if there, names latents: ``{"17": "praise"}``.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sae_features.assets import file_sha256
from sae_features.errors import InvalidParameterError, SAEFormatError, expected_one_of
from sae_features.hook_point import SITES, HookPoint
from sae_features.saes.autoencoder import (
    ARCHITECTURES,
    SparseAutoencoder,
    check_conventions,
    digest_of,
    expected_shapes,
)
from sae_features.saes.formats import SAEHeader

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "sae-features"
SCHEMA = 1
WEIGHTS = "sae.safetensors"
HEADER = "sae.json"
LABELS = "labels.json"
DTYPES = ("float32", "float16", "bfloat16", "float64")
MAX_HEADER_BYTES = 16 * 2**20
MAX_SIZE = 2**31 - 1

_FIELDS = {
    "format",
    "schema",
    "architecture",
    "d_in",
    "n_latents",
    "dtype",
    "k",
    "topk_relu",
    "subtract_b_dec",
    "hook_point",
    "weights_sha256",
    "metadata",
}


class NativeFormat:
    """Reader of the format that :meth:`SparseAutoencoder.save` writes."""

    def detect(self, path: Path) -> bool:
        """Tell whether ``sae.json`` of ours stands in the folder."""
        header = _folder_of(path) / HEADER
        if not header.is_file():
            return False
        try:
            return _read_json(header).get("format") == NAME
        except SAEFormatError:
            return True  # named as ours but damaged: reading it says how

    def read_header(self, path: Path) -> SAEHeader:
        """Read ``sae.json`` and ``labels.json``."""
        folder = _folder_of(path)
        return _parse_header(_read_json(folder / HEADER), folder)

    def load(
        self, path: Path, *, device: str, dtype: str, decoder: bool, **overrides: Any
    ) -> SparseAutoencoder:
        """Read the weights, checking shapes, digest and finiteness."""
        header = self.read_header(path)
        for name, value in overrides.items():
            if value is not None:
                message = f"Got {name}={value!r}; the files of format {NAME!r} say all of it already."
                raise InvalidParameterError(message)
        folder = _folder_of(path)
        _check_digest(folder, header)
        tensors = _read_tensors(folder / WEIGHTS, header, decoder=decoder)
        return SparseAutoencoder(
            **{name: t.to(device, getattr(torch, dtype)) for name, t in tensors.items()},
            **header.conventions,
            hook_point=header.hook_point,
            metadata=header.metadata,
            labels=header.labels,
            source_digest=header.digest,
        )


FORMAT = NativeFormat()


def save_folder(sae: SparseAutoencoder, folder: str | Path, *, dtype: str | None) -> Path:
    """Write an SAE; each file appears whole or not at all."""
    if dtype is not None and dtype not in DTYPES:
        raise InvalidParameterError(expected_one_of("dtype", dtype, DTYPES))
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    stored = getattr(torch, dtype) if dtype else sae.dtype
    tensors = {name: tensor.detach().to("cpu", stored).contiguous() for name, tensor in sae.tensors()}
    _check_finite(tensors)
    with _replacing(place / WEIGHTS) as draft:
        save_file(tensors, draft)
    header = {
        "format": NAME,
        "schema": SCHEMA,
        "d_in": sae.d_in,
        "n_latents": sae.n_latents,
        "dtype": str(stored).removeprefix("torch."),
        **sae.conventions(),
        "hook_point": sae.hook_point and sae.hook_point._asdict(),
        "weights_sha256": file_sha256(place / WEIGHTS),
        "metadata": dict(sae.metadata),
    }
    _write_json(place / HEADER, header)
    if sae.labels:
        _write_json(place / LABELS, {str(key): value for key, value in sae.labels.items()})
    else:
        (place / LABELS).unlink(missing_ok=True)
    return place


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _parse_header(raw: Mapping[str, Any], folder: Path) -> SAEHeader:
    place = folder / HEADER
    unknown = set(raw) - _FIELDS
    if raw.get("schema") != SCHEMA or unknown:
        message = (
            f"{place}: got schema {raw.get('schema')!r} with unknown fields {sorted(unknown)}; "
            f"this version reads schema {SCHEMA}. Update sae-features."
        )
        raise SAEFormatError(message)
    architecture = raw.get("architecture")
    if architecture not in ARCHITECTURES:
        options = expected_one_of("architecture", architecture, ARCHITECTURES)
        raise SAEFormatError(f"{place}: {options}")
    d_in, n_latents = (_typed(raw, name, int, place) for name in ("d_in", "n_latents"))
    if not (1 <= d_in <= MAX_SIZE and 1 <= n_latents <= MAX_SIZE):
        raise SAEFormatError(f"{place}: got d_in={d_in}, n_latents={n_latents}; expected above 0.")
    conventions: dict[str, Any] = {
        "architecture": architecture,
        "subtract_b_dec": _typed(raw, "subtract_b_dec", bool, place),
    }
    check_conventions(architecture, raw.get("k"), n_latents)
    if architecture == "topk":
        conventions |= {"k": raw["k"], "topk_relu": _typed(raw, "topk_relu", bool, place)}
    if raw.get("dtype") not in DTYPES:
        raise SAEFormatError(f"{place}: {expected_one_of('dtype', raw.get('dtype'), DTYPES)}")
    weights_sha256 = _typed(raw, "weights_sha256", str, place)
    if not re.fullmatch(r"[0-9a-f]{64}", weights_sha256):
        raise SAEFormatError(f"{place}: got weights_sha256={weights_sha256!r}; expected 64 hex digits.")
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise SAEFormatError(f"{folder}: {WEIGHTS} is missing beside {HEADER}.")
    return SAEHeader(
        format=NAME,
        path=folder,
        architecture=architecture,
        d_in=d_in,
        n_latents=n_latents,
        digest=digest_of(conventions, weights_sha256),
        dtype=raw["dtype"],
        conventions=conventions,
        hook_point=_parse_hook_point(raw.get("hook_point"), place),
        metadata=_typed(raw, "metadata", dict, place) | {"weights_sha256": weights_sha256},
        labels=_read_labels(folder / LABELS, n_latents),
        nbytes=weights.stat().st_size,
    )


def _parse_hook_point(raw: object, place: Path) -> HookPoint | None:
    if raw is None:
        return None
    if isinstance(raw, dict) and set(raw) == {"layer", "site"}:
        layer, site = raw["layer"], raw["site"]
        if isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 and site in SITES:
            return HookPoint(layer, site)
    message = f"{place}: got hook_point={raw!r}; expected {{'layer': 0, 'site': 'resid_post'}}."
    raise SAEFormatError(message)


def _read_labels(path: Path, n_latents: int) -> dict[int, str]:
    if not path.is_file():
        return {}
    labels: dict[int, str] = {}
    for key, value in _read_json(path).items():
        if not (key.isascii() and key.isdigit() and int(key) < n_latents and isinstance(value, str)):
            message = f"{path}: got {key!r}: {value!r}; expected a latent below {n_latents} and a name."
            raise SAEFormatError(message)
        labels[int(key)] = value
    return labels


def _check_digest(folder: Path, header: SAEHeader) -> None:
    found = file_sha256(folder / WEIGHTS)
    if found != header.metadata["weights_sha256"]:
        message = (
            f"{folder / WEIGHTS} has SHA-256 {found[:12]}…, but {HEADER} says "
            f"{header.metadata['weights_sha256'][:12]}…: the file was damaged or exchanged. "
            "Get both files again."
        )
        raise SAEFormatError(message)


def _read_tensors(path: Path, header: SAEHeader, *, decoder: bool) -> dict[str, torch.Tensor]:
    shapes = expected_shapes(header.d_in, header.n_latents)
    if header.architecture != "jumprelu":
        del shapes["threshold"]
    try:
        with safe_open(path, framework="pt") as stored:
            present = set(stored.keys())
            required = set(shapes) - {"W_dec"}
            if not required <= present <= set(shapes):
                message = f"{path}: got tensors {sorted(present)}; expected {sorted(shapes)}."
                raise SAEFormatError(message)
            wanted = present if decoder else required
            for name in wanted:
                shape = tuple(stored.get_slice(name).get_shape())
                if shape != shapes[name]:
                    raise SAEFormatError(f"{path}: got {name} {shape}; expected {shapes[name]}.")
            tensors = {name: stored.get_tensor(name) for name in sorted(wanted)}
    except (SafetensorError, OSError) as error:
        raise SAEFormatError(f"{path} is not a whole safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise SAEFormatError(f"{path}: got {name} of type {tensor.dtype}; expected floats.")
    _check_finite(tensors)
    return tensors


def _check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise SAEFormatError(
                f"{name} holds NaN or infinity; expected finite {tensor.dtype} weights."
            )


def _typed(raw: Mapping[str, Any], name: str, kind: type, place: Path) -> Any:
    value = raw.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        message = f"{place}: got {name}={value!r}; expected a value of type {kind.__name__}."
        raise SAEFormatError(message)
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise SAEFormatError(f"{path} is larger than {MAX_HEADER_BYTES} bytes.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, SAEFormatError):
            raise
        raise SAEFormatError(f"{path} could not be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise SAEFormatError(f"{path}: expected a JSON object.")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with _replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


class _replacing:  # noqa: N801
    """Give a temporary path beside ``path`` that takes its place when all went well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        self.draft = Path(name)

    def __enter__(self) -> Path:
        return self.draft

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.draft.chmod(0o644)
            self.draft.replace(self.path)
        else:
            self.draft.unlink(missing_ok=True)
