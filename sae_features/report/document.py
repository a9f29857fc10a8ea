"""What a report consists of, before it is HTML or Markdown; all texts are as they came, unescaped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import category

if TYPE_CHECKING:
    from collections.abc import Iterable


class Cell(NamedTuple):
    """What stands in a cell of a table."""

    text: str
    note: str = ""
    """What is said small beside it: an interval."""
    is_best: bool = False
    """Whether validation prefers it."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """What was typed, or what a file holds."""

    text: str
    summary: str = ""
    """If there is one, the code is folded away behind it."""


@dataclass(frozen=True)
class Table:
    """A table; the first column names its rows."""

    title: str
    columns: tuple[str, ...]
    """All empty where a table needs no heads."""
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    """How it is to be read."""
    is_folded: bool = False
    """Whether it is folded away until it is asked for."""


@dataclass(frozen=True)
class Picture:
    """A drawing."""

    name: str
    """Of its file, without an ending."""
    svg: bytes
    alt: str
    """What it shows, for those who do not see it."""
    caption: str


@dataclass(frozen=True)
class Notices:
    """What a reader must not miss."""

    texts: tuple[str, ...]


class Example(NamedTuple):
    """An item that a latent fires on: a text with a token marked, or a picture with a patch."""

    value: float | None
    before: str = ""
    token: str = ""
    after: str = ""
    png: bytes | None = None
    title: str = ""
    """Which item it is."""


@dataclass(frozen=True)
class LatentCard:
    """A latent with what it fires on."""

    title: str
    facts: tuple[tuple[str, str], ...]
    examples: tuple[Example, ...]


Block = Text | Code | Table | Picture | Notices | LatentCard


@dataclass(frozen=True)
class Section:
    """A part of a report with a title."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    sections: tuple[Section, ...] = field(default=())


def plain_cells(values: Iterable[object]) -> tuple[Cell, ...]:
    """Return values as the cells of a row; None is a dash.

    Examples
    --------
    >>> [cell.text for cell in plain_cells(["bbc", 1200, 0.25, None])]
    ['bbc', '1,200', '0.25', '–']
    """
    return tuple(Cell(shown(value)) for value in values)


def shown(value: object) -> str:
    """Return a plain value as people read it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    r"""Return a text without characters that no page may hold: controls and halves of pairs.

    Marks that join or direct letters stay, without which many scripts cannot be read.

    Examples
    --------
    >>> printable("a\x00b\ud800\n") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}\n"
    True
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if category(c) in {"Cc", "Cs"} and c not in "\n\t" else c
        for c in text.replace("\r\n", "\n").replace("\r", "\n")
    )
