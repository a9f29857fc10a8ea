"""Differences: sorted dots with intervals, filled where zero is outside."""

from __future__ import annotations

import numpy as np
import pytest

from sae_features.drawing import COLORS, GREY
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.report import PairedDifferenceDisplay
from sae_features.report.comparisons import compare, compare_overall
from sae_features.report.rows import of_method, without_controls

RECORDS = [
    {"dataset": "b", "difference": -0.02, "low": -0.03, "high": -0.01},
    {"dataset": "c", "difference": 0.01, "low": -0.02, "high": 0.04},
    {"dataset": "a", "difference": 0.05, "low": 0.02, "high": 0.08},
    {"dataset": "d", "difference": 0.00},
]


def dots(display):
    return [line for line in display.ax_.lines if line.get_marker() == "o"]


def labels(display):
    return [label.get_text() for label in display.ax_.get_yticklabels()]


class TestFromComparisons:
    def test_sorted_with_the_mean_below(self):
        display = PairedDifferenceDisplay.from_comparisons(RECORDS)
        assert labels(display) == ["a", "c", "d", "b", "mean"]
        assert [dot.get_xdata()[0] for dot in dots(display)] == [0.05, 0.01, 0.0, -0.02]
        assert display.overall_["difference"] == pytest.approx(0.01)
        low, high = display.ax_.get_ylim()
        assert low > high  # the first is at the top

    def test_filled_where_the_interval_does_not_hold_zero(self):
        looks = [
            (dot.get_color(), dot.get_markerfacecolor())
            for dot in dots(PairedDifferenceDisplay.from_comparisons(RECORDS))
        ]
        assert looks == [
            (COLORS[0], COLORS[0]), (GREY, "white"), (GREY, "white"), (COLORS[1], COLORS[1]),
        ]  # fmt: skip

    def test_intervals_and_zero_line(self):
        display = PairedDifferenceDisplay.from_comparisons(
            RECORDS, overall={"difference": 0.02, "low": -0.01, "high": 0.05}
        )
        spans = {tuple(line.get_xdata()) for line in display.ax_.lines if len(line.get_xdata()) == 2}
        assert spans >= {(0, 0), (0.02, 0.08), (-0.02, 0.04), (-0.03, -0.01), (-0.01, 0.05)}
        low, high = display.ax_.get_xlim()
        assert low == -high
        assert high > 0.08

    def test_titles(self):
        display = PairedDifferenceDisplay.from_comparisons(
            [r | {"method": "sae", "reference": "my words", "metric": "auroc"} for r in RECORDS]
        )
        assert display.ax_.get_title() == "SAE features minus my words"
        assert display.ax_.get_xlabel() == "← worse    difference in AUROC    better →"

    def test_one_has_no_mean(self, is_whole):
        display = PairedDifferenceDisplay.from_comparisons(RECORDS[:1])
        assert labels(display) == ["b"]
        assert is_whole(display.figure_)

    def test_none(self):
        with pytest.raises(InvalidInputError, match="^Got no comparisons; expected at least one pair"):
            PairedDifferenceDisplay.from_comparisons([])

    @pytest.mark.parametrize("n", [1, 35])
    def test_nothing_is_cut_off(self, is_whole, n):
        rng = np.random.default_rng(0)
        records = [
            {
                "dataset": f"{i} a data set with a name that is too long to be shown {'x' * i}",
                "difference": d,
            }
            for i, d in enumerate(rng.normal(0, 0.02, n))
        ]
        method = "minilm layer 3 minilm-topk-4k/layer_3 max top 8 > 0.5 binarized, centred per language"
        display = PairedDifferenceDisplay.from_comparisons(records, method=method, reference=method)
        assert is_whole(display.figure_)
        assert max(map(len, labels(display))) <= 44


class TestFromResults:
    def test_kinds_are_what_validation_chooses(self, sweep):
        display = PairedDifferenceDisplay.from_results(sweep, method="sae", reference="tfidf_word")
        real = without_controls(sweep)
        ours, theirs = of_method(real, "sae"), of_method(real, "tfidf_word")
        expected = sorted(compare(ours, theirs), key=lambda record: -record["difference"])
        drawn = [
            {k: v for k, v in record.items() if k in expected[0]} for record in display.comparisons_
        ]
        assert drawn == expected
        assert display.overall_ == compare_overall(ours, theirs)
        assert len(display.comparisons_) == 3

    def test_pairs_of_languages(self, transfer):
        rows = [r for r in transfer if r["test_on"] == "hindi" and r["setting"] != "few_shot_16"]
        rows = [r for r in rows if r["setting"] != "few_shot_256"]
        display = PairedDifferenceDisplay.from_results(rows, method="sae", reference="states")
        assert {"hindi", "english → hindi", "mean"} < set(labels(display))
        title = display.ax_.get_title().replace("\n", " ")
        assert title == "tweet sentiment: SAE features minus hidden states"

    def test_errors(self, sweep):
        with pytest.raises(
            InvalidParameterError, match="^Got reference='state'; .* Did you mean 'states'"
        ):
            PairedDifferenceDisplay.from_results(sweep, method="sae", reference="state")
        apart = [r | {"fold": 9} if r["kind"] == "states" else r for r in sweep]
        with pytest.raises(InvalidInputError, match="^Got no comparisons"):
            PairedDifferenceDisplay.from_results(apart, method="sae", reference="states")
