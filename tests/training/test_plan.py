from __future__ import annotations

import numpy as np
import pytest

from sae_features.errors import InvalidInputError
from sae_features.training import SAETrainer, TrainingSettings
from sae_features.training.plan import plan_training
from sae_features.training.saved_runs import NAME
from sae_features.training.settings import TRAINED_ARCHITECTURES
from sae_features.training.sources import ArraySource


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(1234, 8)).astype(np.float32)


@pytest.mark.parametrize("choices", [{"epochs": 3}, {"n_tokens": 500}, {"n_tokens": 7_777}])
@pytest.mark.parametrize("architecture", TRAINED_ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:Got n_tokens")
def test_the_plan_counts_what_is_trained(rows, choices, architecture):
    settings = TrainingSettings(architecture=architecture, n_latents=16, k=2, batch_size=100, **choices)
    plan = plan_training(ArraySource(rows), [settings])
    (trained,) = SAETrainer(settings).train(rows)
    assert plan.n_steps == trained.history[-1]["step"]
    assert plan.n_trained == pytest.approx(trained.history[-1]["rows"], abs=1)
    assert plan.passes == pytest.approx(plan.n_trained / len(rows))
    n_matrices = 2 * 16 * 8 + 8
    assert plan.n_parameters - n_matrices in {16, 32, 48}, "one to three vectors"
    assert plan.state_bytes == 3 * plan.sae_bytes == 12 * plan.n_parameters


def test_the_checkpoint_is_as_large_as_planned(rows, tmp_path):
    settings = [TrainingSettings(n_latents=2048, k=k, batch_size=100, epochs=1) for k in (2, 4)]
    plan = plan_training(ArraySource(rows), settings)
    SAETrainer(settings, folder=tmp_path).train(rows)
    assert (tmp_path / NAME).stat().st_size == pytest.approx(plan.checkpoint_bytes, rel=0.02)
    assert plan.n_saes == 2


class Timed(ArraySource):
    """Rows that the clock says take a millisecond each."""

    def __init__(self, rows, clock):
        super().__init__(rows)
        self.clock = clock

    def sample(self, n_rows):
        self.clock[0] += n_rows / 1000
        return super().sample(n_rows)


def test_times_follow_from_what_was_measured(rows, monkeypatch):
    from sae_features.training import plan as module
    from sae_features.training.run import Run

    clock = [0.0]
    genuine = Run.learn

    def learn(self, x):
        clock[0] += 0.5
        return genuine(self, x)

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Run, "learn", learn)
    settings = TrainingSettings(n_latents=16, k=2, batch_size=100, epochs=2)
    source = Timed(rows, clock)
    plan = plan_training(source, [settings, settings], n_held_out=100)
    assert plan.seconds_per_token == pytest.approx(0.001)
    assert plan.seconds_per_step == pytest.approx(1.0), "two SAEs"
    assert plan.step_seconds == pytest.approx(24)
    assert plan.model_seconds == pytest.approx(3 * 1.234), "two passes, and a sample of all rows"
    assert plan.evaluation_seconds == pytest.approx(0.1 + 100 / 100 / 3)
    assert plan.seconds == pytest.approx(
        plan.model_seconds + plan.step_seconds + plan.evaluation_seconds
    )
    kept = plan_training(source, [settings], is_kept=True)
    assert kept.model_seconds == pytest.approx(1.234)
    assert plan_training(source, [settings], is_kept=True, n_written=1000).model_seconds == (
        pytest.approx(0.234)
    )
    half = plan_training(source, [settings], first_step=12)
    assert half.step_seconds == pytest.approx(6)


def test_what_cannot_be_trained_on_is_found_before():
    settings = [TrainingSettings(n_latents=16, k=2)]
    with pytest.raises(InvalidInputError, match="Got activations of variance 0"):
        plan_training(ArraySource(np.ones((10, 8), np.float32)), settings)
    broken = np.ones((10, 8), np.float32)
    broken[3, 2] = np.nan
    with pytest.raises(InvalidInputError, match="not finite"):
        plan_training(ArraySource(broken), settings)
