"""Images for a vision-language model: the image's tokens in its text tower."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_features.backbones.loading import load_tokenizer
from sae_features.backbones.patches import open_pictures, size_of
from sae_features.backbones.pixels import Pixels
from sae_features.backbones.windows import Windows, position_of
from sae_features.errors import CheckpointError, InvalidParameterError
from sae_features.images import PatchGrid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sae_features.architectures import Architecture, ImageTokens
    from sae_features.backbones.tokens import TokenPolicy
    from sae_features.images import Picture

KEPT = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
"""What of the processor's output the models take."""


class ImageTokenInput:
    """Turns images into pixel values and a prompt with their tokens.

    Attributes
    ----------
    processor : transformers.ProcessorMixin
        The model's own layout of image and prompt.
    pixels : Pixels
        Its image processor.
    image_first : bool
        As in :class:`sae_features.architectures.ImageTokens`.
    """

    modality = "image"

    def __init__(
        self, processor: Any, pixels: Pixels, *, image_token_id: int, image_first: bool
    ) -> None:
        self.processor = processor
        self.pixels = pixels
        self.image_token_id = image_token_id
        self.image_first = image_first

    @classmethod
    def load(
        cls,
        folder: Path,
        declared: ImageTokens,
        architecture: Architecture,  # noqa: ARG003
        config: Any,
    ) -> ImageTokenInput:
        """Load tokenizer and image processor of a folder.

        Raises
        ------
        CheckpointError
            If one of them is missing, or they do not fit together.
        """
        import transformers

        pixels = Pixels.load(folder)
        tokenizer = load_tokenizer(folder)
        kind = getattr(transformers, declared.processor)
        length = getattr(config, "mm_tokens_per_image", None)
        lengths = {"image_seq_length": int(length)} if length else {}
        try:
            processor = kind(
                pixels.processor, tokenizer, chat_template=tokenizer.chat_template, **lengths
            )
        except (ValueError, TypeError, AttributeError) as error:
            message = f"The processor in {folder} cannot be put together: {error}"
            raise CheckpointError(message) from error
        names = ("image_token_id", "image_token_index")  # transformers 5 and 4
        token = int(next(getattr(config, name) for name in names if hasattr(config, name)))
        return cls(processor, pixels, image_token_id=token, image_first=declared.image_first)

    def windows(
        self, items: Sequence[Picture], policy: TokenPolicy, positions: Sequence[int] | None = None
    ) -> Windows:
        """Return one window per image; of files only headers are read."""
        layout = self._layout(policy.prompt)
        blank = _blank_inputs(self.processor, layout)
        ids = np.asarray(blank["input_ids"])[0]
        is_image = ids == self.image_token_id
        side = math.isqrt(int(is_image.sum()))
        if side == 0 or side * side != is_image.sum():
            message = f"The processor gives {is_image.sum()} tokens an image; expected a square number."
            raise CheckpointError(message)
        mask = np.ones(len(ids), bool) if policy.tokens == "all" else is_image
        windows = Windows("image", items=list(range(len(items))), pictures=list(items), grids=[])
        for item, picture in enumerate(items):
            _, box = self.pixels.frame(size_of(picture, position_of(item, positions)))
            windows.grids.append(PatchGrid(side, side, box))  # type: ignore[union-attr]
            windows.counted.append(mask)
            windows.ids.append(ids)
        windows.layout = layout
        return windows

    def shape(self, windows: Windows, window: int) -> tuple[int, ...]:  # noqa: ARG002
        """Return the same for all: every image has as many tokens."""
        return ()

    def model_inputs(
        self, windows: Windows, chosen: np.ndarray, positions: Sequence[int] | None
    ) -> dict[str, torch.Tensor]:
        """Return ids, masks and pixel values, one row per image."""
        values = self.pixels.values(open_pictures(windows, chosen, positions))
        blank = _blank_inputs(self.processor, windows.layout)
        given = {
            name: torch.from_numpy(np.asarray(blank[name])).expand(len(chosen), -1)
            for name in KEPT
            if name in blank and name != "pixel_values"
        }
        return given | {"pixel_values": values}

    def _layout(self, prompt: str | None) -> str:
        """Return what the processor takes as text: a prompt with its mark for the image."""
        mark = getattr(self.processor, "boi_token", None) or self.processor.image_token
        if prompt == "chat":
            if not self.processor.chat_template:
                message = (
                    "Got prompt='chat', but this model has no chat template. Give one with {} instead."
                )
                raise InvalidParameterError(message)
            turn = [{"role": "user", "content": [{"type": "image"}]}]
            return str(self.processor.apply_chat_template(turn, tokenize=False))
        before, _, after = ("", "", "") if prompt is None else prompt.partition("{}")
        if self.image_first and before:
            message = f"Got prompt={prompt!r}; this model takes the image first: begin with '{{}}'."
            raise InvalidParameterError(message)
        bos = "" if self.image_first else self.processor.tokenizer.bos_token or ""
        return f"{bos}{before}{mark}{after}"


def _blank_inputs(processor: Any, layout: str) -> Any:
    """Return the processor's output for a grey picture: ids and masks are the same for every picture."""
    from PIL import Image

    grey = Image.new("RGB", (32, 32), (127, 127, 127))
    return processor(images=[grey], text=[layout], return_tensors="np", add_special_tokens=False)
