"""Reading and resampling audio, a block at a time.

Blocks are float32 arrays ``(channels, samples)`` with full scale at ±1. Decoding is libsndfile's (WAV,
FLAC, Ogg, MP3, AIFF and more) or, for what it can't read (M4A, MP4, stem files), ffmpeg's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import soxr

BLOCK_SAMPLES = 1 << 18
"""Samples of a block: small beside a song, large beside the cost of a call."""

EXTENSIONS = frozenset(
    """.3gp .aac .ac3 .aif .aifc .aiff .alac .amr .ape .asf .au .avi .bwf .caf .dts .eac3 .flac .flv .m2ts
    .m4a .m4b .m4v .mka .mkv .mov .mp2 .mp3 .mp4 .mpc .mpeg .mpg .mpga .mts .oga .ogg .ogv .opus .ra .rf64
    .snd .spx .tak .ts .tta .vob .w64 .wav .wave .webm .wma .wmv .wv""".split()
)
"""What is taken for a song in a folder; a file that is named is tried, whatever it is called."""

_UNKNOWN_BYTES = 0xFFFF_FF00  # a WAV that was written to a pipe states something from here up
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
    keep_going: bool = False
    first: int = 0
    last: int | None = None
    warnings: list[str] = field(default_factory=list, compare=False)

    @property
    def length(self) -> int | None:
        """Samples of the part, or None where only decoding tells."""
        if self.samples is None:
            return None
        return max(min(self.samples, self.last or self.samples) - self.first, 0)

    def blocks(self) -> Iterator[np.ndarray]:
        """The audio, in blocks ``(channels, samples)``.

        Raises:
            ValueError: if the file is damaged, shorter than it says, empty, or holds NaN or infinity.
        """
        total = 0
        for block in self._sound_blocks():
            start, total = total, total + block.shape[1]
            part = block[:, max(self.first - start, 0) : None if self.last is None else self.last - start]
            if not np.isfinite(part).all():
                raise ValueError(f"{self.path} holds samples that are NaN or infinite")
            if part.shape[1]:
                yield part
            if self.last is not None and total >= self.last:
                return
        if total == 0:
            raise ValueError(f"{self.path} holds no audio: zero samples")
        if total <= self.first:
            raise ValueError(f"{self.path} ends before second {self.first / self.sample_rate:g}")
        if self.samples is not None and total < self.samples:
            self._lost(f"{self.path} is truncated: it holds {total} of {self.samples} samples")

    def _sound_blocks(self) -> Iterator[np.ndarray]:
        decoded = decode(self.path, self.channels) if self.decoder == "ffmpeg" else self._soundfile_blocks()
        try:
            yield from decoded
        except ValueError as error:
            self._lost(str(error))

    def _lost(self, message: str) -> None:
        if not self.keep_going:
            raise ValueError(message)
        if message not in self.warnings:
            self.warnings.append(message)

    def _soundfile_blocks(self) -> Iterator[np.ndarray]:
        import soundfile

        try:
            with soundfile.SoundFile(os.fsencode(self.path)) as file:
                # Not file.blocks(), which fills up with whatever was in memory where a file ends too early.
                while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                    yield block.T
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{self.path} is truncated or damaged: {error.error_string}") from error


def decode(path: Path, channels: int, stream: int = 0, filters: str = "anull") -> Iterator[np.ndarray]:
    """Blocks ``(channels, samples)`` of one of a file's audio streams, decoded by ffmpeg.

    Args:
        filters: that ffmpeg sends it through, as its option ``-af`` takes them.

    Raises:
        ValueError: at the end, if it is truncated or damaged.
    """
    command = ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", f"file:{path}"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [*command, "-map", f"0:a:{stream}", "-af", filters, "-f", "f32le", "-"],
            stdout=subprocess.PIPE,
            stderr=messages,
        )
        assert process.stdout is not None
        try:
            while data := process.stdout.read(4 * channels * BLOCK_SAMPLES):
                yield np.frombuffer(data, dtype="<f4").reshape(-1, channels).T
        finally:
            process.stdout.close()
            code = process.wait()
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip()
    if (code or said) and not _plays_whole(path, stream):
        raise ValueError(f"{path} is truncated or damaged: {_last_line(said) or f'ffmpeg ends with {code}'}")


def _plays_whole(path: Path, stream: int) -> bool:
    """Whether what ffmpeg complains of lies behind the audio, such as a tag that it takes for a frame.

    Only for MP3, where it is frequent. Its frames stand alone, and nothing states how many there are.
    """
    if json.loads(_probe(path, f"a:{stream}").stdout or "{}").get("format", {}).get("format_name") != "mp3":
        return False
    lengths = []
    for stop_at_errors in ([], ["-xerror"]):
        command = ["ffmpeg", "-nostdin", "-v", "quiet", *stop_at_errors, "-i", f"file:{path}"]
        command += ["-map", f"0:a:{stream}", "-f", "f32le", "-"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lengths.append(sum(map(len, iter(partial(process.stdout.read, BLOCK_SAMPLES), b""))))
    return lengths[0] == lengths[1]  # no audio follows the first error


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
        raise ValueError(f"start must be at least 0 seconds, got {start}")
    if duration is not None and not 0 < duration < np.inf:
        raise ValueError(f"duration must be more than 0 seconds, got {duration}")
    file = _open_whole(path)
    first = round(start * file.sample_rate)
    last = None if duration is None else first + max(round(duration * file.sample_rate), 1)
    return replace(file, keep_going=keep_going, first=first, last=last)


def _open_whole(path: str | os.PathLike[str]) -> AudioFile:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not an audio file")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    import soundfile

    try:
        info = soundfile.info(os.fsencode(path), verbose=True)  # any bytes may be in a name
    except soundfile.LibsndfileError:
        return _open_with_ffmpeg(path)
    # libsndfile reads a short WAV or AIFF to its end without complaint, but notes the difference.
    for stated, found in re.findall(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", info.extra_info):
        if int(found) < int(stated) < _UNKNOWN_BYTES:
            raise ValueError(f"{path} is truncated: it holds {found} of {stated} bytes of audio")
    if info.format == "OGG" and not _ogg_is_whole(path):
        raise ValueError(f"{path} is truncated: its last page does not end the stream")
    if info.frames == 0:
        raise ValueError(f"{path} holds no audio: zero samples")
    if info.frames == _UNKNOWN_FRAMES or (info.format == "MP3" and not _mp3_states_its_length(path)):
        return _open_with_ffmpeg(path)  # libsndfile would refuse it, or guess its length
    return AudioFile(path, info.samplerate, info.channels, "libsndfile", info.frames)


def _open_with_ffmpeg(path: Path) -> AudioFile:
    if shutil.which("ffprobe") is None:
        raise ValueError(f"{path} is not audio that libsndfile can read, and ffmpeg is not installed")
    probe = _probe(path, "a:0")
    streams = json.loads(probe.stdout or "{}").get("streams")
    if probe.returncode or not streams:
        reason = _last_line(probe.stderr.decode(errors="replace")) or "no audio stream in it"
        raise ValueError(f"{path} is not audio that can be read: {reason}")
    return AudioFile(path, int(streams[0]["sample_rate"]), streams[0]["channels"], "ffmpeg", None)


def _probe(path: Path, stream: str) -> subprocess.CompletedProcess[bytes]:
    entries = ["-show_entries", "stream=sample_rate,channels:format=format_name"]
    command = ["ffprobe", "-v", "error", "-select_streams", stream, *entries, "-of", "json"]
    return subprocess.run([*command, f"file:{path}"], capture_output=True)


def _ogg_is_whole(path: Path) -> bool:
    """Whether the last page is whole and carries the end-of-stream flag (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2 * 65_536, 0))  # a page is shorter than 64 KiB
        page = file.read().rpartition(b"OggS")[2]
    if len(page) < 23:
        return False
    lengths = page[23 : 23 + page[22]]
    return bool(page[1] & 4) and len(page) >= 23 + page[22] + sum(lengths)


