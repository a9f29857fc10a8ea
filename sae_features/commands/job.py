"""From a corpus in a file to SAEs in a folder: what `sae-features train` does, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

import sae_features
from sae_features.commands.card import write_card
from sae_features.commands.corpora import Corpus, read_corpus
from sae_features.commands.folders import (
    CHECKPOINT,
    check_folders,
    check_space,
    rows_written,
    saved_steps,
)
from sae_features.commands.measures import load_predictor, losses_of, measures_of
from sae_features.errors import DigestMismatchError, StoreError
from sae_features.store.disk import FULL
from sae_features.targets import Request, resolve_target
from sae_features.training import SAETrainer
from sae_features.training.interruption import saving_at_ctrl_c
from sae_features.training.plan import TrainingPlan, plan_training
from sae_features.training.saved_runs import NAME
from sae_features.training.shards import write_activations
from sae_features.training.sources import ArraySource
from sae_features.training.streams import BUFFER_ROWS, BackboneSource
from sae_features.training.token_labels import check_has_tokens, labelled_rows, token_labels

if TYPE_CHECKING:
    from sae_features.commands.request import TrainingRequest
    from sae_features.models import ModelFiles
    from sae_features.training.settings import TrainingSettings
    from sae_features.training.sources import ActivationSource
    from sae_features.training.trainer import TrainedSAE

READ_ROWS: Final = 4096
MEMORY_BYTES: Final = 2**30
"""Of activations that are held in memory for the whole of a training, or an evaluation."""
TRAINED_SAMPLE: Final = 32_768
"""Rows that SAEs are evaluated on where nothing is held out."""
LABELLED_ROWS: Final = 200_000
"""Rows that latents are named by."""


@dataclass(frozen=True)
class TrainingJob:
    """A request, checked, with all that it names found and read.

    Attributes
    ----------
    request : TrainingRequest
    files : ModelFiles
        The model.
    settings : list of TrainingSettings
        One for each SAE.
    corpus : Corpus
    source : BackboneSource
        Of what is trained on.
    held_out : BackboneSource or None
        Of what is held out.
    """

    request: TrainingRequest
    files: ModelFiles
    settings: list[TrainingSettings]
    corpus: Corpus
    source: BackboneSource
    held_out: BackboneSource | None

    @property
    def checkpoint(self) -> Path:
        """Where the training is kept while it runs."""
        return self.request.folder / CHECKPOINT

    @property
    def n_held_out(self) -> int:
        """Rows that are evaluated: held-out ones that fit into memory; else of those trained on."""
        if self.held_out is None:
            return min(self.source.n_rows, TRAINED_SAMPLE)
        return min(self.held_out.n_rows, _most_rows(self.held_out))

    @property
    def fits_in_memory(self) -> bool:
        """Whether all activations are kept there, so that the model runs once."""
        return self.source.n_rows <= _most_rows(self.source)

    @property
    def activations(self) -> Path | None:
        """Where activations are written, if they are."""
        given = self.request.activations
        return None if given is None else Path(given).expanduser()


def prepare(request: TrainingRequest) -> TrainingJob:
    """Check a request and read its corpus; no weights are loaded and nothing is written.

    Raises
    ------
    SAEFeaturesError
        Of a kind and with a message that says what is wrong.
    """
    target = resolve_target(Request(request.model, request.layer, request.site), with_sae=False)
    files = target.model
    settings = request.settings(files.width(target.point))
    check_folders(request)
    corpus = read_corpus(
        request.corpus, request.column, modalities=files.modalities, held_out=request.held_out,
        seed=request.seed,
    )  # fmt: skip
    # A folder is recorded by its whole path, so that it is found from elsewhere, too.
    model = str(files.folder.resolve()) if files.source is None else files.name

    def source_of(items: list[Any]) -> BackboneSource:
        return BackboneSource(
            model, items, layer=target.point.layer, site=target.point.site,
            tokens=request.tokens_policy, prompt=request.prompt, max_length=request.max_length,
            overflow="chunk", dtype=request.dtype, device=request.device, verbose=not request.quiet,
        )  # fmt: skip

    held_out = source_of(corpus.held_out) if corpus.held_out else None
    job = TrainingJob(request, files, settings, corpus, source_of(corpus.trained), held_out)
    if request.loss_recovered:
        load_predictor(job.source)
    if request.label:
        check_has_tokens(job.source)
    return job


def plan(job: TrainingJob) -> TrainingPlan:
    """Count and time what a job will cost; its model is loaded.

    Raises
    ------
    DigestMismatchError
        If the checkpoint in its folder is of another training, and nothing may be overwritten.
    """
    n_held_out, first_step = (
        job.n_held_out,
        saved_steps(job.checkpoint, job.settings, job.source, may_differ=job.request.overwrite),
    )
    job.source.verbose = False  # of a few rows
    try:
        return plan_training(
            job.source,
            job.settings,
            device=job.request.device,
            n_held_out=n_held_out,
            first_step=first_step,
            is_kept=job.activations is not None or job.fits_in_memory,
            n_written=rows_written(job.activations),
        )
    finally:
        job.source.verbose = not job.request.quiet


def check_room(job: TrainingJob, made: TrainingPlan) -> None:
    """Raise StoreError where a disk is too small for what the plan will write."""
    check_space(job.request.folder, 2 * made.checkpoint_bytes + made.sae_bytes)
    if job.activations is not None:
        left = 1 - rows_written(job.activations) / made.n_tokens
        check_space(job.activations, made.activation_bytes * left)


def train(job: TrainingJob) -> list[TrainedSAE]:
    """Train, going on from a checkpoint if there is one; Ctrl-C saves first."""
    source = _kept(job)
    trainer = SAETrainer(
        job.settings, folder=job.checkpoint, save_seconds=job.request.save_seconds,
        device=job.request.device, verbose=not job.request.quiet,
    )  # fmt: skip
    with saving_at_ctrl_c(trainer, source) as stoppable:
        try:
            return trainer.train(stoppable)
        except DigestMismatchError:
            if not job.request.overwrite:
                raise
            (job.checkpoint / NAME).unlink()
            return trainer.train(stoppable)


def _kept(job: TrainingJob) -> ActivationSource:
    """Return activations on disk, in memory where all of them fit, or else computed in each pass."""
    if job.activations is not None:
        return write_activations(job.source, job.activations, verbose=not job.request.quiet)
    if not job.fits_in_memory:
        return job.source
    rows = _first(job.source, job.source.n_rows)
    return ArraySource(rows, hook_point=job.source.hook_point, metadata=job.source.metadata)


@torch.inference_mode()
def evaluate(job: TrainingJob, trained: list[TrainedSAE]) -> list[dict[str, Any]]:
    """Return the measures of each SAE on what was held out, or else on a sample of what was not."""
    saes = [each.sae for each in trained]
    if job.held_out is None:
        rows = job.source.sample(TRAINED_SAMPLE)
    else:
        rows = _first(job.held_out, job.n_held_out)
    measured = [measures_of(sae, ArraySource(rows)) for sae in saes]
    if job.request.loss_recovered:
        items = job.corpus.held_out or job.corpus.trained
        losses = losses_of(saes, job.source, items, verbose=not job.request.quiet)
        measured = [one | other for one, other in zip(measured, losses, strict=True)]
    return [{"is_held_out": job.held_out is not None, **each} for each in measured]


def save(job: TrainingJob, trained: list[TrainedSAE], measured: list[dict[str, Any]]) -> list[Path]:
    """Write each SAE with its card, and remove the checkpoint unless it is to be kept.

    Raises
    ------
    StoreError
        If the disk is full; the checkpoint stays.
    """
    folders = job.request.folders()
    labels = _labels(job, trained)
    try:
        for folder, one, measures, named in zip(folders, trained, measured, labels, strict=True):
            sae = replace(one.sae, metadata=_metadata(job, one, measures), labels=named)
            sae.save(folder)
            write_card(folder, sae, job.request)
    except OSError as error:
        if error.errno not in FULL:
            raise
        message = (
            f"No space is left for the SAEs in {str(job.request.folder)!r}. The training is kept: make "
            "room, then run the same command again."
        )
        raise StoreError(message) from error
    if not job.request.keep_checkpoint:
        (job.checkpoint / NAME).unlink(missing_ok=True)
        if not any(job.checkpoint.iterdir()):
            job.checkpoint.rmdir()
    return folders


def _metadata(job: TrainingJob, one: TrainedSAE, measures: dict[str, Any]) -> dict[str, Any]:
    last = one.history[-1]
    data = job.corpus.record | {"n_tokens": job.source.n_rows, "n_tokens_trained": last["rows"]}
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in measures.items()
    }
    return {
        **one.sae.metadata,
        "data": data,
        "metrics": finite,
        "versions": {
            "sae_features": sae_features.__version__,
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }


def _labels(job: TrainingJob, trained: list[TrainedSAE]) -> list[dict[int, str]]:
    if not job.request.label:
        return [{} for _ in trained]
    rows, ids, tokenizer = labelled_rows(job.source, LABELLED_ROWS)
    return [token_labels(one.sae, rows, ids, tokenizer) for one in trained]


def _most_rows(source: BackboneSource) -> int:
    """Return how many rows are held in memory."""
    return min(BUFFER_ROWS, MEMORY_BYTES // (4 * source.d_in))


def _first(source: BackboneSource, n_rows: int) -> torch.Tensor:
    """Return the first rows of a source, in one piece of memory."""
    rows, seen = torch.empty(n_rows, source.d_in), 0
    for batch in source.in_order(READ_ROWS):
        part = batch[: n_rows - seen]
        rows[seen : seen + len(part)] = part
        seen += len(part)
        if seen == n_rows:
            break
    return rows[:seen]  # attention sinks are left out
