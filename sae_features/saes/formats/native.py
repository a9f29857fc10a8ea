"""Our own format: a folder with ``sae.safetensors`` and ``sae.json``.

``sae.json`` holds the conventions, the hook point, the model and the SHA-256 of the weights, so that
an SAE can be described and identified without reading them, and so that damage is noticed.
``labels.json`` beside it, if there, names latents: ``{"17": "praise"}``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidParameterError, SAEFormatError, expected_one_of
from sae_features.hook_point import SITES, HookPoint
from sae_features.parameters import DTYPES, check_dtype
from sae_features.saes.conventions import (
    ARCHITECTURES,
    check_conventions,
    digest_of,
    expected_shapes,
)
from sae_features.saes.formats import SAEHeader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sae_features.saes.autoencoder import SparseAutoencoder

NAME = "sae-features"
SCHEMA = 1
WEIGHTS = "sae.safetensors"
HEADER = "sae.json"
LABELS = "labels.json"
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
        if not (path.is_dir() or path.name in (HEADER, WEIGHTS)):
            return False
        header = _folder_of(path) / HEADER
        try:
            return header.is_file() and _read_json(header).get("format") == NAME
        except SAEFormatError:
            return True  # named as ours but damaged: reading it says how

    def read_header(self, path: Path) -> SAEHeader:
        """Read ``sae.json`` and ``labels.json``."""
        folder = _folder_of(path)
        with _naming(folder / HEADER):
            header = _parse_header(_read_json(folder / HEADER), folder)
        with _naming(folder / LABELS):
            labels = _read_labels(folder / LABELS, header.n_latents)
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise SAEFormatError(f"{folder}: {WEIGHTS} is missing beside {HEADER}.")
        with _naming(weights):
            nbytes = weights.stat().st_size
            _check_size(nbytes, header)
        return replace(header, labels=labels, nbytes=nbytes)

    def load(
        self, path: Path, *, device: str, dtype: str, decoder: bool, **overrides: Any
    ) -> SparseAutoencoder:
        """Read the weights, checking shapes, digest and finiteness."""
        from sae_features.saes.autoencoder import SparseAutoencoder
        from sae_features.saes.formats.native_weights import read_tensors

        for name, value in overrides.items():
            if value is not None:
                message = f"Got {name}={value!r}; the files of format {NAME!r} say all of it already."
                raise InvalidParameterError(message)
        header = self.read_header(path)
        weights = header.path / WEIGHTS
        with _naming(weights):
            _check_digest(weights, header)
            tensors: dict[str, Any] = read_tensors(
                weights,
                _shapes_of(header),
                stored=header.dtype,
                device=device,
                dtype=dtype,
                decoder=decoder,
            )
        sae = SparseAutoencoder(
            **tensors,
            **header.conventions,
            hook_point=header.hook_point,
            metadata=header.metadata,
            labels=header.labels,
        )
        vars(sae)["digest"] = header.digest  # fills the cached property; a changed copy computes its own
        return sae


FORMAT = NativeFormat()


def save_folder(sae: SparseAutoencoder, folder: str | Path, *, dtype: str | None) -> Path:
    """Write an SAE; nothing in the folder changes before all files are written and checked."""
    from safetensors.torch import save_file

    from sae_features.saes.formats.native_weights import tensors_on_disk

    check_dtype(dtype)
    tensors = tensors_on_disk(sae, dtype)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=place) as temporary:
        draft = Path(temporary)
        save_file(tensors, draft / WEIGHTS)
        header = {
            "format": NAME,
            "schema": SCHEMA,
            "d_in": sae.d_in,
            "n_latents": sae.n_latents,
            "dtype": dtype or str(sae.dtype).removeprefix("torch."),
            **sae.conventions(),
            "hook_point": sae.hook_point and sae.hook_point._asdict(),
            "weights_sha256": _sha256_of(draft / WEIGHTS),
            "metadata": dict(sae.metadata),
        }
        _write_json(draft / HEADER, header)
        if sae.labels:
            _write_json(draft / LABELS, {str(key): value for key, value in sae.labels.items()})
        _parse_header(_read_json(draft / HEADER), draft)  # what could not be read is not written
        _read_labels(draft / LABELS, sae.n_latents)
        (draft / WEIGHTS).chmod((draft / HEADER).stat().st_mode)  # safetensors makes it private
        (place / LABELS).unlink(missing_ok=True)
        for file in sorted(draft.iterdir()):
            file.replace(place / file.name)
    return place


def _folder_of(path: Path) -> Path:
    if path.is_dir():
        return path
    if path.name not in (HEADER, WEIGHTS):
        raise SAEFormatError(f"Got {str(path)!r}; expected a folder with {HEADER} and {WEIGHTS}.")
    return path.parent


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except SAEFormatError as error:
        raise SAEFormatError(f"{path}: {error}") from error


def _parse_header(raw: Mapping[str, Any], folder: Path) -> SAEHeader:
    """Return what ``sae.json`` alone says."""
    if raw.get("format") != NAME:
        raise SAEFormatError(f"got format {_short(raw.get('format'))}; expected {NAME!r}.")
    schema = _typed(raw, "schema", int)
    unknown = sorted(set(raw) - _FIELDS)
    if schema != SCHEMA or unknown:
        message = (
            f"got schema {_short(schema)} with unknown fields {_short(unknown)}; "
            f"this version reads schema {SCHEMA}. Update sae-features."
        )
        raise SAEFormatError(message)
    architecture = _one_of(raw, "architecture", ARCHITECTURES)
    d_in, n_latents = (_typed(raw, name, int) for name in ("d_in", "n_latents"))
    if not (1 <= d_in <= MAX_SIZE and 1 <= n_latents <= MAX_SIZE):
        message = f"got d_in={_short(d_in)}, n_latents={_short(n_latents)}; expected 1 to {MAX_SIZE}."
        raise SAEFormatError(message)
    conventions: dict[str, Any] = {
        "architecture": architecture,
        "subtract_b_dec": _typed(raw, "subtract_b_dec", bool),
    }
    check_conventions(architecture, raw.get("k"), n_latents)
    if architecture == "topk":
        conventions |= {"k": raw["k"], "topk_relu": _typed(raw, "topk_relu", bool)}
    weights_sha256 = _typed(raw, "weights_sha256", str)
    if not re.fullmatch(r"[0-9a-f]{64}", weights_sha256):
        raise SAEFormatError(f"got weights_sha256={_short(weights_sha256)}; expected 64 hex digits.")
    return SAEHeader(
        format=NAME,
        path=folder,
        architecture=architecture,
        d_in=d_in,
        n_latents=n_latents,
        digest=digest_of(conventions, weights_sha256),
        dtype=_one_of(raw, "dtype", DTYPES),
        conventions=conventions,
        hook_point=_parse_hook_point(raw.get("hook_point")),
        metadata=_typed(raw, "metadata", dict),
    )


def _parse_hook_point(raw: object) -> HookPoint | None:
    if raw is None:
        return None
    if isinstance(raw, dict) and set(raw) == {"layer", "site"}:
        layer, site = raw["layer"], raw["site"]
        if isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 and site in SITES:
            return HookPoint(layer, site)
    message = (
        f"got hook_point={_short(raw)}; expected a layer counted from 0 and a site, as in "
        "{'layer': 0, 'site': 'resid_post'}."
    )
    raise SAEFormatError(message)


def _read_labels(path: Path, n_latents: int) -> dict[int, str]:
    if not path.is_file():
        return {}
    labels: dict[int, str] = {}
    for key, value in _read_json(path).items():
        is_number = re.fullmatch(r"0|[1-9][0-9]{0,9}", key) is not None
        if not (is_number and int(key) < n_latents and isinstance(value, str)):
            message = (
                f"got {_short(key)}: {_short(value)}; expected a latent below {n_latents} and a name."
            )
            raise SAEFormatError(message)
        labels[int(key)] = value
    return labels


def _shapes_of(header: SAEHeader) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors that the weights may hold; only ``W_dec`` may be missing."""
    shapes = expected_shapes(header.d_in, header.n_latents)
    if header.architecture != "jumprelu":
        del shapes["threshold"]
    return shapes


