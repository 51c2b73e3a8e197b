"""Run systems on tracks, at the rate of their files: scores, costs, and what there is to listen to.

All goes into one folder of results (see `svs_unet_plugin.evaluation.store`); what is in it is not done
again, as long as everything that decides it is the same.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from svs_unet_plugin import checkpoint
from svs_unet_plugin.corpora.musdb import STEMS, Track, find_tracks
from svs_unet_plugin.corpora.prepare import Prepared
from svs_unet_plugin.evaluation import store
from svs_unet_plugin.evaluation.costs import measure_all
from svs_unet_plugin.evaluation.metrics import in_order, museval_scores, scale_scores
from svs_unet_plugin.evaluation.store import REFERENCE, System
from svs_unet_plugin.files import (
    SETTINGS_FILE,
    atomic_write,
    differences,
    digest,
    fingerprint,
    is_part,
    lock,
    read_settings,
    write_json,
)
from svs_unet_plugin.separator import Separator
from svs_unet_plugin.training.history import Losses, write_losses
from svs_unet_plugin.workers import in_parallel

SCORING_VERSION = 2
"""Raised whenever the same estimates no longer get the same scores here."""

LEAST_IMPROVEMENT = 1.0
"""dB of improvement in SNR or SI-SDR below which a network does nothing; the mixture has 0."""

SCALE_GAP = 3.0
"""dB that SI-SDR may stand above SNR; a soft mask that leaves half of a source out loses as much."""

COST_SECONDS, WARM_UP_SECONDS = 60.0, 5.0
"""Length of the audio that time and memory are measured on, and of what is separated before."""

EXCERPT_SECONDS = 6.0
"""Length of what there is to listen to."""


@dataclass(frozen=True)
class Song:
    """A track in memory.

    Args:
        name: of the track.
        sample_rate: in Hz, that of its files.
        mixture: ``(channels, samples)``.
        sources: the same for ``drums``, ``bass``, ``other``, ``vocals``, and ``accompaniment``, which is the
            sum of the first three.
    """

    name: str
    sample_rate: int
    mixture: np.ndarray
    sources: Mapping[str, np.ndarray]

    def excerpt(self, start: float, seconds: float) -> Song:
        """A part of it, both in seconds."""
        part = slice(round(start * self.sample_rate), round((start + seconds) * self.sample_rate))
        sources = {name: samples[:, part] for name, samples in self.sources.items()}
        return replace(self, mixture=self.mixture[:, part], sources=sources)


Separate = Callable[[Song], Mapping[str, np.ndarray]]
"""Makes estimates ``(channels, samples)`` by source. Only an oracle looks at the song's own sources."""


@dataclass(frozen=True)
class Entry:
    """A system that takes part; can be sent to other processes.

    Args:
        system: what it is; its costs are measured later.
        load: loads it.
        identity: text that differs wherever its estimates may, such as a digest of its weights and its
            options.
        losses: of its training.
    """

    system: System
    load: Callable[[], Separate]
    identity: str
    losses: Losses | None = None


@dataclass(frozen=True)
class Weights:
    """Loads a checkpoint as a system, on the CPU; for ``views`` see `Separator`."""

    path: Path
    views: int = 1

    def __call__(self) -> Separate:
        separator = Separator(self.path, device="cpu", views=self.views)
        return lambda song: separator.separate(song.mixture, song.sample_rate)


def network_entry(id: str, name: str, weights: Path, losses: Losses | None = None) -> Entry:
    """A trained U-Net as it takes part."""
    network = checkpoint.read(weights).network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Entry(System(id, name, "trained", parameters), Weights(weights), digest(weights), losses)


def tracks_to_score(source: Path, prepared: Prepared) -> list[Track]:
    """The test tracks as they were recorded, but for those that were found to be broken.

    Raises:
        ValueError: if there are none.
    """
    tracks = [
        track
        for track in find_tracks(source)
        if track.subset == "test" and f"test/{track.name}" not in prepared.skipped
    ]
    if not tracks:
        raise ValueError(f"{source} holds no songs to test on: there should be {source / 'test'}")
    return tracks


def read_song(track: Track) -> Song:
    """Read a track whole, at its own rate.

    Raises:
        OSError, ValueError: if it is damaged.
    """
    streams, sample_rate = track.read()
    sources = {name: streams[name] for name in STEMS}
    sources["accompaniment"] = sources["drums"] + sources["bass"] + sources["other"]
    return Song(track.name, sample_rate, streams["mixture"], sources)


