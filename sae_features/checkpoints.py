"""What a model's folder holds: weights, configuration, tokenizer, and their digests."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.assets import file_sha256
from sae_features.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG = "config.json"
WEIGHT_INDEX = "model.safetensors.index.json"
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
"""One of these makes a tokenizer; without any, transformers makes up an empty one."""
PROCESSOR_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "preprocessor_config.json",
)
MODEL_PATTERNS = (CONFIG, "model*.safetensors", WEIGHT_INDEX, *PROCESSOR_FILES)
"""What is fetched of a repository."""


def is_complete(folder: Path) -> bool:
    """Tell whether a folder has a configuration and all of the weights."""
    if not (folder / CONFIG).is_file():
        return False
    try:
        weight_files(folder)
    except CheckpointError:
        return False
    return True


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model.

    Raises
    ------
    CheckpointError
        If there is none, or it is not a JSON object.
    """
    path = folder / CONFIG
    try:
        config = json.loads(_text_of(path, path.stat().st_mtime_ns))
    except OSError as error:
        raise CheckpointError(f"{folder} has no {CONFIG}; expected a transformers model.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model.

    Raises
    ------
    CheckpointError
        If there are none, or an index is damaged, or names a file that is missing, outside the
        folder, or not in safetensors format.
    """
    index = folder / WEIGHT_INDEX
    names = _shards(index) if index.is_file() else ["model.safetensors"]
    paths = [folder / name for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        pickled = [path.name for path in folder.glob("*.bin")]
        hint = (
            f" It has {', '.join(pickled)}: pickled weights can execute code and are not read. Convert "
            "them with transformers' save_pretrained."
            if pickled
            else ""
        )
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}.{hint}")
    return paths


def processor_files(folder: Path) -> list[Path]:
    """Return the files that determine what the model is given: configuration and tokenizer."""
    paths = [folder / name for name in (CONFIG, *PROCESSOR_FILES)]
    return [path for path in paths if path.is_file()]


def digest_of_files(paths: Sequence[Path]) -> str:
    """Return a SHA-256 of names and contents of files."""
    contents = {path.name: file_sha256(path) for path in paths}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _shards(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(shard) for shard in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged; expected JSON with a weight_map.") from error
    if not shards:
        raise CheckpointError(f"{index} names no files.")
    if any(Path(shard).name != shard for shard in shards):
        raise CheckpointError(f"{index} names files outside its folder: {', '.join(shards)}.")
    foreign = [shard for shard in shards if not shard.endswith(".safetensors")]
    if foreign:
        raise CheckpointError(f"{index} names files that are not safetensors: {', '.join(foreign)}.")
    return shards


@lru_cache(maxsize=64)
def _text_of(path: Path, mtime_ns: int) -> str:  # noqa: ARG001 part of the key
    return path.read_text(encoding="utf-8")
