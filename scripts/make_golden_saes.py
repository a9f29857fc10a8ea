"""Write the golden SAEs of ``tests/golden``: tiny files of every public format, and what they must give.

Wherever pip or git can bring the library that defined a format, that library writes the files and
computes the expected outputs; the rest follows the published definition, in plain float64 numpy.
Every library's answer is also compared with that numpy definition, so a surprise stops the script.
Nothing here imports ``sae_features``: what its readers are tested against must not depend on them.

::

    python scripts/make_golden_saes.py LIBRARY [--source FOLDER] [--out FOLDER] [--only CASE]
    python scripts/make_golden_saes.py saelens-check FOLDER   # does SAELens read what we wrote?
    python scripts/make_golden_saes.py sparsify-check FOLDER  # does sparsify?

The same versions give the same bytes. Each library wants other packages, so each group of cases
runs in an environment of its own (Python 3.11 on a CPU). Always install ``torch==2.13.0
numpy==2.4.6 safetensors==0.8.0`` first and let nothing upgrade torch
(``PIP_CONSTRAINT=.ci/constraints.txt``); libraries come with ``pip install --no-deps``, because
only their model classes are imported.

saelens
    ``pip install sae-lens==6.54.12``, with its requirements.
saelens_5
    the same environment; ``--source`` where the wheel of ``sae-lens==5.11.0`` is unpacked.
sparsify
    ``eai-sparsify==1.3.3``, accelerate, einops, huggingface-hub, natsort, simple-parsing, transformers.
dictionary_learning
    ``dictionary-learning==0.1.0``, einops, tqdm.
overcomplete
    ``overcomplete==0.3.0``, einops, scikit-learn.
saev_0_1
    ``saev==0.1.0``, beartype, einops, jaxtyping.
saev, saev_2025_07
    ``--source src`` of github.com/OSU-NLP-Group/saev at 3d73f1f, and at d991de3; what saev_0_1 needs,
    orjson, tyro.
prisma
    ``--source src`` of github.com/Prisma-Multimodal/ViT-Prisma at aa5ff6a; einops, line_profiler.
openai
    ``--source .`` of github.com/openai/sparse_autoencoder at 4965b94.
llama_scope, llama_scope_r1, llamascopium
    ``--source src`` of github.com/OpenMOSS/Language-Model-SAEs at b932639, at aeac157, and at 95281ac;
    the environment of saelens (they need transformer-lens), and pymongo.
definitions
    no library.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import zlib
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Maker = Callable[[Path], "Golden"]

ROWS = 24
CANDIDATES = 4000
# Of the largest score in a row: nothing lies nearer to the border between active and inactive.
MARGIN = 2e-3
TOLERANCE = 1e-5

# ---- The definition in numpy


@dataclass(frozen=True, kw_only=True)
class Plain:
    """An SAE as published, in float64: what a library's answer is compared with, or the answer itself.

    ``W_enc`` is (d, F), ``W_dec`` (F, d_out), ``skip`` (d, d_out); ``b_enc`` of a gated SAE is that of
    the gate. ``score_scale`` (F,) multiplies pre-activations before they are compared with the threshold
    or each other. ``b_pre`` (d) is subtracted from the normalised input where that is not ``b_dec``. The
    normalisation is undone on the output if d_out = d, unless ``undo_norm`` says; ``skip_inside`` adds
    the skip connection before that.
    """

    W_enc: Array
    b_enc: Array
    W_dec: Array
    b_dec: Array
    activation: Literal["relu", "topk", "topk_signed", "jumprelu", "gated", "groupmax"] = "relu"
    subtract_b_dec: bool = False
    b_pre: Array | None = None
    norm: Literal["none", "layer_norm", "constant_norm"] = "none"
    undo_norm: bool | None = None
    k: int = 0
    threshold: Array | float = 0.0
    r_mag: Array | None = None
    b_mag: Array | None = None
    score_scale: Array | float = 1.0
    factor: Array | float = 1.0
    skip: Array | None = None
    skip_inside: bool = False

    def pre_activations(self, x: Array) -> Array:
        """Encoder outputs before the activation, shape (n, F)."""
        z, _, _ = self.normalise(x)
        if self.subtract_b_dec:
            z = z - self.b_dec
        if self.b_pre is not None:
            z = z - self.b_pre
        return z @ self.W_enc + self.b_enc

    def normalise(self, x: Array) -> tuple[Array, Array | float, Array | float]:
        """Normalised x, and the scale and shift that undo it."""
        x = x.astype(np.float64)
        if self.norm == "layer_norm":
            mean = x.mean(1, keepdims=True)
            std = x.std(1, ddof=1, keepdims=True)
            return (x - mean) / (std + 1e-5), std, mean
        if self.norm == "constant_norm":
            scale = np.linalg.norm(x, axis=1, keepdims=True) / math.sqrt(x.shape[1])
            return x / scale, scale, 0.0
        return x, 1.0, 0.0

    def magnitudes(self, x: Array) -> Array:
        """Pre-activations that become the latents: those of the gate, but for a gated SAE."""
        pre = self.pre_activations(x)
        if self.r_mag is None or self.b_mag is None:
            return pre
        return (pre - self.b_enc) * np.exp(self.r_mag) + self.b_mag

    def latents(self, x: Array) -> Array:
        """Latents, shape (n, F)."""
        pre, magnitudes = self.pre_activations(x), self.magnitudes(x)
        scores = pre * self.score_scale
        n, F = scores.shape
        if self.activation == "relu":
            return np.maximum(pre, 0)
        if self.activation == "gated":
            return (pre > 0) * np.maximum(magnitudes, 0)
        if self.activation == "jumprelu":
            return (scores > self.threshold) * np.maximum(pre, 0)
        if self.activation == "groupmax":
            groups = np.maximum(pre, 0).reshape(n, self.k, F // self.k)
            chosen = groups == groups.max(2, keepdims=True)
            return (groups * chosen).reshape(n, F)
        kept = np.argsort(-scores, axis=1)[:, : self.k]
        chosen = np.zeros_like(scores, dtype=bool)
        np.put_along_axis(chosen, kept, values=True, axis=1)
        return np.where(chosen, pre if self.activation == "topk_signed" else np.maximum(pre, 0), 0.0)

    def reconstruct(self, x: Array, latents: Array) -> Array:
        """Reconstructions, shape (n, d_out)."""
        _, scale, shift = self.normalise(x)
        out = (latents * self.factor) @ self.W_dec + self.b_dec
        skipped = 0.0 if self.skip is None else x @ self.skip
        same_width = self.W_dec.shape[1] == self.W_enc.shape[0]
        if same_width if self.undo_norm is None else self.undo_norm:
            return (out + skipped) * scale + shift if self.skip_inside else out * scale + shift + skipped
        return out + skipped

    def is_stable(self, x: Array) -> Array:
        """Rows that stay the same under rounding: no score lies near the border, shape (n,)."""
        scores = self.pre_activations(x) * self.score_scale
        room = MARGIN * np.abs(scores).max(1, keepdims=True)
        if self.activation in ("topk", "topk_signed"):
            ordered = -np.sort(-scores, axis=1)
            far = ordered[:, self.k - 1] - ordered[:, self.k] > room[:, 0]
            return far & (np.abs(scores) > room).all(1)
        if self.activation == "groupmax":
            ordered = np.sort(scores.reshape(len(x), self.k, -1), axis=2)
            tied = (ordered[:, :, -1] - ordered[:, :, -2] < room) & (ordered[:, :, -1] > -room)
            return ~tied.any(1) & (np.abs(scores) > room).all(1)
        borders = [np.abs(scores - self.threshold), np.abs(scores), np.abs(self.magnitudes(x))]
        return np.logical_and.reduce([(border > room).all(1) for border in borders])

    def shrinks(self, x: Array) -> Array:
        """Rows where an easy mistake shows: fewer than k positive scores, say, shape (n,)."""
        pre, latents = self.pre_activations(x), self.latents(x)
        if self.activation in ("topk", "topk_signed"):
            return (pre > 0).sum(1) < self.k
        return ((pre > 0) & (latents == 0)).any(1)

    def rows(self, seed: int) -> Array:
        """Draw float32 inputs: stable, uncentred, of varied norm, and together using every latent."""
        rng = np.random.default_rng(seed)
        d, F = self.W_enc.shape
        spread = np.exp(rng.uniform(-1.2, 1.4, size=(CANDIDATES, 1)))
        x = (
            rng.normal(size=(CANDIDATES, d)) * spread
            + rng.normal(size=(CANDIDATES, 1))
            + rng.normal(size=d)
        )
        x = x.astype(np.float32)
        x = x[self.is_stable(x)]
        active = self.latents(x) != 0
        unused = [latent for latent in range(F) if not active[:, latent].any()]
        if unused:
            raise ValueError(f"no stable row makes latents {unused} active; draw other weights")
        chosen: list[int] = []
        for latent in range(F):
            if not active[chosen, latent].any():
                chosen.append(int(np.flatnonzero(active[:, latent])[0]))
        chosen += [int(row) for row in np.flatnonzero(self.shrinks(x)) if row not in chosen][:6]
        chosen += [row for row in range(len(x)) if row not in chosen][: ROWS - len(chosen)]
        return x[sorted(chosen[:ROWS])]


def draw(
    seed: int,
    d: int = 6,
    F: int = 16,
    d_out: int | None = None,
    *,
    dtype: str = "float32",
    bias: float = -0.2,
    even: bool = False,
) -> dict[str, Array]:
    """Draw the tensors of a tiny SAE: no bias is zero, no decoder norm 1, no threshold twice.

    ``even`` gives every latent a like chance, for a top-k over rows that are all of one norm.
    """
    rng = np.random.default_rng(seed)
    d_out = d_out or d
    W_enc, W_dec = rng.normal(size=(d, F)), rng.normal(size=(F, d_out))
    if even:
        W_enc *= math.sqrt(d) / np.linalg.norm(W_enc, axis=0)
        W_dec *= math.sqrt(d_out) / np.linalg.norm(W_dec, axis=1, keepdims=True)
    tensors = {
        "W_enc": W_enc / math.sqrt(d) * rng.uniform(*(0.95, 1.05) if even else (0.6, 1.8), size=F),
        "b_enc": bias + (0.1 if even else 0.4) * rng.normal(size=F),
        "W_dec": W_dec
        / math.sqrt(d_out)
        * rng.uniform(*(0.8, 1.3) if even else (0.4, 1.9), size=(F, 1)),
        "b_dec": 0.6 * rng.normal(size=d_out),
        "threshold": rng.permutation(np.linspace(0.15, 0.9, F)),
        "r_mag": 0.5 * rng.normal(size=F),
        "b_mag": 0.3 * rng.normal(size=F),
        "skip": 0.4 * rng.normal(size=(d, d_out)),
        "factor": rng.uniform(0.6, 1.6, size=F),
    }
    return {name: rounded(tensor, dtype) for name, tensor in tensors.items()}


def rounded(tensor: Array, dtype: str) -> Array:
    """Round to the nearest value that the dtype of the file can hold, as float32."""
    tensor = tensor.astype(np.float32)
    if dtype == "float32":
        return tensor
    import torch

    return torch.from_numpy(tensor).to(getattr(torch, dtype)).float().numpy()


def plain(tensors: Mapping[str, Array], **options: Any) -> Plain:
    """Make the float64 definition from drawn tensors."""
    core = {name: tensors[name].astype(np.float64) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    return Plain(**{**core, **options})


def decoder_norms(tensors: Mapping[str, Array]) -> Array:
    """Norms of the decoder directions, shape (F,)."""
    return np.linalg.norm(tensors["W_dec"].astype(np.float64), axis=1)


# ---- Cases and how they are written


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What one case holds beside its files; ``path`` is what a user would hand to a reader."""

    path: str
    library: str
    architecture: Literal["relu", "gated", "topk", "jumprelu", "groupmax"]
    x: Array
    latents: Array
    reconstruction: Array
    hook: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    warns: bool = False


@dataclass(frozen=True)
class Case:
    """One folder of ``tests/golden``; the function's docstring says which trap it checks."""

    format: str
    name: str
    make: Maker


CASES: dict[str, list[Case]] = {}


def case(library: str, format_: str, name: str) -> Callable[[Maker], Maker]:
    """Register a function that writes files into a folder and returns what they must give."""

    def register(make: Maker) -> Maker:
        CASES.setdefault(library, []).append(Case(format_, name, make))
        return make

    return register


