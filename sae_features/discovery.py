"""Plugins by entry points: names without importing, code on use, a broken one isolated."""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sae_features.errors import PluginError, SAEFeaturesWarning, expected_one_of

DISABLE_VARIABLE = "SAE_FEATURES_DISABLE_PLUGINS"
OWN_DISTRIBUTION = "sae-features"


@dataclass(frozen=True)
class PluginRecord:
    """One entry point, as its distribution's metadata say; nothing is imported for it."""

    name: str
    """Name that users type."""
    distribution: str
    """Distribution that registers it."""
    version: str
    """That distribution's version."""
    value: str
    """``module:object`` that is imported on use."""


@lru_cache(maxsize=8)
def records(group: str) -> tuple[PluginRecord, ...]:
    """Return what is registered under a group, by name; see :func:`refresh`."""
    found = {_record(entry) for entry in entry_points(group=group)}
    if os.environ.get(DISABLE_VARIABLE, "").lower() not in ("", "0", "false"):
        found = {record for record in found if record.distribution == OWN_DISTRIBUTION}
    return tuple(sorted(found, key=lambda record: (record.name, record.distribution)))


def names_of_group(group: str) -> tuple[str, ...]:
    """Return the names registered under a group, each once."""
    return tuple(dict.fromkeys(record.name for record in records(group)))


def load_entry_point(group: str, name: str) -> Any:
    """Import and return the object registered under a name; a failure is remembered.

    Parameters
    ----------
    group : str
        Entry-point group.
    name : str
        One of :func:`names_of_group`.

    Raises
    ------
    PluginError
        If the name is unknown, if two distributions register it, or if importing it fails.
    """
    loaded = _loaded(group, name)
    if isinstance(loaded, PluginError):
        raise PluginError(str(loaded)) from loaded.__cause__
    return loaded


@lru_cache(maxsize=256)
def _loaded(group: str, name: str) -> Any:
    """Return the object, or the PluginError that tells why there is none."""
    candidates = [record for record in records(group) if record.name == name]
    if not candidates:
        return PluginError(expected_one_of(group, name, names_of_group(group)))
    if len(candidates) > 1:
        owners = " and ".join(f"{c.distribution} {c.version}" for c in candidates)
        return PluginError(f"{owners} both register {name!r} in {group}; uninstall one of them.")
    record = candidates[0]
    try:
        return EntryPoint(record.name, record.value, group).load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 whatever a plugin does wrong
        message = (
            f"The plugin {name!r} of {record.distribution} {record.version} could not be imported: "
            f"{type(error).__name__}: {error}. Update or uninstall {record.distribution}."
        )
        failure = PluginError(message)
        failure.__cause__ = error
        return failure


def load_working(group: str) -> dict[str, Any]:
    """Return the objects of a group by name; warn once of each that is broken and leave it out."""
    working = {}
    for name in names_of_group(group):
        try:
            working[name] = load_entry_point(group, name)
        except PluginError as error:
            warn_once(str(error))
    return working


def import_object(reference: str) -> Any:
    """Import and return what ``"module:name"`` stands for."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def refresh() -> None:
    """Forget what was found, so that plugins installed meanwhile are seen."""
    importlib.invalidate_caches()
    records.cache_clear()
    _loaded.cache_clear()
    warn_once.cache_clear()


@lru_cache(maxsize=256)
def warn_once(message: str) -> None:
    """Issue an SAEFeaturesWarning the first time that a message comes."""
    warnings.warn(message, SAEFeaturesWarning, stacklevel=2)


def _record(entry: EntryPoint) -> PluginRecord:
    distribution = entry.dist
    if distribution is None:
        return PluginRecord(entry.name, "unknown", "unknown", entry.value)
    return PluginRecord(entry.name, distribution.name, distribution.version, entry.value)
