"""New mixtures from old songs, while training: the vocals of one song over the accompaniment of another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import soxr
import torch
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from torch import Tensor
from tqdm import tqdm

from svs_unet_plugin.nussl import compat
from svs_unet_plugin.nussl.transforms import (
    SelectSources,
    ToSampleRate,
    inference_transform,
    stft_params,
)
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.training.loss import phase_sensitive_magnitude

nussl = compat.import_nussl()

HEADROOM = 12.0
"""dB that an excerpt may lie below the largest magnitude of the song that it stands for."""

EXACT = 0.3
"""Share of the excerpts whose speed stays, so that most songs are also heard as they are."""


class Remix(nussl.datasets.BaseDataset):  # type: ignore[name-defined]
    """Excerpts of mixtures that are drawn anew each time, from songs that are kept in memory.

    An excerpt of a song's sources is played at another speed, which changes its pitch and tempo; or, with
    the chance ``swap``, each source is of another song and moment and has a speed of its own. Each gets a
    gain of its own, and their sum is the mixture (S. Uhlich et al.: "Improving music source separation based
    on deep neural networks through data augmentation and network blending", 2017). A whole batch is drawn
    and transformed at once, so that a loader need not be waited for.

    Args:
        songs: items of nussl datasets, with ``sources``, of which each channel counts as a song; or arrays
            ``(sources and others, samples)`` at the transform's rate, which may lie in files (see
            `svs_unet_plugin.mixing.scaper.mapped_songs`). Longer songs are drawn more often.
        stft: whose sample rate the songs are brought to.
        sources: what the network estimates.
        others: what else is in the mixture; drawn and swapped each by itself.
        excerpt_frames: length of an excerpt, ≥ 1; shorter songs are repeated.
        swap: chance in [0, 1] that the sources of an excerpt come from different songs.
        gain: the largest change of a source's level, in dB, up or down, ≥ 0.
        speed: the largest factor by which an excerpt is faster, or slower, ≥ 1.
        filtered: chance in [0, 1] that a source is heard through an equalizer and a room of its own (see
            `random_filter`), for music unlike the songs.
        silence: chance in [0, 1] that an excerpt begins or ends in silence, for songs that hold none: beside
            what a network never heard, it opens its masks.
        phase_sensitive: see `training_transform`.

    Raises:
        ValueError: if there are no songs, or an argument is out of its range.
    """

    def __init__(
        self,
        songs: Iterable[Any],
        stft: STFT | None = None,
        *,
        sources: Sequence[str] = ("vocals",),
        others: Sequence[str] = ("accompaniment",),
        excerpt_frames: int = 128,
        swap: float = 0.5,
        gain: float = 6.0,
        speed: float = 1.15,
        filtered: float = 0.0,
        silence: float = 0.0,
        phase_sensitive: bool = False,
    ) -> None:
        least = {"excerpt_frames": (excerpt_frames, 1), "gain": (gain, 0), "speed": (speed, 1)}
        for name, (value, lowest) in least.items():
            if value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")
        for name, chance in (("swap", swap), ("filtered", filtered), ("silence", silence)):
            if not 0 <= chance <= 1:
                raise ValueError(f"{name} must be a chance in [0, 1], got {chance}")
        self.stft = stft or STFT()
        self.excerpt_frames = excerpt_frames
        self.swap, self.gain, self.speed = swap, gain, speed
        self.filtered, self.silence = filtered, silence
        self.phase_sensitive = phase_sensitive
        self.estimated = sorted(sources)  # nussl's order
        self.names = [*self.estimated, *others]
        select, resample = SelectSources(self.names), ToSampleRate(self.stft.sample_rate)
        self.songs: list[Any] = []  # each (sources, samples), in the order of the names
        for song in tqdm(songs, desc="Songs", unit="song"):
            if not isinstance(song, dict):
                self.songs.append(song)
                continue
            signals = resample(select(song))["sources"]
            stems = np.stack([signals[name].audio_data for name in self.names])
            self.songs.extend(stems.astype(np.float32).swapaxes(0, 1))
        if not self.songs:
            raise ValueError("there are no songs to mix")
        lengths = np.array([song.shape[1] for song in self.songs])
        self.chances = lengths / lengths.sum()
        super().__init__(
            "",
            transform=inference_transform(self.stft),
            sample_rate=self.stft.sample_rate,
            stft_params=stft_params(self.stft),
            num_channels=1,
        )

    def __repr__(self) -> str:
        return (
            f"Remix(sources={self.estimated}, excerpt_frames={self.excerpt_frames}, swap={self.swap}, "
            f"gain={self.gain}, speed={self.speed}, filtered={self.filtered}, "
            f"silence={self.silence}, phase_sensitive={self.phase_sensitive})"
        )

    def get_items(self, folder: str) -> list[int]:
        return list(range(len(self.songs)))

    def process_item(self, item: int) -> dict[str, Any]:
        """One mixture as nussl's datasets have it; a loader takes `__getitems__`."""
        excerpt = self.draw(_generator())
        return {
            "mix": self._signal(excerpt.sum(axis=0)),
            "sources": {name: self._signal(row) for name, row in zip(self.names, excerpt, strict=True)},
            "metadata": {"labels": list(self.names)},
        }

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch: ``mix_magnitude (batch, frames, bins, 1)`` and ``source_magnitudes (…, sources)``.

        The indices only tell how many; which songs are in it, torch's random state decides.
        """
        generator = _generator()
        drawn = np.stack([self.draw(generator) for _ in indices])
        signals = np.concatenate([drawn.sum(axis=1, keepdims=True), drawn[:, : len(self.estimated)]], axis=1)
        spectra = torch.stft(
            torch.from_numpy(signals).flatten(0, 1),
            self.stft.window_length,
            self.stft.hop_length,
            window=torch.hann_window(self.stft.window_length),
            center=False,  # an excerpt has neighbours where a song has an edge
            return_complex=True,
        ).unflatten(0, signals.shape[:2])  # (batch, mixture and sources, bins, frames)
        mixture, sources = spectra[:, :1], spectra[:, 1:]
        magnitude = mixture.abs()
        peak = magnitude.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        peak *= torch.from_numpy(10 ** (generator.uniform(0, HEADROOM, (len(indices), 1, 1, 1)) / 20)).float()
        magnitudes = phase_sensitive_magnitude(sources, mixture) if self.phase_sensitive else sources.abs()
        return {
            "mix_magnitude": (magnitude / peak).permute(0, 3, 2, 1),
            "source_magnitudes": (magnitudes / peak).permute(0, 3, 2, 1)[..., None, :],
        }

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """The sources of a mixture, ``(sources, samples)``, at the gains that they have in it."""
        song, speed = self._song(generator), self._speed(generator)
        excerpt = self._excerpt(song, speed, generator)
        if generator.random() < self.swap:
            for row in range(1, len(excerpt)):
                other = self._song(generator)[row : row + 1]
                excerpt[row] = self._excerpt(other, self._speed(generator), generator)[0]
        for row in range(len(excerpt)):
            if self.filtered and generator.random() < self.filtered:
                excerpt[row] = random_filter(excerpt[row], self.stft.sample_rate, generator)
        if self.silence and generator.random() < self.silence:
            edge = int(generator.uniform(0.25, 0.75) * excerpt.shape[1])
            excerpt[:, slice(edge) if generator.random() < 0.5 else slice(edge, None)] = 0
        gains = 10 ** (generator.uniform(-self.gain, self.gain, (len(excerpt), 1)) / 20)
        return excerpt * gains.astype(np.float32)

    def _song(self, generator: np.random.Generator) -> Any:
        return self.songs[generator.choice(len(self.songs), p=self.chances)]

    def _speed(self, generator: np.random.Generator) -> float:
        octaves = generator.uniform(-1, 1) * math.log2(self.speed)
        return 1.0 if generator.random() < EXACT else 2**octaves

    def _excerpt(self, song: Any, speed: float, generator: np.random.Generator) -> np.ndarray:
        """``(sources, samples)`` of somewhere in the song, for `excerpt_frames` whole frames."""
        wanted = (self.excerpt_frames - 1) * self.stft.hop_length + self.stft.window_length
        read = math.ceil(wanted * speed) + 8  # resampling rounds the length
        start = generator.integers(max(1, song.shape[1] - read + 1))
        stretch = song[:, start : start + read]
        if stretch.shape[1] < read:
            start = generator.integers(song.shape[1])
            stretch = np.tile(song, -(-(start + read) // song.shape[1]))[:, start : start + read]
        if speed != 1.0:
            # Noise at -90 dB (quality MQ) is far below what a mask decides.
            stretch = soxr.resample(np.ascontiguousarray(stretch.T), speed, 1.0, quality="MQ").T
        return np.array(stretch[:, :wanted])

    def _signal(self, samples: np.ndarray) -> Any:
        return self._load_audio_from_array(samples[None])


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


def _generator() -> np.random.Generator:
    """A generator that torch's random state decides, which a loader sets in each of its processes."""
    return np.random.default_rng(int(torch.randint(2**62, ())))
