"""The tensors of our own format: the half of it that needs torch."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from sae_features.errors import SAEFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sae_features.saes.autoencoder import SparseAutoencoder


def tensors_on_disk(sae: SparseAutoencoder, dtype: str | None) -> dict[str, torch.Tensor]:
    """Return the tensors of an SAE as they are stored, in its own type or another.

    They are copies: safetensors takes no tensors that share memory.

    Raises
    ------
    SAEFormatError
        If one is not finite in that type.
    """
    stored = getattr(torch, dtype) if dtype else sae.dtype
    tensors = {
        name: tensor.detach().to("cpu", stored).clone(memory_format=torch.contiguous_format)
        for name, tensor in sae.tensors()
    }
    _check_finite(tensors)
    return tensors


def read_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    stored: str,
    device: str,
    dtype: str,
    decoder: bool,
) -> dict[str, torch.Tensor]:
    """Read the tensors of an SAE from a safetensors file.

    Parameters
    ----------
    path : Path
        The file.
    shapes : mapping of str to tuple of int
        All tensors that it may hold; of these only ``W_dec`` may be missing.
    stored : str
        Type that they must have in the file.
    device, dtype : str
        What they become.
    decoder : bool
        Whether to read ``W_dec`` if it is there.

    Raises
    ------
    SAEFormatError
        If the file is damaged, holds other tensors, or one is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            present = set(file.keys())
            required = set(shapes) - {"W_dec"}
            if not required <= present <= set(shapes):
                found = reprlib.repr(sorted(present))
                raise SAEFormatError(f"got tensors {found}; expected {sorted(shapes)}.")
            wanted = sorted(present if decoder else required)
            for name in wanted:
                shape = tuple(file.get_slice(name).get_shape())
                if shape != shapes[name]:
                    raise SAEFormatError(f"got {name} of shape {shape}; expected {shapes[name]}.")
            tensors = {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise SAEFormatError(f"not a whole safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype != getattr(torch, stored):
            message = f"got {name} of type {tensor.dtype}; expected {stored}, as the header says."
            raise SAEFormatError(message)
    converted = {name: tensor.to(device, getattr(torch, dtype)) for name, tensor in tensors.items()}
    _check_finite(converted)
    return converted


def _check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            message = f"{name} holds NaN or infinity; expected finite {tensor.dtype} weights."
            raise SAEFormatError(message)
