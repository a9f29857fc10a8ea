"""Models and tokenizers are loaded from local folders, without code of theirs and in silence."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny import BERT, edit_json

from sae_features.architectures import Architecture, Patches
from sae_features.backbones.backbone import Backbone
from sae_features.backbones.loading import check_accelerate
from sae_features.errors import CheckpointError, MissingDependencyError
from sae_features.testing import write_tiny

TEXTS = ["the river flows near the old stone mountain", "", "zebra!", "The [SEP] Sky  is </s> bright."]


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def load(folder, dtype="float32"):
    return Backbone.load(folder, BERT, device="cpu", dtype=dtype)


@pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
class TestLoad:
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
    def test_values_are_float32_whatever_is_computed_in(self, bert, tiny_bert, dtype):
        acts = load(tiny_bert, dtype).activations(TEXTS, layer=1)
        assert acts.values.dtype == np.float32
        expected = bert.activations(TEXTS, layer=1).values
        error = np.abs(acts.values - expected).max() / np.abs(expected).max()
        assert error < {"bfloat16": 0.05, "float16": 0.01, "float64": 1e-6}[dtype]

    def test_the_model_is_for_reading_only(self, tiny_bert):
        model = load(tiny_bert).model
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_a_checkpoint_with_a_head_and_a_prefix_is_read_in_silence(self, bert, folder, capfd):
        from transformers import BertForMaskedLM

        model = BertForMaskedLM(bert.model.config)
        model.bert.load_state_dict(bert.model.state_dict(), strict=False)
        model.save_pretrained(folder)
        assert any(name.startswith("bert.") for name in load_file(folder / "model.safetensors"))
        capfd.readouterr()
        acts = load(folder).activations(TEXTS, layer=1)  # its pooler is missing, and never used
        assert capfd.readouterr() == ("", "")
        np.testing.assert_array_equal(acts.values, bert.activations(TEXTS, layer=1).values)

    def test_shards_of_an_index(self, bert, folder):
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(weights)
        weight_map = {}
        for number, part in enumerate((names[::2], names[1::2]), start=1):
            shard = f"model-0000{number}-of-00002.safetensors"
            save_file({name: weights[name] for name in part}, folder / shard, {"format": "pt"})
            weight_map |= dict.fromkeys(part, shard)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        acts = load(folder).activations(TEXTS)
        np.testing.assert_array_equal(acts.values, bert.activations(TEXTS).values)

    def test_missing_weights_are_refused(self, folder):
        self._change_weights(
            folder, lambda name, weight: None if "layer.1.attention.self" in name else weight
        )
        with pytest.raises(CheckpointError) as raised:
            load(folder)
        assert str(raised.value) == (
            f"The weights in {folder} lack or mis-shape 6 tensors of BertModel "
            "(encoder.layer.1.attention.self.key.bias, encoder.layer.1.attention.self.key.weight, "
            "encoder.layer.1.attention.self.query.bias …); they would be random."
        )

    def test_misshapen_weights_are_refused(self, folder):
        name = "encoder.layer.1.output.dense.bias"
        self._change_weights(folder, lambda n, weight: weight[:5].clone() if n == name else weight)
        with pytest.raises(CheckpointError) as raised:
            load(folder)
        start = f"The weights in {folder} lack or mis-shape 1 tensors of BertModel ({name} of "
        shapes = ("shape (5,) instead of (32,)", "another shape")  # transformers 5 and 4
        assert str(raised.value) in [f"{start}{shape}); they would be random." for shape in shapes]

    def test_damaged_weights(self, folder):
        (folder / "model.safetensors").write_bytes(b"no safetensors" * 20)
        with pytest.raises(CheckpointError, match=f"^The model in {folder} could not be loaded: "):
            load(folder)

    def test_pickled_weights_are_not_read(self, folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        with pytest.raises(CheckpointError, match="lacks model.safetensors. It has pytorch_model.bin"):
            load(folder)

    def test_the_weights_are_those_that_the_digest_is_of(self, bert, folder):
        """One file goes before an index, here and in transformers."""
        save_file({}, folder / "model-1.safetensors", {"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": {"a": "model-1.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        acts = load(folder).activations(TEXTS)
        np.testing.assert_array_equal(acts.values, bert.activations(TEXTS).values)

    @pytest.mark.parametrize("name", ["other.safetensors", "../other.safetensors"])
    def test_other_weights_that_the_config_names_are_refused(self, folder, name):
        shutil.copy(folder / "model.safetensors", folder / name)
        edit_json(folder / "config.json", transformers_weights=name)
        with pytest.raises(CheckpointError, match="points to other files"):
            load(folder)

    def test_an_adapter_is_refused(self, folder):
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/other"}')
        with pytest.raises(CheckpointError, match="Merge it first"):
            load(folder)

    @pytest.mark.parametrize(
        "key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"]
    )
    @pytest.mark.parametrize("value", ["owner/kernel", "flash_attention_2", "eager", "nonsense"])
    def test_the_config_does_not_choose_the_attention(self, bert, folder, key, value):
        """``owner/kernel`` would be code on the hub."""
        edit_json(folder / "config.json", **{key: value})
        other = load(folder)
        assert other.model.config._attn_implementation == "sdpa"
        assert bert.model.config._attn_implementation == "sdpa"
        np.testing.assert_array_equal(other.activations(TEXTS).values, bert.activations(TEXTS).values)

    def test_a_package_that_the_model_needs_and_is_missing(self, folder, monkeypatch):
        from transformers import AutoModel

        def fail(*_args, **_options):
            raise ImportError("bitsandbytes is not installed")

        monkeypatch.setattr(AutoModel, "from_pretrained", fail)
        with pytest.raises(CheckpointError) as raised:
            load(folder)
        assert str(raised.value) == (
            f"The model in {folder} could not be loaded: bitsandbytes is not installed"
        )

    def test_a_folder_without_a_tokenizer_config(self, bert, folder):
        (folder / "tokenizer_config.json").unlink()
        acts = load(folder).activations(["a calm sea"], layer=1)
        np.testing.assert_array_equal(acts.values, bert.activations(["a calm sea"], layer=1).values)

    def test_without_a_tokenizer(self, folder):
        (folder / "tokenizer.json").unlink()
        with pytest.raises(CheckpointError) as raised:
            load(folder)
        assert str(raised.value) == f"{folder} has no tokenizer (tokenizer.json)."

    def test_a_damaged_tokenizer(self, folder):
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(CheckpointError, match=f"^The tokenizer in {folder} could not be loaded: "):
            load(folder)

    def test_code_in_the_folder_is_never_run(self, folder):
        (folder / "evil.py").write_text("raise SystemExit('code of a model was run')")
        edit_json(
            folder / "config.json",
            model_type="tiny-evil",
            auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        )
        edit_json(
            folder / "tokenizer_config.json",
            tokenizer_class="EvilTokenizer",
            auto_map={"AutoTokenizer": [None, "evil.Tokenizer"]},
        )
        with pytest.raises(CheckpointError, match="could not be loaded"):
            load(folder)

    def test_outputs_that_the_config_asks_for_change_nothing(self, bert, folder):
        edit_json(folder / "config.json", output_hidden_states=True, output_attentions=True)
        other = load(folder)
        for _ in range(2):
            acts = other.activations(["the river flows"], layer=1)
            expected = bert.activations(["the river flows"], layer=1)
            error = np.abs(acts.values - expected.values).max()  # another attention may be taken
            assert error <= 1e-5 * np.abs(expected.values).max()

    @staticmethod
    def _change_weights(folder, change):
        path = folder / "model.safetensors"
        changed = {name: change(name, weight) for name, weight in load_file(path).items()}
        kept = {name: weight for name, weight in changed.items() if weight is not None}
        save_file(kept, path, {"format": "pt"})


class TestDeviceAuto:
    """Blocks are spread over devices by accelerate; here there is one."""

    def test_values_are_the_same(self, bert, tiny_bert):
        pytest.importorskip("accelerate")
        spread = Backbone.load(tiny_bert, BERT, device="auto", dtype="float32")
        points = [(0, "mlp_out"), (2, "resid_post")]
        texts = TEXTS[::2]
        found, expected = (each.activations(texts, points=points) for each in (spread, bert))
        for point in points:
            np.testing.assert_allclose(found[point].values, expected[point].values, rtol=1e-5, atol=1e-5)

    def test_models_of_images_too(self, tmp_path):
        pytest.importorskip("accelerate")
        architecture = Architecture("dinov2", (Patches(),), final_norm=False, embedding="pooler_output")
        folder = write_tiny(architecture, tmp_path)
        picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        values = [
            Backbone.load(folder, architecture, device=device, dtype="float32").activations(
                [picture], points=["embedding", (1, "attn_out")]
            )
            for device in ("auto", "cpu")
        ]
        for spread, alone in zip(values[0].values(), values[1].values(), strict=True):
            np.testing.assert_allclose(spread.values, alone.values, rtol=1e-5, atol=1e-5)

    def test_without_accelerate_the_error_says_what_to_install(self, tiny_bert, monkeypatch):
        monkeypatch.setitem(sys.modules, "accelerate", None)
        message = "Got device='auto', which needs accelerate; install it: pip install accelerate"
        for attempt in (
            check_accelerate,
            lambda: Backbone.load(tiny_bert, BERT, device="auto", dtype="float32"),
        ):
            with pytest.raises(MissingDependencyError) as raised:
                attempt()
            assert str(raised.value) == message
