"""Labelled items: what a protocol is run on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InvalidInputError
from sae_features.items import check_items
from sae_features.parameters import check_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

SPLITS = ("train", "test")


@dataclass(frozen=True, repr=False)
class LabelledItems:
    """Texts or images with a label each.

    Parameters
    ----------
    name : str
        What results call them: a data set or a language.
    items : sequence
        Texts, or images as featurizers take them (paths as ``Path``).
    labels : sequence of str, int or bool
        One per item; kept as text (``1`` and ``"1"`` are one label, ``True`` is ``"true"``).
    groups : sequence, optional
        Items of one group (an author, a template) stay on one side of every split.
    split : sequence of {"train", "test"}, optional
        A split that was given; without one, folds are drawn.
    source : mapping, optional
        Where they come from, as plain values.

    Attributes
    ----------
    items : list
    labels, groups, split : ndarray of shape (n,), object, of str
    classes : tuple of str
        The different labels, sorted; numbers by size.

    Raises
    ------
    InvalidInputError
        If lengths differ, a label is missing, or a split is neither ``"train"`` nor ``"test"``.

    Examples
    --------
    >>> data = LabelledItems("reviews", ["good", "bad"], [1, 0])
    >>> data.classes, data.codes().tolist()
    (('0', '1'), [1, 0])
    """

    name: str
    items: Any
    labels: Any
    groups: Any = None
    split: Any = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take plain sequences, and check them."""
        items = list(self.items)
        object.__setattr__(self, "items", items)
        for name in ("labels", "groups", "split"):
            values = getattr(self, name)
            if values is None:
                continue
            values = values.tolist() if isinstance(values, np.ndarray) else list(values)
            if len(values) != len(items):
                message = (
                    f"{self.name}: got {len(values)} {name} for {len(items)} items; expected one each."
                )
                raise InvalidInputError(message)
            texts = [as_text(value, f"{self.name}: {name}", i) for i, value in enumerate(values)]
            object.__setattr__(self, name, np.array(texts, dtype=object))
        if not items:
            raise InvalidInputError(f"{self.name} has no items; expected at least one.")
        if self.split is not None and (unknown := sorted(set(self.split) - set(SPLITS))):
            message = (
                f"{self.name}: got split={unknown[0]!r}; expected 'train' or 'test'. Leave other rows "
                "(such as 'val') out, or call them one of the two."
            )
            raise InvalidInputError(message)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}: {len(self):,} items, {len(self.classes)} classes)"

    @property
    def classes(self) -> tuple[str, ...]:
        """The different labels."""
        return sorted_labels(set(self.labels))

    @property
    def modality(self) -> str:
        """``"text"`` if there are texts, or else ``"image"``."""
        return "text" if any(isinstance(item, str) for item in self.items) else "image"

    def codes(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Return the number of each item's class, int64, among the classes given or its own.

        Raises
        ------
        InvalidInputError
            If an item has another label.
        """
        numbers = {name: i for i, name in enumerate(self.classes if classes is None else classes)}
        if other := sorted(set(self.labels) - set(numbers)):
            message = f"{self.name} has the label {other[0]!r}; expected one of {', '.join(numbers)}."
            raise InvalidInputError(message)
        return np.array([numbers[label] for label in self.labels], np.int64)

    def digests(self) -> list[bytes]:
        """Return the SHA-256 of each item: equal items have equal ones."""
        return check_items(self.items, (self.modality,)).digests()  # type: ignore[arg-type]

    def digest(self) -> str:
        """Return the SHA-256 of items, labels, groups and split, in order."""
        total = hashlib.sha256()
        for i, item in enumerate(self.digests()):
            rest = [None if part is None else part[i] for part in (self.labels, self.groups, self.split)]
            total.update(item + json.dumps(rest).encode())
        return total.hexdigest()

    def take(self, positions: Sequence[int] | np.ndarray) -> Self:
        """Return some of the items, in the order given."""
        chosen = np.asarray(positions, np.int64)
        parts: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[chosen]
            for name in ("labels", "groups", "split")
        }
        return replace(self, items=[self.items[i] for i in chosen], **parts)

    def sample(self, n_items: int, seed: int = 0) -> Self:
        """Return at most so many items, in order, of each label (and side of a split) about its share.

        Raises
        ------
        InvalidParameterError
            If ``n_items`` is no integer above 0.
        """
        check_count("n_items", n_items)
        if n_items >= len(self):
            return self
        strata = self.labels if self.split is None else self.labels + "\0" + self.split
        return self.take(np.sort(stratified_sample(strata, n_items, seed)))


def stratified_sample(strata: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return ``n`` different positions, from each stratum about its share, in random order.

    A larger sample of the same strata and seed holds every smaller one of at least as many items as
    there are strata.

    Examples
    --------
    >>> chosen = stratified_sample(np.array(list("aaaabb")), 3, seed=0)
    >>> sorted(np.array(list("aaaabb"))[chosen].tolist())
    ['a', 'a', 'b']
    """
    order = np.random.default_rng(seed).permutation(len(strata))
    rank = np.empty(len(strata))
    for name in sorted(set(strata)):  # the i-th of a stratum comes at (i + 1/2) / its size of the way
        members = order[strata[order] == name]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
        rank[members[0]] = -1.0  # no stratum is left out
    position = np.empty(len(strata))
    position[order] = np.arange(len(strata))
    return np.lexsort((position, rank))[:n]


def sorted_labels(labels: set[str]) -> tuple[str, ...]:
    """Return labels in order: by number if all are whole numbers, or else by text.

    Examples
    --------
    >>> sorted_labels({"10", "9"}), sorted_labels({"b", "10", "9"})
    (('9', '10'), ('10', '9', 'b'))
    """
    try:
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(labels))


def as_text(value: Any, what: str, where: object) -> str:
    """Return a label as text; one that is missing or not a whole number is an error.

    Parameters
    ----------
    value : str, int, bool or float
    what, where : str, object
        What messages call it, and the place of the item.

    Examples
    --------
    >>> [as_text(value, "label", 0) for value in (1, "1", 1.0, True)]
    ['1', '1', '1', 'true']
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        message = f"{what}: got {value!r} at item {where}; expected a text or a whole number."
        raise InvalidInputError(message)
    return value
