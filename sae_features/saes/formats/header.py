"""What the files of an SAE say, without its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sae_features.assets import file_sha256, known_sha256
from sae_features.saes.conventions import check_metadata, digest_of
from sae_features.saes.labels import read_labels

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sae_features.hook_point import HookPoint
    from sae_features.saes.conventions import Architecture


@dataclass(frozen=True, kw_only=True)
class SAEHeader:
    """What can be said of an SAE without reading its weights.

    Raises
    ------
    SAEFormatError
        If metadata that are acted on (model, ``max_length``, ``prepend_bos``) cannot be.
    """

    format: str
    """Name of the format."""
    path: Path
    """File or folder that it was read from."""
    weights: Path
    """File that holds the weights."""
    architecture: Architecture
    """As of :class:`~sae_features.SparseAutoencoder`."""
    d_in: int
    """Size of the activations that go in."""
    d_out: int
    """Size of the activations that come out."""
    n_latents: int
    """Number of latents."""
    dtype: str
    """Type of the weights on disk."""
    conventions: Mapping[str, Any] = field(default_factory=dict)
    """What beside the tensors determines the numbers (``k``, ``subtract_b_dec`` …)."""
    folded: Mapping[str, Any] = field(default_factory=dict)
    """What was used to bring the tensors into canonical form, and is not in ``conventions``."""
    has_decoder: bool = True
    """Whether the files hold ``W_dec``."""
    hook_point: HookPoint | None = None
    """Where in the model the inputs were read."""
    hook_point_out: HookPoint | None = None
    """Where the outputs of a transcoder belong."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Model, context and what else the files say."""
    labels_file: Path | None = None
    """File of the names of latents, if there is one."""
    nbytes: int = 0
    """Size of the weights on disk."""
    site_is_open: bool = False
    """Whether the release has SAEs of several sites, and the files do not say which this one is of."""
    warnings: tuple[str, ...] = ()
    """What the files leave open, each with the argument that settles it."""
    weights_sha256: str | None = None
    """Digest of the weights as the files themselves declare it, if they do."""

    def __post_init__(self) -> None:
        check_metadata(self.metadata)

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """Names of latents, read when they are asked for.

        Raises
        ------
        SAEFormatError
            If their file cannot be read.
        """
        return read_labels(self.labels_file, self.n_latents) if self.labels_file is not None else {}

    @property
    def is_digest_known(self) -> bool:
        """Whether :attr:`digest` can be told without reading the weights."""
        return (self.weights_sha256 or known_sha256(self.weights)) is not None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of weights and conventions: of the hub's blob name, or of the file read once."""
        weights = self.weights_sha256 or file_sha256(self.weights)
        return digest_of({**self.conventions, **self.folded}, weights)
