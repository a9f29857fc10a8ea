from __future__ import annotations

import copy
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import MAX_POSITIONS, WORDS, edit_json

from sae_features.backbones import text as text_module
from sae_features.backbones.text import TextBackbone
from sae_features.errors import (
    CheckpointError,
    InvalidInputError,
    InvalidParameterError,
    SAEFeaturesWarning,
)
from sae_features.hook_point import HookPoint

TEXTS = [
    "the river flows near the old stone mountain",
    "",
    "a calm sea",
    "zebra!",
    "The [SEP] Sky  is </s> bright, very bright.",
    "winter " * 30,
]
texts_of_words = st.lists(
    st.lists(st.sampled_from([*WORDS, "[SEP]", "Zürich", "x9!"]), max_size=25).map(" ".join),
    min_size=1,
    max_size=6,
)


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def load(folder, dtype="float32"):
    return TextBackbone.load(folder, device="cpu", dtype=dtype)


def with_tokenizer(backbone, **changes):
    tokenizer = copy.deepcopy(backbone.tokenizer)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return TextBackbone(backbone.model, tokenizer)


def assert_close(values, expected):
    """Within 1e-5 of each item's largest value."""
    assert values.shape == expected.shape
    if values.size:
        assert np.abs(values - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
class TestActivations:
    def test_they_are_the_hidden_states_at_the_content_tokens(self, bert):
        encoded = bert.tokenizer(["the river flows"], return_tensors="pt")
        with torch.inference_mode():
            hidden = bert.model(**encoded, output_hidden_states=True).hidden_states
        for layer in range(3):
            acts = bert.activations(["the river flows"], layer=layer)
            np.testing.assert_array_equal(acts[0], hidden[layer + 1][0, 1:4].numpy())
            acts = bert.activations(["the river flows"], layer=layer, site="resid_pre", tokens="all")
            np.testing.assert_array_equal(acts[0], hidden[layer][0].numpy())

    def test_shapes_and_types(self, bert):
        acts = bert.activations(TEXTS, layer=1)
        assert (acts.values.dtype, acts.offsets.dtype) == (np.float32, np.int64)
        assert np.diff(acts.offsets).tolist() == [8, 0, 3, 6, 13, 30]
        assert acts.values.shape == (acts.offsets[-1], 32)
        assert acts[1].shape == (0, 32)

    def test_only_texts_without_tokens(self, bert):
        acts = bert.activations(["", "[SEP]"])
        assert (acts.values.shape, acts.offsets.tolist()) == ((0, 32), [0, 0, 0])

    def test_the_last_layer_is_the_default(self, bert):
        last, named = bert.activations(["a calm sea"]), bert.activations(["a calm sea"], layer=2)
        np.testing.assert_array_equal(last.values, named.values)

    def test_a_prompt_changes_values_but_not_which_tokens_count(self, bert):
        plain = bert.activations(TEXTS, layer=1)
        prompted = bert.activations(TEXTS, layer=1, prompt="query: {}")
        assert plain.offsets.tolist() == prompted.offsets.tolist()
        assert not np.allclose(plain.values, prompted.values, atol=0.01)

    def test_windows_are_joined_in_order(self, bert):
        words = WORDS[:11]
        whole = bert.activations([" ".join(words), "sea"], max_length=5, overflow="chunk", layer=1)
        parts = [" ".join(words[start : start + 3]) for start in range(0, 11, 3)]
        alone = np.concatenate([bert.activations([part], layer=1).values for part in parts])
        assert_close(whole[0], alone)
        assert_close(whole[1], bert.activations(["sea"], layer=1).values)

    def test_truncation_takes_the_first_window(self, bert):
        cut = bert.activations([" ".join(WORDS[:11])], max_length=5, layer=1)
        assert_close(cut[0], bert.activations([" ".join(WORDS[:3])], layer=1)[0])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layer": 3}, "^Got layer=3; expected 0 to 2"),
            ({"site": "mlp_out"}, "^Got site='mlp_out'; this family reads resid_pre, resid_post"),
            ({"max_length": 65}, "^Got max_length=65; this model takes at most 64 tokens"),
            ({"overflow": "cut"}, "^Got overflow='cut'"),
            ({"batch_size": 0}, "^Got batch_size=0; expected None or an integer above 0"),
            ({"batch_size": -1}, "^Got batch_size=-1; expected None or an integer above 0"),
        ],
    )
    def test_what_cannot_be(self, bert, options, message):
        with pytest.raises(InvalidParameterError, match=message):
            bert.activations(["sea"], **options)

    def test_items_are_checked(self, bert):
        with pytest.raises(InvalidInputError, match="^Got None as item 1; expected a text"):
            bert.activations(["sea", None])


