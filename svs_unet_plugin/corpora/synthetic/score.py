"""What is played and sung in a song: its key, tempo, chords, patterns and melodies."""

from dataclasses import dataclass

import numpy as np

from .voice import Note

MAJOR = (0, 2, 4, 5, 7, 9, 11)
MINOR = (0, 2, 3, 5, 7, 8, 10)
PROGRESSIONS = {
    MAJOR: ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 4, 3), (1, 4, 0, 5)),
    MINOR: ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (0, 5, 3, 4)),
}
KICKS = ((0, 4, 8, 12), (0, 8, 10), (0, 6, 8), (0, 3, 8, 11), (0, 7, 10))
SNARES = ((4, 12), (4, 12), (8,), (4, 10, 12))
BASS_LINES = (tuple(range(0, 16, 2)), (0, 8), (0, 6, 8, 14), (0, 3, 6, 8, 11, 14))
PLUCK_PATTERNS = ((0, 2, 4, 6, 8, 10, 12, 14), (0, 3, 6, 8, 11, 14), (0, 4, 8, 12), (2, 6, 10, 14))


@dataclass(frozen=True)
class Plan:
    """What all instruments of a song agree on.

    Attributes:
        beat: length of a beat in seconds; a bar has four.
        tonic: MIDI note number of the key's tonic, 48 to 59.
        scale: the seven semitones of the scale above the tonic.
        chords: degree of each bar's triad in the scale, 0 to 6.
        swing: how much later the second of two sixteenths comes, in sixteenths.
    """

    beat: float
    tonic: int
    scale: tuple[int, ...]
    chords: tuple[int, ...]
    swing: float

    def degree(self, number: int) -> int:
        """Return the MIDI note number of a degree of the scale, which may be below 0 or above 6."""
        return self.tonic + 12 * (number // 7) + self.scale[number % 7]

    def chord(self, bar: int, lowest: int) -> list[int]:
        """Return a bar's triad and its octave as MIDI note numbers in the octave from ``lowest`` on."""
        pitches = sorted((self.degree(self.chords[bar] + k) - lowest) % 12 + lowest for k in (0, 2, 4))
        return [*pitches, pitches[0] + 12]

    def step(self, bar: int, sixteenth: int) -> float:
        """Return the time of a sixteenth of a bar, in seconds."""
        return self.beat * (4 * bar + (sixteenth + self.swing * (sixteenth % 2)) / 4)


def draw_plan(rng: np.random.Generator, seconds: float) -> Plan:
    """Draw a key, a tempo and chords for a song of this length."""
    beat = 60.0 / rng.uniform(76.0, 138.0)
    scale = (MAJOR, MINOR)[rng.integers(2)]
    progression = PROGRESSIONS[scale][rng.integers(len(PROGRESSIONS[scale]))]
    bars = int(seconds / (4 * beat)) + 1
    return Plan(
        beat=beat,
        tonic=int(rng.integers(48, 60)),
        scale=scale,
        chords=tuple(progression[bar % len(progression)] for bar in range(bars)),
        swing=float(rng.choice((0.0, 0.0, 0.25))),
    )


def draw_melody(plan: Plan, rng: np.random.Generator, high: bool, seconds: float) -> list[Note]:
    """Make up phrases of two bars: a walk on the scale that meets the chords, with a rest after each."""
    lowest, highest = (57, 75) if high else (46, 64)  # A3 to D#5 (220 to 622 Hz), A#2 to E4 (117 to 330 Hz)
    degrees = [d for d in range(-14, 21) if lowest <= plan.degree(d) <= highest]
    place = len(degrees) // 2
    notes: list[Note] = []
    for phrase in range(0, len(plan.chords), 2):
        # The first phrase always comes, and soon, so that no song is without a voice.
        if phrase and rng.random() < 0.08:
            continue
        beat = rng.choice((0.0, 0.5)) if not phrase else rng.choice((0.0, 0.5, 1.0))
        last = rng.uniform(4.5, 6.75)
        while beat < last:
            length = rng.choice((0.5, 0.5, 1.0, 1.0, 1.5, 2.0))
            end = min(beat + length, last)
            place += int(rng.choice((-4, -2, -1, -1, 0, 1, 1, 2, 4)))
            place = min(max(place, 0), len(degrees) - 1)
            if beat % 2 == 0:  # strong beats want a note of the chord
                root = plan.chords[min(phrase + int(beat // 4), len(plan.chords) - 1)]
                tones = [k for k, d in enumerate(degrees) if (d - root) % 7 in (0, 2, 4)]
                place = min(tones, key=lambda k: abs(k - place))
            gap = 0.04 if rng.random() < 0.3 else 0.0
            start = plan.beat * (4 * phrase + beat)
            if start < seconds:
                consonant = beat == 0.0 or bool(rng.random() < 0.8)
                finish = plan.beat * (4 * phrase + end) - gap
                notes.append(Note(start, finish, plan.degree(degrees[place]), consonant))
            beat = end
    return notes
