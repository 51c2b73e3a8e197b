"""A mixture that arrives in blocks, masked in chunks that overlap by what the network can see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from svs_unet_plugin.engines import Engine
from svs_unet_plugin.stft import STFT, blocks, network_magnitudes
from svs_unet_plugin.threads import each
from svs_unet_plugin.treble import Gain, treble_gain


@dataclass(frozen=True)
class Plan:
    """How a signal is cut into chunks.

    Args:
        step: frames from the first of a chunk to the first of the next, ≥ 1.
        past: frames before a chunk that the network sees with it, or some more; ≥ 0.
        ahead: frames after a chunk, and those that overlap with it, that the network sees with it, ≥ 0.
    """

    step: int
    past: int
    ahead: int


@dataclass(frozen=True)
class Masker:
    """A network on a device: spectra in, masks out.

    A network of two channels sees both channels of stereo together; of one channel, and of more than two, it
    sees each alone, as a network of one channel does.

    Args:
        engine: what computes the network.
        indices: which of its sources are wanted, in order.
        threshold: above which a binary mask is 1, or None for soft masks.
    """

    engine: Engine
    indices: tuple[int, ...]
    threshold: float | None = None

    def exact(self, step: int) -> Plan:
        """The plan with which masks depend on nothing that a chunk leaves out."""
        return Plan(step, self.engine.network.reach, self.engine.network.reach)

    def masks(
        self, spectrum: np.ndarray, divisor: float, start: int, context: np.ndarray | None
    ) -> np.ndarray:
        """The masks ``(sources, channels, bins, frames)`` of a chunk.

        Args:
            spectrum: ``(channels, bins, frames)``, complex.
            divisor: of the magnitudes that the network sees.
            start: the chunk's first frame.
            context: what the recurrent layer says about the whole song, if there is one, `heard`.

        Raises:
            ValueError: if the network gives none.
        """
        network = self.engine.network
        soft = np.empty((len(self.indices), *spectrum.shape), np.float32)
        seen = self._seen(spectrum, divisor)
        together = len(spectrum) // len(seen)  # channels
        # One after the other takes as long as all at once, and less memory.
        for item, magnitude in enumerate(seen):
            heard = None if context is None else context[item, None, ..., start // network.stride :]
            of_all = self.engine.masks(magnitude[None], heard)
            of_sources = of_all.reshape(-1, network.in_channels, *of_all.shape[-2:])
            for mask, index in zip(soft, self.indices, strict=True):
                mask[item * together : (item + 1) * together] = of_sources[index, :together]
        if not np.isfinite(soft).all():
            raise ValueError("the network's masks are NaN: its weights are damaged")
        return soft if self.threshold is None else (soft > self.threshold).astype(soft.dtype)

    def deepest(self, spectrum: np.ndarray, divisor: float) -> np.ndarray:
        """What the recurrent layer hears of a spectrum, as for `masks`: ``(items, width, rows, columns)``."""
        return np.concatenate([self.engine.deepest(x[None]) for x in self._seen(spectrum, divisor)])

    def heard(self, deepest: np.ndarray) -> np.ndarray:
        """What the recurrent layer says about a whole song, of which it hears all at once."""
        return np.concatenate([self.engine.heard(item[None]) for item in deepest])

    def _seen(self, spectrum: np.ndarray, divisor: float) -> np.ndarray:
        """``(items, inputs, bins, frames)``: what the network sees at once."""
        channels = self.engine.network.in_channels
        items = spectrum[None] if channels == len(spectrum) == 2 else spectrum[:, None]
        seen = np.empty((len(items), self.engine.network.inputs, *items.shape[-2:]), np.float32)

        def see(block: slice) -> None:
            magnitudes = network_magnitudes(items[..., block], channels)
            np.divide(magnitudes, np.float32(divisor), out=seen[..., block])

        each(see, blocks(items.shape[-1]))
        return seen


@dataclass(frozen=True)
class Chunk:
    """A part of a signal and its STFT.

    Args:
        first, last: the samples from the centre of the first of these frames to that of the other are meant.
        start: the first frame of the spectrum.
        spectrum: ``(channels, bins, frames)``.
        samples: what is meant, ``(channels, samples)``; cut off where the signal ends.
    """

    first: int
    last: int
    start: int
    spectrum: np.ndarray
    samples: np.ndarray


class Chunks:
    """Cuts a signal that arrives in blocks into chunks, and forgets what is behind them.

    Args:
        grid: chunks are seen from multiples of so many frames on.
    """

    def __init__(self, stft: STFT, plan: Plan, channels: int, grid: int = 1) -> None:
        self._stft = stft
        self._plan = plan
        self._grid = grid
        self._signal = np.zeros((channels, 0), np.float32)
        self._offset = 0  # the frame at whose centre the signal that is kept begins
        self._first = 0

    def push(self, block: np.ndarray, ended: bool = False) -> Iterator[Chunk]:
        """The chunks that a block ``(channels, samples)`` completes; all that is left if it is the last."""
        stft, plan, hop = self._stft, self._plan, self._stft.hop_length
        if block.shape[-1]:
            self._signal = np.concatenate([self._signal, block], axis=-1)
        while True:
            samples = self._offset * hop + self._signal.shape[-1]
            frames = stft.frames(samples)
            known = frames if ended else max((samples - stft.window_length // 2) // hop + 1, 0)
            last = self._first + plan.step
            end = last + overlapping_frames(stft) + 1 + plan.ahead
            if ended:
                last, end = min(last, frames - 1), min(end, frames)
            if last == self._first or end > known:  # no samples follow the last frame
                return
            start = max((self._first - plan.past) // self._grid * self._grid, 0)
            begin, stop = ((frame - self._offset) * hop for frame in (self._first, last))
            yield Chunk(
                self._first,
                last,
                start,
                stft.analyse(self._signal, start - self._offset, end - self._offset),
                self._signal[:, begin:stop],
            )
            self._first = last
            margin = -(-stft.window_length // (2 * hop))
            offset = max((last - plan.past) // self._grid * self._grid - margin, 0)
            # A copy of what is kept: a view would keep the rest alive.
            self._signal = self._signal[:, (offset - self._offset) * hop :].copy()
            self._offset = offset


def overlapping_frames(stft: STFT) -> int:
    """How many frames beyond the two around it a sample's synthesis needs, on either side."""
    return -(-stft.window_length // (2 * stft.hop_length)) - 1


def peak(chunk: Chunk) -> float:
    """The largest magnitude of a chunk's frames, those around it included."""
    return float(np.abs(chunk.spectrum).max())


class Estimates:
    """What the network makes of a signal that arrives in blocks, seen through one transform.

    A mask is final once it has been used: frames that two chunks share have the mask of the first.

    Args:
        peak: the song's largest magnitude; None to take the largest so far.
        context: what `Masker.heard` said about the whole song, if there is a recurrent layer.
    """

    def __init__(
        self,
        masker: Masker,
        stft: STFT,
        plan: Plan,
        channels: int,
        peak: float | None,
        context: np.ndarray | None = None,
    ) -> None:
        self._masker = masker
        self._stft = stft
        self._chunks = Chunks(stft, plan, channels, masker.engine.network.stride)
        self._peak = peak
        self._loudest = 0.0
        self._context = context
        self._held: np.ndarray | None = None
        self.gain = Gain(stft, len(masker.indices) * channels)

    def push(self, block: np.ndarray, ended: bool = False) -> Iterator[np.ndarray]:
        """What a gain that changes slowly leaves of the estimates, at the network's own rate.

        The mixture's part above the network's band is not here, but it is known by which gain a source has
        it: an estimate is that gain times the mixture, and a rest that ends with the band.

        Args:
            block: ``(channels, samples)`` at ``stft.sample_rate``.

        Yields:
            ``(sources * channels, samples)``, a chunk at a time; the samples add up to the mixture's.
        """
        for chunk in self._chunks.push(block, ended):
            scale = self._peak
            if scale is None:
                scale = self._loudest = max(self._loudest, peak(chunk))
            if scale == 0:  # silence, of which the masks mean nothing
                rows = len(self._masker.indices) * len(chunk.samples)
                self.gain.append(np.zeros((rows, chunk.last - chunk.first + 1), np.float32))
                self._held = None
                yield np.zeros((rows, chunk.samples.shape[-1]), np.float32)
            else:
                yield self._rest(chunk, scale).reshape(-1, chunk.samples.shape[-1])

    def _rest(self, chunk: Chunk, scale: float) -> np.ndarray:
        """``(sources, channels, samples)``"""
        stft, first, last = self._stft, chunk.first - chunk.start, chunk.last - chunk.start
        masks = self._masker.masks(chunk.spectrum, stft.divisor(scale), chunk.start, self._context)
        around = overlapping_frames(stft)
        if self._held is not None:
            masks[..., max(first - around, 0) : first + around + 1] = self._held
        self._held = masks[..., max(last - around, 0) : last + around + 1].copy()
        meant = slice(first, last + 1)
        gains = treble_gain(masks[..., meant], np.abs(chunk.spectrum[..., meant]) / np.float32(scale))
        self.gain.append(gains.reshape(-1, gains.shape[-1]))
        begin = chunk.first * stft.hop_length
        gain = self.gain.at(begin, begin + chunk.samples.shape[-1], stft.sample_rate)
        begin -= chunk.start * stft.hop_length
        used = slice(0, last + around + 1)  # no sample of the chunk has a part of the frames behind it
        rest = stft.synthesise(chunk.spectrum[..., used], masks[..., used])
        rest = rest[..., begin : begin + chunk.samples.shape[-1]]
        return rest - gain.reshape(rest.shape) * chunk.samples
