"""Tiny models and SAEs that tests write into temporary folders."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from sae_features.architectures import Architecture
from sae_features.hook_point import HookPoint
from sae_features.saes.autoencoder import SparseAutoencoder

if TYPE_CHECKING:
    from collections.abc import Mapping

BERT = Architecture("bert", residual="post_norm", final_norm=False)
XLMR = Architecture("xlm-roberta", residual="post_norm", final_norm=False)
SITES_OF_BERT = "resid_pre, resid_post, resid_mid, attn_out, attn_z, mlp_in, mlp_hidden, mlp_out"
"""As errors list them; no norm stands ahead of its MLP."""
RELEASE_TABLES = tuple(
    f"{table.parents[1].name}:releases/{table.name}"
    for table in sorted(Path(__file__).parents[1].glob("plugins/sae-features-*/src/*/releases/*.json"))
)
"""The tables of all plugins in this repository, as a family names them."""
N_LAYERS = 3
D_MODEL = 32
MAX_POSITIONS = 64
WORDS = (
    "a an and answer bad beautiful bright brook calm cold day deep dull evening far fine fish flows "
    "forest good great green hill hot it lake light long moon morning mountain moving near night not "
    "of old passage plain poor quiet query rain red river road sad sea short sky slow small snow song "
    "star stone story stream summer sun sweet the tree valley very village warm wave wide wind winter "
    "wonderful wood young"
).split()
SHAPE: dict[str, Any] = {
    "num_hidden_layers": N_LAYERS,
    "hidden_size": D_MODEL,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}


def write_bert(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """Write a random BERT with a WordPiece tokenizer: ``[CLS] text [SEP]``, no BOS."""
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *WORDS])
    ids = {token: i for i, token in enumerate(vocab)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=MAX_POSITIONS,
    ).save_pretrained(folder)
    options = {**SHAPE, "vocab_size": len(ids), "max_position_embeddings": MAX_POSITIONS, **config}
    torch.manual_seed(seed)
    BertModel(BertConfig(**options)).save_pretrained(folder)
    return folder


def write_xlmr(folder: Path, *, seed: int = 0) -> Path:
    """Write a random XLM-R with a Unigram tokenizer: ``<s> text </s>``, positions that start at 2."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*(f"▁{word}" for word in WORDS), "▁", *string.ascii_lowercase, *".,!?:<>/"]
    scored = [(token, 0.0) for token in special] + [(p, -float(i + 1)) for i, p in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=special.index("<unk>"), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        **SHAPE,
        vocab_size=len(scored),
        max_position_embeddings=MAX_POSITIONS + 2,
        type_vocab_size=1,
        pad_token_id=1,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    return folder


def random_sae(
    architecture: str = "topk",
    *,
    d_in: int = D_MODEL,
    n_latents: int = 48,
    k: int = 5,
    seed: int = 0,
    point: HookPoint | None = HookPoint(1),  # noqa: B008 a tuple
    metadata: Mapping[str, Any] | None = None,
) -> SparseAutoencoder:
    """Return a random SAE."""
    torch.manual_seed(seed)
    tensors = {
        "W_enc": torch.randn(d_in, n_latents) / d_in**0.5,
        "b_enc": torch.randn(n_latents) * 0.1,
        "b_dec": torch.randn(d_in) * 0.1,
        "W_dec": torch.randn(n_latents, d_in) / n_latents**0.5,
    }
    if architecture == "jumprelu":
        tensors["threshold"] = torch.rand(n_latents)
    if architecture == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
        tensors |= {name: torch.randn(n_latents) * 0.1 for name in ("b_mag", "r_mag")}
    return SparseAutoencoder(
        architecture,
        **tensors,
        k={"topk": k, "groupmax": n_latents // 8}.get(architecture),
        hook_point=point,
        metadata=metadata or {},
    )


def varied_sae(
    architecture: str = "relu",
    *,
    d_in: int = 6,
    n_latents: int = 12,
    d_out: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    latent_scale: bool = False,
    selection_scale: bool = False,
    skip: bool = False,
    **fields: Any,
) -> SparseAutoencoder:
    """Return a random SAE of any architecture, with the tensors that are asked for; ``fields`` win."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.standard_normal(shape)).to(dtype)

    out = d_in if d_out is None else d_out
    tensors = {"W_enc": draw(d_in, n_latents), "W_dec": draw(n_latents, out), "b_dec": draw(out)}
    vectors = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    tensors |= {name: draw(n_latents) for name in vectors}
    if architecture == "jumprelu":
        tensors["threshold"] = draw(n_latents).abs()
    if latent_scale:
        tensors["latent_scale"] = draw(n_latents).abs() + 0.5
    if selection_scale:
        tensors["selection_scale"] = draw(n_latents).abs() + 0.5
    if skip:
        tensors["W_skip"] = draw(d_in, out)
    k = {"topk": 3, "groupmax": 3}.get(architecture)
    given: dict[str, Any] = {"k": k, "subtract_b_dec": out == d_in, **tensors, **fields}
    return SparseAutoencoder(architecture, **given)


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; a field that becomes None is dropped."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
