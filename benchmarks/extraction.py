"""What extraction costs beside its floor and beside other ways, interleaved in one process.

python benchmarks/extraction.py [--workloads W1 W2 W3] [--rounds 5] [--threads 1] [--only WORDS …]
    [--memory [N]] [--f1] [--scale 1.0] [--data DIR] [--json FILE]

Workloads, each with an SAE 16 times as wide as the model:
W1  smollm2, block 10 of 30, 400 BBC texts of 128 tokens
W2  minilm, block 3 of 6, 1,000 BBC texts of 10 to 256 tokens, in random order
W3  dinov2-small, block 8 of 12, 200 pictures of textile; all ways decode the files, the floor too

The SAEs' directions are random.  Those of ReLU and JumpReLU are calibrated on held-out items so that 64
latents of a token fire on average, TopK has k=64; in the uncalibrated one about half of all fire.

floor                  the backbone alone: tokenised before the clock starts, sorted by length, batches
                       of 4,096 tokens, stopped after the block
floor + GEMM           the same and the product of the counted tokens with the encoder's weights, into
                       one buffer whose pages were touched, the fastest number of rows at a time
ours, …                SAEFeaturizer(cache=False).transform, from texts or files to CSR rows
…, default cache       the same with cache=None, nothing kept from before
…, bf16                dtype="bfloat16": floor, product and featurizer; "cosine" is that of its rows to
                       float32's, mean and least over the items
floor/ours, whole …    early stop alone undone: the model runs to its end
floor/ours, unsorted   sorting alone undone: batches of 32 in the order given
ours, dense            fusing alone undone: dense latents of a batch's counted tokens, then their maximum
published way          two texts at a time in the order given, padded to the longer one; whole model,
                       with its head where there is one (smollm2), output_hidden_states; dense latents of
                       every token, padding too; summed
plain transformers     32 at a time in the order given; whole model without a head, output_hidden_states;
                       dense latents of every token, maximum over those that are no padding
sae-lens               where it is installed: our early stop, 32 at a time in the order given; sae-lens'
                       SAE.encode, dense, maximum over the tokens that are no padding

Ratios are of one round, to the median of the floors of that round (each floor runs --anchors times a
round); shown are their median, least and most.  The order rotates.  All but "bf16" compute in float32.
With --memory each contender runs alone in a fresh process (N times); the figure is its peak resident
size, of all that it imports, too (median).  With --f1 the macro-F1 of bf16 and float32 features of the
shipped SAEs on three data sets follows, and whether bf16's lies within the interval of float32's.
--scale shrinks the number of items, --only keeps contenders whose names hold one of the words.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measuring import (
    MIB,
    about,
    add_common,
    corpus,
    fresh,
    macro_f1,
    macro_f1_difference,
    peak_bytes,
    pictures,
    print_table,
    rotated,
    save,
    shown,
    snippets,
    spread,
    use_threads,
)
from scipy import sparse as sp

if TYPE_CHECKING:
    from collections.abc import Callable

    from contenders import Setup

FLOORS = ("floor", "floor + GEMM")
WARM_UP_ITEMS = 8


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_common(parser)
    parser.add_argument("--workloads", nargs="*", default=["W1", "W2", "W3"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--anchors", type=int, default=3, help="runs of the floors in a round")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--memory", type=int, nargs="?", const=1, default=0, help="processes each")
    parser.add_argument("--f1", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure_memory(json.loads(options.child))))
        return
    use_threads(options.threads)
    figures: dict[str, Any] = {"about": about(), "workloads": {}}
    print(json.dumps(figures["about"]))
    for name in options.workloads:
        with tempfile.TemporaryDirectory() as folder:
            figures["workloads"][name] = measure(name, Path(folder), options)
        save(options.json, figures)
    if options.f1:
        figures["f1"] = compare_f1(options.data, options.scale)
        save(options.json, figures)


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time all contenders on a workload, and print tables."""
    from contenders import WORKLOADS, Setup, contenders, prepare

    work = WORKLOADS[name]
    work = dataclasses.replace(work, n_items=max(4, round(work.n_items * options.scale)))
    described = prepare(work, folder, options.data)
    print(f"\n{work.name}: {work.model}, block {work.layer}, {described['n_latents']:,} latents, "
          f"{work.n_items} {work.modality}s, {described['tokens']:,} tokens, "
          f"{described['content_tokens']:,} of them counted")  # fmt: skip
    for kind, counts in described["latents_per_token"].items():
        print(f"  {kind}: latents per token {counts['mean']:.0f} on average, median "
              f"{counts['median']:.0f}, 99 % below {counts['p99']:.0f}")  # fmt: skip
    names = [n for n in contenders() if n in FLOORS or is_wanted(n, options.only)]
    seconds, rows = timed(Setup(work, folder), names, options)
    table = summarise(names, seconds)
    for n, cosines in compare_rows(names, rows).items():
        table[n] |= cosines
    print_table(
        ("", "median s", "ratio to floor", "to floor + GEMM", "cosine", "least"),
        [
            (
                n,
                f"{row['seconds']['median']:.2f}",
                shown(row["to_floor"], 3),
                shown(row["to_gemm"], 3),
                f"{row['cosine_mean']:.5f}" if "cosine_mean" in row else "",
                f"{row['cosine_min']:.5f}" if "cosine_min" in row else "",
            )
            for n, row in table.items()
        ],
    )
    figures = {"workload": described, "rows": table, "seconds": seconds}
    if options.memory:
        figures["peak_bytes"] = peaks(work, folder, names, options)
    return figures


