"""What is said while songs are separated: bars, signs of life, a line a song, and a summary."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from svs_unet_plugin.files import printable

SIGN_OF_LIFE_SECONDS = 10.0
"""How often a song that is being separated is heard of where there is no terminal to draw bars on."""


@dataclass
class Outcome:
    """What became of a song.

    Args:
        song: its path, as it was found.
        status: "done", "skipped", "planned" (by a dry run), "failed" or "stopped".
        paths: of its stems.
        seconds: of audio.
        took: seconds of time.
        warnings: what was lost or changed, a sentence each.
        error: why it failed.
    """

    song: str
    status: str = "failed"
    paths: Mapping[str, Path] = field(default_factory=dict)
    seconds: float = 0.0
    took: float = 0.0
    warnings: list[str] = field(default_factory=list)
    error: str = ""

    def as_json(self) -> str:
        """One line of JSON. In names that are no UTF-8, a byte is a code from U+DC80, as in Python."""
        speed = round(self.seconds / self.took, 2) if self.status == "done" and self.took else None
        return json.dumps(
            {
                "song": self.song,
                "status": self.status,
                "paths": {stem: str(path) for stem, path in self.paths.items()},
                "seconds": round(self.seconds, 3),
                "took": round(self.took, 3),
                "speed": speed,
                "warnings": self.warnings,
                "error": self.error or None,
            }
        )


_warnings: ContextVar[list[str] | None] = ContextVar("warnings", default=None)


class _Collector(logging.Handler):
    """Keeps what the package warns of for the song that is at work in this thread."""

    def emit(self, record: logging.LogRecord) -> None:
        kept = _warnings.get()
        if kept is None:
            print(f"svs-unet: {printable(record.getMessage())}", file=sys.stderr)
        else:
            kept.append(record.getMessage())


@contextmanager
def collected() -> Iterator[list[str]]:
    """What the package's loggers warn of in this thread while this lasts."""
    kept: list[str] = []
    token = _warnings.set(kept)
    try:
        yield kept
    finally:
        _warnings.reset(token)


@contextmanager
def listening() -> Iterator[None]:
    """Warnings of the package's loggers go to `collected`, or are said in one line each."""
    logger, handler = logging.getLogger(__name__.partition(".")[0]), _Collector(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class Report:
    """Says what happens to a number of songs; it may be told so by several threads.

    Args:
        songs: how many.
        jobs: how many at a time.
        as_json: a line of JSON a song on standard output, in place of the paths written.
        quiet: nothing but errors (and JSON).
        verbose: also how long each song took.
        to_stdout: whether standard output is the audio's.
    """

    def __init__(
        self, songs: int, jobs: int, *, as_json: bool, quiet: bool, verbose: bool, to_stdout: bool
    ) -> None:
        self.songs = songs
        self.as_json, self.quiet, self.verbose, self.to_stdout = as_json, quiet, verbose, to_stdout
        self.outcomes: list[Outcome] = []
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._bars = sys.stderr.isatty() and not quiet
        self._places = list(range(jobs))
        self._batch = None
        if self._bars and songs > 1:
            from tqdm import tqdm

            self._batch = tqdm(total=songs, desc="songs", unit="song", position=jobs, leave=False)

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[[float, float], None] | None]:
        """A function that is told how many seconds of a song are done, and of how many."""
        name = printable(name)
        if self.quiet:
            yield None
        elif self._bars:
            from tqdm import tqdm

            with self._lock:
                place = self._places.pop(0)
            name = name if len(name) < 40 else f"{name[:38]}…"
            form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
            try:
                with tqdm(desc=name, total=1, position=place, leave=False, bar_format=form) as bar:

                    def move(done: float, total: float) -> None:
                        bar.total = max(total, 1e-9)
                        bar.update(done - bar.n)
                        if done >= total:
                            bar.refresh()

                    yield move
            finally:
                with self._lock:
                    self._places.insert(0, place)
        else:
            said = time.monotonic()

            def tell(done: float, total: float) -> None:
                nonlocal said
                if time.monotonic() - said >= SIGN_OF_LIFE_SECONDS:
                    said = time.monotonic()
                    self._say(f"{name}: {done:.0f} of {total:.0f} s are done")

            yield tell

    def tell(self, line: str) -> None:
        """Say something that only those want to know who asked for more."""
        if self.verbose:
            self._say(line)

    def finish(self, outcome: Outcome) -> None:
        """Say what became of a song."""
        with self._lock:
            self.outcomes.append(outcome)
            for warning in outcome.warnings if not self.quiet else ():
                self._say(f"svs-unet: {_named(warning, outcome.song)}")
            if outcome.status == "failed":
                self._say(f"svs-unet: {_named(outcome.error, outcome.song)}")
            if outcome.status == "skipped" and not self.quiet:
                self._say(f"{printable(outcome.song)}: skipped, its stems are there")
            if outcome.status == "done":
                self.tell(f"{printable(outcome.song)}: {_pace(outcome.seconds, outcome.took)}")
            if self.as_json:
                self._say(outcome.as_json(), sys.stdout)
            elif not self.quiet and not self.to_stdout and outcome.status in ("done", "planned"):
                for path in outcome.paths.values():
                    self._say(str(path), sys.stdout)
            if self._batch is not None:
                self._batch.update()

    def end(self) -> None:
        """Take the bars away, and sum up what was done with several songs."""
        if self._batch is not None:
            self._batch.close()
        if self.songs < 2 or self.quiet:
            return
        counts = dict.fromkeys(("done", "planned", "skipped", "failed"), 0)
        for outcome in self.outcomes:
            counts[outcome.status] = counts.get(outcome.status, 0) + 1
        seconds = sum(outcome.seconds for outcome in self.outcomes if outcome.status == "done")
        said = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
        pace = f"; {_pace(seconds, time.monotonic() - self._started)}" if counts["done"] else ""
        self._say(f"{self.songs} songs: {said or 'none done'}{pace}")

    @property
    def exit_code(self) -> int:
        """0 if no song failed, 1 if some did, 2 if all did."""
        failed = sum(outcome.status == "failed" for outcome in self.outcomes)
        return 0 if not failed else 1 if failed < self.songs else 2

    def _say(self, line: str, stream: TextIO | None = None) -> None:
        if stream is None:
            line, stream = printable(line), sys.stderr
        if self._bars:
            from tqdm import tqdm

            tqdm.write(line, file=stream)
        else:
            print(line, file=stream, flush=True)


def _named(sentence: str, song: str) -> str:
    """A sentence about a song, as `svs_unet_plugin.errors.sentence` has them."""
    sentence, song = printable(sentence), printable(song)
    return sentence if song in sentence else f"{song}: {sentence}"


def _pace(seconds: float, took: float) -> str:
    return f"{seconds:.0f} s of audio in {took:.1f} s, {seconds / max(took, 1e-9):.1f} times real time"
