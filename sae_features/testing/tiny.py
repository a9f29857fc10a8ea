"""Small random models of any architecture, with tokenizer or image processor, in ordinary folders."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any, Final

import torch

from sae_features.architectures import Architecture, ImageTokens, Patches, Text
from sae_features.backbones.loading import quiet_transformers

if TYPE_CHECKING:
    from pathlib import Path

N_LAYERS: Final = 4
IMAGE_SIZE: Final = 28
PATCH_SIZE: Final = 7
SIZES: Final[dict[str, Any]] = {
    "hidden_size": 32, "n_embd": 32, "d_model": 32,
    "num_hidden_layers": N_LAYERS, "n_layer": N_LAYERS, "num_layers": N_LAYERS,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "num_key_value_heads": 2,
    "head_dim": 6, "d_kv": 6, "intermediate_size": 48, "d_ff": 48, "projection_dim": 24,
    "max_position_embeddings": 96, "n_positions": 96, "type_vocab_size": 2,
    "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
    "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "num_register_tokens": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
"""Entries of configurations that are made small, wherever a kind of model has them."""
SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>")
IMAGE_TOKENS: Final = {
    "image_token": "<image>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
}  # fmt: skip
TEMPLATES: Final = {
    "bos": ("<s> $A", ("<s>",)),
    "cls_sep": ("<s> $A </s>", ("<s>", "</s>")),
    "eos": ("$A </s>", ("</s>",)),
    "plain": ("$A", ()),
}
"""By name: what a tokenizer puts around a text, and the special tokens in it."""


def write_tiny(
    architecture: Architecture, folder: Path, *, template: str = "bos", seed: int = 0, **config: Any
) -> Path:
    """Write a small random model that an architecture describes.

    Parameters
    ----------
    architecture : Architecture
        What to make; its ``tiny`` goes before the usual sizes.
    folder : Path
        Where to, made if it is not there.
    template : {"bos", "cls_sep", "eos", "plain"}, default="bos"
        What the tokenizer of a text model puts around texts.
    seed : int, default=0
        Of the weights.
    **config
        Further entries of the configuration.

    Returns
    -------
    Path
        The folder, in float32 safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {type(kind) for kind in architecture.inputs}
    with quiet_transformers():
        if kinds & {Text, ImageTokens}:
            vocabulary = _write_tokenizer(folder, template, architecture)
        else:
            vocabulary = {}
        if kinds & {Patches, ImageTokens}:
            _write_processor(folder, architecture)
        model = _random_model(architecture, vocabulary, seed, config)
        model.save_pretrained(folder)
    return folder


def _random_model(
    architecture: Architecture, vocabulary: dict[str, int], seed: int, given: dict[str, Any]
) -> Any:
    import transformers

    config = _config(architecture, vocabulary, given)
    torch.manual_seed(seed)
    kind = getattr(transformers, architecture.loader)
    if hasattr(kind, "from_config"):
        model = kind.from_config(config)
    else:
        own = isinstance(config, kind.config_class)
        model = kind(config if own else getattr(config, architecture.config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # usual initial values hide what gains and biases do
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(noise, alpha=0.2)
            else:
                parameter.copy_(noise * (1.5 / parameter[0].numel() ** 0.5))
    return model.eval()


def _config(architecture: Architecture, vocabulary: dict[str, int], given: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    n_tokens = max(len(vocabulary), 1)
    usual = AutoConfig.for_model(architecture.model_type)
    entries = _small(usual, n_tokens) | dict(architecture.tiny) | given
    if any(isinstance(kind, ImageTokens) for kind in architecture.inputs):
        entries |= _small_towers(entries, n_tokens)
        entries |= {
            f"{name.partition('_')[0]}_token_index": vocabulary[token]
            for name, token in IMAGE_TOKENS.items()
        }
        if hasattr(usual, "mm_tokens_per_image"):
            entries["mm_tokens_per_image"] = 4
    return AutoConfig.for_model(architecture.model_type, **entries)


def _small_towers(entries: dict[str, Any], n_tokens: int) -> dict[str, Any]:
    """Return the configurations of a text tower and a vision tower that fit together."""
    from transformers import AutoConfig

    text = {"model_type": "gemma2", **entries.get("text_config", {})}
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False}
    small = [_small(AutoConfig.for_model(part["model_type"]), n_tokens) for part in (text, vision)]
    width = small[0]["hidden_size"]
    return {
        "text_config": small[0] | text,
        "vision_config": small[1] | vision | {"projection_dim": width},
        "projection_dim": width,
    }


def _small(usual: Any, n_tokens: int) -> dict[str, Any]:
    """Return small values of those entries that a configuration has."""
    known = {*usual.to_dict(), *inspect.signature(type(usual)).parameters}
    small = {name: value for name, value in (SIZES | {"vocab_size": n_tokens}).items() if name in known}
    for part in ("text_config", "vision_config"):
        if part in known and hasattr(usual, part):
            small[part] = _small(getattr(usual, part), n_tokens)
    return small


def _write_tokenizer(folder: Path, template: str, architecture: Architecture) -> dict[str, int]:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    takes_images = any(isinstance(kind, ImageTokens) for kind in architecture.inputs)
    special = [*SPECIAL, *(IMAGE_TOKENS.values() if takes_images else ())]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    around, names = TEMPLATES[template]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(name, vocabulary[name]) for name in names]
    )
    roles = {"bos_token": "<s>"} if template in {"bos", "plain"} else {}
    roles |= {"cls_token": "<s>", "sep_token": "</s>"} if template == "cls_sep" else {}
    extra: dict[str, Any] = {"extra_special_tokens": IMAGE_TOKENS} if takes_images else {}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",  # noqa: S106
        model_max_length=SIZES["max_position_embeddings"], **roles, **extra,
    ).save_pretrained(folder)  # fmt: skip
    if takes_images:  # transformers 4 looks at the class
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["tokenizer_class"] = _tokenizer_class(settings["tokenizer_class"])
        path.write_text(json.dumps(settings), encoding="utf-8")
    return vocabulary


def _tokenizer_class(usual: str) -> str:
    import transformers

    return "GemmaTokenizerFast" if transformers.__version__.startswith("4.") else usual


def _write_processor(folder: Path, architecture: Architecture) -> None:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    settings = {
        "image_processor_type": _processor_type(architecture),
        "size": size, "crop_size": size, "do_resize": True, "do_center_crop": False,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 2,
        "image_mean": [0.5, 0.4, 0.6], "image_std": [0.3, 0.2, 0.25],
    }  # fmt: skip
    if any(isinstance(kind, ImageTokens) for kind in architecture.inputs):
        settings["image_seq_length"] = (IMAGE_SIZE // PATCH_SIZE) ** 2
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _processor_type(architecture: Architecture) -> str:
    """Return the class of image processor that transformers has for a kind of model."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    known = dict(IMAGE_PROCESSOR_MAPPING_NAMES)
    entry = known.get(architecture.model_type)
    names = list(entry.values()) if isinstance(entry, dict) else list(entry or ())
    plain = [name.removesuffix("Pil").removesuffix("Fast") for name in names if name]
    return plain[0] if plain else "ViTImageProcessor"
