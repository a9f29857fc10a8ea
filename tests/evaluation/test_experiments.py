"""The configurations in ``experiments``: every key is one that there is, every value one that can be."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sae_features.evaluation.configs import DATA_KEYS, Config, parameters_of
from sae_features.evaluation.probe_moves import MovedProbes
from sae_features.evaluation.results import Results
from sae_features.evaluation.sweep import FeatureSweep
from sae_features.evaluation.transfer import CrossLingualTransfer

FOLDER = Path(__file__).parents[2] / "experiments"
PROTOCOLS = {
    None: FeatureSweep, "cross_lingual": CrossLingualTransfer, "cross_model": FeatureSweep,
    "moved_probe": MovedProbes,
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_a_configuration_can_be_run(path):
    config = Config(path)
    kind = PROTOCOLS[config.values.get("protocol")]
    tables = ["data", "corpus", "behaviour"]
    config.check_keys([*parameters_of(kind), "protocol", "title", "name", *tables])
    for table in config.tables("data"):
        config.check_keys(DATA_KEYS, table)
    kind(**config.parameters(kind))


def test_tables_of_results(words_only, make_data, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("tables", FOLDER / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    sweep = FeatureSweep(**words_only, baselines=("tfidf_word", "bag_of_words"), folder=tmp_path)
    results = sweep.run([make_data(name=name) for name in "ab"])
    tables.vision(Results.read(tmp_path))
    tables.tell_control(results)
    printed = capsys.readouterr().out
    assert "**a**" in printed
    assert "| bag of words | 0." in printed
    assert "Permuted labels: at chance" in printed
