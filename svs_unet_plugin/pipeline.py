"""Blocks of a mixture in, blocks of its stems out: masking, resampling, and the treble put back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import numpy as np

from svs_unet_plugin.audio import BLOCK_SAMPLES, Resampler
from svs_unet_plugin.chunks import Estimates

CACHED_SAMPLES = 1 << 14
"""Of a block: what is computed of so many stays in the processor's cache."""


class Pipeline:
    """Separates a mixture that arrives in blocks ``(channels, samples)``, also at the network's rate.

    There it is masked, seen through each view, and what the masks leave is brought back. What lies above the
    network's band is shared out as the octave below it is.

    Args:
        views: fresh ones, whose estimates are averaged.
        sample_rate: of the mixture, in Hz.
        network_rate: of the views, in Hz.
        channels: of the mixture.
        sources: that a view estimates.
        check: called before the work on each chunk; it may raise an error to end it.
    """

    def __init__(
        self,
        views: Sequence[Estimates],
        sample_rate: int,
        network_rate: int,
        channels: int,
        sources: int,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._views = views
        self._sample_rate = sample_rate
        self._shape = sources, channels, -1
        self._check = check
        self._up = Resampler(sources * channels, network_rate, sample_rate)
        self._mixture = _Queue(channels)
        self._rests = [_Queue(sources * channels) for _ in views]
        self._high = _Queue(sources * channels)
        self._done = 0

    def push(self, block: np.ndarray, low: np.ndarray) -> Iterator[list[np.ndarray]]:
        """What can be told from this block and those before it.

        Args:
            block: some samples, or none.
            low: at the network's rate, what comes out of a `Resampler` after it.

        Yields:
            ``(channels, samples)`` of each source, in order, and then of the mixture less the first source.
        """
        self._mixture.put(block)
        for _ in self._estimate(low, ended=False):
            yield from self._stems(min(self._mixture.samples, self._high.samples))

    def flush(self) -> Iterator[list[np.ndarray]]:
        """The rest; nothing can be pushed after it."""
        for _ in self._estimate(np.zeros((self._mixture.rows, 0), np.float32), ended=True):
            yield from self._stems(min(self._mixture.samples, self._high.samples))
        self._high.put(self._up.flush())
        # Resampling there and back may leave a few samples less.
        missing = self._mixture.samples - self._high.samples
        self._high.put(np.zeros((self._high.rows, max(missing, 0)), np.float32))
        for view in self._views:
            view.gain.close()
        yield from self._stems(self._mixture.samples)

    def _estimate(self, low: np.ndarray, ended: bool) -> Iterator[None]:
        """Put what the views make of a block at the network's rate into the queue, a piece at a time."""
        for view, queue in zip(self._views, self._rests, strict=True):
            self._check()
            for rest in view.push(low, ended):
                queue.put(rest)
                self._check()
        while samples := min(queue.samples for queue in self._rests):
            pieces = [queue.take(min(samples, BLOCK_SAMPLES // 8)) for queue in self._rests]
            self._high.put(self._up.push(_mean(pieces)))
            yield

    def _stems(self, samples: int) -> Iterator[list[np.ndarray]]:
        while samples:
            end = self._done + min(samples, BLOCK_SAMPLES)
            samples -= end - self._done
            yield self._with_treble(self._done, end)
            for view in self._views:
                view.gain.forget(end, self._sample_rate)
            self._done = end

    def _with_treble(self, start: int, end: int) -> list[np.ndarray]:
        """The stems of the samples that come next."""
        mixture, rest = self._mixture.take(end - start), self._high.take(end - start)
        sources, accompaniment = rest.reshape(self._shape), np.empty_like(mixture)
        for begin in range(start, end, CACHED_SAMPLES):
            stop = min(begin + CACHED_SAMPLES, end)
            part = np.s_[..., begin - start : stop - start]
            gain = _mean([view.gain.at(begin, stop, self._sample_rate) for view in self._views])
            sources[part] += gain.reshape(self._shape) * mixture[part]
            np.subtract(mixture[part], sources[0][part], out=accompaniment[part])
        return [*sources, accompaniment]


def _mean(views: Sequence[np.ndarray]) -> np.ndarray:
    return views[0] if len(views) == 1 else reduce(np.add, views) / np.float32(len(views))


class _Queue:
    """Blocks ``(rows, samples)`` that wait, to be taken in other sizes."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.samples = 0
        self._blocks: deque[np.ndarray] = deque()

    def put(self, block: np.ndarray) -> None:
        if block.shape[1]:
            self._blocks.append(block)
            self.samples += block.shape[1]

    def take(self, samples: int) -> np.ndarray:
        taken = []
        self.samples -= samples
        while samples:
            block = self._blocks.popleft()
            if block.shape[1] > samples:
                self._blocks.appendleft(block[:, samples:])
                block = block[:, :samples]
            taken.append(block)
            samples -= block.shape[1]
        return taken[0] if len(taken) == 1 else np.concatenate(taken, axis=1)
