"""What ``training_throughput.py`` compares: this library's training and that of others, step by step.

A contender makes a :class:`Training` for a :class:`Plan`.  A peer has a row where it is installed, and
what runs is its own public step: ``SAETrainer.step`` of sae-lens, ``update`` of dictionary_learning's
trainers, what the loops of sparsify's ``Trainer.fit`` and hypothesaes' ``SparseAutoencoder.fit`` call.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

ARCHITECTURES = ("relu", "gated", "topk", "batchtopk", "jumprelu", "matryoshka")
PENALISED = ("relu", "gated", "jumprelu")
TRAINERS = {
    "relu": ("standard", "StandardTrainer"), "gated": ("gdm", "GatedSAETrainer"),
    "topk": ("top_k", "TopKTrainer"), "batchtopk": ("batch_top_k", "BatchTopKTrainer"),
    "jumprelu": ("jumprelu", "JumpReluTrainer"),
    "matryoshka": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
}  # fmt: skip
"""Those of dictionary_learning."""
ANTHROPIC_JUMPRELU = {
    "jumprelu_sparsity_loss_mode": "tanh", "jumprelu_ste_to_input": True, "jumprelu_bandwidth": 2.0,
    "jumprelu_init_threshold": 0.1, "pre_act_loss_coefficient": 3e-6,
}  # fmt: skip
"""Anthropic's setup, which sae-lens offers; at its defaults thresholds rise too slowly for k here."""
PREFIXES = (1 / 8, 1 / 4, 1 / 2, 1)
"""Shares of the latents that the nested dictionaries of matryoshka have, of all libraries."""
WARM_UP, DECAY, SPARSITY_WARM_UP = 0.05, 0.3, 0.1
DEAD_AFTER = 200_000


@dataclass(frozen=True)
class Plan:
    """How all contenders train.

    Attributes
    ----------
    d_in, n_latents, k, batch_size : int
        Sizes; ``k`` is also the L0 that penalties are to reach.
    steps : int
        Steps that schedules are made for.
    learning_rate : float, optional
        The library's default if not given.
    tuned : bool
        Whether a peer's learning rate falls over the last 30 % of the steps and its latents are dead
        after 200,000 rows, as far as it offers that; ours does so by default.
    sparsity : float, optional
        Weight of the penalty; the library's default if not given.
    dtype : str
        "bfloat16" for what a library offers of mixed precision.
    """

    d_in: int
    n_latents: int
    k: int
    batch_size: int
    steps: int
    learning_rate: float | None = None
    tuned: bool = False
    sparsity: float | None = None
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def warm_up(self) -> int:
        """Steps over which the learning rate rises."""
        return max(1, round(WARM_UP * self.steps))

    @property
    def decay(self) -> int:
        """Steps at the end over which it falls."""
        return round(DECAY * self.steps) if self.tuned else 0

    @property
    def sparsity_warm_up(self) -> int:
        """Steps over which the penalty rises."""
        return max(1, round(SPARSITY_WARM_UP * self.steps))

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Widths of the nested dictionaries of matryoshka."""
        return tuple(round(share * self.n_latents) for share in PREFIXES)


class Training(Protocol):
    """An SAE in training.

    Attributes
    ----------
    scale : float
        What activations are multiplied with before they are given, by the library's convention.
    sparsity : float
        Weight of the penalty, None without one; of peers it can be set.
    """

    scale: float
    sparsity: float | None

    def step(self, x: torch.Tensor) -> None:
        """Train on a batch of scaled activations, (n, d_in)."""

    def finish(self) -> None:
        """Make of it what the library uses on new data."""

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        """Return latents of scaled activations, (n, n_latents)."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return scaled reconstructions, (n, d_in)."""


