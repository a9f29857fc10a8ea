"""What users are told of texts that lost tokens or have none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_features.errors import SAEFeaturesWarning

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Tally:
    """How many texts are meant, and the position of the first."""

    count: int = 0
    first: int = 0

    def add(self, texts: Sequence[str], positions: Sequence[int], first: int) -> None:
        """Count the texts at some positions, and those that are equal to them."""
        if not positions:
            return
        if not self.count:
            self.first = first + min(positions)
        meant = {texts[position] for position in positions}
        self.count += sum(text in meant for text in texts)


class Notices:
    """What is to be told of texts, each by its first position among all.

    Parameters
    ----------
    of_empty : str
        What became of the texts without a token.
    """

    def __init__(self, of_empty: str = "their rows are zero") -> None:
        self.of_empty = of_empty
        self.n_texts = 0
        self.longest: int | None = None
        self.truncated = Tally()
        self.empty = Tally()
        self.sizes: tuple[int, int] | None = None
        self.on_disk = False
        self.are_all = True

    def add(
        self,
        texts: Sequence[str],
        truncated: Sequence[int],
        empty: Sequence[int],
        *,
        longest: int | None,
        first: int = 0,
        are_all: bool = True,
    ) -> None:
        """Count texts.

        Parameters
        ----------
        texts : sequence of str
            All of them; may repeat.
        truncated, empty : sequence of int
            Positions of texts that lost tokens, and of texts without a token that counts.
        longest : int, optional
            How many tokens a text may have.
        first : int, default=0
            What the first position is called.
        are_all : bool, default=True
            Whether there may not be more of them, kept from before.
        """
        self.are_all &= are_all
        self.n_texts += len(texts)
        self.longest = self.longest if longest is None else longest
        self.truncated.add(texts, truncated, first)
        self.empty.add(texts, empty, first)

    def add_size(self, needed: int, most: int, *, on_disk: bool) -> None:
        """Take note of values that take ``needed`` bytes, in a store that holds ``most``."""
        if needed > most:
            self.sizes, self.on_disk = (needed, most), on_disk

    def warn(self, *, stacklevel: int = 2) -> None:
        """Issue at most one warning of each kind.

        Parameters
        ----------
        stacklevel : int, default=2
            Whose line the warnings name: 1 is the line that calls this method, 2 is the caller of
            the function that it stands in, and so on.
        """
        if self.truncated.count:
            message = (
                f"{self._at_least}{self.truncated.count} of {self.n_texts} texts are longer than "
                f"{self.longest} tokens and were truncated (the first is item {self.truncated.first}); "
                "overflow='chunk' uses all of them."
            )
            warnings.warn(message, SAEFeaturesWarning, stacklevel=stacklevel + 1)
        if self.empty.count:
            message = (
                f"{self._at_least}{self.empty.count} of {self.n_texts} texts have no token that counts "
                f"(the first is item {self.empty.first}); {self.of_empty}."
            )
            warnings.warn(message, SAEFeaturesWarning, stacklevel=stacklevel + 1)
        if self.sizes:
            needed, most = (f"{size / 2**20:,.1f} MiB" for size in self.sizes)
            advice = (
                "raise SAE_FEATURES_CACHE_SIZE."
                if self.on_disk
                else "keep them on disk: cache=True or a folder."
            )
            message = (
                f"What is kept of these items takes {needed}, more than the {most} of the store: "
                f"another setting will run the model again. Search on fewer items, or {advice}"
            )
            warnings.warn(message, SAEFeaturesWarning, stacklevel=stacklevel + 1)

    @property
    def _at_least(self) -> str:
        return "" if self.are_all else "At least "
