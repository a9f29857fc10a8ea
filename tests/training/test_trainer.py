from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_features import SAEFeaturesWarning, load_sae
from sae_features.errors import CheckpointError, DigestMismatchError, InvalidInputError, SAEFeaturesError
from sae_features.hook_point import HookPoint
from sae_features.training import SAETrainer, TrainingSettings
from sae_features.training.centering import geometric_median
from sae_features.training.run import Run
from sae_features.training.saved_runs import NAME
from sae_features.training.settings import TRAINED_ARCHITECTURES
from sae_features.training.sources import ArraySource

D, F = 24, 40


def planted(n=4000, seed=0, active=3):
    """Rows that are sums of a few of F directions, around a centre far from 0."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(F, D))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((n, F))
    for row in codes:
        row[generator.choice(F, active, replace=False)] = generator.uniform(1, 3, active)
    return (codes @ directions + 5).astype(np.float32), directions


def settings(architecture="topk", **choices):
    usual = {"n_latents": F, "k": 3, "epochs": 6, "batch_size": 200, "learning_rate": 3e-3}
    return TrainingSettings(architecture=architecture, **(usual | choices))


def weights(sae):
    return {name: tensor.clone() for name, tensor in sae.tensors()}


def same(one, other):
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def fvu(sae, rows):
    x = torch.from_numpy(rows)
    return float((x - sae.reconstruct(x)).square().sum() / (x - x.mean(dim=0)).square().sum())


@pytest.mark.parametrize("architecture", TRAINED_ARCHITECTURES)
def test_what_is_trained_reconstructs_rows_it_has_not_seen(architecture):
    rows, _ = planted()
    held_out, _ = planted(n=1000, seed=1)
    trained = SAETrainer(settings(architecture, epochs=20)).train(rows)[0]
    sae = trained.sae
    kind = "jumprelu" if architecture in {"batchtopk", "matryoshka"} else architecture
    assert sae.architecture == kind
    assert fvu(sae, held_out) < {"relu": 0.75, "gated": 0.35}.get(architecture, 0.3)
    l0 = float((sae.encode(torch.from_numpy(held_out)) > 0).sum()) / len(held_out)
    assert l0 == pytest.approx(3, rel=0.2)
    norms = torch.linalg.vector_norm(sae.W_dec, dim=1)
    torch.testing.assert_close(norms, torch.ones(F))


def test_gated_does_not_shrink_what_relu_shrinks():
    rows, _ = planted()
    x = torch.from_numpy(rows)
    gamma = {}
    for architecture in ("relu", "gated"):
        sae = SAETrainer(settings(architecture, epochs=20)).train(rows)[0].sae
        centred, found = (each - x.mean(dim=0) for each in (x, sae.reconstruct(x)))
        gamma[architecture] = float(found.square().sum() / (found * centred).sum())
    assert gamma["relu"] < 0.95
    assert 0.97 < gamma["gated"] < 1.03


def test_a_sweep_in_one_pass_gives_the_saes_of_single_trainings():
    rows, _ = planted(1000)
    several = [settings("topk", k=2), settings("topk", k=4), settings("gated", target_l0=3)]
    together = SAETrainer(several).train(rows)
    for each, trained in zip(several, together, strict=True):
        assert trained.settings == each
        assert same(trained.sae, SAETrainer(each).train(rows)[0].sae)


def test_the_seed_decides_and_the_global_generator_has_no_part():
    rows, _ = planted(600)
    state = torch.get_rng_state()
    first = SAETrainer(settings()).train(rows)[0].sae
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert same(first, SAETrainer(settings()).train(rows)[0].sae)
    assert not same(first, SAETrainer(settings(seed=1)).train(rows)[0].sae)


@pytest.mark.parametrize("architecture", TRAINED_ARCHITECTURES)
def test_scale_and_place_of_the_activations_do_not_matter(architecture):
    rows, _ = planted(1000)
    sae = SAETrainer(settings(architecture)).train(rows)[0].sae
    moved = SAETrainer(settings(architecture)).train(rows * 64 + 64)[0].sae
    x = torch.from_numpy(rows[:50])
    torch.testing.assert_close(moved.W_enc, sae.W_enc, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(
        moved.reconstruct(x * 64 + 64), sae.reconstruct(x) * 64 + 64, rtol=1e-3, atol=0.5
    )


def test_the_settings_and_the_place_go_into_the_sae_and_its_folder(tmp_path):
    rows, _ = planted(600)
    source = ArraySource(rows, hook_point=HookPoint(3), metadata={"model": {"id": "some/model"}})
    sae = SAETrainer(settings()).train(source)[0].sae
    sae.save(tmp_path / "sae")
    loaded = load_sae(tmp_path / "sae")
    assert loaded.hook_point == HookPoint(3)
    assert loaded.metadata["model"] == {"id": "some/model"}
    assert loaded.metadata["training"]["settings"]["learning_rate"] == 3e-3
    x = torch.from_numpy(rows[:20])
    torch.testing.assert_close(loaded.encode(x), sae.encode(x), rtol=0, atol=0)


def test_metadata_must_be_plain_values(tmp_path):
    rows, _ = planted(600)
    source = ArraySource(rows, metadata={"layer": np.int64(3)})
    with pytest.raises(
        SAEFeaturesError, match=r"^Got metadata that JSON cannot hold \(Object of type int64"
    ):
        SAETrainer(settings(), folder=tmp_path).train(source)
    source = ArraySource(rows, metadata={"shape": (3, 4)})
    first = SAETrainer(settings(), folder=tmp_path).train(source)[0]
    assert same(SAETrainer(settings(), folder=tmp_path).train(source)[0].sae, first.sae)


def test_a_history_is_told():
    rows, _ = planted(1000)
    history = SAETrainer(settings("gated")).train(rows)[0].history
    assert [record["step"] for record in history] == list(range(1, 31))
    assert history[-1]["rows"] == 6000
    assert history[-1]["fvu"] < history[0]["fvu"]
    assert {"l0", "dead", "sparsity", "mse", "l1", "aux"} <= history[-1].keys()


def test_the_l0_of_a_history_is_that_of_latents():
    rows, _ = planted()
    trained = SAETrainer(settings("jumprelu", epochs=20)).train(rows)[0]
    assert trained.history[-1]["l0"] == pytest.approx(3, rel=0.2)
    assert trained.history[-1]["l0_penalty"] < 0.1


@pytest.mark.parametrize(
    ("architecture", "resample", "choices"),
    [
        ("relu", False, {}),
        ("relu", True, {}),
        ("gated", True, {}),
        ("gated", True, {"tie_gate": False}),
        ("jumprelu", True, {}),
    ],
)
def test_dead_latents_of_a_penalised_sae_start_anew(architecture, resample, choices):
    rows, _ = planted()
    x = torch.from_numpy(rows - rows.mean(axis=0)) / 6
    run = Run(settings(architecture, dead_after=1000, resample=resample, **choices), D, n_steps=100)
    bias = "b_gate" if architecture == "gated" else "b_enc"
    with torch.no_grad():
        run.parameters[bias][:25] = -9
    for step in range(9):
        run.learn(x[200 * step :][:200])
    n_dead = run.n_dead
    assert n_dead >= 25
    run.learn(x[1800:2000])
    for step in range(10, 20):
        run.learn(x[200 * step % 4000 :][:200])
    if not resample:
        assert run.n_dead >= 25
        return
    assert run.n_dead < n_dead / 2
    torch.testing.assert_close(run.parameters["W_dec"].norm(dim=1), torch.ones(F))


def test_resampling_is_left_out_where_nothing_is_missing():
    run = Run(settings("relu", dead_after=1), D, n_steps=10)
    before = run.parameters["W_dec"].clone()
    run.silent += 100
    run._resample(torch.ones(5, D), torch.zeros(5, D))
    assert torch.equal(run.parameters["W_dec"], before)


def test_a_batch_of_equal_rows_leaves_the_running_fvu_a_number():
    rows, _ = planted(600)
    x = torch.from_numpy(rows - rows.mean(axis=0)) / 6
    run = Run(settings(), D, n_steps=10)
    run.learn(x[:200])
    before = run.fvu
    run.learn(x[200:201])
    assert run.fvu == before
    run.learn(x[201:400])
    assert run.fvu < 2


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_training_stops_where_nothing_improves(architecture):
    rows, _ = planted(1000)
    chosen = settings(architecture, epochs=400, patience=2, learning_rate=1e-2)
    stopped = SAETrainer(chosen).train(rows)[0]
    assert 0.1 * 2000 + 200 < stopped.history[-1]["step"] < 2000  # not while the penalty warms up
    if architecture == "relu":
        assert stopped.history[-1]["l0"] == pytest.approx(3, rel=0.3)
    assert stopped.history[-1]["step"] == stopped.sae.metadata["training"]["steps"]


def test_the_geometric_median_is_not_moved_by_outliers():
    rows = torch.cat([torch.tensor([[0.0, 1], [0, -1], [1, 0], [-1, 0]] * 5), torch.tensor([[1e4, 0]])])
    median = geometric_median(rows.double(), rows.double().mean(dim=0))
    assert float(median.norm()) < 0.2
    distances = [float((rows.double() - median - step).norm(dim=1).sum()) for step in (0, 0.01, -0.01)]
    assert distances[0] < min(distances[1:])


@pytest.mark.parametrize("center", ["mean", "geometric_median", "none"])
def test_centres(center):
    rows, _ = planted(1000)
    sae = SAETrainer(settings(center=center, epochs=1, learning_rate=1e-9)).train(rows)[0].sae
    wanted = {"mean": rows.mean(axis=0), "none": np.zeros(D)}.get(center)
    if wanted is None:
        wanted = geometric_median(torch.from_numpy(rows).double(), torch.zeros(D).double()).numpy()
    np.testing.assert_allclose(sae.b_dec, wanted, atol=1e-3)


class Broken(ArraySource):
    """A source whose batch of a number is not finite."""

    number = 17

    def batches(self, batch_size, *, seed=0, start=0):
        for i, batch in enumerate(super().batches(batch_size, seed=seed, start=start), start):
            if i == self.number:
                batch[2, 3] = float("nan")
            yield batch


def test_activations_that_are_not_finite_are_named_and_what_was_saved_stays(tmp_path):
    rows, _ = planted(1000)
    trainer = SAETrainer(settings(), folder=tmp_path, save_seconds=0)
    with pytest.raises(InvalidInputError, match=r"^Got activations that are not finite in batch 17"):
        trainer.train(Broken(rows))
    mended = trainer.train(ArraySource(rows))[0]
    assert same(mended.sae, SAETrainer(settings()).train(rows)[0].sae)


def test_a_loss_that_is_not_finite_ends_the_training():
    rows, _ = planted(600)
    with pytest.raises(InvalidInputError, match=r"^The loss of the topk SAE became (nan|inf) at step"):
        SAETrainer(settings(learning_rate=1e30, warmup=0)).train(rows)


def test_activations_that_do_not_vary_are_refused():
    with pytest.raises(InvalidInputError, match=r"^Got activations of variance 0\.0; expected finite"):
        SAETrainer(settings()).train(np.full((600, D), 2, np.float32))


def test_dimensions_without_variance_do_no_harm():
    rows, _ = planted()
    rows[:, 5] = 7
    sae = SAETrainer(settings(epochs=20)).train(rows)[0].sae
    assert fvu(sae, rows) < 0.3
    np.testing.assert_allclose(sae.reconstruct(torch.from_numpy(rows))[:, 5], 7, atol=0.2)


def test_fewer_rows_than_the_budget_are_told_and_passed_over_again():
    rows, _ = planted(1000)
    message = r"^Got n_tokens=2,500 and activations of 1,000 tokens; they are passed over 2\.5 times\.$"
    with pytest.warns(SAEFeaturesWarning, match=message):
        trained = SAETrainer(settings(n_tokens=2500)).train(rows)[0]
    assert trained.history[-1]["rows"] == pytest.approx(2500, abs=200)


def test_fewer_latents_than_dimensions_are_told():
    rows, _ = planted(600)
    with pytest.warns(SAEFeaturesWarning, match=r"^Got n_latents=8 for activations of size 24: fewer"):
        SAETrainer(settings(n_latents=8)).train(rows)


def test_saes_of_one_pass_must_agree_on_the_data():
    with pytest.raises(SAEFeaturesError, match=r"^Got SAEs with batch_size=100 and 200 for one pass"):
        SAETrainer([settings(), settings(batch_size=100)])
    with pytest.raises(SAEFeaturesError, match=r"^Got no settings; expected those of at least one SAE"):
        SAETrainer([])


def test_another_training_in_the_folder_is_refused(tmp_path):
    rows, _ = planted(600)
    SAETrainer(settings(), folder=tmp_path).train(rows)
    with pytest.raises(DigestMismatchError, match=r"holds a training with settings="):
        SAETrainer(settings(k=4), folder=tmp_path).train(rows)
    with pytest.raises(DigestMismatchError, match=r"holds a training with n_rows=600, but 500 is asked"):
        SAETrainer(settings(), folder=tmp_path).train(rows[:500])


def test_other_data_of_the_same_shape_are_refused(tmp_path):
    rows, _ = planted(600)
    SAETrainer(settings(), folder=tmp_path).train(rows)
    with pytest.raises(DigestMismatchError, match=r"holds a training with rows='"):
        SAETrainer(settings(), folder=tmp_path).train(rows[::-1].copy())

    class Unnamed(ArraySource):
        digest = None

    source = Unnamed(rows)
    SAETrainer(settings(), folder=tmp_path / "unnamed").train(source)
    moved = Unnamed(rows + np.float32(1))
    with pytest.raises(DigestMismatchError, match=r"on activations with another centre or spread\."):
        SAETrainer(settings(), folder=tmp_path / "unnamed").train(moved)


def test_what_a_kill_leaves_is_written_over(tmp_path):
    rows, _ = planted(600)
    (tmp_path / f".{NAME}.draft").write_bytes(b"half")
    SAETrainer(settings(), folder=tmp_path).train(rows)
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def test_weights_that_are_not_finite_are_refused():
    run = Run(settings(), D, n_steps=10)
    with torch.no_grad():
        run.parameters["W_enc"][3, 4] = float("inf")
    with pytest.raises(InvalidInputError, match=r"^W_enc of the topk SAE is not finite after step 0;"):
        run.check_finite()


def test_what_is_finished_is_not_trained_again(tmp_path):
    rows, _ = planted(600)
    first = SAETrainer(settings(), folder=tmp_path).train(rows)[0]

    class Untouched(ArraySource):
        def batches(self, batch_size, *, seed=0, start=0):
            raise AssertionError
            yield

    again = SAETrainer(settings(), folder=tmp_path)
    assert same(again.train(ArraySource(rows))[0].sae, first.sae)


@pytest.mark.parametrize("content", [b"", b"not a file", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    rows, _ = planted(600)
    with pytest.raises(CheckpointError, match=r"holds no whole training: .* Delete it to begin anew"):
        SAETrainer(settings(), folder=tmp_path).train(rows)


def test_a_truncated_file_is_refused(tmp_path):
    rows, _ = planted(600)
    SAETrainer(settings(), folder=tmp_path).train(rows)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="which holds no whole training"):
        SAETrainer(settings(), folder=tmp_path).train(rows)


def test_a_full_disk_leaves_what_was_saved(tmp_path, monkeypatch):
    from sae_features.training import saved_runs

    rows, _ = planted(600)
    SAETrainer(settings(), folder=tmp_path).train(rows)
    before = (tmp_path / NAME).read_bytes()

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_runs, "save_file", full)
    message = (
        rf"^The training could not be saved to '{re.escape(str(tmp_path))}'.*No space left on device"
    )
    with pytest.raises(CheckpointError, match=message):
        SAETrainer(settings(), folder=tmp_path).train(rows)
    assert (tmp_path / NAME).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_trainer
from sae_features.training import SAETrainer
rows, _ = test_trainer.planted(2000)
chosen = [test_trainer.settings(a, epochs={epochs}, dead_after=2000) for a in {architectures!r}]
SAETrainer(chosen, folder={folder!r}, save_seconds=0.05).train(rows)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_training_killed_at_any_moment_goes_on_to_the_same_weights(tmp_path):
    architectures, epochs = ["topk", "relu", "gated", "jumprelu", "batchtopk", "matryoshka"], 12
    rows, _ = planted(2000)
    chosen = [settings(a, epochs=epochs, dead_after=2000) for a in architectures]
    whole = SAETrainer(chosen).train(rows)
    folder = tmp_path / "training"
    script = textwrap.dedent(SCRIPT).format(
        tests=os.path.dirname(__file__),  # noqa: PTH120
        epochs=epochs,
        architectures=architectures,
        folder=str(folder),
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    draw, kills = np.random.default_rng(0), 0
    for _ in range(int(os.environ.get("SAE_FEATURES_KILLS", "2"))):
        process = subprocess.Popen([sys.executable, "-c", script], env=environment)
        seen = (folder / NAME).stat().st_mtime_ns if (folder / NAME).exists() else 0
        while process.poll() is None:  # at least one save each, so that it comes forward
            now = (folder / NAME).stat().st_mtime_ns if (folder / NAME).exists() else 0
            if now != seen:
                break
            time.sleep(0.01)
        time.sleep(float(draw.uniform(0, 0.3)))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 1
    finished = SAETrainer(chosen, folder=folder).train(rows)
    assert all(same(a.sae, b.sae) for a, b in zip(finished, whole, strict=True))
    assert [a.history for a in finished] == [b.history for b in whole]


def test_bfloat16_trains_as_well():
    rows, _ = planted()
    plain = SAETrainer(settings(epochs=10)).train(rows)[0].sae
    rough = SAETrainer(replace(settings(epochs=10), dtype="bfloat16")).train(rows)[0].sae
    assert fvu(rough, rows) == pytest.approx(fvu(plain, rows), rel=0.1)
