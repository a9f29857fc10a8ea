"""What users are told of texts that lost tokens or have none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae_features.errors import SAEFeaturesWarning

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Notices:
    """What is to be told of texts, each by its first position among them.

    Attributes
    ----------
    texts : sequence of str
        All texts; may repeat.
    truncated, empty : list of int
        Positions of texts that lost tokens, and of texts without a token that counts.
    longest : int, optional
        How many tokens a text may have.
    of_empty : str
        What became of the texts without a token.
    """

    texts: Sequence[str]
    truncated: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    longest: int | None = None
    of_empty: str = "their rows are zero"

    def warn(self, *, stacklevel: int = 2) -> None:
        """Issue at most one warning of each kind.

        Parameters
        ----------
        stacklevel : int, default=2
            Whose line the warnings name: 1 is the line that calls this method, 2 is the caller of
            the function that it stands in, and so on.
        """
        if self.truncated:
            message = (
                f"{self._count(self.truncated)} texts are longer than {self.longest} tokens "
                f"and were truncated (the first is item {min(self.truncated)}); overflow='chunk' uses "
                "all of them."
            )
            warnings.warn(message, SAEFeaturesWarning, stacklevel=stacklevel + 1)
        if self.empty:
            message = (
                f"{self._count(self.empty)} texts have no token that counts (the first is "
                f"item {min(self.empty)}); {self.of_empty}."
            )
            warnings.warn(message, SAEFeaturesWarning, stacklevel=stacklevel + 1)

    def _count(self, positions: list[int]) -> str:
        meant = {self.texts[position] for position in positions}
        return f"{sum(text in meant for text in self.texts)} of {len(self.texts)}"
