"""Mutators of bytes, and of tensors in files that are otherwise as they should be."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from saes.fuzzing.samples import ANY_SAE, REFUSAL, SAME, VALUES, Case, with_weights


def _data_places(sample):
    """Return where numbers stand in a file: a change there is one of weights."""
    raw = sample.files[sample.weights]
    if sample.suffix == ".safetensors":
        return [range(8 + int.from_bytes(raw[:8], "little"), len(raw))]
    if sample.suffix == ".npz":
        return []  # all of it has a checksum, that is compared
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        places = []
        for info in archive.infolist():
            if "/data/" in info.filename:
                name_size, extra_size = struct.unpack_from("<2H", raw, info.header_offset + 26)
                start = info.header_offset + 30 + name_size + extra_size
                places.append(range(start, start + info.file_size))
        return places


def flip_bytes(rng, sample):
    raw = bytearray(sample.files[sample.weights])
    data = _data_places(sample)
    allowed = SAME
    first = len(sample.first_line)
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = (
            rng.randrange(first, len(raw))
            if rng.random() < 0.3
            else _header_place(rng, raw, data, first)
        )
        raw[place] ^= rng.randrange(1, 256)
        if any(place in part for part in data) and sample.format != "sae-features":
            allowed = VALUES
    return with_weights(sample, "bytes flipped", bytes(raw), allowed)


def _header_place(rng, raw, data, first):
    places = [place for place in range(first, len(raw)) if not any(place in part for part in data)]
    return rng.choice(places)


def truncate(rng, sample):
    raw = sample.files[sample.weights]
    return with_weights(sample, "truncated", raw[: rng.randrange(len(raw))], REFUSAL)


def append_bytes(rng, sample):
    raw = sample.files[sample.weights]
    more = rng.choice([b"\0", b"PK\5\6" + b"\0" * 18, bytes([rng.randrange(256)]) * 100, raw])
    return with_weights(sample, "bytes appended", raw + more if rng.random() < 0.7 else more + raw)


def swap_files(rng, sample, samples=()):
    other = rng.choice([other for other in samples if other.suffix == sample.suffix] or [sample])
    allowed = SAME if other.tensors.keys() != sample.tensors.keys() else VALUES
    alike = {name.removeprefix("activation_function.") for name in other.tensors} == {
        name.removeprefix("activation_function.") for name in sample.tensors
    }
    alike = alike or sample.format == other.format == "llama_scope_r1"  # of an old and a new version
    allowed = VALUES if alike else allowed
    allowed = ANY_SAE if sample.config is None and not sample.first_line else allowed
    content = other.files[other.weights]
    return replace(with_weights(sample, f"weights of {other.name}", content, allowed), other=other)


def other_suffix(rng, sample):
    name = str(
        Path(sample.weights).with_suffix(
            rng.choice([".safetensors", ".npz", ".pt", ".pth", ".pkl", ".bin"])
        )
    )
    files = {key: value for key, value in sample.files.items() if key != sample.weights}
    place = name if sample.place == sample.weights else sample.place
    return Case(sample, "other suffix", {**files, name: sample.files[sample.weights]}, SAME, place)


DECODERS = {
    "W_dec",
    "w_dec",
    "W_D",
    "decoder.weight",
    "decoder_linear.weight",
    "decoder.linear.weight",
    "dictionary._weights",
    "dictionary.multiplier",
    "W_skip",
    "affine_skip_connection",
    "scaling_factor",
    "finetuning_scaling_factor",
}
"""Tensors that are not read where only encoding is asked for."""


def inject_nonfinite(rng, sample):
    name = rng.choice([name for name in sample.used if sample.tensors[name].is_floating_point()])
    value = rng.choice([math.nan, math.inf, -math.inf])
    tensor = sample.tensors[name].clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[rng.randrange(tensor.numel())] = value
    content = sample.written({**sample.tensors, name: tensor})
    return with_weights(sample, f"{value} in {name}", content, REFUSAL, only_decoder=name in DECODERS)


def change_dtype(rng, sample):
    kinds = ["int8", "int32", "int64", "bool", "uint8", "complex64", "float64"]
    if sample.suffix != ".npz":
        kinds += ["complex32", "float8_e4m3fn"]
    if sample.suffix == ".safetensors":
        kinds = [kind for kind in kinds if kind != "complex32"]
    kind = rng.choice(kinds)
    name = rng.choice(sorted(sample.tensors))
    with warnings.catch_warnings(action="ignore"):
        tensors = {**sample.tensors, name: sample.tensors[name].to(getattr(torch, kind))}
    free = name in sample.unused or kind == "float64" or not sample.tensors[name].is_floating_point()
    return with_weights(sample, f"{name} as {kind}", sample.written(tensors), SAME if free else REFUSAL)


OPTIONAL = {"dictionary.multiplier", "scaling_factor", "finetuning_scaling_factor"}
"""Tensors without which a file is one of another SAE."""


def drop_tensor(rng, sample):
    name = rng.choice(sorted(sample.tensors))
    tensors = {key: value for key, value in sample.tensors.items() if key != name}
    return with_weights(
        sample, f"{name} missing", sample.written(tensors), VALUES if name in OPTIONAL else SAME
    )


def rename_tensor(rng, sample):
    name = rng.choice(sorted(sample.tensors))
    new = rng.choice(
        [name.upper(), f"{name}_", f" {name}", "threshold", "W_skip", "k", name[:-1], f"../{name}", ""]
    )
    new = f"{new}x" if new in sample.tensors else new
    if sample.suffix == ".npz":
        new = new.replace("/", "|") or "x"
    tensors = {new if key == name else key: value for key, value in sample.tensors.items()}
    return with_weights(sample, f"{name} renamed {new}", sample.written(tensors))


def add_tensor(rng, sample):
    new = rng.choice(
        ["extra", "threshold", "W_skip", "b_gate", "k", "scaling_factor", "b_dec_out", "log_threshold"]
    )
    like = sample.tensors[rng.choice(sorted(sample.tensors))]
    tensors = {**sample.tensors, **({} if new in sample.tensors else {new: like.clone() + 1})}
    makes_another = new == "scaling_factor" or sample.format == "transcoder"
    return with_weights(
        sample, f"{new} added", sample.written(tensors), VALUES if makes_another else SAME
    )


def reshape_tensor(rng, sample):
    name = rng.choice([name for name in sample.used if sample.tensors[name].ndim] or sample.used)
    tensor = sample.tensors[name]
    options = [
        tensor[None],
        tensor[..., None],
        tensor.reshape(-1),
        tensor[:-1],
        tensor[:1],
        tensor[:0],
        tensor.mT if tensor.ndim == 2 else tensor[:2],
    ]
    options += [torch.cat([tensor, tensor[:1]]), tensor.flatten()[0]]
    shaped = rng.choice([option for option in options if option.shape != tensor.shape])
    tensors = {**sample.tensors, name: shaped.contiguous().clone()}
    is_free = name in ("W_enc", "w_enc") and sample.format in (
        "gemma_scope_2",
        "transcoder",
    )  # of another width
    return with_weights(
        sample,
        f"{name} of shape {tuple(shaped.shape)}",
        sample.written(tensors),
        ANY_SAE if is_free else REFUSAL,
    )


def share_storage(rng, sample):
    """Tensors that are not contiguous: a checkpoint may hold them, and they are right."""
    name = rng.choice(sample.used)
    tensor = sample.tensors[name]
    padded = torch.zeros(*tensor.shape, 3, dtype=tensor.dtype)
    padded[..., 1] = tensor
    tensors = {**sample.tensors, name: padded[..., 1]}
    return with_weights(sample, f"{name} strided", sample.written(tensors))
