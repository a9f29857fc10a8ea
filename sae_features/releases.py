"""SAEs by id, file, folder or ``random:…``; nothing is loaded until it is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import AssetNotFoundError, InvalidParameterError, expected_one_of
from sae_features.families import SAESource, known_sae, known_saes, sae_folder
from sae_features.parameters import DTYPES, check_choice
from sae_features.saes.formats import SAEHeader, find_format
from sae_features.weights import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.hook_point import HookPoint
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
    source : SAESource, optional
        What the plugin says that brings it.
    """

    name: str
    header: SAEHeader
    source: SAESource | None = None

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
        """Where it reads its model."""
        return self.header.hook_point

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Model, context and what else its files say."""
        return self.header.metadata

    def d_in(self, d_model: int) -> int:  # noqa: ARG002 as RandomSAE
        """Size of the activations that it takes."""
        return self.header.d_in

    def digest(self, d_model: int) -> str:  # noqa: ARG002 as RandomSAE
        """SHA-256 of what determines its numbers."""
        return self.header.digest

    def load(self, d_model: int, device: str) -> SparseAutoencoder:  # noqa: ARG002 as RandomSAE
        """Load what encoding needs."""
        _, reader = find_format(self.header.path, self.header.format)
        return reader.load(self.header.path, device=device, dtype="float32", decoder=False)


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
        from sae_features.saes.autoencoder import random_autoencoder

        return random_autoencoder(d_model, self.n_latents, self.k, seed=self.seed, device=device)


SAEReference = FileSAE | RandomSAE


def find_sae(sae: str | Path, *, format: str | None = None) -> SAEReference:  # noqa: A002
    """Find an SAE and read what its files say, without its weights.

    Parameters
    ----------
    sae : str or Path
        An id that a plugin knows (``"minilm-topk-4k/layer_3"``), a file or folder, or
        ``"random:WIDTH:K[:SEED]"``.
    format : str, optional
        Format of the files; detected if not given.

    Raises
    ------
    AssetNotFoundError
        If nothing is known by that name and no file is there.
    SAEFormatError
        If the files are damaged or of no known format.
    InvalidParameterError
        If a ``random:`` SAE cannot be.
    PluginError
        If plugins of several families bring an SAE of that id.
    """
    name = str(sae)
    if name.startswith("random:"):
        return _random_sae(name)
    source = known_sae(name) if isinstance(sae, str) else None
    if source is not None:
        return sae_of_source(source)
    path = Path(sae).expanduser()
    if not path.exists():
        known = [source.sae_id for source in known_saes()]
        options = expected_one_of("sae", name, known) if known else f"Got sae={name!r}."
        message = f"{options} A file, a folder or 'random:WIDTH:K' will do, too; no file is there."
        raise AssetNotFoundError(message)
    _, reader = find_format(path, format)
    return FileSAE(name, reader.read_header(path))


def sae_of_source(source: SAESource) -> FileSAE:
    """Return the SAE that a plugin brings."""
    folder = sae_folder(source)
    _, reader = find_format(folder)
    return FileSAE(source.sae_id, reader.read_header(folder), source)


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
        An id that a plugin knows (``"minilm-topk-4k/layer_3"``), or a file or folder.
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

    Examples
    --------
    >>> from sae_features import load_sae
    >>> sae = load_sae("minilm-topk-4k/layer_3")
    >>> sae.d_in, sae.n_latents, sae.architecture
    (384, 4096, 'topk')
    """
    check_choice("dtype", dtype, DTYPES)
    found = find_sae(sae, format=format)
    if isinstance(found, RandomSAE):
        message = f"Got sae={found.name!r}, whose size depends on a model; use it in SAEFeaturizer."
        raise InvalidParameterError(message)
    _, reader = find_format(found.header.path, found.header.format)
    return reader.load(
        found.header.path,
        device=choose_device(device),
        dtype=dtype,
        decoder=decoder,
        k=k,
        norm_scale=norm_scale,
    )


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
