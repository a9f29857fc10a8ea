"""The picture of a comparison: by how much a method is better, data set by data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sae_features.drawing import COLORS, GREY, make_axes, shortened, write_title
from sae_features.errors import InvalidInputError
from sae_features.report.comparisons import checked_comparisons, compare, compare_overall, place_names
from sae_features.report.rows import checked_rows, metric_name, of_method, shown_name, without_controls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

LONGEST: Final = 44
"""Characters of a name beside a dot; what is longer is shortened in the middle."""
ROW: Final = 0.27
"""Inches from dot to dot."""


class PairedDifferenceDisplay:
    """Dots for the mean differences from a reference, sorted, with intervals and a line at zero.

    Made by :meth:`from_results` (of rows) or :meth:`from_comparisons` (of what statistics found).
    Dots are filled where the interval does not hold zero.  It needs matplotlib: ``pip install
    "sae-features[plot]"``.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        What that is in.
    comparisons_ : list of dict
        What is drawn, the largest difference first.
    overall_ : dict
        The mean of all differences, drawn as a diamond where there are several.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> records = [
    ...     {"dataset": "bbc", "difference": -0.01, "low": -0.03, "high": 0.01},
    ...     {"dataset": "news", "difference": 0.04, "low": 0.02, "high": 0.06},
    ... ]
    >>> display = PairedDifferenceDisplay.from_comparisons(records, method="SAE", reference="words")
    >>> [record["dataset"] for record in display.comparisons_], display.overall_
    (['news', 'bbc'], {'difference': 0.015})
    """

    def __init__(
        self, ax: Any, comparisons: list[dict[str, Any]], overall: Mapping[str, Any] | None = None
    ) -> None:
        self.ax_ = ax
        self.figure_ = ax.figure
        self.comparisons_ = comparisons
        mean = sum(record["difference"] for record in comparisons) / len(comparisons)
        self.overall_ = {"difference": mean} if overall is None else dict(overall)

    @classmethod
    def from_results(
        cls, rows: Any, *, method: str, reference: str, metric: str = "macro_f1", ax: Any = None
    ) -> Self:
        """Draw the differences of two methods, over the folds of both, for each data set or pair.

        Parameters
        ----------
        rows : Results or sequence of mapping
            Rows of a sweep or a transfer; those with permuted labels are left out.
        method, reference : str
            Methods, or kinds of methods (``"sae"``, ``"states"``), of which the one is taken that
            validation chooses in each fold.
        metric : str, default="macro_f1"
            Which score.
        ax : matplotlib Axes, or an empty Figure, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        PairedDifferenceDisplay

        Raises
        ------
        InvalidParameterError
            If a method is not among the rows.
        InvalidInputError
            If there are no rows, or the two share no folds.
        MissingDependencyError
            If matplotlib is not installed.
        """
        real = without_controls(checked_rows(rows, metric))
        ours, theirs = of_method(real, method), of_method(real, reference, "reference")
        return cls.from_comparisons(
            compare(ours, theirs, metric), overall=compare_overall(ours, theirs, metric), method=method,
            reference=reference, metric=metric, ax=ax,
        )  # fmt: skip

    @classmethod
    def from_comparisons(
        cls,
        records: Iterable[Any],
        *,
        overall: Mapping[str, Any] | None = None,
        method: str | None = None,
        reference: str | None = None,
        metric: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw differences that were computed elsewhere.

        Parameters
        ----------
        records : iterable of mapping
            With ``difference``, and where they are known ``low`` and ``high`` (ends of its interval) and
            ``dataset``, ``train_on``, ``test_on``, ``setting`` (what it is of).
        overall : mapping, optional
            The mean with its interval; the mean alone if not given.
        method, reference, metric : str, optional
            What is compared; the records' own if not given.
        ax : matplotlib Axes, or an empty Figure, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        PairedDifferenceDisplay

        Raises
        ------
        InvalidInputError
            If there are no records, or one has no difference.
        MissingDependencyError
            If matplotlib is not installed.
        """
        checked = checked_comparisons(records)
        if not checked:
            raise InvalidInputError(
                "Got no comparisons; expected at least one pair of scores of one fold."
            )
        checked.sort(key=lambda record: -record["difference"])
        names, shared = place_names(checked)
        longest = min(max(map(len, names)), LONGEST)
        size = (3.6 + longest * 0.085, 1.3 + ROW * (len(checked) + (len(checked) > 1)))
        (axes,) = make_axes(ax, figsize=(max(size[0], 5.2), size[1]))
        display = cls(axes, checked, overall)
        display._draw([shortened(name, LONGEST) for name in names])
        first = checked[0]
        compared = [
            given or first.get(key) or key
            for given, key in ((method, "method"), (reference, "reference"))
        ]
        title = " minus ".join(shown_name(str(name)) for name in compared)
        write_title(axes, f"{shared}: {title}" if shared else title)
        what = metric_name(str(metric or first.get("metric") or "macro_f1"))
        axes.set_xlabel(f"← worse    difference in {what}    better →")
        return display

    def _draw(self, names: list[str]) -> None:
        ax = self.ax_
        ax.axvline(0, color="black", linewidth=1.0)
        for position, record in enumerate(self.comparisons_):
            is_clear = _is_clear(record)
            color = GREY if not is_clear else COLORS[0] if record["difference"] > 0 else COLORS[1]
            self._draw_interval(record, position, color)
            ax.plot(
                record["difference"], position, marker="o", markersize=7, color=color,
                markerfacecolor=color if is_clear else "white", markeredgewidth=1.5,
            )  # fmt: skip
        last = len(names) - 1
        if len(names) > 1:
            last += 1
            ax.axhline(last - 0.5, color=GREY, linewidth=0.6)
            self._draw_interval(self.overall_, last, "black")
            ax.plot(self.overall_["difference"], last, marker="D", markersize=7, color="black")
            names = [*names, "mean"]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(last + 0.6, -0.6)
        shown = [*self.comparisons_, self.overall_]
        ends = [record.get(key) for record in shown for key in ("difference", "low", "high")]
        reach = max(abs(end) for end in [*ends, 0.01] if end is not None)
        ax.set_xlim(-1.08 * reach, 1.08 * reach)
        ax.locator_params(axis="x", nbins=7)
        ax.grid(visible=True, axis="x", alpha=0.25)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)

    def _draw_interval(self, record: Mapping[str, Any], position: int, color: str) -> None:
        low, high = record.get("low"), record.get("high")
        if low is not None and high is not None:
            self.ax_.plot([low, high], [position, position], color=color, linewidth=1.6)


def _is_clear(record: Mapping[str, Any]) -> bool:
    """Tell whether the interval is known and does not hold zero."""
    low, high = record.get("low"), record.get("high")
    return low is not None and high is not None and (low > 0 or high < 0)
