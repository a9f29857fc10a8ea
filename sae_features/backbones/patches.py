"""Images for a vision model: pixel values, and patches in a grid."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.backbones.pixels import Pixels, check_large_enough
from sae_features.backbones.windows import Windows, position_of
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.images import PatchGrid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from PIL.Image import Image

    from sae_features.architectures import Architecture, Patches
    from sae_features.backbones.tokens import TokenPolicy
    from sae_features.images import Picture


class PatchInput:
    """Turns images into pixel values.

    Attributes
    ----------
    pixels : Pixels
        The model's own image processor.
    patch_size : tuple of int
        Height and width of a patch in pixels.
    n_prefix : int
        Tokens before the patches: CLS and registers.
    image_size : tuple of int
        Height and width that the model was made for.
    """

    modality = "image"

    def __init__(
        self,
        pixels: Pixels,
        *,
        patch_size: tuple[int, int],
        n_prefix: int,
        image_size: tuple[int, int],
    ) -> None:
        self.pixels = pixels
        self.patch_size = patch_size
        self.n_prefix = n_prefix
        self.image_size = image_size
        self.interpolates = False

    @classmethod
    def load(
        cls, folder: Path, declared: Patches, architecture: Architecture, config: Any
    ) -> PatchInput:
        """Load the image processor of a folder."""
        sizes = getattr(config, architecture.config, config) if architecture.config else config
        n_registers = int(getattr(sizes, declared.registers, 0) or 0)
        return cls(
            Pixels.load(folder),
            patch_size=_pair(sizes.patch_size),
            n_prefix=int(declared.class_token) + n_registers + declared.n_extra,
            image_size=_pair(sizes.image_size),
        )

    def adapt(self, model: torch.nn.Module) -> None:
        """Look whether the model can interpolate its positions when told so."""
        self.interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters

    def windows(
        self, items: Sequence[Picture], policy: TokenPolicy, positions: Sequence[int] | None = None
    ) -> Windows:
        """Return one window per image; of files only headers are read."""
        if policy.prompt is not None:
            message = f"Got prompt={policy.prompt!r}; this model takes images alone: leave it out."
            raise InvalidParameterError(message)
        windows = Windows("image", items=list(range(len(items))), pictures=list(items), grids=[])
        masks: dict[int, np.ndarray] = {}
        for item, picture in enumerate(items):
            position = position_of(item, positions)
            grid = self._grid(size_of(picture, position), position)
            n_patches = grid.rows * grid.columns
            if n_patches not in masks:
                masks[n_patches] = np.ones(self.n_prefix + n_patches, bool)
                masks[n_patches][: self.n_prefix] = policy.tokens == "all"
            windows.grids.append(grid)  # type: ignore[union-attr]
            windows.counted.append(masks[n_patches])
        return windows

    def shape(self, windows: Windows, window: int) -> tuple[int, ...]:
        """Return rows and columns of an image's grid."""
        return windows.grids[window][:2] if windows.grids else ()

    def model_inputs(
        self, windows: Windows, chosen: np.ndarray, positions: Sequence[int] | None
    ) -> dict[str, Any]:
        """Return ``pixel_values``, (images, 3, height, width)."""
        values = self.pixels.values(open_pictures(windows, chosen, positions))
        inputs: dict[str, Any] = {"pixel_values": values}
        if self.interpolates and tuple(values.shape[2:]) != self.image_size:
            inputs["interpolate_pos_encoding"] = True
        return inputs

    def _grid(self, size: tuple[int, int], position: int) -> PatchGrid:
        shape, (left, top, right, bottom) = self.pixels.frame(size)
        rows, columns = shape[0] // self.patch_size[0], shape[1] // self.patch_size[1]
        check_large_enough(rows, columns, shape, position)
        # Pixels that are left over on the right and at the bottom belong to no patch.
        width = (right - left) * columns * self.patch_size[1] / shape[1]
        height = (bottom - top) * rows * self.patch_size[0] / shape[0]
        return PatchGrid(rows, columns, (left, top, left + width, top + height))


def open_pictures(windows: Windows, chosen: np.ndarray, positions: Sequence[int] | None) -> list[Image]:
    """Return upright RGB pictures; an error names the item by its position."""
    opened = []
    for window in chosen:
        try:
            opened.append(windows.pictures[window].open())
        except InvalidInputError as error:
            position = position_of(windows.items[window], positions)
            raise InvalidInputError(f"Item {position}: {error}") from error
    return opened


def size_of(picture: Picture, position: int) -> tuple[int, int]:
    """Return width and height of an upright picture; an error names the item by its position."""
    try:
        return picture.size
    except InvalidInputError as error:
        raise InvalidInputError(f"Item {position}: {error}") from error


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
