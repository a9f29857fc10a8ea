"""Options of a command line from a TOML file: checked as if they had been typed."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import AssetNotFoundError, InvalidParameterError, expected_one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SEVERAL = ("+", "*")


def read_options(
    path: str | Path, add_options: Callable[[argparse.ArgumentParser], None], *, but: Sequence[str] = ()
) -> dict[str, Any]:
    """Read options from a TOML file.

    Parameters
    ----------
    path : str or Path
        Its keys are the long options with underscores (``n_latents = 4096``); flags are ``true`` or
        ``false``, several values a list.
    add_options : callable
        Adds the options that there are to a parser, none of them with a default.
    but : sequence of str
        Options that a file cannot hold.

    Returns
    -------
    dict
        Values by name, of the types that the command line gives.

    Raises
    ------
    AssetNotFoundError
        If the file is not there.
    InvalidParameterError
        If it is not TOML, or a name or a value cannot be; the message names the file.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    add_options(parser)
    actions = {action.dest: action for action in parser._actions if action.dest not in but}  # noqa: SLF001
    options: list[str] = []
    positional: list[str] = []
    for name, value in _read(Path(path)).items():
        if name not in actions:
            raise InvalidParameterError(f"{path}: {expected_one_of('option', name, actions)}")
        typed = _typed(path, actions[name], value)
        if actions[name].option_strings:
            options += typed
        else:
            positional += typed
    try:
        return vars(parser.parse_args([*options, "--", *positional]))
    except argparse.ArgumentError as error:
        name = str(error.argument_name).split("/")[-1].removeprefix("--").replace("-", "_")
        raise InvalidParameterError(f"{path}: {name}: {error.message}.") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AssetNotFoundError(f"Got --config {str(path)!r}; expected a file there.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidParameterError(f"{path} is not TOML: {error}.") from error


def _typed(path: str | Path, action: argparse.Action, value: Any) -> list[str]:
    """Return what one would type for a value."""
    flag = list(action.option_strings[-1:])
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InvalidParameterError(f"{path}: got {action.dest}={value!r}; expected true or false.")
        return flag if value else []
    values = value if isinstance(value, list) and action.nargs in SEVERAL else [value]
    if not values or any(isinstance(each, bool | list | dict) for each in values):
        many = "one value or a list of them" if action.nargs in SEVERAL else "one value"
        raise InvalidParameterError(f"{path}: got {action.dest}={value!r}; expected {many}.")
    if action.nargs in SEVERAL:
        return [*flag, *map(str, values)]
    return [f"{flag[0]}={values[0]}"] if flag else [str(values[0])]
