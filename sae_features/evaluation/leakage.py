"""Items that stand on both sides of a split: found, reported, and dropped or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sae_features.errors import InvalidInputError, warn
from sae_features.parameters import check_choice

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

ON_LEAK = ("error", "drop", "warn")


class Leaks(NamedTuple):
    """What a test part shares with its training part."""

    n_items: int
    """Test items that are equal to a training item."""
    n_grouped: int
    """Other test items whose group has items in the training part."""
    positions: np.ndarray
    """All of them: positions in the data set, int64."""

    def __bool__(self) -> bool:
        return len(self.positions) > 0


def find_leaks(
    train: np.ndarray,
    test: np.ndarray,
    digests: Sequence[Hashable],
    groups: Sequence[Hashable] | np.ndarray | None = None,
) -> Leaks:
    """Return the test items that are equal to a training item or of a training item's group.

    Parameters
    ----------
    train, test : ndarray of int
        Positions of the two parts.
    digests : sequence
        What tells items apart, one for each item of the data set.
    groups : sequence, optional
        The group of each item.

    Examples
    --------
    >>> leaks = find_leaks(np.array([0, 1]), np.array([2, 3]), ["a", "b", "a", "c"])
    >>> leaks.n_items, leaks.positions.tolist()
    (1, [2])
    """
    seen = {digests[i] for i in train}
    equal = np.array([digests[i] in seen for i in test], bool)
    grouped = np.zeros(len(test), bool)
    if groups is not None:
        seen_groups = {groups[i] for i in train}
        grouped = np.array([groups[i] in seen_groups for i in test], bool) & ~equal
    return Leaks(int(equal.sum()), int(grouped.sum()), np.asarray(test, np.int64)[equal | grouped])


def treat_leaks(leaks: Leaks, test: np.ndarray, on_leak: str, where: str) -> np.ndarray:
    """Return the test part as ``on_leak`` wants it: as it is, or without what leaks.

    Parameters
    ----------
    leaks : Leaks
    test : ndarray of int
    on_leak : {"error", "drop", "warn"}
        ``"drop"`` takes leaking items out of the test part, so that the training part, and with it the
        trained classifier, is the same for all test parts.
    where : str
        What messages call the split.

    Raises
    ------
    InvalidInputError
        With ``"error"``, or if nothing is left.
    """
    check_choice("on_leak", on_leak, ON_LEAK)
    if not leaks:
        return test
    found = [f"{leaks.n_items} test items that are also trained on"] if leaks.n_items else []
    if leaks.n_grouped:
        found.append(f"{leaks.n_grouped} test items of groups that are also trained on")
    message = f"{where} has {' and '.join(found)}"
    if on_leak == "error":
        message += (
            f" (the first at position {leaks.positions[0]}); give on_leak='drop' or clean the data."
        )
        raise InvalidInputError(message)
    if on_leak == "warn":
        warn(f"{message}; they are kept, and scores may be too high. on_leak='drop' drops them.")
        return test
    left = test[~np.isin(test, leaks.positions)]
    if len(left) == 0:
        raise InvalidInputError(f"{message}; without them no test item is left.")
    return left


def joint_groups(
    digests: Sequence[Hashable], groups: Sequence[Hashable] | np.ndarray | None = None
) -> np.ndarray:
    """Return a number for each item, the same for all that must stay together.

    Equal items stay together, and items of one group, and so does what hangs together by both.

    Examples
    --------
    >>> joint_groups(["a", "b", "a", "c", "d"], ["1", "2", "3", "3", "2"]).tolist()
    [0, 1, 0, 0, 1]
    """
    n = len(digests)
    links = [_numbers(digests)]
    if groups is not None:
        links.append(_numbers(list(groups)))
    rows = np.tile(np.arange(n), len(links))
    width = 0
    columns = []
    for numbers in links:
        columns.append(numbers + width)
        width += int(numbers.max(initial=-1)) + 1
    membership = coo_matrix(
        (np.ones(len(rows), np.int8), (rows, np.concatenate(columns) + n)), shape=(n + width, n + width)
    )
    _, component = connected_components(membership, directed=False)
    return _numbers(component[:n].tolist())


def _numbers(values: Sequence[Hashable]) -> np.ndarray:
    """Return the number of each value, in order of first appearance."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)
