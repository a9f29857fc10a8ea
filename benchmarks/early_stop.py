"""What stopping after a block costs, as a share of the whole model's run, interleaved in one process.

python benchmarks/early_stop.py [--models e5 dinov2-small smollm2 minilm] [--rounds 9] [--json FILE]

Both run the same batch of the same model: ``whole`` calls it as transformers does (without a language
modelling head), a stop reads ``resid_post`` of a block.  Its floor is its share of the blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_features import load_backbone
from sae_features.backbones.hooks import read_points
from sae_features.datasets import load_movie_snippets
from sae_features.hook_point import HookPoint
from sae_features.items import check_items

MODELS = ("e5", "dinov2-small", "minilm", "smollm2")
N_ITEMS = 16


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row for name in options.models for row in measure(name, options.rounds)]
    print(
        f"{'model':14}{'stop after block':>18}{'share of blocks':>17}{'share of time':>15}{'spread':>16}"
    )
    for row in rows:
        spread = f"{row['min']:.3f}–{row['max']:.3f}"
        where = f"{row['layer']} of {row['n_layers']}"
        print(f"{row['model']:14}{where:>18}{row['blocks']:17.3f}{row['ratio']:15.3f}{spread:>16}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return the ratio of time for several stops of a model; blocks are counted from 0."""
    backbone = load_backbone(name)
    modality = backbone.architecture.modalities[0]
    inputs = inputs_of(backbone, modality)
    layers = sorted({backbone.n_layers // 4 - 1, backbone.n_layers // 4, backbone.n_layers // 2})
    ways: dict[str, Any] = {"whole": lambda: whole(backbone, inputs)}
    for layer in layers:
        taps = {HookPoint(layer): backbone.stack.tap(HookPoint(layer))}
        ways[str(layer)] = lambda taps=taps: read_points(backbone.model, taps, inputs)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):  # the first round warms up
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[way].append(time.perf_counter() - started)
    rows = []
    for layer in layers:
        ratios = [s / w for s, w in zip(seconds[str(layer)], seconds["whole"], strict=True)]
        rows.append({
            "model": name, "layer": layer, "n_layers": backbone.n_layers,
            "blocks": (layer + 1) / backbone.n_layers, "ratio": statistics.median(ratios),
            "min": min(ratios), "max": max(ratios), "whole_s": statistics.median(seconds["whole"]),
        })  # fmt: skip
    return rows


def whole(backbone: Any, inputs: dict[str, Any]) -> None:
    """Run the model as it is."""
    with torch.inference_mode():
        backbone.model(**inputs)


def inputs_of(backbone: Any, modality: str) -> dict[str, Any]:
    """Return a batch of what the model takes."""
    if modality == "image":
        generator = np.random.default_rng(0)
        items: Any = list(generator.integers(0, 256, (N_ITEMS, 224, 224, 3)).astype(np.uint8))
    else:
        snippets = load_movie_snippets().data
        items = [" ".join(snippets[3 * i : 3 * i + 3]) for i in range(N_ITEMS)]
    windows = backbone.windows(check_items(items, (modality,)), backbone.token_policy(modality))
    return backbone.inputs[modality].model_inputs(windows, np.arange(len(windows)), None)


if __name__ == "__main__":
    main()