class TestWarnings:
    """As the estimators warn: once of each kind, naming the caller's line."""

    def test_truncated_and_empty_texts(self, bert):
        texts = ["sea", "", "winter " * 30, "", "winter " * 30]
        with pytest.warns(SAEFeaturesWarning) as told:
            bert.activations(texts, max_length=12)
        assert [str(each.message) for each in told] == [
            "2 of 5 texts are longer than 12 tokens and were truncated (the first is item 2); "
            "overflow='chunk' uses all of them.",
            "2 of 5 texts have no token that counts (the first is item 1); they have no activations.",
        ]
        assert {each.filename for each in told} == {__file__}

    def test_nothing_is_lost_and_nothing_told(self, bert):
        texts = ["sea", "winter " * 30]
        chunked = bert.activations(texts, max_length=12, overflow="chunk")
        assert np.diff(chunked.offsets).tolist() == np.diff(bert.activations(texts).offsets).tolist()


def test_activations_that_are_not_finite_name_their_item(bert):
    """Also where the weights are at fault, and not the type."""
    broken = TextBackbone(copy.deepcopy(bert.model), bert.tokenizer)
    sea = bert.tokenizer.convert_tokens_to_ids("sea")
    broken.model.embeddings.word_embeddings.weight[sea] = torch.nan
    with pytest.raises(InvalidInputError) as raised:
        broken.activations(["rain", "a hill", "the sea"], layer=0)
    assert str(raised.value) == (
        "Got activations that are not finite for item 2 at layer 0, resid_post, computed in float32. "
        "The model's weights may be damaged."
    )
    broken.activations(["rain", "a hill"])


@pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
class TestInvariance:
    """An item's values do not depend on what is computed beside it."""

    @settings(max_examples=25)
    @given(
        texts=texts_of_words,
        layer=st.integers(0, 2),
        batch_size=st.none() | st.integers(1, 4),
        tokens=st.sampled_from(["content", "all"]),
        data=st.data(),
    )
    @pytest.mark.parametrize("name", ["bert", "xlmr"])
    def test_batch_and_order(self, request, name, texts, layer, batch_size, tokens, data):
        backbone = request.getfixturevalue(name)
        order = data.draw(st.permutations(range(len(texts))))
        options = {"layer": layer, "tokens": tokens}
        together = backbone.activations([texts[i] for i in order], batch_size=batch_size, **options)
        for position, item in enumerate(order):
            assert_close(together[position], backbone.activations([texts[item]], **options)[0])

    @settings(max_examples=15)
    @given(texts=texts_of_words, batch_size=st.none() | st.integers(1, 4))
    def test_chunks(self, bert, texts, batch_size):
        options = {"layer": 1, "max_length": 7, "overflow": "chunk", "prompt": "query: {}"}
        together = bert.activations(texts, batch_size=batch_size, **options)
        for item, text in enumerate(texts):
            assert_close(together[item], bert.activations([text], **options)[0])

    @pytest.mark.parametrize("name", ["bert", "xlmr"])
    @pytest.mark.parametrize("changes", [{"padding_side": "left"}, {"pad_token": None}])
    def test_how_the_tokenizer_pads(self, request, name, changes):
        backbone = request.getfixturevalue(name)
        other = with_tokenizer(backbone, **changes)
        acts, expected = (each.activations(TEXTS, layer=1) for each in (other, backbone))
        for item in range(len(TEXTS)):
            assert_close(acts[item], expected[item])

    def test_padding_and_truncation_in_the_tokenizer_file(self, bert, folder):
        path = folder / "tokenizer.json"
        truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        padding = {
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }
        edit_json(path, truncation=truncation, padding=padding)
        acts, expected = (each.activations(TEXTS, layer=1) for each in (load(folder), bert))
        assert acts.offsets.tolist() == expected.offsets.tolist()
        assert_close(acts.values, expected.values)


