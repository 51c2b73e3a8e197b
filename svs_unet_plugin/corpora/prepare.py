"""MUSDB18 brought to the network's sample rate, once, in the layout of MUSDB18-HQ.

What comes out is ``{train,test}/<track>/{mixture,drums,bass,other,vocals}.wav``, 32-bit float, which musdb,
nussl, scaper and asteroid read as it is, ``settings.json``, which states how and from what it was made, and
``prepared.json``, which states what was found.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from svs_unet_plugin import audio
from svs_unet_plugin.corpora import musdb
from svs_unet_plugin.corpora.musdb import STREAMS, Check, Meter, Track
from svs_unet_plugin.encoding import Encoding, writers
from svs_unet_plugin.files import atomic_write, claim, fingerprint, read_json, read_settings, write_json
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.workers import in_parallel

PREPARED_FILE = "prepared.json"
"""What was found while preparing, written when all is done."""

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
    long as they were. A run that was stopped is resumed: tracks that are whole are kept, unless their own
    files have changed since, and no half-written one has a final name.

    Args:
        source: MUSDB18 or MUSDB18-HQ, or anything in either layout.
        out: new, or of an earlier run with the same settings and the same source.
        jobs: processes, ≥ 1; None for one for each CPU. They are spawned: a script calls this under
            ``if __name__ == "__main__":``.

    Raises:
        FileNotFoundError: if the source holds no tracks.
        ValueError: if ``out`` was prepared with different settings or from a different source, holds
            something else or a track that the source has lost, or is in use by another run.
    """
    out, settings = Path(out), settings or Settings()
    tracks = musdb.find_tracks(source)
    valid = musdb.validation_names([track.name for track in tracks if track.subset == "train"])
    record = {"settings": asdict(settings), "valid": valid, "source": os.path.realpath(source)}
    with claim(out, record, holds="prepared tracks"):
        writer = _Writer(out, settings, frozenset(valid))
        if lost := sorted(writer.recorded() - {_key(track) for track in tracks}):
            raise ValueError(f"{source} no longer has {lost[0]}, which {out} holds: choose another folder")
        missing = [track for track in tracks if not writer.has(track)]
        if missing:  # until they are written, the folder is not finished
            (out / PREPARED_FILE).unlink(missing_ok=True)
        checks = [
            *in_parallel(writer.write, missing, jobs, title="Prepare", lost=Check),
            *musdb.strays(source),
        ]
        notes = {_key(track): writer.record(track)["notes"] for track in tracks if writer.has(track)}
        found = {
            "skipped": {_key(check.track): check.problem for check in checks if check.problem},
            "notes": {key: said for key, said in notes.items() if said},
        }
        write_json(out / PREPARED_FILE, {name: dict(sorted(found[name].items())) for name in found})
    return open_prepared(out)


def open_prepared(folder: str | os.PathLike[str]) -> Prepared:
    """A folder that `prepare` has written.

    Raises:
        ValueError: if it is none, or not finished.
    """
    folder = Path(folder)
    record, found = read_settings(folder), folder / PREPARED_FILE
    if record is None or not found.is_file():
        raise ValueError(
            f"{folder} is no folder of prepared tracks, or not finished: "
            f"svs-unet data prepare SOURCE {folder}"
        )
    tracks = musdb.find_tracks(folder)
    train = [track for track in tracks if track.subset == "train"]
    said = read_json(found, "list of prepared tracks")
    try:
        return Prepared(
            folder,
            Settings(**record["settings"]),
            train=[track for track in train if track.name not in record["valid"]],
            valid=[track for track in train if track.name in record["valid"]],
            test=[track for track in tracks if track.subset == "test"],
            **said,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} has damaged records of what was prepared: {error}") from error


def _key(track: Track) -> str:
    return f"{track.subset}/{track.name}"


