"""Progress of work over items: how many, how many tokens a second, how long it will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Progress:
    """A bar, or nothing.

    Parameters
    ----------
    name : str
        What stands before the bar.
    unit : str
        What is counted.
    total : int, optional
        How many there will be.
    is_shown : bool
        Whether there is a bar.
    """

    def __init__(self, name: str, unit: str, total: int | None, *, is_shown: bool) -> None:
        self._bar: Any = tqdm(total=total, unit=unit, desc=name, disable=not is_shown)
        self._tokens = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def tell(self, n_items: int, n_tokens: int = 0) -> None:
        """Count items that are finished, and tokens that were read."""
        self._tokens += n_tokens
        if self._tokens and not self._bar.disable:
            rate = self._tokens / max(time.monotonic() - self._started, 1e-9)
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        self._bar.update(n_items)
