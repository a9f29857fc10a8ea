"""What a latent fires on most: items, and the tokens in them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InputTypeError, InvalidParameterError
from sae_features.evaluation.located_tokens import TokenValue, locate_tokens, token_values
from sae_features.featurizer import SAEFeaturizer
from sae_features.parameters import check_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sae_features.evaluation.located_tokens import LocatedToken


@dataclass(frozen=True)
class TopItem:
    """An item that a latent fires on.

    Attributes
    ----------
    item : int
        Its position in ``X``.
    value : float
        The latent's pooled value.
    tokens : tuple of TokenValue
        Where in the item it is largest, and how large; the largest first.
    """

    item: int
    value: float
    tokens: tuple[TokenValue, ...]

    def __str__(self) -> str:
        where = self.tokens[0].token if self.tokens else "no token"
        return f"{self.value:.3g}  item {self.item}: {where}"


def top_items(
    featurizer: SAEFeaturizer, X: Any, latents: int | Iterable[int], n: int = 5, *, n_tokens: int = 3
) -> dict[int, list[TopItem]]:
    """Return the items that latents fire on most, and where in them.

    Latents of all items come from what is kept of them; single tokens are looked at in the chosen
    items alone.

    Parameters
    ----------
    featurizer : SAEFeaturizer
        Its ``pooling`` and ``token_top_n`` are heeded; ``threshold`` and ``binarize`` are not, since
        values that are all 1 have no order.
    X : sequence of length (n_items,)
        Texts or images.
    latents : int or iterable of int
        Their numbers, from 0.
    n : int, default=5
        Items for each; fewer where it fires on fewer.  Of equal items the first is taken.
    n_tokens : int, default=3
        Tokens for each item.

    Returns
    -------
    dict of int to list of TopItem
        By latent in the order given, largest value first, of equal values the earlier item.

    Raises
    ------
    InputTypeError
        If it is no SAEFeaturizer, or ``X`` cannot be used.
    InvalidParameterError
        If there is no such latent, or ``n`` or ``n_tokens`` is below 1.

    Examples
    --------
    >>> from sae_features import SAEFeaturizer
    >>> from sae_features.evaluation.top_activations import top_items
    >>> texts = ["a moving film", "a dull film"]
    >>> featurizer = SAEFeaturizer()
    >>> latent = int(featurizer.transform(texts[:1])[0].argmax())
    >>> first = top_items(featurizer, texts, [latent])[latent][0]
    >>> first.item, first.tokens[0].token.text in texts[0]
    (0, True)
    """
    if not isinstance(featurizer, SAEFeaturizer):
        message = f"Got a {type(featurizer).__name__}; expected an SAEFeaturizer: pipeline[0], maybe."
        raise InputTypeError(message)
    check_count("n", n)
    check_count("n_tokens", n_tokens)
    plain = copy.copy(featurizer).set_params(threshold=None, binarize=False, sparse_output=True)
    items = plain.read_items(X)[0]
    inputs = [getattr(value, "source", value) for value in items.values]
    seen: dict[bytes, int] = {}
    for position, digest in enumerate(items.digests()):
        seen.setdefault(digest, position)
    positions = np.array(list(seen.values()))
    rows = plain.transform([inputs[position] for position in positions]).tocsc()
    chosen = {latent: _largest(rows, latent, n) for latent in _checked(latents, rows.shape[1])}
    wanted = np.unique(np.concatenate([at for at, _ in chosen.values()] or [np.empty(0, int)]))
    if len(wanted) == 0:
        return {latent: [] for latent in chosen}
    some = [inputs[positions[at]] for at in wanted]
    tokens = dict(zip(wanted.tolist(), locate_tokens(plain, some), strict=True))
    values = dict(zip(wanted.tolist(), token_values(plain, some), strict=True))
    return {
        latent: [
            TopItem(int(positions[at]), value, largest_tokens(values[at], latent, tokens[at], n_tokens))
            for at, value in zip(found.tolist(), pooled.tolist(), strict=True)
        ]
        for latent, (found, pooled) in chosen.items()
    }


def largest_tokens(
    values: Any, latent: int, tokens: Sequence[LocatedToken], n_tokens: int
) -> tuple[TokenValue, ...]:
    """Return the tokens at which a latent is largest, those at which it is silent left out.

    Parameters
    ----------
    values : csr_matrix of shape (n_tokens, n_latents)
        Of one item, from :func:`~sae_features.evaluation.located_tokens.token_values`.
    latent : int
    tokens : sequence of LocatedToken
        Of the same item.
    n_tokens : int
        At most so many.
    """
    column = values[:, [latent]].toarray().ravel()
    order = np.argsort(-column, kind="stable")
    kept = order[column[order] != 0][:n_tokens]
    return tuple(TokenValue(tokens[at], float(column[at])) for at in kept.tolist())


def _checked(latents: int | Iterable[int], n_latents: int) -> list[int]:
    given = [latents] if isinstance(latents, Integral) else list(latents)  # type: ignore[arg-type]
    for latent in given:
        if not isinstance(latent, Integral) or not 0 <= int(latent) < n_latents:
            message = f"Got the latent {latent!r}; expected an integer from 0 to {n_latents - 1}."
            raise InvalidParameterError(message)
    return [int(latent) for latent in given]


def _largest(rows: Any, latent: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in which a column is largest, and its values there; zeros left out."""
    column = rows[:, [latent]].tocoo()
    order = np.lexsort((column.coords[0], -column.data))[:n]
    return column.coords[0][order], column.data[order]
