"""What a Prisma configuration says of sizes holds for the weights beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sae_features import load_sae
from sae_features.errors import SAEFormatError

GOLDEN = Path(__file__).parents[1] / "golden" / "prisma" / "standard_relu" / "files"


@pytest.fixture
def folder(tmp_path):
    """A copy of the golden SAE whose configuration a test may change."""
    (config,) = GOLDEN.rglob("config.json")
    return Path(shutil.copytree(config.parent, tmp_path / "sae"))


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_width_is_a_multiple_of_the_input(folder):
    config = json.loads((folder / "config.json").read_text())
    assert load_sae(folder).n_latents == config["d_in"] * config["expansion_factor"]
    edit(folder, expansion_factor=float(config["expansion_factor"]))
    assert load_sae(folder).n_latents == config["d_in"] * config["expansion_factor"]


@pytest.mark.parametrize("factor", [1, 4.5, 10**30, 0, -3, "3"])
def test_weights_of_another_width_are_refused(folder, factor):
    edit(folder, expansion_factor=factor)
    with pytest.raises(SAEFormatError):
        load_sae(folder)
