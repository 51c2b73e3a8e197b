"""Notes to sound: a General MIDI soundfont, played by the program FluidSynth, and effects by ffmpeg."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import soxr

from svs_unet_plugin import ffmpeg
from svs_unet_plugin.files import digest, one_line

RENDER_RATE = 44100
"""In Hz: that of most samples in soundfonts. FluidSynth reads them without a filter against aliasing."""

BASSES = range(32, 40)
"""General MIDI's programs of basses."""

_PAN, _EXPRESSION, _REVERB, _CHORUS, _ALL_SOUND_OFF = 10, 11, 91, 93, 120  # MIDI controllers
_DRUM_CHANNEL = 9
_BEND = 2.0  # semitones that a whole turn of the pitch wheel takes, unless a synthesizer is told otherwise


class Tone(NamedTuple):
    """One note as it is played: from when to when in seconds, MIDI note number, velocity from 1 to 127."""

    start: float
    end: float
    pitch: int
    velocity: int


@dataclass
class Part:
    """What one player plays.

    Attributes:
        program: General MIDI's number from 0, or that of a drum kit.
        drums: whether it is a kit, whose note numbers are its drums.
        pan: 0, left, to 127, right.
        reverb, chorus: how much FluidSynth adds of them, 0 to 127.
        vibrato: 0 to 127.
        tones: in any order; those that begin when the song is over are left out.
        expression: times in seconds, and loudness from then on, 0 to 127.
        bends: times in seconds, and detuning from then on, -2 to 2 semitones.
    """

    program: int
    drums: bool = False
    pan: int = 64
    reverb: int = 0
    chorus: int = 0
    vibrato: int = 0
    tones: list[Tone] = field(default_factory=list)
    expression: list[tuple[float, int]] = field(default_factory=list)
    bends: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Soundfont:
    """A soundfont that FluidSynth can play, from `open_soundfont`.

    Attributes:
        path: of the file.
        sha256: its digest.
        programs: which of General MIDI's programs it has, numbered from 0.
        kits: its drum kits.
    """

    path: Path
    sha256: str
    programs: frozenset[int]
    kits: frozenset[int]

    def render(
        self, parts: Sequence[Part], seconds: float, reverb: Mapping[str, float] | None = None
    ) -> np.ndarray:
        """Play parts together, at most 15 and a kit -> ``(2, samples)`` float32 at `RENDER_RATE`, peak 1.

        Args:
            parts: whose programs and kits the soundfont has.
            seconds: how long; what still sounds then is cut.
            reverb: FluidSynth's settings: ``room-size``, ``damp``, ``level`` and ``width``, each from 0 to
                1. A wider one would be louder on the sides than in the middle.

        Raises:
            RuntimeError: if FluidSynth failed, or nothing sounds.
        """
        options = [f"-osynth.reverb.{name}={value:.3f}" for name, value in (reverb or {}).items()]
        with TemporaryDirectory() as folder:
            score, out = Path(folder) / "score.mid", Path(folder) / "out.f32"
            # Half a second more, since the last block may be cut short.
            _write_midi(score, parts, seconds, seconds + 0.5)
            form = ["-r", str(RENDER_RATE), "-g", "0.5", "-T", "raw", "-O", "float", "-E", "little"]
            done = _fluidsynth(self.path, score, seconds, "", [*form, *options, "-F", str(out)])
            played = np.fromfile(out, "<f4") if out.is_file() else np.zeros(0, np.float32)
        said = one_line(_text(done.stderr)) or ffmpeg.how_it_ended(done.returncode, "FluidSynth")
        samples = round(seconds * RENDER_RATE)
        if done.returncode or len(played) < 2 * samples:
            raise RuntimeError(f"FluidSynth could not play {self.path} to the end: {said}")
        sound = played[: 2 * samples].reshape(-1, 2).T
        peak = float(np.abs(sound).max())
        if not peak > 1e-4:  # the reverb is never quite silent
            programs = ", ".join(str(part.program) for part in parts)
            raise RuntimeError(f"{self.path}: nothing sounds of the programs {programs}: {said}")
        return sound / np.float32(peak)


