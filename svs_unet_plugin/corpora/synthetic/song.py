"""One synthetic pop song: a plan, a voice, drums, bass and chords in one key and tempo, mixed in one room."""

import numpy as np
from scipy.signal import lfilter, oaconvolve

from svs_unet_plugin.audio import rms

from .band import play
from .oscillator import CONTROL_RATE, hertz, oscillate, smooth, to_audio, wavetable
from .score import BASS_LINES, KICKS, PLUCK_PATTERNS, SNARES, Plan, draw_melody, draw_plan
from .soundfont import Soundfont
from .voice import draw_singer, sing

SYNTHESIS_VERSION = 1
"""Raised whenever a seed no longer gives the same song."""

VOICE_DB = -3.5
"""Level of the voice against the band, the mean over songs: the SDR of the mixture as an estimate of it."""


def validate(seed: int, seconds: float, sample_rate: int) -> None:
    """Raise a ``ValueError`` that says which argument of `make_song` is out of range."""
    if seed < 0:
        raise ValueError(f"The seed must be 0 or more, not {seed}.")
    if not 1.0 <= seconds < float("inf"):
        raise ValueError(f"A song must last 1 second or more, not {seconds}.")
    if sample_rate < 8000:
        raise ValueError(f"The sample rate must be 8000 Hz or more, not {sample_rate}.")


def make_song(
    seed: int, seconds: float, sample_rate: int = 44100, soundfont: Soundfont | None = None
) -> dict[str, np.ndarray]:
    """Make up one song; its mixture is the sum of the four stems.

    The key, tempo, chords, patterns, timbres, singer, panning, room and levels are drawn from the seed. The
    voice is on average 3.5 dB below the band (over the whole song), which is where pop puts it.

    Args:
        seed: 0 or more; the same seed gives the same samples.
        seconds: length, 1 or more.
        sample_rate: in Hz, 8000 or more.
        soundfont: plays the band by FluidSynth; the voice sings the same with it and without it.

    Returns:
        ``vocals``, ``drums``, ``bass`` and ``other``, each ``(2, samples)`` float32; neither a stem nor the
        mixture exceeds 0.95.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: FluidSynth or ffmpeg failed, which only a soundfont needs.

    >>> song = make_song(seed=1, seconds=2.0)
    >>> song["vocals"].shape
    (2, 88200)
    """
    validate(seed, seconds, sample_rate)
    rng = np.random.default_rng(seed)
    samples = round(seconds * sample_rate)
    plan = draw_plan(rng, seconds)
    room = _Room(rng, sample_rate)

    high = bool(rng.random() < 0.5)
    voice = sing(draw_melody(plan, rng, high, seconds), draw_singer(rng, high), samples, sample_rate, rng)
    vocals = room.place(voice, rng.uniform(-0.1, 0.1), rng.uniform(-16.0, -9.0))
    if soundfont is None:
        band = {
            "drums": _drums(plan, rng, room, samples, sample_rate),
            "bass": room.place(_bass(plan, rng, samples, sample_rate), rng.uniform(-0.05, 0.05), -30.0),
            "other": _chords(plan, rng, room, samples, sample_rate),
        }
    else:
        wet = {"drums": rng.uniform(-24.0, -12.0), "bass": -30.0, "other": rng.uniform(-22.0, -12.0)}
        parts = play(plan, rng, soundfont, samples, sample_rate)
        band = {name: room.surround(part, wet[name]) for name, part in parts.items()}
    for name, mean, deviation in (("drums", 0.0, 1.5), ("bass", 0.0, 1.5), ("other", -3.0, 2.0)):
        band[name] *= 10.0 ** (rng.normal(mean, deviation) / 20.0) / rms(band[name])
    backing = band["drums"] + band["bass"] + band["other"]
    level = VOICE_DB + np.clip(rng.normal(0.0, 1.5), -3.0, 3.0)
    vocals *= 10.0 ** (level / 20.0) * rms(backing) / rms(vocals)

    peak = max(np.abs(part).max() for part in (vocals + backing, vocals, *band.values()))
    gain = np.float32(rng.uniform(0.7, 0.94) / peak)
    return {name: (gain * part).astype(np.float32) for name, part in {"vocals": vocals, **band}.items()}


