"""Mixtures of prepared songs by scaper.

J. Salamon, D. MacConnell, M. Cartwright, P. Li, J. P. Bello: "Scaper: a library for soundscape synthesis and
augmentation", WASPAA 2017. A mixture is coherent, its stems from one song and moment, all at one pitch and
tempo; or incoherent, each of any song, at a pitch and tempo of its own. The loudness of each stem is drawn.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile

from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.corpora.prepare import Prepared
from svs_unet_plugin.encoding import Encoding, writers
from svs_unet_plugin.files import claim, differences, fingerprint, read_settings, write_text
from svs_unet_plugin.module_view import module_view
from svs_unet_plugin.workers import in_parallel

LOUDNESS = -20.0
"""LUFS of a stem at 0 dB."""

AUDIBLE = 0.01
"""A stem whose excerpt stays below this (−40 dB of full scale) would be noise, brought up to `LOUDNESS`."""

FOREGROUND = "foreground"
"""The folder of links to the songs' stems, among the mixtures."""

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
        foreground: the folder that `link_stems` has filled.
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


def link_stems(prepared: Prepared, folder: Path) -> None:
    """Sort the training songs' files by stem into a folder, as scaper asks for them, by links."""
    for stem in STEMS:
        (folder / stem).mkdir(parents=True, exist_ok=True)
        for track in prepared.train:
            link, source = folder / stem / f"{track.name}.wav", (track.path / f"{stem}.wav").resolve()
            if not link.is_symlink() or link.readlink() != source:  # the songs may have moved
                link.unlink(missing_ok=True)
                link.symlink_to(source)


def write_mixtures(
    prepared: Prepared, out: str | os.PathLike[str], settings: MixSettings, *, jobs: int | None = None
) -> Path:
    """Mix training songs by scaper, in parallel, for nussl's Scaper dataset.

    A run that was stopped is resumed; an annotation is written when the audio that it names is.

    Args:
        out: new, or of an earlier run with the same songs and settings. It can't be moved: annotations name
            files.
        jobs: processes, ≥ 1; None for one a core. They are spawned: a script calls this under
            ``if __name__ == "__main__":``.

    Raises:
        ValueError: if ``out`` holds something else, or another run writes there.
    """
    out = Path(out).resolve()
    with claim(out, _record(settings, prepared), holds="mixtures by scaper"):
        link_stems(prepared, out / FOREGROUND)
        mixer = Mixer(out / FOREGROUND, settings, prepared.settings.sample_rate)
        missing = [index for index in range(settings.mixtures) if not _annotation(out, index).is_file()]
        for _ in in_parallel(partial(_write, mixer, out), missing, jobs, title="Mix", unit="mixture"):
            pass
    return out


def finished_mixtures(folder: str | os.PathLike[str], settings: MixSettings) -> Path:
    """The folder that `write_mixtures` wrote with these settings, in full.

    Raises:
        ValueError: if it holds something else, or not all.
    """
    folder = Path(folder).resolve()
    before = read_settings(folder) or {}
    if changed := differences(before.get("settings", {}), asdict(settings)):
        raise ValueError(f"{folder} holds no mixtures with these settings: {'; '.join(changed)}")
    if missing := [index for index in range(settings.mixtures) if not _annotation(folder, index).is_file()]:
        raise ValueError(
            f"{folder} is not finished: {len(missing)} of {settings.mixtures} mixtures are missing"
        )
    return folder


def _record(settings: MixSettings, prepared: Prepared) -> dict[str, Any]:
    """What decides the mixtures: how they are mixed, and the songs."""
    return {"settings": asdict(settings), "songs": fingerprint(track.path for track in prepared.train)}


def _annotation(out: Path, index: int) -> Path:
    return out / f"{index:06d}.jams"


def _write(mixer: Mixer, out: Path, index: int) -> None:
    mixed = mixer.mix(mixer.settings.seed + index)
    events = out / f"{index:06d}_events"
    events.mkdir(exist_ok=True)
    paths = [out / f"{index:06d}.wav", *(events / f"{name}.wav" for name in mixed.stems)]
    signals = [mixed.mixture, *mixed.stems.values()]
    with writers(paths, Encoding(), mixer.sample_rate, 1, mixed.mixture.shape[1]) as writes:
        for write, signal in zip(writes, signals, strict=True):
            write(signal)
    sandbox = mixed.annotation.annotations[0].sandbox.scaper
    sandbox.soundscape_audio_path, *sandbox.isolated_events_audio_path = map(str, paths)
    write_text(_annotation(out, index), mixed.annotation.dumps(indent=2))


def import_scaper() -> ModuleType:
    """Import scaper, repaired: NumPy 2.0 removed ``np.Inf``, which scaper 1.6.5 names in ``generate``.

    Raises:
        ImportError: if scaper is not installed.
    """
    try:
        scaper = importlib.import_module("scaper")
    except ModuleNotFoundError as error:
        if error.name != "scaper":
            raise
        raise ImportError("scaper is not installed: pip install 'svs_unet_plugin[recipes]'") from error
    if not hasattr(scaper.core.np, "Inf"):
        scaper.core.np = module_view(np, Inf=np.inf)
    return scaper
