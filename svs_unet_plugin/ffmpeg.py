"""Files that ffmpeg decodes, by its programs: what is in them, and their audio, a block at a time."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np

BLOCK_SAMPLES = 1 << 18
"""Samples of a block: small beside a song, large beside the cost of a call."""

LONGEST_SILENCE = 120.0
"""Seconds after which a program that neither reads nor writes anything hangs, and is killed."""

_REFERRING = {
    "hls",
    "applehttp",
    "concat",
    "dash",
    "webm_dash_manifest",
    "imf",
    "sdp",
    "rtsp",
    "image2",
    "vobsub",
}
"""Formats that ffmpeg finds by a file's content, and that only say in which other files the audio is."""


_HARMLESS = b"failed to create or replace stream"
"""What ffmpeg says of each further stream in a chained Ogg file, before it decodes it."""


@dataclass(frozen=True)
class Stream:
    """An audio stream in a file: its rate in Hz, its channels, and where they stand, where that is known."""

    sample_rate: int
    channels: int
    layout: str


@dataclass(frozen=True)
class Probe:
    """What ffprobe says about a file.

    Args:
        streams: those with audio, in order.
        seconds: how long it is, more or less, or None.
        tags: such as ``artist`` and ``title``, by names in lower case.
    """

    streams: tuple[Stream, ...]
    seconds: float | None
    tags: Mapping[str, str]


def installed() -> bool:
    """Whether both ffmpeg and ffprobe are on the PATH."""
    return None not in (shutil.which("ffmpeg"), shutil.which("ffprobe"))


def run(command: Sequence[str], work: float = 0.0) -> subprocess.CompletedProcess[bytes]:
    """Run one of ffmpeg's programs, or another, without input; one that hangs is killed.

    Args:
        work: seconds that it may take for what it has to do, by far.

    Raises:
        ValueError: if it hung.
    """
    longest = LONGEST_SILENCE + work
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=longest)
    except subprocess.TimeoutExpired as error:
        raise ValueError(_hangs(command[0], longest)) from error


