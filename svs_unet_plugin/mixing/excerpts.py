"""Excerpts of new mixtures, drawn from songs while training: what both hosts train on.

A draw depends on the seed, the epoch and the index alone (see `draw_generator`), so that it is the same in
both hosts, in whatever process, with however many workers, and when a run is resumed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from torch.utils.data import Sampler

from svs_unet_plugin.corpora.musdb import Track
from svs_unet_plugin.stft import STFT

EXACT_SPEED = 0.3
"""Share of the excerpts whose speed stays, so that most songs are also heard as they are."""

Draw = tuple[int, int]
"""Epoch and index of an item, both ≥ 0."""

Song = Mapping[str, np.ndarray]
"""Stems by name, ``(channels, samples)`` each, at the transform's rate; arrays, which may lie in files.

A song need not have all of the stems that are mixed: a voice alone is sung to the accompaniments of others.
"""


@dataclass(frozen=True)
class Collection:
    """Songs that are drawn from alike.

    Args:
        songs: of which the longer ones are drawn more often.
        weight: of the collection beside others, > 0, whatever its size.

    Raises:
        ValueError: if the weight is out of its range.
    """

    songs: Iterable[Any]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be a number above 0, got {self.weight}")


def collected(songs: Iterable[Any]) -> list[Collection]:
    """Songs as a single collection, and collections as they are."""
    given = list(songs)
    return given if any(isinstance(some, Collection) for some in given) else [Collection(given)]


@dataclass(frozen=True)
class ExcerptSettings:
    """How mixtures are drawn.

    Args:
        excerpt_frames: length of an excerpt in frames of the STFT, ≥ 1; shorter songs are repeated.
        swap: chance in [0, 1] that the sources of an excerpt come from different songs.
        gain: the largest change of a source's level, in dB, up or down, ≥ 0.
        speed: the largest factor by which an excerpt is faster, or slower, ≥ 1.
        filtered: chance in [0, 1] that a source is heard through an equalizer and a room of its own (see
            `random_filter`), for music unlike the songs.
        silence: chance in [0, 1] that an excerpt begins or ends in silence, for songs that hold none: without
            it, a network lets everything through beside a gap.
        mono: chance in [0, 1] that an excerpt of two channels is the same in both.

    Raises:
        ValueError: if a setting is out of its range.
    """

    excerpt_frames: int = 128
    swap: float = 0.5
    gain: float = 6.0
    speed: float = 1.15
    filtered: float = 0.0
    silence: float = 0.0
    mono: float = 0.25

    def __post_init__(self) -> None:
        for name, least in (("excerpt_frames", 1), ("gain", 0), ("speed", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("swap", "filtered", "silence", "mono"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a chance in [0, 1], got {getattr(self, name)}")


def draw_generator(seed: int, draw: Draw | int) -> np.random.Generator:
    """The random numbers of a draw: the seed, the epoch and the index decide them."""
    return np.random.default_rng((seed, *as_draw(draw)))


def as_draw(item: Draw | int) -> Draw:
    """A draw; an index alone is one of epoch 0."""
    return item if isinstance(item, tuple) else (0, item)


class ExcerptMixer:
    """Mixes excerpts of songs that lie in memory or in files.

    An excerpt of a song's stems is played at another speed, which changes its pitch and tempo; or, with the
    chance ``swap``, each stem is of another song and moment and has a speed of its own. Stems that the song
    lacks always come from other songs. Each gets a gain of its own (S. Uhlich et al.: "Improving music source
    separation based on deep neural networks through data augmentation and network blending", ICASSP 2017).

    Of one channel, an excerpt is any channel of a song, or their mean. Of two, a stem in stereo is as it is,
    or the other way round, and one in mono is `placed`.

    Args:
        collections: the songs.
        names: of the stems that are mixed, the most important one first.
        stft: whose frames an excerpt fills.
        settings: how to draw.
        channels: 1 or 2.

    Raises:
        ValueError: if no song has one of the stems.
    """

    def __init__(
        self,
        collections: Sequence[Collection],
        names: Sequence[str],
        stft: STFT,
        settings: ExcerptSettings,
        channels: int = 1,
    ) -> None:
        self.names, self.stft, self.settings, self.channels = tuple(names), stft, settings, channels
        #: Of an excerpt: whole frames, and nothing beside them.
        self.samples = (settings.excerpt_frames - 1) * stft.hop_length + stft.window_length
        self.songs: list[Song] = []
        chances = []
        for collection in collections:
            songs = [{name: song[name] for name in names if name in song} for song in collection.songs]
            songs = [song for song in songs if song]
            lengths = np.array([_samples(song) for song in songs], float)
            self.songs += songs
            chances.append(collection.weight * lengths / max(lengths.sum(), 1))
        if not self.songs:
            raise ValueError("there are no songs to mix")
        every = np.concatenate(chances)
        self._chances: dict[str | None, np.ndarray] = {None: every / every.sum()}
        for name in names:
            having = every * [name in song for song in self.songs]
            if not having.any():
                raise ValueError(f"no song has {name}")
            self._chances[name] = having / having.sum()

    def digest(self) -> str:
        """The same for songs of the same stems and lengths that are drawn as often."""
        songs = [(sorted(song), _samples(song)) for song in self.songs]
        chances = self._chances[None].round(9).tolist()
        return hashlib.sha256(repr((self.names, songs, chances)).encode()).hexdigest()[:16]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """The stems of a mixture, at their gains, ``(names, channels, samples)``, float32."""
        settings = self.settings
        song = self._song(None, generator)
        together = [name for name in self.names if name in song]
        if generator.random() < settings.swap:
            together = together[:1]
        stems = self._excerpt(song, together, generator)
        for name in self.names:
            if name not in stems:
                stems |= self._excerpt(self._song(name, generator), [name], generator)
        excerpt = np.stack([self._heard(name, stems[name], generator) for name in self.names])
        if settings.silence and generator.random() < settings.silence:
            edge = int(generator.uniform(0.25, 0.75) * self.samples)
            excerpt[..., slice(edge) if generator.random() < 0.5 else slice(edge, None)] = 0
        gains = 10 ** (generator.uniform(-settings.gain, settings.gain, (len(excerpt), 1, 1)) / 20)
        excerpt *= gains.astype(np.float32)
        if self.channels == 2:
            if generator.random() < settings.mono:
                excerpt[:] = excerpt.mean(axis=1, keepdims=True)
            elif generator.random() < 0.5:
                excerpt = excerpt[:, ::-1].copy()  # torch takes no negative strides
        return excerpt

    def _song(self, name: str | None, generator: np.random.Generator) -> Song:
        """Any song, or any that has a stem of that name."""
        return self.songs[generator.choice(len(self.songs), p=self._chances[name])]

    def _speed(self, generator: np.random.Generator) -> float:
        octaves = generator.uniform(-1, 1) * math.log2(self.settings.speed)
        return 1.0 if generator.random() < EXACT_SPEED else 2**octaves

    def _excerpt(
        self, song: Song, names: Sequence[str], generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Some stems ``(channels, samples)`` of somewhere in the song."""
        speed, length = self._speed(generator), _samples(song)
        read = math.ceil(self.samples * speed) + 8  # resampling rounds the length
        start = generator.integers(max(1, length - read + 1) if read <= length else length)
        channel = generator.random()  # the same one of all stems, or their mean
        stems = {}
        for name in names:
            stem = song[name][:, :length]
            stretch = stem[:2, start : start + read]
            if stretch.shape[1] < read:
                stretch = np.tile(stem[:2], -(-(start + read) // length))[:, start : start + read]
            if self.channels == 1 and len(stretch) == 2:
                chosen = int(channel * 3)
                stretch = stretch[chosen : chosen + 1] if chosen < 2 else stretch.mean(axis=0, keepdims=True)
            if speed != 1.0:
                # Noise at -90 dB (quality MQ) is far below what a mask decides.
                stretch = soxr.resample(np.ascontiguousarray(stretch.T), speed, 1.0, quality="MQ").T
            stems[name] = np.array(stretch[:, : self.samples], np.float32)
        return stems

    def _heard(self, name: str, stem: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A stem ``(channels, samples)`` through its filter, and on its place in the stereo image."""
        if self.settings.filtered and generator.random() < self.settings.filtered:
            stem = random_filter(stem, self.stft.sample_rate, generator)
        if self.channels == 2 and len(stem) == 1:
            place = generator.choice(PLACES, p=OFTEN.get(name, OTHERS))
            stem = placed(stem[0], self.stft.sample_rate, generator, place)
        return stem


PLACES = ("middle", "side", "wide", "spread")
"""Where a signal may be in the stereo image."""

OFTEN = {"vocals": (0.8, 0.05, 0.15, 0.0)}
"""How often a stem is in each of `PLACES`; of other names than these: `OTHERS`."""

OTHERS = (0.2, 0.15, 0.25, 0.4)


def placed(signal: np.ndarray, sample_rate: int, generator: np.random.Generator, place: str) -> np.ndarray:
    """A signal somewhere in the stereo image.

    In the middle; to one side; wide, by an echo of noise that decays within 10 to 60 ms, up to as loud as the
    signal, and its opposite on the right (M. R. Schroeder: "An artificial stereophonic effect obtained from a
    single audio signal", 1958); or spread, each third of an octave in another place, as instruments are.

    Args:
        signal: ``(samples,)``.
        sample_rate: in Hz, ≥ 200.
        place: one of `PLACES`.

    Returns:
        ``(2, samples)``, float32.
    """
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    if place == "middle":
        return np.stack([signal, signal])
    if place == "side":
        return (_panned(generator.uniform(-1, 1)) * signal).astype(np.float32)
    seconds = np.arange(int(generator.uniform(0.01, 0.06) * sample_rate) + 2) / sample_rate
    size = next_fast_len(len(signal) + len(seconds), real=True)
    spectrum = rfft(signal, size)
    if place == "wide":
        echo = generator.standard_normal(len(seconds)) * 10 ** (-3 * seconds / seconds[-1])
        echo *= 10 ** (generator.uniform(-15, 0) / 20) / np.linalg.norm(echo)
        side = rfft(echo.astype(np.float32), size)
        response = np.stack([1 + side, 1 - side])
    else:
        octaves = np.arange(math.log2(60), math.log2(sample_rate / 2), 1 / 3)
        frequencies = np.log2(np.maximum(rfftfreq(size, 1 / sample_rate), 60))
        positions = generator.uniform(-1, 1, len(octaves)) * generator.uniform(0.3, 1)
        response = _panned(np.interp(frequencies, octaves, positions))
    return irfft(spectrum * response.astype(np.complex64), size)[:, : len(signal)]


def _panned(position: Any) -> np.ndarray:
    """The gains of left and right ``(2, 1)``, or ``(2, positions)``, of places from -1, left, to 1."""
    return np.minimum(1, np.stack([1 - np.atleast_1d(position), 1 + np.atleast_1d(position)]))


def random_filter(signal: np.ndarray, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """A signal through a random equalizer and a random room, at the level that it had.

    The equalizer's gains, every octave or so from 60 Hz up, have a standard deviation of 4 dB. The room's
    decay is noise that falls by 60 dB in 0.2 to 1.5 s, and lies 4 to 24 dB below the direct sound, up to
    30 ms after it (J. Moorer: "About this reverberation business", 1979).

    Args:
        signal: ``(channels, samples)``, which go through the same.
        sample_rate: in Hz, ≥ 200.

    Returns:
        ``(channels, samples)``, float32; what is silent stays silent.
    """
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    seconds = np.arange(int(generator.uniform(0.2, 1.5) * sample_rate)) / sample_rate
    decay = generator.standard_normal(len(seconds), np.float32) * 10 ** (-3 * seconds / seconds[-1])
    decay *= 10 ** (generator.uniform(-24, -4) / 20) / np.linalg.norm(decay)
    gap = int(generator.uniform(0, 0.03) * sample_rate)
    room = np.concatenate([[1.0], np.zeros(gap), decay]).astype(np.float32)

    samples = signal.shape[1]
    size = next_fast_len(samples + len(room), real=True)
    octaves = np.linspace(math.log2(60), math.log2(sample_rate / 2), 7)
    frequencies = np.maximum(rfftfreq(size, 1 / sample_rate), 60)
    equalizer = 10 ** (np.interp(np.log2(frequencies), octaves, generator.normal(0, 4, 7)) / 20)
    response = rfft(room, size) * equalizer.astype(np.float32)
    filtered = irfft(rfft(signal, size) * response, size)[:, :samples]
    return filtered * (np.linalg.norm(signal) / np.maximum(np.linalg.norm(filtered), 1e-12))


class DrawSampler(Sampler[Draw]):
    """The draws of one of several processes that train together.

    The processes' batches of one step are together the batch that a single process draws, item by item.

    Args:
        items: of an epoch, of all processes together: a multiple of ``processes``.
        rank, processes: which process this is, and how many there are.

    Raises:
        ValueError: if the items can't be shared equally.
    """

    def __init__(self, items: int, rank: int = 0, processes: int = 1) -> None:
        if items % processes:
            raise ValueError(f"{items} items can't be shared equally by {processes} processes")
        self.items, self.rank, self.processes = items, rank, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, from 0 up; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.items // self.processes

    def __iter__(self) -> Iterator[Draw]:
        return iter([(self.epoch, index) for index in range(self.rank, self.items, self.processes)])


def mapped_songs(tracks: Iterable[Track], stems: Sequence[str]) -> list[Song]:
    """Prepared tracks as songs of which nothing is in memory: what is cut from one is read then.

    Raises:
        ValueError: if a file is not 32-bit float, as `svs_unet_plugin.corpora.prepare` writes it.
    """
    return [{stem: _mapped(track.path / f"{stem}.wav").T for stem in stems} for track in tracks]


def _samples(song: Song) -> int:
    """Length of a song: that of its shortest stem."""
    return min(stem.shape[1] for stem in song.values())


def _mapped(path: Path) -> np.ndarray:
    """The samples of a WAV file, ``(samples, channels)``, left where they are: at its end."""
    info = soundfile.info(os.fsencode(path))
    if info.subtype != "FLOAT":
        raise ValueError(f"{path} should hold 32-bit float, it holds {info.subtype_info}")
    start = path.stat().st_size - 4 * info.frames * info.channels
    return np.memmap(path, "<f4", "r", start, (info.frames, info.channels))
