"""Reading and resampling audio, a block at a time.

Blocks are float32 arrays ``(channels, samples)`` with full scale at ±1. Decoding is libsndfile's (WAV,
FLAC, Ogg, AIFF and more) or, for MP3 and what libsndfile can't read (M4A, MP4, stem files, video), ffmpeg's.
"""

from __future__ import annotations

import mmap
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from svs_unet_plugin import ffmpeg, mp3
from svs_unet_plugin.ffmpeg import BLOCK_SAMPLES
from svs_unet_plugin.threads import each

RATES = (1000, 768_000)
"""The lowest and the highest sample rate in Hz; what states another is no audio, or damaged."""

EXTENSIONS = frozenset(
    """.3gp .aac .ac3 .aif .aifc .aiff .alac .amr .ape .asf .au .avi .bwf .caf .dts .eac3 .flac .flv .m2ts
    .m4a .m4b .m4v .mka .mkv .mov .mp2 .mp3 .mp4 .mpc .mpeg .mpg .mpga .mts .oga .ogg .ogv .opus .ra .rf64
    .snd .spx .tak .ts .tta .vob .w64 .wav .wave .webm .wma .wmv .wv""".split()
)
"""What is taken for a song in a folder; a file that is named is tried, whatever it is called."""

REPLAYED_BYTES = 5 << 25
"""Of audio that is needed twice and decoded once: six minutes of stereo at 44.1 kHz, and at 8192 Hz."""

_THREAD_SAMPLES = 1 << 14  # of a block that is worth a thread for each channel

_UNKNOWN_BYTES = (0x7FFF_FFFF, 0x8000_0000)  # recorders and pipes state these of a WAV that is not finished
_LEAST_UNKNOWN_BYTES = 0xFFFF_FF00  # or something from here up
_OGG_PAGE = 65_307  # bytes of the largest page
_OGG_BEGINS, _OGG_ENDS = 2, 4  # flags of the first and the last page of a stream
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

_VORBIS_ORDER = {
    3: [0, 2, 1],
    5: [0, 2, 1, 3, 4],
    6: [0, 2, 1, 5, 3, 4],
    7: [0, 2, 1, 6, 5, 3, 4],
    8: [0, 2, 1, 7, 5, 6, 3, 4],
}
"""Where Vorbis (I, 4.3.9) has the channels of WAV's order, by their number."""

_UNKNOWN_FRAMES = 2**63 - 1  # and libsndfile states this of such a FLAC


