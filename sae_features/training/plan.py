"""What a training will cost: counted from the data, and timed by a few real steps before it begins."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from sae_features.training.centering import SAMPLE_ROWS, center_of, check_width, scale_of
from sae_features.training.run import Run
from sae_features.training.sources import check_finite_rows
from sae_features.training.streams import BUFFER_ROWS
from sae_features.weights import choose_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from sae_features.training.settings import TrainingSettings
    from sae_features.training.sources import ActivationSource

PROBED_ROWS: Final = 1024
"""Rows that the model is timed on."""
FIRST_ROWS: Final = 64
"""Rows before that: the first run of a model is slower than others."""
PROBED_STEPS: Final = 2
FEW_STEPS: Final = 500
EVALUATION_SHARE: Final = 1 / 3
"""Of a training step: evaluating goes forward only."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will cost; times are estimates, all else is counted.

    Attributes
    ----------
    n_tokens : int
        Rows of one pass over the data, attention sinks included.
    n_trained : int
        Rows to be trained on, of all passes.
    n_steps, first_step, batch_size : int
        Steps of the training, how many of them were made before, and about how many rows each has.
    passes : float
        How often the data are passed over.
    d_in, n_latents, n_saes, n_parameters : int
        Sizes; parameters are those of all SAEs together.
    sae_bytes, state_bytes, buffer_bytes : int
        Of the SAEs alone; of them with Adam's two moments; of the rows in memory.
    checkpoint_bytes, activation_bytes : int
        On disk: of the checkpoint (twice that while it is replaced); of the activations of one pass.
    model_runs : float
        How often the model runs over the data.
    seconds_per_token, seconds_per_step : float
        As measured: of the model, or of reading; of one step of all SAEs.
    model_seconds, step_seconds, evaluation_seconds : float
        Estimates of what is still to be done.
    device : str
        Where the SAEs are trained.
    """

    n_tokens: int
    n_trained: int
    n_steps: int
    first_step: int
    batch_size: int
    passes: float
    d_in: int
    n_latents: int
    n_saes: int
    n_parameters: int
    sae_bytes: int
    state_bytes: int
    buffer_bytes: int
    checkpoint_bytes: int
    activation_bytes: int
    model_runs: float
    seconds_per_token: float
    seconds_per_step: float
    model_seconds: float
    step_seconds: float
    evaluation_seconds: float
    device: str

    @property
    def seconds(self) -> float:
        """Estimate of all that is still to be done."""
        return self.model_seconds + self.step_seconds + self.evaluation_seconds

    def asdict(self) -> dict[str, Any]:
        """Return all figures by name, as plain values."""
        return asdict(self) | {"seconds": self.seconds}


def plan_training(
    source: ActivationSource,
    settings: Sequence[TrainingSettings],
    *,
    device: str | None = None,
    n_held_out: int = 0,
    first_step: int = 0,
    is_kept: bool = False,
    n_written: int = 0,
) -> TrainingPlan:
    """Count and time what training SAEs on a source will cost; takes seconds.

    The source is asked for about a thousand rows, and every SAE makes three real steps on them.

    Parameters
    ----------
    source : ActivationSource
        What is trained on; its rows are counted.
    settings : sequence of TrainingSettings
        As for one :class:`~sae_features.training.SAETrainer`.
    device : str, optional
        Where the SAEs are trained; the fastest there is if not given.
    n_held_out : int, default=0
        Rows that are evaluated afterwards.
    first_step : int, default=0
        Steps that were made before an interruption.
    is_kept : bool, default=False
        Whether all activations are kept first, in memory or on disk, so that the model runs once.
    n_written : int, default=0
        Rows of them that are there already.

    Returns
    -------
    TrainingPlan

    Raises
    ------
    InvalidParameterError
        If ``k`` exceeds the width.
    InvalidInputError
        If activations are not finite or do not vary.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_features.training import TrainingSettings
    >>> from sae_features.training.sources import ArraySource
    >>> rows = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    >>> plan = plan_training(ArraySource(rows), [TrainingSettings(n_latents=16, k=2, batch_size=100)])
    >>> plan.n_steps, plan.passes, plan.n_parameters
    (40, 4.0, 280)
    """
    shared, place = settings[0], choose_device(device)
    for each in settings:
        check_width(each.n_latents, source.d_in, each.k)
    n_steps = count_steps(source, shared)
    n_trained = round(n_steps * source.n_rows / source.n_batches(shared.batch_size))
    rows, per_token = _time_rows(source)
    timed = [_time_steps(rows, each, place) for each in settings]
    n_parameters, per_step = sum(n for n, _ in timed), sum(seconds for _, seconds in timed)
    passes = n_trained / source.n_rows
    left = max(0, n_steps - first_step)
    runs = 1.0 if is_kept else passes
    of_passes = source.n_rows - n_written if is_kept else _rows_run(source, n_trained * left / n_steps)
    of_sample = 0 if is_kept else min(SAMPLE_ROWS, source.n_rows)
    per_evaluated = per_step * EVALUATION_SHARE / shared.batch_size
    return TrainingPlan(
        n_tokens=source.n_rows,
        n_trained=n_trained,
        n_steps=n_steps,
        first_step=first_step,
        batch_size=shared.batch_size,
        passes=passes,
        d_in=source.d_in,
        n_latents=shared.n_latents,
        n_saes=len(settings),
        n_parameters=n_parameters,
        sae_bytes=4 * n_parameters,
        state_bytes=12 * n_parameters,
        buffer_bytes=4 * source.d_in * min(source.n_rows, BUFFER_ROWS),
        checkpoint_bytes=12 * n_parameters + sum(8 * each.n_latents for each in settings),
        activation_bytes=4 * source.d_in * source.n_rows,
        model_runs=runs,
        seconds_per_token=per_token,
        seconds_per_step=per_step,
        model_seconds=per_token * (of_passes + of_sample),
        step_seconds=per_step * left,
        evaluation_seconds=n_held_out * (per_token + per_evaluated),
        device=place,
    )


def count_steps(source: ActivationSource, settings: TrainingSettings) -> int:
    """Return how many steps :class:`~sae_features.training.SAETrainer` makes."""
    per_pass = source.n_batches(settings.batch_size)
    if settings.n_tokens is None:
        return per_pass * settings.epochs
    return max(1, round(per_pass * settings.n_tokens / source.n_rows))


def _rows_run(source: ActivationSource, n_rows: float) -> float:
    """Return how many rows are computed for so many: those of a block come together."""
    passes, rest = divmod(n_rows, source.n_rows)
    block = min(source.n_rows, BUFFER_ROWS)
    return passes * source.n_rows + min(source.n_rows, -(-rest // block) * block)


def _time_rows(source: ActivationSource) -> tuple[torch.Tensor, float]:
    """Return some rows, and how many seconds each took."""
    source.sample(min(FIRST_ROWS, source.n_rows))
    started = time.perf_counter()
    rows = source.sample(min(PROBED_ROWS, source.n_rows))
    seconds = time.perf_counter() - started
    check_finite_rows(rows, 0)
    return rows, seconds / len(rows)


def _time_steps(rows: torch.Tensor, settings: TrainingSettings, device: str) -> tuple[int, float]:
    """Return how many parameters an SAE has, and how many seconds a step takes."""
    center = center_of(rows, settings.center)
    scaled = (rows - center) * scale_of(rows, center)
    repeats = -(-settings.batch_size // len(scaled))
    batch = scaled.repeat(repeats, 1)[: settings.batch_size].to(device)
    run = Run(settings, batch.shape[1], 1 + PROBED_STEPS, device)
    run.learn(batch)
    started = time.perf_counter()
    for _ in range(PROBED_STEPS):
        run.learn(batch)
    seconds = (time.perf_counter() - started) / PROBED_STEPS
    return sum(tensor.numel() for tensor in run.parameters.values()), seconds
