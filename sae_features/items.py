"""The items in ``X``: what scikit-learn hands over becomes a list, checked, with digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.images import check_images

if TYPE_CHECKING:
    from sae_features.architectures import Modality


@dataclass(frozen=True)
class Items:
    """Checked items, all of one modality.

    Attributes
    ----------
    modality : {"text", "image"}
        What they are.
    values : list of str or list of Picture
        One per item, in order.
    """

    modality: Modality
    values: list[Any]

    def __len__(self) -> int:
        return len(self.values)

    def digests(self) -> list[bytes]:
        """Return the SHA-256 of each item; files are read for it."""
        if self.modality == "text":
            return [text_digest(text) for text in self.values]
        return [picture.digest for picture in self.values]


def check_items(X: Any, modalities: Sequence[Modality], first: int = 0) -> Items:
    """Return what ``X`` holds, or say which item a model cannot take.

    Parameters
    ----------
    X : sequence
        Texts (see :func:`check_texts`) or images: paths, PIL images, uint8 arrays of shape (height,
        width) or (height, width, 3), or one array of shape (n, height, width, 3).
    modalities : sequence of {"text", "image"}
        What the model takes.  Where it takes both, strings are texts: give paths as ``Path``.
    first : int, default=0
        What messages call the first item.

    Raises
    ------
    InputTypeError, InvalidInputError
        As the message says.

    Examples
    --------
    >>> check_items(["a", "b"], ("text",)).modality
    'text'
    """
    if "image" not in modalities:
        return Items("text", check_texts(X, first))
    items = _images_of_array(X) if _has_images(X) else _as_list(X, IMAGE_SEQUENCES)
    if not items:
        raise InvalidInputError("Got no items; expected at least one image.")
    if "text" in modalities and not any(_is_image(item) for item in items):
        return Items("text", check_texts(items, first))
    for position, item in enumerate(items, first):
        if _is_missing(item):
            message = f"Got {item!r} as item {position}; expected an image. Drop missing items first."
            raise InvalidInputError(message)
        if "text" in modalities and isinstance(item, str):
            message = (
                f"Got a text as item {position} among images; expected items of one kind. Give paths "
                "of images as pathlib.Path."
            )
            raise InputTypeError(message)
    return Items("image", check_images(items, first))


SEQUENCES = "a list, tuple, 1-D array, pandas or polars Series, or a data frame of one column"
IMAGE_SEQUENCES = f"{SEQUENCES}, or an array of shape (n, height, width, 3)"


def check_texts(X: Any, first: int = 0) -> list[str]:
    """Return the texts in ``X`` as a list, or say which item is not one.

    Parameters
    ----------
    X : sequence of str
        A list, tuple, numpy array (object, str or StringDType), pandas or polars Series, or a data
        frame of one column.
    first : int, default=0
        What messages call the first item.

    Returns
    -------
    list of str
        One per item, in order, unchanged.

    Raises
    ------
    InputTypeError
        If ``X`` is not such a sequence, or an item is not a text.
    InvalidInputError
        If ``X`` is empty, has several columns, or a text is missing or cannot be encoded.

    Examples
    --------
    >>> check_texts(("a", "b"))
    ['a', 'b']
    >>> check_texts(["a", None])
    Traceback (most recent call last):
    ...
    sae_features.errors.InvalidInputError: Got None as item 1; expected a text. Drop or fill missing ...
    """
    items = _as_list(X)
    if not items:
        raise InvalidInputError("Got no items; expected at least one text.")
    return [_check_text(item, position) for position, item in enumerate(items, first)]


def text_digest(text: str) -> bytes:
    """Return the SHA-256 of a text: of its exact UTF-8 bytes, nothing stripped or normalised."""
    return hashlib.sha256(b"text\0" + text.encode()).digest()


def _as_list(X: Any, expected: str = SEQUENCES) -> list[Any]:
    takes_images = expected != SEQUENCES
    if isinstance(X, str | bytes) or (takes_images and (isinstance(X, PurePath) or _is_picture(X))):
        kind = "images" if takes_images else "texts"
        message = f"Got a single {type(X).__name__}; expected a sequence of {kind}: wrap it in a list."
        raise InputTypeError(message)
    if isinstance(X, Iterator):
        message = (
            f"Got a {type(X).__name__}, which can be read only once; expected {expected}: pass list(X)."
        )
        raise InputTypeError(message)
    if isinstance(X, np.ndarray):
        return _array_items(X)
    if hasattr(X, "to_numpy"):
        column = _only_column(X)
        for method in ("to_list", "to_pylist", "tolist"):  # polars' to_numpy() loses NULs at the end
            if hasattr(column, method):
                return list(getattr(column, method)())
    if isinstance(X, Mapping) or not isinstance(X, Sequence):
        raise InputTypeError(f"Got X of type {type(X).__name__}; expected {expected}.")
    return list(X)


def _has_images(X: Any) -> bool:
    return isinstance(X, np.ndarray) and (X.ndim > 2 or (X.ndim == 2 and X.shape[1] != 1))


def _images_of_array(array: np.ndarray) -> list[Any]:
    if array.ndim != 4:
        message = (
            f"Got an array of shape {array.shape}; expected (n, height, width, 3). Wrap a single image "
            "in a list; give grey ones as list(X)."
        )
        raise InvalidInputError(message)
    return list(array)


def _only_column(X: Any) -> Any:
    """Return the one column of a data frame; a series as it is."""
    columns = getattr(X, "columns", None)
    if columns is None:
        return X
    if len(columns) != 1:
        message = (
            f"Got a data frame of {len(columns)} columns ({', '.join(map(str, columns[:5]))}); "
            "expected one: select the column of texts, or use a ColumnTransformer."
        )
        raise InvalidInputError(message)
    return X[columns[0]]


def _array_items(array: np.ndarray) -> list[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = " Images need a vision model." if array.ndim >= 3 else ""
        message = f"Got an array of shape {array.shape}; expected one text per row.{hint}"
        raise InvalidInputError(message)
    return list(array.tolist())


def _check_text(item: Any, position: int) -> str:
    if isinstance(item, str):
        text = str.__str__(item)  # subclasses (numpy's, members of an Enum) may print otherwise
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = (
                f"Item {position} has a lone surrogate at character {error.start}, which no tokenizer "
                "takes; repair it with text.encode('utf-8', 'replace').decode()."
            )
            raise InvalidInputError(message) from None
        return text
    if _is_missing(item):
        message = f"Got {item!r} as item {position}; expected a text. Drop or fill missing items first."
        raise InvalidInputError(message)
    if isinstance(item, bytes):
        message = (
            f"Got bytes as item {position}; expected a text: decode it, as in item.decode('utf-8')."
        )
        raise InputTypeError(message)
    hint = ""
    if _is_image(item):
        hint = " This model reads texts; images need a vision model."
    message = f"Got {type(item).__name__} as item {position}; expected a text.{hint}"
    raise InputTypeError(message)


def _is_missing(item: Any) -> bool:
    if item is None or type(item).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(item, float) and item != item  # noqa: PLR0124 NaN


def _is_picture(item: Any) -> bool:
    return type(item).__module__.partition(".")[0] == "PIL"


def _is_image(item: Any) -> bool:
    return (
        _is_picture(item)
        or isinstance(item, PurePath)
        or (isinstance(item, np.ndarray) and item.ndim >= 2)
    )