def is_wanted(name: str, words: list[str]) -> bool:
    """Tell whether a contender's name holds one of the words; without any, all are wanted."""
    return not words or any(word in name for word in words)


def timed(
    setup: Setup, names: list[str], options: argparse.Namespace
) -> tuple[dict[str, list[list[float]]], dict[str, Any]]:
    """Return the seconds of each contender, a list for each round, and the rows that it gave."""
    import torch
    from contenders import contenders

    found = contenders()
    few = setup.items[:WARM_UP_ITEMS]
    with torch.inference_mode():
        for name in names:
            found[name].make(setup, few)()
        runs = {name: found[name].make(setup, setup.items) for name in names}
        rows: dict[str, Any] = {}
        seconds: dict[str, list[list[float]]] = {name: [] for name in names}
        others = [name for name in names if name not in FLOORS]
        for turn in range(options.rounds):
            for of_name in seconds.values():
                of_name.append([])
            for name in with_anchors(rotated(others, turn) if others else [], options.anchors):
                reset = found[name].reset
                if reset:
                    reset()
                started = time.perf_counter()
                given = runs[name]()
                seconds[name][-1].append(time.perf_counter() - started)
                if turn == 0 and given is not None:
                    rows[name] = given
                del given
    return seconds, rows


def with_anchors(names: list[str], anchors: int) -> list[str]:
    """Return the order of a round: the floors stand between the others, so many times."""
    parts = np.array_split(np.array(names, object), max(1, anchors))
    order: list[str] = []
    for number, part in enumerate(parts):
        order += [*(FLOORS if number % 2 == 0 else FLOORS[::-1]), *part.tolist()]
    return order


def summarise(names: list[str], seconds: dict[str, list[list[float]]]) -> dict[str, dict[str, Any]]:
    """Return seconds and ratios of each contender."""
    medians = {name: [statistics.median(times) for times in seconds[name]] for name in names}
    table: dict[str, dict[str, Any]] = {}
    for name in names:
        table[name] = {"seconds": spread(medians[name])}
        for key, base in zip(("to_floor", "to_gemm"), FLOORS, strict=True):
            ratios = [own / of for own, of in zip(medians[name], medians[base], strict=True)]
            table[name][key] = spread(ratios)
    return table


