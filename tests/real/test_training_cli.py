"""MiniLM, real texts and a few seconds of training; SmolLM2 for what a language model loses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from sae_features import SAEFeaturizer, cli, load_sae
from sae_features.datasets import load_movie_snippets
from sae_features.packaged_assets import fetch
from sae_features.training.loss_recovered import loss_recovered
from sae_features.training.saved_runs import NAME

LAYER = 3
FEW = [
    "--model",
    "minilm",
    "--layer",
    LAYER,
    "--n-latents",
    512,
    "--k",
    16,
    "--batch-size",
    512,
    "--quiet",
]


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The first 400 snippets: some ten thousand tokens."""
    path = tmp_path_factory.mktemp("corpus") / "snippets.jsonl"
    texts = load_movie_snippets().data[:400]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def trained(capsys, corpus, tmp_path):
    """An SAE of one command."""
    folder = tmp_path / "sae"
    status, out, err = run(capsys, "train", corpus, "-o", folder, *FEW, "--tokens", "100k")
    assert status == 0, err
    return folder, out


@torch.no_grad()
def by_hand(sae, texts):
    """Max-pooled latents of content tokens, by the original library, text after text."""
    folder = fetch("minilm")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        rows.append(sae.encode(states[LAYER + 1][0, 1:-1]).amax(dim=0).numpy())
    return np.stack(rows)


def test_what_is_trained_is_used_with_no_other_arguments(trained):
    folder, out = trained
    assert "snippets.jsonl: 400 items, 380 to train on, 20 held out" in out
    texts = load_movie_snippets().data[400:420]
    features = SAEFeaturizer(sae=folder).fit_transform(texts).toarray()
    expected = by_hand(load_sae(folder), texts)
    assert np.abs(features - expected).max() <= 1e-5 * expected.max()
    metrics = load_sae(folder).metadata["metrics"]
    assert metrics["fvu"] < 0.45
    assert metrics["l0"] == pytest.approx(16, abs=0.01)


def test_a_kill_and_the_same_command_give_the_same_digest(capsys, trained, corpus, tmp_path):
    folder = tmp_path / "killed"
    words = ["train", corpus, "-o", folder, *FEW, "--tokens", "100k", "--save-seconds", "0.2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sae_features", *map(str, words)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    deadline = time.monotonic() + 300
    while not (folder / "training" / NAME).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert re.search(r"note: going on from step \d+", out)
    assert load_sae(folder).digest == load_sae(trained[0]).digest


def test_what_a_language_model_loses(capsys, tmp_path):
    texts = load_movie_snippets().data[:6]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sae = "smollm2-topk-4k/layer_14"
    status, out, err = run(capsys, "evaluate", sae, path, "--loss-recovered", "--json", "--quiet")
    assert status == 0, err
    record = json.loads(out)
    expected = loss_recovered(load_sae(sae), "smollm2", texts, max_length=256, overflow="chunk")
    assert record["n_predictions"] == expected.n_predictions
    for name in ("ce_original", "ce_sae", "loss_recovered_zero", "loss_recovered_mean", "kl"):
        assert record[name] == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-4)
