"""Transcoders of circuit-tracer: one configuration for the files of all blocks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from sae_features import load_sae
from sae_features.errors import SAEFormatError
from sae_features.hook_point import HookPoint

GOLDEN = Path(__file__).parents[1] / "golden" / "transcoder" / "relu" / "files"


@pytest.fixture
def weights(tmp_path):
    """The golden transcoder as that of block 4."""
    shutil.copytree(GOLDEN, tmp_path / "set")
    (file,) = (tmp_path / "set").glob("layer_*.safetensors")
    return file.rename(file.with_name("layer_4.safetensors"))


@pytest.mark.parametrize(
    ("hook", "point"),
    [
        ("mlp.hook_in", HookPoint(4, "mlp_in")),
        ("ln2.hook_normalized", HookPoint(4, "mlp_normalized")),
        ("hook_resid_mid", HookPoint(4, "resid_mid")),
        ("hook_of_another_kind", None),
    ],
)
def test_the_hook_is_of_the_block_that_the_file_is_of(weights, hook, point):
    config = weights.with_name("config.yaml")
    config.write_text(re.sub("(?<=feature_input_hook: ).*", hook, config.read_text()))
    sae = load_sae(weights)
    assert (sae.hook_point, sae.hook_point_out) == (point, HookPoint(4, "mlp_out"))
    assert sae.metadata["hook_name"] == f"blocks.4.{hook}"


def test_without_a_configuration_only_the_output_is_known(weights):
    weights.with_name("config.yaml").unlink()
    sae = load_sae(weights)
    assert (sae.hook_point, sae.hook_point_out) == (None, HookPoint(4, "mlp_out"))
    assert "hook_name" not in sae.metadata


def test_of_topk_transcoders_the_k_largest_are_kept_whatever_their_sign(weights):
    with weights.with_name("config.yaml").open("a") as config:
        config.write("activation: topk\nk: 12\n")
    sae = load_sae(weights)
    assert (sae.architecture, sae.k) == ("topk", 12)
    x = torch.randn(7, sae.d_in, generator=torch.Generator().manual_seed(0))
    expected = x @ sae.W_enc + sae.b_enc
    least = expected.topk(12, dim=1).values[:, -1:]
    torch.testing.assert_close(sae.encode(x), expected.where(expected >= least, torch.zeros(())))
    assert (sae.encode(x) < 0).any()


def test_a_topk_transcoder_says_how_many(weights):
    with weights.with_name("config.yaml").open("a") as config:
        config.write("activation: topk\n")
    with pytest.raises(SAEFormatError, match="config.yaml: "):
        load_sae(weights)
