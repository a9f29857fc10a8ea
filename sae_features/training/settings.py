"""How an SAE is trained: plain values, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal, cast

import numpy as np

from sae_features.errors import InvalidParameterError, expected_one_of
from sae_features.parameters import check_choice

TrainedArchitecture = Literal["relu", "gated", "topk", "batchtopk", "jumprelu", "matryoshka"]
TRAINED_ARCHITECTURES = ("relu", "gated", "topk", "batchtopk", "jumprelu", "matryoshka")
PENALISED = ("relu", "gated", "jumprelu")
"""Those whose sparsity is the outcome of a penalty; the others keep ``k``."""
CENTERS = ("mean", "geometric_median", "none")
PRECISIONS = ("float32", "bfloat16")
LEARNING_RATE, USUAL_STEPS, LEAST_RATE = 6e-3, 1000, 3e-4
"""Adam's learning rate up to so many steps; of more it falls with the root of their number."""
SHARED = ("batch_size", "n_tokens", "epochs", "center", "patience", "seed")
"""What SAEs that are trained in one pass over the data have in common."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How an SAE is trained.

    All figures are of inputs that were centred and scaled to a mean squared norm of 1.

    Parameters
    ----------
    architecture : {"topk", "batchtopk", "matryoshka", "relu", "gated", "jumprelu"}, default="topk"
        See :mod:`sae_features.training.objectives`.
    n_latents : int, default=4096
        Width.
    k : int, default=32
        Latents that fire per row, of the first three; of the others, what ``target_l0`` is if neither it
        nor ``sparsity`` is given.
    target_l0 : float, optional
        Mean number of latents that shall fire per row: the weight of the penalty is steered to it.
    sparsity : float, optional
        Weight of the penalty (the papers' λ), in place of ``target_l0``.
    epochs : int, default=4
        Passes over the data.
    n_tokens : int, optional
        Rows to train on, in place of ``epochs``.
    batch_size : int, default=2048
        Rows per step.
    learning_rate : float, optional
        Adam's; 6e-3 if not given, and less in trainings of more than 1,000 steps: it falls with the root
        of their number, to 3e-4 at the least.
    beta1 : float, default=0.9
        Adam's.  The papers of gated and jumprelu have 0, which here was no better at the same learning
        rate, and diverged earlier.
    warmup, decay : float, default=0.05, 0.3
        Shares of the steps over which the learning rate rises at first, and falls to 0 at the end.
    sparsity_warmup : float, default=0.1
        Share of the steps over which the penalty rises.
    clip_norm : float, optional
        Gradients of a larger norm are scaled to it.
    unit_norm : bool, default=True
        For relu and gated: whether decoder rows have norm 1.  If not, the penalty weighs each latent by
        the norm of its decoder row (for gated: RI-L1).
    freeze_aux_decoder : bool, default=True
        For gated: whether the auxiliary reconstruction leaves the decoder alone, as in the paper.
    tie_gate : bool, default=True
        For gated: whether magnitudes have their own scale ``r_mag``; it stays 0 without (an ablation).
    bandwidth : float, default=0.01
        For jumprelu: width of the kernel through which its threshold learns.
    prefixes : tuple of int, optional
        For matryoshka: widths of the nested dictionaries, ascending, the last one ``n_latents``; an
        eighth, a quarter, a half and all if not given.
    aux_k : int, optional
        For topk, batchtopk and matryoshka: dead latents that reconstruct the error in the auxiliary
        loss; half of the inputs' size if not given, 0 for none.
    aux_weight : float, default=1/32
        Weight of that loss.
    dead_after : int, default=200_000
        Rows without firing after which a latent is dead.
    resample : bool, default=True
        For relu, gated and jumprelu: whether dead latents start anew from rows that are reconstructed
        badly, at each tenth of the steps up to the half.
    center : {"mean", "geometric_median", "none"}, default="mean"
        What ``b_dec`` is at first.
    dtype : {"float32", "bfloat16"}, default="float32"
        Precision of the encoder's product, which decides what fires; all else is float32.
    patience : int, optional
        Passes without an improvement of a thousandth after which training stops early.
    seed : int, default=0
        Of initialisation and order.
    """

    architecture: TrainedArchitecture = "topk"
    n_latents: int = 4096
    k: int = 32
    target_l0: float | None = None
    sparsity: float | None = None
    epochs: int = 4
    n_tokens: int | None = None
    batch_size: int = 2048
    learning_rate: float | None = None
    beta1: float = 0.9
    warmup: float = 0.05
    decay: float = 0.3
    sparsity_warmup: float = 0.1
    clip_norm: float | None = None
    unit_norm: bool = True
    freeze_aux_decoder: bool = True
    tie_gate: bool = True
    bandwidth: float = 0.01
    prefixes: tuple[int, ...] | None = None
    aux_k: int | None = None
    aux_weight: float = 1 / 32
    dead_after: int = 200_000
    resample: bool = True
    center: Literal["mean", "geometric_median", "none"] = "mean"
    dtype: Literal["float32", "bfloat16"] = "float32"
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._make_plain()
        if self.architecture not in TRAINED_ARCHITECTURES:
            raise InvalidParameterError(
                expected_one_of("architecture", self.architecture, TRAINED_ARCHITECTURES)
            )
        for name in ("n_latents", "k", "epochs", "batch_size", "dead_after"):
            _check_count(name, getattr(self, name))
        for name in ("n_tokens", "patience"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if self.k > self.n_latents and not (self.is_penalised and (self.target_l0 or self.sparsity)):
            raise InvalidParameterError(
                f"Got k={self.k} with n_latents={self.n_latents}; expected k at most n_latents."
            )
        if self.target_l0 is not None and self.sparsity is not None:
            raise InvalidParameterError("Got both target_l0 and sparsity; expected one of them.")
        for name in ("target_l0", "sparsity"):
            if getattr(self, name) is not None and self.architecture not in PENALISED:
                message = (
                    f"Got {name}={getattr(self, name)} with architecture={self.architecture!r}, which "
                    "keeps k latents; give k, or one of the architectures relu, gated, jumprelu."
                )
                raise InvalidParameterError(message)
        self._check_numbers()
        self._check_prefixes()
        check_choice("center", self.center, CENTERS)
        check_choice("dtype", self.dtype, PRECISIONS)

    def _make_plain(self) -> None:
        """Take numpy's numbers, as a grid over an array gives them, for Python's."""
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())

    def _check_numbers(self) -> None:
        for name in ("learning_rate", "sparsity", "clip_norm", "bandwidth"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise InvalidParameterError(f"Got {name}={value!r}; expected a number above 0.")
        for name in ("aux_k", "seed"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < 0
            ):
                raise InvalidParameterError(f"Got {name}={value!r}; expected an integer, 0 or more.")
        if not (_is_number(self.aux_weight) and self.aux_weight >= 0):
            raise InvalidParameterError(f"Got aux_weight={self.aux_weight!r}; expected 0 or more.")
        for name in ("warmup", "decay", "sparsity_warmup"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 1):
                raise InvalidParameterError(f"Got {name}={value!r}; expected a share of 0 to 1.")
        target = self.target_l0
        if target is not None and not (_is_number(target) and 0 < target < self.n_latents):
            message = f"Got target_l0={target!r}; expected more than 0 and less than {self.n_latents}."
            raise InvalidParameterError(message)
        beta1 = self.beta1
        if not (_is_number(beta1) and 0 <= beta1 < 1):
            raise InvalidParameterError(f"Got beta1={beta1!r}; expected 0 or more and less than 1.")

    def _check_prefixes(self) -> None:
        if self.prefixes is None:
            return
        ends = tuple(int(end) for end in self.prefixes)
        object.__setattr__(self, "prefixes", ends)
        is_fine = bool(ends) and ends[0] >= 1 and ends[-1] == self.n_latents
        if not is_fine or any(first >= second for first, second in pairwise(ends)):
            message = (
                f"Got prefixes={self.prefixes!r}; expected ascending widths that end with "
                f"{self.n_latents} (n_latents)."
            )
            raise InvalidParameterError(message)

    @property
    def is_penalised(self) -> bool:
        """Whether sparsity is the outcome of a penalty."""
        return self.architecture in PENALISED

    @property
    def goal(self) -> float | None:
        """The L0 that a penalty is steered to, if it is."""
        if not self.is_penalised or self.sparsity is not None:
            return None
        return float(self.target_l0 or self.k)

    def rate(self, n_steps: int) -> float:
        """Return the learning rate of a training of so many steps."""
        if self.learning_rate is not None:
            return self.learning_rate
        return max(LEAST_RATE, LEARNING_RATE * min(1.0, USUAL_STEPS / max(1, n_steps)) ** 0.5)

    @property
    def ends(self) -> tuple[int, ...]:
        """The widths of the nested dictionaries."""
        if self.prefixes is not None:
            return tuple(self.prefixes)
        n = self.n_latents
        return tuple(sorted({max(1, n // 8), max(1, n // 4), max(1, n // 2), n}))

    def asdict(self) -> dict[str, Any]:
        """Return all settings by name, as JSON has them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def settings_of(values: dict[str, Any]) -> TrainingSettings:
    """Return settings from what :meth:`TrainingSettings.asdict` gave.

    Raises
    ------
    InvalidParameterError
        If a name is not known, or a value cannot be.
    """
    known = TrainingSettings.__dataclass_fields__
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InvalidParameterError(expected_one_of("setting", unknown[0], tuple(known)))
    if values.get("prefixes") is not None:
        values = values | {"prefixes": tuple(cast("list[int]", values["prefixes"]))}
    return TrainingSettings(**values)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InvalidParameterError(f"Got {name}={value!r}; expected an integer above 0.")


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and bool(np.isfinite(value))
    )
