"""What ``extraction.py`` compares: workloads, their SAEs, and the ways from items to features.

A way is made for some items before the clock starts and then run without arguments.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from measuring import corpus, pictures
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from sae_features import (
    SAEFeaturizer,
    SparseAutoencoder,
    load_backbone,
    load_sae,
    once,
    pooled_rows,
)
from sae_features.backbones import backbone as backbone_module
from sae_features.hook_point import HookPoint
from sae_features.images import check_images
from sae_features.items import check_items
from sae_features.models import find_model
from sae_features.store import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

MEAN_L0 = 64
EXPANSION = 16
NAIVE_BATCH = 32
PUBLISHED_BATCH = 2
SAMPLE = 100
"""Items that SAEs are calibrated on; none of them is measured."""
SAMPLE_TOKENS = 8192
GEMM_ROWS = (256, 512, 1024, 4096)
KINDS = ("relu", "jumprelu", "topk", "uncalibrated")
ENCODERS = {"uncalibrated": "ReLU, uncalibrated", "relu": "ReLU", "jumprelu": "JumpReLU", "topk": "TopK"}


@dataclass(frozen=True)
class Workload:
    """A model read at a layer, and items for it."""

    name: str
    model: str
    layer: int
    n_items: int
    shortest: int | None = None
    """Least number of tokens of a text; None for images."""
    longest: int | None = None
    has_head: bool = False
    """Whether the published way runs a language modelling head, too."""

    @property
    def modality(self) -> str:
        """What the items are."""
        return "image" if self.longest is None else "text"

    @property
    def limits(self) -> dict[str, Any]:
        """What the featurizer is told of the length."""
        return {} if self.longest is None else {"max_length": self.longest}


WORKLOADS = {
    "W1": Workload("W1", "smollm2", layer=10, n_items=400, shortest=128, longest=128, has_head=True),
    "W2": Workload("W2", "minilm", layer=3, n_items=1000, shortest=10, longest=256),
    "W3": Workload("W3", "dinov2-small", layer=8, n_items=200),
}


def prepare(work: Workload, folder: Path, data: Path | None) -> dict[str, Any]:
    """Write items and SAEs of a workload to a folder, and return what they are like."""
    backbone = load_backbone(work.model)
    if work.modality == "image":
        files, _ = pictures(data, "test")
        held_out, _ = pictures(data, "train")
        items, sample = files[: work.n_items], held_out[:SAMPLE]
    else:
        texts, _ = corpus("bbc", data)
        lengths = spread_lengths(work, work.n_items + SAMPLE)
        pieces = cut_texts(backbone.tokenizer, texts, lengths)
        items, sample = pieces[: work.n_items], pieces[work.n_items :]
    if len(items) < work.n_items or not sample:
        raise SystemExit(f"{work.name} needs {work.n_items} items; there are {len(items)}.")
    (folder / "items.json").write_text(json.dumps(items), encoding="utf-8")
    read = backbone.activations(sample, layer=work.layer, **work.limits).values
    chosen = np.random.default_rng(0).permutation(len(read))[:SAMPLE_TOKENS]
    fired = write_saes(folder, torch.from_numpy(read[chosen]), HookPoint(work.layer))
    setup = Setup(work, folder)
    windows = setup.windows("float32", items)
    return {
        **dataclasses.asdict(work),
        "n_latents": setup.sae("relu").n_latents,
        "tokens": int(windows.lengths.sum()),
        "content_tokens": int(windows.counts.sum()),
        "latents_per_token": fired,
    }


def spread_lengths(work: Workload, n: int) -> list[int]:
    """Return lengths that are spread evenly over those of a workload, in random order."""
    lengths = np.linspace(work.shortest or 0, work.longest or 0, n).round().astype(int).tolist()
    random.Random(0).shuffle(lengths)
    return lengths


def cut_texts(tokenizer: Any, texts: Sequence[str], lengths: Sequence[int]) -> list[str]:
    """Return beginnings of different texts that have exactly so many tokens, special ones included."""
    n_special = len(tokenizer("")["input_ids"])
    pieces: dict[str, None] = {}
    for text in texts:
        if len(pieces) == len(lengths):
            break
        wanted = lengths[len(pieces)]
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )  # the whole of it, so that only texts that are long enough are cut
        if len(encoded["input_ids"]) < wanted - n_special:
            continue
        piece = text[: encoded["offset_mapping"][wanted - n_special - 1][1]]
        if len(tokenizer(piece)["input_ids"]) == wanted:
            pieces[piece] = None
    return list(pieces)


def write_saes(folder: Path, activations: torch.Tensor, point: HookPoint) -> dict[str, dict[str, float]]:
    """Write SAEs of random directions; return how many latents of a token fire, on held-out tokens.

    Each latent of ``relu`` and ``jumprelu`` fires at the same share of the tokens of a sample, so that
    64 of a token's fire on average; ``uncalibrated`` has no biases: about half of all fire.
    """
    d = activations.shape[1]
    n_latents = EXPANSION * d
    W_enc = torch.randn(d, n_latents, generator=torch.Generator().manual_seed(0))
    W_enc /= W_enc.norm(dim=0)
    b_dec = activations.mean(0)
    seen, unseen = activations[::2], activations[1::2]
    rank = max(1, round(MEAN_L0 / n_latents * len(seen)))
    columns = torch.split(W_enc, 1024, dim=1)
    bounds = torch.cat([((seen - b_dec) @ block).topk(rank + 1, dim=0).values[-1] for block in columns])
    zeros = torch.zeros(n_latents)
    common: dict[str, Any] = {"W_enc": W_enc, "b_dec": b_dec, "W_dec": W_enc.T.contiguous()}
    common["hook_point"] = point
    saes = {
        "relu": SparseAutoencoder("relu", b_enc=-bounds, **common),
        "jumprelu": SparseAutoencoder("jumprelu", b_enc=zeros, threshold=bounds.clamp(min=0), **common),
        "topk": SparseAutoencoder("topk", b_enc=zeros, k=MEAN_L0, **common),
        "uncalibrated": SparseAutoencoder("relu", b_enc=zeros, **common),
    }
    fired = {}
    for kind, sae in saes.items():
        sae.save(folder / kind)
        counts = sae.encode_sparse(unseen[:2048]).counts.float()
        median, most = counts.quantile(torch.tensor([0.5, 0.99])).tolist()
        fired[kind] = {"mean": counts.mean().item(), "median": median, "p99": most}
    return fired


class Setup:
    """Items, weights and windows of a workload; loaded when they are first used.

    Parameters
    ----------
    work : Workload
    folder : Path
        What :func:`prepare` wrote.
    """

    def __init__(self, work: Workload, folder: Path) -> None:
        self.work = work
        self.folder = folder
        self.point = HookPoint(work.layer)
        self._saes: dict[tuple[str, str], SparseAutoencoder] = {}

    @functools.cached_property
    def items(self) -> list[str]:
        """Texts, or paths of pictures."""
        found: list[str] = json.loads((self.folder / "items.json").read_text(encoding="utf-8"))
        return found

    def backbone(self, dtype: str = "float32") -> Any:
        """Return the backbone, shared with the featurizer."""
        return load_backbone(self.work.model, dtype=dtype)

    def sae(self, kind: str, dtype: str = "float32") -> SparseAutoencoder:
        """Return an SAE without its decoder."""
        if (kind, dtype) not in self._saes:
            self._saes[kind, dtype] = load_sae(self.folder / kind, decoder=False, dtype=dtype)
        return self._saes[kind, dtype]

    def windows(self, dtype: str, items: Sequence[str]) -> Any:
        """Return the windows of items."""
        backbone = self.backbone(dtype)
        policy = backbone.token_policy(self.work.modality, **self.work.limits)
        return backbone.windows(check_items(items, (self.work.modality,)), policy)

    def featurizer(self, kind: str, pooling: str, **options: Any) -> SAEFeaturizer:
        """Return what a user would write."""
        return SAEFeaturizer(
            self.work.model,
            layer=self.work.layer,
            sae=str(self.folder / kind),
            pooling=pooling,
            **self.work.limits,
            **options,
        )

    def whole_inputs(self, items: Sequence[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Return what transformers makes of some items, and which tokens are no padding."""
        backbone = self.backbone()
        if self.work.modality == "image":
            opened = [picture.open() for picture in check_images(items)]
            return {"pixel_values": backbone.inputs["image"].pixels.values(opened)}, None
        inputs = backbone.tokenizer(
            list(items), padding=True, truncation=True, max_length=self.work.longest, return_tensors="pt"
        )
        return dict(inputs), inputs["attention_mask"].bool()


