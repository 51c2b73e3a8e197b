"""Score a system on the tracks of MUSDB18, at the rate of their files, in museval's format and nussl's.

F.-R. Stöter, A. Liutkus, N. Ito: "The 2018 signal separation evaluation campaign", 2018: BSS Eval v4.
J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey: "SDR – half-baked or well done?", ICASSP 2019: SI-SDR.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from svs_unet_plugin import Separator, files
from svs_unet_plugin.corpora.musdb import STEMS, Track, find_tracks
from svs_unet_plugin.corpora.prepare import Prepared
from svs_unet_plugin.evaluation import store as folders
from svs_unet_plugin.workers import in_parallel

LEAST_IMPROVEMENT = 1.0
"""dB of improvement in SNR or SI-SDR below which a network does nothing; the untouched mixture has 0."""

SCALE_GAP = 3.0
"""dB that SI-SDR may stand above SNR; a soft mask that leaves half of a source out loses as much."""


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


Separate = Callable[[Song], Mapping[str, np.ndarray]]
"""Makes estimates ``(channels, samples)`` by source. Only an oracle looks at the song's own sources."""


@dataclass(frozen=True)
class Weights:
    """A system that separates by a checkpoint; can be sent to other processes."""

    path: Path

    def __call__(self, song: Song) -> Mapping[str, np.ndarray]:
        return _separator(self.path).separate(song.mixture, song.sample_rate)


@cache
def _separator(weights: Path) -> Separator:
    return Separator(weights, device="cpu")


def digest(path: Path) -> str:
    """SHA-256 of a file, for the ``made_of`` of `score_tracks`."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tracks_to_score(originals: Path, prepared: Prepared) -> list[Track]:
    """The test tracks as they were recorded, but for those that were found to be broken.

    Raises:
        ValueError: if there are none.
    """
    tracks = [
        track
        for track in find_tracks(originals)
        if track.subset == "test" and f"test/{track.name}" not in prepared.skipped
    ]
    if not tracks:
        raise ValueError(f"{originals} holds no songs to test on: there should be {originals / 'test'}")
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


def score_tracks(
    results: Path,
    system: str,
    tracks: Sequence[Track],
    separate: Separate,
    *,
    made_of: str,
    jobs: int | None = None,
) -> None:
    """Separate and score tracks, a process for each core at a time; those with scores are not done again.

    Args:
        results: the folder of all systems.
        system: the id of this one.
        tracks: in their original form.
        separate: something that can be pickled.
        made_of: tells when to begin again, such as a digest of the weights: scores of something else that
            stand in the system's folder are deleted first.
        jobs: processes, ≥ 1; None for one a core. They are spawned: a script calls this under
            ``if __name__ == "__main__":``.
    """
    forget_other_scores(results, system, made_of)
    missing = [track for track in tracks if not is_scored(results, system, track.name)]
    score = partial(_separate_and_score, results=results, system=system, separate=separate)
    for _ in in_parallel(score, missing, jobs, title=f"Score {system}"):
        pass


def forget_other_scores(results: Path, system: str, made_of: str) -> None:
    """Delete a system's scores, unless they are of what is said here; see `score_tracks`."""
    note = results / system / "made_of.txt"
    if not note.is_file() or note.read_text(encoding="utf-8") != made_of:
        for kind in ("test", "scale"):
            shutil.rmtree(results / system / kind, ignore_errors=True)
        note.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(note) as beside:
            beside.write_text(made_of, encoding="utf-8")


def _separate_and_score(track: Track, results: Path, system: str, separate: Separate) -> None:
    song = read_song(track)
    score_song(results, system, song, separate(song))


def is_scored(results: Path, system: str, track: str) -> bool:
    """Whether a track has all its scores; museval's file is written last."""
    return folders.bss_file(results, system, track).is_file()


def score_song(results: Path, system: str, song: Song, estimates: Mapping[str, np.ndarray]) -> None:
    """Write a song's scores; see `score`.

    Args:
        estimates: ``(channels, samples)`` by source, as long as the song and at its rate.
    """
    score(results, system, song.name, song.sources, estimates, song.sample_rate)


def score(
    results: Path,
    system: str,
    track: str,
    references: Mapping[str, np.ndarray],
    estimates: Mapping[str, np.ndarray],
    sample_rate: int,
) -> None:
    """Write museval's scores of a track and those of nussl's BSSEvalScale.

    As museval does it, vocals against accompaniment and the four stems are two comparisons, and the vocals'
    scores are those against the accompaniment where both are there.

    Args:
        results, system: where to; see `svs_unet_plugin.evaluation.store`.
        track: the name.
        references: ``(channels, samples)`` by source, with each source that is estimated.
        estimates: the same, of at least two sources.
        sample_rate: in Hz, that of the recordings: SIR and SAR are not determined on audio that was brought
            up from a lower rate, where its references are so as well.

    Raises:
        ValueError: if an estimate has another shape than its reference, is not finite, or is one channel
            copied into several where the reference is not.
    """
    _check(references, estimates)
    store = museval_scores(track, references, estimates, sample_rate)
    scale: dict[str, Any] = {}
    for group in _groups(estimates):
        found = scale_scores(
            {name: references[name] for name in group},
            {name: estimates[name] for name in group},
            sample_rate,
        )
        scale = {**found, **scale}
    folders.write_scale(results, system, track, scale)
    path = folders.bss_file(results, system, track)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path) as beside:
        store.save(beside)