class _Room:
    """A short reverberation: noise that decays, another for each ear."""

    def __init__(self, rng: np.random.Generator, sample_rate: int) -> None:
        decay = rng.uniform(0.3, 0.9)  # time to fall by 60 dB, in seconds
        time = np.arange(int(0.7 * decay * sample_rate)) / sample_rate
        noise = rng.standard_normal((2, len(time))) * 10.0 ** (-3.0 * time / decay)
        noise[:, : int(0.008 * sample_rate)] = 0.0  # the walls are further away than the instrument
        response = _low_pass(noise, 5000.0, sample_rate)
        self.response = (response / np.sqrt(np.sum(response[0] ** 2))).astype(np.float32)

    def place(self, signal: np.ndarray, pan: float, wet: float) -> np.ndarray:
        """Put a signal ``(samples,)`` at ``pan`` (-1 left to 1 right) with its echo at ``wet`` dB.

        Returns:
            ``(2, samples)`` float32.
        """
        angle = 0.25 * np.pi * (1.0 + pan)
        sides = np.array(((np.cos(angle),), (np.sin(angle),)), np.float32)  # constant power
        return sides * signal + self._echo(signal[None], wet)

    def surround(self, sides: np.ndarray, wet: float) -> np.ndarray:
        """Add its echo at ``wet`` dB to what is in stereo, ``(2, samples)`` float32."""
        return sides + self._echo(sides, wet)

    def _echo(self, signal: np.ndarray, wet: float) -> np.ndarray:
        echo = oaconvolve(signal, self.response, axes=1)[:, : signal.shape[1]]
        return np.float32(10.0 ** (wet / 20.0)) * echo


def _low_pass(signal: np.ndarray, cutoff: float, sample_rate: int) -> np.ndarray:
    """Take 6 dB an octave off above ``cutoff`` Hz, along the last axis."""
    keep = np.exp(-2.0 * np.pi * cutoff / sample_rate)
    return lfilter([1.0 - keep], [1.0, -keep], signal)


def _hits(
    shot: np.ndarray, times: list[float], rng: np.random.Generator, samples: int, sample_rate: int
) -> np.ndarray:
    """Place one sound at times in seconds, each a little louder or softer and off by milliseconds."""
    out = np.zeros(samples, np.float32)
    for time in times:
        first = max(0, int((time + rng.normal(0.0, 0.003)) * sample_rate))
        part = shot[: max(0, samples - first)]
        out[first : first + len(part)] += np.float32(rng.uniform(0.75, 1.0)) * part
    return out


