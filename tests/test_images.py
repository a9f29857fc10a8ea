"""Pictures of every kind become upright RGB pictures, and what is no picture is refused by name."""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sae_features import images
from sae_features.errors import InputTypeError, InvalidInputError, MissingDependencyError
from sae_features.images import FORMATS, MAX_PIXELS, PatchGrid, check_images, overlay

PIL = pytest.importorskip("PIL")
from PIL import Image, ImageOps, features  # noqa: E402

WIDTH, HEIGHT = 6, 4
EXPECTED = "a path, a PIL image, or a uint8 array of shape (height, width) or (height, width, 3)"
TURNED_BY_HAND = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}
"""By EXIF orientation: how a camera stores an upright picture (6: to be turned clockwise)."""


@pytest.fixture
def pixels():
    """An RGB picture, 6 wide and 4 high, in which no two pixels are alike."""
    return (
        np.random.default_rng(0)
        .permutation(256)[: HEIGHT * WIDTH * 3]
        .astype(np.uint8)
        .reshape(HEIGHT, WIDTH, 3)
    )


def opened(source):
    """Pixels of one item, opened."""
    (picture,) = check_images([source])
    upright = picture.open()
    assert upright.mode == "RGB"
    assert upright.size == picture.size
    return np.asarray(upright)


def refused(source, error, message):
    """What is given is refused, at once or when it is opened, with these words."""
    with pytest.raises(error) as raised:
        opened(source)
    assert re.fullmatch(message, str(raised.value)), raised.value


def exif(orientation):
    tags = Image.Exif()
    tags[images.ORIENTATION] = orientation
    return tags


class TestWhatIsTaken:
    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_path(self, pixels, tmp_path, kind):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(opened(kind(tmp_path / "a.png")), pixels)

    def test_a_path_in_the_home(self, pixels, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(opened("~/a.png"), pixels)

    def test_a_picture_of_pillow_stays_as_it_is_and_open(self, pixels):
        given_picture = Image.fromarray(pixels)
        for _ in range(2):
            np.testing.assert_array_equal(opened(given_picture), pixels)

    def test_a_picture_of_pillow_that_is_a_file(self, pixels, tmp_path):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as given_picture:
            for _ in range(2):
                np.testing.assert_array_equal(opened(given_picture), pixels)

    def test_arrays(self, pixels):
        np.testing.assert_array_equal(opened(pixels), pixels)
        grey = pixels[:, :, 0]
        for array in (grey, grey[:, :, None]):
            np.testing.assert_array_equal(opened(array), np.stack([grey] * 3, axis=2))

    def test_a_fourth_channel_is_how_opaque_a_pixel_is(self, pixels):
        alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        np.testing.assert_array_equal(opened(np.concatenate([pixels, alpha], axis=2)), pixels)
        alpha[1:] = 0
        cut = opened(np.concatenate([pixels, alpha], axis=2))
        np.testing.assert_array_equal(cut[0], pixels[0])
        assert (cut[1:] == 255).all()

    def test_arrays_that_are_not_contiguous_or_read_only(self, pixels):
        pixels.flags.writeable = False
        for array in (pixels[::-1, ::2], pixels.transpose(1, 0, 2), np.asfortranarray(pixels)):
            np.testing.assert_array_equal(opened(array), array)

    @pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (3, 4), (4, 3)])
    def test_small_arrays_are_read_as_height_and_width(self, size):
        array = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)
        np.testing.assert_array_equal(opened(array)[:, :, 1], array)

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
    def test_files_without_loss(self, pixels, tmp_path, kind):
        options = {"lossless": True} if kind == "WEBP" else {}
        Image.fromarray(pixels).save(tmp_path / "picture", kind, **options)
        np.testing.assert_array_equal(opened(tmp_path / "picture"), pixels)

    def test_a_jpeg_with_several_pictures(self, tmp_path):
        """As phones write them: MPO, which Pillow opens as JPEG."""
        first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
        first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
        with Image.open(tmp_path / "a.jpg") as stored:
            assert stored.format == "MPO"
        assert opened(tmp_path / "a.jpg")[8, 8, 0] > 240

    def test_the_first_frame_of_several(self, pixels, tmp_path):
        first, second = Image.fromarray(pixels[:, :, 0]), Image.fromarray(255 - pixels[:, :, 0])
        first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
        np.testing.assert_array_equal(opened(tmp_path / "a.gif")[:, :, 0], pixels[:, :, 0])

    @given(
        hnp.arrays(
            np.uint8,
            st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
                lambda shape: st.sampled_from([shape, (*shape, 1), (*shape, 3)])
            ),
        )
    )
    def test_any_array_keeps_its_values(self, array):
        shown = opened(array)
        assert shown.shape == (*array.shape[:2], 3)
        expected = array if array.ndim == 3 else array[:, :, None]
        np.testing.assert_array_equal(shown, np.broadcast_to(expected, shown.shape))


