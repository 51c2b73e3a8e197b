"""A mixture that arrives in blocks, masked in chunks that overlap by what the network can see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from svs_unet_plugin.engines import Engine, in_float32
from svs_unet_plugin.stft import STFT, network_magnitudes
from svs_unet_plugin.treble import Gain, treble_gain
from svs_unet_plugin.unet import UNet


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

    @property
    def network(self) -> UNet:
        """In evaluation mode."""
        return self.engine.network

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.engine.device

    def exact(self, step: int) -> Plan:
        """The plan with which masks depend on nothing that a chunk leaves out."""
        return Plan(step, self.network.reach, self.network.reach)

    def masks(self, spectrum: Tensor, divisor: float, start: int, context: Tensor | None) -> Tensor:
        """The masks ``(sources, channels, bins, frames)`` of a chunk.

        Args:
            spectrum: ``(channels, bins, frames)``, complex.
            divisor: of the magnitudes that the network sees.
            start: the chunk's first frame.
            context: what the recurrent layer says about the whole song, if there is one, `heard`.

        Raises:
            ValueError: if the network gives none.
        """
        network = self.network
        masks = []
        # One after the other takes as long as all at once, and less memory.
        for item, magnitude in enumerate(self._seen(spectrum, divisor)):
            if context is None:
                of_all = self.engine.masks(magnitude[None])
            else:
                with in_float32(self.device):
                    features = network.encode(magnitude[None])
                    columns = context[item, None, ..., start // network.stride :]
                    features[-1] = columns[..., : features[-1].shape[-1]]
                    of_all = network.decode(features, *magnitude.shape[-2:])
            masks.append(of_all.unflatten(1, (-1, network.in_channels))[0, list(self.indices)])
        if len(spectrum) != 2:
            masks = [mask[:, :1] for mask in masks]
        soft = torch.cat(masks, dim=1)
        if not torch.isfinite(soft).all():
            raise ValueError("the network's masks are NaN: its weights are damaged")
        return soft if self.threshold is None else (soft > self.threshold).to(soft)

    def deepest(self, spectrum: Tensor, divisor: float) -> Tensor:
        """What the recurrent layer hears of a spectrum, as for `masks`: ``(items, width, rows, columns)``."""
        with in_float32(self.device):
            return torch.cat([self.network.encode(x[None])[-1] for x in self._seen(spectrum, divisor)])

    def heard(self, deepest: Tensor) -> Tensor:
        """What the recurrent layer says about a whole song, of which it hears all at once."""
        with in_float32(self.device):
            return torch.cat([self.network.bottleneck(item[None]) for item in deepest])

    def _seen(self, spectrum: Tensor, divisor: float) -> Tensor:
        """``(items, inputs, bins, frames)``: what the network sees at once."""
        together = self.network.in_channels == len(spectrum) == 2
        items = spectrum[None] if together else spectrum[:, None]
        return network_magnitudes(items, self.network.in_channels) / divisor


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
    spectrum: Tensor
    samples: Tensor


class Chunks:
    """Cuts a signal that arrives in blocks into chunks, and forgets what is behind them.

    Args:
        grid: chunks are seen from multiples of so many frames on.
    """

    def __init__(self, stft: STFT, plan: Plan, channels: int, grid: int = 1) -> None:
        self._stft = stft
        self._plan = plan
        self._grid = grid
        self._signal = torch.zeros(channels, 0)
        self._offset = 0  # the frame at whose centre the signal that is kept begins
        self._first = 0

    def push(self, block: Tensor, ended: bool = False) -> Iterator[Chunk]:
        """The chunks that a block ``(channels, samples)`` completes; all that is left if it is the last."""
        stft, plan, hop = self._stft, self._plan, self._stft.hop_length
        if block.shape[-1]:
            self._signal = torch.cat([self._signal.to(block.device), block], dim=-1)
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
            self._signal = self._signal[:, (offset - self._offset) * hop :].clone()
            self._offset = offset


def overlapping_frames(stft: STFT) -> int:
    """How many frames beyond the two around it a sample's synthesis needs, on either side."""
    return -(-stft.window_length // (2 * stft.hop_length)) - 1


def peak(chunk: Chunk) -> float:
    """The largest magnitude of a chunk's frames, those around it included."""
    return float(chunk.spectrum.abs().max())


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
        context: Tensor | None = None,
    ) -> None:
        self._masker = masker
        self._stft = stft
        self._chunks = Chunks(stft, plan, channels, masker.network.stride)
        self._peak = peak
        self._loudest = 0.0
        self._context = context
        self._held: Tensor | None = None
        self.gain = Gain(stft, len(masker.indices) * channels)

    @torch.inference_mode()
    def push(self, block: Tensor, ended: bool = False) -> Iterator[Tensor]:
        """What a gain that changes slowly leaves of the estimates, at the network's own rate.

        The mixture's part above the network's band is not here, but it is known by which gain a source has
        it: an estimate is that gain times the mixture, and a rest that ends with the band.

        Args:
            block: ``(channels, samples)`` at ``stft.sample_rate``.

        Yields:
            ``(sources * channels, samples)``, a chunk at a time; the samples add up to the mixture's.
        """
        for chunk in self._chunks.push(block.to(self._masker.device), ended):
            scale = self._peak
            if scale is None:
                scale = self._loudest = max(self._loudest, peak(chunk))
            if scale == 0:  # silence, of which the masks mean nothing
                rows = len(self._masker.indices) * len(chunk.samples)
                self.gain.append(torch.zeros(rows, chunk.last - chunk.first + 1))
                self._held = None
                yield torch.zeros(rows, chunk.samples.shape[-1])
            else:
                yield self._rest(chunk, scale).flatten(0, 1).cpu()

    def _rest(self, chunk: Chunk, scale: float) -> Tensor:
        """``(sources, channels, samples)``"""
        stft, first, last = self._stft, chunk.first - chunk.start, chunk.last - chunk.start
        masks = self._masker.masks(chunk.spectrum, stft.divisor(scale), chunk.start, self._context)
        around = overlapping_frames(stft)
        if self._held is not None:
            masks[..., max(first - around, 0) : first + around + 1] = self._held
        self._held = masks[..., max(last - around, 0) : last + around + 1].clone()
        meant = slice(first, last + 1)
        gains = treble_gain(masks[..., meant], chunk.spectrum[..., meant].abs() / scale)
        self.gain.append(gains.flatten(0, 1).cpu())
        begin = chunk.first * stft.hop_length
        gain = self.gain.at(begin, begin + chunk.samples.shape[-1], stft.sample_rate).to(masks.device)
        begin -= chunk.start * stft.hop_length
        used = slice(0, last + around + 1)  # no sample of the chunk has a part of the frames behind it
        rest = stft.synthesise((masks * chunk.spectrum)[..., used])
        rest = rest[..., begin : begin + chunk.samples.shape[-1]]
        return rest - gain.reshape(rest.shape) * chunk.samples
