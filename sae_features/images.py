"""The images in ``X``: paths, pictures and arrays, checked, as upright RGB pictures with digests."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from sae_features.errors import InputTypeError, InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

MAX_PIXELS: Final = 80_000_000
"""Larger pictures are refused before they are decoded."""
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Kinds of files that are opened: plain pictures, none that runs a program (as EPS does)."""
ORIENTATION: Final = 0x0112
"""EXIF's tag."""
IMAGE_WIDTH, IMAGE_LENGTH = 0x0100, 0x0101
"""TIFF's tags."""
SIDEWAYS: Final = frozenset({5, 6, 7, 8})
"""Orientations that exchange width and height."""
TURNS: Final = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
    7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
"""By orientation: what turns a picture upright."""
DAMAGE: Final = (OSError, SyntaxError, ValueError, EOFError, RuntimeError)
"""What Pillow raises for files that are damaged."""
EXPECTED: Final = "a path, a PIL image, or a uint8 array of shape (height, width) or (height, width, 3)"


class PatchGrid(NamedTuple):
    """Where the patches of a picture lie; its tokens stand in rows, from the top left.

    Examples
    --------
    >>> import numpy as np
    >>> PatchGrid(2, 3, (0, 0, 30, 20)).map(np.arange(6)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """

    rows: int
    """Patches from top to bottom."""
    columns: int
    """Patches from left to right."""
    box: tuple[float, float, float, float]
    """What part of the upright picture they cover, in its pixels: left, top, right, bottom."""

    def map(self, values: Any) -> np.ndarray:
        """Return one value per patch as an array of shape (rows, columns).

        Parameters
        ----------
        values : ndarray of shape (rows * columns,)
            Of the content tokens of one image, such as a column of ``acts[i]``.

        Raises
        ------
        InvalidInputError
            If there are more or fewer.
        """
        flat = np.asarray(values)
        if flat.shape != (self.rows * self.columns,):
            message = (
                f"Got values of shape {flat.shape}; expected ({self.rows * self.columns},), one per "
                "patch: those of the content tokens of one image."
            )
            raise InvalidInputError(message)
        return flat.reshape(self.rows, self.columns)


