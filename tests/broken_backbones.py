"""Backbones and readers that break one promise each, for the tests of the conformance kit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sae_features.backbones.backbone import Backbone
from sae_features.backbones.hooks import read_points
from sae_features.backbones.text import TextInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sae_features.backbones.windows import Batch


def _changed(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    return replace(batch, values={point: change(values) for point, values in batch.values.items()})


class RunsToTheEnd(Backbone):
    """Runs the model once more, without stopping it."""

    def run(self, windows: Any, points: Any, **options: Any) -> Iterator[Batch]:
        for batch in super().run(windows, points, **options):
            inputs = self.inputs[windows.modality].model_inputs(windows, batch.windows, None)
            read_points(self.model, {}, inputs, to_the_end=True)
            yield batch


class DependsOnTheBatch(Backbone):
    """Takes off the mean of the batch."""

    def run(self, *given: Any, **options: Any) -> Iterator[Batch]:
        for batch in super().run(*given, **options):
            yield _changed(batch, lambda values: values - values.mean(dim=0))


class IsNotDeterministic(Backbone):
    """Adds noise, a little more than float32 has by itself."""

    def run(self, *given: Any, **options: Any) -> Iterator[Batch]:
        for batch in super().run(*given, **options):
            yield _changed(batch, lambda values: values * (1 + 1e-6 * torch.randn_like(values)))


class IsInitializedAnew(Backbone):
    """Has another weight each time that it is loaded."""

    n_loaded = 0

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        type(self).n_loaded += 1
        with torch.no_grad():
            next(self.stack.blocks[-1].parameters())[:1] += 0.1 * self.n_loaded


class ScalesValues(Backbone):
    """Gives values that are not what stands in the model."""

    def run(self, *given: Any, **options: Any) -> Iterator[Batch]:
        for batch in super().run(*given, **options):
            yield _changed(batch, lambda values: 2 * values)


class RaisesErrorsOfOthers(Backbone):
    """Lets Python's own errors through."""

    def parse(self, point: Any) -> Any:
        layer, _ = point
        _ = list(self.stack.blocks)[layer]
        return super().parse(point)


class TakesAnyLayer(Backbone):
    """Takes layers that are not there for the last one."""

    def parse(self, point: Any) -> Any:
        if not isinstance(point, str):
            point = (max(-self.n_layers, min(point[0], self.n_layers - 1)), point[1])
        return super().parse(point)


class SaysOtherWidths(Backbone):
    """Is mistaken about how wide it is."""

    def width(self, point: Any) -> int:
        return super().width(point) + (point.site == "mlp_hidden")


class DropsThePrompt(TextInput):
    """Leaves the prompt out."""

    def windows(self, items: Any, policy: Any, positions: Any = None) -> Any:
        return super().windows(items, replace(policy, prompt=None), positions)


class CountsEverything(TextInput):
    """Counts what the tokenizer adds as content."""

    def windows(self, items: Any, policy: Any, positions: Any = None) -> Any:
        return super().windows(items, replace(policy, tokens="all"), positions)
