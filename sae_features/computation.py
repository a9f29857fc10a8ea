"""Who computes, what is wanted, and by what means: all that settles a run over items."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_features.architectures import Modality
    from sae_features.parameters import Pooling
    from sae_features.store import Store
    from sae_features.targets import Target

SCHEMA = 2
"""Goes up when values of the same computation would become other ones."""


@dataclass(frozen=True)
class Computation:
    """Who computes: all that the values of an item depend on, but the item.

    Attributes
    ----------
    target : Target
        Model, hook point and SAE.
    tokens, prompt, max_length, overflow, dtype
        As in :class:`sae_features.SAEFeaturizer`.
    modality : {"text", "image"}
        What the items are.
    kept_dtype : {"float32", "float16"}
        Type in which codes are kept.
    """

    target: Target
    tokens: str
    prompt: str | None
    max_length: int | None
    overflow: str
    dtype: str
    modality: Modality = "text"
    kept_dtype: str = "float32"

    @cached_property
    def identity(self) -> str:
        """SHA-256 of everything that the values depend on; batch size and device are not in it."""
        return sha256(self.who)

    @cached_property
    def who(self) -> str:
        """What the identity is the digest of: canonical JSON."""
        model, sae = self.target.model, self.target.sae
        return _canonical(
            self._model_run
            | {
                "schema": SCHEMA,
                "hook_point": list(self.target.point),
                "sae": sae and sae.digest(model.width(self.target.point)),
                "kept": "states" if sae is None else f"codes, {self.kept_dtype}",
            }
        )

    @cached_property
    def who_pools(self) -> str:
        """The same of codes that are kept pooled."""
        who = json.loads(self.who)
        return _canonical(who | {"kept": f"pooled {who['kept']}"})

    @cached_property
    def model_run(self) -> str:
        """Digest of what determines the activations: computations with the same one share a run."""
        return sha256(_canonical(self._model_run))

    @cached_property
    def _model_run(self) -> dict[str, Any]:
        model = self.target.model
        return {
            "family": model.family.name,
            "compute_version": model.family.compute_version,
            "model": model.weights_digest,
            "processor": model.processor_digest,
            "tokens": self.tokens,
            "prompt": self.prompt,
            "max_length": self.longest,
            "overflow": self.overflow,
            "prepend_bos": self.prepend_bos,
            "dtype": self.dtype,
            "modality": self.modality,
        }

    @property
    def longest(self) -> int | None:
        """``max_length`` as given, or else the least that model, tokenizer and SAE say of themselves.

        None for images, whose number of tokens the model decides.
        """
        if self.modality == "image":
            return None if self.max_length is None else int(self.max_length)
        if self.max_length is not None:
            return int(self.max_length)  # may be numpy's
        context = self.target.sae.metadata.get("max_length") if self.target.sae else None
        says = self.target.model.context
        return min(says, context) if isinstance(context, int) else says

    @property
    def prepend_bos(self) -> bool | None:
        """Whether a BOS stands first, as the SAE's metadata say."""
        says = self.target.sae.metadata.get("prepend_bos") if self.target.sae else None
        return says if isinstance(says, bool) else None


@dataclass(frozen=True)
class Wish:
    """What is wanted of each item.

    Attributes
    ----------
    needs_codes : bool
        Whether codes of single tokens are; otherwise they may come pooled in all ways.
    pooling, token_top_n : optional
        Given where nothing is kept: the one way to pool.
    """

    needs_codes: bool = False
    pooling: Pooling | None = None
    token_top_n: int | None = None


@dataclass(frozen=True)
class Means:
    """How to compute, which no value depends on.

    Attributes
    ----------
    store : Store, optional
        Where values are looked up and kept.
    device : str, optional
        Where the model runs.
    batch_size : int, optional
        Windows in a batch.
    progress : callable, optional
        Called with numbers of items that were finished and of tokens that were read.
    first : int, default=0
        Position of the first item, in messages.
    """

    store: Store | None = None
    device: str | None = None
    batch_size: int | None = None
    progress: Callable[[int, int], Any] | None = None
    first: int = 0

    def tell(self, n_items: int, n_tokens: int = 0) -> None:
        """Report progress."""
        if self.progress:
            self.progress(n_items, n_tokens)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def sha256(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
