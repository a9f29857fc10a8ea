"""Loaded weights, shared by everything in a process and bounded in number.

Estimators hold names, not weights: clones, folds and pipelines share what is loaded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidParameterError
from sae_features.models import ModelFiles, find_model
from sae_features.parameters import check_device, check_dtype
from sae_features.sharing import Shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sae_features.saes.autoencoder import SparseAutoencoder

AUTO_DEVICE = "auto"
"""Not one device: accelerate spreads the model."""
MAX_BACKBONES = 2
"""Backbones kept at a time; the least recently used one goes first."""
MAX_SAES = 8
"""SAEs kept at a time."""


_backbones = Shared(MAX_BACKBONES)
_saes = Shared(MAX_SAES)


def load_backbone(model: str | Path, *, device: str | None = None, dtype: str | None = None) -> Any:
    """Load a pretrained model, or take it from those that are loaded.

    Parameters
    ----------
    model : str or Path
        An alias (``"minilm"``), a local folder, or ``owner/name`` on the Hugging Face hub.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; a GPU if there is one, when not given.
        ``"auto"`` spreads a model that is larger than one device over all of them (with accelerate).
    dtype : {"float32", "bfloat16", "float16", "float64"}, optional
        Type that is computed in; float32 when not given, whatever the checkpoint holds.

    Returns
    -------
    backbone
        With ``activations(items, layer=…)``; see :class:`sae_features.backbones.backbone.Backbone`.

    Raises
    ------
    AssetNotFoundError, CheckpointError, PluginError
        As the message says.

    Examples
    --------
    >>> from sae_features import load_backbone
    >>> load_backbone("minilm").n_layers
    6
    """
    check_device(device)
    check_dtype(dtype)
    return backbone_of(find_model(model), device=device, dtype=dtype)


def backbone_of(files: ModelFiles, *, device: str | None, dtype: str | None) -> Any:
    """Return the backbone of files that were found; one per content, device and type."""
    place = AUTO_DEVICE if device == AUTO_DEVICE else choose_device(device)
    kind = dtype or "float32"
    key = (files.weights_digest, files.processor_digest, place, kind)
    return _backbones.get(
        key,
        lambda: files.family.backbone_class().load(
            files.folder, files.architecture, device=place, dtype=kind
        ),
    )


def shared_sae(
    digest: str, device: str | None, dtype: str, make: Callable[[str], SparseAutoencoder]
) -> Any:
    """Return an SAE by its digest, made on first use for a device and a type of the model.

    It computes in float32, but for bfloat16, which has the same range: there in that.
    """
    place = choose_device(None if device == AUTO_DEVICE else device)
    if dtype != "bfloat16":
        return _saes.get((digest, place, "float32"), lambda: make(place))
    return _saes.get((digest, place, dtype), lambda: make(place).to(dtype=dtype))


def release_weights() -> int:
    """Let go of all backbones and SAEs that this process has loaded.

    They are loaded again when they are needed.

    Returns
    -------
    int
        How many were let go.

    Examples
    --------
    >>> from sae_features.weights import release_weights
    >>> _ = release_weights()
    >>> release_weights()
    0
    """
    return _backbones.clear() + _saes.clear()


def loaded_counts() -> dict[str, int]:
    """Return how many backbones and SAEs are loaded."""
    return {"backbones": len(_backbones), "saes": len(_saes)}


def choose_device(device: str | None) -> str:
    """Return the device to compute on.

    Raises
    ------
    InvalidParameterError
        If torch does not know or does not have it.
    """
    import torch

    if device is None:
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        message = f"Got device={device!r}, which torch cannot use here: {str(error).splitlines()[0]}"
        raise InvalidParameterError(message) from error
    return device
