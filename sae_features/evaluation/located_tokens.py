"""Where the tokens of items stand: their characters in a text, or their patches in a picture."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sae_features.backbones.tokens import prompt_parts
from sae_features.computation import Means, Wish
from sae_features.errors import SAEFeaturesWarning
from sae_features.featurizer import SAEFeaturizer
from sae_features.hook_point import EMBEDDING
from sae_features.model_run import Lost, ModelRun
from sae_features.pooling import keep_token_top_n

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.base import BaseFeaturizer
    from sae_features.computation import Computation
    from sae_features.images import PatchGrid
    from sae_features.items import Items

Box = tuple[float, float, float, float]

CONTEXT: Final = 40
"""Characters shown on either side of a token."""
POSITION: Final = 2**32
"""What a token's place in its text is multiplied by; its id is less."""


@dataclass(frozen=True)
class LocatedToken:
    """A counted token of an item, and where it stands.

    Attributes
    ----------
    position : int
        Among the counted tokens of the item, from 0: the row of its latents.
    text : str
        Its characters as the text has them, or what the tokenizer calls it where it has none; of
        pictures empty.
    before, after : str
        The text on either side, at most 40 characters.
    span : tuple of int, optional
        First character in the text, and the one behind the last.
    patch : tuple of int, optional
        Row and column of a patch, from the top left.
    box : tuple of float, optional
        What it covers of the upright picture, in pixels: left, top, right, bottom.

    Examples
    --------
    >>> str(LocatedToken(1, "ing", "a mov", " film", (5, 8)))
    'a mov[ing] film'
    >>> str(LocatedToken(3, "", patch=(1, 0), box=(0.0, 7.0, 7.0, 14.0)))
    'patch in row 1, column 0: pixels (0, 7) to (7, 14)'
    """

    position: int
    text: str
    before: str = ""
    after: str = ""
    span: tuple[int, int] | None = None
    patch: tuple[int, int] | None = None
    box: Box | None = None

    def __str__(self) -> str:
        if self.box is None:
            return " ".join(f"{self.before}[{self.text}]{self.after}".split())
        left, top, right, bottom = self.box
        where = f"pixels ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})"
        if self.patch is None:
            return f"the whole picture: {where}"
        return f"patch in row {self.patch[0]}, column {self.patch[1]}: {where}"


@dataclass(frozen=True)
class TokenValue:
    """A number that belongs to a token: how strongly a latent fires there, or what it contributes.

    Attributes
    ----------
    token : LocatedToken
    value : float
    """

    token: LocatedToken
    value: float


def locate_tokens(featurizer: BaseFeaturizer, X: Any) -> list[list[LocatedToken]]:
    """Return where the counted tokens of items stand; the model is loaded for it, but not run.

    Parameters
    ----------
    featurizer : SAEFeaturizer or ActivationFeaturizer
        It says what is a token, and which count.
    X : sequence of length (n_items,)
        Texts or images, as ``featurizer.transform`` takes them.

    Returns
    -------
    list of list of LocatedToken
        In the order of the rows that ``featurizer.token_codes(X)[item]`` has.  With
        ``site="embedding"`` an item is one token.

    Raises
    ------
    InvalidInputError, InputTypeError, DigestMismatchError
        As ``featurizer.transform``.

    Examples
    --------
    >>> from sae_features import SAEFeaturizer
    >>> [[str(token) for token in tokens] for tokens in locate_tokens(SAEFeaturizer(), ["Rain again?"])]
    [['[Rain] again?', 'Rain [again]?', 'Rain again[?]']]
    """
    items, computation = featurizer.read_items(X)
    if computation.target.point.site == EMBEDDING:
        return [[_whole(item)] for item in items.values]
    run = _run(featurizer, items, computation)
    return _patches(run) if items.modality == "image" else _pieces(run)


