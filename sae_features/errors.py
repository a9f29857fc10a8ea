"""Exceptions and warnings; each also is the built-in that a caller would expect."""

from __future__ import annotations

import difflib
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class SAEFeaturesError(Exception):
    """Root of all exceptions raised on purpose by this library."""


class InvalidParameterError(SAEFeaturesError, ValueError):
    """A parameter of an estimator or a function has a value that it cannot have."""


class InvalidInputError(SAEFeaturesError, ValueError):
    """The items in ``X`` cannot be used; the message names the position of the first."""


class InputTypeError(SAEFeaturesError, TypeError):
    """``X`` or an item in it is of a type that cannot be used."""


class AssetNotFoundError(SAEFeaturesError, FileNotFoundError):
    """A model, an SAE or a file of theirs could not be found or fetched."""


class SAEFormatError(SAEFeaturesError, ValueError):
    """The files of an SAE are damaged, incomplete or not of a known format."""


class CheckpointError(SAEFeaturesError, ValueError):
    """The files of a model are damaged, incomplete or not of a known kind."""


class PluginError(SAEFeaturesError, ImportError):
    """A plugin is missing, broken, or clashes with another one."""


class DigestMismatchError(SAEFeaturesError, RuntimeError):
    """The weights found now are not the weights that an estimator was fitted with."""


class MissingDependencyError(SAEFeaturesError, ImportError):
    """An optional package is needed and not installed."""


class StoreError(SAEFeaturesError, RuntimeError):
    """A store of values cannot be used: its place, its schema or its files."""


class SAEFeaturesWarning(UserWarning):
    """Root of all warnings issued by this library."""


def warn(message: str) -> None:
    """Issue a SAEFeaturesWarning that names the line by which this library was called."""
    frame, level = sys._getframe(1), 2  # noqa: SLF001
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith(
        ("sae_features.", "sklearn.")
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SAEFeaturesWarning, stacklevel=level)


def expected_one_of(name: str, got: object, options: Iterable[str]) -> str:
    """Return ``Got name='x'; expected one of a, b. Did you mean 'a'?``.

    Parameters
    ----------
    name : str
        The parameter's name.
    got : object
        The value that came.
    options : iterable of str
        The values that were possible.

    Examples
    --------
    >>> expected_one_of("pooling", "men", ["max", "mean"])
    "Got pooling='men'; expected one of max, mean. Did you mean 'mean'?"
    """
    known = list(options)
    message = f"Got {name}={got!r}; expected one of {', '.join(known)}."
    close = difflib.get_close_matches(str(got), known, n=1)
    return f"{message} Did you mean {close[0]!r}?" if close else message
