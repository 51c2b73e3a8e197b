"""Any audio in, its stems out, at the same rate, length and channels: `Separator` and `separate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, TypeGuard, overload

import numpy as np

from svs_unet_plugin.arrays import as_array, as_mixture, is_tensor
from svs_unet_plugin.audio import (
    BLOCK_SAMPLES,
    AudioFile,
    Blocks,
    check_rate,
    open_file,
    replayed,
    resample_blocks,
    with_resampled,
)
from svs_unet_plugin.chunks import Chunks, Estimates, Masker, Plan, peak
from svs_unet_plugin.encoding import Encoding, read_tags, writers
from svs_unet_plugin.engines import Graph, installed, make_engine, read_graph, require
from svs_unet_plugin.files import fingerprint
from svs_unet_plugin.pipeline import Pipeline
from svs_unet_plugin.progress import Cancelled, Meter, Progress
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.weights import find, verify

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from svs_unet_plugin.unet import UNet

__all__ = ["ACCOMPANIMENT", "Cancelled", "Progress", "Separator", "separate"]

ACCOMPANIMENT = "accompaniment"

LOUDEST = 1e34
"""Of the STFT's magnitudes, where full scale is 256: above it, sums over bins may be beyond float32."""


class Separator:
    """Separates audio of any rate, length and number of channels.

    The mixture is brought to the network's rate, each channel is masked with the mixture's phase in
    chunks that overlap by all that the network can see, and the estimates are brought back. What lies above
    the network's band is shared out as the octave below it is. The accompaniment is the mixture less the
    vocals, so that the two add up to the mixture.

    A network of two channels sees both channels of stereo together, and each channel of other audio alone, as
    one of a single channel always does.

    Args:
        weights: the path of a checkpoint or of an ONNX model that `export` made, the name of bundled weights,
            None for the default ones, or a network itself: a `UNet`, which is copied, or the `network` of
            another separator.
        device: where the network runs; by default a GPU if there is one. TF32, which is not exact to 1e-4, is
            off there, and the last bits may differ between runs; this was not tried on a GPU.
        stft: the transform that a `UNet` given as ``weights`` was trained on, by default the paper's; a
            checkpoint brings its own.
        mask_threshold: None for soft masks, or a number in (0, 1) above which a binary mask is 1.
        views: how many window lengths to average over, 1 to 8; three take three times as long. They are
            128 samples apart around the transform's own; of an even number, one more is longer. Hops go with
            them, so that voices look higher or lower, and slower or faster, as in training. The estimates are
            averaged; 3 gain 0.1 to 0.3 dB.
        chunk_frames: frames at a time, a multiple of 64; memory grows with it, the answer stays.
        engine: what computes the network, one of `engines.ENGINES`; by default torch if it is installed, and
            if not, or for an ONNX model, ONNX Runtime.

    Raises:
        FileNotFoundError: if there are no such weights, or none named and none bundled.
        ImportError: if the engine is not installed.
        ValueError: if an argument is out of its range, or the checkpoint can't be used.

    Example:
        >>> separator = Separator("small")
        >>> stems = separator.separate(np.zeros((2, 44_100), np.float32), sample_rate=44_100)
        >>> {name: stem.shape for name, stem in stems.items()}
        {'vocals': (2, 44100), 'accompaniment': (2, 44100)}
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | UNet | Graph | None = None,
        device: str | torch.device | None = None,
        *,
        stft: STFT | None = None,
        mask_threshold: float | None = None,
        views: int = 1,
        chunk_frames: int = 2048,
        engine: str | None = None,
    ) -> None:
        if engine is not None:
            require(engine)
        network: UNet | Graph
        if weights is None or isinstance(weights, (str, os.PathLike)):
            if stft is not None:
                raise ValueError("stft goes with a UNet; a checkpoint brings its own")
            network, self.stft = _opened(weights, engine)
        elif _is_network(weights):
            network, self.stft = _plain(weights), stft or STFT()
        else:
            raise TypeError(f"weights must be a path, a name or a network, got {weights!r}")
        if mask_threshold is not None and not 0 < mask_threshold < 1:
            raise ValueError(f"mask_threshold must lie between 0 and 1, got {mask_threshold}")
        for name, number in {"views": views, "chunk_frames": chunk_frames}.items():
            if not isinstance(number, Integral):
                raise TypeError(f"{name} must be a whole number, got {number!r}")
        if not 1 <= views <= 8:
            raise ValueError(f"views must lie from 1 to 8, got {views}")
        if chunk_frames < 1 or chunk_frames % network.stride:
            raise ValueError(f"chunk_frames must be a multiple of {network.stride}, got {chunk_frames}")
        self.mask_threshold = mask_threshold
        self.views = tuple(
            self._view(step, network.stride) for step in range(-((views - 1) // 2), views // 2 + 1)
        )
        self.chunk_frames = chunk_frames
        self.estimated, indices = stem_order(network.sources)
        where = None if device is None else str(device)
        self.masker = Masker(make_engine(engine, network, self.stft.bins, where), indices, mask_threshold)

    @property
    def engine(self) -> str:
        """The name of what computes the network."""
        return self.masker.engine.name

    @property
    def device(self) -> str:
        """Where the network is, such as ``"cpu"``."""
        return self.masker.engine.device

    @property
    def network(self) -> UNet | Graph:
        """A `UNet` if torch computes it, and if not, a graph."""
        return self.masker.engine.network

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
            sample_rate: in Hz, a whole number from 1000 to 768,000.
            progress: called as ``progress(done, total)``, both in seconds of audio, from time to time.
            cancel: ends the work soon after it is set, from another thread or in ``progress``.

        Returns:
            A float32 array (or tensor on the CPU, as given) of the same shape for each of `sources`.

        Raises:
            ValueError: if the audio has another shape, is empty, or holds NaN, infinity or integers.
            Cancelled: if it was.
        """
        sample_rate, array = check_rate(sample_rate, "sample_rate"), as_array(audio)
        mixture = as_mixture(array)
        stems = {name: np.empty_like(mixture) for name in self.sources}

        meter = Meter(sample_rate, mixture.shape[1], progress, cancel)
        song = self._listen(lambda: _cut(mixture), len(mixture), sample_rate, meter)
        start = 0
        for block in self._stems(song, meter):
            end = start + block[0].shape[-1]
            for stem, samples in zip(stems.values(), block, strict=True):
                stem[:, start:end] = samples
            start = end
        shaped = {name: stem.reshape(array.shape) for name, stem in stems.items()}
        if is_tensor(audio):
            import torch

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
        file = path if isinstance(path, AudioFile) else open_file(path)
        state = fingerprint([file.path])
        meter = Meter(file.sample_rate, file.length, progress, cancel)
        # All of the file is read before anything is written, and so found to be sound.
        song = self._listen(file.blocks, file.channels, file.sample_rate, meter)
        wanted = [self.sources.index(name) for name in paths]
        folders = {folder for path in paths.values() for folder in (path.parent, *path.parent.parents)}
        made = sorted((folder for folder in folders if not folder.exists()), reverse=True)  # inner ones first
        try:
            for written in paths.values():
                written.parent.mkdir(parents=True, exist_ok=True)
            form = encoding, file.sample_rate, file.channels, meter.total, read_tags(file.path)
            with writers(paths.values(), *form) as writes:
                for block in self._stems(song, meter):
                    for write, stem in zip(writes, wanted, strict=True):
                        write(block[stem])
                if fingerprint([file.path]) != state:
                    raise ValueError(f"{file.path} was changed while it was read: wait until it is whole")
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
        if isinstance(out, Mapping):
            paths = {name: Path(path) for name, path in out.items()}
        else:
            paths = {name: Path(out) / f"{name}.{extension}" for name in self.sources}
        wanted = tuple(paths if stems is None else stems)
        if not wanted or not set(wanted) <= set(paths) & set(self.sources):
            raise ValueError(f"stems must be some of {', '.join(self.sources)}, got {', '.join(wanted)}")
        chosen = {name: paths[name] for name in wanted}
        if len({os.path.abspath(path) for path in chosen.values()}) < len(chosen):
            raise ValueError(f"each stem needs a path of its own, got {', '.join(map(str, chosen.values()))}")
        return chosen

    def _view(self, step: int, stride: int) -> STFT:
        """The transform with a window longer by so many times 128 samples, for whole rows of the network."""
        window = self.stft.window_length + step * 2 * stride
        hop = self.stft.hop_length * window // self.stft.window_length
        return replace(self.stft, window_length=window, hop_length=hop)

    def peaks(self, audio: np.ndarray | Tensor, sample_rate: int) -> tuple[float, ...]:
        """The largest magnitude of audio in memory, seen through each view; see `streaming.Streamer`.

        Args:
            audio, sample_rate: as in `separate`.
        """
        sample_rate, mixture = check_rate(sample_rate, "sample_rate"), as_mixture(as_array(audio))
        low = resample_blocks(_cut(mixture), len(mixture), sample_rate, self.stft.sample_rate)
        return self._peaks(low, len(mixture))

    def _peaks(self, low: Iterable[np.ndarray], channels: int) -> tuple[float, ...]:
        cutters = [Chunks(view, Plan(512, 0, 0), channels) for view in self.views]
        peaks = [0.0] * len(cutters)
        for block, ended in _to_the_end(low, channels):
            for i, cutter in enumerate(cutters):
                peaks[i] = float(np.max([peaks[i], *map(peak, cutter.push(block, ended))]))  # NaN stays
        if not (np.array(peaks) < LOUDEST).all():
            raise ValueError("the audio is too loud for float32: full scale is 1")
        return tuple(peaks)

    def _listen(
        self, blocks: Callable[[], Iterable[np.ndarray]], channels: int, sample_rate: int, meter: Meter
    ) -> _Song:
        """Listen to a song once, or twice if there is a recurrent layer, before it is separated.

        Args:
            blocks: gives the song, ``(channels, samples)`` each, as often as it is called.
        """
        both = replayed(lambda: with_resampled(blocks(), channels, sample_rate, self.stft.sample_rate))
        peaks = self._peaks((low for _, low in meter.reading(both())), channels)
        contexts: list[np.ndarray | None] = [None] * len(peaks)
        if self.masker.engine.recurrent:
            for i, (view, scale) in enumerate(zip(self.views, peaks, strict=True)):
                if scale > 0:
                    contexts[i] = self._context((low for _, low in both()), view, channels, scale, meter)
        return _Song(both, channels, sample_rate, peaks, contexts)

    def _context(
        self, low: Iterable[np.ndarray], view: STFT, channels: int, scale: float, meter: Meter
    ) -> np.ndarray:
        """What the recurrent layer says about a whole song, since it hears all of it at once."""
        stride, core = self.network.stride, self.chunk_frames // self.network.stride
        cutter = Chunks(view, self.masker.exact(self.chunk_frames), channels, stride)
        columns = []
        for block, ended in _to_the_end(low, channels):
            meter.check()
            for chunk in cutter.push(block, ended):
                deepest = self.masker.deepest(chunk.spectrum, view.divisor(scale))
                deepest = deepest[..., (chunk.first - chunk.start) // stride :]
                columns.append(deepest[..., :core])
        return self.masker.heard(np.concatenate([*columns, deepest[..., core:]], axis=-1))

    def _stems(self, song: _Song, meter: Meter) -> Iterator[list[np.ndarray]]:
        """For each block of the mixture, one ``(channels, samples)`` of each of `sources`."""
        plan = self.masker.exact(self.chunk_frames)
        views = [
            Estimates(self.masker, view, plan, song.channels, scale, context)
            for view, scale, context in zip(self.views, song.peaks, song.contexts, strict=True)
        ]
        pipeline = Pipeline(
            views, song.sample_rate, self.stft.sample_rate, song.channels, len(self.estimated), meter.check
        )
        for block, low in song.blocks():
            yield from meter.separating(pipeline.push(block, low))
        yield from meter.separating(pipeline.flush())


def stem_order(sources: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The stems that a network's masks give, vocals first, and where these masks are among its own.

    The accompaniment is none of them: it is the mixture less the vocals.

    Raises:
        ValueError: if there are no vocals.
    """
    if "vocals" not in sources:
        raise ValueError(f"sources must have 'vocals' among them, got {tuple(sources)}")
    others = (name for name in sources if name not in ("vocals", ACCOMPANIMENT))
    stems = ("vocals", *others)
    return stems, tuple(sources.index(name) for name in stems)


@dataclass(frozen=True)
class _Song:
    """What is to be separated, and what had to be heard of it before.

    Args:
        blocks: gives it, ``(channels, samples)`` each, also at the network's rate, as often as it is called.
        peaks: its largest magnitude, seen through each view.
        contexts: what the recurrent layer says about it, seen through each view.
    """

    blocks: Callable[[], Iterable[Blocks]]
    channels: int
    sample_rate: int
    peaks: Sequence[float]
    contexts: Sequence[np.ndarray | None]


def _cut(mixture: np.ndarray) -> Iterator[np.ndarray]:
    """Audio in memory in blocks ``(channels, samples)``."""
    for start in range(0, mixture.shape[1], BLOCK_SAMPLES):
        yield mixture[:, start : start + BLOCK_SAMPLES]


def _to_the_end(blocks: Iterable[np.ndarray], channels: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Blocks ``(channels, samples)``, and whether it was the last, which is empty."""
    for block in blocks:
        yield block, False
    yield np.zeros((channels, 0), np.float32), True


def separate(
    audio: np.ndarray, sample_rate: int, weights: str | os.PathLike[str] | UNet | None = None
) -> dict[str, np.ndarray]:
    """``Separator(weights).separate(audio, sample_rate)``, for a single piece of audio."""
    return Separator(weights).separate(audio, sample_rate)


def _is_network(weights: object) -> TypeGuard[UNet | Graph]:
    """Whether it is a network itself."""
    if isinstance(weights, Graph):
        return True
    module = sys.modules.get("svs_unet_plugin.unet")  # without which there is none
    return module is not None and isinstance(weights, module.UNet)


def _plain(network: UNet | Graph) -> UNet | Graph:
    """A network as this package computes it: one in nussl has other axes, and shares its weights."""
    if isinstance(network, Graph):
        return network
    from svs_unet_plugin.unet import UNet

    if type(network) is UNet:
        return network
    plain = UNet(**network.arguments())
    plain.load_state_dict(network.state_dict(), assign=True)
    return plain


def _opened(weights: str | os.PathLike[str] | None, engine: str | None) -> tuple[UNet | Graph, STFT]:
    """A network for an engine, and the transform whose magnitudes it was trained on.

    Args:
        weights: as `find` takes them: a checkpoint, or what `export` wrote as ONNX, which needs no torch.
        engine: one of `engines.ENGINES`, or None for torch where it is installed.

    Raises:
        ImportError: if the file is a checkpoint, and torch is not installed.
        FileNotFoundError, ValueError: see `find`, `checkpoint.read` and `read_graph`.
    """
    torch = "torch" in installed()
    path = find(weights, ".pth" if torch and engine in (None, "torch") else ".onnx")
    if path.suffix == ".onnx":
        return read_graph(path, bundled=verify(path))
    if not torch:
        raise ImportError(
            f"{path} is a checkpoint, which takes torch: pip install 'svs_unet_plugin[torch]', or make it an "
            "ONNX model where torch is: svs-unet export"
        )
    from svs_unet_plugin import checkpoint

    loaded = checkpoint.read(path)
    return loaded.network, loaded.stft
