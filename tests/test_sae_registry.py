from __future__ import annotations

import dataclasses
import json

import pytest
from tiny import BERT, RELEASE_TABLES

from sae_features import sae_registry
from sae_features.architectures import Architecture
from sae_features.discovery import PluginRecord
from sae_features.errors import InvalidParameterError, PluginError, SAEFeaturesWarning
from sae_features.families import ModelFamily, ModelSource
from sae_features.sae_sources import SAESource

COMMIT = "d" * 40
OTHERS = ModelFamily("others", (), release_tables=RELEASE_TABLES)
"""A family with the tables of all plugins."""


class TestKnownSAEs:
    def test_a_family_s_come_first_then_the_tables(self, tiny_family, use_families):
        use_families(tiny_family, OTHERS)
        known = sae_registry.known_saes()
        assert known[:2] == list(tiny_family.saes)
        assert len(known) > 14_000
        assert len({source.sae_id for source in known}) == len(known)

    @pytest.mark.parametrize("name", ["tiny", "tests/tiny-bert", f"tests/tiny-bert@{'a' * 40}"])
    def test_those_of_a_model(self, tiny_family, name):
        assert sae_registry.known_saes(name) == list(tiny_family.saes)

    @pytest.mark.parametrize("name", ["gpt2-small", "openai-community/gpt2", "gpt2", "small"])
    def test_those_of_a_model_in_the_tables(self, use_families, name):
        source = ModelSource("openai-community/gpt2", COMMIT)
        architectures = (Architecture("gpt2"),)
        use_families(ModelFamily("gpt", architectures, {"small": source}, release_tables=RELEASE_TABLES))
        known = sae_registry.known_saes(name)
        assert {source.model for source in known} == {"openai-community/gpt2"}
        assert len(known) == 159

    def test_one_is_the_one_family_s_that_has_it(self, tiny_family, use_families):
        assert sae_registry.known_sae("tiny-sae/layer_2") == tiny_family.saes[1]
        assert sae_registry.known_sae("tiny-sae/layer_9") is None
        first = dataclasses.replace(tiny_family.saes[0], layer=2)
        use_families(dataclasses.replace(tiny_family, saes=(first, *tiny_family.saes)))
        assert (
            sae_registry.known_sae("tiny-sae/layer_1") == first
        )  # twice in one family is its own affair
        use_families(tiny_family, dataclasses.replace(tiny_family, name="other"))
        message = "^The families tiny-family and other both have an SAE 'tiny-"
        with pytest.raises(PluginError, match=message):
            sae_registry.known_sae("tiny-sae/layer_1")

    def test_what_a_family_brings_goes_before_its_tables(self, use_families):
        sae_id = "gpt2-small-res-jb/blocks.3.hook_resid_pre"
        assert sae_registry.known_sae(sae_id).repo_id == "jbloom/GPT2-Small-SAEs-Reformatted"
        own = SAESource(sae_id, "gpt2", 3, package="tiny_package", is_default=True)
        use_families(dataclasses.replace(OTHERS, saes=(own,)))
        assert sae_registry.known_sae(sae_id) == own
        assert [source for source in sae_registry.known_saes() if source.sae_id == sae_id] == [own]

    @pytest.mark.parametrize("revision", [COMMIT, "main", "refs/pr/1"])
    def test_a_revision_follows_the_last_at_sign(self, revision):
        plain = sae_registry.known_sae("gpt2-small-res-jb/blocks.3.hook_resid_pre")
        pinned = sae_registry.known_sae(f"gpt2-small-res-jb/blocks.3.hook_resid_pre@{revision}")
        assert (plain.revision, pinned.revision) == (None, revision)
        assert pinned == dataclasses.replace(
            plain, sae_id=f"{plain.sae_id}@{revision}", revision=revision
        )
        assert sae_registry.known_sae("gpt2-small-res-jb/nowhere@main") is None
        assert sae_registry.known_sae("gpt2-small-res-jb/blocks.3.hook_resid_pre@") is None

    def test_a_packaged_one_has_no_revisions(self, tiny_family):
        with pytest.raises(InvalidParameterError) as raised:
            sae_registry.known_sae("tiny-sae/layer_1@main")
        assert str(raised.value) == (
            "Got 'tiny-sae/layer_1@main'; 'tiny-sae/layer_1' is in an installed package: leave '@main' "
            "out."
        )

    def test_they_can_be_hashed(self, tiny_family, use_families):
        use_families(tiny_family, OTHERS)
        source = sae_registry.known_sae("gpt2-small-res-jb/blocks.3.hook_resid_pre")
        assert len({source, *tiny_family.saes, source}) == 3


