"""One heat map with its numbers: what transfer matrices and layers by poolings are drawn with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sae_features.drawing import characters, make_axes, readable_on, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

CELL: Final = (0.56, 0.4)
"""Inches of a cell that holds a number of two decimals in the usual size."""
NUMBER_SIZE, LEAST_SIZE = 9.0, 4.0
"""Points of numbers where there is room, and at least."""
NUMBER: Final = "number in a cell"
"""Label of such texts."""
LABEL_SIZE: Final = 10.0
LEAST_SPAN: Final = 0.1
"""Scores that differ by less have similar colours."""
LONGEST: Final = 32
"""Characters of a label; what is longer is shortened in its middle."""
MISSING: Final = "–"
MISSING_COLOR: Final = "#444444"


def heat_map_axes(
    ax: Any, shape: tuple[int, int], labels: tuple[int, int], *, n_axes: int = 1
) -> list[Any]:
    """Return axes for heat maps, in a figure that has room for their numbers and labels.

    Parameters
    ----------
    ax : matplotlib Axes or Figure, optional
    shape : tuple of int
        Rows and columns of a heat map.
    labels : tuple of int
        Characters of the longest label of a row, and of a column.
    n_axes : int, default=1
        How many heat maps, side by side.
    """
    inch = LABEL_SIZE * 0.6 / 72  # of a character
    labels = min(labels[0], LONGEST), min(labels[1], LONGEST)
    slanted = is_slanted(labels[1])
    width = (shape[1] * CELL[0] + labels[0] * inch + 0.2) * n_axes + 0.9
    height = shape[0] * CELL[1] + (labels[1] * inch * 0.75 if slanted else 0.2) + 1.3
    return make_axes(ax, n_axes=n_axes, figsize=(max(width, 4.6), max(height, 2.4)))


def is_slanted(longest: int) -> bool:
    """Tell whether labels of columns are too long to stand side by side."""
    return longest > characters(CELL[0], LABEL_SIZE)


def limits_of(
    values: Any, vmin: float | None, vmax: float | None, *, signed: bool = False
) -> tuple[float, float]:
    """Return the values of the first and last colour: those given, or round ones around all others.

    Differences are coloured evenly around 0.

    Examples
    --------
    >>> limits_of([[0.62, 0.83], [float("nan"), 0.71]], None, None)
    (0.6, 0.85)
    >>> limits_of([[0.03, -0.12]], None, None, signed=True)
    (-0.15, 0.15)
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if len(found) == 0:
        found = np.zeros(1)
    if signed:
        largest = max(_up(float(np.abs(found).max())), LEAST_SPAN / 2)
        return -largest if vmin is None else vmin, largest if vmax is None else vmax
    low = -_up(-float(found.min())) if vmin is None else vmin
    high = _up(float(found.max())) if vmax is None else vmax
    if high - low < LEAST_SPAN:
        low = round(high - LEAST_SPAN, 2) if vmin is None else low
        high = round(low + LEAST_SPAN, 2) if vmax is None and low + LEAST_SPAN > high else high
    return low, high


def draw_heat_map(
    ax: Any,
    values: np.ndarray,
    names: tuple[Sequence[object], Sequence[object]],
    *,
    limits: tuple[float, float],
    outlined: np.ndarray | None = None,
    signed: bool = False,
) -> tuple[Any, list[list[Any]]]:
    """Draw values as colours with their numbers in them; the first row is at the top.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    values : ndarray of shape (n_rows, n_columns)
        What is NaN is missing: hatched, with a dash.
    names : tuple of two sequences
        Of rows and columns.
    limits : tuple of float
        Values of the first and last colour.
    outlined : ndarray of bool, optional
        Cells with a frame.
    signed : bool, default=False
        Differences: colours to both sides of 0, numbers with their sign.

    Returns
    -------
    mesh : matplotlib.collections.QuadMesh
    texts : list of list of matplotlib.text.Text
        One for each cell.
    """
    n_rows, n_columns = values.shape
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(values), cmap="PuOr" if signed else "viridis", vmin=limits[0],
        vmax=limits[1], edgecolors="white", linewidth=0.5,
    )  # fmt: skip
    ax.set_xlim(0, n_columns)
    ax.set_ylim(n_rows, 0)
    longest = max((len(str(name)) for name in names[1]), default=1)
    ax.set_xticks(np.arange(n_columns) + 0.5, _labels(names[1]))
    if is_slanted(longest):
        ax.tick_params(axis="x", labelrotation=40)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    ax.set_yticks(np.arange(n_rows) + 0.5, _labels(names[0]))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    texts = [
        [_draw_cell(ax, mesh, value, (column, row), signed=signed) for column, value in enumerate(line)]
        for row, line in enumerate(values)
    ]
    if outlined is not None:
        _outline(ax, outlined)
    return mesh, texts


