"""Pixel values by the model's own processor, and which part of a picture they show."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sae_features.backbones.pixels import (
    FloatProcessor,
    Pixels,
    check_large_enough,
    load_image_processor,
    resized_shape,
)
from sae_features.errors import CheckpointError, InvalidInputError

PLAIN = {
    "do_resize": True, "do_center_crop": False, "do_rescale": False, "do_normalize": False,
    "resample": 2, "size": {"height": 28, "width": 28},
}  # fmt: skip
SETTINGS = {
    "shortest edge, cropped": (
        "CLIPImageProcessor",
        {
            "size": {"shortest_edge": 28},
            "do_center_crop": True,
            "crop_size": {"height": 28, "width": 28},
        },
    ),
    "shortest edge, cropped to less": (
        "BitImageProcessor",
        {
            "size": {"shortest_edge": 32},
            "do_center_crop": True,
            "crop_size": {"height": 27, "width": 24},
        },
    ),
    "shortest edge": ("BitImageProcessor", {"size": {"shortest_edge": 28}}),
    "shortest and longest edge": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 28, "longest_edge": 40}},
    ),
    "height and width": ("ViTImageProcessor", {"size": {"height": 21, "width": 42}}),
    "as it is": ("BitImageProcessor", {"do_resize": False}),
    "as it is, cropped": (
        "BitImageProcessor",
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 30, "width": 31}},
    ),
    "a crop that is larger": (
        "CLIPImageProcessor",
        {
            "size": {"shortest_edge": 20},
            "do_center_crop": True,
            "crop_size": {"height": 41, "width": 42},
        },
    ),
}
"""Of real processors: CLIP, DINOv2, ViT and SigLIP; and some that nobody has but all may set."""
PICTURE_SIZES = ((60, 40), (33, 33), (31, 90), (120, 47))
"""Width and height."""


def write(folder, kind, **settings):
    content = {"image_processor_type": kind, **PLAIN, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def ramps(width, height):
    """Return a picture whose red says how far to the right a pixel is, green how far down, blue 255."""
    x = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    colours = np.stack([x, y, np.ones_like(x)], axis=2)
    return Image.fromarray((colours * 255).round().astype(np.uint8))


@pytest.mark.parametrize("size", PICTURE_SIZES, ids=str)
@pytest.mark.parametrize("name", SETTINGS)
class TestFrame:
    """Where pixels really look: coordinates as colours go through transformers' processor."""

    def test_it_says_where_every_pixel_looks(self, tmp_path, name, size):
        kind, settings = SETTINGS[name]
        pixels = Pixels.load(write(tmp_path, kind, **settings))
        (rows, columns), (left, top, right, bottom) = pixels.frame(size)
        values = pixels.values([ramps(*size)])
        assert values.shape == (1, 3, rows, columns)
        red, green, blue = values[0].numpy()
        # The middle of each pixel, in pixels of the picture.
        step_x, step_y = (right - left) / columns, (bottom - top) / rows
        x = left + (np.arange(columns) + 0.5) * step_x
        y = top + (np.arange(rows) + 0.5) * step_y
        seen_x, seen_y = (x > 0) & (x < size[0]), (y > 0) & (y < size[1])
        np.testing.assert_array_equal(blue > 0, seen_y[:, None] & seen_x[None, :])  # the rest is padding
        for coordinates, step, length, found in (
            (x, step_x, size[0], red[seen_y].mean(axis=0)),
            (y, step_y, size[1], green[:, seen_x].mean(axis=1)),
        ):
            inside = (coordinates > 1.5 * step) & (
                coordinates < length - 1.5 * step
            )  # edges are smeared
            assert inside.sum() >= 3
            where = found[inside] * length / 255
            # Colours are whole numbers, before and after.
            assert np.abs(where - coordinates[inside]).max() <= length / 255 + 0.1 * step

    def test_a_picture_of_another_size_is_cut_in_the_middle(self, tmp_path, name, size):
        kind, settings = SETTINGS[name]
        pixels = Pixels.load(write(tmp_path, kind, **settings))
        shape, (left, top, right, bottom) = pixels.frame(size)
        crop = settings.get("crop_size") if settings.get("do_center_crop") else None
        if crop is None:
            assert (left, top, right, bottom) == (0, 0, *size)
        else:
            assert shape == (crop["height"], crop["width"])
            half = 0.5 * max((right - left) / shape[1], (bottom - top) / shape[0]) + 1e-9
            assert abs((left + right - size[0]) / 2) <= half
            assert abs((top + bottom - size[1]) / 2) <= half


