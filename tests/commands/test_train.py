"""The verbs ``train`` and ``evaluate``, on a tiny model and made-up texts."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import WORDS

from sae_features import SAEFeaturizer, cli, load_backbone, load_sae
from sae_features.commands.card import ARCHITECTURES
from sae_features.commands.corpora import read_corpus
from sae_features.commands.train import count
from sae_features.training import SAETrainer
from sae_features.training.metrics import evaluate_sae
from sae_features.training.saved_runs import NAME
from sae_features.training.settings import TRAINED_ARCHITECTURES, TrainingSettings
from sae_features.training.streams import BackboneSource

N_TEXTS = 120
FEW = ["--n-latents", 64, "--k", 4, "--batch-size", 50, "--layer", 1, "--quiet"]


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def texts():
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 12))) for _ in range(N_TEXTS)]


@pytest.fixture
def corpus(tmp_path, texts):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


@pytest.fixture
def train(capsys, tmp_path, corpus, tiny_bert):
    """Run ``sae-features train`` on the corpus and the tiny model, into ``tmp_path / "sae"``."""

    def train(*arguments, usual=FEW):
        place = ["-o", tmp_path / "sae", "--model", tiny_bert]
        return run(capsys, "train", corpus, *place, *usual, *arguments)

    return train


class TestTraining:
    def test_the_plan_comes_first_and_the_result_says_how_to_use_it(self, train, tmp_path):
        status, out, err = train()
        assert (status, err) == (0, "")
        plan, result, use = out.split("\n\n", 2)
        rows = dict(re.findall(r"^  (\w+) +(.*)$", plan, re.MULTILINE))
        assert plan.startswith("Plan\n  corpus ")
        assert rows["corpus"] == "texts.txt: 120 items, 114 to train on, 6 held out"
        assert "layer 1, resid_post, 32 dimensions: " in rows["activations"]
        assert rows["SAE"] == (
            "topk, 64 latents (2 x 32), k = 4: 4,192 parameters, 16.8 kB (50.3 kB with Adam's moments)"
        )
        assert "4.0 passes over the corpus (the model runs once, activations are in memory)" in plan
        assert rows["time"].startswith("about ")
        assert "(an estimate)" in rows["time"]
        assert re.search(r"note: \d\d steps are few, good SAEs take thousands", plan)
        assert result.startswith(f"{tmp_path / 'sae'}: topk SAE of 64 latents, on ")
        assert re.search(r"^  L0 +4\.0 of 64 latents fire per token$", result, re.MULTILINE)
        assert f"features = SAEFeaturizer(sae='{tmp_path / 'sae'}').fit_transform(items)" in use
        names = sorted(path.name for path in (tmp_path / "sae").iterdir())
        assert names == ["README.md", "sae.json", "sae.safetensors"]

    def test_the_sae_works_in_a_featurizer_without_other_arguments(
        self, train, tmp_path, tiny_bert, monkeypatch
    ):
        monkeypatch.chdir(tiny_bert.parent)
        status, out, _ = train("--model", tiny_bert.name)
        assert status == 0
        monkeypatch.chdir(tmp_path)  # the model is found from elsewhere
        program = "\n".join(line.strip() for line in out.splitlines()[-2:])
        items = ["a calm river", "the sea", "a calm river flows to the sea"]
        known = {"items": items}
        exec(program, known)
        sae = load_sae(tmp_path / "sae")
        acts = load_backbone(tiny_bert).activations(items, layer=1)
        by_hand = [sae.encode(torch.from_numpy(acts[i])).amax(dim=0).numpy() for i in range(3)]
        np.testing.assert_allclose(known["features"].toarray(), by_hand, rtol=1e-5, atol=1e-6)

    def test_what_is_saved_says_how_it_was_made(self, train, tmp_path, texts, corpus, tiny_bert):
        train("--seed", 3)
        sae = load_sae(tmp_path / "sae")
        about = sae.metadata
        assert about["model"]["id"] == str(tiny_bert)
        assert (about["max_length"], about["tokens"], about["overflow"]) == (64, "content", "chunk")
        assert about["training"]["settings"]["seed"] == 3
        split = read_corpus(corpus, held_out=0.05, seed=3)
        assert about["data"] == split.record | {
            "n_tokens": BackboneSource(str(tiny_bert), split.trained, layer=1).n_rows,
            "n_tokens_trained": about["data"]["n_tokens_trained"],
        }
        assert about["data"]["sha256"] == split.record["sha256"]
        assert set(about["versions"]) == {"sae_features", "torch", "transformers"}
        source = BackboneSource(str(tiny_bert), split.held_out, layer=1)
        measured = evaluate_sae(sae, source)
        assert about["metrics"]["n_tokens"] == source.n_rows
        assert about["metrics"]["fvu"] == pytest.approx(measured.fvu, rel=1e-5)
        card = (tmp_path / "sae" / "README.md").read_text()
        assert f"| {measured.fvu:.4g} |" in card
        assert "120 items, 114 of them to train on and 6 held out" in card
        assert "--seed 3" in card
        assert "| k | 4 |" in card

    def test_the_weights_are_those_that_the_python_interface_gives(
        self, train, tmp_path, corpus, tiny_bert
    ):
        train("--tokens", "2k", "--learning-rate", 0.01)
        split = read_corpus(corpus, held_out=0.05)
        rows = torch.cat(list(BackboneSource(str(tiny_bert), split.trained, layer=1).in_order(4096)))
        settings = TrainingSettings(n_latents=64, k=4, batch_size=50, n_tokens=2000, learning_rate=0.01)
        with pytest.warns(UserWarning, match="passed over"):
            expected = SAETrainer(settings).train(rows)[0].sae
        assert load_sae(tmp_path / "sae").digest == saved_digest(expected, tmp_path / "other")

    def test_a_corpus_smaller_than_the_budget_is_told_with_the_passes(self, train):
        _, out, err = train("--tokens", "2k", "--dry-run")
        assert re.search(
            r"note: the corpus is smaller than the budget of 2,000 tokens: it is passed over \d\.\d",
            out,
        )
        assert err == ""

    @pytest.mark.parametrize("architecture", TRAINED_ARCHITECTURES)
    def test_every_architecture(self, train, tmp_path, architecture):
        status, out, err = train("--architecture", architecture, "--epochs", 1)
        assert (status, err) == (0, "")
        assert f"  SAE          {architecture}, 64 latents" in out
        assert ARCHITECTURES[architecture] in (tmp_path / "sae" / "README.md").read_text()

    def test_the_help_names_all_architectures(self, capsys):
        with pytest.raises(SystemExit):
            cli.main(["train", "--help"])
        out = capsys.readouterr().out
        assert all(name in out for name in TRAINED_ARCHITECTURES)

    def test_a_sweep_gives_one_folder_each_of_one_run(self, train, tmp_path):
        status, out, err = train("--k", 2, 8)
        assert (status, err) == (0, "")
        assert "2 times topk, 64 latents (2 x 32), k = 2, 8: 8,384 parameters" in out
        assert "To use the first:" in out
        for k in (2, 8):
            folder = tmp_path / "sae" / f"k_{k}"
            assert load_sae(folder).k == k
            assert (folder / "README.md").is_file()
            assert SAEFeaturizer(sae=folder).fit_transform(["the sea"]).nnz > 0
        assert not (tmp_path / "sae" / "training").exists()

    @pytest.mark.parametrize(
        ("name", "values", "folders"),
        [
            ("target-l0", (3, 6.5), ["l0_3", "l0_6.5"]),
            ("sparsity", (0.1, 0.02), ["sparsity_0.02", "sparsity_0.1"]),
        ],
    )  # fmt: skip
    def test_sweeps_of_penalties(self, train, tmp_path, name, values, folders):
        usual = ["--n-latents", 64, "--batch-size", 50, "--quiet", "--epochs", 1]
        assert train(f"--{name}", *values, "--architecture", "relu", usual=usual)[0] == 0
        found = sorted(path.parent.name for path in (tmp_path / "sae").glob("*/sae.json"))
        assert found == folders

    def test_activations_on_disk_are_written_once_and_used_again(self, train, tmp_path, seen):
        folder = tmp_path / "acts"
        assert train("--activations", folder)[0] == 0
        digest = load_sae(tmp_path / "sae").digest
        stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        status, out, _ = train("--activations", folder, "--overwrite")
        assert status == 0
        assert "the model runs once, activations are on disk" in out
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
        assert load_sae(tmp_path / "sae").digest == digest
        status, _, err = train("--activations", folder, "--overwrite", "--seed", 1)
        assert status == 1
        assert "holds activations of another origin" in err

    def test_a_corpus_larger_than_memory_runs_the_model_in_each_pass(self, train, tmp_path, monkeypatch):
        from sae_features.commands import job as training_job

        monkeypatch.setattr(training_job, "MEMORY_BYTES", 30 * 32 * 4)
        status, out, err = train()
        assert (status, err) == (0, "")
        assert "4.0 passes over the corpus (the model runs in each)" in out
        assert "SAE of 64 latents, on 30 held-out tokens" in out
        digest = load_sae(tmp_path / "sae").digest
        monkeypatch.undo()
        train("--overwrite")
        assert load_sae(tmp_path / "sae").digest != digest, "another order of rows"

    def test_nothing_held_out(self, train, tmp_path):
        status, out, _ = train("--held-out", 0)
        assert status == 0
        assert "120 items, 120 to train on, 0 held out" in out
        assert "tokens it was trained on" in out
        assert load_sae(tmp_path / "sae").metadata["metrics"]["is_held_out"] is False

    def test_the_card_says_which_tokens_were_counted(self, train, tmp_path):
        assert train("--tokens-policy", "all", "--prompt", "a {}")[0] == 0
        card = (tmp_path / "sae" / "README.md").read_text()
        assert "', tokens='all', prompt='a {}').fit_transform(items)" in card
        assert " all tokens in one pass" in card

    def test_labels(self, train, tmp_path):
        assert train("--label")[0] == 0
        labels = load_sae(tmp_path / "sae").labels
        assert len(labels) > 32
        assert all(set(label.split()) <= {*WORDS} for label in labels.values())

    def test_json_is_one_object_and_the_plan_goes_to_stderr(self, train, tmp_path):
        status, out, err = train("--json")
        result = json.loads(out)
        assert status == 0
        assert err.startswith("Plan\n")
        assert set(result) == {"plan", "data", "model", "saes"}
        assert result["plan"]["n_parameters"] == 4192
        (sae,) = result["saes"]
        assert sae["folder"] == str(tmp_path / "sae")
        assert sae["settings"]["k"] == 4
        assert sae["metrics"]["l0"] == pytest.approx(4, abs=0.1)

    def test_a_dry_run_writes_nothing(self, train, tmp_path):
        status, out, _ = train("--dry-run")
        assert status == 0
        assert out.startswith("Plan\n")
        assert out.count("\n\n") == 0
        assert not (tmp_path / "sae").exists()
        plan = json.loads(train("--dry-run", "--json")[1])["plan"]
        assert plan["n_steps"] * 50 == pytest.approx(plan["n_trained"], rel=0.05)
        assert plan["seconds"] > 0


def saved_digest(sae, folder):
    return load_sae(sae.save(folder)).digest


class TestConfig:
    def test_options_come_from_a_file_and_the_command_line_wins(
        self, capsys, tmp_path, corpus, tiny_bert
    ):
        config = tmp_path / "train.toml"
        config.write_text(
            f'corpus = "{corpus}"\noutput = "{tmp_path / "sae"}"\nmodel = "{tiny_bert}"\nlayer = 1\n'
            'n_latents = 64\nbatch_size = 50\nk = [2, 3]\ntokens = "1k"\nseed = 5\nquiet = true\n'
        )
        status, out, err = run(capsys, "train", "--config", config, "--seed", 6, "--json")
        assert status == 0, err
        settings = [sae["settings"] for sae in json.loads(out)["saes"]]
        assert [(each["k"], each["n_tokens"], each["seed"]) for each in settings] == [
            (2, 1000, 6), (3, 1000, 6),
        ]  # fmt: skip

    def test_an_alternative_on_the_command_line_takes_the_place_of_the_files(
        self, capsys, tmp_path, corpus, tiny_bert
    ):
        config = tmp_path / "train.toml"
        config.write_text('k = 4\ntokens = 1000\nquiet = true\narchitecture = "relu"\n')
        status, out, err = run(
            capsys, "train", corpus, "-o", tmp_path / "sae", "--model", tiny_bert, "--config", config,
            "--target-l0", 3, "--epochs", 1, "--dry-run",
        )  # fmt: skip
        assert status == 0, err
        assert "target_l0 = 3:" in out
        assert "1.0 passes" in out

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ("n_latent = 3", "Got option='n_latent'; expected one of corpus, output, column,"),
            ("n_latent = 3", "Did you mean 'n_latents'?"),
            ("k = 1.5", "train.toml: k: invalid int value: '1.5'"),
            ("seed = [1, 2]", "got seed=[1, 2]; expected one value"),
            ("label = 1", "got label=1; expected true or false"),
            ("tokens_policy = 'some'", "tokens_policy: invalid choice: 'some'"),
            ("tokens = '3x'", "got '3x'; expected a number above 0 such as 200000, 500k or 2M"),
            ("k =", "train.toml is not TOML: "),
            ("config = 'other.toml'", "Got option='config'"),
        ],
    )
    def test_what_cannot_be_is_named_with_its_file(self, capsys, tmp_path, content, text):
        config = tmp_path / "train.toml"
        config.write_text(content)
        status, out, err = run(capsys, "train", "x.txt", "-o", "y", "--config", config)
        assert (status, out) == (1, "")
        assert err.count("\n") == 1
        assert text in err

    def test_a_file_that_is_not_there(self, capsys):
        status, _, err = run(capsys, "train", "x.txt", "-o", "y", "--config", "none.toml")
        assert status == 1
        assert "Got --config 'none.toml'; expected a file there." in err


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["--k", 65], "Got k=65 with n_latents=64; expected k at most n_latents."),
            (["--target-l0", 3], "Got --k and --target-l0; expected one of them."),
            (["--k", 3, 3], "Got --k 3 3; expected different values."),
            (["--tokens", 5, "--epochs", 1], "Got --tokens and --epochs; expected one of them."),
            (["--architecture", "topkk"], "Did you mean 'topk'?"),
            (["--held-out", 1], "Got held_out=1.0; expected a share of the items"),
            (["--layer", 9], "Got layer=9; expected 0 to 2"),
            (["--max-length", 100], "Got max_length=100; this model takes at most 64 tokens."),
            (["--column", "a"], "a .txt file has no columns"),
            (["--epochs", 0], "Got epochs=0; expected an integer above 0."),
            (["--learning-rate", 0], "Got learning_rate=0.0; expected a number above 0."),
            (["--loss-recovered"], "has no whole language-model head"),
            (["--loss-recovered", "--prompt", "a {}"], "Got --loss-recovered with --prompt"),
        ],
    )
    def test_one_line_before_anything_is_written(self, train, tmp_path, arguments, text):
        status, out, err = train(*arguments)
        assert (status, out) == (1, "")
        assert err.startswith("sae-features: error: ")
        assert err.count("\n") == 1
        assert text in err
        assert not (tmp_path / "sae").exists()

    def test_corpus_and_output_are_needed(self, capsys):
        for arguments, text in (([], "Got no corpus; expected CORPUS"), (["a.txt"], "Got no output")):
            status, _, err = run(capsys, "train", *arguments)
            assert status == 1
            assert text in err

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ("", "texts.txt has no items; expected at least one."),
            ("a\na\n", "texts.txt has one item only, of which none can be held out"),
            ("\n \n", "without a token that counts"),
        ],
    )
    def test_a_corpus_of_nothing(self, train, corpus, content, text):
        corpus.write_text(content)
        status, out, err = train()
        assert (status, out) == (1, "")
        assert text in err

    def test_fewer_latents_than_dimensions_are_told(self, train):
        _, out, err = train("--n-latents", 16)
        assert "note: got n_latents=16 for activations of size 32: fewer latents than dimensions" in out
        assert "warning: Got n_latents=16 for activations of size 32" in err

    def test_an_sae_is_replaced_only_on_request(self, train, tmp_path):
        train()
        before = load_sae(tmp_path / "sae").digest
        for more in ([], ["--k", 2, 3]):
            status, _, err = train("--seed", 1, *more)
            assert status == 1
            assert "already holds an SAE. Choose another folder, or replace it with --overwrite." in err
        assert load_sae(tmp_path / "sae").digest == before
        assert train("--seed", 1, "--overwrite")[0] == 0
        assert load_sae(tmp_path / "sae").digest != before

    def test_weights_of_something_else_stay(self, train, tmp_path):
        (tmp_path / "sae").mkdir()
        (tmp_path / "sae" / "model.safetensors").write_text("mine")
        for more in ([], ["--overwrite"]):
            status, _, err = train(*more)
            assert status == 1
            assert "which holds model.safetensors; expected a folder without weights" in err
        (tmp_path / "file").write_text("x")
        status, _, err = train("-o", tmp_path / "file")
        assert "which is a file; expected a folder" in err

    def test_a_disk_that_is_too_small(self, train, tmp_path, monkeypatch):
        from sae_features.commands import folders as training_folders

        monkeypatch.setattr(training_folders, "free_bytes", lambda _: 1000)
        status, _, err = train()
        assert status == 1
        assert re.search(r"The training needs about 1\d\d,\d\d\d bytes in '.*', and 1,000 are free", err)

    def test_a_disk_that_gets_full_at_the_end_leaves_the_training(self, train, tmp_path, monkeypatch):
        from sae_features.saes.formats import writing

        def full(*_args):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(writing, "save_file", full)
            status, _, err = train()
        assert status == 1
        assert "The training is kept: make room, then run the same command again." in err
        assert (tmp_path / "sae" / "training" / NAME).is_file()
        assert train()[0] == 0
        assert (tmp_path / "sae" / "sae.json").is_file()

    def test_a_second_process_is_refused(self, train, tmp_path):
        from sae_features.store.private import locked

        (tmp_path / "sae").mkdir()
        with locked(tmp_path / "sae"):
            status, _, err = train()
        assert status == 1
        assert "Another process trains in" in err


SLOW = [*FEW[:-1], "--tokens", "60k", "--save-seconds", "0.05"]


class TestInterruption:
    @pytest.fixture(autouse=True)
    def heeds_sigint(self):
        """Have Ctrl-C heeded here and in child processes; a shell's background jobs ignore it."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def command(self, corpus, folder, model):
        words = ["train", corpus, "-o", folder, "--model", model, *SLOW]
        return [sys.executable, "-m", "sae_features", *map(str, words)]

    @pytest.fixture
    def expected(self, train, tmp_path):
        assert train("-o", tmp_path / "whole", usual=SLOW)[0] == 0
        return load_sae(tmp_path / "whole").digest

    @pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
    def test_the_same_command_goes_on_to_the_same_digest(
        self, train, tmp_path, corpus, tiny_bert, expected, kind
    ):
        folder = tmp_path / "sae"
        process = subprocess.Popen(
            self.command(corpus, folder, tiny_bert), stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not (folder / "training" / NAME).exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(kind)
        _, err = process.communicate()
        if kind is signal.SIGINT:
            assert process.returncode == 130
            told = re.search(r"interrupted; ([\d,]+) of 1,2\d\d steps are saved in '(.*)': run the", err)
            assert told[2] == str(folder / "training")
            assert 0 < int(told[1].replace(",", "")) < 1300
        assert not (folder / "sae.json").exists()
        status, out, _ = train(usual=SLOW)
        assert status == 0
        assert re.search(r"note: going on from step [\d,]+, which is saved in ", out)
        assert load_sae(folder).digest == expected
        assert not (folder / "training").exists()

    def test_ctrl_c_saves_the_step_that_it_came_in(self, train, tmp_path, monkeypatch):
        from sae_features.training.run import Run

        genuine = Run.learn

        def learn(self, x):
            if self.step == 7 and self.n_steps > 7:
                os.kill(os.getpid(), signal.SIGINT)
            return genuine(self, x)

        with monkeypatch.context() as patched:
            patched.setattr(Run, "learn", learn)
            status, _, err = train()
        assert status == 130
        assert err.startswith("sae-features: error: interrupted; 8 of ")
        assert train("--dry-run")[1].count("going on from step 8,") == 1
        status, _, err = train("--seed", 1)
        assert status == 1
        assert "holds an unfinished training with seed=0, but 1 is asked for. Go on with" in err
        status, _, err = train("--max-length", 32)
        assert "holds an unfinished training with max_length=64, but 32 is asked for" in err
        assert train("--seed", 1, "--overwrite")[0] == 0

    def test_before_anything_is_saved(self, train, monkeypatch):
        def interrupt(*_args, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr(SAETrainer, "train", interrupt)
        status, _, err = train()
        assert status == 130
        assert err.endswith(
            "error: interrupted before anything was saved; run the same command again to begin anew\n"
        )

    def test_a_checkpoint_that_is_to_be_kept(self, train, tmp_path):
        assert train("--keep-checkpoint")[0] == 0
        assert (tmp_path / "sae" / "training" / NAME).is_file()
        digest = load_sae(tmp_path / "sae").digest
        assert train("--keep-checkpoint")[0] == 1
        assert train()[0] == 0, "what is finished is only written again"
        assert load_sae(tmp_path / "sae").digest == digest
        assert not (tmp_path / "sae" / "training").exists()


@pytest.mark.parametrize("text", ["", "0", "-1", "2x", "1.5", "k", "1e3"])
def test_no_counts(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 0 such as"):
        count(text)


def test_neither_torch_nor_transformers_is_imported_for_the_help():
    program = (
        "import sys; from sae_features import cli\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: sys.exit(len({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)


def test_the_readme_command_is_one_that_is_known():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^sae-features train .*$", text, re.MULTILINE)
    parser = cli._parser()
    assert parser.parse_args(line.split()[1:]).output
