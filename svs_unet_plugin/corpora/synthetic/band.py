"""A band for a soundfont: who is in it, what they play of a song's plan, and through which effects."""

from collections.abc import Sequence

import numpy as np

from .score import BASS_LINES, KICKS, PLUCK_PATTERNS, SNARES, Plan, draw_melody
from .soundfont import BASSES, Part, Soundfont, Tone, at_rate, with_effects

BAND_VERSION = 1
"""Raised whenever a seed no longer gives the same band."""

KITS = (0, 8, 16, 24, 25, 32, 40)
PLAYERS: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    # General MIDI's programs, from 0, and ways to play them.
    "keys": ((*range(8), *range(16, 21)), ("held", "comp", "comp", "arpeggio", "melody")),
    "clean guitar": ((24, 25, 26, 27, 28), ("strum", "strum", "arpeggio", "melody")),
    "distorted guitar": ((27, 29, 30), ("power", "power", "held", "melody")),
    "strings": ((40, 41, 42, 44, 45, 46, 48, 49, 50, 51), ("held", "held", "arpeggio", "melody")),
    "brass": ((56, 57, 58, 59, 60, 61, 62, 63), ("comp", "held", "melody")),
}
RHYTHMS = (*PLUCK_PATTERNS, (0, 8), (0, 6), (0, 3, 6, 10, 12), (0, 2, 4, 7, 10, 12, 14), tuple(range(16)))
ORGANS, ELECTRIC_PIANOS, PLUCKED_STRINGS = (16, 17, 18), (4, 5), (45, 46)

SECTION = 4
"""Bars for which the same players play equally loud; drums fill the last one."""

# Percussion by General MIDI's note numbers.
KICK, RIM, SNARE, CLAP, SNARE_2, CLOSED, OPEN, CRASH, RIDE, TAMBOURINE, SHAKER = (
    36, 37, 38, 39, 40, 42, 46, 49, 51, 54, 70,
)  # fmt: skip
TOMS = (50, 48, 47, 45, 43, 41)


def play(
    plan: Plan, rng: np.random.Generator, soundfont: Soundfont, samples: int, sample_rate: int
) -> dict[str, np.ndarray]:
    """Draw a band, and let it play the plan.

    One to three players besides the drums and the bass play chords, arpeggios or a melody, of different
    families, with their own timing, loudness, place and effects. From one section of the song to the next
    they get louder or softer, and some rest.

    Returns:
        ``drums``, ``bass`` and ``other``, each ``(2, samples)`` float32, at any level, and never silent.

    Raises:
        RuntimeError: if FluidSynth or ffmpeg failed.
    """
    band = _Band(plan, rng, soundfont, samples / sample_rate)
    there = [family for family, (programs, _) in PLAYERS.items() if soundfont.programs & {*programs}]
    weights = np.array([1.5 if "guitar" in family or family == "keys" else 1.0 for family in there])
    count = min(int(rng.integers(1, 4)), len(there))
    families = rng.choice(there, count, replace=False, p=weights / weights.sum())
    stems = {"drums": band.drums(), "bass": band.bass()}
    stems["other"] = np.sum(
        [_level(band.player(str(family)), rng.uniform(-7.0, 0.0)) for family in families], axis=0
    )
    return {
        name: at_rate(_limit(stem, rng.uniform(11.0, 17.0)), samples, sample_rate)
        for name, stem in stems.items()
    }


def _level(sound: np.ndarray, decibels: float) -> np.ndarray:
    """Bring a sound to an RMS in dB."""
    return sound * np.float32(10.0 ** (decibels / 20.0) / np.sqrt(np.mean(sound**2, dtype=np.float64)))


def _limit(sound: np.ndarray, decibels: float) -> np.ndarray:
    """Round off the peaks that are further above the RMS, which else decide how loud a song can be."""
    limit = np.sqrt(np.mean(sound**2, dtype=np.float64)) * 10.0 ** (decibels / 20.0)
    return (limit * np.tanh(sound / limit)).astype(np.float32)


