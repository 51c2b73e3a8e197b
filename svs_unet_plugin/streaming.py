"""Audio that does not end yet: blocks in, blocks of stems out, a stated time later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from svs_unet_plugin.arrays import as_array, as_mixture
from svs_unet_plugin.audio import Resampler, check_rate
from svs_unet_plugin.chunks import Estimates, Plan, overlapping_frames
from svs_unet_plugin.pipeline import Pipeline
from svs_unet_plugin.separator import Separator
from svs_unet_plugin.stft import STFT

PAST_SECONDS = 4.0
"""What a low latency leaves the network to look back at, since each step looks at it again."""


class Streamer:
    """Separates audio while it arrives, in memory that stays the same.

    What a sample is, is known once the network has seen what follows it. With all that the network can see
    (``latency=None``), and the loudest magnitude known, the stems are those of `Separator.separate` to 1e-4.
    With less latency it looks less far ahead, and less far back, and the stems are worse.

    Args:
        separator: whose network has no recurrent layer. It may be used elsewhere at the same time.
        sample_rate: of the blocks, in Hz.
        channels: of the blocks, ≥ 1.
        latency: in seconds, how late a sample may come out, at most; None for what an exact answer takes.
        peaks: the largest magnitudes of the whole song, as `Separator.peaks` tells; None to take the largest
            so far, with which the beginning of a song is taken for a quieter song.

    Raises:
        ValueError: if the latency is shorter than is possible, or the network has a recurrent layer.

    Example:
        >>> streamer = Streamer(Separator("small"), sample_rate=44_100, channels=2, latency=0.5)
        >>> stems = streamer.push(np.zeros((2, 4410), np.float32))  # 0.1 s: nothing can be told yet
        >>> stems["vocals"].shape
        (2, 0)
        >>> streamer.flush()["vocals"].shape
        (2, 4410)
    """

    def __init__(
        self,
        separator: Separator,
        sample_rate: int,
        channels: int,
        latency: float | None = None,
        *,
        peaks: Sequence[float] | None = None,
    ) -> None:
        sample_rate = check_rate(sample_rate, "sample_rate")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if separator.masker.engine.recurrent:
            raise ValueError(
                "a network with a recurrent layer hears a song as a whole and can't separate a stream: "
                "use a network without one"
            )
        views = separator.views
        if peaks is not None and len(peaks) != len(views):
            raise ValueError(f"peaks must be {len(views)}, one for each view, got {len(peaks)}")
        self.sources = separator.sources
        self.channels = channels
        self.sample_rate = sample_rate
        resampling = _resampling_delay(sample_rate, separator.stft.sample_rate)
        reach = separator.network.reach
        plans = [_plan(view, latency, resampling, reach) for view in views]
        #: In seconds: after so much more has been pushed, a sample has come out.
        self.latency = max(
            resampling + _window_delay(view) + (plan.step + plan.ahead) * view.hop_length / view.sample_rate
            for view, plan in zip(views, plans, strict=True)
        )
        #: Whether the network sees all that it can, so that the stems are the separator's own.
        self.exact = all(min(plan.past, plan.ahead) >= reach for plan in plans)
        estimates = [
            Estimates(separator.masker, view, plan, channels, None if peaks is None else peaks[i])
            for i, (view, plan) in enumerate(zip(views, plans, strict=True))
        ]
        self._down = Resampler(channels, sample_rate, separator.stft.sample_rate)
        self._pipeline: Pipeline | None = Pipeline(
            estimates, sample_rate, separator.stft.sample_rate, channels, len(separator.estimated)
        )

    def push(self, block: Any) -> dict[str, np.ndarray]:
        """Take the next samples.

        Args:
            block: ``(channels, samples)``, or ``(samples,)`` of one channel; floating point with full scale
                at 1, as for `Separator.separate`; any number of samples, at least one.

        Returns:
            What can be told by now, ``(channels, samples)`` float32 for each of the separator's sources; no
            samples, at first. One after the other, these are as long as what was pushed.

        Raises:
            ValueError: if the block has another shape, or holds anything but finite samples, or the stream
                was flushed.
        """
        mixture = as_mixture(as_array(block))
        if len(mixture) != self.channels:
            raise ValueError(f"block must be ({self.channels}, samples), got {np.shape(block)}")
        return self._joined(self._open().push(mixture.copy(), self._down.push(mixture)))

    def flush(self) -> dict[str, np.ndarray]:
        """End the stream.

        Returns:
            The rest, as `push` does. Nothing can be pushed after it.
        """
        pipeline, self._pipeline = self._open(), None
        last = pipeline.push(np.zeros((self.channels, 0), np.float32), self._down.flush())
        return self._joined(chain(last, pipeline.flush()))

    def _open(self) -> Pipeline:
        if self._pipeline is None:
            raise ValueError("the stream was flushed: make another Streamer for other audio")
        return self._pipeline

    def _joined(self, blocks: Iterator[list[np.ndarray]]) -> dict[str, np.ndarray]:
        nothing = [np.zeros((self.channels, 0), np.float32)] * len(self.sources)
        stems = zip(nothing, *blocks, strict=True)
        return {name: np.concatenate(stem, axis=1) for name, stem in zip(self.sources, stems, strict=True)}


def _plan(view: STFT, latency: float | None, resampling: float, reach: int) -> Plan:
    """How to cut a stream into chunks so that no sample is later than that."""
    if latency is None:
        return Plan(reach, reach, reach)
    frame = view.hop_length / view.sample_rate
    fixed = resampling + _window_delay(view)
    budget = int((latency - fixed) / frame + 1e-9)
    if budget < 1:
        raise ValueError(
            f"latency must be None or at least {fixed + frame:.2f} s with this network, got {latency}"
        )
    step = max(-(-budget // 2), budget - reach)
    ahead = budget - step
    return Plan(step, reach if ahead >= reach else min(reach, round(PAST_SECONDS / frame)), ahead)


def _window_delay(view: STFT) -> float:
    """Seconds from a sample to the end of the last window that it needs, of a chunk of no frames."""
    return (overlapping_frames(view) * view.hop_length + view.window_length / 2) / view.sample_rate


def _resampling_delay(sample_rate: int, network_rate: int) -> float:
    """Seconds that resampling there and back holds samples back, at most, as tried with silence."""
    if sample_rate == network_rate:
        return 0.0
    total = 0.0
    for old, new in ((sample_rate, network_rate), (network_rate, sample_rate)):
        resampler = Resampler(1, old, new)
        block = np.zeros((1, max(old // 1000, 1)), np.float32)
        came = worst = 0.0
        for i in range(1, 2001):
            came += resampler.push(block).shape[1] / new
            worst = max(worst, i * block.shape[1] / old - came)
        total += worst + block.shape[1] / old
    return total
