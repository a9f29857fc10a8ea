"""Rows such as protocols give them: a sweep, and transfers between eight languages."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")
from matplotlib import pyplot as plt

COLUMNS = (
    "protocol", "dataset", "train_on", "test_on", "setting", "method", "kind", "model", "layer", "site",
    "sae", "pooling", "threshold", "binarize", "token_top_n", "width", "classifier", "control", "seed",
    "fold", "n_train", "n_test", "n_classes", "active", "validation", "accuracy", "macro_f1", "auroc",
    "chosen",
)  # fmt: skip
LANGUAGES = ("arabic", "english", "french", "german", "hindi", "italian", "portuguese", "spanish")
DATASETS = {
    "bbc-news": (0.93, 5, 800),
    "movie-snippets": (0.74, 2, 1200),
    "spam or ham, short messages": (0.88, 2, 900),
}
MODELS = {"minilm": (0.0, (1, 3, 5), 4096), "e5-small": (0.015, (3, 7, 11), 8192)}
POOLINGS = {"max": 0.01, "mean": 0.0, "sum": -0.01, "last": -0.06}
WORDS = {"tfidf_word": ("TF-IDF words", -0.02), "tfidf_char": ("TF-IDF letters", -0.03),
         "bag_of_words": ("bag of words", -0.045)}  # fmt: skip


def blank(**values):
    return (
        dict.fromkeys(COLUMNS)
        | {"classifier": "logistic", "control": "none", "seed": 0, "chosen": {}}
        | values
    )


class Maker:
    """Makes rows whose scores differ by fold in the same way for all methods."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def scores(self, level, shared=0.0):
        own = self.rng.normal(0, 0.006)
        macro_f1 = float(np.clip(level + shared + own, 0.02, 0.995))
        return {
            "macro_f1": macro_f1,
            "accuracy": min(macro_f1 + 0.01, 1.0),
            "auroc": min(macro_f1 + (1 - macro_f1) * 0.5, 1.0),
            "validation": float(np.clip(level + self.rng.normal(0, 0.006), 0.02, 0.995)),
        }


def methods_of_sweep():
    """Yield (what a row says of a method, by how much it is better than the data set's level)."""
    for model, (gain, layers, width) in MODELS.items():
        for number, layer in enumerate(layers):
            sae = f"{model}-topk-{width // 1024}k/layer_{layer}"
            place = {"model": model, "layer": layer, "site": "resid_post"}
            better = gain + (-0.03, 0.0, 0.01)[number]
            for pooling, change in POOLINGS.items():
                words = f"{model} layer {layer} {sae} {pooling}"
                latents = place | {"sae": sae, "pooling": pooling, "width": width, "binarize": False}
                yield latents | {"kind": "sae", "method": words, "active": 120.0}, better + change
                words = f"{model} layer {layer} states {pooling}"
                states = place | {"kind": "states", "pooling": pooling, "method": words}
                yield states, better + change / 2 + 0.01
            for threshold, change in ((0.5, 0.004), (1.0, -0.01), (2.0, -0.05)):
                words = f"{model} layer {layer} {sae} max > {threshold:g}"
                latents = place | {"sae": sae, "pooling": "max", "threshold": threshold, "width": width}
                yield latents | {"kind": "sae", "method": words, "active": 60.0}, better + change
        random = {
            "kind": "random_sae", "method": f"{model} random:{width}:32 max", "model": model,
            "layer": layers[1], "site": "resid_post", "sae": f"random:{width}:32", "pooling": "max",
            "width": width,
        }  # fmt: skip
        yield random, gain - 0.05
    for kind, (name, change) in WORDS.items():
        yield {"kind": kind, "method": name}, change
    yield {"kind": "chance", "method": "chance"}, None


