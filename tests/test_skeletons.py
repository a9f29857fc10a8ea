"""Sites and widths of a model without its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import SITES_OF_BERT, edit_json

from sae_features import skeletons
from sae_features.errors import CheckpointError
from sae_features.hook_point import HookPoint
from sae_features.models import find_model
from sae_features.sharing import Shared
from sae_features.skeletons import MAX_SKELETONS, skeleton_of

pytestmark = pytest.mark.usefixtures("tiny_family")


def skeleton(files):
    return skeleton_of(files.folder, files.family, files.architecture)


@pytest.fixture(autouse=True)
def _no_skeletons(monkeypatch):
    monkeypatch.setattr(skeletons, "_skeletons", Shared(MAX_SKELETONS))


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the configuration of the tiny BERT, without weights and tokenizer."""
    (tmp_path / "model").mkdir()
    return Path(shutil.copy(tiny_bert / "config.json", tmp_path / "model")).parent


def test_it_says_what_the_loaded_model_says(bert, xlmr):
    for name, backbone in (("tiny", bert), ("tiny-xlmr", xlmr)):
        found = skeleton(find_model(name))
        assert found.sites == backbone.sites
        assert (found.n_layers, found.d_model) == (backbone.n_layers, backbone.d_model)
        for site in backbone.sites:
            point = HookPoint(-1, site)
            assert found.parse(point) == backbone.parse(point)
            assert found.width(found.parse(point)) == backbone.width(backbone.parse(point))


def test_the_configuration_alone_is_enough_and_nothing_takes_memory(folder):
    found = skeleton(find_model(folder))
    assert ", ".join(found.sites) == SITES_OF_BERT
    assert {parameter.device.type for parameter in found.model.parameters()} == {"meta"}


def test_it_is_built_once_until_a_file_changes(folder):
    first = skeleton(find_model(folder))
    assert skeleton(find_model(folder)) is first
    edit_json(folder / "config.json", intermediate_size=96)
    second = skeleton(find_model(folder))
    assert second.width(HookPoint(0, "mlp_hidden")) == 96
    assert first.width(HookPoint(0, "mlp_hidden")) == 64


def test_few_are_kept(folder, tmp_path):
    for number in range(MAX_SKELETONS + 2):
        skeleton(find_model(shutil.copytree(folder, tmp_path / f"copy-{number}")))
    assert len(skeletons._skeletons) == MAX_SKELETONS


def test_sites_of_every_block_need_no_structure(folder, monkeypatch):
    monkeypatch.setattr(skeletons, "skeleton_of", None)
    files = find_model(folder)
    for site in ("resid_pre", "resid_post"):
        assert files.parse(HookPoint(2, site)) == HookPoint(2, site)
        assert files.width(HookPoint(2, site)) == 32


def test_what_cannot_be_built(folder):
    edit_json(folder / "config.json", hidden_size=33)
    with pytest.raises(CheckpointError, match=f"^The structure of the model in {folder} could not be"):
        skeleton(find_model(folder))