@dataclass(frozen=True)
class Contender:
    """A library's training of an architecture."""

    library: str
    architecture: str
    variant: str = ""

    @property
    def name(self) -> str:
        """What rows are called."""
        return " ".join(filter(None, (self.library, self.architecture, self.variant)))

    @property
    def is_steered(self) -> bool:
        """Whether somebody must find the weight of the penalty: where the library takes no L0 itself."""
        takes_l0 = self.library == "ours" or self.name == "dictionary_learning jumprelu"
        return self.architecture in PENALISED and not takes_l0

    def takes(self, dtype: str, device: str) -> bool:
        """Whether it trains in that precision."""
        if dtype == "float32" or self.library in {"ours", "sae-lens"}:
            return True
        return device != "cpu" and self.library in {"dictionary_learning", "sparsify"}

    def make(self, plan: Plan, sample: torch.Tensor) -> Training:
        """Return a training; ``sample`` are unscaled activations, from which to take their size."""
        torch.manual_seed(plan.seed)
        return LIBRARIES[self.library][1](self, plan, sample)


def contenders() -> list[Contender]:
    """Return all whose library is installed."""
    rows = [Contender("ours", name) for name in ARCHITECTURES]
    rows += [Contender("sparsify", "topk", optimizer) for optimizer in ("signum", "adam")]
    rows += [Contender("dictionary_learning", name) for name in ARCHITECTURES]
    rows += [Contender("sae-lens", name) for name in ARCHITECTURES]
    rows += [Contender("hypothesaes", "topk")]
    return [row for row in rows if importlib.util.find_spec(LIBRARIES[row.library][0])]


def root_mean_square(sample: torch.Tensor) -> float:
    """Return the root of the mean squared norm of rows."""
    return float(sample.square().sum(dim=1).mean().sqrt())


class _Ours:
    """What ``SAETrainer`` does with a batch; checking, centring and scaling are part of its step."""

    scale = 1.0

    def __init__(self, contender: Contender, plan: Plan, sample: torch.Tensor) -> None:
        from sae_features.training import TrainingSettings
        from sae_features.training.centering import center_of, scale_of
        from sae_features.training.run import Run

        settings = TrainingSettings(
            architecture=contender.architecture,  # type: ignore[arg-type]
            n_latents=plan.n_latents,
            k=plan.k,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            prefixes=plan.prefixes if contender.architecture == "matryoshka" else None,
            dtype=plan.dtype,  # type: ignore[arg-type]
            seed=plan.seed,
        )
        self.run = Run(settings, plan.d_in, plan.steps, plan.device)
        center = center_of(sample, settings.center)
        self.size = scale_of(sample, center)
        self.center = center.to(plan.device)
        self.sae: Any = None

    @property
    def sparsity(self) -> float | None:
        return self.run.sparsity if self.run.settings.is_penalised else None

    def step(self, x: torch.Tensor) -> None:
        from sae_features.training.sources import check_finite_rows

        check_finite_rows(x, self.run.step)
        losses = self.run.learn((x - self.center) * self.size)
        float(sum(losses.values()))

    def finish(self) -> None:
        from sae_features import SparseAutoencoder

        parameters = {name: tensor.detach() for name, tensor in self.run.parameters.items()}
        parts = self.run.objective.finished(parameters, self.size, self.run.least)
        parts["b_dec"] = parts["b_dec"] + self.center
        if self.run.settings.architecture == "topk":
            parts["k"] = self.run.settings.k
        self.sae = SparseAutoencoder(**parts)

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae.encode(x)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.sae.decode(latents)


