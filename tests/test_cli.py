"""The command line, in process; `demo` with a small stand-in for the data."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils import Bunch

from sae_features import SAEFeaturizer, cli, demo, load_sae
from sae_features.extract import Written, read_features
from sae_features.releases import find_sae

VERBS = ["demo", "info", "plugins", "inspect", "saes", "extract", "train", "evaluate"]


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_a_verb_is_needed(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2
    assert "VERB" in capsys.readouterr().err


def test_python_dash_m(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sae_features", "plugins", "--json"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("sae_features", run_name="__main__")
    assert stopped.value.code == 0
    assert {"bert", "sae-features"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}


def test_info(capsys):
    status, out, _ = run(capsys, "info", "--json")
    info = json.loads(out)
    assert status == 0
    assert info["families"]["bert"].startswith("sae-features-bert")
    assert info["versions"]["torch"]
    assert "cpu" in info["devices"]
    assert set(info["caches"]) >= {"hugging_face_hub", "packaged_assets"}
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "families:\n  bert: sae-features-bert" in out


def test_plugins_show_what_is_broken(capsys, monkeypatch):
    from sae_features import discovery

    record = discovery.PluginRecord("odd", "sae-features-odd", "1.0", "no_such_module:X")
    genuine = discovery.records
    monkeypatch.setattr(discovery, "records", lambda group: (*genuine(group), record))
    _, out, _ = run(capsys, "plugins", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["odd"]["status"] == "broken"
    assert "could not be imported: ModuleNotFoundError" in rows["odd"]["error"]
    assert rows["bert"]["status"] == "ok"
    _, out, _ = run(capsys, "info", "--json")
    assert json.loads(out)["families"]["odd"] == "sae-features-odd 1.0 (broken: sae-features plugins)"


def test_inspect(capsys, tiny_sae_folder):
    folder = tiny_sae_folder("topk")
    _, out, _ = run(capsys, "inspect", folder, "--json")
    header = json.loads(out)
    assert (header["d_in"], header["n_latents"], header["conventions"]["k"]) == (32, 48, 5)
    assert header["hook_point"] == {"layer": 1, "site": "resid_post"}
    weights = folder / "sae.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)  # the header needs none
    status, out, _ = run(capsys, "inspect", folder)
    assert status == 0
    assert "architecture: topk" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["inspect", "nowhere"], "nothing is there"),
        (["inspect", "random:8:2"], "a random SAE has no files"),
        (["extract", "none.txt", "-o", "f.npz"], "expected a file there"),
        (["extract", "none.txt", "-o", "f.xyz"], "expected a file of kind .npz or .parquet"),
    ],
)
def test_errors_are_one_line_and_status_1(capsys, arguments, text):
    status, out, err = run(capsys, *arguments)
    assert status == 1
    assert out == ""
    assert err.startswith("sae-features: error: ")
    assert err.count("\n") == 1
    assert text in err


def test_debug_shows_the_traceback(capsys):
    status, _, err = run(capsys, "inspect", "nowhere", "--debug")
    assert status == 1
    assert "Traceback" in err


def test_unexpected_errors_are_one_line_too(capsys, monkeypatch):
    def fail(*_args):
        raise ZeroDivisionError("line one\nline two")

    monkeypatch.setattr("sae_features.discovery.records", fail)
    status, _, err = run(capsys, "plugins")
    assert status == 1
    assert err == "sae-features: error: ZeroDivisionError: line one line two (--debug shows where)\n"


def test_ctrl_c(capsys, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_features.discovery.records", interrupt)
    assert run(capsys, "plugins")[0] == 130


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_extract(capsys, tmp_path, tiny_bert, tiny_sae_folder, kind):
    source, out = tmp_path / "texts.csv", tmp_path / f"f.{kind}"
    texts = ["a calm river", "snow", "", "the sea"]
    source.write_text("id,body\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts)))
    sae = tiny_sae_folder("topk")
    status, printed, err = run(
        capsys, "extract", source, "-o", out, "--column", "body", "--model", tiny_bert,
        "--sae", sae, "--pooling", "mean", "--threshold", "0.1", "--json",
    )  # fmt: skip
    assert status == 0
    assert "4/4" in err
    assert "warning: 1 of 4 texts have no token that counts" in err
    rows, provenance = read_features(out)
    assert json.loads(printed)["nonzero"] == rows.nnz
    featurizer = SAEFeaturizer(tiny_bert, sae=sae, pooling="mean", threshold=0.1, cache=False)
    with pytest.warns(UserWarning, match="no token"):
        expected = featurizer.transform(texts)
    np.testing.assert_array_equal(rows.toarray(), expected.toarray())
    assert provenance["input"]["file"] == "texts.csv"
    assert provenance["input"]["column"] == "body"
    assert provenance["parameters"]["threshold"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "variable", "cache"),
    [
        ([], None, False),
        ([], "", False),
        ([], "/some/folder", None),
        ([], "0", None),
        (["--cache"], None, True),
        (["--cache", "/here"], None, "/here"),
        (["--cache=/here"], "/some/folder", "/here"),
        (["--no-cache"], "/some/folder", False),
    ],
)
def test_where_extract_keeps_codes(capsys, monkeypatch, arguments, variable, cache):
    seen = []

    def extract_to_file(featurizer, *given, column):
        seen.append((featurizer.cache, *given, column))
        return Written(Path("f.npz"), 2, 48, 6)

    monkeypatch.setattr("sae_features.extract.extract_to_file", extract_to_file)
    monkeypatch.delenv("SAE_FEATURES_CACHE", raising=False)
    if variable is not None:
        monkeypatch.setenv("SAE_FEATURES_CACHE", variable)
    status, out, err = run(capsys, "extract", "a.txt", "-o", "f.npz", *arguments)
    assert (status, err) == (0, "")
    assert out == "f.npz: 2 rows of 48 latents, 3 nonzero in a row\n"
    assert seen == [(cache, "a.txt", "f.npz", None)]


@pytest.mark.parametrize(
    ("arguments", "variable", "resumes"),
    [
        ([], "", False),
        ([], "off", False),
        ([], "FOLDER", True),
        (["--no-cache"], "FOLDER", False),
        (["--cache", "FOLDER"], "", True),
        (["--cache=FOLDER"], "off", True),
    ],
)
def test_ctrl_c_says_how_to_resume(capsys, monkeypatch, tmp_path, arguments, variable, resumes):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_features.extract.extract_to_file", interrupt)
    folder = str(tmp_path / "kept")
    monkeypatch.setenv("SAE_FEATURES_CACHE", variable.replace("FOLDER", folder))
    arguments = [argument.replace("FOLDER", folder) for argument in arguments]
    outcome = run(capsys, "extract", "a.txt", "-o", "f.npz", *arguments)
    hint = "; run the same command again to resume where it stopped" if resumes else ""
    assert outcome == (130, "", f"sae-features: error: interrupted{hint}\n")
    assert not list(tmp_path.iterdir()), "a store is made when something is kept"


class TestSAEs:
    """`saes`, which lists what is known by name."""

    def test_few_are_listed_one_by_one(self, capsys):
        status, out, _ = run(capsys, "saes", "mistral")
        assert status == 0
        columns = [re.split(r"\s{2,}", line) for line in out.splitlines()]
        assert columns == [
            ["id", "model", "layer", "site", "format", "l0", "width"],
            *(
                [f"mistral-7b-res-wg/blocks.{layer}.hook_resid_pre", "mistralai/Mistral-7B-v0.1", layer,
                 "resid_pre", "saelens", l0]
                for layer, l0 in (("8", "92"), ("16", "74"), ("24", "75"))
            ),
        ]  # fmt: skip
        starts = {line.index("mistralai/") for line in out.splitlines()[1:]}
        assert starts == {out.index("model")}

    def test_many_are_listed_by_release(self, capsys):
        _, out, _ = run(capsys, "saes", "--model", "gpt2-small")
        lines = out.splitlines()
        assert lines[0].split() == ["release", "SAEs", "model", "layers", "site", "format"]
        line = next(line for line in lines if line.startswith("gpt2-small-res-jb "))
        expected = "gpt2-small-res-jb 13 openai-community/gpt2 0–11 resid_pre, resid_post saelens"
        assert line.split() == expected.split()
        assert lines[-1] == (
            "159 SAEs in 18 releases. To see those of one: sae-features saes gpt2-small-attn-out-v5-32k/"
            " (and --layer L); all of them: --json."
        )

    def test_one_release_is_listed_in_full(self, capsys):
        _, out, _ = run(capsys, "saes", "gemma-scope-2b-pt-res/")
        assert len(out.splitlines()) == 1 + 316

    def test_json_gives_everything(self, capsys):
        _, out, _ = run(capsys, "saes", "res-jb/BLOCKS.7", "--json")
        (row,) = json.loads(out)
        assert row["id"] == "gpt2-small-res-jb/blocks.7.hook_resid_pre"
        assert (row["repo_id"], row["revision"]) == ("jbloom/GPT2-Small-SAEs-Reformatted", None)
        assert (row["path"], row["hook"]) == ("blocks.7.hook_resid_pre", "blocks.7.hook_resid_pre")
        assert (row["facts"]["l0"], row["facts"]["centred"]) == (54, True)

    def test_filters_together(self, capsys):
        arguments = ["--model", "GEMMA-2", "--layer", 12, "--format", "saelens", "--json"]
        _, out, _ = run(capsys, "saes", "matryoshka", *arguments)
        assert [row["id"] for row in json.loads(out)] == [
            "gemma-2-2b-res-matryoshka-dc/blocks.12.hook_resid_post",
            "gemma-2-2b-res-snap-matryoshka-dc/blocks.12.hook_resid_post",
            "gemma-2-9b-res-matryoshka-dc/blocks.12.hook_resid_post",
        ]

    def test_those_of_plugins_are_among_them(self, capsys):
        _, out, _ = run(capsys, "saes", "--model", "minilm", "--json")
        rows = json.loads(out)
        assert [row["layer"] for row in rows] == [2, 3, 5]
        assert [row["is_default"] for row in rows] == [False, True, False]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["zzz"], "No known SAE fits. `sae-features saes` without options lists all.\n"),
            (
                ["mistral-7b-res-wg/blocks.9"],
                "No known SAE fits. Did you mean 'mistral-7b-res-wg/blocks.8.hook_resid_pre' or "
                "'mistral-7b-res-wg/blocks.16.hook_resid_pre' or "
                "'mistral-7b-res-wg/blocks.24.hook_resid_pre'?\n",
            ),
            (["--model", "zzz", "--json"], "[]\n"),
        ],
    )
    def test_none_fits(self, capsys, arguments, text):
        assert run(capsys, "saes", *arguments) == (0, text, "")

    def test_neither_torch_nor_transformers_is_imported(self):
        program = (
            "import sys; from sae_features import cli; cli.main(['saes', 'mistral']);"
            "sys.exit(len({'torch', 'transformers'} & set(sys.modules)))"
        )
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    def test_an_unknown_format(self, capsys):
        status, _, err = run(capsys, "saes", "--format", "gemma-scope")
        assert status == 1
        assert "expected one of dictionary_learning, gemma_scope, " in err
        assert err.endswith("Did you mean 'gemma_scope'?\n")


@pytest.fixture
def small_demo(monkeypatch, tiny_bert, tiny_sae_folder):
    """The demonstration on few made-up snippets and the tiny model."""
    words = {0: ["bad", "dull", "poor"], 1: ["good", "great", "sweet"]}
    generator = np.random.default_rng(0)
    target = np.arange(60) % 2
    texts = [
        " ".join(generator.permutation(["the", "river", str(generator.choice(words[side])), "sea"]))
        + " a" * int(generator.integers(4))
        for side in target
    ]
    data = Bunch(data=texts, target=target, target_names=["negative", "positive"])
    monkeypatch.setattr(demo, "load_movie_snippets", lambda: data)
    folder = tiny_sae_folder("topk")
    replace(load_sae(folder), labels={i: f"label {i}" for i in range(48)}).save(folder)
    genuine = demo.SAEFeaturizer
    for name in ("SAEFeaturizer", "ActivationFeaturizer"):
        cls = getattr(demo, name)
        monkeypatch.setattr(
            demo, name,
            lambda cls=cls, **given: cls(
                tiny_bert, **({"layer": 1} if cls is not genuine or "sae" in given else {"sae": folder}),
                **given),
        )  # fmt: skip
    monkeypatch.setattr(demo, "_default_sae", lambda: find_sae(folder))
    return data


def test_demo(capsys, small_demo):
    status, out, err = run(capsys, "demo", "--json")
    assert status == 0, err
    result = json.loads(out)
    names = {"sae", "sae_binarized", "hidden_states", "tfidf", "random_sae"}
    assert set(result["f1_macro"]) == names
    for score in result["f1_macro"].values():
        assert len(score["folds"]) == 5
        assert score["mean"] == pytest.approx(np.mean(score["folds"]))
        assert score["std"] == pytest.approx(np.std(score["folds"], ddof=1))
        assert len(score["chosen"]) == 5
    assert result["f1_macro"]["tfidf"]["mean"] > 0.9, "one word gives the class away"
    for difference in result["differences"].values():
        assert difference["low"] <= difference["difference"] <= difference["high"]
    first = result["latents"][0]
    assert first["label"] == f"label {first['latent']}"
    assert set(first["snippets"]) <= set(small_demo.data)
    aurocs = [row["auroc"] for row in result["latents"]]
    assert aurocs == sorted(aurocs, reverse=True)
    shown = demo.report(result)
    assert "macro-F1 in 5 folds" in shown
    assert f"latent_{first['latent']} (label {first['latent']})" in shown


def test_the_demos_macro_f1_is_scikit_learns():
    from sklearn.metrics import f1_score

    generator = np.random.default_rng(0)
    target, predicted = generator.integers(0, 2, (2, 4, 50))
    expected = [f1_score(t, p, average="macro") for t, p in zip(target, predicted, strict=True)]
    np.testing.assert_allclose(demo._macro_f1(target, predicted), expected)