def write_case(case: Case, out: Path) -> None:
    """Write ``files/``, ``expected.safetensors`` and ``about.json`` of one case, afresh."""
    folder = out / case.format / case.name
    shutil.rmtree(folder, ignore_errors=True)
    files = folder / "files"
    files.mkdir(parents=True)
    golden = case.make(files)
    if not (files / golden.path).exists():
        raise FileNotFoundError(f"{case.format}/{case.name} did not write {golden.path}, its path")
    expected = {"x": golden.x, "latents": golden.latents, "reconstruction": golden.reconstruction}
    save_file(
        {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in expected.items()},
        folder / "expected.safetensors",
    )
    about = {
        "format": case.format,
        "path": golden.path,
        "library": golden.library,
        "architecture": golden.architecture,
        "d_in": golden.x.shape[1],
        "d_out": golden.reconstruction.shape[1],
        "n_latents": golden.latents.shape[1],
        "hook": golden.hook,
        "arguments": golden.arguments,
        "warns": golden.warns,
        "decoder": True,
        "note": " ".join((case.make.__doc__ or "").split()),
    }
    (folder / "about.json").write_text(
        json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    active = (golden.latents != 0).mean()
    print(f"{case.format}/{case.name}: {golden.architecture}, {active:.0%} active")


def difference(got: Array, expected: Array) -> float:
    """Largest absolute difference, relative to the largest expected value."""
    if got.shape != expected.shape:
        return math.inf
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def agreed(definition: Plain, x: Array, latents: Any, reconstruction: Any) -> dict[str, Array]:
    """Return a library's answer once it equals the numpy definition."""
    answers = {"x": x, "latents": as_numpy(latents), "reconstruction": as_numpy(reconstruction)}
    expected = definition.latents(x)
    for name, wanted in (("latents", expected), ("reconstruction", definition.reconstruct(x, expected))):
        if not (gap := difference(answers[name], wanted)) <= TOLERANCE:
            raise ValueError(
                f"the library's {name} differ from the definition by {gap:.1e} of the largest"
            )
    return answers


def seed_of(files: Path) -> int:
    """Seed a case's inputs by its name."""
    return zlib.crc32(files.parent.name.encode())


def defined(definition: Plain, files: Path) -> dict[str, Array]:
    """Return the numpy definition's own answer."""
    x = definition.rows(seed_of(files))
    latents = definition.latents(x)
    return {"x": x, "latents": latents, "reconstruction": definition.reconstruct(x, latents)}


def as_numpy(tensor: Any) -> Array:
    """Turn a torch tensor into float32 numpy."""
    return tensor.detach().float().cpu().numpy() if hasattr(tensor, "detach") else tensor


def as_torch(tensors: Mapping[str, Array], dtype: str = "float32") -> dict[str, Any]:
    """Turn arrays into contiguous torch tensors of the dtype."""
    import torch

    kinds = {name: getattr(torch, dtype) for name in tensors}
    return {
        name: torch.tensor(np.ascontiguousarray(array)).to(kinds[name])
        for name, array in tensors.items()
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON as the libraries do, on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_safetensors(path: Path, tensors: Mapping[str, Array], dtype: str = "float32") -> None:
    """Write float tensors of the dtype."""
    from safetensors.torch import save_file as save_torch_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_torch_file(as_torch(tensors, dtype), path)


def write_pt(path: Path, content: Any) -> None:
    """Write what ``torch.save`` writes."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def fill(module: Any, tensors: Mapping[str, Array]) -> None:
    """Set parameters and buffers of a torch module by name, keeping their dtypes."""
    import torch

    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, array in tensors.items():
            named[name].copy_(torch.from_numpy(np.array(array)).reshape(named[name].shape))


# ---- SAELens

HOOK = "blocks.3.hook_resid_post"
SAELENS_METADATA = {
    "model_name": "pythia-70m-deduped",
    "model_class_name": "HookedTransformer",
    "hook_name": HOOK,
    "hook_head_index": None,
    "context_size": 128,
    "prepend_bos": True,
    "dataset_path": "monology/pile-uncopyrighted",
    "sae_lens_version": "6.54.12",
}


def saelens_version() -> str:
    """Name the library that made these cases."""
    return f"sae-lens {version('sae-lens')}"


def saelens_case(
    files: Path,
    architecture: str,
    names: str,
    tensors: Mapping[str, Array],
    definition: Plain,
    *,
    scale: float | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Golden:
    """Let SAELens save one of its inference SAEs, load it again, encode and decode."""
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    cls, config = get_sae_class(architecture)
    d, F = tensors["W_enc"].shape
    cfg = config(d_in=d, d_sae=F, dtype=dtype, metadata=SAEMetadata(**SAELENS_METADATA), **options)
    sae = cls(cfg)
    fill(sae, {name: tensors[name] for name in names.split()})
    sae.save_model(files / HOOK)
    return Golden(
        path=HOOK,
        library=saelens_version(),
        hook=HOOK,
        arguments={} if scale is None else {"norm_scale": scale},
        architecture=saelens_architecture(architecture),
        **saelens_answer(SAE, files / HOOK, definition, scale),
    )


def saelens_architecture(name: str) -> Any:
    """Name an architecture of SAELens by its activation."""
    return {"standard": "relu", "transcoder": "relu", "skip_transcoder": "relu"}.get(
        name, name.split("_", 1)[0]
    )


def saelens_answer(
    loader: Any, folder: Path, definition: Plain, scale: float | None = None
) -> dict[str, Array]:
    """Load with SAELens in float32, fold what SAELens folds, encode and decode stable rows."""
    import torch

    sae = loader.load_from_disk(folder, dtype="float32")
    if scale is not None:
        sae.fold_activation_norm_scaling_factor(scale)
    x = definition.rows(seed_of(folder.parent))
    with torch.no_grad():
        given = torch.from_numpy(x)
        return agreed(definition, x, sae.encode(given), sae(given))


@case("saelens", "saelens", "standard")
def saelens_standard(files: Path) -> Golden:
    """The plain SAE: b_dec is subtracted before the encoder."""
    tensors = draw(101)
    return saelens_case(
        files, "standard", "W_enc b_enc W_dec b_dec", tensors, plain(tensors, subtract_b_dec=True)
    )


@case("saelens", "saelens", "standard_no_b_dec_input")
def saelens_no_b_dec(files: Path) -> Golden:
    """apply_b_dec_to_input is false: b_dec is added at the end but not subtracted at the start."""
    tensors = draw(102)
    return saelens_case(
        files, "standard", "W_enc b_enc W_dec b_dec", tensors, plain(tensors), apply_b_dec_to_input=False
    )


@case("saelens", "saelens", "standard_layer_norm")
def saelens_layer_norm(files: Path) -> Golden:
    """Inputs lose their mean and are divided by the unbiased std + 1e-5.

    The reconstruction gets both back.
    """
    tensors = draw(103)
    definition = plain(tensors, subtract_b_dec=True, norm="layer_norm")
    return saelens_case(
        files,
        "standard",
        "W_enc b_enc W_dec b_dec",
        tensors,
        definition,
        normalize_activations="layer_norm",
    )


@case("saelens", "saelens", "standard_constant_norm")
def saelens_constant_norm(files: Path) -> Golden:
    """Each row is scaled to norm √d and back."""
    tensors = draw(104)
    definition = plain(tensors, subtract_b_dec=True, norm="constant_norm")
    return saelens_case(
        files,
        "standard",
        "W_enc b_enc W_dec b_dec",
        tensors,
        definition,
        normalize_activations="constant_norm_rescale",
    )


def scaled(tensors: Mapping[str, Array], scale: float, **options: Any) -> Plain:
    """Make the definition of an SAE that was trained on x·scale, in the units of x."""
    folded = dict(tensors)
    folded["W_enc"] = tensors["W_enc"].astype(np.float64) * scale
    folded["W_dec"] = tensors["W_dec"].astype(np.float64) / scale
    folded["b_dec"] = tensors["b_dec"].astype(np.float64) / scale
    return plain(folded, **options)


@case("saelens", "saelens", "standard_expected_average")
def saelens_expected_average(files: Path) -> Golden:
    """Trained on x·s, and s is not in the files: W_enc·s, W_dec/s, b_dec/s; b_enc stays."""
    tensors = draw(105)
    return saelens_case(
        files,
        "standard",
        "W_enc b_enc W_dec b_dec",
        tensors,
        scaled(tensors, 1.7, subtract_b_dec=True),
        scale=1.7,
        normalize_activations="expected_average_only_in",
    )


@case("saelens", "saelens", "jumprelu_expected_average")
def saelens_jumprelu_expected_average(files: Path) -> Golden:
    """As standard_expected_average, but with thresholds, which stay as they are."""
    tensors = draw(106)
    return saelens_case(
        files,
        "jumprelu",
        "W_enc b_enc W_dec b_dec threshold",
        tensors,
        scaled(tensors, 0.6, subtract_b_dec=True, activation="jumprelu", threshold=tensors["threshold"]),
        scale=0.6,
        normalize_activations="expected_average_only_in",
    )


@case("saelens", "saelens", "gated")
def saelens_gated(files: Path) -> Golden:
    """There is no b_enc: the gate has b_gate, the magnitude exp(r_mag)·(x W_enc) + b_mag."""
    tensors = draw(107, bias=0.0)
    definition = plain(
        tensors, subtract_b_dec=True, activation="gated", r_mag=tensors["r_mag"], b_mag=tensors["b_mag"]
    )
    tensors = {**tensors, "b_gate": tensors["b_enc"]}
    return saelens_case(files, "gated", "W_enc b_gate b_mag r_mag W_dec b_dec", tensors, definition)


@case("saelens", "saelens", "jumprelu")
def saelens_jumprelu(files: Path) -> Golden:
    """A pre-activation above its own threshold passes unchanged, nothing is subtracted from it."""
    tensors = draw(108)
    definition = plain(
        tensors, subtract_b_dec=True, activation="jumprelu", threshold=tensors["threshold"]
    )
    return saelens_case(files, "jumprelu", "W_enc b_enc W_dec b_dec threshold", tensors, definition)


@case("saelens", "saelens", "jumprelu_bf16")
def saelens_jumprelu_bf16(files: Path) -> Golden:
    """Weights are bfloat16; latents are those of the same weights in float32."""
    tensors = draw(109, dtype="bfloat16")
    definition = plain(
        tensors, subtract_b_dec=True, activation="jumprelu", threshold=tensors["threshold"]
    )
    names = "W_enc b_enc W_dec b_dec threshold"
    return saelens_case(files, "jumprelu", names, tensors, definition, dtype="bfloat16")


@case("saelens", "saelens", "topk")
def saelens_topk(files: Path) -> Golden:
    """Some rows have fewer than k positive pre-activations: the rest of their k stay zero."""
    tensors = draw(110, bias=-0.5, even=True)
    definition = plain(tensors, subtract_b_dec=True, activation="topk", k=5)
    return saelens_case(files, "topk", "W_enc b_enc W_dec b_dec", tensors, definition, k=5)


@case("saelens", "saelens", "topk_rescaled")
def saelens_topk_rescaled(files: Path) -> Golden:
    """Latents are multiplied by the decoder norms, before the top-k.

    The flag rescale_acts_by_decoder_norm is set and the norms are not 1.
    """
    tensors = draw(111, even=True)
    norms = decoder_norms(tensors)
    folded = {
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "b_dec": tensors["b_dec"],
    }
    folded["W_dec"] = tensors["W_dec"] / norms[:, None]
    return saelens_case(
        files,
        "topk",
        "W_enc b_enc W_dec b_dec",
        tensors,
        plain(folded, subtract_b_dec=True, activation="topk", k=4),
        k=4,
        rescale_acts_by_decoder_norm=True,
    )


@case("saelens", "saelens", "topk_layer_norm_fp16")
def saelens_topk_layer_norm(files: Path) -> Golden:
    """Top-k after layer_norm, weights in float16."""
    tensors = draw(112, dtype="float16", even=True)
    return saelens_case(
        files,
        "topk",
        "W_enc b_enc W_dec b_dec",
        tensors,
        plain(tensors, subtract_b_dec=True, norm="layer_norm", activation="topk", k=4),
        dtype="float16",
        k=4,
        normalize_activations="layer_norm",
    )


def trained_case(
    files: Path, cls: Any, config: Any, tensors: Mapping[str, Array], definition: Plain, **extra: Any
) -> Golden:
    """Let a training SAE of SAELens save its inference model."""
    from sae_lens import SAE
    from sae_lens.saes.sae import SAEMetadata

    config.metadata = SAEMetadata(**SAELENS_METADATA)
    sae = cls(config)
    fill(sae, only(tensors, "W_enc b_enc W_dec b_dec") | extra)
    sae.save_inference_model(files / HOOK)
    cfg = json.loads((files / HOOK / "cfg.json").read_text(encoding="utf-8"))
    write_json(files / HOOK / "cfg.json", dict(sorted(cfg.items())))  # SAELens: in a set's order
    kind = cfg["architecture"]
    return Golden(
        path=HOOK,
        library=saelens_version(),
        hook=HOOK,
        architecture=saelens_architecture(kind),
        **saelens_answer(SAE, files / HOOK, definition),
    )


def unit_norm(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Fold decoder norms into the encoder."""
    norms = decoder_norms(tensors)
    return {
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / norms[:, None],
        "b_dec": tensors["b_dec"],
    }


@case("saelens", "saelens", "topk_trained")
def saelens_topk_trained(files: Path) -> Golden:
    """The flag rescale_acts_by_decoder_norm stays true although the saved decoder has norm 1."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    tensors = draw(113, even=True)
    definition = plain(unit_norm(tensors), subtract_b_dec=True, activation="topk", k=4)
    return trained_case(
        files, TopKTrainingSAE, TopKTrainingSAEConfig(d_in=6, d_sae=16, k=4), tensors, definition
    )


@case("saelens", "saelens", "batchtopk_trained")
def saelens_batchtopk(files: Path) -> Golden:
    """A BatchTopK SAE is saved as jumprelu with one threshold for all.

    Its decoder is folded to norm 1.
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    tensors = draw(114)
    definition = plain(unit_norm(tensors), subtract_b_dec=True, activation="jumprelu", threshold=0.45)
    config = BatchTopKTrainingSAEConfig(d_in=6, d_sae=16, k=4)
    return trained_case(files, BatchTopKTrainingSAE, config, tensors, definition, topk_threshold=0.45)


@case("saelens", "saelens", "matryoshka_trained")
def saelens_matryoshka(files: Path) -> Golden:
    """A Matryoshka SAE is saved as jumprelu: the nesting plays no part in encoding.

    The decoder norms are not folded here.
    """
    from sae_lens import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig

    tensors = draw(115)
    definition = plain(tensors, subtract_b_dec=True, activation="jumprelu", threshold=0.3)
    config = MatryoshkaBatchTopKTrainingSAEConfig(
        d_in=6, d_sae=16, k=4, matryoshka_widths=[4, 9, 16], rescale_acts_by_decoder_norm=False
    )
    return trained_case(
        files, MatryoshkaBatchTopKTrainingSAE, config, tensors, definition, topk_threshold=0.3
    )


@case("saelens", "saelens", "transcoder")
def saelens_transcoder(files: Path) -> Golden:
    """d_out is not d_in, and b_dec (d_out) is never subtracted."""
    tensors = draw(116, d_out=7)
    return saelens_case(
        files,
        "transcoder",
        "W_enc b_enc W_dec b_dec",
        tensors,
        plain(tensors),
        d_out=7,
        apply_b_dec_to_input=False,
    )


@case("saelens", "saelens", "skip_transcoder")
def saelens_skip_transcoder(files: Path) -> Golden:
    """W_skip is (d_out, d_in): the output gains x W_skipᵀ."""
    tensors = draw(117, d_out=7)
    definition = plain(tensors, skip=tensors["skip"])
    tensors = {**tensors, "W_skip": tensors["skip"].T}
    return saelens_case(
        files,
        "skip_transcoder",
        "W_enc b_enc W_dec b_dec W_skip",
        tensors,
        definition,
        d_out=7,
        apply_b_dec_to_input=False,
    )


@case("saelens", "saelens", "jumprelu_transcoder")
def saelens_jumprelu_transcoder(files: Path) -> Golden:
    """A transcoder with thresholds."""
    tensors = draw(118, d_out=5)
    return saelens_case(
        files,
        "jumprelu_transcoder",
        "W_enc b_enc W_dec b_dec threshold",
        tensors,
        plain(tensors, activation="jumprelu", threshold=tensors["threshold"]),
        d_out=5,
        apply_b_dec_to_input=False,
    )


@case("saelens", "saelens", "jumprelu_skip_transcoder")
def saelens_jumprelu_skip_transcoder(files: Path) -> Golden:
    """A transcoder with thresholds and W_skip (d_out, d_in)."""
    tensors = draw(119, d_out=5)
    definition = plain(
        tensors, activation="jumprelu", threshold=tensors["threshold"], skip=tensors["skip"]
    )
    tensors = {**tensors, "W_skip": tensors["skip"].T}
    return saelens_case(
        files,
        "jumprelu_skip_transcoder",
        "W_enc b_enc W_dec b_dec threshold W_skip",
        tensors,
        definition,
        d_out=5,
        apply_b_dec_to_input=False,
    )


def old_saelens_cfg(**changes: Any) -> dict[str, Any]:
    """Write the flat config of SAELens 1 to 5; a change to None removes a key."""
    cfg = {
        "model_name": "gpt2-small",
        "hook_point": HOOK,
        "hook_point_layer": 3,
        "hook_point_head_index": None,
        "dataset_path": "Skylion007/openwebtext",
        "is_dataset_tokenized": False,
        "context_size": 128,
        "use_cached_activations": False,
        "d_in": 6,
        "d_sae": 16,
        "l1_coefficient": 8e-05,
        "lr": 0.0004,
        "seed": None,
        "dtype": "torch.float32",
        "device": "cuda",
        "prepend_bos": True,
        **changes,
    }
    return {key: value for key, value in cfg.items() if key not in changes or value is not None}


def old_saelens_case(
    files: Path,
    cfg: dict[str, Any],
    tensors: Mapping[str, Array],
    definition: Plain,
    *,
    architecture: Any,
    scale: float | None = None,
    hook: str = HOOK,
) -> Golden:
    """Write the files of SAELens before 6, which SAELens 6 reads."""
    from sae_lens import SAE

    write_json(files / hook / "cfg.json", cfg)
    write_safetensors(files / hook / "sae_weights.safetensors", tensors)
    return Golden(
        path=hook,
        library=saelens_version() + ", files as SAELens < 6 wrote them",
        hook=hook,
        arguments={} if scale is None else {"norm_scale": scale},
        architecture=architecture,
        **saelens_answer(SAE, files / hook, definition, scale),
    )


def only(tensors: Mapping[str, Array], names: str) -> dict[str, Array]:
    """Pick tensors by name."""
    return {name: tensors[name] for name in names.split()}


@case("saelens", "saelens", "old_hook_point")
def saelens_old_hook_point(files: Path) -> Golden:
    """The oldest config: hook_point, no architecture, no normalize_activations.

    Its dtype is "torch.float32".
    """
    tensors = draw(121)
    weights = only(tensors, "W_enc b_enc W_dec b_dec")
    return old_saelens_case(
        files, old_saelens_cfg(), weights, plain(tensors, subtract_b_dec=True), architecture="relu"
    )


@case("saelens", "saelens", "old_topk")
def saelens_old_topk(files: Path) -> Golden:
    """The architecture says standard, but activation_fn_str says topk.

    k is in activation_fn_kwargs.
    """
    tensors = draw(142, even=True)
    cfg = old_saelens_cfg(
        hook_point=None,
        hook_point_layer=None,
        hook_name=HOOK,
        hook_layer=3,
        architecture="standard",
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 4},
        normalize_activations="layer_norm",
        apply_b_dec_to_input=True,
        finetuning_scaling_factor=False,
        sae_lens_training_version=None,
    )
    definition = plain(tensors, subtract_b_dec=True, norm="layer_norm", activation="topk", k=4)
    return old_saelens_case(
        files, cfg, only(tensors, "W_enc b_enc W_dec b_dec"), definition, architecture="topk"
    )


@case("saelens", "saelens", "old_normalize_true")
def saelens_old_normalize_true(files: Path) -> Golden:
    """The boolean normalize_activations is true, which means expected_average_only_in.

    The scale is not in the files.
    """
    tensors = draw(123)
    cfg = old_saelens_cfg(
        hook_point=None,
        hook_name=HOOK,
        architecture="standard",
        activation_fn_str="relu",
        normalize_activations=True,
        apply_b_dec_to_input=False,
    )
    weights = only(tensors, "W_enc b_enc W_dec b_dec")
    return old_saelens_case(files, cfg, weights, scaled(tensors, 1.3), architecture="relu", scale=1.3)


@case("saelens", "saelens", "old_normalize_false")
def saelens_old_normalize_false(files: Path) -> Golden:
    """normalize_activations is the boolean false: none."""
    tensors = draw(124)
    cfg = old_saelens_cfg(
        activation_fn_str="relu",
        normalize_activations=False,
        apply_b_dec_to_input=False,
        sae_lens_version="3.13.0",
    )
    weights = only(tensors, "W_enc b_enc W_dec b_dec")
    return old_saelens_case(files, cfg, weights, plain(tensors), architecture="relu")


@case("saelens", "saelens", "old_gated")
def saelens_old_gated(files: Path) -> Golden:
    """A flat config with architecture gated and sae_lens_version 5 at the top."""
    tensors = draw(125, bias=0.0)
    cfg = old_saelens_cfg(
        hook_point=None,
        hook_name=HOOK,
        architecture="gated",
        activation_fn="relu",
        normalize_activations="none",
        dtype="float32",
        sae_lens_version="5.9.1",
    )
    weights = only(tensors, "W_enc W_dec b_dec r_mag b_mag") | {"b_gate": tensors["b_enc"]}
    definition = plain(
        tensors, subtract_b_dec=True, activation="gated", r_mag=tensors["r_mag"], b_mag=tensors["b_mag"]
    )
    return old_saelens_case(files, cfg, weights, definition, architecture="gated")


@case("saelens", "saelens", "old_jumprelu")
def saelens_old_jumprelu(files: Path) -> Golden:
    """A flat config with architecture jumprelu, normalize_activations null."""
    tensors = draw(126)
    cfg = old_saelens_cfg(
        hook_point=None, hook_name=HOOK, architecture="jumprelu", activation_fn_str="relu"
    )
    cfg["normalize_activations"] = None
    weights = only(tensors, "W_enc b_enc W_dec b_dec threshold")
    definition = plain(
        tensors, subtract_b_dec=True, activation="jumprelu", threshold=tensors["threshold"]
    )
    return old_saelens_case(files, cfg, weights, definition, architecture="jumprelu")


@case("saelens", "saelens", "old_scaling_factor_ones")
def saelens_old_scaling_factor_ones(files: Path) -> Golden:
    """Many released files hold a scaling_factor of ones, which means nothing."""
    tensors = draw(128)
    cfg = old_saelens_cfg(hook_point=None, hook_name=HOOK, normalize_activations="none")
    weights = only(tensors, "W_enc b_enc W_dec b_dec") | {"scaling_factor": np.ones(16, np.float32)}
    definition = plain(tensors, subtract_b_dec=True)
    return old_saelens_case(files, cfg, weights, definition, architecture="relu")


# ---- SAELens 5


def saelens_5_answer(folder: Path, definition: Plain, files: Path) -> dict[str, Any]:
    """Load with SAELens 5, encode and decode."""
    import sae_lens
    import torch

    if sae_lens.__version__ != "5.11.0":
        raise ImportError(f"expected sae-lens 5.11.0 in --source, but got {sae_lens.__version__}")
    sae = sae_lens.SAE.load_from_disk(folder)
    x = definition.rows(seed_of(files))
    with torch.no_grad():
        latents = sae.encode(torch.from_numpy(x))
        answer = agreed(definition, x, latents, sae.decode(latents))
    return {"path": HOOK, "hook": HOOK, "library": "sae-lens 5.11.0", **answer}


def saelens_5_save(folder: Path, tensors: Mapping[str, Array], names: str, **options: Any) -> None:
    """Let SAELens 5 save an SAE."""
    from sae_lens import SAE, SAEConfig

    d, F = tensors["W_enc"].shape
    settings: dict[str, Any] = {
        "architecture": "standard",
        "activation_fn_str": "relu",
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "normalize_activations": "none",
        "context_size": 128,
        "model_name": "gpt2-small",
        "hook_name": HOOK,
        "hook_layer": 3,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "Skylion007/openwebtext",
        "dataset_trust_remote_code": True,
        "dtype": "float32",
        "device": "cpu",
        "sae_lens_training_version": "5.11.0",
        **options,
    }
    sae = SAE(SAEConfig(d_in=d, d_sae=F, **settings))
    fill(sae, only(tensors, names))
    sae.save_model(folder)


@case("saelens_5", "saelens", "v5_topk")
def saelens_5_topk(files: Path) -> Golden:
    """Saved by SAELens 5: architecture standard, but activation_fn_str topk.

    k is in activation_fn_kwargs, the normalisation is layer_norm.
    """
    tensors = draw(143, even=True)
    definition = plain(tensors, subtract_b_dec=True, norm="layer_norm", activation="topk", k=5)
    saelens_5_save(
        files / HOOK,
        tensors,
        "W_enc b_enc W_dec b_dec",
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 5},
        normalize_activations="layer_norm",
    )
    return Golden(architecture="topk", **saelens_5_answer(files / HOOK, definition, files))