class _Sparsify:
    """The calls of ``sparsify.Trainer.fit``; activations as they are, since its loss is the FVU."""

    scale = 1.0
    sparsity: float | None = None

    def __init__(self, contender: Contender, plan: Plan, sample: torch.Tensor) -> None:
        from sparsify import SparseCoder, SparseCoderConfig, TrainConfig

        sae_config = SparseCoderConfig(num_latents=plan.n_latents, k=plan.k)
        self.config = TrainConfig(sae_config)
        if plan.tuned:
            self.config.auxk_alpha, self.config.dead_feature_threshold = 1 / 32, DEAD_AFTER
        self.sae = SparseCoder(plan.d_in, sae_config, plan.device, torch.float32)
        self.sae.b_dec.data = sample.mean(dim=0).to(plan.device)
        self.since_fired = torch.zeros(plan.n_latents, dtype=torch.long, device=plan.device)
        self.fired = torch.zeros_like(self.since_fired, dtype=torch.bool)
        wide = (plan.n_latents / 2**14) ** 0.5
        self.schedule = None
        if contender.variant == "adam":
            from transformers import get_linear_schedule_with_warmup

            rate = plan.learning_rate or 2e-4 / wide
            self.optimizer: Any = torch.optim.Adam(self.sae.parameters(), lr=rate)
            self.schedule = get_linear_schedule_with_warmup(self.optimizer, plan.warm_up, plan.steps)
        else:
            from schedulefree import ScheduleFreeWrapper
            from sparsify.sign_sgd import SignSGD

            rate = plan.learning_rate or 5e-3 / wide
            signum = SignSGD([{"params": self.sae.parameters(), "lr": rate}])
            self.optimizer = ScheduleFreeWrapper(signum, momentum=0.95)
            self.optimizer.train()

    def step(self, x: torch.Tensor) -> None:
        alpha = self.config.auxk_alpha
        self.sae.set_decoder_norm_to_unit_norm()
        dead = self.since_fired > self.config.dead_feature_threshold if alpha > 0 else None
        variance = (x - x.mean(0)).pow(2).sum()
        out = self.sae(x=x, y=x, dead_mask=dead, total_variance=variance)
        self.fired[out.latent_indices.flatten()] = True
        loss = out.fvu + alpha * out.auxk_loss + out.multi_topk_fvu / 8
        loss.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule:
            self.schedule.step()
        self.since_fired += len(x)
        self.since_fired[self.fired] = 0
        self.fired.zero_()

    def finish(self) -> None:
        if not self.schedule:
            self.optimizer.eval()

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        found = self.sae.encode(x)
        dense = torch.zeros(len(x), self.sae.num_latents, device=x.device)
        return dense.scatter(-1, found.top_indices, found.top_acts.float())

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.sae.W_dec + self.sae.b_dec


