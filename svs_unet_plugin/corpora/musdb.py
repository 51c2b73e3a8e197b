"""MUSDB18 on disk, as ``.stem.mp4`` files or WAV folders: find its tracks, read them, check them.

Z. Rafii, A. Liutkus, F.-R. Stöter, S. I. Mimilakis, R. Bittner: "The MUSDB18 corpus for music separation",
2017, https://doi.org/10.5281/zenodo.1117372. A stem file holds five stereo streams in the order of `STREAMS`;
a folder of MUSDB18-HQ holds as many WAV files of these names.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from svs_unet_plugin import audio, ffmpeg
from svs_unet_plugin.corpora.archives import download, reason, unpack
from svs_unet_plugin.files import lock, printable, write_json
from svs_unet_plugin.workers import in_parallel

STREAMS = ("mixture", "drums", "bass", "other", "vocals")
"""The audio of a track in MUSDB18's order, which is that of the streams of a ``.stem.mp4``."""

STEMS = STREAMS[1:]
"""The sources that add up to the mixture."""

SUBSETS = ("train", "test")

STEM_SUFFIX = ".stem.mp4"

SETUP_FILE = "setup.yaml"
"""What musdb may be told about a corpus, in its folder: the names of its files and tracks for validation."""

SIZES = ((100, 50), (94, 50))
"""Tracks to train and to test on, in MUSDB18 and in its 7-second sample."""

MOST_SAMPLE_BYTES = 1_000_000_000
"""Of the unpacked 7-second sample, which has some 140 million."""

SLACK_SAMPLES = 2048
"""The streams of a track may differ in length by so much: two AAC frames, as encoders fill them."""

LEAST_AGREEMENT = 0.0
"""dB by which the stems' sum agrees with the mixture; a track below this is refused."""

GOOD_AGREEMENT = 10.0
"""dB of agreement below which a note is made: separately coded AAC streams reach 15 dB and more."""

SILENCE = 1e-4
"""A stream that stays below this (−80 dB of full scale) from beginning to end is silent."""


@dataclass(frozen=True)
class Track:
    """One track: a ``.stem.mp4``, or a folder of five WAV files.

    Args:
        path: of the file or folder.
        subset: ``"train"`` or ``"test"``.
    """

    path: Path
    subset: str

    @property
    def name(self) -> str:
        """Such as ``"Artist - Title"``."""
        return self.path.name.removesuffix(STEM_SUFFIX)

    def open(self) -> Streams:
        """Look at the headers of its streams.

        Raises:
            OSError, ValueError: if one is missing or can't be read, or they differ in rate or channels.
        """
        if self.path.name.endswith(STEM_SUFFIX):
            return _open_stem_file(self.path)
        files = []
        for name in STREAMS:
            path = self.path / f"{name}.wav"
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing")
            files.append(audio.open_file(path))
        kinds = {(file.sample_rate, file.channels) for file in files}
        if len(kinds) > 1:
            raise ValueError(f"the files in {self.path} differ in sample rate or channels: {sorted(kinds)}")
        return Streams(self.path, files[0].sample_rate, files[0].channels, [file.blocks for file in files])

    def read(self) -> tuple[dict[str, np.ndarray], int]:
        """All of its audio, ``(channels, samples)`` for each of `STREAMS`, and the sample rate in Hz."""
        streams = self.open()
        stacked = np.concatenate(list(streams.blocks()), axis=2)
        return dict(zip(STREAMS, stacked, strict=True)), streams.sample_rate


