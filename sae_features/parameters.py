"""What parameters may be; each check says what came and what was expected."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal, get_args

from sae_features.errors import InvalidParameterError, expected_one_of

if TYPE_CHECKING:
    from collections.abc import Iterable

TOKENS = ("content", "all")
OVERFLOWS = ("truncate", "chunk")
DTYPES = ("float32", "bfloat16", "float16", "float64")

Pooling = Literal["max", "mean", "sum", "last", "first", "count"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
ACTIVATION_POOLINGS: tuple[Pooling, ...] = POOLINGS[:-1]
"""Poolings of dense activations: counting nonzero values says nothing there."""
MAX_FLOAT32 = 3.4028234e38


def check_choice(name: str, value: object, options: Iterable[str]) -> None:
    """Raise unless the value is one of the options.

    Examples
    --------
    >>> check_choice("tokens", "al", TOKENS)
    Traceback (most recent call last):
    ...
    sae_features.errors.InvalidParameterError: Got tokens='al'; expected one of content, all. Did you ...
    """
    known = tuple(options)
    if not isinstance(value, str) or value not in known:
        raise InvalidParameterError(expected_one_of(name, value, known))


def check_count(name: str, value: object) -> None:
    """Raise unless the value is None or an integer above 0."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if value is not None and not (is_integer and int(value) >= 1):  # type: ignore[call-overload]
        raise InvalidParameterError(f"Got {name}={value!r}; expected None or an integer above 0.")


def check_threshold(value: object) -> None:
    """Raise unless the value is None or a finite float32 that is not negative."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 <= float(value) <= MAX_FLOAT32):  # type: ignore[arg-type]
        message = f"Got threshold={value!r}; expected None or a float32 that is not negative."
        raise InvalidParameterError(message)


def check_prompt(prompt: object) -> None:
    """Raise unless the prompt is None, ``"chat"`` or a string with ``{}`` once."""
    if prompt is None or prompt == "chat":
        return
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        message = (
            f"Got prompt={prompt!r}; expected 'chat' or a string with {{}} once for the text, such as "
            "'query: {}'."
        )
        raise InvalidParameterError(message)


def check_device(device: object) -> None:
    """Raise unless the device is None or a string; whether torch has it is found out on use."""
    if device is not None and not isinstance(device, str):
        message = f"Got device={device!r}; expected None or a string such as 'cpu' or 'cuda:0'."
        raise InvalidParameterError(message)


def check_dtype(dtype: object) -> None:
    """Raise unless the type is None or one of :data:`DTYPES`."""
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)


def check_image_choices(max_length: int | None, overflow: str) -> None:
    """Raise where a parameter was given that is about texts."""
    if max_length is not None or overflow != "truncate":
        given = f"max_length={max_length}" if max_length is not None else f"overflow={overflow!r}"
        message = f"Got {given} with images, whose number of tokens the model decides; leave it out."
        raise InvalidParameterError(message)
