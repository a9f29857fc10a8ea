"""Training whose end is not known: rows come call by call, at a constant learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from sae_features.errors import InvalidInputError
from sae_features.training.centering import SAMPLE_ROWS, center_and_scale
from sae_features.training.run import Run
from sae_features.training.sources import check_finite_rows
from sae_features.training.trainer import finished_sae, record_of

if TYPE_CHECKING:
    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.training.settings import TrainingSettings
    from sae_features.training.sources import ActivationSource


@dataclass(frozen=True)
class OnlineTraining:
    """A training between two calls, in plain tensors and numbers: it pickles.

    Attributes
    ----------
    center : tensor of shape (d,), float32
    scale : float
        What rows are shifted by and multiplied with: found once, from rows of the beginning.
    n_passes, n_rows : int
        Passes that were made, and rows in them.
    record : mapping
        How the last one went, as in the trainer's history.
    origin : SparseAutoencoder, optional
        What training goes on from where there is no state: one that was trained elsewhere.
    state : (mapping of tensors, mapping of numbers), optional
        What a run is restored from.
    """

    center: torch.Tensor
    scale: float
    n_passes: int = 0
    n_rows: int = 0
    record: dict[str, float] = field(default_factory=dict)
    origin: SparseAutoencoder | None = None
    state: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None


def begin(source: ActivationSource, kind: str = "mean") -> OnlineTraining:
    """Return a training before its first step, which takes centre and scale from a source.

    Raises
    ------
    InvalidInputError
        If its rows do not vary, or are not finite.
    """
    return OnlineTraining(*center_and_scale(source.sample(SAMPLE_ROWS), kind))


def learn(
    training: OnlineTraining, source: ActivationSource, settings: TrainingSettings, device: str
) -> tuple[SparseAutoencoder, OnlineTraining]:
    """Return an SAE and a training after one pass over a source; what is given is left as it is.

    Parameters
    ----------
    training : OnlineTraining
    source : ActivationSource
        Its rows are shuffled anew in each call.
    settings : TrainingSettings
        Of the architecture and width that the training has; its schedules are left out, and latents of
        the penalised architectures are not made to start anew.
    device : str

    Raises
    ------
    InvalidInputError
        If rows or losses are not finite.
    """
    run = _run_of(training, source.d_in, settings, device)
    center, n_batches = training.center.to(device), source.n_batches(settings.batch_size)
    start = training.n_passes * n_batches
    batches = source.batches(settings.batch_size, seed=settings.seed, start=start)
    losses: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(islice(batches, n_batches)):
        check_finite_rows(batch, number)
        losses = run.learn((batch.to(device) - center) * training.scale)
        total = float(sum(losses.values()))
        if not math.isfinite(total):
            message = (
                f"The loss of the {settings.architecture} SAE became {total}; train with a lower "
                "learning_rate. The SAE stays as it was before."
            )
            raise InvalidInputError(message)
    n_rows = training.n_rows + source.n_rows
    after = replace(
        training,
        origin=None,
        n_passes=training.n_passes + 1,
        n_rows=n_rows,
        record=record_of(run, n_rows, losses),
        state=({name: tensor.cpu() for name, tensor in run.tensors().items()}, run.numbers()),
    )
    return finished_sae(run, source, training.center, training.scale), after


def _run_of(training: OnlineTraining, d_in: int, settings: TrainingSettings, device: str) -> Run:
    """Return a run where the training stands."""
    constant = replace(settings, warmup=0.0, decay=0.0, sparsity_warmup=0.0, resample=False)
    run = Run(constant, d_in, 1, device)
    if training.state is not None:
        tensors, numbers = training.state
        run.restore({name: tensor.to(device) for name, tensor in tensors.items()}, numbers)
        run.settings = constant
    elif training.origin is not None:
        with torch.no_grad():
            for name, parameter in run.parameters.items():
                parameter.copy_(_parameter(training.origin, name, training.center, training.scale))
        run.sparsity = training.record.get("sparsity", run.sparsity)
    return run


def _parameter(sae: SparseAutoencoder, name: str, center: torch.Tensor, scale: float) -> torch.Tensor:
    """Return a parameter of training from a finished SAE: what objectives call ``finished``, undone."""
    tensor: torch.Tensor = getattr(sae, name)
    if name == "W_enc":
        return tensor.T
    if name in {"W_dec", "r_mag"}:
        return tensor
    return (tensor - center if name == "b_dec" else tensor) * scale
