"""Loading models and tokenizers of transformers from local folders, safely and in silence."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from sae_features.checkpoints import has_vocabulary, weight_files
from sae_features.errors import CheckpointError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

AUTO_DEVICE = "auto"
"""Blocks are spread over devices by accelerate."""
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_model(folder: Path, loader: str, *, device: str, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Load a model from a local folder.

    Parameters
    ----------
    folder : Path
        With ``config.json`` and safetensors weights.
    loader : str
        Class of transformers.
    device : str
        Where it goes; ``"auto"`` spreads it over all devices with accelerate.
    dtype : torch.dtype
        Type that is computed in.

    Returns
    -------
    model : torch.nn.Module
    random_heads : list of str
        Weights of pooling heads that the files lack: what they give is random.

    Raises
    ------
    CheckpointError
        If other weights are missing in the files, or the files cannot be read.
    MissingDependencyError
        If ``device="auto"`` needs accelerate.
    """
    import transformers

    weight_files(folder)  # refuses what would make transformers load others
    spread = {"device_map": AUTO_DEVICE} if device == AUTO_DEVICE else {}
    if spread:
        check_accelerate()
    kind = getattr(transformers, loader)
    try:
        config = load_config(folder)
        with quiet_transformers():
            model, report = kind.from_pretrained(
                folder,
                # A tower alone takes its own part of the configuration by itself.
                **({"config": config} if kind is transformers.AutoModel else {}),
                dtype=dtype,
                attn_implementation=None,  # transformers' choice: the config's may be code on the hub
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **spread,
                **LOCAL,
            )
    except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"The model in {folder} could not be loaded: {error}") from error
    _refuse_random(folder, model, report)
    heads = [name for name in report["missing_keys"] if _is_head(name)]
    return (model if spread else model.to(device)), heads


def load_config(folder: Path) -> Any:
    """Return a folder's configuration with all defaults filled in.

    Raises
    ------
    CheckpointError
        If this version of transformers does not know it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, **LOCAL)
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The model in {folder} could not be loaded: {error}") from error


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a local folder.

    Raises
    ------
    CheckpointError
        If there is none, or not a fast one.
    """
    from transformers import AutoTokenizer

    if not has_vocabulary(folder):
        raise CheckpointError(f"{folder} has no tokenizer (tokenizer.json).")
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(f"The tokenizer in {folder} could not be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(f"{folder} has no fast tokenizer (tokenizer.json).")
    return tokenizer


def check_accelerate() -> None:
    """Raise where accelerate is not installed."""
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        message = "Got device='auto', which needs accelerate; install it: pip install accelerate"
        raise MissingDependencyError(message) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep reports off the terminal: heads that we do not use are no news."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _refuse_random(folder: Path, model: Any, report: dict[str, Any]) -> None:
    missing = sorted(name for name in report["missing_keys"] if not _is_head(name))
    misshapen = sorted(_misshapen(entry) for entry in report["mismatched_keys"])
    broken = missing + misshapen
    if broken:
        message = (
            f"The weights in {folder} lack or mis-shape {len(broken)} tensors of {type(model).__name__} "
            f"({', '.join(broken[:3])}{' …' if len(broken) > 3 else ''}); they would be random."
        )
        raise CheckpointError(message)


def _is_head(name: str) -> bool:
    return "pooler" in name or name.startswith("visual_projection")


def _misshapen(entry: Any) -> str:
    if isinstance(entry, str):  # transformers 4 gives names only
        return f"{entry} of another shape"
    name, got, expected = entry
    return f"{name} of shape {tuple(got)} instead of {tuple(expected)}"