class TestColours:
    """Modes of Pillow, from a file and from memory."""

    @pytest.fixture(params=["memory", "file"])
    def shown(self, request, tmp_path):
        def show(picture, kind="PNG", **options):
            if request.param == "memory":
                return opened(picture)
            picture.save(tmp_path / "picture", kind, **options)
            return opened(tmp_path / "picture")

        return show

    def test_grey(self, shown, pixels):
        grey = pixels[:, :, 0]
        np.testing.assert_array_equal(shown(Image.fromarray(grey)), np.stack([grey] * 3, axis=2))

    def test_black_and_white(self, shown):
        bits = np.array([[True, False], [False, True]])
        expected = np.where(bits, 255, 0)
        np.testing.assert_array_equal(shown(Image.fromarray(bits))[:, :, 2], expected)

    def test_grey_with_transparency(self, shown):
        picture = Image.new("LA", (2, 1))
        picture.putdata([(40, 255), (40, 0)])
        assert shown(picture).tolist() == [[[40] * 3, [255] * 3]]

    def test_colours_with_transparency_lie_on_white(self, shown):
        picture = Image.new("RGBA", (3, 1))
        picture.putdata([(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)])
        opaque, transparent, fifth = shown(picture)[0].tolist()
        assert opaque == [200, 100, 0]
        assert transparent == [255, 255, 255]
        np.testing.assert_allclose(fifth, [244, 224, 204], atol=1)

    def test_a_palette(self, shown):
        picture = Image.new("P", (2, 1))
        picture.putpalette([10, 20, 30, 200, 100, 50])
        picture.putdata([0, 1])
        assert shown(picture).tolist() == [[[10, 20, 30], [200, 100, 50]]]

    def test_a_palette_with_a_transparent_entry(self, shown):
        picture = Image.new("P", (2, 1))
        picture.putpalette([10, 20, 30, 200, 100, 50])
        picture.putdata([0, 1])
        picture.info["transparency"] = 1
        assert shown(picture, transparency=1).tolist() == [[[10, 20, 30], [255, 255, 255]]]

    def test_one_colour_that_is_transparent(self, shown):
        picture = Image.new("RGB", (2, 1))
        picture.putdata([(1, 2, 3), (4, 5, 6)])
        picture.info["transparency"] = (4, 5, 6)
        assert shown(picture, transparency=(4, 5, 6)).tolist() == [[[1, 2, 3], [255, 255, 255]]]

    def test_inks(self, shown):
        picture = Image.new("CMYK", (2, 1))
        picture.putdata([(0, 0, 0, 0), (255, 0, 0, 0)])
        shown = shown(picture, "TIFF")[0].tolist()
        assert shown[0] == [255, 255, 255]
        assert shown[1][0] < 10
        assert min(shown[1][1:]) > 100

    def test_greys_of_16_bits_keep_their_upper_8(self, shown):
        values = np.array([[0, 255, 256, 0x80FF, 0xFFFF]], np.uint16)
        assert shown(Image.fromarray(values))[0, :, 0].tolist() == [0, 0, 1, 0x80, 0xFF]

    @pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
    def test_32_bits_have_no_natural_range(self, shown, mode, dtype):
        picture = Image.fromarray(np.array([[0, 70_000]], dtype))
        assert picture.mode == mode
        with pytest.raises(InvalidInputError) as raised:
            shown(picture, "TIFF")
        assert str(raised.value) == (
            f"Got a picture of mode {mode!r} (32-bit values without a natural range); expected 8 or 16 "
            "bits a channel. Scale it to uint8 first."
        )


