"""`LatentSelector`: scores against brute-force references, for dense and sparse latents alike."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.selection import LatentSelector

CRITERIA = ["mean_difference", "normalized_mean_difference", "anova_f", "auroc"]
quick = settings(deadline=None, max_examples=60)
every_criterion = pytest.mark.parametrize("criterion", CRITERIA)


def mean_difference(inside, outside):
    return abs(inside.mean() - outside.mean())


def cohens_d(inside, outside):
    squares = sum(((group - group.mean()) ** 2).sum() for group in (inside, outside))
    if squares == 0:
        return np.inf if inside[0] != outside[0] else 0.0
    return mean_difference(inside, outside) / np.sqrt(squares / (inside.size + outside.size - 2))


def folded_auroc(inside, outside):
    labels = np.repeat([1, 0], [inside.size, outside.size])
    return abs(roc_auc_score(labels, np.concatenate([inside, outside])) - 0.5) + 0.5


def reference_scores(X, y, criterion):
    """The definitions, one column and one class at a time, in float64."""
    X = np.asarray(X, dtype=np.float64)
    if criterion == "anova_f":
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return np.nan_to_num(f_classif(X, y)[0], nan=0.0, posinf=np.inf)
    one = {
        "mean_difference": mean_difference,
        "normalized_mean_difference": cohens_d,
        "auroc": folded_auroc,
    }[criterion]
    return np.array([max(one(x[y == k], x[y != k]) for k in np.unique(y)) for x in X.T])


def planted(n_samples=120, n_features=30, n_classes=2, seed=0, dtype=np.float32):
    """Sparse latents with ties and negative values; some depend on the class, two are silent."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n_samples)
    X = rng.normal(size=(n_samples, n_features)) + rng.normal(size=(n_classes, n_features))[y]
    X[rng.random(X.shape) < 0.6] = 0
    X[:, ::3] = np.round(X[:, ::3])
    X[:, 1::3] = np.maximum(X[:, 1::3], 0)
    X[:, [4, 11]] = 0
    return X.astype(dtype), y


