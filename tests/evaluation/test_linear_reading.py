"""A reading decides as its pipeline does, and its coefficients are the slopes of the decision."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import VarianceThreshold
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC
from tiny import WORDS

from sae_features import ActivationFeaturizer, LatentBinarizer, LatentSelector, SAEFeaturizer
from sae_features.errors import InputTypeError, InvalidParameterError
from sae_features.evaluation.linear_reading import read_linear, take_apart

TEXTS = [" ".join(WORDS[(7 * i + j * j) % len(WORDS)] for j in range(2 + i % 5)) for i in range(30)]
TWO = np.arange(30) % 2
THREE = np.array(["sport", "art", "law"])[np.arange(30) % 3]

SPARSE = {
    "nothing": [],
    "passthrough": ["passthrough"],
    "max abs": [MaxAbsScaler()],
    "standard": [StandardScaler(with_mean=False)],
    "not even standard": [StandardScaler(with_mean=False, with_std=False)],
    "robust": [RobustScaler(with_centering=False, quantile_range=(0, 100))],
    "selected, scaled": [LatentSelector(9), MaxAbsScaler()],
    "scaled, selected": [StandardScaler(with_mean=False), LatentSelector(9)],
    "selected twice": [VarianceThreshold(1e-3), MaxAbsScaler(), LatentSelector(5), MaxAbsScaler()],
    "inner pipeline": [
        make_pipeline(LatentSelector(20), make_pipeline(MaxAbsScaler())),
        LatentSelector(7),
    ],
}
DENSE = {
    "standard, centred": [StandardScaler()],
    "robust, centred": [RobustScaler(quantile_range=(0, 100)), LatentSelector(9)],
    "min max": [MinMaxScaler((-1, 2)), StandardScaler()],
}
BINARY = {
    "binarized": [LatentBinarizer(0.3)],
    "by quantile, selected": [LatentBinarizer(quantile=0.4), LatentSelector(9), MaxAbsScaler()],
    "scaled, binarized": [
        LatentSelector(20),
        MaxAbsScaler(),
        Binarizer(threshold=0.5),
        LatentSelector(9),
    ],
}


@pytest.fixture
def featurizer(tiny_bert, tiny_sae_folder):
    return SAEFeaturizer(tiny_bert, sae=tiny_sae_folder("topk"))


def assert_decides_as(reading, pipeline):
    """The sum is the pipeline's own decision, up to float32."""
    features = reading.parts.featurizer.transform(TEXTS)
    values = reading.values(features)
    found = values @ reading.coefficients.T + reading.intercepts
    expected = np.asarray(pipeline.decision_function(TEXTS)).reshape(len(TEXTS), -1)
    sizes = abs(values) @ np.abs(reading.coefficients.T) + np.abs(reading.intercepts)
    assert (np.abs(found - expected) <= 2e-6 * sizes + 1e-6).all()


def assert_coefficients_are_slopes(reading, pipeline):
    """One unit more of a latent changes the decision by its coefficient, 0 where it has none."""
    features = reading.parts.featurizer.transform(TEXTS[:1])
    row = np.asarray(features.todense() if hasattr(features, "todense") else features, np.float64)
    n = row.shape[1]
    rest = pipeline[1:]
    moved = rest.decision_function(np.vstack([row, row + np.eye(n)])).reshape(n + 1, -1)
    slopes = np.zeros((n, moved.shape[1]))
    slopes[reading.latents] = reading.coefficients.T
    np.testing.assert_allclose(moved[1:] - moved[0], slopes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("y", [TWO, THREE], ids=["two classes", "three"])
class TestSteps:
    @pytest.mark.parametrize("steps", SPARSE.values(), ids=SPARSE)
    def test_on_sparse_features(self, featurizer, steps, y):
        pipeline = make_pipeline(featurizer, *steps, LogisticRegression(max_iter=1000)).fit(TEXTS, y)
        reading = read_linear(pipeline)
        assert_decides_as(reading, pipeline)
        assert_coefficients_are_slopes(reading, pipeline)

    @pytest.mark.parametrize("steps", DENSE.values(), ids=DENSE)
    def test_on_dense_features(self, featurizer, steps, y):
        featurizer.set_params(sparse_output=False)
        pipeline = make_pipeline(featurizer, *steps, LogisticRegression(max_iter=1000)).fit(TEXTS, y)
        reading = read_linear(pipeline)
        assert_decides_as(reading, pipeline)
        assert_coefficients_are_slopes(reading, pipeline)

    @pytest.mark.parametrize("steps", BINARY.values(), ids=BINARY)
    def test_values_of_binarized_latents_are_0_and_1(self, featurizer, steps, y):
        pipeline = make_pipeline(featurizer, *steps, LogisticRegression(max_iter=1000)).fit(TEXTS, y)
        reading = read_linear(pipeline)
        assert_decides_as(reading, pipeline)
        values = reading.values(featurizer.transform(TEXTS)).toarray()
        assert set(np.unique(values)) == {0, 1}
        # A latent that is on is one that is active.
        active = featurizer.transform(TEXTS).toarray()[:, reading.latents] > 0
        assert (values <= active).all()

    @pytest.mark.parametrize(
        "classifier",
        [
            LinearSVC(),
            RidgeClassifier(),
            SGDClassifier(random_state=0),
            LogisticRegression(fit_intercept=False, max_iter=1000),
        ],
        ids=["svc", "ridge", "sgd", "no intercept"],
    )
    def test_linear_classifiers(self, featurizer, classifier, y):
        pipeline = make_pipeline(featurizer, MaxAbsScaler(), classifier).fit(TEXTS, y)
        assert_decides_as(read_linear(pipeline), pipeline)

    def test_hidden_states(self, tiny_bert, y):
        featurizer = ActivationFeaturizer(tiny_bert, layer=1)
        classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5)
        pipeline = make_pipeline(featurizer, StandardScaler(), classifier).fit(TEXTS, y)
        reading = read_linear(pipeline)
        assert_decides_as(reading, pipeline)
        assert reading.latents.tolist() == list(range(32))

    def test_a_search_stands_for_its_best(self, featurizer, y):
        inner = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [0.1, 1.0]}, cv=2)
        pipeline = make_pipeline(featurizer, MaxAbsScaler(), inner)
        search = GridSearchCV(pipeline, {"saefeaturizer__pooling": ["max", "sum"]}, cv=2).fit(TEXTS, y)
        reading = read_linear(search)
        assert reading.parts.featurizer is search.best_estimator_[0]
        assert isinstance(reading.parts.classifier, LogisticRegression)
        assert_decides_as(reading, search)


