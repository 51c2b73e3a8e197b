"""Writing audio, a block at a time: files of one form, which get their names only if all goes well.

WAV and FLAC are libsndfile's. MP3, Ogg Vorbis, Opus and M4A (AAC) are ffmpeg's: libsndfile takes no bit rate
for Vorbis, gives an Ogg stream a random serial number, so that no two files are the same, and knows no AAC.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import log10
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from svs_unet_plugin import ffmpeg
from svs_unet_plugin.audio import RATES, Resampler
from svs_unet_plugin.ffmpeg import BLOCK_SAMPLES
from svs_unet_plugin.files import atomic_write, is_part

log = logging.getLogger(__name__)

Write = Callable[[np.ndarray], object]
"""Takes a block ``(channels, samples)``, float32 with full scale at ±1."""

_SFC_SET_ADD_PEAK_CHUNK = 0x1050  # of libsndfile, which soundfile has no name for

RIFF_BYTES = 4_000_000_000
"""Above this a WAV file needs the 64-bit header RF64."""

TAGS = {
    "title": "title",
    "artist": "artist",
    "album": "album",
    "date": "date",
    "track": "tracknumber",
    "genre": "genre",
    "comment": "comment",
    "copyright": "copyright",
}
"""The tags that are carried over, as ffmpeg and as libsndfile call them: those that every format has."""


@dataclass(frozen=True)
class _Format:
    """What a format can hold.

    Args:
        bit_depths: that can be asked for, the default first; none where the format loses some of the audio.
        channels: numbers of them.
        rates: in Hz; none if it takes any up to the highest.
        highest: rate in Hz.
        codec: how ffmpeg writes it at the default quality; empty for libsndfile's.
        muxer: what ffmpeg calls the file, and what makes its length exact.
    """

    bit_depths: tuple[str, ...] = ()
    channels: Sequence[int] = range(1, 1025)
    rates: tuple[int, ...] = ()
    highest: int = RATES[1]
    codec: tuple[str, ...] = ()
    muxer: tuple[str, ...] = ()


_MPEG_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OGG = ("-f", "ogg")
_FORMATS = {
    "wav": _Format(("float", "24", "16")),
    "flac": _Format(("24", "16"), range(1, 9), highest=655_350),
    "mp3": _Format(
        (),
        (1, 2),
        _MPEG_RATES,
        codec=("libmp3lame", "-q:a", "0"),
        muxer=("-id3v2_version", "4", "-f", "mp3"),
    ),
    "ogg": _Format((), range(1, 9), highest=192_000, codec=("libvorbis", "-q:a", "6"), muxer=_OGG),
    # Of 5 and 7, ffmpeg's encoder (5.1) exchanges some.
    "opus": _Format(
        (), (1, 2, 3, 4, 6, 8), (8000, 12_000, 16_000, 24_000, 48_000), codec=("libopus",), muxer=_OGG
    ),
    "m4a": _Format(
        (), range(1, 9), (*_MPEG_RATES, 64_000, 88_200, 96_000), codec=("aac",), muxer=("-f", "ipod")
    ),
}
FORMATS = tuple(_FORMATS)
"""What files can be written as."""

CLIP_MODES = ("rescale", "clamp", "none")
_CHANNEL_BITRATE = {"opus": 80_000, "m4a": 128_000}  # the rest have a quality that fits any rate
_SUBTYPES = {"float": ("FLOAT", 4), "24": ("PCM_24", 3), "16": ("PCM_16", 2)}  # and bytes a sample


@dataclass(frozen=True)
class Encoding:
    """The form of a file: 32-bit float WAV at the audio's own rate, if nothing else is said.

    Args:
        format: "wav", "flac", "mp3", "ogg" (Vorbis), "opus" or "m4a" (AAC).
        bit_depth: "16" or "24", or "float" for WAV; by default all that the format can hold.
        bitrate: in bit/s, of the formats that lose some of the audio; by default a high quality.
        sample_rate: in Hz; by default the audio's own, or the next that the format has.
        clip_mode: what is done about samples beyond full scale. "rescale" makes all files that are written
            together quieter by one factor, so that they still add up. "clamp" cuts each such sample.
            "none" leaves them to the format: float WAV keeps them, whole numbers are cut.

    Raises:
        ValueError: if an argument is out of its range, or does not go with the format.
    """

    format: str = "wav"
    bit_depth: str | None = None
    bitrate: int | None = None
    sample_rate: int | None = None
    clip_mode: str = "none"

    def __post_init__(self) -> None:
        if self.format not in _FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        form = _FORMATS[self.format]
        if self.bit_depth is not None and self.bit_depth not in form.bit_depths:
            right = f"is {' or '.join(form.bit_depths)}" if form.bit_depths else "does not exist"
            raise ValueError(f"the bit depth of {self.format} {right}, got {self.bit_depth!r}")
        if self.bitrate is not None and not form.codec:
            raise ValueError(f"{self.format} has no bit rate to choose: it loses nothing")
        if self.bitrate is not None and not 6000 <= self.bitrate <= 2_000_000:
            raise ValueError(f"the bit rate must lie from 6000 to 2000000 bit/s, got {self.bitrate}")
        rates = form.rates or range(RATES[0], form.highest + 1)
        if self.sample_rate is not None and self.sample_rate not in rates:
            right = f"one of {', '.join(map(str, rates))}" if form.rates else f"from 1000 to {form.highest}"
            raise ValueError(f"the sample rate of {self.format} is {right} Hz, got {self.sample_rate}")
        if self.clip_mode not in CLIP_MODES:
            raise ValueError(f"clip_mode must be one of {', '.join(CLIP_MODES)}, got {self.clip_mode!r}")

    @property
    def depth(self) -> str:
        """The bit depth, by name or by default; empty for formats that have none."""
        return self.bit_depth or next(iter(_FORMATS[self.format].bit_depths), "")

    @property
    def whole_numbers(self) -> bool:
        """Whether samples are stored as whole numbers, of which none lies beyond full scale."""
        return self.depth in ("16", "24")

    def file_rate(self, sample_rate: int) -> int:
        """The rate in Hz of the file that audio of a rate in Hz is written to."""
        form = _FORMATS[self.format]
        if self.sample_rate is not None:
            return self.sample_rate
        if not form.rates:
            return min(sample_rate, form.highest)
        return min((rate for rate in form.rates if rate >= sample_rate), default=max(form.rates))


def read_tags(path: str | os.PathLike[str]) -> dict[str, str]:
    """The tags of a file (see `TAGS`) by ffprobe; none if it is not installed or can't read the file.

    It reads those of all formats, where libsndfile reads those of some.
    """
    try:
        found = ffmpeg.probe(Path(path)).tags
    except ValueError:
        return {}
    tags = {key: found.get(key, "").replace("\0", "") for key in TAGS}
    return {key: value for key, value in tags.items() if value}  # libsndfile writes no empty ones


@contextmanager
def writers(
    paths: Iterable[Path],
    encoding: Encoding,
    sample_rate: int,
    channels: int,
    samples: int,
    tags: Mapping[str, str] | None = None,
) -> Iterator[list[Write]]:
    """Files to write blocks to, which get their names only if all goes well.

    The same audio gives the same bytes. What had to be changed in it is logged as a warning.

    Args:
        sample_rate: of the blocks, in Hz.
        samples: of all blocks together, give or take a few.
        tags: what to say of all files, by the names in `TAGS`.

    Yields:
        A list of functions, one a path, each of which writes a block ``(channels, samples)``.

    Raises:
        OSError: if they can't be written.
        ValueError: if the format can't hold so many channels.
    """
    paths = [Path(path) for path in paths]
    require(encoding)
    form, rate = _FORMATS[encoding.format], encoding.file_rate(sample_rate)
    if channels not in form.channels:
        numbers = form.channels
        right = f"1 to {numbers[-1]}" if isinstance(numbers, range) else ", ".join(map(str, numbers))
        raise ValueError(f"{encoding.format} can be of {right} channels, and not of {channels}")
    tags = {key: value for key, value in (tags or {}).items() if key in TAGS}
    # A context is left before the one that was entered before it: what was held back is written, then the
    # files are closed, then they get their names.
    with ExitStack() as stack:
        parts = [stack.enter_context(atomic_write(path)) for path in paths]
        stack.enter_context(write_errors(paths))  # while what fills the disk is still there
        if form.codec:
            command = _ffmpeg_command(encoding, rate, channels, tags)
            kind = f"{encoding.format} of {channels} channels at {rate} Hz"
            kind += f" and {encoding.bitrate} bit/s" if encoding.bitrate else ""
            opened = (_by_ffmpeg([*command, f"file:{part}"], kind) for part in parts)
        else:
            total = samples * rate // sample_rate
            opened = (_by_libsndfile(part, encoding, rate, channels, total, tags) for part in parts)
        writes = [stack.enter_context(file) for file in opened]
        if encoding.clip_mode == "rescale":
            writes = stack.enter_context(_rescaled(writes, channels, paths))
        elif encoding.clip_mode == "clamp" or encoding.whole_numbers:
            writes = [stack.enter_context(_clamped(*both)) for both in zip(writes, paths, strict=True)]
        if rate != sample_rate:
            writes = [stack.enter_context(_resampled(write, channels, sample_rate, rate)) for write in writes]
        yield writes


def require(encoding: Encoding) -> None:
    """See that files of this form can be written here.

    Raises:
        ValueError: if they need ffmpeg, and it is not installed.
    """
    if _FORMATS[encoding.format].codec and shutil.which("ffmpeg") is None:
        raise ValueError(f"{encoding.format} is written by ffmpeg, which is not installed; wav needs none")


@contextmanager
def _by_libsndfile(
    part: Path, encoding: Encoding, rate: int, channels: int, samples: int, tags: Mapping[str, str]
) -> Iterator[Write]:
    import soundfile

    subtype, size = _SUBTYPES[encoding.depth]
    large = encoding.format == "wav" and size * channels * samples > RIFF_BYTES
    kind = "RF64" if large else encoding.format.upper()
    with soundfile.SoundFile(os.fsencode(part), "w", rate, channels, subtype, format=kind) as file:
        # No PEAK chunk, which holds the time.
        soundfile._snd.sf_command(file._file, _SFC_SET_ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)
        for key, value in () if large else tags.items():
            setattr(file, TAGS[key], value)
        yield lambda block: file.write(block.T)


def _ffmpeg_command(encoding: Encoding, rate: int, channels: int, tags: Mapping[str, str]) -> list[str]:
    """All of a command but the file's name, for samples that come through a pipe."""
    form = _FORMATS[encoding.format]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "f32le", "-ar", str(rate), "-ac", str(channels)]
    if channels == 3:  # not 2.1, whose third one loses all treble
        command += ["-channel_layout", "3.0"]
    elif channels == 4 and encoding.format == "opus":  # which knows no other four
        command += ["-channel_layout", "quad"]
    command += ["-i", "pipe:0", "-c:a", form.codec[0]]
    bitrate = encoding.bitrate or channels * _CHANNEL_BITRATE.get(encoding.format, 0)
    command += ["-b:a", str(bitrate)] if bitrate else form.codec[1:]
    for key, value in tags.items():
        command += ["-metadata", f"{key}={value}"]
    # Neither versions nor the time nor random numbers.
    return [*command, "-fflags", "+bitexact", "-flags:a", "+bitexact", *form.muxer, "-y"]


