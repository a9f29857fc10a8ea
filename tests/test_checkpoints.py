from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import edit_json

from sae_features import checkpoints
from sae_features.checkpoints import (
    digest_of_files,
    is_complete,
    processor_files,
    read_config,
    read_context,
    weight_files,
)
from sae_features.errors import CheckpointError


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


class TestWeightFiles:
    def test_one_file(self, folder):
        assert weight_files(folder) == [folder / "model.safetensors"]

    def test_shards_of_an_index_each_once(self, folder):
        names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        for name in names:
            (folder / name).touch()
        (folder / "model.safetensors").unlink()
        _write_index(folder, {"a": names[1], "b": names[0], "c": names[1]})
        assert weight_files(folder) == [folder / name for name in names]

    def test_one_file_goes_before_an_index_as_in_transformers(self, folder):
        (folder / "model-1.safetensors").touch()
        _write_index(folder, {"a": "model-1.safetensors"})
        assert weight_files(folder) == [folder / "model.safetensors"]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("transformers_weights", "other.safetensors"),
            ("transformers_weights", "../other/model.safetensors"),
            ("configuration_files", ["config.4.0.0.json"]),
        ],
    )
    def test_a_config_that_points_to_other_files(self, folder, key, value):
        edit_json(folder / "config.json", **{key: value})
        with pytest.raises(CheckpointError) as raised:
            weight_files(folder)
        assert str(raised.value) == (
            f"{folder / 'config.json'} points to other files ({key}={value!r}); expected all in "
            "config.json and model.safetensors. Save the model anew with transformers' "
            "save_pretrained."
        )

    def test_a_config_that_says_it_points_nowhere(self, folder):
        config = read_config(folder) | {"transformers_weights": None}
        (folder / "config.json").write_text(json.dumps(config))
        assert weight_files(folder) == [folder / "model.safetensors"]

    def test_an_adapter(self, folder):
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/other"}')
        with pytest.raises(CheckpointError) as raised:
            weight_files(folder)
        assert str(raised.value) == (
            f"{folder} has an adapter (adapter_config.json), which changes the weights. Merge it "
            "first, with peft's merge_and_unload, and save the model without it."
        )

    def test_a_distributed_checkpoint(self, folder):
        name = "shard-00000-model-00001-of-00002.safetensors"
        (folder / name).touch()
        with pytest.raises(CheckpointError) as raised:
            weight_files(folder)
        assert str(raised.value) == (
            f"{folder} has a distributed checkpoint ({name}); expected model.safetensors or "
            "model.safetensors.index.json. Save the model anew with transformers' save_pretrained."
        )

    def test_pickled_weights_only(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError) as raised:
            weight_files(folder)
        assert str(raised.value) == (
            f"{folder} lacks model.safetensors. It has pytorch_model.bin: pickled weights can execute "
            "code and are not read. Convert them with transformers' save_pretrained."
        )

    def test_a_missing_shard(self, folder):
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        _write_index(folder, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
        with pytest.raises(CheckpointError) as raised:
            weight_files(folder)
        assert str(raised.value) == f"{folder} lacks model-2.safetensors."

    @pytest.mark.parametrize(
        "outside", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors"]
    )
    def test_an_index_must_not_leave_its_folder(self, folder, outside):
        (folder / "model.safetensors").unlink()
        _write_index(folder, {"a": outside})
        with pytest.raises(CheckpointError, match="names files outside its folder: "):
            weight_files(folder)

    def test_an_index_must_not_name_pickles(self, folder):
        (folder / "pytorch_model.bin").touch()
        (folder / "model.safetensors").unlink()
        _write_index(folder, {"a": "model.safetensors", "b": "pytorch_model.bin"})
        with pytest.raises(CheckpointError, match="that are not safetensors: pytorch_model.bin"):
            weight_files(folder)

    @pytest.mark.parametrize(
        "content", ["{", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": 3}']
    )
    def test_a_damaged_index(self, folder, content):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"index\.json"):
            weight_files(folder)

    def test_an_index_of_nothing(self, folder):
        (folder / "model.safetensors").unlink()
        _write_index(folder, {})
        with pytest.raises(CheckpointError, match="names no files"):
            weight_files(folder)


class TestIsComplete:
    @pytest.fixture(autouse=True)
    def _offline_or_not(self, monkeypatch):
        self.offline = False
        monkeypatch.setattr(checkpoints, "hub_is_offline", lambda: self.offline)

    @pytest.mark.parametrize("offline", [False, True])
    def test_config_weights_vocabulary_and_its_config(self, folder, offline):
        self.offline = offline
        assert is_complete(folder)

    @pytest.mark.parametrize("offline", [False, True])
    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_one_of_them_is_missing(self, folder, name, offline):
        self.offline = offline
        (folder / name).unlink()
        assert not is_complete(folder)

    def test_another_vocabulary_will_do(self, folder):
        (folder / "tokenizer.json").rename(folder / "vocab.txt")
        assert is_complete(folder)

    def test_the_tokenizer_config_is_worth_a_request_but_not_needed(self, folder):
        (folder / "tokenizer_config.json").unlink()
        assert not is_complete(folder)
        self.offline = True
        assert is_complete(folder)

    def test_a_shard_is_missing(self, folder):
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        _write_index(folder, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
        assert not is_complete(folder)

    def test_what_is_refused_is_there_nevertheless(self, folder):
        """The error that says why comes from the weights, not from a search on the hub."""
        (folder / "adapter_config.json").write_text("{}")
        assert is_complete(folder)


def test_read_config(folder):
    assert read_config(folder)["model_type"] == "bert"


def test_the_digest_is_of_names_and_contents(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("x")
    other.write_text("x")
    digest = digest_of_files(tmp_path, [one])
    assert len(digest) == 64
    assert digest != digest_of_files(tmp_path, [other])
    assert digest_of_files(tmp_path, [one, other]) == digest_of_files(tmp_path, [other, one])


def test_the_processor_is_configuration_and_tokenizer(folder):
    (folder / "special_tokens_map.json").unlink(missing_ok=True)  # transformers 4 writes one
    assert [path.name for path in processor_files(folder)] == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    (folder / "merges.txt").touch()
    assert "merges.txt" in [path.name for path in processor_files(folder)]


def _write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_the_context_is_the_least_that_the_files_advise(folder):
    assert read_context(folder, read_config(folder)) == 64
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')
    assert read_context(folder, read_config(folder)) == 32
    edit_json(folder / "tokenizer_config.json", model_max_length=1e30)
    edit_json(folder / "config.json", max_position_embeddings=16)
    assert read_context(folder, read_config(folder)) == 16
    (folder / "sentence_bert_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="sentence_bert_config.json does not hold a JSON object"):
        read_context(folder, read_config(folder))


def test_no_context_at_all(folder):
    edit_json(folder / "tokenizer_config.json", model_max_length=None)
    edit_json(folder / "config.json", max_position_embeddings=None)
    with pytest.raises(CheckpointError, match="names no max_position_embeddings"):
        read_context(folder, read_config(folder))