def run(
    results: Path,
    entries: Sequence[Entry],
    tracks: Sequence[Track],
    jobs: int | None = None,
    *,
    costs: bool = False,
    listened: int = 0,
) -> None:
    """Run systems on tracks; a run that was stopped is resumed.

    Args:
        results: the folder; see `svs_unet_plugin.evaluation.store`.
        entries: the systems.
        tracks: what they separate, as it was recorded.
        jobs: processes, ≥ 1; None for one a core. They are spawned: a script calls this under
            ``if __name__ == "__main__":``.
        costs: whether to measure time and memory, on the first track.
        listened: of how many tracks to keep excerpts to listen to.

    Raises:
        ValueError: if another run works in the folder, it holds other files where a system's results would
            be, two systems have one id, or an estimate can't be scored.
    """
    ids = [entry.system.id for entry in entries]
    if len(set(ids)) < len(ids):
        raise ValueError(f"each system needs an id of its own, got {', '.join(ids)}")
    with lock(results):
        for entry in entries:
            _update_folder(results, entry, tracks)
        if costs:
            _measure(results, entries, tracks[0])
        for track in tracks[:listened]:  # here, since every system would write the same files
            _write_reference(results, track)
        tasks = [
            _Task(results, entry, track, i < listened) for i, track in enumerate(tracks) for entry in entries
        ]
        missing = [task for task in tasks if not task.is_done()]
        for _ in in_parallel(_Task.run, missing, jobs, title="Score"):
            pass


def _update_folder(results: Path, entry: Entry, tracks: Sequence[Track]) -> None:
    """Describe a system in its folder, and delete what is there of anything that was different."""
    folder = results / entry.system.id
    same = {
        "identity": entry.identity,
        "scoring": SCORING_VERSION,
        **{f"{name}_version": version(name) for name in ("svs_unet_plugin", "museval", "numpy", "scipy")},
    }
    now = {track.name: fingerprint([track.path]) for track in tracks}
    before = read_settings(folder) or {}
    there = folder.iterdir() if folder.is_dir() else ()
    strange = sorted(path.name for path in there if not is_part(path.name))
    if strange and not before:
        raise ValueError(f"{folder} holds {strange[0]}, which is no part of results: choose another folder")
    kept = before.pop("tracks", {})
    if before != same:
        if before:
            print(
                f"{entry.system.id} is scored anew: {'; '.join(differences(before, same))}", file=sys.stderr
            )
        if folder.exists():
            shutil.rmtree(folder)
        kept = {}
    for name in [name for name in now if kept.get(name, now[name]) != now[name]]:
        print(f"{entry.system.id} is scored anew on {name}, whose files have changed", file=sys.stderr)
        for path in (store.bss_file, store.scale_file):
            path(results, entry.system.id, name).unlink(missing_ok=True)
        shutil.rmtree(store.audio_folder(results, entry.system.id, name), ignore_errors=True)
    write_json(folder / SETTINGS_FILE, {**same, "tracks": {**kept, **now}})
    if not (folder / "system.json").is_file():
        store.write_system(results, entry.system)
    if entry.losses is not None:
        write_losses(store.losses_file(results, entry.system.id), entry.losses)


def _measure(results: Path, entries: Sequence[Entry], track: Track) -> None:
    """Measure time and memory of each system that was not measured yet."""
    known = {system.id: system for system in store.read_systems(results)}
    missing = [entry for entry in entries if known[entry.system.id].seconds_per_minute is None]
    if not missing:
        return
    song = read_song(track).excerpt(0.0, COST_SECONDS)
    minutes = song.mixture.shape[1] / song.sample_rate / 60
    found = measure_all([entry.load for entry in missing], song.excerpt(0.0, WARM_UP_SECONDS), song)
    for entry, costs in zip(missing, found, strict=True):
        measured = replace(
            entry.system, seconds_per_minute=costs.seconds / minutes, peak_memory_mb=costs.peak_memory / 1e6
        )
        store.write_system(results, measured)


@lru_cache(maxsize=3)  # as many as recipes/mir1k takes in turn
def loaded(load: Callable[[], Separate], identity: str) -> Separate:
    """A system, loaded once in a process, for as long as its identity stays; see `Entry`."""
    return load()


@dataclass(frozen=True)
class _Task:
    """A track for a system to separate and to be scored on."""

    results: Path
    entry: Entry
    track: Track
    listen: bool

    @property
    def name(self) -> str:
        """As messages say it."""
        return f"{self.entry.system.id} on {self.track.name}"

    def is_done(self) -> bool:
        """Whether the track has all its scores, of which museval's file is written last, and its excerpts."""
        id, name = self.entry.system.id, self.track.name
        heard = not self.listen or "vocals" in store.audio_files(self.results, id, name)
        return heard and store.bss_file(self.results, id, name).is_file()

    def run(self) -> None:
        song = read_song(self.track)
        estimates = loaded(self.entry.load, self.entry.identity)(song)
        if self.listen:
            _write_excerpts(self.results, self.entry.system.id, song, estimates)
        score(self.results, self.entry.system.id, song, estimates)