@contextmanager
def _by_ffmpeg(command: Sequence[str], kind: str) -> Iterator[Write]:
    with (
        tempfile.TemporaryFile() as messages,
        # In a session of its own, since Ctrl-C on a terminal is for this program to handle.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=messages, stderr=messages, start_new_session=True
        ) as process,
    ):
        pipe = cast(BinaryIO, process.stdin)
        broken = None

        def write(block: np.ndarray) -> None:
            with ffmpeg.patience(process):
                pipe.write(block.T.astype("<f4").tobytes())

        try:
            yield write
            with ffmpeg.patience(process):
                pipe.close()
        except BrokenPipeError as error:  # of this one or of another
            broken = error
            with suppress(BrokenPipeError):
                pipe.close()
        except BaseException:
            process.kill()
            raise
        with ffmpeg.patience(process):
            code = process.wait()
        if code:
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip().splitlines()
            said = said or [ffmpeg.how_it_ended(code)]
            reason = re.sub(r"^\[.*?\] ", "", said[0])
            raise OSError(f"ffmpeg can't write this as {kind}: {reason}") from broken
        if broken is not None:
            raise broken


@contextmanager
def _resampled(write: Write, channels: int, old: int, new: int) -> Iterator[Write]:
    """Brings what is written from one rate in Hz to another, and the rest of it at the end."""
    resampler = Resampler(channels, old, new)
    yield lambda block: write(resampler.push(block))
    write(resampler.flush())


