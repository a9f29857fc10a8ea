"""What a latent is worth to a pipeline, against coefficients and scores that are worked out here."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import inspection
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, Normalizer, StandardScaler
from tiny import WORDS

from sae_features import ActivationFeaturizer, LatentBinarizer, LatentSelector, SAEFeaturizer
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.importance import latent_importance
from sae_features.evaluation.latent_names import latent_labels

TEXTS = [" ".join(WORDS[(7 * i + j * j) % len(WORDS)] for j in range(2 + i % 5)) for i in range(30)]
TWO = np.array(["good", "bad"])[np.arange(30) % 2]
THREE = np.arange(30) % 3
MOVIES = ["a moving film", "a dull film", "moving and wise", "dull and empty"]


@pytest.fixture
def featurizer(tiny_bert, tiny_sae_folder):
    return SAEFeaturizer(tiny_bert, sae=tiny_sae_folder("topk"))


def column(records, name):
    return [record[name] for record in records]


class TestCoefficients:
    def test_of_two_classes(self, featurizer):
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        records = latent_importance(pipeline, TEXTS)
        coefficients = pipeline[-1].coef_[0].astype(np.float64)
        features = featurizer.transform(TEXTS).toarray().astype(np.float64)
        latents = column(records, "latent")
        assert sorted(latents) == np.flatnonzero(coefficients).tolist()
        np.testing.assert_allclose(column(records, "coefficient"), coefficients[latents])
        effects = coefficients * features.std(axis=0)
        np.testing.assert_allclose(column(records, "importance"), effects[latents], rtol=1e-9)
        assert column(records, "active") == (features > 0).mean(axis=0)[latents].tolist()
        assert set(column(records, "class")) == {"good"}  # the second: positive ones speak for it
        sizes = np.abs(column(records, "importance"))
        assert (np.diff(sizes) <= 0).all()
        assert column(records, "label") == [None] * len(records)
        assert column(records, "importance_std") == [None] * len(records)

    def test_without_items_they_are_sorted_by_coefficient(self, featurizer):
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        records = latent_importance(pipeline)
        assert column(records, "importance") == column(records, "coefficient")
        assert column(records, "active") == [None] * len(records)
        sizes = np.abs(column(records, "coefficient"))
        assert (np.diff(sizes) <= 0).all()

    def test_of_three_classes_on_the_scale_of_the_features(self, featurizer):
        selector = LatentSelector(9)
        pipeline = make_pipeline(featurizer, MaxAbsScaler(), selector, LogisticRegression(max_iter=1000))
        pipeline.fit(TEXTS, THREE)
        records = latent_importance(pipeline, TEXTS)
        features = featurizer.transform(TEXTS).toarray().astype(np.float64)
        kept = selector.get_support(indices=True)
        assert len(records) == 27
        assert {record["latent"] for record in records} == set(kept.tolist())
        for record in records:
            place = kept.tolist().index(record["latent"])
            values = features[:, record["latent"]]
            by_hand = pipeline[-1].coef_[record["class"], place] / values.max()
            assert record["coefficient"] == pytest.approx(by_hand, rel=1e-6)
            assert record["importance"] == pytest.approx(by_hand * values.std(), rel=1e-6)

    def test_of_binarized_latents(self, featurizer):
        pipeline = make_pipeline(
            featurizer, LatentBinarizer(0.5), LogisticRegression(max_iter=1000)
        ).fit(TEXTS, TWO)
        is_on = featurizer.transform(TEXTS).toarray() > 0.5
        for record in latent_importance(pipeline, TEXTS):
            own = is_on[:, record["latent"]]
            assert record["active"] == own.mean()
            assert record["importance"] == pytest.approx(record["coefficient"] * own.std())

    def test_of_hidden_states(self, tiny_bert):
        featurizer = ActivationFeaturizer(tiny_bert, layer=1)
        pipeline = make_pipeline(featurizer, StandardScaler(), LogisticRegression(max_iter=1000)).fit(
            TEXTS, TWO
        )
        records = latent_importance(pipeline, TEXTS)
        assert sorted(column(records, "latent")) == list(range(32))
        latents = column(records, "latent")  # a standard deviation of each is 1 after scaling
        np.testing.assert_allclose(
            column(records, "importance"), pipeline[-1].coef_[0][latents], rtol=1e-4, atol=1e-6
        )


class TestPermutation:
    def test_it_is_scikit_learns(self, featurizer):
        forest = RandomForestClassifier(10, random_state=0)
        pipeline = make_pipeline(featurizer, Normalizer(), forest).fit(TEXTS[:20], TWO[:20])
        held_out, y = TEXTS[20:], TWO[20:]
        records = latent_importance(
            pipeline,
            held_out,
            y,
            method="permutation",
            scoring="neg_log_loss",
            n_repeats=3,
            random_state=1,
        )
        features = featurizer.transform(held_out).toarray()
        expected = inspection.permutation_importance(
            pipeline[1:], features, y, scoring="neg_log_loss", n_repeats=3, random_state=1
        )
        latents = column(records, "latent")
        assert sorted(latents) == np.flatnonzero(features.any(axis=0)).tolist()
        for name, of_sklearn in (("importance", "mean"), ("importance_std", "std")):
            reference = expected[f"importances_{of_sklearn}"]
            np.testing.assert_allclose(column(records, name), reference[latents], rtol=1e-6, atol=1e-9)
        assert column(records, "active") == (features > 0).mean(axis=0)[latents].tolist()
        assert column(records, "class") == column(records, "coefficient") == [None] * len(records)
        assert (np.diff(np.abs(column(records, "importance"))) <= 0).all()

    def test_the_model_reads_each_text_once(self, featurizer, seen):
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS[:20], TWO[:20])
        seen.clear()
        latent_importance(pipeline, TEXTS[20:], TWO[20:], method="permutation")
        assert sorted(seen) == sorted(TEXTS[20:])

    def test_what_is_missing_is_named(self, featurizer):
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        with pytest.raises(
            InvalidInputError, match=r"^Got no X and y; method='permutation' needs items"
        ):
            latent_importance(pipeline, method="permutation")
        with pytest.raises(InvalidInputError, match=r"^Got no y; "):
            latent_importance(pipeline, TEXTS, method="permutation")
        with pytest.raises(
            InvalidInputError, match=r"^Got 30 items and 29 classes; expected one class each"
        ):
            latent_importance(pipeline, TEXTS, TWO[1:], method="permutation")
        with pytest.raises(InvalidParameterError, match=r"^Got n_repeats=0; expected"):
            latent_importance(pipeline, TEXTS, TWO, method="permutation", n_repeats=0)
        with pytest.raises(InvalidParameterError, match=r"Did you mean 'permutation'\?$"):
            latent_importance(pipeline, TEXTS, TWO, method="permutations")

    def test_a_regression_is_named(self, featurizer):
        pipeline = make_pipeline(featurizer, LinearRegression()).fit(TEXTS, THREE)
        with pytest.raises(InvalidParameterError) as raised:
            latent_importance(pipeline, TEXTS, THREE, method="permutation")
        assert str(raised.value) == (
            "Got the step 'linearregression' (LinearRegression), which is no classifier; expected one."
        )


@pytest.mark.parametrize("method", ["coefficients", "permutation"])
def test_labels_of_the_default_sae(method):
    featurizer = SAEFeaturizer(feature_names="label")
    pipeline = make_pipeline(
        featurizer, LatentSelector(10), MaxAbsScaler(), LogisticRegression(max_iter=1000)
    )
    pipeline.fit(MOVIES, [1, 0, 1, 0])
    records = latent_importance(pipeline, MOVIES, [1, 0, 1, 0], method=method)
    labels = latent_labels(featurizer)
    assert column(records, "label") == [labels.get(latent) for latent in column(records, "latent")]
    assert any(column(records, "label"))
    names = featurizer.get_feature_names_out()
    assert all(r["label"] is None or r["label"] in names[r["latent"]] for r in records)
