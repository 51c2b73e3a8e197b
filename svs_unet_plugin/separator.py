"""Any audio in, its stems out, at the same rate, length and channels: `Separator` and `separate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from svs_unet_plugin import audio as audio_io
from svs_unet_plugin import checkpoint
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.unet import UNet

ACCOMPANIMENT = "accompaniment"


class Separator:
    """Separates audio of any rate, length and number of channels.

    The mixture is brought to the network's rate, each channel is masked with the mixture's phase in
    chunks that overlap by all that the network can see, and the estimates are brought back. The
    accompaniment is the mixture less the vocals, so that the two add up to the mixture and it keeps its
    treble.

    Args:
        weights: the path of a checkpoint, the name of bundled weights, None for the default ones, or a
            `UNet`.
        device: where the network runs; by default a GPU if there is one.
        stft: the transform that a `UNet` given as ``weights`` was trained on, by default the paper's; a
            checkpoint brings its own.
        mask_threshold: None for soft masks, or a number in (0, 1) above which a binary mask is 1.
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
        if chunk_frames < 1 or chunk_frames % network.stride:
            raise ValueError(f"chunk_frames must be a multiple of {network.stride}, got {chunk_frames}")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = network.to(self.device).eval()
        self.mask_threshold = mask_threshold
        self.chunk_frames = chunk_frames
        self.estimated = tuple(name for name in network.sources if name != ACCOMPANIMENT)
        self._indices = [network.sources.index(name) for name in self.estimated]

    @property
    def sources(self) -> tuple[str, ...]:
        """What `separate` returns, in order."""
        return (*self.estimated, ACCOMPANIMENT)

    @overload
    def separate(self, audio: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]: ...
    @overload
    def separate(self, audio: Tensor, sample_rate: int) -> dict[str, Tensor]: ...
    def separate(
        self, audio: np.ndarray | Tensor, sample_rate: int
    ) -> dict[str, np.ndarray] | dict[str, Tensor]:
        """Separate audio in memory.

        Args:
            audio: ``(channels, samples)`` or ``(samples,)``, floating point, at least one sample.
            sample_rate: in Hz, ≥ 1.

        Returns:
            A float32 array (or tensor on the CPU, as given) of the same shape for each of `sources`.

        Raises:
            ValueError: if the audio has another shape, is empty, or holds NaN, infinity or integers.
        """
        array = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
        mixture = _checked(array, sample_rate)
        stems = {name: np.empty_like(mixture) for name in self.sources}
        start = 0
        for block in self._stems(lambda: iter([mixture]), mixture.shape[0], sample_rate):
            end = start + block.shape[-1]
            for stem, samples in zip(stems.values(), block, strict=True):
                stem[:, start:end] = samples
            start = end
        shaped = {name: stem.reshape(array.shape) for name, stem in stems.items()}
        if isinstance(audio, Tensor):
            return {name: torch.from_numpy(stem) for name, stem in shaped.items()}
        return shaped

    def separate_file(
        self, path: str | os.PathLike[str], out: str | os.PathLike[str], *, progress: bool = False
    ) -> dict[str, Path]:
        """Separate an audio file into ``out/<source>.wav``, 32-bit float, in memory that stays small.

        Args:
            path: anything that libsndfile or ffmpeg reads.
            out: a folder, made if it is missing. Files of these names there are replaced once all is done.
            progress: whether to show a bar on standard error.

        Returns:
            The path written for each of `sources`.

        Raises:
            OSError: if a file can't be read or written.
            ValueError: if the input is not whole, finite audio.
        """
        file = audio_io.open_file(path)
        samples = sum(block.shape[1] for block in file.blocks())  # and so all of it is seen to be sound
        out = Path(out)
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        paths = {name: out / f"{name}.wav" for name in self.sources}
        try:
            with (
                audio_io.wav_writers(paths.values(), file.sample_rate, file.channels, samples) as writers,
                tqdm(
                    total=samples, desc=file.path.name, unit="sample", unit_scale=True, disable=not progress
                ) as bar,
            ):
                for block in self._stems(file.blocks, file.channels, file.sample_rate):
                    for write, stem in zip(writers, block, strict=True):
                        write(stem)
                    bar.update(block.shape[-1])
        except BaseException:
            for folder in made:
                folder.rmdir()
            raise
        return paths

    def _stems(
        self, blocks: Callable[[], Iterable[np.ndarray]], channels: int, sample_rate: int
    ) -> Iterator[np.ndarray]:
        """Blocks ``(sources, channels, samples)`` at the mixture's rate, as long together as the mixture.

        Args:
            blocks: called twice; each time gives the mixture's blocks ``(channels, samples)``.
        """
        rate = self.stft.sample_rate
        low = np.concatenate(list(audio_io.resample_blocks(blocks(), channels, sample_rate, rate)), axis=1)
        flat = (block.flatten(0, 1) for block in self.estimates(torch.from_numpy(low)))
        high = audio_io.resample_blocks(
            (block.numpy() for block in flat), len(self.estimated) * channels, rate, sample_rate
        )
        vocals = self.estimated.index("vocals")
        for mixture, estimates in _side_by_side(blocks(), high):
            sources = estimates.reshape(len(self.estimated), *mixture.shape)
            yield np.concatenate([sources, (mixture - sources[vocals])[None]])

    @torch.inference_mode()
    def estimates(self, mixture: Tensor) -> Iterator[Tensor]:
        """The estimates at the network's own rate, a chunk at a time.

        Args:
            mixture: ``(channels, samples)`` at ``stft.sample_rate``; a network sees each channel alone.

        Yields:
            ``(estimated, channels, samples)``, on the CPU; the samples add up to the mixture's.
        """
        mixture = mixture.to(self.device)
        samples, hop = mixture.shape[-1], self.stft.hop_length
        peak = self.stft.peak(mixture) if samples else 0.0
        if peak == 0:  # silence, of which the masks mean nothing
            yield mixture.new_zeros(len(self.estimated), *mixture.shape).cpu()
            return
        frames = self.stft.frames(samples)
        context = None if self.network.bottleneck_type is None else self._whole_bottleneck(mixture, peak)
        for first, start, end in self._chunks(frames):
            spectrum = self.stft.analyse(mixture, start, end)
            features = self.network.encode(_magnitude(spectrum, peak))
            if context is not None:
                features[-1] = context[..., start // self.network.stride :][..., : features[-1].shape[-1]]
            masks = self.network.decode(features, *spectrum.shape[-2:])[:, self._indices]
            if self.mask_threshold is not None:
                masks = (masks > self.mask_threshold).to(masks)
            audio = self.stft.synthesise(masks.transpose(0, 1) * spectrum)
            last = min((first + self.chunk_frames) * hop, samples)
            yield audio[..., (first - start) * hop : last - start * hop].cpu()

    def _chunks(self, frames: int) -> Iterator[tuple[int, int, int]]:
        """``(first, start, end)``: a chunk's first frame, and the frames to look at to know its masks.

        Chunks begin, and all but the last end, where the network's grid does. The context is at least its
        reach, and a frame more for the synthesis.
        """
        context = -(-(self.network.reach + 4) // self.network.stride) * self.network.stride
        for first in range(0, frames - 1, self.chunk_frames):  # no samples follow the last frame
            yield first, max(first - context, 0), min(first + self.chunk_frames + context, frames)

    def _whole_bottleneck(self, mixture: Tensor, peak: float) -> Tensor:
        """What the recurrent layer says about a whole song, since it hears all of it at once."""
        stride, core = self.network.stride, self.chunk_frames // self.network.stride
        columns = []
        for first, start, end in self._chunks(self.stft.frames(mixture.shape[-1])):
            deepest = self.network.encode(_magnitude(self.stft.analyse(mixture, start, end), peak))[-1]
            deepest = deepest[..., (first - start) // stride :]
            columns.append(deepest[..., :core])
        return self.network.bottleneck(torch.cat([*columns, deepest[..., core:]], dim=-1))


def separate(
    audio: np.ndarray, sample_rate: int, weights: str | os.PathLike[str] | UNet | None = None
) -> dict[str, np.ndarray]:
    """``Separator(weights).separate(audio, sample_rate)``, for a single piece of audio."""
    return Separator(weights).separate(audio, sample_rate)


def _magnitude(spectrum: Tensor, peak: float) -> Tensor:
    """What the network sees of ``(channels, bins, frames)``: each channel as an item of a batch."""
    return (spectrum.abs() / peak).unsqueeze(1)


def _checked(array: np.ndarray, sample_rate: int) -> np.ndarray:
    """The audio as float32 ``(channels, samples)``."""
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be at least 1 Hz, got {sample_rate}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"audio must be (channels, samples) or (samples,), not empty, got {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"audio must be floating point with full scale at 1, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError("audio holds samples that are NaN or infinite")
    return np.atleast_2d(array.astype(np.float32, copy=False))


def _side_by_side(
    left: Iterable[np.ndarray], right: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut two streams of blocks ``(channels, samples)`` alike, to the length of the left one.

    The right one may be a few samples shorter, as resampling there and back leaves it, and then ends in
    zeros.
    """
    blocks = iter(right)
    rest = next(blocks)
    for block in left:
        while rest.shape[1] < block.shape[1]:
            following = next(blocks, None)
            if following is None:
                following = np.zeros((rest.shape[0], block.shape[1] - rest.shape[1]), rest.dtype)
            rest = np.concatenate([rest, following], axis=1)
        for start in range(0, block.shape[1], audio_io.BLOCK_SAMPLES):
            end = min(start + audio_io.BLOCK_SAMPLES, block.shape[1])
            yield block[:, start:end], rest[:, start:end]
        rest = rest[:, block.shape[1] :]
