"""Songs that people give to the page: taken in, kept for a while, and handed out in pieces and as files.

Nothing here tells where a file lies: an address has a random name, and a sentence the song's own.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svs_unet_plugin import audio, encoding, files, spectrogram
from svs_unet_plugin.encoding import Encoding
from svs_unet_plugin.errors import first_line
from svs_unet_plugin.separator import Cancelled
from svs_unet_plugin.threads import cpus

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

MIXTURE = "mixture"
"""The stem that everything else is made of."""

MASK = "mask"
"""The picture of the vocals' share of the mixture."""

MIX = "mix"
"""Stands in an address for the sum of all stems, at the volumes that are asked for."""

PICTURE_SIZE = (1200, 200)
"""Width and height of a spectrogram in pixels."""

RANGE_DB = 80.0
"""What a spectrogram shows below the largest power of the mixture."""

PIECE_SECONDS = 10.0
"""At most so much of a stem is sent at a time, to be played."""

GAIN_DB = (-60.0, 6.0)
"""The volumes of a mix; at the lower one a stem is silent."""

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the text around them from left to right, or back."""

_FORMATS = {
    "wav": "WAV, 32-bit float",
    "flac": "FLAC, 24-bit",
    "mp3": "MP3",
    "ogg": "Ogg Vorbis",
    "opus": "Opus",
    "m4a": "M4A (AAC)",
}

_PREFIX = "svs-unet-page-"  # of the temporary folders

log = logging.getLogger(__name__)


def formats() -> dict[str, str]:
    """What can be downloaded from this machine: extensions, with what people call them."""
    found = {}
    for extension in encoding.FORMATS:
        with suppress(ValueError):  # it needs ffmpeg
            encoding.require(Encoding(extension))
            found[extension] = _FORMATS[extension]
    return found


class Refused(ValueError):
    """What a person gave or asked for can't be done; its sentence may be shown to them."""


@dataclass(frozen=True)
class Limits:
    """What the page takes, and how long it keeps it.

    Args:
        minutes: of a song at most.
        megabytes: of a file at most.
        kept_megabytes: of all songs with two stems each; a new one takes the place of those that were unused
            for the longest time.
        idle_minutes: after which a song that nobody uses is removed.

    Raises:
        ValueError: if one of them is not above 0.
    """

    minutes: float = 15.0
    megabytes: float = 200.0
    kept_megabytes: float = 4000.0
    idle_minutes: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0, got {value}")

    @property
    def decoded_megabytes(self) -> float:
        """Of a song's samples as 32-bit float at most, since a small file can hold much.

        That is two channels at 96 kHz for all of the minutes; what has more channels has to be shorter.
        """
        return self.minutes * 60 * 2 * 96_000 * 4 / 1e6


@dataclass
class Song:
    """A song, decoded, in a folder of its own.

    Args:
        id: its random name in addresses.
        given: what its file is called, for people.
        stems: a WAV file each, the mixture first; all of one rate, length and number of channels.
        tags: that its file has, for the files that come out.
        used: when it was last asked for, by the monotonic clock.
        cancel: ends its separation; None while there is none.
    """

    id: str
    given: str
    folder: Path
    sample_rate: int = 0
    channels: int = 0
    samples: int = 0
    stems: dict[str, Path] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)
    cancel: threading.Event | None = None

    @property
    def name(self) -> str:
        """What the song is called."""
        return audio.track_name(Path(self.given)) or self.given

    @property
    def megabytes(self) -> float:
        """Of its mixture and two stems."""
        return 3 * 4 * self.channels * self.samples / 1e6


