"""A corpus of made-up songs in the layout of MUSDB18-HQ or, as ``.stem.mp4`` files, of MUSDB18."""

import os
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from svs_unet_plugin.corpora.musdb import STREAMS

from .song import SYNTHESIS_VERSION, make_song, validate

PARTIAL = ".partial"
"""Folder of unfinished tracks, beside ``train`` and ``test``, where musdb does not look."""

SECONDS_A_WORKER = 60.0
"""Length of the music from which another process is worth its start, which takes as long as to make this."""

README = """\
These songs are made up: a program drew them from a seed. Nobody wrote, sang or recorded them.
A score on them checks that a separation system learns. It says nothing about music.

Tracks: {tracks}
{settings}
Command: svs-unet data demo OUT --tracks {tracks} --seconds {seconds} --seed {seed}{flag}

The layout is MUSDB18's.
"""


@dataclass(frozen=True)
class _Track:
    """One track to write: the ``number``-th of a corpus (from 0)."""

    out: Path
    number: int
    seed: int
    seconds: float
    sample_rate: int
    stems: bool

    @property
    def name(self) -> str:
        # musdb reads "artist - title".
        suffix = ".stem.mp4" if self.stems else ""
        return f"Made-up Band - Song {self.number + 1:04d}{suffix}"

    @property
    def path(self) -> Path:
        # The place in the corpus decides, not its size: adding tracks moves none.
        return self.out / ("test" if self.number % 6 == 1 else "train") / self.name

    def is_whole(self) -> bool:
        return self.path.is_file() if self.stems else all((self.path / f"{s}.wav").is_file() for s in STREAMS)

    def write(self) -> None:
        """Make the song up and write it beside, then give it its name."""
        partial = self.out / PARTIAL / self.path.name.removesuffix(".stem.mp4")
        for leftover in (partial, self.path):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        entropy = np.random.SeedSequence([self.seed, self.number]).generate_state(1, np.uint64)
        song = make_song(int(entropy[0]), self.seconds, self.sample_rate)
        pcm = {name: np.round(stem * 32767.0).astype(np.int16) for name, stem in song.items()}
        # Added after rounding, so that the files add up to the bit; make_song leaves room below full scale.
        pcm["mixture"] = np.sum(list(pcm.values()), axis=0, dtype=np.int16)
        for name, samples in pcm.items():
            soundfile.write(partial / f"{name}.wav", samples.T, self.sample_rate, subtype="PCM_16")
        self.path.parent.mkdir(exist_ok=True)
        if self.stems:
            _encode(partial, partial / self.name)
            os.replace(partial / self.name, self.path)
            shutil.rmtree(partial)
        else:
            os.replace(partial, self.path)


def make_corpus(
    out: Path, tracks: int, seconds: float, seed: int, *, stems: bool = False, sample_rate: int = 44100
) -> list[Path]:
    """Write made-up songs in MUSDB18's layout, for a first training run without a download.

    The second track of every six goes to ``out/test``, the others to ``out/train``, so that two tracks make
    one of each. The same arguments give the same bytes on the same machine, and a track depends on the seed
    and on its number but not on how many there are. A run that was stopped goes on where it was: whole tracks
    are kept, and no half-written one has a final name. ``out/README.txt`` says what the songs are.

    The songs are written in parallel, by processes that are spawned: a script calls this under
    ``if __name__ == "__main__":``.

    Args:
        out: folder to write to; new, empty, or of an earlier run with the same arguments (more tracks may be
            asked for).
        tracks: number of songs, 1 or more.
        seconds: length of each song, 1 or more.
        seed: 0 or more.
        stems: write ``<track>.stem.mp4``, five stereo AAC streams in the order of `STREAMS`, instead of a
            folder of five 16-bit WAV files. Needs ffmpeg.
        sample_rate: in Hz, 8000 or more.

    Returns:
        The track folders, or ``.stem.mp4`` files, in order.

    Raises:
        ValueError: an argument is out of range, or ``out`` holds something else.
        FileNotFoundError: ``stems`` was asked for and ffmpeg is not installed.
    """
    if tracks < 1:
        raise ValueError(f"The number of tracks must be 1 or more, not {tracks}.")
    validate(seed, seconds, sample_rate)
    if stems and shutil.which("ffmpeg") is None:
        raise FileNotFoundError("Stem files need ffmpeg, which was not found: install it.")
    out = Path(out)
    _claim(out, tracks, seconds, seed, stems, sample_rate)

    every = [_Track(out, number, seed, seconds, sample_rate, stems) for number in range(tracks)]
    missing = [track for track in every if not track.is_whole()]
    with tqdm(total=tracks, initial=tracks - len(missing), desc="Made-up songs", unit="track") as bar:
        workers = min(len(missing), os.cpu_count() or 1, int(len(missing) * seconds / SECONDS_A_WORKER))
        if workers > 1:
            # Spawned, not forked: a caller's threads (of torch, of a BLAS) do not survive a fork.
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for _ in pool.map(_Track.write, missing):
                    bar.update()
        else:
            for track in missing:
                track.write()
                bar.update()
    shutil.rmtree(out / PARTIAL, ignore_errors=True)
    return [track.path for track in every]


def _claim(out: Path, tracks: int, seconds: float, seed: int, stems: bool, sample_rate: int) -> None:
    """Write the README, first of all, so that a folder's songs can only ever be of one kind."""
    kind = ".stem.mp4" if stems else "WAV"
    settings = (
        f"Settings: seed {seed}, {float(seconds)} seconds a track, {sample_rate} Hz, {kind} files, "
        f"synthesis version {SYNTHESIS_VERSION}"
    )
    readme = out / "README.txt"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; the made-up songs need a folder.")
    if readme.is_file():
        if settings not in readme.read_text(encoding="utf-8").splitlines():
            raise ValueError(
                f"{out} was made with other settings, or is no corpus of made-up songs (see its README.txt): "
                "choose another folder."
            )
    elif out.is_dir() and any(item.name != PARTIAL for item in out.iterdir()):
        raise ValueError(f"{out} holds something else than made-up songs: choose another folder.")
    there = len(list(out.glob("t*/Made-up*")))
    text = README.format(
        tracks=max(tracks, there),
        settings=settings,
        seconds=float(seconds),
        seed=seed,
        flag=" --stems" if stems else "",
    )
    beside = out / PARTIAL / readme.name
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, readme)


def _encode(folder: Path, path: Path) -> None:
    """Encode a folder's five WAV files as the streams of one file, without dates or versions in it."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y"]
    for name in STREAMS:
        command += ["-i", str(folder / f"{name}.wav")]
    for index, name in enumerate(STREAMS):
        command += ["-map", f"{index}:a", f"-metadata:s:a:{index}", f"handler_name={name}"]
    command += ["-c:a", "aac", "-b:a", "256k", "-fflags", "+bitexact", "-flags:a", "+bitexact", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"ffmpeg could not write {path.name}: {result.stderr.strip()}")
