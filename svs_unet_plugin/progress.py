"""How far a separation is, and its end before the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Event

import numpy as np

from svs_unet_plugin.audio import Blocks

READING_SHARE = 0.1
"""How much of the progress the first pass is, which listens to the audio before it is separated."""

Progress = Callable[[float, float], object]
"""Is told, from 0 to the end, how many seconds of audio are done, and of how many."""


class Cancelled(Exception):
    """Raised where a separation ends since its ``cancel`` was set; nothing is left half-written."""


class Meter:
    """Counts the seconds of both passes on one scale, and ends the work that was cancelled.

    Args:
        sample_rate: in Hz.
        samples: of the audio, or None if that is not known before it is read.
        progress, cancel: as in `separator.Separator.separate`.
    """

    def __init__(
        self, sample_rate: int, samples: int | None, progress: Progress | None, cancel: Event | None
    ) -> None:
        self.total = samples or 0
        self._sample_rate = sample_rate
        self._progress = progress
        self._cancel = cancel
        self._separated = 0

    def check(self) -> None:
        """
        Raises:
            Cancelled: if it was.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("the separation was cancelled")

    def reading(self, blocks: Iterable[Blocks]) -> Iterator[Blocks]:
        """Blocks of the first pass, counted by the samples of the first of each."""
        read = 0
        for of_all in blocks:
            self.check()
            read += of_all[0].shape[-1]
            self.total = max(self.total, read)
            yield of_all
            if of_all[0].shape[-1]:
                self._tell(READING_SHARE * read)
        self.total = read

    def separating(self, blocks: Iterable[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        """Blocks ``(channels, samples)`` of each stem, counted."""
        for block in blocks:
            yield block
            self._separated += block[0].shape[-1]
            rest = self.total - self._separated
            self._tell(self.total - (1 - READING_SHARE) * rest)

    def _tell(self, samples: float) -> None:
        if self._progress is not None:
            self._progress(samples / self._sample_rate, self.total / self._sample_rate)
        self.check()
