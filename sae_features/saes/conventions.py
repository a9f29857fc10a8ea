"""What the files and the object of an SAE agree on, as plain values: nothing here needs torch."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from sae_features.errors import SAEFormatError

Architecture = Literal["relu", "topk", "jumprelu"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


def expected_shapes(d_in: int, n_latents: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of an SAE by its name."""
    return {
        "W_enc": (d_in, n_latents),
        "b_enc": (n_latents,),
        "W_dec": (n_latents, d_in),
        "b_dec": (d_in,),
        "threshold": (n_latents,),
    }


def check_conventions(architecture: str, k: object, n_latents: int) -> None:
    """Raise SAEFormatError where ``k`` does not fit the architecture and the width."""
    got = f"Got k={reprlib.repr(k)}"
    if architecture != "topk":
        if k is not None:
            raise SAEFormatError(f"{got} with architecture={architecture!r}; only topk has k.")
        return
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= n_latents:
        raise SAEFormatError(f"{got}; expected an integer from 1 to {n_latents} (n_latents).")


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
