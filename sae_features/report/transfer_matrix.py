"""The picture of a transfer: what is trained on one language (or model) and tested on another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.drawing import write_title
from sae_features.errors import InvalidInputError, InvalidParameterError, expected_one_of
from sae_features.report.heat_map import (
    draw_color_bar,
    draw_heat_map,
    fit_numbers,
    heat_map_axes,
    limits_of,
)
from sae_features.report.intervals import score
from sae_features.report.rows import (
    best_method,
    checked_rows,
    distinct,
    grouped,
    metric_name,
    of_method,
    setting_name,
    setting_order,
    shown_name,
    without_controls,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from sae_features.report.rows import Row, Rows


class TransferMatrixDisplay:
    """A heat map of scores, what was trained on against what was tested on.

    Made by :meth:`from_results`.  The diagonal is framed, and what was not run is hatched.  It needs
    matplotlib: ``pip install "sae-features[plot]"``.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        What that is in.
    train_, test_ : list of str
        Names of the rows and columns.
    values_ : ndarray of shape (n_train, n_test), float64
        What is drawn; NaN where nothing was run.
    texts_ : list of list of matplotlib.text.Text
        The numbers.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> pairs = [("en", "en", 0.8), ("en", "fr", 0.7), ("fr", "fr", 0.9)]
    >>> rows = [
    ...     {"method": "SAE", "dataset": "tweets", "train_on": a, "test_on": b, "macro_f1": score}
    ...     for a, b, score in pairs
    ... ]
    >>> TransferMatrixDisplay.from_results(rows).values_
    array([[0.8, 0.7],
           [nan, 0.9]])
    """

    def __init__(self, ax: Any, train: list[str], test: list[str], values: np.ndarray) -> None:
        self.ax_ = ax
        self.figure_ = ax.figure
        self.train_, self.test_ = train, test
        self.values_ = values
        self.texts_: list[list[Any]] = []

    @classmethod
    def from_results(
        cls,
        rows: Any,
        *,
        metric: str = "macro_f1",
        method: str | None = None,
        reference: str | None = None,
        setting: str | None = None,
        dataset: str | None = None,
        order: Sequence[str] | None = None,
        vmin: float | None = None,
        vmax: float | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the mean score over folds for each pair.

        Parameters
        ----------
        rows : Results or sequence of mapping
            Rows of a transfer; those with permuted labels are left out.
        metric : str, default="macro_f1"
            Which score.
        method : str, optional
            A method, or a kind of methods (``"sae"``), of which the one is taken that validation
            chooses in each fold.  If not given, the method with the best mean validation score.
        reference : str, optional
            Another method or kind: drawn is by how much ``method`` is better, over the folds of both.
        setting : str, optional
            ``"zero_shot"``, ``"few_shot_16"`` …: which rows off the diagonal; needed if there are
            several. The diagonal is ``"in_language"`` where that was run.
        dataset : str, optional
            Needed if there are several.
        order : sequence of str, optional
            Names of languages in the order of rows and columns; alphabetical if not given.
        vmin, vmax : float, optional
            Scores of the first and last colour, so that several pictures can share them.
        ax : matplotlib Axes, or an empty Figure, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        TransferMatrixDisplay

        Raises
        ------
        InvalidParameterError
            If a method, setting or data set is not among the rows, or one of several must be named.
        InvalidInputError
            If there are no rows.
        MissingDependencyError
            If matplotlib is not installed.
        """
        real = without_controls(checked_rows(rows, metric, "train_on", "test_on"))
        real = _of_setting(_of_dataset(real, dataset), setting)
        named = method or best_method(real) or _only(real, "method")
        chosen = of_method(real, named)
        train, test = _names(real, "train_on", order), _names(real, "test_on", order)
        values = _means(chosen, metric, train, test)
        if reference is not None:
            values = _differences(chosen, of_method(real, reference, "reference"), metric, train, test)
        longest = max(map(len, train)), max(map(len, test))
        (axes,) = heat_map_axes(ax, values.shape, longest)
        display = cls(axes, train, test, values)
        signed = reference is not None
        mesh, display.texts_ = draw_heat_map(
            axes, values, (train, test), limits=limits_of(values, vmin, vmax, signed=signed),
            signed=signed, outlined=display.is_diagonal_,
        )  # fmt: skip
        what = metric_name(metric) + (", difference" if signed else "")
        draw_color_bar(mesh, [axes], what)
        axes.set(xlabel="tested on", ylabel="trained on")
        title = (
            shown_name(named)
            if reference is None
            else f"{shown_name(named)} minus {shown_name(reference)}"
        )
        display._write_title(title, setting_name(_setting_shown(chosen)), signed=signed)
        fit_numbers(axes)
        return display

    @property
    def is_diagonal_(self) -> np.ndarray:
        """Which cells are trained and tested on the same: (n_train, n_test) bool."""
        return np.array([[a == b for b in self.test_] for a in self.train_], bool)

    def _write_title(self, name: str, setting: str, *, signed: bool) -> None:
        parts = []
        for where, cells in (("on the diagonal", self.is_diagonal_), ("off it", ~self.is_diagonal_)):
            found = self.values_[cells]
            if np.isfinite(found).any():
                mean = float(np.nanmean(found))
                number = (f"{mean:+.3f}" if signed else f"{mean:.3f}").replace("-", "−")
                parts.append(f"{where} {number}")
        means = f"mean {', '.join(parts)}" if parts else "nothing was run"
        write_title(self.ax_, name, f"{setting}: {means}" if setting else means)


