"""What `sae-features train` is asked for, and the settings that it stands for."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sae_features.errors import InvalidParameterError

if TYPE_CHECKING:
    from sae_features.training.settings import TrainingSettings

LATENTS_PER_DIMENSION: Final = 8
"""Width of an SAE if none is given, relative to its input."""
USUAL_K: Final = 32
POSITIONAL: Final = "corpus"


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The options of `sae-features train`, by name; its help says what each means."""

    corpus: str
    output: str
    column: str | None = None
    model: str | None = None
    layer: int | None = None
    site: str | None = None
    architecture: str = "topk"
    n_latents: int | None = None
    k: list[int] | None = None
    target_l0: list[float] | None = None
    sparsity: list[float] | None = None
    tokens: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    precision: str = "float32"
    seed: int = 0
    max_length: int | None = None
    tokens_policy: str = "content"
    prompt: str | None = None
    dtype: str | None = None
    device: str | None = None
    held_out: float = 0.05
    loss_recovered: bool = False
    activations: str | None = None
    save_seconds: float = 60.0
    label: bool = False
    keep_checkpoint: bool = False
    overwrite: bool = False
    dry_run: bool = False
    quiet: bool = False

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.output).expanduser()

    @property
    def sweep(self) -> tuple[str, list[Any]]:
        """What differs between the SAEs, and its values."""
        given = {name: getattr(self, name) for name in ("k", "target_l0", "sparsity")}
        named = {name: values for name, values in given.items() if values is not None}
        if len(named) > 1:
            message = f"Got {' and '.join(map(_option, named))}; expected one of them."
            raise InvalidParameterError(message)
        name, values = next(iter(named.items()), ("k", [USUAL_K]))
        if len(set(values)) < len(values):
            listed = " ".join(map(str, values))
            raise InvalidParameterError(f"Got {_option(name)} {listed}; expected different values.")
        return name, values

    def settings(self, d_in: int) -> list[TrainingSettings]:
        """Return how each SAE is trained, on rows of so many dimensions.

        Raises
        ------
        InvalidParameterError
            If an option cannot be, or options contradict each other.
        """
        from sae_features.training.settings import TrainingSettings

        if self.tokens is not None and self.epochs is not None:
            raise InvalidParameterError("Got --tokens and --epochs; expected one of them.")
        name, values = self.sweep
        width = LATENTS_PER_DIMENSION * d_in if self.n_latents is None else self.n_latents
        shared: dict[str, Any] = {
            "n_tokens": self.tokens,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
        }
        given = {key: value for key, value in shared.items() if value is not None}
        return [
            TrainingSettings(
                architecture=self.architecture,  # type: ignore[arg-type]
                n_latents=width,
                dtype=self.precision,  # type: ignore[arg-type]
                seed=self.seed,
                **{"k": min(USUAL_K, width), name: value},
                **given,
            )
            for value in values
        ]

    def folders(self) -> list[Path]:
        """Return the folder of each SAE: the output, or in a sweep one inside it for each value."""
        name, values = self.sweep
        if len(values) == 1:
            return [self.folder]
        return [self.folder / f"{name.removeprefix('target_')}_{value:g}" for value in values]

    def command(self) -> str:
        """Return the command line that asks for it."""
        words = ["sae-features", "train", self.corpus]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == POSITIONAL or value == field.default:
                continue
            words.append(_option(field.name))
            if value is not True:
                words += map(str, value) if isinstance(value, list) else [str(value)]
        return shlex.join(words)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
