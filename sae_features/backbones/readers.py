"""What a backbone asks of whatever prepares its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from sae_features.architectures import Modality
    from sae_features.backbones.tokens import TokenPolicy
    from sae_features.backbones.windows import Windows


class InputReader(Protocol):
    """Turns items of one modality into what a model takes."""

    modality: Modality

    def windows(
        self, items: Sequence[Any], policy: TokenPolicy, positions: Sequence[int] | None = None
    ) -> Windows:
        """Return the windows of items; nothing dear is done for it.

        ``positions`` are what an error calls each item.
        """

    def model_inputs(
        self, windows: Windows, chosen: np.ndarray, positions: Sequence[int] | None
    ) -> dict[str, torch.Tensor]:
        """Return what the model takes for some windows of one shape, or padded to one on the right.

        ``positions`` are what an error calls each item.
        """

    def shape(self, windows: Windows, window: int) -> tuple[int, ...]:
        """Return what must be equal for windows to run together."""
