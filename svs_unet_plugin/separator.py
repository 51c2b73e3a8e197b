"""Any audio in, its stems out, at the same rate, length and channels: `Separator` and `separate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path
from threading import Event
from typing import overload

import numpy as np
import torch
from torch import Tensor

from svs_unet_plugin import audio as audio_io
from svs_unet_plugin import checkpoint
from svs_unet_plugin.audio import AudioFile
from svs_unet_plugin.encoding import Encoding, read_tags, writers
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.treble import Gain, treble_gain
from svs_unet_plugin.unet import UNet

ACCOMPANIMENT = "accompaniment"

MOST_CHANNELS = 64
"""More channels than this, and more than samples, are refused: they are samples."""

READING_SHARE = 0.1
"""How much of the progress the first pass is, which reads the audio and brings it to the network's rate."""

Progress = Callable[[float, float], object]
"""Is told, from 0 to the end, how many seconds of audio are done, and of how many."""


class Cancelled(Exception):
    """Raised where a separation ends since its ``cancel`` was set; nothing is left half-written."""


class Separator:
    """Separates audio of any rate, length and number of channels.

    The mixture is brought to the network's rate, each channel is masked with the mixture's phase in
    chunks that overlap by all that the network can see, and the estimates are brought back. What lies above
    the network's band is shared out as the octave below it is. The accompaniment is the mixture less the
    vocals, so that the two add up to the mixture.

    Args:
        weights: the path of a checkpoint, the name of bundled weights, None for the default ones, or a
            `UNet`, which is moved to the device and put in evaluation mode.
        device: where the network runs; by default a GPU if there is one. TF32, which is not exact to 1e-4, is
            off there, and the last bits may differ between runs; this was not tried on a GPU.
        stft: the transform that a `UNet` given as ``weights`` was trained on, by default the paper's; a
            checkpoint brings its own.
        mask_threshold: None for soft masks, or a number in (0, 1) above which a binary mask is 1.
        views: how many window lengths to look at the song with, 1 to 8, in as many times the time. They are
            128 samples apart around the transform's own; of an even number, one more is longer. Hops go with
            them, so that voices look higher or lower, and slower or faster, as in training. The estimates are
            averaged; 3 gain 0.1 to 0.3 dB.
        chunk_frames: frames at a time, a multiple of 64; memory grows with it, the answer stays.

    Raises:
        FileNotFoundError: if there are no such weights, or none named and none bundled.
        ValueError: if an argument is out of its range, or the checkpoint can't be used.

    Example:
        >>> separator = Separator(UNet())
        >>> stems = separator.separate(np.zeros((2, 44_100), np.float32), sample_rate=44_100)
        >>> {name: stem.shape for name, stem in stems.items()}
        {'vocals': (2, 44100), 'accompaniment': (2, 44100)}
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | UNet | None = None,
        device: str | torch.device | None = None,
        *,
        stft: STFT | None = None,
        mask_threshold: float | None = None,
        views: int = 1,
        chunk_frames: int = 1024,
    ) -> None:
        if isinstance(weights, UNet):
            network, self.stft = weights, stft or STFT()
        elif stft is not None:
            raise ValueError("stft goes with a UNet; a checkpoint brings its own")
        else:
            loaded = checkpoint.read(weights)
            network, self.stft = loaded.network, loaded.stft
        if network.in_channels != 1:
            raise ValueError(f"the network must take one channel at a time, this takes {network.in_channels}")
        if "vocals" not in network.sources:
            raise ValueError(f"the network must estimate 'vocals', this estimates {network.sources}")
        if mask_threshold is not None and not 0 < mask_threshold < 1:
            raise ValueError(f"mask_threshold must lie between 0 and 1, got {mask_threshold}")
        if not 1 <= views <= 8:
            raise ValueError(f"views must lie from 1 to 8, got {views}")
        if chunk_frames < 1 or chunk_frames % network.stride:
            raise ValueError(f"chunk_frames must be a multiple of {network.stride}, got {chunk_frames}")
        self.device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        # With the channels last in memory, convolutions are some ten percent faster on a CPU.
        network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval()
        self.mask_threshold = mask_threshold
        self._views = [self._view(step) for step in range(-((views - 1) // 2), views // 2 + 1)]
        self.chunk_frames = chunk_frames
        others = (name for name in network.sources if name not in ("vocals", ACCOMPANIMENT))
        self.estimated = ("vocals", *others)
        self._indices = [network.sources.index(name) for name in self.estimated]

    @property
    def sources(self) -> tuple[str, ...]:
        """What `separate` returns, in order: vocals first, accompaniment last."""
        return (*self.estimated, ACCOMPANIMENT)

    @overload
    def separate(
        self,
        audio: np.ndarray,
        sample_rate: int,
        *,
        progress: Progress | None = None,
        cancel: Event | None = None,
    ) -> dict[str, np.ndarray]: ...
    @overload
    def separate(
        self,
        audio: Tensor,
        sample_rate: int,
        *,
        progress: Progress | None = None,
        cancel: Event | None = None,
    ) -> dict[str, Tensor]: ...
    def separate(
        self,
        audio: np.ndarray | Tensor,
        sample_rate: int,
        *,
        progress: Progress | None = None,
        cancel: Event | None = None,
    ) -> dict[str, np.ndarray] | dict[str, Tensor]:
        """Separate audio in memory.

        Args:
            audio: ``(channels, samples)`` or ``(samples,)``, floating point, at least one sample.
            sample_rate: in Hz, ≥ 1.
            progress: called as ``progress(done, total)``, both in seconds of audio, from time to time.
            cancel: ends the work soon after it is set, from another thread or in ``progress``.

        Returns:
            A float32 array (or tensor on the CPU, as given) of the same shape for each of `sources`.

        Raises:
            ValueError: if the audio has another shape, is empty, or holds NaN, infinity or integers.
            Cancelled: if it was.
        """
        if isinstance(audio, Tensor):
            audio = audio.detach().cpu()
            array = (audio.float() if audio.is_floating_point() else audio).numpy()
        else:
            array = np.asarray(audio)
        mixture = _checked(array, sample_rate)
        stems = {name: np.empty_like(mixture) for name in self.sources}

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, mixture.shape[1], audio_io.BLOCK_SAMPLES):
                yield mixture[:, start : start + audio_io.BLOCK_SAMPLES]

        meter = _Meter(sample_rate, mixture.shape[1], progress, cancel)
        low = self._at_network_rate(meter.reading(blocks()), mixture.shape[0], sample_rate)
        start = 0
        for block in meter.separating(self._stems(low, blocks(), sample_rate)):
            end = start + block[0].shape[-1]
            for stem, samples in zip(stems.values(), block, strict=True):
                stem[:, start:end] = samples
            start = end
        shaped = {name: stem.reshape(array.shape) for name, stem in stems.items()}
        if isinstance(audio, Tensor):
            return {name: torch.from_numpy(stem) for name, stem in shaped.items()}
        return shaped

    def separate_file(
        self,
        path: str | os.PathLike[str] | AudioFile,
        out: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
        *,
        stems: Iterable[str] | None = None,
        encoding: Encoding = Encoding(),  # noqa: B008, it can't be changed
        progress: Progress | None = None,
        cancel: Event | None = None,
    ) -> dict[str, Path]:
        """Separate an audio file into files, in memory that stays small.

        Args:
            path: anything that libsndfile or ffmpeg reads, or what `audio.open_file` returned.
            out: a folder, which gets ``<source>.<format>``, or a path for each source. Folders are made if
                they are missing. Files of these names are replaced once all is done.
            stems: which of `sources` to write; all of them by default, or those that ``out`` names.
            encoding: the form of the files, by default 32-bit float WAV.
            progress, cancel: as in `separate`.

        Returns:
            The path written for each stem.

        Raises:
            OSError: if a file can't be read or written.
            ValueError: if the input is not whole, finite audio, or there are no such stems.
            Cancelled: if it was.
        """
        paths = self._paths(out, stems, encoding.format)
        file = path if isinstance(path, AudioFile) else audio_io.open_file(path)
        meter = _Meter(file.sample_rate, file.length, progress, cancel)
        # All of the file is read before anything is written, and so found to be sound.
        low = self._at_network_rate(meter.reading(file.blocks()), file.channels, file.sample_rate)
        wanted = [self.sources.index(name) for name in paths]
        folders = {folder for path in paths.values() for folder in (path.parent, *path.parent.parents)}
        made = sorted((folder for folder in folders if not folder.exists()), reverse=True)  # inner ones first
        try:
            for written in paths.values():
                written.parent.mkdir(parents=True, exist_ok=True)
            form = encoding, file.sample_rate, file.channels, meter.total, read_tags(file.path)
            with writers(paths.values(), *form) as writes:
                for block in meter.separating(self._stems(low, file.blocks(), file.sample_rate)):
                    for write, stem in zip(writes, wanted, strict=True):
                        write(block[stem])
        except BaseException:
            for folder in made:
                with suppress(OSError):  # somebody else may have put something there
                    folder.rmdir()
            raise
        return paths

    def _paths(
        self,
        out: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
        stems: Iterable[str] | None,
        extension: str,
    ) -> dict[str, Path]:
        """Where each stem is written."""
        named = out if isinstance(out, Mapping) else None
        there = tuple(self.sources if named is None else named)
        wanted = there if stems is None else tuple(stems)
        if not wanted or not set(wanted) <= set(there) & set(self.sources):
            raise ValueError(f"stems must be some of {', '.join(self.sources)}, got {', '.join(wanted)}")
        if named is not None:
            return {name: Path(named[name]) for name in wanted}
        return {name: Path(out) / f"{name}.{extension}" for name in wanted}  # type: ignore[arg-type]

    def _view(self, step: int) -> STFT:
        """The transform with a window longer by so many times 128 samples, for whole rows of the network."""
        window = self.stft.window_length + step * 2 * self.network.stride
        hop = self.stft.hop_length * window // self.stft.window_length
        return replace(self.stft, window_length=window, hop_length=hop)

    def _at_network_rate(self, blocks: Iterable[np.ndarray], channels: int, sample_rate: int) -> Tensor:
        """All of the mixture, ``(channels, samples)``, held but once: the buffer grows where it lies."""
        low = np.empty((0, channels), np.float32)
        for block in audio_io.resample_blocks(blocks, channels, sample_rate, self.stft.sample_rate):
            start = len(low)
            low.resize((start + block.shape[1], channels), refcheck=False)
            low[start:] = block.T
        return torch.from_numpy(low.T)

    def _stems(
        self, low: Tensor, blocks: Iterable[np.ndarray], sample_rate: int
    ) -> Iterator[list[np.ndarray]]:
        """For each block of the mixture, one ``(channels, samples)`` of each of `sources`.

        Args:
            low: the mixture at the network's rate, ``(channels, samples)``.
            blocks: the mixture again, ``(channels, samples)`` each, at its own rate.
        """
        low = low.to(self.device)
        gains = [Gain(stft, self.chunk_frames) for stft in self._views]
        views = (self._rests(low, stft, gain) for stft, gain in zip(self._views, gains, strict=True))
        mean = (piece / len(gains) for piece in reduce(_added, views))
        rows = len(self.estimated) * low.shape[0]
        high = audio_io.resample_blocks(mean, rows, self.stft.sample_rate, sample_rate)
        end = 0
        for mixture, rest in _side_by_side(blocks, high):
            start, end = end, end + mixture.shape[1]
            total = reduce(torch.add, (gain.at(start, end, sample_rate) for gain in gains))
            gain = (total / len(gains)).numpy()
            shape = len(self.estimated), *mixture.shape
            sources = rest.reshape(shape) + gain.reshape(shape) * mixture
            yield [*sources, mixture - sources[0]]

    @torch.inference_mode()
    def _rests(self, mixture: Tensor, stft: STFT, gain: Gain) -> Iterator[np.ndarray]:
        """What a gain that changes slowly leaves of the estimates, at the network's own rate.

        The mixture's part above the network's band is not here, but it is known by which gain a source has
        it: an estimate is that gain times the mixture, and a rest that ends with the band.

        Args:
            mixture: ``(channels, samples)`` at ``stft.sample_rate``; a network sees each channel alone.
            gain: takes the gains of what is yielded.

        Yields:
            ``(estimated * channels, samples)``, a piece at a time; the samples add up to the mixture's.
        """
        samples, hop = mixture.shape[-1], stft.hop_length
        rows, piece = len(self.estimated) * mixture.shape[0], audio_io.BLOCK_SAMPLES // 8
        peak = stft.peak(mixture) if samples else 0.0
        if not np.isfinite(peak):
            raise ValueError("the audio is too loud for float32: full scale is 1")
        if peak == 0:  # silence, of which the masks mean nothing
            gain.append(torch.zeros(rows, 2))
            for start in range(0, max(samples, 1), piece):
                yield np.zeros((rows, min(piece, samples - start)), np.float32)
            return
        frames, loudest = stft.frames(samples), stft.seen_peak(peak)
        context = None
        if self.network.bottleneck_type is not None:
            context = [self._whole_bottleneck(channel, stft, peak) for channel in mixture]
        for first, start, end in self._chunks(frames):
            spectrum = stft.analyse(mixture, start, end)
            magnitudes = spectrum.abs() / peak
            # One channel at a time takes as long as all at once, and less memory.
            masks = torch.cat(
                [
                    self._masks(loudest * magnitude, start, None if context is None else context[i])
                    for i, magnitude in enumerate(magnitudes)
                ],
                dim=1,
            )
            last = min((first + self.chunk_frames) * hop, samples)
            inside = slice((first - start) * hop, last - start * hop)
            at_frames = treble_gain(masks, magnitudes)[..., first - start :][..., : self.chunk_frames + 1]
            gain.append(at_frames.flatten(0, 1).cpu())
            low_gain = gain.at(first * hop, last, stft.sample_rate).to(mixture.device)
            rest = stft.synthesise(masks * spectrum)[..., inside]
            rest -= low_gain.reshape(rest.shape) * mixture[:, first * hop : last]
            for part in rest.flatten(0, 1).cpu().split(piece, dim=-1):
                yield part.numpy()

    def _chunks(self, frames: int) -> Iterator[tuple[int, int, int]]:
        """``(first, start, end)``: a chunk's first frame, and the frames to look at to know its masks.

        Chunks begin, and all but the last end, where the network's grid does. The context is at least its
        reach, and a frame more for the synthesis.
        """
        context = -(-(self.network.reach + 4) // self.network.stride) * self.network.stride
        for first in range(0, frames - 1, self.chunk_frames):  # no samples follow the last frame
            yield first, max(first - context, 0), min(first + self.chunk_frames + context, frames)

    def _masks(self, magnitude: Tensor, start: int, context: Tensor | None) -> Tensor:
        """The masks ``(estimated, 1, bins, frames)`` of one channel's chunk ``(bins, frames)``.

        Args:
            start: the chunk's first frame.
            context: what the recurrent layer says about the whole song, if there is one.
        """
        with self._in_float32():
            features = self.network.encode(magnitude[None, None])
            if context is not None:
                features[-1] = context[..., start // self.network.stride :][..., : features[-1].shape[-1]]
            masks = self.network.decode(features, *magnitude.shape)[0, self._indices, None]
        return masks if self.mask_threshold is None else (masks > self.mask_threshold).to(masks)

    def _whole_bottleneck(self, channel: Tensor, stft: STFT, peak: float) -> Tensor:
        """What the recurrent layer says about a whole song, since it hears all of it at once."""
        stride, core = self.network.stride, self.chunk_frames // self.network.stride
        columns = []
        with self._in_float32():
            for first, start, end in self._chunks(stft.frames(channel.shape[-1])):
                magnitude = stft.analyse(channel, start, end).abs() / peak * stft.seen_peak(peak)
                deepest = self.network.encode(magnitude[None, None])[-1][..., (first - start) // stride :]
                columns.append(deepest[..., :core])
            return self.network.bottleneck(torch.cat([*columns, deepest[..., core:]], dim=-1))

    def _in_float32(self) -> AbstractContextManager[None]:
        """On a GPU, cuDNN without TF32 and by deterministic kernels while it lasts; its flags are global."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
        )


