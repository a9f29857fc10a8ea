"""Curves: means and intervals at what was varied, level lines for the rest."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sae_features.drawing import COLORS
from sae_features.errors import InvalidInputError
from sae_features.report import SweepCurveDisplay
from sae_features.report.intervals import estimate


def cell(make_row, **values):
    return make_row(
        **({"kind": "sae", "model": "m", "dataset": "d", "fold": 0, "macro_f1": 0.5} | values)
    )


def mean_of(rows, **values):
    return np.mean([r["macro_f1"] for r in rows if all(r[k] == v for k, v in values.items())])


class TestPoints:
    def test_means_and_intervals_of_thresholds(self, make_row):
        scores = {None: [0.80, 0.82, 0.79], 0.5: [0.7, 0.8, 0.75], 1.0: [0.5, 0.6, 0.4]}
        rows = [
            cell(make_row, threshold=t, fold=fold, macro_f1=x, n_train=60, n_test=30)
            for t, values in scores.items()
            for fold, x in enumerate(values)
        ]
        (curve,) = SweepCurveDisplay.from_results(rows).curves_
        assert curve.x == [0.0, 0.5, 1.0]  # without a threshold nothing is cut off
        expected = [estimate(values, (60, 30)) for values in scores.values()]
        assert curve.means == pytest.approx([result.mean for result in expected])
        assert curve.lows == pytest.approx([result.low for result in expected])
        assert curve.highs == pytest.approx([result.high for result in expected])

    def test_settings_at_a_point_are_chosen_by_validation(self, make_row):
        found = [("max", 0.9, 0.3), ("mean", 0.8, 0.4)]
        rows = [
            cell(make_row, width=width, pooling=pooling, validation=v, macro_f1=x)
            for width in (1024, 2048)
            for pooling, v, x in found
        ]
        assert SweepCurveDisplay.from_results(rows, x="width").curves_[0].means == [0.3, 0.3]

    def test_a_point_must_have_all_data_sets(self, make_row):
        runs = [(1024, "a", 0.9), (2048, "a", 0.8), (2048, "b", 0.4)]
        rows = [cell(make_row, width=w, dataset=name, macro_f1=x) for w, name, x in runs]
        (curve,) = SweepCurveDisplay.from_results(rows, x="width").curves_
        assert (curve.x, curve.means) == ([2048.0], [pytest.approx(0.6)])
        with pytest.raises(
            InvalidInputError, match="^Got no value of 'width' that was run on all data sets"
        ):
            SweepCurveDisplay.from_results([rows[0], rows[2]], x="width")

    def test_sizes_of_folds_differ_a_little(self, make_row):
        rows = [
            cell(make_row, n_train=n, fold=fold, macro_f1=n / 1000)
            for fold, sizes in enumerate([(100, 639), (101, 641)])
            for n in sizes
        ]
        (curve,) = SweepCurveDisplay.from_results(rows, x="n_train").curves_
        assert curve.x == [100.0, 640.0]
        assert curve.means == pytest.approx([0.1005, 0.64])

    def test_shots(self, transfer):
        display = SweepCurveDisplay.from_results(transfer, x="shots")
        names = [curve.name for curve in display.curves_]
        assert names == ["SAE features", "hidden states", "TF-IDF, letters"]  # one model is not named
        for curve, kind in zip(display.curves_, ("sae", "states", "tfidf_char"), strict=True):
            assert curve.x == [0.0, 16.0, 256.0]
            settings = ("zero_shot", "few_shot_16", "few_shot_256")
            expected = [mean_of(transfer, kind=kind, setting=setting) for setting in settings]
            assert curve.means == pytest.approx(expected)

    def test_shots_alone_are_a_curve_of_their_own(self, make_row):
        scores = {"zero_shot": 0.4, "few_shot_16": 0.5, "in_language": 0.9}
        pair = {"train_on": "en", "test_on": "fr"}
        rows = [cell(make_row, setting=s, macro_f1=x, **pair) for s, x in scores.items()]
        rows.append(cell(make_row, setting="target_only_16", macro_f1=0.3, train_on="fr", test_on="fr"))
        curves = SweepCurveDisplay.from_results(rows, x="shots", by="kind").curves_
        assert [(curve.name, curve.x, curve.means) for curve in curves] == [
            ("SAE features", [0.0, 16.0], [0.4, 0.5]),
            ("SAE features, these items alone", [16.0], [0.3]),
        ]

    def test_intervals_end_where_scores_do(self, make_row):
        rows = [cell(make_row, width=512, fold=f, macro_f1=x) for f, x in enumerate([0.1, 0.9])]
        (curve,) = SweepCurveDisplay.from_results(rows, x="width").curves_
        assert (curve.lows, curve.means, curve.highs) == ([0.0], [0.5], [1.0])


class TestLook:
    def test_what_x_does_not_apply_to_is_level(self, make_row):
        rows = [cell(make_row, threshold=t, macro_f1=0.5 + t / 10) for t in (0.0, 1.0)]
        rows += [cell(make_row, kind="tfidf_word", model=None, macro_f1=0.52)]
        rows += [cell(make_row, kind="chance", model=None, macro_f1=0.1)]
        display = SweepCurveDisplay.from_results(rows)
        assert [curve.is_level for curve in display.curves_] == [False, True, True]
        legend = [text.get_text() for text in display.figure_.legends[0].get_texts()]
        assert legend == ["SAE features", "TF-IDF, words: 0.52", "chance: 0.10"]
        low, high = display.ax_.get_ylim()
        assert 0.1 < low < 0.5
        assert 0.6 < high < 0.7  # chance is told, and does not flatten the curves

    def test_models_differ_in_colour_kinds_in_style(self, sweep):
        display = SweepCurveDisplay.from_results(sweep)
        looks = {curve.name: (line.get_color(), line.get_linestyle(), line.get_marker())
                 for curve, line in zip(display.curves_, display.lines_, strict=True)}  # fmt: skip
        assert len(set(looks.values())) == len(looks)
        assert looks["SAE features, minilm"][0] == looks["hidden states, minilm"][0]
        assert looks["SAE features, minilm"][0] != looks["SAE features, e5-small"][0]
        assert looks["SAE features, minilm"][1:] == looks["SAE features, e5-small"][1:]
        assert {color for color, _, _ in looks.values()} <= {*COLORS, "#666666"}

    def test_no_limit_stands_last(self, make_row):
        rows = [cell(make_row, token_top_n=n, macro_f1=0.5) for n in (None, 8, 1, 64)]
        display = SweepCurveDisplay.from_results(rows, x="token_top_n")
        assert display.curves_[0].x == [1.0, 8.0, 64.0, None]
        assert display.ax_.get_xscale() == "log"
        assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["1", "8", "64", "all"]
        xs = display.lines_[0].get_xdata()
        assert sorted(xs) == list(xs)

    @pytest.mark.parametrize(
        ("values", "scale"), [((0.0, 0.5, 1.0), "linear"), ((0, 16, 256), "symlog")]
    )
    def test_scales(self, make_row, values, scale):
        rows = [cell(make_row, threshold=value) for value in values]
        assert SweepCurveDisplay.from_results(rows).ax_.get_xscale() == scale

    def test_groups_are_in_order(self, make_row):
        rows = [cell(make_row, threshold=t, width=w) for w in (8192, 16384, 4096) for t in (0, 1)]
        display = SweepCurveDisplay.from_results(rows, by="width")
        assert [curve.name for curve in display.curves_] == ["width 4096", "width 8192", "width 16384"]

    @pytest.mark.parametrize("long", ["", "sentence-transformers/a-model-with-a-very-long-name-"])
    def test_nothing_is_cut_off(self, sweep, is_whole, long):
        rows = [r | {"model": r["model"] and long + r["model"]} for r in sweep if r["fold"] < 2]
        assert is_whole(SweepCurveDisplay.from_results(rows).figure_)

    def test_many_ticks_do_not_overlap(self, make_row, is_whole):
        rows = [cell(make_row, layer=layer, macro_f1=layer / 50) for layer in range(40)]
        display = SweepCurveDisplay.from_results(rows, x="layer")
        assert is_whole(display.figure_)
        assert display.ax_.get_title() == "SAE features, m"

    def test_one_point(self, make_row, is_whole):
        assert is_whole(SweepCurveDisplay.from_results([cell(make_row, width=512)], x="width").figure_)

    def test_axes_may_be_given(self, sweep):
        ax = plt.subplots()[1]
        display = SweepCurveDisplay.from_results(sweep, ax=ax)
        assert display.ax_ is ax
        assert len(ax.get_legend().get_texts()) == len(display.curves_)
        assert display.figure_.legends == []
