"""The matrix of a transfer: which classifiers are trained, on what, and where they are tested."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.fitting import Fitted, figures_of, fit, predict, rows_at
from sae_features.evaluation.latents_across import top_latents
from sae_features.evaluation.sweep import permuted_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sae_features.evaluation.classifiers import Learner
    from sae_features.evaluation.languages import LanguageFold, Languages
    from sae_features.evaluation.results import Predictions

N_TOP = 50
"""Latents of a classifier that are kept: those that move its decisions most."""


class Pair(NamedTuple):
    """A classifier to train, and what it is tested on."""

    source: int
    """Language that results call ``train_on``."""
    train: np.ndarray
    """What it is trained on: positions of rows."""
    like: np.ndarray
    """Positions of the items whose labels those rows have."""
    targets: list[tuple[int, str]]
    """Languages to test on, and the setting that it is."""


def laid_for_workers(laid: Languages) -> Languages:
    """Return the languages without their items: what worker processes need."""
    return replace(laid, items=[], digests=[])


def shots_of(few_shot: Sequence[float], laid: Languages, folds: Sequence[LanguageFold]) -> list[int]:
    """Return how many items of the other language are added, the same for all languages and folds.

    Raises
    ------
    InvalidParameterError
        If a language has fewer to train on.
    """
    whole = min(len(fold.train[0]) for fold in folds)
    numbers = [max(len(laid.classes), n if isinstance(n, int) else round(n * whole)) for n in few_shot]
    for fold in folds:
        for name, rest in zip(laid.names, fold.rest, strict=True):
            if max(numbers, default=0) > len(rest):
                message = (
                    f"Got few_shot={max(numbers)}, but {name} has {len(rest)} items to train on; give "
                    "fewer."
                )
                raise InvalidParameterError(message)
    return list(dict.fromkeys(numbers))


def pairs_of(laid: Languages, fold: LanguageFold, step: str | int) -> Iterator[Pair]:
    """Yield the classifiers of one fold for one step: the matrix, so many shots, or translations."""
    count = range(len(laid.names))
    if step == "matrix":
        for source in count:
            targets = [(target, "in_language" if target == source else "zero_shot") for target in count]
            yield Pair(source, fold.train[source], fold.train[source], targets)
        return
    if step == "translated":
        for (source, target), start in laid.translated.items():
            like = fold.train[source]
            rows = like - laid.starts[source] + start
            yield Pair(source, rows, like, [(target, "translated_train")])
        return
    for target in count:
        shots = fold.rest[target][: int(step)]
        yield Pair(target, shots, shots, [(target, f"target_only_{len(shots)}")])
        for source in count:
            if source != target:
                both = np.concatenate([fold.train[source], shots])
                yield Pair(source, both, both, [(target, f"few_shot_{len(shots)}")])


def run_matrix(
    learner: Learner,
    X: Any,
    columns: dict[str, Any],
    *,
    laid: Languages,
    folds: Sequence[LanguageFold],
    n_inner: int,
) -> tuple[list[dict[str, Any]], list[Predictions]]:
    """Train and test all pairs of languages in every fold."""
    columns = dict(columns)
    step, center, n_classes = columns.pop("step"), columns.pop("center"), columns["n_classes"]
    rows, predictions = [], []
    for fold in folds:
        codes = laid.codes
        if columns["control"] == "permuted":
            trains = [part for other in folds if other.seed == fold.seed for part in other.train]
            codes = permuted_labels(codes, trains, fold.seed)
        features = centered(X, laid, fold) if center else X
        for pair in pairs_of(laid, fold, step):
            fitted = fit(
                learner, rows_at(features, pair.train), codes[pair.like], laid.together[pair.like],
                n_inner=n_inner, seed=fold.seed,
            )  # fmt: skip
            chosen = fitted.chosen | _top(fitted, columns, rows_at(features, pair.train))
            for target, setting in pair.targets:
                test = fold.test[target]
                found = predict(fitted, rows_at(features, test), test, codes[test], n_classes)
                rows.append(
                    {
                        **columns, "train_on": laid.names[pair.source], "test_on": laid.names[target],
                        "setting": setting, "seed": fold.seed, "fold": fold.number,
                        "n_train": len(pair.train), "n_test": len(test),
                        "validation": fitted.validation,
                        "chosen": fitted.chosen if setting == "zero_shot" else chosen,
                        **figures_of(found, n_classes),
                    }
                )  # fmt: skip
                predictions.append(found)
    return rows, predictions


def _top(fitted: Fitted, columns: Mapping[str, Any], X: Any) -> dict[str, Any]:
    """Return the latents that move decisions most, where the features are latents."""
    if columns["kind"] not in {"sae", "random_sae"} or columns["control"] != "none":
        return {}
    return {"top_latents": top_latents(fitted.pipeline, X, N_TOP)}


def centered(X: Any, laid: Languages, fold: LanguageFold) -> np.ndarray:
    """Return rows less the mean of their language's training part; translations' less that of theirs."""
    is_sparse = bool(sp.issparse(X))
    rows: np.ndarray = X.toarray() if is_sparse else np.array(X, copy=True)
    means = [rows[part].mean(axis=0, dtype=np.float64).astype(rows.dtype) for part in fold.rest]
    for language, mean in enumerate(means):
        rows[laid.starts[language] : laid.starts[language + 1]] -= mean
    for (source, _), start in laid.translated.items():
        first, last = (int(end) for end in laid.starts[source : source + 2])
        trained = fold.rest[source] - first + start
        mean = rows[trained].mean(axis=0, dtype=np.float64).astype(rows.dtype)
        rows[start : start + last - first] -= mean
    return rows
