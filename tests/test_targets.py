from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import BERT, RELEASE_TABLES, SITES_OF_BERT, XLMR, edit_json, random_sae

from sae_features.architectures import Architecture, Text
from sae_features.errors import AssetNotFoundError, InvalidParameterError
from sae_features.families import ModelFamily, ModelSource, SAESource
from sae_features.hook_point import HookPoint
from sae_features.releases import RandomSAE
from sae_features.targets import Request, resolve_sae, resolve_target
from sae_features.testing import write_tiny


@pytest.fixture(autouse=True)
def _tiny_is_the_default(tiny_family, monkeypatch):
    monkeypatch.setattr("sae_features.targets.DEFAULT_MODEL", "tiny")


def resolve(*, with_sae=True, **parts):
    target = resolve_target(Request(**parts), with_sae=with_sae)
    return target.model.name, *target.point, target.sae and target.sae.name


def error_of(*, with_sae=True, kind=InvalidParameterError, **parts):
    with pytest.raises(kind) as raised:
        resolve_target(Request(**parts), with_sae=with_sae)
    return str(raised.value)


class TestFilling:
    """What is not given comes from what is."""

    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ({}, ("tiny", 1, "resid_post", "tiny-sae/layer_1")),
            ({"model": "tiny"}, ("tiny", 1, "resid_post", "tiny-sae/layer_1")),
            ({"layer": 2}, ("tiny", 2, "resid_post", "tiny-sae/layer_2")),
            ({"layer": -1}, ("tiny", 2, "resid_post", "tiny-sae/layer_2")),
            ({"layer": -2}, ("tiny", 1, "resid_post", "tiny-sae/layer_1")),
            ({"model": "tiny", "layer": 2}, ("tiny", 2, "resid_post", "tiny-sae/layer_2")),
            ({"site": "resid_post"}, ("tiny", 1, "resid_post", "tiny-sae/layer_1")),
            ({"sae": "tiny-sae/layer_2"}, ("tiny", 2, "resid_post", "tiny-sae/layer_2")),
            (
                {"model": "tiny", "layer": 2, "site": "resid_post", "sae": "tiny-sae/layer_2"},
                ("tiny", 2, "resid_post", "tiny-sae/layer_2"),
            ),
            ({"layer": -1, "sae": "tiny-sae/layer_2"}, ("tiny", 2, "resid_post", "tiny-sae/layer_2")),
        ],
    )
    def test_with_an_sae(self, parts, expected):
        assert resolve(**parts) == expected

    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ({}, ("tiny", 1, "resid_post", None)),
            ({"model": "tiny"}, ("tiny", 1, "resid_post", None)),
            ({"layer": 0}, ("tiny", 0, "resid_post", None)),
            ({"layer": -3}, ("tiny", 0, "resid_post", None)),
            ({"site": "resid_pre"}, ("tiny", 1, "resid_pre", None)),
            ({"model": "tiny-xlmr", "layer": -1}, ("tiny-xlmr", 2, "resid_post", None)),
        ],
    )
    def test_without_an_sae(self, parts, expected):
        assert resolve(with_sae=False, **parts) == expected

    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ({}, ("tiny", 1, "resid_post")),
            ({"layer": 0}, ("tiny", 0, "resid_post")),
            ({"site": "resid_pre"}, ("tiny", 1, "resid_pre")),
            ({"model": "tiny-xlmr", "layer": -1}, ("tiny-xlmr", 2, "resid_post")),
        ],
    )
    def test_the_random_control_fits_everywhere(self, parts, expected):
        target = resolve_target(Request(sae="random:64:8:3", **parts), with_sae=True)
        assert (target.model.name, *target.point) == expected
        assert target.sae == RandomSAE("random:64:8:3", 64, 8, 3)

    @pytest.mark.parametrize("name", ["tests/tiny-bert", f"tests/tiny-bert@{'a' * 40}"])
    def test_the_repository_of_an_alias_has_its_saes(self, name):
        assert resolve(model=name) == (name, 1, "resid_post", "tiny-sae/layer_1")

    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_local_copy_of_a_known_model_has_its_saes(self, tiny_bert, tmp_path, kind):
        copy = shutil.copytree(tiny_bert, tmp_path / "copy")
        expected = (str(copy), 1, "resid_post", "tiny-sae/layer_1")
        assert resolve(model=kind(copy)) == expected
        assert resolve(model=kind(copy), layer=-1)[1:] == (2, "resid_post", "tiny-sae/layer_2")
        assert resolve(model=kind(copy), with_sae=False)[1:] == (1, "resid_post", None)

    def test_the_model_that_an_sae_in_a_folder_records(self, tiny_sae_folder, tiny_bert):
        folder = tiny_sae_folder(point=HookPoint(0, "resid_pre"))
        assert resolve(sae=folder) == (str(tiny_bert), 0, "resid_pre", str(folder))

    def test_a_model_recorded_by_repository_and_revision(self, tiny_sae_folder):
        record = {"id": "tests/tiny-bert", "revision": "a" * 40}
        folder = tiny_sae_folder(metadata={"model": record})
        assert resolve(sae=folder)[0] == f"tests/tiny-bert@{'a' * 40}"

    def test_a_model_recorded_by_its_name_alone(self, tiny_sae_folder):
        assert resolve(sae=tiny_sae_folder(metadata={"model": "tiny"}))[:2] == ("tiny", 1)

    def test_an_sae_without_hook_point_reads_where_one_says(self, tiny_sae_folder):
        folder = tiny_sae_folder(point=None)
        assert resolve(sae=folder, model="tiny", layer=0)[1:3] == (0, "resid_post")
        at = {"layer": 2, "site": "resid_pre"}
        assert resolve(sae=folder, model="tiny", **at)[1:3] == (2, "resid_pre")

    def test_an_sae_without_hook_point_is_not_guessed_at(self, tiny_sae_folder):
        folder = tiny_sae_folder(point=None)
        assert error_of(sae=folder, model="tiny") == (
            f"The SAE {str(folder)!r} does not say which layer it reads; give layer=0 to 2."
        )

    def test_an_sae_without_a_model_takes_the_one_given(self, tiny_sae_folder):
        folder = tiny_sae_folder(metadata={})
        assert resolve(sae=folder, model="tiny-xlmr")[:2] == ("tiny-xlmr", 1)

    def test_a_transcoder_of_sparsify_reads_what_its_module_takes(self, tmp_path):
        transcoder = replace(random_sae(point=None), subtract_b_dec=False)
        folder = transcoder.save(tmp_path / "layer.1.intermediate", format="sparsify")
        edit_json(folder / "cfg.json", sae_features=None)
        assert resolve(sae=folder, model="tiny")[1:3] == (1, "resid_mid")  # of BERT the same as mlp_in
        unknown = folder.rename(tmp_path / "layer.1.crossattention")
        assert error_of(sae=unknown, model="tiny", layer=1).startswith(
            f"The SAE {str(unknown)!r} reads 'layer.1.crossattention.input', which no site stands for "
            "in every model. Give the place that it reads as site=, one of resid_pre, "
        )

    def test_of_several_saes_at_a_layer_the_first_is_taken(self, tiny_family, use_families):
        use_families(_with_saes(tiny_family, ("first", 2, False), ("second", 2, False)))
        assert resolve(layer=2)[3] == "first"


