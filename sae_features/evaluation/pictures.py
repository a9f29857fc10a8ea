"""Pixels as rows: the baseline of images that needs no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from sae_features.items import check_items

if TYPE_CHECKING:
    from typing import Self


class PixelRows(TransformerMixin, BaseEstimator):
    """Turn images into rows of their pixels, scaled to one size.

    Parameters
    ----------
    side : int, default=32
        Height and width that they are scaled to.
    """

    def __init__(self, side: int = 32) -> None:
        self.side = side

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002
        """Learn nothing."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return rows of pixels.

        Parameters
        ----------
        X : sequence of images
            As featurizers take them.

        Returns
        -------
        ndarray of shape (n_images, side * side * 3), float32
            From 0 to 1.
        """
        from PIL import Image

        rows = []
        for picture in check_items(X, ("image",)).values:
            small = picture.open().resize((self.side, self.side), Image.Resampling.BILINEAR)
            rows.append(np.asarray(small.convert("RGB"), np.float32).ravel() / 255)
        return np.stack(rows)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        return tags