@case("saelens_5", "saelens", "v5_jumprelu")
def saelens_5_jumprelu(files: Path) -> Golden:
    """Saved by SAELens 5: a flat config without sae_lens_version."""
    tensors = draw(144)
    saelens_5_save(
        files / HOOK,
        tensors,
        "W_enc b_enc W_dec b_dec threshold",
        architecture="jumprelu",
        apply_b_dec_to_input=False,
    )
    definition = plain(tensors, activation="jumprelu", threshold=tensors["threshold"])
    return Golden(architecture="jumprelu", **saelens_5_answer(files / HOOK, definition, files))


@case("saelens_5", "saelens", "v5_scaling_factor")
def saelens_5_scaling_factor(files: Path) -> Golden:
    """Saved by SAELens 5, whose key is finetuning_scaling_factor, although it reads only scaling_factor.

    Latents are unscaled; the factor multiplies them on their way to the decoder.
    """
    tensors = draw(127) | {"finetuning_scaling_factor": draw(127)["factor"]}
    names = "W_enc b_enc W_dec b_dec finetuning_scaling_factor"
    saelens_5_save(files / HOOK, tensors, names, finetuning_scaling_factor=True)
    stored = load_file(files / HOOK / "sae_weights.safetensors")
    definition = plain(tensors, subtract_b_dec=True, factor=tensors["factor"])
    copy = files / "renamed"
    shutil.copytree(files / HOOK, copy)
    stored["scaling_factor"] = stored.pop("finetuning_scaling_factor")
    save_file(stored, copy / "sae_weights.safetensors")
    answer = saelens_5_answer(copy, definition, files)
    shutil.rmtree(copy)
    return Golden(architecture="relu", **answer)