@dataclass(frozen=True)
class _Writer:
    """Writes tracks, each of them whole or not at all."""

    out: Path
    settings: Settings
    valid: frozenset[str]

    def has(self, track: Track) -> bool:
        """Whether the track is written, from its files as they are now."""
        record = self.record(track)
        return record.get("source") == fingerprint([track.path]) and all(
            (self.folder(track, index) / f"{name}.wav").is_file()
            for index in range(record.get("pieces", 1))
            for name in STREAMS
        )

    def record(self, track: Track) -> dict[str, Any]:
        """What is kept of a track: the state of its files, how many pieces it has, and what is odd."""
        path = self._record_file(track)
        return read_json(path, "record of a track") if path.is_file() else {}

    def recorded(self) -> set[str]:
        """The tracks that were written, such as ``"train/Artist - Title"``."""
        return {f"{path.parent.name}/{path.stem}" for path in (self.out / "records").glob("*/[!.]*.json")}

    def _record_file(self, track: Track) -> Path:
        return self.out / "records" / track.subset / f"{track.name}.json"

    def folder(self, track: Track, index: int) -> Path:
        name = f"{track.name} {index + 1:03d}" if self.cuts(track) else track.name
        return self.out / track.subset / name

    def cuts(self, track: Track) -> bool:
        return self.settings.segment_seconds is not None and self.is_for_training(track)

    def is_for_training(self, track: Track) -> bool:
        return track.subset == "train" and track.name not in self.valid

    def write(self, track: Track) -> Check:
        """Write a track; if it can't be used, nothing of an earlier state of it is left."""
        check = self._write(track)
        if check.problem:
            self._record_file(track).unlink(missing_ok=True)
            self._remove_pieces(track, 0)
        return check

    def _write(self, track: Track) -> Check:
        source = fingerprint([track.path])
        try:
            streams, meter = track.open(), Meter()
            # Streams and channels side by side: (5 · channels, samples).
            flat = (block.reshape(-1, block.shape[2]) for block in meter.watch(streams.blocks()))
            rows, rate = len(STREAMS) * streams.channels, self.settings.sample_rate
            low = list(audio.resample_blocks(flat, rows, streams.sample_rate, rate))
            found = meter.check(track, streams)
        except (OSError, ValueError) as error:
            return Check(track, str(error))
        if fingerprint([track.path]) != source:
            return Check(track, f"{track.path} was changed while it was read")
        pieces = [np.concatenate(low, axis=1).reshape(len(STREAMS), streams.channels, -1)]
        if self.settings.trim_seconds is not None and self.is_for_training(track):
            pieces = [trim(pieces[0], round(self.settings.trim_seconds * rate))]
        if self.settings.segment_seconds is not None and self.cuts(track):
            pieces = segments(pieces[0], round(self.settings.segment_seconds * rate))
        self._write_pieces(track, found, pieces, source)
        return found

    def _write_pieces(self, track: Track, found: Check, pieces: list[np.ndarray], source: str) -> None:
        for index, piece in reversed(list(enumerate(pieces))):
            target = self.folder(track, index)
            target.parent.mkdir(exist_ok=True)
            # Beside train/ and test/, in which a dataset would take an unfinished folder for a track.
            with atomic_write(target, self.out) as folder:
                folder.mkdir()
                paths = [folder / f"{name}.wav" for name in STREAMS]
                _, channels, samples = piece.shape
                with writers(paths, Encoding(), self.settings.sample_rate, channels, samples) as writes:
                    for write, stream in zip(writes, piece, strict=True):
                        write(stream)
        self._remove_pieces(track, len(pieces))  # of files that were longer before
        # Last, so that a track is made again if this is not done.
        record = {"source": source, "pieces": len(pieces), "notes": found.notes}
        write_json(self._record_file(track), record)

    def _remove_pieces(self, track: Track, first: int) -> None:
        for index in count(first) if self.cuts(track) else range(first, 1):
            if not self.folder(track, index).is_dir():
                break
            shutil.rmtree(self.folder(track, index))


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
