"""The items and tokens on which a latent is largest, found here by looking at all of them."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import BERT, WORDS

from sae_features import ActivationFeaturizer, SAEFeaturizer
from sae_features.architectures import Architecture, Patches
from sae_features.errors import InputTypeError, InvalidParameterError
from sae_features.evaluation.top_activations import TopItem, top_items
from sae_features.families import ModelFamily
from sae_features.parameters import POOLINGS
from sae_features.testing import write_tiny

TEXTS = [" ".join(WORDS[(5 * i + j) % len(WORDS)] for j in range(1 + i % 6)) for i in range(25)]
VIT = Architecture("vit", (Patches(),), final_norm=False)


@pytest.fixture
def featurizer(tiny_bert, tiny_sae_folder):
    return SAEFeaturizer(tiny_bert, sae=tiny_sae_folder("topk"))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_items_and_tokens_are_the_largest(featurizer, pooling):
    featurizer.set_params(pooling=pooling)
    found = top_items(featurizer, TEXTS, range(48), n=4, n_tokens=2)
    rows = featurizer.transform(TEXTS).toarray()
    codes = featurizer.token_codes(TEXTS)
    assert list(found) == list(range(48))
    for latent, items in found.items():
        values = rows[:, latent]
        expected = sorted(np.flatnonzero(values), key=lambda i: (-values[i], i))[:4]
        assert [top.item for top in items] == expected
        assert [top.value for top in items] == values[expected].tolist()
        for top in items:
            of_tokens = codes.latent(latent, top.item)
            words = TEXTS[top.item].split()
            best = sorted(np.flatnonzero(of_tokens), key=lambda t: (-of_tokens[t], t))[:2]
            assert [part.value for part in top.tokens] == of_tokens[best].tolist()
            assert [part.token.text for part in top.tokens] == [words[t] for t in best]
    assert sum(map(len, found.values())) > 48


def test_thresholds_do_not_hide_the_order(featurizer):
    expected = top_items(featurizer, TEXTS, [3, 7])
    featurizer.set_params(binarize=True, threshold=0.5, sparse_output=False)
    assert top_items(featurizer, TEXTS, [3, 7]) == expected
    assert featurizer.binarize
    assert featurizer.threshold == 0.5


def test_tokens_heed_token_top_n(featurizer):
    featurizer.set_params(token_top_n=1)
    rows = featurizer.transform(TEXTS).toarray()
    for latent, items in top_items(featurizer, TEXTS, range(48)).items():
        for top in items:
            assert top.tokens[0].value == top.value == rows[top.item, latent]


def test_equal_items_count_once(featurizer):
    latent = int(featurizer.transform(TEXTS[:1]).argmax())
    found = top_items(featurizer, [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[0]], latent)
    items = [top.item for top in found[latent]]
    assert 0 in items
    assert sorted(items) == sorted(set(items) & {0, 2})


def test_only_the_chosen_items_are_read_again(featurizer, seen):
    featurizer.set_params(cache=False)
    found = top_items(featurizer, TEXTS, [0, 1], n=1)
    chosen = {TEXTS[top.item] for items in found.values() for top in items}
    for text in set(TEXTS) - chosen:
        assert seen.count(text) == 1


def test_a_silent_latent_has_no_items(featurizer):
    rows = featurizer.transform(TEXTS[:2])
    silent = int(np.flatnonzero(rows.getnnz(axis=0) == 0)[0])
    assert top_items(featurizer, TEXTS[:2], [silent]) == {silent: []}


def test_images(tmp_path, use_families):
    use_families(ModelFamily("tiny-vit", architectures=(VIT, BERT)))
    vit = write_tiny(VIT, tmp_path / "vit")
    featurizer = SAEFeaturizer(vit, layer=1, sae="random:24:2")
    images = np.random.default_rng(0).integers(0, 255, (3, 28, 28, 3), np.uint8)
    codes = featurizer.token_codes(images)
    for latent, items in top_items(featurizer, images, range(24), n=1).items():
        for top in items:
            heat = codes.grids[top.item].map(codes.latent(latent, top.item))
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            best = top.tokens[0]
            assert best.token.patch == (row, column)
            assert best.token.box == (column * 7, row * 7, column * 7 + 7, row * 7 + 7)
            assert best.value == heat.max() == top.value


def test_as_text(featurizer):
    latent = int(featurizer.transform(["snow"]).argmax())
    (top,) = top_items(featurizer, ["snow"], latent)[latent]
    assert str(top) == f"{top.value:.3g}  item 0: [snow]"
    assert str(TopItem(3, 1.5, ())) == "1.5  item 3: no token"


def test_wrong_arguments(featurizer, tiny_bert):
    with pytest.raises(InputTypeError, match=r"^Got a ActivationFeaturizer; expected an SAEFeaturizer"):
        top_items(ActivationFeaturizer(tiny_bert), TEXTS, [0])
    for latents in ([0, 48], -1, [1.5], ["0"]):
        with pytest.raises(
            InvalidParameterError, match=r"^Got the latent .*; expected an integer from 0 to 47"
        ):
            top_items(featurizer, TEXTS, latents)
    with pytest.raises(InvalidParameterError, match=r"^Got n=0; expected"):
        top_items(featurizer, TEXTS, [0], n=0)
