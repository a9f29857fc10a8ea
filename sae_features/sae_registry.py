"""SAEs that are known by id: those that plugins bring, and those of their release tables."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sae_features import discovery, release_tables
from sae_features.errors import InvalidParameterError, PluginError
from sae_features.families import families, list_families
from sae_features.model_names import hub_id
from sae_features.models import names_of_model
from sae_features.sae_sources import SAESource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

WITH_RELEASES = ("gemma", "gpt", "llama", "qwen", "vision")
"""Families whose plugins, ``sae-features-NAME``, bring tables of public SAEs."""


def known_saes(model: str | None = None) -> list[SAESource]:
    """Return the SAEs of all working families and of their release tables.

    Parameters
    ----------
    model : str, optional
        Only those of this model: an alias, a repository or its name in TransformerLens.
    """
    names = None if model is None else names_of_model(model)
    found: dict[str, SAESource] = {}
    for family in families().values():
        for source in family.saes:
            if names is None or source.model in names or hub_id(source.model) in names:
                found.setdefault(source.sae_id, source)
    for table in _tables():
        try:
            for entry in release_tables.entries(table, names):
                if entry["sae_id"] not in found:
                    found[entry["sae_id"]] = SAESource(**entry)
        except PluginError as error:
            discovery.warn_once(f"{error} The table is left out.")
    return list(found.values())


def known_sae(sae_id: str) -> SAESource | None:
    """Return the SAE of an id, or None; one that a family brings goes before those of its tables.

    Parameters
    ----------
    sae_id : str
        ``release/sae_id``, or ``release/sae_id@REVISION`` for a revision of its repository.

    Raises
    ------
    PluginError
        If more than one family brings an SAE of that id, or the table that has it is damaged.
    InvalidParameterError
        If a revision is given of an SAE that is in an installed package.
    """
    source = _find_sae(sae_id)
    own_id, _, revision = sae_id.rpartition("@")
    if source is not None or not (own_id and revision):
        return source
    source = _find_sae(own_id)
    if source is None:
        return None
    if source.repo_id is None:
        message = f"Got {sae_id!r}; {own_id!r} is in an installed package: leave '@{revision}' out."
        raise InvalidParameterError(message)
    return replace(source, sae_id=sae_id, revision=revision)


def closest_saes(name: str, n: int = 3) -> list[str]:
    """Return known ids that are nearly a given one, for an error about it.

    Parameters
    ----------
    name : str
        What was asked for; ``owner/repository/path`` of a known repository will do, too.
    n : int, default=3
        How many at most.
    """
    releases: dict[str, Callable[[], list[str]]] = {}
    own: dict[str, list[str]] = {}
    for family in families().values():
        for source in family.saes:
            release, _, own_id = source.sae_id.partition("/")
            own.setdefault(release, []).append(own_id)
    for table in _tables():
        for release in release_tables.release_names(table):
            releases.setdefault(release, partial(release_tables.ids_of_release, table, release))
        for repository, of_it in release_tables.repositories(table).items():
            if name.startswith(f"{repository}/"):
                name = of_it[0] + name.removeprefix(repository)
    releases |= {release: partial(list, ids) for release, ids in own.items()}
    return release_tables.closest(name.partition("@")[0], n, releases)


def missing_plugins() -> list[str]:
    """Return the plugins with tables of public SAEs that are not installed."""
    installed = {record.distribution for record in list_families().values()}
    return [plugin for name in WITH_RELEASES if (plugin := f"sae-features-{name}") not in installed]


def _tables() -> list[Path]:
    """Return the release tables of all families; a missing one is warned of once."""
    tables: list[Path] = []
    for family in families().values():
        for reference in family.release_tables:
            try:
                tables.append(release_tables.table_of_package(reference))
            except PluginError as error:
                discovery.warn_once(f"{error} The family {family.name!r} lacks its SAEs.")
    return tables


def _find_sae(sae_id: str) -> SAESource | None:
    """Return the SAE of an id as it stands."""
    claims = {}
    for name, family in families().items():
        source = next((source for source in family.saes if source.sae_id == sae_id), None)
        if source is None and family.release_tables:
            source = _entry_in(map(release_tables.table_of_package, family.release_tables), sae_id)
        if source is not None:
            claims[name] = source
    if len(claims) > 1:
        named = " and ".join(claims)
        raise PluginError(f"The families {named} both have an SAE {sae_id!r}; keep one of them.")
    return next(iter(claims.values()), None)


def _entry_in(tables: Iterable[Path], sae_id: str) -> SAESource | None:
    for table in tables:
        entry = release_tables.find_entry(table, sae_id)
        if entry is not None:
            return SAESource(**entry)
    return None
