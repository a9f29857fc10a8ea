"""Writing the files of an SAE: all of them, or none."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from sae_features.errors import SAEFeaturesWarning, SAEFormatError, expected_one_of
from sae_features.parameters import DTYPES
from sae_features.saes.formats.conversion import check_finite
from sae_features.saes.formats.files import weights_in
from sae_features.saes.json_files import write_json
from sae_features.saes.labels import checked_label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sae_features.saes.autoencoder import SparseAutoencoder


LABELS = "labels.json"
WRITTEN = {
    "sae.json",
    "sae.safetensors",
    "cfg.json",
    "sae_weights.safetensors",
    "labels.json",
    "labels.csv",
}
"""Files that our formats write, or take labels from: those of a former SAE go when another is saved."""


def tensors_on_disk(sae: SparseAutoencoder, dtype: str | None) -> dict[str, torch.Tensor]:
    """Return the tensors of an SAE as they are stored, in its own type or another.

    They are copies: safetensors takes no tensors that share memory.

    Raises
    ------
    SAEFormatError
        If one is not finite in that type.
    """
    own = str(sae.dtype).removeprefix("torch.")
    if dtype is None and own not in DTYPES:
        raise SAEFormatError(expected_one_of("dtype", own, DTYPES))
    stored = getattr(torch, dtype) if dtype else sae.dtype
    tensors = {
        name: tensor.detach().to("cpu", stored).clone(memory_format=torch.contiguous_format)
        for name, tensor in sae.tensors()
    }
    for name, tensor in tensors.items():
        check_finite(name, tensor, "The SAE to be saved")
    return tensors


def no_words_for(complaint: str, library: str) -> SAEFormatError:
    """Return the error about an SAE that another library's format cannot express."""
    message = f"Got an SAE with {complaint}, which {library} has no words for. Save it with "
    return SAEFormatError(f"{message}format='sae-features'.")


def warn_of_folded_mean(sae: SparseAutoencoder, library: str) -> None:
    """Warn where the mean of each input, which is taken off, is in outputs no more."""
    if sae.input_norm == "center" and sae.denormalize:
        message = (
            f"input_norm='center' was folded into the encoder: {library} has no words for it. Latents "
            "are the same, but reconstructions lack the mean of each input."
        )
        warnings.warn(message, SAEFeaturesWarning, stacklevel=4)


def labels_on_disk(sae: SparseAutoencoder) -> dict[str, dict[str, str]]:
    """Return the file of an SAE's labels, if it has any: every format takes it.

    Raises
    ------
    SAEFormatError
        If they could not be read back.
    """
    for latent, label in sae.labels.items():
        checked_label(str(latent), label, sae.n_latents)
    labels = {str(latent): label for latent, label in sae.labels.items()}
    return {LABELS: labels} if labels else {}


def write_files(
    folder: Path,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    configs: Mapping[str, Mapping[str, Any]],
    *,
    check: Callable[[Path], Any] | None = None,
) -> Path:
    """Write safetensors and JSON files by name; nothing changes before all are written and checked.

    Parameters
    ----------
    folder : Path
        Created if needed.
    tensors : mapping of str to mapping of str to tensor
        Content of each safetensors file.
    configs : mapping of str to mapping
        Content of each JSON file.
    check : callable, optional
        Called with the folder of the draft; what it raises leaves all as it was.

    Raises
    ------
    SAEFormatError
        If the folder is a file, or holds weights that none of our formats wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise SAEFormatError(f"Got {str(folder)!r}, which is a file; expected a folder to save to.")
    others = weights_in(folder, but=WRITTEN)
    if others:
        message = (
            f"Got {str(folder)!r}, which holds {others[0].name}; expected a folder without weights of "
            "another library, which would make it ambiguous. Choose another one."
        )
        raise SAEFormatError(message)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        draft = Path(temporary)
        for name, content in configs.items():
            write_json(draft / name, content)
        for name, content in tensors.items():
            save_file(dict(content), draft / name)
            mode = (draft / next(iter(configs))).stat().st_mode
            (draft / name).chmod(mode)  # safetensors makes it private
        if check is not None:
            check(draft)
        for name in WRITTEN - set(configs) - set(tensors):
            (folder / name).unlink(missing_ok=True)
        for file in sorted(draft.iterdir()):
            file.replace(folder / file.name)
    return folder
