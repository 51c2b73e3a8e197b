"""Many people at once at the page, some of whom mean it no good.

    python benchmarks/page_load.py --uploads 200

starts ``svs-unet serve`` and sends it that many uploads at the same time: songs, files that are none, files
that are too large (one that says so, one that does not), uploads that break off, uploads of a byte a second,
requests whose first line never ends, and large bodies to gradio's own routes. Meanwhile somebody listens to
a song. It says what they were answered, how long the listener waited at most, and what the server took:
memory, threads, open files, and what it left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

MEGABYTES = 12
"""Of the largest file that the server is told to take."""


@dataclass(frozen=True)
class Server:
    """The page in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    songs: str  # the address of the page's own routes
    scratch: Path

    def kept(self) -> list[Path]:
        """The folders of songs that are there."""
        return list(self.scratch.glob("svs-unet-page-*/*/"))

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def status(self, name: str) -> int:
        """A number that Linux knows of the process, such as its threads, or its peak memory in kB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+)", lines, re.MULTILINE)[1])  # type: ignore[index]


@dataclass
class Load:
    """What was measured.

    Args:
        answers: by kind of upload, how often there was which HTTP status, or which other end.
        seconds: until everybody who sends at full speed had an answer.
        longest_wait: seconds for a piece of a song that is there, meanwhile.
        peak_megabytes: of the server's memory; before, with one song there, and at last.
        threads, open_files: at most.
        files_left: open files more than before, when all was over.
        songs_left: songs that are kept, and are not to be.
    """

    answers: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: float = 0.0
    longest_wait: float = 0.0
    peak_megabytes: tuple[float, float] = (0.0, 0.0)
    threads: int = 0
    open_files: int = 0
    files_left: int = 0
    songs_left: int = 0


@contextmanager
def serving(scratch: Path) -> Iterator[Server]:
    """The page, until the block ends; what it says on standard error is passed on.

    Raises:
        RuntimeError: if it does not start, does not end, or leaves something.
    """
    command = [sys.executable, "-m", "svs_unet_plugin.cli", "serve", "--max-minutes", "0.6"]
    command += ["--max-megabytes", str(MEGABYTES)]
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        try:
            said = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            if said is None:
                raise RuntimeError("the page did not start")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            songs = re.search(rb"songs/[\w-]+", opener.open(said[0]).read())
            assert songs is not None
            yield Server(process, int(said[1]), songs[0].decode(), scratch)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise RuntimeError("the page did not end") from None
    if left := list(scratch.glob("svs-unet-page-*")):
        raise RuntimeError(f"the page left {left}")


def song(seconds: float = 2.0) -> bytes:
    """A FLAC file of noise, stereo at 44.1 kHz."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(44_100 * seconds), 2))
    soundfile.write(file, noise, 44_100, format="FLAC")
    return file.getvalue()


