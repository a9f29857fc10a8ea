"""Tables of published SAEs: from ``release/sae_id`` to where its files are and what is known of them.

They come with the plugins of model families.  A table is a JSON file ``{"schema": 1, "source": …,
"releases": {NAME: RELEASE}}``; ``left_out`` says of what is not in it why.  A release is an object with
the fields of an SAE, each a value or a template such as ``"layer_{layer}/width_{width}"``:

* ``model``, ``repo``, ``revision``, ``path`` (``id`` if missing), ``format``, ``hook``, ``layer``
  (``{layer}`` if missing), ``site``, ``k``, ``norm_scale``, ``facts`` (of templates, too);
* ``id``, the part of the id after the release; ``default``, that of the SAE which is taken when a model
  is named without a layer;
* ``columns``, names of what the templates are filled from, and ``rows``, each a line of values.  Commas
  list several values and ``0..25`` is a range: ``"0..25 16k,65k"`` stands for all 52 combinations;
* ``parts``, in place of the last three: objects that each add to the release what differs.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sae_features.assets import package_folder
from sae_features.errors import PluginError, expected_one_of
from sae_features.hook_point import SITES
from sae_features.sae_files import check_relative

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

SCHEMA: Final = 1
_TEXTS = ("repo", "revision", "path", "format", "hook", "site")
_NUMBERS = ("layer", "k", "norm_scale")
_OTHERS = ("model", "facts", "default", "id", "columns", "rows", "parts")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_INTEGER = re.compile(r"-?\d+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


def table_of_package(reference: str) -> Path:
    """Return a table in an installed package, which is not imported.

    Parameters
    ----------
    reference : str
        ``"package:path/in/package.json"``.

    Raises
    ------
    PluginError
        If there is none.
    """
    package, _, path = reference.partition(":")
    folder, _, name = path.rpartition("/")
    place = package_folder(package, folder)
    if place is None or not (place / name).is_file():
        message = f"Got release table {reference!r}; expected a file at 'package:path/in/package.json'."
        raise PluginError(message)
    return place / name


def release_names(table: Path) -> list[str]:
    """Return the names of a table's releases."""
    return list(_releases(table))


def find_entry(table: Path, sae_id: str) -> dict[str, Any] | None:
    """Return what a table says of one SAE, by the names of the fields of ``SAESource``, or None.

    Parameters
    ----------
    table : Path
        The file.
    sae_id : str
        ``release/sae_id``.

    Raises
    ------
    PluginError
        If the table is damaged.
    """
    name, _, wanted = sae_id.partition("/")
    if not _mentions(table, name) or name not in _releases(table):
        return None
    for part, values, own_id in _ids_of_release(table, name):
        if own_id == wanted:
            return _entry(table, name, part, values)
    return None


