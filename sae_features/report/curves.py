"""Curves of a score over a threshold, a width, or the number of training items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sae_features.drawing import COLORS, GREY, LINES, MARKERS, make_axes, wrapped, write_title
from sae_features.errors import InvalidInputError
from sae_features.report.curve_points import Curve, curves_of
from sae_features.report.rows import checked_rows, metric_name, without_controls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

X_NAMES: Final = {
    "threshold": "threshold on pooled latents",
    "width": "width: latents of the SAE",
    "token_top_n": "latents kept per token",
    "n_train": "training items",
    "shots": "training items in the language of the test",
    "layer": "layer",
    "active": "active features per item",
}
"""What axes are called."""
MANY_TICKS: Final = 12
LEAST_SPAN: Final = 0.1
"""Level lines are shown that are nearer to the curves than this, or than the curves reach."""


class SweepCurveDisplay:
    """Curves of a score, with intervals over folds and with lines for what does not vary.

    Made by :meth:`from_results`.  It needs matplotlib: ``pip install "sae-features[plot]"``.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        What that is in.
    curves_ : list of Curve
        What is drawn: names, positions, means and intervals.
    lines_ : list of matplotlib.lines.Line2D
        The curves, and the level lines of methods to which ``x`` does not apply. A point may stand a
        little aside of its value, so that several curves do not cover each other's intervals.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> rows = [
    ...     {"kind": "sae", "threshold": value, "fold": fold, "macro_f1": 0.5 + value / 4}
    ...     for value in (0.0, 1.0) for fold in (0, 1)
    ... ]
    >>> SweepCurveDisplay.from_results(rows, x="threshold").lines_[0].get_xydata().tolist()
    [[0.0, 0.5], [1.0, 0.75]]
    """

    def __init__(self, ax: Any, curves: list[Curve]) -> None:
        self.ax_ = ax
        self.figure_ = ax.figure
        self.curves_ = curves
        self.lines_: list[Any] = []

    @classmethod
    def from_results(
        cls,
        rows: Any,
        *,
        x: str = "threshold",
        metric: str = "macro_f1",
        by: str | Sequence[str] = ("kind", "model"),
        ax: Any = None,
    ) -> Self:
        """Draw the mean over data sets against what was varied, a curve for each group.

        Where several settings share a point, validation chooses one in each fold.  Methods to which
        ``x`` does not apply (words have no threshold) are level lines.

        Parameters
        ----------
        rows : Results or sequence of mapping
            Rows of a sweep or a transfer; those with permuted labels are left out.
        x : str, default="threshold"
            ``"threshold"``, ``"width"``, ``"token_top_n"``, ``"n_train"``, ``"shots"`` (training
            items in the language of the test, read from settings such as ``"few_shot_16"``),
            ``"layer"`` or another column of numbers.
        metric : str, default="macro_f1"
            Which score.
        by : str or sequence of str, default=("kind", "model")
            Columns that tell the groups apart: of two, the first decides the style of a line, the
            rest its colour.
        ax : matplotlib Axes, or an empty Figure, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        SweepCurveDisplay

        Raises
        ------
        InvalidInputError
            If there are no rows, or no value of ``x`` was run on all data sets: means over
            different sets cannot be compared.
        MissingDependencyError
            If matplotlib is not installed.
        """
        real = without_controls(checked_rows(rows, metric))
        curves = curves_of(real, x, metric, (by,) if isinstance(by, str) else tuple(by))
        if all(curve.is_level for curve in curves):
            message = (
                f"Got no value of {x!r} that was run on all data sets; expected at least one, or rows "
                "of one data set."
            )
            raise InvalidInputError(message)
        names = [
            f"{curve.name}: {curve.means[0]:.2f}" if curve.is_level else curve.name for curve in curves
        ]
        n_lines = sum(len(wrapped(name, 34).split("\n")) for name in names)
        is_new = not hasattr(ax, "get_lines")
        (axes,) = make_axes(ax, figsize=(6.4, 4.0 + 0.22 * ((n_lines + 1) // 2)))
        display = cls(axes, curves)
        display._draw(x)
        axes.set(xlabel=X_NAMES.get(x, x.replace("_", " ")), ylabel=metric_name(metric))
        axes.grid(visible=True, alpha=0.25)
        if len(names) == 1:
            write_title(axes, names[0])
        elif is_new:
            labels = [wrapped(name, 34) for name in names]
            axes.figure.legend(
                display.lines_, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9,
                handlelength=3,
            )  # fmt: skip
        else:
            axes.legend(
                display.lines_, [wrapped(name, 34) for name in names], frameon=False, fontsize="small"
            )
        return display

    def _draw(self, x: str) -> None:
        positions = sorted({at for curve in self.curves_ for at in curve.x if at is not None})
        scale = _Scale(positions, is_linear=x == "layer")
        n_curves = sum(not curve.is_level for curve in self.curves_)
        lacks = any(at is None for curve in self.curves_ if not curve.is_level for at in curve.x)
        for curve in self.curves_:
            style, color = _look(curve)
            options = {
                "color": color,
                "linestyle": LINES[style % len(LINES)],
                "linewidth": 1.7,
                "label": curve.name,
            }
            if curve.is_level:
                self.lines_.append(self.ax_.axhline(curve.means[0], **options | {"linewidth": 1.3}))
                continue
            aside = scale.shift(curve.number - (n_curves - 1) / 2)
            xs = [aside(scale.end if at is None else at) for at in curve.x]
            for at, low, high in zip(xs, curve.lows, curve.highs, strict=True):
                if low is not None and high is not None:
                    self.ax_.plot(
                        [at, at], [low, high], color=color, linewidth=1.1, alpha=0.7, label="_interval"
                    )
            self.lines_ += self.ax_.plot(
                xs, curve.means, marker=MARKERS[style % len(MARKERS)], markersize=6,
                markeredgecolor="white", markeredgewidth=0.6, **options,
            )  # fmt: skip
        self._zoom()
        scale.apply(self.ax_, "all" if lacks and x == "token_top_n" else "none" if lacks else None)

    def _zoom(self) -> None:
        """Show the curves, and level lines that are not far from them; the legend tells all levels."""
        ends = [
            value
            for curve in self.curves_ if not curve.is_level
            for values in (curve.means, curve.lows, curve.highs)
            for value in values if value is not None
        ]  # fmt: skip
        low, high = min(ends), max(ends)
        far = max(high - low, LEAST_SPAN)
        levels = [curve.means[0] for curve in self.curves_ if curve.is_level]
        near = [level for level in levels if low - far <= level <= high + far]
        low, high = min([low, *near]), max([high, *near])
        margin = 0.06 * (high - low) + max(LEAST_SPAN / 2 - (high - low), 0) / 2
        self.ax_.set_ylim(low - margin, high + margin)


def _look(curve: Curve) -> tuple[int, str]:
    """Return the number of a line's style and its colour."""
    style, color = curve.look
    return style, GREY if color is None else COLORS[color % len(COLORS)]


