"""Texts are shown as they are, and stand out from what they are written on."""

from __future__ import annotations

import itertools
import sys

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_features.drawing import (
    characters,
    luminance,
    make_axes,
    plain,
    readable_on,
    shortened,
    wrapped,
    write_title,
)
from sae_features.errors import InvalidParameterError, MissingDependencyError

mpl.use("agg")
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

channel = st.floats(0, 1)
HOSTILE = [
    "$\\frac{",
    "_hidden",
    "a\nb\tc",
    "\x00\x1b[31m",
    "\ud800",
    "मुक्त 中文",
    "",
    "a$b$c",
    "x" * 500,
]


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


class TestColours:
    def test_luminance(self):
        assert luminance((0, 0, 0)) == 0
        assert luminance((1, 1, 1)) == pytest.approx(1)
        # of #777777 on white, as WCAG's own examples give it
        grey = (0x77 / 255,) * 3
        assert contrast(grey, (1, 1, 1)) == pytest.approx(4.48, abs=0.005)

    @given(st.tuples(channel, channel, channel))
    def test_the_better_of_black_and_white(self, color):
        ink = {"black": (0, 0, 0), "white": (1, 1, 1)}
        chosen = contrast(ink[readable_on(color)], color)
        assert chosen >= max(contrast(other, color) for other in ink.values()) - 1e-9
        assert chosen >= 4.58

    @pytest.mark.parametrize("name", ["viridis", "PuOr"])
    def test_on_the_colour_maps_in_use(self, name):
        for step in range(256):
            color = colormaps[name](step)[:3]
            ink = {"black": (0, 0, 0), "white": (1, 1, 1)}[readable_on(color)]
            assert contrast(ink, color) >= 4.5


class TestTexts:
    @pytest.mark.filterwarnings("ignore:Glyph")
    @pytest.mark.parametrize("text", HOSTILE)
    def test_any_text_can_be_drawn(self, text):
        figure = Figure()
        ax = figure.subplots()
        line = ax.plot([0, 1], label=plain(text))
        if plain(text):
            ax.legend()
        ax.set_title(wrapped(text, 20))
        ax.set_xlabel(shortened(text, 20))
        figure.canvas.draw()
        if plain(text):
            assert [entry.get_text() for entry in ax.get_legend().get_texts()] == [plain(text)]
            assert line[0].get_label() == plain(text)

    def test_lines_are_not_longer(self):
        lines = wrapped("one two three four five six seven", 9).split("\n")
        assert lines == ["one two", "three", "four five", "six seven"]

    def test_there_are_not_more_lines(self):
        lines = wrapped("word " * 100, 20, 3).split("\n")
        assert len(lines) == 3
        assert max(map(len, lines)) <= 20
        assert "…" in "".join(lines)

    @given(st.text(), st.integers(3, 40))
    def test_shortened_keeps_both_ends(self, text, width):
        whole = " ".join(plain(text).replace("\\$", "$").split())
        cut = shortened(text, width).replace("\\$", "$").strip()
        assert len(cut) <= width
        assert whole.startswith(cut.split("…")[0]) or "…" in text

    def test_characters_fit(self):
        figure = Figure(figsize=(4, 1))
        text = figure.text(0, 0.5, ("minilm layer 3 states " * 9)[: characters(4, 10)], fontsize=10)
        figure.canvas.draw()
        assert text.get_window_extent().width <= 4 * figure.dpi


class TestTitles:
    @pytest.mark.parametrize("n_axes", [1, 3])
    def test_titles_stay_within_the_figure(self, n_axes):
        figure = Figure()
        axes = make_axes(figure, n_axes=n_axes, figsize=(9, 3))
        for ax in axes:
            ax.set_yticks([0], ["a label that takes room"])
        for ax in axes:
            write_title(
                ax, "a name that is so long that it takes several lines, or else it is cut off", "b"
            )
        figure.canvas.draw()
        for ax in axes:
            box = ax.title.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width
            assert ax.get_title().endswith("\nb")
        boxes = [ax.title.get_window_extent() for ax in axes]
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))


class TestAxes:
    def test_axes_are_taken_as_they_are(self):
        ax = plt.subplots()[1]
        assert make_axes(ax) == [ax]

    def test_a_figure_is_given_axes_and_a_size(self):
        figure = Figure()
        axes = make_axes(figure, n_axes=2, figsize=(7, 3))
        assert figure.axes == axes
        assert figure.get_size_inches().tolist() == [7, 3]
        assert plt.get_fignums() == []

    def test_errors(self):
        with pytest.raises(InvalidParameterError, match="^Got ax of type str; expected matplotlib Axes"):
            make_axes("ax")
        with pytest.raises(
            InvalidParameterError, match="^Got one ax for 2 panels; expected a matplotlib"
        ):
            make_axes(plt.subplots()[1], n_axes=2)

    def test_without_matplotlib(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        message = r'^Plots need matplotlib; install it: pip install "sae-features\[plot\]"$'
        with pytest.raises(MissingDependencyError, match=message):
            make_axes()
