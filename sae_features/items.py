"""The items in ``X``: what scikit-learn hands over becomes a list, checked, with digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from sae_features.errors import InputTypeError, InvalidInputError

SEQUENCES = "a list, tuple, 1-D array, pandas or polars Series, or a data frame of one column"


def check_texts(X: Any) -> list[str]:
    """Return the texts in ``X`` as a list, or say which item is not one.

    Parameters
    ----------
    X : sequence of str
        A list, tuple, numpy array (object, str or StringDType), pandas or polars Series, or a data
        frame of one column.

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
    return [_check_text(item, position) for position, item in enumerate(items)]


def text_digest(text: str) -> bytes:
    """Return the SHA-256 of a text: of its exact UTF-8 bytes, nothing stripped or normalised."""
    return hashlib.sha256(b"text\0" + text.encode()).digest()


def _as_list(X: Any) -> list[Any]:
    if isinstance(X, str | bytes):
        message = f"Got a single {type(X).__name__}; expected a sequence of texts: wrap it in a list."
        raise InputTypeError(message)
    if isinstance(X, Iterator):
        message = (
            f"Got a {type(X).__name__}, which can be read only once; expected {SEQUENCES}: pass list(X)."
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
        raise InputTypeError(f"Got X of type {type(X).__name__}; expected {SEQUENCES}.")
    return list(X)


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


def _is_image(item: Any) -> bool:
    is_picture = type(item).__module__.partition(".")[0] == "PIL"
    return is_picture or isinstance(item, PurePath) or (isinstance(item, np.ndarray) and item.ndim >= 2)
