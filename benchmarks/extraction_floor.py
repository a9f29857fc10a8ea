"""What SAEFeaturizer costs over the bare backbone, on MiniLM up to layer 3, interleaved in one run.

python benchmarks/extraction_floor.py [--texts 400] [--rounds 5] [--json FILE]

floor        the backbone alone: sorted by length, right-sized batches, stopped after the layer
floor + GEMM the same and one product of the content tokens with an encoder of 4,096 latents
ours         SAEFeaturizer, from texts to CSR rows, nothing cached
naive        transformers' whole model, batches of 32 as they come, dense (batch, tokens, latents)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sae_features import SAEFeaturizer, load_backbone, load_sae
from sae_features.datasets import load_movie_snippets
from sae_features.hook_point import HookPoint
from sae_features.items import Items

if TYPE_CHECKING:
    from collections.abc import Callable

LAYER = 3


def main() -> None:  # noqa: C901 a script: the contenders stand where they are timed
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    snippets = load_movie_snippets().data
    texts = [" ".join(snippets[i : i + 1 + i % 5]) for i in range(options.texts)]
    backbone = load_backbone("minilm")
    sae = load_sae(f"minilm-topk-4k/layer_{LAYER}")
    policy = backbone.token_policy(max_length=256)
    n_tokens = sum(int(mask.sum()) for mask in backbone.windows(Items("text", texts), policy).counted)

    def floor(*, gemm: bool = False) -> None:
        for batch in backbone.run(backbone.windows(Items("text", texts), policy), [HookPoint(LAYER)]):
            if gemm:
                batch.values[HookPoint(LAYER)] @ sae.W_enc

    def naive() -> None:
        for start in range(0, len(texts), 32):
            inputs = backbone.tokenizer(
                texts[start : start + 32],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            hidden = backbone.model(**inputs, output_hidden_states=True).hidden_states[LAYER + 1]
            latents = sae.encode(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            latents.masked_fill_(~inputs["attention_mask"].bool()[..., None], 0).amax(dim=1)

    contenders: dict[str, Callable[[], object]] = {
        "floor": floor,
        "floor + GEMM": lambda: floor(gemm=True),
        "ours": lambda: SAEFeaturizer(cache=False).transform(texts),
        "naive": naive,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(options.rounds + 1):  # the first round warms up
        for name in names[turn % 4 :] + names[: turn % 4]:
            started = time.perf_counter()
            with torch.inference_mode():
                contenders[name]()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    rows = {
        name: {
            "median_s": statistics.median(times),
            "ratio": statistics.median(t / f for t, f in zip(times, seconds["floor"], strict=True)),
            "tokens_per_s": n_tokens / statistics.median(times),
        }
        for name, times in seconds.items()
    }
    print(f"{len(texts)} texts, {n_tokens:,} content tokens, {torch.get_num_threads()} threads")
    print(f"{'':14}{'median s':>10}{'ratio':>8}{'tokens/s':>10}")
    for name, row in rows.items():
        print(f"{name:14}{row['median_s']:10.2f}{row['ratio']:8.2f}{row['tokens_per_s']:10,.0f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
