"""MUSDB18 brought to the network's sample rate, once, in the layout of MUSDB18-HQ.

What comes out is ``{train,test}/<track>/{mixture,drums,bass,other,vocals}.wav``, 32-bit float, which musdb,
nussl, scaper and asteroid read as it is, and ``prepared.json``, which says how it was made.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from svs_unet_plugin import audio, files
from svs_unet_plugin.corpora import musdb
from svs_unet_plugin.corpora.musdb import STREAMS, Check, Meter, Track
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.workers import in_parallel

PARTIAL = ".partial"
"""Folder of unfinished tracks, beside ``train`` and ``test``, where no dataset looks."""

QUIET = 1e-3
"""A mixture below this (−60 dB of full scale) is silence to be trimmed."""


@dataclass(frozen=True)
class Settings:
    """How to prepare tracks.

    Args:
        sample_rate: in Hz, ≥ 1.
        segment_seconds: cut the tracks to train on into segments of this length, > 0; None for whole tracks.
        trim_seconds: shorten silences of the mixture in them to this, > 0; None to leave them.
    """

    sample_rate: int = STFT.sample_rate
    segment_seconds: float | None = None
    trim_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, got {value}")


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared tracks.

    Args:
        folder: where they are.
        settings: how they were made.
        train, valid, test: the tracks. Those for validation lie among those to train on, as musdb has them.
        skipped: what is wrong with tracks that could not be prepared, by name.
        notes: what is odd about others, by name.
    """

    folder: Path
    settings: Settings
    train: list[Track]
    valid: list[Track]
    test: list[Track]
    skipped: dict[str, str]
    notes: dict[str, list[str]]


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    jobs: int | None = None,
) -> Prepared:
    """Bring every track of a folder to one sample rate, in parallel.

    A track that can't be used is skipped and named. Tracks for validation and testing stay whole, and as
    long as they were. A run that was stopped goes on where it was: tracks that are whole are kept, and no
    half-written one has a final name.

    Args:
        source: MUSDB18 or MUSDB18-HQ, or anything in either layout.
        out: new, or of an earlier run with the same settings.
        jobs: processes, ≥ 1; None for one a core. They are spawned: a script calls this under
            ``if __name__ == "__main__":``.

    Raises:
        FileNotFoundError: if the source holds no tracks.
        ValueError: if ``out`` was prepared with other settings, or holds something else.
    """
    out, settings = Path(out), settings or Settings()
    tracks = musdb.find_tracks(source)
    training = [track.name for track in tracks if track.subset == "train"]
    valid = musdb.validation_names(training)
    about = {"settings": asdict(settings), "valid": valid}
    _claim(out, about)

    writer = _Writer(out, settings, frozenset(valid))
    missing = [track for track in tracks if not writer.has(track)]
    checks = [*in_parallel(writer.write, missing, jobs, title="Prepare"), *musdb.strays(source)]
    skipped = {_key(found.track): found.problem for found in checks if found.problem}
    notes = {
        _key(track): json.loads(writer.notes(track).read_text()) for track in tracks if writer.has(track)
    }
    shutil.rmtree(out / PARTIAL, ignore_errors=True)
    _write_json(
        out / "prepared.json",
        {
            **about,
            "finished": True,
            "skipped": dict(sorted(skipped.items())),
            "notes": {key: said for key, said in sorted(notes.items()) if said},
        },
    )
    return open_prepared(out)


def open_prepared(folder: str | os.PathLike[str]) -> Prepared:
    """A folder that `prepare` has written.

    Raises:
        ValueError: if it is none, or not finished.
    """
    folder = Path(folder)
    about = _read(folder)
    if not about.get("finished"):
        raise ValueError(
            f"{folder} is no folder of prepared tracks, or not finished: "
            f"svs-unet data prepare SOURCE {folder}"
        )
    tracks = musdb.find_tracks(folder)
    train = [track for track in tracks if track.subset == "train"]
    return Prepared(
        folder,
        Settings(**about["settings"]),
        train=[track for track in train if track.name not in about["valid"]],
        valid=[track for track in train if track.name in about["valid"]],
        test=[track for track in tracks if track.subset == "test"],
        skipped=about["skipped"],
        notes=about["notes"],
    )


