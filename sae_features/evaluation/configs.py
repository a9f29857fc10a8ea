"""Protocols from TOML files: every key checked, an unknown one named with the nearest that there is."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import AssetNotFoundError, InvalidParameterError, expected_one_of
from sae_features.evaluation.labelled_files import HUB, Columns, read_labelled
from sae_features.evaluation.methods import LatentChoices, ModelChoice
from sae_features.evaluation.plan import ComparisonPlan
from sae_features.families import families
from sae_features.parameters import check_count
from sae_features.sae_registry import known_sae

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sae_features.evaluation.labelled import LabelledItems

NOTHING = "none"
"""What stands for no threshold, or no limit, in a list; TOML has no word for it."""
LISTS = (
    "models", "layers", "saes", "poolings", "thresholds", "binarize", "token_top_n", "baselines",
    "classifiers", "strengths", "few_shot", "center", "aligners",
)  # fmt: skip
NOT_IN_FILES = ("folder", "verbose")
DATA_KEYS = ("path", "name", "where", "rename", "max_items", *Columns._fields)


class Config:
    """A TOML file, as it was read.

    Parameters
    ----------
    path : str or Path
    data : str or Path, optional
        Folder that paths of data are relative to; the file's own if not given.  Models and SAEs are
        looked for beside the file, then there.

    Attributes
    ----------
    values : dict
        What is in it.

    Raises
    ------
    AssetNotFoundError
        If the file is not there.
    InvalidParameterError
        If it is not TOML.
    """

    def __init__(self, path: str | Path, data: str | Path | None = None) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise AssetNotFoundError(f"Got {str(path)!r}; expected a TOML file there.")
        try:
            self.values: dict[str, Any] = tomllib.loads(self.path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidParameterError(f"{path} is not TOML: {error}.") from error
        self.base = self.path.parent if data is None else Path(data).expanduser()

    def check_keys(
        self, known: Iterable[str], values: Mapping[str, Any] | None = None, at: str = ""
    ) -> None:
        """Raise InvalidParameterError where a key is not one of those that there are."""
        options = list(known)
        for name in self.values if values is None else values:
            if name not in options:
                message = f"{self.path.name}{at}: {expected_one_of('key', name, options)}"
                raise InvalidParameterError(message + _misplaced(name, at))

    def parameters(self, kind: type[ComparisonPlan]) -> dict[str, Any]:
        """Return the parameters of a protocol that the file gives, of the types that it takes."""
        given = {}
        for name in parameters_of(kind):
            if name not in self.values:
                continue
            value = self.values[name]
            if name in LISTS and not isinstance(value, list):
                message = f"{self.path.name}: got {name} = {value!r}; expected a list: [{value!r}]."
                raise InvalidParameterError(message)
            value = _with_none(name, value)
            if name == "models":
                value = [self._model(model, i) for i, model in enumerate(value)]
            if name == "saes":
                value = [self._sae(sae) for sae in value]
            given[name] = value
        return given

    def _model(self, value: Any, number: int) -> Any:
        """Return a model as it is taken: a folder is one beside the file."""
        if isinstance(value, str):
            return self._folder(value)
        if not isinstance(value, dict):
            message = f"{self.path.name}: got models[{number}] = {value!r}; expected a name or a table."
            raise InvalidParameterError(message)
        self.check_keys(ModelChoice.__dataclass_fields__, value, f", models[{number}]")
        if "model" not in value:
            raise InvalidParameterError(f"{self.path.name}, models[{number}]: has no model; name one.")
        for name in ("layers", "saes", *LatentChoices.__dataclass_fields__):
            if name in value and not isinstance(value[name], list):
                given = f"{self.path.name}, models[{number}]: got {name} = {value[name]!r}"
                raise InvalidParameterError(f"{given}; expected a list: [{value[name]!r}].")
        found = {name: _with_none(name, each) for name, each in value.items()}
        if "saes" in value:
            found["saes"] = [self._sae(sae) for sae in value["saes"]]
        return found | {"model": self._folder(value["model"])}

    def _folder(self, model: Any) -> Any:
        """Return the folder of a model beside the file; a name that is known is no folder."""
        aliases = {name for family in families().values() for name in family.aliases}
        return model if model in aliases else self._near(model)

    def _sae(self, sae: Any) -> Any:
        """Return the file or folder of an SAE beside the file; an id that is known is none."""
        return sae if not isinstance(sae, str) or known_sae(sae) is not None else self._near(sae)

    def _near(self, name: Any) -> Any:
        """Return what lies beside the file, or in the folder of data, by that name, or else the name."""
        if not isinstance(name, str):
            return name
        for folder in (self.path.parent, self.base):
            place = folder / Path(name).expanduser()
            if place.exists():
                return place.resolve()
        return name

    def data(self, key: str = "data") -> list[LabelledItems]:
        """Return the labelled data that the file names; a path with ``*`` stands for several.

        Raises
        ------
        InvalidParameterError
            If there is none, or a key is not known.
        """
        tables = self.tables(key)
        if not tables:
            message = f"{self.path.name} names no data; add a table [[{key}]] with path = …"
            raise InvalidParameterError(message)
        found = []
        for number, table in enumerate(tables):
            at = f", {key}[{number}]"
            found += [self.labelled(each, at) for each in self._each_path(table, at)]
        return found

    def _each_path(self, table: dict[str, Any], at: str) -> list[dict[str, Any]]:
        """Return a table for each file or folder that its path stands for."""
        path = table.get("path")
        if not isinstance(path, str) or path.startswith(HUB) or "*" not in path:
            return [table]
        if "name" in table:
            message = f"{self.path.name}{at}: got a name for all of path = {path!r}; leave it out: each "
            raise InvalidParameterError(f"{message}is called as its file.")
        pattern = (self.base / Path(path).expanduser()).absolute()
        root = Path(pattern.anchor)
        places = sorted(root.glob(str(pattern.relative_to(root))))
        if not places:
            message = f"{self.path.name}{at}: got path = {path!r}; nothing in {self.base} is so called."
            raise AssetNotFoundError(message)
        return [table | {"path": str(place)} for place in places]

    def tables(self, key: str) -> list[dict[str, Any]]:
        """Return the tables called ``[[key]]``."""
        found = self.values.get(key, [])
        if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
            message = f"{self.path.name}: {key} is no list of tables; write [[{key}]] before each."
            raise InvalidParameterError(message)
        return list(found)

    def labelled(self, table: Mapping[str, Any], at: str) -> LabelledItems:
        """Return the labelled data of one table."""
        self.check_keys(DATA_KEYS, table, at)
        if "path" not in table:
            raise InvalidParameterError(f"{self.path.name}{at}: has no path; say where the data are.")
        for name in ("path", "name", *Columns._fields):
            if not isinstance(table.get(name, ""), str):
                message = f"{self.path.name}{at}: got {name} = {table[name]!r}; expected a text."
                raise InvalidParameterError(message)
        columns = {name: table[name] for name in Columns._fields if name in table}
        found = read_labelled(
            self.place(table["path"]),
            columns=columns,
            where=table.get("where"),
            rename=table.get("rename"),
            name=table.get("name"),
        )
        most = table.get("max_items")
        check_count("max_items", most)
        return found if most is None else found.sample(most, seed=0)

    def place(self, path: str) -> str | Path:
        """Return where a path of the file leads."""
        return path if path.startswith(HUB) else self.base / Path(path).expanduser()


def _misplaced(name: str, at: str) -> str:
    """Return where a key belongs that stands in another place than its own, or nothing.

    Examples
    --------
    >>> _misplaced("cv", ", data[0]"), _misplaced("cw", ", data[0]")
    (' cv is a key of the whole file; put it above the first [table].', '')
    """
    if at and name in parameters_of(ComparisonPlan):
        return f" {name} is a key of the whole file; put it above the first [table]."
    return f" {name} is a key of [[data]]." if not at and name in DATA_KEYS else ""


def _with_none(name: str, value: Any) -> Any:
    """Return a value with None for the word that stands for it."""
    if name not in {"thresholds", "token_top_n"}:
        return value
    return [None if each == NOTHING else each for each in value]


def parameters_of(kind: type[ComparisonPlan]) -> list[str]:
    """Return the names of the parameters of a protocol that a file may give."""
    names: dict[str, None] = {}
    for each in (kind, ComparisonPlan):
        for name, parameter in inspect.signature(each.__init__).parameters.items():
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD:
                names[name] = None
    return [name for name in names if name not in NOT_IN_FILES]