@case("saelens_5", "saelens", "old_scaling_factor")
def saelens_old_scaling_factor(files: Path) -> Golden:
    """The scaling_factor multiplies the latents on their way to the decoder.

    It is no part of the latents.
    """
    tensors = draw(127)
    cfg = old_saelens_cfg(
        hook_point=None,
        hook_point_layer=None,
        hook_point_head_index=None,
        hook_name=HOOK,
        hook_layer=3,
        architecture="standard",
        activation_fn_str="relu",
        apply_b_dec_to_input=True,
        normalize_activations="none",
        finetuning_scaling_factor=True,
        dataset_trust_remote_code=True,
    )
    cfg |= {"hook_head_index": None, "sae_lens_training_version": None}
    write_json(files / HOOK / "cfg.json", cfg)
    weights = only(tensors, "W_enc b_enc W_dec b_dec") | {"scaling_factor": tensors["factor"]}
    write_safetensors(files / HOOK / "sae_weights.safetensors", weights)
    definition = plain(tensors, subtract_b_dec=True, factor=tensors["factor"])
    return Golden(architecture="relu", **saelens_5_answer(files / HOOK, definition, files))


# ---- sparsify


def bare_package(*names: str) -> None:
    """Import modules of a package without its ``__init__``, which imports trainers and all they need."""
    import importlib.util
    import types

    for name in names:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError(f"no package {name} in this environment")
        module = types.ModuleType(name)
        module.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = module