def museval_scores(
    track: str, references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray], sample_rate: int
) -> Any:
    """museval's ``TrackStore`` of a track, as ``museval.eval_mus_track`` makes it.

    museval refuses silence, and so a source or an estimate that is silent from beginning to end gets NaN.
    The others' scores are not touched by that: nothing can be a distortion that sounds like silence.
    """
    import museval

    @dataclass(frozen=True)
    class Target:
        audio: np.ndarray

    @dataclass(frozen=True)
    class MusdbTrack:
        name: str
        rate: int
        targets: dict[str, Target]

    wanted = [name for name in _in_order(references) if name in estimates]
    heard = [name for name in wanted if references[name].any()]
    if not {"vocals", "accompaniment"} <= set(heard):  # one of them alone is no comparison
        heard = [name for name in heard if name != "accompaniment"]
    targets = {name: Target(references[name].T) for name in heard}
    shown = {
        name: (estimates[name] if estimates[name].any() else references[name]).T for name in heard
    }  # a score depends on one estimate, but on all references
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means over windows in which there is nothing
        warnings.simplefilter("ignore", UserWarning)  # that one source is no comparison
        store = museval.eval_mus_track(MusdbTrack(track, sample_rate, targets), shown)
    silent = [name for name in wanted if name not in heard or not estimates[name].any()]
    store.scores["targets"] = [found for found in store.scores["targets"] if found["name"] not in silent]
    windows = max(references[wanted[0]].shape[1] // sample_rate, 1)
    for name in silent:
        store.add_target(name, dict.fromkeys(("SDR", "SIR", "ISR", "SAR"), [np.nan] * windows))
    store.validate()
    return store


def scale_scores(
    references: Mapping[str, np.ndarray], estimates: Mapping[str, np.ndarray], sample_rate: int
) -> dict[str, dict[str, list[float]]]:
    """Scores by nussl's BSSEvalScale, in dB for each channel; NaN where one is not defined.

    A source that is silent has none, and what is silent in one channel leaves SI-SIR and SI-SAR undefined.

    Args:
        references, estimates: ``(channels, samples)`` by source; the references add up to the mixture.
    """
    from svs_unet_plugin.nussl import nussl

    names = _in_order(references)
    heard = [name for name in names if references[name].any()]
    evaluator_class = nussl.evaluation.BSSEvalScale

    def signals(sources: Mapping[str, np.ndarray]) -> list[Any]:
        return [
            nussl.AudioSignal(audio_data_array=sources[name].astype(np.float64), sample_rate=sample_rate)
            for name in heard
        ]

    def scores(**options: bool) -> dict[str, Any]:
        evaluator = evaluator_class(
            signals(references), signals(estimates), source_labels=heard, compute_permutation=False, **options
        )
        return evaluator.evaluate()

    found: dict[str, Any] = {}
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if heard:
            try:
                found = scores()
            except np.linalg.LinAlgError:
                found = scores(compute_sir_sar=False)
    undefined = dict.fromkeys(evaluator_class.keys, [np.nan] * len(references[names[0]]))
    return {
        name: {
            metric: [value if np.isfinite(value) else float("nan") for value in values]
            for metric, values in found.get(name, undefined).items()
        }
        for name in names
    }


def alarms(results: Path, system: str) -> list[str]:
    """What looks like a bug in a system's scores: a sentence each.

    The network does nothing, if the vocals are hardly better than the mixture; or their level is wrong, if
    SI-SDR, which makes up for the level, is far above the SNR, which is the SDR of whole songs.
    """
    (described,) = (found for found in folders.read_systems(results) if found.id == system)
    scores = folders.read_scores(results, [described])
    vocals = scores[scores.source == "vocals"].groupby("metric").score.median()
    said = []
    if not min(vocals["SNRi"], vocals["SI-SDRi"]) >= LEAST_IMPROVEMENT:
        said.append(
            f"{system} does nothing, or next to it: the SDR of its vocals is {vocals['SNRi']:.1f} dB above "
            f"that of the mixture itself, and their SI-SDR {vocals['SI-SDRi']:.1f} dB"
        )
    if not vocals["SNR"] >= vocals["SI-SDR"] - SCALE_GAP:
        said.append(
            f"{system} has a wrong level somewhere: the SDR of its vocals is "
            f"{vocals['SNR']:.1f} dB, and their SI-SDR {vocals['SI-SDR']:.1f} dB"
        )
    return said


def _in_order(sources: Mapping[str, Any]) -> list[str]:
    """As musdb orders its targets, which is the order in museval's files."""
    order = ("vocals", "drums", "bass", "other", "accompaniment")
    return [name for name in order if name in sources]


def _groups(names: Mapping[str, Any]) -> list[list[str]]:
    """The comparisons that museval makes: vocals and accompaniment, then the four stems."""
    pair = ["vocals", "accompaniment"]
    rest = [name for name in _in_order(names) if name != "accompaniment"]
    if not set(pair) <= set(names):
        return [_in_order(names)]
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
