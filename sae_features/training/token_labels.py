"""Names of latents: the tokens that drive them most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from sae_features.errors import InvalidParameterError
from sae_features.hook_point import EMBEDDING
from sae_features.items import Items
from sae_features.ragged import offsets_of
from sae_features.weights import backbone_of

if TYPE_CHECKING:
    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.training.streams import BackboneSource

LABEL_TOKENS: Final = 3
RARE: Final = 20
"""Occurrences that are added to a token's own when a label is chosen."""
ITEMS: Final = 256
"""Texts that are run at a time."""


def token_labels(
    sae: SparseAutoencoder, rows: torch.Tensor | np.ndarray, ids: np.ndarray, tokenizer: Any
) -> dict[int, str]:
    """Name each latent by the tokens at which its mean value is largest, rare ones discounted.

    The mean is ``sum / (occurrences + 20)``.  Labels say what a latent fires on, not what it means.

    Parameters
    ----------
    sae : SparseAutoencoder
    rows : tensor or ndarray of shape (n, d_in)
        Activations.
    ids : ndarray of shape (n,), int
        The token of each.
    tokenizer : transformers.PreTrainedTokenizerBase

    Returns
    -------
    dict of int to str
        Three tokens for each latent that fires, as one reads them; ``##`` goes on with a word.
    """
    size = len(tokenizer)
    with torch.inference_mode():
        codes = sae.encode_sparse(torch.as_tensor(rows))
    entries = np.repeat(ids, codes.counts.cpu().numpy())
    keys = codes.indices.cpu().numpy().astype(np.int64) * size + entries
    pairs, inverse = np.unique(keys, return_inverse=True)
    latents, tokens = np.divmod(pairs, size)
    seen = np.bincount(ids, minlength=size)[tokens]
    values = codes.values.float().cpu().numpy()
    scores = np.bincount(inverse, weights=values) / (seen + RARE)
    bounds = offsets_of(np.bincount(latents, minlength=sae.n_latents))
    labels = {}
    for latent in range(sae.n_latents):
        span = slice(bounds[latent], bounds[latent + 1])
        top = tokens[span][np.argsort(-scores[span], kind="stable")[:LABEL_TOKENS]]
        words = (_shown(tokenizer, int(token)) for token in top)
        name = " ".join(word for word in words if word)
        if name:
            labels[latent] = name
    return labels


def labelled_rows(source: BackboneSource, n_rows: int) -> tuple[torch.Tensor, np.ndarray, Any]:
    """Run the model of a source over its first texts, and return rows with their tokens.

    Parameters
    ----------
    source : BackboneSource
        Over texts.
    n_rows : int
        After how many rows no further texts are taken.

    Returns
    -------
    rows : tensor of shape (n, d_in)
        Without attention sinks, as in the source.
    ids : ndarray of shape (n,), int64
    tokenizer : transformers.PreTrainedTokenizerBase

    Raises
    ------
    InvalidParameterError
        If rows have no tokens.
    """
    check_has_tokens(source)
    backbone = backbone_of(source.files, device=source.device, dtype=source.dtype)
    policy = backbone.token_policy(
        "text", tokens=source.tokens, prompt=source.prompt, max_length=source.metadata["max_length"],
        overflow=source.overflow,
    )  # fmt: skip
    rows: list[torch.Tensor] = []
    ids: list[np.ndarray] = []
    seen = 0
    for start in range(0, len(source.items), ITEMS):
        texts = source.items.values[start : start + ITEMS]
        windows = backbone.windows(Items("text", texts), policy)
        for batch in backbone.run(windows, [source.hook_point], batch_size=source.batch_size):
            rows.append(batch.values[source.hook_point].float().cpu())
            ids += [windows.ids[w][windows.counted[w]] for w in batch.windows]
            seen += len(rows[-1])
        if seen >= n_rows:
            break
    together, of_tokens = torch.cat(rows), np.concatenate(ids).astype(np.int64)
    if source.max_norm is not None:
        norms = together.norm(dim=1)
        kept = norms <= source.max_norm * norms.median()
        together, of_tokens = together[kept], of_tokens[kept.numpy()]
    return together, of_tokens, backbone.tokenizer


def check_has_tokens(source: BackboneSource) -> None:
    """Raise InvalidParameterError unless the rows of a source are those of tokens of texts."""
    if source.items.modality != "text" or source.hook_point.site == EMBEDDING:
        what = "images" if source.items.modality != "text" else f"site={EMBEDDING!r}"
        message = f"Got {what}; labels are made of the tokens of texts. Leave --label out."
        raise InvalidParameterError(message)


def _shown(tokenizer: Any, token: int) -> str:
    """Return a token as one reads it; ``##`` goes on with a word, as in WordPiece."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if piece.startswith("##"):
        return piece
    text: str = tokenizer.decode([token]).strip()
    return text or piece.strip("▁Ġ ")
