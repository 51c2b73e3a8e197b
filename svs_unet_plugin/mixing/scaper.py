"""Mixtures to train on, from prepared songs: by scaper, or in excerpts that are cut from the files.

J. Salamon, D. MacConnell, M. Cartwright, P. Li, J. P. Bello: "Scaper: a library for soundscape synthesis and
augmentation", WASPAA 2017. A mixture is coherent, its stems from one song and moment, all at one pitch and
tempo; or incoherent, each of any song, at a pitch and tempo of its own. The loudness of each stem is drawn.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from svs_unet_plugin import audio, files
from svs_unet_plugin.corpora.musdb import STEMS, Track
from svs_unet_plugin.corpora.prepare import Prepared
from svs_unet_plugin.workers import in_parallel

LOUDNESS = -20.0
"""LUFS of a stem at 0 dB."""

AUDIBLE = 0.01
"""A stem whose excerpt stays below this (−40 dB of full scale) would be noise, brought up to `LOUDNESS`."""

TRIES = 1000
"""Draws after which there is no excerpt in which all stems sound."""


@dataclass(frozen=True)
class MixSettings:
    """How scaper mixes.

    Args:
        mixtures: how many to write, ≥ 0.
        seconds: length of each, > 0.
        coherent: share of them in [0, 1] whose stems are of one song and moment.
        snr: the loudness of each stem is at most so many dB above or below the others' middle, ≥ 0.
        pitch: largest shift in semitones, up or down, ≥ 0.
        stretch: largest change of the length, as a part of it, in [0, 1): 0.2 is for 0.8 to 1.2.
        seed: of the first mixture; the others follow it.
    """

    mixtures: int = 0
    seconds: float = 12.0
    coherent: float = 0.5
    snr: float = 5.0
    pitch: float = 2.0
    stretch: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.mixtures, self.snr, self.pitch, self.seed)
        if least < 0 or not self.seconds > 0 or not 0 <= self.coherent <= 1 or not 0 <= self.stretch < 1:
            raise ValueError(
                "mixtures, snr, pitch and seed must be at least 0, seconds more than 0, coherent in [0, 1] "
                f"and stretch in [0, 1), got {self}"
            )


@dataclass(frozen=True)
class Mixture:
    """One mixture by scaper.

    Args:
        mixture: ``(1, samples)``.
        stems: the same for each of `STEMS`; they add up to the mixture.
        annotation: scaper's, a ``jams.JAMS``.
    """

    mixture: np.ndarray
    stems: dict[str, np.ndarray]
    annotation: Any


@dataclass(frozen=True)
class Mixer:
    """Mixes songs by scaper; the same seed gives the same mixture.

    Args:
        foreground: what `link_stems` made.
        settings: how to mix.
        sample_rate: of the songs, in Hz.
    """

    foreground: Path
    settings: MixSettings
    sample_rate: int

    def mix(self, seed: int) -> Mixture:
        """The mixture of a seed, ≥ 0.

        Raises:
            ValueError: if there are no excerpts in which all stems sound.
        """
        from svs_unet_plugin.nussl.compat import import_scaper

        scaper, settings = import_scaper(), self.settings
        generator = np.random.default_rng(seed)
        mixer = scaper.Scaper(settings.seconds, str(self.foreground), str(self.foreground), random_state=seed)
        mixer.sr, mixer.n_channels, mixer.ref_db = self.sample_rate, 1, LOUDNESS
        mixer.fade_in_len = mixer.fade_out_len = 0
        for excerpt in self._draw(generator):
            mixer.add_event(
                label=("const", excerpt.stem),
                source_file=("const", str(self.foreground / excerpt.stem / excerpt.song)),
                source_time=("const", excerpt.start),
                event_time=("const", 0),
                event_duration=("const", settings.seconds / excerpt.stretch),
                snr=("const", float(generator.uniform(-settings.snr, settings.snr))),
                pitch_shift=("const", excerpt.pitch) if settings.pitch else None,
                time_stretch=("const", excerpt.stretch) if settings.stretch else None,
            )
        with warnings.catch_warnings():  # that it was too loud, and is not any more
            warnings.simplefilter("ignore", scaper.scaper_warnings.ScaperWarning)
            mixture, annotation, _, stems = mixer.generate(
                fix_clipping=True, disable_instantiation_warnings=True
            )
        names = [event.value["label"] for event in annotation.annotations[0].data]
        return Mixture(
            mixture.T.astype(np.float32),
            {name: stem.T.astype(np.float32) for name, stem in zip(names, stems, strict=True)},
            annotation,
        )

    def _draw(self, generator: np.random.Generator) -> list[_Excerpt]:
        """An excerpt for each of `STEMS`, in which it sounds."""
        songs = sorted(path.name for path in (self.foreground / STEMS[0]).iterdir())
        if generator.random() < self.settings.coherent:
            for _ in range(TRIES):
                first = self._excerpt(STEMS[0], songs, generator)
                excerpts = [replace(first, stem=stem) for stem in STEMS]
                if all(map(self._sounds, excerpts)):
                    return excerpts
        else:
            drawn = [
                next(
                    filter(self._sounds, (self._excerpt(stem, songs, generator) for _ in range(TRIES))), None
                )
                for stem in STEMS
            ]
            if None not in drawn:
                return [excerpt for excerpt in drawn if excerpt is not None]
        raise ValueError(
            f"the songs in {self.foreground} have no {self.settings.seconds} s in which each stem sounds"
        )

    def _excerpt(self, stem: str, songs: Sequence[str], generator: np.random.Generator) -> _Excerpt:
        song = songs[int(generator.integers(len(songs)))]
        pitch = generator.uniform(-self.settings.pitch, self.settings.pitch)
        stretch = generator.uniform(1 - self.settings.stretch, 1 + self.settings.stretch)
        seconds = soundfile.info(self.foreground / stem / song).frames / self.sample_rate
        start = generator.uniform(0, max(seconds - self.settings.seconds / stretch, 0))
        return _Excerpt(stem, song, float(start), float(pitch), float(stretch))

    def _sounds(self, excerpt: _Excerpt) -> bool:
        samples, _ = soundfile.read(
            self.foreground / excerpt.stem / excerpt.song,
            frames=round(self.settings.seconds / excerpt.stretch * self.sample_rate),
            start=round(excerpt.start * self.sample_rate),
            always_2d=True,
        )
        return bool(np.abs(samples.mean(axis=1)).max() >= AUDIBLE)


@dataclass(frozen=True)
class _Excerpt:
    """Where a stem is taken from, in seconds, and how it is changed."""

    stem: str
    song: str
    start: float
    pitch: float
    stretch: float


def link_stems(prepared: Prepared) -> Path:
    """Sort the training songs' files by stem, as scaper wants them, by links; return the folder."""
    foreground = prepared.folder / "foreground"
    for stem in STEMS:
        (foreground / stem).mkdir(parents=True, exist_ok=True)
        for track in prepared.train:
            link = foreground / stem / f"{track.name}.wav"
            if not link.is_symlink():
                beside = link.with_name(f".{os.getpid()}")
                beside.symlink_to(os.path.relpath(track.path / f"{stem}.wav", link.parent))
                os.replace(beside, link)
    return foreground