@contextmanager
def patience(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Wait for a program to read, to write, or to end, but not for ever: it is killed where it hangs.

    Raises:
        ValueError: if it hung.
    """
    hangs = Event()

    def end() -> None:
        hangs.set()
        process.kill()

    timer = Timer(LONGEST_SILENCE, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if hangs.is_set():
            raise ValueError(_hangs("ffmpeg", LONGEST_SILENCE))


def how_it_ended(code: int, program: str = "ffmpeg") -> str:
    """What an exit status says, where the program itself has said nothing."""
    return (
        f"{program} was ended by {signal.Signals(-code).name}" if code < 0 else f"{program} ends with {code}"
    )


def _hangs(program: str, seconds: float) -> str:
    return f"{program} did nothing for {seconds:g} seconds and was stopped"


@cache
def _alone() -> list[str]:
    """Options with which ffmpeg reads the file that it is given, and no other one that this may name."""
    said = run(["ffmpeg", "-v", "quiet", "-demuxers"]).stdout.decode()
    names = {
        name for line in re.findall(r"^ D[E ][d ]\s*(\S+)", said, re.MULTILINE) for name in line.split(",")
    }
    return ["-protocol_whitelist", "file,pipe", "-format_whitelist", ",".join(sorted(names - _REFERRING))]


def probe(path: Path) -> Probe:
    """Look at a file's headers.

    Raises:
        ValueError: if there is no audio in it that can be decoded, or ffmpeg is not installed.
    """
    if not installed():
        raise ValueError(f"{path} needs ffmpeg to be read, which is not installed")
    entries = "stream=codec_type,sample_rate,channels,channel_layout:stream_tags:format=duration:format_tags"
    command = ["ffprobe", "-v", "error", *_alone(), "-show_entries", entries, "-of", "json", f"file:{path}"]
    try:
        done = run(command)
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    reason = _last_line(done.stderr).removeprefix(f"file:{path}: ")
    reason = reason or (how_it_ended(done.returncode) if done.returncode else "")
    try:
        found = json.loads(done.stdout)
    except ValueError:  # ffprobe died in the middle
        found = {}
    streams = [stream for stream in found.get("streams", []) if stream.get("codec_type") == "audio"]
    if done.returncode or not streams:
        raise ValueError(
            f"{path} is not audio that can be read: {reason or 'there is no audio stream in it'}"
        )
    kinds = tuple(
        Stream(int(s.get("sample_rate", 0)), int(s.get("channels", 0)), _layout(s.get("channel_layout", "")))
        for s in streams
    )
    if not all(kind.sample_rate and kind.channels for kind in kinds):
        raise ValueError(f"{path} is not audio that can be read: it states no sample rate or no channels")
    about = found.get("format", {})
    tags = {**streams[0].get("tags", {}), **about.get("tags", {})}
    seconds = about.get("duration")
    return Probe(
        kinds,
        None if seconds is None else float(seconds),
        {name.lower(): str(value) for name, value in tags.items()},
    )


def _layout(name: str) -> str:
    """A layout of channels by the name that ffmpeg's filters know it by; empty if they know none."""
    listed = re.fullmatch(r"\d+ channels \((.*)\)", name)  # which have no name of their own
    return listed[1] if listed else "" if name == "unknown" else name


def decode(
    path: Path,
    channels: int,
    stream: int = 0,
    filters: str = "anull",
    *,
    runs: Sequence[tuple[int, int]] | None = None,
    sample_rate: int | None = None,
    keep_going: bool = False,
) -> Iterator[np.ndarray]:
    """Blocks ``(channels, samples)`` of one of a file's audio streams, decoded by ffmpeg.

    Args:
        filters: that ffmpeg sends it through, as its option ``-af`` takes them.
        runs: of an MP3 file, the bytes to decode, from each first number to the second.
        sample_rate: in Hz, to keep to if the stream changes it; by default that of its beginning.
        keep_going: go on behind what can't be decoded.

    Raises:
        ValueError: if ffmpeg is not installed, or, at the end, if the file is truncated or damaged.
    """
    import numpy as np  # not above: `svs-unet doctor` looks for ffmpeg where numpy may be missing

    if not installed():
        raise ValueError(f"{path} needs ffmpeg to be read, which is not installed")
    source = ["-f", "mp3", "-i", "pipe:0"] if runs else ["-i", f"file:{path}"]
    command = ["ffmpeg", "-v", "error", *([] if keep_going else ["-xerror"]), *_alone(), *source]
    kept = ["-ac", f"{channels}"]
    if channels > 2 and (layout := probe(path).streams[stream].layout):
        # -ac would mix channels that stand elsewhere into the places that ffmpeg has for so many.
        filters, kept = f"{filters},aformat=channel_layouts={layout}", []
    command += ["-map", f"0:a:{stream}", "-af", filters, *kept]
    command += [] if sample_rate is None else ["-ar", f"{sample_rate}"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [*command, "-f", "f32le", "-"],
            stdin=subprocess.PIPE if runs else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
        )
        assert process.stdout is not None
        if runs:
            assert process.stdin is not None
            feeder = Thread(target=_feed, args=(path, runs, process.stdin), daemon=True)
            feeder.start()
        ended = False
        try:
            sample = 4 * channels
            while data := _read(process, path, sample * BLOCK_SAMPLES):
                whole = data[: len(data) // sample * sample]  # it may have been killed in the middle of one
                yield np.frombuffer(whole, dtype="<f4").reshape(-1, channels).T
            with patience(process):
                process.wait()
            ended = True
        finally:
            if not ended:
                process.kill()
            process.stdout.close()
            code = process.wait()
            if runs:
                feeder.join(LONGEST_SILENCE)
        messages.seek(0)
        said = b"".join(line for line in messages if not line.rstrip().endswith(_HARMLESS))
    # Of MP3, ffmpeg also complains of the first frame of a part of a file, which looks back to another.
    if code or (said and (keep_going or not runs)):
        raise ValueError(f"{path} is truncated or damaged: {_last_line(said) or how_it_ended(code)}")


def _read(process: subprocess.Popen[bytes], path: Path, size: int) -> bytes:
    """Bytes that a program has decoded of a file; none at the end."""
    assert process.stdout is not None
    try:
        with patience(process):
            return process.stdout.read(size)
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def _feed(path: Path, runs: Sequence[tuple[int, int]], pipe: BinaryIO) -> None:
    """Write parts of a file to a pipe, and close it."""
    with suppress(BrokenPipeError), pipe, path.open("rb") as file:  # ffmpeg may have stopped
        for start, end in runs:
            file.seek(start)
            while start < end and (data := file.read(min(end - start, 1 << 20))):
                pipe.write(data)
                start += len(data)


def _last_line(text: bytes) -> str:
    """What ffmpeg said last, without the address in memory of what said it."""
    lines = text.decode(errors="replace").strip().splitlines()
    line = lines[-1].strip() if lines else ""
    if any("not on whitelist" in said for said in lines):
        return "it is a list of other files"
    return line.partition("] ")[2] if line.startswith("[") else line