@dataclass(frozen=True)
class AudioFile:
    """An audio file, or a part of one, that can be read more than once; see `open_file`.

    Args:
        path: of the file.
        sample_rate: in Hz.
        channels: how many.
        decoder: "libsndfile" or "ffmpeg".
        samples: of the whole file, or None where only decoding tells.
        seconds: of the whole file, more or less, or None where nothing tells.
        unclosed: whether its recorder crashed before it stated a length; ffmpeg then takes the end for
            damage.
        runs: of an MP3 file, where its frames lie, as in `mp3.Scan`.
        keep_going: whether damage is put up with.
        first: the first sample of the part.
        last: the sample after its last one, or None for the file's end.
        warnings: what was lost of a damaged file, a sentence each; complete once it has been read.
    """

    path: Path
    sample_rate: int
    channels: int
    decoder: str
    samples: int | None
    seconds: float | None = None
    unclosed: bool = False
    runs: tuple[tuple[int, int], ...] | None = None
    keep_going: bool = False
    first: int = 0
    last: int | None = None
    warnings: list[str] = field(default_factory=list, compare=False)

    @property
    def length(self) -> int | None:
        """Samples of the part, more or less, or None where nothing tells."""
        whole = self.samples
        if whole is None:
            if self.seconds is None:
                return None
            whole = round(self.seconds * self.sample_rate)
        return max(min(whole, self.last or whole) - self.first, 0)

    def blocks(self) -> Iterator[np.ndarray]:
        """The audio, in blocks ``(channels, samples)``.

        Raises:
            ValueError: if the file is damaged, shorter than it says, empty, or holds NaN or infinity.
        """
        end = 0
        if self.samples is not None and 0 < self.samples <= self.first:
            raise self._too_short(self.samples)
        for start, block in self._decoded():
            end = start + block.shape[1]
            if self.last is not None:
                block = block[:, : max(self.last - start, 0)]
            block = block[:, max(self.first - start, 0) :]
            if not np.isfinite(block).all():
                self._lost(f"{self.path} holds samples that are NaN or infinite")
                block = np.where(np.isfinite(block), block, np.float32(0))
            if block.shape[1]:
                yield block
            if self.last is not None and end >= self.last:
                return
        if end == 0:
            raise ValueError(f"{self.path} holds no audio: zero samples")
        if end <= self.first:
            raise self._too_short(end)
        if self.samples is not None and end < self.samples and not self.warnings:
            seconds = (self.samples - end) / self.sample_rate
            self._lost(
                f"{self.path} is truncated: it holds {end} of {self.samples} samples, {seconds:.2f} s less"
            )

    def _too_short(self, end: int) -> ValueError:
        start = self.first / self.sample_rate
        return ValueError(
            f"{self.path} is {end / self.sample_rate:g} s long, and can't be started at {start:g} s"
        )

    def _decoded(self) -> Iterator[tuple[int, np.ndarray]]:
        """The file's audio from `first` on or from before, with the number of each block's first sample."""
        decoded = self._by_ffmpeg() if self.decoder == "ffmpeg" else self._by_libsndfile()
        end = 0
        try:
            for start, block in decoded:
                if self.samples is not None:  # behind them an MP3 has what its encoder filled up with
                    block = block[:, : max(self.samples - start, 0)]
                end = start + block.shape[1]
                yield start, block
        except ValueError as error:
            if self.unclosed:
                return
            whole = self.seconds if self.samples is None else self.samples / self.sample_rate
            taken = f"{end / self.sample_rate:.2f} s" + ("" if whole is None else f" of {whole:.2f} s")
            self._lost(str(error), f"{taken} could be decoded")

    def _by_ffmpeg(self) -> Iterator[tuple[int, np.ndarray]]:
        start = 0
        for block in ffmpeg.decode(
            self.path,
            self.channels,
            runs=self.runs,
            sample_rate=self.sample_rate,
            keep_going=self.keep_going or self.unclosed,
        ):
            yield start, block
            start += block.shape[1]

    def _by_libsndfile(self) -> Iterator[tuple[int, np.ndarray]]:
        import soundfile

        start = 0
        try:
            with soundfile.SoundFile(os.fsencode(self.path)) as file:
                if self.first and file.seekable() and file.format != "OGG":  # not to the very sample there
                    start = file.seek(self.first)
                order = _VORBIS_ORDER.get(self.channels) if file.subtype == "VORBIS" else None
                # Not file.blocks(), which fills up with whatever was in memory where a file ends too early.
                while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                    yield start, block.T if order is None else block.T[order]
                    start += len(block)
        except soundfile.LibsndfileError as error:
            if self.keep_going and ffmpeg.installed():  # which goes on behind the damage
                with suppress(ValueError):
                    for at, found in self._by_ffmpeg():
                        if at + found.shape[1] > start:
                            yield max(at, start), found[:, max(start - at, 0) :]
            raise ValueError(f"{self.path} is truncated or damaged: {error.error_string}") from error

    def _lost(self, message: str, more: str = "") -> None:
        if not self.keep_going:
            raise ValueError(message)
        warning = f"{message}; {more}" if more else message
        if warning not in self.warnings:
            self.warnings.append(warning)


def open_file(
    path: str | os.PathLike[str],
    *,
    keep_going: bool = False,
    start: float = 0.0,
    duration: float | None = None,
) -> AudioFile:
    """Look at an audio file's header. Of a file with several streams the first is taken.

    Args:
        path: of the file.
        keep_going: take what can be decoded of a damaged file; what is lost is in `AudioFile.warnings`.
        start: where to begin, in seconds.
        duration: how much to take, in seconds; all that follows by default.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a directory.
        ValueError: if it holds no audio that can be decoded, or less than its header says.
    """
    if not 0 <= start < np.inf:
        raise ValueError(f"start must be finite and at least 0 seconds, got {start}")
    if duration is not None and not 0 < duration < np.inf:
        raise ValueError(f"duration must be more than 0 seconds, got {duration}")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not an audio file")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is a pipe or a device, which can't be read twice: save it as a file")
    found = mp3.scan(path)
    file, problems = _open_with_libsndfile(path) if found is None else _open_mp3(path, found)
    check_rate(file.sample_rate, f"the sample rate of {path}")
    if problems and not keep_going:
        raise ValueError(f"{path} {problems[0]}")
    file.warnings.extend(f"{path} {problem}" for problem in problems)
    first = round(start * file.sample_rate)
    last = None if duration is None else first + max(round(duration * file.sample_rate), 1)
    if keep_going and problems:
        file = replace(file, samples=None)  # what is missing has been said
    return replace(file, keep_going=keep_going, first=first, last=last)


def _open_mp3(path: Path, found: mp3.Scan) -> tuple[AudioFile, list[str]]:
    """An MP3 file, and what is wrong with it."""
    sample_rate, channels, problems = found.sample_rate, found.channels, list(found.problems)
    if ffmpeg.installed():
        return AudioFile(
            path, sample_rate, channels, "ffmpeg", found.samples, found.seconds, runs=found.runs
        ), problems
    if found.samples is None or len(found.runs) > 1:  # libsndfile would guess its length
        raise ValueError(f"{path} does not state its length, and so needs ffmpeg, which is not installed")
    return AudioFile(path, sample_rate, channels, "libsndfile", found.samples), problems