@dataclass(frozen=True)
class Contender:
    """A way from items to features.

    Attributes
    ----------
    make : callable
        Prepares, for a setup and items, what is timed.
    like : str, optional
        The contender whose rows these should be.
    reset : callable, optional
        Called before each run, outside the clock.
    """

    make: Callable[[Setup, Sequence[str]], Callable[[], Any]]
    like: str | None = None
    reset: Callable[[], object] | None = None


def floor(
    setup: Setup, items: Sequence[str], *, dtype: str = "float32", gemm: bool = False
) -> Callable[[], Any]:
    """Run the backbone alone, tokenised beforehand; maybe multiply by the encoder's weights, too."""
    windows, backbone = setup.windows(dtype, items), setup.backbone(dtype)
    product = Product(setup.sae("relu", dtype).W_enc) if gemm else None

    def run() -> None:
        for batch in backbone.run(windows, [setup.point]):
            if product:
                product(batch.values[setup.point])

    return run


@functools.cache
def best_rows(d: int, n_latents: int, dtype: torch.dtype) -> int:
    """Return how many rows at a time are multiplied fastest."""
    x, W = torch.randn(GEMM_ROWS[-1], d).to(dtype), torch.randn(d, n_latents).to(dtype)
    seconds = {}
    for rows in GEMM_ROWS:
        out = torch.empty(rows, n_latents, dtype=dtype)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            for block in torch.split(x, rows):
                torch.mm(block, W, out=out)
            times.append(time.perf_counter() - started)
        seconds[rows] = min(times)
    return min(seconds, key=seconds.__getitem__)


