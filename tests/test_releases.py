from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import random_sae

from sae_features import load_sae
from sae_features.errors import (
    AssetNotFoundError,
    InvalidParameterError,
    PluginError,
    SAEFormatError,
)
from sae_features.hook_point import HookPoint
from sae_features.releases import FileSAE, RandomSAE, find_sae


class TestFindSAE:
    def test_a_known_id_is_read_without_its_weights(self, tiny_family, monkeypatch):
        monkeypatch.setattr("safetensors.torch.load_file", None)
        sae = find_sae("tiny-sae/layer_1")
        assert isinstance(sae, FileSAE)
        assert (sae.name, sae.source) == ("tiny-sae/layer_1", tiny_family.saes[0])
        assert (sae.n_latents, sae.d_in(32), sae.hook_point) == (48, 32, HookPoint(1, "resid_post"))
        assert sae.metadata["model"]["id"] == "tests/tiny-bert"
        assert len(sae.digest(32)) == 64

    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_folder(self, tiny_sae_folder, kind):
        folder = tiny_sae_folder("relu", n_latents=7)
        sae = find_sae(kind(folder))
        assert (sae.name, sae.n_latents, sae.source) == (str(folder), 7, None)
        assert sae.header.architecture == "relu"

    def test_a_path_is_never_an_id(self, tiny_family):
        with pytest.raises(AssetNotFoundError, match="no file is there"):
            find_sae(Path("tiny-sae/layer_1"))

    def test_an_unknown_id_gets_a_suggestion(self, tiny_family):
        with pytest.raises(AssetNotFoundError) as raised:
            find_sae("tiny-sae/layer_3")
        assert str(raised.value) == (
            "Got sae='tiny-sae/layer_3'; expected one of tiny-sae/layer_1, tiny-sae/layer_2. Did you "
            "mean 'tiny-sae/layer_2'? A file, a folder or 'random:WIDTH:K' will do, too; no file is "
            "there."
        )

    def test_one_id_of_two_families(self, tiny_family, use_families, tiny_sae_folder):
        other = dataclasses.replace(tiny_family, name="other", saes=tiny_family.saes[1:])
        use_families(tiny_family, other)
        with pytest.raises(PluginError) as raised:
            find_sae("tiny-sae/layer_2")
        assert str(raised.value) == (
            "The families tiny-family and other both have an SAE 'tiny-sae/layer_2'; keep one of them."
        )
        assert find_sae("tiny-sae/layer_1").source == tiny_family.saes[0]
        assert find_sae(tiny_sae_folder()).source is None

    def test_without_any_known_sae(self, use_families):
        use_families()
        with pytest.raises(AssetNotFoundError) as raised:
            find_sae("x/y")
        assert str(raised.value) == (
            "Got sae='x/y'. A file, a folder or 'random:WIDTH:K' will do, too; no file is there."
        )

    def test_an_unknown_format(self, tiny_sae_folder):
        with pytest.raises(SAEFormatError, match=r"^Got format='sae-feature'; expected one of"):
            find_sae(tiny_sae_folder(), format="sae-feature")

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(SAEFormatError, match="but none does"):
            find_sae(tmp_path)


class TestRandomSAE:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("random:64:8", (64, 8, 0)),
            ("random:64:8:3", (64, 8, 3)),
            ("random:1:1:0", (1, 1, 0)),
            ("random:16777216:8", (2**24, 8, 0)),
        ],
    )
    def test_sizes_and_seed(self, name, expected):
        sae = find_sae(name)
        assert isinstance(sae, RandomSAE)
        assert (sae.n_latents, sae.k, sae.seed) == expected
        assert (sae.hook_point, sae.d_in(20), sae.d_in(30)) == (None, 20, 30)

    @pytest.mark.parametrize(
        "name",
        [
            "random:",
            "random:64",
            "random:64:0",
            "random:64:65",
            "random:0:0",
            "random:64:8:",
            "random:64:8:-1",
            "random:64:8:1:2",
            "random:64.0:8",
            "random: 64:8",
            "random:9999999999:8",
            "random:16777217:8",
        ],
    )
    def test_what_cannot_be(self, name):
        with pytest.raises(InvalidParameterError) as raised:
            find_sae(name)
        assert str(raised.value) == (
            f"Got sae={name!r}; expected 'random:WIDTH:K' or 'random:WIDTH:K:SEED', "
            "1 <= K <= WIDTH <= 16777216."
        )

    def test_it_is_what_its_digest_says(self):
        found = find_sae("random:64:8:3")
        sae = found.load(20, "cpu")
        assert (sae.d_in, sae.n_latents, sae.k) == (20, 64, 8)
        assert sae.digest == found.digest(20) == "random:64:8:3:20"
        torch.testing.assert_close(sae.W_enc.norm(dim=0), torch.ones(64))
        assert torch.equal(sae.W_enc, find_sae("random:64:8:3").load(20, "cpu").W_enc)
        assert not torch.equal(sae.W_enc, find_sae("random:64:8:4").load(20, "cpu").W_enc)


class TestLoadSAE:
    @pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
    def test_it_encodes_as_the_saved_one(self, tiny_sae_folder, architecture):
        saved = random_sae(architecture)
        sae = load_sae(tiny_sae_folder(architecture))
        x = torch.randn(5, 32)
        assert torch.equal(sae.encode(x), saved.encode(x))
        assert torch.equal(sae.reconstruct(x), saved.reconstruct(x))
        assert (sae.hook_point, sae.dtype) == (HookPoint(1), torch.float32)

    def test_by_id_in_another_type_without_decoder(self, tiny_family):
        sae = load_sae("tiny-sae/layer_2", dtype="float64", decoder=False)
        assert (sae.dtype, sae.W_dec, sae.architecture) == (torch.float64, None, "relu")

    def test_what_it_was_found_as_and_what_is_loaded_are_one(self, tiny_family):
        found = find_sae("tiny-sae/layer_1")
        assert found.load(32, "cpu").digest == found.digest(32) == load_sae("tiny-sae/layer_1").digest

    def test_a_random_one_needs_a_model(self):
        with pytest.raises(InvalidParameterError) as raised:
            load_sae("random:64:8")
        assert str(raised.value) == (
            "Got sae='random:64:8', whose size depends on a model; use it in SAEFeaturizer."
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"dtype": "int8"},
                "^Got dtype='int8'; expected one of float32, bfloat16, float16, float64",
            ),
            ({"device": "gpu"}, "^Got device='gpu', which torch cannot use here: "),
            ({"k": 3}, "^Got k=3; the files of format 'sae-features' say all of it already"),
        ],
    )
    def test_arguments_that_cannot_be(self, tiny_sae_folder, options, message):
        with pytest.raises(InvalidParameterError, match=message):
            load_sae(tiny_sae_folder(), **options)