class TestContradictions:
    """An error says both."""

    def test_layer_and_sae(self):
        assert error_of(layer=1, sae="tiny-sae/layer_2") == (
            "Got layer=1, but the SAE 'tiny-sae/layer_2' reads layer 2; leave one of them out."
        )
        assert error_of(layer=-2, sae="tiny-sae/layer_2").startswith("Got layer=-2, but the SAE")

    def test_site_and_sae(self):
        assert error_of(site="resid_pre", sae="tiny-sae/layer_2") == (
            "Got site='resid_pre', but the SAE 'tiny-sae/layer_2' reads 'resid_post'; leave one of "
            "them out."
        )

    def test_model_and_sae_by_digest(self, tiny_bert, tmp_path):
        from sae_features.models import find_model

        message = error_of(model="tiny-xlmr", sae="tiny-sae/layer_1")
        own, other = (find_model(name).weights_digest[:12] for name in ("tiny", "tiny-xlmr"))
        assert message == (
            f"The SAE 'tiny-sae/layer_1' belongs to the model 'tests/tiny-bert' (weights {own}…), but "
            f"the model given, 'tiny-xlmr', has other weights ({other}…). To use them together on "
            "purpose, save a copy of the SAE without a recorded model: "
            "dataclasses.replace(load_sae(…), metadata={}).save(folder)."
        )

    def test_model_and_sae_by_name_where_no_digest_is_recorded(self, tiny_sae_folder):
        folder = tiny_sae_folder(metadata={"model": {"id": "tests/tiny-bert"}})
        assert resolve(model="tiny", sae=folder)[0] == "tiny"
        assert error_of(model="tiny-xlmr", sae=folder).startswith(
            f"The SAE {str(folder)!r} belongs to the model 'tests/tiny-bert', but the model given, "
            "'tiny-xlmr', is another one. To use them together on purpose, "
        )

    def test_a_folder_may_be_any_model_where_no_digest_is_recorded(self, tiny_sae_folder, tiny_xlmr):
        folder = tiny_sae_folder(metadata={"model": {"id": "tests/tiny-bert"}})
        assert resolve(model=tiny_xlmr, sae=folder)[0] == str(tiny_xlmr)

    def test_other_weights_than_recorded(self, tiny_sae_folder):
        folder = tiny_sae_folder(metadata={"model": {"id": "tiny", "digest": "0" * 64}})
        message = error_of(sae=folder)
        assert f"belongs to the model 'tiny' (weights {'0' * 12}…), but the model found, " in message
        assert "'tiny', has other weights (" in message

    def test_a_copy_of_the_sae_without_a_recorded_model_is_the_way_out(self, tiny_family, tmp_path):
        import dataclasses

        from sae_features import load_sae

        folder = dataclasses.replace(load_sae("tiny-sae/layer_1"), metadata={}).save(tmp_path / "free")
        assert resolve(model="tiny-xlmr", sae=folder)[:2] == ("tiny-xlmr", 1)

    def test_the_size_of_the_model(self, tiny_sae_folder):
        folder = tiny_sae_folder(d_in=16, metadata={})
        assert error_of(model="tiny", sae=folder) == (
            f"The SAE {str(folder)!r} takes activations of size 16, but the model 'tiny' has 32 at "
            "layer 1, resid_post; they do not belong together."
        )

    def test_the_depth_of_the_model(self, tiny_sae_folder):
        folder = tiny_sae_folder(point=HookPoint(7), metadata={})
        assert error_of(model="tiny", sae=folder) == (
            f"The SAE {str(folder)!r} reads layer 7, but the model 'tiny' has 3 blocks; they do not "
            "belong together."
        )