class Product:
    """The encoder's product and nothing else: into one buffer, so many rows at a time as is best."""

    def __init__(self, W_enc: torch.Tensor) -> None:
        self.W_enc = W_enc
        self.rows = best_rows(*W_enc.shape, W_enc.dtype)
        self.out = torch.zeros(self.rows, W_enc.shape[1], dtype=W_enc.dtype)  # its pages are touched

    def __call__(self, values: torch.Tensor) -> None:
        """Multiply."""
        for block in torch.split(values.to(self.W_enc.dtype), self.rows):
            torch.mm(block, self.W_enc, out=self.out[: len(block)])


def whole_floor(setup: Setup, items: Sequence[str]) -> Callable[[], Any]:
    """Run the floor, but the model to its end."""
    return changed(floor(setup, items), read_points=_to_the_end)


def unsorted_floor(setup: Setup, items: Sequence[str]) -> Callable[[], Any]:
    """Run the floor, but in batches of 32 in the order given."""
    return changed(floor(setup, items), batches_of=_as_given)


def ours(
    setup: Setup, items: Sequence[str], *, kind: str = "relu", pooling: str = "max", **options: Any
) -> Callable[[], Any]:
    """Run the featurizer, from texts or paths to rows."""
    featurizer = setup.featurizer(kind, pooling, **{"cache": False, **options})
    return lambda: featurizer.transform(items)


def ours_whole(setup: Setup, items: Sequence[str]) -> Callable[[], Any]:
    """Run the featurizer, but the model to its end."""
    return changed(ours(setup, items), read_points=_to_the_end)


def ours_unsorted(setup: Setup, items: Sequence[str]) -> Callable[[], Any]:
    """Run the featurizer, but in batches of 32 in the order given."""
    run = changed(ours(setup, items), batches_of=_as_given)
    return changed(run, once, cost_of=_alike)  # the featurizer sorts before it tokenises, too


def ours_dense(setup: Setup, items: Sequence[str]) -> Callable[[], Any]:
    """Do what the featurizer does, but with a dense array of a batch's latents."""
    backbone, sae = setup.backbone(), setup.sae("relu")

    def run() -> sp.csr_matrix:
        windows = setup.windows("float32", items)
        rows = np.empty(len(windows), object)
        for batch in backbone.run(windows, [setup.point]):
            latents = sae.encode(batch.values[setup.point])
            pieces = torch.split(latents, batch.lengths[setup.point].tolist())
            for window, piece in zip(batch.windows, pieces, strict=True):
                rows[window] = sp.csr_matrix(piece.amax(0).numpy()[None])
        return sp.vstack(rows.tolist(), format="csr")

    return run


def published(setup: Setup, items: Sequence[str]) -> Callable[[], Any]:
    """Do as the published pipeline: two at a time, the whole model, every token, summed.

    It writes each sample's activations to a file of its own between the steps; that is left out.
    """
    sae = setup.sae("relu")
    model = language_model(setup.work.model) if setup.work.has_head else setup.backbone().model
    layer = setup.work.layer + 1

    def run() -> np.ndarray:
        rows = []
        for start in range(0, len(items), PUBLISHED_BATCH):
            inputs, _ = setup.whole_inputs(items[start : start + PUBLISHED_BATCH])
            hidden = model(**inputs, output_hidden_states=True).hidden_states[layer]
            rows += [sae.encode(tokens).sum(0).numpy() for tokens in hidden]
        return np.stack(rows)

    return run


@functools.cache
def language_model(name: str) -> Any:
    """Return a model with its head."""
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(find_model(name).folder, dtype=torch.float32)
    return model.eval().requires_grad_(requires_grad=False)


