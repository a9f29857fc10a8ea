"""The latents that decide, of the method that validation prefers, with what they fire on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import Pipeline

from sae_features.evaluation.fitting import fit, learner_of
from sae_features.evaluation.importance import latent_importance
from sae_features.evaluation.leakage import joint_groups
from sae_features.evaluation.results import write_whole
from sae_features.evaluation.summaries import summarise
from sae_features.evaluation.top_activations import top_items

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sae_features.evaluation.labelled import LabelledItems
    from sae_features.evaluation.results import Results
    from sae_features.evaluation.sweep import FeatureSweep
    from sae_features.evaluation.top_activations import TopItem

FILE = "latents.json"
LINEAR = ("logistic", "linear_svc", "ridge")
N_DATA_SETS = 3


def strongest_latents(
    sweep: FeatureSweep,
    data_sets: Iterable[LabelledItems],
    results: Results,
    *,
    n_latents: int = 8,
    n_items: int = 4,
) -> list[dict[str, Any]]:
    """Return the latents that decide most, of the SAE method that the inner folds prefer.

    The method is fitted once more, on all items (of a split that was given, on its training part).

    Parameters
    ----------
    sweep : FeatureSweep
        What was run.
    data_sets : iterable of LabelledItems
        On what; the first three are told of.
    results : Results
        What came of it.
    n_latents, n_items : int
        Latents of each data set, and items for each.

    Returns
    -------
    list of dict
        As :func:`~sae_features.evaluation.importance.latent_importance` gives them, with ``dataset``,
        ``method``, ``fitted on`` and ``top``, as :func:`sae_features.report.write_report` takes them.
        Empty where no SAE, or no linear classifier, was compared.
    """
    records: list[dict[str, Any]] = []
    for data in list(data_sets)[:N_DATA_SETS]:
        rows = [
            row
            for row in results.rows
            if row["dataset"] == data.name
            and row["kind"] == "sae"
            and row["control"] == "none"
            and row["classifier"] in LINEAR
        ]
        if rows:
            means = summarise(rows, ("method", "classifier"), "validation")
            best = max(means, key=lambda each: each.mean or 0.0).group
            records += _of_data(sweep, data, best, n_latents, n_items)
    return records


def _of_data(
    sweep: FeatureSweep, data: LabelledItems, best: dict[str, Any], n_latents: int, n_items: int
) -> list[dict[str, Any]]:
    (method,) = (
        each for each in sweep.methods(data.items, data.modality) if each.name == best["method"]
    )
    (classifier,) = (each for each in sweep.classifiers if each.kind == best["classifier"])
    part = "all" if data.split is None else "the training part's"
    if data.split is not None:
        data = data.take(np.flatnonzero(data.split == "train"))
    featurizer: Any = method.featurizer
    X = featurizer.fit_transform(data.items)
    learner = learner_of(method, classifier, n_classes=len(data.classes))
    together = joint_groups(data.digests(), data.groups)
    fitted = fit(learner, X, data.codes(), together, n_inner=sweep.inner, seed=sweep.seed)
    whole = Pipeline([("features", featurizer), *fitted.pipeline.steps])
    found = _distinct(latent_importance(whole, data.items))[:n_latents]
    tops = top_items(featurizer, data.items, [each["latent"] for each in found], n_items, n_tokens=1)
    fitted_on = f"{part} {len(data.items):,} items"
    named = {"dataset": data.name, "method": method.name, "fitted on": fitted_on}
    return [
        each
        | {"class": data.classes[each["class"]]}
        | named
        | {"top": [_plain(item, data) for item in tops[each["latent"]]]}
        for each in found
    ]


def _distinct(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each latent once, where it counts most."""
    first: dict[int, dict[str, Any]] = {}
    for each in records:  # the most important first
        first.setdefault(each["latent"], each)
    return list(first.values())


def _plain(top: TopItem, data: LabelledItems) -> dict[str, Any]:
    item = data.items[top.item]
    token = top.tokens[0].token if top.tokens else None
    if not isinstance(item, str):
        shown = str(item) if isinstance(item, Path) else item
        return {"image": shown, "value": top.value, "box": None if token is None else token.box}
    if token is None:
        return {"text": item, "value": top.value}
    return {"before": token.before, "token": token.text, "after": token.after, "value": top.value}


def keep_strongest(
    folder: Path, sweep: FeatureSweep, data_sets: Iterable[LabelledItems], results: Results
) -> list[dict[str, Any]]:
    """Return the strongest latents of results, made once and kept beside them."""
    kept = _read(folder, results)
    if kept is not None:
        return kept
    records = strongest_latents(sweep, data_sets, results)
    try:
        found = {"of": _digest_of(results), "latents": records}
        content = json.dumps(found, ensure_ascii=False, indent=1)
    except TypeError:  # pictures that are no files
        return records
    write_whole(folder / FILE, content.encode())
    return records


def kept_latents(folder: Path, results: Results) -> list[dict[str, Any]]:
    """Return the latents that were kept beside results; none where those there are of other results."""
    return _read(folder, results) or []


def _read(folder: Path, results: Results) -> list[dict[str, Any]] | None:
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return list(found["latents"]) if found["of"] == _digest_of(results) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest_of(results: Results) -> str:
    """Return the SHA-256 of what decides the figures of results."""
    cells = sorted({row["cell"] for row in results.rows})
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()
