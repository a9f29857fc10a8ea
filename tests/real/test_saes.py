"""A trained SAE on real activations gives the same latents from every format that it can be saved in."""

from __future__ import annotations

import json

import pytest
import torch

from sae_features import load_backbone, load_sae
from sae_features.saes.formats import find_format

TEXTS = [
    "It was the best of times, it was the worst of times.",
    "A gripping, beautifully shot film that never finds its feet.",
    "No.",
]


@pytest.fixture(scope="module")
def sae():
    return load_sae("minilm-topk-4k/layer_3")


@pytest.fixture(scope="module")
def activations():
    return torch.from_numpy(load_backbone("minilm").activations(TEXTS, layer=3).values)


def write_saelens(sae, folder):
    return sae.save(folder, format="saelens")


def write_sparsify(sae, folder):
    return sae.save(folder, format="sparsify")


def write_dictionary_learning(sae, folder):
    folder.mkdir()
    tensors = {
        "encoder.weight": sae.W_enc.mT.contiguous(),
        "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec.mT.contiguous(),
        "b_dec": sae.b_dec,
        "k": torch.tensor(sae.k),
        "threshold": torch.tensor(-1.0),
    }
    torch.save(tensors, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "activation_dim": sae.d_in, "dict_size": sae.n_latents}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    return folder


@pytest.mark.parametrize("write", [write_saelens, write_sparsify, write_dictionary_learning])
def test_same_latents_from_every_format(sae, activations, tmp_path, write):
    folder = write(sae, tmp_path / "sae")
    assert find_format(folder)[0] == write.__name__.removeprefix("write_")
    found = load_sae(folder)
    expected = sae.forward(activations)
    got = found.forward(activations)
    torch.testing.assert_close(got.latents, expected.latents, rtol=1e-5, atol=1e-5)
    assert torch.equal(got.latents != 0, expected.latents != 0)
    torch.testing.assert_close(got.reconstruction, expected.reconstruction, rtol=1e-5, atol=1e-5)


def test_it_explains_the_activations(sae, activations):
    reconstruction = sae.reconstruct(activations)
    centred = activations - activations.mean(dim=0)
    assert float((activations - reconstruction).square().sum() / centred.square().sum()) < 0.25
