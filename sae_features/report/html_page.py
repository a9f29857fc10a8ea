"""A report as one HTML page that needs nothing else: no scripts, no requests, light and dark."""

from __future__ import annotations

import base64
from functools import singledispatch
from html import escape
from typing import TYPE_CHECKING, Final

from sae_features.report.document import Code, LatentCard, Notices, Picture, Table, Text, printable

if TYPE_CHECKING:
    from sae_features.report.document import Block, Cell, Document, Example, Section

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What browsers may load: nothing but what is in the page."""
STYLE: Final = """
:root { color-scheme: light dark; --text: #1a1a1a; --soft: #595959; --page: #fff; --line: #d4d4d4;
  --shade: #f4f5f7; --best: #e3f0f9; --mark: #ffdf8a; --ink: #1a1a1a; --warn: #a04000; --link: #005a96; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --soft: #a8a8a8; --page: #16181b;
  --line: #3b3f45; --shade: #202327; --best: #14364f; --mark: #8a6200; --ink: #fff; --warn: #ffb066;
  --link: #7cc0f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--text); background: var(--page);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin: 2.2rem 0 .6rem;
  border-bottom: 1px solid var(--line); padding-bottom: .2rem; } h3 { font-size: 1.05rem; margin: 0; }
a { color: var(--link); } nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0;
  list-style: none; }
p, figcaption, .caption { max-width: 46rem; } small, figcaption, .caption { color: var(--soft); }
.caption { margin: 1rem 0 .3rem; } figcaption { margin-top: .3rem; font-size: .93rem; }
.scroll { overflow: auto; max-height: 80vh; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; width: max-content; min-width: 100%;
  font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid
var(--line);
  max-width: 24rem; overflow-wrap: anywhere; }
td { white-space: nowrap; } td.long { white-space: normal; min-width: 14rem; }
thead th { position: sticky; top: 0; z-index: 2; background: var(--shade); min-width: 4.5rem; }
tbody th { position: sticky; left: 0; z-index: 1; background: var(--page); font-weight: normal;
  min-width: 7rem; max-width: 19rem; }
thead th:first-child { left: 0; z-index: 3; }
table.facts { width: 100%; } .facts td { white-space: normal; max-width: none; min-width: 0; }
td small { display: block; font-size: .8em; } td.best { background: var(--best); font-weight: 600; }
td.best small { font-weight: normal; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--link); }
pre { overflow: auto; max-height: 70vh; padding: .7rem; background: var(--shade); border-radius: 6px;
  font-size: .85rem; overflow-wrap: normal; }
figure { margin: 1.4rem 0; } .picture { overflow-x: auto; background: #fff; border: 1px solid
var(--line);
  border-radius: 6px; padding: .5rem; max-width: max-content; }
.picture img { display: block; max-width: 100%; min-width: min(100%, 30rem); height: auto; }
.notices { border-left: 4px solid var(--warn); padding: .2rem 1rem; background: var(--shade); }
.latent { border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; margin: .8rem 0; }
.latent p { margin: .2rem 0 .5rem; color: var(--soft); } .latent ol { list-style: none; margin: 0;
padding: 0; } .latent li { padding: .25rem 0; border-top: 1px solid var(--line); display: flex; gap:
.8rem; } .latent .value { color: var(--soft); min-width: 3.2rem; text-align: right;
font-variant-numeric: tabular-nums; } .latent ol.pictures { display: flex; flex-wrap: wrap; gap:
.8rem; } .latent .pictures li { display: block; border: 0; } .latent img { display: block;
border-radius: 4px; } mark { background: var(--mark); color: var(--ink); border-radius: 3px;
padding: 0 .1em; } @media (max-width: 40rem) { body { padding: .7rem; font-size: 15px; } tbody th {
max-width: 9rem; }
  .picture img { max-width: none; min-width: 30rem; } }
