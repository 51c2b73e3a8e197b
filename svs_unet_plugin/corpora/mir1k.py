"""MIR-1K, sorted into nussl's mix-source layout.

    C.-L. Hsu, J.-S. R. Jang: "On the improvement of singing voice separation for monaural recordings using
    the MIR-1K dataset", IEEE Transactions on Audio, Speech, and Language Processing, 2010.

A clip has the accompaniment on its left channel and the voice on its right, at 16 kHz. The mixture is
their mean, and each source half its channel, so that the sources add up to the mixture.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from svs_unet_plugin import ffmpeg
from svs_unet_plugin.corpora.archives import download, reason, unpack
from svs_unet_plugin.encoding import Encoding, writers
from svs_unet_plugin.files import atomic_write, claim, fingerprint, lock
from svs_unet_plugin.workers import in_parallel

URL = "http://mirlab.org/dataset/public/MIR-1K.zip"
"""The archive of the dataset's authors; it has no published checksum."""

MOST_BYTES = 2_000_000_000
"""Of the clips, which have some 500 million."""

TRAIN_SINGERS = ("abjones", "amy")
"""Those whose clips are for training, by the dataset's usual protocol; the others are for testing."""


def fetch(folder: Path, url: str = URL) -> Path:
    """Download the original archive, about 1 GB, and unpack it into ``folder``, unless it is there.

    Returns:
        The folder of the clips.

    Raises:
        OSError: if it can't be downloaded or is no whole archive; it says what to do by hand.
        ValueError: if another run writes there.
    """
    with lock(folder):
        return _fetch(folder, url)


def _fetch(folder: Path, url: str) -> Path:
    clips = Path(folder) / "MIR-1K" / "Wavfile"
    archive = Path(folder) / "MIR-1K.zip"
    if clips.is_dir():
        return clips
    try:
        download(url, archive)
        clips.parent.mkdir(exist_ok=True)
        with atomic_write(clips) as beside:
            unpack(archive, beside, "MIR-1K/Wavfile/", most_bytes=MOST_BYTES)
    except (OSError, ValueError, zipfile.BadZipFile) as error:  # requests raises OSErrors
        if isinstance(error, zipfile.BadZipFile):  # or it would be taken for the archive next time
            archive.unlink(missing_ok=True)
        raise OSError(
            f"MIR-1K could not be had from {url} ({reason(error)}). "
            "Download it where there is a network, and name its folder Wavfile with --source, or prepare it "
            "by svs-unet data mir1k"
        ) from error
    return clips


def prepare(clips: Path, out: Path) -> None:
    """Write ``out/{train,test}/{mix,vocals,accompaniment}/<clip>.wav``, mono float, at the clips' rate.

    ``nussl.datasets.MixSourceFolder`` reads each of the two folders. Clips that are there are not written
    again.

    Args:
        clips: a folder of two-channel files ``<singer>_<song>_<clip>.<wav or flac>``.

    Raises:
        ValueError: if there is no such clip in the folder, one has another number of channels, or ``out`` was
            made of other clips.
    """
    paths = sorted(path for kind in ("wav", "flac") for path in Path(clips).glob(f"[!.]*_*_*.{kind}"))
    if not paths:
        raise ValueError(f"{clips} holds no clips of MIR-1K such as abjones_1_01.wav")
    with claim(out, {"clips": fingerprint(paths)}, holds="clips of MIR-1K"):
        for path in tqdm(paths, desc="MIR-1K", unit="clip"):
            split = "train" if path.name.partition("_")[0] in TRAIN_SINGERS else "test"
            targets = _clip(Path(out) / split, path.stem)
            if all(target.exists() for target in targets):
                continue
            samples, sample_rate = soundfile.read(os.fsencode(path), dtype="float32", always_2d=True)
            if samples.shape[1] != 2:
                raise ValueError(f"{path} has {samples.shape[1]} channels, but a clip of MIR-1K has two")
            accompaniment, vocals = samples.T[:, None] / np.float32(2)
            _write(targets, vocals, accompaniment, sample_rate)


def stretch(mixes: Sequence[Path], out: Path, versions: int, seed: int = 7) -> None:
    """Write clips at other pitches and other tempos: ``out/{mix,vocals,accompaniment}/<clip>_<n>.wav``.

    A clip's sources move by up to four semitones and get up to 1.37 times as fast or as slow, one apart from
    the other; the voice keeps its formants. Rubber Band does it, in ffmpeg. Files that are there are not
    written again.

    Args:
        mixes: the mixtures of clips that `prepare` wrote.
        versions: how many to make of each clip, ≥ 0.
        seed: of their pitches and tempos.

    Raises:
        ValueError: if there is no ffmpeg that can do it, or ``out`` holds clips with different settings.
    """
    if versions and not _has_rubber_band():
        raise ValueError(
            "other pitches and tempos need an ffmpeg whose `ffmpeg -filters` names rubberband; "
            "`stretched: 0` in the configuration trains without them"
        )
    generator = np.random.default_rng(seed)
    work = [
        (
            _clip(mix.parents[1], mix.stem),
            _clip(Path(out), f"{mix.stem}_{version}"),
            *generator.uniform((-4, -0.45), (4, 0.45)),
        )
        for mix in mixes
        for version in range(versions)
    ]
    # The draws follow one another, so that other clips or another count of versions move all of them.
    record = {"versions": versions, "seed": seed, "clips": fingerprint(mixes)}
    with claim(out, record, holds="clips at other pitches and tempos"):
        for _ in in_parallel(_stretch, work, title="Pitches and tempos", unit="clip"):
            pass


def _has_rubber_band() -> bool:
    if shutil.which("ffmpeg") is None:
        return False
    return b" rubberband " in ffmpeg.run(["ffmpeg", "-v", "quiet", "-filters"]).stdout


def _stretch(work: tuple[list[Path], list[Path], float, float]) -> None:
    """A clip's files, what to write in their place, semitones up, and octaves faster."""
    (_, *sources), targets, semitones, octaves = work
    if all(target.exists() for target in targets):
        return
    filters = f"rubberband=pitch={2 ** (semitones / 12):.4f}:tempo={2**octaves:.4f}:formant="
    vocals, accompaniment = (
        np.concatenate([*ffmpeg.decode(source, 1, filters=filters + formant)], axis=1)
        for source, formant in zip(sources, ("preserved", "shifted"), strict=True)
    )
    samples = min(vocals.shape[1], accompaniment.shape[1])
    sample_rate = soundfile.info(os.fsencode(sources[0])).samplerate
    _write(targets, vocals[:, :samples], accompaniment[:, :samples], sample_rate)


def _clip(folder: Path, name: str) -> list[Path]:
    """Where a clip's mixture, vocals and accompaniment are."""
    return [folder / kind / f"{name}.wav" for kind in ("mix", "vocals", "accompaniment")]


def _write(targets: Sequence[Path], vocals: np.ndarray, accompaniment: np.ndarray, sample_rate: int) -> None:
    """Write a clip's files (see `_clip`) of its sources ``(1, samples)``."""
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    with writers(targets, Encoding(), sample_rate, channels=1, samples=vocals.shape[1]) as writes:
        for write, signal in zip(writes, (vocals + accompaniment, vocals, accompaniment), strict=True):
            write(signal)