def write_mixtures(
    prepared: Prepared, out: str | os.PathLike[str], settings: MixSettings, *, jobs: int | None = None
) -> Path:
    """Mix training songs by scaper, in parallel, for nussl's Scaper dataset.

    A run that was stopped goes on where it was; an annotation is written when the audio that it names is.

    Args:
        out: new, or of an earlier run with the same settings. It can't be moved: annotations name files.
        jobs: processes, ≥ 1; None for one a core. They are spawned: a script calls this under
            ``if __name__ == "__main__":``.

    Raises:
        ValueError: if ``out`` holds something else.
    """
    out = Path(out).resolve()
    note, about = out / "mixtures.json", asdict(settings)
    if note.is_file():
        if json.loads(note.read_text()) != about:
            raise ValueError(f"{out} holds mixtures of other settings: choose another folder")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something else than mixtures: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(note) as beside:
        beside.write_text(json.dumps(about, indent=2) + "\n")
    mixer = Mixer(link_stems(prepared).resolve(), settings, prepared.settings.sample_rate)
    missing = [number for number in range(settings.mixtures) if not _annotation(out, number).is_file()]
    for _ in in_parallel(partial(_write, mixer, out), missing, jobs, title="Mix", unit="mixture"):
        pass
    return out


def _annotation(out: Path, number: int) -> Path:
    return out / f"{number:06d}.jams"


def _write(mixer: Mixer, out: Path, number: int) -> None:
    mixed = mixer.mix(mixer.settings.seed + number)
    events = out / f"{number:06d}_events"
    events.mkdir(exist_ok=True)
    paths = [out / f"{number:06d}.wav", *(events / f"{name}.wav" for name in mixed.stems)]
    signals = [mixed.mixture, *mixed.stems.values()]
    with audio.wav_writers(paths, mixer.sample_rate, 1, mixed.mixture.shape[1]) as writers:
        for write, signal in zip(writers, signals, strict=True):
            write(signal)
    sandbox = mixed.annotation.annotations[0].sandbox.scaper
    sandbox.soundscape_audio_path, *sandbox.isolated_events_audio_path = map(str, paths)
    with files.atomic_write(_annotation(out, number)) as beside:
        beside.write_text(mixed.annotation.dumps(indent=2))


