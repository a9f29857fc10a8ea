"""What all pictures share: colours that everybody tells apart, axes, texts shown as they are."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any
from unicodedata import category

from sae_features.errors import InvalidParameterError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterable

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""What people with any colour vision tell apart (Okabe and Ito, 2008), without the faint yellow."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
GREY = "#666666"
"""Of what is said beside the data."""
TITLE_SIZE = 10.0
"""Points of titles, which may be long."""


def make_axes(
    ax: Any = None, *, n_axes: int = 1, figsize: tuple[float, float] = (6.4, 4.4), **options: Any
) -> list[Any]:
    """Return where to draw: what was given, or the axes of a new figure.

    Parameters
    ----------
    ax : matplotlib Axes or Figure, optional
        Axes are taken as they are; an empty figure is given the size that is needed, and axes, so that
        pictures can be made without pyplot.
    n_axes : int, default=1
        How many, side by side.
    figsize : tuple of float
        Width and height in inches of a figure that is not the caller's axes'.
    **options
        Of ``Figure.subplots``: ``sharey``.

    Returns
    -------
    list of matplotlib.axes.Axes

    Raises
    ------
    InvalidParameterError
        If ``ax`` is something else, or one is given where several are needed.
    MissingDependencyError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import axes, figure
    except ImportError as error:
        message = 'Plots need matplotlib; install it: pip install "sae-features[plot]"'
        raise MissingDependencyError(message) from error
    if isinstance(ax, axes.Axes):
        if n_axes > 1:
            message = f"Got one ax for {n_axes} panels; expected a matplotlib Figure, or None."
            raise InvalidParameterError(message)
        return [ax]
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.figure()
    if not isinstance(ax, figure.Figure):
        message = f"Got ax of type {type(ax).__name__}; expected matplotlib Axes, or None."
        raise InvalidParameterError(message)
    ax.set_size_inches(figsize)
    ax.set_layout_engine("constrained")
    return list(ax.subplots(1, n_axes, squeeze=False, **options)[0])


def plain(text: object) -> str:
    r"""Return a text so that matplotlib shows it as it is, on one line.

    Dollars start no formula, and a leading underscore hides no entry of a legend.

    Examples
    --------
    >>> plain("a $5\ntag"), plain("_x")
    ('a \\$5 tag', ' _x')
    """
    return _escaped(_one_line(text))


def wrapped(text: object, width: int, n_lines: int = 4) -> str:
    r"""Return a text as :func:`plain` does, on lines of at most so many characters.

    What is longer than ``n_lines`` lines is shortened in its middle.

    Examples
    --------
    >>> wrapped("hidden states, mean", 10)
    'hidden\nstates,\nmean'
    """
    width = max(width, 6)
    line = _one_line(text)
    for length in range(len(line), 0, -width):
        lines = textwrap.wrap(_cut(line, length), width)
        if len(lines) <= n_lines:
            return "\n".join(map(_escaped, lines))
    return ""


def shortened(text: object, width: int) -> str:
    r"""Return a text as :func:`plain` does, with an ellipsis in its middle where it is longer than that.

    Names of methods differ at both ends.

    Examples
    --------
    >>> shortened("minilm layer 3 max", 11)
    'minil…3 max'
    """
    return _escaped(_cut(_one_line(text), width))


def _cut(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    end = (width - 1) // 2
    return line[: width - 1 - end].rstrip() + "…" + line[len(line) - end :]


def _one_line(text: object) -> str:
    words = " ".join(str(text).split())
    # marks that join or direct letters have no glyph of their own
    return "".join("" if category(c) == "Cf" else c if c.isprintable() else "\ufffd" for c in words)


def _escaped(line: str) -> str:
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


def write_title(ax: Any, *lines: object) -> None:
    """Write a title over axes, broken into lines that stay within the figure.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        With all that is drawn beside it, as that takes room.
    *lines : object
        Texts, each of which begins a line.
    """
    figure = ax.figure.canvas.figure
    figure.draw_without_rendering()  # the layout says where the axes are
    box = ax.get_window_extent()
    others = [other for other in figure.axes if other is not ax and other.get_label() != "<colorbar>"]
    middle = (box.x0 + box.x1) / 2
    width = box.width if others else 2 * min(middle, figure.bbox.width - middle)
    room = characters(width / figure.dpi, TITLE_SIZE)
    ax.set_title("\n".join(wrapped(line, room) for line in lines), fontsize=TITLE_SIZE)


def characters(inches: float, points: float) -> int:
    """Return how many characters of a size (in points) fit a width, as texts are on the average."""
    return int(inches * 72 / (points * 0.6))


def readable_on(color: Any) -> str:
    """Return black or white: which of them stands out more on a colour.

    It is the one with the higher contrast ratio as WCAG 2.2 defines it; that is never less than 4.58.

    Parameters
    ----------
    color : matplotlib color

    Examples
    --------
    >>> readable_on("#0072B2"), readable_on("#E69F00")
    ('white', 'black')
    """
    from matplotlib.colors import to_rgb

    # black's ratio is (L + 0.05) / 0.05, white's 1.05 / (L + 0.05): they are equal at L = 0.179
    return "black" if luminance(to_rgb(color)) > (1.05 * 0.05) ** 0.5 - 0.05 else "white"


def luminance(rgb: Iterable[float]) -> float:
    """Return the relative luminance of a colour, 0 (black) to 1 (white), as WCAG 2.2 defines it.

    Examples
    --------
    >>> round(luminance((1, 0, 0)), 4)
    0.2126
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