@st.composite
def labelled_latents(draw):
    n_samples, n_features = draw(st.integers(2, 14)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = st.one_of(
        st.just(0.0),
        st.sampled_from([-2.0, -0.0, 0.1, 1.0, 1.5]),
        st.floats(-100, 100, width=32, allow_subnormal=False),
    )
    X = draw(hnp.arrays(dtype, (n_samples, n_features), elements=values))
    y = draw(hnp.arrays(np.int64, n_samples, elements=st.integers(0, 3)))
    y[:2] = [0, 1]
    return X, y


@parametrize_with_checks(
    [LatentSelector(2, criterion=criterion) for criterion in CRITERIA]
    + [LatentSelector(), LatentSelector(None)]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


@every_criterion
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_follow_their_definitions(criterion, n_classes, dtype):
    X, y = planted(n_classes=n_classes, dtype=dtype)
    selector = LatentSelector(5, criterion=criterion).fit(sparse.csr_matrix(X), y)
    assert selector.scores_.dtype == np.float64
    np.testing.assert_allclose(selector.scores_, reference_scores(X, y, criterion), rtol=1e-10)


@quick
@given(labelled_latents())
def test_auroc_is_exact_with_ties_zeros_and_negative_values(data):
    X, y = data
    scores = LatentSelector(criterion="auroc").fit(X, y).scores_
    np.testing.assert_allclose(scores, reference_scores(X, y, "auroc"), rtol=0, atol=1e-14)


@quick
@given(labelled_latents(), st.sampled_from(CRITERIA))
def test_sparse_and_dense_agree_to_the_last_bit(data, criterion):
    X, y = data
    expected = LatentSelector(2, criterion=criterion).fit(X, y)
    for container in (sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.coo_array):
        selector = LatentSelector(2, criterion=criterion).fit(container(X), y)
        np.testing.assert_array_equal(selector.scores_, expected.scores_)
        np.testing.assert_array_equal(selector.best_latents_, expected.best_latents_)
        result = selector.transform(container(X))
        assert result.format == "csr"
        assert result.dtype == X.dtype
        np.testing.assert_array_equal(result.toarray(), expected.transform(X))


@quick
@given(labelled_latents(), st.sampled_from(CRITERIA))
def test_scores_are_never_nan(data, criterion):
    X, y = data
    assert not np.isnan(LatentSelector(criterion=criterion).fit(X, y).scores_).any()


@every_criterion
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("block", [1, 50, 400])
def test_blocks_do_not_change_the_scores(criterion, container, block, monkeypatch):
    X, y = planted(n_classes=4)
    expected = LatentSelector(criterion=criterion).fit(X, y).scores_
    monkeypatch.setattr("sae_features.selection._BLOCK", block)
    blocked = LatentSelector(criterion=criterion).fit(container(X), y).scores_
    np.testing.assert_array_equal(blocked, expected)


@every_criterion
def test_float32_is_scored_as_float64(criterion):
    X, y = planted(n_classes=3)
    single = LatentSelector(criterion=criterion).fit(X, y).scores_
    double = LatentSelector(criterion=criterion).fit(X.astype(np.float64), y).scores_
    np.testing.assert_array_equal(single, double)


@every_criterion
def test_columns_are_scored_independently(criterion):
    X, y = planted(n_classes=3)
    order = np.random.default_rng(3).permutation(X.shape[1])
    scores = LatentSelector(criterion=criterion).fit(sparse.csr_matrix(X), y).scores_
    permuted = LatentSelector(criterion=criterion).fit(sparse.csr_matrix(X[:, order]), y).scores_
    np.testing.assert_array_equal(permuted, scores[order])


@every_criterion
def test_the_names_of_the_classes_and_the_order_of_rows_do_not_matter(criterion):
    X, y = planted(n_classes=3)
    expected = LatentSelector(criterion=criterion).fit(X, y).scores_
    order = np.random.default_rng(5).permutation(len(y))
    names = np.array(["zebra", "ant", "cow"], dtype=object)[y]
    selector = LatentSelector(criterion=criterion).fit(X[order], names[order])
    assert selector.classes_.tolist() == ["ant", "cow", "zebra"]
    np.testing.assert_allclose(selector.scores_, expected, rtol=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, -1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_latent_tells_nothing(value, dtype):
    X, y = np.full((31, 1), value, dtype=dtype), np.arange(31) % 3
    for criterion in ("normalized_mean_difference", "anova_f"):
        assert LatentSelector(criterion=criterion).fit(X, y).scores_ == [0.0]
    assert LatentSelector(criterion="auroc").fit(X, y).scores_ == [0.5]
    mean_score = LatentSelector().fit(X, y).scores_
    assert mean_score == pytest.approx(0, abs=1e-14 * abs(value))


@pytest.mark.parametrize("criterion", ["normalized_mean_difference", "anova_f"])
def test_a_latent_that_only_differs_between_the_classes_is_infinitely_good(criterion):
    y = np.arange(30) % 2
    X = np.column_stack([y + np.arange(30) / 30, 0.1 + 0.2 * y, np.zeros(30)])
    selector = LatentSelector(1, criterion=criterion).fit(X, y)
    assert selector.scores_[1] == np.inf
    assert selector.scores_[2] == 0
    assert selector.best_latents_.tolist() == [1]


def test_large_means_do_not_drown_the_variance():
    X, y = planted(dtype=np.float64)
    for criterion in ("normalized_mean_difference", "anova_f"):
        expected = reference_scores(X, y, criterion)
        shifted = LatentSelector(criterion=criterion).fit(X + 1e6, y).scores_
        np.testing.assert_allclose(shifted, expected, rtol=1e-6)


def test_the_best_come_first_and_the_lower_column_among_equals():
    y = np.array([0, 0, 1, 1])
    X = np.outer(y, [1.0, 5.0, 0.0, 5.0, 1.0])
    selector = LatentSelector(3).fit(X, y)
    assert selector.best_latents_.tolist() == [1, 3, 0]
    assert selector.get_support(indices=True).tolist() == [0, 1, 3]
    np.testing.assert_array_equal(selector.transform(X), X[:, [0, 1, 3]])
    assert selector.get_feature_names_out().tolist() == ["x0", "x1", "x3"]


@pytest.mark.parametrize("n_latents", [None, 5, 6, 10_000, np.int64(7)])
def test_all_latents_are_kept_where_there_are_not_more(n_latents):
    X, y = planted(n_features=5 + 7)
    selector = LatentSelector(n_latents).fit(X[:, :5], y)
    assert selector.get_support().all()
    assert sorted(selector.best_latents_) == [0, 1, 2, 3, 4]


def test_inverse_transform_puts_the_latents_back():
    X, y = planted()
    X = sparse.csr_matrix(X)
    selector = LatentSelector(4).fit(X, y)
    expected = np.where(selector.get_support(), X.toarray(), 0)
    np.testing.assert_array_equal(selector.inverse_transform(selector.transform(X)).toarray(), expected)


@every_criterion
def test_x_is_left_as_it_is_and_duplicates_are_summed(criterion):
    def duplicated():
        data = np.array([1.0, 1.0, 0.0, 3.0, 2.5])
        return sparse.csr_matrix((data, [1, 1, 0, 2, 1], [0, 3, 4, 5]), shape=(3, 3))

    X, before, y = duplicated(), duplicated(), [0, 1, 1]
    scores = LatentSelector(criterion=criterion).fit(X, y).scores_
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(X, part), getattr(before, part))
    expected = LatentSelector(criterion=criterion).fit(before.toarray(), y).scores_
    np.testing.assert_array_equal(scores, expected)


@every_criterion
def test_sparse_latents_are_never_made_dense(criterion):
    shape = (200_000, 50_000)  # 40 GB as float32
    y = np.arange(shape[0]) % 2
    rows = np.concatenate([np.arange(1, 2001, 2), np.arange(1000)])
    columns = np.repeat([49_999, 3], 1000)
    X = sparse.csr_matrix((np.ones(2000, dtype=np.float32), (rows, columns)), shape=shape)
    selector = LatentSelector(1, criterion=criterion).fit(X, y)
    assert selector.best_latents_.tolist() == [49_999]
    assert selector.transform(X).shape == (200_000, 1)


@every_criterion
def test_nothing_leaks_in_a_pipeline(criterion):
    rng = np.random.default_rng(0)
    X = sparse.csr_matrix(np.maximum(rng.normal(size=(60, 2000)), 0))
    y = rng.permutation(np.repeat([0, 1], 30))
    selector, classifier = LatentSelector(10, criterion=criterion), LogisticRegression()
    leaked = cross_val_score(classifier, selector.fit_transform(X, y), y, cv=5).mean()
    honest = cross_val_score(make_pipeline(selector, classifier), X, y, cv=5).mean()
    assert leaked > 0.8
    assert honest < 0.65


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_latents": 0}, "Got n_latents=0; expected an integer >= 1, or None for all."),
        ({"n_latents": -3}, "Got n_latents=-3; expected an integer >= 1, or None for all."),
        ({"n_latents": 2.0}, "Got n_latents=2.0; expected an integer >= 1, or None for all."),
        ({"n_latents": True}, "Got n_latents=True; expected an integer >= 1, or None for all."),
        (
            {"criterion": "aurocs"},
            f"Got criterion='aurocs'; expected one of {', '.join(CRITERIA)}. Did you mean 'auroc'?",
        ),
        ({"criterion": ["auroc"]}, "Got criterion=['auroc']; expected one of mean_difference,"),
    ],
)
def test_bad_parameters_are_named_in_fit(params, message):
    X, y = planted()
    selector = LatentSelector(**params)
    with pytest.raises(InvalidParameterError, match="^" + re.escape(message)):
        selector.fit(X, y)


@pytest.mark.parametrize(
    ("label", "shown"), [("cat", "'cat'"), (3, "3"), (np.array("cat", dtype=object)[()], "'cat'")]
)
def test_one_class_is_refused(label, shown):
    X, _ = planted()
    y = np.full(len(X), label, dtype=object if isinstance(label, str) else None)
    message = f"Got y with one class, {shown}; expected at least two."
    with pytest.raises(InvalidInputError, match="^" + re.escape(message) + "$"):
        LatentSelector().fit(X, y)


def test_y_must_be_classes():
    X, y = planted()
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        LatentSelector().fit(X, y + 0.5)
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        LatentSelector().fit(X, None)