@dataclass(frozen=True)
class Streams:
    """The opened streams of a track, which can be read more than once."""

    path: Path
    sample_rate: int
    channels: int
    sources: Sequence[Callable[[], Iterator[np.ndarray]]]

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks ``(5, channels, samples)``, cut where the shortest stream ends.

        Raises:
            ValueError: if a stream is damaged or cut short, or is longer than another by more than
                `SLACK_SAMPLES`.
        """
        lengths = np.zeros(len(self.sources), int)
        nothing = np.zeros((self.channels, 0), np.float32)
        readers = [chain(source(), repeat(nothing)) for source in self.sources]
        while True:
            block = [next(reader) for reader in readers]
            sizes = [stream.shape[1] for stream in block]
            lengths += sizes
            if np.ptp(lengths) > SLACK_SAMPLES:
                short, long = STREAMS[lengths.argmin()], STREAMS[lengths.argmax()]
                raise ValueError(f"{self.path} is not whole: the {short} ends before the {long}")
            if max(sizes) == 0:
                return
            if min(sizes) > 0:
                yield np.stack([stream[:, : min(sizes)] for stream in block])


@dataclass(frozen=True)
class Check:
    """What was found in a track.

    Args:
        track: which.
        problem: one sentence if the track can't be used, else None.
        sample_rate: in Hz.
        channels: of each stream.
        samples: of each stream.
        silent: streams that are silent from beginning to end.
        agreement: energy of the mixture over that of mixture − Σ stems, in dB.
    """

    track: Track
    problem: str | None
    sample_rate: int = 0
    channels: int = 0
    samples: int = 0
    silent: tuple[str, ...] = ()
    agreement: float = np.nan

    @property
    def notes(self) -> list[str]:
        """What is odd about a track that can be used."""
        said = [f"its {name} is silent" for name in self.silent] if self.problem is None else []
        if self.problem is None and self.agreement < GOOD_AGREEMENT:
            said.append(f"its mixture is only {self.agreement:.1f} dB above what its stems miss of it")
        return said


class Meter:
    """Measures a track while its blocks pass by."""

    def __init__(self) -> None:
        self.samples = 0
        self.peaks = np.zeros(len(STREAMS))
        self.energy = self.error = 0.0

    def watch(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            self.samples += block.shape[2]
            self.peaks = np.maximum(self.peaks, np.abs(block).max(axis=(1, 2)))
            mixture, error = block[0], block[0] - block[1:].sum(axis=0)
            self.energy += float(np.vdot(mixture, mixture))
            self.error += float(np.vdot(error, error))
            yield block

    def check(self, track: Track, streams: Streams) -> Check:
        """What was found, once all blocks have passed.

        Raises:
            ValueError: if the mixture is silent, or the stems are not its stems.
        """
        silent = tuple(name for name, peak in zip(STREAMS, self.peaks, strict=True) if peak < SILENCE)
        if "mixture" in silent:
            raise ValueError(f"{track.path} is silent from beginning to end")
        agreement = 10 * np.log10(self.energy / self.error) if self.error else np.inf
        if agreement < LEAST_AGREEMENT:
            raise ValueError(
                f"the stems of {track.path} do not add up to its mixture: what is left is louder than that, "
                f"by {-agreement:.1f} dB"
            )
        return Check(track, None, streams.sample_rate, streams.channels, self.samples, silent, agreement)


def find_tracks(folder: str | os.PathLike[str]) -> list[Track]:
    """The tracks of ``folder/train`` and ``folder/test``, in this order and sorted by name.

    Raises:
        FileNotFoundError: if there are none.
    """
    folder = Path(folder)
    tracks = [
        Track(path, subset)
        for subset in SUBSETS
        for path in sorted((folder / subset).glob("[!.]*"))
        if path.is_dir() or path.name.endswith(STEM_SUFFIX)
    ]
    if not tracks:
        raise FileNotFoundError(
            f"{folder} holds no tracks: there should be {folder / 'train'} and {folder / 'test'}, "
            f"with *{STEM_SUFFIX} files or folders of WAV files in them"
        )
    return tracks


def validation_names(names: Sequence[str]) -> list[str]:
    """Names of tracks that are for validation, given those of all that are not for testing.

    They are the 14 that musdb lists or, in a corpus that has none of these, the first seventh.
    """
    listed = _musdb_setup()["validation_tracks"]
    return sorted(listed) if set(names) & set(listed) else first_seventh(names)


def first_seventh(names: Sequence[str]) -> list[str]:
    """Names that are for validation where nothing else says so, at least one."""
    return sorted(names)[: max(len(names) // 7, 1)]


def write_setup(folder: Path, sample_rate: int) -> None:
    """Write a corpus's `SETUP_FILE`, which names its tracks for validation: the `first_seventh`.

    ``musdb.DB(folder, setup_file="setup.yaml", split="valid")`` has them, as does nussl's
    ``MUSDB18(folder, split="valid")`` under `svs_unet_plugin.nussl`.

    Args:
        folder: with tracks in ``train``, which are none of MUSDB18's own.
    """
    setup = {
        "sample-url": "",  # there is nothing to download, also for somebody who says download=True
        "sample_rate": float(sample_rate),
        "mixture": "mixture.wav",
        "stem_ids": {name: index for index, name in enumerate(STREAMS)},
        "sources": {name: f"{name}.wav" for name in STEMS},
        "targets": {
            **{name: {name: 1} for name in STEMS},
            "accompaniment": {name: 1 for name in STEMS if name != "vocals"},
            "linear_mixture": dict.fromkeys(STEMS, 1),
        },
        "validation_tracks": first_seventh([t.name for t in find_tracks(folder) if t.subset == "train"]),
    }
    write_json(folder / SETUP_FILE, setup)  # JSON is YAML


def check_track(track: Track) -> Check:
    """Decode a track from beginning to end, and state what is in it."""
    try:
        streams, meter = track.open(), Meter()
        for _ in meter.watch(streams.blocks()):
            pass
        return meter.check(track, streams)
    except (OSError, ValueError) as error:
        return Check(track, str(error))


def check(folder: str | os.PathLike[str], jobs: int | None = None) -> list[Check]:
    """Check each track of a folder, and the files in it that are none.

    Args:
        folder: with ``train`` and ``test``.
        jobs: processes, ≥ 1; None for one a core.

    Raises:
        FileNotFoundError: if there are no tracks.
    """
    tracks = find_tracks(folder)
    checks = list(in_parallel(check_track, tracks, jobs, title="Check", lost=Check))
    return sorted([*checks, *strays(folder)], key=lambda found: (found.track.subset, found.track.name))


def strays(folder: str | os.PathLike[str]) -> list[Check]:
    """Files among the tracks that are none, such as those of a download that was cut off."""
    return [
        Check(Track(path, subset), f"{path} is no track: neither a folder nor a {STEM_SUFFIX} file")
        for subset in SUBSETS
        for path in sorted((Path(folder) / subset).glob("[!.]*"))
        if path.is_file() and not path.name.endswith(STEM_SUFFIX)
    ]


def summary(checks: Sequence[Check]) -> str:
    """Some lines for people on what was found, problems last."""
    good = [found for found in checks if found.problem is None]
    minutes = sum(found.samples / found.sample_rate for found in good) / 60
    counts = [sum(found.track.subset == subset for found in good) for subset in SUBSETS]
    lines = [f"{len(good)} tracks, {minutes:.1f} minutes: {counts[0]} to train, {counts[1]} to test on"]
    if good:
        training = [found.track.name for found in good if found.track.subset == "train"]
        held = set(validation_names(training)) & set(training)
        lines.append(f"{len(held)} of those to train on are for validation")
        kinds = sorted({(found.sample_rate, found.channels) for found in good})
        lines.append("; ".join(f"{rate} Hz, {channels} channel(s)" for rate, channels in kinds))
        worst = min(good, key=lambda found: found.agreement)
        median = np.median([found.agreement for found in good])
        lines.append(
            f"mixture over what the stems miss of it: {median:.1f} dB (median), {worst.agreement:.1f} dB at "
            f"worst ({worst.track.name})"
            if np.isfinite(worst.agreement)
            else "the stems add up to the mixture exactly"
        )
    if _is_musdb18(checks) and tuple(counts) not in SIZES:
        lines.append("MUSDB18 has 100 and 50 tracks, and its 7-second sample 94 and 50: some are missing")
    lines += [f"note: {found.track.name}: {note}" for found in good for note in found.notes]
    lines += [f"skipped: {found.track.name}: {found.problem}" for found in checks if found.problem]
    return "\n".join(map(printable, lines))


def _is_musdb18(checks: Sequence[Check]) -> bool:
    return any(found.track.name in _musdb_setup()["validation_tracks"] for found in checks)


def _musdb_setup() -> dict[str, Any]:
    """What musdb knows about MUSDB18."""
    import yaml

    return yaml.safe_load((resources.files("musdb") / "configs" / "mus.yaml").read_text())


def fetch_sample(folder: str | os.PathLike[str]) -> None:
    """Download MUSDB18's 7-second sample, from where musdb has it, unless it is there.

    Args:
        folder: gets ``train`` and ``test`` once all is there.

    Raises:
        OSError: if it can't be downloaded; it says what to do by hand.
        ValueError: if another run writes there.
    """
    folder = Path(folder)
    with lock(folder):
        if not all((folder / subset).is_dir() for subset in SUBSETS):
            _download_sample(folder)


def _download_sample(folder: Path) -> None:
    for leftover in folder.glob(".partial*"):  # of one that was killed
        shutil.rmtree(leftover)
    url = _musdb_setup()["sample-url"]
    try:
        # Beside, since musdb takes a folder with half of the files in it for all of them.
        with tempfile.TemporaryDirectory(prefix=".partial", dir=folder) as beside:
            archive, sample = Path(beside) / "sample.zip", Path(beside) / "sample"
            download(url, archive)
            unpack(archive, sample, most_bytes=MOST_SAMPLE_BYTES)
            for subset in SUBSETS:
                shutil.rmtree(folder / subset, ignore_errors=True)
                os.replace(sample / subset, folder / subset)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise OSError(
            f"the 7-second sample of MUSDB18 could not be downloaded ({reason(error)}). Where there is a "
            f"network, download {url}, unzip it into {folder}, so that {folder / 'train'} "
            f"and {folder / 'test'} hold {STEM_SUFFIX} files, and start again"
        ) from error


def _open_stem_file(path: Path) -> Streams:
    kinds = ffmpeg.probe(path).streams
    if len(kinds) != len(STREAMS) or any(kind != kinds[0] for kind in kinds):
        found = [(kind.sample_rate, kind.channels) for kind in kinds]
        raise ValueError(f"{path} should have five audio streams of one rate, it has {len(kinds)}: {found}")
    sample_rate, channels = kinds[0].sample_rate, kinds[0].channels

    def source(stream: int) -> Callable[[], Iterator[np.ndarray]]:
        return lambda: ffmpeg.decode(path, channels, stream)

    return Streams(path, sample_rate, channels, [source(stream) for stream in range(len(STREAMS))])
