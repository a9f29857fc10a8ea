"""Pictures to pixel values by the model's own image processor, and which part of a picture is seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from sae_features.backbones.loading import LOCAL, quiet_transformers
from sae_features.errors import CheckpointError, InvalidInputError
from sae_features.images import import_pillow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

TORCHVISION_ONLY: Final = ("DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast")
"""Processors that transformers has for torchvision alone: rescale, resize as floats, normalise."""
PREPROCESSOR: Final = "preprocessor_config.json"
PROCESSOR: Final = "processor_config.json"


class Pixels:
    """An image processor, always on the same numerics: Pillow's, whatever else is installed.

    Attributes
    ----------
    processor : transformers.BaseImageProcessor or FloatProcessor
        The model's own.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @classmethod
    def load(cls, folder: Path) -> Pixels:
        """Load the image processor of a local folder.

        Raises
        ------
        CheckpointError
            If there is none, or it cannot be read.
        MissingDependencyError
            If Pillow is not installed.
        """
        import_pillow()
        return cls(load_image_processor(folder))

    def values(self, pictures: Sequence[Image]) -> torch.Tensor:
        """Return pixel values, (n, 3, height, width), float32; all pictures must come out equally large.

        Raises
        ------
        CheckpointError
            If they do not.
        """
        given = self.processor(
            images=list(pictures), return_tensors="np", input_data_format="channels_last"
        )
        values = torch.from_numpy(np.asarray(given["pixel_values"], np.float32))
        if values.ndim != 4 or values.shape[1] != 3:
            message = (
                f"The image processor gave pixels of shape {tuple(values.shape)}; expected (n, 3, h, w)."
            )
            raise CheckpointError(message)
        return values

    def frame(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
        """Return how large a picture comes out, and which part of it that shows.

        Parameters
        ----------
        size : tuple of int
            Width and height of the upright picture.

        Returns
        -------
        shape : tuple of int
            Height and width of the pixel values.
        box : tuple of float
            Left, top, right and bottom in pixels of the picture; what lies outside is padding.
        """
        width, height = size
        shape = (height, width)
        if self._does("resize"):
            shape = resized_shape(dict(self.processor.size), (height, width))
        scale_x, scale_y = width / shape[1], height / shape[0]
        if not self._does("center_crop"):
            return shape, (0.0, 0.0, float(width), float(height))
        crop = dict(self.processor.crop_size)
        rows, columns = int(crop["height"]), int(crop["width"])
        # As transformers' center_crop rounds, which pads where the crop is larger.
        top, left = (shape[0] - rows) // 2, (shape[1] - columns) // 2
        box = (left * scale_x, top * scale_y, (left + columns) * scale_x, (top + rows) * scale_y)
        return (rows, columns), box

    def _does(self, step: str) -> bool:
        return bool(getattr(self.processor, f"do_{step}", False))


def load_image_processor(folder: Path) -> Any:
    """Return the image processor of a local folder, on Pillow's numerics.

    Raises
    ------
    CheckpointError
        If there is none, or it cannot be read.
    """
    import transformers

    declared = _declared(folder)
    if declared.get("image_processor_type") in TORCHVISION_ONLY:
        return FloatProcessor(declared)
    numerics: dict[str, Any] = {"use_fast": False} if _is_transformers_4() else {"backend": "pil"}
    try:
        with quiet_transformers():
            return transformers.AutoImageProcessor.from_pretrained(folder, **numerics, **LOCAL)
    except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The image processor in {folder} could not be loaded: {error}") from error


class FloatProcessor:
    """DINOv3's processor without torchvision: rescale, resize as floats with antialiasing, normalise.

    Parameters
    ----------
    declared : dict
        Content of ``preprocessor_config.json``.
    """

    def __init__(self, declared: dict[str, Any]) -> None:
        defaults = {
            "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False,
            "size": {"height": 224, "width": 224}, "crop_size": None, "rescale_factor": 1 / 255,
            "resample": 2, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        }  # fmt: skip
        for name, default in defaults.items():
            value = declared.get(name)
            setattr(self, name, default if value is None else value)
        modes = {2: "bilinear", 3: "bicubic"}
        if self.resample not in modes or self.do_center_crop:
            message = (
                f"Got resample={self.resample}, do_center_crop={self.do_center_crop} in {PREPROCESSOR}"
            )
            raise CheckpointError(f"{message}; expected 2 (bilinear) or 3 (bicubic), and no crop.")
        self.mode = modes[self.resample]

    do_resize: bool
    do_rescale: bool
    do_normalize: bool
    do_center_crop: bool
    size: dict[str, int]
    rescale_factor: float
    resample: int
    image_mean: list[float]
    image_std: list[float]

    def __call__(self, images: Sequence[Image], **_: Any) -> dict[str, np.ndarray]:
        """Return ``pixel_values``, (n, 3, height, width), float32."""
        done = []
        for picture in images:
            x = torch.from_numpy(np.asarray(picture, np.float32)).permute(2, 0, 1)[None]
            x = x * self.rescale_factor if self.do_rescale else x
            if self.do_resize:
                shape = resized_shape(self.size, (picture.height, picture.width))
                x = torch.nn.functional.interpolate(
                    x, shape, mode=self.mode, align_corners=False, antialias=True
                )
            if self.do_normalize:
                mean, std = (torch.tensor(v)[:, None, None] for v in (self.image_mean, self.image_std))
                x = (x - mean) / std
            done.append(x[0].numpy())
        return {"pixel_values": np.stack(done)}


def resized_shape(size: dict[str, Any], shape: tuple[int, int]) -> tuple[int, int]:
    """Return height and width after resizing, as transformers' image processors compute them.

    Parameters
    ----------
    size : dict
        ``height`` and ``width``; ``shortest_edge``, maybe with ``longest_edge``; or ``max_height`` and
        ``max_width``.
    shape : tuple of int
        Height and width before.

    Raises
    ------
    CheckpointError
        If it names none of these.

    Examples
    --------
    >>> resized_shape({"shortest_edge": 256}, (480, 640))
    (256, 341)
    """
    from transformers import image_transforms, image_utils

    given = {name: value for name, value in size.items() if value}
    if _is_transformers_4() and "shortest_edge" in given:
        given.pop("longest_edge", None)  # its processors of ViTs, DINOv2 and CLIP do not look at it
    if {"height", "width"} <= given.keys():
        return int(given["height"]), int(given["width"])
    if {"shortest_edge", "longest_edge"} <= given.keys():
        new = image_transforms.get_size_with_aspect_ratio(
            shape, given["shortest_edge"], given["longest_edge"]
        )
        return int(new[0]), int(new[1])
    if "shortest_edge" in given:
        blank = np.broadcast_to(np.uint8(0), (*shape, 3))
        new = image_transforms.get_resize_output_image_size(
            blank,
            size=given["shortest_edge"],
            default_to_square=False,
            input_data_format="channels_last",
        )
        return int(new[0]), int(new[1])
    if {"max_height", "max_width"} <= given.keys():
        new = image_utils.get_image_size_for_max_height_width(
            shape, given["max_height"], given["max_width"]
        )
        return int(new[0]), int(new[1])
    raise CheckpointError(
        f"Got size={size} in {PREPROCESSOR}; expected height and width or shortest_edge."
    )


def check_large_enough(rows: int, columns: int, shape: tuple[int, int], position: int) -> None:
    """Raise where a picture has no room for a patch."""
    if rows < 1 or columns < 1:
        message = (
            f"Item {position} comes out at {shape[1]} x {shape[0]} pixels; that is less than a patch."
        )
        raise InvalidInputError(message)


def _is_transformers_4() -> bool:
    import transformers

    return int(transformers.__version__.partition(".")[0]) < 5


def _declared(folder: Path) -> dict[str, Any]:
    for name, key in ((PREPROCESSOR, None), (PROCESSOR, "image_processor")):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}") from error
        part = content.get(key) if key and isinstance(content, dict) else content
        if isinstance(part, dict):
            return part
    raise CheckpointError(f"{folder} has no {PREPROCESSOR}; expected an image processor.")