class _DictionaryLearning:
    """``dictionary_learning.trainers``; a mean squared norm of 1 (its ``normalize_activations``)."""

    def __init__(self, contender: Contender, plan: Plan, sample: torch.Tensor) -> None:
        module, name = TRAINERS[contender.architecture]
        trainer = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), name)
        options: dict[str, Any] = {
            "steps": plan.steps, "activation_dim": plan.d_in, "dict_size": plan.n_latents, "layer": 0,
            "lm_name": "", "seed": plan.seed, "device": plan.device, "warmup_steps": plan.warm_up,
            "decay_start": plan.steps - plan.decay if plan.decay else None,
        }  # fmt: skip
        if plan.learning_rate is not None:
            options["lr"] = plan.learning_rate
        self.knob = "sparsity_coefficient" if contender.architecture == "jumprelu" else "l1_penalty"
        if contender.architecture in PENALISED:
            options["sparsity_warmup_steps"] = plan.sparsity_warm_up
            if contender.architecture == "jumprelu":
                options["target_l0"] = plan.k
        else:
            options |= {"k": plan.k, "threshold_start_step": plan.steps // 2}
        if contender.architecture == "matryoshka":
            options["group_fractions"] = [end - start for start, end in pairwise((0, *PREFIXES))]
        self.trainer = trainer(**options)
        if plan.sparsity is not None:
            self.sparsity = plan.sparsity
        if plan.tuned:
            self.trainer.dead_feature_threshold = DEAD_AFTER
        self.scale = 1 / root_mean_square(sample)
        self.autocast = torch.autocast(plan.device, torch.bfloat16, enabled=plan.dtype == "bfloat16")
        self.n_steps = 0

    @property
    def sparsity(self) -> float | None:
        return getattr(self.trainer, self.knob, None)

    @sparsity.setter
    def sparsity(self, value: float) -> None:
        setattr(self.trainer, self.knob, value)

    def step(self, x: torch.Tensor) -> None:
        with self.autocast:
            self.trainer.update(self.n_steps, x)
        self.n_steps += 1

    def finish(self) -> None:
        pass

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        return self.trainer.ae.encode(x)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.trainer.ae.decode(latents)


class _SAELens:
    """``sae_lens`` ``SAETrainer.step``; a mean norm of √d (``expected_average_only_in``)."""

    def __init__(self, contender: Contender, plan: Plan, sample: torch.Tensor) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.registry import get_sae_training_class
        from sae_lens.training.sae_trainer import SAETrainer

        names = {"relu": "standard", "matryoshka": "matryoshka_batchtopk"}
        kind, config = get_sae_training_class(names.get(contender.architecture, contender.architecture))
        options: dict[str, Any] = {"d_in": plan.d_in, "d_sae": plan.n_latents, "device": plan.device}
        self.knob = "l0" if contender.architecture == "jumprelu" else "l1"
        if contender.architecture in PENALISED:
            options[f"{self.knob}_warm_up_steps"] = plan.sparsity_warm_up
        else:
            options["k"] = plan.k
        if contender.architecture == "jumprelu" and plan.tuned:
            options |= ANTHROPIC_JUMPRELU
        if contender.architecture == "matryoshka":
            options["matryoshka_widths"] = list(plan.prefixes)
        settings = SAETrainerConfig(
            total_training_samples=plan.steps * plan.batch_size,
            train_batch_size_samples=plan.batch_size,
            lr_warm_up_steps=plan.warm_up,
            lr_decay_steps=plan.decay,
            device=plan.device,
            autocast=plan.dtype == "bfloat16",
        )
        settings.lr = plan.learning_rate or settings.lr
        settings.lr_end = settings.lr / 10
        if plan.tuned:
            settings.dead_feature_window = max(1, DEAD_AFTER // plan.batch_size)
        self.trainer: Any = SAETrainer(settings, kind(config(**options)), iter(()))
        if plan.sparsity is not None:
            self.sparsity = plan.sparsity
        self.scale = plan.d_in**0.5 / float(sample.norm(dim=1).mean())
        self.sae = self.trainer.sae

    @property
    def sparsity(self) -> float | None:
        schedulers = self.trainer.coefficient_schedulers
        return float(schedulers[self.knob].final_value) if schedulers else None

    @sparsity.setter
    def sparsity(self, value: float) -> None:
        self.trainer.coefficient_schedulers[self.knob].final_value = value

    def step(self, x: torch.Tensor) -> None:
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def finish(self) -> None:
        from sae_lens import SAE

        with tempfile.TemporaryDirectory() as folder:
            self.trainer.sae.save_inference_model(folder)
            self.sae = SAE.load_from_disk(folder, device=str(self.trainer.sae.device))

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae.encode(x)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.sae.decode(latents)


class _Hypothesaes:
    """The calls of hypothesaes' ``SparseAutoencoder.fit``; a mean squared norm of 1, as embeddings."""

    sparsity: float | None = None

    def __init__(self, contender: Contender, plan: Plan, sample: torch.Tensor) -> None:  # noqa: ARG002
        from hypothesaes.sae import SparseAutoencoder

        self.scale = 1 / root_mean_square(sample)
        self.sae = SparseAutoencoder(plan.d_in, plan.n_latents, plan.k, device=plan.device)
        self.sae.initialize_weights_((sample * self.scale).to(plan.device))
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=plan.learning_rate or 5e-4)
        if plan.tuned:
            self.sae.dead_neuron_threshold_steps = max(1, DEAD_AFTER // plan.batch_size)

    def step(self, x: torch.Tensor) -> None:
        recon, info = self.sae(x)
        loss = self.sae.compute_loss(x, recon, info, 1 / 32, 0.0)
        self.optimizer.zero_grad()
        loss.backward()
        self.sae.adjust_decoder_gradient_()
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), 1.0)
        self.optimizer.step()
        self.sae.normalize_decoder_()
        loss.item()

    def finish(self) -> None:
        self.sae.eval()

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae(x)[1]["activations"]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.sae.decoder(latents) + self.sae.input_bias


LIBRARIES: dict[str, tuple[str, Callable[[Contender, Plan, torch.Tensor], Training]]] = {
    "ours": ("sae_features.training", _Ours),
    "sparsify": ("sparsify", _Sparsify),
    "dictionary_learning": ("dictionary_learning", _DictionaryLearning),
    "sae-lens": ("sae_lens", _SAELens),
    "hypothesaes": ("hypothesaes", _Hypothesaes),
}
