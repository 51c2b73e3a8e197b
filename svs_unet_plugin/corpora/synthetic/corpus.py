"""A corpus of synthetic songs in the layout of MUSDB18-HQ or, as ``.stem.mp4`` files, of MUSDB18."""

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from svs_unet_plugin import ffmpeg
from svs_unet_plugin.corpora.musdb import STEM_SUFFIX, STREAMS, SUBSETS, write_setup
from svs_unet_plugin.corpora.synthetic.band import BAND_VERSION
from svs_unet_plugin.corpora.synthetic.song import SYNTHESIS_VERSION, make_song, validate
from svs_unet_plugin.corpora.synthetic.soundfont import Soundfont, open_soundfont
from svs_unet_plugin.encoding import write_errors
from svs_unet_plugin.files import atomic_write, claim, write_text
from svs_unet_plugin.threads import cpus
from svs_unet_plugin.workers import in_parallel

SECONDS_A_WORKER = 60.0
"""Length of the music from which another process is worth its start, which takes as long as to make this."""

README = """\
These songs are synthetic: a program drew them from a seed. Nobody wrote, sang or recorded them.
A score on them checks that a separation system learns. It says nothing about music.

Command: svs-unet data demo OUT {flags}

The layout is MUSDB18's.
"""

README_SOUNDFONT = """
FluidSynth played the bands with the soundfont {name}, whose licence is to be kept. Of Debian's,
fluid-soundfont-gm and musescore-general-soundfont are under the MIT licence.
SHA-256 of the soundfont: {sha256}
"""


@dataclass(frozen=True)
class _Track:
    """One track to write, by its index in the corpus, from 0."""

    out: Path
    index: int
    seed: int
    seconds: float
    sample_rate: int
    stems: bool
    soundfont: Soundfont | None

    @property
    def name(self) -> str:
        # musdb reads "artist - title".
        return f"Synthetic Band - Song {self.index + 1:04d}{STEM_SUFFIX if self.stems else ''}"

    @property
    def path(self) -> Path:
        # The place in the corpus decides, not its size: adding tracks moves none.
        return self.out / ("test" if self.index % 6 == 1 else "train") / self.name

    def is_whole(self) -> bool:
        return self.path.is_file() if self.stems else all((self.path / f"{s}.wav").is_file() for s in STREAMS)

    def write(self) -> None:
        """Make the song, whole or not at all."""
        entropy = np.random.SeedSequence([self.seed, self.index]).generate_state(1, np.uint64)
        song = make_song(int(entropy[0]), self.seconds, self.sample_rate, self.soundfont)
        pcm = {name: np.round(stem * 32767.0).astype(np.int16) for name, stem in song.items()}
        # Added after rounding, so that the files add up to the bit; make_song leaves room below full scale.
        pcm["mixture"] = np.sum(list(pcm.values()), axis=0, dtype=np.int16)
        # Beside train/ and test/, in which a dataset would take an unfinished folder for a track.
        with atomic_write(self.path, self.out) as unfinished, TemporaryDirectory() as temporary:
            folder = Path(temporary) if self.stems else unfinished
            folder.mkdir(exist_ok=True)
            for name, samples in pcm.items():
                path = folder / f"{name}.wav"
                with write_errors([path]):
                    soundfile.write(path, samples.T, self.sample_rate, subtype="PCM_16")
            if self.stems:
                _encode(folder, unfinished)