def _drums(plan: Plan, rng: np.random.Generator, room: _Room, samples: int, sample_rate: int) -> np.ndarray:
    """Kick, snare, hats and toms: a pattern of sixteenths, with a fill in every fourth bar."""
    time = np.arange(int(0.4 * sample_rate)) / sample_rate
    noise = rng.standard_normal(len(time))
    high = noise - _low_pass(noise, 7000.0, sample_rate)

    def drum(start: float, end: float, sweep: float, decay: float) -> np.ndarray:
        """Return a skin whose pitch falls from ``start`` to ``end`` Hz."""
        cycles = end * time + (start - end) * sweep * (1.0 - np.exp(-time / sweep))
        return np.sin(2.0 * np.pi * cycles) * np.exp(-time / decay)

    kick = drum(rng.uniform(150, 260), rng.uniform(42, 60), 0.02, rng.uniform(0.08, 0.18))
    snare = 0.5 * drum(260, rng.uniform(160, 220), 0.02, 0.06)
    snare += 0.5 * (noise - _low_pass(noise, 900.0, sample_rate)) * np.exp(-time / rng.uniform(0.04, 0.09))
    toms = [drum(pitch * 1.4, pitch, 0.05, 0.15) for pitch in rng.uniform(80, 180, 2)]
    closed, opened = high * np.exp(-time / rng.uniform(0.015, 0.035)), high * np.exp(-time / 0.15)

    kicks, snares = KICKS[rng.integers(len(KICKS))], SNARES[rng.integers(len(SNARES))]
    hats = range(0, 16, int(rng.choice((1, 2, 2, 4))))
    times: dict[str, list[float]] = {name: [] for name in ("kick", "snare", "tom0", "tom1", "closed", "open")}
    for bar in range(len(plan.chords)):
        fill = bar % 4 == 3
        times["kick"] += [plan.step(bar, k) for k in kicks if not (fill and k >= 12)]
        times["snare"] += [plan.step(bar, k) for k in snares if not (fill and k >= 12)]
        if fill:
            for k in range(12, 16):
                times[str(rng.choice(("snare", "tom0", "tom1")))].append(plan.step(bar, k))
        for k in hats:
            times["open" if rng.random() < 0.06 else "closed"].append(plan.step(bar, k))

    hat_gain, hat_pan = rng.uniform(0.15, 0.4), rng.uniform(-0.5, 0.5)

    def play(shot: np.ndarray, name: str) -> np.ndarray:
        return _hits(shot, times[name], rng, samples, sample_rate)

    skins = 1.2 * play(kick, "kick") + play(snare, "snare")
    skins += 0.8 * (play(toms[0], "tom0") + play(toms[1], "tom1"))
    metal = hat_gain * (play(closed, "closed") + play(opened, "open"))
    # Drums in pop are compressed: a soft limit keeps their peaks from deciding the level of the song.
    wet = rng.uniform(-22.0, -12.0)
    return room.place(np.tanh(1.5 * skins), 0.0, wet) + room.place(metal, hat_pan, wet)


