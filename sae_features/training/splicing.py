"""Runs of a language model while activations at a hook point are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from sae_features.backbones.batches import GPU_TOKEN_BUDGET, TOKEN_BUDGET, batches_of
from sae_features.backbones.hooks import replace_point
from sae_features.errors import InvalidInputError
from sae_features.progress import Progress
from sae_features.training.language_models import predicted_counts, predictions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_features.backbones.windows import Windows
    from sae_features.hook_point import HookPoint
    from sae_features.training.language_models import LanguageModel, Predictions

Change = Callable[[torch.Tensor], torch.Tensor]
"""From activations of counted tokens, (n, d) float32, to what stands in their place."""
LOGIT_BYTES = 128 * 2**20
"""Most memory for the logits of a batch, where no batch size is given; a few times that is needed."""
SUM_ROWS = 256
"""Predictions at a time whose distributions are compared."""


class SplicedRuns:
    """Runs of a language model over the same windows, with one change or another at a hook point."""

    def __init__(
        self,
        lm: LanguageModel,
        point: HookPoint,
        windows: Windows,
        seed: int,
        batch_size: int | None,
        *,
        is_shown: bool,
    ) -> None:
        self.lm, self.point, self.windows, self.seed = lm, point, windows, seed
        self.is_shown = is_shown
        counts = predicted_counts(lm, windows)
        self.n_predictions = int(counts.sum())
        if not self.n_predictions:
            message = "Got texts without a token to predict; expected longer ones."
            raise InvalidInputError(message)
        rows = _rows_at_a_time(lm, windows) if batch_size is None else batch_size
        self.batches = list(batches_of(windows, counts > 0, lambda *_: (), rows))

    def compare(self, changes: Sequence[Change]) -> tuple[float, list[float], list[float], torch.Tensor]:
        """Return the loss unchanged, that of each change, its divergence, and the mean activation."""
        loss, losses = 0.0, np.zeros(len(changes))
        divergences = np.zeros(len(changes))
        total: torch.Tensor = torch.zeros(())
        n_rows = 0

        def read(rows: torch.Tensor) -> torch.Tensor:
            nonlocal total, n_rows
            total = total + rows.cpu().double().sum(dim=0)
            n_rows += len(rows)
            return rows

        with Progress("loss recovered", "text", len(self.windows), is_shown=self.is_shown) as progress:
            for chosen in self.batches:
                batch = predictions_of(self.lm, self.windows, chosen, self.seed)
                before = log_probabilities(self.lm, batch, self.point, read)
                loss += _loss(before, batch.targets)
                for i, change in enumerate(changes):
                    after = log_probabilities(self.lm, batch, self.point, change)
                    losses[i] += _loss(after, batch.targets)
                    divergences[i] += _divergence(before, after)
                progress.tell(len(chosen), int(batch.counted.sum()) * (1 + len(changes)))
        per_prediction = 1 / self.n_predictions
        return (
            self._checked(loss, "as it is"),
            [self._checked(value, "with activations replaced") for value in losses],
            [float(value) * per_prediction for value in divergences],
            (total / n_rows).float(),
        )

    def loss(self, change: Change) -> float:
        """Return the loss with a change."""
        loss = 0.0
        for chosen in self.batches:
            batch = predictions_of(self.lm, self.windows, chosen, self.seed)
            loss += _loss(log_probabilities(self.lm, batch, self.point, change), batch.targets)
        return self._checked(loss, "with activations replaced")

    def _checked(self, total: float, how: str) -> float:
        mean = float(total) / self.n_predictions
        if not np.isfinite(mean):
            message = (
                f"Got a cross-entropy of {mean} from the model {self.lm.files.name!r} {how} at "
                f"{self.point}; expected a finite one. Its weights or those of the SAE may be damaged."
            )
            raise InvalidInputError(message)
        return mean


def log_probabilities(
    lm: LanguageModel,
    batch: Predictions,
    point: HookPoint,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the log-probabilities of the whole vocabulary at the positions that count.

    Parameters
    ----------
    lm : LanguageModel
    batch : Predictions
    point : HookPoint
        Where activations are replaced.
    change : callable, optional
        Takes the activations of the counted tokens there, (n, d) float32, and returns what stands in
        their place; those of all other tokens stay as they are.

    Returns
    -------
    tensor of shape (n_predictions, n_vocabulary), float32
    """
    splice: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if change is not None:
        replace = change

        def replaced(hidden: torch.Tensor) -> torch.Tensor:
            flat = hidden.reshape(-1, hidden.shape[-1])
            counted = batch.counted.view(-1)
            new = flat.clone()
            new[counted] = replace(flat[counted].float()).to(flat)
            return new.view_as(hidden)

        splice = replace_point(lm.model, point, lm.backbone.stack.tap(point), replaced)
    with torch.inference_mode(), splice:
        logs = lm.model(**batch.inputs).logits[batch.predicts].float()
        return logs.sub_(logs.logsumexp(dim=-1, keepdim=True))  # in place: a copy of it is large


def _rows_at_a_time(lm: LanguageModel, windows: Windows) -> int:
    """Return how many windows are run together."""
    n_vocabulary = int(lm.model.get_output_embeddings().weight.shape[0])
    budget = GPU_TOKEN_BUDGET if lm.model.device.type == "cuda" else TOKEN_BUDGET
    n_tokens = min(budget, LOGIT_BYTES // (4 * n_vocabulary))
    return max(1, n_tokens // int(windows.lengths.max()))


def _loss(logs: torch.Tensor, targets: torch.Tensor) -> float:
    return -float(logs.gather(1, targets[:, None]).double().sum())


def _divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return ``Σ p · log(p / q)`` over predictions and vocabulary."""
    total = 0.0
    for p, q in zip(before.split(SUM_ROWS), after.split(SUM_ROWS), strict=True):
        total += float((p.exp() * (p - q)).sum(dtype=torch.float64))
    return total
