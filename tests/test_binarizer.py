"""`LatentBinarizer`: thresholds given or learned, the same for dense and sparse latents."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from sae_features.binarizer import LatentBinarizer
from sae_features.errors import InvalidParameterError

quick = settings(deadline=None, max_examples=60)


@st.composite
def latents(draw, dtype=None):
    """Small matrices with many zeros, ties and some negative values."""
    dtype = draw(st.sampled_from([np.float32, np.float64])) if dtype is None else dtype
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 5)))
    values = st.one_of(
        st.just(0.0),
        st.sampled_from([-1.5, -0.0, 0.1, 0.5, 1.0, 2.0]),
        st.floats(-100, 100, width=32, allow_subnormal=False),
    )
    return draw(hnp.arrays(dtype, shape, elements=values))


def same_sparse(result, expected):
    assert result.format == "csr"
    assert result.dtype == expected.dtype
    assert np.all(result.data == 1)
    np.testing.assert_array_equal(result.toarray(), expected)


@parametrize_with_checks(
    [
        LatentBinarizer(),
        LatentBinarizer(0.5),
        LatentBinarizer(quantile=0.0),
        LatentBinarizer(quantile=0.75),
        LatentBinarizer(quantile=0.75, of="all"),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


@quick
@given(latents(), st.sampled_from([0, 0.0, 0.1, 0.5, 1.0, 2]))
def test_a_given_threshold_does_what_binarizer_does(X, threshold):
    expected = Binarizer(threshold=threshold).fit_transform(X)
    result = LatentBinarizer(threshold).fit_transform(X)
    assert result.dtype == X.dtype
    np.testing.assert_array_equal(result, expected)


def test_one_threshold_per_column():
    X = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    binarizer = LatentBinarizer([0, 2.0, np.inf]).fit(X)
    np.testing.assert_array_equal(binarizer.transform(X), [[1, 0, 0], [1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(binarizer.thresholds_, [0.0, 2.0, np.inf])
    assert binarizer.thresholds_.dtype == np.float64


def test_a_threshold_that_float32_cannot_hold_switches_all_off():
    X = np.full((2, 1), np.finfo(np.float32).max)
    assert X.dtype == np.float32
    assert LatentBinarizer(1e300).fit_transform(X).sum() == 0


@quick
@given(latents(), st.floats(0, 1, exclude_max=True), st.sampled_from(["nonzero", "all"]))
def test_learned_thresholds_are_numpy_quantiles(X, quantile, of):
    learned = LatentBinarizer(quantile=quantile, of=of).fit(X).thresholds_
    for column, threshold in zip(X.T.astype(np.float64), learned, strict=True):
        values = column[column != 0] if of == "nonzero" else column
        expected = max(np.quantile(values, quantile), 0.0) if values.size else 0.0
        assert threshold == pytest.approx(expected, rel=1e-12, abs=1e-12)


@quick
@given(
    latents(),
    st.sampled_from(
        [
            {"threshold": 0.5},
            {"quantile": 0.0},
            {"quantile": 0.3},
            {"quantile": 0.9},
            {"quantile": 0.3, "of": "all"},
            {"quantile": 0.9, "of": "all"},
        ]
    ),
    st.sampled_from([sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.coo_array]),
)
def test_sparse_and_dense_agree(X, params, container):
    dense, compressed = LatentBinarizer(**params), LatentBinarizer(**params)
    expected = dense.fit_transform(X)
    same_sparse(compressed.fit_transform(container(X)), expected)
    np.testing.assert_array_equal(compressed.thresholds_, dense.thresholds_)
    same_sparse(dense.transform(container(X)), expected)


@pytest.mark.parametrize("params", [{}, {"threshold": 1.0}, {"quantile": 0.5}])
def test_x_is_left_as_it_is_and_duplicates_are_summed(params):
    def duplicated():
        data = np.array([1.0, 1.0, 0.0, 3.0], dtype=np.float32)
        return sparse.csr_matrix((data, [1, 1, 0, 2], [0, 3, 4]), shape=(2, 3))

    X, before = duplicated(), duplicated()
    result = LatentBinarizer(**params).fit(X).transform(X)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(X, part), getattr(before, part))
    same_sparse(result, LatentBinarizer(**params).fit_transform(before.toarray()))


def test_x_dense_is_left_as_it_is():
    X = np.array([[0.0, 2.0], [1.0, 0.0]])
    LatentBinarizer(quantile=0.5).fit_transform(X)
    np.testing.assert_array_equal(X, [[0.0, 2.0], [1.0, 0.0]])


def test_a_column_silent_in_training_is_on_as_soon_as_it_is_active():
    binarizer = LatentBinarizer(quantile=0.9).fit(np.array([[0.0, 1.0], [0.0, 2.0]]))
    np.testing.assert_allclose(binarizer.thresholds_, [0.0, 1.9])
    np.testing.assert_array_equal(binarizer.transform([[0.01, 1.9]]), [[1, 0]])


def test_negative_values_are_off_and_learn_no_negative_threshold():
    X = np.array([[-3.0], [-2.0], [-1.0], [4.0]])
    for of in ("nonzero", "all"):
        binarizer = LatentBinarizer(quantile=0.25, of=of).fit(X)
        np.testing.assert_array_equal(binarizer.thresholds_, [0.0])
        np.testing.assert_array_equal(binarizer.transform(X), [[0], [0], [0], [1]])


def test_the_least_value_stays_off_at_quantile_zero():
    X = np.array([[0.0], [1.0], [2.0]])
    np.testing.assert_array_equal(LatentBinarizer(quantile=0).fit_transform(X), [[0.0], [0.0], [1.0]])


def test_dense_blocks_do_not_change_the_thresholds(monkeypatch):
    X = np.maximum(np.random.default_rng(0).normal(size=(30, 17)), 0)
    expected = LatentBinarizer(quantile=0.4).fit(X).thresholds_
    monkeypatch.setattr("sae_features.binarizer._DENSE_BLOCK", 90)
    np.testing.assert_array_equal(LatentBinarizer(quantile=0.4).fit(X).thresholds_, expected)


@pytest.mark.parametrize("of", ["nonzero", "all"])
def test_columns_are_independent(of):
    rng = np.random.default_rng(1)
    X = sparse.random(50, 12, density=0.3, format="csr", random_state=1)
    order = rng.permutation(12)
    binarizer = LatentBinarizer(quantile=0.6, of=of)
    expected = binarizer.fit_transform(X)[:, order].toarray()
    thresholds = binarizer.thresholds_[order]
    same_sparse(binarizer.fit_transform(X[:, order]), expected)
    np.testing.assert_array_equal(binarizer.thresholds_, thresholds)


def test_sparse_latents_are_never_made_dense():
    shape = (200_000, 50_000)  # 40 GB as float32
    X = sparse.csr_matrix((np.float32([1, 2, 3]), ([0, 5, 199_999], [7, 7, 49_999])), shape=shape)
    binarizer = LatentBinarizer(quantile=0.5).fit(X)
    np.testing.assert_array_equal(binarizer.thresholds_[[0, 7, 49_999]], [0.0, 1.5, 3.0])
    result = binarizer.transform(X)
    assert result.dtype == np.float32
    assert list(zip(*result.nonzero(), strict=True)) == [(5, 7)]


def test_names_and_pandas_output():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame({"latent_3": [0.0, 1.0], "latent_8": [2.0, 0.0]})
    binarizer = LatentBinarizer().set_output(transform="pandas").fit(X)
    assert list(binarizer.get_feature_names_out()) == ["latent_3", "latent_8"]
    assert binarizer.transform(X)["latent_8"].tolist() == [1.0, 0.0]


def test_it_can_be_searched_and_cloned():
    rng = np.random.default_rng(0)
    X = sparse.random(60, 8, density=0.4, format="csr", random_state=0)
    pipeline = make_pipeline(LatentBinarizer(), LogisticRegression())
    grid = {"latentbinarizer__quantile": [None, 0.2, 0.6], "latentbinarizer__of": ["nonzero"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, rng.integers(0, 2, 60))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    thresholds = np.array([1.0, 2.0])
    np.testing.assert_array_equal(clone(LatentBinarizer(thresholds)).threshold, thresholds)


ONE_OR_EACH = "; expected a number >= 0, or an array-like of 2, one per column."


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"threshold": -1}, "Got threshold=-1" + ONE_OR_EACH),
        ({"threshold": float("nan")}, "Got threshold=nan" + ONE_OR_EACH),
        ({"threshold": None}, "Got threshold=None" + ONE_OR_EACH),
        ({"threshold": True}, "Got threshold=True" + ONE_OR_EACH),
        ({"threshold": "0.5"}, "Got threshold='0.5'" + ONE_OR_EACH),
        ({"threshold": [0.0, -2.0]}, "Got threshold[1]=-2.0" + ONE_OR_EACH),
        ({"threshold": [1.0, 2.0, 3.0]}, "Got threshold of shape (3,)" + ONE_OR_EACH),
        ({"threshold": [[1.0, 2.0]]}, "Got threshold of shape (1, 2)" + ONE_OR_EACH),
        ({"threshold": [[1.0], [1.0, 2.0]]}, "Got threshold=[[1.0], [1.0, 2.0]]" + ONE_OR_EACH),
        ({"quantile": 1.0}, "Got quantile=1.0; expected a number >= 0 and < 1, or None."),
        ({"quantile": -0.1}, "Got quantile=-0.1; expected a number >= 0 and < 1, or None."),
        ({"quantile": "0.5"}, "Got quantile='0.5'; expected a number >= 0 and < 1, or None."),
        ({"quantile": False}, "Got quantile=False; expected a number >= 0 and < 1, or None."),
        (
            {"of": "nonzeros"},
            "Got of='nonzeros'; expected one of nonzero, all. Did you mean 'nonzero'?",
        ),
        (
            {"threshold": 1.5, "quantile": 0.5},
            "Got threshold=1.5 and quantile=0.5; expected one of the two. Leave threshold at 0",
        ),
        ({"threshold": [0, 0], "quantile": 0.5}, "Got threshold=[0, 0] and quantile=0.5; expected"),
    ],
)
def test_bad_parameters_are_named_in_fit(params, message):
    binarizer = LatentBinarizer(**params)
    with pytest.raises(InvalidParameterError, match="^" + re.escape(message)):
        binarizer.fit(np.ones((3, 2)))