class TestUpright:
    @pytest.mark.parametrize("kind", ["png", "tiff"])  # Pillow itself turns TIFFs, and no others
    @pytest.mark.parametrize("orientation", TURNED_BY_HAND)
    def test_a_file_is_turned_as_its_exif_data_say(self, pixels, tmp_path, orientation, kind):
        path = tmp_path / f"a.{kind}"
        stored = np.ascontiguousarray(TURNED_BY_HAND[orientation](pixels))
        Image.fromarray(stored).save(path, exif=exif(orientation))
        (picture,) = check_images([path])
        assert picture.size == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(opened(path), pixels)
        with Image.open(path) as in_memory:
            np.testing.assert_array_equal(opened(in_memory), pixels)  # not decoded before
            np.testing.assert_array_equal(opened(in_memory), pixels)  # decoded
            np.testing.assert_array_equal(opened(in_memory.copy()), pixels)

    @pytest.mark.parametrize("orientation", TURNED_BY_HAND)
    def test_a_photo_too(self, tmp_path, orientation):
        """JPEG with loss: a picture whose quarters can be told apart."""
        upright = np.zeros((32, 48, 3), np.uint8)
        upright[:16, :24], upright[:16, 24:], upright[16:, :24] = 250, (250, 0, 0), (0, 0, 250)
        stored = np.ascontiguousarray(TURNED_BY_HAND[orientation](upright))
        Image.fromarray(stored).save(
            tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif(orientation)
        )
        shown = opened(tmp_path / "a.jpg").astype(int)
        assert np.abs(shown - upright).mean() < 4

    def test_a_picture_in_memory_is_turned_as_a_file_is(self, pixels, tmp_path):
        stored = np.ascontiguousarray(TURNED_BY_HAND[6](pixels))
        Image.fromarray(stored).save(tmp_path / "a.png", exif=exif(6))
        with Image.open(tmp_path / "a.png") as picture:
            np.testing.assert_array_equal(opened(picture), pixels)
            assert picture.size == (HEIGHT, WIDTH)  # what was given is as it was

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_orientation_that_does_not_exist(self, pixels, tmp_path, orientation):
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif(orientation))
        np.testing.assert_array_equal(opened(tmp_path / "a.png"), pixels)


class TestFilesThatAreNoPictures:
    def test_a_text(self, tmp_path):
        (tmp_path / "a.jpg").write_text("a calm sea")
        refused(
            tmp_path / "a.jpg",
            InvalidInputError,
            re.escape(f"The file 'a.jpg' is not a picture; expected one of {', '.join(FORMATS)}."),
        )

    def test_nothing_at_all(self, tmp_path):
        (tmp_path / "a.png").touch()
        refused(tmp_path / "a.png", InvalidInputError, "The file 'a.png' is not a picture; .*")

    def test_postscript_is_refused_and_no_program_is_run(self, pixels, tmp_path, monkeypatch):
        for name in ("a.eps", "a.png"):
            Image.fromarray(pixels).save(tmp_path / name, "EPS")
        ran = []
        for function in ("Popen", "run", "call", "check_call", "check_output"):
            monkeypatch.setattr(subprocess, function, lambda *args, **_: ran.append(args))
        for name in ("a.eps", "a.png"):
            (picture,) = check_images([tmp_path / name])
            for read in (picture.open, lambda picture=picture: picture.size):
                with pytest.raises(InvalidInputError, match=f"^The file '{name}' is not a picture;"):
                    read()
        assert ran == []

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
    @pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
    def test_a_truncated_file(self, tmp_path, kind, share):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "whole", kind)
        content = (tmp_path / "whole").read_bytes()
        (tmp_path / "part").write_bytes(content[: int(share * len(content))])
        refused(
            tmp_path / "part",
            InvalidInputError,
            "The file 'part' (is damaged: .*|cannot be opened: .*|is not a picture; .*)",
        )

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of EXIF data
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF"])
    def test_damage_anywhere_ends_in_an_error_of_ours_or_a_picture(self, tmp_path, kind):
        if kind == "AVIF" and not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(noise).save(
            tmp_path / "whole", kind, **({"exif": exif(6)} if kind == "PNG" else {})
        )
        content = (tmp_path / "whole").read_bytes()
        draw, messages = np.random.default_rng(1), []
        for _ in range(150):
            spoilt = bytearray(content)
            for position in draw.integers(0, min(len(content), 200), 4):
                spoilt[position] = draw.integers(0, 256)
            (tmp_path / "spoilt").write_bytes(spoilt)
            try:
                opened(tmp_path / "spoilt")
            except InvalidInputError as error:
                messages.append(str(error))
        assert all("'spoilt'" in message or "mode" in message for message in messages)

    def test_a_missing_file(self, tmp_path):
        refused(
            tmp_path / "a.png",
            InvalidInputError,
            re.escape(f"Got {str(tmp_path / 'a.png')!r} as item 0; expected a file there."),
        )
        with pytest.raises(
            InvalidInputError, match=r"'missing\.png' as item 1; expected a file there\.$"
        ):
            check_images([np.zeros((2, 2), np.uint8), "missing.png"])

    def test_a_folder(self, tmp_path):
        refused(tmp_path, InvalidInputError, r"Got '.*' as item 0; expected a file there\.")

    def test_a_text_for_a_model_of_images(self):
        refused(
            "a calm sea",
            InvalidInputError,
            "Got 'a calm sea' as item 0; expected a file there. This model takes images; texts need a "
            "text model.",
        )

    @pytest.mark.parametrize(
        "text", ["a calm sea. It was", "x" * 5000, "a\0b", "", "~", "~no body", "line\nline"]
    )
    def test_texts_that_could_be_no_path(self, text):
        refused(text, InvalidInputError, r"(?s)Got '.*' as item 0; expected a file there\..*")


