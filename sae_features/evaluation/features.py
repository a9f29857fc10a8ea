"""Rows of features of methods: each item runs through each model once, for all methods that read it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sklearn.base import clone

from sae_features.evaluation.fitting import active_of, width_of
from sae_features.featurizer import warm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sae_features.evaluation.methods import Method

MADE_OF_WHAT_IS_KEPT = ("pooling", "threshold", "binarize")
CHANGES_NO_FEATURE = ("cache", "device", "batch_size", "verbose", "sparse_output", "feature_names")
DIGESTS = ("model_digest_", "processor_digest_", "sae_digest_")


def warm_methods(methods: Iterable[Method], items: Sequence[Any], *, is_shown: bool = False) -> None:
    """Read each item once per model, for all layers, SAEs and poolings.

    Parameters
    ----------
    methods : iterable of Method
        Those with ``cache=False`` keep nothing and are left out.
    items : sequence
    is_shown : bool
        Whether to show progress.
    """
    together: dict[str, dict[str, Any]] = defaultdict(dict)
    for method in methods:
        featurizer = method.featurizer
        if featurizer is not None and featurizer.get_params()["cache"] is not False:
            given = featurizer.get_params()
            kept = {name: value for name, value in given.items() if name not in MADE_OF_WHAT_IS_KEPT}
            computation = repr((type(featurizer).__name__, sorted(kept.items())))
            own = clone(featurizer).set_params(verbose=is_shown)
            together[str(given["model"])].setdefault(computation, own)
    for featurizers in together.values():
        warm(list(featurizers.values()), items)


def rows_of(method: Method, items: Sequence[Any]) -> Any:
    """Return what is learned from: rows of features, or the items themselves."""
    return list(items) if method.featurizer is None else method.featurizer.transform(items)


def components_of(method: Method, others: Mapping[str, Method], items: Sequence[Any]) -> int | None:
    """Return how many components a projection has: as many as a row of latents has active features."""
    if method.components_of is None or method.featurizer is None:
        return None
    rows = rows_of(others[method.components_of], items)
    width = width_of(rows_of(method, items[:1])) or 1
    return max(1, min(round(active_of(rows) or 1), width))


def identity_of(method: Method, items: Sequence[Any]) -> dict[str, Any]:
    """Return what decides the rows of a method, as plain values: parameters and digests of weights."""
    parts: dict[str, Any] = {
        "kind": method.kind,
        "name": method.name,
        "steps": [repr(step) for _, step in method.steps],
        "scalings": method.scalings,
        "components_of": method.components_of,
    }
    if method.featurizer is not None:
        fitted = clone(method.featurizer).fit(items[:1])
        given = fitted.get_params()
        parts["parameters"] = {
            name: value
            for name, value in sorted(given.items())
            if name not in {*CHANGES_NO_FEATURE, "model", "sae"}  # digests say it, wherever files lie
        }
        parts["digests"] = [getattr(fitted, name, None) for name in DIGESTS]
    return parts