def plain(setup: Setup, items: Sequence[str]) -> Callable[[], Any]:
    """Run transformers' whole model without a head, 32 as they come, dense latents, masked maximum."""
    sae, model = setup.sae("relu"), setup.backbone().model
    layer = setup.work.layer + 1

    def run() -> np.ndarray:
        rows = []
        for start in range(0, len(items), NAIVE_BATCH):
            inputs, mask = setup.whole_inputs(items[start : start + NAIVE_BATCH])
            hidden = model(**inputs, output_hidden_states=True).hidden_states[layer]
            latents = sae.encode(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            rows.append(masked_max(latents, mask))
        return np.concatenate(rows)

    return run


def sae_lens(setup: Setup, items: Sequence[str]) -> Callable[[], Any]:
    """Let sae-lens encode, dense, what our early stop reads of 32 items as they come."""
    from sae_lens import SAE

    folder = setup.folder / "saelens"
    if not folder.exists():
        load_sae(setup.folder / "relu").save(folder, format="saelens")
    sae, backbone = SAE.load_from_disk(folder), setup.backbone()
    taps = {setup.point: backbone.stack.tap(setup.point)}

    def run() -> np.ndarray:
        rows = []
        for start in range(0, len(items), NAIVE_BATCH):
            inputs, mask = setup.whole_inputs(items[start : start + NAIVE_BATCH])
            read, _ = backbone_module.read_points(backbone.model, taps, inputs)
            rows.append(masked_max(sae.encode(read[setup.point]), mask))
        return np.concatenate(rows)

    return run


def masked_max(latents: torch.Tensor, mask: torch.Tensor | None) -> np.ndarray:
    """Return the maximum over the tokens that are no padding; latents are never negative."""
    if mask is not None:
        latents = latents.masked_fill_(~mask[..., None], 0)
    found: np.ndarray = latents.amax(dim=1).numpy()
    return found


def changed(
    run: Callable[[], Any], module: ModuleType = backbone_module, **functions: Callable[..., Any]
) -> Callable[[], Any]:
    """Return what runs with functions of a module replaced; they are given the original first."""

    def replaced() -> Any:
        originals = {name: getattr(module, name) for name in functions}
        try:
            for name, function in functions.items():
                setattr(module, name, functools.partial(function, originals[name]))
            return run()
        finally:
            for name, original in originals.items():
                setattr(module, name, original)

    return replaced


def _to_the_end(original: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return original(*args, **{**options, "to_the_end": True})


def _as_given(
    original: Callable[..., Any],  # noqa: ARG001 it is not called
    windows: Any,  # noqa: ARG001
    runs: np.ndarray,
    *_: Any,
    **__: Any,
) -> Iterator[np.ndarray]:
    order = np.flatnonzero(runs)
    yield from (order[start : start + NAIVE_BATCH] for start in range(0, len(order), NAIVE_BATCH))


def _alike(original: Callable[..., int], item: Any) -> int:  # noqa: ARG001
    return 1000


def forget() -> None:
    """Empty what this process keeps of items."""
    memory.SHARED.clear()
    pooled_rows.DERIVED.clear()


def contenders() -> dict[str, Contender]:
    """Return what is compared, by name; sae-lens' way where it is installed."""
    way, bf16 = functools.partial, "bfloat16"
    found = {
        "floor": Contender(floor),
        "floor + GEMM": Contender(way(floor, gemm=True)),
    }
    for kind, label in ENCODERS.items():
        for pooling in ("max", "sum"):
            run = way(ours, kind=kind, pooling=pooling)
            found[f"ours, {label}, {pooling}"] = Contender(run)
    found |= {
        "ours, ReLU, max, default cache": Contender(
            way(ours, cache=None), like="ours, ReLU, max", reset=forget
        ),
        "floor, bf16": Contender(way(floor, dtype=bf16)),
        "floor + GEMM, bf16": Contender(way(floor, dtype=bf16, gemm=True)),
    }
    for kind, pooling in (("relu", "max"), ("relu", "sum"), ("jumprelu", "max"), ("topk", "max")):
        run = way(ours, kind=kind, pooling=pooling, dtype=bf16)
        name = f"ours, {ENCODERS[kind]}, {pooling}"
        found[f"{name}, bf16"] = Contender(run, like=name)
    found |= {
        "floor, whole model": Contender(whole_floor),
        "floor, unsorted": Contender(unsorted_floor),
        "ours, whole model": Contender(ours_whole, like="ours, ReLU, max"),
        "ours, unsorted": Contender(ours_unsorted, like="ours, ReLU, max"),
        "ours, dense": Contender(ours_dense, like="ours, ReLU, max"),
        "published way": Contender(published),
        "plain transformers": Contender(plain),
    }
    if importlib.util.find_spec("sae_lens"):
        found["sae-lens"] = Contender(sae_lens, like="plain transformers")
    return found