class Songs:
    """The songs of a page, in a temporary folder that goes with it.

    Args:
        limits: what is taken.
        jobs: how many songs are decoded, separated or encoded at a time; by default one a CPU.
    """

    def __init__(self, limits: Limits | None = None, jobs: int | None = None) -> None:
        from anyio import CapacityLimiter

        self.limits = limits or Limits()
        self.jobs = jobs or cpus()
        self._line: list[object] = []  # those at work, and behind them those who wait
        self._moved = threading.Condition()
        # Only who was given the page knows this name: other pages in the same browser can't send anything.
        self.address = f"songs/{secrets.token_urlsafe(12)}"
        _remove_forgotten()
        # All routes share their threads, and stems are to be heard while many songs wait to be decoded.
        self._in_hand = CapacityLimiter(self.jobs)
        self._arriving = 0  # bytes of songs that are not decoded yet
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
        self._held = ExitStack()
        self._held.enter_context(files.lock(self._folder.name))
        self._songs: dict[str, Song] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._expire, daemon=True).start()

    def close(self) -> None:
        """Stop what is being separated, and remove all songs."""
        self._closed.set()
        with self._lock:
            for song in self._songs.values():
                if song.cancel is not None:
                    song.cancel.set()
            self._songs.clear()
        self._held.close()
        self._folder.cleanup()

    def get(self, song_id: str) -> Song:
        """The song of that name.

        Raises:
            Refused: if it is not here, or no longer.
        """
        with self._lock:
            song = self._songs.get(song_id)
            if song is None:
                raise Refused("This song is no longer kept here: give it again.")
            song.used = time.monotonic()
            return song

    @contextmanager
    def turn(
        self, cancel: threading.Event | None = None, tell: Callable[[int], object] = lambda before: None
    ) -> Iterator[None]:
        """Wait for a CPU, in the order of asking, and keep it while this lasts.

        Args:
            cancel: ends the waiting.
            tell: is told from time to time how many have to finish before.

        Raises:
            Cancelled: if it was.
        """
        ticket = object()
        with self._moved:
            self._line.append(ticket)
        try:
            with self._moved:
                while (before := self._line.index(ticket) - self.jobs + 1) > 0:
                    if cancel is not None and cancel.is_set():
                        raise Cancelled("the separation was cancelled")
                    tell(before)
                    self._moved.wait(0.25)
            yield
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()

    @contextmanager
    def working_on(self, song: Song) -> Iterator[threading.Event]:
        """While a song is being separated: it is kept, and what comes out ends the work when it is set.

        Raises:
            Refused: if somebody is at work on it.
            Cancelled: if it was, at the end at the latest.
        """
        with self._lock:
            if song.cancel is not None:
                raise Refused(f"{song.given} is being separated already.")
            song.cancel = cancel = threading.Event()
        try:
            yield cancel
        except Exception as error:
            if cancel.is_set():  # whatever it says follows from that: the song's folder may be gone
                raise Cancelled("the separation was cancelled") from error
            raise
        else:
            if cancel.is_set():  # not every separator can be interrupted
                raise Cancelled("the separation was cancelled")
        finally:
            song.used = time.monotonic()
            song.cancel = None

    def stop(self, song_id: str) -> None:
        """End the separation of a song, if there is one."""
        with self._lock:
            song = self._songs.get(song_id)
            if song is not None and song.cancel is not None:
                song.cancel.set()

    def sentence(self, error: Exception, song: Song) -> str:
        """What to tell a person about an error: one sentence, without a path of this machine."""
        if isinstance(error, Refused):
            return str(error)
        if isinstance(error, ValueError):  # of the audio
            said = first_line(error)
            said = re.sub(rf"(file:)?{re.escape(str(song.folder))}(/[\w.-]*)?", lambda _: song.given, said)
            if said and not re.search(r"(?<!\w)/", said.replace(song.given, "")):  # "Input/output" is no path
                return said if said.endswith(".") else f"{said}."
        log.error("%s could not be processed", song.given, exc_info=error)
        return "Something went wrong on the server. Details are in the terminal where the page was started."

    def draw(self, song: Song) -> None:
        """Draw the spectrograms of a song's stems and, if there are vocals, the mask, in its folder.

        All have one scale, whose brightest is the loudest of the mixture. The mask is the vocals' share of
        the mixture's magnitude, as it was applied.
        """
        rows = {name: spectrogram.of_file(path, *PICTURE_SIZE) for name, path in song.stems.items()}
        mixture = rows[MIXTURE]
        loudest = float(mixture.max())
        pictures = {name: spectrogram.brightness(power, loudest, RANGE_DB) for name, power in rows.items()}
        if "vocals" in rows:
            heard = mixture > loudest * 10 ** (-RANGE_DB / 10)
            pictures[MASK] = np.sqrt(np.where(heard, rows["vocals"] / np.maximum(mixture, 1e-30), 0))
        for name, picture in pictures.items():
            (song.folder / f"{name}.webp").write_bytes(spectrogram.image(picture, PICTURE_SIZE))

    def routes(self) -> list[BaseRoute]:
        """What the page's script asks for, as routes that come before gradio's."""
        from starlette.routing import Route

        song = f"/{self.address}/{{song}}"
        return [
            Route(f"/{self.address}", self._upload, methods=["POST"]),
            Route(f"{song}/stop", self._stop, methods=["POST"]),
            Route(f"{song}/pieces/{{stem}}", self._piece),
            Route(f"{song}/pictures/{{stem}}.webp", self._picture),
            Route(f"{song}/files/{{stem}}.{{extension}}", self._file),
        ]

    def _new(self, name: str) -> Song:
        self._sweep()
        stem, extension = os.path.splitext(re.split(r"[/\\]", name)[-1])  # old browsers sent paths
        name = _visible(stem)[:100] + _visible(extension)[:10]
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        return Song(secrets.token_urlsafe(12), name or "song", folder)

    def _decode(self, song: Song, given: Path) -> None:
        """Turn a file in the song's folder into the mixture's WAV file."""
        file = audio.open_file(given)
        most = self.limits.minutes * 60 * file.sample_rate
        too_long = (
            f"{song.given} is longer than {self.limits.minutes:g} minutes, the most that is taken here."
        )
        if file.samples is not None and file.samples > most:
            raise Refused(too_long)
        bytes_left = self.limits.decoded_megabytes * 1e6
        path = song.folder / "mixture.wav"
        with encoding.writers([path], Encoding(), file.sample_rate, file.channels, int(most)) as (write,):
            for block in file.blocks():
                song.samples += block.shape[1]
                bytes_left -= 4 * block.size
                if song.samples > most:
                    raise Refused(too_long)
                if bytes_left < 0:
                    megabytes = f"{self.limits.decoded_megabytes:.0f} MB"
                    raise Refused(f"{song.given} takes more than {megabytes} when it is decoded.")
                write(block)
        song.sample_rate, song.channels = file.sample_rate, file.channels
        song.tags = encoding.read_tags(given)
        song.stems = {MIXTURE: path}

    def _keep(self, song: Song) -> None:
        surplus: list[Song] = []
        with self._lock:
            room = self.limits.kept_megabytes - sum(s.megabytes for s in (song, *self._songs.values()))
            for old in sorted(self._songs.values(), key=lambda song: song.used):
                if room < 0 and old.cancel is None:
                    room += old.megabytes
                    surplus.append(self._songs.pop(old.id))
            self._songs[song.id] = song
        for old in surplus:
            _remove(old.folder)

    def _expire(self) -> None:
        while not self._closed.wait(min(60.0, self.limits.idle_minutes * 60 / 4)):
            self._sweep()

    def _sweep(self) -> None:
        """Remove what nobody used for long."""
        latest = time.monotonic() - self.limits.idle_minutes * 60
        with self._lock:
            old = [song for song in self._songs.values() if song.cancel is None and song.used < latest]
            for song in old:
                del self._songs[song.id]
        for song in old:
            _remove(song.folder)

    async def _upload(self, request: Request) -> Response:
        """Take a song: the body is its file, and the query has the file's name."""
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse, Response

        most = self.limits.megabytes * 1e6
        too_large = f"The file is larger than {self.limits.megabytes:g} MB, the most that is taken here."
        if int(request.headers.get("content-length", 0)) > most:
            return JSONResponse({"error": too_large}, status_code=413)
        song = self._new(request.query_params.get("name", ""))
        extension = os.path.splitext(song.given)[1].lower()  # says more than the content of some files
        given = song.folder / f"given{extension if extension in audio.EXTENSIONS else ''}"

        def decode() -> Response:
            with self.turn():
                self._decode(song, given)
            given.unlink()
            seconds = song.samples / song.sample_rate
            return JSONResponse({"song": song.id, "name": song.name, "seconds": seconds})

        kept = False
        size = 0
        try:
            with given.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    self._arriving += len(chunk)
                    if size > most:
                        raise Refused(too_large)
                    if self._arriving > self.limits.kept_megabytes * 1e6:
                        raise Refused("Too many songs are being given at the moment: give it again later.")
                    file.write(chunk)
            async with self._in_hand:
                if await request.is_disconnected():
                    raise ClientDisconnect
                answer = await run_in_threadpool(decode)
            self._keep(song)
            kept = True
            return answer
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            return JSONResponse({"error": self.sentence(error, song)}, status_code=422)
        finally:
            self._arriving -= size
            if not kept:
                _remove(song.folder)

    def _stop(self, request: Request) -> Response:
        """End a separation whose page was left."""
        from starlette.responses import Response

        self.stop(request.path_params["song"])
        return Response(status_code=204)

    def _piece(self, request: Request) -> Response:
        """Samples ``start`` to ``start + count``: 32-bit float, little-endian, channels interleaved."""
        import soundfile
        from starlette.responses import Response

        def answer() -> Response:
            song = self.get(request.path_params["song"])
            stem = _stem(song, request)
            start, count = (_whole_number(request, name) for name in ("start", "count"))
            if start > song.samples or count > PIECE_SECONDS * song.sample_rate:
                raise Refused("There is no such piece of the song.")
            with soundfile.SoundFile(song.stems[stem]) as file:
                file.seek(start)
                samples = file.read(count, dtype="float32", always_2d=True)
            return Response(samples.astype("<f4").tobytes(), media_type="application/octet-stream")

        return _answered(answer)

    def _picture(self, request: Request) -> Response:
        from starlette.responses import FileResponse

        def answer() -> Response:
            song = self.get(request.path_params["song"])
            name = request.path_params["stem"]
            path = song.folder / f"{name}.webp"
            if name not in (*song.stems, MASK) or not path.exists():
                raise Refused("There is no such picture.")
            return FileResponse(path, media_type="image/webp")

        return _answered(answer)

    async def _file(self, request: Request) -> Response:
        """A stem in any format; or ``mix``, of the stems in the query at the volumes in dB that it has."""
        from starlette.background import BackgroundTask
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import FileResponse

        def answer() -> Response:
            song = self.get(request.path_params["song"])
            extension = request.path_params["extension"]
            if extension not in formats():
                raise Refused(f"There is no format {extension} here: choose one of {', '.join(formats())}.")
            if request.path_params["stem"] == MIX:
                name = MIX
                gains = {stem: _gain(request, stem) for stem in song.stems if stem in request.query_params}
            else:
                name = _stem(song, request)
                gains = {name: 1.0}
            gains = {stem: gain for stem, gain in gains.items() if gain}
            if not gains:
                raise Refused("All volumes are off: there is nothing to download.")
            folder = Path(tempfile.mkdtemp(dir=song.folder))
            path = folder / f"{name}.{extension}"
            done = BackgroundTask(_remove, folder)
            try:
                with self.turn():
                    _write_mix(song, gains, path)
            except Exception as error:
                _remove(folder)
                raise Refused(self.sentence(error, song)) from error
            return FileResponse(path, filename=f"{song.name} - {name}.{extension}", background=done)

        async with self._in_hand:
            return await run_in_threadpool(_answered, answer)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _remove_forgotten() -> None:
    """Remove the folders of pages whose processes were killed: nobody holds them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError):  # another user's, or in use
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < 60:
                continue  # somebody else's, or of another page that may be about to begin
            with files.lock(folder):
                pass
            _remove(folder)


def _answered(answer: Callable[[], Response]) -> Response:
    from starlette.responses import PlainTextResponse

    try:
        return answer()
    except Refused as error:
        return PlainTextResponse(str(error), status_code=404)


def _stem(song: Song, request: Request) -> str:
    name = request.path_params["stem"]
    if name not in song.stems:
        raise Refused("There is no such stem.")
    return name


def _whole_number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise Refused(f"{name} must be a number of samples.")
    return int(text)


def _gain(request: Request, stem: str) -> float:
    """The factor of a volume in dB."""
    lowest, highest = GAIN_DB
    try:
        decibels = float(request.query_params[stem])
    except ValueError:
        decibels = float("nan")
    if not lowest <= decibels <= highest:
        raise Refused(f"The volume of {stem} must lie from {lowest:g} to {highest:g} dB.")
    return 0.0 if decibels == lowest else 10 ** (decibels / 20)


def _write_mix(song: Song, gains: Mapping[str, float], path: Path) -> None:
    """Write the sum of stems, each times its gain, in the format that the path's suffix names.

    Where full scale is the end, all of it is made quieter if it would go beyond.
    """
    import soundfile

    extension = path.suffix[1:]
    form = Encoding(extension, clip_mode="none" if extension == "wav" else "rescale")
    with ExitStack() as stack:
        stems = [
            (stack.enter_context(soundfile.SoundFile(song.stems[name])), gain) for name, gain in gains.items()
        ]
        (write,) = stack.enter_context(
            encoding.writers([path], form, song.sample_rate, song.channels, song.samples, song.tags)
        )
        for _ in range(0, song.samples, audio.BLOCK_SAMPLES):
            blocks = [
                np.float32(gain) * file.read(audio.BLOCK_SAMPLES, dtype="float32", always_2d=True)
                for file, gain in stems
            ]
            write(np.sum(blocks, axis=0).T)


def _visible(name: str) -> str:
    """A name without what moves the cursor or turns the text around; any space is a plain one."""
    kept = (c for c in name if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and c not in _TURNING)
    return "".join(" " if unicodedata.category(c) == "Zs" else c for c in kept)