def _open_with_libsndfile(path: Path) -> tuple[AudioFile, list[str]]:
    """A file of another kind, by ffmpeg where libsndfile can't, and what is wrong with it."""
    import soundfile

    if (
        path.suffix.lower() == ".mp3"
    ):  # but no frame of one is in it; libsndfile's decoder would print what it thinks
        return _open_with_ffmpeg(path), []
    try:
        info = soundfile.info(os.fsencode(path), verbose=True)
    except soundfile.LibsndfileError:
        return _open_with_ffmpeg(path), []
    file = AudioFile(path, info.samplerate, info.channels, "libsndfile", info.frames)
    if info.subtype.startswith("MPEG_LAYER"):  # whose length libsndfile only guesses
        return _open_with_ffmpeg(path) if ffmpeg.installed() else replace(file, samples=None), []
    # libsndfile reads a short WAV or AIFF to its end without complaint, but notes the difference.
    for stated, held in re.findall(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", info.extra_info):
        unknown = int(stated) >= _LEAST_UNKNOWN_BYTES or int(stated) in _UNKNOWN_BYTES
        if int(held) < int(stated) and not unknown:
            return file, [f"is truncated: it holds {held} of {stated} bytes of audio"]
    if info.format == "OGG":
        problems, chained = _look_at_ogg(path)
        # libsndfile stops where the first stream ends, and can't read Opus of more channels (1.2).
        if chained or (info.subtype == "OPUS" and info.channels > 2):
            return _open_with_ffmpeg(path), problems
        # Its last page may state an end a little behind what it holds.
        return replace(file, samples=None, seconds=info.frames / info.samplerate), problems
    if info.frames == 0 and info.format in ("WAV", "WAVEX") and not _wav_is_closed(path):
        file = replace(_open_with_ffmpeg(path), unclosed=True)
        file.warnings.append(f"{path} was not closed by what recorded it: all that is there is taken")
        return file, []
    if info.frames == 0:
        raise ValueError(f"{path} holds no audio: zero samples")
    if info.frames == _UNKNOWN_FRAMES:
        return _open_with_ffmpeg(path), []
    return file, []


def _open_with_ffmpeg(path: Path) -> AudioFile:
    probe = ffmpeg.probe(path)
    first = probe.streams[0]
    return AudioFile(path, first.sample_rate, first.channels, "ffmpeg", None, probe.seconds)


def _look_at_ogg(path: Path) -> tuple[list[str], bool]:
    """What is wrong with the pages of an Ogg file, which decoders leave out without a word (RFC 3533).

    Returns:
        The problems, and whether one stream begins after the end of another.
    """
    numbers: dict[bytes, int] = {}  # of the next page, by stream
    page = b""
    chained = ended = False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(b"OggS")
        while start >= 0:
            page = data[start : start + _OGG_PAGE]
            body = 27 + page[26] if len(page) > 26 else 27
            end = body + sum(page[27:body])
            if len(page) < end:
                break
            page = page[:end]
            stream, number = page[14:18], int.from_bytes(page[18:22], "little")
            if page[5] & _OGG_BEGINS:
                chained = chained or ended
                numbers.pop(stream, None)
            if number != numbers.get(stream, number) or _ogg_checksum(page) != page[22:26]:
                return [f"is damaged: page {number} is broken, or the one before it is missing"], chained
            numbers[stream] = number + 1
            ended = bool(page[5] & _OGG_ENDS)
            start = data.find(b"OggS", start + end)
    whole = start < 0 and ended
    return [] if whole else ["is truncated: its last page does not end the stream"], chained


def _ogg_checksum(page: bytes) -> bytes:
    """The checksum of a page: zlib's polynomial, but each byte's highest bit comes first."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    return (zlib.crc32(mirrored, 0xFFFF_FFFF) ^ 0xFFFF_FFFF).to_bytes(4, "little").translate(_MIRRORED)[::-1]


def _wav_is_closed(path: Path) -> bool:
    """Whether a WAV file states its own size, as one does whose recorder has not crashed."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(8)[4:], "little") + 8 >= path.stat().st_size


def rms(signal: np.ndarray) -> float:
    """Root mean square of a signal, ``(…, samples)``, over all of it."""
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def track_name(path: Path) -> str:
    """What a track is called: its file's name without the extension, ``.stem.mp4`` as well."""
    name = path.stem.removesuffix(".stem")
    return name if name.strip(".") else path.name  # "..." and the like mean folders, not names


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """The whole of an audio file, ``(channels, samples)``, and its sample rate in Hz; see `open_file`."""
    file = open_file(path)
    return np.concatenate(list(file.blocks()), axis=1), file.sample_rate


def from_integers(audio: npt.ArrayLike) -> np.ndarray:
    """Integers of 8, 16 or 32 bits, as files and sound cards have them, as float32 with full scale at 1.

    Args:
        audio: of any shape; unsigned ones are silent at 128.

    Raises:
        ValueError: if it holds other numbers.
    """
    array = np.asarray(audio)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype not in (np.int8, np.int16, np.int32):
        raise ValueError(f"audio must be uint8, int8, int16 or int32, got {array.dtype}")
    return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)