def token_values(featurizer: BaseFeaturizer, X: Any) -> list[Any]:
    """Return how strongly everything fires at every counted token: what pooling makes rows of.

    Parameters
    ----------
    featurizer : SAEFeaturizer or ActivationFeaturizer
        Of an SAEFeaturizer, ``token_top_n`` is heeded; pooling and threshold come after.
    X : sequence of length (n_items,)
        Texts or images, as ``featurizer.transform`` takes them.

    Returns
    -------
    list of csr_matrix or ndarray, each of shape (n_tokens_i, n_features), float32
        Sparse latents, or dense hidden states, for which the model runs.

    Raises
    ------
    InvalidInputError, InputTypeError, DigestMismatchError
        As ``featurizer.transform``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAEFeaturesWarning)  # transform tells of truncated texts
        return _token_values(featurizer, X)


def _token_values(featurizer: BaseFeaturizer, X: Any) -> list[Any]:
    if isinstance(featurizer, SAEFeaturizer):
        codes = featurizer.token_codes(X)
        if featurizer.token_top_n is not None:
            codes = keep_token_top_n(codes, featurizer.token_top_n)
        return [codes[item].tocsr() for item in range(len(codes))]
    items, computation = featurizer.read_items(X)
    run = _run(featurizer, items, computation)
    layer, site = computation.target.point
    activations = run.backbone.activations(
        X, layer=layer, site=site, tokens=computation.tokens, prompt=computation.prompt,
        max_length=run.policy.max_length if items.modality == "text" else None,
        overflow=computation.overflow,
    )  # fmt: skip
    return [activations[item] for item in range(len(activations))]


def _run(featurizer: BaseFeaturizer, items: Items, computation: Computation) -> ModelRun:
    """Return what knows the model and which tokens it sees; nothing runs yet."""
    means = Means(device=featurizer.device)
    return ModelRun([computation], items, {}, wish=Wish(), means=means, lost=Lost())


def _whole(item: Any) -> LocatedToken:
    if isinstance(item, str):
        return LocatedToken(0, item, span=(0, len(item)))
    width, height = item.size
    return LocatedToken(0, "", box=(0.0, 0.0, float(width), float(height)))


def _patches(run: ModelRun) -> list[list[LocatedToken]]:
    windows = run.backbone.windows(run.items, run.policy)
    content = run.backbone.windows(run.items, replace(run.policy, tokens="content"))
    found: list[list[LocatedToken]] = []
    for grid, counted, is_patch in zip(windows.grids, windows.counted, content.counted, strict=True):
        numbers = np.cumsum(is_patch) - 1
        found.append(
            [
                _patch(position, int(numbers[at]), grid)
                if is_patch[at]
                else LocatedToken(position, "(no patch)")
                for position, at in enumerate(np.flatnonzero(counted))
            ]
        )
    return found


def _patch(position: int, number: int, grid: PatchGrid) -> LocatedToken:
    row, column = divmod(number, grid.columns)
    left, top, right, bottom = grid.box
    width, height = (right - left) / grid.columns, (bottom - top) / grid.rows
    x, y = left + column * width, top + row * height
    return LocatedToken(position, "", patch=(row, column), box=(x, y, x + width, y + height))


def _pieces(run: ModelRun) -> list[list[LocatedToken]]:
    texts = run.items.values
    windows = run.backbone.windows(run.items, run.policy)
    reader = copy.copy(run.backbone.inputs["text"])  # shares the lock of the tokenizer
    tokenizer = reader.tokenizer
    reader.tokenizer = positions = _PositionTokenizer(tokenizer)
    of_positions = reader.windows(texts, run.policy)
    before, after = prompt_parts(tokenizer, run.policy.prompt)
    found: list[list[LocatedToken]] = [[] for _ in texts]
    for item, coded, ids, counted in zip(
        windows.items, of_positions.ids, windows.ids, windows.counted, strict=True
    ):
        given = positions.given[item]
        for code, token in zip(coded[counted].tolist(), ids[counted].tolist(), strict=True):
            place = code // POSITION
            has_characters = place < len(given) and given[place][0] == token  # else it was prepended
            span = given[place][1] if has_characters else (0, 0)
            found[item].append(
                _piece(len(found[item]), texts[item], (before, after), span)
                or LocatedToken(len(found[item]), str(tokenizer.convert_ids_to_tokens(token)))
            )
    return found


def _piece(
    position: int, text: str, around: tuple[str, str], span: Sequence[int]
) -> LocatedToken | None:
    """Return a token by its characters in prompt and text; None where it has none."""
    start, stop = span
    whole = f"{around[0]}{text}{around[1]}"
    piece = whole[start:stop]
    start += len(piece) - len(piece.lstrip())
    piece = piece.strip()
    if not piece:
        return None
    first = start - len(around[0])
    last = first + len(piece)
    if first < 0 or last > len(text):  # of the prompt
        return LocatedToken(position, piece)
    left, right = max(0, first - CONTEXT), last + CONTEXT
    return LocatedToken(
        position,
        piece,
        "…" * (left > 0) + text[left:first],
        text[last:right] + "…" * (right < len(text)),
        (first, last),
    )


class _PositionTokenizer:
    """A tokenizer whose ids also say where a token stands among those of its text.

    Windows are cut in one place, :func:`sae_features.backbones.tokens.tokenize`; so positions go the
    way that ids go.  The first token keeps its id, by which a BOS is known.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.given: list[list[tuple[int, Sequence[int]]]] = []
        """Of each text: id and characters of each token."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: Sequence[str], **options: Any) -> Mapping[str, Any]:
        encoded = dict(self._tokenizer(texts, **{**options, "return_offsets_mapping": True}))
        ids = encoded["input_ids"]
        pairs = zip(ids, encoded["offset_mapping"], strict=True)
        self.given += [list(zip(*of_text, strict=True)) for of_text in pairs]
        coded = [[token + at * POSITION for at, token in enumerate(of_text)] for of_text in ids]
        return encoded | {"input_ids": coded}
