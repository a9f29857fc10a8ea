"""Draw the pictures of a write-up from what `sae-features sweep` or `transfer` wrote.

python experiments/pictures.py {classification,cross_lingual,moved,vision} RESULTS PICTURE.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from tables import by_name, family

from sae_features.evaluation import Results
from sae_features.report import (
    LayerPoolingDisplay,
    PairedDifferenceDisplay,
    TransferMatrixDisplay,
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = {each.__name__: each for each in (classification, cross_lingual, moved, vision)}
    parser.add_argument("what", choices=what)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    figure = what[options.what](Results.read(options.results))
    figure.savefig(options.picture, dpi=90, bbox_inches="tight")


def classification(results: Results) -> Any:
    """Draw what SAE latents gain or lose against hidden states on each data set."""
    rows = by_name(results.where(control="none"), family)
    display = PairedDifferenceDisplay.from_results(rows, method="SAE latents", reference="hidden states")
    return display.figure_


def cross_lingual(results: Results) -> Any:
    """Draw the matrix of SAE latents, and what they lose against hidden states."""
    rows = results.where(control="none")
    places = {r["layer"] for r in rows if r["layer"] is not None}
    here = [r for r in rows if r["layer"] == max(places) and r["method"].endswith("per language")]
    sae, states = (next(r["method"] for r in here if r["kind"] == kind) for kind in ("sae", "states"))
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    TransferMatrixDisplay.from_results(here, method=sae, ax=axes[0])
    TransferMatrixDisplay.from_results(here, method=sae, reference=states, ax=axes[1])
    return figure


def moved(results: Results) -> Any:
    """Draw one matrix of models for each way to align them, on BBC news."""
    rows = results.where(control="none", dataset="bbc")
    names = [m for m in dict.fromkeys(r["method"] for r in rows) if ", " in m]
    lines = -(-len(names) // 2)
    figure, axes = plt.subplots(lines, 2, figsize=(10, 4 * lines), layout="constrained")
    for ax, name in zip(axes.flat, names, strict=False):
        TransferMatrixDisplay.from_results(
            _with_diagonal(rows, name), method=name, setting="moved", vmin=0.3, vmax=1.0, ax=ax
        )
    return figure


def _with_diagonal(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    home = name.partition(",")[0]
    kept = [r for r in rows if r["method"] == name and r["setting"] == "moved"]
    return kept + [
        r | {"method": name, "setting": "in_language"}
        for r in rows
        if r["method"] == home and r["setting"] == "in_model"
    ]


def vision(results: Results) -> Any:
    """Draw layers against poolings of hidden states."""
    rows = [r for r in results.where(control="none") if r["layer"] is not None]
    return LayerPoolingDisplay.from_results(rows, kind="states").figure_


if __name__ == "__main__":
    main()
