"""Parts of several languages: which items train and test in each fold, the same sizes for all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sae_features.errors import InvalidInputError
from sae_features.evaluation.labelled import stratified_sample
from sae_features.evaluation.leakage import joint_groups
from sae_features.evaluation.splits import check_classes, check_parts, draw_folds
from sae_features.items import check_items
from sae_features.parameters import check_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.evaluation.labelled import LabelledItems


class LanguageFold(NamedTuple):
    """One split of all languages at once."""

    seed: int
    """Which repetition."""
    number: int
    """Which fold of it."""
    train: list[np.ndarray]
    """Positions of each language's training part, all of one size, int64."""
    rest: list[np.ndarray]
    """The whole training part of each language, in random order: few-shot items are its first ones."""
    test: list[np.ndarray]
    """Positions of each language's test part, int64."""


@dataclass(frozen=True)
class Languages:
    """Data sets of several languages, laid end to end.

    Attributes
    ----------
    names : list of str
    items : list
        Of all languages, and behind them translations.
    codes : ndarray of int64
        Class of each item.
    together : ndarray of int64
        Items with equal numbers are equal, or of one group.
    classes : tuple of str
    starts : ndarray of int64, shape (n_languages + 1,)
        Where each language begins.
    translated : mapping of (int, int) to int
        Where the translation of a language's items into another begins.
    digests : list of bytes
        Of all items.
    groups : ndarray or None
    """

    names: list[str]
    items: list[Any]
    codes: np.ndarray
    together: np.ndarray
    classes: tuple[str, ...]
    starts: np.ndarray
    translated: dict[tuple[int, int], int]
    digests: list[bytes]
    groups: np.ndarray | None

    def digest_of(self, start: int, language: int) -> str:
        """Return the SHA-256 of a language's translations, which begin at ``start``, in order."""
        n_items = int(self.starts[language + 1] - self.starts[language])
        return hashlib.sha256(b"".join(self.digests[start : start + n_items])).hexdigest()

    def of(self, position: int | np.ndarray) -> Any:
        """Return the language of positions (of translations, that after the last)."""
        return np.searchsorted(self.starts, position, side="right") - 1


def lay_together(
    languages: Sequence[LabelledItems],
    translated: Mapping[tuple[str, str], Sequence[Any]] | None = None,
) -> Languages:
    """Lay the data of several languages end to end.

    Parameters
    ----------
    languages : sequence of LabelledItems
        With the same labels; groups that have one name are one group across languages.
    translated : mapping of (str, str) to sequence, optional
        Translations of all items of the first language into the second, in order.

    Raises
    ------
    InvalidInputError
        If there is one language only, labels differ, or a translation lacks items.
    """
    if len(languages) < 2:
        raise InvalidInputError(f"Got {len(languages)} language; expected at least two.")
    classes = languages[0].classes
    for data in languages[1:]:
        if data.classes != classes:
            message = (
                f"{languages[0].name} has the labels {', '.join(classes)}, but {data.name} has "
                f"{', '.join(data.classes)}; expected the same in all languages."
            )
            raise InvalidInputError(message)
    with_groups = [data.name for data in languages if data.groups is not None]
    if with_groups and len(with_groups) < len(languages):
        lacking = next(data.name for data in languages if data.groups is None)
        raise InvalidInputError(
            f"{with_groups[0]} has groups, but {lacking} has none; give both or none."
        )
    names = [data.name for data in languages]
    items = [item for data in languages for item in data.items]
    digests = [digest for data in languages for digest in data.digests()]
    groups = np.concatenate([data.groups for data in languages]) if with_groups else None
    starts = np.cumsum([0, *(len(data) for data in languages)])
    places: dict[tuple[int, int], int] = {}
    for (source, target), texts in (translated or {}).items():
        for name in (source, target):
            if name not in names:
                message = f"Got a translation from {source} into {target}; expected languages of "
                message += f"{', '.join(names)}."
                raise InvalidInputError(message)
        first = names.index(source)
        if len(texts) != len(languages[first]):
            message = (
                f"Got {len(texts)} translations of {source} into {target}; expected "
                f"{len(languages[first])}, one for each item, in order."
            )
            raise InvalidInputError(message)
        places[first, names.index(target)] = len(items)
        items += list(texts)
        digests += check_items(list(texts), ("text",)).digests()
    return Languages(
        names, items, np.concatenate([data.codes(classes) for data in languages]),
        joint_groups(digests[: starts[-1]], groups), classes, starts, places, digests, groups,
    )  # fmt: skip


def fold_languages(
    languages: Sequence[LabelledItems],
    laid: Languages,
    *,
    n_folds: int,
    n_repeats: int,
    seed: int,
    train_size: int | None = None,
) -> list[LanguageFold]:
    """Return folds of all languages at once: no item or group is on both sides, in any two languages.

    Where the languages have a split of their own, it is kept: one fold, drawn anew by each seed only in
    what is left out to make the training parts equally large.

    Parameters
    ----------
    languages : sequence of LabelledItems
    laid : Languages
    n_folds, n_repeats, seed : int
    train_size : int, optional
        Items of each training part; as many as the smallest has if not given.

    Raises
    ------
    InvalidInputError
        If some languages have a split and others none, or one has too few items.
    """
    given = [data.name for data in languages if data.split is not None]
    if given and len(given) < len(languages):
        lacking = next(data.name for data in languages if data.split is None)
        raise InvalidInputError(f"{given[0]} has a split, but {lacking} has none; give both or none.")
    language = laid.of(np.arange(laid.starts[-1]))
    for i, data in enumerate(languages if not given else ()):
        own = language == i
        check_classes(laid.codes[own], laid.together[own], n_folds, data.name, laid.classes)
    folds = []
    for each in range(seed, seed + n_repeats):
        if given:
            is_test = np.concatenate([data.split == "test" for data in languages])
            splits = [(0, np.flatnonzero(~is_test), np.flatnonzero(is_test))]
        else:
            called = [f"{label} of {name}" for name in laid.names for label in laid.classes]
            strata = language * len(laid.classes) + laid.codes
            drawn = draw_folds(
                strata, laid.together, n_folds, each, name="All languages together", classes=called
            )
            splits = [(fold.number, fold.train, fold.test) for fold in drawn]
        for number, train, test in splits:
            trains = [train[language[train] == i] for i in range(len(languages))]
            tests = [test[language[test] == i] for i in range(len(languages))]
            for name, one, other in zip(laid.names, trains, tests, strict=True):
                where = f"{name}, fold {number} of seed {each}"
                check_parts(laid.codes, one, other, where, laid.classes)
            folds.append(_fold(laid, (each, number), trains, tests, train_size))
    return folds


def _fold(
    laid: Languages,
    seed_and_number: tuple[int, int],
    trains: list[np.ndarray],
    tests: list[np.ndarray],
    train_size: int | None,
) -> LanguageFold:
    seed, number = seed_and_number
    check_count("train_size", train_size)
    smallest = min(range(len(trains)), key=lambda i: len(trains[i]))
    n = len(trains[smallest]) if train_size is None else train_size
    if n > len(trains[smallest]):
        message = (
            f"Got train_size={n}, but {laid.names[smallest]} has {len(trains[smallest])} items to train "
            "on; give fewer."
        )
        raise InvalidInputError(message)
    if n < len(laid.classes):
        raise InvalidInputError(f"Got train_size={n}; expected at least one item of each class.")
    rest = [
        train[stratified_sample(laid.codes[train].astype(str), len(train), seed)] for train in trains
    ]
    return LanguageFold(seed, number, [np.sort(part[:n]) for part in rest], rest, tests)
