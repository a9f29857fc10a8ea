"""An SAE that is known by name: where its files are, what is known of them, and fetching them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae_features.assets import hub_folder, package_folder
from sae_features.errors import AssetNotFoundError, PluginError
from sae_features.sae_files import has_weights, patterns_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class SAESource:
    """An SAE that a plugin or a release table knows.

    Attributes
    ----------
    sae_id : str
        ``release/sae_id``, as users type it; ``@REVISION`` at its end where they pinned one.
    model : str
        Alias or repository of its model.
    layer : int or None
        Block that it reads, counted from 0, if it is one.
    site : str or None
        What it reads there; None where no site stands for it.
    package, package_path : str
        Where its files stand in an installed package …
    repo_id, revision, path : str
        … or in a repository on the Hugging Face hub: its commit, tag or branch, and a file or folder.
    format : str, optional
        Name of the files' format; detected if not known.
    hook : str, optional
        What it reads, in the release's own words.
    k, norm_scale : optional
        Number of latents and input scale, where the files do not say.
    facts : mapping
        What else is known: ``l0``, ``width``, ``neuronpedia`` …  Numbers depend on two of them:
        ``centred`` (it reads activations less their mean over dimensions) and
        ``config_overrides`` (what its configuration should say and does not).
    is_default : bool
        Whether it is taken when a model is named without a layer.
    """

    sae_id: str
    model: str
    layer: int | None
    site: str | None = "resid_post"
    package: str | None = None
    package_path: str = ""
    repo_id: str | None = None
    revision: str | None = None
    path: str = ""
    format: str | None = None
    hook: str | None = None
    k: int | None = None
    norm_scale: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)
    is_default: bool = False


def sae_folder(source: SAESource) -> Path:
    """Return the folder, or file, of a known SAE, fetched from the hub if need be.

    Raises
    ------
    AssetNotFoundError
        If the package lacks it, or the hub does, or cannot be reached.
    """
    if source.package is not None:
        folder = package_folder(source.package, source.package_path)
        if folder is None:
            message = f"The files of {source.sae_id!r} are missing in {source.package}; reinstall it."
            raise AssetNotFoundError(message)
        return folder
    if source.repo_id is None:
        raise PluginError(f"The SAE {source.sae_id!r} names neither a package nor a repository.")
    snapshot = hub_folder(
        source.repo_id,
        source.revision,
        patterns_of(source.path),
        is_complete=lambda folder: has_weights(folder, source.path),
    )
    if not has_weights(snapshot, source.path):
        where = f"{source.repo_id!r} at revision {source.revision or 'main'}"
        message = (
            f"The files of {source.sae_id!r} are not in {where}: no weights in {source.path!r}. The "
            "release may have changed; pin an older one by …@COMMIT, or point to a local folder."
        )
        raise AssetNotFoundError(message)
    return snapshot / source.path