def open_soundfont(path: Path) -> Soundfont:
    """Read what instruments a soundfont has, and check that all is there to play it.

    Raises:
        FileNotFoundError: there is no such file, or FluidSynth or ffmpeg is not installed.
        ImportError: mido is not installed.
        ValueError: it is no soundfont, or has no basses, no drums, or nothing for the chords.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such soundfont")
    if shutil.which("fluidsynth") is None:
        get = "apt install fluidsynth (Debian, Ubuntu), brew install fluid-synth (macOS)"
        raise FileNotFoundError(f"a soundfont needs the program FluidSynth, which was not found: {get}")
    if not ffmpeg.installed():
        raise FileNotFoundError(
            "the effects of a soundfont's band need ffmpeg, which was not found: install it"
        )
    with TemporaryDirectory() as folder:
        score = Path(folder) / "score.mid"
        _write_midi(score, [], 0.0, 0.0)
        # Font 1 is the one that is given.
        done = _fluidsynth(path, score, 0.0, "inst 1\n", ["-F", str(Path(folder) / "out")])
    presets = [line.split(" ")[0].split("-") for line in _text(done.stdout).splitlines()]
    banks: dict[int, set[int]] = {0: set(), 128: set()}
    for preset in presets:
        if len(preset) == 2 and all(number.isdecimal() for number in preset):
            banks.setdefault(int(preset[0]), set()).add(int(preset[1]))
    if not any(banks.values()):
        said = next(iter(_text(done.stderr).splitlines()), "") or "it holds no instruments"
        raise ValueError(f"{path} is no soundfont that FluidSynth can read: {one_line(said)}")
    lacks = {
        "drums (bank 128)": not banks[128],
        "basses (programs 32 to 39)": banks[0].isdisjoint(BASSES),
        "keys, guitars, strings or brass (programs 0 to 63)": banks[0].isdisjoint({*range(64)} - {*BASSES}),
    }
    if any(lacks.values()):
        missing = " and no ".join(name for name, lacking in lacks.items() if lacking)
        raise ValueError(f"{path} has no {missing}: a General MIDI soundfont is needed")
    return Soundfont(path, digest(path), frozenset(banks[0]), frozenset(banks[128]))


def with_effects(sound: np.ndarray, chain: str) -> np.ndarray:
    """Send a sound ``(2, samples)`` at `RENDER_RATE` through ffmpeg's filters -> as long, float32.

    Args:
        chain: of filters, as of ffmpeg's option ``-af``.

    Raises:
        RuntimeError: if ffmpeg failed.
    """
    if not chain:
        return sound
    with TemporaryDirectory() as folder:
        dry = Path(folder) / "dry.f32"
        dry.write_bytes(sound.T.astype("<f4").tobytes())
        form = ["-f", "f32le", "-ac", "2"]
        command = ["ffmpeg", "-nostdin", "-v", "error", *form, "-ar", str(RENDER_RATE), "-i", f"file:{dry}"]
        command += ["-af", chain, *form, "-ar", str(RENDER_RATE), "pipe:1"]
        done = ffmpeg.run(command, sound.shape[1] / RENDER_RATE)
    if done.returncode:
        said = one_line(_text(done.stderr)) or ffmpeg.how_it_ended(done.returncode)
        raise RuntimeError(f"ffmpeg could not do the effects {chain}: {said}")
    return _fit(np.frombuffer(done.stdout, "<f4").reshape(-1, 2).T, sound.shape[1])


def at_rate(sound: np.ndarray, samples: int, sample_rate: int) -> np.ndarray:
    """Bring a sound ``(2, any)`` from `RENDER_RATE` to a rate and a length -> ``(2, samples)`` float32."""
    if sample_rate != RENDER_RATE:
        sound = soxr.resample(sound.T, RENDER_RATE, sample_rate).T
    return _fit(sound, samples)


def _fit(sound: np.ndarray, samples: int) -> np.ndarray:
    """Cut, or add zeros, to a length."""
    sound = sound[:, :samples].astype(np.float32)
    return np.pad(sound, ((0, 0), (0, samples - sound.shape[1])))


def _text(said: bytes) -> str:
    return said.decode(errors="replace").strip()


def _fluidsynth(
    soundfont: Path, score: Path, seconds: float, commands: str, options: Sequence[str]
) -> subprocess.CompletedProcess[bytes]:
    """Run FluidSynth without what a user or a system has configured."""
    configuration = score.with_name("commands.txt")
    configuration.write_text(commands)
    command = ["fluidsynth", "-ni", "-q", "-f", str(configuration)]
    # It would play another soundfont in the place of one that it can't read.
    command += ["-osynth.default-soundfont=", "-osynth.dynamic-sample-loading=1", *options]
    return ffmpeg.run([*command, str(soundfont), str(score)], seconds)


def _write_midi(path: Path, parts: Sequence[Part], seconds: float, end: float) -> None:
    """Write a MIDI file with a tick a millisecond, which lasts until ``end``."""
    try:
        from mido import Message, MetaMessage, MidiFile, MidiTrack
    except ModuleNotFoundError as error:
        raise ImportError("a soundfont needs mido: pip install 'svs_unet_plugin[recipes]'") from error

    # Time, order at that time, message: what a part is set to comes first, and notes end before others begin.
    events: list[tuple[int, int, Message]] = []
    channels = iter(channel for channel in range(16) if channel != _DRUM_CHANNEL)
    for part in parts:
        channel = _DRUM_CHANNEL if part.drums else next(channels)

        def add(time: float, order: int, kind: str, channel: int = channel, **values: int) -> None:
            if time <= end:
                events.append((round(1000 * time), order, Message(kind, channel=channel, **values)))

        add(0.0, 0, "program_change", program=part.program)
        for control, value in (
            (_PAN, part.pan),
            (_REVERB, part.reverb),
            (_CHORUS, part.chorus),
            (1, part.vibrato),
        ):
            add(0.0, 1, "control_change", control=control, value=value)
        for time, loudness in part.expression:
            add(time, 1, "control_change", control=_EXPRESSION, value=loudness)
        for time, semitones in part.bends:
            add(time, 1, "pitchwheel", pitch=min(round(8192 * semitones / _BEND), 8191))
        begun = [tone for tone in part.tones if tone.start < seconds]
        tones = sorted(begun, key=lambda tone: (tone.pitch, tone.start))
        for tone, following in zip_longest(tones, tones[1:]):
            again = following.start if following and following.pitch == tone.pitch else end
            add(tone.start, 3, "note_on", note=tone.pitch, velocity=tone.velocity)
            # A key that is struck again must be up, and not be let go of by what was before.
            add(min(tone.end, again), 2, "note_off", note=tone.pitch)
        # FluidSynth goes on for as long as anything sounds.
        add(end, 4, "control_change", control=_ALL_SOUND_OFF, value=0)
    track, now = MidiTrack([MetaMessage("set_tempo", tempo=1_000_000)]), 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=time - now))
        now = time
    track.append(MetaMessage("end_of_track", time=round(1000 * end) - now))
    MidiFile(type=0, ticks_per_beat=1000, tracks=[track]).save(path)
