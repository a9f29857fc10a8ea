"""SAEs on the concatenated attention heads of GPT-2 small: ``NAME.pt`` and ``NAME_cfg.json``.

https://huggingface.co/ckkissane/attn-saes-gpt2-small-all-layers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_features.hook_point import parse_hook_name
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan
from sae_features.saes.formats.facts import metadata_of

if TYPE_CHECKING:
    from sae_features.saes.formats.files import SAEFiles

KEYS = ("W_enc", "W_dec", "b_enc", "b_dec")


def _config_name(files: SAEFiles) -> str:
    return f"{files.weights.stem}_cfg.json"


def _detects(files: SAEFiles) -> bool:
    config = files.config(_config_name(files))
    has_config = config is not None and "act_size" in config and "dict_size" in config
    return has_config and files.has(*KEYS)


def _plan(files: SAEFiles, overrides: Overrides) -> Plan:  # noqa: ARG001 files say all
    config = files.needed_config(_config_name(files))
    name = config.text("act_name", None)
    return Plan(
        "relu",
        config.integer("act_size"),
        config.integer("dict_size"),
        {name: Piece(name) for name in KEYS},
        conventions={"subtract_b_dec": True},
        hook_point=parse_hook_name(name),
        metadata=metadata_of(
            model=config.get("model_name"), max_length=config.get("seq_len"), hook_name=name
        ),
    )


FORMAT = ConvertedFormat("hook_z", _detects, _plan)
