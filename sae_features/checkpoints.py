"""What a model's folder holds: weights, configuration, tokenizer, and their digests."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.assets import file_sha256, hub_is_offline
from sae_features.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHT_INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SENTENCE_CONFIG = "sentence_bert_config.json"
ADAPTER_CONFIG = "adapter_config.json"
DISTRIBUTED_SHARDS = "shard-*-model-*-of-*.safetensors"
REDIRECTIONS = ("transformers_weights", "configuration_files")
"""Entries of a configuration that make transformers read other files than those we digest."""
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")
"""Entries of a configuration that say how many positions a model has."""
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
    TOKENIZER_CONFIG,
    SENTENCE_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
)
SENTENCE_PARTS = ("config.json", "model.safetensors")
"""Files in the folders that ``modules.json`` names."""
MODEL_PATTERNS = (
    CONFIG,
    "model*.safetensors",
    WEIGHT_INDEX,
    ADAPTER_CONFIG,
    *PROCESSOR_FILES,
    *(f"{number}_{kind}/{name}" for number in "1234" for kind in ("Pooling", "Dense")
      for name in SENTENCE_PARTS),
)  # fmt: skip
"""What is fetched of a repository."""


def is_complete(folder: Path) -> bool:
    """Tell whether a folder of the hub's cache has all that a model needs.

    That is a configuration, all of the weights, and a vocabulary with ``tokenizer_config.json`` or an
    image processor.  Other programs leave parts of a repository there, and some repositories have no
    ``tokenizer_config.json``: it is worth a request, but offline a folder will do without.
    """
    try:
        _weights_that_are_there(folder)
    except CheckpointError:
        return False
    has_tokenizer = has_vocabulary(folder) and (
        (folder / TOKENIZER_CONFIG).is_file() or hub_is_offline()
    )
    return (folder / CONFIG).is_file() and (has_tokenizer or has_image_processor(folder))


def has_vocabulary(folder: Path) -> bool:
    """Tell whether a folder has a file that makes a tokenizer."""
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def has_image_processor(folder: Path) -> bool:
    """Tell whether a folder has a file that makes an image processor."""
    return any(
        (folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model.

    Raises
    ------
    CheckpointError
        If there is none, or it is not a JSON object.
    """
    return _read_object(folder / CONFIG)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text_of(path, path.stat().st_mtime_ns))
    except OSError as error:
        message = f"{path.parent} has no {path.name}; expected a transformers model."
        raise CheckpointError(message) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return content


def read_context(folder: Path, sizes: Mapping[str, Any]) -> int:
    """Return the longest window that a model's files advise, in tokens, special ones included.

    The least of the positions that the model has, the tokenizer's ``model_max_length`` and, where it is
    a sentence-transformers model, ``max_seq_length``.

    Parameters
    ----------
    folder : Path
        With the tokenizer.
    sizes : mapping
        The part of the configuration that is about the text model.

    Raises
    ------
    CheckpointError
        If none of them says anything.
    """
    says = [sizes.get(name) for name in POSITIONS]
    for name, key in ((TOKENIZER_CONFIG, "model_max_length"), (SENTENCE_CONFIG, "max_seq_length")):
        path = folder / name
        if path.is_file():
            says.append(_read_object(path).get(key))
    lengths = [int(n) for n in says if isinstance(n, int | float) and not isinstance(n, bool) and n > 0]
    if not lengths:
        message = (
            f"{folder / CONFIG} names no max_position_embeddings; expected a number. Give max_length=…"
        )
        raise CheckpointError(message)
    return min(lengths)


def sentence_modules(folder: Path) -> list[tuple[str, Path]] | None:
    """Return kind and folder of the modules of a sentence-transformers model, or None if it is none.

    Raises
    ------
    CheckpointError
        If ``modules.json`` is damaged or names a folder elsewhere.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    try:
        entries = [
            (str(entry["type"]), str(entry["path"]))
            for entry in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged; expected a list of modules.") from error
    for _, name in entries:
        if name and not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise CheckpointError(f"{path} names the folder {name!r}; expected one beside it.")
    return [(kind.rpartition(".")[2], folder / name) for kind, name in entries]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: those that transformers loads, and no others.

    Raises
    ------
    CheckpointError
        If there are none, or an index is damaged, or names a file that is missing, outside the
        folder, or not in safetensors format; or if something in the folder would make transformers
        load other files.
    """
    _refuse_redirections(folder)
    return _weights_that_are_there(folder)


def _refuse_redirections(folder: Path) -> None:
    config = read_config(folder)
    for key in REDIRECTIONS:
        if config.get(key) is not None:
            message = (
                f"{folder / CONFIG} points to other files ({key}={config[key]!r}); expected all in "
                f"{CONFIG} and {WEIGHTS}. Save the model anew with transformers' save_pretrained."
            )
            raise CheckpointError(message)
    if (folder / ADAPTER_CONFIG).is_file():
        message = (
            f"{folder} has an adapter ({ADAPTER_CONFIG}), which changes the weights. Merge it first, "
            "with peft's merge_and_unload, and save the model without it."
        )
        raise CheckpointError(message)
    distributed = sorted(path.name for path in folder.glob(DISTRIBUTED_SHARDS))
    if distributed:
        message = (
            f"{folder} has a distributed checkpoint ({distributed[0]}); expected {WEIGHTS} or "
            f"{WEIGHT_INDEX}. Save the model anew with transformers' save_pretrained."
        )
        raise CheckpointError(message)


def _weights_that_are_there(folder: Path) -> list[Path]:
    index = folder / WEIGHT_INDEX
    takes_index = index.is_file() and not (folder / WEIGHTS).is_file()  # as transformers does
    names = _shards(index) if takes_index else [WEIGHTS]
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
    """Return the files that determine what the model is given, and what is made of its output.

    Those are the configuration, the tokenizer, the image processor and the pooling of sentences.
    """
    paths = [folder / name for name in (CONFIG, *PROCESSOR_FILES)]
    pooling = sentence_modules(folder) or []
    paths += [place / name for _, place in pooling if place != folder for name in SENTENCE_PARTS]
    return [path for path in paths if path.is_file()]


def digest_of_files(folder: Path, paths: Sequence[Path]) -> str:
    """Return a SHA-256 of names, relative to a folder, and contents of files."""
    contents = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
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
