"""What the files and the object of an SAE agree on, as plain values: nothing here needs torch."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from sae_features.errors import SAEFormatError, expected_one_of
from sae_features.parameters import MAX_FLOAT32

Architecture = Literal["relu", "gated", "topk", "groupmax", "jumprelu"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
WITH_K = ("topk", "groupmax")

InputNorm = Literal["none", "scale", "center", "layer_norm", "rms_norm"]
INPUT_NORMS: tuple[InputNorm, ...] = get_args(InputNorm)
WITH_SCALE = ("scale", "center")
"""Normalisations that may have a scale; only "scale" must."""

DECODER_TENSORS = ("W_dec", "W_skip", "latent_scale")
"""Tensors that encoding does not need; an SAE may lack them."""
OPTIONAL_TENSORS = (*DECODER_TENSORS, "selection_scale")
"""Tensors that an SAE may lack."""


def expected_shapes(
    architecture: str, d_in: int, n_latents: int, d_out: int
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that an SAE may have, by its name.

    Parameters
    ----------
    architecture : str
        One of :data:`ARCHITECTURES`.
    d_in, n_latents, d_out : int
        Sizes; ``d_out`` differs from ``d_in`` only in transcoders.
    """
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, n_latents)}
    vectors = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    shapes |= dict.fromkeys(vectors, (n_latents,))
    shapes |= {"W_dec": (n_latents, d_out), "b_dec": (d_out,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (n_latents,)
    if architecture == "topk":
        shapes["selection_scale"] = (n_latents,)
    return shapes | {"latent_scale": (n_latents,), "W_skip": (d_in, d_out)}


def check_conventions(architecture: str, k: object, n_latents: int) -> None:
    """Raise SAEFormatError where ``k`` does not fit the architecture and the width."""
    got = f"Got k={reprlib.repr(k)}"
    if architecture not in WITH_K:
        if k is not None:
            raise SAEFormatError(
                f"{got} with architecture={architecture!r}; only {' and '.join(WITH_K)} have k."
            )
        return
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= n_latents:
        raise SAEFormatError(f"{got}; expected an integer from 1 to {n_latents} (n_latents).")
    if architecture == "groupmax" and n_latents % k:
        raise SAEFormatError(f"{got}; expected a divisor of n_latents={n_latents} for groupmax.")


def check_input_norm(input_norm: object, norm_scale: object, d_in: int) -> None:
    """Raise SAEFormatError where the normalisation of inputs cannot be."""
    if input_norm not in INPUT_NORMS:
        raise SAEFormatError(expected_one_of("input_norm", input_norm, INPUT_NORMS))
    is_missing = norm_scale is None and input_norm == "scale"
    if is_missing or (norm_scale is not None and input_norm not in WITH_SCALE):
        message = (
            f"Got norm_scale={reprlib.repr(norm_scale)} with input_norm={input_norm!r}; expected a "
            "scale with input_norm='scale', and else only with 'center'."
        )
        raise SAEFormatError(message)
    if norm_scale is not None and not is_scale(norm_scale):
        message = f"Got norm_scale={reprlib.repr(norm_scale)}; expected a finite number above 0."
        raise SAEFormatError(message)
    if input_norm in ("layer_norm", "center") and d_in < 2:
        raise SAEFormatError(f"Got input_norm={input_norm!r} with d_in=1; expected at least 2.")


def is_scale(value: object) -> bool:
    """Tell whether a value can be a scale of inputs: a number above 0 that float32 holds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 2.0**-126 <= value <= MAX_FLOAT32


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise SAEFormatError where metadata that are acted on cannot be; the rest is the user's own.

    Parameters
    ----------
    metadata : mapping
        ``model`` may be a name, or a mapping with ``id`` and ``revision`` (str) and ``digest``
        (64 hex digits); ``max_length`` an integer above 0; ``prepend_bos`` a bool.  Each may be
        None or missing.
    """
    model = metadata.get("model")
    if isinstance(model, Mapping):
        for part in ("id", "revision"):
            value = model.get(part)
            _expect(f"model's {part}", value, isinstance(value, str), "text")
        digest = model.get("digest")
        is_digest = isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) is not None
        _expect("model's digest", digest, is_digest, "64 hex digits")
    else:
        expected = "its name, or an object with id, revision and digest"
        _expect("model", model, isinstance(model, str), expected)
    length = metadata.get("max_length")
    is_length = isinstance(length, int) and not isinstance(length, bool) and length >= 1
    _expect("max_length", length, is_length, "an integer above 0")
    prepend_bos = metadata.get("prepend_bos")
    _expect("prepend_bos", prepend_bos, isinstance(prepend_bos, bool), "true or false")


def digest_of(conventions: Mapping[str, Any], weights_sha256: str) -> str:
    """Return the digest of an SAE from its conventions and the digest of its weights."""
    content = json.dumps([dict(conventions), weights_sha256], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _expect(name: str, value: object, is_right: bool, expected: str) -> None:  # noqa: FBT001
    if value is not None and not is_right:
        raise SAEFormatError(f"Got {name}={reprlib.repr(value)} in metadata; expected {expected}.")