@contextmanager
def _clamped(write: Write, path: Path) -> Iterator[Write]:
    """Cuts samples beyond full scale, and tells how many."""
    beyond = 0

    def clamp(block: np.ndarray) -> None:
        nonlocal beyond
        beyond += int((np.abs(block) > 1).sum())
        write(np.clip(block, -1, 1))

    yield clamp
    if beyond:
        log.warning("%s: %d samples beyond full scale were cut", path, beyond)


@contextmanager
def _rescaled(writes: Sequence[Write], channels: int, paths: Sequence[Path]) -> Iterator[list[Write]]:
    """Holds all samples until the largest is known, and divides all of them by it if it is beyond full scale.

    They are held in files without names, which end with the process.
    """
    peak = 1.0

    def hold(file: BinaryIO, block: np.ndarray) -> None:
        nonlocal peak
        peak = max(peak, float(np.abs(block).max(initial=0)))
        file.write(block.T.astype("<f4").tobytes())

    with ExitStack() as stack:
        held = [stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for path in paths]
        yield [partial(hold, cast(BinaryIO, file)) for file in held]
        if peak > 1:
            names = " and ".join(path.name for path in paths)
            log.warning(
                "%s: %.2f dB quieter, as the loudest sample is beyond full scale", names, 20 * log10(peak)
            )
        for file, write in zip(held, writes, strict=True):
            file.seek(0)
            while data := file.read(4 * channels * BLOCK_SAMPLES):
                block = np.frombuffer(data, "<f4").reshape(-1, channels).T
                write(block if peak == 1 else block / np.float32(peak))


@contextmanager
def write_errors(paths: Sequence[Path]) -> Iterator[None]:
    """Says where something can't be written, and why, for what does not say so itself."""
    import soundfile

    folder = paths[0].parent
    while is_part(folder.name):
        folder = folder.parent
    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = _reason(folder) or error.error_string
        raise OSError(f"{folder} can't be written to: {reason}") from error
    except OSError as error:
        if error.filename is None and error.strerror:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise


def _reason(folder: Path) -> str:
    """Why a folder takes no more, which libsndfile keeps to itself ("System error")."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 24))  # more than what libsndfile could not write
            file.flush()
    except OSError as error:
        return error.strerror or ""
    return ""
