from __future__ import annotations

import json

from sae_features import ActivationFeaturizer, SAEFeaturizer
from sae_features.evaluation.latent_names import latent_labels, shown_latent, unit_of
from sae_features.releases import find_sae


def test_labels_are_those_of_the_sae_whatever_features_are_called():
    expected = find_sae("minilm-topk-4k/layer_3").labels
    assert len(expected) > 100
    assert latent_labels(SAEFeaturizer()) == expected
    assert latent_labels(SAEFeaturizer(feature_names="label")) == expected


def test_labels_of_a_file(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"7": "rain"}))
    assert latent_labels(SAEFeaturizer(feature_names=path)) == {7: "rain"}


def test_no_labels(tiny_bert):
    assert latent_labels(ActivationFeaturizer(tiny_bert)) == {}
    assert latent_labels(SAEFeaturizer(tiny_bert, layer=1, sae="random:20:3")) == {}


def test_names_for_people():
    assert shown_latent(3, "rain") == '"rain" (latent 3)'
    assert shown_latent(3, "") == "latent 3"
    assert shown_latent(3, None, unit_of(ActivationFeaturizer())) == "activation 3"
    assert unit_of(SAEFeaturizer()) == "latent"
