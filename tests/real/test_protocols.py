"""Each protocol from one TOML file, on real models: again, or after a kill, nothing is read twice."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from sae_features.backbones.backbone import Backbone
from sae_features.cli import main
from sae_features.datasets import load_movie_snippets
from sae_features.packaged_assets import fetch

QUESTIONS = [
    ("The capital of France is", ["Paris", "London"], 0),
    ("The opposite of hot is", ["wet", "cold"], 1),
    ("A baby cat is called a", ["puppy", "kitten"], 1),
    ("The sun rises in the", ["east", "west"], 0),
    ("Snow is", ["white", "green"], 0),
    ("Two plus two is", ["four", "five"], 1),  # keys that are wrong: some answers must be
    ("The first month is", ["January", "March"], 1),
    ("Fish live in", ["water", "trees"], 1),
    ("A week has seven", ["days", "years"], 1),
    ("We see with our", ["eyes", "ears"], 1),
]
COMMON = 'cv = 2\ninner = 2\nstrengths = [1.0]\npoolings = ["max"]\n'
CONFIGS = {
    "cross_lingual": 'models = ["minilm"]\nbaselines = ["states", "chance"]\n'
    '[[data]]\npath = "movies.csv"\nname = "a"\nwhere = {half = "a"}\n'
    '[[data]]\npath = "movies.csv"\nname = "b"\nwhere = {half = "b"}\n',
    "cross_model": 'models = ["minilm"]\nbaselines = ["states"]\n'
    '[[behaviour]]\nmodel = "smollm2"\npath = "questions.jsonl"\n',
    "moved_probe": 'models = ["minilm", "smollm2"]\naligners = ["correlation"]\n'
    '[[data]]\npath = "movies.csv"\n[[corpus]]\npath = "movies.csv"\n',
}
SETTINGS = {
    "cross_lingual": {"in_language", "zero_shot"},
    "cross_model": {""},
    "moved_probe": {"in_model", "moved", "shuffled_pairs"},
}


@pytest.fixture
def folder(tmp_path):
    movies = load_movie_snippets()
    with (tmp_path / "movies.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label", "half"))
        for i in range(20):
            writer.writerow((movies.data[i], movies.target[i], "ab"[i % 20 >= 10]))
    with (tmp_path / "questions.jsonl").open("w", encoding="utf-8") as stream:
        for prompt, choices, right in QUESTIONS:
            stream.write(json.dumps({"prompt": prompt, "choices": choices, "right": right}) + "\n")
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """How often each window of an item runs through each model, by its width."""
    counts, genuine = Counter(), Backbone.run

    def run(backbone, windows, *rest, **options):
        of_images = (str(picture.source) for picture in windows.pictures)
        of_texts = (ids.tobytes() for ids in windows.ids)
        counts.update((backbone.d_model, each) for each in (*of_images, *of_texts))
        return genuine(backbone, windows, *rest, **options)

    monkeypatch.setattr(Backbone, "run", run)
    return counts


@pytest.mark.parametrize("protocol", CONFIGS)
def test_a_protocol_from_one_file_reads_each_text_once(protocol, folder, read, capsys):
    file = folder / "run.toml"
    file.write_text(f'protocol = "{protocol}"\n{COMMON}{CONFIGS[protocol]}')
    command = ["transfer", str(file), "--quiet", "--json"]
    assert main(command) == 0, capsys.readouterr().err
    first = json.loads(capsys.readouterr().out)
    with (folder / "run" / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["setting"] for row in rows} == SETTINGS[protocol]
    assert {row["control"] for row in rows} == {"none", "permuted"}
    report = (folder / "run" / "report.md").read_text(encoding="utf-8")
    assert ("### latent " in report) == (protocol == "cross_model")
    assert read
    assert set(read.values()) == {1}
    read.clear()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert not read


def test_a_folder_of_pictures(tmp_path, read, capsys):
    source = fetch("textile") / "images"
    for label in ("local", "nominal"):
        (tmp_path / "textile" / label).mkdir(parents=True)
        for picture in sorted((source / label).glob("*.jpg"))[:6]:
            shutil.copy(picture, tmp_path / "textile" / label)
    (tmp_path / "run.toml").write_text(
        f'{COMMON}models = ["dinov2-small"]\nbaselines = ["states", "pixels"]\n'
        '[[data]]\npath = "textile"\n'
    )
    command = ["sweep", str(tmp_path / "run.toml"), "--quiet", "--json"]
    assert main(command) == 0, capsys.readouterr().err
    first = json.loads(capsys.readouterr().out)
    assert len(first["means"]) == 3
    assert "the patch framed" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert len(read) == 12
    assert set(read.values()) == {1}
    read.clear()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert not read


def test_a_killed_sweep_goes_on_where_it_stopped(folder):
    (folder / "run.toml").write_text(
        f'{COMMON}models = ["minilm"]\nbaselines = ["states", "random_sae", "pca", "tfidf_word"]\n'
        '[[data]]\npath = "movies.csv"\n'
    )
    command = [
        sys.executable,
        "-m",
        "sae_features",
        "sweep",
        str(folder / "run.toml"),
        "--quiet",
        "--json",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    cells = folder / "run" / "cells"
    until = time.monotonic() + 300
    while not (cells.is_dir() and len(list(cells.glob("*.npz"))) >= 2):
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (folder / "run" / "results.csv").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.npz")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["means"]) == 5
    for name, time_ns in kept.items():
        assert (cells / name).stat().st_mtime_ns == time_ns  # nothing was computed again