class _Hands:
    """How one player plays: always a little early or late, never twice the same."""

    def __init__(self, plan: Plan, rng: np.random.Generator, loudness: Sequence[float]) -> None:
        self.plan, self.rng = plan, rng
        self.loudness = loudness
        """Of each bar, 0 to 1; 0 is a rest."""
        self.velocity = rng.uniform(70.0, 112.0)
        self.late, self.loose = rng.normal(0.0, 0.005), rng.uniform(0.002, 0.009)  # seconds
        self.tones: list[Tone] = []

    def at(
        self, bar: int, sixteenth: int, length: float, pitch: int, accent: float = 1.0, delay: float = 0.0
    ) -> None:
        """Play a note of a length in sixteenths, unless the player rests in that bar."""
        self.tone(bar, self.plan.step(bar, sixteenth) + delay, length * self.plan.beat / 4, pitch, accent)

    def tone(self, bar: int, start: float, seconds: float, pitch: int, accent: float) -> None:
        """Play a note of a length in seconds, unless the player rests in that bar."""
        start = max(start + self.late + self.rng.normal(0.0, self.loose), 0.0)
        velocity = self.velocity * self.loudness[bar] * accent * self.rng.normal(1.0, 0.07)
        if self.loudness[bar]:
            self.tones.append(Tone(start, start + max(seconds, 0.03), pitch, int(np.clip(velocity, 1, 127))))


