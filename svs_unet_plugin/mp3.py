"""Where the audio of an MP3 file lies, between whatever tags, and how much of it there should be.

An MP3 file states its length only in a first frame without sound, if an encoder left one ("Xing", "Info" or
"VBRI"). Files that are joined end to end have several, and tags between them.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# kbit/s of layer III by the index in the header, of MPEG 1 (ISO 11172-3) and of MPEG 2 (ISO 13818-3) and 2.5.
_BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}
_SURE = 3  # frames in a row that are no accident


@dataclass(frozen=True)
class Scan:
    """What lies in an MP3 file.

    Args:
        runs: from which byte to which there is frame after frame; what lies before, after and between them is
            tags, or no MP3.
        sample_rate: of the first frame, in Hz.
        channels: of the first frame.
        seconds: of all frames together.
        samples: that are to be heard, if a header states that, and truly; else None.
        problems: what is wrong with the file, with what is lost.
    """

    runs: tuple[tuple[int, int], ...]
    sample_rate: int
    channels: int
    seconds: float
    samples: int | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Frame:
    """A frame: bytes, samples, Hz, channels, and the byte at which a header without sound would begin."""

    size: int
    samples: int
    rate: int
    channels: int
    header: int


@dataclass
class _Piece:
    """What one encoder wrote: the frames and the samples of silence that it states, and its frames."""

    stated: int | None
    silence: int | None
    frames: int = 0


def scan(path: Path) -> Scan | None:
    """Look through a file, or return None if it is no MP3 file.

    It is one if frames begin at its beginning, or behind a tag there, or anywhere if it is called so.
    """
    if path.stat().st_size < 4:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _scan(data, path.suffix.lower() == ".mp3")


def _scan(data: mmap.mmap, named_so: bool) -> Scan | None:
    first: _Frame | None = None
    runs: list[tuple[int, int]] = []
    pieces: list[_Piece] = []
    problems: list[str] = []
    seconds = 0.0
    position = junk = 0
    while position < len(data):
        if _begins(data, position):
            if junk and runs:
                rate = (runs[-1][1] - runs[0][0]) / seconds
                problems.append(
                    f"is damaged at second {seconds:.1f}: about {junk / rate:.2f} s are lost there"
                )
            junk, start = 0, position
            for position, frame in _frames(data, start):
                first = first or frame
                piece = _piece(data[position : position + min(frame.size, 200)], frame)
                if piece or not pieces:
                    pieces.append(piece or _Piece(None, None))
                pieces[-1].frames += piece is None
                seconds += frame.samples / frame.rate
                position += frame.size
            runs.append((start, position))
        elif size := _tag(data, position):
            position += size
        elif not runs and not named_so:
            return None
        else:  # not the next frame yet, whose first byte is 255
            start, position = position, data.find(b"\xff", position + 1)
            position = len(data) if position < 0 else position
            junk += position - start
    if first is None:
        return None
    for piece in pieces:
        if piece.stated is not None and piece.frames < piece.stated and not problems:
            missing = (piece.stated - piece.frames) * first.samples / first.rate
            problems.append(
                f"is truncated: it holds {piece.frames} of {piece.stated} frames, {missing:.2f} s less"
            )
    samples = None
    if len(pieces) == 1 and pieces[0].stated == pieces[0].frames and pieces[0].silence is not None:
        samples = pieces[0].frames * first.samples - pieces[0].silence
    return Scan(tuple(runs), first.rate, first.channels, seconds, samples, tuple(problems))


def _frames(data: mmap.mmap, position: int) -> Iterator[tuple[int, _Frame]]:
    """Each whole frame from here on, up to what is none."""
    while (frame := _frame(data, position)) and position + frame.size <= len(data):
        yield position, frame
        position += frame.size


def _begins(data: mmap.mmap, position: int) -> bool:
    """Whether frames begin here, so many that it is no accident, or up to the end of the file."""
    end = position
    for number, (start, frame) in enumerate(_frames(data, position), 1):
        end = start + frame.size
        if number == _SURE:
            return True
    return position < end == len(data)


def _frame(data: mmap.mmap, position: int) -> _Frame | None:
    """The frame whose header is at a position, if there is one."""
    head = data[position : position + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0 or head[1] >> 1 & 3 != 1:  # layer III
        return None
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    low, hertz = version != 3, _RATES[version][rate]
    size = (72 if low else 144) * 1000 * _BITRATES[low][bitrate] // hertz + (head[2] >> 1 & 1)
    mono = head[3] >> 6 == 3
    side = (9 if mono else 17) if low else (17 if mono else 32)
    return _Frame(size, 576 if low else 1152, hertz, 1 if mono else 2, 4 + side)


def _piece(data: bytes, frame: _Frame) -> _Piece | None:
    """What a frame states of those that follow it, if it is a header without sound."""
    if data[36:40] == b"VBRI":
        return _Piece(struct.unpack(">I", data[50:54])[0], None)
    name, header = data[frame.header : frame.header + 4], data[frame.header + 4 :]
    if name not in (b"Xing", b"Info") or len(header) < 4:
        return None
    flags = header[3]
    stated = struct.unpack(">I", header[4:8])[0] if flags & 1 and len(header) >= 8 else 0
    # Behind what the flags say that there is, an encoder's name, and 21 bytes on its delay and its padding.
    lame = 4 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    silence = None
    if header[lame : lame + 4] in (b"LAME", b"Lavc", b"Lavf") and len(header) >= lame + 24:
        delays = int.from_bytes(header[lame + 21 : lame + 24], "big")
        silence = (delays >> 12) + (delays & 0xFFF)
    return _Piece(stated or None, silence)


_ZEROS = re.compile(rb"\0*")


def _tag(data: mmap.mmap, position: int) -> int:
    """The bytes of a tag that begins here, or 0."""
    head = data[position : position + 32]
    if head[:3] == b"ID3" and len(head) >= 10:  # its size is in four bytes of seven bits
        size = sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10])) + 10
        return size + 10 * bool(head[5] & 0x10)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        size = int.from_bytes(head[12:16], "little")
        return size + 32 if head[23] & 0x20 else 32  # the header, or a footer whose items have been passed
    if head[:3] == b"TAG":
        return 227 if head[:4] == b"TAG+" else 128
    if head[:11] == b"LYRICSBEGIN":
        ends = [data.find(end, position) for end in (b"LYRICS200", b"LYRICSEND")]
        return max(ends) + 9 - position if max(ends) > 0 else 0
    if head[:1] == b"\0":
        zeros = _ZEROS.match(data, position)
        return zeros.end() - position if zeros else 0
    return 0
