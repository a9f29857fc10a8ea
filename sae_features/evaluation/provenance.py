"""What was run, on what, and by which versions."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.labelled import LabelledItems

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    import numpy as np

PACKAGES = ("sae-features", "torch", "transformers", "scikit-learn", "numpy", "scipy")


def about_run(
    protocol: str, settings: Mapping[str, Any], data_sets: Sequence[LabelledItems]
) -> dict[str, Any]:
    """Return what results are of, as plain values."""
    return {
        "protocol": protocol,
        "settings": dict(settings),
        "data": {
            data.name: {"source": dict(data.source), "digest": data.digest()} for data in data_sets
        },
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def about_labels(data: LabelledItems, digests: Sequence[Hashable]) -> dict[str, Any]:
    """Return how many items there are, how many different, and how many of each class."""
    codes = data.codes()
    return {
        "n_items": len(data),
        "n_different": len(set(digests)),
        "n_conflicting": count_conflicting(digests, codes),
        "n_groups": None if data.groups is None else len(set(data.groups)),
        "classes": {name: int((codes == i).sum()) for i, name in enumerate(data.classes)},
    }


def count_conflicting(digests: Sequence[Hashable], codes: np.ndarray) -> int:
    """Return how many different items have several labels.

    Examples
    --------
    >>> import numpy as np
    >>> count_conflicting(["a", "a", "b", "b"], np.array([0, 1, 1, 1]))
    1
    """
    labels: dict[Hashable, set[int]] = {}
    for digest, code in zip(digests, codes.tolist(), strict=True):
        labels.setdefault(digest, set()).add(code)
    return sum(len(found) > 1 for found in labels.values())


def check_data_sets(data_sets: LabelledItems | Iterable[LabelledItems]) -> list[LabelledItems]:
    """Return data sets as a list; raise where there is none, two have one name, or one has one class."""
    listed = [data_sets] if isinstance(data_sets, LabelledItems) else list(data_sets)
    if not listed:
        raise InvalidParameterError("Got no data set; expected at least one.")
    seen: set[str] = set()
    for data in listed:
        if data.name in seen:
            raise InvalidParameterError(f"Got two data sets called {data.name!r}; expected other names.")
        seen.add(data.name)
        if len(data.classes) < 2:
            message = f"{data.name} has the one label {data.classes[0]!r}; expected at least two."
            raise InvalidInputError(message)
    return listed