def score(results: Path, system: str, song: Song, estimates: Mapping[str, np.ndarray]) -> None:
    """Write museval's scores of a song and those of `scale_scores`.

    As museval does it, vocals against accompaniment and the four stems are two comparisons, and the vocals'
    scores are those against the accompaniment where both are there. The rate is that of the recordings: SIR
    and SAR are not determined on audio that was brought up from a lower rate, where its references are so as
    well.

    Args:
        results, system: where to; see `svs_unet_plugin.evaluation.store`.
        song: with each source that is estimated.
        estimates: ``(channels, samples)`` by source, of at least two sources, as long as the song and at its
            rate.

    Raises:
        ValueError: if an estimate has another shape than its reference, is not finite, or is one channel
            copied into several where the reference is not.
    """
    _check(song.sources, estimates)
    scores = museval_scores(song.name, song.sources, estimates, song.sample_rate)
    scale: dict[str, Any] = {}
    for group in _groups(estimates):
        found = scale_scores(
            {name: song.sources[name] for name in group}, {name: estimates[name] for name in group}
        )
        scale = {**found, **scale}
    store.write_scale(results, system, song.name, scale)
    path = store.bss_file(results, system, song.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as beside:
        scores.save(beside)


def alarms(results: Path, system: str, tracks: Collection[str] | None = None) -> list[str]:
    """What looks like a defect in a system's scores of these tracks, or of all: a sentence each.

    The network does nothing, if the vocals are hardly better than the mixture; or their level is wrong, if
    SI-SDR, which makes up for the level, is far above the SNR, which is the SDR of whole songs.
    """
    (described,) = store.read_systems(results, [system])
    scores = store.read_scores(results, [described], tracks)
    vocals = scores[scores.source == "vocals"].groupby("metric").score.median()
    if vocals.reindex(["SNR", "SNRi", "SI-SDR", "SI-SDRi"]).isna().any():
        return [f"{system} has no scores of vocals: they or the accompaniment are silent in all tracks"]
    found = []
    if not min(vocals["SNRi"], vocals["SI-SDRi"]) >= LEAST_IMPROVEMENT:
        found.append(
            f"{system} does nothing, or next to it: the SDR of its vocals is {vocals['SNRi']:.1f} dB above "
            f"that of the mixture itself, and their SI-SDR {vocals['SI-SDRi']:.1f} dB"
        )
    if not vocals["SNR"] >= vocals["SI-SDR"] - SCALE_GAP:
        found.append(
            f"{system} has a wrong level somewhere: the SDR of its vocals is "
            f"{vocals['SNR']:.1f} dB, and their SI-SDR {vocals['SI-SDR']:.1f} dB"
        )
    return found


def liveliest_second(song: Song) -> float:
    """The second from which on an excerpt has most of both the vocals and the accompaniment."""
    rate = song.sample_rate
    length = min(int(EXCERPT_SECONDS * rate), song.mixture.shape[1])
    energies = []
    for name in ("vocals", "accompaniment"):
        sums = np.concatenate([[0.0], np.cumsum((song.sources[name] ** 2).sum(axis=0, dtype=np.float64))])
        energies.append((sums[length:] - sums[:-length])[::rate])
    return float(np.minimum(*energies).argmax())


def _write_excerpts(results: Path, id: str, song: Song, signals: Mapping[str, np.ndarray]) -> None:
    """Write what there is to listen to: what shows that all is there comes last."""
    start = liveliest_second(song)
    part = slice(round(start * song.sample_rate), round((start + EXCERPT_SECONDS) * song.sample_rate))
    for name in sorted(signals, key=lambda name: (name == "mixture", name == "vocals")):
        store.write_audio(results, id, song.name, name, signals[name][:, part], song.sample_rate)


def _write_reference(results: Path, track: Track) -> None:
    """Write the excerpts of a track's mixture and true sources, unless those of the same files are there."""
    written = read_settings(results / REFERENCE) or {}
    now = fingerprint([track.path])
    if written.get(track.name) != now or track.name not in store.audio_tracks(results):
        song = read_song(track)
        _write_excerpts(results, REFERENCE, song, {**song.sources, "mixture": song.mixture})
        write_json(results / REFERENCE / SETTINGS_FILE, {**written, track.name: now})


def _groups(names: Mapping[str, Any]) -> list[list[str]]:
    """The comparisons that museval makes: vocals and accompaniment, then the four stems."""
    pair = ["vocals", "accompaniment"]
    rest = [name for name in in_order(names) if name != "accompaniment"]
    if not set(pair) <= set(names):
        return [in_order(names)]
    return [pair, rest] if len(rest) > 1 else [pair]


def _check(references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray]) -> None:
    if len(estimates) < 2:
        raise ValueError(f"scores need estimates of two sources at least, got {sorted(estimates)}")
    for name, estimate in estimates.items():
        if name not in references:
            raise ValueError(f"there is no reference for {name!r}; there are {sorted(references)}")
        reference = references[name]
        if estimate.shape != reference.shape:
            raise ValueError(
                f"the estimate of {name!r} should be (channels, samples) = {reference.shape} like its "
                f"reference, got {estimate.shape}"
            )
        if not np.isfinite(estimate).all():
            raise ValueError(f"the estimate of {name!r} holds samples that are NaN or infinite")
        copied = len(estimate) > 1 and estimate.any() and (estimate == estimate[:1]).all()
        if copied and not np.allclose(reference, reference[:1], atol=1e-3):
            raise ValueError(
                f"the estimate of {name!r} is one channel copied into {len(estimate)}, and its reference is "
                "not: separate each channel"
            )
