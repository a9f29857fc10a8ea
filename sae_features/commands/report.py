"""What `sae-features train` says: the plan before it begins, and the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sae_features.commands.card import usage
from sae_features.commands.folders import free_bytes
from sae_features.commands.measures import measures_as_text
from sae_features.commands.quantities import bytes_as_text, time_as_text
from sae_features.training.centering import check_width

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.commands.job import TrainingJob
    from sae_features.training.plan import TrainingPlan

FEW_STEPS: Final = 500
LONG: Final = 60.0
"""Seconds of a model's further passes from which keeping its activations is suggested."""


def plan_as_text(job: TrainingJob, plan: TrainingPlan) -> str:
    """Return a plan as lines."""
    data, shared = job.corpus.record, job.settings[0]
    name = data.get("file") or data.get("folder")
    column = f", column {data['column']!r}" if data.get("column") else ""
    held = f"{job.held_out.n_rows:,} tokens are held out" if job.held_out else "none are held out"
    twice = " (twice that at first)" if job.activations is None and job.fits_in_memory else ""
    rows = [
        ("corpus", f"{name}{column}: {data['n_items']:,} items, {data['n_trained']:,} to train on, "
                   f"{data['n_held_out']:,} held out"),
        ("activations", f"{job.files.name}, {job.source.hook_point}, {plan.d_in:,} dimensions: "
                        f"{plan.n_tokens:,} tokens in one pass, {held}"),
        ("SAE", _saes(job, plan)),
        ("training", f"{plan.n_trained:,} tokens in {plan.n_steps:,} steps of about "
                     f"{plan.n_trained / plan.n_steps:,.0f}: {plan.passes:,.1f} passes over the corpus "
                     f"({_runs(job)}), seed {shared.seed}, on {plan.device}"),
        ("memory", f"{bytes_as_text(plan.buffer_bytes)} of activations{twice}, "
                   f"{bytes_as_text(plan.state_bytes)} of parameters and Adam's moments; the model"),
        ("disk", _disk(job, plan)),
        ("time", _time(plan)),
    ]  # fmt: skip
    lines = ["Plan", *(f"  {title:<13}{text}" for title, text in rows)]
    return "\n".join([*lines, *(f"  note: {note}" for note in _notes(job, plan))])


def result_as_text(job: TrainingJob, folders: list[Path], measured: list[dict[str, Any]]) -> str:
    """Return what was trained, how good it is, and how it is used."""
    lines: list[str] = []
    for folder, measures in zip(folders, measured, strict=True):
        what = "held-out tokens" if measures["is_held_out"] else "tokens it was trained on"
        lines += [
            f"{folder}: {measures['architecture']} SAE of {measures['n_latents']:,} latents, on "
            f"{measures['n_tokens']:,} {what}",
            *measures_as_text(measures),
        ]
    shown = "it" if len(folders) == 1 else "the first"
    return "\n".join([*lines, "", f"Saved, with a card (README.md) each. To use {shown}:", "",
                      *(f"    {line}" for line in usage(folders[0], job.request))])  # fmt: skip


def _saes(job: TrainingJob, plan: TrainingPlan) -> str:
    shared = job.settings[0]
    times = plan.n_latents / plan.d_in
    name, values = job.request.sweep
    listed = ", ".join(f"{value:g}" for value in values)
    many = f"{plan.n_saes} times " if plan.n_saes > 1 else ""
    return (
        f"{many}{shared.architecture}, {plan.n_latents:,} latents ({times:.3g} x {plan.d_in:,}), {name} "
        f"= {listed}: {plan.n_parameters:,} parameters, {bytes_as_text(plan.sae_bytes)} "
        f"({bytes_as_text(plan.state_bytes)} with Adam's moments)"
    )


def _runs(job: TrainingJob) -> str:
    if job.activations is not None:
        return "the model runs once, activations are on disk"
    if job.fits_in_memory:
        return "the model runs once, activations are in memory"
    return "the model runs in each"


def _disk(job: TrainingJob, plan: TrainingPlan) -> str:
    kept = "" if job.activations is None else (
        f", {bytes_as_text(plan.activation_bytes)} for activations in {job.activations}"
    )  # fmt: skip
    return (
        f"{bytes_as_text(plan.sae_bytes)} for what is trained, "
        f"{bytes_as_text(plan.checkpoint_bytes)} for the checkpoint until then (twice that while it is "
        f"saved){kept}; {bytes_as_text(free_bytes(job.request.folder))} are free"
    )


def _time(plan: TrainingPlan) -> str:
    return (
        f"about {time_as_text(plan.seconds)} (an estimate): {time_as_text(plan.model_seconds)} for the "
        f"model at {1 / plan.seconds_per_token:,.0f} tokens/s, {time_as_text(plan.step_seconds)} for "
        f"the steps at {1 / plan.seconds_per_step:,.1f} a second, "
        f"{time_as_text(plan.evaluation_seconds)} to evaluate"
    )


def _notes(job: TrainingJob, plan: TrainingPlan) -> list[str]:
    notes = []
    if plan.first_step:
        notes.append(f"going on from step {plan.first_step:,}, which is saved in {job.checkpoint}")
    if job.request.tokens is not None and job.request.tokens > plan.n_tokens:
        notes.append(
            f"the corpus is smaller than the budget of {job.request.tokens:,} tokens: it is passed over "
            f"{plan.passes:,.1f} times"
        )
    complaint = check_width(plan.n_latents, plan.d_in, 1)
    if complaint:
        notes.append(complaint[0].lower() + complaint[1:].removesuffix("."))
    if plan.n_steps < FEW_STEPS:
        notes.append(
            f"{plan.n_steps:,} steps are few, good SAEs take thousands: more texts, --epochs, or a "
            "smaller --batch-size"
        )
    if plan.model_runs > 1:
        saved = plan.seconds_per_token * plan.n_tokens * (plan.passes - 1)
        if saved > LONG:
            notes.append(
                f"--activations DIR would run the model once: {time_as_text(saved)} less, for "
                f"{bytes_as_text(plan.activation_bytes)} of disk"
            )
    return notes
