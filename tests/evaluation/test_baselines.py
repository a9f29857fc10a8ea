from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from sae_features import SAEFeaturizer
from sae_features.errors import InvalidParameterError
from sae_features.evaluation.baselines import (
    BASELINES,
    baselines_of_items,
    baselines_of_place,
    check_baselines,
    random_twin,
)
from sae_features.evaluation.classifiers import Classifier
from sae_features.evaluation.methods import LatentChoices, ModelChoice, latent_methods, places_of


@pytest.fixture
def place(tiny_bert, tiny_saes):
    def at(sae, **how):
        saes = () if sae is None else (tiny_saes.get(sae, sae),)
        (found,) = places_of(ModelChoice(model=tiny_bert, layers=(1,), saes=saes, **how))
        return found

    return at


def test_each_kind_reads_what_the_sae_reads(place, make_data):
    data = make_data()
    where = place("topk", prompt="a {}", tokens="all")
    choices = LatentChoices(poolings=("max", "count", "last"), binarize=(False, True))
    methods = baselines_of_place(BASELINES, where, choices, data.items)
    assert [method.name.removeprefix("tiny-bert layer 1 ") for method in methods] == [
        "states max", "states max, raw", "states max, standardised",
        "states last", "states last, raw", "states last, standardised",
        "random:48:5 max", "random:48:5 count", "random:48:5 last",
        "states max, PCA for topk", "states max, random projection for topk",
        "states last, PCA for topk", "states last, random projection for topk",
    ]  # fmt: skip
    for method in methods:
        given = method.featurizer.get_params()
        assert (given["layer"], given["prompt"], given["tokens"]) == (1, "a {}", "all")
        assert method.settings["pooling"] == given["pooling"]
    assert [method.scalings for method in methods[:3]] == [None, ("none",), ("standard",)]
    (last,) = baselines_of_place(["last_token"], where, choices, data.items)
    assert last.featurizer.pooling == "last"


def test_there_is_nothing_to_twin_or_match_without_an_sae(place):
    names = [m.kind for m in baselines_of_place(BASELINES, place(None), LatentChoices(), ["a"])]
    assert names == ["states", "states_raw", "states_standardised", "last_token"]
    with pytest.raises(InvalidParameterError, match="tiny-bert layer 1 has no SAE"):
        random_twin(place(None), ["a"])
    assert baselines_of_place(["random_sae", "pca"], place("random:64:4"), LatentChoices(), []) == []


def test_a_random_twin_has_the_width_and_l0_of_its_sae(place, make_data, tiny_bert, tiny_saes):
    items = make_data(80).items
    assert random_twin(place("topk"), items) == "random:48:5"
    some = items[::2][:32]
    featurizer = SAEFeaturizer(tiny_bert, layer=1, sae=tiny_saes["relu"], pooling="count", cache=False)
    n_tokens = featurizer.token_codes(some).item_offsets[-1]
    l0 = featurizer.transform(some).sum() / n_tokens
    assert 5 < l0 < 43
    assert random_twin(place("relu"), items) == f"random:48:{round(l0)}"


@pytest.mark.parametrize(
    ("choices", "like"),
    [
        (LatentChoices(), "max"),
        (LatentChoices(binarize=(True, False)), "max"),
        (LatentChoices(binarize=(True,)), "max binarized"),
        (LatentChoices(thresholds=(1.0, 2.0), token_top_n=(3,)), "max top 3 > 1"),
        (LatentChoices(poolings=("max", "mean"), binarize=(True,)), "max binarized"),
    ],
)
def test_projections_are_as_wide_as_a_method_that_is_compared(place, choices, like):
    where = place("topk")
    compared = [method.name for method in latent_methods(where, choices)]
    for method in baselines_of_place(["pca", "projection"], where, choices, []):
        assert method.components_of == f"tiny-bert layer 1 topk {like}"
        assert method.components_of in compared


def test_baselines_fit_the_items():
    assert [m.kind for m in baselines_of_items(BASELINES, "image")] == ["pixels", "chance"]
    words = baselines_of_items(BASELINES, "text")
    assert [m.kind for m in words] == ["tfidf_word", "tfidf_char", "bag_of_words", "chance"]
    assert all(m.is_sparse for m in words[:3])
    with pytest.raises(InvalidParameterError, match="Got baseline='tfidf'; expected one of states"):
        check_baselines(["tfidf"])


def test_bags_of_words_count_words_of_one_letter_too():
    texts = ["a good film", "a bad a", "good good"]
    (method,) = baselines_of_items(["bag_of_words"], "text")
    steps = dict(Classifier().learner(method, n_classes=2).steps)
    expected = CountVectorizer(vocabulary=["a", "bad", "film", "good"], analyzer=str.split)
    np.testing.assert_array_equal(
        steps["words"].fit_transform(texts).toarray(), expected.transform(texts).toarray()
    )
