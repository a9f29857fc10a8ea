"""The pictures show the numbers, and nothing in them is cut off."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from sae_features.errors import InvalidInputError, InvalidParameterError, MissingDependencyError
from sae_features.training.displays import COLORS, SAEEvaluationDisplay
from sae_features.training.metrics import SAEEvaluation

mpl.use("agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def evaluation(architecture="topk", l0=32.0, fvu=0.3, counts=(0, 1, 10, 1000, 500)):
    return SAEEvaluation(
        architecture=architecture, n_latents=len(counts), n_tokens=1000, l0=l0, l1=1.0, fvu=fvu,
        explained_variance=1 - fvu, mse=0.1, gamma=1.0, cosine=0.9, alive=0.8, dead=0.2,
        counts=np.array(counts),
    )  # fmt: skip


SWEEP = [
    evaluation(architecture, l0, 0.5 * l0**-0.3 + offset)
    for architecture, offset in (("relu", 0.1), ("gated", 0.0))
    for l0 in (64, 8, 16, 128)
]


def is_whole(figure):
    """Tell whether all that is drawn lies within the figure."""
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height


class TestCurves:
    def test_a_curve_for_each_group_sorted_by_x(self):
        display = SAEEvaluationDisplay.from_evaluations(SWEEP)
        assert [line.get_label() for line in display.lines_] == ["relu", "gated"]
        for line, rows in zip(display.lines_, (SWEEP[:4], SWEEP[4:]), strict=True):
            expected = sorted((row.l0, row.fvu) for row in rows)
            np.testing.assert_array_equal(line.get_xydata(), expected)
        ax = display.ax_
        assert ax.get_xscale() == "log"
        assert ax.get_xlabel() == "L0 (latents that fire per token)"
        assert ax.get_ylabel() == "Fraction of variance unexplained"
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["relu", "gated"]
        assert display.figure_ is ax.figure
        assert display.bars_ is None

    def test_curves_differ_in_colour_and_mark(self):
        names = [f"kind {i}" for i in range(9)]
        rows = [{"name": name, "x": x, "y": x} for name in names for x in (1, 2)]
        lines = SAEEvaluationDisplay.from_evaluations(rows, x="x", y="y", by="name").lines_
        looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
        assert len(looks) == 9
        assert {line.get_color() for line in lines} <= set(COLORS)

    def test_records_may_hold_more(self):
        rows = [row.asdict() | {"loss_recovered_zero": 0.9, "width": 512} for row in SWEEP]
        display = SAEEvaluationDisplay.from_evaluations(rows, y="loss_recovered_zero", by="width")
        assert display.ax_.get_ylabel() == "Loss recovered (of zero ablation)"
        assert display.ax_.get_title() == "512"
        assert display.ax_.get_legend() is None

    def test_values_that_have_no_logarithm(self):
        rows = [evaluation(l0=l0) for l0 in (0.0, 4.0)]
        assert SAEEvaluationDisplay.from_evaluations(rows).ax_.get_xscale() == "linear"

    def test_axes_may_be_given(self):
        _, axes = plt.subplots(1, 2)
        display = SAEEvaluationDisplay.from_evaluations(SWEEP, ax=axes[1])
        assert display.ax_ is axes[1]
        assert plt.get_fignums() == [1]

    def test_nothing_is_cut_off(self):
        display = SAEEvaluationDisplay.from_evaluations(SWEEP)
        assert is_whole(display.figure_)
        legend, frame = display.ax_.get_legend().get_window_extent(), display.ax_.get_window_extent()
        assert frame.x0 <= legend.x0 < legend.x1 <= frame.x1
        assert frame.y0 <= legend.y0 < legend.y1 <= frame.y1

    def test_ticks_are_plain_numbers(self):
        display = SAEEvaluationDisplay.from_evaluations(SWEEP)
        display.figure_.canvas.draw()
        labels = {label.get_text() for label in display.ax_.get_xticklabels()}
        assert {"10", "20", "50", "100"} <= labels

    def test_errors(self):
        with pytest.raises(InvalidInputError, match="^Got no evaluations; expected at least one"):
            SAEEvaluationDisplay.from_evaluations([])
        rows = [{"architecture": "topk", "l0": 4.0, "fvu": None}]
        with pytest.raises(
            InvalidInputError, match="^Got no 'fvu' in evaluation 0; it has architecture, l0"
        ):
            SAEEvaluationDisplay.from_evaluations(rows)
        with pytest.raises(InvalidParameterError, match="^Got ax of type int; expected matplotlib Axes"):
            SAEEvaluationDisplay.from_evaluations(SWEEP, ax=3)


class TestDensity:
    def test_the_bars_are_the_histogram(self):
        result = evaluation()
        display = SAEEvaluationDisplay.from_evaluation(result)
        n, edges = result.density_histogram()
        assert [bar.get_height() for bar in display.bars_] == n.tolist()
        np.testing.assert_allclose([bar.get_x() for bar in display.bars_], edges[:-1])
        assert display.ax_.get_title() == "topk, 5 latents:\n1 never fire in 1,000 tokens"
        low, high = display.ax_.get_xlim()
        assert low <= -3 < 0 < high

    def test_nothing_is_cut_off(self):
        assert is_whole(SAEEvaluationDisplay.from_evaluation(evaluation()).figure_)

    def test_an_sae_of_which_nothing_fires(self):
        display = SAEEvaluationDisplay.from_evaluation(evaluation(counts=(0, 0)))
        assert display.ax_.get_title().endswith("2 never fire in 1,000 tokens")


def test_matplotlib_is_imported_on_use():
    program = "import sys, sae_features.training.displays; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "matplotlib" not in done.stdout.split()


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r'^Plots need matplotlib; install it: pip install "sae-features\[plot\]"$'
    with pytest.raises(MissingDependencyError, match=message):
        SAEEvaluationDisplay.from_evaluation(evaluation())