def _of_dataset(rows: list[Row], dataset: str | None) -> list[Row]:
    known = [str(value) for value in distinct(rows, "dataset")]
    if dataset is None:
        if len(known) > 1:
            message = f"Got rows of {len(known)} data sets; give dataset=, one of {', '.join(known)}."
            raise InvalidParameterError(message)
        return rows
    if dataset not in known:
        raise InvalidParameterError(expected_one_of("dataset", dataset, known))
    return [row for row in rows if row.get("dataset") == dataset]


def _of_setting(rows: list[Row], setting: str | None) -> list[Row]:
    """Return the rows of a setting off the diagonal, with a diagonal of the same language."""
    off = {row.get("setting") for row in rows if row.get("train_on") != row.get("test_on")}
    known = sorted((str(value) for value in off), key=setting_order)
    if setting is None:
        if len(known) > 1:
            message = f"Got rows of {len(known)} settings; give setting=, one of {', '.join(known)}."
            raise InvalidParameterError(message)
    elif setting not in known:
        raise InvalidParameterError(expected_one_of("setting", setting, known))
    else:
        off = {setting}
    kept = []
    for (train, test), pair in grouped(rows, "train_on", "test_on").items():
        if train != test:
            kept += [row for row in pair if row.get("setting") in off]
        else:
            own = [row for row in pair if row.get("setting") in ("in_language", None)]
            kept += own or [row for row in pair if row.get("setting") in off]
    if not kept:
        raise InvalidInputError("Got no rows of such a transfer; expected at least one.")
    return kept


def _setting_shown(rows: Rows) -> object:
    return next((row.get("setting") for row in rows if row.get("train_on") != row.get("test_on")), None)


def _only(rows: Rows, name: str) -> str:
    values = [str(value) for value in distinct(rows, name)]
    if len(values) != 1:
        message = (
            f"Got rows of {len(values)} {name}s without validation scores to choose by; give {name}=, "
            f"one of {', '.join(values)}."
        )
        raise InvalidParameterError(message)
    return values[0]


def _names(rows: Rows, column: str, order: Sequence[str] | None) -> list[str]:
    found = [str(value) for value in distinct(rows, column)]
    if order is None:
        return sorted(found, key=lambda name: (name.casefold(), name))
    if unknown := [name for name in found if name not in order]:
        message = (
            f"Got order={list(order)}, which lacks {unknown[0]!r}; expected all of {', '.join(found)}."
        )
        raise InvalidParameterError(message)
    return [name for name in order if name in found]


def _means(rows: Rows, metric: str, train: list[str], test: list[str]) -> np.ndarray:
    values = np.full((len(train), len(test)), np.nan)
    for (a, b), pair in grouped(rows, "train_on", "test_on").items():
        result = score(pair, metric)
        if result is not None:
            values[train.index(str(a)), test.index(str(b))] = result.mean
    return values


def _differences(rows: Rows, others: Rows, metric: str, train: list[str], test: list[str]) -> np.ndarray:
    from sae_features.report.comparisons import compare

    values = np.full((len(train), len(test)), np.nan)
    for record in compare(rows, others, metric):
        values[train.index(str(record["train_on"])), test.index(str(record["test_on"]))] = record[
            "difference"
        ]
    return values