class TestWhatIsMissing:
    def test_no_sae_at_that_layer(self):
        expected = (
            "Got model='tiny' with layer={}; SAEs of this model are known for layers 1, 2. Choose one "
            "of them, or give sae=…"
        )
        assert error_of(layer=0) == expected.format(0)
        assert error_of(layer=-3) == expected.format(-3)

    @pytest.mark.parametrize("layer", [3, -4])
    def test_no_such_layer_at_all(self, layer):
        assert error_of(layer=layer) == (
            f"Got layer={layer}; expected 0 to 2 (or -3 to -1): the model 'tiny' has 3 blocks."
        )

    def test_no_such_site(self):
        text = (
            "Got site='mlp_normalized', which block {} of this model does not have; it has "
            f"{SITES_OF_BERT}."
        )
        assert error_of(site="mlp_normalized") == text.format(0)
        assert error_of(site="mlp_normalized", layer=-1) == text.format(2)
        assert error_of(site="mlp_normalized", layer=1, with_sae=False) == text.format(1)

    def test_no_embedding(self):
        text = (
            "Got site='embedding' for a model whose files do not say how tokens are pooled "
            f"(modules.json of sentence-transformers); it has {SITES_OF_BERT}."
        )
        assert error_of(site="embedding") == error_of(site="embedding", with_sae=False) == text

    def test_no_default_among_the_saes(self, tiny_family, use_families):
        use_families(_with_saes(tiny_family, ("first", 2, False), ("second", 1, False)))
        assert error_of() == (
            "Got model='tiny' with no layer; SAEs of this model are known for layers 1, 2. Choose one "
            "of them, or give sae=…"
        )

    def test_no_sae_of_that_model(self):
        expected = (
            "No SAE is known for model='tiny-xlmr'; give sae=FOLDER (train one for your model), or use "
            "ActivationFeaturizer for its hidden states."
        )
        assert error_of(model="tiny-xlmr") == expected
        assert error_of(model="tiny-xlmr", layer=-1) == expected

    @pytest.mark.parametrize("site", ["resid_pre", "mlp_out", "mlp_hidden"])
    def test_no_sae_at_that_site(self, site):
        assert error_of(site=site).startswith(
            f"No SAE is known for model='tiny' and site={site!r}; give sae=FOLDER"
        )

    def test_no_sae_of_a_folder(self, tiny_xlmr):
        assert error_of(model=tiny_xlmr).startswith(f"No SAE is known for model={str(tiny_xlmr)!r};")

    def test_a_model_that_is_not_there_is_the_better_error(self):
        assert error_of(model="tinny", kind=AssetNotFoundError).startswith("Got model='tinny'; expected")

    def test_an_sae_without_a_model(self, tiny_sae_folder):
        folder = tiny_sae_folder(metadata={})
        assert error_of(sae=folder) == (
            f"The SAE {str(folder)!r} does not say which model it belongs to; give model=…"
        )

    @pytest.mark.parametrize(("with_sae", "sae"), [(False, None), (True, "random:64:8")])
    @pytest.mark.parametrize(("depth", "layer"), [(0.5, 1), (0.0, 0), (0.7, 2), (1.0, 2)])
    def test_without_a_default_sae_the_architecture_says_which_layer(
        self, tiny_family, use_families, with_sae, sae, depth, layer
    ):
        use_families(replace(tiny_family, architectures=(BERT, replace(XLMR, default_depth=depth))))
        assert resolve(with_sae=with_sae, model="tiny-xlmr", sae=sae) == (
            "tiny-xlmr",
            layer,
            "resid_post",
            sae,
        )

    def test_an_unknown_sae(self):
        message = error_of(sae="tiny-sae/layer_11", kind=AssetNotFoundError)
        assert "Did you mean 'tiny-sae/layer_2'" in message