def sparsify_case(
    files: Path,
    tensors: Mapping[str, Array],
    definition: Plain,
    *,
    dtype: str = "float32",
    num_latents: int | None = None,
    hook: str = "layers.3",
    **options: Any,
) -> Golden:
    """Let sparsify save a SparseCoder, load it again, encode and decode."""
    bare_package("sparsify")
    import torch
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    d, F = tensors["W_enc"].shape
    cfg = SparseCoderConfig(num_latents=F if num_latents is None else num_latents, **options)
    coder = SparseCoder(d, cfg, dtype=getattr(torch, dtype))
    named = {
        "encoder.weight": tensors["W_enc"].T,
        "encoder.bias": tensors["b_enc"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    if cfg.skip_connection:
        named["W_skip"] = tensors["skip"].T
    fill(coder, named)
    coder.save_to_disk(files / hook)
    x = definition.rows(seed_of(files))
    latents, reconstruction = sparsify_reads(files / hook, torch.from_numpy(x))
    return Golden(
        path=hook,
        library=f"eai-sparsify {version('eai-sparsify')}",
        hook=hook,
        architecture=options.get("activation", "topk"),
        **agreed(definition, x, latents, reconstruction),
    )


def sparsify_reads(folder: Path, x: Any) -> tuple[Any, Any]:
    """Encode and decode with sparsify, in float32 whatever the file holds.

    Its latents come as (values, indices).
    """
    bare_package("sparsify")
    import torch
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder.load_from_disk(folder).float()
    with torch.no_grad():
        values, indices, pre = coder.encode(x)
        return torch.zeros_like(pre).scatter(1, indices, values), coder(x).sae_out


@case("sparsify", "sparsify", "topk")
def sparsify_topk(files: Path) -> Golden:
    """Both encoder.weight and W_dec are (F, d); b_dec is subtracted.

    normalize_decoder is about training.
    """
    tensors = draw(201, bias=-0.5, even=True)
    return sparsify_case(
        files, tensors, plain(tensors, subtract_b_dec=True, activation="topk", k=5), k=5
    )


@case("sparsify", "sparsify", "topk_unnormalised")
def sparsify_topk_unnormalised(files: Path) -> Golden:
    """normalize_decoder is false, and b_dec is subtracted all the same."""
    tensors = draw(202, even=True)
    definition = plain(tensors, subtract_b_dec=True, activation="topk", k=4)
    return sparsify_case(files, tensors, definition, k=4, normalize_decoder=False)


@case("sparsify", "sparsify", "expansion_factor_bf16")
def sparsify_expansion_factor(files: Path) -> Golden:
    """num_latents is 0, which means d_in · expansion_factor; weights are bfloat16."""
    tensors = draw(203, F=18, dtype="bfloat16", even=True)
    definition = plain(tensors, subtract_b_dec=True, activation="topk", k=4)
    return sparsify_case(
        files, tensors, definition, k=4, num_latents=0, expansion_factor=3, dtype="bfloat16", hook="h.3"
    )


@case("sparsify", "sparsify", "transcoder")
def sparsify_transcoder(files: Path) -> Golden:
    """With transcode true, b_dec is not subtracted."""
    tensors = draw(204, even=True)
    definition = plain(tensors, activation="topk", k=4)
    return sparsify_case(files, tensors, definition, k=4, transcode=True, hook="layers.3.mlp")


@case("sparsify", "sparsify", "skip_transcoder")
def sparsify_skip_transcoder(files: Path) -> Golden:
    """W_skip is (d_out, d_in): the output gains x W_skipᵀ."""
    tensors = draw(205, even=True)
    definition = plain(tensors, activation="topk", k=4, skip=tensors["skip"])
    return sparsify_case(
        files, tensors, definition, k=4, transcode=True, skip_connection=True, hook="layers.3.mlp"
    )


@case("sparsify", "sparsify", "groupmax")
def sparsify_groupmax(files: Path) -> Golden:
    """Of k groups of neighbouring latents, the largest of each stays if it is positive."""
    tensors = draw(206, F=18)
    definition = plain(tensors, subtract_b_dec=True, activation="groupmax", k=3)
    return sparsify_case(files, tensors, definition, k=3, activation="groupmax")


# ---- dictionary_learning


def dictionary_learning_case(
    files: Path,
    trainer: Any,
    ae_tensors: Mapping[str, Array],
    definition: Plain,
    *,
    architecture: Any,
    change: Mapping[str, Any] | None = None,
    **result: Any,
) -> Golden:
    """Save as the library's training loop does, load with its from_pretrained, encode and decode."""
    import torch

    fill(trainer.ae, ae_tensors)
    folder = files / "trainer_0"
    write_pt(folder / "ae.pt", {name: tensor.cpu() for name, tensor in trainer.ae.state_dict().items()})
    config = {"trainer": {**trainer.config, **(change or {})}, "buffer": BUFFER}
    (folder / "config.json").write_text(json.dumps(config, indent=4), encoding="utf-8")
    ae = type(trainer.ae).from_pretrained(folder / "ae.pt")
    x = definition.rows(seed_of(files))
    with torch.no_grad():
        latents = ae.encode(torch.from_numpy(x))
        reconstruction = ae.decode(latents)
    return Golden(
        path="trainer_0",
        library=f"dictionary-learning {version('dictionary-learning')}",
        hook="resid_post_layer_3",
        architecture=architecture,
        **agreed(definition, x, latents, reconstruction),
        **result,
    )


BUFFER = {
    "d_submodule": 6,
    "io": "out",
    "n_ctxs": 244,
    "ctx_len": 1024,
    "refresh_batch_size": 4,
    "out_batch_size": 2048,
    "device": "cuda:0",
}


def dictionary_learning_trainer(module: str, name: str, **options: Any) -> Any:
    """Make one of the library's trainers, whose config is what config.json holds."""
    import importlib

    bare_package("dictionary_learning")  # its __init__ imports nnsight
    bare_package("dictionary_learning.trainers")
    trainers = importlib.import_module(f"dictionary_learning.trainers.{module}")
    return getattr(trainers, name)(
        steps=10_000,
        activation_dim=6,
        dict_size=16,
        layer=3,
        lm_name="EleutherAI/pythia-70m-deduped",
        submodule_name="resid_post_layer_3",
        device="cpu",
        seed=0,
        **options,
    )


def linear_names(tensors: Mapping[str, Array], **others: str) -> dict[str, Array]:
    """Name tensors as torch.nn.Linear does: encoder.weight (F, d), decoder.weight (d, F)."""
    named = {"encoder.weight": tensors["W_enc"].T, "decoder.weight": tensors["W_dec"].T}
    return named | {name.replace("__", "."): tensors[source] for name, source in others.items()}


@case("dictionary_learning", "dictionary_learning", "auto_encoder")
def dl_auto_encoder(files: Path) -> Golden:
    """from_pretrained scales the decoder to norm 1, and with it the latents; bias is subtracted."""
    tensors = draw(301)
    trainer = dictionary_learning_trainer("standard", "StandardTrainerAprilUpdate")
    names = linear_names(tensors, bias="b_dec", encoder__bias="b_enc")
    definition = plain(unit_norm(tensors), subtract_b_dec=True)
    return dictionary_learning_case(files, trainer, names, definition, architecture="relu")


@case("dictionary_learning", "dictionary_learning", "auto_encoder_unit_norm")
def dl_auto_encoder_unit(files: Path) -> Golden:
    """The decoder has norm 1, as the standard trainer keeps it: nothing is rescaled."""
    tensors = draw(302)
    tensors["W_dec"] = (tensors["W_dec"] / decoder_norms(tensors)[:, None]).astype(np.float32)
    trainer = dictionary_learning_trainer("standard", "StandardTrainer")
    names = linear_names(tensors, bias="b_dec", encoder__bias="b_enc")
    definition = plain(tensors, subtract_b_dec=True)
    return dictionary_learning_case(files, trainer, names, definition, architecture="relu")


def auto_encoder_new(files: Path, label: str) -> Golden:
    """Write an AutoEncoderNew under either name that its trainer's config may give it."""
    trainer = dictionary_learning_trainer("standard", "StandardTrainerAprilUpdate")
    from dictionary_learning.dictionary import AutoEncoderNew

    trainer.ae = AutoEncoderNew(6, 16)
    tensors = draw(303)
    names = linear_names(tensors, encoder__bias="b_enc", decoder__bias="b_dec")
    return dictionary_learning_case(
        files, trainer, names, plain(tensors), architecture="relu", change={"dict_class": label}
    )


@case("dictionary_learning", "dictionary_learning", "auto_encoder_new")
def dl_auto_encoder_new(files: Path) -> Golden:
    """decoder.bias is added, but nothing is subtracted from x; decoder norms stay as they are."""
    return auto_encoder_new(files, "AutoEncoderNew")


@case("dictionary_learning", "dictionary_learning", "auto_encoder_new_mislabelled")
def dl_auto_encoder_new_mislabelled(files: Path) -> Golden:
    """The trainer of AutoEncoderNew calls it AutoEncoder in config.json.

    The tensors tell: no bias, but decoder.bias.
    """
    return auto_encoder_new(files, "AutoEncoder")


@case("dictionary_learning", "dictionary_learning", "gated")
def dl_gated(files: Path) -> Golden:
    """There is no encoder.bias but gate_bias and mag_bias; decoder_bias is subtracted."""
    tensors = draw(304, bias=0.0)
    trainer = dictionary_learning_trainer("gdm", "GatedSAETrainer")
    names = linear_names(
        tensors, decoder_bias="b_dec", r_mag="r_mag", gate_bias="b_enc", mag_bias="b_mag"
    )
    definition = plain(
        tensors, subtract_b_dec=True, activation="gated", r_mag=tensors["r_mag"], b_mag=tensors["b_mag"]
    )
    return dictionary_learning_case(files, trainer, names, definition, architecture="gated")


@case("dictionary_learning", "dictionary_learning", "topk")
def dl_topk(files: Path) -> Golden:
    """A threshold is in the file, but the library's encode takes the k largest."""
    tensors = draw(305, bias=-0.5, even=True)
    trainer = dictionary_learning_trainer("top_k", "TopKTrainer", k=5)
    names = linear_names(tensors, encoder__bias="b_enc", b_dec="b_dec") | {"threshold": np.float32(0.4)}
    definition = plain(tensors, subtract_b_dec=True, activation="topk", k=5)
    return dictionary_learning_case(files, trainer, names, definition, architecture="topk")


@case("dictionary_learning", "dictionary_learning", "batch_topk")
def dl_batch_topk(files: Path) -> Golden:
    """One scalar threshold for all latents; k says nothing at inference."""
    tensors = draw(306)
    trainer = dictionary_learning_trainer("batch_top_k", "BatchTopKTrainer", k=4)
    names = linear_names(tensors, encoder__bias="b_enc", b_dec="b_dec") | {"threshold": np.float32(0.4)}
    definition = plain(tensors, subtract_b_dec=True, activation="jumprelu", threshold=np.float32(0.4))
    return dictionary_learning_case(files, trainer, names, definition, architecture="jumprelu")


@case("dictionary_learning", "dictionary_learning", "batch_topk_unset")
def dl_batch_topk_unset(files: Path) -> Golden:
    """The threshold was never set (-1): the library then gives plain ReLU, without a word."""
    tensors = draw(307)
    trainer = dictionary_learning_trainer("batch_top_k", "BatchTopKTrainer", k=4)
    names = linear_names(tensors, encoder__bias="b_enc", b_dec="b_dec")
    definition = plain(tensors, subtract_b_dec=True)
    return dictionary_learning_case(files, trainer, names, definition, architecture="relu", warns=True)


@case("dictionary_learning", "dictionary_learning", "matryoshka")
def dl_matryoshka(files: Path) -> Golden:
    """W_enc is (d, F) and W_dec (F, d) here; group_sizes are integers beside the weights."""
    tensors = draw(308)
    fractions = [0.25, 0.25, 0.5]
    trainer = dictionary_learning_trainer(
        "matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer", k=4, group_fractions=fractions
    )
    names = only(tensors, "W_enc b_enc W_dec b_dec") | {"threshold": np.float32(0.35)}
    definition = plain(tensors, subtract_b_dec=True, activation="jumprelu", threshold=np.float32(0.35))
    return dictionary_learning_case(files, trainer, names, definition, architecture="jumprelu")


@case("dictionary_learning", "dictionary_learning", "jumprelu")
def dl_jumprelu(files: Path) -> Golden:
    """W_enc is (d, F); b_dec is added but not subtracted."""
    tensors = draw(309)
    trainer = dictionary_learning_trainer("jumprelu", "JumpReluTrainer")
    names = only(tensors, "W_enc b_enc W_dec b_dec threshold")
    definition = plain(tensors, activation="jumprelu", threshold=tensors["threshold"])
    return dictionary_learning_case(files, trainer, names, definition, architecture="jumprelu")


# ---- Gemma Scope 1 and 2, Goodfire, Qwen-Scope, transcoders: by their published definitions


def by_definition(source: str, definition: Plain, files: Path, **result: Any) -> Golden:
    """Take the numpy definition's own answer."""
    return Golden(library=f"definition: {source}", **result, **defined(definition, files))


@case("definitions", "gemma_scope", "residual")
def gemma_scope_residual(files: Path) -> Golden:
    """No b_dec is subtracted; the folder says width_16, the file has 20 latents.

    Sizes come from the tensors.
    """
    tensors = draw(401, F=20)
    path = "layer_5/width_16/average_l0_3/params.npz"
    (files / path).parent.mkdir(parents=True)
    np.savez(files / path, **only(tensors, "W_dec W_enc b_dec b_enc threshold"))
    definition = plain(tensors, activation="jumprelu", threshold=tensors["threshold"])
    source = "as sae-lens 6.54.12 loads google/gemma-scope"
    return by_definition(source, definition, files, path=path, architecture="jumprelu")


def gemma_scope_2(
    files: Path, path: str, names: str, config: dict[str, Any], definition: Plain
) -> Golden:
    """Write params.safetensors with lower-case keys, and config.json."""
    tensors = {
        "w_enc": definition.W_enc,
        "b_enc": definition.b_enc,
        "w_dec": definition.W_dec,
        "b_dec": definition.b_dec,
        "threshold": definition.threshold,
        "affine_skip_connection": definition.skip,
    }
    write_safetensors(
        files / path / "params.safetensors", {name: tensors[name] for name in names.split()}
    )
    config = {"architecture": "jump_relu", "model_name": "google/gemma-3-270m", **config}
    (files / path / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return by_definition(
        "as sae-lens 6.54.12 loads google/gemma-scope-2",
        definition,
        files,
        path=path,
        architecture="jumprelu",
        hook=config["hf_hook_point_in"],
    )


@case("definitions", "gemma_scope_2", "residual")
def gemma_scope_2_residual(files: Path) -> Golden:
    """Keys are lower-case: w_enc (d, F), w_dec (F, d); b_dec is not subtracted."""
    tensors = draw(402)
    definition = plain(tensors, activation="jumprelu", threshold=tensors["threshold"].astype(np.float64))
    hook = "model.layers.5.output"
    config = {
        "width": 16384,
        "hf_hook_point_in": hook,
        "hf_hook_point_out": hook,
        "l0": 60,
        "affine_connection": False,
        "type": "sae",
    }
    path = "resid_post/layer_5_width_16k_l0_medium"
    return gemma_scope_2(files, path, "w_enc b_enc w_dec b_dec threshold", config, definition)


@case("definitions", "gemma_scope_2", "affine_transcoder")
def gemma_scope_2_transcoder(files: Path) -> Golden:
    """affine_skip_connection is (d_in, d_out): the output gains x @ it, untransposed."""
    tensors = draw(403, d_out=7)
    definition = plain(
        tensors,
        activation="jumprelu",
        threshold=tensors["threshold"].astype(np.float64),
        skip=tensors["skip"].astype(np.float64),
    )
    config = {
        "width": 16384,
        "hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output",
        "l0": 60,
        "affine_connection": True,
        "type": "transcoder",
    }
    names = "w_enc b_enc w_dec b_dec threshold affine_skip_connection"
    path = "transcoder/layer_5_width_16k_l0_medium_affine"
    return gemma_scope_2(files, path, names, config, definition)


@case("definitions", "goodfire", "relu")
def goodfire_relu(files: Path) -> Golden:
    """encoder_linear and decoder_linear of torch.nn.Linear in a .pth; nothing is subtracted."""
    tensors = draw(404)
    names = linear_names(tensors, encoder__bias="b_enc", decoder__bias="b_dec")
    named = {
        name.replace("encoder.", "encoder_linear.").replace("decoder.", "decoder_linear."): array
        for name, array in names.items()
    }
    path = "Llama-3.1-8B-Instruct-SAE-l19.pth"
    write_pt(files / path, as_torch(named))
    source = "as sae-lens 6.54.12 loads Goodfire, decoder(relu(encoder(x)))"
    return by_definition(source, plain(tensors), files, path=path, architecture="relu")


def linear_sae(files: Path, path: str, seed: int, dtype: str) -> Golden:
    """Write two nn.Linear layers, as .pt or .safetensors."""
    tensors = draw(seed, dtype=dtype)
    named = linear_names(tensors, encoder__bias="b_enc", decoder__bias="b_dec")
    if path.endswith(".safetensors"):
        write_safetensors(files / path, named, dtype)
    else:
        write_pt(files / path, as_torch(named, dtype))
    source = "as sae-lens 6.54.12 loads qresearch, decoder(relu(encoder(x)))"
    return by_definition(
        source,
        plain(tensors),
        files,
        path=path,
        architecture="relu",
        arguments={"format": "linear"},  # nothing in the file names it
    )


@case("definitions", "hook_z", "relu")
def hook_z_relu(files: Path) -> Golden:
    """The sizes are called act_size and dict_size, in a file named after the weights."""
    tensors = draw(407)
    path = "gpt2-small_L3_Hcat_z_lr1.2e-03_v9.pt"
    write_pt(files / path, as_torch(only(tensors, "W_enc b_enc W_dec b_dec")))
    config = {
        "act_size": 6,
        "dict_size": 16,
        "act_name": "blocks.3.attn.hook_z",
        "model_name": "gpt2-small",
        "seq_len": 128,
    }
    write_json(files / path.replace(".pt", "_cfg.json"), config)
    definition = plain(tensors, subtract_b_dec=True)
    source = "as sae-lens 6.54.12 loads ckkissane, decoder(relu(encoder(x - b_dec)))"
    hook = "blocks.3.attn.hook_z"
    return by_definition(source, definition, files, path=path, architecture="relu", hook=hook)


@case("definitions", "linear", "bf16_pt")
def linear_bf16_pt(files: Path) -> Golden:
    """Two nn.Linear in bfloat16: encoder.weight (F, d), decoder.weight (d, F); nothing is subtracted."""
    return linear_sae(files, "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", 405, "bfloat16")


@case("definitions", "linear", "safetensors")
def linear_safetensors(files: Path) -> Golden:
    """The same tensors in a safetensors file without any config."""
    return linear_sae(files, "model.safetensors", 406, "float32")


def qwen_scope_sae(
    files: Path, path: str, tensors: Mapping[str, Array], k: int, arguments: Any
) -> Golden:
    """Write one layer of Qwen-Scope: W_enc (F, d), W_dec (d, F)."""
    named = {
        "W_enc": tensors["W_enc"].T,
        "W_dec": tensors["W_dec"].T,
        "b_enc": tensors["b_enc"],
        "b_dec": tensors["b_dec"],
    }
    write_pt(files / path, as_torch(named))
    definition = plain(tensors, activation="topk_signed", k=k)
    source = "layout as sae-lens 6.54.12 loads it, but exactly k non-zero, without its ReLU"
    return by_definition(source, definition, files, path=path, architecture="topk", arguments=arguments)


@case("definitions", "qwen_scope", "topk")
def qwen_scope_topk(files: Path) -> Golden:
    """W_enc is (F, d), W_dec (d, F); k stands in the folder name (L0_3).

    The k largest stay even where they are negative.
    """
    tensors = draw(407, even=True)
    return qwen_scope_sae(files, "SAE-Res-Tiny-W16-L0_3/layer4.sae.pt", tensors, 3, {})


@case("definitions", "qwen_scope", "topk_k_given")
def qwen_scope_k_given(files: Path) -> Golden:
    """Without the release's folder name nothing says k.

    Some rows have fewer than k positive pre-activations: the negative ones stay.
    """
    tensors = draw(408, bias=-0.9, even=True)
    return qwen_scope_sae(files, "layer4.sae.pt", tensors, 5, {"k": 5})


@case("definitions", "transcoder", "relu")
def transcoder_relu(files: Path) -> Golden:
    """W_enc and W_dec are both (F, d) and d_in = d_out; b_dec is not subtracted; the config is YAML."""
    tensors = draw(409)
    named = only(tensors, "b_enc W_dec b_dec") | {"W_enc": tensors["W_enc"].T}
    write_safetensors(files / "layer_3.safetensors", named)
    config = [
        "model_kind: transcoder_set",
        "model_name: Qwen/Qwen3-0.6B",
        "feature_input_hook: mlp.hook_in",
        "feature_output_hook: mlp.hook_out",
        "scan: tiny-transcoders",
    ]
    (files / "config.yaml").write_text("\n".join(config) + "\n", encoding="utf-8")
    source = "as sae-lens 6.54.12 loads mwhanna transcoders, relu(x @ W_encᵀ + b_enc) @ W_dec + b_dec"
    return by_definition(
        source,
        plain(tensors),
        files,
        path="layer_3.safetensors",
        architecture="relu",
        hook="mlp.hook_in",
    )


@case("definitions", "transcoder", "relu_bf16")
def transcoder_relu_bf16(files: Path) -> Golden:
    """The same in bfloat16, and no config beside the file."""
    tensors = draw(410, dtype="bfloat16")
    named = only(tensors, "b_enc W_dec b_dec") | {"W_enc": tensors["W_enc"].T}
    write_safetensors(files / "layer_3.safetensors", named, "bfloat16")
    source = "as sae-lens 6.54.12 loads mwhanna transcoders, relu(x @ W_encᵀ + b_enc) @ W_dec + b_dec"
    return by_definition(source, plain(tensors), files, path="layer_3.safetensors", architecture="relu")


# ---- Llama Scope and what its authors wrote since


def norms_folded(tensors: Mapping[str, Array], scale_in: float, scale_out: float) -> dict[str, Array]:
    """Give latents the units of x and a decoder of norm 1, as lm_saes 2024 does when it loads."""
    core = {name: tensors[name].astype(np.float64) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    core["b_enc"] = core["b_enc"] / scale_in
    core["b_dec"] = core["b_dec"] / scale_out
    core["W_dec"] = core["W_dec"] * scale_in / scale_out
    return unit_norm(core)


def llama_scope_files(files: Path, name: str, tensors: Mapping[str, Array], **changes: Any) -> Path:
    """Write hyperparams.json and checkpoints/final.safetensors (bf16) as the release has them."""
    d, F = tensors["W_enc"].shape
    hyperparams = {
        "device": "cuda",
        "seed": 42,
        "dtype": "torch.bfloat16",
        "hook_point_in": HOOK,
        "hook_point_out": HOOK,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "expansion_factor": 8,
        "d_model": d,
        "d_sae": F,
        "bias_init_method": "all_zero",
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.52,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 3.7, "out": 3.7},
        "decoder_exactly_fixed_norm": False,
        "sparsity_include_decoder_norm": True,
        "use_glu_encoder": False,
        "init_decoder_norm": None,
        "init_encoder_norm": None,
        "init_encoder_with_decoder_transpose": True,
        "lp": 1,
        "l1_coefficient": 8e-05,
        "l1_coefficient_warmup_steps": 0.1,
        "top_k": 4,
        "k_warmup_steps": 0.1,
        "use_batch_norm_mse": True,
        "use_ghost_grads": False,
        "tp_size": 1,
        "ddp_size": 1,
        **changes,
    }
    (files / name).mkdir(parents=True)
    (files / name / "hyperparams.json").write_text(json.dumps(hyperparams, indent=4), encoding="utf-8")
    named = linear_names(tensors, encoder__bias="b_enc", decoder__bias="b_dec")
    write_safetensors(files / name / "checkpoints/final.safetensors", named, "bfloat16")
    return files / name


def lm_saes_2024_answer(folder: Path, definition: Plain, files: Path) -> dict[str, Array]:
    """Load a float32 copy with lm_saes of November 2024, encode and decode.

    It folds in the dtype of the file, so bfloat16 would be rounded again.
    """
    import tempfile

    import torch

    bare_package("lm_saes")  # its __init__ imports trainers
    from lm_saes.sae import SparseAutoEncoder
    from safetensors.torch import load_file as load_torch_file

    with tempfile.TemporaryDirectory() as copy:
        shutil.copy(folder / "hyperparams.json", copy)
        stored = load_torch_file(folder / "checkpoints/final.safetensors")
        write_safetensors(
            Path(copy) / "sae_weights.safetensors", {k: as_numpy(v) for k, v in stored.items()}
        )
        hyperparams = json.loads((folder / "hyperparams.json").read_text(encoding="utf-8"))
        (Path(copy) / "hyperparams.json").write_text(
            json.dumps({**hyperparams, "dtype": "torch.float32", "device": "cpu"}), encoding="utf-8"
        )
        sae = SparseAutoEncoder.from_pretrained(copy)
    x = definition.rows(seed_of(files))
    with torch.no_grad():
        latents = sae.encode(torch.from_numpy(x))
        return agreed(definition, x, latents, sae.decode(latents))


LM_SAES_2024 = "lm_saes, git b932639 of OpenMOSS/Language-Model-SAEs (2024-11)"


@case("llama_scope", "llama_scope", "residual")
def llama_scope_residual(files: Path) -> Golden:
    """Take b_enc/s and b_dec/s with s = √d / average norm, then fold decoder norms into the encoder.

    The threshold is in the units that this gives, so it stays.
    """
    tensors = draw(501, F=24, dtype="bfloat16")
    name = "Llama3_1-8B-Base-L3R-8x"
    folder = llama_scope_files(files, name, tensors)
    scale = math.sqrt(6) / 3.7
    definition = plain(norms_folded(tensors, scale, scale), activation="jumprelu", threshold=0.52)
    answer = lm_saes_2024_answer(folder, definition, files)
    return Golden(path=name, library=LM_SAES_2024, hook=HOOK, architecture="jumprelu", **answer)


@case("llama_scope", "llama_scope", "transcoder")
def llama_scope_transcoder(files: Path) -> Golden:
    """Input and output have different average norms.

    W_dec gains s_in/s_out before its norms are folded.
    """
    tensors = draw(502, F=24, dtype="bfloat16")
    name = "Llama3_1-8B-Base-L3TC-8x"
    hook = "blocks.3.ln2.hook_normalized"
    folder = llama_scope_files(
        files,
        name,
        tensors,
        hook_point_in=hook,
        hook_point_out="blocks.3.hook_mlp_out",
        dataset_average_activation_norm={"in": 4.6, "out": 1.3},
        jump_relu_threshold=0.21,
    )
    root = math.sqrt(6)
    folded = norms_folded(tensors, root / 4.6, root / 1.3)
    definition = plain(folded, activation="jumprelu", threshold=0.21)
    answer = lm_saes_2024_answer(folder, definition, files)
    return Golden(path=name, library=LM_SAES_2024, hook=hook, architecture="jumprelu", **answer)


@case("llama_scope", "llama_scope", "topk_with_threshold")
def llama_scope_topk(files: Path) -> Golden:
    """Although act_fn says topk, jump_relu_threshold > 0 makes it a JumpReLU.

    lm_saes announces that, and still takes the k largest.
    """
    tensors = draw(503, F=24, dtype="bfloat16")
    name = "Llama3_1-8B-Base-L3M-8x"
    hook = "blocks.3.hook_mlp_out"
    llama_scope_files(
        files,
        name,
        tensors,
        act_fn="topk",
        jump_relu_threshold=0.4,
        hook_point_in=hook,
        hook_point_out=hook,
    )
    scale = math.sqrt(6) / 3.7
    definition = plain(norms_folded(tensors, scale, scale), activation="jumprelu", threshold=0.4)
    source = "lm_saes 2024, with the JumpReLU that it announces for such files"
    return by_definition(source, definition, files, path=name, hook=hook, architecture="jumprelu")


LM_SAES_2025 = "lm_saes, git aeac157 of OpenMOSS/Language-Model-SAEs (2025-03)"
R1_FOLDER = "800M-Slimpajama-0-OpenR1-Math-220k/L3R"


def in_units_of_x(tensors: Mapping[str, Array], scale: float, scale_out: float, **options: Any) -> Plain:
    """Encode x·scale, so that latents stay in normalised units, and bring the reconstruction back."""
    core = {name: tensors[name].astype(np.float64) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    core["W_enc"] = core["W_enc"] * scale
    core["W_dec"] = core["W_dec"] / scale_out
    core["b_dec"] = core["b_dec"] / scale_out
    return plain(core, score_scale=decoder_norms(tensors), **options)


@case("llama_scope_r1", "llama_scope_r1", "r1_jumprelu")
def llama_scope_r1(files: Path) -> Golden:
    """The thresholds' logarithms are in the file; they gate pre-activation · decoder norm.

    All is in the units of x · √d / average norm; F = d · expansion_factor.
    """
    import types

    import torch

    bare_package("lm_saes")
    # The real module needs triton.
    sys.modules["lm_saes.kernels"] = types.SimpleNamespace(decode_with_triton_spmm_kernel=None)
    import lm_saes.sae

    lm_saes.sae.version = lambda _: "2.0.0"  # of a package that is not installed
    from lm_saes.config import SAEConfig

    tensors = draw(504, F=18)
    cfg = SAEConfig(
        hook_point_in=HOOK, d_model=6, expansion_factor=3, act_fn="jumprelu", dtype=torch.float32
    )
    sae = lm_saes.sae.SparseAutoEncoder(cfg)
    log_threshold = np.log(tensors["threshold"])
    names = linear_names(tensors, encoder__bias="b_enc", decoder__bias="b_dec")
    fill(sae, names | {"log_jumprelu_threshold": log_threshold})
    sae.set_dataset_average_activation_norm({HOOK: 3.7})
    folder = files / R1_FOLDER
    folder.mkdir(parents=True)
    sae.save_checkpoint(folder / "sae_weights.safetensors")
    cfg.save_hyperparameters(folder)
    sae = lm_saes.sae.SparseAutoEncoder.from_pretrained(str(folder), dtype=torch.float32)
    scale = math.sqrt(6) / 3.7
    threshold = np.exp(log_threshold.astype(np.float64))
    definition = in_units_of_x(tensors, scale, scale, activation="jumprelu", threshold=threshold)
    x = definition.rows(seed_of(files))
    with torch.no_grad():
        latents = sae.encode(torch.from_numpy(x))
        answer = agreed(definition, x, latents, sae.decode(latents) / scale)
    return Golden(path=R1_FOLDER, library=LM_SAES_2025, hook=HOOK, architecture="jumprelu", **answer)


@case("definitions", "llama_scope_r1", "r1_norm_given")
def llama_scope_r1_norm_given(files: Path) -> Golden:
    """The average norm is not in the file, so the caller gives s = √d / average norm."""
    tensors = draw(505, F=18)
    named = linear_names(tensors, encoder__bias="b_enc", decoder__bias="b_dec")
    log_threshold = np.log(tensors["threshold"])
    path = f"{R1_FOLDER}/sae_weights.safetensors"
    write_safetensors(files / path, named | {"log_jumprelu_threshold": log_threshold})
    config = {
        "sae_type": "sae",
        "hook_point_in": HOOK,
        "hook_point_out": HOOK,
        "d_model": 6,
        "expansion_factor": 3,
        "use_decoder_bias": True,
        "use_glu_encoder": False,
        "act_fn": "jumprelu",
        "apply_decoder_bias_to_pre_encoder": False,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "top_k": 50,
        "jumprelu_threshold_window": 2.0,
    }
    (files / R1_FOLDER / "config.json").write_text(json.dumps(config, indent=4), encoding="utf-8")
    threshold = np.exp(log_threshold.astype(np.float64))
    definition = in_units_of_x(tensors, 0.66, 0.66, activation="jumprelu", threshold=threshold)
    return by_definition(
        "lm_saes 2025",
        definition,
        files,
        path=R1_FOLDER,
        hook=HOOK,
        architecture="jumprelu",
        arguments={"norm_scale": 0.66},
    )


def llamascopium_case(
    files: Path,
    tensors: Mapping[str, Array],
    definition: Plain,
    *,
    architecture: Any,
    norms: Mapping[str, float],
    threshold: Array | None = None,
    hook_out: str = HOOK,
    **options: Any,
) -> Golden:
    """Let the current llamascopium save, load, normalise, encode, decode and denormalise."""
    import torch

    bare_package("llamascopium")
    bare_package("llamascopium.models")
    from llamascopium.models import sparse_dictionary
    from llamascopium.models.sae import SAEConfig, SparseAutoEncoder

    sparse_dictionary.version = lambda _: "2.0.0"  # of a package that is not installed
    d, F = tensors["W_enc"].shape
    cfg = SAEConfig(
        hook_point_in=HOOK, hook_point_out=hook_out, d_model=d, expansion_factor=F / d, **options
    )
    sae = SparseAutoEncoder(cfg)
    named = {
        "W_E": tensors["W_enc"],
        "b_E": tensors["b_enc"],
        "W_D": tensors["W_dec"],
        "b_D": tensors["b_dec"],
    }
    if threshold is not None:
        named["activation_function.log_jumprelu_threshold"] = threshold
    fill(sae, named)
    sae.set_dataset_average_activation_norm(dict(norms))
    folder = files / "L3R"
    sae.save_pretrained(folder)
    cfg.save_hyperparameters(folder)
    sae = SparseAutoEncoder.from_local(str(folder))
    x = definition.rows(seed_of(files))
    with torch.no_grad():
        # Only the scale of the output is used, so any activations will do for it.
        batch = {HOOK: torch.from_numpy(x), hook_out: torch.from_numpy(x)}
        normalised, scales = sae.normalize_activations(batch, return_scale_factor=True)
        latents = sae.encode(normalised[HOOK])
        answer = agreed(definition, x, latents, sae.decode(latents) / scales[hook_out])
    return Golden(
        path="L3R",
        library="llamascopium, git 95281ac of OpenMOSS/Language-Model-SAEs (2026-05)",
        hook=HOOK,
        architecture=architecture,
        **answer,
    )


@case("llamascopium", "llama_scope_r1", "jumprelu")
def llamascopium_jumprelu(files: Path) -> Golden:
    """W_E is (d, F), W_D (F, d); x is scaled by √d / the file's average norm.

    Latents stay in those units.
    """
    tensors = draw(506, F=18)
    log_threshold = np.log(tensors["threshold"])
    scale = math.sqrt(6) / 3.7
    threshold = np.exp(log_threshold.astype(np.float64))
    definition = in_units_of_x(tensors, scale, scale, activation="jumprelu", threshold=threshold)
    return llamascopium_case(
        files,
        tensors,
        definition,
        architecture="jumprelu",
        norms={HOOK: 3.7},
        threshold=log_threshold,
        act_fn="jumprelu",
    )


@case("llamascopium", "llama_scope_r1", "relu_transcoder")
def llamascopium_transcoder(files: Path) -> Golden:
    """Two hooks with their own average norms; d_in = d_out; without thresholds."""
    tensors = draw(507, F=15)
    out = "blocks.3.hook_mlp_out"
    root = math.sqrt(6)
    definition = in_units_of_x(tensors, root / 4.6, root / 1.3)
    norms = {HOOK: 4.6, out: 1.3}
    return llamascopium_case(
        files, tensors, definition, architecture="relu", norms=norms, hook_out=out, act_fn="relu"
    )


@case("llamascopium", "llama_scope_r1", "topk_token_wise")
def llamascopium_token_wise(files: Path) -> Golden:
    """Each row is scaled to norm √d; the average norm in the file means nothing here.

    The k largest are found after multiplication by decoder norms.
    """
    tensors = draw(508, F=18, even=True)
    definition = plain(
        tensors, activation="topk", k=4, norm="constant_norm", score_scale=decoder_norms(tensors)
    )
    return llamascopium_case(
        files,
        tensors,
        definition,
        architecture="topk",
        norms={HOOK: 12.5},
        act_fn="topk",
        top_k=4,
        norm_activation="token-wise",
    )


@case("llamascopium", "llama_scope_r1", "jumprelu_inference")
def llamascopium_inference(files: Path) -> Golden:
    """A norm_activation of "inference" scales nothing.

    Here thresholds are compared without the decoder norm.
    """
    tensors = draw(509, F=18)
    log_threshold = np.log(tensors["threshold"])
    threshold = np.exp(log_threshold.astype(np.float64))
    definition = plain(tensors, activation="jumprelu", threshold=threshold)
    return llamascopium_case(
        files,
        tensors,
        definition,
        architecture="jumprelu",
        norms={HOOK: 3.7},
        threshold=log_threshold,
        act_fn="jumprelu",
        norm_activation="inference",
        sparsity_include_decoder_norm=False,
    )


# ---- OpenAI


def openai_case(
    files: Path, path: str, tensors: Mapping[str, Array], definition: Plain, *, k: int, published: bool
) -> Golden:
    """Save the state dict of OpenAI's Autoencoder, load it again, encode and decode."""
    import torch
    from sparse_autoencoder.model import Autoencoder, TopK

    d, F = tensors["W_enc"].shape
    ae = Autoencoder(F, d, activation=TopK(k), normalize=True) if k else Autoencoder(F, d)
    named = linear_names(tensors, pre_bias="b_dec", latent_bias="b_enc")
    named["stats_last_nonzero"] = np.arange(F)
    named["latents_mean_square"] = tensors["threshold"]
    fill(ae, named)
    state = dict(ae.state_dict())
    if published:
        state = {name: value for name, value in state.items() if not name.startswith("activation.")}
    write_pt(files / path, state)
    ae = Autoencoder.from_state_dict(dict(state), strict=published)
    x = definition.rows(seed_of(files))
    with torch.no_grad():
        latents, info = ae.encode(torch.from_numpy(x))
        answer = agreed(definition, x, latents, ae.decode(latents, info))
    return Golden(
        path=path,
        library="openai/sparse_autoencoder, git 4965b94",
        architecture="topk" if k else "relu",
        **answer,
    )


@case("openai", "openai", "v5_topk")
def openai_topk(files: Path) -> Golden:
    """TopK goes with LayerNorm (mean off, unbiased std + 1e-5, both back on).

    pre_bias is subtracted; the keys are those of the published files.
    """
    tensors = draw(601, even=True)
    definition = plain(tensors, subtract_b_dec=True, norm="layer_norm", activation="topk", k=4)
    path = "gpt2-small/resid_post_mlp_v5_32k/autoencoders/5.pt"
    return openai_case(files, path, tensors, definition, k=4, published=True)


@case("openai", "openai", "v5_topk_torch_2")
def openai_topk_torch_2(files: Path) -> Golden:
    """What torch 2 writes: activation.k and activation.postact_fn stand among the tensors.

    activation_state_dict is there too.
    """
    tensors = draw(603, even=True)
    definition = plain(tensors, subtract_b_dec=True, norm="layer_norm", activation="topk", k=4)
    path = "gpt2-small/resid_delta_attn_v5_32k/autoencoders/5.pt"
    return openai_case(files, path, tensors, definition, k=4, published=False)


@case("openai", "openai", "v1_relu")
def openai_relu(files: Path) -> Golden:
    """ReLU goes without LayerNorm; pre_bias is subtracted."""
    tensors = draw(604)
    definition = plain(tensors, subtract_b_dec=True)
    path = "gpt2-small/mlp_post_act/autoencoders/5.pt"
    return openai_case(files, path, tensors, definition, k=0, published=True)


# ---- saev


def saev_case(
    files: Path,
    tensors: Mapping[str, Array],
    definition: Plain,
    activation: str,
    *,
    architecture: Any,
    **k: Any,
) -> Golden:
    """Let the current saev dump, load, encode and decode."""
    import torch
    from saev.nn import modeling

    d, F = tensors["W_enc"].shape
    modeling.__version__ = "0.1.0"
    cfg = modeling.SparseAutoencoderConfig(
        d_model=d, d_sae=F, activation=getattr(modeling, activation)(**k)
    )
    sae = modeling.SparseAutoencoder(cfg)
    named = only(tensors, "W_enc b_enc W_dec b_dec")
    if architecture == "jumprelu":
        named["activation.threshold"] = np.float32(definition.threshold)
    fill(sae, named)
    modeling.dump(files / "sae.pt", sae)
    sae = modeling.load(files / "sae.pt").eval()
    x = definition.rows(seed_of(files))
    with torch.no_grad():
        latents = sae.encode(torch.from_numpy(x)).f_x
        answer = agreed(definition, x, latents, sae.decode(latents)[:, -1])
    return Golden(
        path="sae.pt",
        library="saev, git 3d73f1f of OSU-NLP-Group/saev",
        architecture=architecture,
        **answer,
    )


@case("saev", "saev", "relu")
def saev_relu(files: Path) -> Golden:
    """The first line is JSON (schema 5), the rest a state dict; b_dec is not subtracted."""
    tensors = draw(701)
    return saev_case(files, tensors, plain(tensors), "Relu", architecture="relu")


@case("saev", "saev", "topk")
def saev_topk(files: Path) -> Golden:
    """The k largest stay even where they are negative: there is no ReLU."""
    tensors = draw(702, bias=-0.9, even=True)
    definition = plain(tensors, activation="topk_signed", k=5)
    return saev_case(files, tensors, definition, "TopK", architecture="topk", top_k=5)


@case("saev", "saev", "batch_topk")
def saev_batch_topk(files: Path) -> Golden:
    """The scalar activation.threshold is the gate, not top_k."""
    tensors = draw(703)
    definition = plain(tensors, activation="jumprelu", threshold=np.float32(0.4))
    return saev_case(files, tensors, definition, "BatchTopK", architecture="jumprelu", top_k=4)


def old_saev_golden(
    files: Path, sae: Any, tensors: Mapping[str, Array], nn: Any, *, library: str, **activation: Any
) -> Golden:
    """Let an old saev, which subtracted b_dec, write and read."""
    import torch

    fill(sae, only(tensors, "W_enc b_enc W_dec b_dec"))
    nn.dump(str(files / "sae.pt"), sae)
    definition = plain(tensors, subtract_b_dec=True, **activation)
    x = definition.rows(seed_of(files))
    with torch.no_grad():
        reconstruction, latents, *_ = nn.load(str(files / "sae.pt"))(torch.from_numpy(x))
    return Golden(
        path="sae.pt",
        library=library,
        architecture="topk" if activation else "relu",
        warns=True,
        **agreed(definition, x, latents, reconstruction),
    )


@case("saev_0_1", "saev", "pre_schema")
def saev_pre_schema(files: Path) -> Golden:
    """The header is the bare config (d_vit, exp_factor), without a schema.

    The library that wrote it subtracted b_dec; today's saev reads it and does not.
    """
    import saev.config
    import saev.nn

    tensors = draw(704, F=18)
    sae = saev.nn.SparseAutoencoder(saev.config.SparseAutoencoder(d_vit=6, exp_factor=3))
    return old_saev_golden(files, sae, tensors, saev.nn, library=f"saev {version('saev')}")


SAEV_2025_07 = "saev, git d991de3 of OSU-NLP-Group/saev (2025-07)"


@case("saev_2025_07", "saev", "schema_1_relu")
def saev_schema_1_relu(files: Path) -> Golden:
    """Schema 1: cls names the activation, cfg has d_vit.

    b_dec was subtracted then; today's saev cannot load a cfg with d_vit.
    """
    import saev.config
    from saev.nn import modeling

    tensors = draw(705, F=18)
    sae = modeling.SparseAutoencoder(saev.config.Relu(d_vit=6, exp_factor=3))
    return old_saev_golden(files, sae, tensors, modeling, library=SAEV_2025_07)


@case("saev_2025_07", "saev", "schema_1_topk")
def saev_schema_1_topk(files: Path) -> Golden:
    """Schema 1 with cls TopK and top_k in cfg; the k largest stay even where they are negative."""
    import saev.config
    from saev.nn import modeling

    tensors = draw(706, F=18, bias=-0.9, even=True)
    sae = modeling.SparseAutoencoder(saev.config.TopK(d_vit=6, exp_factor=3, top_k=5))
    return old_saev_golden(
        files, sae, tensors, modeling, library=SAEV_2025_07, activation="topk_signed", k=5
    )


# ---- Prisma

PRISMA = "vit-prisma, git aa5ff6a of Prisma-Multimodal/ViT-Prisma"


def prisma_case(
    files: Path,
    cls: str,
    names: Mapping[str, Array],
    definition: Plain,
    *,
    architecture: Any,
    **options: Any,
) -> Golden:
    """Save weights.pt and config.json with Prisma's own classes, encode and decode."""
    import torch

    bare_package("vit_prisma")
    bare_package("vit_prisma.sae")
    from vit_prisma.sae import sae as saes
    from vit_prisma.sae.config import VisionModelSAERunnerConfig
    from vit_prisma.sae.transcoder import Transcoder

    d, F = definition.W_enc.shape
    cfg = VisionModelSAERunnerConfig(
        d_in=d,
        expansion_factor=F // d,
        hook_point_layer=9,
        layer_subtype="hook_resid_post",
        architecture="gated" if architecture == "gated" else "standard",
        use_ghost_grads=False,
        log_to_wandb=False,
        _device="cpu",
        **options,
    )
    sae = Transcoder(cfg) if cls == "Transcoder" else getattr(saes, cls)(cfg)
    fill(sae, names)
    name = "sparse-autoencoder-clip-b-32-sae-tiny-layer-9-hook_resid_post"
    write_pt(files / name / "weights.pt", sae.state_dict())
    cfg.save_config(files / name / "config.json")
    sae = type(sae)(cfg)
    weights = torch.load(files / name / "weights.pt", weights_only=True)  # noqa: TID251 - as users do
    sae.load_state_dict(weights)
    x = definition.rows(seed_of(files))
    target = torch.zeros(len(x), definition.W_dec.shape[1])
    with torch.no_grad():
        given = torch.from_numpy(x)
        latents = sae.encode(given)[1]
        reconstruction = sae(given, y=target)[0]
        answer = agreed(definition, x, latents, reconstruction)
    return Golden(path=name, library=PRISMA, hook=cfg.hook_point, architecture=architecture, **answer)


@case("prisma", "prisma", "standard_relu")
def prisma_relu(files: Path) -> Golden:
    """Normalisation comes first, then b_dec is subtracted.

    d_sae is not in config.json: it is d_in · expansion_factor.
    """
    tensors = draw(801, F=18)
    definition = plain(tensors, subtract_b_dec=True, norm="layer_norm")
    names = only(tensors, "W_enc b_enc W_dec b_dec")
    return prisma_case(
        files,
        "StandardSparseAutoencoder",
        names,
        definition,
        architecture="relu",
        activation_fn_str="relu",
    )


@case("prisma", "prisma", "standard_topk")
def prisma_topk(files: Path) -> Golden:
    """Top-k with ReLU after LayerNorm; k is in activation_fn_kwargs."""
    tensors = draw(602, F=18, even=True)
    definition = plain(tensors, subtract_b_dec=True, norm="layer_norm", activation="topk", k=4)
    names = only(tensors, "W_enc b_enc W_dec b_dec")
    return prisma_case(
        files,
        "StandardSparseAutoencoder",
        names,
        definition,
        architecture="topk",
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 4},
    )


@case("prisma", "prisma", "standard_no_norm")
def prisma_no_norm(files: Path) -> Golden:
    """normalize_activations is "none"."""
    tensors = draw(803, F=18)
    definition = plain(tensors, subtract_b_dec=True)
    names = only(tensors, "W_enc b_enc W_dec b_dec")
    return prisma_case(
        files,
        "StandardSparseAutoencoder",
        names,
        definition,
        architecture="relu",
        activation_fn_str="relu",
        normalize_activations="none",
    )


@case("prisma", "prisma", "gated")
def prisma_gated(files: Path) -> Golden:
    """The file holds a b_enc that the gated SAE never uses."""
    tensors = draw(806, F=18, bias=0.0)
    definition = plain(
        tensors,
        subtract_b_dec=True,
        norm="layer_norm",
        activation="gated",
        r_mag=tensors["r_mag"],
        b_mag=tensors["b_mag"],
    )
    names = only(tensors, "W_enc W_dec b_dec r_mag b_mag")
    names |= {"b_gate": tensors["b_enc"], "b_enc": tensors["threshold"]}
    return prisma_case(
        files,
        "GatedSparseAutoencoder",
        names,
        definition,
        architecture="gated",
        activation_fn_str="relu",
    )


def prisma_transcoder_case(files: Path, seed: int, d_out: int, *, skip: bool) -> Golden:
    """Write one transcoder, whose b_dec (d_in) is subtracted and whose b_dec_out (d_out) is added."""
    tensors = draw(seed, F=18, d_out=d_out)
    b_pre = tensors["b_mag"][:6].copy()
    definition = plain(
        tensors,
        b_pre=b_pre,
        norm="layer_norm",
        undo_norm=True,
        skip=tensors["skip"] if skip else None,
        skip_inside=True,
    )
    names = only(tensors, "W_enc b_enc W_dec") | {"b_dec": b_pre, "b_dec_out": tensors["b_dec"]}
    if skip:
        names["W_skip"] = tensors["skip"].T
    return prisma_case(
        files,
        "Transcoder",
        names,
        definition,
        architecture="relu",
        activation_fn_str="relu",
        is_transcoder=True,
        transcoder_with_skip_connection=skip,
        d_out=d_out,
    )


@case("prisma", "prisma", "transcoder")
def prisma_transcoder(files: Path) -> Golden:
    """b_dec (d_in) is subtracted, b_dec_out (d_out) added.

    Then the INPUT's std and mean are put onto the output.
    """
    return prisma_transcoder_case(files, 805, 7, skip=False)


@case("prisma", "prisma", "skip_transcoder")
def prisma_skip_transcoder(files: Path) -> Golden:
    """W_skip (d_out, d_in) acts on the raw x; its output is added before the un-normalisation."""
    return prisma_transcoder_case(files, 806, 6, skip=True)


# ---- overcomplete


def overcomplete_case(
    files: Path,
    cls: str,
    tensors: Mapping[str, Array],
    definition: Plain,
    *,
    architecture: Any,
    arguments: dict[str, Any],
    threshold: float | None = None,
    **options: Any,
) -> Golden:
    """Save an SAE's state dict, load it into a new one, encode and decode.

    The library itself has no save function.
    """
    import importlib

    import torch

    bare_package("overcomplete")  # its __init__ imports timm, cv2, matplotlib
    bare_package("overcomplete.sae")
    base = importlib.import_module("overcomplete.sae.base")
    sys.modules["overcomplete.sae"].SAE = base.SAE
    module = {
        "SAE": "base",
        "TopKSAE": "topk_sae",
        "BatchTopKSAE": "batchtopk_sae",
        "JumpSAE": "jump_sae",
    }[cls]
    made = getattr(importlib.import_module(f"overcomplete.sae.{module}"), cls)
    d, F = tensors["W_enc"].shape
    sae = made(d, F, **options)
    named = {
        "encoder.final_block.0.weight": tensors["W_enc"].T,
        "encoder.final_block.0.bias": tensors["b_enc"],
        "dictionary._weights": tensors["W_dec"],
        "dictionary.multiplier": np.float32(0.3),
    }
    if cls == "JumpSAE":
        named["thresholds"] = np.log(tensors["threshold"])
    fill(sae, named)
    write_pt(files / "sae.pt", sae.state_dict())
    sae = made(d, F, **options)
    sae.load_state_dict(torch.load(files / "sae.pt", weights_only=True))  # noqa: TID251 - as users do
    if threshold is not None:
        sae.running_threshold = torch.tensor(threshold)
    with torch.no_grad():
        sae.eval()
        x = definition.rows(seed_of(files))
        latents = sae.encode(torch.from_numpy(x))[1]
        answer = agreed(definition, x, latents, sae.decode(latents))
    return Golden(
        path="sae.pt",
        library=f"overcomplete {version('overcomplete')}",
        architecture=architecture,
        arguments=arguments,
        warns=cls != "JumpSAE",
        **answer,
    )


def overcomplete_definition(tensors: Mapping[str, Array], **options: Any) -> Plain:
    """Normalise the dictionary to norm 1, the default, and multiply it by exp(multiplier).

    There is no b_dec.
    """
    directions = tensors["W_dec"].astype(np.float64) / decoder_norms(tensors)[:, None]
    changed = {
        **tensors,
        "W_dec": directions * np.exp(0.3),
        "b_dec": np.zeros(tensors["W_dec"].shape[1]),
    }
    return plain(changed, **options)


@case("overcomplete", "overcomplete", "relu")
def overcomplete_relu(files: Path) -> Golden:
    """dictionary._weights are scaled to norm 1 and by exp(multiplier) before use; no decoder bias."""
    tensors = draw(901)
    return overcomplete_case(
        files, "SAE", tensors, overcomplete_definition(tensors), architecture="relu", arguments={}
    )


@case("overcomplete", "overcomplete", "topk")
def overcomplete_topk(files: Path) -> Golden:
    """The state dict lacks k: the caller gives it; ReLU comes before the top-k."""
    tensors = draw(902, bias=-0.5, even=True)
    definition = overcomplete_definition(tensors, activation="topk", k=5)
    return overcomplete_case(
        files, "TopKSAE", tensors, definition, architecture="topk", arguments={"k": 5}, top_k=5
    )


@case("overcomplete", "overcomplete", "batch_topk")
def overcomplete_batch_topk(files: Path) -> Golden:
    """The running threshold is a plain attribute, lost in the state dict: the caller gives it."""
    tensors = draw(903)
    definition = overcomplete_definition(tensors, activation="jumprelu", threshold=0.4)
    arguments = {"threshold": 0.4}
    return overcomplete_case(
        files,
        "BatchTopKSAE",
        tensors,
        definition,
        architecture="jumprelu",
        arguments=arguments,
        threshold=0.4,
        top_k=4,
    )


@case("overcomplete", "overcomplete", "jumprelu")
def overcomplete_jumprelu(files: Path) -> Golden:
    """The thresholds are logarithms."""
    tensors = draw(904)
    threshold = np.exp(np.log(tensors["threshold"]).astype(np.float64))
    definition = overcomplete_definition(tensors, activation="jumprelu", threshold=threshold)
    return overcomplete_case(
        files, "JumpSAE", tensors, definition, architecture="jumprelu", arguments={}
    )


# ---- The command line


def check(folder: Path, answer: Callable[[Path, Any], tuple[Any, Any]]) -> int:
    """Let a library read each sub-folder and compare with ``expected.safetensors``; 1 if any differs."""
    import torch

    cases = sorted(path for path in folder.iterdir() if path.is_dir())
    bad = 0 if cases else 1
    for at in cases:
        try:
            expected = load_file(at / "expected.safetensors")
            configs = sorted(at.rglob("cfg.json"))
            if len(configs) != 1:
                raise FileNotFoundError(f"{len(configs)} files cfg.json, but expected one")  # noqa: TRY301
            with torch.no_grad():
                latents, reconstruction = answer(configs[0].parent, torch.from_numpy(expected["x"]))
        except Exception as error:  # noqa: BLE001 - whatever stops the library is the finding
            print(f"{at.name}: {type(error).__name__}: {' '.join(str(error).split())}")
            bad += 1
            continue
        gaps = [
            difference(as_numpy(latents), expected["latents"]),
            difference(as_numpy(reconstruction), expected["reconstruction"]),
        ]
        differs = not max(gaps) <= TOLERANCE  # NaN differs too
        bad += differs
        verdict = "DIFFERS" if differs else "ok"
        print(f"{at.name}: latents {gaps[0]:.1e}, reconstruction {gaps[1]:.1e}, {verdict}")
    print(f"{len(cases)} folders, {bad} bad" if cases else f"no folder in {folder}")
    return int(bad > 0)


def saelens_reads(folder: Path, x: Any) -> tuple[Any, Any]:
    """Encode and decode with SAELens, in float32 whatever the file holds."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder, dtype="float32")
    if sae.cfg.reshape_activations == "hook_z":  # it takes (…, heads, d_head) and joins the last two
        x = x.reshape(len(x), 2, -1)
        return sae.encode(x), sae(x).reshape(len(x), -1)
    return sae.encode(x), sae(x)


def main() -> int:
    """Run one library's cases, or let a library read what sae_features wrote."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", choices=[*CASES, "saelens-check", "sparsify-check"])
    parser.add_argument("folder", nargs="?", type=Path, help="with a check: where the SAEs are")
    parser.add_argument("--out", type=Path, default=Path("tests/golden"))
    parser.add_argument("--only", help="a single case")
    parser.add_argument("--source", type=Path, help="folder of a git checkout to import from")
    options = parser.parse_args()
    if options.library.endswith("-check"):
        readers = {"saelens-check": saelens_reads, "sparsify-check": sparsify_reads}
        if options.folder is None:
            parser.error("a check needs the folder that holds the SAEs")
        return check(options.folder, readers[options.library])
    if options.source is not None:
        sys.path.insert(0, str(options.source))
    for case in CASES[options.library]:
        if options.only in (None, case.name):
            write_case(case, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
