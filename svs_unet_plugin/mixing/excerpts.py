"""Excerpts of new mixtures, drawn from songs while training: what both hosts train on.

A draw depends on the seed, the epoch and the index alone (see `draw_generator`), so that it is the same in
both hosts, in whatever process, with however many workers, and when a run is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from torch.utils.data import Sampler

from svs_unet_plugin.audio import libsndfile_name
from svs_unet_plugin.corpora.musdb import Track
from svs_unet_plugin.stft import STFT

EXACT_SPEED = 0.3
"""Share of the excerpts whose speed stays, so that most songs are also heard as they are."""

Draw = tuple[int, int]
"""Epoch and index of an item, both ≥ 0."""


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
        silence: chance in [0, 1] that an excerpt begins or ends in silence, for songs that hold none: a
            network opens its masks beside what it never heard.

    Raises:
        ValueError: if a setting is out of its range.
    """

    excerpt_frames: int = 128
    swap: float = 0.5
    gain: float = 6.0
    speed: float = 1.15
    filtered: float = 0.0
    silence: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("excerpt_frames", 1), ("gain", 0), ("speed", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("swap", "filtered", "silence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a chance in [0, 1], got {getattr(self, name)}")

    @classmethod
    def pick(cls, configuration: Mapping[str, Any]) -> ExcerptSettings:
        """The settings among the keys of a configuration; other keys are left alone."""
        return cls(
            **{field.name: configuration[field.name] for field in fields(cls) if field.name in configuration}
        )


def draw_generator(seed: int, draw: Draw) -> np.random.Generator:
    """The random numbers of a draw: the seed, the epoch and the index decide them."""
    return np.random.default_rng((seed, *draw))


class ExcerptMixer:
    """Mixes excerpts of songs that lie in memory or in files.

    An excerpt of a song's sources is played at another speed, which changes its pitch and tempo; or, with the
    chance ``swap``, each source is of another song and moment and has a speed of its own. Each gets a gain
    of its own (S. Uhlich et al.: "Improving music source separation based on deep neural networks through
    data augmentation and network blending", ICASSP 2017).

    Args:
        songs: ``(sources, samples)`` each, at the transform's rate: arrays, or `MappedSong`. Longer songs are
            drawn more often.
        stft: whose frames an excerpt fills.
        settings: how to draw.

    Raises:
        ValueError: if there are no songs.
    """

    def __init__(self, songs: Sequence[Any], stft: STFT, settings: ExcerptSettings) -> None:
        if not songs:
            raise ValueError("there are no songs to mix")
        self.songs, self.stft, self.settings = songs, stft, settings
        #: Of an excerpt: whole frames, and nothing beside them.
        self.samples = (settings.excerpt_frames - 1) * stft.hop_length + stft.window_length
        lengths = np.array([song.shape[1] for song in songs])
        self._chances = lengths / lengths.sum()

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """The sources of a mixture, at their gains, ``(sources, samples)``, float32."""
        settings = self.settings
        excerpt = self._excerpt(self._song(generator), self._speed(generator), generator)
        if generator.random() < settings.swap:
            for row in range(1, len(excerpt)):
                other = self._song(generator)[row : row + 1]
                excerpt[row] = self._excerpt(other, self._speed(generator), generator)[0]
        for row in range(len(excerpt)):
            if settings.filtered and generator.random() < settings.filtered:
                excerpt[row] = random_filter(excerpt[row], self.stft.sample_rate, generator)
        if settings.silence and generator.random() < settings.silence:
            edge = int(generator.uniform(0.25, 0.75) * excerpt.shape[1])
            excerpt[:, slice(edge) if generator.random() < 0.5 else slice(edge, None)] = 0
        gains = 10 ** (generator.uniform(-settings.gain, settings.gain, (len(excerpt), 1)) / 20)
        return excerpt * gains.astype(np.float32)

    def _song(self, generator: np.random.Generator) -> Any:
        return self.songs[generator.choice(len(self.songs), p=self._chances)]

    def _speed(self, generator: np.random.Generator) -> float:
        octaves = generator.uniform(-1, 1) * math.log2(self.settings.speed)
        return 1.0 if generator.random() < EXACT_SPEED else 2**octaves

    def _excerpt(self, song: Any, speed: float, generator: np.random.Generator) -> np.ndarray:
        """``(sources, samples)`` of somewhere in the song."""
        read = math.ceil(self.samples * speed) + 8  # resampling rounds the length
        start = generator.integers(max(1, song.shape[1] - read + 1))
        stretch = song[:, start : start + read]
        if stretch.shape[1] < read:
            start = generator.integers(song.shape[1])
            stretch = np.tile(song, -(-(start + read) // song.shape[1]))[:, start : start + read]
        if speed != 1.0:
            # Noise at -90 dB (quality MQ) is far below what a mask decides.
            stretch = soxr.resample(np.ascontiguousarray(stretch.T), speed, 1.0, quality="MQ").T
        return np.array(stretch[:, : self.samples])


def random_filter(signal: np.ndarray, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """A signal through a random equalizer and a random room, at the level that it had.

    The equalizer's gains, every octave or so from 60 Hz up, have a standard deviation of 4 dB. The room's
    decay is noise that falls by 60 dB in 0.2 to 1.5 s, and lies 4 to 24 dB below the direct sound, up to
    30 ms after it (J. Moorer: "About this reverberation business", 1979).

    Args:
        signal: ``(samples,)``.
        sample_rate: in Hz, ≥ 200.

    Returns:
        ``(samples,)``, float32; what is silent stays silent.
    """
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    seconds = np.arange(int(generator.uniform(0.2, 1.5) * sample_rate)) / sample_rate
    decay = generator.standard_normal(len(seconds), np.float32) * 10 ** (-3 * seconds / seconds[-1])
    decay *= 10 ** (generator.uniform(-24, -4) / 20) / np.linalg.norm(decay)
    gap = int(generator.uniform(0, 0.03) * sample_rate)
    room = np.concatenate([[1.0], np.zeros(gap), decay]).astype(np.float32)

    size = next_fast_len(len(signal) + len(room), real=True)
    octaves = np.linspace(math.log2(60), math.log2(sample_rate / 2), 7)
    frequencies = np.maximum(rfftfreq(size, 1 / sample_rate), 60)
    equalizer = 10 ** (np.interp(np.log2(frequencies), octaves, generator.normal(0, 4, 7)) / 20)
    response = rfft(room, size) * equalizer.astype(np.float32)
    filtered = irfft(rfft(signal, size) * response, size)[: len(signal)]
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


class MappedSong:
    """One channel of a prepared song, ``(sources, samples)`` like an array, of which nothing is in memory.

    What is cut from it, ``song[:, start:end]``, is read from the files then, and is an array.

    Args:
        rows: the samples of each source, in files.
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


def mapped_songs(tracks: Iterable[Track], stems: Sequence[str]) -> list[MappedSong]:
    """Every channel of prepared tracks, to be read where and when it is used.

    Raises:
        ValueError: if a file is not 32-bit float, as `svs_unet_plugin.corpora.prepare` writes it.
    """
    songs = []
    for track in tracks:
        files = [_mapped(track.path / f"{stem}.wav") for stem in stems]
        songs += [MappedSong([file[:, channel] for file in files]) for channel in range(files[0].shape[1])]
    return songs


def _mapped(path: Path) -> np.ndarray:
    """The samples of a WAV file, ``(samples, channels)``, left where they are: at its end."""
    info = soundfile.info(libsndfile_name(path))
    if info.subtype != "FLOAT":
        raise ValueError(f"{path} should hold 32-bit float, it holds {info.subtype_info}")
    start = path.stat().st_size - 4 * info.frames * info.channels
    return np.memmap(path, "<f4", "r", start, (info.frames, info.channels))