def _labels(names: Sequence[object]) -> list[str]:
    return [shortened(name, LONGEST) for name in names]


def fit_numbers(ax: Any) -> None:
    """Make numbers so small that they fit their cells, in all heat maps of a figure.

    To be called when all else is drawn: each heat map takes room from those beside it.
    """
    figure = ax.figure.canvas.figure
    figure.draw_without_rendering()  # the layout says how large the axes are
    for axes in figure.axes:
        numbers = [text for text in axes.texts if text.get_label() == NUMBER]
        if numbers:
            _fit(axes, numbers)


def _fit(ax: Any, numbers: Sequence[Any]) -> None:
    right, bottom = ax.get_xlim()[1], ax.get_ylim()[0]  # columns and rows
    box = ax.get_window_extent()
    for number in numbers:
        number.set_fontsize(NUMBER_SIZE)
    boxes = [number.get_window_extent() for number in numbers]
    share = min(
        0.85 * box.width / right / max(inside.width for inside in boxes),
        0.9 * box.height / bottom / max(inside.height for inside in boxes),
        1.0,
    )
    for number in numbers:
        number.set_fontsize(max(NUMBER_SIZE * share, LEAST_SIZE))


def draw_color_bar(mesh: Any, axes: Sequence[Any], label: str) -> Any:
    """Draw what the colours stand for, beside the heat maps."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=7, steps=[1, 2, 5, 10])
    bar = axes[0].figure.colorbar(
        mesh, ax=list(axes), label=label, pad=0.02, fraction=0.05, aspect=25, ticks=ticks
    )
    bar.outline.set_visible(False)
    bar.solids.set_edgecolor("face")  # no fine white lines in vector graphics
    return bar


def as_number(value: float, *, signed: bool = False) -> str:
    """Return a score, or a difference with its sign, in two decimals; a dash for what is missing.

    Examples
    --------
    >>> as_number(0.816), as_number(-0.021, signed=True), as_number(float("nan"))
    ('0.82', '−0.02', '–')
    """
    if not np.isfinite(value):
        return MISSING
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    if signed and float(text) == 0:
        return "0.00"
    return text.replace("-", "−")


def _draw_cell(ax: Any, mesh: Any, value: float, place: tuple[int, int], *, signed: bool) -> Any:
    from matplotlib.patches import Rectangle

    column, row = place
    color = MISSING_COLOR
    if np.isfinite(value):
        color = readable_on(mesh.to_rgba(float(value))[:3])
    else:
        ax.add_patch(
            Rectangle(
                (column, row), 1, 1, facecolor="#f4f4f4", edgecolor="#c8c8c8", hatch="////", linewidth=0
            )
        )
    return ax.text(
        column + 0.5, row + 0.5, as_number(float(value), signed=signed), ha="center",
        va="center_baseline",
        color=color, fontsize=NUMBER_SIZE, label=NUMBER,
        bbox=None if np.isfinite(value) else {"facecolor": "#f4f4f4", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def _outline(ax: Any, outlined: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(outlined):
        for color, width in (("white", 3.2), ("black", 1.6)):  # seen on light and on dark colours
            look: Any = {"edgecolor": color, "linewidth": width, "zorder": 3, "joinstyle": "miter"}
            ax.add_patch(Rectangle((column, row), 1, 1, fill=False, clip_on=False, **look))


def _up(value: float) -> float:
    """Return the next multiple of 0.05 that is not less."""
    return round(float(np.ceil(round(value / 0.05, 6))) * 0.05, 2)