class TestTablesOfFamilies:
    TABLE = {  # noqa: RUF012
        "schema": 1,
        "releases": {
            "tiny-release": {
                "model": "tiny", "repo": "owner/saes", "id": "layer_{layer}", "default": "layer_1",
                "columns": "layer", "rows": ["0..2"],
            }
        },
    }  # fmt: skip

    @pytest.fixture
    def table(self, tmp_path, monkeypatch):
        """A package with a table, which must not be imported."""
        package = tmp_path / "table_package"
        package.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('a package of files was imported')\n")
        (package / "saes.json").write_text(json.dumps(self.TABLE))
        monkeypatch.syspath_prepend(tmp_path)
        return package / "saes.json"

    def test_their_saes_are_known(self, use_families, table):
        use_families(ModelFamily("tiny", (BERT,), release_tables=("table_package:saes.json",)))
        source = sae_registry.known_sae("tiny-release/layer_1")
        assert (source.layer, source.repo_id, source.path) == (1, "owner/saes", "layer_1")
        assert [source.is_default for source in sae_registry.known_saes("tiny")] == [False, True, False]
        assert sae_registry.closest_saes("tiny-releases/layer_3") == ["tiny-release/layer_2"]

    def test_one_id_of_two_families_is_an_error(self, use_families, table):
        own = ModelFamily("first", (BERT,), release_tables=("table_package:saes.json",))
        use_families(own, dataclasses.replace(own, name="second"))
        with pytest.raises(PluginError, match="^The families first and second both have an SAE 'tiny-r"):
            sae_registry.known_sae("tiny-release/layer_1")

    def test_a_missing_table_is_warned_of_and_raised_where_it_may_be_meant(self, use_families):
        use_families(ModelFamily("tiny", (BERT,), release_tables=("no_such_package_xyz:saes.json",)))
        message = (
            "Got release table 'no_such_package_xyz:saes.json'; expected a file at "
            "'package:path/in/package.json'."
        )
        with pytest.warns(SAEFeaturesWarning) as caught:
            assert sae_registry.known_saes() == []
        assert [str(w.message) for w in caught] == [f"{message} The family 'tiny' lacks its SAEs."]
        with pytest.raises(PluginError, match="^Got release table 'no_such_package_xyz"):
            sae_registry.known_sae("tiny-release/layer_1")

    def test_a_damaged_table_is_left_out(self, use_families, table):
        table.write_text("{")
        use_families(ModelFamily("tiny", (BERT,), release_tables=("table_package:saes.json",)), OTHERS)
        with pytest.warns(SAEFeaturesWarning, match="saes.json is not JSON: .* The table is left out.$"):
            assert len(sae_registry.known_saes()) > 14_000


class TestMissingPlugins:
    def test_those_that_are_not_installed_are_named(self, monkeypatch):
        records = {
            name: PluginRecord(name, f"sae-features-{name}", "1", "")
            for name in ("bert", "gpt", "llama")
        }
        monkeypatch.setattr(sae_registry, "list_families", lambda: records)
        expected = ["sae-features-gemma", "sae-features-qwen", "sae-features-vision"]
        assert sae_registry.missing_plugins() == expected

    def test_here_all_are_installed(self):
        assert sae_registry.missing_plugins() == []


class TestClosestSAEs:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            (
                "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_80",
                "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82",
            ),
            (
                "gemma-scope-2b-pt-ress/layer_12/width_16k/average_l0_80",
                "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82",
            ),
            (
                "google/gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_70",
                "gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_68",
            ),
            (
                "gpt2-small-res-jb/blocks.12.hook_resid_pre@main",
                "gpt2-small-res-jb/blocks.11.hook_resid_pre",
            ),
            ("qwen-scope-3-8b-base-w64k-l50/layer99", "qwen-scope-3-8b-base-w64k-l50/layer35"),
            ("tiny-sae/layer_7", "tiny-sae/layer_2"),
        ],
    )
    def test_the_nearest_comes_first(self, tiny_family, use_families, name, nearest):
        use_families(tiny_family, OTHERS)
        found = sae_registry.closest_saes(name)
        assert found[0] == nearest
        assert len(found) <= 3
        assert sae_registry.closest_saes(name, n=1) == [nearest]

    def test_nothing_is_near(self):
        assert sae_registry.closest_saes("zzz/zzz") == []
