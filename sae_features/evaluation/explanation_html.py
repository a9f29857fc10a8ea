"""Explanations as HTML: tokens in the colour of the side that they speak for, latents in a table."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sae_features.evaluation.latent_names import shown_latent
from sae_features.images import PatchGrid, overlay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_features.evaluation.explanation import Explanation, LatentContribution
    from sae_features.evaluation.located_tokens import TokenValue

FOR: Final = (0, 114, 178)
"""Blue, and vermilion: told apart with any colour vision (Okabe and Ito, 2008)."""
AGAINST: Final = (213, 94, 0)
STRONGEST: Final = 0.6
"""Opacity of the token that contributes most."""
MAX_SIDE: Final = 320
"""Pixels of a picture's longer side."""
SHOWN_TOKENS: Final = 3
"""Tokens that are shown of each latent."""

CELL: Final = "text-align:left;padding:0.2em 0.6em"


def as_html(explanation: Explanation) -> str:
    """Return an explanation as a piece of HTML that needs nothing else; all that is text is escaped."""
    marked = _picture(explanation) if _has_patches(explanation) else _text(explanation)
    rows = "".join(_row(explanation, latent) for latent in explanation.latents[: explanation.n])
    titles = ("contribution", explanation.unit, "value x coefficient", "tokens")
    head = "".join(f'<th style="{CELL}">{title}</th>' for title in titles)
    rest = explanation.rest()
    return (
        '<div style="font-family:sans-serif;color:#111;background:#fff;padding:0.5em">'
        f"<p>{escape(explanation.headline())}</p>{marked}{_key(explanation)}"
        f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        f"</table>{f'<p>{rest}</p>' if rest else ''}</div>"
    )


def _has_patches(explanation: Explanation) -> bool:
    return any(part.token.patch is not None for part in explanation.tokens)


def _color(value: float, largest: float) -> str:
    """Return a colour of the side that a value speaks for, as strong as it is."""
    red, green, blue = FOR if value >= 0 else AGAINST
    return f"rgba({red},{green},{blue},{STRONGEST * abs(value) / largest if largest else 0:.3f})"


def _key(explanation: Explanation) -> str:
    """Return what the two colours mean."""
    sides = "".join(
        f'<span style="background:{_color(sign, 1)};padding:0 0.4em;margin-right:0.5em">'
        f"{escape(explanation.towards(sign))}</span>"
        for sign in (1.0, -1.0)
    )
    return f"<p>{sides}</p>"


def _row(explanation: Explanation, latent: LatentContribution) -> str:
    tokens = "<br>".join(
        f"{part.value:+.3g} {escape(str(part.token))}" for part in latent.tokens[:SHOWN_TOKENS]
    )
    cells = (
        _unbroken(f"{latent.contribution:+.3g} {explanation.towards(latent.contribution)}"),
        escape(shown_latent(latent.latent, latent.label, explanation.unit)),
        _unbroken(f"{latent.value:.3g} x {latent.coefficient:+.3g}"),
        tokens,
    )
    largest = max(abs(other.contribution) for other in explanation.latents)
    colors = (_color(latent.contribution, largest), *["transparent"] * 3)
    row = "".join(
        f'<td style="{CELL};background:{color}">{cell}</td>'
        for color, cell in zip(colors, cells, strict=True)
    )
    return f"<tr>{row}</tr>"


def _unbroken(text: str) -> str:
    return f'<span style="white-space:nowrap">{escape(text)}</span>'


def _text(explanation: Explanation) -> str:
    """Return the text with its tokens marked."""
    if not isinstance(explanation.item, str):
        return ""
    text = explanation.item
    largest = max((abs(part.value) for part in explanation.tokens), default=0.0)
    pieces, cursor = [], 0
    for start, stop, value in _segments(explanation.tokens):
        title = f"{value:+.3g}"
        pieces.append(escape(text[cursor:start]))
        pieces.append(
            f'<span title="{title}" style="background:{_color(value, largest)}">'
            f"{escape(text[start:stop])}</span>"
        )
        cursor = stop
    pieces.append(escape(text[cursor:]))
    return f'<p style="white-space:pre-wrap">{"".join(pieces)}</p>'


def _segments(tokens: Sequence[TokenValue]) -> list[tuple[int, int, float]]:
    """Return spans in order that do not overlap, with the sum of what their tokens contribute.

    Several tokens can be bytes of one character.
    """
    spans = [(*part.token.span, part.value) for part in tokens if part.token.span is not None]
    merged: list[tuple[int, int, float]] = []
    for start, stop, value in sorted(spans, key=lambda span: span[:2]):
        if merged and start < merged[-1][1]:
            first, last, before = merged[-1]
            merged[-1] = (first, max(last, stop), before + value)
        else:
            merged.append((start, stop, value))
    return merged


def _picture(explanation: Explanation) -> str:
    """Return the picture twice: which patches speak for the class, and which against it."""
    parts = [part for part in explanation.tokens if part.token.patch is not None]
    patches, boxes = zip(*((part.token.patch, part.token.box) for part in parts), strict=True)
    rows, columns = np.max(patches, axis=0) + 1
    box = (*np.min(boxes, axis=0)[:2].tolist(), *np.max(boxes, axis=0)[2:].tolist())
    values = np.array([part.value for part in parts])
    largest = float(np.abs(values).max()) or 1.0
    grid = PatchGrid(int(rows), int(columns), box)
    return "".join(
        f'<img alt="{escape(explanation.towards(sign))}" style="margin-right:0.5em" src="'
        f'{_png(overlay(explanation.item, sign * values, grid, vmax=largest, color=color))}">'
        for sign, color in ((1.0, FOR), (-1.0, AGAINST))
    )


def _png(picture: Any) -> str:
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
