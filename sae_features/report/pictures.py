"""Which pictures suit the rows at hand, drawn as SVG that is the same for the same rows."""

from __future__ import annotations

import io
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sae_features.report.document import Picture
from sae_features.report.heat_map import limits_of
from sae_features.report.intervals import score
from sae_features.report.rows import (
    SHOTS,
    best_method,
    chosen_by_validation,
    distinct,
    grouped,
    is_transfer,
    kind_name,
    kinds_of,
    metric_name,
    setting_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sae_features.report.rows import Row, Rows

MOST_DIFFERENCES: Final = 60
"""More dots than this are left to the table."""
FILLED: Final = "filled dots: the interval does not hold 0."
HOW_CHOSEN: Final = "where several settings share a place, validation chooses one in each fold"


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        return False
    return True


def score_pictures(rows: Rows, metric: str, name: str) -> list[Picture]:
    """Return the pictures that suit rows without controls; ``name`` begins the names of their files."""
    if is_transfer(rows):
        return _of_transfer(rows, metric, name)
    return _of_sweep(rows, metric, name)


def difference_pictures(rows: Rows, metric: str, name: str) -> list[Picture]:
    """Return pictures of the paired differences between SAE features and the main baselines."""
    from sae_features.report.paired_differences import PairedDifferenceDisplay
    from sae_features.report.transfer_matrix import TransferMatrixDisplay

    if "sae" not in kinds_of(rows):
        return []
    pictures: list[Picture] = []
    draw: Callable[..., Any]
    for kind in references_of(rows):
        file = f"{name}_sae_minus_{kind}"
        what = f"{metric_name(metric)} of SAE features minus {kind_name(kind)}"
        options: dict[str, Any] = {"method": "sae", "reference": kind, "metric": metric}
        if is_transfer(rows):
            matrix = _matrix_rows(rows)
            draw = partial(TransferMatrixDisplay.from_results, matrix, **options)
            caption = f"{what}, for each pair; purple is in favour of SAE features, orange against."
            pictures.append(_draw(file, draw, caption))
        elif len(grouped(rows, "dataset", "train_on", "test_on")) <= MOST_DIFFERENCES:
            draw = partial(PairedDifferenceDisplay.from_results, rows, **options)
            pictures.append(_draw(file, draw, f"{what}, with 95 % intervals; {FILLED}"))
    return pictures


def comparison_pictures(records: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Return a picture for each method, reference and metric among comparisons made elsewhere."""
    from sae_features.report.paired_differences import PairedDifferenceDisplay

    pictures: list[Picture] = []
    draw: Callable[..., Any]
    for number, group in enumerate(grouped(records, "method", "reference", "metric").values(), 1):
        if len(group) <= MOST_DIFFERENCES:
            draw = partial(PairedDifferenceDisplay.from_comparisons, group)
            pictures.append(
                _draw(f"comparison_{number}", draw, f"Differences with their intervals; {FILLED}")
            )
    return pictures


def references_of(rows: Rows) -> list[str]:
    """Return the kinds drawn beside SAE features: hidden states, the best other, random SAEs."""
    kinds = [kind for kind in kinds_of(rows) if kind not in {"sae", "chance"}]
    main = [kind for kind in ("states", "random_sae") if kind in kinds]
    other = _best_kind([row for row in rows if row.get("kind") in set(kinds) - set(main)])
    return [kind for kind in ("states", other, "random_sae") if kind in kinds and kind is not None]


def _of_sweep(rows: Rows, metric: str, name: str) -> list[Picture]:
    from sae_features.report.curves import X_NAMES, SweepCurveDisplay
    from sae_features.report.layer_pooling import LayerPoolingDisplay

    pictures: list[Picture] = []
    draw: Callable[..., Any]
    latents = [row for row in rows if row.get("kind") == "sae"]
    kinds = [
        kind
        for kind in ("sae", "states")
        if _has_places([row for row in rows if row.get("kind") == kind])
    ]
    both = [row for row in rows if row.get("kind") in kinds]
    low, high = _common_limits(both, metric, "kind", "model", "layer", "pooling")
    for kind in kinds:
        draw = partial(
            LayerPoolingDisplay.from_results, rows, metric=metric, kind=kind, vmin=low, vmax=high
        )
        caption = (
            f"{metric_name(metric)} of {kind_name(kind)} by layer and pooling, mean over data sets; "
            f"{HOW_CHOSEN}."
        )
        pictures.append(_draw(f"{name}_layer_pooling_{kind}", draw, caption))
    shown = {"sae", *references_of(rows)}
    some = [row for row in rows if row.get("kind") in shown]
    for x in ("threshold", "width", "token_top_n", "n_train"):
        if _varies(latents, x):
            draw = partial(SweepCurveDisplay.from_results, some, x=x, metric=metric)
            caption = (
                f"{metric_name(metric)} by {X_NAMES[x]}, mean over data sets with 95 % intervals; "
                f"{HOW_CHOSEN}. Level lines are methods to which it does not apply."
            )
            pictures.append(_draw(f"{name}_{x}", draw, caption))
    return pictures


def _of_transfer(rows: Rows, metric: str, name: str) -> list[Picture]:
    from sae_features.report.curves import SweepCurveDisplay
    from sae_features.report.transfer_matrix import TransferMatrixDisplay

    matrix = _matrix_rows(rows)
    kinds = [kind for kind in ("sae", *references_of(rows)) if kind in kinds_of(matrix)]
    shown = [row for row in matrix if row.get("kind") in kinds]
    low, high = _common_limits(shown, metric, "kind", "train_on", "test_on")
    how = setting_name(next((row.get("setting") for row in matrix if _is_other(row)), None))
    pictures: list[Picture] = []
    draw: Callable[..., Any]
    for kind in kinds:
        draw = partial(
            TransferMatrixDisplay.from_results, matrix, metric=metric, method=kind, vmin=low, vmax=high
        )
        caption = (
            f"{metric_name(metric)} of {kind_name(kind)}{f', {how}' if how else ''}: rows trained on, "
            "columns tested on; the diagonal is framed. All such pictures share their colours."
        )
        pictures.append(_draw(f"{name}_matrix_{kind}", draw, caption))
    if any(SHOTS.fullmatch(str(row.get("setting"))) for row in rows):
        some = [row for row in rows if row.get("kind") in kinds]
        draw = partial(SweepCurveDisplay.from_results, some, x="shots", metric=metric)
        caption = (
            f"{metric_name(metric)} by the number of training items in the language of the test, mean "
            "over pairs with 95 % intervals; 0 is zero-shot."
        )
        pictures.append(_draw(f"{name}_shots", draw, caption))
    return pictures


def _matrix_rows(rows: Rows) -> list[Row]:
    """Return the rows of one matrix: the diagonal, and one setting off it, zero-shot if there is."""
    settings = {row.get("setting") for row in rows if _is_other(row)}
    setting = "zero_shot" if "zero_shot" in settings else min(settings, key=str)
    own = (setting, "in_language", None)
    return [row for row in rows if row.get("setting") in (own if not _is_other(row) else (setting,))]


def _is_other(row: Row) -> bool:
    return row.get("train_on") != row.get("test_on")


def _common_limits(rows: Rows, metric: str, *cells: str) -> tuple[float, float]:
    """Return the colours' limits of several pictures, with a cell for each value of some columns."""
    found = [score(chosen_by_validation(cell), metric) for cell in grouped(rows, *cells).values()]
    return limits_of(np.array([result.mean for result in found if result is not None]), None, None)


def _has_places(rows: Rows) -> bool:
    return any(len(distinct(rows, name)) > 1 for name in ("layer", "pooling"))


def _best_kind(rows: Rows) -> str | None:
    best = best_method(rows)
    if best is None:
        return next(iter(kinds_of(rows)), None) if rows else None
    return next(str(row.get("kind")) for row in rows if row.get("method") == best)


def _varies(rows: Rows, x: str) -> bool:
    """Tell whether a column takes several values on one data set; sizes of folds differ a little."""
    for here in grouped(rows, "dataset", "model").values():
        values = [float(value) for value in distinct(here, x)]
        n = len(values) + (x in {"threshold", "token_top_n"} and any(row.get(x) is None for row in here))
        if n > 1 and (x != "n_train" or max(values) > 1.5 * min(values)):
            return True
    return False


def _draw(name: str, draw: Callable[..., Any], caption: str) -> Picture:
    """Return a picture as SVG: in matplotlib's own style, without pyplot, without a date."""
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.figure import Figure

    options: Any = {"svg.hashsalt": name, "svg.fonttype": "path"}
    with style.context("default"), mpl.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # shown as a box
        figure = Figure()
        draw(ax=figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(name, stream.getvalue(), caption, caption)