@media print { .scroll, pre { max-height: none; overflow: visible; } nav { display: none; } }
"""
MANY_CHARACTERS: Final = 30
"""Cells with more may break into lines."""
BEST: Final = "★"


def as_html(document: Document) -> str:
    """Return a report as an HTML page; every text in it is escaped."""
    links = "".join(
        f'<li><a href="#part-{number}">{_text(section.title)}</a></li>'
        for number, section in enumerate(document.sections, 1)
    )
    parts = "\n".join(_section(section, number) for number, section in enumerate(document.sections, 1))
    title = _text(document.title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{title}</h1>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav></header>\n<main>\n{parts}\n</main>\n'
        "</body>\n</html>\n"
    )


def _section(section: Section, number: int) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    name = f"part-{number}"
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{_text(section.title)}</h2>\n{blocks}\n'
        "</section>"
    )


@singledispatch
def _block(block: Block) -> str:
    raise NotImplementedError(type(block))


@_block.register
def _(block: Text) -> str:
    return f"<p>{_text(block.text)}</p>"


@_block.register
def _(block: Code) -> str:
    code = f'<pre tabindex="0"><code>{_text(block.text)}</code></pre>'
    return _folded(block.summary, code) if block.summary else code


@_block.register
def _(block: Notices) -> str:
    items = "".join(f"<li>{_text(text)}</li>" for text in block.texts)
    return f'<div class="notices" role="note"><ul>{items}</ul></div>'


@_block.register
def _(block: Picture) -> str:
    data = base64.b64encode(block.svg).decode()
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{_text(block.alt)}">'
    return (
        f'<figure><div class="picture" tabindex="0">{image}</div>'
        f"<figcaption>{_text(block.caption)}</figcaption></figure>"
    )


@_block.register
def _(block: Table) -> str:
    kind = "" if any(block.columns) else ' class="facts"'
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in block.columns)
    head = "" if kind else f"<thead><tr>{head}</tr></thead>\n"
    body = "\n".join(
        f'<tr><th scope="row">{_text(row[0].text)}</th>{"".join(map(_cell, row[1:]))}</tr>'
        for row in block.rows
    )
    title, note = _text(block.title), _text(block.note)
    table = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}"><table{kind}>'
        f"{head}<tbody>{body}</tbody></table></div>"
    )
    if block.is_folded:
        return _folded(block.title, (f'<p class="caption">{note}</p>' if note else "") + table)
    return f'<p class="caption"><strong>{title}</strong> {note}</p>{table}'


@_block.register
def _(block: LatentCard) -> str:
    facts = " · ".join(f"{_text(name)}: {_text(value)}" for name, value in block.facts)
    kind = ' class="pictures"' if any(example.png for example in block.examples) else ""
    items = "".join(map(_example, block.examples))
    return (
        f'<article class="latent"><h3 dir="auto">{_text(block.title)}</h3>'
        + (f"<p>{facts}</p>" if facts else "")
        + (f"<ol{kind}>{items}</ol>" if items else "")
        + "</article>"
    )


def _example(example: Example) -> str:
    value = "" if example.value is None else f"{example.value:.3g}"
    if example.png is not None:
        data = base64.b64encode(example.png).decode()
        return (
            f'<li><img src="data:image/png;base64,{data}" alt="{_text(example.title)}">'
            f'<span class="value">{value}</span></li>'
        )
    marked = f"<mark>{_text(example.token)}</mark>" if example.token else ""
    return (
        f'<li><span class="value">{value}</span>'
        f'<span dir="auto">{_text(example.before)}{marked}{_text(example.after)}</span></li>'
    )


def _cell(cell: Cell) -> str:
    note = f"<small>{_text(cell.note)}</small>" if cell.note else ""
    if cell.is_best:
        return f'<td class="best">{_text(cell.text)} {BEST}{note}</td>'
    kind = ' class="long"' if max(len(cell.text), len(cell.note)) > MANY_CHARACTERS else ""
    return f"<td{kind}>{_text(cell.text)}{note}</td>"


def _folded(summary: str, inner: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{inner}</details>"


def _text(text: str) -> str:
    """Return a text in which nothing is markup."""
    return escape(printable(text))
