"""Folds that all methods share: drawn once, equal items and groups on one side."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from sae_features.errors import InvalidInputError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Fold(NamedTuple):
    """One split into training and test part."""

    seed: int
    """Which repetition; 0 where the split was given."""
    number: int
    """Which fold of it."""
    train: np.ndarray
    """Positions of the training part, ascending, int64."""
    test: np.ndarray
    """Positions of the test part, ascending, int64."""


def draw_folds(
    codes: np.ndarray,
    together: np.ndarray,
    n_folds: int,
    seed: int,
    *,
    name: str = "The data set",
    classes: Sequence[str] | None = None,
) -> list[Fold]:
    """Return folds in which every class occurs on both sides, as far as its groups allow.

    Parameters
    ----------
    codes : ndarray of shape (n,), int
        Class of each item.
    together : ndarray of shape (n,), int
        Items with equal numbers stay on one side: see
        :func:`~sae_features.evaluation.leakage.joint_groups`.
    n_folds : int
        At least 2.
    seed : int
        Decides the folds, and is recorded in them.
    name : str
        What messages call the items.
    classes : sequence of str, optional
        What they call classes.

    Raises
    ------
    InvalidParameterError
        If ``n_folds`` is less than 2.
    InvalidInputError
        If there is one class only, or a class has fewer groups than there are folds.

    Examples
    --------
    >>> codes = np.array([0, 1, 0, 1])
    >>> [fold.test.tolist() for fold in draw_folds(codes, np.array([0, 1, 2, 3]), 2, seed=0)]
    [[1, 2], [0, 3]]
    """
    if n_folds < 2:
        raise InvalidParameterError(f"Got {n_folds} folds; expected at least 2.")
    check_classes(codes, together, n_folds, name, classes)
    folds = [
        Fold(seed, number, np.sort(train), np.sort(test))
        for number, (train, test) in enumerate(_split(codes, together, n_folds, seed))
    ]
    for fold in folds:
        check_parts(codes, fold.train, fold.test, f"{name}, fold {fold.number} of seed {seed}", classes)
    return folds


def inner_folds(
    codes: np.ndarray, together: np.ndarray, n_folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Return folds of a training part by which choices are made, or None where it is too small.

    Where a class has fewer groups than ``n_folds``, there are as many folds as it has; with a single one
    there is nothing to choose by.
    """
    groups_of = _groups_of_classes(codes, together)
    n_folds = min(n_folds, min(groups_of.values(), default=0))
    if n_folds < 2 or len(groups_of) < 2:
        return None
    folds = list(_split(codes, together, n_folds, seed))
    # with large groups a fold may lack a class; it says nothing of a choice
    return [pair for pair in folds if len(np.unique(codes[pair[0]])) == len(groups_of)] or None


def check_classes(
    codes: np.ndarray,
    together: np.ndarray,
    n_folds: int,
    name: str,
    classes: Sequence[str] | None = None,
) -> None:
    """Raise where there is one class, or fewer groups of a class than folds."""
    groups_of = _groups_of_classes(codes, together)
    if len(groups_of) < 2:
        raise InvalidInputError(f"{name} has one class only; expected at least two.")
    code, fewest = min(groups_of.items(), key=lambda pair: pair[1])
    if fewest < n_folds:
        message = (
            f"{name}: {_called(code, classes)} has {fewest} different items or groups, fewer than the "
            f"{n_folds} folds; give fewer folds, or more items of it."
        )
        raise InvalidInputError(message)


def check_parts(
    codes: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    name: str,
    classes: Sequence[str] | None = None,
) -> None:
    """Raise where a class is absent on one side of a split."""
    for part, positions in (("training", train), ("test", test)):
        absent = sorted(set(codes.tolist()) - set(codes[positions].tolist()))
        if absent:
            message = (
                f"{name}: {_called(absent[0], classes)} is absent in the {part} part; give fewer folds, "
                "another seed, or more items of it."
            )
            raise InvalidInputError(message)


def _called(code: int, classes: Sequence[str] | None) -> str:
    return f"class number {code}" if classes is None else f"class {classes[code]!r}"


def _split(
    codes: np.ndarray, together: np.ndarray, n_folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if len(np.unique(together)) == len(together):
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
        return folds.split(codes, codes)
    grouped = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return grouped.split(codes, codes, together)


def _groups_of_classes(codes: np.ndarray, together: np.ndarray) -> dict[int, int]:
    pairs = set(zip(codes.tolist(), together.tolist(), strict=True))
    return dict(sorted(Counter(code for code, _ in pairs).items()))
