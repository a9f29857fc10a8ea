"""SAEs of every format, as their own libraries wrote them, give what these libraries computed.

``scripts/make_golden_saes.py`` made the files; ``about.json`` beside each says with what.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_features import SAEFeaturesWarning, load_sae
from sae_features.cli import main
from sae_features.saes.formats import find_format

GOLDEN = Path(__file__).parents[1] / "golden"
LOST = GOLDEN / "overcomplete" / "batch_topk"  # its threshold is in no file
CASES = sorted(path.parent for path in GOLDEN.glob("*/*/about.json") if path.parent != LOST)
RELATIVE = 1e-5


def about(case):
    return json.loads((case / "about.json").read_text())


def place_of(case):
    return case / "files" / about(case)["path"]


def loaded(case, **arguments):
    told = about(case)
    with warnings.catch_warnings():
        if told["warns"]:
            warnings.simplefilter("ignore", SAEFeaturesWarning)
        return load_sae(place_of(case), **told["arguments"], **arguments)


def assert_close(got, expected):
    atol = RELATIVE * float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=RELATIVE, atol=atol)


def test_every_format_is_there():
    assert {case.parent.name for case in CASES} >= {
        "dictionary_learning", "gemma_scope", "gemma_scope_2", "goodfire", "hook_z", "linear",
        "llama_scope", "llama_scope_r1", "openai", "overcomplete", "prisma", "qwen_scope", "saelens",
        "saev", "sparsify", "transcoder",
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
class TestGolden:
    def test_format_is_detected(self, case):
        assert find_format(place_of(case))[0] == about(case)["format"]

    def test_numbers(self, case):
        told, expected = about(case), load_file(case / "expected.safetensors")
        sae = loaded(case)
        assert sae.architecture == told["architecture"]
        assert (sae.d_in, sae.d_out, sae.n_latents) == (told["d_in"], told["d_out"], told["n_latents"])
        latents = sae.encode(expected["x"])
        assert_close(latents, expected["latents"])
        assert torch.equal(latents != 0, expected["latents"] != 0)
        if told.get("decoder", True):
            assert_close(sae.reconstruct(expected["x"]), expected["reconstruction"])

    def test_encode_sparse_and_encoder_only(self, case):
        x = load_file(case / "expected.safetensors")["x"]
        sae = loaded(case, decoder=False)
        assert sae.W_dec is None
        dense = loaded(case).encode(x)
        assert torch.equal(sae.encode(x), dense)
        found = sae.encode_sparse(x)
        rows = torch.repeat_interleave(torch.arange(len(x)), found.counts)
        rebuilt = torch.zeros_like(dense)
        rebuilt[rows, found.indices] = found.values
        assert torch.equal(rebuilt, dense)

    def test_warning_where_files_are_silent(self, case):
        told = about(case)
        if told["warns"] or {"norm_scale", "format"} & set(told["arguments"]):
            with pytest.warns(SAEFeaturesWarning, match="Give (k|norm_scale|format)="):
                load_sae(place_of(case))
        if told["arguments"] or not told["warns"]:
            load_sae(place_of(case), **told["arguments"])  # warnings are errors

    def test_round_trip_through_our_own_format(self, case, tmp_path):
        x = load_file(case / "expected.safetensors")["x"]
        sae = loaded(case)
        again = load_sae(sae.save(tmp_path / "sae"))
        written, read = dict(sae.tensors()), dict(again.tensors())
        assert written.keys() == read.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in written.items())
        assert again.conventions() == sae.conventions()
        assert (again.hook_point, again.metadata) == (sae.hook_point, sae.metadata)
        # A product's last bit may depend on how a matrix lies in memory, which files do not keep.
        laid = dataclasses.replace(
            sae, **{name: tensor.contiguous() for name, tensor in written.items()}
        )
        assert torch.equal(again.encode(x), laid.encode(x))
        if told_decoder(case):
            assert torch.equal(again.reconstruct(x), laid.reconstruct(x))

    def test_inspect(self, case, capsys):
        told = about(case)
        given = told["arguments"].items()
        options = [f"--{name.replace('_', '-')}={value}" for name, value in given]
        assert main(["inspect", str(place_of(case)), "--json", *options]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["format"] == told["format"]
        assert shown["architecture"] == told["architecture"]
        assert (shown["d_in"], shown["n_latents"]) == (told["d_in"], told["n_latents"])


def test_the_advice_for_a_threshold_that_is_lost():
    expected = load_file(LOST / "expected.safetensors")
    with pytest.warns(SAEFeaturesWarning, match="architecture='jumprelu', threshold="):
        sae = load_sae(place_of(LOST))
    threshold = torch.full((sae.n_latents,), about(LOST)["arguments"]["threshold"])
    sae = dataclasses.replace(sae, architecture="jumprelu", threshold=threshold)
    assert_close(sae.encode(expected["x"]), expected["latents"])
    assert_close(sae.reconstruct(expected["x"]), expected["reconstruction"])


def told_decoder(case):
    return about(case).get("decoder", True)
