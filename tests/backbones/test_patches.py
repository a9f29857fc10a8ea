"""Images for a vision model: patches in a grid, by where they really look."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sae_features.architectures import Architecture, Patches
from sae_features.backbones.backbone import Backbone
from sae_features.backbones.patches import PatchInput
from sae_features.backbones.pixels import Pixels
from sae_features.backbones.tokens import TokenPolicy
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.images import check_images
from sae_features.testing import write_tiny

VIT = Architecture("vit", (Patches(),), final_norm=False)
CONTENT, ALL = TokenPolicy(1), TokenPolicy(1, tokens="all")


def write(folder, **settings):
    content = {
        "image_processor_type": "BitImageProcessor", "do_resize": True, "do_center_crop": False,
        "do_rescale": False, "do_normalize": False, "resample": 2, "size": {"height": 28, "width": 28},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(content | settings))
    return Pixels.load(folder)


def reader_of(pixels, *, patch_size=(7, 7), n_prefix=1, image_size=(28, 28)):
    return PatchInput(pixels, patch_size=patch_size, n_prefix=n_prefix, image_size=image_size)


def ramps(width, height):
    """Return a picture whose red says how far to the right a pixel is, and green how far down."""
    x = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    colours = np.stack([x, y, np.ones_like(x)], axis=2)
    return (colours * 255).round().astype(np.uint8)


class TestGrid:
    @pytest.mark.parametrize("size", [(60, 40), (33, 33), (31, 90), (120, 47)], ids=str)
    @pytest.mark.parametrize("patch_size", [(7, 7), (5, 6)], ids=str)
    @pytest.mark.parametrize(
        "settings",
        [
            {"size": {"height": 28, "width": 28}},
            {"size": {"height": 33, "width": 46}},
            {"size": {"shortest_edge": 28}},
            {"do_resize": False},
            {
                "size": {"shortest_edge": 32},
                "do_center_crop": True,
                "crop_size": {"height": 28, "width": 30},
            },
        ],
        ids=["square", "with a rest", "shortest edge", "as it is", "cropped"],
    )
    def test_every_patch_looks_where_the_grid_says(self, tmp_path, settings, patch_size, size):
        """Its mean colour is the coordinate of its middle."""
        reader = reader_of(write(tmp_path, **settings), patch_size=patch_size)
        windows = reader.windows(check_images([ramps(*size)]), CONTENT)
        (grid,) = windows.grids
        values = reader.model_inputs(windows, np.array([0]), None)["pixel_values"][0]
        height, width = patch_size
        used = values[:2, : grid.rows * height, : grid.columns * width]
        assert values.shape[1] - used.shape[1] < height  # no patch more would fit
        assert values.shape[2] - used.shape[2] < width
        means = used.reshape(2, grid.rows, height, grid.columns, width).mean(dim=(2, 4)) / 255
        left, top, right, bottom = grid.box
        x = left + (np.arange(grid.columns) + 0.5) * (right - left) / grid.columns
        y = top + (np.arange(grid.rows) + 0.5) * (bottom - top) / grid.rows
        assert np.abs(means[0].numpy() * size[0] - x).max() <= size[0] / 255
        assert np.abs(means[1].numpy() * size[1] - y[:, None]).max() <= size[1] / 255
        assert windows.counts.tolist() == [grid.rows * grid.columns]

    def test_patches_lie_in_rows_as_the_model_embeds_them(self, tmp_path):
        folder = write_tiny(VIT, tmp_path)
        backbone = Backbone.load(folder, VIT, device="cpu", dtype="float32")
        dark = np.zeros((28, 28, 3), np.uint8)
        plain = backbone.activations([dark], layer=0, site="resid_pre")
        for row, column in ((0, 0), (0, 3), (2, 1)):
            marked = dark.copy()
            marked[row * 7 : row * 7 + 7, column * 7 : column * 7 + 7] = 255
            acts = backbone.activations([marked], layer=0, site="resid_pre")
            changed = acts.grids[0].map(np.abs(acts.values - plain.values).max(axis=1))
            assert np.argwhere(changed > 0.1).tolist() == [[row, column]]

    def test_a_picture_without_room_for_a_patch_names_its_item(self, tmp_path):
        reader = reader_of(write(tmp_path, do_resize=False))
        pictures = check_images([np.zeros((20, 20, 3), np.uint8), np.zeros((20, 6, 3), np.uint8)])
        with pytest.raises(InvalidInputError) as raised:
            reader.windows(pictures, CONTENT)
        assert str(raised.value) == ("Item 1 comes out at 6 x 20 pixels; that is less than a patch.")


class TestWindows:
    @pytest.mark.parametrize("n_prefix", [0, 1, 5])
    def test_what_stands_ahead_counts_only_where_all_tokens_do(self, tmp_path, n_prefix):
        reader = reader_of(write(tmp_path), n_prefix=n_prefix)
        pictures = check_images([ramps(60, 40), ramps(31, 90)])
        content, everything = (reader.windows(pictures, policy) for policy in (CONTENT, ALL))
        for windows in (content, everything):
            assert (len(windows), windows.items, windows.modality) == (2, [0, 1], "image")
            assert windows.lengths.tolist() == [n_prefix + 16] * 2
        assert content.counts.tolist() == [16, 16]
        assert content.counted[0][n_prefix:].all()
        assert everything.counts.tolist() == [n_prefix + 16] * 2

    def test_only_headers_are_read(self, tmp_path, monkeypatch):
        path = tmp_path / "picture.png"
        Image.fromarray(ramps(60, 40)).save(path)
        reader = reader_of(write(tmp_path))

        def fail(_self):
            raise AssertionError("a picture was decoded")

        Image.init()  # which makes pictures of its own
        monkeypatch.setattr(Image.Image, "load", fail)
        assert reader.windows(check_images([path]), CONTENT).grids[0].box == (0, 0, 60, 40)

    def test_pictures_run_together_where_their_grids_are_equal(self, tmp_path):
        reader = reader_of(write(tmp_path, size={"shortest_edge": 28}))
        pictures = check_images([ramps(60, 40), ramps(62, 41), ramps(40, 60)])
        windows = reader.windows(pictures, CONTENT)
        shapes = [reader.shape(windows, window) for window in range(3)]
        assert shapes == [(4, 6), (4, 6), (6, 4)]

    def test_a_prompt_is_refused(self, tmp_path):
        with pytest.raises(InvalidParameterError) as raised:
            reader_of(write(tmp_path)).windows([], TokenPolicy(1, prompt="see {}"))
        assert str(raised.value) == ("Got prompt='see {}'; this model takes images alone: leave it out.")

    @pytest.mark.parametrize("positions", [None, [7, 8]])
    def test_damaged_files_name_their_items(self, tmp_path, positions):
        path = tmp_path / "picture.png"
        Image.fromarray(ramps(60, 40)).save(path)
        path.write_bytes(path.read_bytes()[:-60])
        reader = reader_of(write(tmp_path))
        windows = reader.windows(check_images([ramps(9, 9), path]), CONTENT)
        position = 1 if positions is None else 8
        with pytest.raises(
            InvalidInputError, match=f"^Item {position}: The file 'picture.png' is damaged"
        ):
            reader.model_inputs(windows, np.array([0, 1]), positions)

    def test_what_is_no_picture_names_its_item_before_anything_runs(self, tmp_path):
        path = tmp_path / "notes.png"
        path.write_text("notes")
        reader = reader_of(write(tmp_path))
        pictures = check_images([ramps(9, 9), path])
        for positions, position in ((None, 1), ([2, 7], 7)):
            with pytest.raises(
                InvalidInputError, match=f"^Item {position}: The file 'notes.png' is not a picture"
            ):
                reader.windows(pictures, CONTENT, positions)


class TestInterpolation:
    class Plain(torch.nn.Module):
        def forward(self, pixel_values):
            """Take no other size."""

    class Interpolating(torch.nn.Module):
        def forward(self, pixel_values, interpolate_pos_encoding=False):
            """Take any size."""

    @pytest.mark.parametrize(
        ("model", "image_size", "asks"),
        [
            (Plain(), (28, 28), False),
            (Plain(), (14, 14), False),
            (Interpolating(), (28, 28), False),
            (Interpolating(), (14, 14), True),
            (Interpolating(), (28, 14), True),
        ],
    )
    def test_it_is_asked_for_where_sizes_differ_and_the_model_can(
        self, tmp_path, model, image_size, asks
    ):
        reader = reader_of(write(tmp_path), image_size=image_size)
        reader.adapt(model)
        windows = reader.windows(check_images([ramps(60, 40)]), CONTENT)
        inputs = reader.model_inputs(windows, np.array([0]), None)
        assert inputs.get("interpolate_pos_encoding", False) is asks


@pytest.mark.parametrize(
    ("declared", "config", "n_prefix"),
    [
        (Patches(), {}, 1),
        (Patches(class_token=False), {}, 0),
        (Patches(), {"num_register_tokens": 4}, 5),
        (Patches(), {"num_register_tokens": None}, 1),
        (Patches(registers="n_extra", class_token=False), {"n_extra": 3}, 3),
    ],
)
def test_how_many_tokens_stand_ahead(tmp_path, declared, config, n_prefix):
    write(tmp_path)
    sizes = type("Config", (), {"patch_size": 7, "image_size": [28, 14], **config})()
    reader = PatchInput.load(tmp_path, declared, VIT, sizes)
    assert reader.n_prefix == n_prefix
    assert (reader.patch_size, reader.image_size) == ((7, 7), (28, 14))
    whole = type("Config", (), {"vision_config": sizes})()
    of_tower = PatchInput.load(tmp_path, declared, Architecture("clip", config="vision_config"), whole)
    assert of_tower.n_prefix == n_prefix