def _check_size(nbytes: int, header: SAEHeader) -> None:
    """Raise if a file is too small for what encoding needs: a header alone promises any width."""
    sizes = (math.prod(shape) for name, shape in _shapes_of(header).items() if name != "W_dec")
    needed = sum(sizes) * int(re.sub(r"\D", "", header.dtype)) // 8  # float32 has 32 bits
    if nbytes < needed:
        message = (
            f"got {nbytes} bytes; expected at least {needed} for d_in={header.d_in}, "
            f"n_latents={header.n_latents} in {header.dtype}, as {HEADER} says. Get both files again."
        )
        raise SAEFormatError(message)


def _check_digest(weights: Path, header: SAEHeader) -> None:
    found = _sha256_of(weights)
    if digest_of(header.conventions, found) != header.digest:
        message = (
            f"got a file with SHA-256 {found[:12]}…, which is not what {HEADER} says: it was damaged or "
            "exchanged. Get both files again."
        )
        raise SAEFormatError(message)


def _sha256_of(path: Path) -> str:
    """Return the digest of what is in the file now; no name of a blob in a cache stands for it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _typed(raw: Mapping[str, Any], name: str, kind: type) -> Any:
    value = raw.get(name)
    if type(value) is not kind:
        raise SAEFormatError(f"got {name}={_short(value)}; expected a value of type {kind.__name__}.")
    return value


def _one_of(raw: Mapping[str, Any], name: str, options: tuple[str, ...]) -> str:
    value: str = _typed(raw, name, str)
    if value not in options:
        raise SAEFormatError(expected_one_of(name, value[:60], options))
    return value


def _short(value: object) -> str:
    """Return what is shown of a value in a message, however large it is."""
    return reprlib.repr(value)


def _read_json(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > MAX_HEADER_BYTES:
        raise SAEFormatError(f"got more than {MAX_HEADER_BYTES} bytes.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SAEFormatError(f"could not be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise SAEFormatError(f"got a JSON {type(content).__name__}; expected an object.")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise SAEFormatError(f"{path.name} holds only plain JSON values: {error}") from error