def _claim(out: Path, about: dict) -> None:
    """Write how the tracks are made, first of all, so that a folder's tracks can only be of one kind."""
    before = _read(out)
    if before and any(before.get(key) != value for key, value in about.items()):
        raise ValueError(
            f"{out} was prepared with other settings or from other tracks: {before['settings']}: "
            "choose another folder"
        )
    if not before and out.exists() and any(item.name != PARTIAL for item in out.iterdir()):
        raise ValueError(f"{out} holds something else than prepared tracks: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    if not before:
        _write_json(out / "prepared.json", {**about, "finished": False})


def _read(folder: Path) -> dict:
    path = folder / "prepared.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_json(path: Path, content: object) -> None:
    with files.atomic_write(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")


def _key(track: Track) -> str:
    return f"{track.subset}/{track.name}"


@dataclass(frozen=True)
class _Writer:
    """Writes tracks, each of them whole or not at all."""

    out: Path
    settings: Settings
    valid: frozenset[str]

    def has(self, track: Track) -> bool:
        """Whether the track is written: its first piece gets its name last."""
        first = self.folder(track, 0)
        return self.notes(track).is_file() and all((first / f"{name}.wav").is_file() for name in STREAMS)

    def notes(self, track: Track) -> Path:
        """Where it is kept what is odd about a track, until all are written and after."""
        return self.out / "notes" / track.subset / f"{track.name}.json"

    def folder(self, track: Track, piece: int) -> Path:
        name = f"{track.name} {piece + 1:03d}" if self.cuts(track) else track.name
        return self.out / track.subset / name

    def cuts(self, track: Track) -> bool:
        return self.settings.segment_seconds is not None and self.is_for_training(track)

    def is_for_training(self, track: Track) -> bool:
        return track.subset == "train" and track.name not in self.valid

    def write(self, track: Track) -> Check:
        try:
            streams, meter = track.open(), Meter()
            # Streams and channels side by side: (5 · channels, samples).
            flat = (block.reshape(-1, block.shape[2]) for block in meter.watch(streams.blocks()))
            count, rate = len(STREAMS) * streams.channels, self.settings.sample_rate
            low = list(audio.resample_blocks(flat, count, streams.sample_rate, rate))
            found = meter.check(track, streams)
        except (OSError, ValueError) as error:
            return Check(track, str(error))
        pieces = [np.concatenate(low, axis=1).reshape(len(STREAMS), streams.channels, -1)]
        if self.settings.trim_seconds is not None and self.is_for_training(track):
            pieces = [trim(pieces[0], round(self.settings.trim_seconds * rate))]
        if self.settings.segment_seconds is not None and self.cuts(track):
            pieces = segments(pieces[0], round(self.settings.segment_seconds * rate))
        self._write_pieces(track, found, pieces)
        return found

    def _write_pieces(self, track: Track, found: Check, pieces: list[np.ndarray]) -> None:
        # A name of its own for each process: one of an earlier run may still be at its last track.
        partial = self.out / PARTIAL / str(os.getpid()) / track.subset
        beside = [partial / f"{track.name} {k}" for k in range(len(pieces))]
        for folder, piece in zip(beside, pieces, strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            paths = [folder / f"{name}.wav" for name in STREAMS]
            _, channels, samples = piece.shape
            with audio.wav_writers(paths, self.settings.sample_rate, channels, samples) as writers:
                for write, stream in zip(writers, piece, strict=True):
                    write(stream)
        self.notes(track).parent.mkdir(parents=True, exist_ok=True)
        _write_json(self.notes(track), found.notes)
        for k, folder in reversed(list(enumerate(beside))):
            target = self.folder(track, k)
            target.parent.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)


def segments(samples: np.ndarray, length: int) -> list[np.ndarray]:
    """Cut ``(streams, channels, samples)`` into pieces of one length; the last overlaps the one before.

    What is shorter than a piece stays as it is.
    """
    last = max(samples.shape[-1] - length, 0)
    starts = sorted({*range(0, last, length), last})
    return [samples[..., start : start + length] for start in starts]


def trim(samples: np.ndarray, keep: int) -> np.ndarray:
    """Shorten each silence of the first of ``(streams, channels, samples)`` to ``keep`` samples, in all."""
    quiet = np.concatenate([[False], (np.abs(samples[0]) < QUIET).all(axis=0), [False]])
    edges = np.flatnonzero(quiet[1:] != quiet[:-1])
    kept = np.ones(samples.shape[-1], bool)
    for start, end in edges.reshape(-1, 2):
        if end - start > keep:
            kept[start + keep // 2 : end - (keep - keep // 2)] = False
    return samples[..., kept]