class TestValues:
    @pytest.mark.parametrize("layer", [3, -4])
    @pytest.mark.parametrize(("with_sae", "sae"), [(False, None), (True, "random:64:8")])
    def test_a_layer_out_of_range(self, with_sae, sae, layer):
        assert error_of(with_sae=with_sae, sae=sae, layer=layer) == (
            f"Got layer={layer}; expected 0 to 2 (or -3 to -1): the model 'tiny' has 3 blocks."
        )

    @pytest.mark.parametrize("with_sae", [True, False])
    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"layer": "1"}, "Got layer='1'; expected an integer or None."),
            ({"layer": 1.0}, "Got layer=1.0; expected an integer or None."),
            ({"layer": True}, "Got layer=True; expected an integer or None."),
            (
                {"site": "resid_posst"},
                "Got site='resid_posst'; expected one of resid_pre, resid_post, resid_mid, attn_out, "
                "attn_z, mlp_in, mlp_normalized, mlp_hidden, mlp_out, embedding. Did you mean "
                "'resid_post'?",
            ),
            (
                {"model": 3},
                "Got model of type int; expected its name or path, so that clones stay cheap.",
            ),
        ],
    )
    def test_what_cannot_be(self, with_sae, parts, message):
        assert error_of(with_sae=with_sae, **parts) == message

    def test_a_loaded_sae_is_no_name(self):
        assert error_of(sae=random_sae()) == (
            "Got sae of type SparseAutoencoder; expected its name or path, so that clones stay cheap."
        )

    @pytest.mark.parametrize("parts", [{"layer": "1"}, {"sae": 3}, {"site": "nowhere"}])
    def test_they_are_checked_where_only_the_sae_is_asked_for(self, parts):
        with pytest.raises(InvalidParameterError, match="^Got (layer|sae|site)"):
            resolve_sae(Request(**parts))

    def test_numpy_integers_are_integers(self):
        import numpy as np

        assert resolve(layer=np.int64(2))[1] == 2
        layer = resolve(layer=np.int64(0), with_sae=False)[1]
        assert (layer, type(layer)) == (0, int)