def test_a_linear_kernel_of_two_classes(featurizer):
    pipeline = make_pipeline(featurizer, SVC(kernel="linear")).fit(TEXTS, TWO)
    assert_decides_as(read_linear(pipeline), pipeline)


def test_names_of_inner_steps(featurizer):
    inner = Pipeline([("scale", MaxAbsScaler()), ("none", None), ("choose", LatentSelector(5))])
    pipeline = Pipeline(
        [("sae", featurizer), ("prepare", inner), ("decide", LogisticRegression(max_iter=1000))]
    )
    parts = take_apart(pipeline.fit(TEXTS, TWO))
    assert [name for name, _ in parts.steps] == ["prepare__scale", "prepare__choose"]
    assert parts.name == "decide"


class TestRefusals:
    @pytest.mark.parametrize(
        ("step", "message"),
        [
            (Normalizer(), "'normalizer' (Normalizer), which does not map column by column to a line"),
            (TruncatedSVD(3), "'truncatedsvd' (TruncatedSVD), which does not map column by column"),
            (make_pipeline(Normalizer()), "'pipeline__normalizer' (Normalizer), which does not"),
        ],
    )
    def test_other_steps_are_named(self, featurizer, step, message):
        pipeline = make_pipeline(featurizer, step, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        with pytest.raises(InvalidParameterError) as raised:
            read_linear(pipeline)
        assert str(raised.value).startswith(f"Got the step {message}")
        assert "method='permutation'" in str(raised.value)

    def test_clipping_is_named(self, featurizer):
        featurizer.set_params(sparse_output=False)
        pipeline = make_pipeline(
            featurizer, MinMaxScaler(clip=True), LogisticRegression(max_iter=1000)
        ).fit(TEXTS, TWO)
        with pytest.raises(
            InvalidParameterError, match=r"^Got the step 'minmaxscaler' .* which clips values"
        ):
            read_linear(pipeline)

    @pytest.mark.parametrize(
        ("classifier", "y"),
        [
            (RandomForestClassifier(2, random_state=0), TWO),
            (SVC(kernel="rbf"), TWO),
            (SVC(kernel="linear"), THREE),  # has coef_ of three rows: one for each pair of classes
            (CalibratedClassifierCV(LogisticRegression(max_iter=1000), cv=2), TWO),
            (OneVsOneClassifier(LogisticRegression(max_iter=1000)), THREE),
            (LinearRegression(), TWO),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_other_classifiers_are_named(self, featurizer, classifier, y):
        pipeline = make_pipeline(featurizer, classifier).fit(TEXTS, y)
        name, kind = pipeline.steps[-1][0], type(classifier).__name__
        with pytest.raises(InvalidParameterError) as raised:
            read_linear(pipeline)
        assert str(raised.value).startswith(
            f"Got the step {name!r} ({kind}), whose decision is not a weighted sum of its columns"
        )

    def test_pipelines_that_are_none(self, featurizer):
        with pytest.raises(
            InputTypeError, match=r"^Got a LogisticRegression; expected a fitted Pipeline"
        ):
            take_apart(LogisticRegression(max_iter=1000))
        with pytest.raises(NotFittedError):
            take_apart(make_pipeline(featurizer, LogisticRegression(max_iter=1000)))
        words = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        with pytest.raises(
            InvalidParameterError, match=r"^Got the step 'countvectorizer' \(CountVectorizer\) fi"
        ):
            take_apart(words)
        with pytest.raises(InvalidParameterError, match=r"last step, 'maxabsscaler', does not predict"):
            take_apart(make_pipeline(featurizer, MaxAbsScaler()).fit(TEXTS))
