"""The points of curves: rows by what was varied, the best by validation at each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sae_features.report.intervals import Estimate, score
from sae_features.report.rows import (
    KINDS,
    METRICS,
    SHOTS,
    UNIT,
    chosen_by_validation,
    grouped,
    kind_name,
)

if TYPE_CHECKING:
    from sae_features.report.rows import Row, Rows

LATENT_KINDS: Final = ("sae", "random_sae")
OF_LATENTS: Final = ("threshold", "width", "token_top_n")
"""What applies to latents alone: a threshold or number of None cuts nothing off."""
ROUNDED: Final = ("n_train", "active")
"""Figures that differ a little from fold to fold."""
PLACE: Final = UNIT[:3]
"""What a point must have all of, so that the points of a curve can be compared."""


class Curve(NamedTuple):
    """A group's mean scores against what was varied."""

    name: str
    number: int
    """Of the groups, in order."""
    x: list[float | None]
    """Ascending; None, the last, is no limit at all, or stands alone where ``x`` does not apply."""
    means: list[float]
    lows: list[float | None]
    highs: list[float | None]
    is_level: bool
    """Whether ``x`` does not apply."""
    look: tuple[int, int | None]
    """Number of the line's style, and of its colour (None is grey)."""


def curves_of(rows: Rows, x: str, metric: str, by: tuple[str, ...]) -> list[Curve]:
    """Return the curves of all groups: those that vary first, then those to which ``x`` does not apply.

    Parameters
    ----------
    rows : sequence of mapping
    x : str
        A column, or ``"shots"``.
    metric : str
    by : tuple of str
        Columns that tell the groups apart.
    """
    groups = grouped([_with_shots(row) for row in rows] if x == "shots" else rows, *by)
    varying = [len({key[i] for key in groups if key[i] is not None}) > 1 for i in range(len(by))]
    found = []
    for key, group in groups.items():
        points = _points(group, x, metric)
        if points:
            found.append((key, points, all(at is None for at, _ in points)))
    found.sort(key=lambda entry: (entry[2], [_order(value) for value in entry[0]]))
    styles = list(dict.fromkeys(key[0] for key, _, _ in found))
    colors = list(
        dict.fromkeys(key[1:] for key, _, _ in found if any(value is not None for value in key[1:]))
    )
    curves = []
    for number, (key, points, is_level) in enumerate(found):
        color = colors.index(key[1:]) if key[1:] in colors else None
        look = (number, number) if len(by) == 1 or not colors else (styles.index(key[0]), color)
        means = [result.mean for _, result in points]
        lows, highs = [result.low for _, result in points], [result.high for _, result in points]
        xs = [at for at, _ in points]
        curves.append(Curve(_name(key, by, varying), number, xs, means, lows, highs, is_level, look))
    return curves


def _points(group: Rows, x: str, metric: str) -> list[tuple[float | None, Estimate]]:
    places: dict[float | None, list[Row]] = {}
    for row in group:
        if row.get(metric) is not None and (x != "shots" or _value(row, x) is not None):
            places.setdefault(_value(row, x), []).append(row)
    points = []
    n_places = len(grouped([row for here in places.values() for row in here], *PLACE))
    for at, here in places.items():
        result = score(chosen_by_validation(here), metric)
        if result is not None and metric in METRICS:
            result = _within_scores(result)
        if result is not None and len(grouped(here, *PLACE)) == n_places:
            points.append((at, result))
    return sorted(points, key=lambda point: (point[0] is None, point[0] or 0.0))


def _within_scores(result: Estimate) -> Estimate:
    """Return an estimate whose interval ends where scores do."""
    if result.low is None or result.high is None:
        return result
    return result._replace(low=max(result.low, 0.0), high=min(result.high, 1.0))


def _value(row: Row, x: str) -> float | None:
    if x == "shots":
        match = SHOTS.fullmatch(str(row.get("setting")))
        return float(match[2]) if match else 0.0 if row.get("setting") == "zero_shot" else None
    is_of_latents = row.get("kind") in LATENT_KINDS
    value = row.get(x)
    if x in OF_LATENTS and not is_of_latents:
        return None
    if value is None:
        return 0.0 if x == "threshold" else None
    return float(f"{float(value):.2g}") if x in ROUNDED else float(value)


def _with_shots(row: Row) -> Row:
    """Return a row whose kind says where only items of the other language were trained on."""
    if str(row.get("setting")).startswith("target_only"):
        return {**row, "kind": f"{kind_name(row.get('kind'))}, these items alone"}
    return row


def _order(value: object) -> tuple[int, float, str]:
    """Return what groups are sorted by: kinds in their order, numbers by size, other names."""
    names = list(KINDS)
    if value in names:
        return names.index(str(value)), 0.0, ""
    return len(names), float(value) if isinstance(value, (int, float)) else 0.0, str(value)


def _name(key: tuple[object, ...], by: tuple[str, ...], varying: list[bool]) -> str:
    """Return what a group is called: by what tells it apart, or by all if nothing does."""
    parts = [
        (_part(column, value), varies or len(by) == 1)
        for column, value, varies in zip(by, key, varying, strict=True)
        if value is not None
    ]
    return ", ".join([name for name, varies in parts if varies] or [name for name, _ in parts])


def _part(column: str, value: object) -> str:
    if column == "kind":
        return kind_name(value)
    return f"{column.replace('_', ' ')} {value}" if isinstance(value, (int, float)) else str(value)
