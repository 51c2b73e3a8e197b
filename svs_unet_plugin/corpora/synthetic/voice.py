"""A singing voice by source and filter (Fant 1960): a train of glottal pulses, coloured by moving formants.

What makes it recognisable as a voice to a network that sees magnitudes only: pitch that glides and trembles,
formants that move with the vowels, consonants of noise, breaths, and rests between the phrases.
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, rfft

from .oscillator import CONTROL_RATE, TABLE_SIZE, hertz, oscillate, smooth, to_audio, wander, wavetable

VOWELS = np.array(
    [
        # In Hz: the first three formants of men's vowels (Peterson and Barney 1952), two that hardly move.
        (730, 1090, 2440, 3400, 4500),  # a
        (530, 1840, 2480, 3500, 4600),  # e
        (270, 2290, 3010, 3600, 4700),  # i
        (570, 840, 2410, 3300, 4400),  # o
        (300, 870, 2240, 3200, 4400),  # u
        (490, 1350, 1690, 3300, 4400),  # er
    ],
    float,
)
NASAL = np.array((250, 1100, 2200, 3200, 4400), float)
BANDWIDTHS = np.array((80, 100, 130, 200, 260), float)

CONSONANTS = np.array(
    [
        # seconds; the noise: loudness (0 to 1), centre in Hz, width in octaves; loudness of the voice
        (0.00, 0.00, 1000, 1.0, 1.00),  # none: the vowel goes on
        (0.06, 0.00, 1000, 1.0, 0.30),  # m, n, l
        (0.11, 0.25, 7000, 0.6, 0.00),  # s
        (0.11, 0.25, 3600, 0.6, 0.00),  # sh
        (0.08, 0.10, 5000, 1.8, 0.00),  # f
        (0.04, 0.25, 4200, 1.0, 0.00),  # t
        (0.04, 0.25, 2000, 0.7, 0.00),  # k
        (0.06, 0.10, 1500, 1.6, 0.00),  # h
        (0.05, 0.10, 5500, 1.0, 0.35),  # v, z
    ],
    float,
)
NASAL_CONSONANT = 1

FRAME = 1024
"""Samples a frame of the formant filter: 23 ms at 44 100 Hz, shorter than a syllable's glide."""


@dataclass(frozen=True)
class Note:
    """One sung syllable.

    Attributes:
        start: in seconds.
        end: in seconds.
        pitch: MIDI note number.
        consonant: whether a consonant may open the syllable; otherwise the last vowel goes on.
    """

    start: float
    end: float
    pitch: float
    consonant: bool


@dataclass(frozen=True)
class Singer:
    """What stays the same in a voice through a song.

    Attributes:
        tract: formants relative to a man's, 0.95 to 1.2.
        tilt: fall of the glottal source above 500 Hz, beyond an abrupt closure's, in dB an octave.
        open_quotient: share of the period in which the glottis is open, 0.4 to 0.8.
        breathiness: level of the breath in the vowels relative to the pulses.
        ring: gain of the third to the fifth formant (the singer's formant), 0.5 to 2.
        vibrato_rate: in Hz.
        vibrato_depth: in semitones, to each side.
        glide: time that it takes to go from note to note, in seconds.
    """

    tract: float
    tilt: float
    open_quotient: float
    breathiness: float
    ring: float
    vibrato_rate: float
    vibrato_depth: float
    glide: float


def draw_singer(rng: np.random.Generator, high: bool) -> Singer:
    """Draw a voice; a ``high`` one has the shorter vocal tract of a woman."""
    return Singer(
        tract=rng.uniform(1.1, 1.2) if high else rng.uniform(0.95, 1.05),
        tilt=rng.uniform(0.0, 4.0),
        open_quotient=rng.uniform(0.5, 0.75),
        breathiness=rng.uniform(0.02, 0.08),
        ring=rng.uniform(0.7, 1.8),
        vibrato_rate=rng.uniform(4.8, 6.5),
        vibrato_depth=rng.uniform(0.15, 0.5),
        glide=rng.uniform(0.015, 0.04),
    )