class _Scale:
    """An x axis with ticks where the values are; logarithmic where they span more than a few steps."""

    def __init__(self, values: list[float], *, is_linear: bool) -> None:
        self.values = values or [0.0]
        low, high = self.values[0], self.values[-1]
        self.least = min((value for value in self.values if value > 0), default=1.0)
        self.kind = "linear"
        if not is_linear and low > 0 and high / low >= 8:
            self.kind = "log"
        elif not is_linear and low == 0 and high / self.least >= 10:
            self.kind = "symlog"
        if self.kind == "linear":
            self.end = high + (max((high - low) / max(len(self.values) - 1, 1), 0) or 1.0)
        else:
            self.end = high * max((high / self.least) ** (1 / max(len(self.values) - 1, 1)), 2.0)

    def shift(self, steps: float) -> Any:
        """Return what moves a point aside, so that curves do not cover each other's intervals."""
        width = self.end - self.values[0]
        if self.kind == "linear":
            return lambda at: at + steps * width * 0.008
        return lambda at: at * 1.03**steps

    def apply(self, ax: Any, end: str | None) -> None:
        """Scale the axis; ``end`` is what the place behind the last value is called."""
        if self.kind == "log":
            ax.set_xscale("log")
        elif self.kind == "symlog":
            ax.set_xscale("symlog", linthresh=self.least)
        ticks = self.values
        if len(ticks) > MANY_TICKS:
            ticks = [ticks[round(i)] for i in np.linspace(0, len(ticks) - 1, MANY_TICKS // 2)]
        labels = [_as_tick(value) for value in ticks]
        if end is not None:
            ticks, labels = [*ticks, self.end], [*labels, end]
        low, high = self.values[0], self.values[-1] if end is None else self.end
        if self.kind == "log":
            ax.set_xlim(low / 1.3, high * 1.3)
        elif self.kind == "symlog":
            ax.set_xlim(-0.25 * self.least, high * 1.3)
        ax.set_xticks(ticks, labels)
        ax.minorticks_off()


def _as_tick(value: float) -> str:
    if value >= 1000 and value == int(value):
        return f"{int(value):,}"
    return f"{value:.4g}"
