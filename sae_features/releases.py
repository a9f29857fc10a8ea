"""SAEs by id, file, folder or ``random:…``; nothing is loaded until it is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import AssetNotFoundError, InvalidParameterError, SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.parameters import DTYPES, check_choice
from sae_features.sae_registry import closest_saes, known_sae, missing_plugins
from sae_features.sae_sources import SAESource, sae_folder
from sae_features.saes.formats import SAEFiles, SAEFormat, SAEHeader, find_format
from sae_features.weights import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.saes.autoencoder import SparseAutoencoder

MAX_RANDOM_WIDTH = 2**24
RANDOM = re.compile(r"random:(\d{1,9}):(\d{1,9})(?::(\d{1,18}))?")


@dataclass(frozen=True)
class FileSAE:
    """An SAE whose files were found.

    Attributes
    ----------
    name : str
        Id, file or folder, as it was asked for.
    header : SAEHeader
        What its files say.
    reader : SAEFormat
        Reads them.
    files : SAEFiles
        The files themselves.
    source : SAESource, optional
        What is known of it besides: by the plugin that brings it, or a release table.
    overrides : mapping
        What the caller adds where the files are silent.
    """

    name: str
    header: SAEHeader
    reader: SAEFormat
    files: SAEFiles
    source: SAESource | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return self.header.n_latents

    @property
    def labels(self) -> Mapping[int, str]:
        """Names of latents."""
        return self.header.labels

    @property
    def hook_point(self) -> HookPoint | None:
        """Where it reads its model: as the files say, or else the release."""
        source = self.source
        if self.header.hook_point is None and source and source.layer is not None and source.site:
            return HookPoint(source.layer, source.site)
        return self.header.hook_point

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Model, context and what else its files say, or else the release."""
        if self.source is None:
            return self.header.metadata
        known = {
            "model": self.source.model,
            "hook_name": self.source.hook,
            "neuronpedia_id": self.source.facts.get("neuronpedia"),
            "max_length": self.source.facts.get("context_size"),
            "prepend_bos": self.source.facts.get("prepend_bos"),
        }
        stated = {name: fact for name, fact in known.items() if fact is not None}
        return stated | dict(self.header.metadata)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the files leave open."""
        return self.header.warnings

    def d_in(self, d_model: int) -> int:  # noqa: ARG002 as RandomSAE
        """Size of the activations that it takes."""
        return self.header.d_in

    def digest(self, d_model: int) -> str:  # noqa: ARG002 as RandomSAE
        """SHA-256 of what determines its numbers."""
        return self.header.digest

    def load(
        self,
        d_model: int,  # noqa: ARG002 as RandomSAE
        device: str,
        *,
        dtype: str = "float32",
        decoder: bool = False,
    ) -> SparseAutoencoder:
        """Load it; unless told otherwise, only what encoding needs."""
        sae = self.reader.load(self.files, device=device, dtype=dtype, decoder=decoder, **self.overrides)
        if self.source is None:
            return sae
        from sae_features.saes.provenance import remember_files

        return remember_files(
            replace(sae, hook_point=self.hook_point, metadata=self.metadata), self.header
        )


@dataclass(frozen=True)
class RandomSAE:
    """The random control, ``random:WIDTH:K[:SEED]``: it fits any model and hook point."""

    name: str
    n_latents: int
    k: int
    seed: int = 0
    labels: Mapping[int, str] = field(default_factory=dict)
    hook_point: HookPoint | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def d_in(self, d_model: int) -> int:
        """Size of the activations that it takes: whatever the model has."""
        return d_model

    def digest(self, d_model: int) -> str:
        """What determines its numbers."""
        return f"random:{self.n_latents}:{self.k}:{self.seed}:{d_model}"

    def load(self, d_model: int, device: str) -> SparseAutoencoder:
        """Make it."""
        from sae_features.saes.random_control import random_autoencoder

        return random_autoencoder(d_model, self.n_latents, self.k, seed=self.seed, device=device)


SAEReference = FileSAE | RandomSAE


def find_sae(
    sae: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    k: int | None = None,
    norm_scale: float | None = None,
) -> SAEReference:
    """Find an SAE and read what its files say, without its weights.

    Parameters
    ----------
    sae : str or Path
        An id that a plugin or a release table knows (``"minilm-topk-4k/layer_3"``), with
        ``@REVISION`` to pin its repository; a file or folder; or ``"random:WIDTH:K[:SEED]"``.
    format : str, optional
        Format of the files; detected if not given.
    k, norm_scale : optional
        Number of latents and input scale; only where the files do not say.

    Raises
    ------
    AssetNotFoundError
        If nothing is known by that name and no file is there.
    SAEFormatError
        If the files are damaged or of no known format.
    InvalidParameterError
        If a ``random:`` SAE cannot be, or an argument has no use.
    PluginError
        If plugins of several families bring an SAE of that id.
    """
    given_sae: Any = sae
    if not isinstance(given_sae, str | Path) or not str(sae):
        message = f"Got sae={sae!r}; expected the id of an SAE, a file, a folder, or 'random:WIDTH:K'."
        raise InvalidParameterError(message)
    name = str(sae)
    if name.startswith("random:"):
        return _random_sae(name)
    given: dict[str, Any] = {"k": k, "norm_scale": norm_scale}
    path = Path(sae).expanduser()
    source = known_sae(name) if isinstance(sae, str) else None
    if source is not None:
        return sae_of_source(source, format=format, **given)
    if not path.exists():
        raise AssetNotFoundError(_unknown(name))
    return _file_sae(name, path, format, given)


def sae_of_source(
    source: SAESource,
    *,
    format: str | None = None,  # noqa: A002
    k: int | None = None,
    norm_scale: float | None = None,
) -> FileSAE:
    """Return the SAE that a plugin or a release table knows, fetching its files if need be."""
    given = {"k": k, "norm_scale": norm_scale}
    return _file_sae(source.sae_id, sae_folder(source), format or source.format, given, source)


def _file_sae(
    name: str,
    path: Path,
    format: str | None,  # noqa: A002
    given: Mapping[str, Any],
    source: SAESource | None = None,
) -> FileSAE:
    known = {}
    if source is not None:
        facts = {
            "k": source.k,
            "norm_scale": source.norm_scale,
            "config": source.facts.get("config_overrides"),
            "centred": source.facts.get("centred"),
        }
        known = {key: value for key, value in facts.items() if value is not None}
    _, reader, files = find_format(path, format, known=known)
    overrides = {key: value for key, value in given.items() if value is not None}
    header = reader.read_header(files, **overrides)
    if known.get("centred") and header.conventions.get("input_norm") != "center":
        message = (
            f"The release of {name!r} says that it reads centred activations, which the format "
            f"{header.format!r} does not know of; expected files that say it themselves."
        )
        raise SAEFormatError(message)
    return FileSAE(name, header, reader, files, source, overrides)


def _unknown(name: str) -> str:
    near = closest_saes(name)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    missing = missing_plugins()
    if missing:
        named = ", ".join(missing)
        hint += f" SAEs of a model come with the plugin of its family; not installed: {named}."
    return (
        f"Got sae={name!r}; expected the id of an SAE (`sae-features saes` lists them), a file, a "
        f"folder, or 'random:WIDTH:K'; nothing is there.{hint}"
    )


def load_sae(
    sae: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    device: str = "cpu",
    dtype: str = "float32",
    decoder: bool = True,
    k: int | None = None,
    norm_scale: float | None = None,
) -> SparseAutoencoder:
    """Load a sparse autoencoder.

    Parameters
    ----------
    sae : str or Path
        An id that a plugin or a release table knows (``"minilm-topk-4k/layer_3"``,
        ``"gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"``), with ``@REVISION`` to pin its
        repository; or a file or folder.
    format : str, optional
        Name of the files' format; detected from the files if not given.
    device : str, default="cpu"
        Where the weights go.
    dtype : {"float32", "bfloat16", "float16", "float64"}, default="float32"
        Type that is computed in, whatever the files hold; ``digest`` is that of the files in any.
    decoder : bool, default=True
        Whether to load ``W_dec``; encoding does not need it.
    k, norm_scale : optional
        Number of latents and input scale; only where the files do not say.

    Returns
    -------
    SparseAutoencoder

    Raises
    ------
    AssetNotFoundError
        If nothing is known by that name and no file is there.
    SAEFormatError
        If the files are damaged or of no known format.
    InvalidParameterError
        If an argument cannot be, or contradicts the files.

    Warns
    -----
    SAEFeaturesWarning
        Where the files leave open what the numbers depend on; the message names the argument that
        settles it.

    Examples
    --------
    >>> from sae_features import load_sae
    >>> sae = load_sae("minilm-topk-4k/layer_3")
    >>> sae.d_in, sae.n_latents, sae.architecture
    (384, 4096, 'topk')
    """
    check_choice("dtype", dtype, DTYPES)
    found = find_sae(sae, format=format, k=k, norm_scale=norm_scale)
    if isinstance(found, RandomSAE):
        message = f"Got sae={found.name!r}, whose size depends on a model; use it in SAEFeaturizer."
        raise InvalidParameterError(message)
    return found.load(0, choose_device(device), dtype=dtype, decoder=decoder)


def _random_sae(name: str) -> RandomSAE:
    match = RANDOM.fullmatch(name)
    if match:
        n_latents, k, seed = (int(group or 0) for group in match.groups())
        if 1 <= k <= n_latents <= MAX_RANDOM_WIDTH:
            return RandomSAE(name, n_latents, k, seed)
    message = (
        f"Got sae={name!r}; expected 'random:WIDTH:K' or 'random:WIDTH:K:SEED', "
        f"1 <= K <= WIDTH <= {MAX_RANDOM_WIDTH}."
    )
    raise InvalidParameterError(message)
