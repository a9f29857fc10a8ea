"""The structure of a model without its weights: which sites it has, and how wide they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from sae_features.backbones.loading import load_config, quiet_transformers
from sae_features.checkpoints import processor_files
from sae_features.errors import CheckpointError
from sae_features.sharing import Shared

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.architectures import Architecture
    from sae_features.families import ModelFamily

MAX_SKELETONS = 8
_skeletons = Shared(MAX_SKELETONS)


def skeleton_of(folder: Path, family: ModelFamily, architecture: Architecture) -> Any:
    """Return a backbone on torch's meta device: it tells sites and widths, and cannot run.

    Parameters
    ----------
    folder : Path
        The model's files; no weights of it are read.
    family : ModelFamily
        Who reads it.
    architecture : Architecture
        What the family declares of it.

    Raises
    ------
    CheckpointError
        If this version of transformers cannot build the model.
    """
    states = [f"{path.name}:{path.stat().st_mtime_ns}" for path in processor_files(folder)]
    key = (str(folder), family.name, repr(architecture), json.dumps(states))
    return _skeletons.get(key, lambda: _build(folder, family, architecture))


def _build(folder: Path, family: ModelFamily, architecture: Architecture) -> Any:
    import transformers

    config = load_config(folder)
    kind = getattr(transformers, architecture.loader)
    try:
        with quiet_transformers(), torch.device("meta"):
            if hasattr(kind, "from_config"):
                model = kind.from_config(config)
            else:
                if architecture.config and not isinstance(config, kind.config_class):
                    config = getattr(config, architecture.config)
                model = kind(config)
    except (ImportError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        message = f"The structure of the model in {folder} could not be built: {error}"
        raise CheckpointError(message) from error
    return family.backbone_class()(model, architecture, {}, folder=folder)