def sing(
    notes: list[Note], singer: Singer, samples: int, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Sing the notes, which are in order and do not overlap -> ``(samples,)`` float32."""
    points = int(samples * CONTROL_RATE / sample_rate) + 2
    time = np.arange(points) / CONTROL_RATE
    starts, ends = (np.array([getattr(note, side) for note in notes]) for side in ("start", "end"))
    # A rest belongs to the note after it, so that a phrase starts on its own pitch and vowel.
    index = np.minimum(np.searchsorted(ends, time, side="right"), len(notes) - 1)
    since = time - starts[index]

    pitch = _pitch(notes, singer, index, since, rng)
    consonant, vowel = _syllables(notes, rng)
    onset = CONSONANTS[consonant[index], 0]
    sung = (since >= 0.0) & (time < ends[index])
    opening = sung & (since < onset)

    loudness = rng.uniform(0.7, 1.0, len(notes))[index]
    loudness = loudness * (1.0 + 0.08 * wander(rng, points, 0.02)) * (1.0 + 0.15 * wander(rng, points, 0.2))
    voiced = smooth(np.where(opening, CONSONANTS[consonant[index], 4], sung * loudness), 0.012)
    noise = smooth(np.where(opening, CONSONANTS[consonant[index], 1], 0.0), 0.005)
    # A breath fills the last moments of a rest, before a phrase.
    breath = smooth(np.where((since < -0.06) & (since > -0.35), 0.05, 0.0), 0.04)

    formants = singer.tract * _formants(vowel, consonant, index, since, ends - starts, opening)
    # Singers raise the first formant with the fundamental, or high notes would have no strong partial.
    frequency = hertz(pitch)
    formants[:, 0] = np.maximum(formants[:, 0], frequency)

    table = _glottal_table(singer, int(0.45 * sample_rate / frequency.max()), float(np.median(frequency)))
    pulses = oscillate(table, to_audio(frequency, samples, sample_rate), sample_rate)
    source = pulses * to_audio(voiced, samples, sample_rate)
    white = rng.standard_normal(samples).astype(np.float32)
    source += white * to_audio(singer.breathiness * voiced + breath, samples, sample_rate)
    hiss = white * to_audio(noise, samples, sample_rate)

    frames = np.arange(0, samples + FRAME, FRAME // 2)  # the sample at each frame's centre
    at = np.minimum((frames * CONTROL_RATE / sample_rate).round().astype(int), points - 1)
    bins = np.arange(FRAME + 1, dtype=np.float32) * np.float32(sample_rate / (2 * FRAME))
    bands = _consonant_bands(bins)[consonant[index[at]]]
    return _filter_frames(source, _tract_response(formants[at], singer, bins)) + _filter_frames(hiss, bands)


def _pitch(
    notes: list[Note], singer: Singer, index: np.ndarray, since: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the melody's line in MIDI note numbers, with glides, scoops, vibrato, drift and jitter."""
    points = len(index)
    steps = np.array([note.pitch for note in notes])[index]
    scoop = (rng.uniform(0.3, 1.5, len(notes)) * (rng.random(len(notes)) < 0.4))[index]
    line = smooth(steps, singer.glide) - scoop * np.exp(-np.maximum(since, 0.0) / 0.06)
    rate = singer.vibrato_rate * (1.0 + 0.05 * wander(rng, points, 0.3))
    # Vibrato sets in a quarter of a second into a note and takes as long again to be whole.
    depth = smooth(singer.vibrato_depth * np.clip(since / 0.25 - 1.0, 0.0, 1.0), 0.03)
    line += depth * np.sin(2.0 * np.pi * np.cumsum(rate) / CONTROL_RATE)
    return line + 0.10 * wander(rng, points, 0.15) + 0.04 * wander(rng, points, 0.01)


def _syllables(notes: list[Note], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a consonant ``(notes,)`` and the vowels at the start and the end ``(notes, 2)`` for each note."""
    consonant = rng.integers(1, len(CONSONANTS), len(notes))
    vowel = rng.integers(0, len(VOWELS), (len(notes), 2))
    # Two vowels in three stay as they are.
    vowel[:, 1] = np.where(rng.random(len(notes)) < 0.67, vowel[:, 0], vowel[:, 1])
    for k, note in enumerate(notes):
        if not note.consonant:
            consonant[k] = 0
            vowel[k] = vowel[k - 1, 1] if k else vowel[k, 0]
    return consonant, vowel


def _formants(
    vowel: np.ndarray,
    consonant: np.ndarray,
    index: np.ndarray,
    since: np.ndarray,
    length: np.ndarray,
    opening: np.ndarray,
) -> np.ndarray:
    """Return a man's formant frequencies in Hz, ``(points, 5)``, as they move from vowel to vowel."""
    late = since > 0.5 * length[index]
    target = VOWELS[np.where(late, vowel[index, 1], vowel[index, 0])]
    target = np.where((opening & (consonant[index] == NASAL_CONSONANT))[:, None], NASAL, target)
    return smooth(target, 0.03)


def _glottal_table(singer: Singer, harmonics: int, fundamental: float) -> np.ndarray:
    """Return one period of the glottal flow's derivative (Rosenberg 1971, pulse B), band-limited."""
    time = np.arange(TABLE_SIZE) / TABLE_SIZE
    peak = 0.65 * singer.open_quotient
    fall = singer.open_quotient - peak
    flow = np.where(time < peak, 0.5 * (1.0 - np.cos(np.pi * time / peak)), 0.0)
    closing = (time >= peak) & (time < singer.open_quotient)
    flow = np.where(closing, np.cos(0.5 * np.pi * (time - peak) / fall), flow)
    partials = rfft(np.diff(flow, append=flow[:1]))[1 : harmonics + 1]
    octaves = np.log2(np.maximum(np.arange(1, harmonics + 1) * fundamental / 500.0, 1.0))
    return wavetable(partials * 10.0 ** (-singer.tilt * octaves / 20.0))


def _tract_response(formants: np.ndarray, singer: Singer, bins: np.ndarray) -> np.ndarray:
    """Return a vocal tract's response ``(frames, bins)`` float32: the formants' magnitudes in parallel.

    Without their phases no two formants cancel between their peaks; the pulses bring a phase of their own.
    """
    gains = np.array((1.0, 0.5, 0.3 * singer.ring, 0.2 * singer.ring, 0.12 * singer.ring), np.float32)
    response = np.zeros((len(formants), len(bins)), np.float32)
    for k, bandwidth in enumerate(BANDWIDTHS):
        damping = (bins * np.float32(bandwidth)) ** 2
        detuning = formants[:, k, None].astype(np.float32) ** 2 - bins**2
        response += gains[k] * np.sqrt(damping / (detuning**2 + damping))
    return response


def _consonant_bands(bins: np.ndarray) -> np.ndarray:
    """Return the spectrum of each consonant's noise, a bell over log frequency, ``(consonants, bins)``."""
    centre, width = CONSONANTS[:, 2, None], CONSONANTS[:, 3, None]
    octaves = np.log2(np.maximum(bins, bins[1]) / centre)
    return np.exp(-0.5 * (octaves / width) ** 2).astype(np.float32)


def _filter_frames(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Filter each frame by its own response ``(frames, FRAME + 1)`` and overlap-add -> ``(samples,)``."""
    hop, count = FRAME // 2, len(response)
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)  # at half overlap these add up to 1
    padded = np.zeros((count + 1) * hop, np.float32)
    padded[hop : hop + len(signal)] = signal[: count * hop]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::hop] * window
    # Twice the frame's length gives the resonances room to ring, half before the frame and half after it.
    ringing = irfft(rfft(frames, 2 * FRAME) * response).astype(np.float32)
    parts = np.roll(ringing, hop, axis=1).reshape(count, 4, hop)
    out = np.zeros((count + 3, hop), np.float32)
    for k in range(4):
        out[k : k + count] += parts[:, k]
    return out.ravel()[2 * hop : 2 * hop + len(signal)]