def make_sweep(n_folds=5, controls=True):
    maker, rows = Maker(), []
    for dataset, (level, n_classes, n) in DATASETS.items():
        shared = maker.rng.normal(0, 0.012, n_folds)
        sizes = {"n_train": n - n // n_folds, "n_test": n // n_folds, "n_classes": n_classes}
        same = {"protocol": "sweep", "dataset": dataset, "train_on": dataset, "test_on": dataset} | sizes
        for method, change in methods_of_sweep():
            for fold in range(n_folds):
                if change is None:
                    f1 = 0.66 / n_classes
                    scores = {"macro_f1": f1, "accuracy": 1 / n_classes, "auroc": 0.5, "validation": f1}
                    rows.append(blank(**same, **method, fold=fold, **scores))
                else:
                    scores = maker.scores(level + change, shared[fold])
                    rows.append(blank(**same, **method, fold=fold, **scores))
        for fold, model in itertools.product(range(n_folds if controls else 0), MODELS):
            scores = maker.scores(1 / n_classes) | {"auroc": 0.5 + maker.rng.normal(0, 0.02)}
            method = {"kind": "sae", "method": f"{model} max", "model": model, "control": "permuted"}
            rows.append(blank(**same, **method, fold=fold, **scores))
    return rows


def make_transfer(languages=LANGUAGES, n_seeds=2):
    maker, rows = Maker(1), []
    ease = dict(zip(languages, maker.rng.normal(0, 0.04, len(languages)), strict=True))
    methods = [
        ("sae", "e5-small layer 7 e5-small-topk-8k/layer_7 max", "e5-small", 0.0),
        ("states", "e5-small layer 7 states mean", "e5-small", 0.02),
        ("tfidf_char", "TF-IDF letters", None, -0.08),
    ]
    for (kind, method, model, change), train, test in itertools.product(methods, languages, languages):
        far = 0.06 + 0.1 * ("hindi" in {train, test}) + 0.06 * ("arabic" in {train, test})
        far += 0.16 * (kind == "tfidf_char")
        settings = [("in_language", 0.0)]
        if train != test:
            settings = [("zero_shot", far), ("few_shot_16", far * 0.8), ("few_shot_256", far * 0.3)]
        for (setting, loss), seed in itertools.product(settings, range(n_seeds)):
            shots = int(setting.split("_")[-1]) if "few" in setting else 0
            row = {
                "protocol": "cross_lingual", "dataset": "tweet sentiment", "train_on": train,
                "test_on": test, "setting": setting, "kind": kind, "method": method, "model": model,
                "layer": 7 if model else None, "pooling": "max" if kind == "sae" else None, "seed": seed,
                "fold": 0, "n_train": 1600 + shots, "n_test": 800, "n_classes": 3,
            }  # fmt: skip
            rows.append(blank(**row, **maker.scores(0.66 + change + ease[test] - loss)))
    return rows


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def sweep():
    """3 data sets × 2 models × 3 layers × 4 poolings × 5 folds, thresholds, baselines, controls."""
    return tuple(make_sweep())


@pytest.fixture(scope="session")
def transfer():
    """8 × 8 languages × 3 methods, zero-shot and few-shot."""
    return tuple(make_transfer())


@pytest.fixture
def is_whole():
    """Tell whether all that is drawn lies within the figure, and no two labels of an axis overlap."""

    def check(figure):
        figure.canvas.draw()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        within = drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height
        return within and not any(map(overlap, figure.axes))

    return check


def overlap(ax):
    """Tell whether labels that stand upright beside an axis run into each other."""
    for labels, low, high in ((ax.get_xticklabels(), "x0", "x1"), (ax.get_yticklabels(), "y0", "y1")):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        if any(label.get_rotation() for label in labels):
            continue
        boxes.sort(key=lambda box: getattr(box, low))
        if any(getattr(a, high) > getattr(b, low) for a, b in itertools.pairwise(boxes)):
            return True
    return False


@pytest.fixture
def make_row():
    """Make a row of results: what is not given is None."""
    return blank


@pytest.fixture
def transfer_between():
    """Make rows of a transfer between languages."""
    return make_transfer