class TestSize:
    def test_a_header_that_says_too_much_is_refused_before_anything_is_decoded(self, tmp_path):
        def chunk(kind, content):
            checksum = zlib.crc32(kind + content)
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        (tmp_path / "bomb.png").write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(bytes(1000)))
            + chunk(b"IEND", b"")
        )
        (picture,) = check_images([tmp_path / "bomb.png"])
        for read in (picture.open, lambda: picture.size):
            with pytest.raises(InvalidInputError, match="^The file 'bomb.png' is too large: "):
                read()

    def test_at_most_80_million_pixels(self, tmp_path, monkeypatch):
        assert MAX_PIXELS == 80_000_000
        monkeypatch.setattr(images, "MAX_PIXELS", 23)
        array = np.zeros((4, 6), np.uint8)
        Image.fromarray(array).save(tmp_path / "a.png")
        for source, named in (
            (tmp_path / "a.png", "The file 'a.png'"),
            (Image.fromarray(array), "The picture"),
            (array, "The array"),
        ):
            refused(
                source,
                InvalidInputError,
                f"{named} has 6 x 4 pixels; expected at most 23 in all. Scale it down first.",
            )
        monkeypatch.setattr(images, "MAX_PIXELS", 24)
        assert opened(array).shape == (4, 6, 3)

    def test_what_pillow_itself_takes_for_too_large(self, tmp_path, monkeypatch):
        """It warns from its limit on, which is no news here, and raises from twice of it on."""
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        assert check_images([tmp_path / "a.png"])[0].size == (6, 4)  # a warning would be an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        refused(tmp_path / "a.png", InvalidInputError, "The file 'a.png' is too large: .*")

    def test_of_a_file_only_the_header_is_read(self, tmp_path):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.bmp")
        content = (tmp_path / "a.bmp").read_bytes()
        (tmp_path / "a.bmp").write_bytes(content[:60])
        (picture,) = check_images([tmp_path / "a.bmp"])
        assert picture.size == (60, 40)
        with pytest.raises(InvalidInputError, match="^The file 'a.bmp' is damaged: "):
            picture.open()