@dataclass(frozen=True, eq=False)
class Picture:
    """One image in ``X``; it is opened only where its pixels are needed.

    Attributes
    ----------
    source : Path, PIL.Image.Image or ndarray
        What came.
    """

    source: Any

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the file's bytes, or of the upright RGB pixels of what is in memory."""
        tag = hashlib.sha256(b"image\0")
        if isinstance(self.source, Path):
            with self.source.open("rb") as stream:
                while block := stream.read(1 << 20):
                    tag.update(block)
        else:
            pixels = np.asarray(self.open())
            tag.update(f"{pixels.shape}".encode() + b"\0" + pixels.tobytes())
        return tag.digest()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture, in pixels; of a file only its header is read.

        Raises
        ------
        InvalidInputError
            If it is no picture, or too large.
        """
        with self._raw() as picture:
            width, height = picture.size
            turned = _is_sideways(picture)
        return (height, width) if turned else (width, height)

    def open(self) -> Image:
        """Return the picture, turned upright as its EXIF data say, in RGB.

        Transparent parts become white; 16-bit greys become 8-bit ones; of several frames the first
        is taken.

        Raises
        ------
        InvalidInputError
            If it is damaged, too large, or of a kind that has no natural colours.
        """
        from PIL.Image import Transpose

        with self._raw() as picture:
            turn = None if picture.format == "TIFF" else TURNS.get(_orientation(picture))
            rgb = _to_rgb(picture)  # Pillow turns a TIFF when it decodes it
            return rgb if turn is None else rgb.transpose(Transpose[turn])

    @contextlib.contextmanager
    def _raw(self) -> Iterator[Image]:
        """Give the picture as it is; of a file nothing but the header has been read."""
        with contextlib.ExitStack() as files:
            if isinstance(self.source, np.ndarray):
                picture = _from_array(self.source)
            elif isinstance(self.source, Path):
                picture = self._open_file(files)
            else:
                picture = self.source
            _check_size(picture.size, self._named())
            try:
                yield picture
            except InvalidInputError:
                raise
            except DAMAGE as error:
                raise InvalidInputError(f"{self._named()} is damaged: {error}.") from error

    def _open_file(self, files: contextlib.ExitStack) -> Image:
        from PIL import Image, UnidentifiedImageError

        Image.init()
        known: Any = [kind for kind in FORMATS if kind in Image.OPEN]  # old versions know no AVIF
        try:
            stream = files.enter_context(self.source.open("rb"))
            with warnings.catch_warnings():  # our own limit is lower than the one that it warns of
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return Image.open(stream, formats=known)
        except Image.DecompressionBombError as error:
            raise InvalidInputError(f"{self._named()} is too large: {error}") from error
        except UnidentifiedImageError as error:
            message = f"{self._named()} is not a picture; expected one of {', '.join(FORMATS)}."
            raise InvalidInputError(message) from error
        except DAMAGE as error:
            raise InvalidInputError(f"{self._named()} cannot be opened: {error}.") from error

    def _named(self) -> str:
        if isinstance(self.source, np.ndarray):
            return "The array"
        return f"The file {self.source.name!r}" if isinstance(self.source, Path) else "The picture"


def check_images(items: list[Any], first: int = 0) -> list[Picture]:
    """Return the images in a list as pictures, or say which item is not one.

    Nothing is decoded; a file must be there.

    Parameters
    ----------
    items : list
        Paths, PIL images, or uint8 arrays of shape (height, width), (height, width, 1),
        (height, width, 3) or (height, width, 4).
    first : int, default=0
        What messages call the first item.

    Raises
    ------
    InputTypeError
        If an item is nothing of that kind.
    InvalidInputError
        If a file is missing, or an array has another shape or type.
    MissingDependencyError
        If Pillow is not installed.
    """
    import_pillow()
    return [_check_image(item, position) for position, item in enumerate(items, first)]


def import_pillow() -> Any:
    """Return ``PIL.Image``, or say how to install it."""
    try:
        from PIL import Image
    except ImportError as error:
        message = 'Images need Pillow; install it: pip install "sae-features[images]"'
        raise MissingDependencyError(message) from error
    return Image


def overlay(
    image: Any,
    values: Any,
    grid: PatchGrid,
    *,
    vmax: float | None = None,
    color: tuple[int, int, int] = (255, 40, 0),
) -> Image:
    """Draw how strongly something fires onto the picture that it was read from.

    Parameters
    ----------
    image : path, PIL image or ndarray
        As in ``X``.
    values : ndarray of shape (rows * columns,) or (rows, columns)
        One per patch, such as those of one latent; negative ones count as 0.
    grid : PatchGrid
        From ``acts.grids[i]``.
    vmax : float, optional
        The value that is drawn in full colour; the picture's own largest if not given.  Give the same
        for several pictures that are looked at side by side.
    color : tuple of int, default=(255, 40, 0)
        Red, green, blue, at ``vmax``.

    Returns
    -------
    PIL.Image.Image
        The upright picture; what no patch covers is whitened.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_features.images import PatchGrid, overlay
    >>> overlay(np.zeros((20, 30, 3), np.uint8), [0, 1, 2, 3], PatchGrid(2, 2, (0, 0, 30, 20))).size
    (30, 20)
    """
    Image = import_pillow()
    (picture,) = check_images([image])
    upright = picture.open()
    strengths = np.maximum(grid.map(np.asarray(values, np.float64).reshape(-1)), 0)
    largest = strengths.max() if vmax is None else vmax
    share = np.minimum(strengths / max(largest, np.finfo(np.float64).tiny), 1)
    left, top, right, bottom = (round(edge) for edge in grid.box)
    size = (max(1, right - left), max(1, bottom - top))
    alpha = Image.fromarray((share * 190).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    grey = Image.blend(upright, upright.convert("L").convert("RGB"), 0.6)
    drawn = Image.blend(grey, Image.new("RGB", upright.size, (255, 255, 255)), 0.5)
    covered = grey.crop((left, top, left + size[0], top + size[1]))
    covered.paste(Image.new("RGB", size, color), (0, 0), alpha)
    drawn.paste(covered, (left, top))
    return drawn


def _check_image(item: Any, position: int) -> Picture:
    if isinstance(item, str | PurePath):
        path = _existing_file(item)
        if path is None:
            message = f"Got {str(item)!r} as item {position}; expected a file there."
            if isinstance(item, str) and not PurePath(item).suffix:
                message += " This model takes images; texts need a text model."
            raise InvalidInputError(message)
        return Picture(path)
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8:
            hint = " Multiply by 255 and round." if item.dtype.kind == "f" else ""
            message = f"Got an array of {item.dtype} as item {position}; expected uint8, 0 to 255.{hint}"
            raise InvalidInputError(message)
        is_picture = item.ndim == 2 or (item.ndim == 3 and item.shape[2] in {1, 3, 4})
        if not is_picture or 0 in item.shape:
            message = f"Got an array of shape {item.shape} as item {position}; expected {EXPECTED}."
            raise InvalidInputError(message)
        return Picture(item)
    if type(item).__module__.partition(".")[0] == "PIL":
        return Picture(item)
    raise InputTypeError(f"Got {type(item).__name__} as item {position}; expected {EXPECTED}.")


def _existing_file(item: str | PurePath) -> Path | None:
    """Return the path of a file; None if there is none, or the text could be no path."""
    try:
        path = Path(item).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, a home of nobody, a NUL
        return None


def _check_size(size: tuple[int, int], named: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        message = (
            f"{named} has {size[0]:,} x {size[1]:,} pixels; expected at most {MAX_PIXELS:,} in all. "
            "Scale it down first."
        )
        raise InvalidInputError(message)


def _from_array(array: np.ndarray) -> Image:
    from PIL import Image

    flat = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(flat))


def _orientation(picture: Image) -> int:
    """Return how a picture is turned, by what stands ahead of its pixels."""
    from PIL import Image

    # Pillow decodes a whole PNG to look for EXIF data behind its pixels.
    is_png = picture.format == "PNG"
    exif = Image.Image.getexif(picture) if is_png else picture.getexif()
    return int(exif.get(ORIENTATION, 1))


def _is_sideways(picture: Image) -> bool:
    """Tell whether ``picture.size`` has width and height exchanged."""
    is_sideways = _orientation(picture) in SIDEWAYS
    if is_sideways and picture.format == "TIFF":  # Pillow 11 and later say the upright size, 10 does not
        tags: Any = getattr(picture, "tag_v2")  # noqa: B009 only TIFFs have it
        return picture.size == (tags[IMAGE_WIDTH], tags[IMAGE_LENGTH])
    return is_sideways


def _to_rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in {"I", "F"}:
        message = (
            f"Got a picture of mode {picture.mode!r} (32-bit values without a natural range); expected "
            "8 or 16 bits a channel. Scale it to uint8 first."
        )
        raise InvalidInputError(message)
    if "A" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")
