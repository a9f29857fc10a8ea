"""Transfer matrices: the numbers are the rows' means, in a stated order, readable and whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from sae_features.drawing import luminance
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.report import TransferMatrixDisplay

LANGUAGES = ["arabic", "english", "french", "german", "hindi", "italian", "portuguese", "spanish"]
NAME = "multilingual-e5-small layer 11 e5-matryoshka-32k/layer_11 mean top 8 > 0.25 binarized, centred"


def draw(rows, **options):
    return TransferMatrixDisplay.from_results(rows, **({"setting": "zero_shot"} | options))


def mean_of(rows, **values):
    return np.mean([r["macro_f1"] for r in rows if all(r[k] == v for k, v in values.items())])


def texts(display):
    return [[text.get_text() for text in line] for line in display.texts_]


class TestValues:
    @pytest.mark.parametrize("setting", ["zero_shot", "few_shot_16"])
    def test_the_mean_over_seeds_of_each_pair(self, transfer, setting):
        display = draw(transfer, setting=setting, method="states")
        assert display.train_ == display.test_ == LANGUAGES
        for i, train in enumerate(LANGUAGES):
            for j, test in enumerate(LANGUAGES):
                own = "in_language" if i == j else setting
                expected = mean_of(transfer, kind="states", train_on=train, test_on=test, setting=own)
                assert display.values_[i, j] == pytest.approx(expected)
                assert texts(display)[i][j] == f"{expected:.2f}"

    def test_metrics(self, transfer):
        a, b = (
            draw(transfer, metric=metric, method="sae").values_ for metric in ("accuracy", "macro_f1")
        )
        np.testing.assert_allclose(a, b + 0.01)

    def test_the_best_method_by_validation_is_taken(self, transfer):
        rows = [r | {"validation": 0.9 if r["kind"] == "tfidf_char" else 0.1} for r in transfer]
        np.testing.assert_array_equal(draw(rows).values_, draw(rows, method="TF-IDF letters").values_)

    def test_a_kind_is_what_validation_chooses_in_each_run(self, make_row):
        found = [("a", 0, 0.1, 0.9), ("b", 0, 0.2, 0.8), ("a", 1, 0.3, 0.5), ("b", 1, 0.5, 0.6)]
        pair = {"kind": "sae", "train_on": "en", "test_on": "fr", "fold": 0}
        rows = [
            make_row(**pair, method=method, seed=seed, macro_f1=score, validation=validation)
            for method, seed, score, validation in found
        ]
        assert draw(rows, method="sae", setting=None).values_[0, 0] == pytest.approx((0.1 + 0.5) / 2)

    def test_differences_are_paired(self, transfer):
        display = draw(transfer, method="sae", reference="states")
        expected = draw(transfer, method="sae").values_ - draw(transfer, method="states").values_
        np.testing.assert_allclose(display.values_, expected)
        assert texts(display)[0][0] == f"{expected[0, 0]:+.2f}".replace("-", "−")
        low, high = display.ax_.collections[0].get_clim()
        assert low == -high
        assert high >= np.abs(expected).max()

    def test_permuted_labels_are_left_out(self, transfer):
        controls = [r | {"control": "permuted", "macro_f1": 0.0} for r in transfer]
        np.testing.assert_array_equal(
            draw([*transfer, *controls], method="sae").values_, draw(transfer, method="sae").values_
        )

    def test_order(self, transfer):
        order = ["klingon", *LANGUAGES[::-1]]
        display = draw(transfer, method="sae", order=order)
        assert display.train_ == display.test_ == LANGUAGES[::-1]
        np.testing.assert_array_equal(display.values_, draw(transfer, method="sae").values_[::-1, ::-1])


class TestMissing:
    def test_what_was_not_run_is_hatched_with_a_dash(self, transfer):
        rows = [r for r in transfer if (r["train_on"], r["test_on"]) != ("english", "french")]
        display = draw(rows, method="sae")
        assert np.isnan(display.values_[1, 2])
        assert np.isnan(display.values_).sum() == 1
        assert texts(display)[1][2] == "–"
        assert [patch.get_xy() for patch in display.ax_.patches if patch.get_hatch()] == [(2, 1)]

    def test_rows_and_columns_may_differ(self, transfer):
        rows = [
            r for r in transfer if r["train_on"] in {"english", "hindi"} and r["test_on"] != "english"
        ]
        display = draw(rows, method="sae")
        assert display.values_.shape == (2, 7)
        assert display.is_diagonal_.sum() == 1
        assert display.is_diagonal_[1, display.test_.index("hindi")]

    def test_one_language(self, transfer_between, is_whole):
        display = TransferMatrixDisplay.from_results(transfer_between(["english"]), method="sae")
        assert display.values_.shape == (1, 1)
        assert is_whole(display.figure_)


class TestLook:
    def test_the_diagonal_is_framed(self, transfer):
        display = draw(transfer, method="sae")
        framed = [p.get_xy() for p in display.ax_.patches if not p.get_fill()]
        assert sorted(set(framed)) == [(i, i) for i in range(8)]

    def test_title_and_labels(self, transfer):
        display = draw(transfer, method="sae")
        values, diagonal = display.values_, np.eye(8, dtype=bool)
        on, off = values[diagonal].mean(), values[~diagonal].mean()
        assert display.ax_.get_title() == (
            f"SAE features\nzero-shot: mean on the diagonal {on:.3f}, off it {off:.3f}"
        )
        assert (display.ax_.get_ylabel(), display.ax_.get_xlabel()) == ("trained on", "tested on")
        assert [label.get_text() for label in display.ax_.get_yticklabels()] == LANGUAGES

    @pytest.mark.parametrize("reference", [None, "states"])
    def test_numbers_stand_out_from_their_cells(self, transfer, reference):
        display = draw(transfer, method="sae", reference=reference)
        mesh = display.ax_.collections[0]
        for line, values in zip(display.texts_, display.values_, strict=True):
            for text, value in zip(line, values, strict=True):
                a, b = luminance(to_rgb(text.get_color())), luminance(mesh.to_rgba(value)[:3])
                assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5

    @pytest.mark.parametrize("method", ["sae", NAME])
    @pytest.mark.parametrize("width", [2, 28])
    def test_nothing_is_cut_off(self, transfer_between, is_whole, method, width):
        names = ["language number twenty-nine"[:width] + str(i) for i in range(5)]
        rows = [
            r | {"method": NAME if r["kind"] == "sae" else r["method"]} for r in transfer_between(names)
        ]
        display = draw(rows, method=method)
        assert is_whole(display.figure_)
        self.check_numbers_fit(display)

    def check_numbers_fit(self, display):
        n_rows, n_columns = display.values_.shape
        box = display.ax_.get_window_extent()
        for text in itertools.chain(*display.texts_):
            inside = text.get_window_extent()
            assert inside.width <= box.width / n_columns
            assert inside.height <= box.height / n_rows

    def test_beside_each_other(self, transfer, is_whole):
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        displays = [
            draw(transfer, method=m, ax=ax) for m, ax in zip(("sae", "states"), axes, strict=True)
        ]
        assert is_whole(figure)
        for display in displays:
            self.check_numbers_fit(display)

    def test_an_empty_figure_may_be_given(self, transfer):
        figure = Figure()
        assert draw(transfer, method="sae", ax=figure).figure_ is figure
        assert plt.get_fignums() == []

    def test_colours_may_be_shared(self, transfer):
        display = draw(transfer, method="sae", vmin=0.1, vmax=0.9)
        assert display.ax_.collections[0].get_clim() == (0.1, 0.9)


class TestErrors:
    def test_settings(self, transfer):
        with pytest.raises(
            InvalidParameterError, match="^Got rows of 3 settings; give setting=, one of zero_"
        ):
            draw(transfer, setting=None, method="sae")
        with pytest.raises(
            InvalidParameterError, match="^Got setting='zeroshot'; expected one of zero_shot, "
        ):
            draw(transfer, setting="zeroshot")

    def test_data_sets(self, transfer):
        rows = [*transfer, *(r | {"dataset": "hate"} for r in transfer)]
        with pytest.raises(
            InvalidParameterError, match="^Got rows of 2 data sets; give dataset=, one of hate, "
        ):
            draw(rows)
        with pytest.raises(InvalidParameterError, match="^Got dataset='hat'; .* Did you mean 'hate'"):
            draw(rows, dataset="hat")
        assert draw(rows, dataset="hate", method="sae").values_.shape == (8, 8)

    def test_methods(self, transfer):
        rows = [r | {"validation": None} for r in transfer]
        with pytest.raises(
            InvalidParameterError, match="^Got rows of 3 methods without validation scores"
        ):
            draw(rows)
        with pytest.raises(
            InvalidParameterError, match="^Got method='states '; .* Did you mean 'states'"
        ):
            draw(rows, method="states ")

    def test_order(self, transfer):
        with pytest.raises(
            InvalidParameterError, match=r"^Got order=\['english'\], which lacks 'arabic'"
        ):
            draw(transfer, method="sae", order=["english"])

    def test_rows(self):
        with pytest.raises(InvalidInputError, match="^Got no 'train_on' in any row; there are macro_f1"):
            TransferMatrixDisplay.from_results([{"macro_f1": 0.1}])
