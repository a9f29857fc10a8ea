"""Ctrl-C in a training: the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from sae_features.training.sources import ActivationSource
    from sae_features.training.trainer import SAETrainer


@contextmanager
def saving_at_ctrl_c(trainer: SAETrainer, source: ActivationSource) -> Iterator[ActivationSource]:
    """Let Ctrl-C end a training between two steps, behind a checkpoint; a second one ends it at once.

    While the source computes rows, the first one ends it at once, too: that may take minutes, and what
    was saved last is at most ``save_seconds`` old.  Outside the main thread nothing is changed.

    Parameters
    ----------
    trainer : SAETrainer
        With a folder.
    source : ActivationSource

    Yields
    ------
    ActivationSource
        The same rows: train on it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield source
        return
    stop = _Stop(trainer)
    before = signal.signal(signal.SIGINT, stop.ask)
    try:
        yield _StoppableSource(source, stop)
    finally:
        signal.signal(signal.SIGINT, before)
    if stop.is_asked:  # in the last step
        raise KeyboardInterrupt


class _Stop:
    """Whether the user asked for an end."""

    def __init__(self, trainer: SAETrainer) -> None:
        self.trainer = trainer
        self.is_asked = False
        self.is_computing_rows = False

    def ask(self, *_: Any) -> None:
        """Take a signal."""
        if self.is_asked or self.is_computing_rows:
            raise KeyboardInterrupt
        self.is_asked = True
        self.trainer.save_seconds = 0.0  # it saves behind this step

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal end what is done within."""
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_computing_rows = True
        try:
            yield
        finally:
            self.is_computing_rows = False


class _StoppableSource:
    """A source whose batches end where the user asked for it."""

    def __init__(self, source: ActivationSource, stop: _Stop) -> None:
        self._source, self._stop = source, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def sample(self, n_rows: int) -> torch.Tensor:
        with self._stop.at_once():
            return self._source.sample(n_rows)

    def batches(self, batch_size: int, *, seed: int = 0, start: int = 0) -> Iterator[torch.Tensor]:
        batches = self._source.batches(batch_size, seed=seed, start=start)
        while True:
            with self._stop.at_once():
                batch = next(batches)
            yield batch
