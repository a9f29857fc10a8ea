"""A report as Markdown (GitHub's kind), with its pictures in files beside it."""

from __future__ import annotations

import re
from functools import singledispatch
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sae_features.report.document import Code, LatentCard, Notices, Picture, Table, Text, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sae_features.report.document import Block, Cell, Document, Example

BEST: Final = "★"
MARKUP: Final = re.compile(r"[\\`*_\[\]|~$]|:(?=//)|(?<=www)\.|^[-+=#]")
"""What could begin markup where a text may stand: emphasis, links, cells, headings, lists."""
NUMBERED: Final = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
"""What begins a numbered list."""


def as_markdown(document: Document, pictures: str) -> tuple[str, dict[str, bytes]]:
    """Return a report as Markdown, and its pictures by the names of their files.

    Parameters
    ----------
    document : Document
    pictures : str
        Name of the folder that they will lie in, beside the Markdown file.
    """
    writer = _Writer(pictures)
    parts = [f"# {_text(document.title)}"]
    for section in document.sections:
        parts.append(f"## {_text(section.title)}")
        parts += [_block(block, writer) for block in section.blocks]
    return "\n\n".join(parts) + "\n", writer.files


class _Writer:
    """Keeps pictures, and says how they are linked to."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}

    def link(self, name: str, data: bytes, alt: str) -> str:
        self.files[name] = data
        return f"![{_text(alt)}]({quote(self.folder)}/{quote(name)})"


@singledispatch
def _block(block: Block, writer: _Writer) -> str:
    raise NotImplementedError(type(block))


@_block.register
def _(block: Text, writer: _Writer) -> str:  # noqa: ARG001
    return _text(block.text)


@_block.register
def _(block: Code, writer: _Writer) -> str:  # noqa: ARG001
    longest = max(map(len, re.findall(r"`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    code = f"{fence}\n{printable(block.text)}\n{fence}"
    return _folded(block.summary, code) if block.summary else code


@_block.register
def _(block: Notices, writer: _Writer) -> str:  # noqa: ARG001
    return "\n".join(f"- {_text(text)}" for text in block.texts)


@_block.register
def _(block: Picture, writer: _Writer) -> str:
    return f"{writer.link(f'{block.name}.svg', block.svg, block.alt)}\n\n{_text(block.caption)}"


@_block.register
def _(block: Table, writer: _Writer) -> str:  # noqa: ARG001
    lines = [_line(map(_text, block.columns)), _line("---" for _ in block.columns)]
    lines += [_line(map(_cell, row)) for row in block.rows]
    table = "\n".join(lines)
    note = _text(block.note)
    if block.is_folded:
        return _folded(block.title, f"{note}\n\n{table}" if note else table)
    return f"**{_text(block.title)}** {note}\n\n{table}"


@_block.register
def _(block: LatentCard, writer: _Writer) -> str:
    facts = " · ".join(f"{_text(name)}: {_text(value)}" for name, value in block.facts)
    lines = [f"### {_text(block.title)}", *([facts] if facts else [])]
    pictures = [example for example in block.examples if example.png is not None]
    if pictures:
        lines.append(" ".join(_picture(example, writer) for example in pictures))
    texts = [_example(example) for example in block.examples if example.png is None]
    return "\n\n".join([*lines, *(["\n".join(texts)] if texts else [])])


def _picture(example: Example, writer: _Writer) -> str:
    number = sum(name.startswith("patch") for name in writer.files) + 1
    value = "" if example.value is None else f" {example.value:.3g}"
    return writer.link(f"patch_{number:03}.png", example.png or b"", example.title) + _text(value)


def _example(example: Example) -> str:
    value = "" if example.value is None else f"{example.value:.3g}: "
    token = f"<b>{_text(example.token)}</b>" if example.token else ""
    return f"- {_text(value)}“{_text(example.before)}{token}{_text(example.after)}”"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    text = _text(cell.text) + (f" ({_text(cell.note)})" if cell.note else "")
    return f"**{text}** {BEST}" if cell.is_best else text


def _folded(summary: str, inner: str) -> str:
    # what stands between tags on lines of their own is HTML, where backslashes do not escape
    shown = escape(" ".join(printable(summary).split()))
    return f"<details>\n<summary>{shown}</summary>\n\n{inner}\n\n</details>"


def _text(text: str) -> str:
    r"""Return a text on one line in which nothing is markup.

    Examples
    --------
    >>> _text("a|b\n<script> *x*")
    'a\\|b &lt;script&gt; \\*x\\*'
    """
    # a space at either end stays: it parts a marked token from what is around it
    line = re.sub(r"\s+", " ", printable(text))
    line = MARKUP.sub(lambda found: "\\" + found[0], line)
    return escape(NUMBERED.sub(r"\1\\\2", line), quote=False)
