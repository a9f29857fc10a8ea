"""What SAEFeaturizer costs over the bare backbone, on a model and its default SAE, in one run.

python benchmarks/extraction_floor.py [--model minilm] [--items 400] [--rounds 5] [--json FILE]

floor        the backbone alone: sorted by length, right-sized batches, stopped after the layer
floor + GEMM the same and one product of the content tokens with the SAE's encoder
ours         SAEFeaturizer, from texts or images to CSR rows, nothing cached
naive        transformers' whole model, batches of 32 as they come, dense (batch, tokens, latents)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_features import SAEFeaturizer, load_backbone, load_sae
from sae_features.datasets import load_movie_snippets
from sae_features.images import check_images
from sae_features.items import check_items
from sae_features.targets import Request, resolve_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_features.hook_point import HookPoint

MAX_LENGTH = 256


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="minilm", help="one with a default SAE")
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    target = resolve_target(Request(options.model), with_sae=True)
    modality = target.model.modalities[0]
    items = items_of(modality, options.items)
    backbone = load_backbone(options.model)
    sae = load_sae(target.sae.name if target.sae else "", decoder=False)
    contenders = contenders_of(options.model, items, backbone, sae, target.point)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(options.rounds + 1):  # the first round warms up
        for name in names[turn % 4 :] + names[: turn % 4]:
            started = time.perf_counter()
            with torch.inference_mode():
                contenders[name]()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    policy = policy_of(backbone, modality)
    n_tokens = int(backbone.windows(check_items(items, (modality,)), policy).counts.sum())
    rows = {
        name: {
            "median_s": statistics.median(times),
            "ratio": statistics.median(t / f for t, f in zip(times, seconds["floor"], strict=True)),
            "tokens_per_s": n_tokens / statistics.median(times),
        }
        for name, times in seconds.items()
    }
    print(f"{options.model}, {target.point}: {len(items)} {modality}s, {n_tokens:,} content tokens, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    print(f"{'':14}{'median s':>10}{'ratio':>8}{'tokens/s':>10}")
    for name, row in rows.items():
        print(f"{name:14}{row['median_s']:10.2f}{row['ratio']:8.2f}{row['tokens_per_s']:10,.0f}")
    if options.json:
        options.json.write_text(json.dumps({"model": options.model, "rows": rows}, indent=2) + "\n")


def contenders_of(
    model: str, items: list[Any], backbone: Any, sae: Any, point: HookPoint
) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    modality = backbone.architecture.modalities[0]
    policy = policy_of(backbone, modality)
    limits = {"max_length": MAX_LENGTH} if modality == "text" else {}

    def floor(*, gemm: bool = False) -> None:
        windows = backbone.windows(check_items(items, (modality,)), policy)
        for batch in backbone.run(windows, [point]):
            if gemm:
                batch.values[point] @ sae.W_enc

    def naive() -> None:
        for start in range(0, len(items), 32):
            inputs, mask = whole_inputs(backbone, modality, items[start : start + 32])
            hidden = backbone.model(**inputs, output_hidden_states=True).hidden_states[point.layer + 1]
            latents = sae.encode(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            if mask is not None:
                latents.masked_fill_(~mask.bool()[..., None], 0)
            latents.amax(dim=1)

    return {
        "floor": floor,
        "floor + GEMM": lambda: floor(gemm=True),
        "ours": lambda: SAEFeaturizer(model, cache=False, **limits).transform(items),
        "naive": naive,
    }


def policy_of(backbone: Any, modality: str) -> Any:
    """Return which tokens count, and how many there may be."""
    return backbone.token_policy(modality, max_length=MAX_LENGTH if modality == "text" else None)


def whole_inputs(backbone: Any, modality: str, items: list[Any]) -> tuple[Any, Any]:
    """Return what transformers makes of some items, and which tokens are no padding."""
    if modality == "image":
        opened = [picture.open() for picture in check_images(items)]
        return {"pixel_values": backbone.inputs["image"].pixels.values(opened)}, None
    inputs = backbone.tokenizer(
        items, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    )
    return inputs, inputs["attention_mask"]


def items_of(modality: str, n: int) -> list[Any]:
    """Return texts of very different lengths, or pictures."""
    if modality == "image":
        generator = np.random.default_rng(0)
        return list(generator.integers(0, 256, (n, 250, 250, 3)).astype(np.uint8))
    snippets = load_movie_snippets().data
    return [" ".join(snippets[i : i + 1 + i % 5]) for i in range(n)]


if __name__ == "__main__":
    main()
