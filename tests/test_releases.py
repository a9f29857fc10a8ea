from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import random_sae

from sae_features import load_sae, releases
from sae_features.errors import (
    AssetNotFoundError,
    InvalidParameterError,
    PluginError,
    SAEFormatError,
)
from sae_features.hook_point import HookPoint
from sae_features.releases import FileSAE, RandomSAE, find_sae
from sae_features.sae_sources import SAESource


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
        with pytest.raises(AssetNotFoundError, match=r"nothing is there\."):
            find_sae(Path("tiny-sae/layer_1"))

    def test_an_unknown_id_gets_a_suggestion(self, tiny_family):
        with pytest.raises(AssetNotFoundError) as raised:
            find_sae("tiny-sae/layer_3")
        assert str(raised.value).startswith(
            "Got sae='tiny-sae/layer_3'; expected the id of an SAE (`sae-features saes` lists them), a "
            "file, a folder, or 'random:WIDTH:K'; nothing is there. Did you mean 'tiny-sae/layer_"
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

    def test_plugins_that_may_know_it_are_named(self, tiny_family, monkeypatch):
        monkeypatch.setattr(
            releases, "missing_plugins", lambda: ["sae-features-gpt", "sae-features-qwen"]
        )
        with pytest.raises(AssetNotFoundError) as raised:
            find_sae("zzz/zzz")
        assert str(raised.value).endswith(
            "; nothing is there. SAEs of a model come with the plugin of its family; not installed: "
            "sae-features-gpt, sae-features-qwen."
        )

    def test_without_any_known_sae(self, use_families):
        use_families()
        with pytest.raises(AssetNotFoundError) as raised:
            find_sae("x/y")
        assert str(raised.value).startswith(
            "Got sae='x/y'; expected the id of an SAE (`sae-features saes` lists them), a file, a "
            "folder, or 'random:WIDTH:K'; nothing is there."
        )

    def test_an_unknown_format(self, tiny_sae_folder):
        with pytest.raises(SAEFormatError, match=r"^Got format='sae-feature'; expected one of"):
            find_sae(tiny_sae_folder(), format="sae-feature")

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(SAEFormatError, match="got no file of weights"):
            find_sae(tmp_path)


GOLDEN = Path(__file__).parent / "golden"


class TestWhatIsKnownBesides:
    """What a release says of an SAE counts where its files are silent, and only there."""

    @pytest.fixture
    def known(self, monkeypatch, tmp_path):
        """An SAE of another library, in an installed package; arguments are what is known of it."""

        def find(case, given=(), **facts):
            root = tmp_path / f"case-{sum(1 for _ in tmp_path.iterdir())}"
            package = root / "golden_package"
            shutil.copytree(GOLDEN / case / "files", package / "sae")
            place = Path(json.loads((GOLDEN / case / "about.json").read_text())["path"])
            place = place if (package / "sae" / place).is_dir() else place.parent
            monkeypatch.syspath_prepend(root)
            options = {"model": "owner/name", "layer": None, "site": None, **facts}
            source = SAESource(
                "release/sae", package="golden_package", package_path=f"sae/{place}", **options
            )
            monkeypatch.setattr(releases, "known_sae", {"release/sae": source}.get)
            return find_sae("release/sae", **dict(given))

        return find

    def test_hook_point_model_and_page(self, known):
        found = known(
            "saelens/old_normalize_false",
            model="owner/other",
            layer=9,
            site="mlp_out",
            facts={"neuronpedia": "gpt2-small/6-res-jb", "context_size": 64, "prepend_bos": False},
        )
        stated = found.header.metadata
        assert found.hook_point == (found.header.hook_point or HookPoint(9, "mlp_out"))
        assert found.metadata == {
            "model": "owner/other", "neuronpedia_id": "gpt2-small/6-res-jb", "max_length": 64,
            "prepend_bos": False, **stated,
        }  # fmt: skip
        sae = load_sae("release/sae")
        assert (sae.hook_point, sae.metadata) == (found.hook_point, found.metadata)
        assert sae.digest == found.digest(0) == load_sae(found.header.path).digest

    def test_a_silent_file_reads_where_the_release_says(self, known):
        found = known("gemma_scope/residual", layer=9, site="mlp_out", hook="blocks.9.hook_mlp_out")
        assert found.header.hook_point is None
        assert found.hook_point == HookPoint(9, "mlp_out")
        assert found.metadata["hook_name"] == "blocks.9.hook_mlp_out"
        assert load_sae("release/sae").hook_point == HookPoint(9, "mlp_out")

    def test_without_a_site_there_is_no_hook_point(self, known):
        assert known("gemma_scope/residual", layer=9, site=None).hook_point is None
        assert known("gemma_scope/residual", layer=None, site="mlp_out").hook_point is None

    def test_k_of_the_release_and_of_the_caller(self, known):
        assert known("qwen_scope/topk_k_given", k=3).header.conventions["k"] == 3
        assert load_sae("release/sae").k == 3
        assert known("qwen_scope/topk_k_given", {"k": 2}, k=3).header.conventions["k"] == 2
        assert load_sae("release/sae", k=2).k == 2

    def test_norm_scale_of_the_release_and_of_the_caller(self, known):
        case = "saelens/jumprelu_expected_average"
        assert known(case, norm_scale=0.5).header.conventions["norm_scale"] == 0.5
        assert load_sae("release/sae").norm_scale == 0.5
        assert load_sae("release/sae", norm_scale=0.25).norm_scale == 0.25

    def test_what_the_files_say_counts_more_than_the_release(self, known):
        assert known("sparsify/topk", k=3).header.conventions["k"] == 5
        assert load_sae("release/sae").k == 5

    @pytest.mark.parametrize("case", ["gemma_scope/residual", "saelens/standard"])
    def test_an_sae_of_centred_activations_centres_them(self, known, case):
        found = known(case, facts={"centred": True})
        sae, plain = load_sae("release/sae"), load_sae(found.header.path)
        assert found.header.conventions["input_norm"] == sae.input_norm == "center"
        assert (plain.input_norm, found.warnings) == ("none", ())
        x = torch.randn(9, sae.d_in, generator=torch.Generator().manual_seed(0)) + 3
        mean = x.mean(dim=-1, keepdim=True)
        assert torch.equal(sae.encode(x), plain.encode(x - mean))
        assert not torch.equal(sae.encode(x), plain.encode(x))
        torch.testing.assert_close(sae.reconstruct(x), plain.reconstruct(x - mean) + mean)
        assert sae.digest == found.digest(0) != plain.digest
        assert load_sae("release/sae", decoder=False, dtype="float64").digest == sae.digest

    def test_centred_activations_may_be_scaled(self, known):
        known("saelens/standard_expected_average", norm_scale=0.5, facts={"centred": True})
        sae = load_sae("release/sae")
        assert (sae.input_norm, sae.norm_scale) == ("center", 0.5)
        plain = dataclasses.replace(sae, input_norm="none", norm_scale=None)
        x = torch.randn(9, sae.d_in, generator=torch.Generator().manual_seed(0)) + 3
        mean = x.mean(dim=-1, keepdim=True)
        torch.testing.assert_close(sae.encode(x), plain.encode((x - mean) * 0.5))
        torch.testing.assert_close(sae.reconstruct(x), plain.reconstruct((x - mean) * 0.5) * 2 + mean)

    def test_that_it_was_centred_is_no_news_where_it_is_done(self, known):
        facts = {"config_overrides": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}}
        (warning,) = known("saelens/old_normalize_false", facts=facts).warnings
        assert "that TransformerLens had changed (center_writing_weights)" in warning
        assert known("saelens/old_normalize_false", facts=facts | {"centred": True}).warnings == ()

    @pytest.mark.parametrize(
        ("case", "got"),
        [
            ("saelens/standard_layer_norm", "input_norm='layer_norm'"),
            ("saelens/standard_constant_norm", "input_norm='rms_norm'"),
            ("saelens/skip_transcoder", "a transcoder"),
            ("sparsify/transcoder", "a transcoder"),
        ],
    )
    def test_what_cannot_be_centred_besides_is_refused(self, known, case, got):
        message = (
            rf": got {got} of a release that says that it reads centred activations; expected an SAE "
            "without a normalisation of each input"
        )
        with pytest.raises(SAEFormatError, match=message):
            known(case, facts={"centred": True})

    def test_a_format_that_does_not_centre_is_refused(self, monkeypatch, tiny_family):
        source = dataclasses.replace(tiny_family.saes[0], facts={"centred": True})
        monkeypatch.setattr(releases, "known_sae", {"release/sae": source}.get)
        message = (
            "^The release of 'tiny-sae/layer_1' says that it reads centred activations, which the "
            "format 'sae-features' does not know of; expected files that say it themselves.$"
        )
        with pytest.raises(SAEFormatError, match=message):
            find_sae("release/sae")


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
    @pytest.mark.parametrize("architecture", ["relu", "gated", "topk", "groupmax", "jumprelu"])
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
