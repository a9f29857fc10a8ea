"""Embeddings and pixel values equal what the original libraries computed once.

The numbers are in ``tests/golden``; ``scripts/make_golden_inputs.py`` made them, with
sentence-transformers 6.2.0 and torchvision 0.29.1.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from sae_features import load_backbone
from sae_features.backbones.pixels import FloatProcessor
from sae_features.errors import SAEFeaturesWarning
from sae_features.packaged_assets import fetch

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
TOLERANCE = 1e-5


def load_script():
    path = ROOT / "scripts" / "make_golden_inputs.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script()


@pytest.fixture(scope="module")
def embeddings():
    return np.load(GOLDEN / "embeddings.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def pixels():
    return np.load(GOLDEN / "pixels.npz", allow_pickle=False)


@pytest.mark.parametrize(
    ("model", "name"), [("minilm", "minilm"), ("e5", "e5-small"), (fetch("e5-small"), "e5-small")]
)
def test_embeddings_equal_those_of_sentence_transformers(embeddings, model, name):
    texts = embeddings["texts"].tolist()
    assert texts == SCRIPT.TEXTS
    assert "" in texts
    backbone = load_backbone(model)
    with pytest.warns(SAEFeaturesWarning, match="1 of 8 texts are longer than"):
        found = backbone.activations(texts, site="embedding")
    assert np.array_equal(found.offsets, np.arange(len(texts) + 1))
    np.testing.assert_allclose(found.values, embeddings[name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", SCRIPT.SIZES, ids=str)
def test_pixels_of_dinov3_equal_those_of_torchvision(pixels, size):
    picture = PIL.Image.fromarray(SCRIPT.picture(*size))
    name = "{}x{}".format(*size)
    small = FloatProcessor(SCRIPT.DINOV3 | {"size": {"height": 28, "width": 28}})
    (found,) = small([picture])["pixel_values"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pixels[f"{name}/28"], rtol=0, atol=TOLERANCE)
    (usual,) = FloatProcessor(SCRIPT.DINOV3)([picture])["pixel_values"]
    assert usual.shape == (3, 224, 224)
    np.testing.assert_allclose(SCRIPT.summary(usual), pixels[f"{name}/224"], rtol=0, atol=TOLERANCE)


def test_the_golden_files_are_small():
    sizes = [(GOLDEN / name).stat().st_size for name in ("embeddings.npz", "pixels.npz")]
    assert sum(sizes) < 300_000
