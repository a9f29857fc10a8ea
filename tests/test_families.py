from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
from tiny import edit_json

from sae_features import families
from sae_features.errors import (
    AssetNotFoundError,
    PluginError,
    SAEFeaturesWarning,
)
from sae_features.families import list_families
from sae_features.models import find_model

MODULE = (
    "from sae_features.architectures import Architecture, Patches\n"
    "from sae_features.families import ModelFamily\n"
    "FAMILY = ModelFamily({arguments})\n"
)


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


class TestPlugins:
    """Through entry points, as plugins are installed."""

    def test_they_are_listed_without_an_import(self, install):
        install("tiny-plugin", {families.GROUP: {"tiny": "tiny_family_module:FAMILY"}}, version="3.1")
        record = list_families()["tiny"]
        assert (record.distribution, record.version) == ("tiny-plugin", "3.1")
        assert "tiny_family_module" not in sys.modules

    def test_a_third_party_family_reads_its_type(self, install, folder):
        self._install(install, "'tiny', (Architecture('tiny-type'),)")
        edit_json(folder / "config.json", model_type="tiny-type")
        assert find_model(folder).family.name == "tiny"

    @pytest.mark.parametrize("version", ["(1, 1)", "(2, 0)", "(0, 9)"])
    def test_another_version_of_the_interface_is_left_out(self, install, folder, version):
        self._install(install, f"'tiny', (Architecture('tiny-type'),), api_version={version}")
        edit_json(folder / "config.json", model_type="tiny-type")
        major, minor = version.strip("()").split(", ")
        message = (
            f"The family 'tiny' speaks version {major}.{minor} of the plugin interface; this is 1.0. It "
            "is left out: update it or sae-features."
        )
        with pytest.warns(SAEFeaturesWarning) as caught:
            assert "tiny" not in families.families()
        assert [str(warning.message) for warning in caught] == [message]
        with pytest.raises(PluginError) as raised:
            find_model(folder)
        assert str(raised.value).endswith(message)

    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [
            ("api_version='1.0'", "api_version='1.0'; expected (major, minor)."),
            ("api_version=1", "api_version=1; expected (major, minor)."),
            ("api_version=None", "api_version=None; expected (major, minor)."),
            ("api_version=(1,)", "api_version=(1,); expected (major, minor)."),
            ("api_version=(1, 0, 0)", "api_version=(1, 0, 0); expected (major, minor)."),
            ("api_version=('1', '0')", "api_version=('1', '0'); expected (major, minor)."),
            ("api_version=(True, False)", "api_version=(True, False); expected (major, minor)."),
        ],
    )
    def test_what_cannot_be_is_left_out_and_does_not_break_the_others(
        self, install, folder, arguments, shown
    ):
        self._install(install, f"'tiny', (Architecture('tiny-type'),), {arguments}")
        message = f"The family 'tiny' gives {shown} It is left out."
        with pytest.warns(SAEFeaturesWarning) as caught:
            assert "tiny" not in families.families()
        assert [str(warning.message) for warning in caught] == [message]
        assert find_model(folder).family.name == "bert"
        with pytest.raises(AssetNotFoundError) as raised:
            find_model("tiny-model")
        assert str(raised.value).endswith(message)

    @pytest.mark.parametrize("given", ["'tiny-type'", "('tiny-type',)", "['tiny-type']", "None"])
    def test_architectures_are_a_tuple_of_them(self, install, given):
        self._install(install, f"'tiny', {given}")
        message = (
            f"The family 'tiny' gives architectures={given}; expected a tuple of Architecture. It is "
            "left out."
        )
        with pytest.warns(SAEFeaturesWarning) as caught:
            assert "tiny" not in families.families()
        assert [str(warning.message) for warning in caught] == [message]

    def test_a_type_that_is_declared_twice(self, install):
        self._install(install, "'tiny', (Architecture('b'), Architecture('a'), Architecture('b'))")
        with pytest.warns(SAEFeaturesWarning) as caught:
            assert "tiny" not in families.families()
        assert [str(warning.message) for warning in caught] == [
            "The family 'tiny' declares b twice. It is left out."
        ]

    def test_image_models_are_a_modality(self, install):
        self._install(install, "'tiny', (Architecture('vit', (Patches(),)),)")
        (architecture,) = families.families()["tiny"].architectures
        assert architecture.modalities == ("image",)

    def test_a_name_of_two_distributions_is_listed_and_not_used(self, install):
        value = "tiny_family_module:FAMILY"
        for name in ("first-plugin", "second-plugin"):
            install(name, {families.GROUP: {"tiny": value}})
        assert list_families()["tiny"].value == value
        message = (
            "first-plugin 1.0 and second-plugin 1.0 both register 'tiny' in sae_features.families; "
            "uninstall one of them."
        )
        with pytest.warns(SAEFeaturesWarning) as caught:
            assert "tiny" not in families.families()
        assert [str(warning.message) for warning in caught] == [message]
        with pytest.raises(AssetNotFoundError) as raised:
            find_model("tiny-model")
        assert str(raised.value).endswith(message)

    def test_what_is_no_family_is_left_out(self, install):
        install(
            "tiny-plugin",
            {families.GROUP: {"tiny": "tiny_family_module:FAMILY"}},
            modules={"tiny_family_module": "FAMILY = {'name': 'tiny'}"},
        )
        message = "^The plugin 'tiny' gives a dict; expected a ModelFamily. It is left out.$"
        with pytest.warns(SAEFeaturesWarning, match=message):
            assert "tiny" not in families.families()

    def test_a_broken_one_leaves_the_others_working_and_is_named_where_it_is_missed(
        self, install, folder
    ):
        self._install(install, "'tiny', (Architecture('tiny-type'),)")
        install(
            "broken-plugin",
            {families.GROUP: {"broken": "tiny_broken_module:FAMILY"}},
            modules={"tiny_broken_module": "raise OSError('no such card')"},
        )
        edit_json(folder / "config.json", model_type="tiny-type")
        with pytest.warns(SAEFeaturesWarning, match="^The plugin 'broken' of broken-plugin 1.0"):
            assert find_model(folder).family.name == "tiny"
        with pytest.raises(AssetNotFoundError) as raised:
            find_model("broken-model")
        assert str(raised.value).endswith(
            "The plugin 'broken' of broken-plugin 1.0 could not be imported: OSError: no such card. "
            "Update or uninstall broken-plugin."
        )

    @staticmethod
    def _install(install, arguments):
        install(
            "tiny-plugin",
            {families.GROUP: {"tiny": "tiny_family_module:FAMILY"}},
            modules={"tiny_family_module": MODULE.format(arguments=arguments)},
        )


def test_records_are_plain_values(tiny_family):
    assert dataclasses.replace(tiny_family, compute_version=2).compute_version == 2
