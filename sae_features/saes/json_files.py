"""JSON files of SAEs, read as what they are: untrusted, typed, bounded."""

from __future__ import annotations

import json
import math
import reprlib
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError, expected_one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MAX_BYTES = 2**20
"""Bytes of a configuration that are read; parsed, they may take 25 times as much memory."""
MAX_YAML_BYTES = 2**16
MAX_YAML_DEPTH = 20
MAX_SIZE = 2**31 - 1
"""Largest size of a tensor in one direction that is believed."""
MISSING = object()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except SAEFormatError as error:
        raise SAEFormatError(f"{path}: {error}") from error


def read_json(path: Path, *, max_bytes: int = MAX_BYTES, kinds: tuple[type, ...] = (dict,)) -> Any:
    """Return what is in a JSON file.

    Raises
    ------
    SAEFormatError
        If it cannot be read, is larger than ``max_bytes``, or holds something of another type.
    """
    try:
        content = json.loads(_read_text(path, max_bytes), object_pairs_hook=_once)
    except SAEFormatError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise SAEFormatError(f"could not be read as JSON: {error}") from error
    return _of_kinds(content, kinds)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what is in a YAML file, as :func:`read_json` does."""
    import yaml  # huggingface-hub brings it

    try:
        text = _read_text(path, MAX_YAML_BYTES)
        is_plain = _is_plain_yaml(yaml.scan(text))
        content = yaml.safe_load(text) if is_plain else None
    except SAEFormatError:
        raise
    except Exception as error:  # yaml's constructors raise whatever wrong values lead to
        raise SAEFormatError(f"could not be read as YAML: {reprlib.repr(str(error))}") from error
    if not is_plain:
        raise SAEFormatError("got an alias (*) or too deep values; expected plain ones.")
    return _of_kinds(content, (dict,))


def _is_plain_yaml(tokens: Iterable[object]) -> bool:
    """Tell whether tokens have no aliases, of which a few make billions of values, and are not deep.

    None is taken after the first that is too deep: scanning on takes time by the square of the depth.
    """
    depth = 0
    for token in tokens:
        kind = type(token).__name__
        depth += ("Start" in kind) - ("End" in kind)
        if kind == "AliasToken" or depth > MAX_YAML_DEPTH:
            return False
    return True


def _read_text(path: Path, max_bytes: int) -> str:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise SAEFormatError("could not be read: expected a file.")
    with path.open("rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise SAEFormatError(f"got more than {max_bytes} bytes.")
    return content.decode("utf-8-sig")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise SAEFormatError("got a name twice in one object; expected each once.")
    return values


def _of_kinds(content: Any, kinds: tuple[type, ...]) -> Any:
    if not isinstance(content, kinds):
        expected = " or ".join("a list" if kind is list else "an object" for kind in kinds)
        raise SAEFormatError(f"got a {type(content).__name__}; expected {expected}.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values.

    Raises
    ------
    SAEFormatError
        If something in them is not plain.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        path.write_text(text, encoding="utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise SAEFormatError(f"{path.name} holds only plain JSON values: {error}") from error


class Config:
    """Values of a configuration, each read with the type and the bounds that it must have.

    Parameters
    ----------
    values : mapping
        What the file says.
    path : Path
        The file, for messages.
    named : bool, default=True
        Whether messages name the file; without, whoever reads it does.
    """

    def __init__(self, values: Mapping[str, Any], path: Path, *, named: bool = True) -> None:
        self.values = values
        self.path = path
        self._named = named

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value as it stands, of whatever type."""
        return self.values.get(name, default)

    def integer(self, name: str, default: Any = MISSING, *, low: int = 1, high: int = MAX_SIZE) -> int:
        """Return an integer within bounds."""
        value = self._value(name, default)
        is_right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return self._checked(name, value, default, is_right, f"an integer from {low} to {high}")

    def number(self, name: str, default: Any = MISSING, *, above: float = -math.inf) -> float:
        """Return a finite number above a bound."""
        value = self._value(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        limit = sys.float_info.max  # integers of JSON may be larger
        is_right = is_number and -limit <= value <= limit and value > above
        expected = "a finite number" + (f" above {above}" if above > -math.inf else "")
        return self._checked(name, value, default, is_right, expected)

    def flag(self, name: str, default: Any = MISSING) -> bool:
        """Return true or false."""
        value = self._value(name, default)
        return self._checked(name, value, default, isinstance(value, bool), "true or false")

    def text(self, name: str, default: Any = MISSING) -> str:
        """Return a string."""
        value = self._value(name, default)
        is_right = isinstance(value, str) and len(value) <= 4096
        return self._checked(name, value, default, is_right, "text of at most 4096 characters")

    def choice(self, name: str, options: Iterable[str], default: Any = MISSING) -> str:
        """Return one of several strings."""
        value = self.text(name, default)
        known = list(options)
        if value is not default and value not in known:
            raise SAEFormatError(f"{self._prefix}{expected_one_of(name, value[:60], known)}")
        return value

    def section(self, name: str, default: Any = MISSING) -> Config:
        """Return an object within."""
        value = self._value(name, default)
        checked = self._checked(name, value, default, isinstance(value, dict), "an object")
        return Config(checked, self.path, named=self._named)

    @property
    def _prefix(self) -> str:
        return f"{self.path}: " if self._named else ""

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name, default)
        return default if value is None and default is not MISSING else value

    def _checked(self, name: str, value: Any, default: Any, is_right: bool, expected: str) -> Any:  # noqa: FBT001
        if value is default and default is not MISSING:
            return value
        if not is_right:
            got = f"no {name}" if value is MISSING else f"{name}={reprlib.repr(value)}"
            raise SAEFormatError(f"{self._prefix}got {got}; expected {expected}.")
        return value