class TestMaxLength:
    def test_the_least_of_model_and_tokenizer(self, bert):
        assert bert.max_length == MAX_POSITIONS == 64
        assert with_tokenizer(bert, model_max_length=20).max_length == 20
        assert with_tokenizer(bert, model_max_length=int(1e30)).max_length == 64

    def test_positions_of_roberta_start_behind_the_padding(self, xlmr):
        assert xlmr.model.config.max_position_embeddings == 66
        assert xlmr.max_length == 64

    @pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
    @pytest.mark.parametrize("name", ["bert", "xlmr"])
    def test_the_longest_window_runs_beside_a_short_one(self, request, name):
        backbone = request.getfixturevalue(name)
        acts = backbone.activations(["sea " * 100, "sea"], layer=1)
        assert np.diff(acts.offsets).tolist() == [62, 1]


class TestRun:
    def batches(self, backbone, texts, **options):
        windows = backbone.tokenize(texts, backbone.token_policy())
        return list(backbone.run(windows, [HookPoint(0)], **options))

    def test_the_longest_go_first_and_those_without_tokens_not_at_all(self, bert):
        batches = self.batches(bert, TEXTS, batch_size=2)
        assert [batch.windows.tolist() for batch in batches] == [[5, 4], [0, 3], [2]]
        assert [batch.lengths.tolist() for batch in batches] == [[30, 13], [8, 6], [3]]
        for batch in batches:
            assert batch.values[HookPoint(0)].shape == (batch.lengths.sum(), 32)

    def test_without_a_size_padded_tokens_are_bounded(self, bert, monkeypatch):
        monkeypatch.setattr(text_module, "TOKEN_BUDGET", 40)
        batches = self.batches(bert, TEXTS)
        assert [batch.windows.tolist() for batch in batches] == [[5], [4, 0], [3, 2]]

    def test_a_window_beyond_the_budget_runs_alone(self, bert, monkeypatch):
        monkeypatch.setattr(text_module, "TOKEN_BUDGET", 3)
        assert [len(batch.windows) for batch in self.batches(bert, TEXTS)] == [1] * 5

    @pytest.mark.parametrize(
        "point", [HookPoint(0, "attn_out"), HookPoint(3), HookPoint(0, "embedding")]
    )
    def test_a_point_that_cannot_be_read_is_refused(self, bert, point):
        windows = bert.tokenize(["sea"], bert.token_policy())
        with pytest.raises(InvalidParameterError, match="^Got (site|layer)="):
            next(bert.run(windows, [HookPoint(0), point]))

    def test_one_pass_serves_several_points(self, bert):
        points = [HookPoint(-1), HookPoint(0), HookPoint(2)]
        windows = bert.tokenize(TEXTS, bert.token_policy())
        (batch,) = bert.run(windows, points)
        assert set(batch.values) == set(points)
        assert torch.equal(batch.values[HookPoint(-1)], batch.values[HookPoint(2)])


def test_two_threads_at_different_layers_get_their_own(bert):
    texts = [" ".join(WORDS[start : start + 9]) for start in range(40)]
    expected = [bert.activations(texts, layer=layer, batch_size=4).values for layer in range(3)]

    def work(number):
        layer = number % 3
        return layer, bert.activations(texts, layer=layer, batch_size=4).values

    with ThreadPoolExecutor(3) as pool:
        for layer, values in pool.map(work, range(12)):
            np.testing.assert_array_equal(values, expected[layer])


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
            assert_close(acts.values, bert.activations(["the river flows"], layer=1).values)

    @staticmethod
    def _change_weights(folder, change):
        path = folder / "model.safetensors"
        changed = {name: change(name, weight) for name, weight in load_file(path).items()}
        kept = {name: weight for name, weight in changed.items() if weight is not None}
        save_file(kept, path, {"format": "pt"})
