from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.base import clone

from sae_features.evaluation.pictures import PixelRows


def test_rows_are_pixels_from_0_to_1(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(colours).save(path)
    expected = colours.astype(np.float32).ravel() / 255
    found = PixelRows(8).fit_transform([path, colours, Image.fromarray(colours)])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [expected] * 3)


def test_images_are_scaled_and_grey_ones_have_three_equal_channels():
    grey = np.array([[0, 255], [255, 0]], np.uint8)
    rows = clone(PixelRows(4)).transform([grey, np.full((20, 9, 3), 51, np.uint8)])
    pixels = rows[0].reshape(4, 4, 3)
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    scaled = Image.fromarray(grey).resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(scaled, np.float32) / 255)
    np.testing.assert_array_equal(rows[1], np.full(48, 0.2, np.float32))
