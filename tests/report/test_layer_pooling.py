"""Layers by poolings: means over all data sets, the choice of validation framed."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.report import LayerPoolingDisplay


def mean_of(rows, **values):
    return np.mean([r["macro_f1"] for r in rows if all(r[k] == v for k, v in values.items())])


def cell(make_row, layer, pooling, **values):
    given = {"kind": "sae", "model": "m", "dataset": "d", "fold": 0, "macro_f1": 0.5} | values
    return make_row(layer=layer, pooling=pooling, **given)


class TestValues:
    def test_means_over_data_sets_and_folds(self, sweep):
        rows = [r for r in sweep if r["threshold"] is None]
        display = LayerPoolingDisplay.from_results(rows, kind="states")
        assert display.models_ == ["e5-small", "minilm"]
        assert display.layers_ == [["11", "7", "3"], ["5", "3", "1"]]
        assert display.poolings_ == ["max", "mean", "sum", "last"]
        for model, layers, values in zip(display.models_, display.layers_, display.values_, strict=True):
            for i, layer in enumerate(layers):
                for j, pooling in enumerate(display.poolings_):
                    expected = mean_of(
                        rows, kind="states", model=model, layer=int(layer), pooling=pooling
                    )
                    assert values[i, j] == pytest.approx(expected)
                    number = display.texts_[display.models_.index(model)][i][j].get_text()
                    assert number == f"{expected:.2f}"

    def test_settings_in_a_cell_are_chosen_by_validation_in_each_fold(self, make_row):
        found = [(None, 0, 0.9, 0.1), (1.0, 0, 0.8, 0.2), (None, 1, 0.3, 0.4), (1.0, 1, 0.5, 0.6)]
        rows = [
            cell(make_row, 1, "max", threshold=t, fold=fold, validation=v, macro_f1=x)
            for t, fold, v, x in found
        ]
        assert LayerPoolingDisplay.from_results(rows).values_[0].tolist() == [[pytest.approx(0.35)]]

    def test_what_lacks_a_data_set_is_missing(self, make_row):
        rows = [
            cell(make_row, layer, "max", dataset=name, train_on=name, test_on=name, macro_f1=score)
            for layer, name, score in [(1, "a", 0.9), (2, "a", 0.8), (2, "b", 0.4)]
        ]
        display = LayerPoolingDisplay.from_results(rows)
        np.testing.assert_allclose(display.values_[0], [[0.6], [np.nan]])
        assert display.texts_[0][1][0].get_text() == "–"

    def test_sites_are_rows_of_their_own(self, make_row):
        rows = [cell(make_row, 1, "max", site=site) for site in ("mlp_out", "resid_post")]
        assert LayerPoolingDisplay.from_results(rows).layers_ == [["1 resid_post", "1 mlp_out"]]

    def test_poolings_are_in_order(self, make_row):
        rows = [cell(make_row, 1, pooling) for pooling in ("count", "odd", "first", "mean", "max")]
        assert LayerPoolingDisplay.from_results(rows).poolings_ == [
            "max",
            "mean",
            "first",
            "count",
            "odd",
        ]


class TestLook:
    def test_the_best_by_validation_is_framed_not_the_best_in_the_test(self, make_row):
        rows = [
            cell(make_row, layer, "max", validation=validation, macro_f1=score)
            for layer, validation, score in [(1, 0.9, 0.5), (2, 0.8, 0.7)]
        ]
        display = LayerPoolingDisplay.from_results(rows)
        assert display.best_[0].tolist() == [[False], [True]]
        assert {p.get_xy() for p in display.axes_[0].patches if not p.get_fill()} == {(0, 1)}
        assert display.axes_[0].get_xlabel() == "pooling (framed: best in validation)"

    def test_without_validation_nothing_is_framed(self, make_row):
        display = LayerPoolingDisplay.from_results([cell(make_row, 1, "max")])
        assert not display.best_[0].any()
        assert display.axes_[0].get_xlabel() == "pooling"

    def test_models_share_their_colours(self, sweep):
        display = LayerPoolingDisplay.from_results(sweep)
        limits = {ax.collections[0].get_clim() for ax in display.axes_}
        assert len(limits) == 1
        values = np.concatenate([values.ravel() for values in display.values_])
        ((low, high),) = limits
        assert low <= values.min() <= values.max() <= high

    @pytest.mark.parametrize("long", ["", "sentence-transformers/a-model-with-a-very-long-name-"])
    def test_nothing_is_cut_off(self, sweep, is_whole, long):
        rows = [r | {"model": f"{long}{r['model']}"} for r in sweep if r["fold"] == 0]
        assert is_whole(LayerPoolingDisplay.from_results(rows).figure_)

    def test_one_cell(self, make_row, is_whole):
        assert is_whole(LayerPoolingDisplay.from_results([cell(make_row, 0, "max")]).figure_)

    def test_axes_may_be_given_for_one_model(self, sweep):
        ax = plt.subplots()[1]
        assert LayerPoolingDisplay.from_results(sweep, model="minilm", ax=ax).axes_ == [ax]
        with pytest.raises(InvalidParameterError, match="^Got one ax for 2 panels"):
            LayerPoolingDisplay.from_results(sweep, ax=ax)


def test_errors(sweep, make_row):
    with pytest.raises(InvalidParameterError, match="^Got kind='sea'; .* Did you mean 'sae'"):
        LayerPoolingDisplay.from_results(sweep, kind="sea")
    with pytest.raises(
        InvalidParameterError, match="^Got model='mini'; expected one of e5-small, minilm"
    ):
        LayerPoolingDisplay.from_results(sweep, model="mini")
    with pytest.raises(InvalidInputError, match="^Got no row of kind 'sae' with a layer and a pooling"):
        LayerPoolingDisplay.from_results([make_row(kind="sae", macro_f1=0.5)])