def head(target: str, length: int | None, content: str = "application/octet-stream") -> bytes:
    """The first lines of a POST request; without a length, its body comes in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST /{target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Content-Type: {content}"]
    return "\r\n".join([*lines, size, "", ""]).encode()


class Clients:
    """Those who send something to a server.

    Args:
        patient: whether those who are slow wait until the server gives them up.
    """

    def __init__(self, server: Server, patient: bool) -> None:
        self.server, self.patient = server, patient
        self.song = song()
        self.done = asyncio.Event()  # all who are not slow
        self.kinds: dict[str, Callable[[], Coroutine[Any, Any, str]]] = {
            "song": lambda: self._send(head(self._upload, len(self.song)), self.song),
            "no song": lambda: self._send(head(self._upload, 50_000), bytes(50_000)),
            "too large": lambda: self._send(head(self._upload, 10**9), bytes(100_000)),
            "too large, unsaid": lambda: self._send(head(self._upload, None), _chunks(MEGABYTES + 2)),
            "broken off": self._break_off,
            "slow": lambda: self._drip(head(self._upload, len(self.song))),
            "silent": lambda: self._drip(b"POST /"),
            "too large for gradio": lambda: self._send(
                head("gradio_api/queue/join", None, "application/json"), b'7\r\n{"a": "\r\n' + _chunks(5)
            ),
        }

    @property
    def _upload(self) -> str:
        return f"{self.server.songs}?name=a.flac"

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.server.port)

    async def _send(self, *parts: bytes) -> str:
        reader, writer = await self._open()
        try:
            with suppress(ConnectionError):  # it may have its answer before all is sent
                for part in parts:
                    for start in range(0, len(part), 1 << 16):
                        writer.write(part[start : start + (1 << 16)])
                        await writer.drain()
            return _status(await reader.read(200))
        except ConnectionError:
            return "closed"
        finally:
            writer.close()

    async def _break_off(self) -> str:
        _, writer = await self._open()
        writer.write(head(self._upload, len(self.song)) + self.song[: len(self.song) // 2])
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.transport.abort()
        return "left"

    async def _drip(self, first: bytes) -> str:
        reader, writer = await self._open()
        writer.write(first)
        answer = asyncio.ensure_future(reader.read(200))
        try:
            while not answer.done():
                if self.done.is_set() and not self.patient:
                    return "still waiting"
                with suppress(ConnectionError):
                    writer.write(b"a")
                    await writer.drain()
                await asyncio.wait([answer], timeout=1)
            return _status(answer.result())
        except ConnectionError:
            return "closed"
        finally:
            answer.cancel()
            writer.close()

    async def get(self, target: str) -> bytes:
        reader, writer = await self._open()
        writer.write(f"GET /{target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer


def _chunks(megabytes: int) -> bytes:
    return (b"100000\r\n" + bytes(1 << 20) + b"\r\n") * megabytes + b"0\r\n\r\n"


def _status(answer: bytes) -> str:
    return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/") else "closed"


async def loaded(server: Server, uploads: int, patient: bool = True) -> Load:
    """Send uploads, as many of each kind, all at once, and measure."""
    clients = Clients(server, patient)
    reader, writer = await clients._open()
    writer.write(head(clients._upload, len(clients.song)) + clients.song)
    given = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    writer.close()
    piece = f"{server.songs}/{given['song']}/pieces/mixture?start=0&count=80000"
    load = Load()
    before = server.open_files()
    first_peak = server.status("VmHWM") / 1024

    async def listen() -> None:
        while True:
            start = time.monotonic()
            answer = await clients.get(piece)
            assert len(answer) > 8 * 80_000, answer[:200]
            load.longest_wait = max(load.longest_wait, time.monotonic() - start)
            load.threads = max(load.threads, server.status("Threads"))
            load.open_files = max(load.open_files, server.open_files())
            await asyncio.sleep(0.05)

    listener = asyncio.create_task(listen())
    start = time.monotonic()
    work = [
        (kind, asyncio.create_task(client()))
        for number, (kind, client) in zip(range(uploads), _round(clients.kinds), strict=False)
    ]
    await asyncio.gather(*(task for kind, task in work if kind not in ("slow", "silent")))
    load.seconds = time.monotonic() - start
    clients.done.set()
    await asyncio.gather(*(task for _, task in work))
    for kind, task in work:
        load.answers.setdefault(kind, Counter())[task.result()] += 1
    listener.cancel()
    songs = load.answers["song"]["200"] + 1
    deadline = time.monotonic() + 30
    while (len(server.kept()) > songs or server.open_files() > before) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    load.songs_left = len(server.kept()) - songs
    load.files_left = server.open_files() - before
    load.peak_megabytes = first_peak, server.status("VmHWM") / 1024
    return load


def _round(kinds: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    while True:
        yield from kinds.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--uploads", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as server:
        load = asyncio.run(loaded(server, arguments.uploads))
        for kind, answers in load.answers.items():
            print(f"{kind}: {', '.join(f'{count} times {end}' for end, count in answers.items())}")
        print(f"{arguments.uploads} uploads; all but the slow ones were answered in {load.seconds:.1f} s")
        print(f"longest wait for 1.8 s of a song meanwhile: {load.longest_wait:.2f} s")
        print(f"peak memory: {load.peak_megabytes[0]:.0f} MB before, {load.peak_megabytes[1]:.0f} MB after")
        print(f"at most {load.threads} threads and {load.open_files} open files")
        print(f"left over: {load.files_left} open files, {load.songs_left} songs")


if __name__ == "__main__":
    main()
