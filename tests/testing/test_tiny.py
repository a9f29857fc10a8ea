"""Small random models: the same every time, in ordinary folders, with what their kind needs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from sae_features.architectures import Architecture, ImageTokens, Patches, Text
from sae_features.backbones.backbone import Backbone
from sae_features.testing import write_tiny

SINK = Text(first_token_is_sink=True)
LLAMA = Architecture("llama", (SINK,))
VIT = Architecture("vit", (Patches(),), final_norm=False)
PALIGEMMA = Architecture(
    "paligemma",
    (ImageTokens("PaliGemmaProcessor", image_first=True),),
    tower="language_model",
    config="text_config",
)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


class TestFolder:
    def test_of_a_text_model(self, tmp_path):
        folder = write_tiny(LLAMA, tmp_path / "new" / "model")
        assert folder == tmp_path / "new" / "model"
        names = {path.name for path in folder.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
        assert "preprocessor_config.json" not in names
        assert config_of(folder)["model_type"] == "llama"
        assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {
            torch.float32
        }

    def test_of_a_vision_model(self, tmp_path):
        folder = write_tiny(VIT, tmp_path)
        names = {path.name for path in folder.iterdir()}
        assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= names
        assert "tokenizer.json" not in names
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        assert settings["size"] == {"height": 28, "width": 28}
        assert settings["image_processor_type"] == "ViTImageProcessor"

    def test_of_a_model_of_both(self, tmp_path):
        folder = write_tiny(PALIGEMMA, tmp_path)
        names = {path.name for path in folder.iterdir()}
        assert {"tokenizer.json", "preprocessor_config.json"} <= names
        config = config_of(folder)
        assert config["text_config"]["model_type"] == "gemma2"
        assert config["vision_config"]["image_size"] == 28
        backbone = Backbone.load(folder, PALIGEMMA, device="cpu", dtype="float32")
        picture = np.zeros((30, 30, 3), np.uint8)
        assert backbone.activations([picture], layer=1).values.shape == (16, 32)


class TestSizes:
    def test_they_are_small(self, tmp_path):
        config = config_of(write_tiny(LLAMA, tmp_path))
        names = (
            "num_hidden_layers",
            "hidden_size",
            "intermediate_size",
            "num_key_value_heads",
            "head_dim",
        )
        assert [config[name] for name in names] == [4, 32, 48, 2, 6]
        assert (tmp_path / "model.safetensors").stat().st_size < 200_000

    def test_what_an_architecture_and_a_caller_say_goes_before(self, tmp_path):
        architecture = Architecture(
            "llama", (SINK,), tiny={"num_hidden_layers": 3, "intermediate_size": 40}
        )
        config = config_of(write_tiny(architecture, tmp_path, num_hidden_layers=5))
        assert (config["num_hidden_layers"], config["intermediate_size"]) == (5, 40)

    def test_by_whatever_names_a_configuration_has(self, tmp_path):
        config = config_of(write_tiny(Architecture("gpt2", (SINK,)), tmp_path))
        assert (config["n_layer"], config["n_embd"], config["n_positions"]) == (4, 32, 96)


class TestWeights:
    def test_the_seed_decides(self, tmp_path):
        first, again, other = (
            load_file(write_tiny(LLAMA, tmp_path / name, seed=seed) / "model.safetensors")
            for name, seed in (("first", 0), ("again", 0), ("other", 1))
        )
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not any(torch.equal(first[name], other[name]) for name in first)

    def test_the_state_of_torchs_own_generator_does_not(self, tmp_path):
        torch.manual_seed(5)
        first = load_file(write_tiny(LLAMA, tmp_path / "first") / "model.safetensors")
        torch.manual_seed(6)
        again = load_file(write_tiny(LLAMA, tmp_path / "again") / "model.safetensors")
        assert all(torch.equal(first[name], again[name]) for name in first)

    def test_gains_and_biases_are_random_too(self, tmp_path):
        """Else nothing would tell a norm with its gain from one without."""
        weights = load_file(write_tiny(LLAMA, tmp_path) / "model.safetensors")
        gain = weights["layers.1.post_attention_layernorm.weight"]
        assert gain.std() > 0.1
        assert abs(gain.mean() - 1) < 0.2

    def test_blocks_change_their_input_by_about_its_size(self, tmp_path):
        """An error of a layer must show, and nothing may explode."""
        write_tiny(LLAMA, tmp_path)
        model = transformers.AutoModel.from_pretrained(tmp_path).eval()
        with torch.inference_mode():
            states = model(torch.arange(10, 30)[None], output_hidden_states=True).hidden_states
        sizes = [float(state.norm()) for state in states]
        before, after = states[:-2], states[1:-1]  # the last one is behind the final norm
        shares = [float((b - a).norm() / a.norm()) for a, b in zip(before, after, strict=True)]
        assert min(shares) > 0.3
        assert max(sizes) < 20 * min(sizes)


class TestTokenizer:
    @pytest.mark.parametrize(
        ("template", "before", "after", "roles"),
        [
            ("bos", [1], [], {"bos_token": "<s>", "cls_token": None}),
            ("cls_sep", [1], [2], {"bos_token": None, "cls_token": "<s>", "sep_token": "</s>"}),
            ("eos", [], [2], {"bos_token": None, "cls_token": None}),
            ("plain", [], [], {"bos_token": "<s>", "cls_token": None}),
        ],
    )
    def test_templates(self, tmp_path, template, before, after, roles):
        write_tiny(LLAMA, tmp_path, template=template)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
        ids = tokenizer("rain")["input_ids"]
        assert ids == [*before, *tokenizer("rain", add_special_tokens=False)["input_ids"], *after]
        assert {name: getattr(tokenizer, name) for name in roles} == roles
        assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length) == (
            "</s>", "<pad>", 96,
        )  # fmt: skip

    @pytest.mark.parametrize("text", ["rain", "Zürich 9!", " a  b ", "東京", "\n"])
    def test_every_byte_is_a_token(self, tmp_path, text):
        write_tiny(LLAMA, tmp_path, template="plain")
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.unk_token_id not in ids

    def test_an_unknown_template(self, tmp_path):
        with pytest.raises(KeyError, match="sep"):
            write_tiny(LLAMA, tmp_path, template="sep")
