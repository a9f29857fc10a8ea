"""Training of SAEs: one pass over activations for one SAE or several, kept on disk and resumed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sae_features.errors import DigestMismatchError, InvalidInputError, InvalidParameterError, warn
from sae_features.saes.autoencoder import SparseAutoencoder
from sae_features.training.centering import SAMPLE_ROWS, center_and_scale, check_width
from sae_features.training.run import Run
from sae_features.training.saved_runs import check_same, restore_runs, save_runs, saved_numbers
from sae_features.training.settings import SHARED, TrainingSettings
from sae_features.training.sources import ArraySource, check_finite_rows
from sae_features.weights import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.training.sources import ActivationSource

SAVE_SECONDS = 60.0
N_RECORDS = 200
IMPROVEMENT = 1e-3
SETTLING = 200
"""Steps after the warm-up of penalties until running means tell what has come of it."""
SAME = 1e-3
KEPT = ("step", "rows_seen", "best", "stale", "is_settled", "histories")


def source_of(activations: ActivationSource | np.ndarray | torch.Tensor) -> ActivationSource:
    """Return a source; of an array or a tensor one of its rows."""
    if isinstance(activations, np.ndarray | torch.Tensor):
        return ArraySource(activations)
    return activations


@dataclass(frozen=True)
class TrainedSAE:
    """An SAE and how its training went.

    Attributes
    ----------
    sae : SparseAutoencoder
        Takes activations as they are: centre and scale are folded into its weights.
    settings : TrainingSettings
        How it was trained.
    history : list of dict
        At about 200 moments: ``step``, ``rows`` seen, ``l0``, ``fvu`` (running means over batches),
        ``dead`` latents, ``sparsity`` (weight of the penalty), and the losses by name.
    """

    sae: SparseAutoencoder
    settings: TrainingSettings
    history: list[dict[str, float]]


class SAETrainer:
    """Trains sparse autoencoders on activations.

    Parameters
    ----------
    settings : TrainingSettings or sequence of them
        Several SAEs are trained in one pass over the data, on the same batches: a sweep over ``k``,
        ``target_l0``, widths or architectures costs one run of the model.  They must
        agree in ``batch_size``, ``n_tokens``, ``epochs``, ``center``, ``patience`` and ``seed``.
    folder : str or Path, optional
        Where the training is kept, so that it goes on after an interruption; none is kept if not given.
        On a CPU what follows is equal to the bit to what would have followed.
    save_seconds : float, default=60
        How often; a kill loses at most that much.
    device : str, optional
        ``"cpu"``, ``"cuda"`` …; the fastest there is if not given.
    verbose : bool, default=False
        Whether to show progress.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_features.training import SAETrainer, TrainingSettings
    >>> rows = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    >>> settings = TrainingSettings(n_latents=16, k=2, batch_size=100)
    >>> trained = SAETrainer(settings).train(rows)[0]
    >>> trained.sae
    SparseAutoencoder('topk', d_in=8, n_latents=16, k=2)
    """

    def __init__(
        self,
        settings: TrainingSettings | Sequence[TrainingSettings],
        *,
        folder: str | Path | None = None,
        save_seconds: float = SAVE_SECONDS,
        device: str | None = None,
        verbose: bool = False,
    ) -> None:
        listed = [settings] if isinstance(settings, TrainingSettings) else list(settings)
        if not listed:
            raise InvalidParameterError("Got no settings; expected those of at least one SAE.")
        for name in SHARED:
            values = {getattr(each, name) for each in listed}
            if len(values) > 1:
                message = (
                    f"Got SAEs with {name}={' and '.join(sorted(map(str, values)))} for one pass over "
                    f"the data; expected one {name} for all."
                )
                raise InvalidParameterError(message)
        self.settings = listed
        self.folder = None if folder is None else Path(folder).expanduser()
        self.save_seconds = save_seconds
        self.device = device
        self.verbose = verbose

    def train(self, activations: ActivationSource | np.ndarray | torch.Tensor) -> list[TrainedSAE]:
        """Train on activations and return the SAEs, in the order of the settings.

        Parameters
        ----------
        activations : ActivationSource, or array or tensor of shape (n, d)
            What to train on.

        Returns
        -------
        list of TrainedSAE

        Raises
        ------
        InvalidInputError
            If activations are not finite or do not vary; the last one saved stays.
        DigestMismatchError
            If the folder holds a training with other settings or data.
        CheckpointError
            If the training cannot be saved, or what was saved is damaged.

        Warns
        -----
        SAEFeaturesWarning
            If there are fewer rows than ``n_tokens`` asks for, or fewer latents than dimensions.
        """
        source = source_of(activations)
        shared = self.settings[0]
        n_steps = self._n_steps(source)
        for settings in self.settings:
            complaint = check_width(settings.n_latents, source.d_in, settings.k)
            if complaint:
                warn(complaint)
        device = choose_device(self.device)
        center, scale = center_and_scale(source.sample(SAMPLE_ROWS), shared.center)
        runs = [Run(settings, source.d_in, n_steps, device) for settings in self.settings]
        session = _Session(runs, self._facts(source, n_steps), self.folder, center, scale)
        session.resume()
        center, scale = session.center, session.scale
        self._learn(source, session, center.to(device), scale)
        session.end()
        return [
            TrainedSAE(finished_sae(run, source, center, scale), run.settings, history)
            for run, history in zip(runs, session.histories, strict=True)
        ]

    def _learn(
        self, source: ActivationSource, session: _Session, center: torch.Tensor, scale: float
    ) -> None:
        shared, saved = self.settings[0], time.monotonic()
        n_steps = session.n_steps
        batches = source.batches(shared.batch_size, seed=shared.seed, start=session.step)
        per_pass = source.n_batches(shared.batch_size)
        interval = max(1, n_steps // N_RECORDS)
        with tqdm(
            total=n_steps, initial=session.step, unit="step", disable=not self.verbose, desc="train"
        ) as bar:
            while session.step < n_steps and not session.is_settled:
                batch = next(batches)
                number = session.step
                check_finite_rows(batch, number)
                x = (batch.to(center.device, non_blocking=True) - center) * scale
                losses = [run.learn(x) for run in session.runs]
                session.advance(len(batch), number, losses, is_recorded=number % interval == 0)
                bar.update()
                if number % 20 == 0:
                    bar.set_postfix(session.shown(), refresh=False)
                if (number + 1) % per_pass == 0:
                    session.end_pass(shared.patience)
                if self.folder is not None and time.monotonic() - saved >= self.save_seconds:
                    session.save()
                    saved = time.monotonic()

    def _n_steps(self, source: ActivationSource) -> int:
        shared = self.settings[0]
        per_pass = source.n_batches(shared.batch_size)
        if shared.n_tokens is None:
            return per_pass * shared.epochs
        if shared.n_tokens > source.n_rows:
            passes = shared.n_tokens / source.n_rows
            warn(
                f"Got n_tokens={shared.n_tokens:,} and activations of {source.n_rows:,} tokens; they "
                f"are passed over {passes:.1f} times."
            )
        return max(1, round(per_pass * shared.n_tokens / source.n_rows))

    def _facts(self, source: ActivationSource, n_steps: int) -> dict[str, Any]:
        """Return what a folder must agree with to be gone on with, as JSON gives it back.

        Raises
        ------
        InvalidParameterError
            If the metadata of the activations are not plain values.
        """
        facts = {
            "settings": [settings.asdict() for settings in self.settings],
            "n_rows": source.n_rows,
            "d_in": source.d_in,
            "steps": n_steps,
            "data": dict(source.metadata),
            "rows": None if self.folder is None else getattr(source, "digest", None),
        }
        try:
            plain: dict[str, Any] = json.loads(json.dumps(facts))
        except (TypeError, ValueError) as error:
            message = f"Got metadata that JSON cannot hold ({error}); expected plain values."
            raise InvalidParameterError(message) from error
        return plain


class _Session:
    """The runs of a training, and what is told and kept of them."""

    def __init__(
        self,
        runs: list[Run],
        facts: dict[str, Any],
        folder: Path | None,
        center: torch.Tensor,
        scale: float,
    ) -> None:
        self.runs, self.facts, self.folder = runs, facts, folder
        self.center, self.scale = center, scale
        self.n_steps = int(facts["steps"])
        self.step = self.rows_seen = 0
        self.best: list[float] | None = None
        self.stale = 0
        self.is_settled = False
        self.histories: list[list[dict[str, float]]] = [[] for _ in runs]
        self.losses: list[dict[str, torch.Tensor]] = []

    def resume(self) -> None:
        """Go on from what was saved, if anything was."""
        numbers = None if self.folder is None else saved_numbers(self.folder)
        if numbers is None or self.folder is None:
            return
        check_same(numbers, self.facts, self.folder)
        center = torch.tensor(numbers["center"])
        spread = 1 / numbers["scale"]  # of the rows around their centre
        is_same = abs(self.scale * spread - 1) < SAME and bool(
            torch.linalg.vector_norm(center - self.center) < SAME * spread
        )
        if not is_same:
            message = (
                f"The folder {str(self.folder)!r} holds a training on activations with another centre "
                "or spread. Choose another folder, or bring back the data."
            )
            raise DigestMismatchError(message)
        restore_runs(self.folder, self.runs, numbers)
        self.center, self.scale = center, numbers["scale"]  # as they were, to the bit
        for name in KEPT:
            setattr(self, name, numbers[name])

    def save(self) -> None:
        """Keep all on disk, if there is a folder."""
        if self.folder is None:
            return
        for run in self.runs:
            run.check_finite()
        kept = {name: getattr(self, name) for name in KEPT}
        place = {"center": self.center.tolist(), "scale": self.scale}
        save_runs(self.folder, self.runs, self.facts | place | kept)

    def advance(
        self, n_rows: int, number: int, losses: list[dict[str, torch.Tensor]], *, is_recorded: bool
    ) -> None:
        """Count a step.

        Raises
        ------
        InvalidInputError
            If a loss is not finite.
        """
        self.step += 1
        self.rows_seen += n_rows
        for run, of_run, history in zip(self.runs, losses, self.histories, strict=True):
            total = float(sum(of_run.values()))
            if not abs(total) < float("inf"):
                message = (
                    f"The loss of the {run.settings.architecture} SAE became {total} at step {number}; "
                    "train with a lower learning_rate, or clip_norm=1. What was saved before stays."
                )
                raise InvalidInputError(message)
            if is_recorded or self.step == self.n_steps:
                history.append(record_of(run, self.rows_seen, of_run))
        self.losses = losses

    def end(self) -> None:
        """Keep the last step, which may not have been recorded where training stopped early."""
        made = self.losses or [{} for _ in self.runs]  # none where all was done before
        for run, of_run, history in zip(self.runs, made, self.histories, strict=True):
            if of_run and history[-1]["step"] != self.step:
                history.append(record_of(run, self.rows_seen, of_run))
        self.save()

    def end_pass(self, patience: int | None) -> None:
        """Judge whether anything became better in a pass, once penalties have warmed up."""
        warm = max(run.settings.sparsity_warmup * run.n_steps for run in self.runs) + SETTLING
        if patience is None or self.step <= warm:
            return
        now = [run.fvu for run in self.runs]
        best = self.best or [float("inf")] * len(now)
        is_better = any(fvu < (1 - IMPROVEMENT) * least for fvu, least in zip(now, best, strict=True))
        self.stale = 0 if is_better else self.stale + 1
        self.best = [min(pair) for pair in zip(now, best, strict=True)]
        self.is_settled = self.stale >= patience

    def shown(self) -> dict[str, str]:
        """Return what the progress bar tells."""
        run = self.runs[0]
        alive = 1 - run.n_dead / run.settings.n_latents
        return {"l0": f"{run.l0:.1f}", "fvu": f"{run.fvu:.4f}", "alive": f"{alive:.1%}"}


def record_of(run: Run, n_rows: int, losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Return what a history tells of a moment."""
    return {
        "step": run.step,
        "rows": n_rows,
        "l0": run.l0,
        "fvu": run.fvu,
        "dead": run.n_dead,
        "sparsity": run.sparsity,
        **{name: float(loss) for name, loss in losses.items()},
    }


@torch.no_grad()
def finished_sae(
    run: Run, source: ActivationSource, center: torch.Tensor, scale: float
) -> SparseAutoencoder:
    """Return what was trained, with centre and scale folded into its weights."""
    import sae_features

    run.check_finite()
    parameters = {name: tensor.detach().cpu() for name, tensor in run.parameters.items()}
    parts = run.objective.finished(parameters, scale, run.least)
    parts["b_dec"] = parts["b_dec"] + center.cpu()
    if run.settings.architecture == "topk":
        parts["k"] = run.settings.k
    training = {
        "settings": run.settings.asdict(),
        "steps": run.step,
        "sae_features": sae_features.__version__,
        "torch": torch.__version__,
    }
    metadata = {**source.metadata, "training": training}
    return SparseAutoencoder(**parts, hook_point=source.hook_point, metadata=metadata)