class _Band:
    def __init__(self, plan: Plan, rng: np.random.Generator, soundfont: Soundfont, seconds: float) -> None:
        self.plan, self.rng, self.soundfont, self.seconds = plan, rng, soundfont, seconds
        self.bars = len(plan.chords)
        sections = -(-self.bars // SECTION)
        self.energy = rng.uniform(0.65, 1.0, sections)
        # In one section that is whole, if there is one, everybody plays.
        self.everybody = int(rng.integers(max(self.bars // SECTION, 1)))
        self.energy[self.everybody] = 1.0
        room, damp, level = rng.uniform(0.2, 0.9), rng.uniform(0.0, 0.7), rng.uniform(0.3, 0.9)
        self.reverb = {"room-size": room, "damp": damp, "level": level, "width": rng.uniform(0.2, 1.0)}

    def hands(self, rests: float) -> _Hands:
        """A player who rests in this share of the sections."""
        plays = self.rng.random(len(self.energy)) >= rests
        plays[self.everybody] = True
        return _Hands(self.plan, self.rng, np.repeat(plays * self.energy, SECTION)[: self.bars].tolist())

    def sound(self, part: Part, chain: Sequence[str], widest: float = 1.0) -> np.ndarray:
        """Play a part, not wider than this, and send it through effects and an equaliser."""
        played = _narrow(self.soundfont.render([part], self.seconds, self.reverb), widest)
        return with_effects(played, ",".join([*chain, self._equalizer()]))

    def _equalizer(self) -> str:
        return f"bass=g={self.rng.uniform(-3, 3):.1f},treble=g={self.rng.uniform(-4, 4):.1f}"

    def one_of(self, wanted: Sequence[int], there: frozenset[int]) -> int:
        """Draw one of the instruments that are wanted and there, or, if none is, of all that are there."""
        return int(self.rng.choice(sorted(there.intersection(wanted)) or sorted(there)))

    def drums(self) -> np.ndarray:
        """A pattern for the song, with fills, ghost notes and accents."""
        rng, hands = self.rng, self.hands(0.06)
        kicks, snares = KICKS[rng.integers(len(KICKS))], SNARES[rng.integers(len(SNARES))]
        backbeat = int(rng.choice((SNARE, SNARE, SNARE, SNARE_2, SNARE_2, CLAP, RIM)))
        ghosts = rng.choice((0.0, 0.0, 0.12, 0.25))
        every = int(rng.choice((1, 2, 2, 2, 4)))
        off_beat = rng.random() < 0.2  # open hats between the beats, as in disco
        shaken = int(rng.choice((TAMBOURINE, SHAKER))) if rng.random() < 0.35 else None
        cymbals = rng.uniform(0.55, 0.95)
        rides = rng.random(len(self.energy)) < 0.3
        for bar in range(self.bars):
            fill = self._fill_from(bar)
            if bar % SECTION == 0 and rng.random() < 0.7:
                hands.at(bar, 0, 8, CRASH, cymbals)
            for k in range(16):
                if k >= fill:
                    continue
                if k in kicks or (rng.random() < 0.03 and k % 2):
                    hands.at(bar, k, 2, KICK, 1.1 if k % 8 == 0 else 0.95)
                if k in snares:
                    hands.at(bar, k, 2, backbeat, 1.1)
                elif rng.random() < ghosts:
                    hands.at(bar, k, 1, SNARE, rng.uniform(0.25, 0.45))
                if shaken is not None and k % 2 == 0:
                    hands.at(bar, k, 1, shaken, 0.8 if k % 4 else 0.6)
                if off_beat and k % 4 == 2:
                    hands.at(bar, k, 2, OPEN, cymbals)
                elif rides[bar // SECTION]:
                    if k % max(every, 2) == 0:  # it rings: sixteenths would be one noise
                        hands.at(bar, k, 1, RIDE, cymbals * (0.8 if k % 4 == 0 else rng.uniform(0.4, 0.6)))
                elif k % every == 0:
                    hat = OPEN if rng.random() < 0.05 else CLOSED
                    hands.at(bar, k, 1, hat, cymbals * (1.0 if k % 4 == 0 else rng.uniform(0.5, 0.8)))
            self._fill(hands, bar, fill)
        kit = self.one_of(KITS, self.soundfont.kits)
        part = Part(kit, drums=True, reverb=int(rng.integers(0, 50)), tones=hands.tones)
        chain = [_compressor(rng)] if rng.random() < 0.8 else []
        if rng.random() < 0.25:
            chain.append(f"volume={rng.uniform(2, 8):.1f}dB,asoftclip=type=tanh:oversample=4")
        return self.sound(part, chain)

    def _fill_from(self, bar: int) -> int:
        """The sixteenth at which a bar's fill begins; 16 is none."""
        return int(self.rng.choice((8, 10, 12, 12, 14))) if bar % SECTION == SECTION - 1 else 16

    def _fill(self, hands: _Hands, bar: int, fill: int) -> None:
        rng = self.rng
        kind = rng.integers(3)
        for k in range(fill, 16):
            done = (k - fill) / (16 - fill)
            drum = (SNARE, TOMS[int(done * len(TOMS))], int(rng.choice((SNARE, KICK, *TOMS))))[kind]
            if kind == 0 or rng.random() < 0.85:
                hands.at(bar, k, 1, drum, 0.7 + 0.4 * done)

    def bass(self) -> np.ndarray:
        """One line below the chords: roots, fifths and octaves, and steps to the next root."""
        rng, hands = self.rng, self.hands(0.08)
        steps = (*BASS_LINES, (0, 4, 8, 12), (0, 2, 3, 6, 8, 10, 11, 14))[rng.integers(len(BASS_LINES) + 2)]
        sustained = rng.uniform(0.4, 1.0)
        for bar in range(self.bars):
            root = self._root(bar, 28)
            following = self._root(min(bar + 1, self.bars - 1), 28)
            for k, end in zip(steps, (*steps[1:], 16), strict=True):
                pitch = root + int(rng.choice((0, 0, 0, 0, 7, 12))) if k else root
                if k >= 12 and following != root and rng.random() < 0.4:
                    pitch = following + int(rng.choice((-2, -1, 2)))
                hands.at(bar, k, sustained * (end - k), max(pitch, 26), 1.05 if k % 8 == 0 else 0.9)
        program = self.one_of(BASSES, self.soundfont.programs)
        chain = [_compressor(rng)]
        if rng.random() < 0.3:
            chain.append(f"volume={rng.uniform(3, 14):.1f}dB,asoftclip=type=atan:oversample=4,lowpass=f=4000")
        return self.sound(Part(program, tones=hands.tones), chain, widest=0.2)

    def _root(self, bar: int, lowest: int) -> int:
        """A bar's root in the octave from ``lowest`` on."""
        return (self.plan.degree(self.plan.chords[bar]) - lowest) % 12 + lowest

    def _notes(self, bar: int, lowest: int, count: int, degrees: Sequence[int] = (0, 2, 4)) -> list[int]:
        """The first notes of a bar's chord from ``lowest`` on."""
        classes = {self.plan.degree(self.plan.chords[bar] + degree) % 12 for degree in degrees}
        return [pitch for pitch in range(lowest, lowest + 48) if pitch % 12 in classes][:count]

    def player(self, family: str) -> np.ndarray:
        """One of the players of the chords, or of a melody."""
        rng = self.rng
        programs, ways = PLAYERS[family]
        program, way = self.one_of(programs, self.soundfont.programs), str(rng.choice(ways))
        if program in PLUCKED_STRINGS and way == "held":
            way = "arpeggio"
        rests = 0.0 if way == "melody" else 0.2  # a melody rests by itself
        if family == "distorted guitar":
            # Played twice, for the left and the right, as on most records, or once.
            twice = way != "melody" and rng.random() < 0.6
            loudness, seed = self.hands(rests).loudness, rng.integers(2**32, size=2)
            sides = []
            for side in range(1 + twice):
                # The same notes, by the same draws, but other hands.
                hands = _Hands(self.plan, np.random.default_rng([seed[0], side]), loudness)
                part = Part(program)
                self._play(way, family, part, hands, np.random.default_rng(seed[1]))
                sides.append(self.soundfont.render([part], self.seconds)[0])  # an amplifier hears one channel
            chain = [
                *_amplifier(rng, hot=True),
                *self._delay(0.5 if way == "melody" else 0.1),
                self._equalizer(),
            ]
            sound = with_effects(np.stack((sides[0], sides[-1])), ",".join(chain))
            return _spill(sound, rng.uniform(0.0, 0.5)) if twice else _pan(sound, rng.uniform(-0.7, 0.7))
        part = Part(program, pan=int(rng.integers(14, 114)), reverb=int(rng.integers(10, 110)))
        self._play(way, family, part, self.hands(rests), rng)
        chain = []
        if family == "clean guitar":
            if rng.random() < 0.4:
                chain += _amplifier(rng, hot=False)
            chain += [_compressor(rng)] if rng.random() < 0.5 else []
            part.chorus = int(rng.choice((0, 0, 60, 110)))
        elif program in ORGANS:
            chain += [f"vibrato=f={rng.uniform(0.8, 7):.2f}:d={rng.uniform(0.05, 0.2):.2f}"]
            chain += _amplifier(rng, hot=False) if rng.random() < 0.4 else []
        elif program in ELECTRIC_PIANOS:
            chain += [f"tremolo=f={rng.uniform(2, 7):.2f}:d={rng.uniform(0, 0.5):.2f}"]
            part.chorus = int(rng.choice((0, 80)))
        elif rng.random() < 0.4:
            chain += [_compressor(rng)]
        return self.sound(part, [*chain, *self._delay(0.15)])

    def _delay(self, chance: float) -> list[str]:
        """Perhaps an echo after three quarters of a beat."""
        if self.rng.random() >= chance:
            return []
        return [f"aecho=1:0.9:{750 * self.plan.beat:.0f}:{self.rng.uniform(0.15, 0.4):.2f}"]

    def _play(self, way: str, family: str, part: Part, hands: _Hands, rng: np.random.Generator) -> None:
        """Fill a part in one of the ways of `PLAYERS`."""
        rhythms = [RHYTHMS[number] for number in rng.integers(len(RHYTHMS), size=2)]
        degrees = (0, 2, 4, 6) if rng.random() < 0.25 else (0, 2, 4)
        # A guitar's chords begin at its lowest strings.
        lowest = int(rng.integers(40, 48)) if "guitar" in family else int(rng.integers(48, 62))
        if way == "melody":
            self._melody(part, hands, rng, 12 * int(rng.integers(0, 2)), "guitar" in family)
        elif way == "held":
            halves = (0, 8) if rng.random() < 0.3 else (0,)
            power = family == "distorted guitar"
            for bar in range(self.bars):
                pitches = self._power(bar) if power else self._notes(bar, lowest + 6, 4, degrees)
                for k in halves:
                    for pitch in pitches:
                        hands.at(bar, k, 15.5 / len(halves), pitch)
            swell = rng.uniform(0.0, 35.0)
            beats = np.arange(0.0, self.seconds, self.plan.beat / 2)
            curve = 120.0 - swell * (0.5 + 0.5 * np.cos(np.pi * beats / (4 * self.plan.beat)))
            part.expression = [(float(time), int(value)) for time, value in zip(beats, curve, strict=True)]
        elif way in ("comp", "strum", "power"):
            short = rng.uniform(0.3, 1.0)
            spread = rng.uniform(0.008, 0.022) if way == "strum" else 0.002
            muted = rng.uniform(0.55, 0.8)
            for bar in range(self.bars):
                pitches = (
                    self._power(bar)
                    if way == "power"
                    else self._notes(bar, lowest, 4 + (way == "strum"), degrees)
                )
                left = [self._root(bar, 36)] if family == "keys" else []
                rhythm = rhythms[bar // SECTION % 2]  # as verse and chorus have theirs
                for number, (k, end) in enumerate(zip(rhythm, (*rhythm[1:], 16), strict=True)):
                    up = way == "strum" and bool(number % 2)
                    # Chugs on the lowest string, under the hand's edge, between the chords.
                    chug = way == "power" and k % 4 and len(rhythm) > 4
                    struck = pitches[:1] if chug else pitches[:1:-1] if up else pitches
                    length = 0.7 if chug else short * (end - k)
                    accent = muted if chug else 1.0 if k % 4 == 0 else 0.8
                    for string, pitch in enumerate([*left, *struck] if k % 8 == 0 else struck):
                        hands.at(bar, k, length, pitch, accent, spread * string)
        else:  # arpeggio
            order = [[0, 1, 2, 3], [0, 2, 1, 3, 2, 1], [3, 2, 1, 0], [0, 1, 2, 3, 2, 1]][rng.integers(4)]
            every, ring = int(rng.choice((1, 2, 2))), rng.uniform(1.0, 6.0)
            for bar in range(self.bars):
                pitches = self._notes(bar, lowest + 4, 4, degrees)
                for number, k in enumerate(range(0, 16, every)):
                    hands.at(
                        bar, k, ring * every, pitches[order[number % len(order)]], 1.0 if k % 4 == 0 else 0.85
                    )
        part.tones = hands.tones

    def _power(self, bar: int) -> list[int]:
        """Root, fifth and octave on a guitar's lowest strings."""
        root = self._root(bar, 40)
        return [root, root + 7, root + 12]

    def _melody(self, part: Part, hands: _Hands, rng: np.random.Generator, higher: int, bends: bool) -> None:
        """A line like the voice's, with vibrato, into some of whose notes a guitar bends."""
        part.vibrato = int(rng.integers(0, 70))
        for note in draw_melody(self.plan, rng, True, self.seconds):
            bar = min(int(note.start / (4 * self.plan.beat)), self.bars - 1)
            hands.tone(
                bar, note.start, note.end - note.start, int(note.pitch) + higher, rng.uniform(0.8, 1.1)
            )
            if bends and rng.random() < 0.4:
                up = rng.uniform(0.06, 0.2)
                part.bends += [(note.start + up * k / 8, -1.5 * (1 - k / 8)) for k in range(9)]


def _compressor(rng: np.random.Generator) -> str:
    threshold, ratio = 10.0 ** (rng.uniform(-24.0, -10.0) / 20.0), rng.uniform(2.0, 6.0)
    return (
        f"acompressor=threshold={threshold:.4f}:ratio={ratio:.2f}:attack={rng.uniform(3, 30):.1f}"
        f":release={rng.uniform(60, 300):.0f}"
    )


def _amplifier(rng: np.random.Generator, hot: bool) -> list[str]:
    """A guitar's amplifier: without the lowest, it clips softly, and its loudspeaker takes the treble off."""
    kind = str(rng.choice(("tanh", "atan", "cubic", "alg")))
    drive = rng.uniform(16.0, 34.0) if hot else rng.uniform(0.0, 12.0)
    middle, gain = rng.uniform(400.0, 1600.0), rng.uniform(-8.0, 5.0)
    return [
        f"highpass=f={rng.uniform(70, 140):.0f}",
        f"volume={drive:.1f}dB",
        f"asoftclip=type={kind}:oversample=4",
        f"equalizer=f={middle:.0f}:width_type=o:width=1.5:g={gain:.1f}",
        f"equalizer=f=2800:width_type=o:width=1:g={rng.uniform(0, 5):.1f}",
        f"lowpass=f={rng.uniform(3800, 5500):.0f},lowpass=f=6500",
    ]


def _pan(sound: np.ndarray, pan: float) -> np.ndarray:
    """Move what is in the middle to -1, left, to 1, right, at constant power."""
    angle = 0.25 * np.pi * (1.0 + pan)
    return sound * np.array(((np.cos(angle),), (np.sin(angle),)), np.float32)


def _narrow(sound: np.ndarray, widest: float) -> np.ndarray:
    """Let the sides be at most this share of the middle, by RMS: some instruments are out of phase."""
    middle, side = (sound[0] + sound[1]) / 2, (sound[0] - sound[1]) / 2
    loud, wide = (float(np.sqrt(np.mean(part**2, dtype=np.float64))) for part in (middle, side))
    side = side * np.float32(widest * loud / wide) if wide > widest * loud else side
    return np.stack((middle + side, middle - side))


def _spill(sound: np.ndarray, share: float) -> np.ndarray:
    """Let a share of each side be heard on the other."""
    return sound + np.float32(share) * sound[::-1]