class TestResizedShape:
    @pytest.mark.parametrize(
        ("size", "shape", "expected"),
        [
            ({"height": 30, "width": 20}, (480, 640), (30, 20)),
            ({"shortest_edge": 256}, (480, 640), (256, 341)),
            ({"shortest_edge": 256}, (640, 480), (341, 256)),
            ({"shortest_edge": 256}, (100, 100), (256, 256)),
            ({"shortest_edge": 256, "longest_edge": None}, (480, 640), (256, 341)),
            ({"max_height": 60, "max_width": 60}, (480, 640), (45, 60)),
        ],
    )
    def test_by_literal_values(self, size, shape, expected):
        assert resized_shape(size, shape) == expected

    def test_only_transformers_5_looks_at_the_longest_edge(self):
        is_old = transformers.__version__.startswith("4.")
        found = resized_shape({"shortest_edge": 28, "longest_edge": 40}, (90, 31))
        assert found == ((81, 28) if is_old else (40, 14))

    @given(height=st.integers(1, 2000), width=st.integers(1, 2000), edge=st.integers(14, 600))
    def test_the_shortest_edge_is_exact_and_the_other_rounded_down(self, height, width, edge):
        short, long = min(height, width), max(height, width)
        found = resized_shape({"shortest_edge": edge}, (height, width))
        assert min(found) == edge
        assert max(found) == int(edge * long / short)
        assert (found[0] <= found[1]) == (height <= width) or height == width or found[0] == found[1]

    @pytest.mark.parametrize("size", [{}, {"longest_edge": 20}, {"height": 20}])
    def test_what_is_not_known(self, size):
        with pytest.raises(CheckpointError) as raised:
            resized_shape(size, (10, 10))
        assert str(raised.value) == (
            f"Got size={size} in preprocessor_config.json; expected height and width or shortest_edge."
        )


class TestLoading:
    def test_always_on_pillows_numerics(self, tmp_path):
        """Whatever else is installed: torchvision resizes otherwise."""
        processor = load_image_processor(write(tmp_path, "ViTImageProcessorFast"))
        assert type(processor).__name__ in {"ViTImageProcessor", "ViTImageProcessorPil"}
        picture = ramps(60, 40)
        found = Pixels(processor).values([picture])[0].numpy()
        expected = np.asarray(picture.resize((28, 28), Image.Resampling.BILINEAR), np.float32)
        np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))

    def test_rescale_and_normalize(self, tmp_path):
        mean, std = [0.5, 0.25, 0.75], [0.5, 0.25, 0.125]
        write(
            tmp_path, "ViTImageProcessor", do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
            image_mean=mean, image_std=std,
        )  # fmt: skip
        picture = np.random.default_rng(0).integers(0, 256, (28, 28, 3)).astype(np.uint8)
        found = Pixels.load(tmp_path).values([Image.fromarray(picture)])
        expected = (picture / 255 - mean) / std
        np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)

    def test_channels_are_last_even_where_a_picture_is_3_pixels_high(self, tmp_path):
        pixels = Pixels.load(write(tmp_path, "BitImageProcessor", do_resize=False))
        picture = np.random.default_rng(0).integers(0, 256, (3, 3, 3)).astype(np.uint8)
        found = pixels.values([Image.fromarray(picture)])
        np.testing.assert_array_equal(found[0], picture.transpose(2, 0, 1))

    def test_of_processor_config(self, tmp_path):
        """As newer folders of models of both kinds have it."""
        content = {"image_processor": {"image_processor_type": "DINOv3ViTImageProcessorFast"}}
        (tmp_path / "processor_config.json").write_text(json.dumps(content))
        assert isinstance(load_image_processor(tmp_path), FloatProcessor)

    def test_where_there_is_none(self, tmp_path):
        with pytest.raises(CheckpointError) as raised:
            load_image_processor(tmp_path)
        assert str(raised.value) == (
            f"{tmp_path} has no preprocessor_config.json; expected an image processor."
        )

    def test_a_damaged_one(self, tmp_path):
        path = tmp_path / "preprocessor_config.json"
        path.write_text("{")
        with pytest.raises(CheckpointError, match=f"^{path} is not JSON: "):
            load_image_processor(tmp_path)

    def test_one_that_transformers_does_not_have(self, tmp_path):
        with pytest.raises(CheckpointError, match=f"^The image processor in {tmp_path} could not be"):
            load_image_processor(write(tmp_path, "NoSuchProcessor"))


