from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from tiny import random_sae

from sae_features import ActivationFeaturizer, SAEFeaturizer
from sae_features.errors import InvalidParameterError
from sae_features.evaluation.baselines import baselines_of_items, baselines_of_place
from sae_features.evaluation.classifiers import Classifier
from sae_features.evaluation.methods import (
    LatentChoices,
    ModelChoice,
    check_names,
    latent_methods,
    places_of,
    short_name,
)
from sae_features.hook_point import HookPoint


@pytest.fixture(scope="module")
def own_layers(tmp_path_factory):
    """SAEs that say their layers, 1 and 2."""
    root = tmp_path_factory.mktemp("own")
    return [random_sae(point=HookPoint(layer)).save(root / f"of_{layer}") for layer in (1, 2)]


def read_at(choice):
    return [
        (place.layer, None if place.sae is None else short_name(str(place.sae)))
        for place in places_of(choice)
    ]


def test_each_sae_at_its_layer(tiny_bert, tiny_saes, own_layers):
    choice = ModelChoice(model=tiny_bert, saes=tuple(own_layers))
    assert read_at(choice) == [(1, "of_1"), (2, "of_2")]
    mixed = ModelChoice(model=tiny_bert, layers=(0, 2), saes=(own_layers[1], tiny_saes["topk"]))
    assert read_at(mixed) == [(2, "of_2"), (0, "topk"), (2, "topk")]
    random = ModelChoice(model=tiny_bert, layers=(0, -1), saes=("random:64:4",))
    assert read_at(random) == [(0, "random:64:4"), (2, "random:64:4")]
    assert read_at(ModelChoice(model=tiny_bert, layers=(0, 1), saes=())) == [(0, None), (1, None)]
    assert read_at(ModelChoice()) == [(3, "minilm-topk-4k/layer_3")]


def test_an_sae_of_a_layer_that_is_not_asked_for(tiny_bert, own_layers):
    choice = ModelChoice(model=tiny_bert, layers=(0, 1), saes=(own_layers[1],))
    with pytest.raises(
        InvalidParameterError, match=r"which reads layer 2, with layers=\[0, 1\]; add its"
    ):
        places_of(choice)


def test_names_and_settings_say_what_a_method_is(tiny_bert, tiny_saes):
    choice = ModelChoice(
        model=tiny_bert, layers=(1,), saes=(tiny_saes["topk"],), site="mlp_out", prompt="a {}"
    )
    (place,) = places_of(choice)
    choices = LatentChoices(
        poolings=("max", "sum"), thresholds=(None, 0.5), binarize=(False, True), token_top_n=(None, 2)
    )
    methods = latent_methods(place, choices, cache=False)
    assert len({method.name for method in methods}) == len(methods) == 16 - 2
    last = methods[-1]
    assert last.name == "tiny-bert layer 1 mlp_out topk sum top 2 > 0.5 binarized"
    assert last.settings == {
        "model": "tiny-bert", "layer": 1, "site": "mlp_out", "sae": "topk", "tokens": "content",
        "prompt": "a {}", "max_length": None, "dtype": None, "pooling": "sum", "threshold": 0.5,
        "binarize": True, "token_top_n": 2,
    }  # fmt: skip
    given = last.featurizer.get_params()
    assert given["cache"] is False
    wanted = {"pooling": "sum", "threshold": 0.5, "binarize": True, "token_top_n": 2, "prompt": "a {}"}
    assert {name: given[name] for name in wanted} == wanted
    with pytest.raises(
        InvalidParameterError, match="Got two methods called 'tiny-bert layer 1 mlp_out topk"
    ):
        check_names([*methods, last])


def test_equal_features_are_one_method():
    """Whether a latent fired at all is the same for all poolings over all tokens."""
    choices = LatentChoices(
        poolings=("mean", "max", "last", "sum"), thresholds=(None, 0.5), binarize=(False, True)
    )
    binarized = [(each["pooling"], each["threshold"]) for each in choices.each() if each["binarize"]]
    assert binarized == [
        ("mean", None), ("mean", 0.5), ("max", 0.5), ("last", None), ("last", 0.5), ("sum", 0.5),
    ]  # fmt: skip
    assert len(list(choices.each())) == 8 + len(binarized)


def test_two_methods_that_read_alike(tiny_bert, tiny_saes):
    def methods(**how):
        (place,) = places_of(ModelChoice(model=tiny_bert, layers=(1,), saes=(tiny_saes["topk"],), **how))
        return [
            *latent_methods(place, LatentChoices()),
            *baselines_of_place(["states"], place, LatentChoices(), []),
        ]

    for one, same, other in zip(methods(), methods(), methods(prompt="a {}"), strict=True):
        assert one.reads_like(same)
        assert not one.reads_like(other)
    words = baselines_of_items(["bag_of_words", "chance"], "text")
    assert words[0].reads_like(words[1])
    assert not words[0].reads_like(methods()[0])


def test_the_pipeline_is_the_featurizer_and_what_is_learned(tiny_bert, tiny_saes, make_data):
    data = make_data()
    (place,) = places_of(ModelChoice(model=tiny_bert, layers=(1,), saes=(tiny_saes["topk"],)))
    classifier = Classifier(strengths=(0.5,))
    latents, states = (
        *latent_methods(place, LatentChoices()),
        *baselines_of_place(["states"], place, LatentChoices(), data.items),
    )
    for method, featurizer in (
        (latents, SAEFeaturizer(tiny_bert, layer=1, sae=tiny_saes["topk"])),
        (states, ActivationFeaturizer(tiny_bert, layer=1)),
    ):
        expected = make_pipeline(featurizer, MaxAbsScaler(), LogisticRegression(C=0.5, max_iter=2000))
        expected.fit(data.items, data.labels)
        found = method.pipeline(classifier).fit(data.items, data.labels)
        np.testing.assert_array_equal(found.predict(data.items), expected.predict(data.items))
        np.testing.assert_allclose(found[-1].coef_, expected[-1].coef_, rtol=1e-6, atol=1e-9)
        assert not hasattr(method.featurizer, "model_")


@pytest.mark.parametrize("kind", ["pca", "projection"])
def test_projections_have_a_pipeline_too(kind, tiny_bert, tiny_saes, make_data):
    data = make_data()
    (place,) = places_of(ModelChoice(model=tiny_bert, layers=(1,), saes=(tiny_saes["topk"],)))
    (method,) = baselines_of_place([kind], place, LatentChoices(), data.items)
    fitted = method.pipeline(Classifier(strengths=(0.5,))).fit(data.items, data.labels)
    assert set(fitted.predict(data.items)) <= set(data.classes)


def test_no_path_of_this_machine_is_a_name():
    assert short_name(str(Path.cwd() / "models" / "mine")) == "mine"
    assert short_name("release/sae") == "release/sae"
    assert re.fullmatch("random:64:4", short_name("random:64:4"))


def test_an_sae_of_a_shorter_context_shortens_all_that_is_read_of_the_model(tiny_bert, tmp_path):
    sae = random_sae("topk", point=None, metadata={"max_length": 5})
    short = sae.save(tmp_path / "short")
    places = places_of(ModelChoice(model=tiny_bert, layers=(1,), saes=("random:16:2", short)))
    assert [place.options["max_length"] for place in places] == [5, 5]
    given = places_of(ModelChoice(model=tiny_bert, layers=(1,), saes=(short,), max_length=7))
    assert [place.options["max_length"] for place in given] == [7]
    plain = places_of(ModelChoice(model=tiny_bert, layers=(1,), saes=("random:16:2",)))
    assert [place.options["max_length"] for place in plain] == [None]