def open_mixtures(folder: str | os.PathLike[str], settings: MixSettings, **arguments: Any) -> Any:
    """What `write_mixtures` wrote, as ``nussl.datasets.Scaper``.

    Args:
        settings: those that it was written with.
        arguments: of the dataset, such as ``transform``.

    Raises:
        ValueError: if the folder holds something else, or not all.
    """
    from svs_unet_plugin.nussl import nussl

    folder = Path(folder).resolve()
    note = folder / "mixtures.json"
    if not note.is_file() or json.loads(note.read_text()) != asdict(settings):
        raise ValueError(f"{folder} holds no mixtures of these settings: {settings}")
    if missing := [k for k in range(settings.mixtures) if not _annotation(folder, k).is_file()]:
        raise ValueError(
            f"{folder} is not finished: {len(missing)} of {settings.mixtures} mixtures are missing"
        )
    return nussl.datasets.Scaper(str(folder), **arguments)


def on_the_fly(prepared: Prepared, settings: MixSettings, number: int, **arguments: Any) -> Any:
    """A ``nussl.datasets.OnTheFly`` whose items scaper mixes when they are asked for, each time anew.

    Args:
        number: how many items it says that it has; torch's random state decides what they are.
        arguments: of the dataset, such as ``transform``.
    """
    import torch

    from svs_unet_plugin.nussl import nussl

    mixer = Mixer(link_stems(prepared).resolve(), settings, prepared.settings.sample_rate)

    def mix(dataset: Any, _: int) -> dict[str, Any]:
        mixed = mixer.mix(int(torch.randint(2**31, ())))
        return _item(dataset, mixed.mixture, mixed.stems, mixer.sample_rate)

    return nussl.datasets.OnTheFly(mix, number, **arguments)


def whole_songs(tracks: Sequence[Track], **arguments: Any) -> Any:
    """Prepared tracks as a nussl dataset, read without the way by ffmpeg and 16 bits that musdb takes.

    Args:
        arguments: of the dataset, such as ``transform``.
    """
    from svs_unet_plugin.nussl import nussl

    def read(dataset: Any, number: int) -> dict[str, Any]:
        streams, sample_rate = tracks[number].read()
        return _item(dataset, streams["mixture"], {name: streams[name] for name in STEMS}, sample_rate)

    return nussl.datasets.OnTheFly(read, len(tracks), **arguments)


def _item(
    dataset: Any, mixture: np.ndarray, stems: dict[str, np.ndarray], sample_rate: int
) -> dict[str, Any]:
    def signal(samples: np.ndarray) -> Any:
        return dataset._load_audio_from_array(samples, sample_rate=sample_rate)

    return {
        "mix": signal(mixture),
        "sources": {name: signal(stem) for name, stem in stems.items()},
        "metadata": {"labels": list(stems)},
    }


class MappedSong:
    """One channel of a prepared song, ``(stems, samples)`` like an array, of which nothing is in memory.

    What is cut from it, ``song[:, start:end]``, is read from the files then, and is an array.

    Args:
        rows: the samples of each stem, in files.
    """

    def __init__(self, rows: Sequence[np.ndarray]) -> None:
        self.rows = list(rows)
        self.shape = (len(self.rows), min(len(row) for row in self.rows))

    def __getitem__(self, key: slice | tuple[slice, slice]) -> MappedSong | np.ndarray:
        if isinstance(key, slice):
            return MappedSong(self.rows[key])
        return np.stack([row[: self.shape[1]][key[1]] for row in self.rows[key[0]]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.stack([row[: self.shape[1]] for row in self.rows]).astype(dtype or np.float32)


def mapped_songs(tracks: Sequence[Track], stems: Sequence[str]) -> list[MappedSong]:
    """Every channel of prepared tracks, to be read where and when it is used.

    Raises:
        ValueError: if a file is not 32-bit float, as `svs_unet_plugin.corpora.prepare` writes it.
    """
    songs = []
    for track in tracks:
        files = [_map(track.path / f"{stem}.wav") for stem in stems]
        songs += [MappedSong([file[:, channel] for file in files]) for channel in range(files[0].shape[1])]
    return songs


def _map(path: Path) -> np.ndarray:
    """The samples of a WAV file, ``(samples, channels)``, left where they are: at its end."""
    info = soundfile.info(path)
    if info.subtype != "FLOAT":
        raise ValueError(f"{path} should hold 32-bit float, it holds {info.subtype_info}")
    start = path.stat().st_size - 4 * info.frames * info.channels
    return np.memmap(path, "<f4", "r", start, (info.frames, info.channels))
