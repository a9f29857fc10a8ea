"""The demonstration: movie sentiment from SAE latents beside honest baselines.

Five folds; what a method has to choose (regularisation, pooling, n-grams) is chosen by 3-fold
cross-validation inside each training fold, for all methods alike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from sae_features.datasets import load_movie_snippets
from sae_features.featurizer import ActivationFeaturizer, SAEFeaturizer, warm
from sae_features.releases import FileSAE
from sae_features.selection import LatentSelector
from sae_features.targets import Request, resolve_sae

if TYPE_CHECKING:
    from collections.abc import Callable

N_FOLDS = 5
N_INNER_FOLDS = 3
N_RESAMPLES = 2000
N_LATENTS = 8
N_SNIPPETS = 3
SEED = 0
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
POOLINGS = ("max", "mean")

NAMES = {
    "sae": "SAE latents",
    "sae_binarized": "SAE latents, binarized",
    "hidden_states": "hidden states, same layer",
    "tfidf": "TF-IDF",
    "random_sae": "random-weight SAE (control)",
}


@dataclass(frozen=True)
class Variant:
    """One way of a method: what is learned from, and the pipeline that learns."""

    X: Any
    pipeline: Pipeline


def methods(texts: list[str]) -> dict[str, dict[str, Variant]]:
    """Return what is compared, by name, each with the variants to choose from.

    One run of the model serves all.  Featurizers learn nothing, so that their features may be taken
    once for all folds; whatever learns (TF-IDF, scaling, the classifier) does so inside each
    training fold.
    """
    sae = _default_sae()
    control = f"random:{sae.n_latents}:{sae.header.conventions['k']}"
    latents, hidden, randoms = SAEFeaturizer(), ActivationFeaturizer(), SAEFeaturizer(sae=control)
    warm([latents, hidden, randoms], texts)

    def pooled(featurizer: Any, scaler: Any) -> dict[str, Variant]:
        return {
            pooling: Variant(
                clone(featurizer).set_params(pooling=pooling).transform(texts), _pipeline(scaler)
            )
            for pooling in POOLINGS
        }

    binarized = clone(latents).set_params(binarize=True).transform(texts)
    return {
        "sae": pooled(latents, MaxAbsScaler()),
        "sae_binarized": {"binarized": Variant(binarized, _pipeline())},
        "hidden_states": pooled(hidden, StandardScaler()),
        "tfidf": {
            f"1-{n}-grams": Variant(
                texts, _pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, n)))
            )
            for n in (1, 2)
        },
        "random_sae": pooled(randoms, MaxAbsScaler()),
    }


def run_demo(say: Callable[[str], Any] = lambda _: None) -> dict[str, Any]:
    """Run the demonstration.

    Parameters
    ----------
    say : callable, optional
        Told in a line what goes on.

    Returns
    -------
    dict
        ``f1_macro``: per method ``mean``, ``std`` and ``folds``, and what was ``chosen`` in each;
        ``differences`` of macro-F1 with a 95 % interval; ``latents``: the most telling ones.
    """
    started = time.perf_counter()
    data = load_movie_snippets()
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=SEED)
    splits = list(folds.split(data.data, data.target))
    scores: dict[str, Any] = {}
    predictions: dict[str, np.ndarray] = {}
    compared = methods(data.data)
    say(f"one run of the model: {time.perf_counter() - started:.1f} s")
    for name, variants in compared.items():
        begun = time.perf_counter()
        scores[name], predictions[name] = _cross_validate(variants, data.target, splits)
        say(f"{NAMES[name]}: {time.perf_counter() - begun:.1f} s")
    differences = {
        f"sae - {other}": _difference(data.target, predictions["sae"], predictions[other])
        for other in ("hidden_states", "tfidf", "random_sae")
    }
    latents = telling_latents(data.data, data.target, data.target_names)
    return {
        "f1_macro": scores,
        "differences": differences,
        "latents": latents,
        "n_snippets": len(data.data),
        "seconds": round(time.perf_counter() - started, 1),
    }


def telling_latents(
    texts: list[str], target: np.ndarray, target_names: list[str]
) -> list[dict[str, Any]]:
    """Return the latents that separate two classes best, by AUROC on all texts.

    A description of these texts, not a score: nothing is held out.

    Parameters
    ----------
    texts : list of str
    target : ndarray of shape (n_texts,)
        0 or 1.
    target_names : list of str
        Of 0 and 1.
    """
    features = SAEFeaturizer().transform(texts)
    selector = LatentSelector(N_LATENTS, criterion="auroc").fit(features, target)
    labels = _default_sae().labels
    rows = []
    for latent in selector.best_latents_:
        values = features[:, [latent]].toarray().ravel()
        fires = np.flatnonzero(values > 0)
        inside = [float(values[target == side].mean()) for side in (0, 1)]
        top = fires[np.argsort(-values[fires], kind="stable")[:N_SNIPPETS]]
        rows.append(
            {
                "latent": int(latent),
                "label": labels.get(int(latent)),
                "speaks_for": target_names[int(inside[1] > inside[0])],
                "auroc": round(float(selector.scores_[latent]), 4),
                "fires_in": len(fires),
                "snippets": [texts[i] for i in top],
            }
        )
    return rows


def report(result: dict[str, Any]) -> str:
    """Return the result as text for a terminal."""
    lines = [
        f"Sentiment of {result['n_snippets']:,} movie snippets, macro-F1 in {N_FOLDS} folds",
        "",
        f"{'':30}{'mean':>8}{'std':>8}",
    ]
    lines += [
        f"{NAMES[name]:30}{score['mean']:8.3f}{score['std']:8.3f}"
        for name, score in result["f1_macro"].items()
    ]
    lines += ["", "Difference to the SAE latents' macro-F1, 95 % interval (paired bootstrap)", ""]
    for pair, difference in result["differences"].items():
        other = NAMES[pair.removeprefix("sae - ")]
        lines.append(
            f"SAE latents - {other:30}{difference['difference']:+8.3f}"
            f"   [{difference['low']:+.3f}, {difference['high']:+.3f}]"
        )
    lines += ["", "The most telling latents, with the snippets that fire them most"]
    for row in result["latents"]:
        name = f"latent_{row['latent']} ({row['label'] or 'no label'})"
        facts = f"AUROC {row['auroc']:.3f}, fires in {row['fires_in']} snippets"
        lines += ["", f"{name}: {row['speaks_for']}, {facts}"]
        lines += [f"  · {_shorten(snippet)}" for snippet in row["snippets"]]
    return "\n".join(lines)


def _pipeline(*steps: Any) -> Pipeline:
    return make_pipeline(*steps, LogisticRegression(max_iter=1000))


def _cross_validate(
    variants: dict[str, Variant], target: np.ndarray, splits: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[str, Any], np.ndarray]:
    """Return scores and out-of-fold predictions; variant and C are chosen inside each fold."""
    predicted = np.empty_like(target)
    folds, chosen = [], []
    for train, test in splits:
        searches = {}
        for name, variant in variants.items():
            search = GridSearchCV(
                variant.pipeline,
                {"logisticregression__C": STRENGTHS},
                scoring="f1_macro",
                cv=N_INNER_FOLDS,
                n_jobs=-1,
            )
            searches[name] = search.fit(_rows(variant.X, train), target[train])
        best = max(searches, key=lambda name: searches[name].best_score_)
        predicted[test] = searches[best].predict(_rows(variants[best].X, test))
        folds.append(float(f1_score(target[test], predicted[test], average="macro")))
        chosen.append({"variant": best, "C": searches[best].best_params_["logisticregression__C"]})
    score = {
        "mean": float(np.mean(folds)),
        "std": float(np.std(folds, ddof=1)),
        "folds": folds,
        "chosen": chosen,
    }
    return score, predicted


def _rows(X: Any, positions: np.ndarray) -> Any:
    return [X[i] for i in positions] if isinstance(X, list) else X[positions]


def _difference(target: np.ndarray, ours: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the difference of macro-F1 over all folds' predictions, and its bootstrap interval."""
    generator = np.random.default_rng(SEED)
    draws = generator.integers(len(target), size=(N_RESAMPLES, len(target)))
    ours_f1, other_f1 = (_macro_f1(target[draws], p[draws]) for p in (ours, other))
    low, high = np.quantile(ours_f1 - other_f1, [0.025, 0.975])
    whole = np.arange(len(target))[None]
    difference = _macro_f1(target[whole], ours[whole]) - _macro_f1(target[whole], other[whole])
    return {"difference": float(difference[0]), "low": float(low), "high": float(high)}


def _macro_f1(target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the macro-F1 of each row of two arrays of 0 and 1."""
    sides = []
    for side in (0, 1):
        hits = ((target == side) & (predicted == side)).sum(axis=1)
        sides.append(2 * hits / ((target == side).sum(axis=1) + (predicted == side).sum(axis=1)))
    return np.mean(sides, axis=0)


def _default_sae() -> FileSAE:
    sae = resolve_sae(Request())
    assert isinstance(sae, FileSAE)  # noqa: S101 the default is never random
    return sae


def _shorten(text: str, width: int = 100) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
