"""Textile defects: SAE latents of DINOv2's patches beside hidden states, a random SAE, and raw pixels.

python benchmarks/vision.py [--images 600] [--folds 5] [--json FILE]

The set is ``textile`` of ``sae_features.packaged_assets`` (conformal-clip-data 0.1.4: simulated pictures
in three classes); the SAE was trained on its training split without labels, so only pictures of the test
split are used.  Scaling and regularisation are chosen inside each training fold, from one grid for all.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler

from sae_features import ActivationFeaturizer, SAEFeaturizer
from sae_features.featurizer import warm
from sae_features.packaged_assets import fetch

MODEL = "dinov2-small"
PIXELS = (32, 32)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--images", type=int, default=600, help="how many pictures of the test split")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files, labels = pictures(options.images)
    latents = SAEFeaturizer(MODEL, pooling="max")
    latents.fit(files[:1])
    control = SAEFeaturizer(MODEL, layer=latents.layer_, sae=f"random:{latents.n_features_out_}:32")
    hidden = ActivationFeaturizer(MODEL, layer=latents.layer_, pooling="max")
    warm([latents, control, hidden], files)
    featurizers = {"SAE latents": latents, "random-weight SAE": control, "hidden states": hidden}
    methods: dict[str, Any] = {
        f"{name}, {pooling}": make_pipeline(clone(featurizer).set_params(pooling=pooling), classifier())
        for name, featurizer in featurizers.items()
        for pooling in ("max", "mean")
    }
    methods |= {
        f"pixels, {PIXELS[0]} x {PIXELS[1]}": make_pipeline(
            FunctionTransformer(thumbnails), classifier()
        ),
        "chance": DummyClassifier(strategy="stratified", random_state=0),
    }
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0)
    rows = []
    print(f"{'':26}{'macro-F1':>9}{'std':>7}")
    for name, method in methods.items():
        scores = cross_val_score(method, files, labels, cv=folds, scoring="f1_macro")
        rows.append({"method": name, "f1_macro": scores.tolist()})
        print(f"{name:26}{scores.mean():9.3f}{scores.std(ddof=1):7.3f}", flush=True)
    if options.json:
        about = {"images": len(files), "folds": options.folds, "layer": latents.layer_, "rows": rows}
        options.json.write_text(json.dumps(about, indent=2) + "\n")


def pictures(n: int) -> tuple[list[str], np.ndarray]:
    """Return paths and labels of the test split, in a fixed random order."""
    folder = fetch("textile")
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    chosen = np.random.default_rng(0).permutation(len(rows))[:n]
    files = [str(folder / rows[i]["file"]) for i in chosen]
    return files, np.array([rows[i]["label"] for i in chosen])


def classifier() -> GridSearchCV:
    """Return a logistic regression whose scaling and regularisation inner cross-validation chooses."""
    scalers = ["passthrough", MaxAbsScaler(), StandardScaler(with_mean=False)]
    grid = {"scale": scalers, "classify__C": [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]}
    steps = [("scale", "passthrough"), ("classify", LogisticRegression(max_iter=2000))]
    return GridSearchCV(Pipeline(steps), grid, cv=3, scoring="f1_macro")


def thumbnails(files: list[str]) -> np.ndarray:
    """Return grey values of small copies, one row per picture."""
    small = [Image.open(file).convert("L").resize(PIXELS) for file in files]
    return np.stack([np.asarray(picture, np.float32).ravel() for picture in small])


if __name__ == "__main__":
    main()
