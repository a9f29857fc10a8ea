"""The picture of where a model is read and how its tokens are pooled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sae_features.drawing import TITLE_SIZE, write_title
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
    UNIT,
    checked_rows,
    chosen_by_validation,
    distinct,
    grouped,
    kind_name,
    kinds_of,
    metric_name,
    without_controls,
)

if TYPE_CHECKING:
    from typing import Self

    from sae_features.report.rows import Row, Rows

POOLINGS: Final = ("max", "mean", "sum", "last", "first", "count")
"""In the order of columns; others follow."""


class LayerPoolingDisplay:
    """Heat maps of a score, layers against poolings, one for each model, in the same colours.

    Made by :meth:`from_results`.  Framed is what validation prefers; what was not run is hatched.
    It needs matplotlib: ``pip install "sae-features[plot]"``.

    Attributes
    ----------
    axes_ : list of matplotlib.axes.Axes
        Where they are drawn.
    figure_ : matplotlib.figure.Figure
        What that is in.
    models_ : list of str
        What each heat map is of.
    layers_ : list of list of str
        Names of each heat map's rows, the last layer first.
    poolings_ : list of str
        Names of the columns.
    values_ : list of ndarray of shape (n_layers, n_poolings), float64
        What is drawn; NaN where something was not run.
    best_ : list of ndarray of shape (n_layers, n_poolings), bool
        Where the mean validation score is the highest.
    texts_ : list of list of list of matplotlib.text.Text
        The numbers.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> rows = [
    ...     {"kind": "sae", "layer": layer, "pooling": pooling, "macro_f1": layer / 10}
    ...     for layer in (1, 5) for pooling in ("mean", "max")
    ... ]
    >>> display = LayerPoolingDisplay.from_results(rows)
    >>> display.poolings_, display.layers_, [values.tolist() for values in display.values_]
    (['max', 'mean'], [['5', '1']], [[[0.5, 0.5], [0.1, 0.1]]])
    """

    def __init__(self, axes: list[Any], models: list[str], poolings: list[str]) -> None:
        self.axes_ = axes
        self.figure_ = axes[0].figure
        self.models_, self.poolings_ = models, poolings
        self.layers_: list[list[str]] = []
        self.values_: list[np.ndarray] = []
        self.best_: list[np.ndarray] = []
        self.texts_: list[list[list[Any]]] = []

    @classmethod
    def from_results(
        cls,
        rows: Any,
        *,
        metric: str = "macro_f1",
        kind: str = "sae",
        model: str | None = None,
        vmin: float | None = None,
        vmax: float | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the mean over data sets for each layer and pooling.

        Where several settings (thresholds, widths) share a cell, validation chooses one in each
        fold.  A cell counts as missing unless it was run on all the data sets that the model was
        run on: means over different sets cannot be compared.

        Parameters
        ----------
        rows : Results or sequence of mapping
            Rows of a sweep; those with permuted labels are left out.
        metric : str, default="macro_f1"
            Which score.
        kind : str, default="sae"
            Which kind of methods.
        model : str, optional
            Only this one.
        vmin, vmax : float, optional
            Scores of the first and last colour.
        ax : matplotlib Axes (if there is one model), or an empty Figure, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        LayerPoolingDisplay

        Raises
        ------
        InvalidParameterError
            If a kind or model is not among the rows, or one ax is given for several models.
        InvalidInputError
            If no row has a layer and a pooling.
        MissingDependencyError
            If matplotlib is not installed.
        """
        real = without_controls(checked_rows(rows, metric))
        if kind not in kinds_of(real):
            raise InvalidParameterError(expected_one_of("kind", kind, kinds_of(real)))
        found = [
            row
            for row in real
            if row.get("kind") == kind
            and row.get("layer") is not None
            and row.get("pooling") is not None
        ]
        if not found:
            raise InvalidInputError(f"Got no row of kind {kind!r} with a layer and a pooling.")
        models = [str(name) for name in distinct(found, "model")] or [""]
        if model is not None:
            if model not in models:
                raise InvalidParameterError(expected_one_of("model", model, models))
            models, found = [model], [row for row in found if row.get("model") == model]
        poolings = _in_order({str(row["pooling"]) for row in found})
        with_site = len({_place(row)[1] for row in found}) > 1
        parts = [
            _Part(
                [row for row in found if len(models) == 1 or str(row.get("model")) == name],
                poolings,
                metric,
            )
            for name in models
        ]
        layers = [[_place_name(place, with_site=with_site) for place in part.places] for part in parts]
        sizes = max(len(name) for names in layers for name in names), max(map(len, poolings))
        shape = max(map(len, layers)), len(poolings)
        display = cls(heat_map_axes(ax, shape, sizes, n_axes=len(models)), models, poolings)
        display.layers_ = layers
        display.values_, display.best_ = [part.values for part in parts], [part.best for part in parts]
        limits = limits_of(np.concatenate([values.ravel() for values in display.values_]), vmin, vmax)
        display._draw(metric, limits, kind)
        return display

    def _draw(self, metric: str, limits: tuple[float, float], kind: str) -> None:
        mesh: Any = None
        for number, axes in enumerate(self.axes_):
            mesh, texts = draw_heat_map(
                axes, self.values_[number], (self.layers_[number], self.poolings_), limits=limits,
                outlined=self.best_[number],
            )  # fmt: skip
            self.texts_.append(texts)
        self.axes_[0].set_ylabel("layer")
        label = "pooling (framed: best in validation)" if any(map(np.any, self.best_)) else "pooling"
        if len(self.axes_) > 1:
            self.figure_.supxlabel(label, fontsize=TITLE_SIZE)
        else:
            self.axes_[0].set_xlabel(label)
        draw_color_bar(mesh, self.axes_, metric_name(metric))
        for axes, name in zip(self.axes_, self.models_, strict=True):
            write_title(axes, name or kind_name(kind))
        fit_numbers(self.axes_[0])


class _Part:
    """What is drawn of one model."""

    def __init__(self, rows: Rows, poolings: list[str], metric: str) -> None:
        self.places = sorted({_place(row) for row in rows}, reverse=True)
        self.values = np.full((len(self.places), len(poolings)), np.nan)
        self.best = np.zeros(self.values.shape, bool)
        validation = self.values.copy()
        n_units = len(grouped(rows, *UNIT))
        for cell in grouped(rows, "layer", "site", "pooling").values():
            at = self.places.index(_place(cell[0])), poolings.index(str(cell[0]["pooling"]))
            self.values[at] = _mean(cell, metric, n_units)
            validation[at] = _mean(cell, "validation", n_units)
        if np.isfinite(validation).any():
            self.best.flat[np.nanargmax(validation)] = True


def _mean(cell: Rows, metric: str, n_units: int) -> float:
    """Return the mean of what validation chooses, NaN where a data set is lacking."""
    chosen = [row for row in chosen_by_validation(cell) if row.get(metric) is not None]
    result = score(chosen, metric)
    return float("nan") if result is None or len(grouped(chosen, *UNIT)) < n_units else result.mean


def _place(row: Row) -> tuple[int, str]:
    return int(row["layer"]), str(row.get("site") or "resid_post")


def _place_name(place: tuple[int, str], *, with_site: bool) -> str:
    return f"{place[0]} {place[1]}" if with_site else str(place[0])


def _in_order(found: set[str]) -> list[str]:
    return [name for name in POOLINGS if name in found] + sorted(found - set(POOLINGS))