class TestValues:
    def test_pixels_of_another_shape_are_refused(self):
        pixels = Pixels(lambda images, **_: {"pixel_values": np.zeros((len(images), 2, 5, 5))})
        with pytest.raises(CheckpointError) as raised:
            pixels.values([ramps(5, 5)])
        assert str(raised.value) == (
            "The image processor gave pixels of shape (1, 2, 5, 5); expected (n, 3, h, w)."
        )

    def test_a_picture_without_room_for_a_patch(self):
        check_large_enough(1, 1, (14, 14), 3)
        with pytest.raises(InvalidInputError) as raised:
            check_large_enough(0, 2, (9, 28), 3)
        assert str(raised.value) == ("Item 3 comes out at 28 x 9 pixels; that is less than a patch.")


def triangle(t):
    return np.maximum(0, 1 - np.abs(t))


def cubic(t):
    """Keys' kernel with a = -0.5."""
    t = np.abs(t)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def resize_by_hand(x, length, kernel, support):
    """Resize the first axis: a weighted mean, with a kernel as wide as a pixel of the coarser grid."""
    scale = len(x) / length
    width = max(scale, 1)
    rows = []
    for i in range(length):
        centre = (i + 0.5) * scale
        places = np.arange(len(x)) + 0.5
        weights = np.where(
            np.abs(places - centre) <= support * width, kernel((places - centre) / width), 0
        )
        rows.append(np.tensordot(weights / weights.sum(), x, axes=1))
    return np.stack(rows)


class TestFloatProcessor:
    """DINOv3's: rescaled first, resized as floats with antialiasing, then normalised."""

    MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    @pytest.mark.parametrize(
        ("resample", "kernel", "support"), [(2, triangle, 1), (3, cubic, 2)], ids=["bilinear", "bicubic"]
    )
    @pytest.mark.parametrize("shape", [(40, 60), (33, 33), (12, 90), (9, 7)])
    def test_by_its_formula(self, resample, kernel, support, shape):
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
        processor = FloatProcessor({"size": {"height": 24, "width": 30}, "resample": resample})
        found = processor([Image.fromarray(picture)])["pixel_values"]
        assert (found.shape, found.dtype) == ((1, 3, 24, 30), np.float32)
        x = picture / 255
        x = resize_by_hand(x, 24, kernel, support)
        x = resize_by_hand(x.transpose(1, 0, 2), 30, kernel, support).transpose(1, 0, 2)
        expected = ((x - self.MEAN) / self.STD).transpose(2, 0, 1)
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)

    def test_what_is_not_said_is_as_in_dinov3(self):
        processor = FloatProcessor({})
        assert processor.size == {"height": 224, "width": 224}
        assert (processor.image_mean, processor.image_std) == (self.MEAN, self.STD)
        assert (processor.mode, processor.rescale_factor) == ("bilinear", 1 / 255)
        assert FloatProcessor({"size": None, "resample": None}).mode == "bilinear"

    def test_steps_can_be_left_out(self):
        picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
        off = {"do_resize": False, "do_rescale": False, "do_normalize": False}
        found = FloatProcessor(off)([Image.fromarray(picture)])["pixel_values"]
        np.testing.assert_array_equal(found[0], picture.transpose(2, 0, 1))

    @pytest.mark.parametrize(
        ("declared", "shown"),
        [
            ({"resample": 1}, "resample=1, do_center_crop=False"),
            ({"do_center_crop": True}, "resample=2, do_center_crop=True"),
        ],
    )
    def test_what_it_cannot_do(self, declared, shown):
        with pytest.raises(CheckpointError) as raised:
            FloatProcessor(declared)
        assert str(raised.value) == (
            f"Got {shown} in preprocessor_config.json; expected 2 (bilinear) or 3 (bicubic), "
            "and no crop."
        )

    def test_frames_are_as_its_pixels(self, tmp_path):
        write(tmp_path, "DINOv3ViTImageProcessorFast", size={"height": 24, "width": 30})
        pixels = Pixels.load(tmp_path)
        assert pixels.frame((60, 40)) == ((24, 30), (0, 0, 60, 40))
        assert torch.is_tensor(pixels.values([ramps(60, 40)]))
        assert pixels.values([ramps(60, 40), ramps(9, 9)]).shape == (2, 3, 24, 30)
