"""What formats say beside weights, in one vocabulary."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

from sae_features.errors import SAEFormatError
from sae_features.hook_point import SITES, HookPoint
from sae_features.model_names import hub_id

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.saes.formats.conversion import Overrides


def metadata_of(*, model: Any = None, max_length: Any = None, **others: Any) -> dict[str, Any]:
    """Return metadata of an SAE; what is None is left out.

    Parameters
    ----------
    model : str, optional
        A repository on the Hugging Face hub, or TransformerLens' name of one.
    max_length : int, optional
        Window in tokens that the SAE was trained on.
    **others
        Plain values by name.
    """
    named = hub_id(model) if isinstance(model, str) else None
    is_length = isinstance(max_length, int) and not isinstance(max_length, bool) and max_length >= 1
    metadata = {"model": named, "max_length": max_length if is_length else None, **others}
    return {name: value for name, value in metadata.items() if value is not None}


def settle_norm_scale(
    path: Path, overrides: Overrides, reason: str
) -> tuple[dict[str, Any], tuple[str, ...], frozenset[str]]:
    """Return conventions, warnings and settled overrides where files do not hold the scale of inputs.

    Parameters
    ----------
    path : Path
        For the warning.
    overrides : Overrides
        ``norm_scale`` as the caller gave it, or None.
    reason : str
        What is missing, to follow "The SAE …".
    """
    settled = frozenset({"norm_scale"})
    if overrides.norm_scale is not None:
        return {"input_norm": "scale", "norm_scale": float(overrides.norm_scale)}, (), settled
    warning = (
        f"The SAE {str(path)!r} {reason}. It is loaded without: its latents are off by that scale. Give "
        "norm_scale= to load_sae if you know it; .save() what that gives to use it elsewhere."
    )
    return {}, (warning,), settled


def parse_hook_point(raw: object) -> HookPoint | None:
    """Return a hook point from its plain form, or None.

    Raises
    ------
    SAEFormatError
        If it is none.  The message has no file's name.
    """
    if raw is None:
        return None
    if isinstance(raw, dict) and set(raw) == {"layer", "site"}:
        layer, site = raw["layer"], raw["site"]
        if isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 and site in SITES:
            return HookPoint(layer, site)
    message = (
        f"got hook_point={reprlib.repr(raw)}; expected a layer counted from 0 and a site, as in "
        "{'layer': 0, 'site': 'resid_post'}."
    )
    raise SAEFormatError(message)
