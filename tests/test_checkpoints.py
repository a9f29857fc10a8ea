from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sae_features.checkpoints import (
    digest_of_files,
    is_complete,
    processor_files,
    read_config,
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
        _write_index(folder, {"a": names[1], "b": names[0], "c": names[1]})
        assert weight_files(folder) == [folder / name for name in names]

    def test_pickled_weights_only(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError) as raised:
            weight_files(folder)
        assert str(raised.value) == (
            f"{folder} lacks model.safetensors. It has pytorch_model.bin: pickled weights can execute "
            "code and are not read. Convert them with transformers' save_pretrained."
        )

    def test_a_missing_shard(self, folder):
        _write_index(folder, {"a": "model.safetensors", "b": "model-2.safetensors"})
        with pytest.raises(CheckpointError) as raised:
            weight_files(folder)
        assert str(raised.value) == f"{folder} lacks model-2.safetensors."

    @pytest.mark.parametrize(
        "outside", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors"]
    )
    def test_an_index_must_not_leave_its_folder(self, folder, outside):
        _write_index(folder, {"a": outside})
        with pytest.raises(CheckpointError, match="names files outside its folder: "):
            weight_files(folder)

    def test_an_index_must_not_name_pickles(self, folder):
        (folder / "pytorch_model.bin").touch()
        _write_index(folder, {"a": "model.safetensors", "b": "pytorch_model.bin"})
        with pytest.raises(CheckpointError, match="that are not safetensors: pytorch_model.bin"):
            weight_files(folder)

    @pytest.mark.parametrize(
        "content", ["{", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": 3}']
    )
    def test_a_damaged_index(self, folder, content):
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"index\.json"):
            weight_files(folder)

    def test_an_index_of_nothing(self, folder):
        _write_index(folder, {})
        with pytest.raises(CheckpointError, match="names no files"):
            weight_files(folder)


class TestIsComplete:
    def test_config_and_weights(self, folder):
        assert is_complete(folder)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_one_of_them_is_missing(self, folder, name):
        (folder / name).unlink()
        assert not is_complete(folder)

    def test_a_shard_is_missing(self, folder):
        _write_index(folder, {"a": "model.safetensors", "b": "model-2.safetensors"})
        assert not is_complete(folder)


def test_read_config(folder):
    assert read_config(folder)["model_type"] == "bert"


def test_the_digest_is_of_names_and_contents(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("x")
    other.write_text("x")
    digest = digest_of_files([one])
    assert len(digest) == 64
    assert digest != digest_of_files([other])
    assert digest_of_files([one, other]) == digest_of_files([other, one])


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
