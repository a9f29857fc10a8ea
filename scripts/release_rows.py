"""Templates and packed rows of a release table, from the texts that they stand for."""

from __future__ import annotations

import itertools
import re
from typing import Any

NUMBERS = re.compile(r"\d+[km]?(?![a-z\d])|\d+")


def template_of(
    texts: list[str], columns: dict[str, list[str]], name: str, *, whole: bool = False
) -> str:
    """Return a template that gives these texts; columns are added for what the others do not give.

    Parameters
    ----------
    texts : list of str
        One of each row.
    columns : dict of str to list of str
        By name, a value of each row.
    name : str
        What to call a column that must be added.
    whole : bool, default=False
        Whether the text is one value, not words with numbers in them.
    """
    pieces = [[text] if whole else re.split(f"({NUMBERS.pattern})", text) for text in texts]
    if len({tuple(piece[::2]) for piece in pieces}) > 1 and not whole:
        pieces = [[text] for text in texts]
    result = ""
    for place, values in enumerate(zip(*pieces, strict=True)):
        found = [column for column, own in columns.items() if own == list(values)]
        named = [column for column in found if re.search(rf"(?<![a-z]){column}_?$", result)]
        if named:
            result += f"{{{named[0]}}}"
        elif len(set(values)) == 1:
            result += values[0]
        elif found:
            result += f"{{{found[0]}}}"
        else:
            before = re.search(r"([a-z]+\d?)_?$", pieces[0][place - 1]) if place else None
            free = before[1] if before and before[1] not in columns and not whole else name
            column = next(c for c in (free, *(f"{name}_{i}" for i in range(9))) if c not in columns)
            columns[column] = list(values)
            result += f"{{{column}}}"
    return result


def packed(rows: list[tuple[str, ...]]) -> list[str]:
    """Return lines of values, as few as joining values in one column at a time gives."""
    lines = [tuple((value,) for value in row) for row in rows]
    while True:
        tries = [joined(lines, column) for column in reversed(range(len(lines[0])))]
        best = min(tries, key=len)
        if len(best) == len(lines):
            return [" ".join(cell_of(values) for values in line) for line in lines]
        lines = best


def joined(lines: list[tuple[tuple[str, ...], ...]], column: int) -> list[tuple[tuple[str, ...], ...]]:
    """Join the lines that differ in one column only."""
    groups: dict[Any, tuple[str, ...]] = {}
    for line in lines:
        rest = line[:column], line[column + 1 :]
        groups[rest] = groups.get(rest, ()) + line[column]
    return [(*before, values, *after) for (before, after), values in groups.items()]


def cell_of(values: tuple[str, ...]) -> str:
    """Return values of one column, three or more integers in a row as a range."""
    cells = []
    for _, run in itertools.groupby(
        enumerate(values), lambda item: int(item[1]) - item[0] if item[1].isdecimal() else item[1]
    ):
        texts = [text for _, text in run]
        cells += [f"{texts[0]}..{texts[-1]}"] if len(texts) > 2 else texts
    return ",".join(cells)


def natural(text: str) -> list[Any]:
    """Return a sorting key by which 2 goes before 10."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"(\d+)", text) if t]