def make_corpus(
    out: Path,
    tracks: int,
    seconds: float,
    seed: int,
    *,
    stems: bool = False,
    sample_rate: int = 44100,
    soundfont: Path | None = None,
) -> list[Path]:
    """Write synthetic songs in MUSDB18's layout, for a first training run without a download.

    The second track of every six goes to ``out/test``, the others to ``out/train``, so that two tracks make
    one of each. The same arguments give the same bytes on the same machine, and a track depends on the seed
    and on its index but not on how many there are. A run that was stopped is resumed: whole tracks are kept,
    and no half-written one has a final name. ``out/README.txt`` says what the songs are, and ``setup.yaml``
    which are for validation: the first seventh of those to train on, as in this package's recipes.

    The songs are written in parallel, by processes that are spawned: a script calls this under
    ``if __name__ == "__main__":``.

    Args:
        out: folder to write to; new, empty, or of an earlier run with the same arguments (more tracks may be
            asked for).
        tracks: how many songs, 1 or more.
        seconds: length of each song, 1 or more.
        seed: 0 or more.
        stems: write ``<track>.stem.mp4``, five stereo AAC streams in the order of `STREAMS`, instead of a
            folder of five 16-bit WAV files. Needs ffmpeg.
        sample_rate: in Hz, 8000 or more.
        soundfont: a General MIDI soundfont (.sf2, .sf3), by which FluidSynth plays the bands; without one,
            they are synthesised as the voice is. Needs FluidSynth, ffmpeg and mido.

    Returns:
        The track folders, or ``.stem.mp4`` files, in order.

    Raises:
        ValueError: an argument is out of range, ``out`` holds something else, or another run writes there.
        FileNotFoundError: ``stems`` was asked for and ffmpeg is not installed; or there is no such soundfont,
            or no FluidSynth to play it.
        ImportError: a soundfont was given and mido is not installed.
    """
    if tracks < 1:
        raise ValueError(f"the number of tracks must be 1 or more, got {tracks}")
    validate(seed, seconds, sample_rate)
    if stems and shutil.which("ffmpeg") is None:
        raise FileNotFoundError("stem files need ffmpeg, which was not found: install it")
    out = Path(out)
    font = None if soundfont is None else open_soundfont(soundfont)
    settings = {
        "seed": seed,
        "seconds": float(seconds),
        "sample_rate": sample_rate,
        "files": STEM_SUFFIX if stems else "WAV",
        "synthesis_version": SYNTHESIS_VERSION,
    }
    if font is not None:
        settings |= {"soundfont": font.sha256, "band_version": BAND_VERSION}
    every = [_Track(out, index, seed, seconds, sample_rate, stems, font) for index in range(tracks)]
    with claim(out, settings, holds="synthetic songs"):
        there = len(list(out.glob("t*/Synthetic*")))
        flags = f"--tracks {max(tracks, there)} --seconds {float(seconds)} --seed {seed} --rate {sample_rate}"
        flags += " --stems" if stems else ""
        about = ""
        if font is not None:
            name = os.fsencode(font.path.name).decode(errors="replace")
            flags += f" --soundfont {shlex.quote(name)}"
            about = README_SOUNDFONT.format(name=name, sha256=font.sha256)
        write_text(out / "README.txt", README.format(flags=flags) + about)
        for subset in SUBSETS:
            (out / subset).mkdir(exist_ok=True)
        missing = [track for track in every if not track.is_whole()]
        jobs = min(cpus(), max(int(len(missing) * seconds / SECONDS_A_WORKER), 1))
        for _ in in_parallel(_Track.write, missing, jobs, title="Synthetic songs"):
            pass
        write_setup(out, sample_rate)
    return [track.path for track in every]


def _encode(folder: Path, path: Path) -> None:
    """Encode a folder's five WAV files as the streams of one file, without dates or versions in it."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y"]
    for name in STREAMS:
        command += ["-i", f"file:{folder / name}.wav"]
    for index, name in enumerate(STREAMS):
        command += ["-map", f"{index}:a", f"-metadata:s:a:{index}", f"handler_name={name}"]
    command += ["-c:a", "aac", "-b:a", "256k", "-fflags", "+bitexact", "-flags:a", "+bitexact"]
    command += ["-f", "mp4", f"file:{path}"]
    done = ffmpeg.run(command)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or ffmpeg.how_it_ended(done.returncode)
        raise RuntimeError(f"ffmpeg could not write {path.name}: {said}")
