"""Run systems against each other on the same tracks: scores, time, memory, and what there is to hear.

All goes into one folder of results, for `svs_unet_plugin.evaluation.report`; what is in it is not done again.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from svs_unet_plugin import files
from svs_unet_plugin.corpora.musdb import Track
from svs_unet_plugin.evaluation import store as folders
from svs_unet_plugin.evaluation.runner import (
    Separate,
    Song,
    forget_other_scores,
    is_scored,
    read_song,
    score_song,
)
from svs_unet_plugin.evaluation.store import REFERENCE, Losses, System
from svs_unet_plugin.workers import end_with_parent, in_parallel

COST_SECONDS = 60.0
"""Length of the audio that time and memory are measured on, or that of the song if that is shorter."""

HOW_COSTS_ARE_MEASURED = f"on {COST_SECONDS:.0f} s of the first song at most, one thread of a CPU, no GPU"
"""For the report."""

WARM_UP_SECONDS = 5.0
"""Length of what is separated before, unmeasured: what is loaded and compiled once is no part of the time."""

EXCERPT_SECONDS = 6.0
"""Length of what is there to listen to."""

LISTENED_TRACKS = 2
"""How many of the tracks are there to listen to."""


@dataclass(frozen=True)
class Contestant:
    """A system that takes part.

    Args:
        system: what it is; its costs are measured later.
        separate: what separates a song, and can be sent to other processes.
        made_of: tells when what was measured before no longer counts, such as a `digest` of the weights.
        losses: of its training.
    """

    system: System
    separate: Separate
    made_of: str
    losses: Losses | None = None


def compare(
    results: Path, contestants: Sequence[Contestant], tracks: Sequence[Track], jobs: int | None = None
) -> None:
    """Measure and score systems; a run that was stopped goes on where it was.

    Args:
        results: the folder; see `svs_unet_plugin.evaluation.store`.
        contestants: the systems.
        tracks: what they separate, as it was recorded; time and memory are measured on the first.
        jobs: processes, ≥ 1; None for one a core. They are spawned: a script calls this under
            ``if __name__ == "__main__":``.
    """
    for contestant in contestants:
        begin(results, contestant)
    measure_all(results, contestants, tracks[0])
    score_all(results, contestants, tracks, jobs)


def begin(results: Path, contestant: Contestant) -> None:
    """Describe a system in its folder, and delete what was measured of something else that had its name."""
    id = contestant.system.id
    note = results / id / "compared.txt"
    if not note.is_file() or note.read_text() != contestant.made_of:
        shutil.rmtree(results / id / "audio", ignore_errors=True)
        folders.write_system(results, contestant.system)
        with files.atomic_write(note) as beside:
            beside.write_text(contestant.made_of)
    forget_other_scores(results, id, contestant.made_of)
    if contestant.losses is not None:
        folders.write_losses(results, id, contestant.losses)


def measure_all(results: Path, contestants: Sequence[Contestant], track: Track) -> None:
    """Measure time and memory of each system that was not measured yet, one at a time, in its own process.

    The processes are forked from one that has imported all that this one has, and has done nothing else.
    """
    known = {system.id: system for system in folders.read_systems(results)}
    missing = [c for c in contestants if known[c.system.id].seconds_per_minute is None]
    if not missing:
        return
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([name for name in sys.modules if name.startswith("svs_unet_plugin.")])
    with server.Pool(1, end_with_parent, maxtasksperchild=1) as pool:
        measured = pool.imap(partial(measure, track=track), missing, chunksize=1)
        for system in tqdm(measured, desc="Measure", total=len(missing), unit="system"):
            folders.write_system(results, system)


def measure(contestant: Contestant, track: Track) -> System:
    """A system with its costs: one thread, on the CPU, after a warm-up."""
    song = excerpt_of(read_song(track), 0.0, COST_SECONDS)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        contestant.separate(excerpt_of(song, 0.0, WARM_UP_SECONDS))
        start = time.perf_counter()
        contestant.separate(song)
        seconds = time.perf_counter() - start
    minutes = song.mixture.shape[1] / song.sample_rate / 60
    return replace(
        contestant.system, seconds_per_minute=seconds / minutes, peak_memory_mb=peak_memory() / 1e6
    )


def peak_memory() -> int:
    """The most memory that this process has had, in bytes.

    Linux counts for ``getrusage`` what the process that started this one had at that time, too.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Task:
    """A track for a system to separate and to be scored on, with an excerpt to listen to or without."""

    contestant: Contestant
    track: Track
    listen: bool

    def is_done(self, results: Path) -> bool:
        id, name = self.contestant.system.id, self.track.name
        heard = not self.listen or "vocals" in folders.audio_files(results, id, name)
        return heard and is_scored(results, id, name)

    def run(self, results: Path) -> None:
        id, song = self.contestant.system.id, read_song(self.track)
        estimates = self.contestant.separate(song)
        if self.listen:
            write_excerpts(results, id, song, estimates)
        if not is_scored(results, id, song.name):
            score_song(results, id, song, estimates)


def score_all(
    results: Path, contestants: Sequence[Contestant], tracks: Sequence[Track], jobs: int | None
) -> None:
    """Score every system on every track; all in one pool, so that no core waits."""
    for track in tracks[:LISTENED_TRACKS]:  # here, since every system would write the same files
        if track.name not in folders.audio_tracks(results):
            song = read_song(track)
            write_excerpts(results, REFERENCE, song, {**song.sources, "mixture": song.mixture})
    tasks = [
        Task(contestant, track, i < LISTENED_TRACKS)
        for i, track in enumerate(tracks)
        for contestant in contestants
    ]
    missing = [task for task in tasks if not task.is_done(results)]
    for _ in in_parallel(partial(Task.run, results=results), missing, jobs, title="Compare"):
        pass


def interesting(song: Song) -> float:
    """The second from which on an excerpt has most of both the vocals and the accompaniment."""
    rate = song.sample_rate
    length = min(int(EXCERPT_SECONDS * rate), song.mixture.shape[1])
    energies = []
    for name in ("vocals", "accompaniment"):
        sums = np.concatenate([[0.0], np.cumsum((song.sources[name] ** 2).sum(axis=0, dtype=np.float64))])
        energies.append((sums[length:] - sums[:-length])[::rate])
    return float(np.minimum(*energies).argmax())


def excerpt_of(song: Song, start: float, seconds: float) -> Song:
    part = slice(round(start * song.sample_rate), round((start + seconds) * song.sample_rate))
    sources = {name: samples[:, part] for name, samples in song.sources.items()}
    return replace(song, mixture=song.mixture[:, part], sources=sources)


def write_excerpts(results: Path, id: str, song: Song, signals: Mapping[str, np.ndarray]) -> None:
    """Write what there is to listen to: that which tells that all is there comes last."""
    start = interesting(song)
    part = slice(round(start * song.sample_rate), round((start + EXCERPT_SECONDS) * song.sample_rate))
    for name in sorted(signals, key=lambda name: (name == "mixture", name == "vocals")):
        folders.write_audio(results, id, song.name, name, signals[name][:, part], song.sample_rate)