def _note_curve(pitches: list[int], times: list[float], points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pitch (MIDI) and time since the last onset (seconds), each ``(points,)``, of a single line."""
    time = np.arange(points) / CONTROL_RATE
    index = np.maximum(np.searchsorted(times, time, side="right") - 1, 0)
    return np.array(pitches)[index], time - np.array(times)[index]


def _bass(plan: Plan, rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """One line of roots, fifths and octaves below the chords -> ``(samples,)``."""
    steps = BASS_LINES[rng.integers(len(BASS_LINES))]
    pitches, times = [], []
    for bar in range(len(plan.chords)):
        root = (plan.degree(plan.chords[bar]) - 28) % 12 + 28  # E1 to D#2, 41 to 78 Hz
        for step in steps:
            pitches.append(root + int(rng.choice((0, 0, 0, 0, 7, 12)) if step else 0))
            times.append(plan.step(bar, step))
    points = int(samples * CONTROL_RATE / sample_rate) + 2
    pitch, since = _note_curve(pitches, times, points)
    partials = np.arange(1, 25)
    table = wavetable(np.exp(-partials / rng.uniform(3.0, 8.0)) / partials ** rng.uniform(0.8, 1.6))
    frequency = to_audio(hertz(smooth(pitch.astype(float), 0.006)), samples, sample_rate)
    envelope = smooth(np.exp(-since / rng.uniform(0.25, 1.5)) * np.clip(since / 0.01, 0.0, 1.0), 0.006)
    return oscillate(table, frequency, sample_rate) * to_audio(envelope, samples, sample_rate)


def _chords(plan: Plan, rng: np.random.Generator, room: _Room, samples: int, sample_rate: int) -> np.ndarray:
    """A sustained layer and a plucked one, both where the voice sings -> ``(2, samples)``."""
    pad = _pad(plan, rng, room, samples, sample_rate)
    pluck = _pluck(plan, rng, room, samples, sample_rate)
    balance = rng.uniform(-8.0, 8.0)  # dB: either may lead
    return pad / rms(pad) + np.float32(10.0 ** (balance / 20.0)) * pluck / rms(pluck)


def _pad(plan: Plan, rng: np.random.Generator, room: _Room, samples: int, sample_rate: int) -> np.ndarray:
    """Strings or an organ: each note of the chord held for its bar, left and right a little out of tune."""
    points = int(samples * CONTROL_RATE / sample_rate) + 2
    lowest = int(rng.integers(50, 58))
    chords = [plan.chord(bar, lowest) for bar in range(len(plan.chords))]
    times = [plan.step(bar, 0) for bar in range(len(chords))]
    # No partial of the highest note that a chord can have may fold back at half the sample rate.
    top = hertz(np.array(lowest + 23))
    partials = np.arange(1, min(30, int(0.45 * sample_rate / top)) + 1)
    phases = np.exp(2j * np.pi * rng.random(len(partials)))
    organ = rng.random() < 0.4
    drawbars = np.isin(partials, (1, 2, 3, 4, 6, 8)) * rng.random(len(partials))
    levels = drawbars if organ else partials ** -rng.uniform(1.3, 2.2)
    table = wavetable(levels * phases)
    detune = 0.0 if organ else rng.uniform(0.04, 0.12)  # semitones
    attack = rng.uniform(0.02, 0.25)
    sides = np.zeros((2, samples), np.float32)
    for k in range(4):
        pitch, since = _note_curve([chord[k] for chord in chords], times, points)
        envelope = to_audio(smooth(np.clip(since / attack, 0.2, 1.0), 0.01), samples, sample_rate)
        for side in range(2):
            drift = detune * (side - 0.5) + rng.normal(0.0, 0.01)
            frequency = to_audio(hertz(pitch + drift), samples, sample_rate)
            sides[side] += oscillate(table, frequency, sample_rate) * envelope
    wet, width = rng.uniform(-16.0, -8.0), rng.uniform(0.3, 0.9)
    return room.place(sides[0], -width, wet) + room.place(sides[1], width, wet)


def _pluck(plan: Plan, rng: np.random.Generator, room: _Room, samples: int, sample_rate: int) -> np.ndarray:
    """A guitar or piano: arpeggios or strums of decaying partials, the higher the shorter."""
    pattern = PLUCK_PATTERNS[rng.integers(len(PLUCK_PATTERNS))]
    strum = rng.random() < 0.4
    lowest = int(rng.integers(52, 65))
    onsets: dict[int, list[float]] = {}
    for bar in range(len(plan.chords)):
        chord = plan.chord(bar, lowest)
        for k, step in enumerate(pattern):
            for pitch in chord if strum else [chord[(k * 3) % 4]]:
                onsets.setdefault(pitch, []).append(plan.step(bar, step))
    time = np.arange(int(1.2 * sample_rate), dtype=np.float32) / sample_rate
    place, decay, damping = rng.uniform(0.1, 0.4), rng.uniform(2.0, 6.0), rng.uniform(0.04, 0.25)
    out = np.zeros(samples, np.float32)
    for pitch, times in onsets.items():
        string = np.zeros(len(time), np.float32)
        for k in range(1, 17):
            frequency = k * hertz(np.array(pitch))
            if frequency < 0.45 * sample_rate:
                # A string plucked at a share of its length lacks the partials that have a node there.
                level = np.sin(np.pi * k * place) / k
                fading = np.exp(-np.float32(decay + damping * k * k) * time)
                string += np.float32(level) * np.sin(np.float32(2.0 * np.pi * frequency) * time) * fading
        string *= np.clip(time / 0.002, 0.0, 1.0) * np.clip((time[-1] - time) / 0.05, 0.0, 1.0)
        out += _hits(string, times, rng, samples, sample_rate)
    return room.place(out, rng.uniform(-0.7, 0.7), rng.uniform(-18.0, -8.0))