class TestReleaseTables:
    """Of the SAEs in release tables one is never taken at random."""

    @pytest.fixture(autouse=True)
    def _gpt2(self, use_families, monkeypatch, tiny_bert):
        """A family whose GPT-2 is three blocks deep; the hub has it under its present name."""
        monkeypatch.setattr("sae_features.models.hub_folder", lambda *_, **__: tiny_bert)
        use_families(ModelFamily("gpt", (BERT,), release_tables=RELEASE_TABLES))

    @pytest.mark.parametrize("model", ["openai-community/gpt2", "gpt2-small", "gpt2"])
    def test_many_at_a_layer_are_listed_by_any_name_of_the_model(self, model):
        with pytest.raises(InvalidParameterError) as raised:
            resolve_sae(Request(model, layer=1, site="mlp_out"))
        assert str(raised.value) == (
            f"Got model={model!r} with layer=1, of which 3 SAEs are known "
            "('gpt2-small-mlp-out-v5-32k/blocks.1.hook_mlp_out', "
            "'gpt2-small-mlp-out-v5-128k/blocks.1.hook_mlp_out', "
            "'gpt2-small-mlp-tm/blocks.1.hook_mlp_out' …); choose one by sae=… "
            f"(`sae-features saes --model {model} --layer 1` lists them)."
        )

    def test_without_a_layer_the_layers_are_listed(self):
        with pytest.raises(InvalidParameterError, match="are known for layers 8, 16, 24"):
            resolve_sae(Request("mistralai/Mistral-7B-v0.1", site="resid_pre", layer=0))
        with pytest.raises(InvalidParameterError, match="with no layer; .* layers 0, 1, 2, 3, 4, 5"):
            resolve_sae(Request("EleutherAI/pythia-70m"))

    def test_one_alone_is_taken(self, monkeypatch):
        monkeypatch.setattr("sae_features.targets.sae_of_source", lambda source: source.sae_id)
        request = Request("mistral-7b", layer=16)
        assert resolve_sae(request) == "mistral-7b-res-wg/blocks.16.hook_resid_pre"

    def test_a_transcoder_is_found_by_the_site_that_it_reads(self, monkeypatch):
        monkeypatch.setattr("sae_features.targets.sae_of_source", lambda source: source.sae_id)
        request = Request("Qwen/Qwen3-4B", layer=1, site="mlp_in")
        assert resolve_sae(request) == "mwhanna-qwen3-4b-transcoders/layer_1"
        with pytest.raises(InvalidParameterError, match="No SAE is known for .* and site='resid_post'"):
            resolve_sae(Request("Qwen/Qwen3-4B", layer=1, site="resid_post"))

    def test_a_local_model_is_compared_with_packaged_saes_only(self, tiny_bert, monkeypatch):
        monkeypatch.setattr("sae_features.targets.sae_of_source", None)
        with pytest.raises(InvalidParameterError, match="^No SAE is known for model="):
            resolve_sae(Request(tiny_bert))


