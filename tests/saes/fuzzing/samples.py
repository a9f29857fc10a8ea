"""The golden SAEs, and what a case made of one of them is."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors

from sae_features import load_sae

GOLDEN = Path(__file__).parents[2] / "golden"
MARKER = "executed"
LINK = b"link:"

REFUSAL = "refusal"
"""No load: the files contradict themselves or hold what must not be."""
SAME = "same"
"""A load that gives the numbers of the files as they were."""
VALUES = "values"
"""A load of the same sizes and conventions: the change is one of weights, which may have any value."""
ANY_SAE = "any SAE"
"""A load of another SAE: nothing in the files says which it should be."""
LEGAL = "legal"
"""A load with other numbers, too: a configuration says otherwise, in a way that it may."""


@dataclass(frozen=True)
class Sample:
    """An SAE of the golden ones."""

    name: str
    format: str
    files: dict[str, bytes]
    place: str
    weights: str
    arguments: dict[str, Any]
    x: torch.Tensor
    latents: torch.Tensor
    reconstruction: torch.Tensor | None
    unused: frozenset[str]

    @property
    def config(self):
        """Name of the configuration, or None."""
        return next((name for name in self.files if name.endswith((".json", ".yaml"))), None)

    @property
    def suffix(self):
        return Path(self.weights).suffix

    @cached_property
    def content(self):
        """What stands in the file of weights: tensors, and other values of a checkpoint."""
        raw = self.files[self.weights]
        if self.suffix == ".safetensors":
            return load_safetensors(raw)
        if self.suffix == ".npz":
            return {name: torch.from_numpy(array) for name, array in np.load(io.BytesIO(raw)).items()}
        return torch.load(io.BytesIO(raw[len(self.first_line) :]), weights_only=True)

    @property
    def first_line(self):
        """The JSON before the zip file of saev."""
        raw = self.files[self.weights]
        return raw[: raw.index(b"\n") + 1] if raw.startswith(b"{") else b""

    @property
    def tensors(self):
        return {name: value for name, value in self.content.items() if isinstance(value, torch.Tensor)}

    @property
    def used(self):
        """Names of the tensors that the numbers depend on."""
        return sorted(set(self.tensors) - self.unused)

    def written(self, tensors):
        """Return the weights with other tensors, as the library of the file writes them."""
        if self.suffix == ".safetensors":
            return save_safetensors({name: value.contiguous() for name, value in tensors.items()})
        stream = io.BytesIO()
        if self.suffix == ".npz":
            np.savez(stream, **{name: value.numpy() for name, value in tensors.items()})
            return stream.getvalue()
        others = {name: value for name, value in self.content.items() if name not in self.tensors}
        torch.save({**tensors, **others}, stream)
        return self.first_line + stream.getvalue()


@dataclass(frozen=True)
class Case:
    """Files to load, and what may come of it besides a clear error."""

    sample: Sample
    name: str
    files: dict[str, bytes]
    allowed: str = SAME
    place: str | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    """Settings of the configuration that changed, for :data:`LEGAL`."""
    other: Sample | None = None
    """An SAE that the files may be as well."""
    only_decoder: bool = False
    """Whether what is wrong concerns weights that are not read without the decoder."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case: ``error``, ``correct`` and ``told`` are good."""

    kind: str
    detail: str = ""


def unused_tensors(told):
    """Return names of tensors that say nothing of the numbers, by what the libraries do with them."""
    format = told["format"]  # noqa: A001 its name everywhere
    names = {
        "openai": {"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"},
        "dictionary_learning": {"group_sizes"},
    }.get(format, set())
    if format == "dictionary_learning":
        names = names | ({"threshold"} if told["architecture"] == "topk" else {"k"})
    if format == "prisma" and told["architecture"] == "gated":
        names = names | {"b_enc"}
    if format == "llama_scope_r1" and told["name"] in ("jumprelu_inference", "topk_token_wise"):
        names = names | {"dataset_average_activation_norm.blocks.3.hook_resid_post"}
    if format == "overcomplete":
        names = names | {"running_threshold"}
    return frozenset(names)


def golden_samples():
    """Return every golden SAE, and one of them in our own format."""
    samples = []
    for about in sorted(GOLDEN.glob("*/*/about.json")):
        told = {**json.loads(about.read_text()), "name": about.parent.name}
        if "threshold" in told["arguments"]:  # no argument of load_sae: the file alone is another SAE
            continue
        root = about.parent / "files"
        files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
        weights = next(name for name in files if not name.endswith((".json", ".yaml")))
        expected = load_file(about.parent / "expected.safetensors")
        samples.append(
            Sample(
                f"{about.parent.parent.name}/{about.parent.name}",
                told["format"],
                files,
                told["path"],
                weights,
                told["arguments"],
                expected["x"],
                expected["latents"],
                expected["reconstruction"] if told.get("decoder", True) else None,
                unused_tensors(told),
            )
        )
    return samples


def own_samples(folder):
    """Return SAEs in our own format: topk, and jumprelu with a scale of inputs."""
    samples = []
    for wanted in ("openai/v5_topk", "saelens/jumprelu_expected_average"):
        sample = next(sample for sample in golden_samples() if sample.name == wanted)
        place = folder / wanted.replace("/", "-")
        write_files(sample.files, place)
        with warnings.catch_warnings(action="ignore"):
            sae = load_sae(place / sample.place, **sample.arguments)
        saved = sae.save(place / "own")
        files = {path.name: path.read_bytes() for path in sorted(saved.iterdir())}
        samples.append(
            replace(
                sample,
                name=f"sae-features/{sae.architecture}",
                format="sae-features",
                files={f"own/{name}": content for name, content in files.items()},
                place="own",
                weights="own/sae.safetensors",
                arguments={},
                unused=frozenset(),
            )
        )
    return samples


def write_files(files, folder):
    """Write files; content that starts with ``link:`` is where a symbolic link goes."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith(LINK):
            path.symlink_to(content.removeprefix(LINK).decode())
        else:
            path.write_bytes(content)


def empty(folder):
    """Remove what a case left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def with_weights(sample, name, content, allowed=SAME, **more):
    """Return a case with other weights."""
    return Case(sample, name, {**sample.files, sample.weights: content}, allowed, **more)