def compare_rows(names: list[str], rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return cosines of rows to those that they should be, mean and least over the items."""
    from contenders import contenders

    found, cosines = contenders(), {}
    for name in names:
        like = found[name].like
        if like in rows and name in rows:
            of_items = cosine(rows[name], rows[like])
            cosines[name] = {"cosine_mean": of_items.mean(), "cosine_min": of_items.min()}
    return cosines


def cosine(one: Any, other: Any) -> np.ndarray:
    """Return the cosine of each row to the other's."""
    first, second = sp.csr_matrix(one).astype(float), sp.csr_matrix(other).astype(float)
    inner = np.asarray(first.multiply(second).sum(axis=1)).ravel()
    norms = [np.sqrt(np.asarray(m.multiply(m).sum(axis=1)).ravel()) for m in (first, second)]
    both_zero = (norms[0] == 0) & (norms[1] == 0)
    scale = np.where(norms[0] * norms[1] > 0, norms[0] * norms[1], 1)
    found: np.ndarray = np.where(both_zero, 1.0, inner / scale)
    return found


def peaks(
    work: Any, folder: Path, names: list[str], options: argparse.Namespace
) -> dict[str, list[int]]:
    """Print and return the peak resident size of each contender, alone in a fresh process."""
    found: dict[str, list[int]] = {name: [] for name in names}
    for turn in range(options.memory):
        for name in rotated(names, turn):
            spec = {"work": dataclasses.asdict(work), "folder": str(folder), "name": name}
            spec["threads"] = options.threads
            found[name].append(fresh(__file__, spec, threads=options.threads)["peak"])
    medians = {name: statistics.median(of_name) / MIB for name, of_name in found.items()}
    print_table(
        (f"{work.name}, peak memory", "MiB", "less the floor's"),
        [(n, f"{peak:.0f}", f"{peak - medians['floor']:+.0f}") for n, peak in medians.items()],
    )
    return found


def measure_memory(spec: dict[str, Any]) -> dict[str, int]:
    """Run one contender in this process and return its peak resident size."""
    use_threads(spec["threads"])
    import torch
    from contenders import Setup, Workload, contenders

    setup = Setup(Workload(**spec["work"]), Path(spec["folder"]))
    with torch.inference_mode():
        contenders()[spec["name"]].make(setup, setup.items)()
    return {"peak": peak_bytes()}


def compare_f1(data: Path | None, scale: float) -> list[dict[str, Any]]:
    """Print and return macro-F1 of float32 and bf16 features of the shipped SAEs."""
    from sae_features import SAEFeaturizer
    from sae_features.errors import SAEFeaturesWarning

    sources: dict[str, tuple[str, Callable[[], tuple[list[str], list[str]]], int]] = {
        "movie snippets": ("minilm", snippets, 1000),
        "BBC": ("minilm", lambda: corpus("bbc", data), 1000),
        "textile": ("dinov2-small", lambda: pictures(data, "test"), 600),
    }
    found = []
    for name, (model, load, n) in sources.items():
        items, labels = load()
        chosen = slice(max(100, round(n * scale)))
        y = np.array(labels[chosen])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAEFeaturesWarning)  # long texts are truncated
            rows = {
                dtype: SAEFeaturizer(model, dtype=dtype, cache=False).transform(items[chosen])
                for dtype in ("float32", "bfloat16")
            }
        predicted = {dtype: predict(X, y) for dtype, X in rows.items()}
        cosines = cosine(rows["bfloat16"], rows["float32"])
        exact, fast = (macro_f1(y, predicted[dtype]) for dtype in rows)
        difference = macro_f1_difference(y, predicted["bfloat16"], predicted["float32"])
        found.append({
            "data": name, "model": model, "items": len(y), "float32": exact, "bfloat16": fast,
            **difference, "within": exact["low"] <= fast["f1"] <= exact["high"],
            "cosine_mean": cosines.mean(), "cosine_min": cosines.min(),
        })  # fmt: skip
    print()
    print_table(
        (
            "macro-F1, 5 folds",
            "items",
            "float32 (95 %)",
            "bf16",
            "within",
            "difference (95 %)",
            "cosine",
            "least",
        ),
        [
            (
                f"{row['data']}, {row['model']}",
                row["items"],
                "{f1:.3f} ({low:.3f}–{high:.3f})".format(**row["float32"]),
                f"{row['bfloat16']['f1']:.3f}",
                "yes" if row["within"] else "no",
                f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
                f"{row['cosine_mean']:.5f}",
                f"{row['cosine_min']:.5f}",
            )
            for row in found
        ],
    )
    return found


def predict(X: Any, y: np.ndarray) -> np.ndarray:
    """Return what is predicted of each item by a classifier that has not seen it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    classifier = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found: np.ndarray = cross_val_predict(classifier, X, y, cv=folds)
    return found


if __name__ == "__main__":
    main()
