"""One SAE in training: parameters, optimiser and what is remembered from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from sae_features.errors import InvalidInputError
from sae_features.training.objectives import objective_of
from sae_features.training.objectives.step import Context
from sae_features.training.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.training.objectives.step import Step
    from sae_features.training.settings import TrainingSettings

FIRST_SPARSITY = {"relu": 0.05, "gated": 0.05, "jumprelu": 3.0}
"""Where the weight of a penalty that is steered begins; that of jumprelu stays."""
STEERING = 0.03
"""How fast the weight follows: per step, of the logarithm of how far L0 is off."""
SMOOTHING = 0.99
"""Of running means that are shown, per step."""
THRESHOLD_SMOOTHING = 0.95
RESAMPLED_AT = (0.1, 0.2, 0.3, 0.4, 0.5)
RESAMPLED_NORM = 0.2
"""Norm of the encoder row of a latent that starts anew, relative to the mean of those alive."""


class Run:
    """One SAE in training.

    Parameters
    ----------
    settings : TrainingSettings
    d_in : int
    n_steps : int
        How many steps there will be: schedules are shares of it.
    device : str

    Attributes
    ----------
    step : int
        Steps that were made.
    l0, fvu : float
        Running means over batches, of rows and of the fraction of variance unexplained.
    """

    def __init__(self, settings: TrainingSettings, d_in: int, n_steps: int, device: str = "cpu") -> None:
        self.settings, self.n_steps, self.step = settings, n_steps, 0
        self.objective = objective_of(settings.architecture)
        generator = torch.Generator().manual_seed(settings.seed)
        initial = self.objective.initial(d_in, settings, generator)
        self.parameters = {n: t.to(device).requires_grad_() for n, t in initial.items()}
        self.optimizer = torch.optim.Adam(
            list(self.parameters.values()),
            lr=settings.rate(n_steps),
            betas=(settings.beta1, 0.999),
            fused=True,
        )
        self.silent = torch.zeros(settings.n_latents, dtype=torch.int64, device=device)
        self.sparsity = settings.sparsity or FIRST_SPARSITY.get(settings.architecture, 0.0)
        self.least = self.l0 = self.fvu = 0.0

    @property
    def n_dead(self) -> int:
        """How many latents have not fired for long."""
        return int((self.silent > self.settings.dead_after).sum())

    def learn(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Make one step on rows that are centred and scaled, (n, d); return losses by name, detached."""
        settings = self.settings
        dead = self.silent > settings.dead_after
        context = Context(settings, self._weight(), dead if bool(dead.any()) else None)
        made = self.objective.step(self.parameters, x, context)
        self.optimizer.zero_grad()
        torch.stack(list(made.losses.values())).sum().backward()
        self._follow_constraints_before()
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip_norm)
        rate = settings.rate(self.n_steps) * self._rate_factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self._follow_constraints_after()
        self._remember(made, x)
        self.step += 1
        if self._resamples():
            self._resample(x, made.error)
        return {name: loss.detach() for name, loss in made.losses.items()}

    def _weight(self) -> float:
        """Return the weight of the penalty at this step."""
        rising = self.settings.sparsity_warmup * self.n_steps
        if self.settings.goal is not None and self.settings.architecture != "jumprelu":
            return self.sparsity  # it is steered from the first step
        return self.sparsity * min(1.0, (self.step + 1) / rising if rising else 1.0)

    def _rate_factor(self, step: int) -> float:
        rising, falling = (share * self.n_steps for share in (self.settings.warmup, self.settings.decay))
        up = (step + 1) / rising if rising else 1.0
        down = (self.n_steps - step) / falling if falling else 1.0
        return max(0.0, min(1.0, up, down))

    @property
    def _has_unit_rows(self) -> bool:
        return self.settings.unit_norm or self.settings.architecture not in {"relu", "gated"}

    @torch.no_grad()
    def _follow_constraints_before(self) -> None:
        """Take the part of the decoder's gradient out that would only change its rows' norms."""
        W_dec = self.parameters["W_dec"]
        if self._has_unit_rows and W_dec.grad is not None:
            W_dec.grad.addcmul_((W_dec.grad * W_dec).sum(dim=1, keepdim=True), W_dec, value=-1)

    @torch.no_grad()
    def _follow_constraints_after(self) -> None:
        if self._has_unit_rows:
            W_dec = self.parameters["W_dec"]
            W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True))
        if "threshold" in self.parameters:
            self.parameters["threshold"].clamp_(min=0)

    @torch.no_grad()
    def _remember(self, made: Step, x: torch.Tensor) -> None:
        self.silent += len(x)
        self.silent[made.fires > 0] = 0
        l0 = float(made.fires.sum()) / len(x)
        variance = float((x - x.mean(dim=0)).square().sum())
        keep = min(SMOOTHING, self.step / (self.step + 1))
        self.l0 = keep * self.l0 + (1 - keep) * l0
        if variance:
            self.fvu = keep * self.fvu + (1 - keep) * float(made.error.square().sum()) / variance
        keep = min(THRESHOLD_SMOOTHING, self.step / (self.step + 1))
        self.least = keep * self.least + (1 - keep) * made.least
        goal = self.settings.goal
        if goal is not None and self.settings.architecture != "jumprelu":
            off = math.log(max(l0, 1e-3) / self._goal_now(goal))
            speed = STEERING * self._rate_factor(self.step)
            self.sparsity *= math.exp(speed * max(-1.0, min(1.0, off)))

    def _goal_now(self, goal: float) -> float:
        """Return where L0 shall be at this step: it falls to the goal while the penalty warms up."""
        rising = self.settings.sparsity_warmup * self.n_steps
        left = max(0.0, 1 - self.step / rising) if rising else 0.0
        return float(goal * (max(goal, self.settings.n_latents / 4) / goal) ** left)

    def _resamples(self) -> bool:
        if not (self.settings.resample and self.settings.is_penalised):
            return False
        return any(self.step == round(share * self.n_steps) for share in RESAMPLED_AT)

    @torch.no_grad()
    def _resample(self, x: torch.Tensor, error: torch.Tensor) -> None:
        """Let dead latents start anew in the direction of what is missing in rows.

        After Bricken et al., 2023, "Neuron resampling": there the directions are of rows themselves,
        drawn by the square of their loss; here they are of errors, drawn by their squared norm.
        """
        dead = (self.silent > min(self.settings.dead_after, self.step * len(x) // 2)).nonzero().flatten()
        weights = error.square().sum(dim=1).cpu().double()
        if not len(dead) or not 0 < float(weights.sum()) < math.inf:
            return
        generator = torch.Generator().manual_seed(self.settings.seed + self.step)
        drawn = torch.multinomial(weights, len(dead), replacement=True, generator=generator).to(x.device)
        rows = torch.nn.functional.normalize(error[drawn])
        alive = torch.ones(self.settings.n_latents, dtype=torch.bool, device=x.device)
        alive[dead] = False
        norms = torch.linalg.vector_norm(self.parameters["W_enc"], dim=1)
        norm = float(norms[alive].mean()) if bool(alive.any()) else 1.0
        first = self.objective.initial(
            x.shape[1], self.settings, torch.Generator().manual_seed(self.settings.seed)
        )
        for name, parameter in self.parameters.items():
            if name == "b_dec":
                continue
            if name == "W_dec":
                parameter[dead] = rows
            elif name == "W_enc":
                parameter[dead] = RESAMPLED_NORM * norm * rows
            else:
                parameter[dead] = first[name].to(x.device)[dead]
            state = self.optimizer.state[parameter]
            for key in {"exp_avg", "exp_avg_sq"} & state.keys():  # what is not trained has none
                state[key][dead] = 0
        self.silent[dead] = 0

    def check_finite(self) -> None:
        """Raise InvalidInputError where a parameter is not finite."""
        for name, parameter in self.parameters.items():
            if not bool(torch.isfinite(parameter.detach().sum())):
                message = (
                    f"{name} of the {self.settings.architecture} SAE is not finite after step "
                    f"{self.step}; train with a lower learning_rate, or clip_norm=1. What was saved "
                    "before stays."
                )
                raise InvalidInputError(message)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors that a checkpoint needs."""
        found = {"silent": self.silent}
        for name, parameter in self.parameters.items():
            found[name] = parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                found[f"{name}.{key}"] = value
        return found

    def numbers(self) -> dict[str, Any]:
        """Return all numbers that a checkpoint needs, as JSON has them."""
        names = ("step", "n_steps", "sparsity", "least", "l0", "fvu")
        return {name: getattr(self, name) for name in names} | {"settings": self.settings.asdict()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
        """Take what :meth:`tensors` and :meth:`numbers` gave."""
        self.settings = settings_of(dict(numbers["settings"]))
        for name in ("step", "n_steps", "sparsity", "least", "l0", "fvu"):
            setattr(self, name, numbers[name])
        self.silent.copy_(tensors["silent"])
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])
            prefix = f"{name}."
            self.optimizer.state[parameter] = {
                key.removeprefix(prefix): value.to(parameter.device, copy=True)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
