"""Contributions sum to the decision, and tokens to contributions, whatever stands between."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, MaxAbsScaler, Normalizer, StandardScaler
from tiny import BERT, WORDS

from sae_features import ActivationFeaturizer, LatentBinarizer, LatentSelector, SAEFeaturizer
from sae_features.architectures import Architecture, Patches
from sae_features.errors import InputTypeError, InvalidParameterError
from sae_features.evaluation.explanation import explain
from sae_features.evaluation.latent_names import latent_labels
from sae_features.families import ModelFamily
from sae_features.parameters import ACTIVATION_POOLINGS, POOLINGS
from sae_features.testing import write_tiny

TEXTS = [" ".join(WORDS[(7 * i + j * j) % len(WORDS)] for j in range(2 + i % 5)) for i in range(30)]
TWO = np.array(["good", "bad"])[np.arange(30) % 2]
THREE = np.arange(30) % 3
NEW = "the old river and the old river"
VIT = Architecture("vit", (Patches(),), final_norm=False)

STEPS = {
    "nothing": [],
    "max abs": [MaxAbsScaler()],
    "standard": [StandardScaler(with_mean=False)],
    "selected": [LatentSelector(20), MaxAbsScaler()],
    "binarized": [LatentBinarizer(0.2)],
    "scaled, binarized": [MaxAbsScaler(), Binarizer(threshold=0.3), LatentSelector(20)],
}


@pytest.fixture
def featurizer(tiny_bert, tiny_sae_folder):
    return SAEFeaturizer(tiny_bert, sae=tiny_sae_folder("topk"))


def assert_adds_up(explanation, decision):
    """Up to float32, in which features are scaled and decided on."""
    parts = [latent.contribution for latent in explanation.latents]
    size = np.abs([explanation.intercept, *parts]).sum()
    assert explanation.decision == pytest.approx(decision, rel=1e-12)
    assert sum(parts) + explanation.intercept == pytest.approx(decision, abs=2e-6 * size)
    for latent in explanation.latents:
        assert latent.contribution == pytest.approx(latent.coefficient * latent.value, rel=1e-12)
        of_tokens = [part.value for part in latent.tokens]
        assert sum(of_tokens) == pytest.approx(latent.contribution, rel=1e-12)
    totals = [part.value for part in explanation.tokens]
    assert sum(totals) == pytest.approx(sum(parts), abs=1e-12 * size)
    sizes = np.abs(parts)
    assert (np.diff(sizes) <= 0).all()


class TestSums:
    @pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_of_two_classes(self, featurizer, steps, pooling):
        featurizer.set_params(pooling=pooling)
        pipeline = make_pipeline(featurizer, *steps, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        explanation = explain(pipeline, NEW)
        assert explanation.latents
        assert_adds_up(explanation, pipeline.decision_function([NEW])[0])
        assert (explanation.target, explanation.other) == ("good", "bad")
        assert explanation.predicted == pipeline.predict([NEW])[0]

    @pytest.mark.parametrize(
        "options",
        [{"binarize": True}, {"threshold": 0.4}, {"token_top_n": 2}, {"sparse_output": False}],
        ids=lambda options: next(iter(options)),
    )
    def test_of_what_the_featurizer_does_itself(self, featurizer, options):
        featurizer.set_params(**options)
        pipeline = make_pipeline(featurizer, RidgeClassifier()).fit(TEXTS, TWO)
        explanation = explain(pipeline, NEW)
        assert explanation.latents
        assert_adds_up(explanation, pipeline.decision_function([NEW])[0])

    def test_of_several_classes(self, featurizer):
        pipeline = make_pipeline(featurizer, MaxAbsScaler(), LogisticRegression(max_iter=1000)).fit(
            TEXTS, THREE
        )
        decisions = pipeline.decision_function([NEW])[0]
        for target in range(3):
            assert_adds_up(explain(pipeline, NEW, target=target), decisions[target])
        explanation = explain(pipeline, NEW)
        assert explanation.target == explanation.predicted == decisions.argmax()
        assert explanation.towards(0.1) == f"for {explanation.target}"
        assert explanation.towards(-0.1) == f"against {explanation.target}"

    def test_of_the_first_of_two_classes(self, featurizer):
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        second, first = explain(pipeline, NEW), explain(pipeline, NEW, target="bad")
        assert_adds_up(first, -pipeline.decision_function([NEW])[0])
        assert [latent.contribution for latent in first.latents] == [
            -latent.contribution for latent in second.latents
        ]
        assert first.towards(0.1) == second.towards(-0.1) == "for 'bad'"
        assert first.towards(-0.1) == second.towards(0.1) == "for 'good'"

    @pytest.mark.parametrize("pooling", ACTIVATION_POOLINGS)
    def test_of_hidden_states(self, tiny_bert, pooling):
        featurizer = ActivationFeaturizer(tiny_bert, layer=1, pooling=pooling)
        pipeline = make_pipeline(featurizer, StandardScaler(), LogisticRegression(max_iter=1000)).fit(
            TEXTS, TWO
        )
        explanation = explain(pipeline, NEW)
        assert len(explanation.latents) == 32
        assert explanation.unit == "activation"
        decision = pipeline.decision_function([NEW])[0]
        parts = [latent.contribution for latent in explanation.latents]
        size = np.abs([explanation.intercept, *parts]).sum()
        assert sum(parts) + explanation.intercept == pytest.approx(decision, abs=5e-6 * size)

    def test_of_a_text_without_tokens(self, featurizer, recwarn):
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        explanation = explain(pipeline, "")
        assert (explanation.latents, explanation.tokens) == ((), ())
        assert explanation.decision == pytest.approx(explanation.intercept)
        assert str(explanation).count("\n") == 0


class TestTokens:
    def test_of_the_maximum(self, featurizer):
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        codes = featurizer.token_codes([NEW])
        for latent in explain(pipeline, NEW).latents:
            (part,) = latent.tokens
            assert part.token.position == codes.latent(latent.latent, 0).argmax()
            assert part.token.text == NEW.split()[part.token.position]

    def test_in_proportion_to_the_mean(self, featurizer):
        featurizer.set_params(pooling="mean")
        pipeline = make_pipeline(featurizer, MaxAbsScaler(), LogisticRegression(max_iter=1000)).fit(
            TEXTS, TWO
        )
        codes = featurizer.token_codes([NEW])
        for latent in explain(pipeline, NEW).latents:
            values = codes.latent(latent.latent, 0)
            found = {part.token.position: part.value for part in latent.tokens}
            assert set(found) == set(np.flatnonzero(values))
            for position, value in found.items():
                expected = latent.coefficient * values[position] / 7  # tokens
                assert value == pytest.approx(expected, rel=1e-5)


class TestWords:
    def test_of_the_default_sae(self):
        movies = ["a moving film", "a dull film", "moving and wise", "dull and empty"]
        featurizer = SAEFeaturizer(feature_names="label", pooling="sum")
        pipeline = make_pipeline(featurizer, MaxAbsScaler(), LogisticRegression(max_iter=1000))
        pipeline.fit(movies, ["good", "bad", "good", "bad"])
        explanation = explain(pipeline, "A moving story", n=2)
        assert_adds_up(explanation, pipeline.decision_function(["A moving story"])[0])
        labels = latent_labels(featurizer)
        assert all(latent.label == labels.get(latent.latent) for latent in explanation.latents)
        lines = str(explanation).splitlines()
        assert lines[0].startswith("predicted 'good'; decision for 'good' +")
        assert repr(explanation) == f"<Explanation: {lines[0]}>"
        first = explanation.latents[0]
        assert f'"{first.label}" (latent {first.latent}), {first.value:.3g} x ' in lines[1]
        assert f"{first.contribution:+.3g}  for 'good': " in lines[1]
        best = first.tokens[0]
        assert lines[2].strip() == f"{best.value:+.3g}  {best.token}"
        assert lines[-1].startswith(f"{len(explanation.latents) - 2} more latents, together ")
        rest = sum(latent.contribution for latent in explanation.latents[2:])
        assert lines[-1].endswith(f"{rest:+.3g}")

    def test_records(self, featurizer):
        featurizer.set_params(pooling="sum")
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        explanation = explain(pipeline, NEW)
        records = explanation.records()
        assert len(records) == sum(len(latent.tokens) for latent in explanation.latents)
        assert sum(record["token_contribution"] for record in records) == pytest.approx(
            sum(latent.contribution for latent in explanation.latents)
        )
        for record in records:
            assert record["token"] == NEW.split()[record["position"]]
            side = "good" if record["contribution"] > 0 else "bad"
            assert record["towards"] == f"for '{side}'"
            assert record["patch"] is record["box"] is None

    def test_more_tokens_than_are_shown_are_counted(self, featurizer):
        featurizer.set_params(pooling="sum")
        pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
        explanation = explain(pipeline, " ".join(["river"] * 8))
        assert any(len(latent.tokens) == 8 for latent in explanation.latents)
        assert "and 5 tokens more" in str(explanation)


def test_patches(tmp_path, use_families):
    use_families(ModelFamily("tiny-vit", architectures=(VIT, BERT)))
    vit = write_tiny(VIT, tmp_path / "vit")
    images = np.random.default_rng(0).integers(0, 255, (8, 28, 28, 3), np.uint8)
    featurizer = SAEFeaturizer(vit, layer=1, sae="random:24:2")
    pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(images, np.arange(8) % 2)
    explanation = explain(pipeline, images[0])
    assert_adds_up(explanation, pipeline.decision_function(images[:1])[0])
    codes = featurizer.token_codes(images[:1])
    assert len(explanation.tokens) == 16
    for latent in explanation.latents:
        (part,) = latent.tokens
        heat = codes.grids[0].map(codes.latent(latent.latent, 0))
        assert part.token.patch == np.unravel_index(heat.argmax(), heat.shape)
    assert "patch in row" in str(explanation)


def test_wrong_arguments(featurizer):
    pipeline = make_pipeline(featurizer, LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
    with pytest.raises(InputTypeError, match=r"^Got a list as x; expected one item"):
        explain(pipeline, TEXTS)
    with pytest.raises(InvalidParameterError) as raised:
        explain(pipeline, NEW, target="ugly")
    assert str(raised.value) == "Got target='ugly'; expected one of the classes 'bad', 'good'."
    with pytest.raises(InvalidParameterError, match=r"^Got n=0; "):
        explain(pipeline, NEW, n=0)
    bent = make_pipeline(featurizer, Normalizer(), LogisticRegression(max_iter=1000)).fit(TEXTS, TWO)
    with pytest.raises(InvalidParameterError, match=r"^Got the step 'normalizer' \(Normalizer\)"):
        explain(bent, NEW)