def entries(table: Path, models: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield what a table says of each of its SAEs, as :func:`find_entry` does.

    Parameters
    ----------
    table : Path
        The file.
    models : collection of str, optional
        Only SAEs of models of these names.
    """
    if models is not None:
        yield from (dict(entry) for entry in _entries_of_models(table, frozenset(models)))
        return
    for name in _releases(table):
        for part in _parts(table, name):
            for values in _values(table, name, part):
                yield _entry(table, name, part, values)


@lru_cache(maxsize=256)
def _entries_of_models(table: Path, models: frozenset[str]) -> list[dict[str, Any]]:
    return [
        _entry(table, name, part, values)
        for name in _releases(table)
        for part in _parts(table, name)
        if part["model"] in models
        for values in _values(table, name, part)
    ]


def ids_of_release(table: Path, name: str) -> list[str]:
    """Return the ids in a release of a table, without the name of the release."""
    return [own_id for _, _, own_id in _ids_of_release(table, name)]


def repositories(table: Path) -> dict[str, list[str]]:
    """Return the names of a table's releases by their repository on the hub."""
    by_repository: dict[str, list[str]] = {}
    for name, release in _releases(table).items():
        by_repository.setdefault(str(release.get("repo")), []).append(name)
    return by_repository


def closest(name: str, n: int, releases: Mapping[str, Callable[[], Iterable[str]]]) -> list[str]:
    """Return ids that are nearly a given one: the release is compared first, then the ids in it.

    Parameters
    ----------
    name : str
        What was asked for.
    n : int
        How many at most.
    releases : mapping of str to callable
        By the name of a release, what gives the ids in it.
    """
    release, _, wanted = name.partition("/")
    if release in releases:
        near = sorted(releases[release](), key=lambda own_id: _distance(wanted, own_id))
        return [f"{release}/{own_id}" for own_id in near[:n]]
    found = []
    for other in difflib.get_close_matches(release, releases, n=n):
        nearest = min(releases[other](), key=lambda own_id: _distance(wanted, own_id), default=None)
        found += [] if nearest is None else [f"{other}/{nearest}"]
    return found


def _distance(wanted: str, own_id: str) -> tuple[float, list[float], str]:
    """Compare the words of two ids, then their numbers from the left, by their ratio."""
    likeness = _likeness(re.sub(r"\d+", "#", wanted), re.sub(r"\d+", "#", own_id))
    pairs = zip(re.findall(r"\d+", wanted), re.findall(r"\d+", own_id), strict=False)
    return 1 - likeness, [abs(math.log((int(a) + 1) / (int(b) + 1))) for a, b in pairs], own_id


@lru_cache(maxsize=4096)
def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


@lru_cache(maxsize=64)
def _text(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8")
    except OSError as error:
        raise PluginError(f"The release table {table} could not be read: {error}.") from error


def _mentions(table: Path, name: str) -> bool:
    """Tell whether a name occurs in the file: much faster than to parse it."""
    return json.dumps(name, ensure_ascii=False) in _text(table)


@lru_cache(maxsize=64)
def _releases(table: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(_text(table))
    except ValueError as error:
        raise PluginError(f"The release table {table} is not JSON: {error}.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA or not isinstance(content.get("releases"), dict):
        message = f"{table}: got schema={schema!r}; expected a release table of schema {SCHEMA}."
        raise PluginError(message)
    for name in content["releases"]:
        if "/" in name or "@" in name:
            raise PluginError(f"{table}: got release {name!r}; expected a name without '/' and '@'.")
    return content["releases"]


def _parts(table: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the parts of a release, each with what they share."""
    release = _releases(table)[name]
    for part in release.get("parts", [{}]):
        merged = {**release, **part, "facts": {**release.get("facts", {}), **part.get("facts", {})}}
        unknown = set(merged) - {*_TEXTS, *_NUMBERS, *_OTHERS}
        missing = {"model", "repo", "id"} - set(merged)
        if unknown or missing:
            problem = f"unknown fields {sorted(unknown)}" if unknown else f"no {sorted(missing)}"
            raise PluginError(f"{table}: release {name!r} has {problem}; see {__name__}.")
        yield merged


def _values(table: Path, name: str, part: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the values of the columns for each SAE of a part."""
    columns = part.get("columns", "").split()
    for row in part.get("rows", [""]):
        cells = [_expand(cell) for cell in row.split()]
        if len(cells) != len(columns):
            message = f"{table}: release {name!r} has the row {row!r}; expected values of {columns}."
            raise PluginError(message)
        for values in itertools.product(*cells):
            yield dict(zip(columns, values, strict=True))


def _expand(cell: str) -> list[str]:
    values: list[str] = []
    for value in cell.split(","):
        ends = _RANGE.fullmatch(value)
        values += map(str, range(int(ends[1]), int(ends[2]) + 1)) if ends else [value]
    return values


def _ids_of_release(table: Path, name: str) -> Iterator[tuple[dict[str, Any], dict[str, str], str]]:
    for part in _parts(table, name):
        for values in _values(table, name, part):
            yield part, values, _filled(table, name, part["id"], values)


def _filled(table: Path, name: str, template: str, values: dict[str, str]) -> str:
    try:
        return template.format_map(values)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        columns = ", ".join(values) or "no column"
        message = f"{table}: release {name!r} has the template {template!r}; expected {columns} in it."
        raise PluginError(message) from error


def _entry(table: Path, name: str, part: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    def fill(template: Any) -> Any:
        if isinstance(template, str):
            return _filled(table, name, template, values)
        return template

    own_id = fill(part["id"])
    texts = {field: fill(part.get(field)) for field in _TEXTS}
    numbers = {field: _number(fill(part.get(field))) for field in _NUMBERS}
    if "layer" not in part and "layer" in values:
        numbers["layer"] = int(values["layer"])
    repository = texts.pop("repo")
    texts["path"] = own_id if texts["path"] is None else texts["path"]
    try:
        check_relative(texts["path"])
    except PluginError as error:
        raise PluginError(f"{table}: release {name!r}: {error}") from error
    if texts["site"] not in (None, *SITES):
        message = expected_one_of("site", texts["site"], SITES)
        raise PluginError(f"{table}: release {name!r}: {message}")
    facts = {key: _number(fill(value)) for key, value in part["facts"].items()}
    return {
        "sae_id": f"{name}/{own_id}",
        "model": part["model"],
        "repo_id": repository,
        "facts": facts,
        "is_default": own_id == part.get("default"),
        **texts,
        **numbers,
    }


def _number(value: Any) -> Any:
    """Return the number that a text is, or what came."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    return int(value) if _INTEGER.fullmatch(value) else float(value)
