"""What files and objects agree on: shapes, conventions, metadata, the digest."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from sae_features.errors import SAEFormatError
from sae_features.saes.conventions import (
    ARCHITECTURES,
    check_conventions,
    check_input_norm,
    check_metadata,
    digest_of,
    expected_shapes,
    is_scale,
)
from sae_features.saes.conventions import DECODER_TENSORS as DECODER


def test_shapes_of_each_architecture():
    common = {
        "W_enc": (2, 6), "W_dec": (6, 3), "b_dec": (3,), "latent_scale": (6,), "W_skip": (2, 3),
    }  # fmt: skip
    own = {
        "relu": {"b_enc": (6,)},
        "gated": {"b_gate": (6,), "b_mag": (6,), "r_mag": (6,)},
        "topk": {"b_enc": (6,), "selection_scale": (6,)},
        "groupmax": {"b_enc": (6,)},
        "jumprelu": {"b_enc": (6,), "threshold": (6,)},
    }
    assert set(own) == set(ARCHITECTURES)
    for architecture, shapes in own.items():
        assert expected_shapes(architecture, 2, 6, 3) == common | shapes
    assert set(DECODER) <= set(common)


@pytest.mark.parametrize(
    ("architecture", "k", "n_latents"),
    [
        ("topk", 1, 1), ("topk", 6, 6), ("groupmax", 1, 6), ("groupmax", 3, 6), ("groupmax", 6, 6),
        ("relu", None, 6), ("gated", None, 6), ("jumprelu", None, 6),
    ],
)  # fmt: skip
def test_k_that_fits(architecture, k, n_latents):
    check_conventions(architecture, k, n_latents)


@pytest.mark.parametrize(
    ("architecture", "k", "message"),
    [
        ("topk", None, "Got k=None; expected an integer from 1 to 6 (n_latents)."),
        ("groupmax", 7, "Got k=7; expected an integer from 1 to 6 (n_latents)."),
        ("groupmax", 4, "Got k=4; expected a divisor of n_latents=6 for groupmax."),
        ("topk", True, "Got k=True; expected an integer from 1 to 6 (n_latents)."),
        ("topk", 10**4000, "Got k=1000000000000000"),
        ("gated", 3, "Got k=3 with architecture='gated'; only topk and groupmax have k."),
        ("jumprelu", 0, "Got k=0 with architecture='jumprelu'; only topk and groupmax have k."),
    ],
    ids=lambda value: str(value)[:20],
)
def test_k_that_does_not_fit(architecture, k, message):
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}") as raised:
        check_conventions(architecture, k, 6)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("scale", [1, 0.5, 1e-30, 1e30])
def test_scales(scale):
    assert is_scale(scale)
    check_input_norm("scale", scale, 1)


@pytest.mark.parametrize(
    "scale",
    [0, -1, 0.0, True, "1", None, float("nan"), float("inf"), -float("inf"), 10**400, [1]],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_scale(scale):
    assert not is_scale(scale)
    with pytest.raises(SAEFormatError, match=r"^Got norm_scale="):
        check_input_norm("scale", scale, 4)


@pytest.mark.parametrize(
    ("input_norm", "norm_scale", "d_in", "message"),
    [
        ("rms", None, 4, "Got input_norm='rms'; expected one of none, scale, center, layer_norm, rms_"),
        (None, None, 4, "Got input_norm=None; expected one of none, scale, center, layer_norm, rms_n"),
        ([], None, 4, "Got input_norm=[]; expected one of none, scale, center, layer_norm, rms_norm."),
        (
            "rms_norm", 2.0, 4,
            "Got norm_scale=2.0 with input_norm='rms_norm'; expected a scale with input_norm='scale'",
        ),
        (
            "scale", None, 4,
            "Got norm_scale=None with input_norm='scale'; expected a scale with input_norm='scale', and",
        ),
        ("scale", -2, 4, "Got norm_scale=-2; expected a"),
        ("center", 0.0, 4, "Got norm_scale=0.0; expected a finite number above 0."),
        ("center", None, 1, "Got input_norm='center' with d_in=1; expected at least 2."),
        ("layer_norm", None, 1, "Got input_norm='layer_norm' with d_in=1; expected at least 2."),
    ],
)  # fmt: skip
def test_normalisations_that_cannot_be(input_norm, norm_scale, d_in, message):
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}"):
        check_input_norm(input_norm, norm_scale, d_in)


def test_normalisations_that_can_be():
    for input_norm, d_in in (("none", 1), ("rms_norm", 1), ("layer_norm", 2), ("center", 2)):
        check_input_norm(input_norm, None, d_in)
    check_input_norm("center", 0.5, 2)


def test_metadata_that_are_not_acted_on_are_the_users_own():
    check_metadata({"k": "many", "hook_name": 3, "neuronpedia_id": [], "model": None})
    with pytest.raises(SAEFormatError, match=r"^Got model's id=3 in metadata; expected text\.$"):
        check_metadata({"model": {"id": 3}})


def test_the_digest_is_written_down_once():
    """Files on disks and estimators in pickles hold it: it must not change."""
    conventions = {"k": 3, "architecture": "topk", "subtract_b_dec": True, "topk_relu": True}
    content = json.dumps([dict(sorted(conventions.items())), "ab" * 32])
    assert digest_of(conventions, "ab" * 32) == hashlib.sha256(content.encode()).hexdigest()
    assert digest_of(conventions, "ab" * 32).startswith("59fc58f28f214e0c")
    assert digest_of(dict(reversed(conventions.items())), "ab" * 32) == digest_of(conventions, "ab" * 32)