def test_the_sae_alone_needs_no_weights_of_the_model(use_families):
    source = _packaged("x/y", "away", 1, is_default=True)
    away = ModelSource("owner/away", "c" * 40)
    use_families(ModelFamily("far", (BERT,), aliases={"away": away}, saes=(source,)))
    assert resolve_sae(Request("away")).name == "x/y"
    assert resolve_sae(Request("away", layer=1)).n_latents == 48


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request("away", layer=-2), None),
        (Request("owner/other", layer=-1), "No SAE is known for model='owner/other'"),
    ],
)
def test_the_sae_of_a_layer_from_the_end_asks_the_hub_for_no_weights(
    use_families, monkeypatch, tiny_bert, tmp_path, request_, error
):
    asked = []

    def hub_folder(repo_id, revision, patterns, *, is_complete):
        asked.append((repo_id, patterns))
        shutil.copy(tiny_bert / "config.json", tmp_path)
        return tmp_path

    monkeypatch.setattr("sae_features.models.hub_folder", hub_folder)
    source = _packaged("x/y", "away", 1)
    away = ModelSource("owner/away", "c" * 40)
    use_families(ModelFamily("far", (BERT,), aliases={"away": away}, saes=(source,)))
    if error is None:
        assert resolve_sae(request_).name == "x/y"
    else:
        with pytest.raises(InvalidParameterError, match=error):
            resolve_sae(request_)
    assert {patterns for _, patterns in asked} == {("config.json",)}


def _with_saes(family, *saes):
    import dataclasses

    sources = [_packaged(name, "tiny", layer, is_default=is_default) for name, layer, is_default in saes]
    return dataclasses.replace(family, saes=tuple(sources))


def _packaged(name, model, layer, **options):
    files = {"package": "tiny_package", "package_path": f"saes/layer_{layer}"}
    return SAESource(name, model, layer, **files, **options)


class TestNamesOfHookPointsThatFamiliesUnderstand:
    """An SAE whose files name its hook point in another library's words, on models of two families."""

    @pytest.fixture
    def models(self, tmp_path):
        root, text = tmp_path, Text(first_token_is_sink=True)
        kinds = {kind: Architecture(kind, (text,)) for kind in ("gpt2", "llama")}
        return {kind: write_tiny(kinds[kind], root / kind) for kind in kinds}, kinds

    @pytest.fixture
    def resolve(self, models, use_families, tmp_path):
        folders, kinds = models
        use_families(ModelFamily("named", tuple(kinds.values())))

        def resolve(kind, hook_name, **given):
            sae = random_sae("relu", point=None, metadata={"hook_name": hook_name})
            folder = sae.save(tmp_path / "sae", format="saelens")
            edited = json.loads((folder / "cfg.json").read_text())
            edited["metadata"]["hook_name"] = hook_name
            (folder / "cfg.json").write_text(json.dumps(edited))
            return resolve_target(Request(folders[kind], sae=folder, **given), with_sae=True).point

        return resolve

    def test_the_output_of_a_module(self, resolve):
        assert resolve("llama", "model.layers.2.mlp") == (2, "mlp_out")
        assert resolve("gpt2", "transformer.h.2.ln_2.input") == (2, "resid_mid")

    def test_a_module_that_is_no_site(self, resolve):
        with pytest.raises(
            InvalidParameterError, match="reads 'model.layers.2.input_layernorm', which no"
        ):
            resolve("llama", "model.layers.2.input_layernorm", layer=2)

    def test_before_the_gain_of_an_rms_norm(self, resolve):
        assert resolve("llama", "blocks.1.ln2.hook_normalized") == (1, "mlp_normalized")

    def test_before_or_after_the_gain_of_a_layer_norm(self, resolve):
        name = "blocks.1.ln2.hook_normalized"
        with pytest.raises(
            InvalidParameterError, match="in a model with LayerNorm is behind gain and bias"
        ):
            resolve("gpt2", name)
        assert resolve("gpt2", name, site="mlp_in") == (1, "mlp_in")
        assert resolve("gpt2", name, site="mlp_normalized", layer=1) == (1, "mlp_normalized")
        with pytest.raises(InvalidParameterError, match="Got layer=2"):
            resolve("gpt2", name, site="mlp_in", layer=2)