class TestItemsThatAreNoImages:
    @pytest.mark.parametrize(
        ("dtype", "hint"),
        [("float32", " Multiply by 255 and round."), ("float64", " Multiply by 255 and round."),
         ("int64", ""), ("uint16", ""), ("bool", "")],
    )  # fmt: skip
    def test_arrays_of_another_type(self, dtype, hint):
        refused(
            np.zeros((4, 4, 3), dtype),
            InvalidInputError,
            re.escape(f"Got an array of {dtype} as item 0; expected uint8, 0 to 255.{hint}"),
        )

    @pytest.mark.parametrize(
        "shape",
        [(), (3,), (3, 4, 2), (3, 4, 5), (3, 16, 16), (1, 4, 4, 3), (0, 4, 3), (4, 0), (4, 4, 0)],
    )
    def test_arrays_of_another_shape(self, shape):
        refused(
            np.zeros(shape, np.uint8),
            InvalidInputError,
            re.escape(f"Got an array of shape {shape} as item 0; expected {EXPECTED}."),
        )

    @pytest.mark.parametrize("item", [3, 2.5, b"bytes", [1, 2], {"a": 1}, object()])
    def test_other_types(self, item):
        message = f"Got {type(item).__name__} as item 1; expected {EXPECTED}."
        with pytest.raises(InputTypeError, match=f"^{re.escape(message)}$"):
            check_images([np.zeros((2, 2), np.uint8), item])


class TestDigests:
    def test_of_a_file_it_is_of_its_bytes(self, pixels, tmp_path):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        (tmp_path / "b.dat").write_bytes((tmp_path / "a.png").read_bytes())
        Image.fromarray(pixels).save(tmp_path / "c.bmp")
        one, same, other = check_images([tmp_path / name for name in ("a.png", "b.dat", "c.bmp")])
        content = (tmp_path / "a.png").read_bytes()
        tag = hashlib.sha256(hashlib.sha256(b"").digest()).digest()
        assert one.digest != tag
        assert one.digest == same.digest == hashlib.sha256(b"image\0" + content).digest()
        assert one.digest != other.digest

    def test_in_memory_it_is_of_the_upright_pixels(self, pixels):
        grey = pixels[:, :, 0]
        turned = Image.fromarray(np.ascontiguousarray(TURNED_BY_HAND[6](pixels)))
        turned.getexif()[images.ORIENTATION] = 6
        coloured = [pixels, pixels.copy(), Image.fromarray(pixels), np.asfortranarray(pixels), turned]
        greys = [grey, grey[:, :, None], np.stack([grey] * 3, axis=2), Image.fromarray(grey)]
        one, other = ({picture.digest for picture in check_images(each)} for each in (coloured, greys))
        assert len(one) == len(other) == 1
        assert one != other

    def test_any_other_pixel_or_shape_is_another_picture(self, pixels):
        changed = pixels.copy()
        changed[-1, -1, -1] ^= 1
        sources = [pixels, changed, pixels[:, ::-1], pixels.reshape(WIDTH, HEIGHT, 3),
                   pixels[:-1], pixels.transpose(1, 0, 2)]  # fmt: skip
        assert len({picture.digest for picture in check_images(sources)}) == len(sources)

    def test_a_picture_is_no_text(self, tmp_path):
        from sae_features.items import text_digest

        (tmp_path / "a.png").write_bytes(b"abc")
        (picture,) = check_images([tmp_path / "a.png"])
        assert picture.digest != text_digest("abc")


class TestPatchGrid:
    def test_values_lie_in_rows_from_the_top_left(self):
        grid = PatchGrid(2, 3, (0, 0, 30, 20))
        assert grid.map(range(6)).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert grid.map(np.arange(6, dtype=np.float32)).dtype == np.float32

    @pytest.mark.parametrize("shape", [(5,), (7,), (2, 3), (6, 1), ()])
    def test_one_value_a_patch(self, shape):
        with pytest.raises(InvalidInputError) as raised:
            PatchGrid(2, 3, (0, 0, 30, 20)).map(np.zeros(shape))
        assert str(raised.value) == (
            f"Got values of shape {shape}; expected (6,), one per patch: those of the content tokens of "
            "one image."
        )


