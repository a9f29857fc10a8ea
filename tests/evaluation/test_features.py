from __future__ import annotations

import shutil

import numpy as np
import pytest
from sklearn.base import clone

from sae_features import ActivationFeaturizer, SAEFeaturizer
from sae_features.evaluation.features import components_of, identity_of, rows_of, warm_methods
from sae_features.evaluation.methods import Method

TEXTS = ["a calm river", "the old village by the sea", "snow", "a calm river"]


def method_of(featurizer, **parts):
    return Method(repr(featurizer), "sae", featurizer, **parts)


def test_each_text_is_read_once_for_all_methods(tiny_bert, tiny_saes, texts_read):
    methods = [Method("words", "tfidf_word")]
    for layer in (0, 2):
        methods.append(method_of(ActivationFeaturizer(tiny_bert, layer=layer, pooling="mean")))
        for sae in (*tiny_saes.values(), "random:64:4"):
            methods += [
                method_of(SAEFeaturizer(tiny_bert, layer=layer, sae=sae, **how))
                for how in (
                    {"pooling": "sum"},
                    {"threshold": 0.5},
                    {"binarize": True},
                    {"token_top_n": 2},
                )
            ]
    with texts_read() as counts:
        warm_methods(methods, TEXTS)
        assert counts == dict.fromkeys(TEXTS, 1)
        for method in methods[1:]:
            found = rows_of(method, TEXTS)
            assert found.shape[0] == 4
        assert counts == dict.fromkeys(TEXTS, 1)
    assert rows_of(methods[0], tuple(TEXTS)) == TEXTS


def test_what_keeps_nothing_is_not_read_ahead(tiny_bert, tiny_saes, texts_read):
    with texts_read() as counts:
        warm_methods(
            [method_of(SAEFeaturizer(tiny_bert, layer=1, sae=tiny_saes["topk"], cache=False))], TEXTS
        )
        assert not counts


def test_prompts_are_other_runs(tiny_bert, texts_read):
    methods = [
        method_of(ActivationFeaturizer(tiny_bert, layer=1, prompt=prompt)) for prompt in (None, "the {}")
    ]
    with texts_read() as counts:
        warm_methods(methods, TEXTS)
        assert counts == dict.fromkeys(TEXTS, 2)
    one, other = (rows_of(method, TEXTS) for method in methods)
    assert not np.allclose(one, other)


def test_a_projection_has_as_many_components_as_rows_have_active_features(tiny_bert, tiny_saes):
    latents = method_of(SAEFeaturizer(tiny_bert, layer=1, sae=tiny_saes["topk"]))
    active = (latents.featurizer.transform(TEXTS).toarray() != 0).sum() / 4
    projection = method_of(ActivationFeaturizer(tiny_bert, layer=1), components_of=latents.name)
    others = {method.name: method for method in (latents, projection)}
    assert components_of(projection, others, TEXTS) == round(active)
    assert components_of(latents, others, TEXTS) is None
    dense = method_of(SAEFeaturizer(tiny_bert, layer=1, sae="random:500:200"))
    wide = method_of(ActivationFeaturizer(tiny_bert, layer=1), components_of=dense.name)
    assert components_of(wide, others | {dense.name: dense}, TEXTS) == 32  # as the model is wide


def test_who_a_method_is(tiny_bert, tiny_saes, tmp_path):
    plain = SAEFeaturizer(tiny_bert, layer=1, sae=tiny_saes["topk"])

    def identity(**given):
        return identity_of(Method("latents", "sae", clone(plain).set_params(**given)), TEXTS)

    assert identity(cache=tmp_path, batch_size=3, device="cpu", verbose=True) == identity()
    moved = shutil.copytree(tiny_bert, tmp_path / "moved")
    moved_sae = shutil.copytree(tiny_saes["topk"], tmp_path / "moved-sae")
    assert identity(model=str(moved), sae=moved_sae) == identity()
    changes = [
        {"pooling": "mean"}, {"threshold": 0.5}, {"binarize": True}, {"token_top_n": 3}, {"layer": 2},
        {"sae": tiny_saes["relu"]}, {"prompt": "a {}"}, {"tokens": "all"}, {"max_length": 8},
        {"sae": "random:48:5"}, {"sae": "random:48:5:1"},
    ]  # fmt: skip
    found = [identity(), *(identity(**change) for change in changes)]
    assert len({repr(each) for each in found}) == len(found)
    assert not any(str(tmp_path.parent) in repr(each) for each in found)


@pytest.mark.parametrize("part", ["name", "kind"])
def test_names_and_kinds_are_part_of_it(part):
    given = {"name": "words", "kind": "tfidf_word"}
    one, other = (identity_of(Method(**given | change), TEXTS) for change in ({}, {part: "other"}))
    assert one != other