def check_rate(sample_rate: float, name: str) -> int:
    """A sample rate in Hz as a whole number, unless it is one that no audio has.

    Args:
        name: what it is called, for messages.

    Raises:
        TypeError: if it is no number.
        ValueError: if it lies outside of `RATES`, or between whole numbers.
    """
    if not isinstance(sample_rate, Real):
        raise TypeError(f"{name} must be a number in Hz, got {sample_rate!r}")
    if not RATES[0] <= sample_rate <= RATES[1]:
        raise ValueError(f"{name} must lie from {RATES[0]} to {RATES[1]} Hz, got {sample_rate}")
    if sample_rate != int(sample_rate):
        raise ValueError(f"{name} must be a whole number of Hz, got {sample_rate}")
    return int(sample_rate)


def resample(signals: np.ndarray, old: int, new: int, samples: int | None = None) -> np.ndarray:
    """Bring signals ``(..., samples)`` from one sample rate in Hz to another (soxr HQ).

    Args:
        samples: what they are cut to, or continued to by zeros; None for what comes out.
    """
    flat = signals.reshape(-1, signals.shape[-1])
    blocks = list(resample_blocks([flat], len(flat), old, new))
    found = np.concatenate(blocks, axis=1).reshape(*signals.shape[:-1], -1)[..., :samples]
    if samples is None:
        return found
    return np.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, samples - found.shape[-1])])


Blocks = tuple[np.ndarray, ...]
"""Of the same time, at several rates."""


def replayed(
    blocks: Callable[[], Iterable[Blocks]], most_bytes: int = REPLAYED_BYTES
) -> Callable[[], Iterator[Blocks]]:
    """What gives blocks as often as it is called: from memory after the first time, if all of them fit."""
    held: list[Blocks] | None = None

    def give() -> Iterator[Blocks]:
        nonlocal held
        if held is not None:
            yield from held
            return
        kept, size = [], 0
        for of_all in blocks():
            size += sum(block.nbytes for block in of_all)
            if size <= most_bytes:
                kept.append(of_all)
            else:
                kept.clear()
            yield of_all
        if size <= most_bytes:
            held = kept

    return give


def resample_blocks(blocks: Iterable[np.ndarray], channels: int, old: int, new: int) -> Iterator[np.ndarray]:
    """Bring blocks ``(channels, samples)`` from one sample rate in Hz to another; see `Resampler`."""
    for _, resampled in with_resampled(blocks, channels, old, new):
        yield resampled


def with_resampled(blocks: Iterable[np.ndarray], channels: int, old: int, new: int) -> Iterator[Blocks]:
    """Blocks ``(channels, samples)``, each with what comes out of a `Resampler` by then.

    The last one has no samples itself, and the rest that comes out.
    """
    resampler = Resampler(channels, old, new)
    for block in blocks:
        yield block, resampler.push(block)
    yield np.zeros((channels, 0), np.float32), resampler.flush()


class Resampler:
    """Brings blocks ``(channels, samples)`` from one sample rate in Hz to another (soxr HQ).

    The blocks that come out, put together, are what one call over the whole signal gives, without delay,
    ``samples * new / old`` of them to the nearest.
    """

    def __init__(self, channels: int, old: int, new: int) -> None:
        self._channels = channels
        # A stream for each channel, each on a thread of its own.
        self._streams = [
            soxr.ResampleStream(old, new, 1, dtype="float32", quality="HQ")
            for _ in range(channels if old != new else 0)
        ]

    def push(self, block: np.ndarray) -> np.ndarray:
        """What can be told from this block and those before it; it may be empty."""
        if not self._streams:
            return block
        streams = zip(self._streams, block, strict=True)
        threads = block.shape[1] >= _THREAD_SAMPLES
        return np.stack(each(_resample_chunk, streams) if threads else list(map(_resample_chunk, streams)))

    def flush(self) -> np.ndarray:
        """The rest; nothing can be pushed after it."""
        if not self._streams:
            return np.zeros((self._channels, 0), np.float32)
        empty = np.zeros(0, np.float32)
        return np.stack([stream.resample_chunk(empty, last=True) for stream in self._streams])


def _resample_chunk(streamed: tuple[soxr.ResampleStream, np.ndarray]) -> np.ndarray:
    stream, signal = streamed
    return stream.resample_chunk(np.ascontiguousarray(signal))