def _mp3_states_its_length(path: Path) -> bool:
    """Whether the first frame is a Xing or Info header with a number of frames, or a VBRI header."""
    with path.open("rb") as file:
        tag = file.read(10)
        # An ID3v2 tag has its size in four bytes of seven bits.
        size = sum(byte << 7 * (3 - i) for i, byte in enumerate(tag[6:])) + 10 if tag[:3] == b"ID3" else 0
        file.seek(size)
        first = file.read(256)
    _, name, header = first.partition(b"Info" if b"Info" in first else b"Xing")
    # Its flags, of which the lowest says that the number follows.
    return b"VBRI" in first or (bool(name) and bool(header[3:4] and header[3] & 1) and any(header[4:8]))


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def track_name(path: Path) -> str:
    """What a track is called: its file's name without the extension, ``.stem.mp4`` as well."""
    name = path.stem.removesuffix(".stem")
    return name if name.strip(".") else path.name  # "..." and the like mean folders, not names


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """The whole of an audio file, ``(channels, samples)``, and its sample rate in Hz; see `open_file`."""
    file = open_file(path)
    return np.concatenate(list(file.blocks()), axis=1), file.sample_rate


def resample(signals: np.ndarray, old: int, new: int) -> np.ndarray:
    """Bring signals ``(..., samples)`` from one sample rate in Hz to another (soxr HQ)."""
    flat = signals.reshape(-1, signals.shape[-1])
    blocks = list(resample_blocks([flat], len(flat), old, new))
    return np.concatenate(blocks, axis=1).reshape(*signals.shape[:-1], -1)


def resample_blocks(blocks: Iterable[np.ndarray], channels: int, old: int, new: int) -> Iterator[np.ndarray]:
    """Bring blocks ``(channels, samples)`` from one sample rate in Hz to another (soxr HQ).

    The blocks that come out, put together, are what one call over the whole signal gives, without delay,
    ``samples * new / old`` of them to the nearest.
    """
    if old == new:
        yield from blocks
        return
    # A stream for each channel, each on a thread of its own: soxr lets go of Python's lock.
    streams = [soxr.ResampleStream(old, new, 1, dtype="float32", quality="HQ") for _ in range(channels)]
    with ThreadPoolExecutor(min(channels, os.cpu_count() or 1)) as pool:
        for block in blocks:
            yield np.stack(list(pool.map(_resample_chunk, streams, block)))
        yield np.stack([stream.resample_chunk(np.zeros(0, np.float32), last=True) for stream in streams])


def _resample_chunk(stream: soxr.ResampleStream, signal: np.ndarray) -> np.ndarray:
    return stream.resample_chunk(np.ascontiguousarray(signal))
