"""Separates songs one after another or several at a time; what goes wrong with one ends no other."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock
from time import perf_counter

from svs_unet_plugin import audio
from svs_unet_plugin.cli import process
from svs_unet_plugin.cli.paths import STDIN
from svs_unet_plugin.cli.reports import Outcome, Report, collected
from svs_unet_plugin.cli.songs import Naming, Song
from svs_unet_plugin.encoding import Encoding
from svs_unet_plugin.errors import sentence
from svs_unet_plugin.separator import Cancelled, Progress, Separator

log = logging.getLogger(__name__)

LONGEST_WAIT = 0.5
"""Seconds after which a signal is heard at the latest."""


@dataclass
class Batch:
    """What is done with each of several songs.

    Threads share the separator, so that its weights are held once.

    Args:
        separator: separates all songs.
        on_cpu: makes another one, for when a GPU has too little memory.
        encoding: the form of the stems.
        report: is told what becomes of each song.
        skip_existing: pass over songs whose stems are all there.
        overwrite: replace stems that are there; else such songs are refused.
        dry_run: only look at the songs.
        open_file: `audio.open_file` with what was asked for.
        traceback: let the first error through.
        spool: a folder for what comes from standard input.
    """

    separator: Separator
    on_cpu: Callable[[], Separator]
    encoding: Encoding
    report: Report
    skip_existing: bool
    overwrite: bool
    dry_run: bool
    open_file: Callable[[Path], audio.AudioFile]
    traceback: bool
    spool: Path
    _cancel: Event = field(default_factory=Event)
    _falling_back: Lock = field(default_factory=Lock)

    def run(self, songs: Sequence[Song], naming: Naming, jobs: int) -> None:
        """Separate all songs, ``jobs`` of them at a time. If it is stopped, nothing is left half-written."""
        songs = [self._copied(song) if song.path == STDIN else song for song in songs]
        sound = [song for song in songs if not song.problem]
        named = dict(zip(sound, naming.paths(sound), strict=True))
        pool = ThreadPoolExecutor(jobs, "song")
        try:
            done: SimpleQueue[Future[Outcome]] = SimpleQueue()
            for song in songs:
                pool.submit(self._outcome, song, named.get(song, {})).add_done_callback(done.put)
            for _ in songs:
                self.report.finish(_first(done).result())
        except BaseException:
            self._cancel.set()
            process.quit_at_next_signal()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self.report.end()

    def _copied(self, song: Song) -> Song:
        """Standard input as a file, since it is read twice; copied here, where a signal ends it."""
        try:
            if sys.stdin is None:
                raise OSError("standard input is closed")
            with self._file(song).open("wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
        except OSError as error:
            return replace(song, problem=sentence(error))
        return song

    def _outcome(self, song: Song, paths: Mapping[str, Path]) -> Outcome:
        outcome = Outcome(str(song.path), paths=paths)
        start = perf_counter()
        with collected() as outcome.warnings:
            try:
                self._separate(song, outcome)
            except Exception as error:
                if self._cancel.is_set() or isinstance(error, Cancelled):
                    outcome.status = "stopped"  # and whatever it says follows from that
                elif self.traceback:
                    raise
                outcome.error = sentence(error).replace(str(self._file(song)), str(song.path))
        outcome.took = perf_counter() - start
        return outcome

    def _file(self, song: Song) -> Path:
        return self.spool / "in" if song.path == STDIN else song.path

    def _separate(self, song: Song, outcome: Outcome) -> None:
        if song.problem:
            raise FileNotFoundError(song.problem)
        paths = outcome.paths
        there = [path for path in paths.values() if path.exists()]
        if self.skip_existing and len(there) == len(paths):
            outcome.status = "skipped"
            return
        if there and not (self.overwrite or self.skip_existing):
            raise FileExistsError(f"{there[0]} is there: take --skip-existing, --overwrite or another --out")
        opened = self.open_file(self._file(song))
        if self.dry_run:
            outcome.status = "planned"
            return
        with self.report.progress(song.path.name) as show:

            def progress(done: float, total: float) -> None:
                outcome.seconds = total
                if show is not None:
                    show(done, total)

            self._separate_file(opened, paths, progress)
        outcome.warnings += opened.warnings
        outcome.status = "done"

    def _separate_file(self, file: audio.AudioFile, paths: Mapping[str, Path], progress: Progress) -> None:
        separator = self.separator
        try:
            separator.separate_file(
                file, paths, encoding=self.encoding, progress=progress, cancel=self._cancel
            )
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError" or separator.device == "cpu":  # it is torch's
                raise
            log.warning("%s has too little memory: the network runs on the CPU from here", separator.device)
            with self._falling_back:
                if self.separator is separator:
                    self.separator = self.on_cpu()
            self._separate_file(file, paths, progress)


def _first(done: SimpleQueue[Future[Outcome]]) -> Future[Outcome]:
    """The next song that is done.

    A signal that another thread gets, or that comes just before a wait, does not end the wait.
    """
    while True:
        try:
            return done.get(timeout=LONGEST_WAIT)
        except Empty:
            continue