class TestOverlay:
    grey = np.full((40, 60, 3), 128, np.uint8)

    @staticmethod
    def redness(picture):
        """How much red there is beyond the other colours, of each pixel."""
        values = np.asarray(picture).astype(int)
        return values[:, :, 0] - values[:, :, 1:].max(axis=2)

    def test_the_hottest_patch_is_the_reddest_where_the_grid_is_part_of_the_picture(self):
        grid = PatchGrid(2, 3, (10, 0, 50, 40))  # patches 13.3 wide and 20 high
        drawn = overlay(self.grey, [0, 1, 2, 3, 8, 4], grid)
        assert (drawn.mode, drawn.size) == ("RGB", (60, 40))
        red = self.redness(drawn)
        patches = [
            [red[top + 2 : top + 18, left + 2 : left + 11].mean() for left in (10, 23, 37)]
            for top in (0, 20)
        ]
        assert np.argsort(np.ravel(patches)).tolist() == [0, 1, 2, 3, 5, 4]
        hottest = np.argwhere(red == red.max())
        assert hottest.min(axis=0).tolist() == [20, 23]
        assert hottest.max(axis=0).tolist() == [39, 36]
        assert patches[0][0] == 0
        assert (red[:, :10] == 0).all()
        assert (red[:, 50:] == 0).all()

    def test_what_no_patch_covers_is_dimmed(self):
        drawn = np.asarray(overlay(self.grey, [0, 0], PatchGrid(1, 2, (10, 0, 50, 40))))
        assert (drawn[:, 10:50] == 128).all()
        assert (drawn[:, :10] > 160).all()
        assert (drawn[:, 50:] > 160).all()

    @pytest.mark.parametrize("values", [[[1, -5], [0, 3]], [1, -5, 0, 3], np.array([1, 0, 0, 3.0])])
    def test_a_map_a_list_and_negative_values(self, values):
        grid = PatchGrid(2, 2, (0, 0, 60, 40))
        drawn = overlay(self.grey, values, grid)
        np.testing.assert_array_equal(np.asarray(drawn), overlay(self.grey, [1, 0, 0, 3], grid))

    def test_a_latent_that_is_silent_leaves_the_picture_uncoloured(self):
        drawn = overlay(self.grey, [0] * 4, PatchGrid(2, 2, (0, 0, 60, 40)))
        assert (self.redness(drawn) == 0).all()

    def test_another_colour(self):
        drawn = overlay(self.grey, [1], PatchGrid(1, 1, (0, 0, 60, 40)), color=(0, 0, 255))
        assert (np.asarray(drawn)[:, :, 2] > np.asarray(drawn)[:, :, 0] + 100).all()

    def test_the_picture_is_upright(self, pixels, tmp_path):
        stored = np.ascontiguousarray(TURNED_BY_HAND[8](pixels))
        Image.fromarray(stored).save(tmp_path / "a.png", exif=exif(8))
        assert overlay(tmp_path / "a.png", [0], PatchGrid(1, 1, (0, 0, 6, 4))).size == (WIDTH, HEIGHT)

    def test_a_grid_that_reaches_beyond_the_picture(self):
        """Some processors crop more than there is and pad with black."""
        drawn = overlay(self.grey, [0, 0, 0, 1], PatchGrid(2, 2, (-10, -20, 70, 60)))
        assert drawn.size == (60, 40)
        red = self.redness(drawn)
        assert (red[20:, 30:] > 100).all()
        assert (red[:20] == 0).all()
        assert (red[:, :30] == 0).all()

    def test_one_value_a_patch(self):
        with pytest.raises(InvalidInputError, match="expected \\(4,\\), one per patch"):
            overlay(self.grey, [1, 2, 3], PatchGrid(2, 2, (0, 0, 60, 40)))


def test_without_pillow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError) as raised:
        check_images([np.zeros((2, 2), np.uint8)])
    assert str(raised.value) == 'Images need Pillow; install it: pip install "sae-features[images]"'


def test_orientations_are_turned_as_pillow_does(pixels):
    """The table above is by hand; this is what Pillow makes of it."""
    for orientation, turn in TURNED_BY_HAND.items():
        stored = Image.fromarray(np.ascontiguousarray(turn(pixels)))
        stored.getexif()[images.ORIENTATION] = orientation
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(stored)), pixels)


def test_pictures_side_by_side_share_a_scale():
    grid, picture = PatchGrid(1, 1, (0, 0, 8, 8)), np.full((8, 8), 100, np.uint8)
    weak, strong = (np.asarray(overlay(picture, [value], grid, vmax=4.0)) for value in (1.0, 9.0))
    own = np.asarray(overlay(picture, [1.0], grid))
    assert weak[0, 0, 0] < own[0, 0, 0] == strong[0, 0, 0]
