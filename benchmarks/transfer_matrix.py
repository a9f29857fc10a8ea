"""What a full cross-lingual matrix costs, beside what it cannot do without.

python benchmarks/transfer_matrix.py --data DIR [--languages 8] [--items 300] [--rounds 3]

DIR holds ``xlmt-sentiment`` (github.com/cardiffnlp/xlm-t).  Counted: how often each text is read by the
model.  Timed, in turns: the matrix (train in each language, test in all, e5 and its shipped SAE),
reading all texts once by a featurizer, and fitting and applying the same classifiers to its rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sae_features import SAEFeaturizer
from sae_features.backbones.backbone import Backbone
from sae_features.evaluation import CrossLingualTransfer, read_labelled
from sae_features.evaluation.fitting import fit, learner_of, predict, rows_at
from sae_features.evaluation.languages import fold_languages, lay_together

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "pt")
HOW: dict[str, Any] = {"cv": 3, "strengths": (0.01, 0.1, 1.0), "baselines": (), "permuted": False}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--languages", type=int, default=8)
    parser.add_argument("--items", type=int, default=300, help="of each language")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    languages = [
        read_labelled(options.data / "xlmt-sentiment" / name / "test.jsonl", name=name).sample(
            options.items
        )
        for name in LANGUAGES[: options.languages]
    ]
    measured = []
    for round_number in range(options.rounds + 1):  # the first warms up
        matrix, counts = of_matrix(languages)
        n_texts = len({text for data in languages for text in data.items})
        if len(counts) != n_texts or set(counts.values()) != {1}:
            raise SystemExit(
                f"{len(counts)} of {n_texts} texts were read, up to {max(counts.values())} times."
            )
        extraction, classifiers = of_parts(languages)
        if round_number:
            measured.append((matrix, extraction, classifiers))
            print(
                f"matrix {matrix:.1f} s, extraction {extraction:.1f} s, classifiers "
                f"{classifiers:.1f} s: {matrix / (extraction + classifiers):.3f}",
                flush=True,
            )
    ratios = sorted(matrix / (extraction + fits) for matrix, extraction, fits in measured)
    print(f"{n_texts:,} texts, each read once; {len(languages)} x {len(languages)} cells in 3 folds")
    middle = statistics.median(ratios)
    print(f"over extraction and classifiers: {middle:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    if options.json:
        options.json.write_text(json.dumps({"rounds": measured, "texts": n_texts}), encoding="utf-8")


def of_matrix(languages: list[Any]) -> tuple[float, Counter[str]]:
    """Return the seconds of a whole run, and how often each text was read."""
    counts: Counter[str] = Counter()
    genuine = Backbone.windows

    def windows(backbone: Any, items: Any, *rest: Any) -> Any:
        counts.update(items.values)
        return genuine(backbone, items, *rest)

    Backbone.windows = windows  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            CrossLingualTransfer(["e5"], folder=folder, **HOW).run(languages)
            return time.perf_counter() - started, counts
    finally:
        Backbone.windows = genuine  # type: ignore[method-assign]


def of_parts(languages: list[Any]) -> tuple[float, float]:
    """Return the seconds of reading all texts, and of fitting and applying all classifiers."""
    texts = [text for data in languages for text in data.items]
    started = time.perf_counter()
    X = SAEFeaturizer("e5", cache=False).fit_transform(texts)
    extraction = time.perf_counter() - started
    plan = CrossLingualTransfer(["e5"], **HOW)
    laid = lay_together(languages)
    n_classes = len(laid.classes)
    (method,) = plan.methods(texts)
    learner = learner_of(method, plan.classifiers[0], n_classes=n_classes)
    folds = fold_languages(languages, laid, n_folds=plan.cv, n_repeats=1, seed=0)
    started = time.perf_counter()
    for fold in folds:
        for train in fold.train:
            fitted = fit(
                learner, rows_at(X, train), laid.codes[train], laid.together[train],
                n_inner=plan.inner, seed=0,
            )  # fmt: skip
            for test in fold.test:
                predict(fitted, rows_at(X, test), test, laid.codes[test], n_classes)
    return extraction, time.perf_counter() - started


if __name__ == "__main__":
    main()
