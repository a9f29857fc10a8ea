"""Latents with what they fire on: texts with the token marked, pictures with the patch framed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.report.document import Example, LatentCard, shown

CONTEXT: Final = 120
"""Characters of a text that are shown on either side of a token."""
SIDE: Final = 160
"""Pixels of a picture's longer side."""
FRAME: Final = "#D55E00"
KNOWN: Final = ("latent", "label", "class", "importance", "coefficient", "active", "top")
"""Keys that have a place of their own; others are listed."""


def latent_cards(latents: Sequence[Any], items: Sequence[Any] | None = None) -> tuple[LatentCard, ...]:
    """Return latents as the cards of a report.

    Parameters
    ----------
    latents : sequence of mapping
        As :func:`sae_features.report.write_report` takes them.
    items : sequence, optional
        What positions of items in ``top`` are of.

    Raises
    ------
    InputTypeError
        If a latent is no mapping, or an example of it is of another kind.
    InvalidInputError
        If one has no ``"latent"``, or a picture cannot be read.
    """
    return tuple(_card(record, position, items) for position, record in enumerate(latents))


def _card(record: Any, position: int, items: Sequence[Any] | None) -> LatentCard:
    if not isinstance(record, Mapping):
        message = f"Got {type(record).__name__} as latent {position}; expected a dict."
        raise InputTypeError(message)
    if record.get("latent") is None:
        known = ", ".join(map(str, record))
        raise InvalidInputError(f"Got no 'latent' in latent {position}; it has {known}.")
    title = f"latent {record['latent']}"
    if record.get("label"):
        title += f": {record['label']}"
    facts = []
    if record.get("class") is not None:
        facts.append(("class", str(record["class"])))
    facts += [
        (name, f"{float(record[name]):+.3g}".replace("-", "−"))
        for name in ("importance", "coefficient")
        if record.get(name) is not None
    ]
    if record.get("active") is not None:
        facts.append(("active in", f"{float(record['active']):.1%} of items"))
    facts += [(str(k), shown(v)) for k, v in record.items() if k not in KNOWN and _is_plain(v)]
    where = f"latent {position}"
    examples = tuple(_example(entry, where, items) for entry in record.get("top") or ())
    return LatentCard(title, tuple(facts), examples)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and value != ""


def _example(entry: Any, where: str, items: Sequence[Any] | None) -> Example:
    if isinstance(entry, str):
        return Example(None, before=_ending(entry, CONTEXT * 2))
    if isinstance(entry, Mapping):
        return _of_mapping(entry, where)
    if hasattr(entry, "tokens") and hasattr(entry, "item"):
        return _of_top_item(entry, where, items)
    message = f"Got {type(entry).__name__} in 'top' of {where}; expected a text, a dict or a TopItem."
    raise InputTypeError(message)


def _of_top_item(entry: Any, where: str, items: Sequence[Any] | None) -> Example:
    """Return the example that a :class:`~sae_features.evaluation.top_activations.TopItem` is."""
    token = entry.tokens[0].token if entry.tokens else None
    box = getattr(token, "box", None)
    if items is not None and not isinstance(items[entry.item], str):
        return _of_picture(items[entry.item], box, entry.value, f"item {entry.item}", where)
    if token is None:
        text = items[entry.item] if items is not None else f"item {entry.item}"
        return Example(float(entry.value), before=_ending(text, CONTEXT * 2))
    if box is not None:
        return Example(float(entry.value), before=f"item {entry.item}: {token}")
    span = getattr(token, "span", None)
    if items is not None and span is not None:
        return _marked(items[entry.item], span[0], span[1], entry.value)
    return Example(float(entry.value), token.before, token.text, token.after)


def _of_mapping(entry: Mapping[str, Any], where: str) -> Example:
    value = entry.get("value")
    if entry.get("image") is not None:
        return _of_picture(entry["image"], entry.get("box"), value, str(entry.get("title", "")), where)
    if "tokens" in entry:
        tokens, at = [str(token) for token in entry["tokens"]], entry.get("position")
        if at is None:
            return Example(_number(value), before=_ending("".join(tokens), CONTEXT * 2))
        start = len("".join(tokens[:at]))
        return _marked("".join(tokens), start, start + len(tokens[at]), value)
    if entry.get("token") is not None:
        before, after = str(entry.get("before", "")), str(entry.get("after", ""))
        return Example(_number(value), _beginning(before), str(entry["token"]), _ending(after))
    if entry.get("text") is not None:
        if entry.get("start") is None or entry.get("end") is None:
            return Example(_number(value), before=_ending(str(entry["text"]), CONTEXT * 2))
        return _marked(str(entry["text"]), int(entry["start"]), int(entry["end"]), value)
    message = (
        f"Got an example with {', '.join(map(str, entry))} in 'top' of {where}; expected 'text', "
        "'token', 'tokens' or 'image'."
    )
    raise InvalidInputError(message)


def _marked(text: str, start: int, end: int, value: Any) -> Example:
    return Example(_number(value), _beginning(text[:start]), text[start:end], _ending(text[end:]))


def _of_picture(image: Any, box: Any, value: Any, title: str, where: str) -> Example:
    from PIL import ImageDraw

    from sae_features.images import check_images

    try:
        picture = check_images([image])[0].open()
    except (InputTypeError, InvalidInputError) as error:
        raise type(error)(f"A picture in 'top' of {where} cannot be shown. {error}") from error
    scale = SIDE / max(picture.size)
    small = picture.resize([max(1, round(side * scale)) for side in picture.size])
    named = title or "picture"
    if box is not None:
        left, top, right, bottom = (round(float(edge) * scale) for edge in box)
        draw = ImageDraw.Draw(small)
        for grown, color in ((1, "white"), (0, FRAME)):
            frame = (
                left - grown,
                top - grown,
                max(right, left + 2) + grown,
                max(bottom, top + 2) + grown,
            )
            draw.rectangle(frame, outline=color, width=2)
        named += ", the patch framed"
    stream = io.BytesIO()
    small.save(stream, "PNG", optimize=True)
    return Example(_number(value), png=stream.getvalue(), title=named)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _beginning(text: str) -> str:
    return text if len(text) <= CONTEXT else f"…{text[-CONTEXT:]}"


def _ending(text: str, length: int = CONTEXT) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