def separate(
    audio: np.ndarray, sample_rate: int, weights: str | os.PathLike[str] | UNet | None = None
) -> dict[str, np.ndarray]:
    """``Separator(weights).separate(audio, sample_rate)``, for a single piece of audio."""
    return Separator(weights).separate(audio, sample_rate)


def devices() -> list[str]:
    """The devices that torch can use here."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _usable(device: str | torch.device) -> torch.device:
    """The device, if there is one of that name here, and numbers can be had back from it."""
    try:
        number = torch.ones(1, device=device)
        number.item()
        return number.device
    except Exception as error:  # torch raises almost anything, and says it in a paragraph
        raise ValueError(f"there is no device {device} here: take one of {', '.join(devices())}") from error


def _checked(array: np.ndarray, sample_rate: int) -> np.ndarray:
    """The audio as float32 ``(channels, samples)``."""
    if not sample_rate >= 1:
        raise ValueError(f"sample_rate must be at least 1 Hz, got {sample_rate}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"audio must be (channels, samples) or (samples,), not empty, got {array.shape}")
    if array.ndim == 2 and len(array) > max(MOST_CHANNELS, array.shape[1]):
        raise ValueError(f"audio must be (channels, samples), got {array.shape}: transpose it")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"audio must be floating point with full scale at 1, got {array.dtype}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError("audio holds samples that are NaN, infinite, or too large for float32")
    return np.atleast_2d(array)


class _Meter:
    """Counts the seconds of both passes on one scale, and ends the work that was cancelled."""

    def __init__(
        self, sample_rate: int, samples: int | None, progress: Progress | None, cancel: Event | None
    ) -> None:
        self.total = samples or 0
        self._sample_rate = sample_rate
        self._progress = progress
        self._cancel = cancel

    def reading(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        read = 0
        for block in blocks:
            read += block.shape[-1]
            self.total = max(self.total, read)
            yield block
            self._tell(READING_SHARE * read)
        self.total = read

    def separating(self, blocks: Iterable[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        done = 0
        for block in blocks:
            yield block
            done += block[0].shape[-1]
            self._tell(
                done if done == self.total else READING_SHARE * self.total + (1 - READING_SHARE) * done
            )

    def _tell(self, samples: float) -> None:
        if self._progress is not None:
            self._progress(samples / self._sample_rate, self.total / self._sample_rate)
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("the separation was cancelled")


def _added(left: Iterable[np.ndarray], right: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The sum of two streams of blocks ``(channels, samples)``, cut like the left one."""
    for a, b in _side_by_side(left, right):
        yield a + b


def _side_by_side(
    left: Iterable[np.ndarray], right: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut the right stream of blocks ``(channels, samples)`` like the left one.

    It may be a few samples shorter, as resampling there and back leaves it, and then ends in zeros.
    """
    blocks = iter(right)
    rest = next(blocks)
    for block in left:
        while rest.shape[1] < block.shape[1]:
            following = next(blocks, None)
            if following is None:
                following = np.zeros((rest.shape[0], block.shape[1] - rest.shape[1]), rest.dtype)
            rest = np.concatenate([rest, following], axis=1)
        yield block, rest[:, : block.shape[1]]
        rest = rest[:, block.shape[1] :]
